//! Limits per client address: which budgets are such, and which routes name them.

use super::error::{CompileError, range, unknown};
use crate::budget::{Budget, BudgetId, Counted, Unit};
use crate::policy::CLIENT_BUDGETS_MAX;
use crate::policy::source::BudgetSource;

/// The scope of a budget that counts per client address.
const CLIENT_ADDRESS: &str = "client_address";

/// Who counts the budget. One that counts per client address is looked at before anything is known of the user.
pub(super) fn counted(budget: &BudgetSource, at: &str) -> Result<Counted, CompileError> {
    if budget.scope != CLIENT_ADDRESS {
        return Ok(Counted::ByLease);
    }
    let broken = |rule| Err(CompileError::Inconsistent { at: at.into(), rule });
    if budget.unit != Unit::Requests {
        return broken("a budget of scope `client_address` counts `unit: requests`");
    }
    if budget.durable {
        return broken("a budget of scope `client_address` is counted in each worker: `durable: false`");
    }
    if budget.tier.is_some() {
        return broken("a budget of scope `client_address` has no `tier`: it counts before the user is known");
    }
    if !budget.gateways.is_empty() {
        return broken("a budget of scope `client_address` has no `gateways`: it counts on the routes that name it as their `limit`");
    }
    if budget.problem.is_some() || budget.status.is_some() || budget.failure_mode.is_some() {
        return broken(
            "a budget of scope `client_address` has no `problem`, `status` or `on_unavailable`: it answers 429 `too-many-requests`, and needs nobody",
        );
    }
    if !(1..=i64::from(u32::MAX)).contains(&budget.cap) {
        return Err(range(&format!("{at}.cap"), &budget.cap.to_string(), "from 1 to 4294967295"));
    }
    Ok(Counted::ByClientAddress)
}

/// The budget that a route names as its limit.
pub(super) fn of_route(name: &str, at: &str, budgets: &[Budget]) -> Result<BudgetId, CompileError> {
    let per_address = || budgets.iter().filter(|budget| budget.counted == Counted::ByClientAddress);
    if let Some(budget) = per_address().find(|budget| *budget.name == *name) {
        return Ok(budget.id);
    }
    if budgets.iter().any(|budget| *budget.name == *name) {
        let rule = "`limit` names a budget of another scope than `client_address`; those are charged without being named";
        return Err(CompileError::Inconsistent { at: at.into(), rule });
    }
    Err(unknown(&format!("{at}.limit"), name, per_address().map(|budget| &*budget.name)))
}

/// Every such budget is some route's limit, and there are not too many.
pub(super) fn check_named(budgets: &[Budget], named: &[bool]) -> Result<(), CompileError> {
    let mut per_address = budgets.iter().filter(|budget| budget.counted == Counted::ByClientAddress);
    if let Some(unused) = per_address.clone().find(|budget| named.get(budget.id.index()) != Some(&true)) {
        let rule = "a budget of scope `client_address` counts only where a route names it as its `limit`, and none does";
        return Err(CompileError::Inconsistent { at: format!("budgets[{}]", unused.name), rule });
    }
    match per_address.nth(CLIENT_BUDGETS_MAX) {
        Some(excess) => Err(range(&format!("budgets[{}]", excess.name), &excess.name, "within 16 budgets of scope `client_address`")),
        None => Ok(()),
    }
}
