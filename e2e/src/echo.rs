//! A backend that tells what it got. It answers any request with a JSON picture of it, shaped by `x-echo-*` request headers,
//! and counts the requests that reached it. It must not hide anything: what is not printable is shown lossily, never dropped.
//!
//! * `x-echo-status`, `x-echo-body-base64`, `x-echo-set-NAME`: how the answer looks; `x-echo-body-times: COUNT`: that body so many times;
//!   `x-echo-header-bytes`: with a header so long
//! * `x-echo-delay-ms`: how long it takes; `x-echo-hang-up`: the connection is closed instead
//! * `x-echo-only-first: ID`: the last two hold for the first request with this id alone, and a repeat is answered at once;
//!   `x-echo-try` of the answer is the number of requests with it so far
//! * `x-echo-pieces: BYTES every MILLISECONDS`: the body in pieces; `x-echo-cut: BYTES`: the connection breaks after so many bytes of it;
//!   `x-echo-trailer-NAME`: a trailer after it, for a client that says `te: trailers`
//! * `x-echo-events: COUNT every MILLISECONDS`: server-sent events, each with the time at which it was sent
//! * `x-echo-tally: NAME`: the request is also counted under this name; `/__echo/tally` tells all names with their counts
//! * `x-echo-upgrade`: a request for an upgrade gets it, and its own bytes back

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TRAILER, UPGRADE};
use axum::http::{Method, StatusCode, request};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// The longest delay a request may ask for.
pub const DELAY_MS_MAX: u64 = 60_000;

/// The largest request body that is read.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The longest response header that may be asked for.
const BODY_TIMES_MAX: usize = 1_000;
const HEADER_BYTES_MAX: usize = 200_000;

/// How many ids of first tries are remembered.
const IDS_MAX: usize = 4_096;

/// How many names requests are counted under.
const NAMES_MAX: usize = 65_536;

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
pub struct Counter {
    all: Arc<AtomicU64>,
    named: Arc<Mutex<HashMap<String, u64>>>,
}

impl Counter {
    /// How many requests arrived since the start or the last reset.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.all.load(Ordering::SeqCst)
    }

    fn count(&self, name: Option<&HeaderValue>) {
        self.all.fetch_add(1, Ordering::SeqCst);
        let Some(name) = name else { return };
        let mut named = self.named();
        if named.len() < NAMES_MAX {
            let count = named.entry(String::from_utf8_lossy(name.as_bytes()).into_owned()).or_default();
            *count = count.saturating_add(1);
        }
    }

    fn reset(&self) {
        self.all.store(0, Ordering::SeqCst);
        self.named().clear();
    }

    fn named(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Debug)]
struct Echo {
    role: Role,
    counter: Counter,
    tried: Tried,
}

/// How often requests with an id came.
#[derive(Clone, Debug, Default)]
struct Tried(Arc<Mutex<HashMap<Vec<u8>, u32>>>);

impl Tried {
    /// Which try this is, from 1 on. All ids are forgotten in bulk: a test uses an id within seconds.
    fn count(&self, id: &HeaderValue) -> u32 {
        let mut tries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tries.len() >= IDS_MAX {
            tries.clear();
        }
        let count = tries.entry(id.as_bytes().to_vec()).or_default();
        *count = count.saturating_add(1);
        *count
    }
}

/// The connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("hung up, as asked")]
struct HungUp;

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
    ending: Ending,
    body: Option<Vec<u8>>,
    headers: Vec<(HeaderName, HeaderValue)>,
    pieces: Option<Pieces>,
}

/// How the body comes, where it does not come at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Pieces {
    size: Option<usize>,
    every: Duration,
    cut: Option<usize>,
    trailers: HeaderMap,
}

/// What comes at the end of the delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Answer,
    Events { count: u64, every: Duration },
    Upgrade,
    HangUp,
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

/// The backend as a router, for one listener. It cannot hang up.
pub fn app(role: Role, counter: Counter) -> Router {
    let echo = Echo { role, counter, tried: Tried::default() };
    Router::new().fallback(answer_or_tell).with_state(echo)
}

async fn answer_or_tell(State(echo): State<Echo>, request: Request) -> Response {
    let answer = exchange(&echo, request).await;
    answer.unwrap_or_else(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("echo: {error}\n")).into_response())
}

/// Serves both listeners until SIGTERM or SIGINT arrives.
///
/// # Errors
/// When an address cannot be bound.
pub async fn serve(listen: SocketAddr, sandbox_listen: Option<SocketAddr>) -> std::io::Result<()> {
    let (counter, tried) = (Counter::default(), Tried::default());
    let production = serve_one(listen, Echo { role: Role::Production, counter: counter.clone(), tried: tried.clone() });
    match sandbox_listen {
        None => production.await,
        Some(address) => tokio::try_join!(production, serve_one(address, Echo { role: Role::Sandbox, counter, tried })).map(|_| ()),
    }
}

async fn serve_one(address: SocketAddr, echo: Echo) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let at = listener.local_addr()?.to_string();
    println!("{}", json!({ "message": "ready", "backend": echo.role.name(), "address": at }));
    let (stopping, stop) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut asked = pin!(stop_asked());
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, echo.clone(), stop.clone()));
                }
                // Such as too many open files: passes when connections end.
                Err(error) => {
                    eprintln!("{}", json!({ "message": "cannot accept a connection", "error": error.to_string() }));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            () = &mut asked => break,
            Some(_ended) = connections.join_next() => {}
        }
    }
    stopping.send_replace(true);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// By hand, not by `axum::serve`: a service that fails makes the connection end without an answer.
async fn serve_connection(stream: TcpStream, echo: Echo, mut stop: watch::Receiver<bool>) {
    // Without it an event would wait for more to send.
    let _events_are_later = stream.set_nodelay(true);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let echo = echo.clone();
        async move { exchange(&echo, request.map(Body::new)).await }
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        _ended = &mut connection => return,
        _stopping = stop.wait_for(|stopping| *stopping) => connection.as_mut().graceful_shutdown(),
    }
    let _ended = connection.await;
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

async fn exchange(echo: &Echo, mut request: Request) -> Result<Response, HungUp> {
    if request.uri().path() == "/__echo/count" {
        if request.method() == Method::DELETE {
            echo.counter.reset();
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        return Ok(echo.counter.seen().to_string().into_response());
    }
    if request.uri().path() == "/__echo/tally" {
        return Ok(axum::Json(echo.counter.named().clone()).into_response());
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let (head, body) = request.into_parts();
    echo.counter.count(head.headers.get("x-echo-tally"));
    let mut response = answer(head, body, upgrade, &echo.tried).await?;
    response.headers_mut().insert("x-echo-listener", HeaderValue::from_static(echo.role.name()));
    Ok(response)
}

async fn answer(head: request::Parts, body: Body, upgrade: OnUpgrade, tried: &Tried) -> Result<Response, HungUp> {
    let mut shape = match parse_shape(&head.headers) {
        Ok(shape) => shape,
        Err(error) => return Ok((StatusCode::BAD_REQUEST, format!("echo: {error}\n")).into_response()),
    };
    if let Some(id) = head.headers.get("x-echo-only-first") {
        let number = tried.count(id);
        shape.headers.push((HeaderName::from_static("x-echo-try"), HeaderValue::from(number)));
        if number > 1 {
            shape = Shape { delay: Duration::ZERO, ending: Ending::Answer, ..shape };
        }
    }
    if shape.ending == Ending::Upgrade {
        return Ok(upgraded(&head.headers, upgrade));
    }
    let body = match read_body(body).await {
        Ok(body) => body,
        Err(refusal) => return Ok(refusal.into_response()),
    };
    if !shape.delay.is_zero() {
        tokio::time::sleep(shape.delay).await;
    }
    match shape.ending {
        Ending::HangUp => Err(HungUp),
        Ending::Events { count, every } => Ok(events(count, every)),
        Ending::Answer | Ending::Upgrade => Ok(respond(shape, &head, body)),
    }
}

/// Agrees to whatever upgrade is asked for, and sends back what comes.
fn upgraded(headers: &HeaderMap, upgrade: OnUpgrade) -> Response {
    let Some(protocol) = headers.get(UPGRADE).cloned() else {
        return (StatusCode::BAD_REQUEST, "echo: `x-echo-upgrade` needs a request for an upgrade\n").into_response();
    };
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
            let _peer_left = tokio::io::copy(&mut reader, &mut writer).await;
        }
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    response.headers_mut().insert(UPGRADE, protocol);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response
}

fn events(count: u64, every: Duration) -> Response {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ([(CONTENT_TYPE, "text/event-stream")], Body::new(Events { sent: 0, count, ticks })).into_response()
}

/// A stream of server-sent events, one per tick.
#[derive(Debug)]
struct Events {
    sent: u64,
    count: u64,
    ticks: Interval,
}

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.sent == self.count {
            return Poll::Ready(None);
        }
        ready!(self.ticks.poll_tick(context));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let event = format!("data: {{\"event\":{},\"sent_us\":{now}}}\n\n", self.sent);
        self.sent = self.sent.saturating_add(1);
        Poll::Ready(Some(Ok(Frame::data(event.into()))))
    }
}

/// A body that comes in pieces, and may be cut off.
#[derive(Debug)]
struct InPieces {
    rest: Bytes,
    sent: usize,
    pieces: Pieces,
    ticks: Option<Interval>,
}

impl InPieces {
    fn new(body: Bytes, pieces: Pieces) -> Self {
        let ticks = (!pieces.every.is_zero()).then(|| interval(pieces.every));
        Self { rest: body, sent: 0, pieces, ticks }
    }
}

impl hyper::body::Body for InPieces {
    type Data = Bytes;
    type Error = HungUp;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HungUp>>> {
        if let Some(ticks) = &mut self.ticks {
            ready!(ticks.poll_tick(context));
        }
        let left = self.pieces.cut.map_or(usize::MAX, |cut| cut.saturating_sub(self.sent));
        if left == 0 {
            return Poll::Ready(Some(Err(HungUp)));
        }
        if self.rest.is_empty() {
            let trailers = std::mem::take(&mut self.pieces.trailers);
            return Poll::Ready((!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers))));
        }
        let size = self.pieces.size.unwrap_or(usize::MAX).min(left).min(self.rest.len());
        let piece = self.rest.split_to(size);
        self.sent = self.sent.saturating_add(size);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
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
    let trailers: Vec<&str> = shape.pieces.iter().flat_map(|pieces| pieces.trailers.keys().map(HeaderName::as_str)).collect();
    let trailer = HeaderValue::from_str(&trailers.join(", ")).ok().filter(|names| !names.is_empty());
    let mut response = Response::new(match shape.pieces {
        _ if bodiless || head.method == Method::HEAD => Body::empty(),
        Some(pieces) => Body::new(InPieces::new(bytes.into(), pieces)),
        None => bytes.into(),
    });
    *response.status_mut() = shape.status;
    response.headers_mut().extend(trailer.map(|names| (TRAILER, names)));
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
    let body = match (body, single(headers, "x-echo-body-times")?) {
        (Some(body), Some(value)) => {
            let times = text(value).and_then(|text| text.parse().ok()).filter(|times| (1..=BODY_TIMES_MAX).contains(times));
            Some(body.repeat(times.ok_or_else(|| invalid("x-echo-body-times", "a number from 1 to 1000"))?))
        }
        (body, _) => body,
    };
    let ending = parse_ending(headers)?;
    let mut set = headers
        .iter()
        .filter_map(|(name, value)| Some((name, name.as_str().strip_prefix("x-echo-set-")?, value)))
        .map(|(name, wanted, value)| parse_set(name, wanted, value))
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(value) = single(headers, "x-echo-header-bytes")? {
        let bytes = text(value).and_then(|text| text.parse().ok()).filter(|bytes| *bytes <= HEADER_BYTES_MAX);
        let bytes = bytes.ok_or_else(|| invalid("x-echo-header-bytes", "a number up to 200000"))?;
        let filling = HeaderValue::from_str(&"x".repeat(bytes)).map_err(|_| invalid("x-echo-header-bytes", "a number up to 200000"))?;
        set.push((HeaderName::from_static("x-echo-filling"), filling));
    }
    Ok(Shape { status, delay, ending, body, headers: set, pieces: parse_pieces(headers)? })
}

fn parse_ending(headers: &HeaderMap) -> Result<Ending, InvalidShape> {
    if headers.contains_key("x-echo-hang-up") {
        return Ok(Ending::HangUp);
    }
    if headers.contains_key("x-echo-upgrade") {
        return Ok(Ending::Upgrade);
    }
    let Some(value) = single(headers, "x-echo-events")? else { return Ok(Ending::Answer) };
    let parsed = text(value).and_then(|text| text.split_once(" every ")).and_then(|(count, every)| {
        let every = every.parse().ok().filter(|every| (1..=DELAY_MS_MAX).contains(every))?;
        Some(Ending::Events { count: count.parse().ok()?, every: Duration::from_millis(every) })
    });
    parsed.ok_or_else(|| invalid("x-echo-events", "`COUNT every MILLISECONDS`"))
}

fn parse_pieces(headers: &HeaderMap) -> Result<Option<Pieces>, InvalidShape> {
    let mut pieces = Pieces::default();
    if let Some(value) = single(headers, "x-echo-pieces")? {
        let (size, every) = parse_rate(value).ok_or_else(|| invalid("x-echo-pieces", "`BYTES every MILLISECONDS`"))?;
        (pieces.size, pieces.every) = (Some(size.max(1)), every);
    }
    if let Some(value) = single(headers, "x-echo-cut")? {
        pieces.cut = Some(text(value).and_then(|text| text.parse().ok()).ok_or_else(|| invalid("x-echo-cut", "a number of bytes"))?);
    }
    for (name, value) in headers {
        if let Some(wanted) = name.as_str().strip_prefix("x-echo-trailer-") {
            let (wanted, value) = parse_set(name, wanted, value)?;
            pieces.trailers.insert(wanted, value);
        }
    }
    Ok((pieces != Pieces::default()).then_some(pieces))
}

fn parse_rate(value: &HeaderValue) -> Option<(usize, Duration)> {
    let (size, every) = text(value)?.split_once(" every ")?;
    Some((size.parse().ok()?, Duration::from_millis(every.parse().ok().filter(|every| *every <= DELAY_MS_MAX)?)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_has_a_limit() {
        let headers =
            |delay: &'static str| HeaderMap::from_iter([(HeaderName::from_static("x-echo-delay-ms"), HeaderValue::from_static(delay))]);
        let delay = |text| parse_shape(&headers(text)).map(|shape| shape.delay).ok();
        assert_eq!(delay("59999"), Some(Duration::from_millis(59_999)));
        assert_eq!(delay("99999999"), Some(Duration::from_millis(DELAY_MS_MAX)));
    }
}
