//! Whether files are a policy that could be published here, and what about it is odd.

use crate::app::AppState;
use crate::policies::http::{Validated, compile_candidate};
use crate::policies::store::content_sha256;
use crate::policies::{ActivePolicy, Files, PolicyFault};
use crate::problem::ApiError;
use serde::Serialize;
use utoipa::ToSchema;
use wire::hex::hex;

/// A verdict that is no error: an invalid draft is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Validation {
    /// Whether it could be published.
    pub valid: bool,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Place>,
    /// What it consists of, if it is valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Validated>,
}

/// Something that is wrong or odd, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Place {
    /// The file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The field, as in `routes[agents.create].permission`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What is to be said.
    pub message: String,
}

impl From<PolicyFault> for Place {
    fn from(fault: PolicyFault) -> Self {
        let PolicyFault { file, line, field, message } = fault;
        Self { file, line, field, message }
    }
}

/// Judges files as publishing would.
///
/// # Errors
/// Our own faults only: an invalid policy is an answer.
pub async fn validated(state: &AppState, files: Files) -> Result<Validation, ApiError> {
    match compile_candidate(state, files.clone()).await {
        Ok(compiled) => described(compiled, files).await.map(|policy| Validation { valid: true, fault: None, policy: Some(policy) }),
        Err(ApiError::InvalidPolicy(fault)) => Ok(Validation { valid: false, fault: Some(Place::from(*fault)), policy: None }),
        Err(error) => Err(error),
    }
}

/// What a compiled policy consists of.
///
/// # Errors
/// The process is ending.
pub async fn described(compiled: ActivePolicy, files: Files) -> Result<Validated, ApiError> {
    let work = move || Validated {
        content_sha256: hex(&content_sha256(&files)),
        issuers: compiled.document.issuers.len(),
        roles: compiled.document.roles.len(),
        routes: compiled.document.routes.len(),
        budgets: compiled.document.budgets.len(),
        findings: findings(&compiled, &files),
    };
    tokio::task::spawn_blocking(work).await.map_err(|stopped| ApiError::internal("describing a policy", stopped))
}

/// What is odd about a policy, with its places.
#[must_use]
pub fn findings(policy: &ActivePolicy, files: &Files) -> Vec<Place> {
    authoring::findings::findings(&policy.document, &policy.loaded.policy, files).into_iter().map(Place::from).collect()
}
