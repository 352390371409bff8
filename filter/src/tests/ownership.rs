//! The customer id is forced into query, path and body: once, from the client's bytes, whatever a request had to wait for.

use super::gate::{Gate, Request, Stream, document, image, version};
use super::host::{Headers, SharedData, find};
use super::tokens;
use crate::pipeline::Step;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::time::Duration;
use wire::policy::Approval;
use wire::sync::{ApprovalAnswer, ApprovalOutcome};

const KIB_256: usize = 256 * 1_024;
const DRAFT: &str = "/api/v1/hired-agents/draft";

fn customer() -> String {
    tokens::token(json!({ "roles": ["user"] }))
}

fn draft(body: &str) -> Request {
    Request::new("PUT", DRAFT)
        .bearer(&customer())
        .with("content-type", "text/plain")
        .with("content-length", body.len().to_string())
        .body(body)
}

/// With leases, so that nothing waits.
fn gate() -> Gate {
    gate_with(|_| {})
}

fn gate_with(change: impl FnOnce(&mut wire::policy::PolicyDocument)) -> Gate {
    let mut gate = Gate::with("CP", change);
    gate.warm(&Request::new("GET", "/api/v1/tasks").bearer(&customer()));
    gate
}

fn path_of(gate: &Gate, stream: &Stream) -> String {
    find(&gate.forwarded(stream).unwrap(), ":path").unwrap()
}

fn values(headers: &Headers, name: &str) -> Vec<String> {
    headers.iter().filter(|(known, _)| known == name.as_bytes()).map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
}

#[test]
fn the_query_carries_the_token_s_customer_and_the_record_the_client_s_path() {
    let mut gate = gate();
    for (path, expected) in [
        ("/api/v1/invoices", "/api/v1/invoices?customer_id=customer-1"),
        ("/api/v1/invoices?", "/api/v1/invoices?customer_id=customer-1"),
        ("/api/v1/invoices/i-1?a=1&customer_id=evil&b=%20", "/api/v1/invoices/i-1?a=1&b=%20&customer_id=customer-1"),
        ("/api/v1/receipts?Customer%5fID[]=evil;a=1", "/api/v1/receipts?a=1&customer_id=customer-1"),
        ("/api/v1/trial-status?customer_id=evil&customer_id=evil", "/api/v1/trial-status?customer_id=customer-1"),
        ("/api/v1/hired-agents/by-subscription/s-1?x", "/api/v1/hired-agents/by-subscription/s-1?x&customer_id=customer-1"),
    ] {
        let stream = gate.begin(&Request::new("GET", path).bearer(&customer()));
        assert_eq!(path_of(&gate, &stream), expected);
        gate.complete(&stream);
        assert_eq!(gate.last_record()["path"], json!(path.split('?').next().unwrap()));
    }
}

#[test]
fn the_path_carries_the_token_s_customer_and_keeps_its_query() {
    let mut gate = gate();
    let stream = gate.begin(&Request::new("GET", "/api/v1/payments/subscriptions/by-customer/evil?page=2").bearer(&customer()));
    assert_eq!(path_of(&gate, &stream), "/api/v1/payments/subscriptions/by-customer/customer-1?page=2");
    gate.complete(&stream);
    assert_eq!(gate.last_record()["path"], json!("/api/v1/payments/subscriptions/by-customer/evil"));
    let odd = tokens::token(json!({ "roles": ["user"], "customer_id": "K\u{e9}vin & co" }));
    let stream = gate.begin(&Request::new("GET", "/api/v1/payments/subscriptions/by-customer/evil").bearer(&odd));
    let stream = if stream.step == Step::Held {
        gate.sync(|_, _| {});
        stream
    } else {
        stream
    };
    assert_eq!(path_of(&gate, &stream), "/api/v1/payments/subscriptions/by-customer/K%C3%A9vin%20%26%20co");
}

#[test]
fn an_id_that_would_lead_elsewhere_is_refused_as_none() {
    let mut gate = gate();
    for id in ["..", "a/../b", "x/y"] {
        let token = tokens::token(json!({ "roles": ["user"], "customer_id": id }));
        let reply = gate.refused(&Request::new("GET", "/api/v1/payments/subscriptions/by-customer/evil").bearer(&token));
        assert_eq!((reply.status, reply.problem()["check"].as_str()), (401, Some("ownership")), "{id}");
    }
    assert_eq!(gate.held(), 0);
}

#[test]
fn a_token_without_a_customer_is_told_what_it_lacks_and_nothing_reaches_the_backend() {
    let mut gate = gate();
    let token = tokens::token(json!({ "roles": ["user"], "customer_id": null }));
    for request in [Request::new("GET", "/api/v1/invoices?customer_id=evil"), Request::new("PUT", DRAFT).body("{}")] {
        let reply = gate.refused(&request.bearer(&token));
        let problem = reply.problem();
        assert_eq!((reply.status, problem["detail"].as_str()), (401, Some("Missing customer_id in auth context")));
        assert_eq!(
            (problem["type"].as_str(), problem["check"].as_str()),
            (Some("https://waooaw.com/errors/unauthorized"), Some("ownership"))
        );
        assert!(reply.header("www-authenticate").unwrap().starts_with("Bearer"));
    }
}

#[test]
fn d34_the_body_carries_the_token_s_customer_and_says_what_it_is() {
    let mut gate = gate();
    let given = r#"{"plan":1.50,"customer_id":"evil"}"#;
    let stream = gate.begin(&draft(given).with("content-digest", "sha-256=:x:").with("digest", "x"));
    assert_eq!(stream.step, Step::NeedsBody);
    assert_eq!(gate.body(&stream, &given.as_bytes()[..9], false), None);
    assert_eq!(gate.body(&stream, given.as_bytes(), true), Some(Step::Forward));
    let expected = r#"{"plan":1.50,"customer_id":"customer-1"}"#;
    assert_eq!(gate.forwarded_body(&stream), (expected.into(), 1));
    let sent = gate.host.stream(stream.context).request;
    assert_eq!(values(&sent, "content-length"), [expected.len().to_string()]);
    assert_eq!(values(&sent, "content-type"), ["application/json"]);
    assert_eq!((values(&sent, "content-digest").len(), values(&sent, "digest").len()), (0, 0));
    gate.complete(&stream);
    gate.assert_nothing_is_left();
}

#[test]
fn d34_what_is_no_object_with_keys_of_its_own_is_refused() {
    let mut gate = gate();
    for (body, reason) in [
        ("[]", "body_not_object"),
        ("customer_id=evil", "body_not_object"),
        (" ", "body_not_object"),
        (r#"{"customer_id":"evil","customer_id":"x"}"#, "body_key_repeated"),
        (r#"{"customer_id":"evil","CUSTOMER_ID":"x"}"#, "body_key_repeated"),
        (r#"{"a":1,"a":2}"#, "body_key_repeated"),
    ] {
        let stream = gate.send(&draft(body));
        let reply = gate.reply(&stream).unwrap();
        assert_eq!((reply.status, reply.problem()["check"].as_str()), (400, Some("ownership")), "{body}");
        assert_eq!(gate.forwarded_body(&stream).1, 0);
        gate.finish(&stream);
        assert_eq!(gate.last_record()["reason"], json!(reason), "{body}");
    }
    // Without any body; and one that cannot be read.
    assert_eq!(gate.refused(&Request::new("PUT", DRAFT).bearer(&customer())).status, 400);
    assert_eq!(gate.refused(&draft("{}").with("content-encoding", "gzip")).status, 400);
    gate.assert_nothing_is_left();
}

#[test]
fn a_body_may_have_256_kib_and_no_byte_more_however_it_is_sent() {
    let mut gate = gate();
    let fits = format!("{{\"a\":\"{}\"}}", "x".repeat(KIB_256 - 8));
    assert_eq!(fits.len(), KIB_256);
    let stream = gate.send(&draft(&fits));
    assert_eq!(stream.step, Step::Forward);
    assert_eq!(gate.forwarded_body(&stream).0.len(), KIB_256 + r#""customer_id":"customer-1","#.len());
    gate.complete(&stream);
    let large = format!("{fits} ");
    // By what the client says, before a byte of it is read.
    let reply = gate.refused(&draft(&large));
    assert_eq!((reply.status, reply.problem()["detail"].as_str()), (413, Some("The body may have 256 KiB at most")));
    // Without its length, as soon as it is too much.
    let stream = gate.begin(&Request::new("PUT", DRAFT).bearer(&customer()).body("chunked"));
    assert_eq!(gate.body(&stream, &large.as_bytes()[..KIB_256], false), None);
    assert_eq!(gate.body(&stream, large.as_bytes(), false), Some(Step::Answered));
    assert_eq!(gate.reply(&stream).unwrap().status, 413);
    gate.finish(&stream);
    assert_eq!(gate.last_record()["reason"], json!("body_too_large"));
}

#[test]
fn a_chunked_body_with_trailers_is_rewritten_and_gets_no_length() {
    let mut gate = gate();
    let stream = gate.begin(&Request::new("PUT", DRAFT).bearer(&customer()).body("chunked"));
    assert_eq!(gate.body(&stream, b"{\"a\":", false), None);
    assert_eq!(gate.body(&stream, b"{\"a\":1}", false), None);
    assert_eq!(gate.trailers(&stream), Some(Step::Forward));
    assert_eq!(gate.forwarded_body(&stream), (r#"{"customer_id":"customer-1","a":1}"#.into(), 1));
    let sent = gate.host.stream(stream.context).request;
    assert_eq!((values(&sent, "content-length").len(), values(&sent, "content-type").len()), (0, 1));
}

#[test]
fn a_request_that_waits_for_a_lease_is_rewritten_once() {
    let mut gate = Gate::new("CP");
    let stream = gate.send(&draft(r#"{"customer_id":"evil"}"#));
    assert_eq!((stream.step, gate.forwarded_body(&stream).1), (Step::Held, 0));
    let stream_of_query = gate.begin(&Request::new("GET", "/api/v1/invoices?customer_id=evil").bearer(&customer()));
    assert_eq!(stream_of_query.step, Step::Held);
    gate.sync(|_, _| {});
    assert_eq!(gate.forwarded_body(&stream), (r#"{"customer_id":"customer-1"}"#.into(), 1));
    assert_eq!(path_of(&gate, &stream_of_query), "/api/v1/invoices?customer_id=customer-1");
    assert_eq!(values(&gate.forwarded(&stream_of_query).unwrap(), ":path").len(), 1);
    gate.complete(&stream);
    gate.complete(&stream_of_query);
    gate.assert_nothing_is_left();
}

#[test]
fn a_request_that_waits_for_a_policy_and_its_body_is_rewritten_once() {
    for body_first in [true, false] {
        let mut gate = Gate::cold("CP", SharedData::default());
        let body = r#"{"customer_id":"evil","a":1}"#;
        let stream = gate.begin(&draft(body));
        assert_eq!(stream.step, Step::Held);
        assert_eq!(gate.body(&stream, &body.as_bytes()[..5], false), None);
        if body_first {
            assert_eq!(gate.body(&stream, body.as_bytes(), true), None);
        }
        gate.activate(1);
        gate.know_revocations(&[]);
        gate.learn();
        if !body_first {
            assert_eq!(gate.body(&stream, body.as_bytes(), true), Some(Step::Held), "for a lease");
        }
        gate.sync(|_, _| {});
        assert!(gate.forwarded(&stream).is_some());
        assert_eq!(gate.forwarded_body(&stream), (r#"{"customer_id":"customer-1","a":1}"#.into(), 1));
    }
}

#[test]
fn an_approval_is_bound_to_the_client_s_request_and_the_backend_gets_the_rewritten_one() {
    let mut gate = gate_with(|document| {
        let route = document.routes.iter_mut().find(|route| route.name == "hired-agents.draft").unwrap();
        (route.approval, route.rewrite) = (Approval::Governor, Some("/internal/draft".into()));
    });
    let body = r#"{"customer_id":"evil"}"#;
    let request = Request::new("PUT", "/api/v1/hired-agents/draft?dry=1").bearer(&customer()).with("x-approval-id", "a-1").body(body);
    let stream = gate.send(&request);
    assert_eq!((stream.step, gate.forwarded_body(&stream).1), (Step::Held, 0));
    let asked = gate.sync(|request, answer| {
        let granted = |ask: &wire::sync::ApprovalAsk| ApprovalAnswer { request_id: ask.request_id, outcome: ApprovalOutcome::Granted };
        answer.approvals = request.approvals.iter().map(granted).collect();
    });
    let binding = &asked.approvals[0].binding;
    assert_eq!((&*binding.path, binding.query.as_deref()), (DRAFT, Some("dry=1")));
    assert_eq!(binding.body_sha256, <[u8; 32]>::from(Sha256::digest(body)));
    assert_eq!(path_of(&gate, &stream), "/internal/draft?dry=1");
    assert_eq!(gate.forwarded_body(&stream), (r#"{"customer_id":"customer-1"}"#.into(), 1));
    // Where both read the body, the smaller limit counts.
    let large = Request::new("PUT", DRAFT).bearer(&customer()).body(format!("{{\"a\":\"{}\"}}", "x".repeat(70_000)));
    let reply = gate.refused(&large);
    assert_eq!((reply.status, reply.problem()["check"].as_str()), (413, Some("approval")));
}

#[test]
fn a_policy_that_changes_while_a_body_comes_decides_what_is_rewritten() {
    let mut gate = gate();
    let body = r#"{"customer_id":"evil"}"#;
    let stream = gate.begin(&draft(body));
    let mut changed = document();
    changed.routes.iter_mut().find(|route| route.name == "hired-agents.draft").unwrap().ownership =
        Some(wire::policy::Ownership { place: wire::policy::OwnershipPlace::Body, name: "owner".into() });
    gate.vm.borrow_mut().activate(&gate.host, &image(&changed, version(2))).unwrap();
    gate.body(&stream, body.as_bytes(), true);
    if gate.forwarded(&stream).is_none() && gate.forwarded_body(&stream).1 == 0 {
        gate.sync(|_, _| {});
    }
    assert_eq!(gate.forwarded_body(&stream), (r#"{"owner":"customer-1","customer_id":"evil"}"#.into(), 1));
}

#[test]
fn the_older_paths_are_rewritten_and_recorded_as_they_were_sent() {
    let mut gate = Gate::new("CP");
    for (path, expected) in [
        ("/auth/google/verify", "/api/v1/auth/google/verify"),
        ("/api/auth/google/verify?a=%2F&b", "/api/v1/auth/google/verify?a=%2F&b"),
        ("/api/v1/auth/google/verify", "/api/v1/auth/google/verify"),
        ("/auth/otp/start", "/api/v1/auth/otp/start"),
        ("/api/audit/events", "/api/v1/audit/events"),
    ] {
        let stream = gate.send(&Request::new("POST", path).body("{}"));
        assert_eq!(path_of(&gate, &stream), expected);
        assert_eq!(gate.forwarded_body(&stream).1, 0, "no body is read that nobody needs");
        gate.complete(&stream);
        assert_eq!(gate.last_record()["path"], json!(path.split('?').next().unwrap()));
    }
}

#[test]
fn what_a_rewritten_request_asks_of_the_host() {
    let mut gate = gate();
    let extra = |gate: &mut Gate, request: &Request| {
        let stream = gate.send(request);
        gate.run(Duration::ZERO);
        let calls = gate.host.take_calls();
        gate.complete(&stream);
        gate.host.take_calls();
        calls
    };
    let plain = extra(&mut gate, &Request::new("GET", "/api/v1/tasks").bearer(&customer()));
    let query = extra(&mut gate, &Request::new("GET", "/api/v1/receipts?customer_id=x").bearer(&customer()));
    let added: Vec<&String> = query.iter().filter(|call| !plain.contains(call)).collect();
    assert_eq!((added, query.len()), (vec![&String::from("set_request_header :path")], plain.len() + 1));
}
