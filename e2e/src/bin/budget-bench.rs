//! What budgets cost the control plane and those who wait: sync calls per second beside bare transactions, how long a request waits
//! for its first leases beside a commit of Postgres, how many wait once every worker has used every account, and memory.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use cli::demo::http::{Answer, Ask, Client};
use cli::stack::{Options, Stack, State, repository};
use e2e::bench::{BenchError, exit, gateway, token};
use e2e::policies::with_budget;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::task::JoinSet;
use wire::frame::{self, MEDIA_TYPE_SYNC};
use wire::sync::{AccountReport, SyncAnswer, SyncRequest};

const ACCOUNTS: usize = 10;
const HOLDERS: usize = 8;
const USERS: usize = 1_000;
/// To the gateway, at once.
const CONNECTIONS: usize = 8;
const COMMITS: usize = 2_000;
const PATH: &str = "/api/v1/agents";

/// Measure sync calls, waits and memory of budgets.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// All ports are above this one.
    #[arg(long, default_value_t = 27_000)]
    port_base: u16,
    /// How long calls and transactions are counted, each.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// How long requests of users are sent whose accounts each worker has used. Rates have windows of a minute.
    #[arg(long, default_value_t = 90)]
    warm_seconds: u64,
    /// How many users send a request each before memory is looked at; each has three accounts of its own.
    #[arg(long, default_value_t = 34_000)]
    users: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    exit(run(&Arguments::parse()).await)
}

async fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let home = tempfile::tempdir()?;
    let mut options = Options::from_environment(&repository());
    options.port_base = arguments.port_base;
    options.run_dir = repository().join(".run-budget-bench");
    options.policies = with_budget(home.path(), "")?;
    options.concurrency = 2;
    let stack = Stack::start(options)?;
    let measured = measure(stack.state(), arguments).await;
    stack.stop();
    measured
}

async fn measure(state: &State, arguments: &Arguments) -> Result<(), BenchError> {
    let time = Duration::from_secs(arguments.seconds);
    let pool = PgPoolOptions::new().max_connections(16).connect(&state.database_admin_url).await?;
    let calls = sync_calls(state, time).await?;
    let bare = bare_transactions(&pool, time).await?;
    println!("sync calls of {ACCOUNTS} accounts: {calls:.0}/s; bare transactions on as many rows: {bare:.0}/s; ratio {:.2}", calls / bare);
    let mut commits = commits(&state.database_admin_url).await?;
    let tokens: Vec<String> = (0..USERS).map(|number| token(state, &format!("waiter-{number}"))).collect::<Result<_, _>>()?;
    let mut opening = opening_calls(state).await?;
    println!(
        "a call that opens two accounts in Postgres and two in Valkey: median {:.2} ms, p99 {:.2} ms",
        quantile(&mut opening, 50),
        quantile(&mut opening, 99)
    );
    let before = call_seconds(state).await?;
    let mut waits = waits(state, &tokens).await?;
    let after = call_seconds(state).await?;
    println!("sync calls meanwhile: mean {:.2} ms inside the control plane", (after.0 - before.0) / (after.1 - before.1).max(1.0) * 1e3);
    println!(
        "a commit of one row: median {:.2} ms, p99 {:.2} ms; a wait for first leases: median {:.2} ms, p99 {:.2} ms",
        quantile(&mut commits, 50),
        quantile(&mut commits, 99),
        quantile(&mut waits, 50),
        quantile(&mut waits, 99),
    );
    let (held, sent) = warm(state, &tokens, Duration::from_secs(arguments.warm_seconds)).await?;
    println!("once each worker has used the accounts of {USERS} users: {held} of {sent} requests waited, over a full minute and its end");
    let before = memory(state);
    for number in 0..arguments.users {
        let ask = Ask::get(PATH).bearer(&token(state, &format!("many-{number}"))?);
        // A connection for some, so that both workers get their share.
        if number % 500 == 0 {
            println!("{number} users …");
        }
        ok(Client::new(gateway(state)?).send(&ask).await?, "a request")?;
    }
    let (accounts,): (i64,) = sqlx::query_as("SELECT count(*) FROM budget_accounts").fetch_one(&pool).await?;
    println!(
        "{accounts} durable accounts, and {} more in Valkey. Memory (Pss), before and after {} users:",
        2 * arguments.users,
        arguments.users
    );
    for ((part, before), (_, after)) in before.into_iter().zip(memory(state)) {
        println!("  {part}: {:.0} MB, {:.0} MB", megabytes(before), megabytes(after));
    }
    let (table,): (i64,) = sqlx::query_as("SELECT pg_total_relation_size('budget_accounts') + pg_total_relation_size('budget_leases')")
        .fetch_one(&pool)
        .await?;
    println!("  on disk: {:.0} MB", megabytes(u64::try_from(table).unwrap_or(0)));
    Ok(())
}

fn ok(answer: Answer, what: &'static str) -> Result<Answer, BenchError> {
    if answer.status == 200 { Ok(answer) } else { Err(BenchError::Answer { what, status: answer.status, bytes: answer.body.len() }) }
}

/// Calls per second of some holders at once, each with so many accounts that spend with every call.
async fn sync_calls(state: &State, time: Duration) -> Result<f64, BenchError> {
    let begun = Instant::now();
    let mut holders = JoinSet::new();
    for number in 0..HOLDERS {
        holders.spawn(call_for(state.data_plane.clone(), state.data_plane_token.clone(), number, begun + time));
    }
    let mut calls = 0;
    while let Some(ended) = holders.join_next().await {
        calls += ended??;
    }
    Ok(f64::from(calls) / begun.elapsed().as_secs_f64())
}

/// Milliseconds of calls by one holder, each for the first leases of one user.
async fn opening_calls(state: &State) -> Result<Vec<f64>, BenchError> {
    let mut client = Client::new(&state.data_plane);
    let mut took = Vec::new();
    let now = seconds();
    for call in 1..=1_000_u64 {
        let account = |budget: &str, scope: String, window: i64, charge: i64| AccountReport {
            budget: budget.into(),
            scope,
            window_start: now - now % window,
            generation: call,
            used: 0,
            held: 0,
            overrun: 0,
            target: charge * 17,
            minimum: charge,
            charge,
            close: false,
        };
        let accounts = vec![
            account("agent-daily", format!("agent:subject=2:cp,6:opener{call}"), 86_400, 1_000),
            account("trial-tasks-daily", format!("customer:subject=2:cp,6:opener{call}"), 86_400, 1),
            account("rate-paid-hour", format!("customer:subject=2:cp,6:opener{call}"), 3_600, 1),
            account("rate-paid-minute", format!("customer:subject=2:cp,6:opener{call}"), 60, 1),
        ];
        let answer = sync(&mut client, &state.data_plane_token, [255; 16], call, accounts).await?;
        took.push(answer.took.as_secs_f64() * 1e3);
    }
    Ok(took)
}

/// One call of a holder that only reports.
async fn sync(client: &mut Client, token: &str, holder: [u8; 16], call: u64, accounts: Vec<AccountReport>) -> Result<Answer, BenchError> {
    let request = SyncRequest {
        holder,
        call,
        activation: 0,
        revocation: 0,
        unknown_keys: Vec::new(),
        accounts,
        approvals: Vec::new(),
        undos: Vec::new(),
        records: None,
        shadow: None,
    };
    let ask = Ask::post("/data-plane/v1/sync").bearer(token).header("content-type", MEDIA_TYPE_SYNC).body(frame::encode(&request)?);
    ok(client.send(&ask).await?, "a sync call")
}

fn seconds() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(now).unwrap_or(0)
}

async fn call_for(url: String, token: String, number: usize, until: Instant) -> Result<u32, BenchError> {
    let mut client = Client::new(&url);
    let mut calls = 0;
    let now = seconds();
    let day = now - now % 86_400;
    while Instant::now() < until {
        calls += 1;
        let account = |index: usize| AccountReport {
            budget: "agent-daily".into(),
            scope: format!("agent:subject=2:cp,{number}:{index}"),
            window_start: day,
            generation: 1,
            used: i64::from(calls) * 1_000 - 1_000,
            held: 0,
            overrun: 0,
            target: i64::from(calls) * 1_000 + 16_000,
            minimum: i64::from(calls) * 1_000,
            charge: 1_000,
            close: false,
        };
        let holder = [u8::try_from(number).unwrap_or(0); 16];
        let answer = sync(&mut client, &token, holder, calls.into(), (0..ACCOUNTS).map(account).collect()).await?;
        let granted: SyncAnswer = frame::decode(&answer.body)?;
        if granted.accounts.len() != ACCOUNTS || granted.accounts.iter().any(|account| account.granted < i64::from(calls) * 1_000) {
            return Err(BenchError::Lacks("grants"));
        }
    }
    Ok(calls)
}

/// Transactions per second that do with the same number of rows what a call has to do at least: find the holder, lock and change
/// the accounts, change the leases, commit.
async fn bare_transactions(pool: &PgPool, time: Duration) -> Result<f64, BenchError> {
    for statement in [
        "CREATE TABLE bare_holders (id int PRIMARY KEY, calls bigint NOT NULL) WITH (fillfactor = 50)",
        "CREATE TABLE bare_accounts (id int PRIMARY KEY, settled bigint NOT NULL) WITH (fillfactor = 50)",
        "CREATE TABLE bare_leases (id int PRIMARY KEY, used bigint NOT NULL) WITH (fillfactor = 50)",
        "INSERT INTO bare_holders SELECT id, 0 FROM generate_series(0, 99) AS id",
        "INSERT INTO bare_accounts SELECT id, 0 FROM generate_series(0, 999) AS id",
        "INSERT INTO bare_leases SELECT id, 0 FROM generate_series(0, 999) AS id",
    ] {
        sqlx::query(statement).execute(pool).await?;
    }
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..HOLDERS {
        tasks.spawn(transactions(pool.clone(), number, begun + time));
    }
    let mut done = 0;
    while let Some(ended) = tasks.join_next().await {
        done += ended??;
    }
    Ok(f64::from(done) / begun.elapsed().as_secs_f64())
}

async fn transactions(pool: PgPool, number: usize, until: Instant) -> Result<u32, BenchError> {
    let number = i32::try_from(number).unwrap_or(0);
    let ids: Vec<i32> = (0..i32::try_from(ACCOUNTS).unwrap_or(0)).map(|index| number * 100 + index).collect();
    let mut done = 0;
    while Instant::now() < until {
        let mut transaction = pool.begin().await?;
        sqlx::query("UPDATE bare_holders SET calls = calls + 1 WHERE id = $1").bind(number).execute(&mut *transaction).await?;
        sqlx::query("SELECT settled FROM bare_accounts WHERE id = ANY($1) FOR UPDATE").bind(&ids).fetch_all(&mut *transaction).await?;
        sqlx::query("UPDATE bare_accounts SET settled = settled + 1 WHERE id = ANY($1)").bind(&ids).execute(&mut *transaction).await?;
        sqlx::query("UPDATE bare_leases SET used = used + 1 WHERE id = ANY($1)").bind(&ids).execute(&mut *transaction).await?;
        transaction.commit().await?;
        done += 1;
    }
    Ok(done)
}

/// Milliseconds of a transaction that writes one row.
async fn commits(url: &str) -> Result<Vec<f64>, BenchError> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query("CREATE TABLE bare_commits (id int GENERATED ALWAYS AS IDENTITY)").execute(&mut connection).await?;
    let mut took = Vec::new();
    for _ in 0..COMMITS {
        let begun = Instant::now();
        sqlx::query("INSERT INTO bare_commits DEFAULT VALUES").execute(&mut connection).await?;
        took.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(took)
}

/// Milliseconds that each user's first request took longer than the median of second ones.
async fn waits(state: &State, tokens: &[String]) -> Result<Vec<f64>, BenchError> {
    let mut client = Client::new(gateway(state)?);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for token in tokens {
        let ask = Ask::get(PATH).bearer(token);
        for took in [&mut first, &mut second] {
            let answer = ok(client.send(&ask).await?, "a request")?;
            took.push(answer.took.as_secs_f64() * 1e3);
        }
    }
    let usual = quantile(&mut second, 50);
    Ok(first.into_iter().map(|took| (took - usual).max(0.0)).collect())
}

/// How many requests waited, of how many, once each worker has used each account. Every connection belongs to one worker and goes
/// through all users, so that no account is idle for long.
async fn warm(state: &State, tokens: &[String], time: Duration) -> Result<(u64, u64), BenchError> {
    let round = |until: Option<Instant>| async move {
        let mut clients = JoinSet::new();
        for number in 0..CONNECTIONS {
            let mut tokens = tokens.to_vec();
            tokens.rotate_left(number * USERS / CONNECTIONS);
            clients.spawn(go_through(Client::new(gateway(state)?), tokens, until));
        }
        let mut sent = 0;
        while let Some(ended) = clients.join_next().await {
            sent += ended??;
        }
        Ok::<u64, BenchError>(sent)
    };
    round(None).await?;
    let before = held(state).await?;
    let sent = round(Some(Instant::now() + time)).await?;
    Ok((held(state).await? - before, sent))
}

/// A request of each user, again and again until then; once without.
async fn go_through(mut client: Client, tokens: Vec<String>, until: Option<Instant>) -> Result<u64, BenchError> {
    let mut sent = 0;
    loop {
        for token in &tokens {
            ok(client.send(&Ask::get(PATH).bearer(token)).await?, "a request")?;
            sent += 1;
            if until.is_some_and(|until| Instant::now() >= until) {
                return Ok(sent);
            }
        }
        if until.is_none() {
            return Ok(sent);
        }
    }
}

/// The seconds that the control plane has spent in sync calls, and their number.
async fn call_seconds(state: &State) -> Result<(f64, f64), BenchError> {
    let text = Client::new(&state.admin).send(&Ask::get("/metrics")).await?.text();
    let number = |suffix: &str| {
        let line = text.lines().find(|line| line.starts_with("gateway_control_plane_sync_seconds_") && line.contains(suffix))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    number("_sum").zip(number("_count")).ok_or(BenchError::Lacks("metric of sync calls"))
}

async fn held(state: &State) -> Result<u64, BenchError> {
    let answer = Client::new(&state.envoy_admin).send(&Ask::get("/stats?filter=requests_held_total")).await?;
    let number = |line: &str| line.rsplit(": ").next()?.trim().parse::<u64>().ok();
    Ok(answer.text().lines().filter_map(number).sum())
}

/// Bytes of each part, with its children.
fn memory(state: &State) -> Vec<(&'static str, u64)> {
    let parts = [
        ("Envoy", state.pids.envoy),
        ("control plane", state.pids.control_plane),
        ("Postgres", state.pids.postgres),
        ("Valkey", state.pids.valkey),
    ];
    parts.into_iter().filter_map(|(part, pid)| Some((part, family(pid?)))).collect()
}

fn family(pid: u32) -> u64 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let below: u64 = children.split_whitespace().filter_map(|child| child.parse().ok()).map(family).sum();
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse::<u64>().ok());
    below + pss.unwrap_or(0) * 1_024
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn quantile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
}
