//! Holders: the virtual machines that spend leases. Each belongs to the Envoy that first spoke for it, counts its
//! calls, and is closed when it falls silent.

use crate::audit;
use crate::budgets;
use crate::budgets::alerts::{self, Telling, Told};
use crate::budgets::caps::Caps;
use crate::budgets::store as accounts;
use crate::restore::Past;
use decision_core::time::Timestamp;
use sqlx::{PgConnection, PgPool};
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;
use wire::drain::Left;

/// Silence after which a holder is closed and its leases are charged in full, unless the settings say otherwise; and after which
/// nobody waits any more for what it enforces.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A holder's random id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HolderId(pub Uuid);

/// Whether a call was seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It is to be carried out.
    New,
    /// It was carried out; only its answer may have been lost.
    Repeated,
}

/// A holder's call, admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Whether it was seen before.
    pub freshness: Freshness,
    /// The database's clock, the one clock that all replicas share.
    pub now: Timestamp,
    /// Holders seen in the last minute, this one included.
    pub holders: u32,
    /// What the database remembers.
    pub past: Past,
}

/// Why a holder's call is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// A newer call was carried out.
    #[error("the call is older than the last one")]
    StaleCall,
    /// The holder was silent for too long.
    #[error("the holder is closed")]
    Closed {
        /// The sequence number of its last record.
        last_sequence: i64,
    },
    /// It belongs to another Envoy.
    #[error("the holder belongs to another Envoy")]
    Foreign,
    /// Postgres failed.
    #[error("database failure")]
    Database(#[from] sqlx::Error),
}

#[derive(sqlx::FromRow)]
struct AdmittedRow {
    envoy_id: String,
    previous_call: i64,
    last_sequence: i64,
    closed: bool,
    now_us: i64,
    holders: i64,
    fenced: bool,
    closed_until_us: Option<i64>,
}

/// What a worker says that it enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enforced {
    /// The activation.
    pub activation: i64,
    /// The last revocation.
    pub revocation: i64,
}

/// Registers the holder at its first call, locks it, and advances its call number. On an error the caller rolls back.
pub async fn admit(
    connection: &mut PgConnection,
    holder: HolderId,
    envoy_id: &str,
    call: i64,
    enforced: Enforced,
    left: Option<Left>,
) -> Result<Admission, AdmitError> {
    let left_number = |of: fn(&Left) -> u64| left.as_ref().map(|left| i64::try_from(of(left)).unwrap_or(i64::MAX));
    let row: AdmittedRow = sqlx::query_as(
        "INSERT INTO holders (holder, envoy_id, last_call, previous_call, activation, revocation, \
             left_call, left_leases, left_units, left_records) VALUES ($1, $2, $3, 0, $4, $5, $6, $7, $8, $9) \
         ON CONFLICT (holder) DO UPDATE SET previous_call = holders.last_call, \
             last_call = GREATEST(holders.last_call, EXCLUDED.last_call), activation = EXCLUDED.activation, \
             revocation = EXCLUDED.revocation, last_seen_at = now(), left_call = EXCLUDED.left_call, \
             left_leases = EXCLUDED.left_leases, left_units = EXCLUDED.left_units, left_records = EXCLUDED.left_records \
         RETURNING envoy_id, previous_call, last_sequence, closed_at IS NOT NULL AS closed, \
             (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us, \
             1 + (SELECT count(*) FROM holders AS other WHERE other.closed_at IS NULL AND other.holder <> $1 \
                  AND other.last_seen_at > now() - interval '60 seconds') AS holders, \
             (SELECT fenced_at IS NOT NULL FROM gateway_database) AS fenced, \
             (SELECT (extract(epoch FROM windows_closed_until) * 1000000)::bigint FROM gateway_database) AS closed_until_us",
    )
    .bind(holder.0)
    .bind(envoy_id)
    .bind(call)
    .bind(enforced.activation)
    .bind(enforced.revocation)
    .bind(left.map(|_said| call))
    .bind(left_number(|left| left.leases))
    .bind(left_number(|left| left.units))
    .bind(left_number(|left| left.records))
    .fetch_one(&mut *connection)
    .await?;
    if row.envoy_id != envoy_id {
        return Err(AdmitError::Foreign);
    }
    if row.closed {
        return Err(AdmitError::Closed { last_sequence: row.last_sequence });
    }
    let past = Past::of(row.fenced, row.closed_until_us);
    // It has called before, and the backup does not know: it may have leases that nobody here knows.
    let now = Timestamp::from_micros(row.now_us);
    if past.has_strangers(now) && row.previous_call == 0 && call > 1 {
        return Err(AdmitError::Closed { last_sequence: 0 });
    }
    let freshness = match call.cmp(&row.previous_call) {
        std::cmp::Ordering::Less => return Err(AdmitError::StaleCall),
        std::cmp::Ordering::Equal => Freshness::Repeated,
        std::cmp::Ordering::Greater => Freshness::New,
    };
    let holders = u32::try_from(row.holders).unwrap_or(u32::MAX);
    Ok(Admission { freshness, now, holders, past })
}

/// A holder that was closed, and what that cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The holder.
    pub holder: HolderId,
    /// Units charged in full, by budget.
    pub forfeits: Vec<(String, i64)>,
    /// Thresholds that were reached by that.
    pub told: Vec<Told>,
}

/// Those of some holders that are closed.
///
/// # Errors
/// Postgres failed.
pub async fn closed_among(database: &PgPool, holders: &[HolderId]) -> Result<Vec<HolderId>, sqlx::Error> {
    let ids: Vec<Uuid> = holders.iter().map(|holder| holder.0).collect();
    let closed: Vec<(Uuid,)> =
        sqlx::query_as("SELECT holder FROM holders WHERE holder = ANY($1) AND closed_at IS NOT NULL").bind(ids).fetch_all(database).await?;
    Ok(closed.into_iter().map(|(holder,)| HolderId(holder)).collect())
}

/// Closes one holder that was silent for `silence`: its leases are charged in full, and what it may have had to tell is
/// a gap in the audit log. `None` when there is none. Any number of replicas may do this at once.
pub async fn close_one_silent(
    database: &PgPool,
    silence: Duration,
    telling: Telling<'_>,
    caps: &Caps,
) -> Result<Option<Closed>, sqlx::Error> {
    let mut transaction = database.begin().await?;
    let silent: Option<(Uuid, i64)> = sqlx::query_as(
        "SELECT holder, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint FROM holders WHERE closed_at IS NULL AND last_seen_at < now() - make_interval(secs => $1) \
         ORDER BY last_seen_at LIMIT 1 FOR UPDATE SKIP LOCKED",
    )
    .bind(silence.as_secs_f64())
    .fetch_optional(&mut *transaction)
    .await?;
    let Some((holder, now_us)) = silent else { return Ok(None) };
    let touched = accounts::forfeit_all(&mut transaction, HolderId(holder)).await?;
    let now = Timestamp::from_micros(now_us);
    let risen: Vec<_> = touched.iter().filter_map(|account| risen(account, telling, caps, now)).collect();
    accounts::raise_levels(&mut transaction, &risen).await?;
    sqlx::query("UPDATE holders SET closed_at = now() WHERE holder = $1").bind(holder).execute(&mut *transaction).await?;
    audit::store::note_closed(&mut transaction, HolderId(holder)).await?;
    let told = alerts::record(&mut transaction, telling, &risen).await?;
    transaction.commit().await?;
    Ok(Some(Closed { holder: HolderId(holder), forfeits: by_budget(&touched), told }))
}

fn risen(account: &accounts::Touched, telling: Telling<'_>, caps: &Caps, now: Timestamp) -> Option<alerts::Risen> {
    let key = account.key();
    let budget = telling.policy.budget_by_name(&key.budget)?;
    account.risen(budget, budgets::cap_of(caps, budget, &key.scope, now))
}

fn by_budget(touched: &[accounts::Touched]) -> Vec<(String, i64)> {
    let mut sums: BTreeMap<&str, i64> = BTreeMap::new();
    for (budget, units) in touched.iter().map(accounts::Touched::forfeited) {
        let sum = sums.entry(budget).or_default();
        *sum = sum.saturating_add(units);
    }
    sums.into_iter().map(|(budget, units)| (budget.to_owned(), units)).collect()
}
