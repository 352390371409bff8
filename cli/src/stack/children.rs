//! Starting a process so that it cannot outlive us.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::part::Part;

/// The engine tells the process of a container once it has started it.
const CONTAINER_TIME_OUT: Duration = Duration::from_secs(10);

/// Whom a process runs as, where that is not us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// How to start and stop one part.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) part: Part,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// The name of the container that the program, which is then `docker run`, starts and waits for.
    pub(crate) container: Option<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) account: Option<Account>,
    pub(crate) directory: PathBuf,
    pub(crate) log: PathBuf,
    /// A lock file of its own. Killed in the moment in which it writes it, the part leaves it empty, and would never start again.
    pub(crate) lock: Option<PathBuf>,
    /// What asks it to stop.
    pub(crate) stop: Signal,
    /// How long it may take to stop before it is killed.
    pub(crate) patience: Duration,
}

impl Launch {
    /// Starts it. INVARIANT (parent thread): the calling thread must live as long as the child may, see `tie`.
    pub(crate) fn spawn(&self) -> std::io::Result<Child> {
        if let Some(container) = &self.container {
            remove_container(container);
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        if let Some(lock) = self.lock.as_ref().filter(|lock| lock.metadata().is_ok_and(|lock| lock.len() == 0)) {
            std::fs::remove_file(lock)?;
        }
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(&self.directory).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Some(account) = self.account {
            command.uid(account.uid).gid(account.gid);
        }
        tie(&mut command);
        command.spawn()
    }

    /// The process that does the work: not the one that waits for a container.
    pub(crate) fn process(&self, child: &Child) -> u32 {
        let deadline = Instant::now() + CONTAINER_TIME_OUT;
        while let Some(container) = &self.container
            && Instant::now() < deadline
        {
            let output = Command::new("docker").args(["inspect", "--format", "{{.State.Pid}}", container]).output();
            let pid = output.ok().and_then(|output| String::from_utf8_lossy(&output.stdout).trim().parse().ok());
            if let Some(pid) = pid.filter(|pid| *pid != 0) {
                return pid;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        child.id()
    }
}

/// Killing the `docker run` that waits for a container does not end the container.
pub(crate) fn remove_container(container: &str) {
    let _none = Command::new("docker").args(["rm", "--force", container]).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// Puts a child in a process group of its own, so that Ctrl-C reaches us alone and its children can be found, and on Linux lets it die
/// with us. The kernel sends that signal when the *thread* that started the child ends. Elsewhere the next start cleans up.
pub(crate) fn tie(command: &mut Command) {
    command.process_group(0);
    #[cfg(target_os = "linux")]
    {
        let parent = nix::unistd::getpid();
        let die_with_parent = move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            if nix::unistd::getppid() == parent { Ok(()) } else { Err(nix::errno::Errno::ESRCH.into()) }
        };
        #[expect(unsafe_code, reason = "std offers no safe way to run prctl(PR_SET_PDEATHSIG) in the child")]
        // SAFETY: between fork and exec the closure makes two system calls, prctl and getppid, both async-signal-safe; it neither
        // allocates nor takes locks, and captures one integer. std runs it after setuid, which would have cleared the setting.
        unsafe {
            command.pre_exec(die_with_parent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_was_cut_off_keeps_nobody_from_starting_and_a_whole_one_stays() {
        let home = tempfile::tempdir().unwrap();
        let lock = home.path().join("lock");
        let launch = Launch {
            part: Part::Postgres,
            program: "true".into(),
            arguments: Vec::new(),
            container: None,
            environment: Vec::new(),
            account: None,
            directory: home.path().to_owned(),
            log: home.path().join("log"),
            lock: Some(lock.clone()),
            stop: Signal::SIGTERM,
            patience: Duration::from_secs(1),
        };
        for (content, left) in [(None, false), (Some(""), false), (Some("17\n"), true)] {
            if let Some(content) = content {
                std::fs::write(&lock, content).unwrap();
            }
            launch.spawn().unwrap().wait().unwrap();
            assert_eq!(lock.exists(), left, "{content:?}");
        }
    }
}
