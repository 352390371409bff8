//! `GET /data-plane/v1/revocations`: page after page until a filter has caught up, then a long poll for news.

use super::copy::Position;
use crate::app::AppState;
use crate::caller::Envoy;
use crate::data_plane::{RECHECK, Wait};
use crate::drain::{self, Draining};
use crate::extract::QueryOf;
use crate::metrics::Metrics;
use crate::problem::ApiError;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use wire::frame;
use wire::revocation::RevocationPage;

/// Media type of a page.
pub const MEDIA_TYPE_REVOCATIONS: &str = "application/vnd.plant-gateway.revocations";

/// What the filter knows, and how long it is ready to wait.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The last number that it knows; 0 if absent.
    #[serde(default)]
    after: u64,
    /// The database that it is of, 32 hexadecimal digits; absent when the filter knows nothing.
    database: Option<String>,
    /// The number of the last change to caps that it knows; absent when it does not ask about them.
    caps: Option<u64>,
    /// Seconds; more than the maximum counts as the maximum.
    wait_s: Option<u64>,
}

/// What follows: at once if there is anything, else as soon as there is, else an empty page.
///
/// # Errors
/// The token is not, or no longer, good, or the question cannot be read.
pub async fn feed(
    State(state): State<AppState>,
    envoy: Envoy,
    QueryOf(asked): QueryOf<Asked>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let database = asked.database.as_deref().map(parse_database).transpose()?;
    let position = Position { after: asked.after, database };
    let deadline = Wait { wait_s: asked.wait_s }.deadline();
    let known = Known { position, caps: asked.caps, draining: drain::is_known(&headers) };
    let awaited = awaited_page(&state, &envoy, known, deadline).await;
    let outcome = match &awaited {
        Ok((page, _)) if page.reset => "reset",
        Ok((page, _)) if page.changes.is_empty() => "nothing_new",
        Ok(_) => "sent",
        Err(error) => error.code(),
    };
    Metrics::count(&state.metrics.revocation_answers, outcome);
    let (page, draining) = awaited?;
    let body = frame::encode(&page).map_err(|error| ApiError::internal("revocation page", error))?;
    let headers = [(header::CONTENT_TYPE, MEDIA_TYPE_REVOCATIONS), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, draining.header(), body).into_response())
}

/// What the filter knows.
#[derive(Clone, Copy, Debug)]
struct Known {
    position: Position,
    caps: Option<u64>,
    /// That its Envoy is about to stop.
    draining: bool,
}

/// Waits for a page that is worth sending, or that the Envoy is about to stop; the empty page when the time is up or the process is
/// stopping.
async fn awaited_page(
    state: &AppState,
    envoy: &Envoy,
    Known { position, caps, draining: knows_draining }: Known,
    deadline: Instant,
) -> Result<(RevocationPage, Draining), ApiError> {
    let mut draining = envoy.draining;
    let database_id = state.policy().version.database_id;
    let (mut number, mut caps_number) = (state.revoked.subscribe(), state.caps.subscribe());
    loop {
        number.borrow_and_update();
        let known = *caps_number.borrow_and_update();
        let page = RevocationPage { caps: known, ..state.revoked.page(database_id, position) };
        let changed = page.reset || page.through != position.after || caps.is_some_and(|theirs| theirs != known);
        let news = changed || (draining != Draining::No && !knows_draining);
        if news || Instant::now() >= deadline || state.shutdown.is_cancelled() {
            return Ok((page, draining));
        }
        tokio::select! {
            () = state.shutdown.cancelled() => {}
            // Elapsed, changed and closed alike end the wait: we look again.
            _ = timeout_at(deadline.min(Instant::now() + RECHECK), number.changed()) => {}
            _ = caps_number.changed() => {}
        }
        // The token may have been revoked while the poll was held.
        draining = envoy.recheck(&state.database).await?;
    }
}

fn parse_database(text: &str) -> Result<[u8; 16], ApiError> {
    let invalid = || ApiError::invalid("`database` is not 32 hexadecimal digits");
    if text.len() != 32 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(invalid());
    }
    u128::from_str_radix(text, 16).map(u128::to_be_bytes).map_err(|_| invalid())
}
