//! How near a budget is to its end, and what happens then.

use crate::budget::Units;

/// How near a budget is to its end. The order is that of urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the original's")]
pub enum AlertLevel {
    Warning,
    High,
    Critical,
}

impl AlertLevel {
    /// All of them, by urgency.
    pub const ALL: [Self; 3] = [Self::Warning, Self::High, Self::Critical];

    /// Its name in answers, events and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// Percentages of a cap at which a budget's level rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the levels'")]
pub struct Thresholds {
    pub warning: u8,
    pub high: u8,
    pub critical: u8,
}

impl Thresholds {
    /// Those of budgets that say nothing else.
    pub const DEFAULT: Self = Self { warning: 80, high: 95, critical: 100 };

    /// The percentage of a level.
    #[must_use]
    pub const fn percent(&self, level: AlertLevel) -> u8 {
        match level {
            AlertLevel::Warning => self.warning,
            AlertLevel::High => self.high,
            AlertLevel::Critical => self.critical,
        }
    }

    /// The level that `settled` of `cap` has reached. Who has spent nothing has reached none.
    #[must_use]
    pub fn level(&self, settled: Units, cap: Units) -> Option<AlertLevel> {
        if settled == Units::ZERO {
            return None;
        }
        let reached = |level: &AlertLevel| i128::from(settled.get()) * 100 >= i128::from(cap.get()) * i128::from(self.percent(*level));
        AlertLevel::ALL.into_iter().rev().find(reached)
    }
}

/// What happens when the last threshold is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtCritical {
    /// It is told.
    #[default]
    Tell,
    /// The agent of the scope is paused.
    PauseAgent,
}
