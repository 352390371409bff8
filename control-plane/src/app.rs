//! What handlers share, and the two routers that tests and `main` serve.

use crate::audit::checkpoints::Signing;
use crate::budgets::alerts::Remembered;
use crate::budgets::caps::Caps;
use crate::metrics::Metrics;
use crate::outbound::GuardedClient;
use crate::policies::{ActivePolicy, PolicyFaults};
use crate::revocations::{self, Revoked};
use crate::settings::Settings;
use crate::sync::places::Places;
use crate::{approvals, audit, budgets, caller, data_plane, keys, openapi, pages, policies, probes, problem, request_log, webhooks};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

/// Longest time that an admin request may take. Every one is a handful of queries.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time that a data-plane request may take: a held poll and a little more.
const DATA_PLANE_TIMEOUT: Duration = Duration::from_secs(40);

/// Largest body of an admin request; a publication carries every policy file.
const ADMIN_BODY_MAX: usize = 4 * 1024 * 1024;

/// What handlers and background tasks share. Cheap to clone.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "pools and connections have nothing worth printing")]
pub struct AppState {
    /// Postgres: everything that must survive.
    pub database: sqlx::PgPool,
    /// Redis or Valkey: counters that may be lost.
    pub valkey: redis::aio::ConnectionManager,
    /// The policy in force. Readers `borrow()` or `subscribe()`; only [`policies::follow`] sends.
    pub active: Arc<watch::Sender<Arc<ActivePolicy>>>,
    /// What keeps a newer policy from being loaded, for `/ready`.
    pub policy_faults: Arc<watch::Sender<PolicyFaults>>,
    /// Everything that is revoked; [`revocations::follow`] keeps it current.
    pub revoked: Arc<Revoked>,
    /// Caps and override accounts; [`budgets::caps::follow`] keeps them current.
    pub caps: Arc<Caps>,
    /// Levels of volatile accounts that are recorded.
    pub alerted: Arc<Remembered>,
    /// Calls to issuers, for key sets.
    pub outbound: GuardedClient,
    /// Calls to receivers of events.
    pub webhooks: GuardedClient,
    /// Which issuers were asked for keys lately because of who called the admin API.
    pub keys_asked: Arc<keys::Asked>,
    /// What signs where the audit log stands, if anything does.
    pub signing: Option<Arc<Signing>>,
    /// How many sync calls are carried out at a time.
    pub sync_places: Places,
    /// How this process was configured.
    pub settings: Arc<Settings>,
    /// Counters of this process.
    pub metrics: Arc<Metrics>,
    /// Cancelled when the process is asked to stop: nothing more is granted and long polls end.
    pub shutdown: CancellationToken,
}

impl AppState {
    /// The policy in force at this moment.
    #[must_use]
    pub fn policy(&self) -> Arc<ActivePolicy> {
        Arc::clone(&self.active.borrow())
    }
}

/// The routes of the admin API with their OpenAPI descriptions, before authorisation is put around them.
#[must_use]
pub fn admin_routes() -> OpenApiRouter<AppState> {
    operators_routes().merge(users_routes())
}

/// What the gateways' users may ask too, with the tokens that they have for those.
fn users_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().merge(budgets::original::router()).merge(audit::own::router())
}

fn operators_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::base())
        .merge(policies::http::router())
        .merge(budgets::http::router())
        .merge(budgets::caps::http::router())
        .merge(approvals::http::router())
        .merge(audit::http::router())
        .merge(audit::retention::router())
        .merge(audit::explain::router())
        .merge(audit::replay::router())
        .merge(audit::requests::router())
        .merge(keys::http::router())
        .merge(revocations::http::router())
        .merge(webhooks::http::router())
}

/// The admin listener: admin API, its description, probes and metrics.
pub fn admin_app(state: AppState) -> Router {
    let description = admin_routes().into_openapi();
    // Authorisation surrounds every route of the API, so that a handler cannot forget it.
    let (operators, _) = operators_routes().split_for_parts();
    let operators = operators.route_layer(from_fn_with_state(state.clone(), caller::authorise));
    let (users, _) = users_routes().split_for_parts();
    let users = users.route_layer(from_fn_with_state(state.clone(), caller::authorise_user));
    operators
        .merge(users)
        .merge(probes::router())
        .merge(pages::router())
        .route("/metrics", get(crate::metrics::metrics))
        .route("/openapi.json", openapi::serve(description))
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(DefaultBodyLimit::max(ADMIN_BODY_MAX))
        .layer(from_fn(|request, next| problem::time_limited(ADMIN_TIMEOUT, request, next)))
        .layer(from_fn(request_log::log))
        .with_state(state)
}

/// The data-plane listener: bundle, sync and probes.
pub fn data_plane_app(state: AppState) -> Router {
    data_plane::router()
        .merge(probes::router())
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(from_fn(|request, next| problem::time_limited(DATA_PLANE_TIMEOUT, request, next)))
        .layer(from_fn(request_log::log))
        .with_state(state)
}
