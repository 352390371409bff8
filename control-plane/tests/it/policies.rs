//! Policies over real Postgres and Valkey: start, publication, activation, rollback, explanation and the bundle poll.

use crate::support::{ENVOY_TOKEN, OTHER_ENVOY_TOKEN, World, admin_token, ops_token, send};
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use control_plane::notifications;
use control_plane::policies::{follow, store};
use control_plane::start::StartError;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::time::{Duration, Instant};
use wire::bundle::Bundle;

/// The number of rows that say so.
async fn count(database: &PgPool, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(database).await.unwrap()
}

async fn publish(world: &World, files: &Value) -> i64 {
    let answer = world.post("/admin/v1/policies", &json!({ "files": files, "reason": "a test" })).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer.json()["revision"].as_i64().unwrap()
}

async fn activate(world: &World, revision: i64) -> i64 {
    let path = format!("/admin/v1/policies/{revision}/activation");
    let answer = world.post(&path, &json!({ "reason": "a test" })).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer.json()["activation"].as_i64().unwrap()
}

/// The shipped files with one text replaced.
fn edited(world: &World, file: &str, from: &str, to: &str) -> Value {
    let mut files = world.files();
    let text = files[file].as_str().unwrap();
    assert!(text.contains(from), "{file} does not contain {from:?}");
    files[file] = text.replacen(from, to, 1).into();
    files
}

#[sqlx::test(migrations = "../migrations")]
async fn the_directory_is_published_once_and_again_when_it_changed(database: PgPool) {
    let world = World::new(database.clone()).await;
    assert_eq!(world.state.policy().version.activation, 1);
    let world = world.restarted().await.unwrap();
    assert_eq!(world.state.policy().version.activation, 1, "unchanged: nothing to publish");
    world.edit("settings.yaml", "no_route_status: 404", "no_route_status: 403");
    let world = world.restarted().await.unwrap();
    assert_eq!(world.state.policy().version.activation, 2);
    assert_eq!(world.state.policy().loaded.policy.settings().no_route_status, 403);
    assert_eq!(count(&database, "SELECT count(*) FROM admin_events WHERE actor_subject = 'policies-directory'").await, 4);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_the_api_activated_survives_a_restart(database: PgPool) {
    let world = World::new(database).await;
    let files = edited(&world, "settings.yaml", "no_route_status: 404", "no_route_status: 403");
    let revision = publish(&world, &files).await;
    assert_eq!(activate(&world, revision).await, 2);
    let world = world.restarted().await.unwrap();
    assert_eq!(world.state.policy().version.revision, 2);
    assert_eq!(activate(&world, 1).await, 3, "a rollback is a new activation");
    let world = world.restarted().await.unwrap();
    assert_eq!((world.state.policy().version.revision, world.state.policy().version.activation), (1, 3));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_bad_directory_keeps_the_active_policy_and_is_shown(database: PgPool) {
    let world = World::new(database).await;
    world.edit("roles.yaml", "permissions:", "permisions:");
    let world = world.restarted().await.unwrap();
    assert_eq!(world.state.policy().version.activation, 1);
    let ready = world.get("/ready").await;
    assert_eq!(ready.status, StatusCode::OK, "{ready:?}");
    let fault = &ready.json()["policy"]["directory_fault"];
    assert_eq!(fault["file"], "roles.yaml");
    assert_eq!(fault["field"], "roles[admin].permisions");
    assert!(fault["line"].as_u64().is_some_and(|line| line > 0));
    let metrics = world.get("/metrics").await;
    assert!(String::from_utf8_lossy(&metrics.body).contains("gateway_control_plane_policy_fault 1"));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_bad_directory_and_nothing_active_does_not_start(database: PgPool) {
    let world = World::new(database.clone()).await;
    world.edit("roles.yaml", "permissions:", "permisions:");
    // As a new installation has it: nothing was ever activated. The history is append-only, so its guards go first.
    for statement in [
        "ALTER TABLE policy_activations DISABLE TRIGGER ALL",
        "ALTER TABLE policy_revisions DISABLE TRIGGER ALL",
        "DELETE FROM policy_activations",
        "DELETE FROM policy_revisions",
    ] {
        sqlx::query(statement).execute(&database).await.unwrap();
    }
    let Err(error) = world.restarted().await else { panic!("started without a policy") };
    let StartError::Policy(fault) = error else { panic!("{error:?}") };
    assert_eq!(fault.file.as_deref(), Some("roles.yaml"));
    assert_eq!(fault.field.as_deref(), Some("roles[admin].permisions"));
}

#[sqlx::test(migrations = "../migrations")]
async fn history_cannot_be_changed(database: PgPool) {
    let _world = World::new(database.clone()).await;
    for statement in [
        "UPDATE policy_revisions SET author = 'other'",
        "DELETE FROM policy_activations",
        "TRUNCATE admin_events",
        "UPDATE key_sets SET fingerprint = decode(repeat('00', 32), 'hex')",
    ] {
        let refused = sqlx::query(statement).execute(&database).await;
        assert!(refused.is_err(), "{statement}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn an_unknown_field_names_file_line_and_field_and_changes_nothing(database: PgPool) {
    let world = World::new(database.clone()).await;
    let files = edited(&world, "settings.yaml", "no_route_status:", "no_rout_status:");
    for (path, body) in
        [("/admin/v1/policies", json!({ "files": files, "reason": "a test" })), ("/admin/v1/policies/validate", json!({ "files": files }))]
    {
        let refused = world.post(path, &body).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{refused:?}");
        assert_eq!(refused.header("content-type"), "application/problem+json");
        let problem = refused.json();
        assert_eq!(problem["type"], "https://waooaw.com/errors/invalid-policy");
        assert_eq!(problem["file"], "settings.yaml");
        assert_eq!(problem["field"], "settings.no_rout_status");
        assert!(problem["line"].as_u64().is_some_and(|line| line > 1), "{problem}");
    }
    assert_eq!(count(&database, "SELECT count(*) FROM policy_revisions").await, 1);
    assert_eq!(world.state.policy().version.revision, 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_name_that_refers_to_nothing_names_its_place(database: PgPool) {
    let world = World::new(database).await;
    let files = edited(&world, "routes/admin-api.yaml", "permission: audit.read", "permission: audit.raed");
    let problem = world.post("/admin/v1/policies/validate", &json!({ "files": files })).await.json();
    assert_eq!(problem["file"], "routes/admin-api.yaml", "{problem}");
    assert_eq!(problem["field"], "routes[audit.query].permission", "{problem}");
    assert!(problem["line"].as_u64().is_some_and(|line| line > 1), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("audit.read"), "the nearest name is offered: {problem}");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_missing_secret_names_issuer_key_and_secret(database: PgPool) {
    let world = World::new(database).await;
    let files = edited(&world, "issuers.yaml", "secret: cp-1.public.pem", "secret: cp-2.public.pem");
    let problem = world.post("/admin/v1/policies/validate", &json!({ "files": files })).await.json();
    let detail = problem["detail"].as_str().unwrap();
    for part in ["issuers[cp]", "keys[cp-1]", "`cp-2.public.pem`"] {
        assert!(detail.contains(part), "{detail}");
    }
    assert_eq!(problem["file"], "issuers.yaml");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_secret_that_is_no_key_is_refused_without_showing_it(database: PgPool) {
    let world = World::new(database).await;
    let secret = world.directory.path().join("secrets/not-a-key");
    std::fs::write(secret, "hunter2hunter2").unwrap();
    for (from, what) in [("secret: legacy-1.secret", "legacy-1"), ("secret: cp-1.public.pem", "cp-1")] {
        let files = edited(&world, "issuers.yaml", from, "secret: not-a-key");
        let refused = world.post("/admin/v1/policies/validate", &json!({ "files": files })).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{refused:?}");
        let text = String::from_utf8_lossy(&refused.body);
        assert!(text.contains(what) && !text.contains("hunter2"), "{text}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn refuses_a_policy_that_locks_its_author_out(database: PgPool) {
    let world = World::new(database.clone()).await;
    let without_permission = edited(&world, "roles.yaml", "permissions: [\"*\"]", "permissions: [policy.publish]");
    let other_gateway = edited(&world, "issuers.yaml", "gateways: [ADMIN]", "gateways: [PP]");
    let other_route = edited(&world, "routes/admin-api.yaml", "path: /admin/v1/policies/{revision}/activation", "path: /elsewhere");
    for files in [without_permission, other_gateway, other_route] {
        let refused = world.post("/admin/v1/policies", &json!({ "files": files, "reason": "a test" })).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{refused:?}");
        assert_eq!(refused.json()["type"], "https://waooaw.com/errors/policy-locks-out-author", "{refused:?}");
    }
    assert_eq!(count(&database, "SELECT count(*) FROM policy_revisions").await, 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn nobody_activates_a_policy_that_locks_them_out(database: PgPool) {
    let world = World::new(database.clone()).await;
    let files = edited(&world, "roles.yaml", "permissions: [\"*\"]\n", "permissions: [policy.publish]\n");
    // Published around the API, which would have refused it.
    let files: control_plane::policies::Files = serde_json::from_value(files).unwrap();
    let mut transaction = database.begin().await.unwrap();
    let actor = control_plane::admin_events::Actor::CONTROL_PLANE;
    store::revision_publish(&mut transaction, &files, store::Origin::Api, actor, "a test").await.unwrap();
    transaction.commit().await.unwrap();
    let refused = world.post("/admin/v1/policies/2/activation", &json!({ "reason": "a test" })).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{refused:?}");
    assert_eq!(refused.json()["type"], "https://waooaw.com/errors/policy-locks-out-author");
    assert_eq!(world.state.policy().version.revision, 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_activation_that_expects_another_is_refused(database: PgPool) {
    let world = World::new(database.clone()).await;
    let path = "/admin/v1/policies/1/activation";
    assert_eq!(world.post(path, &json!({ "reason": "a test", "expected_activation": 1 })).await.status, StatusCode::CREATED);
    let refused = world.post(path, &json!({ "reason": "a test", "expected_activation": 1 })).await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "{refused:?}");
    assert_eq!(refused.json()["type"], "https://waooaw.com/errors/conflict");
    assert_eq!(count(&database, "SELECT count(*) FROM policy_activations").await, 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn of_two_that_expect_the_same_activation_one_wins(database: PgPool) {
    let world = World::new(database).await;
    let body = json!({ "reason": "a test", "expected_activation": 1 });
    let call = || world.post("/admin/v1/policies/1/activation", &body);
    let (one, other) = tokio::join!(call(), call());
    let mut statuses = [one.status, other.status];
    statuses.sort();
    assert_eq!(statuses, [StatusCode::CREATED, StatusCode::CONFLICT]);
}

#[sqlx::test(migrations = "../migrations")]
async fn every_change_is_recorded_with_who_and_why(database: PgPool) {
    let world = World::new(database.clone()).await;
    let files = world.files();
    let revision = publish(&world, &files).await;
    activate(&world, revision).await;
    let events: Vec<(String, String, String, String, String)> =
        sqlx::query_as("SELECT action, target, actor_issuer, actor_subject, reason FROM admin_events ORDER BY id DESC LIMIT 2")
            .fetch_all(&database)
            .await
            .unwrap();
    let event = |action: &str| (action.to_owned(), "2".to_owned(), "ops".to_owned(), "subject-1".to_owned(), "a test".to_owned());
    assert_eq!(events, [event("policy.activate"), event("policy.publish")]);
}

#[sqlx::test(migrations = "../migrations")]
async fn revisions_are_listed_newest_first_and_read_with_their_files(database: PgPool) {
    let world = World::new(database).await;
    let files = world.files();
    publish(&world, &files).await;
    let list = world.get("/admin/v1/policies").await.json();
    let summary: Vec<_> = list.as_array().unwrap().iter().map(|row| (row["revision"].as_i64(), row["active"].as_bool())).collect();
    assert_eq!(summary, [(Some(2), Some(false)), (Some(1), Some(true))]);
    assert_eq!(list[0]["content_sha256"], list[1]["content_sha256"]);
    let page = world.get("/admin/v1/policies?limit=1&before=2").await.json();
    assert_eq!(page.as_array().map(Vec::len), Some(1));
    let detail = world.get("/admin/v1/policies/2").await.json();
    assert_eq!(detail["files"], files);
    assert_eq!(world.get("/admin/v1/policies/99").await.status, StatusCode::NOT_FOUND);
    for bad in ["/admin/v1/policies?limit=0", "/admin/v1/policies?limit=201", "/admin/v1/policies?limt=1", "/admin/v1/policies/x"] {
        assert_eq!(world.get(bad).await.status, StatusCode::BAD_REQUEST, "{bad}");
    }
    for (list, max) in [("approvals", 200), ("webhooks/deliveries", 200), ("revocations", 1_000), ("budgets", 1_000), ("audit", 1_000)] {
        for (limit, status) in [(0, StatusCode::BAD_REQUEST), (max, StatusCode::OK), (max + 1, StatusCode::BAD_REQUEST)] {
            assert_eq!(world.get(&format!("/admin/v1/{list}?limit={limit}")).await.status, status, "{list}: {limit}");
        }
    }
    let active = world.get("/admin/v1/policies/active").await.json();
    assert_eq!((active["activation"].as_i64(), active["revision"].as_i64()), (Some(1), Some(1)));
}

#[sqlx::test(migrations = "../migrations")]
async fn bad_bodies_are_answered_with_problems(database: PgPool) {
    let world = World::new(database).await;
    let token = admin_token();
    for (body, status) in [
        (json!({ "files": {}, "reason": "r" }), StatusCode::UNPROCESSABLE_ENTITY),
        (json!({ "files": { "../x.yaml": "" }, "reason": "r" }), StatusCode::UNPROCESSABLE_ENTITY),
        (json!({ "files": { "x.txt": "" }, "reason": "r" }), StatusCode::UNPROCESSABLE_ENTITY),
        (json!({ "files": { "x.yaml": ":" }, "reason": " " }), StatusCode::BAD_REQUEST),
        (json!({ "files": { "x.yaml": "" } }), StatusCode::BAD_REQUEST),
        (json!({ "files": { "x.yaml": "" }, "reason": "r", "extra": 1 }), StatusCode::BAD_REQUEST),
        (json!({ "files": { "x.yaml": "#".repeat(5 << 20) }, "reason": "r" }), StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let refused = world.admin_call(Method::POST, "/admin/v1/policies", Some(&token), Some(&body)).await;
        assert_eq!(refused.status, status, "{refused:?}");
        assert_eq!(refused.header("content-type"), "application/problem+json");
    }
    assert_eq!(world.get("/admin/v1/nothing").await.status, StatusCode::NOT_FOUND);
    let wrong_method = world.admin_call(Method::DELETE, "/admin/v1/policies/1", Some(&token), None).await;
    assert_eq!(wrong_method.status, StatusCode::METHOD_NOT_ALLOWED, "{wrong_method:?}");
    assert_eq!(wrong_method.header("content-type"), "application/problem+json");
}

#[sqlx::test(migrations = "../migrations")]
async fn tokens_of_other_issuers_open_nothing(database: PgPool) {
    let world = World::new(database).await;
    let good = ops_token(&["admin"]);
    let (head, signature) = good.rsplit_once('.').unwrap();
    let forged = format!("{head}.{}", signature.chars().rev().collect::<String>());
    let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", head.split_once('.').unwrap().1);
    for token in ["x", forged.as_str(), unsigned.as_str()] {
        let refused = world.admin_call(Method::GET, "/admin/v1/policies", Some(token), None).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{refused:?}");
        assert_eq!(refused.header("www-authenticate"), "Bearer error=\"invalid_token\"");
    }
    let nobody = world.admin_call(Method::GET, "/admin/v1/policies", Some(&ops_token(&["nobody"])), None).await;
    assert_eq!(nobody.status, StatusCode::UNAUTHORIZED);
    let twice = Request::get("/admin/v1/policies")
        .header("authorization", format!("Bearer {good}"))
        .header("authorization", format!("Bearer {good}"))
        .body(Body::empty())
        .unwrap();
    assert_eq!(send(world.admin(), twice).await.status, StatusCode::UNAUTHORIZED);
}

#[sqlx::test(migrations = "../migrations")]
async fn explains_with_the_code_that_decides(database: PgPool) {
    let world = World::new(database).await;
    let ask = async |question: Value| world.post("/admin/v1/explain", &question).await.json();
    let request = json!({ "gateway": "ADMIN", "method": "GET", "path": "/admin/v1/policies" });
    let with = |more: Value| {
        let mut question = request.clone();
        question.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        question
    };
    let claims = |roles: &[&str]| {
        json!({ "iss": "ops.waooaw.com", "aud": "plant-gateway-admin", "sub": "s", "user_id": "u", "email": "u@example.com",
                "roles": roles, "iat": 1_800_000_000, "exp": 1_800_000_600 })
    };
    let at = "2027-01-15T08:00:01Z";
    let permitted = ask(with(json!({ "claims": claims(&["admin"]), "at": at }))).await;
    assert_eq!((&permitted["decision"], &permitted["rule"]), (&json!("permit"), &json!("policies.list")), "{permitted}");
    assert_eq!((&permitted["forwarded"], &permitted["status"]), (&json!({ "credential": "drop", "exchange": "plain" }), &Value::Null));
    let denied = ask(with(json!({ "claims": claims(&["viewer"]), "at": at }))).await;
    assert_eq!((&denied["reason"], &denied["refused_by"]), (&json!("permission_missing"), &json!("permission")), "{denied}");
    assert_eq!((&denied["status"], &denied["forwarded"]), (&json!(403), &Value::Null), "{denied}");
    let expired = ask(with(json!({ "claims": claims(&["admin"]), "at": "2027-01-15T09:00:00Z" }))).await;
    assert_eq!(expired["reason"], "expired", "{expired}");
    let anonymous = ask(with(json!({ "anonymous": true }))).await;
    assert_eq!(anonymous["reason"], "credential_missing", "{anonymous}");
    let ambiguous = ask(json!({ "gateway": "PP", "method": "GET", "path": "//x", "anonymous": true })).await;
    assert_eq!((&ambiguous["reason"], &ambiguous["refused_by"]), (&json!("ambiguous_path"), &json!("path")), "{ambiguous}");
    let unknown = ask(json!({ "gateway": "PP", "method": "GET", "path": "/nowhere", "anonymous": true })).await;
    assert_eq!(unknown["reason"], "no_route", "{unknown}");
    let both = world.post("/admin/v1/explain", &with(json!({ "anonymous": true, "registered": true }))).await;
    assert_eq!(both.status, StatusCode::BAD_REQUEST);
}

#[sqlx::test(migrations = "../migrations")]
async fn explains_what_becomes_of_an_upgrade(database: PgPool) {
    let directory = World::prepared();
    let world = World::over(database, directory).await.unwrap();
    let mut files = world.files();
    let route = "{ name: socket, gateways: [PP], methods: [GET], path: /socket, require: public, exchange: websocket }";
    files["routes/socket.yaml"] = format!("routes:\n  - {route}\n").into();
    let published = world.post("/admin/v1/policies", &json!({ "files": files, "reason": "a socket" })).await.json();
    let path = format!("/admin/v1/policies/{}/activation", published["revision"]);
    assert_eq!(world.post(&path, &json!({ "reason": "a socket" })).await.status, StatusCode::CREATED);
    for (path, upgrade, reason) in [
        ("/socket", json!("websocket"), "ok"),
        ("/socket", json!(null), "upgrade_refused"),
        ("/socket", json!("other"), "upgrade_refused"),
        ("/api/v1/agents", json!("websocket"), "upgrade_refused"),
        ("/api/v1/agents", json!("other"), "upgrade_refused"),
        ("/api/v1/agents", json!(null), "credential_missing"),
    ] {
        let question = json!({ "gateway": "PP", "method": "GET", "path": path, "anonymous": true, "upgrade": upgrade });
        let answer = world.post("/admin/v1/explain", &question).await.json();
        assert_eq!(answer["reason"], reason, "{question}: {answer}");
    }
    let unknown = json!({ "gateway": "PP", "method": "GET", "path": "/socket", "anonymous": true, "upgrade": "h2c" });
    assert_eq!(world.post("/admin/v1/explain", &unknown).await.status, StatusCode::BAD_REQUEST);
}

#[sqlx::test(migrations = "../migrations")]
async fn the_bundle_is_what_was_activated(database: PgPool) {
    let world = World::new(database).await;
    let answer = world.poll(ENVOY_TOKEN, None, 0).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/vnd.plant-gateway.bundle");
    assert_eq!(answer.header("etag"), format!("\"{}\"", world.state.policy().tag()));
    let bundle = Bundle::decode(&answer.body).unwrap();
    assert_eq!(bundle.version, world.state.policy().version);
    bundle.load().unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn a_bundle_poll_is_held_until_the_time_is_up(database: PgPool) {
    let world = World::new(database).await;
    let tag = world.poll(ENVOY_TOKEN, None, 0).await.header("etag").to_owned();
    let began = Instant::now();
    let answer = world.poll(ENVOY_TOKEN, Some(&tag), 2).await;
    assert_eq!(answer.status, StatusCode::NOT_MODIFIED, "{answer:?}");
    assert!(began.elapsed() >= Duration::from_secs(2));
    assert_eq!(answer.header("etag"), tag);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_activation_by_another_replica_ends_a_held_poll_within_a_second(database: PgPool) {
    let world = World::new(database).await;
    let follower = tokio::spawn(notifications::follow(world.state.clone()));
    let tag = world.poll(ENVOY_TOKEN, None, 0).await.header("etag").to_owned();
    let poll = world.poll(ENVOY_TOKEN, Some(&tag), 10);
    let activation = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        // As another replica does it: by the database alone.
        let mut transaction = world.state.database.begin().await.unwrap();
        store::policies_lock(&mut transaction).await.unwrap();
        let actor = control_plane::admin_events::Actor::CONTROL_PLANE;
        let switch = store::Switch::to(control_plane::policies::Revision(1));
        store::revision_activate(&mut transaction, switch, actor, "a test").await.unwrap();
        transaction.commit().await.unwrap();
        Instant::now()
    };
    let (answer, activated) = tokio::join!(async { (poll.await, Instant::now()) }, activation);
    assert_eq!(answer.0.status, StatusCode::OK, "{answer:?}");
    assert!(answer.1.duration_since(activated) < Duration::from_secs(1), "{:?}", answer.1.duration_since(activated));
    assert_eq!(Bundle::decode(&answer.0.body).unwrap().version.activation, 2);
    world.state.shutdown.cancel();
    follower.await.unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn a_bad_or_revoked_envoy_token_is_refused(database: PgPool) {
    let world = World::new(database.clone()).await;
    let admin = admin_token();
    for token in ["wrong", &admin] {
        let refused = world.poll(token, None, 0).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{refused:?}");
        assert_eq!(refused.header("content-type"), "application/problem+json");
        assert_eq!(refused.header("www-authenticate"), "Bearer error=\"invalid_token\"");
    }
    let missing = Request::get("/data-plane/v1/bundle").body(Body::empty()).unwrap();
    assert_eq!(send(world.data_plane(), missing).await.status, StatusCode::UNAUTHORIZED);

    let tag = world.poll(ENVOY_TOKEN, None, 0).await.header("etag").to_owned();
    let held = world.poll(ENVOY_TOKEN, Some(&tag), 20);
    let revocation = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        sqlx::query("UPDATE envoys SET revoked_at = now() WHERE envoy_id = 'envoy-1'").execute(&database).await.unwrap();
        Instant::now()
    };
    let ((answer, ended), revoked) = tokio::join!(async { (held.await, Instant::now()) }, revocation);
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{answer:?}");
    assert!(ended.duration_since(revoked) < Duration::from_millis(1_500), "{:?}", ended.duration_since(revoked));
    assert_eq!(world.poll(ENVOY_TOKEN, None, 0).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(world.poll(OTHER_ENVOY_TOKEN, None, 0).await.status, StatusCode::OK, "the other Envoy is not concerned");
    let world = world.restarted().await.unwrap();
    assert_eq!(world.poll(ENVOY_TOKEN, None, 0).await.status, StatusCode::UNAUTHORIZED, "a restart does not undo a revocation");
}

#[sqlx::test(migrations = "../migrations")]
async fn stopping_ends_held_polls_at_once(database: PgPool) {
    let world = World::new(database).await;
    let tag = world.poll(ENVOY_TOKEN, None, 0).await.header("etag").to_owned();
    let stop = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.state.shutdown.cancel();
    };
    let began = Instant::now();
    let (answer, ()) = tokio::join!(world.poll(ENVOY_TOKEN, Some(&tag), 20), stop);
    assert_eq!(answer.status, StatusCode::NOT_MODIFIED);
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(world.get("/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_changed_secret_raises_the_key_set_and_nothing_else(database: PgPool) {
    let world = World::new(database).await;
    let before = world.state.policy().version;
    follow::refresh(&world.state).await.unwrap();
    assert_eq!(world.state.policy().version, before, "nothing changed");
    let secret = world.directory.path().join("secrets/cp-registration.secret");
    let original = std::fs::read(&secret).unwrap();
    std::fs::write(&secret, "another registration key").unwrap();
    follow::refresh(&world.state).await.unwrap();
    let rotated = world.state.policy().version;
    assert_eq!(rotated.key_set, before.key_set + 1);
    assert_eq!((rotated.activation, rotated.revision), (before.activation, before.revision));
    std::fs::write(&secret, original).unwrap();
    follow::refresh(&world.state).await.unwrap();
    assert_eq!(world.state.policy().version.key_set, before.key_set + 2, "a set that comes back gets a higher number");
    let world = world.restarted().await.unwrap();
    assert_eq!(world.state.policy().version.key_set, before.key_set + 2, "the same set keeps its number");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_secret_that_disappears_keeps_the_policy_and_is_shown(database: PgPool) {
    let world = World::new(database).await;
    let before = world.state.policy().version;
    let secret = world.directory.path().join("secrets/cp-registration.secret");
    let original = std::fs::read(&secret).unwrap();
    std::fs::remove_file(&secret).unwrap();
    follow::refresh(&world.state).await.unwrap_err();
    assert_eq!(world.state.policy().version, before);
    let ready = world.get("/ready").await;
    assert_eq!(ready.status, StatusCode::OK);
    assert!(ready.json()["policy"]["activation_fault"]["message"].as_str().unwrap().contains("cp-registration.secret"));
    std::fs::write(&secret, original).unwrap();
    follow::refresh(&world.state).await.unwrap();
    assert_eq!(world.get("/ready").await.json()["policy"]["activation_fault"], Value::Null);
}

#[sqlx::test(migrations = "../migrations")]
async fn the_description_names_every_operation_and_its_security(database: PgPool) {
    let world = World::new(database).await;
    let anonymous = Request::get("/openapi.json").body(Body::empty()).unwrap();
    let answer = send(world.admin(), anonymous).await;
    assert_eq!(answer.status, StatusCode::OK);
    let document = answer.json();
    assert_eq!(document["paths"]["/admin/v1/policies"]["post"]["operationId"], "policies.publish");
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
}
