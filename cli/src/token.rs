//! Tokens for tests, demos and people who try the stack: right ones, and ones that are wrong on purpose.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jwt_simple::algorithms::{
    ECDSAP256KeyPairLike, ES256KeyPair, Ed25519KeyPair, EdDSAKeyPairLike, HS256Key, MACLike, RS256KeyPair, RSAKeyPairLike,
};
use jwt_simple::claims::JWTClaims;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::development::{self, NotForDevelopment};
use crate::issuer::{Algorithm, IssuerState};

/// How long a token lasts where nothing else is said.
pub const LIFETIME_SECONDS: i64 = 3600;

/// What a token says. Everything that the issuer decides (`iss`, `aud`, algorithm, key id) comes from its `IssuerState`.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenSpec {
    /// `sub`.
    pub subject: String,
    /// `user_id`; a UUID made from the subject where left out.
    pub user_id: Option<String>,
    /// `email`.
    pub email: String,
    /// `roles`.
    pub roles: Vec<String>,
    /// `customer_id`.
    pub customer_id: Option<String>,
    /// `agent_id`.
    pub agent_id: Option<String>,
    /// `governor_agent_id`.
    pub governor_agent_id: Option<String>,
    /// `trial_mode: true` and `trial_expires_at`, as seconds since 1970; `None` is a paying user.
    pub trial_until: Option<i64>,
    /// `iat`, as seconds since 1970; now where left out.
    pub issued_at: Option<i64>,
    /// `exp` counted from `iat`; negative is expired before it was issued.
    pub lifetime_seconds: i64,
    /// More claims. They win over those above; `null` takes a claim away.
    pub extra: Map<String, Value>,
}

impl TokenSpec {
    /// A paying user with these roles, for an hour.
    #[must_use]
    pub fn new(subject: &str, roles: &[&str]) -> Self {
        Self {
            subject: subject.to_owned(),
            user_id: None,
            email: if subject.contains('@') { subject.to_owned() } else { format!("{subject}@example.com") },
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            customer_id: None,
            agent_id: None,
            governor_agent_id: None,
            trial_until: None,
            issued_at: None,
            lifetime_seconds: LIFETIME_SECONDS,
            extra: Map::new(),
        }
    }

    /// Belongs to this customer.
    #[must_use]
    pub fn customer(mut self, id: &str) -> Self {
        self.customer_id = Some(id.to_owned());
        self
    }

    /// Acts for this agent.
    #[must_use]
    pub fn agent(mut self, id: &str) -> Self {
        self.agent_id = Some(id.to_owned());
        self
    }

    /// Is a governor (with the role `admin`).
    #[must_use]
    pub fn governor(mut self, id: &str) -> Self {
        self.governor_agent_id = Some(id.to_owned());
        self
    }

    /// Is on trial until so many seconds from now; negative is an expired trial.
    #[must_use]
    pub fn trial_for(mut self, seconds: i64) -> Self {
        self.trial_until = Some(now().saturating_add(seconds));
        self
    }

    /// Expired ten minutes ago, after a life of an hour.
    #[must_use]
    pub fn expired(mut self) -> Self {
        self.issued_at = Some(now().saturating_sub(LIFETIME_SECONDS + 600));
        self.lifetime_seconds = LIFETIME_SECONDS;
        self
    }

    /// Lasts so many seconds.
    #[must_use]
    pub fn lasting(mut self, seconds: i64) -> Self {
        self.lifetime_seconds = seconds;
        self
    }

    /// Says this too; `null` takes a claim away.
    #[must_use]
    pub fn claim(mut self, name: &str, value: Value) -> Self {
        self.extra.insert(name.to_owned(), value);
        self
    }

    /// The claims as they are signed.
    ///
    /// # Errors
    /// When the end of the trial is not a date.
    pub fn claims(&self, issuer: &IssuerState) -> Result<Map<String, Value>, MintError> {
        let issued_at = self.issued_at.unwrap_or_else(now);
        let mut claims = Map::new();
        let mut put = |name: &str, value: Value| claims.insert(name.to_owned(), value);
        put("iss", json!(issuer.issuer));
        if let Some(audience) = &issuer.audience {
            put("aud", json!(audience));
        }
        put("sub", json!(self.subject));
        put("user_id", json!(self.user_id.clone().unwrap_or_else(|| user_id_of(&self.subject))));
        put("email", json!(self.email));
        put("roles", json!(self.roles));
        put("iat", json!(issued_at));
        put("exp", json!(issued_at.saturating_add(self.lifetime_seconds)));
        put("jti", json!(uuid::Uuid::new_v4()));
        put("trial_mode", json!(self.trial_until.is_some()));
        if let Some(until) = self.trial_until {
            put("trial_expires_at", json!(rfc3339(until)?));
        }
        let optional = [("customer_id", &self.customer_id), ("agent_id", &self.agent_id), ("governor_agent_id", &self.governor_agent_id)];
        for (name, value) in optional {
            if let Some(value) = value {
                put(name, json!(value));
            }
        }
        for (name, value) in &self.extra {
            if value.is_null() {
                claims.remove(name);
            } else {
                claims.insert(name.clone(), value.clone());
            }
        }
        Ok(claims)
    }
}

/// A token could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The private key or secret of the issuer is missing.
    #[error("issuer `{issuer}` has no key in this state file")]
    KeyMissing {
        /// Its name.
        issuer: String,
    },
    /// The key is there and unusable.
    #[error("the key of issuer `{issuer}` cannot sign: {reason}")]
    Key {
        /// Its name.
        issuer: String,
        /// What the signer said.
        reason: String,
    },
    /// It is not a development key.
    #[error("will not sign for issuer `{issuer}`")]
    NotForDevelopment {
        /// Its name.
        issuer: String,
        /// Why it is not.
        #[source]
        source: NotForDevelopment,
    },
    /// A time that no calendar has.
    #[error("`{seconds}` seconds since 1970 is not a date")]
    Time {
        /// The number that was given.
        seconds: i64,
    },
}

/// Signs a token in the name of an issuer, with a key that was made for a local stack and no other.
///
/// # Errors
/// When the issuer's key is missing or broken, or not marked as a development key.
pub fn mint(issuer: &IssuerState, spec: &TokenSpec) -> Result<String, MintError> {
    check_development(issuer)?;
    let claims = JWTClaims {
        issued_at: None,
        expires_at: None,
        invalid_before: None,
        issuer: None,
        subject: None,
        audiences: None,
        jwt_id: None,
        nonce: None,
        custom: spec.claims(issuer)?,
    };
    sign(issuer, claims)
}

fn check_development(issuer: &IssuerState) -> Result<(), MintError> {
    if issuer.private_key_pem.is_none() && issuer.secret_base64url.is_none() {
        return Err(MintError::KeyMissing { issuer: issuer.issuer.clone() });
    }
    development::check(issuer).map_err(|source| MintError::NotForDevelopment { issuer: issuer.issuer.clone(), source })
}

fn sign(issuer: &IssuerState, claims: JWTClaims<Map<String, Value>>) -> Result<String, MintError> {
    let unusable = |error: jwt_simple::Error| MintError::Key { issuer: issuer.issuer.clone(), reason: error.to_string() };
    let missing = || MintError::KeyMissing { issuer: issuer.issuer.clone() };
    let pem = || issuer.private_key_pem.as_deref().ok_or_else(missing);
    let kid = issuer.kid.as_str();
    let signed = match issuer.algorithm {
        Algorithm::RS256 => RS256KeyPair::from_pem(pem()?).map_err(unusable)?.with_key_id(kid).sign(claims),
        Algorithm::ES256 => ES256KeyPair::from_pem(pem()?).map_err(unusable)?.with_key_id(kid).sign(claims),
        Algorithm::EdDSA => Ed25519KeyPair::from_pem(pem()?).map_err(unusable)?.with_key_id(kid).sign(claims),
        Algorithm::HS256 => {
            let secret = issuer.secret_base64url.as_deref().ok_or_else(missing)?;
            let secret = URL_SAFE_NO_PAD
                .decode(secret)
                .map_err(|error| MintError::Key { issuer: issuer.issuer.clone(), reason: error.to_string() })?;
            HS256Key::from_bytes(&secret).with_key_id(kid).authenticate(claims)
        }
    };
    signed.map_err(unusable)
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// The same subject has the same user id on every run.
fn user_id_of(subject: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(subject.as_bytes()).into();
    let mut bytes = [0_u8; 16];
    for (to, from) in bytes.iter_mut().zip(digest) {
        *to = from;
    }
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

pub(crate) fn rfc3339(seconds: i64) -> Result<String, MintError> {
    OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|moment| moment.format(&Rfc3339).ok()).ok_or(MintError::Time { seconds })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuer::Blueprint;

    fn issuer(algorithm: Algorithm) -> IssuerState {
        let audience = Some("plant-gateway").filter(|_| algorithm != Algorithm::HS256);
        Blueprint { issuer: "test.waooaw.com", algorithm, kid: "test-1", audience }.generate("test-run").unwrap().state
    }

    fn part(token: &str, index: usize) -> Value {
        let part = token.split('.').nth(index).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[test]
    fn every_algorithm_signs() {
        for (algorithm, name) in
            [(Algorithm::RS256, "RS256"), (Algorithm::ES256, "ES256"), (Algorithm::EdDSA, "EdDSA"), (Algorithm::HS256, "HS256")]
        {
            let token = mint(&issuer(algorithm), &TokenSpec::new("ann", &["viewer"])).unwrap();
            assert_eq!(part(&token, 0), json!({"alg": name, "typ": "JWT", "kid": "test-1"}));
        }
    }

    #[test]
    fn claims_are_those_of_the_specification() {
        let spec = TokenSpec::new("ann", &["viewer", "admin"]).customer("c-1").trial_for(60).claim("email", Value::Null);
        let claims = part(&mint(&issuer(Algorithm::EdDSA), &spec).unwrap(), 1);
        let names: Vec<_> = claims.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = ["aud", "customer_id", "exp", "iat", "iss", "jti", "roles", "sub", "trial_expires_at", "trial_mode", "user_id"];
        assert_eq!(names, expected);
        assert_eq!(claims["aud"], "plant-gateway");
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), LIFETIME_SECONDS);
        assert!(claims["trial_expires_at"].as_str().unwrap().ends_with('Z'));
        assert_eq!(claims["user_id"], user_id_of("ann"));
    }

    #[test]
    fn has_no_audience_where_the_issuer_has_none() {
        let claims = part(&mint(&issuer(Algorithm::HS256), &TokenSpec::new("ann", &["user"])).unwrap(), 1);
        assert_eq!(claims.get("aud"), None);
    }

    #[test]
    fn expired_is_expired() {
        let claims = part(&mint(&issuer(Algorithm::EdDSA), &TokenSpec::new("ann", &["user"]).expired()).unwrap(), 1);
        assert!(claims["exp"].as_i64().unwrap() < now() - 300);
    }

    #[test]
    fn a_missing_key_is_named() {
        let mut issuer = issuer(Algorithm::EdDSA);
        issuer.private_key_pem = None;
        let error = mint(&issuer, &TokenSpec::new("ann", &[])).unwrap_err();
        assert_eq!(error.to_string(), "issuer `test.waooaw.com` has no key in this state file");
    }
}
