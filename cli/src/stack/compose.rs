//! What the compose stack needs beside its images: secrets, Envoy's configuration, and the variables of `docker-compose.yml`.
//!
//! All of it is in one directory that only its owner may enter. The files in it can be read by everybody: the containers run as users that
//! this machine does not know, and each is given the files that it needs and no other.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::envoy::{self, Hosts};
use super::error::{FileContext, StackError};
use super::part::Ports;
use super::run_dir::write_private;
use super::secrets::{ENVOY_ID, Secrets, admin_token};
use super::state::{Pids, State};
use super::{PORT_BASE, existing, gateway_urls, url};

/// How a container reaches the others: by the names of their services.
const HOSTS: Hosts =
    Hosts { bind: "0.0.0.0", envoy_admin: "127.0.0.1", backend: "backend", control_plane: "control-plane", cluster_type: "STRICT_DNS" };
/// Where the containers have what they are given.
const WASM: &str = "/etc/envoy/plugin.wasm";
const ACCESS_LOG: &str = "/var/log/plant-gateway/access.log";
const POSTGRES_ADMIN_PASSWORD: &str = "postgres-admin-password";
/// Files that hold secrets, each mounted into who needs it.
const SECRETS: [&str; 7] = [
    "postgres-password",
    POSTGRES_ADMIN_PASSWORD,
    "valkey-password",
    "valkey.conf",
    "data-plane-token",
    "data-plane-tokens",
    "audit-signing.pem",
];

/// A compose stack that is to be.
#[derive(Clone, Debug)]
pub struct Compose {
    /// The repository.
    pub root: PathBuf,
    /// Secrets, configuration, logs and `state.json`. One stack per directory.
    pub directory: PathBuf,
    /// The published ports are above this one.
    pub port_base: u16,
    /// Policy sources.
    pub policies: PathBuf,
    /// The name of the compose project.
    pub project: String,
    /// Whether the other containers may reach Envoy's admin interface, and through it stop Envoy: for tests.
    pub envoy_admin: bool,
}

impl Compose {
    /// Writes what is needed. What is secret is made once, and stays: the database knows its password. Returns what `state.json` says.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn prepare(&self) -> Result<State, StackError> {
        let ports = Ports::above(self.port_base)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory).or_file("create", &self.directory)?;
        let directory = self.directory.canonicalize().or_file("resolve", &self.directory)?;
        mode(&directory, 0o700)?;
        let path = directory.join("state.json");
        let state = if path.exists() { self.again(State::read(&path)?, ports)? } else { self.first(&directory, ports)? };
        for name in SECRETS {
            mode(&directory.join(name), 0o644)?;
        }
        let verifiers = directory.join("secrets");
        mode(&verifiers, 0o755)?;
        for entry in std::fs::read_dir(&verifiers).or_file("list", &verifiers)? {
            mode(&entry.or_file("list", &verifiers)?.path(), 0o644)?;
        }
        for name in ["access-logs", "checkpoints"] {
            let folder = directory.join(name);
            DirBuilder::new().recursive(true).create(&folder).or_file("create", &folder)?;
            mode(&folder, 0o777)?;
        }
        self.write_configuration(&directory, ports)?;
        state.write(&path)?;
        Ok(state)
    }

    fn first(&self, directory: &Path, ports: Ports) -> Result<State, StackError> {
        // Of a first time that was broken off.
        let _absent = std::fs::remove_dir_all(directory.join("secrets"));
        let secrets = Secrets::make(directory)?;
        let put = |name: &str, text: &str| write_private(&directory.join(name), text.as_bytes());
        put("postgres-password", &secrets.postgres_password)?;
        put(POSTGRES_ADMIN_PASSWORD, &secrets.postgres_admin_password)?;
        put("valkey-password", &secrets.valkey_password)?;
        put(
            "valkey.conf",
            &format!(
                "requirepass {}\nsave \"\"\nappendonly yes\nappendfsync everysec\nmaxmemory 300mb\nmaxmemory-policy noeviction\ndir /data\n",
                secrets.valkey_password
            ),
        )?;
        put("data-plane-token", &secrets.data_plane_token)?;
        Ok(State {
            gateways: gateway_urls(ports),
            second_gateways: std::collections::BTreeMap::new(),
            second_admin: None,
            backend: url(ports.backend),
            sandbox: url(ports.sandbox),
            admin: url(ports.admin),
            data_plane: url(ports.data_plane),
            envoy_admin: url(ports.envoy_admin),
            database_url: format!("postgres://gateway:{}@127.0.0.1:{}/gateway", secrets.postgres_password, ports.postgres),
            database_admin_url: format!("postgres://postgres:{}@127.0.0.1:{}/gateway", secrets.postgres_admin_password, ports.postgres),
            redis_url: format!("redis://:{}@127.0.0.1:{}/0", secrets.valkey_password, ports.valkey),
            admin_token: secrets.admin_token,
            issuers: secrets.issuers,
            pids: Pids::default(),
            registration_key: secrets.registration_key,
            envoy_id: ENVOY_ID.to_owned(),
            data_plane_token: secrets.data_plane_token,
            run_dir: directory.to_owned(),
            access_log: directory.join("access-logs/access.log"),
            second_access_log: directory.join("access-logs/second-access.log"),
            audit_key: secrets.audit_key,
            audit_checkpoints: directory.join("checkpoints/checkpoints"),
            compose_project: Some(self.project.clone()),
        })
    }

    /// The same secrets, a fresh operator's token, and perhaps other ports.
    fn again(&self, known: State, ports: Ports) -> Result<State, StackError> {
        let moved = |text: &str, port: u16, rest: &str| match text.split_once("@127.0.0.1:") {
            Some((with_password, _)) => format!("{with_password}@127.0.0.1:{port}{rest}"),
            None => text.to_owned(),
        };
        Ok(State {
            gateways: gateway_urls(ports),
            backend: url(ports.backend),
            sandbox: url(ports.sandbox),
            admin: url(ports.admin),
            data_plane: url(ports.data_plane),
            envoy_admin: url(ports.envoy_admin),
            database_url: moved(&known.database_url, ports.postgres, "/gateway"),
            database_admin_url: moved(&known.database_admin_url, ports.postgres, "/gateway"),
            redis_url: moved(&known.redis_url, ports.valkey, "/0"),
            admin_token: admin_token(&known.issuers)?,
            compose_project: Some(self.project.clone()),
            ..known
        })
    }

    fn write_configuration(&self, directory: &Path, ports: Ports) -> Result<(), StackError> {
        let template = existing(&self.root.join("envoy/bootstrap.yaml"), "start in the repository, or name it with --root")?;
        let hosts = Hosts { envoy_admin: if self.envoy_admin { HOSTS.bind } else { HOSTS.envoy_admin }, ..HOSTS };
        let inside = Ports::above(PORT_BASE)?;
        let text = envoy::configuration(&template, hosts, inside, ENVOY_ID, Path::new(WASM), Path::new(ACCESS_LOG))?;
        write(&directory.join("envoy.yaml"), &text)?;
        let policies = existing(&self.policies, "name the policy sources with --policies")?;
        let Ports { pp, cp, plant, backend, admin, data_plane, envoy_admin, postgres, valkey, sandbox } = ports;
        let ports = [
            ("CP_PORT", cp),
            ("PP_PORT", pp),
            ("PLANT_PORT", plant),
            ("ADMIN_PORT", admin),
            ("BACKEND_PORT", backend),
            ("DATA_PLANE_PORT", data_plane),
            ("ENVOY_ADMIN_PORT", envoy_admin),
            ("POSTGRES_PORT", postgres),
            ("VALKEY_PORT", valkey),
            ("SANDBOX_PORT", sandbox),
        ];
        let mut text = format!(
            "# Written by `plant-gateway prepare`.\nCOMPOSE_PROJECT_NAME={}\nPLANT_DIR={}\nPLANT_POLICIES={}\n",
            self.project,
            directory.display(),
            policies.display()
        );
        for (name, port) in ports {
            text.push_str(&format!("{name}={port}\n"));
        }
        write(&directory.join("compose.env"), &text)
    }
}

fn write(path: &Path, text: &str) -> Result<(), StackError> {
    write_private(path, text.as_bytes())?;
    mode(path, 0o644)
}

fn mode(path: &Path, mode: u32) -> Result<(), StackError> {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).or_file("protect", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compose(home: &Path) -> Compose {
        let root = super::super::repository();
        Compose {
            policies: root.join("policies"),
            root,
            directory: home.join("stack"),
            port_base: 20_000,
            project: "plant".to_owned(),
            envoy_admin: false,
        }
    }

    #[test]
    fn secrets_are_made_once_behind_a_door_that_is_closed() {
        let home = tempfile::tempdir().unwrap();
        let first = compose(home.path()).prepare().unwrap();
        let directory = home.path().join("stack");
        assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(directory.join("state.json").metadata().unwrap().permissions().mode() & 0o777, 0o600, "it has keys that sign");
        let moved = Compose { port_base: 21_000, ..compose(home.path()) }.prepare().unwrap();
        assert_eq!(moved.data_plane_token, first.data_plane_token);
        assert_eq!(moved.gateways["CP"], "http://127.0.0.1:21015");
        assert_eq!(moved.database_url, first.database_url.replace("20095", "21095"));
        assert_eq!(moved.redis_url, first.redis_url.replace("20096", "21096"));
        let password = std::fs::read_to_string(directory.join("postgres-password")).unwrap();
        assert!(moved.database_url.contains(&password));
    }

    #[test]
    fn envoy_finds_the_others_by_their_names_and_shows_its_admin_interface_to_nobody() {
        let home = tempfile::tempdir().unwrap();
        compose(home.path()).prepare().unwrap();
        let path = home.path().join("stack/envoy.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(r#"address: "control-plane", port_value: 8093"#) && text.contains("type: STRICT_DNS"));
        assert!(text.contains(r#"address: "127.0.0.1", port_value: 8094"#));
        Compose { envoy_admin: true, ..compose(home.path()) }.prepare().unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains(r#"address: "0.0.0.0", port_value: 8094"#));
    }

    #[test]
    fn a_start_that_was_broken_off_is_begun_again() {
        let home = tempfile::tempdir().unwrap();
        compose(home.path()).prepare().unwrap();
        std::fs::remove_file(home.path().join("stack/state.json")).unwrap();
        compose(home.path()).prepare().unwrap();
    }
}
