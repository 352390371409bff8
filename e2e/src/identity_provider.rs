//! An identity provider of the tests: publishes a JWK set over TLS on this machine, with a certificate of its own authority, and signs
//! in its own name. Keys and certificates are made when it starts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cli::development::{DevelopmentMark, verification_key};
use cli::issuer::{Algorithm, IssuerState};
use hyper_util::rt::TokioIo;
use jwt_simple::algorithms::{ECDSAP256PublicKeyLike, ES256KeyPair};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// The `iss` of its tokens.
pub const ISSUER: &str = "https://idp.example.com";
/// The `aud` of its tokens.
pub const AUDIENCE: &str = "plant-gateway-test";

/// It did not start.
#[derive(Debug, thiserror::Error)]
pub enum IdentityProviderError {
    /// No certificate.
    #[error("no certificate can be made")]
    Certificate(#[from] rcgen::Error),
    /// No TLS.
    #[error("the certificate cannot be used")]
    Tls(#[from] tokio_rustls::rustls::Error),
    /// No port, or no file.
    #[error("no port, or no file")]
    Io(#[from] std::io::Error),
    /// No usable key.
    #[error("no usable key")]
    Unusable(#[from] cli::development::InvalidSigningKey),
    /// No key.
    #[error("no key can be made: {0}")]
    Key(#[source] jwt_simple::Error),
}

#[derive(Debug, Default)]
struct Published {
    keys: Mutex<BTreeMap<String, Value>>,
    fetches: AtomicU64,
    failing: AtomicBool,
}

/// A TLS listener on a free port of loopback, for `localhost`; whose authority is in that file.
pub(crate) async fn localhost(ca_file: &Path) -> Result<(TcpListener, TlsAcceptor), IdentityProviderError> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &authority)?;
    std::fs::write(ca_file, authority.pem())?;
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], private)?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    Ok((listener, TlsAcceptor::from(Arc::new(config))))
}

/// A running identity provider. It ends with the runtime that it was started in.
#[derive(Debug)]
pub struct IdentityProvider {
    published: Arc<Published>,
    port: u16,
    ca_file: PathBuf,
}

impl IdentityProvider {
    /// Listens on loopback and publishes an empty set.
    ///
    /// # Errors
    /// When there is no port, certificate or file.
    pub async fn start(home: &Path) -> Result<Self, IdentityProviderError> {
        let ca_file = home.join("idp-ca.pem");
        let (listener, acceptor) = localhost(&ca_file).await?;
        let port = listener.local_addr()?.port();
        let published = Arc::new(Published::default());
        tokio::spawn(serve(listener, acceptor, Arc::clone(&published)));
        Ok(Self { published, port, ca_file })
    }

    /// What the control plane has to be told, so that it fetches from here.
    #[must_use]
    pub fn control_plane_env(&self) -> Vec<(String, String)> {
        let ca_file = self.ca_file.display().to_string();
        let settings = [("JWKS_HOSTS", format!("localhost:{}", self.port)), ("JWKS_NETWORKS", "127.0.0.0/8,::1/128".to_owned())];
        settings.into_iter().chain([("JWKS_CA_FILE", ca_file)]).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The issuer, as a policy says it, with ES256 keys.
    #[must_use]
    pub fn policy(&self) -> String {
        self.policy_with("algorithms: [ES256]")
    }

    /// The issuer with other algorithms: more lines of the policy.
    #[must_use]
    pub fn policy_with(&self, algorithms: &str) -> String {
        let port = self.port;
        format!(
            "issuers:\n  - name: idp\n    issuer: {ISSUER}\n    gateways: [CP, PP, PLANT]\n    audiences: [{AUDIENCE}]\n    \
             {algorithms}\n    jwks:\n      url: https://localhost:{port}/jwks\n      refresh_s: 60\n      stale_after_s: 3600\n"
        )
    }

    /// A new key; it is not published yet.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn key(kid: &str) -> Result<IssuerState, IdentityProviderError> {
        let pem = ES256KeyPair::generate().to_pem().map_err(IdentityProviderError::Key)?;
        let mut key = IssuerState {
            issuer: ISSUER.to_owned(),
            algorithm: Algorithm::ES256,
            kid: kid.to_owned(),
            audience: Some(AUDIENCE.to_owned()),
            private_key_pem: Some(pem),
            secret_base64url: None,
            development: None,
        };
        key.development = Some(DevelopmentMark::of(&verification_key(&key)?, "e2e"));
        Ok(key)
    }

    /// From now on exactly these keys are published.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn publish(&self, keys: &[&IssuerState]) -> Result<(), IdentityProviderError> {
        let jwks = keys.iter().map(|key| Ok((key.kid.clone(), jwk(key)?))).collect::<Result<_, IdentityProviderError>>()?;
        *self.published.keys.lock().unwrap_or_else(PoisonError::into_inner) = jwks;
        Ok(())
    }

    /// From now on this JWK is published too.
    pub fn publish_too(&self, kid: &str, jwk: Value) {
        self.published.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(kid.to_owned(), jwk);
    }

    /// From now on every fetch gets 500, or no longer.
    pub fn fail(&self, failing: bool) {
        self.published.failing.store(failing, Ordering::Relaxed);
    }

    /// How often the set was fetched, or tried to be.
    #[must_use]
    pub fn fetches(&self) -> u64 {
        self.published.fetches.load(Ordering::Relaxed)
    }
}

fn jwk(key: &IssuerState) -> Result<Value, IdentityProviderError> {
    let pair = ES256KeyPair::from_pem(key.private_key_pem.as_deref().unwrap_or_default()).map_err(IdentityProviderError::Key)?;
    let point = pair.public_key().public_key().to_bytes_uncompressed();
    let (x, y) = point.get(1..).unwrap_or_default().split_at_checked(32).unwrap_or_default();
    let [x, y] = [x, y].map(|number| URL_SAFE_NO_PAD.encode(number));
    Ok(json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": key.kid, "x": x, "y": y}))
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, published: Arc<Published>) {
    while let Ok((stream, _peer)) = listener.accept().await {
        let (tls, published) = (tls.clone(), Arc::clone(&published));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let answer = hyper::service::service_fn(|_request| {
                let answer = published.answer();
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            // A client that hangs up is not our fault.
            let _ended = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

impl Published {
    fn answer(&self) -> hyper::Response<String> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let keys: Vec<Value> = self.keys.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let mut response = hyper::Response::new(json!({ "keys": keys }).to_string());
        response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
        if self.failing.load(Ordering::Relaxed) {
            *response.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
        }
        response
    }
}
