//! The bundle as it may stand in a plugin configuration: what anybody may see. Envoy shows its configuration to everybody
//! who may read its admin interface, so no shared secret is in it, nor a digest of one that people chose.

use crate::app::AppState;
use crate::caller::Caller;
use crate::policies::ActivePolicy;
use crate::problem::ApiError;
use authn::{Algorithm, Family};
use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use utoipa::ToSchema;
use wire::bundle::{Bundle, BundleError, IssuerKeys, KeyMaterial, KeysKnown};

/// A bundle to be embedded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct EmbeddedBundle {
    /// The version that it is.
    pub version: String,
    /// Its activation.
    pub activation: u64,
    /// Its revision.
    pub revision: u64,
    /// The image, base64.
    pub bundle: String,
    /// Issuers whose tokens it cannot judge, because their keys are secret or not known yet.
    pub issuers_without_keys: Vec<String>,
}

/// The bundle in force, for a plugin configuration: public keys only. Shared secrets, registration keys and the key that records hash users with are left out.
#[utoipa::path(
    get, path = "/admin/v1/policies/active/bundle", operation_id = "policies.bundle",
    responses((status = 200, body = EmbeddedBundle)),
)]
pub(super) async fn bundle(State(state): State<AppState>, _caller: Caller) -> Result<Json<EmbeddedBundle>, ApiError> {
    let policy = state.policy();
    embedded(&policy).map(Json).map_err(|error| ApiError::internal("the embedded bundle", error))
}

/// Leaves out what is secret, and makes sure that what is left loads.
fn embedded(policy: &ActivePolicy) -> Result<EmbeddedBundle, BundleError> {
    let mut bundle = Bundle::decode(&policy.image)?;
    bundle.registration_key_hashes.clear();
    bundle.pseudonym_key = None;
    for issuer in &mut bundle.keys {
        if issuer.keys.iter().any(is_secret) {
            *issuer = IssuerKeys { issuer: issuer.issuer.clone(), keys: Vec::new(), known: KeysKnown::NotYet };
        }
    }
    bundle.load()?;
    let without = bundle.keys.iter().filter(|keys| keys.known == KeysKnown::NotYet).map(|keys| keys.issuer.clone());
    Ok(EmbeddedBundle {
        version: policy.tag(),
        activation: policy.version.activation,
        revision: policy.version.revision,
        issuers_without_keys: without.collect(),
        bundle: STANDARD.encode(bundle.encode()?),
    })
}

/// Whether the key must not be shown. One whose algorithm is not known might be.
fn is_secret(key: &KeyMaterial) -> bool {
    Algorithm::from_jose_name(&key.algorithm).is_none_or(|algorithm| algorithm.family() == Family::Hmac)
}
