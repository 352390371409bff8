//! Why, in the body of a refusal: told to whom the policy says, as far as it is theirs, and to nobody else.

use super::gate::{Gate, NOW, Request};
use super::tokens;
use crate::audit::{Check, Checks, Outcome};
use authn::Mark;
use decision_core::principal::RevocationKind;
use serde_json::{Value, json};
use wire::policy::{Explanations, Flag, FlagState, PolicyDocument};

const PERMISSION: &str = "refusal.explain";

/// Viewers and customers are told.
fn explaining(document: &mut PolicyDocument) {
    document.permissions.push(PERMISSION.into());
    for role in document.roles.iter_mut().filter(|role| ["viewer", "customer_user"].contains(&&*role.name)) {
        role.permissions.push(PERMISSION.into());
    }
    document.explanations = Some(Explanations { refusals: Some(PERMISSION.into()) });
}

fn create(token: &str) -> Request {
    Request::new("POST", "/api/v1/tasks").body("{}").bearer(token)
}

fn told(gate: &mut Gate, request: &Request) -> Value {
    gate.refused(request).problem()["explanation"].clone()
}

fn outcomes(explanation: &Value) -> Vec<(&str, &str)> {
    let checks = explanation["checks"].as_array().unwrap();
    checks.iter().map(|check| (check["check"].as_str().unwrap(), check["outcome"].as_str().unwrap())).collect()
}

fn kinds(explanation: &Value) -> Vec<&str> {
    explanation["changes"].as_array().unwrap().iter().map(|change| change["change"].as_str().unwrap()).collect()
}

#[test]
fn who_may_know_is_told_each_check_what_it_read_and_what_would_have_to_change() {
    let mut gate = Gate::with("PLANT", explaining);
    let told = told(&mut gate, &create(&tokens::with_role("viewer")));
    assert_eq!(outcomes(&told), [("route", "ok"), ("authentication", "ok"), ("permission", "permission_missing")]);
    let permission = &told["checks"][2];
    assert_eq!(permission["rule"], "tasks.create");
    let read = json!([
        { "name": "permission", "value": "task.create" }, { "name": "issuer", "value": "legacy" }, { "name": "roles", "value": "viewer" },
    ]);
    assert_eq!(permission["read"], read);
    assert_eq!((kinds(&told), &told["changes"][0]["by"], &told["cut"]), (vec!["role"], &json!("issuer"), &json!(false)));
    let roles = told["changes"][0]["values"]["any_of"].as_array().unwrap();
    assert!(roles.contains(&json!("agent_orchestrator")) && !roles.contains(&json!("viewer")), "{roles:?}");
}

#[test]
fn a_trial_an_approval_and_a_spent_budget_are_told_by_what_refused() {
    let mut gate = Gate::with("PLANT", explaining);
    let over = told(&mut gate, &Request::new("GET", "/api/v1/tasks").bearer(&tokens::on_trial(-1)));
    assert_eq!(outcomes(&over).last(), Some(&("trial", "trial_expired")));
    assert_eq!(kinds(&over), ["trial_until", "paid_user"]);

    let mut gate = Gate::with("PLANT", explaining);
    let user = tokens::token(json!({ "roles": ["user"] }));
    let stream = gate.begin(&Request::new("GET", "/api/v1/tasks").bearer(&user));
    gate.sync(|_, answer| {
        for account in answer.accounts.iter_mut().filter(|account| account.budget == "agent-daily") {
            (account.granted, account.cap, account.settled) = (0, 777_123, 777_123);
        }
    });
    let problem = gate.reply(&stream).unwrap().problem();
    let spent = &problem["explanation"];
    assert_eq!(outcomes(spent).last(), Some(&("budget", "budget_spent")));
    assert_eq!(spent["checks"].as_array().unwrap().last().unwrap()["rule"], "agent-daily");
    assert_eq!(kinds(spent), ["next_window", "higher_cap"]);
    assert!(!spent.to_string().contains("777123"), "caps are not part of it: {spent}");
}

#[test]
fn nothing_is_told_unless_the_policy_says_so_and_the_caller_may_know() {
    let viewer = tokens::with_role("viewer");
    let mut silent = Gate::new("PLANT");
    assert!(!silent.refused(&create(&viewer)).problem().as_object().unwrap().contains_key("explanation"));
    let mut gate = Gate::with("PLANT", explaining);
    assert_eq!(told(&mut gate, &create(&tokens::with_role("helpdesk_agent"))), Value::Null, "without the permission");
}

#[test]
fn who_is_not_authenticated_is_told_nothing() {
    let mut gate = Gate::with("PP", explaining);
    let read = |token: &str| Request::new("GET", "/api/v1/tasks").bearer(token);
    let role = |role: &str| serde_json::from_value(json!({ "roles": [role] })).unwrap();
    for request in [
        Request::new("GET", "/api/v1/tasks"),
        read("not.a.token"),
        read(&(tokens::with_role("viewer") + "x")),
        read(&tokens::token(json!({ "roles": ["viewer"], "exp": NOW.as_seconds() - 600, "iat": NOW.as_seconds() - 700 }))),
        read(&tokens::token(json!({ "roles": ["nobody-knows-it"] }))),
        read(&tokens::sign("cp-1", "cp.waooaw.com", role("customer_user"))),
    ] {
        let problem = gate.refused(&request).problem();
        assert_eq!((&problem["status"], &problem["explanation"]), (&json!(401), &Value::Null));
    }
    // Where nothing is looked up there is no caller.
    for (path, status) in [("/api/v1/nowhere", 404), ("/api/v1//tasks", 400)] {
        let problem = gate.refused(&Request::new("GET", path).bearer(&tokens::with_role("viewer"))).problem();
        assert_eq!((&problem["status"], &problem["explanation"]), (&json!(status), &Value::Null), "{path}");
    }
    gate.revoke(&[(Mark::of(RevocationKind::Subject, "legacy", "user-1"), NOW.as_micros())]);
    assert_eq!(told(&mut gate, &create(&tokens::with_role("viewer"))), Value::Null, "revoked");
}

#[test]
fn a_token_counts_that_was_accepted_and_not_refused_since() {
    let with = |outcomes: &[Outcome]| {
        let mut checks = Checks::default();
        outcomes.iter().for_each(|outcome| checks.add(Check::Authentication, *outcome));
        checks.authenticated()
    };
    assert!(with(&[Outcome::Permit]));
    for not in [&[][..], &[Outcome::Deny], &[Outcome::FailedOpen], &[Outcome::FailedClosed], &[Outcome::Permit, Outcome::Deny]] {
        assert!(!with(not), "{not:?}");
    }
}

#[test]
fn flags_and_how_operators_arrange_things_stay_their_own() {
    let mut gate = Gate::with("PLANT", explaining);
    let flags: Vec<String> = super::gate::document().flags.into_iter().map(|flag| flag.name).collect();
    assert!(!flags.is_empty());
    let customer = |changes: Value| {
        let mut claims = json!({ "roles": ["customer_user"] });
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        tokens::token(claims)
    };
    for request in [
        create(&tokens::with_role("viewer")),
        Request::new("GET", "/api/v1/tasks").bearer(&tokens::on_trial(-1)),
        Request::new("GET", "/api/v1/invoices").bearer(&tokens::on_trial(600)),
        Request::new("GET", "/api/v1/invoices").bearer(&customer(json!({ "customer_id": null }))),
        Request::new("PUT", "/api/v1/billing").bearer(&customer(json!({}))),
    ] {
        let text = told(&mut gate, &request).to_string();
        assert!(text.contains("\"checks\""), "{text}");
        for hidden in flags.iter().map(String::as_str).chain(["flag", "forced_into", "trial_target", "sandbox", "eyJ"]) {
            assert!(!text.contains(hidden), "`{hidden}` in {text}");
        }
    }
}

#[test]
fn however_long_a_token_is_an_explanation_is_short() {
    let mut gate = Gate::with("PLANT", explaining);
    let mut roles: Vec<String> = (0..30).map(|number| format!("{number}-\u{e9}{}", "r".repeat(30))).collect();
    roles.push("viewer".into());
    let told = told(&mut gate, &create(&tokens::token(json!({ "roles": roles }))));
    assert_eq!(told["cut"], true);
    let values = told["checks"].as_array().unwrap().iter().flat_map(|check| check["read"].as_array().unwrap());
    assert!(values.clone().any(|fact| fact["name"] == "roles"));
    assert!(values.into_iter().all(|fact| fact["value"].as_str().unwrap().len() <= 128));
    assert!(told.to_string().len() < 8 * 1_024, "{}", told.to_string().len());
}

#[test]
fn a_feature_that_is_switched_off_is_not_explained() {
    let mut gate = Gate::with("PLANT", |document| {
        explaining(document);
        let flag = Flag { name: "off".into(), default: FlagState::Off, overrides: vec![], rollout_percent: None, switches: vec![] };
        document.flags.push(flag);
        document.routes.iter_mut().find(|route| route.name == "tasks.create").unwrap().flag = Some("off".into());
    });
    let viewer = tokens::with_role("viewer");
    let [hidden, absent] = [create(&viewer), Request::new("POST", "/api/v1/absent").body("{}").bearer(&viewer)]
        .map(|request| gate.refused(&request).problem().as_object().unwrap().keys().cloned().collect::<Vec<_>>());
    assert_eq!(hidden, absent, "as if there were no such route");
}
