//! `plant-gateway completions`: what a shell needs to complete our commands.

use std::io::Write;

use clap::{Args, CommandFactory, Parser};
use clap_complete::Shell;

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Only its shape is needed.
#[derive(Debug, Parser)]
#[command(name = "plant-gateway", version)]
struct Program {
    #[command(subcommand)]
    _command: super::Command,
}

/// Prints the script.
///
/// # Errors
/// Nobody takes it.
pub fn run(arguments: &Arguments) -> std::io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Program::command(), "plant-gateway", &mut script);
    std::io::stdout().write_all(&script)
}
