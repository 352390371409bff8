//! `plant-gateway audit verify`: by the control plane's program, from the database itself.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::AuditError;
use crate::commands::admin_api::{Connection, Format, shown};
use crate::commands::store_program::{control_plane, inherited_url};
use crate::stack::State;

/// Arguments of `audit verify`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A file of checkpoints that was kept outside the database [default: that of the running stack].
    #[arg(long, value_name = "FILE", requires = "key")]
    checkpoints: Option<PathBuf>,
    /// A public key that checkpoints are signed with, in PEM; may be repeated [default: that of the running stack].
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, connection: &Connection) -> Result<(), AuditError> {
    let inherited = inherited_url();
    // Another database's checkpoints would be those of another log.
    let stack = if inherited.is_none() { State::read(&connection.state).ok() } else { None };
    let of_stack = || stack.as_ref().map(|stack| OsString::from(&stack.database_url));
    let database_url = inherited.clone().or_else(of_stack).ok_or(AuditError::NoDatabase)?;
    let (mut checkpoints, mut keys) = (arguments.checkpoints.clone(), arguments.key.clone());
    if let (Some(stack), true) = (&stack, keys.is_empty()) {
        checkpoints = Some(stack.audit_checkpoints.clone()).filter(|path| path.exists());
        keys.push(stack.audit_key.clone());
    }
    let (program, mut command) = control_plane(database_url);
    command.arg("verify");
    for (option, path) in checkpoints.iter().map(|path| ("--checkpoints", path)).chain(keys.iter().map(|path| ("--key", path))) {
        command.arg(option).arg(path);
    }
    let output = command.output().map_err(|source| AuditError::Program { program, source })?;
    let Ok(report) = serde_json::from_slice::<Value>(&output.stdout) else {
        return Err(AuditError::NotVerified(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    };
    match connection.format {
        Format::Json => println!("{report}"),
        Format::Text => told(&report).iter().for_each(|line| println!("{line}")),
    }
    if output.status.success() { Ok(()) } else { Err(AuditError::Tampered) }
}

fn told(report: &Value) -> Vec<String> {
    let of = |member| shown(report, member);
    let read = format!("{} records in {} chains, held against {} signed checkpoints", of("records"), of("chains"), of("checkpoints"));
    let restores = report.get("restores").and_then(Value::as_u64).unwrap_or(0);
    let restored =
        (restores > 0).then(|| format!("backups were restored {restores} times, signed for: what was lost by that is no finding"));
    let findings = report.get("findings").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if findings.is_empty() {
        let whole = if report.get("checkpoints").and_then(Value::as_u64).unwrap_or(0) > 0 {
            "every record is as it was written"
        } else {
            "every record agrees with its chain; nothing signed was read, so whoever can write the database could have made all of it anew"
        };
        return vec![read, whole.to_owned()].into_iter().chain(restored).collect();
    }
    std::iter::once(read).chain(findings.iter().map(finding)).collect()
}

fn finding(finding: &Value) -> String {
    let of = |member| shown(finding, member);
    let wrong = match finding.get("wrong").and_then(Value::as_str).unwrap_or_default() {
        "broken" => "does not follow from the one before it: it was changed, or one before it was taken out or put in",
        "repeated" => "is there twice",
        "cut_off" => "and what follows it is missing",
        "unaccounted" => "was put in: nothing accounts for it",
        "forked" => "is not the one that was signed for",
        "bad_checkpoint" => "is no checkpoint, or not signed by a trusted key",
        "checkpoints_broken" => "does not follow from the checkpoint before it",
        "checkpoints_forked" => "the database has other checkpoints than were exported",
        other => other,
    };
    match (finding.get("record"), finding.get("checkpoint")) {
        (Some(Value::String(_)), Some(Value::Null) | None) => format!("{} record {} {wrong}", of("gateway"), of("record")),
        (Some(Value::String(_)), Some(_)) => {
            format!("{} record {} {wrong} (checkpoint {}; good up to {})", of("gateway"), of("record"), of("checkpoint"), of("good_up_to"))
        }
        (_, Some(Value::Null) | None) => wrong.to_owned(),
        (_, Some(_)) => format!("checkpoint {} {wrong}", of("checkpoint")),
    }
}
