//! The name that a key has wherever it is (RFC 7638): SHA-256 over the required members of its JWK, in their one order.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rsa::traits::PublicKeyParts as _;

use crate::key::{KeyMaterial, VerificationKey};

impl VerificationKey {
    /// The SHA-256 thumbprint in base64url. A secret's is as good as the secret for telling whether a guess is right: it
    /// belongs where the secret may be.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let jwk = match self.material() {
            KeyMaterial::Secret { secret } => format!(r#"{{"k":"{}","kty":"oct"}}"#, text(secret)),
            KeyMaterial::Rsa { modulus, key, .. } => {
                format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, text(&key.e().to_bytes_be()), text(modulus))
            }
            KeyMaterial::P256 { spki_der, .. } => ec("P-256", spki_der.last_chunk::<64>()),
            KeyMaterial::P384 { spki_der, .. } => ec("P-384", spki_der.last_chunk::<96>()),
            KeyMaterial::Ed25519 { key, .. } => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, text(key.as_slice())),
        };
        text(&hmac_sha256::Hash::hash(jwk.as_bytes()))
    }
}

/// A checked key ends with `x ‖ y`.
fn ec<const LENGTH: usize>(curve: &str, point: Option<&[u8; LENGTH]>) -> String {
    let (x, y) = point.map(|point| point.split_at(LENGTH / 2)).unwrap_or_default();
    format!(r#"{{"crv":"{curve}","kty":"EC","x":"{}","y":"{}"}}"#, URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(jwk: &serde_json::Value) -> String {
        VerificationKey::from_jwk(jwk).unwrap().thumbprint()
    }

    #[test]
    fn is_that_of_rfc_7638_section_3_1() {
        let n = concat!(
            "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn6",
            "4tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n9",
            "1CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        );
        let jwk = json!({"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"});
        assert_eq!(of(&jwk), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn is_that_of_rfc_8037_appendix_a_3() {
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        assert_eq!(of(&jwk), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn differs_for_every_other_key_and_is_the_same_for_every_other_id() {
        let secret = |fill: u8, kid: &str| of(&json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode([fill; 32]), "kid": kid}));
        assert_eq!(secret(1, "a"), secret(1, "b"));
        assert_ne!(secret(1, "a"), secret(2, "a"));
        let (_, one) = crate::test_tokens::es256_pair(None);
        let (_, other) = crate::test_tokens::es256_pair(None);
        assert_ne!(one.thumbprint(), other.thumbprint());
    }
}
