//! Why a request would be decided so: the recording observer, ids back to names.

use crate::budget::Units;
use crate::decide::{Observer, decide_observed};
use crate::decision::{ApprovalNeed, Charge, Check, Conditional, Decision, DenyReason, Finding, Permit, RuleVerdict, Target};
use crate::facts::RequestFacts;
use crate::obligations::Obligations;
use crate::policy::{CompiledPolicy, CredentialForwarding, ExchangeKind, Metering, OwnershipPlace, Route};
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
    /// What the client gets where the request does not go on: it is refused, or somebody has to approve first.
    pub status: Option<u16>,
}

/// What was decided, in names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExplainedOutcome {
    /// Yes.
    Permit(Box<ExplainedPermit>),
    /// No.
    Deny(DenyReason),
}

/// What a permit comes to: its [`Obligations`], kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedPermit {
    /// Where the request goes.
    pub target: Target,
    /// Whether a governor has to approve first.
    pub approval: ApprovalNeed,
    /// What is charged, by the names of budgets.
    pub charges: Vec<ExplainedCharge>,
    /// The budget that counts the requests of a client address, and its cap.
    pub limit: Option<(String, Units)>,
    /// Where the caller's customer id is forced into the request: in what, and under which name.
    pub ownership: Option<(OwnershipPlace, String)>,
    /// The path that the backend gets instead.
    pub rewrite: Option<String>,
    /// What the backend gets as credential.
    pub credential: CredentialForwarding,
    /// What kind of exchange it is.
    pub exchange: ExchangeKind,
    /// How it becomes known what it cost; absent where that is what is charged. Until then the request's own bound is reserved.
    pub metering: Option<String>,
}

/// A charge, and the budget that it goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedCharge {
    /// The budget's name.
    pub budget: String,
    /// How much.
    pub amount: Units,
    /// How much may be spent in a window.
    pub cap: Units,
}

impl ExplainedPermit {
    fn of(policy: &CompiledPolicy, permit: &Permit) -> Self {
        let Obligations { limit, approval, target, credential, rewrite, exchange, ownership: _, charges: _, metering } =
            Obligations::of(policy, permit);
        let owner = policy.route_by_id(permit.route()).and_then(Route::owner);
        let charged = |charge: Charge| {
            let budget = policy.budget(charge.budget)?;
            Some(ExplainedCharge { budget: budget.name.to_string(), amount: charge.amount, cap: budget.cap })
        };
        Self {
            target,
            approval,
            // In the policy's order, which is the order of the answer.
            charges: permit.charges().iter().filter_map(charged).collect(),
            limit: limit.and_then(|name| Some((name.to_owned(), policy.budget_by_name(name)?.cap))),
            ownership: owner.map(|(place, name)| (place, name.to_owned())),
            rewrite: rewrite.map(str::to_owned),
            credential,
            exchange,
            metering: metering.filter(|metering| **metering != Metering::Fixed).map(ToString::to_string),
        }
    }
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
        Ok(permit) => ExplainedOutcome::Permit(Box::new(ExplainedPermit::of(policy, &permit))),
        Err(denial) => ExplainedOutcome::Deny(denial.reason),
    };
    let stopped = match &outcome {
        ExplainedOutcome::Deny(reason) => Some(*reason),
        ExplainedOutcome::Permit(permit) => (permit.approval == ApprovalNeed::Governor).then_some(DenyReason::ApprovalRequired),
    };
    Explanation {
        checks: recording.0,
        route: facts.route.map(|route| route.name.to_string()),
        action: facts.route.filter(|route| !route.action.is_empty()).map(|route| route.action.to_string()),
        outcome,
        status: stopped.map(|reason| reason.status(Some(policy))),
    }
}
