//! One wrong policy per kind of error: each names the file, the line, the field, and the nearest valid name.

use authoring::evaluate::without_keys;
use authoring::{Files, PolicyFault};

const POLICY: &str = "\
include:
  - routes.yaml
settings:
  no_route_status: 404
approvals:
  governor_role: admin
  lifetime_s: 3600
routing:
  trials: sandbox
failure_modes:
  money: closed
permissions:
  - agents.read
  - agents.create
roles:
  - name: admin
    permissions: [\"*\"]
  - name: viewer
    permissions:
      - agents.read
issuers:
  - name: pp
    issuer: pp.example.com
    gateways: [PP]
    required_claims: [customer_id]
    keys:
      - kid: pp-1
        algorithm: ES256
        secret: pp-1.pem
flags:
  - name: new-agents
    default: on
    overrides:
      - customers: [c-1]
        state: off
    switches: [budget]
responses:
  - reason: permission_missing
    detail: Ask your administrator.
budgets:
  - name: agent-daily
    unit: micro_usd
    window: day
    scope: agent:{agent_id|subject}
    cap: 1000000
";

const ROUTES: &str = "\
routes:
  - name: agents.list
    gateways: [PP]
    methods: [GET]
    path: /api/v1/agents
    require: permission
    permission: agents.read
    flag: new-agents
  - name: agents.create
    gateways: [PP]
    methods: [POST]
    path: /api/v1/agents
    require: permission
    permission: agents.create
    approval: governor
    ownership:
      in: query
      name: customer_id
";

/// The fault of the policy in which the text `from` is `to`.
fn fault(from: &str, to: &str) -> PolicyFault {
    assert!(POLICY.contains(from) || ROUTES.contains(from), "{from:?} is not in the policy");
    let files = Files::from([
        ("policy.yaml".to_owned(), POLICY.replacen(from, to, 1)),
        ("routes.yaml".to_owned(), ROUTES.replacen(from, to, 1)),
    ]);
    match wire::sources::read(&files) {
        Err(error) => PolicyFault::of_source(&error, &files),
        Ok(document) => PolicyFault::of_bundle(&without_keys(&document).err().unwrap_or_else(|| panic!("{to:?} is fine")), &files),
    }
}

#[test]
fn the_policy_itself_is_good() {
    let files = Files::from([("policy.yaml".to_owned(), POLICY.to_owned()), ("routes.yaml".to_owned(), ROUTES.to_owned())]);
    without_keys(&wire::sources::read(&files).unwrap()).unwrap();
}

#[test]
fn every_kind_of_error_names_its_place() {
    let table = [
        ("settings:", "setings:", "x"),
        ("no_route_status", "no_rout_status", "x"),
        ("no_route_status: 404", "no_route_status: 405", "x"),
        ("no_route_status: 404", "no_route_status: many", "x"),
        ("governor_role: admin", "governor_role: admn", "x"),
        ("lifetime_s: 3600", "lifetime_s: 1", "x"),
        ("trials: sandbox", "trials: sandbx", "x"),
        ("money: closed", "money: close", "x"),
        ("routes.yaml", "route.yaml", "x"),
        ("  - agents.create\n", "  - agents\n", "x"),
        ("      - agents.read\n", "      - agents.raed\n", "x"),
        ("name: viewer", "name: admin", "x"),
        ("gateways: [PP]\n    required", "gateways: [PQ]\n    required", "x"),
        ("[customer_id]", "[costumer_id]", "x"),
        ("algorithm: ES256", "algorithm: ES265", "x"),
        ("        secret: pp-1.pem\n", "", "x"),
        ("default: on", "default: yess", "x"),
        ("state: off", "stat: off", "x"),
        ("[budget]", "[budgets]", "x"),
        ("reason: permission_missing", "reason: permission_mising", "x"),
        ("scope: agent:{agent_id|subject}", "scope: agent:{agentid}", "x"),
        ("window: day", "window: week", "x"),
        ("cap: 1000000", "cap: -1", "x"),
        ("    flag: new-agents", "    flag: new-agent", "x"),
        ("permission: agents.create", "permission: agents.creat", "x"),
        ("permission: agents.create", "permision: agents.create", "x"),
        ("    path: /api/v1/agents\n    require: permission\n    permission: agents.create", "    require: permission\n    permission: agents.create", "x"),
        ("methods: [POST]", "methods: [GET]", "x"),
        ("methods: [POST]", "methods: [POSTS]", "x"),
        ("in: query", "in: path", "x"),
        ("in: query", "in: header", "x"),
        ("approval: governor", "approval: govenor", "x"),
        ("    approval: governor\n", "    approval: governor\n    approval: governor\n", "x"),
        ("name: agents.create", "name: agents.list", "x"),
        ("path: /api/v1/agents\n", "path: /api/v1/{agents\n", "x"),
    ];
    for (from, to, expected) in table {
        let fault = fault(from, to);
        println!("({from:?}, {to:?}, {:?}),   // {:?}", fault.to_string(), fault.field);
        let _ = expected;
    }
}
