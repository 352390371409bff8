//! A backup is made with `pg_dump` and restored with `pg_restore` while Envoy goes on: the control plane is fenced until
//! `plant-gateway recover`, and afterwards nothing is spent twice, no approval is used twice, and the audit log verifies.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cli::stack::{Part, Stack, State, repository, tools};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Answer, Ask, Client};
use e2e::policies::without_budgets;
use e2e::program::gateway;
use e2e::stacks::{eventually, options, ports, told};
use serde_json::json;
use sqlx::{Connection, PgConnection};

const AGENTS: &str = "/api/v1/agents";
const CAP: usize = 200;
const POLICY: &str = "
routes: []
budgets:
  - name: capped
    unit: requests
    window: month
    scope: \"customer:{customer_id}\"
    cap: 200
    durable: true
    gateways: [CP]
    problem: rate-limit-exceeded
    status: 429
    on_unavailable: closed
  - name: by-minute
    unit: requests
    window: minute
    scope: \"agent:{agent_id|subject}\"
    cap: 20
    durable: true
    gateways: [PLANT]
    problem: rate-limit-exceeded
    status: 429
    on_unavailable: closed
";
/// Every ten seconds where the log stands is signed and exported.
const CHECKPOINT: Duration = Duration::from_secs(40);
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_is_fenced_and_goes_on_after_recover() {
    let home = tempfile::tempdir().unwrap();
    let mut options = options("restore", ports::RESTORE).unwrap();
    options.policies = without_budgets(home.path(), POLICY).unwrap();
    let stack =
        tokio::task::spawn_blocking(move || Stack::start(options)).await.unwrap().unwrap_or_else(|error| panic!("{}", told(&error)));
    let state = stack.state();
    let backup = home.path().join("backup");

    let mut spent = spend(state, "restored", 50).await;
    assert_eq!(by_minute(state).await, 1);
    let approval = approved(state).await;
    checkpointed(state).await;
    postgres(&["pg_dump", "--format", "custom", "--file", backup.to_str().unwrap(), "--dbname", &state.database_admin_url]);
    let exported = lines(&state.audit_checkpoints);
    // The database of the backup will not remember any of this.
    spent += spend(state, "restored", 60).await;
    assert_eq!(spent, 110, "before the restore there is room");
    assert_eq!(present(state, &approval).await.status, 200);
    eventually(CHECKPOINT, async || (lines(&state.audit_checkpoints) > exported).then_some(())).await.expect("a later checkpoint");

    restore(state, &backup).await;
    stack.kill(Part::ControlPlane).unwrap();
    let told = eventually(PATIENCE, async || restore_of(state).await.filter(|told| told.contains("plant-gateway recover"))).await;
    println!("fenced: {}", told.expect("the control plane is fenced"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(spend(state, "restored", 3).await, 0, "what was granted before is closed, and nothing is granted");
    assert_eq!(spend(state, "newcomer", 2).await, 0);
    assert_eq!(by_minute(state).await, 0);
    assert_ne!(present(state, &approval).await.status, 200, "an approval that the backup does not know as used");

    let done = recover(state);
    println!("{done}");
    assert!(done.contains("accounts grant nothing more until their windows end"), "{done}");
    eventually(PATIENCE, async || restore_of(state).await.filter(|told| told == "recovered")).await.expect("recovered");
    let served = eventually(PATIENCE + PATIENCE, async || (by_minute(state).await == 1).then_some(())).await;
    served.expect("what begins after the recovery is granted");
    assert_eq!(spend(state, "newcomer", 2).await, 0, "nobody knows what the newcomer has spent since the backup");
    // Each is refused after it has waited for a grant.
    spent += spend(state, "restored", 5).await;
    assert!(spent <= CAP, "{spent} of {CAP}");
    assert_eq!(spent, 110, "of a window that had begun nothing more is granted");
    assert_eq!(present(state, &approval).await.status, 403, "the approval is void");
    let anew = approved(state).await;
    assert_eq!(present(state, &anew).await.status, 200);
    let verified = eventually(CHECKPOINT, async || {
        let (code, told) = gateway(state, &["audit", "verify"]).unwrap();
        (code == Some(0)).then_some(told)
    });
    println!("{}", verified.await.unwrap_or_else(|| panic!("{:?}", gateway(state, &["audit", "verify"]).unwrap())));
    stack.stop();
}

/// How many of so many requests of a customer are let through.
async fn spend(state: &State, customer: &str, times: usize) -> usize {
    let token = mint(&state.issuers["cp"], &TokenSpec::new(customer, &["customer_user"]).customer(customer)).unwrap();
    let mut client = Client::new(&state.gateways["CP"]);
    let mut served = 0;
    for _ in 0..times {
        let answer = client.send(&Ask::get(AGENTS).bearer(&token)).await.unwrap();
        assert!([200, 429, 503].contains(&answer.status), "{}", answer.text());
        served += usize::from(answer.status == 200);
    }
    served
}

/// Whether a request is let through whose budget begins anew every minute.
async fn by_minute(state: &State) -> usize {
    let token = mint(&state.issuers["pp"], &TokenSpec::new("minutes", &["viewer"])).unwrap();
    let answer = Client::new(&state.gateways["PLANT"]).send(&Ask::get(AGENTS).bearer(&token)).await.unwrap();
    assert!([200, 429, 503].contains(&answer.status), "{}", answer.text());
    usize::from(answer.status == 200)
}

fn creation(state: &State) -> Ask {
    let token = mint(&state.issuers["pp"], &TokenSpec::new("builder", &["agent_orchestrator"])).unwrap();
    Ask::post(AGENTS).bearer(&token).json(&json!({"name": "A"}))
}

/// An approval that was given and not used.
async fn approved(state: &State) -> String {
    let answer = Client::new(&state.gateways["PP"]).send(&creation(state)).await.unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    let id = answer.json()["approval_id"].as_str().unwrap().to_owned();
    Admin::new(state).approve(&id).await.unwrap();
    id
}

async fn present(state: &State, approval: &str) -> Answer {
    Client::new(&state.gateways["PP"]).send(&creation(state).header("x-approval-id", approval)).await.unwrap()
}

async fn checkpointed(state: &State) {
    let first = eventually(CHECKPOINT, async || (lines(&state.audit_checkpoints) > 0).then_some(())).await;
    first.expect("a checkpoint");
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

/// What `/ready` says about it.
async fn restore_of(state: &State) -> Option<String> {
    let answer = Client::new(&state.admin).send(&Ask::get("/ready")).await.ok()?;
    answer.json()["restore"].as_str().map(str::to_owned)
}

/// As docs/running.md says it, in a cluster that has its roles still; who tries to come in meanwhile is cut off.
async fn restore(state: &State, backup: &Path) {
    let (server, database) = state.database_admin_url.split('?').next().unwrap().rsplit_once('/').unwrap();
    let login = state.database_url.strip_prefix("postgres://").unwrap().split(':').next().unwrap();
    let mut administrator = PgConnection::connect(&format!("{server}/template1")).await.unwrap();
    for statement in [
        format!("DROP DATABASE \"{database}\" WITH (FORCE)"),
        format!("CREATE DATABASE \"{database}\" OWNER \"{login}\" TEMPLATE template0"),
        format!("REVOKE CONNECT ON DATABASE \"{database}\" FROM PUBLIC"),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut administrator).await.unwrap();
    }
    administrator.close().await.unwrap();
    postgres(&["pg_restore", "--exit-on-error", "--single-transaction", "--dbname", &state.database_admin_url, backup.to_str().unwrap()]);
}

fn postgres(command: &[&str]) {
    let tools = tools::install(&repository(), &|_| {}).unwrap();
    let output = Command::new(tools.postgres_bin.join(command[0])).args(&command[1..]).output().unwrap();
    assert!(output.status.success(), "{}: {}", command[0], String::from_utf8_lossy(&output.stderr));
}

fn recover(state: &State) -> String {
    let (code, told) =
        gateway(state, &["recover", "--reason", "the disk was lost", "--from", state.audit_checkpoints.to_str().unwrap()]).unwrap();
    assert_eq!(code, Some(0), "{told}");
    told
}
