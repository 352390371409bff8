use super::*;
use crate::test_tokens::{b64, es256_pair};
use serde_json::json;

const RSA_N: &str = concat!(
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn6",
    "4tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n9",
    "1CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
);

const BOTH: [Algorithm; 2] = [Algorithm::Rs256, Algorithm::Es256];

fn rsa(kid: &str) -> Value {
    json!({"kty": "RSA", "kid": kid, "use": "sig", "alg": "RS256", "n": RSA_N, "e": "AQAB"})
}

/// Another key each time.
fn ec(kid: &str) -> Value {
    let (_, key) = es256_pair(None);
    let point = &key.spki_der().unwrap()[27..];
    json!({"kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "alg": "ES256", "x": b64(&point[..32]), "y": b64(&point[32..])})
}

fn secret(kid: &str, fill: u8) -> Value {
    json!({"kty": "oct", "kid": kid, "alg": "HS256", "k": b64([fill; 32])})
}

fn with(mut jwk: Value, name: &str, value: Value) -> Value {
    jwk[name] = value;
    jwk
}

fn without(mut jwk: Value, name: &str) -> Value {
    jwk.as_object_mut().unwrap().remove(name);
    jwk
}

type Named = (Option<Box<str>>, Algorithm);

fn parse(keys: Vec<Value>, algorithms: &[Algorithm]) -> Result<Vec<Named>, InvalidJwkSet> {
    let set = JwkSet::parse(json!({"keys": keys}).to_string().as_bytes(), algorithms)?;
    Ok(set.keys.into_iter().map(|key| (key.kid, key.algorithm)).collect())
}

fn at(index: usize, kid: &str) -> KeyPlace {
    KeyPlace { index, kid: Some(kid.into()) }
}

fn refused(index: usize, kid: &str, source: InvalidKey) -> InvalidJwkSet {
    InvalidJwkSet::Key { place: at(index, kid), source }
}

#[test]
fn takes_the_keys_of_the_issuers_algorithms() {
    let keys = parse(vec![rsa("r"), ec("e")], &BOTH).unwrap();
    assert_eq!(keys, [(Some("r".into()), Algorithm::Rs256), (Some("e".into()), Algorithm::Es256)]);
    let extra = br#"{"keys":[],"other":{"a":1}}"#;
    assert_eq!(JwkSet::parse(extra, &BOTH).unwrap_err(), InvalidJwkSet::NoUsableKey);
}

#[test]
fn leaves_out_keys_for_other_purposes_of_other_types_and_of_other_algorithms() {
    let others = [
        with(rsa("a"), "use", json!("enc")),
        with(without(rsa("b"), "use"), "key_ops", json!(["wrapKey"])),
        with(rsa("c"), "alg", json!("RSA-OAEP-256")),
        with(rsa("d"), "alg", json!("RS512")),
        json!({"kty": "OKP", "crv": "Ed448", "kid": "f", "x": "AA"}),
        json!({"kty": "EC", "crv": "P-521", "kid": "g", "x": "AA", "y": "AA"}),
        json!({"kty": "AKP", "kid": "h", "alg": "ML-DSA-44", "pub": "AA"}),
    ];
    for other in others {
        assert_eq!(parse(vec![other.clone(), ec("e")], &BOTH).unwrap().len(), 1, "{other}");
        assert_eq!(parse(vec![other.clone()], &BOTH), Err(InvalidJwkSet::NoUsableKey), "{other}");
    }
}

#[test]
fn a_private_key_anywhere_refuses_the_whole_set() {
    for name in crate::jwk::PRIVATE_MEMBERS {
        let leaked = with(with(rsa("r"), "use", json!("enc")), name, json!("AA"));
        assert_eq!(parse(vec![ec("e"), leaked], &BOTH), Err(refused(1, "r", InvalidKey::JwkPrivate(name))));
        let unknown = json!({"kty": "OKP", "crv": "Ed448", "kid": "r", name: "AA"});
        assert_eq!(parse(vec![ec("e"), unknown], &BOTH), Err(refused(1, "r", InvalidKey::JwkPrivate(name))));
    }
}

#[test]
fn two_keys_with_one_kid_refuse_the_whole_set() {
    assert_eq!(parse(vec![ec("e"), rsa("e")], &BOTH), Err(InvalidJwkSet::DuplicateKid(at(1, "e"))));
    let unused = with(rsa("e"), "use", json!("enc"));
    assert_eq!(parse(vec![ec("e"), unused], &BOTH), Err(InvalidJwkSet::DuplicateKid(at(1, "e"))));
}

#[test]
fn two_keys_of_one_algorithm_without_kid_refuse_the_whole_set() {
    let nameless = || without(ec(""), "kid");
    let place = KeyPlace { index: 1, kid: None };
    assert_eq!(parse(vec![nameless(), nameless()], &BOTH), Err(InvalidJwkSet::Indistinguishable { place, algorithm: Algorithm::Es256 }));
    assert_eq!(parse(vec![nameless(), without(rsa(""), "kid"), ec("e")], &BOTH).unwrap().len(), 3);
}

#[test]
fn one_key_under_two_names_or_for_two_algorithms_refuses_the_whole_set() {
    assert_eq!(parse(vec![rsa("a"), rsa("b")], &BOTH), Err(InvalidJwkSet::SameKey(at(1, "b"))));
    let pss = with(rsa("b"), "alg", json!("PS256"));
    assert_eq!(parse(vec![rsa("a"), pss], &[Algorithm::Rs256, Algorithm::Ps256]), Err(InvalidJwkSet::SameKey(at(1, "b"))));
}

#[test]
fn secrets_beside_public_keys_refuse_the_whole_set() {
    let all = [Algorithm::Hs256, Algorithm::Es256];
    assert_eq!(parse(vec![ec("e"), secret("s", 1)], &all), Err(InvalidJwkSet::Mixed(at(1, "s"))));
    assert_eq!(parse(vec![secret("s", 1), ec("e")], &BOTH), Err(InvalidJwkSet::Mixed(at(1, "e"))));
}

#[test]
fn a_set_of_secrets_is_for_issuers_that_use_hmac() {
    let set = || vec![secret("s", 1), secret("t", 2)];
    assert_eq!(parse(set(), &[Algorithm::Hs256]).unwrap().len(), 2);
    assert_eq!(parse(set(), &BOTH), Err(InvalidJwkSet::NoUsableKey));
    let unnamed = vec![without(secret("s", 1), "alg")];
    assert_eq!(parse(unnamed, &BOTH), Err(InvalidJwkSet::NoAlgorithmFits(at(0, "s"))));
}

#[test]
fn a_weak_or_malformed_key_of_a_known_type_refuses_the_whole_set() {
    let even = format!("{}A", RSA_N.trim_end_matches('w'));
    let cases = [
        (with(rsa("r"), "n", json!(even)), InvalidKey::ModulusWeak),
        (with(rsa("r"), "n", json!(b64([0xc5; 128]))), InvalidKey::ModulusSize { bits: 1024 }),
        (with(rsa("r"), "e", json!("Aw")), InvalidKey::Exponent),
        (without(rsa("r"), "n"), InvalidKey::JwkMember("n")),
        (with(ec("r"), "x", json!("AA")), InvalidKey::JwkMember("x")),
        (with(ec("r"), "y", ec("")["y"].clone()), InvalidKey::Point),
        (with(ec("r"), "use", json!(1)), InvalidKey::JwkMember("use")),
        (with(ec("r"), "key_ops", json!("verify")), InvalidKey::JwkMember("key_ops")),
        (with(ec("r"), "kty", json!(1)), InvalidKey::JwkMember("kty")),
    ];
    for (bad, source) in cases {
        assert_eq!(parse(vec![ec("e"), bad.clone()], &BOTH), Err(refused(1, "r", source)), "{bad}");
    }
    let short = with(secret("s", 1), "k", json!("AAAA"));
    let source = InvalidKey::SecretTooShort { bytes: 3, bytes_min: 32 };
    assert_eq!(parse(vec![short], &[Algorithm::Hs256]), Err(refused(0, "s", source)));
}

#[test]
fn a_contradiction_refuses_the_whole_set() {
    assert_eq!(parse(vec![with(ec("e"), "alg", json!("RS256"))], &BOTH), Err(refused(0, "e", InvalidKey::JwkUnsupported)));
    for operations in [json!(["encrypt"]), json!(["verify", "encrypt"]), json!([])] {
        let bad = with(ec("e"), "key_ops", operations);
        assert_eq!(parse(vec![bad], &BOTH), Err(refused(0, "e", InvalidKey::JwkPurpose)));
    }
    let other_way_round = with(with(ec("e"), "use", json!("enc")), "key_ops", json!(["verify"]));
    assert_eq!(parse(vec![other_way_round], &BOTH), Err(refused(0, "e", InvalidKey::JwkPurpose)));
}

#[test]
fn a_key_without_alg_takes_the_only_algorithm_that_fits() {
    let unnamed = |key| vec![without(key, "alg")];
    assert_eq!(parse(unnamed(rsa("r")), &BOTH).unwrap(), [(Some("r".into()), Algorithm::Rs256)]);
    assert_eq!(parse(unnamed(rsa("r")), &[Algorithm::Ps384]).unwrap(), [(Some("r".into()), Algorithm::Ps384)]);
    assert_eq!(parse(unnamed(rsa("r")), &[Algorithm::Es256]), Err(InvalidJwkSet::NoAlgorithmFits(at(0, "r"))));
    assert_eq!(parse(unnamed(rsa("r")), &[Algorithm::Rs256, Algorithm::Ps256]), Err(InvalidJwkSet::SeveralAlgorithmsFit(at(0, "r"))));
}

#[test]
fn refuses_what_is_no_set() {
    for text in ["", "[]", "null", "{", "{\"keys\":[]} x", "{\"keys\":[],\"keys\":[]}", "\u{feff}{}"] {
        assert_eq!(JwkSet::parse(text.as_bytes(), &BOTH).unwrap_err(), InvalidJwkSet::Json, "{text}");
    }
    for text in ["{}", "{\"keys\":{}}", "{\"keys\":null}"] {
        assert_eq!(JwkSet::parse(text.as_bytes(), &BOTH).unwrap_err(), InvalidJwkSet::NoArray, "{text}");
    }
    for key in [json!(1), json!([]), json!(null), json!({})] {
        let place = KeyPlace { index: 0, kid: None };
        assert_eq!(parse(vec![key], &BOTH), Err(InvalidJwkSet::Key { place, source: InvalidKey::JwkMember("kty") }));
    }
}

#[test]
fn refuses_duplicate_member_names_in_a_key() {
    let text = json!({"keys": [ec("e")]}).to_string().replace("\"use\":\"sig\"", "\"use\":\"sig\",\"use\":\"enc\"");
    assert_eq!(JwkSet::parse(text.as_bytes(), &BOTH).unwrap_err(), InvalidJwkSet::Json);
}

#[test]
fn refuses_a_set_that_is_too_large_or_has_too_many_keys() {
    let many = |count: usize| (0..count).map(|index| with(rsa(&index.to_string()), "use", json!("enc"))).chain([ec("e")]).collect();
    assert_eq!(parse(many(KEYS_MAX - 1), &BOTH).unwrap().len(), 1);
    assert_eq!(parse(many(KEYS_MAX), &BOTH), Err(InvalidJwkSet::TooManyKeys { count: KEYS_MAX + 1 }));
    let mut text = json!({"keys": [ec("e")]}).to_string();
    text.push_str(&" ".repeat(SET_BYTES_MAX - text.len()));
    assert!(JwkSet::parse(text.as_bytes(), &BOTH).is_ok());
    text.push(' ');
    assert_eq!(JwkSet::parse(text.as_bytes(), &BOTH).unwrap_err(), InvalidJwkSet::TooLarge { bytes: SET_BYTES_MAX + 1 });
}

#[test]
fn errors_name_the_key_and_no_secret() {
    let short = with(secret("s-1", 1), "k", json!("c2VjcmV0"));
    let error = parse(vec![short], &[Algorithm::Hs256]).unwrap_err();
    assert_eq!(error.to_string(), "keys[0] (kid `s-1`): the key is not usable");
    let text = format!("{error} {error:?} {}", std::error::Error::source(&error).unwrap());
    assert!(!text.contains("c2VjcmV0") && !text.contains("secret-"), "{text}");
    let unnamed = parse(vec![with(rsa("r"), "kid", json!("a\nb"))], &BOTH).unwrap_err();
    assert_eq!(unnamed, InvalidJwkSet::Key { place: KeyPlace { index: 0, kid: None }, source: InvalidKey::Kid });
}

#[test]
fn deep_nesting_is_refused_and_cannot_overflow_the_stack() {
    for text in ["[".repeat(SET_BYTES_MAX), r#"{"a":"#.repeat(SET_BYTES_MAX / 5), format!("{{\"keys\":{}", "[".repeat(1_000))] {
        assert_eq!(JwkSet::parse(text.as_bytes(), &BOTH).unwrap_err(), InvalidJwkSet::Json);
    }
}
