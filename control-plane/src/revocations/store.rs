//! Revocations in Postgres. Every change takes the next number under one lock, in the transaction that makes it, so that
//! numbers have no gaps and become visible in their order.

use super::{CHANNEL, Kind, LIVE_MAX, TOKEN_LIFE_MAX, Wanted};
use crate::admin_events::Actor;
use crate::problem::ApiError;
use serde::Serialize;
use sqlx::{FromRow, PgConnection, PgPool};
use std::collections::BTreeMap;
use time::{Duration, OffsetDateTime};
use utoipa::ToSchema;

/// A revocation, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Entry {
    /// The number of its latest change, by which it is lifted.
    pub number: i64,
    /// `token`, `subject`, `version`, `key`, `customer` or `agent`.
    pub kind: String,
    /// The issuer's name in the policy; empty for customers and agents.
    pub issuer: String,
    /// Which one.
    pub value: String,
    /// For subjects: tokens issued before this are refused.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub issued_before: Option<OffsetDateTime>,
    /// For versions: the lowest good one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_min: Option<i64>,
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
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<OffsetDateTime>,
    /// When it was lifted, or ended.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub lifted_at: Option<OffsetDateTime>,
}

macro_rules! select_entries {
    ($rest:literal) => {
        concat!(
            "SELECT number, kind, issuer, value, \
             CASE WHEN kind = 'subject' THEN timestamptz 'epoch' + bound * interval '1 microsecond' END AS issued_before, \
             CASE WHEN kind = 'version' THEN bound END AS version_min, \
             reason, author_issuer, author, created_at, expires_at, lifted_at FROM revocations ",
            $rest
        )
    };
}

/// What the counter says. Holding it keeps every other writer waiting until the transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRow)]
pub struct Counter {
    /// The number of the latest change.
    pub number: i64,
    /// The highest number that was deleted.
    pub floor: i64,
    /// How many entries are in force.
    pub live: i64,
}

/// Locks the counter.
pub async fn lock(connection: &mut PgConnection) -> Result<Counter, sqlx::Error> {
    sqlx::query_as("SELECT number, floor, live FROM revocation_counter FOR UPDATE").fetch_one(connection).await
}

/// The number of the latest change.
pub async fn number(connection: impl sqlx::PgExecutor<'_>) -> Result<i64, sqlx::Error> {
    let (number,): (i64,) = sqlx::query_as("SELECT number FROM revocation_counter").fetch_one(connection).await?;
    Ok(number)
}

/// Writes the counter back, and tells everybody who follows.
pub async fn advance(connection: &mut PgConnection, counter: Counter) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE revocation_counter SET number = $1, floor = $2, live = $3")
        .bind(counter.number)
        .bind(counter.floor)
        .bind(counter.live)
        .execute(&mut *connection)
        .await?;
    sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(counter.number.to_string()).execute(connection).await.map(|_done| ())
}

/// What became of wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revoking {
    /// How many entries are new, or reach further than before.
    pub changed: i64,
    /// The number of the latest change, ours or not.
    pub number: i64,
}

#[derive(FromRow)]
struct Known {
    kind: String,
    issuer: String,
    value: String,
    bound: i64,
    created_at: OffsetDateTime,
    expires_at: Option<OffsetDateTime>,
}

impl Known {
    /// Whether a wish changes nothing: it reaches no further, and what is known lasts at least as long as any token that
    /// existed when it was revoked.
    fn covers(&self, wish: &Wanted) -> bool {
        let whole_life = self.created_at.saturating_add(Duration::try_from(TOKEN_LIFE_MAX).unwrap_or(Duration::DAY));
        let lasts = self
            .expires_at
            .is_none_or(|end| end >= whole_life.saturating_sub(Duration::SECOND) || wish.expires_at.is_some_and(|wanted| wanted <= end));
        wish.bound <= self.bound && (lasts || wish.kind != Kind::Token)
    }
}

type Key = (String, String, String);

/// Of two wishes for the same thing the one that reaches further: a later time, a higher version, a later end.
fn merged(wanted: &[Wanted]) -> BTreeMap<Key, Wanted> {
    let mut merged: BTreeMap<Key, Wanted> = BTreeMap::new();
    for wish in wanted {
        let key = (wish.kind.name().to_owned(), wish.issuer.clone(), wish.value.clone());
        let entry = merged.entry(key).or_insert_with(|| wish.clone());
        entry.bound = entry.bound.max(wish.bound);
        entry.expires_at = later(entry.expires_at, wish.expires_at);
    }
    merged
}

/// No end is the latest of all.
fn later(one: Option<OffsetDateTime>, other: Option<OffsetDateTime>) -> Option<OffsetDateTime> {
    Some(one?.max(other?))
}

/// Revokes. What is revoked already as far stays as it is; nothing ever goes backwards.
///
/// # Errors
/// There would be too many, or Postgres fails.
pub async fn revoke(connection: &mut PgConnection, wanted: &[Wanted], actor: Actor<'_>, reason: &str) -> Result<Revoking, ApiError> {
    let before = lock(connection).await?;
    let mut wanted = merged(wanted);
    let mut live = before.live.saturating_add(count(wanted.len()));
    for known in in_force(connection, &wanted).await? {
        live = live.saturating_sub(1);
        let key = (known.kind.clone(), known.issuer.clone(), known.value.clone());
        let Some(wish) = wanted.get_mut(&key) else { continue };
        if known.covers(wish) {
            wanted.remove(&key);
        } else {
            wish.bound = wish.bound.max(known.bound);
            wish.expires_at = later(wish.expires_at, known.expires_at);
        }
    }
    if live > LIVE_MAX && live > before.live {
        return Err(ApiError::conflict(format!(
            "there would be {live} revocations in force, more than {LIVE_MAX}: lift some, or revoke a key or a customer instead"
        )));
    }
    let wanted: Vec<Wanted> = wanted.into_values().collect();
    let after = Counter { number: before.number.saturating_add(count(wanted.len())), live, ..before };
    if !wanted.is_empty() {
        upsert(connection, &wanted, before.number, actor, reason).await?;
        advance(connection, after).await?;
    }
    Ok(Revoking { changed: count(wanted.len()), number: after.number })
}

/// The values of one kind among the last `count` changes up to `number`: those of the transaction that holds the lock.
pub async fn lately_revoked(connection: &mut PgConnection, kind: Kind, revoking: Revoking) -> Result<Vec<String>, sqlx::Error> {
    let rows: Vec<(String,)> = sqlx::query_as("SELECT value FROM revocations WHERE kind = $1 AND number > $2 AND number <= $3")
        .bind(kind.name())
        .bind(revoking.number.saturating_sub(revoking.changed))
        .bind(revoking.number)
        .fetch_all(connection)
        .await?;
    Ok(rows.into_iter().map(|(value,)| value).collect())
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// Those of the wanted that are in force already.
async fn in_force(connection: &mut PgConnection, wanted: &BTreeMap<Key, Wanted>) -> Result<Vec<Known>, sqlx::Error> {
    let column = |part: fn(&Key) -> &String| wanted.keys().map(part).cloned().collect::<Vec<_>>();
    sqlx::query_as(
        "SELECT r.kind, r.issuer, r.value, r.bound, r.created_at, r.expires_at FROM revocations r \
         JOIN UNNEST($1::text[], $2::text[], $3::text[]) AS n (kind, issuer, value) \
             ON r.kind = n.kind AND r.issuer = n.issuer AND r.value = n.value \
         WHERE r.lifted_at IS NULL",
    )
    .bind(column(|key| &key.0))
    .bind(column(|key| &key.1))
    .bind(column(|key| &key.2))
    .fetch_all(connection)
    .await
}

/// Writes entries that take the numbers after `before`.
async fn upsert(connection: &mut PgConnection, wanted: &[Wanted], before: i64, actor: Actor<'_>, reason: &str) -> Result<(), sqlx::Error> {
    let text = |part: fn(&Wanted) -> &str| wanted.iter().map(part).collect::<Vec<_>>();
    sqlx::query(
        "INSERT INTO revocations AS r (kind, issuer, value, number, mark, bound, expires_at, reason, author_issuer, author) \
         SELECT kind, issuer, value, number, mark, bound, expires_at, $8, $9, $10 FROM UNNEST($1::text[], $2::text[], $3::text[], \
             $4::bigint[], $5::bytea[], $6::bigint[], $7::timestamptz[]) \
             AS n (kind, issuer, value, number, mark, bound, expires_at) \
         ON CONFLICT (kind, issuer, value) DO UPDATE SET number = EXCLUDED.number, bound = EXCLUDED.bound, \
             expires_at = EXCLUDED.expires_at, reason = EXCLUDED.reason, author_issuer = EXCLUDED.author_issuer, \
             author = EXCLUDED.author, lifted_at = NULL, \
             created_at = CASE WHEN r.lifted_at IS NULL THEN r.created_at ELSE EXCLUDED.created_at END",
    )
    .bind(text(|wish| wish.kind.name()))
    .bind(text(|wish| &wish.issuer))
    .bind(text(|wish| &wish.value))
    .bind((1..=count(wanted.len())).map(|place| before.saturating_add(place)).collect::<Vec<_>>())
    .bind(wanted.iter().map(|wish| wish.mark().0.to_vec()).collect::<Vec<_>>())
    .bind(wanted.iter().map(|wish| wish.bound).collect::<Vec<_>>())
    .bind(wanted.iter().map(|wish| wish.expires_at).collect::<Vec<_>>())
    .bind(reason)
    .bind(actor.issuer)
    .bind(actor.subject)
    .execute(connection)
    .await
    .map(|_done| ())
}

/// Takes back the entry of this number. `None` if there is none, or it changed since the caller looked.
pub async fn lift(connection: &mut PgConnection, entry: i64) -> Result<Option<Entry>, sqlx::Error> {
    let before = lock(connection).await?;
    let number = before.number.saturating_add(1);
    let lifted = sqlx::query("UPDATE revocations SET number = $2, lifted_at = now() WHERE number = $1 AND lifted_at IS NULL")
        .bind(entry)
        .bind(number)
        .execute(&mut *connection)
        .await?;
    if lifted.rows_affected() == 0 {
        return Ok(None);
    }
    advance(connection, Counter { number, live: before.live.saturating_sub(1), ..before }).await?;
    sqlx::query_as(select_entries!("WHERE number = $1")).bind(number).fetch_optional(connection).await
}

/// One entry by what it is about.
pub async fn find(connection: &mut PgConnection, wanted: &Wanted) -> Result<Option<Entry>, sqlx::Error> {
    sqlx::query_as(select_entries!("WHERE kind = $1 AND issuer = $2 AND value = $3"))
        .bind(wanted.kind.name())
        .bind(&wanted.issuer)
        .bind(&wanted.value)
        .fetch_optional(connection)
        .await
}

/// The keys of these issuers that are revoked: issuer and `kid`.
pub async fn keys_in_force(connection: &mut PgConnection, issuers: &[String]) -> Result<Vec<(String, String)>, sqlx::Error> {
    sqlx::query_as("SELECT issuer, value FROM revocations WHERE kind = 'key' AND lifted_at IS NULL AND issuer = ANY($1)")
        .bind(issuers)
        .fetch_all(connection)
        .await
}

/// What keeps a policy with these issuers from being put in force: revocations are known by our name for the issuer, so
/// that one which is no longer named, or is renamed, would take its revocations with it. Waits for who is revoking.
pub async fn left_behind(connection: &mut PgConnection, issuers: &[String]) -> Result<Option<String>, sqlx::Error> {
    lock(connection).await?;
    let left: Option<(String, i64)> = sqlx::query_as(
        "SELECT issuer, count(*) FROM revocations WHERE lifted_at IS NULL AND (expires_at IS NULL OR expires_at > now()) \
             AND issuer <> '' AND NOT issuer = ANY($1) GROUP BY issuer ORDER BY issuer LIMIT 1",
    )
    .bind(issuers)
    .fetch_optional(connection)
    .await?;
    Ok(left.map(|(issuer, count)| {
        format!(
            "issuers: `{issuer}` is not named any more, and {count} revocations in force are of that name: they would be without \
             effect. Lift them, or keep the issuer under this name (if it is to sign nothing any more, without keys)"
        )
    }))
}

/// Which entries to list; all that is absent matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The kind.
    pub kind: Option<&'static str>,
    /// The issuer's name.
    pub issuer: Option<String>,
    /// Which one.
    pub value: Option<String>,
    /// Older changes than this number.
    pub before: Option<i64>,
    /// Also those that were lifted, as long as they are kept.
    pub lifted: bool,
}

/// Entries, latest change first.
pub async fn list(database: &PgPool, filter: &Filter, limit: i64) -> Result<Vec<Entry>, sqlx::Error> {
    sqlx::query_as(select_entries!(
        "WHERE ($1::text IS NULL OR kind = $1) AND ($2::text IS NULL OR issuer = $2) AND ($3::text IS NULL OR value = $3) \
         AND ($4::bigint IS NULL OR number < $4) AND ($5 OR lifted_at IS NULL) ORDER BY number DESC LIMIT $6"
    ))
    .persistent(false)
    .bind(filter.kind)
    .bind(&filter.issuer)
    .bind(&filter.value)
    .bind(filter.before)
    .bind(filter.lifted)
    .bind(limit)
    .fetch_all(database)
    .await
}

/// A change as it is kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its number.
    pub number: i64,
    /// What it is about.
    pub mark: [u8; 16],
    /// How far it reaches.
    pub bound: i64,
    /// Whether it was lifted.
    pub lifted: bool,
}

/// What changed after `number`, and the counter, of one and the same moment.
pub async fn changes_after(database: &PgPool, number: i64) -> Result<(Counter, Vec<Change>), sqlx::Error> {
    #[derive(FromRow)]
    struct Row {
        #[sqlx(flatten)]
        counter: Counter,
        changed: Option<i64>,
        mark: Option<Vec<u8>>,
        bound: Option<i64>,
        lifted: bool,
    }
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT c.number, c.floor, c.live, r.number AS changed, r.mark, r.bound, r.lifted_at IS NOT NULL AS lifted \
         FROM revocation_counter c LEFT JOIN revocations r ON r.number > $1 ORDER BY r.number",
    )
    .bind(number)
    .fetch_all(database)
    .await?;
    let counter = rows.first().map(|row| row.counter).ok_or(sqlx::Error::RowNotFound)?;
    let change = |row: Row| {
        let mark = row.mark?.try_into().ok()?;
        Some(Change { number: row.changed?, mark, bound: row.bound?, lifted: row.lifted })
    };
    Ok((counter, rows.into_iter().filter_map(change).collect()))
}
