//! A control plane that cannot be believed, or that does not believe Envoy: the last bundle stays, leases go on, `/ready` says why.

use std::time::Duration;

use cli::stack::{Options, Ports, Stack, State, repository};
use cli::token::{TokenSpec, mint};
use e2e::http::{Answer, Ask, Client};
use e2e::load::Load;
use e2e::relay::{Relay, template_with_data_plane};
use e2e::stacks::{eventually, options, ports, told};
use sqlx::{Connection, PgConnection};

const AGENTS: &str = "/api/v1/agents";
const PATIENCE: Duration = Duration::from_secs(20);

fn start(options: Options) -> Stack {
    Stack::start(options).unwrap_or_else(|error| panic!("{}", told(&error)))
}

fn viewer(state: &State, subject: &str) -> String {
    mint(&state.issuers["pp"], &TokenSpec::new(subject, &["viewer"])).unwrap()
}

/// Gets leases for an account on every worker, and enough of them for what follows.
async fn warm(state: &State, token: &str) {
    let samples = Load { requests_max: 2, ..Load::new(&state.gateways["PP"], Ask::get(AGENTS).bearer(token), 8) }.start().finished().await;
    let samples = samples.unwrap();
    assert_eq!(samples.with(200), samples.len(), "{}", samples.summary());
}

async fn pp(state: &State, ask: &Ask) -> Answer {
    Client::new(&state.gateways["PP"]).send(ask).await.unwrap()
}

async fn standing(state: &State) -> String {
    pp(state, &Ask::get("/ready")).await.json()["control_plane"].as_str().unwrap().to_owned()
}

async fn becomes(state: &State, wanted: &str) {
    let reached = eventually(PATIENCE, async || standing(state).await.starts_with(wanted).then_some(())).await;
    assert!(reached.is_some(), "/ready says `{}` and not `{wanted}`", standing(state).await);
}

async fn still_decides(state: &State, token: &str, activation: &serde_json::Value) {
    let ready = pp(state, &Ask::get("/ready")).await;
    assert_eq!((ready.status, &ready.json()["activation"]), (200, activation), "{}", ready.text());
    let served = pp(state, &Ask::get(AGENTS).bearer(token)).await;
    assert_eq!(served.status, 200, "{}", served.text());
    assert_eq!(pp(state, &Ask::get(AGENTS)).await.status, 401);
}

async fn metric(state: &State, name: &str) -> u64 {
    let answer = Client::new(&state.envoy_admin).send(&Ask::get("/stats/prometheus?filter=gateway")).await.unwrap();
    let lines = answer.text();
    let values = lines.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    values.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_does_not_parse_leaves_the_old_one_in_force() {
    let home = tempfile::tempdir().unwrap();
    let relay_port = ports::BROKEN_BUNDLE + 200;
    let relay = Relay::start(relay_port, Ports::above(ports::BROKEN_BUNDLE).unwrap().data_plane).await.unwrap();
    let mut options = options("broken-bundle", ports::BROKEN_BUNDLE).unwrap();
    let copy = home.path().join("bootstrap.yaml");
    options.envoy_template = template_with_data_plane(&repository().join("envoy/bootstrap.yaml"), copy, relay_port).unwrap();
    let stack = tokio::task::spawn_blocking(|| start(options)).await.unwrap();
    let state = stack.state();
    becomes(state, "connected").await;
    let activation = pp(state, &Ask::get("/ready")).await.json()["activation"].clone();
    let token = viewer(state, "loyal");
    warm(state, &token).await;
    for image in [b"".as_slice(), b"not a bundle", &[0_u8; 4096]] {
        let refused = metric(state, "gateway_bundles_refused_total").await;
        relay.serve_bundle(image);
        let counted = eventually(PATIENCE, async || (metric(state, "gateway_bundles_refused_total").await > refused).then_some(())).await;
        assert!(counted.is_some(), "the refusal is counted");
        becomes(state, "bundle refused").await;
        still_decides(state, &token, &activation).await;
    }
    relay.pass_on();
    becomes(state, "connected").await;
    still_decides(state, &viewer(state, "newcomer"), &activation).await;
    stack.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_data_plane_token_leaves_the_last_bundle_and_the_leases() {
    let stack = start(options("revoked", ports::REVOKED).unwrap());
    let state = stack.state();
    becomes(state, "connected").await;
    let activation = pp(state, &Ask::get("/ready")).await.json()["activation"].clone();
    let token = viewer(state, "leased");
    warm(state, &token).await;
    let mut database = PgConnection::connect(&state.database_admin_url).await.unwrap();
    let revoked = sqlx::query("UPDATE envoys SET revoked_at = now() WHERE envoy_id = $1").bind(&state.envoy_id);
    let revoked = revoked.execute(&mut database).await.unwrap();
    assert_eq!(revoked.rows_affected(), 1);

    let poll = Ask::get("/data-plane/v1/bundle?wait_s=0").bearer(&state.data_plane_token);
    assert_eq!(Client::new(&state.data_plane).send(&poll).await.unwrap().status, 401);
    becomes(state, "unauthorized").await;
    still_decides(state, &token, &activation).await;

    sqlx::query("UPDATE envoys SET revoked_at = NULL").execute(&mut database).await.unwrap();
    becomes(state, "connected").await;
    let recovered =
        eventually(PATIENCE, async || (pp(state, &Ask::get(AGENTS).bearer(&viewer(state, "newcomer"))).await.status == 200).then_some(()));
    assert!(recovered.await.is_some(), "a new account is served again");
    stack.stop();
}
