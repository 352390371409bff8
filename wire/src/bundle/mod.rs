//! The policy bundle: one version of everything that a filter decides by.
//!
//! It travels as an image of many small parts, each with its length and its hash, so that a worker can verify, read and
//! compile a large one in steps and serve requests in between: see [`Loader`].

mod image;
mod issuers;
mod loader;

pub use loader::Loader;

use crate::frame::FrameError;
use crate::policy::PolicyDocument;
use crate::pseudonym::PseudonymKey;
use authn::{InvalidIssuers, InvalidKey, Issuers};
use decision_core::policy::CompiledPolicy;
use decision_core::policy::compile::CompileError;
use serde::{Deserialize, Serialize};

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
    /// The key of the hashes that records name users by, where the policy wants that. Without it they name nobody.
    pub pseudonym_key: Option<PseudonymKey>,
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
    /// The key of the hashes that records name users by.
    pub pseudonym_key: Option<PseudonymKey>,
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
    /// It has not the parts that it must have, each where it belongs.
    #[error("the bundle's parts are incomplete or in disorder")]
    Parts,
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

impl Bundle {
    /// The image that is served.
    ///
    /// # Errors
    /// It cannot be serialised.
    pub fn encode(&self) -> Result<Vec<u8>, BundleError> {
        image::write(self)
    }

    /// Reads a whole image: version, lengths and hashes are checked.
    ///
    /// # Errors
    /// It is not whole, or of another version.
    pub fn decode(image: &[u8]) -> Result<Self, BundleError> {
        image::read(image)
    }

    /// The hot form. The control plane calls this before it accepts a revision, by the very steps that a filter takes
    /// before it switches.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn load(&self) -> Result<LoadedBundle, BundleError> {
        Loader::new(self.encode()?)?.run()
    }
}
