//! `plant-gateway policy diff`: two policies as text and as changed decisions, by the code that decides.

use std::collections::{BTreeMap, BTreeSet};

use authoring::Files;
use authoring::matrix::{Change, changes};
use clap::Args;
use serde_json::json;
use similar::TextDiff;

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
    let text = text(&from.files, &to.files);
    let decisions = changes((&from.document, &from.bundle.policy), (&to.document, &to.bundle.policy));
    match connection.format {
        Format::Json => print::json(&json!({
            "from": arguments.from, "to": arguments.to, "text": text, "decisions": decisions, "changed": decisions.len(),
        })),
        Format::Text => print::text(&format!("{text}{}", words(&decisions))),
    }
    if text.is_empty() && decisions.is_empty() { Ok(()) } else { Err(PolicyError::Different) }
}

/// A unified diff of all files.
fn text(from: &Files, to: &Files) -> String {
    let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let mut text = String::new();
    for name in names {
        let side = |files: &Files, letter: &str| {
            files.get(name).map_or((String::new(), "/dev/null".to_owned()), |text| (text.clone(), format!("{letter}/{name}")))
        };
        let ((before, old), (after, new)) = (side(from, "a"), side(to, "b"));
        if before != after {
            text.push_str(&TextDiff::from_lines(&before, &after).unified_diff().header(&old, &new).to_string());
        }
    }
    text
}

/// One line for each request and change, with all its callers.
fn words(decisions: &[Change]) -> String {
    if decisions.is_empty() {
        return "no decision changes\n".to_owned();
    }
    let mut by_request: BTreeMap<(&str, &str, &str), Vec<&str>> = BTreeMap::new();
    for change in decisions {
        by_request.entry((&change.request, change.before, change.after)).or_default().push(&change.caller);
    }
    let mut text = format!("{} decisions change:\n", decisions.len());
    for ((request, before, after), callers) in by_request {
        text.push_str(&format!("  {request}: {} -> {}: {}\n", meaning(before), meaning(after), callers.join(", ")));
    }
    text
}

fn meaning(letter: &str) -> &'static str {
    match letter {
        "Y" => "yes",
        "A" => "with an approval",
        "S" => "in the sandbox",
        "R" => "by custom rules",
        "-" => "no such route",
        _ => "no",
    }
}
