//! Names for users that tell who is the same and not who it is: keyed hashes. Without the key nobody finds the subject to a hash by
//! trying all subjects.

use crate::hex::hex;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What every such name begins with: it tells how it was made.
pub const PREFIX: &str = "h1:";

/// The shortest key.
pub const KEY_BYTES_MIN: usize = 32;

/// The key of the hashes. Never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PseudonymKey(#[serde(with = "serde_bytes")] Vec<u8>);

/// A key that is too short to keep anything secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key is shorter than {KEY_BYTES_MIN} bytes")]
pub struct KeyTooShort;

impl PseudonymKey {
    /// The key with these bytes.
    ///
    /// # Errors
    /// They are too few.
    pub fn new(bytes: Vec<u8>) -> Result<Self, KeyTooShort> {
        if bytes.len() < KEY_BYTES_MIN { Err(KeyTooShort) } else { Ok(Self(bytes)) }
    }

    /// The name in the place of `text`: `h1:` and HMAC-SHA-256 (RFC 2104) of its bytes, in hexadecimal. The same for equal texts
    /// under equal keys, whoever makes it.
    #[must_use]
    pub fn of(&self, text: &str) -> String {
        format!("{PREFIX}{}", hex(&hmac_sha256::HMAC::mac(text.as_bytes(), &self.0)))
    }

    /// Its bytes, to tell one key from another.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PseudonymKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PseudonymKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers are from `openssl dgst -sha256 -hmac`.
    #[test]
    fn a_name_is_an_hmac_that_anybody_with_the_key_can_make() {
        let key = PseudonymKey::new(b"0123456789abcdef0123456789abcdef".to_vec()).unwrap();
        assert_eq!(key.of("user-1"), format!("h1:{OPENSSL}"));
        assert_ne!(key.of("user-1"), key.of("user-2"));
        let other = PseudonymKey::new(b"0123456789abcdef0123456789abcdeg".to_vec()).unwrap();
        assert_ne!(key.of("user-1"), other.of("user-1"));
        assert_eq!(format!("{key:?}"), "PseudonymKey");
    }

    #[test]
    fn a_short_key_is_none() {
        assert_eq!(PseudonymKey::new(vec![1; 31]), Err(KeyTooShort));
        assert!(PseudonymKey::new(vec![1; 32]).is_ok());
    }

    const OPENSSL: &str = "813a2f79241b5fddb4dd0b6cdab3ce807c6a46dfd59f772580bf84b2df5e98dc";
}
