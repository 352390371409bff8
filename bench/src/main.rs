//! `gateway-bench`: how much CPU of Envoy a request costs, with our filter and with Envoy's own, side by side in one process.

mod admin;
mod empty_module;
mod error;
mod identity;
mod load;
mod machine;
mod measure;
mod report;
mod shadow;
mod sources;
mod variant;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use cli::stack::{Options, Stack, repository};
use decision_core::causes::chain;

use self::error::BenchError;
use self::identity::Jwks;
use self::measure::{Bench, Plan};
use self::variant::{BenchPorts, Variant};

/// Measure Envoy's CPU per request on the hot path: bare, with our filter, and with the native filters.
#[derive(Debug, Parser)]
#[command(name = "gateway-bench")]
struct Arguments {
    /// All ports are above this one.
    #[arg(long, env = "PORT_BASE", default_value_t = 24_000)]
    port_base: u16,
    /// How often each listener is measured; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// How long each measurement lasts.
    #[arg(long, default_value_t = 1_500, value_parser = clap::value_parser!(u64).range(100..))]
    milliseconds: u64,
    /// Keep-alive connections.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// One round only: to see that it works.
    #[arg(long)]
    quick: bool,
    /// Only these listeners, by their keys in the results; the bare one is always measured [default: all].
    #[arg(long, value_delimiter = ',', value_parser = Variant::parse)]
    only: Vec<Variant>,
    /// The filter [default: the release build].
    #[arg(long)]
    wasm: Option<PathBuf>,
    /// Where the numbers go [default: bench/results/latest.json in the repository].
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let root = repository();
    let home = tempfile::tempdir().map_err(|source| BenchError::File { path: std::env::temp_dir(), source })?;
    let ports = BenchPorts::above(arguments.port_base)?;
    let jwks = Jwks::listen()?;
    let options = options(arguments, &root, home.path(), &ports, &jwks)?;
    let stack = Stack::start(options).map_err(|error| BenchError::Stack(Box::new(error)))?;
    let plan = Plan {
        rounds: if arguments.quick { 1 } else { arguments.rounds },
        duration: Duration::from_millis(arguments.milliseconds),
        connections: arguments.connections,
    };
    let chosen = |variant: &Variant| arguments.only.is_empty() || *variant == Variant::Bare || arguments.only.contains(variant);
    let variants = Variant::ALL.into_iter().filter(chosen).collect();
    let measured = Bench::prepare(&stack, ports, &jwks, plan, variants).and_then(Bench::run);
    stack.stop();
    let measured = measured?;
    println!("{}", report::table(&measured));
    let out = arguments.out.clone().unwrap_or_else(|| root.join("bench/results/latest.json"));
    report::write(&out, &measured)?;
    println!("written to {}", out.display());
    measured.verdict()
}

fn options(arguments: &Arguments, root: &Path, home: &Path, ports: &BenchPorts, jwks: &Jwks) -> Result<Options, BenchError> {
    let mut options = Options::from_environment(root);
    options.port_base = arguments.port_base;
    options.run_dir = root.join(".run-bench");
    options.concurrency = 1;
    options.wasm.clone_from(&arguments.wasm);
    options.policies = sources::policies(&root.join("policies"), home)?;
    options.envoy_template = sources::template(&root.join("bench/envoy.yaml"), home, ports, jwks.port)?;
    Ok(options)
}
