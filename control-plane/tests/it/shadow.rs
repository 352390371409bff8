//! A revision in shadow over real Postgres: served beside the active one, reported once however often, ended in every way.

use crate::support::{ENVOY_TOKEN, World};
use axum::http::StatusCode;
use control_plane::caller::Envoy;
use control_plane::policies::follow;
use control_plane::policies::shadow::store;
use control_plane::sync;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use uuid::Uuid;
use wire::audit::Check;
use wire::bundle::Bundle;
use wire::sync::{Aspect, ShadowDifference, ShadowReport, SyncRequest};

async fn publish(world: &World) -> i64 {
    let answer = world.post("/admin/v1/policies", &json!({ "files": world.files(), "reason": "a test" })).await;
    answer.json()["revision"].as_i64().unwrap()
}

async fn begin(world: &World, revision: i64) -> i64 {
    let answer = world.post("/admin/v1/policies/shadow", &json!({ "revision": revision, "reason": "a look" })).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer.json()["number"].as_i64().unwrap()
}

async fn report(world: &World) -> Value {
    let answer = world.get("/admin/v1/policies/shadow").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

struct Worker {
    holder: Uuid,
    call: u64,
}

impl Worker {
    fn new() -> Self {
        Self { holder: Uuid::now_v7(), call: 0 }
    }

    async fn says(&mut self, world: &World, shadow: ShadowReport) {
        self.call += 1;
        let request = SyncRequest {
            holder: *self.holder.as_bytes(),
            call: self.call,
            activation: 1,
            revocation: 0,
            unknown_keys: vec![],
            accounts: vec![],
            approvals: vec![],
            undos: vec![],
            records: None,
            shadow: Some(shadow),
        };
        let envoy = Envoy::identify(&world.state.database, Sha256::digest(ENVOY_TOKEN).into()).await.unwrap();
        sync::answer(&world.state, &envoy, &request, None).await.unwrap();
    }
}

fn difference(route: &str, count: u64) -> ShadowDifference {
    ShadowDifference {
        aspect: Aspect::Check(Check::Permission),
        route: route.into(),
        active: "ok".into(),
        shadow: "permission_missing".into(),
        count,
    }
}

fn compared(shadow: i64, compared: u64, differences: Vec<ShadowDifference>) -> ShadowReport {
    ShadowReport { shadow: shadow.try_into().unwrap(), compared, unjudged: 0, differences }
}

#[sqlx::test(migrations = "../migrations")]
async fn the_bundle_carries_the_revision_in_shadow_and_its_number_only_rises(database: PgPool) {
    let world = World::new(database).await;
    let revision = publish(&world).await;
    let served = async || Bundle::decode(&world.poll(ENVOY_TOKEN, None, 0).await.body).unwrap();
    assert_eq!(served().await.shadow, None);
    assert_eq!(begin(&world, revision).await, 1);
    let bundle = served().await;
    let shadow = bundle.shadow.as_ref().unwrap();
    assert_eq!((bundle.version.shadow, shadow.revision, bundle.version.revision), (1, 2, 1));
    assert_eq!(shadow.policy.routes.len(), bundle.policy.routes.len());
    assert_eq!(bundle.load().unwrap().shadow.unwrap().revision, 2, "as a filter would");
    let ended = world.post("/admin/v1/policies/shadow/end", &json!({ "reason": "seen enough" })).await;
    assert_eq!((ended.status, &ended.json()["number"]), (StatusCode::OK, &json!(2)));
    let bundle = served().await;
    assert_eq!((bundle.version.shadow, bundle.shadow), (2, None));
    let again = world.post("/admin/v1/policies/shadow/end", &json!({ "reason": "seen enough" })).await;
    assert_eq!(again.status, StatusCode::CONFLICT);
    let world = world.restarted().await.unwrap();
    assert_eq!(world.state.policy().version.shadow, 2, "a restart keeps the number");
    assert_eq!(begin(&world, revision).await, 3);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_workers_report_is_added_up_by_its_greatest_value(database: PgPool) {
    let world = World::new(database).await;
    let run = {
        let revision = publish(&world).await;
        begin(&world, revision).await
    };
    let empty = report(&world).await;
    assert_eq!((&empty["summary"], &empty["promotable"]), (&json!("no request was compared yet"), &json!(false)));
    let (mut one, mut other) = (Worker::new(), Worker::new());
    one.says(&world, compared(run, 10_000, vec![])).await;
    let clean = report(&world).await;
    assert_eq!((&clean["summary"], &clean["promotable"]), (&json!("no request of 10,000 would change"), &json!(true)));
    let late = compared(run, 12_000, vec![difference("agents.create", 2)]);
    one.says(&world, late.clone()).await;
    one.says(&world, late).await;
    one.says(&world, compared(run, 11_000, vec![difference("agents.create", 1)])).await;
    other.says(&world, compared(run, 400, vec![difference("agents.create", 1)])).await;
    let told = report(&world).await;
    assert_eq!(told["summary"], "3 of 12,400 requests would change; all by rule `agents.create`");
    assert_eq!(
        (&told["compared"], &told["changed"], &told["workers"], &told["promotable"]),
        (&json!(12_400), &json!(3), &json!(2), &json!(false))
    );
    let expected = json!([{ "check": "permission", "route": "agents.create", "active": "ok", "shadow": "permission_missing", "count": 3 }]);
    assert_eq!(told["differences"], expected);
    assert_eq!((&told["revision"], &told["active_revision"], &told["running"]), (&json!(2), &json!(1), &json!(true)));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_report_of_a_run_that_is_over_is_ignored(database: PgPool) {
    let world = World::new(database.clone()).await;
    let revision = publish(&world).await;
    let run = begin(&world, revision).await;
    let mut worker = Worker::new();
    worker.says(&world, compared(run, 5, vec![])).await;
    world.post("/admin/v1/policies/shadow/end", &json!({ "reason": "seen enough" })).await;
    worker.says(&world, compared(run, 50, vec![difference("late", 50)])).await;
    worker.says(&world, compared(run + 1, 50, vec![difference("an end", 50)])).await;
    worker.says(&world, compared(run + 77, 50, vec![difference("invented", 50)])).await;
    let told = report(&world).await;
    assert_eq!((&told["compared"], &told["changed"], &told["running"]), (&json!(5), &json!(0), &json!(false)), "the report stays");
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM shadow_totals").fetch_one(&database).await.unwrap();
    assert_eq!(rows, 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn nothing_in_a_report_stops_the_call_that_it_comes_with(database: PgPool) {
    let world = World::new(database).await;
    let run = {
        let revision = publish(&world).await;
        begin(&world, revision).await
    };
    let odd = ShadowDifference { route: "nul \0 ".repeat(200), count: u64::MAX, ..difference("", 1) };
    let mut many: Vec<_> = (0..5_000).map(|number| difference(&format!("r{number}"), 1)).collect();
    many.insert(0, odd.clone());
    many.insert(0, odd);
    many.insert(0, difference("none", 0));
    Worker::new().says(&world, compared(run, u64::MAX, many)).await;
    let told = report(&world).await;
    assert!(told["compared"].as_i64().unwrap() > 0);
    assert_eq!(told["differences"].as_array().map(Vec::len), Some(200));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_run_ends_when_its_revision_is_activated_and_begins_anew_when_another_is(database: PgPool) {
    let world = World::new(database).await;
    let (second, third) = (publish(&world).await, publish(&world).await);
    begin(&world, third).await;
    Worker::new().says(&world, compared(1, 100, vec![difference("x", 1)])).await;
    let activate = async |revision: i64| {
        let path = format!("/admin/v1/policies/{revision}/activation");
        assert_eq!(world.post(&path, &json!({ "reason": "a test" })).await.status, StatusCode::CREATED);
    };
    activate(second).await;
    let told = report(&world).await;
    assert_eq!(
        (&told["number"], &told["active_revision"], &told["compared"]),
        (&json!(2), &json!(second), &json!(0)),
        "counts are not mixed"
    );
    assert_eq!(world.state.policy().version.shadow, 2);
    activate(third).await;
    let told = report(&world).await;
    assert_eq!((&told["running"], &told["number"]), (&json!(false), &json!(2)));
    let policy = world.state.policy();
    assert_eq!((policy.version.shadow, policy.loaded.shadow.is_none()), (3, true));
    let itself = world.post("/admin/v1/policies/shadow", &json!({ "revision": third, "reason": "a test" })).await;
    assert_eq!(itself.status, StatusCode::CONFLICT, "it is in force");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_run_ends_by_itself_when_its_time_is_over(database: PgPool) {
    let world = World::new(database.clone()).await;
    let revision = publish(&world).await;
    let body = |seconds: u64| json!({ "revision": revision, "reason": "a minute", "duration_s": seconds });
    for bad in [0, 2_592_001] {
        assert_eq!(world.post("/admin/v1/policies/shadow", &body(bad)).await.status, StatusCode::BAD_REQUEST);
    }
    assert_eq!(world.post("/admin/v1/policies/shadow", &body(1)).await.status, StatusCode::CREATED);
    assert!(!store::end_due(&database).await.unwrap(), "not yet");
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let (one, other) = tokio::join!(store::end_due(&database), store::end_due(&database));
    assert_ne!(one.unwrap(), other.unwrap(), "one of two replicas ends it");
    follow::refresh(&world.state).await.unwrap();
    assert_eq!((world.state.policy().version.shadow, world.state.policy().loaded.shadow.is_none()), (2, true));
    assert_eq!(report(&world).await["running"], false);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_does_not_compile_here_is_not_looked_at(database: PgPool) {
    let world = World::new(database.clone()).await;
    publish(&world).await;
    for statement in [
        "ALTER TABLE policy_revisions DISABLE TRIGGER ALL",
        "UPDATE policy_revisions SET files = jsonb_set(files, '{settings.yaml}', '\"settings: {no_route_status: 200}\"') WHERE revision = 2",
    ] {
        sqlx::query(statement).execute(&database).await.unwrap();
    }
    let refused = world.post("/admin/v1/policies/shadow", &json!({ "revision": 2, "reason": "a test" })).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{refused:?}");
    assert_eq!(world.post("/admin/v1/policies/shadow", &json!({ "revision": 9, "reason": "a test" })).await.status, StatusCode::NOT_FOUND);
    // One that compiled when it began and does not any more leaves the active one alone.
    sqlx::query("INSERT INTO policy_shadows (revision, active_revision, author_issuer, author, reason) VALUES (2, 1, 'i', 's', 'r')")
        .execute(&database)
        .await
        .unwrap();
    follow::refresh(&world.state).await.unwrap();
    let policy = world.state.policy();
    assert_eq!((policy.version.shadow, policy.loaded.shadow.is_none()), (1, true));
}

#[sqlx::test(migrations = "../migrations")]
async fn counts_of_a_run_are_forgotten_a_month_after_its_end(database: PgPool) {
    let world = World::new(database.clone()).await;
    let revision = publish(&world).await;
    let run = begin(&world, revision).await;
    Worker::new().says(&world, compared(run, 5, vec![difference("x", 1)])).await;
    world.post("/admin/v1/policies/shadow/end", &json!({ "reason": "seen enough" })).await;
    assert_eq!(store::forget(&database).await.unwrap(), 0);
    for statement in ["ALTER TABLE policy_shadows DISABLE TRIGGER ALL", "UPDATE policy_shadows SET at = at - interval '31 days'"] {
        sqlx::query(statement).execute(&database).await.unwrap();
    }
    assert_eq!(store::forget(&database).await.unwrap(), 2);
}
