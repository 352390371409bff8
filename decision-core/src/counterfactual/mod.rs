//! What a check read, and what would have to be otherwise for it to end otherwise. Said of the very facts that were decided by;
//! it decides nothing.

mod change;

pub use change::{By, Change};

use crate::budget::BudgetId;
use crate::decision::{ApprovalNeed, Check, DenyReason, Finding};
use crate::explain::{ExplainedOutcome, Explanation};
use crate::facts::{Authentication, RequestFacts};
use crate::flag::{FlagId, Switch};
use crate::gateway::{Gateway, Method};
use crate::policy::{CompiledPolicy, IssuerAcceptance, Requirement, Route};
use crate::principal::{CredentialFault, Principal, Trial};
use crate::time::Timestamp;
use change::{moment, upgrade_name};

/// A request, and the policy that decides it.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'r> {
    /// The policy.
    pub policy: &'r CompiledPolicy,
    /// What it decides by.
    pub facts: &'r RequestFacts<'r>,
    /// The canonical path, without query.
    pub path: &'r str,
    /// When.
    pub now: Timestamp,
}

/// A fact that a check read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactRead {
    /// Its name.
    pub name: &'static str,
    /// Its value, in words. Empty: there is none.
    pub value: String,
}

impl FactRead {
    /// Whether it is the caller's own, or of the route that was asked for: not how operators have arranged what is behind it.
    #[must_use]
    pub fn is_callers(&self) -> bool {
        CALLERS.contains(&self.name)
    }
}

/// What callers may be told. A fact that is not named here is not theirs.
const CALLERS: [&str; 18] = [
    "approval",
    "budget",
    "closed_to_trials",
    "credential",
    "customer_id",
    "gateway",
    "governor_agent_id",
    "issuer",
    "method",
    "now",
    "path",
    "permission",
    "roles",
    "route",
    "tier",
    "trial_until",
    "upgrade",
    "wanted",
];

/// A check, what it read, and what would have to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckTold {
    /// The check.
    pub check: Check,
    /// How it ended.
    pub finding: Finding,
    /// The facts that it read.
    pub read: Vec<FactRead>,
    /// Where it refused: any one of these, and it would not have for this reason. Empty: nothing is known to help.
    pub changes: Vec<Change>,
}

/// Every check of an explanation, with what it read; and what stands between the request and the backend, with what would have to
/// change.
#[must_use]
pub fn told(situation: &Situation<'_>, explanation: &Explanation) -> Vec<CheckTold> {
    let check = |(check, finding): &(Check, Finding)| CheckTold {
        check: *check,
        finding: *finding,
        read: read_by(situation, *check),
        changes: match finding {
            Finding::Refused(reason) => changes(situation, *reason),
            Finding::Passed | Finding::SkippedByFlag => Vec::new(),
        },
    };
    explanation.checks.iter().map(check).collect()
}

/// What would have to change for the request to go on: where a check refused, for that; where somebody has to approve, for that.
#[must_use]
pub fn outcome_changes(situation: &Situation<'_>, explanation: &Explanation) -> Vec<Change> {
    match &explanation.outcome {
        ExplainedOutcome::Deny(reason) => changes(situation, *reason),
        ExplainedOutcome::Permit(permit) => match permit.approval {
            ApprovalNeed::Governor => changes(situation, DenyReason::ApprovalRequired),
            ApprovalNeed::None => Vec::new(),
        },
    }
}

/// What would have to change for this reason to be gone. Each is enough by itself, and true of this policy and these facts.
#[must_use]
pub fn changes(situation: &Situation<'_>, reason: DenyReason) -> Vec<Change> {
    let Situation { policy, facts, now, .. } = *situation;
    match reason {
        DenyReason::AmbiguousPath(_) => vec![Change::CanonicalPath],
        DenyReason::AmbiguousHeader(name) | DenyReason::ApprovalHeader(name) => vec![Change::Header(name)],
        DenyReason::NoRoute => elsewhere(situation),
        DenyReason::FeatureDisabled => {
            facts.route.and_then(|route| flag_name(policy, route.flag?)).map(Change::FlagOn).into_iter().collect()
        }
        DenyReason::UpgradeRefused => facts.route.map(|route| Change::Upgrade(route.exchange.upgrade())).into_iter().collect(),
        DenyReason::CredentialMissing => accepted(policy, facts.gateway),
        DenyReason::CredentialRefused(fault) => of_credential(policy, facts.gateway, fault),
        DenyReason::RegistrationKeyRefused => vec![Change::RegistrationKey],
        DenyReason::PermissionMissing => with(of_permission(situation), situation, Switch::Permission),
        DenyReason::TrialExpired => {
            // Where the route is closed to trials, a longer one is refused too, for that.
            with(vec![Change::TrialUntil(now), Change::PaidUser], situation, Switch::Trial)
        }
        DenyReason::TrialRestricted => with(vec![Change::PaidUser, Change::RouteOpenToTrials], situation, Switch::Trial),
        DenyReason::OwnerMissing => vec![Change::CustomerId],
        DenyReason::BodyNotObject => vec![Change::Body("a JSON object")],
        DenyReason::BodyKeyRepeated => vec![Change::Body("a JSON object without a repeated key")],
        DenyReason::BodyTooLarge | DenyReason::ApprovalBodyTooLarge | DenyReason::MeteredBodyTooLarge | DenyReason::AuditedBodyTooLarge => {
            vec![Change::SmallerBody]
        }
        DenyReason::ApprovalRequired => {
            let role = &policy.settings().governor_role;
            // Only its issuer can make a governor of the caller.
            let can_become = principal(facts).is_some_and(|user| policy.may_assign(&user.identity.issuer, role));
            let governor = can_become.then(|| Change::Governor { role: role.clone() });
            let found = [Change::Approval].into_iter().chain(governor).collect();
            with(found, situation, Switch::Approval)
        }
        DenyReason::ApprovalRefused => vec![Change::OtherApproval],
        DenyReason::RuleRefused => with(vec![Change::RuleAllows], situation, Switch::Rules),
        DenyReason::MeteredBody => vec![Change::Body("a request of the route's API")],
        DenyReason::OutputUnlimited => vec![Change::OutputLimit],
        DenyReason::CostUnbounded("") => vec![Change::Body("bounded by what it says")],
        DenyReason::CostUnbounded(_) => vec![Change::Body("without what nothing bounds the cost of")],
        DenyReason::ModelUnpriced => vec![Change::OtherModel, Change::PriceForModel],
        DenyReason::ClientLimited(budget) => policy
            .budget(budget)
            .map(|budget| Change::NextWindow { budget: budget.name.to_string(), at: budget.window_at(now).end })
            .into_iter()
            .collect(),
        DenyReason::BudgetSpent(budget) => with(of_budget(situation, budget), situation, Switch::Budget),
        DenyReason::BudgetUnscoped(budget) => {
            let scoped = policy.budget(budget).map(|budget| Change::ScopeKnown { budget: budget.name.to_string() });
            with(scoped.into_iter().collect(), situation, Switch::Budget)
        }
    }
}

/// Other ways to a route: the same path by other methods, the same request on other gateways.
fn elsewhere(situation: &Situation<'_>) -> Vec<Change> {
    let Situation { policy, facts, path, .. } = *situation;
    let methods: Vec<Method> = Method::ALL.into_iter().filter(|method| policy.route(facts.gateway, *method, path).is_some()).collect();
    let on = |gateway: &Gateway| policy.route(*gateway, facts.method, path).is_some();
    let gateways: Vec<Gateway> = Gateway::ALL.into_iter().filter(on).collect();
    let methods = (!methods.is_empty()).then_some(Change::Method(methods));
    let gateways = (!gateways.is_empty()).then_some(Change::Gateway(gateways));
    methods.into_iter().chain(gateways).chain([Change::RouteExists]).collect()
}

fn accepted(policy: &CompiledPolicy, gateway: Gateway) -> Vec<Change> {
    let issuers: Vec<String> = policy.issuers_of(gateway).map(str::to_owned).collect();
    if issuers.is_empty() { Vec::new() } else { vec![Change::Token { issuers }] }
}

fn of_credential(policy: &CompiledPolicy, gateway: Gateway, fault: CredentialFault) -> Vec<Change> {
    match fault {
        CredentialFault::IssuerMismatch => accepted(policy, gateway),
        CredentialFault::Revoked(_) => vec![Change::GoodToken(fault), Change::Unrevoked(fault)],
        CredentialFault::NotBearer
        | CredentialFault::Malformed
        | CredentialFault::AlgorithmRefused
        | CredentialFault::HeaderRefused
        | CredentialFault::UnknownKey
        | CredentialFault::SignatureInvalid
        | CredentialFault::AudienceMismatch
        | CredentialFault::TokenTypeRefused
        | CredentialFault::ClaimMissing(_)
        | CredentialFault::Expired
        | CredentialFault::NotYetValid
        | CredentialFault::LifetimeTooLong
        | CredentialFault::NoKnownRole
        | CredentialFault::TrialClaimsInvalid
        | CredentialFault::TrialRefused
        | CredentialFault::VerificationBudgetSpent => vec![Change::GoodToken(fault)],
    }
}

fn of_permission(situation: &Situation<'_>) -> Vec<Change> {
    let Situation { policy, facts, .. } = *situation;
    let (Some(route), Some(principal)) = (facts.route, principal(facts)) else { return Vec::new() };
    let Requirement::Permission(permission) = route.requirement else { return Vec::new() };
    let named = route.action.to_string();
    let by = |issuer: &str| {
        let any_of: Vec<String> = policy.roles_with(permission, issuer).map(str::to_owned).collect();
        (!any_of.is_empty()).then(|| Change::Role { issuer: issuer.to_owned(), any_of, permission: named.clone() })
    };
    // The caller's own issuer first; another one only where that cannot help.
    if let Some(own) = by(&principal.identity.issuer) {
        return vec![own];
    }
    let others: Vec<Change> = policy.issuers_of(facts.gateway).filter_map(by).collect();
    if others.is_empty() { vec![Change::PermissionGiven(named)] } else { others }
}

fn of_budget(situation: &Situation<'_>, budget: BudgetId) -> Vec<Change> {
    let Some(budget) = situation.policy.budget(budget) else { return Vec::new() };
    let scope = principal(situation.facts).and_then(|principal| {
        let mut scope = String::new();
        budget.scope.write_scope(principal, &mut scope).ok().map(|()| scope)
    });
    let name = budget.name.to_string();
    vec![Change::NextWindow { budget: name.clone(), at: budget.window_at(situation.now).end }, Change::HigherCap { budget: name, scope }]
}

/// And the flags that switch the check off, unless that is not to be: nothing opens the control plane's own API.
fn with(mut found: Vec<Change>, situation: &Situation<'_>, switch: Switch) -> Vec<Change> {
    if situation.facts.gateway != Gateway::Admin {
        let switching = situation.policy.flags().iter().filter(|flag| flag.switches.contains(switch));
        found.extend(switching.map(|flag| Change::FlagOff(flag.name.to_string())));
    }
    found
}

/// What a check reads of the facts, whether it is made or not.
#[must_use]
pub fn read_by(situation: &Situation<'_>, check: Check) -> Vec<FactRead> {
    let Situation { policy, facts, path, now } = *situation;
    let fact = |name, value: &str| FactRead { name, value: value.to_owned() };
    let gateway = || fact("gateway", facts.gateway.name());
    let route = facts.route;
    let user = principal(facts);
    match check {
        Check::Path => vec![fact("path", path)],
        Check::Route => {
            let flag = route.and_then(|route| flag_name(policy, route.flag?)).map(|flag| fact("flag", &flag));
            let matched = route.map(|route| fact("route", &route.name));
            let asked = [gateway(), fact("method", facts.method.name()), fact("path", path), fact("upgrade", upgrade_name(facts.upgrade))];
            asked.into_iter().chain(matched).chain(flag).collect()
        }
        Check::ClientLimit => {
            let limit = route.and_then(|route| policy.budget(route.limit?));
            limit.map(|limit| fact("budget", &limit.name)).into_iter().collect()
        }
        Check::Authentication => {
            let wanted = fact("wanted", wanted(route));
            let issuer = user.map(|user| fact("issuer", &user.identity.issuer));
            [gateway(), wanted, fact("credential", presented(policy, facts))].into_iter().chain(issuer).collect()
        }
        Check::Permission => {
            let needed = fact("permission", route.map_or("", |route| &route.action));
            let of_user = user.map(|user| [fact("issuer", &user.identity.issuer), fact("roles", &user.roles_joined)]);
            [needed].into_iter().chain(of_user.into_iter().flatten()).collect()
        }
        Check::Trial => {
            let closed = if route.is_some_and(|route| route.closed_to_trials) { "yes" } else { "no" };
            vec![fact("trial_until", &trial_until(user)), fact("now", &moment(now)), fact("closed_to_trials", closed)]
        }
        Check::Ownership => {
            let customer = user.and_then(|user| user.identity.customer_id.as_deref());
            let forced = route.and_then(Route::owner).map(|(place, name)| fact("forced_into", &format!("{} {name}", place.name())));
            [fact("customer_id", customer.unwrap_or_default())].into_iter().chain(forced).collect()
        }
        Check::Approval => {
            let needed = if route.is_some_and(|route| route.governor_approval) { "governor" } else { "none" };
            let governor = user.and_then(|user| user.identity.governor_agent_id.as_deref());
            let roles = user.map_or("", |user| &user.roles_joined);
            vec![fact("approval", needed), fact("roles", roles), fact("governor_agent_id", governor.unwrap_or_default())]
        }
        Check::Routing => vec![fact("trial_until", &trial_until(user)), fact("trial_target", policy.settings().trial_target.name())],
        // What custom rules read is declared beside them.
        Check::Rules => vec![gateway()],
        Check::Budget => {
            let tier = user.map(|user| fact("tier", user.tier.name()));
            let charged = route.into_iter().flat_map(|route| route.charges.iter());
            let charged = charged.filter_map(|charge| policy.budget(charge.budget)).map(|budget| fact("budget", &budget.name));
            [gateway()].into_iter().chain(tier).chain(charged).collect()
        }
    }
}

const fn principal<'r>(facts: &RequestFacts<'r>) -> Option<&'r Principal> {
    match facts.authentication {
        Authentication::Verified(principal) => Some(principal),
        Authentication::Anonymous | Authentication::Registered | Authentication::Refused(_) => None,
    }
}

fn presented(policy: &CompiledPolicy, facts: &RequestFacts<'_>) -> &'static str {
    match facts.authentication {
        Authentication::Anonymous => "none",
        Authentication::Registered => "registration_key",
        Authentication::Refused(fault) => fault.code(),
        Authentication::Verified(principal) => match policy.accepts_issuer(&principal.identity.issuer, facts.gateway) {
            IssuerAcceptance::Accepted => "token",
            IssuerAcceptance::Foreign => "token of another gateway's issuer",
        },
    }
}

fn wanted(route: Option<&Route>) -> &'static str {
    match route.map(|route| route.requirement) {
        None | Some(Requirement::Public) => "nothing",
        Some(Requirement::RegistrationKey) => "registration_key",
        Some(Requirement::Authenticated | Requirement::Permission(_)) => "token",
    }
}

fn trial_until(user: Option<&Principal>) -> String {
    match user.map(|user| user.identity.trial) {
        Some(Trial::Until(end)) => moment(end),
        Some(Trial::No) | None => String::new(),
    }
}

fn flag_name(policy: &CompiledPolicy, flag: FlagId) -> Option<String> {
    policy.flags().iter().find(|known| known.id == flag).map(|flag| flag.name.to_string())
}
