//! What was in force when, and the way back.

use crate::admin_events::{self, Actor};
use crate::app::AppState;
use crate::caller::Caller;
use crate::extract::{JsonBody, QueryOf};
use crate::paging::{Limit, PageSize};
use crate::policies::http::{InForce, ListQuery, activated, active, compile_proposal, files_of};
use crate::policies::store::{Switch, activation_latest, policies_lock};
use crate::policies::{Activation, Revision};
use crate::problem::{ApiError, Problem};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection, PgPool};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(activations)).routes(routes!(rollback))
}

/// An activation and what it replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct HistoryEntry {
    /// Its number; only rises.
    pub activation: Activation,
    /// The revision that it put in force.
    pub revision: Revision,
    /// Who activated it: issuer name.
    pub author_issuer: String,
    /// Who activated it: subject.
    pub author: String,
    /// Why.
    pub reason: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub activated_at: OffsetDateTime,
    /// The activation that it replaced.
    pub replaced_activation: Option<Activation>,
    /// The revision that was in force until then.
    pub replaced_revision: Option<Revision>,
    /// Whether it went back: to an older revision, or by a rollback.
    pub rollback: bool,
}

/// Why to go back.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Why.
    pub reason: String,
    /// Refuse, with 409, if another activation is in force by now.
    #[serde(default)]
    pub expected_activation: Option<Activation>,
}

/// What was in force, newest first.
#[utoipa::path(
    get, path = "/admin/v1/policies/activations", operation_id = "policies.activations", params(ListQuery),
    responses((status = 200, body = Vec<HistoryEntry>), (status = 400, body = Problem)),
)]
async fn activations(
    State(state): State<AppState>,
    _caller: Caller,
    QueryOf(query): QueryOf<ListQuery>,
) -> Result<Json<Vec<HistoryEntry>>, ApiError> {
    let limit = PageSize::READ.of(query.limit)?;
    Ok(Json(history(&state.database, query.before.map(Activation), limit).await?))
}

/// Go back to the revision that was in force before the active one. Repeated, it goes back further.
#[utoipa::path(
    post, path = "/admin/v1/policies/rollback", operation_id = "policies.rollback", request_body = RollbackRequest,
    responses(
        (status = 201, body = InForce),
        (status = 409, description = "There is none before it, another activation is in force than was expected, or revocations would be lost", body = Problem),
        (status = 422, description = "It does not compile here any more", body = Problem),
    ),
)]
async fn rollback(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    JsonBody(request): JsonBody<RollbackRequest>,
) -> Result<(StatusCode, Json<InForce>), ApiError> {
    admin_events::check_reason(&request.reason)?;
    let current = activation_latest(&mut *state.database.acquire().await?).await?;
    let current = current.ok_or(ApiError::Unavailable { what: "no policy is active" })?;
    let before = before(&mut *state.database.acquire().await?, current).await?;
    let before = before.ok_or_else(|| ApiError::conflict("no other revision was in force before the active one"))?;
    let compiled = compile_proposal(&state, files_of(&state, before.revision).await?, &headers).await?;
    let mut transaction = state.database.begin().await?;
    policies_lock(&mut transaction).await?;
    // What lies before was looked up for `current`: of two that go back at once, one goes back and the other is told.
    if activation_latest(&mut transaction).await? != Some(current) {
        return Err(ApiError::conflict("another activation came first; look at what is in force"));
    }
    let switch = Switch { revision: before.revision, expected: request.expected_activation, rollback_to: Some(before.activation) };
    activated(transaction, &state, &compiled, switch, Actor::from(&caller), &request.reason).await?;
    Ok((StatusCode::CREATED, active(State(state), caller).await?))
}

/// An earlier state of affairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRow)]
pub(crate) struct Before {
    pub(crate) activation: Activation,
    pub(crate) revision: Revision,
}

/// What was in force before `current`: seen from the activation that a rollback went back to, if it is one.
pub(crate) async fn before(connection: &mut PgConnection, current: Activation) -> Result<Option<Before>, sqlx::Error> {
    sqlx::query_as(
        "SELECT coalesce(past.rollback_to, past.activation) AS activation, past.revision \
         FROM policy_activations AS current JOIN policy_activations AS past \
             ON past.activation < coalesce(current.rollback_to, current.activation) AND past.revision <> current.revision \
         WHERE current.activation = $1 ORDER BY past.activation DESC LIMIT 1",
    )
    .bind(current)
    .fetch_optional(connection)
    .await
}

async fn history(database: &PgPool, before: Option<Activation>, limit: Limit) -> Result<Vec<HistoryEntry>, sqlx::Error> {
    sqlx::query_as(
        "SELECT a.activation, a.revision, a.author_issuer, a.author, a.reason, a.activated_at, p.activation AS replaced_activation, \
             p.revision AS replaced_revision, a.rollback_to IS NOT NULL OR coalesce(a.revision < p.revision, false) AS rollback \
         FROM policy_activations a LEFT JOIN LATERAL (SELECT activation, revision FROM policy_activations \
             WHERE activation < a.activation ORDER BY activation DESC LIMIT 1) AS p ON true \
         WHERE $1::bigint IS NULL OR a.activation < $1 ORDER BY a.activation DESC LIMIT $2",
    )
    .bind(before)
    .bind(limit.rows())
    .fetch_all(database)
    .await
}
