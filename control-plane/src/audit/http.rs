//! Queries of the audit log.

use super::access::Access;
use super::query::{self, Cursor, Filter, StoredRecord};
use crate::app::AppState;
use crate::extract::{QueryOf, utc};
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

const PAGE: PageSize = PageSize { default: 100, max: 1_000 };

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(count))
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
    /// The custom rule that refused.
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
    fn filter(&self) -> Result<Filter, ApiError> {
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
        })
    }

    fn cursor(&self) -> Result<Option<Cursor>, ApiError> {
        self.cursor.as_deref().map(|text| text.parse().map_err(|_invalid| ApiError::invalid("`cursor` is not one of ours"))).transpose()
    }
}

fn moment(text: &str) -> Result<OffsetDateTime, ApiError> {
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
