//! Keeps the copy in memory current: read whole at start, and what changed whenever a commit says so.

use super::{Revoked, store};
use crate::app::AppState;
use decision_core::causes::chain;
use sqlx::PgPool;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The floor under LISTEN/NOTIFY: a lost notification costs at most this.
const POLL: Duration = Duration::from_secs(1);

/// Reads everything.
///
/// # Errors
/// The database fails.
pub async fn load(database: &PgPool) -> Result<Revoked, sqlx::Error> {
    let revoked = Revoked::default();
    read(database, &revoked).await?;
    Ok(revoked)
}

/// Reads what changed since the last time.
///
/// # Errors
/// The database fails; what is known stays.
pub async fn refresh(state: &AppState) -> Result<(), sqlx::Error> {
    read(&state.database, &state.revoked).await?;
    state.metrics.revocations(state.revoked.number(), state.revoked.live());
    Ok(())
}

/// The same after a commit. A failure does not undo that: whoever asked gets their answer, and the next poll makes up for it.
pub async fn refresh_after_commit(state: &AppState) {
    if let Err(error) = refresh(state).await {
        tracing::warn!(error = %chain(&error), "what was committed is not in force here yet; the next poll reads it");
    }
}

async fn read(database: &PgPool, revoked: &Revoked) -> Result<(), sqlx::Error> {
    let _alone = revoked.reading.lock().await;
    let known = i64::try_from(revoked.number()).unwrap_or(i64::MAX);
    let asked = Instant::now();
    let (counter, changes) = store::changes_after(database, known).await?;
    if counter.number < known {
        // The database was set back: nothing that is known here can be relied on.
        let (counter, changes) = store::changes_after(database, 0).await?;
        revoked.apply(counter, &changes, true);
    } else {
        revoked.apply(counter, &changes, known == 0);
    }
    revoked.was_read(asked);
    Ok(())
}

/// Follows until dropped. `woken` says that there is news.
pub async fn run(state: &AppState, woken: &Notify) {
    loop {
        // Either ends the wait; a missed notification is made up for by the next poll.
        let _ = tokio::time::timeout(POLL, woken.notified()).await;
        if let Err(error) = refresh(state).await {
            tracing::warn!(error = %chain(&error), "revocations not read; what is known stays");
        }
    }
}
