//! Approvals in Postgres. Asks of one user are serialised by an advisory lock, so that races make no second pending
//! request and no twenty-first.

use super::binding::{Digests, is_storable, target_name};
use super::decisions::Decided;
use super::{PENDING_MAX, Terms};
use crate::admin_events::{self, Actor, AdminEvent};
use crate::audit::gateway_name;
use crate::webhooks::{self, Event};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgPool};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
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
        None => open_pending(connection, envoy_id, ask, digests, terms).await?,
    };
    Ok(ApprovalOutcome::Pending { approval_id: id.to_string(), url: terms.page(id) })
}

/// Every expiry is recorded: with it ends what somebody asked for, or was granted. `$chosen` says which are looked at.
macro_rules! expire_where {
    ($chosen:literal) => {
        concat!(
            "WITH closed AS (UPDATE approvals AS a SET status = 'expired' FROM approvals AS before WHERE a.id = before.id AND ",
            $chosen,
            " RETURNING a.id, before.status AS was, a.issuer, a.subject, a.route, a.action) \
             INSERT INTO admin_events (actor_issuer, actor_subject, action, target, reason, detail) \
             SELECT 'control-plane', 'control-plane', 'approval.expire', id::text, 'not decided, or not used, in time', \
                    jsonb_build_object('was', was, 'issuer', issuer, 'subject', subject, 'route', route, 'action', action) FROM closed"
        )
    };
}

async fn expire_of_user(connection: &mut PgConnection, digests: &Digests) -> Result<(), sqlx::Error> {
    sqlx::query(expire_where!(
        "a.expires_at <= now() AND ((a.user_sha256 = $1 AND a.status = 'pending') \
             OR (a.binding_sha256 = $2 AND a.status IN ('pending', 'approved')))"
    ))
    .bind(digests.user.as_slice())
    .bind(digests.binding.as_slice())
    .execute(connection)
    .await
    .map(|_done| ())
}

async fn open_pending(
    connection: &mut PgConnection,
    envoy_id: &str,
    ask: &ApprovalAsk,
    digests: &Digests,
    terms: Terms<'_>,
) -> Result<Uuid, sqlx::Error> {
    let id = Uuid::now_v7();
    let binding = &ask.binding;
    sqlx::query(
        "INSERT INTO approvals (id, envoy_id, gateway, issuer, subject, method, authority, path, query, body_sha256, route, action, \
             user_sha256, binding_sha256, requested_by, expires_at, approvers_needed, user_id, customer_id, agent_id, target, \
             content_type, content_encoding, body_length) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, now() + make_interval(secs => $16), $17, $18, $19, \
             $20, $21, $22, $23, $24)",
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
    .bind(terms.lifetime.as_secs_f64())
    .bind(i16::from(terms.approvers))
    .bind(&binding.user_id)
    .bind(&binding.customer_id)
    .bind(&binding.agent_id)
    .bind(target_name(binding.target))
    .bind(&binding.content_type)
    .bind(&binding.content_encoding)
    .bind(i64::try_from(binding.body_length).unwrap_or(i64::MAX))
    .execute(&mut *connection)
    .await?;
    if let Some(webhook) = terms.webhook {
        let opened = read(connection, id, terms.approvers).await?.ok_or(sqlx::Error::RowNotFound)?;
        webhooks::store::enqueue(connection, webhook, Event::ApprovalRequested, opened.event(&terms)).await?;
    }
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

/// How long after it was consumed an approval stands for the request that a gateway passes on to us.
const CONSUMED_FRESH: &str = "10 minutes";

/// A request that a gateway passed on, as we see it.
#[derive(Clone, Copy, Debug)]
pub struct Passed<'a> {
    /// The id that the gateway gave it.
    pub request_id: Uuid,
    /// The user: issuer and subject.
    pub user: (&'a str, &'a str),
    /// The method.
    pub method: &'a str,
    /// The path.
    pub path: &'a str,
    /// SHA-256 of the body.
    pub body_sha256: [u8; 32],
}

/// The approval that exactly this request has consumed.
///
/// # Errors
/// Postgres failed.
pub async fn consumed_by(database: &PgPool, passed: &Passed<'_>) -> Result<Option<Uuid>, sqlx::Error> {
    let found: Option<(Uuid,)> = sqlx::query_as(
        "SELECT id FROM approvals WHERE status = 'consumed' AND consumed_by = $1 AND issuer = $2 AND subject = $3 AND method = $4 \
             AND path = $5 AND body_sha256 = $6 AND target = 'production' AND consumed_at > now() - $7::interval",
    )
    .bind(passed.request_id)
    .bind(passed.user.0)
    .bind(passed.user.1)
    .bind(passed.method)
    .bind(passed.path)
    .bind(passed.body_sha256.as_slice())
    .bind(CONSUMED_FRESH)
    .fetch_optional(database)
    .await?;
    Ok(found.map(|(id,)| id))
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
        let undone = sqlx::query(
            "UPDATE approvals AS a SET status = 'approved', consumed_at = NULL, consumed_by = NULL, consumed_envoy_id = NULL \
             WHERE id = $1 AND status = 'consumed' AND consumed_by = $2 AND consumed_envoy_id = $3 AND NOT EXISTS \
                 (SELECT FROM approvals AS other WHERE other.binding_sha256 = a.binding_sha256 AND other.status IN ('pending', 'approved'))",
        )
        .bind(id)
        .bind(Uuid::from_bytes(undo.request_id))
        .bind(envoy_id)
        .execute(&mut *connection)
        .await?;
        if undone.rows_affected() > 0 {
            record_undo(connection, id, envoy_id, undo).await?;
        }
    }
    Ok(())
}

async fn record_undo(connection: &mut PgConnection, id: Uuid, envoy_id: &str, undo: &ApprovalUndo) -> Result<(), sqlx::Error> {
    let target = id.to_string();
    let detail = serde_json::json!({"request_id": Uuid::from_bytes(undo.request_id), "envoy_id": envoy_id});
    let event = AdminEvent { action: "approval.undo", target: &target, reason: "the backend was not reached", detail };
    admin_events::record(connection, Actor::CONTROL_PLANE, event).await
}

/// Closes what nobody decided or used in time. The asks do so too for what they touch; this is for the lists.
pub async fn expire(database: &PgPool) -> Result<u64, sqlx::Error> {
    sqlx::query(expire_where!(
        "a.id IN (SELECT id FROM approvals WHERE status IN ('pending', 'approved') \
             AND expires_at <= now() ORDER BY expires_at LIMIT 1000 FOR UPDATE SKIP LOCKED)"
    ))
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
    /// From its name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
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
    /// The user id that the backend is told; unknown of approvals from before it was bound, like the other parts that may
    /// be null and are no headers.
    pub user_id: Option<String>,
    /// The customer for whom the user acts. Where the route has `ownership`, it is written into the backend's request.
    pub customer_id: Option<String>,
    /// The agent for whom the user acts.
    pub agent_id: Option<String>,
    /// Where the request goes: `production` or `sandbox`.
    pub target: Option<String>,
    /// The method.
    pub method: String,
    /// The authority.
    pub authority: String,
    /// The path.
    pub path: String,
    /// The query as sent; null where there is no `?`.
    pub query: Option<String>,
    /// `Content-Type` as sent.
    pub content_type: Option<String>,
    /// `Content-Encoding` as sent.
    pub content_encoding: Option<String>,
    /// SHA-256 of the body as the client sent it, in hex: whoever has the body can tell whether it is this one.
    pub body_sha256: String,
    /// The body's length in bytes.
    pub body_length: Option<i64>,
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
    /// How many governors have to approve: as many as the policy asked for when the request was made, or asks for now if
    /// that is more.
    pub approvers_needed: i16,
    /// How many more have to; 0 once it is decided.
    pub approvals_missing: i16,
    /// What governors said so far, oldest first.
    #[schema(value_type = Vec<Decided>)]
    pub decisions: Json<Vec<Decided>>,
}

impl Approval {
    /// What receivers outside learn: enough to find it and to see what it is about, without the query, which may carry secrets,
    /// and the body's digest, by which a short body can be guessed.
    #[must_use]
    pub fn event(&self, terms: &Terms<'_>) -> serde_json::Value {
        let moment = |at: OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
        serde_json::json!({
            "id": self.id, "url": terms.page(self.id), "status": self.status, "gateway": self.gateway,
            "user": {
                "issuer": self.issuer, "subject": self.subject,
                "user_id": self.user_id, "customer_id": self.customer_id, "agent_id": self.agent_id,
            },
            "target": self.target, "method": self.method, "authority": self.authority, "path": self.path,
            "content_type": self.content_type, "content_encoding": self.content_encoding, "route": self.route, "action": self.action,
            "requested_at": moment(self.requested_at), "expires_at": moment(self.expires_at),
            "approvers_needed": self.approvers_needed, "decisions": self.decisions,
        })
    }
}

macro_rules! select_approvals {
    ($rest:literal) => {
        concat!(
            "SELECT id, CASE WHEN status IN ('pending', 'approved') AND expires_at <= now() THEN 'expired' ELSE status END AS status, \
                 gateway, issuer, subject, user_id, customer_id, agent_id, target, method, authority, path, query, content_type, \
                 content_encoding, encode(body_sha256, 'hex') AS body_sha256, body_length, route, action, \
                 requested_at, expires_at, decided_at, decided_by_issuer, decided_by_subject, decision_reason, consumed_at, consumed_by, \
                 CASE WHEN status = 'pending' THEN greatest(approvers_needed, $1) ELSE approvers_needed END AS approvers_needed, \
                 CASE WHEN status = 'pending' AND expires_at > now() THEN greatest(0, greatest(approvers_needed, $1) - (SELECT count(*) \
                     FROM approval_decisions WHERE approval = approvals.id AND decision = 'approve'))::smallint \
                     ELSE 0::smallint END AS approvals_missing, \
                 (SELECT coalesce(json_agg(json_build_object('issuer', governor_issuer, 'subject', governor_subject, \
                     'decision', decision, 'reason', reason, 'at', at) ORDER BY at, governor_issuer, governor_subject), '[]') \
                     FROM approval_decisions WHERE approval = approvals.id) AS decisions \
             FROM approvals ",
            $rest
        )
    };
}

/// Approvals, newest first. `approvers` is what the policy in force asks for.
pub async fn list(database: &PgPool, status: Option<Status>, approvers: u8, limit: i64) -> Result<Vec<Approval>, sqlx::Error> {
    sqlx::query_as(select_approvals!(
        "WHERE ($2::text IS NULL OR status = $2) \
             AND ($2::text IS NULL OR $2 NOT IN ('pending', 'approved') OR expires_at > now()) ORDER BY requested_at DESC, id DESC LIMIT $3"
    ))
    .bind(i16::from(approvers))
    .bind(status.map(Status::name))
    .bind(limit)
    .fetch_all(database)
    .await
}

/// One approval. `approvers` is what the policy in force asks for.
pub async fn find(database: &PgPool, id: Uuid, approvers: u8) -> Result<Option<Approval>, sqlx::Error> {
    read(&mut *database.acquire().await?, id, approvers).await
}

/// One approval, within a transaction.
pub(super) async fn read(connection: &mut PgConnection, id: Uuid, approvers: u8) -> Result<Option<Approval>, sqlx::Error> {
    sqlx::query_as(select_approvals!("WHERE id = $2")).bind(i16::from(approvers)).bind(id).fetch_optional(connection).await
}
