//! Keys from JSON Web Keys (RFC 7517, 7518 §6, 8037). What a member says about the key's purpose is obeyed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::algorithm::{Algorithm, Family};
use crate::key::{InvalidKey, VerificationKey};
use crate::spki::Spki;

/// Members of private keys (RFC 7518 §6.2.2, §6.3.2), and the one of a secret.
pub(crate) const PRIVATE_MEMBERS: [&str; 9] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"];

/// What `kty` and `crv` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyType {
    Secret,
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl KeyType {
    /// Nothing if the type is one that we do not support.
    pub(crate) fn of(jwk: &Value) -> Result<Option<Self>, InvalidKey> {
        Ok(match (text(jwk, "kty")?, text(jwk, "crv")?) {
            (Some("oct"), None) => Some(Self::Secret),
            (Some("RSA"), None) => Some(Self::Rsa),
            (Some("EC"), Some("P-256")) => Some(Self::P256),
            (Some("EC"), Some("P-384")) => Some(Self::P384),
            (Some("OKP"), Some("Ed25519")) => Some(Self::Ed25519),
            (None | Some(_), None | Some(_)) => None,
        })
    }

    /// Whether a key of the type can be used with the algorithm.
    pub(crate) const fn fits(self, algorithm: Algorithm) -> bool {
        match (self, algorithm.family()) {
            (Self::Secret, Family::Hmac) | (Self::Rsa, Family::RsaPkcs1 | Family::RsaPss) | (Self::Ed25519, Family::Ed25519) => true,
            (Self::P256, _) => matches!(algorithm, Algorithm::Es256),
            (Self::P384, _) => matches!(algorithm, Algorithm::Es384),
            (Self::Secret | Self::Rsa | Self::Ed25519, _) => false,
        }
    }

    const fn usual_algorithm(self) -> Algorithm {
        match self {
            Self::Secret => Algorithm::Hs256,
            Self::Rsa => Algorithm::Rs256,
            Self::P256 => Algorithm::Es256,
            Self::P384 => Algorithm::Es384,
            Self::Ed25519 => Algorithm::EdDsa,
        }
    }
}

impl VerificationKey {
    /// A key from a JWK. Without `alg` it is for RS256, HS256, or the one algorithm of its curve. Unknown members are ignored.
    ///
    /// # Errors
    /// If members are absent, malformed, contradictory or private, if the key is not for signatures, or if it is weak.
    pub fn from_jwk(jwk: &Value) -> Result<Self, InvalidKey> {
        check_purpose(jwk)?;
        let key_type = KeyType::of(jwk)?.ok_or(InvalidKey::JwkUnsupported)?;
        let algorithm = named_algorithm(jwk, key_type)?.unwrap_or(key_type.usual_algorithm());
        import(jwk, key_type, algorithm)
    }

    /// A key from a JWK, for this algorithm: its `alg`, if there is one, says the same.
    ///
    /// # Errors
    /// As [`VerificationKey::from_jwk`], and if the key is for another algorithm.
    pub fn from_jwk_for(jwk: &Value, algorithm: Algorithm) -> Result<Self, InvalidKey> {
        check_purpose(jwk)?;
        let key_type = KeyType::of(jwk)?.ok_or(InvalidKey::JwkUnsupported)?;
        match named_algorithm(jwk, key_type)? {
            Some(named) if named != algorithm => Err(InvalidKey::JwkOtherAlgorithm { named, wanted: algorithm }),
            Some(_) | None if key_type.fits(algorithm) => import(jwk, key_type, algorithm),
            Some(_) | None => Err(InvalidKey::OtherKeyType(algorithm)),
        }
    }
}

fn import(jwk: &Value, key_type: KeyType, algorithm: Algorithm) -> Result<VerificationKey, InvalidKey> {
    let kid = text(jwk, "kid")?;
    if key_type == KeyType::Secret {
        return VerificationKey::from_secret(kid, algorithm, &decoded(jwk, "k")?);
    }
    if let Some(name) = private_member(jwk) {
        return Err(InvalidKey::JwkPrivate(name));
    }
    let numbers = |numbers| VerificationKey::from_numbers(kid, algorithm, numbers);
    match key_type {
        KeyType::Secret => Err(InvalidKey::JwkUnsupported),
        KeyType::Rsa => numbers(Spki::Rsa { modulus: &number(jwk, "n")?, exponent: &number(jwk, "e")? }),
        KeyType::P256 => numbers(Spki::P256 { point: &point::<32, 65>(jwk)? }),
        KeyType::P384 => numbers(Spki::P384 { point: &point::<48, 97>(jwk)? }),
        KeyType::Ed25519 => numbers(Spki::Ed25519 { point: &coordinate(jwk, "x")? }),
    }
}

/// The first member that only a private key or a secret has.
pub(crate) fn private_member(jwk: &Value) -> Option<&'static str> {
    PRIVATE_MEMBERS.into_iter().find(|name| jwk.get(name).is_some())
}

pub(crate) fn text<'j>(jwk: &'j Value, name: &'static str) -> Result<Option<&'j str>, InvalidKey> {
    match jwk.get(name) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or(InvalidKey::JwkMember(name)),
    }
}

/// What `alg` says; it has to be possible for a key of the type.
fn named_algorithm(jwk: &Value, key_type: KeyType) -> Result<Option<Algorithm>, InvalidKey> {
    let Some(name) = text(jwk, "alg")? else {
        return Ok(None);
    };
    let algorithm = Algorithm::from_jose_name(name).filter(|algorithm| key_type.fits(*algorithm));
    algorithm.map(Some).ok_or(InvalidKey::JwkUnsupported)
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
fn coordinate<const LENGTH: usize>(jwk: &Value, name: &'static str) -> Result<[u8; LENGTH], InvalidKey> {
    decoded(jwk, name)?.try_into().map_err(|_| InvalidKey::JwkMember(name))
}

/// `04 ‖ x ‖ y`.
fn point<const LENGTH: usize, const POINT: usize>(jwk: &Value) -> Result<[u8; POINT], InvalidKey> {
    let (x, y) = (coordinate::<LENGTH>(jwk, "x")?, coordinate::<LENGTH>(jwk, "y")?);
    let mut point = [4; POINT];
    for (byte, value) in point.iter_mut().skip(1).zip(x.into_iter().chain(y)) {
        *byte = value;
    }
    Ok(point)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const X: &str = "04N0xi21hshyvBp7I167sbE_bXqyqkAPfefdklMO7wY";
    const Y: &str = "UI8exy-C06a7DUnjIdENkxeFtHM4-l_41LqEw9nVgmw";

    const RSA_N: &str = concat!(
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn6",
        "4tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n9",
        "1CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
    );

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
        for crv in ["P-521", "secp256k1", "Ed25519"] {
            assert_eq!(with(ec(), "crv", json!(crv)).unwrap_err(), InvalidKey::JwkUnsupported, "{crv}");
        }
        assert_eq!(with(ec(), "crv", json!("P-384")).unwrap_err(), InvalidKey::JwkMember("x"));
        assert_eq!(with(ec(), "kty", json!("RSA")).unwrap_err(), InvalidKey::JwkUnsupported);
        assert_eq!(with(ec(), "alg", json!(1)).unwrap_err(), InvalidKey::JwkMember("alg"));
    }

    #[test]
    fn takes_the_wanted_algorithm_when_alg_is_absent_and_no_other_when_it_is_there() {
        let rsa = json!({"kty": "RSA", "n": RSA_N, "e": "AQAB"});
        for algorithm in [Algorithm::Rs256, Algorithm::Rs512, Algorithm::Ps384] {
            assert_eq!(VerificationKey::from_jwk_for(&rsa, algorithm).unwrap().algorithm, algorithm);
            let mut named = rsa.clone();
            named["alg"] = json!(algorithm.name());
            assert_eq!(VerificationKey::from_jwk(&named).unwrap().algorithm, algorithm);
            assert!(VerificationKey::from_jwk_for(&named, algorithm).is_ok());
            let other = InvalidKey::JwkOtherAlgorithm { named: algorithm, wanted: Algorithm::Ps256 };
            assert_eq!(VerificationKey::from_jwk_for(&named, Algorithm::Ps256).unwrap_err(), other);
        }
        assert_eq!(VerificationKey::from_jwk(&rsa).unwrap().algorithm, Algorithm::Rs256);
        assert_eq!(VerificationKey::from_jwk_for(&rsa, Algorithm::Es256).unwrap_err(), InvalidKey::OtherKeyType(Algorithm::Es256));
        assert_eq!(VerificationKey::from_jwk_for(&ec(), Algorithm::Es384).unwrap_err(), InvalidKey::OtherKeyType(Algorithm::Es384));
    }

    #[test]
    fn a_key_fits_the_algorithms_of_its_type_only() {
        let fitting = |key_type: KeyType| Algorithm::ALL.into_iter().filter(|algorithm| key_type.fits(*algorithm)).count();
        let types = [KeyType::Secret, KeyType::Rsa, KeyType::P256, KeyType::P384, KeyType::Ed25519];
        assert_eq!(types.map(fitting), [3, 6, 1, 1, 1]);
        assert!(types.into_iter().all(|key_type| key_type.fits(key_type.usual_algorithm())));
    }

    #[test]
    fn refuses_a_secret_shorter_than_the_hash_of_its_algorithm() {
        for (alg, bytes_min) in [("HS256", 32), ("HS384", 48), ("HS512", 64)] {
            let secret = |bytes: usize| json!({"kty": "oct", "alg": alg, "k": URL_SAFE_NO_PAD.encode(vec![1; bytes])});
            assert!(VerificationKey::from_jwk(&secret(bytes_min)).is_ok());
            let short = InvalidKey::SecretTooShort { bytes: bytes_min - 1, bytes_min };
            assert_eq!(VerificationKey::from_jwk(&secret(bytes_min - 1)).unwrap_err(), short);
        }
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
        assert_eq!(VerificationKey::from_jwk(&jwk).unwrap_err(), InvalidKey::SecretTooShort { bytes: 3, bytes_min: 32 });
    }

    #[test]
    fn refuses_what_is_no_object() {
        assert_eq!(VerificationKey::from_jwk(&json!([])).unwrap_err(), InvalidKey::JwkUnsupported);
    }
}
