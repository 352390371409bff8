//! The view with the original's columns: names, types and order, whoever reads it, and ids that are no UUIDs.

use crate::plane::{Holder, state};
use crate::records::{batch, deliver, encode, record};
use control_plane::audit::access::Access;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;
use wire::audit::{AuditRecord, Check, CheckOutcome, Decision, Mention, Named, Outcome, User};

/// As its migration had them.
const COLUMNS: &str = "id uuid, correlation_id uuid, causation_id uuid, timestamp timestamp with time zone, \
    gateway_type character varying(10), request_id character varying(100), http_method character varying(10), \
    endpoint character varying(500), query_params jsonb, request_headers jsonb, request_body jsonb, user_id uuid, customer_id uuid, \
    email character varying(255), roles text[], trial_mode boolean, opa_policies_evaluated text[], opa_decisions jsonb, \
    opa_latency_ms integer, status_code integer, response_headers jsonb, response_body jsonb, error_type character varying(100), \
    error_message text, total_latency_ms integer, plant_latency_ms integer, action character varying(100), \
    resource character varying(100), resource_id uuid";

#[sqlx::test(migrations = "../migrations")]
async fn the_columns_are_the_originals_by_name_type_and_order(pool: PgPool) {
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute \
         WHERE attrelid = 'gateway_audit.original_logs'::regclass AND attnum > 0 ORDER BY attnum",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(columns.len(), 29);
    let columns: Vec<String> = columns.into_iter().map(|(name, type_of)| format!("{name} {type_of}")).collect();
    assert_eq!(columns.join(", "), COLUMNS);
}

async fn rows(pool: &PgPool, access: Access<'_>) -> Vec<Value> {
    let mut transaction = access.begin(pool).await.unwrap();
    let rows: Vec<(sqlx::types::Json<Value>,)> =
        sqlx::query_as("SELECT to_jsonb(l) FROM gateway_audit.original_logs AS l ORDER BY \"timestamp\"")
            .fetch_all(&mut *transaction)
            .await
            .unwrap();
    rows.into_iter().map(|(row,)| row.0).collect()
}

#[sqlx::test(migrations = "../migrations")]
async fn row_security_holds_through_the_view_for_whoever_reads_it(pool: PgPool) {
    let state = state(&pool, 100).await;
    let encoded: Vec<Vec<u8>> = (0..100).map(|number| encode(&record(number))).collect();
    deliver(&mut Holder::new(&state).await, batch(1, &encoded)).await;
    let reader = |issuer, subject, administers| Access::Reader { issuer, subject, administers };
    for (access, seen) in [
        (Access::Auditor, 100),
        (reader("cp", "subject-1", None), 2),
        (reader("cp", "subject-1", Some("customer-1")), 10),
        (reader("pp", "subject-1", None), 0),
        (reader("", "", Some("")), 0),
    ] {
        assert_eq!(rows(&pool, access).await.len(), seen, "{access:?}");
    }
    for access in [Access::Writer { envoy_id: "envoy-1" }] {
        let mut transaction = access.begin(&pool).await.unwrap();
        let refused = sqlx::query("SELECT FROM gateway_audit.original_logs").fetch_all(&mut *transaction).await;
        assert!(refused.is_err(), "a sender reads nothing");
    }
    for statement in ["DELETE FROM gateway_audit.original_logs", "UPDATE gateway_audit.original_logs SET status_code = 200"] {
        let mut transaction = Access::Auditor.begin(&pool).await.unwrap();
        assert!(sqlx::query(statement).execute(&mut *transaction).await.is_err(), "{statement}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn ids_that_are_no_uuids_are_found_again_and_break_nothing(pool: PgPool) {
    let state = state(&pool, 100).await;
    let order = Uuid::now_v7();
    let parent = AuditRecord { correlation_id: "test-123".into(), ..record(1) };
    let named = |name, value| Named { name: String::from(name).into(), value: String::from(value).into() };
    let child = AuditRecord {
        correlation_id: order.to_string().to_uppercase().into(),
        causation_id: Some("test-123".into()),
        user: google_user(),
        path: Some("/api/v1/hired-agents/draft".into()),
        action: Some("hired_agent.update".into()),
        query: vec![named("tag", "a"), named("tag", "b"), named("page", "2")],
        request_headers: vec![named("x-api-version", "7")],
        decision: Decision::Deny,
        reason: "budget_spent".into(),
        checks: vec![
            CheckOutcome { check: Check::Trial, outcome: Outcome::Permit },
            CheckOutcome { check: Check::Budget, outcome: Outcome::Deny },
        ],
        status: Some(402),
        details: Some("gateway_denied:budget".into()),
        total_us: 1_500,
        ours_us: Some(u64::MAX >> 1),
        ..record(2)
    };
    let nobody = AuditRecord {
        user: None,
        method: None,
        path: None,
        action: None,
        checks: vec![],
        status: None,
        upstream_us: None,
        ours_us: None,
        ..record(3)
    };
    deliver(&mut Holder::new(&state).await, batch(1, &[encode(&parent), encode(&child), encode(&nobody)])).await;
    let [parent, child, nobody] = rows(&pool, Access::Auditor).await.try_into().unwrap();

    let id = Uuid::parse_str(parent["correlation_id"].as_str().unwrap()).unwrap();
    assert_eq!(id.get_version_num(), 8);
    assert_eq!(parent["request_headers"]["x-correlation-id"], "test-123");
    assert_eq!(child["causation_id"], parent["correlation_id"], "what names the same text has the same id");
    assert_eq!(child["correlation_id"], json!(order.to_string()), "an id that is one stays");
    for (column, value) in [
        ("gateway_type", json!("PLANT")),
        ("endpoint", json!("/api/v1/hired-agents/draft")),
        ("query_params", json!({ "tag": ["a", "b"], "page": "2" })),
        (
            "request_headers",
            json!({
                "x-api-version": "7", "x-correlation-id": order.to_string().to_uppercase(), "x-causation-id": "test-123",
                "x-user-id": "117342", "x-customer-id": "not a uuid",
            }),
        ),
        ("request_body", Value::Null),
        ("response_body", Value::Null),
        ("roles", json!(["admin", "viewer"])),
        ("trial_mode", json!(true)),
        ("opa_policies_evaluated", json!(["trial", "budget"])),
        ("opa_decisions", json!({ "trial": { "allow": true }, "budget": { "allow": false, "deny_reason": "budget_spent" } })),
        ("opa_latency_ms", json!(i32::MAX)),
        ("status_code", json!(402)),
        ("error_type", json!("budget_spent")),
        ("error_message", json!("gateway_denied:budget")),
        ("total_latency_ms", json!(2)),
        ("plant_latency_ms", json!(1)),
        ("action", json!("update")),
        ("resource", json!("hired_agent")),
    ] {
        assert_eq!(child[column], value, "{column}");
    }
    assert_eq!([&nobody["plant_latency_ms"], &nobody["opa_latency_ms"]], [&Value::Null; 2], "what was not measured is not long");
    for column in ["id", "user_id", "customer_id", "resource_id"] {
        assert_eq!(Uuid::parse_str(child[column].as_str().unwrap()).unwrap().get_version_num(), 8, "{column}");
    }
    for column in ["user_id", "customer_id", "http_method", "endpoint", "action", "resource", "resource_id", "status_code"] {
        assert_eq!(nobody[column], Value::Null, "{column}");
    }
    assert_eq!(nobody["opa_decisions"], json!({}));
    // Whoever has the text finds the record.
    let (found,): (i64,) =
        sqlx::query_as("SELECT count(*) FROM gateway_audit.original_logs WHERE correlation_id = gateway_audit.as_uuid('test-123')")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(found, 1);
}

fn google_user() -> Option<Mention<User<'static>>> {
    let Some(Mention::New(user)) = record(2).user else { return None };
    Some(Mention::New(User { user_id: "117342".into(), customer_id: Some("not a uuid".into()), ..user }))
}
