//! Revisions, activations and key sets in Postgres. Rows are only ever added.

use crate::admin_events::{self, Actor, AdminEvent};
use crate::paging::Limit;
use crate::policies::shadow::store as shadows;
use crate::policies::{Activation, Files, KeySet, Revision};
use crate::problem::ApiError;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgExecutor, PgPool, Postgres, Transaction};
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
    /// Where it is in its life.
    pub state: RevisionState,
}

/// Where a revision is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum RevisionState {
    /// It was published and never in force.
    Published,
    /// It is evaluated beside the active one.
    Shadow,
    /// It is in force.
    Active,
    /// It was in force.
    Superseded,
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

/// Which revision to put in force, and under which condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The revision.
    pub revision: Revision,
    /// Only if this activation is still in force.
    pub expected: Option<Activation>,
    /// The activation that a rollback goes back to.
    pub rollback_to: Option<Activation>,
}

impl Switch {
    /// Without any condition.
    #[must_use]
    pub const fn to(revision: Revision) -> Self {
        Self { revision, expected: None, rollback_to: None }
    }
}

/// Puts a revision in force and records who did it. A shadow that runs meanwhile ends if it is this revision, and begins
/// anew against it if it is not. The caller holds [`policies_lock`].
pub async fn revision_activate(
    transaction: &mut Transaction<'_, Postgres>,
    switch: Switch,
    actor: Actor<'_>,
    reason: &str,
) -> Result<Activation, ApiError> {
    let Switch { revision, expected, rollback_to } = switch;
    let before = activation_latest(transaction).await?;
    if expected.is_some() && expected != before {
        return Err(ApiError::conflict(match before {
            Some(current) => format!("activation {current} is in force, not the one that you expected"),
            None => "no activation is in force".to_owned(),
        }));
    }
    let (activation,): (Activation,) = sqlx::query_as(
        "INSERT INTO policy_activations (revision, author_issuer, author, reason, rollback_to) VALUES ($1, $2, $3, $4, $5) \
         RETURNING activation",
    )
    .bind(revision)
    .bind(actor.issuer)
    .bind(actor.subject)
    .bind(reason)
    .bind(rollback_to)
    .fetch_one(&mut **transaction)
    .await?;
    let detail = json!({ "activation": activation, "before": before, "rollback_to": rollback_to });
    let target = revision.to_string();
    let action = if rollback_to.is_some() { "policy.rollback" } else { "policy.activate" };
    let event = AdminEvent { action, target: &target, reason, detail };
    admin_events::record(transaction, actor, event).await?;
    shadows::activated(transaction, revision).await?;
    notify(transaction, activation.0).await?;
    Ok(activation)
}

/// Wakes every replica, when the transaction is committed.
pub async fn notify(transaction: &mut Transaction<'_, Postgres>, number: i64) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(number.to_string()).execute(&mut **transaction).await?;
    Ok(())
}

/// The activation in force.
pub async fn activation_latest(connection: &mut PgConnection) -> Result<Option<Activation>, sqlx::Error> {
    let row: (Option<Activation>,) = sqlx::query_as("SELECT max(activation) FROM policy_activations").fetch_one(connection).await?;
    Ok(row.0)
}

/// The activation in force, and who decided so.
pub async fn activation_record(database: &PgPool) -> Result<Option<ActivationRecord>, sqlx::Error> {
    sqlx::query_as(
        "SELECT activation, revision, author_issuer, author, reason, activated_at FROM policy_activations \
         ORDER BY activation DESC LIMIT 1",
    )
    .fetch_optional(database)
    .await
}

/// The revision in force.
pub async fn revision_active(executor: impl PgExecutor<'_>) -> Result<Option<Revision>, sqlx::Error> {
    let row: Option<(Revision,)> =
        sqlx::query_as("SELECT revision FROM policy_activations ORDER BY activation DESC LIMIT 1").fetch_optional(executor).await?;
    Ok(row.map(|(revision,)| revision))
}

/// What is in force: the activation, its files, and the revision beside it.
#[derive(Clone, Debug)]
pub struct InForce {
    /// The activation, and who decided so.
    pub record: ActivationRecord,
    /// The files of its revision.
    pub files: Files,
    /// The newest beginning or end of a shadow; 0 before the first.
    pub shadow: i64,
    /// The revision in shadow and its files, if there is one.
    pub in_shadow: Option<(Revision, Files)>,
}

/// What is in force, read in one moment.
pub async fn activation_active(database: &PgPool) -> Result<Option<InForce>, sqlx::Error> {
    #[derive(FromRow)]
    struct Row {
        #[sqlx(flatten)]
        record: ActivationRecord,
        files: Json<Files>,
        shadow: i64,
        shadow_revision: Option<Revision>,
        shadow_files: Option<Json<Files>>,
    }
    let row: Option<Row> = sqlx::query_as(
        "SELECT a.activation, a.revision, a.author_issuer, a.author, a.reason, a.activated_at, r.files, \
             coalesce(s.number, 0) AS shadow, s.revision AS shadow_revision, sr.files AS shadow_files \
         FROM policy_activations a JOIN policy_revisions r USING (revision) \
         LEFT JOIN (SELECT number, revision FROM policy_shadows ORDER BY number DESC LIMIT 1) AS s ON true \
         LEFT JOIN policy_revisions sr ON sr.revision = s.revision ORDER BY a.activation DESC LIMIT 1",
    )
    .fetch_optional(database)
    .await?;
    Ok(row.map(|row| InForce {
        record: row.record,
        files: row.files.0,
        shadow: row.shadow,
        in_shadow: row.shadow_revision.zip(row.shadow_files.map(|files| files.0)),
    }))
}

/// The numbers of the newest activation and of the newest beginning or end of a shadow; 0 before the first.
pub async fn newest(connection: &mut PgConnection) -> Result<(i64, i64), sqlx::Error> {
    sqlx::query_as(
        "SELECT coalesce((SELECT max(activation) FROM policy_activations), 0), coalesce((SELECT max(number) FROM policy_shadows), 0)",
    )
    .fetch_one(connection)
    .await
}

/// The files of a revision.
pub async fn revision_files(database: &PgPool, revision: Revision) -> Result<Option<Files>, sqlx::Error> {
    let row: Option<(Json<Files>,)> =
        sqlx::query_as("SELECT files FROM policy_revisions WHERE revision = $1").bind(revision).fetch_optional(database).await?;
    Ok(row.map(|(files,)| files.0))
}

/// Summaries of the revisions that a condition selects.
macro_rules! summaries {
    ($condition:literal) => {
        concat!(
            "SELECT *, CASE WHEN active THEN 'active' WHEN in_shadow THEN 'shadow' WHEN last_activation IS NOT NULL THEN 'superseded' \
                 ELSE 'published' END AS state \
             FROM (SELECT r.revision, encode(r.content_sha256, 'hex') AS content_sha256, r.origin, r.author_issuer, r.author, r.reason, \
                 r.created_at, (SELECT max(a.activation) FROM policy_activations a WHERE a.revision = r.revision) AS last_activation, \
                 coalesce(r.revision = (SELECT a.revision FROM policy_activations a ORDER BY a.activation DESC LIMIT 1), false) AS active, \
                 coalesce(r.revision = (SELECT s.revision FROM policy_shadows s ORDER BY s.number DESC LIMIT 1), false) AS in_shadow \
             FROM policy_revisions r WHERE ",
            $condition,
            ") AS summary ORDER BY revision DESC"
        )
    };
}

/// One revision.
pub async fn revision_find(database: &PgPool, revision: Revision) -> Result<Option<RevisionSummary>, sqlx::Error> {
    sqlx::query_as(summaries!("r.revision = $1")).bind(revision).fetch_optional(database).await
}

/// Revisions, newest first, older than `before` if that is given.
pub async fn revision_list(database: &PgPool, before: Option<Revision>, limit: Limit) -> Result<Vec<RevisionSummary>, sqlx::Error> {
    sqlx::query_as(summaries!("$1::bigint IS NULL OR r.revision < $1 ORDER BY r.revision DESC LIMIT $2"))
        .bind(before)
        .bind(limit.rows())
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
