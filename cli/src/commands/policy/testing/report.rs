//! What `policy test` prints.

use authoring::coverage::Coverage;
use authoring::opa::Generation;
use authoring::oracle::{Difference, Says};
use authoring::rules::GateReport;
use serde_json::{Value, json};

use super::{Failure, Opinion, Outcome};

/// How many bodies of custom rules the tests reach, in percent, rounded down.
pub(super) fn percent(report: &GateReport) -> usize {
    reached(report).saturating_mul(100).checked_div(report.bodies).unwrap_or(100)
}

fn reached(report: &GateReport) -> usize {
    report.bodies.saturating_sub(report.unreached.len())
}

fn passed(outcome: &Outcome) -> usize {
    outcome.cases.saturating_add(outcome.tests).saturating_sub(outcome.failures.len())
}

pub(super) fn as_json(outcome: &Outcome) -> Value {
    let failure = |Failure { file, name, difference }: &Failure| json!({"file": file, "case": name, "difference": difference});
    let failures: Vec<Value> = outcome.failures.iter().map(failure).collect();
    let coverage = outcome.coverage.as_ref().map(|coverage| {
        let missing: Vec<String> = coverage.missing().iter().map(ToString::to_string).collect();
        let kinds: Vec<Value> =
            coverage.by_kind().iter().map(|(kind, (reached, all))| json!({"kind": kind, "covered": reached, "total": all})).collect();
        json!({"percent": coverage.percent(), "kinds": kinds, "missing": missing})
    });
    let rules = outcome
        .bodies
        .as_ref()
        .map(|report| json!({"percent": percent(report), "covered": reached(report), "total": report.bodies, "missing": report.unreached}));
    json!({
        "passed": passed(outcome), "failed": failures.len(), "cases": outcome.cases, "tests": outcome.tests, "failures": failures,
        "coverage": coverage, "rules": rules, "oracles": outcome.oracles.iter().map(opinion_json).collect::<Vec<_>>(),
    })
}

fn opinion_json(opinion: &Opinion) -> Value {
    let Opinion { folder, set, report } = opinion;
    let failed: Vec<String> = set.tests.iter().filter_map(|test| Some(test.fault()?.to_string())).collect();
    let mut value = json!({
        "folder": folder.display().to_string(), "generation": set.generation, "form": set.grants.form(),
        "tests": {"run": set.tests.len(), "failed": failed},
    });
    if let (Some(object), Ok(Value::Object(report))) = (value.as_object_mut(), serde_json::to_value(report)) {
        object.extend(report);
    }
    value
}

pub(super) fn as_text(outcome: &Outcome, list_chosen: bool) -> String {
    let mut text = String::new();
    for Failure { file, name, difference } in &outcome.failures {
        text.push_str(&format!("{file}: {name}: {difference}\n"));
    }
    text.push_str(&format!("{} passed, {} failed\n", passed(outcome), outcome.failures.len()));
    outcome.coverage.iter().for_each(|coverage| text.push_str(&covered(coverage)));
    if let Some(report) = &outcome.bodies {
        let tests = outcome.tests;
        text.push_str(&format!("custom rules: {tests} tests reach {} of {} bodies\n", reached(report), report.bodies));
        for body in &report.unreached {
            text.push_str(&format!("  without a test: {}:{}: {}\n", body.file, body.line, body.rule));
        }
    }
    outcome.oracles.iter().for_each(|opinion| text.push_str(&opinion_text(opinion, list_chosen)));
    text
}

fn covered(coverage: &Coverage) -> String {
    let kinds: Vec<String> = coverage.by_kind().iter().map(|(kind, (reached, all))| format!("{reached} of {all} {kind}")).collect();
    let mut text = format!("covered: {} %: {}\n", coverage.percent(), kinds.join(", "));
    for part in coverage.missing() {
        text.push_str(&format!("  without a case: {part}\n"));
    }
    text
}

fn opinion_text(opinion: &Opinion, list_chosen: bool) -> String {
    let Opinion { folder, set, report } = opinion;
    let faults: Vec<_> = set.tests.iter().filter_map(authoring::rules::TestRun::fault).collect();
    let rego = match set.generation {
        Generation::V0 => "Rego v0",
        Generation::V1 => "Rego v1",
    };
    let (passed, all) = (set.tests.len().saturating_sub(faults.len()), set.tests.len());
    let form = set.grants.form();
    let mut text = format!("\noracle {}: {form}, {rego}; {passed} of {all} of its own tests pass\n", folder.display());
    faults.iter().for_each(|fault| text.push_str(&format!("  {fault}\n")));
    for (rule, count) in &report.rules {
        text.push_str(&format!(
            "  {rule}: {} answers about {} cases: {} agree, {} differ as chosen, {} differ unexpectedly\n",
            count.judged, count.cases, count.agreed, count.chosen, count.unexpected
        ));
    }
    let unjudged: usize = report.unjudged.values().sum();
    text.push_str(&format!("  {} cases are judged by some rule, {unjudged} by none:\n", report.judged_cases));
    report.unjudged.iter().for_each(|(why, count)| text.push_str(&format!("    {count} {why}\n")));
    for choice in report.chosen.chunk_by(|one, other| (&one.rule, &one.chosen) == (&other.rule, &other.chosen)) {
        let Some(Difference { rule, policy, oracle, chosen, .. }) = choice.first() else { continue };
        let (times, why) = (choice.len(), chosen.as_deref().unwrap_or_default());
        text.push_str(&format!("  chosen, {times} times: we {}, {rule} says {}: {why}\n", word(*policy), word(*oracle)));
        choice.iter().filter(|_| list_chosen).for_each(|difference| text.push_str(&line(difference)));
    }
    if !report.unexpected.is_empty() {
        text.push_str("  unexpectedly:\n");
        report.unexpected.iter().for_each(|difference| text.push_str(&line(difference)));
    }
    report.failures.iter().for_each(|failure| text.push_str(&format!("  {failure}\n")));
    report.stale.iter().for_each(|stale| text.push_str(&format!("  expected in vain: {stale}\n")));
    text
}

fn line(difference: &Difference) -> String {
    let Difference { file, case, rule, situation, policy, oracle, why, chosen: _ } = difference;
    let why = why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
    format!("    {file}: {case}{}: we {}, {rule} says {}{why}\n", situation.words(), word(*policy), word(*oracle))
}

const fn word(says: Says) -> &'static str {
    match says {
        Says::Allow => "allow",
        Says::Deny => "deny",
        Says::Sandbox => "sandbox",
        Says::Production => "production",
    }
}
