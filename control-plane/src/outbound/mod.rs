//! The guarded client: everything that the control plane asks of the outside goes through here.
//!
//! `https` only, to hosts that the operator allows. A name is resolved once, every address that it has is checked, and a
//! checked one is connected to. No redirects, no proxy, no cookies; size and time are bounded.

pub mod address;
pub mod target;

use address::{Class, Network};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use target::{AllowedHosts, InvalidTarget, Purpose, Target};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use url::Host;

/// The most that an answer may be, and the longest that a call may take from start to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the body.
    pub body_max: usize,
    /// Resolving, connecting, asking and reading together.
    pub time: Duration,
}

impl Limits {
    /// For documents of a few keys.
    pub const SMALL: Self = Self { body_max: 256 * 1024, time: Duration::from_secs(5) };
}

/// Why a call led to nothing. Names hosts and addresses, for operators.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The URL may not be asked for.
    #[error(transparent)]
    Target(#[from] InvalidTarget),
    /// The name is unknown.
    #[error("the host `{host}` cannot be resolved")]
    Resolve {
        /// The host.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The name leads to where it must not lead.
    #[error("the host `{host}` has the address {address}, which is {}", class.name())]
    Address {
        /// The host.
        host: String,
        /// The address.
        address: IpAddr,
        /// What it is.
        class: Class,
    },
    /// No connection.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// No name that a certificate could have.
    #[error("the host has no name for a certificate")]
    Name(#[source] InvalidDnsNameError),
    /// TLS failed, or the certificate is not trusted.
    #[error("no trusted TLS connection")]
    Tls(#[source] io::Error),
    /// The exchange broke.
    #[error("the exchange broke")]
    Http(#[source] hyper::Error),
    /// The request cannot be written.
    #[error("the request cannot be written")]
    Request(#[source] hyper::http::Error),
    /// Not a status of success; redirects are not followed.
    #[error("the answer has status {0} and not 200")]
    Status(StatusCode),
    /// Another kind of document.
    #[error("the answer is not JSON")]
    NotJson,
    /// Too much.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The body broke off.
    #[error("the answer broke off")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Too slow.
    #[error("no whole answer in {} ms", .0.as_millis())]
    TimedOut(Duration),
}

impl CallError {
    /// How far it came, for metrics and records: `refused`, `unreachable` or `timed_out`. None where there was an answer, and it
    /// was not good.
    #[must_use]
    pub const fn class(&self) -> Option<&'static str> {
        match self {
            Self::Target(_) | Self::Address { .. } => Some("refused"),
            Self::TimedOut(_) => Some("timed_out"),
            Self::Resolve { .. } | Self::Connect(_) | Self::Name(_) | Self::Tls(_) | Self::Http(_) | Self::Request(_) | Self::Body(_) => {
                Some("unreachable")
            }
            Self::Status(_) | Self::NotJson | Self::TooLarge(_) => None,
        }
    }
}

/// Why the client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file of further roots.
    #[error("the CA file `{}` has no usable certificate", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The TLS library.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// Calls to the outside.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "a TLS configuration has nothing worth printing")]
pub struct GuardedClient {
    purpose: Purpose,
    hosts: AllowedHosts,
    networks: Vec<Network>,
    tls: TlsConnector,
    limits: Limits,
}

/// A document to be posted.
#[derive(Clone, Debug)]
pub struct Post<'a> {
    /// Headers beside those that say what and to whom.
    pub headers: &'a [(&'static str, String)],
    /// JSON.
    pub body: Vec<u8>,
}

impl GuardedClient {
    /// A client that trusts the system's roots and those of `ca_file`. Blocks: it reads files.
    ///
    /// # Errors
    /// The file is unusable.
    pub fn new(hosts: AllowedHosts, networks: Vec<Network>, ca_file: Option<&PathBuf>, limits: Limits) -> Result<Self, ClientError> {
        let mut roots = RootCertStore::empty();
        // A system without roots, or with bad ones among them, is not our failure: a call will say what is not trusted.
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        if let Some(path) = ca_file {
            add_roots(&mut roots, path).map_err(|source| ClientError::CaFile { path: path.clone(), source })?;
        }
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(ClientError::Tls)?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { purpose: Purpose::KeySets, hosts, networks, tls: TlsConnector::from(Arc::new(config)), limits })
    }

    /// The same for another purpose; one that is not said is the fetching of key sets.
    #[must_use]
    pub fn with_purpose(self, purpose: Purpose) -> Self {
        Self { purpose, ..self }
    }

    /// Fetches a JSON document.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn get_json(&self, url: &str) -> Result<Bytes, CallError> {
        let target = self.hosts.target(url, self.purpose)?;
        let request = Request::get(&target.path_and_query)
            .header(header::ACCEPT, "application/json, application/jwk-set+json")
            .body(Full::default())
            .map_err(CallError::Request)?;
        self.timed(self.call(&target, request, async |response| self.body(response).await)).await
    }

    /// Posts a JSON document. Any status of success will do; what the answer says is not read.
    ///
    /// # Errors
    /// Why nobody took it.
    pub async fn post_json(&self, url: &str, post: Post<'_>) -> Result<StatusCode, CallError> {
        let target = self.hosts.target(url, self.purpose)?;
        let mut request = Request::post(&target.path_and_query).header(header::CONTENT_TYPE, "application/json");
        for (name, value) in post.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::from(post.body))).map_err(CallError::Request)?;
        let read = async |response: Response<Incoming>| {
            let status = response.status();
            if status.is_success() { Ok(status) } else { Err(CallError::Status(status)) }
        };
        self.timed(self.call(&target, request, read)).await
    }

    async fn timed<T>(&self, call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        let limit = self.limits.time;
        tokio::time::timeout(limit, call).await.unwrap_or(Err(CallError::TimedOut(limit)))
    }

    async fn call<T>(
        &self,
        target: &Target,
        mut request: Request<Full<Bytes>>,
        read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let host = header::HeaderValue::try_from(target.authority()).map_err(|invalid| CallError::Request(invalid.into()))?;
        request.headers_mut().insert(header::HOST, host);
        request.headers_mut().insert(header::USER_AGENT, header::HeaderValue::from_static("plant-gateway"));
        let addresses = self.checked_addresses(target).await?;
        // These addresses and no others: the name is not resolved again.
        let stream = TcpStream::connect(addresses.as_slice()).await.map_err(CallError::Connect)?;
        let stream = self.tls.connect(server_name(&target.host)?, stream).await.map_err(CallError::Tls)?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(64 * 1024)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(CallError::Http)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(CallError::Http)?;
            read(response).await
        };
        // Both in this task, so that a call that is given up leaves nothing behind.
        tokio::pin!(exchange);
        tokio::select! {
            done = &mut exchange => return done,
            ended = connection => ended.map_err(CallError::Http)?,
        }
        exchange.await
    }

    async fn checked_addresses(&self, target: &Target) -> Result<Vec<SocketAddr>, CallError> {
        let host = target.host.to_string();
        let addresses: Vec<SocketAddr> = match &target.host {
            Host::Ipv4(address) => vec![SocketAddr::new((*address).into(), target.port)],
            Host::Ipv6(address) => vec![SocketAddr::new((*address).into(), target.port)],
            Host::Domain(name) => {
                let found = tokio::net::lookup_host((name.as_str(), target.port)).await;
                found.map_err(|source| CallError::Resolve { host: host.clone(), source })?.collect()
            }
        };
        check_all(&host, &addresses, &self.networks)?;
        Ok(addresses)
    }

    async fn body(&self, response: Response<Incoming>) -> Result<Bytes, CallError> {
        if response.status() != StatusCode::OK {
            return Err(CallError::Status(response.status()));
        }
        if !response.headers().get(header::CONTENT_TYPE).is_some_and(is_json) {
            return Err(CallError::NotJson);
        }
        let limited = Limited::new(response.into_body(), self.limits.body_max);
        let collected = limited.collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { CallError::TooLarge(self.limits.body_max) } else { CallError::Body(error) }
        })?;
        Ok(collected.to_bytes())
    }
}

/// One bad address spoils the name: which of them would be taken is chance.
fn check_all(host: &str, addresses: &[SocketAddr], networks: &[Network]) -> Result<(), CallError> {
    addresses.iter().try_for_each(|address| {
        let address = address.ip();
        address::check(address, networks).map_err(|class| CallError::Address { host: host.to_owned(), address, class })
    })
}

fn server_name(host: &Host<String>) -> Result<ServerName<'static>, CallError> {
    match host {
        Host::Domain(name) => ServerName::try_from(name.clone()).map_err(CallError::Name),
        Host::Ipv4(address) => Ok(ServerName::from(IpAddr::from(*address))),
        Host::Ipv6(address) => Ok(ServerName::from(IpAddr::from(*address))),
    }
}

/// `application/json` or `application/…+json`, with any parameters.
fn is_json(value: &header::HeaderValue) -> bool {
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn add_roots(roots: &mut RootCertStore, path: &PathBuf) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)?.collect::<Result<_, _>>()?;
    if certificates.is_empty() {
        return Err("it contains no certificate".into());
    }
    certificates.into_iter().try_for_each(|certificate| roots.add(certificate).map_err(Into::into))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_address_spoils_the_name() {
        let addresses = ["8.8.8.8:443", "10.0.0.1:443"].map(|text| text.parse().unwrap());
        let refused = check_all("id.example.com", &addresses, &[]).unwrap_err().to_string();
        assert_eq!(refused, "the host `id.example.com` has the address 10.0.0.1, which is private");
        assert!(check_all("id.example.com", &addresses, &["10.0.0.0/8".parse().unwrap()]).is_ok());
    }

    #[test]
    fn json_is_told_by_its_media_type() {
        for (text, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/jwk-set+json", true),
            ("text/html", false),
            ("text/json", false),
            ("application/jsonp", false),
            ("", false),
        ] {
            assert_eq!(is_json(&header::HeaderValue::from_static(text)), expected, "{text}");
        }
    }
}
