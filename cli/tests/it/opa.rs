//! `plant-gateway policy import` and `policy test --oracle`, with sets in the shapes of the original's; and the tests of custom
//! rules, which run in the same process of their own.

use std::fs;
use std::path::Path;

use crate::command::{copied, edit, root, told};
use serde_json::{Value, json};

const PERMISSIONS: &str = "authoring/tests/fixtures/opa/permissions";
const LEVELS: &str = "authoring/tests/fixtures/opa/levels";

fn answer(arguments: &[&str]) -> (i32, Value) {
    let (code, out, err) = told(&[arguments, &["--format", "json"]].concat());
    (code, serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}")))
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = home.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    home
}

fn text(home: &tempfile::TempDir) -> &str {
    home.path().to_str().unwrap()
}

#[test]
fn both_sets_say_the_same_as_the_golden_cases_but_for_what_was_chosen() {
    let (code, said) = answer(&["policy", "test", "--oracle", PERMISSIONS, "--oracle", LEVELS]);
    assert_eq!(code, 0, "{}", said["failures"]);
    for (oracle, form, generation, rules) in [
        (&said["oracles"][0], "permissions", "v0", ["agent_budget", "governor_role", "rbac_pp", "sandbox_routing", "trial_mode"]),
        (&said["oracles"][1], "levels", "v1", ["agent_budget", "governor_role", "rbac_pp", "sandbox_routing", "trial_mode"]),
    ] {
        assert_eq!((&oracle["form"], &oracle["generation"]), (&json!(form), &json!(generation)));
        assert_eq!((&oracle["unexpected"], &oracle["stale"], &oracle["failures"]), (&json!([]), &json!([]), &json!([])));
        assert!(oracle["tests"]["run"].as_u64() > Some(2) && oracle["tests"]["failed"] == json!([]), "{}", oracle["tests"]);
        assert_eq!(oracle["rules"].as_object().unwrap().len(), rules.len());
        for rule in rules {
            let counted = oracle["rules"].as_object().unwrap().iter().find(|(name, _)| name.contains(rule)).unwrap().1;
            let count = |what: &str| counted[what].as_u64().unwrap();
            assert!(count("cases") > 380 && count("agreed") > 380, "{rule}: {counted}");
            assert_eq!(count("judged"), count("agreed") + count("chosen"), "{rule}: {counted}");
        }
        let unjudged: u64 = oracle["unjudged"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(oracle["judged_cases"].as_u64().unwrap() + unjudged, said["cases"].as_u64().unwrap());
    }
}

#[test]
fn a_difference_that_nobody_chose_is_told_with_both_answers_and_fails() {
    let fewer = copied(|home| edit(home.join("cases/oracle.yaml"), "agent.delete\n        - agent.logs", "agent.logs"));
    let (code, out, err) = told(&["policy", "test", text(&fewer), "--oracle", PERMISSIONS]);
    assert_eq!(code, 1);
    let line = "we allow, gateway.rbac_pp.allow says deny (agent.delete is not for these roles)";
    assert!(out.contains("  unexpectedly:\n    cases/") && out.contains(line), "{out}");
    assert!(err.contains("says otherwise") && err.contains("unexpectedly"), "{err}");
}

#[test]
fn a_right_too_many_is_found_by_the_oracle_alone() {
    // No golden case is about it: only the other set knows that a viewer should not.
    let wrong = copied(|home| {
        edit(
            home.join("roles.yaml"),
            "  - name: viewer\n    permissions:\n",
            "  - name: viewer\n    permissions:\n      - agent.execute\n",
        );
        let case = "  - { name: added, gateway: PP, method: POST, path: /api/v1/agents/a-1/execute, token: { issuer: pp, roles: [viewer] },\n      \
                    want: { decision: permit, status: 200, reason: ok, route: agents.execute } }\n";
        fs::write(home.join("cases/added.yaml"), format!("cases:\n{case}")).unwrap();
    });
    let (code, said) = answer(&["policy", "test", text(&wrong), "--oracle", PERMISSIONS, "--filter", "added.yaml"]);
    assert_eq!((code, &said["failed"]), (1, &json!(0)));
    let found = &said["oracles"][0]["unexpected"][0];
    assert_eq!((&found["case"], &found["policy"], &found["oracle"]), (&json!("added"), &json!("allow"), &json!("deny")), "{found}");
}

/// Each rule of the other set notices when the policy changes what it is about, in the situation that shows it.
#[test]
fn every_rule_of_a_set_finds_what_it_is_about() {
    for (file, from, to, rule, situation, answers) in [
        ("budgets.yaml", "cap: 1000000 ", "cap: 2000000 ", "agent_budget.allow", "money_left", ("allow", "deny")),
        ("budgets.yaml", "cap: 1000000 ", "cap: 500000 ", "agent_budget.allow", "agent_spent", ("deny", "allow")),
        ("budgets.yaml", "cap: 100000000 ", "cap: 50000000 ", "agent_budget.allow", "platform_spent", ("deny", "allow")),
        ("budgets.yaml", "cap: 10\n", "cap: 12\n", "trial_mode.allow", "tasks_left", ("allow", "deny")),
        ("budgets.yaml", "cap: 10\n", "cap: 9\n", "trial_mode.allow", "tasks_spent", ("deny", "allow")),
        ("flags.yaml", "- name: enable_trial_mode ", "- name: another_name ", "", "", ("", "")),
        (
            "settings.yaml",
            "trials: sandbox",
            "trials: production",
            "sandbox_routing.route_to_sandbox",
            "as_asked",
            ("production", "sandbox"),
        ),
        ("routes/agents.yaml", "approval: governor", "approval: none", "governor_role.allow", "as_asked", ("allow", "deny")),
        (
            "routes/agents.yaml",
            "permission: agent.update",
            "permission: agent.deploy\n    approval: governor",
            "governor_role.allow",
            "as_asked",
            ("deny", "allow"),
        ),
    ] {
        let other = copied(|home| edit(home.join(file), from, to));
        let (_, said) = answer(&["policy", "test", text(&other), "--oracle", PERMISSIONS]);
        let unexpected = said["oracles"][0]["unexpected"].as_array().unwrap();
        let found = |difference: &&Value| {
            difference["rule"] == format!("gateway.{rule}")
                && difference["situation"] == situation
                && difference["policy"] == answers.0
                && difference["oracle"] == answers.1
        };
        let noticed = if rule.is_empty() { unexpected.is_empty() } else { unexpected.iter().any(|difference| found(&difference)) };
        assert!(noticed, "{file}: {to}: {unexpected:?}");
    }
}

#[test]
fn a_choice_that_no_difference_bears_out_fails() {
    let more = copied(|home| edit(home.join("cases/oracle.yaml"), "[billing.read, billing.update,", "[billing.read, billing.updated,"));
    let (code, out, _) = told(&["policy", "test", text(&more), "--oracle", PERMISSIONS]);
    assert_eq!(code, 1, "what the mistyped name meant is unexpected");
    assert!(out.contains("expected in vain: `billing.updated` does not occur in the choice about gateway.trial_mode.allow"), "{out}");
    let stale = copied(|home| {
        let list = home.join("cases/oracle.yaml");
        let entry =
            "  - {set: levels, rule: gateway.trial_mode.allow, situation: granted, policy: allow, oracle: deny, because: nothing}\n";
        fs::write(&list, fs::read_to_string(&list).unwrap() + entry).unwrap();
    });
    let (code, _, err) = told(&["policy", "test", text(&stale), "--oracle", LEVELS]);
    assert_eq!(code, 1);
    assert!(err.contains("1 expected differences from the oracle `") && err.contains("do not occur"), "{err}");
    assert_eq!(told(&["policy", "test", text(&stale), "--oracle", PERMISSIONS]).0, 0, "it is about the other set");
    assert_eq!(told(&["policy", "test", text(&stale), "--oracle", LEVELS, "--filter", "trials"]).0, 0, "not all cases were asked");
}

#[test]
fn a_rule_that_says_two_things_at_once_cannot_say() {
    let conflicting = "package gateway.trial_mode\nimport rego.v1\nallow := true if input.jwt.trial_mode\nallow := false if input.jwt.trial_mode\nallow := true if not input.jwt.trial_mode\n";
    let home =
        folder(&[("trial.rego", conflicting), ("rbac.rego", &fs::read_to_string(root().join(LEVELS).join("rbac_pp.rego")).unwrap())]);
    let (_, said) = answer(&["policy", "test", "--oracle", text(&home), "--filter", "cases/trials.yaml"]);
    let failures = said["oracles"][0]["failures"].as_array().unwrap();
    assert!(
        failures.len() > 5 && failures[0].as_str().unwrap().contains("gateway.trial_mode.allow cannot say: rule conflicts"),
        "{failures:?}"
    );
    assert_eq!(said["oracles"][0]["rules"]["gateway.trial_mode.allow"]["failed"], json!(failures.len()));
}

#[test]
fn a_table_of_permissions_becomes_roles_and_permissions_of_ours() {
    let (code, out, err) = told(&["policy", "import", PERMISSIONS]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.starts_with("permissions:\n  - agent.categorize\n") && out.contains("  - name: admin\n    permissions: [\"*\"]\n"),
        "{out}"
    );
    assert!(err.contains("imported: 26 permissions, 7 roles") && err.contains("5 of 5 tests of the set pass"), "{err}");
    assert!(err.contains("not imported: gateway.trial_mode (policies/trials.rego): covered by `trial` of routes"), "{err}");
    assert!(err.contains("  agent_cap := 1"), "{err}");
    // It is a policy, with issuers, routes and cases to be added by hand.
    let home = folder(&[("policy.yaml", &out)]);
    assert_eq!(told(&["policy", "validate", text(&home)]).0, 0);
}

#[test]
fn an_import_is_compared_with_a_policy() {
    let (code, said) = answer(&["policy", "import", PERMISSIONS, "--compare", "policies"]);
    assert_eq!(code, 1, "permissions were added");
    let differences = said["differences"].as_array().unwrap();
    assert!(differences.contains(&json!({"kind": "permission_added", "permission": "agent.delete"})));
    assert!(differences.contains(&json!({"kind": "role_added", "role": "customer_user"})));
    let grants: Vec<&Value> = differences.iter().filter(|difference| difference["kind"].as_str().unwrap().starts_with("grant")).collect();
    assert_eq!(grants, [&Value::Null; 0], "cell by cell");
    let wrong = copied(|home| edit(home.join("roles.yaml"), "      - ticket.resolve\n", "      - user.delete\n"));
    let (_, said) = answer(&["policy", "import", PERMISSIONS, "--compare", text(&wrong)]);
    for (kind, permission) in [("grant_missing", "ticket.resolve"), ("grant_added", "user.delete")] {
        let wanted = json!({"kind": kind, "role": "helpdesk_agent", "permission": permission});
        assert!(said["differences"].as_array().unwrap().contains(&wanted), "{wanted}");
    }
    let (code, out, _) = told(&["policy", "import", PERMISSIONS]);
    let same = folder(&[("policy.yaml", &out)]);
    assert_eq!((code, told(&["policy", "import", PERMISSIONS, "--compare", text(&same)]).0), (0, 0));
}

#[test]
fn levels_become_the_permissions_that_routes_ask_for() {
    let (code, said) = answer(&["policy", "import", LEVELS, "--routes", "policies"]);
    assert_eq!((code, &said["form"]), (0, &json!("levels")));
    let role = |name: &str| {
        let found = said["roles"].as_array().unwrap().iter().find(|role| role["name"] == name).unwrap();
        found["permissions"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let has = |name: &str, permission: &str| role(name).iter().any(|known| known == permission);
    assert!(has("viewer", "agent.view") && has("viewer", "invoice.read") && !has("viewer", "agent.update"), "{:?}", role("viewer"));
    assert!(has("developer", "agent.update") && !has("developer", "task.delete") && has("customer_admin", "task.delete"));
    assert!(!has("admin", "agent.resume"), "no level is high enough for an action without one");
    assert!(said["remarks"].as_array().unwrap().contains(&json!("nobody is allowed the action `resume`, whatever the role")));
    let narrower = json!("developer does not get subscription.cancel, which also takes delete");
    assert!(!has("developer", "subscription.cancel") && said["remarks"].as_array().unwrap().contains(&narrower), "{}", said["remarks"]);
    let (code, _, err) = told(&["policy", "import", LEVELS, "--routes", "/nonexistent"]);
    assert_eq!(code, 1);
    assert!(err.contains("a policy is needed whose routes say which permission each takes"), "{err}");
}

#[test]
fn a_file_is_written_and_never_overwritten_unasked() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("roles.yaml");
    let path = file.to_str().unwrap();
    let (code, out, _) = told(&["policy", "import", PERMISSIONS, "--out", path]);
    assert_eq!((code, out.as_str()), (0, ""), "it is in the file");
    let written = fs::read_to_string(&file).unwrap();
    assert!(written.starts_with("permissions:\n"));
    fs::write(&file, "mine").unwrap();
    let (code, _, err) = told(&["policy", "import", PERMISSIONS, "--out", path]);
    assert_eq!((code, fs::read_to_string(&file).unwrap().as_str()), (2, "mine"));
    assert!(err.contains("cannot write `") && err.contains("exists"), "{err}");
    assert_eq!(told(&["policy", "import", PERMISSIONS, "--out", path, "--force"]).0, 0);
    assert_eq!(fs::read_to_string(&file).unwrap(), written);
    assert_eq!(told(&["policy", "import", PERMISSIONS, "--force"]).0, 2, "without a file there is nothing to overwrite");
}

#[test]
fn sets_that_cannot_be_used_are_told_apart_by_the_exit_code() {
    let rules = "package g\nimport rego.v1\nallow if f(1)\nf(x) := y if y := f(x + 1)\npermissions := {\"a.b\": [\"c\"]}\n";
    for (module, said) in [
        ("package g\nimport rego.v1\nallow { true }\n", "a.rego:3: `if` keyword is required"),
        ("package g\nallow := http.send({\"url\": \"http://x\"})\npermissions := {\"a.b\": [\"c\"]}\n", "imported: 1 permissions, 1 roles"),
        (rules, "it needed more than 1024 KiB of stack: something is nested too deeply"),
        ("package g\nallow := true\n", "there is no package with a rule `allow` and either a table"),
        (&format!("package g\nx := {}1{}\n", "[".repeat(40), "]".repeat(40)), "a.rego:2: brackets are nested more than 10 deep"),
    ] {
        let home = folder(&[("a.rego", module)]);
        let (code, out, err) = told(&["policy", "import", text(&home)]);
        assert_eq!((code, err.contains(said)), (i32::from(!said.starts_with("imported")), true), "{out}{err}");
    }
    let home = folder(&[("a.txt", "nothing")]);
    assert_eq!(told(&["policy", "import", text(&home)]).0, 1);
    assert_eq!(told(&["policy", "import", "/nonexistent"]).0, 2);
    assert_eq!(told(&["policy", "test", "--oracle", "/nonexistent"]).0, 2);
    let (code, said) = answer(&["policy", "test", "--oracle", text(&home)]);
    assert_eq!((code, said["fault"]["message"].as_str().unwrap().contains("there is no module")), (1, true));
}

#[test]
fn a_test_of_a_set_that_does_not_pass_fails_the_import_and_the_oracle() {
    let table = fs::read_to_string(root().join(LEVELS).join("rbac_pp.rego")).unwrap();
    let home = folder(&[("rbac.rego", &table), ("x_test.rego", "package x_test\nimport rego.v1\ntest_it if input.never\n")]);
    let (code, _, err) = told(&["policy", "import", text(&home)]);
    assert_eq!(code, 1);
    assert!(err.contains("x_test.rego:3: the test `x_test.test_it` does not pass: it is undefined"), "{err}");
    let (code, _, err) = told(&["policy", "test", "--oracle", text(&home), "--filter", "trials"]);
    assert_eq!(code, 1);
    assert!(err.contains("fails 1 of its own tests"), "{err}");
}

/// The policy that `docs/custom-rules.md` shows.
fn custom(change: impl Fn(&Path)) -> tempfile::TempDir {
    let page = fs::read_to_string(root().join("docs/custom-rules.md")).unwrap();
    let blocks = page.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    let named: Vec<(&str, &str)> = blocks
        .filter_map(|(_, text)| {
            let name = text.lines().next()?.strip_prefix("# ")?;
            (name.ends_with(".yaml") || name.ends_with(".rego")).then_some((name, text))
        })
        .collect();
    assert_eq!(named.len(), 4);
    let home = folder(&named);
    change(home.path());
    home
}

#[test]
fn tests_of_custom_rules_are_run_counted_and_covered() {
    let whole = custom(|_| {});
    let (code, out, err) = told(&["policy", "test", text(&whole)]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.starts_with("4 passed, 0 failed\n") && out.contains("custom rules: 4 tests reach 5 of 5 bodies\n"), "{out}");
    let fewer = custom(|home| edit(home.join("rules/hours_test.rego"), "test_reports_of_trials", "reports_of_trials"));
    let (code, said) = answer(&["policy", "test", text(&fewer)]);
    assert_eq!((code, &said["tests"], &said["cases"], &said["rules"]["total"]), (0, &json!(3), &json!(0), &json!(5)));
    assert_eq!(said["rules"]["missing"][0]["file"], "rules/hours.rego");
    let (code, _, err) = told(&["policy", "test", text(&fewer), "--min-coverage", "100"]);
    assert!(code == 1 && err.contains("% of the policy, not 100 %"), "{err}");
    let wrong =
        custom(|home| edit(home.join("rules/hours_test.rego"), "\"hour_utc\": 9, \"trial\": false", "\"hour_utc\": 7, \"trial\": false"));
    let (code, said) = answer(&["policy", "test", text(&wrong)]);
    assert_eq!((code, &said["passed"], &said["failed"]), (1, &json!(3), &json!(1)));
    let failure = &said["failures"][0];
    assert_eq!(failure["case"], "gateway_test.test_agents_are_deleted_in_office_hours");
    assert!(failure["file"].as_str().unwrap().starts_with("rules/hours_test.rego:"), "{failure}");
    let (code, said) = answer(&["policy", "test", text(&wrong), "--filter", "trials"]);
    assert_eq!((code, &said["passed"]), (0, &json!(2)), "the others are left out");
}

#[test]
fn the_tests_have_to_reach_as_much_of_the_rules_as_is_asked_for() {
    let cases = "cases:\n  - { name: a, gateway: PP, method: GET, path: /reports, token: none, want: { decision: deny, status: 401, reason: credential_missing, route: reports.read } }\n";
    let fewer = custom(|home| {
        edit(home.join("rules/hours_test.rego"), "test_reports_of_trials", "reports_of_trials");
        fs::create_dir(home.join("cases")).unwrap();
        fs::write(home.join("cases/a.yaml"), cases).unwrap();
    });
    let (code, said) = answer(&["policy", "test", text(&fewer)]);
    let (of_policy, of_rules) = (said["coverage"]["percent"].as_u64().unwrap(), said["rules"]["percent"].as_u64().unwrap());
    assert!(code == 0 && of_policy < of_rules && of_rules < 100, "{of_policy} {of_rules}");
    let at_least = |percent: u64| told(&["policy", "test", text(&fewer), "--min-coverage", &percent.to_string()]);
    assert_eq!(at_least(of_policy).0, 0);
    assert!(at_least(of_policy + 1).2.contains("the cases cover"));
}

#[test]
fn validating_asks_the_gate_and_tells_findings() {
    let whole = custom(|_| {});
    let (code, out, _) = told(&["policy", "validate", text(&whole)]);
    assert_eq!(code, 0);
    assert!(out.contains("custom rules: 4 tests pass, 5 bodies\n"), "{out}");
    assert!(out.contains("finding: policy.yaml:7: routes[agents.read].gateways: nobody can use the route"), "{out}");
    let (_, said) = answer(&["policy", "validate", text(&whole)]);
    assert_eq!((&said["rules"]["tests"], &said["findings"][0]["file"]), (&json!(4), &json!("policy.yaml")));
    let looping = custom(|home| edit(home.join("rules/hours.rego"), "office_hours if {\n", "office_hours if {\n\toffice_hours\n"));
    let (code, said) = answer(&["policy", "validate", text(&looping)]);
    assert_eq!((code, &said["fault"]["file"]), (1, &json!("rules/hours.rego")));
    assert!(said["fault"]["message"].as_str().unwrap().contains("depends on itself"), "{said}");
    let failing = custom(|home| edit(home.join("rules/hours_test.rego"), "\"office-hours\"", "\"office\""));
    let (code, _, err) = told(&["policy", "validate", text(&failing)]);
    assert!(code == 1 && err.contains("does not pass"), "{err}");
}
