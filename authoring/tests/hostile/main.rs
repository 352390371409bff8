//! Bundles that mean harm, and bundles that are merely wrong: each goes through reading, compiling and the gate, and is
//! refused within 5 s by an error that says what and where. The service, which is this process, goes on.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod corpus;
mod good;
mod opa;

use authoring::rules::{self, Gate};
use authoring::{Files, PolicyFault};
use decision_core::policy::compile::compile;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use wire::bundle::{BundleError, RulesImage};

const REFUSED_WITHIN: Duration = Duration::from_secs(5);

/// What the control plane does with a candidate.
fn publish(gate: &Gate, files: &Files) -> Result<Option<RulesImage>, PolicyFault> {
    gate.read(files)?;
    let document = wire::sources::read(files).map_err(|error| PolicyFault::of_source(&error, files))?;
    compile(&document.to_source()).map_err(|error| PolicyFault::of_bundle(&BundleError::Policy(error), files))?;
    rules::publish(&document, files, gate)
}

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == rules::gate::SUBCOMMAND) {
        return rules::gate::serve();
    }
    let gate = Gate::this_program().unwrap();
    let mut failures = good::failures(&gate);
    failures.extend(opa::failures(&gate));
    for entry in corpus::entries() {
        let begun = Instant::now();
        let published = publish(&gate, &entry.files);
        let took = begun.elapsed();
        let failure = match published {
            Ok(_) => Some("it was published".to_owned()),
            Err(fault) => {
                println!("{:<28} {:>7.1} ms  {fault}", entry.name, took.as_secs_f64() * 1e3);
                let placed = fault.file.as_deref() == entry.file && (entry.line.is_none() || fault.line == entry.line);
                let said = fault.message.contains(entry.says);
                (!placed || !said).then(|| format!("the error is {fault:?}; wanted {:?}:{:?} `{}`", entry.file, entry.line, entry.says))
            }
        };
        let failure = failure.or_else(|| (took > REFUSED_WITHIN).then(|| format!("it took {took:?}")));
        failures.extend(failure.map(|failure| format!("{}: {failure}", entry.name)));
    }
    for failure in &failures {
        eprintln!("FAILED {failure}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
