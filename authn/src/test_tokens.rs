//! Tokens and keys for the tests of this crate.

use core::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use decision_core::time::Timestamp;
use jwt_simple::algorithms::{ECDSAP256KeyPairLike, ES256KeyPair};
use serde_json::{Value, json};

use crate::algorithm::Algorithm;
use crate::issuer::{IssuerRules, KeysKnown, LIFETIME_MAX, MoreKeys, TrialTokens};
use crate::key::VerificationKey;

pub(crate) const SECRET: [u8; 32] = *b"a secret of thirty-two bytes !!!";
pub(crate) const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

pub(crate) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn hs256_token(header: &str, payload: &str) -> String {
    hs256_token_by(&SECRET, header, payload)
}

pub(crate) fn hs256_token_by(secret: &[u8], header: &str, payload: &str) -> String {
    let input = format!("{}.{}", b64(header), b64(payload));
    let mac = hmac_sha256::HMAC::mac(&input, secret);
    format!("{input}.{}", b64(mac))
}

pub(crate) fn hs256_key(kid: Option<&str>) -> VerificationKey {
    VerificationKey::from_secret(kid, Algorithm::Hs256, &SECRET).unwrap()
}

pub(crate) fn es256_pair(kid: Option<&str>) -> (ES256KeyPair, VerificationKey) {
    let pair = ES256KeyPair::generate();
    let der = pair.key_pair().public_key().to_der().unwrap();
    let key = VerificationKey::from_public_key(kid, Algorithm::Es256, &der).unwrap();
    (pair, key)
}

/// The rules for `cp.example`, which signs by HS256.
pub(crate) fn rules() -> IssuerRules {
    IssuerRules {
        name: "cp".into(),
        issuer: "cp.example".into(),
        audiences: vec![],
        token_types: vec!["JWT".into()],
        allow_missing_typ: true,
        scopes: vec![],
        skew: Duration::from_secs(60),
        lifetime_max: LIFETIME_MAX,
        required_claims: vec![],
        trials: TrialTokens::Allow,
        algorithms: Algorithm::ALL.to_vec(),
        keys: vec![hs256_key(None)],
        keys_known: KeysKnown::Always,
        more_keys: MoreKeys::No,
    }
}

/// What the original's portal mints, ten minutes ago, for half an hour.
pub(crate) fn good_claims() -> Value {
    json!({
        "iss": "cp.example", "sub": "u-1", "user_id": "u-1", "email": "u@example.com", "roles": ["user"],
        "iat": NOW.as_seconds() - 600, "exp": NOW.as_seconds() + 1200,
    })
}
