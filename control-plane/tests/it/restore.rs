//! A backup is restored: what was spent and used up after it is not spent and used up again, and the log says what is lost.

use crate::plane;
use crate::plane::{Holder, state, token};
use crate::records::{batch, deliver, records};
use crate::support::World;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use control_plane::app::{AppState, admin_app, data_plane_app};
use control_plane::audit::checkpoints::{SigningError, SigningKey, TrustedKeys, sign_heads};
use control_plane::audit::export::Export;
use control_plane::audit::verify::{Report, Wrong, verify};
use control_plane::holders::AdmitError;
use control_plane::restore::fence;
use control_plane::sync::SyncError;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, PgPool};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tower::ServiceExt as _;
use uuid::Uuid;
use wire::sync::{ApprovalOutcome, ApprovalRefusal, SyncAnswer};

/// A log that goes on after the backup, and the backup, restored.
struct Story {
    /// The restored database.
    pool: PgPool,
    /// The one that is lost.
    source: PgConnectOptions,
    directory: TempDir,
    key: SigningKey,
    /// It called before the backup and after it.
    known: Holder,
    /// It called after the backup only.
    lost: Holder,
    /// An approval that was granted before the backup and used after it.
    used: Uuid,
    /// One that was asked for and granted after it.
    unheard: Uuid,
    /// Whose budgets: all tests share the counters that may be lost.
    scope: String,
}

fn url_of(options: &PgConnectOptions) -> String {
    let url = std::env::var("DATABASE_URL").unwrap();
    let (server, _name) = url.split('?').next().unwrap().rsplit_once('/').unwrap();
    format!("{server}/{}?sslmode=disable", options.get_database().unwrap())
}

async fn administrator(options: &PgConnectOptions, sql: String) {
    let mut connection = options.clone().database("postgres").connect().await.unwrap();
    connection.execute(AssertSqlSafe(sql)).await.unwrap();
}

async fn connect(options: &PgConnectOptions) -> PgPool {
    PgPoolOptions::new().max_connections(5).connect_with(options.clone()).await.unwrap()
}

/// As if ten seconds had passed.
async fn sign(pool: &PgPool, key: &SigningKey) -> Option<i64> {
    sqlx::query("UPDATE gateway_audit.checkpoints SET signed_at = signed_at - interval '10 seconds'").execute(pool).await.unwrap();
    sign_heads(pool, key).await.unwrap()
}

async fn approve(state: &AppState, id: Uuid) {
    let request = Request::post(format!("/admin/v1/approvals/{id}/decision"))
        .header(header::AUTHORIZATION, format!("Bearer {}", token("grace", "admin", true)))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(json!({"decision": "approve", "reason": "looked at it"}).to_string()))
        .unwrap();
    assert_eq!(admin_app(state.clone()).oneshot(request).await.unwrap().status(), StatusCode::OK);
}

/// Asks for an approval, or presents one.
async fn present(holder: &mut Holder, path: &str, id: Option<Uuid>) -> Option<ApprovalOutcome> {
    let mut request = holder.request(vec![]);
    request.approvals = vec![wire::sync::ApprovalAsk { approval_id: id.map(|id| id.to_string()), ..plane::ask("ada", path, "") }];
    let SyncAnswer { approvals, .. } = holder.send(&request).await.unwrap();
    approvals.into_iter().next().map(|answer| answer.outcome)
}

async fn granted(holder: &mut Holder, path: &str) -> Uuid {
    let Some(ApprovalOutcome::Pending { approval_id, .. }) = present(holder, path, None).await else { panic!("not pending") };
    let id = approval_id.parse().unwrap();
    approve(&holder.state, id).await;
    id
}

async fn lease(holder: &mut Holder, (budget, scope): (&str, &str), used: i64, target: i64) -> i64 {
    let want = holder.want(budget, scope, used, target, target);
    holder.report(want).await.granted
}

async fn refused(holder: &mut Holder) -> SyncError {
    let request = holder.request(vec![]);
    holder.send(&request).await.unwrap_err()
}

fn closed(error: &SyncError) -> Option<i64> {
    if let SyncError::NotAdmitted(AdmitError::Closed { last_sequence }) = error { Some(*last_sequence) } else { None }
}

impl Story {
    async fn new(pool: PgPool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pem = directory.path().join("audit.pem");
        std::fs::write(&pem, ed25519_compact::KeyPair::generate().sk.to_pem()).unwrap();
        let key = SigningKey::read(&pem).unwrap();
        let path = directory.path().join("checkpoints");

        let scope = format!("agent:{}", Uuid::now_v7());
        let before = state(&pool, 100).await;
        let mut known = Holder::new(&before).await;
        assert_eq!(lease(&mut known, ("daily", &scope), 10, 40).await, 40);
        assert_eq!(lease(&mut known, ("hourly", &scope), 10, 40).await, 40);
        deliver(&mut known, batch(1, &records(0, 20))).await;
        let used = granted(&mut known, "/used").await;
        assert_eq!(sign(&pool, &key).await, Some(1));
        // Not signed for yet.
        deliver(&mut known, batch(21, &records(20, 5))).await;

        let source = PgConnectOptions::clone(&pool.connect_options());
        pool.close().await;
        let (name, backup) = (source.get_database().unwrap(), format!("restored_{}", Uuid::now_v7().simple()));
        administrator(&source, format!("CREATE DATABASE \"{backup}\" TEMPLATE \"{name}\"")).await;

        let pool = connect(&source).await;
        let after = state(&pool, 100).await;
        known.state = after.clone();
        assert_eq!(lease(&mut known, ("daily", &scope), 40, 60).await, 60);
        deliver(&mut known, batch(26, &records(25, 15))).await;
        let mut lost = Holder::new(&after).await;
        assert_eq!(lease(&mut lost, ("daily", &scope), 0, 20).await, 20);
        deliver(&mut lost, batch(1, &records(100, 10))).await;
        assert_eq!(present(&mut known, "/used", Some(used)).await, Some(ApprovalOutcome::Granted));
        let unheard = granted(&mut lost, "/unheard").await;
        assert_eq!(sign(&pool, &key).await, Some(2));
        deliver(&mut lost, batch(11, &records(110, 10))).await;
        assert_eq!(sign(&pool, &key).await, Some(3));
        assert_eq!(Export::open(&path).unwrap().catch_up(&pool).await.unwrap(), 3);
        pool.close().await;

        let pool = connect(&source.clone().database(&backup)).await;
        let restored = state(&pool, 100).await;
        (known.state, lost.state) = (restored.clone(), restored);
        Self { pool, source, directory, key, known, lost, used, unheard, scope }
    }

    fn exported(&self) -> PathBuf {
        self.directory.path().join("checkpoints")
    }

    async fn fence(&self) {
        fence::at_start(&self.pool, Some(&self.exported())).await.unwrap();
    }

    /// As an operator does it.
    async fn recover(&self) -> Result<Value, String> {
        recover(&url_of(&self.pool.connect_options()), &self.directory).await
    }

    async fn verify(&self) -> Report {
        let exported: Vec<String> = std::fs::read_to_string(self.exported()).unwrap().lines().map(str::to_owned).collect();
        let mut connection = self.pool.acquire().await.unwrap();
        verify(&mut connection, &exported, &TrustedKeys::of(&self.key)).await.unwrap()
    }

    async fn wrongs(&self) -> Vec<Wrong> {
        self.verify().await.findings.iter().map(|finding| finding.wrong).collect()
    }

    async fn run(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await.unwrap();
    }

    async fn end(self) {
        let name = self.pool.connect_options().get_database().unwrap().to_owned();
        self.pool.close().await;
        administrator(&self.source, format!("DROP DATABASE \"{name}\"")).await;
    }
}

async fn recover(database_url: &str, directory: &TempDir) -> Result<Value, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_control-plane"))
        .args(["recover", "--reason", "the disk was lost", "--checkpoints"])
        .arg(directory.path().join("checkpoints"))
        .arg("--signing-key")
        .arg(directory.path().join("audit.pem"))
        .env("DATABASE_URL", database_url)
        .output()
        .await
        .unwrap();
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

async fn ready(state: &AppState) -> (StatusCode, Value) {
    let response = admin_app(state.clone()).oneshot(Request::get("/ready").body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status();
    (status, serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap())
}

#[sqlx::test(migrations = "../migrations")]
async fn a_restored_backup_grants_nothing_and_uses_up_nothing_until_it_is_recovered(pool: PgPool) {
    let mut story = Story::new(pool).await;
    let scope = story.scope.clone();
    let (database,): (Uuid,) = sqlx::query_as("SELECT id FROM gateway_database").fetch_one(&story.pool).await.unwrap();
    assert!(story.wrongs().await.contains(&Wrong::CheckpointsForked), "not recovered, it is a truncation like any other");
    story.fence().await;
    story.fence().await;

    // Whoever has leases of before is closed; who begins anew is heard, and gets nothing.
    assert_eq!(closed(&refused(&mut story.known).await), Some(25), "what is stored is not sent again");
    assert_eq!(closed(&refused(&mut story.lost).await), Some(0));
    let mut fenced = Holder::new(&story.known.state).await;
    assert_eq!((lease(&mut fenced, ("daily", &scope), 0, 5).await, lease(&mut fenced, ("hourly", &scope), 0, 5).await), (0, 0));
    assert_eq!(present(&mut fenced, "/used", Some(story.used)).await, None);
    assert_eq!(present(&mut fenced, "/new", None).await, None);
    assert_eq!(deliver(&mut fenced, batch(1, &records(200, 10))).await, Some(1));
    assert!(matches!(sign_heads(&story.pool, &story.key).await, Err(SigningError::Fenced)));
    let (status, told) = ready(&fenced.state).await;
    assert!(told["restore"].as_str().unwrap().contains("plant-gateway recover --from"), "{told}");
    assert_eq!(status == StatusCode::OK, told["checks"]["migrations"] == "ok", "policies go on being served");
    let feed = Request::get("/data-plane/v1/revocations?wait_s=0").header(header::AUTHORIZATION, "Bearer envoy-1").body(Body::empty());
    assert_eq!(data_plane_app(fenced.state.clone()).oneshot(feed.unwrap()).await.unwrap().status(), StatusCode::OK);

    let done = story.recover().await.unwrap();
    let numbers =
        ["kept", "checkpoints", "checkpoint", "holders", "approvals", "records", "went_on"].map(|name| done[name].as_i64().unwrap());
    assert_eq!(numbers, [1, 2, 4, 1, 1, 35, 0], "{done}");
    assert_eq!((done["windows"].as_i64(), done["lost"].as_array().unwrap().len()), (Some(1), 2), "{done}");
    assert_ne!(done["database"], json!(database), "workers take what has lower numbers than they know");
    let again = story.recover().await.unwrap_err();
    assert!(again.contains("nothing is to be recovered"), "{again}");
    let (events,): (i64,) = sqlx::query_as("SELECT count(*) FROM admin_events WHERE action IN ('database.fence', 'database.recover')")
        .fetch_one(&story.pool)
        .await
        .unwrap();
    assert_eq!(events, 2);

    assert_eq!(closed(&refused(&mut fenced).await), Some(10));
    assert_eq!(closed(&refused(&mut story.lost).await), Some(0), "however late it comes");
    let mut anew = Holder::new(&story.known.state).await;
    assert_eq!(
        (lease(&mut anew, ("daily", &scope), 0, 5).await, lease(&mut anew, ("hourly", &scope), 0, 5).await),
        (0, 0),
        "their windows began before"
    );
    let next = wire::sync::AccountReport {
        window_start: plane::window_start(&anew.state, "daily") + 86_400,
        ..anew.want("daily", &scope, 0, 5, 5)
    };
    assert_eq!(anew.report(next).await.granted, 5, "the next window is a new one");
    for (path, id, outcome) in [
        ("/used", story.used, ApprovalOutcome::Refused(ApprovalRefusal::Expired)),
        ("/unheard", story.unheard, ApprovalOutcome::Refused(ApprovalRefusal::Unknown)),
    ] {
        assert_eq!(present(&mut anew, path, Some(id)).await, Some(outcome));
    }
    let id = granted(&mut anew, "/used").await;
    assert_eq!(present(&mut anew, "/used", Some(id)).await, Some(ApprovalOutcome::Granted), "what is approved now can be used");
    // An hour and a day later.
    story.run("UPDATE gateway_database SET windows_closed_until = windows_closed_until - interval '2 days'").await;
    assert_eq!((lease(&mut anew, ("daily", &scope), 0, 5).await, lease(&mut anew, ("hourly", &scope), 0, 5).await), (5, 5));

    deliver(&mut anew, batch(1, &records(300, 10))).await;
    assert_eq!(sign(&story.pool, &story.key).await, Some(5));
    assert_eq!(Export::open(&story.exported()).unwrap().catch_up(&story.pool).await.unwrap(), 2);
    let report = story.verify().await;
    assert_eq!((report.records, report.checkpoints, report.restores, report.findings), (45, 5, 1, vec![]));
    assert_eq!(ready(&anew.state).await.1["restore"], "recovered");
    story.end().await;
}

/// The last records of a chain, and what is noted of it, as if they had never been.
const CUT: &str = "DELETE FROM gateway_audit_logs WHERE sequence > 18; \
    UPDATE gateway_audit.chains AS c SET sequence = l.sequence, records = 18, head = l.hash FROM gateway_audit_logs AS l \
    WHERE l.holder = c.holder AND l.sequence = 18";

#[sqlx::test(migrations = "../migrations")]
async fn only_what_the_signed_record_says_is_lost_by_a_restore(pool: PgPool) {
    let story = Story::new(pool).await;
    story.fence().await;
    story.recover().await.unwrap();
    assert_eq!(story.wrongs().await, []);
    let (records,): (i64,) = sqlx::query_as("SELECT count(*) FROM gateway_audit_logs").fetch_one(&story.pool).await.unwrap();
    assert_eq!(records, 25);
    // Without the record, or with one of another's, nothing is explained.
    let (jws,): (String,) =
        sqlx::query_as("SELECT jws FROM gateway_audit.checkpoints WHERE number = 4").fetch_one(&story.pool).await.unwrap();
    story.run("DELETE FROM gateway_audit.checkpoints WHERE number = 4").await;
    assert_eq!(story.wrongs().await, [Wrong::CutOff, Wrong::CutOff]);
    let forged = format!("{}.{}", jws.rsplit_once('.').unwrap().0, "A".repeat(86));
    story.run(&format!("INSERT INTO gateway_audit.checkpoints VALUES (4, 'restored', NULL, now(), '{forged}')")).await;
    assert_eq!(story.wrongs().await, [Wrong::BadCheckpoint, Wrong::CutOff, Wrong::CutOff]);
    story.run(&format!("UPDATE gateway_audit.checkpoints SET jws = '{jws}' WHERE number = 4")).await;
    assert_eq!(story.wrongs().await, []);
    story.run("DELETE FROM gateway_audit_logs WHERE sequence > 23").await;
    assert_eq!(story.wrongs().await, [Wrong::CutOff], "the record says where the chain ends");
    story.end().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_restore_does_not_hide_what_was_cut_off_before_it(pool: PgPool) {
    let story = Story::new(pool).await;
    // The backup had a signed checkpoint of twenty records.
    story.run(CUT).await;
    story.fence().await;
    story.recover().await.unwrap();
    assert_eq!(story.wrongs().await, [Wrong::CutOff]);
    story.end().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_chain_that_went_on_before_the_fence_is_told_and_closed(pool: PgPool) {
    let mut story = Story::new(pool).await;
    // Restored under a control plane that runs: it notices with its next checkpoint.
    assert_eq!(deliver(&mut story.known, batch(41, &records(40, 5))).await, Some(41));
    story.fence().await;
    assert_eq!(closed(&refused(&mut story.known).await), Some(45));
    let done = story.recover().await.unwrap();
    assert_eq!((done["went_on"].as_i64(), done["lost"].as_array().unwrap().len()), (Some(1), 1), "{done}");
    assert_eq!(story.wrongs().await, []);
    story.end().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_file_that_is_no_witness_is_refused(pool: PgPool) {
    let story = Story::new(pool).await;
    let whole = std::fs::read_to_string(story.exported()).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    for (text, told) in [
        (format!("{}\n", lines[0]), "nothing is to be recovered"),
        (String::new(), "has no checkpoint"),
        (format!("{}\n{}\n", lines[0], lines[2]), "line 2"),
        (format!("{}\n{}\n", lines[0], lines[1].replace('A', "B")), "line 2"),
    ] {
        std::fs::write(story.exported(), text).unwrap();
        let refused = story.recover().await.unwrap_err();
        assert!(refused.contains(told), "{refused}");
    }
    std::fs::write(story.exported(), &whole).unwrap();
    story.fence().await;
    std::fs::write(story.exported(), format!("{}\n{}\n", lines[0], lines[1])).unwrap();
    let refused = story.recover().await.unwrap_err();
    assert!(refused.contains("checkpoint 3") && refused.contains("longest"), "{refused}");
    // Somebody signed another past before the fence was closed.
    std::fs::write(story.exported(), &whole).unwrap();
    story.run("UPDATE gateway_database SET fenced_at = NULL, fenced_by = NULL").await;
    assert_eq!(sign(&story.pool, &story.key).await, Some(2));
    let refused = story.recover().await.unwrap_err();
    assert!(refused.contains("checkpoint 2") && refused.contains("Restore the backup again"), "{refused}");
    story.end().await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_process_says_that_it_is_fenced_and_ends_when_it_is_not_any_more(pool: PgPool) {
    let world = World::new(pool.clone()).await;
    let directory = tempfile::tempdir().unwrap();
    let pem = directory.path().join("audit.pem");
    std::fs::write(&pem, ed25519_compact::KeyPair::generate().sk.to_pem()).unwrap();
    let envoy = plane::envoy(&pool, "envoy-9").await;
    let mut holder = Holder { state: world.state.clone(), envoy, id: *Uuid::now_v7().as_bytes(), call: 0 };
    deliver(&mut holder, batch(1, &records(0, 3))).await;
    assert_eq!(sign(&pool, &SigningKey::read(&pem).unwrap()).await, Some(1));
    let exported = directory.path().join("checkpoints");
    Export::open(&exported).unwrap().catch_up(&pool).await.unwrap();
    // What a backup of before would have.
    sqlx::raw_sql("DELETE FROM gateway_audit.checkpoints; UPDATE gateway_audit.chains SET signed_sequence = 0")
        .execute(&pool)
        .await
        .unwrap();

    let url = url_of(&pool.connect_options());
    let path = |name: &str| world.directory.path().join(name);
    let mut child = Command::new(env!("CARGO_BIN_EXE_control-plane"))
        .env("DATABASE_URL", &url)
        .env("ADMIN_LISTEN", "127.0.0.1:0")
        .env("DATA_PLANE_LISTEN", "127.0.0.1:0")
        .env("POLICIES_DIR", path("policies"))
        .env("SECRETS_DIR", path("secrets"))
        .env("DATA_PLANE_TOKENS_FILE", path("tokens"))
        .env("AUDIT_SIGNING_KEY_FILE", &pem)
        .env("AUDIT_CHECKPOINTS_FILE", &exported)
        .env("RUST_LOG", "info")
        .env_remove("LOG_FORMAT")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut told = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        told.push_str(&line);
        if line.contains("\"ready\"") {
            break;
        }
    }
    assert!(told.contains("fenced") && told.contains("plant-gateway recover --from"), "{told}");
    let done = recover(&url, &directory).await.unwrap();
    assert_eq!((done["kept"].as_i64(), done["records"].as_i64()), (Some(0), Some(0)), "{done}");
    let drained = tokio::spawn(async move { while let Ok(Some(_line)) = lines.next_line().await {} });
    let status = tokio::time::timeout(Duration::from_secs(20), child.wait()).await.unwrap().unwrap();
    assert!(!status.success(), "whoever supervises it starts it again");
    drained.await.unwrap();
}
