//! The sync call as the filter makes it: when, what is repeated, which answers count.

use super::gate::{Gate, Request, Stream, grant_all};
use super::host::Call;
use super::tokens;
use crate::counters::name;
use crate::pipeline::Step;
use decision_core::time::Timestamp;
use std::time::Duration;
use wire::sync::{AccountRecall, SyncAnswer, SyncRequest};

fn read() -> Request {
    Request::new("GET", "/api/v1/tasks").bearer(&tokens::admin())
}

fn decoded(call: &Call) -> SyncRequest {
    wire::frame::decode(&call.body).unwrap()
}

/// The next sync call, if one is made in so long.
fn call_within(gate: &Gate, patience: Duration) -> Option<(Call, SyncRequest)> {
    let until = gate.host.now.get().plus(patience);
    while gate.host.now.get() < until {
        if let Some(call) = gate.sync_call() {
            return Some(call);
        }
    }
    None
}

/// The next sync call, and when it was made.
fn next_call(gate: &Gate) -> (Call, Timestamp) {
    for _ in 0..500 {
        if let Some((call, _)) = gate.sync_call() {
            return (call, gate.host.now.get());
        }
    }
    unreachable!("no call in ten seconds");
}

fn held(gate: &mut Gate) -> Stream {
    let stream = gate.begin(&read());
    assert_eq!(stream.step, Step::Held);
    stream
}

#[test]
fn a_machine_without_requests_calls_nobody() {
    let gate = Gate::new("PLANT");
    gate.run(Duration::from_secs(5));
    assert!(gate.take_call("/data-plane/v1/sync").is_none());
    assert!(gate.vm.borrow().holder.is_none());
}

#[test]
fn a_call_says_who_calls_and_where_to() {
    let mut gate = Gate::new("PLANT");
    held(&mut gate);
    let (call, request) = gate.sync_call().unwrap();
    let header = |name: &str| call.header(name).unwrap();
    assert_eq!((&*call.cluster, &*header(":method"), &*header("content-type")), ("control_plane", "POST", wire::frame::MEDIA_TYPE_SYNC));
    assert!(header("authorization").starts_with("Bearer "));
    assert!(call.timeout < Duration::from_secs(3));
    assert_eq!((request.call, request.activation, Some(request.holder)), (1, 1, gate.vm.borrow().holder));
}

#[test]
fn one_call_is_in_flight_at_a_time_and_each_has_the_next_number() {
    let mut gate = Gate::new("PLANT");
    held(&mut gate);
    let (call, request) = gate.sync_call().unwrap();
    held(&mut gate);
    gate.run(Duration::from_secs(2));
    assert!(gate.take_call("/data-plane/v1/sync").is_none());
    gate.answer_sync(&call, &grant_all(&request));
    let (call, _) = next_call(&gate);
    assert_eq!(decoded(&call).call, 2);
}

#[test]
fn a_holder_with_leases_calls_every_second_at_least() {
    let mut gate = Gate::new("PLANT");
    let stream = held(&mut gate);
    gate.sync(|_, _| {});
    let mut last = gate.host.now.get();
    for _ in 0..5 {
        let (call, at) = next_call(&gate);
        assert!(at.since(last) <= Duration::from_secs(1), "{:?}", at.since(last));
        last = at;
        gate.answer_sync(&call, &grant_all(&decoded(&call)));
    }
    gate.finish(&stream);
}

/// A holder that has delivered everything, and of which only the heartbeat is left.
fn idle() -> Gate {
    let mut gate = Gate::new("PLANT");
    let stream = held(&mut gate);
    gate.sync(|_, _| {});
    gate.finish(&stream);
    while let Some((call, _)) = call_within(&gate, Duration::from_secs(15)) {
        gate.answer_sync(&call, &grant_all(&decoded(&call)));
    }
    gate
}

#[test]
fn an_idle_holder_tells_within_a_second_that_it_enforces_a_revocation() {
    let gate = idle();
    gate.revoke(&[(authn::Mark([7; 16]), 0)]);
    let (_, request) = call_within(&gate, Duration::from_secs(1)).expect("it calls");
    assert_eq!(request.revocation, gate.vm.borrow().revoked.number());
}

#[test]
fn an_idle_holder_tells_within_a_second_that_it_enforces_an_activation() {
    let gate = idle();
    gate.activate(2);
    let (call, request) = call_within(&gate, Duration::from_secs(1)).expect("it calls");
    assert_eq!(request.activation, 2);
    gate.answer_sync(&call, &grant_all(&request));
    assert!(call_within(&gate, Duration::from_secs(10)).is_none(), "it was heard, and is idle again");
}

#[test]
fn what_was_not_heard_is_told_again() {
    let gate = idle();
    gate.activate(2);
    let (call, _) = call_within(&gate, Duration::from_secs(1)).expect("it calls");
    gate.answer(&call, &[(":status", b"503")], vec![]);
    let (call, request) = call_within(&gate, Duration::from_secs(2)).expect("it calls again");
    assert_eq!((request.call, request.activation), (decoded(&call).call, 2));
}

/// A switch while a call is under way is not what that call told.
#[test]
fn an_activation_during_a_call_is_told_by_the_next_one() {
    let gate = idle();
    gate.activate(2);
    let (call, request) = call_within(&gate, Duration::from_secs(1)).expect("it calls");
    gate.activate(3);
    gate.answer_sync(&call, &grant_all(&request));
    let (_, request) = call_within(&gate, Duration::from_secs(1)).expect("it calls again");
    assert_eq!(request.activation, 3);
}

/// After an outage of more than a minute: a worker that serves must not be missing where workers are counted.
#[test]
fn an_idle_holder_that_was_closed_makes_its_successor_known() {
    let gate = idle();
    let old = gate.vm.borrow().holder;
    gate.activate(2);
    let (call, _) = call_within(&gate, Duration::from_secs(1)).expect("it calls");
    gate.answer(&call, &[(":status", b"410")], vec![]);
    let (_, request) = call_within(&gate, Duration::from_secs(1)).expect("the new one calls");
    assert_eq!((request.call, request.activation), (1, 2));
    assert_ne!(Some(request.holder), old);
}

#[test]
fn failed_calls_back_off_and_repeat_what_was_not_answered() {
    let mut gate = Gate::new("PLANT");
    let stream = held(&mut gate);
    let (mut call, mut at) = next_call(&gate);
    let first = decoded(&call);
    let mut gaps = Vec::new();
    for round in 0..8_u64 {
        if round % 2 == 0 {
            gate.answer(&call, &[(":status", b"503")], b"no healthy upstream".to_vec())
        } else {
            gate.answer(&call, &[], vec![])
        }
        let (next, made) = next_call(&gate);
        gaps.push(made.since(at));
        (call, at) = (next, made);
        assert_eq!(decoded(&call).call, 2 + round, "a failed call's number is not used again");
    }
    assert!(gaps[7] > gaps[0] && gaps[7] >= Duration::from_millis(1_000), "{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap <= Duration::from_millis(2_040)), "{gaps:?}");
    let budgets =
        |request: &SyncRequest| request.accounts.iter().map(|account| (account.budget.clone(), account.generation)).collect::<Vec<_>>();
    assert_eq!(budgets(&first), budgets(&decoded(&call)));
    assert_eq!(gate.host.metric(name::SYNC_FAILURES), 8);
    let lines = gate.host.logs.borrow().iter().filter(|(_, line)| line.contains("sync call")).count();
    assert_eq!(lines, 1, "an outage is one line, not one per call");
    gate.finish(&stream);
}

#[test]
fn an_unreachable_cluster_backs_off_too() {
    let mut gate = Gate::new("PLANT");
    gate.host.unreachable.borrow_mut().push("control_plane".into());
    held(&mut gate);
    gate.run(Duration::from_secs(5));
    let failures = gate.host.metric(name::SYNC_FAILURES);
    assert!((3..15).contains(&failures), "{failures}");
    gate.host.unreachable.borrow_mut().clear();
    next_call(&gate);
}

#[test]
fn an_answer_that_is_not_to_this_call_is_not_taken() {
    let mut gate = Gate::new("PLANT");
    let stream = held(&mut gate);
    let (call, request) = gate.sync_call().unwrap();
    let mut answer = grant_all(&request);
    answer.call += 1;
    gate.answer_sync(&call, &answer);
    assert!(gate.forwarded(&stream).is_none());
    let (second, _) = next_call(&gate);
    // A late answer to a call that is no longer waited for.
    gate.answer_sync(&call, &grant_all(&request));
    assert!(gate.forwarded(&stream).is_none());
    gate.answer(&second, &[(":status", b"200")], b"<html>".to_vec());
    assert!(gate.forwarded(&stream).is_none() && gate.host.metric(name::SYNC_FAILURES) == 2);
}

#[test]
fn a_closed_holder_begins_anew_and_its_waiting_requests_with_it() {
    for status in ["403", "409", "410"] {
        let mut gate = Gate::new("PLANT");
        gate.warm(&read());
        let refused = gate.send(&Request::new("GET", "/none"));
        gate.finish(&refused);
        let forwarded = gate.begin(&read());
        let (call, _) = next_call(&gate);
        let old = decoded(&call);
        gate.answer(&call, &[(":status", status.as_bytes())], vec![]);
        assert_eq!(gate.host.metric(name::HOLDERS_CLOSED), 1);
        let waiting = held(&mut gate);
        let (call, at) = next_call(&gate);
        let new = decoded(&call);
        assert_ne!(new.holder, old.holder);
        assert_eq!((new.call, new.records.as_ref().map(|batch| batch.first_sequence)), (1, Some(1)));
        assert!(new.accounts.iter().all(|account| (account.used, account.held) == (0, 0)));
        assert!(new.accounts.iter().all(|account| old.accounts.iter().all(|known| known.generation < account.generation)));
        assert!(at.since(gate.host.now.get()) <= Duration::from_millis(200));
        gate.answer_sync(&call, &grant_all(&new));
        assert!(gate.forwarded(&waiting).is_some());
        // What was forfeited settles nothing in the new lease.
        gate.complete(&forwarded);
        let (call, _) = next_call(&gate);
        assert!(decoded(&call).accounts.iter().all(|account| account.used == 0));
    }
}

#[test]
fn a_recalled_lease_is_reported_at_once() {
    let mut gate = Gate::new("PLANT");
    let stream = held(&mut gate);
    gate.sync(|_, _| {});
    gate.complete(&stream);
    let (call, _) = next_call(&gate);
    let request = decoded(&call);
    let mut answer = grant_all(&request);
    let recalled = request.accounts.iter().find(|account| account.budget == "platform-monthly").unwrap();
    let (budget, scope) = (recalled.budget.clone(), recalled.scope.clone());
    answer.recalls = vec![AccountRecall { budget, scope, window_start: recalled.window_start }];
    gate.answer_sync(&call, &answer);
    let (_, next) = gate.sync_call().unwrap();
    let lowered = next.accounts.iter().find(|account| account.budget == "platform-monthly").unwrap();
    assert_eq!(lowered.target, lowered.used + lowered.held);
}

/// A listener's update deletes the root that made the calls, and their answers never come.
#[test]
fn a_new_owner_makes_the_calls_that_the_old_one_left_open() {
    let mut gate = Gate::new("PLANT");
    gate.run(Duration::from_millis(600));
    assert!(gate.take_call("/data-plane/v1/bundle").is_some());
    held(&mut gate);
    assert!(gate.sync_call().is_some());
    gate.vm.borrow_mut().disown();
    gate.run(Duration::from_millis(600));
    assert!(gate.take_call("/data-plane/v1/sync").is_some());
    assert!(gate.take_call("/data-plane/v1/bundle").is_some());
}

/// While other holders are asked to give back, or a store is away, a request that waits is no reason to call fifty times a second.
#[test]
fn a_request_that_waits_for_others_does_not_hammer_the_control_plane() {
    let nothing = |answer: &mut SyncAnswer| answer.accounts.iter_mut().for_each(|account| account.granted = 0);
    let one_short = |answer: &mut SyncAnswer| {
        answer.accounts.iter_mut().filter(|account| account.budget == "agent-daily").for_each(|account| account.granted = 0);
    };
    let one_absent = |answer: &mut SyncAnswer| answer.accounts.retain(|account| account.budget != "rate-paid-minute");
    for change in [&nothing as &dyn Fn(&mut SyncAnswer), &one_short, &one_absent] {
        let mut gate = Gate::new("PLANT");
        let stream = held(&mut gate);
        let mut calls = 0;
        for _ in 0..100 {
            let Some((call, request)) = gate.sync_call() else { continue };
            calls += 1;
            let mut answer = grant_all(&request);
            change(&mut answer);
            gate.answer_sync(&call, &answer);
        }
        // Two seconds.
        assert!(calls <= 25, "{calls}");
        // And it waits no longer than any other, however often it was answered.
        let end = gate.host.now.get();
        while gate.reply(&stream).is_none() && gate.forwarded(&stream).is_none() {
            if let Some((call, request)) = gate.sync_call() {
                gate.answer_sync(&call, &SyncAnswer { accounts: vec![], ..grant_all(&request) });
            }
            assert!(gate.host.now.get().since(end) <= Duration::from_millis(1_100));
        }
        gate.finish(&stream);
    }
}

/// Silence for a minute closes a holder, and writes a gap that would be none.
#[test]
fn an_idle_holder_calls_before_it_is_taken_for_dead() {
    let mut gate = Gate::new("PLANT");
    gate.warm(&Request::new("GET", "/api/v1/tasks").bearer(&tokens::admin()));
    let mut calls = Vec::new();
    for second in 0..100 {
        gate.run(Duration::from_secs(1));
        if let Some((call, request)) = gate.sync_call() {
            calls.push(second);
            gate.answer_sync(&call, &grant_all(&request));
        }
    }
    let idle: Vec<i32> = calls.into_iter().filter(|second| *second >= 40).collect();
    assert!((2..=4).contains(&idle.len()), "{idle:?}");
}
