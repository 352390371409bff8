//! Signatures verify in a browser's kind of WebAssembly: no host, no clock, no random numbers. `make test` runs this under
//! Node. The tokens were signed once, by `jwt-simple` and by Python's `cryptography`, with keys that were thrown away.
#![cfg(target_arch = "wasm32")]
#![expect(clippy::unwrap_used, reason = "clippy's exception for tests does not cover the functions around them")]

use authn::{
    Algorithm, Family, IssuerRules, Issuers, KeysKnown, MoreKeys, PureRust, TrialTokens, Unauthenticated, VerificationKey, authenticate,
    verify_jws,
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

/// Guards nothing: it signed the tokens of this file. HS384 and HS512 use it twice in a row.
const HS256_SECRET: &[u8] = b"a secret of thirty-two bytes !!!";

const RS384_HEADER: &str = "eyJhbGciOiJSUzM4NCIsImtpZCI6InJzMzg0IiwidHlwIjoiSldUIn0";
const RS384_SIGNATURE: &str = concat!(
    "JomfwdMMWj4eMr3gQKpjiP9VKkzh_-HfVbzEgf3LPti5wlFsVqdsTZOE7W5cV0OT-DJzxFiFs6ahnbYZKEyRotvWi1NdbH_yZeBShPllzypk0W",
    "cJr1tnfQZnIaPyX7-2D8ApkHiF25Jq-0bOAbK1gKhQKrV9bcoofboa9ldvqK5TL7vjI9chV9egRaKwq1tLbEBaGDL7O-cS1jhLD2Iueu6lpOpj",
    "FWwvvsQjJqNcILrJIs70tLKL641mKvJKAUeWUFS1S2NfuDIyfiK1qA5c5_47EkmEZTc_8F-6Yr8nGx8k3xUXr5vLXaNbHx_OGBVugTzL02X8n7",
    "pTDWc1OIygSA",
);

const RS512_HEADER: &str = "eyJhbGciOiJSUzUxMiIsImtpZCI6InJzNTEyIiwidHlwIjoiSldUIn0";
const RS512_SIGNATURE: &str = concat!(
    "uGviMNu3ezj6IB-yRa_-JYfFsfTq9fBh7ijZtEYZVV2TE1sgpMh4-FzZBeaCwWXUoiGM3l9rXyVBhwTd1AMYyB_rCghqaqsN06bJPhK0KF54Bk",
    "BgFbi6h2Us8BDcmtwLEV-0t1ouLVUJmzs1SuDrTlZOIjWv9eMwcMs_keXXVYk1kjlfYzac6oqiYsO7rmeHGej5aLHuSbDEd_jEJgG8V7BJ9YXB",
    "kw12efBqsgR5BDIMyYR6T_TtY70PTyuXLAsxFFMQ87GrmCAOvQoM-4taS2vECXX_C9vaXuIf2q8sv8wLP9crI8OPkCI6l8-949I-W_VvV98nqD",
    "F_XnerlhyjRA",
);

const PS256_HEADER: &str = "eyJhbGciOiJQUzI1NiIsImtpZCI6InBzMjU2IiwidHlwIjoiSldUIn0";
const PS256_SIGNATURE: &str = concat!(
    "bCFbuYtwtuwv-4-CLncnr-pyX8mtN59IDAZ9uZnzVcvJiEPDNBYjb-Cn4fJNgzkNWuIQgvd2UzzUCuaMXISfTlA8pOdsJwkEQ2FAO_ekiZNuuy",
    "1nrKsYQ-hgzSq-_Zuy1ksEYbGlY4ptcC1L_X_mdzbDyUGuKYrb7u0zZ_dKM7hvf9a14N5rLjuBkbxOAuv60aRknPN-A3Bstz-FRgZMHl8NH2OZ",
    "Bbv-botJv3u8rUJ8P3_vHQNgyO3ncU0en7TawuOHbOBsbmRk5kf0WtyjLeLFax76iygpZfFptg0jEeT82ozZbE-A4283O7-pEUIOtSRxu9fA7Q",
    "_vPYEHgtqT6Q",
);

const PS384_HEADER: &str = "eyJhbGciOiJQUzM4NCIsImtpZCI6InBzMzg0IiwidHlwIjoiSldUIn0";
const PS384_SIGNATURE: &str = concat!(
    "k34796TM5Rd7dgW3f5y3VURa_ROHNAPRGMgSLMbbyH1sV2LdKMSyDG8K3_20riZiMU5gvZjyxs2YT2bhZwiLFCSM9JrA5ZbZtnVBBdMi64SgaC",
    "mJTSdETJR9T5yMZx53d5NLReuDQ4ADec1NXl-gCZRp9XAuI_5egX9sRJYsdxdmteSFqCVaElKymlY73wfdZthLWKgkDAruaFiGLLS7ceIEn3hW",
    "lN4-q72LPcNvL0iLccNEPxshHGGy3byH5xWLZQ1AAtZQ9uEgH9e_WeOc9Xv3NkIbJPk1dnUaUl6GPZ8nWbhTSgRONqzVxL4LDbOyZIh4A6cYtw",
    "Xi865fYsCp1g",
);

const PS512_HEADER: &str = "eyJhbGciOiJQUzUxMiIsImtpZCI6InBzNTEyIiwidHlwIjoiSldUIn0";
const PS512_SIGNATURE: &str = concat!(
    "bFIkNNrR8MF0qmtD3aCabINH4WOcOTLIcXOWsgVRvK3-rrHhH6ai0gE-81iWH4Qn0qHeehUuhDoqxusn-5ubROPnuHIXv2sqDFisUfrCFJLrsk",
    "YFYtTuks9YkYL0eWJhqjNiM4IccrKm9KD2sgFHfcJL-f55850-6AptTdDYpBd6qcflDGtXbgoaRxEQFLj47kC-H7hYLa_qj1morwgAs9P9BUzD",
    "xskA_caY7LEClGvnBYl_exuLaHSBuqi5283Xtj7py7RA2SHwdzwIAzg8jXd9APC2GfjtYxTeZm-VvZ4P4tqcI8BWPQvR4lxQCU77W63saOoY6_",
    "B4tfa4NKGWkg",
);

const ES384_HEADER: &str = "eyJhbGciOiJFUzM4NCIsImtpZCI6ImVzMzg0IiwidHlwIjoiSldUIn0";
const ES384_SIGNATURE: &str = concat!(
    "NkwolWqBp3LA0g1YTKaPu6NCehQtOzvtXRYVKWenQiWd5RwlbwobjX4d8STxaA1RWSULcGddumoL2crJs7Mz9U1YbG5z47avq2UMPRFllGMeKs",
    "vROWNKnGsXhC_z9XQE",
);

const HS384_HEADER: &str = "eyJhbGciOiJIUzM4NCIsImtpZCI6ImhzMzg0IiwidHlwIjoiSldUIn0";
const HS384_SIGNATURE: &str = "luGC8pI2gAle2DD-lcGbrXQv9tlFb_msmfk5sibw4iomKCZX41SaYHdBZkZqDgm2";

const HS512_HEADER: &str = "eyJhbGciOiJIUzUxMiIsImtpZCI6ImhzNTEyIiwidHlwIjoiSldUIn0";
const HS512_SIGNATURE: &str = "rvLdlzWKnh8V0DmJxFRDkgwHHlI2_k77-t1HCpOvv6R48y8yZkvFYi4LsX3jp08S7s3LpE1OtvEuNsiPRVu3OQ";

const RSA_KEY: &str = "\
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAwjC9BTHYHVlF2LUV2mXe
dh1zWy9nEwHetOL49hb/wI/sNu0VVKSOy6h6vjjQ1iMZftz6EVDVJ0wJpBXWknV8
KfTPCHPmCQRse3Rcdla13rUPpEuo9ftKPIA8vFf/Fuh4vDTXrFV10QC8+dBbnIk/
TeAtRmHzOBI1Zv7CkvQT1SCsAllEk4Qnnur7XiV2ZQIqYoZ46GVmpcoJPKEh3KfO
9ACMBYGRnTpe8n3qGjods/q3V4pExi6n0CDWxNJw6Eo0Uolrluo1PCNL5EsxQ+CI
BfIZXDwVFRsQ7sbmZTNODYW6roccyOdJwzSulO5ufe64+ZbD2e2OrA2LGEVhaVQp
ZwIDAQAB
-----END PUBLIC KEY-----
";

const P384_KEY: &str = "\
-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEeJG4gOzkFdeY80oMt7Pb7C8dq9WmSkcK
e52VerG97RVmUWPZGH8u5tYU6M8OToHDJzaIkW/0IA7cAIIfaLjB182AKhYJpIFW
UTA+qaCoh7YsHQ/BUbzrNNXYYtO/Ed6U
-----END PUBLIC KEY-----
";

struct Case {
    algorithm: Algorithm,
    kid: &'static str,
    token: String,
    key: VerificationKey,
}

fn case(algorithm: Algorithm, kid: &'static str, header: &str, signature: &str, key: &str) -> Case {
    let key = if algorithm.family() == Family::Hmac {
        let repeats = algorithm.hash().bytes().div_ceil(HS256_SECRET.len());
        VerificationKey::from_secret(Some(kid), algorithm, &HS256_SECRET.repeat(repeats))
    } else {
        VerificationKey::from_public_key(Some(kid), algorithm, key.as_bytes())
    };
    Case { algorithm, kid, token: format!("{header}.{PAYLOAD}.{signature}"), key: key.unwrap() }
}

fn cases() -> [Case; 12] {
    [
        case(Algorithm::Hs256, "hs", HS256_HEADER, HS256_SIGNATURE, ""),
        case(Algorithm::Hs384, "hs384", HS384_HEADER, HS384_SIGNATURE, ""),
        case(Algorithm::Hs512, "hs512", HS512_HEADER, HS512_SIGNATURE, ""),
        case(Algorithm::Rs256, "rs", RS256_HEADER, RS256_SIGNATURE, RS256_KEY),
        case(Algorithm::Rs384, "rs384", RS384_HEADER, RS384_SIGNATURE, RSA_KEY),
        case(Algorithm::Rs512, "rs512", RS512_HEADER, RS512_SIGNATURE, RSA_KEY),
        case(Algorithm::Ps256, "ps256", PS256_HEADER, PS256_SIGNATURE, RSA_KEY),
        case(Algorithm::Ps384, "ps384", PS384_HEADER, PS384_SIGNATURE, RSA_KEY),
        case(Algorithm::Ps512, "ps512", PS512_HEADER, PS512_SIGNATURE, RSA_KEY),
        case(Algorithm::Es256, "es", ES256_HEADER, ES256_SIGNATURE, ES256_KEY),
        case(Algorithm::Es384, "es384", ES384_HEADER, ES384_SIGNATURE, P384_KEY),
        case(Algorithm::EdDsa, "ed", EDDSA_HEADER, EDDSA_SIGNATURE, EDDSA_KEY),
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
