//! The outbox in Postgres. A claim is a lease: a replica that dies in the middle of an attempt loses the attempt, not the
//! event.

use super::Event;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{FromRow, PgConnection, PgPool};
use std::time::Duration;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;
use wire::policy::Webhook;

/// Longer than an attempt may take; then another replica may try.
const LEASE: Duration = Duration::from_secs(30);

/// How long delivered events can be looked up.
const DELIVERED_KEPT: Duration = Duration::from_secs(30 * 86_400);

/// Writes an event, in the transaction that makes it true.
///
/// # Errors
/// Postgres failed.
pub async fn enqueue(connection: &mut PgConnection, webhook: &Webhook, event: Event, payload: Value) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO webhook_deliveries (id, event_type, url, secret, payload) VALUES ($1, $2, $3, $4, $5)")
        .bind(Uuid::now_v7())
        .bind(event.name())
        .bind(&webhook.url)
        .bind(&webhook.secret)
        .bind(payload)
        .execute(connection)
        .await
        .map(|_done| ())
}

/// Writes events of one kind, in this order, in the transaction that makes them true.
///
/// # Errors
/// Postgres failed.
pub async fn enqueue_all(connection: &mut PgConnection, webhook: &Webhook, event: Event, payloads: &[Value]) -> Result<(), sqlx::Error> {
    if payloads.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO webhook_deliveries (id, event_type, url, secret, payload) \
         SELECT id, $1, $2, $3, payload FROM UNNEST($4::uuid[], $5::jsonb[]) AS n (id, payload)",
    )
    .bind(event.name())
    .bind(&webhook.url)
    .bind(&webhook.secret)
    .bind(payloads.iter().map(|_payload| Uuid::now_v7()).collect::<Vec<_>>())
    .bind(payloads)
    .execute(connection)
    .await
    .map(|_done| ())
}

/// An event that this replica is to deliver now.
#[derive(Clone, Debug, FromRow)]
pub struct Claimed {
    /// Its id, the receiver's key to repetitions.
    pub id: Uuid,
    /// What happened.
    pub event_type: String,
    /// Where to.
    pub url: String,
    /// The name of the secret that signs.
    pub secret: String,
    /// What the event says.
    pub payload: Value,
    /// When it happened.
    pub created_at: OffsetDateTime,
    /// Which attempt of its round this is, from 1.
    pub attempts: i32,
}

/// Takes what is due, oldest first.
///
/// # Errors
/// Postgres failed.
pub async fn claim(database: &PgPool, most: i64) -> Result<Vec<Claimed>, sqlx::Error> {
    sqlx::query_as(
        "UPDATE webhook_deliveries SET attempts = attempts + 1, next_attempt_at = now() + make_interval(secs => $2) \
         WHERE id IN (SELECT id FROM webhook_deliveries WHERE delivered_at IS NULL AND dead_at IS NULL AND next_attempt_at <= now() \
             ORDER BY next_attempt_at LIMIT $1 FOR UPDATE SKIP LOCKED) \
         RETURNING id, event_type, url, secret, payload, created_at, attempts",
    )
    .bind(most)
    .bind(LEASE.as_secs_f64())
    .fetch_all(database)
    .await
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempted {
    /// The receiver took it.
    Delivered {
        /// The answer's status.
        status: u16,
    },
    /// Not this time.
    Failed {
        /// A class such as `timed_out`.
        error: &'static str,
        /// The answer's status, if there was an answer.
        status: Option<u16>,
        /// When to try again; never, if it was tried often enough.
        again_in: Option<Duration>,
    },
}

/// Notes what came of an attempt, unless the lease ran out and another one began.
///
/// # Errors
/// Postgres failed.
pub async fn note(database: &PgPool, claimed: &Claimed, attempted: Attempted) -> Result<(), sqlx::Error> {
    let (delivered, error, status, again_in) = match attempted {
        Attempted::Delivered { status } => (true, None, Some(status), None),
        Attempted::Failed { error, status, again_in } => (false, Some(error), status, again_in),
    };
    sqlx::query(
        "UPDATE webhook_deliveries SET delivered_at = CASE WHEN $3 THEN now() END, \
             dead_at = CASE WHEN NOT $3 AND $6::float8 IS NULL THEN now() END, last_error = $4, last_status = $5, \
             next_attempt_at = now() + make_interval(secs => coalesce($6, 0)) \
         WHERE id = $1 AND attempts = $2 AND delivered_at IS NULL AND dead_at IS NULL",
    )
    .bind(claimed.id)
    .bind(claimed.attempts)
    .bind(delivered)
    .bind(error)
    .bind(status.map(i32::from))
    .bind(again_in.map(|wait| wait.as_secs_f64()))
    .execute(database)
    .await
    .map(|_done| ())
}

/// How far a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits, for the first attempt or another.
    Pending,
    /// The receiver took it.
    Delivered,
    /// Given up; an operator may have it delivered again.
    Dead,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}

/// A delivery, for operators. Neither payload nor secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Delivery {
    /// Its id: the receiver sees it as `webhook-id`.
    pub id: Uuid,
    /// `approval.requested`, `approval.decided`, …
    pub event_type: String,
    /// Where to.
    pub url: String,
    /// `pending`, `delivered` or `dead`.
    pub state: String,
    /// How often it was tried in this round.
    pub attempts: i32,
    /// When it happened.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// When it is tried next, while pending.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_attempt_at: Option<OffsetDateTime>,
    /// When the receiver took it.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub delivered_at: Option<OffsetDateTime>,
    /// When it was given up.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub dead_at: Option<OffsetDateTime>,
    /// Why the last attempt failed: `refused`, `unreachable`, `timed_out`, `status` or `secret`.
    pub last_error: Option<String>,
    /// The status of the last answer.
    pub last_status: Option<i32>,
}

macro_rules! select_deliveries {
    ($rest:literal) => {
        concat!(
            "SELECT id, event_type, url, \
                 CASE WHEN delivered_at IS NOT NULL THEN 'delivered' WHEN dead_at IS NOT NULL THEN 'dead' ELSE 'pending' END AS state, \
                 attempts, created_at, CASE WHEN delivered_at IS NULL AND dead_at IS NULL THEN next_attempt_at END AS next_attempt_at, \
                 delivered_at, dead_at, last_error, last_status \
             FROM webhook_deliveries ",
            $rest
        )
    };
}

/// Deliveries, newest first.
///
/// # Errors
/// Postgres failed.
pub async fn list(database: &PgPool, state: Option<State>, limit: i64) -> Result<Vec<Delivery>, sqlx::Error> {
    sqlx::query_as(select_deliveries!(
        "WHERE $1::text IS NULL OR ($1 = 'delivered' AND delivered_at IS NOT NULL) OR ($1 = 'dead' AND dead_at IS NOT NULL) \
             OR ($1 = 'pending' AND delivered_at IS NULL AND dead_at IS NULL) \
         ORDER BY created_at DESC, id DESC LIMIT $2"
    ))
    .bind(state.map(State::name))
    .bind(limit)
    .fetch_all(database)
    .await
}

/// One delivery, locked for a change.
///
/// # Errors
/// Postgres failed.
pub async fn lock(connection: &mut PgConnection, id: Uuid) -> Result<Option<Delivery>, sqlx::Error> {
    sqlx::query_as(select_deliveries!("WHERE id = $1 FOR UPDATE")).bind(id).fetch_optional(connection).await
}

/// Starts a new round of attempts.
///
/// # Errors
/// Postgres failed.
pub async fn restart(connection: &mut PgConnection, id: Uuid) -> Result<Delivery, sqlx::Error> {
    sqlx::query("UPDATE webhook_deliveries SET attempts = 0, next_attempt_at = now(), delivered_at = NULL, dead_at = NULL WHERE id = $1")
        .bind(id)
        .execute(&mut *connection)
        .await?;
    sqlx::query_as(select_deliveries!("WHERE id = $1")).bind(id).fetch_one(connection).await
}

/// How many wait, and how many are dead.
///
/// # Errors
/// Postgres failed.
pub async fn counts(database: &PgPool) -> Result<(i64, i64), sqlx::Error> {
    sqlx::query_as(
        "SELECT (SELECT count(*) FROM webhook_deliveries WHERE delivered_at IS NULL AND dead_at IS NULL), \
                (SELECT count(*) FROM webhook_deliveries WHERE dead_at IS NOT NULL)",
    )
    .fetch_one(database)
    .await
}

/// Deletes what was delivered long ago. What is dead stays until somebody looked at it.
///
/// # Errors
/// Postgres failed.
pub async fn forget(database: &PgPool) -> Result<u64, sqlx::Error> {
    sqlx::query(
        "DELETE FROM webhook_deliveries WHERE id IN (SELECT id FROM webhook_deliveries \
         WHERE delivered_at < now() - make_interval(secs => $1) ORDER BY delivered_at LIMIT 1000 FOR UPDATE SKIP LOCKED)",
    )
    .bind(DELIVERED_KEPT.as_secs_f64())
    .execute(database)
    .await
    .map(|done| done.rows_affected())
}
