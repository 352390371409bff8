//! What another policy would have decided of recorded requests, and why a recorded one was decided so, on real Postgres.

use crate::support;
use crate::support::{Answer, World};
use axum::http::{Method, StatusCode};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::time::Instant;

const SINCE: &str = "2026-01-15T00:00:00Z";
const UNTIL: &str = "2026-01-16T00:00:00Z";

/// `count` requests of a viewer of PP within one minute, as they were decided by revision 1: every tenth without a token.
async fn record(world: &World, database: &PgPool, count: i64) {
    let claims = json!({
        "iss": "pp.waooaw.com", "aud": "plant-gateway-pp", "sub": "ann", "user_id": "ann", "email": "ann@example.com", "roles": ["viewer"],
        "iat": 1_768_478_400, "exp": 1_768_479_000, "jti": "1", "trial_mode": false, "customer_id": "c", "agent_id": "a",
    });
    let question = json!({ "gateway": "PP", "method": "GET", "path": "/api/v1/agents", "claims": claims, "at": "2026-01-15T12:00:01Z" });
    let answer = world.post("/admin/v1/explain", &question).await.json();
    assert_eq!(answer["decision"], "permit", "{answer}");
    let scoped = |charge: &Value| json!({ "budget": charge["budget"], "scope": "x", "amount": charge["amount"] });
    let charges: Vec<Value> = answer["charges"].as_array().unwrap().iter().map(scoped).collect();
    sqlx::query(
        "INSERT INTO gateway_audit_logs (holder, envoy_id, sequence, \"timestamp\", gateway_type, stage, correlation_id, request_id, \
             http_method, endpoint, route, action, issuer, subject, user_id, customer_id, agent_id, roles, trial_mode, sandbox, decision, \
             reason, checks, charges, activation, revision, key_set, status_code, total_us, cost, received_at, phase, sampled_of, \
             revocation, hash) \
         SELECT '00000000-0000-7000-8000-000000000001', 'envoy-1', n, timestamptz '2026-01-15T12:00:00Z' + n * interval '1 microsecond', \
             'PP', 'filter', 'correlation-' || n, 'request-' || n, 'GET', '/api/v1/agents', $2, $3, \
             CASE WHEN n % 10 > 0 THEN 'pp' END, CASE WHEN n % 10 > 0 THEN 'ann' END, CASE WHEN n % 10 > 0 THEN 'ann' END, \
             CASE WHEN n % 10 > 0 THEN 'c' END, CASE WHEN n % 10 > 0 THEN 'a' END, CASE WHEN n % 10 > 0 THEN ARRAY['viewer'] END, false, \
             false, CASE WHEN n % 10 > 0 THEN 'permit' ELSE 'deny' END, CASE WHEN n % 10 > 0 THEN 'ok' ELSE 'credential_missing' END, \
             '[]', CASE WHEN n % 10 > 0 THEN $4::jsonb ELSE '[]'::jsonb END, 1, 1, 1, 200, 1000, 'fixed', now(), 'outcome', 1, 0, \
             sha256('') \
         FROM generate_series(1, $1) AS n",
    )
    .bind(count)
    .bind(answer["rule"].as_str())
    .bind(answer["action"].as_str())
    .bind(Value::from(charges))
    .execute(database)
    .await
    .unwrap();
}

/// Publishes the shipped policy with one change.
async fn publish(world: &World, file: &str, from: &str, to: &str) -> i64 {
    let mut files = world.files();
    let text = files[file].as_str().unwrap();
    assert!(text.contains(from), "{file}: {from}");
    files[file] = text.replacen(from, to, 1).into();
    let published = world.post("/admin/v1/policies", &json!({ "files": files, "reason": "a test" })).await;
    assert_eq!(published.status, StatusCode::CREATED, "{published:?}");
    published.json()["revision"].as_i64().unwrap()
}

async fn replay(world: &World, revision: i64, more: Value) -> Answer {
    let mut body = json!({ "revision": revision.to_string(), "since": SINCE, "until": UNTIL });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.post("/admin/v1/audit/replays", &body).await
}

fn summary(answer: &Answer) -> Value {
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, "application/x-ndjson"));
    let text = std::str::from_utf8(&answer.body).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.last().unwrap()["summary"].clone()
}

#[sqlx::test(migrations = "../migrations")]
async fn the_revision_that_decided_decides_all_of_it_again_so(database: PgPool) {
    let world = World::new(database.clone()).await;
    record(&world, &database, 12_345).await;
    let summary = summary(&replay(&world, 1, json!({})).await);
    assert_eq!((&summary["records"], &summary["same"], &summary["different"]), (&12_345.into(), &12_345.into(), &0.into()), "{summary}");
    assert!(summary["spend"].as_object().unwrap().values().all(|spend| spend["change"] == 0), "{summary}");
    assert!(!summary["spend"].as_object().unwrap().is_empty());
}

#[sqlx::test(migrations = "../migrations")]
async fn what_would_be_refused_is_grouped_by_rule_with_examples_and_spend(database: PgPool) {
    let world = World::new(database.clone()).await;
    record(&world, &database, 100).await;
    let stricter = publish(&world, "routes/agents.yaml", "permission: agent.view", "permission: agent.create").await;
    let told = summary(&replay(&world, stricter, json!({})).await);
    assert_eq!((&told["records"], &told["same"], &told["different"]), (&100.into(), &10.into(), &90.into()), "{told}");
    let group = &told["groups"][0];
    assert_eq!((&group["before"], &group["after"], &group["requests"]), (&"ok".into(), &"permission_missing".into(), &90.into()));
    assert_eq!(group["aspect"], "permission");
    assert_eq!(group["examples"].as_array().unwrap().len(), 5);
    assert_eq!((&group["examples"][0]["request_id"], &group["examples"][0]["user_id"]), (&"request-1".into(), &"ann".into()));
    let daily = &told["spend"]["agent-daily"];
    assert!(daily["recorded"].as_i64().unwrap() > 0 && daily["replayed"] == 0, "{told}");
    let elsewhere = summary(&replay(&world, stricter, json!({ "gateway": "CP" })).await);
    assert_eq!(elsewhere["records"], 0);
    let dearer = publish(&world, "settings.yaml", "cost_micros_default: 1000", "cost_micros_default: 1500").await;
    let told = summary(&replay(&world, dearer, json!({})).await);
    assert_eq!((&told["groups"][0]["aspect"], &told["different"]), (&"budget".into(), &90.into()), "{told}");
    let daily = &told["spend"]["agent-daily"];
    assert_eq!(daily["replayed"].as_i64().unwrap() * 2, daily["recorded"].as_i64().unwrap() * 3, "{told}");
}

#[sqlx::test(migrations = "../migrations")]
async fn what_cannot_be_replayed_is_refused_before_anything_is_read(database: PgPool) {
    let world = World::new(database).await;
    let missing = replay(&world, 99, json!({})).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    for body in [json!({ "revision": "1" }), json!({ "revision": "one", "since": SINCE }), json!({ "revision": "1", "since": "yesterday" })]
    {
        assert_eq!(world.post("/admin/v1/audit/replays", &body).await.status, StatusCode::BAD_REQUEST, "{body}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_record_is_explained_by_its_own_revision(database: PgPool) {
    let world = World::new(database.clone()).await;
    record(&world, &database, 20).await;
    let explain = async |id: &str| {
        world.admin_call(Method::GET, &format!("/admin/v1/audit/{id}/explanation"), Some(&support::admin_token()), None).await
    };
    let permitted = explain("request-1").await.json();
    assert_eq!((&permitted["agreement"], &permitted["answer"]["decision"]), (&"same".into(), &"permit".into()), "{permitted}");
    assert_eq!(permitted["record"]["id"], "00000000-0000-7000-8000-000000000001-1");
    let roles = permitted["answer"]["checks"].as_array().unwrap().iter().find(|check| check["check"] == "permission").unwrap();
    assert!(roles["read"].as_array().unwrap().contains(&json!({ "name": "roles", "value": "viewer" })), "{roles}");
    let refused = explain("00000000-0000-7000-8000-000000000001-10").await.json();
    assert_eq!((&refused["agreement"], &refused["answer"]["reason"]), (&"same".into(), &"credential_missing".into()), "{refused}");
    assert_eq!((&refused["changes"][0]["change"], &refused["caller_can_help"]), (&"token".into(), &true.into()), "{refused}");
    sqlx::query("UPDATE gateway_audit_logs SET decision = 'deny', reason = 'budget_spent', charges = '[]' WHERE request_id = 'request-2'")
        .execute(&database)
        .await
        .unwrap();
    let spent = explain("request-2").await.json();
    assert_eq!((&spent["agreement"], &spent["caller_can_help"]), (&"same".into(), &false.into()), "{spent}");
    let texts: Vec<&str> = spent["changes"].as_array().unwrap().iter().map(|change| change["text"].as_str().unwrap()).collect();
    assert!(texts.contains(&"the next window of the budget agent-daily: this one ends at 2026-01-16T00:00:00Z"), "{texts:?}");
    assert!(texts.iter().any(|text| text.starts_with("a higher cap of the budget agent-daily for `agent:")), "{texts:?}");
    sqlx::query("UPDATE gateway_audit_logs SET reason = 'permission_missing' WHERE request_id = 'request-2'")
        .execute(&database)
        .await
        .unwrap();
    let forged = explain("request-2").await.json();
    assert_eq!(forged["agreement"], "different", "a record that its revision contradicts: {forged}");
    assert_eq!(explain("nobody").await.status, StatusCode::NOT_FOUND);
}

/// How many records a second COPY gives out.
async fn copied_per_second(database: &PgPool) -> f64 {
    let mut connection = database.acquire().await.unwrap();
    let started = Instant::now();
    let mut rows = connection.copy_out_raw("COPY (SELECT * FROM gateway_audit_logs) TO STDOUT").await.unwrap();
    let mut lines = 0_usize;
    while let Some(piece) = rows.next().await {
        lines += piece.unwrap().iter().filter(|byte| **byte == b'\n').count();
    }
    assert_eq!(lines, 200_000);
    200_000.0 / started.elapsed().as_secs_f64()
}

/// Prints the rate; the bound is far below it, so that a busy machine does not fail the test.
#[sqlx::test(migrations = "../migrations")]
async fn a_long_log_is_replayed_page_by_page(database: PgPool) {
    let world = World::new(database.clone()).await;
    record(&world, &database, 200_000).await;
    sqlx::query("ANALYZE gateway_audit_logs").execute(&database).await.unwrap();
    let started = Instant::now();
    let answer = replay(&world, 1, json!({})).await;
    let rate = 200_000.0 / started.elapsed().as_secs_f64();
    println!("{rate:.0} records per second, {:.2} of what COPY gives out", rate / copied_per_second(&database).await);
    let progress = std::str::from_utf8(&answer.body).unwrap().lines().filter(|line| line.starts_with("{\"progress\"")).count();
    println!("{progress} lines of progress");
    assert_eq!(summary(&answer)["same"], 200_000);
    assert!(rate > 2_000.0, "{rate:.0} records per second");
}
