//! Caps that operators set for single scopes, and override accounts: who set them and why, and how every replica knows them.
//!
//! ```text
//! POST, DELETE ─▶ budget_caps (one rising number) ─ NOTIFY ─▶ copy in memory ─▶ what a sync call may grant
//!                                                                    └─▶ long polls of the filters: there may be room again
//! ```
//! Expiry needs no news: every reader compares with the database's clock.

pub mod copy;
pub mod follow;
pub mod http;
pub mod request;
pub mod store;

pub use copy::Caps;

/// The channel that tells replicas of a change; the payload is its number.
pub const CHANNEL: &str = "budget_caps_changed";

/// The most that may be open at once: every replica keeps them in memory.
pub const OPEN_MAX: i64 = 10_000;

/// What was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The cap of a scope, in all its windows.
    Cap,
    /// A second account beside a scope, with a cap of its own.
    Override,
}

impl Kind {
    /// Its name in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cap => "cap",
            Self::Override => "override",
        }
    }

    /// What is recorded when one is set.
    #[must_use]
    pub const fn set_action(self) -> &'static str {
        match self {
            Self::Cap => "budget.cap",
            Self::Override => "budget.override",
        }
    }

    /// What is recorded when somebody ends one.
    #[must_use]
    pub const fn end_action(self) -> &'static str {
        match self {
            Self::Cap => "budget.uncap",
            Self::Override => "budget.override_end",
        }
    }
}
