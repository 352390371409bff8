//! `plant-gateway policy validate`: what publishing would say, and what looks like a mistake.

use std::path::PathBuf;

use authoring::PolicyFault;
use authoring::evaluate::Candidate;
use authoring::findings::findings;
use authoring::rules::GateReport;
use clap::Args;
use serde_json::{Value, json};
use wire::policy::PolicyDocument;

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

/// What the gate found in custom rules.
type Gated = Option<GateReport>;

pub(super) fn run(arguments: &Arguments, format: Format) -> Result<(), PolicyError> {
    let (candidate, gated) = source::examined(source::files(&arguments.folder)?)?;
    let gated = gated.map(GateReport::passed).transpose().map_err(|fault| PolicyError::Invalid(Box::new(fault)))?;
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
    let findings = findings(&candidate.document, &candidate.bundle.policy, &candidate.files);
    let keys = if arguments.secrets.is_some() { "checked" } else { "not checked" };
    match format {
        Format::Json => print::json(&as_json(&candidate, &gated, &findings, keys)),
        Format::Text => print::text(&as_text(&candidate, &gated, &findings, keys)),
    }
    Ok(())
}

fn counts(document: &PolicyDocument) -> [(&'static str, usize); 5] {
    [
        ("issuers", document.issuers.len()),
        ("roles", document.roles.len()),
        ("routes", document.routes.len()),
        ("budgets", document.budgets.len()),
        ("flags", document.flags.len()),
    ]
}

fn as_json(candidate: &Candidate, gated: &Gated, findings: &[PolicyFault], keys: &str) -> Value {
    let places: Vec<Value> = findings.iter().map(print::place).collect();
    let rules = gated.as_ref().map(|report| json!({"tests": report.tests.len(), "bodies": report.bodies, "unreached": report.unreached}));
    let mut answer = json!({"valid": true, "files": candidate.files.len(), "secrets": keys, "findings": places, "rules": rules});
    if let Some(object) = answer.as_object_mut() {
        object.extend(counts(&candidate.document).map(|(name, count)| (name.to_owned(), json!(count))));
    }
    answer
}

fn as_text(candidate: &Candidate, gated: &Gated, findings: &[PolicyFault], keys: &str) -> String {
    let counts: Vec<String> = counts(&candidate.document).iter().map(|(name, count)| format!("{count} {name}")).collect();
    let mut text = format!("valid: {}; secrets {keys}\n", counts.join(", "));
    if let Some(report) = gated {
        text.push_str(&format!("custom rules: {} tests pass, {} bodies\n", report.tests.len(), report.bodies));
        for body in &report.unreached {
            text.push_str(&format!("  without a test: {}:{}: {}\n", body.file, body.line, body.rule));
        }
    }
    findings.iter().for_each(|finding| text.push_str(&format!("finding: {finding}\n")));
    text
}
