//! Revocation: numbers, pages, long polls, expiry, the admin API's own callers, and a hundred thousand entries.

use crate::support::{Answer, ENVOY_TOKEN, World, admin_token, ops_token_with, send};
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use control_plane::admin_events::Actor;
use control_plane::notifications;
use control_plane::revocations::{Kind, Wanted, expiry, follow, store};
use decision_core::principal::RevocationKind;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::time::{Duration, Instant};
use uuid::Uuid;
use wire::frame;
use wire::hex::hex;
use wire::revocation::{PAGE_CHANGES_MAX, RevocationPage};

const PATH: &str = "/admin/v1/revocations";

async fn revoke(world: &World, mut item: Value) -> Answer {
    item["reason"] = json!("a test");
    world.post(PATH, &item).await
}

async fn lift(world: &World, number: i64) -> Answer {
    world.admin_call(Method::DELETE, &format!("{PATH}/{number}?reason=a+test"), Some(&admin_token()), None).await
}

async fn feed(world: &World, query: &str) -> Answer {
    let request =
        Request::get(format!("/data-plane/v1/revocations?{query}")).header(header::AUTHORIZATION, format!("Bearer {ENVOY_TOKEN}"));
    send(world.data_plane(), request.body(Body::empty()).unwrap()).await
}

async fn page(world: &World, query: &str) -> RevocationPage {
    let answer = feed(world, query).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    frame::decode(&answer.body).unwrap()
}

fn database(world: &World) -> String {
    hex(&world.state.policy().version.database_id)
}

async fn after(world: &World, number: u64) -> RevocationPage {
    page(world, &format!("after={number}&wait_s=0&database={}", database(world))).await
}

fn numbers(page: &RevocationPage) -> Vec<u64> {
    page.changes.iter().map(|change| change.number).collect()
}

fn wish(kind: Kind, issuer: &str, value: String) -> Wanted {
    Wanted { kind, issuer: issuer.to_owned(), value, bound: 0, expires_at: None }
}

async fn revoke_directly(database: &PgPool, wanted: &[Wanted]) -> i64 {
    let mut transaction = database.begin().await.unwrap();
    let revoking = store::revoke(&mut transaction, wanted, Actor::CONTROL_PLANE, "a test").await.unwrap();
    transaction.commit().await.unwrap();
    revoking.number
}

#[sqlx::test(migrations = "../migrations")]
async fn what_is_revoked_is_listed_once_and_told_to_filters(pool: PgPool) {
    let world = World::new(pool).await;
    let first = revoke(&world, json!({"kind": "token", "issuer": "cp", "value": "jti-1"})).await;
    assert_eq!((first.status, &first.json()["number"]), (StatusCode::CREATED, &json!(1)), "{first:?}");
    let again = revoke(&world, json!({"kind": "token", "issuer": "cp", "value": "jti-1"})).await;
    assert_eq!((again.status, &again.json()["number"]), (StatusCode::OK, &json!(1)));
    revoke(&world, json!({"kind": "customer", "value": "c-1"})).await;
    let page = after(&world, 0).await;
    assert_eq!((numbers(&page), page.reset, page.more, page.total, page.through), (vec![1, 2], false, false, 2, 2));
    assert_eq!(page.database_id, world.state.policy().version.database_id);
    assert_eq!(page.changes[0].mark, authn::Mark::of(RevocationKind::Token, "cp", "jti-1").0);
    assert_eq!(page.changes[1].mark, authn::Mark::of(RevocationKind::Customer, "ignored", "c-1").0);
    let list = world.get(&format!("{PATH}?kind=token&issuer=cp&value=jti-1")).await.json();
    assert_eq!(list["revocations"].as_array().unwrap().len(), 1);
    assert_eq!((&list["revocations"][0]["author"], &list["revocations"][0]["reason"]), (&json!("subject-1"), &json!("a test")));
    let listed = world.get(&format!("{PATH}?limit=1")).await.json();
    assert_eq!((&listed["revocations"][0]["number"], &listed["next_cursor"]), (&json!(2), &json!(2)));
    let next = world.get(&format!("{PATH}?limit=1&cursor=2")).await.json();
    assert_eq!((&next["revocations"][0]["number"], &next["next_cursor"]), (&json!(1), &Value::Null));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_bound_never_goes_back_unless_it_is_lifted(pool: PgPool) {
    let world = World::new(pool).await;
    let subject = |before: &str| json!({"kind": "subject", "issuer": "cp", "value": "s", "issued_before": before});
    let version = |min: u64| json!({"kind": "version", "issuer": "cp", "value": "s", "version_min": min});
    assert_eq!(revoke(&world, subject("2026-02-01T00:00:00Z")).await.json()["number"], 1);
    assert_eq!(revoke(&world, subject("2026-01-01T00:00:00Z")).await.json()["issued_before"], "2026-02-01T00:00:00Z");
    assert_eq!(revoke(&world, subject("2026-03-01T00:00:00Z")).await.json()["number"], 2);
    assert_eq!(revoke(&world, version(5)).await.json()["version_min"], 5);
    assert_eq!(revoke(&world, version(4)).await.json()["version_min"], 5);
    assert_eq!(revoke(&world, version(6)).await.json()["number"], 4);
    assert_eq!(numbers(&after(&world, 0).await), [2, 4]);
    let lifted = lift(&world, 4).await;
    assert_eq!((lifted.status, lifted.json()["number"].as_i64()), (StatusCode::OK, Some(5)), "{lifted:?}");
    assert_eq!(lift(&world, 4).await.status, StatusCode::NOT_FOUND);
    assert_eq!(revoke(&world, version(2)).await.json()["version_min"], 2);
    let page = after(&world, 4).await;
    assert_eq!(page.changes.iter().map(|change| (change.number, change.bound, change.lifted)).collect::<Vec<_>>(), [(6, 2, false)]);
}

#[sqlx::test(migrations = "../migrations")]
async fn every_change_is_on_record_with_who_and_why(pool: PgPool) {
    let world = World::new(pool.clone()).await;
    revoke(&world, json!({"kind": "agent", "value": "a-1"})).await;
    lift(&world, 1).await;
    let lines = "{\"kind\": \"agent\", \"value\": \"a-2\"}\n\n{\"kind\": \"agent\", \"value\": \"a-3\"}\n";
    assert_eq!(import(&world, lines).await.json(), json!({"lines": 2, "changed": 2, "number": 4}));
    let events: Vec<(String, String, String, String)> =
        sqlx::query_as("SELECT action, target, reason, actor_subject FROM admin_events WHERE action LIKE 'revocation.%' ORDER BY id")
            .fetch_all(&pool)
            .await
            .unwrap();
    let of = |action: &str, target: &str| (action.to_owned(), target.to_owned(), "a test".to_owned(), "subject-1".to_owned());
    assert_eq!(events, [of("revocation.revoke", "agent a-1"), of("revocation.lift", "agent a-1"), of("revocation.import", "-")]);
}

async fn import(world: &World, lines: &str) -> Answer {
    let request = Request::post(format!("{PATH}/import?reason=a+test"))
        .header(header::AUTHORIZATION, format!("Bearer {}", admin_token()))
        .header(header::CONTENT_TYPE, "application/x-ndjson");
    send(world.admin(), request.body(Body::from(lines.to_owned())).unwrap()).await
}

#[sqlx::test(migrations = "../migrations")]
async fn bad_wishes_are_refused_and_change_nothing(pool: PgPool) {
    let world = World::new(pool).await;
    let unknown = revoke(&world, json!({"kind": "token", "issuer": "ccp", "value": "a"})).await;
    assert_eq!(unknown.status, StatusCode::BAD_REQUEST);
    assert!(unknown.json()["detail"].as_str().unwrap().ends_with("did you mean `cp`?"), "{unknown:?}");
    assert_eq!(revoke(&world, json!({"kind": "token", "issuer": "cp", "value": "a", "surprise": 1})).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(world.post(PATH, &json!({"kind": "agent", "value": "a", "reason": " "})).await.status, StatusCode::BAD_REQUEST);
    let lines = "{\"kind\": \"agent\", \"value\": \"a-2\"}\n{\"kind\": \"agent\"}\n";
    let refused = import(&world, lines).await;
    assert!(refused.json()["detail"].as_str().unwrap().starts_with("line 2: "), "{refused:?}");
    for query in ["after=-1", "database=xyz", "database=0011", "surprise=1"] {
        assert_eq!(feed(&world, query).await.status, StatusCode::BAD_REQUEST, "{query}");
    }
    assert_eq!(world.state.revoked.number(), 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn numbers_have_no_gaps_and_become_visible_in_order_under_eight_writers(pool: PgPool) {
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for number in 0..25 {
                    let mut transaction = pool.begin().await.unwrap();
                    let wish = [wish(Kind::Agent, "", format!("{writer}-{number}"))];
                    store::revoke(&mut transaction, &wish, Actor::CONTROL_PLANE, "a test").await.unwrap();
                    // Some give up, and their number must not be missing afterwards.
                    if number % 5 == 4 { transaction.rollback().await.unwrap() } else { transaction.commit().await.unwrap() }
                }
            })
        })
        .collect();
    let watcher = async {
        let mut seen = 0;
        while seen < 160 {
            let (counter, changes) = store::changes_after(&pool, seen).await.unwrap();
            let numbers: Vec<_> = changes.iter().map(|change| change.number).collect();
            assert_eq!(numbers, (seen + 1..=counter.number).collect::<Vec<_>>(), "a gap");
            seen = counter.number;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), watcher).await.unwrap();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(store::number(&pool).await.unwrap(), 160);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_filter_of_another_database_or_of_the_future_starts_afresh(pool: PgPool) {
    let world = World::new(pool).await;
    revoke(&world, json!({"kind": "agent", "value": "a"})).await;
    revoke(&world, json!({"kind": "agent", "value": "b"})).await;
    lift(&world, 1).await;
    for query in [
        "wait_s=0".to_owned(),
        format!("after=2&wait_s=20&database={}", "0".repeat(32)),
        format!("after=9&wait_s=20&database={}", database(&world)),
    ] {
        let page = page(&world, &query).await;
        assert_eq!((page.reset, numbers(&page), page.through, page.total), (true, vec![2], 3, 1), "{query}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn what_no_token_needs_any_more_ends_and_is_forgotten_a_day_later(pool: PgPool) {
    let world = World::new(pool.clone()).await;
    revoke(&world, json!({"kind": "token", "issuer": "cp", "value": "a"})).await;
    revoke(&world, json!({"kind": "customer", "value": "stays"})).await;
    assert_eq!(expiry::expire(&pool).await.unwrap(), 0);
    sqlx::query("UPDATE revocations SET expires_at = now() WHERE kind = 'token'").execute(&pool).await.unwrap();
    assert_eq!(expiry::expire(&pool).await.unwrap(), 1);
    follow::refresh(&world.state).await.unwrap();
    let news = after(&world, 2).await;
    assert_eq!((numbers(&news), news.changes[0].lifted, news.total), (vec![3], true, 1));
    assert_eq!(expiry::forget(&pool).await.unwrap(), 0);
    sqlx::query("UPDATE revocations SET lifted_at = now() - interval '25 hours' WHERE kind = 'token'").execute(&pool).await.unwrap();
    assert_eq!(expiry::forget(&pool).await.unwrap(), 1);
    follow::refresh(&world.state).await.unwrap();
    assert!(after(&world, 2).await.reset, "below the floor");
    let known = after(&world, 3).await;
    assert_eq!((known.reset, numbers(&known)), (false, vec![]), "at the floor nothing was missed");
    let world = world.restarted().await.unwrap();
    assert_eq!((world.state.revoked.number(), world.state.revoked.live()), (3, 1), "a restart loses nothing");
    let events: (i64,) =
        sqlx::query_as("SELECT count(*) FROM admin_events WHERE action = 'revocation.expire'").fetch_one(&pool).await.unwrap();
    assert_eq!(events.0, 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn many_old_entries_in_force_are_numbered_anew_before_the_floor_passes_them(pool: PgPool) {
    let world = World::new(pool.clone()).await;
    let customers: Vec<_> = (0..9_000).map(|number| wish(Kind::Customer, "", number.to_string())).collect();
    revoke_directly(&pool, &customers).await;
    revoke_directly(&pool, &[wish(Kind::Agent, "", "gone".into())]).await;
    let mut transaction = pool.begin().await.unwrap();
    store::lift(&mut transaction, 9_001).await.unwrap().unwrap();
    transaction.commit().await.unwrap();
    sqlx::query("UPDATE revocations SET lifted_at = now() - interval '25 hours' WHERE kind = 'agent'").execute(&pool).await.unwrap();
    let mut rounds = 0;
    while expiry::forget(&pool).await.unwrap() > 0 {
        rounds += 1;
        assert!(rounds < 10);
    }
    follow::refresh(&world.state).await.unwrap();
    let mut got = page(&world, "wait_s=0").await;
    let mut seen = got.changes.len();
    while got.more {
        got = after(&world, got.through).await;
        assert!(!got.reset);
        seen += got.changes.len();
    }
    assert_eq!((seen, rounds), (9_000, 2));
}

#[sqlx::test(migrations = "../migrations")]
async fn news_of_another_replica_end_a_held_poll_at_once(pool: PgPool) {
    let (world, other) = (World::new(pool.clone()).await, World::new(pool).await);
    let follower = tokio::spawn(notifications::follow(other.state.clone()));
    let query = format!("after=0&wait_s=20&database={}", database(&world));
    let held = async { (page(&other, &query).await, Instant::now()) };
    let revoking = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let began = Instant::now();
        assert_eq!(revoke(&world, json!({"kind": "key", "issuer": "cp", "value": "cp-1"})).await.status, StatusCode::CREATED);
        (began, Instant::now())
    };
    let ((page, told), (began, committed)) = tokio::join!(held, revoking);
    assert_eq!(numbers(&page), [1]);
    println!("told {:?} after the request began, {:?} after its answer", told - began, told.saturating_duration_since(committed));
    assert!(told - began < Duration::from_secs(1), "{:?}", told - began);
    let began = Instant::now();
    other.state.shutdown.cancel();
    let empty = after(&other, 1).await;
    assert!(empty.changes.is_empty() && began.elapsed() < Duration::from_secs(1), "stopping ends polls");
    follower.await.unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn the_feed_needs_an_envoy_s_token_also_while_it_waits(pool: PgPool) {
    let world = World::new(pool.clone()).await;
    let request = Request::get("/data-plane/v1/revocations").body(Body::empty()).unwrap();
    assert_eq!(send(world.data_plane(), request).await.status, StatusCode::UNAUTHORIZED);
    let query = format!("after=0&wait_s=20&database={}", database(&world));
    let revoked = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        sqlx::query("UPDATE envoys SET revoked_at = now()").execute(&pool).await.unwrap();
    };
    let began = Instant::now();
    let (answer, ()) = tokio::join!(feed(&world, &query), revoked);
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_revoked_operator_is_refused_at_once_whatever_the_kind(pool: PgPool) {
    let world = World::new(pool).await;
    let mallory = ops_token_with(&["admin"], json!({"jti": "jti-m", "token_version": 3, "customer_id": "c-m", "agent_id": "a-m"}));
    let status = async || world.admin_call(Method::GET, "/admin/v1/policies", Some(&mallory), None).await;
    assert_eq!(status().await.status, StatusCode::OK);
    for (item, code) in [
        (json!({"kind": "token", "issuer": "ops", "value": "jti-m"}), "token_revoked"),
        (json!({"kind": "version", "issuer": "ops", "value": "subject-1", "version_min": 4, "force": true}), "token_version_mismatch"),
        (json!({"kind": "customer", "value": "c-m"}), "customer_stopped"),
        (json!({"kind": "agent", "value": "a-m"}), "agent_stopped"),
    ] {
        let revoked = revoke(&world, item.clone()).await;
        assert_eq!(revoked.status, StatusCode::CREATED, "{item}: {revoked:?}");
        let refused = status().await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{item}");
        assert_eq!(refused.json()["detail"], "token validation failed", "a client learns no more");
        let metrics = String::from_utf8(world.get("/metrics").await.body.to_vec()).unwrap();
        assert!(metrics.contains(&format!("admin_requests_total{{outcome=\"{code}\"}}")), "{code}: {metrics}");
        let number = revoked.json()["number"].as_i64().unwrap();
        // The version's revocation hits everybody without one: lift as somebody who has it.
        let lifter = ops_token_with(&["admin"], json!({"token_version": 9}));
        let path = format!("{PATH}/{number}?reason=a+test");
        assert_eq!(world.admin_call(Method::DELETE, &path, Some(&lifter), None).await.status, StatusCode::OK);
        assert_eq!(status().await.status, StatusCode::OK, "{item} is lifted");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn nobody_locks_themselves_out_by_accident(pool: PgPool) {
    let world = World::new(pool).await;
    for item in [
        json!({"kind": "subject", "issuer": "ops", "value": "subject-1"}),
        json!({"kind": "key", "issuer": "ops", "value": "ops-1"}),
        json!({"kind": "version", "issuer": "ops", "value": "subject-1", "version_min": 1}),
    ] {
        let refused = revoke(&world, item.clone()).await;
        assert_eq!(refused.status, StatusCode::CONFLICT, "{item}");
        assert!(refused.json()["detail"].as_str().unwrap().contains("`force`"), "{refused:?}");
        assert_eq!(import(&world, &item.to_string()).await.status, StatusCode::CONFLICT);
    }
    assert_eq!(world.get(PATH).await.json()["revocations"], json!([]));
    let forced = revoke(&world, json!({"kind": "key", "issuer": "ops", "value": "ops-1", "force": true})).await;
    assert_eq!(forced.status, StatusCode::CONFLICT, "nobody could lift it");
    assert!(forced.json()["detail"].as_str().unwrap().starts_with("no key that opens the admin API would be left"), "{forced:?}");
    assert_eq!(world.get(PATH).await.json()["revocations"], json!([]));
    let forced = revoke(&world, json!({"kind": "subject", "issuer": "ops", "value": "subject-1", "force": true})).await;
    assert_eq!(forced.status, StatusCode::CREATED);
    assert_eq!(world.get(PATH).await.status, StatusCode::UNAUTHORIZED, "forced");
}

#[sqlx::test(migrations = "../migrations")]
async fn whoever_is_locked_out_gets_back_in_as_the_documentation_says(pool: PgPool) {
    let statement = include_str!("../../../docs/keys-and-revocation.md").split_once("```sql\n").unwrap().1.split_once("```").unwrap().0;
    let world = World::new(pool.clone()).await;
    revoke_directly(&pool, &[wish(Kind::Agent, "", "a".to_owned()), wish(Kind::Key, "ops", "ops-1".to_owned())]).await;
    follow::refresh(&world.state).await.unwrap();
    assert_eq!(world.get(PATH).await.status, StatusCode::UNAUTHORIZED);
    for rows in [1, 0] {
        assert_eq!(sqlx::query(statement).execute(&pool).await.unwrap().rows_affected(), rows);
        follow::refresh(&world.state).await.unwrap();
        assert_eq!(world.get(PATH).await.json()["revocations"].as_array().unwrap().len(), 1);
        assert_eq!((world.state.revoked.number(), world.state.revoked.live()), (3, 1));
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn an_unknown_key_is_revoked_with_a_warning_that_names_the_known_ones(pool: PgPool) {
    let world = World::new(pool).await;
    let typo = revoke(&world, json!({"kind": "key", "issuer": "ops", "value": "ops-11"})).await;
    assert_eq!(typo.status, StatusCode::CREATED, "{typo:?}");
    let expected = "`ops` has no key `ops-11`; its tokens are refused if it ever turns up. Known are `ops-1`";
    assert_eq!((&typo.json()["warning"], &typo.json()["value"]), (&json!(expected), &json!("ops-11")));
    assert_eq!(revoke(&world, json!({"kind": "key", "issuer": "cp", "value": "cp-1"})).await.json().get("warning"), None);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_issuer_keeps_its_name_as_long_as_revocations_are_of_that_name(pool: PgPool) {
    let world = World::new(pool).await;
    let number =
        revoke(&world, json!({"kind": "version", "issuer": "edge", "value": "s", "version_min": 2})).await.json()["number"].as_i64();
    world.edit("issuers.yaml", "- name: edge", "- name: verge");
    let published = world.post("/admin/v1/policies", &json!({ "files": world.files(), "reason": "a test" })).await;
    assert_eq!(published.status, StatusCode::CREATED, "{published:?}");
    let activation = format!("/admin/v1/policies/{}/activation", published.json()["revision"]);
    let refused = world.post(&activation, &json!({ "reason": "a test" })).await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "{refused:?}");
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("`edge` is not named any more, and 1 revocations") && detail.contains("Lift them"), "{detail}");
    let world = world.restarted().await.unwrap();
    let policy = world.get("/ready").await.json()["policy"].clone();
    assert_eq!((&policy["activation"], &policy["directory_fault"]["field"]), (&json!(1), &json!("issuers")), "{policy}");
    assert_eq!(lift(&world, number.unwrap()).await.status, StatusCode::OK);
    assert_eq!(world.post(&activation, &json!({ "reason": "a test" })).await.status, StatusCode::CREATED);
    let world = world.restarted().await.unwrap();
    assert_eq!(world.get("/ready").await.json()["policy"]["directory_fault"], Value::Null);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_query_with_nul_is_refused(pool: PgPool) {
    let world = World::new(pool).await;
    for query in ["value=a%00b", "issuer=%00"] {
        assert_eq!(world.get(&format!("{PATH}?{query}")).await.status, StatusCode::BAD_REQUEST, "{query}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_replica_that_does_not_read_revocations_is_not_ready(pool: PgPool) {
    let world = World::new(pool).await;
    assert_eq!(world.get("/ready").await.json()["checks"]["revocations"], "ok");
    world.state.revoked.was_read(tokio::time::Instant::now().checked_sub(Duration::from_secs(11)).unwrap());
    let ready = world.get("/ready").await;
    assert_eq!((ready.status, &ready.json()["checks"]["revocations"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("not read lately")));
    follow::refresh(&world.state).await.unwrap();
    assert_eq!(world.get("/ready").await.status, StatusCode::OK);
}

#[sqlx::test(migrations = "../migrations")]
async fn enforcement_counts_the_workers_that_are_up_to_date(pool: PgPool) {
    let world = World::new(pool.clone()).await;
    revoke(&world, json!({"kind": "agent", "value": "a"})).await;
    let holder = |seen: &'static str, revocation: i64| {
        let pool = pool.clone();
        async move {
            sqlx::query(sqlx::AssertSqlSafe(format!(
                "INSERT INTO holders (holder, envoy_id, last_call, previous_call, activation, revocation, last_seen_at) \
                 VALUES ($1, 'envoy-1', 1, 0, 1, $2, now() - interval '{seen}')"
            )))
            .bind(Uuid::now_v7())
            .bind(revocation)
            .execute(&pool)
            .await
            .unwrap();
        }
    };
    holder("1 second", 1).await;
    holder("1 second", 0).await;
    holder("2 minutes", 0).await;
    let state = world.get(&format!("{PATH}/enforcement")).await.json();
    assert_eq!((&state["number"], &state["workers"], &state["enforcing"]), (&json!(1), &json!(2), &json!(1)));
    assert_eq!((&state["lagging"][0]["revocation"], state["lagging"].as_array().unwrap().len()), (&json!(0), 1));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_hundred_thousand_entries_are_loaded_and_walked_and_no_more_are_taken(pool: PgPool) {
    let world = World::new(pool.clone()).await;
    let began = Instant::now();
    for thousand in 0..10 {
        let line = |number: i32| format!("{{\"kind\": \"token\", \"issuer\": \"cp\", \"value\": \"jti-{thousand}-{number}\"}}\n");
        let lines: String = (0..10_000).map(line).collect();
        let answer = import(&world, &lines).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
    let imported = began.elapsed();
    let refused = revoke(&world, json!({"kind": "agent", "value": "one too many"})).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.json()["detail"].as_str().unwrap().contains("100000"), "{refused:?}");
    assert_eq!(revoke(&world, json!({"kind": "token", "issuer": "cp", "value": "jti-0-0"})).await.status, StatusCode::OK, "known already");
    let began = Instant::now();
    let mut got = page(&world, "wait_s=0").await;
    let (mut seen, mut pages, mut bytes) = (got.changes.len(), 1, 0);
    assert_eq!((got.reset, got.total), (true, 100_000));
    while got.more {
        let answer = feed(&world, &format!("after={}&wait_s=0&database={}", got.through, database(&world))).await;
        bytes += answer.body.len();
        got = frame::decode(&answer.body).unwrap();
        assert!(got.changes.len() <= PAGE_CHANGES_MAX);
        seen += got.changes.len();
        pages += 1;
    }
    let walked = began.elapsed();
    assert_eq!((seen, pages, got.through), (100_000, 25, 100_000));
    let began = Instant::now();
    let restarted = follow::load(&pool).await.unwrap();
    assert_eq!(restarted.live(), 100_000);
    println!("100,000 entries: imported in {imported:?}, walked in {walked:?} ({bytes} bytes), loaded at start in {:?}", began.elapsed());
    let began = Instant::now();
    assert_eq!(lift(&world, 1).await.status, StatusCode::OK);
    assert_eq!(revoke(&world, json!({"kind": "agent", "value": "fits"})).await.status, StatusCode::CREATED);
    println!("with 100,000 entries one is lifted and another revoked in {:?}", began.elapsed());
}
