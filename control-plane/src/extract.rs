//! Reading requests: like axum's extractors, but what is wrong is answered with problem details.

use crate::problem::ApiError;
use axum::extract::rejection::{BytesRejection, FormRejection, JsonRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::{Form, Json};
use serde::de::DeserializeOwned;

/// A JSON body.
#[derive(Clone, Copy, Debug)]
pub struct JsonBody<T>(pub T);

/// Parameters of the path.
#[derive(Clone, Copy, Debug)]
pub struct PathOf<T>(pub T);

/// Parameters of the query.
#[derive(Clone, Copy, Debug)]
pub struct QueryOf<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Json(value) = Json::from_request(request, state).await.map_err(refused_body)?;
        Ok(Self(value))
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathOf<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(value) = Path::from_request_parts(parts, state).await.map_err(|refused| ApiError::invalid(refused.body_text()))?;
        Ok(Self(value))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryOf<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(value) = Query::from_request_parts(parts, state).await.map_err(|refused| ApiError::invalid(refused.body_text()))?;
        Ok(Self(value))
    }
}

/// A form of a page.
#[derive(Clone, Copy, Debug)]
pub struct FormOf<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for FormOf<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Form(value) = Form::from_request(request, state).await.map_err(refused_form)?;
        Ok(Self(value))
    }
}

/// The texts of axum would quote what was sent, which may be a token.
#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is axum's and non-exhaustive")]
fn refused_form(refused: FormRejection) -> ApiError {
    match refused {
        FormRejection::InvalidFormContentType(_) => ApiError::UnsupportedMediaType { expected: "application/x-www-form-urlencoded" },
        FormRejection::BytesRejection(cause) => refused_bytes(&cause),
        _ => ApiError::invalid("a field of the form is missing, unknown or malformed"),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is axum's and non-exhaustive")]
fn refused_body(refused: JsonRejection) -> ApiError {
    match refused {
        JsonRejection::MissingJsonContentType(_) => ApiError::UnsupportedMediaType { expected: "application/json" },
        JsonRejection::BytesRejection(cause) => refused_bytes(&cause),
        other => ApiError::invalid(other.body_text()),
    }
}

/// Why a body could not be read: too large, or the client broke off.
#[must_use]
pub fn refused_bytes(refused: &BytesRejection) -> ApiError {
    if refused.status() == StatusCode::PAYLOAD_TOO_LARGE { ApiError::TooLarge } else { ApiError::invalid("the body could not be read") }
}

/// A moment as Postgres can have it: in a far year some are in none of UTC's.
///
/// # Errors
/// It is so far away.
pub fn utc(moment: time::OffsetDateTime) -> Result<time::OffsetDateTime, ApiError> {
    moment.checked_to_offset(time::UtcOffset::UTC).ok_or_else(|| ApiError::invalid("a time is too far away"))
}
