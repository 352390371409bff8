//! The control plane is away for a minute, under 2,000 requests a second: good tokens are served, bad and revoked ones are refused, and
//! nobody notices when it comes back. `OUTAGE_SECONDS` shortens the minute while working on it.

use std::time::{Duration, Instant};

use cli::stack::{Part, Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Ask, Client};
use e2e::load::{Load, Running};
use e2e::policies::without_budgets;
use e2e::stacks::{eventually, options, ports, told};
use e2e::tokens::forged;
use serde_json::json;

const AGENTS: &str = "/api/v1/agents";
const RECOVERY_MAX: Duration = Duration::from_secs(60);

fn outage() -> Duration {
    let seconds = std::env::var("OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

/// One load and the only status that is right for it.
struct Watched {
    what: &'static str,
    status: u16,
    running: Running,
}

fn watch(state: &State, what: &'static str, status: u16, ask: Ask, connections: usize) -> Watched {
    let load = Load { pace: Duration::from_millis(20), ..Load::new(&state.gateways["PP"], ask, connections) };
    Watched { what, status, running: load.start() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_without_control_plane_changes_no_answer() {
    let home = tempfile::tempdir().unwrap();
    let mut options = options("outage", ports::OUTAGE).unwrap();
    options.policies = without_budgets(home.path(), "routes: []\n").unwrap();
    let stack =
        tokio::task::spawn_blocking(move || Stack::start(options)).await.unwrap().unwrap_or_else(|error| panic!("{}", told(&error)));
    let state = stack.state();
    let token = |issuer: &str, spec: &TokenSpec| mint(&state.issuers[issuer], spec).unwrap();
    let viewer = |subject: &str| TokenSpec::new(subject, &["viewer"]);
    let revoked = token("pp", &viewer("revoked").claim("jti", json!("revoked-1")));
    let revocation = json!({"kind": "token", "issuer": "pp", "value": "revoked-1", "reason": "test"});
    Admin::new(state).json(Ask::post("/admin/v1/revocations").json(&revocation)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;

    let good = token("pp", &viewer("good"));
    let get = || Ask::get(AGENTS);
    let watched = [
        watch(state, "a good token", 200, get().bearer(&good), 30),
        watch(state, "a revoked token", 401, get().bearer(&revoked), 4),
        watch(state, "a forged token", 401, get().bearer(&forged(&good)), 3),
        watch(state, "no token", 401, get(), 3),
    ];
    tokio::time::sleep(Duration::from_secs(3)).await;
    let exits = stack.exits(Part::ControlPlane);
    let down = Instant::now();
    let mut first_seen = 0;
    while down.elapsed() < outage() {
        if stack.pids().of(Part::ControlPlane).is_some() {
            stack.kill(Part::ControlPlane).unwrap();
        }
        // A token that nobody has seen is verified all the same.
        first_seen += 1;
        let fresh = token("pp", &viewer(&format!("fresh-{first_seen}")));
        let answer = Client::new(&state.gateways["PP"]).send(&get().bearer(&fresh)).await.unwrap();
        assert_eq!(answer.status, 200, "a first-seen token after {:?}: {}", down.elapsed(), answer.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let back = eventually(RECOVERY_MAX, async || {
        let ready = Client::new(&state.admin).send(&Ask::get("/ready")).await.is_ok_and(|answer| answer.status == 200);
        (ready && stack.exits(Part::ControlPlane) > exits).then_some(())
    });
    assert!(back.await.is_some(), "the control plane does not come back");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (mut sent, took) = (first_seen, down.elapsed() + Duration::from_secs(3));
    for Watched { what, status, running } in watched {
        let samples = running.stop().await.unwrap();
        println!("{what}: {}", samples.summary());
        sent += samples.len();
        assert_eq!(samples.with(status), samples.len(), "{what}: {}", samples.summary());
    }
    println!("{sent} requests in {took:?}, control plane away for {:?}, {first_seen} first-seen tokens meanwhile", outage());
    stack.stop();
}
