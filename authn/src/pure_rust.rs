//! Signatures without help from a host, by the crates that `jwt-simple` builds on. Slower than Envoy's BoringSSL by a
//! factor of ten or more; the only way for HS256 and EdDSA, which Envoy does not offer.

use hmac_sha256::{HMAC, Hash};
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use rsa::Pkcs1v15Sign;

use crate::jws::{SignatureVerifier, Verified};
use crate::key::{KeyMaterial, VerificationKey};

/// `DigestInfo` of SHA-256 up to the digest (RFC 8017 §9.2 note 1).
const SHA256_DIGEST_INFO: [u8; 19] =
    [0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20];

/// Verifies all four algorithms in this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct PureRust;

impl SignatureVerifier for PureRust {
    fn verify(&mut self, key: &VerificationKey, signing_input: &[u8], signature: &[u8]) -> Verified {
        let verified = match key.material() {
            // Compares in constant time.
            KeyMaterial::Hs256 { secret } => signature.try_into().is_ok_and(|signature| HMAC::verify(signing_input, secret, signature)),
            KeyMaterial::Rs256 { key, .. } => {
                let padding = Pkcs1v15Sign { hash_len: Some(32), prefix: Box::new(SHA256_DIGEST_INFO) };
                key.verify(padding, &Hash::hash(signing_input), signature).is_ok()
            }
            KeyMaterial::Es256 { key, .. } => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_prehash(&Hash::hash(signing_input), &signature).is_ok()),
            KeyMaterial::EdDsa { key, .. } => {
                ed25519_compact::Signature::from_slice(signature).is_ok_and(|signature| key.verify(signing_input, &signature).is_ok())
            }
        };
        if verified { Verified::Yes } else { Verified::No }
    }
}
