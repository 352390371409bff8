//! A few cycles of chaos with fixed seeds; `make chaos` does as many as are asked for.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use e2e::chaos::{Plan, World, run, summary};
use e2e::stacks::{options, ports, told};

const SEEDS: [u64; 3] = [1, 2, 3];
/// Less than in production, or every killed Envoy would cost a minute.
const SILENCE: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn budgets_survive_a_few_cycles_of_chaos() {
    let world = World::start(options("chaos", ports::CHAOS).unwrap(), SILENCE).await.unwrap_or_else(|error| panic!("{}", told(&error)));
    let mut reports = Vec::new();
    for (cycle, seed) in SEEDS.into_iter().enumerate() {
        let report = run(&world, cycle, &Plan::of(seed, SILENCE)).await.unwrap_or_else(|error| panic!("seed {seed}: {}", told(&error)));
        println!("{}", report.line());
        reports.push(report);
    }
    println!("{}", summary(&reports));
    for report in &reports {
        assert!(report.violations.is_empty(), "{}", report.line());
        assert!(report.requests > 0, "{}", report.line());
    }
}
