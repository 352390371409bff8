//! Who calls us: [`Caller`] on the admin API, [`Envoy`] on the data plane.

use crate::app::AppState;
use crate::problem::ApiError;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use decision_core::principal::{CredentialFault, Principal};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// A person who may do what was asked: verified, and authorised by [`authorise`] before any handler runs.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it is, under the policy in force.
    pub principal: Arc<Principal>,
}

impl Caller {
    /// Our name for the issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.principal.identity.issuer
    }

    /// The subject; a user is (issuer, subject).
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.principal.identity.subject
    }
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &AppState) -> Result<Self, ApiError> {
        // Absent only where a route was mounted outside the authorised router, which must never answer.
        parts.extensions.get::<Self>().cloned().ok_or(ApiError::CredentialMissing)
    }
}

/// An Envoy, identified by its data-plane token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envoy {
    /// Its id; every holder and record of this connection belongs to it.
    pub envoy_id: String,
    /// Lets a long poll ask again whether the token is still good.
    token_sha256: [u8; 32],
}

impl Envoy {
    /// Asks the database who presents this token. The digest is looked up whole: neither the index nor the comparison
    /// sees the token, so timing tells nothing about it.
    pub async fn identify(database: &sqlx::PgPool, token_sha256: [u8; 32]) -> Result<Self, ApiError> {
        let row: Option<(String,)> =
            sqlx::query_as("SELECT envoy_id FROM envoys WHERE token_sha256 = $1 AND revoked_at IS NULL")
                .bind(token_sha256.as_slice())
                .fetch_optional(database)
                .await?;
        row.map(|(envoy_id,)| Self { envoy_id, token_sha256 }).ok_or(ApiError::EnvoyUnknown)
    }

    /// Refuses when the token was revoked since.
    pub async fn recheck(&self, database: &sqlx::PgPool) -> Result<(), ApiError> {
        Self::identify(database, self.token_sha256).await.map(|_still| ())
    }
}

impl FromRequestParts<AppState> for Envoy {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let token = bearer(&parts.headers)?;
        Self::identify(&state.database, Sha256::digest(token).into()).await
    }
}

/// The bearer token of a request. The scheme is case-insensitive (RFC 9110 §11.1); a repeated header is refused.
fn bearer(headers: &HeaderMap) -> Result<&[u8], ApiError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(ApiError::CredentialMissing)?;
    if values.next().is_some() {
        return Err(ApiError::CredentialRefused(CredentialFault::NotBearer));
    }
    let (scheme, token) = value
        .as_bytes()
        .split_at_checked("Bearer ".len())
        .ok_or(ApiError::CredentialRefused(CredentialFault::NotBearer))?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") || token.is_empty() {
        return Err(ApiError::CredentialRefused(CredentialFault::NotBearer));
    }
    Ok(token)
}
