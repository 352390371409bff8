//! Sets of keys as issuers publish them (RFC 7517 §5). Whoever publishes a set may add keys for other purposes and of
//! other kinds, so those are left out; but a set with a fault in it is not used at all.

use core::fmt;

use serde_json::Value;

use crate::algorithm::Algorithm;
use crate::json::strict_json;
use crate::jwk::{KeyType, private_member, text};
use crate::key::{InvalidKey, VerificationKey, is_key_id};

const SET_BYTES_MAX: usize = 256 * 1024;
const KEYS_MAX: usize = 50;

/// The keys of one issuer's set that can be used.
#[derive(Clone, Debug)]
pub struct JwkSet {
    /// At least one.
    pub keys: Vec<VerificationKey>,
}

/// A key of a set, in errors: by place, and by id if it has a usable one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPlace {
    /// Counted from 0.
    pub index: usize,
    /// Its `kid`.
    pub kid: Option<Box<str>>,
}

impl fmt::Display for KeyPlace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kid {
            Some(kid) => write!(formatter, "keys[{}] (kid `{kid}`)", self.index),
            None => write!(formatter, "keys[{}]", self.index),
        }
    }
}

/// Why a set was refused. The texts name keys, never what is in them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJwkSet {
    /// Not read at all.
    #[error("the set has {bytes} bytes, more than {SET_BYTES_MAX}")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Not JSON, not an object, or a member name twice at any depth.
    #[error("the set is not one JSON object without duplicate member names")]
    Json,
    /// `keys` is absent or no array.
    #[error("the set has no array `keys`")]
    NoArray,
    /// More than anybody needs.
    #[error("the set has {count} keys, more than {KEYS_MAX}")]
    TooManyKeys {
        /// How many.
        count: usize,
    },
    /// A key of a kind that we support is malformed, weak, contradictory or private.
    #[error("{place}: the key is not usable")]
    Key {
        /// Which.
        place: KeyPlace,
        /// Why.
        #[source]
        source: InvalidKey,
    },
    /// Without `alg`, and none of the issuer's algorithms fits.
    #[error("{0}: the key has no `alg`, and none of the issuer's algorithms fits its type")]
    NoAlgorithmFits(KeyPlace),
    /// Without `alg`, and the issuer has several algorithms for keys of the type.
    #[error("{0}: the key has no `alg`, and more than one of the issuer's algorithms fits its type")]
    SeveralAlgorithmsFit(KeyPlace),
    /// Two keys with one id.
    #[error("{0}: another key has the same `kid`")]
    DuplicateKid(KeyPlace),
    /// Two keys that a token could not choose between.
    #[error("{place}: another key for {} has no `kid` either", .algorithm.name())]
    Indistinguishable {
        /// The second of them.
        place: KeyPlace,
        /// Their algorithm.
        algorithm: Algorithm,
    },
    /// One key under two ids or for two algorithms.
    #[error("{0}: the same key is in the set already, under another id or for another algorithm")]
    SameKey(KeyPlace),
    /// A secret beside public keys: one of the two is a mistake, and a dear one.
    #[error("{0}: symmetric and asymmetric keys in one set")]
    Mixed(KeyPlace),
    /// Nothing is left.
    #[error("no key of the set is for signatures by one of the issuer's algorithms")]
    NoUsableKey,
}

impl JwkSet {
    /// Reads a set for an issuer whose tokens may use `algorithms`.
    ///
    /// Keys that say by `use` or `key_ops` that they are for something else are left out, and so are keys of types and
    /// algorithms that we do not know or that are not in `algorithms`. A key without `alg` is for the only one that fits.
    ///
    /// # Errors
    /// The first fault of the set, or that no key is left.
    pub fn parse(bytes: &[u8], algorithms: &[Algorithm]) -> Result<Self, InvalidJwkSet> {
        let set = read(bytes)?;
        let jwks = set.get("keys").and_then(Value::as_array).ok_or(InvalidJwkSet::NoArray)?;
        if jwks.len() > KEYS_MAX {
            return Err(InvalidJwkSet::TooManyKeys { count: jwks.len() });
        }
        check_whole(jwks)?;
        let mut keys: Vec<VerificationKey> = Vec::new();
        for (index, jwk) in jwks.iter().enumerate() {
            let Some(key) = usable(index, jwk, algorithms)? else {
                continue;
            };
            if key.kid.is_none() && keys.iter().any(|other| other.kid.is_none() && other.algorithm == key.algorithm) {
                return Err(InvalidJwkSet::Indistinguishable { place: place(index, jwk), algorithm: key.algorithm });
            }
            if keys.iter().any(|other| other.is_same_key(&key)) {
                return Err(InvalidJwkSet::SameKey(place(index, jwk)));
            }
            keys.push(key);
        }
        if keys.is_empty() { Err(InvalidJwkSet::NoUsableKey) } else { Ok(Self { keys }) }
    }
}

fn read(bytes: &[u8]) -> Result<Value, InvalidJwkSet> {
    if bytes.len() > SET_BYTES_MAX {
        return Err(InvalidJwkSet::TooLarge { bytes: bytes.len() });
    }
    strict_json(bytes).ok_or(InvalidJwkSet::Json)
}

fn place(index: usize, jwk: &Value) -> KeyPlace {
    let kid = jwk.get("kid").and_then(Value::as_str).filter(|kid| is_key_id(kid));
    KeyPlace { index, kid: kid.map(Into::into) }
}

/// What holds for all keys of a set, also for those that are left out.
fn check_whole(jwks: &[Value]) -> Result<(), InvalidJwkSet> {
    let is_secret = |jwk: &Value| jwk.get("kty").and_then(Value::as_str) == Some("oct");
    for (index, jwk) in jwks.iter().enumerate() {
        let place = || place(index, jwk);
        let refused = |source| InvalidJwkSet::Key { place: place(), source };
        let kty = text(jwk, "kty").and_then(|kty| kty.ok_or(InvalidKey::JwkMember("kty"))).map_err(refused)?;
        let kid = text(jwk, "kid").map_err(refused)?;
        if kty != "oct"
            && let Some(name) = private_member(jwk)
        {
            return Err(refused(InvalidKey::JwkPrivate(name)));
        }
        let mut before = jwks.iter().take(index);
        if kid.is_some() && before.clone().any(|other| other.get("kid").and_then(Value::as_str) == kid) {
            return Err(InvalidJwkSet::DuplicateKid(place()));
        }
        if before.any(|other| is_secret(other) != is_secret(jwk)) {
            return Err(InvalidJwkSet::Mixed(place()));
        }
    }
    Ok(())
}

/// The key, if it is one for us.
fn usable(index: usize, jwk: &Value, algorithms: &[Algorithm]) -> Result<Option<VerificationKey>, InvalidJwkSet> {
    let refused = |source| InvalidJwkSet::Key { place: place(index, jwk), source };
    let Some(key_type) = KeyType::of(jwk).map_err(refused)? else {
        return Ok(None);
    };
    if is_for_something_else(jwk).map_err(refused)? {
        return Ok(None);
    }
    let algorithm = match text(jwk, "alg").map_err(refused)? {
        Some(name) => match Algorithm::from_jose_name(name) {
            Some(named) if !key_type.fits(named) => return Err(refused(InvalidKey::JwkUnsupported)),
            Some(named) if algorithms.contains(&named) => named,
            Some(_) | None => return Ok(None),
        },
        None => {
            let mut fitting = algorithms.iter().filter(|algorithm| key_type.fits(**algorithm));
            match (fitting.next(), fitting.next()) {
                (Some(only), None) => *only,
                (None, _) => return Err(InvalidJwkSet::NoAlgorithmFits(place(index, jwk))),
                (Some(_), Some(_)) => return Err(InvalidJwkSet::SeveralAlgorithmsFit(place(index, jwk))),
            }
        }
    };
    VerificationKey::from_jwk_for(jwk, algorithm).map(Some).map_err(refused)
}

/// Another `use`, or `key_ops` without `verify`. Both at once have to agree (RFC 7517 §4.3).
fn is_for_something_else(jwk: &Value) -> Result<bool, InvalidKey> {
    let by_use = text(jwk, "use")?.map(|purpose| purpose != "sig");
    let by_operations = match jwk.get("key_ops") {
        None => None,
        Some(Value::Array(operations)) => Some(!operations.iter().any(|operation| operation == "verify")),
        Some(_) => return Err(InvalidKey::JwkMember("key_ops")),
    };
    match (by_use, by_operations) {
        (Some(one), Some(other)) if one != other => Err(InvalidKey::JwkPurpose),
        (one, other) => Ok(one.or(other).unwrap_or(false)),
    }
}

#[cfg(test)]
mod tests;
