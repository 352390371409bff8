//! `plant-gateway policy eval` and `explain`: how a request is decided, and why: by a folder here, or by the policy in force.

use std::path::{Path, PathBuf};

use authn::{PureRust, Unauthenticated};
use authoring::evaluate::{Asked, Asker, Candidate, Explained};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, ValueEnum};
use decision_core::causes::chain;
use decision_core::counterfactual::{Change, CheckTold, FactRead};
use decision_core::explain::{ExplainedCharge, ExplainedOutcome, ExplainedPermit};
use decision_core::facts::Upgrade;
use decision_core::gateway::Gateway;
use decision_core::time::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{POLICIES, PolicyError, print, source};
use crate::commands::admin_api::{Connection, Format, encoded, shown};
use crate::demo::http::Ask;
use crate::token::now;
use crate::{key_file, policy, refusal};

/// A request, and who makes it.
#[derive(Debug, Args)]
pub(super) struct Question {
    /// Where the request comes to.
    #[arg(long, value_name = "CP|PP|PLANT|ADMIN", value_parser = gateway)]
    gateway: Gateway,
    /// Its method.
    #[arg(long)]
    method: String,
    /// Its path, with or without a query.
    #[arg(long)]
    path: String,
    #[command(flatten)]
    caller: Caller,
    /// A protocol that the request asks to change to.
    #[arg(long, value_enum)]
    upgrade: Option<Protocol>,
    /// When, in RFC 3339 [default: now].
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<OffsetDateTime>,
}

/// A record, or a request and who makes it.
#[derive(Debug, Args)]
pub(super) struct RecordOrQuestion {
    /// A record of the audit log, by its id or that of its request: by the revision that decided it.
    #[arg(long, value_name = "ID", conflicts_with_all = ["gateway", "method", "path", "upgrade", "at", "Caller"])]
    record: Option<String>,
    /// Where the request comes to.
    #[arg(long, value_name = "CP|PP|PLANT|ADMIN", value_parser = gateway, required_unless_present = "record")]
    gateway: Option<Gateway>,
    /// Its method.
    #[arg(long, required_unless_present = "record")]
    method: Option<String>,
    /// Its path, with or without a query.
    #[arg(long, required_unless_present = "record")]
    path: Option<String>,
    #[command(flatten)]
    caller: Caller,
    /// A protocol that the request asks to change to.
    #[arg(long, value_enum)]
    upgrade: Option<Protocol>,
    /// When, in RFC 3339 [default: now].
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<OffsetDateTime>,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct Caller {
    /// The caller's token; `-` is standard input. It stays here: the control plane is told its claims.
    #[arg(long, allow_hyphen_values = true)]
    token: Option<String>,
    /// The claims of the caller's token, as JSON, or `@FILE`.
    #[arg(long, value_name = "JSON|@FILE")]
    claims: Option<String>,
    /// A caller without a credential.
    #[arg(long)]
    anonymous: bool,
    /// A caller with a good registration key.
    #[arg(long)]
    registered: bool,
}

/// Arguments of `policy eval`.
#[derive(Debug, Args)]
pub(super) struct Local {
    /// The folder of the policy.
    #[arg(default_value = POLICIES)]
    folder: PathBuf,
    #[command(flatten)]
    question: Question,
    /// A folder with the secrets that the policy names: the token is verified with them.
    #[arg(long, value_name = "DIR", requires = "token")]
    secrets: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
enum Protocol {
    Websocket,
    Other,
}

impl From<Protocol> for Upgrade {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Websocket => Self::Websocket,
            Protocol::Other => Self::Other,
        }
    }
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct Remote {
    #[command(flatten)]
    pub(super) connection: Connection,
    #[command(flatten)]
    pub(super) asked: RecordOrQuestion,
}

impl Caller {
    /// Somebody asks.
    fn given(&self) -> Result<(), PolicyError> {
        let given = self.token.is_some() || self.claims.is_some() || self.anonymous || self.registered;
        let needed = "one of --token, --claims, --anonymous and --registered is needed";
        if given { Ok(()) } else { Err(PolicyError::Usage(needed.to_owned())) }
    }
}

fn gateway(name: &str) -> Result<Gateway, String> {
    Gateway::parse(name).ok_or_else(|| "not one of CP, PP, PLANT, ADMIN".to_owned())
}

fn moment(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_cause| "not a time such as 2026-01-15T12:00:00Z".to_owned())
}

/// By the policy in a folder.
pub(super) fn local(arguments: &Local, format: Format) -> Result<(), PolicyError> {
    arguments.question.caller.given()?;
    let mut candidate = source::candidate(&arguments.folder)?;
    let question = &arguments.question;
    let now = Timestamp::from_seconds(question.at.map_or_else(now, OffsetDateTime::unix_timestamp));
    let asker = asker(&candidate, question, arguments.secrets.as_deref(), now)?;
    let upgrade = question.upgrade.map_or(Upgrade::None, Into::into);
    let asked = Asked { gateway: question.gateway, method: &question.method, path: &question.path, upgrade, asker: &asker, now };
    let mut answer = told(&candidate.explain(&asked));
    if let (Some(object), true, None) = (answer.as_object_mut(), question.caller.token.is_some(), &arguments.secrets) {
        object.insert("not_checked".to_owned(), json!(["signature"]));
    }
    print::answer(format, &answer, words);
    Ok(())
}

/// By the policy in force, or a record by the revision that decided it.
pub(super) fn remote(asked: &RecordOrQuestion, connection: &Connection) -> Result<(), PolicyError> {
    if let Some(id) = &asked.record {
        let answer = source::ask(connection, Ask::get(&format!("/admin/v1/audit/{}/explanation", encoded(id))))?;
        print::answer(connection.format, &answer, record_words);
        return Ok(());
    }
    let question = asked;
    question.caller.given()?;
    let gateway = question.gateway.map(Gateway::name);
    let mut body = json!({"gateway": gateway, "method": question.method, "path": question.path});
    let caller = match claims(&question.caller)? {
        Some(claims) => ("claims", Value::Object(claims)),
        None if question.caller.registered => ("registered", json!(true)),
        None => ("anonymous", json!(true)),
    };
    let at = question.at.and_then(|at| at.format(&Rfc3339).ok()).map(|at| ("at", json!(at)));
    let upgrade = question.upgrade.map(|protocol| ("upgrade", json!(protocol)));
    if let Some(object) = body.as_object_mut() {
        object.extend([Some(caller), upgrade, at].into_iter().flatten().map(|(name, value)| (name.to_owned(), value)));
    }
    let answer = source::ask(connection, Ask::post("/admin/v1/explain").json(&body))?;
    print::answer(connection.format, &answer, words);
    Ok(())
}

fn asker(candidate: &Candidate, question: &Question, secrets: Option<&Path>, now: Timestamp) -> Result<Asker, PolicyError> {
    let caller = &question.caller;
    let Some(claims) = claims(caller)? else {
        return Ok(if caller.registered { Asker::Registered } else { Asker::Anonymous });
    };
    let (Some(token), Some(secrets)) = (&caller.token, secrets) else {
        return Ok(Asker::of_claims(&candidate.bundle, &claims, now));
    };
    let iss = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
    let issuers = policy::issuers(&candidate.document, Some(secrets), iss).map_err(|error| PolicyError::Usage(chain(&error)))?;
    let token = key_file::token(token).map_err(|source| PolicyError::Unreadable { path: "-".into(), source })?;
    match authn::authenticate(&issuers, format!("Bearer {token}").as_bytes(), now, &mut PureRust) {
        Ok(identity) => Ok(Asker::of_identity(&candidate.bundle.policy, identity)),
        Err(Unauthenticated::Refused(fault)) => Ok(Asker::Refused(fault)),
        Err(unknown @ (Unauthenticated::KeysUnavailable | Unauthenticated::KeyUnknown { .. })) => {
            Err(PolicyError::Usage(format!("the token cannot be verified: {}", refusal::of(&unknown).1)))
        }
    }
}

/// What the caller's token says, unless there is none.
fn claims(caller: &Caller) -> Result<Option<Map<String, Value>>, PolicyError> {
    let not = |what: &str| PolicyError::Usage(format!("{what} is no JSON object of claims"));
    let bytes = match (&caller.token, &caller.claims) {
        (Some(token), _) => {
            let token = key_file::token(token).map_err(|source| PolicyError::Unreadable { path: "-".into(), source })?;
            let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok());
            payload.ok_or_else(|| not("the second part of --token"))?
        }
        (None, Some(claims)) => match claims.strip_prefix('@') {
            Some(path) => std::fs::read(path).map_err(|source| PolicyError::Unreadable { path: path.into(), source })?,
            None => claims.clone().into_bytes(),
        },
        (None, None) => return Ok(None),
    };
    let claims = authn::strict_json(&bytes).and_then(|value| value.as_object().cloned());
    claims.map(Some).ok_or_else(|| not(if caller.token.is_some() { "the second part of --token" } else { "--claims" }))
}

/// In the words of the control plane's own answer.
fn told(story: &Explained) -> Value {
    let explanation = &story.explanation;
    let fact = |FactRead { name, value }: &FactRead| json!({"name": name, "value": value});
    let made = |CheckTold { check, finding, read, changes: _ }: &CheckTold| json!({"check": check.name(), "outcome": finding.code(), "read": read.iter().map(fact).collect::<Vec<_>>()});
    let checks: Vec<Value> = story.checks.iter().map(made).collect();
    let changes: Vec<Value> = story.changes.iter().map(change).collect();
    let mut answer = json!({"rule": explanation.route, "action": explanation.action, "checks": checks, "changes": changes, "charges": []});
    let outcome = match &explanation.outcome {
        ExplainedOutcome::Deny(reason) => {
            json!({"decision": "deny", "reason": reason.code(), "refused_by": reason.check().name()})
        }
        ExplainedOutcome::Permit(permit) => permitted(permit),
    };
    if let (Some(object), Value::Object(outcome)) = (answer.as_object_mut(), outcome) {
        object.extend(outcome);
        object.extend(explanation.status.map(|status| ("status".to_owned(), json!(status))));
        if let Some(ruling) = &story.ruling {
            object.insert("ruling".to_owned(), json!({"rule": ruling.rule, "reason": ruling.reason}));
        }
    }
    answer
}

fn change(change: &Change) -> Value {
    let values: Map<String, Value> = change.values().into_iter().map(|(name, values)| (name.to_owned(), json!(values))).collect();
    json!({"change": change.name(), "by": change.by().name(), "text": change.to_string(), "values": values})
}

fn permitted(permit: &ExplainedPermit) -> Value {
    let ExplainedPermit { target, approval, charges, limit, ownership, rewrite, credential, exchange, metering } = permit;
    let charge =
        |ExplainedCharge { budget, amount, cap }: &ExplainedCharge| json!({"budget": budget, "amount": amount.get(), "cap": cap.get()});
    let forwarded = [
        ownership.as_ref().map(|(place, name)| ("ownership", json!({"in": place.name(), "name": name}))),
        rewrite.as_ref().map(|path| ("rewrite", json!(path))),
        Some(("credential", json!(credential.name()))),
        Some(("exchange", json!(exchange.name()))),
        metering.as_ref().map(|metering| ("metering", json!(metering))),
    ];
    let forwarded: Map<String, Value> = forwarded.into_iter().flatten().map(|(name, value)| (name.to_owned(), value)).collect();
    let mut answer = json!({
        "decision": "permit", "reason": "ok", "target": target.name(), "approval": approval.name(),
        "charges": charges.iter().map(charge).collect::<Vec<_>>(), "forwarded": forwarded,
    });
    if let (Some(object), Some((budget, cap))) = (answer.as_object_mut(), limit) {
        object.insert("limit".to_owned(), json!({"budget": budget, "cap": cap.get()}));
    }
    answer
}

/// A record, what its revision says of it, and whether both agree.
fn record_words(answer: &Value) -> String {
    let nothing = Value::Null;
    let record = answer.get("record").unwrap_or(&nothing);
    let of = |member| shown(record, member);
    let mut text = format!("record {} of {}: {} {}\n", of("id"), of("at"), of("decision"), of("reason"));
    text.push_str(&format!("  request   {}, correlation {}\n", of("request_id"), of("correlation_id")));
    match answer.get("agreement").and_then(Value::as_str) {
        Some("same") => text.push_str("  its revision decides it so again\n"),
        Some(_) | None => {
            text.push_str(&format!("  decided again by its revision: {}: {}\n", shown(answer, "agreement"), shown(answer, "because")))
        }
    }
    if let Some(explained) = answer.get("answer") {
        text.push_str(&words(explained));
    }
    // What was refused after the policy had permitted it is told by the record alone.
    let told = answer.pointer("/answer/changes").and_then(Value::as_array).is_some_and(|changes| !changes.is_empty());
    if !told {
        text.push_str(&changes_words(answer));
    }
    if of("decision") == "deny" && answer.get("caller_can_help") == Some(&Value::Bool(false)) {
        text.push_str("  nothing that the caller can change helps\n");
    }
    text
}

/// What would have to change, one a line.
fn changes_words(answer: &Value) -> String {
    let changes = answer.get("changes").map(|changes| print::entries(changes, "changes")).unwrap_or_default();
    changes.into_iter().map(|change| format!("  unless    {} ({})\n", shown(change, "text"), shown(change, "by"))).collect()
}

fn words(answer: &Value) -> String {
    let of = |member| shown(answer, member);
    let mut text = match answer.get("decision").and_then(Value::as_str) {
        Some("permit") if of("approval") == "governor" => "permit, once a governor has approved\n".to_owned(),
        Some("permit") => "permit\n".to_owned(),
        Some(_) | None => format!("deny: {} ({})\n", of("reason"), of("refused_by")),
    };
    text.push_str(&format!("  rule      {}\n", of("rule")));
    text.push_str(&format!("  action    {}\n", of("action")));
    if answer.get("target").is_some() {
        text.push_str(&format!("  target    {}\n", of("target")));
    }
    for check in print::entries(answer.get("checks").unwrap_or(&Value::Null), "checks") {
        text.push_str(&format!("  check     {}: {}\n", shown(check, "check"), shown(check, "outcome")));
        for fact in print::entries(check, "read") {
            text.push_str(&format!("              {} = {}\n", shown(fact, "name"), shown(fact, "value")));
        }
    }
    text.push_str(&changes_words(answer));
    for charge in print::entries(answer.get("charges").unwrap_or(&Value::Null), "charges") {
        text.push_str(&format!("  charge    {}: {} of {}\n", shown(charge, "budget"), shown(charge, "amount"), shown(charge, "cap")));
    }
    if let Some(limit) = answer.get("limit") {
        text.push_str(&format!("  limit     {}: {} per client address\n", shown(limit, "budget"), shown(limit, "cap")));
    }
    if let Some(forwarded) = answer.get("forwarded") {
        if let Some(owner) = forwarded.get("ownership") {
            text.push_str(&format!("  owner     {} {}\n", shown(owner, "in"), shown(owner, "name")));
        }
        for member in ["rewrite", "credential", "exchange", "metering"].into_iter().filter(|member| forwarded.get(member).is_some()) {
            text.push_str(&format!("  {member:<9} {}\n", shown(forwarded, member)));
        }
    }
    if answer.get("status").is_some() {
        text.push_str(&format!("  status    {}\n", of("status")));
    }
    if let Some(ruled) = answer.get("ruling") {
        text.push_str(&format!("  custom    {}: {}\n", shown(ruled, "rule"), shown(ruled, "reason")));
    }
    if answer.get("not_checked").is_some() {
        text.push_str("  the token's signature was not checked: give --secrets DIR\n");
    }
    if answer.get("revision").is_some() {
        text.push_str(&format!("  revision  {}\n", of("revision")));
    }
    text
}
