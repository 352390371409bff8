//! A request that is not made, only asked about.

use authn::{Algorithm, JwsHeader};
use decision_core::budget::BudgetId;
use decision_core::counterfactual::{self, Change, CheckTold, FactRead, Situation};
use decision_core::decision::{Check, Conditional, Decision, DenyReason, Finding};
use decision_core::explain::{ExplainedOutcome, Explanation};
use decision_core::facts::{Authentication, RequestFacts, Upgrade};
use decision_core::gateway::{Gateway, Method};
use decision_core::path::CanonicalPath;
use decision_core::policy::CompiledPolicy;
use decision_core::principal::{CredentialFault, Identity, Principal};
use decision_core::time::Timestamp;
use rules::{Fault, Ruling};
use serde_json::{Map, Value};
use std::sync::Arc;
use wire::bundle::LoadedBundle;

/// Who asks.
#[derive(Clone, Debug)]
pub enum Asker {
    /// Somebody without a credential.
    Anonymous,
    /// Somebody with a good registration key.
    Registered,
    /// A user.
    Verified(Box<Principal>),
    /// Somebody whose credential is not good.
    Refused(CredentialFault),
}

impl Asker {
    /// The user of these claims, as if their signature had been verified: with the header that the issuer's own rules ask for.
    #[must_use]
    pub fn of_claims(bundle: &LoadedBundle, claims: &Map<String, Value>, now: Timestamp) -> Self {
        let Some(rules) = claims.get("iss").and_then(Value::as_str).and_then(|iss| bundle.issuers.find(iss)) else {
            return Self::Refused(CredentialFault::IssuerMismatch);
        };
        let key = rules.keys.first();
        let header = JwsHeader {
            algorithm: key.map_or(Algorithm::Es256, |key| key.algorithm),
            kid: key.and_then(|key| key.kid.clone()),
            typ: rules.token_types.first().cloned(),
        };
        let payload = Value::Object(claims.clone()).to_string();
        match authn::check_claims(payload.as_bytes(), &header, rules, key.and_then(|key| key.kid.as_deref()), now) {
            Ok(identity) => Self::of_identity(&bundle.policy, identity),
            Err(fault) => Self::Refused(fault),
        }
    }

    /// The user of this identity; refused when the policy knows none of its roles.
    #[must_use]
    pub fn of_identity(policy: &CompiledPolicy, identity: Identity) -> Self {
        policy.principal(identity).map_or(Self::Refused(CredentialFault::NoKnownRole), |principal| Self::Verified(Box::new(principal)))
    }

    const fn authentication(&self) -> Authentication<'_> {
        match self {
            Self::Anonymous => Authentication::Anonymous,
            Self::Registered => Authentication::Registered,
            Self::Verified(principal) => Authentication::Verified(principal),
            Self::Refused(fault) => Authentication::Refused(*fault),
        }
    }
}

/// A request that is asked about.
#[derive(Clone, Debug)]
pub struct Asked<'q> {
    /// Where it would come to.
    pub gateway: Gateway,
    /// Its method.
    pub method: &'q str,
    /// Its path, with or without a query.
    pub path: &'q str,
    /// Which protocol it would ask to change to.
    pub upgrade: Upgrade,
    /// Who asks.
    pub asker: &'q Asker,
    /// When.
    pub now: Timestamp,
}

/// What the tables permit, for custom rules to judge.
#[derive(Debug)]
pub struct Tabled<'r> {
    /// What is asked and by whom.
    pub facts: &'r RequestFacts<'r>,
    /// The path and query.
    pub path: &'r CanonicalPath<'r>,
    /// What the tables say.
    pub conditional: &'r Conditional,
    /// When.
    pub now: Timestamp,
}

/// Custom rules.
pub trait Judge {
    /// Judges what the tables permit.
    fn judge(&mut self, tabled: &Tabled<'_>) -> Arc<Ruling>;
}

/// Of rules that cannot be asked: they refuse, as in the filter.
#[must_use]
pub fn unasked() -> Arc<Ruling> {
    Arc::new(Ruling::from(Fault::Undefined))
}

/// For a policy without custom rules, which asks for no judgement. One that has them is denied what they would judge, as the
/// filter does when they cannot be evaluated.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRules;

impl Judge for NoRules {
    fn judge(&mut self, _tabled: &Tabled<'_>) -> Arc<Ruling> {
        unasked()
    }
}

/// An answer with its story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The story.
    pub explanation: Explanation,
    /// Every check again, with what it read.
    pub checks: Vec<CheckTold>,
    /// What would have to change for the request to go on; any one of them is enough for the check that stands in its way.
    pub changes: Vec<Change>,
    /// What custom rules said, if they were asked.
    pub ruling: Option<Arc<Ruling>>,
}

/// Why the policy would decide so.
#[must_use]
pub fn explain(policy: &CompiledPolicy, asked: &Asked<'_>, judge: &mut dyn Judge) -> Explained {
    let path = match CanonicalPath::parse(asked.path.as_bytes()) {
        Ok(path) => path,
        Err(ambiguous) => return refused_path(policy, asked, DenyReason::AmbiguousPath(ambiguous)),
    };
    let facts = facts(policy, asked, &path);
    let mut ruling = None;
    let explanation = decision_core::explain(policy, &facts, asked.now, |conditional| {
        let ruled = judge.judge(&Tabled { facts: &facts, path: &path, conditional, now: asked.now });
        let verdict = ruled.verdict;
        ruling = Some(ruled);
        verdict
    });
    let situation = Situation { policy, facts: &facts, path: path.path(), now: asked.now };
    let checks = counterfactual::told(&situation, &explanation);
    let changes = counterfactual::outcome_changes(&situation, &explanation);
    Explained { explanation, checks, changes, ruling }
}

/// What would have to change for a refusal that is not decided by the policy alone: for what was left in a budget, what was in a
/// body, what a governor said.
#[must_use]
pub fn changes_of(policy: &CompiledPolicy, asked: &Asked<'_>, reason: DenyReason) -> Vec<Change> {
    let Ok(path) = CanonicalPath::parse(asked.path.as_bytes()) else { return vec![Change::CanonicalPath] };
    let facts = facts(policy, asked, &path);
    let situation = Situation { policy, facts: &facts, path: path.path(), now: asked.now };
    let all = |reasons: Vec<DenyReason>| {
        let mut found = Vec::new();
        for change in reasons.into_iter().flat_map(|reason| counterfactual::changes(&situation, reason)) {
            if !found.contains(&change) {
                found.push(change);
            }
        }
        found
    };
    // Which of its budgets it was is not recorded.
    if let DenyReason::BudgetSpent(_) = reason {
        return all(charged(policy, &facts, asked.now).into_iter().map(DenyReason::BudgetSpent).collect());
    }
    if let DenyReason::BudgetUnscoped(_) = reason {
        return all(charged(policy, &facts, asked.now).into_iter().map(DenyReason::BudgetUnscoped).collect());
    }
    if let DenyReason::ClientLimited(_) = reason {
        return all(facts.route.and_then(|route| route.limit).map(DenyReason::ClientLimited).into_iter().collect());
    }
    all(vec![reason])
}

/// The budgets that the request is charged to, as far as the tables permit it; else those of its route.
fn charged(policy: &CompiledPolicy, facts: &RequestFacts<'_>, now: Timestamp) -> Vec<BudgetId> {
    match decision_core::decide(policy, facts, now) {
        Decision::Permit(permit) => permit.charges().iter().map(|charge| charge.budget).collect(),
        Decision::Conditional(_) | Decision::Deny(_) => {
            facts.route.map(|route| route.charges.iter().map(|charge| charge.budget).collect()).unwrap_or_default()
        }
    }
}

/// What the policy would decide: the reason and the route when it refuses, with what custom rules said.
///
/// # Errors
/// The refusal.
pub fn decide(
    policy: &CompiledPolicy,
    asked: &Asked<'_>,
    judge: &mut dyn Judge,
) -> (Result<decision_core::decision::Permit, decision_core::decision::Denial>, Option<Arc<Ruling>>) {
    let path = match CanonicalPath::parse(asked.path.as_bytes()) {
        Ok(path) => path,
        Err(ambiguous) => {
            let reason = DenyReason::AmbiguousPath(ambiguous);
            return (Err(decision_core::decision::Denial { reason, route: None }), None);
        }
    };
    let facts = facts(policy, asked, &path);
    match decision_core::decide(policy, &facts, asked.now) {
        Decision::Permit(permit) => (Ok(permit), None),
        Decision::Deny(denial) => (Err(denial), None),
        Decision::Conditional(conditional) => {
            let ruling = judge.judge(&Tabled { facts: &facts, path: &path, conditional: &conditional, now: asked.now });
            (conditional.ruled(ruling.verdict, &mut ()), Some(ruling))
        }
    }
}

fn facts<'r>(policy: &'r CompiledPolicy, asked: &Asked<'r>, path: &CanonicalPath<'_>) -> RequestFacts<'r> {
    // A method that no route may name matches none, as in the filter.
    let method = Method::parse(asked.method.as_bytes());
    RequestFacts {
        gateway: asked.gateway,
        method: method.unwrap_or(Method::Get),
        route: method.and_then(|method| policy.route(asked.gateway, method, path.path())),
        authentication: asked.asker.authentication(),
        upgrade: asked.upgrade,
    }
}

fn refused_path(policy: &CompiledPolicy, asked: &Asked<'_>, reason: DenyReason) -> Explained {
    let explanation = Explanation {
        checks: vec![(Check::Path, Finding::Refused(reason))],
        route: None,
        action: None,
        outcome: ExplainedOutcome::Deny(reason),
        status: Some(reason.status(Some(policy))),
    };
    let changes = vec![Change::CanonicalPath];
    let read = vec![FactRead { name: "path", value: asked.path.to_owned() }];
    let told = CheckTold { check: Check::Path, finding: Finding::Refused(reason), read, changes: changes.clone() };
    Explained { explanation, checks: vec![told], changes, ruling: None }
}
