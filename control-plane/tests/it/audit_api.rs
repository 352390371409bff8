//! The admin API of the audit log: causal trees, gaps, summaries, retention and legal holds.

use crate::plane::{Holder, state, token};
use crate::records::{START_US, batch, deliver, encode, record};
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use control_plane::app::{AppState, admin_app};
use control_plane::audit::partitions::sum_up_one;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use sqlx::PgPool;
use tower::ServiceExt as _;
use uuid::Uuid;
use wire::audit::{AuditRecord, Phase};

async fn call(state: &AppState, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
    let bearer = format!("Bearer {}", token("ada", "admin", false));
    let request = Request::builder().method(method).uri(path).header(header::AUTHORIZATION, bearer);
    let request = match body {
        Some(body) => request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_string())),
        None => request.body(Body::empty()),
    };
    let response = admin_app(state.clone()).oneshot(request.unwrap()).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

async fn get(state: &AppState, path: &str) -> Value {
    let (status, body) = call(state, Method::GET, path, None).await;
    assert_eq!(status, StatusCode::OK, "{path}: {body}");
    body
}

/// A request of a chain: its time, its correlation id, what it names as its cause, and its own id.
fn request(at: i64, correlation: &str, causation: Option<String>, id: Uuid) -> AuditRecord<'static> {
    AuditRecord {
        at_us: START_US + at,
        correlation_id: correlation.to_owned().into(),
        causation_id: causation.map(Into::into),
        request_id: *id.as_bytes(),
        ..record(at)
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_trace_is_everything_that_caused_a_request_and_that_it_caused(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let [root, middle, leaf, other, me] = [1, 2, 3, 4, 5].map(Uuid::from_u128);
    let requests = [
        request(0, "order", None, root),
        request(1, "order", Some(root.to_string()), middle),
        AuditRecord { phase: Phase::Intent, ..request(2, "payment", Some(middle.to_string()), leaf) },
        request(2, "payment", Some(middle.to_string()), leaf),
        request(3, "mail", Some("payment".into()), other),
        request(4, "elsewhere", None, Uuid::from_u128(9)),
        // It says that it caused itself.
        request(5, "circle", Some("circle".into()), me),
    ];
    deliver(&mut holder, batch(1, &requests.iter().map(encode).collect::<Vec<_>>())).await;
    let shape = |trace: &Value| {
        let line = |traced: &Value| {
            let (depth, correlation) = (traced["depth"].as_u64().unwrap(), traced["correlation_id"].as_str().unwrap().to_owned());
            (depth, correlation, traced["phase"].as_str().unwrap().to_owned())
        };
        trace["records"].as_array().unwrap().iter().map(line).collect::<Vec<_>>()
    };
    let whole =
        [(0, "order", "outcome"), (1, "order", "outcome"), (2, "payment", "intent"), (3, "payment", "outcome"), (4, "mail", "outcome")]
            .map(|(depth, correlation, phase)| (depth, correlation.to_owned(), phase.to_owned()));
    for from in ["order", "payment", "mail"] {
        let trace = get(&state, &format!("/admin/v1/audit/traces/{from}")).await;
        assert_eq!((shape(&trace), &trace["cut"]), (whole.to_vec(), &json!(false)), "{from}");
    }
    let circle = get(&state, "/admin/v1/audit/traces/circle").await;
    assert_eq!(shape(&circle), [(0, "circle".to_owned(), "outcome".to_owned())]);
    assert_eq!(get(&state, "/admin/v1/audit/traces/nobodys").await["records"], json!([]));
}

#[sqlx::test(migrations = "../migrations")]
async fn one_id_for_everything_gives_a_trace_that_says_it_is_cut(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let same: Vec<Vec<u8>> = (0..1_200).map(|at| encode(&request(at, "same", None, Uuid::now_v7()))).collect();
    deliver(&mut holder, batch(1, &same)).await;
    let trace = get(&state, "/admin/v1/audit/traces/same").await;
    assert_eq!((trace["records"].as_array().unwrap().len(), &trace["cut"]), (1_000, &json!(true)));
}

#[sqlx::test(migrations = "../migrations")]
async fn gaps_are_told_with_the_time_that_they_cover(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    deliver(&mut holder, batch(1, &[encode(&record(0))])).await;
    deliver(&mut holder, batch(4, &[encode(&record(1))])).await;
    let gaps = get(&state, "/admin/v1/audit/gaps").await;
    let gap = &gaps["gaps"][0];
    let told = ["after_sequence", "before_sequence", "reason", "envoy_id"].map(|member| gap[member].clone());
    assert_eq!(told, [json!(1), json!(4), json!("sequence"), json!("envoy-1")]);
    assert_eq!(get(&state, "/admin/v1/audit/gaps?to=2020-01-01T00:00:00Z").await["gaps"], json!([]));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_day_that_is_over_is_summed_up_once(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let mut requests: Vec<Vec<u8>> = (0..100).map(|number| encode(&record(number))).collect();
    requests.push(encode(&AuditRecord { sampled_of: 50, ..record(1) }));
    requests.push(encode(&AuditRecord { phase: Phase::Intent, ..record(1) }));
    deliver(&mut holder, batch(1, &requests)).await;
    assert_eq!(sum_up_one(&pool).await.unwrap(), None, "today is not over");
    // The partition of today becomes that of a day which is over.
    sqlx::query("INSERT INTO gateway_audit.partitions (gateway_type, day) VALUES ('PLANT', '2026-01-01')").execute(&pool).await.unwrap();
    let moved = "DO $$ BEGIN CREATE TABLE gateway_audit.plant_20260101 (LIKE gateway_audit.plant INCLUDING CONSTRAINTS INCLUDING GENERATED); \
         ALTER TABLE gateway_audit.plant ATTACH PARTITION gateway_audit.plant_20260101 FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-01-02 00:00+00'); \
         UPDATE gateway_audit_logs SET received_at = '2026-01-01 12:00+00'; END $$";
    sqlx::query(moved).execute(&pool).await.unwrap();
    assert_eq!(sum_up_one(&pool).await.unwrap().map(|(gateway, _)| gateway).as_deref(), Some("PLANT"));
    assert_eq!(sum_up_one(&pool).await.unwrap(), None);
    let summaries = get(&state, "/admin/v1/audit/summaries?user=user-1&limit=10").await;
    let day = &summaries["summaries"][0];
    let told = ["day", "requests", "succeeded", "client_errors", "p99_us"].map(|member| day[member].clone());
    assert_eq!(told, [json!("2026-01-01"), json!(52), json!(51), json!(1), json!(1_500)]);
    assert_eq!(get(&state, "/admin/v1/audit/summaries?limit=1000").await["summaries"].as_array().unwrap().len(), 50);
}

#[sqlx::test(migrations = "../migrations")]
async fn retention_and_holds_are_set_with_a_reason_and_recorded(pool: PgPool) {
    let state = state(&pool, 100).await;
    let kept = get(&state, "/admin/v1/audit/retention").await;
    let days: Vec<&Value> = kept["gateways"].as_array().unwrap().iter().map(|gateway| &gateway["days"]).collect();
    assert_eq!((days, &kept["holds"]), (vec![&json!(90); 4], &json!([])));
    let put = |path: &'static str, body: Value| call(&state, Method::PUT, path, Some(body));
    let post = |path: &'static str, body: Value| call(&state, Method::POST, path, Some(body));
    const CP: &str = "/admin/v1/audit/retention/CP";
    assert_eq!(put(CP, json!({"days": 2_555, "reason": "seven years"})).await.0, StatusCode::NO_CONTENT);
    assert_eq!(put(CP, json!({"days": 0, "reason": "none"})).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(put(CP, json!({"days": 5, "reason": " "})).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(put("/admin/v1/audit/retention/X", json!({"days": 5, "reason": "r"})).await.0, StatusCode::NOT_FOUND);
    let (status, hold) = post("/admin/v1/audit/holds", json!({"gateway": "CP", "reason": "a case"})).await;
    assert_eq!((status, &hold["id"], &hold["placed_by"]), (StatusCode::CREATED, &json!(1), &json!("ops/ada")));
    assert_eq!(post("/admin/v1/audit/holds", json!({"gateway": "X", "reason": "a case"})).await.0, StatusCode::NOT_FOUND);
    let kept = get(&state, "/admin/v1/audit/retention").await;
    assert_eq!((&kept["gateways"][1]["days"], &kept["holds"][0]["reason"]), (&json!(2_555), &json!("a case")));
    assert_eq!(post("/admin/v1/audit/holds/1/release", json!({"reason": "closed"})).await.0, StatusCode::NO_CONTENT);
    assert_eq!(post("/admin/v1/audit/holds/1/release", json!({"reason": "closed"})).await.0, StatusCode::NOT_FOUND);
    let events: Vec<(String, String)> =
        sqlx::query_as("SELECT action, target FROM admin_events WHERE action LIKE 'audit.%' ORDER BY id").fetch_all(&pool).await.unwrap();
    let events: Vec<(&str, &str)> = events.iter().map(|(action, target)| (action.as_str(), target.as_str())).collect();
    assert_eq!(events, [("audit.retention", "CP"), ("audit.hold", "1"), ("audit.release", "1")]);
}

/// The lines of an answer, each as JSON.
async fn lines(state: &AppState, path: &str) -> Vec<Value> {
    let request = Request::get(path).header(header::AUTHORIZATION, format!("Bearer {}", token("ada", "admin", false)));
    let response = admin_app(state.clone()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/x-ndjson");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| serde_json::from_slice(line).unwrap()).collect()
}

#[sqlx::test(migrations = "../migrations")]
async fn requests_and_gaps_of_a_time_are_told_line_by_line(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let told = |at: i64, phase: Phase| {
        encode(&AuditRecord { phase, total_us: 250_000, ..request(at, "c", None, Uuid::from_u128(at.unsigned_abs().into())) })
    };
    deliver(&mut holder, batch(1, &[told(1, Phase::Intent), told(2, Phase::Outcome), told(3_000_000, Phase::Outcome)])).await;
    deliver(&mut holder, batch(9, &[told(60_000_000, Phase::Outcome)])).await;
    let lines = lines(&state, "/admin/v1/audit/requests?from=1970-01-01T00:00:00Z&to=2100-01-01T00:00:00Z").await;
    let kinds: Vec<&str> = lines.iter().map(|line| line.as_object().unwrap().keys().next().unwrap().as_str()).collect();
    assert_eq!(kinds, ["request", "request", "request", "gap", "end"], "an intent is no request of its own: {lines:?}");
    let [first, .., gap, end] = lines.as_slice() else { unreachable!("five lines") };
    assert_eq!(first["request"]["ended_us"].as_i64().unwrap() - first["request"]["at_us"].as_i64().unwrap(), 250_000);
    assert_eq!((&end["end"]["requests"], &end["end"]["gaps"]), (&json!(3), &json!(1)));
    assert!(end["end"]["at_us"].as_i64() > Some(START_US));
    // What is missing ended after the last that was told, however long the batch was on its way.
    let (from,): (i64,) =
        sqlx::query_as("SELECT (extract(epoch FROM from_at) * 1000000)::bigint FROM audit_gaps").fetch_one(&pool).await.unwrap();
    assert_eq!(from, START_US + 3_000_000 + 250_000, "{gap}");
    let (status, _) = call(&state, Method::GET, "/admin/v1/audit/requests?from=yesterday&to=2100-01-01T00:00:00Z", None).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}
