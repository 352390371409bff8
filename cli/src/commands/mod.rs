//! The subcommands, one module each. A command parses its arguments, calls the library and prints.

pub mod admin_api;
pub mod audit;
pub mod budget;
pub mod bundle;
pub mod completions;
pub mod guide;
pub mod jws;
pub mod keys;
pub mod policy;
pub mod prepare;
pub mod recover;
pub mod revoke;
pub mod run;
mod store_program;
pub mod stores;
mod tables;
mod terminal;
pub mod token;

use std::error::Error;

use clap::Subcommand;

use crate::demo;

/// What `plant-gateway` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the whole stack on this machine, and stop it with Ctrl-C.
    Run(run::Arguments),
    /// Write secrets and configuration for the compose stack: what `make up` does first.
    Prepare(prepare::Arguments),
    /// Show where a running stack can be reached, with a sample token for each role.
    Guide(guide::Arguments),
    /// Start the stack, send one request for each outcome, show what came of it, and stop the stack.
    Demo(demo::Arguments),
    /// Validate, test, compare, publish, shadow, activate and roll back policies.
    Policy(Box<policy::Arguments>),
    /// Ask how the policy in force decides a request, or why a recorded one was decided so.
    Explain(Box<policy::ExplainArguments>),
    /// Decide recorded requests again by another revision, and say what would be decided otherwise.
    Replay(Box<policy::ReplayArguments>),
    /// Revoke tokens, keys, customers and agents; list and lift revocations.
    Revoke(Box<revoke::Arguments>),
    /// Query, trace, export, keep and verify the audit log.
    Audit(Box<audit::Arguments>),
    /// End the fence after a backup was restored: in the database that `DATABASE_URL` names, or that of the running stack.
    Recover(recover::Arguments),
    /// Show accounts of budgets, set caps and grant override accounts.
    Budget(Box<budget::Arguments>),
    /// Show issuers' keys, and fetch published ones.
    Keys(keys::Arguments),
    /// Print the bundle in force for a plugin configuration, base64: public keys only.
    Bundle(bundle::Arguments),
    /// Run a command with a Postgres and a Valkey of its own: for the tests of the stores.
    Stores(stores::Arguments),
    /// Verify a signature, and nothing else.
    Jws(jws::Arguments),
    /// Make, explain or verify a token.
    Token(token::Arguments),
    /// Print a completion script for a shell.
    Completions(completions::Arguments),
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// Whatever went wrong, ready to be shown with its causes.
    pub fn run(self) -> Result<(), Box<dyn Error>> {
        match self {
            Self::Run(arguments) => Ok(run::run(&arguments)?),
            Self::Prepare(arguments) => Ok(prepare::run(&arguments)?),
            Self::Guide(arguments) => Ok(guide::run(&arguments)?),
            Self::Demo(arguments) => Ok(demo::run(&arguments)?),
            Self::Policy(arguments) => Ok(policy::run(&arguments)?),
            Self::Explain(arguments) => Ok(policy::run_explain(&arguments)?),
            Self::Replay(arguments) => Ok(policy::run_replay(&arguments)?),
            Self::Revoke(arguments) => Ok(revoke::run(&arguments)?),
            Self::Audit(arguments) => Ok(audit::run(&arguments)?),
            Self::Recover(arguments) => Ok(recover::run(&arguments)?),
            Self::Budget(arguments) => Ok(budget::run(&arguments)?),
            Self::Keys(arguments) => Ok(keys::run(&arguments)?),
            Self::Bundle(arguments) => Ok(bundle::run(&arguments)?),
            Self::Stores(arguments) => Ok(stores::run(&arguments)?),
            Self::Jws(arguments) => Ok(jws::run(&arguments)?),
            Self::Token(arguments) => Ok(token::run(&arguments)?),
            Self::Completions(arguments) => Ok(completions::run(&arguments)?),
        }
    }
}
