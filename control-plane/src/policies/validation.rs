//! Whether files are a policy that could be published here, and what about it is odd.

use crate::app::{AppState, admin_routes};
use crate::policies::http::{Validated, compile_candidate};
use crate::policies::store::content_sha256;
use crate::policies::{ActivePolicy, Files, PolicyFault};
use crate::problem::ApiError;
use decision_core::nearest::nearest;
use serde::Serialize;
use utoipa::ToSchema;
use wire::hex::hex;
use wire::policy::{Gateway, PolicyDocument, Route};

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
        let PolicyFault { file, line, field, message, busy: _ } = fault;
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
        Err(ApiError::InvalidPolicy(fault)) if !fault.busy => {
            Ok(Validation { valid: false, fault: Some(Place::from(*fault)), policy: None })
        }
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
    let found = authoring::findings::findings(&policy.document, &policy.loaded.policy, files);
    found.into_iter().chain(idle_admin_routes(&policy.document, files)).map(Place::from).collect()
}

/// Whether two templates have the same segments; parameters may have other names.
fn same_path(left: &str, right: &str) -> bool {
    let segment = |segment: &'_ str| if segment.starts_with('{') { "{}".to_owned() } else { segment.to_owned() };
    left.split('/').map(segment).eq(right.split('/').map(segment))
}

/// Routes of the admin API that this control plane does not have.
fn idle_admin_routes(document: &PolicyDocument, files: &Files) -> Vec<PolicyFault> {
    let on_admin: Vec<&Route> = document.routes.iter().filter(|route| route.gateways.contains(&Gateway::Admin)).collect();
    if on_admin.is_empty() {
        return Vec::new();
    }
    let (_, description) = admin_routes().split_for_parts();
    let known = || description.paths.paths.keys().map(String::as_str);
    let missing = on_admin.into_iter().filter(|route| !known().any(|path| same_path(path, &route.path)));
    let message = |route: &Route| {
        let hint = nearest(&route.path, known()).map_or_else(String::new, |path| format!("; the nearest path is `{path}`"));
        format!("routes[{}].path: the admin API has no `{}`{hint}", route.name, route.path)
    };
    missing.map(|route| PolicyFault::located(message(route), files)).collect()
}
