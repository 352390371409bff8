//! Loading in steps, so that a worker's tick stays short: one module or one self-check vector a step.

use crate::field::UnknownField;
use crate::projection::Inputs;
use crate::ruling::Ruling;
use crate::set::{Evaluator, RuleSet};
use regorus::{Engine, Value};
use std::collections::VecDeque;

/// What a rule set is made of. The gate of publishing has checked it.
#[derive(Clone, Copy, Debug)]
pub struct RuleSource<'s> {
    /// File names and texts of the modules, tests left out.
    pub modules: &'s [(String, String)],
    /// What the rules see as `data`: a JSON object; empty for none.
    pub data: &'s str,
    /// What they may read of `input`.
    pub inputs: &'s [String],
}

/// Why rules are not loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A declared input is not one.
    #[error("rules.inputs: {0}")]
    Input(#[from] UnknownField),
    /// The data document is no JSON object.
    #[error("rules.data: not a JSON object")]
    Data,
    /// A module does not parse.
    #[error("{file}: {problem}")]
    Module {
        /// The file.
        file: String,
        /// What is wrong, in the parser's words.
        problem: String,
    },
    /// A self-check vector is no JSON object.
    #[error("rules: self-check vector {number} is no JSON object")]
    Vector {
        /// Its number, from 0.
        number: usize,
    },
    /// A self-check vector is decided otherwise here than where it was made.
    #[error("rules: self-check vector {number} is decided {here}, not {there}")]
    Differs {
        /// Its number, from 0.
        number: usize,
        /// The decision here.
        here: String,
        /// The decision that was computed when the rules were published.
        there: String,
    },
}

/// Rules that are being loaded.
#[derive(Debug)]
pub struct Loader {
    inputs: Inputs,
    stage: Stage,
    vectors: VecDeque<(String, String)>,
    checked: usize,
}

#[derive(Debug)]
enum Stage {
    Parsing { engine: Box<Engine>, modules: VecDeque<(String, String)> },
    Checking(Box<Evaluator>),
}

/// What a step came to.
#[derive(Debug)]
pub enum Progress {
    /// More steps are needed.
    More(Loader),
    /// The rules may be relied on.
    Ready(Box<RuleSet>),
}

impl Loader {
    /// Begins. `vectors` are inputs with the decisions that they had when the rules were published, both as JSON.
    ///
    /// # Errors
    /// The inputs or the data are not what they should be.
    pub fn new(source: &RuleSource<'_>, vectors: impl IntoIterator<Item = (String, String)>) -> Result<Self, LoadError> {
        let inputs = Inputs::parse(source.inputs)?;
        let mut engine = Engine::new();
        if !source.data.is_empty() {
            let data = Value::from_json_str(source.data).map_err(|_cause| LoadError::Data)?;
            engine.add_data(data).map_err(|_cause| LoadError::Data)?;
        }
        let modules = source.modules.iter().cloned().collect();
        Ok(Self { inputs, stage: Stage::Parsing { engine: Box::new(engine), modules }, vectors: vectors.into_iter().collect(), checked: 0 })
    }

    /// Takes one step.
    ///
    /// # Errors
    /// A module does not parse, or a vector is decided otherwise: none of it may be relied on.
    pub fn step(mut self) -> Result<Progress, LoadError> {
        self.stage = match self.stage {
            Stage::Parsing { mut engine, mut modules } => match modules.pop_front() {
                Some((file, text)) => {
                    engine.add_policy(file.clone(), text).map_err(|problem| LoadError::Module { file, problem: problem.to_string() })?;
                    Stage::Parsing { engine, modules }
                }
                None => {
                    let mut evaluator = Evaluator::new(*engine);
                    evaluator.prepare();
                    Stage::Checking(Box::new(evaluator))
                }
            },
            Stage::Checking(mut evaluator) => {
                let Some((input, expected)) = self.vectors.pop_front() else {
                    return Ok(Progress::Ready(Box::new(RuleSet::new(self.inputs, *evaluator))));
                };
                check(&mut evaluator, self.checked, &input, &expected)?;
                self.checked = self.checked.saturating_add(1);
                Stage::Checking(evaluator)
            }
        };
        Ok(Progress::More(self))
    }

    /// Takes all steps, where nobody waits.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn finish(mut self) -> Result<RuleSet, LoadError> {
        loop {
            match self.step()? {
                Progress::More(loader) => self = loader,
                Progress::Ready(rules) => return Ok(*rules),
            }
        }
    }
}

/// How often a vector that takes too long is tried: a worker may have been interrupted.
const TRIES: u32 = 3;

fn check(evaluator: &mut Evaluator, number: usize, input: &str, expected: &str) -> Result<(), LoadError> {
    let expected: serde_json::Value = serde_json::from_str(expected).map_err(|_cause| LoadError::Vector { number })?;
    let ruling: Ruling = evaluator.evaluate_json(input, TRIES).ok_or(LoadError::Vector { number })?;
    let here = ruling.to_json();
    if serde_json::from_str::<serde_json::Value>(&here).is_ok_and(|here| here == expected) {
        return Ok(());
    }
    Err(LoadError::Differs { number, here, there: expected.to_string() })
}
