//! Streams and WebSockets: what makes a request one, and what Envoy and the backend are told.

use super::gate::{Gate, Request, Stream};
use super::host::{FakeStream, find};
use super::tokens;
use crate::pipeline::Step;
use serde_json::json;
use wire::policy::{Approval, ExchangeKind, Method, PolicyDocument};

const TIMEOUT: &str = "x-envoy-upstream-rq-timeout-ms";

fn as_kind(kind: ExchangeKind) -> impl FnOnce(&mut PolicyDocument) {
    move |document| {
        let route = document.routes.iter_mut().find(|route| route.name == "tasks.list").unwrap();
        (route.exchange, route.methods) = (kind, vec![Method::Get]);
    }
}

fn read() -> Request {
    Request::new("GET", "/api/v1/tasks").bearer(&tokens::admin())
}

fn upgrade(protocol: &str) -> Request {
    read().with("connection", "keep-alive, Upgrade").with("upgrade", protocol)
}

/// HTTP/2 (RFC 8441 §4).
fn connect(protocol: &str) -> Request {
    Request::new("CONNECT", "/api/v1/tasks").with(":protocol", protocol).bearer(&tokens::admin())
}

/// The headers arrive, and what follows them is no body.
fn open(gate: &mut Gate, request: &Request) -> Stream {
    gate.begin_stream(FakeStream { request: request.headers.clone(), ..FakeStream::default() }, false)
}

fn gate(kind: ExchangeKind) -> Gate {
    let mut gate = Gate::with("PLANT", as_kind(kind));
    gate.warm(&Request::new("GET", "/api/v1/agents").bearer(&tokens::admin()));
    gate
}

#[test]
fn a_websocket_is_opened_where_the_route_is_for_it_in_http_1_and_2() {
    let mut gate = gate(ExchangeKind::Websocket);
    for request in [upgrade("websocket"), upgrade("WebSocket"), connect("websocket")] {
        let stream = open(&mut gate, &request);
        assert_eq!(find(&gate.forwarded(&stream).unwrap(), TIMEOUT).as_deref(), Some("0"));
        // Frames are no body: they pass, and none is read.
        gate.host.take_calls();
        assert_eq!(gate.body(&stream, &[0x81, 0x85, 1, 2, 3], false), Some(Step::Forward));
        assert!(gate.host.take_calls().is_empty());
        gate.respond(&stream, 101);
        gate.finish(&stream);
        assert_eq!(gate.last_record()["status"], json!(101));
    }
    gate.assert_nothing_is_left();
}

#[test]
fn a_websocket_that_waits_for_a_lease_or_an_approval_waits_for_no_body() {
    let mut gate = Gate::with("PLANT", |document| {
        as_kind(ExchangeKind::Websocket)(document);
        document.routes.iter_mut().find(|route| route.name == "tasks.list").unwrap().approval = Approval::Governor;
    });
    let stream = open(&mut gate, &upgrade("websocket"));
    assert_eq!(stream.step, Step::Held, "for a lease, and then for the control plane's word");
    assert_eq!(gate.body(&stream, &[1, 2, 3], false), None);
    gate.sync(|_, _| {});
    let asked = gate.sync(|_, _| {});
    assert_eq!(asked.approvals.len(), 1);
    gate.finish(&stream);
    gate.assert_nothing_is_left();
}

#[test]
fn an_upgrade_is_refused_everywhere_else() {
    let mut gate = gate(ExchangeKind::Websocket);
    let refused = |gate: &mut Gate, request: &Request| {
        let stream = open(gate, request);
        let reply = gate.reply(&stream).unwrap();
        gate.finish(&stream);
        (reply.status, gate.last_record()["reason"].as_str().unwrap().to_owned())
    };
    let to_agents = |request: Request| {
        let mut request = request;
        request.headers.retain(|(name, _)| name != b":path");
        request.with(":path", "/api/v1/agents")
    };
    for request in [
        to_agents(upgrade("websocket")),
        to_agents(connect("websocket")),
        to_agents(upgrade("h2c")),
        upgrade("h2c"),
        upgrade("websocket, h2c"),
        upgrade("websocket").with("upgrade", "h2c"),
        upgrade(""),
        read(),
    ] {
        assert_eq!(refused(&mut gate, &request), (400, "upgrade_refused".into()), "{:?}", request.headers);
    }
    // CONNECT to anything else is no route.
    for request in [connect("connect-udp"), Request::new("CONNECT", "/api/v1/tasks").bearer(&tokens::admin())] {
        assert_eq!(refused(&mut gate, &request).1, "no_route");
    }
    // Without `Connection: upgrade` nothing is asked for (RFC 9110 §7.8), and Envoy takes the header away.
    let stream = open(&mut gate, &to_agents(read().with("upgrade", "websocket")));
    assert_eq!(stream.step, Step::Forward);
}

#[test]
fn a_stream_has_no_time_out_of_envoy_s_and_no_client_chooses_one() {
    let mut gate = gate(ExchangeKind::Stream);
    for request in [read(), read().with(TIMEOUT, "1"), read().with(TIMEOUT, "1").with(TIMEOUT, "2")] {
        let stream = gate.begin(&request);
        let sent = gate.forwarded(&stream).unwrap();
        let values: Vec<&[u8]> = sent.iter().filter(|(name, _)| name == TIMEOUT.as_bytes()).map(|(_, value)| &value[..]).collect();
        assert_eq!(values, [b"0"]);
        gate.complete(&stream);
    }
    for name in
        [TIMEOUT, "x-envoy-upstream-rq-per-try-timeout-ms", "x-envoy-max-retries", "x-envoy-retry-on", "x-envoy-hedge-on-per-try-timeout"]
    {
        let stream = gate.begin(&Request::new("GET", "/api/v1/agents").bearer(&tokens::admin()).with(name, "9"));
        assert_eq!(find(&gate.forwarded(&stream).unwrap(), name), None, "{name}");
        gate.complete(&stream);
    }
}

#[test]
fn a_plain_route_s_headers_are_what_they_were() {
    let mut gate = gate(ExchangeKind::Plain);
    let stream = gate.begin(&read());
    assert_eq!(find(&gate.forwarded(&stream).unwrap(), TIMEOUT), None);
}
