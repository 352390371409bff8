//! A text of its own in every input that a request has, sent to gateways and control plane in requests of every outcome.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cli::stack::State;
use cli::token::{TokenSpec, mint};
use e2e::http::{Ask, Client};
use e2e::raw;
use serde_json::json;

/// Inputs that must be found nowhere.
pub(crate) const SECRET: [&str; 23] = [
    "a bearer that is no token",
    "another scheme of Authorization",
    "a proxy's credential",
    "a cookie",
    "an API key",
    "a wrong registration key",
    "a header that nobody has named",
    "the user agent",
    "the referrer",
    "the host",
    "a parameter of the query",
    "a parameter's name",
    "a query that is no list of parameters",
    "a JSON body",
    "a form",
    "a subprotocol of a WebSocket",
    "the user in a URL",
    "the password in a URL",
    "a trailer",
    "a header without a colon",
    "a header that is too long",
    "the claim `email`",
    "a claim that nobody reads",
];

/// Inputs that are recorded by design.
pub(crate) const RECORDED: [&str; 3] = ["the path", "the correlation id", "the causation id"];

/// The text of an input: letters and digits alone, the same in every encoding of a URL.
pub(crate) fn text(name: &str) -> String {
    let letters: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("cnry7Qz4{letters}9Vw2")
}

/// A password as `Authorization: Basic` has it.
pub(crate) fn basic() -> String {
    STANDARD.encode(format!("somebody:{}", text("another scheme of Authorization")))
}

/// Sends them all. Returns what refusals said; what the backend echoed is the client's own.
pub(crate) async fn send_all(state: &State) -> Vec<(String, String)> {
    let mut refusals = Vec::new();
    for (gateway, issuer, role) in [("CP", "cp", "customer_user"), ("PP", "pp", "viewer"), ("PLANT", "cp", "customer_admin")] {
        let spec = TokenSpec::new("canary", &[role]).customer("c-1");
        let spec = spec.claim("email", json!(text("the claim `email`"))).claim("ssn", json!(text("a claim that nobody reads")));
        let token = mint(&state.issuers[issuer], &spec).unwrap();
        let url = &state.gateways[gateway];
        for credential in [
            Some(format!("Bearer {token}")),
            Some(format!("Bearer {}", text("a bearer that is no token"))),
            Some(format!("Basic {}", basic())),
            Some(text("another scheme of Authorization")),
            None,
        ] {
            for ask in asks() {
                let ask = credential.iter().fold(ask, |ask, value| ask.header("authorization", value));
                let answer = Client::new(url).send(&ask).await.unwrap();
                if answer.status >= 400 {
                    refusals.push((format!("a refusal with {} of {}", answer.status, ask.line()), answer.text()));
                }
            }
        }
        for bytes in odd(&token) {
            let answer = raw::send(url, &bytes).await.unwrap();
            if answer.status.is_none_or(|status| status >= 400) {
                refusals.push((format!("a refusal with {:?} of what is odd", answer.status), answer.text));
            }
        }
    }
    for (url, path) in
        [(&state.admin, "/admin/v1/audit"), (&state.admin, "/api/v1/audit/records"), (&state.data_plane, "/data-plane/v1/sync")]
    {
        let ask = with_everything(Ask::get(&queried(path))).bearer(&text("a bearer that is no token"));
        let answer = Client::new(url).send(&ask).await.unwrap();
        refusals.push((format!("a refusal with {} of {path}", answer.status), answer.text()));
    }
    refusals
}

fn queried(path: &str) -> String {
    let [value, name, bare] = ["a parameter of the query", "a parameter's name", "a query that is no list of parameters"].map(text);
    format!("{path}?token={value}&{name}=1&{bare}")
}

/// Permitted, refused by each check, public, unknown, ambiguous.
fn asks() -> Vec<Ask> {
    let path = format!("/api/v1/agents/{}", text("the path"));
    let get = [&path, "/api/v1/agents", "/api/v1/admin/users", "/health", &format!("/nowhere/{}", text("the path")), "/api/v1//agents"]
        .map(|path| with_everything(Ask::get(&queried(path))));
    let json = json!({ "password": text("a JSON body"), "model": text("a JSON body") });
    let form = format!("otp={}", text("a form"));
    let post = ["/api/v1/auth/refresh", "/api/v1/tasks", "/api/v1/hired-agents/draft", "/api/v1/customers"].into_iter().flat_map(|path| {
        let ask = || with_everything(Ask::post(&queried(path)));
        let form = ask().header("content-type", "application/x-www-form-urlencoded").body(form.clone());
        [ask().json(&json), form]
    });
    get.into_iter().chain(post).collect()
}

fn with_everything(ask: Ask) -> Ask {
    let headers = [
        ("cookie", "a cookie"),
        ("x-api-key", "an API key"),
        ("x-cp-registration-key", "a wrong registration key"),
        ("x-tenant-note", "a header that nobody has named"),
        ("user-agent", "the user agent"),
        ("referer", "the referrer"),
        ("proxy-authorization", "a proxy's credential"),
        ("sec-websocket-protocol", "a subprotocol of a WebSocket"),
        ("x-correlation-id", "the correlation id"),
        ("x-causation-id", "the causation id"),
    ];
    headers.into_iter().fold(ask, |ask, (header, name)| ask.header(header, text(name)))
}

/// Requests that no client library makes.
fn odd(token: &str) -> Vec<Vec<u8>> {
    let authorization = format!("Bearer {token}");
    let protocol = text("a subprotocol of a WebSocket");
    let key = ("sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==".as_slice());
    let upgrade =
        [("upgrade", b"websocket".as_slice()), ("sec-websocket-version", b"13"), key, ("sec-websocket-protocol", protocol.as_bytes())];
    let upgraded = |more: &[(&str, &[u8])]| raw::request("GET", b"/api/v1/agents", &[&upgrade[..], more].concat());
    let [user, password, host] = ["the user in a URL", "the password in a URL", "the host"].map(text);
    let absolute = format!(
        "GET http://{user}:{password}@{host}/api/v1/agents HTTP/1.1\r\nhost: {host}\r\nauthorization: {authorization}\r\nconnection: close\r\n\r\n"
    );
    let hosted = format!("GET /api/v1/agents HTTP/1.1\r\nhost: {host}\r\nauthorization: {authorization}\r\nconnection: close\r\n\r\n");
    let trailers = format!(
        "POST /api/v1/auth/refresh HTTP/1.1\r\nhost: gateway\r\ntransfer-encoding: chunked\r\ntrailer: x-signed\r\nconnection: close\r\n\r\n\
         2\r\n{{}}\r\n0\r\nx-signed: {}\r\n\r\n",
        text("a trailer")
    );
    let garbled = format!("GET /api/v1/agents HTTP/1.1\r\nhost: gateway\r\n{}\r\n\r\n", text("a header without a colon"));
    let long = text("a header that is too long").repeat(2_000);
    let bearer = [("authorization", authorization.as_bytes())];
    vec![
        upgraded(&bearer),
        upgraded(&[]),
        absolute.into_bytes(),
        hosted.into_bytes(),
        trailers.into_bytes(),
        garbled.into_bytes(),
        raw::request("GET", b"/api/v1/agents", &[("x-long", long.as_bytes())]),
    ]
}
