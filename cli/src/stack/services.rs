//! Our own two processes: the control plane and the echo backend.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::children::Launch;
use super::part::{Part, Ports};
use super::run_dir::RunDir;
use super::secrets::Secrets;

/// What the control plane needs to know.
#[derive(Debug)]
pub(crate) struct ControlPlane<'a> {
    pub(crate) part: Part,
    pub(crate) program: PathBuf,
    pub(crate) ports: Ports,
    pub(crate) database_url: &'a str,
    pub(crate) redis_url: &'a str,
    pub(crate) policies: &'a std::path::Path,
    pub(crate) secrets: &'a Secrets,
    pub(crate) more: &'a [(String, String)],
}

impl ControlPlane<'_> {
    pub(crate) fn launch(self, run_dir: &RunDir, log: PathBuf) -> Launch {
        let Ports { admin, data_plane, .. } = self.ports;
        let log_level = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
        let ours = [
            ("DATABASE_URL", self.database_url.to_owned()),
            ("REDIS_URL", self.redis_url.to_owned()),
            ("ADMIN_LISTEN", format!("127.0.0.1:{admin}")),
            ("DATA_PLANE_LISTEN", format!("127.0.0.1:{data_plane}")),
            ("PUBLIC_URL", format!("http://127.0.0.1:{admin}")),
            ("POLICIES_DIR", self.policies.display().to_string()),
            ("SECRETS_DIR", self.secrets.folder.display().to_string()),
            ("DATA_PLANE_TOKENS_FILE", self.secrets.data_plane_tokens.display().to_string()),
            ("AUDIT_SIGNING_KEY_FILE", self.secrets.audit_signing_key.display().to_string()),
            ("AUDIT_CHECKPOINTS_FILE", audit_checkpoints(run_dir, self.part).display().to_string()),
            ("RUST_LOG", log_level),
        ];
        let mut environment: Vec<(String, String)> = ours.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        environment.extend_from_slice(self.more);
        Launch {
            part: self.part,
            program: self.program,
            arguments: Vec::new(),
            container: None,
            environment,
            account: None,
            directory: run_dir.path().to_owned(),
            log,
            lock: None,
            stop: Signal::SIGTERM,
            patience: Duration::from_secs(10),
        }
    }
}

/// Where a control plane exports checkpoints to: each to a file of its own.
pub(crate) fn audit_checkpoints(run_dir: &RunDir, part: Part) -> PathBuf {
    run_dir.join(&format!("{part}.checkpoints"))
}

pub(crate) fn backend(run_dir: &RunDir, program: PathBuf, ports: Ports, log: PathBuf) -> Launch {
    let address = |port: u16| format!("127.0.0.1:{port}");
    let arguments = ["--listen".to_owned(), address(ports.backend), "--sandbox-listen".to_owned(), address(ports.sandbox)];
    Launch {
        part: Part::Backend,
        program,
        arguments: arguments.into_iter().map(Into::into).collect(),
        container: None,
        environment: Vec::new(),
        account: None,
        directory: run_dir.path().to_owned(),
        log,
        lock: None,
        stop: Signal::SIGTERM,
        patience: Duration::from_secs(2),
    }
}
