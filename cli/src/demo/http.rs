//! An HTTP/1.1 client for the demo and for tests: one connection per client, kept open, every answer timed. It follows no redirects,
//! adds no header but `host`, and sends names and values as they are given, so that odd requests can be made on purpose.

use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Longer than anything that the gateway lets take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What to send.
#[derive(Clone, Debug)]
pub struct Ask {
    method: Vec<u8>,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Bytes,
}

impl Ask {
    /// Any method, path and query.
    #[must_use]
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.as_bytes().to_vec(), target: target.to_owned(), headers: Vec::new(), body: Bytes::new() }
    }

    /// A GET.
    #[must_use]
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// A POST, without a body so far.
    #[must_use]
    pub fn post(target: &str) -> Self {
        Self::new("POST", target)
    }

    /// One more header; a name may be repeated.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// `Authorization: Bearer …`.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header(AUTHORIZATION.as_str(), ["Bearer ", token].concat())
    }

    /// A body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// A JSON body.
    #[must_use]
    pub fn json(self, value: &Value) -> Self {
        self.header(CONTENT_TYPE.as_str(), "application/json").body(value.to_string())
    }

    /// Method and path, for people.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{} {}", String::from_utf8_lossy(&self.method), self.target)
    }

    fn request(&self, authority: &str) -> Result<Request<Full<Bytes>>, HttpError> {
        let unsendable = || HttpError::Unsendable { line: self.line() };
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = Method::from_bytes(&self.method).map_err(|_| unsendable())?;
        *request.uri_mut() = self.target.parse::<Uri>().map_err(|_| unsendable())?;
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_str(authority).map_err(|_| unsendable())?);
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unsendable())?;
            let value = HeaderValue::from_bytes(value).map_err(|_| unsendable())?;
            if name == HOST {
                headers.insert(name, value);
            } else {
                headers.append(name, value);
            }
        }
        Ok(request)
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// From sending the request to the last byte of the body.
    pub took: Duration,
}

impl Answer {
    /// The first value of a header, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON; `null` if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Who answered: the check that refused, `production` or `sandbox` of the echo backend, else `envoy`.
    #[must_use]
    pub fn answered_by(&self) -> String {
        if let Some(listener) = self.header("x-echo-listener") {
            return listener.to_owned();
        }
        let body = self.json();
        let check = body.get("check").and_then(Value::as_str);
        check.unwrap_or("envoy").to_owned()
    }

    /// Every value that the echo backend saw of a request header.
    #[must_use]
    pub fn echoed(&self, name: &str) -> Vec<String> {
        let body = self.json();
        let headers = body.get("headers").and_then(Value::as_array).cloned().unwrap_or_default();
        let text = |pair: &Value, index: usize| pair.get(index).and_then(Value::as_str).map(str::to_owned);
        headers.iter().filter(|pair| text(pair, 0).as_deref() == Some(name)).filter_map(|pair| text(pair, 1)).collect()
    }
}

/// No answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No connection.
    #[error("cannot connect to `{authority}`")]
    Connect {
        /// Host and port.
        authority: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The request cannot be written as HTTP.
    #[error("`{line}` is not a request")]
    Unsendable {
        /// Its method and path.
        line: String,
    },
    /// The exchange broke.
    #[error("no answer to `{line}`")]
    Broken {
        /// Method and path.
        line: String,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// Nothing came in time.
    #[error("no answer to `{line}` in {} seconds", PATIENCE.as_secs())]
    TimedOut {
        /// Method and path.
        line: String,
    },
}

/// One connection to one server.
#[derive(Debug)]
pub struct Client {
    authority: String,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// For a base URL such as `http://127.0.0.1:8015`. Connects when the first request is sent.
    #[must_use]
    pub fn new(base_url: &str) -> Self {
        let authority = base_url.strip_prefix("http://").unwrap_or(base_url).trim_end_matches('/');
        Self { authority: authority.to_owned(), connection: None }
    }

    /// Sends it and reads the answer whole. Repeated once, on a new connection, if the server had closed the old one before
    /// anything was sent.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub async fn send(&mut self, ask: &Ask) -> Result<Answer, HttpError> {
        let timed_out = |_| HttpError::TimedOut { line: ask.line() };
        tokio::time::timeout(PATIENCE, self.exchange(ask)).await.map_err(timed_out)?
    }

    /// Sends it, and gives every line of a good answer to `line` as it comes. A line may be long in coming, but not longer than any
    /// other answer. What is no success is read whole.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub async fn send_for_lines(&mut self, ask: &Ask, mut line: impl FnMut(&[u8])) -> Result<Answer, HttpError> {
        let timed_out = |_| HttpError::TimedOut { line: ask.line() };
        let broken = |source| HttpError::Broken { line: ask.line(), source };
        let start = Instant::now();
        let mut connection = self.connect().await?;
        let response = tokio::time::timeout(PATIENCE, connection.send_request(ask.request(&self.authority)?)).await.map_err(timed_out)?;
        let (head, mut body) = response.map_err(broken)?.into_parts();
        let mut rest: Vec<u8> = Vec::new();
        while let Some(frame) = tokio::time::timeout(PATIENCE, body.frame()).await.map_err(timed_out)? {
            rest.extend_from_slice(frame.map_err(broken)?.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n').filter(|_| head.status.is_success()) {
                let next = rest.split_off(end.saturating_add(1));
                line(rest.get(..end).unwrap_or_default());
                rest = next;
            }
        }
        // The last line need not end like one.
        if head.status.is_success() && !rest.is_empty() {
            line(&rest);
        }
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: Bytes::from(rest), took: start.elapsed() })
    }

    async fn exchange(&mut self, ask: &Ask) -> Result<Answer, HttpError> {
        loop {
            let kept = self.connection.take();
            let reused = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let broken = |source| HttpError::Broken { line: ask.line(), source };
            if let Err(error) = connection.ready().await {
                if reused {
                    continue;
                }
                return Err(broken(error));
            }
            let start = Instant::now();
            match connection.send_request(ask.request(&self.authority)?).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let body = body.collect().await.map_err(broken)?.to_bytes();
                    self.connection = Some(connection);
                    return Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, took: start.elapsed() });
                }
                Err(error) if reused && error.is_canceled() => {}
                Err(error) => return Err(broken(error)),
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, HttpError> {
        let failed = |source| HttpError::Connect { authority: self.authority.clone(), source };
        let stream = TcpStream::connect(&self.authority).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|source| HttpError::Broken { line: "a handshake".to_owned(), source })?;
        // Ends with the connection; what went wrong with it is told to the sender.
        tokio::spawn(async move {
            let _ended = connection.await;
        });
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_requests_can_be_made() {
        let ask = Ask::new("BREW", "//api/v1/%2f").header("x-a", b"\xff").header("x-a", "2").bearer("t");
        let request = ask.request("127.0.0.1:1").unwrap();
        assert_eq!(request.uri().to_string(), "//api/v1/%2f");
        assert_eq!(request.headers().get_all("x-a").iter().count(), 2);
        assert_eq!(request.headers()["authorization"], "Bearer t");
        assert!(Ask::get("/").header("x-a", "1\r\nx-b: 2").request("127.0.0.1:1").is_err());
    }
}
