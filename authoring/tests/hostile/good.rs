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

/// Forms that rules are written in: none of them may be taken for an attack.
const MODULE: &str = r#"package gateway

import data.tables

default decision := {"allow": false, "rule": "default"}

decision := {"allow": true, "rule": "owner", "reason": reason} if {
	some team in teams
	every role in tables.needed {
		role in tables.teams[team].roles
	}
	count(violations) == 0
} else := {"allow": false, "rule": name, "reason": concat("; ", violations)} if {
	name := sprintf("v%d", [count(violations)])
	count(violations) > 0
}

reason := sprintf("%s may %s %s (%v)", [input.jwt.email, lower(input.method), input.path, sort(object.keys(grants))])

teams contains team if {
	some team, entry in tables.teams
	some role in entry.roles
	role in input.jwt.roles
}

grants[role] := count(paths) if {
	some role in input.jwt.roles
	paths := [path | some path in tables.paths; startswith(normal, path)]
}

violations contains sprintf("%s is closed", [segment]) if {
	some segment in segments
	segment in tables.closed
}

violations contains "too deep" if count(segments) > tables.limits.depth + (2 * 1)

violations contains "twice" if {
	some i, j
	segments[i] == segments[j]
	i < j
	segments[i] != ""
}

segments := [lower(segment) | some segment in split(trim_prefix(input.path, "/"), "/")]

normal := concat("/", array.concat([""], segments))

initials := {substring(role, 0, 1) | some role in input.jwt.roles}

labels := {upper(role): {"length": count(role), "first": first} |
	some role in input.jwt.roles
	[first, _] = split(sprintf("%s:%s", [role, role]), ":")
}

told := json.marshal(object.union(input.jwt, {"initials": initials | {"?"}}))

clean(text) := replace(replace(text, "-", "_"), " ", "")

decision := {"allow": false, "rule": "nobody"} if {
	clean(told) == ""
	count(labels) == 0
}
"#;

/// Two decisions for some inputs.
const CONFLICT: &str = r#"package gateway

default decision := {"allow": false, "rule": "default"}

decision := {"allow": true, "rule": "readers"} if input.method == "GET"

decision := {"allow": false, "rule": "viewers"} if "viewer" in input.jwt.roles
"#;

const DATA: &str = "tables:
  needed: [viewer]
  teams: {red: {roles: [viewer, admin]}, blue: {roles: [guest]}}
  paths: [/api/v1, /api/v2]
  closed: [secret, private]
  limits: {depth: 12}
";

const POLICY: &str = "
permissions: [agent.read]
roles: [{name: viewer, permissions: [agent.read]}]
routes:
  - {name: agents.read, gateways: [PP], methods: [GET], path: '/agents/{id}', require: permission, permission: agent.read, cost_micros: 0}
rules: {modules: [rules/main.rego], data: rules/tables.yaml, inputs: [method, path, jwt.email, jwt.roles], gateways: [PP]}
";

/// A policy with rules of every form.
pub(crate) fn every_form() -> Files {
    let files = [("policy.yaml", POLICY), ("rules/main.rego", MODULE), ("rules/tables.yaml", DATA)];
    files.map(|(name, text)| (name.to_owned(), text.to_owned())).into()
}

pub(crate) fn failures(gate: &Gate) -> Vec<String> {
    let mut failures = Vec::new();
    let mut expect = |what: &str, holds: bool| {
        if !holds {
            failures.push(what.to_owned());
        }
    };
    let published = publish(gate, &every_form());
    expect(&format!("rules of every form are published, not {published:?}"), published.is_ok());
    let mut undecided = every_form();
    undecided.insert("rules/main.rego".to_owned(), CONFLICT.to_owned());
    expect("overlapping decisions are refused", publish(gate, &undecided).is_err());
    let document = wire::sources::read(&undecided).unwrap();
    let reloaded = rules::reload(&document, &undecided).unwrap().unwrap();
    expect("and loaded where they were published earlier, without those inputs", reloaded.vectors.len() > 1);
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
