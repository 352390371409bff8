//! Setting, listing and ending caps and override accounts over HTTP. Every change is recorded with who made it and why.

use super::request::{Asked, check, leased_budget};
use super::store::{self, Entry, Filter, Setting};
use super::{Kind, follow};
use crate::admin_events::{self, Actor, AdminEvent};
use crate::app::AppState;
use crate::budgets::alerts::{self, Telling};
use crate::budgets::{AccountKey, store as accounts, valkey};
use crate::caller::Caller;
use crate::extract::{JsonBody, PathOf, QueryOf};
use crate::paging::PageSize;
use crate::problem::{ApiError, Problem};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use decision_core::budget::Units;
use decision_core::causes::chain;
use decision_core::principal::Principal;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wire::sync::OverrideAccount;

const PAGE: PageSize = PageSize { default: 50, max: 1_000 };

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(set_cap, list_caps))
        .routes(routes!(end_cap))
        .routes(routes!(grant_override, list_overrides))
        .routes(routes!(end_override))
}

/// A cap for one scope.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CapRequest {
    /// The budget's name.
    pub budget: String,
    /// The scope with its values, as accounts are listed.
    pub scope: String,
    /// The cap, in the budget's unit.
    pub cap: i64,
    /// Why.
    pub reason: String,
    /// When the policy's cap counts again; never by itself, if absent.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<OffsetDateTime>,
}

/// A second account beside one scope.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OverrideRequest {
    /// The budget's name.
    pub budget: String,
    /// The scope with its values, as accounts are listed.
    pub scope: String,
    /// What may be spent of it in all, in the budget's unit.
    pub cap: i64,
    /// Why.
    pub reason: String,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: OffsetDateTime,
}

/// Which to list.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Only of this budget.
    pub budget: Option<String>,
    /// Only of this scope.
    pub scope: Option<String>,
    /// Also those that are over.
    #[serde(default)]
    pub ended: bool,
    /// Where the last page ended.
    pub cursor: Option<i64>,
    /// At most so many: 50 by default, 1000 at most.
    pub limit: Option<u32>,
}

/// Caps, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct CapList {
    /// The caps.
    pub caps: Vec<Entry>,
    /// The cursor of the next page, if there is one.
    pub next_cursor: Option<i64>,
}

/// Override accounts, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct OverrideList {
    /// The override accounts.
    pub overrides: Vec<Entry>,
    /// The cursor of the next page, if there is one.
    pub next_cursor: Option<i64>,
}

/// Why one is ended.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct EndQuery {
    /// Why.
    pub reason: String,
}

/// Set the cap of one scope, in all its windows, until it expires or is replaced. In force everywhere within a second.
#[utoipa::path(
    post, path = "/admin/v1/budgets/caps", operation_id = "budgets.caps.set", request_body = CapRequest,
    responses(
        (status = 201, body = Entry), (status = 200, description = "It is in force already", body = Entry),
        (status = 400, body = Problem), (status = 409, description = "Too many are in force", body = Problem),
    ),
)]
async fn set_cap(
    State(state): State<AppState>,
    caller: Caller,
    JsonBody(request): JsonBody<CapRequest>,
) -> Result<(StatusCode, Json<Entry>), ApiError> {
    let CapRequest { budget, scope, cap, reason, expires_at } = request;
    let asked = Asked { kind: Kind::Cap, budget: &budget, scope: &scope, cap, expires_at, approval: None };
    let setting = set(&state, &caller.principal, asked, &reason).await?;
    Ok((created(&setting), Json(setting.entry)))
}

/// List caps, newest first.
#[utoipa::path(
    get, path = "/admin/v1/budgets/caps", operation_id = "budgets.caps.list", params(ListQuery), responses((status = 200, body = CapList)),
)]
async fn list_caps(State(state): State<AppState>, QueryOf(query): QueryOf<ListQuery>) -> Result<Json<CapList>, ApiError> {
    let (caps, next_cursor) = listed(&state, Kind::Cap, query).await?;
    Ok(Json(CapList { caps, next_cursor }))
}

/// End a cap: the policy's counts again.
#[utoipa::path(
    delete, path = "/admin/v1/budgets/caps/{id}", operation_id = "budgets.caps.end",
    params(("id" = i64, Path, description = "Its id"), EndQuery),
    responses((status = 200, body = Entry), (status = 404, description = "None in force has this id", body = Problem)),
)]
async fn end_cap(
    State(state): State<AppState>,
    caller: Caller,
    PathOf(id): PathOf<i64>,
    QueryOf(query): QueryOf<EndQuery>,
) -> Result<Json<Entry>, ApiError> {
    end(&state, &caller, Kind::Cap, id, &query.reason).await.map(Json)
}

/// Grant a second account beside one scope, with a cap of its own. What is asked for beyond the first is charged to it.
#[utoipa::path(
    post, path = "/admin/v1/budgets/overrides", operation_id = "budgets.overrides.grant", request_body = OverrideRequest,
    responses(
        (status = 201, body = Entry), (status = 200, description = "It is in force already", body = Entry),
        (status = 400, body = Problem), (status = 409, description = "Too many are in force", body = Problem),
    ),
)]
async fn grant_override(
    State(state): State<AppState>,
    caller: Caller,
    JsonBody(request): JsonBody<OverrideRequest>,
) -> Result<(StatusCode, Json<Entry>), ApiError> {
    let OverrideRequest { budget, scope, cap, reason, expires_at } = request;
    let asked = Asked { kind: Kind::Override, budget: &budget, scope: &scope, cap, expires_at: Some(expires_at), approval: None };
    let setting = set(&state, &caller.principal, asked, &reason).await?;
    Ok((created(&setting), Json(setting.entry)))
}

/// List override accounts, newest first.
#[utoipa::path(
    get, path = "/admin/v1/budgets/overrides", operation_id = "budgets.overrides.list", params(ListQuery),
    responses((status = 200, body = OverrideList)),
)]
async fn list_overrides(State(state): State<AppState>, QueryOf(query): QueryOf<ListQuery>) -> Result<Json<OverrideList>, ApiError> {
    let (overrides, next_cursor) = listed(&state, Kind::Override, query).await?;
    Ok(Json(OverrideList { overrides, next_cursor }))
}

/// End an override account.
#[utoipa::path(
    delete, path = "/admin/v1/budgets/overrides/{id}", operation_id = "budgets.overrides.end",
    params(("id" = i64, Path, description = "Its id"), EndQuery),
    responses((status = 200, body = Entry), (status = 404, description = "None in force has this id", body = Problem)),
)]
async fn end_override(
    State(state): State<AppState>,
    caller: Caller,
    PathOf(id): PathOf<i64>,
    QueryOf(query): QueryOf<EndQuery>,
) -> Result<Json<Entry>, ApiError> {
    end(&state, &caller, Kind::Override, id, &query.reason).await.map(Json)
}

/// The status of an answer.
#[must_use]
pub fn created(setting: &Setting) -> StatusCode {
    if setting.changed { StatusCode::CREATED } else { StatusCode::OK }
}

/// Sets a cap or grants an override account, whoever asks and by whichever way.
///
/// # Errors
/// What is wrong with it, or the database failed.
pub async fn set(state: &AppState, by: &Principal, asked: Asked<'_>, reason: &str) -> Result<Setting, ApiError> {
    admin_events::check_reason(reason)?;
    let policy = state.policy();
    let wanted = check(&policy.loaded.policy, asked)?;
    let mut transaction = state.database.begin().await?;
    let actor = Actor { issuer: &by.identity.issuer, subject: &by.identity.subject };
    let setting = match store::set(&mut transaction, &wanted, actor, reason).await {
        Ok(setting) if setting.changed => setting,
        // Dropped, it would keep other writers waiting until its connection is used again.
        unchanged => {
            transaction.rollback().await?;
            return unchanged;
        }
    };
    let detail = json!({ "entry": setting.entry, "governor": by.governor });
    let event = AdminEvent { action: wanted.kind.set_action(), target: &target(&setting.entry), reason, detail };
    admin_events::record(&mut transaction, actor, event).await?;
    let change =
        Changed { kind: asked.kind, budget: &wanted.budget, scope: &wanted.scope, cap: wanted.cap, ended: setting.replaced.as_ref() };
    let told = enforce(state, &mut transaction, change).await?;
    transaction.commit().await?;
    after(state, change, told).await;
    Ok(setting)
}

async fn end(state: &AppState, caller: &Caller, kind: Kind, id: i64, reason: &str) -> Result<Entry, ApiError> {
    admin_events::check_reason(reason)?;
    let mut transaction = state.database.begin().await?;
    let Some(entry) = store::end(&mut transaction, kind, id, reason).await? else {
        transaction.rollback().await?;
        return Err(ApiError::not_found(kind.name(), id));
    };
    let event = AdminEvent { action: kind.end_action(), target: &target(&entry), reason, detail: json!({ "entry": entry }) };
    admin_events::record(&mut transaction, Actor::from(caller), event).await?;
    let policy = state.policy();
    // The policy's cap counts again; of a budget that is gone there is nothing to enforce.
    let cap = policy.loaded.policy.budget_by_name(&entry.budget).map(|budget| budget.cap).unwrap_or_default();
    let change = Changed { kind, budget: &entry.budget, scope: &entry.scope, cap, ended: Some(&entry) };
    let told = enforce(state, &mut transaction, change).await?;
    transaction.commit().await?;
    after(state, change, told).await;
    Ok(entry)
}

/// What counts from now on.
#[derive(Clone, Copy, Debug)]
struct Changed<'a> {
    kind: Kind,
    budget: &'a str,
    scope: &'a str,
    cap: Units,
    /// What was ended by it.
    ended: Option<&'a Entry>,
}

impl Changed<'_> {
    /// The account of the override that was ended.
    fn ended_account(&self) -> Option<AccountKey> {
        let entry = self.ended.filter(|_| self.kind == Kind::Override)?;
        let account = OverrideAccount { number: u64::try_from(entry.id).ok()?, from: entry.created_at.unix_timestamp(), until: 0 };
        Some(AccountKey { budget: entry.budget.clone(), scope: account.scope(&entry.scope), window_start: account.from })
    }
}

/// What follows at once: holders give back what is beyond the cap or of an account that ended, and a level may be reached.
async fn enforce(state: &AppState, transaction: &mut PgConnection, change: Changed<'_>) -> Result<Vec<alerts::Told>, sqlx::Error> {
    let policy = state.policy();
    let Some(budget) = policy.loaded.policy.budget_by_name(change.budget).filter(|budget| budget.durable) else {
        return Ok(Vec::new());
    };
    match (change.kind, change.ended_account()) {
        (Kind::Cap, _) => {
            let risen = accounts::recap(transaction, budget, change.scope, change.cap).await?;
            alerts::record(transaction, Telling::of(&policy), &risen).await
        }
        (Kind::Override, Some(key)) => accounts::recall(transaction, &key.budget, &key.scope).await.map(|()| Vec::new()),
        (Kind::Override, None) => Ok(Vec::new()),
    }
}

async fn after(state: &AppState, change: Changed<'_>, told: Vec<alerts::Told>) {
    follow::refresh_after_commit(state).await;
    alerts::note(state, &told).await;
    let policy = state.policy();
    let Some(budget) = policy.loaded.policy.budget_by_name(change.budget).filter(|budget| !budget.durable) else { return };
    let (mut valkey, now) = (state.valkey.clone(), crate::caller::now());
    let recalled = match (change.kind, change.ended_account()) {
        (Kind::Cap, _) => valkey::recap(&mut valkey, budget, change.scope, change.cap, now).await,
        (Kind::Override, Some(key)) => valkey::recall(&mut valkey, &key, now).await.map(|()| Vec::new()),
        (Kind::Override, None) => Ok(Vec::new()),
    };
    match recalled {
        Ok(risen) => alerts::record_volatile(state, risen).await,
        Err(error) => tracing::warn!(error = %chain(&error), "leases beyond the new cap are not recalled"),
    }
}

async fn listed(state: &AppState, kind: Kind, query: ListQuery) -> Result<(Vec<Entry>, Option<i64>), ApiError> {
    let ListQuery { budget, scope, ended, cursor, limit } = query;
    if [&budget, &scope].into_iter().flatten().any(|text| text.contains('\0')) {
        return Err(ApiError::invalid("a parameter contains NUL"));
    }
    let limit = PAGE.of(limit)?;
    // A name that was mistyped is no empty list; one that is no longer in the policy may be looked up with `ended`.
    if let Some(name) = budget.as_deref().filter(|_| !ended) {
        leased_budget(&state.policy().loaded.policy, name)?;
    }
    let filter = Filter { kind, budget, scope, ended, before: cursor };
    let mut entries = store::list(&state.database, &filter, limit.rows_and_one()).await?;
    let more = limit.cut(&mut entries);
    let next = entries.last().filter(|_| more).map(|entry| entry.id);
    Ok((entries, next))
}

fn target(entry: &Entry) -> String {
    format!("{} {}", entry.budget, entry.scope)
}
