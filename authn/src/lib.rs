//! Who is asking: strict JWS and JWT verification, the keys for it, and the cache of verified tokens.
//!
//! Pure: a token, keys and the time go in; an [`Identity`](decision_core::principal::Identity) or a
//! [`CredentialFault`](decision_core::principal::CredentialFault) comes out. Nothing here does I/O, reads a clock, draws
//! a random number or writes a log, so the crate also runs in a browser.
//!
//! ```text
//! Authorization ─ bearer ─▶ token ─ parse_jws ─▶ ParsedJws ─ iss ─▶ IssuerRules ─ alg, kid ─▶ VerificationKey
//!                                                                                                  │ SignatureVerifier
//!                                                        Identity ◀─ check_claims ─ payload ◀──────┘
//! ```
//!
//! The rules are those of RFC 7515, 7517, 7518, 7519 and 8725; where they leave a choice, we take the strict one.

mod algorithm;
mod authenticate;
mod budget;
mod cache;
mod claims;
mod issuer;
mod json;
mod jwk;
mod jwk_set;
mod jws;
mod key;
mod pure_rust;
mod revocation;
mod rfc3339;
mod roca;
mod spki;
mod thumbprint;

#[cfg(test)]
mod test_tokens;

pub use algorithm::{Algorithm, Family, HashFunction, Verification};
pub use authenticate::{Unauthenticated, after_scheme, authenticate, bearer};
pub use budget::{Admission, VerificationBudget};
pub use cache::TokenCache;
pub use claims::{CLAIM_BYTES_MAX, Check, Finding, ROLES_MAX, check_claims, explain_claims};
pub use issuer::{InvalidIssuers, IssuerRules, Issuers, KeysKnown, LIFETIME_MAX, MoreKeys, OptionalClaim, SKEW_MAX, TrialTokens};
pub use json::strict_json;
pub use jwk_set::{InvalidJwkSet, JwkSet, KeyPlace};
pub use jws::{JwsHeader, ParsedJws, SignatureVerifier, TOKEN_BYTES_MAX, Verified, parse_jws, verify_jws};
pub use key::{InvalidKey, VerificationKey};
pub use pure_rust::PureRust;
pub use revocation::{Mark, Marks, Revocations};
