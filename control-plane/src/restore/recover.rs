//! `control-plane recover`: what ends the fence. In one transaction the database gets back the checkpoints that the backup did not have,
//! another id, and a signed record of what is lost; open windows and approvals end, since nobody knows what was used of them.

use super::witness::{self, Lost, Witness, WitnessError};
use super::{AHEAD, close_holders};
use crate::admin_events::{self, Actor, AdminEvent, check_reason};
use crate::audit::access::{self, Access};
use crate::audit::checkpoints::{self, KeyError, SigningError, SigningKey, Told, TrustedKeys};
use crate::break_glass::database_user;
use crate::problem::ApiError;
use crate::stores::{Database, StoreError};
use clap::Parser;
use serde::Serialize;
use serde_json::json;
use sqlx::{ConnectOptions, PgConnection};
use std::path::PathBuf;
use uuid::Uuid;

/// The name of the subcommand.
pub const COMMAND: &str = "recover";

/// End the fence after a backup was restored.
#[derive(Clone, Debug, Parser)]
#[command(name = "control-plane recover", no_binary_name = true)]
pub struct Arguments {
    #[command(flatten)]
    database: Database,
    /// The checkpoints that were exported: the longest file that there is.
    #[arg(long, value_name = "FILE")]
    checkpoints: PathBuf,
    /// The key that signs checkpoints, PKCS #8 in PEM.
    #[arg(long, value_name = "FILE", env = "AUDIT_SIGNING_KEY_FILE")]
    signing_key: PathBuf,
    /// A public key that earlier checkpoints were signed with, in PEM; may be repeated.
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// Why. It is recorded.
    #[arg(long)]
    reason: String,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recovered {
    /// The database's new id.
    pub database: Uuid,
    /// The number of the signed record of it.
    pub checkpoint: i64,
    /// The last checkpoint that the backup had.
    pub kept: i64,
    /// The checkpoints that it did not have, and has now.
    pub checkpoints: u64,
    /// Holders that were closed, besides those that the fence has closed.
    pub holders: u64,
    /// Accounts whose windows grant nothing more.
    pub windows: i64,
    /// Open approvals that are void.
    pub approvals: u64,
    /// Records that were signed for and are lost.
    pub records: i64,
    /// By chain.
    pub lost: Vec<Lost>,
    /// Chains that went on between the restore and the fence.
    pub went_on: usize,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// It is not said where the database is.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database fails.
    #[error("the database does not do it")]
    Database(#[from] sqlx::Error),
    /// It refuses.
    #[error("refused")]
    Refused(#[from] ApiError),
    /// A key is not one.
    #[error("a key cannot be used")]
    Key(#[from] KeyError),
    /// The exported checkpoints.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// It cannot be signed.
    #[error("the record of it cannot be signed")]
    Signing(#[from] SigningError),
    /// There is nothing to recover from.
    #[error("the database is not fenced, and has every checkpoint of the file: nothing is to be recovered")]
    NotFenced,
    /// The file tells of another database.
    #[error("no checkpoint of the file is of this database")]
    Foreign,
    /// The file has too little.
    #[error("the database was fenced because of checkpoint {number}, and the file ends before it: name the longest file that there is")]
    Short {
        /// The number of the checkpoint that the file lacks.
        number: i64,
    },
    /// Another past was signed already.
    #[error(
        "checkpoint {number} of the database is another than that of the file: it was signed after the restore. Restore the backup again, \
         and start only control planes that have AUDIT_CHECKPOINTS_FILE"
    )]
    SignedSince {
        /// The first one that differs.
        number: i64,
    },
}

/// Does it, in one transaction.
///
/// # Errors
/// Nothing was changed.
pub async fn run(arguments: &Arguments) -> Result<Recovered, RecoverError> {
    check_reason(&arguments.reason)?;
    let signing = SigningKey::read(&arguments.signing_key)?;
    let keys = TrustedKeys::read(&arguments.key)?.and(&signing);
    let witness = Witness::read(&arguments.checkpoints, &keys)?;
    let options = arguments.database.options()?;
    let mut connection = options.application_name("plant-gateway-recover").connect().await?;
    recover(&mut connection, &witness, &signing, &arguments.reason).await
}

/// Does it on this connection.
///
/// # Errors
/// Nothing was changed.
pub async fn recover(connection: &mut PgConnection, witness: &Witness, key: &SigningKey, reason: &str) -> Result<Recovered, RecoverError> {
    let mut transaction = sqlx::Connection::begin(connection).await?;
    match recover_in(&mut transaction, witness, key, reason).await {
        Ok(done) => {
            transaction.commit().await?;
            Ok(done)
        }
        Err(error) => {
            // At once, not with the connection's next use: nobody can sign meanwhile.
            transaction.rollback().await?;
            Err(error)
        }
    }
}

async fn recover_in(connection: &mut PgConnection, witness: &Witness, key: &SigningKey, reason: &str) -> Result<Recovered, RecoverError> {
    let kept = lock(connection, witness).await?;
    let missing = witness.after(kept);
    Access::Writer { envoy_id: "" }.enter(connection).await?;
    for (checkpoint, jws) in missing {
        checkpoints::insert(connection, checkpoint, jws).await?;
    }
    access::leave(connection).await?;
    let holders = close_holders(connection).await?;
    let approvals = void_approvals(connection).await?;
    let (database, windows) = open_fence(connection).await?;
    let ends = witness::take_chains(connection).await?;
    let compared = witness::compare(connection, missing, &ends).await?;
    let went_on = compared.went_on.len();
    let told = Told::Restored { kept, ends, went_on: compared.went_on };
    let checkpoint = sign(connection, key, told).await?;
    let records = compared.lost.iter().map(|lost| lost.records).sum();
    let recovered = Recovered {
        database,
        checkpoint,
        kept,
        checkpoints: u64::try_from(missing.len()).unwrap_or(u64::MAX),
        holders,
        windows,
        approvals,
        records,
        lost: compared.lost,
        went_on,
    };
    record(connection, &recovered, reason).await?;
    Ok(recovered)
}

/// Keeps everybody from signing and from closing the fence, and looks how much of its past the database has.
async fn lock(connection: &mut PgConnection, witness: &Witness) -> Result<i64, RecoverError> {
    checkpoints::lock_signing(connection).await?;
    let (fenced_by, database): (Option<i64>, Uuid) =
        sqlx::query_as("SELECT fenced_by, id FROM gateway_database FOR UPDATE").fetch_one(&mut *connection).await?;
    let stored = witness::stored(connection).await?;
    let common = witness.common(&stored);
    if common == 0 && !witness.is_of(database) {
        return Err(RecoverError::Foreign);
    }
    let has_more = !witness.after(common).is_empty();
    match fenced_by {
        None if !has_more => return Err(RecoverError::NotFenced),
        Some(number) if number > witness.newest() => return Err(RecoverError::Short { number }),
        None | Some(_) => {}
    }
    let kept = i64::try_from(stored.len()).unwrap_or(i64::MAX);
    if has_more && kept > common {
        return Err(RecoverError::SignedSince { number: common.saturating_add(1) });
    }
    Ok(kept)
}

/// What waits, and what may be used: nobody knows whether it was used after the backup.
async fn void_approvals(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    sqlx::query(
        "WITH voided AS (UPDATE approvals AS a SET status = 'expired' FROM approvals AS before \
             WHERE a.id = before.id AND a.status IN ('pending', 'approved') \
             RETURNING a.id, before.status AS was, a.issuer, a.subject, a.route, a.action) \
         INSERT INTO admin_events (actor_issuer, actor_subject, action, target, reason, detail) \
         SELECT 'control-plane', 'control-plane', 'approval.expire', id::text, 'void: the database was restored from a backup', \
                jsonb_build_object('was', was, 'issuer', issuer, 'subject', subject, 'route', route, 'action', action) FROM voided",
    )
    .execute(connection)
    .await
    .map(|done| done.rows_affected())
}

/// Gives the database another id, so that workers take from it what has lower numbers than they know, and ends the windows that have
/// begun. Says how many accounts those have.
async fn open_fence(connection: &mut PgConnection) -> Result<(Uuid, i64), sqlx::Error> {
    sqlx::query_as(
        "WITH opened AS (UPDATE gateway_database SET id = gen_random_uuid(), fenced_at = NULL, fenced_by = NULL, \
             windows_closed_until = clock_timestamp() + make_interval(secs => $1) RETURNING id, windows_closed_until) \
         SELECT id, (SELECT count(*) FROM budget_accounts WHERE window_start <= windows_closed_until AND window_end > now()) FROM opened",
    )
    .bind(AHEAD.as_secs_f64())
    .fetch_one(connection)
    .await
}

async fn sign(connection: &mut PgConnection, key: &SigningKey, told: Told) -> Result<i64, SigningError> {
    Access::Writer { envoy_id: "" }.enter(connection).await?;
    let last = checkpoints::lock_last(connection).await?;
    let number = checkpoints::append(connection, key, last, told).await?;
    access::leave(connection).await?;
    Ok(number)
}

async fn record(connection: &mut PgConnection, recovered: &Recovered, reason: &str) -> Result<(), sqlx::Error> {
    let subject = database_user(connection).await?;
    let Recovered { database, checkpoint, kept, checkpoints, holders, windows, approvals, records, lost, went_on } = recovered;
    let detail = json!({
        "checkpoint": checkpoint, "kept": kept, "checkpoints": checkpoints, "holders": holders, "windows": windows,
        "approvals": approvals, "records": records, "chains": lost.len(), "went_on": went_on,
    });
    let target = database.to_string();
    let event = AdminEvent { action: "database.recover", target: &target, reason, detail };
    admin_events::record(connection, Actor { issuer: "database", subject: &subject }, event).await
}
