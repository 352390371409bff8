//! The list of what waits, and one request with the form to decide on it.

use super::viewer::Viewer;
use super::views::{ApprovalPage, ListPage, Signed, page};
use crate::app::AppState;
use crate::approvals::decisions::Verdict;
use crate::approvals::http::{approvers, decide_as};
use crate::approvals::store::{self, Approval, Status};
use crate::extract::{FormOf, PathOf, QueryOf};
use crate::problem::ApiError;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use uuid::Uuid;

/// So many are listed; whoever has more needs the API.
const LIST_MAX: i64 = 200;

/// `GET /approvals`.
///
/// # Errors
/// Nobody is signed in, or the database failed.
pub async fn list(State(state): State<AppState>, headers: HeaderMap) -> Result<Response, ApiError> {
    let viewer = Viewer::of(&state, &headers).await?;
    let approvals = store::list(&state.database, Some(Status::Pending), approvers(&state), LIST_MAX).await?;
    Ok(page(StatusCode::OK, &ListPage { viewer: Some(Signed::of(&viewer)), approvals: &approvals }))
}

/// What the page is to say first.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct ShowQuery {
    done: Option<Verdict>,
}

/// `GET /approvals/{id}`.
///
/// # Errors
/// Nobody is signed in, there is no such approval, or the database failed.
pub async fn show(
    State(state): State<AppState>,
    headers: HeaderMap,
    PathOf(id): PathOf<String>,
    QueryOf(query): QueryOf<ShowQuery>,
) -> Result<Response, ApiError> {
    let viewer = Viewer::of(&state, &headers).await?;
    let approval = find(&state, &id).await?;
    let done = query.done.filter(|_| said(&viewer, &approval)).map(|verdict| outcome(verdict, &approval));
    Ok(render(StatusCode::OK, &state, &viewer, &approval, Told { done, ..Told::default() }))
}

/// A governor's decision.
#[derive(Clone, Debug, Deserialize)]
pub struct DecisionForm {
    form_key: String,
    decision: Verdict,
    reason: String,
}

/// `POST /approvals/{id}/decision`. Afterwards the browser gets the page anew, so that reloading it sends nothing again.
///
/// # Errors
/// Nobody is signed in, the form came from elsewhere, there is no such approval, or the database failed.
pub async fn decide(
    State(state): State<AppState>,
    headers: HeaderMap,
    PathOf(id): PathOf<String>,
    FormOf(form): FormOf<DecisionForm>,
) -> Result<Response, ApiError> {
    let viewer = Viewer::of(&state, &headers).await?;
    viewer.check_form(&state, &headers, &form.form_key)?;
    let approval = find(&state, &id).await?;
    if !viewer.may_decide(&state, approval.id) {
        return Err(ApiError::Denied { reason: "permission_missing", rule: None });
    }
    match decide_as(&state, &viewer.principal, approval.id, form.decision, &form.reason).await {
        Ok(_decided) => {
            let done = if form.decision == Verdict::Approve { "approve" } else { "reject" };
            Ok(Redirect::to(&format!("/approvals/{}?done={done}", approval.id)).into_response())
        }
        // What the governor wrote is not lost.
        Err(refused @ (ApiError::Conflict { .. } | ApiError::InvalidRequest { .. })) => {
            let problem = refused.problem();
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
            let told = Told { done: None, error: Some(problem.detail.into_owned()), reason: form.reason };
            Ok(render(status, &state, &viewer, &find(&state, &id).await?, told))
        }
        Err(other) => Err(other),
    }
}

async fn find(state: &AppState, id: &str) -> Result<Approval, ApiError> {
    let unknown = || ApiError::not_found("approval", id);
    let parsed = Uuid::try_parse(id).map_err(|_not_an_id| unknown())?;
    store::find(&state.database, parsed, approvers(state)).await?.ok_or_else(unknown)
}

/// What a page says beside the facts.
#[derive(Clone, Debug, Default)]
struct Told {
    done: Option<&'static str>,
    error: Option<String>,
    reason: String,
}

fn render(status: StatusCode, state: &AppState, viewer: &Viewer, approval: &Approval, told: Told) -> Response {
    let closed = closed(state, viewer, approval);
    let Told { done, error, reason } = told;
    page(status, &ApprovalPage { viewer: Some(Signed::of(viewer)), approval, closed, done, error, reason })
}

fn said(viewer: &Viewer, approval: &Approval) -> bool {
    let identity = &viewer.principal.identity;
    approval.decisions.iter().any(|decided| *decided.issuer == *identity.issuer && *decided.subject == *identity.subject)
}

/// Why there is no form for this viewer.
fn closed(state: &AppState, viewer: &Viewer, approval: &Approval) -> Option<&'static str> {
    let identity = &viewer.principal.identity;
    let own = *approval.issuer == *identity.issuer && *approval.subject == *identity.subject;
    match Status::parse(&approval.status) {
        Some(Status::Pending) if !viewer.principal.governor => Some("and you may not decide: you are no governor"),
        Some(Status::Pending) if own => Some("and you may not decide: it is your own request"),
        Some(Status::Pending) if said(viewer, approval) => Some("and you have decided; another governor has to"),
        Some(Status::Pending) if !viewer.may_decide(state, approval.id) => Some("and you may not decide: your roles do not permit it"),
        Some(Status::Pending) => None,
        Some(Status::Approved | Status::Rejected | Status::Consumed | Status::Expired) | None => {
            Some("and there is nothing to decide any more")
        }
    }
}

/// What the viewer's decision led to, as the row says it.
fn outcome(verdict: Verdict, approval: &Approval) -> &'static str {
    match (verdict, Status::parse(&approval.status)) {
        (Verdict::Approve, Some(Status::Pending)) => "Your approval counts. Another governor has to approve too.",
        (Verdict::Approve, _) => "You approved the request. It may be made once, until it expires.",
        (Verdict::Reject, _) => "You refused the request.",
    }
}
