//! What a recorded request cost, and what it would have cost.

use super::recorded::RecordedRequest;
use decision_core::budget::{Budget, Unit, Units};
use decision_core::decision::Permit;
use decision_core::policy::{CompiledPolicy, Metering};

/// What one request cost and would cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spending<'v> {
    /// By budget: its name, what was charged, what would be. In units of the budget.
    pub budgets: Vec<(&'v str, i64, i64)>,
    /// Budgets whose new charge cannot be told: nothing says what the request would have used. They count as before.
    pub unpriced: Vec<&'v str>,
}

impl<'v> Spending<'v> {
    /// As it was.
    pub(super) fn unchanged(recorded: &RecordedRequest<'v>) -> Self {
        let mut spending = Self::default();
        recorded.charges.iter().for_each(|charge| spending.add(charge.budget, charge.amount, charge.amount));
        spending
    }

    /// As it would be if the request were refused.
    pub(super) fn refused(recorded: &RecordedRequest<'v>) -> Self {
        let mut spending = Self::default();
        recorded.charges.iter().for_each(|charge| spending.add(charge.budget, charge.amount, 0));
        spending
    }

    /// As it would be under this permit.
    pub(super) fn permitted(recorded: &RecordedRequest<'v>, policy: &'v CompiledPolicy, permit: &Permit) -> Self {
        let mut spending = Self::refused(recorded);
        // Everything was given back: the backend was never reached, nor would it have been.
        if !recorded.charges.is_empty() && recorded.charges.iter().all(|charge| charge.amount == 0) && recorded.went_on() {
            return spending;
        }
        let metering = policy.route_by_id(permit.route()).map(|route| &route.metering);
        for charge in permit.charges().iter() {
            let Some(budget) = policy.budget(charge.budget) else { continue };
            if recorded.failed_open && !recorded.charges.iter().any(|charged| charged.budget == &*budget.name) {
                // It could not be asked then, and would not be charged now.
                continue;
            }
            match cost(recorded, policy, metering, budget, charge.amount) {
                Some(amount) => spending.add(&budget.name, 0, amount),
                None => {
                    spending.unpriced.push(&budget.name);
                    let before = recorded.charged(&budget.name).unwrap_or(0);
                    spending.add(&budget.name, 0, before);
                }
            }
        }
        spending
    }

    fn add(&mut self, budget: &'v str, before: i64, after: i64) {
        match self.budgets.iter_mut().find(|(known, _, _)| *known == budget) {
            Some((_, was, will)) => (*was, *will) = (was.saturating_add(before), will.saturating_add(after)),
            None => self.budgets.push((budget, before, after)),
        }
    }
}

/// In this budget's unit, if anything says it.
fn cost(
    recorded: &RecordedRequest<'_>,
    policy: &CompiledPolicy,
    metering: Option<&Metering>,
    budget: &Budget,
    amount: Units,
) -> Option<i64> {
    match (metering, budget.unit) {
        (None | Some(Metering::Fixed), _) | (_, Unit::Tasks | Unit::Requests) => Some(amount.get()),
        // The backend reported it: in every budget of money the same.
        (Some(Metering::Header(_)), Unit::MicroUsd | Unit::Tokens) => recorded.charged_in(policy, budget),
        (Some(Metering::Usage { .. }), unit) => match (&recorded.usage, unit) {
            (Some((model, usage)), Unit::MicroUsd) => {
                policy.prices().find(model).map(|price| i64::try_from(price.cost(usage)).unwrap_or(i64::MAX))
            }
            (Some((_, usage)), Unit::Tokens) => Some(i64::try_from(usage.total()).unwrap_or(i64::MAX)),
            (Some(_) | None, _) => recorded.charged_in(policy, budget),
        },
    }
}

impl RecordedRequest<'_> {
    fn went_on(&self) -> bool {
        self.outcome == super::RecordedOutcome::Permit
    }

    /// What was charged on this budget.
    fn charged(&self, budget: &str) -> Option<i64> {
        let charges = self.charges.iter().filter(|charge| charge.budget == budget);
        charges.map(|charge| charge.amount).reduce(i64::saturating_add)
    }

    /// What was charged on this budget, else on another of its unit.
    fn charged_in(&self, policy: &CompiledPolicy, budget: &Budget) -> Option<i64> {
        let same_unit = |name: &str| policy.budget_by_name(name).is_some_and(|known| known.unit == budget.unit);
        let other = || self.charges.iter().find(|charge| same_unit(charge.budget)).and_then(|charge| self.charged(charge.budget));
        self.charged(&budget.name).or_else(other)
    }
}
