//! Writes the first inputs of the fuzz targets, made from the public vectors: `make fuzz` calls it with `fuzz/corpus`.
#![expect(clippy::expect_used, reason = "a tool that cannot go on says why and stops")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

const SIGNATURES: &str = include_str!("../tests/vectors/wycheproof/json_web_signature_test.json");
const CRYPTO: &str = include_str!("../tests/vectors/wycheproof/json_web_crypto_test.json");
/// All algorithms, as the target `jwks` reads them.
const ALL_ALGORITHMS: [u8; 2] = [0xff, 0x0f];

struct Corpus {
    folder: PathBuf,
    count: usize,
}

impl Corpus {
    fn new(root: &Path, target: &str) -> Self {
        let folder = root.join(target);
        std::fs::create_dir_all(&folder).expect("the corpus can be written");
        Self { folder, count: 0 }
    }

    fn add(&mut self, input: &[u8]) {
        std::fs::write(self.folder.join(format!("seed-{:04}", self.count)), input).expect("the corpus can be written");
        self.count += 1;
    }
}

fn main() {
    let root = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("fuzz/corpus"), PathBuf::from);
    let (mut jws, mut jwk, mut jwks) = (Corpus::new(&root, "jws"), Corpus::new(&root, "jwk"), Corpus::new(&root, "jwks"));
    let (mut tokens, mut keys) = (BTreeSet::new(), BTreeSet::new());
    for text in [SIGNATURES, CRYPTO] {
        let vectors: Value = serde_json::from_str(text).expect("the vectors are JSON");
        for group in vectors.get("testGroups").and_then(Value::as_array).into_iter().flatten() {
            let tests = group.get("tests").and_then(Value::as_array).into_iter().flatten();
            tokens.extend(tests.filter_map(|test| test.get("jws")?.as_str()).map(str::to_owned));
            keys.extend(["public", "private"].into_iter().filter_map(|half| group.get(half)).map(|key| public(key).to_string()));
        }
    }
    for token in &tokens {
        jws.add(token.as_bytes());
    }
    for key in &keys {
        let is_set = key.contains("\"keys\"");
        let set = if is_set { key.clone() } else { format!("{{\"keys\":[{key}]}}") };
        jwks.add(&[&ALL_ALGORITHMS, set.as_bytes()].concat());
        if !is_set {
            jwk.add(key.as_bytes());
        }
    }
    let all: Vec<&str> = keys.iter().filter(|key| !key.contains("oct") && !key.contains("\"keys\"")).map(String::as_str).collect();
    for pair in all.windows(3) {
        jwks.add(&[&ALL_ALGORITHMS, format!("{{\"keys\":[{}]}}", pair.join(",")).as_bytes()].concat());
    }
    let claims = claims(&root);
    println!("{} jws, {} jwk, {} jwks, {claims} claims", jws.count, jwk.count, jwks.count);
}

fn public(key: &Value) -> Value {
    let mut key = key.clone();
    if let Some(members) = key.as_object_mut().filter(|members| members.get("kty") != Some(&json!("oct"))) {
        members.retain(|name, _| !["d", "p", "q", "dp", "dq", "qi", "oth"].contains(&name.as_str()));
    }
    key
}

/// A token of each kind, under several rules.
fn claims(root: &Path) -> usize {
    const NOW: i64 = 1_800_000_000;
    let mut corpus = Corpus::new(root, "claims");
    let changes = [
        ("aud", json!("gateway")),
        ("aud", json!(["other", "x"])),
        ("scope", json!("read")),
        ("token_type", json!("access")),
        ("token_type", json!("refresh")),
        ("trial_mode", json!(true)),
        ("trial_expires_at", json!("2027-03-01T12:00:00.5+02:00")),
        ("nbf", json!(NOW - 5)),
        ("exp", json!(1_800_000_060.25)),
        ("exp", json!(NOW - 100)),
        ("token_version", json!(7)),
        ("jti", json!("t-1")),
        ("customer_id", json!("c")),
        ("tier", json!("paid")),
        ("roles", json!(["user", "admin", "ü"])),
        ("nested", json!({"a": [{"b": null}]})),
    ];
    let mut claims = json!({
        "iss": "cp.example", "sub": "u-1", "user_id": "u-1", "email": "u@example.com", "roles": ["user"],
        "iat": NOW - 600, "exp": NOW + 600, "agent_id": "a", "governor_agent_id": "g",
    });
    let good = claims.clone();
    for (name, value) in changes {
        let mut one = good.clone();
        for target in [&mut claims, &mut one] {
            if let Some(members) = target.as_object_mut() {
                members.insert(name.into(), value.clone());
            }
            for bits in [0x00, 0x01, 0x88, 0xff] {
                corpus.add(&[&[bits], target.to_string().as_bytes()].concat());
            }
        }
    }
    corpus.count
}
