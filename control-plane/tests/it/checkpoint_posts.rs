//! Checkpoints are told to a receiver outside, to a real TLS server; and what of the log's books is forgotten.

use crate::idp::{Idp, Reply};
use crate::plane::{Holder, state};
use crate::records::{batch, deliver, records};
use control_plane::app::AppState;
use control_plane::audit::checkpoints::{SigningKey, TrustedKeys, sign_heads};
use control_plane::audit::forget::forget;
use control_plane::audit::links::lines;
use control_plane::audit::publish::{PublishError, publish_due};
use control_plane::audit::verify::verify;
use control_plane::outbound::target::{AllowedNetworks, Purpose};
use control_plane::outbound::{GuardedClient, Limits};
use control_plane::restore::fence;
use serde_json::Value;
use sqlx::PgPool;

/// A control plane that may call a receiver, and a holder whose log grows.
struct World {
    state: AppState,
    receiver: Idp,
    url: String,
    key: SigningKey,
    holder: Holder,
    /// What the receiver has stored: each body is a line.
    stored: String,
    records: i64,
}

fn status(status: &str) -> Reply {
    Reply::Raw(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").into_bytes())
}

impl World {
    async fn new(pool: &PgPool) -> Self {
        let receiver = Idp::start().await;
        let mut state = state(pool, 100).await;
        let networks: AllowedNetworks = "127.0.0.0/8,::1/128".parse().unwrap();
        let hosts = format!("localhost:{}", receiver.port).parse().unwrap();
        let client = GuardedClient::new(hosts, networks.0, Some(&receiver.ca_file()), Limits::SMALL).unwrap();
        state.webhooks = client.with_purpose(Purpose::Webhooks);
        let pem = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(pem.path(), ed25519_compact::KeyPair::generate().sk.to_pem()).unwrap();
        let key = SigningKey::read(pem.path()).unwrap();
        let (holder, url) = (Holder::new(&state).await, format!("https://localhost:{}/checkpoints", receiver.port));
        Self { state, receiver, url, key, holder, stored: String::new(), records: 0 }
    }

    /// One more checkpoint.
    async fn sign(&mut self) -> i64 {
        let first = u64::try_from(self.records + 1).unwrap();
        deliver(&mut self.holder, batch(first, &records(self.records, 5))).await;
        self.records += 5;
        sqlx::query("UPDATE gateway_audit.checkpoints SET signed_at = signed_at - interval '10 seconds'")
            .execute(&self.state.database)
            .await
            .unwrap();
        sign_heads(&self.state.database, &self.key).await.unwrap().unwrap()
    }

    /// The numbers of what was posted, as the receiver has stored it.
    async fn publish(&mut self) -> (Result<u64, PublishError>, Vec<i64>) {
        let published = publish_due(&self.state, &self.url).await;
        let bodies: Vec<String> = self.receiver.requests().into_iter().map(|(_, body)| String::from_utf8(body).unwrap()).collect();
        let number = |body: &String| serde_json::from_str::<Value>(body).unwrap().pointer("/data/number").unwrap().as_i64().unwrap();
        let numbers = bodies.iter().map(number).collect();
        self.stored.extend(bodies.iter().map(|body| format!("{body}\n")));
        (published, numbers)
    }

    async fn due(&self) {
        sqlx::query("UPDATE checkpoint_posts SET next_attempt_at = now()").execute(&self.state.database).await.unwrap();
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn a_receiver_is_told_of_each_checkpoint_in_order_also_after_it_was_down(pool: PgPool) {
    let mut world = World::new(&pool).await;
    world.receiver.answers(status("204 No Content"));
    assert_eq!((world.sign().await, world.sign().await), (1, 2));
    let (published, numbers) = world.publish().await;
    assert_eq!((published.unwrap(), numbers), (2, vec![1, 2]));

    world.receiver.answers(status("503 Service Unavailable"));
    assert_eq!(world.sign().await, 3);
    let (published, numbers) = world.publish().await;
    assert!(matches!(published, Err(PublishError::Call { number: 3, .. })), "{published:?}");
    assert_eq!(numbers, [3]);
    let (published, numbers) = world.publish().await;
    assert_eq!((published.unwrap(), numbers), (0, vec![]), "it is not asked again at once");
    assert_eq!(world.sign().await, 4, "nobody waits for it to be signed");
    world.due().await;
    assert!(world.publish().await.0.is_err());
    let (attempts, waits): (i32, bool) =
        sqlx::query_as("SELECT attempts, next_attempt_at > now() + interval '3 seconds' FROM checkpoint_posts")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!((attempts, waits), (2, true));

    world.receiver.answers(status("200 OK"));
    world.due().await;
    let (published, numbers) = world.publish().await;
    assert_eq!((published.unwrap(), numbers), (2, vec![3, 4]));
    // It took one, and died before it noted that: that one is posted again.
    sqlx::query("UPDATE checkpoint_posts SET number = 3").execute(&pool).await.unwrap();
    assert_eq!(world.sign().await, 5);
    let (published, numbers) = world.publish().await;
    assert_eq!((published.unwrap(), numbers), (2, vec![4, 5]));

    let stored: Vec<String> = lines(&world.stored).into_iter().map(|(_, jws)| jws).collect();
    let mut connection = pool.acquire().await.unwrap();
    let report = verify(&mut connection, &stored, &TrustedKeys::of(&world.key)).await.unwrap();
    assert_eq!((stored.len(), report.checkpoints, report.findings), (5, 5, vec![]));

    world.sign().await;
    fence::close(&pool, 9).await.unwrap();
    let (published, numbers) = world.publish().await;
    assert_eq!((published.unwrap(), numbers), (0, vec![]), "a fenced control plane tells nobody of its past");
}

#[sqlx::test(migrations = "../migrations")]
async fn one_replica_has_the_turn(pool: PgPool) {
    let mut world = World::new(&pool).await;
    world.receiver.answers(status("204 No Content"));
    for _ in 0..10 {
        world.sign().await;
    }
    let (one, other) = tokio::join!(publish_due(&world.state, &world.url), publish_due(&world.state, &world.url));
    assert_eq!(one.unwrap() + other.unwrap(), 10);
    assert_eq!(world.receiver.requests().len(), 10);
}

#[sqlx::test(migrations = "../migrations")]
async fn batches_of_closed_holders_and_what_was_put_aside_are_forgotten_in_their_time(pool: PgPool) {
    let state = state(&pool, 100).await;
    let (mut gone, mut there) = (Holder::new(&state).await, Holder::new(&state).await);
    for holder in [&mut gone, &mut there] {
        deliver(holder, batch(1, &[records(0, 3), vec![b"\xff".to_vec()]].concat())).await;
    }
    let counts = async || -> (i64, i64) {
        sqlx::query_as("SELECT (SELECT count(*) FROM audit_batches), (SELECT count(*) FROM audit_quarantine)")
            .fetch_one(&pool)
            .await
            .unwrap()
    };
    let run = async |sql: &'static str| sqlx::query(sql).execute(&pool).await.unwrap().rows_affected();
    assert_eq!((forget(&pool).await.unwrap(), counts().await), (0, (2, 2)));
    sqlx::query("UPDATE holders SET closed_at = now() - interval '8 days' WHERE holder = $1")
        .bind(uuid::Uuid::from_bytes(gone.id))
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!((forget(&pool).await.unwrap(), counts().await), (1, (1, 2)));
    assert_eq!(
        run("UPDATE audit_quarantine SET received_at = now() - interval '91 days' WHERE id = (SELECT min(id) FROM audit_quarantine)").await,
        1
    );
    assert_eq!(run("INSERT INTO gateway_audit.holds (reason, placed_by) VALUES ('a case', 'ops')").await, 1);
    assert_eq!((forget(&pool).await.unwrap(), counts().await), (0, (1, 2)), "a legal hold");
    assert_eq!(run("UPDATE gateway_audit.holds SET released_by = 'ops', released_at = now()").await, 1);
    assert_eq!((forget(&pool).await.unwrap(), counts().await), (1, (1, 1)));
}
