//! The gateways' own budget paths, as their users reach them: whose budget is shown, and who may override it.

use crate::support::{Answer, World, ops_token, send, user_token};
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use uuid::Uuid;

const AGENT_1: &str = "agent:agent_id=3:a-1";

async fn spend(pool: &PgPool, budget: &str, scope: &str, window: &str, settled: i64, overrun: i64) {
    sqlx::query(
        "INSERT INTO budget_accounts (budget, scope, window_start, window_end, committed, settled, overrun) \
         VALUES ($1, $2, date_trunc($3, now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC', \
             (date_trunc($3, now() AT TIME ZONE 'UTC') + ('1 ' || $3)::interval) AT TIME ZONE 'UTC', $4, $4, $5)",
    )
    .bind(budget)
    .bind(scope)
    .bind(window)
    .bind(settled)
    .bind(overrun)
    .execute(pool)
    .await
    .unwrap();
}

async fn get(world: &World, path: &str, token: &str) -> (u16, Value) {
    let answer = world.admin_call(Method::GET, path, Some(token), None).await;
    (answer.status.as_u16(), answer.json())
}

#[sqlx::test(migrations = "../migrations")]
async fn the_shapes_are_the_original_s_and_exact(pool: PgPool) {
    let world = World::new(pool.clone()).await;
    spend(&pool, "agent-daily", AGENT_1, "day", 1_234, 1).await;
    spend(&pool, "platform-monthly", "platform", "month", 95_000_001, 0).await;
    let staff = user_token("pp", "staff", &["agent_orchestrator"], json!({}));
    let (status, agent) = get(&world, "/api/v1/budgets/agent/a-1", &staff).await;
    let resets_at = agent["resets_at"].as_str().unwrap().to_owned();
    assert!(resets_at.ends_with("T00:00:00Z"), "{resets_at}");
    let want = json!({
        "agent_id": "a-1", "daily_cap_usd": 1.0, "spent_today_usd": 0.001235, "remaining_today_usd": 0.998765, "resets_at": resets_at,
    });
    assert_eq!((status, agent), (200, want));
    let (status, platform) = get(&world, "/api/v1/budgets/platform", &staff).await;
    let resets_at = platform["resets_at"].as_str().unwrap().to_owned();
    assert!(resets_at.ends_with("-01T00:00:00Z"), "{resets_at}");
    let want = json!({
        "monthly_cap_usd": 100.0, "spent_this_month_usd": 95.000_001, "remaining_usd": 4.999_999, "resets_at": resets_at,
        "alert_threshold_80": true, "alert_threshold_95": true,
    });
    assert_eq!((status, platform), (200, want));
}

/// What an attacker would try: another's id, in every spelling, with every kind of token.
#[sqlx::test(migrations = "../migrations")]
async fn nobody_sees_another_s_budget_without_the_permission_for_it(pool: PgPool) {
    let world = World::new(pool.clone()).await;
    spend(&pool, "agent-daily", AGENT_1, "day", 111_111, 0).await;
    spend(&pool, "agent-daily", "agent:subject=2:cp,5:sub-1", "day", 222_222, 0).await;
    let customer = |subject: &str, more: Value| user_token("cp", subject, &["customer_user"], more);
    let of_agent = customer("sub-1", json!({ "agent_id": "a-1", "customer_id": "c-1" }));
    let of_another = customer("sub-2", json!({ "agent_id": "a-2", "customer_id": "c-1" }));
    let of_none = customer("sub-1", json!({ "customer_id": "c-1" }));
    let read = async |id: &str, token: &str| {
        let (status, body) = get(&world, &format!("/api/v1/budgets/agent/{id}"), token).await;
        (status, body["spent_today_usd"].clone())
    };
    assert_eq!(read("a-1", &of_agent).await, (200, json!(0.111_111)));
    assert_eq!(read("sub-1", &of_none).await, (200, json!(0.222_222)), "charged to the subject where the token names no agent");
    for (id, token) in [
        ("a-1", &of_another),
        ("a-1", &of_none),
        ("sub-1", &of_agent),
        ("sub-1", &of_another),
        ("A-1", &of_agent),
        ("a-3", &of_agent),
        ("a-2", &of_agent),
        ("nobody", &of_none),
        ("subject=2:cp,5:sub-1", &of_agent),
        ("a-1%20", &of_agent),
    ] {
        assert_eq!(read(id, token).await, (403, Value::Null), "{id}");
    }
    for path in
        ["/api/v1/budgets/agent/a-2/../a-1", "/api/v1/budgets/agent/%61-1", "/api/v1/budgets//agent/a-1", "/api/v1/budgets/agent/a-1;x"]
    {
        let (status, body) = get(&world, path, &of_another).await;
        assert!(matches!(status, 400 | 403 | 404) && body["spent_today_usd"].is_null(), "{path}: {status}");
    }
    let admin_of_customer = user_token("cp", "sub-9", &["customer_admin"], json!({ "customer_id": "c-1" }));
    assert_eq!(read("a-1", &admin_of_customer).await.0, 403);
    // A portal cannot mint an administrator of another: the role is not one of its own.
    let minted = user_token("cp", "sub-9", &["customer_user", "admin"], json!({}));
    assert_eq!(read("a-1", &minted).await.0, 403);
    for role in ["agent_orchestrator", "subscription_manager", "admin"] {
        assert_eq!(read("a-1", &user_token("pp", "staff", &[role], json!({}))).await, (200, json!(0.111_111)), "{role}");
    }
    for role in ["helpdesk_agent", "viewer", "industry_manager"] {
        assert_eq!(read("a-1", &user_token("pp", "staff", &[role], json!({}))).await.0, 403, "{role}");
    }
    assert_eq!(read("a-1", &ops_token(&["admin"])).await.0, 200);
    assert_eq!(get(&world, "/api/v1/budgets/platform", &of_agent).await.0, 403);
    // Tokens of the gateways open nothing else here.
    for path in ["/admin/v1/budgets", "/admin/v1/budgets/caps", "/admin/v1/budgets/account?budget=agent-daily&scope=x"] {
        assert_eq!(get(&world, path, &user_token("pp", "staff", &["admin"], json!({}))).await.0, 401, "{path}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_revoked_or_missing_token_shows_nothing(pool: PgPool) {
    let world = World::new(pool).await;
    let token = user_token("cp", "sub-1", &["customer_user"], json!({ "agent_id": "a-1" }));
    let path = "/api/v1/budgets/agent/a-1";
    assert_eq!(get(&world, path, &token).await.0, 200);
    assert_eq!(world.admin_call(Method::GET, path, None, None).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(get(&world, path, &format!("{token}x")).await.0, 401);
    let revocation = json!({ "kind": "agent", "value": "a-1", "reason": "a test" });
    assert_eq!(world.post("/admin/v1/revocations", &revocation).await.status, StatusCode::CREATED);
    assert_eq!(get(&world, path, &token).await.0, 401);
    let trial = json!({ "agent_id": "a-2", "trial_mode": true, "trial_expires_at": "2999-01-01T00:00:00Z" });
    let (status, problem) = get(&world, "/api/v1/budgets/agent/a-2", &user_token("cp", "sub-2", &["customer_user"], trial)).await;
    assert_eq!((status, &problem["detail"]), (403, &json!("trial_restricted")), "users on trial are answered by the sandbox");
}

async fn post(world: &World, path: &str, token: &str, request_id: Option<Uuid>, body: &str) -> Answer {
    let mut request = Request::post(path).header(header::AUTHORIZATION, format!("Bearer {token}"));
    if let Some(id) = request_id {
        request = request.header("x-request-id", id.to_string());
    }
    send(world.admin(), request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_owned())).unwrap()).await
}

/// As the gateway leaves it when it lets an approved request through.
async fn consumed(pool: &PgPool, subject: &str, path: &str, body: &str) -> Uuid {
    let request_id = Uuid::now_v7();
    sqlx::query(
        "INSERT INTO approvals (id, envoy_id, gateway, issuer, subject, method, authority, path, body_sha256, route, action, user_sha256, \
             binding_sha256, requested_by, expires_at, status, decided_at, decided_by_issuer, decided_by_subject, consumed_at, consumed_by, \
             target) \
         VALUES ($1, 'envoy-1', 'PP', 'pp', $2, 'POST', 'pp.test', $3, $4, 'budgets.agent.override', 'budget.override', $4, $5, $1, \
             now() + interval '1 hour', 'consumed', now(), 'ops', 'grace', now(), $6, 'production')",
    )
    .bind(Uuid::now_v7())
    .bind(subject)
    .bind(path)
    .bind(Sha256::digest(body).as_slice())
    .bind(Sha256::digest(request_id).as_slice())
    .bind(request_id)
    .execute(pool)
    .await
    .unwrap();
    request_id
}

#[sqlx::test(migrations = "../migrations")]
async fn an_override_takes_a_governor_or_exactly_what_one_approved_once(pool: PgPool) {
    let world = World::new(pool.clone()).await;
    let path = "/api/v1/budgets/agent/a-1/override";
    let until = &until();
    let body = json!({ "cap_usd": 2.5, "reason": "an emergency", "expires_at": until }).to_string();
    let governor = user_token("pp", "grace", &["admin"], json!({ "governor_agent_id": "g-1" }));
    let admin = user_token("pp", "ada", &["admin"], json!({}));
    let granted = post(&world, path, &governor, None, &body).await;
    assert_eq!(granted.status, StatusCode::CREATED, "{granted:?}");
    let entry = granted.json();
    assert_eq!((&entry["budget"], &entry["scope"], &entry["cap"]), (&json!("agent-daily"), &json!(AGENT_1), &json!(2_500_000)));
    assert_eq!((&entry["author_issuer"], &entry["author"]), (&json!("pp"), &json!("grace")));

    let status = async |path: &str, token: &str, id: Option<Uuid>, body: &str| post(&world, path, token, id, body).await.status.as_u16();
    let other = json!({ "cap_micros": 7, "reason": "an emergency", "expires_at": until }).to_string();
    let id = consumed(&pool, "ada", path, &other).await;
    for (what, token, id, body, path) in [
        ("no approval", &admin, None, &other, path),
        ("one that nobody consumed", &admin, Some(Uuid::now_v7()), &other, path),
        ("another's", &user_token("pp", "eve", &["admin"], json!({})), Some(id), &other, path),
        ("another body", &admin, Some(id), &body, path),
        ("another agent", &admin, Some(id), &other, "/api/v1/budgets/agent/a-2/override"),
        ("the platform", &admin, Some(id), &other, "/api/v1/budgets/platform/override"),
        ("no permission", &user_token("pp", "ada", &["agent_orchestrator"], json!({})), Some(id), &other, path),
        ("a customer", &user_token("cp", "ada", &["customer_admin"], json!({})), Some(id), &other, path),
    ] {
        assert_eq!(status(path, token, id, body).await, 403, "{what}");
    }
    let approved = post(&world, path, &admin, Some(id), &other).await;
    assert_eq!((approved.status.as_u16(), &approved.json()["cap"]), (201, &json!(7)));
    assert_eq!(status(path, &admin, Some(id), &other).await, 200, "repeated by Envoy: the same account");
    assert_eq!(status(path, &governor, None, &body).await, 201, "a newer one replaces");
    assert_eq!(status(path, &admin, Some(id), &other).await, 409, "used once");
    let old = consumed(&pool, "ada", path, &other).await;
    sqlx::query("UPDATE approvals SET consumed_at = now() - interval '1 hour' WHERE consumed_by = $1")
        .bind(old)
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(status(path, &admin, Some(old), &other).await, 403, "long ago");
    let events: Vec<(String, String)> =
        sqlx::query_as("SELECT action, actor_subject FROM admin_events WHERE action LIKE 'budget.%' ORDER BY id")
            .fetch_all(&pool)
            .await
            .unwrap();
    let want = ["grace", "ada", "grace"].map(|who| ("budget.override".to_owned(), who.to_owned()));
    assert_eq!(events, want);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_an_override_asks_for_is_checked(pool: PgPool) {
    let world = World::new(pool).await;
    let governor = user_token("pp", "grace", &["admin"], json!({ "governor_agent_id": "g-1" }));
    let until = &until();
    for body in [
        json!({ "reason": "r", "expires_at": until }),
        json!({ "cap_usd": 1, "cap_micros": 1, "reason": "r", "expires_at": until }),
        json!({ "cap_usd": 0.000_000_1, "reason": "r", "expires_at": until }),
        json!({ "cap_usd": -1, "reason": "r", "expires_at": until }),
        json!({ "cap_usd": 1e300, "reason": "r", "expires_at": until }),
        json!({ "cap_usd": "1", "reason": "r", "expires_at": until }),
        json!({ "cap_usd": 1, "reason": "", "expires_at": until }),
        json!({ "cap_usd": 1, "reason": "r" }),
        json!({ "cap_usd": 1, "reason": "r", "expires_at": "2001-01-01T00:00:00Z" }),
        json!({ "cap_usd": 1, "reason": "r", "expires_at": until, "scope": "platform" }),
    ] {
        let answer = post(&world, "/api/v1/budgets/agent/a-1/override", &governor, None, &body.to_string()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
    }
    let body = json!({ "cap_usd": 0.000_001, "reason": "r", "expires_at": until }).to_string();
    let platform = post(&world, "/api/v1/budgets/platform/override", &governor, None, &body).await;
    assert_eq!((platform.status.as_u16(), &platform.json()["scope"], &platform.json()["cap"]), (201, &json!("platform"), &json!(1)));
    let long = format!("/api/v1/budgets/agent/{}/override", "a".repeat(257));
    assert_eq!(post(&world, &long, &governor, None, &body).await.status, StatusCode::BAD_REQUEST);
}

/// In half a year, in whole seconds.
fn until() -> String {
    let end = time::OffsetDateTime::now_utc() + time::Duration::days(180);
    end.replace_nanosecond(0).unwrap().format(&time::format_description::well_known::Rfc3339).unwrap()
}
