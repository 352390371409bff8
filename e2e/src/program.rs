//! The operators' program, as a person runs it.

use std::io;
use std::process::Command;

use cli::stack::State;

/// What `plant-gateway` ends with and says, run with these arguments on the stack.
///
/// # Errors
/// It cannot be run.
pub fn gateway(state: &State, arguments: &[&str]) -> io::Result<(Option<i32>, String)> {
    let test = std::env::current_exe()?;
    // Test executables are one directory deeper.
    let folder = test.ancestors().nth(2).ok_or_else(|| io::Error::other("the test is not in a build directory"))?;
    let mut command = Command::new(folder.join("plant-gateway"));
    command.args(arguments).arg("--state").arg(state.run_dir.join("state.json")).env_remove("DATABASE_URL");
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.code(), said))
}
