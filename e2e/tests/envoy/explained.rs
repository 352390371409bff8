//! What the control plane explains is what Envoy enforces: generated requests are sent to both, and the audit record of each has to say
//! what the explanation said. `EXPLAINED_REQUESTS` and `EXPLAINED_SEED` change how many there are and which.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cli::stack::{Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::http::{Ask, Client};
use e2e::policies::with_budget;
use e2e::stacks::{options, ports, told};
use fastrand::Rng;
use serde_json::{Map, Value, json};
use sqlx::{Connection, PgConnection, Row};
use tokio::task::JoinSet;
use wire::policy::{OwnershipPlace, PolicyDocument};

const CONNECTIONS: usize = 12;
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const GATEWAYS: [&str; 3] = ["CP", "PP", "PLANT"];

/// Of so many, 100,000 are compared by their records; the others ask for upgrades that Envoy itself refuses.
fn wanted() -> usize {
    std::env::var("EXPLAINED_REQUESTS").ok().and_then(|text| text.parse().ok()).unwrap_or(104_000)
}

fn seed() -> u64 {
    std::env::var("EXPLAINED_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}

/// Somebody who sends requests.
enum Who {
    Nobody,
    KeyHolder,
    /// The token, and what it says.
    User(String, Map<String, Value>),
}

/// Everything that requests are made of.
struct World {
    people: Vec<Who>,
    templates: Vec<(Vec<&'static str>, String, Vec<&'static str>)>,
    registration_key: String,
}

/// One generated request.
#[derive(Debug)]
struct Request {
    who: usize,
    gateway: &'static str,
    method: &'static str,
    path: String,
    upgrade: Option<Upgrade>,
}

/// A protocol that a request asks to change to.
#[derive(Clone, Copy, Debug)]
enum Upgrade {
    Websocket,
    Other,
}

/// The default policy opens no WebSocket.
const SOCKET: &str = "
routes:
  - { name: explained.socket, gateways: [CP, PP, PLANT], methods: [GET], path: /explained/socket, require: authenticated, exchange: websocket }
";

fn people(state: &State, rng: &mut Rng) -> Vec<Who> {
    let mut people = vec![Who::Nobody, Who::KeyHolder];
    let issuers: [(&str, &[&str]); 3] = [
        ("cp", &["customer_admin", "customer_user", "user"]),
        (
            "pp",
            &[
                "admin",
                "subscription_manager",
                "agent_orchestrator",
                "infrastructure_engineer",
                "helpdesk_agent",
                "industry_manager",
                "viewer",
            ],
        ),
        ("legacy", &["admin", "customer_user", "viewer", "nobody-knows-it"]),
    ];
    for number in 0..240 {
        let (issuer, roles) = issuers[rng.usize(..issuers.len())];
        let mut mine: Vec<&str> = roles.iter().copied().filter(|_| rng.u8(..4) == 0).collect();
        if mine.is_empty() {
            mine.push(roles[rng.usize(..roles.len())]);
        }
        let mut spec = TokenSpec::new(&format!("explained-{number}"), &mine);
        if rng.bool() {
            spec = spec.customer(&format!("customer-{}", rng.u8(..20)));
        }
        if rng.u8(..4) == 0 {
            spec = spec.governor("governor-1");
        }
        spec = match rng.u8(..12) {
            0 | 1 => spec.trial_for(86_400),
            2 => spec.trial_for(-86_400),
            3 => spec.expired(),
            4 => spec.claim("email", Value::Null),
            5 => spec.claim("aud", json!("somebody-else")),
            6 => spec.claim("token_type", json!("refresh")),
            7 => spec.claim("trial_mode", json!(true)),
            8 => spec.claim("tier", json!("enterprise")),
            _ => spec,
        };
        let state = &state.issuers[issuer];
        let token = mint(state, &spec).unwrap();
        people.push(Who::User(token.clone(), payload(&token)));
    }
    people
}

fn payload(token: &str) -> Map<String, Value> {
    use base64::Engine;
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn templates(document: &PolicyDocument) -> Vec<(Vec<&'static str>, String, Vec<&'static str>)> {
    let name = |gateway: &wire::policy::Gateway| match gateway {
        wire::policy::Gateway::Cp => Some("CP"),
        wire::policy::Gateway::Pp => Some("PP"),
        wire::policy::Gateway::Plant => Some("PLANT"),
        wire::policy::Gateway::Admin => None,
    };
    let method = |method: &wire::policy::Method| {
        let name = serde_json::to_value(method).unwrap();
        METHODS.into_iter().find(|known| name == **known).unwrap()
    };
    let routes = document.routes.iter();
    // What is in a body is not explained: a request that lacks the object it needs is refused after the decision.
    let routes = routes.filter(|route| route.ownership.as_ref().is_none_or(|ownership| ownership.place != OwnershipPlace::Body));
    let known = routes
        .map(|route| (route.gateways.iter().filter_map(name).collect(), route.path.clone(), route.methods.iter().map(method).collect()));
    let known = known.filter(|(gateways, _, _): &(Vec<&str>, String, Vec<&str>)| !gateways.is_empty());
    // Often enough for every kind of caller.
    known.flat_map(|known| if known.1 == "/explained/socket" { vec![known; 5] } else { vec![known] }).collect()
}

impl World {
    fn request(&self, rng: &mut Rng) -> Request {
        let (gateways, template, methods) = &self.templates[rng.usize(..self.templates.len())];
        let fill = |segment: &str, rng: &mut Rng| match segment.strip_prefix('{') {
            None => segment.to_owned(),
            Some(name) if name.ends_with("...}") => format!("a/{}", rng.u16(..)),
            Some(_) => ["7", "draft", "pause", "a-b", "x%2Dy", "caf%C3%A9"][rng.usize(..6)].to_owned(),
        };
        let mut path: String = template.split('/').map(|segment| fill(segment, rng)).collect::<Vec<_>>().join("/");
        match rng.u8(..30) {
            0 => path.push_str("/more"),
            1 => path.push('/'),
            2 => path = path.replacen('/', "//", 1),
            3 => path = path.replacen("api", "API", 1),
            4 => path = path.replacen('a', "%61", 1),
            5 => path.push_str("/../secret"),
            6 => path.push_str(";v=1"),
            7 => path.push_str("?customer_id=somebody-else&a=1"),
            _ => {}
        }
        Request {
            who: rng.usize(..self.people.len()),
            gateway: if rng.u8(..5) == 0 { GATEWAYS[rng.usize(..3)] } else { gateways[rng.usize(..gateways.len())] },
            method: if rng.u8(..8) == 0 { METHODS[rng.usize(..7)] } else { methods[rng.usize(..methods.len())] },
            path,
            upgrade: match (template.as_str(), rng.u8(..40)) {
                ("/explained/socket", 10..) | (_, 0..3) => Some(Upgrade::Websocket),
                (_, 3) => Some(Upgrade::Other),
                (_, 4..) => None,
            },
        }
    }

    fn ask(&self, request: &Request, id: &str) -> Ask {
        let ask = Ask::new(request.method, &request.path).header("x-correlation-id", id);
        let ask = match request.upgrade {
            None => ask,
            Some(Upgrade::Websocket) => ask.header("connection", "upgrade").header("upgrade", "websocket"),
            Some(Upgrade::Other) => ask.header("connection", "upgrade").header("upgrade", "something-else"),
        };
        match &self.people[request.who] {
            Who::Nobody => ask,
            Who::KeyHolder => ask.header("x-cp-registration-key", &self.registration_key),
            Who::User(token, _) => ask.bearer(token),
        }
    }

    fn question(&self, request: &Request) -> Value {
        let upgrade = request.upgrade.map(|upgrade| match upgrade {
            Upgrade::Websocket => "websocket",
            Upgrade::Other => "other",
        });
        let mut question = json!({"gateway": request.gateway, "method": request.method, "path": request.path, "upgrade": upgrade});
        match &self.people[request.who] {
            Who::Nobody => question["anonymous"] = json!(true),
            Who::KeyHolder => question["registered"] = json!(true),
            Who::User(_, claims) => question["claims"] = json!(claims),
        }
        question
    }
}

/// What both sides have to agree on: decision, reason, route, target, charges.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    decision: String,
    reason: String,
    route: Option<String>,
    sandbox: bool,
    charges: BTreeMap<String, i64>,
}

fn explained(answer: &Value) -> Outcome {
    let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    let governor = answer["approval"] == "governor";
    let charges = answer["charges"].as_array().into_iter().flatten();
    Outcome {
        // The rules permit under the condition of an approval, which nobody here has.
        decision: if governor { "deny".to_owned() } else { text("decision") },
        reason: if governor { "approval_required".to_owned() } else { text("reason") },
        route: answer["rule"].as_str().map(str::to_owned),
        sandbox: answer["target"] == "sandbox",
        charges: if governor {
            BTreeMap::new()
        } else {
            charges.map(|charge| (charge["budget"].as_str().unwrap().to_owned(), charge["amount"].as_i64().unwrap())).collect()
        },
    }
}

async fn connection(world: Arc<World>, state: State, number: usize, count: usize) -> BTreeMap<String, (Outcome, String)> {
    let mut rng = Rng::with_seed(seed() * 1_000 + u64::try_from(number).unwrap());
    let mut gateways: BTreeMap<&str, Client> = GATEWAYS.into_iter().map(|name| (name, Client::new(&state.gateways[name]))).collect();
    let mut admin = Client::new(&state.admin);
    let mut outcomes = BTreeMap::new();
    for sequence in 0..count {
        let request = world.request(&mut rng);
        let id = format!("explained-{number}-{sequence}");
        let enforced = gateways.get_mut(request.gateway).unwrap().send(&world.ask(&request, &id)).await.unwrap();
        let question = Ask::post("/admin/v1/explain").bearer(&state.admin_token).json(&world.question(&request));
        let answer = admin.send(&question).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let outcome = explained(&answer.json());
        match request.upgrade {
            // Envoy refuses it before it looks at anything else, and the record does not say whose it was.
            Some(Upgrade::Other) => {
                let told = request.method == "HEAD" || enforced.text().contains("errors/upgrade-refused");
                assert!(enforced.status == 400 && told && outcome.decision == "deny", "{request:?}: {outcome:?}, {}", enforced.text());
            }
            Some(Upgrade::Websocket) | None => {
                outcomes.insert(id, (outcome, world.question(&request).to_string()));
            }
        }
    }
    outcomes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_explained_is_what_is_enforced() {
    let home = tempfile::tempdir().unwrap();
    let mut options = options("explained", ports::EXPLAINED).unwrap();
    options.policies = with_budget(home.path(), "").unwrap();
    std::fs::write(options.policies.join("routes/zz-test.yaml"), SOCKET).unwrap();
    let files = authoring::directory::read(&options.policies).unwrap();
    let stack =
        tokio::task::spawn_blocking(move || Stack::start(options)).await.unwrap().unwrap_or_else(|error| panic!("{}", told(&error)));
    let state = stack.state();
    let document = wire::sources::read(&files).unwrap();
    let mut rng = Rng::with_seed(seed());
    let world = Arc::new(World {
        people: people(state, &mut rng),
        templates: templates(&document),
        registration_key: state.registration_key.clone(),
    });
    let started = Instant::now();
    let mut connections = JoinSet::new();
    for number in 0..CONNECTIONS {
        connections.spawn(connection(Arc::clone(&world), state.clone(), number, wanted().div_ceil(CONNECTIONS)));
    }
    let mut expected = BTreeMap::new();
    while let Some(outcomes) = connections.join_next().await {
        expected.extend(outcomes.unwrap());
    }
    let took = started.elapsed();
    let enforced = records(state, expected.len()).await;
    let mut differences = Vec::new();
    let mut reasons = BTreeMap::<&str, usize>::new();
    let mut sockets = 0;
    for (id, (explained, question)) in &expected {
        match enforced.get(id) {
            Some(enforced) if enforced == explained => {
                *reasons.entry(&explained.reason).or_default() += 1;
                sockets += usize::from(explained.decision == "permit" && explained.route.as_deref() == Some("explained.socket"));
            }
            Some(enforced) => differences.push(format!("{question}\n  explained {explained:?}\n  enforced  {enforced:?}")),
            None => differences.push(format!("{question}\n  without a record")),
        }
    }
    println!("{} requests in {took:?}, seed {}: {} differences; {reasons:?}", expected.len(), seed(), differences.len());
    assert!(
        differences.is_empty(),
        "{} of {} differ:\n{}",
        differences.len(),
        expected.len(),
        differences[..differences.len().min(20)].join("\n")
    );
    for reason in [
        "ok",
        "no_route",
        "ambiguous_path",
        "credential_missing",
        "permission_missing",
        "trial_expired",
        "approval_required",
        "upgrade_refused",
    ] {
        assert!(reasons.contains_key(reason), "no request came to `{reason}`: {reasons:?}");
    }
    assert!(sockets > 0, "no WebSocket was permitted");
    stack.stop();
}

/// All records of the test, once they are stored.
async fn records(state: &State, expected: usize) -> BTreeMap<String, Outcome> {
    let mut database = PgConnection::connect(&state.database_admin_url).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let query = "SELECT correlation_id, decision, reason, route, sandbox, charges::text AS charges FROM gateway_audit_logs \
                 WHERE correlation_id LIKE 'explained-%'";
    loop {
        let rows = sqlx::query(query).fetch_all(&mut database).await.unwrap();
        if rows.len() >= expected || Instant::now() >= deadline {
            let charges = |row: &sqlx::postgres::PgRow| {
                let charges: Value = serde_json::from_str(row.get("charges")).unwrap();
                let charges = charges.as_array().unwrap().iter();
                charges.map(|charge| (charge["budget"].as_str().unwrap().to_owned(), charge["amount"].as_i64().unwrap())).collect()
            };
            let reason = |row: &sqlx::postgres::PgRow| match row.get("reason") {
                // Too many of the user's requests are pending already: the rules said the same.
                "approval_refused" => "approval_required".to_owned(),
                reason => String::from(reason),
            };
            let outcome = |row: &sqlx::postgres::PgRow| Outcome {
                decision: row.get("decision"),
                reason: reason(row),
                route: row.get("route"),
                sandbox: row.get("sandbox"),
                charges: charges(row),
            };
            return rows.iter().map(|row| (row.get("correlation_id"), outcome(row))).collect();
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
