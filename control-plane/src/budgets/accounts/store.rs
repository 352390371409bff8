//! What people read of accounts in Postgres, and how long it is kept.

use crate::budgets::store::Listed;
use serde::Serialize;
use sqlx::{FromRow, PgPool};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

/// How long accounts are kept after their windows, and alerts after they were told.
const KEPT: &str = "90 days";

/// A lease on an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct LeaseView {
    /// The worker that has it.
    pub holder: Uuid,
    /// Its Envoy; absent when that is not known.
    pub envoy_id: Option<String>,
    /// Distinguishes it from earlier ones of the same worker.
    pub generation: i64,
    /// The grant, over the life of the lease.
    pub granted: i64,
    /// Charged so far.
    pub used: i64,
    /// Reserved by open requests.
    pub held: i64,
    /// When the worker was last heard of.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen_at: Option<OffsetDateTime>,
}

/// A lease that was charged in full because nobody could say what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct ForfeitView {
    /// The worker that had it.
    pub holder: Uuid,
    /// Its Envoy.
    pub envoy_id: Option<String>,
    /// How much was charged.
    pub units: i64,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
}

/// A threshold that was reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct AlertView {
    /// Its id.
    pub id: i64,
    /// The budget's name.
    pub budget: String,
    /// The scope with its values.
    pub scope: String,
    /// Start of the window.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub window_start: OffsetDateTime,
    /// End of the window.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub window_end: OffsetDateTime,
    /// `warning`, `high` or `critical`.
    pub level: String,
    /// The threshold, in percent of the cap.
    pub percent: i16,
    /// The cap that was in force.
    pub cap: i64,
    /// Charged by then, overruns included.
    pub settled: i64,
    /// When it was noticed.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
    /// The agent that was paused because of it.
    pub paused_agent: Option<String>,
}

/// The windows of one scope, latest first.
///
/// # Errors
/// Postgres failed.
pub async fn windows(database: &PgPool, budget: &str, scope: &str, limit: i64) -> Result<Vec<Listed>, sqlx::Error> {
    sqlx::query_as(
        "SELECT budget, scope, extract(epoch FROM window_start)::bigint AS window_start, \
             extract(epoch FROM window_end)::bigint AS window_end, committed, settled, held, forfeited, overrun, over_grant, level \
         FROM budget_accounts WHERE budget = $1 AND scope = $2 AND window_start <= now() ORDER BY window_start DESC LIMIT $3",
    )
    .bind(budget)
    .bind(scope)
    .bind(limit)
    .fetch_all(database)
    .await
}

/// The open leases on one account.
///
/// # Errors
/// Postgres failed.
pub async fn leases(database: &PgPool, budget: &str, scope: &str, window_start: i64) -> Result<Vec<LeaseView>, sqlx::Error> {
    sqlx::query_as(
        "SELECT l.holder, h.envoy_id, l.generation, l.granted, l.used, l.held, h.last_seen_at \
         FROM budget_leases AS l JOIN budget_accounts AS a USING (account_id) LEFT JOIN holders AS h ON h.holder = l.holder \
         WHERE a.budget = $1 AND a.scope = $2 AND a.window_start = to_timestamp($3::bigint) ORDER BY l.granted DESC, l.holder LIMIT 1000",
    )
    .bind(budget)
    .bind(scope)
    .bind(window_start)
    .fetch_all(database)
    .await
}

/// Envoys of holders, and when these were last heard of.
///
/// # Errors
/// Postgres failed.
pub async fn holders(database: &PgPool, holders: &[Uuid]) -> Result<Vec<(Uuid, String, OffsetDateTime)>, sqlx::Error> {
    sqlx::query_as("SELECT holder, envoy_id, last_seen_at FROM holders WHERE holder = ANY($1)").bind(holders).fetch_all(database).await
}

/// The forfeits of one scope, latest first.
///
/// # Errors
/// Postgres failed.
pub async fn forfeits(database: &PgPool, budget: &str, scope: &str, limit: i64) -> Result<Vec<ForfeitView>, sqlx::Error> {
    sqlx::query_as(
        "SELECT f.holder, h.envoy_id, f.units, f.at FROM budget_forfeits AS f JOIN budget_accounts AS a USING (account_id) \
         LEFT JOIN holders AS h ON h.holder = f.holder WHERE a.budget = $1 AND a.scope = $2 ORDER BY f.id DESC LIMIT $3",
    )
    .bind(budget)
    .bind(scope)
    .bind(limit)
    .fetch_all(database)
    .await
}

/// Which alerts to list; all that is absent matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertFilter {
    /// The budget.
    pub budget: Option<String>,
    /// The scope.
    pub scope: Option<String>,
    /// The level.
    pub level: Option<&'static str>,
    /// Noticed then or later.
    pub from: Option<OffsetDateTime>,
    /// Noticed before.
    pub to: Option<OffsetDateTime>,
    /// Older ones than this id.
    pub before: Option<i64>,
}

/// Alerts, latest first.
///
/// # Errors
/// Postgres failed.
pub async fn alerts(database: &PgPool, filter: &AlertFilter, limit: i64) -> Result<Vec<AlertView>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, budget, scope, window_start, window_end, level, percent, cap, settled, at, paused_agent FROM budget_alerts \
         WHERE ($1::text IS NULL OR budget = $1) AND ($2::text IS NULL OR scope = $2) AND ($3::text IS NULL OR level = $3) \
             AND ($4::timestamptz IS NULL OR at >= $4) AND ($5::timestamptz IS NULL OR at < $5) AND ($6::bigint IS NULL OR id < $6) \
         ORDER BY id DESC LIMIT $7",
    )
    .bind(&filter.budget)
    .bind(&filter.scope)
    .bind(filter.level)
    .bind(filter.from)
    .bind(filter.to)
    .bind(filter.before)
    .bind(limit)
    .fetch_all(database)
    .await
}

/// Deletes accounts whose windows are long over, with their forfeits, and old alerts. An account with a lease stays: somebody
/// may still report. Says how many.
///
/// # Errors
/// Postgres failed.
pub async fn forget(database: &PgPool) -> Result<u64, sqlx::Error> {
    let accounts = sqlx::query(
        "DELETE FROM budget_accounts WHERE account_id IN (SELECT account_id FROM budget_accounts AS a \
         WHERE window_end < now() - $1::interval AND NOT EXISTS (SELECT FROM budget_leases AS l WHERE l.account_id = a.account_id) \
         ORDER BY window_end LIMIT 1000 FOR UPDATE SKIP LOCKED)",
    );
    let alerts = sqlx::query(
        "DELETE FROM budget_alerts WHERE id IN (SELECT id FROM budget_alerts \
         WHERE at < now() - $1::interval AND window_end < now() ORDER BY id LIMIT 1000 FOR UPDATE SKIP LOCKED)",
    );
    let accounts = accounts.bind(KEPT).execute(database).await?.rows_affected();
    let alerts = alerts.bind(KEPT).execute(database).await?.rows_affected();
    Ok(accounts.saturating_add(alerts))
}
