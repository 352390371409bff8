//! What operators run once, on the database itself. Each prints what was done as JSON, and why it was not on standard error.

use control_plane::audit::verify;
use control_plane::break_glass;
use control_plane::health;
use control_plane::restore::recover;
use decision_core::causes::chain;
use serde::Serialize;
use std::error::Error;
use std::process::ExitCode;

#[tokio::main]
pub(super) async fn roll_back(arguments: &break_glass::Arguments) -> ExitCode {
    told(break_glass::COMMAND, break_glass::run(arguments).await)
}

#[tokio::main]
pub(super) async fn recover_database(arguments: &recover::Arguments) -> ExitCode {
    told(recover::COMMAND, recover::run(arguments).await)
}

pub(super) fn ask_health(arguments: &health::Arguments) -> ExitCode {
    match health::run(arguments) {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("control-plane {}: {}", health::COMMAND, chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn told(command: &str, done: Result<impl Serialize, impl Error + 'static>) -> ExitCode {
    match done {
        Ok(done) => {
            println!("{}", serde_json::json!(done));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("control-plane {command}: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Prints what was read and what is wrong, as JSON. Ends with 1 when something is wrong, with 2 when nothing can be said.
#[tokio::main]
pub(super) async fn verify_log(arguments: &verify::Arguments) -> ExitCode {
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
