//! Signatures by Envoy's BoringSSL where the host offers it, else in pure Rust.
//!
//! The host's function is laxer than we are (hash names, key sizes, trailing bytes): `authn` has checked algorithm, key
//! and form before it asks, and here only the one answer that means "valid" counts.

use crate::host::{Host, Level};
use authn::{Admission, Algorithm, Family, HashFunction, PureRust, SignatureVerifier, VerificationBudget, VerificationKey, Verified};
use decision_core::time::Timestamp;

/// Which implementation verifies RSA (PKCS #1) and ECDSA in this virtual machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Implementation {
    /// Not tried yet.
    #[default]
    Untried,
    /// The host's.
    Host,
    /// Ours.
    PureRust,
}

/// A verifier for one request.
pub(crate) struct Verifier<'h, H> {
    pub(crate) host: &'h H,
    pub(crate) implementation: Implementation,
    pub(crate) failures: &'h mut Failures,
    pub(crate) now: Timestamp,
    /// Whether a signature was checked: that is what costs.
    pub(crate) asked: Asked,
}

/// Whether a signature was checked, and at what cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    No,
    /// By the host, or an HMAC: 5 to 50 µs.
    Cheap,
    /// Dearer by a factor of ten or more: 0.2 to 0.8 ms.
    Dear(Dear),
    /// Too many of its kind failed lately.
    TurnedAway,
}

/// The kinds of dear verification. Each has a budget of its own: those that fail do not turn away good ones of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dear {
    RsaPkcs1,
    RsaPss,
    EcdsaP256,
    EcdsaP384,
    Ed25519,
}

/// How many verifications may fail per second, by what they cost. Everybody on the worker waits while one is made: fifty of
/// 0.75 ms are 4 % of its time, and ten at once hold it up for 8 ms. When all that come are forged, no number would let a
/// good token of that kind through for sure; those that were seen before are in the cache.
#[derive(Debug)]
pub(crate) struct Failures {
    cheap: VerificationBudget,
    dear: [VerificationBudget; 5],
}

impl Default for Failures {
    fn default() -> Self {
        Self { cheap: VerificationBudget::new(5_000, 5_000), dear: [VerificationBudget::new(50, 10); 5] }
    }
}

impl Failures {
    pub(crate) fn admit(&mut self, kind: Asked, now: Timestamp) -> Admission {
        self.budget(kind).map_or(Admission::Admitted, |budget| budget.admit(now))
    }

    /// A verification of that kind did not lead to a principal.
    pub(crate) fn failed(&mut self, kind: Asked, now: Timestamp) {
        if let Some(budget) = self.budget(kind) {
            budget.failed(now);
        }
    }

    const fn budget(&mut self, kind: Asked) -> Option<&mut VerificationBudget> {
        let [rsa_pkcs1, rsa_pss, ecdsa_p256, ecdsa_p384, ed25519] = &mut self.dear;
        match kind {
            Asked::Cheap => Some(&mut self.cheap),
            Asked::Dear(Dear::RsaPkcs1) => Some(rsa_pkcs1),
            Asked::Dear(Dear::RsaPss) => Some(rsa_pss),
            Asked::Dear(Dear::EcdsaP256) => Some(ecdsa_p256),
            Asked::Dear(Dear::EcdsaP384) => Some(ecdsa_p384),
            Asked::Dear(Dear::Ed25519) => Some(ed25519),
            Asked::No | Asked::TurnedAway => None,
        }
    }
}

/// BoringSSL takes 0.34 ms for ES384, for which it has no fast code.
fn cost(implementation: Implementation, algorithm: Algorithm) -> Asked {
    match (algorithm.family(), algorithm.hash(), implementation) {
        (Family::Hmac, _, _) => Asked::Cheap,
        (Family::RsaPkcs1, _, Implementation::Host) | (Family::Ecdsa, HashFunction::Sha256, Implementation::Host) => Asked::Cheap,
        (Family::RsaPkcs1, _, Implementation::Untried | Implementation::PureRust) => Asked::Dear(Dear::RsaPkcs1),
        (Family::RsaPss, _, _) => Asked::Dear(Dear::RsaPss),
        (Family::Ecdsa, HashFunction::Sha256, Implementation::Untried | Implementation::PureRust) => Asked::Dear(Dear::EcdsaP256),
        (Family::Ecdsa, HashFunction::Sha384 | HashFunction::Sha512, _) => Asked::Dear(Dear::EcdsaP384),
        (Family::Ed25519, _, _) => Asked::Dear(Dear::Ed25519),
    }
}

impl<H: Host> SignatureVerifier for Verifier<'_, H> {
    fn verify(&mut self, key: &VerificationKey, signing_input: &[u8], signature: &[u8]) -> Verified {
        self.asked = cost(self.implementation, key.algorithm);
        if self.failures.admit(self.asked, self.now) == Admission::Refused {
            self.asked = Asked::TurnedAway;
            return Verified::No;
        }
        let hash = match key.algorithm.hash() {
            HashFunction::Sha256 => b"sha256",
            HashFunction::Sha384 => b"sha384",
            HashFunction::Sha512 => b"sha512",
        };
        match (self.implementation, key.algorithm.family(), key.spki_der()) {
            (Implementation::Host, Family::RsaPkcs1, Some(spki)) => verify_by_host(self.host, hash, spki, signature, signing_input),
            (Implementation::Host, Family::Ecdsa, Some(spki)) => {
                verify_by_host(self.host, hash, spki, &der_signature(signature), signing_input)
            }
            (Implementation::Host, Family::RsaPkcs1 | Family::Ecdsa | Family::Hmac | Family::RsaPss | Family::Ed25519, _)
            | (Implementation::Untried | Implementation::PureRust, _, _) => PureRust.verify(key, signing_input, signature),
        }
    }
}

/// Finds out whether the host verifies, with a signature that is known to be good and one that is not.
pub(crate) fn try_host(host: &impl Host) -> Implementation {
    const SPKI: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\x04\x50\xaf\xfc\x83\xc4\xd6\xaf\xc7\x7d\x7f\xe7\x0e\x13\x80\x38\xef\x28\xfa\x1e\x40\xda\xf8\x3e\xdb\x9b\x6b\x98\x7f\x3c\x5b\xa9\xfb\xb8\x71\xb1\x25\xef\xd7\x83\xb1\xf6\xab\xdc\x76\x00\x48\x8a\xf1\xc5\x5e\x17\x5c\x20\x17\xe2\x6f\x91\xc2\x2a\x35\x1e\xe4\x44\xb5";
    const SIGNATURE: &[u8] = b"\x30\x44\x02\x20\x75\xfd\x34\xc7\x0a\x3a\x59\x71\x36\xd9\x57\x6e\xb7\x43\x63\x1e\x23\x2b\x6b\xdf\x5b\x4d\x29\x8e\x8d\x86\x00\xb7\x5d\xe4\x4b\x65\x02\x20\x3d\xe0\x42\x72\xf5\x1a\x9b\xa9\xe2\xf6\xcd\xf4\x94\xe4\x65\x8e\xbd\xa0\xb0\x7f\xe8\x47\xb4\x7b\xfc\x38\x13\x60\x3d\xa7\x4d\x3d";
    let good = verify_by_host(host, b"sha256", SPKI, SIGNATURE, b"plant-gateway self-check");
    let forged = verify_by_host(host, b"sha256", SPKI, SIGNATURE, b"plant-gateway self-chech");
    let implementation = match (good, forged) {
        (Verified::Yes, Verified::No) => Implementation::Host,
        (Verified::Yes, Verified::Yes) | (Verified::No, Verified::Yes | Verified::No) => Implementation::PureRust,
    };
    host.log(Level::Info, &format!("RSA (PKCS #1) and ECDSA signatures are verified by: {implementation:?}"));
    implementation
}

fn verify_by_host(host: &impl Host, hash: &[u8], spki: &[u8], signature: &[u8], text: &[u8]) -> Verified {
    let mut argument = Vec::with_capacity(spki.len() + signature.len() + text.len() + 32);
    for (field, value) in [(1, hash), (2, spki), (3, signature), (4, text)] {
        push_field(&mut argument, field, value);
    }
    // `08 01` is the message {1: true}. Anything else, success with an error text included, is a refusal.
    match host.call_foreign("verify_signature", &argument) {
        Ok(Some(answer)) if answer == [0x08, 0x01] => Verified::Yes,
        Ok(_) | Err(_) => Verified::No,
    }
}

/// A length-delimited protobuf field.
fn push_field(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field << 3 | 2);
    let mut length = value.len();
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap_or(0));
    out.extend(value);
}

/// `r ‖ s` (RFC 7518 §3.4), of either curve, as the DER that BoringSSL expects.
fn der_signature(signature: &[u8]) -> Vec<u8> {
    let (r, s) = signature.split_at(signature.len() / 2);
    let mut body = Vec::with_capacity(104);
    for number in [r, s] {
        let zeros = number.iter().take_while(|byte| **byte == 0).count().min(number.len().saturating_sub(1));
        let number = number.get(zeros..).unwrap_or_default();
        let sign = number.first().is_some_and(|byte| *byte >= 0x80);
        body.extend([0x02, u8::try_from(number.len() + usize::from(sign)).unwrap_or(0)]);
        if sign {
            body.push(0);
        }
        body.extend(number);
    }
    let mut der = vec![0x30, u8::try_from(body.len()).unwrap_or(0)];
    der.append(&mut body);
    der
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_integers_as_short_as_der_demands() {
        let mut signature = [0; 64];
        signature[31] = 0x80;
        signature[32] = 0x01;
        let der = der_signature(&signature);
        assert_eq!(der.get(..6), Some(&[0x30, 38, 0x02, 0x02, 0x00, 0x80][..]));
        assert_eq!(der.get(6..9), Some(&[0x02, 0x20, 0x01][..]));
    }

    #[test]
    fn writes_the_largest_numbers_of_p384_within_one_byte_of_length() {
        let der = der_signature(&[0xff; 96]);
        assert_eq!((der.len(), der.get(..5)), (104, Some(&[0x30, 102, 0x02, 49, 0x00][..])));
        assert_eq!(der.get(53..56), Some(&[0x02, 49, 0x00][..]));
    }

    #[test]
    fn writes_lengths_as_varints() {
        let mut out = Vec::new();
        push_field(&mut out, 4, &[7; 300]);
        assert_eq!(out.get(..3), Some(&[0x22, 0xac, 0x02][..]));
    }
}
