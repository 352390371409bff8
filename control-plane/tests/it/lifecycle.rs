//! The life of a revision over real Postgres: states, history, rollback step by step, comparison, and versions that never go back.

use crate::support::{Answer, ENVOY_TOKEN, World, send};
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use control_plane::app::{AppState, data_plane_app};
use control_plane::policies::follow;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use wire::bundle::Bundle;

/// The shipped files with another status for what matches no route.
fn with_status(world: &World, status: u16) -> Value {
    let mut files = world.files();
    let text = files["settings.yaml"].as_str().unwrap().replacen("no_route_status: 404", &format!("no_route_status: {status}"), 1);
    files["settings.yaml"] = text.into();
    files
}

async fn publish(world: &World, files: &Value) -> i64 {
    let answer = world.post("/admin/v1/policies", &json!({ "files": files, "reason": "a test" })).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer.json()["revision"].as_i64().unwrap()
}

async fn activate(world: &World, revision: i64) {
    let answer = world.post(&format!("/admin/v1/policies/{revision}/activation"), &json!({ "reason": "a test" })).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
}

async fn roll_back(world: &World) -> Answer {
    world.post("/admin/v1/policies/rollback", &json!({ "reason": "it was wrong" })).await
}

async fn states(world: &World) -> Vec<(i64, String)> {
    let list = world.get("/admin/v1/policies").await.json();
    list.as_array().unwrap().iter().map(|row| (row["revision"].as_i64().unwrap(), row["state"].as_str().unwrap().to_owned())).collect()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_revision_is_published_in_shadow_active_and_superseded(database: PgPool) {
    let world = World::new(database).await;
    let revision = publish(&world, &with_status(&world, 403)).await;
    let named = |rows: [(i64, &str); 2]| rows.map(|(revision, state)| (revision, state.to_owned()));
    assert_eq!(states(&world).await, named([(revision, "published"), (1, "active")]));
    world.post("/admin/v1/policies/shadow", &json!({ "revision": revision, "reason": "a look" })).await;
    assert_eq!(states(&world).await, named([(revision, "shadow"), (1, "active")]));
    activate(&world, revision).await;
    assert_eq!(states(&world).await, named([(revision, "active"), (1, "superseded")]));
    assert_eq!(world.get("/admin/v1/policies/1").await.json()["state"], "superseded");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_rollback_goes_back_one_step_and_the_next_one_further(database: PgPool) {
    let world = World::new(database).await;
    let refused = roll_back(&world).await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "{refused:?}");
    assert_eq!(refused.json()["detail"], "no other revision was in force before the active one");
    for status in [403, 403] {
        let revision = publish(&world, &with_status(&world, status)).await;
        activate(&world, revision).await;
    }
    activate(&world, 3).await;
    assert_eq!(world.state.policy().version.activation, 4);
    let back = roll_back(&world).await;
    assert_eq!((back.status, &back.json()["revision"], &back.json()["activation"]), (StatusCode::CREATED, &json!(2), &json!(5)));
    assert_eq!(world.state.policy().version.revision, 2, "and this replica enforces it");
    assert_eq!(roll_back(&world).await.json()["revision"], 1, "not to the one that was rolled back");
    assert_eq!(roll_back(&world).await.status, StatusCode::CONFLICT, "there is nothing before the first");
    activate(&world, 3).await;
    assert_eq!(roll_back(&world).await.json()["revision"], 1, "what was in force before it");
    let history = world.get("/admin/v1/policies/activations?limit=200").await.json();
    let told: Vec<_> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let number = |name: &str| entry[name].as_i64();
            (number("activation").unwrap(), number("revision").unwrap(), number("replaced_revision"), entry["rollback"].as_bool().unwrap())
        })
        .collect();
    assert_eq!(
        told,
        [
            (8, 1, Some(3), true),
            (7, 3, Some(1), false),
            (6, 1, Some(2), true),
            (5, 2, Some(3), true),
            (4, 3, Some(3), false),
            (3, 3, Some(2), false),
            (2, 2, Some(1), false),
            (1, 1, None, false),
        ]
    );
    assert_eq!(
        (&history[0]["reason"], &history[0]["author"], &history[0]["replaced_activation"]),
        (&json!("it was wrong"), &json!("subject-1"), &json!(7))
    );
    let page = world.get("/admin/v1/policies/activations?before=3&limit=1").await.json();
    assert_eq!((page.as_array().map(Vec::len), &page[0]["activation"]), (Some(1), &json!(2)));
    assert_eq!(world.get("/admin/v1/policies/activations?limit=0").await.status, StatusCode::BAD_REQUEST);
}

#[sqlx::test(migrations = "../migrations")]
async fn of_two_rollbacks_at_once_one_wins(database: PgPool) {
    let world = World::new(database.clone()).await;
    for _ in 0..2 {
        let revision = publish(&world, &with_status(&world, 403)).await;
        activate(&world, revision).await;
    }
    let body = json!({ "reason": "it was wrong", "expected_activation": 3 });
    let call = || world.post("/admin/v1/policies/rollback", &body);
    let (one, other) = tokio::join!(call(), call());
    let mut statuses = [one.status, other.status];
    statuses.sort();
    assert_eq!(statuses, [StatusCode::CREATED, StatusCode::CONFLICT]);
    assert_eq!(world.state.policy().version.revision, 2, "one step, not two");
    let events: i64 =
        sqlx::query_scalar("SELECT count(*) FROM admin_events WHERE action = 'policy.rollback'").fetch_one(&database).await.unwrap();
    assert_eq!(events, 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn two_revisions_are_compared_as_text_and_as_decisions(database: PgPool) {
    let world = World::new(database).await;
    let mut files = world.files();
    let routes = files["routes/admin-api.yaml"].as_str().unwrap();
    // Whoever may read policies may also explain.
    let changed = routes.replacen("permission: policy.explain", "permission: agent.view", 1);
    assert_ne!(routes, changed);
    files["routes/admin-api.yaml"] = changed.into();
    let revision = publish(&world, &files).await;
    let started = Instant::now();
    let diff = world.get(&format!("/admin/v1/policies/diff?from=1&to={revision}")).await;
    let took = started.elapsed();
    assert_eq!(diff.status, StatusCode::OK, "{diff:?}");
    let diff = diff.json();
    assert!(diff["text"].as_str().unwrap().starts_with("--- a/routes/admin-api.yaml\n+++ b/routes/admin-api.yaml\n@@"), "{diff}");
    let decisions = diff["decisions"].as_array().unwrap();
    assert!(!decisions.is_empty());
    for change in decisions {
        assert_eq!((&change["gateway"], &change["endpoints"]), (&json!("ADMIN"), &json!(["POST /admin/v1/explain"])), "{change}");
        assert_eq!(change["from"], "deny: permission_missing", "the role admin has everything; others gain: {change}");
    }
    assert!(diff["summary"].as_str().unwrap().contains("decisions change"), "{diff}");
    assert!(diff["changed"].as_u64().unwrap() > 0 && diff["compared"].as_u64().unwrap() > 1_000, "{diff}");
    assert!(took.as_secs() < 10, "{took:?}");
    let same = world.get("/admin/v1/policies/diff?from=1&to=1").await.json();
    assert_eq!((&same["text"], &same["decisions"], &same["changed"]), (&json!(""), &json!([]), &json!(0)));
    for (query, status) in [
        ("from=1&to=99", StatusCode::NOT_FOUND),
        ("from=1&to=draft:9", StatusCode::NOT_FOUND),
        ("from=1&to=x", StatusCode::BAD_REQUEST),
        ("from=1", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(world.get(&format!("/admin/v1/policies/diff?{query}")).await.status, status, "{query}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn no_secret_is_in_revisions_comparisons_or_events(database: PgPool) {
    let world = World::new(database.clone()).await;
    let canary = "canary-of-a-registration-key";
    std::fs::write(world.directory.path().join("secrets/cp-registration.secret"), canary).unwrap();
    follow::refresh(&world.state).await.unwrap();
    let revision = publish(&world, &with_status(&world, 403)).await;
    world.post("/admin/v1/drafts", &json!({ "name": "n", "reason": "r" })).await;
    let mut secrets = vec![canary.to_owned()];
    for entry in std::fs::read_dir(world.directory.path().join("secrets")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        // Of a public key in PEM the first line is no secret, and its body must not be there either.
        secrets.extend(text.lines().filter(|line| line.len() >= 16 && !line.starts_with("-----")).map(str::to_owned));
    }
    let paths = [
        format!("/admin/v1/policies/diff?from=1&to={revision}"),
        "/admin/v1/policies/diff?from=1&to=draft:1".to_owned(),
        format!("/admin/v1/policies/{revision}"),
        "/admin/v1/drafts/1".to_owned(),
        "/admin/v1/policies/enforcement".to_owned(),
    ];
    for path in paths {
        let text = String::from_utf8(world.get(&path).await.body.to_vec()).unwrap();
        assert!(secrets.iter().all(|secret| !text.contains(secret.as_str())), "{path}");
    }
    let events: Vec<String> = sqlx::query_scalar("SELECT detail::text || reason FROM admin_events").fetch_all(&database).await.unwrap();
    assert!(events.iter().all(|event| secrets.iter().all(|secret| !event.contains(secret.as_str()))));
}

/// Another replica over the same database, which has not heard of anything since.
fn lagging(world: &World) -> AppState {
    AppState { active: Arc::new(watch::Sender::new(world.state.policy())), ..world.state.clone() }
}

async fn poll(state: &AppState, known: Option<&str>) -> Answer {
    let mut request = Request::get("/data-plane/v1/bundle?wait_s=0").header(header::AUTHORIZATION, format!("Bearer {ENVOY_TOKEN}"));
    if let Some(tag) = known {
        request = request.header(header::IF_NONE_MATCH, tag);
    }
    send(data_plane_app(state.clone()), request.body(Body::empty()).unwrap()).await
}

#[sqlx::test(migrations = "../migrations")]
async fn a_lagging_replica_never_serves_less_than_a_filter_has(database: PgPool) {
    let world = World::new(database).await;
    let behind = lagging(&world);
    activate(&world, 1).await;
    let revision = publish(&world, &with_status(&world, 403)).await;
    let mut known = poll(&world.state, None).await.header("etag").to_owned();
    for step in ["an activation", "a key set", "a shadow"] {
        let older = poll(&behind, Some(&known)).await;
        assert_eq!(older.status, StatusCode::NOT_MODIFIED, "ahead by {step}: {older:?}");
        assert!(older.body.is_empty());
        follow::refresh(&behind).await.unwrap();
        assert_eq!(poll(&behind, None).await.header("etag"), known, "it has caught up");
        if step == "an activation" {
            std::fs::write(world.directory.path().join("secrets/cp-registration.secret"), "another registration key").unwrap();
            follow::refresh(&world.state).await.unwrap();
        } else {
            world.post("/admin/v1/policies/shadow", &json!({ "revision": revision, "reason": "a look" })).await;
        }
        let newer = poll(&world.state, Some(&known)).await;
        if newer.status == StatusCode::OK {
            assert!(Bundle::decode(&newer.body).unwrap().version.supersedes(&behind.policy().version), "after {step}");
            known = newer.header("etag").to_owned();
        }
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_replica_itself_never_goes_back(database: PgPool) {
    let world = World::new(database.clone()).await;
    activate(&world, 1).await;
    let before = world.state.policy().version;
    // As a database that was restored from a backup of before the activation.
    for statement in ["ALTER TABLE policy_activations DISABLE TRIGGER ALL", "DELETE FROM policy_activations WHERE activation = 2"] {
        sqlx::query(statement).execute(&database).await.unwrap();
    }
    follow::refresh(&world.state).await.unwrap();
    assert_eq!(world.state.policy().version, before);
    let world = world.restarted().await.unwrap();
    let restored = world.state.policy().version;
    assert_eq!((restored.activation, restored.database_id), (1, before.database_id));
    assert!(!restored.supersedes(&before), "filters that have the newer one refuse it");
    let [a, b, c, d, ..] = before.database_id;
    let tag = format!("\"{}.{}.0.{a:02x}{b:02x}{c:02x}{d:02x}\"", before.activation, before.key_set);
    assert_eq!(poll(&world.state, Some(&tag)).await.status, StatusCode::NOT_MODIFIED, "and are not offered it");
}
