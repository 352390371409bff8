//! Forged tokens of the algorithms that cost most, at 5,000 a second: none gets in, nobody else is refused, and good tokens of the same
//! algorithm that a worker has seen are served. How much slower the others get is printed, and measured by `make bench`'s rules: on a quiet machine.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cli::stack::{Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::http::{Ask, Client};
use e2e::identity_provider::{AUDIENCE, ISSUER, IdentityProvider};
use e2e::load::{Load, Samples};
use e2e::policies::without_budgets;
use e2e::stacks::{eventually, options, ports, told};
use jwt_simple::algorithms::{Ed25519KeyPair, RS256KeyPair};
use serde_json::json;

const AGENTS: &str = "/api/v1/agents";
const MEASURED: Duration = Duration::from_secs(6);

/// A token that looks right until its signature is checked.
fn forged(algorithm: &str, kid: &str, signature: &[u8]) -> String {
    let now = cli::token::now();
    let claims = json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "forger", "user_id": "forger", "email": "f@example.com", "roles": ["viewer"], "iat": now, "exp": now + 600});
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({"alg": algorithm, "kid": kid, "typ": "JWT"});
    format!("{}.{}.{}", part(&header), part(&claims), URL_SAFE_NO_PAD.encode(signature))
}

async fn start() -> (Stack, IdentityProvider, tempfile::TempDir) {
    let home = tempfile::tempdir().unwrap();
    let provider = IdentityProvider::start(home.path()).await.unwrap();
    let rsa = RS256KeyPair::generate(2048).unwrap().public_key().to_components();
    let (n, e) = (URL_SAFE_NO_PAD.encode(rsa.n), URL_SAFE_NO_PAD.encode(rsa.e));
    provider.publish_too("ps", json!({"kty": "RSA", "alg": "PS256", "use": "sig", "kid": "ps", "n": n, "e": e}));
    let x = URL_SAFE_NO_PAD.encode(Ed25519KeyPair::generate().public_key().to_bytes());
    provider.publish_too("ed", json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "ed", "x": x}));
    let mut options = options("forged", ports::FORGED).unwrap();
    let algorithms = "algorithms: [PS256, EdDSA]\n    software_verification: allow";
    options.policies = without_budgets(home.path(), &provider.policy_with(algorithms)).unwrap();
    options.control_plane_env = provider.control_plane_env();
    let stack = tokio::task::spawn_blocking(move || Stack::start(options)).await.unwrap();
    (stack.unwrap_or_else(|error| panic!("{}", told(&error))), provider, home)
}

fn load(state: &State, token: &str, connections: usize) -> Load {
    let ask = Ask::get(AGENTS).bearer(token);
    Load { pace: Duration::from_millis(10), ..Load::new(&state.gateways["PP"], ask, connections) }
}

async fn measured(state: &State, token: &str) -> Samples {
    let running = load(state, token, 5).start();
    tokio::time::sleep(MEASURED).await;
    running.stop().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_tokens_of_dear_algorithms_let_nobody_in_and_stop_nobody() {
    let (stack, _provider, _home) = start().await;
    let state = stack.state();
    let viewer = |issuer: &str| mint(&state.issuers[issuer], &TokenSpec::new("seen", &["viewer"])).unwrap();
    let (seen, edge) = (viewer("pp"), viewer("edge"));
    for token in [&seen, &edge] {
        let warm = Load { requests_max: 20, ..load(state, token, 8) }.start().finished().await.unwrap();
        assert_eq!(warm.with(200), 160, "{}", warm.summary());
    }
    // What as many requests cost that are refused without any verification: the load is made on the same machine.
    let tokenless = load(state, "", 50);
    let tokenless = Load { ask: Ask::get(AGENTS), ..tokenless }.start();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let plain = measured(state, &seen).await;
    let tokenless = tokenless.stop().await.unwrap();
    assert_eq!(tokenless.with(401), tokenless.len(), "{}", tokenless.summary());
    println!("{} requests without token: others' p50 {:?}, p99 {:?}", tokenless.len(), plain.percentile(0.5), plain.percentile(0.99));
    let mut rsa = [0x5a; 256];
    rsa[0] = 0;
    for (algorithm, token) in [("PS256", forged("PS256", "ps", &rsa)), ("EdDSA", forged("EdDSA", "ed", &[0x0a; 64]))] {
        let known = eventually(Duration::from_secs(20), async || {
            let answer = Client::new(&state.gateways["PP"]).send(&Ask::get(AGENTS).bearer(&token)).await.unwrap();
            (answer.status == 401).then_some(())
        });
        assert!(known.await.is_some(), "{algorithm} is not verified");
        let quiet = measured(state, &seen).await;
        let flood = load(state, &token, 50).start();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (stormy, edge_seen) = tokio::join!(measured(state, &seen), measured(state, &edge));
        // First-seen tokens of an algorithm that the host verifies go on as well.
        let fresh = mint(&state.issuers["pp"], &TokenSpec::new(&format!("fresh-{algorithm}"), &["viewer"])).unwrap();
        assert_eq!(Client::new(&state.gateways["PP"]).send(&Ask::get(AGENTS).bearer(&fresh)).await.unwrap().status, 200);
        let flood = flood.stop().await.unwrap();
        let ms = |samples: &Samples, share| samples.percentile(share).as_secs_f64() * 1e3;
        println!(
            "forged {algorithm}: {} sent, {}; others' p50 {:.2} → {:.2} ms, p99 {:.2} → {:.2} ms",
            flood.len(),
            flood.summary(),
            ms(&quiet, 0.5),
            ms(&stormy, 0.5),
            ms(&quiet, 0.99),
            ms(&stormy, 0.99)
        );
        assert_eq!(flood.with(401) + flood.with(429), flood.len(), "{algorithm}: {}", flood.summary());
        for samples in [quiet, stormy, edge_seen] {
            assert_eq!(samples.with(200), samples.len(), "{algorithm}: {}", samples.summary());
        }
    }
    stack.stop();
}
