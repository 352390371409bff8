//! The kill switch at a budget's critical level: the agents of spent accounts are revoked, all of one budget and window at once.

use super::{Reached, Telling, moment};
use crate::admin_events::{self, Actor};
use crate::budgets::AccountKey;
use crate::problem::ApiError;
use crate::revocations::store::{self, Revoking};
use crate::revocations::{Kind, Wanted};
use decision_core::budget::{AlertLevel, AtCritical, Budget, Variable};
use decision_core::causes::chain;
use serde_json::json;
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};

/// Accounts whose agents are to be paused, each with its agent.
pub(super) type ToPause<'a> = BTreeMap<&'a AccountKey, &'a str>;

/// Accounts whose agents are paused, each with its agent.
pub(super) type Paused = BTreeMap<AccountKey, String>;

/// Which of the accounts that reached a level pause their agents.
pub(super) fn to_pause<'a>(telling: Telling<'_>, reached: impl Iterator<Item = Reached<'a>>) -> ToPause<'a> {
    let critical = reached.filter(|one| one.level == AlertLevel::Critical).map(|one| &one.account.key);
    let paused = |key: &'a AccountKey| Some((key, agent(telling.policy.budget_by_name(&key.budget)?, &key.scope)?));
    critical.filter_map(paused).collect()
}

/// The agent that is to be paused at the critical level. A user without an agent id is charged under the subject, and is not
/// paused: a subject's revocation would refuse its tokens on every gateway and for everything, and a spent budget refuses
/// already. An override account pauses nobody: it is beside a spent one.
fn agent<'s>(budget: &Budget, scope: &'s str) -> Option<&'s str> {
    if budget.at_critical != AtCritical::PauseAgent || !budget.durable {
        return None;
    }
    match budget.scope.read_scope(scope)?.first()? {
        (Variable::AgentId, agent) if !agent.is_empty() => Some(*agent),
        (Variable::AgentId | Variable::Subject | Variable::UserId | Variable::CustomerId, _) => None,
    }
}

/// Pauses them, unless somebody stopped them before.
pub(super) async fn pause(connection: &mut PgConnection, agents: &ToPause<'_>) -> Result<Paused, sqlx::Error> {
    let mut windows: BTreeMap<(&str, i64), Vec<(&AccountKey, &str)>> = BTreeMap::new();
    for (key, agent) in agents {
        windows.entry((&key.budget, key.window_start)).or_default().push((key, agent));
    }
    let mut paused = Paused::new();
    for of_window in windows.values() {
        match revoke(connection, of_window).await {
            Ok(done) => paused.extend(done),
            Err(ApiError::Database(error)) => return Err(error),
            // There is no room for all of them.
            Err(_full) => paused.extend(revoke_each(connection, of_window).await?),
        }
    }
    Ok(paused)
}

/// As many as there is room for.
async fn revoke_each(connection: &mut PgConnection, agents: &[(&AccountKey, &str)]) -> Result<Paused, sqlx::Error> {
    let mut paused = Paused::new();
    for one in agents {
        match revoke(connection, std::slice::from_ref(one)).await {
            Ok(done) => paused.extend(done),
            Err(ApiError::Database(error)) => return Err(error),
            Err(error) => fail(connection, *one, &error).await?,
        }
    }
    Ok(paused)
}

/// By the kill switch of agents, with the control plane as its author. All are of one budget and window.
async fn revoke(connection: &mut PgConnection, agents: &[(&AccountKey, &str)]) -> Result<Paused, ApiError> {
    let Some((first, _)) = agents.first() else { return Ok(Paused::new()) };
    let reason = reason(first);
    let wanted = |(_, agent): &(&AccountKey, &str)| Wanted {
        kind: Kind::Agent,
        issuer: String::new(),
        value: (*agent).to_owned(),
        bound: 0,
        expires_at: None,
    };
    let wanted: Vec<Wanted> = agents.iter().map(wanted).collect();
    let revoking = store::revoke(connection, &wanted, Actor::CONTROL_PLANE, &reason).await?;
    if revoking.changed == 0 {
        return Ok(Paused::new());
    }
    let paused = paused_by(connection, agents, revoking).await?;
    let changes: Vec<_> = paused.iter().map(|(key, agent)| (target(agent), detail(key, agent))).collect();
    admin_events::record_all(connection, Actor::CONTROL_PLANE, ("revocation.revoke", &reason), &changes).await?;
    sqlx::query(
        "UPDATE budget_alerts AS a SET paused_agent = n.agent FROM UNNEST($3::text[], $4::text[]) AS n (scope, agent) \
         WHERE a.budget = $1 AND a.scope = n.scope AND a.window_start = to_timestamp($2::bigint) AND a.level = 'critical'",
    )
    .bind(&first.budget)
    .bind(first.window_start)
    .bind(paused.keys().map(|key| key.scope.as_str()).collect::<Vec<_>>())
    .bind(paused.values().map(String::as_str).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(paused)
}

/// Those that were not stopped before; an agent of several accounts is paused by the first.
async fn paused_by(connection: &mut PgConnection, agents: &[(&AccountKey, &str)], revoking: Revoking) -> Result<Paused, sqlx::Error> {
    let mut revoked: BTreeSet<String> = store::lately_revoked(connection, Kind::Agent, revoking).await?.into_iter().collect();
    let ours = agents.iter().filter(|(_, agent)| revoked.remove(*agent));
    Ok(ours.map(|(key, agent)| ((*key).clone(), (*agent).to_owned())).collect())
}

/// More revocations are in force than are kept: bookings go on, and the alert says that nobody was paused.
async fn fail(connection: &mut PgConnection, (key, agent): (&AccountKey, &str), error: &ApiError) -> Result<(), sqlx::Error> {
    tracing::error!(error = %chain(error), agent, "an agent is not paused although its budget is spent");
    let change = (target(agent), detail(key, agent));
    admin_events::record_all(connection, Actor::CONTROL_PLANE, ("budget.pause_failed", &reason(key)), &[change]).await
}

fn reason(key: &AccountKey) -> String {
    format!("the budget `{}` is spent in its window from {}", key.budget, moment(key.window_start).unwrap_or_default())
}

fn target(agent: &str) -> String {
    format!("agent {agent}")
}

fn detail(key: &AccountKey, agent: &str) -> serde_json::Value {
    let AccountKey { budget, scope, window_start } = key;
    json!({ "kind": "agent", "value": agent, "budget": budget, "scope": scope, "window_start": moment(*window_start).unwrap_or_default() })
}
