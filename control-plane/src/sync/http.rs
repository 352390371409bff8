//! `POST /data-plane/v1/sync`.

use super::places::Place;
use super::{SyncError, answer};
use crate::app::AppState;
use crate::caller::Envoy;
use crate::drain;
use crate::extract::refused_bytes;
use crate::holders::AdmitError;
use crate::metrics::Metrics;
use crate::problem::ApiError;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use std::time::Instant;
use wire::frame::{self, MEDIA_TYPE_SYNC};
use wire::sync::SyncRequest;

/// Reports, asks and delivers; the answer holds grants, recalls, approvals and the acknowledgement of records.
///
/// # Errors
/// The body is not a sync call, the call is stale or foreign, the holder is closed, there are more calls than places, or the database is away.
pub async fn sync(
    State(state): State<AppState>,
    envoy: Envoy,
    _place: Place,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    let result = sync_bytes(&state, &envoy, &headers, body).await;
    state.metrics.sync_seconds.observe(started.elapsed().as_secs_f64());
    Metrics::count(&state.metrics.sync_calls, result.as_ref().map_or_else(ApiError::code, |_answer| "ok"));
    let answer = result?;
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPE_SYNC)], envoy.draining.header(), answer).into_response())
}

async fn sync_bytes(
    state: &AppState,
    envoy: &Envoy,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Vec<u8>, ApiError> {
    if headers.get(header::CONTENT_TYPE).is_none_or(|value| value != MEDIA_TYPE_SYNC) {
        return Err(ApiError::UnsupportedMediaType { expected: MEDIA_TYPE_SYNC });
    }
    let body = body.map_err(|refused| refused_bytes(&refused))?;
    let request: SyncRequest = frame::decode(&body).map_err(|error| ApiError::invalid(error.to_string()))?;
    let answer = answer(state, envoy, &request, drain::left(headers)?).await?;
    frame::encode(&answer).map_err(|error| ApiError::internal("sync answer", error))
}

impl From<SyncError> for ApiError {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Invalid(detail) => Self::InvalidReport { detail },
            SyncError::CapsChanged => Self::Unavailable { what: "caps that stay for a moment" },
            SyncError::NotAdmitted(AdmitError::StaleCall) => Self::StaleCall,
            SyncError::NotAdmitted(AdmitError::Closed { last_sequence }) => Self::HolderClosed { last_sequence },
            SyncError::NotAdmitted(AdmitError::Foreign) => Self::ForeignHolder,
            SyncError::NotAdmitted(AdmitError::Database(error)) | SyncError::Database(error) => Self::Database(error),
        }
    }
}
