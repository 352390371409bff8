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
use futures_util::StreamExt as _;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
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
    /// Rows that are there before queries are made, spread over this and the next days.
    #[arg(long, default_value_t = 0)]
    fill: u64,
    /// Over how many days.
    #[arg(long, default_value_t = 30)]
    days: u32,
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

/// The rows of a batch that is stored, once more, in two plain ways: from a table of the database that has no indexes, and by COPY from
/// a client that has them ready.
async fn insert_again(database: &PgPool, columns: &str, holder: HolderId, batch: &RecordBatch) -> [Duration; 2] {
    let last = batch.first_sequence + u64::from(batch.count) - 1;
    let mut connection = database.acquire().await.unwrap();
    let (first, of) = (batch.first_sequence, holder.0);
    let stage = format!(
        "CREATE TEMP TABLE stage AS SELECT {columns} FROM gateway_audit_logs WHERE holder = '{of}' AND sequence BETWEEN {first} AND {last}"
    );
    run(&mut connection, &stage).await;
    make_others(&mut connection).await;
    let began = Instant::now();
    run(&mut connection, &format!("INSERT INTO gateway_audit_logs ({columns}) SELECT {columns} FROM stage")).await;
    let inside = began.elapsed();
    make_others(&mut connection).await;
    let mut ready = Vec::new();
    let mut rows = connection.copy_out_raw(&format!("COPY (SELECT {columns} FROM stage) TO STDOUT (FORMAT binary)")).await.unwrap();
    while let Some(chunk) = rows.next().await {
        ready.extend_from_slice(&chunk.unwrap());
    }
    drop(rows);
    let began = Instant::now();
    let copy = format!("COPY gateway_audit_logs ({columns}) FROM STDIN (FORMAT binary)");
    let mut copy = connection.copy_in_raw(&copy).await.unwrap();
    copy.send(ready).await.unwrap();
    copy.finish().await.unwrap();
    let copied = began.elapsed();
    run(&mut connection, "DROP TABLE stage").await;
    [inside, copied]
}

/// Another holder's, so that they have places of their own in the indexes that are unique or nearly so.
async fn make_others(connection: &mut PgConnection) {
    let other = Uuid::now_v7();
    let renamed = format!("UPDATE stage SET holder = '{other}', correlation_id = uuidv7()::text, request_id = uuidv7()::text");
    run(connection, &renamed).await;
}

async fn run(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap();
}

/// Makes so many rows out of those that are there, without indexes, and then the indexes.
async fn fill(database: &PgPool, columns: &str, rows: u64, days: u32) {
    let began = Instant::now();
    let mut connection = database.acquire().await.unwrap();
    run(&mut connection, &format!("SET ROLE plant_gateway_audit_writer; SELECT gateway_audit.create_partitions({days}); RESET ROLE")).await;
    let indexes: Vec<(String, String)> = sqlx::query_as(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'gateway_audit_logs' AND indexname <> 'gateway_audit_logs_pk'",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    for (name, _definition) in &indexes {
        run(&mut connection, &format!("DROP INDEX {name}")).await;
    }
    // Users, customers and ids of their own; the rest as it is.
    let own = [
        ("holder", "uuidv7()"),
        ("sequence", "n"),
        ("received_at", &*format!("received_at + (n % {days}) * interval '1 day'")),
        ("\"timestamp\"", &*format!("\"timestamp\" + (n % {days}) * interval '1 day' - (n % 1000) * interval '1 ms'")),
        ("correlation_id", "uuidv7()::text"),
        ("request_id", "uuidv7()::text"),
        ("user_id", "'user-' || (n * 7919 % 200000)"),
        ("subject", "'subject-' || (n * 7919 % 200000)"),
        ("customer_id", "'customer-' || (n * 7919 % 5000)"),
    ];
    let value =
        |column: &str| own.iter().find(|(name, _)| *name == column).map_or_else(|| column.to_owned(), |(_, value)| (*value).to_owned());
    let values: Vec<String> = columns.split(", ").map(value).collect();
    let source =
        "(SELECT *, row_number() OVER () AS r FROM gateway_audit_logs WHERE holder = (SELECT holder FROM holders LIMIT 1) LIMIT 10000)";
    run(
        &mut connection,
        &format!(
            "CREATE TEMP TABLE model AS SELECT * FROM {source} AS s; \
             INSERT INTO gateway_audit_logs ({columns}) SELECT {} FROM generate_series(1::bigint, {rows}) AS n JOIN model ON r = 1 + n % 10000",
            values.join(", ")
        ),
    )
    .await;
    println!("{rows} rows in {:.0} s", began.elapsed().as_secs_f64());
    for (_name, definition) in &indexes {
        run(&mut connection, definition).await;
    }
    println!("and their indexes in {:.0} s", began.elapsed().as_secs_f64());
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
    let (mut ours, mut inside, mut copied) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for number in 0..arguments.batches {
        let batch = batch(number * arguments.records + 1, arguments.records);
        ours += store(&database, holder, &batch).await;
        let [from_table, by_copy] = insert_again(&database, &columns, holder, &batch).await;
        inside += from_table;
        copied += by_copy;
    }
    let rows = f64::from(arguments.batches * arguments.records);
    let [ours, inside, copied] = [ours, inside, copied].map(|took| rows / took.as_secs_f64());
    println!(
        "ingest {ours:.0} records/s; a plain bulk insert of the same rows by COPY {copied:.0}/s: {:.2} of it; from a table of the database \
         {inside:.0}/s: {:.2} of it",
        ours / copied,
        ours / inside
    );
    if arguments.fill > 0 {
        fill(&database, &columns, arguments.fill, arguments.days).await;
    }
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
