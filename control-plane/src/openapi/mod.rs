//! The description of the admin API, at `/openapi.json`.

use axum::Json;
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};
use std::sync::Arc;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, InfoBuilder, OpenApi, OpenApiBuilder, SecurityRequirement};

const BEARER: &str = "bearer";

/// What the slices' descriptions are merged into.
#[must_use]
pub fn base() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Plant Gateway control plane")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Policies, budgets, approvals and the audit log. Every call needs a bearer token of an issuer that the \
             policy in force accepts for the gateway ADMIN, and the permission that its route table asks for. \
             Failures are problem details (RFC 9457).",
        ))
        .build();
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    let mut components = Components::new();
    components.add_security_scheme(BEARER, SecurityScheme::Http(scheme));
    let none: [&str; 0] = [];
    OpenApiBuilder::new().info(info).components(Some(components)).security(Some([SecurityRequirement::new(BEARER, none)])).build()
}

/// Serves a finished description.
pub fn serve<S: Clone + Send + Sync + 'static>(description: OpenApi) -> MethodRouter<S> {
    let description = Arc::new(description);
    get(async move || Json(&*description).into_response())
}
