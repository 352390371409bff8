//! A key that verifies the signatures of one algorithm. Every way to build one checks it, so a key that exists is good.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use core::fmt;
use rsa::{BigUint, RsaPublicKey};

use crate::algorithm::{Algorithm, Family};
use crate::roca::{self, Fingerprint};
use crate::spki::Spki;

const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 8192;
const RSA_EXPONENT_MIN: u32 = 65_537;
const KID_BYTES_MAX: usize = 256;

const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PEM_END: &str = "-----END PUBLIC KEY-----";

/// The order of P-256's base point: `r` and `s` of a signature are in 1..n (SEC 1 §4.1.4).
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17,
    0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];
/// The order of P-384's base point.
const P384_ORDER: [u8; 48] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xc7, 0x63, 0x4d, 0x81, 0xf4, 0x37, 0x2d, 0xdf, 0x58, 0x1a, 0x0d, 0xb2, 0x48, 0xb0, 0xa7, 0x7a, 0xec, 0xec, 0x19, 0x6a,
    0xcc, 0xc5, 0x29, 0x73,
];
/// The order L of Ed25519's base point, little-endian: `S` of a signature is below it (RFC 8032 §5.1.7).
const ED25519_ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10,
];
/// 2²⁵⁵ − 19, little-endian: the coordinate in an encoded point is below it (RFC 8032 §5.1.3).
const ED25519_FIELD: [u8; 32] = [
    0xed, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
];

/// Why a key was refused. The texts name no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// `kid` is empty, longer than 256 bytes, or has control characters.
    #[error("the key id is empty, longer than {KID_BYTES_MAX} bytes, or has control characters")]
    Kid,
    /// Shorter than the hash (RFC 7518 §3.2).
    #[error("the secret has {bytes} bytes, fewer than {bytes_min}")]
    SecretTooShort {
        /// Its length.
        bytes: usize,
        /// The length of the hash.
        bytes_min: usize,
    },
    /// HS256, HS384 or HS512 was asked for with a public key.
    #[error("an HMAC has a secret, not a public key")]
    HmacWithPublicKey,
    /// PEM of another kind, or damaged.
    #[error("not one PEM block `PUBLIC KEY`")]
    Pem,
    /// Not the one DER encoding of a key that we support.
    #[error("not the exact DER encoding of an RSA, P-256, P-384 or Ed25519 public key")]
    Spki,
    /// The key is of another type than the algorithm needs.
    #[error("the key is not a key for {}", .0.name())]
    OtherKeyType(Algorithm),
    /// RSA modulus too short or too long.
    #[error("the RSA modulus has {bits} bits, not {RSA_BITS_MIN} to {RSA_BITS_MAX}")]
    ModulusSize {
        /// Its length.
        bits: usize,
    },
    /// RSA modulus even, or of the form that can be factored (CVE-2017-15361).
    #[error("the RSA modulus is even or has the form of CVE-2017-15361")]
    ModulusWeak,
    /// RSA exponent even, below 65,537 or above 32 bits.
    #[error("the RSA exponent is even, below {RSA_EXPONENT_MIN} or longer than 32 bits")]
    Exponent,
    /// Not a point of the curve, or one of small order.
    #[error("not a point of the curve, or one of small order")]
    Point,
    /// A member that the type of JWK needs.
    #[error("JWK member `{0}` is absent or has the wrong form")]
    JwkMember(&'static str),
    /// A JWK with a private key.
    #[error("JWK member `{0}` is private: give the public half of the key")]
    JwkPrivate(&'static str),
    /// `kty`, `crv` or `alg` that we do not support, or that contradict one another.
    #[error("JWK members `kty`, `crv` and `alg` name no supported key")]
    JwkUnsupported,
    /// `alg` names another algorithm than the key is wanted for.
    #[error("JWK member `alg` says {}, not {}", .named.name(), .wanted.name())]
    JwkOtherAlgorithm {
        /// What the key says.
        named: Algorithm,
        /// What it is wanted for.
        wanted: Algorithm,
    },
    /// `use` or `key_ops` say that the key is not for signatures.
    #[error("JWK members `use` or `key_ops` say that the key does not verify signatures")]
    JwkPurpose,
}

/// What a key consists of. The public kinds keep their DER for a host that verifies.
#[derive(Clone)]
pub(crate) enum KeyMaterial {
    Secret { secret: Box<[u8]> },
    Rsa { spki_der: Box<[u8]>, modulus: Box<[u8]>, key: RsaPublicKey },
    P256 { spki_der: Box<[u8]>, key: p256::ecdsa::VerifyingKey },
    P384 { spki_der: Box<[u8]>, key: p384::ecdsa::VerifyingKey },
    Ed25519 { spki_der: Box<[u8]>, key: ed25519_compact::PublicKey },
}

/// Whether bytes can be a signature by a key at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignatureForm {
    Possible,
    Impossible,
}

/// A checked key, for one algorithm only.
#[derive(Clone)]
pub struct VerificationKey {
    /// The key's id, by which a token chooses it.
    pub kid: Option<Box<str>>,
    /// The only algorithm that the key is used with.
    pub algorithm: Algorithm,
    material: KeyMaterial,
}

impl fmt::Debug for VerificationKey {
    /// Names the key; never shows a secret.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("VerificationKey").field("kid", &self.kid).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl VerificationKey {
    /// A secret for HS256, HS384 or HS512.
    ///
    /// # Errors
    /// If it is shorter than the hash, the algorithm has no secret, or the key id is unusable.
    pub fn from_secret(kid: Option<&str>, algorithm: Algorithm, secret: &[u8]) -> Result<Self, InvalidKey> {
        if algorithm.family() != Family::Hmac {
            return Err(InvalidKey::OtherKeyType(algorithm));
        }
        let bytes_min = algorithm.hash().bytes();
        if secret.len() < bytes_min {
            return Err(InvalidKey::SecretTooShort { bytes: secret.len(), bytes_min });
        }
        Self::new(kid, algorithm, KeyMaterial::Secret { secret: secret.into() })
    }

    /// A public key, as PEM (`PUBLIC KEY`) or as DER (SubjectPublicKeyInfo).
    ///
    /// # Errors
    /// If it is not exactly one key of the algorithm's type, or a weak one.
    pub fn from_public_key(kid: Option<&str>, algorithm: Algorithm, pem_or_der: &[u8]) -> Result<Self, InvalidKey> {
        let pem;
        let der = if pem_or_der.trim_ascii_start().starts_with(b"-----") {
            pem = parse_pem(pem_or_der).ok_or(InvalidKey::Pem)?;
            pem.as_slice()
        } else {
            pem_or_der
        };
        let material = material(algorithm, Spki::parse(der).ok_or(InvalidKey::Spki)?)?;
        Self::new(kid, algorithm, material)
    }

    pub(crate) fn from_numbers(kid: Option<&str>, algorithm: Algorithm, numbers: Spki<'_>) -> Result<Self, InvalidKey> {
        Self::new(kid, algorithm, material(algorithm, numbers)?)
    }

    fn new(kid: Option<&str>, algorithm: Algorithm, material: KeyMaterial) -> Result<Self, InvalidKey> {
        if kid.is_some_and(|kid| !is_key_id(kid)) {
            return Err(InvalidKey::Kid);
        }
        Ok(Self { kid: kid.map(Into::into), algorithm, material })
    }

    /// The public key in DER, for a verifier outside this crate. A secret has none.
    #[must_use]
    pub fn spki_der(&self) -> Option<&[u8]> {
        match &self.material {
            KeyMaterial::Secret { .. } => None,
            KeyMaterial::Rsa { spki_der, .. }
            | KeyMaterial::P256 { spki_der, .. }
            | KeyMaterial::P384 { spki_der, .. }
            | KeyMaterial::Ed25519 { spki_der, .. } => Some(spki_der),
        }
    }

    pub(crate) fn material(&self) -> &KeyMaterial {
        &self.material
    }

    /// Whether two keys, whatever their ids, verify the same signatures.
    pub(crate) fn is_same_key(&self, other: &Self) -> bool {
        match (&self.material, &other.material) {
            (KeyMaterial::Secret { secret }, KeyMaterial::Secret { secret: other }) => secret == other,
            _ => self.spki_der().is_some() && self.spki_der() == other.spki_der(),
        }
    }

    /// Checks what some verifiers leave out: the exact length, `r` and `s` in 1..n, the RSA signature below the modulus,
    /// `R` and `S` of Ed25519 in their one encoding.
    pub(crate) fn signature_form(&self, signature: &[u8]) -> SignatureForm {
        let possible = match &self.material {
            KeyMaterial::Secret { .. } => signature.len() == self.algorithm.hash().bytes(),
            KeyMaterial::Rsa { modulus, .. } => signature.len() == modulus.len() && *signature < **modulus,
            KeyMaterial::P256 { .. } => is_ecdsa(signature, &P256_ORDER),
            KeyMaterial::P384 { .. } => is_ecdsa(signature, &P384_ORDER),
            KeyMaterial::Ed25519 { .. } => match (signature.len(), signature.first_chunk(), signature.last_chunk()) {
                (64, Some(point), Some(scalar)) => is_canonical_point(point) && is_below(scalar, &ED25519_ORDER),
                _ => false,
            },
        };
        if possible { SignatureForm::Possible } else { SignatureForm::Impossible }
    }
}

/// A `kid` that we accept, in keys and in tokens.
pub(crate) fn is_key_id(kid: &str) -> bool {
    !kid.is_empty() && kid.len() <= KID_BYTES_MAX && !kid.chars().any(char::is_control)
}

/// `r ‖ s`, each as long as the order and in 1..n.
fn is_ecdsa(signature: &[u8], order: &[u8]) -> bool {
    let is_scalar = |number: &[u8]| number.len() == order.len() && number < order && number.iter().any(|byte| *byte != 0);
    signature.split_at_checked(order.len()).is_some_and(|(r, s)| is_scalar(r) && is_scalar(s))
}

/// Of two little-endian numbers.
fn is_below(number: &[u8; 32], bound: &[u8; 32]) -> bool {
    number.iter().rev().lt(bound.iter().rev())
}

/// The highest bit is the sign of the other coordinate.
fn is_canonical_point(point: &[u8; 32]) -> bool {
    let mut coordinate = *point;
    if let Some(last) = coordinate.last_mut() {
        *last &= 0x7f;
    }
    is_below(&coordinate, &ED25519_FIELD)
}

fn material(algorithm: Algorithm, numbers: Spki<'_>) -> Result<KeyMaterial, InvalidKey> {
    let spki_der = numbers.to_der().into_boxed_slice();
    match (algorithm, numbers) {
        (
            Algorithm::Rs256 | Algorithm::Rs384 | Algorithm::Rs512 | Algorithm::Ps256 | Algorithm::Ps384 | Algorithm::Ps512,
            Spki::Rsa { modulus, exponent },
        ) => {
            let key = rsa_key(modulus, exponent)?;
            Ok(KeyMaterial::Rsa { spki_der, modulus: modulus.into(), key })
        }
        (Algorithm::Es256, Spki::P256 { point }) => {
            let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(point).map_err(|_| InvalidKey::Point)?;
            Ok(KeyMaterial::P256 { spki_der, key })
        }
        (Algorithm::Es384, Spki::P384 { point }) => {
            let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(point).map_err(|_| InvalidKey::Point)?;
            Ok(KeyMaterial::P384 { spki_der, key })
        }
        (Algorithm::EdDsa, Spki::Ed25519 { point }) => {
            let key = ed25519_compact::PublicKey::new(*point);
            if !is_canonical_point(point) || key.validate().is_err() {
                return Err(InvalidKey::Point);
            }
            Ok(KeyMaterial::Ed25519 { spki_der, key })
        }
        (Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512, _) => Err(InvalidKey::HmacWithPublicKey),
        (_, Spki::Rsa { .. } | Spki::P256 { .. } | Spki::P384 { .. } | Spki::Ed25519 { .. }) => Err(InvalidKey::OtherKeyType(algorithm)),
    }
}

fn rsa_key(modulus: &[u8], exponent: &[u8]) -> Result<RsaPublicKey, InvalidKey> {
    let n = BigUint::from_bytes_be(modulus);
    let bits = n.bits();
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        return Err(InvalidKey::ModulusSize { bits });
    }
    if modulus.last().is_none_or(|last| last & 1 == 0) || roca::fingerprint(modulus) == Fingerprint::Roca {
        return Err(InvalidKey::ModulusWeak);
    }
    let e = exponent.iter().try_fold(0_u32, |sum, &byte| sum.checked_mul(256)?.checked_add(u32::from(byte)));
    let e = e.filter(|e| *e >= RSA_EXPONENT_MIN && e & 1 == 1).ok_or(InvalidKey::Exponent)?;
    RsaPublicKey::new_with_max_size(n, BigUint::from(e), RSA_BITS_MAX).map_err(|_| InvalidKey::Exponent)
}

/// The DER inside one PEM block (RFC 7468), with white space around it and line breaks in it.
fn parse_pem(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = core::str::from_utf8(bytes).ok()?.trim_ascii();
    let body = text.strip_prefix(PEM_BEGIN)?.strip_suffix(PEM_END)?;
    let base64: Vec<u8> = body.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    STANDARD.decode(base64).ok()
}
