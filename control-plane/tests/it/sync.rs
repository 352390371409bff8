//! The sync call over HTTP: who may call, what is refused, and that nothing changes when it is.

use crate::plane::{Holder, envoy, state};
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use control_plane::app::data_plane_app;
use http_body_util::BodyExt as _;
use sqlx::PgPool;
use tower::ServiceExt as _;
use wire::frame::{self, MEDIA_TYPE_SYNC};
use wire::sync::{AccountReport, SyncAnswer, SyncRequest};

async fn post(holder: &Holder, token: &str, body: Vec<u8>) -> (StatusCode, HeaderMap, Vec<u8>) {
    let request = Request::post("/data-plane/v1/sync")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, MEDIA_TYPE_SYNC)
        .body(Body::from(body))
        .unwrap();
    let response = data_plane_app(holder.state.clone()).oneshot(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    (status, headers, response.into_body().collect().await.unwrap().to_bytes().to_vec())
}

async fn status_of(holder: &Holder, token: &str, request: &SyncRequest) -> u16 {
    post(holder, token, frame::encode(request).unwrap()).await.0.as_u16()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_call_is_answered_in_its_own_format(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let want = holder.want("daily", "agent=1", 0, 3, 3);
    let unknown_keys = vec!["nobody".to_owned()];
    let request = SyncRequest { revocation: 5, unknown_keys, ..holder.request(vec![want]) };
    let (status, _, body) = post(&holder, "envoy-1", frame::encode(&request).unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    let answer: SyncAnswer = frame::decode(&body).unwrap();
    assert_eq!((answer.call, answer.accounts[0].granted), (1, 3));
    let (enforced,): (i64,) = sqlx::query_as("SELECT revocation FROM holders").fetch_one(&pool).await.unwrap();
    assert_eq!(enforced, 5);
}

#[sqlx::test(migrations = "../migrations")]
async fn more_calls_than_can_be_carried_out_are_refused_at_once_and_change_nothing(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let request = holder.request(vec![holder.want("daily", "agent=1", 0, 3, 3)]);
    let taken = state.sync_places.take_all().unwrap();
    let (status, headers, body) = post(&holder, "envoy-1", frame::encode(&request).unwrap()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{}", String::from_utf8_lossy(&body));
    assert!(headers.contains_key(header::RETRY_AFTER));
    // Who it is matters more than how many there are.
    assert_eq!(status_of(&holder, "nobody", &request).await, 401);
    let (holders,): (i64,) = sqlx::query_as("SELECT count(*) FROM holders").fetch_one(&pool).await.unwrap();
    assert_eq!(holders, 0);
    drop(taken);
    assert_eq!(status_of(&holder, "envoy-1", &request).await, 200);
}

#[sqlx::test(migrations = "../migrations")]
async fn each_refusal_has_its_status_and_changes_nothing(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    envoy(&pool, "envoy-2").await;
    let want = holder.want("daily", "agent=1", 0, 3, 3);
    let first = holder.request(vec![want.clone()]);
    assert_eq!(status_of(&holder, "envoy-1", &first).await, 200);
    let more = AccountReport { target: 50, minimum: 50, ..want };
    let second = holder.request(vec![more.clone()]);
    assert_eq!(status_of(&holder, "nobody", &second).await, 401);
    assert_eq!(status_of(&holder, "envoy-2", &second).await, 403);
    assert_eq!(status_of(&holder, "envoy-1", &SyncRequest { call: 0, ..second.clone() }).await, 422);
    let absurd = SyncRequest { accounts: vec![more.clone(), AccountReport { used: -1, ..more }], ..second.clone() };
    assert_eq!(status_of(&holder, "envoy-1", &absurd).await, 422);
    assert_eq!(post(&holder, "envoy-1", b"nonsense".to_vec()).await.0, StatusCode::BAD_REQUEST);
    let (granted, last_call): (i64, i64) =
        sqlx::query_as("SELECT granted, last_call FROM budget_leases JOIN holders USING (holder)").fetch_one(&pool).await.unwrap();
    assert_eq!((granted, last_call), (3, 1));
    let refused: Vec<(String,)> =
        sqlx::query_as("SELECT action FROM admin_events WHERE action = 'holder.refused'").fetch_all(&pool).await.unwrap();
    assert_eq!(refused.len(), 1, "the foreign Envoy is on record");
    assert_eq!(status_of(&holder, "envoy-1", &second).await, 200);
    assert_eq!(status_of(&holder, "envoy-1", &first).await, 409);
    sqlx::query("UPDATE holders SET closed_at = now(), last_sequence = 7").execute(&pool).await.unwrap();
    let third = holder.request(vec![]);
    let (status, headers, _) = post(&holder, "envoy-1", frame::encode(&third).unwrap()).await;
    assert_eq!((status.as_u16(), headers["x-records-stored"].to_str().unwrap()), (410, "7"), "those are not to be sent again");
}

#[sqlx::test(migrations = "../migrations")]
async fn without_valkey_the_durable_part_is_answered_and_the_rest_left_out(pool: PgPool) {
    let mut state = state(&pool, 100).await;
    // A port on which nobody answers: bound, and never accepted from.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = redis::Client::open(format!("redis://{}", silent.local_addr().unwrap())).unwrap();
    let lazy = redis::aio::ConnectionManagerConfig::new().set_number_of_retries(0);
    state.valkey = redis::aio::ConnectionManager::new_lazy_with_config(client, lazy).unwrap();
    let mut holder = Holder::new(&state).await;
    let wants = vec![holder.want("hourly", "agent=1", 0, 3, 3), holder.want("daily", "agent=1", 0, 3, 3)];
    let request = holder.request(wants);
    let started = std::time::Instant::now();
    let answer = holder.send(&request).await.unwrap();
    assert_eq!(answer.accounts.iter().map(|grant| &*grant.budget).collect::<Vec<_>>(), ["daily"]);
    assert!(started.elapsed() < std::time::Duration::from_secs(1), "{:?}", started.elapsed());
}
