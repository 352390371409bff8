//! JWK sets in Postgres: which are due, who fetches, and what came of it.

use super::{ASK_EVERY_S, CHANNEL_CHANGED, CHANNEL_DUE};
use sqlx::{FromRow, PgConnection, PgPool};
use std::time::Duration;
use time::OffsetDateTime;

/// How long one replica may take to fetch; longer than the guarded client lets it take.
const LEASE_S: f64 = 20.0;

/// The last good set of an issuer.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct StoredSet {
    /// The issuer's name.
    pub issuer: String,
    /// Where it came from.
    pub url: String,
    /// As it was fetched.
    pub body: Vec<u8>,
    /// The fetch from which its age counts, seconds since the epoch.
    pub served_from_s: i64,
}

/// How fetching a set went so far.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct SetState {
    /// The issuer's name.
    pub issuer: String,
    /// Where it publishes its keys.
    pub url: String,
    /// The last good fetch.
    pub fetched_at: Option<OffsetDateTime>,
    /// The last attempt.
    pub attempted_at: Option<OffsetDateTime>,
    /// The next attempt.
    pub next_at: OffsetDateTime,
    /// Attempts that failed since.
    pub failures: i32,
    /// Why the last one failed, or what is left out of the set.
    pub last_error: Option<String>,
}

/// A fetch that this replica is to make.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Due {
    /// The issuer's name.
    pub issuer: String,
    /// Where it publishes its keys.
    pub url: String,
    /// Attempts that failed before.
    pub failures: i32,
}

/// Every last good set.
pub async fn sets(connection: impl sqlx::PgExecutor<'_>) -> Result<Vec<StoredSet>, sqlx::Error> {
    sqlx::query_as(
        "SELECT issuer, url, body, extract(epoch FROM served_from)::bigint AS served_from_s FROM jwk_sets WHERE body IS NOT NULL",
    )
    .fetch_all(connection)
    .await
}

/// A number that changes whenever any set does.
pub async fn changes(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    let (changes,): (i64,) = sqlx::query_as("SELECT coalesce(sum(changes), 0)::bigint FROM jwk_sets").fetch_one(connection).await?;
    Ok(changes)
}

/// How fetching goes, for every set that was ever asked for.
pub async fn states(database: &PgPool) -> Result<Vec<SetState>, sqlx::Error> {
    sqlx::query_as("SELECT issuer, url, fetched_at, attempted_at, next_at, failures, last_error FROM jwk_sets").fetch_all(database).await
}

/// Takes the fetches that are due, for this replica alone: of two that try, one gets the row.
pub async fn claim_due(database: &PgPool, issuers: &[String], urls: &[String]) -> Result<Vec<Due>, sqlx::Error> {
    let mut connection = database.acquire().await?;
    sqlx::query("INSERT INTO jwk_sets (issuer, url) SELECT * FROM UNNEST($1::text[], $2::text[]) ON CONFLICT DO NOTHING")
        .bind(issuers)
        .bind(urls)
        .execute(&mut *connection)
        .await?;
    sqlx::query_as(
        "UPDATE jwk_sets SET leased_until = now() + make_interval(secs => $3), attempted_at = now() \
         WHERE (issuer, url) IN (SELECT * FROM UNNEST($1::text[], $2::text[])) AND next_at <= now() \
             AND (leased_until IS NULL OR leased_until <= now()) \
         RETURNING issuer, url, failures",
    )
    .bind(issuers)
    .bind(urls)
    .bind(LEASE_S)
    .fetch_all(&mut *connection)
    .await
}

/// Asks for a fetch: at once, or as soon as ten seconds have passed since the last one, over all replicas. Says when.
pub async fn ask(database: &PgPool, issuer: &str, url: &str) -> Result<Option<OffsetDateTime>, sqlx::Error> {
    let asked: Option<(OffsetDateTime,)> = sqlx::query_as(
        "WITH moment AS (SELECT issuer, url, \
             GREATEST(now(), coalesce(attempted_at, '-infinity') + make_interval(secs => $3)) AS at FROM jwk_sets \
             WHERE issuer = $1 AND url = $2) \
         UPDATE jwk_sets AS s SET next_at = m.at FROM moment AS m \
         WHERE s.issuer = m.issuer AND s.url = m.url AND s.next_at > m.at RETURNING s.next_at",
    )
    .bind(issuer)
    .bind(url)
    .bind(f64::from(ASK_EVERY_S))
    .fetch_optional(database)
    .await?;
    if asked.is_some() {
        sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL_DUE).execute(database).await?;
    }
    Ok(asked.map(|(at,)| at))
}

/// Notes a failure and when to try again. The last good set stays.
pub async fn fail(database: &PgPool, due: &Due, error: &str, again_in: Duration) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE jwk_sets SET leased_until = NULL, failures = failures + 1, last_error = $3, \
             next_at = LEAST(CASE WHEN next_at > attempted_at THEN next_at END, now() + make_interval(secs => $4)) \
         WHERE issuer = $1 AND url = $2",
    )
    .bind(&due.issuer)
    .bind(&due.url)
    .bind(error)
    .bind(again_in.as_secs_f64())
    .execute(database)
    .await
    .map(|_done| ())
}

/// One importer at a time, over all replicas: a set is compared with all others before it is kept.
pub async fn lock_imports(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('jwk_sets'))").execute(connection).await.map(|_done| ())
}

/// How a good set is kept.
#[derive(Clone, Copy, Debug)]
pub struct Keeping {
    /// When it is fetched again.
    pub again_in: Duration,
    /// Its age is counted anew, even if nothing changed, once the old count leaves less than this.
    pub renew_below_s: u32,
    /// How long a set is used at most.
    pub stale_after_s: u32,
}

/// Keeps a good set, and notes what is left out of it. What is served changes only if the set did, or if its time is running out.
pub async fn keep(
    connection: &mut PgConnection,
    due: &Due,
    body: &[u8],
    keeping: Keeping,
    left_out: Option<&str>,
) -> Result<(), sqlx::Error> {
    let (served,): (bool,) = sqlx::query_as(
        "WITH was AS (SELECT body IS DISTINCT FROM $3 \
             OR served_from + make_interval(secs => $5) <= now() + make_interval(secs => $6) AS changed \
             FROM jwk_sets WHERE issuer = $1 AND url = $2) \
         UPDATE jwk_sets SET body = $3, fetched_at = now(), leased_until = NULL, failures = 0, last_error = $7, \
             served_from = CASE WHEN was.changed THEN now() ELSE served_from END, \
             changes = changes + was.changed::int, \
             next_at = LEAST(CASE WHEN next_at > attempted_at THEN next_at END, now() + make_interval(secs => $4)) \
         FROM was WHERE issuer = $1 AND url = $2 RETURNING was.changed",
    )
    .bind(&due.issuer)
    .bind(&due.url)
    .bind(body)
    .bind(keeping.again_in.as_secs_f64())
    .bind(f64::from(keeping.stale_after_s))
    .bind(f64::from(keeping.renew_below_s))
    .bind(left_out)
    .fetch_one(&mut *connection)
    .await?;
    if served {
        sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL_CHANGED).execute(connection).await?;
    }
    Ok(())
}
