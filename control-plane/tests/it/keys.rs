//! Published key sets, from a real TLS server into the bundle: rotation, unknown keys, failures, conflicts, restarts.

use crate::idp::{Idp, Reply, key, token};
use crate::support::{ENVOY_TOKEN, World, admin_token};
use axum::http::{Method, StatusCode};
use control_plane::keys::{fetch, store};
use control_plane::notifications;
use control_plane::policies::follow;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::time::{Duration as StdDuration, Instant};
use tempfile::TempDir;
use wire::bundle::{Bundle, IssuerKeys, KeysKnown};

const ISS: &str = "https://idp.test";

fn issuer(name: &str, iss: &str, url: &str) -> String {
    format!(
        "  - {{name: {name}, issuer: '{iss}', gateways: [ADMIN], audiences: [plant-gateway-admin], algorithms: [ES256], \
         jwks: {{url: '{url}', refresh_s: 60, stale_after_s: 600}}}}\n"
    )
}

fn directory(issuers: &str) -> TempDir {
    let directory = World::prepared();
    std::fs::write(directory.path().join("policies/routes/idp.yaml"), format!("issuers:\n{issuers}")).unwrap();
    directory
}

async fn world(database: PgPool, idp: &Idp) -> World {
    World::with(database, directory(&issuer("idp", ISS, &idp.url())), idp.settings()).await.unwrap()
}

/// Fetches what is due, as the background task would, and loads what came of it.
async fn fetch_due(world: &World) -> usize {
    let document = world.state.policy().document.clone();
    let sources = document.issuers.iter().filter_map(|issuer| Some((issuer.name.clone(), issuer.jwks.as_ref()?.url.clone())));
    let (issuers, urls): (Vec<_>, Vec<_>) = sources.unzip();
    let due = store::claim_due(&world.state.database, &issuers, &urls).await.unwrap();
    for due in &due {
        fetch::fetch(&world.state, due).await;
    }
    follow::refresh(&world.state).await.unwrap();
    due.len()
}

/// Lets time pass for the fetcher.
async fn pass(world: &World, seconds: f64) {
    sqlx::query(
        "UPDATE jwk_sets SET attempted_at = attempted_at - make_interval(secs => $1), next_at = next_at - make_interval(secs => $1), \
         fetched_at = fetched_at - make_interval(secs => $1), served_from = served_from - make_interval(secs => $1)",
    )
    .bind(seconds)
    .execute(&world.state.database)
    .await
    .unwrap();
}

fn served(world: &World, issuer: &str) -> IssuerKeys {
    let bundle = Bundle::decode(&world.state.policy().image).unwrap();
    bundle.keys.into_iter().find(|keys| keys.issuer == issuer).unwrap()
}

fn kids(keys: &IssuerKeys) -> Vec<&str> {
    keys.keys.iter().map(|key| key.kid.as_deref().unwrap()).collect()
}

async fn status_of(world: &World, token: &str) -> StatusCode {
    world.admin_call(Method::GET, "/admin/v1/policies/active", Some(token), None).await.status
}

async fn error_of(world: &World, issuer: &str) -> String {
    let list = world.get("/admin/v1/keys").await.json();
    let found = list["issuers"].as_array().unwrap().iter().find(|known| known["issuer"] == issuer).unwrap().clone();
    found["fetch"]["last_error"].as_str().unwrap_or_default().to_owned()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_published_key_verifies_tokens_and_a_new_one_joins_it_before_the_old_one_goes(database: PgPool) {
    let idp = Idp::start().await;
    let (old, new) = (key("old"), key("new"));
    idp.publishes(&[&old]);
    let world = world(database, &idp).await;
    assert_eq!(served(&world, "idp").known, KeysKnown::NotYet);
    assert_eq!(status_of(&world, &token(&old, ISS)).await, StatusCode::SERVICE_UNAVAILABLE, "not refused: it cannot be judged yet");

    assert_eq!(fetch_due(&world).await, 1);
    let first = world.state.policy().version;
    assert_eq!(kids(&served(&world, "idp")), ["old"]);
    assert_eq!(status_of(&world, &token(&old, ISS)).await, StatusCode::OK);
    assert_eq!(status_of(&world, &token(&new, ISS)).await, StatusCode::UNAUTHORIZED);

    idp.publishes(&[&old, &new]);
    pass(&world, 70.0).await;
    fetch_due(&world).await;
    assert_eq!(kids(&served(&world, "idp")), ["old", "new"]);
    for key in [&old, &new] {
        assert_eq!(status_of(&world, &token(key, ISS)).await, StatusCode::OK);
    }
    let second = world.state.policy().version;
    assert!(second.key_set > first.key_set && second.activation == first.activation, "{second:?}");

    idp.publishes(&[&new]);
    pass(&world, 70.0).await;
    fetch_due(&world).await;
    assert_eq!(kids(&served(&world, "idp")), ["new"]);
    assert_eq!(status_of(&world, &token(&old, ISS)).await, StatusCode::UNAUTHORIZED);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_changed_set_reaches_a_held_poll_of_another_replica_within_a_second(database: PgPool) {
    let idp = Idp::start().await;
    idp.publishes(&[&key("a")]);
    let world = world(database.clone(), &idp).await;
    fetch_due(&world).await;
    let other = World::with(database, directory(&issuer("idp", ISS, &idp.url())), idp.settings()).await.unwrap();
    let followers = [&world, &other].map(|world| tokio::spawn(notifications::follow(world.state.clone())));
    let tag = other.poll(ENVOY_TOKEN, None, 0).await.header("etag").to_owned();
    idp.publishes(&[&key("b")]);
    tokio::time::sleep(StdDuration::from_millis(300)).await;
    pass(&world, 11.0).await;
    let asked = Instant::now();
    let held = async { (other.poll(ENVOY_TOKEN, Some(&tag), 10).await, asked.elapsed()) };
    let ((answer, took), refresh) = tokio::join!(held, world.post("/admin/v1/keys/idp/refresh", &Value::Null));
    assert_eq!((answer.status, refresh.status), (StatusCode::OK, StatusCode::ACCEPTED));
    assert!(took < StdDuration::from_secs(1), "{took:?}");
    println!("a changed set reached the other replica's poll after {took:?}");
    followers.into_iter().for_each(|follower| follower.abort());
}

#[sqlx::test(migrations = "../migrations")]
async fn an_unknown_key_is_asked_for_once_in_ten_seconds_however_often_it_is_named(database: PgPool) {
    let idp = Idp::start().await;
    let (old, new) = (key("old"), key("new"));
    idp.publishes(&[&old]);
    let world = world(database.clone(), &idp).await;
    fetch_due(&world).await;
    let other = World::with(database, directory(&issuer("idp", ISS, &idp.url())), idp.settings()).await.unwrap();
    let followers = [&world, &other].map(|world| tokio::spawn(notifications::follow(world.state.clone())));
    idp.publishes(&[&old, &new]);
    pass(&world, 11.0).await;
    let before = idp.hits();
    let names = ["idp", "cp", "nobody"];
    for _ in 0..50 {
        fetch::ask_for(&world.state, &names).await;
        fetch::ask_for(&other.state, &names).await;
    }
    let deadline = Instant::now() + StdDuration::from_secs(2);
    while status_of(&world, &token(&new, ISS)).await != StatusCode::OK && Instant::now() < deadline {
        tokio::time::sleep(StdDuration::from_millis(20)).await;
    }
    assert_eq!(status_of(&world, &token(&new, ISS)).await, StatusCode::OK);
    fetch::ask_for(&other.state, &names).await;
    tokio::time::sleep(StdDuration::from_millis(1_500)).await;
    assert_eq!(idp.hits() - before, 1, "two replicas, a hundred asks, and one after the fetch");
    pass(&world, 11.0).await;
    tokio::time::sleep(StdDuration::from_millis(1_500)).await;
    assert_eq!(idp.hits() - before, 2, "what was asked for meanwhile is fetched when ten seconds have passed");
    followers.into_iter().for_each(|follower| follower.abort());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_token_that_names_an_unknown_key_asks_for_it(database: PgPool) {
    let idp = Idp::start().await;
    let (old, new) = (key("old"), key("new"));
    idp.publishes(&[&old]);
    let world = world(database, &idp).await;
    fetch_due(&world).await;
    idp.publishes(&[&old, &new]);
    pass(&world, 11.0).await;
    assert_eq!(fetch_due(&world).await, 0, "nothing is due");
    assert_eq!(status_of(&world, &token(&new, ISS)).await, StatusCode::UNAUTHORIZED);
    assert_eq!(fetch_due(&world).await, 1, "the token asked");
    assert_eq!(status_of(&world, &token(&new, ISS)).await, StatusCode::OK);
}

#[sqlx::test(migrations = "../migrations")]
async fn the_last_good_set_survives_failures_and_restarts(database: PgPool) {
    let idp = Idp::start().await;
    let good = key("good");
    idp.publishes(&[&good]);
    let world = world(database, &idp).await;
    fetch_due(&world).await;
    let version = world.state.policy().version;
    let many: Vec<Value> = (0..51).map(|number| json!({ "kty": "EC", "kid": number.to_string() })).collect();
    for (reply, expected) in [
        (Reply::Raw(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_vec()), "the answer has status 500"),
        (Reply::Json(json!("no set")), "the set is not one JSON object"),
        (Reply::Json(json!({ "keys": [] })), "no key of the set is for signatures by one of the issuer's algorithms"),
        (Reply::Json(json!({ "keys": many })), "51 keys"),
    ] {
        idp.answers(reply);
        pass(&world, 2_000.0 / 10.0).await;
        sqlx::query("UPDATE jwk_sets SET next_at = now(), served_from = now(), fetched_at = now()")
            .execute(&world.state.database)
            .await
            .unwrap();
        assert_eq!(fetch_due(&world).await, 1);
        assert!(error_of(&world, "idp").await.contains(expected), "{expected}: {}", error_of(&world, "idp").await);
        assert_eq!(kids(&served(&world, "idp")), ["good"]);
    }
    let world = world.restarted().await.unwrap();
    assert_eq!(kids(&served(&world, "idp")), ["good"]);
    assert_eq!(status_of(&world, &token(&good, ISS)).await, StatusCode::OK);
    assert!(world.state.policy().version.key_set >= version.key_set);
}

#[sqlx::test(migrations = "../migrations")]
async fn failures_are_tried_again_later_and_later_and_keys_too_old_are_no_longer_relied_on(database: PgPool) {
    let idp = Idp::start().await;
    let good = key("good");
    idp.publishes(&[&good]);
    let world = world(database, &idp).await;
    fetch_due(&world).await;
    idp.answers(Reply::Raw(b"HTTP/1.1 503 Away\r\ncontent-length: 0\r\n\r\n".to_vec()));
    let mut waits = Vec::new();
    for _ in 0..4 {
        sqlx::query("UPDATE jwk_sets SET next_at = now()").execute(&world.state.database).await.unwrap();
        fetch_due(&world).await;
        let (wait,): (f64,) = sqlx::query_as("SELECT extract(epoch FROM next_at - now())::float8 FROM jwk_sets")
            .fetch_one(&world.state.database)
            .await
            .unwrap();
        waits.push(wait);
    }
    for (wait, least) in waits.iter().zip([10.0, 20.0, 40.0, 80.0]) {
        assert!((least * 0.9..least * 1.25).contains(wait), "{waits:?}");
    }
    pass(&world, 601.0).await;
    follow::refresh(&world.state).await.unwrap();
    assert_eq!(status_of(&world, &token(&good, ISS)).await, StatusCode::SERVICE_UNAVAILABLE);
}

#[sqlx::test(migrations = "../migrations")]
async fn an_unchanged_set_is_served_anew_only_when_its_time_runs_out(database: PgPool) {
    let idp = Idp::start().await;
    idp.publishes(&[&key("a")]);
    let world = world(database, &idp).await;
    fetch_due(&world).await;
    let state = async || {
        let row: (i64, f64) = sqlx::query_as("SELECT changes, (600 - extract(epoch FROM now() - served_from))::float8 FROM jwk_sets")
            .fetch_one(&world.state.database)
            .await
            .unwrap();
        row
    };
    let mut lasts = Vec::new();
    for _ in 0..10 {
        pass(&world, 66.0).await;
        assert_eq!(fetch_due(&world).await, 1);
        lasts.push(state().await.1);
    }
    assert!(lasts.iter().all(|left| *left >= 300.0), "always half its time left after a fetch: {lasts:?}");
    assert_eq!(state().await.0, 3, "eleven fetches, and three bundles: {lasts:?}");
}

#[sqlx::test(migrations = "../migrations")]
async fn an_issuer_that_publishes_another_s_key_breaks_nothing(database: PgPool) {
    let (honest, thief) = (Idp::start().await, Idp::start().await);
    let (ours, theirs) = (key("ours"), key("theirs"));
    honest.publishes(&[&ours]);
    thief.publishes(&[&theirs]);
    let issuers = issuer("idp", ISS, &honest.url()) + &issuer("thief", "https://thief.test", &thief.url());
    let ca = honest.ca_file();
    let both = std::fs::read_to_string(&ca).unwrap() + &std::fs::read_to_string(thief.ca_file()).unwrap();
    std::fs::write(&ca, both).unwrap();
    let mut settings = honest.settings();
    settings[0] = format!("--jwks-hosts=localhost:{},localhost:{}", honest.port, thief.port);
    let world = World::with(database, directory(&issuers), settings).await.unwrap();
    assert_eq!(fetch_due(&world).await, 2);
    thief.publishes(&[&theirs, &ours]);
    pass(&world, 70.0).await;
    assert_eq!(fetch_due(&world).await, 2);
    assert_eq!(error_of(&world, "thief").await, "the key `ours` is also a key of the issuer `idp` and is left out here");
    assert_eq!((kids(&served(&world, "idp")), kids(&served(&world, "thief"))), (vec!["ours"], vec!["theirs"]));
    assert_eq!(status_of(&world, &token(&ours, ISS)).await, StatusCode::OK);
    // Neither keeps the other from going on.
    let (ours_next, theirs_next) = (key("ours-next"), key("theirs-next"));
    honest.publishes(&[&ours, &ours_next]);
    thief.publishes(&[&ours, &theirs_next]);
    pass(&world, 70.0).await;
    assert_eq!(fetch_due(&world).await, 2);
    assert_eq!((kids(&served(&world, "idp")), kids(&served(&world, "thief"))), (vec!["ours", "ours-next"], vec!["theirs-next"]));
    assert_eq!(status_of(&world, &token(&ours_next, ISS)).await, StatusCode::OK);
    thief.publishes(&[&ours]);
    pass(&world, 70.0).await;
    assert_eq!(fetch_due(&world).await, 2);
    assert!(error_of(&world, "thief").await.starts_with("every key is another issuer's: the key `ours`"));
    assert_eq!(kids(&served(&world, "thief")), ["theirs-next"], "nothing would be left: the last good set stays");
    // Even if the table says otherwise, the bundle stands.
    sqlx::query(
        "UPDATE jwk_sets SET body = (SELECT body FROM jwk_sets WHERE issuer = 'idp'), changes = changes + 1 WHERE issuer = 'thief'",
    )
    .execute(&world.state.database)
    .await
    .unwrap();
    follow::refresh(&world.state).await.unwrap();
    assert_eq!((kids(&served(&world, "idp")).len(), kids(&served(&world, "thief")).len()), (2, 0));
}

#[sqlx::test(migrations = "../migrations")]
async fn an_issuer_that_cannot_be_reached_does_not_stop_another(database: PgPool) {
    let idp = Idp::start().await;
    idp.publishes(&[&key("a")]);
    let silent = Idp::start().await;
    let issuers = issuer("silent", "https://silent.test", &silent.url()) + &issuer("idp", ISS, &idp.url());
    let mut settings = idp.settings();
    settings[0] = format!("--jwks-hosts=localhost:{},localhost:{}", idp.port, silent.port);
    let world = World::with(database, directory(&issuers), settings).await.unwrap();
    let follower = tokio::spawn(notifications::follow(world.state.clone()));
    let deadline = Instant::now() + StdDuration::from_secs(3);
    while served(&world, "idp").keys.is_empty() && Instant::now() < deadline {
        tokio::time::sleep(StdDuration::from_millis(20)).await;
    }
    assert_eq!(kids(&served(&world, "idp")), ["a"]);
    assert_eq!(served(&world, "silent").known, KeysKnown::NotYet);
    follower.abort();
}

#[sqlx::test(migrations = "../migrations")]
async fn a_policy_whose_url_may_not_be_asked_for_is_refused_with_its_place(database: PgPool) {
    let world = World::new(database).await;
    for (url, expected) in
        [("https://id.example.com/keys", "JWKS_HOSTS"), ("http://localhost/keys", "the scheme is not `https`"), ("nonsense", "not a URL")]
    {
        let mut files = world.files();
        files["routes/idp.yaml"] = json!(format!("issuers:\n{}", issuer("idp", ISS, url)));
        let answer = world.post("/admin/v1/policies", &json!({ "files": files, "reason": "a test" })).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        let problem = answer.json();
        assert_eq!(
            (&problem["file"], &problem["line"], &problem["field"]),
            (&json!("routes/idp.yaml"), &json!(2), &json!("issuers[idp].jwks.url"))
        );
        assert!(problem["detail"].as_str().unwrap().contains(expected), "{problem}");
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn weak_and_repeated_registration_keys_are_refused(database: PgPool) {
    let world = World::new(database).await;
    let secret = |name: &str, text: &str| std::fs::write(world.directory.path().join("secrets").join(name), text).unwrap();
    let mut files = world.files();
    let issuers = files["issuers.yaml"].as_str().unwrap().replace("[cp-registration.secret]", "[cp-registration.secret, second.secret]");
    files["issuers.yaml"] = json!(issuers);
    for (text, expected) in
        [("fifteen letters", "shorter than 16 bytes"), ("a registration key", "the same registration key under another name")]
    {
        secret("second.secret", text);
        let answer = world.post("/admin/v1/policies/validate", &json!({ "files": files })).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        let problem = answer.json();
        assert_eq!(problem["field"], "registration_keys[second.secret]");
        assert!(problem["detail"].as_str().unwrap().contains(expected), "{problem}");
        assert!(!problem.to_string().contains("letters"), "{problem}");
    }
    secret("second.secret", "another registration key");
    assert_eq!(world.post("/admin/v1/policies/validate", &json!({ "files": files })).await.status, StatusCode::OK);
}

#[sqlx::test(migrations = "../migrations")]
async fn keys_are_listed_without_secrets(database: PgPool) {
    let idp = Idp::start().await;
    idp.publishes(&[&key("a")]);
    let world = world(database, &idp).await;
    fetch_due(&world).await;
    let list = world.get("/admin/v1/keys").await.json();
    let of = |name: &str| list["issuers"].as_array().unwrap().iter().find(|issuer| issuer["issuer"] == name).unwrap().clone();
    let (published, legacy) = (of("idp"), of("legacy"));
    assert_eq!(
        (&published["source"], &published["known"], &published["keys"][0]["origin"]),
        (&json!("jwks"), &json!("until"), &json!("jwks"))
    );
    assert_eq!(published["keys"][0]["spki_sha256"].as_str().unwrap().len(), 43);
    assert!(published["fetch"]["fetched_at"].is_string() && published["fetch"]["next_at"].is_string(), "{published}");
    assert_eq!((&legacy["source"], &legacy["keys"][0]["spki_sha256"]), (&json!("policy"), &Value::Null));
    assert_eq!(world.post("/admin/v1/keys/legacy/refresh", &Value::Null).await.status, StatusCode::NOT_FOUND);
    let metrics = String::from_utf8(world.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("jwks_fetches_total{outcome=\"ok\"} 1"), "{metrics}");
}

#[sqlx::test(migrations = "../migrations")]
async fn the_embedded_bundle_has_public_keys_only_and_loads(database: PgPool) {
    use base64::Engine as _;
    let idp = Idp::start().await;
    idp.publishes(&[&key("a")]);
    let world = world(database, &idp).await;
    let fetch = async || {
        let answer = world.get("/admin/v1/policies/active/bundle").await.json();
        let image = base64::engine::general_purpose::STANDARD.decode(answer["bundle"].as_str().unwrap()).unwrap();
        (answer, Bundle::decode(&image).unwrap(), image)
    };
    let (answer, bundle, _) = fetch().await;
    assert_eq!(answer["issuers_without_keys"], json!(["legacy", "idp"]));
    assert_eq!(bundle.version, world.state.policy().version);
    fetch_due(&world).await;
    let (answer, bundle, image) = fetch().await;
    assert_eq!(answer["issuers_without_keys"], json!(["legacy"]));
    assert!(bundle.registration_key_hashes.is_empty());
    bundle.load().unwrap();
    let secret = std::fs::read_to_string(world.directory.path().join("secrets/legacy-1.secret")).unwrap();
    let secret = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(secret).unwrap();
    assert!(!image.windows(secret.len()).any(|window| window == secret), "the shared secret is in it");
    assert!(world.state.policy().image.windows(secret.len()).any(|window| window == secret), "or else this test shows nothing");
}

/// Files that are read, published, listed, explained, exported and logged must never contain what the secrets are.
#[sqlx::test(migrations = "../migrations")]
async fn a_canary_secret_shows_up_nowhere(database: PgPool) {
    const CANARY: &str = "canary-registration-key-7f3a";
    let world = World::new(database.clone()).await;
    std::fs::write(world.directory.path().join("secrets/cp-registration.secret"), CANARY).unwrap();
    follow::refresh(&world.state).await.unwrap();
    let hmac = std::fs::read_to_string(world.directory.path().join("secrets/legacy-1.secret")).unwrap();
    let hash = wire::hex::hex(&<sha2::Sha256 as sha2::Digest>::digest(CANARY));
    world.post("/admin/v1/policies", &json!({ "files": world.files(), "reason": "a test" })).await;
    world.post("/admin/v1/revocations", &json!({ "kind": "customer", "value": "c", "reason": "a test" })).await;
    let mut seen = String::new();
    for path in [
        "/admin/v1/policies",
        "/admin/v1/policies/1",
        "/admin/v1/policies/2",
        "/admin/v1/policies/active",
        "/admin/v1/policies/active/bundle",
        "/admin/v1/keys",
        "/admin/v1/revocations",
        "/admin/v1/audit",
        "/metrics",
        "/ready",
        "/openapi.json",
    ] {
        let answer = world.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        seen.push_str(std::str::from_utf8(&answer.body).unwrap());
    }
    for table in ["policy_revisions", "policy_activations", "admin_events", "key_sets", "jwk_sets", "revocations"] {
        let query = sqlx::AssertSqlSafe(format!("SELECT coalesce(string_agg(t::text, ' '), '') FROM {table} t"));
        let (text,): (String,) = sqlx::query_as(query).fetch_one(&database).await.unwrap();
        seen.push_str(&text);
    }
    for secret in [CANARY, hmac.as_str(), hash.as_str(), &admin_token()] {
        assert!(!seen.contains(secret), "a secret was shown");
    }
    let image = &world.state.policy().image;
    let digest: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(CANARY).into();
    assert!(image.windows(32).any(|window| window == digest), "the canary is in use, or else this test shows nothing");
}
