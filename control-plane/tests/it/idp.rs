//! An identity provider for tests: a real TLS server whose answers are written byte by byte, keys, and tokens by them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jwt_simple::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// What the server answers.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// 200 with this JSON.
    Json(Value),
    /// Exactly these bytes.
    Raw(Vec<u8>),
    /// Nothing, ever.
    Silence,
}

/// The server.
pub(crate) struct Idp {
    pub(crate) port: u16,
    reply: Arc<Mutex<Reply>>,
    hits: Arc<AtomicUsize>,
    requests: Requests,
    directory: TempDir,
}

/// What was asked: head and body, as they came.
type Requests = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

impl Idp {
    /// Listens on a port of its own, with a certificate for `localhost` by an authority of its own.
    pub(crate) async fn start() -> Self {
        let (config, authority) = certificates();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), authority).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (reply, hits) = (Arc::new(Mutex::new(Reply::Silence)), Arc::new(AtomicUsize::new(0)));
        let requests = Requests::default();
        tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), Arc::clone(&reply), Arc::clone(&hits), Arc::clone(&requests)));
        Self { port, reply, hits, requests, directory }
    }

    pub(crate) fn answers(&self, reply: Reply) {
        *self.reply.lock().unwrap() = reply;
    }

    /// Publishes these keys.
    pub(crate) fn publishes(&self, keys: &[&ES256KeyPair]) {
        self.answers(Reply::Json(json!({ "keys": keys.iter().map(|key| jwk(key)).collect::<Vec<_>>() })));
    }

    pub(crate) fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    /// What was asked since the last time that this was called.
    pub(crate) fn requests(&self) -> Vec<(String, Vec<u8>)> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}/jwks", self.port)
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// The settings under which a control plane may ask this server.
    pub(crate) fn settings(&self) -> Vec<String> {
        vec![
            format!("--jwks-hosts=localhost:{}", self.port),
            "--jwks-networks=127.0.0.0/8,::1/128".to_owned(),
            format!("--jwks-ca-file={}", self.ca_file().display()),
        ]
    }
}

fn certificates() -> (ServerConfig, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let server_key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&server_key, &issuer).unwrap();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions().unwrap();
    (config.with_no_client_auth().with_single_cert(vec![server.der().clone()], private).unwrap(), authority)
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, reply: Arc<Mutex<Reply>>, hits: Arc<AtomicUsize>, requests: Requests) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, reply, hits, requests) = (tls.clone(), Arc::clone(&reply), Arc::clone(&hits), Arc::clone(&requests));
        tokio::spawn(async move {
            let Ok(mut stream) = tls.accept(stream).await else { return };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                request.push(byte);
            }
            let head = String::from_utf8(request).unwrap().to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
            let mut body = vec![0; length];
            if stream.read_exact(&mut body).await.is_err() {
                return;
            }
            requests.lock().unwrap().push((head, body));
            hits.fetch_add(1, Ordering::SeqCst);
            let reply = reply.lock().unwrap().clone();
            let bytes = match reply {
                Reply::Json(value) => response("200 OK", "application/json", &value.to_string()),
                Reply::Raw(bytes) => bytes,
                Reply::Silence => return std::future::pending().await,
            };
            // The client may have gone away before the end: that is its right.
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        });
    }
}

/// A whole response.
pub(crate) fn response(status: &str, media_type: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

pub(crate) fn key(kid: &str) -> ES256KeyPair {
    ES256KeyPair::generate().with_key_id(kid)
}

pub(crate) fn jwk(key: &ES256KeyPair) -> Value {
    let point = key.public_key().public_key().to_bytes_uncompressed();
    let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
    let kid = key.key_id().as_deref().unwrap();
    json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid, "x": part(1..33), "y": part(33..65) })
}

/// A token of the issuer `iss` for somebody who may do everything on the admin API.
pub(crate) fn token(key: &ES256KeyPair, iss: &str) -> String {
    let claims = json!({ "user_id": "user-1", "email": "ops@example.com", "roles": ["admin"] });
    let claims = Claims::with_custom_claims(claims, Duration::from_mins(5)).with_issuer(iss).with_audience("plant-gateway-admin");
    key.sign(claims.with_subject("subject-1")).unwrap()
}
