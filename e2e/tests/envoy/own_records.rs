//! What users see of themselves, through Envoy: their own audit records, answered by the control plane; and why they were refused, where
//! the policy has it told.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use cli::stack::{Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::http::{Answer, Ask, Client};
use e2e::load::backend_count;
use e2e::policies::without_budgets;
use e2e::program;
use e2e::stacks::{eventually, options, ports, told};
use serde_json::{Value, json};

/// Viewers have this permission, and customers do not.
const POLICY: &str = "
explanations:
  refusals: report.view
";
const LIST: &str = "/api/v1/audit/records";
const SUMMARIES: &str = "/api/v1/audit/daily-summaries";
const FLUSH: Duration = Duration::from_secs(10);

async fn ask(state: &State, gateway: &str, ask: Ask) -> Answer {
    Client::new(&state.gateways[gateway]).send(&ask).await.unwrap()
}

fn customer(state: &State, subject: &str, role: &str, customer: &str) -> String {
    mint(&state.issuers["cp"], &TokenSpec::new(subject, &[role]).customer(customer)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_see_what_is_theirs() {
    let home = tempfile::tempdir().unwrap();
    let mut options = options("own-records", ports::OWN_RECORDS).unwrap();
    options.policies = without_budgets(home.path(), POLICY).unwrap();
    let stack = tokio::task::spawn_blocking(move || Stack::start(options)).await.unwrap();
    let stack = stack.unwrap_or_else(|error| panic!("{}", told(&error)));
    own_records(stack.state()).await;
    explanations(stack.state()).await;
    stack.stop();
}

/// The users whose records somebody sees; nothing while none has arrived.
async fn users(state: &State, gateway: &str, path: &str, token: &str) -> BTreeSet<String> {
    let answer = ask(state, gateway, Ask::get(path).bearer(token)).await;
    assert_eq!(answer.status, 200, "{gateway} {path}: {}", answer.text());
    let records = answer.json()["records"].as_array().unwrap().clone();
    records.iter().map(|record| record["subject"].as_str().unwrap().to_owned()).collect()
}

async fn own_records(state: &State) {
    let [one, two, other] =
        [("one", "c-1"), ("two", "c-1"), ("other", "c-2")].map(|(subject, of)| customer(state, subject, "customer_user", of));
    let administrator = customer(state, "boss", "customer_admin", "c-1");
    for (subject, token) in [("one", &one), ("two", &two), ("other", &other)] {
        let sent = ask(state, "CP", Ask::get("/api/v1/agents").bearer(token).header("x-correlation-id", format!("of-{subject}"))).await;
        assert_eq!(sent.status, 200, "{}", sent.text());
    }
    let before = backend_count(&state.backend).await.unwrap();
    let arrived = eventually(FLUSH, async || {
        let seen = users(state, "CP", &format!("{LIST}?route=agents.list"), &administrator).await;
        (seen.len() == 2).then_some(seen)
    });
    assert_eq!(arrived.await, Some(BTreeSet::from(["one".to_owned(), "two".to_owned()])), "the administrator sees the customer's");
    for gateway in ["CP", "PLANT"] {
        assert_eq!(users(state, gateway, LIST, &one).await, BTreeSet::from(["one".to_owned()]), "{gateway}");
        assert_eq!(users(state, gateway, &format!("{LIST}?correlation_id=of-two"), &one).await, BTreeSet::new(), "{gateway}");
        assert_eq!(users(state, gateway, &format!("{LIST}?customer=c-2"), &administrator).await, BTreeSet::new(), "{gateway}");
        assert_eq!(ask(state, gateway, Ask::get(SUMMARIES).bearer(&one)).await.status, 200, "{gateway}");
    }
    // Another worker may have served them, and delivers by itself.
    let theirs = eventually(FLUSH, async || {
        let theirs = ask(state, "CP", Ask::get(&format!("{LIST}?correlation_id=of-other")).bearer(&other)).await.json();
        theirs["records"][0]["id"].as_str().map(str::to_owned)
    });
    let id = theirs.await.unwrap();
    for (token, status) in [(&other, 200), (&one, 404), (&administrator, 404)] {
        assert_eq!(ask(state, "CP", Ask::get(&format!("{LIST}/{id}")).bearer(token)).await.status, status);
    }
    for (asked, status) in [
        (Ask::get(LIST), 401),
        (Ask::get(&format!("{LIST}?shadow=true")).bearer(&one), 400),
        (Ask::post(LIST).bearer(&one).json(&json!({})), 404),
        (Ask::get("/api/v1/audit/recordsx").bearer(&one), 404),
        (Ask::get("/api/v1/audit/gaps").bearer(&one), 404),
        (Ask::get("/api/v1/audit/records/../gaps").bearer(&one), 400),
        (Ask::get("/api/v1/audit/%72ecords").bearer(&one), 400),
        (Ask::get("/admin/v1/audit").bearer(&administrator), 404),
    ] {
        let line = asked.line();
        assert_eq!(ask(state, "CP", asked).await.status, status, "{line}");
    }
    assert_eq!(backend_count(&state.backend).await.unwrap(), before, "the backend saw none of it");
    by_command(state, &one);
}

/// By the program that users have, at their gateway's address.
fn by_command(state: &State, token: &str) {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("token");
    std::fs::write(&file, token).unwrap();
    let program = program::path().unwrap();
    let run = |action: &[&str]| {
        let mut command = Command::new(&program);
        command.arg("audit").args(action).args(["--own", "--control-plane", &state.gateways["CP"], "--token-file"]).arg(&file);
        let output = command.env_remove("PLANT_ADMIN_TOKEN").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for text in [run(&["list"]), run(&["export"]), run(&["export", "--as", "csv"])] {
        assert!(text.contains("of-one") && !text.contains("of-two") && !text.contains("of-other"), "{text}");
    }
    run(&["summary"]);
}

async fn explanations(state: &State) {
    let viewer = mint(&state.issuers["pp"], &TokenSpec::new("why", &["viewer"])).unwrap();
    let refused = |token: &str| Ask::post("/api/v1/agents").bearer(token).json(&json!({}));
    let answer = ask(state, "PP", refused(&viewer)).await;
    let problem = answer.json();
    assert_eq!((answer.status, answer.header("content-type")), (403, Some("application/problem+json")), "{problem}");
    let explanation = &problem["explanation"];
    let checks: Vec<&Value> = explanation["checks"].as_array().unwrap().iter().collect();
    let last = checks.last().unwrap();
    assert_eq!((&last["check"], &last["outcome"], &last["rule"]), (&json!("permission"), &json!("permission_missing"), &problem["rule"]));
    assert!(last["read"].as_array().unwrap().contains(&json!({ "name": "roles", "value": "viewer" })), "{explanation}");
    assert_eq!(explanation["changes"][0]["change"], "role", "{explanation}");

    let customer = customer(state, "why-not", "customer_user", "c-1");
    for (gateway, ask_, status) in [
        ("PLANT", refused(&customer), 403),
        ("PP", Ask::post("/api/v1/agents"), 401),
        ("PP", refused("no.token.atall"), 401),
        ("PP", Ask::get("/api/v1/nowhere").bearer(&viewer), 404),
    ] {
        let answer = ask(state, gateway, ask_).await;
        assert_eq!((answer.status, answer.json().get("explanation")), (status, None), "{gateway}");
    }
}
