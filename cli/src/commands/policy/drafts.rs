//! `plant-gateway policy draft`: policies that are worked on together before they are published.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{POLICIES, PolicyError, print, source};
use crate::commands::admin_api::{Connection, encoded, shown};
use crate::demo::http::Ask;

const DRAFTS: &str = "/admin/v1/drafts";

/// `policy draft`.
#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Begin a draft, from a folder or from what is in force.
    Create {
        /// Its name.
        name: String,
        /// The folder with its files [default: the files of the base].
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
        /// The revision that it changes [default: the one in force].
        #[arg(long, value_name = "REVISION")]
        base: Option<u64>,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// Save a folder as the draft's files.
    Save {
        /// The draft.
        id: u64,
        /// The folder.
        #[arg(default_value = POLICIES)]
        folder: PathBuf,
        /// The version that was changed; another one meanwhile is a conflict.
        #[arg(long, value_name = "VERSION")]
        version: u64,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// List drafts.
    List,
    /// Show a draft.
    Show {
        /// The draft.
        id: u64,
    },
    /// Delete a draft.
    Delete {
        /// The draft.
        id: u64,
        /// The version that is meant.
        #[arg(long, value_name = "VERSION")]
        version: u64,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// Publish a draft as a revision.
    Publish {
        /// The draft.
        id: u64,
        /// The version that is meant.
        #[arg(long, value_name = "VERSION")]
        version: u64,
        /// Why.
        #[arg(long)]
        reason: String,
    },
}

pub(super) fn run(action: &Action, connection: &Connection) -> Result<(), PolicyError> {
    let one = |id: u64| format!("{DRAFTS}/{id}");
    let matching = |ask: Ask, version: u64| ask.header("if-match", format!("\"{version}\""));
    let (ask, words): (Ask, fn(&Value) -> String) = match action {
        Action::Create { name, from, base, reason } => {
            let mut body = json!({"name": name, "reason": reason});
            let files = from.as_deref().map(source::files).transpose()?;
            if let Some(object) = body.as_object_mut() {
                object.extend(files.map(|files| ("files".to_owned(), json!(files))));
                object.extend(base.map(|base| ("base_revision".to_owned(), json!(base))));
            }
            (Ask::post(DRAFTS).json(&body), line)
        }
        Action::Save { id, folder, version, reason } => {
            let body = json!({"files": source::files(folder)?, "reason": reason});
            (matching(Ask::new("PUT", &one(*id)), *version).json(&body), line)
        }
        Action::List => (Ask::get(DRAFTS), |answer| print::entries(answer, "drafts").into_iter().map(line).collect()),
        Action::Show { id } => (Ask::get(&one(*id)), detail),
        Action::Delete { id, version, reason } => {
            let ask = Ask::new("DELETE", &format!("{}?reason={}", one(*id), encoded(reason)));
            (matching(ask, *version), |_answer| "deleted".to_owned())
        }
        Action::Publish { id, version, reason } => {
            let ask = Ask::post(&format!("{}/publication", one(*id))).json(&json!({"reason": reason}));
            (matching(ask, *version), |answer| format!("published revision {}", shown(answer, "revision")))
        }
    };
    let answer = source::ask(connection, ask)?;
    print::answer(connection.format, &answer, words);
    Ok(())
}

/// One line for a draft; a second one says what is wrong with it.
fn line(draft: &Value) -> String {
    let of = |member| shown(draft, member);
    let mut text = format!(
        "draft {} version {}: {} on revision {} by {}: {}\n",
        of("id"),
        of("version"),
        of("name"),
        of("base_revision"),
        of("author"),
        of("reason")
    );
    if let Some(validation) = draft.get("validation").filter(|validation| validation.get("valid") == Some(&Value::Bool(false))) {
        let fault = validation.get("fault").unwrap_or(&Value::Null);
        text.push_str(&format!("  not valid: {}:{}: {}\n", shown(fault, "file"), shown(fault, "line"), shown(fault, "message")));
    }
    text
}

fn detail(draft: &Value) -> String {
    let mut text = line(draft);
    for (name, content) in draft.get("files").and_then(Value::as_object).into_iter().flatten() {
        text.push_str(&format!("--- {name}\n{}\n", content.as_str().unwrap_or_default()));
    }
    text
}
