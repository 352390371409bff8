//! `plant-gateway run`: starts the stack, shows how to use it, and stops it when asked.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::guide;
use crate::stack::{Options, PORT_BASE, Stack, StackError};
use crate::token::MintError;

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// All ports are above this one: gateways at +15, +6 and +90, the rest from +91 to +97.
    #[arg(long, env = "PORT_BASE", default_value_t = PORT_BASE)]
    port_base: u16,
    /// The repository.
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// Logs, data, secrets and state.json [default: .run in the repository].
    #[arg(long)]
    run_dir: Option<PathBuf>,
    /// Policy sources [default: policies in the repository].
    #[arg(long)]
    policies: Option<PathBuf>,
    /// Envoy's worker threads.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// The filter [default: the release build beside this program].
    #[arg(long)]
    wasm: Option<PathBuf>,
    /// Envoy's bootstrap template [default: envoy/bootstrap.yaml in the repository].
    #[arg(long)]
    envoy_template: Option<PathBuf>,
    /// Where control-plane and echo-backend are [default: beside this program].
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Leave the logs behind when the stack stops.
    #[arg(long)]
    keep_logs: bool,
}

/// The stack could not be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It did not start.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// No sample tokens.
    #[error("cannot make the sample tokens")]
    Token(#[from] MintError),
    /// Without signals it could not be stopped.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
}

impl Arguments {
    fn options(&self) -> Options {
        let mut options = Options::from_environment(&self.root);
        options.port_base = self.port_base;
        options.concurrency = self.concurrency;
        options.keep_logs = self.keep_logs;
        options.wasm.clone_from(&self.wasm);
        options.bin_dir.clone_from(&self.bin_dir);
        for (option, given) in [
            (&mut options.run_dir, &self.run_dir),
            (&mut options.policies, &self.policies),
            (&mut options.envoy_template, &self.envoy_template),
        ] {
            if let Some(path) = given {
                option.clone_from(path);
            }
        }
        options
    }
}

/// Runs the stack until Ctrl-C, SIGTERM or SIGHUP.
///
/// # Errors
/// When it cannot be started.
pub fn run(arguments: &Arguments) -> Result<(), RunError> {
    let asked = Arc::new(AtomicBool::new(false));
    let stop = listen(Arc::clone(&asked))?;
    let stack = match Stack::start_unless(arguments.options(), &asked) {
        Err(StackError::Interrupted) => return Ok(()),
        started => started?,
    };
    println!("\nready\n\n{}\n\nCtrl-C stops everything.", guide::text(stack.state())?);
    let _signal_or_end = stop.recv();
    eprintln!("stopping");
    stack.stop();
    Ok(())
}

/// Says when somebody wants us to stop: at once in the flag, and for who waits in the channel.
pub(crate) fn listen(asked: Arc<AtomicBool>) -> Result<std::sync::mpsc::Receiver<()>, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RunError::Signals)?;
    let listening = {
        let _inside = runtime.enter();
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        kinds.map(signal).into_iter().collect::<Result<Vec<_>, _>>().map_err(RunError::Signals)?
    };
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        runtime.block_on(any(listening));
        asked.store(true, Ordering::Relaxed);
        let _waiting = sender.send(());
        // The runtime stays, and with it the handlers: a second Ctrl-C must not kill us while we stop.
        runtime.block_on(std::future::pending::<()>());
    });
    Ok(receiver)
}

async fn any(listening: Vec<tokio::signal::unix::Signal>) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    for mut signal in listening {
        let sender = sender.clone();
        tokio::spawn(async move {
            if signal.recv().await.is_some() {
                let _waiting = sender.send(()).await;
            }
        });
    }
    let _signal = receiver.recv().await;
}
