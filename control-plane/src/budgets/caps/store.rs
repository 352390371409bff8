//! Caps and override accounts in Postgres. Every change takes the next number under one lock, in the transaction that makes it.

use super::copy::Change;
use super::{CHANNEL, Kind, OPEN_MAX};
use crate::admin_events::Actor;
use crate::problem::ApiError;
use decision_core::budget::Units;
use decision_core::time::Timestamp;
use serde::Serialize;
use sqlx::{FromRow, PgConnection, PgPool};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

/// How long ended ones can be looked up.
const ENDED_KEPT: &str = "90 days";

/// A cap or an override account, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Entry {
    /// Its id, by which it is ended.
    pub id: i64,
    /// The budget's name.
    pub budget: String,
    /// The scope with its values.
    pub scope: String,
    /// The cap, in the budget's unit.
    pub cap: i64,
    /// Why.
    pub reason: String,
    /// Who: issuer name.
    pub author_issuer: String,
    /// Who: subject.
    pub author: String,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// When it ends by itself.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<OffsetDateTime>,
    /// When somebody ended or replaced it.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<OffsetDateTime>,
    /// Why it was ended.
    pub ended_reason: Option<String>,
    /// Whether it counts now.
    pub in_force: bool,
    /// The approval under which a gateway let the request through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<Uuid>,
}

macro_rules! select_entries {
    ($rest:literal) => {
        concat!(
            "SELECT id, budget, scope, cap, reason, author_issuer, author, created_at, expires_at, ended_at, ended_reason, approval, \
                 ended_at IS NULL AND (expires_at IS NULL OR expires_at > now()) AS in_force FROM budget_caps ",
            $rest
        )
    };
}

/// What somebody wants to set, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What it is.
    pub kind: Kind,
    /// The budget.
    pub budget: String,
    /// The scope.
    pub scope: String,
    /// The cap.
    pub cap: Units,
    /// When it ends by itself; whole seconds.
    pub expires_at: Option<OffsetDateTime>,
    /// The approval that it is asked for under.
    pub approval: Option<Uuid>,
}

/// What became of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// What is in force.
    pub entry: Entry,
    /// Whether it is new.
    pub changed: bool,
    /// What it replaced.
    pub replaced: Option<Entry>,
}

/// Sets a cap or grants an override account, and ends what it replaces. The same wish again changes nothing.
///
/// # Errors
/// Its end is past, there would be too many, or Postgres failed.
pub async fn set(connection: &mut PgConnection, wanted: &Wanted, actor: Actor<'_>, reason: &str) -> Result<Setting, ApiError> {
    let (number, now) = lock(connection).await?;
    if wanted.expires_at.is_some_and(|end| end.unix_timestamp() <= now.unix_timestamp()) {
        return Err(ApiError::invalid("`expires_at` is not in the future"));
    }
    let open: Option<Entry> = sqlx::query_as(select_entries!("WHERE kind = $1 AND budget = $2 AND scope = $3 AND ended_at IS NULL"))
        .bind(wanted.kind.name())
        .bind(&wanted.budget)
        .bind(&wanted.scope)
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(entry) = &open {
        let same = entry.in_force && entry.cap == wanted.cap.get() && entry.expires_at == wanted.expires_at;
        if same && (wanted.approval.is_none() || wanted.approval == entry.approval) {
            return Ok(Setting { entry: entry.clone(), changed: false, replaced: None });
        }
        close(connection, entry.id, number, if entry.in_force { "replaced" } else { "expired" }).await?;
    } else {
        require_room(connection).await?;
    }
    let entry = insert(connection, wanted, actor, reason, number).await?;
    advance(connection, number).await?;
    Ok(Setting { entry, changed: true, replaced: open })
}

/// Ends one that is in force. `None` if there is none of that id.
///
/// # Errors
/// Postgres failed.
pub async fn end(connection: &mut PgConnection, kind: Kind, id: i64, reason: &str) -> Result<Option<Entry>, sqlx::Error> {
    let (number, _) = lock(connection).await?;
    let open: Option<Entry> = sqlx::query_as(select_entries!("WHERE id = $1 AND kind = $2 AND ended_at IS NULL"))
        .bind(id)
        .bind(kind.name())
        .fetch_optional(&mut *connection)
        .await?;
    if !open.is_some_and(|entry| entry.in_force) {
        return Ok(None);
    }
    close(connection, id, number, reason).await?;
    advance(connection, number).await?;
    sqlx::query_as(select_entries!("WHERE id = $1")).bind(id).fetch_optional(connection).await
}

/// Whoever holds it is the only writer, and takes the number that it answers. With the database's clock.
async fn lock(connection: &mut PgConnection) -> Result<(i64, OffsetDateTime), sqlx::Error> {
    sqlx::query_as("SELECT number + 1, clock_timestamp() FROM budget_caps_counter FOR UPDATE").fetch_one(connection).await
}

async fn advance(connection: &mut PgConnection, number: i64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE budget_caps_counter SET number = $1").bind(number).execute(&mut *connection).await?;
    sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(number.to_string()).execute(connection).await.map(|_done| ())
}

async fn require_room(connection: &mut PgConnection) -> Result<(), ApiError> {
    let (open,): (i64,) =
        sqlx::query_as("SELECT count(*) FROM budget_caps WHERE ended_at IS NULL AND (expires_at IS NULL OR expires_at > now())")
            .fetch_one(connection)
            .await?;
    if open < OPEN_MAX {
        return Ok(());
    }
    Err(ApiError::conflict(format!(
        "{open} caps and override accounts are in force, and more are not kept: end some, or change the policy"
    )))
}

async fn close(connection: &mut PgConnection, id: i64, number: i64, reason: &str) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE budget_caps SET ended_at = least(clock_timestamp(), expires_at), ended_reason = $3, changed = $2 WHERE id = $1")
        .bind(id)
        .bind(number)
        .bind(reason)
        .execute(connection)
        .await
        .map(|_done| ())
}

async fn insert(connection: &mut PgConnection, wanted: &Wanted, actor: Actor<'_>, reason: &str, number: i64) -> Result<Entry, ApiError> {
    let inserted: Result<Entry, sqlx::Error> = sqlx::query_as(
        "INSERT INTO budget_caps (kind, budget, scope, cap, reason, author_issuer, author, created_at, expires_at, changed, approval) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, clock_timestamp(), $8, $9, $10) \
         RETURNING id, budget, scope, cap, reason, author_issuer, author, created_at, expires_at, ended_at, ended_reason, approval, \
             true AS in_force",
    )
    .bind(wanted.kind.name())
    .bind(&wanted.budget)
    .bind(&wanted.scope)
    .bind(wanted.cap.get())
    .bind(reason)
    .bind(actor.issuer)
    .bind(actor.subject)
    .bind(wanted.expires_at)
    .bind(number)
    .bind(wanted.approval)
    .fetch_one(connection)
    .await;
    inserted.map_err(|error| {
        let constraint = error.as_database_error().and_then(|cause| cause.constraint());
        if constraint == Some("budget_caps_approval_once") {
            ApiError::conflict("the approval was used for an override already")
        } else {
            ApiError::Database(error)
        }
    })
}

/// Which to list; all that is absent matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// What.
    pub kind: Kind,
    /// The budget.
    pub budget: Option<String>,
    /// The scope.
    pub scope: Option<String>,
    /// Also those that are over.
    pub ended: bool,
    /// Older ones than this id.
    pub before: Option<i64>,
}

/// Entries, newest first.
///
/// # Errors
/// Postgres failed.
pub async fn list(database: &PgPool, filter: &Filter, limit: i64) -> Result<Vec<Entry>, sqlx::Error> {
    sqlx::query_as(select_entries!(
        "WHERE kind = $1 AND ($2::text IS NULL OR budget = $2) AND ($3::text IS NULL OR scope = $3) \
             AND ($4 OR (ended_at IS NULL AND (expires_at IS NULL OR expires_at > now()))) AND ($5::bigint IS NULL OR id < $5) \
         ORDER BY id DESC LIMIT $6"
    ))
    .bind(filter.kind.name())
    .bind(&filter.budget)
    .bind(&filter.scope)
    .bind(filter.ended)
    .bind(filter.before)
    .bind(limit)
    .fetch_all(database)
    .await
}

/// What was read at one and the same moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The number of the latest change.
    pub number: i64,
    /// The database's clock.
    pub now: Timestamp,
    /// Oldest first.
    pub changes: Vec<Change>,
}

/// What changed after `number`. What was over a day ago is no news to anybody.
///
/// # Errors
/// Postgres failed.
pub async fn changes_after(database: &PgPool, number: i64) -> Result<Read, sqlx::Error> {
    #[derive(FromRow)]
    struct Row {
        number: i64,
        now_us: i64,
        id: Option<i64>,
        kind: Option<String>,
        budget: Option<String>,
        scope: Option<String>,
        cap: Option<i64>,
        starts: Option<i64>,
        until_us: Option<i64>,
        ended: bool,
    }
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT c.number, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us, b.id, b.kind, b.budget, b.scope, b.cap, \
             floor(extract(epoch FROM b.created_at))::bigint AS starts, (extract(epoch FROM b.expires_at) * 1000000)::bigint AS until_us, \
             b.ended_at IS NOT NULL AS ended \
         FROM budget_caps_counter c LEFT JOIN budget_caps b ON b.changed > $1 \
             AND coalesce(least(b.ended_at, b.expires_at) > now() - interval '1 day', true) \
         ORDER BY b.changed, b.id",
    )
    .bind(number)
    .fetch_all(database)
    .await?;
    let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let (number, now) = (first.number, Timestamp::from_micros(first.now_us));
    let change = |row: Row| {
        let kind = [Kind::Cap, Kind::Override].into_iter().find(|kind| Some(kind.name()) == row.kind.as_deref())?;
        let until = row.until_us.map(Timestamp::from_micros);
        let (budget, scope, cap) = (row.budget?, row.scope?, Units::new(row.cap?));
        Some(Change { id: row.id?, kind, budget, scope, cap, from: row.starts?, until, ended: row.ended })
    };
    Ok(Read { number, now, changes: rows.into_iter().filter_map(change).collect() })
}

/// Deletes what ended long ago. Says how many.
///
/// # Errors
/// Postgres failed.
pub async fn forget(database: &PgPool) -> Result<u64, sqlx::Error> {
    sqlx::query(
        "DELETE FROM budget_caps WHERE id IN (SELECT id FROM budget_caps \
         WHERE least(ended_at, expires_at) < now() - $1::interval ORDER BY id LIMIT 1000 FOR UPDATE SKIP LOCKED)",
    )
    .bind(ENDED_KEPT)
    .execute(database)
    .await
    .map(|done| done.rows_affected())
}
