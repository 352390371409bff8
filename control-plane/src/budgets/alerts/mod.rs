//! Thresholds: an account's level rises, once per account, window and level. It is recorded, counted and told, and at the last
//! one an agent may be paused, all in the transaction in which it became true.
//!
//! INVARIANT (told once): `budget_alerts` has one row per account, window and level, and only who inserts it tells.

mod pause;

use super::{AccountKey, caps};
use crate::app::AppState;
use crate::metrics::BudgetLevel;
use crate::policies::ActivePolicy;
use crate::revocations;
use crate::webhooks::{self, Event};
use decision_core::budget::{AlertLevel, Thresholds, Units};
use decision_core::causes::chain;
use decision_core::policy::CompiledPolicy;
use serde_json::json;
use sqlx::PgConnection;
use std::collections::{BTreeMap, HashMap};
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

/// A level that an account has reached.
#[derive(Clone, Copy, Debug)]
struct Reached<'a> {
    account: &'a Risen,
    level: AlertLevel,
}

/// Records the levels that nobody recorded yet, tells the webhook, and pauses agents whose budget says so: in a few statements,
/// however many they are, since a closed holder may have leases on thousands of accounts.
///
/// # Errors
/// Postgres failed.
pub async fn record(connection: &mut PgConnection, telling: Telling<'_>, risen: &[Risen]) -> Result<Vec<Told>, sqlx::Error> {
    if risen.is_empty() {
        return Ok(Vec::new());
    }
    let reached = risen.iter().flat_map(|account| account.levels().map(move |level| Reached { account, level })).collect::<Vec<_>>();
    let news = insert(connection, &reached).await?;
    let paused = pause::pause(connection, &pause::to_pause(telling, news.iter().map(|(one, _)| *one))).await?;
    let paused_by = |one: &Reached<'_>| paused.get(&one.account.key).filter(|_| one.level == AlertLevel::Critical).cloned();
    if let Some(webhook) = telling.webhook {
        let events: Vec<_> = news.iter().map(|(one, at)| event(telling, *one, *at, paused_by(one).as_deref())).collect();
        webhooks::store::enqueue_all(connection, webhook, Event::BudgetThreshold, &events).await?;
    }
    let told = |(one, _): &(Reached<'_>, _)| Told { budget: one.account.key.budget.clone(), level: one.level, paused: paused_by(one) };
    Ok(news.iter().map(told).collect())
}

/// Those that are recorded by this, each with its time, in the same order.
async fn insert<'a>(connection: &mut PgConnection, reached: &[Reached<'a>]) -> Result<Vec<(Reached<'a>, OffsetDateTime)>, sqlx::Error> {
    let number = |of: fn(&Reached<'a>) -> i64| reached.iter().map(of).collect::<Vec<_>>();
    let inserted: Vec<(String, String, i64, String, OffsetDateTime)> = sqlx::query_as(
        "INSERT INTO budget_alerts (budget, scope, window_start, window_end, level, percent, cap, settled) \
         SELECT budget, scope, to_timestamp(starts), to_timestamp(ends), level, percent, cap, settled \
         FROM UNNEST($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::smallint[], $7::bigint[], $8::bigint[]) \
             WITH ORDINALITY AS n (budget, scope, starts, ends, level, percent, cap, settled, ordinal) \
         ORDER BY ordinal \
         ON CONFLICT (budget, scope, window_start, level) DO NOTHING \
         RETURNING budget, scope, extract(epoch FROM window_start)::bigint, level, at",
    )
    .bind(reached.iter().map(|one| one.account.key.budget.as_str()).collect::<Vec<_>>())
    .bind(reached.iter().map(|one| one.account.key.scope.as_str()).collect::<Vec<_>>())
    .bind(number(|one| one.account.key.window_start))
    .bind(number(|one| one.account.window_end))
    .bind(reached.iter().map(|one| one.level.name()).collect::<Vec<_>>())
    .bind(reached.iter().map(|one| i16::from(one.account.thresholds.percent(one.level))).collect::<Vec<_>>())
    .bind(number(|one| one.account.cap.get()))
    .bind(number(|one| one.account.spent.get()))
    .fetch_all(connection)
    .await?;
    let at: HashMap<_, _> =
        inserted.iter().map(|(budget, scope, start, level, at)| ((&**budget, &**scope, *start, &**level), *at)).collect();
    let place = |one: &Reached<'a>| {
        let AccountKey { budget, scope, window_start } = &one.account.key;
        at.get(&(&**budget, &**scope, *window_start, one.level.name())).copied()
    };
    Ok(reached.iter().filter_map(|one| Some((*one, place(one)?))).collect())
}

fn event(telling: Telling<'_>, one: Reached<'_>, at: OffsetDateTime, paused: Option<&str>) -> serde_json::Value {
    let Reached { account, level } = one;
    let unit = telling.policy.budget_by_name(&account.key.budget).map(|budget| budget.unit.name());
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
