//! Every change that a person or the start-up makes is recorded in the transaction that makes it.

use crate::caller::Caller;
use crate::problem::ApiError;
use serde_json::Value;
use sqlx::PgConnection;

/// Longest reason, in characters.
const REASON_CHARS_MAX: usize = 1_000;

/// Whether a change may give this reason: it says something, is not too long, and Postgres can store it.
///
/// # Errors
/// It may not.
pub fn check_reason(reason: &str) -> Result<(), ApiError> {
    if reason.trim().is_empty() || reason.chars().count() > REASON_CHARS_MAX || reason.contains('\0') {
        return Err(ApiError::invalid("`reason` must say why, in at most 1000 characters without NUL"));
    }
    Ok(())
}

/// Who made a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actor<'a> {
    /// The issuer's name, or `control-plane` for what it does by itself.
    pub issuer: &'a str,
    /// The subject.
    pub subject: &'a str,
}

impl Actor<'_> {
    /// The directory of policies, which publishes at start.
    pub const POLICIES_DIRECTORY: Actor<'static> = Actor { issuer: "control-plane", subject: "policies-directory" };
    /// The control plane itself.
    pub const CONTROL_PLANE: Actor<'static> = Actor { issuer: "control-plane", subject: "control-plane" };
}

impl<'a> From<&'a Caller> for Actor<'a> {
    fn from(caller: &'a Caller) -> Self {
        Self { issuer: caller.issuer(), subject: caller.subject() }
    }
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminEvent<'a> {
    /// `policy.publish`, `policy.activate`, `approval.decide`, …
    pub action: &'a str,
    /// What it was done to: a revision, an approval id, …
    pub target: &'a str,
    /// Why, in the actor's words.
    pub reason: &'a str,
    /// Whatever else helps to understand it later; never a secret.
    pub detail: Value,
}

/// Records changes of one kind and reason by one actor, each as (target, detail), in the transaction that makes them.
pub async fn record_all(
    connection: &mut PgConnection,
    actor: Actor<'_>,
    (action, reason): (&str, &str),
    changes: &[(String, Value)],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO admin_events (actor_issuer, actor_subject, action, target, reason, detail) \
         SELECT $1, $2, $3, target, $4, detail FROM UNNEST($5::text[], $6::jsonb[]) AS n (target, detail)",
    )
    .bind(actor.issuer)
    .bind(actor.subject)
    .bind(action)
    .bind(reason)
    .bind(changes.iter().map(|(target, _)| target.as_str()).collect::<Vec<_>>())
    .bind(changes.iter().map(|(_, detail)| detail).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(|_done| ())
}

/// Records a change, in the transaction that makes it.
pub async fn record(connection: &mut PgConnection, actor: Actor<'_>, event: AdminEvent<'_>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO admin_events (actor_issuer, actor_subject, action, target, reason, detail) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(actor.issuer)
    .bind(actor.subject)
    .bind(event.action)
    .bind(event.target)
    .bind(event.reason)
    .bind(event.detail)
    .execute(connection)
    .await
    .map(|_done| ())
}
