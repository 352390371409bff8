//! What each outcome asks of Envoy. A call costs 0.06 µs (a metric) to 1.3 µs (a property): a new one on these lists is a
//! decision.

use super::gate::{Gate, Request};
use super::tokens;
use crate::settings::Settings;
use std::rc::Rc;

fn read() -> Request {
    Request::new("GET", "/api/v1/tasks").with("user-agent", "test").with("x-correlation-id", "c-1")
}

/// From the arrival to the record, on a listener that tells backends what it must.
fn calls(gate: &mut Gate, request: &Request) -> Vec<String> {
    gate.settings = Rc::new(Settings::parse(br#"{"gateway":"PLANT"}"#).unwrap().0);
    // Metrics are defined at their first use, tokens verified at theirs.
    for _ in 0..2 {
        gate.host.take_calls();
        let stream = gate.begin(request);
        if gate.forwarded(&stream).is_some() {
            gate.respond(&stream, 200);
        }
        gate.finish(&stream);
    }
    gate.host.take_calls()
}

const PERMIT: [&str; 11] = [
    "now",
    "request_headers",
    "remove_request_header authorization",
    "add_request_header x-request-id",
    "add_request_header x-user-id",
    "add_request_header x-customer-id",
    "now",
    "response_status",
    "set_response_header x-correlation-id",
    "now",
    "increment",
];

const DENY: [&str; 6] = ["now", "request_headers", "reply", "now", "leave_word plant_gateway_record_id", "increment"];

#[test]
fn a_permit_with_a_known_token_and_a_lease() {
    let mut gate = Gate::new("PLANT");
    let request = read().bearer(&tokens::admin());
    gate.warm(&request);
    assert_eq!(calls(&mut gate, &request), PERMIT);
}

#[test]
fn each_header_that_a_client_must_not_send_costs_one_call() {
    let mut gate = Gate::new("PLANT");
    let request = read().bearer(&tokens::admin());
    gate.warm(&request);
    let spoofed = calls(&mut gate, &request.with("x-user-id", "a").with("x-gateway", "b"));
    assert_eq!(spoofed.len(), PERMIT.len() + 2);
}

#[test]
fn a_denial() {
    let mut gate = Gate::new("PLANT");
    assert_eq!(calls(&mut gate, &read()), DENY);
    assert_eq!(calls(&mut gate, &read().bearer(&tokens::on_trial(-1))), DENY);
}

#[test]
fn no_route() {
    let mut gate = Gate::new("PLANT");
    assert_eq!(calls(&mut gate, &Request::new("GET", "/none")), DENY);
    assert_eq!(calls(&mut gate, &Request::new("GET", "/a/../b")), DENY);
}

#[test]
fn a_token_that_was_not_seen_before_costs_one_metric_where_the_host_does_not_verify() {
    let mut gate = Gate::new("PLANT");
    let known = read().bearer(&tokens::admin());
    gate.warm(&known);
    calls(&mut gate, &known);
    let stream = gate.begin(&read().bearer(&tokens::token(serde_json::json!({ "jti": "another" }))));
    gate.complete(&stream);
    assert_eq!(gate.host.take_calls().len(), PERMIT.len() + 1);
}

#[test]
fn the_client_s_address_is_asked_for_only_where_it_is_counted() {
    let mut gate = Gate::new("CP");
    let limited = calls(&mut gate, &Request::new("POST", "/api/v1/auth/refresh"));
    let free = calls(&mut gate, &Request::new("POST", "/api/v1/auth/logout"));
    assert_eq!(limited.iter().filter(|call| *call == "property source.address").count(), 1);
    assert_eq!(limited.len(), free.len() + 1);
    assert!(!free.iter().any(|call| call.starts_with("property")));
}

#[test]
fn a_revoked_token_costs_what_any_denial_costs() {
    let mut gate = Gate::new("PLANT");
    let request = read().bearer(&tokens::admin());
    gate.warm(&request);
    gate.revoke(&[(authn::Mark::of(decision_core::principal::RevocationKind::Subject, "legacy", "user-1"), i64::MAX)]);
    assert_eq!(calls(&mut gate, &request), DENY);
}
