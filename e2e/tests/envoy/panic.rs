//! Two thousand broken requests: the filter neither panics nor stops deciding.

use std::time::Duration;

use cli::stack::Stack;
use cli::token::{TokenSpec, mint};
use e2e::http::{Ask, Client};
use e2e::raw;
use e2e::stacks::{options, ports, told};
use fastrand::Rng;
use tokio::task::JoinSet;

const REQUESTS: usize = 2_000;
const AT_ONCE: usize = 32;
/// Some are cut short, and Envoy is right to wait for the rest.
const PATIENCE: Duration = Duration::from_millis(400);
const SEED: u64 = 0x70_6c_61_6e_74;

const METHODS: [&str; 10] = ["GET", "POST", "DELETE", "OPTIONS", "HEAD", "PUT", "CONNECT", "GETT", "", "P\u{f6}ST"];
const TARGETS: [&str; 15] = [
    "/api/v1/agents",
    "/api/v1/agents/a-1",
    "/api/v1/customers/a/b/c/d/e/f/g",
    "/api/v1/agents/%f",
    "/%00/%ff",
    "//",
    "/ready?%zz",
    "/?",
    "*",
    "/api/v1/agents/%",
    "http://other/api/v1/agents",
    "/api/v1/agents;;;/..//",
    "",
    "\u{7f}",
    "/api/v1/\u{1F9FF}",
];
const NAMES: [&str; 12] = [
    "authorization",
    "Authorization",
    "x-approval-id",
    "x-cp-registration-key",
    "x-correlation-id",
    "x-request-id",
    "accept",
    "content-type",
    "content-length",
    "transfer-encoding",
    "x-target-backend",
    "expect",
];

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_broken_requests_break_nothing() {
    let stack = Stack::start(options("panic", ports::PANIC).unwrap()).unwrap_or_else(|error| panic!("{}", told(&error)));
    let state = stack.state();
    let token = mint(&state.issuers["pp"], &TokenSpec::new("fuzz", &["agent_orchestrator"])).unwrap();
    let gateways: Vec<&String> = state.gateways.values().collect();
    let mut random = Rng::with_seed(SEED);
    let mut statuses = std::collections::BTreeMap::<Option<u16>, usize>::new();
    let mut running = JoinSet::new();
    for _ in 0..REQUESTS {
        let (url, bytes) = (gateways[random.usize(..gateways.len())].clone(), broken(&mut random, &token));
        if running.len() >= AT_ONCE {
            *statuses.entry(running.join_next().await.unwrap().unwrap()).or_default() += 1;
        }
        running.spawn(async move { raw::send_within(&url, &bytes, PATIENCE).await.unwrap().status });
    }
    while let Some(status) = running.join_next().await {
        *statuses.entry(status.unwrap()).or_default() += 1;
    }
    println!("statuses: {statuses:?}");
    let answered: usize = statuses.iter().filter(|(status, _)| status.is_some()).map(|(_, count)| count).sum();
    assert!(answered > REQUESTS / 2, "most of them are refused in words: {statuses:?}");
    assert!(!statuses.contains_key(&Some(500)), "{statuses:?}");

    let stats = Client::new(&state.envoy_admin).send(&Ask::get("/stats?filter=wasm")).await.unwrap().text();
    let reloads: Vec<&str> = stats.lines().filter(|line| line.contains("vm_reload")).collect();
    assert!(!reloads.is_empty() && reloads.iter().all(|line| line.ends_with(": 0")), "{stats}");
    for (name, url) in &state.gateways {
        let mut client = Client::new(url);
        assert_eq!(client.send(&Ask::get("/api/v1/agents")).await.unwrap().status, 401, "{name}");
        assert_eq!(client.send(&Ask::get("/ready")).await.unwrap().status, 200, "{name}");
    }
    assert_eq!(stack.exits(cli::stack::Part::Envoy), 0);
    stack.stop();
}

/// A request that began well.
fn broken(random: &mut Rng, token: &str) -> Vec<u8> {
    let mut headers: Vec<(&str, Vec<u8>)> = Vec::new();
    if random.bool() {
        headers.push(("authorization", ["Bearer ", token].concat().into_bytes()));
    }
    for _ in 0..random.usize(..6) {
        headers.push((NAMES[random.usize(..NAMES.len())], value(random, token)));
    }
    let borrowed: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, value.as_slice())).collect();
    // Half of them have a request line that Envoy takes, so that the filter gets to see what is wrong with the rest.
    let good = random.bool();
    let method = if good { METHODS[random.usize(..4)] } else { METHODS[random.usize(..METHODS.len())] };
    let target = if good { TARGETS[random.usize(..7)] } else { TARGETS[random.usize(..TARGETS.len())] };
    let mut bytes = raw::request(method, target.as_bytes(), &borrowed);
    for _ in 0..random.usize(..3) {
        let place = random.usize(..bytes.len());
        match random.u8(..4) {
            0 => bytes[place] = random.u8(..),
            1 => bytes.insert(place, random.u8(..)),
            2 => drop(bytes.remove(place)),
            _ => bytes.truncate(place.max(1)),
        }
    }
    bytes
}

fn value(random: &mut Rng, token: &str) -> Vec<u8> {
    match random.u8(..6) {
        0 => (0..random.usize(..64)).map(|_| random.u8(0x20..)).collect(),
        1 => vec![b'a'; random.usize(..20_000)],
        2 => token.bytes().map(|byte| if random.u8(..) == 0 { byte ^ 1 } else { byte }).collect(),
        3 => b"Bearer ey.ey.ey".to_vec(),
        4 => b"application/grpc".to_vec(),
        _ => random.u64(..).to_string().into_bytes(),
    }
}
