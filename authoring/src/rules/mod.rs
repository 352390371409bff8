//! Custom rules before they are in force: gathered from files, checked, tested, and made into what a bundle carries.

mod builtins;
mod check;
pub mod gate;
mod growth;
pub(crate) mod outline;
pub(crate) mod run;
mod samples;
pub(crate) mod text;
mod turns;

pub use gate::{Gate, GateReport};
pub use run::{TestOutcome, TestRun, Unreached};

use crate::{Files, PolicyFault};
use decision_core::nearest::nearest;
use outline::{Generation, Outline};
use rules::{InputField, Inputs};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::io::Write as _;
use text::Kind;
use wire::bundle::RulesImage;
use wire::policy::PolicyDocument;

/// The rules of a policy, as its files have them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleFiles {
    /// File names and texts of the modules, tests apart.
    pub modules: Vec<(String, String)>,
    /// Those whose name ends with `_test.rego`.
    pub tests: Vec<(String, String)>,
    /// The file that rules see as `data`, and its text.
    pub data: Option<(String, String)>,
    /// What the rules may read of `input`.
    pub inputs: Vec<String>,
}

/// The largest data document, as it is written.
const DATA_BYTES_MAX: usize = 256 * 1_024;

/// Gathers what `rules:` names. `None` when the policy has no rules.
///
/// # Errors
/// A file that is named and not there, an input that is none, or what is too large or too deeply nested to be looked at.
pub fn gather(document: &PolicyDocument, files: &Files) -> Result<Option<RuleFiles>, PolicyFault> {
    let Some(rules) = &document.rules else { return Ok(None) };
    let read = |field: &str, name: &String| match files.get(name) {
        Some(text) => Ok((name.clone(), text.clone())),
        None => {
            let hint = nearest(name, files.keys().map(String::as_str).filter(|known| !known.ends_with(".yaml")));
            let hint = hint.map_or_else(String::new, |name| format!("; the nearest name is `{name}`"));
            Err(PolicyFault::located(format!("rules.{field}: `{name}` does not exist{hint}"), files))
        }
    };
    let named = rules.modules.iter().map(|name| read("modules", name)).collect::<Result<Vec<_>, _>>()?;
    let (tests, modules): (Vec<_>, Vec<_>) = named.into_iter().partition(|(name, _)| name.ends_with("_test.rego"));
    let data = rules.data.as_ref().map(|name| read("data", name)).transpose()?;
    Inputs::parse(&rules.inputs).map_err(|error| PolicyFault::located(format!("rules.inputs: {error}"), files))?;
    let gathered = RuleFiles { modules, tests, data, inputs: rules.inputs.clone() };
    gathered.check_texts().map_err(|fault| match fault.file {
        Some(_) => fault,
        None => PolicyFault::located(fault.message, files),
    })?;
    Ok(Some(gathered))
}

/// What a bundle carries of a policy that is to be published: its rules have gone through the gate.
///
/// # Errors
/// The first thing that is wrong with them, with its place.
pub fn publish(document: &PolicyDocument, files: &Files, gate: &Gate) -> Result<Option<RulesImage>, PolicyFault> {
    let Some(rules) = gather(document, files)? else { return Ok(None) };
    gate.run(&rules)?.passed()?.image(&rules).map(Some)
}

/// What a bundle carries of a policy that was published before: its rules went through the gate then.
///
/// # Errors
/// They cannot be loaded any more.
pub fn reload(document: &PolicyDocument, files: &Files) -> Result<Option<RulesImage>, PolicyFault> {
    let Some(rules) = gather(document, files)? else { return Ok(None) };
    let data = rules.data_json()?;
    let outlines = rules.outlines()?;
    let all: Vec<&Outline> = outlines.iter().map(|(outline, _)| outline).collect();
    let inputs = samples::inputs(&rules.fields()?, &all);
    let vectors = run::vectors(&rules, &data, &inputs, run::Undecided::LeftOut)?;
    Ok(Some(RulesImage { modules: rules.modules, data, inputs: rules.inputs, vectors }))
}

impl RuleFiles {
    /// Sizes and nesting: cheap, and before anything else looks at the texts.
    fn check_texts(&self) -> Result<(), PolicyFault> {
        let whole = |message: String| PolicyFault { message, ..PolicyFault::default() };
        if self.modules.is_empty() {
            return Err(whole("rules.modules: no module is named that is no test".into()));
        }
        if self.modules.len() > text::MODULES_MAX {
            return Err(whole(format!("rules.modules: there are {}; at most {} are allowed", self.modules.len(), text::MODULES_MAX)));
        }
        let all = self.modules.iter().map(|module| (module, Kind::Rules)).chain(self.tests.iter().map(|module| (module, Kind::Tests)));
        all.into_iter().try_for_each(|((file, text), kind)| text::check(file, text, kind))?;
        let bytes = |modules: &[(String, String)]| modules.iter().map(|(_, text)| text.len()).fold(0_usize, usize::saturating_add);
        for (what, modules) in [("rules", &self.modules), ("tests", &self.tests)] {
            let bytes = bytes(modules);
            if bytes > text::BYTES_MAX {
                return Err(whole(format!("rules.modules: the {what} have {bytes} bytes; at most {} are allowed", text::BYTES_MAX)));
            }
        }
        if let Some((file, text)) = self.data.as_ref().filter(|(_, text)| text.len() > DATA_BYTES_MAX) {
            let message = format!("the data have {} bytes; at most {DATA_BYTES_MAX} are allowed", text.len());
            return Err(PolicyFault { file: Some(file.clone()), message, ..PolicyFault::default() });
        }
        Ok(())
    }

    fn fields(&self) -> Result<Vec<InputField>, PolicyFault> {
        let inputs = Inputs::parse(&self.inputs);
        let inputs = inputs.map_err(|error| PolicyFault { message: format!("rules.inputs: {error}"), ..PolicyFault::default() })?;
        Ok(inputs.fields().to_vec())
    }

    fn data_object(&self) -> Result<Map<String, Value>, PolicyFault> {
        let Some((file, text)) = &self.data else { return Ok(Map::new()) };
        let fault = |line: Option<usize>, message: String| PolicyFault {
            file: Some(file.clone()),
            line,
            field: Some("rules.data".into()),
            message,
            ..PolicyFault::default()
        };
        let value: Value = if file.ends_with(".json") {
            serde_json::from_str(text).map_err(|error| fault(Some(error.line()), error.to_string()))?
        } else {
            wire::sources::bounded(file, text).map_err(|error| PolicyFault::of_source(&error, &Files::new()))?;
            let line = |error: &serde_norway::Error| error.location().map(|at| at.line());
            serde_norway::from_str(text).map_err(|error| fault(line(&error), error.to_string()))?
        };
        match value {
            Value::Object(object) => Ok(object),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err(fault(Some(1), "the data have to be an object".into()))
            }
        }
    }

    /// What the rules see as `data`, as JSON.
    pub(crate) fn data_json(&self) -> Result<String, PolicyFault> {
        self.data_object().map(|object| Value::Object(object).to_string())
    }

    fn outlines(&self) -> Result<Vec<(Outline, Kind)>, PolicyFault> {
        let all = self.modules.iter().map(|module| (module, Kind::Rules)).chain(self.tests.iter().map(|module| (module, Kind::Tests)));
        all.map(|((file, text), kind)| {
            progress("parsing", file);
            Ok((Outline::of(file, text, Generation::V1)?, kind))
        })
        .collect()
    }

    /// Everything that the gate looks at, in this process.
    fn examine(&self) -> Result<GateReport, PolicyFault> {
        self.check_texts()?;
        let (fields, data) = (self.fields()?, self.data_object()?);
        let outlines = self.outlines()?;
        progress("checking names", "");
        check::Modules { outlines: &outlines, inputs: &fields, data: &data }.check()?;
        progress("looking how large values may become", "");
        let rules: Vec<&Outline> = outlines.iter().filter(|(_, kind)| *kind == Kind::Rules).map(|(outline, _)| outline).collect();
        growth::check(&rules, &fields, &data)?;
        let data = Value::Object(data).to_string();
        let report = run::tests(self, &data, &outlines)?;
        if report.tests.iter().any(|test| test.outcome != TestOutcome::Passed) {
            return Ok(report);
        }
        let all: Vec<&Outline> = outlines.iter().map(|(outline, _)| outline).collect();
        let vectors = run::vectors(self, &data, &samples::inputs(&fields, &all), run::Undecided::Refused { after: run::SAMPLE_MAX })?;
        let vectors = vectors.into_iter().map(|vector| (vector.input, vector.decision)).collect();
        Ok(GateReport { vectors, ..report })
    }
}

/// The interpreter's message, which begins with its place: `--> file:line:column`, then the line, then what is wrong.
pub(crate) fn parse_fault(file: &str, problem: &str) -> PolicyFault {
    let place = problem.split_once("--> ").and_then(|(_, rest)| rest.lines().next());
    let mut parts = place.map(|place| place.rsplitn(3, ':')).into_iter().flatten();
    let (_, line, named) = (parts.next(), parts.next(), parts.next());
    let message = problem.rsplit_once("error: ").map_or(problem, |(_, message)| message);
    let message = message.split_once("\n-->").map_or(message, |(message, _)| message);
    PolicyFault {
        file: Some(named.unwrap_or(file).into()),
        line: line.and_then(|line| line.parse().ok()),
        field: None,
        message: message.split_whitespace().collect::<Vec<_>>().join(" "),
        ..PolicyFault::default()
    }
}

/// Tells the gate's parent what is being done: the last of it is what a killed gate was at. Elsewhere nobody listens.
pub(crate) fn progress(doing: &str, file: &str) {
    if gate::is_child() {
        let line = serde_json::json!({ "doing": doing, "file": file });
        let mut out = std::io::stdout().lock();
        // A parent that is gone needs no progress.
        writeln!(out, "{line}").and_then(|()| out.flush()).unwrap_or(());
    }
}
