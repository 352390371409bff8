//! `control-plane rollback`: the way back when the admin API is out of reach, or nobody may use it any more. Straight in the
//! database, under the lock of every activation, and recorded like one. What is in force only ever gets a higher number.

use crate::admin_events::{Actor, check_reason};
use crate::policies::store::{self, Switch};
use crate::policies::{Activation, Files, PolicyFault, Revision, history};
use crate::problem::ApiError;
use crate::revocations::store::left_behind;
use crate::stores::{Database, StoreError};
use authoring::evaluate::Candidate;
use clap::Parser;
use serde::Serialize;
use sqlx::{ConnectOptions, PgConnection, Postgres, Transaction};

/// The name of the subcommand.
pub const COMMAND: &str = "rollback";

/// Put an earlier revision in force, without the admin API.
#[derive(Clone, Debug, Parser)]
#[command(name = "control-plane rollback", no_binary_name = true)]
pub struct Arguments {
    #[command(flatten)]
    database: Database,
    /// Why.
    #[arg(long)]
    reason: String,
    /// The revision [default: the one that was in force before].
    #[arg(long)]
    to: Option<i64>,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RolledBack {
    /// The new activation.
    pub activation: Activation,
    /// The revision that is in force by it.
    pub revision: Revision,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum BreakGlassError {
    /// It is not said where the database is.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database fails.
    #[error("the database does not do it")]
    Database(#[from] sqlx::Error),
    /// It refuses.
    #[error("refused")]
    Refused(#[from] ApiError),
    /// There is nothing to go back to.
    #[error("no other revision was in force before: name one with `--to`")]
    Nothing,
    /// There is no such revision.
    #[error("there is no revision {0}")]
    NoRevision(Revision),
    /// The revision would not be put in force: the control planes would keep what they have.
    #[error("revision {revision} is not valid for this version: {fault}")]
    Invalid {
        /// Which.
        revision: Revision,
        /// What is wrong with it.
        fault: Box<PolicyFault>,
    },
    /// Revocations would be lost.
    #[error("{0}")]
    RevocationsLost(String),
}

/// Does it, in one transaction.
///
/// # Errors
/// Nothing was changed.
pub async fn run(arguments: &Arguments) -> Result<RolledBack, BreakGlassError> {
    check_reason(&arguments.reason)?;
    let options = arguments.database.options()?;
    let mut connection = options.application_name("plant-gateway-rollback").connect().await?;
    roll_back(&mut connection, arguments.to.map(Revision), &arguments.reason).await
}

/// Does it on this connection.
///
/// # Errors
/// Nothing was changed.
pub async fn roll_back(connection: &mut PgConnection, to: Option<Revision>, reason: &str) -> Result<RolledBack, BreakGlassError> {
    let mut transaction = sqlx::Connection::begin(connection).await?;
    match roll_back_in(&mut transaction, to, reason).await {
        Ok(done) => {
            transaction.commit().await?;
            Ok(done)
        }
        Err(error) => {
            // At once, not with the connection's next use: the lock on policies must not outlive the attempt.
            transaction.rollback().await?;
            Err(error)
        }
    }
}

async fn roll_back_in(
    transaction: &mut Transaction<'_, Postgres>,
    to: Option<Revision>,
    reason: &str,
) -> Result<RolledBack, BreakGlassError> {
    store::policies_lock(transaction).await?;
    let switch = match to {
        Some(revision) => Switch::to(revision),
        None => {
            let current = store::activation_latest(transaction).await?.ok_or(BreakGlassError::Nothing)?;
            let before = history::before(transaction, current).await?.ok_or(BreakGlassError::Nothing)?;
            Switch { revision: before.revision, expected: None, rollback_to: Some(before.activation) }
        }
    };
    let revision = switch.revision;
    let files = files(transaction, revision).await?.ok_or(BreakGlassError::NoRevision(revision))?;
    let candidate = Candidate::new(files).map_err(|fault| BreakGlassError::Invalid { revision, fault: Box::new(fault) })?;
    let issuers: Vec<String> = candidate.document.issuers.into_iter().map(|issuer| issuer.name).collect();
    if let Some(message) = left_behind(transaction, &issuers).await? {
        return Err(BreakGlassError::RevocationsLost(message));
    }
    let subject = database_user(transaction).await?;
    let actor = Actor { issuer: "database", subject: &subject };
    let activation = store::revision_activate(transaction, switch, actor, reason).await?;
    Ok(RolledBack { activation, revision })
}

/// Whoever has the database's password is known to it by role alone; the machine's user is said, not proven.
///
/// # Errors
/// Postgres failed.
pub async fn database_user(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    let (role,): (String,) = sqlx::query_as("SELECT session_user::text").fetch_one(connection).await?;
    Ok(std::env::var("USER").map_or(role.clone(), |user| format!("{role} ({user})")))
}

async fn files(transaction: &mut Transaction<'_, Postgres>, revision: Revision) -> Result<Option<Files>, sqlx::Error> {
    let row: Option<(sqlx::types::Json<Files>,)> =
        sqlx::query_as("SELECT files FROM policy_revisions WHERE revision = $1").bind(revision).fetch_optional(&mut **transaction).await?;
    Ok(row.map(|(files,)| files.0))
}
