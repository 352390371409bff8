//! Signing in: a governor pastes an access token of an issuer that the policy accepts for the admin API.

use super::session::{self, SessionKey};
use super::viewer::{Viewer, admitted, check_origin};
use super::views::{SignInPage, page};
use crate::app::AppState;
use crate::caller::now;
use crate::extract::{FormOf, QueryOf};
use crate::problem::ApiError;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use uuid::Uuid;

const LIST: &str = "/approvals";

/// Where to go after signing in.
#[derive(Clone, Debug, Deserialize)]
pub struct Next {
    next: Option<String>,
}

/// What somebody pastes.
#[derive(Clone, Deserialize)]
#[expect(missing_debug_implementations, reason = "a token must not be printed")]
pub struct Credentials {
    token: String,
    next: Option<String>,
}

/// A form key alone.
#[derive(Clone, Debug, Deserialize)]
pub struct FormKey {
    form_key: String,
}

/// The way to the form, and from there to where somebody wanted to go.
#[must_use]
pub fn way_in(path: &str) -> String {
    format!("/sign-in?next={}", local(Some(path.trim_end_matches("/decision"))))
}

/// Only our own pages of approvals: anything else would let a link lead people who trust this page elsewhere.
fn local(next: Option<&str>) -> String {
    let id = next.and_then(|next| next.strip_prefix("/approvals/")).and_then(|id| Uuid::try_parse(id).ok());
    id.map_or_else(|| LIST.to_owned(), |id| format!("/approvals/{id}"))
}

/// `GET /sign-in`.
pub async fn form(QueryOf(query): QueryOf<Next>) -> Response {
    page(StatusCode::OK, &SignInPage { viewer: None, next: local(query.next.as_deref()), error: None })
}

/// `POST /sign-in`.
///
/// # Errors
/// The form came from elsewhere, or the database failed. A token that does not do is told on the form.
pub async fn sign_in(
    State(state): State<AppState>,
    headers: HeaderMap,
    FormOf(credentials): FormOf<Credentials>,
) -> Result<Response, ApiError> {
    check_origin(&state.settings.public_url, &headers)?;
    let next = local(credentials.next.as_deref());
    let pasted = credentials.token.trim();
    let token = pasted.strip_prefix("Bearer ").unwrap_or(pasted);
    let principal = match admitted(&state, format!("Bearer {token}").as_bytes()).await {
        Ok(principal) => principal,
        Err(refused @ (ApiError::CredentialRefused(_) | ApiError::Denied { .. })) => return Ok(refused_token(&refused, next)),
        Err(other) => return Err(other),
    };
    let key = SessionKey::random().map_err(|error| ApiError::internal("random numbers", error))?;
    let lifetime = session::lifetime(&principal.identity, now());
    session::open(&state.database, &key, &principal.identity, lifetime).await?;
    let mut response = Redirect::to(&next).into_response();
    if let Some(cookie) = key.cookie(&state.settings.public_url, lifetime) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

fn refused_token(refused: &ApiError, next: String) -> Response {
    let problem = refused.problem();
    let error = match problem.status {
        403 => "The token is good, and its roles do not permit to see approvals.".to_owned(),
        _ => format!("The token was not accepted: {}.", problem.detail),
    };
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::UNAUTHORIZED);
    page(status, &SignInPage { viewer: None, next, error: Some(error) })
}

/// `POST /sign-out`.
///
/// # Errors
/// The form came from elsewhere, or the database failed.
pub async fn sign_out(State(state): State<AppState>, headers: HeaderMap, FormOf(form): FormOf<FormKey>) -> Result<Response, ApiError> {
    let viewer = Viewer::of(&state, &headers).await?;
    viewer.check_form(&state, &headers, &form.form_key)?;
    if let Some(key) = SessionKey::of(&headers, &state.settings.public_url) {
        session::close(&state.database, &key).await?;
    }
    let mut response = Redirect::to("/sign-in").into_response();
    if let Some(cookie) = session::no_cookie(&state.settings.public_url) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_our_own_pages_is_gone_to() {
        let id = Uuid::nil();
        assert_eq!(local(Some(&format!("/approvals/{id}"))), format!("/approvals/{id}"));
        for other in ["", "/", "//evil.test", "https://evil.test", "/\\evil.test", "/approvals/..//evil", "/approvals/x\r\nset-cookie: a=b"]
        {
            assert_eq!(local(Some(other)), "/approvals", "{other:?}");
        }
        assert_eq!(way_in(&format!("/approvals/{id}/decision")), format!("/sign-in?next=/approvals/{id}"));
    }
}
