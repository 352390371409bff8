//! Revocation: what was revoked, by whom and why; how it travels to the filters; and that the admin API keeps to it too.
//!
//! ```text
//! POST, DELETE, expiry ─▶ revocations (numbered, gapless) ─ NOTIFY ─▶ copy in memory ─▶ long polls of the filters
//!                                                                          └─▶ the admin API's own callers
//! ```

pub mod copy;
pub mod enforcement;
pub mod expiry;
pub mod feed;
pub mod follow;
pub mod http;
pub mod last_key;
pub mod request;
pub mod store;

pub use copy::Revoked;

use authn::Mark;
use decision_core::principal::RevocationKind;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use time::OffsetDateTime;
use utoipa::ToSchema;

/// The channel that tells replicas that something was revoked or lifted; the payload is the number.
pub const CHANNEL: &str = "revocations_changed";

/// The most entries that may be in force at once: workers keep them all in memory.
pub const LIVE_MAX: i64 = 100_000;

/// How long a token that exists now can be accepted at most: the longest lifetime, and twice the clock difference that is
/// tolerated, since it may have been issued in our future and is accepted a little beyond its end.
pub const TOKEN_LIFE_MAX: Duration = authn::LIFETIME_MAX.saturating_add(authn::SKEW_MAX).saturating_add(authn::SKEW_MAX);

/// What is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One token, by its `jti`.
    Token,
    /// A subject's tokens from before a time.
    Subject,
    /// A subject's tokens below a `token_version`.
    Version,
    /// A key, by its `kid`.
    Key,
    /// Everything of a customer.
    Customer,
    /// Everything of an agent.
    Agent,
}

impl From<Kind> for RevocationKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Token => Self::Token,
            Kind::Subject => Self::Subject,
            Kind::Version => Self::Version,
            Kind::Key => Self::Key,
            Kind::Customer => Self::Customer,
            Kind::Agent => Self::Agent,
        }
    }
}

impl Kind {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        RevocationKind::from(self).name()
    }

    /// Whether it belongs to an issuer.
    #[must_use]
    pub const fn has_issuer(self) -> bool {
        match self {
            Self::Token | Self::Subject | Self::Version | Self::Key => true,
            Self::Customer | Self::Agent => false,
        }
    }
}

/// Something to revoke, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What kind of thing.
    pub kind: Kind,
    /// Our name for its issuer; empty for customers and agents.
    pub issuer: String,
    /// Which one.
    pub value: String,
    /// Microseconds since the epoch for subjects, the lowest good version for versions, else 0.
    pub bound: i64,
    /// When it ends by itself.
    pub expires_at: Option<OffsetDateTime>,
}

impl Wanted {
    /// As workers know it.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark::of(self.kind.into(), &self.issuer, &self.value)
    }
}
