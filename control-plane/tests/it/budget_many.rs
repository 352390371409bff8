//! A holder with leases on many accounts, on real Postgres: closing it and hearing it take a few statements and few rows.

use crate::plane;
use crate::plane::Holder;
use control_plane::app::AppState;
use control_plane::budgets::alerts::Telling;
use control_plane::budgets::store;
use control_plane::drain::Draining;
use control_plane::holders::{Freshness, HolderId, close_one_silent};
use control_plane::sync::store::BEGIN;
use sqlx::{PgConnection, PgPool};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use uuid::Uuid;
use wire::policy::{Reporting, Webhook};

const LEASES: i32 = 25_000;

/// Counts what is sent to Postgres by this thread.
struct Statements(Arc<AtomicUsize>);

impl<S: tracing::Subscriber> Layer<S> for Statements {
    fn on_event(&self, event: &tracing::Event<'_>, _context: Context<'_, S>) {
        if event.metadata().target() == "sqlx::query" {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
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

/// Leases of 100 units, of which 10 are used, on so many accounts of a budget.
async fn lease(pool: &PgPool, holder: &Holder, budget: &str, accounts: i32) {
    sqlx::query(
        "WITH opened AS (INSERT INTO budget_accounts (budget, scope, window_start, window_end, committed, settled) \
             SELECT $1, format('agent:agent_id=%s:a-%s', length(n::text) + 2, n), to_timestamp($2), to_timestamp($2 + 86400), 100, 10 \
             FROM generate_series(1, $3::int) AS n RETURNING account_id) \
         INSERT INTO budget_leases SELECT $4, account_id, 1, 100, 10, 0, 0 FROM opened",
    )
    .bind(budget)
    .bind(plane::window_start(&holder.state, budget))
    .bind(accounts)
    .bind(Uuid::from_bytes(holder.id))
    .execute(pool)
    .await
    .unwrap();
}

async fn analyze(pool: &PgPool) {
    for table in ["ANALYZE budget_accounts", "ANALYZE budget_leases"] {
        sqlx::query(table).execute(pool).await.unwrap();
    }
}

async fn count(pool: &PgPool, table: &'static str) -> i64 {
    let (rows,): (i64,) = sqlx::query_as(table).fetch_one(pool).await.unwrap();
    rows
}

#[sqlx::test(migrations = "../migrations")]
async fn a_holder_with_many_leases_is_closed_in_a_few_statements(pool: PgPool) {
    let state = state(&pool).await;
    let mut holder = Holder::new(&state).await;
    let idle = holder.request(vec![]);
    holder.send(&idle).await.unwrap();
    let guarded = 500;
    lease(&pool, &holder, "daily", LEASES - guarded).await;
    lease(&pool, &holder, "guarded", guarded).await;
    analyze(&pool).await;
    sqlx::query("UPDATE holders SET last_seen_at = now() - interval '2 minutes'").execute(&pool).await.unwrap();

    let (statements, started, policy) = (Arc::new(AtomicUsize::new(0)), Instant::now(), state.policy());
    let counting = tracing_subscriber::registry().with(Statements(Arc::clone(&statements))).set_default();
    let closed = close_one_silent(&pool, Duration::from_secs(60), Telling::of(&policy), &state.caps).await.unwrap().unwrap();
    drop(counting);
    let (statements, took) = (statements.load(Ordering::Relaxed), started.elapsed());
    println!("{LEASES} leases are closed in {took:?}, {statements} statements");

    let lost = |accounts: i32| i64::from(accounts) * 90;
    assert_eq!(closed.forfeits, [("daily".to_owned(), lost(LEASES - guarded)), ("guarded".to_owned(), lost(guarded))]);
    assert_eq!(closed.told.len(), usize::try_from(LEASES).unwrap() * 3, "each account passed three levels");
    for (rows, table) in [
        (LEASES, "SELECT count(*) FROM budget_accounts WHERE level = 3 AND settled = 100 AND forfeited = 90"),
        (LEASES * 3, "SELECT count(*) FROM budget_alerts WHERE cap = 100 AND settled = 100"),
        (LEASES * 3, "SELECT count(*) FROM webhook_deliveries"),
        (guarded, "SELECT count(*) FROM webhook_deliveries WHERE payload ->> 'paused_agent' IS NOT NULL"),
        (guarded, "SELECT count(*) FROM budget_alerts WHERE paused_agent = split_part(scope, ':', 3) AND level = 'critical'"),
        (guarded, "SELECT count(*) FROM revocations WHERE kind = 'agent'"),
        (guarded, "SELECT count(*) FROM admin_events WHERE action = 'revocation.revoke' AND target LIKE 'agent a-%'"),
    ] {
        assert_eq!(count(&pool, table).await, i64::from(rows), "{table}");
    }
    assert!((5..=20).contains(&statements), "{statements} statements");
}

/// By this connection, since its counts were last collected.
async fn rows_read(connection: &mut PgConnection) -> i64 {
    let (rows,): (i64,) = sqlx::query_as(
        "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_xact_user_tables \
         WHERE relname IN ('budget_accounts', 'budget_leases')",
    )
    .fetch_one(connection)
    .await
    .unwrap();
    rows
}

#[sqlx::test(migrations = "../migrations")]
async fn a_call_looks_at_what_is_recalled_and_not_at_all_leases(pool: PgPool) {
    let state = state(&pool).await;
    let mut holder = Holder::new(&state).await;
    let idle = holder.request(vec![]);
    holder.send(&idle).await.unwrap();
    lease(&pool, &holder, "daily", LEASES).await;
    // Recalled long ago, as most accounts that ever were.
    sqlx::query("UPDATE budget_accounts SET recalled_at = now() - interval '1 hour' WHERE account_id % 2 = 0")
        .execute(&pool)
        .await
        .unwrap();
    // No ANALYZE: tables grow faster than their statistics.
    sqlx::query("UPDATE budget_accounts SET recalled_at = now() WHERE scope = 'agent:agent_id=4:a-77'").execute(&pool).await.unwrap();

    let mut transaction = pool.begin_with(BEGIN).await.unwrap();
    let id = HolderId(Uuid::from_bytes(holder.id));
    let before = rows_read(&mut transaction).await;
    let applied = store::apply(&mut transaction, id, &[], Freshness::New, u64::MAX, Draining::No).await.unwrap();
    assert_eq!(applied.recalls.iter().map(|recall| &*recall.scope).collect::<Vec<_>>(), ["agent:agent_id=4:a-77"]);
    let rows = rows_read(&mut transaction).await - before;
    let started = Instant::now();
    for _ in 0..100 {
        store::apply(&mut transaction, id, &[], Freshness::New, u64::MAX, Draining::No).await.unwrap();
    }
    println!("recalls of {LEASES} leases take {:?} and {rows} rows", started.elapsed() / 100);
    assert!(rows < 10, "{rows} rows are read");
}
