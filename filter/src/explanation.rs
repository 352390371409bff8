//! Why a request was refused, for a caller who may know: the checks as they were made, what they read of the caller, and what would
//! have to be otherwise. It tells what enforcement has noted, in the words of the code that explains, and decides nothing.

use crate::enact::Refusal;
use crate::exchange::Exchange;
use decision_core::budget::BudgetId;
use decision_core::counterfactual::{Change, FactRead, Situation, changes, read_by};
use decision_core::decision::{Check, DenyReason, RuleVerdict};
use decision_core::facts::{Authentication, RequestFacts};
use decision_core::path::CanonicalPath;
use decision_core::policy::{CompiledPolicy, Route};
use decision_core::principal::Principal;
use serde::{Serialize, Serializer};
use wire::audit::{self, CheckOutcome, Outcome};

/// So many bytes of texts in all, and so many of each value and each sentence: what a token or a policy says may be long.
const TEXTS_MAX: usize = 4 * 1_024;
const VALUE_MAX: usize = 128;
const SENTENCE_MAX: usize = 512;
/// The longest list of values.
const LISTED_MAX: usize = 16;

/// Why a request was refused.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    checks: Vec<CheckTold>,
    changes: Vec<ChangeTold>,
    /// Whether some of it was left out.
    cut: bool,
}

/// A check, how it ended, by which rule, and what it read.
#[derive(Debug, Serialize)]
struct CheckTold {
    check: &'static str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    read: Vec<FactTold>,
}

#[derive(Debug, Serialize)]
struct FactTold {
    name: &'static str,
    value: String,
}

/// Something that would have to be otherwise: any of them is enough for the check that refused.
#[derive(Debug, Serialize)]
struct ChangeTold {
    change: &'static str,
    by: &'static str,
    text: String,
    #[serde(serialize_with = "as_map")]
    values: Vec<(&'static str, Vec<String>)>,
}

fn as_map<S: Serializer>(values: &[(&'static str, Vec<String>)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(values.iter().map(|(name, values)| (name, values)))
}

/// Why this request was refused, if the policy has it told and the caller may know: somebody whose token was accepted, with the
/// permission that the policy names. Of what could not be decided there is nothing to tell.
pub(crate) fn of(exchange: &Exchange, refusal: &Refusal) -> Option<Explanation> {
    let trace = &exchange.trace;
    let active = trace.active.as_ref()?;
    let permission = active.policy.explained_with()?;
    // Whether a feature exists is not told.
    let denial = refusal.denial().filter(|denial| denial.reason != DenyReason::FeatureDisabled)?;
    let principal = trace.principal.as_ref().filter(|_| trace.checks.authenticated())?;
    principal.permissions.covers(permission).then(|| told(exchange, &active.policy, principal, denial.reason)).flatten()
}

fn told(exchange: &Exchange, policy: &CompiledPolicy, principal: &Principal, reason: DenyReason) -> Option<Explanation> {
    let trace = &exchange.trace;
    let path = CanonicalPath::parse(exchange.headers.target()).ok()?;
    let route = trace.route.and_then(|route| policy.route_by_id(route));
    let authentication = Authentication::Verified(principal);
    let (gateway, upgrade) = (exchange.settings.gateway, exchange.headers.upgrade());
    let facts = RequestFacts { gateway, method: trace.method?, route, authentication, upgrade };
    let situation = Situation { policy, facts: &facts, path: path.path(), now: trace.looked_at };
    let mut room = Room { left: TEXTS_MAX, cut: false };
    let checks = trace.checks.made().filter_map(|made| {
        let check = Check::ALL.into_iter().find(|check| audit::Check::from(*check) == made.check)?;
        let read = read_by(&situation, check).into_iter().filter(FactRead::is_callers);
        let read = read.map(|fact| FactTold { name: fact.name, value: room.take(&fact.value) }).collect();
        let rule = rule_of(exchange, policy, route, check, *made, reason).map(|rule| room.take(rule));
        Some(CheckTold { check: check.name(), outcome: outcome(made.outcome, reason), rule, read })
    });
    let checks = checks.collect();
    let changes = changes(&situation, reason).iter().filter(|change| change.is_for_callers()).map(|change| room.tell(change)).collect();
    Some(Explanation { checks, changes, cut: room.cut })
}

const fn outcome(outcome: Outcome, reason: DenyReason) -> &'static str {
    match outcome {
        // A flag is the operator's: which check it has switched off is not told either.
        Outcome::Permit | Outcome::SkippedByFlag => "ok",
        Outcome::Deny => reason.code(),
        Outcome::FailedOpen => "failed_open",
        Outcome::FailedClosed => "failed_closed",
    }
}

/// The rule that a check went by: the route, the custom rule that refused, the budget without room.
fn rule_of<'e>(
    exchange: &'e Exchange,
    policy: &'e CompiledPolicy,
    route: Option<&'e Route>,
    check: Check,
    made: CheckOutcome,
    reason: DenyReason,
) -> Option<&'e str> {
    match check {
        Check::Path => None,
        Check::Rules => {
            let ruling = exchange.trace.ruling.as_ref().filter(|ruling| ruling.verdict == RuleVerdict::Deny)?;
            Some(&*ruling.rule)
        }
        Check::Budget => budget_of(reason).filter(|_| made.outcome == Outcome::Deny).and_then(|budget| Some(&*policy.budget(budget)?.name)),
        Check::Route
        | Check::ClientLimit
        | Check::Authentication
        | Check::Permission
        | Check::Trial
        | Check::Ownership
        | Check::Approval
        | Check::Routing => route.map(|route| &*route.name),
    }
}

/// The budget that refused, if one did.
pub(crate) const fn budget_of(reason: DenyReason) -> Option<BudgetId> {
    if let DenyReason::BudgetSpent(budget) | DenyReason::BudgetUnscoped(budget) = reason { Some(budget) } else { None }
}

/// How much may still be told.
struct Room {
    left: usize,
    cut: bool,
}

impl Room {
    fn take(&mut self, text: &str) -> String {
        self.take_most(text, VALUE_MAX)
    }

    fn take_most(&mut self, text: &str, most: usize) -> String {
        let end = text.floor_char_boundary(most.min(self.left));
        let taken = text.get(..end).unwrap_or_default();
        self.left = self.left.saturating_sub(end);
        self.cut |= end < text.len();
        taken.to_owned()
    }

    fn tell(&mut self, change: &Change) -> ChangeTold {
        let mut values = change.values();
        for (_, listed) in &mut values {
            self.cut |= listed.len() > LISTED_MAX;
            listed.truncate(LISTED_MAX);
            listed.iter_mut().for_each(|value| *value = self.take(value));
        }
        ChangeTold { change: change.name(), by: change.by().name(), text: self.take_most(&change.to_string(), SENTENCE_MAX), values }
    }
}
