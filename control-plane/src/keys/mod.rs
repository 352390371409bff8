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

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
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

/// Which issuers this process asked for lately. Anybody may send tokens that name unknown keys: those must not each cost
/// an update in Postgres.
#[derive(Debug, Default)]
pub struct Asked(Mutex<HashMap<String, Instant>>);

impl Asked {
    /// Whether it is time to ask for this issuer; if so, it is asked for now. Names must come from the policy: they are kept.
    pub fn claim(&self, issuer: &str, now: Instant) -> bool {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lately = asked.get(issuer).is_some_and(|at| now.saturating_duration_since(*at) < Duration::from_secs(ASK_EVERY_S.into()));
        if !lately {
            asked.insert(issuer.to_owned(), now);
        }
        !lately
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_claimed_once_in_ten_seconds() {
        let (asked, start) = (Asked::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(asked.claim("a", at(0)) && asked.claim("b", at(1)));
        assert!(!asked.claim("a", at(9)) && asked.claim("a", at(10)) && !asked.claim("b", at(10)));
    }
}
