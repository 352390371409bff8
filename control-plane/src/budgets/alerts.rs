//! Thresholds: an account's level rises, once per account, window and level. It is recorded, counted and told, and at the last
//! one an agent may be paused, all in the transaction in which it became true.
//!
//! INVARIANT (told once): `budget_alerts` has one row per account, window and level, and only who inserts it tells.

use super::{AccountKey, caps};
use crate::admin_events::{self, Actor, AdminEvent};
use crate::app::AppState;
use crate::metrics::BudgetLevel;
use crate::policies::ActivePolicy;
use crate::problem::ApiError;
use crate::revocations::{self, Kind, Wanted};
use crate::webhooks::{self, Event};
use decision_core::budget::{AlertLevel, AtCritical, Budget, Thresholds, Units, Variable};
use decision_core::causes::chain;
use decision_core::policy::CompiledPolicy;
use serde_json::json;
use sqlx::PgConnection;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use wire::policy::Webhook;

/// How many accounts of budgets that are not durable are remembered as told. Forgetting one costs a look into Postgres.
const REMEMBERED_MAX: usize = 10_000;

/// Under what levels are told, and to whom.
#[derive(Clone, Copy, Debug)]
pub struct Telling<'a> {
    /// The policy in force.
    pub policy: &'a CompiledPolicy,
    /// Who is told.
    pub webhook: Option<&'a Webhook>,
}

impl<'a> Telling<'a> {
    /// As the policy in force says.
    #[must_use]
    pub fn of(active: &'a ActivePolicy) -> Self {
        let webhook = active.document.reporting.as_ref().and_then(|reporting| reporting.webhook.as_ref());
        Self { policy: &active.loaded.policy, webhook }
    }
}

/// An account whose level is higher than what was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Risen {
    /// The account.
    pub key: AccountKey,
    /// End of the window, seconds since the epoch.
    pub window_end: i64,
    /// What was told before.
    pub before: Option<AlertLevel>,
    /// What it is now.
    pub level: AlertLevel,
    /// When levels rise.
    pub thresholds: Thresholds,
    /// The cap in force.
    pub cap: Units,
    /// Charged, overruns included.
    pub spent: Units,
}

impl Risen {
    /// If `spent` has reached a level above `before`.
    #[must_use]
    pub fn above(
        before: Option<AlertLevel>,
        thresholds: Option<Thresholds>,
        (cap, spent): (Units, Units),
        key: &AccountKey,
        window_end: i64,
    ) -> Option<Self> {
        let thresholds = thresholds?;
        let level = thresholds.level(spent, cap).filter(|level| Some(*level) > before)?;
        Some(Self { key: key.clone(), window_end, before, level, thresholds, cap, spent })
    }

    fn levels(&self) -> impl Iterator<Item = AlertLevel> {
        let (before, level) = (self.before, self.level);
        AlertLevel::ALL.into_iter().filter(move |passed| Some(*passed) > before && *passed <= level)
    }
}

/// A level as the account's row has it.
#[must_use]
pub fn rank(level: Option<AlertLevel>) -> i16 {
    match level {
        None => 0,
        Some(AlertLevel::Warning) => 1,
        Some(AlertLevel::High) => 2,
        Some(AlertLevel::Critical) => 3,
    }
}

/// The level that an account's row has.
#[must_use]
pub fn of_rank(stored: i16) -> Option<AlertLevel> {
    AlertLevel::ALL.into_iter().find(|level| rank(Some(*level)) == stored)
}

/// A level that was told, for the counters of this process once it is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    budget: String,
    level: AlertLevel,
    paused: Option<String>,
}

/// Records the levels that nobody recorded yet, tells the webhook, and pauses agents whose budget says so.
///
/// # Errors
/// Postgres failed.
pub async fn record(connection: &mut PgConnection, telling: Telling<'_>, risen: &[Risen]) -> Result<Vec<Told>, sqlx::Error> {
    let mut told = Vec::new();
    for account in risen {
        for level in account.levels() {
            if let Some(at) = insert(connection, account, level).await? {
                told.push(tell(connection, telling, account, level, at).await?);
            }
        }
    }
    Ok(told)
}

async fn insert(connection: &mut PgConnection, account: &Risen, level: AlertLevel) -> Result<Option<OffsetDateTime>, sqlx::Error> {
    let inserted: Option<(OffsetDateTime,)> = sqlx::query_as(
        "INSERT INTO budget_alerts (budget, scope, window_start, window_end, level, percent, cap, settled) \
         VALUES ($1, $2, to_timestamp($3::bigint), to_timestamp($4::bigint), $5, $6, $7, $8) \
         ON CONFLICT (budget, scope, window_start, level) DO NOTHING RETURNING at",
    )
    .bind(&account.key.budget)
    .bind(&account.key.scope)
    .bind(account.key.window_start)
    .bind(account.window_end)
    .bind(level.name())
    .bind(i16::from(account.thresholds.percent(level)))
    .bind(account.cap.get())
    .bind(account.spent.get())
    .fetch_optional(connection)
    .await?;
    Ok(inserted.map(|(at,)| at))
}

async fn tell(
    connection: &mut PgConnection,
    telling: Telling<'_>,
    account: &Risen,
    level: AlertLevel,
    at: OffsetDateTime,
) -> Result<Told, sqlx::Error> {
    let budget = telling.policy.budget_by_name(&account.key.budget);
    let agent = budget.filter(|_| level == AlertLevel::Critical).and_then(|budget| to_pause(budget, &account.key.scope));
    let paused = match agent {
        Some(agent) => pause(connection, account, agent).await?,
        None => None,
    };
    if let Some(webhook) = telling.webhook {
        let unit = budget.map(|budget| budget.unit.name());
        let event = event(account, level, at, unit, paused.as_deref());
        webhooks::store::enqueue(connection, webhook, Event::BudgetThreshold, event).await?;
    }
    Ok(Told { budget: account.key.budget.clone(), level, paused })
}

fn event(account: &Risen, level: AlertLevel, at: OffsetDateTime, unit: Option<&str>, paused: Option<&str>) -> serde_json::Value {
    json!({
        "budget": account.key.budget, "scope": account.key.scope, "unit": unit,
        "window_start": moment(account.key.window_start), "window_end": moment(account.window_end),
        "level": level.name(), "percent": account.thresholds.percent(level), "cap": account.cap.get(), "settled": account.spent.get(),
        "at": at.format(&Rfc3339).unwrap_or_default(), "override": caps::copy::override_parts(&account.key.scope).map(|(number, _)| number),
        "paused_agent": paused,
    })
}

fn moment(seconds: i64) -> Option<String> {
    OffsetDateTime::from_unix_timestamp(seconds).ok()?.format(&Rfc3339).ok()
}

/// The agent that is to be paused at the critical level. A user without an agent id is charged under the subject, and is not
/// paused: a subject's revocation would refuse its tokens on every gateway and for everything, and a spent budget refuses
/// already. An override account pauses nobody: it is beside a spent one.
fn to_pause<'s>(budget: &Budget, scope: &'s str) -> Option<&'s str> {
    if budget.at_critical != AtCritical::PauseAgent || !budget.durable {
        return None;
    }
    match budget.scope.read_scope(scope)?.first()? {
        (Variable::AgentId, agent) if !agent.is_empty() => Some(*agent),
        (Variable::AgentId | Variable::Subject | Variable::UserId | Variable::CustomerId, _) => None,
    }
}

/// By the kill switch of agents, with the control plane as its author.
async fn pause(connection: &mut PgConnection, account: &Risen, agent: &str) -> Result<Option<String>, sqlx::Error> {
    let AccountKey { budget, window_start, .. } = &account.key;
    let window = moment(*window_start).unwrap_or_default();
    let reason = format!("the budget `{budget}` is spent in its window from {window}");
    let wanted = [Wanted { kind: Kind::Agent, issuer: String::new(), value: agent.to_owned(), bound: 0, expires_at: None }];
    let target = format!("agent {agent}");
    let action = match revocations::store::revoke(connection, &wanted, Actor::CONTROL_PLANE, &reason).await {
        Ok(revoking) if revoking.changed > 0 => "revocation.revoke",
        // Somebody stopped it before.
        Ok(_) => return Ok(None),
        Err(ApiError::Database(error)) => return Err(error),
        Err(error) => {
            // More revocations are in force than are kept: bookings go on, and the alert says that nobody was paused.
            tracing::error!(error = %chain(&error), agent, "an agent is not paused although its budget is spent");
            "budget.pause_failed"
        }
    };
    let detail = json!({ "kind": "agent", "value": agent, "budget": budget, "scope": account.key.scope, "window_start": window });
    admin_events::record(connection, Actor::CONTROL_PLANE, AdminEvent { action, target: &target, reason: &reason, detail }).await?;
    if action == "budget.pause_failed" {
        return Ok(None);
    }
    sqlx::query(
        "UPDATE budget_alerts SET paused_agent = $4 \
         WHERE budget = $1 AND scope = $2 AND window_start = to_timestamp($3::bigint) AND level = 'critical'",
    )
    .bind(budget)
    .bind(&account.key.scope)
    .bind(window_start)
    .bind(agent)
    .execute(connection)
    .await?;
    Ok(Some(agent.to_owned()))
}

/// Counts what was committed, and puts pauses in force here.
pub async fn note(state: &AppState, told: &[Told]) {
    for one in told {
        let label = BudgetLevel { budget: one.budget.clone(), level: one.level.name() };
        state.metrics.budget_thresholds.get_or_create(&label).inc();
        tracing::warn!(budget = one.budget, level = one.level.name(), paused = one.paused, "a budget has reached a threshold");
    }
    if told.iter().any(|one| one.paused.is_some()) {
        revocations::follow::refresh_after_commit(state).await;
    }
}

/// The levels of accounts in Valkey that this process knows to be recorded.
#[derive(Debug, Default)]
pub struct Remembered(Mutex<BTreeMap<AccountKey, (AlertLevel, i64)>>);

impl Remembered {
    fn level(&self, key: &AccountKey) -> Option<AlertLevel> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).map(|(level, _)| *level)
    }

    fn remember(&self, risen: &Risen) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_MAX && !known.contains_key(&risen.key) {
            let now = crate::caller::now().as_seconds();
            known.retain(|_, (_, window_end)| *window_end > now);
            if known.len() >= REMEMBERED_MAX {
                known.clear();
            }
        }
        known.insert(risen.key.clone(), (risen.level, risen.window_end));
    }
}

/// Records levels of accounts in Valkey. A failure is no harm: the next booking finds the same level.
pub async fn record_volatile(state: &AppState, risen: Vec<Risen>) {
    let news: Vec<Risen> = risen
        .into_iter()
        .map(|one| Risen { before: state.alerted.level(&one.key), ..one })
        .filter(|one| Some(one.level) > one.before)
        .collect();
    if news.is_empty() {
        return;
    }
    match record_alone(state, &news).await {
        Ok(told) => {
            news.iter().for_each(|one| state.alerted.remember(one));
            note(state, &told).await;
        }
        Err(error) => tracing::warn!(error = %chain(&error), "thresholds of volatile budgets are not recorded; the next call tries again"),
    }
}

async fn record_alone(state: &AppState, risen: &[Risen]) -> Result<Vec<Told>, sqlx::Error> {
    let policy = state.policy();
    let mut transaction = state.database.begin().await?;
    let told = record(&mut transaction, Telling::of(&policy), risen).await?;
    transaction.commit().await?;
    Ok(told)
}
