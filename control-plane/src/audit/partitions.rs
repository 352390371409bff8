//! The partitions of the audit log, one per gateway and day of arrival: made ahead, and summed up when their day is over.

use super::access::Access;
use sqlx::PgPool;
use time::Date;

/// How many days ahead. Nobody has to be up for a week.
const AHEAD_DAYS: i32 = 7;

/// Makes the partitions of the next days. Says how many were missing.
///
/// # Errors
/// Postgres failed.
pub async fn create_ahead(database: &PgPool) -> Result<i32, sqlx::Error> {
    let mut transaction = Access::Writer { envoy_id: "" }.begin(database).await?;
    let (made,): (i32,) =
        sqlx::query_as("SELECT gateway_audit.create_partitions($1)").bind(AHEAD_DAYS).fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(made)
}

/// Whether a record did not arrive because its partition is missing.
#[must_use]
pub fn is_missing(error: &sqlx::Error) -> bool {
    // check_violation, of no constraint that has a name.
    error.as_database_error().is_some_and(|error| error.code().is_some_and(|code| code == "23514") && error.constraint().is_none())
}

/// Sums up one day of a gateway that is over. `None` when there is none left.
///
/// A batch that was begun before midnight is stored a moment after it, hence the five minutes.
///
/// # Errors
/// Postgres failed.
pub async fn sum_up_one(database: &PgPool) -> Result<Option<(String, Date)>, sqlx::Error> {
    let mut transaction = Access::Owner.begin(database).await?;
    let due: Option<(String, Date)> = sqlx::query_as(
        "SELECT gateway_type, day FROM gateway_audit.partitions \
         WHERE summed_up_at IS NULL AND day < ((now() - interval '5 minutes') AT TIME ZONE 'UTC')::date \
         ORDER BY day, gateway_type LIMIT 1 FOR UPDATE SKIP LOCKED",
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some((gateway, day)) = due else { return Ok(None) };
    // One of N stands for all of them. Latencies are those of the records.
    sqlx::query(
        "INSERT INTO gateway_audit.daily_summaries (day, gateway_type, issuer, subject, user_id, customer_id, trial_mode, requests, \
             succeeded, client_errors, server_errors, denied, average_us, p50_us, p95_us, p99_us) \
         SELECT $2, $1, issuer, subject, user_id, customer_id, trial_mode, sum(sampled_of), \
             coalesce(sum(sampled_of) FILTER (WHERE status_code < 400), 0), \
             coalesce(sum(sampled_of) FILTER (WHERE status_code BETWEEN 400 AND 499), 0), \
             coalesce(sum(sampled_of) FILTER (WHERE status_code >= 500), 0), \
             coalesce(sum(sampled_of) FILTER (WHERE decision = 'deny'), 0), avg(total_us)::bigint, \
             percentile_disc(0.5) WITHIN GROUP (ORDER BY total_us), percentile_disc(0.95) WITHIN GROUP (ORDER BY total_us), \
             percentile_disc(0.99) WITHIN GROUP (ORDER BY total_us) \
         FROM gateway_audit_logs \
         WHERE gateway_type = $1 AND phase = 'outcome' AND received_at >= $2::timestamp AT TIME ZONE 'UTC' \
             AND received_at < ($2::date + 1)::timestamp AT TIME ZONE 'UTC' \
         GROUP BY issuer, subject, user_id, customer_id, trial_mode",
    )
    .bind(&gateway)
    .bind(day)
    .execute(&mut *transaction)
    .await?;
    sqlx::query("UPDATE gateway_audit.partitions SET summed_up_at = now() WHERE gateway_type = $1 AND day = $2")
        .bind(&gateway)
        .bind(day)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(Some((gateway, day)))
}
