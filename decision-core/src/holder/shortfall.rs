//! Why a request could not reserve what it may cost.

use super::Wait;
use crate::budget::{BudgetId, Units, Window};

/// Why nothing was reserved.
#[derive(Debug)]
pub enum Shortfall {
    /// No window of this budget will have room for the charge.
    Spent {
        /// The budget.
        budget: BudgetId,
        /// Its window.
        window: Window,
        /// The cap.
        cap: Units,
        /// Charged by everybody, as far as known.
        settled: Units,
    },
    /// What is not spent is reserved by open requests or lies in leases of others, who may give it back; no time is left to wait
    /// for that. Only of budgets that fail open: of the others it is [`Shortfall::Unavailable`].
    Taken {
        /// The budget.
        budget: BudgetId,
        /// Its window.
        window: Window,
        /// The cap.
        cap: Units,
        /// Charged by everybody, as far as known.
        settled: Units,
    },
    /// The control plane has to be asked.
    Short(Box<Wait>),
    /// The user has none of the values that this budget's scope names.
    Unscoped(BudgetId),
    /// The budget cannot be asked, and its failure mode is closed.
    Unavailable(BudgetId),
}
