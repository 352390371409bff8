//! A backend that tells what it got. It answers any request with a JSON picture of it, shaped by `x-echo-*` request headers,
//! and counts the requests that reached it. It must not hide anything: what is not printable is shown lossily, never dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode, request};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;

/// The longest delay a request may ask for.
pub const DELAY_MS_MAX: u64 = 60_000;

/// The largest request body that is read.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Response headers that would break the framing of the answer.
const NEVER_SET: [&str; 5] = ["connection", "content-length", "te", "trailer", "transfer-encoding"];

/// Which of the two backends a listener plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The real backend.
    Production,
    /// Where trial users are sent.
    Sandbox,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Sandbox => "sandbox",
        }
    }
}

/// Requests seen by all listeners that share it.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// How many requests arrived since the start or the last reset.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn count(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn reset(&self) {
        self.0.store(0, Ordering::SeqCst);
    }
}

#[derive(Clone, Debug)]
struct Echo {
    role: Role,
    counter: Counter,
}

/// The body of an answer. Exactly one of `body` and `body_base64` is a string.
#[derive(Debug, Serialize)]
struct Picture {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// What the request asked the answer to look like.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    status: StatusCode,
    delay: Duration,
    body: Option<Vec<u8>>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// An `x-echo-*` header that cannot be obeyed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum InvalidShape {
    #[error("`{name}` must be {expected}")]
    Value { name: String, expected: &'static str },
    #[error("`{name}` cannot name a response header")]
    Name { name: String },
    #[error("`{name}` is given more than once")]
    Repeated { name: String },
}

/// The backend as a router, for one listener.
pub fn app(role: Role, counter: Counter) -> Router {
    Router::new().route("/__echo/count", get(seen).delete(reset)).fallback(echo).with_state(Echo { role, counter })
}

/// Serves both listeners until one of them fails or SIGTERM or SIGINT arrives.
///
/// # Errors
/// When an address cannot be bound or a listener fails.
pub async fn serve(listen: SocketAddr, sandbox_listen: Option<SocketAddr>) -> std::io::Result<()> {
    let counter = Counter::default();
    let production = serve_one(listen, Role::Production, counter.clone());
    match sandbox_listen {
        None => production.await,
        Some(address) => tokio::try_join!(production, serve_one(address, Role::Sandbox, counter)).map(|_| ()),
    }
}

async fn serve_one(address: SocketAddr, role: Role, counter: Counter) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("{} backend listens on {}", role.name(), listener.local_addr()?);
    axum::serve(listener, app(role, counter)).with_graceful_shutdown(stop_asked()).await
}

async fn stop_asked() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(error) => {
            eprintln!("cannot listen for SIGTERM, stop me with SIGKILL: {error}");
            std::future::pending::<()>().await;
        }
    }
}

async fn seen(State(echo): State<Echo>) -> String {
    echo.counter.seen().to_string()
}

async fn reset(State(echo): State<Echo>) -> StatusCode {
    echo.counter.reset();
    StatusCode::NO_CONTENT
}

async fn echo(State(echo): State<Echo>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    echo.counter.count();
    let mut response = answer(head, body).await;
    response.headers_mut().insert("x-echo-listener", HeaderValue::from_static(echo.role.name()));
    response
}

async fn answer(head: request::Parts, body: Body) -> Response {
    let shape = match parse_shape(&head.headers) {
        Ok(shape) => shape,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("echo: {error}\n")).into_response(),
    };
    let body = match read_body(body).await {
        Ok(body) => body,
        Err(refusal) => return refusal.into_response(),
    };
    if !shape.delay.is_zero() {
        tokio::time::sleep(shape.delay).await;
    }
    respond(shape, &head, body)
}

async fn read_body(body: Body) -> Result<Bytes, (StatusCode, String)> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err((StatusCode::PAYLOAD_TOO_LARGE, format!("echo: the body is larger than {BODY_BYTES_MAX} bytes\n")))
        }
        Err(error) => Err((StatusCode::BAD_REQUEST, format!("echo: the body did not arrive whole: {error}\n"))),
    }
}

fn respond(shape: Shape, head: &request::Parts, body: Bytes) -> Response {
    let bodiless = matches!(shape.status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
    let (content_type, bytes) = match shape.body {
        Some(bytes) => ("application/octet-stream", bytes),
        None => match serde_json::to_vec(&picture(head, body)) {
            Ok(json) => ("application/json", json),
            Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, format!("echo: {error}\n")).into_response(),
        },
    };
    let mut response = Response::new(if bodiless || head.method == Method::HEAD { Body::empty() } else { bytes.into() });
    *response.status_mut() = shape.status;
    let headers = response.headers_mut();
    if !bodiless {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    for (name, value) in shape.headers {
        if name == CONTENT_TYPE {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
    response
}

fn picture(head: &request::Parts, body: Bytes) -> Picture {
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let (body, body_base64) = match String::from_utf8(body.into()) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(STANDARD.encode(error.as_bytes()))),
    };
    Picture {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers,
        body,
        body_base64,
    }
}

fn parse_shape(headers: &HeaderMap) -> Result<Shape, InvalidShape> {
    let status = match single(headers, "x-echo-status")? {
        None => StatusCode::OK,
        Some(value) => parse_status(value).ok_or_else(|| invalid("x-echo-status", "a number from 200 to 599"))?,
    };
    let delay = match single(headers, "x-echo-delay-ms")? {
        None => Duration::ZERO,
        Some(value) => {
            let milliseconds = text(value).and_then(|text| text.parse::<u64>().ok());
            let milliseconds = milliseconds.ok_or_else(|| invalid("x-echo-delay-ms", "a whole number of milliseconds"))?;
            Duration::from_millis(milliseconds.min(DELAY_MS_MAX))
        }
    };
    let body = match single(headers, "x-echo-body-base64")? {
        None => None,
        Some(value) => Some(STANDARD.decode(value.as_bytes()).map_err(|_| invalid("x-echo-body-base64", "standard base64 with padding"))?),
    };
    let headers = headers
        .iter()
        .filter_map(|(name, value)| Some((name, name.as_str().strip_prefix("x-echo-set-")?, value)))
        .map(|(name, wanted, value)| parse_set(name, wanted, value))
        .collect::<Result<_, _>>()?;
    Ok(Shape { status, delay, body, headers })
}

fn parse_set(name: &HeaderName, wanted: &str, value: &HeaderValue) -> Result<(HeaderName, HeaderValue), InvalidShape> {
    match HeaderName::from_bytes(wanted.as_bytes()) {
        Ok(wanted) if !NEVER_SET.contains(&wanted.as_str()) => Ok((wanted, value.clone())),
        Ok(_) | Err(_) => Err(InvalidShape::Name { name: name.to_string() }),
    }
}

fn single<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h HeaderValue>, InvalidShape> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(InvalidShape::Repeated { name: name.to_owned() }),
        (value, None) => Ok(value),
    }
}

fn parse_status(value: &HeaderValue) -> Option<StatusCode> {
    let code: u16 = text(value)?.parse().ok()?;
    (200..600).contains(&code).then(|| StatusCode::from_u16(code).ok())?
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok().map(str::trim)
}

fn invalid(name: &str, expected: &'static str) -> InvalidShape {
    InvalidShape::Value { name: name.to_owned(), expected }
}
