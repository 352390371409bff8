//! Routes that require a record: nothing goes on before its intent is stored, and what does not go on leaves nothing behind.

use super::gate::{Gate, Request, Stream, grant_all, records};
use super::host::Call;
use super::tokens;
use crate::pipeline::Step;
use crate::vm::WAITING_MAX;
use decision_core::principal::RevocationKind;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use wire::policy::{AuditLevel, PolicyDocument};
use wire::sync::{ApprovalAnswer, ApprovalOutcome, RecordBatch, SyncRequest};

const TICK: Duration = Duration::from_millis(20);

fn require(document: &mut PolicyDocument, name: &str) {
    document.routes.iter_mut().find(|route| route.name == name).unwrap().audit = AuditLevel::Required;
}

fn list() -> Request {
    Request::new("GET", "/api/v1/tasks").bearer(&tokens::admin())
}

/// `tasks.list` requires a record, and there are leases.
fn gate() -> Gate {
    let mut gate = Gate::with("PLANT", |document| require(document, "tasks.list"));
    gate.warm(&Request::new("GET", "/api/v1/agents").bearer(&tokens::admin()));
    gate
}

/// The call that the bell brings about, without a tick.
fn pressed(gate: &Gate) -> (Call, SyncRequest, Vec<Value>) {
    gate.woken();
    let (call, request) = gate.taken_call().unwrap();
    let sent = request.records.as_ref().map(records).unwrap_or_default();
    (call, request, sent)
}

/// The next call, within a second.
fn next_call(gate: &Gate) -> (Call, SyncRequest) {
    (0..100).find_map(|_| gate.sync_call()).unwrap()
}

fn unavailable(gate: &Gate, stream: &Stream) {
    let reply = gate.reply(stream).unwrap();
    let problem = reply.problem();
    assert_eq!((reply.status, &problem["check"], reply.header("retry-after").as_deref()), (503, &json!("audit"), Some("1")));
    assert_eq!(problem["type"], json!("https://waooaw.com/errors/audit-unavailable"));
    assert!(gate.forwarded(stream).is_none());
}

#[test]
fn a_request_goes_on_when_its_intent_is_stored_and_not_before() {
    let mut gate = gate();
    let stream = gate.send(&list());
    assert_eq!(stream.step, Step::Held);
    let (call, request, sent) = pressed(&gate);
    assert_eq!(sent.len(), 1);
    let intent = &sent[0];
    assert_eq!((&intent["phase"], &intent["decision"], &intent["reason"]), (&json!("Intent"), &json!("Permit"), &json!("ok")));
    assert_eq!((&intent["status"], &intent["charges"], &intent["ours_us"]), (&json!(null), &json!([]), &json!(null)));
    assert_eq!((&intent["route"], &intent["user"]["subject"]), (&json!("tasks.list"), &json!("user-1")));
    assert!(intent["checks"].as_array().unwrap().iter().any(|check| check["check"] == "Budget"), "{intent}");
    assert!(gate.forwarded(&stream).is_none() && gate.held() > 0);
    gate.host.pass(Duration::from_millis(30));
    gate.answer_sync(&call, &grant_all(&request));
    assert!(gate.forwarded(&stream).is_some());
    gate.complete(&stream);
    let outcome = gate.last_record();
    assert_eq!((&outcome["phase"], &outcome["request_id"]), (&json!("Outcome"), &intent["request_id"]));
    assert_eq!((&outcome["status"], outcome["ours_us"].as_u64()), (&json!(200), Some(30_000)), "the wait is ours");
    assert_ne!(outcome["charges"], json!([]));
    assert_eq!(gate.host.metric("gateway.audit_intents_total"), 1);
    gate.assert_nothing_is_left();
}

#[test]
fn other_routes_wait_for_nothing() {
    let mut gate = gate();
    let stream = gate.send(&Request::new("GET", "/api/v1/agents").bearer(&tokens::admin()));
    assert_eq!(stream.step, Step::Forward);
}

#[test]
fn an_answer_that_stores_nothing_lets_nothing_on() {
    let mut gate = gate();
    let stream = gate.send(&list());
    let (mut call, mut request, _) = pressed(&gate);
    let begun = gate.host.now.get();
    let first = request.records.clone();
    let mut calls = 0;
    while gate.reply(&stream).is_none() {
        calls += 1;
        assert_eq!(request.records, first, "the same batch until it is stored");
        let mut answer = grant_all(&request);
        answer.records_stored = None;
        // So long a call takes.
        gate.host.pass(TICK);
        gate.answer_sync(&call, &answer);
        assert!(gate.host.now.get().since(begun) <= Duration::from_millis(3_100));
        (call, request) = gate.taken_call().unwrap_or_else(|| next_call(&gate));
    }
    // Who stores nothing is not asked again and again: after two such answers nobody waits for the next.
    assert!(calls <= 2, "{calls}");
    unavailable(&gate, &stream);
    gate.finish(&stream);
    assert_eq!(gate.held(), 0);
    gate.answer_sync(&call, &grant_all(&request));
    let record = gate.last_record();
    assert_eq!((&record["phase"], &record["reason"], &record["status"]), (&json!("Outcome"), &json!("audit_unavailable"), &json!(503)));
    assert_eq!(record["decision"], json!("Indeterminate"));
    gate.assert_nothing_is_left();
}

#[test]
fn an_intent_without_an_answer_in_time_is_given_up() {
    let mut gate = gate();
    let stream = gate.send(&list());
    let (call, request, _) = pressed(&gate);
    gate.run(Duration::from_millis(2_980));
    assert!(gate.reply(&stream).is_none());
    gate.run(Duration::from_millis(40));
    unavailable(&gate, &stream);
    // The answer comes after all: the request is not sent now.
    gate.answer_sync(&call, &grant_all(&request));
    assert!(gate.forwarded(&stream).is_none());
    gate.finish(&stream);
    assert_eq!(gate.held(), 0);
    gate.assert_nothing_is_left();
}

#[test]
fn a_batch_whose_answer_was_lost_is_sent_again() {
    let mut gate = gate();
    let stream = gate.send(&list());
    let (call, first, _) = pressed(&gate);
    gate.answer(&call, &[], vec![]);
    let (call, second) = next_call(&gate);
    assert_eq!(first.records, second.records);
    assert!(gate.forwarded(&stream).is_none());
    gate.answer_sync(&call, &grant_all(&second));
    assert!(gate.forwarded(&stream).is_some());
    gate.complete(&stream);
    gate.assert_nothing_is_left();
}

#[test]
fn nobody_waits_for_a_control_plane_that_is_away() {
    let mut gate = gate();
    let stream = gate.send(&list());
    let (call, ..) = pressed(&gate);
    gate.answer(&call, &[(":status", b"503")], vec![]);
    let (call, _) = next_call(&gate);
    gate.answer(&call, &[(":status", b"503")], vec![]);
    unavailable(&gate, &stream);
    gate.finish(&stream);
    assert_eq!(gate.held(), 0);
    let next = gate.send(&list());
    assert_eq!(next.step, Step::Answered);
    unavailable(&gate, &next);
    gate.finish(&next);
    assert_eq!((gate.held(), gate.host.metric("gateway.audit_intents_total")), (0, 1), "the second had none");
    let (call, request) = next_call(&gate);
    gate.answer_sync(&call, &grant_all(&request));
    assert_eq!(gate.send(&list()).step, Step::Held, "it is back");
}

#[test]
fn a_new_holder_delivers_the_intents_of_a_closed_one() {
    let mut gate = gate();
    let stream = gate.send(&list());
    let (call, first, _) = pressed(&gate);
    let first = first.records.unwrap();
    assert!(first.first_sequence > 1);
    gate.answer(&call, &[(":status", b"410")], vec![]);
    assert!(gate.forwarded(&stream).is_none());
    let (call, request) = next_call(&gate);
    let again = request.records.as_ref().unwrap();
    assert_eq!((again.first_sequence, &again.bytes), (1, &first.bytes));
    gate.answer_sync(&call, &grant_all(&request));
    assert!(gate.forwarded(&stream).is_some());
    gate.complete(&stream);
    gate.assert_nothing_is_left();
}

#[test]
fn an_intent_that_a_closed_holder_has_stored_counts() {
    let mut gate = gate();
    let stream = gate.send(&list());
    let (call, request, _) = pressed(&gate);
    let last = request.records.unwrap().first_sequence.to_string();
    gate.answer(&call, &[(":status", b"410"), ("x-records-stored", last.as_bytes())], vec![]);
    assert!(gate.forwarded(&stream).is_some());
    let (_, request) = next_call(&gate);
    assert_eq!(request.records, None, "it is not sent again");
    gate.complete(&stream);
}

#[test]
fn a_client_that_leaves_while_its_intent_waits_leaves_nothing_behind() {
    let mut gate = gate();
    for answered_later in [false, true] {
        let stream = gate.send(&list());
        let (call, request, _) = pressed(&gate);
        if answered_later {
            gate.finish(&stream);
            gate.answer_sync(&call, &grant_all(&request));
        } else {
            // Stored, and gone before the root could wake it.
            gate.host.streams.borrow_mut().remove(&stream.context);
            gate.answer_sync(&call, &grant_all(&request));
            gate.host.streams.borrow_mut().insert(stream.context, super::host::FakeStream::default());
            gate.finish(&stream);
        }
        assert_eq!(gate.held(), 0);
        let record = gate.last_record();
        assert_eq!((&record["phase"], &record["reason"], &record["decision"]), (&json!("Outcome"), &json!("client_left"), &json!("None")));
        assert!(gate.vm.borrow().records.awaits_nothing());
    }
    gate.assert_nothing_is_left();
}

#[test]
fn a_token_that_is_revoked_while_the_intent_waits_is_refused() {
    let mut gate = gate();
    let stream = gate.send(&list());
    let (call, request, _) = pressed(&gate);
    gate.revoke(&[(authn::Mark::of(RevocationKind::Customer, "legacy", "customer-1"), 0)]);
    gate.answer_sync(&call, &grant_all(&request));
    assert_eq!(gate.reply(&stream).unwrap().status, 401);
    gate.finish(&stream);
    assert_eq!((gate.held(), &gate.last_record()["reason"]), (0, &json!("customer_stopped")));
    gate.assert_nothing_is_left();
}

#[test]
fn an_approval_that_was_consumed_for_nothing_is_given_back() {
    let mut gate = Gate::with("PP", |document| require(document, "agents.create"));
    // Its leases; that request was never sent.
    let governor = tokens::token(json!({"governor_agent_id": "g-1"}));
    let first = gate.send(&Request::new("POST", "/api/v1/agents").bearer(&governor));
    gate.sync(|_, _| {});
    gate.finish(&first);
    while let Some((call, request)) = gate.sync_call() {
        gate.answer_sync(&call, &grant_all(&request));
    }
    let stream = gate.send(&Request::new("POST", "/api/v1/agents").bearer(&tokens::admin()).with("x-approval-id", "a-1"));
    let granted = |request: &SyncRequest| {
        let mut answer = grant_all(request);
        let grant = |ask: &wire::sync::ApprovalAsk| ApprovalAnswer { request_id: ask.request_id, outcome: ApprovalOutcome::Granted };
        answer.approvals = request.approvals.iter().map(grant).collect();
        answer
    };
    let (call, request) = next_call(&gate);
    assert_eq!(request.approvals.len(), 1);
    gate.answer_sync(&call, &granted(&request));
    assert!(gate.forwarded(&stream).is_none() && gate.reply(&stream).is_none(), "now the intent waits");
    for _ in 0..2 {
        let (call, _) = gate.taken_call().unwrap_or_else(|| next_call(&gate));
        gate.answer(&call, &[], vec![]);
    }
    unavailable(&gate, &stream);
    gate.finish(&stream);
    assert_eq!((gate.held(), gate.vm.borrow().undos.len()), (0, 1));
}

#[test]
fn a_body_that_is_too_large_to_be_held_is_refused_for_good() {
    let mut gate = gate();
    let said = gate.send(&list().with("content-length", "1000000"));
    let reply = gate.reply(&said).unwrap();
    assert_eq!((reply.status, &reply.problem()["check"]), (413, &json!("route")));
    gate.finish(&said);
    assert_eq!(gate.last_record()["reason"], json!("audited_body_too_large"));
    let unsaid = gate.begin(&list().body("x"));
    assert_eq!(unsaid.step, Step::Held);
    assert_eq!(gate.body(&unsaid, &vec![0; 900_000], false), None);
    assert_eq!(gate.body(&unsaid, &vec![0; 1_000_000], false), Some(Step::Answered));
    assert_eq!(gate.reply(&unsaid).unwrap().status, 413);
    gate.finish(&unsaid);
    assert_eq!(gate.held(), 0);
    gate.assert_nothing_is_left();
}

#[test]
fn a_refused_request_needs_no_intent() {
    let mut gate = gate();
    let stream = gate.send(&Request::new("GET", "/api/v1/tasks"));
    assert_eq!(gate.reply(&stream).unwrap().status, 401);
    gate.finish(&stream);
    let batch = gate.vm.borrow_mut().records.next_batch().unwrap();
    let sent = records(&batch);
    assert_eq!((sent.len(), &sent[0]["phase"]), (1, &json!("Outcome")));
    assert_eq!(gate.host.metric("gateway.audit_intents_total"), 0);
}

#[test]
fn a_route_without_users_may_require_it_too() {
    let mut gate = Gate::with("CP", |document| require(document, "auth.logout"));
    let stream = gate.send(&Request::new("POST", "/api/v1/auth/logout"));
    assert_eq!(stream.step, Step::Held);
    let (call, request) = next_call(&gate);
    gate.answer_sync(&call, &grant_all(&request));
    assert!(gate.forwarded(&stream).is_some());
}

#[test]
fn those_who_come_while_a_call_is_under_way_share_the_next() {
    let mut gate = gate();
    let first = gate.send(&list());
    let (call, request, _) = pressed(&gate);
    let others: Vec<Stream> = (0..5).map(|_| gate.send(&list())).collect();
    gate.answer_sync(&call, &grant_all(&request));
    assert!(gate.forwarded(&first).is_some());
    assert!(others.iter().all(|stream| gate.forwarded(stream).is_none()));
    // At once, without a tick.
    let (call, request) = gate.taken_call().unwrap();
    assert_eq!(request.records.as_ref().unwrap().count, 5);
    gate.answer_sync(&call, &grant_all(&request));
    assert!(others.iter().all(|stream| gate.forwarded(stream).is_some()));
}

#[test]
fn who_finds_the_queue_full_holds_nothing() {
    let mut gate = Gate::with("PLANT", |document| {
        document.budgets.clear();
        document.routes.iter_mut().for_each(|route| route.limit = None);
        require(document, "tasks.list");
    });
    let waiting: Vec<Stream> = (0..WAITING_MAX).map(|_| gate.send(&list())).collect();
    let one_more = gate.send(&list());
    assert_eq!(gate.reply(&one_more).unwrap().problem()["check"], json!("queue"));
    let (call, request, sent) = pressed(&gate);
    assert_eq!(sent.len(), WAITING_MAX);
    gate.answer_sync(&call, &grant_all(&request));
    assert!(waiting.iter().all(|stream| gate.forwarded(stream).is_some()));
}

/// What a control plane has stored: by holder and sequence number.
#[derive(Default)]
struct Store {
    records: BTreeMap<([u8; 16], u64), Value>,
}

impl Store {
    fn take(&mut self, holder: [u8; 16], batch: Option<&RecordBatch>) {
        let Some(batch) = batch else { return };
        for (sequence, record) in (batch.first_sequence..).zip(records(batch)) {
            let known = self.records.insert((holder, sequence), record.clone());
            assert!(known.is_none_or(|known| known == record), "a number stands for one record");
        }
    }

    fn intents(&self) -> BTreeSet<String> {
        self.of("Intent").map(|record| record["request_id"].to_string()).collect()
    }

    fn of(&self, phase: &str) -> impl Iterator<Item = &Value> {
        self.records.values().filter(move |record| record["phase"] == phase)
    }
}

/// Calls are lost before and after they are stored, holders are closed, clients leave: whoever was sent on had its intent stored
/// before, and everybody has one outcome.
#[test]
fn whatever_is_lost_nothing_goes_on_unrecorded() {
    let (mut sent_on, mut given_up) = (0, 0);
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut gate, mut store) = (gate(), Store::default());
        let (mut open, mut ids): (Vec<Stream>, BTreeSet<String>) = (Vec::new(), BTreeSet::new());
        for _ in 0..400 {
            if random.u8(0..4) == 0 && open.len() < 20 {
                let stream = gate.send(&list());
                ids.insert(json!(stream.exchange.borrow().trace.request_id.bytes()).to_string());
                open.push(stream);
            }
            gate.host.pass(TICK);
            gate.tick();
            if let Some((call, request)) = gate.taken_call() {
                match random.u8(0..10) {
                    0 => gate.answer(&call, &[], vec![]),
                    1 => {
                        store.take(request.holder, request.records.as_ref());
                        gate.answer(&call, &[(":status", b"504")], vec![]);
                    }
                    2 => {
                        if random.bool() {
                            store.take(request.holder, request.records.as_ref());
                        }
                        let last = store.records.keys().filter(|(holder, _)| *holder == request.holder).map(|(_, last)| *last).max();
                        let last = last.unwrap_or_else(|| request.records.as_ref().map_or(0, |batch| batch.first_sequence - 1)).to_string();
                        gate.answer(&call, &[(":status", b"410"), ("x-records-stored", last.as_bytes())], vec![]);
                    }
                    _ => {
                        store.take(request.holder, request.records.as_ref());
                        gate.answer_sync(&call, &grant_all(&request));
                    }
                }
            }
            let intents = store.intents();
            open.retain(|stream| {
                let id = json!(stream.exchange.borrow().trace.request_id.bytes()).to_string();
                let forwarded = gate.forwarded(stream).is_some();
                assert!(!forwarded || intents.contains(&id), "seed {seed}: sent on unrecorded");
                let refused = gate.reply(stream).is_some();
                let ends = forwarded || refused || random.u8(0..50) == 0;
                if ends {
                    (sent_on, given_up) = (sent_on + u32::from(forwarded), given_up + u32::from(refused));
                    if forwarded { gate.complete(stream) } else { gate.finish(stream) }
                }
                !ends
            });
        }
        open.iter().for_each(|stream| gate.finish(stream));
        assert_eq!(gate.held(), 0);
        for _ in 0..300 {
            if let Some((call, request)) = gate.sync_call() {
                store.take(request.holder, request.records.as_ref());
                gate.answer_sync(&call, &grant_all(&request));
            }
        }
        let mut outcomes: Vec<String> = store.of("Outcome").map(|record| record["request_id"].to_string()).collect();
        outcomes.retain(|id| ids.contains(id));
        assert_eq!(outcomes.len(), ids.len(), "seed {seed}: one outcome each");
        assert!(gate.vm.borrow().records.awaits_nothing());
    }
    println!("{sent_on} were sent on, {given_up} given up");
    assert!(sent_on > 1_000 && given_up > 100, "{sent_on} were sent on, {given_up} given up");
}
