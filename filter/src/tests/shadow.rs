//! A revision in shadow: what differs is counted under its first check, once per request, and nothing changes for anybody.

use super::counting::allocations;
use super::gate::{Gate, NOW, Request, document, image, version};
use super::tokens;
use crate::exchange::{Exchange, Once};
use crate::pipeline::Step;
use crate::shadow::{Comparison, Judged, compare};
use decision_core::decide;
use decision_core::decision::Decision;
use decision_core::facts::{Authentication, RequestFacts};
use decision_core::gateway::{Gateway, Method};
use decision_core::path::CanonicalPath;
use serde_json::json;
use std::time::Duration;
use wire::audit::Check;
use wire::bundle::{Bundle, BundleVersion, ShadowPolicy};
use wire::policy::{Approval, CredentialForwarding, ExchangeKind, PolicyDocument, Requirement, Role, Route, Target};
use wire::sync::{Aspect, ShadowDifference, ShadowReport, SyncRequest};

const TASKS: &str = "/api/v1/tasks";
const AGENTS: &str = "/api/v1/agents";

type Change = fn(&mut PolicyDocument);

/// The default policy, changed, with another change of it in shadow.
fn bundle(run: u64, active: Change, shadow: Change) -> Vec<u8> {
    let (mut policy, mut in_shadow) = (document(), document());
    active(&mut policy);
    shadow(&mut in_shadow);
    let version = BundleVersion { shadow: run, ..version(1) };
    let mut bundle = Bundle::decode(&image(&policy, version)).unwrap();
    bundle.shadow = Some(ShadowPolicy { revision: 77, policy: in_shadow, rules: None });
    bundle.encode().unwrap()
}

fn gate(active: Change, shadow: Change) -> Gate {
    let gate = Gate::cold("PLANT", super::host::SharedData::default());
    gate.vm.borrow_mut().activate(&gate.host, &bundle(1, active, shadow)).unwrap();
    gate.know_revocations(&[]);
    gate
}

fn report(gate: &Gate) -> ShadowReport {
    gate.vm.borrow_mut().comparison.report().unwrap()
}

fn route<'p>(policy: &'p mut PolicyDocument, name: &str) -> &'p mut Route {
    policy.routes.iter_mut().find(|route| route.name == name).unwrap()
}

fn role<'p>(policy: &'p mut PolicyDocument, name: &str) -> &'p mut Role {
    policy.roles.iter_mut().find(|role| role.name == name).unwrap()
}

fn public(route: &mut Route) {
    (route.require, route.permission, route.cost_micros) = (Requirement::Public, None, None);
}

fn nothing(_: &mut PolicyDocument) {}

fn tasks() -> Request {
    Request::new("GET", TASKS)
}

fn invoices() -> Request {
    Request::new("GET", "/api/v1/invoices?customer_id=other").bearer(&tokens::admin())
}

/// In what they part, the route, what the active revision came to, and what the one in shadow.
type Expected = Option<(Aspect, &'static str, &'static str, &'static str)>;

#[expect(clippy::too_many_lines, reason = "a table")]
fn ways() -> Vec<(&'static str, Change, Change, Request, Expected)> {
    let refresh = "/api/v1/auth/refresh";
    vec![
        ("the same", nothing, nothing, tasks().bearer(&tokens::admin()), None),
        ("refused by both", nothing, nothing, tasks(), None),
        ("no route in either", nothing, nothing, Request::new("GET", "/none"), None),
        ("a method that no route has", nothing, nothing, Request::new("PURGE", TASKS), None),
        ("an ambiguous path", nothing, nothing, Request::new("GET", "/a//b"), None),
        ("a bad token", nothing, nothing, tasks().bearer("a.b.c"), None),
        ("a repeated token", nothing, nothing, tasks().bearer("a").bearer("b"), None),
        (
            "a role loses a permission",
            nothing,
            |policy| role(policy, "agent_orchestrator").permissions.retain(|name| name != "task.read"),
            tasks().bearer(&tokens::with_role("agent_orchestrator")),
            Some((Aspect::Check(Check::Permission), "tasks.list", "ok", "permission_missing")),
        ),
        (
            "a role gains one",
            |policy| role(policy, "agent_orchestrator").permissions.retain(|name| name != "task.read"),
            nothing,
            tasks().bearer(&tokens::with_role("agent_orchestrator")),
            Some((Aspect::Check(Check::Permission), "tasks.list", "permission_missing", "ok")),
        ),
        (
            "a role is not known any more",
            nothing,
            |policy| {
                policy.issuers.iter_mut().for_each(|issuer| issuer.roles.retain(|name| name != "agent_orchestrator"));
                policy.roles.retain(|role| role.name != "agent_orchestrator");
            },
            tasks().bearer(&tokens::with_role("agent_orchestrator")),
            Some((Aspect::Check(Check::Authentication), "tasks.list", "ok", "no_known_role")),
        ),
        (
            "a route is gone",
            nothing,
            |policy| policy.routes.retain(|route| route.name != "tasks.list"),
            tasks().bearer(&tokens::admin()),
            Some((Aspect::Check(Check::Route), "tasks.list", "ok", "no_route")),
        ),
        (
            "a route is new, and asks for a token",
            |policy| policy.routes.retain(|route| route.name != "tasks.list"),
            nothing,
            tasks(),
            Some((Aspect::Check(Check::Route), "tasks.list", "no_route", "credential_missing")),
        ),
        (
            "a route becomes public",
            nothing,
            |policy| public(route(policy, "tasks.list")),
            tasks(),
            Some((Aspect::Check(Check::Authentication), "tasks.list", "credential_missing", "ok")),
        ),
        (
            "a public route asks for a token",
            nothing,
            |policy| route(policy, "auth.refresh").require = Requirement::Authenticated,
            Request::new("POST", refresh),
            Some((Aspect::Check(Check::Authentication), "auth.refresh", "ok", "credential_missing")),
        ),
        (
            "trials go to production",
            nothing,
            |policy| policy.routing.get_or_insert_default().trials = Target::Production,
            tasks().bearer(&tokens::on_trial(60)),
            Some((Aspect::Check(Check::Routing), "tasks.list", "sandbox", "production")),
        ),
        (
            "an approval is needed",
            nothing,
            |policy| route(policy, "tasks.list").approval = Approval::Governor,
            tasks().bearer(&tokens::with_role("agent_orchestrator")),
            Some((Aspect::Check(Check::Approval), "tasks.list", "ok", "approval")),
        ),
        (
            "it costs more",
            nothing,
            |policy| route(policy, "tasks.list").cost_micros = Some(5),
            tasks().bearer(&tokens::admin()),
            Some((Aspect::Check(Check::Budget), "tasks.list", "charges", "charges")),
        ),
        (
            "an ownership is gone",
            nothing,
            |policy| route(policy, "invoices.list").ownership = None,
            invoices(),
            Some((Aspect::Check(Check::Ownership), "invoices.list", "query", "none")),
        ),
        (
            "an ownership has another name",
            nothing,
            |policy| route(policy, "invoices.list").ownership.as_mut().unwrap().name = "owner".into(),
            invoices(),
            Some((Aspect::Check(Check::Ownership), "invoices.list", "query", "query")),
        ),
        (
            "the backend gets the token",
            nothing,
            |policy| route(policy, "tasks.list").credential = CredentialForwarding::Forward,
            tasks().bearer(&tokens::admin()),
            Some((Aspect::Credential, "tasks.list", "drop", "forward")),
        ),
        (
            "the sandbox never gets it",
            nothing,
            |policy| route(policy, "tasks.list").credential = CredentialForwarding::Forward,
            tasks().bearer(&tokens::on_trial(60)),
            None,
        ),
        (
            "the backend gets another path",
            nothing,
            |policy| route(policy, "auth.google.verify.bare").rewrite = Some("/api/v1/admin/x".into()),
            Request::new("POST", "/auth/google/verify"),
            Some((Aspect::Rewrite, "auth.google.verify.bare", "rewritten", "rewritten")),
        ),
        (
            "a response goes on",
            nothing,
            |policy| route(policy, "tasks.list").exchange = ExchangeKind::Stream,
            tasks().bearer(&tokens::admin()),
            Some((Aspect::Exchange, "tasks.list", "plain", "stream")),
        ),
        (
            "a client address is not counted any more",
            nothing,
            |policy| route(policy, "auth.refresh").limit = None,
            Request::new("POST", refresh),
            Some((Aspect::Check(Check::ClientLimit), "auth.refresh", "limited", "none")),
        ),
        ("the budgets stand in another order", nothing, |policy| policy.budgets.reverse(), tasks().bearer(&tokens::admin()), None),
    ]
}

#[test]
fn every_way_to_differ_is_counted_under_its_check() {
    for (what, active, shadow, request, expected) in ways() {
        let mut gate = gate(active, shadow);
        let stream = gate.begin(&request);
        assert_ne!(stream.step, Step::NeedsBody, "{what}");
        let report = report(&gate);
        assert_eq!((report.shadow, report.compared, report.unjudged), (1, 1, 0), "{what}");
        let expected = expected.map(|(aspect, route, active, shadow)| ShadowDifference {
            aspect,
            route: route.into(),
            active: active.into(),
            shadow: shadow.into(),
            count: 1,
        });
        assert_eq!(report.differences, expected.into_iter().collect::<Vec<_>>(), "{what}");
    }
}

#[test]
fn what_was_not_verified_is_not_judged() {
    let ways: [(&str, Change, Change, Request); 2] = [
        (
            "a token that the active revision did not look at",
            nothing,
            |policy| route(policy, "auth.refresh").require = Requirement::Authenticated,
            Request::new("POST", "/api/v1/auth/refresh").bearer(&tokens::admin()),
        ),
        (
            "a user whose roles the active revision does not know",
            nothing,
            |policy| policy.roles.push(Role { name: "newcomer".into(), aliases: vec![], permissions: vec!["task.read".into()] }),
            tasks().bearer(&tokens::with_role("newcomer")),
        ),
    ];
    for (what, active, shadow, request) in ways {
        let mut gate = gate(active, shadow);
        gate.begin(&request);
        let report = report(&gate);
        assert_eq!((report.compared, report.unjudged, report.differences.len()), (0, 1, 0), "{what}");
    }
}

#[test]
fn custom_rules_that_cannot_be_asked_refuse_in_shadow_as_they_do_in_force() {
    let mut gate = gate(nothing, |policy| {
        policy.rules = Some(wire::policy::Rules {
            modules: vec!["a.rego".into()],
            inputs: vec![],
            gateways: vec![wire::policy::Gateway::Plant],
            data: None,
        });
    });
    gate.begin(&tasks().bearer(&tokens::admin()));
    let report = report(&gate);
    let difference = report.differences.first().unwrap();
    assert_eq!((report.compared, report.unjudged, difference.aspect), (1, 0, Aspect::Check(Check::Rules)));
    assert_eq!((difference.active.as_str(), difference.shadow.as_str()), ("ok", "rule_refused"));
}

#[test]
fn a_revision_in_shadow_changes_nothing_for_anybody() {
    let limited_only: Change = |policy| {
        policy.routes.retain(|route| route.limit.is_some());
        policy.flags.clear();
    };
    let (mut with, mut without) = (gate(nothing, limited_only), Gate::new("PLANT"));
    for request in [tasks().bearer(&tokens::admin()), tasks(), Request::new("GET", "/none"), Request::new("POST", "/api/v1/auth/refresh")] {
        let (one, other) = (with.begin(&request), without.begin(&request));
        assert_eq!(one.step, other.step);
        let status = |reply: Option<super::host::Reply>| reply.map(|reply| reply.status);
        assert_eq!(status(with.reply(&one)), status(without.reply(&other)));
    }
}

/// How often it allocates to compare a request again, after `change`.
fn allocations_of_comparing(gate: &mut Gate, request: &Request, change: impl FnOnce(&mut Comparison)) -> usize {
    let stream = gate.begin(request);
    let mut exchange = stream.exchange.borrow_mut();
    let Exchange { headers, trace, .. } = &mut *exchange;
    let active = trace.active.clone().unwrap();
    let path = CanonicalPath::parse(headers.target()).unwrap();
    let method = Method::parse(headers.matched_method()).unwrap();
    let principal = trace.principal.clone();
    let facts = RequestFacts {
        gateway: Gateway::Plant,
        method,
        route: active.policy.route(Gateway::Plant, method, path.path()),
        authentication: principal.as_deref().map_or(Authentication::Anonymous, Authentication::Verified),
        upgrade: headers.upgrade(),
    };
    let decided = decide(&active.policy, &facts, NOW);
    let judged = match &decided {
        Decision::Permit(permit) => Judged::Permit(permit),
        Decision::Deny(denial) => Judged::Deny(denial),
        Decision::Conditional(_) => unreachable!("no custom rules"),
    };
    trace.noted.shadow = Once::NotYet;
    let comparison = &mut gate.vm.borrow_mut().comparison;
    change(comparison);
    allocations(|| compare(headers, trace, comparison, &active, Gateway::Plant, judged, NOW)).0
}

#[test]
fn comparing_allocates_only_where_a_difference_is_new() {
    let requests = [
        tasks().bearer(&tokens::admin()),
        tasks().bearer(&tokens::on_trial(3_600)),
        Request::new("POST", TASKS).bearer(&tokens::with_role("viewer")),
        Request::new("POST", AGENTS).bearer(&tokens::with_role("agent_orchestrator")),
        Request::new("POST", "/api/v1/auth/refresh"),
        tasks(),
        Request::new("GET", "/none"),
    ];
    // The same in another order: other numbers of routes, budgets and charges, and the same decisions.
    let reversed: Change = |policy| {
        policy.routes.reverse();
        policy.budgets.reverse();
        policy.permissions.reverse();
    };
    for shadow in [nothing, reversed] {
        let mut gate = gate(nothing, shadow);
        for request in &requests {
            // Who this is under the policy in shadow is found out once per token.
            gate.begin(request);
            assert_eq!(allocations_of_comparing(&mut gate, request, |_| {}), 0, "{request:?}");
        }
        let report = report(&gate);
        assert_eq!((report.compared, report.unjudged, report.differences.len()), (3 * 7, 0, 0), "each was compared, and none differs");
    }
    let mut gate = gate(nothing, |policy| public(route(policy, "tasks.list")));
    assert_eq!(allocations_of_comparing(&mut gate, &tasks(), |_| {}), 0, "a difference that was counted before is only counted");
    assert!(allocations_of_comparing(&mut gate, &tasks(), Comparison::begin_anew) > 0, "a new one takes a place in the table");
}

#[test]
fn a_request_is_counted_once_and_a_probe_is_not() {
    let mut gate = gate(nothing, |policy| policy.routes.retain(|route| route.name != "agents.create"));
    // Judged when its headers come, and again when its body is there.
    let create = Request::new("POST", AGENTS).bearer(&tokens::with_role("agent_orchestrator")).body("{}");
    gate.send(&create);
    gate.refused(&Request::new("GET", "/health"));
    let report = report(&gate);
    assert_eq!((report.compared, report.differences.len(), report.differences[0].count), (1, 1, 1));
}

#[test]
fn counts_are_reported_until_they_are_known_and_begin_anew_with_the_next_run() {
    let without: Change = |policy| policy.routes.retain(|route| route.name != "tasks.list");
    let mut gate = gate(nothing, without);
    let request = tasks();
    let count = |report: &SyncRequest| report.shadow.as_ref().map(|shadow| (shadow.shadow, shadow.compared, shadow.differences[0].count));
    let synced = |gate: &Gate| {
        gate.vm.borrow_mut().sync.hurry();
        gate.sync_call().unwrap()
    };
    gate.refused(&request);
    let (call, asked) = synced(&gate);
    assert_eq!(count(&asked), Some((1, 1, 1)));
    gate.refused(&request);
    // Lost: said again, with what came meanwhile.
    gate.answer(&call, &[], vec![]);
    gate.vm.borrow_mut().sync.hurry();
    gate.run(Duration::from_secs(3));
    let call = gate.take_call("/data-plane/v1/sync").unwrap();
    let asked: SyncRequest = wire::frame::decode(&call.body).unwrap();
    assert_eq!(count(&asked), Some((1, 2, 2)));
    gate.answer_sync(&call, &super::gate::grant_all(&asked));
    let (call, asked) = synced(&gate);
    assert_eq!(asked.shadow, None, "nothing is new");
    gate.answer_sync(&call, &super::gate::grant_all(&asked));
    // Another key set of the same run goes on counting, another run begins anew.
    let mut next = Bundle::decode(&bundle(1, nothing, without)).unwrap();
    next.version.key_set += 1;
    gate.vm.borrow_mut().activate(&gate.host, &next.encode().unwrap()).unwrap();
    gate.refused(&request);
    assert_eq!(report(&gate).compared, 3);
    (next.version.shadow, next.version.key_set) = (2, next.version.key_set + 1);
    gate.vm.borrow_mut().activate(&gate.host, &next.encode().unwrap()).unwrap();
    gate.refused(&request);
    let anew = report(&gate);
    assert_eq!((anew.shadow, anew.compared, anew.differences[0].count), (2, 1, 1));
}

#[test]
fn ten_records_of_a_second_say_how_it_would_have_been() {
    let mut gate = gate(nothing, |policy| public(route(policy, "tasks.list")));
    let noted = |gate: &mut Gate| {
        let stream = gate.begin(&tasks());
        gate.finish(&stream);
        gate.last_record()["shadow"].clone()
    };
    let first = noted(&mut gate);
    assert_eq!(first, json!({"revision": 77, "decision": "Permit", "reason": "ok", "route": "tasks.list"}));
    let more = (0..30).filter(|_| !noted(&mut gate).is_null()).count();
    assert_eq!(more, 9);
    gate.host.pass(Duration::from_secs(1));
    assert_eq!(noted(&mut gate)["reason"], json!("ok"));
    // A request that both decide alike says nothing.
    let stream = gate.begin(&Request::new("GET", "/none"));
    gate.finish(&stream);
    assert!(gate.last_record()["shadow"].is_null());
}

#[test]
fn differences_beyond_the_table_are_counted_per_check_and_none_is_lost() {
    fn many(policy: &mut PolicyDocument) {
        let like = route(policy, "tasks.list").clone();
        policy.routes.extend((0..1_100).map(|number| {
            let (name, path) = (format!("many.{number}"), format!("/many/{number}"));
            Route { name, path, ..like.clone() }
        }));
    }
    let mut gate = gate(nothing, many);
    for number in 0..1_100 {
        gate.begin(&Request::new("GET", &format!("/many/{number}")));
    }
    let report = report(&gate);
    let (rest, named): (Vec<_>, Vec<_>) = report.differences.iter().partition(|difference| difference.route.is_empty());
    assert_eq!((named.len(), rest.len(), rest[0].count, rest[0].aspect), (1_024, 1, 76, Aspect::Check(Check::Route)));
    assert_eq!((report.compared, report.differences.iter().map(|difference| difference.count).sum::<u64>()), (1_100, 1_100));
}
