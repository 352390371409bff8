//! One cycle: fresh customers near their caps, load, faults, recovery, and then the books.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cli::token::{TokenSpec, mint};
use serde::Serialize;
use tokio::task::JoinSet;

use super::books::{Books, closed_holders, over_cap};
use super::plan::{Fault, Plan};
use super::world::{ChaosError, PATH, World};
use crate::http::{Ask, Client};
use crate::load::{Load, Running, Samples, backend_tally};
use crate::stacks::eventually;

/// Clients, over both Envoys.
const CLIENTS: usize = 32;
/// After the last fault everything must be well again within this time.
pub const RECOVERY_MAX: Duration = Duration::from_secs(65);
/// Load goes on for at least so long.
const LOAD: Duration = Duration::from_secs(4);
/// An idle lease is given back after 10 s; calls and closing take their time.
const LEASES_END: Duration = Duration::from_secs(40);

/// What came of a cycle.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Its number in the run.
    pub cycle: usize,
    /// Its seed: `make chaos CYCLES=1 SEED=…` does the same again.
    pub seed: u64,
    /// The faults, with their times from the start of the load.
    pub faults: Vec<String>,
    /// Answers to clients, by status.
    pub answers: String,
    /// Accounts, and how many of them were spent to the last charge.
    pub accounts: usize,
    /// Requests that the backend has seen.
    pub requests: u64,
    /// What they cost the agents.
    pub spent: i64,
    /// What the agents were charged.
    pub settled: i64,
    /// Of it, for leases of closed holders.
    pub forfeited: i64,
    /// What is in audit records.
    pub recorded: i64,
    /// Holders that were closed.
    pub holders_closed: i64,
    /// From the end of the last fault until every part was well and both Envoys served somebody new.
    pub recovery_ms: u128,
    /// From the end of the last fault until the books were right.
    pub books_ms: u128,
    /// How long it took.
    pub took_ms: u128,
    /// What is wrong.
    pub violations: Vec<String>,
}

/// Runs one.
///
/// # Errors
/// When it could not be carried out; what it found wrong is in the report.
pub async fn run(world: &World, cycle: usize, plan: &Plan) -> Result<Report, ChaosError> {
    let begin = Instant::now();
    let prefix = format!("x{cycle}-");
    let closed_before = closed_holders(&world.database).await?;
    let load = start_load(world, &prefix, plan)?;
    let watch = Watch::begin(world);
    inflict_all(world, plan, begin).await;
    let fault_end = Instant::now();
    let recovered = recover(world, &prefix).await?;
    let recovery = fault_end.elapsed();
    tokio::time::sleep_until((begin + LOAD).into()).await;
    let mut samples = Samples::default();
    for client in load {
        samples.0.extend(client.stop().await?.0);
    }
    let (books, mut violations) = settle(world, &prefix).await?;
    let books_took = fault_end.elapsed();
    violations.extend(watch.end().await?);
    let requests: u64 = books.seen.values().sum();
    if u64::try_from(samples.with(200)).unwrap_or(u64::MAX) > requests {
        violations.push(format!("{} requests were answered and the backend has seen {requests}", samples.with(200)));
    }
    if !recovered || recovery > RECOVERY_MAX {
        violations.push(format!("no recovery within {} s", RECOVERY_MAX.as_secs()));
    }
    Ok(Report {
        cycle,
        seed: plan.seed,
        faults: plan.faults_told(),
        answers: samples.summary(),
        accounts: books.accounts.len(),
        requests,
        spent: books.money_spent(),
        settled: books.money(|account| account.settled),
        forfeited: books.money(|account| account.forfeited),
        recorded: books.money(|account| account.recorded),
        holders_closed: closed_holders(&world.database).await?.saturating_sub(closed_before),
        recovery_ms: recovery.as_millis(),
        books_ms: books_took.as_millis(),
        took_ms: begin.elapsed().as_millis(),
        violations,
    })
}

fn start_load(world: &World, prefix: &str, plan: &Plan) -> Result<Vec<Running>, ChaosError> {
    let state = world.state();
    let mut agents = Vec::new();
    for customer in 0..plan.customers {
        for agent in 0..plan.agents {
            agents.push(ask(world, &format!("{prefix}c{customer}"), &format!("{prefix}c{customer}a{agent}"))?);
        }
    }
    let urls: Vec<&String> = [&state.gateways, &state.second_gateways].iter().filter_map(|gateways| gateways.get("CP")).collect();
    let pairs = agents.iter().flat_map(|agent| urls.iter().map(move |url| (agent, url)));
    let clients = pairs.cycle().take(CLIENTS);
    Ok(clients.map(|(agent, url)| Load { pace: plan.pace, ..Load::new(url, agent.clone(), 1) }.start()).collect())
}

fn ask(world: &World, customer: &str, agent: &str) -> Result<Ask, ChaosError> {
    let issuer = world.state().issuers.get("cp").ok_or(ChaosError::Issuer)?;
    let token = mint(issuer, &TokenSpec::new(agent, &["customer_user"]).customer(customer).agent(agent))?;
    Ok(Ask::post(PATH).bearer(&token).header("x-echo-tally", agent))
}

/// Carries out all faults, each at its time, and waits until the last is over.
async fn inflict_all(world: &World, plan: &Plan, begin: Instant) {
    let each = |timed: super::plan::Timed| async move {
        tokio::time::sleep_until((begin + timed.at).into()).await;
        world.inflict(timed.fault).await;
    };
    let mut faults = plan.faults.iter().copied();
    let (first, second, third) = (faults.next(), faults.next(), faults.next());
    let maybe = |timed: Option<super::plan::Timed>| async move {
        if let Some(timed) = timed {
            each(timed).await;
        }
    };
    tokio::join!(maybe(first), maybe(second), maybe(third));
    // What was killed is noticed a moment later.
    if plan.faults.iter().any(|timed| matches!(timed.fault, Fault::Kill(_))) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until every part is well and both Envoys serve somebody whom nobody knows.
async fn recover(world: &World, prefix: &str) -> Result<bool, ChaosError> {
    let state = world.state();
    let admins: Vec<String> = [Some(state.admin.clone()), state.second_admin.clone()].into_iter().flatten().collect();
    let urls: Vec<String> = [&state.gateways, &state.second_gateways].iter().filter_map(|gateways| gateways.get("CP").cloned()).collect();
    let mut tried = 0_u32;
    let well = eventually(RECOVERY_MAX, async || {
        for admin in &admins {
            let ready = Client::new(admin).send(&Ask::get("/ready")).await;
            ready.ok().filter(|answer| answer.status == 200)?;
        }
        for url in &urls {
            tried += 1;
            let somebody = format!("fresh-{prefix}{tried}");
            let served = Client::new(url).send(&ask(world, &somebody, &somebody).ok()?).await;
            served.ok().filter(|answer| answer.status == 200)?;
        }
        world.is_whole().then_some(())
    });
    Ok(well.await.is_some())
}

/// Waits until the books are right, or it is clear that they will not be.
async fn settle(world: &World, prefix: &str) -> Result<(Books, Vec<String>), ChaosError> {
    let deadline = Instant::now() + LEASES_END + world.silence;
    loop {
        let read = read(world, prefix).await;
        let over = Instant::now() >= deadline;
        match read {
            Ok(books) if over || (!books.accounts.is_empty() && books.faults().is_empty()) => {
                let faults = books.faults();
                return Ok((books, faults));
            }
            Err(error) if over => return Err(error),
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

async fn read(world: &World, prefix: &str) -> Result<Books, ChaosError> {
    let seen = backend_tally(&world.state().backend).await?;
    let seen: BTreeMap<String, u64> = seen.into_iter().filter(|(agent, _)| agent.starts_with(prefix)).collect();
    Ok(Books::read(&world.database, prefix, seen).await?)
}

/// Looks at the accounts all the time: I1 holds at every moment, not just in the end.
struct Watch {
    looking: JoinSet<Vec<String>>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Watch {
    fn begin(world: &World) -> Self {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let (database, mut looking) = (world.database.clone(), JoinSet::new());
        looking.spawn(async move {
            while !*stopped.borrow() {
                // While Postgres is away nothing is granted.
                let over = over_cap(&database).await.unwrap_or_default();
                if !over.is_empty() {
                    return vec![format!("I1: more was granted than the cap: {over:?}")];
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Vec::new()
        });
        Self { looking, stop }
    }

    async fn end(mut self) -> Result<Vec<String>, ChaosError> {
        self.stop.send_replace(true);
        let mut found = Vec::new();
        while let Some(seen) = self.looking.join_next().await {
            found.extend(seen?);
        }
        Ok(found)
    }
}
