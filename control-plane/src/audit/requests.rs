//! Which requests the log has, and where it has gaps, for whoever holds something else against it: `plant-gateway audit reconcile` does it with
//! Envoy's access log. Told line by line out of one snapshot, so that any number of requests takes the same memory.

use super::access::Access;
use super::http::moment;
use super::lines::Lines;
use super::query::Gap;
use crate::app::AppState;
use crate::extract::QueryOf;
use crate::problem::{ApiError, Problem};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use decision_core::causes::chain;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

/// Rows that are read and told at once.
const PAGE: usize = 2_000;
/// Answers of this process at a time: each keeps a connection for as long as it takes.
static READERS: Semaphore = Semaphore::const_new(2);

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(requests))
}

/// Of when.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct SpanOfRequests {
    /// Requests that arrived from this time on (RFC 3339).
    pub from: String,
    /// Before this time (RFC 3339).
    pub to: String,
}

/// A line of the answer. The last one is `end` or `error`; without either the answer is not whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestLine {
    /// A request that ended, as far as it is needed to find it elsewhere.
    Request(RecordedRequest),
    /// What is known to be missing, where it touches the span.
    Gap(Gap),
    /// That was all.
    End(End),
    /// It could not be finished.
    Error(EarlyEnd),
}

/// A request that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct RecordedRequest {
    /// The request's id.
    pub request_id: String,
    /// The holder that reported it.
    pub holder: Uuid,
    /// Its place in the holder's sequence.
    pub sequence: i64,
    /// The Envoy.
    pub envoy_id: String,
    /// `filter`, or `envoy` where that answered before the filter was asked.
    pub stage: String,
    /// The status sent to the client.
    pub status: Option<i32>,
    /// When it arrived, microseconds since the epoch.
    pub at_us: i64,
    /// When it ended, microseconds since the epoch.
    pub ended_us: i64,
}

/// What was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct End {
    /// So many requests.
    pub requests: u64,
    /// So many gaps.
    pub gaps: u64,
    /// When it was looked, microseconds since the epoch: what ended later has no record here yet.
    pub at_us: i64,
}

/// Why it ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct EarlyEnd {
    /// In words.
    pub detail: &'static str,
}

/// Which requests of a span of time have a record, and which gaps touch it.
///
/// The answer is NDJSON. It goes on for as long as it takes; whoever hangs up stops it.
#[utoipa::path(
    get, path = "/admin/v1/audit/requests", operation_id = "audit.requests", params(SpanOfRequests),
    responses(
        (status = 200, description = "One line of JSON after the other", body = RequestLine, content_type = "application/x-ndjson"),
        (status = 400, description = "A parameter is not valid", body = Problem),
        (status = 409, description = "Others are being told here", body = Problem),
    ),
)]
async fn requests(State(state): State<AppState>, QueryOf(span): QueryOf<SpanOfRequests>) -> Result<Response, ApiError> {
    let (from, to) = (moment(&span.from)?, moment(&span.to)?);
    let reading = READERS.try_acquire().map_err(|_none_left| ApiError::conflict("two others are being told here already"))?;
    let (lines, body) = mpsc::channel(2);
    tokio::spawn(async move {
        let told = tokio::select! {
            () = state.shutdown.cancelled() => Err(EarlyEnd { detail: "the control plane is stopping" }),
            told = tell_all(&state, from, to, &lines) => told,
        };
        if let Err(early) = told {
            let _nobody_reads = tell(&lines, &[RequestLine::Error(early)]).await;
        }
        drop(reading);
    });
    let ndjson = HeaderValue::from_static("application/x-ndjson");
    Ok(([(header::CONTENT_TYPE, ndjson)], Body::new(Lines(body))).into_response())
}

/// Who does not read for so long is not waited for: others want the place, and Postgres ends idle transactions.
const READ_WITHIN: Duration = Duration::from_secs(4);
const SLOW: EarlyEnd = EarlyEnd { detail: "the lines were not read within 4 s" };

impl From<sqlx::Error> for EarlyEnd {
    fn from(error: sqlx::Error) -> Self {
        tracing::error!(error = %chain(&error), "which requests are recorded cannot be read");
        Self { detail: "the audit log cannot be read" }
    }
}

async fn tell(lines: &mpsc::Sender<Bytes>, told: &[RequestLine]) -> Result<(), EarlyEnd> {
    let mut bytes = Vec::new();
    for line in told {
        serde_json::to_writer(&mut bytes, line).map_err(|_unwritable| EarlyEnd { detail: "a line cannot be written" })?;
        bytes.push(b'\n');
    }
    // Nobody is told by whoever has hung up.
    timeout(READ_WITHIN, lines.send(Bytes::from(bytes))).await.map_err(|_elapsed| SLOW)?.map_err(|_hung_up| SLOW)
}

/// Requests first, then gaps. A record that arrives meanwhile is in neither, nor is the gap that it would close.
async fn tell_all(state: &AppState, from: OffsetDateTime, to: OffsetDateTime, lines: &mpsc::Sender<Bytes>) -> Result<(), EarlyEnd> {
    let mut transaction = state.database.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *transaction).await?;
    Access::Auditor.enter(&mut transaction).await?;
    let (at_us,): (i64,) =
        sqlx::query_as("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").fetch_one(&mut *transaction).await?;
    let mut end = End { at_us, ..End::default() };
    declare_requests(&mut transaction, from, to).await?;
    loop {
        let page: Vec<RecordedRequest> = sqlx::query_as("FETCH 2000 FROM requests").fetch_all(&mut *transaction).await?;
        let count = page.len();
        end.requests = end.requests.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        let page: Vec<RequestLine> = page.into_iter().map(RequestLine::Request).collect();
        tell(lines, &page).await?;
        if count < PAGE {
            break;
        }
    }
    let gaps = super::query::gaps_in(&mut transaction, Some(from), Some(to), i64::MAX).await?;
    end.gaps = u64::try_from(gaps.len()).unwrap_or(u64::MAX);
    transaction.rollback().await?;
    let last: Vec<RequestLine> = gaps.into_iter().map(RequestLine::Gap).chain(std::iter::once(RequestLine::End(end))).collect();
    tell(lines, &last).await
}

/// Intents are left out: their outcomes follow. A record is not looked for among what arrived long before its request did.
async fn declare_requests(connection: &mut PgConnection, from: OffsetDateTime, to: OffsetDateTime) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DECLARE requests NO SCROLL CURSOR FOR \
         SELECT request_id, holder, sequence, envoy_id, stage, status_code AS status, \
             (extract(epoch FROM \"timestamp\") * 1000000)::bigint AS at_us, \
             (extract(epoch FROM \"timestamp\") * 1000000)::bigint + total_us AS ended_us \
         FROM gateway_audit_logs WHERE phase = 'outcome' AND \"timestamp\" >= $1 AND \"timestamp\" < $2 \
             AND received_at >= $1 - interval '1 day'",
    )
    .persistent(false)
    .bind(from)
    .bind(to)
    .execute(connection)
    .await
    .map(|_declared| ())
}
