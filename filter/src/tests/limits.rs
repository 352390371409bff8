//! Signing in is limited per client address, before any credential is looked at.

use super::gate::{Gate, NOW, Request};
use super::host::FakeStream;
use super::tokens;
use crate::pipeline::Step;
use serde_json::json;
use std::time::Duration;

fn login() -> Request {
    Request::new("POST", "/api/v1/auth/otp/verify")
}

fn from(gate: &mut Gate, address: &str, request: &Request) -> super::gate::Stream {
    let mut stream = FakeStream { request: request.headers.clone(), ..FakeStream::default() };
    stream.properties.insert("source.address".into(), address.into());
    gate.begin_stream(stream, true)
}

#[test]
fn the_thirty_first_attempt_of_a_minute_is_refused_whatever_the_client_calls_itself() {
    let mut gate = Gate::new("CP");
    for number in 0..30 {
        let spoofed = login().with("x-forwarded-for", format!("198.51.100.{number}"));
        assert_eq!(from(&mut gate, &format!("192.0.2.1:{number}"), &spoofed).step, Step::Forward);
    }
    let stream = from(&mut gate, "192.0.2.1:99", &login());
    let reply = gate.reply(&stream).unwrap();
    // The minute ends half a minute after the tests begin.
    assert_eq!((reply.status, reply.header("retry-after").as_deref()), (429, Some("30")));
    assert_eq!(reply.details, "gateway_denied:client_limit");
    let problem = reply.problem();
    assert_eq!(problem["type"], json!("https://waooaw.com/errors/too-many-requests"));
    assert_eq!(problem["title"], json!("Too Many Requests"));
    assert_eq!(problem["detail"], json!("Too many authentication requests. Please retry shortly."));
    assert_eq!((&problem["check"], &problem["rule"]), (&json!("client_limit"), &json!("auth.otp.verify")));
    gate.finish(&stream);
    let record = gate.last_record();
    assert_eq!((&record["decision"], &record["reason"]), (&json!("Deny"), &json!("client_limited")));
    assert_eq!(record["checks"], json!([{ "check": "Route", "outcome": "Permit" }, { "check": "ClientLimit", "outcome": "Deny" }]));
    // Others, other routes, and the next minute.
    assert_eq!(from(&mut gate, "192.0.2.2:1", &login()).step, Step::Forward);
    assert_eq!(from(&mut gate, "192.0.2.1:1", &Request::new("POST", "/api/v1/auth/logout")).step, Step::Forward);
    gate.host.now.set(NOW.plus(Duration::from_secs(30)));
    assert_eq!(from(&mut gate, "192.0.2.1:1", &login()).step, Step::Forward);
}

#[test]
fn every_way_to_sign_in_counts_together_and_guessing_a_key_or_a_token_counts() {
    let mut gate = Gate::new("CP");
    let address = "[2001:db8::1]:1";
    for path in ["/api/v1/auth/google/verify", "/auth/refresh", "/api/auth/register", "/api/v1/auth/otp/start"] {
        for _ in 0..5 {
            assert_eq!(from(&mut gate, address, &Request::new("POST", path)).step, Step::Forward);
        }
    }
    for guess in 0..5 {
        let wrong = Request::new("POST", "/api/v1/otp/sessions").with("x-cp-registration-key", format!("guess {guess}"));
        let stream = from(&mut gate, "[2001:db8::ffff]:2", &wrong);
        assert_eq!(gate.reply(&stream).unwrap().status, 401);
        let stream = from(&mut gate, address, &Request::new("GET", "/api/v1/auth/validate").bearer("a.b.c"));
        assert_eq!(gate.reply(&stream).unwrap().status, 401);
    }
    let right = Request::new("POST", "/api/v1/otp/sessions").with("x-cp-registration-key", tokens::REGISTRATION_KEY);
    let stream = from(&mut gate, address, &right);
    assert_eq!(gate.reply(&stream).unwrap().status, 429);
}

#[test]
fn a_request_that_is_judged_twice_is_counted_once() {
    let mut gate = Gate::cold("CP", Default::default());
    let bundle = super::gate::image(&super::gate::document(), super::gate::version(1));
    gate.vm.borrow_mut().activate(&gate.host, &bundle).unwrap();
    let validate = Request::new("GET", "/api/v1/auth/validate").bearer(&tokens::admin());
    let streams: Vec<_> = (0..30).map(|_| from(&mut gate, "192.0.2.1:1", &validate)).collect();
    assert!(streams.iter().all(|stream| stream.step == Step::Held));
    gate.know_revocations(&[]);
    gate.learn();
    gate.sync(|_, _| {});
    assert!(streams.iter().all(|stream| gate.forwarded(stream).is_some()));
    gate.complete(&streams[0]);
    let checks = gate.last_record()["checks"].clone();
    let names: Vec<_> = checks.as_array().unwrap().iter().map(|check| check["check"].as_str().unwrap()).collect();
    assert_eq!(names, ["Route", "ClientLimit", "Authentication", "Trial", "Budget"]);
    let stream = from(&mut gate, "192.0.2.1:1", &validate);
    assert_eq!(gate.reply(&stream).unwrap().status, 429);
}

#[test]
fn an_address_that_cannot_be_told_is_limited_too() {
    let mut gate = Gate::new("CP");
    for _ in 0..15 {
        assert_eq!(from(&mut gate, "/run/envoy.sock", &login()).step, Step::Forward);
        assert_eq!(gate.begin(&login()).step, Step::Forward);
    }
    assert_eq!(gate.refused(&login()).status, 429);
}
