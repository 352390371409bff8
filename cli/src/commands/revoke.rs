//! `plant-gateway revoke`: takes a token, a user's tokens, a key, a customer or an agent out of use, and gives it back.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::admin_api::{AdminApi, ApiCommandError, Connection, Format, block_on, encoded, read, shown};
use crate::demo::http::Ask;

const PATH: &str = "/admin/v1/revocations";

/// Arguments of `revoke`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// One token, by its `jti` and issuer, or whole on standard input (`--token -`).
    Token(Token),
    /// A user's tokens issued before a time.
    Subject {
        /// The `sub` claim.
        subject: String,
        /// The issuer's name in the policy.
        #[arg(long)]
        issuer: String,
        /// The time, in RFC 3339 [default: now and the clock difference that the issuer is granted].
        #[arg(long)]
        before: Option<String>,
        #[command(flatten)]
        why: Why,
    },
    /// A user's tokens below a `token_version`, and those without one.
    Version {
        /// The `sub` claim.
        subject: String,
        /// The issuer's name in the policy.
        #[arg(long)]
        issuer: String,
        /// The lowest good version.
        #[arg(long)]
        min: u64,
        #[command(flatten)]
        why: Why,
    },
    /// Every token that a key signed.
    Key {
        /// The `kid`.
        kid: String,
        /// The issuer's name in the policy.
        #[arg(long)]
        issuer: String,
        #[command(flatten)]
        why: Why,
    },
    /// Everything of a customer.
    Customer {
        /// The `customer_id`.
        id: String,
        #[command(flatten)]
        why: Why,
    },
    /// Everything of an agent.
    Agent {
        /// The `agent_id`.
        id: String,
        #[command(flatten)]
        why: Why,
    },
    /// Everything in a file of JSON objects, one per line; 10,000 at a time.
    Import {
        /// The file; `-` is standard input.
        file: PathBuf,
        #[command(flatten)]
        why: Why,
    },
    /// Show what is revoked, latest change first.
    List(List),
    /// Take a revocation back.
    Lift {
        /// What kind.
        kind: Kind,
        /// Which one.
        value: String,
        /// The issuer's name in the policy; not for customers and agents.
        #[arg(long, default_value = "")]
        issuer: String,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// Show how many workers enforce everything that was revoked.
    Status,
}

#[derive(Debug, Args)]
struct Token {
    /// The `jti` claim.
    #[arg(required_unless_present = "token", conflicts_with = "token")]
    jti: Option<String>,
    /// The issuer's name in the policy.
    #[arg(long, required_unless_present = "token", conflicts_with = "token")]
    issuer: Option<String>,
    /// The file with the whole token; `-` is standard input. `iss` and `jti` are taken from it, unverified.
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,
    #[command(flatten)]
    why: Why,
}

#[derive(Debug, Args)]
struct Why {
    /// Why. It is recorded.
    #[arg(long)]
    reason: String,
    /// Also if this revokes the very token that the command uses.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct List {
    /// Only of this kind.
    #[arg(long)]
    kind: Option<Kind>,
    /// Only of this issuer.
    #[arg(long)]
    issuer: Option<String>,
    /// Only this thing.
    #[arg(long)]
    value: Option<String>,
    /// Also what was lifted or ended within the last day.
    #[arg(long)]
    lifted: bool,
    /// At most so many.
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Where the last page ended.
    #[arg(long)]
    cursor: Option<i64>,
}

/// A kind of revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Token,
    Subject,
    Version,
    Key,
    Customer,
    Agent,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Subject => "subject",
            Self::Version => "version",
            Self::Key => "key",
            Self::Customer => "customer",
            Self::Agent => "agent",
        }
    }
}

/// Does it.
///
/// # Errors
/// The control plane cannot be reached, or refuses.
pub fn run(arguments: &Arguments) -> Result<(), ApiCommandError> {
    let mut api = AdminApi::open(&arguments.connection)?;
    let answer = block_on(act(&mut api, &arguments.action))?;
    if answer.get("warning").is_some_and(Value::is_string) {
        eprintln!("warning: {}", shown(&answer, "warning"));
    }
    match arguments.connection.format {
        Format::Json => println!("{answer}"),
        Format::Text => told(&arguments.action, &answer).iter().for_each(|line| println!("{line}")),
    }
    Ok(())
}

async fn act(api: &mut AdminApi, action: &Action) -> Result<Value, ApiCommandError> {
    match action {
        Action::Token(token) => {
            let item = token_item(api, token).await?;
            revoke(api, item, &token.why).await
        }
        Action::Subject { subject, issuer, before, why } => {
            revoke(api, json!({"kind": "subject", "issuer": issuer, "value": subject, "issued_before": before}), why).await
        }
        Action::Version { subject, issuer, min, why } => {
            revoke(api, json!({"kind": "version", "issuer": issuer, "value": subject, "version_min": min}), why).await
        }
        Action::Key { kid, issuer, why } => revoke(api, json!({"kind": "key", "issuer": issuer, "value": kid}), why).await,
        Action::Customer { id, why } => revoke(api, json!({"kind": "customer", "value": id}), why).await,
        Action::Agent { id, why } => revoke(api, json!({"kind": "agent", "value": id}), why).await,
        Action::Import { file, why } => import(api, &read(file)?, why).await,
        Action::List(list) => api.json(Ask::get(&list_line(list))).await,
        Action::Lift { kind, value, issuer, reason } => lift(api, *kind, issuer, value, reason).await,
        Action::Status => api.json(Ask::get(&format!("{PATH}/enforcement"))).await,
    }
}

async fn revoke(api: &mut AdminApi, mut item: Value, why: &Why) -> Result<Value, ApiCommandError> {
    if let Some(members) = item.as_object_mut() {
        members.insert("reason".to_owned(), json!(why.reason));
        members.insert("force".to_owned(), json!(why.force));
    }
    api.json(Ask::post(PATH).json(&item)).await
}

async fn import(api: &mut AdminApi, lines: &str, why: &Why) -> Result<Value, ApiCommandError> {
    let line = format!("{PATH}/import?reason={}&force={}", encoded(&why.reason), why.force);
    api.json(Ask::post(&line).header("content-type", "application/x-ndjson").body(lines.to_owned())).await
}

/// By its number, which is looked up: a value may be anything, and a path may not.
async fn lift(api: &mut AdminApi, kind: Kind, issuer: &str, value: &str, reason: &str) -> Result<Value, ApiCommandError> {
    let query = format!("{PATH}?kind={}&issuer={}&value={}", kind.name(), encoded(issuer), encoded(value));
    let found = api.json(Ask::get(&query)).await?;
    let number = found.pointer("/revocations/0/number").and_then(Value::as_i64);
    let number = number.ok_or_else(|| ApiCommandError::NotRevoked(format!("{} {value}", kind.name())))?;
    api.json(Ask::new("DELETE", &format!("{PATH}/{number}?reason={}", encoded(reason)))).await
}

fn list_line(list: &List) -> String {
    let mut line = format!("{PATH}?limit={}&lifted={}", list.limit, list.lifted);
    let mut add = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            line.push_str(&format!("&{name}={}", encoded(value)));
        }
    };
    add("kind", list.kind.map(Kind::name));
    add("issuer", list.issuer.as_deref());
    add("value", list.value.as_deref());
    add("cursor", list.cursor.map(|cursor| cursor.to_string()).as_deref());
    line
}

async fn token_item(api: &mut AdminApi, token: &Token) -> Result<Value, ApiCommandError> {
    let Some(path) = &token.token else {
        return Ok(json!({"kind": "token", "issuer": token.issuer, "value": token.jti}));
    };
    let claims = claims(read(path)?.trim())?;
    let text = |member: &str| claims.get(member).and_then(Value::as_str);
    let iss = text("iss").ok_or(ApiCommandError::Token("has no `iss`"))?;
    let jti = text("jti").ok_or(ApiCommandError::Token("has no `jti`: revoke its subject instead"))?;
    let keys = api.json(Ask::get("/admin/v1/keys")).await?;
    let issuers = keys.get("issuers").and_then(Value::as_array).ok_or(ApiCommandError::Unreadably("issuers"))?;
    let issuer = issuers.iter().find(|issuer| issuer.get("iss").and_then(Value::as_str) == Some(iss));
    let issuer =
        issuer.and_then(|issuer| issuer.get("issuer")).ok_or(ApiCommandError::Token("has an `iss` that the policy does not know"))?;
    // Not its `exp`: whoever forges a copy with another one would choose when the revocation ends.
    Ok(json!({"kind": "token", "issuer": issuer, "value": jti}))
}

/// The claims, unverified: what is not a token of ours cannot be revoked, and needs not to be.
fn claims(token: &str) -> Result<Value, ApiCommandError> {
    let token = token.strip_prefix("Bearer ").unwrap_or(token);
    let mut parts = token.split('.');
    let (_header, payload, signature) = (parts.next(), parts.next(), parts.next());
    let payload = payload.filter(|_| signature.is_some() && parts.next().is_none()).ok_or(ApiCommandError::Token("is no JWS"))?;
    let bytes = URL_SAFE_NO_PAD.decode(payload).map_err(|_| ApiCommandError::Token("is not base64url"))?;
    serde_json::from_slice(&bytes).map_err(|_| ApiCommandError::Token("has no JSON in it"))
}

/// The answer in words.
fn told(action: &Action, answer: &Value) -> Vec<String> {
    match action {
        Action::Token(_)
        | Action::Subject { .. }
        | Action::Version { .. }
        | Action::Key { .. }
        | Action::Customer { .. }
        | Action::Agent { .. } => vec![format!("revoked: {}", entry(answer))],
        Action::Lift { .. } => vec![format!("lifted: {}", entry(answer))],
        Action::Import { .. } => {
            vec![format!("{} lines, {} of them news; number {}", shown(answer, "lines"), shown(answer, "changed"), shown(answer, "number"))]
        }
        Action::Status => vec![format!(
            "{} of {} workers enforce number {}",
            shown(answer, "enforcing"),
            shown(answer, "workers"),
            shown(answer, "number")
        )],
        Action::List(_) => {
            let entries = answer.get("revocations").and_then(Value::as_array).cloned().unwrap_or_default();
            let mut lines: Vec<String> = entries.iter().map(entry).collect();
            if answer.get("next_cursor").is_some_and(|cursor| !cursor.is_null()) {
                lines.push(format!("more: --cursor {}", shown(answer, "next_cursor")));
            }
            lines
        }
    }
}

fn entry(entry: &Value) -> String {
    let of = |member| shown(entry, member);
    let mut line = format!("{} {} {} {}", of("number"), of("kind"), of("issuer"), of("value"));
    for (member, word) in
        [("issued_before", "issued before"), ("version_min", "below version"), ("expires_at", "until"), ("lifted_at", "lifted")]
    {
        if entry.get(member).is_some_and(|value| !value.is_null()) {
            line.push_str(&format!(", {word} {}", of(member)));
        }
    }
    format!("{line} ({}: {})", of("author"), of("reason"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_token_is_taken_apart() {
        let payload = URL_SAFE_NO_PAD.encode(r#"{"iss":"i","jti":"j","exp":1790000000.5}"#);
        for token in [format!("e30.{payload}.c2ln"), format!("Bearer e30.{payload}.")] {
            let claims = claims(&token).unwrap();
            assert_eq!((claims["iss"].as_str(), claims["jti"].as_str()), (Some("i"), Some("j")));
        }
        for bad in ["", "a", "a.b", "e30.e30", "a.!.c", "a.YQ.c", "e30.e30.c.d"] {
            assert!(claims(bad).is_err(), "{bad}");
        }
    }
}
