//! The fence: how it is noticed that a backup was restored, and what is done at once.

use super::{Past, close_holders, past};
use crate::admin_events::{self, Actor, AdminEvent};
use crate::app::AppState;
use crate::audit::checkpoints::lock_signing;
use crate::audit::export::{ExportError, Exported};
use crate::policies::store::database_id;
use decision_core::causes::chain;
use serde_json::json;
use sqlx::PgPool;
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// What an operator has to do.
pub const MESSAGE: &str = "fenced: checkpoints were exported that this database does not have, so a backup was restored. Nothing is granted and no approval is used up until `plant-gateway recover --from <that file> --reason …` was run";

/// How often a replica looks whether it is fenced, or was recovered.
const PERIOD: Duration = Duration::from_secs(1);

/// Compares the database with what was exported, and closes the fence if it lacks any of it.
///
/// # Errors
/// It cannot be compared.
pub async fn at_start(database: &PgPool, exported: Option<&Path>) -> Result<(), ExportError> {
    if let Some(path) = exported {
        match Exported::read(path)?.compare(path, database).await {
            Ok(()) => {}
            Err(ExportError::Diverged { number, .. }) => {
                close(database, number).await?;
            }
            Err(error @ (ExportError::File { .. } | ExportError::Foreign { .. } | ExportError::Held { .. } | ExportError::Database(_))) => {
                return Err(error);
            }
        }
    }
    match past(&mut *database.acquire().await?).await? {
        Past::Whole | Past::Recovered { .. } => {}
        Past::Fenced => tracing::error!("{MESSAGE}"),
    }
    Ok(())
}

/// Whether the fence was open before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fencing {
    /// It was, and is closed now.
    Closed,
    /// Somebody has closed it already.
    Already,
}

/// Closes the fence: `number` is the newest checkpoint that is known outside. Every holder is closed, since its chain may have been signed
/// for beyond what is here, and it may have leases that nobody here knows.
///
/// # Errors
/// Postgres failed; the fence is as it was.
pub async fn close(database: &PgPool, number: i64) -> Result<Fencing, sqlx::Error> {
    let mut transaction = database.begin().await?;
    // Whoever signs now has looked at the fence already.
    lock_signing(&mut transaction).await?;
    let (before,): (Option<i64>,) =
        sqlx::query_as("SELECT fenced_by FROM gateway_database FOR UPDATE").fetch_one(&mut *transaction).await?;
    sqlx::query("UPDATE gateway_database SET fenced_at = coalesce(fenced_at, now()), fenced_by = greatest(fenced_by, $1)")
        .bind(number)
        .execute(&mut *transaction)
        .await?;
    if before.is_some() {
        transaction.commit().await?;
        return Ok(Fencing::Already);
    }
    let holders = close_holders(&mut transaction).await?;
    let detail = json!({"checkpoint": number, "holders_closed": holders});
    let event = AdminEvent { action: "database.fence", target: "", reason: "it lacks checkpoints that were exported", detail };
    admin_events::record(&mut transaction, Actor::CONTROL_PLANE, event).await?;
    transaction.commit().await?;
    tracing::error!(checkpoint = number, holders_closed = holders, "{MESSAGE}");
    Ok(Fencing::Closed)
}

/// Shows whether this replica is fenced, until `stop` is cancelled. Ends by itself, and so the process, when the database has got another
/// id: nothing that is in memory here is of that one.
pub fn spawn(state: AppState, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move { stop.run_until_cancelled(watch(&state)).await.unwrap_or(()) })
}

async fn watch(state: &AppState) {
    let began = state.policy().version.database_id;
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let looked = async {
            let past = past(&mut *state.database.acquire().await?).await?;
            Ok::<_, sqlx::Error>((past, database_id(&state.database).await?))
        };
        match looked.await {
            Ok((_, id)) if id != began => {
                tracing::error!("the database was recovered and has another id: this process is to be started again");
                return;
            }
            Ok((past, _)) => {
                state.metrics.fenced.set(i64::from(past == Past::Fenced));
            }
            Err(error) => tracing::debug!(error = %chain(&error), "cannot tell whether this replica is fenced"),
        }
    }
}
