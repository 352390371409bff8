//! `plant-gateway policy validate`.

use std::path::PathBuf;

use authoring::PolicyFault;
use clap::Args;
use serde_json::json;

use super::{POLICIES, PolicyError, print, source};
use crate::commands::admin_api::Format;
use crate::policy;

/// Arguments of `policy validate`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The folder of the policy.
    #[arg(default_value = POLICIES)]
    folder: PathBuf,
    /// A folder with the secrets that it names: they are checked too.
    #[arg(long, value_name = "DIR")]
    secrets: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, format: Format) -> Result<(), PolicyError> {
    let candidate = source::candidate(&arguments.folder)?;
    if let Some(secrets) = &arguments.secrets {
        policy::check_secrets(&candidate.document, secrets).map_err(|error| {
            let fault = match error {
                policy::SecretFault::Bundle(error) => PolicyFault::of_bundle(&error, &candidate.files),
                policy::SecretFault::Secret { field, source } => PolicyFault::of_secret(&field, &source, &candidate.files),
                policy::SecretFault::Said(message) => PolicyFault::located(message, &candidate.files),
            };
            PolicyError::Invalid(Box::new(fault))
        })?;
    }
    let document = &candidate.document;
    let counts = [
        ("issuers", document.issuers.len()),
        ("roles", document.roles.len()),
        ("routes", document.routes.len()),
        ("budgets", document.budgets.len()),
        ("flags", document.flags.len()),
    ];
    let keys = if arguments.secrets.is_some() { "checked" } else { "not checked" };
    match format {
        Format::Json => {
            let mut answer = json!({"valid": true, "files": candidate.files.len(), "secrets": keys});
            if let Some(object) = answer.as_object_mut() {
                object.extend(counts.map(|(name, count)| (name.to_owned(), json!(count))));
            }
            print::json(&answer);
        }
        Format::Text => {
            let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
            print::text(&format!("valid: {}; secrets {keys}", counts.join(", ")));
        }
    }
    Ok(())
}
