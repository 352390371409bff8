//! What `deploy/observability/` asks of metrics, held against a stack that runs: every metric, label and value of a rule or a panel is
//! there, once everything has happened that one counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cli::stack::{Part, Stack, State, repository};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Ask, Client};
use e2e::policies::without_budgets;
use e2e::revisions::{activate, publish};
use e2e::stacks::{eventually, options, ports, told};
use e2e::webhook_receiver::WebhookReceiver;

use self::expressions::{Use, labels_of, uses};
use self::live::Metrics;
use self::shipped::{groups, of_dashboard, of_rules, path, read, text};

mod expressions;
#[path = "../../../../docs/generated.rs"]
mod generated;
mod live;
mod shipped;

const PATIENCE: Duration = Duration::from_secs(40);

const POLICY: &str = r#"
budgets:
  - { name: scarce, unit: requests, window: month, scope: "customer:{customer_id|subject}", cap: 5, gateways: [CP], problem: rate-limit-exceeded, status: 429 }
  - { name: wide, unit: requests, window: month, scope: "customer:{customer_id|subject}", cap: 100000, gateways: [PP], problem: rate-limit-exceeded, status: 429 }
routes:
  - { name: test.scarce, gateways: [CP], methods: [GET], path: /v1/scarce, require: authenticated }
  - { name: test.wide, gateways: [PP], methods: [GET], path: /v1/wide, require: authenticated }
  - { name: test.approved, gateways: [PP], methods: [POST], path: /v1/approved, require: authenticated, approval: governor, cost_micros: 0 }
issuers:
  - { name: away, issuer: https://away.example.com, gateways: [CP], algorithms: [ES256], audiences: [a], jwks: { url: "https://localhost:1/keys" } }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_that_is_asked_for_is_there() {
    let home = tempfile::tempdir().unwrap();
    let receiver = WebhookReceiver::start(home.path()).await.unwrap();
    let mut options = options("observability", ports::OBSERVABILITY).unwrap();
    options.policies = without_budgets(home.path(), POLICY).unwrap();
    skip_a_check(&options.policies);
    options.control_plane_env = receiver.control_plane_env();
    for (name, value) in [("HOLDER_SILENCE_S", "5"), ("JWKS_HOSTS", "localhost:1"), ("JWKS_NETWORKS", "127.0.0.0/8,::1/128")] {
        options.control_plane_env.push((name.to_owned(), value.to_owned()));
    }
    let stack = tokio::task::spawn_blocking(move || Stack::start(options)).await.unwrap();
    let stack = stack.unwrap_or_else(|error| panic!("{}", told(&error)));
    let state = stack.state();
    tell(state, home.path(), &receiver).await;
    // What a worker had leased is forfeited when it is silent; the metrics of Envoy begin anew.
    traffic(state).await;
    stack.kill(Part::Envoy).unwrap();
    let again = eventually(PATIENCE, async || served(state).await.then_some(())).await;
    assert!(again.is_some(), "Envoy does not come back");
    traffic(state).await;
    approve(state).await;

    let asked: Vec<_> = of_rules().into_iter().chain(of_dashboard()).collect();
    assert!(asked.len() > 100, "{} expressions", asked.len());
    let recorded = recorded();
    let all = eventually(PATIENCE, async || wrong(state, &asked, &recorded).await.is_empty().then_some(())).await;
    let wrong = wrong(state, &asked, &recorded).await;
    assert!(all.is_some() && wrong.is_empty(), "{} are not there:\n{}", wrong.len(), wrong.join("\n"));
    stack.stop();
}

/// A flag of the copied policy is off.
fn skip_a_check(policies: &Path) {
    let file = policies.join("flags.yaml");
    let flags = fs::read_to_string(&file).unwrap();
    let (before, after) = flags.split_once("  - name: enable_trial_mode").unwrap();
    fs::write(&file, format!("{before}  - name: enable_trial_mode{}", after.replacen("default: on", "default: off", 1))).unwrap();
}

/// Thresholds are told to somebody.
async fn tell(state: &State, home: &Path, receiver: &WebhookReceiver) {
    fs::write(state.run_dir.join("secrets/webhook"), "0123456789abcdef0123456789abcdef").unwrap();
    let section = format!("reporting:\n  webhook: {{ url: '{}', secret: webhook }}\n", receiver.url());
    let folder = home.join("policies");
    fs::write(folder.join("routes/zz-reporting.yaml"), section).unwrap();
    let mut admin = Admin::new(state);
    let revision = publish(&mut admin, &authoring::directory::read(&folder).unwrap(), "a test").await.unwrap();
    activate(&mut admin, revision, "a test").await.unwrap();
}

async fn status(state: &State, gateway: &str, ask: Ask, issuer: &str, role: &str) -> u16 {
    let token = mint(&state.issuers[issuer], &TokenSpec::new("somebody", &[role]).customer("c-1")).unwrap();
    Client::new(&state.gateways[gateway]).send(&ask.bearer(&token)).await.map_or(0, |answer| answer.status)
}

async fn served(state: &State) -> bool {
    status(state, "PP", Ask::get("/v1/wide"), "pp", "viewer").await == 200
}

/// Served, refused for want of a token, of a route and of room in a budget.
async fn traffic(state: &State) {
    let reached = eventually(PATIENCE, async || served(state).await.then_some(())).await;
    assert!(reached.is_some(), "the policy is not in force");
    for _ in 0..8 {
        status(state, "CP", Ask::get("/v1/scarce"), "cp", "customer_user").await;
        status(state, "PP", Ask::get("/v1/nowhere"), "pp", "viewer").await;
    }
    assert_eq!(status(state, "CP", Ask::get("/v1/scarce"), "cp", "customer_user").await, 429);
    let anonymous = Client::new(&state.gateways["PLANT"]).send(&Ask::get("/api/v1/agents")).await.unwrap();
    assert_eq!(anonymous.status, 401);
}

/// A request waits for an approval, and gets it.
async fn approve(state: &State) {
    let token = mint(&state.issuers["pp"], &TokenSpec::new("asks", &["viewer"])).unwrap();
    let refused = Client::new(&state.gateways["PP"]).send(&Ask::post("/v1/approved").bearer(&token)).await.unwrap();
    let body = refused.json();
    let id = body["approval_id"].as_str().unwrap_or_else(|| panic!("{body}"));
    Admin::new(state).approve(id).await.unwrap();
}

/// The metrics that rules record, with their labels.
fn recorded() -> BTreeMap<String, BTreeSet<String>> {
    let rules = groups().into_iter().flat_map(|(_, rules)| rules);
    let recorded = rules.filter(|rule| rule["record"].is_string());
    recorded.map(|rule| (text(&rule, "record").to_owned(), labels_of(text(&rule, "expr")).unwrap())).collect()
}

/// What is asked for and not there, or never can be.
async fn wrong(state: &State, asked: &[shipped::Asked], recorded: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut metrics = live::scrape(state).await;
    metrics.extend(live::prometheus());
    let jobs = jobs();
    let mut wrong = BTreeSet::new();
    for one in asked {
        match uses(&one.expression, &one.shown) {
            Err(error) => drop(wrong.insert(format!("{}: {error}", one.at))),
            Ok(found) => wrong.extend(found.iter().filter_map(|used| {
                let lacks = match recorded.get(&used.metric) {
                    Some(labels) => used.labels.difference(labels).next().map(|label| format!("`{}` has no label `{label}`", used.metric)),
                    None => lacks(used, &metrics, &jobs),
                };
                Some(format!("{}: {}", one.at, lacks?))
            })),
        }
    }
    wrong.into_iter().collect()
}

/// What the metrics lack of a use.
fn lacks(used: &Use, metrics: &Metrics, jobs: &BTreeSet<String>) -> Option<String> {
    let name = &used.metric;
    let Some(labels) = metrics.get(name) else { return Some(format!("there is no `{name}`")) };
    let missing = used.labels.iter().find(|label| !labels.contains_key(*label) && !["job", "instance"].contains(&label.as_str()));
    if let Some(label) = missing {
        return Some(format!("`{name}` has no label `{label}`"));
    }
    used.values.iter().find_map(|(label, values)| {
        let known = |value: &String| match label.as_str() {
            "job" => jobs.contains(value),
            _ => labels[label].contains(value) || is_written_in_the_code(value) || ["firing"].contains(&value.as_str()),
        };
        values.iter().find(|value| !known(value)).map(|value| format!("`{name}` has no `{label}` of `{value}`"))
    })
}

/// Values that did not occur in this run: the code that decides has them as a text.
fn is_written_in_the_code(value: &str) -> bool {
    let files = ["decision-core/src/decision.rs", "decision-core/src/failure.rs", "filter/src/exchange.rs", "control-plane/src/caller.rs"];
    // Envoy has all five classes from the first answer of a listener on, and of a cluster those that occurred.
    let class = matches!(value, "1" | "2" | "3" | "4" | "5");
    class || files.iter().any(|file| fs::read_to_string(repository().join(file)).unwrap().contains(&format!("\"{value}\"")))
}

fn jobs() -> BTreeSet<String> {
    let configuration = read("prometheus.yml");
    let jobs = configuration["scrape_configs"].as_array().unwrap();
    jobs.iter().map(|job| text(job, "job_name").to_owned()).collect()
}

#[test]
fn alerts_say_what_to_do_and_are_tested() {
    let tests = fs::read_to_string(path("rules_test.yml")).unwrap();
    let mut page = String::new();
    for (group, rules) in groups().into_iter().filter(|(group, _)| group != "recorded") {
        page.push_str(&format!("\n### Alerts: {group}\n\n| alert | when | what to do |\n|---|---|---|\n"));
        for rule in rules {
            let (alert, annotations) = (text(&rule, "alert"), &rule["annotations"]);
            let severity = text(&rule["labels"], "severity");
            assert!(["critical", "warning", "info"].contains(&severity), "{alert}: severity `{severity}`");
            for needed in ["summary", "description", "action"] {
                assert!(!text(annotations, needed).is_empty(), "{alert} has no {needed}");
            }
            // The heading below.
            assert_eq!(text(annotations, "runbook_url"), format!("docs/operating.md#alerts-{group}"), "{alert}");
            assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert} fires in no test of rules_test.yml");
            let cells = ["description", "action"].map(|member| generated::cell(text(annotations, member)));
            page.push_str(&format!("| `{alert}` ({severity}) | {} | {} |\n", cells[0], cells[1]));
        }
    }
    generated::check("operating.md", "alerts", &page, "cargo test --package e2e --test envoy observability");
}

#[test]
fn grafana_can_read_the_dashboard() {
    let dashboard = read("grafana/dashboards/plant-gateway.json");
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 39 && text(&dashboard, "uid") == "plant-gateway");
    let source = read("grafana/provisioning/datasources/prometheus.yaml")["datasources"][0].clone();
    assert_eq!((text(&source, "uid"), text(&source, "type")), ("prometheus", "prometheus"));
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "every panel has an id of its own");
    let mut places = BTreeSet::new();
    for panel in panels {
        let title = text(panel, "title");
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for (x, y) in (side("x")..side("x") + side("w")).flat_map(|x| (side("y")..side("y") + side("h")).map(move |y| (x, y))) {
            assert!(x < 24 && places.insert((x, y)), "{title} lies outside, or on another panel");
        }
        if text(panel, "type") != "row" {
            assert!(!text(panel, "description").is_empty(), "{title} has no description");
            let targets = panel["targets"].as_array().unwrap();
            let sources = targets.iter().chain([panel]).map(|holder| text(&holder["datasource"], "uid"));
            assert!(!targets.is_empty() && sources.into_iter().all(|uid| uid == "prometheus"), "{title}");
        }
    }
}

#[test]
fn promtool_agrees() {
    let promtool = |arguments: &[&str]| Command::new("promtool").args(arguments).current_dir(path("")).output();
    if let Err(error) = promtool(&["--version"]) {
        println!("promtool is not here ({error}): install Prometheus to check and test the rules");
        return;
    }
    for arguments in [&["check", "config", "prometheus.yml"][..], &["check", "rules", "rules.yml"], &["test", "rules", "rules_test.yml"]] {
        let output = promtool(arguments).unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "promtool {arguments:?}:\n{}", String::from_utf8_lossy(&said));
        println!("promtool {}: ok", arguments.join(" "));
    }
}
