//! How often each rule matched, counted in the transaction that stores the records: a record counts once, like itself.

use super::check_name;
use crate::holders::HolderId;
use sqlx::{PgConnection, PgPool};
use std::collections::BTreeMap;
use wire::audit::{AuditRecord, Check, CheckOutcome, Mention, Outcome, Phase};

/// How long counts are kept.
pub const KEEP_DAYS: i32 = 400;

/// What matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A budget: outcome `charged`, or `released` when nothing was charged in the end; `refused` where it had nothing left.
    Budget,
    /// A check that a feature flag skipped.
    Flag,
    /// A route: outcome is the coded reason of the decision.
    Route,
    /// A custom rule that refused.
    Rule,
}

impl Kind {
    /// Its name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Flag => "flag",
            Self::Route => "route",
            Self::Rule => "rule",
        }
    }
}

/// The hits of a batch, by kind, rule and outcome, in the order in which rows are locked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hits<'a>(BTreeMap<(&'static str, &'a str, &'a str), i64>);

impl<'a> Hits<'a> {
    /// Counts what a record says matched. An intent has its outcome's matches, which are counted once.
    pub fn count(&mut self, record: &'a AuditRecord<'_>) {
        if record.phase == Phase::Intent {
            return;
        }
        if let Some(route) = record.route.as_deref() {
            self.add(Kind::Route, route, &record.reason);
        }
        if let Some(rule) = record.rule.as_deref() {
            let of_budget = record.checks.contains(&CheckOutcome { check: Check::Budget, outcome: Outcome::Deny });
            if of_budget { self.add(Kind::Budget, rule, "refused") } else { self.add(Kind::Rule, rule, "deny") }
        }
        for (account, amount) in record.charges.iter().filter_map(|charge| Some((Mention::get(&charge.account)?, charge.amount))) {
            self.add(Kind::Budget, &account.budget, if amount == 0 { "released" } else { "charged" });
        }
        for check in record.checks.iter().filter(|check| check.outcome == Outcome::SkippedByFlag) {
            self.add(Kind::Flag, check_name(check.check), "skipped_by_flag");
        }
    }

    fn add(&mut self, kind: Kind, rule: &'a str, outcome: &'a str) {
        let hits = self.0.entry((kind.name(), rule, outcome)).or_default();
        *hits = hits.saturating_add(1);
    }
}

/// Adds a batch's hits to the day's.
pub async fn add(connection: &mut PgConnection, holder: HolderId, hits: &Hits<'_>) -> Result<(), sqlx::Error> {
    if hits.0.is_empty() {
        return Ok(());
    }
    let [.., last] = holder.0.into_bytes();
    sqlx::query(
        "INSERT INTO rule_hits (day, kind, rule, outcome, shard, hits) \
         SELECT (now() AT TIME ZONE 'UTC')::date, kind, rule, outcome, $1, hits \
         FROM UNNEST($2::text[], $3::text[], $4::text[], $5::bigint[]) WITH ORDINALITY AS n (kind, rule, outcome, hits, place) \
         ORDER BY place \
         ON CONFLICT (kind, rule, outcome, day, shard) DO UPDATE SET hits = rule_hits.hits + EXCLUDED.hits, last_at = EXCLUDED.last_at",
    )
    .bind(i16::from(last % SHARDS))
    .bind(hits.0.keys().map(|(kind, _, _)| *kind).collect::<Vec<_>>())
    .bind(hits.0.keys().map(|(_, rule, _)| *rule).collect::<Vec<_>>())
    .bind(hits.0.keys().map(|(_, _, outcome)| *outcome).collect::<Vec<_>>())
    .bind(hits.0.values().copied().collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(|_done| ())
}

/// Into how many rows a day's hits of one rule and outcome are spread.
const SHARDS: u8 = 16;

/// Forgets counts that are too old.
pub async fn forget(database: &PgPool) -> Result<u64, sqlx::Error> {
    let done =
        sqlx::query("DELETE FROM rule_hits WHERE day < (now() AT TIME ZONE 'UTC')::date - $1").bind(KEEP_DAYS).execute(database).await?;
    Ok(done.rows_affected())
}
