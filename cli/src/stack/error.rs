//! Why a stack could not be started or touched.

use std::path::PathBuf;

use super::part::{Part, PortError};
use super::tools::ToolError;
use crate::issuer::GenerateError;
use crate::token::MintError;

/// A stack could not be started, or a part of it not be reached.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// The ports are not usable.
    #[error(transparent)]
    Ports(#[from] PortError),
    /// Another stack lives in the same run directory.
    #[error("`{}` is used by another stack: stop that, or choose another with --run-dir", .run_dir.display())]
    RunDirBusy {
        /// The directory.
        run_dir: PathBuf,
    },
    /// A file of ours could not be written or read.
    #[error("cannot {action} `{}`", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Something that must have been built or written first is not there.
    #[error("`{}` is missing; {remedy}", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// How to get it.
        remedy: &'static str,
    },
    /// Postgres, Valkey or Envoy could not be installed.
    #[error(transparent)]
    Tools(#[from] ToolError),
    /// No key could be made.
    #[error(transparent)]
    Keys(#[from] GenerateError),
    /// No admin token could be made.
    #[error("cannot make the admin token")]
    AdminToken(#[source] MintError),
    /// No random bytes.
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
    /// A process could not be started at all.
    #[error("cannot start {part} (`{}`)", .program.display())]
    Start {
        /// Which.
        part: Part,
        /// Its executable.
        program: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A preparing step of a part failed.
    #[error("{part}: `{step}` failed: {output}")]
    Prepare {
        /// Which.
        part: Part,
        /// The step.
        step: &'static str,
        /// What it said.
        output: String,
    },
    /// A part did not get ready.
    #[error("{part} is not ready: {reason}\n--- the end of {} ---\n{tail}", .log.display())]
    NotReady {
        /// Which.
        part: Part,
        /// What was waited for.
        reason: String,
        /// Its log.
        log: PathBuf,
        /// The end of it.
        tail: String,
    },
    /// The template names a variable that we do not have.
    #[error("`{}` line {line}: there is no variable `{name}`", .path.display())]
    Template {
        /// The template.
        path: PathBuf,
        /// Where.
        line: usize,
        /// Which.
        name: String,
    },
    /// A value would break out of the quotes in the template.
    #[error("`{value}` cannot be written into the configuration of Envoy")]
    TemplateValue {
        /// The value.
        value: String,
    },
    /// This part is not a child of ours.
    #[error("{part} does not run in this stack")]
    NotRunning {
        /// Which.
        part: Part,
    },
    /// A signal could not be sent.
    #[error("cannot signal {part}")]
    Signal {
        /// Which.
        part: Part,
        /// Why not.
        #[source]
        source: nix::errno::Errno,
    },
    /// The compose stack did not start.
    #[error("the compose stack does not start: {output}")]
    Compose {
        /// What was said, and the ends of the logs.
        output: String,
    },
    /// The Docker engine did not do something.
    #[error("Docker, asked about {part}: {output}")]
    Docker {
        /// Which part it was about.
        part: Part,
        /// What it said.
        output: String,
    },
    /// No such way of running Envoy.
    #[error("ENVOY_RUNTIME is `docker` or `compose`, not `{value}`; without it, Envoy is a process")]
    Runtime {
        /// What was asked for.
        value: String,
    },
    /// The supervising thread is gone.
    #[error("the supervisor has stopped")]
    SupervisorGone,
    /// Something asked the start to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Names what was tried when a file operation fails.
pub(crate) trait FileContext<T> {
    fn or_file(self, action: &'static str, path: &std::path::Path) -> Result<T, StackError>;
}

impl<T> FileContext<T> for std::io::Result<T> {
    fn or_file(self, action: &'static str, path: &std::path::Path) -> Result<T, StackError> {
        self.map_err(|source| StackError::File { action, path: path.to_owned(), source })
    }
}
