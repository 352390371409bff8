//! `plant-gateway stores -- COMMAND`: runs a command with `DATABASE_URL` and `REDIS_URL` of stores that last as long.

use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use crate::stack::stores::Stores;
use crate::stack::{Options, StackError};

/// Arguments of `stores`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Ports are above this one.
    #[arg(long, default_value_t = 29_000)]
    port_base: u16,
    /// The repository.
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// Data and logs [default: .run-stores in the repository].
    #[arg(long)]
    run_dir: Option<PathBuf>,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// The command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum StoresError {
    /// The stores did not start.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The command did not start.
    #[error("cannot run `{program}`")]
    Start {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It ended badly.
    #[error("`{program}` ended with {status}")]
    Failed {
        /// The program.
        program: String,
        /// How.
        status: std::process::ExitStatus,
    },
}

/// Runs the command.
///
/// # Errors
/// When the stores do not start or the command does not succeed.
pub fn run(arguments: &Arguments) -> Result<(), StoresError> {
    let mut options = Options::from_environment(&arguments.root);
    options.port_base = arguments.port_base;
    options.run_dir = arguments.run_dir.clone().unwrap_or_else(|| arguments.root.join(".run-stores"));
    options.quiet = true;
    let Some((program, rest)) = arguments.command.split_first() else { return Ok(()) };
    let stores = Stores::start(options)?;
    let status = Command::new(program)
        .args(rest)
        .env("DATABASE_URL", stores.database_url())
        .env("REDIS_URL", stores.redis_url())
        .status()
        .map_err(|source| StoresError::Start { program: program.clone(), source });
    stores.stop();
    let status = status?;
    if status.success() { Ok(()) } else { Err(StoresError::Failed { program: program.clone(), status }) }
}
