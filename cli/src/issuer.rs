//! Issuers of the local stack: fresh keys on every run, and the private halves that tests sign with.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jwt_simple::algorithms::{ES256KeyPair, Ed25519KeyPair, RS256KeyPair};
use serde::{Deserialize, Serialize};

use crate::development::{DevelopmentMark, verification_key};

const RSA_BITS: usize = 2048;

/// How an issuer signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
    /// HMAC with SHA-256.
    HS256,
}

/// One issuer as `state.json` shows it: everything that is needed to sign in its name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IssuerState {
    /// The `iss` claim.
    pub issuer: String,
    /// The `alg` header.
    pub algorithm: Algorithm,
    /// The `kid` header.
    pub kid: String,
    /// The `aud` claim, where the issuer uses one.
    pub audience: Option<String>,
    /// The private key, for the asymmetric algorithms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key_pem: Option<String>,
    /// The shared secret, for HS256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_base64url: Option<String>,
    /// Says that the key was made for a local stack. Nothing is signed with a key without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub development: Option<DevelopmentMark>,
}

/// A key could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a key for issuer `{issuer}`: {reason}")]
pub struct GenerateError {
    issuer: &'static str,
    reason: String,
}

/// A new issuer and the file that its verifier reads.
#[derive(Debug)]
pub(crate) struct Generated {
    pub(crate) state: IssuerState,
    pub(crate) file: String,
    pub(crate) content: String,
}

/// Which issuer to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blueprint {
    pub(crate) issuer: &'static str,
    pub(crate) algorithm: Algorithm,
    pub(crate) kid: &'static str,
    pub(crate) audience: Option<&'static str>,
}

impl Blueprint {
    pub(crate) fn generate(self, run: &str) -> Result<Generated, GenerateError> {
        let (private, secret, public) = self.keys().map_err(|reason| GenerateError { issuer: self.issuer, reason })?;
        let (file, content) = match (&secret, public) {
            (Some(secret), _) => (format!("{}.secret", self.kid), secret.clone()),
            (None, public) => (format!("{}.public.pem", self.kid), public),
        };
        let mut state = IssuerState {
            issuer: self.issuer.to_owned(),
            algorithm: self.algorithm,
            kid: self.kid.to_owned(),
            audience: self.audience.map(str::to_owned),
            private_key_pem: private,
            secret_base64url: secret,
            development: None,
        };
        let key = verification_key(&state).map_err(|error| GenerateError { issuer: self.issuer, reason: error.to_string() })?;
        state.development = Some(DevelopmentMark::of(&key, run));
        Ok(Generated { state, file, content })
    }

    /// Private key, shared secret, public key.
    fn keys(self) -> Result<(Option<String>, Option<String>, String), String> {
        let text = |error: jwt_simple::Error| error.to_string();
        Ok(match self.algorithm {
            Algorithm::RS256 => {
                let pair = RS256KeyPair::generate(RSA_BITS).map_err(text)?;
                (Some(pair.to_pem().map_err(text)?), None, pair.public_key().to_pem().map_err(text)?)
            }
            Algorithm::ES256 => {
                let pair = ES256KeyPair::generate();
                (Some(pair.to_pem().map_err(text)?), None, pair.public_key().to_pem().map_err(text)?)
            }
            Algorithm::EdDSA => {
                let pair = Ed25519KeyPair::generate();
                (Some(pair.to_pem()), None, pair.public_key().to_pem())
            }
            Algorithm::HS256 => (None, Some(random_secret().map_err(|error| error.to_string())?), String::new()),
        })
    }
}

/// 32 random bytes as base64url.
pub(crate) fn random_secret() -> Result<String, getrandom::Error> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
