//! Every operation of the admin API, called without a token, without the permission, and with it.
//!
//! A new endpoint without a row here, or without a route in `policies/`, fails with a message that says what to add.

use crate::support::{World, governor_token, ops_token};
use axum::http::{Method, StatusCode};
use control_plane::app::admin_routes;
use decision_core::gateway::Gateway;
use decision_core::policy::Requirement;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::collections::BTreeSet;

/// One operation: how it is described, how it is called, and what an authorised call is answered.
struct Row {
    method: Method,
    template: &'static str,
    path: &'static str,
    body: fn(&World) -> Value,
    authorised: StatusCode,
}

const fn row(method: Method, template: &'static str, path: &'static str, body: fn(&World) -> Value, authorised: StatusCode) -> Row {
    Row { method, template, path, body, authorised }
}

fn nothing(_world: &World) -> Value {
    Value::Null
}

const THIS_YEAR: &str = "/admin/v1/audit/requests?from=2026-01-01T00:00:00Z&to=2027-01-01T00:00:00Z";
const NOBODYS_APPROVAL: &str = "/admin/v1/approvals/00000000-0000-7000-8000-000000000000";
const NOBODYS_DECISION: &str = "/admin/v1/approvals/00000000-0000-7000-8000-000000000000/decision";

const NOBODYS_DELIVERY: &str = "/admin/v1/webhooks/deliveries/00000000-0000-7000-8000-000000000000/redelivery";

/// Policies of an OPA server.
const FOREIGN: &str = "package g\nallow if input.jwt.roles[_] == \"a\"\npermissions := {\"a.b\": [\"a\"]}\n";

const PLATFORM_ACCOUNT: &str = "/admin/v1/budgets/account?budget=platform-monthly&scope=platform";

fn in_an_hour() -> String {
    let then = time::OffsetDateTime::now_utc() + time::Duration::HOUR;
    then.format(&time::format_description::well_known::Rfc3339).unwrap()
}

/// One row per operation of `/openapi.json`.
fn rows() -> Vec<Row> {
    let publication = |world: &World| json!({ "files": world.files(), "reason": "a test" });
    let candidate = |world: &World| json!({ "files": world.files() });
    let foreign_set = |_: &World| json!({ "files": { "a.rego": FOREIGN } });
    let foreign_question = |_: &World| json!({ "files": { "a.rego": FOREIGN }, "cases": {} });
    let activation = |_: &World| json!({ "reason": "a test" });
    let keep = |_: &World| json!({ "days": 30, "reason": "a test" });
    let draft = |_: &World| json!({ "name": "a draft", "reason": "a test" });
    let beginning = |_: &World| json!({ "revision": 1, "reason": "a test" });
    let question = |_: &World| json!({ "gateway": "PP", "method": "GET", "path": "/api/v1/agents", "anonymous": true });
    let again = |_: &World| json!({ "revision": "1", "since": "2026-01-01T00:00:00Z" });
    let verdict = |_: &World| json!({ "decision": "approve", "reason": "a test" });
    let revocation = |_: &World| json!({ "kind": "customer", "value": "nobody", "reason": "a test" });
    let others = vec![
        row(Method::POST, "/admin/v1/policies", "/admin/v1/policies", publication, StatusCode::CREATED),
        row(Method::GET, "/admin/v1/policies", "/admin/v1/policies", nothing, StatusCode::OK),
        row(Method::POST, "/admin/v1/policies/validate", "/admin/v1/policies/validate", candidate, StatusCode::OK),
        row(Method::POST, "/admin/v1/policies/import", "/admin/v1/policies/import", foreign_set, StatusCode::OK),
        row(Method::POST, "/admin/v1/policies/oracle", "/admin/v1/policies/oracle", foreign_question, StatusCode::OK),
        row(Method::GET, "/admin/v1/policies/active", "/admin/v1/policies/active", nothing, StatusCode::OK),
        row(Method::GET, "/admin/v1/policies/active/bundle", "/admin/v1/policies/active/bundle", nothing, StatusCode::OK),
        row(Method::GET, "/admin/v1/policies/schema", "/admin/v1/policies/schema", nothing, StatusCode::OK),
        row(Method::GET, "/admin/v1/policies/{revision}", "/admin/v1/policies/1", nothing, StatusCode::OK),
        row(Method::POST, "/admin/v1/policies/{revision}/activation", "/admin/v1/policies/1/activation", activation, StatusCode::CREATED),
        row(Method::POST, "/admin/v1/drafts", "/admin/v1/drafts", draft, StatusCode::CREATED),
        row(Method::GET, "/admin/v1/drafts", "/admin/v1/drafts", nothing, StatusCode::OK),
        row(Method::GET, "/admin/v1/drafts/{id}", "/admin/v1/drafts/1", nothing, StatusCode::OK),
        row(Method::PUT, "/admin/v1/drafts/{id}", "/admin/v1/drafts/1", publication, StatusCode::PRECONDITION_REQUIRED),
        row(Method::DELETE, "/admin/v1/drafts/{id}", "/admin/v1/drafts/1?reason=test", nothing, StatusCode::PRECONDITION_REQUIRED),
        row(Method::POST, "/admin/v1/drafts/{id}/validation", "/admin/v1/drafts/1/validation", nothing, StatusCode::OK),
        row(Method::POST, "/admin/v1/drafts/{id}/publication", "/admin/v1/drafts/999/publication", activation, StatusCode::NOT_FOUND),
        row(Method::GET, "/admin/v1/policies/activations", "/admin/v1/policies/activations", nothing, StatusCode::OK),
        row(Method::POST, "/admin/v1/policies/rollback", "/admin/v1/policies/rollback", activation, StatusCode::CONFLICT),
        row(Method::GET, "/admin/v1/policies/diff", "/admin/v1/policies/diff?from=1&to=1", nothing, StatusCode::OK),
        row(Method::GET, "/admin/v1/policies/shadow", "/admin/v1/policies/shadow", nothing, StatusCode::NOT_FOUND),
        row(Method::POST, "/admin/v1/policies/shadow", "/admin/v1/policies/shadow", beginning, StatusCode::CONFLICT),
        row(Method::POST, "/admin/v1/policies/shadow/end", "/admin/v1/policies/shadow/end", activation, StatusCode::CONFLICT),
        row(Method::GET, "/admin/v1/policies/rules", "/admin/v1/policies/rules", nothing, StatusCode::OK),
        row(Method::GET, "/admin/v1/policies/enforcement", "/admin/v1/policies/enforcement", nothing, StatusCode::OK),
        row(Method::POST, "/admin/v1/explain", "/admin/v1/explain", question, StatusCode::OK),
        row(Method::GET, "/admin/v1/approvals", "/admin/v1/approvals", nothing, StatusCode::OK),
        row(Method::GET, "/admin/v1/approvals/{id}", NOBODYS_APPROVAL, nothing, StatusCode::NOT_FOUND),
        row(Method::POST, "/admin/v1/approvals/{id}/decision", NOBODYS_DECISION, verdict, StatusCode::NOT_FOUND),
        row(Method::GET, "/admin/v1/webhooks/deliveries", "/admin/v1/webhooks/deliveries", nothing, StatusCode::OK),
        row(Method::POST, "/admin/v1/webhooks/deliveries/{id}/redelivery", NOBODYS_DELIVERY, activation, StatusCode::NOT_FOUND),
        row(Method::GET, "/admin/v1/audit", "/admin/v1/audit", nothing, StatusCode::OK),
        row(Method::GET, "/admin/v1/audit/traces/{correlation_id}", "/admin/v1/audit/traces/nobodys", nothing, StatusCode::OK),
        row(Method::GET, "/admin/v1/audit/gaps", "/admin/v1/audit/gaps", nothing, StatusCode::OK),
        row(Method::GET, "/admin/v1/audit/summaries", "/admin/v1/audit/summaries", nothing, StatusCode::OK),
        row(Method::GET, "/admin/v1/audit/retention", "/admin/v1/audit/retention", nothing, StatusCode::OK),
        row(Method::PUT, "/admin/v1/audit/retention/{gateway}", "/admin/v1/audit/retention/CP", keep, StatusCode::NO_CONTENT),
        row(Method::POST, "/admin/v1/audit/holds", "/admin/v1/audit/holds", activation, StatusCode::CREATED),
        row(Method::POST, "/admin/v1/audit/holds/{id}/release", "/admin/v1/audit/holds/999/release", activation, StatusCode::NOT_FOUND),
        row(Method::GET, "/admin/v1/audit/count", "/admin/v1/audit/count", nothing, StatusCode::OK),
        row(Method::GET, "/admin/v1/audit/{id}/explanation", "/admin/v1/audit/nobody/explanation", nothing, StatusCode::NOT_FOUND),
        row(Method::GET, "/admin/v1/audit/requests", THIS_YEAR, nothing, StatusCode::OK),
        row(Method::POST, "/admin/v1/audit/replays", "/admin/v1/audit/replays", again, StatusCode::OK),
        row(Method::GET, "/api/v1/audit/records", "/api/v1/audit/records", nothing, StatusCode::OK),
        row(Method::GET, "/api/v1/audit/records/{id}", "/api/v1/audit/records/nobodys", nothing, StatusCode::NOT_FOUND),
        row(Method::GET, "/api/v1/audit/daily-summaries", "/api/v1/audit/daily-summaries", nothing, StatusCode::OK),
        row(Method::GET, "/admin/v1/keys", "/admin/v1/keys", nothing, StatusCode::OK),
        row(Method::POST, "/admin/v1/keys/{issuer}/refresh", "/admin/v1/keys/cp/refresh", nothing, StatusCode::NOT_FOUND),
        row(Method::POST, "/admin/v1/revocations", "/admin/v1/revocations", revocation, StatusCode::CREATED),
        row(Method::GET, "/admin/v1/revocations", "/admin/v1/revocations", nothing, StatusCode::OK),
        row(Method::POST, "/admin/v1/revocations/import", "/admin/v1/revocations/import?reason=test", nothing, StatusCode::OK),
        row(Method::GET, "/admin/v1/revocations/enforcement", "/admin/v1/revocations/enforcement", nothing, StatusCode::OK),
        row(Method::DELETE, "/admin/v1/revocations/{number}", "/admin/v1/revocations/999?reason=test", nothing, StatusCode::NOT_FOUND),
    ];
    others.into_iter().chain(budget_rows()).collect()
}

fn budget_rows() -> Vec<Row> {
    let cap = |_: &World| json!({ "budget": "platform-monthly", "scope": "platform", "cap": 5, "reason": "a test" });
    let account = |_: &World| {
        let (budget, scope) = ("platform-monthly", "platform");
        json!({ "budget": budget, "scope": scope, "cap": 5, "reason": "a test", "expires_at": in_an_hour() })
    };
    let extra = |_: &World| json!({ "cap_usd": 1.5, "reason": "a test", "expires_at": in_an_hour() });
    vec![
        row(Method::GET, "/admin/v1/budgets", "/admin/v1/budgets", nothing, StatusCode::OK),
        row(Method::GET, "/admin/v1/budgets/account", PLATFORM_ACCOUNT, nothing, StatusCode::OK),
        row(Method::GET, "/admin/v1/budgets/alerts", "/admin/v1/budgets/alerts", nothing, StatusCode::OK),
        row(Method::POST, "/admin/v1/budgets/caps", "/admin/v1/budgets/caps", cap, StatusCode::CREATED),
        row(Method::GET, "/admin/v1/budgets/caps", "/admin/v1/budgets/caps", nothing, StatusCode::OK),
        row(Method::DELETE, "/admin/v1/budgets/caps/{id}", "/admin/v1/budgets/caps/999?reason=test", nothing, StatusCode::NOT_FOUND),
        row(Method::POST, "/admin/v1/budgets/overrides", "/admin/v1/budgets/overrides", account, StatusCode::CREATED),
        row(Method::GET, "/admin/v1/budgets/overrides", "/admin/v1/budgets/overrides", nothing, StatusCode::OK),
        row(
            Method::DELETE,
            "/admin/v1/budgets/overrides/{id}",
            "/admin/v1/budgets/overrides/9?reason=test",
            nothing,
            StatusCode::NOT_FOUND,
        ),
        row(Method::GET, "/api/v1/budgets/agent/{agent_id}", "/api/v1/budgets/agent/a-1", nothing, StatusCode::OK),
        row(Method::GET, "/api/v1/budgets/platform", "/api/v1/budgets/platform", nothing, StatusCode::OK),
        row(Method::POST, "/api/v1/budgets/agent/{agent_id}/override", "/api/v1/budgets/agent/a-1/override", extra, StatusCode::CREATED),
        row(Method::POST, "/api/v1/budgets/platform/override", "/api/v1/budgets/platform/override", extra, StatusCode::CREATED),
    ]
}

/// The operations that the OpenAPI document describes.
fn described() -> BTreeSet<(String, String)> {
    let document = serde_json::to_value(admin_routes().into_openapi()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let operations =
        paths.iter().flat_map(|(path, item)| item.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())));
    operations.collect()
}

#[test]
fn every_described_operation_has_a_row_and_every_row_an_operation() {
    let listed: BTreeSet<_> = rows().iter().map(|row| (row.method.to_string(), row.template.to_owned())).collect();
    let described = described();
    let uncovered: Vec<_> = described.difference(&listed).collect();
    assert!(
        uncovered.is_empty(),
        "not covered: {uncovered:?}. For each add a row to `rows()` in {}, a route with \
         `gateways: [ADMIN]` and a permission to policies/routes/admin-api.yaml, and give a role the permission",
        file!()
    );
    let stale: Vec<_> = listed.difference(&described).collect();
    assert!(stale.is_empty(), "no longer described: {stale:?}. Remove the rows from {}, or annotate the handlers", file!());
}

#[sqlx::test(migrations = "../migrations")]
async fn every_operation_asks_for_a_permission_of_the_route_table(database: PgPool) {
    let world = World::new(database).await;
    let active = world.state.policy();
    for row in rows() {
        let method = decision_core::gateway::Method::parse(row.method.as_str().as_bytes()).unwrap();
        let route = active.loaded.policy.route(Gateway::Admin, method, row.path.split('?').next().unwrap());
        let Some(route) = route else {
            panic!("{} {} is in no policy: add it to policies/routes/admin-api.yaml", row.method, row.template);
        };
        assert!(
            matches!(route.requirement, Requirement::Permission(_)),
            "{} {} is open: give route `{}` in policies/ `require: permission` and a permission",
            row.method,
            row.template,
            route.name
        );
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn no_operation_answers_without_token_or_permission(database: PgPool) {
    let world = World::new(database).await;
    let powerless = ops_token(&["viewer"]);
    let powerful = governor_token();
    for row in rows() {
        let body = (row.body)(&world);
        let body = (!body.is_null()).then_some(&body);
        let call = async |token| world.admin_call(row.method.clone(), row.path, token, body).await;
        let what = format!("{} {}", row.method, row.template);

        let anonymous = call(None).await;
        assert_eq!(anonymous.status, StatusCode::UNAUTHORIZED, "{what} without a token");
        assert_eq!(anonymous.header("www-authenticate"), "Bearer", "{what} without a token");
        assert_eq!(anonymous.header("content-type"), "application/problem+json", "{what} without a token");

        let denied = call(Some(&powerless)).await;
        assert_eq!(denied.status, StatusCode::FORBIDDEN, "{what} without the permission: {denied:?}");
        assert_eq!(denied.json()["detail"], "permission_missing", "{what} without the permission");
        assert_eq!(denied.header("www-authenticate"), "Bearer error=\"insufficient_scope\"", "{what}");

        let answered = call(Some(&powerful)).await;
        assert_eq!(answered.status, row.authorised, "{what} with the permission: {answered:?}");
    }
}
