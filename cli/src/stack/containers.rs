//! A stack of containers: what `tools/compose up` starts, and what can be done to it.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::children::tie;
use super::error::{FileContext, StackError};
use super::options::Options;
use super::part::{Part, Ports};
use super::run_dir::tail;
use super::state::{Pids, State};
use super::supervisor::{BACKOFF_MAX, BACKOFF_MIN, HEALTHY_AFTER};

/// What docker-compose.yml takes from the environment for the control plane.
const PASSED_ON: [&str; 1] = ["HOLDER_SILENCE_S"];
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The containers of one compose project.
#[derive(Debug)]
pub struct Containers {
    root: PathBuf,
    directory: PathBuf,
    project: String,
    environment: Vec<(String, String)>,
    /// Started by us, so stopped by us, with all data.
    ours: bool,
    /// Nothing more is to be started or written down.
    quiet: Arc<AtomicBool>,
    shared: Mutex<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    exits: BTreeMap<Part, u32>,
    /// When each ended last, and how long it was away.
    ended: BTreeMap<Part, (Instant, Duration)>,
    /// What copies the logs of containers into files.
    followers: Vec<JoinHandle<()>>,
    stopped: bool,
}

impl Shared {
    /// How long it stays away now, as the supervisor of processes has it.
    fn ended(&mut self, part: Part) -> Duration {
        *self.exits.entry(part).or_default() += 1;
        let before = self.ended.get(&part).filter(|(when, away)| when.elapsed() < HEALTHY_AFTER.saturating_add(*away));
        let away = before.map_or(BACKOFF_MIN, |(_, away)| away.saturating_mul(2).min(BACKOFF_MAX));
        self.ended.insert(part, (Instant::now(), away));
        away
    }
}

/// Whether docker-compose.yml can be told what these options ask for. It has no place for what listens in the process of a test.
pub(crate) fn can_have(options: &Options) -> bool {
    let Options { root, control_plane_env, envoy_template, wasm, bin_dir, database_url, redis_url, envoy_bin, .. } = options;
    options.envoys == super::Copies::One
        && options.control_planes == super::Copies::One
        && options.concurrency == 2
        && control_plane_env.iter().all(|(name, _)| PASSED_ON.contains(&name.as_str()))
        && *envoy_template == root.join("envoy/bootstrap.yaml")
        && [wasm, bin_dir, envoy_bin].iter().all(|path| path.is_none())
        && [database_url, redis_url].iter().all(|url| url.is_none())
}

impl Containers {
    /// Starts a project of its own for these options, ready.
    pub(crate) fn start(options: &Options) -> Result<(Self, State), StackError> {
        let ports = Ports::above(options.port_base)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&options.run_dir).or_file("create", &options.run_dir)?;
        let directory = options.run_dir.canonicalize().or_file("resolve", &options.run_dir)?;
        let project = format!("plant-gateway-{}", options.port_base);
        let policies = options.policies.canonicalize().or_file("find", &options.policies)?;
        let mut environment = options.control_plane_env.clone();
        let ours = [
            ("COMPOSE_DIRECTORY", directory.display().to_string()),
            ("COMPOSE_POLICIES", policies.display().to_string()),
            ("COMPOSE_PROJECT_NAME", project.clone()),
            ("COMPOSE_PROFILES", "test".to_owned()),
            ("PORT_BASE", options.port_base.to_string()),
        ];
        environment.extend(ours.map(|(name, value)| (name.to_owned(), value)));
        let containers = Self {
            root: options.root.clone(),
            directory,
            project,
            environment,
            ours: true,
            quiet: Arc::default(),
            shared: Mutex::new(Shared::default()),
        };
        // Of one that was killed.
        containers.remove();
        ports.check_free(&[])?;
        let started = containers.run(&["up"])?;
        if !started.status.success() {
            containers.follow_all();
            containers.end_followers();
            let told = containers.told(&started);
            containers.remove();
            return Err(StackError::Compose { output: told });
        }
        let state = State::read(&containers.directory.join("state.json")).inspect_err(|_| containers.remove())?;
        containers.follow_all();
        Ok((containers, state))
    }

    /// One that somebody else has started.
    pub(crate) fn of(root: &Path, state: &State, project: &str) -> Self {
        Self {
            root: root.to_owned(),
            directory: state.run_dir.clone(),
            project: project.to_owned(),
            environment: Vec::new(),
            ours: false,
            quiet: Arc::default(),
            shared: Mutex::new(Shared::default()),
        }
    }

    pub(crate) fn pids(&self) -> Pids {
        let mut pids = Pids::default();
        for part in Part::ALL {
            pids.set(part, self.pid(part));
        }
        pids
    }

    pub(crate) fn exits(&self, part: Part) -> u32 {
        self.lock().exits.get(&part).copied().unwrap_or_default()
    }

    /// Kills it; it is back in a moment.
    pub(crate) fn kill(&self, part: Part) -> Result<(), StackError> {
        self.end(part, "KILL")
    }

    /// Asks it to end, in its own order; it is back in a moment.
    pub(crate) fn terminate(&self, part: Part) -> Result<(), StackError> {
        self.end(part, "TERM")
    }

    /// The engine does not bring back by itself what was ended through it.
    fn end(&self, part: Part, signal: &str) -> Result<(), StackError> {
        let id = self.container(part)?;
        self.docker(part, &["kill", "--signal", signal, &id])?;
        let away = self.lock().ended(part);
        let quiet = Arc::clone(&self.quiet);
        std::thread::spawn(move || {
            let docker = |word: &str| Command::new("docker").args([word, &id]).stdout(Stdio::null()).stderr(Stdio::null()).status();
            let _ended = docker("wait");
            std::thread::sleep(away);
            if !quiet.load(Ordering::Relaxed) && !docker("start").is_ok_and(|status| status.success()) {
                eprintln!("warning: {part} cannot be started again");
            }
        });
        Ok(())
    }

    pub(crate) fn pause(&self, part: Part) -> Result<(), StackError> {
        self.docker(part, &["pause", &self.container(part)?]).map(drop)
    }

    pub(crate) fn resume(&self, part: Part) -> Result<(), StackError> {
        self.docker(part, &["unpause", &self.container(part)?]).map(drop)
    }

    /// Restarts it in order, as `docker compose restart` does.
    ///
    /// # Errors
    /// It does not run.
    pub fn restart(&self, part: Part) -> Result<(), StackError> {
        self.docker(part, &["restart", "--time", "12", &self.container(part)?]).map(drop)
    }

    /// Runs `tools/compose` on the project.
    ///
    /// # Errors
    /// It fails.
    pub fn compose(&self, arguments: &[&str]) -> Result<(), StackError> {
        let output = self.run(arguments)?;
        if output.status.success() { Ok(()) } else { Err(StackError::Compose { output: self.told(&output) }) }
    }

    /// The memory that a part uses, in bytes, as `docker stats` counts it: without files that can be read again.
    ///
    /// # Errors
    /// It does not run.
    pub fn memory(&self, part: Part) -> Result<u64, StackError> {
        let text = self.docker(part, &["stats", "--no-stream", "--format", "{{.MemUsage}}", &self.container(part)?])?;
        bytes(text.split('/').next().unwrap_or_default().trim()).ok_or(StackError::Docker { part, output: text })
    }

    /// How a part ended that does not run any more: its exit status.
    ///
    /// # Errors
    /// There is none.
    pub fn exit_code(&self, part: Part) -> Result<i32, StackError> {
        let text = self.inspect(part, "{{.State.ExitCode}}")?;
        text.parse().map_err(|_| StackError::Docker { part, output: text })
    }

    /// Its addresses in the project's own networks, which this machine reaches.
    ///
    /// # Errors
    /// It does not run.
    pub fn addresses(&self, part: Part) -> Result<Vec<String>, StackError> {
        let text = self.inspect(part, "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}")?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    }

    pub(crate) fn stop(&self, keep_logs: bool) {
        if std::mem::replace(&mut self.lock().stopped, true) || !self.ours {
            return;
        }
        self.end_followers();
        self.remove();
        if !keep_logs {
            let _absent = std::fs::remove_dir_all(&self.directory);
        }
    }

    /// The last lines of every log, for who cannot look at this machine.
    pub(crate) fn tails(&self) -> Vec<(PathBuf, String)> {
        Part::ALL.into_iter().map(|part| self.log(part)).filter(|log| log.exists()).map(|log| (log.clone(), tail(&log))).collect()
    }

    fn remove(&self) {
        if self.directory.join("compose.env").exists() {
            // What they hold is thrown away: nobody has to stop in order.
            let _none = self.run(&["kill"]);
            let _none = self.run(&["down", "--volumes", "--timeout", "0"]);
        }
        // What is in the way of a new password: the files that belong to the old database.
        for name in ["state.json", "compose.env", "secrets", "access-logs", "checkpoints"] {
            let path = self.directory.join(name);
            let _absent = std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path));
        }
    }

    fn run(&self, arguments: &[&str]) -> Result<Output, StackError> {
        let mut command = Command::new(self.root.join("tools/compose"));
        command.args(arguments).envs(self.environment.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command.output().or_file("run", &self.root.join("tools/compose"))
    }

    fn told(&self, output: &Output) -> String {
        let mut text = String::from_utf8_lossy(&output.stderr).into_owned();
        for (log, lines) in self.tails() {
            text.push_str(&format!("\n--- the end of {} ---\n{lines}", log.display()));
        }
        text
    }

    fn pid(&self, part: Part) -> Option<u32> {
        self.inspect(part, "{{.State.Pid}}").ok()?.parse().ok().filter(|pid| *pid != 0)
    }

    fn inspect(&self, part: Part, format: &str) -> Result<String, StackError> {
        self.docker(part, &["inspect", "--format", format, &self.container(part)?])
    }

    /// Its id. Replicas are numbered.
    fn container(&self, part: Part) -> Result<String, StackError> {
        let (service, number) = match part {
            Part::SecondControlPlane => (Part::ControlPlane.name(), 2),
            Part::Envoy | Part::ControlPlane | Part::Backend | Part::Valkey | Part::Postgres | Part::SecondEnvoy => (part.name(), 1),
        };
        let labels = [
            format!("label=com.docker.compose.project={}", self.project),
            format!("label=com.docker.compose.service={service}"),
            format!("label=com.docker.compose.container-number={number}"),
        ];
        let mut command = Command::new("docker");
        command.args(["ps", "--all", "--quiet"]).args(labels.iter().flat_map(|label| ["--filter", label]));
        let output = command.output().or_file("run", Path::new("docker"))?;
        let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if id.is_empty() { Err(StackError::NotRunning { part }) } else { Ok(id) }
    }

    /// What `docker` says, without blanks around it.
    fn docker(&self, part: Part, arguments: &[&str]) -> Result<String, StackError> {
        let output = Command::new("docker").args(arguments).output().or_file("run", Path::new("docker"))?;
        let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(told(&output.stdout)) } else { Err(StackError::Docker { part, output: told(&output.stderr) }) }
    }

    fn log(&self, part: Part) -> PathBuf {
        self.directory.join(format!("{part}.log"))
    }

    /// Copies every container's log into the file that a process would have.
    fn follow_all(&self) {
        for part in Part::ALL {
            if let Ok(id) = self.container(part) {
                let (log, quiet) = (self.log(part), Arc::clone(&self.quiet));
                self.lock().followers.push(std::thread::spawn(move || follow(&id, &log, &quiet)));
            }
        }
    }

    fn end_followers(&self) {
        self.quiet.store(true, Ordering::Relaxed);
        let followers = std::mem::take(&mut self.lock().followers);
        for follower in followers {
            let _ended = follower.join();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `104.5MiB`.
fn bytes(text: &str) -> Option<u64> {
    let unit = text.find(|character: char| character.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit);
    let factor = match unit {
        "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * factor;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of bytes, far below the limits of both")]
    (bytes.is_finite() && bytes >= 0.0).then_some(bytes as u64)
}

/// Copies what a container writes into a file, across its restarts.
fn follow(id: &str, log: &Path, quiet: &AtomicBool) {
    let mut since = Duration::ZERO;
    while !quiet.load(Ordering::Relaxed) {
        let Ok(mut reader) = read_log(id, log, since) else { return };
        while matches!(reader.try_wait(), Ok(None)) && !quiet.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK_EVERY);
        }
        since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let _ended = reader.kill().and_then(|()| reader.wait());
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Ends with the container. Its two streams go into one file, as those of a process do.
fn read_log(id: &str, log: &Path, since: Duration) -> std::io::Result<Child> {
    let file = OpenOptions::new().create(true).append(true).open(log)?;
    let mut command = Command::new("docker");
    command.args(["logs", "--follow", "--since", &since.as_secs_f64().to_string(), id]);
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    tie(&mut command);
    command.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_its_units() {
        assert_eq!(
            (bytes("104.5MiB"), bytes("512B"), bytes("1.5KiB"), bytes("2GiB")),
            (Some(109_576_192), Some(512), Some(1_536), Some(2_147_483_648))
        );
        assert_eq!((bytes("--"), bytes("7"), bytes("7XB")), (None, None, None));
    }

    #[test]
    fn what_compose_has_no_place_for_is_told_apart() {
        let standard = Options::new(&super::super::repository());
        assert!(can_have(&standard));
        let silent = Options { control_plane_env: vec![("HOLDER_SILENCE_S".to_owned(), "8".to_owned())], ..standard.clone() };
        assert!(can_have(&silent));
        for other in [
            Options { control_plane_env: vec![("JWKS_HOSTS".to_owned(), "127.0.0.1:9".to_owned())], ..standard.clone() },
            Options { envoys: super::super::Copies::Two, ..standard.clone() },
            Options { envoy_template: "other.yaml".into(), ..standard.clone() },
            Options { wasm: Some("other.wasm".into()), ..standard },
        ] {
            assert!(!can_have(&other), "{other:?}");
        }
    }
}
