//! What storing audit records costs beside a plain bulk insert of the same rows into the same table with the same indexes, in one run; and how
//! long queries take on what is then there. `plant-gateway stores -- cargo run -p control-plane --example audit_ingest -- --batches 200`.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that cannot go on has failed")]

use clap::Parser;
use control_plane::audit::Source;
use control_plane::audit::access::Access;
use control_plane::audit::query::{Filter, page};
use control_plane::audit::store::{Insertion, ingest};
use control_plane::holders::HolderId;
use control_plane::start::MIGRATOR;
use sqlx::{AssertSqlSafe, PgPool};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use uuid::Uuid;
use wire::audit::{Account, AuditRecord, Charge, Check, CheckOutcome, CostBasis, Decision, Mention, Outcome, Phase, Stage, Upgrade, User};
use wire::policy::Gateway;
use wire::sync::RecordBatch;

#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// How many batches are stored each way.
    #[arg(long, default_value_t = 100)]
    batches: u32,
    /// How many records are in each: about what fills half a megabyte.
    #[arg(long, default_value_t = 1_500)]
    records: u32,
}

const GATEWAYS: [Gateway; 3] = [Gateway::Cp, Gateway::Pp, Gateway::Plant];
const ROUTES: [&str; 4] = ["agents.read", "agents.list", "tasks.read", "billing.read"];

fn now_us() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

/// A record as most are: a user with roles, some checks, three charges.
fn record(number: u32) -> AuditRecord<'static> {
    let user = number.wrapping_mul(2_654_435_761) % 20_000;
    let charge = |budget: &'static str, scope: String, amount| Charge {
        account: Mention::New(Account { budget: budget.into(), scope: scope.into() }),
        amount,
        overrun: 0,
    };
    let refused = number.is_multiple_of(20);
    let made = |check, outcome| CheckOutcome { check, outcome };
    let user_told = User {
        issuer: "cp".into(),
        subject: format!("subject-{user}").into(),
        user_id: format!("user-{user}").into(),
        customer_id: Some(format!("customer-{}", user % 500).into()),
        agent_id: Some(format!("agent-{}", user % 2_000).into()),
        email: None,
        governor_agent_id: None,
        roles: "customer_user,viewer".into(),
        tier: None,
        trial_until_us: None,
    };
    AuditRecord {
        phase: Phase::Outcome,
        at_us: now_us(),
        gateway: *GATEWAYS.iter().cycle().nth(usize::try_from(number % 3).unwrap()).unwrap(),
        stage: Stage::Filter,
        method: Some("GET".into()),
        path: Some(format!("/api/v1/agents/{}", number % 5_000).into()),
        upgrade: Upgrade::None,
        query: Vec::new(),
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        route: ROUTES.iter().cycle().nth(usize::try_from(number % 4).unwrap()).map(|route| (*route).into()),
        action: Some("agent.view".into()),
        sampled_of: 1,
        user: Some(Mention::New(user_told)),
        correlation_id: Uuid::now_v7().to_string().into(),
        causation_id: None,
        request_id: *Uuid::now_v7().as_bytes(),
        decision: if refused { Decision::Deny } else { Decision::Permit },
        reason: if refused { "permission_missing" } else { "ok" }.into(),
        rule: None,
        shadow: None,
        checks: vec![
            made(Check::Path, Outcome::Permit),
            made(Check::Route, Outcome::Permit),
            made(Check::Authentication, Outcome::Permit),
            made(Check::Permission, if refused { Outcome::Deny } else { Outcome::Permit }),
            made(Check::Budget, Outcome::Permit),
        ],
        activation: 3,
        revision: 2,
        key_set: 1,
        revocation: 7,
        charges: vec![
            charge("platform-monthly", "platform".into(), 1_000),
            charge("agent-daily", format!("agent:agent_id=1:{}", user % 2_000), 1_000),
            charge("requests", format!("user:{user}"), 1),
        ],
        cost: Some(CostBasis::Fixed),
        usage: None,
        approval_id: None,
        sandbox: false,
        status: Some(if refused { 403 } else { 200 }),
        details: None,
        total_us: 1_500,
        upstream_us: Some(1_200),
        ours_us: Some(90),
    }
}

fn batch(first: u32, count: u32) -> RecordBatch {
    let mut bytes = Vec::new();
    for number in first..first + count {
        let encoded = postcard::to_stdvec(&record(number)).unwrap();
        bytes.extend(u32::try_from(encoded.len()).unwrap().to_le_bytes());
        bytes.extend(encoded);
    }
    RecordBatch { first_sequence: u64::from(first), count, bytes }
}

/// Everything that the ingest of one batch does, as the sync call does it.
async fn store(database: &PgPool, holder: HolderId, batch: &RecordBatch) -> Duration {
    let began = Instant::now();
    let mut transaction = database.begin().await.unwrap();
    let source = Source { holder, envoy_id: "envoy-1", received_at_us: now_us() };
    let first = i64::try_from(batch.first_sequence).unwrap();
    let stored = ingest(&mut transaction, source, batch, first, Insertion::Bulk).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(stored.records, u64::from(batch.count));
    began.elapsed()
}

/// The rows of a batch that is stored, once more, from a table without indexes: what Postgres takes for them alone.
async fn insert_again(database: &PgPool, columns: &str, holder: HolderId, batch: &RecordBatch) -> Duration {
    let last = batch.first_sequence + u64::from(batch.count) - 1;
    let mut connection = database.acquire().await.unwrap();
    let mut run = async |sql: String| sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await.unwrap();
    let (first, of) = (batch.first_sequence, holder.0);
    run(format!(
        "CREATE TEMP TABLE stage AS SELECT {columns} FROM gateway_audit_logs WHERE holder = '{of}' AND sequence BETWEEN {first} AND {last}"
    ))
    .await;
    // Another holder's, so that they have places of their own in the indexes that are unique or nearly so.
    let other = Uuid::now_v7();
    run(format!("UPDATE stage SET holder = '{other}', correlation_id = uuidv7()::text, request_id = uuidv7()::text")).await;
    let began = Instant::now();
    run(format!("INSERT INTO gateway_audit_logs ({columns}) SELECT {columns} FROM stage")).await;
    let took = began.elapsed();
    run("DROP TABLE stage".to_owned()).await;
    took
}

async fn query(database: &PgPool, name: &str, filter: Filter) {
    let mut took: Vec<Duration> = Vec::new();
    let mut found = 0;
    for _ in 0..21 {
        let began = Instant::now();
        found = page(database, Access::Auditor, &filter, None, 101).await.unwrap().len();
        took.push(began.elapsed());
    }
    took.sort();
    let ms = |place: usize| took.get(place).unwrap().as_secs_f64() * 1e3;
    println!("  by {name}: {found} records, {:.1} ms in the median of 21, {:.1} at most", ms(10), ms(20));
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let database = PgPool::connect(&arguments.database_url).await.unwrap();
    MIGRATOR.run(&database).await.unwrap();
    let holder = HolderId(Uuid::now_v7());
    sqlx::query(
        "INSERT INTO holders (holder, envoy_id, last_call, previous_call, activation, revocation) VALUES ($1, 'envoy-1', 1, 0, 1, 0)",
    )
    .bind(holder.0)
    .execute(&database)
    .await
    .unwrap();
    let (columns,): (String,) = sqlx::query_as(
        "SELECT string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position) FROM information_schema.columns \
         WHERE table_name = 'gateway_audit_logs' AND is_generated = 'NEVER'",
    )
    .fetch_one(&database)
    .await
    .unwrap();
    let (mut ours, mut plain) = (Duration::ZERO, Duration::ZERO);
    for number in 0..arguments.batches {
        let batch = batch(number * arguments.records + 1, arguments.records);
        ours += store(&database, holder, &batch).await;
        plain += insert_again(&database, &columns, holder, &batch).await;
    }
    let rows = f64::from(arguments.batches * arguments.records);
    let (ours, plain) = (rows / ours.as_secs_f64(), rows / plain.as_secs_f64());
    println!("ingest {ours:.0} records/s, a plain bulk insert of the same rows {plain:.0}/s: {:.2} of it", ours / plain);
    sqlx::query("ANALYZE gateway_audit_logs").execute(&database).await.unwrap();
    let (count,): (i64,) = sqlx::query_as("SELECT count(*) FROM gateway_audit_logs").fetch_one(&database).await.unwrap();
    let (id,): (String,) = sqlx::query_as("SELECT correlation_id FROM gateway_audit_logs LIMIT 1").fetch_one(&database).await.unwrap();
    println!("queries over {count} records:");
    query(&database, "correlation id", Filter { correlation_id: Some(id), ..Filter::default() }).await;
    query(&database, "user", Filter { user: Some("user-17".into()), ..Filter::default() }).await;
    query(&database, "customer", Filter { customer: Some("customer-17".into()), ..Filter::default() }).await;
    query(&database, "budget", Filter { budget: Some("agent-daily".into()), ..Filter::default() }).await;
    query(&database, "nothing", Filter::default()).await;
}
