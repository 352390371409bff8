//! Records of the audit log, as far as another policy can judge their requests: the one place where replay and explain read it.

use super::access::Access;
use super::query::place;
use authoring::replay::{RecordedCharge, RecordedOutcome, RecordedRequest, RecordedUser};
use decision_core::facts::Upgrade;
use decision_core::gateway::Gateway;
use decision_core::principal::Trial;
use decision_core::time::Timestamp;
use metering::Usage;
use serde::Deserialize;
use sqlx::types::Json;
use sqlx::{FromRow, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

/// A query of records of requests that ended: no more of them than decisions read, and what names them.
macro_rules! judgeable {
    ($rest:literal) => {
        concat!(
            "SELECT holder, sequence, \"timestamp\", request_id, correlation_id, gateway_type, http_method, endpoint, upgrade, issuer, \
             subject, user_id, email, customer_id, agent_id, governor_agent_id, roles, tier, trial_mode, trial_until, decision, reason, \
             rule, route, sandbox, approval_id IS NOT NULL AS approval, charges, usage, \
             checks @> '[{\"check\": \"budget\", \"outcome\": \"failed_open\"}]' AS failed_open, revision, sampled_of \
             FROM gateway_audit_logs WHERE phase = 'outcome' AND ",
            $rest
        )
    };
}

/// A record.
#[derive(Clone, Debug, FromRow)]
pub struct JudgeableRecord {
    holder: Uuid,
    sequence: i64,
    timestamp: OffsetDateTime,
    /// The request's id.
    pub request_id: String,
    /// Its correlation id.
    pub correlation_id: String,
    gateway_type: String,
    http_method: Option<String>,
    endpoint: Option<String>,
    upgrade: Option<String>,
    issuer: Option<String>,
    subject: Option<String>,
    user_id: Option<String>,
    email: Option<String>,
    customer_id: Option<String>,
    agent_id: Option<String>,
    governor_agent_id: Option<String>,
    roles: Option<Vec<String>>,
    tier: Option<String>,
    trial_mode: bool,
    trial_until: Option<OffsetDateTime>,
    /// `permit`, `deny`, `indeterminate` or `none`.
    pub decision: String,
    /// The coded reason.
    pub reason: String,
    /// The custom rule or the budget that refused.
    pub rule: Option<String>,
    /// The route that matched.
    pub route: Option<String>,
    sandbox: bool,
    approval: bool,
    charges: Json<Vec<ChargeRow>>,
    usage: Option<Json<UsageRow>>,
    failed_open: Option<bool>,
    /// The revision that decided.
    pub revision: i64,
    sampled_of: i64,
}

#[derive(Clone, Debug, Deserialize)]
struct ChargeRow {
    budget: String,
    amount: i64,
}

#[derive(Clone, Debug, Deserialize)]
struct UsageRow {
    model: String,
    input: u64,
    cache_read: u64,
    cache_write: u64,
    output: u64,
}

/// Which records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// From this time on.
    pub since: OffsetDateTime,
    /// Before this time.
    pub until: OffsetDateTime,
    /// Of this gateway alone.
    pub gateway: Option<&'static str>,
}

/// The place of a record in the order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    at: OffsetDateTime,
    holder: Uuid,
    sequence: i64,
}

impl JudgeableRecord {
    /// Its place in the order of time.
    #[must_use]
    pub const fn place(&self) -> Place {
        Place { at: self.timestamp, holder: self.holder, sequence: self.sequence }
    }

    /// Its id in the log.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}-{}", self.holder, self.sequence)
    }

    /// When its request arrived.
    #[must_use]
    pub const fn at(&self) -> OffsetDateTime {
        self.timestamp
    }

    /// What was charged, by budget.
    #[must_use]
    pub fn charges(&self) -> Vec<RecordedCharge<'_>> {
        self.charges.iter().map(|charge| RecordedCharge { budget: &charge.budget, amount: charge.amount }).collect()
    }

    /// For a policy to judge; nothing if it is of no gateway that this version knows.
    #[must_use]
    pub fn recorded<'r>(&'r self, charges: &'r [RecordedCharge<'r>]) -> Option<RecordedRequest<'r>> {
        Some(RecordedRequest {
            request_id: &self.request_id,
            correlation_id: &self.correlation_id,
            at: timestamp(self.timestamp),
            gateway: Gateway::parse(&self.gateway_type)?,
            method: self.http_method.as_deref(),
            path: self.endpoint.as_deref(),
            upgrade: match self.upgrade.as_deref() {
                None => Upgrade::None,
                Some("websocket") => Upgrade::Websocket,
                Some(_) => Upgrade::Other,
            },
            user: self.user(),
            outcome: match self.decision.as_str() {
                "permit" => RecordedOutcome::Permit,
                "deny" => RecordedOutcome::Deny,
                "indeterminate" => RecordedOutcome::Indeterminate,
                _ => RecordedOutcome::None,
            },
            reason: &self.reason,
            route: self.route.as_deref(),
            sandbox: self.sandbox,
            approval: self.approval,
            charges,
            failed_open: self.failed_open.unwrap_or(false),
            usage: self.usage.as_deref().map(|usage| {
                let UsageRow { model, input, cache_read, cache_write, output } = usage;
                (model.as_str(), Usage { input: *input, cache_read: *cache_read, cache_write: *cache_write, output: *output })
            }),
            revision: u64::try_from(self.revision).unwrap_or_default(),
            sampled_of: u32::try_from(self.sampled_of).unwrap_or(1),
        })
    }

    fn user(&self) -> Option<RecordedUser<'_>> {
        Some(RecordedUser {
            issuer: self.issuer.as_deref()?,
            subject: self.subject.as_deref()?,
            user_id: self.user_id.as_deref()?,
            email: self.email.as_deref(),
            customer_id: self.customer_id.as_deref(),
            agent_id: self.agent_id.as_deref(),
            governor_agent_id: self.governor_agent_id.as_deref(),
            roles: self.roles.as_deref().unwrap_or_default(),
            tier: self.tier.as_deref(),
            trial: match (self.trial_mode, self.trial_until) {
                (false, _) => Some(Trial::No),
                (true, Some(end)) => Some(Trial::Until(timestamp(end))),
                (true, None) => None,
            },
        })
    }
}

fn timestamp(at: OffsetDateTime) -> Timestamp {
    // The years that `time` can say fit in microseconds of 64 bits.
    Timestamp::from_micros(i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000)).unwrap_or(i64::MAX))
}

/// The next records of a range after a place, in the order of time. Each page is a statement of its own: a cursor would keep a
/// transaction open for as long as the reader takes.
pub async fn page(database: &PgPool, range: &Range, after: Option<Place>, limit: i64) -> Result<Vec<JudgeableRecord>, sqlx::Error> {
    let statement = judgeable!(
        "\"timestamp\" >= $1 AND \"timestamp\" < $2 AND ($3::text IS NULL OR gateway_type = $3) \
         AND ($4::timestamptz IS NULL OR (\"timestamp\", holder, sequence) > ($4, $5, $6)) \
         ORDER BY \"timestamp\", holder, sequence LIMIT $7"
    );
    // The place's own time bounds the scan too: a row comparison alone would not with every index.
    let since = after.map_or(range.since, |place| place.at);
    let mut transaction = Access::Auditor.begin(database).await?;
    let records = sqlx::query_as(statement)
        .persistent(false)
        .bind(since)
        .bind(range.until)
        .bind(range.gateway)
        .bind(after.map(|place| place.at))
        .bind(after.map(|place| place.holder))
        .bind(after.map(|place| place.sequence))
        .bind(limit)
        .fetch_all(&mut *transaction)
        .await?;
    transaction.rollback().await?;
    Ok(records)
}

/// About how many records a range has, as the planner thinks: counting them would take as long as reading them.
pub async fn estimate(database: &PgPool, range: &Range) -> Result<u64, sqlx::Error> {
    let statement = "EXPLAIN (FORMAT JSON) SELECT FROM gateway_audit_logs WHERE phase = 'outcome' AND \"timestamp\" >= $1 \
         AND \"timestamp\" < $2 AND ($3::text IS NULL OR gateway_type = $3)";
    let query = sqlx::query_as(statement).persistent(false).bind(range.since).bind(range.until).bind(range.gateway);
    let mut transaction = Access::Auditor.begin(database).await?;
    let (Json(plan),): (Json<serde_json::Value>,) = query.fetch_one(&mut *transaction).await?;
    transaction.rollback().await?;
    Ok(plan.pointer("/0/Plan/Plan Rows").and_then(serde_json::Value::as_u64).unwrap_or_default())
}

/// The record of this id, or of the request of this id: how it ended.
pub async fn find(database: &PgPool, id: &str) -> Result<Option<JudgeableRecord>, sqlx::Error> {
    let mut transaction = Access::Auditor.begin(database).await?;
    let found = match place(id) {
        Some((holder, sequence)) => {
            let query = sqlx::query_as(judgeable!("holder = $1 AND sequence = $2 LIMIT 1"));
            query.bind(holder).bind(sequence).fetch_optional(&mut *transaction).await?
        }
        None => sqlx::query_as(judgeable!("request_id = $1 LIMIT 1")).bind(id).fetch_optional(&mut *transaction).await?,
    };
    transaction.rollback().await?;
    Ok(found)
}
