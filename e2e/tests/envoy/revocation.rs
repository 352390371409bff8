//! Revocation through Envoy: every kind, on every worker within a second, also for tokens that the workers have verified before; it
//! outlives each part; and a hundred thousand entries are no burden.

use std::time::{Duration, Instant};

use cli::stack::{Part, Stack, State};
use cli::token::{TokenSpec, mint, now};
use e2e::admin::Admin;
use e2e::http::{Answer, Ask, Client};
use e2e::load::Load;
use e2e::policies::without_budgets;
use e2e::stacks::{InUse, Shared, eventually, options, ports, told};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const AGENTS: &str = "/api/v1/agents";
const PATIENCE: Duration = Duration::from_secs(20);
/// The promise.
const ENFORCED_WITHIN: Duration = Duration::from_secs(1);

static STACK: Shared = Shared::new(|| {
    let home = std::env::temp_dir().join(format!("plant-gateway-revocation-{}", std::process::id()));
    let mut options = options("revocation", ports::REVOCATION).unwrap();
    options.policies = without_budgets(&home, "routes: []\n").unwrap();
    let stack = Stack::start(options);
    std::fs::remove_dir_all(&home).unwrap_or(());
    stack
});

fn stack() -> InUse {
    STACK.get().unwrap_or_else(|error| panic!("{}", told(&error)))
}

async fn pp(state: &State, token: &str) -> Answer {
    Client::new(&state.gateways["PP"]).send(&Ask::get(AGENTS).bearer(token)).await.unwrap()
}

fn slug(answer: &Answer) -> String {
    answer.json()["type"].as_str().and_then(|uri| uri.rsplit('/').next()).unwrap_or_default().to_owned()
}

async fn revoke(state: &State, revocation: &Value) -> Value {
    Admin::new(state).json(Ask::post("/admin/v1/revocations").json(revocation)).await.unwrap()
}

/// Asks on many connections, so that every worker is asked; all answers have this status.
async fn everywhere(state: &State, token: &str, status: u16) {
    let load = Load { requests_max: 3, ..Load::new(&state.gateways["PP"], Ask::get(AGENTS).bearer(token), 12) };
    let samples = load.start().finished().await.unwrap();
    assert_eq!(samples.with(status), samples.len(), "{}", samples.summary());
}

fn minted(state: &State, spec: &TokenSpec) -> String {
    mint(&state.issuers["pp"], spec).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_is_enforced_within_a_second_and_can_be_lifted() {
    let stack = stack();
    let state = stack.state();
    let spec = |subject: &str| TokenSpec { issued_at: Some(now() - 30), ..TokenSpec::new(subject, &["viewer"]) };
    let mine = [
        (spec("r-token").claim("jti", json!("j-1")), json!({"kind": "token", "issuer": "pp", "value": "j-1"}), "token-revoked"),
        (spec("r-subject"), json!({"kind": "subject", "issuer": "pp", "value": "r-subject"}), "token-revoked"),
        (
            spec("r-version").claim("token_version", json!(3)),
            json!({"kind": "version", "issuer": "pp", "value": "r-version", "version_min": 4}),
            "token-version-mismatch",
        ),
        (spec("r-customer").customer("c-9"), json!({"kind": "customer", "value": "c-9"}), "token-revoked"),
        (spec("r-agent").agent("a-9"), json!({"kind": "agent", "value": "a-9"}), "token-revoked"),
    ];
    let other = minted(state, &spec("r-other").customer("c-8").agent("a-8").claim("jti", json!("j-2")));
    for (spec, revocation, wanted) in mine {
        let token = minted(state, &spec);
        everywhere(state, &token, 200).await;
        let mut revocation = revocation;
        revocation["reason"] = json!("test");
        let made = revoke(state, &revocation).await;
        tokio::time::sleep(ENFORCED_WITHIN).await;
        everywhere(state, &token, 401).await;
        let answer = pp(state, &token).await;
        assert_eq!(slug(&answer), wanted, "{revocation}: {}", answer.text());
        assert!(answer.header("www-authenticate").unwrap().contains("invalid_token"));
        everywhere(state, &other, 200).await;

        let number = made["number"].as_u64().or_else(|| made["id"].as_u64()).expect("a revocation has a number");
        let lift = format!("/admin/v1/revocations/{number}?reason=over");
        Admin::new(state).json(Ask::new("DELETE", &lift)).await.unwrap();
        tokio::time::sleep(ENFORCED_WITHIN).await;
        everywhere(state, &token, 200).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_were_issued_after_the_revocation_of_a_subject_are_good() {
    let stack = stack();
    let state = stack.state();
    let old = minted(state, &TokenSpec { issued_at: Some(now() - 60), ..TokenSpec::new("relogin", &["viewer"]) });
    everywhere(state, &old, 200).await;
    // Without a time, logins within the clock difference that the issuer is granted would be refused too.
    let before = time::OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339).unwrap();
    let item = json!({"kind": "subject", "issuer": "pp", "value": "relogin", "issued_before": before, "reason": "password changed"});
    revoke(state, &item).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    everywhere(state, &old, 401).await;
    everywhere(state, &minted(state, &TokenSpec::new("relogin", &["viewer"])), 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_in_does_not_outlast_a_revocation() {
    let stack = stack();
    let state = stack.state();
    let token = minted(state, &TokenSpec::new("dripping", &["agent_orchestrator"]).customer("c-drip"));
    let create = Ask::post("/api/v1/agents").bearer(&token).body("{\"a\":1}");
    let asked = Client::new(&state.gateways["PP"]).send(&create).await.unwrap();
    let approval = asked.json()["approval_id"].as_str().unwrap().to_owned();
    Admin::new(state).approve(&approval).await.unwrap();

    let authority = state.gateways["PP"].strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(authority).await.unwrap();
    let head = format!(
        "POST /api/v1/agents HTTP/1.1\r\nhost: {authority}\r\nauthorization: Bearer {token}\r\nx-approval-id: {approval}\r\ncontent-length: 7\r\nconnection: close\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    revoke(state, &json!({"kind": "customer", "value": "c-drip", "reason": "stolen"})).await;
    tokio::time::sleep(ENFORCED_WITHIN).await;
    stream.write_all(b"\"a\":1}").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("token-revoked"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_a_revoked_token_is_refused_within_a_second_and_nobody_else_is() {
    let stack = stack();
    let state = stack.state();
    let paced =
        |token: &str| Load { pace: Duration::from_millis(20), ..Load::new(&state.gateways["PP"], Ask::get(AGENTS).bearer(token), 20) };
    let victim = minted(state, &TokenSpec::new("victim", &["viewer"]).claim("jti", json!("victim-1")));
    let others = minted(state, &TokenSpec::new("others", &["viewer"]));
    let (victims, others) = (paced(&victim).start(), paced(&others).start());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let asked = Instant::now();
    revoke(state, &json!({"kind": "token", "issuer": "pp", "value": "victim-1", "reason": "stolen"})).await;
    let answered = Instant::now();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (victims, others) = (victims.stop().await.unwrap(), others.stop().await.unwrap());
    let served_last = victims.0.iter().filter(|sample| sample.status == Some(200)).map(|sample| sample.sent).max().unwrap();
    println!(
        "victim: {}; last served {:?} after the revocation was asked for, which took {:?}; others: {}",
        victims.summary(),
        served_last.saturating_duration_since(asked),
        answered - asked,
        others.summary()
    );
    assert_eq!(others.with(200), others.len(), "others: {}", others.summary());
    assert_eq!(victims.with(200) + victims.with(401), victims.len(), "victim: {}", victims.summary());
    assert_eq!(victims.between(victims.0[0].sent, asked).with(401), 0, "refused before it was revoked");
    assert!(served_last < answered + ENFORCED_WITHIN, "served {:?} after the revocation", served_last - answered);
    assert!(victims.with(401) > 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn revocations_outlive_every_part() {
    let home = tempfile::tempdir().unwrap();
    let mut options = options("revocation-restarts", ports::REVOCATION_RESTARTS).unwrap();
    options.policies = without_budgets(home.path(), "routes: []\n").unwrap();
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{}", told(&error)));
    let state = stack.state();
    let token = minted(state, &TokenSpec::new("kept", &["viewer"]).claim("jti", json!("kept-1")));
    everywhere(state, &token, 200).await;
    revoke(state, &json!({"kind": "token", "issuer": "pp", "value": "kept-1", "reason": "test"})).await;
    tokio::time::sleep(ENFORCED_WITHIN).await;
    everywhere(state, &token, 401).await;
    for part in [Part::ControlPlane, Part::Postgres, Part::Valkey, Part::Envoy] {
        let exits = stack.exits(part);
        stack.kill(part).unwrap();
        let back = eventually(PATIENCE, async || {
            // Whatever the state of things, the token is never served.
            if let Ok(answer) = Client::new(&state.gateways["PP"]).send(&Ask::get(AGENTS).bearer(&token)).await {
                assert!([401, 503].contains(&answer.status), "{part}: {}", answer.text());
            }
            let ready = Client::new(&state.gateways["PP"]).send(&Ask::get("/ready")).await.is_ok_and(|answer| answer.status == 200);
            (ready && stack.exits(part) > exits && stack.pids().of(part).is_some()).then_some(())
        });
        assert!(back.await.is_some(), "{part} does not come back");
        everywhere(state, &token, 401).await;
    }
    stack.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_revocations_reach_every_worker() {
    const ENTRIES: usize = 100_000;
    const CHUNK: usize = 10_000;
    let home = tempfile::tempdir().unwrap();
    let mut options = options("revocation-many", ports::REVOCATION_MANY).unwrap();
    options.policies = without_budgets(home.path(), "routes: []\n").unwrap();
    options.concurrency = 2;
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{}", told(&error)));
    let state = stack.state();
    let good = minted(state, &TokenSpec::new("good", &["viewer"]));
    everywhere(state, &good, 200).await;
    let before = resident_kib(&stack);
    let mut admin = Admin::new(state);
    for chunk in 0..ENTRIES / CHUNK {
        let lines: String = (0..CHUNK)
            .map(|line| format!("{}\n", json!({"kind": "token", "issuer": "pp", "value": format!("many-{}", chunk * CHUNK + line)})))
            .collect();
        let ask = Ask::post("/admin/v1/revocations/import?reason=test").header("content-type", "application/x-ndjson").body(lines);
        admin.json(ask).await.unwrap();
    }
    let last = minted(state, &TokenSpec::new("last", &["viewer"]).claim("jti", json!(format!("many-{}", ENTRIES - 1))));
    let imported = Instant::now();
    let enforced = eventually(PATIENCE, async || (pp(state, &last).await.status == 401).then_some(())).await;
    assert!(enforced.is_some());
    everywhere(state, &last, 401).await;
    everywhere(state, &minted(state, &TokenSpec::new("first", &["viewer"]).claim("jti", json!("many-0"))), 401).await;
    everywhere(state, &good, 200).await;
    let grown = resident_kib(&stack).saturating_sub(before);
    println!("{ENTRIES} revocations, the last enforced {:?} after the import; Envoy grew by {grown} KiB", imported.elapsed());
    // Two workers and the main thread each hold them.
    assert!(grown <= 3 * 8 * 1024, "Envoy grew by {grown} KiB");

    // A new Envoy learns them all before it serves anybody.
    let exits = stack.exits(Part::Envoy);
    stack.kill(Part::Envoy).unwrap();
    let killed = Instant::now();
    let back = eventually(PATIENCE, async || {
        let answer = Client::new(&state.gateways["PP"]).send(&Ask::get(AGENTS).bearer(&last)).await.ok()?;
        assert!([401, 503].contains(&answer.status), "{}", answer.text());
        (answer.status == 401 && stack.exits(Part::Envoy) > exits).then_some(())
    });
    assert!(back.await.is_some());
    println!("a new Envoy enforces them {:?} after the old one was killed", killed.elapsed());
    everywhere(state, &last, 401).await;
    everywhere(state, &good, 200).await;
    stack.stop();
}

fn resident_kib(stack: &Stack) -> u64 {
    let pid = stack.pids().envoy.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}
