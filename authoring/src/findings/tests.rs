use super::*;
use decision_core::policy::compile::compile;

const GOOD: &str = "
issuers:
  - {name: cp, issuer: cp.example, gateways: [PLANT], roles: [user], algorithms: [RS256], jwks: {url: 'https://cp.example/keys'}}
registration_keys: [registration]
permissions:
  - agent.read
roles:
  - name: user
    permissions: [agent.read]
flags:
  - {name: beta, default: off, rollout_percent: 20}
routes:
  - {name: agents, gateways: [PLANT], methods: [GET], path: /agents, require: permission, permission: agent.read}
  - {name: beta, gateways: [PLANT], methods: [GET], path: /beta, require: authenticated, flag: beta}
  - {name: register, gateways: [PLANT], methods: [POST], path: /register, require: registration_key}
budgets:
  - {name: daily, unit: micro_usd, window: day, scope: platform, cap: 1000000}
responses:
  - {reason: permission_missing, detail: ask for it}
";

fn found(text: &str) -> Vec<(Option<usize>, String)> {
    let files = Files::from([("policy.yaml".to_owned(), text.to_owned())]);
    let document = wire::sources::read(&files).unwrap();
    let compiled = compile(&document.to_source()).unwrap();
    findings(&document, &compiled, &files).into_iter().map(|finding| (finding.line, finding.message)).collect()
}

#[test]
fn a_policy_in_which_everything_has_a_use_has_none() {
    assert_eq!(found(GOOD), []);
}

#[test]
fn each_finding_names_what_and_where() {
    for (from, to, line, message) in [
        (
            "registration_keys: [registration]",
            "",
            15,
            "routes[register].require: nobody can use the route: the policy has no registration key",
        ),
        ("  - agent.read\n", "  - agent.read\n  - agent.write\n", 7, "permissions[agent.write]: no role has it and no route asks for it"),
        (
            "permissions: [agent.read]",
            "permissions: []",
            13,
            "routes[agents].permission: nobody can use the route: no role that an issuer may assign on its gateways has `agent.read`",
        ),
        ("permissions: [agent.read]", "permissions: []", 6, "permissions[agent.read]: no role has it"),
        (
            "roles:\n  - name: user",
            "roles:\n  - {name: ghost, permissions: [agent.read]}\n  - name: user",
            8,
            "roles[ghost]: no issuer may assign it on a gateway that has a route for it",
        ),
        ("rollout_percent: 20", "rollout_percent: 0", 14, "routes[beta].flag: nobody can use the route: its flag is never on"),
        (
            "  - {name: beta, default: off",
            "  - {name: lax, default: off, switches: [permission, budget]}\n  - {name: beta, default: off",
            11,
            "flags[lax]: it is off for everybody, so nobody is checked: permission, budget",
        ),
        (
            "rollout_percent: 20",
            "rollout_percent: 20, overrides: [{customers: [], state: on}]",
            11,
            "flags[beta].overrides: one names no customer",
        ),
        (
            "scope: platform,",
            "scope: platform, gateways: [PP],",
            17,
            "budgets[daily]: it matches no route: no request is ever charged to it",
        ),
        ("unit: micro_usd", "unit: tasks", 17, "budgets[daily]: it matches no route: no request is ever charged to it"),
        (
            "reason: permission_missing",
            "reason: approval_required",
            19,
            "responses[approval_required]: the refusal does not occur under this policy",
        ),
        (
            "gateways: [PLANT], methods: [GET], path: /beta",
            "gateways: [PP], methods: [GET], path: /beta",
            14,
            "routes[beta].gateways: nobody can use the route: no issuer's tokens are good for its gateways",
        ),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let found = found(&GOOD.replacen(from, to, 1));
        let hit = found.iter().find(|(_, text)| text == message);
        assert!(hit.is_some(), "{message}: {found:?}");
        assert_eq!(hit.unwrap().0, Some(line), "{message}");
    }
}

#[test]
fn many_findings_are_cut() {
    let permissions: String = (0..201).map(|number| format!("  - unused.p{number}\n")).collect();
    let found = found(&GOOD.replacen("  - agent.read\n", &format!("  - agent.read\n{permissions}"), 1));
    assert_eq!(found.len(), FINDINGS_MAX + 1);
    assert_eq!(found.last().unwrap().1, "and 1 more");
}
