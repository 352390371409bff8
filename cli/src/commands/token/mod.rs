//! `plant-gateway token`: makes tokens for a local stack, explains tokens, and verifies them as a gateway does.

mod inspect;
mod mint;
mod report;
mod verify;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::key_file::KeyFileError;
use crate::policy::PolicyError;
use crate::stack::StackError;
use crate::token::MintError;

/// Where the policy is, unless said otherwise.
const POLICIES: &str = "policies";
/// Where the state of a running stack is, unless said otherwise.
const STATE: &str = ".run/state.json";

/// Arguments of `token`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a token that a running local stack accepts (or, by wish, refuses). Signs with development keys only.
    Mint(mint::Arguments),
    /// Show what a token says, and every reason why a gateway would refuse it. Does not verify the signature.
    Inspect(inspect::Arguments),
    /// Verify a token as a gateway does, and show whose it is.
    Verify(verify::Arguments),
}

/// What went wrong.
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
    /// The state file has an issuer that no local stack has.
    #[error("will not sign for issuer `{name}` (`{iss}`): it is not one of the local stack")]
    NotLocal {
        /// Its name.
        name: String,
        /// Its `iss`.
        iss: String,
    },
    /// It cannot be signed.
    #[error(transparent)]
    Mint(#[from] MintError),
    /// The token cannot be read.
    #[error("cannot read the token")]
    Read(#[from] std::io::Error),
    /// Not a token at all.
    #[error("this is not a token: {reason}")]
    NotAToken {
        /// Why.
        reason: String,
    },
    /// No rules.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// No keys.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// Neither rules nor keys.
    #[error("nothing to verify with: give --policies DIR and --secrets DIR, or --jwk FILE, or --jwks FILE")]
    NothingToVerifyWith,
    /// The gateways refuse it.
    #[error("{code}: {meaning}")]
    Refused {
        /// The coded reason.
        code: &'static str,
        /// What it means.
        meaning: String,
    },
}

/// Does it.
///
/// # Errors
/// When there is nothing to work with, or the token is refused.
pub fn run(arguments: &Arguments) -> Result<(), TokenError> {
    match &arguments.action {
        Action::Mint(arguments) => mint::run(arguments),
        Action::Inspect(arguments) => inspect::run(arguments),
        Action::Verify(arguments) => verify::run(arguments),
    }
}

/// The folder that was named, or the default if it exists.
fn policies(named: Option<&PathBuf>) -> Option<PathBuf> {
    named.cloned().or_else(|| Some(PathBuf::from(POLICIES)).filter(|path| Path::is_dir(path)))
}
