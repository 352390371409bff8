use super::*;
use decision_core::policy::compile::compile;
use std::time::Instant;

const POLICY: &str = "
issuers:
  - {name: cp, issuer: cp.example, gateways: [PLANT], algorithms: [RS256], jwks: {url: 'https://cp.example/keys'}}
permissions: [agent.read, agent.write]
roles:
  - {name: viewer, permissions: [agent.read]}
  - {name: admin, permissions: ['*']}
routes:
  - {name: agents, gateways: [PLANT], methods: [GET], path: '/agents/{id}', require: permission, permission: agent.read, cost_micros: 0}
  - {name: change, gateways: [PLANT], methods: [PUT], path: '/agents/{id}', require: permission, permission: agent.write, cost_micros: 0}
";

struct Version {
    document: PolicyDocument,
    compiled: CompiledPolicy,
}

impl Version {
    fn side(&self) -> Side<'_> {
        Side { document: &self.document, compiled: &self.compiled }
    }
}

fn version(text: &str) -> Version {
    let document = wire::sources::read(&Files::from([("policy.yaml".to_owned(), text.to_owned())])).unwrap();
    let compiled = compile(&document.to_source()).unwrap();
    Version { document, compiled }
}

fn compared(from: &str, to: &str) -> Comparison {
    let (old, new) = (version(from), version(to));
    decisions(&old.side(), &new.side())
}

fn edited(from: &str, to: &str) -> Comparison {
    assert!(POLICY.contains(from), "{from}");
    compared(POLICY, &POLICY.replacen(from, to, 1))
}

/// Every change as `GATEWAY endpoints; callers: from -> to`.
fn told(comparison: &Comparison) -> Vec<String> {
    let line = |change: &Change| {
        let Change { gateway, from, to, endpoints, callers, .. } = change;
        format!("{} {}; {}: {from} -> {to}", gateway.name(), endpoints.join(", "), callers.join(", "))
    };
    comparison.changes.iter().map(line).collect()
}

#[test]
fn the_same_policy_in_other_words_changes_nothing() {
    let reordered = POLICY.replace("[agent.read, agent.write]", "[agent.write, agent.read]").replace("name: change", "name: renamed");
    let comparison = compared(POLICY, &reordered);
    assert_eq!(comparison.changes, []);
    // Nobody, a registration key, and two roles in four variants, on two endpoints.
    assert_eq!((comparison.compared, comparison.changed), (20, 0));
    assert_eq!(comparison.summary, "no decision of 20 changes");
}

#[test]
fn a_permission_more_opens_a_route_to_a_role() {
    let comparison = edited("permissions: [agent.read]}", "permissions: [agent.read, agent.write]}");
    assert_eq!(
        told(&comparison),
        [
            "PLANT PUT /agents/{id}; cp:viewer, cp:viewer, governor: deny: permission_missing -> permit",
            "PLANT PUT /agents/{id}; cp:viewer, on trial: deny: permission_missing -> permit to the sandbox",
            "PLANT PUT /agents/{id}; cp:viewer, trial expired: deny: permission_missing -> deny: trial_expired",
        ]
    );
    assert_eq!(comparison.summary, "4 of 20 decisions change");
}

#[test]
fn a_more_specific_route_is_seen_as_the_change_that_it_is() {
    let more = "routes:\n  - {name: health, gateways: [PLANT], methods: [GET], path: /agents/health, require: public}\n";
    let comparison = edited("routes:\n", more);
    let told = told(&comparison);
    assert!(
        told.contains(&"PLANT GET /agents/health; nobody, a registration key: deny: credential_missing -> permit".to_owned()),
        "{told:?}"
    );
    assert_eq!(comparison.changed, 6, "two without a token, and two roles on trial and after it");
}

#[test]
fn charges_approvals_and_where_a_request_goes_are_decisions() {
    let charged = edited("agent.read, cost_micros: 0", "agent.read, cost_micros: 5");
    assert_eq!(charged.changes, [], "no budget counts money");
    let budget = "budgets:\n  - {name: daily, unit: micro_usd, window: day, scope: platform, cap: 1000000}\nroutes:\n";
    let with_budget = POLICY.replacen("routes:\n", budget, 1);
    let told_charges = told(&compared(&with_budget, &with_budget.replacen("cost_micros: 0", "cost_micros: 5", 1)));
    assert!(told_charges.iter().any(|line| line.ends_with("permit -> permit, charged 5 on daily")), "{told_charges:?}");
    let approved = told(&edited("agent.write, cost_micros: 0", "agent.write, cost_micros: 0, approval: governor"));
    assert_eq!(approved.len(), 2, "{approved:?}");
    assert!(approved.contains(&"PLANT PUT /agents/{id}; cp:admin: permit -> permit with an approval".to_owned()), "{approved:?}");
    let routed = told(&edited("routes:\n", "routing: {trials: production}\nroutes:\n"));
    assert!(routed.iter().all(|line| line.contains("on trial") && line.ends_with("permit to the sandbox -> permit")), "{routed:?}");
}

#[test]
fn how_a_cost_becomes_known_is_a_difference() {
    let fixed = POLICY.replacen("agent.read, cost_micros: 0", "agent.read, cost_micros: 5", 1);
    let reported = fixed.replacen("agent.read, cost_micros: 5", "agent.read, cost_micros: 5, metering: {by: header}", 1);
    let told = told(&compared(&fixed, &reported));
    let change = ["metering: fixed -> ", "metering: header x-actual-cost-micros"];
    let tells = |line: &String| line.contains("GET /agents/{id}; ") && change.iter().all(|part| line.contains(part));
    assert!(!told.is_empty() && told.iter().all(tells), "{told:?}");
}

#[test]
fn what_becomes_of_a_permitted_request_is_a_decision() {
    let limit = "budgets:\n  - {name: guests, unit: requests, window: minute, scope: client_address, cap: 9, durable: false}\nroutes:\n";
    let limited =
        POLICY.replacen("routes:\n", limit, 1).replacen("agent.write, cost_micros: 0", "agent.write, cost_micros: 0, limit: guests", 1);
    for (field, change) in [
        ("ownership: {in: query}", "permit, ownership: none -> permit, ownership: query customer_id"),
        ("ownership: {in: path, name: id}", "permit, ownership: none -> permit, ownership: path segment 2"),
        ("ownership: {in: body, name: owner}", "permit, ownership: none -> permit, ownership: body owner"),
        ("credential: original_header", "permit, credential: drop -> permit, credential: original_header"),
        ("credential: forward", "permit, credential: drop -> permit, credential: forward"),
        ("rewrite: /internal", "permit, rewrite: none -> permit, rewrite: /internal"),
        ("exchange: stream", "permit, exchange: plain -> permit, exchange: stream"),
        ("limit: guests", "permit, client_limit: none -> permit, client_limit: guests"),
    ] {
        let with = limited.replacen("agent.read, cost_micros: 0", &format!("agent.read, cost_micros: 0, {field}"), 1);
        let comparison = compared(&limited, &with);
        let told = told(&comparison);
        assert!(
            told.iter().any(|line| line.contains("GET /agents/{id}; ") && line.contains("cp:viewer") && line.ends_with(change)),
            "{field}: {told:?}"
        );
        assert_eq!(compared(&with, &with).changed, 0, "{field}");
        assert_eq!(compared(&with, &limited).changed, comparison.changed, "{field}");
    }
}

#[test]
fn what_stays_as_it_was_does_not_part_changes() {
    // Two routes that differ in what becomes of their requests lose the same permission.
    let policy = POLICY.replacen("permission: agent.write", "permission: agent.read, credential: forward", 1);
    let told = told(&compared(&policy, &policy.replacen("permissions: [agent.read]}", "permissions: []}", 1)));
    let lost = "PLANT GET /agents/{id}, PUT /agents/{id}; cp:viewer, cp:viewer, governor: permit -> deny: permission_missing";
    assert!(told.contains(&lost.to_owned()), "{told:?}");
    // Both paths are about customers, and only one of them becomes another.
    let renamed = POLICY.replacen("agent.read, cost_micros: 0", "agent.read, cost_micros: 0, ownership: {in: path, name: id}", 1);
    assert_eq!(compared(&renamed, &renamed.replace("{id}", "{agent}").replace("name: id", "name: agent")).changed, 0);
}

#[test]
fn a_role_that_goes_is_refused_and_one_that_comes_is_let_in() {
    let told = told(&edited("  - {name: viewer, permissions: [agent.read]}\n", ""));
    assert!(told.iter().any(|line| line.contains("cp:viewer") && line.ends_with("permit -> deny: no_known_role")), "{told:?}");
}

/// A policy whose route is behind this flag, and the changes to another.
fn flagged(from: &str, to: &str) -> Vec<String> {
    let with = |flag: &str| {
        let flags = format!("flags:\n  - {{name: new, {flag}}}\nroutes:\n");
        POLICY.replacen("routes:\n", &flags, 1).replacen("agent.read, cost_micros: 0", "agent.read, cost_micros: 0, flag: new", 1)
    };
    told(&compared(&with(from), &with(to)))
}

#[test]
fn a_customer_whom_an_override_names_is_compared_too() {
    let changes =
        flagged("default: off, overrides: [{customers: [c-7], state: on}]", "default: off, overrides: [{customers: [c-8], state: on}]");
    let told_of = |customer: &str, change: &str| {
        changes.iter().any(|line| line.contains(&format!("cp:viewer, customer {customer}")) && line.ends_with(change))
    };
    assert!(told_of("c-7", "permit -> deny: feature_disabled") && told_of("c-8", "deny: feature_disabled -> permit"), "{changes:?}");
    assert!(!changes.iter().any(|line| line.contains("cp:viewer,  ") || line.contains("cp:viewer:")), "nothing changes for anybody else");
}

#[test]
fn both_sides_of_a_roll_out_are_compared() {
    for (percent, to) in [(1, 99), (99, 1), (50, 49), (7, 8)] {
        let changes = flagged(&format!("default: off, rollout_percent: {percent}"), &format!("default: off, rollout_percent: {to}"));
        let gains = changes.iter().any(|line| line.ends_with("deny: feature_disabled -> permit"));
        let loses = changes.iter().any(|line| line.ends_with("permit -> deny: feature_disabled"));
        // Whoever is in stays in as the share grows: only one of the two.
        assert_eq!((gains, loses), (to > percent, to < percent), "{percent} -> {to}: {changes:?}");
    }
    assert_eq!(flagged("default: off, rollout_percent: 1", "default: off, rollout_percent: 1"), [""; 0]);
    assert!(!flagged("default: off, rollout_percent: 1", "default: on").is_empty(), "a roll-out that ends");
}

#[test]
fn text_is_a_unified_diff_per_file() {
    let from = Files::from([("a.yaml".to_owned(), "one\ntwo\n".to_owned()), ("b.yaml".to_owned(), "same\n".to_owned())]);
    let to = Files::from([
        ("a.yaml".to_owned(), "one\n2\n".to_owned()),
        ("b.yaml".to_owned(), "same\n".to_owned()),
        ("c.yaml".to_owned(), "new\n".to_owned()),
    ]);
    assert_eq!(
        text(&from, &to),
        "--- a/a.yaml\n+++ b/a.yaml\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n--- /dev/null\n+++ b/c.yaml\n@@ -0,0 +1 @@\n+new\n"
    );
    assert_eq!(text(&from, &from), "");
}

/// 10,000 routes and 1,000 roles with different permissions; every role changes.
#[test]
fn a_large_policy_is_compared_in_bounded_time() {
    let mut text =
        "issuers:\n  - {name: cp, issuer: cp.example, gateways: [PLANT], algorithms: [RS256], jwks: {url: 'https://cp.example/keys'}}\n"
            .to_owned();
    let permissions: Vec<String> = (0..250).map(|number| format!("p.n{number}")).collect();
    text.push_str(&format!("permissions: [{}]\nroles:\n", permissions.join(", ")));
    for role in 0..1_000 {
        let mine: Vec<&str> =
            permissions.iter().enumerate().filter(|(index, _)| (role >> (index % 10)) & 1 == 1).map(|(_, name)| name.as_str()).collect();
        text.push_str(&format!("  - {{name: role{role}, permissions: [{}]}}\n", mine.join(", ")));
    }
    text.push_str("routes:\n");
    for route in 0..10_000 {
        let permission = &permissions[route % 250];
        text.push_str(&format!(
            "  - {{name: r{route}, gateways: [PLANT], methods: [GET], path: '/r/{route}/{{id}}', require: permission, permission: {permission}, cost_micros: 0}}\n"
        ));
    }
    let (old, new) = (version(&text), version(&text.replace("permission: p.n7,", "permission: p.n8,")));
    let started = Instant::now();
    let comparison = decisions(&old.side(), &new.side());
    let took = started.elapsed();
    assert!(comparison.changed > 0 && !comparison.truncated, "{}", comparison.summary);
    // Tests are built without full optimisation and share their machine; released it is a tenth of this.
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(comparison.compared, 10_000 * 4_002);
}
