//! The original's budget endpoints, for the gateways' users: `/api/v1/budgets/agent/{agent_id}` and `/platform`, and their overrides.
//! Gateways pass these on with the caller's own token, and the caller is authenticated and authorised again.
//!
//! Whose budget may be read does not depend on where a request came in: the agent that the token names, or without one the
//! token's own subject; any other only with [`ANY_AGENT`].

use super::accounts::{Numbers, Seen};
use super::caps::request::Asked;
use super::caps::store::Entry;
use super::caps::{self, Kind};
use crate::app::AppState;
use crate::approvals::store::{Passed, consumed_by};
use crate::caller::User;
use crate::extract::PathOf;
use crate::problem::{ApiError, Problem};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use decision_core::budget::{Budget, Counted, ScopePart, Unit, Units};
use decision_core::decision::{ApprovalNeed, DenyReason};
use decision_core::policy::CompiledPolicy;
use decision_core::principal::Principal;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

/// The permission to read the budget of any agent.
const ANY_AGENT: &str = "agent_budget.view";

const MICROS: i64 = 1_000_000;

/// As long as a claim may be.
const AGENT_BYTES_MAX: usize = 256;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(agent)).routes(routes!(platform)).routes(routes!(override_agent)).routes(routes!(override_platform))
}

/// An agent's budget, as the original describes it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct AgentBudget {
    /// The agent, or the user where tokens name no agent.
    pub agent_id: String,
    /// The cap in force, in US dollars.
    pub daily_cap_usd: f64,
    /// Spent in the current window, overruns included.
    pub spent_today_usd: f64,
    /// What is left of the cap.
    pub remaining_today_usd: f64,
    /// When the window ends.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub resets_at: OffsetDateTime,
}

/// The platform's budget, as the original describes it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct PlatformBudget {
    /// The cap in force, in US dollars.
    pub monthly_cap_usd: f64,
    /// Spent in the current window, overruns included.
    pub spent_this_month_usd: f64,
    /// What is left of the cap.
    pub remaining_usd: f64,
    /// When the window ends.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub resets_at: OffsetDateTime,
    /// Whether 80 % of the cap are spent.
    pub alert_threshold_80: bool,
    /// Whether 95 % of the cap are spent.
    pub alert_threshold_95: bool,
}

/// What may be spent beside a spent budget.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OverrideBody {
    /// In US dollars, with at most six decimals; or `cap_micros`.
    pub cap_usd: Option<f64>,
    /// In millionths of a US dollar.
    pub cap_micros: Option<i64>,
    /// Why.
    pub reason: String,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: OffsetDateTime,
}

impl OverrideBody {
    fn parse(body: &[u8]) -> Result<Self, ApiError> {
        serde_json::from_slice(body).map_err(|error| ApiError::invalid(error.to_string()))
    }

    fn micros(&self) -> Result<i64, ApiError> {
        match (self.cap_usd, self.cap_micros) {
            (Some(usd), None) => {
                micros(usd).ok_or_else(|| ApiError::invalid("`cap_usd` is negative, too large, or has more than six decimals"))
            }
            (None, Some(micros)) => Ok(micros),
            (None, None) | (Some(_), Some(_)) => Err(ApiError::invalid("say either `cap_usd` or `cap_micros`")),
        }
    }
}

/// Read the budget of an agent: the own one, or with `agent_budget.view` any.
#[utoipa::path(
    get, path = "/api/v1/budgets/agent/{agent_id}", operation_id = "budgets.original.agent", params(("agent_id" = String, Path, description = "The agent")),
    responses(
        (status = 200, body = AgentBudget), (status = 403, description = "Another's", body = Problem),
        (status = 404, description = "The policy has no money budget per agent", body = Problem),
    ),
)]
async fn agent(State(state): State<AppState>, user: User, PathOf(agent_id): PathOf<String>) -> Result<Json<AgentBudget>, ApiError> {
    let policy = state.policy();
    let budget = agents_budget(&policy.loaded.policy)?;
    let scope = readable_scope(&policy.loaded.policy, budget, &user, &agent_id)?;
    let read = read(&state, Seen::of(&state, &policy), budget, &scope).await?;
    Ok(Json(AgentBudget {
        agent_id,
        daily_cap_usd: usd(read.cap),
        spent_today_usd: usd(read.spent),
        remaining_today_usd: usd(read.cap.minus(read.spent)),
        resets_at: read.resets_at,
    }))
}

/// Read the budget of the whole platform.
#[utoipa::path(
    get, path = "/api/v1/budgets/platform", operation_id = "budgets.original.platform",
    responses((status = 200, body = PlatformBudget), (status = 404, description = "The policy has no such money budget", body = Problem)),
)]
async fn platform(State(state): State<AppState>, _user: User) -> Result<Json<PlatformBudget>, ApiError> {
    let policy = state.policy();
    let (budget, scope) = platforms_budget(&policy.loaded.policy)?;
    let read = read(&state, Seen::of(&state, &policy), budget, &scope).await?;
    let reached = |percent: i64| i128::from(read.spent.get()) * 100 >= i128::from(read.cap.get()) * i128::from(percent);
    Ok(Json(PlatformBudget {
        monthly_cap_usd: usd(read.cap),
        spent_this_month_usd: usd(read.spent),
        remaining_usd: usd(read.cap.minus(read.spent)),
        resets_at: read.resets_at,
        alert_threshold_80: reached(80),
        alert_threshold_95: reached(95),
    }))
}

/// Grant an override account beside an agent's budget. On the gateways a governor does, or has approved the very request.
#[utoipa::path(
    post, path = "/api/v1/budgets/agent/{agent_id}/override", operation_id = "budgets.original.agent.override",
    params(("agent_id" = String, Path, description = "The agent")), request_body = OverrideBody,
    responses(
        (status = 201, body = Entry), (status = 200, description = "It is in force already", body = Entry),
        (status = 400, body = Problem), (status = 403, description = "Not approved by a governor", body = Problem),
    ),
)]
async fn override_agent(
    State(state): State<AppState>,
    user: User,
    PathOf(agent_id): PathOf<String>,
    passed: PassedOn,
) -> Result<(StatusCode, Json<Entry>), ApiError> {
    let policy = state.policy();
    let budget = agents_budget(&policy.loaded.policy)?;
    let scope = scope_of_agent(budget, &agent_id)?;
    grant(&state, &user, &budget.name, &scope, &passed).await
}

/// Grant an override account beside the platform's budget. On the gateways a governor does, or has approved the very request.
#[utoipa::path(
    post, path = "/api/v1/budgets/platform/override", operation_id = "budgets.original.platform.override", request_body = OverrideBody,
    responses(
        (status = 201, body = Entry), (status = 200, description = "It is in force already", body = Entry),
        (status = 400, body = Problem), (status = 403, description = "Not approved by a governor", body = Problem),
    ),
)]
async fn override_platform(State(state): State<AppState>, user: User, passed: PassedOn) -> Result<(StatusCode, Json<Entry>), ApiError> {
    let policy = state.policy();
    let (budget, scope) = platforms_budget(&policy.loaded.policy)?;
    grant(&state, &user, &budget.name, &scope, &passed).await
}

/// A request as it arrived, byte by byte: an approval is bound to those.
struct PassedOn {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl axum::extract::FromRequest<AppState> for PassedOn {
    type Rejection = ApiError;

    async fn from_request(request: axum::extract::Request, state: &AppState) -> Result<Self, ApiError> {
        let (method, uri, headers) = (request.method().clone(), request.uri().clone(), request.headers().clone());
        let body = Bytes::from_request(request, state).await.map_err(|refused| crate::extract::refused_bytes(&refused))?;
        Ok(Self { method, uri, headers, body })
    }
}

impl PassedOn {
    /// The id that the gateway gave it; one that was repeated is none.
    fn request_id(&self) -> Option<Uuid> {
        let mut ids = self.headers.get_all("x-request-id").iter();
        match (ids.next(), ids.next()) {
            (Some(id), None) => Uuid::try_parse(id.to_str().ok()?).ok(),
            (None, _) | (Some(_), Some(_)) => None,
        }
    }
}

async fn grant(state: &AppState, user: &User, budget: &str, scope: &str, passed: &PassedOn) -> Result<(StatusCode, Json<Entry>), ApiError> {
    let body = OverrideBody::parse(&passed.body)?;
    let approval = approval(state, user, passed).await?;
    let (cap, expires_at) = (body.micros()?, Some(body.expires_at));
    let asked = Asked { kind: Kind::Override, budget, scope, cap, expires_at, approval };
    let setting = caps::http::set(state, &user.principal, asked, &body.reason).await?;
    Ok((caps::http::created(&setting), Json(setting.entry)))
}

/// The approval that exactly this request has consumed at its gateway. Whoever comes past the gateways has none, and who repeats
/// what was approved finds it used.
async fn approval(state: &AppState, user: &User, passed: &PassedOn) -> Result<Option<Uuid>, ApiError> {
    match user.approval {
        ApprovalNeed::None => return Ok(None),
        ApprovalNeed::Governor => {}
    }
    let identity = &user.principal.identity;
    let denied = || ApiError::Denied { reason: DenyReason::ApprovalRequired.code(), rule: None };
    let seen = Passed {
        request_id: passed.request_id().ok_or_else(denied)?,
        user: (&identity.issuer, &identity.subject),
        method: passed.method.as_str(),
        path: passed.uri.path(),
        body_sha256: Sha256::digest(&passed.body).into(),
    };
    consumed_by(&state.database, &seen).await?.map(Some).ok_or_else(denied)
}

/// The budget that the original calls the agent's: the first money budget whose scope is an agent.
fn agents_budget(policy: &CompiledPolicy) -> Result<&Budget, ApiError> {
    let found = money(policy).find(|budget| budget.scope.scope_of_agent("").is_some());
    found.ok_or_else(|| ApiError::not_found("budget per", "agent"))
}

/// The first money budget that everybody shares under the name `platform`.
fn platforms_budget(policy: &CompiledPolicy) -> Result<(&Budget, String), ApiError> {
    let is_platform = |budget: &&Budget| match budget.scope.0.as_slice() {
        [ScopePart::Literal(text)] => **text == *"platform",
        _ => false,
    };
    let found = money(policy).find(is_platform).ok_or_else(|| ApiError::not_found("budget of the", "platform"))?;
    Ok((found, "platform".to_owned()))
}

fn money(policy: &CompiledPolicy) -> impl Iterator<Item = &Budget> {
    policy.budgets().iter().filter(|budget| budget.unit == Unit::MicroUsd && budget.counted == Counted::ByLease)
}

/// Whose account this user may read under the name `agent_id`.
fn readable_scope(policy: &CompiledPolicy, budget: &Budget, user: &User, agent_id: &str) -> Result<String, ApiError> {
    let principal = &user.principal;
    match own(principal, agent_id) {
        Own::Agent => scope_of_agent(budget, agent_id),
        Own::Subject => {
            let mut scope = String::new();
            let unscoped = |_unscoped| ApiError::not_found("budget of", agent_id);
            budget.scope.write_scope(principal, &mut scope).map_err(unscoped)?;
            Ok(scope)
        }
        Own::No if may_read_any(policy, principal) => scope_of_agent(budget, agent_id),
        // The same for what exists and what does not.
        Own::No => Err(ApiError::Denied { reason: DenyReason::PermissionMissing.code(), rule: None }),
    }
}

/// Whether somebody asks about themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    /// The agent that the token names.
    Agent,
    /// The token names no agent, and its charges go to its subject.
    Subject,
    /// Neither.
    No,
}

fn own(principal: &Principal, agent_id: &str) -> Own {
    match principal.identity.agent_id.as_deref() {
        Some(own) if own == agent_id => Own::Agent,
        None if *principal.identity.subject == *agent_id => Own::Subject,
        Some(_) | None => Own::No,
    }
}

fn may_read_any(policy: &CompiledPolicy, principal: &Principal) -> bool {
    policy.catalogue().find(ANY_AGENT).is_some_and(|permission| principal.permissions.covers(permission))
}

fn scope_of_agent(budget: &Budget, agent_id: &str) -> Result<String, ApiError> {
    if agent_id.is_empty() || agent_id.len() > AGENT_BYTES_MAX || agent_id.chars().any(char::is_control) {
        return Err(ApiError::invalid("the agent's id must have 1 to 256 bytes and no control characters"));
    }
    budget.scope.scope_of_agent(agent_id).ok_or_else(|| ApiError::not_found("budget of", agent_id))
}

/// What is read of an account.
struct Money {
    cap: Units,
    spent: Units,
    resets_at: OffsetDateTime,
}

async fn read(state: &AppState, seen: Seen<'_>, budget: &Budget, scope: &str) -> Result<Money, ApiError> {
    let none = Numbers::none(seen, budget, scope).ok_or_else(|| ApiError::not_found("account", scope))?;
    let view = seen.view(&none.read(state).await?)?;
    let spent = Units::new(view.settled).plus(Units::new(view.overrun));
    Ok(Money { cap: Units::new(view.cap.unwrap_or_default()), spent, resets_at: view.window_end })
}

/// Exact: a double has more than six decimals left for every amount that a budget can have, and is written with as few digits as
/// tell it from its neighbours.
#[expect(clippy::cast_precision_loss, reason = "amounts are below 2^53")]
fn usd(amount: Units) -> f64 {
    amount.get() as f64 / MICROS as f64
}

/// Micro-USD from what a client wrote, read from the number's own digits; `None` if it has more than six decimals.
fn micros(usd: f64) -> Option<i64> {
    let text = usd.to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let decimals = format!("{fraction:0<6}");
    let digits = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit());
    if decimals.len() != 6 || !digits(whole) || !digits(&decimals) {
        return None;
    }
    whole.parse::<i64>().ok()?.checked_mul(MICROS)?.checked_add(decimals.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_exact_to_six_decimals_both_ways() {
        let written = |amount: i64| serde_json::to_string(&usd(Units::new(amount))).unwrap();
        for (amount, text) in [(0, "0.0"), (1, "1e-6"), (1_234_567, "1.234567"), (999_999_000_001, "999999.000001")] {
            assert_eq!(written(amount), text);
        }
        let largest = 1_i64 << 52;
        for amount in (0..2_000).chain((largest - 2_000)..=largest).chain((0..52).map(|bit| (1 << bit) - 1)) {
            let read: f64 = serde_json::from_str(&written(amount)).unwrap();
            assert_eq!(micros(read), Some(amount));
        }
        for wrong in [-0.5, 0.000_000_1, 1e300, f64::NAN, f64::INFINITY] {
            assert_eq!(micros(wrong), None, "{wrong}");
        }
    }
}
