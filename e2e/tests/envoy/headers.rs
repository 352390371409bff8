//! What reaches the backend, what reaches the client, and what is counted and logged about it.

use std::time::Duration;

use cli::stack::{Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Answer, Ask, Client};
use e2e::raw;
use e2e::stacks::{InUse, Shared, eventually, options, ports, told};
use e2e::tokens::forged;
use serde_json::{Value, json};

const AGENTS: &str = "/api/v1/agents";
const TASKS: &str = "/api/v1/tasks";
const MEGABYTES_3: usize = 3 * 1024 * 1024;

static STACK: Shared = Shared::new(|| Stack::start(options("headers", ports::HEADERS).unwrap()));

fn stack() -> InUse {
    STACK.get().unwrap_or_else(|error| panic!("{}", told(&error)))
}

fn token(state: &State, subject: &str, role: &str) -> String {
    mint(&state.issuers["pp"], &TokenSpec::new(subject, &[role])).unwrap()
}

async fn pp(state: &State, ask: &Ask) -> Answer {
    Client::new(&state.gateways["PP"]).send(ask).await.unwrap()
}

#[tokio::test]
async fn trust_headers_of_clients_never_reach_the_backend() {
    const STRIPPED: [&str; 24] = [
        "x-user-id",
        "x-user-roles",
        "x-user-anything",
        "x-customer-id",
        "x-agent-id",
        "x-gateway",
        "x-gateway-type",
        "x-gateway-secret",
        "x-trial-mode",
        "x-target-backend",
        "x-metering-tokens",
        "x-original-authorization",
        "x-rbac-roles",
        "x-governor-agent-id",
        "x-policy-trial-mode",
        "x-debug-trace",
        "x-cp-registration-key",
        "x-real-ip",
        "x-forwarded-user",
        "x-auth-request-user",
        "x-role",
        "x-roles",
        "x-email",
        "proxy-authorization",
    ];
    let stack = stack();
    let state = stack.state();
    let mine = TokenSpec { user_id: Some("u-1".to_owned()), ..TokenSpec::new("mine", &["viewer"]) }.customer("c-1");
    let token = mint(&state.issuers["pp"], &mine).unwrap();
    let spoofing = |ask: Ask| STRIPPED.iter().fold(ask, |ask, name| ask.header(name, "spoofed").header(&name.to_uppercase(), "spoofed"));
    let on_public = Ask::post("/api/v1/auth/refresh");
    for ask in [Ask::get(AGENTS).bearer(&token), on_public] {
        let answer = pp(state, &spoofing(ask)).await;
        assert_eq!((answer.status, answer.header("x-echo-listener")), (200, Some("production")), "{}", answer.text());
        assert!(!answer.text().contains("spoofed"), "{}", answer.text());
    }
    let answer = pp(state, &Ask::get(AGENTS).bearer(&token)).await;
    assert_eq!((answer.echoed("x-user-id"), answer.echoed("x-customer-id")), (vec!["u-1".to_owned()], vec!["c-1".to_owned()]));
    assert!(answer.echoed("authorization").is_empty(), "{}", answer.text());
}

#[tokio::test]
async fn a_header_with_an_underscore_is_refused() {
    let stack = stack();
    let answer = raw::send(&stack.state().gateways["PP"], &raw::request("GET", b"/health", &[("x_user_id", b"1")])).await.unwrap();
    assert_eq!(answer.status, Some(400), "{}", answer.text);
}

#[tokio::test]
async fn only_routes_that_say_so_pass_the_token_on() {
    let stack = stack();
    let state = stack.state();
    let token = token(state, "validated", "viewer");
    let answer = pp(state, &Ask::get("/api/v1/auth/validate").bearer(&token)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.echoed("x-original-authorization"), [format!("Bearer {token}")]);
    assert!(answer.echoed("authorization").is_empty());
}

#[tokio::test]
async fn request_ids_are_made_here_and_the_clients_becomes_the_cause() {
    let stack = stack();
    let state = stack.state();
    let token = token(state, "caused", "viewer");
    let answer = pp(state, &Ask::get(AGENTS).bearer(&token).header("x-request-id", "theirs-1")).await;
    let ids = answer.echoed("x-request-id");
    let [id] = ids.as_slice() else { panic!("{}", answer.text()) };
    assert_eq!(uuid::Uuid::try_parse(id).unwrap().get_version_num(), 7, "{id}");
    let correlation = answer.header("x-correlation-id").unwrap();
    let record = Admin::new(state).audit_record(correlation, Duration::from_secs(10)).await.unwrap().expect("the request is recorded");
    assert_eq!((record["request_id"].as_str(), record["causation_id"].as_str()), (Some(id.as_str()), Some("theirs-1")), "{record}");
}

#[tokio::test]
async fn the_correlation_id_comes_back_on_every_kind_of_answer() {
    let stack = stack();
    let state = stack.state();
    let viewer = token(state, "echoed", "viewer");
    let asks =
        [Ask::get(AGENTS).bearer(&viewer), Ask::get(AGENTS), Ask::post(AGENTS).bearer(&viewer), Ask::get("//"), Ask::get("/nowhere")];
    for (index, ask) in asks.into_iter().enumerate() {
        let id = format!("echoed-{index}");
        let answer = pp(state, &ask.header("x-correlation-id", &id)).await;
        assert_eq!(answer.header("x-correlation-id"), Some(id.as_str()), "{}", answer.text());
        if answer.status >= 400 {
            assert_eq!(answer.json()["correlation_id"], id.as_str(), "{}", answer.text());
        }
    }
}

#[tokio::test]
async fn the_access_log_has_one_line_per_request_without_query_or_credential() {
    let stack = stack();
    let state = stack.state();
    let viewer = token(state, "logged", "viewer");
    let asks = [Ask::get(&format!("{AGENTS}?secret=1")).bearer(&viewer), Ask::get(AGENTS), Ask::get("/health")];
    for (index, ask) in asks.into_iter().enumerate() {
        pp(state, &ask.header("x-correlation-id", format!("logged-{index}"))).await;
    }
    let read = || std::fs::read_to_string(&state.access_log).unwrap_or_default();
    let lines = eventually(Duration::from_secs(10), async || {
        let log = read();
        let ours: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(is_logged).collect();
        (ours.len() >= 3).then_some(ours)
    });
    let lines = lines.await.expect("the lines are written");
    let mut seen: Vec<(&str, u64)> =
        lines.iter().map(|line| (line["correlation_id"].as_str().unwrap(), line["code"].as_u64().unwrap())).collect();
    seen.sort_unstable();
    assert_eq!(seen, [("logged-0", 200), ("logged-1", 401), ("logged-2", 200)]);
    let log = read();
    assert!(!log.contains("secret=1") && !log.contains(&viewer), "the access log has a query or a token");
}

fn is_logged(line: &Value) -> bool {
    line["correlation_id"].as_str().is_some_and(|id| id.starts_with("logged-"))
}

#[tokio::test]
async fn problems_have_the_media_type_that_the_client_knows() {
    let stack = stack();
    let problem = "application/problem+json";
    let cases = [
        (None, problem),
        (Some("*/*"), problem),
        (Some("application/problem+json"), problem),
        (Some("application/json, application/problem+json"), problem),
        (Some("application/json"), "application/json"),
        (Some("text/html, application/json;q=0.9"), "application/json"),
        (Some("text/html"), problem),
    ];
    for (accept, expected) in cases {
        let ask = accept.map_or(Ask::get(AGENTS), |accept| Ask::get(AGENTS).header("accept", accept));
        let answer = pp(stack.state(), &ask).await;
        assert_eq!((answer.status, answer.header("content-type")), (401, Some(expected)), "{accept:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
}

#[tokio::test]
async fn challenges_follow_rfc_6750() {
    let stack = stack();
    let state = stack.state();
    let viewer = token(state, "challenged", "viewer");
    let challenge = async |ask: Ask| pp(state, &ask).await.header("www-authenticate").map(str::to_owned);
    assert_eq!(challenge(Ask::get(AGENTS)).await.as_deref(), Some("Bearer realm=\"plant-gateway\""));
    assert_eq!(
        challenge(Ask::get(AGENTS).bearer(&forged(&viewer))).await.as_deref(),
        Some("Bearer realm=\"plant-gateway\", error=\"invalid_token\"")
    );
    assert_eq!(
        challenge(Ask::post(AGENTS).bearer(&viewer)).await.as_deref(),
        Some("Bearer realm=\"plant-gateway\", error=\"insufficient_scope\"")
    );
    assert_eq!(challenge(Ask::get(AGENTS).bearer(&viewer)).await, None);
}

#[tokio::test]
async fn head_has_no_body_whoever_answers() {
    let stack = stack();
    let state = stack.state();
    let viewer = token(state, "head", "viewer");
    for (ask, status) in
        [(Ask::new("HEAD", AGENTS).bearer(&viewer), 200), (Ask::new("HEAD", AGENTS), 401), (Ask::new("HEAD", "/ready"), 200)]
    {
        let answer = pp(state, &ask).await;
        assert_eq!((answer.status, answer.body.len()), (status, 0));
    }
}

#[tokio::test]
async fn a_large_body_passes_whole() {
    let stack = stack();
    let state = stack.state();
    let orchestrator = token(state, "large", "agent_orchestrator");
    // The account is known after this, so that nothing has to wait.
    assert_eq!(pp(state, &Ask::get(TASKS).bearer(&orchestrator)).await.status, 200);
    let body = "x".repeat(MEGABYTES_3);
    let answer = served(state, &Ask::post(TASKS).bearer(&orchestrator).body(body.clone())).await;
    assert_eq!(answer.json()["body"].as_str().map(str::len), Some(MEGABYTES_3));
}

#[tokio::test]
async fn a_large_body_of_an_account_that_nobody_knows_is_served_or_told_to_come_back() {
    let stack = stack();
    let state = stack.state();
    for number in 0..4 {
        let token = token(state, &format!("cold-{number}"), "agent_orchestrator");
        let answer = served(state, &Ask::post(TASKS).bearer(&token).body("y".repeat(MEGABYTES_3))).await;
        assert_eq!(answer.json()["body"].as_str().map(str::len), Some(MEGABYTES_3));
    }
}

/// The answer of the backend; a request that was told to come back does so.
async fn served(state: &State, ask: &Ask) -> Answer {
    let answer = eventually(Duration::from_secs(20), async || {
        let answer = pp(state, ask).await;
        if answer.status == 503 {
            assert!(answer.header("retry-after").is_some(), "{}", answer.text());
            return None;
        }
        Some(answer)
    });
    let answer = answer.await.expect("the request is served in the end");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer
}

#[tokio::test]
async fn a_chunked_body_passes_whole() {
    let stack = stack();
    let state = stack.state();
    let bearer = format!("Bearer {}", token(state, "chunked", "agent_orchestrator"));
    let headers: [(&str, &[u8]); 2] = [("authorization", bearer.as_bytes()), ("transfer-encoding", b"chunked")];
    let mut bytes = raw::request("POST", TASKS.as_bytes(), &headers);
    for _ in 0..100 {
        bytes.extend(format!("{:x}\r\n{}\r\n", 1000, "z".repeat(1000)).as_bytes());
    }
    bytes.extend(b"0\r\n\r\n");
    let answer = raw::send(&state.gateways["PP"], &bytes).await.unwrap();
    assert_eq!(answer.status, Some(200), "{}", answer.text);
    assert_eq!(answer.text.matches('z').count(), 100_000);
}

#[tokio::test]
async fn an_approval_is_good_for_one_body_and_one_time() {
    let stack = stack();
    let state = stack.state();
    let orchestrator = token(state, "bound", "agent_orchestrator");
    let create = |name: &str| Ask::post(AGENTS).bearer(&orchestrator).json(&json!({"name": name}));
    let answer = pp(state, &create("A")).await;
    assert_eq!(answer.status, 403, "{}", answer.text());
    let id = answer.json()["approval_id"].as_str().unwrap().to_owned();
    let again = pp(state, &create("A")).await;
    assert_eq!(again.json()["approval_id"].as_str(), Some(id.as_str()), "an identical pending request returns the same id");
    let undecided = pp(state, &create("A").header("x-approval-id", &id)).await;
    assert_eq!(undecided.status, 403, "{}", undecided.text());
    Admin::new(state).approve(&id).await.unwrap();

    let other = pp(state, &create("B").header("x-approval-id", &id)).await;
    assert_eq!((other.status, other.answered_by().as_str()), (403, "approval"), "{}", other.text());
    let approved = pp(state, &create("A").header("x-approval-id", &id)).await;
    assert_eq!((approved.status, approved.header("x-echo-listener")), (200, Some("production")), "{}", approved.text());
    assert!(approved.echoed("x-approval-id").is_empty());
    let again = pp(state, &create("A").header("x-approval-id", &id)).await;
    assert_eq!((again.status, again.answered_by().as_str()), (403, "approval"), "{}", again.text());

    let large = Ask::post(AGENTS).bearer(&orchestrator).body("x".repeat(100 * 1024));
    assert_eq!(pp(state, &large).await.status, 413);
}

#[tokio::test]
async fn decisions_are_counted_by_gateway_decision_and_reason() {
    let stack = stack();
    let state = stack.state();
    pp(state, &Ask::get(AGENTS).bearer(&token(state, "counted", "viewer"))).await;
    pp(state, &Ask::get(AGENTS)).await;
    let stats = Client::new(&state.envoy_admin).send(&Ask::get("/stats/prometheus")).await.unwrap().text();
    let series: Vec<&str> = stats.lines().filter(|line| line.starts_with("gateway_decisions_total{")).collect();
    for labels in [
        ["gateway=\"PP\"", "decision=\"permit\"", "reason=\"ok\""],
        ["gateway=\"PP\"", "decision=\"deny\"", "reason=\"credential_missing\""],
    ] {
        assert!(series.iter().any(|line| labels.iter().all(|label| line.contains(label))), "{labels:?} in {series:#?}");
    }
}
