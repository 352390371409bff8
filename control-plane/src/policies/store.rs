//! Revisions, activations and key sets in Postgres. Rows are only ever added.

use crate::admin_events::{self, Actor, AdminEvent};
use crate::policies::{Activation, Files, KeySet, Revision};
use crate::problem::ApiError;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgPool, Postgres, Transaction};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// The channel that wakes other replicas; the payload is the activation.
pub const CHANNEL: &str = "policy_activated";

/// Where a revision came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The policies directory, at start.
    Directory,
    /// The admin API.
    Api,
}

impl Origin {
    const fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Api => "api",
        }
    }
}

/// A revision without its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct RevisionSummary {
    /// Its number.
    pub revision: Revision,
    /// SHA-256 of its files, hex.
    pub content_sha256: String,
    /// `directory`, `api` or `cli`.
    pub origin: String,
    /// Who published it: issuer name.
    pub author_issuer: String,
    /// Who published it: subject.
    pub author: String,
    /// Why.
    pub reason: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// Its latest activation, if it ever was in force.
    pub last_activation: Option<Activation>,
    /// Whether it is in force.
    pub active: bool,
}

/// Which revision is in force, and who decided so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct ActivationRecord {
    /// Its number; only rises.
    pub activation: Activation,
    /// The revision.
    pub revision: Revision,
    /// Who activated it: issuer name.
    pub author_issuer: String,
    /// Who activated it: subject.
    pub author: String,
    /// Why.
    pub reason: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub activated_at: OffsetDateTime,
}

/// SHA-256 over names and texts, each with its length, so that no two sets of files have the same input.
#[must_use]
pub fn content_sha256(files: &Files) -> [u8; 32] {
    let mut digest = Sha256::new();
    for text in files.iter().flat_map(|(name, text)| [name, text]) {
        digest.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(text);
    }
    digest.finalize().into()
}

/// The id that the database got when it was migrated.
pub async fn database_id(database: &PgPool) -> Result<[u8; 16], sqlx::Error> {
    let (id,): (uuid::Uuid,) = sqlx::query_as("SELECT id FROM gateway_database").fetch_one(database).await?;
    Ok(id.into_bytes())
}

/// Serialises publications and activations of all replicas until the transaction ends.
pub async fn policies_lock(transaction: &mut Transaction<'_, Postgres>) -> Result<(), sqlx::Error> {
    sqlx::query("LOCK TABLE policy_activations IN SHARE ROW EXCLUSIVE MODE").execute(&mut **transaction).await?;
    Ok(())
}

/// Adds a revision and records who did it.
pub async fn revision_publish(
    transaction: &mut Transaction<'_, Postgres>,
    files: &Files,
    origin: Origin,
    actor: Actor<'_>,
    reason: &str,
) -> Result<Revision, sqlx::Error> {
    let hash = content_sha256(files);
    let (revision,): (Revision,) = sqlx::query_as(
        "INSERT INTO policy_revisions (content_sha256, files, origin, author_issuer, author, reason) \
         VALUES ($1, $2, $3, $4, $5, $6) RETURNING revision",
    )
    .bind(hash.as_slice())
    .bind(Json(files))
    .bind(origin.name())
    .bind(actor.issuer)
    .bind(actor.subject)
    .bind(reason)
    .fetch_one(&mut **transaction)
    .await?;
    let detail = json!({ "origin": origin.name(), "files": files.keys().collect::<Vec<_>>() });
    let target = revision.to_string();
    let event = AdminEvent { action: "policy.publish", target: &target, reason, detail };
    admin_events::record(transaction, actor, event).await?;
    Ok(revision)
}

/// Puts a revision in force and records who did it. With `expected`, only if that activation is still in force.
/// The caller holds [`policies_lock`].
pub async fn revision_activate(
    transaction: &mut Transaction<'_, Postgres>,
    revision: Revision,
    actor: Actor<'_>,
    reason: &str,
    expected: Option<Activation>,
) -> Result<Activation, ApiError> {
    let before = activation_latest(transaction).await?;
    if expected.is_some() && expected != before {
        return Err(ApiError::conflict(match before {
            Some(current) => format!("activation {current} is in force, not the one that you expected"),
            None => "no activation is in force".to_owned(),
        }));
    }
    let (activation,): (Activation,) = sqlx::query_as(
        "INSERT INTO policy_activations (revision, author_issuer, author, reason) VALUES ($1, $2, $3, $4) \
         RETURNING activation",
    )
    .bind(revision)
    .bind(actor.issuer)
    .bind(actor.subject)
    .bind(reason)
    .fetch_one(&mut **transaction)
    .await?;
    let detail = json!({ "activation": activation, "before": before });
    let target = revision.to_string();
    let event = AdminEvent { action: "policy.activate", target: &target, reason, detail };
    admin_events::record(transaction, actor, event).await?;
    sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(activation.to_string()).execute(&mut **transaction).await?;
    Ok(activation)
}

/// The activation in force.
pub async fn activation_latest(connection: &mut PgConnection) -> Result<Option<Activation>, sqlx::Error> {
    let row: (Option<Activation>,) = sqlx::query_as("SELECT max(activation) FROM policy_activations").fetch_one(connection).await?;
    Ok(row.0)
}

/// The activation in force, with who decided so and the files.
pub async fn activation_active(database: &PgPool) -> Result<Option<(ActivationRecord, Files)>, sqlx::Error> {
    #[derive(FromRow)]
    struct Row {
        #[sqlx(flatten)]
        record: ActivationRecord,
        files: Json<Files>,
    }
    let row: Option<Row> = sqlx::query_as(
        "SELECT a.activation, a.revision, a.author_issuer, a.author, a.reason, a.activated_at, r.files \
         FROM policy_activations a JOIN policy_revisions r USING (revision) ORDER BY a.activation DESC LIMIT 1",
    )
    .fetch_optional(database)
    .await?;
    Ok(row.map(|row| (row.record, row.files.0)))
}

/// The files of a revision.
pub async fn revision_files(database: &PgPool, revision: Revision) -> Result<Option<Files>, sqlx::Error> {
    let row: Option<(Json<Files>,)> =
        sqlx::query_as("SELECT files FROM policy_revisions WHERE revision = $1").bind(revision).fetch_optional(database).await?;
    Ok(row.map(|(files,)| files.0))
}

/// One revision.
pub async fn revision_find(database: &PgPool, revision: Revision) -> Result<Option<RevisionSummary>, sqlx::Error> {
    sqlx::query_as(
        "SELECT r.revision, encode(r.content_sha256, 'hex') AS content_sha256, r.origin, r.author_issuer, r.author, \
         r.reason, r.created_at, (SELECT max(a.activation) FROM policy_activations a WHERE a.revision = r.revision) \
         AS last_activation, r.revision = (SELECT a.revision FROM policy_activations a ORDER BY a.activation DESC LIMIT 1) \
         AS active FROM policy_revisions r WHERE r.revision = $1",
    )
    .bind(revision)
    .fetch_optional(database)
    .await
}

/// Revisions, newest first, older than `before` if that is given.
pub async fn revision_list(database: &PgPool, before: Option<Revision>, limit: u32) -> Result<Vec<RevisionSummary>, sqlx::Error> {
    sqlx::query_as(
        "SELECT r.revision, encode(r.content_sha256, 'hex') AS content_sha256, r.origin, r.author_issuer, r.author, \
         r.reason, r.created_at, (SELECT max(a.activation) FROM policy_activations a WHERE a.revision = r.revision) \
         AS last_activation, r.revision = (SELECT a.revision FROM policy_activations a ORDER BY a.activation DESC LIMIT 1) \
         AS active FROM policy_revisions r WHERE $1::bigint IS NULL OR r.revision < $1 ORDER BY r.revision DESC LIMIT $2",
    )
    .bind(before)
    .bind(i64::from(limit))
    .fetch_all(database)
    .await
}

/// The hash of the newest revision that came from the policies directory.
pub async fn directory_revision_hash(connection: &mut PgConnection) -> Result<Option<Vec<u8>>, sqlx::Error> {
    let row: Option<(Vec<u8>,)> =
        sqlx::query_as("SELECT content_sha256 FROM policy_revisions WHERE origin = 'directory' ORDER BY revision DESC LIMIT 1")
            .fetch_optional(connection)
            .await?;
    Ok(row.map(|(hash,)| hash))
}

/// The number of a set of keys: the newest one if it is the same set, else a new, higher one. A set that comes back
/// after another gets a new number too, since filters refuse to go backwards.
pub async fn key_set_register(database: &PgPool, fingerprint: [u8; 32]) -> Result<KeySet, sqlx::Error> {
    if let Some(key_set) = key_set_newest(&mut *database.acquire().await?, fingerprint).await? {
        return Ok(key_set);
    }
    let mut transaction = database.begin().await?;
    sqlx::query("LOCK TABLE key_sets IN SHARE ROW EXCLUSIVE MODE").execute(&mut *transaction).await?;
    // Another replica may have been first.
    if let Some(key_set) = key_set_newest(&mut transaction, fingerprint).await? {
        return Ok(key_set);
    }
    let (key_set,): (KeySet,) = sqlx::query_as("INSERT INTO key_sets (fingerprint) VALUES ($1) RETURNING key_set")
        .bind(fingerprint.as_slice())
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(key_set)
}

/// The newest set, if it is this one.
async fn key_set_newest(connection: &mut PgConnection, fingerprint: [u8; 32]) -> Result<Option<KeySet>, sqlx::Error> {
    let newest: Option<(KeySet, Vec<u8>)> =
        sqlx::query_as("SELECT key_set, fingerprint FROM key_sets ORDER BY key_set DESC LIMIT 1").fetch_optional(connection).await?;
    Ok(newest.filter(|(_, known)| *known == fingerprint).map(|(key_set, _)| key_set))
}
