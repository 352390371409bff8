//! From the value of an `Authorization` header to an identity.

use decision_core::principal::{CredentialFault, Identity};
use decision_core::time::Timestamp;

use crate::claims::Claims;
use crate::issuer::{Issuers, KeysKnown, MoreKeys};
use crate::jws::{SignatureVerifier, TOKEN_BYTES_MAX, check_signature, parse_jws};

const SCHEME: &[u8] = b"bearer";

/// Verifies the bearer's token: parse, choose the issuer by the (as yet unverified) `iss`, choose a key of that issuer
/// alone, verify, and only then look at what the token says.
///
/// The verifier is called at most once. Who keeps a [`VerificationBudget`](crate::VerificationBudget) counts a failure if
/// the verifier was called and the result is a fault: a token that is signed well but refused costs as much as a forged one.
///
/// # Errors
/// Why there is no identity. It is meant for the audit record; a client learns less.
pub fn authenticate(
    issuers: &Issuers,
    authorization: &[u8],
    now: Timestamp,
    verifier: &mut impl SignatureVerifier,
) -> Result<Identity, Unauthenticated> {
    let jws = parse_jws(bearer(authorization)?)?;
    let claims = Claims::parse(&jws.payload)?;
    let issuer = claims.issuer().and_then(|iss| issuers.find(iss)).ok_or(CredentialFault::IssuerMismatch)?;
    if !issuer.algorithms.contains(&jws.header.algorithm) {
        return Err(CredentialFault::AlgorithmRefused.into());
    }
    match issuer.keys_known {
        KeysKnown::Until(until) if until <= now => return Err(Unauthenticated::KeysUnavailable),
        KeysKnown::NotYet => return Err(Unauthenticated::KeysUnavailable),
        KeysKnown::Always | KeysKnown::Until(_) => {}
    }
    let key = issuer.key_for(&jws.header).map_err(|fault| match (fault, issuer.more_keys) {
        (CredentialFault::UnknownKey | CredentialFault::AlgorithmRefused, MoreKeys::Published) => {
            Unauthenticated::KeyUnknown { issuer: issuer.name.clone() }
        }
        (fault, MoreKeys::No | MoreKeys::Published) => Unauthenticated::Refused(fault),
    })?;
    check_signature(&jws, key, verifier)?;
    Ok(claims.check(&jws.header, issuer, key.kid.as_deref(), now)?)
}

/// Why a credential led to no identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unauthenticated {
    /// It is refused.
    Refused(CredentialFault),
    /// It cannot be judged: the issuer's keys are not known, or too old.
    KeysUnavailable,
    /// It is refused with the keys that are known; the issuer may have published the one that it names.
    KeyUnknown {
        /// Our name for the issuer.
        issuer: Box<str>,
    },
}

impl From<CredentialFault> for Unauthenticated {
    fn from(fault: CredentialFault) -> Self {
        Self::Refused(fault)
    }
}

/// What follows the scheme in `Bearer <token>` (RFC 6750 §2.1): the scheme in any case, then spaces. The rest is not looked at:
/// good enough to find a token that was verified before, and nothing else.
///
/// # Errors
/// [`CredentialFault::NotBearer`].
pub fn after_scheme(authorization: &[u8]) -> Result<&[u8], CredentialFault> {
    let (scheme, rest) = authorization.split_at_checked(SCHEME.len()).ok_or(CredentialFault::NotBearer)?;
    let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
    let token = rest.get(spaces..).unwrap_or_default();
    if scheme.eq_ignore_ascii_case(SCHEME) && spaces > 0 && !token.is_empty() { Ok(token) } else { Err(CredentialFault::NotBearer) }
}

/// The token in `Bearer <token>` (RFC 6750 §2.1): the scheme in any case, spaces, one token, nothing else.
///
/// # Errors
/// [`CredentialFault::NotBearer`], or [`CredentialFault::Malformed`] if the token is too long or not ASCII.
pub fn bearer(authorization: &[u8]) -> Result<&str, CredentialFault> {
    let token = after_scheme(authorization)?;
    if token.len() > TOKEN_BYTES_MAX {
        return Err(CredentialFault::Malformed);
    }
    if token.iter().any(u8::is_ascii_whitespace) {
        return Err(CredentialFault::NotBearer);
    }
    core::str::from_utf8(token).map_err(|_| CredentialFault::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algorithm::Algorithm;
    use crate::issuer::IssuerRules;
    use crate::jws::Verified;
    use crate::key::VerificationKey;
    use crate::pure_rust::PureRust;
    use crate::test_tokens::{NOW, es256_pair, good_claims, hs256_token, rules};
    use serde_json::json;

    const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

    fn refused(fault: CredentialFault) -> Result<Identity, Unauthenticated> {
        Err(Unauthenticated::Refused(fault))
    }

    fn issuers() -> Issuers {
        let other_key = VerificationKey::from_secret(None, Algorithm::Hs256, &[7; 32]).unwrap();
        let pp = IssuerRules { name: "pp".into(), issuer: "pp.example".into(), keys: vec![other_key], ..rules() };
        Issuers::new(vec![rules(), pp]).unwrap()
    }

    fn outcome(token: &str) -> Result<Identity, Unauthenticated> {
        authenticate(&issuers(), format!("Bearer {token}").as_bytes(), NOW, &mut PureRust)
    }

    #[test]
    fn accepts_a_good_token() {
        let identity = outcome(&hs256_token(HEADER, &good_claims().to_string())).unwrap();
        assert_eq!(&*identity.issuer, "cp");
        assert_eq!(&*identity.subject, "u-1");
    }

    #[test]
    fn accepts_the_scheme_in_any_case() {
        for value in ["Bearer a", "bearer a", "BEARER a", "bEaReR   a"] {
            assert_eq!(bearer(value.as_bytes()), Ok("a"), "{value}");
        }
    }

    #[test]
    fn refuses_what_is_not_bearer_and_one_token() {
        for value in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer  ",
            "Basic a",
            "Bearera",
            "a",
            "Bearer a b",
            "Bearer a ",
            " Bearer a",
            "Bearer\ta",
            "Bearer a,Bearer b",
            "Bearer a\n",
        ] {
            assert_eq!(bearer(value.as_bytes()), Err(CredentialFault::NotBearer), "{value:?}");
        }
    }

    #[test]
    fn refuses_two_joined_header_values() {
        let token = hs256_token(HEADER, &good_claims().to_string());
        assert_eq!(outcome(&format!("{token},{token}")), refused(CredentialFault::Malformed));
    }

    #[test]
    fn refuses_a_value_that_is_not_ascii() {
        assert_eq!(bearer(b"Bearer \xff"), Err(CredentialFault::Malformed));
    }

    #[test]
    fn refuses_a_token_that_is_too_long_before_reading_it() {
        let value = [b"Bearer ".as_slice(), &vec![b' '; TOKEN_BYTES_MAX], &vec![b'a'; TOKEN_BYTES_MAX + 1]].concat();
        assert_eq!(bearer(&value), Err(CredentialFault::Malformed));
    }

    #[test]
    fn refuses_an_unknown_or_absent_issuer() {
        for iss in [json!("https://evil.example"), json!("cp.example "), json!("CP.example"), json!(null), json!(["cp.example"])] {
            let mut claims = good_claims();
            claims["iss"] = iss;
            assert_eq!(outcome(&hs256_token(HEADER, &claims.to_string())), refused(CredentialFault::IssuerMismatch));
        }
    }

    #[test]
    fn refuses_a_token_of_one_issuer_signed_by_another() {
        let mut claims = good_claims();
        claims["iss"] = json!("pp.example");
        assert_eq!(outcome(&hs256_token(HEADER, &claims.to_string())), refused(CredentialFault::SignatureInvalid));
    }

    #[test]
    fn refuses_a_payload_that_is_no_json_object_or_has_duplicates() {
        for payload in ["", "[]", "hello", r#"{"iss":"cp.example","iss":"cp.example"}"#] {
            assert_eq!(outcome(&hs256_token(HEADER, payload)), refused(CredentialFault::Malformed), "{payload}");
        }
    }

    #[test]
    fn refuses_hmac_by_the_public_key_of_an_asymmetric_issuer() {
        let (_, key) = es256_pair(None);
        let der = key.spki_der().unwrap().to_vec();
        let issuers = Issuers::new(vec![IssuerRules { keys: vec![key], ..rules() }]).unwrap();
        let forged = crate::test_tokens::hs256_token_by(&der, HEADER, &good_claims().to_string());
        let value = format!("Bearer {forged}");
        let outcome = authenticate(&issuers, value.as_bytes(), NOW, &mut PureRust);
        assert_eq!(outcome, refused(CredentialFault::AlgorithmRefused));
    }

    #[test]
    fn says_nothing_about_claims_before_the_signature_is_verified() {
        let mut claims = good_claims();
        claims["exp"] = json!(1);
        claims["email"] = json!(null);
        let token = crate::test_tokens::hs256_token_by(&[1; 32], HEADER, &claims.to_string());
        assert_eq!(outcome(&token), refused(CredentialFault::SignatureInvalid));
    }

    #[test]
    fn a_verifier_that_says_no_is_believed() {
        struct No(u32);
        impl SignatureVerifier for No {
            fn verify(&mut self, _: &VerificationKey, _: &[u8], _: &[u8]) -> Verified {
                self.0 += 1;
                Verified::No
            }
        }
        let mut verifier = No(0);
        let value = format!("Bearer {}", hs256_token(HEADER, &good_claims().to_string()));
        let outcome = authenticate(&issuers(), value.as_bytes(), NOW, &mut verifier);
        assert_eq!(outcome, refused(CredentialFault::SignatureInvalid));
        assert_eq!(verifier.0, 1);
    }

    fn by(rules: IssuerRules, header: &str) -> Result<Identity, Unauthenticated> {
        let value = format!("Bearer {}", hs256_token(header, &good_claims().to_string()));
        authenticate(&Issuers::new(vec![rules]).unwrap(), value.as_bytes(), NOW, &mut PureRust)
    }

    #[test]
    fn refuses_an_algorithm_that_is_not_on_the_issuers_list_though_a_key_has_it() {
        let listed = |algorithms: &[Algorithm]| IssuerRules { algorithms: algorithms.to_vec(), ..rules() };
        assert!(by(listed(&[Algorithm::Es256, Algorithm::Hs256]), HEADER).is_ok());
        for algorithms in [&[][..], &[Algorithm::Es256], &[Algorithm::Hs384, Algorithm::Rs256]] {
            assert_eq!(by(listed(algorithms), HEADER), refused(CredentialFault::AlgorithmRefused));
        }
    }

    #[test]
    fn cannot_judge_a_token_while_the_issuers_keys_are_unknown_or_too_old() {
        let known = |keys_known| IssuerRules { keys_known, ..rules() };
        let later = Timestamp::from_micros(NOW.as_micros() + 1);
        assert!(by(known(KeysKnown::Until(later)), HEADER).is_ok());
        for keys_known in [KeysKnown::Until(NOW), KeysKnown::Until(Timestamp::EPOCH), KeysKnown::NotYet] {
            assert_eq!(by(known(keys_known), HEADER), Err(Unauthenticated::KeysUnavailable), "{keys_known:?}");
        }
        // What no key could make good is refused all the same.
        assert_eq!(by(known(KeysKnown::NotYet), r#"{"alg":"none"}"#), refused(CredentialFault::AlgorithmRefused));
    }

    #[test]
    fn says_which_issuer_may_have_published_the_key_of_a_token() {
        let header = r#"{"alg":"HS256","kid":"new"}"#;
        let published = || IssuerRules { more_keys: MoreKeys::Published, ..rules() };
        assert_eq!(by(rules(), header), refused(CredentialFault::UnknownKey));
        assert_eq!(by(published(), header), Err(Unauthenticated::KeyUnknown { issuer: "cp".into() }));
        // A key of the algorithm may come, too; one for an algorithm that is not on the list may not.
        let es256 = IssuerRules { keys: vec![es256_pair(None).1], ..published() };
        assert_eq!(by(es256.clone(), HEADER), Err(Unauthenticated::KeyUnknown { issuer: "cp".into() }));
        let listed = IssuerRules { algorithms: vec![Algorithm::Es256], ..es256 };
        assert_eq!(by(listed, HEADER), refused(CredentialFault::AlgorithmRefused));
    }

    #[test]
    fn says_by_which_key_a_token_was_signed() {
        let keys = vec![crate::test_tokens::hs256_key(Some("k"))];
        let identity = by(IssuerRules { keys, ..rules() }, HEADER).unwrap();
        assert_eq!(identity.key_id.as_deref(), Some("k"));
    }
}
