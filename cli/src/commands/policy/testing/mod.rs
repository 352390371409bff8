//! `plant-gateway policy test`: the golden cases beside a policy and the tests of its custom rules, what both cover, and what
//! other policies say about the same cases.

mod report;

use std::path::PathBuf;

use authoring::cases::{FiledCase, read_directory};
use authoring::coverage::Coverage;
use authoring::evaluate::{Candidate, compare};
use authoring::opa::OpaSet;
use authoring::oracle::{Expected, Oracle, OracleReport};
use authoring::rules::{Gate, GateReport, TestRun, gather};
use clap::Args;
use indicatif::ProgressBar;

use super::{POLICIES, PolicyError, print, source};
use crate::commands::admin_api::Format;
use crate::commands::terminal::progress;

/// Arguments of `policy test`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The folder of the policy; its cases are in `cases` below it.
    #[arg(default_value = POLICIES)]
    folder: PathBuf,
    /// Only cases and tests whose file or name has this text; what they cover is not looked at.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Fail if the cases reach less of the policy, or the tests less of its custom rules, than this share.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    min_coverage: Option<u8>,
    /// A folder with policies of an OPA server, which judge the cases too; repeat it for each set.
    #[arg(long, value_name = "DIR")]
    oracle: Vec<PathBuf>,
    /// List each difference from an oracle that was chosen, not only how many each choice explains.
    #[arg(long, requires = "oracle")]
    list_chosen: bool,
}

/// What came of it.
#[derive(Default)]
struct Outcome {
    cases: usize,
    tests: usize,
    failures: Vec<Failure>,
    coverage: Option<Coverage>,
    /// Of custom rules, if the policy has any.
    bodies: Option<GateReport>,
    oracles: Vec<Opinion>,
}

/// A case or a test that does not pass.
struct Failure {
    file: String,
    name: String,
    difference: String,
}

/// What one set of other policies says.
struct Opinion {
    folder: PathBuf,
    set: OpaSet,
    report: OracleReport,
}

impl Arguments {
    fn selects(&self, file: &str, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| file.contains(filter) || name.contains(filter))
    }
}

pub(super) fn run(arguments: &Arguments, format: Format) -> Result<(), PolicyError> {
    let gate = source::gate()?;
    let mut candidate = source::candidate(&arguments.folder)?;
    let invalid = |fault| PolicyError::Invalid(Box::new(fault));
    let mut cases = read_directory(&arguments.folder).map_err(invalid)?;
    cases.retain(|filed| arguments.selects(&filed.file, &filed.case.name));
    let bar = progress("{bar:40} {pos}/{len} cases and tests");
    let mut bodies = rule_tests(&candidate, &gate)?;
    if let Some(report) = &mut bodies {
        report.tests.retain(|test| arguments.selects(&test.file, &test.name));
    }
    let tests = bodies.as_ref().map_or(0, |report| report.tests.len());
    if cases.is_empty() && tests == 0 {
        let which = arguments.filter.as_ref().map_or_else(String::new, |filter| format!(" with `{filter}` in file or name"));
        return Err(PolicyError::Usage(format!("there is no case{which} in `{}`", arguments.folder.join("cases").display())));
    }
    bar.set_length(u64::try_from(cases.len().saturating_add(tests)).unwrap_or(u64::MAX));
    let mut outcome = Outcome { tests, cases: cases.len(), ..Outcome::default() };
    for test in bodies.iter().flat_map(|report| &report.tests) {
        outcome.failures.extend(failure(test));
        bar.inc(1);
    }
    let sets = arguments.oracle.iter().map(|folder| set(folder, &gate)).collect::<Result<Vec<_>, _>>()?;
    let mut oracles: Vec<Oracle<'_>> = sets.iter().map(Oracle::new).collect();
    let coverage = run_cases(&mut candidate, &cases, &mut oracles, &mut outcome, &bar);
    bar.finish_and_clear();
    if arguments.filter.is_none() {
        (outcome.coverage, outcome.bodies) = (Some(coverage), bodies);
    }
    outcome.oracles = opinions(arguments, &sets, oracles)?;
    match format {
        Format::Json => print::json(&report::as_json(&outcome)),
        Format::Text => print::text(&report::as_text(&outcome, arguments.list_chosen)),
    }
    judge(arguments, &outcome)
}

/// The tests of custom rules, run by the gate that publishing has.
fn rule_tests(candidate: &Candidate, gate: &Gate) -> Result<Option<GateReport>, PolicyError> {
    let rules = gather(&candidate.document, &candidate.files);
    let report = rules.and_then(|rules| rules.map(|rules| gate.run(&rules)).transpose());
    report.map_err(|fault| PolicyError::Invalid(Box::new(fault)))
}

fn failure(test: &TestRun) -> Option<Failure> {
    let fault = test.fault()?;
    Some(Failure { file: format!("{}:{}", test.file, test.line), name: test.name.clone(), difference: fault.message })
}

fn run_cases(
    candidate: &mut Candidate,
    cases: &[FiledCase],
    oracles: &mut [Oracle<'_>],
    outcome: &mut Outcome,
    bar: &ProgressBar,
) -> Coverage {
    let mut coverage = Coverage::of(&candidate.document, &candidate.bundle.policy, &candidate.files);
    for filed in cases {
        let FiledCase { file, case } = filed;
        let evaluation = candidate.evaluate(case);
        if let Err(difference) = compare(case, &evaluation) {
            outcome.failures.push(Failure { file: file.clone(), name: case.name.clone(), difference });
        }
        coverage.note(&candidate.document, &candidate.bundle.policy, case, &evaluation);
        oracles.iter_mut().for_each(|oracle| oracle.note(&candidate.document, filed, &evaluation));
        bar.inc(1);
    }
    coverage
}

fn set(folder: &std::path::Path, gate: &Gate) -> Result<OpaSet, PolicyError> {
    let files = source::modules(folder)?;
    OpaSet::load(&files, gate).map_err(|fault| PolicyError::Oracle { folder: folder.to_owned(), fault: Box::new(fault) })
}

fn opinions(arguments: &Arguments, sets: &[OpaSet], oracles: Vec<Oracle<'_>>) -> Result<Vec<Opinion>, PolicyError> {
    let expected = Expected::read_directory(&arguments.folder).map_err(|fault| PolicyError::Invalid(Box::new(fault)))?;
    let mut opinions = Vec::new();
    for ((folder, set), oracle) in arguments.oracle.iter().zip(sets).zip(oracles) {
        let mut report = oracle.ask(&expected).map_err(|fault| PolicyError::Oracle { folder: folder.clone(), fault: Box::new(fault) })?;
        if arguments.filter.is_some() {
            // Of some of the cases nothing follows about choices that the others bear out.
            report.stale.clear();
        }
        opinions.push(Opinion { folder: folder.clone(), set: set.clone(), report });
    }
    Ok(opinions)
}

fn judge(arguments: &Arguments, outcome: &Outcome) -> Result<(), PolicyError> {
    let failed = outcome.failures.len();
    if failed > 0 {
        return Err(PolicyError::Failed(format!("{failed} of {} cases and tests failed", outcome.cases.saturating_add(outcome.tests))));
    }
    for opinion in &outcome.oracles {
        let folder = opinion.folder.display();
        let failed = opinion.set.tests.iter().filter(|test| test.fault().is_some()).count();
        if failed > 0 {
            return Err(PolicyError::Failed(format!("the oracle `{folder}` fails {failed} of its own tests")));
        }
        let (unexpected, stale) = (opinion.report.unexpected.len(), opinion.report.stale.len());
        if unexpected > 0 {
            return Err(PolicyError::Failed(format!("the oracle `{folder}` says otherwise {unexpected} times, unexpectedly")));
        }
        if stale > 0 {
            return Err(PolicyError::Failed(format!("{stale} expected differences from the oracle `{folder}` do not occur")));
        }
    }
    let wanted = arguments.min_coverage.map_or(0, usize::from);
    if let Some(coverage) = outcome.coverage.as_ref().filter(|coverage| coverage.percent() < wanted) {
        return Err(PolicyError::Failed(format!("the cases cover {} % of the policy, not {wanted} %", coverage.percent())));
    }
    match outcome.bodies.as_ref().map(report::percent).filter(|percent| *percent < wanted) {
        Some(percent) => Err(PolicyError::Failed(format!("the tests cover {percent} % of the custom rules, not {wanted} %"))),
        None => Ok(()),
    }
}
