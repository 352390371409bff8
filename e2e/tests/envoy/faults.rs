//! `kill -9` of control plane, Valkey and Postgres, one after the other, under load: nobody gets in unauthenticated, nothing is
//! overspent, accounts with leases are served meanwhile, and it all recovers by itself.

use std::time::{Duration, Instant};

use cli::stack::{Part, Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Ask, Client};
use e2e::load::{Load, backend_count};
use e2e::policies::with_budget;
use e2e::stacks::{eventually, options, ports, told};

const AGENTS: &str = "/api/v1/agents";
const CAP: usize = 600;
const BUDGET: &str = "
  - name: capped
    unit: requests
    window: month
    scope: \"customer:{customer_id}\"
    cap: 600
    durable: true
    gateways: [CP]
    problem: rate-limit-exceeded
    status: 429
    on_unavailable: closed
";
/// How long a part is kept from running: killed again and again as it is restarted.
const DOWN: Duration = Duration::from_secs(4);
/// Long enough for both workers to hold leases that outlast an outage.
const WARM_UP: Duration = Duration::from_secs(4);
const RECOVERY_MAX: Duration = Duration::from_secs(60);

/// The time in which a part was missing.
struct Outage {
    part: Part,
    from: Instant,
    to: Instant,
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_parts_let_nobody_in_overspend_nothing_and_come_back() {
    let home = tempfile::tempdir().unwrap();
    let mut options = options("faults", ports::FAULTS).unwrap();
    options.policies = with_budget(home.path(), BUDGET).unwrap();
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{}", told(&error)));
    let state = stack.state();
    let before = backend_count(&state.backend).await.unwrap();

    let leased = paced(state, "PP", Ask::get(AGENTS).bearer(&viewer(state, "leased")), 4, 20).start();
    let tokenless = paced(state, "PP", Ask::get(AGENTS), 2, 20).start();
    let capped = paced(state, "CP", Ask::get(AGENTS).bearer(&customer(state)), 2, 50).start();
    tokio::time::sleep(WARM_UP).await;
    let mut fresh = 0;
    let mut outages = Vec::new();
    for part in [Part::ControlPlane, Part::Valkey, Part::Postgres] {
        let from = Instant::now();
        let exits = stack.exits(part);
        keep_down(&stack, part).await;
        fresh += recovered(&stack, part, exits).await;
        outages.push(Outage { part, from, to: Instant::now() });
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let spent = Load { until: Some(429), requests_max: 2 * CAP, ..paced(state, "CP", Ask::get(AGENTS).bearer(&customer(state)), 4, 0) };
    let spent = spent.start().finished().await.unwrap();
    let (leased, tokenless, capped) = (leased.stop().await.unwrap(), tokenless.stop().await.unwrap(), capped.stop().await.unwrap());

    println!("leased: {}; tokenless: {}; capped: {}, then {}", leased.summary(), tokenless.summary(), capped.summary(), spent.summary());
    assert_eq!(tokenless.with(401), tokenless.len(), "without a token: {}", tokenless.summary());
    let charged = capped.with(200) + spent.with(200);
    assert!(charged <= CAP, "{charged} requests of an account with a cap of {CAP}");
    assert_eq!(spent.with(429), 4, "the budget is spent in the end: {}", spent.summary());
    for Outage { part, from, to } in outages {
        let meanwhile = leased.between(from, to);
        let (served, all) = (meanwhile.with(200), meanwhile.len());
        println!("{part}: recovered after {} ms; {served} of {all} requests with leases served", (to - from).as_millis());
        assert!(served * 10 >= all * 9, "{part}: {}", meanwhile.summary());
    }
    let reached = backend_count(&state.backend).await.unwrap() - before;
    assert_eq!(
        usize::try_from(reached).unwrap(),
        leased.with(200) + charged + fresh,
        "what reached the backend was let through for a client"
    );
    settled_within_cap(state).await;
    stack.stop();
}

async fn keep_down(stack: &Stack, part: Part) {
    let until = Instant::now() + DOWN;
    while Instant::now() < until {
        if stack.pids().of(part).is_some() {
            stack.kill(part).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the part runs again, the control plane calls itself ready, and an account that nobody knew is served. Says how many
/// such accounts were served.
async fn recovered(stack: &Stack, part: Part, exits: u32) -> usize {
    let state = stack.state();
    let (mut gateway, mut control_plane) = (Client::new(&state.gateways["PP"]), Client::new(&state.admin));
    let (mut asked, mut served) = (0, 0);
    let deadline = Instant::now() + RECOVERY_MAX;
    loop {
        asked += 1;
        let token = viewer(state, &format!("fresh-{part}-{asked}"));
        let answer = gateway.send(&Ask::get(AGENTS).bearer(&token)).await.unwrap();
        served += usize::from(answer.status == 200);
        assert!([200, 503].contains(&answer.status), "{part}: a fresh account got {}", answer.text());
        let ready = control_plane.send(&Ask::get("/ready")).await.is_ok_and(|answer| answer.status == 200);
        if answer.status == 200 && ready && stack.exits(part) > exits && stack.pids().of(part).is_some() {
            return served;
        }
        assert!(Instant::now() < deadline, "{part}: not back in {RECOVERY_MAX:?}, last: {}", answer.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn settled_within_cap(state: &State) {
    let mut admin = Admin::new(state);
    let account =
        eventually(Duration::from_secs(10), async || admin.accounts("capped").await.ok().and_then(|accounts| accounts.into_iter().next()));
    let account = account.await.expect("the account is listed");
    let number = |member: &str| usize::try_from(account[member].as_u64().unwrap()).unwrap();
    println!("capped account: {account}");
    assert!(number("settled") + number("leased") <= CAP, "{account}");
    assert_eq!((number("overrun"), number("over_grant")), (0, 0), "{account}");
}

fn paced(state: &State, gateway: &str, ask: Ask, connections: usize, pace_ms: u64) -> Load {
    Load { pace: Duration::from_millis(pace_ms), ..Load::new(&state.gateways[gateway], ask, connections) }
}

fn viewer(state: &State, subject: &str) -> String {
    mint(&state.issuers["pp"], &TokenSpec::new(subject, &["viewer"])).unwrap()
}

/// Two tokens of one customer are one account.
fn customer(state: &State) -> String {
    mint(&state.issuers["cp"], &TokenSpec::new("capped", &["customer_user"]).customer("capped")).unwrap()
}
