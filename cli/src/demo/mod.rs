//! `plant-gateway demo`: starts the stack, sends one request for each outcome, shows what came of it, and stops the stack.

pub mod admin;
pub mod http;
mod scenes;
mod stage;
mod table;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use self::stage::Row;

use self::admin::AdminError;
use self::http::HttpError;
use self::stage::Stage;
use crate::commands::run::{RunError, listen};
use crate::stack::{Options, PORT_BASE, Stack, StackError, State};
use crate::token::MintError;

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// All ports are above this one: gateways at +15, +6 and +90, the rest from +91 to +97.
    #[arg(long, env = "PORT_BASE", default_value_t = PORT_BASE)]
    port_base: u16,
    /// The repository.
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// Logs, data and secrets while it runs [default: .run-demo in the repository].
    #[arg(long)]
    run_dir: Option<PathBuf>,
    /// The filter [default: the release build beside this program].
    #[arg(long)]
    wasm: Option<PathBuf>,
    /// Where control-plane and echo-backend are [default: beside this program].
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Play against a compose stack that runs already: its state file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["run_dir", "wasm", "bin_dir", "keep_logs"])]
    state: Option<PathBuf>,
    /// Leave the logs behind.
    #[arg(long)]
    keep_logs: bool,
}

/// The demo could not be given, or something in it was not as expected.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The stack did not start.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// Without signals it could not be stopped.
    #[error(transparent)]
    Signals(#[from] RunError),
    /// No runtime.
    #[error("cannot start the clients")]
    Runtime(#[source] std::io::Error),
    /// A gateway did not answer.
    #[error("a gateway does not answer")]
    Http(#[from] HttpError),
    /// The admin API did not do its part.
    #[error("the control plane does not do its part")]
    Admin(#[from] AdminError),
    /// A token could not be made.
    #[error("cannot make a token")]
    Token(#[from] MintError),
    /// The state file lacks something.
    #[error("the stack has no {what}")]
    Incomplete {
        /// What is missing.
        what: String,
    },
    /// No such moment; the clock of this machine is off.
    #[error("cannot write down the time")]
    Clock(#[from] time::error::Format),
    /// Something was not as expected.
    #[error("{differing} of {shown} outcomes differ from what is expected")]
    Differs {
        /// How many.
        differing: usize,
        /// Of how many.
        shown: usize,
    },
    /// Somebody stopped it.
    #[error("interrupted")]
    Interrupted,
}

impl Arguments {
    fn options(&self) -> Options {
        let mut options = Options::from_environment(&self.root);
        options.port_base = self.port_base;
        options.run_dir = self.run_dir.clone().unwrap_or_else(|| self.root.join(".run-demo"));
        options.keep_logs = self.keep_logs;
        options.wasm.clone_from(&self.wasm);
        options.bin_dir.clone_from(&self.bin_dir);
        options
    }
}

/// Gives the demo.
///
/// # Errors
/// When it cannot be given, or an outcome differs.
pub fn run(arguments: &Arguments) -> Result<(), DemoError> {
    let asked = Arc::new(AtomicBool::new(false));
    let stop = listen(Arc::clone(&asked))?;
    let stack = match &arguments.state {
        Some(state) => Stack::attach(&arguments.root, state)?,
        None => Stack::start_unless(arguments.options(), &asked)?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DemoError::Runtime)?;
    let interrupted = runtime.spawn_blocking(move || stop.recv());
    let played = runtime.block_on(async {
        tokio::select! {
            rows = play(stack.state()) => rows,
            _ = interrupted => Err(DemoError::Interrupted),
        }
    });
    // The thread that waits for a signal has nobody to tell any more.
    runtime.shutdown_background();
    stack.stop();
    let rows = played?;
    println!("\n{}", table::render(&rows));
    let (shown, differing) = (rows.len(), rows.iter().filter(|row| row.fault.is_some()).count());
    if differing > 0 {
        return Err(DemoError::Differs { differing, shown });
    }
    println!("{shown} outcomes, all as expected");
    Ok(())
}

/// Plays every scene against a running stack that has the default policy.
///
/// # Errors
/// When something does not answer at all. What answers otherwise than expected is in the rows.
pub async fn play(state: &State) -> Result<Vec<Row>, DemoError> {
    let mut stage = Stage::new(state);
    let start = OffsetDateTime::now_utc().format(&Rfc3339)?;
    scenes::authentication(&mut stage).await?;
    scenes::authorisation(&mut stage).await?;
    scenes::trials(&mut stage).await?;
    scenes::approvals(&mut stage).await?;
    scenes::money(&mut stage).await?;
    scenes::pretence(&mut stage).await?;
    scenes::tokens(&mut stage).await?;
    scenes::doors(&mut stage).await?;
    scenes::ids(&mut stage).await?;
    scenes::audit(&mut stage, &start).await?;
    Ok(stage.into_rows())
}
