//! Keys: the sets that issuers publish, fetched, kept and merged with those that policies name.
//!
//! ```text
//! policy ─▶ jwk_sets (one row per issuer and URL) ◀─ fetch (one replica at a time) ◀─ issuer
//!                │ changes                                 ▲ due, or asked for: a token named an unknown key
//!                └─▶ follow ─▶ merge ─▶ bundle             └─ sync, admin API
//! ```

pub mod fetch;
pub mod http;
pub mod jwk_set;
pub mod merge;
pub mod store;

use wire::policy::{Issuer, JwksSource, PolicyDocument};

/// An issuer with a JWK set is not asked more often than this, however many tokens name unknown keys. Seconds.
pub const ASK_EVERY_S: u32 = 10;

/// The channel that wakes fetchers; the payload says nothing.
pub const CHANNEL_DUE: &str = "jwk_sets_due";

/// The channel that tells replicas that a set changed; the payload says nothing.
pub const CHANNEL_CHANGED: &str = "jwk_sets_changed";

/// The issuers of a policy that publish their keys.
pub fn publishers(document: &PolicyDocument) -> impl Iterator<Item = (&Issuer, &JwksSource)> {
    document.issuers.iter().filter_map(|issuer| Some((issuer, issuer.jwks.as_ref()?)))
}
