//! `POST /data-plane/v1/drain`: an Envoy that is about to stop gives back what it has leased, and is asked again and again what is
//! left.
//!
//! It counts as about to stop for ten seconds after each call. Meanwhile its workers hear of it, by the answers to their polls and
//! sync calls; they give back every lease that no request has a part of, deliver their records, and say in each call what is left. They are
//! granted exactly what requests wait for: those that are under way go on as ever, and nothing lies in a lease that is not needed.

use crate::app::AppState;
use crate::caller::Envoy;
use crate::problem::ApiError;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName};
use serde::Serialize;
use sqlx::PgPool;
use std::time::Duration;
use wire::drain::{DRAINING_HEADER, LEFT_HEADER, Left};

/// Short, so that one that is called off heals by itself, and that an Envoy which starts again under the same name soon has leases to
/// spend from. Whoever waits asks much more often.
const LASTS_S: f64 = 10.0;

/// A worker that has said nothing for so long is gone, and what it had is forfeited: nobody waits for that. One that is idle calls
/// every 20 s.
const SILENT_S: f64 = 30.0;

/// Whether an Envoy is about to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Draining {
    /// It is not.
    #[default]
    No,
    /// It counts as such for so long.
    For(Duration),
}

impl Draining {
    /// From what the database says is left of it, in milliseconds.
    #[must_use]
    pub fn of(left_ms: Option<i64>) -> Self {
        match left_ms.and_then(|left| u64::try_from(left).ok()) {
            None | Some(0) => Self::No,
            Some(left) => Self::For(Duration::from_millis(left)),
        }
    }

    /// What the filter is told of it.
    #[must_use]
    pub fn header(self) -> Option<[(HeaderName, String); 1]> {
        match self {
            Self::No => None,
            Self::For(left) => Some([(HeaderName::from_static(DRAINING_HEADER), left.as_millis().to_string())]),
        }
    }
}

/// Whether the filter that asks knows that its Envoy is about to stop.
#[must_use]
pub fn is_known(headers: &HeaderMap) -> bool {
    headers.contains_key(DRAINING_HEADER)
}

/// What the worker that calls has left; absent when it does not know of the drain.
///
/// # Errors
/// The header cannot be read.
pub fn left(headers: &HeaderMap) -> Result<Option<Left>, ApiError> {
    let text = headers.get(LEFT_HEADER).map(|value| value.to_str().unwrap_or_default());
    text.map(|text| text.parse().map_err(|error: wire::drain::InvalidLeft| ApiError::invalid(error.to_string()))).transpose()
}

/// What an Envoy has left. Kept flat and in this order, for scripts that have no more than `grep`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Rest {
    /// It counts as about to stop.
    draining: bool,
    /// Workers that have anything left, or have not said yet.
    open_workers: i64,
    /// Accounts that they have leases on, of which something is unused or reserved by a request. One of a worker that has not said counts
    /// at least.
    open_leases: i64,
    /// What is unused of those, summed over all units.
    unused_units: i64,
    /// Audit records, and approvals to give back, that they have not delivered.
    queued_records: i64,
}

/// The Envoy of this token is about to stop. Answers what it has left.
///
/// # Errors
/// The token is not good, or the database is away.
pub async fn drain(State(state): State<AppState>, envoy: Envoy) -> Result<Json<Rest>, ApiError> {
    let rest = drain_one(&state.database, &envoy.envoy_id).await?;
    if envoy.draining == Draining::No {
        tracing::info!(envoy_id = envoy.envoy_id, open_leases = rest.open_leases, "an Envoy is about to stop: its leases are recalled");
    }
    Ok(Json(rest))
}

async fn drain_one(database: &PgPool, envoy_id: &str) -> Result<Rest, sqlx::Error> {
    sqlx::query(
        "UPDATE envoys SET draining_until = now() + make_interval(secs => $2), \
             draining_since = CASE WHEN draining_until > now() THEN draining_since ELSE now() END WHERE envoy_id = $1",
    )
    .bind(envoy_id)
    .bind(LASTS_S)
    .execute(database)
    .await?;
    // What a worker says of itself counts if it was in its last call: after that a replica that takes no notice of it may have granted
    // more. What is kept here is added, whatever was said.
    sqlx::query_as(
        "WITH workers AS ( \
             SELECT h.holder, h.left_leases, h.left_units, h.left_records, \
                 coalesce(h.left_call = h.last_call AND h.last_seen_at >= e.draining_since, false) AS has_said \
             FROM holders AS h JOIN envoys AS e USING (envoy_id) \
             WHERE h.envoy_id = $1 AND h.closed_at IS NULL AND h.last_seen_at > now() - make_interval(secs => $2)), \
         rests AS ( \
             SELECT greatest(kept.leases, CASE WHEN has_said THEN left_leases ELSE 1 END) AS leases, \
                 greatest(kept.units, CASE WHEN has_said THEN left_units ELSE 0 END) AS units, \
                 CASE WHEN has_said THEN left_records ELSE 0 END AS records \
             FROM workers CROSS JOIN LATERAL ( \
                 SELECT count(*) AS leases, coalesce(sum(granted - used - held), 0) AS units \
                 FROM budget_leases AS l WHERE l.holder = workers.holder AND l.granted > l.used) AS kept) \
         SELECT true AS draining, count(*) FILTER (WHERE leases > 0 OR records > 0) AS open_workers, coalesce(sum(leases), 0)::bigint AS open_leases, \
             coalesce(sum(units), 0)::bigint AS unused_units, coalesce(sum(records), 0)::bigint AS queued_records \
         FROM rests",
    )
    .bind(envoy_id)
    .bind(SILENT_S)
    .fetch_one(database)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_can_be_searched_for_as_text() {
        let rest = Rest { draining: true, open_workers: 1, open_leases: 2, unused_units: 30, queued_records: 4 };
        let text = serde_json::to_string(&rest).unwrap();
        assert_eq!(text, r#"{"draining":true,"open_workers":1,"open_leases":2,"unused_units":30,"queued_records":4}"#);
    }

    #[test]
    fn a_drain_that_is_over_is_none() {
        for left in [None, Some(-1), Some(0)] {
            assert_eq!(Draining::of(left), Draining::No, "{left:?}");
        }
        assert_eq!(Draining::of(Some(2_500)).header().map(|[(_, value)]| value).as_deref(), Some("2500"));
    }
}
