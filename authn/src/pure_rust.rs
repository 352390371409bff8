//! Signatures without help from a host, by the crates that `jwt-simple` builds on. Slower than Envoy's BoringSSL by a
//! factor of ten or more; the only way for HMAC, RSASSA-PSS and EdDSA, which Envoy does not offer.

use p256::ecdsa::signature::hazmat::PrehashVerifier;
use rsa::{Pkcs1v15Sign, Pss, RsaPublicKey};

use crate::algorithm::{Algorithm, Family, HashFunction};
use crate::jws::{SignatureVerifier, Verified};
use crate::key::{KeyMaterial, VerificationKey};

/// `DigestInfo` up to the digest (RFC 8017 §9.2 note 1); the object identifiers differ in their last byte only.
const fn digest_info(hash: HashFunction) -> [u8; 19] {
    let (total, oid, digest) = match hash {
        HashFunction::Sha256 => (0x31, 1, 0x20),
        HashFunction::Sha384 => (0x41, 2, 0x30),
        HashFunction::Sha512 => (0x51, 3, 0x40),
    };
    [0x30, total, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, oid, 0x05, 0x00, 0x04, digest]
}

/// Verifies every algorithm in this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct PureRust;

impl SignatureVerifier for PureRust {
    fn verify(&mut self, key: &VerificationKey, signing_input: &[u8], signature: &[u8]) -> Verified {
        let verified = match key.material() {
            KeyMaterial::Secret { secret } => is_mac(key.algorithm.hash(), secret, signing_input, signature),
            KeyMaterial::Rsa { key: public, .. } => is_rsa(key.algorithm, public, signing_input, signature),
            KeyMaterial::P256 { key, .. } => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_prehash(&hmac_sha256::Hash::hash(signing_input), &signature).is_ok()),
            KeyMaterial::P384 { key, .. } => p384::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_prehash(&hmac_sha512::sha384::Hash::hash(signing_input), &signature).is_ok()),
            KeyMaterial::Ed25519 { key, .. } => {
                ed25519_compact::Signature::from_slice(signature).is_ok_and(|signature| key.verify(signing_input, &signature).is_ok())
            }
        };
        if verified { Verified::Yes } else { Verified::No }
    }
}

/// Compares in constant time.
fn is_mac(hash: HashFunction, secret: &[u8], text: &[u8], mac: &[u8]) -> bool {
    match hash {
        HashFunction::Sha256 => mac.try_into().is_ok_and(|mac| hmac_sha256::HMAC::verify(text, secret, mac)),
        HashFunction::Sha384 => mac.try_into().is_ok_and(|mac| hmac_sha512::sha384::HMAC::verify(text, secret, mac)),
        HashFunction::Sha512 => mac.try_into().is_ok_and(|mac| hmac_sha512::HMAC::verify(text, secret, mac)),
    }
}

/// The salt of RSASSA-PSS is exactly as long as the hash (RFC 7518 §3.5), which is what [`Pss::new`] asks for.
fn is_rsa(algorithm: Algorithm, key: &RsaPublicKey, text: &[u8], signature: &[u8]) -> bool {
    let (digest, pss): (Vec<u8>, fn() -> Pss) = match algorithm.hash() {
        HashFunction::Sha256 => (hmac_sha256::Hash::hash(text).into(), Pss::new::<hmac_sha256::Hash>),
        HashFunction::Sha384 => (hmac_sha512::sha384::Hash::hash(text).into(), Pss::new::<hmac_sha512::sha384::Hash>),
        HashFunction::Sha512 => (hmac_sha512::Hash::hash(text).into(), Pss::new::<hmac_sha512::Hash>),
    };
    match algorithm.family() {
        Family::RsaPkcs1 => {
            let padding = Pkcs1v15Sign { hash_len: Some(digest.len()), prefix: Box::new(digest_info(algorithm.hash())) };
            key.verify(padding, &digest, signature).is_ok()
        }
        Family::RsaPss => key.verify(pss(), &digest, signature).is_ok(),
        Family::Hmac | Family::Ecdsa | Family::Ed25519 => false,
    }
}
