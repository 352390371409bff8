//! Queries of the audit log.

use super::access::Access;
use serde::{Serialize, Serializer};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgPool};
use std::fmt;
use std::str::FromStr;
use time::{Date, OffsetDateTime};
use utoipa::ToSchema;
use uuid::Uuid;
use wire::hex::hex;

/// Which records are asked for; all that is absent matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The correlation id.
    pub correlation_id: Option<String>,
    /// The `user_id` claim.
    pub user: Option<String>,
    /// The customer.
    pub customer: Option<String>,
    /// The agent.
    pub agent: Option<String>,
    /// The decision.
    pub outcome: Option<String>,
    /// The route.
    pub route: Option<String>,
    /// The custom rule or the budget that refused.
    pub rule: Option<String>,
    /// The budget that was charged.
    pub budget: Option<String>,
    /// The request's id.
    pub request_id: Option<String>,
    /// The approval that was asked for or consumed.
    pub approval_id: Option<String>,
    /// The gateway.
    pub gateway: Option<String>,
    /// The status.
    pub status: Option<i32>,
    /// From this time on.
    pub from: Option<OffsetDateTime>,
    /// Before this time.
    pub to: Option<OffsetDateTime>,
    /// Whether the revision in shadow would have decided differently.
    pub shadow: Option<bool>,
    /// Not those with this reason.
    pub except_reason: Option<&'static str>,
}

/// The place of a record in the order of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Its time, microseconds since the epoch.
    pub at_us: i64,
    /// Its holder.
    pub holder: Uuid,
    /// Its place in the holder's sequence.
    pub sequence: i64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.at_us, self.holder.simple(), self.sequence)
    }
}

/// A cursor that is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is not one of ours")]
pub struct NotACursor;

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        let mut parts = text.split('.');
        let mut part = || parts.next().ok_or(NotACursor);
        let (at_us, holder, sequence) = (part()?, part()?, part()?);
        let cursor = Self {
            at_us: at_us.parse().map_err(|_invalid| NotACursor)?,
            holder: holder.parse().map_err(|_invalid| NotACursor)?,
            sequence: sequence.parse().map_err(|_invalid| NotACursor)?,
        };
        if parts.next().is_some() { Err(NotACursor) } else { Ok(cursor) }
    }
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, FromRow, ToSchema)]
pub struct StoredRecord {
    /// Its id in the log: its holder and its place in the holder's sequence.
    pub id: String,
    /// The holder that reported it.
    pub holder: Uuid,
    /// Its place in the holder's sequence.
    pub sequence: i64,
    /// The Envoy that the holder belongs to.
    pub envoy_id: String,
    /// When it arrived at the log.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub received_at: OffsetDateTime,
    /// When the request arrived.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: OffsetDateTime,
    /// `CP`, `PP` or `PLANT`.
    pub gateway_type: String,
    /// Who answered: `filter` or `envoy`.
    pub stage: String,
    /// `outcome`, or `intent` of one that was recorded before the request was forwarded.
    pub phase: String,
    /// The correlation id, as sent.
    pub correlation_id: String,
    /// The parent request, as sent.
    pub causation_id: Option<String>,
    /// The request's id.
    pub request_id: String,
    /// The method.
    pub http_method: Option<String>,
    /// The path without query.
    pub endpoint: Option<String>,
    /// The protocol that it asked to change to: `websocket` or `other`.
    pub upgrade: Option<String>,
    /// Parameters of the query that the policy has recorded, as `name` and `value`.
    #[schema(value_type = Option<Vec<Object>>)]
    pub query_params: Option<Json<Value>>,
    /// Headers of the request that the policy has recorded, as `name` and `value`.
    #[schema(value_type = Option<Vec<Object>>)]
    pub request_headers: Option<Json<Value>>,
    /// Headers of the answer that the policy has recorded, as `name` and `value`.
    #[schema(value_type = Option<Vec<Object>>)]
    pub response_headers: Option<Json<Value>>,
    /// The route.
    pub route: Option<String>,
    /// The route's permission.
    pub action: Option<String>,
    /// Of how many requests like this one was recorded.
    pub sampled_of: i64,
    /// The user's issuer.
    pub issuer: Option<String>,
    /// The user's subject.
    pub subject: Option<String>,
    /// The `user_id` claim.
    pub user_id: Option<String>,
    /// The customer.
    pub customer_id: Option<String>,
    /// The agent.
    pub agent_id: Option<String>,
    /// The `email` claim, where the policy has it recorded.
    pub email: Option<String>,
    /// The `governor_agent_id` claim.
    pub governor_agent_id: Option<String>,
    /// The user's roles.
    pub roles: Option<Vec<String>>,
    /// The `tier` claim.
    pub tier: Option<String>,
    /// Whether the user was on trial.
    pub trial_mode: bool,
    /// Until when.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub trial_until: Option<OffsetDateTime>,
    /// Whether the sandbox was the target.
    pub sandbox: bool,
    /// `permit`, `deny`, `indeterminate` or `none`.
    pub decision: String,
    /// The coded reason.
    pub reason: String,
    /// The custom rule or the budget that refused, as it names itself.
    pub rule: Option<String>,
    /// Every check and its outcome, in order.
    #[schema(value_type = Vec<Object>)]
    pub checks: Json<Value>,
    /// How the revision in shadow would have decided, where that differs: its revision, decision, reason and route.
    #[schema(value_type = Option<Object>)]
    pub shadow: Option<Json<Value>>,
    /// What was charged.
    #[schema(value_type = Vec<Object>)]
    pub charges: Json<Value>,
    /// How it became known what the request cost: `fixed`, `reported`, `usage` or `unreadable`; absent when nothing was charged.
    pub cost: Option<String>,
    /// The tokens of a language model that it used: model, `input`, `cache_read`, `cache_write` and `output`.
    #[schema(value_type = Option<Object>)]
    pub usage: Option<Json<Value>>,
    /// The approval that was requested or consumed.
    pub approval_id: Option<String>,
    /// The activation that decided.
    pub activation: i64,
    /// The revision that decided.
    pub revision: i64,
    /// The key set that verified.
    pub key_set: i64,
    /// The last revocation that was enforced.
    pub revocation: i64,
    /// The status sent to the client.
    pub status_code: Option<i32>,
    /// Envoy's response code details.
    pub response_details: Option<String>,
    /// From arrival to the end of the stream, microseconds.
    pub total_us: i64,
    /// From forwarding to the first response header, microseconds.
    pub upstream_us: Option<i64>,
    /// From arrival until the filter let it go on or answered, microseconds.
    pub ours_us: Option<i64>,
    /// The hash of its chain with this record, in hexadecimal.
    #[serde(serialize_with = "in_hex")]
    #[schema(value_type = String)]
    pub hash: Vec<u8>,
}

fn in_hex<S: Serializer>(hash: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&hex(hash))
}

impl StoredRecord {
    /// Its place in the order of answers.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { at_us: micros(self.timestamp), holder: self.holder, sequence: self.sequence }
    }
}

/// Microseconds since the epoch.
#[must_use]
pub fn micros(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos().div_euclid(1_000)).unwrap_or(0)
}

macro_rules! filtered {
    ($select:literal, $rest:literal) => {
        concat!(
            $select,
            " FROM gateway_audit_logs WHERE ($1::text IS NULL OR correlation_id = $1) AND ($2::text IS NULL OR user_id = $2) \
             AND ($3::text IS NULL OR customer_id = $3) AND ($4::text IS NULL OR agent_id = $4) \
             AND ($5::text IS NULL OR decision = $5) AND ($6::text IS NULL OR route = $6) AND ($7::int IS NULL OR status_code = $7) \
             AND ($8::timestamptz IS NULL OR \"timestamp\" >= $8 AND received_at >= $8 - interval '1 day') AND ($9::timestamptz IS NULL OR \"timestamp\" < $9) \
             AND ($10::bool IS NOT TRUE OR shadow IS NOT NULL) AND ($10::bool IS NOT FALSE OR shadow IS NULL) \
             AND ($11::text IS NULL OR rule = $11) AND ($12::text IS NULL OR jsonb_path_query_array(charges, '$[*].budget') ? $12) \
             AND ($13::text IS NULL OR request_id = $13) AND ($14::text IS NULL OR approval_id = $14) \
             AND ($15::text IS NULL OR gateway_type = $15) AND ($16::text IS NULL OR reason <> $16) ",
            $rest
        )
    };
}

/// Binds the conditions of `filtered!`. Not kept as a prepared statement: a plan for all values could use no index.
macro_rules! with_filter {
    ($query:expr, $filter:expr) => {
        $query
            .persistent(false)
            .bind(&$filter.correlation_id)
            .bind(&$filter.user)
            .bind(&$filter.customer)
            .bind(&$filter.agent)
            .bind(&$filter.outcome)
            .bind(&$filter.route)
            .bind($filter.status)
            .bind($filter.from)
            .bind($filter.to)
            .bind($filter.shadow)
            .bind(&$filter.rule)
            .bind(&$filter.budget)
            .bind(&$filter.request_id)
            .bind(&$filter.approval_id)
            .bind(&$filter.gateway)
            .bind($filter.except_reason)
    };
}

/// Records, newest first, after `cursor`, as far as `access` sees them.
///
/// # Errors
/// Postgres failed.
pub async fn page(
    database: &PgPool,
    access: Access<'_>,
    filter: &Filter,
    cursor: Option<Cursor>,
    limit: i64,
) -> Result<Vec<StoredRecord>, sqlx::Error> {
    let statement = filtered!(
        "SELECT *",
        "AND ($17::bigint IS NULL OR (\"timestamp\", holder, sequence) < (timestamptz 'epoch' + $17 * interval '1 microsecond', $18, $19)) \
         ORDER BY \"timestamp\" DESC, holder DESC, sequence DESC LIMIT $20"
    );
    let mut transaction = access.begin(database).await?;
    let records = with_filter!(sqlx::query_as(statement), filter)
        .bind(cursor.map(|cursor| cursor.at_us))
        .bind(cursor.map(|cursor| cursor.holder))
        .bind(cursor.map(|cursor| cursor.sequence))
        .bind(limit)
        .fetch_all(&mut *transaction)
        .await?;
    transaction.rollback().await?;
    Ok(records)
}

/// The holder and the place that a record's id names; nothing if it is the id of something else.
#[must_use]
pub fn place(id: &str) -> Option<(Uuid, i64)> {
    let (holder, sequence) = id.rsplit_once('-')?;
    Some((Uuid::parse_str(holder).ok()?, sequence.parse().ok()?))
}

/// The record with this id, or the outcome of the request with it, if `access` sees it and it arrived since.
///
/// # Errors
/// Postgres failed.
pub async fn find(database: &PgPool, access: Access<'_>, id: &str, since: OffsetDateTime) -> Result<Option<StoredRecord>, sqlx::Error> {
    let mut transaction = access.begin(database).await?;
    let record = match place(id) {
        Some((holder, sequence)) => {
            sqlx::query_as("SELECT * FROM gateway_audit_logs WHERE holder = $1 AND sequence = $2 AND received_at >= $3 LIMIT 1")
                .persistent(false)
                .bind(holder)
                .bind(sequence)
                .bind(since)
                .fetch_optional(&mut *transaction)
                .await?
        }
        // An intent comes before its outcome.
        None => sqlx::query_as(
            "SELECT * FROM gateway_audit_logs WHERE request_id = $1 AND received_at >= $2 ORDER BY phase DESC, \"timestamp\" DESC LIMIT 1",
        )
        .persistent(false)
        .bind(id)
        .bind(since)
        .fetch_optional(&mut *transaction)
        .await?,
    };
    transaction.rollback().await?;
    Ok(record)
}

/// How many records match, of those that `access` sees.
///
/// # Errors
/// Postgres failed.
pub async fn count(database: &PgPool, access: Access<'_>, filter: &Filter) -> Result<i64, sqlx::Error> {
    let statement = filtered!("SELECT count(*)", "");
    let mut transaction = access.begin(database).await?;
    let (count,): (i64,) = with_filter!(sqlx::query_as(statement), filter).fetch_one(&mut *transaction).await?;
    transaction.rollback().await?;
    Ok(count)
}

/// What is known to be missing of a holder's records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Gap {
    /// The holder.
    pub holder: Uuid,
    /// The Envoy that it belongs to.
    pub envoy_id: String,
    /// The last record before it.
    pub after_sequence: i64,
    /// The first record after it; absent where the holder was closed: nobody knows how much it had.
    pub before_sequence: Option<i64>,
    /// From when on.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub from_at: OffsetDateTime,
    /// Until when.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub to_at: OffsetDateTime,
    /// `sequence`, or `holder_closed`.
    pub reason: String,
}

/// Gaps that touch a time, latest first.
///
/// # Errors
/// Postgres failed.
pub async fn gaps(
    database: &PgPool,
    from: Option<OffsetDateTime>,
    to: Option<OffsetDateTime>,
    limit: i64,
) -> Result<Vec<Gap>, sqlx::Error> {
    let mut transaction = Access::Auditor.begin(database).await?;
    let gaps = gaps_in(&mut transaction, from, to, limit).await?;
    transaction.rollback().await?;
    Ok(gaps)
}

/// The same, for a transaction that is the auditor's already.
pub(super) async fn gaps_in(
    connection: &mut PgConnection,
    from: Option<OffsetDateTime>,
    to: Option<OffsetDateTime>,
    limit: i64,
) -> Result<Vec<Gap>, sqlx::Error> {
    sqlx::query_as(
        "SELECT holder, (SELECT envoy_id FROM holders AS h WHERE h.holder = g.holder) AS envoy_id, after_sequence, before_sequence, from_at, \
             to_at, reason FROM audit_gaps AS g \
         WHERE ($1::timestamptz IS NULL OR to_at >= $1) AND ($2::timestamptz IS NULL OR from_at < $2) ORDER BY to_at DESC, id DESC LIMIT $3",
    )
    .bind(from)
    .bind(to)
    .bind(limit)
    .fetch_all(connection)
    .await
}

/// A day of a user on a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Summary {
    /// The day of arrival, UTC.
    #[schema(value_type = String, format = Date)]
    pub day: Date,
    /// The gateway.
    pub gateway_type: String,
    /// The user's issuer; absent where nobody was known.
    pub issuer: Option<String>,
    /// The user's subject.
    pub subject: Option<String>,
    /// The `user_id` claim.
    pub user_id: Option<String>,
    /// The customer.
    pub customer_id: Option<String>,
    /// Whether on trial.
    pub trial_mode: bool,
    /// Requests; of sampled routes as many as the records stand for.
    pub requests: i64,
    /// Answered with less than 400.
    pub succeeded: i64,
    /// Answered with 4xx.
    pub client_errors: i64,
    /// Answered with 5xx.
    pub server_errors: i64,
    /// Refused by a rule.
    pub denied: i64,
    /// The mean of how long they took, microseconds.
    pub average_us: i64,
    /// Half of them took no longer, microseconds.
    pub p50_us: i64,
    /// 95 of 100 took no longer, microseconds.
    pub p95_us: i64,
    /// 99 of 100 took no longer, microseconds.
    pub p99_us: i64,
}

/// Whose summaries; all that is absent matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfWhom {
    /// The `user_id` claim.
    pub user: Option<String>,
    /// The customer.
    pub customer: Option<String>,
    /// The gateway.
    pub gateway: Option<String>,
}

/// Summaries, latest day first, as far as `access` sees them.
///
/// # Errors
/// Postgres failed.
pub async fn summaries(database: &PgPool, access: Access<'_>, of: &OfWhom, limit: i64) -> Result<Vec<Summary>, sqlx::Error> {
    let mut transaction = access.begin(database).await?;
    let summaries = sqlx::query_as(
        "SELECT * FROM gateway_audit.daily_summaries WHERE ($1::text IS NULL OR user_id = $1) AND ($2::text IS NULL OR customer_id = $2) \
         AND ($3::text IS NULL OR gateway_type = $3) ORDER BY day DESC, gateway_type, requests DESC, issuer, subject LIMIT $4",
    )
    .bind(&of.user)
    .bind(&of.customer)
    .bind(&of.gateway)
    .bind(limit)
    .fetch_all(&mut *transaction)
    .await?;
    transaction.rollback().await?;
    Ok(summaries)
}
