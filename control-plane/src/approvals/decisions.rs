//! What governors decide. One refusal refuses; an approval needs as many governors as the policy asks for: when the
//! request was made, or now, whichever is more, so that a setting that is lowered weakens nothing that waits.

use super::Terms;
use super::store::{self, Approval, Status};
use crate::admin_events::{self, Actor, AdminEvent};
use crate::webhooks::{self, Event};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

/// What a governor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The request may be made, once.
    Approve,
    /// It may not.
    Reject,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Reject => "reject",
        }
    }

    const fn status(self) -> Status {
        match self {
            Self::Approve => Status::Approved,
            Self::Reject => Status::Rejected,
        }
    }

    const fn event(self) -> &'static str {
        match self {
            Self::Approve => "approval.approve",
            Self::Reject => "approval.reject",
        }
    }
}

/// What one governor said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Decided {
    /// The governor: issuer.
    pub issuer: String,
    /// The governor: subject.
    pub subject: String,
    /// `approve` or `reject`.
    pub decision: Verdict,
    /// Why.
    pub reason: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
}

/// Why a decision was not taken.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    /// No such approval.
    #[error("no such approval")]
    Unknown,
    /// The requester may not decide.
    #[error("nobody decides on an own request")]
    OwnRequest,
    /// It is decided, or expired.
    #[error("the approval is not pending")]
    NotPending,
    /// The same governor said something before.
    #[error("this governor has decided already")]
    Repeated,
    /// Postgres failed.
    #[error("database failure")]
    Database(#[from] sqlx::Error),
}

/// Takes one governor's decision on a pending approval, and records who decided and why. The row is locked first, so that
/// governors who decide at once are counted one after the other, and one of them completes it.
pub async fn decide(
    database: &PgPool,
    id: Uuid,
    verdict: Verdict,
    actor: Actor<'_>,
    reason: &str,
    terms: Terms<'_>,
) -> Result<Approval, DecideError> {
    let mut transaction = database.begin().await?;
    sqlx::query("SELECT FROM approvals WHERE id = $1 FOR UPDATE").bind(id).execute(&mut *transaction).await?;
    let found = store::read(&mut transaction, id, terms.approvers).await?.ok_or(DecideError::Unknown)?;
    if (found.issuer.as_str(), found.subject.as_str()) == (actor.issuer, actor.subject) {
        return Err(DecideError::OwnRequest);
    }
    if Status::parse(&found.status) != Some(Status::Pending) {
        return Err(DecideError::NotPending);
    }
    if found.decisions.iter().any(|decided| (decided.issuer.as_str(), decided.subject.as_str()) == (actor.issuer, actor.subject)) {
        return Err(DecideError::Repeated);
    }
    insert(&mut transaction, id, verdict, actor, reason).await?;
    let missing = match verdict {
        Verdict::Approve => found.approvals_missing.saturating_sub(1),
        Verdict::Reject => 0,
    };
    if missing == 0 {
        complete(&mut transaction, id, verdict, actor, reason, terms).await?;
    }
    let detail = serde_json::json!({
        "issuer": found.issuer, "subject": found.subject, "route": found.route, "action": found.action, "approvals_missing": missing,
    });
    let target = id.to_string();
    admin_events::record(&mut transaction, actor, AdminEvent { action: verdict.event(), target: &target, reason, detail }).await?;
    let decided = store::read(&mut transaction, id, terms.approvers).await?.ok_or(DecideError::Unknown)?;
    if let Some(webhook) = terms.webhook.filter(|_| missing == 0) {
        webhooks::store::enqueue(&mut transaction, webhook, Event::ApprovalDecided, decided.event(&terms)).await?;
    }
    transaction.commit().await?;
    Ok(decided)
}

async fn insert(connection: &mut PgConnection, id: Uuid, verdict: Verdict, actor: Actor<'_>, reason: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO approval_decisions (approval, governor_issuer, governor_subject, decision, reason, at) \
         VALUES ($1, $2, $3, $4, $5, clock_timestamp())",
    )
    .bind(id)
    .bind(actor.issuer)
    .bind(actor.subject)
    .bind(verdict.name())
    .bind(reason)
    .execute(connection)
    .await
    .map(|_done| ())
}

/// The decision that completes it is the one that the row names. A grant lives from now on.
async fn complete(
    connection: &mut PgConnection,
    id: Uuid,
    verdict: Verdict,
    actor: Actor<'_>,
    reason: &str,
    terms: Terms<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE approvals SET status = $2, decided_at = now(), decided_by_issuer = $3, decided_by_subject = $4, decision_reason = $5, \
             expires_at = now() + make_interval(secs => $6), approvers_needed = greatest(approvers_needed, $7) WHERE id = $1",
    )
    .bind(id)
    .bind(verdict.status().name())
    .bind(actor.issuer)
    .bind(actor.subject)
    .bind(reason)
    .bind(terms.lifetime.as_secs_f64())
    .bind(i16::from(terms.approvers))
    .execute(connection)
    .await
    .map(|_done| ())
}
