//! `GET /admin/v1/budgets`: what was spent, what lies in leases, what is left.

use super::ledger::Account;
use super::{AccountKey, store, valkey};
use crate::app::AppState;
use crate::extract::QueryOf;
use crate::paging::PageSize;
use crate::policies::ActivePolicy;
use crate::problem::ApiError;
use axum::Json;
use axum::extract::State;
use decision_core::budget::{Budget, ScopePart, Units};
use decision_core::causes::chain;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

const PAGE: PageSize = PageSize { default: 100, max: 1_000 };

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Which accounts to list.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Only of this budget.
    pub budget: Option<String>,
    /// Only of this scope, written as accounts write it.
    pub scope: Option<String>,
    /// At most so many: 100 by default, 1000 at most.
    pub limit: Option<u32>,
}

/// One budget, scope and window, in the budget's unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct AccountView {
    /// The budget's name.
    pub budget: String,
    /// The scope with its values.
    pub scope: String,
    /// Whether it is kept in Postgres.
    pub durable: bool,
    /// Start of the window.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub window_start: OffsetDateTime,
    /// End of the window.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub window_end: OffsetDateTime,
    /// The cap in force; absent when the policy has no such budget any more.
    pub cap: Option<i64>,
    /// Charged, forfeits included.
    pub settled: i64,
    /// Granted to gateways and not charged yet.
    pub leased: i64,
    /// Of `settled`: charged in full because a gateway fell silent.
    pub forfeited: i64,
    /// Charged beyond what requests had reserved, booked apart.
    pub overrun: i64,
    /// Of `settled` and `leased`: spent without a grant, after a store lost its data.
    pub over_grant: i64,
    /// What may still be granted.
    pub remaining: i64,
}

/// The accounts of current windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct AccountList {
    /// In the order of budget and scope, durable ones first.
    pub accounts: Vec<AccountView>,
    /// Budgets that are not durable and whose store could not be asked.
    pub unavailable: Vec<String>,
}

/// List accounts of current windows. Those of budgets that are not durable are looked up one by one, so they are listed
/// only where `scope` is given or the budget has one scope.
#[utoipa::path(
    get, path = "/admin/v1/budgets", operation_id = "budgets.list", params(ListQuery),
    responses((status = 200, body = AccountList)),
)]
async fn list(State(state): State<AppState>, QueryOf(query): QueryOf<ListQuery>) -> Result<Json<AccountList>, ApiError> {
    if [&query.budget, &query.scope].into_iter().flatten().any(|text| text.contains('\0')) {
        return Err(ApiError::invalid("a name contains NUL"));
    }
    let limit = PAGE.of(query.limit)?;
    let policy = state.policy();
    let durable = store::list(&state.database, query.budget.as_deref(), query.scope.as_deref(), limit.rows()).await?;
    let accounts = durable.iter().map(|listed| durable_view(&policy, listed)).collect::<Result<_, _>>()?;
    let mut list = AccountList { accounts, unavailable: Vec::new() };
    add_volatile(&state, &policy, &query, &mut list).await?;
    limit.cut(&mut list.accounts);
    Ok(Json(list))
}

async fn add_volatile(state: &AppState, policy: &ActivePolicy, query: &ListQuery, list: &mut AccountList) -> Result<(), ApiError> {
    let now = crate::caller::now();
    let names = policy.document.budgets.iter().map(|budget| budget.name.as_str());
    let budgets = names.filter_map(|name| policy.loaded.policy.budget_by_name(name));
    for budget in budgets.filter(|budget| !budget.durable && query.budget.as_deref().is_none_or(|name| *name == *budget.name)) {
        let Some(scope) = query.scope.clone().or_else(|| only_scope(budget)) else { continue };
        let window = budget.window_at(now);
        let key = AccountKey { budget: budget.name.to_string(), scope, window_start: window.start.as_seconds() };
        match valkey::read(&mut state.valkey.clone(), &key).await {
            Ok(Some(account)) => list.accounts.push(view(key, window.end.as_seconds(), Some(budget), account, false)?),
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

fn durable_view(policy: &ActivePolicy, listed: &store::Listed) -> Result<AccountView, ApiError> {
    let account = Account {
        committed: Units::new(listed.committed),
        settled: Units::new(listed.settled),
        held: Units::ZERO,
        forfeited: Units::new(listed.forfeited),
        overrun: Units::new(listed.overrun),
        over_grant: Units::new(listed.over_grant),
    };
    let key = AccountKey { budget: listed.budget.clone(), scope: listed.scope.clone(), window_start: listed.window_start };
    view(key, listed.window_end, policy.loaded.policy.budget_by_name(&listed.budget), account, true)
}

fn view(key: AccountKey, window_end: i64, budget: Option<&Budget>, account: Account, durable: bool) -> Result<AccountView, ApiError> {
    let moment = |seconds| OffsetDateTime::from_unix_timestamp(seconds).map_err(|error| ApiError::internal("window", error));
    let cap = budget.map(|budget| budget.cap);
    Ok(AccountView {
        durable,
        window_start: moment(key.window_start)?,
        window_end: moment(window_end)?,
        cap: cap.map(Units::get),
        settled: account.settled.get(),
        leased: account.committed.minus(account.settled).get(),
        forfeited: account.forfeited.get(),
        overrun: account.overrun.get(),
        over_grant: account.over_grant.get(),
        remaining: cap.unwrap_or_default().minus(account.committed).minus(account.overrun).get(),
        budget: key.budget,
        scope: key.scope,
    })
}
