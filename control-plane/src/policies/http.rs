//! The policy administration point over HTTP: publish, validate, list, activate, roll back.

use crate::admin_events::{self, Actor};
use crate::app::AppState;
use crate::caller::{Caller, admit, now};
use crate::extract::{JsonBody, PathOf, QueryOf};
use crate::paging::PageSize;
use crate::policies::store::{self, ActivationRecord, Origin, RevisionSummary, Switch};
use crate::policies::validation::{Place, described};
use crate::policies::{
    Activation, ActivePolicy, Files, PolicyFault, Revision, check, compare, drafts, embedded, enforcement, explain, follow, history, opa,
    rule_hits, schema, shadow,
};
use crate::problem::{ApiError, Problem};
use crate::revocations::store::left_behind;
use crate::secrets::SecretsDirectory;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sqlx::{Postgres, Transaction};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wire::bundle::BundleVersion;

/// What an author must be able to do under any policy, so that a mistake can be undone.
const ROLL_BACK_PATH: &str = "/admin/v1/policies/1/activation";

const FILES_MAX: usize = 512;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(publish, list))
        .routes(routes!(validate))
        .routes(routes!(active))
        .routes(routes!(embedded::bundle))
        .routes(routes!(schema::schema))
        .routes(routes!(read))
        .routes(routes!(activate))
        .routes(routes!(explain::explain))
        .merge(drafts::http::router())
        .merge(history::router())
        .merge(shadow::http::router())
        .merge(compare::router())
        .merge(enforcement::router())
        .merge(rule_hits::router())
        .merge(opa::router())
}

/// Policy files to be published, and why.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Publication {
    /// File names (`routes/agents.yaml`) to YAML texts: the whole policy, not a difference.
    pub files: Files,
    /// Why.
    pub reason: String,
}

/// Policy files to be checked.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// File names to YAML texts.
    pub files: Files,
}

/// What a valid policy consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Validated {
    /// SHA-256 of the files, hex.
    pub content_sha256: String,
    /// How many issuers it has.
    pub issuers: usize,
    /// How many roles.
    pub roles: usize,
    /// How many routes.
    pub routes: usize,
    /// How many budgets.
    pub budgets: usize,
    /// What is no error and looks like a mistake: a budget that matches no route, a permission that no role has, …
    pub findings: Vec<Place>,
}

/// A revision with its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct RevisionDetail {
    /// Everything but the files.
    #[serde(flatten)]
    pub summary: RevisionSummary,
    /// File names to YAML texts.
    pub files: Files,
}

/// What is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct InForce {
    /// The newest activation.
    #[serde(flatten)]
    pub record: ActivationRecord,
    /// The version that this replica enforces; it follows the activation within a second.
    pub enforced_version: String,
}

/// Why a revision should be in force.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActivationRequest {
    /// Why.
    pub reason: String,
    /// Refuse, with 409, if another activation is in force by now.
    #[serde(default)]
    pub expected_activation: Option<Activation>,
}

/// Which revisions to list.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Only older ones than this.
    pub before: Option<i64>,
    /// At most so many: 50 by default, 200 at most.
    pub limit: Option<u32>,
}

/// Publish a revision. It is not in force before it is activated.
#[utoipa::path(
    post, path = "/admin/v1/policies", operation_id = "policies.publish", request_body = Publication,
    responses((status = 201, body = RevisionSummary), (status = 422, description = "Not a valid policy", body = Problem)),
)]
async fn publish(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    JsonBody(publication): JsonBody<Publication>,
) -> Result<Response, ApiError> {
    let Publication { files, reason } = publication;
    admin_events::check_reason(&reason)?;
    compile_proposal(&state, files.clone(), &headers).await?;
    let actor = Actor::from(&caller);
    let mut transaction = state.database.begin().await?;
    let revision = store::revision_publish(&mut transaction, &files, Origin::Api, actor, &reason).await?;
    transaction.commit().await?;
    let summary = find(&state, revision).await?;
    let location = format!("/admin/v1/policies/{revision}");
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(summary)).into_response())
}

/// Check a policy without storing it.
#[utoipa::path(
    post, path = "/admin/v1/policies/validate", operation_id = "policies.validate", request_body = Candidate,
    responses((status = 200, body = Validated), (status = 422, description = "Not a valid policy", body = Problem)),
)]
async fn validate(
    State(state): State<AppState>,
    _caller: Caller,
    JsonBody(candidate): JsonBody<Candidate>,
) -> Result<Json<Validated>, ApiError> {
    let compiled = compile_candidate(&state, candidate.files.clone()).await?;
    described(compiled, candidate.files).await.map(Json)
}

/// List revisions, newest first.
#[utoipa::path(
    get, path = "/admin/v1/policies", operation_id = "policies.list", params(ListQuery),
    responses((status = 200, body = Vec<RevisionSummary>)),
)]
async fn list(
    State(state): State<AppState>,
    _caller: Caller,
    QueryOf(query): QueryOf<ListQuery>,
) -> Result<Json<Vec<RevisionSummary>>, ApiError> {
    let limit = PageSize::READ.of(query.limit)?;
    Ok(Json(store::revision_list(&state.database, query.before.map(Revision), limit).await?))
}

/// What is in force, and who decided so.
#[utoipa::path(
    get, path = "/admin/v1/policies/active", operation_id = "policies.active",
    responses((status = 200, body = InForce)),
)]
pub(super) async fn active(State(state): State<AppState>, _caller: Caller) -> Result<Json<InForce>, ApiError> {
    let record = store::activation_record(&state.database).await?.ok_or(ApiError::Unavailable { what: "no policy is active" })?;
    Ok(Json(InForce { record, enforced_version: state.policy().tag() }))
}

/// One revision with its files.
#[utoipa::path(
    get, path = "/admin/v1/policies/{revision}", operation_id = "policies.read",
    params(("revision" = i64, Path, description = "Its number")),
    responses((status = 200, body = RevisionDetail), (status = 404, body = Problem)),
)]
async fn read(
    State(state): State<AppState>,
    _caller: Caller,
    PathOf(revision): PathOf<Revision>,
) -> Result<Json<RevisionDetail>, ApiError> {
    let summary = find(&state, revision).await?;
    let files = files_of(&state, revision).await?;
    Ok(Json(RevisionDetail { summary, files }))
}

/// Put a revision in force; an older one is a rollback. Every activation gets a new, higher number.
#[utoipa::path(
    post, path = "/admin/v1/policies/{revision}/activation", operation_id = "policies.activate",
    params(("revision" = i64, Path, description = "Its number")), request_body = ActivationRequest,
    responses(
        (status = 201, body = InForce), (status = 404, body = Problem),
        (status = 409, description = "Another activation is in force than the caller expected, or revocations of an issuer would be lost", body = Problem),
        (status = 422, description = "It does not compile here, for example because a secret is missing", body = Problem),
    ),
)]
async fn activate(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    PathOf(revision): PathOf<Revision>,
    JsonBody(request): JsonBody<ActivationRequest>,
) -> Result<(StatusCode, Json<InForce>), ApiError> {
    admin_events::check_reason(&request.reason)?;
    let files = files_of(&state, revision).await?;
    let compiled = compile_proposal(&state, files, &headers).await?;
    let mut transaction = state.database.begin().await?;
    store::policies_lock(&mut transaction).await?;
    let switch = Switch { expected: request.expected_activation, ..Switch::to(revision) };
    activated(transaction, &state, &compiled, switch, Actor::from(&caller), &request.reason).await?;
    let in_force = active(State(state), caller).await?;
    Ok((StatusCode::CREATED, in_force))
}

/// Activates, commits, and switches this replica, so that the caller's next request here is decided by what was activated;
/// other replicas are notified. The transaction holds the lock on activations.
pub(super) async fn activated(
    mut transaction: Transaction<'_, Postgres>,
    state: &AppState,
    compiled: &ActivePolicy,
    switch: Switch,
    actor: Actor<'_>,
    reason: &str,
) -> Result<(), ApiError> {
    let issuers: Vec<String> = compiled.document.issuers.iter().map(|issuer| issuer.name.clone()).collect();
    if let Some(message) = left_behind(&mut transaction, &issuers).await? {
        return Err(ApiError::conflict(message));
    }
    store::revision_activate(&mut transaction, switch, actor, reason).await?;
    transaction.commit().await?;
    follow::refresh(state).await?;
    Ok(())
}

pub(super) async fn find(state: &AppState, revision: Revision) -> Result<RevisionSummary, ApiError> {
    let found = store::revision_find(&state.database, revision).await?;
    found.ok_or_else(|| ApiError::not_found("revision", revision))
}

pub(crate) async fn files_of(state: &AppState, revision: Revision) -> Result<Files, ApiError> {
    let found = store::revision_files(&state.database, revision).await?;
    found.ok_or_else(|| ApiError::not_found("revision", revision))
}

/// Compiles with this replica's secrets. The version is a placeholder: the result is looked at and never served.
pub(crate) async fn compile_candidate(state: &AppState, files: Files) -> Result<ActivePolicy, ApiError> {
    check_files(&files)?;
    let secrets = SecretsDirectory::new(&state.settings.secrets_dir);
    let compiled = follow::compile_as(&state.database, files.clone(), secrets, state.settings.gate(), BundleVersion::default()).await?;
    check::check(&compiled.document, &state.settings, &files).await.map_err(|fault| ApiError::InvalidPolicy(Box::new(fault)))?;
    Ok(compiled)
}

/// Compiles what the sender of this request wants in force. Refused is a policy under which the very token of the request could
/// no longer roll back.
pub(super) async fn compile_proposal(state: &AppState, files: Files, headers: &HeaderMap) -> Result<ActivePolicy, ApiError> {
    let candidate = compile_candidate(state, files).await?;
    match admit(&candidate.loaded, &state.revoked, headers, Method::POST.as_str(), ROLL_BACK_PATH, now()) {
        Ok(_principal) => Ok(candidate),
        Err(refused) => Err(ApiError::WouldLockOut { reason: ApiError::from(refused).code() }),
    }
}

/// Names appear in messages, on other people's screens and perhaps as files again: plain relative paths only. Texts are
/// stored, and Postgres has no NUL.
pub(super) fn check_files(files: &Files) -> Result<(), ApiError> {
    if files.len() > FILES_MAX {
        return Err(ApiError::invalid("more than 512 files"));
    }
    if files.values().any(|text| text.contains('\0')) {
        return Err(ApiError::invalid("a file contains NUL"));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/');
    let good = |name: &str| {
        name.len() <= 200
            && name.bytes().all(plain)
            && name.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
            && [".yaml", ".yml", ".rego", ".json"].iter().any(|ending| name.ends_with(ending))
    };
    match files.keys().find(|name| !good(name)) {
        None => Ok(()),
        Some(_) => Err(ApiError::InvalidPolicy(Box::new(PolicyFault {
            field: Some("files".to_owned()),
            message: "a file name is not a plain relative path that ends in `.yaml`, `.yml`, `.rego` or `.json`".to_owned(),
            ..PolicyFault::default()
        }))),
    }
}
