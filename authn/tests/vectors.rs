//! The public JOSE vectors, at the JWS layer: their payloads are not claims. `EXPECTATIONS.json` says where we are stricter.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "clippy's exception for tests does not cover the functions around them"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use authn::{Algorithm, JwkSet, PureRust, VerificationKey, parse_jws, verify_jws};
use decision_core::principal::CredentialFault;
use serde_json::Value;

fn read(path: impl AsRef<Path>) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// The public half of a JWK; of a secret, the secret.
fn public(jwk: &Value) -> Value {
    let mut jwk = jwk.clone();
    if let Some(members) = jwk.as_object_mut().filter(|members| members.get("kty") != Some(&"oct".into())) {
        members.retain(|name, _| !["d", "p", "q", "dp", "dq", "qi", "oth"].contains(&name.as_str()));
    }
    jwk
}

fn keys_of(group: &Value) -> Vec<Value> {
    let jwk = group.get("public").or_else(|| group.get("private")).unwrap();
    match jwk.get("keys").and_then(Value::as_array) {
        Some(set) => set.iter().map(public).collect(),
        None => vec![public(jwk)],
    }
}

/// Whether a key verifies the token: the one there is, or one of the set.
fn accepts(jwks: &[Value], token: &str) -> bool {
    let keys = match jwks {
        [only] => VerificationKey::from_jwk(only).into_iter().collect(),
        several => {
            let set = serde_json::json!({"keys": several}).to_string();
            JwkSet::parse(set.as_bytes(), &Algorithm::ALL).map_or_else(|_| Vec::new(), |set| set.keys)
        }
    };
    keys.iter().any(|key| verify_jws(token, key, &mut PureRust).is_ok())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

struct Case {
    id: u64,
    valid: bool,
    keys: Vec<Value>,
    token: String,
}

fn cases(file: &str, member: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for group in read(file)["testGroups"].as_array().unwrap() {
        for test in group["tests"].as_array().unwrap().iter().filter(|test| test.get(member).is_some()) {
            let valid = match text(&test["result"]) {
                "valid" => true,
                "invalid" => false,
                other => panic!("unknown result {other}"),
            };
            let token = test[member].as_str().map_or_else(|| test[member].to_string(), Into::into);
            cases.push(Case { id: test["tcId"].as_u64().unwrap(), valid, keys: keys_of(group), token });
        }
    }
    cases
}

fn labels(section: &Value, name: &str) -> Vec<u64> {
    section[name].as_object().unwrap().keys().map(|id| id.parse().unwrap()).collect()
}

#[test]
fn wycheproof_signatures() {
    let expectations = read("wycheproof/EXPECTATIONS.json");
    let section = &expectations["json_web_signature_test"];
    let mut excluded = labels(section, "exclude_contradictory");
    excluded.extend(labels(section, "exclude_unregistered_alg"));
    let stricter = labels(section, "must_reject_although_labelled_valid");

    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in cases("wycheproof/json_web_signature_test.json", "jws") {
        if excluded.contains(&case.id) {
            *counts.entry("excluded").or_default() += 1;
            continue;
        }
        let (label, wanted) = match (stricter.contains(&case.id), case.valid) {
            (true, _) => ("flipped_reject", false),
            (false, true) => ("accepted", true),
            (false, false) => ("invalid_reject", false),
        };
        *counts.entry(label).or_default() += 1;
        if accepts(&case.keys, &case.token) != wanted {
            wrong.push((case.id, label));
        }
    }
    assert_eq!(wrong, [], "tcId and what was wanted");
    println!("{counts:?}");
    let expected = &section["expected_after_adjustment"];
    assert_eq!(Some(counts["accepted"]), expected["valid_accept"].as_u64());
    assert_eq!(Some(counts["invalid_reject"]), expected["invalid_reject"].as_u64());
    assert_eq!(Some(counts["flipped_reject"]), expected["flipped_reject"].as_u64());
    assert_eq!(Some(counts["excluded"]), expected["excluded"].as_u64());
}

#[test]
fn wycheproof_keys_for_other_purposes_are_refused_at_import() {
    let file = read("wycheproof/json_web_signature_test.json");
    let purposes: Vec<&Value> = read_groups(&file).filter(|group| (353..=356).contains(&first_id(group))).collect();
    assert_eq!(purposes.len(), 4);
    for group in purposes {
        assert_eq!(VerificationKey::from_jwk(&keys_of(group)[0]).unwrap_err(), authn::InvalidKey::JwkPurpose);
    }
}

fn read_groups(file: &Value) -> impl Iterator<Item = &Value> {
    file["testGroups"].as_array().unwrap().iter()
}

fn first_id(group: &Value) -> u64 {
    group["tests"][0]["tcId"].as_u64().unwrap()
}

#[test]
fn wycheproof_crypto() {
    let (mut accepted, mut refused) = (0, 0);
    let mut wrong = Vec::new();
    for case in cases("wycheproof/json_web_crypto_test.json", "jws") {
        if accepts(&case.keys, &case.token) != case.valid {
            wrong.push(case.id);
        }
        if case.valid { accepted += 1 } else { refused += 1 }
    }
    assert_eq!(wrong, Vec::<u64>::new());
    println!("accepted {accepted}, refused {refused}");
    assert_eq!(accepted + refused, 49);
}

#[test]
fn wycheproof_refuses_the_key_of_cve_2017_15361_at_import() {
    let file = read("wycheproof/json_web_crypto_test.json");
    let group = read_groups(&file).find(|group| group["comment"] == "jws_rsa_roca_key").unwrap();
    assert_eq!(VerificationKey::from_jwk(&keys_of(group)[0]).unwrap_err(), authn::InvalidKey::ModulusWeak);
}

#[test]
fn wycheproof_encrypted_tokens_are_refused() {
    let mut count = 0;
    for file in ["wycheproof/json_web_encryption_test.json", "wycheproof/json_web_crypto_test.json"] {
        for case in cases(file, "jwe") {
            assert!(parse_jws(&case.token).is_err(), "{file} {}", case.id);
            count += 1;
        }
    }
    assert_eq!(count, 139 + 34);
}

fn cookbook(path: &str) -> (Vec<Value>, String) {
    let example = read(Path::new("jose-cookbook").join(path));
    (vec![public(&example["input"]["key"])], text(&example["output"]["compact"]).into())
}

#[test]
fn cookbook_signatures_of_our_algorithms_verify() {
    for path in [
        "jws/4_1.rsa_v15_signature.json",
        "jws/4_2.rsa-pss_signature.json",
        "jws/4_4.hmac-sha2_integrity_protection.json",
        "curve25519/jws.json",
    ] {
        let (keys, token) = cookbook(path);
        let keys: Vec<Value> = keys.into_iter().map(|jwk| for_algorithm_of(jwk, &token)).collect();
        assert!(accepts(&keys, &token), "{path}");
    }
}

/// The cookbook's keys name no algorithm: they are imported for the one that the example is about.
fn for_algorithm_of(mut jwk: Value, token: &str) -> Value {
    jwk["alg"] = parse_jws(token).unwrap().header.algorithm.name().into();
    jwk
}

#[test]
fn cookbook_signatures_of_other_algorithms_are_refused() {
    let (keys, token) = cookbook("jws/4_3.ecdsa_signature.json");
    assert!(!accepts(&keys, &token));
    assert_eq!(parse_jws(&token).unwrap_err(), CredentialFault::AlgorithmRefused);
}

#[test]
fn cookbook_unencoded_payloads_are_refused() {
    let (keys, token) = cookbook("rfc7797/hmac-sha2_b64_false.json");
    assert!(!accepts(&keys, &token));
    assert!(parse_jws(&token.replace("This is the payload string!", "AAAA")).is_err());
}

#[test]
fn cookbook_encrypted_and_nested_tokens_are_refused() {
    let example = read("jose-cookbook/curve25519/ecdh-es.json");
    assert!(parse_jws(text(&example["output"]["compact"])).is_err());
    let nested = read("jose-cookbook/6.nesting_signatures_and_encryption.json");
    assert!(parse_jws(text(&nested["encrypt"]["output"]["compact"])).is_err());
}

#[test]
fn cookbook_private_keys_are_refused_and_public_ones_of_our_kinds_import() {
    let jwk = |name: &str| VerificationKey::from_jwk(&read(Path::new("jose-cookbook/jwk").join(name)));
    assert!(jwk("3_3.rsa_public_key.json").is_ok());
    assert_eq!(jwk("3_4.rsa_private_key.json").unwrap_err(), authn::InvalidKey::JwkPrivate("d"));
    assert!(jwk("3_5.symmetric_key_mac_computation.json").is_ok());
    // P-521, and a key for encryption.
    assert_eq!(jwk("3_1.ec_public_key.json").unwrap_err(), authn::InvalidKey::JwkUnsupported);
    assert!(jwk("3_2.ec_private_key.json").is_err());
    assert_eq!(jwk("3_6.symmetric_key_encryption.json").unwrap_err(), authn::InvalidKey::JwkPurpose);
}
