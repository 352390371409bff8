//! Runs every case through `decide` and through `explain`.

use crate::case::{Approval, Case, CaseFile, Claims, RegistrationKey, Target, Token, TrialEnd, Verdict};
use crate::policies::{compiled, yaml_files};
use decision_core::budget::Units;
use decision_core::decision::{self, ApprovalNeed, Charge, Decision, DenyReason, Finding, RuleVerdict};
use decision_core::explain::ExplainedOutcome;
use decision_core::facts::{Authentication, RequestFacts, Upgrade};
use decision_core::gateway::{Gateway, Method};
use decision_core::path::CanonicalPath;
use decision_core::policy::{CompiledPolicy, Requirement, Route};
use decision_core::principal::{CredentialFault, Identity, Principal, RevocationKind, Trial};
use decision_core::time::Timestamp;
use decision_core::{decide, explain};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// 2026-01-15T12:00:00Z.
pub(crate) const NOW: Timestamp = Timestamp::from_seconds(1_768_478_400);

/// What became of a request, in the words of the cases.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    decision: Verdict,
    status: u16,
    reason: String,
    route: Option<String>,
    target: Target,
    approval: Approval,
    charges: BTreeMap<String, i64>,
}

#[test]
fn every_case_is_decided_and_explained_as_it_wants() {
    let policy = compiled();
    let cases = all_cases();
    let mut failures = Vec::new();
    for (file, case) in &cases {
        let (decided, explained) = answers(&policy, case);
        if let Err(difference) = compare(case, &decided) {
            failures.push(format!("{file}: {}: {difference}", case.name));
        }
        if decided != explained {
            failures.push(format!("{file}: {}: decided {decided:?} but explained {explained:?}", case.name));
        }
    }
    assert!(failures.is_empty(), "{} of {} cases failed:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
fn there_are_enough_cases_with_names_of_their_own() {
    let cases = all_cases();
    let names: BTreeSet<&str> = cases.iter().map(|(_, case)| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    let by_envoy = cases.iter().filter(|(_, case)| case.envoy).count();
    assert!(cases.len() >= 200 && by_envoy >= 40, "{} cases, {by_envoy} of them by Envoy", cases.len());
}

#[test]
fn every_route_and_every_reason_has_a_case() {
    let policy = compiled();
    let cases = all_cases();
    let routes: BTreeSet<&str> = cases.iter().filter_map(|(_, case)| case.want.route.as_deref()).collect();
    let reasons: BTreeSet<&str> = cases.iter().map(|(_, case)| case.want.reason.as_str()).collect();
    let unseen: Vec<&str> = policy.routes().iter().map(|route| &*route.name).filter(|name| !routes.contains(name)).collect();
    assert!(unseen.is_empty(), "routes without a case: {unseen:?}");
    let decided = ["ok", "no_route", "ambiguous_path", "credential_missing", "registration_key_refused", "permission_missing"];
    let refused = ["trial_expired", "trial_restricted", "approval_required"];
    for reason in decided.into_iter().chain(refused).chain(FAULTS.iter().map(|fault| fault.code())) {
        assert!(reasons.contains(reason), "no case ends with `{reason}`");
    }
}

fn all_cases() -> Vec<(String, Case)> {
    let mut cases = Vec::new();
    for (file, text) in yaml_files("cases") {
        let parsed: CaseFile = serde_norway::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        cases.extend(parsed.cases.into_iter().map(|case| (file.clone(), case)));
    }
    cases
}

fn compare(case: &Case, got: &Answer) -> Result<(), String> {
    let want = &case.want;
    let wanted = Answer {
        decision: want.decision,
        status: want.status,
        reason: want.reason.clone(),
        route: want.route.clone(),
        target: want.target,
        approval: want.approval,
        charges: want.charges.clone().unwrap_or_else(|| got.charges.clone()),
    };
    if wanted == *got { Ok(()) } else { Err(format!("\n  want {wanted:?}\n  got  {got:?}")) }
}

/// The answers of the code that enforces and of the code that explains. What ends before a decision has one answer.
fn answers(policy: &CompiledPolicy, case: &Case) -> (Answer, Answer) {
    let path = match CanonicalPath::parse(case.path.as_bytes()) {
        Ok(path) => path,
        Err(ambiguity) => return twice(|| denial(policy, DenyReason::AmbiguousPath(ambiguity), None)),
    };
    let Some(method) = Method::parse(case.method.as_bytes()) else { return twice(|| denial(policy, DenyReason::NoRoute, None)) };
    let gateway: Gateway = case.gateway.into();
    let route = policy.route(gateway, method, path.path());
    let caller = caller(policy, case);
    let facts = RequestFacts { gateway, method, route, authentication: authentication(route, case, &caller), upgrade: Upgrade::None };
    (decided(policy, &facts), explained(policy, &facts))
}

fn twice(answer: impl Fn() -> Answer) -> (Answer, Answer) {
    (answer(), answer())
}

fn decided(policy: &CompiledPolicy, facts: &RequestFacts<'_>) -> Answer {
    match decide(policy, facts, NOW) {
        Decision::Permit(permit) => {
            let name = |charge: Charge| (policy.budget(charge.budget).unwrap().name.to_string(), charge.amount.get());
            let route = policy.route_by_id(permit.route()).unwrap();
            permission(&route.name, permit.target(), permit.approval(), permit.charges().iter().map(name).collect())
        }
        Decision::Conditional(_) => unreachable!("the default policy has no custom rules"),
        Decision::Deny(denied) => {
            let route = denied.route.map(|id| policy.route_by_id(id).unwrap().name.to_string());
            denial(policy, denied.reason, route)
        }
    }
}

fn explained(policy: &CompiledPolicy, facts: &RequestFacts<'_>) -> Answer {
    let explanation = explain(policy, facts, NOW, |_conditional| RuleVerdict::Deny);
    let last = explanation.checks.last().expect("an explanation without a check");
    match explanation.outcome {
        ExplainedOutcome::Permit { target, approval, charges } => {
            assert!(!matches!(last.1, Finding::Refused(_)), "permitted after a check that refused: {last:?}");
            let charges = charges.into_iter().map(|(name, amount): (String, Units)| (name, amount.get())).collect();
            permission(explanation.route.as_deref().unwrap(), target, approval, charges)
        }
        ExplainedOutcome::Deny(reason) => {
            assert_eq!(*last, (reason.check(), Finding::Refused(reason)), "the last check is not the one that refused");
            denial(policy, reason, explanation.route)
        }
    }
}

fn permission(route: &str, target: decision::Target, approval: ApprovalNeed, charges: BTreeMap<String, i64>) -> Answer {
    // Without a grant, which no case presents, the client is told to get one.
    let (approval, status, reason) = match approval {
        ApprovalNeed::None => (Approval::None, 200, "ok"),
        ApprovalNeed::Governor => (Approval::Needed, 403, "approval_required"),
    };
    let target = match target {
        decision::Target::Production => Target::Production,
        decision::Target::Sandbox => Target::Sandbox,
    };
    Answer { decision: Verdict::Permit, status, reason: reason.into(), route: Some(route.into()), target, approval, charges }
}

fn denial(policy: &CompiledPolicy, reason: DenyReason, route: Option<String>) -> Answer {
    let status = match reason {
        DenyReason::AmbiguousPath(_) | DenyReason::AmbiguousHeader(_) => 400,
        DenyReason::UpgradeRefused | DenyReason::BodyNotObject | DenyReason::BodyKeyRepeated => 400,
        DenyReason::NoRoute | DenyReason::FeatureDisabled => policy.settings().no_route_status,
        DenyReason::CredentialRefused(CredentialFault::VerificationBudgetSpent) | DenyReason::ClientLimited(_) => 429,
        DenyReason::CredentialMissing | DenyReason::CredentialRefused(_) | DenyReason::RegistrationKeyRefused => 401,
        DenyReason::OwnerMissing => 401,
        DenyReason::RuleRefused | DenyReason::PermissionMissing | DenyReason::TrialExpired | DenyReason::TrialRestricted => 403,
        DenyReason::ApprovalRequired | DenyReason::ApprovalRefused => 403,
        DenyReason::ApprovalBodyTooLarge | DenyReason::BodyTooLarge => 413,
        DenyReason::BudgetSpent(budget) | DenyReason::BudgetUnscoped(budget) => policy.budget(budget).unwrap().status,
    };
    Answer {
        decision: Verdict::Deny,
        status,
        reason: reason.code().into(),
        route,
        target: Target::default(),
        approval: Approval::default(),
        charges: BTreeMap::new(),
    }
}

enum Caller {
    Nobody,
    Known(Box<Principal>),
    Refused(CredentialFault),
}

fn caller(policy: &CompiledPolicy, case: &Case) -> Caller {
    match &case.token {
        Token::None(_) => Caller::Nobody,
        Token::Bad(bad) => {
            Caller::Refused(*FAULTS.iter().find(|fault| fault.code() == bad.fault).unwrap_or_else(|| panic!("{}", bad.fault)))
        }
        Token::Good(claims) => match policy.principal(identity(claims, &case.name)) {
            Some(principal) => Caller::Known(Box::new(principal)),
            None => Caller::Refused(CredentialFault::NoKnownRole),
        },
    }
}

/// Everything that the caller presents reaches the decision, also what the route does not ask for.
fn authentication<'r>(route: Option<&Route>, case: &Case, caller: &'r Caller) -> Authentication<'r> {
    let registered = case.registration_key == Some(RegistrationKey::Valid);
    let wants_key = route.is_some_and(|route| route.requirement == Requirement::RegistrationKey);
    match caller {
        Caller::Nobody if registered => Authentication::Registered,
        Caller::Known(_) | Caller::Refused(_) if registered && wants_key => Authentication::Registered,
        Caller::Nobody => Authentication::Anonymous,
        Caller::Known(principal) => Authentication::Verified(principal),
        Caller::Refused(fault) => Authentication::Refused(*fault),
    }
}

fn identity(claims: &Claims, subject: &str) -> Identity {
    let text = |value: &Option<String>| value.as_deref().map(Box::from);
    let end = claims.trial_expires_at.map(|end| match end {
        TrialEnd::Future => NOW.plus(Duration::from_secs(604_800)),
        TrialEnd::Now => NOW,
        TrialEnd::SecondAgo => Timestamp::from_seconds(NOW.as_seconds() - 1),
        TrialEnd::Past => Timestamp::from_seconds(NOW.as_seconds() - 86_400),
    });
    Identity {
        issuer: claims.issuer.as_str().into(),
        subject: subject.into(),
        user_id: subject.into(),
        email: "someone@example.com".into(),
        customer_id: text(&claims.customer_id),
        agent_id: text(&claims.agent_id),
        governor_agent_id: text(&claims.governor_agent_id),
        roles: claims.roles.iter().map(|role| role.as_str().into()).collect(),
        tier: text(&claims.tier),
        trial: if claims.trial_mode { Trial::Until(end.expect("a trial needs an end")) } else { Trial::No },
        token_id: None,
        token_version: None,
        key_id: None,
        issued_at: NOW,
        expires_at: NOW.plus(Duration::from_secs(900)),
    }
}

/// Every fault that a case may name.
const FAULTS: [CredentialFault; 23] = [
    CredentialFault::NotBearer,
    CredentialFault::Malformed,
    CredentialFault::AlgorithmRefused,
    CredentialFault::HeaderRefused,
    CredentialFault::UnknownKey,
    CredentialFault::SignatureInvalid,
    CredentialFault::IssuerMismatch,
    CredentialFault::AudienceMismatch,
    CredentialFault::TokenTypeRefused,
    CredentialFault::ClaimMissing("sub"),
    CredentialFault::Expired,
    CredentialFault::NotYetValid,
    CredentialFault::LifetimeTooLong,
    CredentialFault::NoKnownRole,
    CredentialFault::TrialClaimsInvalid,
    CredentialFault::TrialRefused,
    CredentialFault::Revoked(RevocationKind::Token),
    CredentialFault::Revoked(RevocationKind::Subject),
    CredentialFault::Revoked(RevocationKind::Version),
    CredentialFault::Revoked(RevocationKind::Key),
    CredentialFault::Revoked(RevocationKind::Customer),
    CredentialFault::Revoked(RevocationKind::Agent),
    CredentialFault::VerificationBudgetSpent,
];
