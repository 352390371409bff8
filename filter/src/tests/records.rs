//! The queue of records: bounded, in sequence, given up only when stored.

use super::gate::{Gate, Request, records};
use super::host::Call;
use super::tokens;
use crate::counters::name;
use crate::records::RecordQueue;
use std::borrow::Cow;
use std::time::Duration;
use wire::audit::{AuditRecord, Decision, Phase, Stage, Upgrade};
use wire::policy::Gateway;
use wire::sync::RecordBatch;

fn record(reason: &str) -> AuditRecord<'_> {
    AuditRecord {
        phase: Phase::Outcome,
        at_us: 1,
        gateway: Gateway::Cp,
        stage: Stage::Filter,
        method: None,
        path: None,
        upgrade: Upgrade::None,
        query: Vec::new(),
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        sampled_of: 1,
        route: None,
        action: None,
        user: None,
        correlation_id: Cow::Borrowed("c"),
        causation_id: None,
        request_id: [0; 16],
        decision: Decision::Deny,
        reason: Cow::Borrowed(reason),
        rule: None,
        shadow: None,
        checks: vec![],
        activation: 0,
        revision: 0,
        key_set: 0,
        revocation: 0,
        charges: vec![],
        cost: None,
        usage: None,
        approval_id: None,
        sandbox: false,
        status: None,
        details: None,
        total_us: 0,
        upstream_us: None,
        ours_us: None,
    }
}

#[test]
fn a_batch_is_the_same_until_it_is_stored() {
    let mut queue = RecordQueue::default();
    assert!(queue.is_empty() && queue.next_batch().is_none());
    queue.push(&record("one"));
    queue.push(&record("two"));
    let first = queue.next_batch().unwrap();
    assert_eq!((first.first_sequence, first.count), (1, 2));
    queue.push(&record("three"));
    assert_eq!(queue.next_batch(), Some(first.clone()));
    // Another batch's acknowledgement, or a late one, stores nothing.
    queue.stored(3);
    assert_eq!((queue.next_batch(), queue.len()), (Some(first), 3));
    queue.stored(1);
    let second = queue.next_batch().unwrap();
    assert_eq!((second.first_sequence, second.count, &records(&second)[0]["reason"]), (3, 1, &"three".into()));
    queue.stored(1);
    assert_eq!(queue.len(), 1);
    queue.stored(3);
    assert!(queue.is_empty() && !queue.is_urgent());
}

#[test]
fn the_oldest_records_are_dropped_when_too_many_wait_and_the_gap_shows() {
    let mut queue = RecordQueue::default();
    let long = "r".repeat(60_000);
    let first = {
        queue.push(&record("first"));
        queue.next_batch().unwrap()
    };
    let (mut pushed, mut dropped) = (1_u64, 0);
    for _ in 0..900 {
        dropped += u64::from(queue.push(&record(&long)));
        pushed += 1;
    }
    assert!(dropped > 0);
    assert_eq!(queue.len(), pushed - dropped);
    // What may be on its way is not dropped under the control plane's eyes.
    assert_eq!(queue.next_batch(), Some(first));
    let (mut sequence, mut missing, mut bytes) = (1, 0, 0);
    while let Some(batch) = queue.next_batch() {
        assert!(batch.first_sequence >= sequence);
        missing += batch.first_sequence - sequence;
        sequence = batch.first_sequence + u64::from(batch.count);
        bytes += batch.bytes.len();
        queue.stored(batch.first_sequence);
    }
    assert_eq!((missing, sequence), (dropped, pushed + 1));
    assert!(bytes <= 40 * 1_024 * 1_024, "{bytes}");
}

#[test]
fn a_new_holder_numbers_what_waits_from_one() {
    let mut queue = RecordQueue::default();
    for _ in 0..3 {
        queue.push(&record("a"));
    }
    let first = queue.next_batch().unwrap();
    queue.stored(first.first_sequence);
    queue.push(&record("b"));
    let second = queue.next_batch().unwrap();
    queue.push(&record("c"));
    assert_eq!(second.first_sequence, 4);
    queue.renumber();
    let renumbered = queue.next_batch().unwrap();
    assert_eq!((renumbered.first_sequence, &renumbered.bytes), (1, &second.bytes));
    queue.stored(1);
    assert_eq!(queue.next_batch().unwrap().first_sequence, 2);
}

#[test]
fn what_was_dropped_is_a_hole_in_the_numbers_of_a_new_holder_too() {
    let mut queue = RecordQueue::default();
    let long = "x".repeat(64 * 1_024);
    let (mut pushed, mut dropped) = (0_u64, 0_u64);
    while dropped == 0 {
        pushed += 1;
        dropped += u64::from(queue.push(&record(&long)));
    }
    // The answer for the first was lost: the refusal tells that it is stored.
    let first = queue.next_batch().unwrap();
    queue.stored_up_to(u64::from(first.count));
    queue.renumber();
    let next = queue.next_batch().unwrap();
    assert_eq!(next.first_sequence, dropped + 1, "the new holder's first batch tells what is missing");
    let left = pushed - u64::from(first.count) - dropped;
    let mut sequence = next.first_sequence;
    while let Some(batch) = queue.next_batch() {
        assert_eq!(batch.first_sequence, sequence);
        sequence += u64::from(batch.count);
        queue.stored(batch.first_sequence);
    }
    assert_eq!(sequence, dropped + left + 1);
}

/// The next sync call, whenever it comes, with its records.
fn sent(gate: &Gate) -> (Call, Option<RecordBatch>) {
    loop {
        if let Some((call, request)) = gate.sync_call() {
            return (call, request.records);
        }
    }
}

#[test]
fn what_a_closed_holder_has_stored_is_not_sent_by_the_new_one() {
    let mut gate = Gate::new("PLANT");
    let refused = gate.send(&Request::new("GET", "/none"));
    gate.finish(&refused);
    let (call, first) = sent(&gate);
    assert_eq!(first.as_ref().map(|batch| (batch.first_sequence, batch.count)), Some((1, 1)));
    // It was stored, the answer was lost, and the holder was closed.
    gate.answer(&call, &[(":status", b"504")], vec![]);
    let refused = gate.send(&Request::new("GET", "/none"));
    gate.finish(&refused);
    let (call, _) = sent(&gate);
    gate.answer(&call, &[(":status", b"410"), ("x-records-stored", b"1")], vec![]);
    let (_, next) = sent(&gate);
    let next = next.unwrap();
    assert_eq!((next.first_sequence, next.count), (1, 1));
    assert_ne!(Some(next.bytes), first.map(|batch| batch.bytes), "it is another record");
}

#[test]
fn records_are_sent_again_until_they_are_stored_and_only_then_forgotten() {
    let mut gate = Gate::new("PLANT");
    let refused = gate.send(&Request::new("GET", "/none"));
    gate.finish(&refused);
    let (call, first) = sent(&gate);
    gate.answer(&call, &[(":status", b"503")], vec![]);
    let (call, second) = sent(&gate);
    assert_eq!((first.as_ref().unwrap().count, &first), (1, &second));
    let mut answer = super::gate::grant_all(&wire::frame::decode(&call.body).unwrap());
    answer.records_stored = None;
    gate.answer_sync(&call, &answer);
    let (call, third) = sent(&gate);
    assert_eq!(first, third);
    gate.answer_sync(&call, &super::gate::grant_all(&wire::frame::decode(&call.body).unwrap()));
    assert!(gate.vm.borrow().records.is_empty());
}

#[test]
fn dropped_records_are_counted() {
    let mut gate = Gate::new("PLANT");
    let path = format!("/{}", "a".repeat(1_000));
    for _ in 0..40_000 {
        let stream = gate.send(&Request::new("GET", &path));
        gate.finish(&stream);
        if gate.host.metric(name::RECORDS_DROPPED) > 0 {
            return;
        }
    }
    unreachable!("nothing was dropped");
}

#[test]
fn a_record_never_holds_what_a_client_keeps_secret() {
    let mut gate = Gate::new("CP");
    let token = tokens::on_trial(60);
    let request = Request::new("GET", "/api/v1/tasks?access_token=query-secret").bearer(&token).with("cookie", "cookie-secret");
    gate.warm(&request);
    let stream = gate.begin(&request);
    gate.complete(&stream);
    let batch = gate.vm.borrow_mut().records.next_batch().unwrap();
    let text = String::from_utf8_lossy(&batch.bytes).into_owned();
    for secret in [&*token, "query-secret", "cookie-secret", "Bearer"] {
        assert!(!text.contains(secret), "{secret}");
    }
    assert!(text.contains("/api/v1/tasks") && text.contains("user-1"));
    gate.run(Duration::from_millis(20));
    assert!(gate.host.logs.borrow().iter().all(|(_, line)| !line.contains(&token)));
}
