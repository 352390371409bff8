//! What a refusal means, for operators: the gateways tell their clients less.

use authn::Unauthenticated;
use decision_core::principal::CredentialFault;

/// Why a credential is refused, in a sentence without a full stop.
pub(crate) fn meaning(fault: CredentialFault) -> String {
    match fault {
        CredentialFault::NotBearer => "it is not `Bearer <token>`",
        CredentialFault::Malformed => {
            "it is not three parts of unpadded base64url with a JSON object without duplicate names as header, is longer than 8 KiB, or `exp` is not after `iat`"
        }
        CredentialFault::AlgorithmRefused => "`alg` is absent, `none`, unknown, not the key's, or not one of the issuer's algorithms",
        CredentialFault::HeaderRefused => "the header has `crit`, `b64`, `enc` or `zip`",
        CredentialFault::UnknownKey => "no key has the algorithm and the `kid` of the header",
        CredentialFault::SignatureInvalid => "the signature does not verify",
        CredentialFault::IssuerMismatch => "`iss` is absent or names no known issuer",
        CredentialFault::AudienceMismatch => "`aud` does not name us",
        CredentialFault::TokenTypeRefused => "`typ`, `token_type` or `scope` says that it is no access token",
        CredentialFault::ClaimMissing(name) => {
            return format!("the claim `{name}` is absent, empty, too long or of the wrong type");
        }
        CredentialFault::Expired => "it has expired",
        CredentialFault::NotYetValid => "`iat` or `nbf` is in the future",
        CredentialFault::LifetimeTooLong => "`exp` is too long after `iat`",
        CredentialFault::NoKnownRole => "none of its roles is known",
        CredentialFault::TrialClaimsInvalid => "`trial_mode` without a usable `trial_expires_at`",
        CredentialFault::Revoked(_) => "it was revoked",
        CredentialFault::TrialRefused => "the issuer's tokens may not be for trials",
        CredentialFault::VerificationBudgetSpent => "too many tokens were refused lately",
    }
    .to_owned()
}

/// Code and meaning of what [`authn::authenticate`] says.
pub(crate) fn of(unauthenticated: &Unauthenticated) -> (&'static str, String) {
    match unauthenticated {
        Unauthenticated::Refused(fault) => (fault.code(), meaning(*fault)),
        Unauthenticated::KeysUnavailable => {
            ("keys_unavailable", "the issuer's keys are not known here: give them with --jwks FILE".to_owned())
        }
        Unauthenticated::KeyUnknown { issuer } => {
            ("unknown_key", format!("no known key of issuer `{issuer}` fits; it may have published another: give its set with --jwks FILE"))
        }
    }
}
