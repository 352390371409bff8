//! A decision in a form that two policies share, and in words.

use super::callers::{Caller, Kind, NOW};
use super::endpoints::Endpoint;
use decision_core::decision::{ApprovalNeed, Decision, Permit, RuleVerdict, Target};
use decision_core::facts::{Authentication, RequestFacts};
use decision_core::gateway::Gateway;
use decision_core::policy::{CHARGES_MAX, CompiledPolicy};
use decision_core::principal::{CredentialFault, Principal};
use std::collections::HashMap;
use std::fmt::Write as _;

/// What a request comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    Permit {
        /// Whether custom rules still have to judge.
        ruled: bool,
        sandbox: bool,
        governor: bool,
        /// Budgets by their place among the names of both policies, and amounts.
        charges: [Option<(usize, i64)>; CHARGES_MAX],
    },
    Deny(&'static str),
}

/// Decides under both policies.
pub(super) struct Judge<'a> {
    policies: [&'a CompiledPolicy; 2],
    budgets: Vec<&'a str>,
    /// The place of each policy's budgets among all names.
    places: [Vec<usize>; 2],
}

impl<'a> Judge<'a> {
    pub(super) fn new(from: &'a CompiledPolicy, to: &'a CompiledPolicy) -> Self {
        let mut budgets: Vec<&str> = Vec::new();
        let mut known: HashMap<&str, usize> = HashMap::new();
        let places = [from, to].map(|policy| {
            let place = |name: &'a str| {
                *known.entry(name).or_insert_with(|| {
                    budgets.push(name);
                    budgets.len().saturating_sub(1)
                })
            };
            policy.budgets().iter().map(|budget| &*budget.name).map(place).collect()
        });
        Self { policies: [from, to], budgets, places }
    }

    /// Both outcomes, if they differ.
    pub(super) fn differ(&self, gateway: Gateway, caller: &Caller, endpoint: &Endpoint<'_>) -> Option<(Outcome, Outcome)> {
        let [old, new] = &self.policies;
        let [old_route, new_route] = endpoint.routes;
        // The request asks for the upgrade that its route was listed with.
        let upgrade = old_route.or(new_route)?.exchange.upgrade();
        let [before, after] = authentications(caller);
        let facts = |route, authentication| RequestFacts { gateway, method: endpoint.method, route, authentication, upgrade };
        let [old_places, new_places] = &self.places;
        let old = outcome(old, &facts(old_route, before), old_places);
        let new = outcome(new, &facts(new_route, after), new_places);
        (old != new).then_some((old, new))
    }

    pub(super) fn words(&self, outcome: Outcome) -> String {
        let (ruled, sandbox, governor, charges) = match outcome {
            Outcome::Deny(reason) => return format!("deny: {reason}"),
            Outcome::Permit { ruled, sandbox, governor, charges } => (ruled, sandbox, governor, charges),
        };
        let mut words = "permit".to_owned();
        for (holds, addition) in [(ruled, " if the rules allow"), (governor, " with an approval"), (sandbox, " to the sandbox")] {
            if holds {
                words.push_str(addition);
            }
        }
        for (index, (place, amount)) in charges.into_iter().flatten().enumerate() {
            let budget = self.budgets.get(place).copied().unwrap_or_default();
            // Writing to a string does not fail.
            let _ = write!(words, "{} {amount} on {budget}", if index == 0 { ", charged" } else { "," });
        }
        words
    }
}

fn authentications(caller: &Caller) -> [Authentication<'_>; 2] {
    match &caller.kind {
        Kind::Anonymous => [Authentication::Anonymous; 2],
        Kind::Registered => [Authentication::Registered; 2],
        Kind::Token(principals) => {
            let [old, new] = &**principals;
            [verified(old.as_ref()), verified(new.as_ref())]
        }
    }
}

fn verified(principal: Option<&Principal>) -> Authentication<'_> {
    principal.map_or(Authentication::Refused(CredentialFault::NoKnownRole), Authentication::Verified)
}

fn outcome(policy: &CompiledPolicy, facts: &RequestFacts<'_>, places: &[usize]) -> Outcome {
    match decision_core::decide(policy, facts, NOW) {
        Decision::Permit(permit) => permitted(&permit, false, places),
        Decision::Conditional(conditional) => match conditional.ruled(RuleVerdict::Allow { target: None }, &mut ()) {
            Ok(permit) => permitted(&permit, true, places),
            Err(denial) => Outcome::Deny(denial.reason.code()),
        },
        Decision::Deny(denial) => Outcome::Deny(denial.reason.code()),
    }
}

fn permitted(permit: &Permit, ruled: bool, places: &[usize]) -> Outcome {
    let mut charges = [None; CHARGES_MAX];
    for (slot, charge) in charges.iter_mut().zip(permit.charges().iter()) {
        *slot = places.get(charge.budget.index()).map(|place| (*place, charge.amount.get()));
    }
    // The order in which a policy lists its budgets is no difference.
    charges.sort_unstable();
    Outcome::Permit { ruled, sandbox: permit.target() == Target::Sandbox, governor: permit.approval() == ApprovalNeed::Governor, charges }
}
