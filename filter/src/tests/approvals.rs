//! Requests that a governor has to approve: asked, refused with an id, consumed, given back.

use super::gate::{Gate, Request, document};
use super::host::find;
use super::tokens;
use crate::pipeline::Step;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::time::Duration;
use wire::sync::{ApprovalAnswer, ApprovalOutcome, ApprovalRefusal, SyncAnswer, SyncRequest};

fn create() -> Request {
    Request::new("POST", "/api/v1/agents?draft=1").bearer(&tokens::admin())
}

fn answer_with(outcome: ApprovalOutcome) -> impl Fn(&SyncRequest, &mut SyncAnswer) {
    move |request, answer| {
        let of = |ask: &wire::sync::ApprovalAsk| ApprovalAnswer { request_id: ask.request_id, outcome: outcome.clone() };
        answer.approvals = request.approvals.iter().map(of).collect();
    }
}

fn pending() -> ApprovalOutcome {
    ApprovalOutcome::Pending { approval_id: "a-1".into(), url: "https://gateway.example/approvals/a-1".into() }
}

/// With leases, so that the approval is all that is missing.
fn gate() -> Gate {
    let mut gate = Gate::new("PP");
    let governor = tokens::token(json!({"governor_agent_id": "g-1"}));
    gate.warm(&Request::new("POST", "/api/v1/agents").bearer(&governor));
    gate
}

/// Without budgets: whoever asks, nothing but the approval is missing.
fn unbudgeted() -> Gate {
    Gate::with("PP", |document| document.budgets.retain(|budget| budget.scope == "client_address"))
}

#[test]
fn a_governor_needs_nobody() {
    let mut gate = gate();
    let stream = gate.send(&Request::new("POST", "/api/v1/agents").bearer(&tokens::token(json!({"governor_agent_id": "g-1"}))).body("{}"));
    assert!(gate.forwarded(&stream).is_some());
}

#[test]
fn a_request_without_an_approval_asks_for_one_and_is_refused_with_its_id() {
    let mut gate = gate();
    let stream = gate.begin(&create().body("ignored"));
    assert_eq!(stream.step, Step::NeedsBody);
    assert_eq!(gate.body(&stream, b"{\"a\"", false), None);
    assert_eq!(gate.body(&stream, b"{\"a\":1}", true), Some(Step::Held));
    let request = gate.sync(answer_with(pending()));
    let ask = &request.approvals[0];
    assert_eq!((&*ask.route, &*ask.action, &ask.approval_id), ("agents.create", "agent.create", &None));
    let binding = &ask.binding;
    assert_eq!((&*binding.issuer, &*binding.subject, &*binding.method, &*binding.authority), ("legacy", "user-1", "POST", "plant.example"));
    assert_eq!((&*binding.path, binding.query.as_deref()), ("/api/v1/agents", Some("draft=1")));
    assert_eq!(binding.body_length, 7);
    assert_eq!(binding.body_sha256, <[u8; 32]>::from(Sha256::digest(b"{\"a\":1}")));
    let reply = gate.reply(&stream).unwrap();
    let problem = reply.problem();
    assert_eq!((reply.status, &problem["check"], &problem["approval_id"]), (403, &json!("approval"), &json!("a-1")));
    assert_eq!(problem["approval_url"], json!("https://gateway.example/approvals/a-1"));
    assert_eq!(gate.held(), 0);
    gate.finish(&stream);
    let record = gate.last_record();
    assert_eq!((&record["reason"], &record["approval_id"]), (&json!("approval_required"), &json!("a-1")));
    gate.assert_nothing_is_left();
}

/// What a request is asked for with.
fn bound(request: &Request) -> wire::sync::ApprovalBinding {
    let mut gate = unbudgeted();
    let stream = gate.send(request);
    let asked = gate.sync(answer_with(pending()));
    assert_eq!(gate.reply(&stream).unwrap().status, 403);
    asked.approvals[0].binding.clone()
}

#[test]
fn an_approval_is_bound_to_whom_the_request_is_for_and_where_to_it_goes() {
    let create = |claims: serde_json::Value| Request::new("POST", "/api/v1/agents").bearer(&tokens::token(claims));
    let own = bound(&create(json!({"user_id": "u-1", "customer_id": "c-A", "agent_id": "a-1"})));
    assert_eq!((&*own.user_id, own.customer_id.as_deref(), own.agent_id.as_deref()), ("u-1", Some("c-A"), Some("a-1")));
    assert_eq!((own.target, own.query.clone()), (wire::policy::Target::Production, None));
    let other = bound(&create(json!({"user_id": "u-1", "customer_id": "c-B", "agent_id": "a-1"})));
    assert_eq!(other, wire::sync::ApprovalBinding { customer_id: Some("c-B".into()), ..own.clone() });
    let trial = json!({
        "user_id": "u-1", "customer_id": "c-A", "agent_id": "a-1", "trial_mode": true, "trial_expires_at": "2099-01-01T00:00:00Z",
    });
    assert_eq!(bound(&create(trial)), wire::sync::ApprovalBinding { target: wire::policy::Target::Sandbox, ..own });
}

#[test]
fn an_approval_is_bound_to_how_the_body_is_read() {
    let plain = bound(&create());
    assert_eq!((&plain.content_type, &plain.content_encoding), (&None, &None));
    let typed = bound(&create().with("content-type", "Application/JSON; charset=utf-8").with("content-encoding", "gzip"));
    assert_eq!((typed.content_type.as_deref(), typed.content_encoding.as_deref()), (Some("Application/JSON; charset=utf-8"), Some("gzip")));
    let empty = bound(&create().with("content-type", "").with("content-encoding", ""));
    assert_eq!((empty.content_type.as_deref(), empty.content_encoding.as_deref()), (Some(""), Some("")));
}

#[test]
fn a_question_mark_alone_is_another_query_than_none() {
    let query = |path: &str| bound(&Request::new("POST", path).bearer(&tokens::admin())).query;
    assert_eq!((query("/api/v1/agents"), query("/api/v1/agents?")), (None, Some(String::new())));
}

#[test]
fn a_header_that_an_approval_is_bound_to_has_one_reading() {
    let mut gate = gate();
    for name in ["content-type", "content-encoding"] {
        let twice = gate.refused(&create().with(name, "a").with(name, "a"));
        let malformed = gate.refused(&create().with(name, b"\xff"));
        for reply in [twice, malformed] {
            assert_eq!((reply.status, &reply.problem()["check"]), (400, &json!("approval")));
            assert_eq!(reply.problem()["detail"], json!(format!("A header is repeated or malformed: `{name}`")));
        }
    }
    assert_eq!(gate.held(), 0);
    // Where no approval is asked for, the backend may make of them what it likes.
    let stream = gate.send(&Request::new("GET", "/api/v1/tasks").bearer(&tokens::admin()).with("content-type", b"\xff"));
    assert_ne!(stream.step, Step::Answered);
}

#[test]
fn by_setting_the_client_is_redirected_to_the_approval() {
    let mut gate = Gate::with("PP", |document| {
        document.approvals.get_or_insert_default().answer = wire::policy::ApprovalAnswerStyle::Redirect;
    });
    let stream = gate.send(&create());
    gate.sync(|_, _| {});
    gate.sync(answer_with(pending()));
    let reply = gate.reply(&stream).unwrap();
    assert_eq!((reply.status, reply.header("location").as_deref()), (307, Some("https://gateway.example/approvals/a-1")));
}

#[test]
fn a_granted_approval_is_consumed_and_the_request_goes_on() {
    let mut gate = gate();
    let stream = gate.send(&create().with("x-approval-id", "a-1"));
    assert_eq!(stream.step, Step::Held);
    let request = gate.sync(answer_with(ApprovalOutcome::Granted));
    assert_eq!(request.approvals[0].approval_id.as_deref(), Some("a-1"));
    assert_eq!(request.approvals[0].binding.body_sha256, <[u8; 32]>::from(Sha256::digest([])));
    let sent = gate.forwarded(&stream).unwrap();
    assert_eq!(find(&sent, "x-approval-id"), None);
    gate.complete(&stream);
    assert_eq!(gate.last_record()["approval_id"], json!("a-1"));
    assert!(gate.vm.borrow().undos.is_empty());
}

#[test]
fn every_refusal_of_an_approval_is_told() {
    for (refusal, detail) in [
        (ApprovalRefusal::Unknown, "The approval does not exist"),
        (ApprovalRefusal::OtherRequest, "The approval is for another request"),
        (ApprovalRefusal::Undecided, "No governor has decided yet"),
        (ApprovalRefusal::Rejected, "A governor refused this request"),
        (ApprovalRefusal::Consumed, "The approval was used already"),
        (ApprovalRefusal::Expired, "The approval has expired"),
        (ApprovalRefusal::TooManyPending, "Too many requests of this user wait for an approval"),
    ] {
        let mut gate = gate();
        let stream = gate.send(&create().with("x-approval-id", "a-1"));
        gate.sync(answer_with(ApprovalOutcome::Refused(refusal)));
        let reply = gate.reply(&stream).unwrap();
        assert_eq!((reply.status, &reply.problem()["detail"]), (403, &json!(detail)));
        gate.finish(&stream);
        assert_eq!((gate.held(), &gate.last_record()["reason"]), (0, &json!("approval_refused")));
        assert!(gate.vm.borrow().undos.is_empty());
        gate.assert_nothing_is_left();
    }
}

#[test]
fn an_approval_whose_request_never_reached_the_backend_is_given_back() {
    let mut gate = gate();
    let stream = gate.send(&create().with("x-approval-id", "a-1"));
    let request = gate.sync(answer_with(ApprovalOutcome::Granted));
    gate.respond(&stream, 503);
    gate.finish(&stream);
    assert_eq!(gate.held(), 0);
    let given_back = gate.sync(|_, _| {}).undos;
    assert_eq!((given_back[0].request_id, &*given_back[0].approval_id), (request.approvals[0].request_id, "a-1"));
    assert!(gate.vm.borrow().undos.is_empty());
}

#[test]
fn a_client_that_leaves_while_its_approval_is_asked_for_gives_it_back() {
    let mut gate = gate();
    let stream = gate.send(&create().with("x-approval-id", "a-1"));
    let (call, request) = gate.sync_call().unwrap();
    gate.finish(&stream);
    assert!(gate.held() == 0 && gate.vm.borrow().asks.is_empty());
    let mut answer = super::gate::grant_all(&request);
    answer_with(ApprovalOutcome::Granted)(&request, &mut answer);
    gate.answer_sync(&call, &answer);
    assert!(gate.vm.borrow().answers.is_empty(), "nobody would ever take it");
    assert_eq!(gate.sync(|_, _| {}).undos.len(), 1);
}

#[test]
fn an_undo_that_was_not_answered_is_sent_again() {
    let mut gate = gate();
    let stream = gate.send(&create().with("x-approval-id", "a-1"));
    gate.sync(answer_with(ApprovalOutcome::Granted));
    gate.finish(&stream);
    let (call, first) = gate.sync_call().unwrap();
    gate.answer(&call, &[], vec![]);
    gate.run(Duration::from_millis(1_000));
    let call = gate.take_call("/data-plane/v1/sync").unwrap();
    let second: SyncRequest = wire::frame::decode(&call.body).unwrap();
    assert_eq!((first.undos.len(), first.undos), (1, second.undos));
}

#[test]
fn an_unanswered_ask_is_repeated_and_ends_in_a_refusal_that_gives_everything_back() {
    let mut gate = gate();
    let stream = gate.send(&create().with("x-approval-id", "a-1"));
    assert!(gate.held() > 0);
    let (call, first) = gate.sync_call().unwrap();
    gate.answer(&call, &[(":status", b"504")], b"upstream request timeout".to_vec());
    gate.run(Duration::from_millis(1_000));
    let call = gate.take_call("/data-plane/v1/sync").unwrap();
    let second: SyncRequest = wire::frame::decode(&call.body).unwrap();
    assert_eq!(first.approvals, second.approvals);
    gate.answer(&call, &[], vec![]);
    let reply = gate.reply(&stream).unwrap();
    assert_eq!((reply.status, &reply.problem()["check"]), (503, &json!("approval")));
    gate.finish(&stream);
    assert!(gate.held() == 0 && gate.vm.borrow().asks.is_empty());
    // The first call may have consumed it.
    assert_eq!(gate.vm.borrow().undos.len(), 1);
}

/// Also where no budget makes the holder call every second.
#[test]
fn an_ask_is_repeated_even_if_nothing_else_is_to_be_told() {
    let mut gate = unbudgeted();
    let stream = gate.send(&create().with("x-approval-id", "a-1"));
    let (call, _) = gate.sync_call().unwrap();
    gate.answer(&call, &[(":status", b"503")], vec![]);
    gate.run(Duration::from_millis(1_000));
    let call = gate.take_call("/data-plane/v1/sync").unwrap();
    let request: SyncRequest = wire::frame::decode(&call.body).unwrap();
    let mut answer = super::gate::grant_all(&request);
    answer_with(ApprovalOutcome::Granted)(&request, &mut answer);
    gate.answer_sync(&call, &answer);
    assert!(gate.forwarded(&stream).is_some());
}

/// Or a client could fill the queue of undos, each of them sent with every call.
#[test]
fn nobody_asks_while_the_control_plane_is_known_to_be_away() {
    let mut gate = gate();
    for _ in 0..2 {
        gate.vm.borrow_mut().sync.hurry();
        gate.run(Duration::from_millis(200));
        let call = gate.take_call("/data-plane/v1/sync").unwrap();
        gate.answer(&call, &[], vec![]);
    }
    for _ in 0..100 {
        let reply = gate.refused(&create().with("x-approval-id", "a-1"));
        assert_eq!((reply.status, &reply.problem()["check"]), (503, &json!("approval")));
    }
    let vm = gate.vm.borrow();
    assert!(vm.undos.is_empty() && vm.asks.is_empty() && vm.waiting.is_empty());
}

/// A control plane that closes this holder again and again never counts as away: every ask starts anew, and each client
/// that leaves would leave an undo.
#[test]
fn what_is_to_be_given_back_does_not_grow_without_end() {
    use crate::undos::UNDOS_MAX;
    let mut gate = unbudgeted();
    for number in 0..UNDOS_MAX + 3 {
        let stream = gate.send(&create().with("x-approval-id", "a-1"));
        assert_eq!(stream.step, Step::Held);
        gate.finish(&stream);
        if number % 100 == 0 {
            gate.run(Duration::from_millis(200));
            let call = gate.take_call("/data-plane/v1/sync").unwrap();
            gate.answer(&call, &[(":status", b"410")], vec![]);
        }
    }
    assert_eq!(gate.vm.borrow().undos.len(), UNDOS_MAX);
    assert_eq!(gate.host.metric("gateway.approval_undos_dropped_total"), 3);
    // What is kept is given back when the control plane is itself again.
    gate.run(Duration::from_millis(200));
    let call = gate.take_call("/data-plane/v1/sync").unwrap();
    let request: SyncRequest = wire::frame::decode(&call.body).unwrap();
    gate.answer_sync(&call, &super::gate::grant_all(&request));
    let sent = request.undos.len();
    assert_eq!((sent, gate.vm.borrow().undos.len()), (UNDOS_MAX, 0));
}

#[test]
fn an_approval_id_that_is_repeated_or_not_sane_is_refused() {
    let mut gate = gate();
    let twice = gate.refused(&create().with("x-approval-id", "a-1").with("x-approval-id", "a-2"));
    let insane = gate.refused(&create().with("x-approval-id", b"a\xff"));
    let host = Request { headers: create().headers.into_iter().filter(|(name, _)| name != b":authority").collect(), body: vec![] };
    let host = gate.refused(&host.with(":authority", b"\xff"));
    assert_eq!([twice.status, insane.status, host.status], [400; 3]);
    for reply in [&twice, &insane, &host] {
        assert_eq!(reply.problem()["check"], json!("approval"));
    }
    let stream = gate.send(&create().with("x-approval-id", ""));
    gate.finish(&stream);
    assert_eq!(gate.last_record()["reason"], json!("approval_header"));
    assert_eq!(host.problem()["detail"], json!("A header is repeated or malformed: `host`"));
    assert_eq!(gate.held(), 0);
}

#[test]
fn a_body_that_is_too_large_to_be_bound_is_refused() {
    let mut gate = gate();
    let stream = gate.begin(&create().body("x"));
    assert_eq!(gate.body(&stream, &vec![0; 64 * 1_024 + 1], false), Some(Step::Answered));
    let reply = gate.reply(&stream).unwrap();
    assert_eq!((reply.status, &reply.problem()["check"]), (413, &json!("approval")));
    assert_eq!(gate.held(), 0);
    let largest = gate.begin(&create().body("x"));
    assert_eq!(gate.body(&largest, &vec![0; 64 * 1_024], true), Some(Step::Held));
}

#[test]
fn trailers_end_a_body_without_changing_it() {
    let mut gate = gate();
    let stream = gate.begin(&create().body("x"));
    assert_eq!(gate.body(&stream, b"whole", false), None);
    // With trailers Envoy hands over nothing.
    assert_eq!(gate.body(&stream, b"", true), Some(Step::Held));
    let request = gate.sync(answer_with(pending()));
    assert_eq!(request.approvals[0].binding.body_sha256, <[u8; 32]>::from(Sha256::digest(b"whole")));
}

#[test]
fn a_body_that_came_while_the_policy_was_awaited_is_bound_too() {
    let mut gate = Gate::cold("PP", Default::default());
    let stream = gate.begin(&create().body("x"));
    assert_eq!(stream.step, Step::Held);
    assert_eq!(gate.body(&stream, b"early", true), None);
    let image = super::gate::image(&document(), super::gate::version(1));
    gate.vm.borrow_mut().activate(&gate.host, &image).unwrap();
    gate.know_revocations(&[]);
    gate.learn();
    gate.sync(|_, _| {});
    let request = gate.sync(answer_with(pending()));
    assert_eq!(request.approvals[0].binding.body_sha256, <[u8; 32]>::from(Sha256::digest(b"early")));
}

/// A client chooses in how many pieces its body comes: hashing all of it for each would be quadratic.
#[test]
fn a_body_in_many_pieces_is_fetched_once() {
    let mut gate = gate();
    let stream = gate.begin(&create().body("x"));
    let body: Vec<u8> = (0..10_000_u32).map(|byte| byte.to_le_bytes()[0]).collect();
    gate.host.take_calls();
    for end in 1..=body.len() {
        let step = gate.body(&stream, &body[..end], end == body.len());
        assert_eq!(step, if end == body.len() { Some(Step::Held) } else { None });
    }
    let fetched: usize = gate.host.take_calls().iter().filter_map(|call| call.strip_prefix("request_body ")?.parse::<usize>().ok()).sum();
    assert_eq!(fetched, body.len());
    let asked = gate.vm.borrow().asks.first().unwrap().binding.body_sha256;
    assert_eq!(asked, <[u8; 32]>::from(sha2::Sha256::digest(&body)));
}

/// The kill switch of the customer whose tokens these tests use.
fn stop_the_customer(gate: &Gate) {
    gate.revoke(&[(authn::Mark::of(decision_core::principal::RevocationKind::Customer, "legacy", "customer-1"), 0)]);
}

#[test]
fn a_token_that_is_revoked_while_the_body_comes_is_refused() {
    let mut gate = gate();
    let stream = gate.begin(&create().with("x-approval-id", "a-1").body("ignored"));
    assert_eq!(gate.body(&stream, b"{", false), None);
    stop_the_customer(&gate);
    assert_eq!(gate.body(&stream, b"{}", true), Some(Step::Answered));
    let reply = gate.reply(&stream).unwrap();
    assert_eq!((reply.status, &reply.problem()["title"]), (401, &json!("Token Revoked")));
    gate.finish(&stream);
    assert_eq!(gate.last_record()["reason"], json!("customer_stopped"));
    gate.assert_nothing_is_left();
}

#[test]
fn a_token_that_expires_while_the_body_comes_is_refused() {
    let mut gate = gate();
    let stream = gate.begin(&create().with("x-approval-id", "a-1").body("ignored"));
    gate.host.pass(Duration::from_secs(100_000));
    gate.know_revocations(&[]);
    assert_eq!(gate.body(&stream, b"{}", true), Some(Step::Answered));
    assert_eq!(gate.reply(&stream).unwrap().status, 401);
    gate.finish(&stream);
    assert_eq!(gate.last_record()["reason"], json!("expired"));
}

#[test]
fn a_token_that_is_revoked_while_its_approval_is_consumed_is_refused_and_the_approval_given_back() {
    let mut gate = gate();
    let stream = gate.send(&create().with("x-approval-id", "a-1"));
    assert_eq!(stream.step, Step::Held);
    stop_the_customer(&gate);
    gate.sync(answer_with(ApprovalOutcome::Granted));
    assert_eq!(gate.reply(&stream).unwrap().status, 401);
    assert_eq!(gate.vm.borrow().undos.len(), 1);
    assert_eq!(gate.held(), 0);
    gate.finish(&stream);
    assert_eq!(gate.last_record()["reason"], json!("customer_stopped"));
}

#[test]
fn a_token_that_is_revoked_while_it_waits_for_a_lease_is_refused() {
    let mut gate = Gate::new("PP");
    let stream = gate.send(&Request::new("GET", "/api/v1/tasks").bearer(&tokens::admin()));
    assert_eq!(stream.step, Step::Held);
    stop_the_customer(&gate);
    gate.sync(|_, _| {});
    assert_eq!(gate.reply(&stream).unwrap().status, 401);
    assert_eq!(gate.held(), 0);
    gate.finish(&stream);
}

#[test]
fn a_request_that_is_judged_anew_does_not_keep_the_user_of_the_first_judgement() {
    let mut gate = gate();
    let stream = gate.begin(&create().with("x-approval-id", "a-1").body("ignored"));
    let mut document = document();
    let route = document.routes.iter_mut().find(|route| route.name == "agents.create").unwrap();
    route.require = wire::policy::Requirement::Public;
    (route.permission, route.cost_micros, route.approval) = (None, Some(0), wire::policy::Approval::None);
    let image = super::gate::image(&document, super::gate::version(9));
    gate.vm.borrow_mut().activate(&gate.host, &image).unwrap();
    assert_eq!(gate.body(&stream, b"{}", true), Some(Step::Forward));
    gate.respond(&stream, 200);
    gate.finish(&stream);
    let record = gate.last_record();
    assert_eq!((&record["decision"], &record["user"]), (&json!("Permit"), &json!(null)));
}
