//! Delivers what is in the outbox. Every replica does; a slow receiver holds up a bounded number of attempts and nothing else.

use super::signature::SigningKey;
use super::store::{self, Attempted, Claimed};
use crate::app::AppState;
use crate::metrics::Metrics;
use crate::outbound::{CallError, Post};
use crate::secrets::SecretsDirectory;
use decision_core::causes::chain;
use serde_json::json;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// How often a replica looks what is due.
const POLL: Duration = Duration::from_millis(500);

/// Attempts that one replica makes at the same time.
const AT_ONCE: usize = 16;

/// The wait after the first failure. It doubles with each further one.
const BACK_OFF_FIRST_S: f64 = 2.0;

/// The longest wait.
const BACK_OFF_MAX_S: f64 = 3_600.0;

/// Starts deliveries. They end when `stop` is cancelled; what was being tried is tried again when its lease runs out.
pub fn spawn(state: AppState, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move { stop.run_until_cancelled(run(&state)).await.unwrap_or(()) })
}

async fn run(state: &AppState) {
    let mut attempts = JoinSet::new();
    loop {
        let room = AT_ONCE.saturating_sub(attempts.len());
        match store::claim(&state.database, i64::try_from(room).unwrap_or(0)).await {
            Ok(claimed) => claimed.into_iter().for_each(|claimed| {
                let state = state.clone();
                attempts.spawn(async move { attempt(&state, &claimed).await });
            }),
            Err(error) => tracing::warn!(error = %chain(&error), "cannot tell which webhooks are due"),
        }
        tokio::time::sleep(POLL).await;
        while attempts.try_join_next().is_some() {}
    }
}

/// Delivers everything that is due now, and says how much that was.
///
/// # Errors
/// Postgres failed.
pub async fn deliver_due(state: &AppState) -> Result<usize, sqlx::Error> {
    let claimed = store::claim(&state.database, i64::try_from(AT_ONCE).unwrap_or(0)).await?;
    for claimed in &claimed {
        attempt(state, claimed).await;
    }
    Ok(claimed.len())
}

/// Why an attempt failed. The texts are for the log; what is stored is the class.
#[derive(Debug, thiserror::Error)]
enum DeliverError {
    /// There is no usable key.
    #[error("no key to sign with: {0}")]
    Secret(String),
    /// The event cannot be written, which would be our fault.
    #[error("the event cannot be written")]
    Body(#[source] serde_json::Error),
    /// The receiver did not take it.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl DeliverError {
    fn class(&self) -> &'static str {
        match self {
            Self::Secret(_) => "secret",
            Self::Body(_) => "body",
            Self::Call(error) => error.class().unwrap_or("status"),
        }
    }

    fn status(&self) -> Option<u16> {
        if let Self::Call(CallError::Status(status)) = self { Some(status.as_u16()) } else { None }
    }
}

async fn attempt(state: &AppState, claimed: &Claimed) {
    let attempted = match deliver(state, claimed).await {
        Ok(status) => Attempted::Delivered { status },
        Err(error) => {
            let last = claimed.attempts >= state.settings.webhook_attempts_max;
            let again_in = (!last).then(|| back_off(claimed.attempts));
            let (event, attempts) = (&claimed.event_type, claimed.attempts);
            tracing::warn!(id = %claimed.id, event, attempts, dead = last, error = %chain(&error), "a webhook was not delivered");
            Attempted::Failed { error: error.class(), status: error.status(), again_in }
        }
    };
    let outcome = match attempted {
        Attempted::Delivered { .. } => "delivered",
        Attempted::Failed { again_in: Some(_), .. } => "failed",
        Attempted::Failed { again_in: None, .. } => "dead",
    };
    Metrics::count(&state.metrics.webhook_attempts, outcome);
    if let Err(error) = store::note(&state.database, claimed, attempted).await {
        // The lease runs out by itself, and the receiver tells a repetition by its id.
        tracing::warn!(id = %claimed.id, error = %chain(&error), "what came of a webhook could not be noted");
    }
}

async fn deliver(state: &AppState, claimed: &Claimed) -> Result<u16, DeliverError> {
    let key = signing_key(state, &claimed.secret).await?;
    let at = claimed.created_at.format(&Rfc3339).unwrap_or_default();
    let event = json!({ "type": claimed.event_type, "timestamp": at, "data": claimed.payload });
    let body = serde_json::to_vec(&event).map_err(DeliverError::Body)?;
    let (id, timestamp) = (claimed.id.to_string(), OffsetDateTime::now_utc().unix_timestamp());
    let signature = key.sign(&id, timestamp, &body);
    let headers = [("webhook-id", id), ("webhook-timestamp", timestamp.to_string()), ("webhook-signature", signature)];
    let status = state.webhooks.post_json(&claimed.url, Post { headers: &headers, body }).await?;
    Ok(status.as_u16())
}

/// Read for every attempt, so that a secret can be changed without a restart.
async fn signing_key(state: &AppState, name: &str) -> Result<SigningKey, DeliverError> {
    let (secrets, name) = (SecretsDirectory::new(&state.settings.secrets_dir), name.to_owned());
    let read = tokio::task::spawn_blocking(move || {
        let secret = secrets.read(&name).map_err(|error| error.to_string())?;
        SigningKey::of(&secret).map_err(|error| format!("the secret `{name}` {error}"))
    });
    read.await.map_err(|stopped| DeliverError::Secret(stopped.to_string()))?.map_err(DeliverError::Secret)
}

/// Doubles, with 0 to 20 % more, so that receivers which come back are not met by everything at once.
#[must_use]
pub fn back_off(attempts: i32) -> Duration {
    let doubled = BACK_OFF_FIRST_S * 2_f64.powi(attempts.saturating_sub(1).clamp(0, 30));
    Duration::from_secs_f64(doubled.min(BACK_OFF_MAX_S) * (1.0 + fastrand::f64() * 0.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_an_hour() {
        for (attempts, seconds) in [(1, 2.0), (2, 4.0), (5, 32.0), (11, 2_048.0), (12, 3_600.0), (i32::MAX, 3_600.0)] {
            let wait = back_off(attempts).as_secs_f64();
            assert!((seconds..=seconds * 1.2).contains(&wait), "{attempts}: {wait}");
        }
    }
}
