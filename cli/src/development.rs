//! Keys that were made for a local stack are marked as such, and the mark is bound to the key: tokens are minted with
//! marked keys only, so that nobody signs with a production key by pointing at the wrong file.

use authn::{InvalidKey, VerificationKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jwt_simple::algorithms::{ES256KeyPair, Ed25519KeyPair, RS256KeyPair};
use serde::{Deserialize, Serialize};

use crate::issuer::{Algorithm, IssuerState};
use crate::token::{now, rfc3339};

const MAKER: &str = "plant-gateway run";

/// Who made a key, when, and which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevelopmentMark {
    /// `plant-gateway run`.
    pub made_by: String,
    /// In the form of RFC 3339.
    pub made_at: String,
    /// A random id of the run that made it; all keys of one run have the same.
    pub run: String,
    /// SHA-256 thumbprint of the key (RFC 7638). A key that is put in the place of the one that was made has another.
    pub thumbprint: String,
}

/// A key may not be used to mint tokens.
#[derive(Debug, thiserror::Error)]
pub enum NotForDevelopment {
    /// It has no mark, as every production key.
    #[error("its key is not marked as a development key: tokens are minted only with keys that `plant-gateway run` made for a local stack")]
    Unmarked,
    /// It has the mark of another key.
    #[error(
        "its key is not the one that was made for this local stack: the development mark belongs to another key, so this may be a production key"
    )]
    OtherKey,
    /// What is no key cannot be the marked one.
    #[error("its key cannot be read")]
    Key(#[from] InvalidSigningKey),
}

/// A signing key has no usable public half.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSigningKey {
    /// Neither a private key nor a secret.
    #[error("there is no key")]
    Missing,
    /// Not a private key of the algorithm in PEM. The reason quotes nothing of it.
    #[error("not a private key of the algorithm in PEM")]
    Pem,
    /// Not base64url.
    #[error("the secret is not base64url")]
    Secret,
    /// The gateways would refuse it.
    #[error("the gateways refuse the key")]
    Refused(#[source] InvalidKey),
}

impl DevelopmentMark {
    pub(crate) fn of(key: &VerificationKey, run: &str) -> Self {
        Self { made_by: MAKER.to_owned(), made_at: rfc3339(now()).unwrap_or_default(), run: run.to_owned(), thumbprint: key.thumbprint() }
    }
}

/// Whether the issuer's key is the one that was made for a local stack.
///
/// # Errors
/// It is not, or it cannot be told.
pub fn check(issuer: &IssuerState) -> Result<(), NotForDevelopment> {
    let mark = issuer.development.as_ref().filter(|mark| mark.made_by == MAKER).ok_or(NotForDevelopment::Unmarked)?;
    if verification_key(issuer)?.thumbprint() == mark.thumbprint { Ok(()) } else { Err(NotForDevelopment::OtherKey) }
}

/// What verifies the tokens that the issuer signs.
pub(crate) fn verification_key(issuer: &IssuerState) -> Result<VerificationKey, InvalidSigningKey> {
    let kid = Some(issuer.kid.as_str());
    let pem = || issuer.private_key_pem.as_deref().ok_or(InvalidSigningKey::Missing);
    let unreadable = |_: jwt_simple::Error| InvalidSigningKey::Pem;
    let (algorithm, public) = match issuer.algorithm {
        Algorithm::RS256 => {
            (authn::Algorithm::Rs256, RS256KeyPair::from_pem(pem()?).and_then(|pair| pair.public_key().to_pem()).map_err(unreadable)?)
        }
        Algorithm::ES256 => {
            (authn::Algorithm::Es256, ES256KeyPair::from_pem(pem()?).and_then(|pair| pair.public_key().to_pem()).map_err(unreadable)?)
        }
        Algorithm::EdDSA => {
            (authn::Algorithm::EdDsa, Ed25519KeyPair::from_pem(pem()?).map(|pair| pair.public_key().to_pem()).map_err(unreadable)?)
        }
        Algorithm::HS256 => {
            let secret = issuer.secret_base64url.as_deref().ok_or(InvalidSigningKey::Missing)?;
            let secret = URL_SAFE_NO_PAD.decode(secret).map_err(|_| InvalidSigningKey::Secret)?;
            return VerificationKey::from_secret(kid, authn::Algorithm::Hs256, &secret).map_err(InvalidSigningKey::Refused);
        }
    };
    VerificationKey::from_public_key(kid, algorithm, public.as_bytes()).map_err(InvalidSigningKey::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuer::Blueprint;
    use crate::token::{MintError, TokenSpec, mint};

    const ALL: [Algorithm; 4] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA, Algorithm::HS256];

    fn made(algorithm: Algorithm) -> IssuerState {
        Blueprint { issuer: "test.waooaw.com", algorithm, kid: "test-1", audience: None }.generate("run-1").unwrap().state
    }

    fn refusal(issuer: &IssuerState) -> NotForDevelopment {
        match mint(issuer, &TokenSpec::new("ann", &["viewer"])) {
            Err(MintError::NotForDevelopment { source, .. }) => source,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn mints_with_the_key_that_was_made() {
        for algorithm in ALL {
            let issuer = made(algorithm);
            let mark = issuer.development.as_ref().unwrap();
            assert_eq!((mark.made_by.as_str(), mark.run.as_str(), mark.made_at.len()), (MAKER, "run-1", 20));
            assert!(mint(&issuer, &TokenSpec::new("ann", &["viewer"])).is_ok());
        }
    }

    #[test]
    fn refuses_a_key_without_the_mark() {
        for algorithm in ALL {
            let production = IssuerState { development: None, ..made(algorithm) };
            assert!(matches!(refusal(&production), NotForDevelopment::Unmarked));
        }
        let mut foreign = made(Algorithm::ES256);
        foreign.development.as_mut().unwrap().made_by = "somebody".to_owned();
        assert!(matches!(refusal(&foreign), NotForDevelopment::Unmarked));
    }

    #[test]
    fn refuses_a_key_in_the_place_of_the_marked_one() {
        for algorithm in ALL {
            let production = made(algorithm);
            let replaced = IssuerState {
                private_key_pem: production.private_key_pem,
                secret_base64url: production.secret_base64url,
                ..made(algorithm)
            };
            assert!(matches!(refusal(&replaced), NotForDevelopment::OtherKey));
        }
    }

    #[test]
    fn refuses_what_is_no_key_and_quotes_nothing_of_it() {
        let broken = IssuerState { private_key_pem: Some("hunter2".to_owned()), ..made(Algorithm::ES256) };
        let refusal = refusal(&broken);
        assert!(matches!(refusal, NotForDevelopment::Key(InvalidSigningKey::Pem)));
        assert!(!format!("{refusal:?} {refusal}").contains("hunter2"));
    }
}
