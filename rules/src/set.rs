//! A rule set that is ready: judges requests, remembers what it said.

use crate::memo::Memo;
use crate::projection::{Inputs, Judged};
use crate::ruling::{Fault, Ruling};
use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, LimitError, Value};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// The rule that is asked.
pub const ENTRY_POINT: &str = "data.gateway.decision";

/// How long one evaluation may take. The clock is looked at between steps of the interpreter, never inside a builtin.
pub const EVALUATION_MAX: Duration = Duration::from_millis(2);

/// Steps between two looks at the clock, which is a call to the host in the filter.
const CLOCK_INTERVAL: NonZeroU32 = match NonZeroU32::new(64) {
    Some(interval) => interval,
    None => NonZeroU32::MIN,
};

/// Rules in force.
#[derive(Debug)]
pub struct RuleSet {
    inputs: Inputs,
    evaluator: Evaluator,
    memo: Memo,
    key: Vec<u8>,
}

impl RuleSet {
    pub(crate) fn new(inputs: Inputs, evaluator: Evaluator) -> Self {
        Self { inputs, evaluator, memo: Memo::default(), key: Vec::new() }
    }

    /// What the rules say of a request; from memory, if they said it of an equal input before.
    pub fn judge(&mut self, judged: &Judged<'_>) -> Arc<Ruling> {
        self.inputs.write_key(judged, &mut self.key);
        if let Some(ruling) = self.memo.find(&self.key) {
            return ruling;
        }
        let ruling = Arc::new(self.evaluator.evaluate(self.inputs.value(judged)));
        if !ruling.fault.is_some_and(Fault::may_pass) {
            self.memo.keep(&self.key, &ruling);
        }
        ruling
    }

    /// [`Self::judge`] without memory.
    pub fn judge_anew(&mut self, judged: &Judged<'_>) -> Ruling {
        self.evaluator.evaluate(self.inputs.value(judged))
    }

    /// How many rulings are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.memo.len()
    }

    /// What the rules say of an input that is given as JSON, and of nothing that was not declared beside it. `None` when it is
    /// no JSON object.
    pub fn evaluate_json(&mut self, input: &str) -> Option<Ruling> {
        self.evaluator.evaluate_json(input)
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

    pub(crate) fn evaluate(&mut self, input: Value) -> Ruling {
        self.engine.set_input(input);
        match self.engine.eval_rule(ENTRY_POINT.into()) {
            Ok(value) => Ruling::of(&value),
            Err(error) => {
                // What an interrupted evaluation leaves behind must not reach the next one.
                self.engine = self.pristine.clone();
                fault_of(&error).into()
            }
        }
    }

    pub(crate) fn evaluate_json(&mut self, input: &str) -> Option<Ruling> {
        let input = Value::from_json_str(input).ok().filter(|input| input.as_object().is_ok())?;
        Some(self.evaluate(input))
    }
}

fn fault_of(error: &impl FaultSource) -> Fault {
    if error.is_time_out() { Fault::TimedOut } else { Fault::Failed }
}

/// The interpreter's error type has no name here.
trait FaultSource {
    fn is_time_out(&self) -> bool;
}

impl<E: AsRef<dyn std::error::Error + Send + Sync>> FaultSource for E {
    fn is_time_out(&self) -> bool {
        let error: &(dyn std::error::Error + 'static) = self.as_ref();
        let mut cause = Some(error);
        while let Some(error) = cause {
            if matches!(error.downcast_ref(), Some(LimitError::TimeLimitExceeded { .. })) {
                return true;
            }
            cause = error.source();
        }
        false
    }
}
