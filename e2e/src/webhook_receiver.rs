//! A receiver of webhooks: a TLS server with a certificate of its own authority, which keeps what it got and answers with the
//! statuses that a test wants.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::identity_provider::{IdentityProviderError, localhost};

/// One delivery, as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// Headers in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body, byte by byte.
    pub body: Bytes,
    /// What it was answered.
    pub status: u16,
}

impl Received {
    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header; empty if there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The signature that it has to have: HMAC-SHA-256 of id, time and body. By Python's standard library: another implementation than
    /// the one that signed.
    ///
    /// # Errors
    /// When there is no Python.
    pub fn signature(&self, secret: &str) -> std::io::Result<String> {
        let script = "import base64, hmac, sys; \
            print(base64.b64encode(hmac.digest(sys.argv[1].encode(), sys.stdin.buffer.read(), 'sha256')).decode())";
        let mut python = Command::new("python3").args(["-c", script, secret]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = python.stdin.take() {
            stdin.write_all(
                &[self.header("webhook-id").as_bytes(), b".", self.header("webhook-timestamp").as_bytes(), b".", &self.body].concat(),
            )?;
        }
        let printed = python.wait_with_output()?;
        Ok(format!("v1,{}", String::from_utf8_lossy(&printed.stdout).trim()))
    }
}

#[derive(Debug, Default)]
struct Shared {
    received: Mutex<Vec<Received>>,
    answers: Mutex<VecDeque<u16>>,
}

/// A running receiver. It ends with the runtime that it was started in.
#[derive(Debug)]
pub struct WebhookReceiver {
    shared: Arc<Shared>,
    port: u16,
    ca_file: PathBuf,
}

impl WebhookReceiver {
    /// Listens on loopback and takes everything.
    ///
    /// # Errors
    /// When there is no port, certificate or file.
    pub async fn start(home: &Path) -> Result<Self, IdentityProviderError> {
        let ca_file = home.join("webhook-ca.pem");
        let (listener, acceptor) = localhost(&ca_file).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared::default());
        tokio::spawn(serve(listener, acceptor, Arc::clone(&shared)));
        Ok(Self { shared, port, ca_file })
    }

    /// What the control plane has to be told, so that it delivers here.
    #[must_use]
    pub fn control_plane_env(&self) -> Vec<(String, String)> {
        let settings = [
            ("WEBHOOK_HOSTS", format!("localhost:{}", self.port)),
            ("WEBHOOK_NETWORKS", "127.0.0.0/8,::1/128".to_owned()),
            ("WEBHOOK_CA_FILE", self.ca_file.display().to_string()),
        ];
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Where it receives.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://localhost:{}/hook", self.port)
    }

    /// The next deliveries are answered like that, and those after them with 204.
    pub fn answer(&self, statuses: impl IntoIterator<Item = u16>) {
        *self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner) = statuses.into_iter().collect();
    }

    /// Everything that came so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    while let Ok((stream, _peer)) = listener.accept().await {
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let answer = hyper::service::service_fn(|request| take(Arc::clone(&shared), request));
            // A client that hangs up is not our fault.
            let _ended = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

async fn take(shared: Arc<Shared>, request: Request<hyper::body::Incoming>) -> Result<Response<String>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let status = shared.answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front().unwrap_or(204);
    let header = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let received = Received { headers: head.headers.iter().map(header).collect(), body, status };
    shared.received.lock().unwrap_or_else(PoisonError::into_inner).push(received);
    let mut response = Response::new(String::new());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    Ok(response)
}
