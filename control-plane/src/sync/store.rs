//! The transaction of a sync call: the holder, its accounts, its approvals, its shadow report, its records, in this order of locks.

use super::SyncError;
use crate::admin_events::{self, Actor, AdminEvent};
use crate::approvals::{self, Terms};
use crate::audit::store::{Insertion, Stored, ingest, is_refusal};
use crate::audit::{Source, partitions};
use crate::budgets::alerts::{self, Telling, Told};
use crate::budgets::caps;
use crate::budgets::store::{Applied, ApplyError};
use crate::budgets::valkey::{self, VolatileError};
use crate::budgets::{Placed, Plan, Posting, Reports, Rules, store as accounts};
use crate::holders::{Enforced, HolderId, admit};
use crate::policies::shadow::store as shadow;
use crate::restore::Past;
use decision_core::time::Timestamp;
use redis::aio::ConnectionManager;
use sqlx::PgPool;
use std::time::Duration;
use tokio::task::JoinHandle;
use wire::drain::Left;
use wire::sync::{ApprovalAnswer, ApprovalAsk, ApprovalUndo, RecordBatch, ShadowReport};

/// How often a transaction that lost a race is tried.
const ATTEMPTS_MAX: u32 = 4;

/// Every statement of a call looks for some rows by their keys. Tables that grow faster than their statistics make the planner read
/// them whole; and planning anew for every call takes longer than the statements do.
pub const BEGIN: &str = "BEGIN; SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; \
     SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL jit = off";

/// How long a call waits for notes alone.
const NOTES_PATIENCE: Duration = Duration::from_millis(5);

/// A checked call and what it is carried out under.
#[derive(Debug)]
pub struct Job<'a> {
    /// Who calls.
    pub holder: HolderId,
    /// Its Envoy, by the token.
    pub envoy_id: &'a str,
    /// The call's number.
    pub call: i64,
    /// What the worker enforces.
    pub enforced: Enforced,
    /// What it has left, if it knows that its Envoy is about to stop.
    pub left: Option<Left>,
    /// Account reports.
    pub reports: &'a Reports,
    /// By what accounts are granted.
    pub rules: Rules<'a>,
    /// What keeps the accounts of budgets that are not durable.
    pub valkey: &'a ConnectionManager,
    /// Under what thresholds are told, and to whom.
    pub telling: Telling<'a>,
    /// Approvals to request or consume.
    pub asks: &'a [ApprovalAsk],
    /// Consumed approvals to give back.
    pub undos: &'a [ApprovalUndo],
    /// How long approvals live.
    pub terms: Terms<'a>,
    /// Records, and the sequence number of the first.
    pub batch: Option<(&'a RecordBatch, i64)>,
    /// What the revision in shadow came to.
    pub shadow: Option<&'a ShadowReport>,
}

/// What is committed.
#[derive(Debug)]
pub struct Committed {
    /// Answered without asking a store.
    pub nowhere: Vec<Placed>,
    /// The durable part.
    pub durable: Applied,
    /// The volatile part: it is asked at the same time, and may fail or be late without harm to the other.
    pub volatile: JoinHandle<Result<valkey::Applied, VolatileError>>,
    /// Answers to the asks.
    pub approvals: Vec<ApprovalAnswer>,
    /// What became of the records.
    pub stored: Stored,
    /// Thresholds that were reached.
    pub told: Vec<Told>,
}

/// Carries out the durable part of a call and commits it.
pub async fn commit(database: &PgPool, job: &Job<'_>) -> Result<Committed, SyncError> {
    let mut insertion = Insertion::Bulk;
    let mut attempt = 1;
    loop {
        match attempt_commit(database, job, insertion).await {
            Err(SyncError::Database(error)) if attempt < ATTEMPTS_MAX && is_lost_race(&error) => {}
            Err(SyncError::CapsChanged) if attempt < ATTEMPTS_MAX => caps::follow::refresh(database, job.rules.caps).await?,
            // Nobody was up for days to make it.
            Err(SyncError::Database(error)) if attempt < ATTEMPTS_MAX && partitions::is_missing(&error) => {
                partitions::create_ahead(database).await?;
            }
            // A record that the table refuses must not stop the call for ever: find it, and put it aside.
            Err(SyncError::Database(error)) if insertion == Insertion::Bulk && job.batch.is_some() && is_refusal(&error) => {
                insertion = Insertion::OneByOne;
            }
            done => return done,
        }
        attempt += 1;
    }
}

/// A deadlock, a serialisation failure, or another call that opened the same approval first.
fn is_lost_race(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    error.constraint() == Some("approvals_one_open") || error.code().is_some_and(|code| code.starts_with("40"))
}

async fn attempt_commit(database: &PgPool, job: &Job<'_>, insertion: Insertion) -> Result<Committed, SyncError> {
    let mut transaction = database.begin_with(BEGIN).await?;
    let admission = admit(&mut transaction, job.holder, job.envoy_id, job.call, job.enforced, job.left).await?;
    // Before the plan, which may know a newer one already.
    let known = job.rules.caps.number();
    let rules = Rules { granting: job.rules.granting.under(admission.past), ..job.rules };
    let plan = Plan::new(rules, job.reports, admission.now, admission.holders);
    let volatile = ask_valkey(job, plan.volatile, admission.now);
    let durable = match accounts::apply(&mut transaction, job.holder, &plan.durable, admission.freshness, known, rules.draining).await {
        Err(ApplyError::Outdated) => {
            transaction.rollback().await?;
            return Err(SyncError::CapsChanged);
        }
        Err(ApplyError::Database(error)) => return Err(error.into()),
        Ok(applied) => applied,
    };
    let approvals = match admission.past {
        // One that was used up after the backup looks as if it was not. Who asks is told later, or that nobody answers.
        Past::Fenced => Vec::new(),
        Past::Whole | Past::Recovered { .. } => {
            let answers = approvals::store::answer(&mut transaction, job.envoy_id, job.asks, job.terms).await?;
            approvals::store::undo(&mut transaction, job.envoy_id, job.undos).await?;
            answers
        }
    };
    if let Some(report) = job.shadow {
        shadow::report(&mut transaction, job.holder, report).await?;
    }
    let stored = match job.batch {
        Some((batch, first)) => {
            let source = Source { holder: job.holder, envoy_id: job.envoy_id, received_at_us: admission.now.as_micros() };
            ingest(&mut transaction, source, batch, first, insertion).await?
        }
        None => Stored::default(),
    };
    // Last, since pausing an agent keeps everybody who revokes waiting until the commit.
    let told = alerts::record(&mut transaction, job.telling, &durable.risen).await?;
    // INVARIANT (I5): nothing is answered before this.
    transaction.commit().await?;
    Ok(Committed { nowhere: plan.nowhere, durable, volatile, approvals, stored, told })
}

/// Asked as soon as the call is admitted, and not waited for while accounts are locked. If nothing is committed, the next call
/// repairs what was booked: numbers are cumulative. An attempt after a lost race asks again, and is answered as the first was.
fn ask_valkey(job: &Job<'_>, postings: Vec<Posting>, now: Timestamp) -> JoinHandle<Result<valkey::Applied, VolatileError>> {
    let (mut connection, holder, call) = (job.valkey.clone(), job.holder, job.call);
    tokio::spawn(async move {
        let asked = valkey::apply(&mut connection, holder, call, &postings, now);
        if postings.is_empty() {
            // Only what others want back, of which the next call hears too: nobody waits long for that.
            return tokio::time::timeout(NOTES_PATIENCE, asked).await.unwrap_or_else(|_elapsed| Ok(valkey::Applied::default()));
        }
        asked.await
    })
}

/// Records that an Envoy spoke for a holder of another one.
pub async fn record_foreign(database: &PgPool, job: &Job<'_>) -> Result<(), sqlx::Error> {
    let mut transaction = database.begin().await?;
    let target = job.holder.0.to_string();
    let event = AdminEvent {
        action: "holder.refused",
        target: &target,
        reason: "the holder belongs to another Envoy",
        detail: serde_json::json!({"envoy_id": job.envoy_id, "call": job.call}),
    };
    admin_events::record(&mut transaction, Actor::CONTROL_PLANE, event).await?;
    transaction.commit().await
}
