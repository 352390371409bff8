//! The sync call: reports, wants, approvals and audit records of one holder in one call.
//!
//! What Postgres keeps is one transaction, committed before anything is answered; what Valkey keeps is asked beside it, once the call
//! is admitted, and may fail without harm. Nothing here decides: the rules are in `budgets::ledger`, `approvals::store` and `audit::store`.

pub mod http;
pub mod places;
pub mod store;

use crate::app::AppState;
use crate::budgets::alerts::{self, Telling};
use crate::budgets::ledger::InvalidReport;
use crate::budgets::{AccountKey, Granting, Reports, Rules, valkey};
use crate::caller::Envoy;
use crate::holders::{self, AdmitError, Enforced, HolderId};
use crate::metrics::BudgetName;
use crate::{approvals, audit, keys};
use decision_core::causes::chain;
use store::{Committed, Job};
use uuid::Uuid;
use wire::drain::Left;
use wire::sync::{RecordBatch, SyncAnswer, SyncRequest};

/// Why a call was not carried out. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// A number is negative or absurd.
    #[error("invalid call: {0}")]
    Invalid(&'static str),
    /// The holder may not make this call.
    #[error("the call was not admitted")]
    NotAdmitted(#[source] AdmitError),
    /// Caps change faster than the call can be carried out.
    #[error("caps are being changed")]
    CapsChanged,
    /// Postgres failed.
    #[error("database failure")]
    Database(#[from] sqlx::Error),
}

impl From<InvalidReport> for SyncError {
    fn from(_invalid: InvalidReport) -> Self {
        Self::Invalid("a number in an account report is negative or too large")
    }
}

impl From<AdmitError> for SyncError {
    fn from(error: AdmitError) -> Self {
        match error {
            AdmitError::Database(error) => Self::Database(error),
            other @ (AdmitError::StaleCall | AdmitError::Closed { .. } | AdmitError::Foreign) => Self::NotAdmitted(other),
        }
    }
}

/// Numbers that the database can hold.
fn number(number: u64) -> Result<i64, SyncError> {
    i64::try_from(number).ok().filter(|number| *number < 1 << 53).ok_or(SyncError::Invalid("a number is too large"))
}

/// A filter seals a batch at half of this.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// A record has some twenty bytes at the least.
const BATCH_RECORDS_MAX: u32 = 1 << 16;

fn checked_batch(batch: Option<&RecordBatch>) -> Result<Option<(&RecordBatch, i64)>, SyncError> {
    let Some(batch) = batch else { return Ok(None) };
    if batch.bytes.len() > BATCH_BYTES_MAX || batch.count > BATCH_RECORDS_MAX {
        return Err(SyncError::Invalid("the batch of records is larger than any that a filter seals"));
    }
    match number(batch.first_sequence)? {
        first @ 1.. => Ok(Some((batch, first))),
        ..1 => Err(SyncError::Invalid("the first sequence number is 1")),
    }
}

/// Carries out one call. `left` is what the worker has left, if it knows that its Envoy is about to stop.
///
/// # Errors
/// The call is refused, or Postgres failed; nothing changed.
pub async fn answer(state: &AppState, envoy: &Envoy, request: &SyncRequest, left: Option<Left>) -> Result<SyncAnswer, SyncError> {
    let active = state.policy();
    let call = number(request.call)?;
    if call < 1 {
        return Err(SyncError::Invalid("the first call is number 1"));
    }
    let governing = active.document.approvals.clone().unwrap_or_default();
    let job = Job {
        holder: HolderId(Uuid::from_bytes(request.holder)),
        envoy_id: &envoy.envoy_id,
        call,
        enforced: Enforced { activation: number(request.activation)?, revocation: number(request.revocation)? },
        left,
        reports: &Reports::check(&request.accounts)?,
        rules: Rules {
            policy: &active.loaded.policy,
            caps: &state.caps,
            granting: if state.shutdown.is_cancelled() { Granting::Off } else { Granting::On },
            draining: envoy.draining,
        },
        valkey: &state.valkey,
        telling: Telling::of(&active),
        asks: &request.approvals,
        undos: &request.undos,
        terms: approvals::Terms::of(&governing, &state.settings.public_url),
        batch: checked_batch(request.records.as_ref())?,
        shadow: request.shadow.as_ref(),
    };
    let committed = match store::commit(&state.database, &job).await {
        Err(SyncError::NotAdmitted(AdmitError::Foreign)) => {
            store::record_foreign(&state.database, &job).await?;
            return Err(SyncError::NotAdmitted(AdmitError::Foreign));
        }
        committed => committed?,
    };
    count(state, &committed.stored);
    alerts::note(state, &committed.told).await;
    if !request.unknown_keys.is_empty() {
        keys::fetch::ask_for(state, &request.unknown_keys).await;
    }
    Ok(complete(state, &job, committed).await)
}

fn count(state: &AppState, stored: &audit::store::Stored) {
    state.metrics.audit_records_stored.inc_by(stored.records);
    state.metrics.audit_records_quarantined.inc_by(stored.quarantined);
    state.metrics.audit_records_missing.inc_by(stored.missing);
}

/// Where a holder is short of a budget in Valkey, what closed ones had of it is charged: they are known in Postgres alone. The next
/// call sees it.
async fn forfeit_closed(state: &AppState, short: &[(AccountKey, Vec<HolderId>)]) {
    for (key, holding) in short {
        let forfeited = async {
            let closed = holders::closed_among(&state.database, holding).await.map_err(|error| chain(&error))?;
            if closed.is_empty() {
                Ok(0)
            } else {
                valkey::forfeit(&mut state.valkey.clone(), key, &closed).await.map_err(|error| chain(&error))
            }
        };
        match forfeited.await {
            Ok(0) => {}
            Ok(units) => {
                let label = BudgetName { budget: key.budget.clone() };
                state.metrics.units_forfeited.get_or_create(&label).inc_by(units);
            }
            Err(error) => tracing::warn!(budget = key.budget, error, "leases of closed holders are not charged yet"),
        }
    }
}

/// Adds what Valkey answered to what is committed. The accounts of a store that does not answer stay absent.
async fn complete(state: &AppState, job: &Job<'_>, committed: Committed) -> SyncAnswer {
    let Committed { nowhere, durable, volatile, approvals, stored: _, told: _ } = committed;
    let mut placed = durable.grants;
    let mut recalls = durable.recalls;
    placed.extend(nowhere);
    match volatile.await {
        Ok(Ok(applied)) => {
            placed.extend(applied.grants);
            recalls.extend(applied.recalls);
            alerts::record_volatile(state, applied.risen).await;
            forfeit_closed(state, &applied.short).await;
        }
        Ok(Err(error)) => tracing::warn!(error = %chain(&error), "accounts of volatile budgets are left unanswered"),
        Err(error) => tracing::error!(error = %chain(&error), "accounts of volatile budgets are left unanswered"),
    }
    placed.sort_by_key(|(index, _)| *index);
    SyncAnswer {
        call: u64::try_from(job.call).unwrap_or(0),
        accounts: placed.into_iter().map(|(_, grant)| grant).collect(),
        recalls,
        approvals,
        records_stored: job.batch.map(|(batch, _)| batch.first_sequence),
    }
}
