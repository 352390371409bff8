//! What of the audit log's books is of no use any more. Records go with their partitions alone, and checkpoints never: each names the one
//! before it, and what a dropped day ended with is in them.

use super::access::Access;
use sqlx::PgPool;

/// How many rows are deleted at once.
const AT_ONCE: i64 = 10_000;

/// Deletes batches of holders that were closed a week ago, which nobody sends again, and what was put aside longer ago than records of any
/// gateway are kept, unless a legal hold is open. Says how many rows; there may be more.
///
/// # Errors
/// Postgres failed.
pub async fn forget(database: &PgPool) -> Result<u64, sqlx::Error> {
    let mut transaction = Access::Owner.begin(database).await?;
    let batches = sqlx::query(
        "DELETE FROM audit_batches AS b USING (SELECT holder, first_sequence FROM audit_batches JOIN holders USING (holder) \
             WHERE closed_at < now() - interval '7 days' LIMIT $1) AS old \
         WHERE b.holder = old.holder AND b.first_sequence = old.first_sequence",
    )
    .bind(AT_ONCE)
    .execute(&mut *transaction)
    .await?;
    let put_aside = sqlx::query(
        "DELETE FROM audit_quarantine WHERE id IN (SELECT id FROM audit_quarantine \
             WHERE received_at < now() - make_interval(days => (SELECT max(days) FROM gateway_audit.retention)) \
                 AND NOT EXISTS (SELECT FROM gateway_audit.holds WHERE released_at IS NULL) LIMIT $1)",
    )
    .bind(AT_ONCE)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(batches.rows_affected().saturating_add(put_aside.rows_affected()))
}
