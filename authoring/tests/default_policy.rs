//! What the default policy is meant to be, beyond its cases.

mod default;

use decision_core::budget::{Rhythm, SpentProblem, Unit};
use decision_core::failure::FailureMode;
use decision_core::policy::CompiledPolicy;
use decision_core::principal::Tier;
use std::collections::BTreeSet;
use wire::policy::{PolicyDocument, Requirement};

fn document() -> PolicyDocument {
    default::candidate().document
}

fn compiled() -> CompiledPolicy {
    default::candidate().bundle.policy
}

#[test]
fn every_permission_is_carried_by_a_route_and_a_role() {
    let document = document();
    let on_routes: BTreeSet<&str> = document.routes.iter().filter_map(|route| route.permission.as_deref()).collect();
    let catalogue: BTreeSet<&str> = document.permissions.iter().map(String::as_str).collect();
    assert_eq!(on_routes, catalogue, "the catalogue and the permissions on routes differ");
    for role in &document.roles {
        let distinct: BTreeSet<&String> = role.permissions.iter().collect();
        assert_eq!(distinct.len(), role.permissions.len(), "role {} lists a permission twice", role.name);
    }
}

#[test]
fn every_read_route_answers_head() {
    use wire::policy::Method::{Get, Head};
    for route in document().routes {
        assert_eq!(route.methods.contains(&Get), route.methods.contains(&Head), "route {}", route.name);
    }
}

/// The first spent budget names the problem: a trial's eleventh task must not read "too many requests".
#[test]
fn the_budgets_are_the_original_s_in_the_order_in_which_they_answer() {
    use {FailureMode::*, Rhythm::*, SpentProblem::*, Tier::*, Unit::*};
    let expected = [
        ("trial-tasks-daily", Tasks, Day, 10, Some(Trial), true, TrialLimitExceeded, 429, Closed),
        ("agent-daily", MicroUsd, Day, 1_000_000, None, true, BudgetExceeded, 402, Closed),
        ("platform-monthly", MicroUsd, Month, 100_000_000, None, true, BudgetExceeded, 402, Closed),
        ("rate-trial-hour", Requests, Hour, 100, Some(Trial), false, RateLimitExceeded, 429, Open),
        ("rate-trial-minute", Requests, Minute, 10, Some(Trial), false, RateLimitExceeded, 429, Open),
        ("rate-paid-hour", Requests, Hour, 1_000, Some(Paid), false, RateLimitExceeded, 429, Open),
        ("rate-paid-minute", Requests, Minute, 50, Some(Paid), false, RateLimitExceeded, 429, Open),
        ("rate-enterprise-hour", Requests, Hour, 10_000, Some(Enterprise), false, RateLimitExceeded, 429, Open),
        ("rate-enterprise-minute", Requests, Minute, 200, Some(Enterprise), false, RateLimitExceeded, 429, Open),
    ];
    let policy = compiled();
    // The last one counts clients, not users, and answers before all others.
    assert_eq!(policy.budgets().len(), expected.len() + 1);
    for (budget, (name, unit, rhythm, cap, tier, durable, problem, status, mode)) in policy.budgets().iter().zip(expected) {
        assert_eq!((&*budget.name, budget.unit, budget.rhythm, budget.cap.get()), (name, unit, rhythm, cap));
        assert_eq!((budget.tier, budget.durable, budget.problem), (tier, durable, problem), "{name}");
        assert_eq!((budget.status, budget.failure_mode), (status, mode), "{name}");
    }
}

/// In the original the limiter skipped just these.
#[test]
fn every_way_to_sign_in_is_limited_per_client_address() {
    use decision_core::budget::Counted;
    let policy = compiled();
    let budget = policy.budget_by_name("auth-endpoints").unwrap();
    assert_eq!((budget.counted, budget.rhythm, budget.cap.get()), (Counted::ByClientAddress, Rhythm::Minute, 30));
    for route in policy.routes() {
        let signs_in =
            ["/api/v1/auth/", "/api/auth/", "/auth/", "/api/v1/otp/sessions"].iter().any(|prefix| route.path.starts_with(prefix));
        // Signing out guesses nothing.
        let expected = signs_in && !route.name.starts_with("auth.logout");
        assert_eq!(route.limit.is_some(), expected, "route {}", route.name);
    }
}

/// CP asks for no permission: what it lets a user change must be the user's own, paid for, or approved.
#[test]
fn what_only_roles_guard_is_not_on_cp() {
    let guarded = [
        "admin.",
        "agents.update",
        "agents.deploy",
        "agents.execute",
        "agents.pause",
        "agents.resume",
        "agents.restart",
        "agents.logs",
        "agents.categorize",
        "billing.manage",
        "budgets.platform",
        "budgets.agent.override",
        "database.",
        "deployments.",
        "industries.create",
        "industries.edit",
        "infrastructure.",
        "monitoring.",
        "reports.",
        "tickets.",
    ];
    for route in document().routes {
        let on_cp = route.gateways.contains(&wire::policy::Gateway::Cp);
        assert!(!on_cp || !guarded.iter().any(|name| route.name.starts_with(name)), "route {} is on CP", route.name);
    }
}

#[test]
fn only_named_routes_need_no_user() {
    for route in document().routes {
        let expected = ["auth.", "audit.events", "customers.regist", "otp.", "notifications.events"];
        let identified = matches!(route.require, Requirement::Authenticated | Requirement::Permission);
        assert!(identified || expected.iter().any(|name| route.name.starts_with(name)), "route {}", route.name);
    }
}

#[test]
fn a_required_claim_that_is_none_is_refused_by_name() {
    let mut document = document();
    document.issuers.truncate(1);
    document.issuers[0].required_claims = vec!["costumer_id".into()];
    document.issuers[0].keys.clear();
    let keys =
        vec![wire::bundle::IssuerKeys { issuer: document.issuers[0].name.clone(), keys: vec![], known: wire::bundle::KeysKnown::Always }];
    let bundle = wire::bundle::Bundle {
        version: Default::default(),
        policy: document,
        keys,
        registration_key_hashes: vec![],
        pseudonym_key: None,
        rules: None,
        shadow: None,
    };
    let error = bundle.load().unwrap_err().to_string();
    assert!(error.starts_with("issuers[cp].required_claims: `costumer_id` is not one of customer_id"), "{error}");
}
