//! Every reason to refuse. Those that only the filter can meet (approvals, ambiguous headers) are reached in its tests.

use crate::fixture::{NOW, identity, source};
use decision_core::budget::BudgetId;
use decision_core::decide;
use decision_core::decision::{ApprovalNeed, Check, Decision, Denial, DenyReason, Finding, Permit, Target};
use decision_core::explain::{ExplainedOutcome, explain};
use decision_core::facts::{Authentication, RequestFacts, Upgrade};
use decision_core::failure::{FailureMode, Fault, Resolution, resolve};
use decision_core::gateway::{Gateway, Method};
use decision_core::path::AmbiguousPath;
use decision_core::policy::CompiledPolicy;
use decision_core::policy::compile::compile;
use decision_core::principal::{CredentialFault, Identity, Principal, Trial};
use decision_core::time::Timestamp;

const CREATE: (Method, &str) = (Method::Post, "/agents");
const DELETE: (Method, &str) = (Method::Delete, "/agents/7");
const READ: (Method, &str) = (Method::Get, "/agents/7");

fn policy() -> CompiledPolicy {
    compile(&source()).unwrap()
}

fn decide_as(policy: &CompiledPolicy, gateway: Gateway, (method, path): (Method, &str), authentication: Authentication<'_>) -> Decision {
    let facts = RequestFacts { gateway, method, route: policy.route(gateway, method, path), authentication, upgrade: Upgrade::None };
    let decision = decide(policy, &facts, NOW);
    let told = explain(policy, &facts, NOW, |_conditional| unreachable!("no rules"));
    match (&decision, told.outcome) {
        (Decision::Deny(denial), ExplainedOutcome::Deny(reason)) => {
            assert_eq!(told.checks.last(), Some(&(reason.check(), Finding::Refused(reason))));
            assert_eq!(denial.reason, reason);
        }
        (Decision::Permit(permit), ExplainedOutcome::Permit(explained)) => {
            let (target, approval) = (explained.target, explained.approval);
            assert_eq!((permit.target(), permit.approval(), permit.charges().iter().count()), (target, approval, explained.charges.len()));
            assert!(told.checks.iter().all(|(_, finding)| *finding == Finding::Passed));
        }
        (decision, told) => unreachable!("{decision:?} is told as {told:?}"),
    }
    decision
}

fn user(policy: &CompiledPolicy, change: impl FnOnce(&mut Identity)) -> Principal {
    let mut identity = identity("admin");
    change(&mut identity);
    policy.principal(identity).unwrap()
}

fn reason(decision: Decision) -> DenyReason {
    match decision {
        Decision::Deny(denial) => denial.reason,
        other @ (Decision::Permit(_) | Decision::Conditional(_)) => unreachable!("{other:?}"),
    }
}

fn permit(decision: Decision) -> Permit {
    match decision {
        Decision::Permit(permit) => permit,
        other @ (Decision::Deny(_) | Decision::Conditional(_)) => unreachable!("{other:?}"),
    }
}

#[test]
fn what_is_no_route_is_refused_before_anyone_is_asked_who_they_are() {
    let policy = policy();
    for (method, path) in [(Method::Get, "/none"), (Method::Put, "/agents"), (Method::Get, "/agents/1/2")] {
        let decision = decide_as(&policy, Gateway::Cp, (method, path), Authentication::Refused(CredentialFault::Expired));
        assert_eq!(decision, Decision::Deny(Denial { reason: DenyReason::NoRoute, route: None }));
    }
    // The gateway for operators has none of them.
    let admin = user(&policy, |_| {});
    assert_eq!(reason(decide_as(&policy, Gateway::Admin, READ, Authentication::Verified(&admin))), DenyReason::NoRoute);
}

#[test]
fn a_public_route_asks_for_nothing_and_charges_nobody() {
    let policy = policy();
    let admin = user(&policy, |_| {});
    for authentication in [Authentication::Anonymous, Authentication::Verified(&admin), Authentication::Refused(CredentialFault::Expired)] {
        let permit = permit(decide_as(&policy, Gateway::Cp, (Method::Get, "/open"), authentication));
        assert_eq!((permit.target(), permit.approval(), permit.charges().is_empty()), (Target::Production, ApprovalNeed::None, true));
    }
}

#[test]
fn a_request_without_a_credential_is_told_so() {
    let policy = policy();
    for authentication in [Authentication::Anonymous, Authentication::Registered] {
        assert_eq!(reason(decide_as(&policy, Gateway::Cp, CREATE, authentication)), DenyReason::CredentialMissing);
    }
}

#[test]
fn a_bad_credential_is_refused_for_its_own_fault() {
    let policy = policy();
    for fault in [CredentialFault::Malformed, CredentialFault::Expired, CredentialFault::ClaimMissing("sub")] {
        let decision = decide_as(&policy, Gateway::Cp, CREATE, Authentication::Refused(fault));
        assert_eq!(reason(decision), DenyReason::CredentialRefused(fault));
    }
}

#[test]
fn a_token_of_one_portal_opens_no_other() {
    let policy = policy();
    let foreign = |gateway, issuer: &str| {
        let user = user(&policy, |identity| {
            identity.issuer = issuer.into();
            identity.roles = vec!["viewer".into()];
        });
        matches!(decide_as(&policy, gateway, READ, Authentication::Verified(&user)), Decision::Deny(_))
    };
    assert_eq!([foreign(Gateway::Cp, "cp"), foreign(Gateway::Pp, "cp"), foreign(Gateway::Plant, "cp")], [false, true, false]);
    assert_eq!([foreign(Gateway::Cp, "pp"), foreign(Gateway::Pp, "pp"), foreign(Gateway::Plant, "pp")], [true, false, false]);
    // An issuer that the policy does not have, under the fault that hides which ones it has.
    let unknown = user(&policy, |identity| identity.issuer = "gone".into());
    let refused = reason(decide_as(&policy, Gateway::Cp, READ, Authentication::Verified(&unknown)));
    assert_eq!(refused, DenyReason::CredentialRefused(CredentialFault::IssuerMismatch));
}

#[test]
fn an_issuer_assigns_only_the_roles_that_it_may() {
    let policy = policy();
    let by_pp = |roles: &[&str]| {
        let mut identity = identity("admin");
        (identity.issuer, identity.governor_agent_id) = ("pp".into(), Some("g".into()));
        identity.roles = roles.iter().map(|role| (*role).into()).collect();
        policy.principal(identity)
    };
    assert_eq!(by_pp(&["admin"]), None);
    let both = by_pp(&["admin", "viewer"]).unwrap();
    assert_eq!((both.governor, &*both.roles_joined), (false, "viewer"));
    assert_eq!(reason(decide_as(&policy, Gateway::Pp, CREATE, Authentication::Verified(&both))), DenyReason::PermissionMissing);
}

#[test]
fn a_registration_key_is_asked_for_and_nothing_else_counts() {
    let policy = policy();
    let admin = user(&policy, |_| {});
    let register = (Method::Post, "/register");
    for authentication in [Authentication::Anonymous, Authentication::Verified(&admin), Authentication::Refused(CredentialFault::Expired)] {
        assert_eq!(reason(decide_as(&policy, Gateway::Cp, register, authentication)), DenyReason::RegistrationKeyRefused);
    }
    assert!(permit(decide_as(&policy, Gateway::Cp, register, Authentication::Registered)).charges().is_empty());
}

#[test]
fn a_role_without_the_permission_is_refused_where_roles_are_checked() {
    let policy = policy();
    let viewer = user(&policy, |identity| identity.roles = vec!["reader".into()]);
    assert_eq!(reason(decide_as(&policy, Gateway::Plant, CREATE, Authentication::Verified(&viewer))), DenyReason::PermissionMissing);
    let _ = permit(decide_as(&policy, Gateway::Plant, READ, Authentication::Verified(&viewer)));
    // The customer portal checks no roles.
    let _ = permit(decide_as(&policy, Gateway::Cp, CREATE, Authentication::Verified(&viewer)));
}

#[test]
fn a_trial_ends_after_its_last_moment() {
    let policy = policy();
    let until = |end: i64| user(&policy, |identity| identity.trial = Trial::Until(Timestamp::from_micros(end)));
    let now = NOW.as_micros();
    assert_eq!(reason(decide_as(&policy, Gateway::Cp, READ, Authentication::Verified(&until(now - 1)))), DenyReason::TrialExpired);
    let last = permit(decide_as(&policy, Gateway::Cp, READ, Authentication::Verified(&until(now))));
    assert_eq!(last.target(), Target::Sandbox);
}

#[test]
fn a_trial_stays_out_of_what_is_closed_to_trials_and_goes_to_the_sandbox() {
    let mut source = source();
    let on_trial = |policy: &CompiledPolicy| user(policy, |identity| identity.trial = Trial::Until(Timestamp::MAX));
    let sandboxed = compile(&source).unwrap();
    let trial = on_trial(&sandboxed);
    assert_eq!(reason(decide_as(&sandboxed, Gateway::Cp, DELETE, Authentication::Verified(&trial))), DenyReason::TrialRestricted);
    assert_eq!(permit(decide_as(&sandboxed, Gateway::Cp, READ, Authentication::Verified(&trial))).target(), Target::Sandbox);
    source.settings.trial_target = Target::Production;
    let live = compile(&source).unwrap();
    let trial = on_trial(&live);
    assert_eq!(permit(decide_as(&live, Gateway::Cp, READ, Authentication::Verified(&trial))).target(), Target::Production);
}

#[test]
fn only_a_governor_needs_no_approval() {
    let policy = policy();
    let need = |change: fn(&mut Identity)| {
        permit(decide_as(&policy, Gateway::Cp, DELETE, Authentication::Verified(&user(&policy, change)))).approval()
    };
    assert_eq!(need(|identity| identity.governor_agent_id = Some("g-1".into())), ApprovalNeed::None);
    assert_eq!(need(|_| {}), ApprovalNeed::Governor);
    let half = |identity: &mut Identity| (identity.governor_agent_id, identity.roles) = (Some("g-1".into()), vec!["viewer".into()]);
    assert_eq!(need(half), ApprovalNeed::Governor);
}

#[test]
fn a_request_is_charged_by_its_tier_in_the_policy_s_order() {
    let policy = policy();
    let charged = |change: fn(&mut Identity)| {
        let user = user(&policy, change);
        let permit = permit(decide_as(&policy, Gateway::Cp, CREATE, Authentication::Verified(&user)));
        let named = |charge: decision_core::decision::Charge| (policy.budget(charge.budget).unwrap().name.to_string(), charge.amount.get());
        permit.charges().iter().map(named).collect::<Vec<_>>()
    };
    let everybody = [("agent-daily".to_string(), 1_000), ("platform-monthly".into(), 1_000), ("rate-minute".into(), 1)];
    assert_eq!(charged(|_| {}), everybody);
    let trial = charged(|identity| identity.trial = Trial::Until(Timestamp::MAX));
    assert_eq!((&trial[0], &trial[1..]), (&("trial-tasks".to_string(), 1), &everybody[..]));
    // The claim outweighs the trial, and an unknown one counts as absent.
    let paid = charged(|identity| (identity.tier, identity.trial) = (Some("paid".into()), Trial::Until(Timestamp::MAX)));
    assert_eq!(paid, everybody);
    let unheard = charged(|identity| (identity.tier, identity.trial) = (Some("gold".into()), Trial::Until(Timestamp::MAX)));
    assert_eq!(unheard, trial);
}

/// The whole table, so that a new reason needs a row.
#[test]
fn every_reason_has_its_check_and_its_code() {
    let budget = compile(&source()).unwrap().budgets()[0].id;
    let codes = all_reasons(budget).map(|reason| (reason.check().name(), reason.code()));
    let expected = [
        ("path", "ambiguous_path"),
        ("path", "ambiguous_header"),
        ("route", "no_route"),
        ("client_limit", "client_limited"),
        ("authentication", "credential_missing"),
        ("authentication", "expired"),
        ("authentication", "registration_key_refused"),
        ("permission", "permission_missing"),
        ("trial", "trial_expired"),
        ("trial", "trial_restricted"),
        ("approval", "approval_header"),
        ("approval", "approval_required"),
        ("approval", "approval_refused"),
        ("approval", "approval_body_too_large"),
        ("budget", "budget_spent"),
        ("budget", "budget_unscoped"),
    ];
    assert_eq!(codes, expected);
    // The ladder: cheap and certain checks come first.
    assert!(Check::Path < Check::Route && Check::Trial < Check::Approval && Check::Approval < Check::Budget);
}

const fn all_reasons(budget: BudgetId) -> [DenyReason; 16] {
    [
        DenyReason::AmbiguousPath(AmbiguousPath::DotSegment),
        DenyReason::AmbiguousHeader("host"),
        DenyReason::NoRoute,
        DenyReason::ClientLimited(budget),
        DenyReason::CredentialMissing,
        DenyReason::CredentialRefused(CredentialFault::Expired),
        DenyReason::RegistrationKeyRefused,
        DenyReason::PermissionMissing,
        DenyReason::TrialExpired,
        DenyReason::TrialRestricted,
        DenyReason::ApprovalHeader("x-approval-id"),
        DenyReason::ApprovalRequired,
        DenyReason::ApprovalRefused,
        DenyReason::ApprovalBodyTooLarge,
        DenyReason::BudgetSpent(budget),
        DenyReason::BudgetUnscoped(budget),
    ]
}

/// What `docs/problems.md` promises. A budget's own status is for a spent one; settings change two more.
#[test]
fn every_reason_has_its_status() {
    let mut source = source();
    source.budgets[0].status = Some(402);
    let policy = compile(&source).unwrap();
    let budget = policy.budgets()[0].id;
    let statuses = |policy| all_reasons(budget).map(|reason| (reason.code(), reason.status(policy)));
    let expected = [
        ("ambiguous_path", 400),
        ("ambiguous_header", 400),
        ("no_route", 404),
        ("client_limited", 429),
        ("credential_missing", 401),
        ("expired", 401),
        ("registration_key_refused", 401),
        ("permission_missing", 403),
        ("trial_expired", 403),
        ("trial_restricted", 403),
        ("approval_header", 400),
        ("approval_required", 403),
        ("approval_refused", 403),
        ("approval_body_too_large", 413),
        ("budget_spent", 402),
        ("budget_unscoped", 403),
    ];
    assert_eq!(statuses(Some(&policy)), expected);
    (source.settings.no_route_status, source.settings.approval_redirect, source.budgets[0].status) = (403, true, None);
    let other = compile(&source).unwrap();
    let changed = expected.map(|(code, status)| match code {
        "no_route" => (code, 403),
        "approval_required" => (code, 307),
        "budget_spent" => (code, 429),
        _ => (code, status),
    });
    assert_eq!(statuses(Some(&other)), changed);
    let rest = [
        (DenyReason::FeatureDisabled, 403),
        (DenyReason::UpgradeRefused, 400),
        (DenyReason::OwnerMissing, 401),
        (DenyReason::BodyNotObject, 400),
        (DenyReason::BodyKeyRepeated, 400),
        (DenyReason::BodyTooLarge, 413),
        (DenyReason::RuleRefused, 403),
        (DenyReason::AuditedBodyTooLarge, 413),
        (DenyReason::CredentialRefused(CredentialFault::VerificationBudgetSpent), 429),
    ];
    for (reason, status) in rest {
        assert_eq!(reason.status(Some(&other)), status, "{reason:?}");
    }
    // Before there is a policy.
    assert_eq!((DenyReason::NoRoute.status(None), DenyReason::ApprovalRequired.status(None)), (404, 403));
}

#[test]
fn only_a_budget_and_unknown_revocations_may_fail_open() {
    let closed = [
        Fault::PolicyUnavailable,
        Fault::ApprovalUnavailable,
        Fault::TooManyWaiting,
        Fault::KeysUnavailable,
        Fault::AuditUnavailable,
        Fault::AuditQueueFull,
    ];
    for fault in closed.into_iter().chain([Fault::BudgetUnavailable, Fault::RevocationUnknown]) {
        assert_eq!(resolve(fault, FailureMode::Closed), Resolution::FailedClosed, "{fault:?}");
        let open = if closed.contains(&fault) { Resolution::FailedClosed } else { Resolution::FailedOpen };
        assert_eq!(resolve(fault, FailureMode::Open), open, "{fault:?}");
        assert!(fault.detail().ends_with("Please retry shortly."));
    }
}

#[test]
fn what_cannot_be_told_about_tokens_is_told_in_one_way() {
    assert_eq!(Fault::KeysUnavailable.detail(), Fault::RevocationUnknown.detail());
    assert_eq!((Fault::KeysUnavailable.code(), Fault::RevocationUnknown.code()), ("keys_unavailable", "revocation_unknown"));
}
