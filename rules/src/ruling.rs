//! What the rules say, and what counts as saying no: everything that is not a whole decision.

use crate::projection::target_name;
use decision_core::decision::{RuleVerdict, Target};
use regorus::Value;

/// The longest name of a rule, and the longest reason: they stand in answers and records.
const RULE_BYTES_MAX: usize = 128;
const REASON_BYTES_MAX: usize = 512;

/// A verdict and the rule that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// Yes or no.
    pub verdict: RuleVerdict,
    /// The rule, as it names itself; a fixed name where the rules gave no decision.
    pub rule: Box<str>,
    /// Why, for the client. May be empty.
    pub reason: Box<str>,
    /// Set where the rules gave no decision.
    pub fault: Option<Fault>,
}

/// Why there is no decision. Each denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// No rule applies, and there is no default.
    Undefined,
    /// Evaluation failed: a conflict, or a builtin on a value that it does not take.
    Failed,
    /// Evaluation took too long.
    TimedOut,
    /// The decision is no object.
    NotAnObject,
    /// A field of the decision is missing, unknown, too long or of another type.
    Malformed,
    /// The decision's target is neither `production` nor `sandbox`.
    UnknownTarget,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Undefined, Self::Failed, Self::TimedOut, Self::NotAnObject, Self::Malformed, Self::UnknownTarget];

    /// The fixed name under which it refuses.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Undefined => "rules.undefined",
            Self::Failed => "rules.error",
            Self::TimedOut => "rules.timeout",
            Self::NotAnObject => "rules.not_an_object",
            Self::Malformed => "rules.malformed",
            Self::UnknownTarget => "rules.unknown_target",
        }
    }

    /// Whether the same input may have another ruling next time. What was slow once need not be slow again.
    pub(crate) const fn may_pass(self) -> bool {
        match self {
            Self::TimedOut => true,
            Self::Undefined | Self::Failed | Self::NotAnObject | Self::Malformed | Self::UnknownTarget => false,
        }
    }
}

impl From<Fault> for Ruling {
    fn from(fault: Fault) -> Self {
        Self { verdict: RuleVerdict::Deny, rule: fault.rule().into(), reason: "".into(), fault: Some(fault) }
    }
}

impl Ruling {
    /// From the value of the entry point: `{allow, rule, reason?, target?}`.
    pub(crate) fn of(value: &Value) -> Self {
        read(value).unwrap_or_else(Self::from)
    }

    /// As a self-check vector has it.
    #[must_use]
    pub fn to_json(&self) -> String {
        let (allow, target) = match self.verdict {
            RuleVerdict::Allow { target } => (true, target),
            RuleVerdict::Deny => (false, None),
        };
        let mut decision = serde_json::Map::new();
        decision.insert("allow".into(), allow.into());
        decision.insert("rule".into(), (*self.rule).into());
        decision.insert("reason".into(), (*self.reason).into());
        if let Some(target) = target {
            decision.insert("target".into(), target_name(target).into());
        }
        serde_json::Value::Object(decision).to_string()
    }
}

fn read(value: &Value) -> Result<Ruling, Fault> {
    if *value == Value::Undefined {
        return Err(Fault::Undefined);
    }
    let decision = value.as_object().map_err(|_other| Fault::NotAnObject)?;
    let (mut allow, mut rule, mut reason, mut target) = (None, None, "", None);
    for (key, value) in decision.iter() {
        let text = |max| value.as_string().ok().map(|text| &**text).filter(|text| text.len() <= max && !text.contains(char::is_control));
        match key.as_string().map_err(|_other| Fault::Malformed)?.as_ref() {
            "allow" => allow = value.as_bool().ok().copied(),
            "rule" => rule = text(RULE_BYTES_MAX).filter(|name| !name.is_empty()),
            "reason" => reason = text(REASON_BYTES_MAX).ok_or(Fault::Malformed)?,
            "target" => {
                target = Some(match value.as_string().map_err(|_other| Fault::UnknownTarget)?.as_ref() {
                    "production" => Target::Production,
                    "sandbox" => Target::Sandbox,
                    _ => return Err(Fault::UnknownTarget),
                });
            }
            _ => return Err(Fault::Malformed),
        }
    }
    let (allow, rule) = allow.zip(rule).ok_or(Fault::Malformed)?;
    let verdict = if allow { RuleVerdict::Allow { target } } else { RuleVerdict::Deny };
    Ok(Ruling { verdict, rule: rule.into(), reason: reason.into(), fault: None })
}
