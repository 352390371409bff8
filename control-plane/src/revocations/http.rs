//! Revoking, listing and lifting over HTTP. Every change is recorded with who made it and why.

use super::enforcement::{self, Enforcement};
use super::request::Item;
use super::store::{self, Entry, Filter, Revoking};
use super::{Kind, Wanted, follow, last_key};
use crate::admin_events::{self, Actor, AdminEvent};
use crate::app::AppState;
use crate::caller::Caller;
use crate::extract::{JsonBody, PathOf, QueryOf, refused_bytes};
use crate::paging::PageSize;
use crate::problem::{ApiError, Problem};
use authn::{Marks, Revocations};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

const PAGE: PageSize = PageSize { default: 50, max: 1_000 };
const IMPORT_MAX: usize = 10_000;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(revoke, list)).routes(routes!(import)).routes(routes!(lift)).routes(routes!(enforced))
}

/// What to revoke, and why.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevocationRequest {
    /// What kind of thing.
    pub kind: Kind,
    /// The issuer's name in the policy; not for customers and agents.
    pub issuer: Option<String>,
    /// The `jti`, subject, `kid`, customer or agent.
    pub value: String,
    /// For `subject`: its tokens issued before this are refused; if absent, every token that an issuer whose clock is ahead
    /// may have signed by now.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub issued_before: Option<OffsetDateTime>,
    /// For `version`: its tokens with a lower `token_version`, or without one, are refused.
    pub version_min: Option<u64>,
    /// For `token`: its `exp`, if that is known; the revocation ends a little later by itself.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<OffsetDateTime>,
    /// Why.
    pub reason: String,
    /// Also if the caller's own token would be refused from then on.
    #[serde(default)]
    pub force: bool,
}

impl RevocationRequest {
    fn item(&self) -> Item {
        let Self { kind, issuer, value, issued_before, version_min, expires_at, reason: _, force: _ } = self.clone();
        Item { kind, issuer, value, issued_before, version_min, expires_at }
    }
}

/// What became of a revocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Outcome {
    /// What is revoked.
    #[serde(flatten)]
    pub entry: Entry,
    /// Why this may not be what was meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// Which revocations to list.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Only of this kind.
    pub kind: Option<Kind>,
    /// Only of this issuer.
    pub issuer: Option<String>,
    /// Only this thing.
    pub value: Option<String>,
    /// Also what was lifted or ended within the last day.
    #[serde(default)]
    pub lifted: bool,
    /// Where the last page ended.
    pub cursor: Option<i64>,
    /// At most so many: 50 by default, 1000 at most.
    pub limit: Option<u32>,
}

/// Revocations, latest change first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct RevocationList {
    /// The revocations.
    pub revocations: Vec<Entry>,
    /// The cursor of the next page, if there is one.
    pub next_cursor: Option<i64>,
}

/// Why many things are revoked.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ImportQuery {
    /// Why.
    pub reason: String,
    /// Also if the caller's own token would be refused from then on.
    #[serde(default)]
    pub force: bool,
}

/// What became of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Imported {
    /// How many lines there were.
    pub lines: usize,
    /// How many of them changed anything.
    pub changed: i64,
    /// The number of the latest change.
    pub number: i64,
}

/// Why a revocation is lifted.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct LiftQuery {
    /// Why.
    pub reason: String,
}

/// Revoke a token, a subject's tokens, a key, a customer or an agent. In force everywhere within a second.
#[utoipa::path(
    post, path = "/admin/v1/revocations", operation_id = "revocations.revoke", request_body = RevocationRequest,
    responses(
        (status = 201, body = Outcome), (status = 200, description = "It was revoked already, as far", body = Outcome),
        (status = 400, body = Problem), (status = 409, description = "Too many, the caller's own token, or the last key of the admin API", body = Problem),
    ),
)]
async fn revoke(
    State(state): State<AppState>,
    caller: Caller,
    JsonBody(request): JsonBody<RevocationRequest>,
) -> Result<(StatusCode, Json<Outcome>), ApiError> {
    admin_events::check_reason(&request.reason)?;
    let policy = state.policy();
    let wanted = request.item().check(&policy.document, OffsetDateTime::now_utc())?;
    require_caller_stays(&caller, std::slice::from_ref(&wanted), request.force)?;
    let mut transaction = state.database.begin().await?;
    let actor = Actor::from(&caller);
    let revoking = store::revoke(&mut transaction, std::slice::from_ref(&wanted), actor, &request.reason).await?;
    last_key::require_another(&mut transaction, &policy, std::slice::from_ref(&wanted)).await?;
    let entry = store::find(&mut transaction, &wanted).await?.ok_or_else(|| ApiError::conflict("the revocation is gone"))?;
    if revoking.changed > 0 {
        let target = described(&wanted);
        let event = AdminEvent { action: "revocation.revoke", target: &target, reason: &request.reason, detail: json!(entry) };
        admin_events::record(&mut transaction, actor, event).await?;
    }
    transaction.commit().await?;
    follow::refresh_after_commit(&state).await;
    Ok((
        if revoking.changed > 0 { StatusCode::CREATED } else { StatusCode::OK },
        Json(Outcome { entry, warning: last_key::warning(&policy, &wanted) }),
    ))
}

/// Revoke up to 10,000 things, one JSON object per line, all or none.
#[utoipa::path(
    post, path = "/admin/v1/revocations/import", operation_id = "revocations.import", params(ImportQuery),
    request_body(content = String, content_type = "application/x-ndjson"),
    responses(
        (status = 200, body = Imported), (status = 400, description = "A line is wrong; it is named", body = Problem),
        (status = 409, description = "Too many, the caller's own token, or the last key of the admin API", body = Problem),
    ),
)]
async fn import(
    State(state): State<AppState>,
    caller: Caller,
    QueryOf(query): QueryOf<ImportQuery>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Imported>, ApiError> {
    admin_events::check_reason(&query.reason)?;
    let wanted = read_lines(&state, &body.map_err(|refused| refused_bytes(&refused))?)?;
    require_caller_stays(&caller, &wanted, query.force)?;
    let mut transaction = state.database.begin().await?;
    let actor = Actor::from(&caller);
    let Revoking { changed, number } = store::revoke(&mut transaction, &wanted, actor, &query.reason).await?;
    last_key::require_another(&mut transaction, &state.policy(), &wanted).await?;
    let things: Vec<_> = wanted.iter().map(described).collect();
    let detail = json!({ "changed": changed, "last_number": number, "revoked": things });
    let event = AdminEvent { action: "revocation.import", target: "-", reason: &query.reason, detail };
    admin_events::record(&mut transaction, actor, event).await?;
    transaction.commit().await?;
    follow::refresh_after_commit(&state).await;
    Ok(Json(Imported { lines: wanted.len(), changed, number }))
}

/// List what is revoked, latest change first.
#[utoipa::path(
    get, path = "/admin/v1/revocations", operation_id = "revocations.list", params(ListQuery),
    responses((status = 200, body = RevocationList)),
)]
async fn list(
    State(state): State<AppState>,
    _caller: Caller,
    QueryOf(query): QueryOf<ListQuery>,
) -> Result<Json<RevocationList>, ApiError> {
    if [&query.issuer, &query.value].into_iter().flatten().any(|text| text.contains('\0')) {
        return Err(ApiError::invalid("a parameter contains NUL"));
    }
    let limit = PAGE.of(query.limit)?;
    let ListQuery { issuer, value, cursor, lifted, .. } = query;
    let filter = Filter { kind: query.kind.map(Kind::name), issuer, value, before: cursor, lifted };
    let mut revocations = store::list(&state.database, &filter, limit.rows_and_one()).await?;
    let more = limit.cut(&mut revocations);
    let next_cursor = revocations.last().filter(|_| more).map(|entry| entry.number);
    Ok(Json(RevocationList { revocations, next_cursor }))
}

/// Take a revocation back, by the number of its latest change.
#[utoipa::path(
    delete, path = "/admin/v1/revocations/{number}", operation_id = "revocations.lift",
    params(("number" = i64, Path, description = "Its number"), LiftQuery),
    responses((status = 200, body = Entry), (status = 404, description = "None in force has this number; list again", body = Problem)),
)]
async fn lift(
    State(state): State<AppState>,
    caller: Caller,
    PathOf(number): PathOf<i64>,
    QueryOf(query): QueryOf<LiftQuery>,
) -> Result<Json<Entry>, ApiError> {
    admin_events::check_reason(&query.reason)?;
    let mut transaction = state.database.begin().await?;
    let entry = store::lift(&mut transaction, number).await?.ok_or_else(|| ApiError::not_found("revocation", number))?;
    let target = thing(&entry.kind, &entry.issuer, &entry.value);
    let event = AdminEvent { action: "revocation.lift", target: &target, reason: &query.reason, detail: json!(entry) };
    admin_events::record(&mut transaction, Actor::from(&caller), event).await?;
    transaction.commit().await?;
    follow::refresh_after_commit(&state).await;
    Ok(Json(entry))
}

/// Which workers enforce everything that was revoked.
#[utoipa::path(
    get, path = "/admin/v1/revocations/enforcement", operation_id = "revocations.enforcement",
    responses((status = 200, body = Enforcement)),
)]
async fn enforced(State(state): State<AppState>, _caller: Caller) -> Result<Json<Enforcement>, ApiError> {
    Ok(Json(enforcement::enforcement(&state.database).await?))
}

fn described(wanted: &Wanted) -> String {
    thing(wanted.kind.name(), &wanted.issuer, &wanted.value)
}

fn thing(kind: &str, issuer: &str, value: &str) -> String {
    if issuer.is_empty() { format!("{kind} {value}") } else { format!("{kind} {issuer} {value}") }
}

/// Refuses what would lock out the very caller, unless that is meant.
fn require_caller_stays(caller: &Caller, wanted: &[Wanted], force: bool) -> Result<(), ApiError> {
    if force {
        return Ok(());
    }
    let mut revocations = Revocations::default();
    wanted.iter().for_each(|wish| revocations.revoke(wish.mark(), wish.bound));
    match revocations.find(&Marks::of(&caller.principal.identity)) {
        None => Ok(()),
        Some(kind) => Err(ApiError::conflict(format!(
            "this would revoke the token that you are calling with (`{}`); say `force` if that is meant",
            kind.name()
        ))),
    }
}

fn read_lines(state: &AppState, body: &[u8]) -> Result<Vec<Wanted>, ApiError> {
    let (policy, now) = (state.policy(), OffsetDateTime::now_utc());
    let text = std::str::from_utf8(body).map_err(|_| ApiError::invalid("the body is not UTF-8"))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(index, line): (usize, &str)| {
        let number = index.saturating_add(1);
        let item: Item = serde_json::from_str(line).map_err(|error| ApiError::invalid(format!("line {number}: {error}")))?;
        item.check(&policy.document, now).map_err(|error| ApiError::invalid(format!("line {number}: {}", error.problem().detail)))
    };
    let wanted = lines.take(IMPORT_MAX.saturating_add(1)).map(read).collect::<Result<Vec<_>, ApiError>>()?;
    if wanted.len() > IMPORT_MAX {
        return Err(ApiError::invalid("more than 10000 lines; send them in several calls"));
    }
    Ok(wanted)
}
