//! `plant-gateway token` and `plant-gateway jws`, as their users call them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jwt_simple::algorithms::{ECDSAP256KeyPairLike, ES256KeyPair};
use serde_json::{Value, json};

/// `authn`'s vectors are also ours.
fn vectors() -> PathBuf {
    root().join("authn/tests/vectors/jose-cookbook")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

struct Outcome {
    status: i32,
    out: String,
    err: String,
}

/// Runs in a folder of its own: no policy and no state is found by accident.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_with_input(arguments, "")
    }

    fn run_with_input(&self, arguments: &[&str], input: &str) -> Outcome {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plant-gateway"));
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A program that does not read its input may be gone already.
        let _gone = child.stdin.take().unwrap().write_all(input.as_bytes());
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        Outcome { status: status.code().unwrap(), out: String::from_utf8(stdout).unwrap(), err: String::from_utf8(stderr).unwrap() }
    }
}

struct Example {
    jwk: String,
    private_jwk: String,
    token: String,
    payload: String,
}

fn cookbook(path: &str) -> Example {
    let example: Value = serde_json::from_str(&std::fs::read_to_string(vectors().join(path)).unwrap()).unwrap();
    let private = &example["input"]["key"];
    let mut public = private.clone();
    if public["kty"] != "oct" {
        public.as_object_mut().unwrap().retain(|name, _| !["d", "p", "q", "dp", "dq", "qi"].contains(&name.as_str()));
    }
    Example {
        jwk: public.to_string(),
        private_jwk: private.to_string(),
        token: example["output"]["compact"].as_str().unwrap().to_owned(),
        payload: example["input"]["payload"].as_str().unwrap().to_owned(),
    }
}

#[test]
fn jws_verify_prints_the_payload_and_nothing_else() {
    let desk = Desk::new();
    for (path, alg) in [
        ("jws/4_1.rsa_v15_signature.json", None),
        ("jws/4_2.rsa-pss_signature.json", Some("PS384")),
        ("jws/4_4.hmac-sha2_integrity_protection.json", None),
        ("curve25519/jws.json", None),
    ] {
        let example = cookbook(path);
        let jwk = desk.write("key.jwk", &example.jwk);
        let jwks = desk.write("keys.jwks", format!(r#"{{"keys":[{}]}}"#, example.jwk));
        let alg: Vec<&str> = alg.into_iter().flat_map(|alg| ["--alg", alg]).collect();
        for source in [["--jwk", &jwk], ["--jwks", &jwks]] {
            let arguments = [&["jws", "verify"], &source[..], &alg, &[&example.token]].concat();
            let outcome = desk.run(&arguments);
            assert_eq!((outcome.status, outcome.out, outcome.err.as_str()), (0, example.payload.clone(), ""), "{path}");
        }
        let piped = desk.run_with_input(&[&["jws", "verify", "--jwk", &jwk], &alg[..], &["-"]].concat(), &format!("{}\n", example.token));
        assert_eq!((piped.status, piped.out), (0, example.payload.clone()));
        let piped = desk.run_with_input(&[&["jws", "verify", "--jwk", "-"], &alg[..], &[&example.token]].concat(), &example.jwk);
        assert_eq!((piped.status, piped.out), (0, example.payload));
    }
}

#[test]
fn jws_verify_refuses_with_status_1_and_a_reason() {
    let desk = Desk::new();
    let example = cookbook("jws/4_1.rsa_v15_signature.json");
    let jwk = desk.write("key.jwk", &example.jwk);
    let refused = |arguments: &[&str], reason: &str| {
        let outcome = desk.run(&[&["jws", "verify"], arguments].concat());
        assert_eq!((outcome.status, outcome.out.as_str()), (1, ""), "{reason}");
        assert!(outcome.err.contains(reason), "{reason}: {}", outcome.err);
    };
    let (signed, signature) = example.token.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{}{}", if signature.starts_with('A') { 'B' } else { 'A' }, &signature[1..]);
    refused(&["--jwk", &jwk, &forged], "signature_invalid: the signature does not verify");
    refused(&["--jwk", &jwk, "-"], "malformed");
    refused(&["--jwk", &jwk, "a.b"], "malformed");
    refused(&["--jwk", &jwk, "--alg", "PS256", &example.token], "algorithm_refused");
    refused(&["--jwk", &jwk, &cookbook("jws/4_3.ecdsa_signature.json").token], "algorithm_refused");
    refused(&["--jwk", &jwk, &cookbook("rfc7797/hmac-sha2_b64_false.json").token], "header_refused");
    let private = desk.write("private.jwk", &example.private_jwk);
    refused(&["--jwk", &private, &example.token], "JWK member `d` is private: give the public half of the key");
    let set = desk.write("private.jwks", format!(r#"{{"keys":[{}]}}"#, example.private_jwk));
    refused(&["--jwks", &set, &example.token], "JWK member `d` is private");
    let doubled = desk.write("doubled.jwk", example.jwk.replacen('{', r#"{"kty":"RSA","#, 1));
    refused(&["--jwk", &doubled, &example.token], "without duplicate member names");
    refused(&["--jwk", "nowhere.jwk", &example.token], "cannot read `nowhere.jwk`");
}

#[test]
fn jws_verify_chooses_by_kid_and_else_the_only_key_of_the_algorithm() {
    let desk = Desk::new();
    let (one, other, pair) = (es256("one"), es256("two"), ES256KeyPair::generate());
    let jwks = desk.write("keys.jwks", json!({"keys": [one.jwk, other.jwk]}).to_string());
    let alone = desk.write("alone.jwks", json!({"keys": [one.jwk]}).to_string());
    let status = |set: &str, token: &str| desk.run(&["jws", "verify", "--jwks", set, token]).status;
    assert_eq!(status(&jwks, &signed(&one.pair, Some("one"))), 0);
    assert_eq!(status(&jwks, &signed(&other.pair, Some("two"))), 0);
    assert_eq!(status(&jwks, &signed(&one.pair, Some("two"))), 1);
    assert_eq!(status(&jwks, &signed(&one.pair, Some("three"))), 1);
    assert_eq!(status(&jwks, &signed(&one.pair, None)), 1);
    assert_eq!(status(&alone, &signed(&one.pair, None)), 0);
    assert_eq!(status(&alone, &signed(&pair, None)), 1);
}

#[test]
fn usage_errors_end_with_status_2() {
    let desk = Desk::new();
    let jwk = desk.write("key.jwk", "{}");
    for arguments in [
        &["jws"][..],
        &["jws", "verify", "a.b.c"],
        &["jws", "verify", "--jwk", &jwk],
        &["jws", "verify", "--jwk", &jwk, "--jwks", &jwk, "a.b.c"],
        &["jws", "verify", "--jwk", &jwk, "--alg", "none", "a.b.c"],
        &["jws", "verify", "--jwk", &jwk, "--alg", "ES512", "a.b.c"],
        &["jws", "verify", "--jwk", "-", "-"],
        &["token"],
        &["token", "verify", "--jwk", "-", "-"],
        &["token", "mint", "--issuer", "cp"],
    ] {
        let outcome = desk.run(arguments);
        assert_eq!((outcome.status, outcome.out.as_str()), (2, ""), "{arguments:?} {}", outcome.err);
    }
}

struct Signer {
    pair: ES256KeyPair,
    jwk: Value,
}

fn es256(kid: &str) -> Signer {
    let pair = ES256KeyPair::generate();
    let der = pair.key_pair().public_key().to_der().unwrap();
    let (x, y) = der[27..].split_at(32);
    let jwk =
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": kid, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)});
    Signer { pair, jwk }
}

fn signed(pair: &ES256KeyPair, kid: Option<&str>) -> String {
    let claims = jwt_simple::claims::Claims::create(jwt_simple::prelude::Duration::from_mins(5));
    match kid {
        Some(kid) => ES256KeyPair::from_bytes(&pair.to_bytes()).unwrap().with_key_id(kid).sign(claims).unwrap(),
        None => pair.sign(claims).unwrap(),
    }
}

/// A state file and the secrets of a stack, as `plant-gateway run` writes them.
struct Stack {
    desk: Desk,
    state: Value,
}

impl Stack {
    fn new() -> Self {
        let desk = Desk::new();
        let state = cli::stack::State::without_servers(desk.0.path()).unwrap();
        let stack = Self { desk, state: serde_json::to_value(state).unwrap() };
        stack.save();
        stack
    }

    fn save(&self) {
        self.desk.write("state.json", self.state.to_string());
    }

    fn issuer(&mut self, name: &str) -> &mut Value {
        &mut self.state["issuers"][name]
    }

    fn mint(&self, arguments: &[&str]) -> Outcome {
        self.desk.run(&[&["token", "mint", "--state", "state.json"], arguments].concat())
    }

    fn token(&self, arguments: &[&str]) -> String {
        let minted = self.mint(arguments);
        assert_eq!(minted.status, 0, "{}", minted.err);
        minted.out.trim().to_owned()
    }

    fn verify(&self, arguments: &[&str]) -> Outcome {
        let policies = root().join("policies").display().to_string();
        self.desk.run(&[&["token", "verify", "--policies", &policies], arguments].concat())
    }

    fn inspect(&self, arguments: &[&str]) -> Outcome {
        let policies = root().join("policies").display().to_string();
        self.desk.run(&[&["token", "inspect", "--policies", &policies], arguments].concat())
    }
}

#[test]
fn what_mint_makes_verify_accepts() {
    let stack = Stack::new();
    for (issuer, role) in [("cp", "customer_user"), ("pp", "viewer"), ("edge", "viewer"), ("legacy", "user"), ("ops", "admin")] {
        let token = stack.token(&["--issuer", issuer, "--role", role]);
        for source in [["--state", "state.json"], ["--secrets", "secrets"]] {
            let outcome = stack.verify(&[&source[..], &["--json", &token]].concat());
            assert_eq!(outcome.status, 0, "{issuer}: {}", outcome.err);
            let verified: Value = serde_json::from_str(&outcome.out).unwrap();
            assert_eq!((&verified["identity"]["issuer"], &verified["identity"]["roles"]), (&json!(issuer), &json!([role])));
        }
    }
}

#[test]
fn verify_refuses_with_status_1_and_the_reason() {
    let stack = Stack::new();
    let viewer = ["--issuer", "pp", "--role", "viewer"];
    for (arguments, reason) in [
        (&["--expired"][..], "expired"),
        (&["--claim", "aud=another"], "audience_mismatch"),
        (&["--claim", "iss=nobody"], "issuer_mismatch"),
        (&["--claim", "token_type=refresh"], "token_type_refused"),
        (&["--claim", "email=null"], "claim_missing"),
        (&["--ttl", "90000"], "lifetime_too_long"),
    ] {
        let token = stack.token(&[&viewer, arguments].concat());
        let outcome = stack.verify(&["--state", "state.json", "--json", &token]);
        assert_eq!(outcome.status, 1, "{reason}");
        assert!(outcome.err.starts_with(&format!("error: {reason}: ")), "{}", outcome.err);
        assert_eq!(serde_json::from_str::<Value>(&outcome.out).unwrap()["reason"], json!(reason));
    }
    let token = stack.token(&viewer);
    let (signed, _) = token.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{}", URL_SAFE_NO_PAD.encode([1; 64]));
    assert!(stack.verify(&["--state", "state.json", &forged]).err.contains("signature_invalid"));
}

#[test]
fn verify_takes_the_keys_that_it_is_given_and_the_policys_rules() {
    let stack = Stack::new();
    let signer = es256("pp-1");
    let set = stack.desk.write("keys.jwks", json!({"keys": [signer.jwk]}).to_string());
    let jwk = stack.desk.write("key.jwk", signer.jwk.to_string());
    let now = cli::token::now();
    let claims = |aud: &str| {
        json!({"iss": "pp.waooaw.com", "aud": aud, "sub": "u", "user_id": "u", "email": "u@example.com", "roles": ["viewer"],
               "iat": now, "exp": now + 60})
    };
    let sign = |claims: &Value| {
        let input = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","typ":"JWT","kid":"pp-1"}"#),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature(&signer.pair, &input)))
    };
    let good = sign(&claims("plant-gateway-pp"));
    for source in [["--jwk", &jwk], ["--jwks", &set]] {
        let outcome = stack.verify(&[&source[..], &[&good]].concat());
        assert_eq!(outcome.status, 0, "{}", outcome.err);
    }
    let other = sign(&claims("elsewhere"));
    assert!(stack.verify(&["--jwk", &jwk, &other]).err.contains("audience_mismatch"));
    let by_argument = stack.desk.run(&["token", "verify", "--jwk", &jwk, "--audience", "elsewhere", &other]);
    assert_eq!(by_argument.status, 0, "{}", by_argument.err);
    let nothing = stack.desk.run(&["token", "verify", &good]);
    assert!(nothing.status == 1 && nothing.err.contains("nothing to verify with"), "{}", nothing.err);
}

/// `r ‖ s` by the pair: its own signing wants claims of its own kind.
fn signature(pair: &ES256KeyPair, input: &str) -> Vec<u8> {
    use p256::ecdsa::signature::Signer as _;
    let secret = p256::ecdsa::SigningKey::from_slice(&pair.to_bytes()).unwrap();
    let signature: p256::ecdsa::Signature = secret.sign(input.as_bytes());
    signature.to_bytes().to_vec()
}

#[test]
fn mint_refuses_a_key_without_the_mark() {
    let mut stack = Stack::new();
    stack.issuer("pp").as_object_mut().unwrap().remove("development");
    stack.save();
    let outcome = stack.mint(&["--issuer", "pp", "--role", "viewer"]);
    assert_eq!((outcome.status, outcome.out.as_str()), (1, ""));
    assert!(outcome.err.contains("not marked as a development key"), "{}", outcome.err);
    assert_eq!(stack.mint(&["--issuer", "cp", "--role", "user"]).status, 0);
}

#[test]
fn mint_refuses_a_key_that_was_put_in_the_place_of_the_marked_one() {
    let mut stack = Stack::new();
    stack.issuer("pp")["private_key_pem"] = json!(ES256KeyPair::generate().to_pem().unwrap());
    stack.issuer("legacy")["secret_base64url"] = json!(URL_SAFE_NO_PAD.encode([9; 32]));
    stack.save();
    for issuer in ["pp", "legacy"] {
        let outcome = stack.mint(&["--issuer", issuer, "--role", "viewer"]);
        assert_eq!((outcome.status, outcome.out.as_str()), (1, ""));
        assert!(outcome.err.contains("the development mark belongs to another key, so this may be a production key"), "{}", outcome.err);
    }
}

#[test]
fn mint_refuses_an_issuer_that_no_local_stack_has() {
    let mut stack = Stack::new();
    stack.issuer("pp")["issuer"] = json!("login.example.com");
    let cp = stack.issuer("cp").clone();
    stack.state["issuers"]["partner"] = cp;
    stack.save();
    for issuer in ["pp", "partner"] {
        let outcome = stack.mint(&["--issuer", issuer, "--role", "viewer"]);
        assert_eq!(outcome.status, 1);
        assert!(outcome.err.contains("is not one of the local stack"), "{}", outcome.err);
    }
    assert!(stack.mint(&["--issuer", "nobody", "--role", "viewer"]).err.contains("there are cp, edge, legacy, ops, partner, pp"));
}

#[test]
fn inspect_explains_every_reason_and_shows_no_signature() {
    let stack = Stack::new();
    let token = stack.token(&["--issuer", "pp", "--role", "nobody", "--expired", "--claim", "aud=another", "--claim", "email=null"]);
    let outcome = stack.inspect(&[&token]);
    assert_eq!(outcome.status, 0, "{}", outcome.err);
    for part in [
        "expired 10 minutes ago",
        "FAIL  `email` is a text",
        "FAIL  `aud` names one of `plant-gateway-pp`",
        "FAIL  it has not expired",
        "FAIL  one of the `roles` is known",
        "pass  `alg` (ES256) is one of the issuer's: ES256",
        "a gateway refuses it: claim_missing",
        "the signature: that needs the keys",
    ] {
        assert!(outcome.out.contains(part), "{part}\n{}", outcome.out);
    }
    for hidden in token.split('.') {
        assert!(!outcome.out.contains(hidden) && !outcome.err.contains(hidden), "{hidden}");
    }
    let report: Value = serde_json::from_str(&stack.inspect(&["--json", &token]).out).unwrap();
    assert_eq!((&report["refused_as"], &report["claims"]["aud"]), (&json!("claim_missing"), &json!("another")));
}

#[test]
fn inspect_prints_nothing_that_a_terminal_obeys() {
    let stack = Stack::new();
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let token =
        format!("{}.{}.AAAA", part("{\"alg\":\"ES256\",\"kid\":\"\u{202e}k\"}"), part("{\"iss\":\"pp.waooaw.com\",\"x\":\"\u{9b}31m\"}"));
    for arguments in [&[token.as_str()][..], &["--json", &token]] {
        let shown = stack.inspect(arguments).out;
        assert!(shown.contains("\\u202ek") && !shown.contains('\u{202e}') && !shown.contains('\u{9b}'), "{shown}");
    }
}

#[test]
fn inspect_finds_nothing_wrong_with_a_good_token_and_works_without_a_policy() {
    let stack = Stack::new();
    let token = stack.token(&["--issuer", "pp", "--role", "viewer"]);
    assert!(stack.inspect(&[&token]).out.contains("nothing found for which a gateway would refuse it"));
    let alone = stack.desk.run(&["token", "inspect", &token]);
    assert!(alone.status == 0 && alone.out.contains("there is no policy"), "{}", alone.out);
}

#[test]
fn inspect_says_what_is_no_token_and_never_prints_it() {
    let stack = Stack::new();
    for (text, reason) in [("hunter2", "three parts"), ("a.b.c.d.e", "JWE"), ("!!.e30.x", "base64url"), ("aGk.e30.x", "not JSON")] {
        let outcome = stack.inspect(&[text]);
        assert_eq!((outcome.status, outcome.out.as_str()), (1, ""));
        assert!(outcome.err.contains(reason) && !outcome.err.contains("hunter2"), "{}", outcome.err);
    }
}
