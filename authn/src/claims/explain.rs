//! Every check of the claims with its outcome, for people who ask why a token is refused. The first that fails is the one
//! that [`check_claims`](crate::check_claims) reports.

use decision_core::principal::CredentialFault;
use decision_core::time::Timestamp;

use super::{Claims, check_lifetime, check_not_expired, check_started, check_typ};
use crate::issuer::{IssuerRules, OptionalClaim};
use crate::jws::JwsHeader;

/// One thing that is checked in a verified token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// `iss` is the issuer's.
    Issuer,
    /// The header's `typ` is one of the issuer's.
    Type,
    /// A claim has the right form, and is there if it has to be.
    Claim(&'static str),
    /// `trial_mode` and `trial_expires_at`.
    Trial,
    /// A claim that this issuer's tokens have to have.
    Required(OptionalClaim),
    /// `aud` names us.
    Audience,
    /// `token_type` says access token.
    TokenType,
    /// `scope` has only values of the issuer.
    Scope,
    /// `exp` is after `iat`, and not too long after.
    Lifetime,
    /// `iat` is not in the future.
    IssuedAt,
    /// `nbf` is not in the future.
    NotBefore,
    /// `exp` is not in the past.
    Expiry,
}

/// A check and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was checked.
    pub check: Check,
    /// Whether it passed.
    pub outcome: Result<(), CredentialFault>,
}

/// Makes every check of [`check_claims`](crate::check_claims), in its order, and goes on after one that fails. What
/// cannot be checked because a time is missing is left out.
///
/// # Errors
/// The payload is not a JSON object without duplicate names, so there is nothing to check.
pub fn explain_claims(payload: &[u8], header: &JwsHeader, issuer: &IssuerRules, now: Timestamp) -> Result<Vec<Finding>, CredentialFault> {
    let claims = Claims::parse(payload)?;
    let mut findings = Vec::new();
    let mut found = |check, outcome| findings.push(Finding { check, outcome });
    found(Check::Issuer, claims.check_issuer(issuer));
    found(Check::Type, check_typ(header, issuer));
    for name in ["sub", "user_id", "email"] {
        found(Check::Claim(name), claims.required_text(name).map(drop));
    }
    for name in ["customer_id", "agent_id", "governor_agent_id"] {
        found(Check::Claim(name), claims.optional_text(name).map(drop));
    }
    found(Check::Claim("roles"), claims.roles().map(drop));
    found(Check::Claim("tier"), claims.optional_text("tier").map(drop));
    found(Check::Trial, claims.trial(issuer).map(drop));
    found(Check::Claim("jti"), claims.optional_text("jti").map(drop));
    found(Check::Claim("token_version"), claims.token_version().map(drop));
    let (issued_at, expires_at) = (claims.required_moment("iat"), claims.required_moment("exp"));
    found(Check::Claim("iat"), issued_at.map(drop));
    found(Check::Claim("exp"), expires_at.map(drop));
    for claim in &issuer.required_claims {
        found(Check::Required(*claim), claims.check_required(*claim));
    }
    found(Check::Audience, claims.check_audience(issuer));
    found(Check::TokenType, claims.check_token_type());
    found(Check::Scope, claims.check_scope(issuer));
    if let (Ok(issued_at), Ok(expires_at)) = (issued_at, expires_at) {
        found(Check::Lifetime, check_lifetime(issued_at, expires_at, issuer));
    }
    if let Ok(issued_at) = issued_at {
        found(Check::IssuedAt, check_started(Some(issued_at), issuer, now));
    }
    found(Check::NotBefore, claims.moment("nbf").and_then(|not_before| check_started(not_before, issuer, now)));
    if let Ok(expires_at) = expires_at {
        found(Check::Expiry, check_not_expired(expires_at, issuer, now));
    }
    Ok(findings)
}
