//! The whole stack on this machine, without containers: real Envoy, control plane, echo backend, Valkey and Postgres. Several stacks can
//! run beside each other, given different run directories and port bases. A stack ends with the process that started it.

mod children;
pub mod compose;
mod containers;
mod cpu;
mod envoy;
mod error;
mod http;
mod options;
mod part;
mod postgres;
mod ready;
mod run_dir;
mod secrets;
mod services;
mod state;
pub mod stores;
mod supervisor;
pub mod tools;
mod valkey;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

pub use self::containers::Containers;
pub use self::cpu::cpu_time;
pub use self::error::StackError;
pub use self::options::{Copies, Options, PORT_BASE};
pub use self::part::{Part, PortError, Ports};
pub use self::state::{Pids, State};

use self::error::FileContext;
use self::postgres::Postgres;
use self::run_dir::{RunDir, tail};
pub(crate) use self::secrets::is_local_issuer;
use self::secrets::{ENVOY_ID, SECOND_ENVOY_ID, Secrets};
use self::supervisor::{Supervisor, lock};
use self::tools::Tools;

const STOP_TIME_OUT: Duration = Duration::from_secs(10);

/// A running stack. Dropping it stops it.
#[derive(Debug)]
pub struct Stack {
    whole: Whole,
    state: State,
}

/// What it consists of.
#[derive(Debug)]
enum Whole {
    Processes(Running),
    Containers(Containers),
}

impl Stack {
    /// Starts a stack and waits until it is ready.
    ///
    /// # Errors
    /// When a port is taken, something is missing, or a part does not get ready; what was started is stopped again, logs stay.
    pub fn start(options: Options) -> Result<Self, StackError> {
        Self::start_unless(options, &AtomicBool::new(false))
    }

    /// The same, but gives up when `cancel` becomes true.
    ///
    /// # Errors
    /// As `start`, and `Interrupted`.
    pub fn start_unless(options: Options, cancel: &AtomicBool) -> Result<Self, StackError> {
        let runtime = Runtime::of(&options)?;
        if runtime == Runtime::Compose && containers::can_have(&options) {
            let (containers, state) = Containers::start(&options)?;
            return Ok(Self { whole: Whole::Containers(containers), state });
        }
        let mut plan = Plan::make(options)?;
        let run_dir = RunDir::claim(&plan.options.run_dir)?;
        plan.options.run_dir = run_dir.path().to_owned();
        let mut running = Running {
            supervisor: Supervisor::start(run_dir, plan.options.quiet),
            ports: plan.ports,
            second: plan.second,
            // Until the stack is ready the logs are what an error message points to.
            keep_logs: true,
            stopped: false,
        };
        plan.ports.check_free(&plan.unused_ports())?;
        plan.second.check_free(&plan.unused_second_ports())?;
        let tools = plan.tools()?;
        plan.say("starting");
        let secrets = Secrets::make(&plan.options.run_dir)?;
        let postgres = plan.prepare_postgres(&running, &tools, &secrets)?;
        let launched = plan
            .launch_stores(&running, postgres, &tools, &secrets, cancel)
            .and_then(|()| plan.launch_services(&running, &secrets, cancel))
            .and_then(|()| plan.launch_envoys(&running, &tools, &secrets, cancel));
        running.keep_logs = plan.options.keep_logs || launched.as_ref().is_err_and(|error| !matches!(error, StackError::Interrupted));
        launched?;
        let state = plan.state(&running, secrets);
        running.publish(&state)?;
        Ok(Self { whole: Whole::Processes(running), state })
    }

    /// A stack that runs already, as containers. Dropping it leaves it as it is.
    ///
    /// # Errors
    /// The state file is none of a compose stack.
    pub fn attach(root: &Path, state: &Path) -> Result<Self, StackError> {
        let path = state;
        let state = State::read(path)?;
        let Some(project) = &state.compose_project else {
            return Err(StackError::Missing {
                path: path.to_owned(),
                remedy: "name the state file of a compose stack: `make up` starts one",
            });
        };
        Ok(Self { whole: Whole::Containers(Containers::of(root, &state, project)), state })
    }

    /// Where it can be reached, as it was when it became ready.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// The process ids as they are now.
    #[must_use]
    pub fn pids(&self) -> Pids {
        match &self.whole {
            Whole::Processes(running) => lock(running.supervisor.shared()).pids,
            Whole::Containers(containers) => containers.pids(),
        }
    }

    /// How often a part has ended by itself (or by `kill`) so far.
    #[must_use]
    pub fn exits(&self, part: Part) -> u32 {
        match &self.whole {
            Whole::Processes(running) => lock(running.supervisor.shared()).exits.get(&part).copied().unwrap_or_default(),
            Whole::Containers(containers) => containers.exits(part),
        }
    }

    /// Kills the process of a part (SIGKILL), to see what happens. The supervisor starts it again.
    ///
    /// # Errors
    /// When it does not run, or is not ours.
    pub fn kill(&self, part: Part) -> Result<(), StackError> {
        match &self.whole {
            Whole::Processes(running) => running.supervisor.signal(part, Signal::SIGKILL),
            Whole::Containers(containers) => containers.kill(part),
        }
    }

    /// Asks the process of a part to end (SIGTERM), as whatever runs it would. The supervisor starts it again.
    ///
    /// # Errors
    /// When it does not run, or is not ours.
    pub fn terminate(&self, part: Part) -> Result<(), StackError> {
        match &self.whole {
            Whole::Processes(running) => running.supervisor.signal(part, Signal::SIGTERM),
            Whole::Containers(containers) => containers.terminate(part),
        }
    }

    /// Halts the processes of a part (SIGSTOP), as a partition would, until `resume`.
    ///
    /// # Errors
    /// When it does not run, or is not ours.
    pub fn pause(&self, part: Part) -> Result<(), StackError> {
        match &self.whole {
            Whole::Processes(running) => running.supervisor.signal_all(part, Signal::SIGSTOP),
            Whole::Containers(containers) => containers.pause(part),
        }
    }

    /// Lets a halted part go on.
    ///
    /// # Errors
    /// When it does not run, or is not ours.
    pub fn resume(&self, part: Part) -> Result<(), StackError> {
        match &self.whole {
            Whole::Processes(running) => running.supervisor.signal_all(part, Signal::SIGCONT),
            Whole::Containers(containers) => containers.resume(part),
        }
    }

    /// Its containers, if that is what it consists of.
    #[must_use]
    pub const fn containers(&self) -> Option<&Containers> {
        match &self.whole {
            Whole::Processes(_) => None,
            Whole::Containers(containers) => Some(containers),
        }
    }

    /// Stops everything and removes its data.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // Processes stop when what holds them is dropped.
        if let Whole::Containers(containers) = &self.whole {
            if std::thread::panicking() {
                for (log, lines) in containers.tails() {
                    eprintln!("the last lines of {}:\n{lines}\n", log.display());
                }
            }
            containers.stop(std::thread::panicking());
        }
    }
}

/// Where Envoy runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runtime {
    Process,
    Docker,
    Compose,
}

impl Runtime {
    fn of(options: &Options) -> Result<Self, StackError> {
        match options.envoy_runtime.as_deref() {
            None => Ok(Self::Process),
            Some("docker") => Ok(Self::Docker),
            Some("compose") => Ok(Self::Compose),
            Some(value) => Err(StackError::Runtime { value: value.to_owned() }),
        }
    }
}

/// The repository that this library was built from.
#[must_use]
pub fn repository() -> PathBuf {
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR"));
    built_in.parent().unwrap_or(built_in).to_owned()
}

#[derive(Debug)]
struct Running {
    supervisor: Supervisor,
    ports: Ports,
    second: Ports,
    keep_logs: bool,
    stopped: bool,
}

impl Running {
    fn log(&self, part: Part) -> PathBuf {
        lock(self.supervisor.shared()).run_dir.join(&format!("{part}.log"))
    }

    fn publish(&self, state: &State) -> Result<(), StackError> {
        let mut shared = lock(self.supervisor.shared());
        state.write(&shared.run_dir.join("state.json"))?;
        shared.state = Some(state.clone());
        Ok(())
    }

    fn stop(&mut self) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        let deadline = Instant::now() + STOP_TIME_OUT;
        lock(self.supervisor.shared()).state = None;
        for (part, port) in [(Part::Envoy, self.ports.envoy_admin), (Part::SecondEnvoy, self.second.envoy_admin)] {
            if lock(self.supervisor.shared()).pids.of(part).is_some() {
                envoy::drain(port);
            }
        }
        for part in Part::ALL {
            self.supervisor.stop(part, deadline);
        }
        lock(self.supervisor.shared()).run_dir.clear(self.keep_logs || std::thread::panicking());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Where a test fails on another machine, what it prints is all that there is.
        if std::thread::panicking() && !self.stopped {
            for part in Part::ALL {
                let log = self.log(part);
                eprintln!("the last lines of {}:\n{}\n", log.display(), tail(&log));
            }
        }
        self.stop();
    }
}

/// What a start is going to do: options with every path absolute and checked.
#[derive(Debug)]
struct Plan {
    options: Options,
    ports: Ports,
    second: Ports,
    control_plane: PathBuf,
    backend: PathBuf,
    wasm: PathBuf,
}

impl Plan {
    fn make(mut options: Options) -> Result<Self, StackError> {
        let (ports, second) = (Ports::above(options.port_base)?, Ports::second(options.port_base)?);
        // Children run in directories of their own.
        options.root = existing(&options.root, "name the repository with --root")?;
        let envoy = options.envoy_bin.map(|envoy| existing(&envoy, "install it, or unset ENVOY_BIN to use the pinned one"));
        options.envoy_bin = envoy.transpose()?;
        let bin_dir = match options.bin_dir.take() {
            Some(folder) => folder,
            None => own_directory()?,
        };
        let remedy = "build it first: `make build`";
        let control_plane = existing(&bin_dir.join("control-plane"), remedy)?;
        let backend = existing(&bin_dir.join("echo-backend"), remedy)?;
        let built = || bin_dir.join("../wasm32-wasip1/release/plant_gateway.wasm");
        let wasm = existing(&options.wasm.take().unwrap_or_else(built), "build it first: `make build`, or name another with --wasm")?;
        options.policies = existing(&options.policies, "name the policy sources with --policies")?;
        options.envoy_template = existing(&options.envoy_template, "start in the repository, or name it with --root")?;
        Ok(Self { options, ports, second, control_plane, backend, wasm })
    }

    fn say(&self, line: &str) {
        if !self.options.quiet {
            eprintln!("{line}");
        }
    }

    fn unused_ports(&self) -> Vec<u16> {
        let postgres = self.options.database_url.as_ref().map(|_| self.ports.postgres);
        let valkey = self.options.redis_url.as_ref().map(|_| self.ports.valkey);
        postgres.into_iter().chain(valkey).collect()
    }

    fn unused_second_ports(&self) -> Vec<u16> {
        let Ports { pp, cp, plant, backend, admin, data_plane, envoy_admin, postgres, valkey, sandbox } = self.second;
        let envoy = (self.options.envoys == Copies::One).then_some([pp, cp, plant, envoy_admin]);
        let control_plane = (self.options.control_planes == Copies::One).then_some([admin, data_plane]);
        let shared = [backend, postgres, valkey, sandbox];
        shared.into_iter().chain(envoy.into_iter().flatten()).chain(control_plane.into_iter().flatten()).collect()
    }

    /// Installed servers; none is asked for when all have been named.
    fn tools(&self) -> Result<Tools, StackError> {
        let Options { database_url, redis_url, envoy_bin, .. } = &self.options;
        if let (Some(_), Some(_), Some(envoy)) = (database_url, redis_url, envoy_bin) {
            return Ok(Tools { envoy: envoy.clone(), valkey: PathBuf::new(), postgres_bin: PathBuf::new() });
        }
        Ok(tools::install(&self.options.root, &|line| self.say(line))?)
    }

    fn prepare_postgres(&self, running: &Running, tools: &Tools, secrets: &Secrets) -> Result<Option<Postgres>, StackError> {
        if self.options.database_url.is_some() {
            return Ok(None);
        }
        let run_dir = &mut lock(running.supervisor.shared()).run_dir;
        Postgres::prepare(run_dir, &tools.postgres_bin, self.ports.postgres, secrets).map(Some)
    }

    fn database_url(&self, secrets: &Secrets) -> String {
        self.options.database_url.clone().unwrap_or_else(|| Postgres::url(self.ports.postgres, secrets))
    }

    /// Of a database that is not ours nobody else is known.
    fn database_admin_url(&self, secrets: &Secrets) -> String {
        self.options.database_url.clone().unwrap_or_else(|| Postgres::admin_url(self.ports.postgres, secrets))
    }

    fn redis_url(&self, secrets: &Secrets) -> String {
        let ours = || valkey::url(self.ports.valkey, &secrets.valkey_password);
        self.options.redis_url.clone().unwrap_or_else(ours)
    }

    fn launch_stores(
        &self,
        running: &Running,
        postgres: Option<Postgres>,
        tools: &Tools,
        secrets: &Secrets,
        cancel: &AtomicBool,
    ) -> Result<(), StackError> {
        let Running { supervisor, .. } = running;
        if let Some(postgres) = &postgres {
            supervisor.launch(postgres.launch(running.log(Part::Postgres)))?;
        }
        let port = self.ports.valkey;
        if self.options.redis_url.is_none() {
            let log = running.log(Part::Valkey);
            let launch = {
                let shared = lock(supervisor.shared());
                valkey::launch(&shared.run_dir, &tools.valkey, port, &secrets.valkey_password, log)?
            };
            supervisor.launch(launch)?;
        }
        if let Some(postgres) = &postgres {
            ready::wait(supervisor.shared(), Part::Postgres, running.log(Part::Postgres), cancel, || postgres.check())?;
        }
        if self.options.redis_url.is_none() {
            let check = || valkey::check(port, &secrets.valkey_password);
            ready::wait(supervisor.shared(), Part::Valkey, running.log(Part::Valkey), cancel, check)?;
        }
        Ok(())
    }

    fn launch_services(&self, running: &Running, secrets: &Secrets, cancel: &AtomicBool) -> Result<(), StackError> {
        let Running { supervisor, ports, .. } = running;
        let log = running.log(Part::Backend);
        let backend = services::backend(&lock(supervisor.shared()).run_dir, self.backend.clone(), *ports, log.clone());
        supervisor.launch(backend)?;
        self.launch_control_plane(running, Part::ControlPlane, self.ports, secrets, cancel)?;
        ready::wait(supervisor.shared(), Part::Backend, log, cancel, || {
            ready::answers(ports.backend, "/__echo/count", 200)?;
            ready::answers(ports.sandbox, "/__echo/count", 200)
        })?;
        match self.options.control_planes {
            Copies::One => Ok(()),
            Copies::Two => self.launch_control_plane(running, Part::SecondControlPlane, self.second, secrets, cancel),
        }
    }

    fn launch_control_plane(
        &self,
        running: &Running,
        part: Part,
        ports: Ports,
        secrets: &Secrets,
        cancel: &AtomicBool,
    ) -> Result<(), StackError> {
        let control_plane = services::ControlPlane {
            part,
            program: self.control_plane.clone(),
            ports,
            database_url: &self.database_url(secrets),
            redis_url: &self.redis_url(secrets),
            policies: &self.options.policies,
            secrets,
            more: &self.options.control_plane_env,
        };
        let (log, shared) = (running.log(part), running.supervisor.shared());
        let launch = control_plane.launch(&lock(shared).run_dir, log.clone());
        running.supervisor.launch(launch)?;
        ready::wait(shared, part, log, cancel, || {
            ready::answers(ports.admin, "/ready", 200)?;
            ready::answers(ports.data_plane, "/ready", 200)
        })
    }

    fn launch_envoys(&self, running: &Running, tools: &Tools, secrets: &Secrets, cancel: &AtomicBool) -> Result<(), StackError> {
        let first = envoy::Settings {
            part: Part::Envoy,
            id: ENVOY_ID,
            program: self.options.envoy_bin.as_deref().unwrap_or(&tools.envoy),
            template: &self.options.envoy_template,
            wasm: &self.wasm,
            concurrency: self.options.concurrency,
            token: &secrets.data_plane_token,
            ports: self.ports,
            container: Runtime::of(&self.options)? != Runtime::Process,
        };
        launch_envoy(running, &first, cancel)?;
        match self.options.envoys {
            Copies::One => Ok(()),
            Copies::Two => {
                // Both ask the same control plane, unless the template says otherwise.
                let ports = Ports { data_plane: self.ports.data_plane, ..self.second };
                let token = &secrets.second_data_plane_token;
                launch_envoy(running, &envoy::Settings { part: Part::SecondEnvoy, id: SECOND_ENVOY_ID, token, ports, ..first }, cancel)
            }
        }
    }

    fn state(&self, running: &Running, secrets: Secrets) -> State {
        let Ports { backend, admin, data_plane, envoy_admin, sandbox, .. } = self.ports;
        let shared = lock(running.supervisor.shared());
        State {
            gateways: gateway_urls(self.ports),
            second_gateways: if self.options.envoys == Copies::Two { gateway_urls(self.second) } else { BTreeMap::new() },
            second_admin: (self.options.control_planes == Copies::Two).then(|| url(self.second.admin)),
            backend: url(backend),
            sandbox: url(sandbox),
            admin: url(admin),
            data_plane: url(data_plane),
            envoy_admin: url(envoy_admin),
            database_url: self.database_url(&secrets),
            database_admin_url: self.database_admin_url(&secrets),
            redis_url: self.redis_url(&secrets),
            admin_token: secrets.admin_token,
            issuers: secrets.issuers,
            pids: shared.pids,
            registration_key: secrets.registration_key,
            envoy_id: ENVOY_ID.to_owned(),
            data_plane_token: secrets.data_plane_token,
            run_dir: shared.run_dir.path().to_owned(),
            access_log: envoy::access_log(&shared.run_dir, Part::Envoy),
            second_access_log: envoy::access_log(&shared.run_dir, Part::SecondEnvoy),
            audit_key: secrets.audit_key.clone(),
            audit_checkpoints: services::audit_checkpoints(&shared.run_dir, Part::ControlPlane),
            compose_project: None,
        }
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn gateway_urls(ports: Ports) -> BTreeMap<String, String> {
    let Ports { cp, pp, plant, .. } = ports;
    [("CP", cp), ("PP", pp), ("PLANT", plant)].into_iter().map(|(name, port)| (name.to_owned(), url(port))).collect()
}

fn launch_envoy(running: &Running, settings: &envoy::Settings<'_>, cancel: &AtomicBool) -> Result<(), StackError> {
    let log = running.log(settings.part);
    let shared = running.supervisor.shared();
    let launch = envoy::launch(&lock(shared).run_dir, settings, log.clone())?;
    running.supervisor.launch(launch)?;
    let Ports { cp, pp, plant, .. } = settings.ports;
    ready::wait(shared, settings.part, log, cancel, || [cp, pp, plant].into_iter().try_for_each(ready::gateway))
}

/// Where our own executable is; test executables are one directory deeper.
fn own_directory() -> Result<PathBuf, StackError> {
    let executable = std::env::current_exe().or_file("find", Path::new("our own executable"))?;
    let folder = executable.parent().unwrap_or(&executable);
    let above = folder.parent().filter(|_| folder.ends_with("deps"));
    Ok(above.unwrap_or(folder).to_owned())
}

fn existing(path: &Path, remedy: &'static str) -> Result<PathBuf, StackError> {
    path.canonicalize().map_err(|_| StackError::Missing { path: path.to_owned(), remedy })
}
