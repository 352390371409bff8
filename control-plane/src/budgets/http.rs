//! `GET /admin/v1/budgets`: what was spent, what lies in leases, what is left; one account in full; thresholds that were reached.

use super::accounts::store::{self as reading, AlertFilter, AlertView, ForfeitView, LeaseView};
use super::accounts::{AccountView, Numbers, Seen};
use super::caps::copy::override_parts;
use super::caps::request::leased_budget;
use super::cursor::Cursor;
use super::ledger::Lease;
use super::store::Which;
use super::{AccountKey, store, valkey};
use crate::app::AppState;
use crate::extract::{QueryOf, utc};
use crate::paging::{Limit, PageSize};
use crate::problem::{ApiError, Problem};
use axum::Json;
use axum::extract::State;
use decision_core::budget::{AlertLevel, Budget, ScopePart};
use decision_core::causes::chain;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

const PAGE: PageSize = PageSize { default: 100, max: 1_000 };

/// How many windows, and how many forfeits, an account is shown with.
const PAST_MAX: i64 = 32;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(account)).routes(routes!(alerts))
}

/// Which accounts to list.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Only of this budget.
    pub budget: Option<String>,
    /// Only of this scope, written as accounts write it.
    pub scope: Option<String>,
    /// Where the last page ended.
    pub cursor: Option<String>,
    /// At most so many: 100 by default, 1000 at most.
    pub limit: Option<u32>,
}

/// The accounts of current windows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct AccountList {
    /// In the order of budget and scope, durable ones first.
    pub accounts: Vec<AccountView>,
    /// Budgets that are not durable and whose store could not be asked.
    pub unavailable: Vec<String>,
    /// The cursor of the next page, if there is one.
    pub next_cursor: Option<String>,
}

/// Which account to show.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct AccountQuery {
    /// The budget's name.
    pub budget: String,
    /// The scope, written as accounts write it.
    pub scope: String,
}

/// One account in full.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct AccountDetail {
    /// Its current window; zeros when nothing was charged in it yet.
    pub account: AccountView,
    /// Who may spend of it at the moment, the largest first.
    pub leases: Vec<LeaseView>,
    /// Leases of this scope that were charged in full, latest first; durable budgets only.
    pub forfeits: Vec<ForfeitView>,
    /// Earlier windows, latest first; durable budgets only.
    pub past: Vec<AccountView>,
}

/// Which alerts to list.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct AlertQuery {
    /// Only of this budget.
    pub budget: Option<String>,
    /// Only of this scope.
    pub scope: Option<String>,
    /// Only `warning`, `high` or `critical`.
    pub level: Option<String>,
    /// Noticed then or later.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[param(value_type = Option<String>, format = DateTime)]
    pub from: Option<OffsetDateTime>,
    /// Noticed before.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[param(value_type = Option<String>, format = DateTime)]
    pub to: Option<OffsetDateTime>,
    /// Where the last page ended.
    pub cursor: Option<i64>,
    /// At most so many: 100 by default, 1000 at most.
    pub limit: Option<u32>,
}

/// Thresholds that were reached, latest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct AlertList {
    /// The alerts.
    pub alerts: Vec<AlertView>,
    /// The cursor of the next page, if there is one.
    pub next_cursor: Option<i64>,
}

/// List accounts of current windows, in pages: with `next_cursor` as `cursor` the next one begins where this one ended,
/// whatever accounts are opened meanwhile. Those of budgets that are not durable are looked up one by one, so they are listed
/// only where `scope` is given or the budget has one scope.
#[utoipa::path(
    get, path = "/admin/v1/budgets", operation_id = "budgets.list", params(ListQuery),
    responses((status = 200, body = AccountList), (status = 400, body = Problem)),
)]
async fn list(State(state): State<AppState>, QueryOf(query): QueryOf<ListQuery>) -> Result<Json<AccountList>, ApiError> {
    refuse_nul([query.budget.as_deref(), query.scope.as_deref()])?;
    let limit = PAGE.of(query.limit)?;
    let cursor = query.cursor.as_deref().map(Cursor::parse).transpose()?;
    let policy = state.policy();
    let seen = Seen::of(&state, &policy);
    let mut list = AccountList::default();
    if cursor.as_ref().is_none_or(|cursor| cursor.durable) {
        let after = cursor.as_ref().map(|cursor| &cursor.key);
        let which = Which { budget: query.budget.as_deref(), scope: query.scope.as_deref(), after };
        let durable = store::list(&state.database, which, limit.rows_and_one()).await?;
        list.accounts = durable.iter().map(|listed| seen.view(&listed.into())).collect::<Result<_, _>>()?;
    }
    let after = cursor.filter(|cursor| !cursor.durable).map(|cursor| cursor.key);
    add_volatile(&state, seen, (&query, after.as_ref()), limit, &mut list).await?;
    let more = limit.cut(&mut list.accounts);
    list.next_cursor = list.accounts.last().filter(|_| more).map(|last| last.cursor().text());
    Ok(Json(list))
}

/// Show one account: its current window, who holds leases on it, what was forfeited, and earlier windows.
#[utoipa::path(
    get, path = "/admin/v1/budgets/account", operation_id = "budgets.account", params(AccountQuery),
    responses((status = 200, body = AccountDetail), (status = 400, description = "No such budget, or another form of scope", body = Problem)),
)]
async fn account(State(state): State<AppState>, QueryOf(query): QueryOf<AccountQuery>) -> Result<Json<AccountDetail>, ApiError> {
    refuse_nul([Some(&*query.budget), Some(&*query.scope)])?;
    let policy = state.policy();
    let budget = leased_budget(&policy.loaded.policy, &query.budget)?;
    let seen = Seen::of(&state, &policy);
    if override_parts(&query.scope).is_none() && budget.scope.read_scope(&query.scope).is_none() {
        return Err(ApiError::invalid(format!("`scope` is none of `{}`; the list of accounts shows its form", budget.name)));
    }
    let current = Numbers::none(seen, budget, &query.scope).ok_or_else(|| ApiError::not_found("override account", &query.scope))?;
    let detail = if budget.durable { durable_detail(&state, seen, current).await } else { volatile_detail(&state, seen, current).await };
    detail.map(Json)
}

/// List thresholds that were reached, latest first.
#[utoipa::path(
    get, path = "/admin/v1/budgets/alerts", operation_id = "budgets.alerts", params(AlertQuery),
    responses((status = 200, body = AlertList), (status = 400, body = Problem)),
)]
async fn alerts(State(state): State<AppState>, QueryOf(query): QueryOf<AlertQuery>) -> Result<Json<AlertList>, ApiError> {
    let AlertQuery { budget, scope, level, from, to, cursor, limit } = query;
    refuse_nul([budget.as_deref(), scope.as_deref()])?;
    let limit = PAGE.of(limit)?;
    let (from, to) = (from.map(utc).transpose()?, to.map(utc).transpose()?);
    let filter = AlertFilter { budget, scope, level: level.as_deref().map(parse_level).transpose()?, from, to, before: cursor };
    let mut alerts = reading::alerts(&state.database, &filter, limit.rows_and_one()).await?;
    let more = limit.cut(&mut alerts);
    let next_cursor = alerts.last().filter(|_| more).map(|alert| alert.id);
    Ok(Json(AlertList { alerts, next_cursor }))
}

fn refuse_nul<const N: usize>(texts: [Option<&str>; N]) -> Result<(), ApiError> {
    if texts.into_iter().flatten().any(|text| text.contains('\0')) {
        return Err(ApiError::invalid("a name contains NUL"));
    }
    Ok(())
}

fn parse_level(name: &str) -> Result<&'static str, ApiError> {
    let known = AlertLevel::ALL.into_iter().map(AlertLevel::name).find(|known| *known == name);
    known.ok_or_else(|| ApiError::invalid("`level` is none of `warning`, `high` and `critical`"))
}

async fn durable_detail(state: &AppState, seen: Seen<'_>, current: Numbers) -> Result<AccountDetail, ApiError> {
    let AccountKey { budget, scope, window_start } = &current.key;
    let windows = reading::windows(&state.database, budget, scope, PAST_MAX).await?;
    let (now, past): (Vec<_>, Vec<_>) = windows.iter().map(Numbers::from).partition(|one| one.key.window_start == *window_start);
    Ok(AccountDetail {
        account: seen.view(now.first().unwrap_or(&current))?,
        leases: reading::leases(&state.database, budget, scope, *window_start).await?,
        forfeits: reading::forfeits(&state.database, budget, scope, PAST_MAX).await?,
        past: past.iter().map(|one| seen.view(one)).collect::<Result<_, _>>()?,
    })
}

async fn volatile_detail(state: &AppState, seen: Seen<'_>, current: Numbers) -> Result<AccountDetail, ApiError> {
    let unavailable = |error: valkey::VolatileError| {
        tracing::warn!(error = %chain(&error), "an account cannot be shown");
        ApiError::Unavailable { what: "the counter store cannot be reached" }
    };
    let current = current.read(state).await?;
    let leases = valkey::leases(&mut state.valkey.clone(), &current.key).await.map_err(unavailable)?;
    let ids: Vec<Uuid> = leases.iter().filter_map(|(holder, _)| Uuid::try_parse(holder).ok()).collect();
    let known = reading::holders(&state.database, &ids).await?;
    let known: HashMap<Uuid, _> = known.into_iter().map(|(holder, envoy_id, seen)| (holder, (envoy_id, seen))).collect();
    let lease_view = |(holder, lease): &(String, Lease)| {
        let holder = Uuid::try_parse(holder).ok()?;
        let (envoy_id, last_seen_at) = known.get(&holder).cloned().unzip();
        let generation = i64::try_from(lease.generation).unwrap_or(i64::MAX);
        let (granted, used, held) = (lease.granted.get(), lease.used.get(), lease.held.get());
        Some(LeaseView { holder, envoy_id, generation, granted, used, held, last_seen_at })
    };
    let leases = leases.iter().filter_map(lease_view).collect();
    Ok(AccountDetail { account: seen.view(&current)?, leases, forfeits: Vec::new(), past: Vec::new() })
}

/// Those behind `after`, until the page is full and it is known whether there is another.
async fn add_volatile(
    state: &AppState,
    seen: Seen<'_>,
    (query, after): (&ListQuery, Option<&AccountKey>),
    limit: Limit,
    list: &mut AccountList,
) -> Result<(), ApiError> {
    let asked = |budget: &&Budget| !budget.durable && query.budget.as_deref().is_none_or(|name| *name == *budget.name);
    let named = |budget| Some((budget, query.scope.clone().or_else(|| only_scope(budget))?));
    let mut wanted: Vec<(&Budget, String)> = seen.policy.budgets().iter().filter(asked).filter_map(named).collect();
    wanted.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    wanted.retain(|(budget, scope)| after.is_none_or(|after| (&*budget.name, scope) > (&*after.budget, &after.scope)));
    for (budget, scope) in wanted {
        if limit.is_exceeded_by(&list.accounts) {
            break;
        }
        let Some(mut numbers) = Numbers::none(seen, budget, &scope) else { continue };
        match valkey::read(&mut state.valkey.clone(), &numbers.key).await {
            Ok(Some(account)) => {
                numbers.account = account;
                list.accounts.push(seen.view(&numbers)?);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(budget = %budget.name, error = %chain(&error), "an account cannot be listed");
                list.unavailable.push(budget.name.to_string());
            }
        }
    }
    Ok(())
}

/// The scope of a budget whose template has no variable.
fn only_scope(budget: &Budget) -> Option<String> {
    let literal = |part: &ScopePart| match part {
        ScopePart::Literal(text) => Some(text.to_string()),
        ScopePart::FirstOf(_) => None,
    };
    budget.scope.0.iter().map(literal).collect()
}
