//! The caller's customer id is what the backend gets, however the client spells another one: in the query, in the path, in the body.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

use cli::stack::{Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::http::{Answer, Ask, Client};
use e2e::raw;
use e2e::stacks::{InUse, Shared, options, ports, told};
use serde_json::{Value, json};

static STACK: Shared = Shared::new(|| Stack::start(options("ownership", ports::OWNERSHIP).unwrap()));

fn stack() -> InUse {
    STACK.get().unwrap_or_else(|error| panic!("{}", told(&error)))
}

fn token(state: &State) -> String {
    mint(&state.issuers["cp"], &TokenSpec::new("owner", &["customer_admin"]).customer("c 1/é")).unwrap()
}

async fn cp(state: &State, ask: Ask) -> Answer {
    Client::new(&state.gateways["CP"]).send(&ask.bearer(&token(state))).await.unwrap()
}

const MINE: &str = "customer_id=c%201%2F%C3%A9";

#[tokio::test]
async fn every_spelling_in_the_query_gives_way() {
    let stack = stack();
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
        let answer = cp(stack.state(), Ask::get(&path)).await;
        assert_eq!(answer.status, 200, "{sent}: {}", answer.text());
        assert_eq!(answer.json()["query"], format!("{kept}{MINE}"), "{sent}");
    }
}

#[tokio::test]
async fn the_segment_of_the_path_gives_way() {
    let stack = stack();
    let answer = cp(stack.state(), Ask::get("/api/v1/payments/subscriptions/by-customer/evil?page=2")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let picture = answer.json();
    assert_eq!(picture["path"], "/api/v1/payments/subscriptions/by-customer/c%201%2F%C3%A9");
    assert_eq!(picture["query"], "page=2");
}

fn body_of(answer: &Answer) -> Value {
    serde_json::from_str(answer.json()["body"].as_str().unwrap_or_else(|| panic!("{}", answer.text()))).unwrap()
}

#[tokio::test]
async fn the_key_in_the_body_gives_way_and_the_rest_stays() {
    let stack = stack();
    for sent in [
        r#"{"amount":12345678901234567890.10,"customer_id":"evil","nested":{"customer_id":"kept"}}"#,
        r#"{"amount":12345678901234567890.10,"nested":{"customer_id":"kept"}}"#,
        r#"{"amount":12345678901234567890.10,"cust\u006fmer_id":"evil","nested":{"customer_id":"kept"}}"#,
        r#"{"amount":12345678901234567890.10,"Customer_ID":"evil","nested":{"customer_id":"kept"}}"#,
    ] {
        let ask = Ask::post("/api/v1/payments/razorpay/order").header("content-type", "text/plain").body(sent);
        let answer = cp(stack.state(), ask).await;
        assert_eq!(answer.status, 200, "{sent}: {}", answer.text());
        let picture = answer.json();
        let text = picture["body"].as_str().unwrap();
        assert!(text.contains("12345678901234567890.10"), "{text}");
        assert_eq!(text.to_ascii_lowercase().matches("customer_id\"").count(), 2, "{text}");
        let body = body_of(&answer);
        assert_eq!((&body["customer_id"], &body["nested"]["customer_id"]), (&json!("c 1/é"), &json!("kept")), "{text}");
        let header = |name: &str| {
            let headers = picture["headers"].as_array().unwrap().iter();
            headers.filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(header("content-type"), ["application/json"]);
        let length = header("content-length");
        assert!(length.is_empty() || length == [text.len().to_string()], "{length:?} for {} bytes", text.len());
    }
}

#[tokio::test]
async fn a_body_that_has_no_one_meaning_is_refused() {
    let stack = stack();
    let large = format!(r#"{{"customer_id":"evil","text":"{}"}}"#, "a".repeat(300 * 1024));
    for (sent, status) in [
        (r#"["customer_id"]"#, 400),
        (r#""customer_id""#, 400),
        ("customer_id=evil", 400),
        ("", 400),
        (r#"{"customer_id":"evil","customer_id":"worse"}"#, 400),
        (r#"{"customer_id":"evil","customer\u005fid":"worse"}"#, 400),
        (r#"{"customer_id":"evil","Customer_Id":"worse"}"#, 400),
        (r#"{"a":1,"a":2}"#, 400),
        (r#"{"customer_id":"evil"} {"#, 400),
        ("\u{feff}{}", 400),
        (&large, 413),
    ] {
        let ask = Ask::post("/api/v1/payments/razorpay/order").header("content-type", "application/json").body(sent.to_owned());
        let answer = cp(stack.state(), ask).await;
        assert_eq!(answer.status, status, "{}: {}", &sent[..sent.len().min(80)], answer.text());
        assert_eq!(answer.json()["check"], "ownership", "{}", answer.text());
    }
    let compressed = Ask::post("/api/v1/payments/razorpay/order").header("content-encoding", "gzip").body(r#"{"a":1}"#);
    assert_eq!(cp(stack.state(), compressed).await.status, 400);
}

/// In pieces, with an announced length and without.
#[tokio::test]
async fn a_body_in_pieces_is_rewritten_once() {
    let stack = stack();
    let state = stack.state();
    let head = |framing: &str| {
        format!(
            "POST /api/v1/payments/razorpay/order HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n{framing}\r\nconnection: close\r\n\r\n",
            token(state)
        )
    };
    let body = r#"{"customer_id":"evil","amount":1}"#;
    let chunked: String = body.chars().map(|byte| format!("1\r\n{byte}\r\n")).collect::<String>() + "0\r\n\r\n";
    for request in [
        head("transfer-encoding: chunked") + &chunked,
        head(&format!("content-length: {}", body.len())) + body,
        head("transfer-encoding: chunked\r\ntrailer: x-checksum") + chunked.trim_end() + "\r\nx-checksum: 1\r\n\r\n",
    ] {
        let answer = raw::send(&state.gateways["CP"], request.as_bytes()).await.unwrap();
        assert_eq!(answer.status, Some(200), "{}", answer.text);
        assert!(answer.text.contains(r#"\"customer_id\":\"c 1/é\""#) && !answer.text.contains("evil"), "{}", answer.text);
    }
}

#[tokio::test]
async fn a_user_without_a_customer_owns_nothing() {
    let stack = stack();
    let state = stack.state();
    let nobody = mint(&state.issuers["cp"], &TokenSpec::new("no-customer", &["customer_admin"])).unwrap();
    for ask in [Ask::get("/api/v1/invoices"), Ask::get("/api/v1/payments/subscriptions/by-customer/evil")] {
        let answer = Client::new(&state.gateways["CP"]).send(&ask.bearer(&nobody)).await.unwrap();
        assert_eq!(answer.status, 401, "{}", answer.text());
        assert_eq!(answer.json()["detail"], "Missing customer_id in auth context");
        assert!(answer.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")));
    }
}
