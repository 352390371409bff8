//! The policy bundle: one version of everything that a filter decides by.

use crate::frame::{self, FrameError};
use crate::policy::{Issuer, PolicyDocument};
use authn::{Algorithm, InvalidIssuers, InvalidKey, IssuerRules, Issuers, OptionalClaim, VerificationKey};
use decision_core::policy::CompiledPolicy;
use decision_core::policy::compile::{CompileError, compile};
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
    /// Rises with every revocation.
    pub revocation: u64,
}

impl BundleVersion {
    /// Whether a filter that enforces `current` may switch to this one: never backwards within one database.
    #[must_use]
    pub fn supersedes(&self, current: &Self) -> bool {
        self.database_id != current.database_id
            || (self.activation, self.key_set, self.revocation) > (current.activation, current.key_set, current.revocation)
    }
}

/// A key with its material, resolved from the secret that the revision names.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyMaterial {
    /// The `kid`.
    pub kid: String,
    /// `HS256`, `RS256`, `ES256` or `EdDSA`.
    pub algorithm: String,
    /// The shared secret's bytes, or a public key in PEM or DER.
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
    /// Its keys.
    pub keys: Vec<KeyMaterial>,
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
    /// The algorithm is not supported.
    #[error("issuers[{issuer}].keys[{kid}]: the algorithm `{algorithm}` is not HS256, RS256, ES256 or EdDSA")]
    Algorithm {
        /// The issuer.
        issuer: String,
        /// The key.
        kid: String,
        /// The algorithm.
        algorithm: String,
    },
    /// A required claim is not one that may be required.
    #[error(
        "issuers[{issuer}].required_claims: `{claim}` is not one of customer_id, agent_id, governor_agent_id, tier, jti, nbf, token_type"
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
        Ok(LoadedBundle { version: self.version, policy, issuers, registration_key_hashes: self.registration_key_hashes.clone() })
    }

    fn issuer_rules(&self, issuer: &Issuer) -> Result<IssuerRules, BundleError> {
        let missing = || BundleError::KeysMissing { issuer: issuer.name.clone() };
        let material = &self.keys.iter().find(|keys| keys.issuer == issuer.name).ok_or_else(missing)?.keys;
        if material.len() != issuer.keys.len() {
            return Err(missing());
        }
        let keys = issuer.keys.iter().zip(material).map(|(named, key)| {
            if named.kid != key.kid || named.algorithm != key.algorithm {
                return Err(missing());
            }
            load_key(&issuer.name, key)
        });
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
            keys: keys.collect::<Result<_, _>>()?,
        })
    }
}

fn boxed(names: &[String]) -> Vec<Box<str>> {
    names.iter().map(|name| name.as_str().into()).collect()
}

fn required_claim(issuer: &str, name: &str) -> Result<OptionalClaim, BundleError> {
    OptionalClaim::parse(name).ok_or_else(|| BundleError::Claim { issuer: issuer.into(), claim: name.into() })
}

fn load_key(issuer: &str, key: &KeyMaterial) -> Result<VerificationKey, BundleError> {
    let algorithm = Algorithm::from_jose_name(&key.algorithm).ok_or_else(|| BundleError::Algorithm {
        issuer: issuer.into(),
        kid: key.kid.clone(),
        algorithm: key.algorithm.clone(),
    })?;
    let loaded = match algorithm {
        Algorithm::Hs256 => VerificationKey::from_secret(Some(&key.kid), &key.material),
        Algorithm::Rs256 | Algorithm::Es256 | Algorithm::EdDsa => {
            VerificationKey::from_public_key(Some(&key.kid), algorithm, &key.material)
        }
    };
    loaded.map_err(|source| BundleError::Key { issuer: issuer.into(), kid: key.kid.clone(), source })
}
