//! How long records are kept: days per gateway, and legal holds, under which nothing is dropped.

use super::access::{self, Access};
use crate::admin_events::{self, Actor, AdminEvent};
use crate::app::AppState;
use crate::caller::Caller;
use crate::extract::{JsonBody, PathOf};
use crate::problem::{ApiError, Problem};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{FromRow, PgConnection};
use time::{Date, OffsetDateTime};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(read)).routes(routes!(keep)).routes(routes!(hold)).routes(routes!(release))
}

/// How long records of a gateway are kept, and what of it there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Retention {
    /// `CP`, `PP`, `PLANT` or `ADMIN`.
    pub gateway: String,
    /// So many days.
    pub days: i32,
    /// The first day that there are records of, by arrival.
    #[schema(value_type = Option<String>, format = Date)]
    pub oldest: Option<Date>,
    /// The day until which there are partitions.
    #[schema(value_type = Option<String>, format = Date)]
    pub until: Option<Date>,
}

/// A legal hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Hold {
    /// Its id.
    pub id: i64,
    /// Of which gateway; absent: of every one.
    pub gateway: Option<String>,
    /// Why.
    pub reason: String,
    /// By whom.
    pub placed_by: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub placed_at: OffsetDateTime,
}

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Kept {
    /// By gateway.
    pub gateways: Vec<Retention>,
    /// Holds that are not released.
    pub holds: Vec<Hold>,
}

/// How long to keep.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// So many days, 1 to 36,500.
    pub days: i32,
    /// Why.
    pub reason: String,
}

/// A hold to place.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Of which gateway; absent: of every one.
    pub gateway: Option<String>,
    /// Why.
    pub reason: String,
}

/// Why a hold is released.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Why.
    pub reason: String,
}

const GATEWAYS: [&str; 4] = ["CP", "PP", "PLANT", "ADMIN"];

fn check_gateway(gateway: &str) -> Result<(), ApiError> {
    if GATEWAYS.contains(&gateway) { Ok(()) } else { Err(ApiError::not_found("gateway", gateway)) }
}

async fn note(
    connection: &mut PgConnection,
    caller: &Caller,
    (action, target, reason): (&str, &str, &str),
    detail: serde_json::Value,
) -> Result<(), ApiError> {
    access::leave(&mut *connection).await?;
    let event = AdminEvent { action, target, reason, detail };
    Ok(admin_events::record(connection, Actor::from(caller), event).await?)
}

/// How long records are kept, and which holds there are.
#[utoipa::path(get, path = "/admin/v1/audit/retention", operation_id = "audit.retention", responses((status = 200, body = Kept)))]
async fn read(State(state): State<AppState>) -> Result<Json<Kept>, ApiError> {
    let mut transaction = Access::Owner.begin(&state.database).await?;
    let gateways = sqlx::query_as(
        "SELECT gateway_type AS gateway, days, min(day) FILTER (WHERE dropped_at IS NULL) AS oldest, max(day) AS until \
         FROM gateway_audit.retention LEFT JOIN gateway_audit.partitions USING (gateway_type) GROUP BY gateway_type, days ORDER BY gateway_type",
    )
    .fetch_all(&mut *transaction)
    .await?;
    let holds = sqlx::query_as(
        "SELECT id, gateway_type AS gateway, reason, placed_by, placed_at FROM gateway_audit.holds WHERE released_at IS NULL ORDER BY id",
    )
    .fetch_all(&mut *transaction)
    .await?;
    transaction.rollback().await?;
    Ok(Json(Kept { gateways, holds }))
}

/// Keep a gateway's records for so many days. What is older is dropped within the hour.
#[utoipa::path(
    put, path = "/admin/v1/audit/retention/{gateway}", operation_id = "audit.retention.set",
    params(("gateway" = String, Path, description = "The gateway")), request_body = Keep,
    responses((status = 204), (status = 404, description = "No such gateway", body = Problem)),
)]
async fn keep(
    State(state): State<AppState>,
    caller: Caller,
    PathOf(gateway): PathOf<String>,
    JsonBody(asked): JsonBody<Keep>,
) -> Result<StatusCode, ApiError> {
    check_gateway(&gateway)?;
    admin_events::check_reason(&asked.reason)?;
    if !(1..=36_500).contains(&asked.days) {
        return Err(ApiError::invalid("`days` is 1 to 36500"));
    }
    let mut transaction = Access::Owner.begin(&state.database).await?;
    let (before,): (i32,) = sqlx::query_as(
        "UPDATE gateway_audit.retention AS r SET days = $2 FROM gateway_audit.retention AS before \
         WHERE r.gateway_type = $1 AND before.gateway_type = $1 RETURNING before.days",
    )
    .bind(&gateway)
    .bind(asked.days)
    .fetch_one(&mut *transaction)
    .await?;
    let detail = json!({"days": asked.days, "before": before});
    note(&mut transaction, &caller, ("audit.retention", &gateway, &asked.reason), detail).await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Place a legal hold: nothing is dropped until it is released.
#[utoipa::path(
    post, path = "/admin/v1/audit/holds", operation_id = "audit.holds.place", request_body = Place,
    responses((status = 201, body = Hold), (status = 404, description = "No such gateway", body = Problem)),
)]
async fn hold(
    State(state): State<AppState>,
    caller: Caller,
    JsonBody(asked): JsonBody<Place>,
) -> Result<(StatusCode, Json<Hold>), ApiError> {
    asked.gateway.as_deref().map_or(Ok(()), check_gateway)?;
    admin_events::check_reason(&asked.reason)?;
    let mut transaction = Access::Owner.begin(&state.database).await?;
    let placed: Hold = sqlx::query_as(
        "INSERT INTO gateway_audit.holds (gateway_type, reason, placed_by) VALUES ($1, $2, $3) \
         RETURNING id, gateway_type AS gateway, reason, placed_by, placed_at",
    )
    .bind(&asked.gateway)
    .bind(&asked.reason)
    .bind(format!("{}/{}", caller.issuer(), caller.subject()))
    .fetch_one(&mut *transaction)
    .await?;
    let target = placed.id.to_string();
    note(&mut transaction, &caller, ("audit.hold", &target, &asked.reason), json!({"gateway": asked.gateway})).await?;
    transaction.commit().await?;
    Ok((StatusCode::CREATED, Json(placed)))
}

/// Release a legal hold.
#[utoipa::path(
    post, path = "/admin/v1/audit/holds/{id}/release", operation_id = "audit.holds.release",
    params(("id" = i64, Path, description = "Its id")), request_body = Release,
    responses((status = 204), (status = 404, description = "No such hold, or released already", body = Problem)),
)]
async fn release(
    State(state): State<AppState>,
    caller: Caller,
    PathOf(id): PathOf<i64>,
    JsonBody(asked): JsonBody<Release>,
) -> Result<StatusCode, ApiError> {
    admin_events::check_reason(&asked.reason)?;
    let mut transaction = Access::Owner.begin(&state.database).await?;
    let released =
        sqlx::query("UPDATE gateway_audit.holds SET released_by = $2, released_at = now() WHERE id = $1 AND released_at IS NULL")
            .bind(id)
            .bind(format!("{}/{}", caller.issuer(), caller.subject()))
            .execute(&mut *transaction)
            .await?;
    if released.rows_affected() == 0 {
        return Err(ApiError::not_found("open hold", id));
    }
    note(&mut transaction, &caller, ("audit.release", &id.to_string(), &asked.reason), json!({})).await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
