//! Which keys are in force, where they came from, and how fetching goes. Public halves and digests only.

use super::store::{self, SetState};
use super::{merge, publishers};
use crate::app::AppState;
use crate::caller::Caller;
use crate::extract::PathOf;
use crate::policies::ActivePolicy;
use crate::problem::{ApiError, Problem};
use authn::{IssuerRules, Mark, VerificationKey};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use decision_core::principal::RevocationKind;
use serde::Serialize;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wire::policy::Issuer;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(refresh))
}

/// All issuers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct KeyList {
    /// In the order of the policy.
    pub issuers: Vec<IssuerStatus>,
}

/// One issuer and its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct IssuerStatus {
    /// Our name for it.
    pub issuer: String,
    /// Its `iss`.
    pub iss: String,
    /// `policy`, `jwks` or `policy_and_jwks`.
    pub source: &'static str,
    /// `always`, `until` or `not_yet`.
    pub known: &'static str,
    /// Until when the keys are relied on if they cannot be fetched again.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<OffsetDateTime>,
    /// The keys in force.
    pub keys: Vec<KeyStatus>,
    /// How fetching goes, where the issuer publishes its keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fetch: Option<FetchStatus>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct KeyStatus {
    /// Its id.
    pub kid: Option<String>,
    /// Its algorithm.
    pub algorithm: &'static str,
    /// `policy` or `jwks`.
    pub origin: &'static str,
    /// SHA-256 of the SubjectPublicKeyInfo, base64url. A shared secret has none.
    pub spki_sha256: Option<String>,
    /// Whether it was revoked: its tokens are refused although it is here.
    pub revoked: bool,
}

/// How fetching a set goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FetchStatus {
    /// From where.
    pub url: String,
    /// The last good fetch.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub fetched_at: Option<OffsetDateTime>,
    /// The last attempt.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub attempted_at: Option<OffsetDateTime>,
    /// The next attempt.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_at: Option<OffsetDateTime>,
    /// Attempts that failed since the last good one.
    pub failures: i32,
    /// Why the last one failed, or which keys are left out.
    pub last_error: Option<String>,
}

/// List the issuers with their keys.
#[utoipa::path(get, path = "/admin/v1/keys", operation_id = "keys.list", responses((status = 200, body = KeyList)))]
async fn list(State(state): State<AppState>, _caller: Caller) -> Result<Json<KeyList>, ApiError> {
    let states = store::states(&state.database).await?;
    let policy = state.policy();
    let issuers = policy.document.issuers.iter().map(|issuer| status(&state, &policy, issuer, &states)).collect();
    Ok(Json(KeyList { issuers }))
}

/// Fetch an issuer's key set at once, or as soon as ten seconds have passed since the last time.
#[utoipa::path(
    post, path = "/admin/v1/keys/{issuer}/refresh", operation_id = "keys.refresh",
    params(("issuer" = String, Path, description = "Its name in the policy")),
    responses((status = 202, body = IssuerStatus), (status = 404, description = "No such issuer with a JWK set", body = Problem)),
)]
async fn refresh(
    State(state): State<AppState>,
    _caller: Caller,
    PathOf(name): PathOf<String>,
) -> Result<(StatusCode, Json<IssuerStatus>), ApiError> {
    let policy = state.policy();
    let published = publishers(&policy.document).find(|(issuer, _)| issuer.name == name);
    let (issuer, source) = published.ok_or_else(|| ApiError::not_found("issuer with a JWK set", &name))?;
    store::ask(&state.database, &issuer.name, &source.url).await?;
    let states = store::states(&state.database).await?;
    Ok((StatusCode::ACCEPTED, Json(status(&state, &policy, issuer, &states))))
}

fn status(state: &AppState, policy: &ActivePolicy, issuer: &Issuer, states: &[SetState]) -> IssuerStatus {
    let rules = policy.loaded.issuers.find(&issuer.issuer);
    let (known, until) = rules.map_or(("not_yet", None), known);
    let keys = rules.map(|rules| rules.keys.iter().enumerate().map(|(place, key)| key_status(state, issuer, place, key)).collect());
    let fetch = issuer.jwks.as_ref().map(|source| {
        let set = states.iter().find(|set| set.issuer == issuer.name && set.url == source.url);
        FetchStatus {
            url: source.url.clone(),
            fetched_at: set.and_then(|set| set.fetched_at),
            attempted_at: set.and_then(|set| set.attempted_at),
            next_at: set.map(|set| set.next_at),
            failures: set.map_or(0, |set| set.failures),
            last_error: set.and_then(|set| set.last_error.clone()),
        }
    });
    IssuerStatus {
        issuer: issuer.name.clone(),
        iss: issuer.issuer.clone(),
        source: match (issuer.keys.is_empty(), issuer.jwks.is_some()) {
            (_, false) => "policy",
            (true, true) => "jwks",
            (false, true) => "policy_and_jwks",
        },
        known,
        until,
        keys: keys.unwrap_or_default(),
        fetch,
    }
}

fn known(rules: &IssuerRules) -> (&'static str, Option<OffsetDateTime>) {
    match rules.keys_known {
        authn::KeysKnown::Always => ("always", None),
        authn::KeysKnown::Until(until) => ("until", OffsetDateTime::from_unix_timestamp(until.as_seconds()).ok()),
        authn::KeysKnown::NotYet => ("not_yet", None),
    }
}

/// The keys that the policy names come first; [`merge`] appends the published ones.
fn key_status(state: &AppState, issuer: &Issuer, place: usize, key: &VerificationKey) -> KeyStatus {
    let mark = key.kid.as_deref().map(|kid| Mark::of(RevocationKind::Key, &issuer.name, kid));
    KeyStatus {
        kid: key.kid.as_deref().map(Into::into),
        algorithm: key.algorithm.name(),
        origin: merge::origin(issuer, place),
        spki_sha256: key.spki_der().map(|der| URL_SAFE_NO_PAD.encode(Sha256::digest(der))),
        revoked: mark.is_some_and(|mark| state.revoked.contains(mark)),
    }
}
