//! Bad input gets a clear error and loses nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use cli::stack::{Stack, State, repository};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Answer, Ask, Client};
use e2e::raw;
use e2e::stacks::{InUse, Shared, options, ports, told};
use serde_json::{Value, json};

const AGENTS: &str = "/api/v1/agents";
const FLUSH: Duration = Duration::from_secs(10);

static STACK: Shared = Shared::new(|| Stack::start(options("bad-input", ports::BAD_INPUT).unwrap()));

fn stack() -> InUse {
    STACK.get().unwrap_or_else(|error| panic!("{}", told(&error)))
}

fn token(state: &State, subject: &str, role: &str) -> String {
    mint(&state.issuers["pp"], &TokenSpec::new(subject, &[role])).unwrap()
}

async fn pp(state: &State, ask: &Ask) -> Answer {
    Client::new(&state.gateways["PP"]).send(ask).await.unwrap()
}

fn assert_problem(answer: &Answer, status: u16, check: Option<&str>) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{}", answer.text());
    let body = answer.json();
    assert_eq!(body["status"].as_u64(), Some(u64::from(status)), "{body}");
    assert_eq!(body["check"].as_str(), check, "{body}");
    assert!(answer.header("x-echo-listener").is_none());
}

fn assert_raw_problem(answer: &raw::RawAnswer, status: u16) {
    assert_eq!(answer.status, Some(status), "{}", answer.text);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{}", answer.text);
    let body: Value = serde_json::from_str(answer.body()).unwrap_or_else(|error| panic!("{error}: {}", answer.text));
    assert_eq!(body["status"].as_u64(), Some(u64::from(status)), "{body}");
}

#[tokio::test]
async fn a_header_that_is_not_utf_8_does_no_harm() {
    let stack = stack();
    let state = stack.state();
    let viewer = token(state, "bytes", "viewer");
    let answer = pp(state, &Ask::get(AGENTS).bearer(&viewer).header("x-note", b"caf\xe9 \xff")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.echoed("x-note").len(), 1);

    let answer = pp(state, &Ask::get(AGENTS).header("authorization", b"Bearer \xff\xfe")).await;
    assert_problem(&answer, 401, Some("authentication"));

    let answer = pp(state, &Ask::get(AGENTS).bearer(&viewer).header("x-correlation-id", b"\xff\xff")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let made = answer.header("x-correlation-id").unwrap();
    assert!(uuid::Uuid::try_parse(made).is_ok(), "{made}");

    let orchestrator = token(state, "bytes", "agent_orchestrator");
    let delete = Ask::new("DELETE", "/api/v1/agents/a-1").bearer(&orchestrator).header("x-approval-id", b"\xff");
    assert_problem(&pp(state, &delete).await, 400, Some("approval"));
}

#[tokio::test]
async fn a_head_of_60_kb_is_refused_with_a_problem() {
    let stack = stack();
    let state = stack.state();
    let one = vec![b'a'; 60 * 1024];
    let answer = raw::send(&state.gateways["PP"], &raw::request("GET", AGENTS.as_bytes(), &[("x-long", &one)])).await.unwrap();
    assert_raw_problem(&answer, 431);

    let value = vec![b'b'; 2 * 1024];
    let many: Vec<(&str, &[u8])> = (0..30).map(|_| ("x-many", value.as_slice())).collect();
    let answer = raw::send(&state.gateways["CP"], &raw::request("GET", AGENTS.as_bytes(), &many)).await.unwrap();
    assert_raw_problem(&answer, 431);

    let short: Vec<(&str, &[u8])> = (0..150).map(|_| ("x-many", b"1".as_slice())).collect();
    let answer = raw::send(&state.gateways["PLANT"], &raw::request("GET", AGENTS.as_bytes(), &short)).await.unwrap();
    assert_raw_problem(&answer, 431);
}

#[tokio::test]
async fn a_token_of_a_megabyte_is_refused_with_a_problem() {
    let stack = stack();
    let state = stack.state();
    let token = [b"Bearer ".as_slice(), &vec![b'a'; 1024 * 1024]].concat();
    let answer = raw::send(&state.gateways["PP"], &raw::request("GET", AGENTS.as_bytes(), &[("authorization", &token)])).await.unwrap();
    assert_raw_problem(&answer, 431);
    // One that Envoy lets through is for the filter to refuse.
    let long = "a".repeat(30 * 1024);
    assert_problem(&pp(state, &Ask::get(AGENTS).bearer(&long)).await, 401, Some("authentication"));
}

#[tokio::test]
async fn repeated_headers_that_decide_are_refused() {
    let stack = stack();
    let state = stack.state();
    let viewer = token(state, "twice", "viewer");
    let answer = pp(state, &Ask::get(AGENTS).bearer(&viewer).bearer(&viewer)).await;
    assert_problem(&answer, 401, Some("authentication"));

    let orchestrator = token(state, "twice", "agent_orchestrator");
    let delete = Ask::new("DELETE", "/api/v1/agents/a-1").bearer(&orchestrator);
    let answer = pp(state, &delete.header("x-approval-id", "one").header("x-approval-id", "two")).await;
    assert_problem(&answer, 400, Some("approval"));

    let key = &state.registration_key;
    let register = Ask::post("/api/v1/customers").header("x-cp-registration-key", key).header("X-CP-Registration-Key", key);
    let answer = Client::new(&state.gateways["CP"]).send(&register).await.unwrap();
    assert_problem(&answer, 400, Some("path"));
}

#[tokio::test]
async fn a_correlation_id_that_is_no_uuid_is_kept_everywhere() {
    let stack = stack();
    let state = stack.state();
    let viewer = token(state, "correlated", "viewer");
    let id = "order-4711/step_2";
    let answer = pp(state, &Ask::get(AGENTS).bearer(&viewer).header("x-correlation-id", id)).await;
    assert_eq!((answer.status, answer.header("x-correlation-id")), (200, Some(id)));
    assert_eq!(answer.echoed("x-correlation-id"), [id]);
    let record = Admin::new(state).audit_record(id, FLUSH).await.unwrap().expect("the request is recorded");
    assert_eq!(record["correlation_id"], id);
}

#[tokio::test]
async fn ambiguous_paths_are_refused_and_never_repaired() {
    let stack = stack();
    let state = stack.state();
    let admin = token(state, "paths", "admin");
    let authorization = format!("Bearer {admin}");
    let paths: [&[u8]; 13] = [
        b"//api/v1/agents",
        b"/api/v1//agents",
        b"/api/v1/agents%2fa-1",
        b"/api/v1/agents%5ca-1",
        b"/api/v1/./agents",
        b"/api/v1/customers/../agents",
        b"/api/v1/agents/%2e%2e/admin",
        b"/api/v1/agents;v=1",
        b"/api/v1/agents%3bv=1",
        b"/api/v1/agents%00",
        b"/api/v1/agents%zz",
        b"/api/v1/%c0%af",
        b"/api/v1/agents\\a-1",
    ];
    for path in paths {
        let bytes = raw::request("GET", path, &[("authorization", authorization.as_bytes())]);
        let answer = raw::send(&state.gateways["PP"], &bytes).await.unwrap();
        assert_raw_problem(&answer, 400);
        assert!(answer.header("x-echo-listener").is_none());
    }
}

#[tokio::test]
async fn unknown_methods_and_old_http_are_refused() {
    let stack = stack();
    let state = stack.state();
    let bearer = format!("Bearer {}", token(state, "methods", "admin"));
    for method in ["BREW", "PROPFIND", "TRACE", "get"] {
        let bytes = raw::request(method, AGENTS.as_bytes(), &[("authorization", bearer.as_bytes())]);
        let answer = raw::send(&state.gateways["PP"], &bytes).await.unwrap();
        assert!(matches!(answer.status, Some(400 | 404)), "{method}: {}", answer.text);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{method}: {}", answer.text);
    }
    let old = b"GET /api/v1/agents HTTP/1.0\r\nhost: gateway\r\n\r\n";
    assert_raw_problem(&raw::send(&state.gateways["PP"], old).await.unwrap(), 426);
}

#[tokio::test]
async fn a_policy_with_an_unknown_field_is_refused_by_file_line_and_field_and_the_old_one_stays() {
    let stack = stack();
    let state = stack.state();
    let mut admin = Admin::new(state);
    let before = admin.json(Ask::get("/admin/v1/policies/active")).await.unwrap();
    let mut files = BTreeMap::new();
    read_policy(&repository().join("policies"), "", &mut files);
    let text = files.get_mut("routes/agents.yaml").unwrap();
    let line = 1 + text.lines().position(|line| line.contains("permission: agent.view")).unwrap();
    *text = text.replacen("    permission: agent.view\n", "    permissionn: agent.view\n", 1);
    let answer = admin.ask(Ask::post("/admin/v1/policies").json(&json!({"files": files, "reason": "a slip"}))).await.unwrap();
    assert_eq!(answer.status, 422, "{}", answer.text());
    let problem = answer.json();
    assert_eq!(problem["file"], "routes/agents.yaml", "{problem}");
    assert_eq!(problem["line"].as_u64(), Some(u64::try_from(line).unwrap()), "{problem}");
    assert!(problem["field"].as_str().unwrap().contains("permissionn"), "{problem}");
    let after = admin.json(Ask::get("/admin/v1/policies/active")).await.unwrap();
    assert_eq!(before, after);
    let ready = pp(state, &Ask::get("/ready")).await.json();
    assert_eq!(ready["activation"], after["activation"], "{ready} {after}");
    let viewer = token(state, "published", "viewer");
    assert_eq!(pp(state, &Ask::get(AGENTS).bearer(&viewer)).await.status, 200);
}

/// The policy files as a publication names them.
fn read_policy(folder: &Path, prefix: &str, files: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{prefix}{}", path.file_name().unwrap().to_string_lossy());
        if path.is_dir() && name != "cases" {
            read_policy(&path, &format!("{name}/"), files);
        } else if name.ends_with(".yaml") {
            files.insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
}
