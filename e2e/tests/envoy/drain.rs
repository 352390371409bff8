//! An orderly stop of Envoy: what it has leased is given back and its records are stored before it gets SIGTERM, so that another Envoy
//! can spend the rest at once and nothing is forfeited.

use std::time::{Duration, Instant};

use cli::stack::{Copies, Part, Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Ask, Client};
use e2e::load::{Load, backend_count};
use e2e::policies::with_budget;
use e2e::stacks::{eventually, options, ports, told};
use serde_json::Value;
use sqlx::PgPool;

const AGENTS: &str = "/api/v1/agents";
const CAP: usize = 100;
const BUDGETS: [&str; 2] = ["drained-durable", "drained-rate"];
const SCOPE: &str = "customer:customer_id=3:c-1";
/// So long an entrypoint waits before it sends SIGTERM all the same.
const PATIENCE: Duration = Duration::from_secs(5);
/// Shorter than what makes an idle worker give its leases back by itself.
const WHILE: Duration = Duration::from_secs(3);

fn budgets() -> String {
    let budget = |name: &str, durable: bool| {
        format!(
            "
  - name: {name}
    unit: requests
    window: month
    scope: \"customer:{{customer_id}}\"
    cap: {CAP}
    durable: {durable}
    gateways: [CP]
    problem: rate-limit-exceeded
    status: 429
    on_unavailable: closed
"
        )
    };
    budget(BUDGETS[0], true) + &budget(BUDGETS[1], false)
}

async fn start() -> Stack {
    let home = tempfile::tempdir().unwrap();
    let mut options = options("drain", ports::DRAIN).unwrap();
    options.envoys = Copies::Two;
    options.policies = with_budget(home.path(), &budgets()).unwrap();
    // Whoever has said nothing for so long is closed, and what it had is charged in full: here, before the test is over.
    options.control_plane_env = vec![("HOLDER_SILENCE_S".to_owned(), "30".to_owned())];
    let stack = tokio::task::spawn_blocking(move || Stack::start(options)).await.unwrap();
    stack.unwrap_or_else(|error| panic!("{}", told(&error)))
}

fn customer(state: &State) -> String {
    mint(&state.issuers["cp"], &TokenSpec::new("sub-1", &["customer_user"]).customer("c-1")).unwrap()
}

async fn account(state: &State, budget: &str) -> Value {
    let list = Admin::new(state).json(Ask::get(&format!("/admin/v1/budgets/account?budget={budget}&scope={SCOPE}"))).await.unwrap();
    list["account"].clone()
}

/// What lies unused in leases, of both budgets.
async fn leased(state: &State) -> [u64; 2] {
    let mut leased = [0; 2];
    for (budget, leased) in BUDGETS.into_iter().zip(&mut leased) {
        *leased = account(state, budget).await["leased"].as_u64().unwrap_or_else(|| panic!("{budget} is not listed"));
    }
    leased
}

/// Asks as an entrypoint does. Answers the text: a script has no more than `grep`.
async fn drain(state: &State) -> String {
    let ask = Ask::post("/data-plane/v1/drain").bearer(&state.data_plane_token);
    let answer = Client::new(&state.data_plane).send(&ask).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

/// Asks until nothing is left.
async fn drained(state: &State) {
    let done = eventually(PATIENCE, async || {
        let said = drain(state).await;
        said.contains(r#""open_leases":0,"unused_units":0,"queued_records":0}"#).then_some(())
    });
    assert!(done.await.is_some(), "not drained in {PATIENCE:?}: {}", drain(state).await);
}

async fn spend(state: &State, connections: usize, each: usize) -> usize {
    let load = Load { requests_max: each, ..Load::new(&state.gateways["CP"], Ask::get(AGENTS).bearer(&customer(state)), connections) };
    let samples = load.start().finished().await.unwrap();
    assert_eq!(samples.with(200), samples.len(), "{}", samples.summary());
    samples.len()
}

async fn queued(state: &State) -> u64 {
    let answer = Client::new(&state.envoy_admin).send(&Ask::get("/stats?filter=audit_records_queued")).await.unwrap();
    answer.text().lines().filter_map(|line| line.rsplit_once(": ")?.1.trim().parse::<u64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_is_stopped_in_order_leaves_nothing_behind() {
    let stack = start().await;
    let state = stack.state();
    let database = PgPool::connect(&state.database_admin_url).await.unwrap();
    let mut used = spend(state, 4, 5).await;

    // Left alone, it keeps for requests to come what it has leased.
    tokio::time::sleep(WHILE).await;
    let kept = leased(state).await;
    println!("after {used} requests, {WHILE:?} later: {kept:?} leased");
    assert!(kept.iter().all(|leased| *leased > 0), "{kept:?}");

    // A request that is under way when the listeners are drained, and one that begins then.
    let url = state.gateways["CP"].clone();
    let slow = Ask::get(AGENTS).bearer(&customer(state)).header("x-echo-delay-ms", "1500");
    let slow = tokio::spawn(async move { Client::new(&url).send(&slow).await.unwrap().status });
    let mut late = Client::new(&state.gateways["CP"]);
    assert_eq!(late.send(&Ask::get(AGENTS).bearer(&customer(state))).await.unwrap().status, 200);
    let draining = Client::new(&state.envoy_admin).send(&Ask::post("/drain_listeners?graceful")).await.unwrap();
    assert_eq!(draining.status, 200, "{}", draining.text());
    let began = Instant::now();
    let first = drain(state).await;
    assert!(!first.contains(r#""open_leases":0"#), "{first}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(late.send(&Ask::get(AGENTS).bearer(&customer(state))).await.unwrap().status, 200, "there is room");
    used += 3;
    drained(state).await;
    println!("first {first}; drained after {:?}", began.elapsed());
    assert!(slow.is_finished(), "nothing is left of a request that is under way");
    assert_eq!(slow.await.unwrap(), 200);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert_eq!((leased(state).await, queued(state).await), ([0, 0], 0));

    let exits = stack.exits(Part::Envoy);
    stack.terminate(Part::Envoy).unwrap();
    assert!(eventually(PATIENCE, async || (stack.exits(Part::Envoy) > exits).then_some(())).await.is_some(), "it does not end");
    ends_well(state, &database, used).await;
    stack.stop();
}

/// All that was not used can be spent elsewhere, every request is recorded, and nothing is charged that nobody spent.
async fn ends_well(state: &State, database: &PgPool, used: usize) {
    let ask = Ask::get(AGENTS).bearer(&customer(state));
    let rest = Load { until: Some(429), ..Load::new(&state.second_gateways["CP"], ask, 2) };
    let rest = rest.start().finished().await.unwrap();
    println!("{used} on the Envoy that was stopped, then on the other: {}", rest.summary());
    assert_eq!((used + rest.with(200), rest.with(429)), (CAP, 2), "{}", rest.summary());
    let reached = backend_count(&state.backend).await.unwrap();
    assert_eq!(usize::try_from(reached).unwrap(), CAP);

    let wanted = u64::try_from(used + rest.len()).unwrap();
    let records = Admin::new(state).audit_count_reaches("route=agents.list&customer=c-1", wanted, Duration::from_secs(10)).await.unwrap();
    assert_eq!(records, wanted);
    let closed = eventually(Duration::from_secs(50), async || {
        let open: i64 =
            sqlx::query_scalar("SELECT count(*) FROM holders WHERE envoy_id = $1 AND closed_at IS NULL AND left_call IS NOT NULL")
                .bind(&state.envoy_id)
                .fetch_one(database)
                .await
                .unwrap();
        (open == 0).then_some(())
    });
    assert!(closed.await.is_some(), "its workers are not closed");
    let forfeits: i64 = sqlx::query_scalar("SELECT count(*) FROM budget_forfeits").fetch_one(database).await.unwrap();
    assert_eq!(forfeits, 0);
    for budget in BUDGETS {
        let account = account(state, budget).await;
        let number = |member: &str| account[member].as_u64().unwrap();
        assert_eq!((number("settled"), number("forfeited"), number("over_grant")), (100, 0, 0), "{account}");
    }
}
