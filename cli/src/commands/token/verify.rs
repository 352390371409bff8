//! `plant-gateway token verify`: the whole verification that a gateway makes, but for revocation.

use std::path::PathBuf;
use std::time::Duration;

use authn::{Algorithm, IssuerRules, Issuers, KeysKnown, LIFETIME_MAX, MoreKeys, PureRust, SKEW_MAX, TrialTokens, VerificationKey};
use clap::Args;
use clap::error::ErrorKind;
use decision_core::principal::{Identity, Trial};
use decision_core::time::Timestamp;
use serde_json::{Value, json};

use super::report::{Shown, printable};
use super::{STATE, TokenError, policies};
use crate::commands::terminal::escaped;
use crate::key_file::{self, KeyFile};
use crate::policy;
use crate::refusal;
use crate::stack::State;
use crate::token::{now, rfc3339};

/// Arguments of `token verify`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    keys: KeyFile,
    /// The algorithm of keys that name none.
    #[arg(long, value_name = "ALG", value_parser = key_file::algorithm)]
    alg: Option<Algorithm>,
    /// The policy, whose rules for the token's issuer count [default: policies, if it is there; without one, the defaults
    /// of an issuer's rules].
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// The secrets that the policy names: public keys in PEM, shared secrets in base64url.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["jwk", "jwks", "state"])]
    secrets: Option<PathBuf>,
    /// The state file of a running stack, whose keys are used when no others are given [default: .run/state.json].
    #[arg(long, value_name = "FILE", conflicts_with_all = ["jwk", "jwks"])]
    state: Option<PathBuf>,
    /// An accepted `aud` where there is no policy; may be given more than once.
    #[arg(long = "audience", value_name = "AUD", conflicts_with = "policies")]
    audiences: Vec<String>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// The token; `-` is standard input.
    #[arg(allow_hyphen_values = true)]
    token: String,
}

/// Prints the identity.
pub(super) fn run(arguments: &Arguments) -> Result<(), TokenError> {
    if arguments.keys.is_stdin() && arguments.token == "-" {
        clap::Error::raw(ErrorKind::ArgumentConflict, "only one of key and token can come from standard input\n").exit();
    }
    let token = key_file::token(&arguments.token)?;
    let issuers = issuers(arguments, &token)?;
    let authorization = format!("Bearer {token}");
    match authn::authenticate(&issuers, authorization.as_bytes(), Timestamp::from_seconds(now()), &mut PureRust) {
        Ok(identity) => {
            println!("{}", if arguments.json { escaped(&accepted(&identity).to_string()) } else { printable(&accepted(&identity)) });
            Ok(())
        }
        Err(unauthenticated) => {
            let (code, meaning) = refusal::of(&unauthenticated);
            if arguments.json {
                println!("{}", json!({"valid": false, "reason": code, "detail": meaning}));
            }
            Err(TokenError::Refused { code, meaning })
        }
    }
}

/// The rules by which the token is judged, with keys.
fn issuers(arguments: &Arguments, token: &str) -> Result<Issuers, TokenError> {
    let given = arguments.keys.is_given().then(|| arguments.keys.read(arguments.alg)).transpose()?;
    // What cannot be read has no issuer, and is refused for what is wrong with it.
    let shown = Shown::of(token).ok();
    let iss = shown.as_ref().and_then(Shown::issuer).unwrap_or_default();
    let policies = policies(arguments.policies.as_ref()).filter(|_| arguments.audiences.is_empty());
    match (policies, given) {
        (Some(folder), Some(keys)) => {
            let issuers = policy::issuers(&policy::read(&folder)?, None, iss)?;
            Ok(issuers.find(iss).map_or_else(Issuers::default, |rules| with_keys(rules.clone(), keys)))
        }
        (Some(folder), None) => Ok(policy::issuers(&policy::read(&folder)?, Some(&secrets(arguments)?), iss)?),
        (None, Some(keys)) => Ok(with_keys(defaults(iss, &arguments.audiences), keys)),
        (None, None) => Err(TokenError::NothingToVerifyWith),
    }
}

fn secrets(arguments: &Arguments) -> Result<PathBuf, TokenError> {
    if let Some(secrets) = &arguments.secrets {
        return Ok(secrets.clone());
    }
    let state = arguments.state.clone().unwrap_or_else(|| PathBuf::from(STATE));
    Ok(State::read(&state).map_err(TokenError::State)?.run_dir.join("secrets"))
}

/// The rules with only these keys: those that the issuer may not use verify nothing.
fn with_keys(rules: IssuerRules, keys: Vec<VerificationKey>) -> Issuers {
    let rules = IssuerRules { keys, keys_known: KeysKnown::Always, more_keys: MoreKeys::No, ..rules };
    Issuers::new(vec![rules]).unwrap_or_default()
}

/// What a policy says of an issuer of which it says nothing else.
fn defaults(iss: &str, audiences: &[String]) -> IssuerRules {
    IssuerRules {
        name: iss.into(),
        issuer: iss.into(),
        audiences: audiences.iter().map(|audience| audience.as_str().into()).collect(),
        token_types: vec!["JWT".into(), "at+jwt".into()],
        allow_missing_typ: false,
        scopes: Vec::new(),
        skew: Duration::from_secs(SKEW_MAX.as_secs()),
        lifetime_max: LIFETIME_MAX,
        required_claims: Vec::new(),
        trials: TrialTokens::Allow,
        algorithms: Algorithm::ALL.to_vec(),
        keys: Vec::new(),
        keys_known: KeysKnown::Always,
        more_keys: MoreKeys::No,
    }
}

fn accepted(identity: &Identity) -> Value {
    let time = |at: Timestamp| rfc3339(at.as_seconds()).unwrap_or_default();
    let trial_until = match identity.trial {
        Trial::No => None,
        Trial::Until(until) => Some(time(until)),
    };
    json!({
        "valid": true,
        "not_checked": ["revocation", "roles"],
        "identity": {
            "issuer": identity.issuer,
            "subject": identity.subject,
            "user_id": identity.user_id,
            "email": identity.email,
            "customer_id": identity.customer_id,
            "agent_id": identity.agent_id,
            "governor_agent_id": identity.governor_agent_id,
            "roles": identity.roles,
            "tier": identity.tier,
            "trial_until": trial_until,
            "token_id": identity.token_id,
            "token_version": identity.token_version,
            "key_id": identity.key_id,
            "issued_at": time(identity.issued_at),
            "expires_at": time(identity.expires_at),
        },
    })
}
