//! How a process is configured: by environment or flags. Nothing else reads the environment.

use crate::holders::SILENCE_MAX;
use crate::outbound::target::{AllowedHosts, AllowedNetworks};
use crate::public_url::PublicUrl;
use crate::stores;
use authoring::rules::Gate;
use clap::{Parser, ValueEnum};
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The control plane of Plant Gateway: policies, budgets, approvals and the audit log.
#[derive(Clone, Debug, Parser)]
#[command(version, name = "control-plane")]
pub struct Settings {
    /// Which Postgres.
    #[command(flatten)]
    pub database: stores::Database,
    /// Which Redis or Valkey.
    #[command(flatten)]
    pub valkey: stores::Valkey,
    /// Where the admin API listens.
    #[arg(long, env = "ADMIN_LISTEN", default_value = "127.0.0.1:8092")]
    pub admin_listen: SocketAddr,
    /// Where the data-plane API listens.
    #[arg(long, env = "DATA_PLANE_LISTEN", default_value = "127.0.0.1:8093")]
    pub data_plane_listen: SocketAddr,
    /// The directory of policy sources.
    #[arg(long, env = "POLICIES_DIR", default_value = "policies")]
    pub policies_dir: PathBuf,
    /// The directory with one file per secret that policies name.
    #[arg(long, env = "SECRETS_DIR", default_value = "secrets")]
    pub secrets_dir: PathBuf,
    /// A file of lines `<envoy-id> <sha256 of its token, hex>`; read at start.
    #[arg(long, env = "DATA_PLANE_TOKENS_FILE")]
    pub data_plane_tokens_file: Option<PathBuf>,
    /// The URL under which people reach the admin listener; approval links start with it.
    #[arg(long, env = "PUBLIC_URL", default_value = "http://127.0.0.1:8092")]
    pub public_url: PublicUrl,
    /// The hosts that key sets may be fetched from, as `host` or `host:port`, separated by commas; none if empty.
    #[arg(long, env = "JWKS_HOSTS", default_value = "")]
    pub jwks_hosts: AllowedHosts,
    /// Private or loopback networks in which such a host may be, as `10.1.0.0/16`, separated by commas.
    #[arg(long, env = "JWKS_NETWORKS", default_value = "")]
    pub jwks_networks: AllowedNetworks,
    /// A PEM file of certificate authorities that such hosts may use beside the system's.
    #[arg(long, env = "JWKS_CA_FILE")]
    pub jwks_ca_file: Option<PathBuf>,
    /// The program that reads candidates of policies and examines their custom rules, in a process of its own; this one.
    #[arg(long, env = "RULES_GATE_PROGRAM")]
    pub rules_gate_program: Option<PathBuf>,
    /// The hosts that events may be delivered to, as `host` or `host:port`, separated by commas; none if empty.
    #[arg(long, env = "WEBHOOK_HOSTS", default_value = "")]
    pub webhook_hosts: AllowedHosts,
    /// Private or loopback networks in which such a host may be, as `10.1.0.0/16`, separated by commas.
    #[arg(long, env = "WEBHOOK_NETWORKS", default_value = "")]
    pub webhook_networks: AllowedNetworks,
    /// A PEM file of certificate authorities that such hosts may use beside the system's.
    #[arg(long, env = "WEBHOOK_CA_FILE")]
    pub webhook_ca_file: Option<PathBuf>,
    /// How often an event is tried before it is given up; ten attempts take about half an hour.
    #[arg(long, env = "WEBHOOK_ATTEMPTS_MAX", default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=100))]
    pub webhook_attempts_max: i32,
    /// Most connections to Postgres.
    #[arg(long, env = "DATABASE_CONNECTIONS_MAX", default_value_t = 16, value_parser = clap::value_parser!(u32).range(4..))]
    pub database_connections_max: u32,
    /// After how much silence a holder is closed and its leases are charged in full, in seconds. Holders that have nothing to tell
    /// call every 20 s: with less than 45 some are closed that are well.
    #[arg(long, env = "HOLDER_SILENCE_S", default_value_t = SILENCE_MAX.as_secs(), value_parser = clap::value_parser!(u64).range(5..=600))]
    pub holder_silence_s: u64,
    /// An Ed25519 key in PEM, PKCS #8, that signs where the audit log stands. All replicas have the same. Without one nothing is signed, and
    /// no partition is dropped.
    #[arg(long, env = "AUDIT_SIGNING_KEY_FILE")]
    pub audit_signing_key_file: Option<PathBuf>,
    /// The file that signed checkpoints are appended to, one a line. It belongs on another disk than the database's.
    #[arg(long, env = "AUDIT_CHECKPOINTS_FILE", requires = "audit_signing_key_file")]
    pub audit_checkpoints_file: Option<PathBuf>,
    /// A receiver that each signed checkpoint is posted to, in their order. Its host is one of `WEBHOOK_HOSTS`.
    #[arg(long, env = "AUDIT_CHECKPOINTS_URL", requires = "audit_signing_key_file")]
    pub audit_checkpoints_url: Option<String>,
    /// How long to wait at start for Postgres and Redis, in seconds.
    #[arg(long, env = "CONNECT_TIMEOUT_S", default_value_t = 60)]
    pub connect_timeout_s: u64,
    /// How log lines are written. `RUST_LOG` says which.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
}

impl Settings {
    /// The gate of publishing.
    #[must_use]
    pub fn gate(&self) -> Gate {
        // Where the system does not tell where this program is, starting it fails and says so.
        let this = || std::env::current_exe().unwrap_or_else(|_unknown| PathBuf::from("control-plane"));
        Gate::new(self.rules_gate_program.clone().unwrap_or_else(this))
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Compact,
}

/// Text that may contain a password. It can be used, not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Sensitive(String);

impl Sensitive {
    /// The text itself, for whoever connects with it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Sensitive {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

impl FromStr for Sensitive {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_printed() {
        let settings = Settings::parse_from([
            "control-plane",
            "--database-url=postgres://gateway:hunter2@db/gateway",
            "--redis-url=redis://:hunter2@cache",
        ]);
        assert!(!format!("{settings:?}").contains("hunter2"));
        let connection = settings.valkey.connection().unwrap();
        assert_eq!(connection.redis_settings().password(), Some("hunter2"));
        assert!(!format!("{connection:?}").contains("hunter2"));
    }
}
