//! Ownership through a real Envoy: the customer id of the token reaches the backend in query, path and body, over HTTP/1.1 and HTTP/2,
//! with and without a length, with trailers, and whether or not the request had to wait for a lease.

use std::time::Duration;

use cli::stack::{Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Answer, Ask, Client};
use e2e::load::backend_tally;
use e2e::raw;
use e2e::stacks::{InUse, Shared, options, ports, told};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DRAFT: &str = "/api/v1/hired-agents/draft";

static STACK: Shared = Shared::new(|| Stack::start(options("ownership", ports::OWNERSHIP).unwrap()));

fn stack() -> InUse {
    STACK.get().unwrap_or_else(|error| panic!("{}", told(&error)))
}

/// A customer who was not heard of before waits for a lease first.
fn token(state: &State, customer: &str) -> String {
    mint(&state.issuers["cp"], &TokenSpec::new(customer, &["customer_user"]).customer(customer)).unwrap()
}

async fn cp(state: &State, ask: &Ask) -> Answer {
    Client::new(&state.gateways["CP"]).send(ask).await.unwrap()
}

fn body_of(picture: &Value) -> Value {
    serde_json::from_str(picture["body"].as_str().unwrap_or_else(|| panic!("no body: {picture}"))).unwrap()
}

#[tokio::test]
async fn query_and_path_name_the_token_s_customer() {
    let stack = stack();
    let state = stack.state();
    let bearer = token(state, "asks for another");
    for (target, path, query) in [
        ("/api/v1/invoices?customer_id=evil&a=1", "/api/v1/invoices", "a=1&customer_id=asks%20for%20another"),
        ("/api/v1/receipts?%2563ustomer_id=evil;a=1;Customer_ID[]=evil", "/api/v1/receipts", "a=1&customer_id=asks%20for%20another"),
        ("/api/v1/payments/subscriptions/by-customer/evil?a=1", "/api/v1/payments/subscriptions/by-customer/asks%20for%20another", "a=1"),
    ] {
        let answer = cp(state, &Ask::get(target).bearer(&bearer)).await;
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        assert_eq!((answer.json()["path"].as_str(), answer.json()["query"].as_str()), (Some(path), Some(query)), "{target}");
    }
    let older = cp(state, &Ask::post("/auth/google/verify?a=1").json(&json!({}))).await;
    assert_eq!((older.status, older.json()["path"].as_str()), (200, Some("/api/v1/auth/google/verify")), "{}", older.text());
    let correlation = older.header("x-correlation-id").unwrap().to_owned();
    let record = Admin::new(state).audit_record(&correlation, Duration::from_secs(10)).await.unwrap().unwrap();
    assert_eq!(record["endpoint"].as_str(), Some("/auth/google/verify"), "{record}");
}

#[tokio::test]
async fn every_spelling_in_the_query_gives_way() {
    let stack = stack();
    let state = stack.state();
    let bearer = token(state, "c 1/é");
    let mine = "customer_id=c%201%2F%C3%A9";
    for (sent, kept) in [
        ("", ""),
        ("customer_id=evil", ""),
        ("customer_id=evil&customer_id=worse", ""),
        ("a=1&customer_id=evil&b=2", "a=1&b=2&"),
        ("Customer_Id=evil", ""),
        ("CUSTOMER_ID=evil", ""),
        ("customer%5Fid=evil", ""),
        ("customer%5fid=evil", ""),
        ("%63ustomer_id=evil", ""),
        ("%2563ustomer_id=evil", ""),
        ("customer_id%5B%5D=evil", ""),
        ("customer_id[]=evil", ""),
        ("customer_id[0]=evil", ""),
        ("customer_id", ""),
        ("customer_id=", ""),
        ("+customer_id=evil", ""),
        ("customer_id+=evil", ""),
        ("customer_id%20=evil", ""),
        ("customer_id%00=evil", ""),
        ("a=1;customer_id=evil", "a=1&"),
        ("my_customer_id=mine&customer_idx=2", "my_customer_id=mine&customer_idx=2&"),
        ("q=customer_id%3Devil", "q=customer_id%3Devil&"),
        ("a=%zz&b=%", "a=%zz&b=%&"),
    ] {
        let path = if sent.is_empty() { "/api/v1/invoices".to_owned() } else { format!("/api/v1/invoices?{sent}") };
        let answer = cp(state, &Ask::get(&path).bearer(&bearer)).await;
        assert_eq!(answer.status, 200, "{sent}: {}", answer.text());
        assert_eq!(answer.json()["query"], format!("{kept}{mine}"), "{sent}");
    }
}

#[tokio::test]
async fn a_body_names_the_token_s_customer_whether_or_not_it_waited() {
    let stack = stack();
    let state = stack.state();
    for size in [0, 1_000, 200_000] {
        let customer = format!("body-{size}");
        let bearer = token(state, &customer);
        let padding = "x".repeat(size);
        let given = format!(r#"{{"customer_id":"evil","n":1.50,"padding":"{padding}"}}"#);
        let expected = format!(r#"{{"customer_id":"{customer}","n":1.50,"padding":"{padding}"}}"#);
        // The first waits for a lease, the second has it.
        for _ in 0..2 {
            let ask = Ask::new("PUT", DRAFT).bearer(&bearer).header("content-type", "text/plain").body(given.clone());
            let answer = cp(state, &ask).await;
            assert_eq!((answer.status, answer.header("x-echo-listener")), (200, Some("production")), "{}", answer.text());
            assert!(answer.json()["body"].as_str() == Some(&expected), "{size}: {}", answer.text());
            assert_eq!(answer.echoed("content-length"), [expected.len().to_string()]);
            assert_eq!(answer.echoed("content-type"), ["application/json"]);
        }
    }
}

#[tokio::test]
async fn a_chunked_body_with_trailers_names_the_token_s_customer() {
    let stack = stack();
    let state = stack.state();
    for round in 0..2 {
        let bearer = token(state, "chunked");
        let head = format!(
            "PUT {DRAFT} HTTP/1.1\r\nhost: cp\r\nauthorization: Bearer {bearer}\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\nconnection: close\r\n\r\n"
        );
        let request = [&head, "5\r\n{\"a\":\r\n", "2\r\n1}\r\n", "0\r\nx-t: 1\r\n\r\n"].concat();
        let answer = raw::send(&state.gateways["CP"], request.as_bytes()).await.unwrap();
        assert_eq!(answer.status, Some(200), "{round}: {}", answer.text);
        assert!(answer.text.contains(r#"{\"customer_id\":\"chunked\",\"a\":1}"#), "{round}: {}", answer.text);
    }
}

#[tokio::test]
async fn over_http_2_a_body_names_the_token_s_customer_with_and_without_trailers() {
    let stack = stack();
    let state = stack.state();
    for (round, trailers) in [(0, false), (1, false), (2, true), (3, true)] {
        let customer = if trailers { "h2 with trailers" } else { "h2" };
        let bearer = token(state, customer);
        let picture = http_2(&state.gateways["CP"], &bearer, &[r#"{"a":1,"#, r#""CUSTOMER_ID":"evil"}"#], trailers).await;
        assert_eq!(body_of(&picture), json!({ "a": 1, "customer_id": customer }), "round {round}");
    }
    let refused = http_2(&state.gateways["CP"], &token(state, "h2"), &["[1,", "2]"], false).await;
    assert_eq!((refused["status"].as_u64(), refused["check"].as_str()), (Some(400), Some("ownership")), "{refused}");
}

#[tokio::test]
async fn d34_a_body_that_cannot_carry_the_id_reaches_nobody() {
    let stack = stack();
    let state = stack.state();
    let bearer = token(state, "d34");
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(300_000));
    for (body, status) in
        [("[]", 400), ("customer_id=evil", 400), ("", 400), (r#"{"customer_id":1,"Customer_Id":2}"#, 400), (large.as_str(), 413)]
    {
        let answer = cp(state, &Ask::new("PUT", DRAFT).bearer(&bearer).header("x-echo-tally", "d34").body(body.to_owned())).await;
        assert_eq!((answer.status, answer.json()["check"].as_str()), (status, Some("ownership")), "{}", answer.text());
    }
    let chunked = format!(
        "PUT {DRAFT} HTTP/1.1\r\nhost: cp\r\nauthorization: Bearer {bearer}\r\nx-echo-tally: d34\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n",
        large.len()
    );
    let answer = raw::send(&state.gateways["CP"], chunked.as_bytes()).await.unwrap();
    assert_eq!(answer.status, Some(413), "{}", answer.text);
    // Other tests use the same backend meanwhile. What does reach it is counted under the name.
    assert_eq!(backend_tally(&state.backend).await.unwrap().get("d34"), None, "nothing of this reached the backend");
    cp(state, &Ask::new("PUT", DRAFT).bearer(&bearer).header("x-echo-tally", "d34").body("{}")).await;
    assert_eq!(backend_tally(&state.backend).await.unwrap().get("d34"), Some(&1));
}

/// One PUT over HTTP/2 with prior knowledge (RFC 9113), its body in pieces; what the answer's body says.
async fn http_2(base_url: &str, bearer: &str, pieces: &[&str], trailers: bool) -> Value {
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let mut headers = Vec::new();
    let authorization = format!("Bearer {bearer}");
    for (name, value) in
        [(":method", "PUT"), (":scheme", "http"), (":path", DRAFT), (":authority", "cp"), ("authorization", &authorization)]
    {
        headers.extend(literal(name, value));
    }
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    request.extend(frame(4, 0, 0, &[]));
    request.extend(frame(1, END_HEADERS, 1, &headers));
    for (index, piece) in pieces.iter().enumerate() {
        let last = !trailers && index + 1 == pieces.len();
        request.extend(frame(0, if last { END_STREAM } else { 0 }, 1, piece.as_bytes()));
    }
    if trailers {
        request.extend(frame(1, END_HEADERS | END_STREAM, 1, &literal("x-t", "1")));
    }
    let mut stream = TcpStream::connect(base_url.strip_prefix("http://").unwrap_or(base_url)).await.unwrap();
    stream.write_all(&request).await.unwrap();
    let mut body = Vec::new();
    loop {
        let mut head = [0; 9];
        tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut head)).await.unwrap().unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).await.unwrap();
        if head[3] == 0 {
            body.extend(payload);
            if head[4] & END_STREAM != 0 {
                return serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&body)));
            }
        }
        assert!(head[3] != 3 && head[3] != 7, "the stream was reset or the connection is going away: {}", String::from_utf8_lossy(&body));
    }
}

/// A header field that is never indexed (RFC 7541 §6.2.3).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0x10];
    for text in [name, value] {
        let mut length = text.len();
        if length < 127 {
            field.push(u8::try_from(length).unwrap());
        } else {
            field.push(127);
            length -= 127;
            while length >= 128 {
                field.push(u8::try_from(length % 128 + 128).unwrap());
                length /= 128;
            }
            field.push(u8::try_from(length).unwrap());
        }
        field.extend(text.bytes());
    }
    field
}
