//! The JWS layer: the compact serialisation, its header, and the signature. Knows nothing of claims; the payload is bytes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use decision_core::principal::CredentialFault;

use crate::algorithm::Algorithm;
use crate::json::{Json, Members};
use crate::key::{SignatureForm, VerificationKey, is_key_id};

/// The longest token that we look at.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Header parameters that change what a token means: a critical extension (we understand none), an unencoded payload
/// (RFC 7797), encryption and compression (RFC 7516).
const PARAMETERS_REFUSED: [&str; 4] = ["crit", "b64", "enc", "zip"];

/// What a token's header says. `jwk`, `jku`, `x5u` and `x5c` are not read: a token does not choose its own key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwsHeader {
    /// From `alg`.
    pub algorithm: Algorithm,
    /// The id of the key.
    pub kid: Option<Box<str>>,
    /// The media type of the token.
    pub typ: Option<Box<str>>,
}

/// A token in its parts. Nothing in it is verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedJws<'t> {
    /// The header.
    pub header: JwsHeader,
    /// What the signature covers.
    pub signing_input: &'t str,
    /// The payload, decoded.
    pub payload: Vec<u8>,
    /// The signature, decoded.
    pub signature: Vec<u8>,
}

/// What a verifier found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verified {
    /// The signature is by the key.
    Yes,
    /// It is not, or the verifier could not tell.
    No,
}

/// Verifies signatures: in pure Rust, or with the help of a host. Called once per token at most, and only with a
/// signature that has the right length and range for the key.
pub trait SignatureVerifier {
    /// Whether `signature` is by `key` over `signing_input`. Those of ES256 are `r ‖ s`,
    /// 32 bytes each, those of ES384 48 bytes each (RFC 7518 §3.4).
    fn verify(&mut self, key: &VerificationKey, signing_input: &[u8], signature: &[u8]) -> Verified;
}

/// Takes a token apart (RFC 7515 §5.2 steps 1 to 7), strictly: the exact alphabet, three parts, no padding, canonical
/// last characters, a header without duplicate names.
///
/// # Errors
/// The rule that the token breaks. The size is checked first.
pub fn parse_jws(token: &str) -> Result<ParsedJws<'_>, CredentialFault> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(CredentialFault::Malformed);
    }
    let (signing_input, signature) = token.rsplit_once('.').ok_or(CredentialFault::Malformed)?;
    let (header, payload) = signing_input.split_once('.').ok_or(CredentialFault::Malformed)?;
    // A fourth part would leave a dot in the payload, which is not base64url.
    let header = parse_header(&decode(header)?)?;
    Ok(ParsedJws { header, signing_input, payload: decode(payload)?, signature: decode(signature)? })
}

/// Parses a token and verifies its signature with one key. The payload need not be JSON.
///
/// # Errors
/// [`CredentialFault::AlgorithmRefused`] or [`CredentialFault::UnknownKey`] if the token was not made for this key,
/// [`CredentialFault::SignatureInvalid`], or what [`parse_jws`] refuses.
pub fn verify_jws(token: &str, key: &VerificationKey, verifier: &mut impl SignatureVerifier) -> Result<Vec<u8>, CredentialFault> {
    let jws = parse_jws(token)?;
    if jws.header.kid.is_some() && jws.header.kid != key.kid {
        return Err(CredentialFault::UnknownKey);
    }
    check_signature(&jws, key, verifier)?;
    Ok(jws.payload)
}

pub(crate) fn check_signature(
    jws: &ParsedJws<'_>,
    key: &VerificationKey,
    verifier: &mut impl SignatureVerifier,
) -> Result<(), CredentialFault> {
    if jws.header.algorithm != key.algorithm {
        return Err(CredentialFault::AlgorithmRefused);
    }
    let verified = match key.signature_form(&jws.signature) {
        SignatureForm::Possible => verifier.verify(key, jws.signing_input.as_bytes(), &jws.signature),
        SignatureForm::Impossible => Verified::No,
    };
    match verified {
        Verified::Yes => Ok(()),
        Verified::No => Err(CredentialFault::SignatureInvalid),
    }
}

/// Refuses every character outside `[A-Za-z0-9_-]`, padding, and last characters whose unused bits are not zero.
fn decode(part: &str) -> Result<Vec<u8>, CredentialFault> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| CredentialFault::Malformed)
}

fn parse_header(json: &[u8]) -> Result<JwsHeader, CredentialFault> {
    let members = Members::parse(json).ok_or(CredentialFault::Malformed)?;
    if PARAMETERS_REFUSED.iter().any(|name| members.get(name).is_some()) {
        return Err(CredentialFault::HeaderRefused);
    }
    let algorithm = members.get("alg").and_then(Json::text).and_then(Algorithm::from_jose_name);
    Ok(JwsHeader {
        algorithm: algorithm.ok_or(CredentialFault::AlgorithmRefused)?,
        kid: parameter(&members, "kid")?,
        typ: parameter(&members, "typ")?,
    })
}

fn parameter(members: &Members<'_>, name: &str) -> Result<Option<Box<str>>, CredentialFault> {
    match members.get(name).map(Json::text) {
        None => Ok(None),
        Some(Some(text)) if is_key_id(text) => Ok(Some(text.into())),
        Some(_) => Err(CredentialFault::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure_rust::PureRust;
    use crate::test_tokens::{SECRET, b64, hs256_key, hs256_token};

    fn fault_of_header(header: &str) -> Option<CredentialFault> {
        parse_jws(&hs256_token(header, "{}")).err()
    }

    #[test]
    fn parses_header_payload_and_signature() {
        let token = hs256_token(r#"{"alg":"HS256","kid":"k","typ":"JWT"}"#, "hello");
        let jws = parse_jws(&token).unwrap();
        assert_eq!(jws.header.algorithm, Algorithm::Hs256);
        assert_eq!(jws.header.kid.as_deref(), Some("k"));
        assert_eq!(jws.header.typ.as_deref(), Some("JWT"));
        assert_eq!(jws.payload, b"hello");
        assert_eq!(jws.signature.len(), 32);
        assert!(token.starts_with(jws.signing_input));
    }

    #[test]
    fn refuses_alg_none() {
        for header in [r#"{"alg":"none"}"#, r#"{"alg":"None"}"#, r#"{"alg":"NONE"}"#, r#"{"alg":""}"#] {
            assert_eq!(fault_of_header(header), Some(CredentialFault::AlgorithmRefused), "{header}");
            let unsigned = format!("{}.{}.", b64(header), b64("{}"));
            assert_eq!(parse_jws(&unsigned).err(), Some(CredentialFault::AlgorithmRefused), "{header}");
        }
    }

    #[test]
    fn refuses_an_alg_that_is_unknown_absent_or_no_string() {
        for header in [r#"{"alg":"ES512"}"#, r#"{"alg":"ES256K"}"#, r#"{"alg":"hs256"}"#, "{}", r#"{"alg":null}"#, r#"{"alg":["HS256"]}"#] {
            assert_eq!(fault_of_header(header), Some(CredentialFault::AlgorithmRefused), "{header}");
        }
    }

    #[test]
    fn refuses_crit_whatever_it_lists() {
        for crit in ["[]", r#"["b64"]"#, r#"["exp"]"#, "null", "{}"] {
            let header = format!(r#"{{"alg":"HS256","crit":{crit}}}"#);
            assert_eq!(fault_of_header(&header), Some(CredentialFault::HeaderRefused), "{header}");
        }
    }

    #[test]
    fn refuses_b64() {
        for b64 in ["false", "true"] {
            let header = format!(r#"{{"alg":"HS256","b64":{b64}}}"#);
            assert_eq!(fault_of_header(&header), Some(CredentialFault::HeaderRefused));
        }
    }

    #[test]
    fn refuses_jwe() {
        let header = r#"{"alg":"dir","enc":"A256GCM"}"#;
        assert_eq!(fault_of_header(header), Some(CredentialFault::HeaderRefused));
        let five_parts = format!("{}..aaaa.aaaa.aaaa", b64(header));
        assert!(parse_jws(&five_parts).is_err());
        assert_eq!(fault_of_header(r#"{"alg":"HS256","zip":"DEF"}"#), Some(CredentialFault::HeaderRefused));
    }

    #[test]
    fn ignores_keys_and_addresses_of_keys_in_the_header() {
        let header = r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AA"},"jku":"https://evil","x5u":"https://evil","x5c":[]}"#;
        assert!(verify_jws(&hs256_token(header, "x"), &hs256_key(None), &mut PureRust).is_ok());
        let other = VerificationKey::from_secret(None, Algorithm::Hs256, &[9; 32]).unwrap();
        assert_eq!(verify_jws(&hs256_token(header, "x"), &other, &mut PureRust), Err(CredentialFault::SignatureInvalid));
    }

    #[test]
    fn refuses_duplicate_member_names_in_the_header() {
        assert_eq!(fault_of_header(r#"{"alg":"HS256","alg":"HS256"}"#), Some(CredentialFault::Malformed));
        assert_eq!(fault_of_header(r#"{"alg":"HS256","x":{"a":1,"a":1}}"#), Some(CredentialFault::Malformed));
    }

    #[test]
    fn refuses_a_header_that_is_no_json_object() {
        for header in ["", "[]", "null", "\"HS256\"", "{", r#"{"alg":"HS256"} {}"#] {
            assert_eq!(fault_of_header(header), Some(CredentialFault::Malformed), "{header}");
        }
    }

    #[test]
    fn refuses_a_kid_or_typ_that_is_no_plain_string() {
        for value in ["1", "null", "\"\"", "[\"k\"]", r#""a\nb""#] {
            for name in ["kid", "typ"] {
                let header = format!(r#"{{"alg":"HS256","{name}":{value}}}"#);
                assert_eq!(fault_of_header(&header), Some(CredentialFault::Malformed), "{header}");
            }
        }
    }

    #[test]
    fn refuses_a_token_that_is_too_long() {
        let frame = hs256_token(r#"{"alg":"HS256"}"#, "").len();
        let room = (TOKEN_BYTES_MAX - frame) / 4 * 3;
        assert!(parse_jws(&hs256_token(r#"{"alg":"HS256"}"#, &"x".repeat(room))).is_ok());
        assert_eq!(parse_jws(&hs256_token(r#"{"alg":"HS256"}"#, &"x".repeat(room + 3))), Err(CredentialFault::Malformed));
    }

    #[test]
    fn deep_nesting_is_refused_and_cannot_overflow_the_stack() {
        let depth = TOKEN_BYTES_MAX / 4 * 3 / 2;
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let header = |depth: usize| format!(r#"{{"alg":"HS256","x":{}1{}}}"#, open.repeat(depth), close.repeat(depth));
            assert_eq!(fault_of_header(&header(15)), None);
            assert_eq!(fault_of_header(&header(16)), Some(CredentialFault::Malformed));
            assert_eq!(fault_of_header(&header(depth / 8)), Some(CredentialFault::Malformed));
            assert_eq!(fault_of_header(&format!(r#"{{"alg":"HS256","x":{}"#, open.repeat(depth / 8))), Some(CredentialFault::Malformed));
        }
    }

    #[test]
    fn refuses_other_than_three_parts() {
        let token = hs256_token(r#"{"alg":"HS256"}"#, "x");
        let two = token.rsplit_once('.').unwrap().0;
        for wrong in [two, "", ".", "..", "...", &format!("{token}."), &format!(".{token}"), &format!("{token}.AAAA")] {
            assert_eq!(parse_jws(wrong).err(), Some(CredentialFault::Malformed), "{wrong}");
        }
    }

    #[test]
    fn refuses_padding_and_every_character_outside_the_alphabet() {
        let token = hs256_token(r#"{"alg":"HS256"}"#, "x");
        for wrong in ["=", " ", "\n", "\t", "+", "/", "?", "\0", "é", ","] {
            assert_eq!(parse_jws(&format!("{token}{wrong}")).err(), Some(CredentialFault::Malformed), "{wrong:?}");
            assert_eq!(parse_jws(&format!("{wrong}{token}")).err(), Some(CredentialFault::Malformed), "{wrong:?}");
            let inside = token.replacen('.', &format!("{wrong}."), 1);
            assert_eq!(parse_jws(&inside).err(), Some(CredentialFault::Malformed), "{wrong:?}");
        }
    }

    #[test]
    fn refuses_unused_bits_that_are_not_zero() {
        let token = hs256_token(r#"{"alg":"HS256"}"#, "x");
        let key = hs256_key(None);
        assert!(verify_jws(&token, &key, &mut PureRust).is_ok());
        // 32 bytes are 43 characters; the last carries two unused bits.
        let (head, last) = token.split_at(token.len() - 1);
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let index = alphabet.iter().position(|byte| [*byte] == last.as_bytes()).unwrap();
        for bits in 1..4 {
            let other = char::from(alphabet[index | bits]);
            assert_eq!(parse_jws(&format!("{head}{other}")).err(), Some(CredentialFault::Malformed));
        }
    }

    #[test]
    fn refuses_a_key_with_another_id() {
        let token = hs256_token(r#"{"alg":"HS256","kid":"a"}"#, "x");
        assert!(verify_jws(&token, &hs256_key(Some("a")), &mut PureRust).is_ok());
        for kid in [None, Some("b"), Some("A")] {
            assert_eq!(verify_jws(&token, &hs256_key(kid), &mut PureRust), Err(CredentialFault::UnknownKey));
        }
    }

    #[test]
    fn refuses_an_algorithm_that_is_not_the_keys() {
        let token = hs256_token(r#"{"alg":"RS256"}"#, "x");
        assert_eq!(verify_jws(&token, &hs256_key(None), &mut PureRust), Err(CredentialFault::AlgorithmRefused));
    }

    #[test]
    fn calls_the_verifier_only_with_a_signature_of_possible_form() {
        struct Never;
        impl SignatureVerifier for Never {
            fn verify(&mut self, _: &VerificationKey, _: &[u8], _: &[u8]) -> Verified {
                panic!("called");
            }
        }
        let token = format!("{}.{}.{}", b64(r#"{"alg":"HS256"}"#), b64("x"), b64(&SECRET[..31]));
        assert_eq!(verify_jws(&token, &hs256_key(None), &mut Never), Err(CredentialFault::SignatureInvalid));
    }
}
