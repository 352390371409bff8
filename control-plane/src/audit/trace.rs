//! The causal tree of a request: what it was sent because of, and what was sent because of it.

use super::access::Access;
use super::query::StoredRecord;
use serde::Serialize;
use sqlx::PgPool;
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;

/// How many records a trace has at the most.
const RECORDS_MAX: usize = 1_000;
/// How far it goes from the correlation id that was asked for.
const DEPTH_MAX: usize = 32;

/// A record in a causal tree.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Traced {
    /// The id of the record that it was sent because of, where that is in the trace.
    pub parent: Option<String>,
    /// How many are above it.
    pub depth: usize,
    /// The record.
    #[serde(flatten)]
    pub record: StoredRecord,
}

/// A causal tree, each record after its parent, siblings in the order of time.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Trace {
    /// The records.
    pub records: Vec<Traced>,
    /// Whether there are more than are shown.
    pub cut: bool,
}

/// Everything that has a correlation id, what caused that, and what that caused. A causation id names the request id or the correlation
/// id of the request before.
///
/// # Errors
/// Postgres failed.
pub async fn trace(database: &PgPool, access: Access<'_>, correlation_id: &str) -> Result<Trace, sqlx::Error> {
    let mut transaction = access.begin(database).await?;
    let mut found: BTreeMap<String, StoredRecord> = BTreeMap::new();
    let mut ids = BTreeSet::from([correlation_id.to_owned()]);
    let mut unasked: Vec<String> = ids.iter().cloned().collect();
    let mut cut = false;
    for _ in 0..DEPTH_MAX {
        if unasked.is_empty() {
            break;
        }
        let room = RECORDS_MAX.saturating_sub(found.len());
        // Each by its index: with OR between them Postgres would read the log. And each so many: anybody may send one id for ever.
        let next: Vec<StoredRecord> = sqlx::query_as(
            "(SELECT * FROM gateway_audit_logs WHERE correlation_id = ANY($1) LIMIT $2) \
             UNION ALL (SELECT * FROM gateway_audit_logs WHERE request_id = ANY($1) LIMIT $2) \
             UNION ALL (SELECT * FROM gateway_audit_logs WHERE causation_id = ANY($1) LIMIT $2)",
        )
        .bind(&unasked)
        .bind(i64::try_from(room.saturating_add(1)).unwrap_or(i64::MAX))
        .fetch_all(&mut *transaction)
        .await?;
        cut |= next.len() > room;
        unasked.clear();
        for record in next {
            if found.len() >= RECORDS_MAX && !found.contains_key(&record.id) {
                cut = true;
                continue;
            }
            let named = [Some(&record.correlation_id), Some(&record.request_id), record.causation_id.as_ref()];
            unasked.extend(named.into_iter().flatten().filter(|id| ids.insert((*id).clone())).cloned());
            found.insert(record.id.clone(), record);
        }
    }
    transaction.rollback().await?;
    Ok(Trace { records: in_order(found.into_values().collect()), cut: cut || !unasked.is_empty() })
}

/// Each after its parent. A request that names itself, or a circle, begins a tree of its own.
fn in_order(mut records: Vec<StoredRecord>) -> Vec<Traced> {
    records.sort_by_key(|record| (record.timestamp, record.holder, record.sequence));
    let parents: Vec<Option<usize>> = (0..records.len()).map(|index| parent(&records, index)).collect();
    let mut placed = vec![false; records.len()];
    let mut order: Vec<(usize, Option<usize>, usize)> = Vec::with_capacity(records.len());
    // Roots first; what is left after them is in circles, and the earliest of a circle begins it.
    let roots = (0..records.len()).filter(|index| parents.get(*index).copied().flatten().is_none());
    for root in roots.chain(0..records.len()) {
        let mut open = vec![(root, None, 0)];
        while let Some((index, above, depth)) = open.pop() {
            if std::mem::replace(placed.get_mut(index).unwrap_or(&mut true), true) {
                continue;
            }
            order.push((index, above, depth));
            let children = (0..records.len()).rev().filter(|child| parents.get(*child).copied().flatten() == Some(index));
            open.extend(children.map(|child| (child, Some(index), depth.saturating_add(1))));
        }
    }
    let told = order.iter().filter_map(|(index, above, depth)| {
        let parent = above.and_then(|above| Some(records.get(above)?.id.clone()));
        Some(Traced { parent, depth: *depth, record: records.get(*index)?.clone() })
    });
    told.collect()
}

/// The latest record before this one that its causation id names; of an intent's outcome the intent.
fn parent(records: &[StoredRecord], index: usize) -> Option<usize> {
    let record = records.get(index)?;
    let before = records.get(..index)?;
    let intent =
        || before.iter().rposition(|other| other.request_id == record.request_id && other.phase == "intent" && record.phase != "intent");
    let causation = record.causation_id.as_deref();
    let names = |other: &StoredRecord| causation.is_some_and(|id| other.request_id == id || other.correlation_id == id);
    let cause = || before.iter().rposition(|other| names(other) && other.request_id != record.request_id);
    intent().or_else(cause)
}
