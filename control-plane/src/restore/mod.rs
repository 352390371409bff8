//! After a backup was restored. The database does not remember what was granted and used up after the backup; the checkpoints that were
//! exported do. So the control plane is *fenced*: it grants nothing and uses up no approval, until somebody has recovered it.
//!
//! ```text
//! exported checkpoint is unknown ─▶ fence ─▶ holders closed, nothing granted, nothing signed ─▶ `recover` ─▶ another id, signed record
//! ```
//! What is said here is in one row of the database, so that every replica obeys it with the next call.

pub mod fence;
pub mod recover;
pub mod witness;

use crate::audit;
use crate::budgets::store as accounts;
use crate::holders::HolderId;
use decision_core::time::Timestamp;
use sqlx::PgConnection;
use std::time::Duration;
use uuid::Uuid;

/// Leases of a window are asked for some seconds before it begins, and clocks differ: so long before a recovery nobody had leases of a
/// window that begins so long after it.
pub const AHEAD: Duration = Duration::from_secs(30);
/// A worker that the backup did not know speaks up within this time after the recovery: it calls three times a minute.
pub const STRANGERS: Duration = Duration::from_secs(24 * 3_600);

/// What the database remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// All of it, as far as anybody knows.
    Whole,
    /// Less than was exported: nothing is granted.
    Fenced,
    /// It was restored and recovered. What was spent after the backup stays unknown.
    Recovered {
        /// Windows that began by then grant nothing.
        closed_until: Timestamp,
    },
}

impl Past {
    /// From the row of `gateway_database`.
    #[must_use]
    pub fn of(fenced: bool, closed_until_us: Option<i64>) -> Self {
        match (fenced, closed_until_us) {
            (true, _) => Self::Fenced,
            (false, Some(until)) => Self::Recovered { closed_until: Timestamp::from_micros(until) },
            (false, None) => Self::Whole,
        }
    }
}

impl Past {
    /// Whether a worker that speaks up for the first time here may have leases from before.
    #[must_use]
    pub fn has_strangers(self, now: Timestamp) -> bool {
        match self {
            Self::Whole => false,
            Self::Fenced => true,
            Self::Recovered { closed_until } => now < closed_until.plus(STRANGERS),
        }
    }
}

/// What the database remembers, as this transaction sees it.
///
/// # Errors
/// Postgres failed.
pub async fn past(connection: &mut PgConnection) -> Result<Past, sqlx::Error> {
    let (fenced, closed_until_us): (bool, Option<i64>) =
        sqlx::query_as("SELECT fenced_at IS NOT NULL, (extract(epoch FROM windows_closed_until) * 1000000)::bigint FROM gateway_database")
            .fetch_one(connection)
            .await?;
    Ok(Past::of(fenced, closed_until_us))
}

/// Closes every holder that is open: each goes on under a new id, with a new chain and without leases. What it had leased, as far as is
/// known here, is charged in full. Says how many.
async fn close_holders(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let open: Vec<(Uuid,)> =
        sqlx::query_as("SELECT holder FROM holders WHERE closed_at IS NULL ORDER BY holder FOR UPDATE").fetch_all(&mut *connection).await?;
    for (holder,) in &open {
        accounts::forfeit_all(connection, HolderId(*holder)).await?;
        sqlx::query("UPDATE holders SET closed_at = now() WHERE holder = $1").bind(holder).execute(&mut *connection).await?;
        audit::store::note_closed(connection, HolderId(*holder)).await?;
    }
    Ok(u64::try_from(open.len()).unwrap_or(u64::MAX))
}
