//! `plant-gateway jws verify`: the signature layer by itself. Knows nothing of claims.

use std::io::Write;

use authn::{Algorithm, PureRust, VerificationKey, parse_jws, verify_jws};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use decision_core::principal::CredentialFault;

use crate::key_file::{self, KeyFile, KeyFileError};
use crate::refusal;

/// Arguments of `jws`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Verify a signature and print the payload, exactly as it was signed.
    Verify(Verify),
}

#[derive(Debug, Args)]
struct Verify {
    #[command(flatten)]
    keys: KeyFile,
    /// The algorithm of keys that name none; keys for another are refused.
    #[arg(long, value_name = "ALG", value_parser = key_file::algorithm)]
    alg: Option<Algorithm>,
    /// The token; `-` is standard input.
    #[arg(allow_hyphen_values = true)]
    token: String,
}

/// Not verified.
#[derive(Debug, thiserror::Error)]
pub enum JwsError {
    /// No usable keys.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// Standard input or output failed.
    #[error("cannot read the token or write the payload")]
    Stream(#[from] std::io::Error),
    /// It is refused.
    #[error("{code}: {meaning}")]
    Refused {
        /// The coded reason.
        code: &'static str,
        /// What it means.
        meaning: String,
    },
}

impl From<CredentialFault> for JwsError {
    fn from(fault: CredentialFault) -> Self {
        Self::Refused { code: fault.code(), meaning: refusal::meaning(fault) }
    }
}

/// Verifies, and prints the payload.
///
/// # Errors
/// When the token is refused or there is no key to verify it with.
pub fn run(arguments: &Arguments) -> Result<(), JwsError> {
    let Action::Verify(verify) = &arguments.action;
    check_usage(verify);
    let keys = verify.keys.read(verify.alg)?;
    let token = key_file::token(&verify.token)?;
    let payload = verified(&token, &keys)?;
    let mut out = std::io::stdout().lock();
    out.write_all(&payload)?;
    Ok(out.flush()?)
}

/// What clap cannot say; ends as its own errors do, with status 2.
fn check_usage(verify: &Verify) {
    #[derive(Parser)]
    #[command(name = "plant-gateway jws verify")]
    struct Shown {
        #[command(flatten)]
        verify: Verify,
    }
    if !verify.keys.is_given() {
        Shown::command().error(ErrorKind::MissingRequiredArgument, "give --jwk FILE or --jwks FILE").exit();
    }
    if verify.keys.is_stdin() && verify.token == "-" {
        Shown::command().error(ErrorKind::ArgumentConflict, "only one of key and token can come from standard input").exit();
    }
}

/// By the key that the header names; without `kid`, by the only key of the algorithm.
fn verified(token: &str, keys: &[VerificationKey]) -> Result<Vec<u8>, CredentialFault> {
    if let [only] = keys {
        return verify_jws(token, only, &mut PureRust);
    }
    let header = parse_jws(token)?.header;
    let mut fitting = keys.iter().filter(|key| key.algorithm == header.algorithm && (header.kid.is_none() || key.kid == header.kid));
    match (fitting.next(), fitting.next()) {
        (Some(only), None) => verify_jws(token, only, &mut PureRust),
        (Some(_), Some(_)) => Err(CredentialFault::UnknownKey),
        (None, _) if keys.iter().any(|key| key.kid == header.kid) => Err(CredentialFault::AlgorithmRefused),
        (None, _) => Err(CredentialFault::UnknownKey),
    }
}
