//! Keys from JSON Web Keys (RFC 7517, 7518 §6, 8037). What a member says about the key's purpose is obeyed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::algorithm::Algorithm;
use crate::key::{InvalidKey, VerificationKey};
use crate::spki::Spki;

/// Members of private keys (RFC 7518 §6.2.2, §6.3.2), and the one of a secret.
const PRIVATE_MEMBERS: [&str; 9] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"];

impl VerificationKey {
    /// A key from a JWK. Without `alg`, the one algorithm that we support for its type. Unknown members are ignored.
    ///
    /// # Errors
    /// If members are absent, malformed, contradictory or private, if the key is not for signatures, or if it is weak.
    pub fn from_jwk(jwk: &Value) -> Result<Self, InvalidKey> {
        let kid = match jwk.get("kid") {
            None => None,
            Some(kid) => Some(kid.as_str().ok_or(InvalidKey::JwkMember("kid"))?),
        };
        check_purpose(jwk)?;
        let algorithm = algorithm(jwk)?;
        if algorithm == Algorithm::Hs256 {
            return Self::from_secret(kid, algorithm, &decoded(jwk, "k")?);
        }
        if let Some(name) = PRIVATE_MEMBERS.into_iter().find(|name| jwk.get(name).is_some()) {
            return Err(InvalidKey::JwkPrivate(name));
        }
        match algorithm {
            Algorithm::Hs256 => Err(InvalidKey::JwkUnsupported),
            Algorithm::Rs256 => {
                let (modulus, exponent) = (number(jwk, "n")?, number(jwk, "e")?);
                Self::from_numbers(kid, algorithm, Spki::Rsa { modulus: &modulus, exponent: &exponent })
            }
            Algorithm::Es256 => {
                let (x, y) = (coordinate(jwk, "x")?, coordinate(jwk, "y")?);
                let mut point = [4; 65];
                for (byte, value) in point.iter_mut().skip(1).zip(x.into_iter().chain(y)) {
                    *byte = value;
                }
                Self::from_numbers(kid, algorithm, Spki::P256 { point: &point })
            }
            Algorithm::EdDsa => Self::from_numbers(kid, algorithm, Spki::Ed25519 { point: &coordinate(jwk, "x")? }),
            _ => Err(InvalidKey::JwkUnsupported),
        }
    }
}

fn text<'j>(jwk: &'j Value, name: &'static str) -> Result<Option<&'j str>, InvalidKey> {
    match jwk.get(name) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or(InvalidKey::JwkMember(name)),
    }
}

fn algorithm(jwk: &Value) -> Result<Algorithm, InvalidKey> {
    let by_type = match (text(jwk, "kty")?, text(jwk, "crv")?) {
        (Some("oct"), None) => Algorithm::Hs256,
        (Some("RSA"), None) => Algorithm::Rs256,
        (Some("EC"), Some("P-256")) => Algorithm::Es256,
        (Some("OKP"), Some("Ed25519")) => Algorithm::EdDsa,
        _ => return Err(InvalidKey::JwkUnsupported),
    };
    match text(jwk, "alg")? {
        None => Ok(by_type),
        Some(name) if Algorithm::from_jose_name(name) == Some(by_type) => Ok(by_type),
        Some(_) => Err(InvalidKey::JwkUnsupported),
    }
}

/// RFC 7517 §4.2, §4.3. A key that also does something else than signatures is refused: one key, one purpose.
fn check_purpose(jwk: &Value) -> Result<(), InvalidKey> {
    if text(jwk, "use")?.is_some_and(|purpose| purpose != "sig") {
        return Err(InvalidKey::JwkPurpose);
    }
    let Some(operations) = jwk.get("key_ops") else {
        return Ok(());
    };
    let operations = operations.as_array().ok_or(InvalidKey::JwkMember("key_ops"))?;
    let count = |name: &str| operations.iter().filter(|operation| operation.as_str() == Some(name)).count();
    match (count("verify"), count("sign")) {
        (1, signs @ 0..=1) if operations.len() == 1 + signs => Ok(()),
        _ => Err(InvalidKey::JwkPurpose),
    }
}

fn decoded(jwk: &Value, name: &'static str) -> Result<Vec<u8>, InvalidKey> {
    let value = text(jwk, name)?.ok_or(InvalidKey::JwkMember(name))?;
    URL_SAFE_NO_PAD.decode(value).map_err(|_| InvalidKey::JwkMember(name))
}

/// Base64urlUInt: the fewest bytes that hold the number (RFC 7518 §2).
fn number(jwk: &Value, name: &'static str) -> Result<Vec<u8>, InvalidKey> {
    decoded(jwk, name).and_then(|bytes| match bytes.first() {
        None | Some(0) => Err(InvalidKey::JwkMember(name)),
        Some(_) => Ok(bytes),
    })
}

/// Full length, leading zeros included (RFC 7518 §6.2.1.2).
fn coordinate(jwk: &Value, name: &'static str) -> Result<[u8; 32], InvalidKey> {
    decoded(jwk, name)?.try_into().map_err(|_| InvalidKey::JwkMember(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const X: &str = "04N0xi21hshyvBp7I167sbE_bXqyqkAPfefdklMO7wY";
    const Y: &str = "UI8exy-C06a7DUnjIdENkxeFtHM4-l_41LqEw9nVgmw";

    fn ec() -> Value {
        json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y})
    }

    fn with(mut jwk: Value, name: &str, value: Value) -> Result<VerificationKey, InvalidKey> {
        jwk[name] = value;
        VerificationKey::from_jwk(&jwk)
    }

    #[test]
    fn takes_the_algorithm_of_the_type_when_alg_is_absent() {
        assert_eq!(VerificationKey::from_jwk(&ec()).unwrap().algorithm, Algorithm::Es256);
        assert!(with(ec(), "alg", json!("ES256")).is_ok());
    }

    #[test]
    fn refuses_alg_crv_and_kty_that_contradict() {
        for alg in ["RS256", "HS256", "ES384", "none", ""] {
            assert_eq!(with(ec(), "alg", json!(alg)).unwrap_err(), InvalidKey::JwkUnsupported, "{alg}");
        }
        for crv in ["P-384", "secp256k1", "Ed25519"] {
            assert_eq!(with(ec(), "crv", json!(crv)).unwrap_err(), InvalidKey::JwkUnsupported, "{crv}");
        }
        assert_eq!(with(ec(), "kty", json!("RSA")).unwrap_err(), InvalidKey::JwkUnsupported);
        assert_eq!(with(ec(), "alg", json!(1)).unwrap_err(), InvalidKey::JwkMember("alg"));
    }

    #[test]
    fn refuses_a_private_member_in_a_public_key() {
        for name in PRIVATE_MEMBERS {
            assert_eq!(with(ec(), name, json!("AA")).unwrap_err(), InvalidKey::JwkPrivate(name));
        }
    }

    #[test]
    fn refuses_a_use_other_than_sig() {
        assert!(with(ec(), "use", json!("sig")).is_ok());
        assert_eq!(with(ec(), "use", json!("enc")).unwrap_err(), InvalidKey::JwkPurpose);
    }

    #[test]
    fn refuses_key_ops_that_are_not_for_signatures() {
        for good in [json!(["verify"]), json!(["sign", "verify"])] {
            assert!(with(ec(), "key_ops", good).is_ok());
        }
        for bad in [json!([]), json!(["sign"]), json!(["verify", "encrypt"]), json!(["verify", "verify"]), json!([1])] {
            assert_eq!(with(ec(), "key_ops", bad.clone()).unwrap_err(), InvalidKey::JwkPurpose, "{bad}");
        }
        assert_eq!(with(ec(), "key_ops", json!("verify")).unwrap_err(), InvalidKey::JwkMember("key_ops"));
    }

    #[test]
    fn refuses_a_coordinate_of_another_length_and_a_point_off_the_curve() {
        assert_eq!(with(ec(), "x", json!("AA")).unwrap_err(), InvalidKey::JwkMember("x"));
        assert_eq!(with(ec(), "x", json!(Y)).unwrap_err(), InvalidKey::Point);
    }

    #[test]
    fn refuses_a_number_with_leading_zeros() {
        let jwk = json!({"kty": "RSA", "n": "AAEB", "e": "AQAB"});
        assert_eq!(VerificationKey::from_jwk(&jwk).unwrap_err(), InvalidKey::JwkMember("n"));
    }

    #[test]
    fn refuses_a_short_secret() {
        let jwk = json!({"kty": "oct", "k": "AAAA"});
        assert_eq!(VerificationKey::from_jwk(&jwk).unwrap_err(), InvalidKey::SecretTooShort { bytes: 3 });
    }

    #[test]
    fn refuses_what_is_no_object() {
        assert_eq!(VerificationKey::from_jwk(&json!([])).unwrap_err(), InvalidKey::JwkUnsupported);
    }
}
