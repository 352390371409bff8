//! The edge: time-outs, retries and ejection towards the backends, Envoy's own refusals, what clients say to Envoy, and the headers
//! that every answer of the portal has. The stack's Envoy has the shipped configuration with shorter times and a few odd clusters.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cli::stack::{Stack, State, repository};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Answer, Ask, Client};
use e2e::policies::with_budget;
use e2e::raw::{self, RawAnswer};
use e2e::stacks::{InUse, Shared, eventually, options, ports, told};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PLAIN: &str = "/edge/plain";
const FLUSH: Duration = Duration::from_secs(10);

/// What browsers are told on the portal, whoever answers.
const SECURITY: [(&str, &str); 7] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("strict-transport-security", "max-age=31536000; includeSubDomains"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
    ("permissions-policy", "geolocation=(), camera=(), microphone=()"),
    ("x-xss-protection", "0"),
];

const ROUTES: &str = "
routes:
  - { name: edge.plain, gateways: [CP, PP], methods: [GET, HEAD, POST], path: /edge/plain, require: authenticated }
  - { name: edge.forward, gateways: [CP, PP], methods: [GET], path: /edge/forward, require: authenticated, credential: forward }
  - { name: edge.original, gateways: [CP, PP], methods: [GET], path: /edge/original, require: authenticated, credential: original_header }
  - { name: edge.events, gateways: [CP, PP], methods: [GET], path: /edge/events, require: authenticated, exchange: stream }
  - { name: edge.socket, gateways: [CP, PP], methods: [GET], path: /edge/socket, require: authenticated, exchange: websocket }
";

const BUDGET: &str = "
  - name: edge
    unit: requests
    window: month
    scope: \"customer:{customer_id}\"
    cap: 4000000000
    durable: true
    gateways: [CP]
    problem: rate-limit-exceeded
    status: 429
    on_unavailable: closed
";

/// Where a request goes that names it; kept apart from the shipped routes, with the shipped settings.
const ODD_ROUTE: &str = "                      - name: odd_unsent
                        match: { prefix: \"/\", headers: [{ name: x-test-cluster, present_match: true }] }
                        route: { cluster_header: x-test-cluster, timeout: 2s, retry_policy: *retry_unsent }
";

/// Port 1 of this machine refuses connections.
const ODD_CLUSTERS: &str = "
    - { name: empty, type: STATIC, connect_timeout: 1s, load_assignment: { cluster_name: empty } }
    - name: dead
      type: STATIC
      connect_timeout: 1s
      load_assignment: { cluster_name: dead, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 1 } } } }] }] }
    - name: full
      type: STATIC
      connect_timeout: 1s
      circuit_breakers: { thresholds: [{ max_connections: 0, max_pending_requests: 0 }] }
      load_assignment: { cluster_name: full, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 1 } } } }] }] }
    - name: pair
      type: STATIC
      connect_timeout: 1s
      circuit_breakers: *breakers
      outlier_detection: *outliers
      load_assignment:
        cluster_name: pair
        endpoints:
          - lb_endpoints:
              - { endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 1 } } } }
              - { endpoint: { address: { socket_address: { address: \"${BACKEND_ADDRESS}\", port_value: ${BACKEND_PORT} } } } }
";

/// The time-outs of the shipped configuration, and what the tests make of them.
const SHORTENED: [(&str, &str); 4] = [
    ("timeout: 30s", "timeout: 3s"),
    ("per_try_timeout: 10s", "per_try_timeout: 1s"),
    ("request_timeout: 120s", "request_timeout: 2s"),
    ("request_headers_timeout: 10s", "request_headers_timeout: 1s"),
];

static STACK: Shared = Shared::new(|| {
    let home = tempfile::tempdir().unwrap();
    let mut options = options("edge", ports::EDGE).unwrap();
    options.policies = with_budget(home.path(), BUDGET).unwrap();
    std::fs::write(options.policies.join("routes/zz-edge.yaml"), ROUTES).unwrap();
    options.envoy_template = template(&options.envoy_template, home.path().join("bootstrap.yaml"));
    Stack::start(options)
});

fn template(shipped: &Path, copy: PathBuf) -> PathBuf {
    let mut text = std::fs::read_to_string(shipped).unwrap();
    for (from, to) in SHORTENED {
        assert!(text.contains(from), "the shipped configuration has no `{from}`");
        text = text.replace(from, to);
    }
    let first = "                      - name: backend_safe\n";
    assert_eq!(text.matches(first).count(), 1);
    std::fs::write(&copy, text.replace(first, &[ODD_ROUTE, first].concat()) + ODD_CLUSTERS).unwrap();
    copy
}

fn stack() -> InUse {
    STACK.get().unwrap_or_else(|error| panic!("{}", told(&error)))
}

fn customer(state: &State, subject: &str) -> String {
    mint(&state.issuers["cp"], &TokenSpec::new(subject, &["customer_user"]).customer(subject)).unwrap()
}

/// On trial, and so sent to the sandbox.
fn on_trial(state: &State, subject: &str) -> String {
    mint(&state.issuers["cp"], &TokenSpec::new(subject, &["customer_user"]).customer(subject).trial_for(3_600)).unwrap()
}

async fn cp(state: &State, ask: &Ask) -> Answer {
    Client::new(&state.gateways["CP"]).send(ask).await.unwrap()
}

async fn cp_raw(state: &State, bytes: &[u8]) -> RawAnswer {
    raw::send(&state.gateways["CP"], bytes).await.unwrap()
}

/// A new id, for the echo backend to count tries by.
fn id(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Hears what the first try had to suffer, and sees how many tries there were.
async fn tries(state: &State, ask: Ask, id: &str) -> u32 {
    let answer = cp(state, &ask.header("x-echo-only-first", id)).await;
    let number: u32 = answer.header("x-echo-try").unwrap().parse().unwrap();
    number - 1
}

/// Problem details of Envoy's making, in the form of the filter's, and nothing of what is behind.
#[track_caller]
fn assert_problem(status: u16, slug: &str, instance: Option<&str>, answer: &RawAnswer) {
    let what = &answer.text;
    assert_eq!((answer.status, answer.header("content-type")), (Some(status), Some("application/problem+json")), "{what}");
    let body: Value = serde_json::from_str(answer.body()).expect(what);
    assert_eq!(body["type"], format!("https://waooaw.com/errors/{slug}"), "{what}");
    assert_eq!((body["status"].as_u64(), body["instance"].as_str()), (Some(status.into()), instance), "{what}");
    assert!(body["title"].is_string() && body["detail"].is_string(), "{what}");
    let told = what.to_ascii_lowercase();
    for internal in ["upstream", "reset reason", "disconnect", "127.0.0.1", "envoy", "overflow", "cluster"] {
        assert!(!told.contains(internal), "`{internal}` in {what}");
    }
    assert_eq!((answer.header("cache-control"), answer.header("server")), (Some("no-store"), Some("plant-gateway")), "{what}");
    assert_eq!(answer.header("retry-after").is_some(), status == 503, "{what}");
    assert_secure(answer);
}

/// Each of the portal's headers, once.
#[track_caller]
fn assert_secure(answer: &RawAnswer) {
    let head = answer.text.split("\r\n\r\n").next().unwrap().to_ascii_lowercase();
    for (name, value) in SECURITY {
        assert_eq!(head.matches(&format!("\r\n{name}:")).count(), 1, "{name} in {head}");
        assert_eq!(answer.header(name), Some(value), "{name} in {head}");
    }
}

#[tokio::test]
async fn a_safe_request_whose_first_try_breaks_is_repeated_charged_once_and_recorded_once() {
    let stack = stack();
    let state = stack.state();
    let mut admin = Admin::new(state);
    let customer = customer(state, &id("repeated"));
    let (correlation, mut used) = (id("repeated-once"), 0);
    for _ in 0..3 {
        let ask = Ask::get(PLAIN).bearer(&customer).header("x-echo-hang-up", "1").header("x-echo-only-first", id("hang-up"));
        let answer = cp(state, &ask.header("x-correlation-id", &correlation)).await;
        assert_eq!((answer.status, answer.header("x-echo-try")), (200, Some("2")), "{}", answer.text());
        used += 1;
    }
    let query = format!("correlation_id={correlation}");
    admin.audit_count_reaches(&query, used, FLUSH).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let records = admin.json(Ask::get(&format!("/admin/v1/audit?{query}"))).await.unwrap();
    let records = records["records"].as_array().unwrap();
    assert_eq!(records.len(), usize::try_from(used).unwrap(), "{records:#?}");
    assert!(records.iter().all(|record| charged(record) == 1 && record["status_code"] == 200), "{records:#?}");
}

/// What a record charges to the budget of these tests.
fn charged(record: &Value) -> i64 {
    let charges = record["charges"].as_array().unwrap();
    let edge: Vec<&Value> = charges.iter().filter(|charge| charge["budget"] == "edge").collect();
    assert_eq!(edge.len(), 1, "{record}");
    edge[0]["amount"].as_i64().unwrap()
}

#[tokio::test]
async fn what_could_be_done_twice_is_not_repeated() {
    let stack = stack();
    let state = stack.state();
    let customer = customer(state, &id("unrepeated"));
    let (tried, correlation) = (id("post"), id("unrepeated"));
    let bearer = format!("Bearer {customer}");
    let headers: [(&str, &[u8]); 4] = [
        ("authorization", bearer.as_bytes()),
        ("x-echo-hang-up", b"1"),
        ("x-echo-only-first", tried.as_bytes()),
        ("x-correlation-id", correlation.as_bytes()),
    ];
    let answer = cp_raw(state, &raw::request("POST", PLAIN.as_bytes(), &headers)).await;
    assert_problem(503, "service-unavailable", Some(PLAIN), &answer);
    assert!(answer.body().contains("may have been carried out"), "{}", answer.text);
    assert_eq!(tries(state, Ask::post(PLAIN).bearer(&customer), &tried).await, 1);
    // It may have been carried out, so it is paid for.
    let record = Admin::new(state).audit_record(&correlation, FLUSH).await.unwrap().expect("the request is recorded");
    assert_eq!((charged(&record), record["status_code"].as_u64()), (1, Some(503)), "{record}");
}

#[tokio::test]
async fn what_never_reached_the_backend_is_not_charged_however_often_it_was_tried() {
    let stack = stack();
    let state = stack.state();
    let customer = customer(state, &id("unreached"));
    let correlation = id("unreached");
    let ask = Ask::post(PLAIN).bearer(&customer).header("x-test-cluster", "dead").header("x-correlation-id", &correlation);
    assert_eq!(cp(state, &ask).await.status, 503);
    let record = Admin::new(state).audit_record(&correlation, FLUSH).await.unwrap().expect("the request is recorded");
    assert_eq!((charged(&record), record["status_code"].as_u64()), (0, Some(503)), "{record}");
    let stats = Client::new(&state.envoy_admin).send(&Ask::get("/stats?filter=cluster.dead.upstream_rq_retry$")).await.unwrap().text();
    assert!(!stats.trim_end().ends_with(": 0"), "it was tried again: {stats}");
}

#[tokio::test]
async fn a_safe_request_that_hangs_gets_a_second_try_beside_the_first() {
    let stack = stack();
    let state = stack.state();
    let customer = customer(state, &id("hedged"));
    let slow = |ask: Ask, id: &str| ask.bearer(&customer).header("x-echo-delay-ms", "6000").header("x-echo-only-first", id);
    let hedged = cp(state, &slow(Ask::get(PLAIN), &id("hang"))).await;
    assert_eq!((hedged.status, hedged.header("x-echo-try")), (200, Some("2")), "{}", hedged.text());
    assert!((1.0..2.5).contains(&hedged.took.as_secs_f64()), "{:?}", hedged.took);
    // One that is merely slow, on every try, is answered by the first.
    let merely_slow = cp(state, &Ask::get(PLAIN).bearer(&customer).header("x-echo-delay-ms", "1500")).await;
    assert_eq!(merely_slow.status, 200, "{}", merely_slow.text());
    assert!((1.4..2.3).contains(&merely_slow.took.as_secs_f64()), "{:?}", merely_slow.took);
    // What is not safe waits for its only try, and is told what that means.
    let tried = id("hang");
    let waited = cp(state, &slow(Ask::post(PLAIN), &tried)).await;
    assert_eq!(waited.status, 504, "{}", waited.text());
    assert!(waited.text().contains("https://waooaw.com/errors/gateway-timeout"), "{}", waited.text());
    assert!((2.9..4.5).contains(&waited.took.as_secs_f64()), "{:?}", waited.took);
    assert_eq!(tries(state, Ask::post(PLAIN).bearer(&customer), &tried).await, 1);
}

#[tokio::test]
async fn failures_of_the_backend_are_problems_that_say_what_happened_and_nothing_of_what_is_behind() {
    let stack = stack();
    let state = stack.state();
    let bearer = format!("Bearer {}", customer(state, &id("failed")));
    let cases: [(&str, &str, u16, &str, &str); 6] = [
        ("x-test-cluster", "empty", 503, "service-unavailable", "No healthy backend can be asked now. The request was not sent."),
        ("x-test-cluster", "full", 503, "service-unavailable", "as many requests as it can take. The request was not sent."),
        ("x-test-cluster", "dead", 503, "service-unavailable", "could not be reached. The request was not sent."),
        ("x-echo-hang-up", "1", 503, "service-unavailable", "may have been carried out"),
        ("x-echo-header-bytes", "100000", 502, "bad-gateway", "The backend sent no valid answer."),
        ("x-echo-delay-ms", "8000", 504, "gateway-timeout", "did not answer in time. The request may have been carried out."),
    ];
    for (header, value, status, slug, detail) in cases {
        let headers: [(&str, &[u8]); 3] =
            [("authorization", bearer.as_bytes()), (header, value.as_bytes()), ("x-correlation-id", b"failed")];
        let answer = cp_raw(state, &raw::request("POST", b"/edge/plain?secret=1", &headers)).await;
        assert_problem(status, slug, Some(PLAIN), &answer);
        assert!(answer.body().contains(detail), "{}", answer.text);
        assert!(answer.body().contains("\"correlation_id\":\"failed\""), "{}", answer.text);
        assert_eq!(answer.header("x-correlation-id"), Some("failed"), "{}", answer.text);
    }
}

#[tokio::test]
async fn what_envoy_refuses_by_itself_is_a_problem_too() {
    let stack = stack();
    let state = stack.state();
    let long = "x".repeat(40_000);
    let upgrade: [(&str, &[u8]); 2] = [("connection", b"upgrade"), ("upgrade", b"chess")];
    let cases: [(&[u8], u16, &str, Option<&str>); 6] = [
        (b"GET /edge/plain HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n", 400, "validation-error", None),
        (b"GET /edge/plain HTTP/1.1\r\nhost: a\r\nx_user_id: 1\r\n\r\n", 400, "validation-error", None),
        (b"GET /edge/plain HTTP/1.0\r\nhost: a\r\n\r\n", 426, "validation-error", None),
        (&raw::request("GET", b"/edge/plain", &[("x-long", long.as_bytes())]), 431, "validation-error", None),
        (&raw::request("GET", PLAIN.as_bytes(), &upgrade), 400, "upgrade-refused", Some(PLAIN)),
        (b"GET /edge/plain HTTP/1.1\r\nhost: a\r\nslow: ", 408, "gateway-timeout", None),
    ];
    for (bytes, status, slug, instance) in cases {
        let answer = cp_raw(state, bytes).await;
        let known = serde_json::from_str::<Value>(answer.body()).ok();
        let shown = known.as_ref().and_then(|body| body["instance"].as_str());
        assert!(shown == instance || shown == Some(PLAIN), "{}", answer.text);
        assert_problem(status, slug, shown, &answer);
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let stack = stack();
    let state = stack.state();
    let bearer = format!("Bearer {}", customer(state, &id("dripping")));
    let headers: [(&str, &[u8]); 2] = [("authorization", bearer.as_bytes()), ("content-length", b"10")];
    let mut bytes = raw::request("POST", PLAIN.as_bytes(), &headers);
    bytes.extend(b"123");
    assert_problem(408, "gateway-timeout", Some(PLAIN), &cp_raw(state, &bytes).await);
}

#[tokio::test]
async fn every_answer_of_the_portal_has_the_security_headers_once_and_names_no_product() {
    let stack = stack();
    let state = stack.state();
    let bearer = format!("Bearer {}", customer(state, &id("secured")));
    let of_backend: [(&str, &[u8]); 6] = [
        ("authorization", bearer.as_bytes()),
        ("x-echo-set-server", b"uvicorn/0.30"),
        ("x-echo-set-x-powered-by", b"Express"),
        ("x-echo-set-x-content-type-options", b"nosniff"),
        ("x-echo-set-strict-transport-security", b"max-age=1"),
        ("x-echo-set-x-xss-protection", b"1; mode=block"),
    ];
    let refused = raw::request("GET", PLAIN.as_bytes(), &[]);
    for bytes in [raw::request("GET", PLAIN.as_bytes(), &of_backend), refused, raw::request("GET", b"/health", &[])] {
        let answer = cp_raw(state, &bytes).await;
        assert_secure(&answer);
        assert_eq!((answer.header("server"), answer.header("x-powered-by")), (Some("plant-gateway"), None), "{}", answer.text);
    }
    // A page of the backend says itself what it may load and who may frame it.
    let page: [(&str, &[u8]); 3] = [
        ("authorization", bearer.as_bytes()),
        ("x-echo-set-content-security-policy", b"default-src 'self'"),
        ("x-echo-set-x-frame-options", b"SAMEORIGIN"),
    ];
    let answer = cp_raw(state, &raw::request("GET", PLAIN.as_bytes(), &page)).await;
    assert_eq!(
        (answer.header("content-security-policy"), answer.header("x-frame-options")),
        (Some("default-src 'self'"), Some("SAMEORIGIN"))
    );
    let partner = Client::new(&state.gateways["PP"]).send(&Ask::get("/health")).await.unwrap();
    assert_eq!((partner.status, partner.header("server")), (200, Some("plant-gateway")));
}

#[tokio::test]
async fn clients_do_not_steer_envoy_and_do_not_pose_as_a_proxy() {
    let stack = stack();
    let state = stack.state();
    let customer = customer(state, &id("steering"));
    let hurried = Ask::get(PLAIN).bearer(&customer).header("x-echo-delay-ms", "300");
    let hurried = ["x-envoy-upstream-rq-timeout-ms", "x-envoy-upstream-rq-per-try-timeout-ms", "x-envoy-upstream-stream-duration-ms"]
        .iter()
        .fold(hurried, |ask, name| ask.header(name, "50"));
    let answer = cp(state, &hurried).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let retried = Ask::post(PLAIN).bearer(&customer).header("x-echo-status", "503").header("x-echo-only-first", id("steered"));
    let retried = retried
        .header("x-envoy-retry-on", "5xx,reset")
        .header("x-envoy-max-retries", "5")
        .header("x-envoy-hedge-on-per-try-timeout", "true");
    let answer = cp(state, &retried).await;
    assert_eq!((answer.status, answer.header("x-echo-try")), (503, Some("1")), "{}", answer.text());

    let posing = [
        "x-envoy-retry-on",
        "x-envoy-decorator-operation",
        "x-envoy-original-path",
        "x-envoy-peer-metadata",
        "forwarded",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-forwarded-server",
        "x-original-url",
        "x-original-host",
        "x-rewrite-url",
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        "x-serverless-authorization",
    ];
    let tracing = ["traceparent", "tracestate", "baggage", "b3", "x-b3-traceid", "x-causation-id"];
    let ask = posing.iter().chain(&tracing).fold(Ask::get(PLAIN).bearer(&customer), |ask, name| ask.header(name, "said-by-client"));
    let answer = cp(state, &ask).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    for name in posing {
        assert!(answer.echoed(name).is_empty(), "{name}: {}", answer.text());
    }
    for name in tracing {
        assert_eq!(answer.echoed(name), ["said-by-client"], "{name}: {}", answer.text());
    }
}

#[tokio::test]
async fn the_backend_gets_the_credential_that_the_route_says_and_the_sandbox_none() {
    let stack = stack();
    let state = stack.state();
    let paying = customer(state, &id("paying"));
    let bearer = vec![format!("Bearer {paying}")];
    let cases = [(PLAIN, vec![], vec![]), ("/edge/forward", bearer.clone(), vec![]), ("/edge/original", vec![], bearer)];
    for (path, authorization, original) in cases {
        let answer = cp(state, &Ask::get(path).bearer(&paying)).await;
        assert_eq!(answer.answered_by(), "production", "{}", answer.text());
        assert_eq!((answer.echoed("authorization"), answer.echoed("x-original-authorization")), (authorization, original), "{path}");
        let trial = on_trial(state, &id("trial"));
        let answer = cp(state, &Ask::get(path).bearer(&trial)).await;
        assert_eq!(answer.answered_by(), "sandbox", "{}", answer.text());
        assert!(!answer.text().contains(&trial), "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_host_that_refuses_connections_is_left_out_and_nobody_notices() {
    let stack = stack();
    let state = stack.state();
    let customer = customer(state, &id("paired"));
    for _ in 0..20 {
        let answer = cp(state, &Ask::post(PLAIN).bearer(&customer).header("x-test-cluster", "pair")).await;
        assert_eq!((answer.status, answer.header("x-echo-listener")), (200, Some("production")), "{}", answer.text());
    }
    let ejected = eventually(Duration::from_secs(5), async || {
        let clusters = Client::new(&state.envoy_admin).send(&Ask::get("/clusters")).await.ok()?.text();
        clusters.contains("pair::127.0.0.1:1::health_flags::/failed_outlier_check").then_some(())
    });
    assert!(ejected.await.is_some());
}

#[tokio::test]
async fn the_configuration_is_valid_without_a_warning_also_with_identity_tokens_for_the_backend() {
    let stack = stack();
    let folder = stack.state().access_log.parent().unwrap().to_owned();
    let rendered = std::fs::read_to_string(folder.join("envoy.yaml")).unwrap();
    let with_tokens = rendered.replace("#gcp ", "");
    assert_ne!(with_tokens, rendered);
    let envoy = options("edge", ports::EDGE).unwrap().envoy_bin.unwrap_or_else(|| repository().join(".tools/bin/envoy"));
    for (name, text) in [("validated.yaml", rendered), ("validated-tokens.yaml", with_tokens)] {
        std::fs::write(folder.join(name), text).unwrap();
        let mut validation = Command::new(&envoy);
        validation.args(["--mode", "validate", "--log-level", "warning", "-c"]).arg(folder.join(name));
        let validated = validation.env("PLANT_DATA_PLANE_TOKEN", "validated").output().unwrap();
        let said = String::from_utf8_lossy(&validated.stderr).to_ascii_lowercase();
        assert!(validated.status.success() && !said.contains("deprecated"), "{name}: {said}");
    }
}

/// Reads a response as it comes: each server-sent event with how long it was on its way.
async fn events(state: &State, headers: &[(&str, &[u8])], path: &str) -> Vec<Duration> {
    let authority = state.gateways["CP"].strip_prefix("http://").unwrap().to_owned();
    let mut stream = TcpStream::connect(authority).await.unwrap();
    stream.write_all(&raw::request("GET", path.as_bytes(), headers)).await.unwrap();
    let (mut delays, mut seen, mut chunk) = (Vec::new(), String::new(), vec![0; 4_096]);
    loop {
        let length = timeout(FLUSH, stream.read(&mut chunk)).await.expect("the stream goes on or ends").unwrap_or(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        if length == 0 {
            return delays;
        }
        seen.push_str(std::str::from_utf8(&chunk[..length]).unwrap());
        while let Some((event, rest)) = seen.split_once("}\n\n") {
            let sent: u64 = event.rsplit_once("\"sent_us\":").unwrap().1.parse().unwrap();
            delays.push(now.saturating_sub(Duration::from_micros(sent)));
            seen = rest.to_owned();
        }
    }
}

#[tokio::test]
async fn an_event_passes_when_it_is_sent() {
    let stack = stack();
    let state = stack.state();
    let bearer = format!("Bearer {}", customer(state, &id("listening")));
    let headers: [(&str, &[u8]); 2] = [("authorization", bearer.as_bytes()), ("x-echo-events", b"20 every 100")];
    let mut delays = events(state, &headers, "/edge/events").await;
    assert_eq!(delays.len(), 20);
    delays.sort_unstable();
    println!("events on their way: median {:?}, longest {:?}", delays[10], delays[19]);
    assert!(delays[10] < Duration::from_millis(20), "{delays:?}");
    assert!(delays[19] < Duration::from_millis(100), "an event came after the next was sent: {delays:?}");
}

#[tokio::test]
async fn a_stream_outlives_the_time_out_where_its_route_says_that_it_is_one() {
    let stack = stack();
    let state = stack.state();
    let bearer = format!("Bearer {}", customer(state, &id("long")));
    let headers: [(&str, &[u8]); 2] = [("authorization", bearer.as_bytes()), ("x-echo-events", b"12 every 500")];
    let (plain, streamed) = tokio::join!(events(state, &headers, PLAIN), events(state, &headers, "/edge/events"));
    assert!((4..=8).contains(&plain.len()), "cut after 3 s: {plain:?}");
    assert_eq!(streamed.len(), 12, "{streamed:?}");
    // One that begins later than a try or an answer may take is waited for, and opened once.
    let late = Ask::get("/edge/events").header("authorization", &bearer).header("x-echo-delay-ms", "4000");
    let answer = cp(state, &late.header("x-echo-only-first", id("late"))).await;
    assert_eq!((answer.status, answer.header("x-echo-try")), (200, Some("1")), "{}", answer.text());
}

#[tokio::test]
async fn a_web_socket_is_opened_where_the_route_lists_it_and_outlives_every_time_out_of_a_request() {
    let stack = stack();
    let state = stack.state();
    let bearer = format!("Bearer {}", customer(state, &id("talking")));
    let correlation = id("talking");
    let handshake = |path: &str| {
        let head = [
            &format!("GET {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: {bearer}\r\nx-correlation-id: {correlation}\r\n"),
            "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            "x-echo-upgrade: 1\r\n\r\n",
        ];
        head.concat().into_bytes()
    };
    let refused = cp_raw(state, &handshake(PLAIN)).await;
    assert_eq!((refused.status, refused.header("x-echo-listener")), (Some(400), None), "{}", refused.text);
    assert!(refused.body().contains("https://waooaw.com/errors/upgrade-refused"), "{}", refused.text);

    let authority = state.gateways["CP"].strip_prefix("http://").unwrap().to_owned();
    let mut socket = TcpStream::connect(authority).await.unwrap();
    socket.write_all(&handshake("/edge/socket")).await.unwrap();
    let head = said(&mut socket, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for word in ["first", "second", "third"] {
        socket.write_all(word.as_bytes()).await.unwrap();
        assert_eq!(said(&mut socket, word).await, word);
        // Longer than the time-outs for a request and for an answer.
        tokio::time::sleep(Duration::from_millis(1_700)).await;
    }
    drop(socket);
    let query = format!("correlation_id={correlation}");
    let mut admin = Admin::new(state);
    admin.audit_count_reaches(&query, 2, FLUSH).await.unwrap();
    let records = admin.json(Ask::get(&format!("/admin/v1/audit?{query}"))).await.unwrap();
    let opened = records["records"].as_array().unwrap().iter().find(|record| record["route"] == "edge.socket");
    let opened = opened.expect("the socket is recorded");
    assert_eq!((charged(opened), opened["status_code"].as_u64()), (1, Some(101)), "{opened}");
}

/// Reads until this has come.
async fn said(socket: &mut TcpStream, end: &str) -> String {
    let (mut text, mut chunk) = (String::new(), [0; 1_024]);
    while !text.ends_with(end) {
        let length = timeout(FLUSH, socket.read(&mut chunk)).await.expect("an answer comes").unwrap();
        assert!(length > 0, "closed after `{text}`");
        text.push_str(std::str::from_utf8(&chunk[..length]).unwrap());
    }
    text
}
