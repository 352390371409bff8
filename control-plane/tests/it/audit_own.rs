//! What users read of the audit log, and that it is Postgres that says so: own records, a customer's for its administrator, and none
//! of anybody else's whatever is asked for.

use crate::plane::Holder;
use crate::records::{batch, deliver, encode, record};
use crate::support::{ENVOY_TOKEN, World, ops_token_with, user_token};
use axum::http::{Method, StatusCode};
use control_plane::audit::access::Access;
use control_plane::audit::query::{self, Filter, OfWhom};
use control_plane::caller::Envoy;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use std::collections::BTreeSet;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;
use wire::audit::{AuditRecord, Decision, Mention, User};
use wire::pseudonym::PseudonymKey;

const RECORDS: &str = "/api/v1/audit/records";
/// Of the time of these records.
const LIST: &str = "/api/v1/audit/records?from=2026-09-20T00:00:00Z&to=2026-10-01T00:00:00Z";
const SUMMARIES: &str = "/api/v1/audit/daily-summaries";

async fn holder(world: &World) -> Holder {
    let envoy = Envoy::identify(&world.state.database, Sha256::digest(ENVOY_TOKEN).into()).await.unwrap();
    Holder { state: world.state.clone(), envoy, id: *Uuid::now_v7().as_bytes(), call: 0 }
}

/// A hundred records of fifty users of ten customers, and a summary of each user.
async fn filled(world: &World) {
    let encoded: Vec<Vec<u8>> = (0..100).map(|number| encode(&record(number))).collect();
    deliver(&mut holder(world).await, batch(1, &encoded)).await;
    let sum_up = "INSERT INTO gateway_audit.daily_summaries SELECT current_date, gateway_type, issuer, subject, user_id, customer_id, \
         trial_mode, 1, 1, 0, 0, 0, 1, 1, 1, 1 FROM gateway_audit_logs \
         GROUP BY gateway_type, issuer, subject, user_id, customer_id, trial_mode";
    sqlx::query(sum_up).execute(&world.state.database).await.unwrap();
}

async fn get(world: &World, path: &str, token: &str) -> (StatusCode, Value) {
    let answer = world.admin_call(Method::GET, path, Some(token), None).await;
    (answer.status, answer.json())
}

/// Of which users and customers the records are that somebody sees.
async fn seen(world: &World, path: &str, token: &str) -> Vec<(String, String)> {
    let (status, page) = get(world, path, token).await;
    assert_eq!(status, StatusCode::OK, "{path}: {page}");
    let records = page.get("records").or_else(|| page.get("summaries")).unwrap().as_array().unwrap();
    let of = |record: &Value, member: &str| record[member].as_str().unwrap_or_default().to_owned();
    records.iter().map(|record| (of(record, "subject"), of(record, "customer_id"))).collect()
}

fn customer(subject: &str, role: &str, customer: &str) -> String {
    user_token("cp", subject, &[role], json!({ "customer_id": customer }))
}

#[sqlx::test(migrations = "../migrations")]
async fn a_user_sees_own_records_and_a_customers_administrator_the_customers(pool: PgPool) {
    let world = World::new(pool).await;
    filled(&world).await;
    let own = seen(&world, LIST, &customer("subject-1", "customer_user", "customer-1")).await;
    assert_eq!(own, vec![("subject-1".to_owned(), "customer-1".to_owned()); 2]);
    let of_customer = seen(&world, LIST, &customer("subject-1", "customer_admin", "customer-1")).await;
    assert!(of_customer.len() == 10 && of_customer.iter().all(|(_, customer)| customer == "customer-1"), "{of_customer:?}");
    let users: BTreeSet<&String> = of_customer.iter().map(|(user, _)| user).collect();
    assert_eq!(users.len(), 5);
    // Who has moved to another customer keeps the own records, and administers the new one.
    let moved = seen(&world, LIST, &customer("subject-1", "customer_admin", "customer-2")).await;
    assert_eq!(moved.iter().filter(|(user, _)| user == "subject-1").count(), 2);
    assert_eq!((moved.len(), moved.iter().filter(|(_, customer)| customer == "customer-2").count()), (12, 10));
    for (token, records) in [
        // No customer, no administrator of one.
        (user_token("cp", "subject-1", &["customer_admin"], json!({})), 2),
        (user_token("cp", "subject-1", &["customer_admin"], json!({ "customer_id": "" })), 2),
        (user_token("cp", "subject-1", &["user"], json!({ "customer_id": "customer-1" })), 2),
        // A portal cannot mint a role of another.
        (user_token("cp", "subject-1", &["customer_user", "admin"], json!({ "customer_id": "customer-1" })), 2),
        // A user is the issuer's.
        (user_token("pp", "subject-1", &["viewer"], json!({ "customer_id": "customer-1" })), 0),
        (user_token("pp", "subject-1", &["admin"], json!({})), 0),
        (customer("nobody", "customer_user", "customer-1"), 0),
        (customer("", "customer_user", ""), 0),
        (ops_token_with(&["admin"], json!({})), 0),
        (ops_token_with(&["customer_admin"], json!({ "customer_id": "customer-1" })), 10),
    ] {
        let (status, page) = get(&world, LIST, &token).await;
        let seen = page["records"].as_array().map_or(0, Vec::len);
        assert!(seen == records && (status == StatusCode::OK || records == 0), "{token}: {status} {page}");
    }
    assert_eq!(seen(&world, SUMMARIES, &customer("subject-1", "customer_user", "customer-1")).await.len(), 1);
    assert_eq!(seen(&world, SUMMARIES, &customer("subject-1", "customer_admin", "customer-1")).await.len(), 5);
    assert_eq!(world.admin_call(Method::GET, LIST, None, None).await.status, StatusCode::UNAUTHORIZED);
}

#[sqlx::test(migrations = "../migrations")]
async fn no_filter_cursor_or_id_reaches_what_is_somebody_elses(pool: PgPool) {
    let world = World::new(pool).await;
    filled(&world).await;
    let pool = &world.state.database;
    let theirs = Filter { user: Some("user-2".into()), ..Filter::default() };
    let theirs = query::page(pool, Access::Auditor, &theirs, None, 10).await.unwrap();
    let (newest, oldest) = (&theirs[0], &theirs[1]);
    let user = customer("subject-1", "customer_user", "customer-1");
    let administrator = customer("subject-1", "customer_admin", "customer-1");
    for (asked, is_theirs) in [
        ("user=user-2".to_owned(), true),
        ("customer=customer-2".to_owned(), true),
        ("agent=agent-2".to_owned(), true),
        (format!("correlation_id={}", newest.correlation_id), true),
        (format!("request_id={}", newest.request_id), true),
        ("user=user-2&customer=customer-1".to_owned(), true),
        ("limit=1000".to_owned(), false),
        (format!("cursor={}", newest.cursor()), false),
        (format!("cursor={}&limit=1000", oldest.cursor()), false),
        ("budget=daily".to_owned(), false),
        ("outcome=permit".to_owned(), false),
        ("gateway=PLANT".to_owned(), false),
    ] {
        for token in [&user, &administrator] {
            let seen = seen(&world, &format!("{LIST}&{asked}"), token).await;
            assert!(seen.iter().all(|(_, customer)| customer == "customer-1"), "{asked}: {seen:?}");
            assert!(seen.is_empty() || !is_theirs, "{asked}: {seen:?}");
        }
    }
    for id in [&newest.id, &newest.request_id] {
        let path = format!("{RECORDS}/{id}");
        for token in [&user, &administrator] {
            assert_eq!(get(&world, &path, token).await.0, StatusCode::NOT_FOUND, "{path}");
        }
        let (status, record) = get(&world, &path, &customer("subject-2", "customer_user", "customer-2")).await;
        assert_eq!((status, &record["id"]), (StatusCode::OK, &json!(newest.id)), "{path}: its user reads it");
    }
    for whose in ["user=user-2", "customer=customer-2"] {
        assert_eq!(seen(&world, &format!("{SUMMARIES}?{whose}"), &administrator).await, []);
    }
    for wrong in ["shadow=true", "shadow=false", "limit=0", "limit=1001", "cursor=x", "outcome=other", "issuer=cp", "user=%00"] {
        assert_eq!(get(&world, &format!("{LIST}&{wrong}"), &administrator).await.0, StatusCode::BAD_REQUEST, "{wrong}");
    }
    for hidden in ["/admin/v1/audit", "/admin/v1/audit/count", "/admin/v1/audit/gaps", "/admin/v1/audit/traces/x"] {
        assert_eq!(get(&world, hidden, &administrator).await.0, StatusCode::UNAUTHORIZED, "{hidden}");
    }
}

/// The queries as the handlers make them, with nothing of a handler around: everything is asked for.
#[sqlx::test(migrations = "../migrations")]
async fn a_query_that_narrows_nothing_shows_no_more(pool: PgPool) {
    let world = World::new(pool).await;
    filled(&world).await;
    let pool = &world.state.database;
    let reader = |administers| Access::Reader { issuer: "cp", subject: "subject-1", administers };
    let theirs = query::page(pool, Access::Auditor, &Filter { user: Some("user-2".into()), ..Filter::default() }, None, 1).await.unwrap();
    for (access, records, summaries) in [(reader(None), 2, 1), (reader(Some("customer-1")), 10, 5)] {
        assert_eq!(query::page(pool, access, &Filter::default(), None, 1_000).await.unwrap().len(), records);
        assert_eq!(usize::try_from(query::count(pool, access, &Filter::default()).await.unwrap()).unwrap(), records);
        assert_eq!(query::summaries(pool, access, &OfWhom::default(), 1_000).await.unwrap().len(), summaries);
        assert_eq!(query::find(pool, access, &theirs[0].id, OffsetDateTime::UNIX_EPOCH).await.unwrap(), None);
        assert_eq!(query::find(pool, access, &theirs[0].request_id, OffsetDateTime::UNIX_EPOCH).await.unwrap(), None);
    }
    assert_eq!(query::find(pool, Access::Auditor, &theirs[0].id, OffsetDateTime::UNIX_EPOCH).await.unwrap().as_ref(), theirs.first());
    // What one transaction was told is nothing to the next one on the same connection.
    let mut connection = pool.acquire().await.unwrap();
    reader(Some("customer-1")).enter(&mut connection).await.unwrap();
    control_plane::audit::access::leave(&mut connection).await.unwrap();
    sqlx::query("SET ROLE plant_gateway_audit_reader").execute(&mut *connection).await.unwrap();
    let (left,): (i64,) = sqlx::query_as("SELECT count(*) FROM gateway_audit_logs").fetch_one(&mut *connection).await.unwrap();
    assert_eq!(left, 0);
    sqlx::query("RESET ROLE").execute(&mut *connection).await.unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn pages_hang_together_and_have_each_record_once(pool: PgPool) {
    let world = World::new(pool).await;
    filled(&world).await;
    let token = customer("subject-1", "customer_admin", "customer-1");
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let (_, page) = get(&world, &format!("{LIST}&limit=3{cursor}"), &token).await;
        ids.extend(page["records"].as_array().unwrap().iter().map(|record| record["id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!((ids.len(), ids.iter().collect::<BTreeSet<_>>().len()), (10, 10));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_users_record_tells_of_the_request_and_not_of_the_gateways_insides(pool: PgPool) {
    let world = World::new(pool).await;
    let of_user = record(1);
    let hidden = AuditRecord { reason: "feature_disabled".into(), decision: Decision::Deny, ..record(51) };
    deliver(&mut holder(&world).await, batch(1, &[encode(&of_user), encode(&hidden)])).await;
    let (_, page) = get(&world, LIST, &customer("subject-1", "customer_user", "customer-1")).await;
    let [second, first] = [0, 1].map(|index| page["records"][index].clone());
    let members: Vec<&str> = first.as_object().unwrap().keys().map(String::as_str).collect();
    // Not: holder, sequence, envoy_id, received_at, stage, governor_agent_id, shadow, activation, revision, key_set, revocation,
    // response_details, ours_us, hash.
    let told = "action agent_id approval_id causation_id charges checks correlation_id cost customer_id decision email endpoint \
        gateway_type http_method id issuer phase query_params reason request_headers request_id response_headers roles route rule \
        sampled_of sandbox status_code subject tier timestamp total_us trial_mode trial_until upgrade upstream_us usage user_id";
    assert_eq!(members, told.split_whitespace().collect::<Vec<_>>());
    assert_eq!((&first["correlation_id"], &first["route"]), (&json!("not-a-uuid-1"), &json!("agents-read")));
    // As to whoever was refused: there is no such route.
    let said = ["reason", "route", "action"].map(|member| second[member].clone());
    assert_eq!(said, [json!("no_route"), Value::Null, Value::Null]);
    assert_eq!(second["checks"], json!([{"check": "route", "outcome": "deny"}]));
    let by_route = get(&world, &format!("{LIST}&route=agents-read"), &customer("subject-1", "customer_user", "customer-1")).await.1;
    assert_eq!(by_route["records"].as_array().unwrap().len(), 1, "nobody finds out which routes are switched off");
}

#[sqlx::test(migrations = "../migrations")]
async fn users_look_back_a_week_and_at_a_month_at_most(pool: PgPool) {
    let world = World::new(pool).await;
    let age = |days: i64| {
        let at_us = i64::try_from((OffsetDateTime::now_utc() - Duration::days(days)).unix_timestamp_nanos() / 1_000).unwrap();
        encode(&AuditRecord { at_us, ..record(1) })
    };
    deliver(&mut holder(&world).await, batch(1, &[age(20), age(6), age(0)])).await;
    let token = customer("subject-1", "customer_user", "customer-1");
    let from = |days: i64| (OffsetDateTime::now_utc() - Duration::days(days)).format(&Rfc3339).unwrap();
    let count = async |path: &str| get(&world, path, &token).await.1["records"].as_array().map(Vec::len);
    assert_eq!(count(RECORDS).await, Some(2));
    assert_eq!(count(&format!("{RECORDS}?from={}", from(30))).await, Some(3));
    assert_eq!(get(&world, &format!("{RECORDS}?from={}", from(32)), &token).await.0, StatusCode::BAD_REQUEST);
}

#[sqlx::test(migrations = "../migrations")]
async fn users_find_their_records_where_hashes_stand_for_them(pool: PgPool) {
    let directory = World::prepared();
    let secret = b"the key of the hashes, 32 bytes at the least";
    std::fs::write(directory.path().join("secrets/hash-key"), secret).unwrap();
    let settings = directory.path().join("policies/settings.yaml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{text}\naudit:\n  identities: hashed\n  hash_key: hash-key\n")).unwrap();
    let world = World::over(pool, directory).await.unwrap();
    let key = PseudonymKey::new(secret.to_vec()).unwrap();
    deliver(&mut holder(&world).await, batch(1, &[hashed(&key, "subject-1"), hashed(&key, "subject-2"), encode(&record(3))])).await;
    let seen_by = async |subject: &str| seen(&world, LIST, &customer(subject, "customer_user", "customer-9")).await.len();
    assert_eq!([seen_by("subject-1").await, seen_by("subject-2").await, seen_by("nobody").await], [1, 1, 0]);
    // A user who calls himself like the hash of another.
    assert_eq!([seen_by(&key.of("subject-1")).await, seen_by("h1:").await], [0, 0]);
}

/// A record with the hash of its user's subject.
fn hashed(key: &PseudonymKey, subject: &str) -> Vec<u8> {
    let Some(Mention::New(user)) = record(1).user else { return Vec::new() };
    let user = User { subject: key.of(subject).into(), customer_id: None, ..user };
    encode(&AuditRecord { user: Some(Mention::New(user)), ..record(1) })
}

#[sqlx::test(migrations = "../migrations")]
async fn a_hash_in_an_old_record_is_nobodys_name(pool: PgPool) {
    let world = World::new(pool).await;
    let key = PseudonymKey::new(vec![7; 32]).unwrap();
    deliver(&mut holder(&world).await, batch(1, &[hashed(&key, "subject-1")])).await;
    let (_, page) = get(&world, LIST, &customer(&key.of("subject-1"), "customer_user", "customer-1")).await;
    assert_eq!(page["records"], json!([]));
}
