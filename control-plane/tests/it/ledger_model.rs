//! Random walks through the model of the lease protocol (crate `lease-model`), with both stores beside it: after every call
//! and every closing their accounts and leases are the model's.

use control_plane::budgets::alerts::Telling;
use control_plane::budgets::caps::Caps;
use control_plane::budgets::ledger::{self, Room as RealRoom};
use control_plane::budgets::{AccountKey, Placed, Posting, store, valkey};
use control_plane::drain::Draining;
use control_plane::holders::{AdmitError, Enforced, HolderId, admit, close_one_silent};
use decision_core::policy::compile::compile;
use decision_core::policy::source::PolicySource;
use decision_core::time::Timestamp;
use lease_model::config::{Config, Idle, Network, Windows};
use lease_model::holder::PlainHolder;
use lease_model::ledger::Lease;
use lease_model::plane::Standing;
use lease_model::step::{actions, step};
use lease_model::terms::{Answered, Call, Charge, Key, Outcome, PerKey, Window};
use lease_model::world::{Action, World};
use ledger_rule::{RealLedger, plain, plain_account, real, real_report};
use redis::aio::ConnectionManager;
use sqlx::PgPool;
use std::time::Duration;
use uuid::Uuid;

#[path = "../../../lease-model/tests/protocol/ledger_rule.rs"]
mod ledger_rule;

const WALKS: u64 = 40;
const STEPS: usize = 160;

const CONFIG: Config = Config {
    name: "stores",
    holders: 3,
    incarnations: 8,
    calls: 60,
    caps: PerKey::new(13, 9, 9),
    charges: &[Charge { money: 2, rate: 1 }, Charge { money: 1, rate: 0 }],
    open: 3,
    outcomes: &[Outcome::Exact, Outcome::Less, Outcome::More, Outcome::Released],
    overruns: 3,
    ahead: 5,
    wants: &[Idle::Report, Idle::Lower, Idle::Close],
    cap_changes: &[(Key::Money, 6), (Key::Money, 20)],
    windows: Windows::Two,
    crashes: 2,
    closes: 2,
    network: Network::Everything,
    told: true,
    flaw: None,
};

type Worlds = World<PlainHolder>;

/// One walk's names in the stores.
struct Names {
    scope: String,
    holders: Vec<HolderId>,
    start: i64,
}

impl Names {
    fn new() -> Self {
        let holders = (0..CONFIG.incarnations).map(|_| HolderId(Uuid::now_v7())).collect();
        Self { scope: format!("agent={}", Uuid::now_v7()), holders, start: Timestamp::from_seconds(1_800_000_000).as_seconds() }
    }

    fn key(&self, key: Key) -> AccountKey {
        let (budget, window_start) = match key {
            Key::Money => ("money", self.start),
            Key::Rate(Window::First) => ("rate", self.start),
            Key::Rate(Window::Second) => ("rate", self.start + 60),
        };
        AccountKey { budget: budget.into(), scope: self.scope.clone(), window_start }
    }

    /// What `Plan` would make of a call.
    fn postings(&self, world: &Worlds, call: &Call) -> Vec<Posting> {
        let posting = |key: Key| {
            let report = call.reports.at(key).as_ref()?;
            let cap = real(*world.plane.caps.at(key));
            let open = world.plane.registers.iter().filter(|register| register.standing == Standing::Open).count();
            let over = matches!(key, Key::Rate(window) if window < world.plane.clock);
            let room = if over { RealRoom::Ended } else { RealRoom::Open { cap, holders: u32::try_from(open).unwrap() } };
            let window_end = Some(self.start + 86_400);
            Some(Posting {
                key: self.key(key),
                window_end,
                cap,
                room,
                thresholds: None,
                overriding: None,
                reports: vec![(0, real_report(report))],
            })
        };
        Key::ALL.into_iter().filter_map(posting).collect()
    }
}

/// Grants and settled amounts are what the model answers.
fn assert_answered(call: &Call, answered: &Answered, placed: &[Placed]) {
    let Answered::Booked(grants) = answered else { unreachable!("an admitted call is booked") };
    let want: Vec<_> = Key::ALL.into_iter().filter(|key| call.reports.at(*key).is_some()).map(|key| grants.at(key).unwrap()).collect();
    assert_eq!(placed.len(), want.len());
    for (want, (_, grant)) in want.into_iter().zip(placed) {
        let (cap, settled) = want.told.unwrap();
        let told = (grant.granted, grant.cap, grant.settled);
        assert_eq!(told, (i64::from(want.granted), i64::from(cap), i64::from(settled)), "{call:?}");
    }
}

/// The next action: half of the time one that lets a message arrive which matters.
fn choose(world: &Worlds, random: &mut fastrand::Rng) -> Action {
    let mut possible = Vec::new();
    actions(&CONFIG, &RealLedger, world, &mut possible);
    let matters = |action: &&Action| {
        if let Action::Take { answer } = action {
            let answer = &world.answers[*answer];
            return world.living().any(|slot| slot.incarnation == answer.incarnation && slot.call == answer.number && slot.awaits);
        }
        matches!(action, Action::Deliver { call, .. } if world.calls[*call].number > world.register(world.calls[*call].incarnation).last_call)
    };
    let mattering: Vec<Action> = possible.iter().filter(matters).copied().collect();
    let pool = if random.bool() && !mattering.is_empty() { mattering } else { possible };
    pool[random.usize(..pool.len())]
}

/// What the world answers to the call that an action delivers.
fn answered(before: &Worlds, call: &Call) -> Option<Answered> {
    before.plane.clone().call(&CONFIG, &RealLedger, call, lease_model::ledger::Raise::Least).answer
}

/// Walks, and hands each step that the control plane takes part in to `take`.
async fn walk(seed: u64, closes: u8, mut take: impl AsyncFnMut(&Worlds, Action, &Worlds)) {
    let config = Config { closes, ..CONFIG };
    let (mut random, mut world) = (fastrand::Rng::with_seed(seed), Worlds::new(&config));
    for _ in 0..STEPS {
        let action = choose(&world, &mut random);
        if matches!(action, Action::Close { .. }) && closes == 0 {
            continue;
        }
        // A call that changes nothing in the model must change nothing in the store either.
        let after = step(&config, &RealLedger, &world, action).unwrap_or_else(|| world.clone());
        assert_eq!(after.breach, None, "seed {seed}: {action:?}");
        take(&world, action, &after).await;
        world = after;
    }
}

async fn stored_account(pool: &PgPool, key: &AccountKey) -> ledger::Account {
    let row: Option<(i64, i64, i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT committed, settled, held, forfeited, overrun, over_grant FROM budget_accounts \
         WHERE budget = $1 AND scope = $2 AND window_start = to_timestamp($3)",
    )
    .bind(&key.budget)
    .bind(&key.scope)
    .bind(key.window_start)
    .fetch_optional(pool)
    .await
    .unwrap();
    let units = decision_core::budget::Units::new;
    row.map_or_else(ledger::Account::default, |(committed, settled, held, forfeited, overrun, over_grant)| ledger::Account {
        committed: units(committed),
        settled: units(settled),
        held: units(held),
        forfeited: units(forfeited),
        overrun: units(overrun),
        over_grant: units(over_grant),
    })
}

async fn stored_lease(pool: &PgPool, holder: HolderId, key: &AccountKey) -> Option<Lease> {
    let row: Option<(i64, i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT generation, l.granted, l.used, l.held, l.overrun FROM budget_leases AS l JOIN budget_accounts USING (account_id) \
         WHERE holder = $1 AND budget = $2 AND scope = $3 AND window_start = to_timestamp($4)",
    )
    .bind(holder.0)
    .bind(&key.budget)
    .bind(&key.scope)
    .bind(key.window_start)
    .fetch_optional(pool)
    .await
    .unwrap();
    let units = |number: i64| u8::try_from(number).unwrap();
    row.map(|(generation, granted, used, held, overrun)| Lease {
        generation: units(generation),
        granted: units(granted),
        used: units(used),
        held: units(held),
        overrun: units(overrun),
    })
}

/// One call as `sync::store` carries it out.
async fn call_postgres(pool: &PgPool, holder: HolderId, number: u8, postings: &[Posting]) -> Result<Vec<Placed>, AdmitError> {
    let mut transaction = pool.begin().await.unwrap();
    let enforced = Enforced { activation: 0, revocation: 0 };
    let admission = admit(&mut transaction, holder, "envoy-1", number.into(), enforced, None).await?;
    let applied = store::apply(&mut transaction, holder, postings, admission.freshness, u64::MAX, Draining::No).await.unwrap();
    transaction.commit().await.unwrap();
    Ok(applied.grants)
}

#[sqlx::test(migrations = "../migrations")]
async fn postgres_walks_with_the_model(pool: PgPool) {
    // Nobody is told of thresholds, and no cap is set: the model has its own.
    let (policy, caps) = (compile(&PolicySource::default()).unwrap(), Caps::default());
    for seed in 0..WALKS {
        let names = Names::new();
        walk(seed, CONFIG.closes, async |before, action, after| {
            let incarnation = if let Action::Deliver { call, .. } = action {
                let call = &before.calls[call];
                let holder = names.holders[usize::from(call.incarnation)];
                let placed = call_postgres(&pool, holder, call.number, &names.postings(before, call)).await;
                match (answered(before, call), placed) {
                    (Some(Answered::Closed), Err(AdmitError::Closed { .. })) | (None, Err(AdmitError::StaleCall)) => {}
                    (Some(booked @ Answered::Booked(_)), Ok(placed)) => assert_answered(call, &booked, &placed),
                    (model, placed) => unreachable!("seed {seed}: {call:?}: {model:?} but {placed:?}"),
                }
                call.incarnation
            } else if let Action::Close { incarnation } = action {
                let holder = names.holders[usize::from(incarnation)];
                sqlx::query("UPDATE holders SET last_seen_at = now() - interval '2 minutes' WHERE holder = $1")
                    .bind(holder.0)
                    .execute(&pool)
                    .await
                    .unwrap();
                let telling = Telling { policy: &policy, webhook: None };
                let closed = close_one_silent(&pool, Duration::from_secs(60), telling, &caps).await;
                assert_eq!(closed.unwrap().unwrap().holder, holder);
                incarnation
            } else {
                return;
            };
            for key in Key::ALL {
                let named = names.key(key);
                assert_eq!(plain_account(stored_account(&pool, &named).await), *after.plane.accounts.at(key), "seed {seed}: {action:?}");
                let lease = *after.register(incarnation).leases.at(key);
                assert_eq!(stored_lease(&pool, names.holders[usize::from(incarnation)], &named).await, lease, "seed {seed}: {action:?}");
            }
        })
        .await;
    }
}

/// Without closing: a closed holder's leases stay committed in Valkey, and so are charged in full.
#[tokio::test]
async fn valkey_walks_with_the_model() {
    let redis_url = std::env::var("REDIS_URL").expect("REDIS_URL is not set: run the tests with `make test`");
    let mut connection = ConnectionManager::new(redis::Client::open(redis_url).unwrap()).await.unwrap();
    for seed in 0..WALKS {
        let names = Names::new();
        walk(seed, 0, async |before, action, after| {
            let Action::Deliver { call, .. } = action else { return };
            let call = &before.calls[call];
            // Postgres refuses an older call before Valkey hears of it.
            let Some(booked) = answered(before, call) else { return };
            let holder = names.holders[usize::from(call.incarnation)];
            let (postings, now) = (names.postings(before, call), Timestamp::from_seconds(names.start));
            let applied = valkey::apply(&mut connection, holder, call.number.into(), &postings, now).await.unwrap();
            assert_answered(call, &booked, &applied.grants);
            for key in Key::ALL {
                let kept = valkey::read(&mut connection, &names.key(key)).await.unwrap().unwrap_or_default();
                assert_eq!(plain_account(kept), *after.plane.accounts.at(key), "seed {seed}: {action:?}");
                assert!(plain(kept.committed) <= 20);
            }
        })
        .await;
    }
}
