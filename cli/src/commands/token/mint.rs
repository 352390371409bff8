//! `plant-gateway token mint`: prints a token for a running local stack.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{STATE, TokenError};
use crate::stack::{State, is_local_issuer};
use crate::token::{LIFETIME_SECONDS, TokenSpec, mint, now};

/// Arguments of `token mint`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The state file of the stack. Its keys have to be the development keys that `plant-gateway run` made.
    #[arg(long, default_value = STATE)]
    state: PathBuf,
    /// Who signs: cp, pp, edge, legacy or ops.
    #[arg(long)]
    issuer: String,
    /// A role; may be given more than once.
    #[arg(long = "role", required = true)]
    roles: Vec<String>,
    /// The subject [default: the first role].
    #[arg(long)]
    sub: Option<String>,
    /// The user id [default: a UUID made from the subject].
    #[arg(long)]
    user_id: Option<String>,
    /// The address [default: made from the subject].
    #[arg(long)]
    email: Option<String>,
    /// The customer.
    #[arg(long)]
    customer_id: Option<String>,
    /// The agent.
    #[arg(long)]
    agent_id: Option<String>,
    /// Makes an admin a governor.
    #[arg(long)]
    governor_agent_id: Option<String>,
    /// On trial until this many seconds from now; negative is an expired trial.
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS")]
    trial_until: Option<i64>,
    /// Expired ten minutes ago.
    #[arg(long, conflicts_with = "ttl")]
    expired: bool,
    /// How long it lasts.
    #[arg(long, default_value_t = LIFETIME_SECONDS, allow_negative_numbers = true, value_name = "SECONDS")]
    ttl: i64,
    /// One more claim, as name=JSON (a value that is not JSON is text; null takes a claim away); may be given more than once.
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    claims: Vec<(String, Value)>,
    /// Print the token with its issuer, key id and expiry as JSON.
    #[arg(long)]
    json: bool,
}

fn claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` has no `=`"))?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((name.to_owned(), value))
}

/// Prints the token.
pub(super) fn run(arguments: &Arguments) -> Result<(), TokenError> {
    let state = State::read(&arguments.state).map_err(TokenError::State)?;
    let name = &arguments.issuer;
    let issuer = state
        .issuers
        .get(name)
        .ok_or_else(|| TokenError::Issuer { name: name.clone(), known: state.issuers.keys().cloned().collect::<Vec<_>>().join(", ") })?;
    if !is_local_issuer(name, &issuer.issuer) {
        return Err(TokenError::NotLocal { name: name.clone(), iss: issuer.issuer.clone() });
    }
    let mut spec = spec(arguments);
    spec.issued_at = spec.issued_at.or_else(|| Some(now()));
    let token = mint(issuer, &spec)?;
    if arguments.json {
        let expires_at = spec.issued_at.map(|issued_at| issued_at.saturating_add(spec.lifetime_seconds));
        println!("{}", json!({"token": token, "issuer": name, "kid": issuer.kid, "expires_at": expires_at}));
    } else {
        println!("{token}");
    }
    Ok(())
}

fn spec(arguments: &Arguments) -> TokenSpec {
    let roles: Vec<&str> = arguments.roles.iter().map(String::as_str).collect();
    let subject = arguments.sub.as_deref().or(roles.first().copied()).unwrap_or_default();
    let mut spec = TokenSpec::new(subject, &roles).lasting(arguments.ttl);
    spec.user_id.clone_from(&arguments.user_id);
    spec.customer_id.clone_from(&arguments.customer_id);
    spec.agent_id.clone_from(&arguments.agent_id);
    spec.governor_agent_id.clone_from(&arguments.governor_agent_id);
    if let Some(email) = &arguments.email {
        spec.email.clone_from(email);
    }
    if let Some(seconds) = arguments.trial_until {
        spec = spec.trial_for(seconds);
    }
    if arguments.expired {
        spec = spec.expired();
    }
    arguments.claims.iter().fold(spec, |spec, (name, value)| spec.claim(name, value.clone()))
}
