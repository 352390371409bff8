//! Bundles: which keys go with which issuer, and what is refused by name.
#![cfg(feature = "sources")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "clippy's exception for tests does not cover the functions around them")]

use jwt_simple::algorithms::{ECDSAP256KeyPairLike, ES256KeyPair};
use wire::bundle::{Bundle, BundleVersion, IssuerKeys, KeyMaterial, KeysKnown};
use wire::frame;
use wire::policy::{Gateway, Issuer, IssuerKey, JwksSource, PolicyDocument, SoftwareVerification};
use wire::revocation::{PAGE_CHANGES_MAX, RevocationChange, RevocationPage};

fn es256(kid: Option<&str>) -> KeyMaterial {
    let material = ES256KeyPair::generate().key_pair().public_key().to_der().unwrap();
    KeyMaterial { kid: kid.map(Into::into), algorithm: "ES256".into(), material }
}

/// One issuer with one key.
fn bundle(change: impl FnOnce(&mut Issuer, &mut IssuerKeys)) -> Bundle {
    let yaml = "issuers: [{ name: pp, issuer: pp.example, gateways: [PP], keys: [{ kid: k, algorithm: ES256, secret: k.pem }] }]";
    let files = [("a.yaml".to_string(), yaml.to_string())].into();
    let mut policy: PolicyDocument = wire::sources::read(&files).unwrap();
    let mut keys = IssuerKeys { issuer: "pp".into(), keys: vec![es256(Some("k"))], known: KeysKnown::Always };
    change(&mut policy.issuers[0], &mut keys);
    assert_eq!(policy.issuers[0].gateways, [Gateway::Pp]);
    let keys = vec![keys];
    Bundle {
        version: BundleVersion::default(),
        policy,
        keys,
        registration_key_hashes: vec![],
        pseudonym_key: None,
        rules: None,
        shadow: None,
    }
}

fn error(change: impl FnOnce(&mut Issuer, &mut IssuerKeys)) -> String {
    bundle(change).load().unwrap_err().to_string()
}

fn publish(issuer: &mut Issuer) {
    issuer.jwks = Some(JwksSource { url: "https://pp.example/jwks".into(), refresh_s: 300, stale_after_s: 86_400 });
}

#[test]
fn an_issuer_has_the_keys_that_it_names_and_those_that_it_publishes() {
    assert!(bundle(|_, _| {}).load().is_ok());
    let published = bundle(|issuer, keys| {
        publish(issuer);
        issuer.algorithms = vec!["ES256".into()];
        keys.keys.extend([es256(None), es256(Some("other"))]);
        keys.known = KeysKnown::Until(1_768_478_430);
    });
    let loaded = Bundle::decode(&published.encode().unwrap()).unwrap().load().unwrap();
    let kids: Vec<_> = loaded.issuers.iter().flat_map(|issuer| &issuer.keys).map(|key| key.kid.as_deref()).collect();
    assert_eq!(kids, [Some("k"), None, Some("other")]);
    let unknown = bundle(|issuer, keys| {
        publish(issuer);
        issuer.algorithms = vec!["ES256".into()];
        (keys.keys, keys.known) = (vec![], KeysKnown::NotYet);
    });
    assert!(unknown.load().is_ok());
}

#[test]
fn keys_that_do_not_go_with_the_policy_are_refused() {
    let expected = "issuers[pp]: the keys do not match the policy";
    assert_eq!(error(|_, keys| keys.keys.clear()), expected);
    assert_eq!(error(|_, keys| keys.keys[0].kid = None), expected);
    assert_eq!(error(|_, keys| keys.keys.push(es256(Some("more")))), expected, "it publishes none");
    assert_eq!(error(|_, keys| keys.known = KeysKnown::NotYet), expected, "unknown, and there");
    assert_eq!(error(|_, keys| keys.issuer = "cp".into()), expected);
    let algorithm = error(|issuer, keys| {
        publish(issuer);
        issuer.algorithms = vec!["ES256".into()];
        keys.keys.push(KeyMaterial { algorithm: "RS256".into(), ..es256(Some("more")) });
    });
    assert!(algorithm.starts_with("issuers[pp].keys[more]: the algorithm `RS256` is not supported, or not among"), "{algorithm}");
}

#[test]
fn slow_algorithms_need_a_word_and_published_keys_a_list() {
    let eddsa = |issuer: &mut Issuer| issuer.keys = vec![IssuerKey { kid: "k".into(), algorithm: "EdDSA".into(), secret: "k".into() }];
    let text = error(|issuer, keys| {
        eddsa(issuer);
        keys.keys[0].algorithm = "EdDSA".into();
    });
    assert!(text.contains("say `software_verification: allow`"), "{text}");
    let allowed = error(|issuer, keys| {
        eddsa(issuer);
        keys.keys[0].algorithm = "EdDSA".into();
        issuer.software_verification = SoftwareVerification::Allow;
    });
    assert_eq!(allowed, "issuers[pp].keys[k]: the key is not usable", "it is a key of P-256");
    let listed = error(|issuer, keys| {
        publish(issuer);
        issuer.keys.clear();
        keys.keys.clear();
    });
    assert!(listed.starts_with("issuers[pp].algorithms: an issuer with `jwks` names the algorithms"), "{listed}");
}

#[test]
fn only_a_later_activation_or_key_set_supersedes_within_one_database() {
    let version = |activation, key_set| BundleVersion { database_id: [1; 16], activation, revision: 0, key_set, shadow: 0 };
    assert!(version(2, 0).supersedes(&version(1, 9)) && version(1, 2).supersedes(&version(1, 1)));
    for older in [version(1, 1), version(1, 0), version(0, 9)] {
        assert!(!older.supersedes(&version(1, 1)));
    }
    assert!(BundleVersion { database_id: [2; 16], ..version(0, 0) }.supersedes(&version(1, 1)));
}

#[test]
fn a_full_page_of_revocations_travels_whole_and_no_part_of_it_is_one() {
    let changes: Vec<_> = (1..=u64::try_from(PAGE_CHANGES_MAX).unwrap())
        .map(|number| RevocationChange { number, mark: [number.to_le_bytes()[0]; 16], bound: i64::MIN, lifted: number % 2 == 0 })
        .collect();
    let page = RevocationPage { database_id: [3; 16], reset: true, through: u64::MAX, more: true, total: u32::MAX, changes, caps: 1 };
    let bytes = frame::encode(&page).unwrap();
    assert_eq!(frame::decode::<RevocationPage>(&bytes).unwrap(), page);
    assert!(bytes.len() < 160 * 1_024, "{} bytes", bytes.len());
    for length in (0..bytes.len()).step_by(997) {
        assert!(frame::decode::<RevocationPage>(&bytes[..length]).is_err());
    }
}
