//! Proof of enforcement over real Postgres: which workers enforce what, which rules match, and a database that is behind its workers.

use crate::support::{ENVOY_TOKEN, World};
use axum::http::StatusCode;
use control_plane::audit::hits;
use control_plane::caller::Envoy;
use control_plane::policies::enforcement::watch_ahead;
use control_plane::sync;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use uuid::Uuid;
use wire::audit::{Account, AuditRecord, Charge, Check, CheckOutcome, Decision, Mention, Outcome, Phase, ShadowNote, Stage, Upgrade};
use wire::policy::Gateway;
use wire::sync::{RecordBatch, SyncRequest};

struct Worker {
    holder: Uuid,
    call: u64,
}

impl Worker {
    fn new() -> Self {
        Self { holder: Uuid::now_v7(), call: 0 }
    }

    async fn says(&mut self, world: &World, activation: u64, records: Option<RecordBatch>) {
        self.call += 1;
        let request = SyncRequest {
            holder: *self.holder.as_bytes(),
            call: self.call,
            activation,
            revocation: 0,
            unknown_keys: vec![],
            accounts: vec![],
            approvals: vec![],
            undos: vec![],
            records,
            shadow: None,
        };
        let envoy = Envoy::identify(&world.state.database, Sha256::digest(ENVOY_TOKEN).into()).await.unwrap();
        sync::answer(&world.state, &envoy, &request, None).await.unwrap();
    }
}

fn record(route: &str, reason: &str) -> AuditRecord<'static> {
    AuditRecord {
        phase: Phase::Outcome,
        at_us: 1_790_000_000_000_000,
        gateway: Gateway::Plant,
        stage: Stage::Filter,
        method: Some("GET".into()),
        path: Some("/api/v1/agents".into()),
        upgrade: Upgrade::None,
        query: Vec::new(),
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        sampled_of: 1,
        route: Some(route.to_owned().into()),
        action: None,
        user: None,
        correlation_id: "c".into(),
        causation_id: None,
        request_id: *Uuid::now_v7().as_bytes(),
        decision: if reason == "ok" { Decision::Permit } else { Decision::Deny },
        reason: reason.to_owned().into(),
        rule: None,
        shadow: None,
        checks: vec![],
        activation: 1,
        revision: 1,
        key_set: 1,
        revocation: 0,
        charges: vec![],
        cost: None,
        usage: None,
        approval_id: None,
        sandbox: false,
        status: Some(200),
        details: None,
        total_us: 1,
        upstream_us: None,
        ours_us: None,
    }
}

fn batch(first_sequence: u64, records: &[AuditRecord<'_>]) -> RecordBatch {
    let mut bytes = Vec::new();
    for record in records {
        let record = postcard::to_stdvec(record).unwrap();
        bytes.extend(u32::try_from(record.len()).unwrap().to_le_bytes());
        bytes.extend(record);
    }
    RecordBatch { first_sequence, count: u32::try_from(records.len()).unwrap(), bytes }
}

async fn enforcement(world: &World) -> Value {
    let answer = world.get("/admin/v1/policies/enforcement").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

async fn activate(world: &World) {
    assert_eq!(world.post("/admin/v1/policies/1/activation", &json!({ "reason": "a test" })).await.status, StatusCode::CREATED);
}

#[sqlx::test(migrations = "../migrations")]
async fn it_is_told_which_workers_enforce_what_was_activated(database: PgPool) {
    let world = World::new(database.clone()).await;
    assert_eq!(enforcement(&world).await["summary"], "revision 1 is active; no worker reported within the last minute");
    let (mut one, mut other, mut silent) = (Worker::new(), Worker::new(), Worker::new());
    for worker in [&mut one, &mut other, &mut silent] {
        worker.says(&world, 1, None).await;
    }
    sqlx::query("UPDATE holders SET last_seen_at = now() - interval '61 seconds' WHERE holder = $1")
        .bind(silent.holder)
        .execute(&database)
        .await
        .unwrap();
    assert_eq!(enforcement(&world).await["summary"], "revision 1 is enforced by 2 of 2 workers");
    activate(&world).await;
    one.says(&world, 2, None).await;
    let told = enforcement(&world).await;
    assert_eq!((&told["summary"], &told["activation"]), (&json!("revision 1 is enforced by 1 of 2 workers"), &json!(2)));
    assert_eq!(
        (&told["workers"], &told["enforcing"]),
        (&json!(2), &json!(1)),
        "a worker that was not heard of for a minute is not counted"
    );
    let counted = told["counted"].as_str().unwrap();
    assert!(counted.starts_with("workers that have had a request, and reported within the last minute"), "{counted}");
    let lagging = &told["lagging"];
    assert_eq!((lagging.as_array().map(Vec::len), &lagging[0]["holder"]), (Some(1), &json!(other.holder.to_string())));
    assert_eq!((&lagging[0]["envoy_id"], &lagging[0]["activation"], &lagging[0]["revision"]), (&json!("envoy-1"), &json!(1), &json!(1)));
    other.says(&world, 2, None).await;
    assert_eq!(enforcement(&world).await["lagging"], json!([]));
}

#[sqlx::test(migrations = "../migrations")]
async fn workers_ahead_of_the_database_are_noticed_and_told(database: PgPool) {
    let world = World::new(database).await;
    let mut worker = Worker::new();
    worker.says(&world, 1, None).await;
    watch_ahead(&world.state).await.unwrap();
    assert_eq!(world.get("/ready").await.json()["policy"]["workers_ahead"], Value::Null);
    worker.says(&world, 3, None).await;
    watch_ahead(&world.state).await.unwrap();
    let ready = world.get("/ready").await;
    assert_eq!(ready.status, StatusCode::OK, "what is in force is served all the same");
    let message = ready.json()["policy"]["workers_ahead"].as_str().unwrap().to_owned();
    assert!(message.starts_with("workers enforce activation 3, which this database does not have"), "{message}");
    let metrics = async || String::from_utf8(world.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics().await.contains("gateway_control_plane_workers_ahead 1"));
    assert!(metrics().await.contains("gateway_control_plane_policy_fault 1"));
    assert_eq!(enforcement(&world).await["ahead"][0]["activation"], 3);
    for _ in 0..2 {
        activate(&world).await;
    }
    watch_ahead(&world.state).await.unwrap();
    assert_eq!(world.get("/ready").await.json()["policy"]["workers_ahead"], Value::Null, "the numbers have caught up");
    assert!(metrics().await.contains("gateway_control_plane_policy_fault 0"));
}

async fn rules(world: &World, query: &str) -> Vec<Value> {
    let answer = world.get(&format!("/admin/v1/policies/rules{query}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json().as_array().unwrap().clone()
}

fn of<'a>(rules: &'a [Value], kind: &str, rule: &str) -> Option<&'a Value> {
    rules.iter().find(|entry| entry["kind"] == kind && entry["rule"] == rule)
}

#[sqlx::test(migrations = "../migrations")]
async fn hits_are_counted_with_their_records_and_once(database: PgPool) {
    let world = World::new(database.clone()).await;
    let policy = world.state.policy();
    let (route, budget) = (policy.document.routes[0].name.as_str(), policy.document.budgets[0].name.as_str());
    let charged =
        |amount| Charge { account: Mention::New(Account { budget: budget.to_owned().into(), scope: "s".into() }), amount, overrun: 0 };
    let records = [
        record(route, "ok"),
        AuditRecord { charges: vec![charged(5), charged(0)], ..record(route, "ok") },
        AuditRecord { rule: Some("hours".into()), ..record(route, "rule_refused") },
        AuditRecord { phase: Phase::Intent, ..record(route, "ok") },
        AuditRecord {
            checks: vec![CheckOutcome { check: Check::Trial, outcome: Outcome::SkippedByFlag }],
            ..record("of an older policy", "ok")
        },
    ];
    let mut worker = Worker::new();
    for _ in 0..3 {
        worker.says(&world, 1, Some(batch(1, &records))).await;
    }
    Worker::new().says(&world, 1, Some(batch(1, &records[..1]))).await;
    let all = rules(&world, "").await;
    assert_eq!(of(&all, "route", route).unwrap()["hits"], json!({ "ok": 3, "rule_refused": 1 }));
    assert_eq!(of(&all, "budget", budget).unwrap()["hits"], json!({ "charged": 1, "released": 1 }));
    assert_eq!(of(&all, "rule", "hours").unwrap()["hits"], json!({ "deny": 1 }));
    assert_eq!(of(&all, "flag", "trial").unwrap()["hits"], json!({ "skipped_by_flag": 1 }));
    assert_eq!(of(&all, "route", "of an older policy"), None);
    let never = of(&all, "route", &policy.document.routes[1].name).unwrap();
    assert_eq!((&never["hits"], &never["last_match_at"]), (&json!({}), &Value::Null));
    assert!(of(&all, "route", route).unwrap()["first_match_at"].is_string());
    assert_eq!(rules(&world, "?unmatched_for_days=1").await, Vec::<Value>::new(), "a policy of today has no idle rule yet");
    let aged = sqlx::query("UPDATE rule_names SET since = since - interval '33 days' WHERE rule <> $1");
    aged.bind(&policy.document.routes[2].name).execute(&database).await.unwrap();
    let idle = rules(&world, "?unmatched_for_days=30").await;
    assert_eq!(of(&idle, "route", &policy.document.routes[2].name), None, "it is as young as its name");
    assert_eq!((of(&idle, "route", route), of(&idle, "route", &policy.document.routes[1].name).is_some()), (None, true));
    sqlx::query("UPDATE rule_hits SET first_at = first_at - interval '31 days', last_at = last_at - interval '31 days', day = day - 31")
        .execute(&database)
        .await
        .unwrap();
    assert!(of(&rules(&world, "?unmatched_for_days=30").await, "route", route).is_some(), "has not matched for 30 days");
    assert!(of(&rules(&world, "?unmatched_for_days=32").await, "route", route).is_none());
    for bad in ["?unmatched_for_days=0", "?unmatched_for_days=401"] {
        assert_eq!(world.get(&format!("/admin/v1/policies/rules{bad}")).await.status, StatusCode::BAD_REQUEST);
    }
    let told = enforcement(&world).await;
    assert_eq!(told["unmatched_count"].as_u64().map(|count| count > 100), Some(true));
    assert_eq!(told["unmatched"].as_array().map(Vec::len), Some(100));
    assert_eq!(hits::forget(&database).await.unwrap(), 0);
    sqlx::query("UPDATE rule_hits SET day = day - 400").execute(&database).await.unwrap();
    assert!(hits::forget(&database).await.unwrap() > 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn many_workers_count_the_same_rules_at_once(database: PgPool) {
    let world = World::new(database.clone()).await;
    let route = world.state.policy().document.routes[0].name.clone();
    let deliver = async || {
        let mut worker = Worker::new();
        for sequence in 0..5_u64 {
            let records = [record("b", "ok"), record(&route, "ok"), record("a", "no")];
            worker.says(&world, 1, Some(batch(sequence * 3 + 1, &records))).await;
        }
    };
    tokio::join!(deliver(), deliver(), deliver(), deliver(), deliver(), deliver());
    let hits: i64 =
        sqlx::query_scalar("SELECT sum(hits)::bigint FROM rule_hits WHERE rule = $1").bind(&route).fetch_one(&database).await.unwrap();
    assert_eq!(hits, 30);
}

#[sqlx::test(migrations = "../migrations")]
async fn records_tell_the_custom_rule_and_what_the_shadow_would_have_decided(database: PgPool) {
    let world = World::new(database.clone()).await;
    let policy = world.post("/admin/v1/policies", &json!({ "files": world.files(), "reason": "a test" })).await.json();
    world.post("/admin/v1/policies/shadow", &json!({ "revision": policy["revision"], "reason": "a look" })).await;
    let now = i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros()).unwrap();
    let note = ShadowNote { revision: 2, decision: Decision::Deny, reason: "permission_missing".into(), route: Some("nul\0".into()) };
    let records = [
        AuditRecord { at_us: now, shadow: Some(note), ..record("agents.list", "ok") },
        AuditRecord { at_us: now, rule: Some("hours".into()), ..record("agents.list", "rule_refused") },
    ];
    Worker::new().says(&world, 1, Some(batch(1, &records))).await;
    let page = async |query: &str| world.get(&format!("/admin/v1/audit{query}")).await.json()["records"].as_array().unwrap().clone();
    assert_eq!(page("").await.len(), 2);
    let differs = page("?shadow=true").await;
    assert_eq!(differs.len(), 1);
    let expected = json!({ "revision": 2, "decision": "deny", "reason": "permission_missing", "route": "nul\u{fffd}" });
    assert_eq!((&differs[0]["shadow"], &differs[0]["rule"]), (&expected, &Value::Null));
    let others = page("?shadow=false").await;
    assert_eq!((others.len(), &others[0]["rule"], &others[0]["shadow"]), (1, &json!("hours"), &Value::Null));
    assert_eq!(world.get("/admin/v1/audit/count?shadow=true").await.json()["count"], 1);
    let examples = world.get("/admin/v1/policies/shadow").await.json()["examples"].clone();
    assert_eq!((examples.as_array().map(Vec::len), &examples[0]["id"]), (Some(1), &differs[0]["id"]), "{examples}");
}

#[sqlx::test(migrations = "../migrations")]
async fn what_matches_nothing_is_told(database: PgPool) {
    let world = World::new(database).await;
    assert_eq!(enforcement(&world).await["findings"], json!([]), "nothing is odd about the default policy");
    let mut files = world.files();
    let text = files["routes/admin-api.yaml"].as_str().unwrap().to_owned();
    files["routes/admin-api.yaml"] = text.replacen("path: /admin/v1/policies/validate", "path: /admin/v1/policies/validat", 1).into();
    let text = files["budgets.yaml"].as_str().unwrap().to_owned();
    let idle = "budgets:\n  - {name: nowhere, unit: tasks, window: day, scope: platform, cap: 5, gateways: [ADMIN]}\n";
    files["budgets.yaml"] = text.replacen("budgets:\n", idle, 1).into();
    let published = world.post("/admin/v1/policies", &json!({ "files": files, "reason": "a test" })).await;
    assert_eq!(published.status, StatusCode::CREATED, "{published:?}");
    world.post("/admin/v1/policies/2/activation", &json!({ "reason": "a test" })).await;
    let told = enforcement(&world).await;
    let finding = told["findings"].as_array().unwrap().iter().find(|finding| finding["field"] == "budgets[nowhere]").cloned();
    let finding = finding.unwrap_or_else(|| panic!("{}", told["findings"]));
    assert_eq!((&finding["file"], finding["line"].is_u64()), (&json!("budgets.yaml"), true));
    let message = "routes[policies.validate].path: the admin API has no `/admin/v1/policies/validat`; the nearest path is \
                   `/admin/v1/policies/validate`";
    assert!(told["findings"].as_array().unwrap().iter().any(|finding| finding["message"] == message), "{}", told["findings"]);
}
