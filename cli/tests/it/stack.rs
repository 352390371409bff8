//! The stack starts, heals, and leaves nothing behind. Real Envoy, Postgres and Valkey; stand-ins for our own two programs, which are
//! tested elsewhere.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cli::stack::{Options, Part, Stack, State, repository};
use cli::token::{TokenSpec, mint};

struct Place {
    home: tempfile::TempDir,
    port_base: u16,
}

impl Place {
    fn new(port_base: u16) -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        std::fs::copy(fixtures.join("part.py"), home.path().join("control-plane")).unwrap();
        std::fs::set_permissions(home.path().join("control-plane"), std::fs::Permissions::from_mode(0o755)).unwrap();
        symlink(home.path().join("control-plane"), home.path().join("echo-backend")).unwrap();
        symlink(fixtures.join("envoy.yaml"), home.path().join("envoy.yaml")).unwrap();
        std::fs::create_dir(home.path().join("policies")).unwrap();
        std::fs::write(home.path().join("filter.wasm"), b"").unwrap();
        Self { home, port_base }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn options(&self) -> Options {
        let mut options = Options::new(&repository());
        options.port_base = self.port_base;
        options.run_dir = self.path("run");
        options.policies = self.path("policies");
        options.wasm = Some(self.path("filter.wasm"));
        options.envoy_template = self.path("envoy.yaml");
        options.bin_dir = Some(self.home.path().to_owned());
        options.control_plane_env = vec![("EXTRA".to_owned(), "seen".to_owned())];
        options.quiet = true;
        options
    }

    /// `plant-gateway run` as its users start it.
    fn run(&self) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plant-gateway"));
        command.args(["run", "--port-base", &self.port_base.to_string(), "--root"]).arg(repository());
        command.arg("--run-dir").arg(self.path("run")).arg("--policies").arg(self.path("policies"));
        command.arg("--wasm").arg(self.path("filter.wasm")).arg("--envoy-template").arg(self.path("envoy.yaml"));
        command.arg("--bin-dir").arg(self.home.path()).env("EXTRA", "seen");
        // Every part is to be its own, also where the tests of stores have some, and a process, also where the suite runs on containers.
        for name in ["DATABASE_URL", "REDIS_URL", "ENVOY_BIN", "ENVOY_RUNTIME"] {
            command.env_remove(name);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn wait_for_state(&self, child: &mut Child) -> State {
        let file = self.path("run/state.json");
        eventually("state.json is written", || {
            assert!(child.try_wait().unwrap().is_none(), "plant-gateway run ended");
            file.exists()
        });
        State::read(&file).unwrap()
    }
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "in a minute: {what}");
        std::thread::sleep(Duration::from_millis(25));
    }
}

fn pids(state: &State) -> Vec<u32> {
    let all = [Part::Envoy, Part::ControlPlane, Part::Backend, Part::Valkey, Part::Postgres];
    all.into_iter().map(|part| state.pids.of(part).expect("every part is ours")).collect()
}

fn alive(pid: u32) -> bool {
    let status = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().unwrap();
    let status = String::from_utf8_lossy(&status.stdout).trim().to_owned();
    !status.is_empty() && !status.starts_with('Z')
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

#[test]
fn starts_heals_and_stops() {
    let place = Place::new(31_000);
    let stack = Stack::start(place.options()).unwrap();
    let state = stack.state().clone();
    assert_eq!(state.gateways["CP"], "http://127.0.0.1:31015");
    let file = place.path("run/state.json");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    mint(&state.issuers["cp"], &TokenSpec::new("ann", &["viewer"])).unwrap();
    let log = std::fs::read_to_string(place.path("run/control-plane.log")).unwrap();
    assert!(log.contains("EXTRA seen") && log.contains("DATA_PLANE_TOKENS_FILE /"), "{log}");

    let second = Stack::start(place.options()).unwrap_err().to_string();
    assert!(second.contains("is used by another stack"), "{second}");
    let elsewhere = Options { run_dir: place.path("run-2"), ..place.options() };
    let second = Stack::start(elsewhere).unwrap_err().to_string();
    assert!(second.contains("port 31015 (gateway CP) is already in use"), "{second}");

    for part in [Part::Postgres, Part::Valkey, Part::ControlPlane, Part::Backend, Part::Envoy] {
        let old = stack.pids().of(part).unwrap();
        stack.kill(part).unwrap();
        eventually("the part is back", || stack.pids().of(part).is_some_and(|new| new != old));
        assert!(stack.exits(part) >= 1);
        eventually("state.json has the new process", || State::read(&file).is_ok_and(|state| state.pids == stack.pids()));
    }
    let state = State::read(&file).unwrap();
    stack.stop();
    assert!(pids(&state).into_iter().all(|pid| !alive(pid)));
    assert!(!place.path("run").exists());
    assert!(place.path("run-2").read_dir().is_err(), "a refused start leaves nothing");
}

#[test]
fn ends_on_sigterm_and_leaves_nothing() {
    let place = Place::new(32_000);
    let mut child = place.run();
    let state = place.wait_for_state(&mut child);
    signal(child.id(), "-TERM");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("gateway PLANT  http://127.0.0.1:32090") && said.contains("agent_orchestrator (issuer pp)"), "{said}");
    assert!(pids(&state).into_iter().all(|pid| !alive(pid)));
    assert!(!place.path("run").exists());
}

#[test]
fn starts_again_after_it_was_killed() {
    let place = Place::new(14_000);
    let mut child = place.run();
    let state = place.wait_for_state(&mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    if cfg!(target_os = "linux") {
        eventually("the kernel ends the parts", || pids(&state).into_iter().all(|pid| !alive(pid)));
    }
    assert!(place.path("run/state.json").exists());
    let stack = Stack::start(place.options()).unwrap();
    assert!(pids(&state).into_iter().all(|pid| !alive(pid)));
    drop(stack);
    assert!(!place.path("run").exists());
}

#[test]
fn tells_which_part_does_not_start_and_why() {
    let place = Place::new(13_000);
    std::fs::write(place.path("control-plane"), "#!/bin/sh\necho no such thing as luck >&2\nexit 3\n").unwrap();
    std::fs::remove_file(place.path("echo-backend")).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/part.py");
    std::fs::copy(&fixture, place.path("echo-backend")).unwrap();
    std::fs::set_permissions(place.path("echo-backend"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = Stack::start(place.options()).unwrap_err().to_string();
    assert!(error.contains("control-plane is not ready: it ended 4 times"), "{error}");
    assert!(error.contains("no such thing as luck"), "{error}");
    assert!(place.path("run/control-plane.log").exists() && !place.path("run/secrets").exists());
}

#[test]
fn says_what_has_to_be_built() {
    let place = Place::new(15_000);
    std::fs::remove_file(place.path("control-plane")).unwrap();
    let error = Stack::start(place.options()).unwrap_err().to_string();
    assert!(error.contains("control-plane` is missing; build it first: `make build`"), "{error}");
}
