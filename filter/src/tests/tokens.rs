//! Tokens for the tests, by another implementation than the one that verifies them.

use super::gate::NOW;
use jwt_simple::algorithms::{HS256Key, MACLike};
use jwt_simple::claims::JWTClaims;
use jwt_simple::prelude::Duration;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashSet;

/// What a registration shows.
pub(crate) const REGISTRATION_KEY: &str = "a registration key";

/// The secret of a key of the test's bundle.
pub(crate) fn secret(kid: &str) -> Vec<u8> {
    Sha256::digest(kid).to_vec()
}

pub(crate) fn registration_key_hash() -> [u8; 32] {
    Sha256::digest(REGISTRATION_KEY).into()
}

/// An administrator of the issuer that serves all gateways, a paying customer.
pub(crate) fn admin() -> String {
    token(json!({}))
}

/// A user with this role.
pub(crate) fn with_role(role: &str) -> String {
    token(json!({ "roles": [role] }))
}

/// On trial for so many seconds more.
pub(crate) fn on_trial(seconds: i64) -> String {
    token(json!({ "roles": ["user"], "trial_mode": true, "trial_expires_at": NOW.as_seconds() + seconds }))
}

/// The administrator's token with other claims; `null` takes one away.
pub(crate) fn token(changes: Value) -> String {
    let changes: Map<String, Value> = serde_json::from_value(changes).unwrap();
    sign("legacy-1", "waooaw.com", changes)
}

/// A token by the key `kid` in the name of `issuer`.
pub(crate) fn sign(kid: &str, issuer: &str, changes: Map<String, Value>) -> String {
    let claims = json!({
        "user_id": "user-1", "email": "user-1@example.com", "customer_id": "customer-1", "agent_id": "agent-1", "roles": ["admin"],
    });
    let mut claims: Map<String, Value> = serde_json::from_value(claims).unwrap();
    claims.extend(changes);
    claims.retain(|_, value| !value.is_null());
    let seconds = |seconds: i64| Some(Duration::from_secs(u64::try_from(seconds).unwrap()));
    let take = |claims: &mut Map<String, Value>, name: &str, default: &str| {
        claims.remove(name).map_or_else(|| Some(default.into()), |value| value.as_str().map(String::from))
    };
    let mut moment = |name: &str, default: i64| claims.remove(name).and_then(|value| value.as_i64()).unwrap_or(default);
    let issued = moment("iat", NOW.as_seconds() - 60);
    let expires = moment("exp", issued + 3_600);
    let claims = JWTClaims {
        issued_at: seconds(issued),
        expires_at: seconds(expires),
        invalid_before: None,
        issuer: Some(issuer.into()),
        subject: take(&mut claims, "sub", "user-1"),
        audiences: None::<HashSet<String>>.map(jwt_simple::claims::Audiences::AsSet),
        jwt_id: None,
        nonce: None,
        custom: claims,
    };
    HS256Key::from_bytes(&secret(kid)).with_key_id(kid).authenticate(claims).unwrap()
}
