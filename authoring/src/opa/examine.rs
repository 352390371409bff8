//! What the gate's process does with policies of an OPA server: loads them, runs their tests, and asks them. Like OPA, and unlike
//! a gateway's own rules, a builtin that fails makes its rule undefined.

use crate::rules::outline::{Generation, Outline, RuleOutline};
use crate::rules::run::{TEST_MAX, path_of, run_test, tests_of};
use crate::rules::text::{self, Kind};
use crate::rules::{TestRun, parse_fault, progress};
use crate::{Files, PolicyFault};
use decision_core::time::Timestamp;
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroU32;

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// One set of policies, and what is to be done with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// File names and texts.
    pub(crate) modules: Files,
    /// What the policies take for the present, in seconds.
    pub(crate) now_s: i64,
    pub(crate) tests: Tests,
    pub(crate) questions: Vec<Question>,
}

/// Whether the set's own tests are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Tests {
    Run,
    Skip,
}

/// A rule that is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Question {
    /// Its path below `data`, as `gateway.rbac_pp.allow`.
    pub(crate) rule: String,
    pub(crate) input: serde_json::Value,
    /// What a server would have loaded from elsewhere.
    pub(crate) data: serde_json::Value,
}

/// What a set has, and what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Examined {
    pub(crate) generation: Generation,
    pub(crate) rules: Vec<FoundRule>,
    pub(crate) tests: Vec<TestRun>,
    /// In the order of the questions.
    pub(crate) replies: Vec<Reply>,
}

/// A rule of a set, tests apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundRule {
    /// Its module.
    pub file: String,
    /// Where it is first defined.
    pub line: usize,
    /// Its package, as `gateway.rbac_pp`.
    pub package: String,
    /// Its name.
    pub name: String,
    /// Its value, if that stands there and asks for nothing. Sets are lists.
    pub constant: Option<serde_json::Value>,
}

/// What a rule says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    Value(serde_json::Value),
    Undefined,
    Failed(String),
}

impl Asked {
    /// Sizes and nesting: cheap, and before anything else looks at the texts.
    pub(crate) fn check_texts(&self) -> Result<(), PolicyFault> {
        let bytes = self.modules.values().map(String::len).fold(0_usize, usize::saturating_add);
        if bytes > text::BYTES_MAX {
            let message = format!("the modules have {bytes} bytes; at most {} are allowed", text::BYTES_MAX);
            return Err(PolicyFault { file: self.modules.keys().next().cloned(), message, ..PolicyFault::default() });
        }
        self.modules.iter().try_for_each(|(file, text)| text::check(file, text, Kind::Tests))
    }
}

/// Does it, in this process.
pub(crate) fn examine(asked: &Asked) -> Result<Examined, PolicyFault> {
    asked.check_texts()?;
    let (generation, outlines) = outlines(&asked.modules)?;
    let pristine = engine(generation, asked)?;
    let rules = found(&pristine, &outlines);
    let tests = match asked.tests {
        Tests::Run => {
            outlines.iter().flat_map(|outline| tests_of(outline).map(|rule| run_test(&pristine, outline, rule).0)).collect::<Vec<_>>()
        }
        Tests::Skip => Vec::new(),
    };
    let replies = asked.questions.iter().map(|question| reply(&pristine, question)).collect();
    Ok(Examined { generation, rules, tests, replies })
}

/// The newest generation of Rego in which every module can be read.
fn outlines(modules: &Files) -> Result<(Generation, Vec<Outline>), PolicyFault> {
    let read = |generation: Generation| {
        let outline = |(file, text): (&String, &String)| {
            progress("parsing", file);
            Outline::of(file, text, generation)
        };
        modules.iter().map(outline).collect::<Result<Vec<_>, _>>().map(|outlines| (generation, outlines))
    };
    let of_v1 = read(Generation::V1);
    if of_v1.is_ok() {
        return of_v1;
    }
    // A set that says which it is is told what is wrong with it as that.
    let says_v1 = modules.values().any(|text| text.lines().any(|line| line.trim() == "import rego.v1"));
    let of_v0 = read(Generation::V0);
    if of_v0.is_err() && says_v1 { of_v1 } else { of_v0 }
}

fn engine(generation: Generation, asked: &Asked) -> Result<Engine, PolicyFault> {
    let mut engine = Engine::new();
    engine.set_rego_v0(generation == Generation::V0);
    engine.set_strict_builtin_errors(false);
    let now = Value::from(Timestamp::from_seconds(asked.now_s).as_seconds().saturating_mul(NANOS_PER_SECOND));
    let clock = engine.add_extension("time.now_ns".into(), 0, Box::new(move |_arguments| Ok(now.clone())));
    clock.map_err(|error| PolicyFault { message: error.to_string(), ..PolicyFault::default() })?;
    for (file, text) in &asked.modules {
        progress("loading", file);
        engine.add_policy(file.clone(), text.clone()).map_err(|error| parse_fault(file, &error.to_string()))?;
    }
    engine.set_execution_timer_config(ExecutionTimerConfig { limit: TEST_MAX, check_interval: NonZeroU32::MIN });
    progress("analysing", "");
    // Analysed once and not for every question: its copies have it from here.
    engine.eval_query("true".into(), false).map_err(|error| parse_fault("", &error.to_string()))?;
    Ok(engine)
}

/// Every rule once, however often it is defined.
fn found(pristine: &Engine, outlines: &[Outline]) -> Vec<FoundRule> {
    let mut by_path: BTreeMap<String, Vec<(&Outline, &RuleOutline)>> = BTreeMap::new();
    for outline in outlines {
        for rule in outline.rules.iter().filter(|rule| !rule.name.starts_with("test_")) {
            by_path.entry(path_of(outline, &rule.name)).or_default().push((outline, rule));
        }
    }
    let one = |(path, definitions): (&String, &Vec<(&Outline, &RuleOutline)>)| {
        let (outline, rule) = definitions.first().copied()?;
        let constant = match definitions.as_slice() {
            [(outline, rule)] if rule.is_constant() => {
                progress(&format!("reading {path}"), &outline.file);
                pristine.clone().eval_rule(format!("data.{path}")).ok().as_ref().and_then(as_json)
            }
            _ => None,
        };
        Some(FoundRule {
            file: outline.file.clone(),
            line: rule.line,
            package: outline.package.join("."),
            name: rule.name.clone(),
            constant,
        })
    };
    by_path.iter().filter_map(one).collect()
}

fn reply(pristine: &Engine, question: &Question) -> Reply {
    progress(&format!("asking {} about {}", question.rule, question.input), "");
    let mut engine = pristine.clone();
    // Data are another program to the interpreter: it analyses everything anew.
    let with_data = match question.data.as_object() {
        Some(data) if data.is_empty() => Ok(()),
        Some(_) | None => Value::from_json_str(&question.data.to_string()).and_then(|data| engine.add_data(data)),
    };
    let evaluated = with_data.and_then(|()| {
        engine.set_input(Value::from_json_str(&question.input.to_string())?);
        engine.eval_rule(format!("data.{}", question.rule))
    });
    match evaluated {
        Ok(Value::Undefined) => Reply::Undefined,
        Ok(value) => as_json(&value).map_or_else(|| Reply::Failed("it is no JSON value".into()), Reply::Value),
        Err(error) => Reply::Failed(parse_fault("", &error.to_string()).message),
    }
}

fn as_json(value: &Value) -> Option<serde_json::Value> {
    if *value == Value::Undefined {
        return None;
    }
    serde_json::from_str(&value.to_json_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::TestOutcome;
    use serde_json::json;

    fn asked(modules: &[(&str, &str)], questions: Vec<Question>) -> Asked {
        let modules = modules.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
        Asked { modules, now_s: 1_768_478_400, tests: Tests::Run, questions }
    }

    fn question(rule: &str, input: serde_json::Value, data: serde_json::Value) -> Question {
        Question { rule: rule.into(), input, data }
    }

    const OLD: &str = "package a
import future.keywords.if
import future.keywords.in
limit := 3
allow if { \"x\" in input.list; data.used[input.who] < limit }
over = message if { input.n > 1; message := \"one\" }
over = message if { input.n > 2; message := \"two\" }
late if time.now_ns() > time.parse_rfc3339_ns(input.end)
";
    const OLD_TESTS: &str = "package a\ntest_allowed { allow with input as {\"list\": [\"x\"], \"who\": \"w\"} with data.used as {\"w\": 2} }\ntest_not { allow }\n";

    #[test]
    fn the_generation_is_the_newest_in_which_all_of_a_set_can_be_read() {
        let newer = "package a\nimport rego.v1\nallow if input.x\n";
        assert_eq!(examine(&asked(&[("a.rego", newer)], vec![])).unwrap().generation, Generation::V1);
        let examined = examine(&asked(&[("a.rego", OLD), ("a_test.rego", OLD_TESTS)], vec![])).unwrap();
        assert_eq!(examined.generation, Generation::V0);
        let outcomes: Vec<_> = examined.tests.iter().map(|test| (test.name.as_str(), test.outcome.clone())).collect();
        assert_eq!(outcomes, [("a.test_allowed", TestOutcome::Passed), ("a.test_not", TestOutcome::Failed("it is undefined".into()))]);
        let broken = examine(&asked(&[("a.rego", "package a\nimport rego.v1\nallow { input.x }\n")], vec![])).unwrap_err();
        assert_eq!((broken.file.as_deref(), broken.line), (Some("a.rego"), Some(3)));
        assert!(broken.message.contains("`if` keyword is required"), "{broken}");
    }

    #[test]
    fn rules_are_asked_with_input_data_and_a_clock_that_stands() {
        let whole = json!({"list": ["x"], "who": "w"});
        let questions = vec![
            question("a.allow", whole.clone(), json!({"used": {"w": 2}})),
            question("a.allow", whole, json!({"used": {"w": 3}})),
            question("a.over", json!({"n": 3}), json!({})),
            question("a.late", json!({"end": "2026-01-15T12:00:00Z"}), json!({})),
            question("a.late", json!({"end": "2026-01-15T11:59:59Z"}), json!({})),
            question("a.late", json!({"end": "never"}), json!({})),
        ];
        let replies = examine(&asked(&[("a.rego", OLD)], questions)).unwrap().replies;
        assert_eq!(replies[0], Reply::Value(json!(true)));
        assert_eq!(replies[1], Reply::Undefined);
        assert_eq!(replies[2], Reply::Failed("rule conflicts with rule at a.rego:6:1".into()), "two values at once");
        assert_eq!((&replies[3], &replies[4]), (&Reply::Undefined, &Reply::Value(json!(true))));
        assert_eq!(replies[5], Reply::Undefined, "as OPA, which is not strict");
    }

    #[test]
    fn what_stands_there_is_a_constant_and_what_asks_is_none() {
        let examined = examine(&asked(&[("a.rego", OLD)], vec![])).unwrap();
        let constants: Vec<_> = examined.rules.iter().map(|rule| (rule.name.as_str(), rule.constant.clone())).collect();
        assert_eq!(constants, [("allow", None), ("late", None), ("limit", Some(json!(3))), ("over", None)]);
    }
}
