//! The keys of a bundle: those that the policy names, then those of the issuer's published set.

use super::jwk_set;
use super::store::StoredSet;
use authn::{Algorithm, VerificationKey};
use decision_core::causes::chain;
use wire::bundle::{IssuerKeys, KeyMaterial, KeysKnown};
use wire::policy::{Issuer, PolicyDocument};

/// The algorithms that an issuer with a published set names. One that we do not know is refused when the policy compiles.
#[must_use]
pub fn algorithms(issuer: &Issuer) -> Vec<Algorithm> {
    issuer.algorithms.iter().filter_map(|name| Algorithm::from_jose_name(name)).collect()
}

/// Adds the published keys to those that the policy names. A key that two issuers have stays with the one whose key the
/// policy names, else with the one that the policy names first; the rest of either's set is served. What cannot be used of a set is left out: one issuer's set
/// must never keep another's keys, or the policy, from being served.
pub fn add_published(document: &PolicyDocument, named: &mut [IssuerKeys], sets: &[StoredSet]) {
    for issuer in &document.issuers {
        let Some(source) = &issuer.jwks else { continue };
        let known = sets.iter().find(|set| set.issuer == issuer.name && set.url == source.url);
        let published = known.and_then(|set| Some((set, usable(issuer, set)?)));
        let Some(place) = named.iter().position(|keys| keys.issuer == issuer.name) else { continue };
        let fresh = match &published {
            Some((_, keys)) => keys.iter().filter(|key| !is_taken(key, place, named)).map(material).collect(),
            None => Vec::new(),
        };
        let Some(entry) = named.get_mut(place) else { continue };
        entry.known = match published {
            Some((set, _)) => KeysKnown::Until(set.served_from_s.saturating_add(i64::from(source.stale_after_s))),
            // Keys that the policy names count from the first moment; without any there is nothing to judge by.
            None if entry.keys.is_empty() => KeysKnown::NotYet,
            None => KeysKnown::Always,
        };
        entry.keys.extend(fresh);
    }
}

fn usable(issuer: &Issuer, set: &StoredSet) -> Option<Vec<VerificationKey>> {
    match jwk_set::parse(&set.body, &algorithms(issuer)) {
        Ok(keys) => Some(keys),
        Err(error) => {
            // It was usable when it was fetched: the policy asks for other algorithms now.
            tracing::warn!(issuer = issuer.name, error = %chain(&error), "the last good JWK set is not usable any more");
            None
        }
    }
}

/// Whether a bundle with this key would be refused: the id is one of the issuer's own keys, or the material is anybody's.
fn is_taken(key: &VerificationKey, place: usize, keys: &[IssuerKeys]) -> bool {
    let same_id = |other: &&KeyMaterial| key.kid.is_some() && other.kid.as_deref() == key.kid.as_deref();
    let own = keys.get(place).is_some_and(|own| own.keys.iter().any(|other| same_id(&other)));
    own || keys.iter().flat_map(|issuer| &issuer.keys).any(|other| is_same(key, other))
}

/// Whether both are one public key, whatever form it was written in.
#[must_use]
pub fn is_same(key: &VerificationKey, other: &KeyMaterial) -> bool {
    let der = key.spki_der();
    if der == Some(other.material.as_slice()) {
        return true;
    }
    let Some(algorithm) = Algorithm::from_jose_name(&other.algorithm) else { return false };
    let read = VerificationKey::from_public_key(None, algorithm, &other.material);
    der.is_some() && read.is_ok_and(|other| other.spki_der() == der)
}

fn material(key: &VerificationKey) -> KeyMaterial {
    KeyMaterial {
        kid: key.kid.as_deref().map(Into::into),
        algorithm: key.algorithm.name().to_owned(),
        material: key.spki_der().unwrap_or_default().to_vec(),
    }
}

/// Where the key at this place of an issuer's keys comes from.
#[must_use]
pub const fn origin(issuer: &Issuer, place: usize) -> &'static str {
    if place < issuer.keys.len() { "policy" } else { "jwks" }
}
