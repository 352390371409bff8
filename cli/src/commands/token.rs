//! `plant-gateway token`: prints a token for a running stack.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use crate::stack::{StackError, State};
use crate::token::{LIFETIME_SECONDS, MintError, TokenSpec, mint};

/// Arguments of `token`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The state file of the stack.
    #[arg(long, default_value = ".run/state.json")]
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
}

/// No token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The state file cannot be read.
    #[error("no running stack: start one with `make run`")]
    State(#[source] StackError),
    /// There is no such issuer.
    #[error("there is no issuer `{name}`; there are {known}")]
    Issuer {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// It cannot be signed.
    #[error(transparent)]
    Mint(#[from] MintError),
}

fn claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` has no `=`"))?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((name.to_owned(), value))
}

/// Prints the token.
///
/// # Errors
/// When there is no stack, no such issuer, or it cannot sign.
pub fn run(arguments: &Arguments) -> Result<(), TokenError> {
    let state = State::read(&arguments.state).map_err(TokenError::State)?;
    let issuer = state.issuers.get(&arguments.issuer).ok_or_else(|| TokenError::Issuer {
        name: arguments.issuer.clone(),
        known: state.issuers.keys().cloned().collect::<Vec<_>>().join(", "),
    })?;
    println!("{}", mint(issuer, &spec(arguments))?);
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
