//! What a permit comes to, and in what two of them differ.

use crate::fixture::{NOW, identity, source};
use decision_core::decision::{ApprovalNeed, Check, Decision, Permit, Target};
use decision_core::explain::{ExplainedOutcome, explain};
use decision_core::facts::{Authentication, RequestFacts, Upgrade};
use decision_core::gateway::{Gateway, Method};
use decision_core::obligations::{Aspect, Obligations};
use decision_core::policy::compile::compile;
use decision_core::policy::source::{BudgetSource, CredentialForwarding, ExchangeKind, OwnershipPlace, OwnershipSource, PolicySource};
use decision_core::policy::{CompiledPolicy, Ownership};
use decision_core::principal::{Principal, Trial};
use decision_core::time::Timestamp;

const ROUTE: &str = "agents.delete";

fn changed(change: impl FnOnce(&mut PolicySource)) -> CompiledPolicy {
    let mut source = source();
    source.budgets.push(BudgetSource { durable: false, ..client_budget(&source) });
    let open = source.routes.iter_mut().find(|route| route.name == "open").unwrap();
    open.limit = Some("guests".into());
    source.routes.iter_mut().filter(|route| route.name == ROUTE).for_each(|route| route.closed_to_trials = false);
    change(&mut source);
    compile(&source).unwrap()
}

fn client_budget(source: &PolicySource) -> BudgetSource {
    let like = source.budgets.iter().find(|budget| budget.name == "rate-minute").unwrap();
    BudgetSource { name: "guests".into(), scope: "client_address".into(), ..like.clone() }
}

fn on_route(change: impl FnOnce(&mut decision_core::policy::source::RouteSource)) -> CompiledPolicy {
    changed(|source| change(source.routes.iter_mut().find(|route| route.name == ROUTE).unwrap()))
}

fn user(policy: &CompiledPolicy, trial: Trial) -> Principal {
    let mut identity = identity("admin");
    (identity.trial, identity.governor_agent_id) = (trial, Some("g".into()));
    policy.principal(identity).unwrap()
}

fn permit(policy: &CompiledPolicy, trial: Trial) -> Permit {
    let user = user(policy, trial);
    let route = policy.route(Gateway::Cp, Method::Delete, "/agents/7");
    let authentication = Authentication::Verified(&user);
    let facts = RequestFacts { gateway: Gateway::Cp, method: Method::Delete, route, authentication, upgrade: Upgrade::None };
    match decision_core::decide(policy, &facts, NOW) {
        Decision::Permit(permit) => permit,
        other @ (Decision::Deny(_) | Decision::Conditional(_)) => unreachable!("{other:?}"),
    }
}

fn differences(one: &CompiledPolicy, other: &CompiledPolicy) -> Vec<Aspect> {
    let (mine, theirs) = (permit(one, Trial::No), permit(other, Trial::No));
    Obligations::of(one, &mine).differences(&Obligations::of(other, &theirs)).collect()
}

fn owner(place: OwnershipPlace, name: &str) -> Option<OwnershipSource> {
    Some(OwnershipSource { place, name: name.into() })
}

#[test]
fn everything_that_becomes_of_a_request_is_an_obligation() {
    let plain = changed(|_source| {});
    let ways = [
        (on_route(|route| route.ownership = owner(OwnershipPlace::Query, "a")), Aspect::Check(Check::Ownership)),
        (on_route(|route| route.ownership = owner(OwnershipPlace::Path, "id")), Aspect::Check(Check::Ownership)),
        (on_route(|route| route.credential = CredentialForwarding::Forward), Aspect::Credential),
        (on_route(|route| route.rewrite = Some("/x".into())), Aspect::Rewrite),
        (on_route(|route| route.exchange = ExchangeKind::Stream), Aspect::Exchange),
        (on_route(|route| route.limit = Some("guests".into())), Aspect::Check(Check::ClientLimit)),
        (on_route(|route| route.cost_micros = Some(7)), Aspect::Check(Check::Budget)),
    ];
    for (policy, aspect) in &ways {
        assert_eq!(differences(&plain, policy), [*aspect]);
        assert_eq!(differences(policy, policy), []);
    }
    let aspects = ways.map(|(_, aspect)| aspect.name());
    assert_eq!(aspects, ["ownership", "ownership", "credential", "rewrite", "exchange", "client_limit", "budget"]);
    let two = on_route(|route| (route.rewrite, route.ownership) = (Some("/x".into()), owner(OwnershipPlace::Body, "a")));
    assert_eq!(differences(&plain, &two), [Aspect::Check(Check::Ownership), Aspect::Rewrite], "in the order in which they come to bear");
}

#[test]
fn numbers_of_another_policy_are_no_difference_and_names_are() {
    let plain = on_route(|route| route.ownership = owner(OwnershipPlace::Path, "id"));
    let reordered = changed(|source| {
        source.budgets.reverse();
        source.routes.reverse();
        let route = source.routes.iter_mut().find(|route| route.name == ROUTE).unwrap();
        (route.path, route.ownership) = ("/agents/{agent}".into(), owner(OwnershipPlace::Path, "agent"));
    });
    assert_eq!(differences(&plain, &reordered), []);
    let named = |name: &str| on_route(|route| route.ownership = owner(OwnershipPlace::Query, name));
    assert_eq!(differences(&named("a"), &named("b")), [Aspect::Check(Check::Ownership)]);
    let renamed =
        changed(|source| source.budgets.iter_mut().filter(|budget| budget.name == "agent-daily").for_each(|b| b.name = "b".into()));
    assert_eq!(differences(&changed(|_| {}), &renamed), [Aspect::Check(Check::Budget)]);
}

#[test]
fn the_sandbox_gets_no_token_and_a_governor_consumes_no_grant() {
    let policy = on_route(|route| route.credential = CredentialForwarding::Forward);
    let (paying, trial) = (permit(&policy, Trial::No), permit(&policy, Trial::Until(Timestamp::MAX)));
    let (paying, trial) = (Obligations::of(&policy, &paying), Obligations::of(&policy, &trial));
    assert_eq!((paying.credential, paying.target), (CredentialForwarding::Forward, Target::Production));
    assert_eq!((trial.credential, trial.target), (CredentialForwarding::Drop, Target::Sandbox));
    assert_eq!(paying.approval, ApprovalNeed::None);
    let found: Vec<Aspect> = paying.differences(&trial).collect();
    assert_eq!(found, [Aspect::Check(Check::Routing), Aspect::Credential]);
}

#[test]
fn it_is_explained_in_the_names_that_operators_gave() {
    let policy = on_route(|route| {
        (route.ownership, route.limit) = (owner(OwnershipPlace::Path, "id"), Some("guests".into()));
        route.credential = CredentialForwarding::OriginalHeader;
    });
    let user = user(&policy, Trial::No);
    let route = policy.route(Gateway::Cp, Method::Delete, "/agents/7");
    let authentication = Authentication::Verified(&user);
    let facts = RequestFacts { gateway: Gateway::Cp, method: Method::Delete, route, authentication, upgrade: Upgrade::None };
    let told = explain(&policy, &facts, NOW, |_conditional| unreachable!("no rules"));
    let ExplainedOutcome::Permit(permit) = told.outcome else { unreachable!("{told:?}") };
    assert_eq!(permit.ownership, Some((OwnershipPlace::Path, "id".to_owned())));
    assert_eq!(permit.limit.map(|(name, cap)| (name, cap.get())), Some(("guests".to_owned(), 50)));
    let caps: Vec<i64> = permit.charges.iter().map(|charge| charge.cap.get()).collect();
    assert_eq!((caps, permit.credential, told.status), (vec![1_000_000, 100_000_000, 50], CredentialForwarding::OriginalHeader, None));
    let words = [Ownership::Query("a".into()), Ownership::Path(1), Ownership::Body("b".into())].map(|owner| owner.to_string());
    assert_eq!(words, ["query a", "path segment 2", "body b"]);
}
