//! The data plane: what Envoys call. `GET /data-plane/v1/bundle` is a long poll; `POST /data-plane/v1/sync` is in
//! [`crate::sync`], `GET /data-plane/v1/revocations` in [`crate::revocations`], `POST /data-plane/v1/drain` in [`crate::drain`].

use crate::app::AppState;
use crate::caller::Envoy;
use crate::extract::QueryOf;
use crate::metrics::Metrics;
use crate::policies::ActivePolicy;
use crate::problem::ApiError;
use crate::{drain, revocations, sync};
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use wire::frame::MEDIA_TYPE_BUNDLE;

/// Largest sync call.
const SYNC_BODY_MAX: usize = 16 * 1024 * 1024;

/// How long a poll is held when the caller does not say, and at most.
const WAIT_DEFAULT_S: u64 = 25;
const WAIT_MAX_S: u64 = 30;

/// How soon a revoked token ends a held poll.
pub const RECHECK: Duration = Duration::from_secs(1);

/// The version of a bundle, readable without decoding it.
const VERSION_HEADER: HeaderName = HeaderName::from_static("x-gateway-bundle-version");
/// The revision of a bundle.
const REVISION_HEADER: HeaderName = HeaderName::from_static("x-gateway-policy-revision");

/// The routes of the data plane.
pub fn router() -> Router<AppState> {
    Router::new()
        .route("/data-plane/v1/bundle", get(bundle))
        .route("/data-plane/v1/revocations", get(revocations::feed::feed))
        .route("/data-plane/v1/drain", post(drain::drain))
        .route("/data-plane/v1/sync", post(sync::http::sync).layer(DefaultBodyLimit::max(SYNC_BODY_MAX)))
}

/// How long the caller is ready to wait.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// Seconds; more than the maximum counts as the maximum.
    pub wait_s: Option<u64>,
}

impl Wait {
    /// When the wait is over.
    #[must_use]
    pub fn deadline(self) -> Instant {
        Instant::now() + Duration::from_secs(self.wait_s.unwrap_or(WAIT_DEFAULT_S).min(WAIT_MAX_S))
    }
}

/// The bundle in force: at once if the caller has another, else as soon as it changes, else 304.
///
/// # Errors
/// The token is not, or no longer, good.
pub async fn bundle(
    State(state): State<AppState>,
    envoy: Envoy,
    QueryOf(wait): QueryOf<Wait>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let known = known_tags(&headers);
    let awaited = awaited_change(&state, &envoy, &known, wait.deadline()).await;
    let outcome = match &awaited {
        Ok(Some(_)) => "sent",
        Ok(None) => "not_modified",
        Err(error) => error.code(),
    };
    Metrics::count(&state.metrics.bundle_answers, outcome);
    Ok(match awaited? {
        Some(policy) => sent(&policy),
        None => not_modified(&state.policy()),
    })
}

/// Waits until the policy in force is none of `known`; `None` when the time is up or the process is stopping.
async fn awaited_change(
    state: &AppState,
    envoy: &Envoy,
    known: &[String],
    deadline: Instant,
) -> Result<Option<Arc<ActivePolicy>>, ApiError> {
    let mut active = state.active.subscribe();
    loop {
        let policy = Arc::clone(&active.borrow_and_update());
        if !known.iter().any(|tag| has_as_much(tag, &policy)) {
            return Ok(Some(policy));
        }
        if Instant::now() >= deadline || state.shutdown.is_cancelled() {
            return Ok(None);
        }
        tokio::select! {
            () = state.shutdown.cancelled() => {}
            () = changed_until(&mut active, deadline.min(Instant::now() + RECHECK)) => {}
        }
        // The token may have been revoked while the poll was held.
        envoy.recheck(&state.database).await?;
    }
}

async fn changed_until(active: &mut watch::Receiver<Arc<ActivePolicy>>, moment: Instant) {
    // Elapsed, changed and closed alike end the wait: the caller looks again.
    let _ = timeout_at(moment, active.changed()).await;
}

/// The versions in `If-None-Match`, without quotes and without the mark of weak tags.
fn known_tags(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/").trim_matches('"').to_owned())
        .collect()
}

/// Whether the caller's version is ours, or newer: another replica may have been first, and an Envoy that is handed an
/// older bundle refuses it and asks again at once.
fn has_as_much(tag: &str, policy: &ActivePolicy) -> bool {
    let ours = policy.tag();
    match (ordered(tag), ordered(&ours)) {
        (Some((theirs, database)), Some((ours, our_database))) => database == our_database && theirs >= ours,
        (None, _) | (_, None) => tag == ours,
    }
}

/// A version tag as numbers that order it, and the database it is of.
fn ordered(tag: &str) -> Option<([u64; 3], &str)> {
    let mut parts = tag.splitn(4, '.');
    let mut number = || parts.next()?.parse().ok();
    let numbers = [number()?, number()?, number()?];
    Some((numbers, parts.next()?))
}

fn sent(policy: &ActivePolicy) -> Response {
    let tag = policy.tag();
    let headers = [
        (header::CONTENT_TYPE, MEDIA_TYPE_BUNDLE.to_owned()),
        (header::ETAG, format!("\"{tag}\"")),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (REVISION_HEADER, policy.version.revision.to_string()),
        (VERSION_HEADER, tag),
    ];
    (StatusCode::OK, headers, policy.image.clone()).into_response()
}

fn not_modified(policy: &ActivePolicy) -> Response {
    let tag = policy.tag();
    let headers = [(header::ETAG, format!("\"{tag}\"")), (VERSION_HEADER, tag)];
    (StatusCode::NOT_MODIFIED, headers).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form_of_if_none_match() {
        let mut headers = HeaderMap::new();
        headers.append(header::IF_NONE_MATCH, "\"1.2.ab\", W/\"1.3.ab\"".parse().unwrap());
        headers.append(header::IF_NONE_MATCH, "1.4.ab".parse().unwrap());
        assert_eq!(known_tags(&headers), ["1.2.ab", "1.3.ab", "1.4.ab"]);
    }

    #[test]
    fn versions_are_ordered_as_numbers_within_one_database() {
        assert!(ordered("10.1.0.ab") > ordered("9.7.5.ab"));
        assert!(ordered("1.2.10.ab") > ordered("1.2.9.ab"), "a shadow that began or ended is a newer version");
        assert_eq!(ordered("1.2.3.ab"), Some(([1, 2, 3], "ab")));
        for other in ["", "1.2", "1.2.ab", "1.2.x.ab", "-1.2.3.ab"] {
            assert_eq!(ordered(other), None, "{other}");
        }
    }

    #[test]
    fn a_wait_is_bounded() {
        let longest = Instant::now() + Duration::from_secs(WAIT_MAX_S);
        assert!(Wait { wait_s: Some(u64::MAX) }.deadline() <= longest + Duration::from_secs(1));
    }
}
