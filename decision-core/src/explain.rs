//! Why a request would be decided so: the recording observer, ids back to names.

use crate::budget::Units;
use crate::decide::{Observer, decide_observed};
use crate::decision::{ApprovalNeed, Check, Conditional, Decision, DenyReason, Finding, RuleVerdict, Target};
use crate::facts::RequestFacts;
use crate::policy::CompiledPolicy;
use crate::time::Timestamp;

/// A decision with the story behind it. It is made by the very code that enforces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Every check that was made or skipped, in order.
    pub checks: Vec<(Check, Finding)>,
    /// The route's name.
    pub route: Option<String>,
    /// The route's permission, `resource.action`.
    pub action: Option<String>,
    /// What was decided.
    pub outcome: ExplainedOutcome,
}

/// What was decided, in names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExplainedOutcome {
    /// Yes.
    Permit {
        /// Where the request goes.
        target: Target,
        /// Whether a governor has to approve first.
        approval: ApprovalNeed,
        /// Budget names and amounts.
        charges: Vec<(String, Units)>,
    },
    /// No.
    Deny(DenyReason),
}

#[derive(Default)]
struct Recording(Vec<(Check, Finding)>);

impl Observer for Recording {
    fn checked(&mut self, check: Check, finding: Finding) {
        self.0.push((check, finding));
    }
}

/// Decides, and tells why. `rules` judges what the tables permit, where the policy has custom rules.
#[must_use]
pub fn explain(
    policy: &CompiledPolicy,
    facts: &RequestFacts<'_>,
    now: Timestamp,
    rules: impl FnOnce(&Conditional) -> RuleVerdict,
) -> Explanation {
    let mut recording = Recording::default();
    let decided = match decide_observed(policy, facts, now, &mut recording) {
        Decision::Permit(permit) => Ok(permit),
        Decision::Conditional(conditional) => {
            let verdict = rules(&conditional);
            conditional.ruled(verdict, &mut recording)
        }
        Decision::Deny(denial) => Err(denial),
    };
    let outcome = match decided {
        Ok(permit) => ExplainedOutcome::Permit {
            target: permit.target(),
            approval: permit.approval(),
            charges: permit
                .charges()
                .iter()
                .filter_map(|charge| Some((policy.budget(charge.budget)?.name.to_string(), charge.amount)))
                .collect(),
        },
        Err(denial) => ExplainedOutcome::Deny(denial.reason),
    };
    Explanation {
        checks: recording.0,
        route: facts.route.map(|route| route.name.to_string()),
        action: facts.route.filter(|route| !route.action.is_empty()).map(|route| route.action.to_string()),
        outcome,
    }
}
