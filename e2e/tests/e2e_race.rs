//! Many connections race for the last units of a budget: never one too many, and hardly one too few.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

use cli::stack::{Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::Ask;
use e2e::load::{Load, backend_count};
use e2e::policies::with_budget;
use e2e::stacks::{options, ports, told};

const CAP: u64 = 1_000;
const CONNECTIONS: usize = 64;
const RUNS: usize = 3;
const BUDGET: &str = "
  - name: race
    unit: requests
    window: month
    scope: \"customer:{customer_id}\"
    cap: 1000
    durable: true
    gateways: [CP]
    problem: rate-limit-exceeded
    status: 429
    on_unavailable: closed
";

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_connections_get_a_thousand_requests_and_not_one_more() {
    let home = tempfile::tempdir().unwrap();
    let mut options = options("race", ports::RACE).unwrap();
    options.policies = with_budget(home.path(), BUDGET).unwrap();
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{}", told(&error)));
    let mut counts = Vec::new();
    for run in 1..=RUNS {
        counts.push(race(stack.state(), &format!("racer-{run}")).await);
    }
    println!("reached the backend: {counts:?} of {CAP}");
    assert!(counts.iter().all(|count| *count <= CAP), "overspent: {counts:?}");
    assert!(counts.iter().all(|count| *count >= 970), "underused: {counts:?}");
    stack.stop();
}

/// How many requests reached the backend until everybody had been told that the budget is spent.
async fn race(state: &State, customer: &str) -> u64 {
    let spec = TokenSpec::new(customer, &["customer_user"]).customer(customer);
    let token = mint(&state.issuers["cp"], &spec).unwrap();
    let before = backend_count(&state.backend).await.unwrap();
    let load = Load {
        until: Some(429),
        requests_max: 1_000,
        ..Load::new(&state.gateways["CP"], Ask::get("/api/v1/agents").bearer(&token), CONNECTIONS)
    };
    let samples = load.start().finished().await.unwrap();
    let reached = backend_count(&state.backend).await.unwrap() - before;
    println!("{customer}: {}; reached the backend: {reached}", samples.summary());
    assert_eq!(samples.with(200), usize::try_from(reached).unwrap(), "a request reached the backend and its client was not told");
    assert_eq!(samples.with(429), CONNECTIONS, "every connection ends when the budget is spent: {}", samples.summary());
    let accounts = Admin::new(state).accounts("race").await.unwrap();
    let account = accounts.iter().find(|account| account["scope"].as_str().unwrap().contains(customer)).unwrap();
    let (settled, leased) = (account["settled"].as_u64().unwrap(), account["leased"].as_u64().unwrap());
    assert!(settled + leased <= CAP, "{account}");
    reached
}
