//! `/health`: the process runs. `/ready`: it can do its work, and what keeps it from it.

use crate::app::AppState;
use crate::policies::PolicyFault;
use crate::policies::enforcement::ahead_message;
use crate::restore::{self, Past, fence};
use crate::start::MIGRATOR;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use decision_core::causes::chain;
use serde_json::{Value, json};
use std::error::Error;
use std::time::Duration;

/// A store that does not answer within this is not ready.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// They are read every second; a replica that does not would let in who is revoked.
const REVOCATIONS_AGE_MAX: Duration = Duration::from_secs(10);

/// What `/ready` says of a part that works.
const OK: &str = "ok";

/// The probes, on both listeners, without a credential.
pub fn router() -> Router<AppState> {
    Router::new().route("/health", get(health)).route("/ready", get(ready))
}

async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

async fn ready(State(state): State<AppState>) -> (StatusCode, Json<Value>) {
    let (migrations, valkey) = tokio::join!(probe("postgres", migrations_missing(&state)), probe("valkey", valkey_ping(&state)));
    let (postgres, migrations) = match migrations {
        Ok(0) => (OK, OK.to_owned()),
        Ok(missing) => (OK, format!("{missing} are not applied")),
        Err(reason) => (reason, "unknown".to_owned()),
    };
    let valkey = valkey.map_or_else(|reason| reason, |_pong| OK);
    let revocations = if state.revoked.age() > REVOCATIONS_AGE_MAX { "not read lately" } else { OK };
    let process = if state.shutdown.is_cancelled() { "stopping" } else { OK };
    let ready = [postgres, &migrations, valkey, revocations, process].iter().all(|part| *part == OK);
    let checks =
        json!({ "postgres": postgres, "migrations": migrations, "valkey": valkey, "revocations": revocations, "process": process });
    let (code, status) = if ready { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not_ready") };
    (code, Json(json!({ "status": status, "checks": checks, "policy": policy(&state), "restore": past(&state).await })))
}

/// A fence does not make the replica unready: policies and revocations should be served, and records stored.
async fn past(state: &AppState) -> &'static str {
    let read = async { restore::past(&mut *state.database.acquire().await?).await };
    match probe("fence", read).await {
        Ok(Past::Whole) => "none",
        Ok(Past::Recovered { .. }) => "recovered",
        Ok(Past::Fenced) => fence::MESSAGE,
        Err(reason) => reason,
    }
}

/// A fault here does not make the replica unready: the last good policy is in force and should be served.
fn policy(state: &AppState) -> Value {
    let active = state.policy();
    let faults = state.policy_faults.borrow();
    json!({
        "version": active.tag(),
        "activation": active.version.activation,
        "revision": active.version.revision,
        "key_set": active.version.key_set,
        "shadow": active.version.shadow,
        "revocation": state.revoked.number(),
        "directory_fault": faults.directory.as_ref().map(fault),
        "activation_fault": faults.activation.as_ref().map(fault),
        "workers_ahead": faults.workers_ahead.map(ahead_message),
    })
}

fn fault(fault: &PolicyFault) -> Value {
    json!({ "file": fault.file, "line": fault.line, "field": fault.field, "message": fault.message })
}

/// Waits for a bounded time. The cause goes to the log; the reader of `/ready` learns only which part it is.
async fn probe<T, E: Error + 'static>(part: &'static str, work: impl Future<Output = Result<T, E>>) -> Result<T, &'static str> {
    match tokio::time::timeout(PROBE_TIMEOUT, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            tracing::warn!(part, error = %chain(&error), "not ready");
            Err("unavailable")
        }
        Err(_elapsed) => {
            tracing::warn!(part, "not ready: no answer in time");
            Err("no answer in time")
        }
    }
}

async fn migrations_missing(state: &AppState) -> Result<usize, sqlx::Error> {
    let applied: Vec<(i64,)> = sqlx::query_as("SELECT version FROM _sqlx_migrations WHERE success").fetch_all(&state.database).await?;
    Ok(MIGRATOR.iter().filter(|wanted| !applied.iter().any(|(version,)| *version == wanted.version)).count())
}

async fn valkey_ping(state: &AppState) -> Result<String, redis::RedisError> {
    redis::cmd("PING").query_async(&mut state.valkey.clone()).await
}
