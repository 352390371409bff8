//! The outbox and its deliveries, to a real TLS server.

use crate::idp::{Idp, Reply, response};
use crate::plane;
use crate::plane::{Holder, state, token};
use axum::body::Body;
use axum::http::{Request, header};
use clap::Parser as _;
use control_plane::app::{AppState, admin_app};
use control_plane::outbound::target::{AllowedNetworks, Purpose};
use control_plane::outbound::{GuardedClient, Limits};
use control_plane::policies::check::check;
use control_plane::settings::Settings;
use control_plane::webhooks::deliver::deliver_due;
use control_plane::webhooks::signature::SigningKey;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tempfile::TempDir;
use tower::ServiceExt as _;
use uuid::Uuid;
use wire::policy::{Approvals, Webhook};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A control plane whose policy tells a receiver of approvals.
struct World {
    state: AppState,
    receiver: Idp,
    secrets: TempDir,
}

impl World {
    async fn new(pool: &PgPool) -> Self {
        let receiver = Idp::start().await;
        let secrets = tempfile::tempdir().unwrap();
        std::fs::write(secrets.path().join("hook"), SECRET).unwrap();
        let mut state = state(pool, 100).await;
        let hosts = format!("localhost:{}", receiver.port);
        let networks: AllowedNetworks = "127.0.0.0/8,::1/128".parse().unwrap();
        let client = GuardedClient::new(hosts.parse().unwrap(), networks.0, Some(&receiver.ca_file()), Limits::SMALL).unwrap();
        state.webhooks = client.with_purpose(Purpose::Webhooks);
        state.settings =
            Arc::new(Settings { secrets_dir: secrets.path().to_owned(), webhook_attempts_max: 3, ..Settings::clone(&state.settings) });
        let mut policy = plane::policy(100);
        let webhook = Webhook { url: format!("https://localhost:{}/hook?to=ops", receiver.port), secret: "hook".into() };
        policy.document.approvals = Some(Approvals { webhook: Some(webhook), ..Approvals::default() });
        state.active.send_replace(Arc::new(policy));
        Self { state, receiver, secrets }
    }

    /// A request that waits from now on.
    async fn request(&self, path: &str) {
        let mut holder = Holder::new(&self.state).await;
        let mut request = holder.request(vec![]);
        request.approvals = vec![plane::ask("ada", path, "token=sensitive")];
        holder.send(&request).await.unwrap();
    }

    async fn admin(&self, method: &str, path: &str, bearer: &str, body: Value) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header(header::AUTHORIZATION, format!("Bearer {bearer}"));
        let request = request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_string())).unwrap();
        let response = admin_app(self.state.clone()).oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap())
    }

    async fn deliveries(&self, query: &str) -> Vec<Value> {
        let path = format!("/admin/v1/webhooks/deliveries{query}");
        let (status, list) = self.admin("GET", &path, &token("vera", "viewer", false), Value::Null).await;
        assert_eq!(status, 200, "{list}");
        assert!(!list.to_string().contains(SECRET) && !list.to_string().contains("sensitive"));
        list["deliveries"].as_array().unwrap().clone()
    }

    /// Everything that waits is due now.
    async fn due(&self) {
        sqlx::query("UPDATE webhook_deliveries SET next_attempt_at = now()").execute(&self.state.database).await.unwrap();
    }
}

fn field<'a>(head: &'a str, name: &str) -> &'a str {
    let prefix = format!("{name}: ");
    head.lines().find_map(|line| line.strip_prefix(&*prefix)).unwrap_or_else(|| panic!("no {name} in {head}"))
}

fn taken() -> Reply {
    Reply::Raw(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())
}

#[sqlx::test(migrations = "../migrations")]
async fn requests_and_decisions_are_told_with_a_signature_over_every_byte(pool: PgPool) {
    let world = World::new(&pool).await;
    world.receiver.answers(taken());
    world.request("/a").await;
    assert_eq!(world.receiver.hits(), 0, "nothing leaves before somebody delivers");
    assert_eq!(deliver_due(&world.state).await.unwrap(), 1);
    let (head, body) = world.receiver.requests().remove(0);
    assert!(head.starts_with("post /hook?to=ops http/1.1\r\n"), "{head}");
    assert_eq!(field(&head, "content-type"), "application/json");
    // The head was folded to lower case; the signature has upper case, so what is signed is compared like that.
    let (id, timestamp) = (field(&head, "webhook-id"), field(&head, "webhook-timestamp").parse().unwrap());
    let key = SigningKey::of(SECRET.as_bytes()).unwrap();
    assert_eq!(field(&head, "webhook-signature"), key.sign(id, timestamp, &body).to_ascii_lowercase());
    assert_ne!(field(&head, "webhook-signature"), key.sign(id, timestamp + 1, &body).to_ascii_lowercase());
    let event: Value = serde_json::from_slice(&body).unwrap();
    let data = &event["data"];
    assert_eq!((&event["type"], &data["status"], &data["path"]), (&json!("approval.requested"), &json!("pending"), &json!("/a")));
    let user = json!({
        "issuer": "ops", "subject": "ada", "user_id": "id-of-ada", "customer_id": "customer-1", "agent_id": "agent-1",
    });
    assert_eq!((&data["user"], &data["target"], &data["content_type"]), (&user, &json!("production"), &json!("application/json")));
    assert!(!event.to_string().contains("030303"), "a short body could be guessed by its digest");
    assert!(data["url"].as_str().unwrap().starts_with("https://admin.test/f%C3%BCr%20alle/approvals/"));
    assert!(!event.to_string().contains("sensitive"), "the query stays here");

    let path = format!("/admin/v1/approvals/{}/decision", data["id"].as_str().unwrap());
    let (status, _) = world.admin("POST", &path, &token("grace", "admin", true), json!({"decision": "reject", "reason": "no"})).await;
    assert_eq!(status, 200);
    assert_eq!(deliver_due(&world.state).await.unwrap(), 1);
    let event: Value = serde_json::from_slice(&world.receiver.requests().remove(0).1).unwrap();
    assert_eq!((&event["type"], &event["data"]["status"]), (&json!("approval.decided"), &json!("rejected")));
    assert_eq!(event["data"]["decisions"][0]["subject"], "grace");
    assert_eq!(deliver_due(&world.state).await.unwrap(), 0);
    assert_eq!(world.deliveries("?state=delivered").await.len(), 2);
}

#[sqlx::test(migrations = "../migrations")]
async fn what_is_not_taken_is_tried_again_given_up_and_delivered_once_more_on_demand(pool: PgPool) {
    let world = World::new(&pool).await;
    world.receiver.answers(Reply::Raw(response("500 Oh", "text/plain", "no")));
    world.request("/a").await;
    for attempt in 1..=3 {
        assert_eq!(deliver_due(&world.state).await.unwrap(), 1);
        assert_eq!(deliver_due(&world.state).await.unwrap(), 0, "not at once again");
        let found = world.deliveries("").await.remove(0);
        let want = if attempt == 3 { "dead" } else { "pending" };
        assert_eq!((&found["state"], &found["attempts"]), (&json!(want), &json!(attempt)));
        assert_eq!((&found["last_error"], &found["last_status"]), (&json!("status"), &json!(500)));
        world.due().await;
    }
    assert_eq!(deliver_due(&world.state).await.unwrap(), 0, "what is dead stays dead");
    let dead = world.deliveries("?state=dead").await.remove(0);
    let path = format!("/admin/v1/webhooks/deliveries/{}/redelivery", dead["id"].as_str().unwrap());
    let governor = token("grace", "admin", true);
    assert_eq!(world.admin("POST", &path, &governor, json!({"reason": " "})).await.0, 400);
    assert_eq!(world.admin("POST", &path, &governor, json!({"reason": "it is back"})).await.0, 202);
    assert_eq!(world.admin("POST", &path, &governor, json!({"reason": "impatient"})).await.0, 409);
    world.receiver.answers(taken());
    world.receiver.requests();
    assert_eq!(deliver_due(&world.state).await.unwrap(), 1);
    assert_eq!(field(&world.receiver.requests()[0].0, "webhook-id"), dead["id"].as_str().unwrap(), "the same event has the same id");
    assert_eq!(world.deliveries("?state=delivered").await.len(), 1);
    let event: (String, String, String) =
        sqlx::query_as("SELECT actor_subject, target, reason FROM admin_events WHERE action = 'webhook.redeliver'")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(event, ("grace".to_owned(), dead["id"].as_str().unwrap().to_owned(), "it is back".to_owned()));
}

#[sqlx::test(migrations = "../migrations")]
async fn redirects_strangers_and_missing_keys_are_failures_of_their_class(pool: PgPool) {
    let world = World::new(&pool).await;
    let here = format!("https://localhost:{}/hook", world.receiver.port);
    world.request("/a").await;
    let failed = async |class: &str| {
        world.due().await;
        sqlx::query("UPDATE webhook_deliveries SET attempts = 0").execute(&pool).await.unwrap();
        assert_eq!(deliver_due(&world.state).await.unwrap(), 1);
        assert_eq!(world.deliveries("").await[0]["last_error"], class);
    };
    world.receiver.answers(Reply::Raw(format!("HTTP/1.1 307 T\r\nlocation: {here}\r\ncontent-length: 0\r\n\r\n").into_bytes()));
    failed("status").await;
    assert_eq!(world.receiver.hits(), 1, "a redirect is not followed");
    sqlx::query("UPDATE webhook_deliveries SET url = 'https://example.com/'").execute(&pool).await.unwrap();
    failed("refused").await;
    sqlx::query("UPDATE webhook_deliveries SET url = $1").bind(&here).execute(&pool).await.unwrap();
    std::fs::remove_file(world.secrets.path().join("hook")).unwrap();
    failed("secret").await;
    assert_eq!(world.receiver.hits(), 1);
    let stored: Vec<(String,)> = sqlx::query_as("SELECT w::text FROM webhook_deliveries w").fetch_all(&pool).await.unwrap();
    assert!(stored.iter().all(|(row,)| !row.contains(SECRET)), "the database has the secret's name alone");
}

#[sqlx::test(migrations = "../migrations")]
async fn replicas_share_the_work_and_a_lost_one_loses_nothing(pool: PgPool) {
    let world = World::new(&pool).await;
    world.receiver.answers(taken());
    for number in 0..12 {
        world.request(&format!("/{number}")).await;
    }
    let mut replicas = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let state = world.state.clone();
        replicas.spawn(async move { deliver_due(&state).await.unwrap() });
    }
    assert_eq!(replicas.join_all().await.into_iter().sum::<usize>(), 12);
    let ids: BTreeSet<String> = world.receiver.requests().iter().map(|(head, _)| field(head, "webhook-id").to_owned()).collect();
    assert_eq!((ids.len(), world.receiver.hits()), (12, 12), "each once");
    // A replica that claims and dies: its lease runs out.
    world.request("/last").await;
    assert_eq!(control_plane::webhooks::store::claim(&pool, 5).await.unwrap().len(), 1);
    assert_eq!(deliver_due(&world.state).await.unwrap(), 0);
    world.due().await;
    assert_eq!(deliver_due(&world.state).await.unwrap(), 1);
    assert_eq!(world.deliveries("?state=pending").await.len(), 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_event_is_written_with_what_it_tells_or_not_at_all(pool: PgPool) {
    let world = World::new(&pool).await;
    sqlx::query("ALTER TABLE webhook_deliveries ADD CONSTRAINT never CHECK (event_type <> 'approval.decided')")
        .execute(&pool)
        .await
        .unwrap();
    world.request("/a").await;
    let (id,): (Uuid,) = sqlx::query_as("SELECT id FROM approvals").fetch_one(&pool).await.unwrap();
    let path = format!("/admin/v1/approvals/{id}/decision");
    let body = json!({"decision": "approve", "reason": "yes"});
    assert_eq!(world.admin("POST", &path, &token("grace", "admin", true), body).await.0, 500);
    let (status, decisions): (String, i64) =
        sqlx::query_as("SELECT status, (SELECT count(*) FROM approval_decisions) FROM approvals").fetch_one(&pool).await.unwrap();
    assert_eq!((&*status, decisions), ("pending", 0));
}

#[tokio::test]
async fn a_webhook_is_checked_when_a_policy_is_published() {
    let secrets = tempfile::tempdir().unwrap();
    std::fs::write(secrets.path().join("hook"), SECRET).unwrap();
    std::fs::write(secrets.path().join("short"), "short").unwrap();
    let fault = async |url: &str, secret: &str| {
        let text = format!("approvals:\n  webhook:\n    url: {url}\n    secret: {secret}\n");
        let files = BTreeMap::from([("policy.yaml".to_owned(), text)]);
        let settings = Settings::parse_from([
            "control-plane",
            "--database-url=x",
            "--redis-url=x",
            "--webhook-hosts=hooks.example.com",
            &format!("--secrets-dir={}", secrets.path().display()),
        ]);
        let document = wire::sources::read(&files).unwrap();
        check(&document, &settings, &files).await.err().map(|fault| (fault.line, fault.field.unwrap_or_default(), fault.message))
    };
    assert_eq!(fault("https://hooks.example.com/x", "hook").await, None);
    for (url, secret, line, field, message) in [
        ("https://evil.example/x", "hook", 3, "approvals.webhook.url", "setting WEBHOOK_HOSTS allows"),
        ("http://hooks.example.com/x", "hook", 3, "approvals.webhook.url", "the scheme is not `https`"),
        ("https://hooks.example.com/x", "none", 4, "approvals.webhook.secret", "the secret `none` does not exist in the secrets directory"),
        ("https://hooks.example.com/x", "short", 4, "approvals.webhook.secret", "the secret `short` is shorter than 16 bytes"),
    ] {
        let (at, named, text) = fault(url, secret).await.unwrap();
        assert_eq!((at, &*named), (Some(line), field), "{text}");
        assert!(text.ends_with(message), "{text}");
    }
}
