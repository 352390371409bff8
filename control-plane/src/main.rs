//! Reads the configuration, starts the log, runs.

use authoring::rules::gate;
use clap::Parser;
use control_plane::audit::verify;
use control_plane::break_glass;
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
    if command.as_ref().is_some_and(|first| first == break_glass::COMMAND) {
        return roll_back(&break_glass::Arguments::parse_from(arguments));
    }
    if command.as_ref().is_some_and(|first| first == verify::COMMAND) {
        return verify_log(&verify::Arguments::parse_from(arguments));
    }
    if command.is_some_and(|first| first == recover::COMMAND) {
        return recover_database(&recover::Arguments::parse_from(arguments));
    }
    serve(Settings::parse())
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

#[tokio::main]
async fn roll_back(arguments: &break_glass::Arguments) -> ExitCode {
    match break_glass::run(arguments).await {
        Ok(done) => {
            println!("{}", serde_json::json!(done));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("control-plane rollback: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn recover_database(arguments: &recover::Arguments) -> ExitCode {
    match recover::run(arguments).await {
        Ok(done) => {
            println!("{}", serde_json::json!(done));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("control-plane recover: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Prints what was read and what is wrong, as JSON. Ends with 1 when something is wrong, with 2 when nothing can be said.
#[tokio::main]
async fn verify_log(arguments: &verify::Arguments) -> ExitCode {
    match verify::run(arguments).await {
        Ok(report) => {
            println!("{}", serde_json::json!(report));
            if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
        Err(error) => {
            eprintln!("control-plane verify: {}", chain(&error));
            ExitCode::from(2)
        }
    }
}
