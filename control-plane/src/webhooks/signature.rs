//! How deliveries are signed: as Standard Webhooks (standardwebhooks.com) says, HMAC-SHA-256 over `id.timestamp.body`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// SHA-256 works on blocks of so many bytes.
const BLOCK: usize = 64;

/// A shorter key could be guessed.
const KEY_BYTES_MIN: usize = 16;

/// What other programs write before a key in base64.
const ENCODED: &[u8] = b"whsec_";

/// A key that signs. Nothing prints it.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "a key must not be printed")]
pub struct SigningKey(Vec<u8>);

/// A secret that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// `whsec_`, and then no base64.
    #[error("starts with `whsec_` and does not go on in base64")]
    NotBase64,
    /// Too short to be secret.
    #[error("is shorter than 16 bytes")]
    Short,
}

impl SigningKey {
    /// A secret's bytes as they are, or `whsec_` and the bytes in base64.
    ///
    /// # Errors
    /// It is no key.
    pub fn of(secret: &[u8]) -> Result<Self, InvalidKey> {
        let bytes = match secret.strip_prefix(ENCODED) {
            Some(encoded) => STANDARD.decode(encoded).map_err(|_quotes_it| InvalidKey::NotBase64)?,
            None => secret.to_vec(),
        };
        if bytes.len() < KEY_BYTES_MIN { Err(InvalidKey::Short) } else { Ok(Self(bytes)) }
    }

    /// The value of `webhook-signature`.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let timestamp = timestamp.to_string();
        let mac = hmac_sha256(&self.0, &[id.as_bytes(), b".", timestamp.as_bytes(), b".", body]);
        format!("v1,{}", STANDARD.encode(mac))
    }
}

/// RFC 2104 over SHA-256.
fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let key = if key.len() > BLOCK { Sha256::digest(key).to_vec() } else { key.to_vec() };
    let pad = |byte: u8| -> Vec<u8> { key.iter().copied().chain(std::iter::repeat(0)).take(BLOCK).map(|of_key| of_key ^ byte).collect() };
    let mut inner = Sha256::new_with_prefix(pad(0x36));
    parts.iter().for_each(|part| inner.update(part));
    Sha256::new_with_prefix(pad(0x5c)).chain_update(inner.finalize()).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::hex::hex;

    #[test]
    fn the_test_vectors_of_rfc_4231_hold() {
        for (key, text, mac) in [
            (vec![0x0b; 20], &b"Hi There"[..], "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (b"Jefe".to_vec(), b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
            (
                vec![0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ] {
            assert_eq!(hex(&hmac_sha256(&key, &[text])), mac);
        }
    }

    #[test]
    fn the_example_of_standard_webhooks_holds() {
        let key = SigningKey::of(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").ok().unwrap();
        let signature = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn what_cannot_be_a_key_is_refused() {
        assert_eq!(SigningKey::of(b"fifteen bytes..").err(), Some(InvalidKey::Short));
        assert_eq!(SigningKey::of(b"whsec_AAAA").err(), Some(InvalidKey::Short));
        assert_eq!(SigningKey::of(b"whsec_!!").err(), Some(InvalidKey::NotBase64));
        assert!(SigningKey::of(b"sixteen bytes...").is_ok());
    }
}
