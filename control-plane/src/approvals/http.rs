//! The approvals API for governors, and the page that an approval's URL opens.

use super::Terms;
use super::store::{self, Approval, DecideError, Status, Verdict};
use crate::admin_events::{self, Actor};
use crate::app::AppState;
use crate::caller::Caller;
use crate::extract::{JsonBody, PathOf, QueryOf};
use crate::metrics::Metrics;
use crate::problem::{ApiError, Problem};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use time::format_description::well_known::Rfc3339;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

const LIST_DEFAULT: u32 = 50;
const LIST_MAX: u32 = 200;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read)).routes(routes!(decide))
}

/// The page of an approval. It stands outside the API's authorisation: a browser that follows the link has no token. Whoever
/// has the link, an unguessable id, sees the request without its query; deciding needs the API.
pub fn pages() -> Router<AppState> {
    Router::new().route("/approvals/{id}", get(page))
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
    let limit = query.limit.unwrap_or(LIST_DEFAULT).clamp(1, LIST_MAX);
    let approvals = store::list(&state.database, query.status, i64::from(limit)).await?;
    Ok(Json(ApprovalList { approvals }))
}

/// Read one approval.
#[utoipa::path(
    get, path = "/admin/v1/approvals/{id}", operation_id = "approvals.read", params(("id" = Uuid, Path, description = "Its id")),
    responses((status = 200, body = Approval), (status = 404, description = "No such approval", body = Problem)),
)]
async fn read(State(state): State<AppState>, PathOf(id): PathOf<Uuid>) -> Result<Json<Approval>, ApiError> {
    let found = store::find(&state.database, id).await?;
    found.map(Json).ok_or_else(|| ApiError::not_found("approval", id))
}

/// Decide a pending approval. Only governors may, and nobody decides on an own request.
#[utoipa::path(
    post, path = "/admin/v1/approvals/{id}/decision", operation_id = "approvals.decide",
    params(("id" = Uuid, Path, description = "Its id")), request_body = DecisionRequest,
    responses(
        (status = 200, body = Approval),
        (status = 403, description = "Not a governor, or the own request", body = Problem),
        (status = 404, description = "No such approval", body = Problem),
        (status = 409, description = "Decided or expired already", body = Problem),
    ),
)]
async fn decide(
    State(state): State<AppState>,
    caller: Caller,
    PathOf(id): PathOf<Uuid>,
    JsonBody(request): JsonBody<DecisionRequest>,
) -> Result<Json<Approval>, ApiError> {
    if !caller.principal.governor {
        return Err(ApiError::Denied { reason: "governor_required", rule: None });
    }
    admin_events::check_reason(&request.reason)?;
    let policy = state.policy();
    let lifetime_s = policy.document.approvals.clone().unwrap_or_default().lifetime_s;
    let terms = Terms { lifetime: Duration::from_secs(u64::from(lifetime_s)), public_url: &state.settings.public_url };
    let decided = store::decide(&state.database, id, request.decision, Actor::from(&caller), &request.reason, terms).await;
    let outcome = decided.as_ref().map_or("not_decided", |approval| if approval.status == "approved" { "approved" } else { "rejected" });
    Metrics::count(&state.metrics.approvals, outcome);
    decided.map(Json).map_err(|error| refusal(error, id))
}

fn refusal(error: DecideError, id: Uuid) -> ApiError {
    match error {
        DecideError::Unknown => ApiError::not_found("approval", id),
        DecideError::OwnRequest => ApiError::Denied { reason: "own_request", rule: None },
        DecideError::NotPending => ApiError::conflict("the approval is not pending"),
        DecideError::Database(error) => ApiError::Database(error),
    }
}

async fn page(State(state): State<AppState>, PathOf(id): PathOf<String>) -> Result<Response, ApiError> {
    let found = match Uuid::try_parse(&id) {
        Ok(id) => store::find(&state.database, id).await?,
        Err(_not_an_id) => None,
    };
    let (status, body) = match &found {
        Some(approval) => (StatusCode::OK, render(approval)),
        None => (StatusCode::NOT_FOUND, document("No such approval", "<p>There is no approval with this id.</p>")),
    };
    // Nothing on the page runs, loads, is framed, is kept, or tells the next site where the reader came from.
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    Ok((status, headers, body).into_response())
}

fn render(approval: &Approval) -> String {
    let moment = |at: time::OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
    let query = if approval.query.is_empty() { "" } else { " (with a query, which the API shows)" };
    let facts = [
        ("Status", approval.status.clone()),
        ("Action", approval.action.clone()),
        ("Request", format!("{} {}{}{query}", approval.method, approval.authority, approval.path)),
        ("Gateway", approval.gateway.clone()),
        ("Route", approval.route.clone()),
        ("User", format!("{} at {}", approval.subject, approval.issuer)),
        ("Requested", moment(approval.requested_at)),
        ("Expires", moment(approval.expires_at)),
        ("Decided by", approval.decided_by_subject.clone().unwrap_or_default()),
        ("Reason", approval.decision_reason.clone().unwrap_or_default()),
    ];
    let rows: String = facts
        .iter()
        .filter(|(_, fact)| !fact.is_empty())
        .map(|(name, fact)| format!("<tr><th scope=\"row\">{name}</th><td>{}</td></tr>", escaped(fact)))
        .collect();
    let how = format!(
        "<p>A governor decides through the API, with a token for it:</p><pre>POST /admin/v1/approvals/{}/decision\n\
         {{\"decision\": \"approve\", \"reason\": \"…\"}}</pre><p>or <code>\"reject\"</code>. Nobody decides on an own request.</p>",
        approval.id
    );
    document("Approval", &format!("<table>{rows}</table>{how}"))
}

fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>body{{font:16px system-ui;max-width:48rem;margin:2rem auto}}th{{text-align:left;padding-right:1rem}}\
         td{{overflow-wrap:anywhere}}</style></head><body><main><h1>{title}</h1>{body}</main></body></html>"
    )
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_request_cannot_become_markup() {
        assert_eq!(escaped("<a href='x'>&\"</a>"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;&lt;/a&gt;");
    }
}
