//! The audit log on real Postgres: nothing acknowledged is lost, nothing is stored twice, every gap is visible.

use crate::plane::{Holder, state, token};
use crate::records::{START_US, batch, deliver, encode, record, records};
use axum::body::Body;
use axum::http::{Request, header};
use control_plane::app::admin_app;
use http_body_util::BodyExt as _;
use serde_json::Value;
use sqlx::PgPool;
use std::time::Instant;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tower::ServiceExt as _;
use wire::audit::{AuditRecord, Stage};

async fn numbers(pool: &PgPool, sql: &'static str) -> Vec<i64> {
    sqlx::query_as::<_, (i64,)>(sql).fetch_all(pool).await.unwrap().into_iter().map(|(number,)| number).collect()
}

const SEQUENCES: &str = "SELECT sequence FROM gateway_audit_logs ORDER BY sequence, received_at";
const QUARANTINED: &str = "SELECT sequence FROM audit_quarantine ORDER BY sequence";

#[sqlx::test(migrations = "../migrations")]
async fn a_batch_is_stored_once_and_acknowledged_every_time(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    for _ in 0..3 {
        assert_eq!(deliver(&mut holder, batch(1, &records(0, 3))).await, Some(1));
    }
    assert_eq!(numbers(&pool, SEQUENCES).await, [1, 2, 3]);
    assert_eq!(numbers(&pool, "SELECT DISTINCT revocation FROM gateway_audit_logs").await, [7]);
    assert_eq!(deliver(&mut holder, batch(1, &records(0, 5))).await, Some(1), "grown since: the new ones are stored");
    assert_eq!(deliver(&mut holder, batch(6, &records(5, 1))).await, Some(6));
    assert_eq!(numbers(&pool, SEQUENCES).await, [1, 2, 3, 4, 5, 6]);
    assert!(numbers(&pool, "SELECT after_sequence FROM audit_gaps").await.is_empty());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_hole_in_the_sequence_is_a_gap_on_record(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    deliver(&mut holder, batch(1, &records(0, 2))).await;
    deliver(&mut holder, batch(5, &records(4, 1))).await;
    let gaps: Vec<(i64, Option<i64>, String)> =
        sqlx::query_as("SELECT after_sequence, before_sequence, reason FROM audit_gaps").fetch_all(&pool).await.unwrap();
    assert_eq!(gaps, [(2, Some(5), "sequence".to_owned())]);
    assert_eq!(state.metrics.audit_records_missing.get(), 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_cannot_be_stored_as_it_is_goes_to_quarantine_and_stops_nobody(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let long = "x".repeat(5_000);
    let bad = [
        encode(&record(0)),
        b"\xff\xff".to_vec(),
        encode(&AuditRecord { status: Some(999), ..record(2) }),
        encode(&AuditRecord { at_us: i64::MAX, ..record(3) }),
        encode(&AuditRecord { total_us: u64::MAX, ..record(4) }),
        encode(&AuditRecord { correlation_id: "nul\0here".into(), ..record(5) }),
        encode(&AuditRecord { correlation_id: long.as_str().into(), ..record(6) }),
        encode(&AuditRecord {
            user: None,
            method: None,
            path: None,
            route: None,
            action: None,
            status: None,
            stage: Stage::Envoy,
            ..record(7)
        }),
    ];
    let mut torn = batch(1, &bad);
    torn.bytes.extend([9, 9]);
    torn.count += 1;
    assert_eq!(deliver(&mut holder, torn).await, Some(1));
    assert_eq!(numbers(&pool, SEQUENCES).await, [1, 6, 7, 8]);
    assert_eq!(numbers(&pool, QUARANTINED).await, [2, 3, 4, 5, 7, 9]);
    let ids: Vec<(String,)> = sqlx::query_as("SELECT correlation_id FROM gateway_audit_logs WHERE sequence IN (6, 7) ORDER BY sequence")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!((ids[0].0.as_str(), ids[1].0.len()), ("nul\u{fffd}here", 1_024));
    let (kept,): (Vec<u8>,) = sqlx::query_as("SELECT bytes FROM audit_quarantine WHERE sequence = 7").fetch_one(&pool).await.unwrap();
    assert_eq!(kept, bad[6], "the whole record is kept");
    assert_eq!(deliver(&mut holder, batch(10, &records(9, 1))).await, Some(10), "the next batch follows");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_record_that_the_table_refuses_is_found_and_put_aside(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    sqlx::query("ALTER TABLE gateway_audit_logs ADD CONSTRAINT of_the_test CHECK (sequence <> 2)").execute(&pool).await.unwrap();
    let mut request = holder.request(vec![holder.want("daily", "agent=1", 0, 3, 3)]);
    request.records = Some(batch(1, &records(0, 3)));
    let answer = holder.send(&request).await.unwrap();
    assert_eq!((answer.records_stored, answer.accounts[0].granted), (Some(1), 3));
    assert_eq!((numbers(&pool, SEQUENCES).await, numbers(&pool, QUARANTINED).await), (vec![1, 3], vec![2]));
}

async fn get(holder: &Holder, path: &str) -> Value {
    let bearer = format!("Bearer {}", token("vera", "viewer", false));
    let request = Request::get(path).header(header::AUTHORIZATION, bearer).body(Body::empty()).unwrap();
    let response = admin_app(holder.state.clone()).oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn queries_page_newest_first_through_every_match_once(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let mut same_time = records(0, 30);
    same_time.extend((0..5).map(|_| encode(&AuditRecord { at_us: START_US + 3, ..record(3) })));
    deliver(&mut holder, batch(1, &same_time)).await;
    let moment = |record: &Value| OffsetDateTime::parse(record["timestamp"].as_str().unwrap(), &Rfc3339).unwrap();
    let mut seen = Vec::new();
    let mut path = "/admin/v1/audit?outcome=deny&limit=4".to_owned();
    loop {
        let page = get(&holder, &path).await;
        seen.extend(page["records"].as_array().unwrap().iter().map(|record| (moment(record), record["sequence"].as_i64().unwrap())));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/admin/v1/audit?outcome=deny&limit=4&cursor={cursor}");
    }
    let mut sorted = seen.clone();
    sorted.sort();
    sorted.dedup();
    sorted.reverse();
    assert_eq!((seen.len(), &seen), (15, &sorted));
    for (filter, count) in [
        ("correlation_id=not-a-uuid-7", 1),
        ("user=user-4", 1),
        ("customer=customer-2", 3),
        ("agent=agent-1", 2),
        ("route=agents-read", 35),
        ("route=other", 0),
        ("status=403", 15),
        ("from=2026-09-21T14:13:20.000010Z", 20),
        ("to=2026-09-21T14:13:20.000010Z", 15),
    ] {
        assert_eq!(get(&holder, &format!("/admin/v1/audit/count?{filter}")).await["count"], count, "{filter}");
    }
    let one = &get(&holder, "/admin/v1/audit?correlation_id=not-a-uuid-7").await["records"][0];
    assert_eq!(
        (&one["checks"][1]["outcome"], &one["charges"][0]["amount"], &one["roles"][1]),
        (&"failed_open".into(), &1_000.into(), &"viewer".into())
    );
    assert_eq!((&one["envoy_id"], &one["sequence"], &one["stage"]), (&"envoy-1".into(), &8.into(), &"filter".into()));
    assert_eq!(get(&holder, "/admin/v1/audit?cursor=nonsense").await["status"], 400);
    assert_eq!(get(&holder, "/admin/v1/audit?outcome=maybe").await["status"], 400);
}

/// Prints the rate; the bound is far below it, so that a busy machine does not fail the test.
#[sqlx::test(migrations = "../migrations")]
async fn batches_are_ingested_in_bulk(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let batches: Vec<_> =
        (0..20_u64).map(|number| batch(number * 1_000 + 1, &records(i64::try_from(number).unwrap() * 1_000, 1_000))).collect();
    let started = Instant::now();
    for batch in batches {
        deliver(&mut holder, batch).await;
    }
    let rate = 20_000.0 / started.elapsed().as_secs_f64();
    println!("{rate:.0} records per second");
    assert!(rate > 1_000.0, "{rate:.0} records per second");
}
