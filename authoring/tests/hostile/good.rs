//! What must pass, so that a gate which refuses everything would be noticed: the example of the documentation, whole.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use super::publish;
use authoring::Files;
use authoring::rules::{self, Gate};
use std::path::Path;

/// The files of the page: each fenced block whose first line is a comment with a file's name.
pub(crate) fn example() -> Files {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/custom-rules.md");
    let page = std::fs::read_to_string(page).unwrap();
    let blocks = page.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    let named = blocks.filter_map(|(_, text)| {
        let name = text.lines().next()?.strip_prefix("# ")?;
        (name.ends_with(".yaml") || name.ends_with(".rego")).then(|| (name.to_owned(), text.to_owned()))
    });
    named.collect()
}

pub(crate) fn failures(gate: &Gate) -> Vec<String> {
    let mut failures = Vec::new();
    let mut expect = |what: &str, holds: bool| {
        if !holds {
            failures.push(what.to_owned());
        }
    };
    let files = example();
    expect("the page has four files", files.len() == 4);
    match publish(gate, &files) {
        Ok(Some(image)) => {
            expect("tests stay out of the bundle", image.modules.iter().all(|(name, _)| !name.ends_with("_test.rego")));
            expect("there are self-check vectors", image.vectors.len() > 8);
            let document = wire::sources::read(&files).unwrap();
            let reloaded = rules::reload(&document, &files).unwrap().unwrap();
            expect("what is loaded again is the same", reloaded == image);
            let report = gate.run(&rules::gather(&document, &files).unwrap().unwrap()).unwrap();
            expect("its tests were run", report.tests.len() >= 3);
            expect(&format!("its tests reach every rule, not {:?}", report.unreached), report.unreached.is_empty());
        }
        other => failures.push(format!("the example is not published: {other:?}")),
    }
    let mut fewer = files;
    let tests = fewer.iter().find(|(name, _)| name.ends_with("_test.rego")).map(|(name, text)| (name.clone(), text.clone())).unwrap();
    let first: String = tests.1.split("\n\n").take(3).collect::<Vec<_>>().join("\n\n");
    fewer.insert(tests.0, first);
    let document = wire::sources::read(&fewer).unwrap();
    let report = gate.run(&rules::gather(&document, &fewer).unwrap().unwrap());
    if !report.as_ref().is_ok_and(|report| !report.unreached.is_empty() && report.unreached.iter().all(|rule| rule.line > 0)) {
        failures.push(format!("rules that no test reaches are not named: {report:?}"));
    }
    failures
}
