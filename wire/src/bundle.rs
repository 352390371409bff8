//! The policy bundle: one version of everything that a filter decides by.

use crate::frame::{self, FrameError};
use crate::policy::{self, Issuer, PolicyDocument, SoftwareVerification};
use authn::{
    Algorithm, Family, InvalidIssuers, InvalidKey, IssuerRules, Issuers, MoreKeys, OptionalClaim, TrialTokens, Verification,
    VerificationKey,
};
use decision_core::policy::CompiledPolicy;
use decision_core::policy::compile::{CompileError, compile};
use decision_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Which version of everything. Only the activation orders two versions of one database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BundleVersion {
    /// The database that numbered the rest.
    pub database_id: [u8; 16],
    /// Rises with every activation, a rollback included.
    pub activation: u64,
    /// The revision that is active.
    pub revision: u64,
    /// Rises when a key changes.
    pub key_set: u64,
    /// Rises when a shadow begins or ends; 0 before the first.
    pub shadow: u64,
}

impl BundleVersion {
    /// Whether a filter that enforces `current` may switch to this one: never backwards within one database.
    #[must_use]
    pub fn supersedes(&self, current: &Self) -> bool {
        self.database_id != current.database_id
            || (self.activation, self.key_set, self.shadow) > (current.activation, current.key_set, current.shadow)
    }
}

/// A key with its material: from the secret that the revision names, or from the issuer's JWK set.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyMaterial {
    /// The `kid`. A key of a JWK set may have none.
    pub kid: Option<String>,
    /// The `alg` value.
    pub algorithm: String,
    /// The shared secret's bytes, or a public key in PEM or DER.
    #[serde(with = "serde_bytes")]
    pub material: Vec<u8>,
}

impl std::fmt::Debug for KeyMaterial {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("KeyMaterial").field("kid", &self.kid).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// The keys of one issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerKeys {
    /// The issuer's name in the policy.
    pub issuer: String,
    /// Its keys: first those that the policy names, in its order, then those of its JWK set.
    pub keys: Vec<KeyMaterial>,
    /// How far they can be relied on.
    pub known: KeysKnown,
}

/// Whether the keys of an issuer are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeysKnown {
    /// They are part of the policy.
    Always,
    /// They were fetched, and are good until this moment, in seconds since the epoch.
    Until(i64),
    /// They were never fetched, or stand in no bundle of this kind. The issuer's tokens cannot be judged: 503, not 401.
    NotYet,
}

/// What the control plane serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// Which version.
    pub version: BundleVersion,
    /// The policy.
    pub policy: PolicyDocument,
    /// The keys of its issuers.
    pub keys: Vec<IssuerKeys>,
    /// SHA-256 of each registration key.
    pub registration_key_hashes: Vec<[u8; 32]>,
    /// The custom rules, ready to be loaded.
    pub rules: Option<RulesImage>,
    /// The revision that is evaluated beside the active one.
    pub shadow: Option<ShadowPolicy>,
}

/// Custom rules as they are served: they have passed the gate of publishing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesImage {
    /// File names and texts of the modules, tests left out.
    pub modules: Vec<(String, String)>,
    /// What the rules see as `data`: a JSON object.
    pub data: String,
    /// What they may read of `input`.
    pub inputs: Vec<String>,
    /// Inputs with the decisions that the gate computed: whoever loads the rules compares before relying on them.
    pub vectors: Vec<RuleVector>,
}

/// An input, and what the rules decide of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleVector {
    /// The input: a JSON object.
    pub input: String,
    /// The decision: a JSON object.
    pub decision: String,
}

/// A revision that is evaluated beside the active one, with the active one's keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowPolicy {
    /// Which.
    pub revision: u64,
    /// Its policy.
    pub policy: PolicyDocument,
    /// Its custom rules.
    pub rules: Option<RulesImage>,
}

/// A revision in shadow, in its hot form.
#[derive(Debug)]
pub struct LoadedShadow {
    /// Which.
    pub revision: u64,
    /// Its rules.
    pub policy: CompiledPolicy,
    /// Its custom rules.
    pub rules: Option<RulesImage>,
}

/// A bundle in its hot form.
#[derive(Debug)]
pub struct LoadedBundle {
    /// Which version.
    pub version: BundleVersion,
    /// The rules.
    pub policy: CompiledPolicy,
    /// The issuers with their keys.
    pub issuers: Issuers,
    /// SHA-256 of each registration key.
    pub registration_key_hashes: Vec<[u8; 32]>,
    /// The custom rules.
    pub rules: Option<RulesImage>,
    /// The revision in shadow.
    pub shadow: Option<LoadedShadow>,
}

/// Why a bundle is refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It is not a frame.
    #[error("the bundle is not a frame that this version reads")]
    Frame(#[source] FrameError),
    /// It was damaged on the way.
    #[error("the bundle's hash does not match")]
    Hash,
    /// Its policy does not compile.
    #[error("{0}")]
    Policy(#[source] CompileError),
    /// A key is not usable.
    #[error("issuers[{issuer}].keys[{kid}]: the key is not usable")]
    Key {
        /// The issuer.
        issuer: String,
        /// The key.
        kid: String,
        /// Why.
        #[source]
        source: InvalidKey,
    },
    /// The algorithm is not supported, or not one of the issuer's.
    #[error("issuers[{issuer}].keys[{kid}]: the algorithm `{algorithm}` is not supported, or not among the issuer's `algorithms`")]
    Algorithm {
        /// The issuer.
        issuer: String,
        /// The key.
        kid: String,
        /// The algorithm.
        algorithm: String,
    },
    /// The algorithm is slow, and the issuer does not say that it may be.
    #[error(
        "issuers[{issuer}].algorithms: Envoy does not verify {algorithm}, and without it a first-seen token costs 0.2 to 0.8 ms; say `software_verification: allow` to accept that"
    )]
    SoftwareVerification {
        /// The issuer.
        issuer: String,
        /// The algorithm.
        algorithm: &'static str,
    },
    /// An issuer with a JWK set names no algorithms.
    #[error("issuers[{issuer}].algorithms: an issuer with `jwks` names the algorithms that its tokens may use")]
    AlgorithmsMissing {
        /// The issuer.
        issuer: String,
    },
    /// A required claim is not one that may be required.
    #[error(
        "issuers[{issuer}].required_claims: `{claim}` is not one of customer_id, agent_id, governor_agent_id, tier, jti, nbf, token_type, token_version"
    )]
    Claim {
        /// The issuer.
        issuer: String,
        /// The claim.
        claim: String,
    },
    /// A key of the policy came without material, or material without a key.
    #[error("issuers[{issuer}]: the keys do not match the policy")]
    KeysMissing {
        /// The issuer.
        issuer: String,
    },
    /// The issuers do not go together.
    #[error("the issuers are not valid")]
    Issuers(#[source] InvalidIssuers),
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    sha256: [u8; 32],
    #[serde(with = "serde_bytes")]
    bundle: Vec<u8>,
}

impl Bundle {
    /// The image that is served.
    ///
    /// # Errors
    /// It cannot be serialised.
    pub fn encode(&self) -> Result<Vec<u8>, BundleError> {
        let bundle = frame::encode(self).map_err(BundleError::Frame)?;
        frame::encode(&Sealed { sha256: Sha256::digest(&bundle).into(), bundle }).map_err(BundleError::Frame)
    }

    /// Reads an image: version, length and hash are checked.
    ///
    /// # Errors
    /// It is not whole, or of another version.
    pub fn decode(image: &[u8]) -> Result<Self, BundleError> {
        let sealed: Sealed = frame::decode(image).map_err(BundleError::Frame)?;
        if <[u8; 32]>::from(Sha256::digest(&sealed.bundle)) != sealed.sha256 {
            return Err(BundleError::Hash);
        }
        frame::decode(&sealed.bundle).map_err(BundleError::Frame)
    }

    /// The hot form. The control plane calls this before it accepts a revision, the filter before it switches.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn load(&self) -> Result<LoadedBundle, BundleError> {
        let policy = compile(&self.policy.to_source()).map_err(BundleError::Policy)?;
        let issuers = self.policy.issuers.iter().map(|issuer| self.issuer_rules(issuer)).collect::<Result<_, _>>()?;
        let issuers = Issuers::new(issuers).map_err(BundleError::Issuers)?;
        let shadow = self.shadow.as_ref().map(|shadow| {
            let policy = compile(&shadow.policy.to_source()).map_err(BundleError::Policy)?;
            Ok(LoadedShadow { revision: shadow.revision, policy, rules: shadow.rules.clone() })
        });
        Ok(LoadedBundle {
            version: self.version,
            policy,
            issuers,
            registration_key_hashes: self.registration_key_hashes.clone(),
            rules: self.rules.clone(),
            shadow: shadow.transpose()?,
        })
    }

    fn issuer_rules(&self, issuer: &Issuer) -> Result<IssuerRules, BundleError> {
        let missing = || BundleError::KeysMissing { issuer: issuer.name.clone() };
        let material = self.keys.iter().find(|keys| keys.issuer == issuer.name).ok_or_else(missing)?;
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
