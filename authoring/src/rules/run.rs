//! Evaluation on behalf of the gate: tests with their coverage, and the self-check vectors. Runs in the gate's process.

use super::outline::{Outline, RuleOutline};
use super::text::Kind;
use super::{GateReport, RuleFiles, parse_fault};
use crate::PolicyFault;
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};
use rules::{ENTRY_POINT, Fault, Loader, RuleSet, RuleSource, Ruling};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};
use wire::bundle::RuleVector;

/// How long one test may take.
pub(crate) const TEST_MAX: Duration = Duration::from_millis(500);
/// How often an input that takes too long is tried: the machine may be busy.
const TRIES: usize = 8;
/// How long a sample may take natively: as WebAssembly it takes two or three times as long.
pub(super) const SAMPLE_MAX: Duration = Duration::from_micros(500);

/// A test that was run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestRun {
    /// Its module.
    pub file: String,
    /// Its line.
    pub line: usize,
    /// Its name, with its package.
    pub name: String,
    /// How it ended.
    pub outcome: TestOutcome,
    /// How long it took, in microseconds.
    pub micros: u64,
}

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestOutcome {
    /// It is true.
    Passed,
    /// It is not: what it is instead.
    Failed(String),
}

/// A body of a rule that no test came to the end of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreached {
    /// Its module.
    pub file: String,
    /// Its line.
    pub line: usize,
    /// The rule's name, with its package.
    pub rule: String,
}

impl TestRun {
    /// What is wrong with it, with its place, unless it passed.
    #[must_use]
    pub fn fault(&self) -> Option<PolicyFault> {
        let TestOutcome::Failed(why) = &self.outcome else { return None };
        Some(PolicyFault {
            file: Some(self.file.clone()),
            line: Some(self.line),
            field: Some(self.name.clone()),
            message: format!("the test `{}` does not pass: {why}", self.name),
            ..PolicyFault::default()
        })
    }
}

/// Runs every test, and says which rules none of them reached.
pub(super) fn tests(files: &RuleFiles, data: &str, outlines: &[(Outline, Kind)]) -> Result<GateReport, PolicyFault> {
    let mut pristine = engine(files.modules.iter().chain(&files.tests), data)?;
    pristine.set_enable_coverage(true);
    let mut runs = Vec::new();
    let mut reached: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for (outline, _) in outlines.iter().filter(|(_, kind)| *kind == Kind::Tests) {
        for rule in tests_of(outline) {
            let (run, engine) = run_test(&pristine, outline, rule);
            runs.push(run);
            collect(&engine, &mut reached);
        }
    }
    let of_rules = outlines.iter().filter(|(_, kind)| *kind == Kind::Rules).flat_map(|(outline, _)| &outline.rules);
    let bodies = of_rules.filter(|rule| !rule.is_default).map(|rule| rule.bodies.len()).sum();
    Ok(GateReport { vectors: Vec::new(), tests: runs, bodies, unreached: unreached(outlines, &reached) })
}

/// The tests of a module, each once.
pub(crate) fn tests_of(outline: &Outline) -> impl Iterator<Item = &RuleOutline> {
    let mut named = BTreeSet::new();
    outline.rules.iter().filter(move |rule| rule.name.starts_with("test_") && named.insert(&rule.name))
}

/// Runs one test in a copy of the engine, which knows afterwards what it covered.
pub(crate) fn run_test(pristine: &Engine, outline: &Outline, rule: &RuleOutline) -> (TestRun, Engine) {
    let name = path_of(outline, &rule.name);
    super::progress(&format!("running the test {name}"), &outline.file);
    let mut engine = pristine.clone();
    engine.set_execution_timer_config(ExecutionTimerConfig { limit: TEST_MAX, check_interval: NonZeroU32::MIN });
    let begun = Instant::now();
    let outcome = match engine.eval_rule(format!("data.{name}")) {
        Ok(Value::Bool(true)) => TestOutcome::Passed,
        Ok(value) => TestOutcome::Failed(format!("it is {}", shown(&value))),
        Err(error) => TestOutcome::Failed(parse_fault(&outline.file, &error.to_string()).message),
    };
    let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    (TestRun { file: outline.file.clone(), line: rule.line, name, outcome, micros }, engine)
}

fn collect(engine: &Engine, reached: &mut BTreeMap<String, BTreeSet<usize>>) {
    let Ok(report) = engine.get_coverage_report() else { return };
    for file in report.files {
        reached.entry(file.path).or_default().extend(file.covered.iter().filter_map(|line| usize::try_from(*line).ok()));
    }
}

fn unreached(outlines: &[(Outline, Kind)], reached: &BTreeMap<String, BTreeSet<usize>>) -> Vec<Unreached> {
    let mut unreached = Vec::new();
    for (outline, _) in outlines.iter().filter(|(_, kind)| *kind == Kind::Rules) {
        let lines = reached.get(&outline.file);
        // A default is what is left when nothing else applies: it has no condition to reach.
        for rule in outline.rules.iter().filter(|rule| !rule.is_default) {
            for line in rule.bodies.iter().filter(|line| !lines.is_some_and(|lines| lines.contains(*line))) {
                unreached.push(Unreached { file: outline.file.clone(), line: *line, rule: path_of(outline, &rule.name) });
            }
        }
    }
    unreached
}

pub(crate) fn path_of(outline: &Outline, name: &str) -> String {
    outline.package.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join(".")
}

fn shown(value: &Value) -> String {
    if *value == Value::Undefined { "undefined".into() } else { value.to_json_str().unwrap_or_else(|_cause| "no JSON value".into()) }
}

/// What becomes of an input that is left without a decision in time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Undecided {
    /// The rules are refused: before they are published.
    Refused { after: Duration },
    /// It is no vector: in rules that were published when fewer inputs were tried.
    LeftOut,
}

impl Undecided {
    /// What was fast enough once is not left out because the processor is busy now.
    const fn after(self) -> Duration {
        match self {
            Self::Refused { after } => after,
            Self::LeftOut => rules::EVALUATION_MAX,
        }
    }
}

/// What the rules decide of each input.
pub(super) fn vectors(files: &RuleFiles, data: &str, inputs: &[String], undecided: Undecided) -> Result<Vec<RuleVector>, PolicyFault> {
    let source = RuleSource { modules: &files.modules, data, inputs: &files.inputs };
    let loader = Loader::new(&source, []).map_err(|error| PolicyFault { message: error.to_string(), ..PolicyFault::default() })?;
    let mut rules = loader.finish().map_err(|error| load_fault(&error))?;
    let mut vectors = Vec::with_capacity(inputs.len());
    let entry = |message: String| PolicyFault { field: Some(ENTRY_POINT.into()), message, ..PolicyFault::default() };
    let file = files.modules.first().map_or("", |(file, _)| file.as_str());
    for input in inputs {
        super::progress(&format!("deciding the input {input}"), file);
        let ruling =
            patiently(&mut rules, input, undecided.after()).ok_or_else(|| entry(format!("the input {input} is no JSON object")))?;
        match (ruling.fault, undecided) {
            (None, _) => vectors.push(RuleVector { input: input.clone(), decision: ruling.to_json() }),
            (Some(fault), Undecided::Refused { after }) => return Err(no_decision(files, data, input, fault, after)),
            (Some(_), Undecided::LeftOut) => {}
        }
    }
    Ok(vectors)
}

/// The decision, if it was made in time once.
fn patiently(rules: &mut RuleSet, input: &str, sample_max: Duration) -> Option<Ruling> {
    for _ in 0..TRIES {
        let begun = Instant::now();
        let ruling = rules.evaluate_json(input, 1)?;
        if begun.elapsed() <= sample_max || ruling.fault.is_some_and(|fault| fault != Fault::TimedOut) {
            return Some(ruling);
        }
    }
    Some(Fault::TimedOut.into())
}

fn no_decision(files: &RuleFiles, data: &str, input: &str, fault: Fault, sample_max: Duration) -> PolicyFault {
    let what = match fault {
        Fault::Undefined => "there is no decision".to_owned(),
        Fault::Failed => return failure(files, data, input),
        Fault::TimedOut => format!(
            "the evaluation takes longer than {} µs: gateways are slower, and stop it after {} ms; let rules loop over less",
            sample_max.as_micros(),
            rules::EVALUATION_MAX.as_millis()
        ),
        Fault::NotAnObject => "the decision is no object".to_owned(),
        Fault::Malformed => {
            "the decision is not {allow: boolean, rule: text, reason?: text, target?: text}, or has a text that is too long".to_owned()
        }
        Fault::UnknownTarget => "the decision's target is neither `production` nor `sandbox`".to_owned(),
    };
    PolicyFault {
        file: files.modules.first().map(|(file, _)| file.clone()),
        line: None,
        field: Some(ENTRY_POINT.into()),
        message: format!("{what}, for the input {input}"),
        ..PolicyFault::default()
    }
}

/// The interpreter's own words, with the place.
fn failure(files: &RuleFiles, data: &str, input: &str) -> PolicyFault {
    let evaluated = engine(files.modules.iter(), data).map(|mut engine| {
        engine.set_execution_timer_config(ExecutionTimerConfig { limit: TEST_MAX, check_interval: NonZeroU32::MIN });
        Value::from_json_str(input).and_then(|input| {
            engine.set_input(input);
            engine.eval_rule(ENTRY_POINT.into())
        })
    });
    let file = files.modules.first().map_or("", |(file, _)| file.as_str());
    match evaluated {
        Err(fault) => fault,
        Ok(Err(error)) => {
            let fault = parse_fault(file, &error.to_string());
            PolicyFault { field: Some(ENTRY_POINT.into()), message: format!("{}, for the input {input}", fault.message), ..fault }
        }
        Ok(Ok(_)) => PolicyFault { message: format!("the evaluation fails now and then, for the input {input}"), ..PolicyFault::default() },
    }
}

fn engine<'m>(modules: impl Iterator<Item = &'m (String, String)>, data: &str) -> Result<Engine, PolicyFault> {
    let mut engine = Engine::new();
    engine.set_strict_builtin_errors(true);
    let data = Value::from_json_str(data).and_then(|data| engine.add_data(data));
    data.map_err(|error| PolicyFault { field: Some("rules.data".into()), message: error.to_string(), ..PolicyFault::default() })?;
    for (file, text) in modules {
        super::progress("parsing", file);
        engine.add_policy(file.clone(), text.clone()).map_err(|error| parse_fault(file, &error.to_string()))?;
    }
    Ok(engine)
}

pub(crate) fn load_fault(error: &rules::LoadError) -> PolicyFault {
    match error {
        rules::LoadError::Module { file, problem } => parse_fault(file, problem),
        rules::LoadError::Input(_) | rules::LoadError::Data | rules::LoadError::Vector { .. } | rules::LoadError::Differs { .. } => {
            PolicyFault { message: error.to_string(), ..PolicyFault::default() }
        }
    }
}
