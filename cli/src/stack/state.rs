//! `state.json`: where a running stack can be reached, and with which keys. Written when everything is ready, mode 0600.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{FileContext, StackError};
use super::part::Part;
use super::run_dir::{RunDir, write_private};
use super::secrets::{ENVOY_ID, Secrets};
use crate::issuer::IssuerState;

/// A running stack.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// Base URLs of the gateways `CP`, `PP` and `PLANT`.
    pub gateways: BTreeMap<String, String>,
    /// The same of the second Envoy, where there is one.
    #[serde(default)]
    pub second_gateways: BTreeMap<String, String>,
    /// Base URL of the echo backend.
    pub backend: String,
    /// Base URL of the sandbox backend.
    pub sandbox: String,
    /// Base URL of the control plane's admin API.
    pub admin: String,
    /// The same of the second control plane, where there is one.
    #[serde(default)]
    pub second_admin: Option<String>,
    /// Base URL of the control plane's data-plane API.
    pub data_plane: String,
    /// Base URL of Envoy's admin interface.
    pub envoy_admin: String,
    /// Where Postgres is, as the control plane's login; password included.
    pub database_url: String,
    /// The same as who owns the cluster: for backups, and for tests, who look at what row security hides from the control plane.
    pub database_admin_url: String,
    /// Where Valkey is.
    pub redis_url: String,
    /// A token for the admin API, for 12 hours.
    pub admin_token: String,
    /// Keys by the name of the issuer in the policies: `cp`, `pp`, `edge`, `legacy`, `ops`.
    pub issuers: BTreeMap<String, IssuerState>,
    /// Process ids. A part that is not ours has none.
    pub pids: Pids,
    /// The registration key of the customer portal.
    pub registration_key: String,
    /// The name under which Envoy is known to the control plane.
    pub envoy_id: String,
    /// Its token for the data-plane API.
    pub data_plane_token: String,
    /// The run directory.
    pub run_dir: PathBuf,
    /// Envoy's access log.
    pub access_log: PathBuf,
    /// The same of the second one, where there is one.
    pub second_access_log: PathBuf,
    /// The public key that checkpoints of the audit log are signed with.
    pub audit_key: PathBuf,
    /// The checkpoints that the control plane exports.
    pub audit_checkpoints: PathBuf,
    /// The compose project whose containers these are; of a stack without containers absent.
    #[serde(default)]
    pub compose_project: Option<String>,
}

/// Process ids of the parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pids {
    /// Envoy.
    pub envoy: Option<u32>,
    /// The control plane.
    pub control_plane: Option<u32>,
    /// Postgres.
    pub postgres: Option<u32>,
    /// Valkey.
    pub valkey: Option<u32>,
    /// The echo backend.
    pub backend: Option<u32>,
    /// The second Envoy.
    pub second_envoy: Option<u32>,
    /// The second control plane.
    pub second_control_plane: Option<u32>,
    /// The process that started and watches them.
    pub supervisor: Option<u32>,
}

impl Pids {
    /// The process id of a part, if it is ours.
    #[must_use]
    pub const fn of(&self, part: Part) -> Option<u32> {
        match part {
            Part::Envoy => self.envoy,
            Part::ControlPlane => self.control_plane,
            Part::Backend => self.backend,
            Part::Valkey => self.valkey,
            Part::Postgres => self.postgres,
            Part::SecondEnvoy => self.second_envoy,
            Part::SecondControlPlane => self.second_control_plane,
        }
    }

    pub(crate) const fn set(&mut self, part: Part, pid: Option<u32>) {
        match part {
            Part::Envoy => self.envoy = pid,
            Part::ControlPlane => self.control_plane = pid,
            Part::Backend => self.backend = pid,
            Part::Valkey => self.valkey = pid,
            Part::Postgres => self.postgres = pid,
            Part::SecondEnvoy => self.second_envoy = pid,
            Part::SecondControlPlane => self.second_control_plane = pid,
        }
    }
}

impl State {
    /// Reads the state file of a running stack.
    ///
    /// # Errors
    /// When it is not there or not ours.
    pub fn read(path: &Path) -> Result<Self, StackError> {
        let text = std::fs::read_to_string(path).or_file("read", path)?;
        serde_json::from_str(&text).map_err(std::io::Error::other).or_file("understand", path)
    }

    /// The keys and secrets of a stack in this run directory, whose servers are nowhere: for tests of what needs keys only.
    ///
    /// # Errors
    /// When the directory is taken or cannot be written.
    pub fn without_servers(run_dir: &Path) -> Result<Self, StackError> {
        let run_dir = RunDir::claim(run_dir)?;
        let secrets = Secrets::make(run_dir.path())?;
        Ok(Self {
            gateways: BTreeMap::new(),
            second_gateways: BTreeMap::new(),
            second_admin: None,
            backend: String::new(),
            sandbox: String::new(),
            admin: String::new(),
            data_plane: String::new(),
            envoy_admin: String::new(),
            database_url: String::new(),
            database_admin_url: String::new(),
            redis_url: String::new(),
            admin_token: secrets.admin_token,
            issuers: secrets.issuers,
            pids: Pids::default(),
            registration_key: secrets.registration_key,
            envoy_id: ENVOY_ID.to_owned(),
            data_plane_token: secrets.data_plane_token,
            access_log: run_dir.join("access.log"),
            second_access_log: run_dir.join("second-access.log"),
            audit_key: run_dir.join("audit-signing.public.pem"),
            audit_checkpoints: run_dir.join("control-plane.checkpoints"),
            run_dir: run_dir.path().to_owned(),
            compose_project: None,
        })
    }

    /// Writes it whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<(), StackError> {
        let mut text = serde_json::to_string_pretty(self).map_err(std::io::Error::other).or_file("write", path)?;
        text.push('\n');
        write_private(path, text.as_bytes())
    }
}
