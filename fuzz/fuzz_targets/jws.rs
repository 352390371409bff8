//! Any text as a token, under all keys of the public vectors. What is accepted is canonical and is accepted again.
#![no_main]

use std::sync::LazyLock;

use authn::{PureRust, SignatureVerifier, VerificationKey, Verified, bearer, parse_jws, verify_jws};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const VECTORS: &str = include_str!("../../authn/tests/vectors/wycheproof/json_web_signature_test.json");

static KEYS: LazyLock<Vec<VerificationKey>> = LazyLock::new(|| {
    let vectors: Value = serde_json::from_str(VECTORS).expect("the vectors are JSON");
    let mut keys: Vec<VerificationKey> = Vec::new();
    for group in vectors["testGroups"].as_array().into_iter().flatten() {
        let mut jwk = group.get("public").or(group.get("private")).cloned().unwrap_or_default();
        if let Some(members) = jwk.as_object_mut().filter(|members| members.get("kty") != Some(&"oct".into())) {
            members.retain(|name, _| !["d", "p", "q", "dp", "dq", "qi", "oth"].contains(&name.as_str()));
        }
        if let Ok(key) = VerificationKey::from_jwk(&jwk)
            && !keys.iter().any(|known| known.thumbprint() == key.thumbprint() && known.algorithm == key.algorithm && known.kid == key.kid)
        {
            keys.push(key);
        }
    }
    assert!(keys.len() >= 10);
    keys
});

/// A host that accepts everything: what our own checks let through is seen.
struct Lax(u32);

impl SignatureVerifier for Lax {
    fn verify(&mut self, _: &VerificationKey, _: &[u8], _: &[u8]) -> Verified {
        self.0 += 1;
        Verified::Yes
    }
}

fuzz_target!(|data: &[u8]| {
    let _ = bearer(data);
    let Ok(token) = core::str::from_utf8(data) else { return };
    let parsed = parse_jws(token);
    assert_eq!(parsed, parse_jws(token));
    let Ok(jws) = parsed else {
        assert!(KEYS.iter().all(|key| verify_jws(token, key, &mut Lax(0)).is_err()));
        return;
    };
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3);
    assert_eq!(parts[1], URL_SAFE_NO_PAD.encode(&jws.payload));
    assert_eq!(parts[2], URL_SAFE_NO_PAD.encode(&jws.signature));
    for key in KEYS.iter() {
        let mut lax = Lax(0);
        let possible = verify_jws(token, key, &mut lax).is_ok();
        assert_eq!(lax.0, u32::from(possible));
        let verdict = verify_jws(token, key, &mut PureRust);
        assert_eq!(verdict, verify_jws(token, key, &mut PureRust));
        if let Ok(payload) = verdict {
            assert!(possible && payload == jws.payload && key.algorithm == jws.header.algorithm);
            assert_eq!(PureRust.verify(key, jws.signing_input.as_bytes(), &jws.signature), Verified::Yes);
            let mut other = jws.signing_input.as_bytes().to_vec();
            other.push(b'A');
            assert_eq!(PureRust.verify(key, &other, &jws.signature), Verified::No);
        }
    }
});
