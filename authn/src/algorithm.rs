//! The signature algorithms that we know. What is not here cannot be asked for.

use Algorithm::{EdDsa, Es256, Es384, Hs256, Hs384, Hs512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};

/// A signature algorithm of RFC 7518 or RFC 8037.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256, a salt of 32 bytes.
    Ps256,
    /// RSASSA-PSS with SHA-384, a salt of 48 bytes.
    Ps384,
    /// RSASSA-PSS with SHA-512, a salt of 64 bytes.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519. Ed448 is not supported.
    EdDsa,
}

/// What kind of signature it is, and so what kind of key it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// A shared secret.
    Hmac,
    /// An RSA key, RSASSA-PKCS1-v1_5.
    RsaPkcs1,
    /// An RSA key, RSASSA-PSS.
    RsaPss,
    /// A point on the curve that the algorithm names.
    Ecdsa,
    /// A point on Curve25519.
    Ed25519,
}

/// The hash under a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are FIPS 180-4's")]
pub enum HashFunction {
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 12] = [Hs256, Hs384, Hs512, Rs256, Rs384, Rs512, Ps256, Ps384, Ps512, Es256, Es384, EdDsa];

    /// From an `alg` value; exact, case-sensitive (RFC 7515 §4.1.1). `Ed25519` is RFC 9864's name for what `EdDSA` is here.
    #[must_use]
    pub fn from_jose_name(name: &str) -> Option<Self> {
        match name {
            "Ed25519" => Some(EdDsa),
            _ => Self::ALL.into_iter().find(|algorithm| algorithm.name() == name),
        }
    }

    /// The `alg` value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Hs256 => "HS256",
            Hs384 => "HS384",
            Hs512 => "HS512",
            Rs256 => "RS256",
            Rs384 => "RS384",
            Rs512 => "RS512",
            Ps256 => "PS256",
            Ps384 => "PS384",
            Ps512 => "PS512",
            Es256 => "ES256",
            Es384 => "ES384",
            EdDsa => "EdDSA",
        }
    }

    /// What kind of signature it is.
    #[must_use]
    pub const fn family(self) -> Family {
        match self {
            Hs256 | Hs384 | Hs512 => Family::Hmac,
            Rs256 | Rs384 | Rs512 => Family::RsaPkcs1,
            Ps256 | Ps384 | Ps512 => Family::RsaPss,
            Es256 | Es384 => Family::Ecdsa,
            EdDsa => Family::Ed25519,
        }
    }

    /// The hash under it. Ed25519's is part of the signature scheme.
    #[must_use]
    pub const fn hash(self) -> HashFunction {
        match self {
            Hs256 | Rs256 | Ps256 | Es256 => HashFunction::Sha256,
            Hs384 | Rs384 | Ps384 | Es384 => HashFunction::Sha384,
            Hs512 | Rs512 | Ps512 | EdDsa => HashFunction::Sha512,
        }
    }
}

impl HashFunction {
    /// The length of a digest, in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

impl Family {
    /// Whether Envoy's `verify_signature` offers it. The others are verified in this process: an HMAC is quick there too,
    /// the rest takes 0.2 to 0.8 ms, so issuers have to opt in.
    #[must_use]
    pub const fn verification(self) -> Verification {
        match self {
            Self::RsaPkcs1 | Self::Ecdsa => Verification::ByHost,
            Self::Hmac => Verification::QuickAnywhere,
            Self::RsaPss | Self::Ed25519 => Verification::Software,
        }
    }
}

/// Who can verify a kind of signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verification {
    /// Envoy's BoringSSL.
    ByHost,
    /// This process, in microseconds.
    QuickAnywhere,
    /// This process only, slowly.
    Software,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::from_jose_name(algorithm.name()), Some(algorithm));
        }
    }

    #[test]
    fn knows_no_name_in_other_case_and_no_other_algorithm() {
        for name in ["", "none", "None", "hs256", "Rs256", "ES512", "ES256K", "HS256 ", "RS1", "dir", "A128KW"] {
            assert_eq!(Algorithm::from_jose_name(name), None, "{name}");
        }
    }
}
