//! Checkpoints for a receiver outside: posted in their order, at least once each, by whichever replica has the turn. What is not taken is
//! posted again for ever, and keeps nobody from signing.

use super::checkpoints::digest;
use super::export;
use crate::app::AppState;
use crate::metrics::Metrics;
use crate::outbound::{CallError, Post};
use crate::webhooks::deliver::back_off;
use decision_core::causes::chain;
use serde_json::json;
use sqlx::PgPool;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often a replica looks whether there is one to be posted.
const PERIOD: Duration = Duration::from_secs(5);

/// Longer than posting one may take; then another replica has the turn.
const TURN: Duration = Duration::from_secs(30);

/// The longest wait after a failure.
const BACK_OFF_MAX: Duration = Duration::from_secs(300);

/// How many are read at once.
const READ_AT_ONCE: i64 = 20;

/// Why a checkpoint was not posted. It is posted again.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Postgres failed.
    #[error("database failure")]
    Database(#[from] sqlx::Error),
    /// The receiver did not take it.
    #[error("the receiver did not take checkpoint {number}")]
    Call {
        /// Which.
        number: i64,
        /// Why.
        #[source]
        source: CallError,
    },
}

/// Posts until `stop` is cancelled.
pub fn spawn(state: AppState, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        match state.settings.audit_checkpoints_url.clone() {
            Some(url) => stop.run_until_cancelled(run(&state, &url)).await.unwrap_or(()),
            None => stop.cancelled().await,
        }
    })
}

async fn run(state: &AppState, url: &str) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = publish_due(state, url).await {
            tracing::warn!(error = %chain(&error), "checkpoints of the audit log wait to be posted");
        }
    }
}

/// Posts what the receiver has not taken, if it is this replica's turn. Says how many it took.
///
/// # Errors
/// One was not taken. It is posted again after a while, and those behind it wait.
pub async fn publish_due(state: &AppState, url: &str) -> Result<u64, PublishError> {
    let Some(turn) = Turn::take(&state.database, url).await? else { return Ok(0) };
    let mut posted = 0_u64;
    let mut last = turn.number;
    loop {
        let page = export::after(&state.database, last, READ_AT_ONCE).await?;
        if page.is_empty() {
            set(&state.database, url, last, 0, Duration::ZERO).await?;
            return Ok(posted);
        }
        for (number, jws) in page {
            if let Err(source) = post(state, url, number, &jws).await {
                let attempts = turn.attempts_after(posted).saturating_add(1);
                set(&state.database, url, last, attempts, back_off(attempts).min(BACK_OFF_MAX)).await?;
                return Err(PublishError::Call { number, source });
            }
            set(&state.database, url, number, 0, TURN).await?;
            (last, posted) = (number, posted.saturating_add(1));
        }
    }
}

async fn post(state: &AppState, url: &str, number: i64, jws: &str) -> Result<(), CallError> {
    // The JWS is signed; nothing else of it has to be believed.
    let body = json!({"type": "audit.checkpoint", "data": {"number": number, "jws": jws}}).to_string().into_bytes();
    let headers = [("webhook-id", digest(jws))];
    let taken = state.webhooks.post_json(url, Post { headers: &headers, body }).await;
    Metrics::count(&state.metrics.webhook_attempts, if taken.is_ok() { "delivered" } else { "failed" });
    taken.map(|_status| ())
}

/// A replica's turn at a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
struct Turn {
    /// The last checkpoint that the receiver took.
    number: i64,
    /// How often the next one was posted in vain.
    attempts: i32,
}

impl Turn {
    /// Takes it, unless another replica has it, or it is to be waited; a fenced control plane tells nobody of its past.
    async fn take(database: &PgPool, url: &str) -> Result<Option<Self>, sqlx::Error> {
        sqlx::query_as(
            "INSERT INTO checkpoint_posts AS p (url, next_attempt_at) SELECT $1, now() + make_interval(secs => $2) \
             FROM gateway_database WHERE fenced_at IS NULL \
             ON CONFLICT (url) DO UPDATE SET next_attempt_at = EXCLUDED.next_attempt_at WHERE p.next_attempt_at <= now() \
             RETURNING number, attempts",
        )
        .bind(url)
        .bind(TURN.as_secs_f64())
        .fetch_optional(database)
        .await
    }

    const fn attempts_after(self, posted: u64) -> i32 {
        if posted == 0 { self.attempts } else { 0 }
    }
}

async fn set(database: &PgPool, url: &str, number: i64, attempts: i32, wait: Duration) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE checkpoint_posts SET number = $2, attempts = $3, next_attempt_at = now() + make_interval(secs => $4) \
         WHERE url = $1 AND number <= $2",
    )
    .bind(url)
    .bind(number)
    .bind(attempts)
    .bind(wait.as_secs_f64())
    .execute(database)
    .await
    .map(|_done| ())
}
