//! A key that verifies the signatures of one algorithm. Every way to build one checks it, so a key that exists is good.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use core::fmt;
use rsa::{BigUint, RsaPublicKey};

use crate::algorithm::Algorithm;
use crate::roca::{self, Fingerprint};
use crate::spki::Spki;

/// RFC 7518 §3.2: an HMAC key is at least as long as the hash.
const SECRET_BYTES_MIN: usize = 32;
const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 8192;
const RSA_EXPONENT_MIN: u32 = 65_537;
const KID_BYTES_MAX: usize = 256;

const PEM_BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const PEM_END: &str = "-----END PUBLIC KEY-----";

/// The order of P-256's base point: `r` and `s` of a signature are below it.
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17,
    0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// Why a key was refused. The texts name no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// `kid` is empty, longer than 256 bytes, or has control characters.
    #[error("the key id is empty, longer than {KID_BYTES_MAX} bytes, or has control characters")]
    Kid,
    /// Too short for HS256.
    #[error("the secret has {bytes} bytes, fewer than {SECRET_BYTES_MIN}")]
    SecretTooShort {
        /// Its length.
        bytes: usize,
    },
    /// HS256 was asked for with a public key.
    #[error("HS256 has a secret, not a public key")]
    HmacWithPublicKey,
    /// PEM of another kind, or damaged.
    #[error("not one PEM block `PUBLIC KEY`")]
    Pem,
    /// Not the one DER encoding of a key that we support.
    #[error("not the exact DER encoding of an RSA, P-256 or Ed25519 public key")]
    Spki,
    /// The key is of another type than the algorithm needs.
    #[error("the public key is not a key for {}", .0.name())]
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
    #[error("JWK member `{0}` is private")]
    JwkPrivate(&'static str),
    /// `kty`, `crv` or `alg` that we do not support, or that contradict one another.
    #[error("JWK members `kty`, `crv` and `alg` name no supported key")]
    JwkUnsupported,
    /// `use` or `key_ops` say that the key is not for signatures.
    #[error("JWK members `use` or `key_ops` say that the key does not verify signatures")]
    JwkPurpose,
}

/// What a key consists of. The public kinds keep their DER for a host that verifies.
#[derive(Clone)]
pub(crate) enum KeyMaterial {
    Hs256 { secret: Box<[u8]> },
    Rs256 { spki_der: Box<[u8]>, modulus: Box<[u8]>, key: RsaPublicKey },
    Es256 { spki_der: Box<[u8]>, key: p256::ecdsa::VerifyingKey },
    EdDsa { spki_der: Box<[u8]>, key: ed25519_compact::PublicKey },
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
        if algorithm != Algorithm::Hs256 {
            return Err(InvalidKey::OtherKeyType(algorithm));
        }
        if secret.len() < SECRET_BYTES_MIN {
            return Err(InvalidKey::SecretTooShort { bytes: secret.len() });
        }
        Self::new(kid, Algorithm::Hs256, KeyMaterial::Hs256 { secret: secret.into() })
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
            KeyMaterial::Hs256 { .. } => None,
            KeyMaterial::Rs256 { spki_der, .. } | KeyMaterial::Es256 { spki_der, .. } | KeyMaterial::EdDsa { spki_der, .. } => {
                Some(spki_der)
            }
        }
    }

    pub(crate) fn material(&self) -> &KeyMaterial {
        &self.material
    }

    /// Whether two keys, whatever their ids, verify the same signatures.
    pub(crate) fn is_same_key(&self, other: &Self) -> bool {
        match (&self.material, &other.material) {
            (KeyMaterial::Hs256 { secret }, KeyMaterial::Hs256 { secret: other }) => secret == other,
            _ => self.spki_der().is_some() && self.spki_der() == other.spki_der(),
        }
    }

    /// Checks what some verifiers leave out: exact length, `r` and `s` in 1..n, the RSA signature below the modulus.
    pub(crate) fn signature_form(&self, signature: &[u8]) -> SignatureForm {
        let possible = match &self.material {
            KeyMaterial::Hs256 { .. } => signature.len() == 32,
            KeyMaterial::Rs256 { modulus, .. } => signature.len() == modulus.len() && *signature < **modulus,
            KeyMaterial::Es256 { .. } => match signature.split_at_checked(32) {
                Some((r, s)) => is_p256_scalar(r) && is_p256_scalar(s),
                None => false,
            },
            KeyMaterial::EdDsa { .. } => signature.len() == 64,
        };
        if possible { SignatureForm::Possible } else { SignatureForm::Impossible }
    }
}

/// A `kid` that we accept, in keys and in tokens.
pub(crate) fn is_key_id(kid: &str) -> bool {
    !kid.is_empty() && kid.len() <= KID_BYTES_MAX && !kid.chars().any(char::is_control)
}

fn is_p256_scalar(number: &[u8]) -> bool {
    number.len() == P256_ORDER.len() && *number < P256_ORDER[..] && number.iter().any(|byte| *byte != 0)
}

fn material(algorithm: Algorithm, numbers: Spki<'_>) -> Result<KeyMaterial, InvalidKey> {
    let spki_der = numbers.to_der().into_boxed_slice();
    match (algorithm, numbers) {
        (Algorithm::Rs256, Spki::Rsa { modulus, exponent }) => {
            let key = rsa_key(modulus, exponent)?;
            Ok(KeyMaterial::Rs256 { spki_der, modulus: modulus.into(), key })
        }
        (Algorithm::Es256, Spki::P256 { point }) => {
            let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(point).map_err(|_| InvalidKey::Point)?;
            Ok(KeyMaterial::Es256 { spki_der, key })
        }
        (Algorithm::EdDsa, Spki::Ed25519 { point }) => {
            let key = ed25519_compact::PublicKey::new(*point);
            key.validate().map_err(|_| InvalidKey::Point)?;
            Ok(KeyMaterial::EdDsa { spki_der, key })
        }
        (Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512, _) => Err(InvalidKey::HmacWithPublicKey),
        _ => Err(InvalidKey::OtherKeyType(algorithm)),
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
