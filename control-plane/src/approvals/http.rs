//! The approvals API for governors. People use the pages (`pages`), which decide through the same function.

use super::Terms;
use super::decisions::{self, DecideError, Verdict};
use super::store::{self, Approval, Status};
use crate::admin_events::{self, Actor};
use crate::app::AppState;
use crate::caller::Caller;
use crate::extract::{JsonBody, PathOf, QueryOf};
use crate::metrics::Metrics;
use crate::paging::PageSize;
use crate::problem::{ApiError, Problem};
use axum::Json;
use axum::extract::State;
use decision_core::principal::Principal;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read)).routes(routes!(decide))
}

/// Which approvals to list.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Only those that are so far.
    pub status: Option<Status>,
    /// At most so many: 50 by default, 200 at most.
    pub limit: Option<u32>,
}

/// Approvals, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ApprovalList {
    /// The approvals.
    pub approvals: Vec<Approval>,
}

/// What a governor decides, and why.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecisionRequest {
    /// `approve` or `reject`.
    pub decision: Verdict,
    /// Why.
    pub reason: String,
}

/// List approvals, newest first.
#[utoipa::path(
    get, path = "/admin/v1/approvals", operation_id = "approvals.list", params(ListQuery),
    responses((status = 200, body = ApprovalList)),
)]
async fn list(State(state): State<AppState>, QueryOf(query): QueryOf<ListQuery>) -> Result<Json<ApprovalList>, ApiError> {
    let limit = PageSize::READ.of(query.limit)?;
    let approvals = store::list(&state.database, query.status, approvers(&state), limit.rows()).await?;
    Ok(Json(ApprovalList { approvals }))
}

/// Read one approval.
#[utoipa::path(
    get, path = "/admin/v1/approvals/{id}", operation_id = "approvals.read", params(("id" = Uuid, Path, description = "Its id")),
    responses((status = 200, body = Approval), (status = 404, description = "No such approval", body = Problem)),
)]
async fn read(State(state): State<AppState>, PathOf(id): PathOf<Uuid>) -> Result<Json<Approval>, ApiError> {
    let found = store::find(&state.database, id, approvers(&state)).await?;
    found.map(Json).ok_or_else(|| ApiError::not_found("approval", id))
}

/// Decide a pending approval. Only governors may, and nobody decides on an own request. Where the policy asks for two
/// governors, the first approval is counted and the second one grants; one refusal refuses.
#[utoipa::path(
    post, path = "/admin/v1/approvals/{id}/decision", operation_id = "approvals.decide",
    params(("id" = Uuid, Path, description = "Its id")), request_body = DecisionRequest,
    responses(
        (status = 200, body = Approval),
        (status = 403, description = "Not a governor, or the own request", body = Problem),
        (status = 404, description = "No such approval", body = Problem),
        (status = 409, description = "Decided or expired already, or by this governor", body = Problem),
    ),
)]
async fn decide(
    State(state): State<AppState>,
    caller: Caller,
    PathOf(id): PathOf<Uuid>,
    JsonBody(request): JsonBody<DecisionRequest>,
) -> Result<Json<Approval>, ApiError> {
    decide_as(&state, &caller.principal, id, request.decision, &request.reason).await.map(Json)
}

/// How many governors the policy in force asks for.
#[must_use]
pub fn approvers(state: &AppState) -> u8 {
    state.policy().document.approvals.as_ref().map_or(1, |section| section.approvers)
}

/// Takes a governor's decision, made on the API or on a page.
///
/// # Errors
/// Who it is may not decide this, or not any more.
pub async fn decide_as(state: &AppState, principal: &Principal, id: Uuid, verdict: Verdict, reason: &str) -> Result<Approval, ApiError> {
    if !principal.governor {
        return Err(ApiError::Denied { reason: "governor_required", rule: None });
    }
    admin_events::check_reason(reason)?;
    let section = state.policy().document.approvals.clone().unwrap_or_default();
    let actor = Actor { issuer: &principal.identity.issuer, subject: &principal.identity.subject };
    let decided = decisions::decide(&state.database, id, verdict, actor, reason, Terms::of(&section, &state.settings.public_url)).await;
    Metrics::count(&state.metrics.approvals, decided.as_ref().map_or("not_decided", outcome));
    decided.map_err(|error| refusal(error, id))
}

fn outcome(approval: &Approval) -> &'static str {
    match Status::parse(&approval.status) {
        Some(Status::Approved) => "approved",
        Some(Status::Rejected) => "rejected",
        // One governor of several has approved.
        Some(Status::Pending | Status::Consumed | Status::Expired) | None => "counted",
    }
}

fn refusal(error: DecideError, id: Uuid) -> ApiError {
    match error {
        DecideError::Unknown => ApiError::not_found("approval", id),
        DecideError::OwnRequest => ApiError::Denied { reason: "own_request", rule: None },
        DecideError::NotPending => ApiError::conflict("the approval is not pending"),
        DecideError::Repeated => ApiError::conflict("you have decided on this request already; another governor has to"),
        DecideError::Database(error) => ApiError::Database(error),
    }
}
