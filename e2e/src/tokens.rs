//! Tokens with exactly one thing wrong, as `policies/cases/README.md` describes them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cli::issuer::IssuerState;
use cli::token::{MintError, TokenSpec, mint, now};
use serde_json::{Value, json};

const MONTH: i64 = 30 * 86_400;

/// The value of an `Authorization` header with this fault.
///
/// # Errors
/// When the issuer cannot sign.
pub fn faulty(issuer: &IssuerState, spec: TokenSpec, fault: &str) -> Result<Option<String>, MintError> {
    let good = |spec: TokenSpec| mint(issuer, &spec);
    let token = match fault {
        "not_bearer" => return Ok(Some("Basic dXNlcjpwYXNz".to_owned())),
        "malformed" => "one-part".to_owned(),
        "algorithm_refused" => unsigned(issuer, &spec)?,
        "header_refused" => with_header(&good(spec)?, |header| put(header, &[("crit", json!(["b64"])), ("b64", json!(true))])),
        "unknown_key" => mint(&IssuerState { kid: "nobodys-key".to_owned(), ..issuer.clone() }, &spec)?,
        "signature_invalid" => forged(&good(spec)?),
        "issuer_mismatch" => good(spec.claim("iss", json!("nobody.example.com")))?,
        "audience_mismatch" => good(spec.claim("aud", json!("another-service")))?,
        "token_type_refused" => good(spec.claim("token_type", json!("refresh")))?,
        "claim_missing" => good(spec.claim("email", Value::Null))?,
        "expired" => good(TokenSpec { issued_at: Some(now() - 7_200), lifetime_seconds: 3_600, ..spec })?,
        "not_yet_valid" => good(TokenSpec { issued_at: Some(now() + 3_600), ..spec })?,
        "lifetime_too_long" => good(spec.lasting(MONTH))?,
        "trial_claims_invalid" => good(spec.claim("trial_mode", json!(true)).claim("trial_expires_at", Value::Null))?,
        _ => return Ok(None),
    };
    Ok(Some(format!("Bearer {token}")))
}

/// `alg: none`, and no signature.
fn unsigned(issuer: &IssuerState, spec: &TokenSpec) -> Result<String, MintError> {
    let header = json!({"alg": "none", "typ": "JWT", "kid": issuer.kid});
    Ok(format!("{}.{}.", encoded(&header), encoded(&Value::Object(spec.claims(issuer)?))))
}

/// Another header under the same signature.
fn with_header(token: &str, change: impl FnOnce(&mut Value)) -> String {
    let (header, rest) = token.split_once('.').unwrap_or((token, ""));
    let mut header = URL_SAFE_NO_PAD.decode(header).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    change(&mut header);
    format!("{}.{rest}", encoded(&header))
}

/// A signature of the right form that nobody made: the first of its characters is another.
#[must_use]
pub fn forged(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap_or((token, ""));
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    format!("{signed}.{first}{}", signature.get(1..).unwrap_or_default())
}

fn put(header: &mut Value, members: &[(&str, Value)]) {
    if let Some(object) = header.as_object_mut() {
        for (name, value) in members {
            object.insert((*name).to_owned(), value.clone());
        }
    }
}

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}
