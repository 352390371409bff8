//! An Envoy that starts while the control plane is away: requests wait and then get 503, never 401 and never through; with a bundle in its
//! configuration it verifies what it can.

use std::time::{Duration, Instant};

use cli::stack::{Options, Part, Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Answer, Ask, Client};
use e2e::policies::without_budgets;
use e2e::stacks::{eventually, options, ports, told};
use e2e::tokens::forged;

const AGENTS: &str = "/api/v1/agents";
const PATIENCE: Duration = Duration::from_secs(30);

fn start(options: Options) -> Stack {
    Stack::start(options).unwrap_or_else(|error| panic!("{}", told(&error)))
}

async fn pp(state: &State, token: &str) -> Answer {
    Client::new(&state.gateways["PP"]).send(&Ask::get(AGENTS).bearer(token)).await.unwrap()
}

/// Halts the control plane and starts Envoy anew.
async fn restart_envoy_alone(stack: &Stack) {
    stack.pause(Part::ControlPlane).unwrap();
    let exits = stack.exits(Part::Envoy);
    stack.kill(Part::Envoy).unwrap();
    let url = stack.state().gateways["PP"].clone();
    let up = eventually(PATIENCE, async || {
        let answers = Client::new(&url).send(&Ask::get("/health")).await.is_ok_and(|answer| answer.status == 200);
        (answers && stack.exits(Part::Envoy) > exits).then_some(())
    });
    assert!(up.await.is_some(), "Envoy does not come back");
}

#[tokio::test(flavor = "multi_thread")]
async fn before_anything_is_known_requests_wait_and_then_get_503() {
    let stack = start(options("cold", ports::COLD).unwrap());
    let state = stack.state();
    let good = mint(&state.issuers["pp"], &TokenSpec::new("cold", &["viewer"])).unwrap();
    assert_eq!(pp(state, &good).await.status, 200);
    restart_envoy_alone(&stack).await;

    let ready = Client::new(&state.gateways["PP"]).send(&Ask::get("/ready")).await.unwrap();
    assert_eq!(ready.status, 503, "{}", ready.text());
    for token in [good.clone(), forged(&good), "rubbish".to_owned()] {
        let asked = Instant::now();
        let answer = pp(state, &token).await;
        assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true), "{}", answer.text());
        assert!(answer.header("www-authenticate").is_none() && answer.header("x-echo-listener").is_none());
        assert!(asked.elapsed() >= Duration::from_secs(2), "it did not wait: {:?}", asked.elapsed());
    }
    // One that waits while the control plane comes back is served.
    let waiting = tokio::spawn({
        let (url, good) = (state.gateways["PP"].clone(), good.clone());
        async move { Client::new(&url).send(&Ask::get(AGENTS).bearer(&good)).await.unwrap() }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    stack.resume(Part::ControlPlane).unwrap();
    let answer = waiting.await.unwrap();
    assert!([200, 503].contains(&answer.status), "{}", answer.text());
    let served = eventually(PATIENCE, async || (pp(state, &good).await.status == 200).then_some(())).await;
    assert!(served.is_some(), "{}", pp(state, &good).await.text());
    assert_eq!(pp(state, &forged(&good)).await.status, 401);
    stack.stop();
}

/// `when_unknown` is the policy's `failure_modes.revocation`.
async fn with_embedded_bundle(name: &str, port_base: u16, when_unknown: &str) -> (Stack, tempfile::TempDir) {
    let home = tempfile::tempdir().unwrap();
    let mut options = options(name, port_base).unwrap();
    options.policies = without_budgets(home.path(), "routes: []\n").unwrap();
    let settings = options.policies.join("settings.yaml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let changed = text.replace("revocation: closed", &format!("revocation: {when_unknown}"));
    std::fs::write(&settings, changed).unwrap();
    let stack = start(options);
    let state = stack.state();
    let bundle = Admin::new(state).ask(Ask::get("/admin/v1/policies/active/bundle")).await.unwrap();
    assert_eq!(bundle.status, 200, "{}", bundle.text());
    embed(state, bundle.json()["bundle"].as_str().unwrap());
    restart_envoy_alone(&stack).await;
    (stack, home)
}

/// Puts the bundle into the configuration of every listener's filter.
fn embed(state: &State, bundle: &str) {
    let path = state.run_dir.join("envoy.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let embedded = text.replace("\"gateway\":", &format!("\"bundle\": \"{bundle}\", \"gateway\":"));
    assert_ne!(embedded, text, "the plugin configuration looks different");
    std::fs::write(&path, embedded).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_bundle_waits_for_revocations() {
    let (stack, _home) = with_embedded_bundle("cold-embedded", ports::EMBEDDED, "closed").await;
    let state = stack.state();
    let good = mint(&state.issuers["pp"], &TokenSpec::new("cold", &["viewer"])).unwrap();
    let answer = pp(state, &good).await;
    assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true), "{}", answer.text());
    // What needs no token does not wait.
    let public = Client::new(&state.gateways["PP"]).send(&Ask::post("/api/v1/auth/logout")).await.unwrap();
    assert_eq!(public.status, 200, "{}", public.text());
    assert_eq!(
        Client::new(&state.gateways["PP"]).send(&Ask::get(AGENTS)).await.unwrap().status,
        401,
        "without a token there is nothing to know"
    );
    stack.resume(Part::ControlPlane).unwrap();
    let served = eventually(PATIENCE, async || (pp(state, &good).await.status == 200).then_some(())).await;
    assert!(served.is_some(), "{}", pp(state, &good).await.text());
    stack.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_bundle_serves_public_keys_where_the_policy_says_so() {
    let (stack, _home) = with_embedded_bundle("cold-allowed", ports::ALLOWED, "open").await;
    let state = stack.state();
    let good = mint(&state.issuers["pp"], &TokenSpec::new("cold", &["viewer"])).unwrap();
    assert_eq!(pp(state, &good).await.status, 200);
    assert_eq!(pp(state, &forged(&good)).await.status, 401);
    // A shared secret is in no configuration: those tokens cannot be judged.
    let legacy = mint(&state.issuers["legacy"], &TokenSpec::new("cold", &["viewer"])).unwrap();
    assert_eq!(pp(state, &legacy).await.status, 503);
    stack.resume(Part::ControlPlane).unwrap();
    let served = eventually(PATIENCE, async || (pp(state, &legacy).await.status == 200).then_some(())).await;
    assert!(served.is_some(), "{}", pp(state, &legacy).await.text());
    stack.stop();
}
