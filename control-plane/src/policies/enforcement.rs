//! Proof of enforcement: which workers enforce what was activated, and which rules of it do anything.

use crate::app::AppState;
use crate::caller::Caller;
use crate::holders::SILENCE_MAX;
use crate::policies::shadow::grouped;
use crate::policies::validation::{Place, findings};
use crate::policies::{Activation, Files, PolicyFaults, Revision, rule_hits, store};
use crate::problem::ApiError;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use sqlx::{FromRow, PgPool};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The most workers, and rules, that are listed by name.
const LISTED_MAX: usize = 100;

/// A rule that has not matched for so long is worth a look.
const UNMATCHED_DAYS: i32 = 30;

/// Who is a worker here. Envoy has more threads with a filter than report.
const COUNTED: &str = "workers that have had a request, and reported within the last minute; a worker reports within a second of enforcing \
                       an activation. Not counted: a worker before its first request, which takes what is in force before it serves, and \
                       Envoy's main thread, which serves nobody";

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(enforcement))
}

/// How far what was activated is enforced, and what of it does nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Enforcement {
    /// "revision 17 is enforced by 12 of 12 workers".
    pub summary: String,
    /// Who is counted as a worker, and who is not.
    pub counted: &'static str,
    /// The activation in force.
    pub activation: Activation,
    /// Its revision.
    pub revision: Revision,
    /// The key set that this replica serves.
    pub key_set: u64,
    /// The newest beginning or end of a shadow; 0 before the first.
    pub shadow: i64,
    /// Workers, as `counted` says.
    pub workers: usize,
    /// Those of them that enforce the activation.
    pub enforcing: usize,
    /// Those that still enforce an earlier one; at most 100.
    pub lagging: Vec<Worker>,
    /// Those that enforce a later one: the database was restored from an older backup; at most 100.
    pub ahead: Vec<Worker>,
    /// Rules that have not matched for 30 days, as `route agents.create`; at most 100.
    pub unmatched: Vec<String>,
    /// How many they are.
    pub unmatched_count: usize,
    /// What looks like a mistake: a budget that matches no route, a permission that no role has, …
    pub findings: Vec<Place>,
}

/// A worker, and what it says that it enforces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Worker {
    /// The worker.
    pub holder: uuid::Uuid,
    /// Its Envoy.
    pub envoy_id: String,
    /// The activation; 0 before its first bundle.
    pub activation: i64,
    /// The revision of that activation.
    pub revision: Option<Revision>,
    /// When it said so.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub last_seen_at: OffsetDateTime,
}

/// Which workers enforce what was activated, which rules never match, and what looks like a mistake.
#[utoipa::path(
    get, path = "/admin/v1/policies/enforcement", operation_id = "policies.enforcement",
    responses((status = 200, body = Enforcement)),
)]
async fn enforcement(State(state): State<AppState>, _caller: Caller) -> Result<Json<Enforcement>, ApiError> {
    let in_force = store::activation_active(&state.database).await?.ok_or(ApiError::Unavailable { what: "no policy is active" })?;
    let store::InForce { record, files, shadow, in_shadow: _ } = in_force;
    let workers = workers(&state.database).await?;
    let all = workers.len();
    let (mut lagging, others): (Vec<_>, Vec<_>) = workers.into_iter().partition(|worker| worker.activation < record.activation.0);
    let (mut ahead, enforcing): (Vec<_>, Vec<_>) = others.into_iter().partition(|worker| worker.activation > record.activation.0);
    let summary = summary(record.revision, enforcing.len(), all);
    lagging.truncate(LISTED_MAX);
    ahead.truncate(LISTED_MAX);
    let policy = state.policy();
    let matches = rule_hits::matches(&state.database, &policy).await?;
    let mut unmatched: Vec<String> =
        rule_hits::unmatched(matches, UNMATCHED_DAYS).into_iter().map(|rule| format!("{} {}", rule.kind, rule.rule)).collect();
    let unmatched_count = unmatched.len();
    unmatched.truncate(LISTED_MAX);
    let key_set = policy.version.key_set;
    Ok(Json(Enforcement {
        summary,
        counted: COUNTED,
        activation: record.activation,
        revision: record.revision,
        key_set,
        shadow,
        workers: all,
        enforcing: enforcing.len(),
        lagging,
        ahead,
        unmatched,
        unmatched_count,
        findings: found(&state, files).await?,
    }))
}

/// Of the files in force, as far as this replica has switched to them.
async fn found(state: &AppState, files: Files) -> Result<Vec<Place>, ApiError> {
    let policy = state.policy();
    let work = move || findings(&policy, &files);
    tokio::task::spawn_blocking(work).await.map_err(|stopped| ApiError::internal("looking for mistakes", stopped))
}

fn summary(revision: Revision, enforcing: usize, all: usize) -> String {
    let number = |count: usize| grouped(i64::try_from(count).unwrap_or(i64::MAX));
    match all {
        0 => format!("revision {revision} is active; no worker reported within the last minute"),
        all => format!("revision {revision} is enforced by {} of {} workers", number(enforcing), number(all)),
    }
}

async fn workers(database: &PgPool) -> Result<Vec<Worker>, sqlx::Error> {
    sqlx::query_as(
        "SELECT h.holder, h.envoy_id, h.activation, a.revision, h.last_seen_at \
         FROM holders h LEFT JOIN policy_activations a ON a.activation = h.activation \
         WHERE h.closed_at IS NULL AND h.last_seen_at > now() - make_interval(secs => $1) ORDER BY h.activation, h.holder",
    )
    .bind(SILENCE_MAX.as_secs_f64())
    .fetch_all(database)
    .await
}

/// Looks whether workers enforce an activation that the database does not know: then it was restored from a backup that is
/// older than what they have, and they refuse everything that it serves until its number is higher. Keeps what it finds where
/// `/ready` and the metrics show it.
pub async fn watch_ahead(state: &AppState) -> Result<(), sqlx::Error> {
    let (ahead,): (Option<Activation>,) = sqlx::query_as(
        "SELECT max(activation) FROM holders WHERE closed_at IS NULL AND last_seen_at > now() - make_interval(secs => $1) \
         AND activation > coalesce((SELECT max(activation) FROM policy_activations), 0)",
    )
    .bind(SILENCE_MAX.as_secs_f64())
    .fetch_one(&state.database)
    .await?;
    let changed = state.policy_faults.send_if_modified(|faults| {
        let changed = faults.workers_ahead != ahead;
        *faults = PolicyFaults { workers_ahead: ahead, ..std::mem::take(faults) };
        changed
    });
    if changed && let Some(activation) = ahead {
        tracing::error!(%activation, "workers enforce an activation that the database does not have: an older backup was restored");
    }
    state.metrics.workers_ahead.set(i64::from(ahead.is_some()));
    let faulty = !state.policy_faults.borrow().is_empty();
    state.metrics.policy_fault.set(i64::from(faulty));
    Ok(())
}

/// The message of `/ready`.
#[must_use]
pub fn ahead_message(activation: Activation) -> String {
    format!(
        "workers enforce activation {activation}, which this database does not have: an older backup was restored, and they keep what \
         they have until an activation here has a higher number"
    )
}
