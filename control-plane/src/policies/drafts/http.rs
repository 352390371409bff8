//! Drafts over HTTP: begin, read, change, validate, publish, delete.

use super::store::{self, End, NewDraft};
use super::{Draft, DraftId, DraftSummary, DraftVersion};
use crate::admin_events::{self, Actor};
use crate::app::AppState;
use crate::caller::Caller;
use crate::extract::{JsonBody, PathOf, QueryOf};
use crate::policies::http::{check_files, compile_proposal, files_of, find as find_revision};
use crate::policies::store::{self as policies, Origin, RevisionSummary};
use crate::policies::validation::{Validation, validated};
use crate::policies::{Files, Revision};
use crate::problem::{ApiError, Problem};
use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Longest name of a draft, in characters.
const NAME_CHARS_MAX: usize = 100;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(read, save, delete))
        .routes(routes!(validation))
        .routes(routes!(publication))
}

/// What a draft begins with: the given files, or those of `base_revision`, or those of the revision in force.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDraftRequest {
    /// What to call it.
    pub name: String,
    /// Why.
    pub reason: String,
    /// File names to texts.
    #[serde(default)]
    pub files: Option<Files>,
    /// The revision to go out from.
    #[serde(default)]
    pub base_revision: Option<Revision>,
}

/// New files of a draft: all of them.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// File names to texts.
    pub files: Files,
    /// Why.
    pub reason: String,
}

/// How a draft is published.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PublicationRequest {
    /// Why.
    pub reason: String,
    /// Refuse, with 409, if another revision is in force by now.
    #[serde(default)]
    pub expected_active_revision: Option<Revision>,
    /// The draft takes into account that another revision than its base is in force by now.
    #[serde(default)]
    pub rebased: bool,
}

/// Why a draft is deleted.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct DeletionQuery {
    /// Why.
    pub reason: String,
}

/// A draft that was saved, and what is to be said of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Saved {
    /// The draft without its files.
    #[serde(flatten)]
    pub summary: DraftSummary,
    /// Whether it could be published, and what about it is odd.
    pub validation: Validation,
}

/// Begin a draft.
#[utoipa::path(
    post, path = "/admin/v1/drafts", operation_id = "drafts.create", request_body = NewDraftRequest,
    responses(
        (status = 201, body = Saved, headers(("ETag" = String, description = "The version, quoted"))),
        (status = 404, description = "No such revision", body = Problem), (status = 409, description = "There are 100 drafts", body = Problem),
    ),
)]
async fn create(State(state): State<AppState>, caller: Caller, JsonBody(request): JsonBody<NewDraftRequest>) -> Result<Response, ApiError> {
    let NewDraftRequest { name, reason, files, base_revision } = request;
    admin_events::check_reason(&reason)?;
    if name.trim().is_empty() || name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        return Err(ApiError::invalid("`name` has 1 to 100 characters, none of them a control character"));
    }
    let base_revision = match base_revision {
        Some(revision) => revision,
        None => policies::revision_active(&state.database).await?.ok_or(ApiError::Unavailable { what: "no policy is active" })?,
    };
    let of_base = files_of(&state, base_revision).await?;
    let files = files.unwrap_or(of_base);
    check_files(&files)?;
    let mut transaction = state.database.begin().await?;
    let new = NewDraft { name: &name, base_revision, files: &files };
    let summary = store::create(&mut transaction, new, Actor::from(&caller), &reason).await?;
    transaction.commit().await?;
    let location = format!("/admin/v1/drafts/{}", summary.id);
    let saved = answer(&state, summary, files).await?;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], saved).into_response())
}

/// List drafts, latest change first.
#[utoipa::path(get, path = "/admin/v1/drafts", operation_id = "drafts.list", responses((status = 200, body = Vec<DraftSummary>)))]
async fn list(State(state): State<AppState>, _caller: Caller) -> Result<Json<Vec<DraftSummary>>, ApiError> {
    Ok(Json(store::list(&state.database).await?))
}

/// One draft with its files.
#[utoipa::path(
    get, path = "/admin/v1/drafts/{id}", operation_id = "drafts.read", params(("id" = i64, Path, description = "Its number")),
    responses(
        (status = 200, body = Draft, headers(("ETag" = String, description = "The version, quoted"))), (status = 404, body = Problem),
    ),
)]
async fn read(State(state): State<AppState>, _caller: Caller, PathOf(id): PathOf<DraftId>) -> Result<Response, ApiError> {
    let draft = find(&state, id).await?;
    Ok(([(header::ETAG, etag(draft.summary.version))], Json(draft)).into_response())
}

/// Replace the files of a draft. It may be invalid: the answer says so.
#[utoipa::path(
    put, path = "/admin/v1/drafts/{id}", operation_id = "drafts.save", request_body = Change,
    params(("id" = i64, Path, description = "Its number"), ("If-Match" = String, Header, description = "The version that it is based on")),
    responses(
        (status = 200, body = Saved, headers(("ETag" = String, description = "The version, quoted"))), (status = 404, body = Problem),
        (status = 412, description = "Somebody changed it since", body = Problem), (status = 428, description = "Without `If-Match`", body = Problem),
    ),
)]
async fn save(
    State(state): State<AppState>,
    caller: Caller,
    IfMatch(expected): IfMatch,
    PathOf(id): PathOf<DraftId>,
    JsonBody(change): JsonBody<Change>,
) -> Result<Response, ApiError> {
    let Change { files, reason } = change;
    admin_events::check_reason(&reason)?;
    check_files(&files)?;
    let mut transaction = state.database.begin().await?;
    let summary = store::save(&mut transaction, id, expected, &files, Actor::from(&caller), &reason).await?;
    transaction.commit().await?;
    answer(&state, summary, files).await
}

/// Say whether a draft could be published here, and what about it is odd.
#[utoipa::path(
    post, path = "/admin/v1/drafts/{id}/validation", operation_id = "drafts.validate",
    params(("id" = i64, Path, description = "Its number")),
    responses((status = 200, body = Validation), (status = 404, body = Problem)),
)]
async fn validation(State(state): State<AppState>, _caller: Caller, PathOf(id): PathOf<DraftId>) -> Result<Json<Validation>, ApiError> {
    let draft = find(&state, id).await?;
    validated(&state, draft.files).await.map(Json)
}

/// Publish a draft as a revision, and remove it. The revision is not in force before it is activated.
#[utoipa::path(
    post, path = "/admin/v1/drafts/{id}/publication", operation_id = "drafts.publish", request_body = PublicationRequest,
    params(("id" = i64, Path, description = "Its number")),
    responses(
        (status = 201, body = RevisionSummary), (status = 404, body = Problem),
        (status = 409, description = "Another revision is in force than the draft is based on", body = Problem),
        (status = 412, description = "Somebody changed it meanwhile", body = Problem),
        (status = 422, description = "Not a valid policy", body = Problem),
    ),
)]
async fn publication(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    PathOf(id): PathOf<DraftId>,
    JsonBody(request): JsonBody<PublicationRequest>,
) -> Result<Response, ApiError> {
    admin_events::check_reason(&request.reason)?;
    let Draft { summary, files } = find(&state, id).await?;
    compile_proposal(&state, files.clone(), &headers).await?;
    let (actor, reason) = (Actor::from(&caller), request.reason.as_str());
    let mut transaction = state.database.begin().await?;
    policies::policies_lock(&mut transaction).await?;
    check_base(policies::revision_active(&mut *transaction).await?, &summary, &request)?;
    let revision = policies::revision_publish(&mut transaction, &files, Origin::Api, actor, reason).await?;
    store::end(&mut transaction, id, summary.version, End::Published(revision), actor, reason).await?;
    transaction.commit().await?;
    let published = find_revision(&state, revision).await?;
    Ok((StatusCode::CREATED, [(header::LOCATION, format!("/admin/v1/policies/{revision}"))], Json(published)).into_response())
}

/// Delete a draft.
#[utoipa::path(
    delete, path = "/admin/v1/drafts/{id}", operation_id = "drafts.delete",
    params(
        ("id" = i64, Path, description = "Its number"), ("If-Match" = String, Header, description = "The version that is meant"), DeletionQuery,
    ),
    responses(
        (status = 204), (status = 404, body = Problem), (status = 412, description = "Somebody changed it since", body = Problem),
        (status = 428, description = "Without `If-Match`", body = Problem),
    ),
)]
async fn delete(
    State(state): State<AppState>,
    caller: Caller,
    IfMatch(expected): IfMatch,
    PathOf(id): PathOf<DraftId>,
    QueryOf(query): QueryOf<DeletionQuery>,
) -> Result<StatusCode, ApiError> {
    admin_events::check_reason(&query.reason)?;
    let mut transaction = state.database.begin().await?;
    store::end(&mut transaction, id, expected, End::Deleted, Actor::from(&caller), &query.reason).await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn find(state: &AppState, id: DraftId) -> Result<Draft, ApiError> {
    store::find(&state.database, id).await?.ok_or_else(|| ApiError::not_found("draft", id))
}

async fn answer(state: &AppState, summary: DraftSummary, files: Files) -> Result<Response, ApiError> {
    let validation = validated(state, files).await?;
    Ok(([(header::ETAG, etag(summary.version))], Json(Saved { summary, validation })).into_response())
}

/// A draft speaks of the whole policy: published over one that its author has not seen, it would undo it.
fn check_base(active: Option<Revision>, draft: &DraftSummary, request: &PublicationRequest) -> Result<(), ApiError> {
    let shown = |revision: Option<Revision>| revision.map_or_else(|| "none".to_owned(), |revision| revision.to_string());
    if request.expected_active_revision.is_some() && request.expected_active_revision != active {
        return Err(ApiError::conflict(format!("revision {} is in force, not the one that you expected", shown(active))));
    }
    if active != Some(draft.base_revision) && !request.rebased {
        let base = draft.base_revision;
        let detail = format!(
            "revision {} is in force, and the draft is based on revision {base}; compare them, change the draft where needed, and say `rebased: true`",
            shown(active)
        );
        return Err(ApiError::conflict(detail));
    }
    Ok(())
}

fn etag(version: DraftVersion) -> String {
    format!("\"{version}\"")
}

/// The version in `If-Match`: one, and a strong one (RFC 9110 §13.1.1).
struct IfMatch(DraftVersion);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        if_match(&parts.headers).map(Self)
    }
}

fn if_match(headers: &HeaderMap) -> Result<DraftVersion, ApiError> {
    let mut values = headers.get_all(header::IF_MATCH).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Err(ApiError::PreconditionRequired),
        (Some(value), None) => value,
        (Some(_), Some(_)) => return Err(ApiError::invalid("`If-Match` is repeated")),
    };
    let number = value.to_str().ok().and_then(|text| text.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok());
    number.map(DraftVersion).ok_or_else(|| ApiError::invalid("`If-Match` is not one version in quotes, as the `ETag` of the draft is"))
}
