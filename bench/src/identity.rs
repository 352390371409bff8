//! Who sends the requests: a user of the customer portal, with a token as long as real ones; and the key by which Envoy's own filter checks it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cli::issuer::IssuerState;
use cli::stack::State;
use cli::token::{TokenSpec, mint};
use jwt_simple::algorithms::RS256KeyPair;
use serde_json::json;

use crate::error::BenchError;

const SUBJECT: &str = "ann.petersen@customer.example";
pub(crate) const CUSTOMER: &str = "0b5c1f2e-6a55-4d27-9f0e-1d6f4f1c7a10";
/// Under this name the audit log finds our records, and nobody else's.
pub(crate) const USER_ID: &str = "bench-2d0f9a34-55f1-4a3e-9c7b-7d1a0e6b9f21";
/// Longer than any run.
const LIFETIME_SECONDS: i64 = 4 * 3_600;

/// More tokens than the filter's cache keeps (10,000), so that each is new to it when its turn comes.
const FIRST_SEEN: usize = 10_500;

fn spec() -> TokenSpec {
    let mut spec = TokenSpec::new(SUBJECT, &["customer_admin"]).customer(CUSTOMER).lasting(LIFETIME_SECONDS);
    spec.user_id = Some(USER_ID.to_owned());
    spec
}

/// A token of issuer `cp` (RS256).
pub(crate) fn token(state: &State) -> Result<String, BenchError> {
    Ok(mint(issuer(state)?, &spec())?)
}

/// Tokens of the tier that has no rates in the benchmark's policy, and so is charged nothing.
pub(crate) fn uncharged_tokens(state: &State) -> Result<Vec<String>, BenchError> {
    let issuer = issuer(state)?;
    let mint_one = |number: usize| {
        let spec = spec().claim("tier", json!("enterprise")).claim("jti", json!(format!("first-seen-{number:08}")));
        mint(issuer, &spec)
    };
    // Signing takes a millisecond or two.
    let half = FIRST_SEEN / 2;
    std::thread::scope(|scope| {
        let first = scope.spawn(|| (0..half).map(mint_one).collect::<Result<Vec<_>, _>>());
        let second = (half..FIRST_SEEN).map(mint_one).collect::<Result<Vec<_>, _>>()?;
        let mut tokens = first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        tokens.extend(second);
        Ok(tokens)
    })
}

/// A token of a user who is charged nothing, and for whom custom rules are switched on or off.
pub(crate) fn uncharged_token(state: &State, customer: &str) -> Result<String, BenchError> {
    let mut spec = TokenSpec::new(SUBJECT, &["customer_admin"]).customer(customer).lasting(LIFETIME_SECONDS);
    spec.user_id = Some(USER_ID.to_owned());
    Ok(mint(issuer(state)?, &spec.claim("tier", json!("enterprise")))?)
}

fn issuer(state: &State) -> Result<&IssuerState, BenchError> {
    state.issuers.get("cp").ok_or(BenchError::StackLacks { what: "issuer `cp`" })
}

/// A server of one document, the public key. The stack makes its keys when it starts, and so does Envoy: its `jwt_authn` fetches the key with
/// the first request, when it is known.
#[derive(Debug)]
pub(crate) struct Jwks {
    pub(crate) port: u16,
    document: Arc<OnceLock<String>>,
}

impl Jwks {
    /// Listens until the process ends.
    pub(crate) fn listen() -> Result<Self, BenchError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(BenchError::Listen)?;
        let port = listener.local_addr().map_err(BenchError::Listen)?.port();
        let document = Arc::new(OnceLock::new());
        let known = Arc::clone(&document);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                // Whoever asks gets the same; one that hangs up early asks again.
                let _asked = stream.read(&mut [0; 4_096]);
                let body = known.get().map_or("", String::as_str);
                let length = body.len();
                let head =
                    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                let _sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
            }
        });
        Ok(Self { port, document })
    }

    /// The key of issuer `cp` is known.
    pub(crate) fn publish(&self, state: &State) -> Result<(), BenchError> {
        let issuer = issuer(state)?;
        let unreadable = |error: jwt_simple::Error| BenchError::Key { reason: error.to_string() };
        let pem = issuer.private_key_pem.as_deref().ok_or(BenchError::StackLacks { what: "key of issuer `cp`" })?;
        let key = RS256KeyPair::from_pem(pem).map_err(unreadable)?.public_key().to_components();
        let (n, e) = (URL_SAFE_NO_PAD.encode(key.n), URL_SAFE_NO_PAD.encode(key.e));
        let key = json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": issuer.kid, "n": n, "e": e});
        self.document.get_or_init(|| json!({"keys": [key]}).to_string());
        Ok(())
    }
}
