//! `plant-gateway audit reconcile`: Envoy's access log against the audit log. Every request is a record or lies in a gap that is known.

mod access_log;
mod books;

use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::access_log::AccessLog;
use self::books::{Books, Gap, Recorded, Report};
use super::{AuditError, PATH};
use crate::commands::admin_api::{AdminApi, ApiCommandError, Connection, Format, block_on};
use crate::commands::tables::line;
use crate::commands::terminal::progress;
use crate::demo::http::Ask;

/// Arguments of `audit reconcile`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Envoy's access log; may be repeated, also with those of several Envoys.
    #[arg(long, value_name = "FILE", required = true)]
    access_log: Vec<PathBuf>,
    /// An Envoy whose log is there; may be repeated [default: those whose requests are in it].
    #[arg(long, value_name = "ID")]
    envoy: Vec<String>,
}

/// A line of the admin API's answer.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    Request(Recorded),
    Gap(Gap),
    End(End),
    Error(EarlyEnd),
}

#[derive(Deserialize)]
struct End {
    requests: u64,
    gaps: u64,
    at_us: i64,
}

#[derive(Deserialize)]
struct EarlyEnd {
    detail: String,
}

pub(super) fn run(arguments: &Arguments, connection: &Connection) -> Result<(), AuditError> {
    let report = reconcile(arguments, connection)?;
    match connection.format {
        Format::Json => println!("{}", serde_json::json!(report)),
        Format::Text => words(&report).iter().for_each(|line| println!("{line}")),
    }
    if report.agrees() { Ok(()) } else { Err(AuditError::Disagree) }
}

fn reconcile(arguments: &Arguments, connection: &Connection) -> Result<Report, AuditError> {
    let mut api = AdminApi::open(connection)?;
    let reading = progress("{bar:40} {bytes} of {total_bytes} of the access log, {eta} left");
    let log = AccessLog::read(&arguments.access_log, &reading)?;
    reading.finish_and_clear();
    let mut books = Books::open(log, &arguments.envoy);
    let (from, to) = books.span();
    let asked = line(&format!("{PATH}/requests"), &[("from", rfc3339(from)), ("to", rfc3339(to))]);
    let bar = progress("{spinner} {pos} records, {per_sec}");
    let (mut requests, mut gaps) = (0_u64, 0_u64);
    let mut ended = Err(ApiCommandError::Unreadably("end"));
    let told = block_on(api.lines(Ask::get(&asked), |told| match serde_json::from_value(told) {
        Ok(Told::Request(record)) => {
            bar.inc(1);
            requests = requests.saturating_add(1);
            books.record(record);
        }
        Ok(Told::Gap(gap)) => {
            gaps = gaps.saturating_add(1);
            books.gap(gap);
        }
        Ok(Told::End(end)) if (end.requests, end.gaps) == (requests, gaps) => ended = Ok(end.at_us),
        Ok(Told::End(_other)) => ended = Err(ApiCommandError::Unreadably("requests and gaps to their last")),
        Ok(Told::Error(EarlyEnd { detail })) => ended = Err(ApiCommandError::Refused { status: 200, detail }),
        Err(_unknown) => ended = Err(ApiCommandError::Unreadably("request")),
    }));
    bar.finish_and_clear();
    told?;
    Ok(books.close(ended?))
}

fn rfc3339(at_us: i64) -> Option<String> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_us).saturating_mul(1_000)).ok()?.format(&Rfc3339).ok()
}

fn words(report: &Report) -> Vec<String> {
    let envoys: Vec<&str> = report.envoys.iter().map(String::as_str).collect();
    let mut lines = vec![
        format!("{} lines of the access log, of {}", report.lines, if envoys.is_empty() { "nobody".to_owned() } else { envoys.join(", ") }),
        format!(
            "{} have a record, {} lie in one of {} gaps, {} are sampled out",
            report.recorded, report.in_gaps, report.gaps, report.sampled_out
        ),
    ];
    let mut tell = |count: u64, what: &str, examples: Vec<String>| {
        if count > 0 {
            lines.push(format!("{count} {what}"));
            lines.extend(examples.into_iter().map(|example| format!("  {example}")));
        }
    };
    tell(report.torn_lines, "lines were cut off by a kill", Vec::new());
    tell(report.unreadable_lines, "LINES ARE NONE OF ENVOY'S", Vec::new());
    tell(report.on_their_way, "ended less than 10 s ago and have no record yet", Vec::new());
    tell(report.cut_off, "records have no line: their worker ended within a second, before Envoy wrote it", Vec::new());
    let missing = report.missing_examples.iter().map(|line| serde_json::json!(line).to_string()).collect();
    tell(report.missing, "LINES HAVE NO RECORD, and lie in no gap", missing);
    tell(report.unlogged, "RECORDS HAVE NO LINE", report.unlogged_examples.clone());
    tell(report.duplicates, "REQUESTS HAVE MORE THAN ONE RECORD", report.duplicate_examples.iter().map(ToString::to_string).collect());
    lines.push(if report.agrees() { "the two logs agree" } else { "the two logs do not agree" }.to_owned());
    lines
}
