//! Which keys are accepted, with keys made by `jwt-simple`; and that what it signs, we verify.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "clippy's exception for tests does not cover the functions around them")]

use std::sync::LazyLock;

use authn::{Algorithm, InvalidKey, PureRust, SignatureVerifier, VerificationKey, Verified, verify_jws};
use base64::Engine as _;
use decision_core::principal::CredentialFault;
use jwt_simple::algorithms::{
    ECDSAP256KeyPairLike, ES256KeyPair, Ed25519KeyPair, EdDSAKeyPairLike, HS256Key, MACLike, RS256KeyPair, RSAKeyPairLike,
};
use jwt_simple::claims::Claims;
use jwt_simple::prelude::Duration;

const MODULUS_OFFSET: usize = 33;

fn claims() -> jwt_simple::claims::JWTClaims<jwt_simple::claims::NoCustomClaims> {
    Claims::create(Duration::from_mins(5))
}

/// Made once per run: no private key stands in the repository.
static RSA_PAIR: LazyLock<RS256KeyPair> = LazyLock::new(|| RS256KeyPair::generate(2048).unwrap());
static RSA_PUBLIC: LazyLock<Vec<u8>> = LazyLock::new(|| RSA_PAIR.public_key().to_der().unwrap());
static RSA_PRIVATE: LazyLock<Vec<u8>> = LazyLock::new(|| RSA_PAIR.to_der().unwrap());

fn rsa(der: &[u8]) -> Result<VerificationKey, InvalidKey> {
    VerificationKey::from_public_key(None, Algorithm::Rs256, der)
}

fn ed25519() -> (Ed25519KeyPair, Vec<u8>) {
    let pair = Ed25519KeyPair::generate();
    let der = pair.key_pair().public_key().to_der();
    (pair, der)
}

fn es256() -> (ES256KeyPair, Vec<u8>) {
    let pair = ES256KeyPair::generate();
    let der = pair.key_pair().public_key().to_der().unwrap();
    (pair, der)
}

#[test]
fn verifies_what_jwt_simple_signs() {
    let (es256, es256_der) = es256();
    let (ed25519, ed25519_der) = ed25519();
    let rs256 = &*RSA_PAIR;
    let hs256 = HS256Key::from_bytes(&[3; 32]);
    let public = |algorithm, der: &[u8]| VerificationKey::from_public_key(None, algorithm, der).unwrap();
    let cases = [
        (es256.sign(claims()).unwrap(), public(Algorithm::Es256, &es256_der)),
        (ed25519.sign(claims()).unwrap(), public(Algorithm::EdDsa, &ed25519_der)),
        (rs256.sign(claims()).unwrap(), public(Algorithm::Rs256, &RSA_PUBLIC)),
        (hs256.authenticate(claims()).unwrap(), VerificationKey::from_secret(None, Algorithm::Hs256, &[3; 32]).unwrap()),
    ];
    for (index, (token, _)) in cases.iter().enumerate() {
        for (other, (_, key)) in cases.iter().enumerate() {
            let outcome = verify_jws(token, key, &mut PureRust);
            if index == other {
                assert!(outcome.is_ok(), "{token}");
            } else {
                assert_eq!(outcome, Err(CredentialFault::AlgorithmRefused));
            }
        }
    }
}

#[test]
fn refuses_a_signature_by_another_key_of_the_same_kind() {
    let (pair, _) = es256();
    let (_, other) = es256();
    let key = VerificationKey::from_public_key(None, Algorithm::Es256, &other).unwrap();
    let token = pair.sign(claims()).unwrap();
    assert_eq!(verify_jws(&token, &key, &mut PureRust), Err(CredentialFault::SignatureInvalid));
}

#[test]
fn accepts_pem_and_der_alike() {
    let (pair, der) = es256();
    let pem = pair.key_pair().public_key().to_pem().unwrap();
    for text in [pem.clone(), format!("\n{pem}\n\n"), pem.replace('\n', "\r\n")] {
        let key = VerificationKey::from_public_key(Some("k"), Algorithm::Es256, text.as_bytes()).unwrap();
        assert_eq!(key.spki_der(), Some(der.as_slice()));
        assert_eq!(key.kid.as_deref(), Some("k"));
    }
}

#[test]
fn refuses_pem_of_another_kind_damaged_or_twice() {
    let (pair, _) = es256();
    let pem = pair.key_pair().public_key().to_pem().unwrap();
    for text in [
        pem.replace("PUBLIC", "RSA PUBLIC"),
        pem.replace("PUBLIC", "PRIVATE"),
        pem.replace("-----END PUBLIC KEY-----", ""),
        pem.repeat(2),
        pem.replacen("\n", "\n!", 1),
    ] {
        let outcome = VerificationKey::from_public_key(None, Algorithm::Es256, text.as_bytes());
        assert_eq!(outcome.unwrap_err(), InvalidKey::Pem, "{text}");
    }
}

#[test]
fn refuses_bytes_before_or_after_the_key_and_every_truncation() {
    for (algorithm, der) in [(Algorithm::Rs256, RSA_PUBLIC.to_vec()), (Algorithm::Es256, es256().1), (Algorithm::EdDsa, ed25519().1)] {
        let outcome = |bytes: &[u8]| VerificationKey::from_public_key(None, algorithm, bytes).map(|_| ());
        assert_eq!(outcome(&der), Ok(()));
        assert_eq!(outcome(&[&der[..], &[0]].concat()), Err(InvalidKey::Spki));
        assert_eq!(outcome(&[&[0], &der[..]].concat()), Err(InvalidKey::Spki));
        for length in 0..der.len() {
            assert_eq!(outcome(&der[..length]), Err(InvalidKey::Spki), "{length}");
        }
    }
}

#[test]
fn refuses_a_key_of_another_type_than_the_algorithm() {
    let keys = [(Algorithm::Rs256, RSA_PUBLIC.to_vec()), (Algorithm::Es256, es256().1), (Algorithm::EdDsa, ed25519().1)];
    for (owner, der) in &keys {
        for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
            let outcome = VerificationKey::from_public_key(None, algorithm, der).map(|_| ());
            let wanted = if algorithm == *owner { Ok(()) } else { Err(InvalidKey::OtherKeyType(algorithm)) };
            assert_eq!(outcome, wanted);
        }
        let hmac = VerificationKey::from_public_key(None, Algorithm::Hs256, der);
        assert_eq!(hmac.unwrap_err(), InvalidKey::HmacWithPublicKey);
    }
}

#[test]
fn refuses_a_private_key() {
    assert_eq!(rsa(&RSA_PRIVATE).unwrap_err(), InvalidKey::Spki);
}

#[test]
fn refuses_a_point_off_the_curve() {
    let (_, mut der) = es256();
    *der.last_mut().unwrap() ^= 1;
    let outcome = VerificationKey::from_public_key(None, Algorithm::Es256, &der);
    assert_eq!(outcome.unwrap_err(), InvalidKey::Point);
}

#[test]
fn refuses_an_ed25519_point_of_small_order() {
    let (_, mut der) = ed25519();
    der[12..].fill(0);
    der[12] = 1;
    let outcome = VerificationKey::from_public_key(None, Algorithm::EdDsa, &der);
    assert_eq!(outcome.unwrap_err(), InvalidKey::Point);
}

#[test]
fn refuses_an_rsa_modulus_that_is_even() {
    let mut der = RSA_PUBLIC.to_vec();
    let last = MODULUS_OFFSET + 255;
    der[last] &= 0xfe;
    assert_eq!(rsa(&der).unwrap_err(), InvalidKey::ModulusWeak);
}

/// An SPKI with any modulus and exponent.
fn rsa_der(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let tagged = |tag: u8, content: &[u8]| {
        let length = u16::try_from(content.len()).unwrap();
        let mut der = vec![tag];
        match length {
            0..=127 => der.push(length.to_be_bytes()[1]),
            128..=255 => der.extend([0x81, length.to_be_bytes()[1]]),
            256.. => der.extend([&[0x82], &length.to_be_bytes()[..]].concat()),
        }
        [der.as_slice(), content].concat()
    };
    let numbers = tagged(0x30, &[tagged(2, modulus), tagged(2, exponent)].concat());
    let algorithm = &RSA_PUBLIC[4..19];
    tagged(0x30, &[algorithm, &tagged(3, &[&[0], numbers.as_slice()].concat())].concat())
}

fn modulus(bytes: usize) -> Vec<u8> {
    [&[0, 0xc5], vec![0x35; bytes - 1].as_slice()].concat()
}

#[test]
fn refuses_an_rsa_modulus_that_is_too_short_or_too_long() {
    assert!(rsa(&rsa_der(&modulus(256), &[1, 0, 1])).is_ok());
    assert!(rsa(&rsa_der(&modulus(1024), &[1, 0, 1])).is_ok());
    assert_eq!(rsa(&rsa_der(&modulus(128), &[1, 0, 1])).unwrap_err(), InvalidKey::ModulusSize { bits: 1024 });
    assert_eq!(rsa(&rsa_der(&modulus(1025), &[1, 0, 1])).unwrap_err(), InvalidKey::ModulusSize { bits: 8200 });
    let mut odd_bits = modulus(256);
    odd_bits[1] = 0x7f;
    odd_bits.remove(0);
    assert_eq!(rsa(&rsa_der(&odd_bits, &[1, 0, 1])).unwrap_err(), InvalidKey::ModulusSize { bits: 2047 });
}

#[test]
fn refuses_an_rsa_exponent_that_is_small_even_or_huge() {
    for exponent in [vec![3], vec![1], vec![0], vec![0, 0xff, 0xff], vec![1, 0, 0], vec![1, 0, 0, 0, 1]] {
        assert_eq!(rsa(&rsa_der(&modulus(256), &exponent)).unwrap_err(), InvalidKey::Exponent, "{exponent:?}");
    }
    assert!(rsa(&rsa_der(&modulus(256), &[1, 0, 3])).is_ok());
}

#[test]
fn refuses_an_rsa_number_that_is_negative_or_not_minimal() {
    let plain = modulus(256);
    assert_eq!(rsa(&rsa_der(&plain[1..], &[1, 0, 1])).unwrap_err(), InvalidKey::Spki);
    assert_eq!(rsa(&rsa_der(&[&[0], plain.as_slice()].concat(), &[1, 0, 1])).unwrap_err(), InvalidKey::Spki);
    assert_eq!(rsa(&rsa_der(&plain, &[0, 1, 0, 1])).unwrap_err(), InvalidKey::Spki);
}

#[test]
fn refuses_a_short_secret() {
    let outcome = VerificationKey::from_secret(None, Algorithm::Hs256, &[1; 31]);
    assert_eq!(outcome.unwrap_err(), InvalidKey::SecretTooShort { bytes: 31, bytes_min: 32 });
}

#[test]
fn refuses_an_unusable_key_id() {
    for kid in ["", "a\nb", &"x".repeat(257)] {
        assert_eq!(VerificationKey::from_secret(Some(kid), Algorithm::Hs256, &[1; 32]).unwrap_err(), InvalidKey::Kid);
    }
}

#[test]
fn shows_no_secret_in_debug_output() {
    let key = VerificationKey::from_secret(Some("k"), Algorithm::Hs256, b"a secret of thirty-two bytes !!!").unwrap();
    assert_eq!(format!("{key:?}"), r#"VerificationKey { kid: Some("k"), algorithm: Hs256, .. }"#);
    assert_eq!(key.spki_der(), None);
}

/// A host that accepts whatever it is given.
struct Lax;

impl SignatureVerifier for Lax {
    fn verify(&mut self, _: &VerificationKey, _: &[u8], _: &[u8]) -> Verified {
        Verified::Yes
    }
}

fn outcome_by_a_lax_host(key: &VerificationKey, signature: &[u8]) -> Result<Vec<u8>, CredentialFault> {
    let url = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let header = url.encode(format!(r#"{{"alg":"{}"}}"#, key.algorithm.name()));
    verify_jws(&format!("{header}.AAAA.{}", url.encode(signature)), key, &mut Lax)
}

#[test]
fn refuses_a_signature_of_impossible_length_whatever_the_verifier_says() {
    let public = |algorithm, der: &[u8]| VerificationKey::from_public_key(None, algorithm, der).unwrap();
    for (key, length) in [
        (VerificationKey::from_secret(None, Algorithm::Hs256, &[3; 32]).unwrap(), 32),
        (public(Algorithm::Rs256, &RSA_PUBLIC), 256),
        (public(Algorithm::Es256, &es256().1), 64),
        (public(Algorithm::EdDsa, &ed25519().1), 64),
    ] {
        assert!(outcome_by_a_lax_host(&key, &vec![1; length]).is_ok());
        for wrong in [0, 1, length - 1, length + 1, length * 2] {
            let outcome = outcome_by_a_lax_host(&key, &vec![1; wrong]);
            assert_eq!(outcome, Err(CredentialFault::SignatureInvalid), "{key:?} {wrong}");
        }
    }
}

#[test]
fn refuses_es256_signatures_with_r_or_s_out_of_range_whatever_the_verifier_says() {
    const ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let key = VerificationKey::from_public_key(None, Algorithm::Es256, &es256().1).unwrap();
    let order: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&ORDER[at * 2..at * 2 + 2], 16).unwrap()).collect();
    let mut below = order.clone();
    below[31] -= 1;
    let (zero, one, huge) = (vec![0; 32], vec![1; 32], vec![0xff; 32]);
    assert!(outcome_by_a_lax_host(&key, &[below.clone(), below].concat()).is_ok());
    for bad in [zero, order, huge] {
        for signature in [[bad.clone(), one.clone()].concat(), [one.clone(), bad].concat()] {
            assert_eq!(outcome_by_a_lax_host(&key, &signature), Err(CredentialFault::SignatureInvalid));
        }
    }
}

#[test]
fn refuses_an_rsa_signature_that_is_not_below_the_modulus_whatever_the_verifier_says() {
    let key = rsa(&RSA_PUBLIC).unwrap();
    let modulus = &RSA_PUBLIC[MODULUS_OFFSET..MODULUS_OFFSET + 256];
    let mut below = modulus.to_vec();
    below[255] -= 1;
    assert!(outcome_by_a_lax_host(&key, &below).is_ok());
    assert_eq!(outcome_by_a_lax_host(&key, modulus), Err(CredentialFault::SignatureInvalid));
    assert_eq!(outcome_by_a_lax_host(&key, &[0xff; 256]), Err(CredentialFault::SignatureInvalid));
}
