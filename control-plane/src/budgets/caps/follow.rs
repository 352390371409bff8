//! Keeps the copy in memory current: read whole at start, and what changed whenever a commit says so.

use super::{Caps, store};
use crate::app::AppState;
use decision_core::causes::chain;
use sqlx::PgPool;
use std::time::Duration;
use tokio::sync::Notify;

/// The floor under LISTEN/NOTIFY: a lost notification costs at most this.
const POLL: Duration = Duration::from_secs(1);

/// Reads everything.
///
/// # Errors
/// The database fails.
pub async fn load(database: &PgPool) -> Result<Caps, sqlx::Error> {
    let caps = Caps::default();
    refresh(database, &caps).await?;
    Ok(caps)
}

/// Reads what changed since the last time.
///
/// # Errors
/// The database fails; what is known stays.
pub async fn refresh(database: &PgPool, caps: &Caps) -> Result<(), sqlx::Error> {
    let _alone = caps.reading.lock().await;
    let known = i64::try_from(caps.number()).unwrap_or(i64::MAX);
    let read = store::changes_after(database, known).await?;
    if read.number < known {
        // The database was set back: nothing that is known here can be relied on.
        let read = store::changes_after(database, 0).await?;
        caps.apply(unsigned(read.number), &read.changes, true, read.now);
    } else {
        caps.apply(unsigned(read.number), &read.changes, known == 0, read.now);
    }
    Ok(())
}

/// The same after a commit. A failure does not undo that: whoever asked gets their answer, and the next poll makes up for it.
pub async fn refresh_after_commit(state: &AppState) {
    if let Err(error) = refresh(&state.database, &state.caps).await {
        tracing::warn!(error = %chain(&error), "the cap that was committed is not in force here yet; the next poll reads it");
    }
}

/// Follows until dropped. `woken` says that there is news.
pub async fn run(state: &AppState, woken: &Notify) {
    loop {
        // Either ends the wait; a missed notification is made up for by the next poll.
        let _ = tokio::time::timeout(POLL, woken.notified()).await;
        if let Err(error) = refresh(&state.database, &state.caps).await {
            tracing::warn!(error = %chain(&error), "caps not read; what is known stays");
        }
    }
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
