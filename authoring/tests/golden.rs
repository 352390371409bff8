//! The default policy against its golden cases and its matrix. Every case is decided twice, by the code that enforces and by
//! the code that explains, and both must say what the case wants.
#![expect(clippy::panic, reason = "a test that cannot go on has failed")]

mod default;

use authoring::cases::{FiledCase, read_directory};
use authoring::coverage::{Coverage, REASONS_OUT_OF_REACH};
use authoring::evaluate::compare;
use authoring::matrix::{example, matrix};
use decision_core::decision::DenyReason;
use decision_core::gateway::{Gateway, Method};
use std::collections::BTreeSet;
use std::fs;

fn cases() -> Vec<FiledCase> {
    read_directory(&default::folder()).unwrap_or_else(|fault| panic!("{fault}"))
}

#[test]
fn every_case_is_decided_and_explained_as_it_wants() {
    let mut candidate = default::candidate();
    let cases = cases();
    let mut failures = Vec::new();
    for FiledCase { file, case } in &cases {
        let evaluation = candidate.evaluate(case);
        if let Err(difference) = compare(case, &evaluation) {
            failures.push(format!("{file}: {}: {difference}", case.name));
        }
    }
    assert!(failures.is_empty(), "{} of {} cases failed:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
fn there_are_enough_cases() {
    let cases = cases();
    let by_envoy = cases.iter().filter(|filed| filed.case.runs_through_envoy()).count();
    println!("{} cases, {by_envoy} of them through Envoy", cases.len());
    assert!(cases.len() >= 300 && by_envoy >= 250, "{} cases, {by_envoy} of them through Envoy", cases.len());
}

#[test]
fn every_part_of_the_policy_has_a_case() {
    let mut candidate = default::candidate();
    let mut coverage = Coverage::of(&candidate.document, &candidate.bundle.policy, &candidate.files);
    for FiledCase { case, .. } in &cases() {
        let evaluation = candidate.evaluate(case);
        coverage.note(&candidate.document, &candidate.bundle.policy, case, &evaluation);
    }
    let missing: Vec<String> = coverage.missing().iter().map(ToString::to_string).collect();
    assert!(missing.is_empty(), "without a case: {}", missing.join(", "));
    assert_eq!(coverage.percent(), 100);
    let codes: BTreeSet<&str> = DenyReason::codes().collect();
    for (code, _) in REASONS_OUT_OF_REACH {
        assert!(codes.contains(code), "there is no reason `{code}` any more");
    }
}

#[test]
fn every_route_of_the_matrix_is_reached_by_its_own_example() {
    let candidate = default::candidate();
    let policy = &candidate.bundle.policy;
    for route in &candidate.document.routes {
        for (gateway, method) in route.gateways.iter().flat_map(|gateway| route.methods.iter().map(|method| (*gateway, *method))) {
            let matched = policy.route(Gateway::from(gateway), Method::from(method), &example(&route.path));
            assert_eq!(matched.map(|route| &*route.name), Some(route.name.as_str()));
        }
    }
}

/// `UPDATE_MATRIX=1` writes it anew.
#[test]
fn the_matrix_is_as_reviewed() {
    let candidate = default::candidate();
    let made = matrix(&candidate.document, &candidate.bundle.policy);
    let file = default::folder().join("matrix.txt");
    if std::env::var_os("UPDATE_MATRIX").is_some() {
        fs::write(&file, &made).unwrap();
    }
    let reviewed = fs::read_to_string(&file).unwrap_or_default();
    let only_in = |one: &str, other: &str, mark: &str| -> Vec<String> {
        one.lines().filter(|line| !other.lines().any(|known| known == *line)).map(|line| format!("{mark} {line}")).take(20).collect()
    };
    let differing = [only_in(&reviewed, &made, "-"), only_in(&made, &reviewed, "+")].concat();
    assert!(
        made == reviewed,
        "policies/matrix.txt is not what the policy says now. If the change is meant: `UPDATE_MATRIX=1 cargo test -p authoring`\n{}",
        differing.join("\n")
    );
}
