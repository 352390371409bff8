//! `plant-gateway prepare`: secrets and configuration for the compose stack.

use std::path::PathBuf;

use clap::Args;

use crate::stack::compose::Compose;
use crate::stack::{PORT_BASE, StackError};

/// Arguments of `prepare`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Published ports are above this one: gateways at +15, +6 and +90, the admin API at +92.
    #[arg(long, env = "PORT_BASE", default_value_t = PORT_BASE)]
    port_base: u16,
    /// The repository.
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// Secrets, configuration, logs and state.json [default: .run-compose in the repository].
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Policy sources [default: policies in the repository].
    #[arg(long)]
    policies: Option<PathBuf>,
    /// The name of the compose project.
    #[arg(long, default_value = "plant-gateway")]
    project: String,
    /// Let the other containers reach Envoy's admin interface, and through it stop Envoy: for tests.
    #[arg(long)]
    envoy_admin: bool,
}

/// Writes what `docker-compose.yml` needs beside images.
///
/// # Errors
/// When something cannot be read or written.
pub fn run(arguments: &Arguments) -> Result<(), StackError> {
    let Arguments { port_base, root, directory, policies, project, envoy_admin } = arguments;
    let compose = Compose {
        root: root.clone(),
        directory: directory.clone().unwrap_or_else(|| root.join(".run-compose")),
        port_base: *port_base,
        policies: policies.clone().unwrap_or_else(|| root.join("policies")),
        project: project.clone(),
        envoy_admin: *envoy_admin,
    };
    compose.prepare().map(|_written| ())
}
