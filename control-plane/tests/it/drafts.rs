//! Drafts over real Postgres: begun, changed by whoever has seen the last version, judged at every step, published or given up.

use crate::support::{Answer, ENVOY_TOKEN, World, admin_token, send};
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};
use sqlx::PgPool;

/// A request with `If-Match`.
async fn conditional(world: &World, method: Method, path: &str, if_match: Option<&str>, body: Option<&Value>) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header(header::AUTHORIZATION, format!("Bearer {}", admin_token()));
    if let Some(version) = if_match {
        request = request.header(header::IF_MATCH, version);
    }
    let body = body.map_or_else(Body::empty, |value| Body::from(value.to_string()));
    send(world.admin(), request.header(header::CONTENT_TYPE, "application/json").body(body).unwrap()).await
}

async fn begin(world: &World, more: Value) -> Answer {
    let mut body = json!({ "name": "more roles", "reason": "a test" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.post("/admin/v1/drafts", &body).await
}

fn edited(world: &World, file: &str, from: &str, to: &str) -> Value {
    let mut files = world.files();
    let text = files[file].as_str().unwrap();
    assert!(text.contains(from), "{file} does not contain {from:?}");
    files[file] = text.replacen(from, to, 1).into();
    files
}

async fn events(database: &PgPool) -> Vec<String> {
    sqlx::query_scalar("SELECT action FROM admin_events WHERE action LIKE 'policy.draft%' ORDER BY id").fetch_all(database).await.unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_draft_goes_from_the_active_revision_to_a_published_one(database: PgPool) {
    let world = World::new(database.clone()).await;
    let begun = begin(&world, json!({})).await;
    assert_eq!(begun.status, StatusCode::CREATED, "{begun:?}");
    assert_eq!((begun.header("etag"), begun.header("location")), ("\"1\"", "/admin/v1/drafts/1"));
    assert_eq!((&begun.json()["base_revision"], &begun.json()["validation"]["valid"]), (&json!(1), &json!(true)));
    let draft = world.get("/admin/v1/drafts/1").await;
    assert_eq!((draft.header("etag"), &draft.json()["files"]), ("\"1\"", &world.files()));
    let files = edited(&world, "settings.yaml", "no_route_status: 404", "no_route_status: 403");
    let saved =
        conditional(&world, Method::PUT, "/admin/v1/drafts/1", Some("\"1\""), Some(&json!({ "files": files, "reason": "hide" }))).await;
    assert_eq!((saved.status, saved.header("etag")), (StatusCode::OK, "\"2\""), "{saved:?}");
    assert_eq!(world.get("/admin/v1/drafts").await.json()[0]["reason"], "hide");
    let diff = world.get("/admin/v1/policies/diff?from=1&to=draft:1").await.json();
    assert!(diff["text"].as_str().unwrap().contains("\n-  no_route_status: 404 "), "{diff}");
    let published = world.post("/admin/v1/drafts/1/publication", &json!({ "reason": "ready", "expected_active_revision": 1 })).await;
    assert_eq!((published.status, published.header("location")), (StatusCode::CREATED, "/admin/v1/policies/2"), "{published:?}");
    assert_eq!((&published.json()["state"], &published.json()["reason"]), (&json!("published"), &json!("ready")));
    assert_eq!(world.get("/admin/v1/policies/2").await.json()["files"], files);
    assert_eq!(world.get("/admin/v1/drafts/1").await.status, StatusCode::NOT_FOUND, "it became a revision");
    assert_eq!(world.state.policy().version.revision, 1, "which is not in force before it is activated");
    assert_eq!(events(&database).await, ["policy.draft.create", "policy.draft.save", "policy.draft.publish"]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_bad_draft_is_kept_and_judged_and_never_reaches_a_filter(database: PgPool) {
    let world = World::new(database.clone()).await;
    let before = world.poll(ENVOY_TOKEN, None, 0).await;
    let files = edited(&world, "settings.yaml", "no_route_status:", "no_rout_status:");
    let begun = begin(&world, json!({ "files": files })).await;
    assert_eq!(begun.status, StatusCode::CREATED, "{begun:?}");
    let expected = json!({ "valid": false, "fault": { "file": "settings.yaml", "line": begun.json()["validation"]["fault"]["line"],
        "field": "settings.no_rout_status", "message": begun.json()["validation"]["fault"]["message"] } });
    assert_eq!(begun.json()["validation"], expected);
    let judged = world.post("/admin/v1/drafts/1/validation", &Value::Null).await;
    assert_eq!((judged.status, judged.json()), (StatusCode::OK, expected));
    let refused = world.post("/admin/v1/drafts/1/publication", &json!({ "reason": "try" })).await;
    assert_eq!((refused.status, &refused.json()["file"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("settings.yaml")));
    let after = world.poll(ENVOY_TOKEN, None, 0).await;
    assert_eq!((after.header("etag"), &after.body), (before.header("etag"), &before.body), "what filters fetch is what it was");
    let revisions: i64 = sqlx::query_scalar("SELECT count(*) FROM policy_revisions").fetch_one(&database).await.unwrap();
    assert_eq!(revisions, 1);
    assert_eq!(world.get("/admin/v1/drafts/1").await.json()["files"], files, "and the draft is still there");
}

#[sqlx::test(migrations = "../migrations")]
async fn what_is_odd_about_a_draft_is_said_at_every_save(database: PgPool) {
    let world = World::new(database).await;
    let files = edited(&world, "permissions.yaml", "  - policy.draft\n", "  - policy.draft\n  - policy.dream\n");
    let saved = begin(&world, json!({ "files": files })).await.json();
    let findings = saved["validation"]["policy"]["findings"].as_array().unwrap();
    let ours: Vec<_> = findings.iter().filter(|finding| finding["field"] == "permissions[policy.dream]").collect();
    assert_eq!(ours.len(), 1, "{findings:?}");
    assert_eq!((&ours[0]["file"], ours[0]["line"].is_u64()), (&json!("permissions.yaml"), true));
    let validated = world.post("/admin/v1/policies/validate", &json!({ "files": files })).await.json();
    assert_eq!(validated["findings"], saved["validation"]["policy"]["findings"], "as validation says");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_change_names_the_version_that_it_is_based_on(database: PgPool) {
    let world = World::new(database).await;
    begin(&world, json!({})).await;
    let change = json!({ "files": world.files(), "reason": "a test" });
    let put = async |version| conditional(&world, Method::PUT, "/admin/v1/drafts/1", version, Some(&change)).await;
    assert_eq!(put(None).await.status, StatusCode::PRECONDITION_REQUIRED);
    assert_eq!(put(Some("\"1\"")).await.status, StatusCode::OK);
    let stale = put(Some("\"1\"")).await;
    assert_eq!(stale.status, StatusCode::PRECONDITION_FAILED, "{stale:?}");
    assert_eq!(stale.json()["type"], "https://waooaw.com/errors/precondition-failed");
    let detail = stale.json()["detail"].as_str().unwrap().to_owned();
    for part in ["version 2", "`subject-1`", "`ops`", "changed it at 20"] {
        assert!(detail.contains(part), "{detail}");
    }
    for bad in ["1", "*", "W/\"1\"", "\"1\", \"2\"", "\"x\""] {
        assert_eq!(put(Some(bad)).await.status, StatusCode::BAD_REQUEST, "{bad}");
    }
    let delete = async |version| conditional(&world, Method::DELETE, "/admin/v1/drafts/1?reason=done", version, None).await.status;
    assert_eq!(delete(None).await, StatusCode::PRECONDITION_REQUIRED);
    assert_eq!(delete(Some("\"1\"")).await, StatusCode::PRECONDITION_FAILED);
    assert_eq!(delete(Some("\"2\"")).await, StatusCode::NO_CONTENT);
    assert_eq!(delete(Some("\"2\"")).await, StatusCode::NOT_FOUND);
    assert_eq!(put(Some("\"2\"")).await.status, StatusCode::NOT_FOUND);
}

#[sqlx::test(migrations = "../migrations")]
async fn of_two_changes_of_one_version_exactly_one_wins(database: PgPool) {
    let world = World::new(database).await;
    begin(&world, json!({})).await;
    let change = json!({ "files": world.files(), "reason": "a test" });
    for round in 1..=5 {
        let version = format!("\"{round}\"");
        let put = || conditional(&world, Method::PUT, "/admin/v1/drafts/1", Some(&version), Some(&change));
        let (one, other, third) = tokio::join!(put(), put(), put());
        let mut statuses = [one.status, other.status, third.status];
        statuses.sort();
        assert_eq!(statuses, [StatusCode::OK, StatusCode::PRECONDITION_FAILED, StatusCode::PRECONDITION_FAILED]);
    }
    let reason = json!({ "reason": "both at once" });
    let publish = || world.post("/admin/v1/drafts/1/publication", &reason);
    let (one, other) = tokio::join!(publish(), publish());
    let mut statuses = [one.status, other.status];
    statuses.sort();
    assert_eq!(statuses, [StatusCode::CREATED, StatusCode::NOT_FOUND], "published once");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_draft_does_not_silently_undo_what_was_activated_meanwhile(database: PgPool) {
    let world = World::new(database).await;
    begin(&world, json!({})).await;
    let files = edited(&world, "settings.yaml", "no_route_status: 404", "no_route_status: 403");
    world.post("/admin/v1/policies", &json!({ "files": files, "reason": "a test" })).await;
    world.post("/admin/v1/policies/2/activation", &json!({ "reason": "a test" })).await;
    let publish = async |more: Value| {
        let mut body = json!({ "reason": "a test" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        world.post("/admin/v1/drafts/1/publication", &body).await
    };
    let refused = publish(json!({})).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.json()["detail"].as_str().unwrap().contains("revision 2 is in force, and the draft is based on revision 1"));
    assert_eq!(publish(json!({ "rebased": true, "expected_active_revision": 1 })).await.status, StatusCode::CONFLICT);
    assert_eq!(publish(json!({ "rebased": true, "expected_active_revision": 2 })).await.status, StatusCode::CREATED);
}

#[sqlx::test(migrations = "../migrations")]
async fn drafts_are_bounded_in_number_size_and_names(database: PgPool) {
    let world = World::new(database.clone()).await;
    for (body, status) in [
        (json!({ "name": " " }), StatusCode::BAD_REQUEST),
        (json!({ "name": "x".repeat(101) }), StatusCode::BAD_REQUEST),
        (json!({ "reason": "" }), StatusCode::BAD_REQUEST),
        (json!({ "files": { "a.yaml": "nul \0" } }), StatusCode::BAD_REQUEST),
        (json!({ "files": { "../a.yaml": "" } }), StatusCode::UNPROCESSABLE_ENTITY),
        (json!({ "files": { "a.yaml": "#".repeat(5 << 20) } }), StatusCode::PAYLOAD_TOO_LARGE),
        (json!({ "base_revision": 99 }), StatusCode::NOT_FOUND),
    ] {
        assert_eq!(begin(&world, body).await.status, status);
    }
    sqlx::query(
        "INSERT INTO policy_drafts (name, base_revision, files, created_issuer, created_by, author_issuer, author, reason) \
         SELECT 'n', 1, '{}', 'i', 's', 'i', 's', 'r' FROM generate_series(1, 99)",
    )
    .execute(&database)
    .await
    .unwrap();
    let (one, other) = tokio::join!(begin(&world, json!({})), begin(&world, json!({})));
    let mut statuses = [one.status, other.status];
    statuses.sort();
    assert_eq!(statuses, [StatusCode::CREATED, StatusCode::CONFLICT], "room for one more");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_draft_that_would_lock_its_author_out_is_not_published(database: PgPool) {
    let world = World::new(database).await;
    begin(&world, json!({})).await;
    let without =
        edited(&world, "routes/admin-api.yaml", "path: /admin/v1/policies/{revision}/activation", "path: /admin/v1/elsewhere/{revision}");
    let change = json!({ "files": without, "reason": "a test" });
    assert_eq!(conditional(&world, Method::PUT, "/admin/v1/drafts/1", Some("\"1\""), Some(&change)).await.status, StatusCode::OK);
    let refused = world.post("/admin/v1/drafts/1/publication", &json!({ "reason": "a test" })).await;
    assert_eq!(refused.json()["type"], "https://waooaw.com/errors/policy-locks-out-author", "{refused:?}");
}
