//! The file that checkpoints are exported to: the witness of the log that is outside the database.

use super::access::Access;
use super::checkpoints::{PERIOD_S, Signing, SigningError, sign_heads};
use crate::app::AppState;
use crate::policies::store::database_id;
use crate::restore::fence;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use decision_core::causes::chain;
use serde::Deserialize;
use sqlx::PgPool;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Why checkpoints are not exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The file cannot be read or written.
    #[error("cannot append to `{}`", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file goes on from another past than the database's: one of them was restored, or is another log's.
    #[error("`{}` ends with another checkpoint {number} than the database has", path.display())]
    Diverged {
        /// Which.
        path: PathBuf,
        /// The last checkpoint in it.
        number: i64,
    },
    /// The file tells of another database.
    #[error("no checkpoint of `{}` is of this database: AUDIT_CHECKPOINTS_FILE is to name the file of this one", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// Another process appends to it.
    #[error("another control plane appends to `{}`", path.display())]
    Held {
        /// Which.
        path: PathBuf,
    },
    /// Postgres failed.
    #[error("database failure")]
    Database(#[from] sqlx::Error),
}

/// What is exported so far.
#[derive(Debug, Default)]
pub struct Exported {
    /// The number of the last checkpoint.
    number: i64,
    /// It.
    last: Option<String>,
    /// The databases that checkpoints are of: a restore gives one another id.
    databases: BTreeSet<Uuid>,
    /// Bytes up to the end of the last line that was written to its end.
    whole: u64,
}

/// What a line tells before anybody has looked at its signature: a file that was tampered with can close the fence, and never opens it.
#[derive(Deserialize)]
struct Claim {
    number: i64,
    database: Uuid,
}

impl Claim {
    fn of(jws: &str) -> Option<Self> {
        let payload = URL_SAFE_NO_PAD.decode(jws.split('.').nth(1)?).ok()?;
        serde_json::from_slice(&payload).ok()
    }
}

impl Exported {
    /// Reads the file, if there is one. Lines that are no checkpoints do not count.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(path: &Path) -> Result<Self, ExportError> {
        let read = || match File::open(path) {
            Ok(file) => Self::read_from(&file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        };
        read().map_err(|source| ExportError::File { path: path.to_owned(), source })
    }

    fn read_from(file: &File) -> io::Result<Self> {
        let (mut exported, mut lines, mut line) = (Self::default(), BufReader::new(file), Vec::new());
        loop {
            line.clear();
            let read = lines.read_until(b'\n', &mut line)?;
            if line.last() != Some(&b'\n') {
                return Ok(exported);
            }
            exported.whole = exported.whole.saturating_add(u64::try_from(read).unwrap_or(0));
            let Ok(jws) = std::str::from_utf8(line.trim_ascii()) else { continue };
            if let Some(claim) = Claim::of(jws) {
                exported.databases.insert(claim.database);
                let next = exported.number.saturating_add(1);
                match claim.number.cmp(&next) {
                    Ordering::Equal => (exported.number, exported.last) = (next, Some(jws.to_owned())),
                    // Two processes may have written one file before files were locked.
                    Ordering::Less => {}
                    Ordering::Greater => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("checkpoint {next} is missing"))),
                }
            }
        }
    }

    /// Whether the database knows the last checkpoint that was exported.
    ///
    /// # Errors
    /// The database does not answer, [`ExportError::Foreign`], or [`ExportError::Diverged`].
    pub async fn compare(&self, path: &Path, database: &PgPool) -> Result<(), ExportError> {
        let Some(last) = &self.last else { return Ok(()) };
        let known = after(database, self.number.saturating_sub(1), 1).await?;
        if known.first().is_some_and(|(number, jws)| (*number, jws) == (self.number, last)) {
            return Ok(());
        }
        let id = Uuid::from_bytes(database_id(database).await?);
        if !self.databases.contains(&id) {
            return Err(ExportError::Foreign { path: path.to_owned() });
        }
        Err(ExportError::Diverged { path: path.to_owned(), number: self.number })
    }
}

/// The file that checkpoints are exported to, open for this process alone.
#[derive(Debug)]
pub struct Export {
    path: PathBuf,
    file: File,
    exported: Exported,
}

impl Export {
    /// Opens the file, or makes it. What was not written to its end is cut off.
    ///
    /// # Errors
    /// It cannot be read or written, or another process has it open.
    pub fn open(path: &Path) -> Result<Self, ExportError> {
        let failed = |source| ExportError::File { path: path.to_owned(), source };
        let file = File::options().read(true).append(true).create(true).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ExportError::Held { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let exported = Exported::read_from(&file).map_err(failed)?;
        file.set_len(exported.whole).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, exported })
    }

    /// Appends what the database has more than the file. Says how many that were.
    ///
    /// # Errors
    /// The database does not answer, or the file cannot be written.
    pub async fn catch_up(&mut self, database: &PgPool) -> Result<u64, ExportError> {
        let mut appended = 0_u64;
        self.exported.compare(&self.path, database).await?;
        loop {
            let page = after(database, self.exported.number, EXPORTED_AT_ONCE).await?;
            if page.is_empty() {
                return Ok(appended);
            }
            for (number, jws) in page {
                let line = format!("{jws}\n");
                let failed = |source| ExportError::File { path: self.path.clone(), source };
                self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data()).map_err(failed)?;
                (self.exported.number, self.exported.last) = (number, Some(jws));
                appended = appended.saturating_add(1);
            }
        }
    }
}

/// A checkpoint of many chains is some hundred kilobytes.
const EXPORTED_AT_ONCE: i64 = 20;

/// Signs and exports every ten seconds, until `stop` is cancelled.
pub fn spawn(state: AppState, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        match state.signing.clone() {
            Some(signing) => stop.run_until_cancelled(run(&state, &signing)).await.unwrap_or(()),
            None => stop.cancelled().await,
        }
    })
}

async fn run(state: &AppState, signing: &Signing) {
    let mut ticks = interval(Duration::from_secs(PERIOD_S));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut export = None;
    loop {
        ticks.tick().await;
        // First what others have signed: whether this is still the database that it was is to be known before anything is signed.
        export_all(state, &mut export, signing).await;
        match sign_heads(&state.database, &signing.key).await {
            Ok(None) | Err(SigningError::Fenced) => {}
            Ok(Some(number)) => {
                state.metrics.audit_checkpoint.set(number);
                export_all(state, &mut export, signing).await;
            }
            Err(error @ (SigningError::Database(_) | SigningError::Json(_))) => {
                tracing::warn!(error = %chain(&error), "where the audit log stands could not be signed");
            }
        }
    }
}

async fn export_all(state: &AppState, export: &mut Option<Export>, signing: &Signing) {
    let Some(path) = &signing.file else { return };
    let Err(error) = catch_up(export, path, &state.database).await else { return };
    if let ExportError::Held { .. } = error {
        // Of replicas that share the file one appends, and the next one when it ends.
        tracing::debug!(error = %chain(&error), "another control plane exports the checkpoints");
        return;
    }
    tracing::error!(error = %chain(&error), "checkpoints of the audit log are not exported");
    if let ExportError::Diverged { number, .. } = error
        && let Err(error) = fence::close(&state.database, number).await
    {
        tracing::error!(error = %chain(&error), "the fence could not be closed; trying again");
    }
}

/// After a failure the file is opened anew: what was not written to its end is cut off then.
async fn catch_up(export: &mut Option<Export>, path: &Path, database: &PgPool) -> Result<(), ExportError> {
    let mut opened = match export.take() {
        Some(opened) => opened,
        None => Export::open(path)?,
    };
    opened.catch_up(database).await?;
    *export = Some(opened);
    Ok(())
}

/// Checkpoints with a number above `number`, in order, at most so many.
///
/// # Errors
/// Postgres failed.
pub async fn after(database: &PgPool, number: i64, limit: i64) -> Result<Vec<(i64, String)>, sqlx::Error> {
    let mut transaction = Access::Writer { envoy_id: "" }.begin(database).await?;
    let found = sqlx::query_as("SELECT number, jws FROM gateway_audit.checkpoints WHERE number > $1 ORDER BY number LIMIT $2")
        .bind(number)
        .bind(limit)
        .fetch_all(&mut *transaction)
        .await?;
    transaction.rollback().await?;
    Ok(found)
}
