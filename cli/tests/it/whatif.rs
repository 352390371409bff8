//! `plant-gateway replay` and `explain --record`: what they ask, what they print, and what they end with.

use crate::plane::Plane;
use serde_json::{Value, json};

fn summary(different: u64, undecidable: u64) -> Value {
    json!({"summary": {
        "revision": "18", "records": 10, "same": 8, "different": different, "undecidable": undecidable, "undecidable_because": [],
        "groups": [], "spend": {"daily": {"recorded": 5, "replayed": 7, "change": 2, "unpriced": 0}},
    }})
}

fn replay(line: Value, more: &[&str]) -> (Option<i32>, String, String) {
    let plane = Plane::new(vec![("POST /admin/v1/audit/replays ", 200, line)]);
    let output = plane.run(&[&["replay", "--revision", "18", "--since", "7d"][..], more].concat(), "");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_replay_ends_as_a_script_wants_it() {
    let (code, out, err) = replay(summary(0, 2), &[]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("spend daily: 5 -> 7 (+2)"), "{out}");
    assert_eq!(replay(summary(1, 0), &[]).0, Some(1));
    assert_eq!(replay(summary(1, 0), &["--fail-on", "never"]).0, Some(0));
    assert_eq!(replay(summary(0, 1), &["--fail-on", "undecidable"]).0, Some(1));
    assert_eq!(replay(summary(0, 0), &["--fail-on", "undecidable"]).0, Some(0));
    let (code, _, err) = replay(json!({"error": {"detail": "the audit log cannot be read"}}), &[]);
    assert!(code == Some(3) && err.contains("the audit log cannot be read"), "{err}");
    assert_eq!(replay(json!({"progress": {"records": 1, "estimate": 2, "different": 0}}), &[]).0, Some(3), "cut off before the end");
    assert_eq!(replay(summary(0, 0), &["--until", "soon"]).0, Some(2));
    let (code, out, _) = replay(summary(1, 0), &["--format", "json"]);
    assert_eq!((code, serde_json::from_str::<Value>(&out).unwrap()), (Some(1), summary(1, 0)["summary"].clone()));
}

#[test]
fn a_replay_says_what_is_asked() {
    let plane = Plane::new(vec![("POST /admin/v1/audit/replays ", 200, summary(0, 0))]);
    let since = ["--since", "2026-01-15T00:00:00Z", "--until", "2026-01-16T00:00:00Z", "--gateway", "PP"];
    plane.done(&[&["policy", "replay", "--revision", "draft:3"][..], &since].concat(), "");
    let body = json!({"revision": "draft:3", "since": "2026-01-15T00:00:00Z", "until": "2026-01-16T00:00:00Z", "gateway": "PP"});
    let seen = plane.last();
    assert_eq!(seen.body, body);
    assert!(seen.line.starts_with("POST /admin/v1/audit/replays ") && seen.head.contains("Bearer the-operator"), "{seen:?}");
}

#[test]
fn a_record_is_explained_by_its_id_alone() {
    let answer = json!({
        "record": {"id": "h-1", "request_id": "r", "correlation_id": "c", "at": "t", "decision": "deny", "reason": "budget_spent"},
        "agreement": "same", "caller_can_help": false,
        "answer": {"decision": "permit", "rule": "a", "checks": [{"check": "route", "outcome": "ok", "read": [{"name": "method", "value": "GET"}]}], "changes": []},
        "changes": [{"change": "next_window", "by": "time", "text": "the next window", "values": {}}],
    });
    let plane = Plane::new(vec![("GET /admin/v1/audit/h%2F1/explanation ", 200, answer)]);
    let told = plane.done(&["explain", "--record", "h/1"], "");
    for part in [
        "record h-1 of t: deny budget_spent\n",
        "decides it so again",
        "method = GET",
        "unless    the next window (time)",
        "nothing that the caller",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    for wrong in [&["explain"][..], &["explain", "--record", "1", "--method", "GET"], &["explain", "--record", "1", "--anonymous"]] {
        assert_eq!(plane.run(wrong, "").status.code(), Some(2), "{wrong:?}");
    }
    let nobody = ["explain", "--gateway", "PP", "--method", "GET", "--path", "/"];
    assert_eq!(plane.run(&nobody, "").status.code(), Some(2), "nobody asks");
}
