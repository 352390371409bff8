//! What the programs that measure whole stacks have in common.

use std::process::ExitCode;

use cli::demo::http::HttpError;
use cli::stack::{StackError, State};
use cli::token::{MintError, TokenSpec, mint};
use decision_core::causes::chain;
use tokio::task::JoinError;
use wire::frame::FrameError;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum BenchError {
    #[error("the stack does not start")]
    Stack(#[from] StackError),
    #[error("a file cannot be read or written")]
    File(#[from] std::io::Error),
    #[error("a token cannot be signed")]
    Token(#[from] MintError),
    #[error("no answer")]
    Http(#[from] HttpError),
    #[error("Postgres refuses")]
    Database(#[from] sqlx::Error),
    #[error("a message cannot be read or written")]
    Frame(#[from] FrameError),
    #[error("a task ended")]
    Task(#[from] JoinError),
    #[error("{what} was answered with {status}, and {bytes} bytes")]
    Answer { what: &'static str, status: u16, bytes: usize },
    #[error("the stack has no {0}")]
    Lacks(&'static str),
    #[error("the stack is not well again")]
    Unwell,
    #[error("the access log and the audit log do not agree")]
    Disagree,
}

/// Tells what went wrong, if anything did.
#[must_use]
pub fn exit(measured: Result<(), BenchError>) -> ExitCode {
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Where the customers' gateway is.
///
/// # Errors
/// The stack has none.
pub fn gateway(state: &State) -> Result<&str, BenchError> {
    state.gateways.get("CP").map(String::as_str).ok_or(BenchError::Lacks("gateway CP"))
}

/// A token of a customer of that name, who is its own only user.
///
/// # Errors
/// The stack has no issuer for customers, or its key cannot be used.
pub fn token(state: &State, name: &str) -> Result<String, BenchError> {
    let issuer = state.issuers.get("cp").ok_or(BenchError::Lacks("issuer cp"))?;
    Ok(mint(issuer, &TokenSpec::new(name, &["customer_user"]).customer(name))?)
}
