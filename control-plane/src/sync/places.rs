//! How many sync calls are carried out at a time. The rest are refused at once, before their bodies are read: a filter keeps what it has to
//! tell and calls again, while a queue here would take memory and answer when nobody listens any more.

use crate::app::AppState;
use crate::problem::ApiError;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Calls for each connection to Postgres: one that is carried out, and those that it comes to within the time that a filter waits.
const PER_CONNECTION: usize = 16;

/// The places of a process.
#[derive(Clone, Debug)]
pub struct Places(Arc<Semaphore>);

impl Places {
    /// As many as so many connections to Postgres can serve in time.
    #[must_use]
    pub fn of(connections: u32) -> Self {
        let connections = usize::try_from(connections).unwrap_or(1).max(1);
        Self(Arc::new(Semaphore::new(connections.saturating_mul(PER_CONNECTION))))
    }

    /// All that are left.
    #[must_use]
    pub fn take_all(&self) -> Option<OwnedSemaphorePermit> {
        let left = u32::try_from(self.0.available_permits()).ok()?;
        Arc::clone(&self.0).try_acquire_many_owned(left).ok()
    }
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    _held: OwnedSemaphorePermit,
}

impl FromRequestParts<AppState> for Place {
    type Rejection = ApiError;

    async fn from_request_parts(_parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let held = Arc::clone(&state.sync_places.0).try_acquire_owned();
        held.map(|held| Self { _held: held }).map_err(|_all_taken| {
            state.metrics.sync_calls_shed.inc();
            ApiError::Unavailable { what: "there are more calls than can be carried out in time" }
        })
    }
}
