//! Deliveries, for operators: what waits, what was given up, and once more.

use super::store::{self, Delivery, State as DeliveryState};
use crate::admin_events::{self, Actor, AdminEvent};
use crate::app::AppState;
use crate::caller::Caller;
use crate::extract::{JsonBody, PathOf, QueryOf};
use crate::paging::PageSize;
use crate::problem::{ApiError, Problem};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(redeliver))
}

/// Which deliveries to list.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Only those that are so far.
    pub state: Option<DeliveryState>,
    /// At most so many: 50 by default, 200 at most.
    pub limit: Option<u32>,
}

/// Deliveries, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct DeliveryList {
    /// The deliveries.
    pub deliveries: Vec<Delivery>,
}

/// Why it is delivered again.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RedeliveryRequest {
    /// Why.
    pub reason: String,
}

/// List deliveries to webhooks, newest first.
#[utoipa::path(
    get, path = "/admin/v1/webhooks/deliveries", operation_id = "webhooks.list", params(ListQuery),
    responses((status = 200, body = DeliveryList)),
)]
async fn list(State(state): State<AppState>, QueryOf(query): QueryOf<ListQuery>) -> Result<Json<DeliveryList>, ApiError> {
    let limit = PageSize::READ.of(query.limit)?;
    let deliveries = store::list(&state.database, query.state, limit.rows()).await?;
    Ok(Json(DeliveryList { deliveries }))
}

/// Deliver again what was given up, or what the receiver took and lost. It keeps its id, URL and text.
#[utoipa::path(
    post, path = "/admin/v1/webhooks/deliveries/{id}/redelivery", operation_id = "webhooks.redeliver",
    params(("id" = Uuid, Path, description = "Its id")), request_body = RedeliveryRequest,
    responses(
        (status = 202, body = Delivery),
        (status = 404, description = "No such delivery", body = Problem),
        (status = 409, description = "It is being delivered already", body = Problem),
    ),
)]
async fn redeliver(
    State(state): State<AppState>,
    caller: Caller,
    PathOf(id): PathOf<Uuid>,
    JsonBody(request): JsonBody<RedeliveryRequest>,
) -> Result<(StatusCode, Json<Delivery>), ApiError> {
    admin_events::check_reason(&request.reason)?;
    let mut transaction = state.database.begin().await?;
    let found = store::lock(&mut transaction, id).await?.ok_or_else(|| ApiError::not_found("delivery", id))?;
    if found.delivered_at.is_none() && found.dead_at.is_none() {
        // Dropped, it would hold the row until its connection is used again, and the next round would leave the row out.
        transaction.rollback().await?;
        return Err(ApiError::conflict("the delivery is pending; it is tried again by itself"));
    }
    let restarted = store::restart(&mut transaction, id).await?;
    let (target, detail) = (id.to_string(), json!({ "event_type": found.event_type, "url": found.url, "was": found.state }));
    let event = AdminEvent { action: "webhook.redeliver", target: &target, reason: &request.reason, detail };
    admin_events::record(&mut transaction, Actor::from(&caller), event).await?;
    transaction.commit().await?;
    Ok((StatusCode::ACCEPTED, Json(restarted)))
}
