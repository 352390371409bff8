//! What happens by itself: silent holders are closed, approvals, revocations, shadows and sessions of pages expire, old counts
//! are forgotten. Every replica does it; rows are taken with
//! SKIP LOCKED, so that they do not wait for each other.

use crate::app::AppState;
use crate::audit::checkpoints::{self, Signing};
use crate::budgets::alerts::{self, Telling};
use crate::holders::{self, Closed};
use crate::metrics::BudgetName;
use crate::{approvals, audit, budgets, pages, policies, revocations, webhooks};
use decision_core::causes::chain;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often.
const PERIOD: Duration = Duration::from_secs(5);

/// Rounds that are further apart than so many periods mean that the process was halted in between.
const HALTED_PERIODS: u32 = 3;

/// How often old counts are forgotten.
const FORGET_PERIOD: Duration = Duration::from_secs(3_600);

/// Starts the jobs. They end when `stop` is cancelled.
pub fn spawn(state: AppState, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move { stop.run_until_cancelled(run(&state)).await.unwrap_or(()) })
}

async fn run(state: &AppState) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut well_since = Instant::now();
    let mut looked_at = Instant::now();
    let mut forgotten_at = None::<Instant>;
    loop {
        ticks.tick().await;
        if forgotten_at.is_none_or(|at| at.elapsed() >= FORGET_PERIOD) {
            forgotten_at = Some(Instant::now());
            if let Err(error) = forget(state).await {
                tracing::warn!(error = %chain(&error), "old counts could not be forgotten; trying again in an hour");
            }
        }
        if let Err(error) = round(state).await {
            tracing::warn!(error = %chain(&error), "jobs could not be done");
        }
        // A process that was halted has heard nobody, and does not know it but by the time that has passed.
        if looked_at.elapsed() > PERIOD.saturating_mul(HALTED_PERIODS) {
            well_since = Instant::now();
        }
        looked_at = Instant::now();
        if let Err(error) = close_silent(state, well_since).await {
            tracing::warn!(error = %chain(&error), "silent holders could not be closed");
            well_since = Instant::now();
        }
    }
}

/// Makes the audit log's next partitions and sums up days that are over, and forgets counts that are too old.
async fn forget(state: &AppState) -> Result<(), sqlx::Error> {
    audit::partitions::create_ahead(&state.database).await?;
    while audit::partitions::sum_up_one(&state.database).await?.is_some() {}
    if let Some(signing) = &state.signing {
        drop_partitions(state, signing).await;
    }
    audit::hits::forget(&state.database).await?;
    // The rest in an hour: holders that are silent wait to be closed.
    for _ in 0..100 {
        if audit::forget::forget(&state.database).await? == 0 {
            break;
        }
    }
    policies::shadow::store::forget(&state.database).await?;
    while budgets::accounts::store::forget(&state.database).await? > 0 {}
    while budgets::caps::store::forget(&state.database).await? > 0 {}
    Ok(())
}

async fn drop_partitions(state: &AppState, signing: &Signing) {
    loop {
        match checkpoints::drop_one(&state.database, &signing.key).await {
            Ok(None) => return,
            Ok(Some((gateway, day))) => tracing::info!(gateway, %day, "a partition of the audit log was dropped at the end of its time"),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "a partition of the audit log could not be dropped; trying again in an hour");
                return;
            }
        }
    }
}

async fn round(state: &AppState) -> Result<(), sqlx::Error> {
    approvals::store::expire(&state.database).await?;
    pages::session::forget(&state.database).await?;
    while webhooks::store::forget(&state.database).await? > 0 {}
    let (pending, dead) = webhooks::store::counts(&state.database).await?;
    state.metrics.webhooks_pending.set(pending);
    state.metrics.webhooks_dead.set(dead);
    while revocations::expiry::expire(&state.database).await? > 0 {}
    while revocations::expiry::forget(&state.database).await? > 0 {}
    policies::shadow::store::end_due(&state.database).await?;
    policies::enforcement::watch_ahead(state).await
}

/// Closes holders that are silent. By itself, so that no other job can stop it: units in leases of the dead would be lost.
async fn close_silent(state: &AppState, well_since: Instant) -> Result<(), sqlx::Error> {
    // While this process or the database was away, holders could not be heard. Their silence counts only from then on:
    // else an outage of a minute would charge every lease in full.
    let silence = Duration::from_secs(state.settings.holder_silence_s);
    if well_since.elapsed() < silence {
        return Ok(());
    }
    let policy = state.policy();
    while let Some(closed) = holders::close_one_silent(&state.database, silence, Telling::of(&policy), &state.caps).await? {
        note(state, &closed);
        alerts::note(state, &closed.told).await;
    }
    Ok(())
}

fn note(state: &AppState, closed: &Closed) {
    state.metrics.holders_closed.inc();
    for (budget, units) in &closed.forfeits {
        let label = BudgetName { budget: budget.clone() };
        state.metrics.units_forfeited.get_or_create(&label).inc_by(u64::try_from(*units).unwrap_or(0));
    }
    tracing::warn!(holder = %closed.holder.0, forfeits = ?closed.forfeits, "a silent holder was closed");
}
