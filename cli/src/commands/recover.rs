//! `plant-gateway recover`: ends the fence after a backup was restored. By the control plane's program, in the database itself.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::admin_api::{Format, shown};
use super::store_program::{control_plane, inherited_url};
use super::tables::members;
use crate::stack::State;

/// Arguments of `recover`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The checkpoints that were exported, as `AUDIT_CHECKPOINTS_FILE` has them: the longest file that there is.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// Why. It is recorded.
    #[arg(long)]
    reason: String,
    /// The key that signs checkpoints [default: that of the running stack].
    #[arg(long, value_name = "FILE", env = "AUDIT_SIGNING_KEY_FILE")]
    signing_key: Option<PathBuf>,
    /// A public key that earlier checkpoints were signed with, in PEM; may be repeated.
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// The state file of a running stack.
    #[arg(long, default_value = ".run/state.json")]
    state: PathBuf,
    /// How what was done is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// The database was not recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// No database.
    #[error("no database: set DATABASE_URL to postgres://user:password@host:port/database, or name a running stack's --state")]
    NoDatabase,
    /// No key.
    #[error("no key to sign with: name the control plane's by --signing-key or AUDIT_SIGNING_KEY_FILE")]
    NoKey,
    /// The program that does it.
    #[error("cannot run `{}`", program.display())]
    Program {
        /// Which.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It did not; nothing was changed.
    #[error("nothing was recovered: {said}")]
    Refused {
        /// What it said.
        said: String,
    },
    /// It did, and what it did cannot be read.
    #[error("the database was recovered, but what was done cannot be read")]
    Unreadable(#[source] serde_json::Error),
}

/// Does it.
///
/// # Errors
/// Nothing was changed.
pub fn run(arguments: &Arguments) -> Result<(), RecoverError> {
    let inherited = inherited_url();
    // Another database's key would sign for another log.
    let stack = if inherited.is_none() { State::read(&arguments.state).ok() } else { None };
    let of_stack = || stack.as_ref().map(|stack| OsString::from(&stack.database_url));
    let database_url = inherited.clone().or_else(of_stack).ok_or(RecoverError::NoDatabase)?;
    let key_of_stack = || stack.as_ref().map(|stack| stack.run_dir.join("audit-signing.pem"));
    let signing_key = arguments.signing_key.clone().or_else(key_of_stack).ok_or(RecoverError::NoKey)?;
    let (program, mut command) = control_plane(database_url);
    command.args(["recover", "--reason", &arguments.reason]);
    command.arg("--checkpoints").arg(&arguments.from).arg("--signing-key").arg(signing_key);
    for key in &arguments.key {
        command.arg("--key").arg(key);
    }
    let output = command.output().map_err(|source| RecoverError::Program { program, source })?;
    if !output.status.success() {
        return Err(RecoverError::Refused { said: String::from_utf8_lossy(&output.stderr).trim().to_owned() });
    }
    let done: Value = serde_json::from_slice(&output.stdout).map_err(RecoverError::Unreadable)?;
    match arguments.format {
        Format::Json => println!("{done}"),
        Format::Text => told(&done).iter().for_each(|line| println!("{line}")),
    }
    Ok(())
}

fn told(done: &Value) -> Vec<String> {
    let of = |member| shown(done, member);
    let mut lines = vec![
        format!("the backup had checkpoints up to {}; {} later ones were taken from the file", of("kept"), of("checkpoints")),
        format!("checkpoint {} says so, signed; the database is {} from now on", of("checkpoint"), of("database")),
        format!("{} holders are closed, beside those that the fence has closed", of("holders")),
        format!("{} accounts grant nothing more until their windows end", of("windows")),
        format!("{} open approvals are void", of("approvals")),
        format!("{} records that were signed for are lost, of {} chains", of("records"), members(done, "lost").len()),
    ];
    lines.extend(members(done, "lost").iter().map(|lost| {
        let of = |member| shown(lost, member);
        format!("  {} {}: after {} up to {}, {} records", of("gateway"), of("holder"), of("kept"), of("signed"), of("records"))
    }));
    if done.get("went_on").and_then(Value::as_u64).unwrap_or(0) > 0 {
        lines.push(format!("{} chains differ from what was signed: they went on after the restore, or were changed", of("went_on")));
    }
    lines.push("control planes that run end now, to be started again".to_owned());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_lost_is_told_by_chain() {
        let lost = json!([{"gateway": "CP", "holder": "h", "kept": 3, "signed": 9, "records": 6}]);
        let done = json!({"database": "d", "checkpoint": 8, "kept": 2, "checkpoints": 5, "holders": 1, "windows": 4, "approvals": 2,
            "records": 6, "lost": lost, "went_on": 0});
        let lines = told(&done).join("\n");
        assert!(lines.contains("6 records that were signed for are lost, of 1 chains\n  CP h: after 3 up to 9, 6 records\n"), "{lines}");
        assert!(!lines.contains("differ"), "{lines}");
    }
}
