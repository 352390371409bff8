//! What the integration tests share: a whole control plane over a fresh database, the shipped policies, keys made for
//! the occasion, and requests to it without a network.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Parser;
use control_plane::app::{AppState, admin_app, data_plane_app};
use control_plane::settings::Settings;
use control_plane::start::{StartError, assemble};
use http_body_util::BodyExt;
use jwt_simple::prelude::*;
use redis::aio::ConnectionManager;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use std::path::Path;
use std::sync::OnceLock;
use tempfile::TempDir;
use tower::ServiceExt;
use wire::hex::hex;

/// The shipped policies.
pub(crate) const POLICIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies");

/// The token of `envoy-1`.
pub(crate) const ENVOY_TOKEN: &str = "token-of-envoy-1";
/// The token of `envoy-2`.
pub(crate) const OTHER_ENVOY_TOKEN: &str = "token-of-envoy-2";

/// A control plane, with the directory that it reads policies, secrets and tokens from.
pub(crate) struct World {
    pub(crate) state: AppState,
    pub(crate) directory: TempDir,
    /// Further settings.
    more: Vec<String>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl World {
    /// Over a fresh database, with the shipped policies.
    pub(crate) async fn new(database: PgPool) -> Self {
        Self::over(database, Self::prepared()).await.unwrap()
    }

    /// A directory with the shipped policies and a secret for each name in them.
    pub(crate) fn prepared() -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        copy_policies(Path::new(POLICIES), &directory.path().join("policies"));
        write_secrets(&directory.path().join("secrets"));
        directory
    }

    /// As a process that starts over a database and a directory which exist already.
    pub(crate) async fn over(database: PgPool, directory: TempDir) -> Result<Self, StartError> {
        Self::with(database, directory, Vec::new()).await
    }

    /// The same with further settings.
    pub(crate) async fn with(database: PgPool, directory: TempDir, more: Vec<String>) -> Result<Self, StartError> {
        let tokens = directory.path().join("tokens");
        let line = |id: &str, token: &str| format!("{id} {}\n", hex(&Sha256::digest(token)));
        std::fs::write(&tokens, line("envoy-1", ENVOY_TOKEN) + &line("envoy-2", OTHER_ENVOY_TOKEN)).unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let ours = [
            "control-plane".to_owned(),
            "--database-url=postgres://not-used-here".to_owned(),
            "--redis-url=redis://not-used-here".to_owned(),
            format!("--policies-dir={}", path("policies")),
            format!("--secrets-dir={}", path("secrets")),
            format!("--data-plane-tokens-file={}", path("tokens")),
            "--public-url=https://gateway.test".to_owned(),
            concat!("--rules-gate-program=", env!("CARGO_BIN_EXE_control-plane")).to_owned(),
        ];
        let settings = Settings::parse_from(ours.iter().chain(&more));
        let state = assemble(settings, database, valkey().await).await?;
        Ok(Self { state, directory, more })
    }

    /// The same again, as after a restart.
    pub(crate) async fn restarted(self) -> Result<Self, StartError> {
        let Self { state, directory, more } = self;
        Self::with(state.database, directory, more).await
    }

    pub(crate) fn admin(&self) -> Router {
        admin_app(self.state.clone())
    }

    pub(crate) fn data_plane(&self) -> Router {
        data_plane_app(self.state.clone())
    }

    /// A request to the admin API.
    pub(crate) async fn admin_call(&self, method: Method, path: &str, token: Option<&str>, body: Option<&Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = body.map_or_else(Body::empty, |value| Body::from(value.to_string()));
        let request = request.header(header::CONTENT_TYPE, "application/json").body(body).unwrap();
        send(self.admin(), request).await
    }

    /// GET by an administrator.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.admin_call(Method::GET, path, Some(&admin_token()), None).await
    }

    /// POST by an administrator.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.admin_call(Method::POST, path, Some(&admin_token()), Some(body)).await
    }

    /// A poll of the bundle.
    pub(crate) async fn poll(&self, token: &str, known: Option<&str>, wait_s: u64) -> Answer {
        let uri = format!("/data-plane/v1/bundle?wait_s={wait_s}");
        let mut request = Request::get(uri).header(header::AUTHORIZATION, format!("Bearer {token}"));
        if let Some(tag) = known {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        send(self.data_plane(), request.body(Body::empty()).unwrap()).await
    }

    /// The policy files, as they would be published.
    pub(crate) fn files(&self) -> Value {
        json!(authoring::directory::read(&self.directory.path().join("policies")).unwrap())
    }

    /// Replaces text in a policy file of the directory.
    pub(crate) fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.directory.path().join("policies").join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} does not contain {from:?}");
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    }
}

/// Sends a request through the whole application and reads the answer.
pub(crate) async fn send(app: Router, request: Request<Body>) -> Answer {
    let response = app.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}

/// The counters' store of the test run. Tests choose keys that do not meet.
pub(crate) async fn valkey() -> ConnectionManager {
    let url = std::env::var("REDIS_URL").expect("REDIS_URL is not set: run `make test`, which starts Postgres and Valkey");
    redis::Client::open(url).unwrap().get_connection_manager().await.expect("Valkey at REDIS_URL does not answer")
}

/// A token of the issuer `ops` with these roles.
pub(crate) fn ops_token(roles: &[&str]) -> String {
    ops_token_with(roles, json!({}))
}

/// A token of somebody who may do everything on the admin API.
pub(crate) fn admin_token() -> String {
    ops_token(&["admin"])
}

/// A token of a governor.
pub(crate) fn governor_token() -> String {
    ops_token_with(&["admin"], json!({ "governor_agent_id": "governor-1" }))
}

/// A token of the issuer `ops` with these roles and further claims.
pub(crate) fn ops_token_with(roles: &[&str], more: Value) -> String {
    let mut claims = json!({ "user_id": "user-1", "email": "ops@example.com", "roles": roles });
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let claims = Claims::with_custom_claims(claims, Duration::from_mins(5))
        .with_issuer("ops.waooaw.com")
        .with_audience("plant-gateway-admin")
        .with_subject("subject-1");
    ops_key().sign(claims).unwrap()
}

/// A token of a user of the gateways, for `customer_id` and `agent_id` as `more` says.
pub(crate) fn user_token(issuer: &str, subject: &str, roles: &[&str], more: Value) -> String {
    let mut claims = json!({ "user_id": subject, "email": "user@example.com", "roles": roles, "trial_mode": false });
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let claims = Claims::with_custom_claims(claims, Duration::from_mins(5)).with_issuer(format!("{issuer}.waooaw.com"));
    let claims = claims.with_audience(format!("plant-gateway-{issuer}")).with_subject(subject);
    match issuer {
        "cp" => rsa_key().sign(claims).unwrap(),
        "pp" => pp_key().sign(claims).unwrap(),
        other => panic!("no test key for {other}"),
    }
}

fn pp_key() -> &'static ES256KeyPair {
    static KEY: OnceLock<ES256KeyPair> = OnceLock::new();
    KEY.get_or_init(|| ES256KeyPair::generate().with_key_id("pp-1"))
}

fn ops_key() -> &'static ES256KeyPair {
    static KEY: OnceLock<ES256KeyPair> = OnceLock::new();
    KEY.get_or_init(|| ES256KeyPair::generate().with_key_id("ops-1"))
}

/// A file for every secret that the shipped policies name.
fn write_secrets(directory: &Path) {
    std::fs::create_dir(directory).unwrap();
    let files = authoring::directory::read(Path::new(POLICIES)).unwrap();
    let document = wire::sources::read(&files).unwrap();
    for key in document.issuers.iter().flat_map(|issuer| &issuer.keys) {
        let text = match key.algorithm.as_str() {
            "HS256" => URL_SAFE_NO_PAD.encode(Sha256::digest(&key.secret)),
            "RS256" => rsa_public_pem().to_owned(),
            "ES256" if key.kid == "ops-1" => ops_key().public_key().to_pem().unwrap(),
            "ES256" if key.kid == "pp-1" => pp_key().public_key().to_pem().unwrap(),
            "ES256" => ES256KeyPair::generate().public_key().to_pem().unwrap(),
            "EdDSA" => Ed25519KeyPair::generate().public_key().to_pem(),
            other => panic!("no test key for {other}"),
        };
        std::fs::write(directory.join(&key.secret), text).unwrap();
    }
    for name in &document.registration_keys {
        std::fs::write(directory.join(name), "a registration key").unwrap();
    }
}

fn rsa_public_pem() -> &'static str {
    static PEM: OnceLock<String> = OnceLock::new();
    PEM.get_or_init(|| rsa_key().public_key().to_pem().unwrap())
}

fn rsa_key() -> &'static RS256KeyPair {
    static KEY: OnceLock<RS256KeyPair> = OnceLock::new();
    KEY.get_or_init(|| RS256KeyPair::generate(2048).unwrap().with_key_id("cp-1"))
}

fn copy_policies(from: &Path, to: &Path) {
    for (name, text) in authoring::directory::read(from).unwrap() {
        let path = to.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}
