//! The signature algorithms that we accept. What is not here cannot be asked for.

/// A signature algorithm of RFC 7518 or RFC 8037.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519. Ed448 is not supported.
    EdDsa,
}

impl Algorithm {
    /// From an `alg` value; exact, case-sensitive (RFC 7515 §4.1.1). `Ed25519` is RFC 9864's name for what `EdDSA` is here.
    #[must_use]
    pub fn from_jose_name(name: &str) -> Option<Self> {
        match name {
            "HS256" => Some(Self::Hs256),
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            _ => None,
        }
    }

    /// The `alg` value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for algorithm in [Algorithm::Hs256, Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
            assert_eq!(Algorithm::from_jose_name(algorithm.name()), Some(algorithm));
        }
    }

    #[test]
    fn knows_no_name_in_other_case_and_no_other_algorithm() {
        for name in ["", "none", "None", "hs256", "Rs256", "PS256", "RS512", "ES384", "ES256K", "HS256 ", "dir"] {
            assert_eq!(Algorithm::from_jose_name(name), None, "{name}");
        }
    }
}
