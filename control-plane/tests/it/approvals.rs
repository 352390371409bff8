//! Approvals on real Postgres: asked for by gateways, decided by governors, used once.

use crate::plane;
use crate::plane::{Holder, state, token};
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use control_plane::app::admin_app;
use control_plane::start::MIGRATOR;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::migrate::Migrate as _;
use std::sync::Arc;
use tower::ServiceExt as _;
use uuid::Uuid;
use wire::policy::{Approvals, Target};
use wire::sync::{ApprovalAsk, ApprovalBinding, ApprovalOutcome, ApprovalRefusal, ApprovalUndo};

fn ask(subject: &str, path: &str, approval_id: Option<&str>) -> ApprovalAsk {
    ApprovalAsk { approval_id: approval_id.map(str::to_owned), ..plane::ask(subject, path, "force=1") }
}

async fn outcomes(holder: &mut Holder, asks: Vec<ApprovalAsk>) -> Vec<ApprovalOutcome> {
    let mut request = holder.request(vec![]);
    let ids: Vec<_> = asks.iter().map(|ask| ask.request_id).collect();
    request.approvals = asks;
    let answers = holder.send(&request).await.unwrap().approvals;
    assert_eq!(answers.iter().map(|answer| answer.request_id).collect::<Vec<_>>(), ids);
    answers.into_iter().map(|answer| answer.outcome).collect()
}

async fn outcome(holder: &mut Holder, ask: ApprovalAsk) -> ApprovalOutcome {
    outcomes(holder, vec![ask]).await.remove(0)
}

fn pending_id(outcome: &ApprovalOutcome) -> String {
    let ApprovalOutcome::Pending { approval_id, url } = outcome else { panic!("not pending: {outcome:?}") };
    assert_eq!(*url, format!("https://admin.test/f%C3%BCr%20alle/approvals/{approval_id}"), "a client can be sent there as it is");
    approval_id.clone()
}

const fn refused(refusal: ApprovalRefusal) -> ApprovalOutcome {
    ApprovalOutcome::Refused(refusal)
}

async fn call(holder: &Holder, method: &str, path: &str, bearer: Option<&str>, body: Option<Value>) -> (StatusCode, String) {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(bearer) = bearer {
        request = request.header(header::AUTHORIZATION, format!("Bearer {bearer}"));
    }
    let body = body.map_or(Body::empty(), |body| Body::from(body.to_string()));
    let request = request.header(header::CONTENT_TYPE, "application/json").body(body).unwrap();
    let response = admin_app(holder.state.clone()).oneshot(request).await.unwrap();
    let status = response.status();
    (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

async fn decide(holder: &Holder, id: &str, bearer: &str, decision: &str) -> u16 {
    let body = json!({"decision": decision, "reason": "looked at it"});
    call(holder, "POST", &format!("/admin/v1/approvals/{id}/decision"), Some(bearer), Some(body)).await.0.as_u16()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_request_is_approved_and_let_through_exactly_once(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let governor = token("grace", "admin", true);
    let id = pending_id(&outcome(&mut holder, ask("ada", "/a", None)).await);
    assert_eq!(pending_id(&outcome(&mut holder, ask("ada", "/a", None)).await), id, "an identical request waits with the first");
    assert_eq!(outcome(&mut holder, ask("ada", "/a", Some(&id))).await, refused(ApprovalRefusal::Undecided));
    assert_eq!(decide(&holder, &id, &governor, "approve").await, 200);
    assert_eq!(decide(&holder, &id, &governor, "reject").await, 409);
    assert_eq!(pending_id(&outcome(&mut holder, ask("ada", "/a", None)).await), id, "the client must present the id");
    for (other, want) in [
        (ask("bob", "/a", Some(&id)), ApprovalRefusal::Unknown),
        (ask("ada", "/b", Some(&id)), ApprovalRefusal::OtherRequest),
        (ask("ada", "/a", Some("no-id")), ApprovalRefusal::Unknown),
        (ask("ada", "/a", Some(&Uuid::nil().to_string())), ApprovalRefusal::Unknown),
        (ask("ada", "/nul\0", None), ApprovalRefusal::Unknown),
    ] {
        assert_eq!(outcome(&mut holder, other).await, refused(want));
    }
    let first = ask("ada", "/a", Some(&id));
    assert_eq!(outcome(&mut holder, first.clone()).await, ApprovalOutcome::Granted);
    assert_eq!(outcome(&mut holder, first).await, ApprovalOutcome::Granted, "the same request gets the same answer");
    assert_eq!(outcome(&mut holder, ask("ada", "/a", Some(&id))).await, refused(ApprovalRefusal::Consumed));
    let events: Vec<(String, String)> =
        sqlx::query_as("SELECT actor_subject, action FROM admin_events WHERE target = $1").bind(&id).fetch_all(&pool).await.unwrap();
    assert_eq!(events, [("grace".to_owned(), "approval.approve".to_owned())]);
}

/// One user may have tokens for several customers, agents and targets, and send one body under several names.
#[sqlx::test(migrations = "../migrations")]
async fn a_grant_is_for_one_customer_agent_target_and_reading_of_the_body(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let id = pending_id(&outcome(&mut holder, ask("ada", "/a", None)).await);
    assert_eq!(decide(&holder, &id, &token("grace", "admin", true), "approve").await, 200);
    let binding = ask("ada", "/a", None).binding;
    let others = [
        ("user id", ApprovalBinding { user_id: "another".into(), ..binding.clone() }),
        ("customer", ApprovalBinding { customer_id: Some("customer-2".into()), ..binding.clone() }),
        ("no customer", ApprovalBinding { customer_id: None, ..binding.clone() }),
        ("agent", ApprovalBinding { agent_id: Some("agent-2".into()), ..binding.clone() }),
        ("no agent", ApprovalBinding { agent_id: None, ..binding.clone() }),
        ("target", ApprovalBinding { target: Target::Sandbox, ..binding.clone() }),
        ("content type", ApprovalBinding { content_type: Some("text/plain".into()), ..binding.clone() }),
        ("no content type", ApprovalBinding { content_type: None, ..binding.clone() }),
        ("content encoding", ApprovalBinding { content_encoding: Some("gzip".into()), ..binding.clone() }),
        ("empty query", ApprovalBinding { query: Some(String::new()), ..binding.clone() }),
        ("no query", ApprovalBinding { query: None, ..binding.clone() }),
        ("body", ApprovalBinding { body_sha256: [4; 32], ..binding.clone() }),
    ];
    for (what, other) in others.clone() {
        let used = ApprovalAsk { binding: other, ..ask("ada", "/a", Some(&id)) };
        assert_eq!(outcome(&mut holder, used).await, refused(ApprovalRefusal::OtherRequest), "{what}");
    }
    let mut ids = std::collections::BTreeSet::from([id.clone()]);
    for (what, other) in others {
        let asked = outcome(&mut holder, ApprovalAsk { binding: other, ..ask("ada", "/a", None) }).await;
        assert!(ids.insert(pending_id(&asked)), "{what} waits for an approval of its own");
    }
    assert_eq!(outcome(&mut holder, ask("ada", "/a", Some(&id))).await, ApprovalOutcome::Granted);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_governor_sees_for_whom_and_where_to_a_request_is(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let id = pending_id(&outcome(&mut holder, ask("ada", "/a", None)).await);
    let approval = shown(&holder, &id).await;
    for (name, value) in [
        ("user_id", json!("id-of-ada")),
        ("customer_id", json!("customer-1")),
        ("agent_id", json!("agent-1")),
        ("target", json!("production")),
        ("content_type", json!("application/json")),
        ("content_encoding", Value::Null),
        ("query", json!("force=1")),
        ("body_sha256", json!("03".repeat(32))),
        ("body_length", json!(12)),
    ] {
        assert_eq!(approval[name], value, "{name}");
    }
    let bare = ask("ada", "/a", None);
    let binding = ApprovalBinding { query: None, customer_id: None, target: Target::Sandbox, ..bare.binding.clone() };
    let id = pending_id(&outcome(&mut holder, ApprovalAsk { binding, ..bare }).await);
    let approval = shown(&holder, &id).await;
    assert_eq!((&approval["query"], &approval["customer_id"], &approval["target"]), (&Value::Null, &Value::Null, &json!("sandbox")));
}

/// Rows from before the migration that bound approvals to more.
#[sqlx::test(migrations = false)]
async fn approvals_from_before_they_were_bound_to_the_customer_are_void(pool: PgPool) {
    const BEFORE: i64 = 7;
    let mut connection = pool.acquire().await.unwrap();
    connection.ensure_migrations_table("_sqlx_migrations").await.unwrap();
    for migration in MIGRATOR.iter().filter(|migration| migration.version <= BEFORE) {
        connection.apply("_sqlx_migrations", migration).await.unwrap_or_else(|error| panic!("{}: {error}", migration.version));
    }
    sqlx::query(
        "INSERT INTO approvals (id, envoy_id, gateway, issuer, subject, method, authority, path, query, body_sha256, route, action, \
             user_sha256, binding_sha256, requested_by, expires_at, status, decided_at, decided_by_issuer, decided_by_subject) \
         SELECT gen_random_uuid(), 'envoy-1', 'PP', 'ops', 'ada', 'DELETE', 'api.test', '/' || status, '', '', 'r', 'a', '', \
                convert_to(status, 'UTF8'), gen_random_uuid(), now() + interval '1 hour', status, now(), 'ops', 'grace' \
         FROM unnest(ARRAY['pending', 'approved', 'rejected']) AS status",
    )
    .execute(&mut *connection)
    .await
    .unwrap();
    drop(connection);
    MIGRATOR.run(&pool).await.unwrap();
    let rows: Vec<(String, String)> = sqlx::query_as("SELECT path, status FROM approvals ORDER BY path").fetch_all(&pool).await.unwrap();
    let row = |path: &str, status: &str| (path.to_owned(), status.to_owned());
    assert_eq!(rows, [row("/approved", "expired"), row("/pending", "expired"), row("/rejected", "rejected")]);
    let told: Vec<(String,)> = sqlx::query_as("SELECT detail->>'was' FROM admin_events WHERE action = 'approval.expire' ORDER BY 1")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(told, [("approved".to_owned(),), ("pending".to_owned(),)]);
}

#[sqlx::test(migrations = "../migrations")]
async fn only_one_of_many_racing_requests_uses_a_grant(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let mut holder = Holder::new(&state).await;
        asking.spawn(async move { pending_id(&outcome(&mut holder, ask("ada", "/a", None)).await) });
    }
    let mut ids = asking.join_all().await;
    ids.dedup();
    assert_eq!(ids.len(), 1, "one pending request, whatever races");
    assert_eq!(decide(&holder, &ids[0], &token("grace", "admin", true), "approve").await, 200);
    let mut using = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (mut holder, id) = (Holder::new(&state).await, ids[0].clone());
        using.spawn(async move { outcome(&mut holder, ask("ada", "/a", Some(&id))).await });
    }
    let granted = using.join_all().await.into_iter().filter(|outcome| *outcome == ApprovalOutcome::Granted).count();
    assert_eq!(granted, 1);
    assert_eq!(outcome(&mut holder, ask("ada", "/a", Some(&ids[0]))).await, refused(ApprovalRefusal::Consumed));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_grant_comes_back_only_for_the_request_that_used_it(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let id = pending_id(&outcome(&mut holder, ask("ada", "/a", None)).await);
    assert_eq!(decide(&holder, &id, &token("grace", "admin", true), "approve").await, 200);
    let used = ask("ada", "/a", Some(&id));
    assert_eq!(outcome(&mut holder, used.clone()).await, ApprovalOutcome::Granted);
    let undo = |request_id| ApprovalUndo { request_id, approval_id: id.clone() };
    let mut foreign = holder.request(vec![]);
    foreign.undos = vec![undo([9; 16])];
    holder.send(&foreign).await.unwrap();
    assert_eq!(outcome(&mut holder, ask("ada", "/a", Some(&id))).await, refused(ApprovalRefusal::Consumed));
    let mut own = holder.request(vec![]);
    own.undos = vec![undo(used.request_id), undo(used.request_id)];
    holder.send(&own).await.unwrap();
    assert_eq!(outcome(&mut holder, ask("ada", "/a", Some(&id))).await, ApprovalOutcome::Granted);
}

#[sqlx::test(migrations = "../migrations")]
async fn rejected_and_old_approvals_are_no_use(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let governor = token("grace", "admin", true);
    let rejected = pending_id(&outcome(&mut holder, ask("ada", "/a", None)).await);
    assert_eq!(decide(&holder, &rejected, &governor, "reject").await, 200);
    assert_eq!(outcome(&mut holder, ask("ada", "/a", Some(&rejected))).await, refused(ApprovalRefusal::Rejected));
    let old = pending_id(&outcome(&mut holder, ask("ada", "/b", None)).await);
    let undecided = pending_id(&outcome(&mut holder, ask("ada", "/c", None)).await);
    assert_eq!(decide(&holder, &old, &governor, "approve").await, 200);
    sqlx::query("UPDATE approvals SET expires_at = now() - interval '1 second' WHERE status IN ('pending', 'approved')")
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(outcome(&mut holder, ask("ada", "/b", Some(&old))).await, refused(ApprovalRefusal::Expired));
    assert_eq!(decide(&holder, &undecided, &governor, "approve").await, 409);
    assert_ne!(pending_id(&outcome(&mut holder, ask("ada", "/b", None)).await), old, "a new one is opened");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_user_has_at_most_twenty_pending_requests(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let asks = (0..21).map(|number| ask("ada", &format!("/{number}"), None)).collect();
    let answers = outcomes(&mut holder, asks).await;
    assert!(answers[..20].iter().all(|outcome| matches!(outcome, ApprovalOutcome::Pending { .. })));
    assert_eq!(answers[20], refused(ApprovalRefusal::TooManyPending));
    pending_id(&outcome(&mut holder, ask("bob", "/0", None)).await);
}

#[sqlx::test(migrations = "../migrations")]
async fn only_another_governor_decides(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let id = pending_id(&outcome(&mut holder, ask("ada", "/<b>", None)).await);
    assert_eq!(decide(&holder, &id, &token("grace", "admin", false), "approve").await, 403);
    assert_eq!(decide(&holder, &id, &token("vera", "viewer", true), "approve").await, 403);
    assert_eq!(decide(&holder, &id, &token("ada", "admin", true), "approve").await, 403);
    assert_eq!(decide(&holder, &Uuid::nil().to_string(), &token("grace", "admin", true), "approve").await, 404);
    let (status, list) = call(&holder, "GET", "/admin/v1/approvals?status=pending", Some(&token("vera", "viewer", false)), None).await;
    assert_eq!((status, list.contains(&id)), (StatusCode::OK, true));
    let (status, one) = call(&holder, "GET", &format!("/admin/v1/approvals/{id}"), Some(&token("vera", "viewer", false)), None).await;
    assert_eq!((status, one.contains("force=1")), (StatusCode::OK, true));
    assert_eq!(call(&holder, "GET", "/admin/v1/approvals", None, None).await.0, StatusCode::UNAUTHORIZED);
}

/// Another section `approvals` is in force from now on.
fn governed(holder: &Holder, approvers: u8) {
    let mut policy = plane::policy(100);
    policy.document.approvals = Some(Approvals { approvers, ..Approvals::default() });
    holder.state.active.send_replace(Arc::new(policy));
}

async fn shown(holder: &Holder, id: &str) -> Value {
    let (status, text) = call(holder, "GET", &format!("/admin/v1/approvals/{id}"), Some(&token("vera", "viewer", false)), None).await;
    assert_eq!(status, StatusCode::OK);
    serde_json::from_str(&text).unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn two_governors_have_to_approve_and_one_refuses(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    governed(&holder, 2);
    let [grace, ann] = ["grace", "ann"].map(|name| token(name, "admin", true));
    let id = pending_id(&outcome(&mut holder, ask("ada", "/a", None)).await);
    assert_eq!(shown(&holder, &id).await["approvals_missing"], 2);
    assert_eq!(decide(&holder, &id, &grace, "approve").await, 200);
    let once = shown(&holder, &id).await;
    assert_eq!((&once["status"], &once["approvals_missing"], &once["decided_at"]), (&json!("pending"), &json!(1), &Value::Null));
    assert_eq!((&once["decisions"][0]["subject"], &once["decisions"][0]["decision"]), (&json!("grace"), &json!("approve")));
    assert_eq!(outcome(&mut holder, ask("ada", "/a", Some(&id))).await, refused(ApprovalRefusal::Undecided), "one of two is no grant");
    for again in ["approve", "reject"] {
        assert_eq!(decide(&holder, &id, &grace, again).await, 409, "{again}: nobody decides twice");
    }
    assert_eq!(decide(&holder, &id, &token("ada", "admin", true), "approve").await, 403, "nor for oneself");
    assert_eq!(decide(&holder, &id, &ann, "approve").await, 200);
    let twice = shown(&holder, &id).await;
    assert_eq!(
        (&twice["status"], &twice["approvals_missing"], &twice["decided_by_subject"]),
        (&json!("approved"), &json!(0), &json!("ann"))
    );
    assert_eq!(outcome(&mut holder, ask("ada", "/a", Some(&id))).await, ApprovalOutcome::Granted);

    let id = pending_id(&outcome(&mut holder, ask("ada", "/b", None)).await);
    assert_eq!(decide(&holder, &id, &grace, "approve").await, 200);
    assert_eq!(decide(&holder, &id, &ann, "reject").await, 200);
    assert_eq!(outcome(&mut holder, ask("ada", "/b", Some(&id))).await, refused(ApprovalRefusal::Rejected), "one refusal is enough");
    let events: Vec<(String, String, Value)> =
        sqlx::query_as("SELECT actor_subject, action, detail->'approvals_missing' FROM admin_events WHERE target = $1 ORDER BY id")
            .bind(&id)
            .fetch_all(&pool)
            .await
            .unwrap();
    let event = |who: &str, what: &str, missing: i32| (who.to_owned(), what.to_owned(), json!(missing));
    assert_eq!(events, [event("grace", "approval.approve", 1), event("ann", "approval.reject", 0)]);
}

#[sqlx::test(migrations = "../migrations")]
async fn the_stricter_of_both_settings_counts(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let [grace, ann] = ["grace", "ann"].map(|name| token(name, "admin", true));
    governed(&holder, 2);
    let strict = pending_id(&outcome(&mut holder, ask("ada", "/strict", None)).await);
    governed(&holder, 1);
    assert_eq!(decide(&holder, &strict, &grace, "approve").await, 200);
    assert_eq!(shown(&holder, &strict).await["status"], "pending", "a lowered setting weakens nothing that waits");
    let lax = pending_id(&outcome(&mut holder, ask("ada", "/lax", None)).await);
    governed(&holder, 2);
    assert_eq!(shown(&holder, &lax).await["approvers_needed"], 2);
    assert_eq!(decide(&holder, &lax, &grace, "approve").await, 200);
    assert_eq!(shown(&holder, &lax).await["status"], "pending", "a raised one counts at once");
    for id in [&strict, &lax] {
        assert_eq!(decide(&holder, id, &ann, "approve").await, 200);
        assert_eq!(shown(&holder, id).await["status"], "approved");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn governors_who_decide_at_once_all_count_and_one_of_them_completes(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    governed(&holder, 2);
    for round in 0..5 {
        let id = pending_id(&outcome(&mut holder, ask("ada", &format!("/{round}"), None)).await);
        let mut deciding = tokio::task::JoinSet::new();
        for name in ["grace", "grace", "ann", "ann"] {
            let (holder, id) = (holder.clone(), id.clone());
            deciding.spawn(async move { decide(&holder, &id, &token(name, "admin", true), "approve").await });
        }
        let mut statuses = deciding.join_all().await;
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 200, 409, 409]);
        let decided = shown(&holder, &id).await;
        assert_eq!((&decided["status"], decided["decisions"].as_array().unwrap().len()), (&json!("approved"), 2));
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn decisions_are_never_changed_and_never_by_the_requester(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let id = pending_id(&outcome(&mut holder, ask("ada", "/a", None)).await);
    let own = "INSERT INTO approval_decisions (approval, governor_issuer, governor_subject, decision, reason) \
               SELECT id, issuer, subject, 'approve', 'x' FROM approvals";
    assert!(sqlx::query(own).execute(&pool).await.unwrap_err().to_string().contains("nobody decides on an own request"));
    assert_eq!(decide(&holder, &id, &token("grace", "admin", true), "reject").await, 200);
    for change in ["UPDATE approval_decisions SET decision = 'approve'", "DELETE FROM approval_decisions"] {
        assert!(sqlx::query(change).execute(&pool).await.unwrap_err().to_string().contains("never changed"), "{change}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn what_expires_or_comes_back_is_recorded(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let id = pending_id(&outcome(&mut holder, ask("ada", "/a", None)).await);
    assert_eq!(decide(&holder, &id, &token("grace", "admin", true), "approve").await, 200);
    let used = ask("ada", "/a", Some(&id));
    assert_eq!(outcome(&mut holder, used.clone()).await, ApprovalOutcome::Granted);
    let mut giving_back = holder.request(vec![]);
    giving_back.undos = vec![ApprovalUndo { request_id: used.request_id, approval_id: id.clone() }];
    holder.send(&giving_back).await.unwrap();
    sqlx::query("UPDATE approvals SET expires_at = now() - interval '1 second'").execute(&pool).await.unwrap();
    assert_eq!(control_plane::approvals::store::expire(&pool).await.unwrap(), 1);
    assert_eq!(control_plane::approvals::store::expire(&pool).await.unwrap(), 0);
    let actions: Vec<(String,)> =
        sqlx::query_as("SELECT action FROM admin_events WHERE target = $1 ORDER BY id").bind(&id).fetch_all(&pool).await.unwrap();
    assert_eq!(actions.iter().map(|(action,)| &**action).collect::<Vec<_>>(), ["approval.approve", "approval.undo", "approval.expire"]);
}
