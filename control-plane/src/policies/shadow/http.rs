//! The shadow over HTTP: begin, end, report.

use super::{Report, store};
use crate::admin_events::{self, Actor};
use crate::app::AppState;
use crate::caller::Caller;
use crate::extract::JsonBody;
use crate::policies::http::{compile_candidate, files_of};
use crate::policies::store::policies_lock;
use crate::policies::{Revision, follow};
use crate::problem::{ApiError, Problem};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// How long a run may be asked to last.
const DURATION_S_MAX: u64 = 30 * 86_400;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(begin, report)).routes(routes!(end))
}

/// Which revision to evaluate, and why.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Beginning {
    /// The revision.
    pub revision: Revision,
    /// Why.
    pub reason: String,
    /// For how long, in seconds, at most 30 days; until somebody ends it when absent.
    #[serde(default)]
    pub duration_s: Option<u64>,
}

/// Why it ends.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ending {
    /// Why.
    pub reason: String,
}

/// A shadow began or ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ShadowChanged {
    /// The number of the beginning or end; part of the bundle's version.
    pub number: i64,
    /// The version that this replica serves from now on.
    pub enforced_version: String,
}

/// Evaluate a revision beside the active one, on live traffic. It decides nothing.
#[utoipa::path(
    post, path = "/admin/v1/policies/shadow", operation_id = "policies.shadow.begin", request_body = Beginning,
    responses(
        (status = 201, body = ShadowChanged), (status = 404, description = "No such revision", body = Problem),
        (status = 409, description = "The revision is in force", body = Problem),
        (status = 422, description = "It does not compile here", body = Problem),
    ),
)]
async fn begin(
    State(state): State<AppState>,
    caller: Caller,
    JsonBody(beginning): JsonBody<Beginning>,
) -> Result<(StatusCode, Json<ShadowChanged>), ApiError> {
    let Beginning { revision, reason, duration_s } = beginning;
    admin_events::check_reason(&reason)?;
    if duration_s.is_some_and(|seconds| !(1..=DURATION_S_MAX).contains(&seconds)) {
        return Err(ApiError::invalid("`duration_s` is not 1 to 2592000"));
    }
    compile_candidate(&state, files_of(&state, revision).await?).await?;
    let mut transaction = state.database.begin().await?;
    policies_lock(&mut transaction).await?;
    let duration = duration_s.map(Duration::from_secs);
    let number = store::begin(&mut transaction, revision, Actor::from(&caller), &reason, duration).await?;
    transaction.commit().await?;
    changed(&state, number).await.map(|changed| (StatusCode::CREATED, Json(changed)))
}

/// End the run. Its report stays.
#[utoipa::path(
    post, path = "/admin/v1/policies/shadow/end", operation_id = "policies.shadow.end", request_body = Ending,
    responses((status = 200, body = ShadowChanged), (status = 409, description = "No revision is in shadow", body = Problem)),
)]
async fn end(State(state): State<AppState>, caller: Caller, JsonBody(ending): JsonBody<Ending>) -> Result<Json<ShadowChanged>, ApiError> {
    admin_events::check_reason(&ending.reason)?;
    let mut transaction = state.database.begin().await?;
    policies_lock(&mut transaction).await?;
    let number = store::end(&mut transaction, Actor::from(&caller), &ending.reason).await?;
    transaction.commit().await?;
    changed(&state, number).await.map(Json)
}

/// What would promoting the revision in shadow change? Of the run that goes on, else of the last one.
#[utoipa::path(
    get, path = "/admin/v1/policies/shadow", operation_id = "policies.shadow.report",
    responses((status = 200, body = Report), (status = 404, description = "No revision was ever in shadow", body = Problem)),
)]
async fn report(State(state): State<AppState>, _caller: Caller) -> Result<Json<Report>, ApiError> {
    let run = store::latest_run(&state.database).await?.ok_or_else(|| ApiError::not_found("shadow", "latest"))?;
    let totals = store::totals(&state.database, run.number).await?;
    let (differences, changed) = store::differences(&state.database, run.number).await?;
    let examples = store::examples(&state.database, &run).await?;
    Ok(Json(Report::new(run, totals, changed, differences, examples)))
}

async fn changed(state: &AppState, number: i64) -> Result<ShadowChanged, ApiError> {
    follow::refresh(state).await?;
    Ok(ShadowChanged { number, enforced_version: state.policy().tag() })
}
