//! Deciding, reserving, settling and reading a request allocate nothing. Its own binary: it counts every allocation of
//! the thread.
#![cfg(not(target_arch = "wasm32"))]
#![expect(clippy::unwrap_used, reason = "clippy's exception for tests does not cover the functions around them")]

mod counting;
mod fixture;

use counting::allocations;
use decision_core::budget::Units;
use decision_core::decide;
use decision_core::decision::{Decision, Permit};
use decision_core::facts::{Authentication, HeaderBlock, Presented, RequestFacts, Upgrade};
use decision_core::gateway::{Gateway, Method};
use decision_core::holder::{Binding, Grant, LeaseHolder, Report, Shortfall, WhenShort};
use decision_core::obligations::Obligations;
use decision_core::path::CanonicalPath;
use decision_core::policy::CompiledPolicy;
use decision_core::policy::compile::compile;
use decision_core::principal::{CredentialFault, Principal};
use decision_core::time::Timestamp;
use fixture::{NOW, identity, source};

fn permit(policy: &CompiledPolicy, principal: &Principal) -> Permit {
    let facts = RequestFacts {
        gateway: Gateway::Cp,
        method: Method::Post,
        route: policy.route(Gateway::Cp, Method::Post, "/agents"),
        authentication: Authentication::Verified(principal),
        upgrade: Upgrade::None,
    };
    match decide(policy, &facts, NOW) {
        Decision::Permit(permit) => permit,
        other @ (Decision::Deny(_) | Decision::Conditional(_)) => unreachable!("{other:?}"),
    }
}

#[test]
fn deciding_allocates_nothing_whatever_the_decision() {
    let policy = compile(&source()).unwrap();
    let principal = policy.principal(identity("admin")).unwrap();
    let viewer = policy.principal(identity("viewer")).unwrap();
    let cases = [
        Authentication::Anonymous,
        Authentication::Registered,
        Authentication::Verified(&principal),
        Authentication::Verified(&viewer),
        Authentication::Refused(CredentialFault::Expired),
    ];
    let mut permits = 0;
    for (gateway, authentication) in Gateway::ALL.into_iter().flat_map(|gateway| cases.map(|case| (gateway, case))) {
        for (method, path) in [(Method::Get, "/open"), (Method::Post, "/register"), (Method::Delete, "/agents/1"), (Method::Put, "/none")] {
            let decided = allocations(|| {
                let route = policy.route(gateway, method, path);
                decide(&policy, &RequestFacts { gateway, method, route, authentication, upgrade: Upgrade::None }, NOW)
            });
            assert_eq!(decided.0, 0, "{gateway:?} {path}");
            permits += usize::from(matches!(decided.1, Decision::Permit(_)));
        }
    }
    assert!(permits > 0);
}

#[test]
fn what_two_permits_come_to_is_compared_without_allocating() {
    let policy = compile(&source()).unwrap();
    let mut changed = source();
    changed.budgets.reverse();
    let create = changed.routes.iter_mut().find(|route| route.name == "agents.create").unwrap();
    create.rewrite = Some("/internal".into());
    let changed = compile(&changed).unwrap();
    let principals = [&policy, &changed].map(|policy| policy.principal(identity("admin")).unwrap());
    let permits = (permit(&policy, &principals[0]), permit(&changed, &principals[1]));
    let compare = || Obligations::of(&policy, &permits.0).differences(&Obligations::of(&changed, &permits.1)).count();
    assert_eq!(allocations(compare), (0, 1));
}

#[test]
fn finding_a_route_allocates_nothing() {
    let policy = compile(&source()).unwrap();
    for path in ["/agents/1", "/agents", "/", "/agents/1/2/3", "/a//b"] {
        assert_eq!(allocations(|| policy.route(Gateway::Cp, Method::Get, path)).0, 0, "{path}");
    }
}

#[test]
fn reading_a_path_allocates_nothing() {
    let long = format!("/{}", "caf%C3%A9/".repeat(500));
    for path in ["/", "/a/b?c=d", "/a/../b", "/a%2fb", "", &long] {
        assert_eq!(allocations(|| CanonicalPath::parse(path.as_bytes()).is_ok()).0, 0, "{path}");
    }
}

#[test]
fn reading_headers_allocates_nothing() {
    let mut bytes = 40_u32.to_le_bytes().to_vec();
    bytes.extend([8_u32, 5].map(u32::to_le_bytes).concat().repeat(40));
    bytes.extend(b"x-header\0value\0".repeat(40));
    let read = || {
        let block = HeaderBlock::parse(&bytes).unwrap();
        (block.iter().count(), block.presented(b"x-header") == Presented::Repeated)
    };
    assert_eq!(allocations(read), (0, (40, true)));
    assert_eq!(allocations(|| HeaderBlock::parse(b"garbage").is_err()), (0, true));
}

/// A holder that was granted a thousand units on every account of the permit.
fn warm(policy: &CompiledPolicy, principal: &Principal, permit: &Permit) -> (LeaseHolder, Binding) {
    let mut holder = LeaseHolder::default();
    let binding = holder.bind(policy);
    let shortfall = holder.reserve(policy, &binding, principal, permit.charges(), NOW, WhenShort::Wait).unwrap_err();
    let Shortfall::Short(wait) = shortfall else { unreachable!("{shortfall:?}") };
    let mut known: Vec<(String, String, Timestamp, u64)> = Vec::new();
    let mut keep = |report: Report<'_>| known.push((report.budget.into(), report.scope.into(), report.window_start, report.generation));
    holder.reports(NOW, usize::MAX, &mut keep);
    for (budget, scope, window_start, generation) in &known {
        let plenty = Units::new(100_000);
        let grant = Grant { generation: *generation, granted: plenty, cap: plenty, settled: Units::ZERO, known: true, overriding: None };
        holder.apply(budget, scope, *window_start, &grant);
    }
    holder.end_wait(wait);
    (holder, binding)
}

#[test]
fn reserving_settling_and_releasing_on_a_known_account_allocate_nothing() {
    let policy = compile(&source()).unwrap();
    let principal = policy.principal(identity("admin")).unwrap();
    let permit = permit(&policy, &principal);
    let (mut holder, binding) = warm(&policy, &principal, &permit);
    for _ in 0..20 {
        let reserve = || holder.reserve(&policy, &binding, &principal, permit.charges(), NOW, WhenShort::Wait);
        let (allocated, reserved) = allocations(reserve);
        let reserved = reserved.unwrap();
        assert_eq!((allocated, reserved.iter().count()), (0, 3));
        let mut settled = 0;
        assert_eq!(allocations(|| settled += holder.settle(reserved, |_, reserved| reserved).iter().count()).0, 0);
        assert_eq!(settled, 3);
        let reserved = holder.reserve(&policy, &binding, &principal, permit.charges(), NOW, WhenShort::Wait).unwrap();
        assert_eq!(allocations(|| holder.release(reserved)).0, 0);
    }
}

#[test]
fn a_spent_budget_refuses_without_allocating() {
    let policy = compile(&source()).unwrap();
    let principal = policy.principal(identity("admin")).unwrap();
    let permit = permit(&policy, &principal);
    let (mut holder, binding) = warm(&policy, &principal, &permit);
    let (mut spent, mut attempts) = (false, 0);
    while !spent && attempts < 1_000 {
        let reserve = || holder.reserve(&policy, &binding, &principal, permit.charges(), NOW, WhenShort::FailureMode);
        let (allocated, outcome) = allocations(reserve);
        assert_eq!(allocated, 0);
        match outcome {
            Ok(reserved) => drop(holder.settle(reserved, |_, reserved| reserved)),
            Err(_) => spent = true,
        }
        attempts += 1;
    }
    assert!(spent);
}
