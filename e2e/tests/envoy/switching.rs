//! Two revisions are put in force in turn, a hundred times, under 2,000 requests a second: every answer is right for the revision that
//! its audit record names, none is a mixture of both, and none is a failure. `SWITCHES` shortens it while working on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use cli::stack::{Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Ask, Client};
use e2e::policies::without_budgets;
use e2e::revisions::{activate, publish};
use e2e::stacks::{options, ports, told};
use sqlx::{Connection, PgConnection, Row};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// In both revisions the same requests; what becomes of them differs in every check that a request can pass.
const FIRST: &str = "
routes:
  - { name: switch.permission, gateways: [PLANT], methods: [GET], path: /switch/permission, require: permission, permission: agent.view, cost_micros: 0 }
  - { name: switch.trial, gateways: [PLANT], methods: [GET], path: /switch/trial, require: authenticated, cost_micros: 0 }
  - { name: switch.only-first, gateways: [PLANT], methods: [GET], path: /switch/moved, require: authenticated, cost_micros: 0 }
";
const SECOND: &str = "
routes:
  - { name: switch.permission, gateways: [PLANT], methods: [GET], path: /switch/permission, require: permission, permission: agent.delete, cost_micros: 0 }
  - { name: switch.trial, gateways: [PLANT], methods: [GET], path: /switch/trial, require: authenticated, trial: deny, cost_micros: 0 }
  - { name: switch.only-second, gateways: [PLANT], methods: [GET], path: '/switch/{anything}', require: public }
";

/// What a request comes to: status, reason, route, whether in the sandbox.
type Outcome = (u16, &'static str, &'static str, bool);

/// The requests, with what they come to under the first and under the second revision.
const PROBES: [(&str, Outcome, Outcome); 3] = [
    ("permission", (200, "ok", "switch.permission", false), (403, "permission_missing", "switch.permission", false)),
    ("trial", (200, "ok", "switch.trial", true), (403, "trial_restricted", "switch.trial", false)),
    ("moved", (200, "ok", "switch.only-first", false), (200, "ok", "switch.only-second", false)),
];

const CONNECTIONS: usize = 48;
const PACE: Duration = Duration::from_millis(20);

fn switches() -> usize {
    std::env::var("SWITCHES").ok().and_then(|text| text.parse().ok()).unwrap_or(100)
}

/// One connection: every probe in turn, each request with a correlation id of its own; and what came back.
async fn connection(number: usize, url: String, asks: Vec<Ask>, stopped: watch::Receiver<bool>) -> Vec<(String, Option<u16>, Duration)> {
    let mut client = Client::new(&url);
    let mut answers = Vec::new();
    for (sequence, (probe, ask)) in asks.iter().enumerate().cycle().enumerate() {
        if *stopped.borrow() {
            break;
        }
        let id = format!("switch-{probe}-{number}-{sequence}");
        let sent = Instant::now();
        let status = client.send(&ask.clone().header("x-correlation-id", &id)).await.ok().map(|answer| answer.status);
        answers.push((id, status, sent.elapsed()));
        tokio::time::sleep_until((sent + PACE).into()).await;
    }
    answers
}

fn asks(state: &State) -> Vec<Ask> {
    let viewer = mint(&state.issuers["pp"], &TokenSpec::new("switch", &["viewer"])).unwrap();
    let trial = mint(&state.issuers["cp"], &TokenSpec::new("switch-trial", &["customer_user"]).customer("c-1").trial_for(86_400)).unwrap();
    let token = |probe: &str| if probe == "trial" { &trial } else { &viewer };
    PROBES.iter().map(|(probe, _, _)| Ask::get(&format!("/switch/{probe}")).bearer(token(probe))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_that_of_one_revision_and_its_record_says_which() {
    let home = tempfile::tempdir().unwrap();
    let mut options = options("switching", ports::SWITCHING).unwrap();
    options.policies = without_budgets(home.path(), FIRST).unwrap();
    let second = tempfile::tempdir().unwrap();
    let second_folder = without_budgets(second.path(), SECOND).unwrap();
    let stack =
        tokio::task::spawn_blocking(move || Stack::start(options)).await.unwrap().unwrap_or_else(|error| panic!("{}", told(&error)));
    let state = stack.state();
    let mut admin = Admin::new(state);
    let files = authoring::directory::read(&second_folder).unwrap();
    let first = admin.json(Ask::get("/admin/v1/policies/active")).await.unwrap()["revision"].as_i64().unwrap();
    let second = publish(&mut admin, &files, "the second").await.unwrap();

    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    for number in 0..CONNECTIONS {
        connections.spawn(connection(number, state.gateways["PLANT"].clone(), asks(state), stopped.clone()));
    }
    let started = Instant::now();
    for switch in 0..switches() {
        let revision = if switch % 2 == 0 { second } else { first };
        activate(&mut admin, revision, "switched by a test").await.unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.send(true).unwrap();
    let mut answers = BTreeMap::new();
    let mut slowest = Duration::ZERO;
    while let Some(connection) = connections.join_next().await {
        for (id, status, took) in connection.unwrap() {
            slowest = slowest.max(took);
            answers.insert(id, status);
        }
    }
    let took = started.elapsed();
    let records = records(state, answers.len()).await;
    check(&answers, &records, [first, second], took, slowest);
    stack.stop();
}

struct Record {
    revision: i64,
    activation: i64,
    status: u16,
    reason: String,
    route: Option<String>,
    sandbox: bool,
}

/// All records of the test, once they are stored.
async fn records(state: &State, expected: usize) -> BTreeMap<String, Record> {
    let mut database = PgConnection::connect(&state.database_admin_url).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let query = "SELECT correlation_id, revision, activation, status_code, reason, route, sandbox FROM gateway_audit_logs \
                 WHERE correlation_id LIKE 'switch-%'";
    loop {
        let rows = sqlx::query(query).fetch_all(&mut database).await.unwrap();
        if rows.len() >= expected || Instant::now() >= deadline {
            let record = |row: &sqlx::postgres::PgRow| Record {
                revision: row.get("revision"),
                activation: row.get("activation"),
                status: u16::try_from(row.get::<i32, _>("status_code")).unwrap(),
                reason: row.get("reason"),
                route: row.get("route"),
                sandbox: row.get("sandbox"),
            };
            return rows.iter().map(|row| (row.get("correlation_id"), record(row))).collect();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn check(
    answers: &BTreeMap<String, Option<u16>>,
    records: &BTreeMap<String, Record>,
    [first, second]: [i64; 2],
    took: Duration,
    slowest: Duration,
) {
    let mut wrong = Vec::new();
    let mut seen = BTreeMap::<(usize, i64), usize>::new();
    let mut activations = BTreeSet::new();
    for (id, status) in answers {
        let probe: usize = id.split('-').nth(1).unwrap().parse().unwrap();
        let (_, under_first, under_second) = PROBES[probe];
        let Some(record) = records.get(id) else {
            wrong.push(format!("{id}: {status:?}, without a record"));
            continue;
        };
        let want = if record.revision == first { under_first } else { under_second };
        let got = (status.unwrap_or(0), record.reason.as_str(), record.route.as_deref().unwrap_or(""), record.sandbox);
        if ![first, second].contains(&record.revision) || got != want || record.status != got.0 {
            wrong.push(format!("{id}: revision {} wants {want:?}, got {got:?}, recorded {}", record.revision, record.status));
        }
        *seen.entry((probe, record.revision)).or_default() += 1;
        activations.insert(record.activation);
    }
    println!(
        "{} requests in {took:?} ({:.0}/s), {} switches, {} activations seen, slowest {slowest:?}; by probe and revision: {seen:?}",
        answers.len(),
        answers.len() as f64 / took.as_secs_f64(),
        switches(),
        activations.len(),
    );
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), answers.len(), wrong[..wrong.len().min(20)].join("\n"));
    assert_eq!(seen.len(), PROBES.len() * 2, "not every request met both revisions: {seen:?}");
    assert!(activations.len() * 10 >= switches() * 9, "only {} activations were ever enforced", activations.len());
}
