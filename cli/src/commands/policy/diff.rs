//! `plant-gateway policy diff`: two policies as text and as changed decisions, by the code that decides.

use authoring::diff::{self, Change, Comparison, Side};
use authoring::evaluate::Candidate;
use clap::Args;
use serde_json::{Value, json};

use super::{PolicyError, print, source};
use crate::commands::admin_api::{Connection, Format};

/// Arguments of `policy diff`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A folder, the number of a revision, or `active`.
    from: String,
    /// The same.
    to: String,
}

pub(super) fn run(arguments: &Arguments, connection: &Connection) -> Result<(), PolicyError> {
    let files = |named| source::files_of(named, connection);
    let (from, to) = (source::compiled(files(&arguments.from)?)?, source::compiled(files(&arguments.to)?)?);
    let text = diff::text(&from.files, &to.files);
    let comparison = diff::decisions(&side(&from), &side(&to));
    match connection.format {
        Format::Json => print::json(&as_json(arguments, &text, &comparison)),
        Format::Text => print::text(&format!("{text}{}", words(&comparison))),
    }
    if text.is_empty() && comparison.changed == 0 { Ok(()) } else { Err(PolicyError::Different) }
}

fn side(candidate: &Candidate) -> Side<'_> {
    Side { document: &candidate.document, compiled: &candidate.bundle.policy }
}

/// As the control plane says it.
fn as_json(arguments: &Arguments, text: &str, comparison: &Comparison) -> Value {
    let decision = |change: &Change| {
        let Change { gateway, from, to, endpoints, endpoint_count, callers, caller_count } = change;
        json!({
            "gateway": gateway.name(), "from": from, "to": to, "endpoints": endpoints, "endpoint_count": endpoint_count,
            "callers": callers, "caller_count": caller_count,
        })
    };
    let Comparison { changes, compared, changed, truncated, summary } = comparison;
    json!({
        "from": arguments.from, "to": arguments.to, "summary": summary, "text": text,
        "decisions": changes.iter().map(decision).collect::<Vec<_>>(), "compared": compared, "changed": changed, "truncated": truncated,
    })
}

/// One paragraph for each group of changes.
fn words(comparison: &Comparison) -> String {
    let mut text = format!("{}\n", comparison.summary);
    for Change { gateway, from, to, endpoints, endpoint_count, callers, caller_count } in &comparison.changes {
        text.push_str(&format!("  {}: {from} -> {to}\n", gateway.name()));
        text.push_str(&format!("    {}\n    for {}\n", listed(endpoints, *endpoint_count), listed(callers, *caller_count)));
    }
    text
}

fn listed(names: &[String], count: usize) -> String {
    match count.saturating_sub(names.len()) {
        0 => names.join("; "),
        more => format!("{}; and {more} more", names.join("; ")),
    }
}
