//! Whatever is done to the stored log, and however well it is done, `verify` names the first record that is not as it was.

use crate::plane::{Holder, state};
use crate::records::{batch, deliver, encode, record};
use control_plane::audit::chain::{Hash, Hasher, beginning};
use control_plane::audit::checkpoints::{SigningKey, TrustedKeys, drop_one, sign_heads};
use control_plane::audit::export::{Export, ExportError};
use control_plane::audit::partitions::sum_up_one;
use control_plane::audit::query::StoredRecord;
use control_plane::audit::verify::{Report, VerifyError, Wrong, examine, hash_of, verify};
use control_plane::holders::HolderId;
use sqlx::{Connection as _, PgConnection, PgPool};
use std::path::Path;
use tempfile::TempDir;
use uuid::Uuid;
use wire::audit::AuditRecord;
use wire::policy::Gateway;

const GATEWAYS: [Gateway; 3] = [Gateway::Cp, Gateway::Pp, Gateway::Plant];
const ROUNDS: usize = 100;

fn signing_key(directory: &Path) -> SigningKey {
    let pair = ed25519_compact::KeyPair::generate();
    let path = directory.join("audit.pem");
    std::fs::write(&path, pair.sk.to_pem()).unwrap();
    SigningKey::read(&path).unwrap()
}

/// A log of three holders on three gateways, of which all but the end is signed for, and what was exported.
struct Log {
    pool: PgPool,
    key: SigningKey,
    _directory: TempDir,
    exported: Vec<String>,
}

/// As if ten seconds had passed.
async fn later(pool: &PgPool) {
    sqlx::query("UPDATE gateway_audit.checkpoints SET signed_at = signed_at - interval '10 seconds'").execute(pool).await.unwrap();
}

impl Log {
    async fn new(pool: PgPool) -> Self {
        let state = state(&pool, 100).await;
        let directory = tempfile::tempdir().unwrap();
        let key = signing_key(directory.path());
        let mut holders = [Holder::new(&state).await, Holder::new(&state).await, Holder::new(&state).await];
        let mut first = 1_u64;
        for round in 0..6_i64 {
            for holder in &mut holders {
                let encoded: Vec<Vec<u8>> = (0..25)
                    .map(|number| {
                        let gateway = GATEWAYS[usize::try_from((number + round) % 3).unwrap()];
                        encode(&AuditRecord { gateway, ..record(round * 25 + number) })
                    })
                    .collect();
                assert_eq!(deliver(holder, batch(first, &encoded)).await, Some(first));
            }
            first += 25;
            if round < 5 {
                assert_eq!(sign_heads(&pool, &key).await.unwrap(), Some(round + 1));
                assert_eq!(sign_heads(&pool, &key).await.unwrap(), None, "a moment ago");
                later(&pool).await;
            }
        }
        let path = directory.path().join("checkpoints");
        std::fs::write(&path, "cut o").unwrap();
        assert_eq!(Export::open(&path).unwrap().catch_up(&pool).await.unwrap(), 5, "what was cut off is no checkpoint");
        assert_eq!(Export::open(&path).unwrap().catch_up(&pool).await.unwrap(), 0);
        let exported = std::fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
        Self { pool, key, _directory: directory, exported }
    }

    async fn verify(&self) -> Report {
        let mut connection = self.pool.acquire().await.unwrap();
        verify(&mut connection, &self.exported, &TrustedKeys::of(&self.key)).await.unwrap()
    }

    async fn chain(&self, at: usize) -> Vec<StoredRecord> {
        let chains: Vec<(Uuid, String)> =
            sqlx::query_as("SELECT holder, gateway_type FROM gateway_audit.chains ORDER BY holder, gateway_type")
                .fetch_all(&self.pool)
                .await
                .unwrap();
        let (holder, gateway) = &chains[at % chains.len()];
        sqlx::query_as("SELECT * FROM gateway_audit_logs WHERE holder = $1 AND gateway_type = $2 ORDER BY sequence")
            .bind(holder)
            .bind(gateway)
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }
}

/// How good the forger is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Skill {
    /// Changes rows.
    Rows,
    /// Also makes every hash after that anew, and what is noted of the chain.
    Hashes,
}

async fn execute(connection: &mut PgConnection, sql: &'static str, record: &StoredRecord) {
    let done = sqlx::query(sql).bind(record.holder).bind(record.sequence).bind(&record.gateway_type).execute(connection).await.unwrap();
    assert!(done.rows_affected() > 0, "{sql}");
}

/// Makes the hashes of a chain anew, as one would who can write everything in the database.
async fn rehash(connection: &mut PgConnection, holder: Uuid, gateway: &str) {
    let rows: Vec<StoredRecord> =
        sqlx::query_as("SELECT * FROM gateway_audit_logs WHERE holder = $1 AND gateway_type = $2 ORDER BY sequence")
            .bind(holder)
            .bind(gateway)
            .fetch_all(&mut *connection)
            .await
            .unwrap();
    let mut hash: Hash = beginning(HolderId(holder), gateway);
    let mut hasher = Hasher::default();
    for row in &rows {
        hash = hash_of(&mut hasher, &hash, row);
        sqlx::query(
            "UPDATE gateway_audit_logs SET hash = $4 WHERE holder = $1 AND sequence = $2 AND gateway_type = $3 AND received_at = $5",
        )
        .bind(holder)
        .bind(row.sequence)
        .bind(gateway)
        .bind(hash.as_slice())
        .bind(row.received_at)
        .execute(&mut *connection)
        .await
        .unwrap();
    }
    sqlx::query("UPDATE gateway_audit.chains SET head = $3, records = $4, sequence = $5 WHERE holder = $1 AND gateway_type = $2")
        .bind(holder)
        .bind(gateway)
        .bind(hash.as_slice())
        .bind(i64::try_from(rows.len()).unwrap())
        .bind(rows.last().map_or(0, |row| row.sequence))
        .execute(connection)
        .await
        .unwrap();
}

const COLUMNS: [&str; 6] = [
    "UPDATE gateway_audit_logs SET reason = reason || '.' WHERE holder = $1 AND sequence = $2 AND gateway_type = $3",
    "UPDATE gateway_audit_logs SET user_id = 'somebody' WHERE holder = $1 AND sequence = $2 AND gateway_type = $3",
    "UPDATE gateway_audit_logs SET charges = '[]' WHERE holder = $1 AND sequence = $2 AND gateway_type = $3",
    "UPDATE gateway_audit_logs SET \"timestamp\" = \"timestamp\" + interval '1 microsecond' WHERE holder = $1 AND sequence = $2 AND gateway_type = $3",
    "UPDATE gateway_audit_logs SET checks = checks - 0 WHERE holder = $1 AND sequence = $2 AND gateway_type = $3",
    "UPDATE gateway_audit_logs SET ours_us = 0 WHERE holder = $1 AND sequence = $2 AND gateway_type = $3",
];
const DELETE: &str = "DELETE FROM gateway_audit_logs WHERE holder = $1 AND sequence = $2 AND gateway_type = $3";
const TRUNCATE: &str = "DELETE FROM gateway_audit_logs WHERE holder = $1 AND sequence >= $2 AND gateway_type = $3";
/// Two neighbours change their contents.
const REORDER: &str = "WITH pair AS (SELECT sequence, reason, correlation_id, \"timestamp\" FROM gateway_audit_logs \
         WHERE holder = $1 AND gateway_type = $3 AND sequence >= $2 ORDER BY sequence LIMIT 2) \
     UPDATE gateway_audit_logs AS l SET correlation_id = other.correlation_id, \"timestamp\" = other.\"timestamp\" FROM pair AS other \
     WHERE l.holder = $1 AND l.gateway_type = $3 AND l.sequence IN (SELECT sequence FROM pair) AND other.sequence <> l.sequence";

/// Puts a copy of a record beside it, or at a place that another gateway has in the holder's sequence.
async fn insert_copy(connection: &mut PgConnection, record: &StoredRecord, places_on: i64) {
    let (columns,): (String,) = sqlx::query_as(
        "SELECT string_agg(quote_ident(column_name), ', ') FROM information_schema.columns \
         WHERE table_name = 'gateway_audit_logs' AND is_generated = 'NEVER' AND column_name NOT IN ('received_at', 'sequence')",
    )
    .fetch_one(&mut *connection)
    .await
    .unwrap();
    let sql = format!(
        "INSERT INTO gateway_audit_logs (received_at, sequence, {columns}) SELECT received_at + interval '1 microsecond', sequence + $4, {columns} \
         FROM gateway_audit_logs WHERE holder = $1 AND sequence = $2 AND gateway_type = $3"
    );
    let inserted =
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(record.holder).bind(record.sequence).bind(&record.gateway_type).bind(places_on);
    assert_eq!(inserted.execute(connection).await.unwrap().rows_affected(), 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_was_not_touched_is_whole(pool: PgPool) {
    let log = Log::new(pool).await;
    let report = log.verify().await;
    assert_eq!((report.records, report.chains, report.checkpoints, report.findings), (450, 9, 5, vec![]));
}

#[sqlx::test(migrations = "../migrations")]
async fn every_forgery_is_found_and_its_place_named(pool: PgPool) {
    let log = Log::new(pool).await;
    let mut random = fastrand::Rng::with_seed(7);
    let mut found = std::collections::BTreeMap::<(&str, Skill), usize>::new();
    for kind in ["edit", "delete", "insert", "reorder", "truncate", "fork"] {
        for _ in 0..ROUNDS {
            let chain = log.chain(random.usize(..9)).await;
            // Of each chain the last eight or nine records are not signed for yet: nobody can tell a good forgery there.
            let skill = if kind == "fork" || random.bool() { Skill::Hashes } else { Skill::Rows };
            let signed = if skill == Skill::Hashes { 39 } else { 48 };
            let place = random.usize(..signed);
            let target = &chain[place];
            let mut connection = log.pool.acquire().await.unwrap();
            let mut transaction = connection.begin().await.unwrap();
            match kind {
                "edit" | "fork" => execute(&mut transaction, COLUMNS[random.usize(..COLUMNS.len() - 1)], target).await,
                "delete" => execute(&mut transaction, DELETE, target).await,
                "insert" => insert_copy(&mut transaction, target, if skill == Skill::Hashes { 1 } else { 0 }).await,
                "reorder" => execute(&mut transaction, REORDER, target).await,
                _ => execute(&mut transaction, TRUNCATE, target).await,
            }
            if skill == Skill::Hashes {
                rehash(&mut transaction, target.holder, &target.gateway_type).await;
            }
            let report = examine(&mut transaction, &log.exported, &TrustedKeys::of(&log.key)).await.unwrap();
            transaction.rollback().await.unwrap();
            let [finding] = report.findings.as_slice() else { panic!("{kind} {skill:?} at {place}: {report:?}") };
            let id = finding.record.as_deref().unwrap();
            let (holder, sequence) = id.rsplit_once('-').unwrap();
            let sequence: i64 = sequence.parse().unwrap();
            let at = target.sequence + i64::from(kind == "insert" && skill == Skill::Hashes);
            assert_eq!((holder, finding.gateway.as_deref()), (target.holder.to_string().as_str(), Some(target.gateway_type.as_str())));
            let next = chain.get(place + 1).map_or(at + 1, |record| record.sequence);
            let before = place.checked_sub(1).map_or(0, |before| chain[before].sequence);
            let named = match (kind, skill) {
                // A good forger's work is seen where the next checkpoint was signed, and is between that and the one before.
                (_, Skill::Hashes) => {
                    finding.good_up_to.unwrap_or(0) < at
                        && matches!(finding.wrong, Wrong::Forked | Wrong::CutOff | Wrong::Unaccounted)
                        && sequence > before
                }
                ("edit" | "reorder", _) => sequence == at && finding.wrong == Wrong::Broken,
                ("delete", _) => sequence == next && matches!(finding.wrong, Wrong::Broken | Wrong::Forked),
                ("insert", _) => sequence == at && finding.wrong == Wrong::Repeated,
                _ => sequence > before && sequence <= at && finding.wrong == Wrong::CutOff,
            };
            assert!(named, "{kind} {skill:?} of {at}: {finding:?}");
            *found.entry((kind, skill)).or_default() += 1;
        }
    }
    println!("{found:?}");
    assert_eq!(found.values().sum::<usize>(), 6 * ROUNDS);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_database_that_signs_for_another_past_is_a_fork(pool: PgPool) {
    let log = Log::new(pool).await;
    let record = &log.chain(0).await[3];
    // Everything is made anew in the database, its checkpoints too, by somebody who has a key, but not ours.
    execute(&mut log.pool.acquire().await.unwrap(), COLUMNS[0], record).await;
    rehash(&mut log.pool.acquire().await.unwrap(), record.holder, &record.gateway_type).await;
    sqlx::query("DELETE FROM gateway_audit.checkpoints").execute(&log.pool).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(sign_heads(&log.pool, &signing_key(directory.path())).await.unwrap(), Some(1));
    let wrongs: Vec<Wrong> = log.verify().await.findings.iter().map(|finding| finding.wrong).collect();
    assert_eq!(wrongs, [Wrong::CheckpointsForked, Wrong::Forked]);
    let mut connection = log.pool.acquire().await.unwrap();
    let alone = verify(&mut connection, &[], &TrustedKeys::of(&log.key)).await.unwrap();
    assert_eq!(alone.findings.iter().map(|finding| finding.wrong).collect::<Vec<_>>(), [Wrong::BadCheckpoint]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_checkpoint_that_was_changed_or_taken_out_does_not_count(pool: PgPool) {
    let mut log = Log::new(pool).await;
    let whole = log.exported.clone();
    log.exported.remove(2);
    let wrongs = |report: Report| report.findings.into_iter().map(|finding| finding.wrong).collect::<Vec<_>>();
    assert_eq!(wrongs(log.verify().await), [Wrong::CheckpointsForked, Wrong::CheckpointsBroken]);
    log.exported = whole.clone();
    let changed = log.exported[4].replace('A', "B");
    log.exported[4] = changed;
    assert_eq!(wrongs(log.verify().await), [Wrong::CheckpointsForked, Wrong::BadCheckpoint]);
    log.exported = whole;
    sqlx::query("DELETE FROM gateway_audit.checkpoints WHERE number > 3").execute(&log.pool).await.unwrap();
    assert_eq!(wrongs(log.verify().await), [Wrong::CheckpointsForked], "the database forgot what was exported");
}

/// A chain of a holder that never was, made so well that the control plane signs for it.
#[sqlx::test(migrations = "../migrations")]
async fn what_is_put_in_with_an_old_date_is_found_although_it_is_signed(pool: PgPool) {
    let mut log = Log::new(pool).await;
    let record = &log.chain(0).await[0];
    let yesterday = "DO $$ DECLARE day DATE := (now() AT TIME ZONE 'UTC')::date - 1; BEGIN \
         CREATE TABLE gateway_audit.cp_yesterday (LIKE gateway_audit.cp INCLUDING CONSTRAINTS INCLUDING GENERATED); \
         EXECUTE format('ALTER TABLE gateway_audit.cp ATTACH PARTITION gateway_audit.cp_yesterday FOR VALUES FROM (%L) TO (%L)', \
             day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC'); END $$";
    sqlx::query(yesterday).execute(&log.pool).await.unwrap();
    let invented = Uuid::now_v7();
    let (columns,): (String,) = sqlx::query_as(
        "SELECT string_agg(quote_ident(column_name), ', ') FROM information_schema.columns \
         WHERE table_name = 'gateway_audit_logs' AND is_generated = 'NEVER' AND column_name NOT IN ('received_at', 'holder')",
    )
    .fetch_one(&log.pool)
    .await
    .unwrap();
    let sql = format!(
        "INSERT INTO gateway_audit_logs (received_at, holder, {columns}) SELECT received_at - interval '10 minutes', $4, {columns} \
         FROM gateway_audit_logs WHERE holder = $1 AND sequence = $2 AND gateway_type = $3"
    );
    let put_in = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(record.holder).bind(record.sequence).bind(&record.gateway_type).bind(invented);
    assert_eq!(put_in.execute(&log.pool).await.unwrap().rows_affected(), 1);
    sqlx::query(
        "INSERT INTO gateway_audit.chains (holder, gateway_type, sequence, records, head, advanced_at) VALUES ($1, $2, 1, 1, sha256(''), now())",
    )
    .bind(invented)
    .bind(&record.gateway_type)
    .execute(&log.pool)
    .await
    .unwrap();
    rehash(&mut log.pool.acquire().await.unwrap(), invented, &record.gateway_type).await;
    later(&log.pool).await;
    assert_eq!(sign_heads(&log.pool, &log.key).await.unwrap(), Some(6));
    log.exported.clear();
    let report = log.verify().await;
    let [finding] = report.findings.as_slice() else { panic!("{report:?}") };
    assert_eq!((finding.wrong, finding.record.clone()), (Wrong::Unaccounted, Some(format!("{invented}-{}", record.sequence))));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_list_of_roles_that_reads_the_same_is_not_the_same(pool: PgPool) {
    let log = Log::new(pool).await;
    let record = &log.chain(0).await[0];
    for other in ["ARRAY['admin,viewer']", "ARRAY['admin', 'viewer', '']", "NULL"] {
        let mut connection = log.pool.acquire().await.unwrap();
        let mut transaction = connection.begin().await.unwrap();
        let sql = format!("UPDATE gateway_audit_logs SET roles = {other} WHERE holder = $1 AND sequence = $2");
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(record.holder).bind(record.sequence).execute(&mut *transaction).await.unwrap();
        let report = examine(&mut transaction, &log.exported, &TrustedKeys::of(&log.key)).await.unwrap();
        assert_eq!(report.findings.iter().map(|finding| finding.wrong).collect::<Vec<_>>(), [Wrong::Broken], "{other}");
        transaction.rollback().await.unwrap();
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn checkpoints_are_not_appended_to_those_of_another_past(pool: PgPool) {
    let log = Log::new(pool).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoints");
    std::fs::write(&path, format!("{}\n", log.exported[1])).unwrap();
    let refused = Export::open(&path).unwrap_err();
    assert!(matches!(refused, ExportError::File { .. }), "the first one is missing: {refused:?}");
    // What is no checkpoint does not count, and one that is there twice counts once.
    std::fs::write(&path, format!("{}\n\nno checkpoint\n{}\n", log.exported[0], log.exported[0])).unwrap();
    let mut export = Export::open(&path).unwrap();
    assert!(matches!(Export::open(&path).unwrap_err(), ExportError::Held { .. }), "one process appends");
    assert_eq!(export.catch_up(&log.pool).await.unwrap(), 4);
    drop(export);
    // Another database's, which was not restored from anything.
    sqlx::raw_sql("DELETE FROM gateway_audit.checkpoints; UPDATE gateway_database SET id = gen_random_uuid()")
        .execute(&log.pool)
        .await
        .unwrap();
    let refused = Export::open(&path).unwrap().catch_up(&log.pool).await.unwrap_err();
    assert!(matches!(refused, ExportError::Foreign { .. }), "{refused:?}");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_partition_is_dropped_in_its_time_and_the_rest_stays_whole(pool: PgPool) {
    let mut log = Log::new(pool).await;
    let day = "((now() AT TIME ZONE 'UTC')::date - 100)";
    assert_eq!(drop_one(&log.pool, &log.key).await.unwrap(), None, "nothing is old");
    // A hundred days ago there was a day of CP: its records came then.
    let name: (String,) =
        sqlx::query_as("SELECT 'cp_' || to_char((now() AT TIME ZONE 'UTC')::date - 100, 'YYYYMMDD')").fetch_one(&log.pool).await.unwrap();
    for sql in [
        format!("CREATE TABLE gateway_audit.{} (LIKE gateway_audit.cp INCLUDING CONSTRAINTS INCLUDING GENERATED)", name.0),
        format!("ALTER TABLE gateway_audit.{} OWNER TO plant_gateway_audit_owner", name.0),
        format!(
            "DO $$ BEGIN EXECUTE format('ALTER TABLE gateway_audit.cp ATTACH PARTITION gateway_audit.{} FOR VALUES FROM (%L) TO (%L)', \
             {day}::timestamp AT TIME ZONE 'UTC', ({day} + 1)::timestamp AT TIME ZONE 'UTC'); END $$",
            name.0
        ),
        format!("INSERT INTO gateway_audit.partitions (gateway_type, day) VALUES ('CP', {day})"),
        format!(
            "UPDATE gateway_audit_logs SET received_at = {day}::timestamp AT TIME ZONE 'UTC' + make_interval(secs => sequence) WHERE gateway_type = 'CP' AND sequence <= 40"
        ),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&log.pool).await.unwrap();
    }
    let holders: Vec<(Uuid,)> = sqlx::query_as("SELECT DISTINCT holder FROM gateway_audit.chains").fetch_all(&log.pool).await.unwrap();
    for (holder,) in &holders {
        rehash(&mut log.pool.acquire().await.unwrap(), *holder, "CP").await;
    }
    let (old,): (i64,) = sqlx::query_as("SELECT count(*) FROM gateway_audit_logs WHERE received_at < now() - interval '90 days'")
        .fetch_one(&log.pool)
        .await
        .unwrap();
    sqlx::query("DELETE FROM gateway_audit.checkpoints").execute(&log.pool).await.unwrap();
    sqlx::query("UPDATE gateway_audit.chains SET signed_sequence = 0").execute(&log.pool).await.unwrap();
    assert_eq!(sign_heads(&log.pool, &log.key).await.unwrap(), Some(1));
    log.exported.clear();
    let before = log.verify().await;
    assert_eq!((before.records, &before.findings), (450, &vec![]));

    let drop_again = || drop_one(&log.pool, &log.key);
    assert_eq!(drop_again().await.unwrap(), None, "not summed up yet");
    while sum_up_one(&log.pool).await.unwrap().is_some() {}
    sqlx::query("INSERT INTO gateway_audit.holds (reason, placed_by) VALUES ('a case', 'ops')").execute(&log.pool).await.unwrap();
    assert_eq!(drop_again().await.unwrap(), None, "a legal hold");
    sqlx::query("UPDATE gateway_audit.holds SET released_by = 'ops', released_at = now()").execute(&log.pool).await.unwrap();
    assert_eq!(drop_again().await.unwrap().map(|(gateway, _)| gateway).as_deref(), Some("CP"));
    assert_eq!(drop_again().await.unwrap(), None);
    let (summed,): (i64,) =
        sqlx::query_as("SELECT sum(requests)::bigint FROM gateway_audit.daily_summaries").fetch_one(&log.pool).await.unwrap();
    let after = log.verify().await;
    assert_eq!((after.records, summed), (450 - u64::try_from(old).unwrap(), old), "{after:?}");
    assert_eq!((after.chains, &after.findings), (9, &vec![]), "a signed drop is no truncation");
    let mut connection = log.pool.acquire().await.unwrap();
    let keyless = verify(&mut connection, &[], &TrustedKeys::default()).await;
    assert!(matches!(keyless, Err(VerifyError::KeyNeeded)), "{keyless:?}");
    // The same without the signed record of it is one.
    sqlx::query("DELETE FROM gateway_audit.checkpoints WHERE kind = 'dropped'").execute(&log.pool).await.unwrap();
    let unsigned = log.verify().await;
    assert!(unsigned.findings.iter().any(|finding| finding.wrong == Wrong::Broken), "{unsigned:?}");
}
