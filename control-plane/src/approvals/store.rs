//! Approvals in Postgres. Asks of one user are serialised by an advisory lock, so that races make no second pending
//! request and no twenty-first.

use super::{Digests, PENDING_LIFETIME, PENDING_MAX, Terms, is_storable};
use crate::admin_events::{self, Actor, AdminEvent};
use crate::audit::gateway_name;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection, PgPool};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;
use wire::sync::{ApprovalAnswer, ApprovalAsk, ApprovalOutcome, ApprovalRefusal, ApprovalUndo};

/// Answers the asks of a call, in the call's order.
pub async fn answer(
    connection: &mut PgConnection,
    envoy_id: &str,
    asks: &[ApprovalAsk],
    terms: Terms<'_>,
) -> Result<Vec<ApprovalAnswer>, sqlx::Error> {
    let mut sorted: Vec<(usize, Digests, &ApprovalAsk)> =
        asks.iter().enumerate().map(|(index, ask)| (index, Digests::of(&ask.binding), ask)).collect();
    // One order of locks for all calls.
    sorted.sort_by_key(|(index, digests, _)| (digests.user, *index));
    let mut answers = Vec::with_capacity(asks.len());
    for (index, digests, ask) in sorted {
        let outcome = if is_storable(ask) {
            lock_user(connection, &digests).await?;
            match &ask.approval_id {
                Some(id) => consume(connection, envoy_id, ask, id, &digests).await?,
                None => request(connection, envoy_id, ask, &digests, terms).await?,
            }
        } else {
            ApprovalOutcome::Refused(ApprovalRefusal::Unknown)
        };
        answers.push((index, ApprovalAnswer { request_id: ask.request_id, outcome }));
    }
    answers.sort_by_key(|(index, _)| *index);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}

async fn lock_user(connection: &mut PgConnection, digests: &Digests) -> Result<(), sqlx::Error> {
    let [a, b, c, d, e, f, g, h, ..] = digests.user;
    let lock = i64::from_le_bytes([a, b, c, d, e, f, g, h]);
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(lock).execute(connection).await.map(|_done| ())
}

/// Finds the open approval for exactly this request, or opens one.
async fn request(
    connection: &mut PgConnection,
    envoy_id: &str,
    ask: &ApprovalAsk,
    digests: &Digests,
    terms: Terms<'_>,
) -> Result<ApprovalOutcome, sqlx::Error> {
    expire_of_user(connection, digests).await?;
    let (open, pending): (Option<Uuid>, i64) = sqlx::query_as(
        "SELECT (SELECT id FROM approvals WHERE binding_sha256 = $2 AND status IN ('pending', 'approved')), \
                (SELECT count(*) FROM approvals WHERE user_sha256 = $1 AND status = 'pending')",
    )
    .bind(digests.user.as_slice())
    .bind(digests.binding.as_slice())
    .fetch_one(&mut *connection)
    .await?;
    let id = match open {
        Some(id) => id,
        None if pending >= PENDING_MAX => return Ok(ApprovalOutcome::Refused(ApprovalRefusal::TooManyPending)),
        None => open_pending(connection, envoy_id, ask, digests).await?,
    };
    let url = format!("{}/approvals/{id}", terms.public_url.trim_end_matches('/'));
    Ok(ApprovalOutcome::Pending { approval_id: id.to_string(), url })
}

async fn expire_of_user(connection: &mut PgConnection, digests: &Digests) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE approvals SET status = 'expired' WHERE expires_at <= now() \
         AND ((user_sha256 = $1 AND status = 'pending') OR (binding_sha256 = $2 AND status IN ('pending', 'approved')))",
    )
    .bind(digests.user.as_slice())
    .bind(digests.binding.as_slice())
    .execute(connection)
    .await
    .map(|_done| ())
}

async fn open_pending(connection: &mut PgConnection, envoy_id: &str, ask: &ApprovalAsk, digests: &Digests) -> Result<Uuid, sqlx::Error> {
    let id = Uuid::now_v7();
    let binding = &ask.binding;
    sqlx::query(
        "INSERT INTO approvals (id, envoy_id, gateway, issuer, subject, method, authority, path, query, body_sha256, route, action, \
             user_sha256, binding_sha256, requested_by, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, now() + make_interval(secs => $16))",
    )
    .bind(id)
    .bind(envoy_id)
    .bind(gateway_name(binding.gateway))
    .bind(&binding.issuer)
    .bind(&binding.subject)
    .bind(&binding.method)
    .bind(&binding.authority)
    .bind(&binding.path)
    .bind(&binding.query)
    .bind(binding.body_sha256.as_slice())
    .bind(&ask.route)
    .bind(&ask.action)
    .bind(digests.user.as_slice())
    .bind(digests.binding.as_slice())
    .bind(Uuid::from_bytes(ask.request_id))
    .bind(PENDING_LIFETIME.as_secs_f64())
    .execute(connection)
    .await?;
    Ok(id)
}

#[derive(FromRow)]
struct Presented {
    binding_sha256: Vec<u8>,
    status: String,
    expired: bool,
    consumed_by: Option<Uuid>,
}

/// Uses up a grant. Another user's approval is unknown here: nobody learns about it.
async fn consume(
    connection: &mut PgConnection,
    envoy_id: &str,
    ask: &ApprovalAsk,
    id: &str,
    digests: &Digests,
) -> Result<ApprovalOutcome, sqlx::Error> {
    let refused = |refusal| Ok(ApprovalOutcome::Refused(refusal));
    let Ok(id) = Uuid::try_parse(id) else { return refused(ApprovalRefusal::Unknown) };
    let found: Option<Presented> = sqlx::query_as(
        "SELECT binding_sha256, status, expires_at <= now() AS expired, consumed_by FROM approvals \
         WHERE id = $1 AND user_sha256 = $2 FOR UPDATE",
    )
    .bind(id)
    .bind(digests.user.as_slice())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(found) = found else { return refused(ApprovalRefusal::Unknown) };
    if found.binding_sha256 != digests.binding {
        return refused(ApprovalRefusal::OtherRequest);
    }
    match Status::parse(&found.status) {
        Some(Status::Consumed) if found.consumed_by == Some(Uuid::from_bytes(ask.request_id)) => Ok(ApprovalOutcome::Granted),
        Some(Status::Consumed) => refused(ApprovalRefusal::Consumed),
        Some(Status::Rejected) => refused(ApprovalRefusal::Rejected),
        Some(Status::Expired) => refused(ApprovalRefusal::Expired),
        Some(Status::Pending | Status::Approved) if found.expired => refused(ApprovalRefusal::Expired),
        Some(Status::Pending) => refused(ApprovalRefusal::Undecided),
        Some(Status::Approved) => mark_consumed(connection, id, envoy_id, ask).await,
        None => refused(ApprovalRefusal::Unknown),
    }
}

async fn mark_consumed(connection: &mut PgConnection, id: Uuid, envoy_id: &str, ask: &ApprovalAsk) -> Result<ApprovalOutcome, sqlx::Error> {
    sqlx::query(
        "UPDATE approvals SET status = 'consumed', consumed_at = now(), consumed_by = $2, consumed_envoy_id = $3 \
         WHERE id = $1 AND status = 'approved'",
    )
    .bind(id)
    .bind(Uuid::from_bytes(ask.request_id))
    .bind(envoy_id)
    .execute(connection)
    .await?;
    Ok(ApprovalOutcome::Granted)
}

/// Gives back grants whose requests never reached the backend. Only the Envoy and request that consumed one may; a
/// repeated undo finds nothing. Where the same request was approved anew meanwhile, that approval stays the only open one.
pub async fn undo(connection: &mut PgConnection, envoy_id: &str, undos: &[ApprovalUndo]) -> Result<(), sqlx::Error> {
    for undo in undos {
        let Ok(id) = Uuid::try_parse(&undo.approval_id) else { continue };
        sqlx::query(
            "UPDATE approvals AS a SET status = 'approved', consumed_at = NULL, consumed_by = NULL, consumed_envoy_id = NULL \
             WHERE id = $1 AND status = 'consumed' AND consumed_by = $2 AND consumed_envoy_id = $3 AND NOT EXISTS \
                 (SELECT FROM approvals AS other WHERE other.binding_sha256 = a.binding_sha256 AND other.status IN ('pending', 'approved'))",
        )
        .bind(id)
        .bind(Uuid::from_bytes(undo.request_id))
        .bind(envoy_id)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Closes what nobody decided or used in time. The asks do so too for what they touch; this is for the lists.
pub async fn expire(database: &PgPool) -> Result<u64, sqlx::Error> {
    sqlx::query(
        "UPDATE approvals SET status = 'expired' WHERE id IN (SELECT id FROM approvals WHERE status IN ('pending', 'approved') \
         AND expires_at <= now() ORDER BY expires_at LIMIT 1000 FOR UPDATE SKIP LOCKED)",
    )
    .execute(database)
    .await
    .map(|done| done.rows_affected())
}

/// How far an approval is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for a governor.
    Pending,
    /// May be used once.
    Approved,
    /// Refused by a governor.
    Rejected,
    /// Used.
    Consumed,
    /// Not decided, or not used, in time.
    Expired,
}

impl Status {
    fn parse(name: &str) -> Option<Self> {
        [Self::Pending, Self::Approved, Self::Rejected, Self::Consumed, Self::Expired].into_iter().find(|status| status.name() == name)
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Consumed => "consumed",
            Self::Expired => "expired",
        }
    }
}

/// An approval, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Approval {
    /// Its id.
    pub id: Uuid,
    /// `pending`, `approved`, `rejected`, `consumed` or `expired`.
    pub status: String,
    /// The gateway.
    pub gateway: String,
    /// The user: issuer.
    pub issuer: String,
    /// The user: subject.
    pub subject: String,
    /// The method.
    pub method: String,
    /// The authority.
    pub authority: String,
    /// The path.
    pub path: String,
    /// The query.
    pub query: String,
    /// SHA-256 of the body, in hex.
    pub body_sha256: String,
    /// The route.
    pub route: String,
    /// The route's permission.
    pub action: String,
    /// When it was asked for.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub requested_at: OffsetDateTime,
    /// Until when it waits, or may be used.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: OffsetDateTime,
    /// When it was decided.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub decided_at: Option<OffsetDateTime>,
    /// Who decided: issuer.
    pub decided_by_issuer: Option<String>,
    /// Who decided: subject.
    pub decided_by_subject: Option<String>,
    /// Why.
    pub decision_reason: Option<String>,
    /// When it was used.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub consumed_at: Option<OffsetDateTime>,
    /// The request that used it.
    pub consumed_by: Option<Uuid>,
}

macro_rules! select_approvals {
    ($rest:literal) => {
        concat!(
            "SELECT id, CASE WHEN status IN ('pending', 'approved') AND expires_at <= now() THEN 'expired' ELSE status END AS status, \
                 gateway, issuer, subject, method, authority, path, query, encode(body_sha256, 'hex') AS body_sha256, route, action, \
                 requested_at, expires_at, decided_at, decided_by_issuer, decided_by_subject, decision_reason, consumed_at, consumed_by \
             FROM approvals ",
            $rest
        )
    };
}

/// Approvals, newest first.
pub async fn list(database: &PgPool, status: Option<Status>, limit: i64) -> Result<Vec<Approval>, sqlx::Error> {
    sqlx::query_as(select_approvals!("WHERE $1::text IS NULL OR status = $1 ORDER BY requested_at DESC, id DESC LIMIT $2"))
        .bind(status.map(Status::name))
        .bind(limit)
        .fetch_all(database)
        .await
}

/// One approval.
pub async fn find(database: &PgPool, id: Uuid) -> Result<Option<Approval>, sqlx::Error> {
    sqlx::query_as(select_approvals!("WHERE id = $1")).bind(id).fetch_optional(database).await
}

/// What a governor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The request may be made, once.
    Approve,
    /// It may not.
    Reject,
}

impl Verdict {
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
    /// Postgres failed.
    #[error("database failure")]
    Database(#[from] sqlx::Error),
}

/// Decides a pending approval, and records who did and why.
pub async fn decide(
    database: &PgPool,
    id: Uuid,
    verdict: Verdict,
    actor: Actor<'_>,
    reason: &str,
    terms: Terms<'_>,
) -> Result<Approval, DecideError> {
    let mut transaction = database.begin().await?;
    let found: Option<Approval> =
        sqlx::query_as(select_approvals!("WHERE id = $1 FOR UPDATE")).bind(id).fetch_optional(&mut *transaction).await?;
    let found = found.ok_or(DecideError::Unknown)?;
    if (found.issuer.as_str(), found.subject.as_str()) == (actor.issuer, actor.subject) {
        return Err(DecideError::OwnRequest);
    }
    if Status::parse(&found.status) != Some(Status::Pending) {
        return Err(DecideError::NotPending);
    }
    sqlx::query(
        "UPDATE approvals SET status = $2, decided_at = now(), decided_by_issuer = $3, decided_by_subject = $4, decision_reason = $5, \
             expires_at = now() + make_interval(secs => $6) WHERE id = $1",
    )
    .bind(id)
    .bind(verdict.status().name())
    .bind(actor.issuer)
    .bind(actor.subject)
    .bind(reason)
    .bind(terms.lifetime.as_secs_f64())
    .execute(&mut *transaction)
    .await?;
    let detail = serde_json::json!({"issuer": found.issuer, "subject": found.subject, "route": found.route, "action": found.action});
    let target = id.to_string();
    admin_events::record(&mut transaction, actor, AdminEvent { action: verdict.event(), target: &target, reason, detail }).await?;
    let decided = sqlx::query_as(select_approvals!("WHERE id = $1")).bind(id).fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(decided)
}
