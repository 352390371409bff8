//! Reads the configuration, starts the log, runs.

use clap::Parser;
use control_plane::problem::chain;
use control_plane::settings::{LogFormat, Settings};
use control_plane::start;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let settings = Settings::parse();
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
