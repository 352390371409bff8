//! The load: some keep-alive connections on one thread, each sending its next request when the last one is answered.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::error::LoadError;

/// What is asked for: on every gateway, behind a permission.
pub(crate) const PATH: &str = "/api/v1/agents";
/// A route of the benchmark's policy that only asks who it is.
pub(crate) const AUTHENTICATED_PATH: &str = "/api/v1/bench";

/// The same behind a permission, where nothing is charged.
pub(crate) const DECIDED_PATH: &str = "/api/v1/bench/decided";
/// More paths than the filter remembers verdicts of custom rules for.
const DIFFERENT_PATHS: usize = 20_000;

/// What is sent: requests in turn. Turns go on from one measurement to the next, so that a token comes
/// back only after all the others.
#[derive(Debug)]
pub(crate) struct Traffic {
    paths: Vec<Uri>,
    requests: Vec<HeaderMap>,
    next: AtomicUsize,
}

impl Traffic {
    /// One request for each token.
    pub(crate) fn new(path: &'static str, tokens: &[String]) -> Self {
        Self {
            paths: vec![Uri::from_static(path)],
            requests: tokens.iter().map(|token| headers(token)).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// One token, and another path every time.
    pub(crate) fn different_paths(tokens: &[String]) -> Result<Self, LoadError> {
        let path = |number| Uri::try_from(format!("{DECIDED_PATH}/{number}")).map_err(hyper::http::Error::from);
        let paths = (0..DIFFERENT_PATHS).map(path).collect::<Result<_, _>>()?;
        Ok(Self { paths, requests: tokens.iter().map(|token| headers(token)).collect(), next: AtomicUsize::new(0) })
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, LoadError> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let of = |length: usize| turn.checked_rem(length).unwrap_or(0);
        let path = self.paths.get(of(self.paths.len())).cloned().unwrap_or_default();
        let mut request = Request::builder().method(Method::GET).uri(path).body(Empty::new())?;
        if let Some(headers) = self.requests.get(of(self.requests.len())) {
            request.headers_mut().clone_from(headers);
        }
        Ok(request)
    }
}

/// What a browser sends from a page of the portal, besides the token.
const HEADERS: [(&str, &str); 12] = [
    ("host", "api.waooaw.com"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "application/json, text/plain, */*"),
    ("accept-language", "en-US,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("origin", "https://cp.waooaw.com"),
    ("referer", "https://cp.waooaw.com/agents"),
    ("cache-control", "no-cache"),
    ("sec-fetch-site", "same-site"),
    ("sec-fetch-mode", "cors"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("x-api-version", "1"),
];

/// The headers of every request.
#[must_use]
pub(crate) fn headers(token: &str) -> HeaderMap {
    let mut headers: HeaderMap =
        HEADERS.into_iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
    if let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}")) {
        headers.insert("authorization", value);
    }
    headers
}

/// What came of a load.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Answered {
    pub(crate) requests: u64,
    pub(crate) not_ok: u64,
    pub(crate) elapsed: Duration,
}

/// Sends requests for so long. Every request that was sent has been answered in the end.
pub(crate) async fn send(port: u16, traffic: &Arc<Traffic>, connections: u16, duration: Duration) -> Result<Answered, LoadError> {
    let start = Instant::now();
    let until = start + duration;
    let tasks: Vec<_> = (0..connections).map(|_index| tokio::spawn(connection(port, Arc::clone(traffic), until))).collect();
    let mut total = Answered::default();
    for task in tasks {
        let one = task.await.map_err(|error| LoadError::Connect(std::io::Error::other(error)))??;
        total.requests += one.requests;
        total.not_ok += one.not_ok;
    }
    total.elapsed = start.elapsed();
    Ok(total)
}

async fn connection(port: u16, traffic: Arc<Traffic>, until: Instant) -> Result<Answered, LoadError> {
    let mut sender = connect(port).await?;
    let mut answered = Answered::default();
    while Instant::now() < until {
        sender.ready().await?;
        let response = sender.send_request(traffic.request()?).await?;
        answered.requests += 1;
        answered.not_ok += u64::from(response.status() != StatusCode::OK);
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame?;
        }
    }
    Ok(answered)
}

/// A connection of its own, driven beside its user.
pub(crate) async fn connect(port: u16) -> Result<SendRequest<Empty<Bytes>>, LoadError> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(LoadError::Connect)?;
    stream.set_nodelay(true).map_err(LoadError::Connect)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // What goes wrong on it is told to the sender.
    tokio::spawn(async move { connection.await.unwrap_or(()) });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends_thirteen_headers() {
        assert_eq!(headers("a.b.c").len(), 13);
    }

    #[test]
    fn tokens_take_turns() {
        let traffic = Traffic::new(PATH, &["a".to_owned(), "b".to_owned()]);
        let sent: Vec<_> = (0..4).map(|_| traffic.request().unwrap().headers()["authorization"].clone()).collect();
        assert_eq!(sent, ["Bearer a", "Bearer b", "Bearer a", "Bearer b"]);
    }
}
