//! `plant-gateway policy`: what operators do with a policy, offline and through the control plane.
//!
//! Exit codes: 0 done; 1 not valid, tests failed, or differences found; 2 wrong usage, or something cannot be read; 3 the control
//! plane does not answer, or refuses.

mod diff;
mod drafts;
mod explain;
mod import;
mod lifecycle;
mod print;
mod replay;
mod schema;
mod source;
mod testing;
mod validate;

pub use explain::Remote as ExplainArguments;
pub use replay::Remote as ReplayArguments;

use std::path::PathBuf;

use authoring::PolicyFault;
use clap::{Args, Subcommand};

use super::admin_api::{ApiCommandError, Connection, Format};

/// Where the policy is, unless said otherwise.
const POLICIES: &str = "policies";

/// Arguments of `policy`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check a folder of policy files, as the control plane would.
    Validate(validate::Arguments),
    /// Run the golden cases beside a policy and the tests of its custom rules, and say what they do not cover.
    Test(testing::Arguments),
    /// Compare two policies: as text and as changed decisions.
    Diff(diff::Arguments),
    /// Make roles and permissions of policies that were written for an OPA server.
    Import(import::Arguments),
    /// Decide a request by the policy in a folder, and say why.
    Eval(explain::Local),
    /// Ask the control plane how the policy in force decides a request, and why.
    Explain(explain::RecordOrQuestion),
    /// Decide recorded requests again by another revision, and say what would be decided otherwise.
    Replay(replay::Arguments),
    /// Print the JSON Schema of policy files.
    Schema(schema::Arguments),
    /// Publish a folder as a new revision. It is not in force before it is activated.
    Publish(lifecycle::Publish),
    /// Work on drafts.
    #[command(subcommand)]
    Draft(drafts::Action),
    /// Evaluate a revision beside the active one, on live traffic.
    #[command(subcommand)]
    Shadow(lifecycle::Shadow),
    /// Put a revision in force.
    Activate(lifecycle::Activate),
    /// Put the revision in force that was in force before; with `--break-glass` without the control plane.
    Rollback(lifecycle::Rollback),
    /// List what was in force, newest first.
    History(lifecycle::History),
    /// Show which revision workers enforce.
    Enforcement,
    /// Show how often rules matched, and which did not.
    Rules(lifecycle::Rules),
}

/// A command about a policy did not do what it was asked, or found something.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The policy is not valid.
    #[error("{0}")]
    Invalid(Box<PolicyFault>),
    /// Golden cases failed, or cover too little.
    #[error("{0}")]
    Failed(String),
    /// There are differences: they were printed.
    #[error("there are differences")]
    Different,
    /// Something cannot be read.
    #[error("cannot read `{}`", path.display())]
    Unreadable {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Something cannot be written.
    #[error("cannot write `{}`", path.display())]
    Unwritable {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Policies of an OPA server cannot be used.
    #[error("`{}`: {fault}", folder.display())]
    Oracle {
        /// Where they are.
        folder: PathBuf,
        /// What is wrong with them.
        fault: Box<PolicyFault>,
    },
    /// An argument makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The control plane was asked in vain.
    #[error(transparent)]
    Api(#[from] ApiCommandError),
    /// The way back past the control plane failed.
    #[error("the rollback in the database failed: {0}")]
    BreakGlass(String),
}

impl PolicyError {
    /// What the process ends with.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Invalid(_) | Self::Failed(_) | Self::Different | Self::Oracle { .. } => 1,
            Self::Unreadable { .. } | Self::Unwritable { .. } | Self::Usage(_) => 2,
            Self::Api(error) => error.exit_code(),
            Self::BreakGlass(_) => 3,
        }
    }

    /// Whether everything was said already.
    #[must_use]
    pub const fn is_told(&self) -> bool {
        matches!(self, Self::Different)
    }
}

/// Does it.
///
/// # Errors
/// See [`PolicyError`].
pub fn run(arguments: &Arguments) -> Result<(), PolicyError> {
    let (connection, format) = (&arguments.connection, arguments.connection.format);
    let done = match &arguments.action {
        Action::Validate(arguments) => validate::run(arguments, format),
        Action::Test(arguments) => testing::run(arguments, format),
        Action::Import(arguments) => import::run(arguments, format),
        Action::Diff(arguments) => diff::run(arguments, connection),
        Action::Eval(arguments) => explain::local(arguments, format),
        Action::Explain(asked) => explain::remote(asked, connection),
        Action::Replay(arguments) => replay::run(arguments, connection),
        Action::Schema(arguments) => schema::run(arguments),
        Action::Publish(arguments) => lifecycle::publish(arguments, connection),
        Action::Draft(action) => drafts::run(action, connection),
        Action::Shadow(action) => lifecycle::shadow(action, connection),
        Action::Activate(arguments) => lifecycle::activate(arguments, connection),
        Action::Rollback(arguments) => lifecycle::rollback(arguments, connection),
        Action::History(arguments) => lifecycle::history(arguments, connection),
        Action::Enforcement => lifecycle::enforcement(connection),
        Action::Rules(arguments) => lifecycle::rules(arguments, connection),
    };
    if let (Err(PolicyError::Invalid(fault) | PolicyError::Oracle { fault, .. }), Format::Json) = (&done, format) {
        print::json(&print::fault(fault));
    }
    done
}

/// `plant-gateway explain`: the same as `policy explain`.
///
/// # Errors
/// See [`PolicyError`].
pub fn run_explain(arguments: &ExplainArguments) -> Result<(), PolicyError> {
    explain::remote(&arguments.asked, &arguments.connection)
}

/// `plant-gateway replay`: the same as `policy replay`.
///
/// # Errors
/// See [`PolicyError`].
pub fn run_replay(arguments: &ReplayArguments) -> Result<(), PolicyError> {
    replay::run(&arguments.replayed, &arguments.connection)
}
