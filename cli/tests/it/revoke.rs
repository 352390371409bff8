//! `plant-gateway revoke`, `keys` and `bundle` against a control plane that only writes down what it is asked.

use std::process::Command;

use crate::plane::Plane;
use serde_json::{Value, json};

fn entry() -> Value {
    json!({"number": 7, "kind": "token", "issuer": "cp", "value": "j", "author": "ops", "reason": "stolen", "expires_at": "2026-01-01T00:00:00Z"})
}

#[test]
fn each_kind_is_asked_for_with_its_members() {
    let plane = Plane::new(vec![("POST /admin/v1/revocations ", 201, entry())]);
    let why = ["--reason", "stolen"];
    for (arguments, expected) in [
        (vec!["revoke", "token", "j", "--issuer", "cp"], json!({"kind": "token", "issuer": "cp", "value": "j"})),
        (
            vec!["revoke", "subject", "s", "--issuer", "cp", "--before", "2026-01-01T00:00:00Z"],
            json!({"kind": "subject", "issuer": "cp", "value": "s", "issued_before": "2026-01-01T00:00:00Z"}),
        ),
        (
            vec!["revoke", "version", "s", "--issuer", "cp", "--min", "4"],
            json!({"kind": "version", "issuer": "cp", "value": "s", "version_min": 4}),
        ),
        (vec!["revoke", "key", "cp-1", "--issuer", "cp"], json!({"kind": "key", "issuer": "cp", "value": "cp-1"})),
        (vec!["revoke", "customer", "c"], json!({"kind": "customer", "value": "c"})),
        (vec!["revoke", "agent", "a"], json!({"kind": "agent", "value": "a"})),
    ] {
        let told = plane.done(&[arguments.as_slice(), &why].concat(), "");
        assert_eq!(told, "revoked: 7 token cp j, until 2026-01-01T00:00:00Z (ops: stolen)\n");
        let seen = plane.last();
        let mut expected = expected;
        expected["reason"] = json!("stolen");
        expected["force"] = json!(false);
        assert_eq!(seen.body, expected, "{arguments:?}");
        assert!(seen.head.contains("authorization: Bearer the-operator"), "{}", seen.head);
    }
    assert!(!plane.run(&["revoke", "agent", "a"], "").status.success(), "without a reason");
}

#[test]
fn a_whole_token_on_standard_input_names_itself() {
    // {"iss":"https://cp","jti":"j","exp":1790000000}
    let token = "e30.eyJpc3MiOiJodHRwczovL2NwIiwianRpIjoiaiIsImV4cCI6MTc5MDAwMDAwMH0.c2ln\n";
    let keys = json!({"issuers": [{"issuer": "pp", "iss": "https://pp"}, {"issuer": "cp", "iss": "https://cp"}]});
    let plane = Plane::new(vec![("GET /admin/v1/keys ", 200, keys), ("POST /admin/v1/revocations ", 201, entry())]);
    let told = plane.done(&["revoke", "token", "--token", "-", "--reason", "stolen", "--format", "json"], token);
    assert_eq!(serde_json::from_str::<Value>(&told).unwrap(), entry());
    let body = plane.last().body;
    let expected = json!({"kind": "token", "issuer": "cp", "value": "j", "reason": "stolen", "force": false});
    assert_eq!(body, expected, "nothing that a forged copy could choose");
    assert!(!plane.last().head.contains("c2ln"), "the token itself stays here");
}

#[test]
fn lifting_looks_the_number_up() {
    let list = json!({"revocations": [entry()], "next_cursor": null});
    let plane = Plane::new(vec![("GET /admin/v1/revocations?", 200, list), ("DELETE /admin/v1/revocations/7?", 200, entry())]);
    plane.done(&["revoke", "lift", "token", "a/b c", "--issuer", "cp", "--reason", "found again"], "");
    let seen = plane.seen.lock().unwrap().clone();
    assert_eq!(seen[0].line, "GET /admin/v1/revocations?kind=token&issuer=cp&value=a%2Fb%20c HTTP/1.1");
    assert_eq!(seen[1].line, "DELETE /admin/v1/revocations/7?reason=found%20again HTTP/1.1");
    let nothing = Plane::new(vec![("GET ", 200, json!({"revocations": []}))]);
    let output = nothing.run(&["revoke", "lift", "customer", "c", "--reason", "x"], "");
    assert!(String::from_utf8_lossy(&output.stderr).contains("`customer c` is not revoked"));
}

#[test]
fn lists_states_imports_keys_and_bundles_are_printed() {
    let plane = Plane::new(vec![
        ("GET /admin/v1/revocations?", 200, json!({"revocations": [entry()], "next_cursor": 7})),
        ("GET /admin/v1/revocations/enforcement ", 200, json!({"number": 9, "workers": 4, "enforcing": 3})),
        ("POST /admin/v1/revocations/import?", 200, json!({"lines": 1, "changed": 1, "number": 9})),
        ("POST /admin/v1/keys/idp/refresh ", 202, json!({"issuer": "idp", "iss": "i", "known": "not_yet", "keys": []})),
        ("GET /admin/v1/policies/active/bundle ", 200, json!({"bundle": "QUJD", "issuers_without_keys": ["legacy"]})),
    ]);
    let listed = plane.done(&["revoke", "list", "--kind", "token", "--limit", "1"], "");
    assert_eq!(listed, "7 token cp j, until 2026-01-01T00:00:00Z (ops: stolen)\nmore: --cursor 7\n");
    assert_eq!(plane.done(&["revoke", "status"], ""), "3 of 4 workers enforce number 9\n");
    let line = "{\"kind\": \"agent\", \"value\": \"a\"}";
    assert_eq!(plane.done(&["revoke", "import", "-", "--reason", "many"], line), "1 lines, 1 of them news; number 9\n");
    assert_eq!(plane.last().line, "POST /admin/v1/revocations/import?reason=many&force=false HTTP/1.1");
    assert_eq!(plane.done(&["keys", "refresh", "idp"], ""), "idp (i): keys not fetched yet\n");
    let output = plane.run(&["bundle"], "");
    assert_eq!((output.stdout.as_slice(), output.stderr.is_empty()), (b"QUJD\n".as_slice(), false));
}

#[test]
fn a_refusal_is_told_and_no_token_leaves_the_machine_by_mistake() {
    let plane = Plane::new(vec![("POST ", 409, json!({"detail": "say `force`"}))]);
    let output = plane.run(&["revoke", "agent", "a", "--reason", "x"], "");
    assert!(!output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "error: the control plane refuses with 409: say `force`\n");
    let secure = plane.run(&["keys", "list", "--control-plane", "https://gateway.example"], "");
    assert!(String::from_utf8_lossy(&secure.stderr).contains("not an http:// URL"));
    let anonymous = Command::new(env!("CARGO_BIN_EXE_plant-gateway"))
        .args(["keys", "list", "--control-plane", &plane.url, "--state", "/nonexistent"])
        .env_remove("PLANT_ADMIN_TOKEN")
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&anonymous.stderr).contains("no operator's token"));
}
