//! The run directory: claimed by one stack at a time, cleaned of what a killed one left behind, emptied at the end.
//! Only names that we gave are ever deleted.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::error::{FileContext, StackError};

/// Directories of ours in the run directory.
const FOLDERS: [&str; 3] = ["postgres", "valkey", "secrets"];
/// Files of ours that tell nothing once the stack is gone.
const FILES: [&str; 10] = [
    "state.json",
    "state.json.new",
    "envoy.yaml",
    "second-envoy.yaml",
    "data-plane-tokens",
    "children.json.new",
    "audit-signing.pem",
    "audit-signing.public.pem",
    "control-plane.checkpoints",
    "second-control-plane.checkpoints",
];
/// Logs.
const LOGS: [&str; 9] = [
    "envoy.log",
    "second-envoy.log",
    "control-plane.log",
    "second-control-plane.log",
    "backend.log",
    "valkey.log",
    "postgres.log",
    "access.log",
    "second-access.log",
];
/// How the names of our directories outside begin.
pub(crate) const FOLDER_ELSEWHERE: &str = "plant-gateway-";
const CHILDREN: &str = "children.json";
const LOCK: &str = "lock";

/// What must be cleaned up if we cannot do it ourselves.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Leftovers {
    children: Vec<Process>,
    folders: Vec<PathBuf>,
}

/// A process that cannot be mistaken for a later one with the same id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Process {
    pid: i32,
    started: String,
}

/// A claimed run directory. The claim ends with the process, however that ends.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    leftovers: Leftovers,
    lock: File,
}

impl RunDir {
    /// Claims it and cleans it.
    pub(crate) fn claim(path: &Path) -> Result<Self, StackError> {
        DirBuilder::new().recursive(true).mode(0o755).create(path).or_file("create", path)?;
        let path = path.canonicalize().or_file("resolve", path)?;
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path).or_file("open", &lock_path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StackError::RunDirBusy { run_dir: path }),
            Err(TryLockError::Error(source)) => return Err(StackError::File { action: "lock", path: lock_path, source }),
        }
        let leftovers = read_leftovers(&path.join(CHILDREN));
        let mut run_dir = Self { path, leftovers, lock };
        run_dir.end_leftover_processes();
        run_dir.remove_data();
        run_dir.remove(&LOGS);
        run_dir.leftovers = Leftovers::default();
        Ok(run_dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A fresh directory in here.
    pub(crate) fn folder(&self, name: &str, mode: u32) -> Result<PathBuf, StackError> {
        fresh_folder(&self.path.join(name), mode)
    }

    /// Remembers a directory elsewhere, to be removed with the rest.
    pub(crate) fn own_folder(&mut self, folder: PathBuf) -> Result<(), StackError> {
        self.leftovers.folders.push(folder);
        self.write_leftovers()
    }

    /// Remembers the processes that run now.
    pub(crate) fn own_processes(&mut self, pids: &[u32]) -> Result<(), StackError> {
        let process = |pid: &u32| {
            let pid = i32::try_from(*pid).ok()?;
            Some(Process { pid, started: started(pid)? })
        };
        self.leftovers.children = pids.iter().filter_map(process).collect();
        self.write_leftovers()
    }

    /// Removes all that is ours; the directory too, if nothing else is in it.
    pub(crate) fn clear(&self, keep_logs: bool) {
        self.remove_data();
        if !keep_logs {
            self.remove(&LOGS);
        }
        self.remove(&[LOCK]);
        // Fails, rightly, when something is left in it.
        let _left = std::fs::remove_dir(&self.path);
    }

    fn write_leftovers(&self) -> Result<(), StackError> {
        let path = self.path.join(CHILDREN);
        let text = serde_json::to_vec(&self.leftovers).map_err(std::io::Error::other).or_file("write", &path)?;
        write_private(&path, &text)
    }

    fn end_leftover_processes(&self) {
        for process in &self.leftovers.children {
            let deadline = Instant::now() + Duration::from_secs(5);
            while started(process.pid).as_ref() == Some(&process.started) && Instant::now() < deadline {
                let _gone = killpg(Pid::from_raw(process.pid), Signal::SIGKILL);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    fn remove_data(&self) {
        for name in FOLDERS {
            let _absent = std::fs::remove_dir_all(self.path.join(name));
        }
        for folder in &self.leftovers.folders {
            if folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(FOLDER_ELSEWHERE)) {
                let _absent = std::fs::remove_dir_all(folder);
            }
        }
        self.remove(&FILES);
        self.remove(&[CHILDREN]);
    }

    fn remove(&self, names: &[&str]) {
        for name in names {
            let _absent = std::fs::remove_file(self.path.join(name));
        }
    }
}

impl Drop for RunDir {
    /// Closing the file would not do: a child that is just being forked has a copy of it.
    fn drop(&mut self) {
        let _unlocked = self.lock.unlock();
    }
}

/// A record that cannot be read is no record: there is nothing more to learn from it.
fn read_leftovers(path: &Path) -> Leftovers {
    std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// When a live process was started, in whatever form the system tells it.
fn started(pid: i32) -> Option<String> {
    if Path::new("/proc/self/stat").exists() {
        // proc(5): after the command in parentheses come the state and, as 20th field from there, the start time.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.get(stat.rfind(')')?..)?.split_whitespace().skip(1);
        let alive = fields.next()? != "Z";
        return fields.nth(18).filter(|_| alive).map(str::to_owned);
    }
    let output = std::process::Command::new("ps").args(["-o", "lstart=", "-p", &pid.to_string()]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// Makes a directory that is not there yet.
pub(crate) fn fresh_folder(folder: &Path, mode: u32) -> Result<PathBuf, StackError> {
    DirBuilder::new().mode(mode).create(folder).or_file("create", folder)?;
    std::fs::set_permissions(folder, Permissions::from_mode(mode)).or_file("protect", folder)?;
    Ok(folder.to_owned())
}

/// Writes a file that only we may read, whole or not at all.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), StackError> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new).or_file("write", &new)?;
    file.set_permissions(Permissions::from_mode(0o600)).or_file("protect", &new)?;
    file.write_all(content).or_file("write", &new)?;
    std::fs::rename(&new, path).or_file("write", path)
}

/// The last lines of a log, for an error message.
pub(crate) fn tail(path: &Path) -> String {
    const BYTES: i64 = 8192;
    const LINES: usize = 15;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        if file.metadata()?.len() > BYTES.unsigned_abs() {
            file.seek(SeekFrom::End(-BYTES))?;
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_else(|error| format!("({error})"));
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stack_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunDir::claim(folder.path()).unwrap();
        let error = RunDir::claim(folder.path()).unwrap_err();
        assert!(error.to_string().contains("is used by another stack"), "{error}");
        drop(first);
        RunDir::claim(folder.path()).unwrap();
    }

    #[test]
    fn clears_what_is_ours_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let run_dir = RunDir::claim(&path).unwrap();
        run_dir.folder("postgres", 0o700).unwrap();
        std::fs::write(path.join("envoy.log"), "…").unwrap();
        std::fs::write(path.join("thesis.tex"), "mine").unwrap();
        run_dir.clear(false);
        let left: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["thesis.tex"]);
    }

    #[test]
    fn ends_what_a_killed_stack_left_behind() {
        use std::os::unix::process::CommandExt;
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let mut run_dir = RunDir::claim(folder.path()).unwrap();
        run_dir.own_processes(&[child.id()]).unwrap();
        drop(run_dir);
        RunDir::claim(folder.path()).unwrap();
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn spares_a_stranger_with_the_same_process_id() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let record = format!(r#"{{"children":[{{"pid":{},"started":"long ago"}}],"folders":[]}}"#, child.id());
        std::fs::write(folder.path().join(CHILDREN), record).unwrap();
        RunDir::claim(folder.path()).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
