//! Which rules of the policy in force match, and which do not.

use crate::app::AppState;
use crate::audit::hits::{KEEP_DAYS, Kind};
use crate::caller::Caller;
use crate::extract::QueryOf;
use crate::policies::ActivePolicy;
use crate::policies::rule_names::{self, RuleKey};
use crate::problem::{ApiError, Problem};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgPool};
use std::collections::BTreeMap;
use time::{Duration, OffsetDateTime};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(rules))
}

/// Which rules to list.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct RulesQuery {
    /// Only rules that have not matched for so many days, 1 to 400, and have been in force as long.
    pub unmatched_for_days: Option<i32>,
}

/// A rule, and how often it matched in the last 400 days.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct RuleMatches {
    /// `route`, `budget`, `rule` (custom) or `flag` (a check that flags skip).
    pub kind: String,
    /// Its name.
    pub rule: String,
    /// How often, by outcome: a route's coded reasons, a budget's `charged` and `released`, a custom rule's `deny`.
    pub hits: BTreeMap<String, i64>,
    /// Since when the policy in force names it, without interruption; absent for custom rules and checks.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub in_force_since: Option<OffsetDateTime>,
    /// When it first matched; absent: never.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub first_match_at: Option<OffsetDateTime>,
    /// When it last matched; absent: never.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_match_at: Option<OffsetDateTime>,
}

#[derive(FromRow)]
struct Row {
    kind: String,
    rule: String,
    outcome: String,
    hits: i64,
    first_at: OffsetDateTime,
    last_at: OffsetDateTime,
}

/// List the rules of the policy in force with their matches, as the audit log counted them.
#[utoipa::path(
    get, path = "/admin/v1/policies/rules", operation_id = "policies.rules", params(RulesQuery),
    responses((status = 200, body = Vec<RuleMatches>), (status = 400, body = Problem)),
)]
async fn rules(
    State(state): State<AppState>,
    _caller: Caller,
    QueryOf(query): QueryOf<RulesQuery>,
) -> Result<Json<Vec<RuleMatches>>, ApiError> {
    let policy = state.policy();
    let all = matches(&state.database, &policy).await?;
    let Some(days) = query.unmatched_for_days else { return Ok(Json(all)) };
    if !(1..=KEEP_DAYS).contains(&days) {
        return Err(ApiError::invalid("`unmatched_for_days` is not 1 to 400"));
    }
    Ok(Json(unmatched(all, days)))
}

/// Those that have been in force for so many days, and have not matched in them.
#[must_use]
pub fn unmatched(rules: Vec<RuleMatches>, days: i32) -> Vec<RuleMatches> {
    let since = OffsetDateTime::now_utc() - Duration::days(days.into());
    let before = |at: Option<OffsetDateTime>| at.is_none_or(|at| at < since);
    rules.into_iter().filter(|rule| before(rule.in_force_since) && before(rule.last_match_at)).collect()
}

/// Every rule that the policy names, and custom rules and skipped checks that were counted, with their matches.
pub async fn matches(database: &PgPool, policy: &ActivePolicy) -> Result<Vec<RuleMatches>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT kind, rule, outcome, sum(hits)::bigint AS hits, min(first_at) AS first_at, max(last_at) AS last_at \
         FROM rule_hits GROUP BY kind, rule, outcome",
    )
    .fetch_all(database)
    .await?;
    rule_names::note(database, policy).await?;
    let since = rule_names::since(&mut *database.acquire().await?).await?;
    // A name that is not known yet is as young as can be.
    let age = |key: &RuleKey| Some(since.get(key).copied().unwrap_or_else(OffsetDateTime::now_utc));
    let mut rules: BTreeMap<RuleKey, RuleMatches> =
        rule_names::named(&policy.document).map(|key| (key.clone(), RuleMatches { in_force_since: age(&key), ..never(key) })).collect();
    for Row { kind, rule, outcome, hits, first_at, last_at } in rows {
        let of_policy = kind == Kind::Route.name() || kind == Kind::Budget.name();
        let key = (kind, rule);
        // What an earlier policy had is history: only the names of custom rules and checks are not in the document.
        if of_policy && !rules.contains_key(&key) {
            continue;
        }
        let matches = rules.entry(key.clone()).or_insert_with(|| never(key));
        matches.hits.insert(outcome, hits);
        matches.first_match_at = Some(matches.first_match_at.map_or(first_at, |known| known.min(first_at)));
        matches.last_match_at = Some(matches.last_match_at.map_or(last_at, |known| known.max(last_at)));
    }
    Ok(rules.into_values().collect())
}

fn never((kind, rule): RuleKey) -> RuleMatches {
    RuleMatches { kind, rule, hits: BTreeMap::new(), in_force_since: None, first_match_at: None, last_match_at: None }
}
