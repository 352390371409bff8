//! Sets of an OPA server that mean harm. They may call whatever there is, so it is the process that holds them, not a list.

use authoring::Files;
use authoring::opa::OpaSet;
use authoring::rules::Gate;
use std::time::{Duration, Instant};

const WITHIN: Duration = Duration::from_secs(5);

/// What a set does, its modules below a good table, and what has to be said of it.
fn entries() -> Vec<(&'static str, String, &'static str)> {
    let rule = |body: &str| format!("{body}\ntest_it if harm\n");
    let twenty = (0..20).fold(String::new(), |text, number| format!("{text}test_{number} if harm\n"));
    let loops = "ns := numbers.range(1, 40)\nharm if count([1 | some a in ns; some b in ns; some c in ns; some d in ns; some e in ns; some f in ns]) == 0\n";
    let doubling = (0..40).fold("x0 := \"aaaaaaaa\"\n".to_owned(), |text, number| {
        format!("{text}x{} := concat(x{number}, [x{number}, x{number}])\n", number + 1)
    });
    vec![
        ("calls itself without end", rule("f(x) := f(x + 1)\nharm if f(1)"), ""),
        ("calls itself through another", rule("f(x) := g(x)\ng(x) := f(x)\nharm if f(1)"), ""),
        ("loops in one test", format!("{loops}test_it if harm\n"), "time limit"),
        ("loops in every test", format!("{loops}{twenty}"), "running the test a.test_"),
        ("makes much of little", rule("harm if count(numbers.range(1, 1000000000)) > 0"), "more than 768 MiB of memory"),
        ("makes texts that double", rule(&format!("{doubling}harm if count(x40) > 1")), ""),
        ("nests literals", rule(&format!("harm := {}1{}", "[".repeat(60), "]".repeat(60))), "nested more than 10 deep"),
        ("nests calls over lines", rule(&format!("harm := {}1", "abs(\n".repeat(60))), "nested more than 10 deep"),
        ("adds without end", rule(&format!("harm := {}1", "1 +\n".repeat(10_000))), "nested too deeply"),
        ("is large", rule(&"# a line of a comment\n".repeat(4_000)), "at most 65536 are allowed"),
    ]
}

/// Sets that are not refused, or not in time, or whose harm is not told.
pub(crate) fn failures(gate: &Gate) -> Vec<String> {
    let mut failures = Vec::new();
    for (what, module, says) in entries() {
        let table = "package a\nimport rego.v1\nallow if input.x\npermissions := {\"a.b\": [\"c\"]}\n";
        let files = Files::from([("a.rego".to_owned(), format!("{table}{module}"))]);
        let begun = Instant::now();
        let loaded = OpaSet::load(&files, gate);
        let took = begun.elapsed();
        // A test that is stopped in time is one that does not pass; whatever ends the process is told of the file.
        let told = match loaded {
            Ok(set) => set.tests.iter().find_map(authoring::rules::TestRun::fault),
            Err(fault) => Some(fault),
        };
        let Some(fault) = told else {
            failures.push(format!("a set that {what}: it was loaded"));
            continue;
        };
        println!("a set that {what:<28} {:>7.1} ms  {fault}", took.as_secs_f64() * 1e3);
        if took > WITHIN || fault.file.as_deref() != Some("a.rego") || !fault.message.contains(says) {
            failures.push(format!("a set that {what}: in {took:?} {fault:?}; wanted `{says}`"));
        }
    }
    failures
}
