//! Queries of the audit log.

use super::access::Access;
use super::query::{self, Cursor, Filter, Gap, StoredRecord, Summary};
use super::trace::{self, Trace};
use crate::app::AppState;
use crate::extract::{PathOf, QueryOf, utc};
use crate::paging::PageSize;
use crate::problem::{ApiError, Problem};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) const PAGE: PageSize = PageSize { default: 100, max: 1_000 };

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(count))
        .routes(routes!(show_trace))
        .routes(routes!(gaps))
        .routes(routes!(summaries))
}

/// Which records; what is absent matches everything.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct RecordQuery {
    /// The correlation id, as the client sent it.
    pub correlation_id: Option<String>,
    /// The `user_id` claim.
    pub user: Option<String>,
    /// The customer.
    pub customer: Option<String>,
    /// The agent.
    pub agent: Option<String>,
    /// `permit`, `deny`, `indeterminate` or `none`.
    pub outcome: Option<String>,
    /// The route.
    pub route: Option<String>,
    /// The custom rule or the budget that refused.
    pub rule: Option<String>,
    /// A budget that was charged.
    pub budget: Option<String>,
    /// The request's id.
    pub request_id: Option<String>,
    /// The approval that was asked for or consumed.
    pub approval_id: Option<String>,
    /// `CP`, `PP` or `PLANT`.
    pub gateway: Option<String>,
    /// The status sent to the client.
    pub status: Option<i32>,
    /// From this time on (RFC 3339).
    pub from: Option<String>,
    /// Before this time (RFC 3339).
    pub to: Option<String>,
    /// Only records that the revision in shadow would have decided differently (`true`), or the others (`false`).
    pub shadow: Option<bool>,
    /// At most so many: 100 by default, 1000 at most.
    pub limit: Option<u32>,
    /// `next_cursor` of the answer before.
    pub cursor: Option<String>,
}

impl RecordQuery {
    pub(super) fn filter(&self) -> Result<Filter, ApiError> {
        let texts = [
            &self.correlation_id,
            &self.user,
            &self.customer,
            &self.agent,
            &self.outcome,
            &self.route,
            &self.rule,
            &self.budget,
            &self.request_id,
            &self.approval_id,
            &self.gateway,
        ];
        if texts.into_iter().flatten().any(|text| text.contains('\0')) {
            return Err(ApiError::invalid("a parameter contains NUL"));
        }
        if self.outcome.as_deref().is_some_and(|outcome| !["permit", "deny", "indeterminate", "none"].contains(&outcome)) {
            return Err(ApiError::invalid("`outcome` is `permit`, `deny`, `indeterminate` or `none`"));
        }
        Ok(Filter {
            correlation_id: self.correlation_id.clone(),
            user: self.user.clone(),
            customer: self.customer.clone(),
            agent: self.agent.clone(),
            outcome: self.outcome.clone(),
            route: self.route.clone(),
            rule: self.rule.clone(),
            budget: self.budget.clone(),
            request_id: self.request_id.clone(),
            approval_id: self.approval_id.clone(),
            gateway: self.gateway.clone(),
            status: self.status,
            from: self.from.as_deref().map(moment).transpose()?,
            to: self.to.as_deref().map(moment).transpose()?,
            shadow: self.shadow,
            except_reason: None,
        })
    }

    pub(super) fn cursor(&self) -> Result<Option<Cursor>, ApiError> {
        self.cursor.as_deref().map(|text| text.parse().map_err(|_invalid| ApiError::invalid("`cursor` is not one of ours"))).transpose()
    }
}

pub(super) fn moment(text: &str) -> Result<OffsetDateTime, ApiError> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_invalid| ApiError::invalid("a time is not in RFC 3339")).and_then(utc)
}

/// A page of the log.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Page {
    /// Newest first.
    pub records: Vec<StoredRecord>,
    /// Continues this page; absent on the last one.
    pub next_cursor: Option<String>,
}

/// How many records match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Count {
    /// How many.
    pub count: i64,
}

/// Query the audit log, newest first.
#[utoipa::path(
    get, path = "/admin/v1/audit", operation_id = "audit.list", params(RecordQuery),
    responses((status = 200, body = Page), (status = 400, description = "A parameter is not valid", body = Problem)),
)]
async fn list(State(state): State<AppState>, QueryOf(query): QueryOf<RecordQuery>) -> Result<Json<Page>, ApiError> {
    let limit = PAGE.of(query.limit)?;
    let mut records = query::page(&state.database, Access::Auditor, &query.filter()?, query.cursor()?, limit.rows_and_one()).await?;
    let more = limit.cut(&mut records);
    let next_cursor = records.last().filter(|_| more).map(|last| last.cursor().to_string());
    Ok(Json(Page { records, next_cursor }))
}

/// Count the records that match; `limit` and `cursor` are ignored.
#[utoipa::path(
    get, path = "/admin/v1/audit/count", operation_id = "audit.count", params(RecordQuery),
    responses((status = 200, body = Count), (status = 400, description = "A parameter is not valid", body = Problem)),
)]
async fn count(State(state): State<AppState>, QueryOf(query): QueryOf<RecordQuery>) -> Result<Json<Count>, ApiError> {
    let count = query::count(&state.database, Access::Auditor, &query.filter()?).await?;
    Ok(Json(Count { count }))
}

/// The causal tree around a correlation id: what caused it, and what it caused.
#[utoipa::path(
    get, path = "/admin/v1/audit/traces/{correlation_id}", operation_id = "audit.trace",
    params(("correlation_id" = String, Path, description = "The correlation id, as the client sent it")),
    responses((status = 200, body = Trace)),
)]
async fn show_trace(State(state): State<AppState>, PathOf(correlation_id): PathOf<String>) -> Result<Json<Trace>, ApiError> {
    if correlation_id.contains('\0') {
        return Err(ApiError::invalid("the correlation id contains NUL"));
    }
    Ok(Json(trace::trace(&state.database, Access::Auditor, &correlation_id).await?))
}

/// From when to when.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct SpanQuery {
    /// From this time on (RFC 3339).
    pub from: Option<String>,
    /// Before this time (RFC 3339).
    pub to: Option<String>,
    /// At most so many: 100 by default, 1000 at most.
    pub limit: Option<u32>,
}

/// What is known to be missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct GapList {
    /// Latest first.
    pub gaps: Vec<Gap>,
}

/// List what is known to be missing: between which records of a holder, and from when to when.
#[utoipa::path(
    get, path = "/admin/v1/audit/gaps", operation_id = "audit.gaps", params(SpanQuery),
    responses((status = 200, body = GapList), (status = 400, description = "A parameter is not valid", body = Problem)),
)]
async fn gaps(State(state): State<AppState>, QueryOf(span): QueryOf<SpanQuery>) -> Result<Json<GapList>, ApiError> {
    let (from, to) = (span.from.as_deref().map(moment).transpose()?, span.to.as_deref().map(moment).transpose()?);
    let gaps = query::gaps(&state.database, from, to, PAGE.of(span.limit)?.rows()).await?;
    Ok(Json(GapList { gaps }))
}

/// Days that are over, summed up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SummaryList {
    /// Latest first.
    pub summaries: Vec<Summary>,
}

/// Whose days.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct SummaryQuery {
    /// The `user_id` claim.
    pub user: Option<String>,
    /// The customer.
    pub customer: Option<String>,
    /// `CP`, `PP` or `PLANT`.
    pub gateway: Option<String>,
    /// At most so many: 100 by default, 1000 at most.
    pub limit: Option<u32>,
}

impl SummaryQuery {
    pub(super) fn whose(&self) -> Result<query::OfWhom, ApiError> {
        if [&self.user, &self.customer, &self.gateway].into_iter().flatten().any(|text| text.contains('\0')) {
            return Err(ApiError::invalid("a parameter contains NUL"));
        }
        Ok(query::OfWhom { user: self.user.clone(), customer: self.customer.clone(), gateway: self.gateway.clone() })
    }
}

/// Requests, refusals and latencies by day, gateway, user and customer, of days that are over. They stay when the records are dropped.
#[utoipa::path(
    get, path = "/admin/v1/audit/summaries", operation_id = "audit.summaries", params(SummaryQuery),
    responses((status = 200, body = SummaryList), (status = 400, description = "A parameter is not valid", body = Problem)),
)]
async fn summaries(State(state): State<AppState>, QueryOf(of): QueryOf<SummaryQuery>) -> Result<Json<SummaryList>, ApiError> {
    let summaries = query::summaries(&state.database, Access::Auditor, &of.whose()?, PAGE.of(of.limit)?.rows()).await?;
    Ok(Json(SummaryList { summaries }))
}
