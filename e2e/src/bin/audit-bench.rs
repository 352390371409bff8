//! What a record costs Envoy: CPU per request on a route whose requests are all recorded, beside one of which nearly none are. The time in which
//! the records are delivered is counted.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use cli::demo::http::Ask;
use cli::stack::{Options, Stack, State, cpu_time, repository};
use e2e::bench::{BenchError, exit, gateway, token};
use e2e::load::Load;
use e2e::policies::without_budgets;

const POLICY: &str = "
routes:
  - { name: logged.always, gateways: [CP], methods: [GET], path: /logged/always, require: authenticated, cost_micros: 0 }
  - { name: logged.seldom, gateways: [CP], methods: [GET], path: /logged/seldom, require: authenticated, cost_micros: 0, audit: { sampled: 10000 } }
";
const ALWAYS: &str = "/logged/always";
const SELDOM: &str = "/logged/seldom";
const CONNECTIONS: usize = 8;
/// Until every record is delivered: the filter calls within 0.95 s.
const DELIVERED: Duration = Duration::from_millis(1_500);

/// Measure what audit records cost Envoy.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// All ports are above this one.
    #[arg(long, default_value_t = 27_000)]
    port_base: u16,
    /// How often each is measured; the median counts.
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    /// How many requests each measurement has, on each connection.
    #[arg(long, default_value_t = 1_500)]
    requests: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    exit(run(&Arguments::parse()).await)
}

async fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let home = tempfile::tempdir()?;
    let mut options = Options::from_environment(&repository());
    options.port_base = arguments.port_base;
    options.run_dir = repository().join(".run-audit-bench");
    options.policies = without_budgets(home.path(), POLICY)?;
    options.concurrency = 1;
    let stack = Stack::start(options)?;
    let measured = measure(stack.state(), arguments).await;
    stack.stop();
    measured
}

async fn measure(state: &State, arguments: &Arguments) -> Result<(), BenchError> {
    let token = token(state, "recorded")?;
    let cases = [("recorded", ALWAYS), ("not recorded", SELDOM)];
    let mut samples = cases.map(|_| Vec::new());
    for (_, path) in cases {
        cost(state, path, &token, arguments.requests).await?;
    }
    for round in 0..arguments.rounds {
        // In turns, each first once: what lasts longer than a measurement then touches both alike.
        for turn in 0..cases.len() {
            let at = (round + turn) % cases.len();
            if let (Some((_, path)), Some(samples)) = (cases.get(at), samples.get_mut(at)) {
                samples.push(cost(state, path, &token, arguments.requests).await?);
            }
        }
    }
    println!("CPU of Envoy per request, in µs (median; all):");
    let mut medians = Vec::new();
    for ((name, _), samples) in cases.iter().zip(&mut samples) {
        samples.sort_by(f64::total_cmp);
        let median = samples.get(samples.len() / 2).copied().unwrap_or_default();
        println!("  {name:14} {median:6.2}  {samples:.2?}");
        medians.push(median);
    }
    if let [recorded, not_recorded] = medians[..] {
        println!("  a record and its delivery: {:.2}", recorded - not_recorded);
    }
    Ok(())
}

/// Microseconds of Envoy's CPU per request.
async fn cost(state: &State, path: &str, token: &str, requests: usize) -> Result<f64, BenchError> {
    let envoy = state.pids.envoy.ok_or(BenchError::Lacks("Envoy of its own"))?;
    let load = Load { requests_max: requests, ..Load::new(gateway(state)?, Ask::get(path).bearer(token), CONNECTIONS) };
    let before = cpu_time(envoy)?;
    let samples = load.start().finished().await?;
    tokio::time::sleep(DELIVERED).await;
    let used = cpu_time(envoy)?.saturating_sub(before);
    let sent = samples.len();
    if samples.with(200) != sent {
        return Err(BenchError::Answer { what: "a request", status: 0, bytes: sent - samples.with(200) });
    }
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    Ok(used.as_secs_f64() * 1e6 / sent as f64)
}
