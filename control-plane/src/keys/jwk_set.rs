//! From the bytes of a published JWK set to keys that may be used.

use authn::{Algorithm, Family, JwkSet, VerificationKey};

pub use authn::InvalidJwkSet as InvalidSet;

/// The keys of a published set that verify tokens by one of `algorithms`. A shared secret is none of them: it does not
/// belong in public, whatever the issuer's algorithms are.
///
/// # Errors
/// The first fault of the set; then none of it is used.
pub fn parse(bytes: &[u8], algorithms: &[Algorithm]) -> Result<Vec<VerificationKey>, InvalidSet> {
    let public: Vec<Algorithm> = algorithms.iter().copied().filter(|algorithm| algorithm.family() != Family::Hmac).collect();
    JwkSet::parse(bytes, &public).map(|set| set.keys)
}
