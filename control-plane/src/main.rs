//! Reads the configuration, starts the log, runs.

mod subcommands;

use authoring::rules::gate;
use clap::Parser;
use control_plane::audit::verify;
use control_plane::break_glass;
use control_plane::health;
use control_plane::restore::recover;
use control_plane::settings::{LogFormat, Settings};
use control_plane::start;
use decision_core::causes::chain;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Before anything else, so that the gate's process has no threads, no log and no configuration.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == gate::SUBCOMMAND) {
        return gate::serve();
    }
    let mut arguments = std::env::args_os().skip(1);
    let command = arguments.next();
    match command.as_ref().and_then(|command| command.to_str()) {
        Some(break_glass::COMMAND) => subcommands::roll_back(&break_glass::Arguments::parse_from(arguments)),
        Some(verify::COMMAND) => subcommands::verify_log(&verify::Arguments::parse_from(arguments)),
        Some(health::COMMAND) => subcommands::ask_health(&health::Arguments::parse_from(arguments)),
        Some(recover::COMMAND) => subcommands::recover_database(&recover::Arguments::parse_from(arguments)),
        Some(_) | None => serve(Settings::parse()),
    }
}

#[tokio::main]
async fn serve(settings: Settings) -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new("info,sqlx=warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Compact => log.compact().init(),
    }
    match start::run(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may be filtered away; why it does not start must not be.
            eprintln!("control-plane: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}
