//! Policies: what they are while in force, and how they come to be so.
//!
//! ```text
//! directory ─┐                                                      ┌─▶ watch channel ─▶ admin API, sync
//! POST ──────┴▶ compile (as the filter does) ─▶ revision ─▶ activation ─▶ follow ─┴─▶ bundle polls
//! ```

pub mod check;
pub mod compare;
pub mod compile;
pub mod directory;
pub mod drafts;
pub mod embedded;
pub mod enforcement;
pub mod explain;
pub mod follow;
pub mod history;
pub mod http;
pub mod opa;
pub mod rule_hits;
pub mod rule_names;
pub mod schema;
pub mod shadow;
pub mod store;
pub mod validation;

pub use authoring::{Files, PolicyFault};

use ::rules::RuleSet;
use axum::body::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Mutex;
use utoipa::ToSchema;
use wire::bundle::{BundleVersion, LoadedBundle};
use wire::policy::PolicyDocument;

/// A policy in force, in every form that somebody needs.
#[derive(Debug)]
pub struct ActivePolicy {
    /// Which version.
    pub version: BundleVersion,
    /// As operators wrote it.
    pub document: PolicyDocument,
    /// As it decides.
    pub loaded: LoadedBundle,
    /// Its custom rules, as they judge. One question at a time: evaluation takes microseconds.
    pub rules: Option<Mutex<RuleSet>>,
    /// As filters fetch it.
    pub image: Bytes,
    /// Tells its keys from others.
    pub keys_fingerprint: [u8; 32],
    /// Tells the published key sets that were merged from later ones.
    pub jwk_changes: i64,
}

impl ActivePolicy {
    /// The version as filters name it in `If-None-Match`.
    #[must_use]
    pub fn tag(&self) -> String {
        let BundleVersion { database_id, activation, revision: _, key_set, shadow } = self.version;
        let [a, b, c, d, ..] = database_id;
        format!("{activation}.{key_set}.{shadow}.{a:02x}{b:02x}{c:02x}{d:02x}")
    }
}

/// The number of a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct Revision(pub i64);

/// The number of an activation. Only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct Activation(pub i64);

/// The number of a set of resolved keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
pub struct KeySet(pub i64);

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What keeps a policy from being loaded; the last good one stays in force meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyFaults {
    /// The policies directory did not compile at start.
    pub directory: Option<PolicyFault>,
    /// The activated revision, or its secrets, cannot be loaded.
    pub activation: Option<PolicyFault>,
    /// Workers enforce this activation, which is newer than any in the database: an older backup was restored.
    pub workers_ahead: Option<Activation>,
}

impl PolicyFaults {
    /// Whether there is any.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.directory.is_none() && self.activation.is_none() && self.workers_ahead.is_none()
    }
}
