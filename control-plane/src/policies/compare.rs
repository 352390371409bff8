//! Two versions of the policy side by side: as text, and as decisions that change.

use crate::app::AppState;
use crate::caller::Caller;
use crate::extract::QueryOf;
use crate::policies::drafts::{DraftId, store as drafts};
use crate::policies::http::{compile_candidate, files_of};
use crate::policies::{ActivePolicy, Files, Revision};
use crate::problem::{ApiError, Problem};
use authoring::diff::{self, Change, Comparison, Side};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(compare))
}

/// What to compare.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct CompareQuery {
    /// The number of a revision, or `draft:7`.
    pub from: String,
    /// The number of a revision, or `draft:7`.
    pub to: String,
}

/// How two versions of the policy differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PolicyDiff {
    /// What was compared: `from`.
    pub from: String,
    /// What was compared: `to`.
    pub to: String,
    /// All of it in a sentence.
    pub summary: String,
    /// A unified diff of every file that differs; empty when none does.
    pub text: String,
    /// Decisions that change, grouped; at most 500 groups.
    pub decisions: Vec<DecisionChange>,
    /// How many decisions were compared: callers times endpoints.
    pub compared: u64,
    /// How many of them change.
    pub changed: u64,
    /// Whether the policies have too many distinct callers and routes for all of them to be compared.
    pub truncated: bool,
}

/// A group of decisions that change in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct DecisionChange {
    /// The gateway.
    pub gateway: &'static str,
    /// How it is decided under `from`.
    pub from: String,
    /// How it is decided under `to`.
    pub to: String,
    /// Of which endpoints, as `GET /api/v1/agents`; at most 50.
    pub endpoints: Vec<String>,
    /// How many endpoints.
    pub endpoint_count: usize,
    /// For which callers; at most 50.
    pub callers: Vec<String>,
    /// How many callers.
    pub caller_count: usize,
}

impl From<Change> for DecisionChange {
    fn from(change: Change) -> Self {
        let Change { gateway, from, to, endpoints, endpoint_count, callers, caller_count } = change;
        Self { gateway: gateway.name(), from, to, endpoints, endpoint_count, callers, caller_count }
    }
}

/// Compare two revisions, or a revision with a draft: as text and as decisions, made by the code that enforces.
#[utoipa::path(
    get, path = "/admin/v1/policies/diff", operation_id = "policies.diff", params(CompareQuery),
    responses(
        (status = 200, body = PolicyDiff), (status = 404, description = "No such revision or draft", body = Problem),
        (status = 422, description = "One of them does not compile here", body = Problem),
    ),
)]
async fn compare(
    State(state): State<AppState>,
    _caller: Caller,
    QueryOf(CompareQuery { from, to }): QueryOf<CompareQuery>,
) -> Result<Json<PolicyDiff>, ApiError> {
    let (old_files, old) = named(&state, &from).await?;
    let (new_files, new) = named(&state, &to).await?;
    let work = move || {
        let text = diff::text(&old_files, &new_files);
        let Comparison { changes, compared, changed, truncated, summary } = diff::decisions(&side(&old), &side(&new));
        let decisions = changes.into_iter().map(DecisionChange::from).collect();
        PolicyDiff { from, to, summary, text, decisions, compared, changed, truncated }
    };
    let compared = tokio::task::spawn_blocking(work).await;
    compared.map(Json).map_err(|stopped| ApiError::internal("comparing policies", stopped))
}

fn side(policy: &ActivePolicy) -> Side<'_> {
    Side { document: &policy.document, compiled: &policy.loaded.policy }
}

/// The files of what is named, and the policy that they are: a revision, or a draft.
///
/// # Errors
/// There is no such thing, or it does not compile here.
pub(crate) async fn named(state: &AppState, name: &str) -> Result<(Files, ActivePolicy), ApiError> {
    let files = match name.strip_prefix("draft:") {
        Some(id) => {
            let id = DraftId(number(id)?);
            drafts::find(&state.database, id).await?.ok_or_else(|| ApiError::not_found("draft", id))?.files
        }
        None => files_of(state, Revision(number(name)?)).await?,
    };
    let compiled = compile_candidate(state, files.clone()).await?;
    Ok((files, compiled))
}

fn number(text: &str) -> Result<i64, ApiError> {
    text.parse().map_err(|_cause| ApiError::invalid("a policy is named by the number of a revision, or `draft:` and the number of a draft"))
}
