//! The echo backend tells the truth about what it got, and does what it is asked.
#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, StatusCode};
use e2e::echo::{Counter, Role, app};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the answer is JSON")
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the answer is text")
    }
}

async fn ask_with(counter: &Counter, request: Request<Body>) -> Answer {
    let response = app(Role::Production, counter.clone()).oneshot(request).await.expect("never fails");
    let (head, body) = response.into_parts();
    Answer { status: head.status, headers: head.headers, body: body.collect().await.expect("whole").to_bytes().to_vec() }
}

async fn ask(headers: &[(&str, &[u8])]) -> Answer {
    let mut request = Request::new(Body::empty());
    for (name, value) in headers {
        let name: axum::http::HeaderName = name.parse().expect("a header name");
        request.headers_mut().append(name, HeaderValue::from_bytes(value).expect("a header value"));
    }
    ask_with(&Counter::default(), request).await
}

#[tokio::test]
async fn pictures_the_request() {
    let request = Request::builder()
        .method(Method::PUT)
        .uri("/a%2Fb/c?x=1&y=%20")
        .header("x-twice", "one")
        .header("x-twice", "two")
        .header("x-latin", HeaderValue::from_bytes(b"caf\xe9").expect("opaque bytes are allowed"))
        .body(Body::from("hällo"))
        .expect("a request");
    let answer = ask_with(&Counter::default(), request).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["x-echo-listener"], "production");
    assert!(answer.text().starts_with(r#"{"method":"PUT","path":"/a%2Fb/c","query":"x=1&y=%20","headers":[["#));
    let picture = answer.json();
    assert_eq!(picture["headers"], json!([["x-twice", "one"], ["x-twice", "two"], ["x-latin", "caf\u{fffd}"]]));
    assert_eq!(picture["body"], "hällo");
    assert_eq!(picture.get("body_base64"), None);
}

#[tokio::test]
async fn shows_a_binary_body_as_base64() {
    let answer = ask_with(&Counter::default(), Request::new(Body::from(vec![0xff, 0x00]))).await;
    assert_eq!(answer.json()["body"], Value::Null);
    assert_eq!(answer.json()["body_base64"], "/wA=");
}

#[tokio::test]
async fn obeys_status_body_and_headers() {
    let answer = ask(&[
        ("x-echo-status", b"418"),
        ("x-echo-body-base64", b"aGk="),
        ("x-echo-set-x-cost", b"12"),
        ("x-echo-set-set-cookie", b"a=1"),
        ("x-echo-set-set-cookie", b"b=2"),
        ("x-echo-set-content-type", b"text/event-stream"),
    ])
    .await;
    assert_eq!(answer.status, StatusCode::IM_A_TEAPOT);
    assert_eq!(answer.body, b"hi");
    assert_eq!(answer.headers["x-cost"], "12");
    assert_eq!(answer.headers.get_all("set-cookie").iter().count(), 2);
    assert_eq!(answer.headers.get_all("content-type").iter().collect::<Vec<_>>(), ["text/event-stream"]);
}

#[tokio::test]
async fn sends_no_body_with_204() {
    let answer = ask(&[("x-echo-status", b"204")]).await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::NO_CONTENT, 0));
}

#[tokio::test]
async fn delays_as_long_as_asked() {
    let start = std::time::Instant::now();
    let answer = ask(&[("x-echo-delay-ms", b"120")]).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(start.elapsed() >= std::time::Duration::from_millis(120));
}

#[tokio::test]
async fn refuses_what_it_cannot_do() {
    let cases: [(&str, &[u8], &str); 14] = [
        ("x-echo-status", b"banana", "`x-echo-status` must be a number from 200 to 599"),
        ("x-echo-status", b"101", "`x-echo-status` must be a number from 200 to 599"),
        ("x-echo-status", b"600", "`x-echo-status` must be a number from 200 to 599"),
        ("x-echo-status", b"\xff", "`x-echo-status` must be a number from 200 to 599"),
        ("x-echo-delay-ms", b"-1", "`x-echo-delay-ms` must be a whole number of milliseconds"),
        ("x-echo-delay-ms", b"", "`x-echo-delay-ms` must be a whole number of milliseconds"),
        ("x-echo-body-base64", b"%%%", "`x-echo-body-base64` must be standard base64 with padding"),
        ("x-echo-set-content-length", b"5", "`x-echo-set-content-length` cannot name a response header"),
        ("x-echo-header-bytes", b"1000000", "`x-echo-header-bytes` must be a number up to 200000"),
        ("x-echo-events", b"3", "`x-echo-events` must be `COUNT every MILLISECONDS`"),
        ("x-echo-events", b"3 every 0", "`x-echo-events` must be `COUNT every MILLISECONDS`"),
        ("x-echo-upgrade", b"1", "`x-echo-upgrade` needs a request for an upgrade"),
        ("x-echo-set-transfer-encoding", b"x", "`x-echo-set-transfer-encoding` cannot name a response header"),
        ("x-echo-set-", b"5", "`x-echo-set-` cannot name a response header"),
    ];
    for (name, value, expected) in cases {
        let answer = ask(&[(name, value)]).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{name}");
        assert!(answer.text().contains(expected), "{name}: {}", answer.text());
    }
    let answer = ask(&[("x-echo-status", b"200"), ("x-echo-status", b"500")]).await;
    assert!(answer.text().contains("`x-echo-status` is given more than once"), "{}", answer.text());
}

#[tokio::test]
async fn counts_requests_but_not_questions_about_the_count() {
    let counter = Counter::default();
    let count = |method: Method| {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        *request.uri_mut() = "/__echo/count".parse().expect("a path");
        request
    };
    for _ in 0..3 {
        ask_with(&counter, Request::new(Body::empty())).await;
    }
    let mut refused = Request::new(Body::empty());
    refused.headers_mut().insert("x-echo-status", HeaderValue::from_static("1"));
    ask_with(&counter, refused).await;
    assert_eq!(ask_with(&counter, count(Method::GET)).await.body, b"4");
    assert_eq!(ask_with(&counter, count(Method::GET)).await.body, b"4");
    assert_eq!(ask_with(&counter, count(Method::DELETE)).await.status, StatusCode::NO_CONTENT);
    assert_eq!(ask_with(&counter, count(Method::GET)).await.body, b"0");
}

#[tokio::test]
async fn sends_events_one_after_the_other() {
    let start = std::time::Instant::now();
    let answer = ask(&[("x-echo-events", b"3 every 60")]).await;
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    let events: Vec<&str> = answer.text().split_terminator("\n\n").collect();
    assert_eq!(events.len(), 3, "{}", answer.text());
    assert!(events.iter().enumerate().all(|(number, event)| event.starts_with(&format!("data: {{\"event\":{number},\"sent_us\":"))));
    assert!(start.elapsed() >= std::time::Duration::from_millis(120));
}

#[tokio::test]
async fn hangs_up_and_forgives_the_second_try() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it has one");
    drop(listener);
    let serving = tokio::spawn(e2e::echo::serve(address, None));
    let url = format!("http://{address}");
    let ask = |extra: &[(&str, &[u8])]| {
        let request = e2e::raw::request("GET", b"/", &[&[("x-echo-hang-up", b"1".as_slice())], extra].concat());
        let url = url.clone();
        async move {
            for _ in 0..100 {
                if let Ok(answer) = e2e::raw::send(&url, &request).await {
                    return answer;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            e2e::raw::RawAnswer::default()
        }
    };
    assert_eq!(ask(&[]).await.status, None);
    assert_eq!(ask(&[]).await.status, None);
    assert_eq!(ask(&[("x-echo-only-first", b"a")]).await.status, None);
    assert_eq!(ask(&[("x-echo-only-first", b"a")]).await.status, Some(200));
    let counted = e2e::raw::send(&url, &e2e::raw::request("GET", b"/__echo/count", &[])).await.expect("it listens");
    assert_eq!(counted.body(), "4");
    serving.abort();
}

#[tokio::test]
async fn requests_are_counted_by_name_too() {
    let counter = Counter::default();
    for name in ["a", "b", "a"] {
        let request = Request::get("/").header("x-echo-tally", name).body(Body::empty()).expect("a request");
        ask_with(&counter, request).await;
    }
    ask_with(&counter, Request::get("/").body(Body::empty()).expect("a request")).await;
    let tally = ask_with(&counter, Request::get("/__echo/tally").body(Body::empty()).expect("a request")).await;
    assert_eq!(tally.json(), json!({"a": 2, "b": 1}));
    assert_eq!(counter.seen(), 4);
}
