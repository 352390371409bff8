//! Who sees what of the audit log is said by Postgres: every table and partition, every verb, every role, every tenant.

use crate::plane::{Holder, state};
use crate::records::{START_US, batch, deliver, encode, record};
use control_plane::audit::access::Access;
use control_plane::audit::partitions::sum_up_one;
use control_plane::audit::query::{Filter, count, page};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use std::collections::BTreeMap;
use wire::audit::{AuditRecord, Mention};
use wire::policy::Gateway;

const ROLES: [&str; 5] = [
    "plant_gateway_audit_owner",
    "plant_gateway_audit_writer",
    "plant_gateway_audit_reader",
    "plant_gateway_audit_auditor",
    // Somebody of the same cluster who has nothing to do with the gateway.
    "pg_monitor",
];

/// What the settings of a transaction say of the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tenant {
    /// Nothing was ever set.
    None,
    /// Empty, as after a transaction that set it.
    Empty,
    /// Somebody without a record.
    Wrong,
    /// The user `subject-1` of `cp`, who is administrator of `customer-1`.
    Right,
}

/// The log of two gateways, with something in every table.
async fn filled(pool: &PgPool) -> Holder {
    let state = state(pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let mut encoded: Vec<Vec<u8>> = (0..100)
        .map(|number| encode(&AuditRecord { gateway: if number % 2 == 0 { Gateway::Plant } else { Gateway::Pp }, ..record(number) }))
        .collect();
    encoded.push(b"\xff".to_vec());
    deliver(&mut holder, batch(3, &encoded)).await;
    sqlx::query("INSERT INTO gateway_audit.checkpoints (number, kind, signed_at, jws) VALUES (1, 'heads', now(), '')")
        .execute(pool)
        .await
        .unwrap();
    // Today is over.
    sqlx::query("UPDATE gateway_audit.partitions SET day = day - 20 WHERE day = (now() AT TIME ZONE 'UTC')::date")
        .execute(pool)
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO gateway_audit.daily_summaries SELECT current_date, gateway_type, issuer, subject, user_id, customer_id, trial_mode, \
             1, 1, 0, 0, 0, 1, 1, 1, 1 FROM gateway_audit_logs GROUP BY gateway_type, issuer, subject, user_id, customer_id, trial_mode",
    )
    .execute(pool)
    .await
    .unwrap();
    holder
}

async fn enter(connection: &mut PgConnection, role: &str, tenant: Tenant) {
    let values = match tenant {
        Tenant::None => None,
        Tenant::Empty => Some(["", "", "", ""]),
        Tenant::Wrong => Some(["nobody", "nobody", "nobody", "nobody"]),
        Tenant::Right => Some(["envoy-1", "cp", "subject-1", "customer-1"]),
    };
    for (name, value) in ["envoy", "issuer", "subject", "customer"].into_iter().zip(values.iter().flatten()) {
        sqlx::query("SELECT set_config('plant_gateway.' || $1, $2, true)").bind(name).bind(value).execute(&mut *connection).await.unwrap();
    }
    sqlx::query("SELECT set_config('role', $1, true)").bind(role).execute(connection).await.unwrap();
}

/// How many rows a statement touched; `None` if it was refused.
async fn attempt(connection: &mut PgConnection, role: &str, tenant: Tenant, sql: &str) -> Option<u64> {
    let mut transaction = connection.begin().await.unwrap();
    enter(&mut transaction, role, tenant).await;
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut *transaction).await;
    transaction.rollback().await.unwrap();
    match done {
        Ok(done) => Some(done.rows_affected()),
        Err(error) => {
            let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
            // insufficient_privilege, foreign_key_violation, and what TRUNCATE says where others refer to the table.
            assert!(["42501", "0A000", "23503"].contains(&code.as_str()), "{role} {tenant:?} {sql}: {error}");
            None
        }
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn nobody_sees_or_changes_what_is_not_theirs(pool: PgPool) {
    let _holder = filled(&pool).await;
    let tables: Vec<(String, String, bool)> = sqlx::query_as(
        "SELECT c.oid::regclass::text, (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute \
             WHERE attrelid = c.oid AND attnum > 0 AND attgenerated = '' AND attidentity = ''), c.relispartition FROM pg_class AS c \
         WHERE c.relkind IN ('r', 'p') AND (c.relnamespace = 'gateway_audit'::regnamespace OR c.relname LIKE '%audit%') ORDER BY 1",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(tables.len() > 40, "{tables:?}");
    let mut connection = pool.acquire().await.unwrap();
    let mut total = BTreeMap::new();
    for (table, _, _) in &tables {
        let (rows,): (i64,) =
            sqlx::query_as(AssertSqlSafe(format!("SELECT count(*) FROM {table}"))).fetch_one(&mut *connection).await.unwrap();
        total.insert(table.as_str(), u64::try_from(rows).unwrap());
    }
    let mut cases = 0;
    for (table, columns, is_partition) in &tables {
        for role in ROLES {
            for tenant in [Tenant::None, Tenant::Empty, Tenant::Wrong, Tenant::Right] {
                let expected = expected(table, *is_partition, role, tenant, total[table.as_str()]);
                let first = columns.split(", ").next().unwrap();
                for (verb, sql) in [
                    ("SELECT", format!("SELECT * FROM {table}")),
                    ("INSERT", format!("INSERT INTO {table} ({columns}) SELECT {columns} FROM {table} WHERE false")),
                    ("UPDATE", format!("UPDATE {table} SET {first} = {first}")),
                    ("DELETE", format!("DELETE FROM {table}")),
                    ("TRUNCATE", format!("TRUNCATE {table} CASCADE")),
                ] {
                    let touched = attempt(&mut connection, role, tenant, &sql).await;
                    cases += 1;
                    let allowed = match verb {
                        "SELECT" => touched.unwrap_or(0) == expected,
                        // What is inserted is looked at below.
                        "INSERT" => touched.unwrap_or(0) == 0,
                        "UPDATE" | "DELETE" => touched.unwrap_or(0) == 0 || is_upkeep(table, role, verb),
                        // The owner can drop what it owns; nobody else can.
                        _ => touched.is_none() || role.ends_with("_owner"),
                    };
                    assert!(allowed, "{role} {tenant:?} {sql}: {touched:?}, {expected} expected of {:?}", total[table.as_str()]);
                }
            }
        }
    }
    println!("{cases} cases over {} tables", tables.len());
}

/// What is not part of the log, but says what is kept of it, or which batches are known.
fn is_upkeep(table: &str, role: &str, verb: &str) -> bool {
    let owner = role.ends_with("_owner");
    match table {
        "gateway_audit.retention" | "gateway_audit.holds" | "gateway_audit.partitions" => owner,
        "audit_batches" | "audit_quarantine" => owner && verb == "DELETE",
        "gateway_audit.chains" => role.ends_with("_writer") && verb == "UPDATE",
        _ => false,
    }
}

fn expected(table: &str, is_partition: bool, role: &str, tenant: Tenant, total: u64) -> u64 {
    let tenants = ["gateway_audit_logs", "gateway_audit.daily_summaries"].contains(&table);
    let own = ["gateway_audit.retention", "gateway_audit.holds", "gateway_audit.partitions"].contains(&table);
    let worked_on = ["audit_batches", "audit_gaps", "gateway_audit.chains", "gateway_audit.checkpoints"].contains(&table);
    match role {
        _ if is_partition => 0,
        "plant_gateway_audit_owner" => total,
        _ if own => 0,
        "plant_gateway_audit_auditor" => total,
        "plant_gateway_audit_writer" if worked_on => total,
        // Two of a hundred records are of the user, and ten of the customer; each summary is of one user, customer, gateway and trial.
        "plant_gateway_audit_reader" if tenants && tenant == Tenant::Right => 10 - if table == "gateway_audit_logs" { 0 } else { 5 },
        _ => 0,
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_sender_writes_in_the_name_of_its_own_envoy_alone(pool: PgPool) {
    let _holder = filled(&pool).await;
    let mut connection = pool.acquire().await.unwrap();
    let sql = "INSERT INTO audit_quarantine (holder, sequence, envoy_id, bytes, error) VALUES (gen_random_uuid(), 1, 'envoy-1', '', '')";
    for (tenant, touched) in [(Tenant::Right, Some(1)), (Tenant::Wrong, None), (Tenant::Empty, None), (Tenant::None, None)] {
        assert_eq!(attempt(&mut connection, "plant_gateway_audit_writer", tenant, sql).await, touched, "{tenant:?}");
    }
    let (columns,): (String,) = sqlx::query_as(
        "SELECT string_agg(quote_ident(column_name), ', ') FROM information_schema.columns \
         WHERE table_name = 'gateway_audit_logs' AND is_generated = 'NEVER' AND column_name <> 'sequence'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    let sql = format!("INSERT INTO gateway_audit_logs (sequence, {columns}) SELECT sequence + 1000, {columns} FROM copies");
    sqlx::query("CREATE TABLE copies AS TABLE gateway_audit_logs").execute(&pool).await.unwrap();
    sqlx::query("GRANT SELECT ON copies TO PUBLIC").execute(&pool).await.unwrap();
    for role in ROLES {
        for (tenant, touched) in [(Tenant::Right, Some(100)), (Tenant::Wrong, None), (Tenant::Empty, None), (Tenant::None, None)] {
            let touched = touched.filter(|_| role == "plant_gateway_audit_writer");
            assert_eq!(attempt(&mut connection, role, tenant, &sql).await, touched, "{role} {tenant:?}");
        }
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_user_sees_own_records_a_customers_administrator_the_customers_and_an_auditor_all(pool: PgPool) {
    let _holder = filled(&pool).await;
    let seen = async |access| {
        let all = count(&pool, access, &Filter::default()).await.unwrap();
        let page = page(&pool, access, &Filter::default(), None, 1_000).await.unwrap();
        assert_eq!(i64::try_from(page.len()).unwrap(), all);
        all
    };
    let reader = |issuer, subject, administers| Access::Reader { issuer, subject, administers };
    assert_eq!(seen(Access::Auditor).await, 100);
    assert_eq!(seen(reader("cp", "subject-1", None)).await, 2);
    assert_eq!(seen(reader("cp", "subject-1", Some("customer-1"))).await, 10);
    assert_eq!(seen(reader("pp", "subject-1", None)).await, 0, "a user is the issuer's");
    assert_eq!(seen(reader("", "", Some(""))).await, 0);
    assert!(count(&pool, Access::Writer { envoy_id: "envoy-1" }, &Filter::default()).await.is_err(), "a sender reads nothing");
}

/// As operators should run it: a login that is neither a superuser nor the owner of anything in the log.
#[sqlx::test(migrations = false)]
async fn a_login_without_rights_of_its_own_migrates_ingests_and_queries(pool: PgPool) {
    let (database,): (String,) = sqlx::query_as("SELECT current_database()::text").fetch_one(&pool).await.unwrap();
    let login = format!("login_{}", uuid::Uuid::new_v4().simple());
    for sql in [
        format!("CREATE ROLE {login} LOGIN NOSUPERUSER CREATEROLE PASSWORD 'of-the-test'"),
        format!("ALTER DATABASE \"{database}\" OWNER TO {login}"),
        "GRANT CREATE ON SCHEMA public TO PUBLIC".to_owned(),
    ] {
        sqlx::query(AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    }
    for role in ROLES.iter().filter(|role| role.starts_with("plant")) {
        // Other databases of the cluster have made the roles already, or do so now: an administrator grants them.
        let made = format!("DO $$ BEGIN CREATE ROLE {role} NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$");
        sqlx::query(AssertSqlSafe(made)).execute(&pool).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("GRANT {role} TO {login} WITH SET TRUE, INHERIT FALSE"))).execute(&pool).await.unwrap();
    }
    let options = (*pool.connect_options()).clone().username(&login).password("of-the-test");
    let as_login = sqlx::postgres::PgPoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
    control_plane::start::MIGRATOR.run(&as_login).await.unwrap();
    let state = state(&as_login, 100).await;
    let mut holder = Holder::new(&state).await;
    let encoded: Vec<Vec<u8>> = (0..10).map(|number| encode(&record(number))).collect();
    assert_eq!(deliver(&mut holder, batch(1, &encoded)).await, Some(1));
    assert_eq!(count(&as_login, Access::Auditor, &Filter::default()).await.unwrap(), 10);
    assert_eq!(sum_up_one(&as_login).await.unwrap(), None);
    let direct = sqlx::query("SELECT FROM gateway_audit_logs").fetch_all(&as_login).await;
    assert!(direct.is_err(), "without the role there is nothing to see");
    as_login.close().await;
    for sql in [format!("REASSIGN OWNED BY {login} TO CURRENT_USER"), format!("DROP OWNED BY {login}"), format!("DROP ROLE {login}")] {
        sqlx::query(AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    }
}

/// A record that never names its user's customer.
#[sqlx::test(migrations = "../migrations")]
async fn a_record_of_nobody_is_nobodys(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut holder = Holder::new(&state).await;
    let nobody = AuditRecord { user: None, at_us: START_US, ..record(1) };
    let no_customer = match record(1).user {
        Some(Mention::New(user)) => AuditRecord { user: Some(Mention::New(wire::audit::User { customer_id: None, ..user })), ..record(1) },
        other => panic!("{other:?}"),
    };
    deliver(&mut holder, batch(1, &[encode(&nobody), encode(&no_customer)])).await;
    let reader = Access::Reader { issuer: "", subject: "", administers: Some("") };
    assert_eq!(count(&pool, reader, &Filter::default()).await.unwrap(), 0);
    assert_eq!(count(&pool, Access::Auditor, &Filter::default()).await.unwrap(), 2);
}
