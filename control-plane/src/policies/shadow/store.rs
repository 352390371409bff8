//! Shadows in Postgres: beginnings and ends are only added, what workers report is kept by its greatest value.

use super::{Difference, Example, Run, Totals};
use crate::admin_events::{self, Actor, AdminEvent};
use crate::audit::access::Access;
use crate::audit::check_name;
use crate::holders::HolderId;
use crate::policies::Revision;
use crate::policies::store::{notify, policies_lock, revision_active};
use crate::problem::ApiError;
use serde_json::json;
use sqlx::{FromRow, PgConnection, PgPool, Postgres, Transaction};
use std::time::Duration;
use wire::sync::{Aspect, ShadowReport};

/// The most differences that are kept of one worker.
const DIFFERENCES_MAX: usize = 512;

/// The longest text in a difference, in characters.
const TEXT_CHARS_MAX: usize = 256;

/// Sums of these over every worker still fit.
const COUNT_MAX: u64 = 1 << 48;

/// The most differences, and examples, in a report.
const DIFFERENCES_SHOWN: i64 = 200;
const EXAMPLES_SHOWN: i64 = 20;

/// How long the counts of a run are kept after it ended.
const KEEP_ENDED: &str = "30 days";

/// The newest row, whatever it says.
#[derive(Debug, FromRow)]
struct Newest {
    revision: Option<Revision>,
    ends_at: Option<time::OffsetDateTime>,
    due: bool,
}

/// A beginning, or an end.
struct Event<'a> {
    revision: Option<Revision>,
    actor: Actor<'a>,
    reason: &'a str,
    ends_at: Option<time::OffsetDateTime>,
}

/// Evaluates a revision beside the active one from now on. Another that was is no longer.
/// The caller holds [`policies_lock`].
pub async fn begin(
    transaction: &mut Transaction<'_, Postgres>,
    revision: Revision,
    actor: Actor<'_>,
    reason: &str,
    duration: Option<Duration>,
) -> Result<i64, ApiError> {
    let active = revision_active(&mut **transaction).await?.ok_or(ApiError::Unavailable { what: "no policy is active" })?;
    if active == revision {
        return Err(ApiError::conflict(format!("revision {revision} is in force: it would be compared with itself")));
    }
    let ends_at = duration.map(|duration| time::OffsetDateTime::now_utc() + duration);
    let number = add(transaction, Event { revision: Some(revision), actor, reason, ends_at }).await?;
    let target = revision.to_string();
    let detail = json!({ "shadow": number, "against": active, "duration_s": duration.map(|duration| duration.as_secs()) });
    admin_events::record(transaction, actor, AdminEvent { action: "policy.shadow", target: &target, reason, detail }).await?;
    Ok(number)
}

/// Ends the run. The caller holds [`policies_lock`].
pub async fn end(transaction: &mut Transaction<'_, Postgres>, actor: Actor<'_>, reason: &str) -> Result<i64, ApiError> {
    let Some(Newest { revision: Some(revision), .. }) = newest(transaction).await? else {
        return Err(ApiError::conflict("no revision is in shadow"));
    };
    ended(transaction, revision, actor, reason).await.map_err(ApiError::from)
}

async fn ended(
    transaction: &mut Transaction<'_, Postgres>,
    revision: Revision,
    actor: Actor<'_>,
    reason: &str,
) -> Result<i64, sqlx::Error> {
    let number = add(transaction, Event { revision: None, actor, reason, ends_at: None }).await?;
    let target = revision.to_string();
    let event = AdminEvent { action: "policy.shadow.end", target: &target, reason, detail: json!({ "shadow": number }) };
    admin_events::record(transaction, actor, event).await?;
    Ok(number)
}

/// A revision was activated: a run of that revision ends, one of another begins anew against it.
pub async fn activated(transaction: &mut Transaction<'_, Postgres>, revision: Revision) -> Result<(), sqlx::Error> {
    let Some(Newest { revision: Some(shadow), ends_at, due }) = newest(transaction).await? else { return Ok(()) };
    let actor = Actor::CONTROL_PLANE;
    if shadow == revision || due {
        ended(transaction, shadow, actor, if due { "its time is over" } else { "it was activated" }).await?;
    } else {
        add(transaction, Event { revision: Some(shadow), actor, reason: "another revision was activated", ends_at }).await?;
    }
    Ok(())
}

/// Ends the run if its time is over. Any number of replicas may do this at once.
pub async fn end_due(database: &PgPool) -> Result<bool, sqlx::Error> {
    let due = async |connection: &mut PgConnection| {
        let newest = newest(connection).await?;
        Ok::<_, sqlx::Error>(newest.filter(|newest| newest.due).and_then(|newest| newest.revision))
    };
    if due(&mut *database.acquire().await?).await?.is_none() {
        return Ok(false);
    }
    let mut transaction = database.begin().await?;
    policies_lock(&mut transaction).await?;
    // Another replica may have been first.
    let Some(revision) = due(&mut transaction).await? else { return Ok(false) };
    ended(&mut transaction, revision, Actor::CONTROL_PLANE, "its time is over").await?;
    transaction.commit().await?;
    Ok(true)
}

async fn newest(connection: &mut PgConnection) -> Result<Option<Newest>, sqlx::Error> {
    sqlx::query_as(
        "SELECT revision, ends_at, coalesce(ends_at <= clock_timestamp(), false) AS due \
         FROM policy_shadows ORDER BY number DESC LIMIT 1",
    )
    .fetch_optional(connection)
    .await
}

async fn add(transaction: &mut Transaction<'_, Postgres>, event: Event<'_>) -> Result<i64, sqlx::Error> {
    let (number,): (i64,) = sqlx::query_as(
        "INSERT INTO policy_shadows (revision, active_revision, author_issuer, author, reason, ends_at) \
         SELECT $1, revision, $2, $3, $4, $5 FROM policy_activations ORDER BY activation DESC LIMIT 1 RETURNING number",
    )
    .bind(event.revision)
    .bind(event.actor.issuer)
    .bind(event.actor.subject)
    .bind(event.reason)
    .bind(event.ends_at)
    .fetch_one(&mut **transaction)
    .await?;
    notify(transaction, number).await?;
    Ok(number)
}

/// Keeps what a worker reports of the run that goes on. A report of any other is out of date, and is ignored. Nothing in a
/// report is an error: it comes with charges and records, which must not wait for it.
pub async fn report(connection: &mut PgConnection, holder: HolderId, report: &ShadowReport) -> Result<(), sqlx::Error> {
    let amount = |count: u64| i64::try_from(count.min(COUNT_MAX)).unwrap_or_default();
    let kept = sqlx::query(
        "INSERT INTO shadow_totals (shadow, holder, compared, unjudged) \
         SELECT number, $2, $3, $4 FROM (SELECT number, revision FROM policy_shadows ORDER BY number DESC LIMIT 1) AS newest \
         WHERE number = $1 AND revision IS NOT NULL \
         ON CONFLICT (shadow, holder) DO UPDATE SET compared = GREATEST(shadow_totals.compared, EXCLUDED.compared), \
             unjudged = GREATEST(shadow_totals.unjudged, EXCLUDED.unjudged), reported_at = EXCLUDED.reported_at",
    )
    .bind(amount(report.shadow))
    .bind(holder.0)
    .bind(amount(report.compared))
    .bind(amount(report.unjudged))
    .execute(&mut *connection)
    .await?;
    if kept.rows_affected() == 0 || report.differences.is_empty() {
        return Ok(());
    }
    let text = |text: &str| text.chars().take(TEXT_CHARS_MAX).map(|char| if char == '\0' { '\u{fffd}' } else { char }).collect::<String>();
    let differences = report.differences.get(..DIFFERENCES_MAX).unwrap_or(&report.differences);
    sqlx::query(
        "INSERT INTO shadow_counts (shadow, holder, check_name, route, active, in_shadow, count) \
         SELECT $1, $2, check_name, route, active, in_shadow, sum(count) \
         FROM UNNEST($3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[]) AS n (check_name, route, active, in_shadow, count) \
         WHERE count > 0 GROUP BY check_name, route, active, in_shadow \
         ON CONFLICT (shadow, holder, check_name, route, active, in_shadow) \
         DO UPDATE SET count = GREATEST(shadow_counts.count, EXCLUDED.count)",
    )
    .bind(amount(report.shadow))
    .bind(holder.0)
    .bind(differences.iter().map(|difference| aspect_name(difference.aspect)).collect::<Vec<_>>())
    .bind(differences.iter().map(|difference| text(&difference.route)).collect::<Vec<_>>())
    .bind(differences.iter().map(|difference| text(&difference.active)).collect::<Vec<_>>())
    .bind(differences.iter().map(|difference| text(&difference.shadow)).collect::<Vec<_>>())
    .bind(differences.iter().map(|difference| amount(difference.count)).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(|_done| ())
}

/// The newest run, whether it goes on or not.
pub async fn latest_run(database: &PgPool) -> Result<Option<Run>, sqlx::Error> {
    sqlx::query_as(
        "SELECT number, revision, active_revision, author_issuer, author, reason, at AS began_at, ends_at, \
             (SELECT min(next.at) FROM policy_shadows AS next WHERE next.number > run.number) AS ended_at \
         FROM policy_shadows AS run WHERE revision IS NOT NULL ORDER BY number DESC LIMIT 1",
    )
    .fetch_optional(database)
    .await
}

/// What workers reported of a run.
pub async fn totals(database: &PgPool, run: i64) -> Result<Totals, sqlx::Error> {
    sqlx::query_as(
        "SELECT coalesce(sum(compared), 0)::bigint AS compared, coalesce(sum(unjudged), 0)::bigint AS unjudged, count(*) AS workers \
         FROM shadow_totals WHERE shadow = $1",
    )
    .bind(run)
    .fetch_one(database)
    .await
}

/// How the two revisions of a run differ, most frequent first, and how often in all.
pub async fn differences(database: &PgPool, run: i64) -> Result<(Vec<Difference>, i64), sqlx::Error> {
    let (changed,): (i64,) =
        sqlx::query_as("SELECT coalesce(sum(count), 0)::bigint FROM shadow_counts WHERE shadow = $1").bind(run).fetch_one(database).await?;
    let differences = sqlx::query_as(
        "SELECT check_name AS \"check\", route, active, in_shadow AS shadow, sum(count)::bigint AS count \
         FROM shadow_counts WHERE shadow = $1 GROUP BY check_name, route, active, in_shadow \
         ORDER BY sum(count) DESC, route, check_name, active, in_shadow LIMIT $2",
    )
    .bind(run)
    .bind(DIFFERENCES_SHOWN)
    .fetch_all(database)
    .await?;
    Ok((differences, changed))
}

/// Records of the audit log that show a difference of this run.
pub async fn examples(database: &PgPool, run: &Run) -> Result<Vec<Example>, sqlx::Error> {
    let mut transaction = Access::Auditor.begin(database).await?;
    let examples = sqlx::query_as(
        "SELECT id, \"timestamp\", gateway_type, http_method, route, decision, reason, shadow FROM gateway_audit_logs \
         WHERE shadow IS NOT NULL AND (shadow->>'revision')::bigint = $1 AND revision = $2 AND \"timestamp\" >= $3 \
             AND ($4::timestamptz IS NULL OR \"timestamp\" <= $4) \
         ORDER BY \"timestamp\" DESC, holder DESC, sequence DESC LIMIT $5",
    )
    .bind(run.revision)
    .bind(run.active_revision)
    .bind(run.began_at)
    .bind(run.ended_at)
    .bind(EXAMPLES_SHOWN)
    .fetch_all(&mut *transaction)
    .await?;
    transaction.rollback().await?;
    Ok(examples)
}

/// Forgets what was counted in runs that ended long ago. Says how many rows.
pub async fn forget(database: &PgPool) -> Result<u64, sqlx::Error> {
    let mut rows = 0_u64;
    for statement in [
        "DELETE FROM shadow_counts WHERE shadow IN (SELECT run.number FROM policy_shadows AS run \
             WHERE EXISTS (SELECT FROM policy_shadows AS next WHERE next.number > run.number AND next.at < now() - $1::interval))",
        "DELETE FROM shadow_totals WHERE shadow IN (SELECT run.number FROM policy_shadows AS run \
             WHERE EXISTS (SELECT FROM policy_shadows AS next WHERE next.number > run.number AND next.at < now() - $1::interval))",
    ] {
        rows = rows.saturating_add(sqlx::query(statement).bind(KEEP_ENDED).execute(database).await?.rows_affected());
    }
    Ok(rows)
}

/// The name of what two revisions part in. A check has that of its records.
const fn aspect_name(aspect: Aspect) -> &'static str {
    match aspect {
        Aspect::Check(check) => check_name(check),
        Aspect::Credential => "credential",
        Aspect::Rewrite => "rewrite",
        Aspect::Exchange => "exchange",
    }
}
