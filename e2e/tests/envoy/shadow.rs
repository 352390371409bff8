//! A revision in shadow, through Envoy: what would change is counted by rule and sampled into the audit log, and nothing changes. And what
//! the control plane knows of what is enforced.

use std::time::Duration;

use cli::stack::{Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Ask, Client};
use e2e::policies::without_budgets;
use e2e::revisions::{activate, enforced, enforcement, publish};
use e2e::stacks::{eventually, options, ports, told};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

const PATIENCE: Duration = Duration::from_secs(10);
/// A switch is enforced within a second, and told within another; the machine of a test has other things to do.
const TOLD_WITHIN: Duration = Duration::from_secs(3);
const WORKERS: u16 = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_tells_what_would_change_and_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let mut options = options("shadow", ports::SHADOW).unwrap();
    options.policies = without_budgets(home.path(), "routes: []\n").unwrap();
    options.concurrency = WORKERS;
    let folder = options.policies.clone();
    let stack =
        tokio::task::spawn_blocking(move || Stack::start(options)).await.unwrap().unwrap_or_else(|error| panic!("{}", told(&error)));
    let state = stack.state();
    let mut admin = Admin::new(state);
    let mut files = authoring::directory::read(&folder).unwrap();
    let roles = files.get_mut("roles.yaml").unwrap();
    // Viewers may no longer see agents.
    let (head, viewer) = roles.split_once("- name: viewer").unwrap();
    *roles = format!("{head}- name: viewer{}", viewer.replacen("      - agent.view\n", "", 1));
    let revision = publish(&mut admin, &files, "viewers see less").await.unwrap();
    let begin = json!({"revision": revision, "reason": "is anybody a viewer?"});
    admin.json(Ask::post("/admin/v1/policies/shadow").json(&begin)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;

    let token = |role: &str| mint(&state.issuers["pp"], &TokenSpec::new(role, &[role])).unwrap();
    let (viewer, operator) = (token("viewer"), token("admin"));
    let mut client = Client::new(&state.gateways["PP"]);
    for request in 0..400 {
        let token = if request % 133 == 0 { &viewer } else { &operator };
        let ask = Ask::get("/api/v1/agents").bearer(token).header("x-correlation-id", format!("shadow-{request}"));
        assert_eq!(client.send(&ask).await.unwrap().status, 200, "a shadow decides nothing");
    }
    let report = eventually(PATIENCE, async || {
        let report = admin.json(Ask::get("/admin/v1/policies/shadow")).await.unwrap();
        (report["compared"].as_u64() >= Some(400)).then_some(report)
    });
    let report = report.await.unwrap_or_else(|| panic!("nothing was compared"));
    println!("{}", report["summary"]);
    let differences = report["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 1, "{report}");
    let difference = &differences[0];
    assert_eq!((&difference["check"], &difference["route"]), (&json!("permission"), &json!("agents.list")), "{report}");
    assert_eq!((&difference["active"], &difference["shadow"]), (&json!("ok"), &json!("permission_missing")), "{report}");
    assert_eq!(difference["count"].as_u64(), Some(4), "{report}");
    let record = admin.audit_record("shadow-133", PATIENCE).await.unwrap().unwrap();
    assert_eq!((&record["decision"], &record["shadow"]["reason"]), (&json!("permit"), &json!("permission_missing")), "{record}");
    let unchanged = admin.audit_record("shadow-1", PATIENCE).await.unwrap().unwrap();
    assert_eq!(unchanged["shadow"], Value::Null, "{unchanged}");

    every_worker_serves(state, &mut admin, &operator).await;
    activate(&mut admin, revision, "nobody is hurt").await.unwrap();
    let enforcement = enforced(&mut admin, revision, TOLD_WITHIN).await;
    let enforcement = enforcement.unwrap_or_else(|| panic!("workers without requests do not tell what they enforce"));
    assert_eq!(enforcement["summary"], format!("revision {revision} is enforced by {WORKERS} of {WORKERS} workers"));
    println!("{}", enforcement["summary"]);
    assert_eq!(client.send(&Ask::get("/api/v1/agents").bearer(&viewer)).await.unwrap().status, 403);
    let unmatched = "/admin/v1/policies/rules?unmatched_for_days=30";
    assert_eq!(admin.json(Ask::get(unmatched)).await.unwrap(), json!([]), "no rule of a policy of today has idled for 30 days");
    let mut database = PgConnection::connect(&state.database_admin_url).await.unwrap();
    sqlx::query("UPDATE rule_names SET since = since - interval '31 days'").execute(&mut database).await.unwrap();
    let rules = admin.json(Ask::get(unmatched)).await.unwrap();
    assert!(!rules.to_string().contains("\"agents.list\""), "a rule that matched 400 times is not unmatched: {rules}");
    assert!(rules.to_string().contains("\"tickets."), "a rule that never matched is: {rules}");
    stack.stop();
}

/// Every worker has had a request, and has nothing left to deliver: from now on only its heartbeat would call.
async fn every_worker_serves(state: &State, admin: &mut Admin, token: &str) {
    let mut sent = 0;
    let all = eventually(PATIENCE, async || {
        // A new connection comes to any worker.
        let ask = Ask::get("/api/v1/agents").bearer(token).header("x-correlation-id", format!("any-{sent}"));
        assert_eq!(Client::new(&state.gateways["PP"]).send(&ask).await.unwrap().status, 200);
        sent += 1;
        (enforcement(admin).await.unwrap()["workers"].as_u64() == Some(u64::from(WORKERS))).then_some(())
    });
    assert!(all.await.is_some(), "{sent} connections reached one worker");
    for number in 0..sent {
        assert!(admin.audit_record(&format!("any-{number}"), PATIENCE).await.unwrap().is_some(), "any-{number}");
    }
}
