//! A few cycles of chaos with fixed seeds; `make chaos` does as many as are asked for.

use std::time::{Duration, Instant};

use cli::stack::{Part, State};
use cli::token::{TokenSpec, mint};
use e2e::chaos::{Plan, World, run, summary};
use e2e::http::{Ask, Client};
use e2e::stacks::{eventually, options, ports, told};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// An Envoy and a control plane killed, and a link cut; Postgres killed, another link cut, and Valkey emptied.
const SEEDS: [u64; 2] = [101, 111];
/// Less than in production, or every killed Envoy would cost a minute.
const SILENCE: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn budgets_survive_a_few_cycles_of_chaos() {
    let world = World::start(options("chaos", ports::CHAOS).unwrap(), SILENCE).await.unwrap_or_else(|error| panic!("{}", told(&error)));
    let mut reports = Vec::new();
    for (cycle, seed) in SEEDS.into_iter().enumerate() {
        let report = run(&world, cycle, &Plan::of(seed, SILENCE)).await.unwrap_or_else(|error| panic!("seed {seed}: {}", told(&error)));
        println!("{}", report.line());
        reports.push(report);
    }
    println!("{}", summary(&reports));
    for report in &reports {
        assert!(report.violations.is_empty(), "{}", report.line());
        assert!(report.requests > 0, "{}", report.line());
    }
}

/// A replica that hangs, or whose machine is gone without a word, may hold locks on the accounts that everybody needs.
#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_hangs_in_a_transaction_does_not_hold_up_the_other_for_long() {
    let world = World::start(options("chaos-hang", ports::CHAOS_HANG).unwrap(), Duration::from_secs(60)).await;
    let world = world.unwrap_or_else(|error| panic!("{}", told(&error)));
    let (stop, stopped) = watch::channel(false);
    let mut strangers = JoinSet::new();
    for number in 0..8 {
        strangers.spawn(arrive(world.state().clone(), number, stopped.clone()));
    }
    assert!(halt_in_transaction(&world).await, "it was never caught in a transaction");
    let halted = Instant::now();
    stop.send_replace(true);
    while strangers.join_next().await.is_some() {}
    let mut tried = 0;
    let served = eventually(Duration::from_secs(25), async || {
        tried += 1;
        (ask_as(world.state(), &format!("late-{tried}")).await? == 200).then_some(())
    });
    assert!(served.await.is_some(), "nobody new is served while one of two control planes hangs");
    println!("served {} ms after the halt", halted.elapsed().as_millis());
    world.stack.resume(Part::ControlPlane).unwrap();
}

/// Halts the first control plane again and again until it happens to be in the middle of a transaction.
async fn halt_in_transaction(world: &World) -> bool {
    for _ in 0..400 {
        world.stack.pause(Part::ControlPlane).unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
        // The other one's transactions do not wait for so long for their next statement.
        let idle = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND state_change < clock_timestamp() - interval '50 milliseconds' \
             AND EXISTS (SELECT FROM pg_locks JOIN pg_class ON pg_class.oid = relation WHERE pg_locks.pid = pg_stat_activity.pid AND relname = 'budget_accounts')";
        let (count,): (i64,) = sqlx::query_as(idle).fetch_one(&world.database).await.unwrap();
        if count > 0 {
            return true;
        }
        world.stack.resume(Part::ControlPlane).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

/// People whom nobody knows: each needs leases of its own.
async fn arrive(state: State, number: u32, stopped: watch::Receiver<bool>) {
    let mut tried = 0;
    while !*stopped.borrow() {
        tried += 1;
        let _any_status = ask_as(&state, &format!("stranger-{number}-{tried}")).await;
    }
}

async fn ask_as(state: &State, subject: &str) -> Option<u16> {
    let token = mint(state.issuers.get("pp")?, &TokenSpec::new(subject, &["viewer"])).ok()?;
    let answer = Client::new(state.gateways.get("PP")?).send(&Ask::get("/api/v1/agents").bearer(&token)).await;
    answer.ok().map(|answer| answer.status)
}
