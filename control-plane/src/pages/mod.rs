//! Pages for people with a browser: the requests that wait for a governor, and the one that an `approval_url` names.
//!
//! Rendered here, without a script; every decision goes through the same function as the API's. Whoever is signed in is
//! judged anew for every request: by the policy in force, and by what was revoked meanwhile.

pub mod approvals;
pub mod errors;
pub mod session;
pub mod sign_in;
pub mod viewer;
pub mod views;

use crate::app::AppState;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

/// Largest form: a token and a reason.
const FORM_MAX: usize = 64 * 1024;

const STYLE: &str = include_str!("../../templates/page.css");

/// The pages. They stand outside the API's authorisation, and ask for themselves who is there.
pub fn router() -> Router<AppState> {
    Router::new()
        .route("/approvals", get(approvals::list))
        .route("/approvals/{id}", get(approvals::show))
        .route("/approvals/{id}/decision", post(approvals::decide))
        .route("/sign-in", get(sign_in::form).post(sign_in::sign_in))
        .route("/sign-out", post(sign_in::sign_out))
        .layer(from_fn(errors::for_people))
        .route("/assets/page.css", get(style))
        .layer(DefaultBodyLimit::max(FORM_MAX))
        .layer(from_fn(guarded))
}

async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE)
}

/// Nothing on a page runs, is loaded from elsewhere, is framed, or is kept. The origin of a form must be told to us, and
/// nothing to other sites: `same-origin`, since `no-referrer` would also hide the origin of forms.
async fn guarded(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let policy = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
