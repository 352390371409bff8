//! What another policy would have decided of requests that were recorded, by the code that decides: nothing is enforced, charged
//! or stored.
//!
//! ```text
//!   RecordedRequest ──▶ Replay::judge ──▶ Verdict ──▶ Tally::count
//!   (what is known)     (decide anew)     (same?)     (groups, examples, spend)
//! ```
//!
//! A record has no token, query, header or body. What cannot be told without them is [`Outcome::Undecidable`], never guessed.

mod judge;
mod recorded;
mod spend;
mod tally;

pub use judge::{Replay, Side, asker};
pub use recorded::{RecordedCharge, RecordedOutcome, RecordedRequest, RecordedUser};
pub use spend::Spending;
pub use tally::{Example, Group, Spend, Tally};

use decision_core::obligations::Aspect;

/// How a record's request would be decided now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it was.
    Same,
    /// Otherwise.
    Different(Difference),
    /// It cannot be told.
    Undecidable(Why),
}

/// In what the two part: the first thing, in the order in which it comes to bear.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// The rule: the route that it would match, else the one that it matched.
    pub rule: String,
    /// A check, or what becomes of a permitted request: see [`Aspect::name`].
    pub aspect: &'static str,
    /// How it was: `ok`, a coded reason, or a value of the aspect.
    pub before: String,
    /// How it would be.
    pub after: String,
}

/// Why it cannot be told how a request would be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// Envoy answered, or the client left, before it was decided.
    NotDecided,
    /// It could not be decided then: a part of the gateway was gone.
    Indeterminate,
    /// The record has no method and path.
    NotSeen,
    /// The record has the beginning of a long path.
    PathCut,
    /// Its reason is none that this version knows.
    UnknownReason,
    /// Nobody looked at the credential that would count now.
    CredentialNotLookedAt,
    /// Who the caller was is not recorded.
    UserForgotten,
    /// The issuer may assign roles now that it could not assign then: they are not recorded.
    RolesForgotten,
    /// The record is older than the column that has the end of the trial.
    TrialEndForgotten,
    /// A custom rule reads what is not recorded.
    RuleInput,
    /// It was refused for what was left in a budget, what was in its body or what a governor said, and what that check is about
    /// has changed.
    State,
}

impl Why {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::NotDecided,
        Self::Indeterminate,
        Self::NotSeen,
        Self::PathCut,
        Self::UnknownReason,
        Self::CredentialNotLookedAt,
        Self::UserForgotten,
        Self::RolesForgotten,
        Self::TrialEndForgotten,
        Self::RuleInput,
        Self::State,
    ];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotDecided => "not_decided",
            Self::Indeterminate => "indeterminate",
            Self::NotSeen => "not_seen",
            Self::PathCut => "path_cut",
            Self::UnknownReason => "unknown_reason",
            Self::CredentialNotLookedAt => "credential_not_looked_at",
            Self::UserForgotten => "user_forgotten",
            Self::RolesForgotten => "roles_forgotten",
            Self::TrialEndForgotten => "trial_end_forgotten",
            Self::RuleInput => "rule_input",
            Self::State => "state",
        }
    }

    /// In words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::NotDecided => "Envoy answered or the client left before it was decided",
            Self::Indeterminate => "it could not be decided then",
            Self::NotSeen => "the record has no method and path",
            Self::PathCut => "the record has the beginning of a long path only",
            Self::UnknownReason => "its reason is none that this version knows",
            Self::CredentialNotLookedAt => "nobody looked at the credential that would count now",
            Self::UserForgotten => "who the caller was is not recorded",
            Self::RolesForgotten => "roles that its issuer may assign now are not recorded",
            Self::TrialEndForgotten => "the end of its trial is not recorded",
            Self::RuleInput => "a custom rule reads what is not recorded",
            Self::State => "it was refused for a budget, a body or an approval, and what that check is about has changed",
        }
    }
}

impl Difference {
    fn new(rule: &str, aspect: Aspect, before: impl Into<String>, after: impl Into<String>) -> Self {
        Self { rule: rule.to_owned(), aspect: aspect.name(), before: before.into(), after: after.into() }
    }
}

/// What became of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict<'v> {
    /// How its request would be decided.
    pub outcome: Outcome,
    /// What it cost, and would cost, by budget.
    pub spending: Spending<'v>,
}

#[cfg(test)]
mod tests;
