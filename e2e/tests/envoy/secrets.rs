//! Secrets are looked for wherever they must not be: revisions, exports, explanations, refusals, logs, configuration dumps, metrics, audit
//! records, every table, the counters, signed checkpoints. Those of the stack, and a text in every input that a request has.

use crate::inputs;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cli::stack::{Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Ask, Client};
use e2e::program;
use e2e::stacks::{options, ports, told};
use e2e::tokens::forged;
use serde_json::json;
use sqlx::{Connection, PgConnection, Row};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::hex::hex;

/// A secret in the spellings that somebody might print it in.
struct Canary {
    name: &'static str,
    spellings: Vec<String>,
}

fn canary(name: &'static str, secret: &str) -> Canary {
    let mut spellings = vec![secret.to_owned(), STANDARD.encode(secret), hex(secret.as_bytes())];
    if let Ok(bytes) = URL_SAFE_NO_PAD.decode(secret) {
        spellings.extend([STANDARD.encode(&bytes), hex(&bytes), format!("{bytes:?}")]);
    }
    Canary { name, spellings }
}

fn canaries(state: &State, tokens: &[(&'static str, &str)]) -> Vec<Canary> {
    let password = |url: &str| {
        url.split_once("://")
            .and_then(|(_, rest)| rest.split_once('@'))
            .and_then(|(user, _)| user.split_once(':'))
            .map(|(_, password)| password.to_owned())
    };
    let mut all = vec![
        canary("the legacy issuer's secret", state.issuers["legacy"].secret_base64url.as_deref().unwrap()),
        canary("the registration key", &state.registration_key),
        canary("the data-plane token", &state.data_plane_token),
        canary("the admin token", &state.admin_token),
        canary("the database's password", &password(&state.database_url).unwrap()),
        canary("its owner's password", &password(&state.database_admin_url).unwrap()),
        canary("Valkey's password", &password(&state.redis_url).unwrap()),
    ];
    for (name, token) in tokens {
        // The last part alone makes a token usable.
        all.push(canary(name, token.rsplit('.').next().unwrap()));
    }
    all
}

fn search(canaries: &[Canary], place: &str, text: &str, found: &mut Vec<String>) {
    for canary in canaries {
        if canary.spellings.iter().any(|spelling| text.contains(spelling.as_str())) {
            found.push(format!("{} is in {place}", canary.name));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_where_people_look() {
    let stack = Stack::start(options("secrets", ports::SECRETS).unwrap()).unwrap_or_else(|error| panic!("{}", told(&error)));
    let state = stack.state();
    let viewer = mint(&state.issuers["pp"], &TokenSpec::new("canary", &["viewer"])).unwrap();
    let legacy = mint(&state.issuers["legacy"], &TokenSpec::new("canary", &["user"])).unwrap();
    let bad = forged(&viewer);
    use_everything(state, &[&viewer, &legacy, &bad]).await;
    let refusals = inputs::send_all(state).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut canaries = canaries(state, &[("a token", &viewer), ("a legacy token", &legacy), ("a forged token", &bad)]);
    canaries.extend(inputs::SECRET.map(|name| canary(name, &inputs::text(name))));
    canaries.push(Canary { name: "a password of HTTP's own", spellings: vec![inputs::basic()] });

    // First see that the search finds something where a secret is meant to be.
    let mut found = Vec::new();
    search(&canaries, "the state file", &std::fs::read_to_string(state.run_dir.join("state.json")).unwrap(), &mut found);
    assert!(found.len() >= 6, "{found:?}");

    found.clear();
    let mut places = 0;
    // What is recorded by design is sent and looked for like the rest: the search would find a secret that stands beside it.
    let recorded = inputs::RECORDED.map(|name| canary(name, &inputs::text(name)));
    let mut seen = Vec::new();
    let texts = [admin_texts(state).await, envoy_texts(state).await, logs(state), tables(state).await, exports(state).await, refusals];
    for (place, text) in texts.concat() {
        assert!(!text.is_empty() || place.ends_with(".log"), "{place} is empty");
        search(&canaries, &place, &text, &mut found);
        search(&recorded, &place, &text, &mut seen);
        places += 1;
    }
    println!("{} secrets looked for in {places} places; what is recorded by design: {seen:#?}", canaries.len());
    assert!(places > 100, "{places} places");
    for place in ["table gateway_audit.pp_", "access.log", "the NDJSON export", "the CSV export", "/admin/v1/audit?limit=1000", "a refusal"]
    {
        assert!(seen.iter().any(|seen| seen.starts_with("the path") && seen.contains(place)), "the path is not in {place}");
    }
    assert_eq!(found, Vec::<String>::new());
    stack.stop();
}

/// Requests with every credential, right and wrong, and changes by an operator.
async fn use_everything(state: &State, tokens: &[&str]) {
    let mut client = Client::new(&state.gateways["PLANT"]);
    for token in tokens {
        for ask in [Ask::get("/api/v1/agents"), Ask::get("/api/v1/auth/validate"), Ask::post("/api/v1/agents"), Ask::get("//")] {
            client.send(&ask.bearer(token).header("cookie", "session=canary")).await.unwrap();
        }
    }
    for key in [state.registration_key.as_str(), "wrong"] {
        client.send(&Ask::post("/api/v1/customers").header("x-cp-registration-key", key)).await.unwrap();
    }
    let mut admin = Admin::new(state);
    let revocation = json!({"kind": "token", "issuer": "pp", "value": "nobody", "reason": "canary"});
    admin.json(Ask::post("/admin/v1/revocations").json(&revocation)).await.unwrap();
    // A wrong token at the control plane, on both sides.
    Client::new(&state.admin).send(&Ask::get("/admin/v1/policies").bearer(tokens[0])).await.unwrap();
    Client::new(&state.data_plane).send(&Ask::get("/data-plane/v1/bundle?wait_s=0").bearer(tokens[0])).await.unwrap();
}

async fn admin_texts(state: &State) -> Vec<(String, String)> {
    let mut admin = Admin::new(state);
    let mut texts = Vec::new();
    for path in [
        "/admin/v1/policies",
        "/admin/v1/policies/active",
        "/admin/v1/policies/1",
        "/admin/v1/policies/active/bundle",
        "/admin/v1/audit?limit=1000",
        "/admin/v1/audit/gaps",
        "/admin/v1/audit/summaries",
        "/admin/v1/audit/traces/canary-trace",
        "/admin/v1/approvals",
        "/admin/v1/budgets",
        "/admin/v1/webhooks/deliveries",
        "/admin/v1/revocations",
        "/admin/v1/keys",
        "/openapi.json",
        "/metrics",
        "/ready",
    ] {
        let answer = admin.ask(Ask::get(path)).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let text = if path.ends_with("/bundle") {
            let image = STANDARD.decode(answer.json()["bundle"].as_str().unwrap()).unwrap();
            answer.text() + &String::from_utf8_lossy(&image) + &hex(&image)
        } else {
            answer.text()
        };
        texts.push((path.to_owned(), text));
    }
    let records = admin.json(Ask::get("/admin/v1/audit?limit=1000")).await.unwrap();
    for record in records["records"].as_array().unwrap() {
        let path = format!("/admin/v1/audit/{}/explanation", record["id"].as_str().unwrap());
        texts.push((format!("the explanation of {}", record["reason"]), admin.ask(Ask::get(&path)).await.unwrap().text()));
    }
    let replay = Ask::post("/admin/v1/audit/replays").json(&json!({"revision": "1", "since": "2026-01-01T00:00:00Z"}));
    texts.push(("a replay".to_owned(), admin.ask(replay).await.unwrap().text()));
    texts
}

/// What leaves the log, and what Valkey has.
async fn exports(state: &State) -> Vec<(String, String)> {
    let program = program::path().unwrap();
    let export = |form: &str| {
        let state_file = state.run_dir.join("state.json");
        let output = Command::new(&program).args(["audit", "export", "--as", form, "--state"]).arg(state_file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    vec![
        ("the NDJSON export".to_owned(), export("ndjson")),
        ("the CSV export".to_owned(), export("csv")),
        ("the checkpoints".to_owned(), checkpoints(&std::fs::read_to_string(&state.audit_checkpoints).unwrap())),
        ("Valkey".to_owned(), valkey(&state.redis_url).await),
    ]
}

/// With what is signed in clear.
fn checkpoints(lines: &str) -> String {
    let payload = |line: &str| URL_SAFE_NO_PAD.decode(line.split('.').nth(1).unwrap_or_default()).unwrap_or_default();
    lines.lines().map(|line| format!("{line}\n{}\n", String::from_utf8_lossy(&payload(line)))).collect()
}

/// Every key and value.
async fn valkey(url: &str) -> String {
    const ALL: &str = "local all = {} for _, key in ipairs(redis.call('KEYS', '*')) do local kind = redis.call('TYPE', key).ok \
        local value = kind == 'string' and redis.call('GET', key) or kind == 'hash' and redis.call('HGETALL', key) \
        or kind == 'zset' and redis.call('ZRANGE', key, 0, -1) or kind == 'set' and redis.call('SMEMBERS', key) \
        or kind == 'list' and redis.call('LRANGE', key, 0, -1) or kind \
        table.insert(all, key) table.insert(all, value) end return all";
    let (password, address) = url.strip_prefix("redis://:").and_then(|rest| rest.split_once('@')).unwrap();
    let mut stream = TcpStream::connect(address.split('/').next().unwrap()).await.unwrap();
    stream.write_all(format!("AUTH {password}\r\nEVAL \"{ALL}\" 0\r\nQUIT\r\n").as_bytes()).await.unwrap();
    let mut said = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut said)).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(!said.contains("-ERR"), "{said}");
    said
}

async fn envoy_texts(state: &State) -> Vec<(String, String)> {
    let mut client = Client::new(&state.envoy_admin);
    let mut texts = Vec::new();
    for path in ["/config_dump?include_eds", "/stats", "/stats/prometheus", "/clusters", "/server_info", "/listeners"] {
        let answer = client.send(&Ask::get(path)).await.unwrap();
        assert_eq!(answer.status, 200, "{path}");
        texts.push((format!("Envoy's {path}"), answer.text()));
    }
    texts
}

/// What the parts write, with the access log wherever it is.
fn logs(state: &State) -> Vec<(String, String)> {
    let mut texts = Vec::new();
    let folders = BTreeSet::from([state.run_dir.as_path(), state.access_log.parent().unwrap()]);
    for entry in folders.into_iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()) {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".log") || name == "envoy.yaml" {
            texts.push((name, String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned()));
        }
    }
    texts
}

/// Every row of every table, as text.
async fn tables(state: &State) -> Vec<(String, String)> {
    let mut database = PgConnection::connect(&state.database_admin_url).await.unwrap();
    let names = sqlx::query(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('public', 'gateway_audit') ORDER BY 1",
    )
    .fetch_all(&mut database)
    .await
    .unwrap();
    let mut texts = Vec::new();
    for name in names.iter().map(|row| row.get::<String, _>(0)) {
        let rows =
            sqlx::query(sqlx::AssertSqlSafe(format!("SELECT to_jsonb(t)::text FROM {name} t"))).fetch_all(&mut database).await.unwrap();
        let text: Vec<String> = rows.iter().map(|row| row.get::<String, _>(0)).collect();
        texts.push((format!("table {name}"), format!("{} rows\n{}", rows.len(), text.join("\n"))));
    }
    texts
}
