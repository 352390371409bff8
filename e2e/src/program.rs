//! The operators' program, as a person runs it.

use std::io;
use std::path::PathBuf;
use std::process::Command;

use cli::stack::State;

/// Where `plant-gateway` of this build is.
///
/// # Errors
/// When our own executable cannot be found.
pub fn path() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    // Test executables are one directory deeper.
    let folder = own.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
    Ok(folder.ok_or_else(|| io::Error::other("our own executable is in no directory"))?.join("plant-gateway"))
}

/// What `plant-gateway` ends with and says, run with these arguments on the stack.
///
/// # Errors
/// It cannot be run.
pub fn gateway(state: &State, arguments: &[&str]) -> io::Result<(Option<i32>, String)> {
    let mut command = Command::new(path()?);
    command.args(arguments).arg("--state").arg(state.run_dir.join("state.json")).env_remove("DATABASE_URL");
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.code(), said))
}
