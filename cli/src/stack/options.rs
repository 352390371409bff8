//! What a stack is started with.

use std::path::{Path, PathBuf};

/// The lowest port of the standard stack.
pub const PORT_BASE: u16 = 8000;

/// How many there are of a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Copies {
    /// One.
    #[default]
    One,
    /// Two, which do the same.
    Two,
}

/// How to start a stack. Paths may be relative to the current directory.
#[derive(Clone, Debug)]
pub struct Options {
    /// The repository: where `.tools`, `envoy/` and `tools/` are.
    pub root: PathBuf,
    /// All ports are above this one.
    pub port_base: u16,
    /// Logs, data, secrets and `state.json`. One stack per directory.
    pub run_dir: PathBuf,
    /// Policy sources.
    pub policies: PathBuf,
    /// Envoy's worker threads.
    pub concurrency: u16,
    /// Envoys, each with ports and a name of its own.
    pub envoys: Copies,
    /// Control planes. The template says which of them Envoy asks: the shipped one, the first.
    pub control_planes: Copies,
    /// The filter; by default the release build beside our own executable.
    pub wasm: Option<PathBuf>,
    /// Envoy's bootstrap template.
    pub envoy_template: PathBuf,
    /// Where `control-plane` and `echo-backend` are; by default beside our own executable.
    pub bin_dir: Option<PathBuf>,
    /// More environment variables for the control plane. They win over ours.
    pub control_plane_env: Vec<(String, String)>,
    /// Use this Postgres instead of one of our own.
    pub database_url: Option<String>,
    /// Use this Redis or Valkey instead of one of our own.
    pub redis_url: Option<String>,
    /// Use this Envoy instead of the installed one.
    pub envoy_bin: Option<PathBuf>,
    /// Where Envoy runs, as `ENVOY_RUNTIME` says it: nothing for a process, `docker` for a container, `compose` for a stack that is
    /// containers altogether, unless something is asked for that docker-compose.yml has no place for.
    pub envoy_runtime: Option<String>,
    /// Leave the logs in the run directory when the stack stops.
    pub keep_logs: bool,
    /// Say nothing about progress and restarts.
    pub quiet: bool,
}

impl Options {
    /// The standard stack of this repository.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            port_base: PORT_BASE,
            run_dir: root.join(".run"),
            policies: root.join("policies"),
            concurrency: 2,
            envoys: Copies::One,
            control_planes: Copies::One,
            wasm: None,
            envoy_template: root.join("envoy/bootstrap.yaml"),
            bin_dir: None,
            control_plane_env: Vec::new(),
            database_url: None,
            redis_url: None,
            envoy_bin: None,
            envoy_runtime: None,
            keep_logs: false,
            quiet: false,
        }
    }

    /// The standard stack, or with the parts that `DATABASE_URL`, `REDIS_URL` and `ENVOY_BIN` name, and Envoy where
    /// `ENVOY_RUNTIME` says.
    #[must_use]
    pub fn from_environment(root: &Path) -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            database_url: variable("DATABASE_URL"),
            redis_url: variable("REDIS_URL"),
            envoy_bin: variable("ENVOY_BIN").map(PathBuf::from),
            envoy_runtime: variable("ENVOY_RUNTIME"),
            ..Self::new(root)
        }
    }
}
