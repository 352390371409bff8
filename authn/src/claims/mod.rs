//! What a verified payload must say. Every text claim ends up in a header, a key or a record, so each is bounded and free
//! of control characters.

use core::time::Duration;

use decision_core::principal::{CredentialFault, Identity, Trial};
use decision_core::time::Timestamp;

use crate::issuer::{IssuerRules, OptionalClaim, TrialTokens};
use crate::json::{Json, Members};
use crate::jws::JwsHeader;
use crate::rfc3339;

mod explain;

pub use explain::{Check, Finding, explain_claims};

/// The longest text claim.
pub const CLAIM_BYTES_MAX: usize = 256;
/// The most roles.
pub const ROLES_MAX: usize = 64;
/// The last second of the year 9999.
const SECONDS_MAX: i64 = 253_402_300_799;

/// Checks a *verified* payload against its issuer's rules. An expired trial is not refused here: the policy decides.
///
/// # Errors
/// The rule that the token breaks; `exp` after all others, so that "expired" means: good until then.
pub fn check_claims(
    payload: &[u8],
    header: &JwsHeader,
    issuer: &IssuerRules,
    key_id: Option<&str>,
    now: Timestamp,
) -> Result<Identity, CredentialFault> {
    Claims::parse(payload)?.check(header, issuer, key_id, now)
}

/// A payload that is a JSON object.
#[derive(Debug)]
pub(crate) struct Claims<'p>(Members<'p>);

impl<'p> Claims<'p> {
    pub(crate) fn parse(payload: &'p [u8]) -> Result<Self, CredentialFault> {
        Members::parse(payload).map(Self).ok_or(CredentialFault::Malformed)
    }

    /// `iss`, if it is a string.
    pub(crate) fn issuer(&self) -> Option<&str> {
        self.0.get("iss").and_then(Json::text)
    }

    pub(crate) fn check(
        &self,
        header: &JwsHeader,
        issuer: &IssuerRules,
        key_id: Option<&str>,
        now: Timestamp,
    ) -> Result<Identity, CredentialFault> {
        self.check_issuer(issuer)?;
        check_typ(header, issuer)?;
        let identity = self.identity(issuer, key_id)?;
        issuer.required_claims.iter().try_for_each(|claim| self.check_required(*claim))?;
        self.check_audience(issuer)?;
        self.check_token_type()?;
        self.check_scope(issuer)?;
        check_lifetime(identity.issued_at, identity.expires_at, issuer)?;
        check_started(Some(identity.issued_at), issuer, now)?;
        check_started(self.moment("nbf")?, issuer, now)?;
        check_not_expired(identity.expires_at, issuer, now)?;
        Ok(identity)
    }

    fn check_issuer(&self, issuer: &IssuerRules) -> Result<(), CredentialFault> {
        if self.issuer() == Some(&*issuer.issuer) { Ok(()) } else { Err(CredentialFault::IssuerMismatch) }
    }

    fn identity(&self, issuer: &IssuerRules, key_id: Option<&str>) -> Result<Identity, CredentialFault> {
        Ok(Identity {
            issuer: issuer.name.clone(),
            subject: self.required_text("sub")?,
            user_id: self.required_text("user_id")?,
            email: self.required_text("email")?,
            customer_id: self.optional_text("customer_id")?,
            agent_id: self.optional_text("agent_id")?,
            governor_agent_id: self.optional_text("governor_agent_id")?,
            roles: self.roles()?,
            tier: self.optional_text("tier")?,
            trial: self.trial(issuer)?,
            token_id: self.optional_text("jti")?,
            token_version: self.token_version()?,
            key_id: key_id.map(Into::into),
            issued_at: self.required_moment("iat")?,
            expires_at: self.required_moment("exp")?,
        })
    }

    fn required_text(&self, name: &'static str) -> Result<Box<str>, CredentialFault> {
        let text = self.0.get(name).and_then(Json::text).filter(|text| is_plain(text));
        text.map(Into::into).ok_or(CredentialFault::ClaimMissing(name))
    }

    /// `null` and `""` count as absent, as they did in the original.
    fn optional_text(&self, name: &'static str) -> Result<Option<Box<str>>, CredentialFault> {
        match self.0.present(name).map(Json::text) {
            None | Some(Some("")) => Ok(None),
            Some(Some(text)) if is_plain(text) => Ok(Some(text.into())),
            Some(_) => Err(CredentialFault::ClaimMissing(name)),
        }
    }

    /// Roles are joined by commas for the backend, so a comma inside one would add another.
    fn roles(&self) -> Result<Vec<Box<str>>, CredentialFault> {
        let fault = CredentialFault::ClaimMissing("roles");
        let Some(Json::Array(roles)) = self.0.get("roles") else {
            return Err(fault);
        };
        if roles.is_empty() || roles.len() > ROLES_MAX {
            return Err(fault);
        }
        let role = |role: &Json<'_>| {
            let text = role.text().filter(|text| is_plain(text) && !text.contains(','));
            text.map(Into::into).ok_or(fault)
        };
        roles.iter().map(role).collect()
    }

    fn token_version(&self) -> Result<Option<u64>, CredentialFault> {
        match self.0.present("token_version") {
            None => Ok(None),
            Some(Json::Integer(version)) if *version >= 0 => Ok(Some(version.unsigned_abs())),
            Some(_) => Err(CredentialFault::ClaimMissing("token_version")),
        }
    }

    fn trial(&self, issuer: &IssuerRules) -> Result<Trial, CredentialFault> {
        let until = match self.0.present("trial_mode") {
            None | Some(Json::Bool(false)) => return Ok(Trial::No),
            Some(Json::Bool(true)) if issuer.trials == TrialTokens::Refuse => return Err(CredentialFault::TrialRefused),
            Some(Json::Bool(true)) => self.0.get("trial_expires_at"),
            Some(_) => None,
        };
        let until = match until {
            Some(Json::Text(text)) => rfc3339::parse(text),
            Some(number) => moment(number),
            None => None,
        };
        until.map(Trial::Until).ok_or(CredentialFault::TrialClaimsInvalid)
    }

    /// NumericDate (RFC 7519 §2): a number, never a string.
    fn moment(&self, name: &'static str) -> Result<Option<Timestamp>, CredentialFault> {
        match self.0.present(name) {
            None => Ok(None),
            Some(value) => moment(value).map(Some).ok_or(CredentialFault::ClaimMissing(name)),
        }
    }

    fn required_moment(&self, name: &'static str) -> Result<Timestamp, CredentialFault> {
        self.moment(name)?.ok_or(CredentialFault::ClaimMissing(name))
    }

    fn check_required(&self, claim: OptionalClaim) -> Result<(), CredentialFault> {
        match self.0.present(claim.name()) {
            Some(value) if value.text() != Some("") => Ok(()),
            Some(_) | None => Err(CredentialFault::ClaimMissing(claim.name())),
        }
    }

    fn check_audience(&self, issuer: &IssuerRules) -> Result<(), CredentialFault> {
        let ours = |audience: &str| issuer.audiences.iter().any(|known| **known == *audience);
        let addressed = match self.0.get("aud") {
            None => issuer.audiences.is_empty(),
            Some(Json::Text(audience)) => ours(audience),
            Some(Json::Array(audiences)) => {
                audiences.iter().all(|audience| audience.text().is_some()) && audiences.iter().filter_map(Json::text).any(ours)
            }
            Some(_) => false,
        };
        if addressed { Ok(()) } else { Err(CredentialFault::AudienceMismatch) }
    }

    /// Refresh tokens carry the same claims as access tokens; only this one says what they are.
    fn check_token_type(&self) -> Result<(), CredentialFault> {
        let access = self.0.present("token_type").is_none_or(|kind| kind.text() == Some("access"));
        if access { Ok(()) } else { Err(CredentialFault::TokenTypeRefused) }
    }

    /// And so do tokens for one purpose.
    fn check_scope(&self, issuer: &IssuerRules) -> Result<(), CredentialFault> {
        let known = |scope: &str| issuer.scopes.iter().any(|known| **known == *scope);
        let scoped = match self.0.present("scope") {
            None => true,
            Some(Json::Text(scopes)) => scopes.split(' ').filter(|scope| !scope.is_empty()).all(known),
            Some(_) => false,
        };
        if scoped { Ok(()) } else { Err(CredentialFault::TokenTypeRefused) }
    }
}

fn check_lifetime(issued_at: Timestamp, expires_at: Timestamp, issuer: &IssuerRules) -> Result<(), CredentialFault> {
    if expires_at <= issued_at {
        return Err(CredentialFault::Malformed);
    }
    let lifetime: Duration = expires_at.since(issued_at);
    if lifetime > issuer.lifetime_max { Err(CredentialFault::LifetimeTooLong) } else { Ok(()) }
}

fn check_started(from: Option<Timestamp>, issuer: &IssuerRules, now: Timestamp) -> Result<(), CredentialFault> {
    let latest = now.plus(issuer.skew);
    if from.is_some_and(|from| from > latest) { Err(CredentialFault::NotYetValid) } else { Ok(()) }
}

fn check_not_expired(expires_at: Timestamp, issuer: &IssuerRules, now: Timestamp) -> Result<(), CredentialFault> {
    if expires_at.plus(issuer.skew) <= now { Err(CredentialFault::Expired) } else { Ok(()) }
}

/// RFC 7515 §4.1.9: a media type, the prefix `application/` optional, compared without regard to case.
fn check_typ(header: &JwsHeader, issuer: &IssuerRules) -> Result<(), CredentialFault> {
    let accepted = match header.typ.as_deref() {
        None => issuer.allow_missing_typ,
        Some(typ) => issuer.token_types.iter().any(|known| subtype(known).eq_ignore_ascii_case(subtype(typ))),
    };
    if accepted { Ok(()) } else { Err(CredentialFault::TokenTypeRefused) }
}

fn subtype(media_type: &str) -> &str {
    match media_type.split_once('/') {
        Some((kind, rest)) if kind.eq_ignore_ascii_case("application") && !rest.contains('/') => rest,
        Some(_) | None => media_type,
    }
}

/// Not empty, not too long, and the same text after a header's value was trimmed.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= CLAIM_BYTES_MAX && text.trim() == text && !text.chars().any(char::is_control)
}

#[expect(clippy::cast_possible_truncation, reason = "in range: checked just before")]
#[expect(clippy::cast_precision_loss, reason = "the bound is below 2^53")]
fn moment(value: &Json<'_>) -> Option<Timestamp> {
    match value {
        Json::Integer(seconds) if (0..=SECONDS_MAX).contains(seconds) => Some(Timestamp::from_seconds(*seconds)),
        Json::Decimal(seconds) if (0.0..=SECONDS_MAX as f64).contains(seconds) => {
            Some(Timestamp::from_micros((seconds * 1_000_000.0) as i64))
        }
        Json::Null | Json::Bool(_) | Json::Integer(_) | Json::Decimal(_) | Json::Text(_) | Json::Array(_) | Json::Object(_) => None,
    }
}

#[cfg(test)]
mod tests;
