//! Accounts as people read them: what is spent, what lies in leases, what is left, and where it goes.

pub mod store;

use super::alerts::of_rank;
use super::caps::Caps;
use super::caps::copy::override_parts;
use super::cursor::Cursor;
use super::ledger::Account;
use super::store::Listed;
use super::{AccountKey, cap_of, valkey};
use crate::app::AppState;
use crate::policies::ActivePolicy;
use crate::problem::ApiError;
use decision_core::budget::{Budget, Units};
use decision_core::policy::CompiledPolicy;
use decision_core::time::Timestamp;
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

/// One budget, scope and window, in the budget's unit.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct AccountView {
    /// The budget's name.
    pub budget: String,
    /// The scope with its values.
    pub scope: String,
    /// What it counts; absent when the policy has no such budget any more.
    pub unit: Option<&'static str>,
    /// Whether it is kept in Postgres.
    pub durable: bool,
    /// Start of the window.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub window_start: OffsetDateTime,
    /// End of the window.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub window_end: OffsetDateTime,
    /// When everything may be spent again; absent for an override account, which ends for good.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub resets_at: Option<OffsetDateTime>,
    /// The cap in force; absent when the policy has no such budget any more.
    pub cap: Option<i64>,
    /// The policy's cap.
    pub policy_cap: Option<i64>,
    /// The cap that somebody set for this scope, if one is in force.
    pub cap_id: Option<i64>,
    /// Charged, forfeits included.
    pub settled: i64,
    /// Granted to gateways and not charged yet.
    pub leased: i64,
    /// Of `leased`: reserved by open requests.
    pub held: i64,
    /// Of `settled`: charged in full because a gateway fell silent.
    pub forfeited: i64,
    /// Charged beyond what requests had reserved, booked apart.
    pub overrun: i64,
    /// Of `settled` and `leased`: spent without a grant, after a store lost its data.
    pub over_grant: i64,
    /// What may still be granted.
    pub remaining: i64,
    /// The threshold that is reached now: `warning`, `high` or `critical`.
    pub level: Option<&'static str>,
    /// The highest threshold that was told in this window.
    pub told: Option<&'static str>,
    /// `settled` and `overrun` in percent of the cap, to two decimals.
    pub utilization_percent: Option<f64>,
    /// What will be spent by the end of the window if it goes on as on average so far; absent in the first hundredth of the window.
    pub forecast: Option<i64>,
    /// The override account beside it, if one is in force.
    pub overriding: Option<Overriding>,
}

impl AccountView {
    /// Where a page that ends with it ended.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        let key = AccountKey { budget: self.budget.clone(), scope: self.scope.clone(), window_start: self.window_start.unix_timestamp() };
        Cursor { durable: self.durable, key }
    }
}

/// An override account, named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Overriding {
    /// Its id.
    pub id: u64,
    /// Its scope: it is an account by itself.
    pub scope: String,
    /// Its cap.
    pub cap: i64,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: OffsetDateTime,
}

/// Where the numbers of an account come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// The account.
    pub key: AccountKey,
    /// End of its window, seconds since the epoch.
    pub window_end: i64,
    /// What is on it.
    pub account: Account,
    /// Whether it is kept in Postgres.
    pub durable: bool,
    /// The highest level that was told, as its row has it.
    pub told: i16,
}

impl From<&Listed> for Numbers {
    fn from(listed: &Listed) -> Self {
        let account = Account {
            committed: Units::new(listed.committed),
            settled: Units::new(listed.settled),
            held: Units::new(listed.held),
            forfeited: Units::new(listed.forfeited),
            overrun: Units::new(listed.overrun),
            over_grant: Units::new(listed.over_grant),
        };
        let key = AccountKey { budget: listed.budget.clone(), scope: listed.scope.clone(), window_start: listed.window_start };
        Self { key, window_end: listed.window_end, account, durable: true, told: listed.level }
    }
}

impl Numbers {
    /// The account of this scope's current window, or the override account of this name, before anything was charged. `None` when
    /// there is no such override account.
    #[must_use]
    pub fn none(seen: Seen<'_>, budget: &Budget, scope: &str) -> Option<Self> {
        let name = budget.name.to_string();
        let (window_start, window_end) = if override_parts(scope).is_some() {
            let named = seen.caps.named(&name, scope)?;
            (named.account.from, named.account.until)
        } else {
            let window = budget.window_at(seen.now);
            (window.start.as_seconds(), window.end.as_seconds())
        };
        let key = AccountKey { budget: name, scope: scope.to_owned(), window_start };
        Some(Self { key, window_end, account: Account::default(), durable: budget.durable, told: 0 })
    }

    /// What is on it now, wherever it is kept.
    ///
    /// # Errors
    /// The store cannot be asked.
    pub async fn read(self, state: &AppState) -> Result<Self, ApiError> {
        if self.durable {
            let windows = store::windows(&state.database, &self.key.budget, &self.key.scope, 2).await?;
            let current = windows.iter().map(Self::from).find(|one| one.key == self.key);
            return Ok(current.unwrap_or(self));
        }
        match valkey::read(&mut state.valkey.clone(), &self.key).await {
            Ok(account) => Ok(Self { account: account.unwrap_or_default(), ..self }),
            Err(error) => {
                tracing::warn!(error = %decision_core::causes::chain(&error), "an account cannot be read");
                Err(ApiError::Unavailable { what: "the counter store cannot be reached" })
            }
        }
    }
}

/// By what accounts are described.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The policy in force.
    pub policy: &'a CompiledPolicy,
    /// Caps and override accounts in force.
    pub caps: &'a Caps,
    /// The moment.
    pub now: Timestamp,
}

impl<'a> Seen<'a> {
    /// By what is in force now.
    #[must_use]
    pub fn of(state: &'a AppState, policy: &'a ActivePolicy) -> Self {
        Self { policy: &policy.loaded.policy, caps: &state.caps, now: crate::caller::now() }
    }

    /// An account for people.
    ///
    /// # Errors
    /// Its window is no time at all.
    pub fn view(self, numbers: &Numbers) -> Result<AccountView, ApiError> {
        let Numbers { key, window_end, account, durable, told } = numbers;
        let budget = self.policy.budget_by_name(&key.budget);
        let cap = budget.map(|budget| cap_of(self.caps, budget, &key.scope, self.now));
        let is_override = override_parts(&key.scope).is_some();
        let spent = account.settled.plus(account.overrun);
        Ok(AccountView {
            unit: budget.map(|budget| budget.unit.name()),
            durable: *durable,
            window_start: moment(key.window_start)?,
            window_end: moment(*window_end)?,
            resets_at: if is_override { None } else { Some(moment(*window_end)?) },
            cap: cap.map(Units::get),
            policy_cap: budget.filter(|_| !is_override).map(|budget| budget.cap.get()),
            cap_id: self.caps.cap(&key.budget, &key.scope, self.now).map(|set| set.id),
            settled: account.settled.get(),
            leased: account.committed.minus(account.settled).get(),
            held: account.held.get(),
            forfeited: account.forfeited.get(),
            overrun: account.overrun.get(),
            over_grant: account.over_grant.get(),
            remaining: cap.unwrap_or_default().minus(account.committed).minus(account.overrun).get(),
            level: level(budget, spent, cap),
            told: of_rank(*told).map(decision_core::budget::AlertLevel::name),
            utilization_percent: cap.map(|cap| utilization_percent(spent, cap)),
            forecast: forecast(spent, key.window_start, *window_end, self.now),
            overriding: self.overriding(key)?,
            budget: key.budget.clone(),
            scope: key.scope.clone(),
        })
    }

    fn overriding(self, key: &AccountKey) -> Result<Option<Overriding>, ApiError> {
        let beside = self.caps.beside(&key.budget, &key.scope, self.now);
        let named = beside.map(|beside| {
            let (account, cap) = (beside.account, beside.cap.get());
            Ok(Overriding { id: account.number, scope: account.scope(&key.scope), cap, expires_at: moment(account.until)? })
        });
        named.transpose()
    }
}

fn level(budget: Option<&Budget>, spent: Units, cap: Option<Units>) -> Option<&'static str> {
    let thresholds = budget.and_then(|budget| budget.thresholds)?;
    thresholds.level(spent, cap?).map(decision_core::budget::AlertLevel::name)
}

/// A moment of a window.
///
/// # Errors
/// It is beyond what can be told.
pub fn moment(seconds: i64) -> Result<OffsetDateTime, ApiError> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|error| ApiError::internal("window", error))
}

/// To two decimals, rounded down: 99.99 is not yet spent. A cap of nothing is spent.
#[must_use]
pub fn utilization_percent(spent: Units, cap: Units) -> f64 {
    if cap == Units::ZERO {
        return 100.0;
    }
    let hundredths = i128::from(spent.get()) * 10_000 / i128::from(cap.get());
    f64::from(i32::try_from(hundredths).unwrap_or(i32::MAX)) / 100.0
}

/// Linear: as much for the rest of the window as on average so far. In its first hundredth that would be guessing.
#[must_use]
pub fn forecast(spent: Units, window_start: i64, window_end: i64, now: Timestamp) -> Option<i64> {
    let micros = |seconds: i64| i128::from(seconds) * 1_000_000;
    let whole = micros(window_end.saturating_sub(window_start));
    let elapsed = (i128::from(now.as_micros()) - micros(window_start)).min(whole);
    (whole > 0 && elapsed * 100 >= whole).then(|| i64::try_from(i128::from(spent.get()) * whole / elapsed).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_is_the_average_so_far_and_none_at_the_beginning() {
        let at = |seconds| forecast(Units::new(30), 1_000, 2_000, Timestamp::from_seconds(seconds));
        assert_eq!(
            [at(999), at(1_000), at(1_009), at(1_010), at(1_500), at(2_000), at(5_000)],
            [None, None, None, Some(3_000), Some(60), Some(30), Some(30)]
        );
        assert_eq!(forecast(Units::new(i64::MAX), 0, 100, Timestamp::from_seconds(1)), Some(i64::MAX));
    }

    #[test]
    fn utilization_is_rounded_down_and_a_cap_of_nothing_is_spent() {
        let percent = |spent, cap| utilization_percent(Units::new(spent), Units::new(cap));
        assert_eq!(
            [percent(0, 3), percent(1, 3), percent(99_999, 100_000), percent(7, 5), percent(0, 0)],
            [0.0, 33.33, 99.99, 140.0, 100.0]
        );
    }
}
