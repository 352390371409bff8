//! Signatures by the host: trusted only after it told a good one from a forged one.

use super::gate::{Gate, NOW, Request};
use super::host::Verify;
use super::tokens;
use crate::signature::{Asked, Dear, Failures, Implementation, Verifier, try_host};
use authn::{Algorithm, PureRust, SignatureVerifier, VerificationKey, Verified};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jwt_simple::algorithms::{ECDSAP256KeyPairLike, ES256KeyPair};
use jwt_simple::claims::Claims;

const YES: [u8; 2] = [0x08, 0x01];

/// The fields of the argument: hash name, key, signature and text.
fn fields(mut argument: &[u8]) -> Vec<Vec<u8>> {
    let mut fields = Vec::new();
    while let Some((tag, rest)) = argument.split_first() {
        assert_eq!(usize::from(*tag), (fields.len() + 1) << 3 | 2);
        let (mut length, mut shift, mut rest) = (0, 0, rest);
        loop {
            let (byte, after) = rest.split_first().unwrap();
            rest = after;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let (value, after) = rest.split_at(length);
        fields.push(value.to_vec());
        argument = after;
    }
    fields
}

/// The two integers of a DER signature, 32 bytes each.
fn raw(der: &[u8]) -> Vec<u8> {
    raw_of(der, 32)
}

fn raw_of(der: &[u8], bytes: usize) -> Vec<u8> {
    assert_eq!((der[0], usize::from(der[1])), (0x30, der.len() - 2));
    let first = usize::from(der[3]);
    assert_eq!((der[2], der[4 + first], 6 + first + usize::from(der[5 + first])), (2, 2, der.len()));
    let number = |number: &[u8]| {
        assert!(number[0] < 0x80 && (number[0] != 0 || number[1] >= 0x80), "neither negative nor padded");
        let mut padded = vec![0; bytes];
        padded.extend(number);
        padded.split_off(padded.len() - bytes)
    };
    [number(&der[4..4 + first]), number(&der[6 + first..])].concat()
}

/// As BoringSSL does it, for ES256.
fn honest(argument: &[u8]) -> Vec<u8> {
    let fields = fields(argument);
    assert_eq!(fields[0], b"sha256");
    let key = VerificationKey::from_public_key(None, Algorithm::Es256, &fields[1]).unwrap();
    match PureRust.verify(&key, &fields[3], &raw(&fields[2])) {
        Verified::Yes => YES.to_vec(),
        Verified::No => vec![0x12, 2, b'n', b'o'],
    }
}

fn tried(verifies: Option<Verify>) -> Implementation {
    let gate = Gate::cold("CP", Default::default());
    gate.host.verifies.set(verifies);
    try_host(&gate.host)
}

#[test]
fn a_host_that_verifies_is_used_and_any_other_is_not() {
    assert_eq!(tried(Some(honest)), Implementation::Host);
    assert_eq!(tried(None), Implementation::PureRust);
    assert_eq!(tried(Some(|_| YES.to_vec())), Implementation::PureRust);
    assert_eq!(tried(Some(|_| Vec::new())), Implementation::PureRust);
    assert_eq!(tried(Some(|_| vec![0x08, 0x01, 0x12, 0])), Implementation::PureRust);
    assert_eq!(
        tried(Some(|argument| if fields(argument)[3].ends_with(b"check") { vec![] } else { YES.to_vec() })),
        Implementation::PureRust
    );
}

#[test]
fn the_host_is_asked_with_what_was_signed_in_the_form_that_it_takes() {
    let gate = Gate::cold("CP", Default::default());
    gate.host.verifies.set(Some(honest));
    for _ in 0..64 {
        let pair = ES256KeyPair::generate();
        let key = VerificationKey::from_public_key(None, Algorithm::Es256, &pair.key_pair().public_key().to_der().unwrap()).unwrap();
        let token = pair.sign(Claims::create(jwt_simple::prelude::Duration::from_mins(5))).unwrap();
        let (input, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let mut failures = Failures::default();
        let mut verifier =
            Verifier { host: &gate.host, implementation: Implementation::Host, failures: &mut failures, now: NOW, asked: Asked::No };
        assert_eq!(verifier.verify(&key, input.as_bytes(), &signature), Verified::Yes);
        assert_eq!(verifier.verify(&key, b"forged", &signature), Verified::No);
        assert_eq!(verifier.asked, Asked::Cheap);
    }
    assert_eq!(gate.host.take_calls().iter().filter(|call| *call == "call_foreign verify_signature").count(), 128);
}

/// The host knows no HMAC: it must never be asked, whatever it would say.
#[test]
fn a_shared_secret_is_never_the_host_s_affair() {
    let mut gate = Gate::new("PLANT");
    gate.host.verifies.set(Some(|_| YES.to_vec()));
    gate.vm.borrow_mut().implementation = Implementation::Host;
    let forged = format!("{}A", &tokens::admin()[..tokens::admin().len() - 1]);
    let reply = gate.refused(&Request::new("GET", "/api/v1/tasks").bearer(&forged));
    assert_eq!(reply.status, 401);
    assert!(gate.host.take_calls().iter().all(|call| !call.starts_with("call_foreign")));
}

/// What a host with BoringSSL makes of ES384 and of RSA with longer hashes.
fn honest_with_longer_hashes(argument: &[u8]) -> Vec<u8> {
    let fields = fields(argument);
    let (algorithm, signature) = match &*fields[0] {
        b"sha384" => (Algorithm::Es384, raw_of(&fields[2], 48)),
        b"sha512" => (Algorithm::Rs512, fields[2].clone()),
        other => unreachable!("{other:?}"),
    };
    let key = VerificationKey::from_public_key(None, algorithm, &fields[1]).unwrap();
    if PureRust.verify(&key, &fields[3], &signature) == Verified::Yes { YES.to_vec() } else { vec![0x12, 0] }
}

#[test]
fn the_host_verifies_longer_hashes_too_and_p384_is_dear() {
    use jwt_simple::algorithms::{ECDSAP384KeyPairLike, ES384KeyPair, RS512KeyPair, RSAKeyPairLike};
    let gate = Gate::cold("CP", Default::default());
    gate.host.verifies.set(Some(honest_with_longer_hashes));
    let claims = || Claims::create(jwt_simple::prelude::Duration::from_mins(5));
    let (ecdsa, rsa) = (ES384KeyPair::generate(), RS512KeyPair::generate(2_048).unwrap());
    let ecdsa_key = ecdsa.key_pair().public_key().to_der().unwrap();
    let rsa_key = rsa.public_key().to_der().unwrap();
    let signed = [
        (Algorithm::Es384, ecdsa_key, ecdsa.sign(claims()).unwrap(), Asked::Dear(Dear::EcdsaP384)),
        (Algorithm::Rs512, rsa_key, rsa.sign(claims()).unwrap(), Asked::Cheap),
    ];
    for (algorithm, key, token, asked) in signed {
        let key = VerificationKey::from_public_key(None, algorithm, &key).unwrap();
        let (input, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let mut failures = Failures::default();
        let mut verify = |text: &[u8]| {
            let implementation = Implementation::Host;
            let mut verifier = Verifier { host: &gate.host, implementation, failures: &mut failures, now: NOW, asked: Asked::No };
            (verifier.verify(&key, text, &signature), verifier.asked)
        };
        assert_eq!(verify(input.as_bytes()), (Verified::Yes, asked), "{algorithm:?}");
        assert_eq!(verify(b"something else"), (Verified::No, asked), "{algorithm:?}");
    }
    assert_eq!(gate.host.take_calls().iter().filter(|call| call.starts_with("call_foreign")).count(), 4);
}
