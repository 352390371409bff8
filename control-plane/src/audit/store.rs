//! The audit log in Postgres: two statements per batch, and the queries.

use super::hits::{self, Hits};
use super::{Decoded, Quarantined, Row, cost_name, decision_name, gateway_name, stage_name};
use crate::holders::HolderId;
use serde::Serialize;
use sqlx::types::Json;
use sqlx::{Acquire, FromRow, PgConnection, PgPool};
use time::OffsetDateTime;
use utoipa::ToSchema;
use wire::sync::RecordBatch;

/// How the records of a batch are inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// All at once. If the table refuses one, all are refused.
    Bulk,
    /// Each by itself, refused ones to quarantine: after a bulk insertion was refused.
    OneByOne,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Records in the log.
    pub records: u64,
    /// Records kept aside.
    pub quarantined: u64,
}

/// A holder and the Envoy that it belongs to, as the token says.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The holder.
    pub holder: HolderId,
    /// Its Envoy.
    pub envoy_id: &'a str,
}

/// Stores a batch, unless it is stored already. Of one that grew since, only the new records are stored.
pub async fn ingest(
    connection: &mut PgConnection,
    sender: Sender<'_>,
    batch: &RecordBatch,
    first_sequence: i64,
    insertion: Insertion,
) -> Result<Stored, sqlx::Error> {
    let mut skipped = 0_i64;
    while skipped < i64::from(batch.count) {
        let count = i64::from(batch.count).saturating_sub(skipped);
        match claim(connection, sender.holder, first_sequence.saturating_add(skipped), count).await? {
            Claim::Ours => return insert(connection, sender, &Decoded::from_batch(batch, first_sequence, skipped), insertion).await,
            Claim::Stored { count } => skipped = skipped.saturating_add(count.max(1)),
        }
    }
    Ok(Stored::default())
}

/// Who stores a batch.
enum Claim {
    Ours,
    Stored { count: i64 },
}

/// Notes the batch, and the gap before it if there is one. The caller holds the lock on the holder.
async fn claim(connection: &mut PgConnection, holder: HolderId, first_sequence: i64, count: i64) -> Result<Claim, sqlx::Error> {
    let (ours, stored): (bool, Option<i64>) = sqlx::query_as(
        "WITH batch AS (INSERT INTO audit_batches (holder, first_sequence, count) VALUES ($1, $2, $3) \
             ON CONFLICT (holder, first_sequence) DO NOTHING RETURNING holder), \
         gap AS (INSERT INTO audit_gaps (holder, after_sequence, before_sequence, from_at, to_at, reason) \
             SELECT holder, last_sequence, $2, coalesce(last_records_at, first_seen_at), now(), 'sequence' \
             FROM holders JOIN batch USING (holder) WHERE last_sequence + 1 < $2 ON CONFLICT DO NOTHING), \
         advanced AS (UPDATE holders AS h SET last_sequence = GREATEST(h.last_sequence, $2 + $3 - 1), last_records_at = now() \
             FROM batch WHERE h.holder = batch.holder) \
         SELECT EXISTS (SELECT FROM batch), (SELECT count FROM audit_batches WHERE holder = $1 AND first_sequence = $2)",
    )
    .bind(holder.0)
    .bind(first_sequence)
    .bind(count)
    .fetch_one(connection)
    .await?;
    Ok(if ours { Claim::Ours } else { Claim::Stored { count: stored.unwrap_or(count) } })
}

async fn insert(
    connection: &mut PgConnection,
    sender: Sender<'_>,
    decoded: &Decoded<'_>,
    insertion: Insertion,
) -> Result<Stored, sqlx::Error> {
    let mut refused = Vec::new();
    let mut hits = Hits::default();
    match insertion {
        Insertion::Bulk => {
            insert_rows(connection, sender, &decoded.rows).await?;
            decoded.rows.iter().for_each(|row| hits.count(&row.record));
        }
        Insertion::OneByOne => {
            for row in &decoded.rows {
                if insert_alone(connection, sender, row).await? {
                    hits.count(&row.record);
                } else {
                    refused.push(Quarantined { sequence: row.sequence, bytes: row.bytes, error: "the table refuses the record" });
                }
            }
        }
    }
    quarantine(connection, sender, &decoded.quarantined).await?;
    quarantine(connection, sender, &refused).await?;
    // Last of all locks, and in one order, so that no two batches wait for each other in a circle.
    hits::add(connection, sender.holder, &hits).await?;
    let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    Ok(Stored {
        records: count(decoded.rows.len().saturating_sub(refused.len())),
        quarantined: count(decoded.quarantined.len().saturating_add(refused.len())),
    })
}

/// Whether the table took the record; anything but a refusal of the record itself is an error.
async fn insert_alone(connection: &mut PgConnection, sender: Sender<'_>, row: &Row<'_>) -> Result<bool, sqlx::Error> {
    let mut savepoint = connection.begin().await?;
    match insert_rows(&mut savepoint, sender, std::slice::from_ref(row)).await {
        Ok(()) => savepoint.commit().await.map(|()| true),
        Err(error) if is_refusal(&error) => savepoint.rollback().await.map(|()| false),
        Err(error) => Err(error),
    }
}

/// Whether the data was refused, rather than the statement not carried out.
/// SQLSTATE classes: 22 data exception, 23 constraint, 54 a limit such as the size of an index entry.
#[must_use]
pub fn is_refusal(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
}

async fn quarantine(connection: &mut PgConnection, sender: Sender<'_>, refused: &[Quarantined<'_>]) -> Result<(), sqlx::Error> {
    if refused.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO audit_quarantine (holder, envoy_id, sequence, bytes, error) \
         SELECT $1, $2, sequence, bytes, error FROM UNNEST($3::bigint[], $4::bytea[], $5::text[]) AS n (sequence, bytes, error)",
    )
    .bind(sender.holder.0)
    .bind(sender.envoy_id)
    .bind(refused.iter().map(|record| record.sequence).collect::<Vec<_>>())
    .bind(refused.iter().map(|record| record.bytes).collect::<Vec<_>>())
    .bind(refused.iter().map(|record| record.error).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(|_done| ())
}

const INSERT: &str = "INSERT INTO gateway_audit_logs (holder, envoy_id, sequence, \"timestamp\", gateway_type, stage, correlation_id, \
         causation_id, request_id, http_method, endpoint, route, action, issuer, subject, user_id, customer_id, agent_id, roles, \
         trial_mode, sandbox, decision, reason, checks, charges, approval_id, activation, revision, key_set, revocation, status_code, \
         response_details, total_us, upstream_us, rule, shadow, cost, usage) \
     SELECT $1, $2, sequence, timestamptz 'epoch' + at_us * interval '1 microsecond', gateway, stage, correlation_id, causation_id, \
         request_id, method, path, route, action, issuer, subject, user_id, customer_id, agent_id, string_to_array(roles, ','), trial, \
         sandbox, decision, reason, checks, charges, approval_id, activation, revision, key_set, revocation, status, details, \
         total_us, upstream_us, rule, shadow, cost, usage \
     FROM UNNEST($3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], \
         $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[], $19::text[], $20::bool[], \
         $21::bool[], $22::text[], $23::text[], $24::text[]::jsonb[], $25::text[]::jsonb[], $26::text[], $27::bigint[], \
         $28::bigint[], $29::bigint[], $30::bigint[], $31::int[], $32::text[], $33::bigint[], $34::bigint[], \
         $35::text[], $36::text[]::jsonb[], $37::text[], $38::text[]::jsonb[]) \
         AS n (sequence, at_us, gateway, stage, correlation_id, causation_id, request_id, method, path, route, action, issuer, subject, \
         user_id, customer_id, agent_id, roles, trial, sandbox, decision, reason, checks, charges, approval_id, activation, revision, \
         key_set, revocation, status, details, total_us, upstream_us, rule, shadow, cost, usage)";

async fn insert_rows(connection: &mut PgConnection, sender: Sender<'_>, rows: &[Row<'_>]) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(INSERT)
        .bind(sender.holder.0)
        .bind(sender.envoy_id)
        .bind(column(rows, |row| row.sequence))
        .bind(column(rows, |row| row.record.at_us))
        .bind(column(rows, |row| gateway_name(row.record.gateway)))
        .bind(column(rows, |row| stage_name(row.record.stage)))
        .bind(column(rows, |row| row.record.correlation_id.as_ref()))
        .bind(column(rows, |row| row.record.causation_id.as_deref()))
        .bind(column(rows, |row| row.request_id.as_str()))
        .bind(column(rows, |row| row.record.method.as_deref()))
        .bind(column(rows, |row| row.record.path.as_deref()))
        .bind(column(rows, |row| row.record.route.as_deref()))
        .bind(column(rows, |row| row.record.action.as_deref()))
        .bind(column(rows, |row| row.user().map(|user| user.issuer.as_ref())))
        .bind(column(rows, |row| row.user().map(|user| user.subject.as_ref())))
        .bind(column(rows, |row| row.user().map(|user| user.user_id.as_ref())))
        .bind(column(rows, |row| row.user().and_then(|user| user.customer_id.as_deref())))
        .bind(column(rows, |row| row.user().and_then(|user| user.agent_id.as_deref())))
        .bind(column(rows, |row| row.user().map(|user| user.roles.as_ref())))
        .bind(column(rows, |row| row.user().is_some_and(|user| user.trial_until_us.is_some())))
        .bind(column(rows, |row| row.record.sandbox))
        .bind(column(rows, |row| decision_name(row.record.decision)))
        .bind(column(rows, |row| row.record.reason.as_ref()))
        .bind(column(rows, |row| row.checks.as_str()))
        .bind(column(rows, |row| row.charges.as_str()))
        .bind(column(rows, |row| row.record.approval_id.as_deref()))
        .bind(column(rows, |row| row.activation))
        .bind(column(rows, |row| row.revision))
        .bind(column(rows, |row| row.key_set))
        .bind(column(rows, |row| row.revocation))
        .bind(column(rows, |row| row.record.status.map(i32::from)))
        .bind(column(rows, |row| row.record.details.as_deref()))
        .bind(column(rows, |row| row.total_us))
        .bind(column(rows, |row| row.upstream_us))
        .bind(column(rows, |row| row.record.rule.as_deref()))
        .bind(column(rows, |row| row.shadow.as_deref()))
        .bind(column(rows, |row| row.record.cost.map(cost_name)))
        .bind(column(rows, |row| row.usage.as_deref()))
        .execute(connection)
        .await
        .map(|_done| ())
}

fn column<'a, T>(rows: &'a [Row<'a>], value: impl Fn(&'a Row<'a>) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

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
    pub rule: Option<String>,
    /// The status.
    pub status: Option<i32>,
    /// From this time on.
    pub from: Option<OffsetDateTime>,
    /// Before this time.
    pub to: Option<OffsetDateTime>,
    /// Whether the revision in shadow would have decided differently.
    pub shadow: Option<bool>,
}

/// The place of a record in the order of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Its time, microseconds since the epoch.
    pub at_us: i64,
    /// Its id.
    pub id: i64,
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, FromRow, ToSchema)]
pub struct StoredRecord {
    /// Its id in the log.
    pub id: i64,
    /// The holder that reported it.
    pub holder: uuid::Uuid,
    /// Its place in the holder's sequence.
    pub sequence: i64,
    /// The Envoy that the holder belongs to.
    pub envoy_id: String,
    /// When it was stored.
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
    /// The route.
    pub route: Option<String>,
    /// The route's permission.
    pub action: Option<String>,
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
    /// The user's roles.
    pub roles: Option<Vec<String>>,
    /// Whether the user was on trial.
    pub trial_mode: bool,
    /// Whether the sandbox was the target.
    pub sandbox: bool,
    /// `permit`, `deny`, `indeterminate` or `none`.
    pub decision: String,
    /// The coded reason.
    pub reason: String,
    /// Every check and its outcome, in order.
    #[schema(value_type = Vec<Object>)]
    pub checks: Json<serde_json::Value>,
    /// What was charged.
    #[schema(value_type = Vec<Object>)]
    pub charges: Json<serde_json::Value>,
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
    /// The custom rule that refused, as it names itself.
    pub rule: Option<String>,
    /// How the revision in shadow would have decided, where that differs: its revision, decision, reason and route.
    #[schema(value_type = Option<Object>)]
    pub shadow: Option<Json<serde_json::Value>>,
    /// How it became known what the request cost: `fixed`, `reported`, `usage` or `unreadable`; absent when nothing was charged.
    pub cost: Option<String>,
    /// The tokens of a language model that it used: model, `input`, `cache_read`, `cache_write` and `output`.
    #[schema(value_type = Option<Object>)]
    pub usage: Option<Json<serde_json::Value>>,
}

impl StoredRecord {
    /// Its place in the order of answers.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        let micros = self.timestamp.unix_timestamp_nanos().div_euclid(1_000);
        Cursor { at_us: i64::try_from(micros).unwrap_or(0), id: self.id }
    }
}

macro_rules! filtered {
    ($select:literal, $rest:literal) => {
        concat!(
            $select,
            " FROM gateway_audit_logs WHERE ($1::text IS NULL OR correlation_id = $1) AND ($2::text IS NULL OR user_id = $2) \
             AND ($3::text IS NULL OR customer_id = $3) AND ($4::text IS NULL OR agent_id = $4) \
             AND ($5::text IS NULL OR decision = $5) AND ($6::text IS NULL OR route = $6) AND ($7::int IS NULL OR status_code = $7) \
             AND ($8::timestamptz IS NULL OR \"timestamp\" >= $8) AND ($9::timestamptz IS NULL OR \"timestamp\" < $9) \
             AND ($10::bool IS NOT TRUE OR shadow IS NOT NULL) AND ($10::bool IS NOT FALSE OR shadow IS NULL) ",
            $rest
        )
    };
}

/// Binds the ten conditions of `filtered!`. Not kept as a prepared statement: a plan for all values could use no index.
macro_rules! with_filter {
    ($query:expr, $filter:expr) => {
        $query
            .persistent(false)
            .bind(&$filter.correlation_id)
            .bind(&$filter.user)
            .bind(&$filter.customer)
            .bind(&$filter.agent)
            .bind(&$filter.outcome)
            .bind(&$filter.rule)
            .bind($filter.status)
            .bind($filter.from)
            .bind($filter.to)
            .bind($filter.shadow)
    };
}

/// Records, newest first, after `cursor`.
pub async fn query(database: &PgPool, filter: &Filter, cursor: Option<Cursor>, limit: i64) -> Result<Vec<StoredRecord>, sqlx::Error> {
    let statement = filtered!(
        "SELECT *",
        "AND ($11::bigint IS NULL OR (\"timestamp\", id) < (timestamptz 'epoch' + $11 * interval '1 microsecond', $12)) \
         ORDER BY \"timestamp\" DESC, id DESC LIMIT $13"
    );
    with_filter!(sqlx::query_as(statement), filter)
        .bind(cursor.map(|cursor| cursor.at_us))
        .bind(cursor.map(|cursor| cursor.id))
        .bind(limit)
        .fetch_all(database)
        .await
}

/// How many records match.
pub async fn count(database: &PgPool, filter: &Filter) -> Result<i64, sqlx::Error> {
    let statement = filtered!("SELECT count(*)", "");
    let (count,): (i64,) = with_filter!(sqlx::query_as(statement), filter).fetch_one(database).await?;
    Ok(count)
}
