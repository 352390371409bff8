//! What users read of the audit log through their gateway: their own records, and with [`OF_CUSTOMER`] their customer's. Postgres says
//! which those are ([`Access::Reader`]); nothing here picks them out, and no filter of a query can reach others.

use super::access::Access;
use super::http::{PAGE, RecordQuery, SummaryList, SummaryQuery};
use super::query::{self, Filter, StoredRecord};
use crate::app::AppState;
use crate::caller::User;
use crate::extract::{PathOf, QueryOf};
use crate::problem::{ApiError, Problem};
use axum::Json;
use axum::extract::State;
use decision_core::audit::Identities;
use decision_core::decision::DenyReason;
use serde::Serialize;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use tokio::sync::{Semaphore, SemaphorePermit};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wire::bundle::LoadedBundle;
use wire::pseudonym;

/// The permission to read the records of the own customer, whichever of its users they are of.
const OF_CUSTOMER: &str = "audit.customer";

/// Queries of users at a time: their records lie beside everybody's, and Envoys wait for the same connections.
static QUERIES: Semaphore = Semaphore::const_new(4);
/// So far back a query looks that names no time, and so far it may look at most.
const SPAN: Duration = Duration::days(7);
const SPAN_MAX: Duration = Duration::days(31);

fn place() -> Result<SemaphorePermit<'static>, ApiError> {
    QUERIES.try_acquire().map_err(|_all_taken| ApiError::Unavailable { what: "other queries are under way; try again" })
}

/// What a user may ask for: of a span that few partitions have, nothing of a revision in shadow, and by rule nothing of a feature that is
/// switched off.
fn filter_of(query: &RecordQuery) -> Result<Filter, ApiError> {
    let mut filter = query.filter()?;
    if filter.shadow.is_some() {
        return Err(ApiError::invalid("`shadow` is not for users"));
    }
    let to = filter.to.unwrap_or_else(OffsetDateTime::now_utc);
    let from = filter.from.unwrap_or_else(|| to.saturating_sub(SPAN));
    if to - from > SPAN_MAX {
        return Err(ApiError::invalid("`from` and `to` are more than 31 days apart"));
    }
    filter.from = Some(from);
    let by_rule = filter.route.is_some() || filter.rule.is_some();
    filter.except_reason = by_rule.then(|| DenyReason::FeatureDisabled.code());
    Ok(filter)
}

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read)).routes(routes!(summaries))
}

/// A record as its user sees it: without what tells of Envoys, workers, chains, revisions, and the one in shadow.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct OwnRecord {
    /// Its id in the log.
    pub id: String,
    /// When the request arrived.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: OffsetDateTime,
    /// `CP`, `PP` or `PLANT`.
    pub gateway_type: String,
    /// `outcome`, or `intent` of one that was recorded before the request was forwarded.
    pub phase: String,
    /// The correlation id, as sent.
    pub correlation_id: String,
    /// The parent request, as sent.
    pub causation_id: Option<String>,
    /// The request's id.
    pub request_id: String,
    /// The method.
    pub http_method: Option<String>,
    /// The path without query.
    pub endpoint: Option<String>,
    /// The protocol that it asked to change to: `websocket` or `other`.
    pub upgrade: Option<String>,
    /// Parameters of the query that are recorded, as `name` and `value`.
    #[schema(value_type = Option<Vec<Object>>)]
    pub query_params: Option<Value>,
    /// Headers of the request that are recorded, as `name` and `value`.
    #[schema(value_type = Option<Vec<Object>>)]
    pub request_headers: Option<Value>,
    /// Headers of the answer that are recorded, as `name` and `value`.
    #[schema(value_type = Option<Vec<Object>>)]
    pub response_headers: Option<Value>,
    /// The route.
    pub route: Option<String>,
    /// The route's permission.
    pub action: Option<String>,
    /// Of how many requests like this one was recorded.
    pub sampled_of: i64,
    /// The user's issuer.
    pub issuer: Option<String>,
    /// The user's subject, or the hash that stands in its place.
    pub subject: Option<String>,
    /// The `user_id` claim.
    pub user_id: Option<String>,
    /// The customer.
    pub customer_id: Option<String>,
    /// The agent.
    pub agent_id: Option<String>,
    /// The `email` claim, where it is recorded.
    pub email: Option<String>,
    /// The user's roles.
    pub roles: Option<Vec<String>>,
    /// The `tier` claim.
    pub tier: Option<String>,
    /// Whether the user was on trial.
    pub trial_mode: bool,
    /// Until when.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub trial_until: Option<OffsetDateTime>,
    /// Whether the sandbox was the target.
    pub sandbox: bool,
    /// `permit`, `deny`, `indeterminate` or `none`.
    pub decision: String,
    /// The coded reason.
    pub reason: String,
    /// The custom rule or the budget that refused, as it names itself.
    pub rule: Option<String>,
    /// Every check and its outcome, in order.
    #[schema(value_type = Vec<Object>)]
    pub checks: Value,
    /// What was charged.
    #[schema(value_type = Vec<Object>)]
    pub charges: Value,
    /// How it became known what the request cost; absent when nothing was charged.
    pub cost: Option<String>,
    /// The tokens of a language model that it used.
    #[schema(value_type = Option<Object>)]
    pub usage: Option<Value>,
    /// The approval that was requested or consumed.
    pub approval_id: Option<String>,
    /// The status sent to the client.
    pub status_code: Option<i32>,
    /// From arrival to the end of the stream, microseconds.
    pub total_us: i64,
    /// From forwarding to the first response header, microseconds.
    pub upstream_us: Option<i64>,
}

impl From<StoredRecord> for OwnRecord {
    fn from(stored: StoredRecord) -> Self {
        // Whether a feature exists is not told, here as little as in the refusal.
        let hidden = stored.reason == DenyReason::FeatureDisabled.code();
        let told = |text: Option<String>| text.filter(|_| !hidden);
        Self {
            id: stored.id,
            timestamp: stored.timestamp,
            gateway_type: stored.gateway_type,
            phase: stored.phase,
            correlation_id: stored.correlation_id,
            causation_id: stored.causation_id,
            request_id: stored.request_id,
            http_method: stored.http_method,
            endpoint: stored.endpoint,
            upgrade: stored.upgrade,
            query_params: stored.query_params.map(|json| json.0),
            request_headers: stored.request_headers.map(|json| json.0),
            response_headers: stored.response_headers.map(|json| json.0),
            route: told(stored.route),
            action: told(stored.action),
            sampled_of: stored.sampled_of,
            issuer: stored.issuer,
            subject: stored.subject,
            user_id: stored.user_id,
            customer_id: stored.customer_id,
            agent_id: stored.agent_id,
            email: stored.email,
            roles: stored.roles,
            tier: stored.tier,
            trial_mode: stored.trial_mode,
            trial_until: stored.trial_until,
            sandbox: stored.sandbox,
            decision: stored.decision,
            reason: if hidden { DenyReason::NoRoute.code().to_owned() } else { stored.reason },
            rule: stored.rule,
            checks: if hidden { no_route() } else { stored.checks.0 },
            charges: stored.charges.0,
            cost: stored.cost,
            usage: stored.usage.map(|json| json.0),
            approval_id: stored.approval_id,
            status_code: stored.status_code,
            total_us: stored.total_us,
            upstream_us: stored.upstream_us,
        }
    }
}

/// The checks of a request for which there is no route.
fn no_route() -> Value {
    json!([{"check": "route", "outcome": "deny"}])
}

/// A page of the own records.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct OwnPage {
    /// Newest first.
    pub records: Vec<OwnRecord>,
    /// Continues this page; absent on the last one.
    pub next_cursor: Option<String>,
}

/// Read the own records, newest first; a customer's administrator those of the customer. Of the last seven days, unless `from` is given; of 31
/// days at most.
#[utoipa::path(
    get, path = "/api/v1/audit/records", operation_id = "audit.own.list", params(RecordQuery),
    responses((status = 200, body = OwnPage), (status = 400, description = "A parameter is not valid", body = Problem)),
)]
async fn list(State(state): State<AppState>, user: User, QueryOf(query): QueryOf<RecordQuery>) -> Result<Json<OwnPage>, ApiError> {
    let limit = PAGE.of(query.limit)?;
    let filter = filter_of(&query)?;
    let _place = place()?;
    let reader = Reader::of(&state.policy().loaded, &user)?;
    let mut records = query::page(&state.database, reader.access(), &filter, query.cursor()?, limit.rows_and_one()).await?;
    let more = limit.cut(&mut records);
    let next_cursor = records.last().filter(|_| more).map(|last| last.cursor().to_string());
    Ok(Json(OwnPage { records: records.into_iter().map(OwnRecord::from).collect(), next_cursor }))
}

/// Read one of the own records, of the last 31 days.
#[utoipa::path(
    get, path = "/api/v1/audit/records/{id}", operation_id = "audit.own.read",
    params(("id" = String, Path, description = "The id of the record, or of the request")),
    responses((status = 200, body = OwnRecord), (status = 404, description = "No such record, or another's", body = Problem)),
)]
async fn read(State(state): State<AppState>, user: User, PathOf(id): PathOf<String>) -> Result<Json<OwnRecord>, ApiError> {
    if id.contains('\0') {
        return Err(ApiError::invalid("the id contains NUL"));
    }
    let reader = Reader::of(&state.policy().loaded, &user)?;
    let _place = place()?;
    let found = query::find(&state.database, reader.access(), &id, OffsetDateTime::now_utc().saturating_sub(SPAN_MAX)).await?;
    found.map(|record| Json(record.into())).ok_or_else(|| ApiError::not_found("record", &id))
}

/// Read the own days that are over, summed up; a customer's administrator those of the customer.
#[utoipa::path(
    get, path = "/api/v1/audit/daily-summaries", operation_id = "audit.own.summaries", params(SummaryQuery),
    responses((status = 200, body = SummaryList), (status = 400, description = "A parameter is not valid", body = Problem)),
)]
async fn summaries(State(state): State<AppState>, user: User, QueryOf(of): QueryOf<SummaryQuery>) -> Result<Json<SummaryList>, ApiError> {
    let limit = PAGE.of(of.limit)?;
    let reader = Reader::of(&state.policy().loaded, &user)?;
    let _place = place()?;
    let summaries = query::summaries(&state.database, reader.access(), &of.whose()?, limit.rows()).await?;
    Ok(Json(SummaryList { summaries }))
}

/// A user as the log knows one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reader {
    issuer: String,
    subject: String,
    administers: Option<String>,
}

impl Reader {
    fn of(bundle: &LoadedBundle, user: &User) -> Result<Self, ApiError> {
        let principal = &user.principal;
        let identity = &principal.identity;
        let permission = bundle.policy.catalogue().find(OF_CUSTOMER);
        let administrator = permission.is_some_and(|permission| principal.permissions.covers(permission));
        Ok(Self {
            issuer: identity.issuer.to_string(),
            subject: name_in_records(bundle, &identity.subject)?,
            administers: identity.customer_id.as_deref().filter(|_| administrator).map(str::to_owned),
        })
    }

    fn access(&self) -> Access<'_> {
        Access::Reader { issuer: &self.issuer, subject: &self.subject, administers: self.administers.as_deref() }
    }
}

/// The subject as records have it; empty, which matches nothing, where it could be taken for another's.
fn name_in_records(bundle: &LoadedBundle, subject: &str) -> Result<String, ApiError> {
    match (bundle.policy.audit().identities, &bundle.pseudonym_key) {
        (Identities::Hashed, Some(key)) => Ok(key.of(subject)),
        (Identities::Hashed, None) => Err(ApiError::Unavailable { what: "the key of the hashes that stand for users is not known" }),
        // Records may be older than this policy, and have the hash of somebody else there.
        (Identities::Plain, _) if subject.starts_with(pseudonym::PREFIX) => Ok(String::new()),
        (Identities::Plain, _) => Ok(subject.to_owned()),
    }
}
