//! Requests of every kind at two Envoys, while parts of the stack are killed at random; and then each Envoy's access log is held against the
//! audit log by `plant-gateway audit reconcile`. See docs/chaos.md.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use cli::demo::http::{Ask, Client};
use cli::stack::{Copies, Options, Part, Stack, State, repository};
use e2e::bench::{BenchError, exit, token};
use e2e::load::{Load, Running, Samples};
use e2e::policies::without_budgets;
use e2e::program;
use e2e::stacks::eventually;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const POLICY: &str = "
budgets:
  - { name: logged-money, unit: micro_usd, window: month, scope: \"agent:{agent_id|subject}\", cap: 4000000000000, gateways: [CP], on_unavailable: closed }
routes:
  - { name: logged.buffered, gateways: [CP], methods: [POST], path: /logged/buffered, require: authenticated, cost_micros: 7 }
  - { name: logged.required, gateways: [CP], methods: [POST], path: /logged/required, require: authenticated, cost_micros: 7, audit: required }
  - { name: logged.sampled, gateways: [CP], methods: [GET], path: /logged/sampled, require: authenticated, cost_micros: 0, audit: { sampled: 10 } }
";
/// Silence after which a worker's holder is closed: in production a minute.
const SILENCE_S: u64 = 8;
/// Until every record that can still arrive has arrived, and every holder that was killed is closed.
const QUIET: Duration = Duration::from_secs(30);
/// The parts that are killed.
const PARTS: [Part; 7] =
    [Part::Envoy, Part::SecondEnvoy, Part::ControlPlane, Part::SecondControlPlane, Part::Postgres, Part::Valkey, Part::Backend];

/// Holds Envoy's access log against the audit log after many requests, with kills of every part.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// At least so many requests.
    #[arg(long, default_value_t = 1_000_000)]
    requests: u64,
    /// From one kill to the next, milliseconds, at least; and at most twice that.
    #[arg(long, default_value_t = 4_000)]
    every_ms: u64,
    /// Connections of each kind of request and Envoy.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// One stack of containers: an Envoy and a control plane.
    #[arg(long)]
    containers: bool,
    /// Which parts are killed when. By default the time.
    #[arg(long)]
    seed: Option<u64>,
    /// All ports are above this one.
    #[arg(long, default_value_t = 31_400)]
    port_base: u16,
    /// Where the run directory is to be; it is kept.
    #[arg(long, default_value = ".run-audit-chaos")]
    run_dir: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    exit(run(&Arguments::parse()).await)
}

async fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let home = tempfile::tempdir()?;
    let mut options = Options::from_environment(&repository());
    options.policies = without_budgets(home.path(), POLICY)?;
    options.run_dir = repository().join(&arguments.run_dir);
    options.port_base = arguments.port_base;
    if arguments.containers {
        options.envoy_runtime = Some("compose".to_owned());
    } else {
        options.envoys = Copies::Two;
        options.control_planes = Copies::Two;
    }
    options.keep_logs = true;
    options.quiet = true;
    options.control_plane_env.push(("HOLDER_SILENCE_S".to_owned(), SILENCE_S.to_string()));
    let stack = tokio::task::spawn_blocking(move || Stack::start(options)).await??;
    let ran = under_fire(&stack, arguments).await;
    stack.stop();
    ran
}

async fn under_fire(stack: &Stack, arguments: &Arguments) -> Result<(), BenchError> {
    let seed = arguments.seed.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs()));
    let mut random = fastrand::Rng::with_seed(seed);
    let state = stack.state();
    let begin = Instant::now();
    let load = start(state, arguments)?;
    println!("seed {seed}, {} connections", load.len() * arguments.connections);
    let pids = stack.pids();
    let parts: Vec<Part> = PARTS.into_iter().filter(|part| pids.of(*part).is_some()).collect();
    let mut kills = Vec::new();
    let mut nameless = 0_u64;
    let (mut counts, mut lines) = ([Lines::default(), Lines::default()], 0);
    while lines < arguments.requests {
        tokio::time::sleep(Duration::from_millis(random.u64(arguments.every_ms..=arguments.every_ms * 2))).await;
        nameless += malformed(state).await;
        let part = random.choice(&parts).copied().unwrap_or(Part::Envoy);
        if stack.kill(part).is_ok() {
            kills.push(part);
        }
        lines = 0;
        for (count, path) in counts.iter_mut().zip(logs(state)) {
            lines += count.count(path)?;
        }
        println!("{:>4} s: killed {part}; {lines} lines", begin.elapsed().as_secs());
    }
    let mut samples = Samples::default();
    for running in load {
        samples.0.extend(running.stop().await?.0);
    }
    println!("answers: {}; {nameless} that are not HTTP; {} kills in {} s", samples.summary(), kills.len(), begin.elapsed().as_secs());
    recovered(stack, state, &parts).await?;
    tokio::time::sleep(QUIET).await;
    reconcile(state)
}

/// Requests that go on, are refused in every way, or are left out.
fn start(state: &State, arguments: &Arguments) -> Result<Vec<Running>, BenchError> {
    let mut load = Vec::new();
    for (envoy, gateways) in envoys(state).into_iter().enumerate() {
        let url = gateways.get("CP").ok_or(BenchError::Lacks("gateway CP"))?;
        let customer = token(state, &format!("customer-{envoy}"))?;
        let preflight = Ask::new("OPTIONS", "/logged/buffered").header("origin", "https://cp.waooaw.com");
        let asks = [
            (Ask::post("/logged/buffered").bearer(&customer), arguments.connections * 3, Duration::ZERO),
            (Ask::post("/logged/required").bearer(&customer), arguments.connections, Duration::from_millis(5)),
            (Ask::get("/logged/sampled").bearer(&customer), arguments.connections, Duration::ZERO),
            (Ask::get("/logged/sampled"), arguments.connections, Duration::from_millis(2)),
            (Ask::get("/no/such/route").bearer(&customer), arguments.connections, Duration::from_millis(2)),
            (preflight.header("access-control-request-method", "POST"), arguments.connections, Duration::from_millis(2)),
        ];
        load.extend(asks.map(|(ask, connections, pace)| Load { pace, ..Load::new(url, ask, connections) }.start()));
    }
    Ok(load)
}

/// Something that Envoy refuses before it gives it an id.
async fn malformed(state: &State) -> u64 {
    let mut sent = 0;
    for gateways in envoys(state) {
        let Some(address) = gateways.get("CP").and_then(|url| url.strip_prefix("http://")) else { continue };
        let Ok(mut stream) = TcpStream::connect(address).await else { continue };
        if stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: many\r\n\r\n").await.is_ok() {
            let _ended = timeout(Duration::from_secs(1), stream.read_to_end(&mut Vec::new())).await;
            sent += 1;
        }
    }
    sent
}

/// The gateways of each Envoy that there is.
fn envoys(state: &State) -> Vec<&BTreeMap<String, String>> {
    [&state.gateways, &state.second_gateways].into_iter().filter(|gateways| !gateways.is_empty()).collect()
}

fn logs(state: &State) -> Vec<&Path> {
    [state.access_log.as_path(), &state.second_access_log].into_iter().take(envoys(state).len()).collect()
}

/// Lines of a growing file.
#[derive(Default)]
struct Lines {
    read: u64,
    count: u64,
}

impl Lines {
    fn count(&mut self, path: &Path) -> std::io::Result<u64> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut new = Vec::new();
        self.read += u64::try_from(file.read_to_end(&mut new)?).unwrap_or(0);
        self.count += u64::try_from(new.iter().filter(|byte| **byte == b'\n').count()).unwrap_or(0);
        Ok(self.count)
    }
}

async fn recovered(stack: &Stack, state: &State, parts: &[Part]) -> Result<(), BenchError> {
    let admins: Vec<String> = [Some(state.admin.clone()), state.second_admin.clone()].into_iter().flatten().collect();
    let well = eventually(Duration::from_secs(60), async || {
        for admin in &admins {
            Client::new(admin).send(&Ask::get("/ready")).await.ok().filter(|answer| answer.status == 200)?;
        }
        Part::ALL.iter().all(|part| !parts.contains(part) || stack.pids().of(*part).is_some()).then_some(())
    });
    well.await.ok_or(BenchError::Unwell)
}

fn reconcile(state: &State) -> Result<(), BenchError> {
    let program = program::path()?;
    let began = Instant::now();
    let mut command = Command::new(program);
    command.args(["audit", "reconcile", "--format", "json", "--state"]).arg(state.run_dir.join("state.json"));
    for log in logs(state) {
        command.arg("--access-log").arg(log);
    }
    let output = command.output()?;
    print!("{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).map_err(|_no_report| BenchError::Lacks("audit log that can be read"))?;
    println!("{report:#}\nreconciled in {:.1} s", began.elapsed().as_secs_f64());
    if output.status.success() { Ok(()) } else { Err(BenchError::Disagree) }
}
