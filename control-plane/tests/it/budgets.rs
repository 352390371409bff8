//! Leases on real Postgres and Valkey: the invariants of the ledger under real transactions.

use crate::plane::{Holder, state, token};
use axum::body::Body;
use axum::http::{Request, header};
use control_plane::app::admin_app;
use control_plane::budgets::alerts::Telling;
use control_plane::budgets::caps::Caps;
use control_plane::budgets::ledger::{self, Account, Lease, Recall, Report, Room};
use control_plane::budgets::{AccountKey, Posting, store, valkey};
use control_plane::holders::{HolderId, close_one_silent};
use control_plane::sync::SyncError;
use decision_core::budget::Units;
use decision_core::time::Timestamp;
use http_body_util::BodyExt as _;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sqlx::PgPool;
use std::time::Duration;
use tower::ServiceExt as _;
use uuid::Uuid;
use wire::sync::AccountReport;

fn scope() -> String {
    format!("agent={}", Uuid::now_v7())
}

async fn account(pool: &PgPool, scope: &str) -> (i64, i64, i64) {
    let which = store::Which { budget: Some("daily"), scope: Some(scope), after: None };
    let listed = store::list(pool, which, 1).await.unwrap();
    listed.first().map_or((0, 0, 0), |account| (account.committed, account.settled, account.forfeited))
}

/// Both stores keep the same rule; `daily` is in Postgres, `hourly` in Valkey.
#[sqlx::test(migrations = "../migrations")]
async fn a_lease_is_granted_settled_and_given_back(pool: PgPool) {
    let state = state(&pool, 100).await;
    for budget in ["daily", "hourly"] {
        let (mut holder, scope) = (Holder::new(&state).await, scope());
        let first = holder.report(holder.want(budget, &scope, 0, 30, 1)).await;
        assert!(first.granted >= 10 && first.granted <= 50 && first.known && first.cap == 100, "{first:?}");
        let used = holder.report(holder.want(budget, &scope, 10, 10, 10)).await;
        assert_eq!((used.granted, used.settled), (10, 10), "{budget}");
        let close = AccountReport { close: true, ..holder.want(budget, &scope, 10, 10, 10) };
        assert_eq!(holder.report(close.clone()).await.granted, 0);
        let again = holder.report(close).await;
        assert_eq!((again.granted, again.settled), (0, 10), "closing what is closed changes nothing");
        let rest = holder.report(AccountReport { generation: 2, ..holder.want(budget, &scope, 0, 90, 90) }).await;
        assert_eq!(rest.granted, 90, "{budget}: the rest, to the last unit");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn exactly_the_cap_is_granted_when_holders_race_for_the_last_units(pool: PgPool) {
    let state = state(&pool, 100).await;
    for budget in ["daily", "hourly"] {
        let scope = scope();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (mut holder, scope) = (Holder::new(&state).await, scope.clone());
            tasks.spawn(async move {
                let mut granted = 0;
                for _ in 0..30 {
                    granted = holder.report(holder.want(budget, &scope, granted, granted + 1, granted + 1)).await.granted;
                }
                granted
            });
        }
        let granted: i64 = tasks.join_all().await.into_iter().sum();
        assert_eq!(granted, 100, "{budget}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn calls_over_the_same_accounts_in_any_order_do_not_block_each_other(pool: PgPool) {
    let state = state(&pool, 1_000_000).await;
    let scopes: Vec<String> = (0..12).map(|_| scope()).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for turn in 0..6 {
        let (mut holder, mut scopes) = (Holder::new(&state).await, scopes.clone());
        scopes.rotate_left(turn);
        tasks.spawn(async move {
            for round in 1..20 {
                let wants = scopes.iter().map(|scope| holder.want("daily", scope, round, round + 2, round + 1)).collect();
                let request = holder.request(wants);
                assert_eq!(holder.send(&request).await.unwrap().accounts.len(), 12);
            }
        });
    }
    tasks.join_all().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_repeated_call_changes_nothing_and_an_older_one_is_refused(pool: PgPool) {
    let state = state(&pool, 100).await;
    for budget in ["daily", "hourly"] {
        let (mut holder, scope) = (Holder::new(&state).await, scope());
        let first = holder.request(vec![holder.want(budget, &scope, 0, 20, 5)]);
        let answer = holder.send(&first).await.unwrap();
        assert_eq!(holder.send(&first).await.unwrap(), answer, "{budget}");
        let second = holder.request(vec![holder.want(budget, &scope, 5, 5, 5)]);
        holder.send(&second).await.unwrap();
        let late = holder.send(&first).await;
        assert!(matches!(late, Err(SyncError::NotAdmitted(_))), "{late:?}");
        assert_eq!(holder.report(holder.want(budget, &scope, 5, 5, 5)).await.granted, 5);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn units_in_other_leases_are_recalled(pool: PgPool) {
    let state = state(&pool, 10).await;
    for budget in ["daily", "hourly"] {
        let (mut rich, mut poor, scope) = (Holder::new(&state).await, Holder::new(&state).await, scope());
        assert_eq!(rich.report(rich.want(budget, &scope, 0, 10, 10)).await.granted, 10);
        assert_eq!(poor.report(poor.want(budget, &scope, 0, 3, 3)).await.granted, 0);
        // The rich holder has no reason to report the account; it hears of it all the same.
        let idle = rich.request(vec![]);
        let recalls = rich.send(&idle).await.unwrap().recalls;
        assert_eq!(recalls.iter().map(|recall| (&recall.budget[..], &recall.scope)).collect::<Vec<_>>(), [(budget, &scope)]);
        assert_eq!(rich.report(rich.want(budget, &scope, 2, 2, 2)).await.granted, 2);
        assert_eq!(poor.report(poor.want(budget, &scope, 0, 3, 3)).await.granted, 3, "{budget}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_silent_holder_is_charged_in_full_and_the_rest_can_be_granted(pool: PgPool) {
    let state = state(&pool, 100).await;
    let (mut holder, mut other, scope) = (Holder::new(&state).await, Holder::new(&state).await, scope());
    holder.report(holder.want("daily", &scope, 0, 40, 40)).await;
    holder.report(AccountReport { held: 5, ..holder.want("daily", &scope, 10, 40, 40) }).await;
    let lease = Lease { generation: 1, granted: Units::new(40), used: Units::new(10), held: Units::new(5), overrun: Units::ZERO };
    let before = Account { committed: Units::new(40), settled: Units::new(10), held: Units::new(5), ..Account::default() };
    let want = ledger::forfeit(before, &lease);
    sqlx::query("UPDATE holders SET last_seen_at = now() - interval '2 minutes' WHERE holder = $1")
        .bind(Uuid::from_bytes(holder.id))
        .execute(&pool)
        .await
        .unwrap();
    // Two replicas at once: one closes it, once.
    let (policy, caps) = (state.policy(), Caps::default());
    let close = async || close_one_silent(&pool, Duration::from_secs(60), Telling::of(&policy), &caps).await;
    let (a, b) = tokio::join!(close(), close());
    let closed: Vec<_> = [a.unwrap(), b.unwrap()].into_iter().flatten().collect();
    assert_eq!(closed.len(), 1);
    assert_eq!((closed[0].holder, &closed[0].forfeits), (HolderId(Uuid::from_bytes(holder.id)), &vec![("daily".to_owned(), 30)]));
    assert_eq!(account(&pool, &scope).await, (want.committed.get(), want.settled.get(), want.forfeited.get()));
    let gaps: Vec<(i64, String)> = sqlx::query_as("SELECT after_sequence, reason FROM audit_gaps").fetch_all(&pool).await.unwrap();
    assert_eq!(gaps, [(0, "holder_closed".to_owned())]);
    let late = holder.request(vec![]);
    assert!(matches!(holder.send(&late).await, Err(SyncError::NotAdmitted(_))));
    assert_eq!(other.report(other.want("daily", &scope, 0, 60, 60)).await.granted, 60);
}

/// Postgres knows who is closed, and Valkey what they had: it is charged when somebody else needs it, and then the cap is spent.
#[sqlx::test(migrations = "../migrations")]
async fn what_a_closed_holder_had_in_valkey_is_charged_when_it_is_needed(pool: PgPool) {
    let state = state(&pool, 100).await;
    let (mut dead, mut other, scope) = (Holder::new(&state).await, Holder::new(&state).await, scope());
    dead.report(dead.want("hourly", &scope, 0, 40, 40)).await;
    let open = AccountReport { held: 5, ..dead.want("hourly", &scope, 10, 40, 40) };
    dead.report(open).await;
    assert_eq!(other.report(other.want("hourly", &scope, 0, 60, 60)).await.granted, 60);
    let waiting = other.report(other.want("hourly", &scope, 60, 61, 61)).await;
    assert_eq!((waiting.granted, waiting.settled), (60, 70), "the rest may still be given back");
    sqlx::query("UPDATE holders SET closed_at = now() WHERE holder = $1").bind(Uuid::from_bytes(dead.id)).execute(&pool).await.unwrap();
    for settled in [70, 100] {
        let waiting = other.report(other.want("hourly", &scope, 60, 61, 61)).await;
        assert_eq!((waiting.granted, waiting.settled), (60, settled));
    }
    let key =
        AccountKey { budget: "hourly".into(), scope: scope.clone(), window_start: other.want("hourly", &scope, 0, 0, 0).window_start };
    let kept = valkey::read(&mut state.valkey.clone(), &key).await.unwrap().unwrap();
    assert_eq!((kept.committed.get(), kept.settled.get(), kept.held.get(), kept.forfeited.get()), (100, 100, 0, 30));
}

#[sqlx::test(migrations = "../migrations")]
async fn nothing_is_granted_outside_known_windows_and_odd_names_stop_nobody(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let want = holder.want("daily", "agent=1", 0, 5, 5);
    let at = |window_start| AccountReport { window_start, ..want.clone() };
    let odd = [
        (at(want.window_start + 1), false, 0),
        (at(want.window_start + 2 * 86_400), false, 0),
        (at(i64::MAX), false, 0),
        (at(-86_400), false, 0),
        (AccountReport { budget: "gone".into(), ..want.clone() }, false, 0),
        (AccountReport { scope: "nul\0".into(), ..want.clone() }, false, 0),
        (AccountReport { scope: "x".repeat(5_000), ..want.clone() }, false, 0),
        (AccountReport { budget: "hourly".into(), window_start: want.window_start + 1, ..want.clone() }, false, 0),
        (at(want.window_start - 86_400), true, 0),
        (at(want.window_start + 86_400), true, 5),
        (want.clone(), true, 5),
    ];
    let request = holder.request(odd.iter().map(|(report, ..)| report.clone()).collect());
    let answer = holder.send(&request).await.unwrap();
    let got: Vec<_> = answer.accounts.iter().map(|grant| (grant.known, grant.granted)).collect();
    assert_eq!(got, odd.iter().map(|(_, known, granted)| (*known, *granted)).collect::<Vec<_>>());
    // A past window still books what was spent in it.
    let late = holder.report(AccountReport { used: 4, ..at(want.window_start - 86_400) }).await;
    assert_eq!((late.granted, late.settled), (4, 4));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_stopping_process_books_and_grants_nothing(pool: PgPool) {
    let state = state(&pool, 100).await;
    let (mut holder, scope) = (Holder::new(&state).await, scope());
    holder.report(holder.want("daily", &scope, 0, 5, 5)).await;
    state.shutdown.cancel();
    let grant = holder.report(holder.want("daily", &scope, 5, 9, 9)).await;
    assert_eq!((grant.granted, grant.settled), (5, 5));
}

#[sqlx::test(migrations = "../migrations")]
async fn what_valkey_lost_is_adopted(pool: PgPool) {
    let state = state(&pool, 100).await;
    let (mut holder, scope) = (Holder::new(&state).await, scope());
    let adopted = holder.report(holder.want("hourly", &scope, 95, 97, 97)).await;
    assert_eq!((adopted.granted, adopted.settled), (97, 95));
    assert_eq!(Holder::new(&state).await.report(holder.want("hourly", &scope, 0, 50, 9)).await.granted, 3);
}

async fn listed(holder: &Holder, query: &str) -> (u16, serde_json::Value) {
    let bearer = format!("Bearer {}", token("vera", "viewer", false));
    let request = Request::get(format!("/admin/v1/budgets?{query}")).header(header::AUTHORIZATION, bearer);
    let response = admin_app(holder.state.clone()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap())
}

#[sqlx::test(migrations = "../migrations")]
async fn budgets_are_listed_with_what_is_spent_leased_and_left(pool: PgPool) {
    let state = state(&pool, 100).await;
    let (mut holder, scope) = (Holder::new(&state).await, scope());
    for budget in ["daily", "hourly"] {
        holder.report(holder.want(budget, &scope, 0, 30, 30)).await;
        holder.report(AccountReport { overrun: 4, ..holder.want(budget, &scope, 10, 30, 30) }).await;
    }
    let (status, list) = listed(&holder, &format!("scope={scope}")).await;
    assert_eq!((status, list["accounts"].as_array().unwrap().len(), &list["unavailable"]), (200, 2, &serde_json::json!([])));
    for (account, (budget, durable)) in list["accounts"].as_array().unwrap().iter().zip([("daily", true), ("hourly", false)]) {
        let number = |name: &str| account[name].as_i64().unwrap();
        assert_eq!((account["budget"].as_str(), account["durable"].as_bool()), (Some(budget), Some(durable)));
        let numbers = ["cap", "settled", "leased", "forfeited", "overrun", "over_grant", "remaining"].map(number);
        assert_eq!(numbers, [100, 10, 20, 0, 4, 0, 66], "{budget}");
    }
    assert_eq!(listed(&holder, "budget=daily").await.1["accounts"].as_array().unwrap().len(), 1);
    assert_eq!(listed(&holder, "budget=gone").await.1["accounts"].as_array().unwrap().len(), 0);
    assert_eq!(listed(&holder, "buget=daily").await.0, 400, "an unknown parameter is no silent wildcard");
}

/// Follows a list to its end, and lets `meanwhile` happen after every page. Answers its accounts, and how many pages there were.
async fn walked(holder: &Holder, query: &str, mut meanwhile: impl AsyncFnMut(usize)) -> (Vec<(String, String, bool)>, usize) {
    let (mut all, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let (status, list) = listed(holder, &format!("{query}{cursor}")).await;
        assert_eq!((status, &list["unavailable"]), (200, &serde_json::json!([])));
        let text = |account: &serde_json::Value, name: &str| account[name].as_str().unwrap().to_owned();
        let accounts = list["accounts"].as_array().unwrap();
        all.extend(accounts.iter().map(|account| (text(account, "budget"), text(account, "scope"), account["durable"] == true)));
        pages += 1;
        let Some(next) = list["next_cursor"].as_str() else { return (all, pages) };
        cursor = format!("&cursor={next}");
        meanwhile(pages).await;
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn accounts_are_listed_in_pages_that_new_accounts_do_not_move(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    for scope in ["agent=b", "agent=d", "agent=f", "agent=h", "agent=j"] {
        holder.report(holder.want("daily", scope, 1, 1, 1)).await;
    }
    holder.report(holder.want("platform-rate", "platform", 1, 1, 1)).await;
    let mut other = holder.clone();
    let (all, pages) = walked(&holder, "limit=2", async |page| {
        // One before and one behind where the page ended.
        if page == 1 {
            for scope in ["agent=a", "agent=e"] {
                other.report(other.want("daily", scope, 1, 1, 1)).await;
            }
        }
    })
    .await;
    let daily = ["b", "d", "e", "f", "h", "j"].map(|agent| ("daily".to_owned(), format!("agent={agent}"), true));
    let want: Vec<_> = daily.into_iter().chain([("platform-rate".to_owned(), "platform".to_owned(), false)]).collect();
    assert_eq!((all, pages), (want, 4));

    let scope = scope();
    for budget in ["daily", "hourly", "watched"] {
        other.report(other.want(budget, &scope, 1, 1, 1)).await;
    }
    for (limit, pages) in [(1, 3), (2, 2), (3, 1), (4, 1)] {
        let (all, walked) = walked(&holder, &format!("scope={scope}&limit={limit}"), async |_| {}).await;
        assert_eq!(all.iter().map(|(budget, ..)| &**budget).collect::<Vec<_>>(), ["daily", "hourly", "watched"], "{limit}");
        assert_eq!(walked, pages, "{limit}: the last page is known to be the last");
    }
    for wrong in ["cursor=7", "cursor=", "limit=0", "limit=1001"] {
        assert_eq!(listed(&holder, wrong).await.0, 400, "{wrong}");
    }
}

#[derive(Clone, Debug)]
struct Move {
    holder: usize,
    step: u64,
    room: u8,
    report: Report,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let units = || (0..30_i64).prop_map(Units::new);
    let report = (1..4_u64, units(), units(), units(), units(), units(), 0..5_i64, prop::bool::weighted(0.2)).prop_map(
        |(generation, used, held, overrun, target, minimum, charge, close)| Report {
            generation,
            used,
            held,
            overrun,
            target,
            minimum,
            charge: Units::new(charge),
            close,
        },
    );
    let one = (0..3_usize, 0..3_u64, 0..8_u8, report).prop_map(|(holder, step, room, report)| Move { holder, step, room, report });
    prop::collection::vec(one, 1..30)
}

/// The script and the function agree on every grant, every number and whom they ask to give back, for any sequence of new, repeated and older calls.
#[test]
fn the_script_is_the_ledger() {
    let redis_url = std::env::var("REDIS_URL").expect("REDIS_URL is not set: run the tests with `make test`");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = redis::Client::open(redis_url).unwrap();
    let connection = runtime.block_on(redis::aio::ConnectionManager::new(client)).unwrap();
    let mut runner = TestRunner::new(Config { cases: 150, failure_persistence: None, ..Config::default() });
    let start = 1_700_000_000 / 3_600 * 3_600;
    let outcome = runner.run(&(moves(), 1..60_i64), |(moves, cap)| {
        let mut connection = connection.clone();
        let ids = [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()].map(HolderId);
        let key = AccountKey { budget: "b".into(), scope: scope(), window_start: start };
        let (mut account, mut leases, mut calls, mut exists, mut recalled) = (Account::default(), [None; 3], [0_u64; 3], false, false);
        for Move { holder, step, room, report } in moves {
            let room = match room {
                0 => Room::Unknown,
                1 => Room::Ended,
                2 => Room::Exact { cap: Units::new(cap) },
                _ => Room::Open { cap: Units::new(cap), holders: u32::from(room) / 3 + 1 },
            };
            let call = calls[holder] + step;
            let mut want =
                leases[holder].filter(|lease: &Lease| lease.generation == report.generation).map_or(Units::ZERO, |lease| lease.granted);
            if step > 0 {
                let booked = ledger::book(account, leases[holder], &report, room);
                (account, leases[holder], want) = (booked.account, booked.lease, booked.granted);
                recalled |= booked.recall == Recall::Needed;
                // The script remembers calls only of accounts that exist, and makes none that is unknown.
                exists |= room != Room::Unknown;
                if exists {
                    calls[holder] = call;
                }
            }
            let window_end = Some(i64::from(u32::MAX));
            let posting = Posting {
                key: key.clone(),
                window_end,
                cap: Units::new(cap),
                room,
                reports: vec![(0, report)],
                thresholds: None,
                overriding: None,
            };
            let call = i64::try_from(call).unwrap();
            let now = Timestamp::from_seconds(start);
            let answer = runtime.block_on(valkey::apply(&mut connection, ids[holder], call, std::slice::from_ref(&posting), now)).unwrap();
            prop_assert_eq!(answer.grants[0].1.granted, want.get());
            // No time passes, so that a recall lasts.
            prop_assert_eq!(answer.recalls.len() == 1, recalled && posting.has_to_spare(leases[holder].as_ref()));
            let kept = runtime.block_on(valkey::read(&mut connection, &key)).unwrap().unwrap_or_default();
            prop_assert_eq!(kept, account);
        }
        Ok(())
    });
    outcome.unwrap();
}

/// Closing a holder locks accounts in the order of their keys, whether the policy knows their budgets or not. A call that locked
/// those of gone budgets last would meet it in a circle.
#[sqlx::test(migrations = "../migrations")]
async fn accounts_of_budgets_that_are_gone_are_locked_in_their_place(pool: PgPool) {
    let state = state(&pool, 100).await;
    let (mut holder, scope) = (Holder::new(&state).await, scope());
    holder.report(holder.want("daily", &scope, 0, 5, 5)).await;
    sqlx::query(
        "WITH gone AS (INSERT INTO budget_accounts (budget, scope, window_start, window_end, committed) \
             SELECT 'before', scope, window_start, window_end, 9 FROM budget_accounts RETURNING account_id) \
         INSERT INTO budget_leases SELECT $1, account_id, 1, 9, 0, 0, 0 FROM gone",
    )
    .bind(Uuid::from_bytes(holder.id))
    .execute(&pool)
    .await
    .unwrap();
    let mut closing = pool.begin().await.unwrap();
    sqlx::query("SELECT FROM budget_accounts WHERE budget = 'before' FOR UPDATE").execute(&mut *closing).await.unwrap();
    let gone = AccountReport { budget: "before".into(), ..holder.want("daily", &scope, 2, 2, 2) };
    let never = AccountReport { budget: "a-budget-that-never-was".into(), ..gone.clone() };
    let report = holder.request(vec![holder.want("daily", &scope, 3, 6, 6), gone, never]);
    let call = tokio::spawn(async move { holder.send(&report).await });
    loop {
        let (waiting,): (i64,) =
            sqlx::query_as("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
                .fetch_one(&pool)
                .await
                .unwrap();
        if waiting > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let later = sqlx::query("SELECT FROM budget_accounts WHERE budget = 'daily' FOR UPDATE NOWAIT").execute(&mut *closing).await;
    assert!(later.is_ok(), "the call holds the lock of a later account while it waits for an earlier one: {later:?}");
    closing.commit().await.unwrap();
    let answer = call.await.unwrap().unwrap();
    let told: Vec<_> = answer.accounts.iter().map(|grant| (grant.granted, grant.settled, grant.known)).collect();
    assert_eq!(told, [(6, 3, true), (2, 2, false), (0, 0, false)]);
    let (accounts,): (i64,) = sqlx::query_as("SELECT count(*) FROM budget_accounts").fetch_one(&pool).await.unwrap();
    assert_eq!(accounts, 2, "what never was is not made");
}
