//! A signer for every algorithm, by `jwt-simple`: another implementation than the one that verifies.

use std::sync::LazyLock;

use authn::{Algorithm, VerificationKey};
use jwt_simple::algorithms::*;
use jwt_simple::claims::Claims;
use jwt_simple::prelude::Duration;

/// Made once per run: no private key stands in the repository.
static RSA: LazyLock<String> = LazyLock::new(|| RS256KeyPair::generate(2048).unwrap().to_pem().unwrap());
static P256: LazyLock<String> = LazyLock::new(|| ES256KeyPair::generate().to_pem().unwrap());
static P384: LazyLock<String> = LazyLock::new(|| ES384KeyPair::generate().to_pem().unwrap());
static ED25519: LazyLock<String> = LazyLock::new(|| Ed25519KeyPair::generate().to_pem());

pub(crate) const SECRET: [u8; 64] = [3; 64];

/// A token that the key verifies.
pub(crate) struct Signed {
    pub(crate) algorithm: Algorithm,
    pub(crate) token: String,
    pub(crate) key: VerificationKey,
}

/// One for each algorithm.
pub(crate) fn all() -> Vec<Signed> {
    Algorithm::ALL.into_iter().map(signed).collect()
}

pub(crate) fn signed(algorithm: Algorithm) -> Signed {
    let claims = Claims::create(Duration::from_mins(5)).with_subject("u-1");
    let (rsa, p256, p384, ed25519) = (RSA.as_str(), P256.as_str(), P384.as_str(), ED25519.as_str());
    let token = match algorithm {
        Algorithm::Hs256 => HS256Key::from_bytes(&SECRET).authenticate(claims),
        Algorithm::Hs384 => HS384Key::from_bytes(&SECRET).authenticate(claims),
        Algorithm::Hs512 => HS512Key::from_bytes(&SECRET).authenticate(claims),
        Algorithm::Rs256 => RS256KeyPair::from_pem(rsa).unwrap().sign(claims),
        Algorithm::Rs384 => RS384KeyPair::from_pem(rsa).unwrap().sign(claims),
        Algorithm::Rs512 => RS512KeyPair::from_pem(rsa).unwrap().sign(claims),
        Algorithm::Ps256 => PS256KeyPair::from_pem(rsa).unwrap().sign(claims),
        Algorithm::Ps384 => PS384KeyPair::from_pem(rsa).unwrap().sign(claims),
        Algorithm::Ps512 => PS512KeyPair::from_pem(rsa).unwrap().sign(claims),
        Algorithm::Es256 => ES256KeyPair::from_pem(p256).unwrap().sign(claims),
        Algorithm::Es384 => ES384KeyPair::from_pem(p384).unwrap().sign(claims),
        Algorithm::EdDsa => Ed25519KeyPair::from_pem(ed25519).unwrap().sign(claims),
    };
    Signed { algorithm, token: token.unwrap(), key: key(algorithm) }
}

/// The key for what [`signed`] signs.
pub(crate) fn key(algorithm: Algorithm) -> VerificationKey {
    match public_der(algorithm) {
        None => VerificationKey::from_secret(None, algorithm, &SECRET).unwrap(),
        Some(der) => VerificationKey::from_public_key(None, algorithm, &der).unwrap(),
    }
}

/// SubjectPublicKeyInfo; an HMAC has none.
pub(crate) fn public_der(algorithm: Algorithm) -> Option<Vec<u8>> {
    match algorithm {
        Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => None,
        Algorithm::Rs256 | Algorithm::Rs384 | Algorithm::Rs512 | Algorithm::Ps256 | Algorithm::Ps384 | Algorithm::Ps512 => {
            Some(RS256KeyPair::from_pem(&RSA).unwrap().public_key().to_der().unwrap())
        }
        Algorithm::Es256 => Some(ES256KeyPair::from_pem(&P256).unwrap().key_pair().public_key().to_der().unwrap()),
        Algorithm::Es384 => Some(ES384KeyPair::from_pem(&P384).unwrap().key_pair().public_key().to_der().unwrap()),
        Algorithm::EdDsa => Some(Ed25519KeyPair::from_pem(&ED25519).unwrap().key_pair().public_key().to_der()),
    }
}
