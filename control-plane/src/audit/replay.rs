//! Which recorded requests would be decided otherwise now: the log read page by page and judged as it is read, told line by line.
//! Nothing is kept but counts, so that a million records take no more memory than a thousand.

use super::gateway_name;
use super::judgeable::{self, JudgeableRecord, Range};
use super::lines::Lines;
use crate::app::AppState;
use crate::caller::Caller;
use crate::extract::{JsonBody, utc};
use crate::policies::compare::named;
use crate::policies::explain::InForce;
use crate::policies::{ActivePolicy, Files, Revision, store as revisions};
use crate::problem::{ApiError, Problem};
use authoring::evaluate::without_keys;
use authoring::replay::{Example, Group, Replay, Side, Spend, Tally, Why};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wire::policy::Gateway;

/// Records of one page.
const PAGE: i64 = 5_000;
/// Pages that were read and are not judged yet.
const PAGES_AHEAD: usize = 2;
/// How often progress is told.
const PROGRESS: Duration = Duration::from_millis(250);
/// Revisions that decided what is recorded, kept compiled. Of what others decided less can be told.
const REVISIONS_MAX: usize = 32;
/// Replays of this process at a time: each reads as fast as it can.
static REPLAYS: Semaphore = Semaphore::const_new(2);

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(replay))
}

/// What to replay.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayRequest {
    /// By which policy: the number of a revision, or `draft:7`.
    pub revision: String,
    /// Requests from this time on, in RFC 3339.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub since: OffsetDateTime,
    /// Before this time; now if absent.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<OffsetDateTime>,
    /// Of this gateway alone: `CP`, `PP`, `PLANT` or `ADMIN`.
    #[schema(value_type = Option<String>)]
    pub gateway: Option<Gateway>,
}

/// A line of the answer. The last one is a summary or an error; without either the answer is not whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplayLine {
    /// How far it is.
    Progress(Progress),
    /// What came of it.
    Summary(Box<Summary>),
    /// It could not be finished.
    Error(ReplayError),
}

/// How far a replay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Progress {
    /// Records that were judged.
    pub records: u64,
    /// About how many there are: the database's guess.
    pub estimate: u64,
    /// Requests so far that would be decided otherwise.
    pub different: u64,
}

/// Why a replay ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReplayError {
    /// In words.
    pub detail: &'static str,
}

/// What came of a replay. Counts are of requests: a record of a sampled route stands for many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Summary {
    /// By which policy.
    pub revision: String,
    /// From this time on.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub since: OffsetDateTime,
    /// Before this time.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub until: OffsetDateTime,
    /// Records that were judged.
    pub records: u64,
    /// Requests that would be decided as they were.
    pub same: u64,
    /// Requests that would be decided otherwise.
    pub different: u64,
    /// Requests of which it cannot be told.
    pub undecidable: u64,
    /// Why not.
    pub undecidable_because: Vec<Undecidable>,
    /// The differences, grouped by rule; at most 256 groups, the largest first, and what has no room in them by check.
    pub groups: Vec<Difference>,
    /// What was and would be spent of every budget.
    pub spend: BTreeMap<String, SpendChange>,
}

/// How many requests cannot be judged for a reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Undecidable {
    /// The reason.
    pub why: &'static str,
    /// In words.
    pub text: &'static str,
    /// How many requests.
    pub requests: u64,
}

/// Requests that would be decided otherwise in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Difference {
    /// The rule: the route that they would match, else the one that they matched. Empty: all for which there was no room.
    pub rule: String,
    /// The check, or what becomes of the request: `approval`, `budget`, `credential`, …
    pub aspect: String,
    /// How it was: `ok`, a coded reason, or a value.
    pub before: String,
    /// How it would be.
    pub after: String,
    /// How many requests.
    pub requests: u64,
    /// At most five of them.
    pub examples: Vec<ExampleTold>,
    /// How their spend changes, by budget.
    pub spend: BTreeMap<String, SpendChange>,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ExampleTold {
    /// Its id: for `GET /admin/v1/audit/{id}/explanation`.
    pub request_id: String,
    /// Its correlation id.
    pub correlation_id: String,
    /// When it arrived.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
    /// Where it came to.
    pub gateway: &'static str,
    /// Its method.
    pub method: String,
    /// Its path.
    pub path: String,
    /// The user's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
}

/// What was spent of a budget and would have been, in the budget's unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SpendChange {
    /// As recorded.
    pub recorded: i64,
    /// As replayed.
    pub replayed: i64,
    /// By how much more, or less.
    pub change: i64,
    /// Requests whose new charge cannot be told; they count as before.
    pub unpriced: u64,
}

impl From<&Spend> for SpendChange {
    fn from(spend: &Spend) -> Self {
        let Spend { recorded, replayed, unpriced } = *spend;
        Self { recorded, replayed, change: replayed.saturating_sub(recorded), unpriced }
    }
}

impl From<&Example> for ExampleTold {
    fn from(example: &Example) -> Self {
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(example.at.as_micros()).saturating_mul(1_000));
        Self {
            request_id: example.request_id.clone(),
            correlation_id: example.correlation_id.clone(),
            at: at.unwrap_or(OffsetDateTime::UNIX_EPOCH),
            gateway: example.gateway.name(),
            method: example.method.clone(),
            path: example.path.clone(),
            user_id: example.user_id.clone(),
        }
    }
}

impl From<Group<'_>> for Difference {
    fn from(group: Group<'_>) -> Self {
        let authoring::replay::Difference { rule, aspect, before, after } = group.difference.clone();
        Self {
            rule,
            aspect: aspect.to_owned(),
            before,
            after,
            requests: group.requests,
            examples: group.examples.iter().map(ExampleTold::from).collect(),
            spend: group.spend.iter().map(|(budget, spend)| (budget.clone(), SpendChange::from(spend))).collect(),
        }
    }
}

/// Decide recorded requests again, by another revision or a draft. Nothing is enforced, charged or stored.
///
/// The answer is NDJSON: lines of progress, then one with the summary. It goes on for as long as it takes; whoever hangs up stops it.
#[utoipa::path(
    post, path = "/admin/v1/audit/replays", operation_id = "audit.replay", request_body = ReplayRequest,
    responses(
        (status = 200, description = "One line of JSON after the other", body = ReplayLine, content_type = "application/x-ndjson"),
        (status = 400, body = Problem), (status = 404, description = "No such revision or draft", body = Problem),
        (status = 409, description = "Others are running here", body = Problem),
        (status = 422, description = "It does not compile here", body = Problem),
    ),
)]
async fn replay(State(state): State<AppState>, _caller: Caller, JsonBody(request): JsonBody<ReplayRequest>) -> Result<Response, ApiError> {
    let range = Range {
        since: utc(request.since)?,
        until: request.until.map_or_else(|| Ok(OffsetDateTime::now_utc()), utc)?,
        gateway: request.gateway.map(gateway_name),
    };
    let running = REPLAYS.try_acquire().map_err(|_none_left| ApiError::conflict("two replays are running here already"))?;
    let (_files, policy) = named(&state, &request.revision).await?;
    let estimate = judgeable::estimate(&state.database, &range).await?;
    let (lines, body) = mpsc::channel(4);
    let (pages, read) = mpsc::channel(PAGES_AHEAD);
    let job = Job { revision: request.revision, range: range.clone(), estimate, lines, running };
    tokio::spawn(read_pages(state.clone(), range, pages));
    let (database, handle) = (state.database.clone(), Handle::current());
    // Judging is work for the processor alone, and some rules take their time: off the async threads.
    tokio::task::spawn_blocking(move || job.run(&policy, read, &Revisions::new(database, handle)));
    let ndjson = HeaderValue::from_static("application/x-ndjson");
    Ok(([(header::CONTENT_TYPE, ndjson)], Body::new(Lines(body))).into_response())
}

/// A page of records, or why there are no more.
type Read = Result<Vec<JudgeableRecord>, &'static str>;

/// Reads ahead of who judges, until the range ends or nobody judges any more.
async fn read_pages(state: AppState, range: Range, pages: mpsc::Sender<Read>) {
    let mut after = None;
    loop {
        let page = tokio::select! {
            () = state.shutdown.cancelled() => Err("the control plane is stopping"),
            page = judgeable::page(&state.database, &range, after, PAGE) => page.map_err(|error| {
                tracing::error!(%error, "a replay cannot read the audit log");
                "the audit log cannot be read"
            }),
        };
        let next = page.as_ref().ok().and_then(|records| records.last()).map(JudgeableRecord::place);
        let last = page.as_ref().map_or(true, |records| i64::try_from(records.len()).unwrap_or(PAGE) < PAGE);
        if pages.send(page).await.is_err() || last {
            return;
        }
        after = next;
    }
}

/// A replay that runs.
struct Job {
    revision: String,
    range: Range,
    estimate: u64,
    lines: mpsc::Sender<Bytes>,
    #[expect(dead_code, reason = "held until it has ended")]
    running: SemaphorePermit<'static>,
}

impl Job {
    fn run(self, policy: &ActivePolicy, mut pages: mpsc::Receiver<Read>, revisions: &Revisions) {
        let inputs = policy.document.rules.as_ref().map_or(&[][..], |rules| &rules.inputs);
        let mut replay = Replay::new(&policy.loaded.policy, inputs);
        let mut rules = InForce(policy);
        let mut tally = Tally::default();
        let mut sides = HashMap::new();
        let mut told = Instant::now();
        while let Some(page) = pages.blocking_recv() {
            let records = match page {
                Ok(records) => records,
                Err(detail) => {
                    self.tell(&ReplayLine::Error(ReplayError { detail }));
                    return;
                }
            };
            for record in &records {
                let charges = record.charges();
                let Some(recorded) = record.recorded(&charges) else { continue };
                let own = side(&mut sides, revisions, record.revision);
                let verdict = replay.judge(&recorded, own, &mut rules);
                tally.count(&recorded, &verdict);
            }
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                let progress = Progress { records: tally.records, estimate: self.estimate.max(tally.records), different: tally.different };
                if self.tell(&ReplayLine::Progress(progress)) == Heard::No {
                    return;
                }
            }
        }
        self.tell(&ReplayLine::Summary(Box::new(self.summary(&tally))));
    }

    fn tell(&self, line: &ReplayLine) -> Heard {
        let mut bytes = serde_json::to_vec(line).unwrap_or_default();
        bytes.push(b'\n');
        if self.lines.blocking_send(Bytes::from(bytes)).is_ok() { Heard::Yes } else { Heard::No }
    }

    fn summary(&self, tally: &Tally) -> Summary {
        let because = |(why, requests): (&Why, &u64)| Undecidable { why: why.name(), text: why.text(), requests: *requests };
        Summary {
            revision: self.revision.clone(),
            since: self.range.since,
            until: self.range.until,
            records: tally.records,
            same: tally.same,
            different: tally.different,
            undecidable: tally.undecidable(),
            undecidable_because: tally.undecidable.iter().map(because).collect(),
            groups: tally.groups().into_iter().map(Difference::from).collect(),
            spend: tally.spend().iter().map(|(budget, spend)| (budget.clone(), SpendChange::from(spend))).collect(),
        }
    }
}

/// Whether somebody still reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Yes,
    No,
}

/// The revision that decided a record, compiled once.
fn side<'s>(sides: &'s mut HashMap<i64, Option<Side>>, revisions: &Revisions, revision: i64) -> Option<&'s mut Side> {
    if !sides.contains_key(&revision) {
        let found = if sides.len() < REVISIONS_MAX { revisions.compiled(revision) } else { return None };
        sides.insert(revision, found);
    }
    sides.get_mut(&revision).and_then(Option::as_mut)
}

/// The revisions of the database, for a thread that may block.
struct Revisions {
    database: PgPool,
    handle: Handle,
}

impl Revisions {
    const fn new(database: PgPool, handle: Handle) -> Self {
        Self { database, handle }
    }

    /// Nothing where there is no such revision, or it no longer compiles: less can be told of what it decided.
    fn compiled(&self, revision: i64) -> Option<Side> {
        let files = self.handle.block_on(revisions::revision_files(&self.database, Revision(revision)));
        match files.map(|files| files.as_ref().and_then(compiled)) {
            Ok(side) => side,
            Err(error) => {
                tracing::warn!(%error, revision, "a replay cannot read a revision");
                None
            }
        }
    }
}

fn compiled(files: &Files) -> Option<Side> {
    let document = wire::sources::read(files).ok()?;
    let bundle = without_keys(&document).ok()?;
    Some(Side::new(Arc::new(bundle.policy)))
}
