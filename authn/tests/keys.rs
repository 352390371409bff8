//! Which keys are accepted, with keys made by `jwt-simple`; and that what it signs, we verify.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "clippy's exception for tests does not cover the functions around them")]

use std::sync::LazyLock;

use authn::{Algorithm, InvalidKey, PureRust, SignatureVerifier, VerificationKey, Verified, verify_jws};
use base64::Engine as _;
use decision_core::principal::CredentialFault;
use jwt_simple::algorithms::{ECDSAP256KeyPairLike, ES256KeyPair, Ed25519KeyPair, EdDSAKeyPairLike, RS256KeyPair};
use jwt_simple::claims::Claims;
use jwt_simple::prelude::Duration;

mod signers;

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

/// Alg must match the key: one algorithm per key, though six would do with an RSA key, and three with a secret.
#[test]
fn verifies_what_jwt_simple_signs_with_the_key_of_the_same_algorithm_only() {
    let signed = signers::all();
    assert_eq!(signed.len(), 12);
    for one in &signed {
        for other in &signed {
            let outcome = verify_jws(&one.token, &other.key, &mut PureRust);
            if one.algorithm == other.algorithm {
                assert!(outcome.is_ok(), "{:?}", one.algorithm);
            } else {
                assert_eq!(outcome, Err(CredentialFault::AlgorithmRefused));
            }
        }
    }
}

/// The header says what the key is for, and the signature is another algorithm's.
#[test]
fn refuses_a_signature_of_another_algorithm_under_the_header_of_the_keys() {
    let mut never = Vec::new();
    for one in signers::all() {
        for key in Algorithm::ALL.into_iter().filter(|algorithm| *algorithm != one.algorithm).map(signers::key) {
            let url = base64::engine::general_purpose::URL_SAFE_NO_PAD;
            let header = url.encode(format!(r#"{{"alg":"{}","typ":"JWT"}}"#, key.algorithm.name()));
            let (_, rest) = one.token.split_once('.').unwrap();
            if verify_jws(&format!("{header}.{rest}"), &key, &mut PureRust).is_ok() {
                never.push((one.algorithm, key.algorithm));
            }
        }
    }
    assert_eq!(never, []);
}

/// RFC 7518 §3.5: a salt of the length of the hash; others verify under some libraries.
#[test]
fn refuses_rsa_pss_with_a_salt_of_another_length() {
    let pair = rsa::RsaPrivateKey::new(&mut rand::rngs::OsRng, 2048).unwrap();
    let der = rsa::pkcs8::EncodePublicKey::to_public_key_der(&pair.to_public_key()).unwrap();
    let key = VerificationKey::from_public_key(None, Algorithm::Ps256, der.as_bytes()).unwrap();
    let input = "eyJhbGciOiJQUzI1NiJ9.AAAA";
    for salt_len in [0, 20, 31, 32, 33, 64, 222] {
        let padding = rsa::Pss { salt_len, ..rsa::Pss::new::<hmac_sha256::Hash>() };
        let signature = pair.sign_with_rng(&mut rand::rngs::OsRng, padding, &hmac_sha256::Hash::hash(input.as_bytes())).unwrap();
        let token = format!("{input}.{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(signature));
        assert_eq!(verify_jws(&token, &key, &mut PureRust).is_ok(), salt_len == 32, "{salt_len}");
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
    for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa] {
        let der = signers::public_der(algorithm).unwrap();
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
    let kind = |algorithm: Algorithm| signers::public_der(algorithm).map(|der| der.len());
    for owner in Algorithm::ALL {
        let Some(der) = signers::public_der(owner) else { continue };
        for algorithm in Algorithm::ALL {
            let wanted = match kind(algorithm) {
                None => Err(InvalidKey::HmacWithPublicKey),
                Some(length) if length == der.len() => Ok(()),
                Some(_) => Err(InvalidKey::OtherKeyType(algorithm)),
            };
            assert_eq!(VerificationKey::from_public_key(None, algorithm, &der).map(drop), wanted, "{owner:?} {algorithm:?}");
        }
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

/// The points of order 1, 2, 4 and 8, and the same written with a coordinate of 2²⁵⁵ − 19 or more.
const SMALL_ORDER: [&str; 14] = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
];

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap()).collect()
}

#[test]
fn refuses_an_ed25519_point_of_small_order_however_it_is_written() {
    let (_, mut der) = ed25519();
    for point in SMALL_ORDER {
        der[12..].copy_from_slice(&bytes(point));
        let outcome = VerificationKey::from_public_key(None, Algorithm::EdDsa, &der);
        assert_eq!(outcome.unwrap_err(), InvalidKey::Point, "{point}");
    }
}

/// Coordinates from 2²⁵⁵ − 19 on are points, too, for who does not look; only two or three of those are of small order.
#[test]
fn refuses_an_ed25519_point_that_is_not_in_its_one_encoding() {
    let (_, mut der) = ed25519();
    for low in 0xed..=0xff_u8 {
        for high in [0x7f, 0xff] {
            der[12..].fill(0xff);
            der[12] = low;
            der[43] = high;
            let outcome = VerificationKey::from_public_key(None, Algorithm::EdDsa, &der);
            assert_eq!(outcome.unwrap_err(), InvalidKey::Point, "{low} {high}");
        }
    }
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
fn refuses_a_secret_shorter_than_the_hash() {
    for (algorithm, bytes_min) in [(Algorithm::Hs256, 32), (Algorithm::Hs384, 48), (Algorithm::Hs512, 64)] {
        let outcome = |bytes: usize| VerificationKey::from_secret(None, algorithm, &vec![1; bytes]).map(drop);
        assert_eq!(outcome(bytes_min), Ok(()));
        assert_eq!(outcome(bytes_min - 1), Err(InvalidKey::SecretTooShort { bytes: bytes_min - 1, bytes_min }));
    }
    for algorithm in Algorithm::ALL.into_iter().filter(|algorithm| algorithm.family() != authn::Family::Hmac) {
        let outcome = VerificationKey::from_secret(None, algorithm, &[1; 64]).map(drop);
        assert_eq!(outcome, Err(InvalidKey::OtherKeyType(algorithm)));
    }
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
    for (algorithm, length) in Algorithm::ALL.into_iter().zip([32, 48, 64, 256, 256, 256, 256, 256, 256, 64, 96, 64]) {
        let key = signers::key(algorithm);
        assert!(outcome_by_a_lax_host(&key, &vec![1; length]).is_ok(), "{algorithm:?}");
        for wrong in [0, 1, length - 1, length + 1, length * 2] {
            let outcome = outcome_by_a_lax_host(&key, &vec![1; wrong]);
            assert_eq!(outcome, Err(CredentialFault::SignatureInvalid), "{algorithm:?} {wrong}");
        }
    }
}

#[test]
fn refuses_ecdsa_signatures_with_r_or_s_out_of_range_whatever_the_verifier_says() {
    const P256: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    const P384: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973";
    for (algorithm, order) in [(Algorithm::Es256, P256), (Algorithm::Es384, P384)] {
        let key = signers::key(algorithm);
        let order = bytes(order);
        let length = order.len();
        let mut below = order.clone();
        below[length - 1] -= 1;
        let (zero, one, huge) = (vec![0; length], vec![1; length], vec![0xff; length]);
        assert!(outcome_by_a_lax_host(&key, &[below.clone(), below].concat()).is_ok());
        for bad in [zero, order, huge] {
            for signature in [[bad.clone(), one.clone()].concat(), [one.clone(), bad].concat()] {
                assert_eq!(outcome_by_a_lax_host(&key, &signature), Err(CredentialFault::SignatureInvalid));
            }
        }
    }
}

/// RFC 8032 §5.1.7: S is below the order; R is a point in its one encoding.
#[test]
fn refuses_ed25519_signatures_with_s_or_r_out_of_range_whatever_the_verifier_says() {
    let order = bytes("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let mut below = order.clone();
    below[0] -= 1;
    let key = signers::key(Algorithm::EdDsa);
    let one = vec![1; 32];
    assert!(outcome_by_a_lax_host(&key, &[one.clone(), below].concat()).is_ok());
    let not_canonical = SMALL_ORDER[10..].iter().map(|point| [bytes(point), one.clone()].concat());
    for signature in not_canonical.chain([[one.clone(), order].concat(), [one.clone(), vec![0xff; 32]].concat()]) {
        assert_eq!(outcome_by_a_lax_host(&key, &signature), Err(CredentialFault::SignatureInvalid));
    }
}

/// Whoever adds L to S has another signature of the same text, if nobody looks.
#[test]
fn refuses_an_ed25519_signature_with_the_order_added_to_s() {
    let signed = signers::signed(Algorithm::EdDsa);
    let (input, signature) = signed.token.rsplit_once('.').unwrap();
    let url = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let mut signature = url.decode(signature).unwrap();
    let mut carry = 0;
    for (byte, order) in signature[32..].iter_mut().zip(bytes("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    let malleated = format!("{input}.{}", url.encode(signature));
    assert_eq!(verify_jws(&malleated, &signed.key, &mut PureRust), Err(CredentialFault::SignatureInvalid));
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
