//! Thresholds on real Postgres and Valkey: once per account, window and level, whoever notices it and however often.

use crate::plane;
use crate::plane::{Holder, token};
use axum::body::Body;
use axum::http::{Request, header};
use control_plane::app::{AppState, admin_app};
use control_plane::budgets::alerts::Telling;
use control_plane::holders::close_one_silent;
use control_plane::revocations;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt as _;
use uuid::Uuid;
use wire::policy::{Reporting, Webhook};
use wire::sync::AccountReport;

fn agent_scope(agent: &str) -> String {
    format!("agent:agent_id={}:{agent}", agent.len())
}

fn new_agent() -> (String, String) {
    let agent = format!("a-{}", Uuid::now_v7());
    (agent_scope(&agent), agent)
}

/// With a webhook for thresholds.
async fn state(pool: &PgPool) -> AppState {
    let state = plane::state(pool, 100).await;
    let mut policy = plane::policy(100);
    let webhook = Webhook { url: "https://hooks.test/budgets".into(), secret: "hook".into() };
    policy.document.reporting = Some(Reporting { webhook: Some(webhook), ..Reporting::default() });
    state.active.send_replace(Arc::new(policy));
    state
}

async fn alerts(pool: &PgPool, scope: &str) -> Vec<(String, i16, i64, i64)> {
    sqlx::query_as("SELECT level, percent, cap, settled FROM budget_alerts WHERE scope = $1 ORDER BY id")
        .bind(scope)
        .fetch_all(pool)
        .await
        .unwrap()
}

async fn told(pool: &PgPool) -> Vec<Value> {
    let rows: Vec<(String, String, Value)> =
        sqlx::query_as("SELECT event_type, url, payload FROM webhook_deliveries ORDER BY created_at, id").fetch_all(pool).await.unwrap();
    rows.into_iter()
        .map(|(event, url, payload)| {
            assert_eq!((&*event, &*url), ("budget.threshold", "https://hooks.test/budgets"));
            payload
        })
        .collect()
}

async fn ask(state: &AppState, method: &str, path: &str, body: Value) -> (u16, Value) {
    let bearer = format!("Bearer {}", token("ada", "admin", false));
    let request = Request::builder().method(method).uri(path).header(header::AUTHORIZATION, bearer);
    let request = request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_string())).unwrap();
    let response = admin_app(state.clone()).oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap())
}

async fn metrics(state: &AppState) -> String {
    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    let response = admin_app(state.clone()).oneshot(request).await.unwrap();
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn silence(pool: &PgPool, holder: &Holder) {
    sqlx::query("UPDATE holders SET last_seen_at = now() - interval '2 minutes' WHERE holder = $1")
        .bind(Uuid::from_bytes(holder.id))
        .execute(pool)
        .await
        .unwrap();
}

async fn close(state: &AppState) {
    let policy = state.policy();
    let closed = close_one_silent(&state.database, Duration::from_secs(60), Telling::of(&policy), &state.caps).await.unwrap();
    assert!(closed.is_some());
}

#[sqlx::test(migrations = "../migrations")]
async fn each_level_is_told_once_whoever_reports_it_and_how_often(pool: PgPool) {
    let (here, there) = (state(&pool).await, state(&pool).await);
    for budget in ["daily", "watched"] {
        let (scope, _) = new_agent();
        let (mut one, mut other) = (Holder::new(&here).await, Holder::new(&there).await);
        one.report(one.want(budget, &scope, 79, 79, 79)).await;
        assert_eq!(alerts(&pool, &scope).await, []);
        let request = one.request(vec![one.want(budget, &scope, 80, 80, 80)]);
        for _ in 0..3 {
            one.send(&request).await.unwrap();
        }
        other.report(other.want(budget, &scope, 1, 1, 1)).await;
        other.report(other.want(budget, &scope, 15, 15, 15)).await;
        other.report(other.want(budget, &scope, 20, 20, 20)).await;
        one.report(one.want(budget, &scope, 80, 80, 80)).await;
        let want = [("warning", 80, 100, 80), ("high", 95, 100, 95), ("critical", 100, 100, 100)];
        let want: Vec<_> = want.map(|(level, percent, cap, settled)| (level.to_owned(), percent, cap, settled)).into();
        assert_eq!(alerts(&pool, &scope).await, want, "{budget}");
    }
    let levels: Vec<_> = told(&pool).await.iter().map(|event| event["level"].as_str().unwrap().to_owned()).collect();
    assert_eq!(levels, ["warning", "high", "critical", "warning", "high", "critical"]);
    let event = &told(&pool).await[0];
    assert_eq!(
        (&event["budget"], &event["unit"], &event["settled"], &event["cap"]),
        (&json!("daily"), &json!("micro_usd"), &json!(80), &json!(100))
    );
    let count = |text: &str, line: &str| text.contains(&format!("gateway_control_plane_budget_thresholds_total{{{line}}} 1\n"));
    assert!(count(&metrics(&here).await, "budget=\"daily\",level=\"warning\""), "{}", metrics(&here).await);
    assert!(count(&metrics(&there).await, "budget=\"watched\",level=\"critical\""));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_booking_that_passes_several_levels_tells_each_and_an_overrun_counts(pool: PgPool) {
    let state = state(&pool).await;
    for budget in ["daily", "watched"] {
        let (mut holder, (scope, _)) = (Holder::new(&state).await, new_agent());
        holder.report(AccountReport { overrun: 30, ..holder.want(budget, &scope, 70, 70, 70) }).await;
        let levels: Vec<_> = alerts(&pool, &scope).await.into_iter().map(|(level, _, _, settled)| (level, settled)).collect();
        assert_eq!(levels, [("warning".to_owned(), 100), ("high".to_owned(), 100), ("critical".to_owned(), 100)], "{budget}");
    }
    let (mut holder, (scope, _)) = (Holder::new(&state).await, new_agent());
    holder.report(holder.want("hourly", &scope, 100, 100, 100)).await;
    assert_eq!(alerts(&pool, &scope).await, [], "nobody is told of a budget without thresholds");
}

#[sqlx::test(migrations = "../migrations")]
async fn holders_that_race_over_a_threshold_tell_it_once(pool: PgPool) {
    let state = state(&pool).await;
    for budget in ["daily", "watched"] {
        let (scope, _) = new_agent();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (mut holder, scope) = (Holder::new(&state).await, scope.clone());
            tasks.spawn(async move {
                for used in 1..=13 {
                    holder.report(holder.want(budget, &scope, used, used, used)).await;
                }
            });
        }
        tasks.join_all().await;
        assert_eq!(alerts(&pool, &scope).await.len(), 3, "{budget}");
    }
    assert_eq!(told(&pool).await.len(), 6);
}

#[sqlx::test(migrations = "../migrations")]
async fn forfeits_count_and_are_listed(pool: PgPool) {
    let state = state(&pool).await;
    let (mut holder, (scope, _)) = (Holder::new(&state).await, new_agent());
    holder.report(holder.want("daily", &scope, 10, 96, 96)).await;
    holder.report(AccountReport { generation: 2, ..holder.want("daily", &scope, 0, 1, 1) }).await;
    assert_eq!(alerts(&pool, &scope).await.len(), 2, "a lease that its own holder replaced is charged in full");
    let (mut silent, (other, _)) = (Holder::new(&state).await, new_agent());
    silent.report(silent.want("daily", &other, 10, 82, 82)).await;
    silence(&pool, &silent).await;
    close(&state).await;
    assert_eq!(alerts(&pool, &other).await, [("warning".to_owned(), 80, 100, 82)]);
    assert_eq!(told(&pool).await.len(), 3);
    let path = |scope: &str| format!("/admin/v1/budgets/account?budget=daily&scope={}", scope.replace('=', "%3D"));
    let (_, detail) = ask(&state, "GET", &path(&other), Value::Null).await;
    let forfeit = &detail["forfeits"][0];
    assert_eq!((&forfeit["units"], &forfeit["envoy_id"]), (&json!(72), &json!("envoy-1")));
    assert_eq!(forfeit["holder"], json!(Uuid::from_bytes(silent.id)));
    assert_eq!(ask(&state, "GET", &path(&scope), Value::Null).await.1["forfeits"][0]["units"], json!(86));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_lowered_cap_may_be_reached_already(pool: PgPool) {
    let state = state(&pool).await;
    for budget in ["daily", "watched"] {
        let (mut holder, (scope, _)) = (Holder::new(&state).await, new_agent());
        holder.report(holder.want(budget, &scope, 40, 40, 40)).await;
        let body = json!({ "budget": budget, "scope": scope, "cap": 42, "reason": "less" });
        assert_eq!(ask(&state, "POST", "/admin/v1/budgets/caps", body).await.0, 201);
        let want = vec![("warning".to_owned(), 80, 42, 40), ("high".to_owned(), 95, 42, 40)];
        assert_eq!(alerts(&pool, &scope).await, want, "{budget}");
        holder.report(holder.want(budget, &scope, 41, 41, 41)).await;
        assert_eq!(alerts(&pool, &scope).await, want, "{budget}");
        holder.report(holder.want(budget, &scope, 42, 42, 42)).await;
        assert_eq!(alerts(&pool, &scope).await.len(), 3, "{budget}");
        let body = json!({ "budget": budget, "scope": scope, "cap": 84, "reason": "more" });
        assert_eq!(ask(&state, "POST", "/admin/v1/budgets/caps", body).await.0, 201);
        holder.report(holder.want(budget, &scope, 84, 84, 84)).await;
        assert_eq!(alerts(&pool, &scope).await.len(), 3, "{budget}: once per window, whatever the cap becomes");
    }
}

async fn pauses(pool: &PgPool) -> Vec<(String, bool)> {
    sqlx::query_as("SELECT value, lifted_at IS NOT NULL FROM revocations WHERE kind = 'agent' ORDER BY value")
        .fetch_all(pool)
        .await
        .unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_guarded_agent_is_paused_once_and_stays_free_when_it_is_freed(pool: PgPool) {
    let state = state(&pool).await;
    let (mut holder, (scope, agent)) = (Holder::new(&state).await, new_agent());
    holder.report(holder.want("guarded", &scope, 99, 99, 99)).await;
    assert_eq!(pauses(&pool).await, []);
    holder.report(holder.want("guarded", &scope, 100, 100, 100)).await;
    assert_eq!(pauses(&pool).await, [(agent.clone(), false)]);
    assert_eq!(state.revoked.number(), 1, "in force here at once");
    let (actor, action, target, reason): (String, String, String, String) =
        sqlx::query_as("SELECT actor_subject, action, target, reason FROM admin_events").fetch_one(&pool).await.unwrap();
    assert_eq!((&*actor, &*action, target), ("control-plane", "revocation.revoke", format!("agent {agent}")));
    assert!(reason.starts_with("the budget `guarded` is spent in its window from 20"), "{reason}");
    assert_eq!(told(&pool).await[2]["paused_agent"], json!(agent));

    assert_eq!(ask(&state, "DELETE", "/admin/v1/revocations/1?reason=back", Value::Null).await.0, 200);
    holder.report(AccountReport { overrun: 5, ..holder.want("guarded", &scope, 100, 100, 100) }).await;
    Holder::new(&state).await.report(holder.want("guarded", &scope, 3, 3, 3)).await;
    assert_eq!(pauses(&pool).await, [(agent, true)], "an operator's word stands until the next window");
    let lowered = revocations::store::number(&pool).await.unwrap();
    assert_eq!(lowered, 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn who_is_no_agent_is_told_and_not_paused(pool: PgPool) {
    let state = state(&pool).await;
    let mut holder = Holder::new(&state).await;
    for (budget, scope) in [("guarded", "agent:subject=3:ops,3:ada"), ("daily", &*new_agent().0)] {
        holder.report(holder.want(budget, scope, 100, 100, 100)).await;
        assert_eq!((alerts(&pool, scope).await.len(), pauses(&pool).await.len()), (3, 0), "{budget}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn alerts_are_listed_by_what_they_are_about_in_pages(pool: PgPool) {
    let state = plane::state(&pool, 100).await;
    let (mut holder, (scope, _)) = (Holder::new(&state).await, new_agent());
    holder.report(holder.want("daily", &scope, 100, 100, 100)).await;
    assert_eq!(told(&pool).await.len(), 0, "no webhook in the policy, no delivery");
    let list = async |query: &str| ask(&state, "GET", &format!("/admin/v1/budgets/alerts?{query}"), Value::Null).await;
    let levels = |list: &Value| -> Vec<String> {
        list["alerts"].as_array().unwrap().iter().map(|alert| alert["level"].as_str().unwrap().into()).collect()
    };
    let (_, all) = list("budget=daily").await;
    assert_eq!((levels(&all), &all["next_cursor"]), (vec!["critical".into(), "high".into(), "warning".into()], &Value::Null));
    let (_, page) = list("limit=2").await;
    let (_, rest) = list(&format!("limit=2&cursor={}", page["next_cursor"])).await;
    assert_eq!((levels(&page).len(), levels(&rest)), (2, vec!["warning".to_owned()]));
    assert_eq!(levels(&list("level=high").await.1), ["high"]);
    assert_eq!(levels(&list("from=2999-01-01T00:00:00Z").await.1).len() + levels(&list("to=2001-01-01T00:00:00Z").await.1).len(), 0);
    assert_eq!(levels(&list(&format!("scope={}", scope.replace('=', "%3D"))).await.1).len(), 3);
    for wrong in ["level=urgent", "from=yesterday", "budgt=daily", "limit=0", "budget=%00"] {
        assert_eq!(list(wrong).await.0, 400, "{wrong}");
    }
}
