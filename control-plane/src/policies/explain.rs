//! Why would this request be decided so? Asked of the policy in force, answered by the code that enforces it.

use crate::app::AppState;
use crate::caller::{Caller, now};
use crate::extract::JsonBody;
use crate::policies::ActivePolicy;
use crate::problem::{ApiError, Problem};
use authn::{Algorithm, JwsHeader};
use axum::Json;
use axum::extract::State;
use decision_core::decision::{ApprovalNeed, Check, Conditional, DenyReason, Finding, Target};
use decision_core::explain::{ExplainedOutcome, Explanation};
use decision_core::facts::{Authentication, RequestFacts, Upgrade};
use decision_core::gateway::Method;
use decision_core::path::CanonicalPath;
use decision_core::principal::{CredentialFault, Identity, Principal};
use decision_core::time::Timestamp;
use rules::{Fault, Judged, Ruling};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;
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
    /// What would have to be reserved. Whether there is room is not asked.
    pub charges: Vec<ChargeDue>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct CheckMade {
    /// Its name.
    pub check: &'static str,
    /// `ok`, `skipped_by_flag`, or the coded reason.
    pub outcome: &'static str,
}

/// A charge on one budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ChargeDue {
    /// The budget's name.
    pub budget: String,
    /// How much, in its unit.
    pub amount: i64,
}

/// Who asks, owned for as long as the facts borrow it.
enum Asker {
    Anonymous,
    Registered,
    Verified(Box<Principal>),
    Refused(CredentialFault),
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
    let asker = asker(&policy.loaded, question, now)?;
    let path = match CanonicalPath::parse(question.path.as_bytes()) {
        Ok(path) => path,
        Err(ambiguous) => return Ok(told(policy, refused_path(DenyReason::AmbiguousPath(ambiguous)))),
    };
    let gateway = question.gateway.into();
    // A method that no route may name matches none, as in the filter.
    let method = Method::parse(question.method.as_bytes());
    let route = method.and_then(|method| policy.loaded.policy.route(gateway, method, path.path()));
    let authentication = match &asker {
        Asker::Anonymous => Authentication::Anonymous,
        Asker::Registered => Authentication::Registered,
        Asker::Verified(principal) => Authentication::Verified(principal),
        Asker::Refused(fault) => Authentication::Refused(*fault),
    };
    let facts = RequestFacts { gateway, method: method.unwrap_or(Method::Get), route, authentication, upgrade: Upgrade::None };
    let mut ruling = None;
    let explanation = decision_core::explain(&policy.loaded.policy, &facts, now, |conditional| {
        let said = judge(policy, &facts, path.path(), conditional, now);
        let verdict = said.verdict;
        ruling = Some(RulingTold { rule: said.rule.to_string(), reason: said.reason.to_string() });
        verdict
    });
    Ok(Answer { ruling, ..told(policy, explanation) })
}

/// The very rules that filters evaluate, by the same code. Where they cannot be asked they refuse, as there.
fn judge(policy: &ActivePolicy, facts: &RequestFacts<'_>, path: &str, conditional: &Conditional, now: Timestamp) -> Arc<Ruling> {
    let undefined = || Arc::new(Ruling::from(Fault::Undefined));
    let (Some(rules), Some(route), Authentication::Verified(principal)) = (&policy.rules, facts.route, facts.authentication) else {
        return undefined();
    };
    let judged = Judged { gateway: facts.gateway, method: facts.method, path, route, principal, target: conditional.target(), now };
    // A question that panicked has left rules that may be half-way through another input.
    rules.lock().map_or_else(|_poisoned| undefined(), |mut rules| rules.judge(&judged))
}

fn moment(at: OffsetDateTime) -> Timestamp {
    // The years that `time` can say fit in microseconds of 64 bits.
    Timestamp::from_micros(i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000)).unwrap_or(i64::MAX))
}

fn asker(bundle: &LoadedBundle, question: &Question, now: Timestamp) -> Result<Asker, ApiError> {
    match (&question.claims, question.anonymous, question.registered) {
        (None, true, false) => Ok(Asker::Anonymous),
        (None, false, true) => Ok(Asker::Registered),
        (Some(claims), false, false) => Ok(match identify(bundle, claims, now)? {
            Ok(identity) => bundle
                .policy
                .principal(identity)
                .map_or(Asker::Refused(CredentialFault::NoKnownRole), |known| Asker::Verified(Box::new(known))),
            Err(fault) => Asker::Refused(fault),
        }),
        (Some(_), _, _) | (None, true, true) | (None, false, false) => {
            Err(ApiError::invalid("exactly one of `claims`, `anonymous: true` and `registered: true` is needed"))
        }
    }
}

/// The claims as the verifier would see them after the signature: with the header that the issuer's own rules ask for.
fn identify(bundle: &LoadedBundle, claims: &Map<String, Value>, now: Timestamp) -> Result<Result<Identity, CredentialFault>, ApiError> {
    let iss = claims.get("iss").and_then(Value::as_str);
    let Some(rules) = iss.and_then(|iss| bundle.issuers.find(iss)) else {
        return Ok(Err(CredentialFault::IssuerMismatch));
    };
    let payload = serde_json::to_vec(claims).map_err(|error| ApiError::internal("writing claims", error))?;
    let key = rules.keys.first();
    let header = JwsHeader {
        algorithm: key.map_or(Algorithm::Es256, |key| key.algorithm),
        kid: key.and_then(|key| key.kid.clone()),
        typ: rules.token_types.first().cloned(),
    };
    Ok(authn::check_claims(&payload, &header, rules, key.and_then(|key| key.kid.as_deref()), now))
}

fn refused_path(reason: DenyReason) -> Explanation {
    Explanation {
        checks: vec![(Check::Path, Finding::Refused(reason))],
        route: None,
        action: None,
        outcome: ExplainedOutcome::Deny(reason),
    }
}

fn told(policy: &ActivePolicy, explanation: Explanation) -> Answer {
    let checks =
        explanation.checks.into_iter().map(|(check, finding)| CheckMade { check: check.name(), outcome: finding.code() }).collect();
    let answer = Answer {
        decision: "deny",
        reason: "ok",
        refused_by: None,
        rule: explanation.route,
        action: explanation.action,
        checks,
        target: None,
        approval: None,
        charges: Vec::new(),
        ruling: None,
        version: policy.tag(),
        revision: policy.version.revision,
    };
    match explanation.outcome {
        ExplainedOutcome::Deny(reason) => Answer { reason: reason.code(), refused_by: Some(reason.check().name()), ..answer },
        ExplainedOutcome::Permit { target, approval, charges } => Answer {
            decision: "permit",
            target: Some(match target {
                Target::Production => "production",
                Target::Sandbox => "sandbox",
            }),
            approval: Some(match approval {
                ApprovalNeed::None => "none",
                ApprovalNeed::Governor => "governor",
            }),
            charges: charges.into_iter().map(|(budget, amount)| ChargeDue { budget, amount: amount.get() }).collect(),
            ..answer
        },
    }
}
