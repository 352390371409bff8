//! What happens to revocations by itself: those that no token can need any more end, and ended ones are forgotten.

use super::store::{self, Counter};
use crate::admin_events::{self, Actor, AdminEvent};
use serde_json::json;
use sqlx::{PgPool, Postgres, Transaction};

/// The most entries that one transaction changes, while every writer waits.
const BATCH: i64 = 5_000;

/// How many entries in force may have a number at or below the floor. All of them must fit in the first page that a filter
/// gets: with the second it has to ask for what follows the floor.
const BELOW_FLOOR_MAX: i64 = 2_048;

/// How long an ended entry is kept, so that filters which were away learn of it without fetching everything.
const KEEP_ENDED: &str = "1 day";

/// Ends what has expired. Says how many.
pub async fn expire(database: &PgPool) -> Result<i64, sqlx::Error> {
    let (due,): (bool,) = sqlx::query_as("SELECT EXISTS (SELECT FROM revocations WHERE lifted_at IS NULL AND expires_at <= now())")
        .fetch_one(database)
        .await?;
    if !due {
        return Ok(0);
    }
    let mut transaction = database.begin().await?;
    let before = store::lock(&mut transaction).await?;
    let ended = sqlx::query(
        "WITH due AS (SELECT kind, issuer, value, $1 + row_number() OVER (ORDER BY expires_at, number) AS changed FROM revocations \
             WHERE lifted_at IS NULL AND expires_at <= now() ORDER BY expires_at, number LIMIT $2) \
         UPDATE revocations AS r SET number = due.changed, lifted_at = now() FROM due \
         WHERE r.kind = due.kind AND r.issuer = due.issuer AND r.value = due.value",
    )
    .bind(before.number)
    .bind(BATCH)
    .execute(&mut *transaction)
    .await?;
    let ended = rows(ended.rows_affected());
    let after = Counter { number: before.number.saturating_add(ended), live: before.live.saturating_sub(ended), ..before };
    if ended > 0 {
        store::advance(&mut transaction, after).await?;
        record(&mut transaction, before, after).await?;
    }
    transaction.commit().await?;
    Ok(ended)
}

async fn record(transaction: &mut Transaction<'_, Postgres>, before: Counter, after: Counter) -> Result<(), sqlx::Error> {
    let detail = json!({ "first_number": before.number.saturating_add(1), "last_number": after.number });
    let event = AdminEvent { action: "revocation.expire", target: "-", reason: "no token can need them any more", detail };
    admin_events::record(transaction, Actor::CONTROL_PLANE, event).await
}

/// Forgets what ended a day ago. Says how many rows it changed.
pub async fn forget(database: &PgPool) -> Result<i64, sqlx::Error> {
    let newest: (Option<i64>,) = sqlx::query_as(
        "SELECT max(number) FROM (SELECT number FROM revocations WHERE lifted_at < now() - $1::interval ORDER BY number LIMIT $2) AS old",
    )
    .bind(KEEP_ENDED)
    .bind(BATCH)
    .fetch_one(database)
    .await?;
    let (Some(floor),) = newest else { return Ok(0) };
    let mut transaction = database.begin().await?;
    let before = store::lock(&mut transaction).await?;
    let below: (i64,) = sqlx::query_as("SELECT count(*) FROM revocations WHERE lifted_at IS NULL AND number <= $1")
        .bind(floor)
        .fetch_one(&mut *transaction)
        .await?;
    let moved = below.0.saturating_sub(BELOW_FLOOR_MAX).clamp(0, BATCH);
    renumber(&mut transaction, before.number, moved).await?;
    let number = before.number.saturating_add(moved);
    let mut changed = moved;
    let mut after = Counter { number, ..before };
    if below.0.saturating_sub(moved) <= BELOW_FLOOR_MAX {
        after.floor = before.floor.max(floor);
        let deleted = sqlx::query("DELETE FROM revocations WHERE lifted_at < now() - $1::interval AND number <= $2")
            .bind(KEEP_ENDED)
            .bind(floor)
            .execute(&mut *transaction)
            .await?;
        changed = changed.saturating_add(rows(deleted.rows_affected()));
    }
    store::advance(&mut transaction, after).await?;
    transaction.commit().await?;
    Ok(changed)
}

/// Gives the oldest entries in force new numbers: to filters, the same thing is revoked once more.
async fn renumber(transaction: &mut Transaction<'_, Postgres>, before: i64, many: i64) -> Result<(), sqlx::Error> {
    if many == 0 {
        return Ok(());
    }
    sqlx::query(
        "WITH oldest AS (SELECT kind, issuer, value, $1 + row_number() OVER (ORDER BY number) AS changed FROM revocations \
             WHERE lifted_at IS NULL ORDER BY number LIMIT $2) \
         UPDATE revocations AS r SET number = oldest.changed FROM oldest \
         WHERE r.kind = oldest.kind AND r.issuer = oldest.issuer AND r.value = oldest.value",
    )
    .bind(before)
    .bind(many)
    .execute(&mut **transaction)
    .await
    .map(|_done| ())
}

fn rows(affected: u64) -> i64 {
    i64::try_from(affected).unwrap_or(i64::MAX)
}
