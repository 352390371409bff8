//! What happens when a check cannot be made: one function turns a fault into an answer.

/// What a rule wants when it cannot be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureMode {
    /// Let through, and count.
    Open,
    /// Refuse.
    Closed,
}

/// Why a decision could not be made ("Indeterminate" in XACML).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// No bundle has arrived yet.
    PolicyUnavailable,
    /// Whether the budget has room could not be asked.
    BudgetUnavailable,
    /// The approval could not be asked for.
    ApprovalUnavailable,
    /// Too many requests wait already.
    TooManyWaiting,
    /// The issuer's keys are not known yet, or are too old to be relied on.
    KeysUnavailable,
    /// What was revoked is not known yet, or too old to be relied on.
    RevocationUnknown,
    /// That the request is about to go on could not be stored, and its route requires that.
    AuditUnavailable,
    /// No more records can be kept.
    AuditQueueFull,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::PolicyUnavailable,
        Self::BudgetUnavailable,
        Self::ApprovalUnavailable,
        Self::TooManyWaiting,
        Self::KeysUnavailable,
        Self::RevocationUnknown,
        Self::AuditUnavailable,
        Self::AuditQueueFull,
    ];

    /// The coded reason, for records and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::PolicyUnavailable => "policy_unavailable",
            Self::BudgetUnavailable => "budget_unavailable",
            Self::ApprovalUnavailable => "approval_unavailable",
            Self::TooManyWaiting => "too_many_waiting",
            Self::KeysUnavailable => "keys_unavailable",
            Self::RevocationUnknown => "revocation_unknown",
            Self::AuditUnavailable => "audit_unavailable",
            Self::AuditQueueFull => "audit_queue_full",
        }
    }

    /// What the client is told.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::PolicyUnavailable => "No policy has been loaded yet. Please retry shortly.",
            Self::BudgetUnavailable => "The budget cannot be checked at the moment. Please retry shortly.",
            Self::ApprovalUnavailable => "The approval cannot be checked at the moment. Please retry shortly.",
            Self::TooManyWaiting => "Too many requests are waiting. Please retry shortly.",
            Self::AuditUnavailable | Self::AuditQueueFull => "The request cannot be recorded at the moment. Please retry shortly.",
            // One text for both: which of them it is says something about the issuers.
            Self::KeysUnavailable | Self::RevocationUnknown => "Tokens cannot be checked at the moment. Please retry shortly.",
        }
    }
}

/// A fault, resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// Let through although the check could not be made.
    FailedOpen,
    /// Refused because the check could not be made.
    FailedClosed,
}

/// The one place where a fault becomes an answer.
#[must_use]
pub const fn resolve(fault: Fault, mode: FailureMode) -> Resolution {
    match (fault, mode) {
        // Without a policy nothing says that anything may fail open; an approval is a person's decision; without keys
        // there is nothing to judge a token by; and what has to be recorded does not happen unrecorded.
        (
            Fault::PolicyUnavailable
            | Fault::ApprovalUnavailable
            | Fault::TooManyWaiting
            | Fault::KeysUnavailable
            | Fault::AuditUnavailable
            | Fault::AuditQueueFull,
            FailureMode::Open | FailureMode::Closed,
        )
        | (Fault::BudgetUnavailable | Fault::RevocationUnknown, FailureMode::Closed) => Resolution::FailedClosed,
        // A budget by its own mode; a good token of which nobody has said that it is revoked, if the policy says so.
        (Fault::BudgetUnavailable | Fault::RevocationUnknown, FailureMode::Open) => Resolution::FailedOpen,
    }
}
