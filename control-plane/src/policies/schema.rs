//! The JSON Schema of policy files, for editors: the same as `policies/schema.json`.

use crate::app::AppState;
use crate::caller::Caller;
use axum::Json;
use axum::extract::State;
use serde_json::Value;

/// The JSON Schema (draft 2020-12) of one policy file.
#[utoipa::path(
    get, path = "/admin/v1/policies/schema", operation_id = "policies.schema",
    responses((status = 200, description = "A JSON Schema", body = Object)),
)]
pub(super) async fn schema(State(_state): State<AppState>, _caller: Caller) -> Json<Value> {
    Json(authoring::schema::value())
}
