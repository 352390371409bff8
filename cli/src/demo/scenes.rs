//! What the demo shows: one request for each outcome, under the policy that ships with the gateway.

use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::DemoError;
use super::http::{Answer, Ask};
use super::stage::{PRODUCTION, SANDBOX, Stage, Want, nothing_more, refused};
use crate::token::TokenSpec;

const AGENTS: &str = "/api/v1/agents";
const TASKS: &str = "/api/v1/tasks";
const DAYS_7: i64 = 7 * 86_400;
const SPOOFED: &str = "spoofed";
/// The headers by which backends know who calls.
const TRUSTED: [&str; 6] = ["x-user-id", "x-customer-id", "x-user-roles", "x-gateway-type", "x-trial-mode", "x-original-authorization"];
const PORTAL: &str = "https://partners.waooaw.com";
/// Records are sent about once a second.
const FLUSH: Duration = Duration::from_secs(5);

/// Authentication: who gets in, and who does not.
pub(super) async fn authentication(stage: &mut Stage<'_>) -> Result<(), DemoError> {
    let viewer = TokenSpec::new(&stage.fresh("viewer"), &["viewer"]);
    let list = |token: String| Ask::get(AGENTS).bearer(&token);
    let token = |stage: &Stage<'_>, spec: TokenSpec| stage.token("pp", &spec);
    let no = refused(401, "authentication");

    stage.show("a public route needs no token", "CP", Ask::post("/api/v1/auth/refresh"), PRODUCTION, nothing_more).await?;
    stage.show("no token", "PP", Ask::get(AGENTS), no, challenged).await?;
    let expired = token(stage, viewer.clone().expired())?;
    stage.show("expired token", "PP", list(expired), no, challenged).await?;
    let stranger = token(stage, viewer.clone().claim("iss", json!("elsewhere.example.com")))?;
    stage.show("wrong issuer", "PP", list(stranger), no, challenged).await?;
    let forged = stage.forged(&viewer)?;
    stage.show("forged signature", "PP", list(forged), no, challenged).await?;
    let unsigned = stage.unsigned(&viewer)?;
    stage.show("alg: none", "PP", list(unsigned), no, challenged).await?;
    Ok(())
}

/// Authorisation: what roles may do.
pub(super) async fn authorisation(stage: &mut Stage<'_>) -> Result<(), DemoError> {
    let mut roles = Vec::new();
    for role in ["viewer", "agent_orchestrator", "admin"] {
        roles.push(stage.token("pp", &TokenSpec::new(&stage.fresh(role), &[role]))?);
    }
    let [viewer, orchestrator, admin] = roles.as_slice() else { return Ok(()) };
    stage.show("a viewer reads", "PP", Ask::get(AGENTS).bearer(viewer), PRODUCTION, nothing_more).await?;
    // From here on a lease covers the account: nothing but the request itself leaves Envoy.
    stage.show_many("and reads again and again", "PP", &Ask::get(AGENTS).bearer(viewer), 30, PRODUCTION).await?;
    let create = Ask::post(AGENTS).bearer(viewer).json(&json!({"name": "a"}));
    stage.show("a viewer creates an agent", "PP", create, refused(403, "permission"), named("permission-denied")).await?;
    let task = Ask::post(TASKS).bearer(orchestrator).json(&json!({"task": 1}));
    stage.show("an orchestrator creates a task", "PP", task, PRODUCTION, nothing_more).await?;
    stage.show("an admin lists users", "PP", Ask::get("/api/v1/admin/users").bearer(admin), PRODUCTION, nothing_more).await?;
    Ok(())
}

/// Trials: their own backend, an end, and a limit a day.
pub(super) async fn trials(stage: &mut Stage<'_>) -> Result<(), DemoError> {
    let trial = |stage: &Stage<'_>, name: &str, seconds: i64| {
        let name = stage.fresh(name);
        stage.token("cp", &TokenSpec::new(&name, &["customer_user"]).customer(&name).trial_for(seconds))
    };
    let curious = trial(stage, "curious", DAYS_7)?;
    stage.show("a trial user goes to the sandbox", "CP", Ask::get(AGENTS).bearer(&curious), SANDBOX, nothing_more).await?;
    let late = trial(stage, "late", -86_400)?;
    let expired = refused(403, "trial");
    stage.show("the trial has expired", "CP", Ask::get(AGENTS).bearer(&late), expired, named("trial-expired")).await?;
    let busy = trial(stage, "busy", DAYS_7)?;
    let task = Ask::post(TASKS).bearer(&busy).json(&json!({"task": 1}));
    stage.show_many("ten trial tasks in a day", "CP", &task, 10, SANDBOX).await?;
    let spent = refused(429, "budget");
    stage.show("the eleventh trial task", "CP", task, spent, until_midnight).await?;
    Ok(())
}

/// A governor action: refused, approved, done once.
pub(super) async fn approvals(stage: &mut Stage<'_>) -> Result<(), DemoError> {
    let token = stage.token("pp", &TokenSpec::new(&stage.fresh("asks"), &["agent_orchestrator"]))?;
    let delete = Ask::new("DELETE", &format!("{AGENTS}/a-1")).bearer(&token);
    let needed = refused(403, "approval");
    let answer = stage.show("a governor action without approval", "PP", delete.clone(), needed, names_approval).await?;
    let Some(id) = answer.json().get("approval_id").and_then(Value::as_str).map(str::to_owned) else { return Ok(()) };
    stage.admin.approve(&id).await?;
    let approved = delete.header("x-approval-id", &id);
    stage.show("approved through the admin API", "PP", approved.clone(), PRODUCTION, nothing_more).await?;
    stage.show("the same approval again", "PP", approved, needed, named("approval-required")).await?;
    Ok(())
}

/// Money: a dollar a day buys twenty runs.
pub(super) async fn money(stage: &mut Stage<'_>) -> Result<(), DemoError> {
    let name = stage.fresh("spender");
    let token = stage.token("pp", &TokenSpec::new(&name, &["agent_orchestrator"]).agent(&name))?;
    let execute = Ask::post(&format!("{AGENTS}/{name}/execute")).bearer(&token);
    stage.show_many("an agent's dollar buys twenty runs", "PP", &execute, 20, PRODUCTION).await?;
    stage.show("the agent's budget is spent", "PP", execute, refused(402, "budget"), until_midnight).await?;
    Ok(())
}

/// What a client cannot pretend.
pub(super) async fn pretence(stage: &mut Stage<'_>) -> Result<(), DemoError> {
    let name = stage.fresh("honest");
    let spec = TokenSpec { user_id: Some(name.clone()), ..TokenSpec::new(&name, &["viewer"]) };
    let token = stage.token("pp", &spec)?;
    let spoofing = TRUSTED.iter().fold(Ask::get(AGENTS).bearer(&token), |ask, header| ask.header(header, SPOOFED));
    let unseen = |answer: &Answer| {
        let seen: Vec<&str> = TRUSTED.into_iter().filter(|header| answer.echoed(header).iter().any(|value| value == SPOOFED)).collect();
        let user = answer.echoed("x-user-id");
        if seen.is_empty() && user == [name] { Ok(()) } else { Err(format!("the backend saw {seen:?} and the user {user:?}")) }
    };
    stage.show("a spoofed x-user-id is not seen", "PP", spoofing, PRODUCTION, unseen).await?;
    let get = |path: &str| Ask::get(path).bearer(&token);
    let ambiguous = refused(400, "path");
    stage.show("a double slash", "PP", get("//api/v1/agents"), ambiguous, named("validation-error")).await?;
    stage.show("an encoded slash", "PP", get("/api/v1/agents%2fa-1"), ambiguous, named("validation-error")).await?;
    stage.show("an unknown route", "PP", get("/api/v1/unknown"), refused(404, "route"), named("not-found")).await?;
    Ok(())
}

/// Tokens of every algorithm, and good tokens in the wrong place.
pub(super) async fn tokens(stage: &mut Stage<'_>) -> Result<(), DemoError> {
    let accepted = [("RS256", "cp", "customer_user"), ("ES256", "pp", "viewer"), ("EdDSA", "edge", "viewer"), ("HS256", "legacy", "user")];
    for (algorithm, issuer, role) in accepted {
        let token = stage.token(issuer, &TokenSpec::new(&stage.fresh(algorithm), &[role]))?;
        stage.show(&format!("a token signed by {algorithm}"), "PLANT", Ask::get(AGENTS).bearer(&token), PRODUCTION, nothing_more).await?;
    }
    let no = refused(401, "authentication");
    let viewer = TokenSpec::new(&stage.fresh("viewer"), &["viewer"]);
    let refresh = stage.token("pp", &viewer.clone().claim("token_type", json!("refresh")))?;
    stage.show("a refresh token", "PP", Ask::get(AGENTS).bearer(&refresh), no, challenged).await?;
    let elsewhere = stage.token("pp", &viewer.clone().claim("aud", json!("another-service")))?;
    stage.show("wrong audience", "PP", Ask::get(AGENTS).bearer(&elsewhere), no, challenged).await?;
    let portal = stage.token("cp", &TokenSpec::new(&stage.fresh("customer"), &["customer_user"]))?;
    stage.show("a token of another portal", "PP", Ask::get(AGENTS).bearer(&portal), no, challenged).await?;
    let good = stage.token("pp", &viewer)?;
    // Envoy joins them with a comma before the filter sees them: not a bearer token any more.
    let twice = Ask::get(AGENTS).bearer(&good).bearer(&good);
    stage.show("two Authorization headers", "PP", twice, no, challenged).await?;
    Ok(())
}

/// Everything else that a client meets.
pub(super) async fn doors(stage: &mut Stage<'_>) -> Result<(), DemoError> {
    let name = stage.fresh("closed");
    let trial = stage.token("cp", &TokenSpec::new(&name, &["customer_user"]).customer(&name).trial_for(DAYS_7))?;
    let closed = refused(403, "trial");
    stage
        .show("invoices are closed to trials", "CP", Ask::get("/api/v1/invoices").bearer(&trial), closed, named("trial-restricted"))
        .await?;
    let register = |key: &str| Ask::post("/api/v1/customers").header("x-cp-registration-key", key).json(&json!({"email": "a@example.com"}));
    let key = stage.state.registration_key.clone();
    let key_kept = |answer: &Answer| match answer.echoed("x-cp-registration-key").is_empty() {
        true => Ok(()),
        false => Err("the backend got the registration key".to_owned()),
    };
    stage.show("registration with the key", "CP", register(&key), PRODUCTION, key_kept).await?;
    stage.show("registration with a wrong key", "CP", register("wrong"), refused(401, "authentication"), nothing_more).await?;
    let preflight = Ask::new("OPTIONS", AGENTS).header("origin", PORTAL).header("access-control-request-method", "GET");
    let by_envoy = Want { status: 200, answered_by: "envoy" };
    stage.show("a CORS preflight", "PP", preflight, by_envoy, allowed_origin).await?;
    let from_browser = Ask::get(AGENTS).header("origin", PORTAL);
    stage.show("a refusal that a browser can read", "PP", from_browser, refused(401, "authentication"), allowed_origin).await?;
    Ok(())
}

/// Ids: what the client calls a request, or what we call it.
pub(super) async fn ids(stage: &mut Stage<'_>) -> Result<(), DemoError> {
    let token = stage.token("pp", &TokenSpec::new(&stage.fresh("traced"), &["viewer"]))?;
    let sent = stage.fresh("not-a-uuid");
    let own = Ask::get(AGENTS).bearer(&token).header("x-correlation-id", &sent);
    let echoed = |answer: &Answer| {
        let seen = (answer.header("x-correlation-id"), answer.echoed("x-correlation-id"));
        if seen.0 == Some(&sent) && seen.1 == [sent.as_str()] { Ok(()) } else { Err(format!("`{sent}` came back as {seen:?}")) }
    };
    stage.show("the correlation id is kept", "PP", own, PRODUCTION, echoed).await?;
    stage.show("or made, a UUID v7", "PP", Ask::get(AGENTS).bearer(&token), PRODUCTION, made).await?;
    Ok(())
}

/// The audit log: a row for each request since `start`, refusals and preflights included.
pub(super) async fn audit(stage: &mut Stage<'_>, start: &str) -> Result<(), DemoError> {
    let sent = stage.sent();
    let query = format!("from={start}");
    stage.admin.audit_count_reaches(&query, sent, FLUSH).await?;
    let stored = stage.admin.audit_count(&query).await?;
    stage.compare("audit rows equal requests sent", "GET /admin/v1/audit/count", sent, stored);
    Ok(())
}

fn challenged(answer: &Answer) -> Result<(), String> {
    match answer.header("www-authenticate") {
        Some(challenge) if challenge.starts_with("Bearer") => Ok(()),
        other => Err(format!("WWW-Authenticate is {other:?}")),
    }
}

fn named(slug: &'static str) -> impl FnOnce(&Answer) -> Result<(), String> + Send {
    move |answer| {
        let body = answer.json();
        let kind = body.get("type").and_then(Value::as_str).unwrap_or_default();
        if kind.ends_with(slug) { Ok(()) } else { Err(format!("the problem is `{kind}` and not `{slug}`")) }
    }
}

fn names_approval(answer: &Answer) -> Result<(), String> {
    let body = answer.json();
    let has = |member: &str| body.get(member).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    if has("approval_id") && has("approval_url") { Ok(()) } else { Err(format!("no approval id or URL in {body}")) }
}

/// `Retry-After` has to lead to the next UTC midnight, where the day's budgets begin anew.
fn until_midnight(answer: &Answer) -> Result<(), String> {
    let left = 86_400 - OffsetDateTime::now_utc().unix_timestamp().rem_euclid(86_400);
    let said = answer.header("retry-after").and_then(|seconds| seconds.parse::<i64>().ok());
    match said {
        Some(seconds) if (seconds - left).abs() <= 2 => Ok(()),
        other => Err(format!("Retry-After is {other:?}, midnight is {left} seconds away")),
    }
}

fn allowed_origin(answer: &Answer) -> Result<(), String> {
    match answer.header("access-control-allow-origin") {
        Some(PORTAL) => Ok(()),
        other => Err(format!("Access-Control-Allow-Origin is {other:?}")),
    }
}

fn made(answer: &Answer) -> Result<(), String> {
    let id = answer.header("x-correlation-id").unwrap_or_default();
    let version = uuid::Uuid::try_parse(id).ok().map(|id| id.get_version_num());
    if version == Some(7) { Ok(()) } else { Err(format!("the correlation id is `{id}`")) }
}
