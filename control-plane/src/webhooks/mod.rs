//! Webhooks: events that receivers outside are told of.
//!
//! ```text
//! an event's transaction ─▶ outbox row ─▶ any replica: sign, POST ─▶ delivered
//!                                 ▲                └─▶ wait twice as long ─▶ … ─▶ dead ─┐
//!                                 └──────────────── redelivery, by an operator ◀────────┘
//! ```
//! At least once: a receiver tells repetitions by `webhook-id`. What is signed, and how, is in [`signature`].

pub mod deliver;
pub mod http;
pub mod signature;
pub mod store;

/// What happened. New kinds of event need nothing but a variant here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request waits for a governor.
    ApprovalRequested,
    /// Governors approved it, or one refused.
    ApprovalDecided,
    /// A budget has reached one of its thresholds.
    BudgetThreshold,
}

impl Event {
    /// Its name, as receivers see it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ApprovalRequested => "approval.requested",
            Self::ApprovalDecided => "approval.decided",
            Self::BudgetThreshold => "budget.threshold",
        }
    }
}
