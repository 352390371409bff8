//! `plant-gateway`: see `plant-gateway --help`.

use std::process::ExitCode;

use authoring::rules::gate;
use clap::Parser;
use cli::commands::Command;
use cli::commands::audit::AuditError;
use cli::commands::policy::PolicyError;

/// Plant Gateway on the command line.
#[derive(Debug, Parser)]
#[command(name = "plant-gateway", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    // Before arguments are read: it is no command for people.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == gate::SUBCOMMAND) {
        return gate::serve();
    }
    match Arguments::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let about_policy = error.downcast_ref::<PolicyError>();
            let about_audit = error.downcast_ref::<AuditError>().map(AuditError::exit_code);
            let code = about_policy.map(PolicyError::exit_code).or(about_audit).map_or(ExitCode::FAILURE, ExitCode::from);
            if about_policy.is_some_and(PolicyError::is_told) {
                return code;
            }
            eprintln!("error: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  because: {cause}");
                source = cause.source();
            }
            code
        }
    }
}
