//! Whatever a token claims and a client sends: no header of ours breaks out of its line, and nothing panics.

use super::gate::{Gate, NOW, Request};
use super::host::{FakeStream, Headers};
use super::tokens;
use crate::pipeline::Step;
use proptest::prelude::*;
use serde_json::{Value, json};

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

fn is_one_line(value: &[u8]) -> bool {
    !value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

/// Text that tries to become more than text.
fn claim() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-z0-9@.-]{1,12}",
        1 => "\\PC{0,12}",
        1 => any::<String>(),
        1 => prop::sample::select(vec!["a\r\nx-user-id: b", "a\nb", "a\0b", "\u{85}", "a\u{2028}b", " a", "", "a,b", "\u{e9}", "a\tb", "\u{7f}"]).prop_map(String::from),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof!["[!-~]{0,12}".prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..12)]
}

/// Every header that left the filter and was not the client's own.
fn emitted(sent: &Headers, request: &Request) -> Headers {
    sent.iter().filter(|header| !request.headers.contains(header)).cloned().collect()
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn no_claim_and_no_id_gets_a_line_break_into_a_header(
        (subject, user, email) in (claim(), claim(), claim()),
        (customer, agent) in (claim(), claim()),
        roles in prop::collection::vec(claim(), 0..3),
        ids in prop::collection::vec((prop::sample::select(&["x-correlation-id", "x-causation-id", "x-request-id", "x-user-id"][..]), bytes()), 0..5),
        permitted in any::<bool>(),
    ) {
        let mut gate = Gate::new("CP");
        let roles: Vec<String> = roles.into_iter().chain(["user".into()]).collect();
        let claims = json!({"sub": subject, "user_id": user, "email": email, "customer_id": customer, "agent_id": agent, "roles": roles});
        let path = if permitted { "/api/v1/auth/validate" } else { "/api/v1/none" };
        let request = ids.iter().fold(Request::new("GET", path).bearer(&tokens::token(claims)), |request, (name, value)| request.with(name, value));
        let stream = gate.begin(&request);
        if stream.step == Step::Held {
            gate.sync(|_, _| {});
        }
        if let Some(sent) = gate.forwarded(&stream) {
            for (name, value) in emitted(&sent, &request) {
                prop_assert!(is_one_line(&value), "{}: {:?}", String::from_utf8_lossy(&name), value);
            }
            gate.respond(&stream, 200);
            prop_assert!(gate.host.stream(stream.context).response.iter().all(|(_, value)| is_one_line(value)));
        } else {
            let reply = gate.reply(&stream).unwrap();
            prop_assert!(reply.headers.iter().all(|(_, value)| is_one_line(value)));
            prop_assert!(serde_json::from_slice::<Value>(&reply.body).is_ok());
        }
        gate.finish(&stream);
        prop_assert_eq!((gate.held(), gate.awaited()), (0, 0));
        let _ = gate.last_record();
    }

    /// Well-formed blocks with any bytes in them.
    #[test]
    fn no_header_makes_the_filter_panic_or_forward_undecided(
        headers in prop::collection::vec((name(), bytes()), 0..12),
        end_of_stream in any::<bool>(),
        gateway in prop::sample::select(&["CP", "PP", "PLANT"][..]),
    ) {
        let mut gate = Gate::new(gateway);
        let stream = gate.begin_stream(FakeStream { request: headers.clone(), ..FakeStream::default() }, end_of_stream);
        if !end_of_stream {
            gate.body(&stream, b"body", true);
        }
        if stream.step == Step::Forward {
            let method = headers.iter().rfind(|(name, _)| name == b":method");
            prop_assert!(method.is_some_and(|(_, value)| value.is_ascii()));
        }
        gate.finish(&stream);
        let _ = gate.last_record();
    }

    /// Any bytes at all.
    #[test]
    fn no_block_makes_the_filter_panic(block in prop::collection::vec(any::<u8>(), 0..200), cold in any::<bool>()) {
        let mut gate = if cold { Gate::cold("PLANT", Default::default()) } else { Gate::new("PLANT") };
        let stream = gate.begin_stream(FakeStream { raw: Some(block), ..FakeStream::default() }, true);
        prop_assert!(stream.step != Step::Forward);
        gate.finish(&stream);
    }

    /// The control plane's answers are not a client's, but a filter that panics takes every request with it.
    #[test]
    fn no_answer_of_the_control_plane_makes_the_filter_panic(body in prop::collection::vec(any::<u8>(), 0..200), status in 100..600_u16) {
        let mut gate = Gate::new("PLANT");
        let stream = gate.begin(&Request::new("GET", "/api/v1/tasks").bearer(&tokens::admin()));
        let (call, _) = gate.sync_call().unwrap();
        gate.answer(&call, &[(":status", status.to_string().as_bytes())], body.clone());
        prop_assert!(gate.forwarded(&stream).is_none());
        gate.finish(&stream);
        gate.run(std::time::Duration::from_millis(600));
        if let Some(poll) = gate.take_call("/data-plane/v1/bundle") {
            gate.answer(&poll, &[(":status", status.to_string().as_bytes()), ("etag", b"\"x\"")], body);
        }
        prop_assert!(gate.vm.borrow().active.as_ref().is_some_and(|active| active.version.activation == 1));
    }
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::sample::select(&[
            ":method", ":path", ":authority", "authorization", "accept", "content-type", "x-approval-id", "x-cp-registration-key",
            "x-correlation-id", "x-user-id", "x-gateway",
        ][..]).prop_map(|name| name.as_bytes().to_vec()),
        1 => bytes(),
    ]
}

#[test]
fn ids_sort_by_time_and_differ() {
    let mut source = crate::ids::IdSource::new();
    let ids: Vec<_> = (0..100_u64).map(|index| source.request_id(NOW.plus(std::time::Duration::from_millis(index))).bytes()).collect();
    assert!(ids.is_sorted() && ids.windows(2).all(|pair| pair[0] != pair[1]));
}
