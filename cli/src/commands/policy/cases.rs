//! `plant-gateway policy test`: the golden cases beside a policy, and what they cover of it.

use std::path::PathBuf;

use authoring::cases::{FiledCase, read_directory};
use authoring::coverage::Coverage;
use authoring::evaluate::{Candidate, compare};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::{POLICIES, PolicyError, print, source};
use crate::commands::admin_api::Format;

/// Arguments of `policy test`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The folder of the policy; its cases are in `cases` below it.
    #[arg(default_value = POLICIES)]
    folder: PathBuf,
    /// Only cases whose file or name has this text; what they cover is not looked at.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Fail if the cases reach less of the policy than this share.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    min_coverage: Option<u8>,
}

/// What came of it.
#[derive(Default)]
struct Outcome {
    passed: usize,
    failures: Vec<(String, String, String)>,
}

pub(super) fn run(arguments: &Arguments, format: Format) -> Result<(), PolicyError> {
    let mut candidate = source::candidate(&arguments.folder)?;
    let mut cases = read_directory(&arguments.folder).map_err(|fault| PolicyError::Invalid(Box::new(fault)))?;
    if let Some(filter) = &arguments.filter {
        cases.retain(|filed| filed.file.contains(filter) || filed.case.name.contains(filter));
    }
    if cases.is_empty() {
        let which = arguments.filter.as_ref().map_or_else(String::new, |filter| format!(" with `{filter}` in file or name"));
        return Err(PolicyError::Usage(format!("there is no case{which} in `{}`", arguments.folder.join("cases").display())));
    }
    let mut coverage = Coverage::of(&candidate.document, &candidate.bundle.policy, &candidate.files);
    let outcome = run_cases(&mut candidate, &cases, &mut coverage);
    let covered = arguments.filter.is_none().then_some(&coverage);
    match format {
        Format::Json => print::json(&as_json(&outcome, covered)),
        Format::Text => print::text(&as_text(&outcome, covered)),
    }
    judge(arguments, &outcome, &coverage)
}

fn run_cases(candidate: &mut Candidate, cases: &[FiledCase], coverage: &mut Coverage) -> Outcome {
    // Hidden by itself where standard error is no terminal.
    let bar = ProgressBar::with_draw_target(u64::try_from(cases.len()).ok(), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} cases") {
        bar.set_style(style);
    }
    let mut outcome = Outcome::default();
    for FiledCase { file, case } in cases {
        let evaluation = candidate.evaluate(case);
        match compare(case, &evaluation) {
            Ok(()) => outcome.passed = outcome.passed.saturating_add(1),
            Err(difference) => outcome.failures.push((file.clone(), case.name.clone(), difference)),
        }
        coverage.note(&candidate.document, &candidate.bundle.policy, case, &evaluation);
        bar.inc(1);
    }
    bar.finish_and_clear();
    outcome
}

fn judge(arguments: &Arguments, outcome: &Outcome, coverage: &Coverage) -> Result<(), PolicyError> {
    let failed = outcome.failures.len();
    if failed > 0 {
        return Err(PolicyError::Failed(format!("{failed} of {} cases failed", outcome.passed.saturating_add(failed))));
    }
    match arguments.min_coverage {
        Some(wanted) if arguments.filter.is_none() && coverage.percent() < usize::from(wanted) => {
            Err(PolicyError::Failed(format!("the cases cover {} % of the policy, not {wanted} %", coverage.percent())))
        }
        Some(_) | None => Ok(()),
    }
}

fn as_json(outcome: &Outcome, coverage: Option<&Coverage>) -> Value {
    let failures: Vec<Value> =
        outcome.failures.iter().map(|(file, case, difference)| json!({"file": file, "case": case, "difference": difference})).collect();
    let coverage = coverage.map(|coverage| {
        let missing: Vec<String> = coverage.missing().iter().map(ToString::to_string).collect();
        let kinds: Vec<Value> =
            coverage.by_kind().iter().map(|(kind, (reached, all))| json!({"kind": kind, "covered": reached, "total": all})).collect();
        json!({"percent": coverage.percent(), "kinds": kinds, "missing": missing})
    });
    json!({"passed": outcome.passed, "failed": outcome.failures.len(), "failures": failures, "coverage": coverage})
}

fn as_text(outcome: &Outcome, coverage: Option<&Coverage>) -> String {
    let mut text = String::new();
    for (file, case, difference) in &outcome.failures {
        text.push_str(&format!("{file}: {case}: {difference}\n"));
    }
    text.push_str(&format!("{} passed, {} failed\n", outcome.passed, outcome.failures.len()));
    if let Some(coverage) = coverage {
        let kinds: Vec<String> = coverage.by_kind().iter().map(|(kind, (reached, all))| format!("{reached} of {all} {kind}")).collect();
        text.push_str(&format!("covered: {} %: {}\n", coverage.percent(), kinds.join(", ")));
        for part in coverage.missing() {
            text.push_str(&format!("  without a case: {part}\n"));
        }
    }
    text
}
