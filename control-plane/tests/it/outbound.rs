//! The guarded client against a real TLS server: what it fetches, and everything that it does not.

use crate::idp::{Idp, Reply, response};
use control_plane::outbound::target::{AllowedHosts, AllowedNetworks};
use control_plane::outbound::{CallError, GuardedClient, Limits};
use serde_json::json;
use std::time::{Duration, Instant};

const LOOPBACK: &str = "127.0.0.0/8,::1/128";

fn client(idp: &Idp, networks: &str, limits: Limits) -> GuardedClient {
    let hosts: AllowedHosts = format!("localhost:{0},127.0.0.1:{0}", idp.port).parse().unwrap();
    let networks: AllowedNetworks = networks.parse().unwrap();
    GuardedClient::new(hosts, networks.0, Some(&idp.ca_file()), limits).unwrap()
}

async fn refused(idp: &Idp, url: &str) -> String {
    client(idp, LOOPBACK, Limits::SMALL).get_json(url).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_document_of_an_allowed_host_is_fetched() {
    let idp = Idp::start().await;
    idp.answers(Reply::Json(json!({ "keys": [] })));
    let body = client(&idp, LOOPBACK, Limits::SMALL).get_json(&idp.url()).await.unwrap();
    assert_eq!(&body[..], br#"{"keys":[]}"#);
}

#[tokio::test]
async fn a_name_that_leads_to_an_address_which_is_not_public_is_not_connected_to() {
    let idp = Idp::start().await;
    idp.answers(Reply::Json(json!({ "keys": [] })));
    let refused = client(&idp, "", Limits::SMALL).get_json(&idp.url()).await.unwrap_err();
    assert!(matches!(refused, CallError::Address { .. }), "{refused}");
    assert_eq!(idp.hits(), 0);
}

#[tokio::test]
async fn no_notation_of_an_address_gets_around_the_check() {
    let idp = Idp::start().await;
    for host in ["127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.01", "127.1"] {
        let url = format!("https://{host}:{}/jwks", idp.port);
        let refused = client(&idp, "", Limits::SMALL).get_json(&url).await.unwrap_err();
        assert!(matches!(refused, CallError::Address { .. }), "{host}: {refused}");
    }
    for host in ["[::1]", "[::ffff:127.0.0.1]", "localhost."] {
        let refused = refused(&idp, &format!("https://{host}:{}/jwks", idp.port)).await;
        assert!(refused.contains("JWKS_HOSTS"), "{host}: {refused}");
    }
}

#[tokio::test]
async fn other_schemes_and_hosts_are_refused_before_anything_is_sent() {
    let idp = Idp::start().await;
    assert_eq!(refused(&idp, &format!("http://localhost:{}/jwks", idp.port)).await, "the scheme is not `https`");
    assert!(refused(&idp, "https://localhost:1/jwks").await.contains("JWKS_HOSTS"));
    assert!(refused(&idp, &format!("https://example.com:{}/", idp.port)).await.contains("JWKS_HOSTS"));
    assert_eq!(idp.hits(), 0);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let idp = Idp::start().await;
    for status in ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let to = format!("HTTP/1.1 {status}\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", idp.url());
        idp.answers(Reply::Raw(to.into_bytes()));
        let before = idp.hits();
        assert!(refused(&idp, &idp.url()).await.starts_with("the answer has status 30"));
        assert_eq!(idp.hits(), before + 1);
    }
}

#[tokio::test]
async fn only_200_with_json_counts() {
    let idp = Idp::start().await;
    for (reply, expected) in [
        (response("201 Created", "application/json", "{}"), "the answer has status 201 Created and not 200"),
        (response("404 Not Found", "application/json", "{}"), "the answer has status 404 Not Found and not 200"),
        (response("200 OK", "text/html", "{}"), "the answer is not JSON"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_vec(), "the answer is not JSON"),
    ] {
        idp.answers(Reply::Raw(reply));
        assert_eq!(refused(&idp, &idp.url()).await, expected);
    }
}

#[tokio::test]
async fn an_answer_is_read_up_to_256_kib_whether_its_length_is_said_or_not() {
    let idp = Idp::start().await;
    let limit = Limits::SMALL.body_max;
    idp.answers(Reply::Raw(response("200 OK", "application/json", &"x".repeat(limit))));
    assert_eq!(client(&idp, LOOPBACK, Limits::SMALL).get_json(&idp.url()).await.unwrap().len(), limit);
    idp.answers(Reply::Raw(response("200 OK", "application/json", &"x".repeat(limit + 1))));
    assert_eq!(refused(&idp, &idp.url()).await, "the answer is larger than 262144 bytes");
    let endless = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{}", "x".repeat(limit + 1));
    idp.answers(Reply::Raw(endless.into_bytes()));
    assert_eq!(refused(&idp, &idp.url()).await, "the answer is larger than 262144 bytes");
}

#[tokio::test]
async fn a_server_that_is_too_slow_is_given_up() {
    let idp = Idp::start().await;
    let limits = Limits { time: Duration::from_millis(300), ..Limits::SMALL };
    let slow_body = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{".to_vec();
    let began = Instant::now();
    let refused = client(&idp, LOOPBACK, limits).get_json(&idp.url()).await.unwrap_err();
    assert!(matches!(refused, CallError::TimedOut(_)), "{refused}");
    assert!(began.elapsed() < Duration::from_secs(2));
    idp.answers(Reply::Raw(slow_body));
    assert!(client(&idp, LOOPBACK, limits).get_json(&idp.url()).await.is_err(), "cut off");
    // One that accepts and never speaks TLS.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let hosts = format!("127.0.0.1:{port}").parse().unwrap();
    let networks: AllowedNetworks = LOOPBACK.parse().unwrap();
    let client = GuardedClient::new(hosts, networks.0, None, limits).unwrap();
    let refused = client.get_json(&format!("https://127.0.0.1:{port}/")).await.unwrap_err();
    assert!(matches!(refused, CallError::TimedOut(_)), "{refused}");
    assert_eq!(Limits::SMALL.time, Duration::from_secs(5), "what the control plane uses");
}

#[tokio::test]
async fn a_certificate_that_nobody_trusts_or_of_another_name_is_refused() {
    let (idp, other) = (Idp::start().await, Idp::start().await);
    idp.answers(Reply::Json(json!({ "keys": [] })));
    let networks: AllowedNetworks = LOOPBACK.parse().unwrap();
    let hosts: AllowedHosts = format!("localhost:{}", idp.port).parse().unwrap();
    let stranger = GuardedClient::new(hosts, networks.0, Some(&other.ca_file()), Limits::SMALL).unwrap();
    let refused = stranger.get_json(&idp.url()).await.unwrap_err();
    assert!(matches!(refused, CallError::Tls(_)), "{refused}");
    let by_address = format!("https://127.0.0.1:{}/jwks", idp.port);
    let refused = client(&idp, LOOPBACK, Limits::SMALL).get_json(&by_address).await.unwrap_err();
    assert!(matches!(refused, CallError::Tls(_)), "{refused}");
    assert_eq!(idp.hits(), 0);
}

#[tokio::test]
async fn a_ca_file_without_a_certificate_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in [("empty.pem", ""), ("text.pem", "hello")] {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        assert!(GuardedClient::new(AllowedHosts::default(), vec![], Some(&path), Limits::SMALL).is_err(), "{name}");
    }
    let absent = directory.path().join("absent.pem");
    assert!(GuardedClient::new(AllowedHosts::default(), vec![], Some(&absent), Limits::SMALL).is_err());
}
