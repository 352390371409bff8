//! An issuer that publishes its keys: rotation, an identity provider that is down, and tokens that name keys which nobody has. Under
//! 2,000 requests a second.

use std::time::{Duration, Instant};

use cli::issuer::IssuerState;
use cli::stack::{Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::http::{Answer, Ask, Client};
use e2e::identity_provider::IdentityProvider;
use e2e::load::{Load, Running};
use e2e::policies::without_budgets;
use e2e::stacks::{eventually, options, ports, told};

const AGENTS: &str = "/api/v1/agents";
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    stack: Stack,
    provider: IdentityProvider,
    _home: tempfile::TempDir,
}

impl World {
    async fn start(name: &str, port_base: u16, published: &[&IssuerState]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let provider = IdentityProvider::start(home.path()).await.unwrap();
        provider.publish(published).unwrap();
        let mut options = options(name, port_base).unwrap();
        options.policies = without_budgets(home.path(), &provider.policy()).unwrap();
        options.control_plane_env = provider.control_plane_env();
        let stack = tokio::task::spawn_blocking(move || Stack::start(options)).await.unwrap();
        Self { stack: stack.unwrap_or_else(|error| panic!("{}", told(&error))), provider, _home: home }
    }

    fn state(&self) -> &State {
        self.stack.state()
    }

    async fn ask(&self, token: &str) -> Answer {
        Client::new(&self.state().gateways["PP"]).send(&Ask::get(AGENTS).bearer(token)).await.unwrap()
    }

    async fn becomes(&self, token: &str, status: u16) {
        let reached = eventually(PATIENCE, async || (self.ask(token).await.status == status).then_some(())).await;
        assert!(reached.is_some(), "never {status}, but {}", self.ask(token).await.text());
    }

    /// So many requests a second, on two connections for each hundred.
    fn load(&self, token: &str, per_second: usize) -> Running {
        let ask = Ask::get(AGENTS).bearer(token);
        Load { pace: Duration::from_millis(20), ..Load::new(&self.state().gateways["PP"], ask, per_second / 50) }.start()
    }
}

fn token(key: &IssuerState, subject: &str) -> String {
    mint(key, &TokenSpec::new(subject, &["viewer"])).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_under_load_loses_no_request() {
    let [first, second, third] = ["k-1", "k-2", "k-3"].map(|kid| IdentityProvider::key(kid).unwrap());
    let world = World::start("keys", ports::KEYS, &[&first]).await;
    let old = token(&first, "old");
    world.becomes(&old, 200).await;
    let before = Instant::now();
    let running = world.load(&old, 1_000);
    tokio::time::sleep(Duration::from_secs(2)).await;

    // The new key is published beside the old one, and used at once: nobody has seen it yet.
    world.provider.publish(&[&first, &second]).unwrap();
    let fresh = world.load(&token(&second, "fresh"), 1_000);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let old_samples = running.stop().await.unwrap();
    println!("old key: {} in {:?}", old_samples.summary(), before.elapsed());
    assert_eq!(old_samples.with(200), old_samples.len(), "with the old key: {}", old_samples.summary());

    // The old key goes. The next new key makes the control plane look: at most every ten seconds.
    world.provider.publish(&[&second, &third]).unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    world.becomes(&token(&third, "third"), 200).await;
    world.becomes(&old, 401).await;
    let fresh_samples = fresh.stop().await.unwrap();
    println!("new key: {}; {} fetches", fresh_samples.summary(), world.provider.fetches());
    assert_eq!(fresh_samples.with(200), fresh_samples.len(), "with the new key: {}", fresh_samples.summary());
    assert!(fresh_samples.len() + old_samples.len() > 10_000, "the load was too small to show anything");
    world.stack.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_were_never_fetched_are_no_reason_to_refuse_a_token() {
    let [key, other] = ["k-1", "k-2"].map(|kid| IdentityProvider::key(kid).unwrap());
    let home = tempfile::tempdir().unwrap();
    let provider = IdentityProvider::start(home.path()).await.unwrap();
    provider.publish(&[&key]).unwrap();
    provider.fail(true);
    let mut options = options("keys-down", ports::KEYS_DOWN).unwrap();
    options.policies = without_budgets(home.path(), &provider.policy()).unwrap();
    options.control_plane_env = provider.control_plane_env();
    let stack =
        tokio::task::spawn_blocking(move || Stack::start(options)).await.unwrap().unwrap_or_else(|error| panic!("{}", told(&error)));
    let world = World { stack, provider, _home: home };

    for held in [token(&key, "early"), token(&other, "early")] {
        let answer = world.ask(&held).await;
        assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true), "{}", answer.text());
        assert!(answer.header("www-authenticate").is_none() && answer.header("x-echo-listener").is_none());
    }
    // Other issuers do not suffer.
    let pp = mint(&world.state().issuers["pp"], &TokenSpec::new("pp", &["viewer"])).unwrap();
    assert_eq!(world.ask(&pp).await.status, 200);

    world.provider.fail(false);
    let asked = Instant::now();
    let good = token(&key, "good");
    let back = eventually(Duration::from_secs(60), async || (world.ask(&good).await.status == 200).then_some(())).await;
    println!("keys known {:?} after the provider came back", asked.elapsed());
    assert!(back.is_some(), "{}", world.ask(&good).await.text());
    assert_eq!(world.ask(&token(&other, "forger")).await.status, 401, "a key that is not in the set");

    // The last good set stays when the provider goes down again, and while it answers rubbish.
    world.provider.fail(true);
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(world.ask(&good).await.status, 200);
    world.stack.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_name_unknown_keys_do_not_make_us_hammer_the_provider() {
    let key = IdentityProvider::key("k-1").unwrap();
    let world = World::start("keys-unknown", ports::KEYS_UNKNOWN, &[&key]).await;
    let good = token(&key, "good");
    world.becomes(&good, 200).await;
    let before = world.provider.fetches();
    let running = world.load(&good, 500);
    let start = Instant::now();
    let mut asked = 0;
    while start.elapsed() < Duration::from_secs(15) {
        let batch = (0..20).map(|_| {
            asked += 1;
            let mut forger = key.clone();
            forger.kid = format!("nobodys-{asked}");
            let (token, url) = (token(&forger, "forger"), world.state().gateways["PP"].clone());
            tokio::spawn(async move { Client::new(&url).send(&Ask::get(AGENTS).bearer(&token)).await.unwrap().status })
        });
        for answer in batch.collect::<Vec<_>>() {
            assert_eq!(answer.await.unwrap(), 401);
        }
    }
    let fetched = world.provider.fetches() - before;
    let samples = running.stop().await.unwrap();
    println!("{asked} tokens with unknown keys in {:?}: {fetched} fetches; others: {}", start.elapsed(), samples.summary());
    assert!((1..=3).contains(&fetched), "{fetched} fetches in 15 s");
    assert_eq!(samples.with(200), samples.len(), "others: {}", samples.summary());
    world.stack.stop();
}
