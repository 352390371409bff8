//! SubjectPublicKeyInfo (RFC 5280 §4.1.2.7) of the four kinds of public key that we accept: read and written.
//! Reading compares with our own writing, so there is one encoding per key and nothing can follow it: BoringSSL would
//! take trailing bytes.

/// `SEQUENCE { OID rsaEncryption, NULL }`.
const RSA_ALGORITHM: [u8; 15] = [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// Everything before the uncompressed point of a P-256 key.
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01,
    0x07, 0x03, 0x42, 0x00,
];
/// Everything before the uncompressed point of a P-384 key.
const P384_PREFIX: [u8; 23] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22, 0x03, 0x62,
    0x00,
];
/// Everything before the 32 bytes of an Ed25519 key (RFC 8410).
const ED25519_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;

/// The numbers of a public key, not yet checked to be a good key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spki<'d> {
    /// Modulus and exponent, big-endian, no leading zeros.
    Rsa { modulus: &'d [u8], exponent: &'d [u8] },
    /// `04 ‖ x ‖ y`.
    P256 { point: &'d [u8; 65] },
    /// `04 ‖ x ‖ y`.
    P384 { point: &'d [u8; 97] },
    /// As in RFC 8032.
    Ed25519 { point: &'d [u8; 32] },
}

impl<'d> Spki<'d> {
    /// Reads the canonical DER encoding, or nothing.
    pub(crate) fn parse(der: &'d [u8]) -> Option<Self> {
        let key = if let Some(point) = der.strip_prefix(&P256_PREFIX) {
            Self::P256 { point: point.try_into().ok()? }
        } else if let Some(point) = der.strip_prefix(&P384_PREFIX) {
            Self::P384 { point: point.try_into().ok()? }
        } else if let Some(point) = der.strip_prefix(&ED25519_PREFIX) {
            Self::Ed25519 { point: point.try_into().ok()? }
        } else {
            Self::parse_rsa(der)?
        };
        (key.to_der() == der).then_some(key)
    }

    fn parse_rsa(der: &'d [u8]) -> Option<Self> {
        let (outer, _) = element(SEQUENCE, der)?;
        let (bits, _) = element(BIT_STRING, outer.strip_prefix(&RSA_ALGORITHM)?)?;
        let (numbers, _) = element(SEQUENCE, bits.strip_prefix(&[0])?)?;
        let (modulus, rest) = element(INTEGER, numbers)?;
        let (exponent, _) = element(INTEGER, rest)?;
        Some(Self::Rsa { modulus: trimmed(modulus), exponent: trimmed(exponent) })
    }

    /// The DER encoding.
    pub(crate) fn to_der(self) -> Vec<u8> {
        match self {
            Self::Rsa { modulus, exponent } => {
                let numbers = tagged(SEQUENCE, &[&unsigned(modulus), &unsigned(exponent)]);
                tagged(SEQUENCE, &[&RSA_ALGORITHM, &tagged(BIT_STRING, &[&[0], &numbers])])
            }
            Self::P256 { point } => [&P256_PREFIX[..], point].concat(),
            Self::P384 { point } => [&P384_PREFIX[..], point].concat(),
            Self::Ed25519 { point } => [&ED25519_PREFIX[..], point].concat(),
        }
    }
}

/// A number without its leading zeros.
fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// Content of the first element, and what follows. Lenient about lengths: [`Spki::parse`] compares in the end.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.strip_prefix(&[tag])?.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f)).filter(|(length, _)| length.len() <= 3)?;
        (length.iter().fold(0_usize, |sum, &byte| (sum << 8) | usize::from(byte)), rest)
    };
    rest.split_at_checked(length)
}

fn tagged(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len().to_be_bytes();
    let length = trimmed(&length);
    let mut der = vec![tag];
    match (length, u8::try_from(length.len())) {
        ([], _) => der.push(0),
        ([short], _) if *short < 0x80 => der.push(*short),
        (long, Ok(count)) => {
            der.push(0x80 | count);
            der.extend_from_slice(long);
        }
        (_, Err(_)) => return Vec::new(),
    }
    der.extend_from_slice(&content);
    der
}

/// A non-negative INTEGER.
fn unsigned(number: &[u8]) -> Vec<u8> {
    let sign: &[u8] = if number.first().is_none_or(|first| *first >= 0x80) { &[0] } else { &[] };
    tagged(INTEGER, &[sign, number])
}
