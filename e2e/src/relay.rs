//! Stands between Envoy and the control plane's data-plane API, passes everything on, and on demand answers the bundle poll itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::watch;

const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
const BUNDLE_PATH: &str = "/data-plane/v1/bundle";

/// What the bundle poll is answered with instead; `None` passes it on.
pub type Instead = Option<Arc<[u8]>>;

/// A running relay. It ends with the runtime that it was started in.
#[derive(Debug)]
pub struct Relay {
    instead: watch::Sender<Instead>,
}

#[derive(Clone, Debug)]
struct Shared {
    upstream: String,
    client: Client<HttpConnector, Body>,
    instead: watch::Receiver<Instead>,
}

impl Relay {
    /// Listens on one port of this machine and passes everything on to another.
    ///
    /// # Errors
    /// When the port cannot be listened on.
    pub async fn start(listen: u16, upstream: u16) -> std::io::Result<Self> {
        let (instead, watched) = watch::channel(None);
        let client = Client::builder(TokioExecutor::new()).build_http();
        let shared = Shared { upstream: format!("127.0.0.1:{upstream}"), client, instead: watched };
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], listen))).await?;
        tokio::spawn(axum::serve(listener, Router::new().fallback(pass).with_state(shared)).into_future());
        Ok(Self { instead })
    }

    /// From now on the bundle poll gets these bytes as a bundle; a poll that waits gets them at once.
    pub fn serve_bundle(&self, image: &[u8]) {
        self.instead.send_replace(Some(image.into()));
    }

    /// From now on the bundle poll is passed on again.
    pub fn pass_on(&self) {
        self.instead.send_replace(None);
    }
}

async fn pass(State(shared): State<Shared>, request: Request) -> Response {
    let polls = request.uri().path() == BUNDLE_PATH;
    let instead = shared.instead.borrow().clone();
    if polls && let Some(image) = instead {
        // Envoy would ask again at once, thousands of times a second.
        tokio::time::sleep(Duration::from_millis(50)).await;
        return bundle(&image);
    }
    let upstream = shared.upstream.clone();
    let mut watched = shared.instead.clone();
    let replaced = async move { watched.wait_for(Option::is_some).await.ok().and_then(|image| image.clone()) };
    tokio::select! {
        answer = forward(&shared.client, &upstream, request) => answer.unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, error).into_response()),
        Some(image) = replaced, if polls => bundle(&image),
    }
}

fn bundle(image: &[u8]) -> Response {
    let headers = [(header::CONTENT_TYPE, wire::frame::MEDIA_TYPE_BUNDLE), (header::ETAG, "\"broken\"")];
    (headers, image.to_vec()).into_response()
}

async fn forward(client: &Client<HttpConnector, Body>, upstream: &str, request: Request) -> Result<Response, String> {
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = format!("http://{upstream}{path}").parse::<Uri>().map_err(|error| error.to_string())?;
    let body = to_bytes(body, BODY_BYTES_MAX).await.map_err(|error| error.to_string())?;
    let answer = client.request(Request::from_parts(head, Body::from(body))).await.map_err(|error| error.to_string())?;
    Ok(answer.map(Body::new))
}

/// A copy of Envoy's bootstrap template in which the control plane is at another port.
///
/// # Errors
/// When it cannot be copied.
pub fn template_with_data_plane(template: &Path, copy: PathBuf, port: u16) -> std::io::Result<PathBuf> {
    let text = std::fs::read_to_string(template)?.replace("${DATA_PLANE_PORT}", &port.to_string());
    std::fs::write(&copy, text)?;
    Ok(copy)
}
