//! Caps and override accounts over HTTP and in sync calls, on real Postgres and Valkey.

use crate::plane;
use crate::plane::{Holder, state, token};
use axum::body::Body;
use axum::http::{Request, header};
use control_plane::app::{AppState, admin_app, data_plane_app};
use control_plane::budgets::caps::follow;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::sync::Arc;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tower::ServiceExt as _;
use uuid::Uuid;
use wire::revocation::RevocationPage;
use wire::sync::{AccountReport, OverrideAccount};

const BOTH: [&str; 2] = ["daily", "hourly"];
const CAPS: &str = "/admin/v1/budgets/caps";
const OVERRIDES: &str = "/admin/v1/budgets/overrides";

fn scope() -> String {
    let agent = format!("a-{}", Uuid::now_v7());
    format!("agent:agent_id={}:{agent}", agent.len())
}

fn in_seconds(seconds: i64) -> String {
    (OffsetDateTime::now_utc() + time::Duration::seconds(seconds)).replace_nanosecond(0).unwrap().format(&Rfc3339).unwrap()
}

async fn ask(state: &AppState, method: &str, path: &str, body: Value) -> (u16, Value) {
    let bearer = format!("Bearer {}", token("ada", "admin", true));
    let request = Request::builder().method(method).uri(path).header(header::AUTHORIZATION, bearer);
    let request = request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_string())).unwrap();
    let response = admin_app(state.clone()).oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap())
}

async fn cap(state: &AppState, budget: &str, scope: &str, cap: i64) -> Value {
    let (status, entry) = ask(state, "POST", CAPS, json!({ "budget": budget, "scope": scope, "cap": cap, "reason": "a test" })).await;
    assert_eq!(status, 201, "{entry}");
    entry
}

async fn grant(state: &AppState, budget: &str, scope: &str, cap: i64, until: &str) -> Value {
    let body = json!({ "budget": budget, "scope": scope, "cap": cap, "reason": "a test", "expires_at": until });
    let (status, entry) = ask(state, "POST", OVERRIDES, body).await;
    assert_eq!(status, 201, "{entry}");
    entry
}

async fn actions(pool: &PgPool) -> Vec<String> {
    let rows: Vec<(String,)> = sqlx::query_as("SELECT action FROM admin_events ORDER BY id").fetch_all(pool).await.unwrap();
    rows.into_iter().map(|(action,)| action).collect()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_raised_cap_counts_at_once_here_and_elsewhere_until_it_is_ended(pool: PgPool) {
    let (here, there) = (state(&pool, 100).await, state(&pool, 100).await);
    for budget in BOTH {
        let (scope, mut holder, mut other) = (scope(), Holder::new(&here).await, Holder::new(&there).await);
        assert_eq!(holder.report(holder.want(budget, &scope, 100, 100, 100)).await.granted, 100);
        assert_eq!(holder.report(holder.want(budget, &scope, 100, 150, 150)).await.granted, 100, "{budget}");
        let entry = cap(&here, budget, &scope, 130).await;
        let grant = holder.report(holder.want(budget, &scope, 100, 120, 120)).await;
        assert_eq!((grant.granted, grant.cap), (120, 130), "{budget}");
        follow::refresh(&pool, &there.caps).await.unwrap();
        assert_eq!(other.report(other.want(budget, &scope, 0, 20, 20)).await.granted, 10, "{budget}: the rest of the same cap");
        let (status, ended) = ask(&here, "DELETE", &format!("{CAPS}/{}?reason=over", entry["id"]), Value::Null).await;
        assert_eq!((status, &ended["in_force"], &ended["ended_reason"]), (200, &json!(false), &json!("over")));
        let grant = holder.report(holder.want(budget, &scope, 120, 125, 125)).await;
        assert_eq!((grant.granted, grant.cap), (120, 100), "{budget}");
        assert_eq!(
            holder.report(AccountReport { scope: self::scope(), ..holder.want(budget, "", 0, 1, 1) }).await.cap,
            100,
            "no other scope"
        );
    }
    assert_eq!(actions(&pool).await, ["budget.cap", "budget.uncap", "budget.cap", "budget.uncap"]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_lowered_cap_stops_grants_and_recalls_what_is_unused(pool: PgPool) {
    let state = state(&pool, 100).await;
    for budget in BOTH {
        let (scope, mut rich, mut poor) = (scope(), Holder::new(&state).await, Holder::new(&state).await);
        assert_eq!(rich.report(rich.want(budget, &scope, 10, 60, 60)).await.granted, 60);
        cap(&state, budget, &scope, 30).await;
        assert_eq!(poor.report(poor.want(budget, &scope, 0, 1, 1)).await.granted, 0, "{budget}");
        let idle = rich.request(vec![]);
        let recalls = rich.send(&idle).await.unwrap().recalls;
        assert_eq!(recalls.iter().map(|recall| &recall.scope).collect::<Vec<_>>(), [&scope], "{budget}");
        assert_eq!(rich.report(rich.want(budget, &scope, 10, 10, 10)).await.granted, 10);
        assert_eq!(poor.report(poor.want(budget, &scope, 0, 25, 20)).await.granted, 20, "{budget}");
        assert_eq!(poor.report(poor.want(budget, &scope, 20, 21, 21)).await.granted, 20, "{budget}: to the last unit of the lower cap");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn nobody_waits_for_a_lowered_cap_and_the_unused_is_recalled_all_the_same(pool: PgPool) {
    let state = state(&pool, 100).await;
    for budget in BOTH {
        let (scope, mut rich) = (scope(), Holder::new(&state).await);
        rich.report(rich.want(budget, &scope, 10, 60, 60)).await;
        cap(&state, budget, &scope, 30).await;
        let idle = rich.request(vec![]);
        assert_eq!(rich.send(&idle).await.unwrap().recalls.len(), 1, "{budget}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_cap_expires_by_the_database_s_clock(pool: PgPool) {
    let state = state(&pool, 100).await;
    let (scope, mut holder) = (scope(), Holder::new(&state).await);
    let body = json!({ "budget": "daily", "scope": scope, "cap": 7, "reason": "a test", "expires_at": in_seconds(2) });
    assert_eq!(ask(&state, "POST", CAPS, body).await.0, 201);
    assert_eq!(holder.report(holder.want("daily", &scope, 0, 1, 1)).await.cap, 7);
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_eq!(holder.report(holder.want("daily", &scope, 0, 1, 1)).await.cap, 100);
    assert_eq!(ask(&state, "GET", CAPS, Value::Null).await.1["caps"], json!([]));
    let (_, all) = ask(&state, "GET", &format!("{CAPS}?ended=true"), Value::Null).await;
    assert_eq!((&all["caps"][0]["in_force"], &all["caps"][0]["ended_at"]), (&json!(false), &Value::Null));
    cap(&state, "daily", &scope, 8).await;
    assert_eq!(holder.report(holder.want("daily", &scope, 0, 1, 1)).await.cap, 8);
}

#[sqlx::test(migrations = "../migrations")]
async fn the_same_wish_again_changes_nothing_and_another_replaces(pool: PgPool) {
    let state = state(&pool, 100).await;
    let (scope, until) = (scope(), in_seconds(600));
    for (path, kind) in [(CAPS, "caps"), (OVERRIDES, "overrides")] {
        let wish = |cap: i64| json!({ "budget": "daily", "scope": scope, "cap": cap, "reason": "a test", "expires_at": until });
        let (first, again) = (ask(&state, "POST", path, wish(5)).await, ask(&state, "POST", path, wish(5)).await);
        assert_eq!((first.0, again.0, &first.1["id"]), (201, 200, &again.1["id"]), "{kind}");
        let other = ask(&state, "POST", path, wish(6)).await;
        assert_eq!(other.0, 201);
        let (_, list) = ask(&state, "GET", &format!("{path}?ended=true&budget=daily"), Value::Null).await;
        let told: Vec<_> =
            list[kind].as_array().unwrap().iter().map(|entry| (entry["cap"].as_i64(), entry["ended_reason"].as_str())).collect();
        assert_eq!(told, [(Some(6), None), (Some(5), Some("replaced"))], "{kind}");
        let gone = ask(&state, "DELETE", &format!("{path}/{}?reason=x", first.1["id"]), Value::Null).await;
        assert_eq!(gone.0, 404, "{kind}");
    }
    assert_eq!(actions(&pool).await.len(), 4);
    assert_eq!(state.caps.number(), 4, "each change has one number");
}

#[sqlx::test(migrations = "../migrations")]
async fn what_could_have_no_effect_is_refused_with_a_word_about_it(pool: PgPool) {
    let state = state(&pool, 100).await;
    let scope = scope();
    let good = json!({ "budget": "daily", "scope": scope, "cap": 5, "reason": "a test", "expires_at": in_seconds(600) });
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    for (body, word) in [
        (with("budget", json!("dayly")), "`dayly` is no budget of the policy in force; did you mean `daily`?"),
        (with("budget", json!("by-address")), "counted by each worker per client address"),
        (with("scope", json!("agent:a-1")), "its form is `agent:agent_id=3:a-1`"),
        (with("scope", json!("override=1,agent:agent_id=3:a-1")), "`scope` is none of"),
        (with("scope", json!("agent:agent_id=1:\0")), "control characters"),
        (with("scope", json!(format!("agent:agent_id=1010:{}", "a".repeat(1_010)))), "too long"),
        (with("cap", json!(-1)), "`cap` is not 0 to"),
        (with("cap", json!(i64::MAX)), "`cap` is not 0 to"),
        (with("reason", json!(" ")), "`reason` must say why"),
        (with("reason", json!("x".repeat(1_001))), "`reason` must say why"),
        (with("reason", json!("a\0")), "`reason` must say why"),
        (with("expires_at", json!("2001-01-01T00:00:00Z")), "`expires_at` is not in the future"),
        (with("more", json!(1)), "unknown field"),
    ] {
        for path in [CAPS, OVERRIDES] {
            let (status, problem) = ask(&state, "POST", path, body.clone()).await;
            assert_eq!(status, 400, "{path} {body}");
            assert!(problem["detail"].as_str().unwrap().contains(word), "{path} {problem}");
        }
    }
    let far = with("expires_at", json!("2999-01-01T00:00:00Z"));
    assert_eq!((ask(&state, "POST", CAPS, far.clone()).await.0, ask(&state, "POST", OVERRIDES, far).await.0), (201, 400));
    for path in [CAPS, OVERRIDES] {
        assert_eq!(ask(&state, "DELETE", &format!("{path}/999?reason=x"), Value::Null).await.0, 404);
        assert_eq!(ask(&state, "DELETE", &format!("{path}/1"), Value::Null).await.0, 400, "a reason is required");
        assert_eq!(ask(&state, "GET", &format!("{path}?budget=dayly"), Value::Null).await.0, 400);
        assert_eq!(ask(&state, "GET", &format!("{path}?scope=%00"), Value::Null).await.0, 400);
    }
    assert_eq!(actions(&pool).await, ["budget.cap"], "what is refused leaves no trace");
}

async fn feed(state: &AppState, query: &str) -> (RevocationPage, Duration) {
    let started = Instant::now();
    let uri = format!("/data-plane/v1/revocations?database={}&{query}", "00".repeat(16));
    let request = Request::get(uri).header(header::AUTHORIZATION, "Bearer envoy-1").body(Body::empty()).unwrap();
    let response = data_plane_app(state.clone()).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (wire::frame::decode(&body).unwrap(), started.elapsed())
}

#[sqlx::test(migrations = "../migrations")]
async fn a_change_of_caps_ends_the_long_poll_of_who_asks_about_them(pool: PgPool) {
    let state = state(&pool, 100).await;
    plane::envoy(&pool, "envoy-1").await;
    let (page, took) = feed(&state, "after=0&caps=7&wait_s=20").await;
    assert_eq!((page.caps, took < Duration::from_secs(2)), (0, true), "what differs is news at once");
    let change = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cap(&state, "daily", &scope(), 5).await
    };
    let ((page, took), (other, waited), _) =
        tokio::join!(feed(&state, "after=0&caps=0&wait_s=20"), feed(&state, "after=0&wait_s=2"), change);
    assert_eq!((page.caps, page.changes.len(), took < Duration::from_secs(2)), (1, 0, true), "{took:?}");
    assert_eq!((other.caps, waited > Duration::from_secs(1)), (1, true), "who does not ask is told with the next page");
    grant(&state, "daily", &scope(), 5, &in_seconds(60)).await;
    assert_eq!(feed(&state, "after=0&caps=1&wait_s=20").await.0.caps, 2, "an override account too");
}

#[sqlx::test(migrations = "../migrations")]
async fn an_override_account_is_told_granted_and_kept_beside_the_spent_one(pool: PgPool) {
    let state = state(&pool, 100).await;
    for budget in BOTH {
        let (scope, mut holder, mut other) = (scope(), Holder::new(&state).await, Holder::new(&state).await);
        assert_eq!(holder.report(holder.want(budget, &scope, 100, 100, 100)).await.overriding, None);
        let until = in_seconds(3_600);
        let entry = grant(&state, budget, &scope, 10, &until).await;
        let told = holder.report(holder.want(budget, &scope, 100, 100, 100)).await;
        let account = told.overriding.unwrap();
        let moment = |name: &str| OffsetDateTime::parse(entry[name].as_str().unwrap(), &Rfc3339).unwrap().unix_timestamp();
        let number = entry["id"].as_u64().unwrap();
        assert_eq!(account, OverrideAccount { number, from: moment("created_at"), until: moment("expires_at") });
        assert_eq!((told.cap, told.granted), (100, 100), "{budget}: the first account is as it was");
        let on = |report: AccountReport| AccountReport { scope: account.scope(&scope), window_start: account.from, ..report };
        let first = holder.report(on(holder.want(budget, "", 0, 8, 8))).await;
        assert_eq!((first.granted, first.cap, first.known, first.overriding), (8, 10, true, None), "{budget}");
        assert_eq!(other.report(on(other.want(budget, "", 0, 8, 8))).await.granted, 2, "{budget}: of one cap");
        for wrong in [
            AccountReport { window_start: account.from + 1, ..on(holder.want(budget, "", 0, 1, 1)) },
            AccountReport { scope: format!("override={},{scope}", number + 1), ..on(holder.want(budget, "", 0, 1, 1)) },
            AccountReport { scope: format!("override=0{number},{scope}"), ..on(holder.want(budget, "", 0, 1, 1)) },
            AccountReport { scope: account.scope("agent:agent_id=1:x"), ..on(holder.want(budget, "", 0, 1, 1)) },
        ] {
            let refused = holder.report(wrong).await;
            assert_eq!((refused.granted, refused.known), (0, false), "{budget}");
        }
        let (status, _) = ask(&state, "DELETE", &format!("{OVERRIDES}/{number}?reason=over"), Value::Null).await;
        assert_eq!(status, 200);
        let idle = holder.request(vec![]);
        assert_eq!(holder.send(&idle).await.unwrap().recalls.len(), 1, "{budget}: what is unused is asked back");
        other.report(AccountReport { close: true, ..on(other.want(budget, "", 0, 0, 0)) }).await;
        let late = holder.report(on(holder.want(budget, "", 8, 10, 10))).await;
        assert_eq!((late.granted, late.settled, late.known), (8, 8, true), "{budget}: booked, and no more granted");
        assert_eq!(holder.report(holder.want(budget, &scope, 100, 100, 100)).await.overriding, None);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn an_override_account_ends_by_itself(pool: PgPool) {
    let state = state(&pool, 100).await;
    let (scope, mut holder) = (scope(), Holder::new(&state).await);
    grant(&state, "daily", &scope, 10, &in_seconds(2)).await;
    let account = holder.report(holder.want("daily", &scope, 0, 0, 0)).await.overriding.unwrap();
    let on = |report: AccountReport| AccountReport { scope: account.scope(&scope), window_start: account.from, ..report };
    assert_eq!(holder.report(on(holder.want("daily", "", 0, 3, 3))).await.granted, 3);
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_eq!(holder.report(on(holder.want("daily", "", 3, 9, 9))).await.granted, 3);
    assert_eq!(holder.report(holder.want("daily", &scope, 0, 0, 0)).await.overriding, None);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_account_shows_caps_levels_leases_and_where_it_goes(pool: PgPool) {
    let state = state(&pool, 100).await;
    for budget in BOTH {
        let (scope, mut holder) = (scope(), Holder::new(&state).await);
        holder.report(AccountReport { held: 5, ..holder.want(budget, &scope, 40, 60, 60) }).await;
        let set = cap(&state, budget, &scope, 50).await;
        let over = grant(&state, budget, &scope, 9, &in_seconds(60)).await;
        let path = format!("/admin/v1/budgets/account?budget={budget}&scope={}", scope.replace('=', "%3D"));
        let (status, detail) = ask(&state, "GET", &path, Value::Null).await;
        assert_eq!(status, 200, "{detail}");
        let account = &detail["account"];
        for (name, want) in [
            ("cap", json!(50)),
            ("policy_cap", json!(100)),
            ("cap_id", set["id"].clone()),
            ("settled", json!(40)),
            ("leased", json!(20)),
            ("held", json!(5)),
            ("remaining", json!(0)),
            ("utilization_percent", json!(80.0)),
            ("durable", json!(budget == "daily")),
            ("level", if budget == "daily" { json!("warning") } else { Value::Null }),
            ("told", if budget == "daily" { json!("warning") } else { Value::Null }),
        ] {
            assert_eq!(account[name], want, "{budget} {name}");
        }
        assert_eq!((&account["overriding"]["id"], &account["overriding"]["cap"]), (&over["id"], &json!(9)), "{budget}");
        assert!(account["resets_at"] == account["window_end"] && account["forecast"].as_i64().is_none_or(|units| units >= 40));
        let lease = &detail["leases"][0];
        assert_eq!((&lease["used"], &lease["held"], &lease["envoy_id"]), (&json!(40), &json!(5), &json!("envoy-1")), "{budget}");
        assert_eq!((&lease["holder"], &lease["granted"]), (&json!(Uuid::from_bytes(holder.id)), &json!(60)), "{budget}");
        let beside = account["overriding"]["scope"].as_str().unwrap().replace('=', "%3D");
        let (status, beside) = ask(&state, "GET", &format!("/admin/v1/budgets/account?budget={budget}&scope={beside}"), Value::Null).await;
        assert_eq!((status, &beside["account"]["cap"], &beside["account"]["resets_at"]), (200, &json!(9), &Value::Null), "{budget}");
    }
    let unspent = format!("/admin/v1/budgets/account?budget=daily&scope={}", scope().replace('=', "%3D"));
    assert_eq!(ask(&state, "GET", &unspent, Value::Null).await.1["account"]["settled"], json!(0));
    for (query, status) in [("budget=dayly&scope=x", 400), ("budget=daily&scope=x", 400), ("budget=daily&scope=override%3D9,x", 404)] {
        assert_eq!(ask(&state, "GET", &format!("/admin/v1/budgets/account?{query}"), Value::Null).await.0, status, "{query}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn what_is_long_over_is_forgotten_and_what_has_a_lease_stays(pool: PgPool) {
    use control_plane::budgets::{accounts, caps};
    let state = state(&pool, 100).await;
    let (old, leased, mut holder) = (scope(), scope(), Holder::new(&state).await);
    holder.report(AccountReport { close: true, ..holder.want("daily", &old, 0, 0, 0) }).await;
    holder.report(holder.want("daily", &old, 100, 100, 100)).await;
    holder.report(AccountReport { close: true, ..holder.want("daily", &old, 100, 100, 100) }).await;
    holder.report(holder.want("daily", &leased, 5, 9, 9)).await;
    cap(&state, "daily", &old, 7).await;
    assert_eq!((accounts::store::forget(&pool).await.unwrap(), caps::store::forget(&pool).await.unwrap()), (0, 0));
    for statement in [
        "UPDATE budget_accounts SET window_start = window_start - interval '100 days', window_end = window_end - interval '100 days'",
        "UPDATE budget_alerts SET at = at - interval '100 days', window_end = window_end - interval '100 days'",
        "UPDATE budget_caps SET ended_at = now() - interval '100 days'",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    assert_eq!((accounts::store::forget(&pool).await.unwrap(), caps::store::forget(&pool).await.unwrap()), (4, 1));
    let left: Vec<(String,)> = sqlx::query_as("SELECT scope FROM budget_accounts").fetch_all(&pool).await.unwrap();
    assert_eq!(left, [(leased,)]);
}

/// The other replica was told nothing: it sees the change where it locks the account.
#[sqlx::test(migrations = "../migrations")]
async fn a_replica_that_has_not_heard_of_a_lowered_cap_grants_nothing_beyond_it(pool: PgPool) {
    let (here, there) = (state(&pool, 100).await, state(&pool, 100).await);
    let (scope, mut holder) = (scope(), Holder::new(&there).await);
    assert_eq!(holder.report(holder.want("daily", &scope, 0, 5, 5)).await.granted, 5);
    cap(&here, "daily", &scope, 10).await;
    let grant = holder.report(holder.want("daily", &scope, 5, 60, 60)).await;
    assert_eq!((grant.granted, grant.cap), (10, 10));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_moment_that_is_none_in_utc_is_refused(pool: PgPool) {
    let state = state(&pool, 100).await;
    let far = "9999-12-31T23:59:59-01:00";
    let body = json!({ "budget": "daily", "scope": scope(), "cap": 5, "reason": "a test", "expires_at": far });
    assert_eq!(ask(&state, "POST", CAPS, body).await.0, 400);
    for path in ["/admin/v1/budgets/alerts", "/admin/v1/audit"] {
        assert_eq!(ask(&state, "GET", &format!("{path}?from={far}"), Value::Null).await.0, 400, "{path}");
    }
}

/// Whom a sync call asks to give back, without a word about the account.
async fn asked_back(holder: &mut Holder) -> Vec<String> {
    let idle = holder.request(vec![]);
    holder.send(&idle).await.unwrap().recalls.into_iter().map(|recall| recall.scope).collect()
}

/// Nobody waits for units, and nobody sets a cap: the account is found beyond its cap by whoever reports it next.
async fn beyond_the_cap_everybody_gives_back(budget: &str, scope: &str, rich: &mut Holder, other: &mut Holder) {
    assert_eq!(asked_back(rich).await, [""; 0], "{budget}");
    let report = rich.request(vec![AccountReport { held: 5, ..rich.want(budget, scope, 60, 120, 65) }]);
    let answer = rich.send(&report).await.unwrap();
    let told = answer.accounts.first().map(|grant| (grant.granted, grant.cap));
    assert_eq!(told, Some((120, 100)), "{budget}: the filter lowers its limit first");
    assert_eq!(answer.recalls.iter().map(|recall| &*recall.scope).collect::<Vec<_>>(), [scope], "{budget}: whoever reports it");
    assert_eq!(asked_back(other).await, [scope], "{budget}: and who does not");
    let kept = rich.report(AccountReport { held: 5, ..rich.want(budget, scope, 60, 65, 65) }).await;
    assert_eq!(kept.granted, 65, "{budget}: nothing that is used or held");
    assert_eq!(other.report(other.want(budget, scope, 30, 30, 30)).await.granted, 30, "{budget}");
    let last = rich.report(AccountReport { held: 5, ..rich.want(budget, scope, 60, 80, 80) }).await;
    assert_eq!(last.granted, 70, "{budget}: what was given back can be granted, up to the cap");
}

#[sqlx::test(migrations = "../migrations")]
async fn what_lies_beyond_a_cap_that_expired_is_recalled(pool: PgPool) {
    let state = state(&pool, 100).await;
    for budget in BOTH {
        let (scope, mut rich, mut other) = (scope(), Holder::new(&state).await, Holder::new(&state).await);
        let body = json!({ "budget": budget, "scope": scope, "cap": 200, "reason": "a test", "expires_at": in_seconds(2) });
        assert_eq!(ask(&state, "POST", CAPS, body).await.0, 201);
        rich.report(rich.want(budget, &scope, 0, 120, 120)).await;
        other.report(other.want(budget, &scope, 30, 80, 80)).await;
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        beyond_the_cap_everybody_gives_back(budget, &scope, &mut rich, &mut other).await;
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn what_lies_beyond_a_cap_that_a_new_revision_lowered_is_recalled(pool: PgPool) {
    let state = state(&pool, 200).await;
    for budget in BOTH {
        state.active.send_replace(Arc::new(plane::policy(200)));
        let (scope, mut rich, mut other) = (scope(), Holder::new(&state).await, Holder::new(&state).await);
        rich.report(rich.want(budget, &scope, 0, 120, 120)).await;
        other.report(AccountReport { used: 30, ..other.want(budget, &scope, 0, 80, 80) }).await;
        state.active.send_replace(Arc::new(plane::policy(100)));
        beyond_the_cap_everybody_gives_back(budget, &scope, &mut rich, &mut other).await;
    }
}

/// It would give back what it has to wait for next.
#[sqlx::test(migrations = "../migrations")]
async fn who_waits_beyond_the_cap_is_not_asked_and_others_are(pool: PgPool) {
    let state = state(&pool, 200).await;
    for budget in BOTH {
        state.active.send_replace(Arc::new(plane::policy(200)));
        let (scope, mut waiting, mut other) = (scope(), Holder::new(&state).await, Holder::new(&state).await);
        waiting.report(waiting.want(budget, &scope, 0, 80, 80)).await;
        other.report(other.want(budget, &scope, 0, 80, 80)).await;
        state.active.send_replace(Arc::new(plane::policy(100)));
        let report = waiting.request(vec![AccountReport { charge: 50, ..waiting.want(budget, &scope, 40, 90, 90) }]);
        let answer = waiting.send(&report).await.unwrap();
        assert_eq!((answer.accounts[0].granted, answer.recalls.len()), (80, 0), "{budget}");
        assert_eq!(asked_back(&mut other).await, [&*scope], "{budget}");
        let report = waiting.request(vec![waiting.want(budget, &scope, 40, 80, 80)]);
        assert_eq!(waiting.send(&report).await.unwrap().recalls, [], "{budget}: it has what it waits for, and nothing to spare");
    }
}
