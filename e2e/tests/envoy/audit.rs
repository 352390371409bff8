//! One audit record for every request: forwarded, refused by the filter, answered by it, or answered by Envoy before the filter was asked.

use std::time::Duration;

use cli::stack::{Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Ask, Client};
use e2e::program::gateway;
use e2e::raw;
use e2e::stacks::{eventually, options, ports, told};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const AGENTS: &str = "/api/v1/agents";
const FLUSH: Duration = Duration::from_secs(10);
const ROUNDS: u64 = 5;

#[tokio::test]
async fn every_request_has_exactly_one_record() {
    let stack = Stack::start(options("audit", ports::AUDIT).unwrap()).unwrap_or_else(|error| panic!("{}", told(&error)));
    let state = stack.state();
    let mut admin = Admin::new(state);
    let start = OffsetDateTime::now_utc().format(&Rfc3339).unwrap();
    let mut sent = 0;
    for _ in 0..ROUNDS {
        for (name, url) in &state.gateways {
            sent += answered_by_the_filter(state, name, url).await;
            sent += answered_by_envoy(url).await;
        }
    }
    let query = format!("from={start}");
    admin.audit_count_reaches(&query, sent, FLUSH).await.unwrap();
    // One record too many would come a little later than the last that was awaited.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let records = admin.json(Ask::get(&format!("/admin/v1/audit?{query}&limit=1000"))).await.unwrap();
    let records = records["records"].as_array().unwrap();
    let (of_envoy, of_filter): (Vec<&Value>, Vec<&Value>) = records.iter().partition(|record| record["stage"] == "envoy");
    println!("{sent} requests, {} records: {} of the filter, {} of Envoy", records.len(), of_filter.len(), of_envoy.len());
    assert_eq!(u64::try_from(records.len()).unwrap(), sent, "{}", summary(records));
    for status in [200, 400, 431] {
        assert!(of_envoy.iter().any(|record| record["status_code"] == status), "no record of Envoy's own {status}: {}", summary(records));
    }
    assert!(of_envoy.iter().all(|record| record["response_details"].is_string() && record["decision"] == "none"), "{}", summary(records));
    assert!(of_filter.iter().all(|record| record["http_method"].is_string() && record["reason"] != ""), "{}", summary(records));
    let dropped = Client::new(&state.envoy_admin).send(&Ask::get("/stats?filter=audit_records_dropped")).await.unwrap().text();
    assert!(dropped.lines().all(|line| line.ends_with(": 0")), "{dropped}");
    reconciled_until_a_line_is_added(state, sent).await;
    verified_until_it_is_touched(state).await;
    stack.stop();
}

/// What the operators' program says, run with these arguments on the stack.
fn audit(state: &State, arguments: &[&str]) -> (Option<i32>, String) {
    gateway(state, &[&["audit"], arguments].concat()).unwrap()
}

/// Every line of Envoy's access log has its record, whoever answered and whatever id the client sent; and one that has none is found.
async fn reconciled_until_a_line_is_added(state: &State, sent: u64) {
    let forged = "0192d3a0-0000-7000-8000-000000000001";
    for ask in [Ask::get("/nowhere"), Ask::get("/health")] {
        Client::new(&state.gateways["CP"]).send(&ask.header("x-request-id", forged)).await.unwrap();
    }
    let path = state.access_log.to_str().unwrap();
    let reconciled = eventually(FLUSH, async || {
        let (code, told) = audit(state, &["reconcile", "--format", "json", "--access-log", path]);
        let report: Value = serde_json::from_str(&told).ok()?;
        (code == Some(0) && report["on_their_way"] == 0 && report["recorded"].as_u64() > Some(sent)).then_some(report)
    });
    let report = reconciled.await;
    assert!(report.is_some(), "{:?}", audit(state, &["reconcile", "--access-log", path]));
    let report = report.unwrap();
    println!("{report}");
    assert_eq!((&report["recorded"], &report["unlogged"], &report["cut_off"]), (&report["lines"], &Value::from(0), &Value::from(0)));
    let log = std::fs::read_to_string(path).unwrap();
    let longer = state.run_dir.join("longer-access.log");
    let line = log.lines().nth(5).unwrap();
    let id = serde_json::from_str::<Value>(line).unwrap()["record_id"].as_str().unwrap().to_owned();
    std::fs::write(&longer, format!("{log}{}\n", line.replace(&id, forged))).unwrap();
    // So long a record may be on its way.
    let found = eventually(Duration::from_secs(20), async || {
        let (code, told) = audit(state, &["reconcile", "--access-log", longer.to_str().unwrap()]);
        (code == Some(1)).then_some(told)
    });
    let told = found.await.expect("a line without a record");
    assert!(told.contains("1 LINES HAVE NO RECORD") && told.contains(forged), "{told}");
    std::fs::remove_file(longer).unwrap();
}

/// By the program that operators have: whole, and after a row was changed behind the control plane's back not.
async fn verified_until_it_is_touched(state: &State) {
    let verify = || audit(state, &["verify"]);
    let signed = eventually(Duration::from_secs(25), async || {
        let (code, told) = verify();
        (code == Some(0) && told.contains("every record is as it was written")).then_some(told)
    });
    println!("{}", signed.await.expect("a checkpoint every ten seconds"));
    let mut database = PgConnection::connect(&state.database_admin_url).await.unwrap();
    let touched: (String,) = sqlx::query_as(
        "UPDATE gateway_audit_logs SET status_code = 200 WHERE id = (SELECT min(id) FROM gateway_audit_logs WHERE status_code = 401) RETURNING id",
    )
    .fetch_one(&mut database)
    .await
    .unwrap();
    let (code, told) = verify();
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains(&touched.0), "{told}");
}

/// Sends what the filter decides on; says how much.
async fn answered_by_the_filter(state: &State, gateway: &str, url: &str) -> u64 {
    let (issuer, role) = if gateway == "PP" { ("pp", "viewer") } else { ("cp", "customer_user") };
    let token = mint(&state.issuers[issuer], &TokenSpec::new(&format!("audited-{gateway}"), &[role])).unwrap();
    let asks = [
        (Ask::get(AGENTS).bearer(&token), 200),
        (Ask::get(AGENTS).bearer(&token).header("x-echo-status", "503"), 503),
        (Ask::get(AGENTS), 401),
        (Ask::get("/nowhere"), 404),
        (Ask::get("//"), 400),
        (Ask::get("/health"), 200),
        (Ask::new("OPTIONS", AGENTS), 404),
    ];
    let mut client = Client::new(url);
    let mut sent = 0;
    for (ask, status) in asks {
        let answer = client.send(&ask).await.unwrap();
        assert_eq!(answer.status, status, "{gateway} {}: {}", ask.line(), answer.text());
        sent += 1;
    }
    sent
}

/// Sends what Envoy answers before the filter is asked; says how much.
async fn answered_by_envoy(url: &str) -> u64 {
    let preflight = Ask::new("OPTIONS", AGENTS).header("origin", "http://localhost:3000").header("access-control-request-method", "GET");
    assert_eq!(Client::new(url).send(&preflight).await.unwrap().status, 200);
    let long = vec![b'a'; 60 * 1024];
    let too_long = raw::send(url, &raw::request("GET", AGENTS.as_bytes(), &[("x-long", &long)])).await.unwrap();
    assert_eq!(too_long.status, Some(431), "{}", too_long.text);
    let garbled = raw::send(url, b"GET /api/v1/agents HTTP/1.1\r\nhost: gateway\r\nno colon\r\n\r\n").await.unwrap();
    assert_eq!(garbled.status, Some(400), "{}", garbled.text);
    3
}

fn summary(records: &[Value]) -> String {
    let line = |record: &Value| {
        let [stage, status, reason, path, details] =
            ["stage", "status_code", "reason", "endpoint", "response_details"].map(|member| record[member].to_string());
        format!("{stage} {status} {reason} {path} {details}")
    };
    records.iter().map(line).collect::<Vec<_>>().join("\n")
}
