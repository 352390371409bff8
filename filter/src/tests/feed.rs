//! Bundles: one machine polls, all take the same, a bad one changes nothing.

use super::gate::{Gate, document, image, version};
use super::host::{Call, SharedData};
use crate::counters::name;
use crate::vm::Active;
use std::rc::Rc;
use std::time::Duration;

/// Borrowed, as the filter gets them.
type Headers<'h> = &'h [(&'h str, &'h [u8])];

const POLL: &str = "/data-plane/v1/bundle";

fn pair() -> (Gate, Gate) {
    let shared = SharedData::default();
    (Gate::cold("PLANT", Rc::clone(&shared)), Gate::cold("PLANT", shared))
}

fn activation(gate: &Gate) -> Option<u64> {
    gate.vm.borrow().active.as_ref().map(|active: &Rc<Active>| active.version.activation)
}

/// Ticks until the machine polls.
fn poll(gate: &Gate) -> Call {
    for _ in 0..600 {
        gate.run(Duration::from_millis(20));
        if let Some(call) = gate.take_call(POLL) {
            return call;
        }
    }
    unreachable!("it does not poll");
}

fn serve(gate: &Gate, call: &Call, activation: u64) {
    gate.answer(call, &[(":status", b"200"), ("etag", format!("\"{activation}\"").as_bytes())], image(&document(), version(activation)));
}

fn together(one: &Gate, other: &Gate, span: Duration) {
    let end = one.host.now.get().plus(span);
    while one.host.now.get() < end {
        one.run(Duration::from_millis(20));
        other.run(Duration::from_millis(20));
    }
}

#[test]
fn one_of_two_machines_polls_and_both_get_the_bundle() {
    let (one, other) = pair();
    together(&one, &other, Duration::from_secs(2));
    let call = one.take_call(POLL).unwrap();
    assert!(other.take_call(POLL).is_none());
    assert_eq!((&*call.cluster, call.header("if-none-match")), ("control_plane_poll", None));
    serve(&one, &call, 5);
    assert_eq!((activation(&one), activation(&other)), (Some(5), None));
    other.run(Duration::from_millis(20));
    assert_eq!(activation(&other), Some(5));
    // The next poll names what it has; the next bundle takes the other place.
    let call = poll(&one);
    assert_eq!(call.header("if-none-match").as_deref(), Some("\"5\""));
    serve(&one, &call, 6);
    other.run(Duration::from_millis(20));
    assert_eq!(activation(&other), Some(6));
    let images = one.host.shared.borrow().keys().filter(|key| key.starts_with("plant_gateway.bundle.")).count();
    assert_eq!(images, 2);
}

#[test]
fn another_machine_takes_over_when_the_one_that_polls_is_gone() {
    let (one, other) = pair();
    together(&one, &other, Duration::from_secs(1));
    let call = one.take_call(POLL).unwrap();
    serve(&one, &call, 5);
    // The first is gone, and says nothing more.
    other.run(Duration::from_millis(2_400));
    assert!(other.take_call(POLL).is_none());
    other.run(Duration::from_millis(1_600));
    let call = other.take_call(POLL).unwrap();
    serve(&other, &call, 5);
    assert_eq!((activation(&other), other.host.metric(name::BUNDLE_REFUSED)), (Some(5), 0));
    serve(&other, &poll(&other), 6);
    one.host.now.set(other.host.now.get());
    one.run(Duration::from_millis(20));
    assert_eq!(activation(&one), Some(6));
}

#[test]
fn an_unchanged_bundle_is_polled_for_again_at_once() {
    let gate = Gate::cold("PLANT", SharedData::default());
    serve(&gate, &poll(&gate), 1);
    let call = poll(&gate);
    gate.answer(&call, &[(":status", b"304")], vec![]);
    gate.run(Duration::from_millis(40));
    assert_eq!(gate.take_call(POLL).unwrap().header("if-none-match").as_deref(), Some("\"1\""));
    assert_eq!(gate.vm.borrow().feed.standing(&gate.host).text(), "connected");
}

#[test]
fn a_poll_that_fails_keeps_the_bundle_and_is_repeated_with_patience() {
    let gate = Gate::cold("PLANT", SharedData::default());
    serve(&gate, &poll(&gate), 1);
    let answers: [(Headers<'_>, &str); 4] = [
        (&[(":status", b"401")], "unauthorized: check the data-plane token"),
        (&[(":status", b"403")], "unauthorized: check the data-plane token"),
        (&[(":status", b"503")], "unreachable"),
        (&[], "unreachable"),
    ];
    let mut waited = Vec::new();
    for (headers, standing) in answers.into_iter().cycle().take(8) {
        let call = poll(&gate);
        let before = gate.host.now.get();
        gate.answer(&call, headers, b"no healthy upstream".to_vec());
        assert_eq!((gate.vm.borrow().feed.standing(&gate.host).text(), activation(&gate)), (standing, Some(1)));
        let next = poll(&gate);
        waited.push(gate.host.now.get().since(before));
        gate.answer(&next, headers, vec![]);
    }
    assert!(waited.iter().all(|span| *span <= Duration::from_millis(5_040)), "{waited:?}");
    assert!(waited.iter().skip(4).all(|span| *span >= Duration::from_millis(2_000)), "{waited:?}");
    assert_eq!(gate.host.metric(name::BUNDLE_POLL_FAILURES), 16);
    let warnings = gate.host.logs.borrow().iter().filter(|(_, line)| line.contains("retrying")).count();
    assert_eq!(warnings, 1);
    serve(&gate, &poll(&gate), 2);
    assert_eq!(activation(&gate), Some(2));
}

#[test]
fn an_older_activation_is_not_taken_and_a_rollback_is() {
    let gate = Gate::cold("PLANT", SharedData::default());
    serve(&gate, &poll(&gate), 5);
    serve(&gate, &poll(&gate), 4);
    assert_eq!((activation(&gate), gate.host.metric(name::BUNDLE_REFUSED)), (Some(5), 0));
    // A rollback is a new activation of an old revision.
    let mut rollback = version(6);
    rollback.revision = 1;
    gate.answer(&poll(&gate), &[(":status", b"200"), ("etag", b"\"6\"")], image(&document(), rollback));
    assert_eq!(activation(&gate), Some(6));
    // Another database counts anew.
    let mut other = version(1);
    other.database_id = [9; 16];
    gate.answer(&poll(&gate), &[(":status", b"200"), ("etag", b"\"1\"")], image(&document(), other));
    assert_eq!(activation(&gate), Some(1));
}

#[test]
fn a_damaged_bundle_is_refused_whole_and_never_shared() {
    let (one, other) = pair();
    serve(&one, &poll(&one), 1);
    other.run(Duration::from_millis(20));
    let good = image(&document(), version(2));
    let mut broken_policy = document();
    broken_policy.routes[0].path = "//".into();
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let damaged = [flipped, good[..good.len() - 1].to_vec(), Vec::new(), b"<html>".to_vec(), image(&broken_policy, version(3))];
    for (index, image) in damaged.into_iter().enumerate() {
        let call = poll(&one);
        assert_eq!(call.header("if-none-match").as_deref(), Some("\"1\""), "what was refused is not what it has");
        one.answer(&call, &[(":status", b"200"), ("etag", b"\"2\"")], image);
        other.run(Duration::from_millis(20));
        assert_eq!((activation(&one), activation(&other)), (Some(1), Some(1)));
        assert_eq!(one.host.metric(name::BUNDLE_REFUSED), i64::try_from(index).unwrap() + 1);
        assert_eq!(one.vm.borrow().feed.standing(&one.host).text(), "bundle refused: see the log");
    }
    assert!(one.host.logs.borrow().iter().any(|(_, line)| line.contains("the path `//` is not a template")));
    assert_eq!(other.host.metric(name::BUNDLE_REFUSED), 0);
    serve(&one, &poll(&one), 4);
    other.run(Duration::from_millis(20));
    assert_eq!((activation(&one), activation(&other)), (Some(4), Some(4)));
}

#[test]
fn damaged_shared_data_is_refused_and_the_bundle_in_force_stays() {
    let (one, other) = pair();
    serve(&one, &poll(&one), 1);
    other.run(Duration::from_millis(20));
    serve(&one, &poll(&one), 2);
    for (_, (value, _)) in one.host.shared.borrow_mut().iter_mut().filter(|(key, _)| key.contains("bundle")) {
        value.truncate(10);
    }
    other.run(Duration::from_millis(40));
    assert_eq!((activation(&other), other.host.metric(name::BUNDLE_REFUSED)), (Some(1), 1));
    serve(&one, &poll(&one), 3);
    other.run(Duration::from_millis(20));
    assert_eq!(activation(&other), Some(3));
}

#[test]
fn a_new_bundle_forgets_verified_tokens_and_keeps_leases() {
    let mut gate = Gate::new("PLANT");
    let request = super::gate::Request::new("GET", "/api/v1/tasks").bearer(&super::tokens::admin());
    gate.warm(&request);
    assert_eq!(gate.vm.borrow().tokens.len(), 1);
    let mut revoked = document();
    revoked.issuers.retain(|issuer| issuer.name != "legacy");
    let held = gate.begin(&request);
    gate.vm.borrow_mut().activate(&gate.host, &image(&revoked, version(2))).unwrap();
    assert!(gate.vm.borrow().tokens.is_empty());
    assert_eq!(gate.refused(&request).status, 401);
    // The one under way ends under the rules that it began with.
    gate.complete(&held);
    let record = gate.last_record();
    assert_eq!((&record["activation"], &record["charges"][0]["amount"]), (&serde_json::json!(1), &serde_json::json!(1_000)));
}
