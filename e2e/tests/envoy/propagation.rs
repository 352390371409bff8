//! A policy of 10,000 routes and 1,000 roles is switched to, from and to another of its size, under load: nobody notices. Times are
//! printed, not asserted: other programs run on the machine of a test.

use std::time::{Duration, Instant};

use cli::stack::{Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Ask, Client};
use e2e::large::Large;
use e2e::load::{Load, Samples};
use e2e::policies::without_budgets;
use e2e::revisions::{activate, publish};
use e2e::stacks::{eventually, options, ports, told};

const AGENTS: &str = "/api/v1/agents";
const PATIENCE: Duration = Duration::from_secs(30);
/// A machine that is busy with other things is slower than this at times; a filter that blocks is slower every time.
const SLOWEST: Duration = Duration::from_secs(1);
const MEMORY_MAX: u64 = 48 * 1_024 * 1_024;

/// 800 requests a second: 16 connections, 20 ms from one request of each to its next.
fn steady(url: &str, ask: Ask) -> Load {
    Load { pace: Duration::from_millis(20), ..Load::new(url, ask, 16) }
}

async fn published(admin: &mut Admin, files: &authoring::Files, what: &str) -> i64 {
    let asked = Instant::now();
    let revision = publish(admin, files, what).await.unwrap();
    println!("{what}: published in {:?}", asked.elapsed());
    revision
}

/// Activates, and says when that was asked for and when it was answered.
async fn activated(admin: &mut Admin, revision: i64) -> (Instant, Instant) {
    let asked = Instant::now();
    activate(admin, revision, "switched under load").await.unwrap();
    (asked, Instant::now())
}

/// Until when any worker has answered a probe with another status than `wanted`, if they all have in the end.
async fn enforced(state: &State, probes: &[(String, u16)], switched: Instant) -> Duration {
    let mut last = switched;
    for (path, wanted) in probes {
        // Every connection stays with one worker: with so many there are some on each.
        let load = Load { requests_max: 400, pace: Duration::from_millis(5), ..Load::new(&state.gateways["PP"], Ask::get(path), 8) };
        let samples = load.start().finished().await.unwrap();
        let tail = samples.0.iter().filter(|sample| sample.status != Some(*wanted)).map(|sample| sample.done).max();
        assert!(samples.0.iter().rev().take(8).all(|sample| sample.status == Some(*wanted)), "{path}: {}", samples.summary());
        last = last.max(tail.unwrap_or(switched));
    }
    last - switched
}

async fn metric(state: &State, name: &str) -> u64 {
    let answer = Client::new(&state.envoy_admin).send(&Ask::get("/stats/prometheus?filter=gateway")).await.unwrap();
    let lines = answer.text();
    let values = lines.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    values.max().unwrap_or(0)
}

fn told_of(what: &str, samples: &Samples) {
    let slowest = samples.percentile(1.0);
    println!("{what}: {}; slowest {slowest:?}, 99.9 % within {:?}", samples.summary(), samples.percentile(0.999));
    assert_eq!(samples.with(200), samples.len(), "{what}: {}", samples.summary());
    assert!(slowest < SLOWEST, "{what}: the slowest request took {slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_routes_are_switched_under_load_and_nobody_notices() {
    let home = tempfile::tempdir().unwrap();
    let mut options = options("propagation", ports::PROPAGATION).unwrap();
    options.policies = without_budgets(home.path(), "routes: []\n").unwrap();
    options.concurrency = 2;
    let base = authoring::directory::read(&options.policies).unwrap();
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{}", told(&error)));
    let state = stack.state();
    let mut admin = Admin::new(state);
    let token = mint(&state.issuers["pp"], &TokenSpec::new("steady", &["viewer"])).unwrap();
    let ready = eventually(PATIENCE, async || {
        let answer = Client::new(&state.gateways["PP"]).send(&Ask::get(AGENTS).bearer(&token)).await.ok()?;
        (answer.status == 200).then_some(())
    });
    assert!(ready.await.is_some());
    println!("memory with the policy as shipped: {} bytes", metric(state, "gateway_memory_bytes").await);

    let (one, other) = (Large { routes: 10_000, roles: 1_000, generation: 1 }, Large { routes: 10_000, roles: 1_000, generation: 2 });
    let small = published(&mut admin, &base, "the policy as shipped").await;
    let first = published(&mut admin, &one.added_to(base.clone()), "10,000 routes and 1,000 roles").await;
    let second = published(&mut admin, &other.added_to(base.clone()), "10,000 other routes").await;
    let ask = || Ask::get(AGENTS).bearer(&token);
    let quiet = steady(&state.gateways["PP"], ask()).start();
    tokio::time::sleep(Duration::from_secs(3)).await;
    told_of("without a switch", &quiet.stop().await.unwrap());

    let probes = |one_status, other_status| [(one.public_path(), one_status), (other.public_path(), other_status)];
    for (what, revision, probes) in [
        ("small to large", first, probes(200, 404)),
        ("large to large", second, probes(404, 200)),
        ("large to small", small, probes(404, 404)),
        ("small to large again", first, probes(200, 404)),
        ("large to large again", second, probes(404, 200)),
    ] {
        let load = steady(&state.gateways["PP"], ask()).start();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (asked, answered) = activated(&mut admin, revision).await;
        let within = enforced(state, &probes, answered).await;
        let samples = load.stop().await.unwrap();
        let memory = metric(state, "gateway_memory_bytes").await;
        println!(
            "{what}: activation answered after {:?}, enforced by all workers {within:?} later; memory {memory} bytes",
            answered - asked
        );
        told_of(what, &samples);
        // It never shrinks: what is there now has been enough for every switch so far.
        assert!(memory > 0 && memory <= MEMORY_MAX, "{what}: {memory} bytes");
    }
    assert_eq!(metric(state, "gateway_bundles_refused_total").await, 0);
    stack.stop();
}
