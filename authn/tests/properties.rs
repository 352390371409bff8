//! What holds for every input: nothing panics, and no change to a token goes unseen.
#![expect(clippy::unwrap_used, reason = "clippy's exception for tests does not cover the tokens that they share")]

use std::sync::LazyLock;

use authn::{Algorithm, PureRust, VerificationKey, bearer, parse_jws, verify_jws};
use jwt_simple::algorithms::{
    ECDSAP256KeyPairLike, ES256KeyPair, Ed25519KeyPair, EdDSAKeyPairLike, HS256Key, MACLike, RS256KeyPair, RSAKeyPairLike,
};
use jwt_simple::claims::Claims;
use jwt_simple::prelude::Duration;
use proptest::prelude::*;

type Signed = (String, VerificationKey);

static SIGNED: LazyLock<Vec<Signed>> = LazyLock::new(|| {
    let claims = || Claims::create(Duration::from_mins(5)).with_subject("u-1");
    let public = |algorithm, der: &[u8]| VerificationKey::from_public_key(None, algorithm, der).unwrap();
    let es256 = ES256KeyPair::generate();
    let ed25519 = Ed25519KeyPair::generate();
    let rs256 = RS256KeyPair::generate(2048).unwrap();
    vec![
        (
            HS256Key::from_bytes(&[3; 32]).authenticate(claims()).unwrap(),
            VerificationKey::from_secret(None, Algorithm::Hs256, &[3; 32]).unwrap(),
        ),
        (es256.sign(claims()).unwrap(), public(Algorithm::Es256, &es256.key_pair().public_key().to_der().unwrap())),
        (ed25519.sign(claims()).unwrap(), public(Algorithm::EdDsa, &ed25519.key_pair().public_key().to_der())),
        (rs256.sign(claims()).unwrap(), public(Algorithm::Rs256, &rs256.public_key().to_der().unwrap())),
    ]
});

#[test]
fn every_single_bit_flip_of_an_hmac_token_is_refused() {
    let (token, key) = &SIGNED[0];
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
    fn a_single_bit_flip_of_any_token_is_refused(which in 0..4_usize, place in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let (token, key) = &SIGNED[which];
        let mut bytes = token.clone().into_bytes();
        bytes[place.index(token.len())] ^= 1_u8 << bit;
        if let Ok(changed) = String::from_utf8(bytes) {
            prop_assert!(verify_jws(&changed, key, &mut PureRust).is_err());
        }
    }

    #[test]
    fn a_truncated_or_extended_token_is_refused(which in 0..4_usize, place in any::<prop::sample::Index>(), tail in "[A-Za-z0-9_.-]{1,8}") {
        let (token, key) = &SIGNED[which];
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
        for (_, key) in SIGNED.iter() {
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
        for (algorithm, (_, key)) in [Algorithm::Hs256, Algorithm::Es256, Algorithm::EdDsa, Algorithm::Rs256].into_iter().zip(SIGNED.iter()) {
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
