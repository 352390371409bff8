//! Signatures verify in a browser's kind of WebAssembly: no host, no clock, no random numbers. `make test` runs this under
//! Node. The tokens were signed once by `jwt-simple` with keys that were thrown away.
#![cfg(target_arch = "wasm32")]
#![expect(clippy::unwrap_used, reason = "clippy's exception for tests does not cover the functions around them")]

use authn::{
    Algorithm, IssuerRules, Issuers, KeysKnown, MoreKeys, PureRust, TrialTokens, Unauthenticated, VerificationKey, authenticate, verify_jws,
};
use core::time::Duration;
use decision_core::principal::CredentialFault;
use decision_core::time::Timestamp;
use wasm_bindgen_test::wasm_bindgen_test;

/// Inside the tokens' life: issued at 1,800,000,000, for half an hour.
const NOW: Timestamp = Timestamp::from_seconds(1_800_000_600);

/// `{"iat":1800000000,"exp":1800001800,"iss":"wasm.example","sub":"u-1","user_id":"u-1","email":…,"roles":["user"]}`
const PAYLOAD: &str = concat!(
    "eyJpYXQiOjE4MDAwMDAwMDAsImV4cCI6MTgwMDAwMTgwMCwiaXNzIjoid2FzbS5leGFtcGxlIiwic3ViIjoidS0xIiwidXNlcl9pZCI6InUtMS",
    "IsImVtYWlsIjoidUBleGFtcGxlLmNvbSIsInJvbGVzIjpbInVzZXIiXX0",
);

const RS256_HEADER: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InJzIiwidHlwIjoiSldUIn0";
const RS256_SIGNATURE: &str = concat!(
    "qJ6GL7qEt0H_YGLntx2pVMxLmUdzlT8w4NFKkWwDKlXN_S5vcn34mRRngItXyAaIxslPJokUatTwyXlvtJN_9EnfDPv96eWx-VOorjIxrU_2uT",
    "NPCAYyeHhmBj19Y3GDxXJsp4ncpAgs2Fnyu1Xr0P8zY1D8V9rgUTrWXE6m-w8mmTAk9gtl1tg_hfMkgERsatv3TdrGE7rpwZBDRXMDNSFTPgMi",
    "xa8jmk3arLRdA1eEzFUsN_GS2SegW_Ai330TBm5torh_X4RhbGdl0MfrgHtxvWdoGBl0l_BycYHFa64p9a70Y_-fad0ym2vkXXnwZqskdJfcap",
    "JoR9PO7Rri1g",
);
const RS256_KEY: &str = "\
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA3lGg6OchbNQi/IbgXoIf
Wp1sGLwEIcdvnHT9pE3gYryKbZWYvAdlM/JQkriRR9p4gNdDLKP26aFNh6KDSKz2
Lj+E7WW1ofG0iFoZ7nRLDMTTIQE5blB266UFl6d2710XAM4n9MHAjcxyiBQTURQO
j034m9XFyNooMh+IW1vtXAN5RDEqRX6/DUpYvvkPlpaFjlK7I/zWnfZwfShCmqoI
EuGcstL9En5oA+j0q0OT/if1OV72SjDvawyaqZ9ZaIQP1WeoffInDUKbPTaKQzko
ug7qE94K0tK8yQlPbButDC5afk9YVW6wd7p8ELwpzrfaRuoohBkunj5FAfN3R8lR
nQIDAQAB
-----END PUBLIC KEY-----
";

const ES256_HEADER: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImVzIiwidHlwIjoiSldUIn0";
const ES256_SIGNATURE: &str = "sOWe10LTmxwRe3WRz6y8LSgOzjRySyU-6bPNUoZRrfKY4H1JXbAD3DORKoJ7NtuRTnU9_7mq4zEO5D0W1JWApQ";
const ES256_KEY: &str = "\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEPb+yYHWnNVAuIyvjOcP/bMDx5mUK
Uz+DvNQPNFHuvNJ6e6wJckBpf6rvVrFFStPR0ZybN8ZRsGZrnACS5U6Szw==
-----END PUBLIC KEY-----
";

const EDDSA_HEADER: &str = "eyJhbGciOiJFZERTQSIsImtpZCI6ImVkIiwidHlwIjoiSldUIn0";
const EDDSA_SIGNATURE: &str = "U49aWsWh8_w5GYRcq0r37-xkJJwKqd1IbK-s2SAHt1_V-IBJvp_pVh_t8IE91eu-NfXxOxthJRVCpjMBjT2dAQ";
const EDDSA_KEY: &str = "\
-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAgKz1lUR07PfyoPMjkW0v5pFkmSqy13MYNy2pqTd17lQ=
-----END PUBLIC KEY-----
";

const HS256_HEADER: &str = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImhzIiwidHlwIjoiSldUIn0";
const HS256_SIGNATURE: &str = "KwUem1CiyNwX32bRCjK_GnYkxYaAfOPrprKJGgXsu6k";

/// Guards nothing: it signed the one token above.
const HS256_SECRET: &[u8] = b"a secret of thirty-two bytes !!!";

struct Case {
    algorithm: Algorithm,
    kid: &'static str,
    token: String,
    key: VerificationKey,
}

fn cases() -> [Case; 4] {
    let token = |header: &str, signature: &str| format!("{header}.{PAYLOAD}.{signature}");
    let public = |kid, algorithm, pem: &str| VerificationKey::from_public_key(Some(kid), algorithm, pem.as_bytes()).unwrap();
    [
        Case {
            algorithm: Algorithm::Rs256,
            kid: "rs",
            token: token(RS256_HEADER, RS256_SIGNATURE),
            key: public("rs", Algorithm::Rs256, RS256_KEY),
        },
        Case {
            algorithm: Algorithm::Es256,
            kid: "es",
            token: token(ES256_HEADER, ES256_SIGNATURE),
            key: public("es", Algorithm::Es256, ES256_KEY),
        },
        Case {
            algorithm: Algorithm::EdDsa,
            kid: "ed",
            token: token(EDDSA_HEADER, EDDSA_SIGNATURE),
            key: public("ed", Algorithm::EdDsa, EDDSA_KEY),
        },
        Case {
            algorithm: Algorithm::Hs256,
            kid: "hs",
            token: token(HS256_HEADER, HS256_SIGNATURE),
            key: VerificationKey::from_secret(Some("hs"), Algorithm::Hs256, HS256_SECRET).unwrap(),
        },
    ]
}

fn issuers(key: VerificationKey) -> Issuers {
    let rules = IssuerRules {
        name: "wasm".into(),
        issuer: "wasm.example".into(),
        audiences: vec![],
        token_types: vec!["JWT".into()],
        allow_missing_typ: false,
        scopes: vec![],
        skew: Duration::from_secs(60),
        lifetime_max: Duration::from_secs(3_600),
        required_claims: vec![],
        trials: TrialTokens::Allow,
        algorithms: vec![key.algorithm],
        keys: vec![key],
        keys_known: KeysKnown::Always,
        more_keys: MoreKeys::No,
    };
    Issuers::new(vec![rules]).unwrap()
}

#[wasm_bindgen_test]
fn a_token_of_each_algorithm_says_who_it_is() {
    for case in cases() {
        let authorization = format!("Bearer {}", case.token);
        let identity = authenticate(&issuers(case.key), authorization.as_bytes(), NOW, &mut PureRust).unwrap();
        assert_eq!((&*identity.issuer, &*identity.subject, &*identity.email), ("wasm", "u-1", "u@example.com"), "{:?}", case.algorithm);
        assert_eq!(identity.expires_at, Timestamp::from_seconds(1_800_001_800));
    }
}

#[wasm_bindgen_test]
fn a_token_verifies_under_its_own_key_only() {
    for case in cases() {
        for other in cases() {
            let verified = verify_jws(&case.token, &other.key, &mut PureRust);
            assert_eq!(verified.is_ok(), case.kid == other.kid, "{} under {}", case.kid, other.kid);
        }
    }
}

/// Every part of the signature counts, the last bits included.
#[wasm_bindgen_test]
fn a_changed_token_does_not_verify() {
    for case in cases() {
        let dot = case.token.rfind('.').unwrap();
        for place in [dot - 1, dot + 1, dot + 20, case.token.len() - 2] {
            let mut changed = case.token.clone().into_bytes();
            let byte = changed.get_mut(place).unwrap();
            *byte = if *byte == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(verify_jws(&changed, &case.key, &mut PureRust).is_err(), "{} at {place}", case.kid);
        }
    }
}

#[wasm_bindgen_test]
fn a_token_is_good_until_it_expires() {
    for case in cases() {
        let authorization = format!("Bearer {}", case.token);
        let issuers = issuers(case.key);
        let at = |seconds| authenticate(&issuers, authorization.as_bytes(), Timestamp::from_seconds(seconds), &mut PureRust).map(|_| ());
        assert_eq!(at(1_800_001_859), Ok(()));
        assert_eq!(at(1_800_001_860), Err(Unauthenticated::Refused(CredentialFault::Expired)));
        assert_eq!(at(1_799_999_900), Err(Unauthenticated::Refused(CredentialFault::NotYetValid)));
    }
}
