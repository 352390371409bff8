//! `plant-gateway replay`: which recorded requests another revision would decide otherwise, told by the control plane as it reads.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::{PolicyError, print};
use crate::commands::admin_api::{AdminApi, ApiCommandError, Connection, Format, block_on, shown};
use crate::commands::terminal::progress;
use crate::demo::http::Ask;

/// What to replay.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The number of a revision, or `draft:7`.
    #[arg(long, value_name = "N|draft:N")]
    revision: String,
    /// Requests from this time on: an age such as 90m, 36h or 7d, or a time in RFC 3339.
    #[arg(long, value_name = "AGE|TIME", value_parser = moment)]
    since: OffsetDateTime,
    /// Before this time, likewise [default: now].
    #[arg(long, value_name = "AGE|TIME", value_parser = moment)]
    until: Option<OffsetDateTime>,
    /// Requests of one gateway.
    #[arg(long, value_name = "CP|PP|PLANT|ADMIN")]
    gateway: Option<String>,
    /// What ends with exit code 1.
    #[arg(long, value_enum, default_value_t = FailOn::Different)]
    fail_on: FailOn,
}

/// Arguments of `replay`.
#[derive(Debug, Args)]
pub struct Remote {
    #[command(flatten)]
    pub(super) connection: Connection,
    #[command(flatten)]
    pub(super) replayed: Arguments,
}

/// What counts as a difference for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// A request that would be decided otherwise.
    Different,
    /// That, or one of which it cannot be told.
    Undecidable,
    /// Nothing.
    Never,
}

/// An age, or a time.
fn moment(text: &str) -> Result<OffsetDateTime, String> {
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(at);
    }
    let wrong = || "not an age such as 7d, 36h or 90m, or a time such as 2026-01-15T12:00:00Z".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let count: i64 = text.strip_suffix(unit).and_then(|count| count.parse().ok()).filter(|count| *count >= 0).ok_or_else(wrong)?;
    let age = count.checked_mul(seconds).map(Duration::seconds).ok_or_else(wrong)?;
    OffsetDateTime::now_utc().checked_sub(age).ok_or_else(wrong)
}

pub(super) fn run(arguments: &Arguments, connection: &Connection) -> Result<(), PolicyError> {
    let time =
        |at: OffsetDateTime| at.format(&Rfc3339).map_err(|_cause| PolicyError::Usage("a time cannot be told in RFC 3339".to_owned()));
    let mut body = json!({"revision": arguments.revision, "since": time(arguments.since)?});
    if let Some(object) = body.as_object_mut() {
        let until = arguments.until.map(time).transpose()?.map(|until| ("until".to_owned(), json!(until)));
        let gateway = arguments.gateway.as_ref().map(|gateway| ("gateway".to_owned(), json!(gateway)));
        object.extend(until.into_iter().chain(gateway));
    }
    let mut api = AdminApi::open(connection)?;
    let bar = progress("{bar:40} {pos} of about {len} records, {msg}, {per_sec}, {eta} left");
    let mut summary = None;
    let mut failed = None;
    let line = |line: Value| {
        if let Some(progress) = line.get("progress") {
            let number = |member| progress.get(member).and_then(Value::as_u64).unwrap_or_default();
            bar.set_length(number("estimate"));
            bar.set_position(number("records"));
            bar.set_message(format!("{} different", number("different")));
        }
        summary = line.get("summary").cloned().or(summary.take());
        failed = line.get("error").map(|error| shown(error, "detail")).or(failed.take());
    };
    let asked = block_on(api.lines(Ask::post("/admin/v1/audit/replays").json(&body), line));
    bar.finish_and_clear();
    asked?;
    if let Some(detail) = failed {
        return Err(ApiCommandError::Refused { status: 200, detail }.into());
    }
    let summary = summary.ok_or(ApiCommandError::Unreadably("summary"))?;
    match connection.format {
        Format::Json => print::json(&summary),
        Format::Text => print::text(&words(&summary)),
    }
    let count = |member| summary.get(member).and_then(Value::as_u64).unwrap_or_default();
    let fails = match arguments.fail_on {
        FailOn::Never => false,
        FailOn::Different => count("different") > 0,
        FailOn::Undecidable => count("different") > 0 || count("undecidable") > 0,
    };
    if fails { Err(PolicyError::Different) } else { Ok(()) }
}

/// The groups by rule, and the change in spend.
fn words(summary: &Value) -> String {
    let of = |member| shown(summary, member);
    let mut text = format!(
        "{} requests under revision {} would be decided otherwise, {} as they were; of {} it cannot be told ({} records)\n",
        of("different"),
        of("revision"),
        of("same"),
        of("undecidable"),
        of("records")
    );
    let mut rule = None;
    let mut groups = print::entries(summary.get("groups").unwrap_or(&Value::Null), "groups");
    groups.sort_by_key(|group| shown(group, "rule"));
    for group in groups {
        let name = shown(group, "rule");
        if rule.as_ref() != Some(&name) {
            text.push_str(&format!("{}\n", if name == "-" { "others, which are too many" } else { &name }));
            rule = Some(name);
        }
        let [requests, aspect, before, after] = ["requests", "aspect", "before", "after"].map(|member| shown(group, member));
        text.push_str(&format!("  {requests:>10}  {aspect}: {before} -> {after}\n"));
        for example in print::entries(group.get("examples").unwrap_or(&Value::Null), "examples") {
            let [id, at, method, path, user] = ["request_id", "at", "method", "path", "user_id"].map(|member| shown(example, member));
            text.push_str(&format!("              {id} {at} {method} {path} {user}\n"));
        }
        text.push_str(&spend_words(group, "              ", false));
    }
    for why in print::entries(summary.get("undecidable_because").unwrap_or(&Value::Null), "undecidable_because") {
        text.push_str(&format!("not told: {} requests: {}\n", shown(why, "requests"), shown(why, "text")));
    }
    text.push_str(&spend_words(summary, "", true));
    text
}

fn spend_words(told: &Value, indent: &str, all: bool) -> String {
    let mut text = String::new();
    let budgets = told.get("spend").and_then(Value::as_object);
    for (budget, spend) in budgets.into_iter().flatten() {
        let change = spend.get("change").and_then(Value::as_i64).unwrap_or_default();
        if change == 0 && !all {
            continue;
        }
        let unpriced = spend.get("unpriced").and_then(Value::as_u64).filter(|unpriced| *unpriced > 0);
        let unpriced = unpriced.map_or_else(String::new, |unpriced| format!(", {unpriced} not priced anew"));
        let [recorded, replayed] = ["recorded", "replayed"].map(|member| shown(spend, member));
        text.push_str(&format!("{indent}spend {budget}: {recorded} -> {replayed} ({change:+}){unpriced}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_counted_from_now_and_a_time_is_itself() {
        let age = |text| {
            let at = moment(text).unwrap();
            (OffsetDateTime::now_utc() - at).whole_minutes()
        };
        assert_eq!((age("90m"), age("36h"), age("7d")), (90, 36 * 60, 7 * 24 * 60));
        assert_eq!(moment("2026-01-15T12:00:00Z").unwrap().unix_timestamp(), 1_768_478_400);
        for text in ["", "d", "7", "-7d", "7w", "yesterday", "9223372036854775807d", "7é"] {
            assert!(moment(text).is_err(), "{text}");
        }
    }

    #[test]
    fn groups_stand_under_their_rule_with_examples_and_what_it_costs() {
        let example = json!({"request_id": "r-1", "at": "t", "method": "GET", "path": "/a", "user_id": null});
        let group = |rule: &str, after: &str| {
            json!({"rule": rule, "aspect": "permission", "before": "ok", "after": after, "requests": 3, "examples": [example],
                   "spend": {"daily": {"recorded": 30, "replayed": 0, "change": -30, "unpriced": 0}}})
        };
        let summary = json!({
            "revision": "2", "records": 12, "same": 5, "different": 6, "undecidable": 1,
            "undecidable_because": [{"why": "state", "text": "because", "requests": 1}],
            "groups": [group("b", "x"), group("a", "y"), group("", "")],
            "spend": {"daily": {"recorded": 60, "replayed": 40, "change": -20, "unpriced": 2}},
        });
        let text = words(&summary);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "6 requests under revision 2 would be decided otherwise, 5 as they were; of 1 it cannot be told (12 records)");
        assert!(text.contains("\na\n           3  permission: ok -> y\n              r-1 t GET /a -\n"), "{text}");
        assert!(text.contains("others, which are too many"), "{text}");
        assert!(text.ends_with("not told: 1 requests: because\nspend daily: 60 -> 40 (-20), 2 not priced anew\n"), "{text}");
    }
}
