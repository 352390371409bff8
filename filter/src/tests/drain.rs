//! An Envoy that is about to stop: every worker hears of it, gives back, delivers, and says what is left until that is nothing.

use super::gate::{Gate, Request, grant_all, page};
use super::host::{Call, SharedData};
use super::tokens;
use crate::pipeline::Step;
use std::rc::Rc;
use std::time::Duration;
use wire::drain::{DRAINING_HEADER, LEFT_HEADER, Left};
use wire::revocation::RevocationPage;
use wire::sync::SyncRequest;

const REVOCATIONS: &str = "/data-plane/v1/revocations";
const NOTHING: &str = "0 0 0";

fn read() -> Request {
    Request::new("GET", "/api/v1/tasks").bearer(&tokens::admin())
}

/// Answers a sync call as a control plane that knows that the Envoy is about to stop.
fn answer(gate: &Gate, call: &Call, request: &SyncRequest) {
    let body = wire::frame::encode(&grant_all(request)).unwrap();
    gate.answer(call, &[(":status", b"200"), (DRAINING_HEADER, b"10000")], body);
}

/// Every call of the next moments, answered; what each said is left.
fn calls(gate: &Gate, span: Duration) -> Vec<(Option<String>, SyncRequest)> {
    let until = gate.host.now.get().plus(span);
    let mut made = Vec::new();
    while gate.host.now.get() < until {
        if let Some((call, request)) = gate.sync_call() {
            answer(gate, &call, &request);
            made.push((call.header(LEFT_HEADER), request));
        }
    }
    made
}

/// A worker with leases, unused units in them, and nothing to tell.
fn leased() -> Gate {
    let mut gate = Gate::new("PLANT");
    gate.warm(&read());
    gate.run(Duration::from_secs(1));
    while let Some((call, request)) = gate.sync_call() {
        gate.answer_sync(&call, &grant_all(&request));
    }
    assert!(gate.vm.borrow().leases.left().1.get() > 0);
    gate
}

/// The worker's next sync call is answered so.
fn hears(gate: &Gate) {
    let (call, request) = (0..100).find_map(|_| gate.sync_call()).unwrap();
    assert_eq!(call.header(LEFT_HEADER), None, "nobody has told it");
    answer(gate, &call, &request);
}

#[test]
fn leases_are_given_back_and_that_is_said_at_once() {
    let gate = leased();
    hears(&gate);
    let made = calls(&gate, Duration::from_millis(300));
    let left: Vec<Left> = made.iter().map(|(left, _)| left.as_deref().unwrap().parse().unwrap()).collect();
    assert!(left[0].leases > 0 && left[0].units > 0, "{left:?}: what was before the call");
    assert!(made[0].1.accounts.iter().all(|report| report.close && report.target == report.used), "{:?}", made[0].1);
    assert!(left[1].is_nothing(), "{left:?}");
    assert!(!gate.vm.borrow().leases.holds_leases());
    // It is said again now and then, and not all the time.
    let made = calls(&gate, Duration::from_secs(4));
    assert!((3..=5).contains(&made.len()), "{}", made.len());
    assert!(made.iter().all(|(left, request)| left.as_deref() == Some(NOTHING) && request.accounts.is_empty()));
}

#[test]
fn without_being_told_a_worker_keeps_its_leases() {
    let gate = leased();
    for _ in 0..200 {
        if let Some((call, request)) = gate.sync_call() {
            assert_eq!(call.header(LEFT_HEADER), None);
            assert!(request.accounts.iter().all(|report| !report.close));
            gate.answer_sync(&call, &grant_all(&request));
        }
    }
    assert!(gate.vm.borrow().leases.left().1.get() > 0);
}

#[test]
fn a_request_under_way_keeps_what_it_has_reserved_and_a_new_one_gets_what_it_needs() {
    let mut gate = leased();
    let open = gate.send(&read());
    assert_eq!(open.step, Step::Forward);
    hears(&gate);
    calls(&gate, Duration::from_millis(300));
    let (left, request) = calls(&gate, Duration::from_millis(300)).pop().unwrap();
    let left: Left = left.unwrap().parse().unwrap();
    assert!(left.leases > 0, "{left:?}: the request holds units");
    assert_eq!(left.units, 0);
    assert!(request.accounts.iter().all(|report| !report.close));

    let late = gate.send(&read());
    assert_eq!(late.step, Step::Held);
    let (call, request) = gate.sync_call().unwrap();
    assert!(request.accounts.iter().all(|report| report.target == report.minimum), "{request:?}: no more than is waited for");
    answer(&gate, &call, &request);
    assert!(gate.forwarded(&late).is_some());

    gate.complete(&open);
    gate.complete(&late);
    let (left, _) = calls(&gate, Duration::from_secs(1)).pop().unwrap();
    assert_eq!(left.as_deref(), Some(NOTHING), "also of records");
    gate.assert_nothing_is_left();
}

#[test]
fn records_that_are_not_stored_are_left() {
    let mut gate = leased();
    hears(&gate);
    calls(&gate, Duration::from_secs(1));
    let refused = gate.send(&Request::new("GET", "/api/v1/tasks"));
    assert_eq!(refused.step, Step::Answered);
    gate.finish(&refused);
    let said = |(left, _): (Option<String>, SyncRequest)| left.unwrap();
    let made: Vec<String> = calls(&gate, Duration::from_millis(400)).into_iter().map(said).collect();
    assert_eq!((made[0].as_str(), made.last().map(String::as_str)), ("0 0 1", Some(NOTHING)), "{made:?}");
}

/// Two workers of one Envoy, with a bundle and what is revoked; the first waits for news.
fn pair() -> ([Gate; 2], Call) {
    let shared = SharedData::default();
    let gates = [(); 2].map(|()| {
        let gate = Gate::cold("PLANT", Rc::clone(&shared));
        gate.activate(1);
        gate
    });
    for gate in &gates {
        gate.run(Duration::from_millis(40));
        gate.serve_revocations(&RevocationPage { through: 5, ..page(true, 0, &[]) });
    }
    gates.iter().for_each(|gate| gate.run(Duration::from_millis(600)));
    let call = gates[0].take_call(REVOCATIONS).unwrap();
    (gates, call)
}

#[test]
fn an_idle_worker_hears_of_it_from_the_one_that_polls() {
    let ([mut one, mut other], poll) = pair();
    for gate in [&mut one, &mut other] {
        gate.warm(&read());
        // Idle for so long that its leases are given back, and nothing is to be told.
        for _ in 0..700 {
            if let Some((call, request)) = gate.sync_call() {
                gate.answer_sync(&call, &grant_all(&request));
            }
        }
        assert!(!gate.vm.borrow().leases.holds_leases());
    }
    assert_eq!(poll.header(DRAINING_HEADER), None);
    let nothing_new = RevocationPage { through: 5, ..page(false, 5, &[]) };
    let body = wire::frame::encode(&nothing_new).unwrap();
    one.answer(&poll, &[(":status", b"200"), (DRAINING_HEADER, b"10000")], body);
    other.host.now.set(one.host.now.get());
    let (call, _) = (0..8).find_map(|_| other.sync_call()).unwrap();
    assert_eq!(call.header(LEFT_HEADER).as_deref(), Some(NOTHING), "within 160 ms");
    one.run(Duration::from_millis(100));
    let next = one.take_call(REVOCATIONS).unwrap();
    assert_eq!(next.header(DRAINING_HEADER).as_deref(), Some("known"), "so that it is held");
    assert!(next.header(":path").unwrap().ends_with("wait_s=3"), "and not for longer than the drain lasts");
}

#[test]
fn a_drain_that_nobody_renews_is_over_and_leases_are_kept_again() {
    let mut gate = leased();
    hears(&gate);
    // The last answer to say so.
    calls(&gate, Duration::from_millis(300));
    for _ in 0..600 {
        if let Some((call, request)) = gate.sync_call() {
            gate.answer_sync(&call, &grant_all(&request));
        }
    }
    assert!(!gate.vm.borrow().drain.is_on());
    gate.warm(&read());
    assert!(gate.vm.borrow().leases.left().1.get() > 0);
}

#[test]
fn what_is_no_number_of_milliseconds_is_not_taken_for_a_drain() {
    for odd in ["", "soon", "-1", "1.5"] {
        let gate = leased();
        let (call, request) = (0..100).find_map(|_| gate.sync_call()).unwrap();
        let body = wire::frame::encode(&grant_all(&request)).unwrap();
        gate.answer(&call, &[(":status", b"200"), (DRAINING_HEADER, odd.as_bytes())], body);
        assert!(!gate.vm.borrow().drain.is_on(), "{odd}");
    }
}
