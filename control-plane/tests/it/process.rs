//! The process itself: how it starts, how it refuses to, and how it stops.

use crate::support::{ENVOY_TOKEN, World};
use sqlx::PgPool;
use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStderr, Command};

/// The command with everything set that a good start needs; tests spoil one thing.
fn command(world: &World) -> Command {
    let path = |name: &str| world.directory.path().join(name);
    let mut url = sqlx_url(&world.state.database);
    url.push_str("?sslmode=disable");
    let mut command = Command::new(env!("CARGO_BIN_EXE_control-plane"));
    command
        .env("DATABASE_URL", url)
        .env("ADMIN_LISTEN", "127.0.0.1:0")
        .env("DATA_PLANE_LISTEN", "127.0.0.1:0")
        .env("POLICIES_DIR", path("policies"))
        .env("SECRETS_DIR", path("secrets"))
        .env("DATA_PLANE_TOKENS_FILE", path("tokens"))
        .env("RUST_LOG", "info")
        .env_remove("LOG_FORMAT")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// `DATABASE_URL` with the name of the test's own database.
fn sqlx_url(database: &PgPool) -> String {
    let url = std::env::var("DATABASE_URL").expect("DATABASE_URL is not set: run `make test`");
    let url = url.split('?').next().unwrap();
    let (server, _name) = url.rsplit_once('/').unwrap();
    format!("{server}/{}", database.connect_options().get_database().unwrap())
}

/// Starts, and reads where it listens from the line that says so.
async fn started(world: &World) -> (Child, Lines<BufReader<ChildStderr>>, SocketAddr, SocketAddr) {
    let mut child = command(world).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        if event["message"] == "ready" {
            let address = |name: &str| event[name].as_str().unwrap().parse().unwrap();
            return (child, lines, address("admin"), address("data_plane"));
        }
    }
    panic!("ended before it was ready: {:?}", child.wait().await);
}

async fn failed(mut command: Command) -> (Output, String) {
    let output = tokio::time::timeout(Duration::from_secs(20), command.output()).await.expect("it went on").unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, text)
}

#[sqlx::test(migrations = "../migrations")]
async fn a_port_in_use_is_named_with_the_variable_that_shifts_it(database: PgPool) {
    let world = World::new(database).await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for variable in ["ADMIN_LISTEN", "DATA_PLANE_LISTEN"] {
        let mut command = command(&world);
        command.env(variable, &address);
        let (output, text) = failed(command).await;
        assert!(!output.status.success());
        assert!(text.contains(&address) && text.contains(variable) && text.contains("in use"), "{text}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn an_unreachable_database_is_named_without_its_password(database: PgPool) {
    let world = World::new(database).await;
    for (variable, url) in [
        ("DATABASE_URL", "postgres://gateway:hunter2@127.0.0.1:1/gateway"),
        ("REDIS_URL", "redis://:hunter2@127.0.0.1:1"),
        ("DATABASE_URL", "hunter2"),
        ("REDIS_URL", "hunter2"),
    ] {
        let mut command = command(&world);
        command.env(variable, url).env("CONNECT_TIMEOUT_S", "1");
        let (output, text) = failed(command).await;
        assert!(!output.status.success());
        assert!(text.contains(variable) && !text.contains("hunter2"), "{text}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn sigterm_ends_held_polls_and_then_the_process(database: PgPool) {
    let world = World::new(database).await;
    let (mut child, mut lines, admin, data_plane) = started(&world).await;
    let drained = tokio::spawn(async move { while let Ok(Some(_line)) = lines.next_line().await {} });

    let mut probe = TcpStream::connect(admin).await.unwrap();
    probe.write_all(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    probe.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let tag = world.state.policy().tag();
    let mut poll = TcpStream::connect(data_plane).await.unwrap();
    let request = format!(
        "GET /data-plane/v1/bundle?wait_s=30 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ENVOY_TOKEN}\r\nIf-None-Match: \"{tag}\"\r\n\r\n"
    );
    poll.write_all(request.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;

    let began = Instant::now();
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let mut answer = String::new();
    poll.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 304"), "{answer}");
    let status = tokio::time::timeout(Duration::from_secs(10), child.wait()).await.expect("it went on").unwrap();
    assert!(status.success(), "{status}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drained.await.unwrap();
}

/// As `docker` runs it: the health check of the image.
async fn health(admin: SocketAddr) -> Output {
    Command::new(env!("CARGO_BIN_EXE_control-plane")).arg("health").env("ADMIN_LISTEN", admin.to_string()).output().await.unwrap()
}

/// What the migration of the next release may do: add.
const NEXT_RELEASE: &str = "
    ALTER TABLE envoys ADD COLUMN region TEXT NOT NULL DEFAULT 'here';
    ALTER TABLE holders ADD COLUMN note TEXT;
    CREATE TABLE what_comes_next (id BIGINT PRIMARY KEY);
    INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'what comes next', true, '\\x00', 1)";

#[sqlx::test(migrations = "../migrations")]
async fn an_old_replica_serves_and_starts_again_after_a_new_one_has_migrated(database: PgPool) {
    let world = World::new(database.clone()).await;
    let (_old, mut lines, admin, _) = started(&world).await;
    tokio::spawn(async move { while let Ok(Some(_line)) = lines.next_line().await {} });
    let before = health(admin).await;
    assert!(before.status.success(), "{before:?}");
    sqlx::raw_sql(NEXT_RELEASE).execute(&database).await.unwrap();

    let after = health(admin).await;
    assert!(after.status.success(), "{after:?}");
    let (_again, mut lines, admin, _) = started(&world).await;
    tokio::spawn(async move { while let Ok(Some(_line)) = lines.next_line().await {} });
    let told = String::from_utf8(health(admin).await.stdout).unwrap();
    assert!(told.contains(r#""status":"ready""#), "{told}");
}

#[sqlx::test(migrations = "../migrations")]
async fn another_migration_under_a_number_of_ours_is_refused(database: PgPool) {
    let world = World::new(database.clone()).await;
    sqlx::raw_sql("UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 3").execute(&database).await.unwrap();
    let (output, text) = failed(command(&world)).await;
    assert!(!output.status.success());
    assert!(text.contains("the database could not be migrated") && text.contains('3'), "{text}");
}

#[sqlx::test(migrations = "../migrations")]
async fn passwords_come_from_files(database: PgPool) {
    let world = World::new(database).await;
    let url = sqlx_url(&world.state.database);
    let (scheme, rest) = url.split_once("://").unwrap();
    let (login, server) = rest.rsplit_once('@').unwrap();
    let (user, password) = login.split_once(':').unwrap();
    let file = world.directory.path().join("password");
    std::fs::write(&file, format!("{password}\n")).unwrap();
    let mut with_file = command(&world);
    with_file.env("DATABASE_URL", format!("{scheme}://{user}@{server}?sslmode=disable")).env("DATABASE_PASSWORD_FILE", &file);
    let mut child = with_file.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut told = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.contains(r#""message":"ready""#) {
            return;
        }
        told.push(line);
    }
    panic!("not ready: {told:?}");
}

#[sqlx::test(migrations = "../migrations")]
async fn who_waits_for_a_store_can_be_stopped(database: PgPool) {
    let world = World::new(database).await;
    let mut waiting = command(&world);
    waiting.env("DATABASE_URL", "postgres://gateway@127.0.0.1:1/gateway").env("CONNECT_TIMEOUT_S", "60");
    let mut child = waiting.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    while !lines.next_line().await.unwrap().expect("it tries again").contains("not reachable yet") {}
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let status = tokio::time::timeout(Duration::from_secs(10), child.wait()).await.expect("it stops").unwrap();
    assert!(status.success(), "in order, not by the signal: {status}");
}
