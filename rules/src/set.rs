//! A rule set that is ready: judges requests, remembers what it said.

use crate::memo::Memo;
use crate::projection::{Inputs, Judged};
use crate::ruling::{Fault, Ruling};
use crate::shape::Shape;
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// The rule that is asked.
pub const ENTRY_POINT: &str = "data.gateway.decision";

/// How long one evaluation may take. The clock is looked at between steps of the interpreter, never inside a builtin.
pub const EVALUATION_MAX: Duration = Duration::from_millis(2);

/// How often an input is tried that takes too long: a worker that was interrupted meanwhile is no reason to refuse.
const TRIES: u32 = 2;

/// Steps between two looks at the clock, which is a call to the host in the filter.
const CLOCK_INTERVAL: NonZeroU32 = match NonZeroU32::new(16) {
    Some(interval) => interval,
    None => NonZeroU32::MIN,
};

/// Rules in force.
#[derive(Debug)]
pub struct RuleSet {
    inputs: Inputs,
    shape: Shape,
    evaluator: Evaluator,
    memo: Memo,
    key: Vec<u8>,
}

impl RuleSet {
    pub(crate) fn new(inputs: Inputs, evaluator: Evaluator) -> Self {
        Self { shape: Shape::of(&inputs), inputs, evaluator, memo: Memo::default(), key: Vec::new() }
    }

    /// What the rules say of a request; from memory, if they said it of an equal input before.
    pub fn judge(&mut self, judged: &Judged<'_>) -> Arc<Ruling> {
        self.inputs.write_key(judged, &mut self.key);
        if let Some(ruling) = self.memo.find(&self.key) {
            return ruling;
        }
        let ruling = Arc::new(self.judge_anew(judged));
        if !ruling.fault.is_some_and(Fault::may_pass) {
            self.memo.keep(&self.key, &ruling);
        }
        ruling
    }

    /// [`Self::judge`] without memory.
    pub fn judge_anew(&mut self, judged: &Judged<'_>) -> Ruling {
        self.evaluator.evaluate(&self.shape.fill(judged), TRIES)
    }

    /// How many rulings are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.memo.len()
    }

    /// What the rules say of an input that is given as JSON, and of nothing that was not declared beside it; tried so often when
    /// it takes too long. `None` when it is no JSON object.
    pub fn evaluate_json(&mut self, input: &str, tries: u32) -> Option<Ruling> {
        self.evaluator.evaluate_json(input, tries)
    }
}

/// The interpreter, and a copy of it to begin anew with.
#[derive(Debug)]
pub(crate) struct Evaluator {
    engine: Engine,
    pristine: Engine,
}

impl Evaluator {
    /// An engine that has all its modules.
    pub(crate) fn new(mut engine: Engine) -> Self {
        engine.set_strict_builtin_errors(true);
        engine.set_execution_timer_config(ExecutionTimerConfig { limit: EVALUATION_MAX, check_interval: CLOCK_INTERVAL });
        Self { pristine: engine.clone(), engine }
    }

    /// Compiles the modules together, once: the first evaluation would do it otherwise, and the copy again.
    pub(crate) fn prepare(&mut self) {
        // What it evaluates to is not looked at here, and may well be an error: there is no input.
        self.engine.set_input(Value::new_object());
        drop(self.engine.eval_rule(ENTRY_POINT.into()));
        self.pristine = self.engine.clone();
    }

    /// Tried so often as long as it takes too long.
    pub(crate) fn evaluate(&mut self, input: &Value, tries: u32) -> Ruling {
        let mut ruling = self.try_once(input);
        for _ in 1..tries {
            if !ruling.fault.is_some_and(Fault::may_pass) {
                break;
            }
            ruling = self.try_once(input);
        }
        ruling
    }

    fn try_once(&mut self, input: &Value) -> Ruling {
        self.engine.set_input(input.clone());
        match self.engine.eval_rule(ENTRY_POINT.into()) {
            Ok(value) => Ruling::of(&value),
            Err(error) => {
                // What an interrupted evaluation leaves behind must not reach the next one.
                self.engine = self.pristine.clone();
                fault_of(&error).into()
            }
        }
    }

    pub(crate) fn evaluate_json(&mut self, input: &str, tries: u32) -> Option<Ruling> {
        let input = Value::from_json_str(input).ok().filter(|input| input.as_object().is_ok())?;
        Some(self.evaluate(&input, tries))
    }
}

/// What the interpreter says of a time-out. Its error is put into words where a function was called, so its type is gone.
const TIMED_OUT: &str = "execution exceeded time limit";

fn fault_of(error: &impl std::fmt::Display) -> Fault {
    if error.to_string().contains(TIMED_OUT) { Fault::TimedOut } else { Fault::Failed }
}
