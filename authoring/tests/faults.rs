//! One wrong policy per kind of error: each names the file, the line, the field, and the nearest valid name.
#![expect(clippy::panic, clippy::too_many_lines, reason = "a test that cannot go on has failed; a table is as long as it is")]

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
audit:
  request_headers: [x-tenant]
  identities: plain
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
    audit: required
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
    let files =
        Files::from([("policy.yaml".to_owned(), POLICY.replacen(from, to, 1)), ("routes.yaml".to_owned(), ROUTES.replacen(from, to, 1))]);
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
        (
            "settings:",
            "setings:",
            "policy.yaml:3: setings: unknown field `setings`, expected one of `include`, `settings`, `approvals`, `routing`, `failure_modes`, `responses`, `flags`, `rules`, `issuers`, `registration_keys`, `permissions`, `roles`, `routes`, `budgets`, `reporting`, `prices`, `audit`, `explanations`; the nearest name is `settings`",
        ),
        (
            "no_route_status",
            "no_rout_status",
            "policy.yaml:4: settings.no_rout_status: unknown field `no_rout_status`, expected one of `problem_base`, `upgrade_url`, `no_route_status`, `cost_micros_default`, `cold_start_hold_ms`, `stale_after_s`; the nearest name is `no_route_status`",
        ),
        ("no_route_status: 404", "no_route_status: 405", "policy.yaml:4: settings.no_route_status: `405` is not 403 or 404"),
        (
            "no_route_status: 404",
            "no_route_status: many",
            "policy.yaml:4: settings.no_route_status: invalid type: string \"many\", expected u16",
        ),
        (
            "governor_role: admin",
            "governor_role: admn",
            "policy.yaml:6: approvals.governor_role: `admn` does not exist; the nearest name is `admin`",
        ),
        ("lifetime_s: 3600", "lifetime_s: 1", "policy.yaml:7: approvals.lifetime_s: `1` is not from 60 to 604800"),
        (
            "trials: sandbox",
            "trials: sandbx",
            "policy.yaml:9: routing.trials: unknown variant `sandbx`, expected `production` or `sandbox`; the nearest name is `sandbox`",
        ),
        (
            "money: closed",
            "money: close",
            "policy.yaml:11: failure_modes.money: unknown variant `close`, expected `open` or `closed`; the nearest name is `closed`",
        ),
        ("routes.yaml", "route.yaml", "policy.yaml:2: include: `route.yaml` does not exist; the nearest name is `routes.yaml`"),
        (
            "  - agents.create\n",
            "  - agents\n",
            "routes.yaml:15: routes[agents.create].permission: `agents.create` does not exist; the nearest name is `agents.read`",
        ),
        (
            "      - agents.read\n",
            "      - agents.raed\n",
            "policy.yaml:23: roles[viewer].permissions: `agents.raed` does not exist; the nearest name is `agents.read`",
        ),
        ("name: viewer", "name: admin", "policy.yaml:21: roles[admin]: the name `admin` is used twice"),
        (
            "gateways: [PP]\n    required",
            "gateways: [PQ]\n    required",
            "policy.yaml:27: issuers[pp].gateways[0]: unknown variant `PQ`, expected one of `CP`, `PP`, `PLANT`, `ADMIN`; the nearest name is `PP`",
        ),
        (
            "[customer_id]",
            "[costumer_id]",
            "policy.yaml:28: issuers[pp].required_claims: `costumer_id` is not one of customer_id, agent_id, governor_agent_id, tier, jti, nbf, token_type, token_version; the nearest name is `customer_id`",
        ),
        (
            "algorithm: ES256",
            "algorithm: ES265",
            "policy.yaml:31: issuers[pp].keys[pp-1].algorithm: `ES265` is not supported, or not among the issuer's `algorithms`; the nearest name is `ES256`",
        ),
        ("        secret: pp-1.pem\n", "", "policy.yaml:30: issuers[pp].keys[pp-1].secret: missing field `secret`"),
        ("default: on", "default: yess", "policy.yaml:35: flags[new-agents].default: unknown variant `yess`, expected `on` or `off`"),
        (
            "state: off",
            "stat: off",
            "policy.yaml:38: flags[new-agents].overrides[0].stat: unknown field `stat`, expected `customers` or `state`; the nearest name is `state`",
        ),
        (
            "[budget]",
            "[budgets]",
            "policy.yaml:39: flags[new-agents].switches[0]: unknown variant `budgets`, expected one of `permission`, `trial`, `approval`, `routing`, `rules`, `budget`; the nearest name is `budget`",
        ),
        (
            "reason: permission_missing",
            "reason: permission_mising",
            "policy.yaml:41: responses[permission_mising].reason: `permission_mising` does not exist; the nearest name is `permission_missing`",
        ),
        (
            "scope: agent:{agent_id|subject}",
            "scope: agent:{agentid}",
            "policy.yaml:47: budgets[agent-daily].scope: `agentid` does not exist; the nearest name is `agent_id`",
        ),
        (
            "window: day",
            "window: week",
            "policy.yaml:46: budgets[agent-daily].window: unknown variant `week`, expected one of `minute`, `hour`, `day`, `month`",
        ),
        ("cap: 1000000", "cap: -1", "policy.yaml:48: budgets[agent-daily].cap: `-1` is not 0 or more"),
        (
            "    flag: new-agents",
            "    flag: new-agent",
            "routes.yaml:8: routes[agents.list].flag: `new-agent` does not exist; the nearest name is `new-agents`",
        ),
        (
            "permission: agents.create",
            "permission: agents.creat",
            "routes.yaml:15: routes[agents.create].permission: `agents.creat` does not exist; the nearest name is `agents.create`",
        ),
        (
            "permission: agents.create",
            "permision: agents.create",
            "routes.yaml:15: routes[agents.create].permision: unknown field `permision`, expected one of `name`, `gateways`, `methods`, `path`, `require`, `permission`, `cost_micros`, `tasks`, `limit`, `approval`, `trial`, `credential`, `flag`, `ownership`, `rewrite`, `exchange`, `metering`, `audit`; the nearest name is `permission`",
        ),
        (
            "    path: /api/v1/agents\n    require: permission\n    permission: agents.create",
            "    require: permission\n    permission: agents.create",
            "routes.yaml:10: routes[agents.create].path: missing field `path`",
        ),
        ("methods: [POST]", "methods: [GET]", "routes.yaml:10: routes[agents.create]: accepts the same requests as route `agents.list`"),
        (
            "methods: [POST]",
            "methods: [POSTS]",
            "routes.yaml:12: routes[agents.create].methods[0]: unknown variant `POSTS`, expected one of `GET`, `HEAD`, `POST`, `PUT`, `PATCH`, `DELETE`, `OPTIONS`; the nearest name is `POST`",
        ),
        ("in: query", "in: path", "routes.yaml:19: routes[agents.create].ownership.name: `customer_id` does not exist"),
        (
            "in: query",
            "in: header",
            "routes.yaml:18: routes[agents.create].ownership.in: unknown variant `header`, expected one of `query`, `path`, `body`",
        ),
        (
            "approval: governor",
            "approval: govenor",
            "routes.yaml:16: routes[agents.create].approval: unknown variant `govenor`, expected `none` or `governor`; the nearest name is `governor`",
        ),
        (
            "    approval: governor\n",
            "    approval: governor\n    approval: governor\n",
            "routes.yaml:10: routes[1].approval: duplicate field `approval`",
        ),
        (
            "[x-tenant]",
            "[x-tenant, cookie]",
            "policy.yaml:13: audit.request_headers: `cookie` is not a header that may be recorded: it carries credentials",
        ),
        (
            "identities: plain",
            "identities: hashd",
            "policy.yaml:14: audit.identities: unknown variant `hashd`, expected `plain` or `hashed`; the nearest name is `hashed`",
        ),
        (
            "audit: required",
            "audit: requird",
            "routes.yaml:9: routes[agents.list].audit: unknown variant `requird`, expected one of `required`, `buffered`, `sampled`; the nearest name is `required`",
        ),
        ("audit: required", "audit: {sampled: 1}", "routes.yaml:9: routes[agents.list].audit.sampled: `1` is not from 2 to 10000"),
        (
            "audit: required",
            "audit: {sampled: 10}",
            "routes.yaml:9: routes[agents.list].audit: a route that is charged cannot be sampled: records tell what was spent",
        ),
        ("name: agents.create", "name: agents.list", "routes.yaml:10: routes[agents.list]: the name `agents.list` is used twice"),
        (
            "path: /api/v1/agents\n",
            "path: /api/v1/{agents\n",
            "routes.yaml:5: routes[agents.list].path: the path `/api/v1/{agents` is not a template: has a brace that does not enclose a whole segment",
        ),
    ];
    for (from, to, expected) in table {
        let fault = fault(from, to);
        assert_eq!(fault.to_string(), expected, "{to:?}");
        let field = fault.field.unwrap_or_else(|| panic!("{to:?} names no field"));
        assert!(fault.message.starts_with(&field), "{field}: {}", fault.message);
    }
}
