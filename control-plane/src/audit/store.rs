//! The audit log in Postgres: how a batch is stored.

use super::access::{self, Access};
use super::chain::{Entry, Hash, Hasher, Head};
use super::hits::{self, Hits};
use super::{Decoded, Quarantined, Source, partitions};
use crate::holders::HolderId;
use sqlx::{Acquire, PgConnection};
use std::collections::BTreeMap;
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
    /// Numbers before these records that no record came for: the gap.
    pub missing: u64,
}

/// Stores a batch, unless it is stored already. Of one that grew since, only the new records are stored.
///
/// It is written in the writer's role; the caller has locked the holder and gets its own role back.
pub async fn ingest(
    connection: &mut PgConnection,
    source: Source<'_>,
    batch: &RecordBatch,
    first_sequence: i64,
    insertion: Insertion,
) -> Result<Stored, sqlx::Error> {
    Access::Writer { envoy_id: source.envoy_id }.enter(connection).await?;
    let mut stored = Stored::default();
    let mut skipped = 0_i64;
    let told_until_us = super::told_until_us(batch);
    while skipped < i64::from(batch.count) {
        let count = i64::from(batch.count).saturating_sub(skipped);
        match claim(connection, source.holder, first_sequence.saturating_add(skipped), count, told_until_us).await? {
            Claim::Ours { newest } => {
                let mut decoded = Decoded::from_batch(batch, first_sequence, skipped);
                decoded.refuse_up_to(newest);
                let missing = first_sequence.saturating_add(skipped).saturating_sub(newest).saturating_sub(1);
                stored = insert(connection, source, &decoded, insertion).await?;
                stored.missing = u64::try_from(missing).unwrap_or(0);
                break;
            }
            Claim::Stored { count } => skipped = skipped.saturating_add(count.max(1)),
        }
    }
    access::leave(connection).await?;
    Ok(stored)
}

/// Who stores a batch.
enum Claim {
    Ours {
        /// The newest record that was stored before.
        newest: i64,
    },
    Stored {
        count: i64,
    },
}

/// Notes the batch, and the gap before it if there is one. The caller holds the lock on the holder.
///
/// What is missing later ended after `told_until_us`: the batch was on its way for a while, so its arrival would be too late a time.
async fn claim(
    connection: &mut PgConnection,
    holder: HolderId,
    first_sequence: i64,
    count: i64,
    told_until_us: Option<i64>,
) -> Result<Claim, sqlx::Error> {
    let (ours, stored, newest): (bool, Option<i64>, i64) = sqlx::query_as(
        "WITH batch AS (INSERT INTO audit_batches (holder, first_sequence, count) VALUES ($1, $2, $3) \
             ON CONFLICT (holder, first_sequence) DO NOTHING RETURNING holder), \
         gap AS (INSERT INTO audit_gaps (holder, after_sequence, before_sequence, from_at, to_at, reason) \
             SELECT holder, last_sequence, $2, coalesce(last_records_at, first_seen_at), now(), 'sequence' \
             FROM holders JOIN batch USING (holder) WHERE last_sequence + 1 < $2 ON CONFLICT DO NOTHING), \
         advanced AS (UPDATE holders AS h SET last_sequence = GREATEST(h.last_sequence, $2 + $3 - 1), \
                 last_records_at = LEAST(now(), timestamptz 'epoch' + $4 * interval '1 microsecond') \
             FROM batch WHERE h.holder = batch.holder) \
         SELECT EXISTS (SELECT FROM batch), (SELECT count FROM audit_batches WHERE holder = $1 AND first_sequence = $2), \
             (SELECT last_sequence FROM holders WHERE holder = $1)",
    )
    .bind(holder.0)
    .bind(first_sequence)
    .bind(count)
    .bind(told_until_us)
    .fetch_one(connection)
    .await?;
    // The statement sees the tables as they were before it.
    Ok(if ours { Claim::Ours { newest } } else { Claim::Stored { count: stored.unwrap_or(count) } })
}

/// Notes that what a closed holder may have had to tell is missing. Nobody knows how much that was.
///
/// # Errors
/// Postgres failed.
pub async fn note_closed(connection: &mut PgConnection, holder: HolderId) -> Result<(), sqlx::Error> {
    Access::Writer { envoy_id: "" }.enter(connection).await?;
    sqlx::query(
        "INSERT INTO audit_gaps (holder, after_sequence, from_at, to_at, reason) \
         SELECT holder, last_sequence, coalesce(last_records_at, first_seen_at), now(), 'holder_closed' FROM holders WHERE holder = $1 \
         ON CONFLICT DO NOTHING",
    )
    .bind(holder.0)
    .execute(&mut *connection)
    .await?;
    access::leave(connection).await
}

async fn insert(
    connection: &mut PgConnection,
    source: Source<'_>,
    decoded: &Decoded<'_>,
    insertion: Insertion,
) -> Result<Stored, sqlx::Error> {
    let mut refused = Vec::new();
    let mut hits = Hits::default();
    let mut chains = Chains::read(connection, source.holder).await?;
    // A clock that was set back must not put a later record into an earlier partition.
    let source = Source { received_at_us: source.received_at_us.max(chains.advanced_at_us), ..source };
    let entries = decoded.rows.iter().map(|row| row.entry(source));
    match insertion {
        Insertion::Bulk => {
            let entries: Vec<Entry<'_>> = entries.collect();
            let hashes: Vec<Hash> = entries.iter().map(|entry| chains.append(entry)).collect();
            insert_entries(connection, source, &entries, &hashes).await?;
            decoded.rows.iter().for_each(|row| hits.count(&row.record));
        }
        Insertion::OneByOne => {
            for (row, entry) in decoded.rows.iter().zip(entries) {
                let head = chains.next(&entry);
                if insert_alone(connection, source, entry, head.hash).await? {
                    chains.advance(entry.gateway, head);
                    hits.count(&row.record);
                } else {
                    refused.push(Quarantined { sequence: row.sequence, bytes: row.bytes, error: "the table refuses the record" });
                }
            }
        }
    }
    chains.write(connection, source).await?;
    quarantine(connection, source, &decoded.quarantined).await?;
    quarantine(connection, source, &refused).await?;
    // Last of all locks, and in one order, so that no two batches wait for each other in a circle.
    hits::add(connection, source.holder, &hits).await?;
    let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    Ok(Stored {
        records: count(decoded.rows.len().saturating_sub(refused.len())),
        quarantined: count(decoded.quarantined.len().saturating_add(refused.len())),
        missing: 0,
    })
}

/// Where the chains of a holder stand, by gateway, while records are added to them.
#[derive(Debug)]
struct Chains {
    holder: HolderId,
    /// When the last record came, microseconds since the epoch.
    advanced_at_us: i64,
    heads: BTreeMap<String, Head>,
    hasher: Hasher,
}

impl Chains {
    async fn read(connection: &mut PgConnection, holder: HolderId) -> Result<Self, sqlx::Error> {
        let rows: Vec<(String, i64, i64, Vec<u8>, i64)> = sqlx::query_as(
            "SELECT gateway_type, sequence, records, head, (extract(epoch FROM advanced_at) * 1000000)::bigint FROM gateway_audit.chains \
             WHERE holder = $1",
        )
        .bind(holder.0)
        .fetch_all(connection)
        .await?;
        let advanced_at_us = rows.iter().map(|(_, _, _, _, at)| *at).max().unwrap_or(0);
        let heads = rows.into_iter().map(|(gateway, sequence, records, hash, _)| {
            let hash = Hash::try_from(hash).map_err(|_length| sqlx::Error::Decode("a chain's head is not a SHA-256".into()))?;
            Ok((gateway, Head { sequence, records, hash }))
        });
        Ok(Self { holder, advanced_at_us, heads: heads.collect::<Result<_, sqlx::Error>>()?, hasher: Hasher::default() })
    }

    /// Where the entry's chain stands when it is added.
    fn next(&mut self, entry: &Entry<'_>) -> Head {
        let head = self.heads.get(entry.gateway).copied().unwrap_or_else(|| Head::start(self.holder, entry.gateway));
        head.advanced(entry.sequence, self.hasher.hash(&head.hash, entry))
    }

    fn advance(&mut self, gateway: &str, head: Head) {
        match self.heads.get_mut(gateway) {
            Some(known) => *known = head,
            None => drop(self.heads.insert(gateway.to_owned(), head)),
        }
    }

    fn append(&mut self, entry: &Entry<'_>) -> Hash {
        let head = self.next(entry);
        self.advance(entry.gateway, head);
        head.hash
    }

    async fn write(&self, connection: &mut PgConnection, source: Source<'_>) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO gateway_audit.chains AS c (holder, gateway_type, sequence, records, head, advanced_at) \
             SELECT $1, gateway, sequence, records, head, timestamptz 'epoch' + $2 * interval '1 microsecond' \
             FROM UNNEST($3::text[], $4::bigint[], $5::bigint[], $6::bytea[]) AS n (gateway, sequence, records, head) \
             ON CONFLICT (holder, gateway_type) DO UPDATE SET sequence = EXCLUDED.sequence, records = EXCLUDED.records, \
                 head = EXCLUDED.head, advanced_at = EXCLUDED.advanced_at WHERE c.sequence < EXCLUDED.sequence",
        )
        .bind(self.holder.0)
        .bind(source.received_at_us)
        .bind(self.heads.keys().map(String::as_str).collect::<Vec<_>>())
        .bind(self.heads.values().map(|head| head.sequence).collect::<Vec<_>>())
        .bind(self.heads.values().map(|head| head.records).collect::<Vec<_>>())
        .bind(self.heads.values().map(|head| head.hash.as_slice()).collect::<Vec<_>>())
        .execute(connection)
        .await
        .map(|_done| ())
    }
}

/// Whether the table took the record; anything but a refusal of the record itself is an error.
async fn insert_alone(connection: &mut PgConnection, source: Source<'_>, entry: Entry<'_>, hash: Hash) -> Result<bool, sqlx::Error> {
    let mut savepoint = connection.begin().await?;
    match insert_entries(&mut savepoint, source, &[entry], &[hash]).await {
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
    // A partition that is missing refuses no record.
    !partitions::is_missing(error) && code.is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
}

async fn quarantine(connection: &mut PgConnection, source: Source<'_>, refused: &[Quarantined<'_>]) -> Result<(), sqlx::Error> {
    if refused.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO audit_quarantine (holder, envoy_id, sequence, bytes, error) \
         SELECT $1, $2, sequence, bytes, error FROM UNNEST($3::bigint[], $4::bytea[], $5::text[]) AS n (sequence, bytes, error)",
    )
    .bind(source.holder.0)
    .bind(source.envoy_id)
    .bind(refused.iter().map(|record| record.sequence).collect::<Vec<_>>())
    .bind(refused.iter().map(|record| record.bytes).collect::<Vec<_>>())
    .bind(refused.iter().map(|record| record.error).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(|_done| ())
}

const INSERT: &str = "INSERT INTO gateway_audit_logs (holder, envoy_id, received_at, sequence, \"timestamp\", gateway_type, stage, \
         phase, correlation_id, causation_id, request_id, http_method, endpoint, upgrade, query_params, request_headers, \
         response_headers, route, action, sampled_of, issuer, subject, user_id, customer_id, agent_id, email, governor_agent_id, \
         roles, tier, trial_mode, trial_until, sandbox, decision, reason, rule, checks, shadow, charges, cost, usage, approval_id, \
         activation, revision, key_set, revocation, status_code, response_details, total_us, upstream_us, ours_us, hash) \
     SELECT $1, $2, timestamptz 'epoch' + $3 * interval '1 microsecond', sequence, \
         timestamptz 'epoch' + at_us * interval '1 microsecond', gateway, stage, phase, correlation_id, causation_id, request_id, \
         method, path, upgrade, query, request_headers, response_headers, route, action, sampled_of, issuer, subject, user_id, \
         customer_id, agent_id, email, governor_agent_id, string_to_array(roles, ','), tier, trial, \
         timestamptz 'epoch' + trial_until_us * interval '1 microsecond', sandbox, decision, reason, rule, checks, shadow, charges, \
         cost, usage, approval_id, activation, revision, key_set, revocation, status, details, total_us, upstream_us, ours_us, hash \
     FROM UNNEST($4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], \
         $13::text[], $14::text[], $15::text[]::jsonb[], $16::text[]::jsonb[], $17::text[]::jsonb[], $18::text[], $19::text[], \
         $20::bigint[], $21::text[], $22::text[], $23::text[], $24::text[], $25::text[], $26::text[], $27::text[], $28::text[], \
         $29::text[], $30::bool[], $31::bigint[], $32::bool[], $33::text[], $34::text[], $35::text[], $36::text[]::jsonb[], \
         $37::text[]::jsonb[], $38::text[]::jsonb[], $39::text[], $40::text[]::jsonb[], $41::text[], $42::bigint[], $43::bigint[], \
         $44::bigint[], $45::bigint[], $46::int[], $47::text[], $48::bigint[], $49::bigint[], $50::bigint[], $51::bytea[]) \
         AS n (sequence, at_us, gateway, stage, phase, correlation_id, causation_id, request_id, method, path, upgrade, query, \
         request_headers, response_headers, route, action, sampled_of, issuer, subject, user_id, customer_id, agent_id, email, \
         governor_agent_id, roles, tier, trial, trial_until_us, sandbox, decision, reason, rule, checks, shadow, charges, cost, \
         usage, approval_id, activation, revision, key_set, revocation, status, details, total_us, upstream_us, ours_us, hash)";

/// Everything that is bound is in the entry that was hashed.
async fn insert_entries(
    connection: &mut PgConnection,
    source: Source<'_>,
    entries: &[Entry<'_>],
    hashes: &[Hash],
) -> Result<(), sqlx::Error> {
    if entries.is_empty() {
        return Ok(());
    }
    sqlx::query(INSERT)
        .bind(source.holder.0)
        .bind(source.envoy_id)
        .bind(source.received_at_us)
        .bind(column(entries, |entry| entry.sequence))
        .bind(column(entries, |entry| entry.at_us))
        .bind(column(entries, |entry| entry.gateway))
        .bind(column(entries, |entry| entry.stage))
        .bind(column(entries, |entry| entry.phase))
        .bind(column(entries, |entry| entry.correlation_id))
        .bind(column(entries, |entry| entry.causation_id))
        .bind(column(entries, |entry| entry.request_id))
        .bind(column(entries, |entry| entry.method))
        .bind(column(entries, |entry| entry.path))
        .bind(column(entries, |entry| entry.upgrade))
        .bind(column(entries, |entry| entry.query))
        .bind(column(entries, |entry| entry.request_headers))
        .bind(column(entries, |entry| entry.response_headers))
        .bind(column(entries, |entry| entry.route))
        .bind(column(entries, |entry| entry.action))
        .bind(column(entries, |entry| entry.sampled_of))
        .bind(column(entries, |entry| entry.issuer))
        .bind(column(entries, |entry| entry.subject))
        .bind(column(entries, |entry| entry.user_id))
        .bind(column(entries, |entry| entry.customer_id))
        .bind(column(entries, |entry| entry.agent_id))
        .bind(column(entries, |entry| entry.email))
        .bind(column(entries, |entry| entry.governor_agent_id))
        .bind(column(entries, |entry| entry.roles))
        .bind(column(entries, |entry| entry.tier))
        .bind(column(entries, |entry| entry.trial))
        .bind(column(entries, |entry| entry.trial_until_us))
        .bind(column(entries, |entry| entry.sandbox))
        .bind(column(entries, |entry| entry.decision))
        .bind(column(entries, |entry| entry.reason))
        .bind(column(entries, |entry| entry.rule))
        .bind(column(entries, |entry| entry.checks))
        .bind(column(entries, |entry| entry.shadow))
        .bind(column(entries, |entry| entry.charges))
        .bind(column(entries, |entry| entry.cost))
        .bind(column(entries, |entry| entry.usage))
        .bind(column(entries, |entry| entry.approval_id))
        .bind(column(entries, |entry| entry.activation))
        .bind(column(entries, |entry| entry.revision))
        .bind(column(entries, |entry| entry.key_set))
        .bind(column(entries, |entry| entry.revocation))
        .bind(column(entries, |entry| entry.status))
        .bind(column(entries, |entry| entry.details))
        .bind(column(entries, |entry| entry.total_us))
        .bind(column(entries, |entry| entry.upstream_us))
        .bind(column(entries, |entry| entry.ours_us))
        .bind(hashes.iter().map(Hash::as_slice).collect::<Vec<_>>())
        .execute(connection)
        .await
        .map(|_done| ())
}

fn column<'a, T>(entries: &'a [Entry<'a>], value: impl Fn(&'a Entry<'a>) -> T) -> Vec<T> {
    entries.iter().map(value).collect()
}
