//! `plant-gateway policy`: what it prints, and what it ends with. The examples of `docs/policy-cli.md` are run here too.

use std::process::Command;

use crate::command::{copied, edit, root, told};
use crate::plane::Plane;
use serde_json::{Value, json};

#[test]
fn a_good_policy_is_valid_and_a_bad_one_names_its_place() {
    let (code, out, err) = told(&["policy", "validate"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("valid: ") && out.contains("; secrets not checked\n"), "{out}");

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

/// What a permit comes to is as much the policy as who gets it: each of these passed unseen once.
#[test]
fn a_change_of_what_a_permit_comes_to_fails_the_cases() {
    for (file, from, to, difference) in [
        ("routes/invoices.yaml", "{ in: query }", "{ in: query, name: foo }", "ownership: want query customer_id, got query foo"),
        ("routes/receipts.yaml", "in: query", "in: body", "ownership: want query customer_id, got body customer_id"),
        ("routes/customers.yaml", "credential: original_header", "credential: forward", "credential: want original_header, got forward"),
        ("routes/public.yaml", "rewrite: /api/v1/auth/google/verify", "rewrite: /api/v1/admin/x", "got /api/v1/admin/x"),
        ("budgets.yaml", "cap: 10\n", "cap: 1000000\n", "\"trial-tasks-daily\": 1000000"),
        ("approvals.yaml", "answer: forbidden", "answer: redirect", "status: want 403, got 307"),
    ] {
        let changed = copied(|home| edit(home.join(file), from, to));
        let (code, out, err) = told(&["policy", "test", changed.path().to_str().unwrap(), "--min-coverage", "100"]);
        assert!(code == 1 && out.contains(difference), "{file}: {to}: {code}\n{out}{err}");
    }
}

/// What is said of a policy and itself: how many decisions there are is the policy's business.
fn unchanged() -> String {
    let (_, out, _) = told(&["policy", "diff", "policies", "policies"]);
    assert!(out.starts_with("no decision of ") && out.ends_with(" changes\n") && out.lines().count() == 1, "{out}");
    out
}

#[test]
fn differences_are_shown_as_text_and_as_decisions() {
    let (code, out, _) = told(&["policy", "diff", "policies", "policies"]);
    assert_eq!((code, out.as_str()), (0, unchanged().as_str()));
    let other = copied(|home| edit(home.join("routes/agents.yaml"), "approval: governor", "approval: none"));
    let folder = other.path().to_str().unwrap();
    let (code, out, err) = told(&["policy", "diff", "policies", folder]);
    assert_eq!((code, err.as_str()), (1, ""));
    assert!(out.contains("--- a/routes/agents.yaml\n+++ b/routes/agents.yaml\n"), "{out}");
    assert!(out.contains("-    approval: governor\n+    approval: none\n"), "{out}");
    assert!(
        out.contains("  PP: permit with an approval, charged ")
            && out.contains("\n    POST /api/v1/agents\n    for edge:admin; legacy:admin; pp:admin; "),
        "{out}"
    );
    let (_, out, _) = told(&["policy", "diff", "policies", folder, "--format", "json"]);
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert!(answer["changed"].as_u64().unwrap() > 0 && answer["compared"].as_u64() > answer["changed"].as_u64(), "{answer}");
    assert!(answer["decisions"][0]["from"].as_str().unwrap().starts_with("permit with an approval"), "{answer}");
    assert_eq!(told(&["policy", "diff", "policies", "/nonexistent"]).0, 2);
}

#[test]
fn a_policy_that_owns_nothing_differs_in_every_request_that_was_owned() {
    let unowned = copied(|home| {
        for entry in std::fs::read_dir(home.join("routes")).unwrap() {
            let file = entry.unwrap().path();
            let text = std::fs::read_to_string(&file).unwrap();
            let kept: String = text.lines().filter(|line| !line.contains("ownership:")).map(|line| format!("{line}\n")).collect();
            std::fs::write(file, kept).unwrap();
        }
        edit(home.join("routes/customers.yaml"), "credential: original_header", "credential: forward");
    });
    let (code, out, _) = told(&["policy", "diff", "policies", unowned.path().to_str().unwrap()]);
    assert_eq!(code, 1);
    for (from, to) in [
        ("ownership: query customer_id", "ownership: none"),
        ("ownership: body customer_id", "ownership: none"),
        ("ownership: path segment 5", "ownership: none"),
        ("ownership: path segment 6", "ownership: none"),
        ("credential: original_header", "credential: forward"),
    ] {
        let changes = out.lines().filter(|line| line.contains(&format!(", {from} -> permit")) && line.ends_with(to));
        assert!(changes.count() > 0, "{from}: {out}");
    }
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
        assert!(["import", "oracle", "list-chosen"].into_iter().all(|word| out.contains(word)), "{shell}");
    }
}

/// `plant-gateway` beside a `control-plane` that tells what it was called with: its arguments, then `DATABASE_URL`.
struct BreakGlass(tempfile::TempDir);

impl BreakGlass {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        // On the file system of the program, so that it can be there under another name.
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::fs::hard_link(env!("CARGO_BIN_EXE_plant-gateway"), home.path().join("plant-gateway")).unwrap();
        let beside = home.path().join("control-plane");
        let script = "#!/bin/sh\nprintf '%s\\n' \"$@\" \"$DATABASE_URL\" > \"$0.told\"\nprintf '{\"activation\":3,\"revision\":7}'\n";
        std::fs::write(&beside, script).unwrap();
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(home)
    }

    /// What `policy rollback` ends with and prints, and what the control plane was told, if it was called.
    fn roll_back(&self, arguments: &[&str], database_url: Option<&str>) -> (i32, String, Option<String>) {
        let mut command = Command::new(self.0.path().join("plant-gateway"));
        command.args(["policy", "rollback", "--reason", "locked out"]).args(arguments).env_remove("DATABASE_URL");
        // Nobody is there.
        command.env("PLANT_ADMIN_TOKEN", "x").env("PLANT_CONTROL_PLANE", "http://127.0.0.1:9");
        if let Some(url) = database_url {
            command.env("DATABASE_URL", url);
        }
        let output = command.output().unwrap();
        let told = self.0.path().join("control-plane.told");
        let seen = std::fs::read_to_string(&told).ok();
        if seen.is_some() {
            std::fs::remove_file(told).unwrap();
        }
        (output.status.code().unwrap(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap(), seen)
    }
}

#[test]
fn the_way_back_takes_the_database_from_the_environment_and_only_when_it_is_asked_to() {
    const URL: &str = "postgres://gateway:hunter2@db/gateway";
    let glass = BreakGlass::new();
    let (code, out, told) = glass.roll_back(&["--break-glass", "--to", "7"], Some(URL));
    assert_eq!((code, out.as_str()), (0, "activation 3: revision 7 is in force\n"));
    assert_eq!(told.unwrap(), format!("rollback\n--reason\nlocked out\n--to\n7\n{URL}\n"), "no argument has the password");

    let (code, out, told) = glass.roll_back(&["--database-url", "postgres://other/db"], Some(URL));
    assert_eq!((code, out.as_str()), (0, "activation 3: revision 7 is in force\n"));
    assert_eq!(told.unwrap(), "rollback\n--reason\nlocked out\npostgres://other/db\n");

    for unset in [None, Some("")] {
        let (code, out, told) = glass.roll_back(&["--break-glass"], unset);
        assert_eq!((code, told), (2, None), "{out}");
        assert!(out.contains("set DATABASE_URL"), "{out}");
    }
    for usage in [["--break-glass", "--expect", "3"], ["--database-url", "postgres://db", "--expect=3"], ["--reason", "x", "--to=3"]] {
        let (code, out, told) = glass.roll_back(&usage, Some(URL));
        assert_eq!((code, told), (2, None), "{out}");
    }
    let (code, out, told) = glass.roll_back(&[], Some(URL));
    assert_eq!(told, None, "the environment alone breaks no glass");
    assert!(code == 3 && out.contains("cannot connect to `127.0.0.1:9`"), "{code}: {out}");
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
    assert_eq!(plane.done(&["policy", "diff", "active", root().join("policies").to_str().unwrap()], ""), unchanged());
    assert_eq!(plane.done(&["policy", "diff", "7", "active"], ""), unchanged());
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
