//! The scripts that start, stop and check Envoy in its container, against stand-ins that misbehave as no real part does on request.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use cli::stack::repository;
use tempfile::TempDir;

/// The answer to a method and a path: status and body. `None` never answers.
type Answer = fn(&str) -> Option<(u16, &'static str)>;

/// Answers on a port of its own, and keeps what it was asked.
struct Party {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Party {
    fn new(answer: Answer) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::default();
        let kept = Arc::clone(&asked);
        std::thread::spawn(move || serve(&listener, answer, &kept));
        Self { port, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(listener: &TcpListener, answer: Answer, asked: &Mutex<Vec<String>>) {
    // Who is not answered is held until the test ends.
    let mut silent = Vec::new();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let request = lines.next().unwrap().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
        let _headers = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).count();
        asked.lock().unwrap().push(request.clone());
        match answer(&request) {
            Some((status, body)) => write!(stream, "HTTP/1.1 {status} -\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap(),
            None => silent.push(stream),
        }
    }
}

fn enforcing(request: &str) -> Option<(u16, &'static str)> {
    Some(match request {
        "GET /ready" => (200, "LIVE"),
        _ => (200, "wasmcustom.gateway.bundle_activation: 1\nwasmcustom.gateway.sync_calls_total: 7\n"),
    })
}

fn guarded(request: &str) -> Option<(u16, &'static str)> {
    Some(if request == "GET /ready" { (200, "{}") } else { (400, r#"{"check":"path"}"#) })
}

fn script(name: &str, state: &TempDir) -> Command {
    let mut command = Command::new("bash");
    command.arg(repository().join("deploy").join(name)).env("TMPDIR", state.path());
    command
}

fn healthy(state: &TempDir, admin: u16, gateways: &[u16]) -> Output {
    let ports = gateways.iter().map(u16::to_string);
    script("envoy/healthy", state).arg(admin.to_string()).args(ports).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_envoy_that_guards_is_healthy_and_its_gateways_are_asked_once() {
    let (state, admin, gateway) = (TempDir::new().unwrap(), Party::new(enforcing), Party::new(guarded));
    for _ in 0..3 {
        let output = healthy(&state, admin.port, &[gateway.port]);
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_eq!(gateway.asked(), ["GET /ready", "GET //"]);
}

/// Says that a check failed, and why.
fn fails(output: &Output, why: &str) {
    assert!(!output.status.success() && said(output).contains(why), "{}", said(output));
}

#[test]
fn an_envoy_without_a_policy_or_a_control_plane_is_not_healthy() {
    const CASES: [(Answer, &str); 3] = [
        (|_| Some((200, "wasmcustom.gateway.bundle_activation: 0\nwasmcustom.gateway.sync_calls_total: 7\n")), "has no bundle"),
        (|_| Some((200, "wasmcustom.gateway.bundle_activation: 1\n")), "does not count its calls"),
        (|_| Some((503, "PRE_INITIALIZING")), "not live: 503"),
    ];
    for (admin, why) in CASES {
        let (state, gateway) = (TempDir::new().unwrap(), Party::new(guarded));
        fails(&healthy(&state, Party::new(admin).port, &[gateway.port]), why);
        assert!(gateway.asked().is_empty());
    }
}

#[test]
fn a_gateway_that_lets_everything_pass_is_not_healthy() {
    let (state, admin, open) = (TempDir::new().unwrap(), Party::new(enforcing), Party::new(|_| Some((200, "{}"))));
    let output = healthy(&state, admin.port, &[open.port]);
    fails(&output, "what the filter refuses is answered 200");
}

#[test]
fn a_filter_that_has_stopped_calling_is_not_healthy() {
    let (state, admin) = (TempDir::new().unwrap(), Party::new(enforcing));
    fs::write(state.path().join("guarded"), "").unwrap();
    let silent_since = |seconds: u64| {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        fs::write(state.path().join("calls"), format!("7 {}\n", now - seconds)).unwrap();
        healthy(&state, admin.port, &[])
    };
    assert!(silent_since(30).status.success(), "an idle worker calls every 20 s");
    fails(&silent_since(50), "has not called the control plane");
}

#[test]
fn an_envoy_that_is_gone_is_not_healthy() {
    let state = TempDir::new().unwrap();
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    fails(&healthy(&state, free, &[]), "not live: no answer");
}

/// One look with `deploy/compose/look`, which pauses for a second: whether all was well, and how long it took.
fn look(state: &TempDir, command: &str) -> (bool, Duration) {
    let begun = Instant::now();
    let output = script("compose/look", state).args(["sh", "-c", command]).env("PAUSE_S", "1").output().unwrap();
    (output.status.success(), begun.elapsed())
}

#[test]
fn the_first_look_waits_for_a_start_and_later_ones_pause() {
    let state = TempDir::new().unwrap();
    // Its third run succeeds.
    let third = r#"echo . >>"$TMPDIR/runs"; [ "$(wc -l <"$TMPDIR/runs")" -ge 3 ]"#;
    assert!(look(&state, third).0);
    assert_eq!(fs::read_to_string(state.path().join("runs")).unwrap().lines().count(), 3);
    let (well, took) = look(&state, "exit 0");
    assert!(well && took >= Duration::from_secs(1), "{took:?}");
    let (well, took) = look(&state, "exit 1");
    assert!(!well && took < Duration::from_secs(20), "what was there and is gone does not start: {took:?}");
}

/// Runs `deploy/envoy/run` with an Envoy that does nothing but end when it is told to, and then writes a file.
fn run(state: &TempDir, admin: u16, control_plane: u16) -> Child {
    let envoy = state.path().join("envoy");
    fs::write(
        &envoy,
        "#!/bin/bash\ntrap 'echo ended >\"$TMPDIR/ended\"; exit 0' TERM\ntouch \"$TMPDIR/started\"\nwhile :; do sleep 0.05; done\n",
    )
    .unwrap();
    fs::set_permissions(&envoy, fs::Permissions::from_mode(0o755)).unwrap();
    let token = state.path().join("token");
    fs::write(&token, "secret").unwrap();
    let path = format!("{}:{}", state.path().display(), std::env::var("PATH").unwrap());
    let child = script("envoy/run", state)
        .env("PATH", path)
        .env("DATA_PLANE_TOKEN_FILE", &token)
        .env("CONTROL_PLANE", format!("127.0.0.1:{control_plane}"))
        .env("ENVOY_ADMIN", format!("127.0.0.1:{admin}"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    appears(&state.path().join("started"));
    child
}

fn appears(file: &Path) {
    let begun = Instant::now();
    while !file.exists() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{} never appeared", file.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends SIGTERM, and returns how long it took until the script ended well.
fn stop(mut running: Child, state: &TempDir) -> Duration {
    let begun = Instant::now();
    assert!(Command::new("kill").args(["-TERM", &running.id().to_string()]).status().unwrap().success());
    assert!(running.wait().unwrap().success());
    assert!(state.path().join("ended").exists(), "Envoy was told to end, and ended");
    begun.elapsed()
}

#[test]
fn a_stop_drains_recalls_and_then_ends_envoy() {
    fn idle(request: &str) -> Option<(u16, &'static str)> {
        Some((200, if request.starts_with("POST") { "OK" } else { "http.cp.downstream_cx_active: 0\n" }))
    }
    fn emptied(_: &str) -> Option<(u16, &'static str)> {
        static ASKED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let first = ASKED.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        let left = r#"{"open_leases":2,"unused_units":70,"queued_records":9}"#;
        Some((200, if first { left } else { r#"{"open_leases":0,"unused_units":0,"queued_records":0}"# }))
    }
    let (state, admin, control_plane) = (TempDir::new().unwrap(), Party::new(idle), Party::new(emptied));
    stop(run(&state, admin.port, control_plane.port), &state);
    assert_eq!(admin.asked()[0], "POST /drain_listeners?graceful");
    assert!(admin.asked()[1].starts_with("GET /stats?filter="), "{:?}", admin.asked());
    assert_eq!(control_plane.asked(), ["POST /data-plane/v1/drain"; 2], "until nothing is left");
}

#[test]
fn a_stop_ends_in_time_whoever_hangs() {
    let silent: Answer = |_| None;
    let (state, admin, control_plane) = (TempDir::new().unwrap(), Party::new(silent), Party::new(silent));
    let took = stop(run(&state, admin.port, control_plane.port), &state);
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_stop_ends_in_time_though_nobody_accepts() {
    fn idle(_: &str) -> Option<(u16, &'static str)> {
        Some((200, "http.cp.downstream_cx_active: 0\n"))
    }
    // As of a machine that is gone: a connect gets no answer. Two connections fill a queue that was asked to hold none.
    let full = "import socket, sys\nserver = socket.create_server(('127.0.0.1', 0), backlog=0)\nheld = [socket.socket() for _ in range(4)]\n\
                for one in held:\n    one.setblocking(False)\n    one.connect_ex(server.getsockname())\n\
                print(server.getsockname()[1], flush=True)\nsys.stdin.read()";
    let mut queue = Command::new("python3").args(["-c", full]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut port = String::new();
    BufReader::new(queue.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let (state, admin) = (TempDir::new().unwrap(), Party::new(idle));
    let took = stop(run(&state, admin.port, port.trim().parse().unwrap()), &state);
    assert!(took < Duration::from_secs(10), "{took:?}");
    drop(queue.stdin.take());
    queue.wait().unwrap();
}
