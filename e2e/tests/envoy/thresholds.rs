//! What happens as a budget nears its end, through Envoy: each level is told once, signed, whichever worker the charges come from;
//! an agent is paused; and a raised cap counts within a second on every worker.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use cli::stack::{Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Ask, Client};
use e2e::load::backend_tally;
use e2e::policies::without_budgets;
use e2e::revisions::{activate, publish};
use e2e::stacks::{eventually, options, ports, told};
use e2e::webhook_receiver::{Received, WebhookReceiver};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const PATIENCE: Duration = Duration::from_secs(20);
/// The promise.
const ENFORCED_WITHIN: Duration = Duration::from_secs(1);
/// So many connections reach both workers.
const CONNECTIONS: usize = 12;
const COSTLY: &str = "/v1/costly";

const POLICY: &str = r#"
budgets:
  - { name: guarded, unit: micro_usd, window: month, scope: "agent:{agent_id|subject}", cap: 20000, at_critical: pause_agent, status: 402 }
  - { name: open-rate, unit: requests, window: month, scope: "customer:{customer_id|subject}", cap: 5, durable: false, gateways: [PLANT], problem: rate-limit-exceeded, status: 429, on_unavailable: open }
routes:
  - { name: test.costly, gateways: [CP], methods: [GET], path: /v1/costly, require: authenticated, cost_micros: 1000 }
  - { name: test.slow, gateways: [PLANT], methods: [POST], path: /v1/slow, require: authenticated }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn levels_are_told_agents_paused_and_caps_raised() {
    let home = tempfile::tempdir().unwrap();
    let receiver = WebhookReceiver::start(home.path()).await.unwrap();
    let mut options = options("thresholds", ports::THRESHOLDS).unwrap();
    options.policies = without_budgets(home.path(), POLICY).unwrap();
    options.control_plane_env = receiver.control_plane_env();
    options.concurrency = 2;
    let stack = tokio::task::spawn_blocking(move || Stack::start(options)).await.unwrap();
    let stack = stack.unwrap_or_else(|error| panic!("{}", told(&error)));
    tell(stack.state(), home.path(), &receiver).await;
    told_once_and_paused(stack.state(), &receiver).await;
    raised_within_a_second(stack.state()).await;
    what_open_requests_hold_lets_nobody_through(stack.state()).await;
    stack.stop();
}

/// Whom to tell is put in force once the secret is there.
async fn tell(state: &State, home: &Path, receiver: &WebhookReceiver) {
    std::fs::write(state.run_dir.join("secrets/webhook"), SECRET).unwrap();
    let section = format!("reporting:\n  webhook: {{ url: '{}', secret: webhook }}\n", receiver.url());
    let folder = home.join("policies");
    std::fs::write(folder.join("routes/zz-reporting.yaml"), section).unwrap();
    let mut admin = Admin::new(state);
    let revision = publish(&mut admin, &authoring::directory::read(&folder).unwrap(), "a test").await.unwrap();
    activate(&mut admin, revision, "a test").await.unwrap();
}

fn token(state: &State, spec: TokenSpec) -> String {
    mint(&state.issuers["cp"], &spec).unwrap()
}

/// One request on each of some new connections: its status, and the problem's slug.
async fn on_every_worker(state: &State, token: &str) -> Vec<(u16, String)> {
    let mut answers = Vec::new();
    for _ in 0..CONNECTIONS {
        let answer = Client::new(&state.gateways["CP"]).send(&Ask::get(COSTLY).bearer(token)).await.unwrap();
        let kind = if answer.status == 200 { Value::Null } else { answer.json()["type"].clone() };
        answers.push((answer.status, kind.as_str().and_then(|kind| kind.rsplit('/').next()).unwrap_or_default().to_owned()));
    }
    answers
}

/// How many requests of a user are served until one is not, and its status.
async fn served(state: &State, token: &str) -> (usize, u16) {
    for served in 0..1_000 {
        let answer = Client::new(&state.gateways["CP"]).send(&Ask::get(COSTLY).bearer(token)).await.unwrap();
        if answer.status != 200 {
            return (served, answer.status);
        }
    }
    panic!("never spent");
}

async fn told_once_and_paused(state: &State, receiver: &WebhookReceiver) {
    let spec = || TokenSpec::new("agent-user", &["customer_user"]).customer("c-1").agent("a-guarded");
    let agent = token(state, spec());
    let mut admin = Admin::new(state);
    // The last unit may be spent, and no more; whether the next request meets the spent budget or the paused agent is a race.
    let (count, status) = served(state, &agent).await;
    assert!(count == 20 && matches!(status, 401 | 402), "{count}, then {status}");
    let events = eventually(PATIENCE, async || Some(receiver.received()).filter(|all| all.len() >= 3)).await.unwrap();
    let levels: BTreeMap<String, Value> = events.iter().map(level).collect();
    let scope = "agent:agent_id=9:a-guarded";
    for (name, percent, settled) in [("warning", 80, 16_000), ("high", 95, 19_000), ("critical", 100, 20_000)] {
        let data = &levels[name];
        assert_eq!((&data["budget"], &data["scope"], &data["percent"]), (&json!("guarded"), &json!(scope), &json!(percent)), "{data}");
        assert!(data["settled"].as_i64().unwrap() >= settled && data["cap"] == 20_000, "{data}");
    }
    assert_eq!(levels["critical"]["paused_agent"], json!("a-guarded"));
    tokio::time::sleep(ENFORCED_WITHIN).await;
    for answer in on_every_worker(state, &agent).await {
        assert_eq!(answer, (401, "token-revoked".into()));
    }

    // Freed, it is refused by its budget, with the true reset; and it is not paused again.
    let list = admin.json(Ask::get("/admin/v1/revocations")).await.unwrap();
    let paused = list["revocations"].as_array().unwrap().iter().find(|one| one["value"] == "a-guarded").unwrap_or_else(|| panic!("{list}"));
    let lift = Ask::new("DELETE", &format!("/admin/v1/revocations/{}?reason=back", paused["number"]));
    admin.json(lift).await.unwrap();
    tokio::time::sleep(ENFORCED_WITHIN).await;
    for answer in on_every_worker(state, &agent).await {
        assert_eq!(answer, (402, "budget-exceeded".into()));
    }
    // Regular reports of both workers pass by meanwhile.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let alerts = admin.json(Ask::get("/admin/v1/budgets/alerts?budget=guarded")).await.unwrap();
    assert_eq!(alerts["alerts"].as_array().unwrap().len(), 3, "{alerts}");
    assert_eq!(receiver.received().len(), 3, "each once");
    let metrics = Client::new(&state.admin).send(&Ask::get("/metrics")).await.unwrap().text();
    for name in ["warning", "high", "critical"] {
        let line = format!("gateway_control_plane_budget_thresholds_total{{budget=\"guarded\",level=\"{name}\"}} 1");
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }
}

/// An event's level and data, once its signature was found good, by another implementation than the one that signed.
fn level(event: &Received) -> (String, Value) {
    assert_eq!(event.header("webhook-signature"), event.signature(SECRET).unwrap());
    assert_eq!(event.json()["type"], "budget.threshold");
    let data = event.json()["data"].clone();
    (data["level"].as_str().unwrap().to_owned(), data)
}

async fn raised_within_a_second(state: &State) {
    let user = token(state, TokenSpec::new("raised", &["customer_user"]).customer("c-2"));
    assert_eq!(served(state, &user).await, (20, 402));
    // Both workers know that it is spent, and ask nobody.
    for answer in on_every_worker(state, &user).await {
        assert_eq!(answer, (402, "budget-exceeded".into()));
    }
    let cap = json!({"budget": "guarded", "scope": "agent:subject=2:cp,6:raised", "cap": 20_000 + 1_000 * CONNECTIONS, "reason": "a test"});
    Admin::new(state).json(Ask::post("/admin/v1/budgets/caps").json(&cap)).await.unwrap();
    tokio::time::sleep(ENFORCED_WITHIN).await;
    for answer in on_every_worker(state, &user).await {
        assert_eq!(answer, (200, String::new()));
    }
    for answer in on_every_worker(state, &user).await {
        assert_eq!(answer, (402, "budget-exceeded".into()), "the new cap holds, too");
    }
}

/// A rate that fails open does so when its store is away. Here it is well, and slow requests hold all of it: whoever waits longer than
/// a request may is refused, and does not reach the backend.
async fn what_open_requests_hold_lets_nobody_through(state: &State) {
    let user = token(state, TokenSpec::new("slow", &["customer_user"]).customer("c-slow"));
    let ask = Ask::post("/v1/slow").bearer(&user).header("x-echo-tally", "slow");
    let slow = ask.clone().header("x-echo-delay-ms", "7000");
    let mut holding = JoinSet::new();
    for _ in 0..5 {
        let (mut client, slow) = (Client::new(&state.gateways["PLANT"]), slow.clone());
        holding.spawn(async move { client.send(&slow).await.unwrap().status });
    }
    let reached = || async { backend_tally(&state.backend).await.unwrap().get("slow").copied() };
    eventually(PATIENCE, async || (reached().await == Some(5)).then_some(())).await.unwrap();
    let refused = Client::new(&state.gateways["PLANT"]).send(&ask).await.unwrap();
    assert_eq!((refused.status, refused.json()["check"].as_str()), (429, Some("budget")), "{}", refused.text());
    assert_eq!(reached().await, Some(5));
    assert_eq!(holding.join_all().await, [200; 5]);
}
