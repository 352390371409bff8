//! Keys that are not known: asked for seldom, waited for by few, and never a reason to refuse before that is known.

use super::gate::{Gate, NOW, Request, document, image, version};
use super::tokens;
use crate::counters::name;
use crate::key_asks::WAITING_MAX;
use crate::pipeline::Step;
use jwt_simple::algorithms::{ECDSAP256KeyPairLike, ES256KeyPair};
use jwt_simple::claims::JWTClaims;
use serde_json::{Value, json};
use std::time::Duration;
use wire::bundle::{Bundle, KeyMaterial, KeysKnown};
use wire::policy::JwksSource;

const TICK: Duration = Duration::from_millis(20);

fn pair(kid: &str) -> ES256KeyPair {
    ES256KeyPair::generate().with_key_id(kid)
}

/// A bundle whose issuer `pp` publishes these keys.
fn published(pairs: &[&ES256KeyPair], known: KeysKnown, activation: u64) -> Vec<u8> {
    let mut document = document();
    let issuer = document.issuers.iter_mut().find(|issuer| issuer.name == "pp").unwrap();
    issuer.keys.clear();
    issuer.algorithms = vec!["ES256".into()];
    issuer.jwks = Some(JwksSource { url: "https://pp.example/jwks".into(), refresh_s: 300, stale_after_s: 86_400 });
    document.settings.get_or_insert_default().cold_start_hold_ms = 1_500;
    let mut bundle = Bundle::decode(&image(&document, version(activation))).unwrap();
    let keys = bundle.keys.iter_mut().find(|keys| keys.issuer == "pp").unwrap();
    keys.known = known;
    keys.keys = pairs
        .iter()
        .map(|pair| KeyMaterial {
            kid: pair.key_id().clone(),
            algorithm: "ES256".into(),
            material: pair.key_pair().public_key().to_der().unwrap(),
        })
        .collect();
    bundle.encode().unwrap()
}

fn until(seconds: i64) -> KeysKnown {
    KeysKnown::Until(NOW.as_seconds() + seconds)
}

fn gate(bundle: &[u8]) -> Gate {
    let gate = Gate::cold("PP", Default::default());
    gate.vm.borrow_mut().activate(&gate.host, bundle).unwrap();
    gate.know_revocations(&[]);
    gate
}

/// A bundle comes, as it would from the control plane.
fn serve(gate: &Gate, bundle: Vec<u8>) {
    let call = (0..600).find_map(|_| {
        gate.run(TICK);
        gate.take_call("/data-plane/v1/bundle")
    });
    gate.answer(&call.unwrap(), &[(":status", b"200"), ("etag", b"\"e\"")], bundle);
}

fn request(pair: &ES256KeyPair) -> Request {
    let seconds = |seconds: i64| Some(jwt_simple::prelude::Duration::from_secs(u64::try_from(seconds).unwrap()));
    let claims: JWTClaims<Value> = JWTClaims {
        issued_at: seconds(NOW.as_seconds() - 60),
        expires_at: seconds(NOW.as_seconds() + 3_600),
        invalid_before: None,
        issuer: Some("pp.waooaw.com".into()),
        subject: Some("staff-1".into()),
        audiences: Some(jwt_simple::claims::Audiences::AsString("plant-gateway-pp".into())),
        jwt_id: None,
        nonce: None,
        custom: json!({ "user_id": "staff-1", "email": "staff@example.com", "roles": ["admin"] }),
    };
    Request::new("GET", "/api/v1/agents").bearer(&pair.sign(claims).unwrap())
}

fn code(gate: &Gate, stream: &super::gate::Stream) -> Value {
    gate.finish(stream);
    gate.last_record()["reason"].clone()
}

#[test]
fn a_token_with_a_new_key_waits_for_the_key_and_is_forwarded() {
    let (old, new) = (pair("old"), pair("new"));
    let mut gate = gate(&published(&[&old], until(600), 1));
    gate.warm(&request(&old));
    let stream = gate.begin(&request(&new));
    assert_eq!(stream.step, Step::Held);
    let asked = gate.sync(|_, _| {});
    assert_eq!(asked.unknown_keys, ["pp"]);
    assert_eq!(gate.reply(&stream), None);
    serve(&gate, published(&[&old, &new], until(600), 2));
    gate.run(TICK * 2);
    assert!(gate.forwarded(&stream).is_some());
    assert_eq!(gate.begin(&request(&old)).step, Step::Forward, "with overlap no request is lost");
    gate.complete(&stream);
    let record = gate.last_record();
    assert_eq!((&record["reason"], record["checks"].as_array().unwrap().len()), (&json!("ok"), 5));
    assert_eq!(gate.vm.borrow().key_asks.waiting(), 0);
}

#[test]
fn a_call_that_fails_is_repeated_with_the_question() {
    let mut gate = gate(&published(&[&pair("old")], until(600), 1));
    assert_eq!(gate.begin(&request(&pair("new"))).step, Step::Held);
    let (call, asked) = gate.sync_call().unwrap();
    assert_eq!(asked.unknown_keys, ["pp"]);
    gate.answer(&call, &[(":status", b"503")], vec![]);
    gate.run(Duration::from_millis(400));
    assert_eq!(gate.sync(|_, _| {}).unknown_keys, ["pp"]);
    gate.run(Duration::from_secs(2));
    let later = gate.sync_call().map(|(_, request)| request.unknown_keys).unwrap_or_default();
    assert!(later.is_empty(), "an answered question is not asked again");
}

#[test]
fn a_key_that_nobody_publishes_is_refused_after_two_seconds_and_then_at_once() {
    let mut gate = gate(&published(&[&pair("old")], until(600), 1));
    let forged = request(&pair("forged"));
    let first = gate.begin(&forged);
    gate.run(Duration::from_millis(1_000));
    let second = gate.begin(&forged);
    assert_eq!(second.step, Step::Held, "the question is young");
    gate.run(Duration::from_millis(980));
    assert!(gate.reply(&first).is_none());
    gate.run(TICK * 2);
    for stream in [&first, &second] {
        assert_eq!(gate.reply(stream).unwrap().status, 401);
    }
    assert_eq!(code(&gate, &first), json!("unknown_key"));
    let reply = gate.refused(&forged);
    assert_eq!(reply.problem()["type"], json!("https://waooaw.com/errors/invalid-token"));
    // Ten seconds after the first question it is worth another.
    gate.host.pass(Duration::from_secs(8));
    assert_eq!(gate.begin(&forged).step, Step::Held);
}

#[test]
fn forged_keys_hold_few_places_and_verify_nothing() {
    let key = pair("old");
    let mut gate = gate(&published(&[&key], until(600), 1));
    let known = request(&key);
    gate.warm(&known);
    let verified = gate.host.metric(name::TOKENS_VERIFIED);
    let forged = request(&pair("forged"));
    let steps: Vec<Step> = (0..1_000).map(|_| gate.begin(&forged).step).collect();
    assert_eq!(steps.iter().filter(|step| **step == Step::Held).count(), WAITING_MAX);
    assert!(steps[WAITING_MAX..].iter().all(|step| *step == Step::Answered));
    assert_eq!(gate.begin(&known).step, Step::Forward);
    gate.run(Duration::from_millis(2_040));
    assert_eq!((gate.vm.borrow().waiting.len(), gate.vm.borrow().key_asks.waiting()), (0, 0));
    assert_eq!(gate.host.metric(name::TOKENS_VERIFIED), verified);
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let mut gate = gate(&published(&[&pair("old")], until(600), 1));
    let stream = gate.begin(&request(&pair("new")));
    assert_eq!(gate.vm.borrow().key_asks.waiting(), 1);
    gate.finish(&stream);
    assert_eq!(gate.vm.borrow().key_asks.waiting(), 0);
}

#[test]
fn an_issuer_without_published_keys_is_not_asked_about() {
    let mut gate = Gate::new("PP");
    let stranger = tokens::sign("never-heard-of", "waooaw.com", serde_json::Map::new());
    assert_eq!(gate.refused(&Request::new("GET", "/api/v1/agents").bearer(&stranger)).status, 401);
}

#[test]
fn keys_that_are_not_there_yet_are_waited_for_and_then_503_never_401() {
    let key = pair("old");
    let mut gate = gate(&published(&[], KeysKnown::NotYet, 1));
    let (patient, late) = (gate.begin(&request(&key)), gate.begin(&request(&key)));
    assert_eq!(patient.step, Step::Held);
    serve(&gate, published(&[&key], until(600), 2));
    gate.sync(|_, _| {});
    assert!(gate.forwarded(&patient).is_some() && gate.forwarded(&late).is_some());
    let mut gate = self::gate(&published(&[], KeysKnown::NotYet, 1));
    let stream = gate.begin(&request(&key));
    gate.run(Duration::from_millis(1_480));
    assert!(gate.reply(&stream).is_none());
    gate.run(TICK * 2);
    let reply = gate.reply(&stream).unwrap();
    assert_eq!((reply.status, reply.header("www-authenticate")), (503, None));
    assert_eq!(code(&gate, &stream), json!("keys_unavailable"));
}

#[test]
fn keys_that_have_grown_old_are_not_used() {
    let key = pair("old");
    let mut gate = gate(&published(&[&key], until(60), 1));
    let known = request(&key);
    gate.warm(&known);
    gate.host.pass(Duration::from_secs(120));
    // Nor for a token that they verified before.
    let streams = [gate.begin(&known), gate.begin(&request(&key))];
    assert!(streams.iter().all(|stream| stream.step == Step::Held));
    assert_eq!(gate.host.metric(name::TOKENS_VERIFIED), 1);
    gate.run(Duration::from_millis(1_540));
    for stream in &streams {
        assert_eq!(gate.reply(stream).unwrap().status, 503);
    }
}
