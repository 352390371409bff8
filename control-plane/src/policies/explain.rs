//! Why would this request be decided so? Asked of the policy in force, answered by the code that enforces it.

use crate::app::AppState;
use crate::caller::{Caller, now};
use crate::extract::JsonBody;
use crate::policies::ActivePolicy;
use crate::problem::{ApiError, Problem};
use authoring::cases;
use authoring::evaluate::{self, Asked, Asker, Explained, Judge, Tabled, unasked};
use axum::Json;
use axum::extract::State;
use decision_core::counterfactual::{Change, CheckTold, FactRead};
use decision_core::explain::{ExplainedCharge, ExplainedOutcome, ExplainedPermit, Explanation};
use decision_core::facts::Upgrade;
use decision_core::time::Timestamp;
use rules::Ruling;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use time::OffsetDateTime;
use utoipa::ToSchema;
use wire::bundle::LoadedBundle;
use wire::policy::Gateway;

/// A request that is not made, only asked about. Exactly one of `claims`, `anonymous: true` and `registered: true`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// `CP`, `PP`, `PLANT` or `ADMIN`.
    #[schema(value_type = String)]
    pub gateway: Gateway,
    /// Its method.
    pub method: String,
    /// Its path, as it would be sent; a query is ignored.
    pub path: String,
    /// The claims of the token, as if its signature had been verified.
    #[schema(value_type = Option<Object>)]
    pub claims: Option<Map<String, Value>>,
    /// Without a credential.
    #[serde(default)]
    pub anonymous: bool,
    /// With a good registration key.
    #[serde(default)]
    pub registered: bool,
    /// The protocol that it asks to change to: `websocket` or `other`; none if absent.
    #[schema(value_type = Option<String>)]
    pub upgrade: Option<cases::Upgrade>,
    /// When, in RFC 3339; now if absent.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<OffsetDateTime>,
}

/// How it would be decided, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Answer {
    /// `permit` or `deny`.
    pub decision: &'static str,
    /// `ok`, or the coded reason of the denial.
    pub reason: &'static str,
    /// The check that refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_by: Option<&'static str>,
    /// The rule: the name of the route that matched.
    pub rule: Option<String>,
    /// The route's permission.
    pub action: Option<String>,
    /// Every check that was made, in order.
    pub checks: Vec<CheckMade>,
    /// `production` or `sandbox`, where permitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<&'static str>,
    /// `none`, or `governor` when a grant has to be consumed first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<&'static str>,
    /// What would have to change for the request to go on; any one of them is enough for the check that stands in its way. Empty
    /// where nothing does, or nothing is known to help.
    pub changes: Vec<ChangeTold>,
    /// What would have to be reserved. Whether there is room is not asked.
    pub charges: Vec<ChargeDue>,
    /// The budget that counts the requests of its client address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<LimitTold>,
    /// What the backend would get, where permitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forwarded: Option<ForwardedTold>,
    /// What the client would get where the request does not go on: it is refused, or somebody has to approve first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What the custom rules said, where they were asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ruling: Option<RulingTold>,
    /// The version that answered.
    pub version: String,
    /// Its revision.
    pub revision: u64,
}

/// What the custom rules said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct RulingTold {
    /// The rule, as it names itself; `rules.…` where there was no decision.
    pub rule: String,
    /// Why. May be empty.
    pub reason: String,
}

/// A check, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct CheckMade {
    /// Its name.
    pub check: &'static str,
    /// `ok`, `skipped_by_flag`, or the coded reason.
    pub outcome: &'static str,
    /// The facts that it read, by name. A name may come twice.
    pub read: Vec<FactTold>,
}

/// A fact that a check read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FactTold {
    /// Its name.
    pub name: &'static str,
    /// Its value; empty where there is none.
    pub value: String,
}

/// Something that would have to be otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ChangeTold {
    /// Its kind: `role`, `trial_until`, `next_window`, …
    pub change: &'static str,
    /// Whose doing it would be: `caller`, `issuer`, `governor`, `time` or `operator`.
    pub by: &'static str,
    /// In words.
    pub text: String,
    /// The names and values that it is about.
    pub values: BTreeMap<&'static str, Vec<String>>,
}

impl From<&Change> for ChangeTold {
    fn from(change: &Change) -> Self {
        Self { change: change.name(), by: change.by().name(), text: change.to_string(), values: change.values().into_iter().collect() }
    }
}

/// A charge on one budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ChargeDue {
    /// The budget's name.
    pub budget: String,
    /// How much, in its unit.
    pub amount: i64,
    /// How much may be spent in a window.
    pub cap: i64,
}

/// A budget that counts the requests of a client address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LimitTold {
    /// The budget's name.
    pub budget: String,
    /// How many requests a window has room for.
    pub cap: i64,
}

/// What the backend gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ForwardedTold {
    /// Where the caller's customer id is forced into the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ownership: Option<OwnerTold>,
    /// The path that stands for the request's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<String>,
    /// `drop`, `original_header` or `forward`.
    pub credential: &'static str,
    /// `plain`, `stream` or `websocket`.
    pub exchange: &'static str,
    /// How it becomes known what the request cost: `header NAME` or `usage API`; absent where `charges` says it. With `usage`, an
    /// upper bound that follows from the request's body is reserved until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metering: Option<String>,
}

/// Where the caller's customer id is forced into a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct OwnerTold {
    /// `query`, `path` or `body`.
    #[serde(rename = "in")]
    pub place: &'static str,
    /// The query parameter, the parameter of the path template, or the key of the JSON object.
    pub name: String,
}

/// Explain how a request would be decided by the policy in force. Nothing is charged, recorded or forwarded.
#[utoipa::path(
    post, path = "/admin/v1/explain", operation_id = "explain", request_body = Question,
    responses((status = 200, body = Answer), (status = 400, body = Problem)),
)]
pub(super) async fn explain(
    State(state): State<AppState>,
    _caller: Caller,
    JsonBody(question): JsonBody<Question>,
) -> Result<Json<Answer>, ApiError> {
    answer(&state.policy(), &question).map(Json)
}

/// The answer of one policy to one question.
///
/// # Errors
/// The question contradicts itself.
pub fn answer(policy: &ActivePolicy, question: &Question) -> Result<Answer, ApiError> {
    let now = question.at.map_or_else(now, moment);
    let asked = Asked {
        gateway: question.gateway.into(),
        method: &question.method,
        path: &question.path,
        upgrade: question.upgrade.map_or(Upgrade::None, Into::into),
        asker: &asker(&policy.loaded, question, now)?,
        now,
    };
    Ok(answered(policy, &asked))
}

/// The answer of one policy to a request that is asked about.
#[must_use]
pub fn answered(policy: &ActivePolicy, asked: &Asked<'_>) -> Answer {
    let Explained { explanation, checks, changes, ruling } = evaluate::explain(&policy.loaded.policy, asked, &mut InForce(policy));
    let ruling = ruling.map(|said| RulingTold { rule: said.rule.to_string(), reason: said.reason.to_string() });
    let fact = |FactRead { name, value }| FactTold { name, value };
    let made = |CheckTold { check, finding, read, changes: _ }| CheckMade {
        check: check.name(),
        outcome: finding.code(),
        read: read.into_iter().map(fact).collect(),
    };
    let checks = checks.into_iter().map(made).collect();
    let changes = changes.iter().map(ChangeTold::from).collect();
    Answer { ruling, checks, changes, ..told(policy, explanation) }
}

/// The very rules that filters evaluate, by the same code. Where they cannot be asked they refuse, as there.
pub(crate) struct InForce<'p>(pub(crate) &'p ActivePolicy);

impl Judge for InForce<'_> {
    fn judge(&mut self, tabled: &Tabled<'_>) -> Arc<Ruling> {
        match self.0.rules.as_ref().map(Mutex::lock) {
            Some(Ok(mut rules)) => Judge::judge(&mut *rules, tabled),
            // A question that panicked has left rules that may be half-way through another input.
            Some(Err(_poisoned)) => unasked(),
            None => unasked(),
        }
    }
}

fn moment(at: OffsetDateTime) -> Timestamp {
    // The years that `time` can say fit in microseconds of 64 bits.
    Timestamp::from_micros(i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000)).unwrap_or(i64::MAX))
}

fn asker(bundle: &LoadedBundle, question: &Question, now: Timestamp) -> Result<Asker, ApiError> {
    match (&question.claims, question.anonymous, question.registered) {
        (None, true, false) => Ok(Asker::Anonymous),
        (None, false, true) => Ok(Asker::Registered),
        (Some(claims), false, false) => Ok(Asker::of_claims(bundle, claims, now)),
        (Some(_), _, _) | (None, true, true) | (None, false, false) => {
            Err(ApiError::invalid("exactly one of `claims`, `anonymous: true` and `registered: true` is needed"))
        }
    }
}

fn told(policy: &ActivePolicy, explanation: Explanation) -> Answer {
    let answer = Answer {
        decision: "deny",
        reason: "ok",
        refused_by: None,
        rule: explanation.route,
        action: explanation.action,
        checks: Vec::new(),
        changes: Vec::new(),
        target: None,
        approval: None,
        charges: Vec::new(),
        limit: None,
        forwarded: None,
        status: explanation.status,
        ruling: None,
        version: policy.tag(),
        revision: policy.version.revision,
    };
    match explanation.outcome {
        ExplainedOutcome::Deny(reason) => Answer { reason: reason.code(), refused_by: Some(reason.check().name()), ..answer },
        ExplainedOutcome::Permit(permit) => permitted(*permit, answer),
    }
}

fn permitted(permit: ExplainedPermit, answer: Answer) -> Answer {
    let ExplainedPermit { target, approval, charges, limit, ownership, rewrite, credential, exchange, metering } = permit;
    let due = |ExplainedCharge { budget, amount, cap }| ChargeDue { budget, amount: amount.get(), cap: cap.get() };
    let ownership = ownership.map(|(place, name)| OwnerTold { place: place.name(), name });
    Answer {
        decision: "permit",
        target: Some(target.name()),
        approval: Some(approval.name()),
        charges: charges.into_iter().map(due).collect(),
        limit: limit.map(|(budget, cap)| LimitTold { budget, cap: cap.get() }),
        forwarded: Some(ForwardedTold { ownership, rewrite, credential: credential.name(), exchange: exchange.name(), metering }),
        ..answer
    }
}
