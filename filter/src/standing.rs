//! What clients are told of how full their budgets are: in headers, and in the body of a refusal.
//!
//! `RateLimit` and `RateLimit-Policy` are those of draft-ietf-httpapi-ratelimit-headers-10 §3 and §4.

use crate::enact::Refusal;
use crate::exchange::Exchange;
use crate::host::Host;
use decision_core::budget::{AlertLevel, Budget, BudgetId, Unit, Units, Whose, seconds_until};
use decision_core::holder::Standing;
use decision_core::policy::CompiledPolicy;
use decision_core::policy::source::{RateLimitHeaders, Utilization};
use decision_core::time::Timestamp;
use serde::Serialize;

/// Below every threshold.
const NORMAL: &str = "normal";

/// Headers of a response.
pub(crate) type Headers = Vec<(&'static str, String)>;

/// Adds them to the backend's response. Most responses have none, and cost a comparison per budget.
pub(crate) fn annotate_response(
    host: &impl Host,
    policy: &CompiledPolicy,
    standings: impl Iterator<Item = (BudgetId, Standing)> + Clone,
    now: Timestamp,
) {
    for (name, value) in headers(policy, standings, now) {
        host.set_response_header(name, value.as_bytes());
    }
}

/// Those of a refusal.
pub(crate) fn headers_of_refusal(exchange: &Exchange, refusal: &Refusal) -> Headers {
    match (refusal, exchange.trace.active.as_ref()) {
        (Refusal::Spent { spent, .. }, Some(active)) => headers(&active.policy, spent.standings.iter().copied(), spent.now),
        _ => Headers::new(),
    }
}

fn headers(policy: &CompiledPolicy, standings: impl Iterator<Item = (BudgetId, Standing)> + Clone, now: Timestamp) -> Headers {
    let mut headers = Headers::new();
    let known = named(policy, standings);
    let settings = policy.settings();
    tell_money(settings.utilization, known.clone(), &mut headers);
    if settings.rate_limits != RateLimitHeaders::Off {
        tell_rates(settings.rate_limits, known, now, &mut headers);
    }
    headers
}

fn named(
    policy: &CompiledPolicy,
    standings: impl Iterator<Item = (BudgetId, Standing)> + Clone,
) -> impl Iterator<Item = (&Budget, Standing)> + Clone {
    standings.filter_map(|(budget, standing)| Some((policy.budget(budget)?, standing)))
}

/// The level of the fullest money budget.
fn money_level<'p>(known: impl Iterator<Item = (&'p Budget, Standing)>) -> Option<AlertLevel> {
    let money = known.filter(|(budget, _)| budget.unit == Unit::MicroUsd);
    money.filter_map(|(budget, standing)| budget.thresholds?.level(standing.settled, standing.cap)).max()
}

/// The first money budget of this kind.
fn money_of<'p>(mut known: impl Iterator<Item = (&'p Budget, Standing)>, whose: Whose) -> Option<Standing> {
    known.find(|(budget, _)| budget.unit == Unit::MicroUsd && budget.whose() == whose).map(|(_, standing)| standing)
}

fn tell_money<'p>(when: Utilization, known: impl Iterator<Item = (&'p Budget, Standing)> + Clone, headers: &mut Headers) {
    let level = money_level(known.clone());
    let untold = || when == Utilization::FromThreshold || !known.clone().any(|(budget, _)| budget.unit == Unit::MicroUsd);
    if level.is_none() && untold() {
        return;
    }
    headers.push(("x-budget-alert-level", level.map_or(NORMAL, AlertLevel::name).into()));
    for (name, whose) in [("x-agent-utilization", Whose::Agent), ("x-platform-utilization", Whose::Platform)] {
        headers.extend(money_of(known.clone(), whose).map(|standing| (name, percent(&standing))));
    }
}

/// The level of the fullest money budget, by name.
pub(crate) fn alert_level(policy: &CompiledPolicy, standings: &[(BudgetId, Standing)]) -> &'static str {
    money_level(named(policy, standings.iter().copied())).map_or(NORMAL, AlertLevel::name)
}

/// Hundredths of a percent, rounded down.
fn per_myriad(standing: &Standing) -> i128 {
    let (settled, cap) = (i128::from(standing.settled.get()), i128::from(standing.cap.get()));
    if cap == 0 { 10_000 } else { settled.saturating_mul(10_000) / cap }
}

fn percent(standing: &Standing) -> String {
    let value = per_myriad(standing);
    format!("{}.{:02}", value / 100, value % 100)
}

fn tell_rates<'p>(
    which: RateLimitHeaders,
    known: impl Iterator<Item = (&'p Budget, Standing)> + Clone,
    now: Timestamp,
    headers: &mut Headers,
) {
    let rates = known.filter(|(budget, _)| budget.unit == Unit::Requests);
    if rates.clone().next().is_none() {
        return;
    }
    if matches!(which, RateLimitHeaders::Standard | RateLimitHeaders::Both) {
        let policies = rates.clone().map(|(budget, standing)| {
            let window = standing.window.end.since(standing.window.start).as_secs();
            format!("{};q={};w={window}", quoted(&budget.name), standing.cap)
        });
        headers.push(("ratelimit-policy", policies.collect::<Vec<_>>().join(", ")));
        let limits = rates.clone().map(|(budget, standing)| {
            format!("{};r={};t={}", quoted(&budget.name), standing.remaining(), seconds_until(standing.window.end, now))
        });
        headers.push(("ratelimit", limits.collect::<Vec<_>>().join(", ")));
    }
    if matches!(which, RateLimitHeaders::Legacy | RateLimitHeaders::Both)
        && let Some((_, nearest)) = rates.min_by_key(|(_, standing)| (standing.remaining(), standing.window.end))
    {
        headers.push(("x-ratelimit-limit", nearest.cap.to_string()));
        headers.push(("x-ratelimit-remaining", nearest.remaining().to_string()));
        headers.push(("x-ratelimit-reset", nearest.window.end.as_seconds().to_string()));
    }
}

/// A string of structured fields (RFC 9651 §3.3.3): what it cannot have is left out.
fn quoted(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 2);
    text.push('"');
    for character in name.chars().filter(|character| matches!(character, ' '..='~')) {
        if matches!(character, '"' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text.push('"');
    text
}

/// A money budget, as the original's refusals show it.
#[derive(Debug, Serialize)]
pub(crate) struct MoneyBudget {
    limit_usd: f64,
    spent_usd: f64,
    remaining_usd: f64,
    utilization_percent: f64,
}

/// The first money budget of this kind among those that the request would be charged to.
pub(crate) fn money_budget(policy: &CompiledPolicy, standings: &[(BudgetId, Standing)], whose: Whose) -> Option<MoneyBudget> {
    let standing = money_of(named(policy, standings.iter().copied()), whose)?;
    Some(MoneyBudget {
        limit_usd: usd(standing.cap),
        spent_usd: usd(standing.settled),
        remaining_usd: usd(standing.cap.minus(standing.settled)),
        utilization_percent: to_f64(i64::try_from(per_myriad(&standing)).unwrap_or(i64::MAX)) / 100.0,
    })
}

fn usd(micros: Units) -> f64 {
    to_f64(micros.get()) / 1_000_000.0
}

/// Exact below 2^53: amounts are below 2^52.
#[expect(clippy::cast_precision_loss, reason = "amounts are below 2^53")]
const fn to_f64(number: i64) -> f64 {
    number as f64
}
