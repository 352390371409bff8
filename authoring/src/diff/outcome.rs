//! A decision in a form that two policies share, and in words.

use super::callers::{Caller, Kind, NOW};
use super::endpoints::Endpoint;
use decision_core::decision::{ApprovalNeed, Check, Decision, RuleVerdict, Target};
use decision_core::facts::{Authentication, RequestFacts};
use decision_core::gateway::Gateway;
use decision_core::obligations::{Aspect, Obligations};
use decision_core::policy::CompiledPolicy;
use decision_core::principal::{CredentialFault, Principal};

/// What a request comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::large_enum_variant, reason = "millions are made and compared on the stack; a box would be an allocation for each")]
pub(super) enum Outcome<'p> {
    Permit {
        /// Whether custom rules still have to judge.
        ruled: bool,
        obligations: Obligations<'p>,
    },
    Deny(&'static str),
}

/// Decides under both policies.
pub(super) struct Judge<'p> {
    policies: [&'p CompiledPolicy; 2],
}

impl<'p> Judge<'p> {
    pub(super) const fn new(from: &'p CompiledPolicy, to: &'p CompiledPolicy) -> Self {
        Self { policies: [from, to] }
    }

    /// Both outcomes, if they differ; without what is not told, so that the same change on several routes is one.
    pub(super) fn differ(&self, gateway: Gateway, caller: &Caller, endpoint: &Endpoint<'_>) -> Option<(Outcome<'p>, Outcome<'p>)> {
        let [old, new] = &self.policies;
        let [old_route, new_route] = endpoint.routes;
        // The request asks for the upgrade that its route was listed with.
        let upgrade = old_route.or(new_route)?.exchange.upgrade();
        let [before, after] = authentications(caller);
        let facts = |route, authentication| RequestFacts { gateway, method: endpoint.method, route, authentication, upgrade };
        let old = outcome(old, &facts(old_route, before));
        let new = outcome(new, &facts(new_route, after));
        (old != new).then(|| (told_beside(old, new), told_beside(new, old)))
    }
}

/// Without what `words` leaves out beside that other outcome.
fn told_beside<'p>(outcome: Outcome<'p>, other: Outcome<'p>) -> Outcome<'p> {
    let Outcome::Permit { ruled, obligations: mine } = outcome else { return outcome };
    let theirs = match other {
        Outcome::Permit { obligations, .. } => obligations,
        Outcome::Deny(_) => mine,
    };
    let obligations = Obligations {
        limit: changed(mine.limit, theirs.limit),
        ownership: changed(mine.ownership, theirs.ownership),
        credential: changed(mine.credential, theirs.credential),
        rewrite: changed(mine.rewrite, theirs.rewrite),
        exchange: changed(mine.exchange, theirs.exchange),
        metering: changed(mine.metering, theirs.metering),
        ..mine
    };
    Outcome::Permit { ruled, obligations }
}

fn changed<T: PartialEq + Default>(mine: T, theirs: T) -> T {
    if mine == theirs { T::default() } else { mine }
}

/// A change as `permit, ownership: query customer_id` and `permit, ownership: none`: of what a permit obliges to, only what changes.
pub(super) fn words([from, to]: [Outcome<'_>; 2]) -> [String; 2] {
    [described(from, to), described(to, from)]
}

fn described(outcome: Outcome<'_>, other: Outcome<'_>) -> String {
    let (ruled, obligations) = match outcome {
        Outcome::Deny(reason) => return format!("deny: {reason}"),
        Outcome::Permit { ruled, obligations } => (ruled, obligations),
    };
    let mut words = "permit".to_owned();
    let governor = obligations.approval == ApprovalNeed::Governor;
    let sandbox = obligations.target == Target::Sandbox;
    for (holds, addition) in [(ruled, " if the rules allow"), (governor, " with an approval"), (sandbox, " to the sandbox")] {
        if holds {
            words.push_str(addition);
        }
    }
    for (index, (budget, amount)) in obligations.charges.iter().enumerate() {
        words.push_str(&format!("{} {amount} on {budget}", if index == 0 { ", charged" } else { "," }));
    }
    if let Outcome::Permit { obligations: other, .. } = other {
        for aspect in obligations.differences(&other) {
            if let Some(value) = value(&obligations, aspect) {
                words.push_str(&format!(", {}: {value}", aspect.name()));
            }
        }
        if let (true, Some(metering)) = (obligations.metering != other.metering, obligations.metering) {
            words.push_str(&format!(", metering: {metering}"));
        }
    }
    words
}

/// In words, unless `described` has said it already.
fn value(obligations: &Obligations<'_>, aspect: Aspect) -> Option<String> {
    let or_none = |value: Option<&str>| Some(value.unwrap_or("none").to_owned());
    match aspect {
        Aspect::Check(Check::ClientLimit) => or_none(obligations.limit),
        Aspect::Check(Check::Ownership) => Some(obligations.ownership.map_or_else(|| "none".to_owned(), ToString::to_string)),
        Aspect::Credential => or_none(Some(obligations.credential.name())),
        Aspect::Rewrite => or_none(obligations.rewrite),
        Aspect::Exchange => or_none(Some(obligations.exchange.name())),
        Aspect::Check(
            Check::Path
            | Check::Route
            | Check::Authentication
            | Check::Permission
            | Check::Trial
            | Check::Approval
            | Check::Routing
            | Check::Rules
            | Check::Budget,
        ) => None,
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

fn outcome<'p>(policy: &'p CompiledPolicy, facts: &RequestFacts<'_>) -> Outcome<'p> {
    let (permit, ruled) = match decision_core::decide(policy, facts, NOW) {
        Decision::Permit(permit) => (permit, false),
        Decision::Conditional(conditional) => match conditional.ruled(RuleVerdict::Allow { target: None }, &mut ()) {
            Ok(permit) => (permit, true),
            Err(denial) => return Outcome::Deny(denial.reason.code()),
        },
        Decision::Deny(denial) => return Outcome::Deny(denial.reason.code()),
    };
    Outcome::Permit { ruled, obligations: Obligations::of(policy, &permit) }
}
