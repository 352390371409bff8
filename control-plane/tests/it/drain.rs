//! An Envoy that is about to stop, over HTTP and on real stores: what its workers are told and granted, and what is left of them.

use crate::plane::{Holder, envoy, state, window_start};
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use control_plane::app::{AppState, data_plane_app};
use control_plane::budgets::alerts::Telling;
use control_plane::budgets::ledger::Account;
use control_plane::budgets::{AccountKey, valkey};
use control_plane::drain::Draining;
use control_plane::holders::close_one_silent;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::time::{Duration, Instant};
use tower::ServiceExt as _;
use uuid::Uuid;
use wire::drain::{DRAINING_HEADER, LEFT_HEADER};
use wire::frame::{self, MEDIA_TYPE_SYNC};
use wire::revocation::RevocationPage;
use wire::sync::{AccountReport, SyncAnswer, SyncRequest};

async fn send(state: &AppState, request: Request<Body>) -> (StatusCode, HeaderMap, Vec<u8>) {
    let response = data_plane_app(state.clone()).oneshot(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    (status, headers, response.into_body().collect().await.unwrap().to_bytes().to_vec())
}

fn bearer(method: &str, target: &str, token: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(target).header(header::AUTHORIZATION, format!("Bearer {token}"))
}

async fn drain(state: &AppState, token: &str) -> Value {
    let (status, headers, body) = send(state, bearer("POST", "/data-plane/v1/drain", token).body(Body::empty()).unwrap()).await;
    let told = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    assert_eq!((status, told), (StatusCode::OK, Some(&b"application/json"[..])));
    serde_json::from_slice(&body).unwrap()
}

fn rest(workers: i64, leases: i64, units: i64, records: i64) -> Value {
    json!({"draining": true, "open_workers": workers, "open_leases": leases, "unused_units": units, "queued_records": records})
}

/// A sync call as a filter makes it. Answers for how long the Envoy counts as about to stop, too.
async fn sync(holder: &Holder, token: &str, request: &SyncRequest, left: Option<&str>) -> (SyncAnswer, Option<u64>) {
    let mut call = bearer("POST", "/data-plane/v1/sync", token).header(header::CONTENT_TYPE, MEDIA_TYPE_SYNC);
    if let Some(left) = left {
        call = call.header(LEFT_HEADER, left);
    }
    let (status, headers, body) = send(&holder.state, call.body(Body::from(frame::encode(request).unwrap())).unwrap()).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    let left_ms = headers.get(DRAINING_HEADER).map(|value| value.to_str().unwrap().parse().unwrap());
    (frame::decode(&body).unwrap(), left_ms)
}

/// No other test's: the accounts of rates are shared.
fn scope() -> String {
    format!("agent={}", Uuid::now_v7())
}

async fn rate(state: &AppState, scope: &str) -> Account {
    let key = AccountKey { budget: "hourly".into(), scope: scope.into(), window_start: window_start(state, "hourly") };
    valkey::read(&mut state.valkey.clone(), &key).await.unwrap().unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn every_lease_is_recalled_and_that_it_was_is_seen(pool: PgPool) {
    let state = state(&pool, 100).await;
    let (mut holder, scope) = (Holder::new(&state).await, scope());
    let wants = ["daily", "hourly"].map(|budget| holder.want(budget, &scope, 0, 40, 3));
    let request = holder.request(wants.to_vec());
    let (answer, left_ms) = sync(&holder, "envoy-1", &request, None).await;
    assert_eq!(answer.accounts.iter().map(|grant| grant.granted).collect::<Vec<_>>(), [40, 40]);
    assert_eq!(left_ms, None);

    // What is in Postgres is known, and that the worker has not said what else it has.
    assert_eq!(drain(&state, "envoy-1").await, rest(1, 1, 40, 0));
    // One that knows nothing of drains is asked for the durable part.
    let request = holder.request(vec![]);
    let (answer, left_ms) = sync(&holder, "envoy-1", &request, None).await;
    assert_eq!(answer.recalls.iter().map(|recall| &*recall.budget).collect::<Vec<_>>(), ["daily"]);
    assert!((1..=10_000).contains(&left_ms.unwrap()), "{left_ms:?}");

    // One that does says what it has before it gives it back, and then that it has nothing.
    let closed = |report: AccountReport| AccountReport { used: 2, target: 2, minimum: 2, close: true, ..report };
    let request = holder.request(wants.map(closed).to_vec());
    let (answer, _) = sync(&holder, "envoy-1", &request, Some("2 76 1")).await;
    assert!(answer.accounts.iter().all(|grant| grant.granted == 0) && answer.recalls.is_empty(), "{answer:?}");
    assert_eq!(drain(&state, "envoy-1").await, rest(1, 2, 76, 1));
    let request = holder.request(vec![]);
    sync(&holder, "envoy-1", &request, Some("0 0 0")).await;
    assert_eq!(drain(&state, "envoy-1").await, rest(0, 0, 0, 0));
    assert_eq!(drain(&state, "envoy-1").await, rest(0, 0, 0, 0), "as often as it is asked");

    // Nothing is lost with it: another has all that was not used, and its end costs nothing.
    let mut other = Holder::new(&state).await;
    other.envoy = envoy(&pool, "envoy-2").await;
    for budget in ["daily", "hourly"] {
        assert_eq!(other.report(other.want(budget, &scope, 0, 98, 98)).await.granted, 98, "{budget}");
    }
    sqlx::query("UPDATE holders SET last_seen_at = now() - interval '2 minutes' WHERE envoy_id = 'envoy-1'").execute(&pool).await.unwrap();
    let active = state.policy();
    let ended = close_one_silent(&pool, Duration::from_secs(60), Telling::of(&active), &state.caps).await.unwrap().unwrap();
    assert_eq!(ended.forfeits.iter().map(|(_, units)| units).sum::<i64>(), 0);
    assert_eq!(rate(&state, &scope).await.forfeited.get(), 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn requests_that_wait_are_granted_and_nothing_else(pool: PgPool) {
    let state = state(&pool, 100).await;
    let (mut holder, scope) = (Holder::new(&state).await, scope());
    drain(&state, "envoy-1").await;
    for budget in ["daily", "hourly"] {
        let request = holder.request(vec![holder.want(budget, &scope, 0, 40, 7)]);
        let (answer, _) = sync(&holder, "envoy-1", &request, Some("1 0 0")).await;
        assert_eq!(answer.accounts[0].granted, 7, "{budget}");
        assert!(answer.recalls.iter().all(|recall| recall.budget != budget), "nobody is asked for what waits: {:?}", answer.recalls);
        // To the last unit: there is room.
        let request = holder.request(vec![holder.want(budget, &scope, 7, 120, 100)]);
        let (answer, _) = sync(&holder, "envoy-1", &request, Some("1 0 0")).await;
        assert_eq!(answer.accounts[0].granted, 100, "{budget}");
    }
    // Another Envoy's workers go on as ever.
    let mut other = Holder::new(&state).await;
    other.envoy = envoy(&pool, "envoy-2").await;
    let request = other.request(vec![other.want("daily", &format!("{scope}-2"), 0, 20, 1)]);
    let (answer, left_ms) = sync(&other, "envoy-2", &request, None).await;
    assert_eq!((answer.accounts[0].granted, left_ms), (20, None));
}

/// What a worker said counts as long as nothing has come after it.
#[sqlx::test(migrations = "../migrations")]
async fn a_worker_that_has_not_said_now_that_it_has_nothing_is_waited_for(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    assert_eq!(drain(&state, "envoy-1").await, rest(0, 0, 0, 0), "none has ever called");
    let nothing = holder.request(vec![]);
    sync(&holder, "envoy-1", &nothing, Some("0 0 0")).await;
    assert_eq!(drain(&state, "envoy-1").await, rest(0, 0, 0, 0));
    let silent = holder.request(vec![]);
    sync(&holder, "envoy-1", &silent, None).await;
    assert_eq!(drain(&state, "envoy-1").await, rest(1, 1, 0, 0), "its last call does not say");
    let nothing = holder.request(vec![]);
    sync(&holder, "envoy-1", &nothing, Some("0 0 0")).await;
    // A replica from before takes the next call, and leaves the columns alone.
    sqlx::query("UPDATE holders SET last_call = last_call + 1").execute(&pool).await.unwrap();
    assert_eq!(drain(&state, "envoy-1").await, rest(1, 1, 0, 0), "what it said is of an earlier call");
    sqlx::query("UPDATE holders SET left_call = last_call").execute(&pool).await.unwrap();
    assert_eq!(drain(&state, "envoy-1").await, rest(0, 0, 0, 0));
    // The drain is over, and another begins.
    sqlx::query("UPDATE envoys SET draining_until = now() - interval '1 second'").execute(&pool).await.unwrap();
    assert_eq!(drain(&state, "envoy-1").await, rest(1, 1, 0, 0), "what it said is of the drain before");
    sqlx::query("UPDATE holders SET last_seen_at = now() - interval '31 seconds'").execute(&pool).await.unwrap();
    assert_eq!(drain(&state, "envoy-1").await, rest(0, 0, 0, 0), "who is gone says nothing any more");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_held_poll_ends_with_the_news_and_a_drain_by_itself(pool: PgPool) {
    let state = state(&pool, 100).await;
    envoy(&pool, "envoy-1").await;
    let database = Uuid::from_bytes(state.policy().version.database_id).simple().to_string();
    let target = format!("/data-plane/v1/revocations?after=0&database={database}&caps=0&wait_s=20");
    let poll = async |known: bool| {
        let mut request = bearer("GET", &target, "envoy-1");
        if known {
            request = request.header(DRAINING_HEADER, "known");
        }
        let (status, headers, body) = send(&state, request.body(Body::empty()).unwrap()).await;
        assert_eq!(status, StatusCode::OK);
        let page: RevocationPage = frame::decode(&body).unwrap();
        assert!(page.changes.is_empty());
        headers.contains_key(DRAINING_HEADER)
    };
    let began = Instant::now();
    let (heard, ()) = tokio::join!(poll(false), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        drain(&state, "envoy-1").await;
    });
    assert!(heard && began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(tokio::time::timeout(Duration::from_millis(1_500), poll(true)).await.is_err(), "who knows is not told at once");
    assert!(poll(false).await);
    sqlx::query("UPDATE envoys SET draining_until = now() - interval '1 millisecond'").execute(&pool).await.unwrap();
    assert_eq!(envoy(&pool, "envoy-1").await.draining, Draining::No, "nobody has asked again");
}

#[sqlx::test(migrations = "../migrations")]
async fn only_the_envoy_itself_may_ask(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    envoy(&pool, "envoy-2").await;
    let anonymous = Request::post("/data-plane/v1/drain").body(Body::empty()).unwrap();
    assert_eq!(send(&state, anonymous).await.0, StatusCode::UNAUTHORIZED);
    for (method, token, status) in [("POST", "nobody", 401), ("GET", "envoy-1", 405)] {
        assert_eq!(send(&state, bearer(method, "/data-plane/v1/drain", token).body(Body::empty()).unwrap()).await.0.as_u16(), status);
    }
    let request = holder.request(vec![holder.want("daily", "agent=1", 0, 40, 1)]);
    sync(&holder, "envoy-1", &request, None).await;
    assert_eq!(drain(&state, "envoy-2").await, rest(0, 0, 0, 0), "it has no workers");
    let request = holder.request(vec![holder.want("daily", "agent=1", 0, 45, 1)]);
    let (answer, left_ms) = sync(&holder, "envoy-1", &request, None).await;
    assert_eq!((answer.accounts[0].granted, left_ms), (45, None), "the other one goes on");
    let odd = bearer("POST", "/data-plane/v1/sync", "envoy-1").header(header::CONTENT_TYPE, MEDIA_TYPE_SYNC).header(LEFT_HEADER, "lots");
    let request = frame::encode(&holder.request(vec![])).unwrap();
    assert_eq!(send(&state, odd.body(Body::from(request)).unwrap()).await.0, StatusCode::BAD_REQUEST);
}
