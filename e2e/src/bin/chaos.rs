//! Chaos, for as many cycles as are asked for: see `e2e::chaos` and docs/chaos.md.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use cli::stack::{Options, repository};
use decision_core::causes::chain;
use e2e::chaos::{ChaosError, Plan, Report, World, run, summary};

/// Kills, halts and cuts off parts of a stack under load, and checks the budgets after every cycle.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// How many cycles.
    #[arg(long, default_value_t = 100)]
    cycles: usize,
    /// The seed of the first cycle; each next one has the next. By default the time.
    #[arg(long)]
    seed: Option<u64>,
    /// After how many seconds of silence a holder is closed. In production it is 60.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(5..=600))]
    silence_s: u64,
    /// All ports are above this one.
    #[arg(long, default_value_t = 31_000)]
    port_base: u16,
    /// Only say what would happen.
    #[arg(long)]
    plan: bool,
    /// Where the reports go, a line of JSON per cycle.
    #[arg(long, default_value = "target/chaos.jsonl")]
    report: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    match chaos(&Arguments::parse()).await {
        Ok(reports) => {
            println!("{}", summary(&reports));
            if reports.iter().all(|report| report.violations.is_empty()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn chaos(arguments: &Arguments) -> Result<Vec<Report>, ChaosError> {
    let by_time = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
    let first = arguments.seed.unwrap_or_else(by_time);
    let silence = Duration::from_secs(arguments.silence_s);
    if arguments.plan {
        for seed in (first..).take(arguments.cycles) {
            println!("{seed}: {}", Plan::of(seed, silence).faults_told().join(", "));
        }
        return Ok(Vec::new());
    }
    let mut file = File::create(&arguments.report)?;
    let root = repository();
    let mut options = Options::from_environment(&root);
    options.run_dir = root.join(format!(".run-chaos-{}", arguments.port_base));
    options.port_base = arguments.port_base;
    options.keep_logs = true;
    options.quiet = true;
    println!("{} cycles from seed {first}; reports in {}", arguments.cycles, arguments.report.display());
    let world = World::start(options, silence).await?;
    let mut reports = Vec::new();
    for (cycle, seed) in (first..).take(arguments.cycles).enumerate() {
        let report = run(&world, cycle, &Plan::of(seed, silence)).await?;
        println!("{}", report.line());
        let line = serde_json::to_string(&report).map_err(|error| std::io::Error::new(ErrorKind::InvalidData, error))?;
        writeln!(file, "{line}")?;
        reports.push(report);
    }
    Ok(reports)
}
