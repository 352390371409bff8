//! From a folder to what is in force, and back: publish, shadow, activate, roll back, and what became of it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Value, json};

use super::{POLICIES, PolicyError, print, source};
use crate::commands::admin_api::{Connection, shown};
use crate::commands::store_program;
use crate::demo::http::Ask;

/// Arguments of `policy publish`.
#[derive(Debug, Args)]
pub(super) struct Publish {
    /// The folder of the policy.
    #[arg(default_value = POLICIES)]
    folder: PathBuf,
    /// Why.
    #[arg(long)]
    reason: String,
}

pub(super) fn publish(arguments: &Publish, connection: &Connection) -> Result<(), PolicyError> {
    // What is wrong is said here, with its place, before anything is sent.
    let files = source::candidate(&arguments.folder)?.files;
    let body = json!({"files": files, "reason": arguments.reason});
    let answer = source::ask(connection, Ask::post("/admin/v1/policies").json(&body))?;
    print::answer(connection.format, &answer, |answer| {
        let revision = shown(answer, "revision");
        format!("published revision {revision}; put it in force with `plant-gateway policy activate {revision} --reason …`")
    });
    Ok(())
}

/// Arguments of `policy activate`.
#[derive(Debug, Args)]
pub(super) struct Activate {
    /// The number of the revision.
    revision: u64,
    /// Why.
    #[arg(long)]
    reason: String,
    /// Only if this activation is still in force.
    #[arg(long, value_name = "ACTIVATION")]
    expect: Option<u64>,
}

pub(super) fn activate(arguments: &Activate, connection: &Connection) -> Result<(), PolicyError> {
    let body = with_expected(json!({"reason": arguments.reason}), arguments.expect);
    let path = format!("/admin/v1/policies/{}/activation", arguments.revision);
    let answer = source::ask(connection, Ask::post(&path).json(&body))?;
    print::answer(connection.format, &answer, in_force);
    Ok(())
}

fn with_expected(mut body: Value, expected: Option<u64>) -> Value {
    if let (Some(object), Some(expected)) = (body.as_object_mut(), expected) {
        object.insert("expected_activation".to_owned(), json!(expected));
    }
    body
}

fn in_force(answer: &Value) -> String {
    format!("activation {}: revision {} is in force", shown(answer, "activation"), shown(answer, "revision"))
}

/// Arguments of `policy rollback`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("database").multiple(true).conflicts_with("expect")))]
pub(super) struct Rollback {
    /// Why.
    #[arg(long)]
    reason: String,
    /// Only if this activation is still in force.
    #[arg(long, value_name = "ACTIVATION")]
    expect: Option<u64>,
    /// The way back when the admin API is out of reach: directly in the database that `DATABASE_URL` names, audited.
    #[arg(long, group = "database")]
    break_glass: bool,
    /// The same in this database. Everybody on the machine can read a command line: a URL with a password belongs in `DATABASE_URL`.
    #[arg(long, value_name = "URL", group = "database")]
    database_url: Option<String>,
    /// The revision to go back to, with --break-glass [default: the one that was in force before].
    #[arg(long, value_name = "REVISION", requires = "database")]
    to: Option<u64>,
}

pub(super) fn rollback(arguments: &Rollback, connection: &Connection) -> Result<(), PolicyError> {
    // Not by `DATABASE_URL` alone, which may be set for another purpose.
    if arguments.break_glass || arguments.database_url.is_some() {
        return break_glass(arguments, connection);
    }
    let body = with_expected(json!({"reason": arguments.reason}), arguments.expect);
    let answer = source::ask(connection, Ask::post("/admin/v1/policies/rollback").json(&body))?;
    print::answer(connection.format, &answer, in_force);
    Ok(())
}

fn break_glass(arguments: &Rollback, connection: &Connection) -> Result<(), PolicyError> {
    let Some(database_url) = arguments.database_url.clone().map(OsString::from).or_else(store_program::inherited_url) else {
        return Err(PolicyError::Usage(
            "--break-glass needs the database: set DATABASE_URL to postgres://user:password@host:port/database".into(),
        ));
    };
    let (program, mut command) = store_program::control_plane(database_url);
    command.args(["rollback", "--reason", &arguments.reason]);
    if let Some(revision) = arguments.to {
        command.args(["--to", &revision.to_string()]);
    }
    let output = command.output().map_err(|source| PolicyError::Unreadable { path: program, source })?;
    if !output.status.success() {
        return Err(PolicyError::BreakGlass(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    print::answer(connection.format, &answer, in_force);
    Ok(())
}

/// `policy shadow`.
#[derive(Debug, Subcommand)]
pub(super) enum Shadow {
    /// Begin: the revision is evaluated beside the active one, and decides nothing.
    Start {
        /// The number of the revision.
        revision: u64,
        /// Why.
        #[arg(long)]
        reason: String,
        /// For how many seconds [default: until it is ended].
        #[arg(long, value_name = "SECONDS")]
        duration: Option<u64>,
    },
    /// End it.
    End {
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// Show what would change.
    Report,
}

pub(super) fn shadow(action: &Shadow, connection: &Connection) -> Result<(), PolicyError> {
    const SHADOW: &str = "/admin/v1/policies/shadow";
    let (ask, words): (Ask, fn(&Value) -> String) = match action {
        Shadow::Start { revision, reason, duration } => {
            let mut body = json!({"revision": revision, "reason": reason});
            if let (Some(object), Some(duration)) = (body.as_object_mut(), duration) {
                object.insert("duration_s".to_owned(), json!(duration));
            }
            (Ask::post(SHADOW).json(&body), |_answer| "the shadow begins; see `plant-gateway policy shadow report`".to_owned())
        }
        Shadow::End { reason } => {
            (Ask::post(&format!("{SHADOW}/end")).json(&json!({"reason": reason})), |_answer| "the shadow has ended".to_owned())
        }
        Shadow::Report => (Ask::get(SHADOW), report),
    };
    let answer = source::ask(connection, ask)?;
    print::answer(connection.format, &answer, words);
    Ok(())
}

fn report(answer: &Value) -> String {
    let of = |member| shown(answer, member);
    let running = if answer.get("running") == Some(&Value::Bool(true)) { "running" } else { "ended" };
    let mut text = format!("revision {} beside {}, {running} since {}\n", of("revision"), of("active_revision"), of("began_at"));
    text.push_str(&format!("{}\n", of("summary")));
    for difference in answer.get("differences").and_then(Value::as_array).into_iter().flatten() {
        let of = |member| shown(difference, member);
        text.push_str(&format!("  {} x {} on {}: {} -> {}\n", of("count"), of("check"), of("route"), of("active"), of("shadow")));
    }
    text
}

/// Arguments of `policy history`.
#[derive(Debug, Args)]
pub(super) struct History {
    /// At most so many.
    #[arg(long, default_value_t = 20)]
    limit: u32,
}

pub(super) fn history(arguments: &History, connection: &Connection) -> Result<(), PolicyError> {
    let answer = source::ask(connection, Ask::get(&format!("/admin/v1/policies/activations?limit={}", arguments.limit)))?;
    print::answer(connection.format, &answer, |answer| {
        let line = |entry: &Value| {
            let of = |member| shown(entry, member);
            let back = if entry.get("rollback") == Some(&Value::Bool(true)) { ", a rollback" } else { "" };
            format!("{} revision {} {} by {}{back}: {}\n", of("activation"), of("revision"), of("activated_at"), of("author"), of("reason"))
        };
        print::entries(answer, "activations").into_iter().map(line).collect()
    });
    Ok(())
}

pub(super) fn enforcement(connection: &Connection) -> Result<(), PolicyError> {
    let answer = source::ask(connection, Ask::get("/admin/v1/policies/enforcement"))?;
    print::answer(connection.format, &answer, |answer| {
        let mut text = format!("{}\n", shown(answer, "summary"));
        for worker in answer.get("lagging").and_then(Value::as_array).into_iter().flatten() {
            let of = |member| shown(worker, member);
            text.push_str(&format!(
                "  {} of {} has activation {}, last seen {}\n",
                of("holder"),
                of("envoy_id"),
                of("activation"),
                of("last_seen_at")
            ));
        }
        for finding in answer.get("findings").and_then(Value::as_array).into_iter().flatten() {
            text.push_str(&format!("  {}\n", shown(finding, "message")));
        }
        text
    });
    Ok(())
}

/// Arguments of `policy rules`.
#[derive(Debug, Args)]
pub(super) struct Rules {
    /// Only those that have not matched for so many days.
    #[arg(long, value_name = "DAYS")]
    unmatched_for_days: Option<u32>,
}

pub(super) fn rules(arguments: &Rules, connection: &Connection) -> Result<(), PolicyError> {
    let query = arguments.unmatched_for_days.map_or_else(String::new, |days| format!("?unmatched_for_days={days}"));
    let answer = source::ask(connection, Ask::get(&format!("/admin/v1/policies/rules{query}")))?;
    print::answer(connection.format, &answer, |answer| {
        let line = |rule: &Value| {
            let hits = rule.get("hits").and_then(Value::as_object).map_or(0, |hits| hits.values().filter_map(Value::as_i64).sum::<i64>());
            format!("{} {}: {hits} matches, last {}\n", shown(rule, "kind"), shown(rule, "rule"), shown(rule, "last_match_at"))
        };
        print::entries(answer, "rules").into_iter().map(line).collect()
    });
    Ok(())
}
