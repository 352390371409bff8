//! What only a stack of containers can show: `make test-docker`.

use std::process::Command;
use std::time::Duration;

use cli::stack::{Containers, Part, Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Ask, Client};
use e2e::load::{Load, Running, Samples};
use e2e::policies::with_budget;
use e2e::program;
use e2e::stacks::{eventually, options, ports, told};
use serde_json::Value;

const AGENTS: &str = "/api/v1/agents";
const CAP: usize = 2_000;
const BUDGET: &str = "
  - name: capped
    unit: requests
    window: month
    scope: \"customer:{customer_id}\"
    cap: 2000
    durable: true
    gateways: [CP]
    problem: rate-limit-exceeded
    status: 429
    on_unavailable: closed
";
const PARTS: [Part; 5] = [Part::Envoy, Part::ControlPlane, Part::Backend, Part::Valkey, Part::Postgres];
const RECOVERY_MAX: Duration = Duration::from_secs(60);
/// A worker's holder that was killed is closed after so many seconds.
const SILENCE_S: u64 = 8;
/// Idle, all parts together.
const MEMORY_MAX: u64 = 300_000_000;

/// A stack of containers with a budget that is scarce.
async fn start(name: &str, port_base: u16) -> Stack {
    let home = tempfile::tempdir().unwrap();
    let mut options = options(name, port_base).unwrap();
    options.envoy_runtime = Some("compose".to_owned());
    options.policies = with_budget(&home.keep(), BUDGET).unwrap();
    options.control_plane_env = vec![("HOLDER_SILENCE_S".to_owned(), SILENCE_S.to_string())];
    tokio::task::spawn_blocking(move || Stack::start(options)).await.unwrap().unwrap_or_else(|error| panic!("{}", told(&error)))
}

fn containers(stack: &Stack) -> &Containers {
    stack.containers().expect("a stack of containers")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "containers: `make test-docker`"]
async fn every_container_is_killed_and_restarted_under_load() {
    let stack = start("containers", ports::CONTAINERS).await;
    let state = stack.state();
    let load = Loads::start(state);
    for part in PARTS {
        stack.kill(part).unwrap();
        well(&stack, part).await;
        containers(&stack).restart(part).unwrap();
        well(&stack, part).await;
    }
    let seen = load.stop().await;
    println!("leased: {}; tokenless: {}; capped: {}", seen.leased.summary(), seen.tokenless.summary(), seen.capped.summary());
    let unauthenticated = seen.tokenless.with(401) + seen.tokenless.with(503) + seen.tokenless.broken();
    assert_eq!(unauthenticated, seen.tokenless.len(), "without a token: {}", seen.tokenless.summary());
    let spent = spend_the_rest(state).await;
    let charged = seen.capped.with(200) + spent;
    assert!(charged <= CAP, "{charged} requests of an account with a cap of {CAP}");
    accounted(state).await;
    stack.stop();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "containers: `make test-docker`"]
async fn a_rolling_restart_of_the_control_plane_fails_nobody() {
    let stack = start("rolling", ports::ROLLING).await;
    let state = stack.state();
    containers(&stack).compose(&["up", "--scale", "control-plane=2"]).unwrap();
    assert!(stack.pids().of(Part::SecondControlPlane).is_some(), "a second replica");
    let load = Loads::start(state);
    tokio::time::sleep(Duration::from_secs(5)).await;
    for part in [Part::ControlPlane, Part::SecondControlPlane] {
        containers(&stack).restart(part).unwrap();
        well(&stack, part).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let seen = load.stop().await;
    println!("leased: {}; tokenless: {}; capped: {}", seen.leased.summary(), seen.tokenless.summary(), seen.capped.summary());
    assert_eq!(seen.tokenless.with(401), seen.tokenless.len(), "without a token: {}", seen.tokenless.summary());
    assert_eq!(seen.leased.with(200), seen.leased.len(), "with leases: {}", seen.leased.summary());
    assert_eq!(seen.capped.with(200) + seen.capped.with(429), seen.capped.len(), "with a cap: {}", seen.capped.summary());
    accounted(state).await;
    stack.stop();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "containers: `make test-docker`"]
async fn envoy_stops_in_order_and_leaves_nothing_leased_and_nothing_untold() {
    let stack = start("orderly", ports::ORDERLY).await;
    let state = stack.state();
    let load = Loads::start(state);
    tokio::time::sleep(Duration::from_secs(4)).await;
    containers(&stack).compose(&["stop", "envoy"]).unwrap();
    let _broken_at_the_end = load.stop().await;
    assert_eq!(containers(&stack).exit_code(Part::Envoy).unwrap(), 0, "it was not killed");
    // The admin API is reached through it.
    containers(&stack).compose(&["start", "envoy"]).unwrap();
    well(&stack, Part::Envoy).await;
    let accounts = Admin::new(state).accounts("capped").await.unwrap();
    for account in &accounts {
        assert_eq!((&account["leased"], &account["forfeited"]), (&Value::from(0), &Value::from(0)), "{account}");
    }
    assert!(!accounts.is_empty());
    let report = reconciled(state).await;
    assert_eq!((&report["missing"], &report["in_gaps"]), (&Value::from(0), &Value::from(0)), "{report}");
    stack.stop();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "containers: `make test-docker`"]
async fn idle_parts_need_little_memory() {
    let stack = start("idle", ports::IDLE).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut total = 0;
    for part in PARTS {
        let used = containers(&stack).memory(part).unwrap();
        println!("{part}: {used} bytes");
        total += used;
    }
    assert!(total <= MEMORY_MAX, "{total} bytes");
    stack.stop();
}

/// Whoever reaches the rest of Envoy's admin interface can stop it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "containers: `make test-docker`"]
async fn of_envoys_admin_interface_other_containers_reach_the_metrics_alone() {
    let stack = start("metrics", ports::METRICS).await;
    let addresses = containers(&stack).addresses(Part::Envoy).unwrap();
    assert!(!addresses.is_empty());
    for address in &addresses {
        let mut metrics = Client::new(&format!("http://{address}:9902"));
        let answer = metrics.send(&Ask::get("/stats/prometheus")).await.unwrap();
        assert_eq!(answer.status, 200);
        assert!(String::from_utf8_lossy(&answer.body).contains("gateway_decisions_total"), "our metrics");
        let refused = [
            ("POST", "/quitquitquit"),
            ("POST", "/drain_listeners?graceful"),
            ("GET", "/config_dump"),
            ("GET", "/stats/prometheus/../../config_dump"),
            ("GET", "/stats/prometheus%2f..%2f..%2fconfig_dump"),
            ("GET", "//config_dump"),
            ("GET", "/"),
            ("POST", "/stats/prometheus"),
        ];
        for (method, path) in refused {
            let answer = metrics.send(&Ask::new(method, path)).await.unwrap();
            assert!(matches!(answer.status, 400 | 404), "{method} {path}: {}", answer.status);
        }
    }
    stack.stop();
}

/// Requests of three kinds, that go on.
struct Loads {
    leased: Running,
    tokenless: Running,
    capped: Running,
}

/// What they were answered.
struct Seen {
    leased: Samples,
    tokenless: Samples,
    capped: Samples,
}

impl Loads {
    fn start(state: &State) -> Self {
        let paced = |gateway: &str, ask: Ask, pace_ms| {
            Load { pace: Duration::from_millis(pace_ms), ..Load::new(&state.gateways[gateway], ask, 2) }.start()
        };
        let viewer = mint(&state.issuers["pp"], &TokenSpec::new("leased", &["viewer"])).unwrap();
        Self {
            leased: paced("PP", Ask::get(AGENTS).bearer(&viewer), 10),
            tokenless: paced("PP", Ask::get(AGENTS), 10),
            capped: paced("CP", Ask::get(AGENTS).bearer(&customer(state)), 100),
        }
    }

    async fn stop(self) -> Seen {
        let Self { leased, tokenless, capped } = self;
        Seen { leased: leased.stop().await.unwrap(), tokenless: tokenless.stop().await.unwrap(), capped: capped.stop().await.unwrap() }
    }
}

fn customer(state: &State) -> String {
    mint(&state.issuers["cp"], &TokenSpec::new("capped", &["customer_user"]).customer("capped")).unwrap()
}

async fn spend_the_rest(state: &State) -> usize {
    let rest =
        Load { until: Some(429), requests_max: 2 * CAP, ..Load::new(&state.gateways["CP"], Ask::get(AGENTS).bearer(&customer(state)), 2) };
    let rest = rest.start().finished().await.unwrap();
    assert_eq!(rest.with(429), 2, "the budget is spent in the end: {}", rest.summary());
    rest.with(200)
}

/// Waits until the part runs, the control plane calls itself ready, and an account that nobody knew is served.
async fn well(stack: &Stack, part: Part) {
    let state = stack.state();
    let (mut gateway, mut control_plane) = (Client::new(&state.gateways["PP"]), Client::new(&state.admin));
    let mut asked = 0;
    let well = eventually(RECOVERY_MAX, async || {
        stack.pids().of(part)?;
        asked += 1;
        let token = mint(&state.issuers["pp"], &TokenSpec::new(&format!("fresh-{part}-{asked}"), &["viewer"])).unwrap();
        gateway.send(&Ask::get(AGENTS).bearer(&token)).await.ok().filter(|answer| answer.status == 200)?;
        control_plane.send(&Ask::get("/ready")).await.ok().filter(|answer| answer.status == 200).map(|_| ())
    });
    well.await.unwrap_or_else(|| panic!("{part} is not back in {RECOVERY_MAX:?}"));
}

/// Nothing is overspent, and every line of the access log has its record or is in a gap.
async fn accounted(state: &State) {
    let account = eventually(Duration::from_secs(10), async || Admin::new(state).accounts("capped").await.ok()?.into_iter().next());
    let account = account.await.expect("the account is listed");
    let number = |member: &str| usize::try_from(account[member].as_u64().unwrap()).unwrap();
    println!("{account}");
    assert!(number("settled") + number("leased") <= CAP, "{account}");
    assert_eq!((number("overrun"), number("over_grant")), (0, 0), "{account}");
    let report = reconciled(state).await;
    println!("{report}");
}

/// What `plant-gateway audit reconcile` says once every holder that was killed is closed.
async fn reconciled(state: &State) -> Value {
    let program = program::path().unwrap();
    let run = || {
        let mut command = Command::new(&program);
        command.args(["audit", "reconcile", "--format", "json", "--state"]).arg(state.run_dir.join("state.json"));
        command.arg("--access-log").arg(&state.access_log).env_remove("DATABASE_URL").output().unwrap()
    };
    let report = eventually(Duration::from_secs(60), async || {
        let output = run();
        let report: Value = serde_json::from_slice(&output.stdout).ok()?;
        (output.status.success() && report["on_their_way"] == 0).then_some(report)
    });
    report.await.unwrap_or_else(|| panic!("{:?}", run()))
}
