//! `plant-gateway policy`: what it prints, and what it ends with. The examples of `docs/policy-cli.md` are run here too.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod plane;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use plane::Plane;
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_plant-gateway"))
        .args(arguments)
        .current_dir(root())
        .env_remove("PLANT_ADMIN_TOKEN")
        .env_remove("PLANT_CONTROL_PLANE")
        .output()
        .unwrap()
}

/// What it ends with, and what it prints.
fn told(arguments: &[&str]) -> (i32, String, String) {
    let output = run(arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn copied(change: impl Fn(&Path)) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.path().is_dir() { copy(&entry.path(), &target) } else { std::fs::copy(entry.path(), target).map(drop).unwrap() }
        }
    }
    let home = tempfile::tempdir().unwrap();
    copy(&root().join("policies"), home.path());
    change(home.path());
    home
}

fn edit(file: PathBuf, from: &str, to: &str) {
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(file, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn a_good_policy_is_valid_and_a_bad_one_names_its_place() {
    let (code, out, err) = told(&["policy", "validate"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("valid: ") && out.ends_with("secrets not checked\n"), "{out}");

    let bad = copied(|home| edit(home.join("roles.yaml"), "permissions:", "permisions:"));
    let folder = bad.path().to_str().unwrap();
    let (code, _, err) = told(&["policy", "validate", folder]);
    assert_eq!(code, 1);
    assert!(err.starts_with("error: roles.yaml:") && err.ends_with("; the nearest name is `permissions`\n"), "{err}");
    let (code, out, _) = told(&["policy", "validate", folder, "--format", "json"]);
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &answer["valid"], &answer["fault"]["file"]), (1, &json!(false), &json!("roles.yaml")));
    assert!(answer["fault"]["line"].is_u64());

    assert_eq!(told(&["policy", "validate", "/nonexistent"]).0, 2);
    assert_eq!(told(&["policy", "validate", "--unknown"]).0, 2);
}

#[test]
fn secrets_are_checked_where_they_are_given() {
    let empty = tempfile::tempdir().unwrap();
    let (code, _, err) = told(&["policy", "validate", "--secrets", empty.path().to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(err.contains("issuers.yaml:") && err.contains(".secret: cannot read"), "{err}");
}

#[test]
fn cases_are_run_and_what_they_do_not_cover_is_said() {
    let (code, out, err) = told(&["policy", "test", "--min-coverage", "100"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains(" passed, 0 failed\ncovered: 100 %"), "{out}");

    let fewer = copied(|home| std::fs::remove_file(home.join("cases/trials.yaml")).unwrap());
    let folder = fewer.path().to_str().unwrap();
    assert_eq!(told(&["policy", "test", folder]).0, 0);
    let (code, out, err) = told(&["policy", "test", folder, "--min-coverage", "100"]);
    assert_eq!(code, 1);
    assert!(out.contains("without a case: route `payments.subscriptions.read`"), "{out}");
    assert!(err.contains("% of the policy, not 100 %"), "{err}");

    let wrong = copied(|home| edit(home.join("cases/trials.yaml"), "status: 403", "status: 402"));
    let folder = wrong.path().to_str().unwrap();
    let (code, out, _) = told(&["policy", "test", folder, "--format", "json"]);
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &answer["failed"]), (1, &json!(1)));
    assert_eq!(answer["failures"][0]["difference"], "status: want 402, got 403");
    assert_eq!(told(&["policy", "test", "--filter", "there is no such case"]).0, 2);
}

#[test]
fn differences_are_shown_as_text_and_as_decisions() {
    let (code, out, _) = told(&["policy", "diff", "policies", "policies"]);
    assert_eq!((code, out.as_str()), (0, "no decision changes\n"));
    let other = copied(|home| edit(home.join("routes/agents.yaml"), "approval: governor", "approval: none"));
    let folder = other.path().to_str().unwrap();
    let (code, out, err) = told(&["policy", "diff", "policies", folder]);
    assert_eq!((code, err.as_str()), (1, ""));
    assert!(out.contains("--- a/routes/agents.yaml\n+++ b/routes/agents.yaml\n"), "{out}");
    assert!(out.contains("-    approval: governor\n+    approval: none\n") && out.contains(": with an approval -> yes: "), "{out}");
    let (_, out, _) = told(&["policy", "diff", "policies", folder, "--format", "json"]);
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert!(answer["changed"].as_u64().unwrap() > 0 && answer["decisions"][0]["before"] == "A", "{answer}");
}

#[test]
fn a_request_is_decided_here_as_the_gateways_would() {
    let eval = ["policy", "eval", "--gateway", "PP", "--method", "POST", "--path", "/api/v1/agents", "--format", "json"];
    let claims = json!({
        "iss": "pp.waooaw.com", "aud": "plant-gateway-pp", "sub": "ann", "user_id": "ann", "email": "ann@example.com",
        "roles": ["viewer"], "iat": 1_768_478_400, "exp": 1_768_479_000, "jti": "1", "trial_mode": false,
    });
    let of = |more: &[&str]| {
        let (code, out, err) = told(&[&eval, more].concat());
        assert_eq!(code, 0, "{err}");
        serde_json::from_str::<Value>(&out).unwrap()
    };
    let at = ["--at", "2026-01-15T12:00:01Z"];
    let text = claims.to_string();
    assert_eq!(of(&[&["--claims", &text][..], &at].concat())["reason"], "permission_missing");
    assert_eq!(of(&["--claims", &text])["reason"], "expired");
    assert_eq!(of(&["--anonymous"])["reason"], "credential_missing");
    assert_eq!(of(&["--registered"])["refused_by"], "authentication");
    assert_eq!(of(&["--anonymous", "--upgrade", "websocket"])["reason"], "upgrade_refused");
    let governor = text.replace("[\"viewer\"]", "[\"agent_orchestrator\"]");
    let permitted = of(&[&["--claims", &governor][..], &at].concat());
    assert_eq!((&permitted["decision"], &permitted["approval"]), (&json!("permit"), &json!("governor")));
    for (wrong, code) in
        [(vec!["--claims", "[]"], 2), (vec!["--claims", "@/nonexistent"], 2), (vec!["--token", "no-token"], 2), (vec![], 2)]
    {
        assert_eq!(told(&[&eval[..], &wrong].concat()).0, code, "{wrong:?}");
    }
}

#[test]
fn the_schema_is_printed_and_checked() {
    let (code, out, _) = told(&["policy", "schema"]);
    assert_eq!((code, out), (0, std::fs::read_to_string(root().join("policies/schema.json")).unwrap()));
    assert_eq!(told(&["policy", "schema", "--check"]).0, 0);
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("schema.json"), "{}").unwrap();
    assert_eq!(told(&["policy", "schema", "--check", other.path().join("schema.json").to_str().unwrap()]).0, 1);
}

#[test]
fn every_shell_gets_a_script() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = told(&["completions", shell]);
        assert!(code == 0 && out.contains("plant-gateway") && out.contains("validate"), "{shell}");
    }
}

#[test]
fn each_command_asks_what_the_control_plane_understands() {
    let answer = || json!({"revision": 7, "activation": 3, "id": 1, "version": 2, "summary": "3 of 3 workers", "unknown": "kept"});
    let plane = Plane::new(vec![("GET ", 200, answer()), ("POST ", 201, answer()), ("PUT ", 200, answer()), ("DELETE ", 200, answer())]);
    let why = ["--reason", "a test"];
    for (arguments, line, body) in [
        (
            vec!["activate", "7", "--expect", "2"],
            "POST /admin/v1/policies/7/activation",
            json!({"reason": "a test", "expected_activation": 2}),
        ),
        (vec!["rollback", "--expect", "3"], "POST /admin/v1/policies/rollback", json!({"reason": "a test", "expected_activation": 3})),
        (vec!["rollback"], "POST /admin/v1/policies/rollback", json!({"reason": "a test"})),
        (
            vec!["shadow", "start", "7", "--duration", "60"],
            "POST /admin/v1/policies/shadow",
            json!({"revision": 7, "reason": "a test", "duration_s": 60}),
        ),
        (vec!["shadow", "end"], "POST /admin/v1/policies/shadow/end", json!({"reason": "a test"})),
        (
            vec!["draft", "create", "mine", "--base", "6"],
            "POST /admin/v1/drafts",
            json!({"name": "mine", "reason": "a test", "base_revision": 6}),
        ),
        (vec!["draft", "publish", "1", "--version", "2"], "POST /admin/v1/drafts/1/publication", json!({"reason": "a test"})),
    ] {
        plane.done(&[&["policy"], arguments.as_slice(), &why].concat(), "");
        let seen = plane.last();
        assert_eq!((seen.line, seen.body), (format!("{line} HTTP/1.1"), body));
        assert!(seen.head.contains("authorization: Bearer the-operator"));
    }
    for (arguments, line) in [
        (vec!["shadow", "report"], "GET /admin/v1/policies/shadow"),
        (vec!["history", "--limit", "3"], "GET /admin/v1/policies/activations?limit=3"),
        (vec!["enforcement"], "GET /admin/v1/policies/enforcement"),
        (vec!["rules", "--unmatched-for-days", "30"], "GET /admin/v1/policies/rules?unmatched_for_days=30"),
        (vec!["draft", "list"], "GET /admin/v1/drafts"),
        (vec!["draft", "show", "1"], "GET /admin/v1/drafts/1"),
        (vec!["draft", "delete", "1", "--version", "2", "--reason", "a b"], "DELETE /admin/v1/drafts/1?reason=a%20b"),
    ] {
        let told = plane.done(&[&["policy"], arguments.as_slice(), &["--format", "json"]].concat(), "");
        assert_eq!(plane.last().line, format!("{line} HTTP/1.1"));
        assert_eq!(serde_json::from_str::<Value>(&told).unwrap(), answer(), "whatever is unknown is shown");
    }
    assert!(plane.last().head.contains("if-match: \"2\""));
    assert_eq!(plane.done(&["policy", "enforcement"], ""), "3 of 3 workers\n");
    assert_eq!(plane.done(&["policy", "activate", "7", "--reason", "x"], ""), "activation 3: revision 7 is in force\n");
}

#[test]
fn folders_are_checked_before_they_are_sent() {
    let plane =
        Plane::new(vec![("POST /admin/v1/policies ", 201, json!({"revision": 8})), ("PUT /admin/v1/drafts/1 ", 200, json!({"id": 1}))]);
    let folder = root().join("policies");
    let folder = folder.to_str().unwrap();
    assert!(plane.done(&["policy", "publish", folder, "--reason", "new"], "").starts_with("published revision 8;"));
    assert!(plane.last().body["files"]["routes/agents.yaml"].as_str().unwrap().contains("agents.list"));
    assert_eq!(plane.last().body["files"].get("schema.json"), None);
    plane.done(&["policy", "draft", "save", "1", folder, "--version", "4", "--reason", "new"], "");
    assert!(plane.last().head.contains("if-match: \"4\"") && plane.last().body["files"].is_object());
    let bad = copied(|home| edit(home.join("roles.yaml"), "permissions:", "permisions:"));
    let output = plane.run(&["policy", "publish", bad.path().to_str().unwrap(), "--reason", "new"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(plane.last().line.starts_with("PUT "), "nothing was sent");
}

#[test]
fn a_revision_can_be_compared_with_a_folder() {
    let files: std::collections::BTreeMap<String, String> = authoring::directory::read(&root().join("policies")).unwrap();
    let plane = Plane::new(vec![
        ("GET /admin/v1/policies/active ", 200, json!({"revision": 7})),
        ("GET /admin/v1/policies/7 ", 200, json!({"revision": 7, "files": files})),
    ]);
    assert_eq!(plane.done(&["policy", "diff", "active", root().join("policies").to_str().unwrap()], ""), "no decision changes\n");
    assert_eq!(plane.done(&["policy", "diff", "7", "active"], ""), "no decision changes\n");
}

#[test]
fn explain_sends_claims_and_never_the_token() {
    let answer = json!({"decision": "deny", "reason": "expired", "refused_by": "authentication", "rule": "agents.list", "action": null,
                        "checks": [{"check": "route", "outcome": "ok"}], "charges": [], "version": "1", "revision": 4});
    let plane = Plane::new(vec![("POST /admin/v1/explain ", 200, answer)]);
    let ask = ["--gateway", "PP", "--method", "GET", "--path", "/api/v1/agents"];
    // {"iss":"https://cp","jti":"j","exp":1790000000}
    let token = "e30.eyJpc3MiOiJodHRwczovL2NwIiwianRpIjoiaiIsImV4cCI6MTc5MDAwMDAwMH0.c2ln";
    let told = plane.done(&[&["explain"][..], &ask, &["--token", token]].concat(), "");
    assert!(told.starts_with("deny: expired (authentication)\n") && told.contains("revision  4"), "{told}");
    let claims = json!({"iss": "https://cp", "jti": "j", "exp": 1_790_000_000});
    assert_eq!(plane.last().body, json!({"gateway": "PP", "method": "GET", "path": "/api/v1/agents", "claims": claims}));
    plane
        .done(&[&["policy", "explain"][..], &ask, &["--anonymous", "--at", "2026-01-15T12:00:00Z", "--upgrade", "websocket"]].concat(), "");
    assert_eq!((&plane.last().body["at"], &plane.last().body["upgrade"]), (&json!("2026-01-15T12:00:00Z"), &json!("websocket")));
}

#[test]
fn who_refuses_and_who_is_not_there_is_told_by_the_exit_code() {
    let problem = json!({"detail": "it is not valid", "file": "roles.yaml", "line": 3});
    let plane = Plane::new(vec![("POST ", 409, problem)]);
    let output = plane.run(&["policy", "activate", "7", "--reason", "x"], "");
    assert_eq!(output.status.code(), Some(3));
    let told_text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(told_text, "error: the control plane refuses with 409: roles.yaml:3: it is not valid\n");
    assert_eq!(told(&["policy", "history", "--state", "/nonexistent"]).0, 2, "without a token");
    let nobody = Command::new(env!("CARGO_BIN_EXE_plant-gateway"))
        .args(["policy", "enforcement", "--control-plane", "http://127.0.0.1:1", "--state", "/nonexistent"])
        .env("PLANT_ADMIN_TOKEN", "x")
        .output()
        .unwrap();
    assert_eq!(nobody.status.code(), Some(3));
}

/// Every line of the page that begins with `$ plant-gateway` and needs no control plane; `# exits N` says with what, else 0. What
/// the page shows below it is how the output begins, but for its numbers.
#[test]
fn the_examples_of_the_page_work() {
    let page = std::fs::read_to_string(root().join("docs/policy-cli.md")).unwrap();
    let examples = page.split("$ plant-gateway ").skip(1).filter_map(|example| example.split_once('\n'));
    let (mut count, mut shown) = (0, 0);
    for (line, below) in examples.filter(|(line, _)| !line.contains("# online")) {
        let (command, wanted) = line.split_once("# exits ").map_or((line, 0), |(command, code)| (command, code.trim().parse().unwrap()));
        let arguments = words(command);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (code, out, err) = told(&arguments);
        assert_eq!(code, wanted, "{command}: {err}");
        let output = below.split("```").next().unwrap().trim_end();
        let begins = without_numbers(&out).starts_with(&without_numbers(output));
        assert!(begins, "{command} prints\n{out}\nand not\n{output}");
        count += 1;
        shown += usize::from(!output.is_empty());
    }
    assert!(count >= 8 && shown >= 4, "{count} examples, {shown} with what they print");
}

fn without_numbers(text: &str) -> String {
    text.split(|character: char| character.is_ascii_digit()).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("#")
}

/// As a shell takes them apart, with single quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut any) = (Vec::new(), String::new(), false, false);
    for letter in line.chars() {
        match letter {
            '\'' => (quoted, any) = (!quoted, true),
            ' ' if !quoted => {
                if any {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            other => {
                word.push(other);
                any = true;
            }
        }
    }
    if any {
        words.push(word);
    }
    words
}
