//! Many connections race for the last units of budgets, over two Envoys: never one too many, and hardly one too few. The truth is
//! what reached the backend.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cli::stack::{Copies, Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::Ask;
use e2e::load::{Load, Samples, backend_tally};
use e2e::policies::with_budget;
use e2e::stacks::{options, ports, told};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const CONNECTIONS: usize = 64;
/// Races that run at once, each with 64 connections of its own.
const AT_ONCE: usize = 2;
const ROUTES: &str = "
routes:
  - { name: race.request, gateways: [CP, PP, PLANT], methods: [POST], path: /race/request, require: authenticated }
  - { name: race.dear, gateways: [PLANT], methods: [POST], path: /race/dear, require: authenticated, cost_micros: 1500, tasks: 7 }
  - { name: race.cheap, gateways: [PLANT], methods: [POST], path: /race/cheap, require: authenticated, cost_micros: 70, tasks: 3 }
";

/// What is raced for. Gateway and tier choose the budgets.
#[derive(Clone, Copy, Debug)]
struct Prize {
    name: &'static str,
    gateway: &'static str,
    tier: &'static str,
    path: &'static str,
    /// Each budget with its cap and what a request is charged.
    budgets: &'static [(&'static str, u64, u64)],
    /// What the last request is answered.
    status: u16,
}

const ONE: Prize = Prize { name: "cap 1", gateway: "CP", tier: "paid", path: "/race/request", budgets: &[("race-1", 1, 1)], status: 429 };
const TEN: Prize = Prize { name: "cap 10", tier: "enterprise", budgets: &[("race-10", 10, 1)], ..ONE };
const HUNDRED: Prize = Prize { name: "cap 100", gateway: "PP", budgets: &[("race-100", 100, 1)], ..ONE };
const ODD: Prize = Prize { name: "cap 733", gateway: "PLANT", budgets: &[("race-733", 733, 1)], ..ONE };
const THOUSAND: Prize = Prize { name: "cap 1000", tier: "enterprise", budgets: &[("race-1000", 1_000, 1)], ..HUNDRED };
/// Money is spent first, after 66 requests: 1,000 of 100,000 are left, which buy nothing.
const DEAR: Prize = Prize {
    name: "66 charges of money, with tasks",
    tier: "enterprise",
    path: "/race/dear",
    budgets: &[("race-money", 100_000, 1_500), ("race-tasks", 2_000, 7)],
    status: 402,
    ..ODD
};
/// Tasks are spent first, after 666 requests.
const CHEAP: Prize = Prize {
    name: "666 charges of tasks, with money",
    path: "/race/cheap",
    budgets: &[("race-money", 100_000, 70), ("race-tasks", 2_000, 3)],
    status: 429,
    ..DEAR
};

impl Prize {
    /// How many requests there is room for.
    fn charges(&self) -> u64 {
        self.budgets.iter().map(|(_, cap, charge)| cap / charge).min().unwrap()
    }

    /// How many of them must be let through: all if they are few, else 97 in 100.
    fn charges_min(&self) -> u64 {
        let charges = self.charges();
        if charges <= 100 { charges } else { (charges * 97).div_ceil(100) }
    }
}

fn budgets() -> String {
    let requests = [("race-1", "paid", "CP", 1), ("race-10", "enterprise", "CP", 10), ("race-100", "paid", "PP", 100)];
    let more = [("race-1000", "enterprise", "PP", 1_000), ("race-733", "paid", "PLANT", 733)];
    let requests = requests.into_iter().chain(more).map(|(name, tier, gateway, cap)| {
        format!("  - {{ name: {name}, unit: requests, window: month, scope: \"customer:{{customer_id}}\", cap: {cap}, tier: {tier}, gateways: [{gateway}], on_unavailable: closed }}\n")
    });
    let costly = "  - { name: race-money, unit: micro_usd, window: month, scope: \"agent:{agent_id}\", cap: 100000, tier: enterprise, gateways: [PLANT] }
  - { name: race-tasks, unit: tasks, window: month, scope: \"customer:{customer_id}\", cap: 2000, tier: enterprise, gateways: [PLANT], problem: rate-limit-exceeded }\n";
    requests.chain([costly.to_owned()]).collect()
}

fn start(name: &str, port_base: u16, concurrency: u16) -> (Stack, tempfile::TempDir) {
    let home = tempfile::tempdir().unwrap();
    let mut options = options(name, port_base).unwrap();
    options.policies = with_budget(home.path(), &budgets()).unwrap();
    std::fs::write(options.policies.join("routes/zz-race.yaml"), ROUTES).unwrap();
    options.envoys = Copies::Two;
    options.concurrency = concurrency;
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{}", told(&error)));
    (stack, home)
}

/// Races for every prize so many times, a few at once, and prints a line per prize.
async fn race_all(state: &State, rounds: &[(Prize, usize)]) {
    let (state, places, begin) = (Arc::new(state.clone()), Arc::new(Semaphore::new(AT_ONCE)), Instant::now());
    let mut races = JoinSet::new();
    for (prize, times) in rounds {
        for round in 1..=*times {
            let (state, places, prize) = (Arc::clone(&state), Arc::clone(&places), *prize);
            races.spawn(async move {
                let _place = places.acquire_owned().await.unwrap();
                (prize.name, race(&state, prize, &format!("{}-{round}", prize.name.replace([' ', ','], "-"))).await)
            });
        }
    }
    let mut counts: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    while let Some(raced) = races.join_next().await {
        let (name, reached) = raced.unwrap();
        counts.entry(name).or_default().push(reached);
    }
    for (prize, _) in rounds {
        println!(
            "{}: {} fit, at least {} must; reached the backend: {:?}",
            prize.name,
            prize.charges(),
            prize.charges_min(),
            counts[prize.name]
        );
    }
    println!("{} rounds in {} s", counts.values().map(Vec::len).sum::<usize>(), begin.elapsed().as_secs());
}

/// How many requests reached the backend until everybody had been told that the budget is spent.
async fn race(state: &State, prize: Prize, customer: &str) -> u64 {
    let issuer = if prize.gateway == "PP" { "pp" } else { "cp" };
    let role = if prize.gateway == "PP" { "viewer" } else { "customer_user" };
    let spec = TokenSpec::new(customer, &[role]).customer(customer).agent(customer).claim("tier", json!(prize.tier));
    let ask = Ask::post(prize.path).bearer(&mint(&state.issuers[issuer], &spec).unwrap()).header("x-echo-tally", customer);
    let loads = [&state.gateways, &state.second_gateways].map(|gateways| {
        let all = Load::new(&gateways[prize.gateway], ask.clone(), CONNECTIONS / 2);
        Load { until: Some(prize.status), requests_max: 2_000, ..all }.start()
    });
    let mut samples = Samples::default();
    for load in loads {
        samples.0.extend(load.finished().await.unwrap().0);
    }
    let reached = backend_tally(&state.backend).await.unwrap().get(customer).copied().unwrap_or_default();
    assert_eq!(
        samples.with(200),
        usize::try_from(reached).unwrap(),
        "{customer}: a request reached the backend and its client was not told"
    );
    assert_eq!(samples.with(prize.status), CONNECTIONS, "{customer}: everybody is told in the end: {}", samples.summary());
    for (budget, cap, charge) in prize.budgets {
        let account = account(state, budget, customer).await.unwrap();
        let [settled, leased] = ["settled", "leased"].map(|member| account[member].as_u64().unwrap());
        assert!(settled + leased <= *cap, "{customer}: {account}");
        assert!(reached * charge <= *cap, "{customer}: overspent, {reached} requests");
        // All or nothing: no budget was charged for a request that another refused.
        let settled = settles(state, budget, customer, reached * charge).await;
        assert_eq!(settled, reached * charge, "{customer}: {budget} after {reached} requests");
    }
    assert!(reached >= prize.charges_min(), "{customer}: {reached} of {} charges: {}", prize.charges(), samples.summary());
    reached
}

/// What an account is charged in the end: holders report at least every second.
async fn settles(state: &State, budget: &str, customer: &str, wanted: u64) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let settled = account(state, budget, customer).await.unwrap()["settled"].as_u64().unwrap();
        if settled == wanted || Instant::now() >= deadline {
            return settled;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn account(state: &State, budget: &str, customer: &str) -> Option<Value> {
    let accounts = Admin::new(state).accounts(budget).await.ok()?;
    accounts.into_iter().find(|account| account["scope"].as_str().is_some_and(|scope| scope.ends_with(&format!(":{customer}"))))
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_races_over_two_envoys_never_pass_the_cap_and_hardly_miss_it() {
    let (stack, _home) = start("race", ports::RACE, 2);
    let rounds = [(ONE, 8), (TEN, 10), (HUNDRED, 8), (ODD, 6), (THOUSAND, 6), (DEAR, 6), (CHEAP, 6)];
    assert_eq!(rounds.iter().map(|(_, times)| times).sum::<usize>(), 50);
    race_all(stack.state(), &rounds).await;
    stack.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_sixteen_workers_each_ten_of_ten_get_through() {
    let (stack, _home) = start("race-sixteen", ports::RACE_SIXTEEN, 16);
    race_all(stack.state(), &[(TEN, 3), (HUNDRED, 2), (THOUSAND, 2)]).await;
    stack.stop();
}
