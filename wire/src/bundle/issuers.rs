//! Issuers of a policy with the keys that came beside it.

use super::{BundleError, IssuerKeys, KeyMaterial, KeysKnown};
use crate::policy::{self, Issuer, SoftwareVerification};
use authn::{Algorithm, Family, IssuerRules, MoreKeys, OptionalClaim, TrialTokens, Verification, VerificationKey};
use decision_core::time::Timestamp;
use std::time::Duration;

/// The rules of one issuer, with its keys.
pub(super) fn issuer_rules(issuer: &Issuer, keys: &[IssuerKeys]) -> Result<IssuerRules, BundleError> {
    let missing = || BundleError::KeysMissing { issuer: issuer.name.clone() };
    let material = keys.iter().find(|keys| keys.issuer == issuer.name).ok_or_else(missing)?;
    check_named(issuer, material).ok_or_else(missing)?;
    let algorithms = algorithms(issuer)?;
    let keys = material.keys.iter().map(|key| load_key(issuer, &algorithms, key)).collect::<Result<_, _>>()?;
    Ok(IssuerRules {
        name: issuer.name.as_str().into(),
        issuer: issuer.issuer.as_str().into(),
        audiences: boxed(&issuer.audiences),
        token_types: boxed(&issuer.token_types),
        allow_missing_typ: issuer.type_optional,
        scopes: boxed(&issuer.scopes),
        skew: Duration::from_secs(issuer.skew_s.into()),
        lifetime_max: Duration::from_secs(issuer.lifetime_max_s.into()),
        required_claims: issuer.required_claims.iter().map(|name| required_claim(&issuer.name, name)).collect::<Result<_, _>>()?,
        trials: match issuer.trials {
            policy::TrialTokens::Allow => TrialTokens::Allow,
            policy::TrialTokens::Refuse => TrialTokens::Refuse,
        },
        algorithms,
        keys,
        keys_known: match material.known {
            KeysKnown::Always => authn::KeysKnown::Always,
            KeysKnown::Until(seconds) => authn::KeysKnown::Until(Timestamp::from_seconds(seconds)),
            KeysKnown::NotYet => authn::KeysKnown::NotYet,
        },
        more_keys: if issuer.jwks.is_some() { MoreKeys::Published } else { MoreKeys::No },
    })
}
/// The keys that the policy names come first and in its order. Only an issuer with a JWK set may have more; an issuer
/// whose keys are not known has none at all.
fn check_named(issuer: &Issuer, material: &IssuerKeys) -> Option<()> {
    if material.known == KeysKnown::NotYet {
        return material.keys.is_empty().then_some(());
    }
    let (named, fetched) = material.keys.split_at_checked(issuer.keys.len())?;
    let matches =
        issuer.keys.iter().zip(named).all(|(named, key)| key.kid.as_ref() == Some(&named.kid) && named.algorithm == key.algorithm);
    (matches && (fetched.is_empty() || issuer.jwks.is_some())).then_some(())
}

/// Those that the issuer names; else those of the keys that the policy names.
fn algorithms(issuer: &Issuer) -> Result<Vec<Algorithm>, BundleError> {
    let named = issuer.algorithms.iter().map(|name| (name, String::new()));
    let of_keys = issuer.keys.iter().map(|key| (&key.algorithm, key.kid.clone()));
    let names: Vec<_> = if issuer.algorithms.is_empty() { of_keys.collect() } else { named.collect() };
    let mut algorithms = Vec::new();
    for (name, kid) in names {
        let unusable = || BundleError::Algorithm { issuer: issuer.name.clone(), kid, algorithm: name.clone() };
        let algorithm = Algorithm::from_jose_name(name).ok_or_else(unusable)?;
        if algorithm.family().verification() == Verification::Software && issuer.software_verification == SoftwareVerification::Refuse {
            return Err(BundleError::SoftwareVerification { issuer: issuer.name.clone(), algorithm: algorithm.name() });
        }
        if !algorithms.contains(&algorithm) {
            algorithms.push(algorithm);
        }
    }
    if algorithms.is_empty() && issuer.jwks.is_some() {
        return Err(BundleError::AlgorithmsMissing { issuer: issuer.name.clone() });
    }
    Ok(algorithms)
}

fn boxed(names: &[String]) -> Vec<Box<str>> {
    names.iter().map(|name| name.as_str().into()).collect()
}

fn required_claim(issuer: &str, name: &str) -> Result<OptionalClaim, BundleError> {
    OptionalClaim::parse(name).ok_or_else(|| BundleError::Claim { issuer: issuer.into(), claim: name.into() })
}

fn load_key(issuer: &Issuer, algorithms: &[Algorithm], key: &KeyMaterial) -> Result<VerificationKey, BundleError> {
    let kid = || key.kid.clone().unwrap_or_default();
    let algorithm = Algorithm::from_jose_name(&key.algorithm).filter(|algorithm| algorithms.contains(algorithm));
    let algorithm =
        algorithm.ok_or_else(|| BundleError::Algorithm { issuer: issuer.name.clone(), kid: kid(), algorithm: key.algorithm.clone() })?;
    let loaded = match algorithm.family() {
        Family::Hmac => VerificationKey::from_secret(key.kid.as_deref(), algorithm, &key.material),
        Family::RsaPkcs1 | Family::RsaPss | Family::Ecdsa | Family::Ed25519 => {
            VerificationKey::from_public_key(key.kid.as_deref(), algorithm, &key.material)
        }
    };
    loaded.map_err(|source| BundleError::Key { issuer: issuer.name.clone(), kid: kid(), source })
}
