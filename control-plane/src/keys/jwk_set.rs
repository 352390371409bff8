//! From the bytes of a JWK set (RFC 7517 §5) to keys that may be used. The only place that knows how.

use authn::{Algorithm, VerificationKey};
use serde_json::Value;

/// The most keys that a set may have, those that nobody here can use included.
const KEYS_MAX: usize = 50;

/// Why a set is refused as a whole.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSet {
    /// Not JSON.
    #[error("the set is not JSON")]
    Json(#[source] serde_json::Error),
    /// Not an object with an array `keys`.
    #[error("the set has no array `keys`")]
    NoKeys,
    /// Too many.
    #[error("the set has {0} keys, more than {KEYS_MAX}")]
    TooMany(usize),
    /// Nothing of it is of use.
    #[error("the set has no key that the issuer's algorithms can use")]
    NoneUsable,
}

/// The keys of a set that verify tokens by one of `algorithms`. Keys of other kinds, for other purposes or with damages
/// are left out, as RFC 7517 §5 asks; so are shared secrets, which do not belong in public.
///
/// # Errors
/// The set as a whole is not usable.
pub fn parse(bytes: &[u8], algorithms: &[Algorithm]) -> Result<Vec<VerificationKey>, InvalidSet> {
    let set: Value = serde_json::from_slice(bytes).map_err(InvalidSet::Json)?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or(InvalidSet::NoKeys)?;
    if keys.len() > KEYS_MAX {
        return Err(InvalidSet::TooMany(keys.len()));
    }
    // To be replaced by `authn::JwkSet::parse(bytes, algorithms)`, once that exists; the checks around it stay.
    let read = keys.iter().filter_map(|jwk| VerificationKey::from_jwk(jwk).ok());
    let usable = distinct(read.filter(|key| key.spki_der().is_some() && algorithms.contains(&key.algorithm)));
    if usable.is_empty() { Err(InvalidSet::NoneUsable) } else { Ok(usable) }
}

/// Of keys that a token could not choose between only the first: with both, the issuer would not be valid.
fn distinct(keys: impl Iterator<Item = VerificationKey>) -> Vec<VerificationKey> {
    let mut distinct: Vec<VerificationKey> = Vec::new();
    for key in keys {
        let same = |other: &VerificationKey| other.kid == key.kid && (key.kid.is_some() || other.algorithm == key.algorithm);
        if !distinct.iter().any(same) {
            distinct.push(key);
        }
    }
    distinct
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const X: &str = "04N0xi21hshyvBp7I167sbE_bXqyqkAPfefdklMO7wY";
    const Y: &str = "UI8exy-C06a7DUnjIdENkxeFtHM4-l_41LqEw9nVgmw";

    fn ec(kid: &str) -> Value {
        json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "kid": kid})
    }

    fn kids(set: &Value) -> Result<Vec<String>, String> {
        let keys = parse(set.to_string().as_bytes(), &[Algorithm::Es256]).map_err(|error| error.to_string())?;
        Ok(keys.into_iter().filter_map(|key| key.kid.map(Into::into)).collect())
    }

    #[test]
    fn keys_of_no_use_are_left_out() {
        let set = json!({"keys": [
            ec("a"),
            {"kty": "oct", "k": "AAAA", "kid": "secret"},
            {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "another-algorithm"},
            {"kty": "EC", "crv": "P-256", "x": X, "y": Y, "kid": "b", "use": "enc"},
            ec("c"), ec("a"), "nonsense",
        ]});
        assert_eq!(kids(&set).unwrap(), ["a", "c"]);
    }

    #[test]
    fn a_set_as_a_whole_may_be_refused() {
        let fifty: Vec<Value> = (0..50).map(|number| ec(&number.to_string())).collect();
        assert_eq!(kids(&json!({ "keys": fifty })).unwrap().len(), 50);
        let fifty_one: Vec<Value> = (0..51).map(|number| ec(&number.to_string())).collect();
        assert_eq!(kids(&json!({ "keys": fifty_one })).unwrap_err(), "the set has 51 keys, more than 50");
        assert_eq!(kids(&json!({ "keys": [] })).unwrap_err(), "the set has no key that the issuer's algorithms can use");
        assert_eq!(kids(&json!([])).unwrap_err(), "the set has no array `keys`");
        assert!(parse(b"<html>", &[Algorithm::Es256]).is_err());
    }
}
