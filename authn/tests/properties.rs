//! What holds for every input: nothing panics, and no change to a token goes unseen.
#![expect(clippy::unwrap_used, reason = "clippy's exception for tests does not cover the tokens that they share")]

use std::sync::LazyLock;

use authn::{Algorithm, PureRust, VerificationKey, bearer, parse_jws, verify_jws};
use proptest::prelude::*;
use signers::Signed;

mod signers;

static SIGNED: LazyLock<Vec<Signed>> = LazyLock::new(signers::all);

#[test]
fn every_single_bit_flip_of_an_hmac_token_is_refused() {
    let Signed { token, key, .. } = &SIGNED[0];
    assert!(verify_jws(token, key, &mut PureRust).is_ok());
    for index in 0..token.len() {
        for bit in 0..8 {
            let mut bytes = token.clone().into_bytes();
            bytes[index] ^= 1_u8 << bit;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(verify_jws(&changed, key, &mut PureRust).is_err(), "byte {index}, bit {bit}");
            }
        }
    }
}

/// Parts of tokens that reach further than random text does.
fn token_like() -> impl Strategy<Value = String> {
    let header =
        prop::sample::select(vec!["eyJhbGciOiJIUzI1NiJ9", "eyJhbGciOiJub25lIn0", "eyJhbGciOiJFZERTQSIsImNyaXQiOltdfQ", "e30", "W10", ""]);
    (header, "[A-Za-z0-9_.=-]{0,64}", "[A-Za-z0-9_-]{0,96}")
        .prop_map(|(header, payload, signature)| format!("{header}.{payload}.{signature}"))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_single_bit_flip_of_any_token_is_refused(which in 0..12_usize, place in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let Signed { token, key, .. } = &SIGNED[which];
        let mut bytes = token.clone().into_bytes();
        bytes[place.index(token.len())] ^= 1_u8 << bit;
        if let Ok(changed) = String::from_utf8(bytes) {
            prop_assert!(verify_jws(&changed, key, &mut PureRust).is_err());
        }
    }

    #[test]
    fn a_truncated_or_extended_token_is_refused(which in 0..12_usize, place in any::<prop::sample::Index>(), tail in "[A-Za-z0-9_.-]{1,8}") {
        let Signed { token, key, .. } = &SIGNED[which];
        prop_assert!(verify_jws(&token[..place.index(token.len())], key, &mut PureRust).is_err());
        let longer = format!("{token}{tail}");
        prop_assert!(verify_jws(&longer, key, &mut PureRust).is_err());
    }

    #[test]
    fn parsing_never_panics(text in any::<String>()) {
        let _ = parse_jws(&text);
    }

    #[test]
    fn parsing_what_looks_like_a_token_never_panics(text in token_like()) {
        for Signed { key, .. } in SIGNED.iter() {
            prop_assert!(verify_jws(&text, key, &mut PureRust).is_err());
        }
    }

    #[test]
    fn any_header_and_payload_never_panics(header in any::<Vec<u8>>(), payload in any::<Vec<u8>>()) {
        use base64::Engine as _;
        let url = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let _ = parse_jws(&format!("{}.{}.AAAA", url.encode(header), url.encode(payload)));
    }

    #[test]
    fn reading_the_header_value_never_panics(value in any::<Vec<u8>>()) {
        let _ = bearer(&value);
        let _ = bearer(&[b"Bearer ", value.as_slice()].concat());
    }

    #[test]
    fn importing_a_key_never_panics(bytes in any::<Vec<u8>>(), place in any::<prop::sample::Index>(), bit in 0..8_u8) {
        for Signed { algorithm, key, .. } in SIGNED.iter().filter(|signed| signed.algorithm != Algorithm::Rs256) {
            let algorithm = *algorithm;
            let _ = VerificationKey::from_public_key(None, algorithm, &bytes);
            if let Some(der) = key.spki_der() {
                let mut changed = der.to_vec();
                changed[place.index(der.len())] ^= 1_u8 << bit;
                if let Ok(other) = VerificationKey::from_public_key(None, algorithm, &changed) {
                    prop_assert_eq!(other.spki_der(), Some(changed.as_slice()));
                }
            }
        }
    }
}
