//! Commands that work on the database itself, by the control plane's own program: by its code and under its locks.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// The program beside this one, else the one on `PATH`, told where the database is. The URL goes by the environment: a command line is
/// everybody's to read.
pub(super) fn control_plane(database_url: OsString) -> (PathBuf, Command) {
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name("control-plane")).filter(|program| program.is_file());
    let program = beside.unwrap_or_else(|| PathBuf::from("control-plane"));
    let mut command = Command::new(&program);
    if inherited_url().as_ref() != Some(&database_url) {
        // It is for the inherited URL, and would replace the password of this one.
        command.env_remove("DATABASE_PASSWORD_FILE");
    }
    command.env("DATABASE_URL", database_url);
    (program, command)
}

/// `DATABASE_URL`, if it says something.
pub(super) fn inherited_url() -> Option<OsString> {
    std::env::var_os("DATABASE_URL").filter(|url| !url.is_empty())
}
