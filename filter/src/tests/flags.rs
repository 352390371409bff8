//! What flags and texts of the operator do to answers, records and metrics; and how a custom rule's refusal is told.

use super::gate::{Gate, Request};
use super::tokens;
use crate::pipeline::Step;
use serde_json::json;
use std::time::Duration;
use wire::policy::{Flag, FlagOverride, FlagState, PolicyDocument, ResponseText, Rules, Switch};

fn off(switches: &[Switch]) -> Flag {
    Flag { name: "off".into(), default: FlagState::Off, overrides: vec![], rollout_percent: None, switches: switches.into() }
}

fn outcome_of(record: &serde_json::Value, check: &str) -> serde_json::Value {
    let checks = record["checks"].as_array().unwrap();
    checks.iter().find(|made| made["check"] == json!(check)).map_or(json!(null), |made| made["outcome"].clone())
}

#[test]
fn a_check_that_a_flag_skips_is_recorded_and_counted_by_its_name() {
    let mut gate = Gate::with("PLANT", |document| document.flags.push(off(&[Switch::Permission, Switch::Budget])));
    let stream = gate.send(&Request::new("PUT", "/api/v1/industries/i-1").bearer(&tokens::with_role("viewer")).body("{}"));
    assert_eq!(stream.step, Step::Forward, "no permission is asked for, and nothing is charged that would take a lease");
    gate.complete(&stream);
    let record = gate.last_record();
    assert_eq!((outcome_of(&record, "Permission"), outcome_of(&record, "Budget")), (json!("SkippedByFlag"), json!("SkippedByFlag")));
    assert_eq!((outcome_of(&record, "Authentication"), &record["charges"]), (json!("Permit"), &json!([])));
    assert_eq!(gate.host.metric("gateway.checks_skipped.check=.=permission;.;total"), 1);
    assert_eq!(gate.host.metric("gateway.checks_skipped.check=.=budget;.;total"), 1);
    assert_eq!(gate.host.metric("gateway.checks_skipped.check=.=trial;.;total"), 0);
}

#[test]
fn a_flag_may_skip_a_check_for_certain_customers_only() {
    let mut gate = Gate::with("CP", |document| {
        let trial = document.flags.iter_mut().find(|flag| flag.name == "enable_trial_mode").unwrap();
        trial.overrides = vec![FlagOverride { customers: vec!["friend".into()], state: FlagState::Off }];
    });
    let expired = |customer: &str| {
        let over = super::gate::NOW.as_seconds() - 1;
        tokens::token(json!({ "roles": ["user"], "customer_id": customer, "trial_mode": true, "trial_expires_at": over }))
    };
    let request = |customer| Request::new("GET", "/api/v1/agents").bearer(&expired(customer));
    assert_eq!(gate.refused(&request("stranger")).status, 403);
    let stream = gate.send(&request("friend"));
    gate.sync(|_, _| {});
    assert!(gate.forwarded(&stream).is_some());
}

#[test]
fn a_route_whose_flag_is_off_answers_as_if_it_were_none_byte_for_byte() {
    let with_flag = |document: &mut PolicyDocument| {
        document.flags.push(off(&[]));
        document.routes.iter_mut().find(|route| route.name == "agents.list").unwrap().flag = Some("off".into());
    };
    let mut gate = Gate::with("PLANT", with_flag);
    let request = |path: &str| Request::new("GET", path).bearer(&tokens::admin()).with("x-correlation-id", "c-1");
    let stream = gate.send(&request("/api/v1/agents"));
    let (hidden, absent) = (gate.reply(&stream).unwrap(), gate.refused(&request("/api/v1/absent")));
    let told = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
    assert_eq!(told(&hidden.body), told(&absent.body).replace("/api/v1/absent", "/api/v1/agents"));
    assert_eq!((hidden.status, &hidden.headers, &hidden.details), (404, &absent.headers, &absent.details));
    gate.finish(&stream);
    let record = gate.last_record();
    assert_eq!((&record["reason"], &record["route"]), (&json!("feature_disabled"), &json!("agents.list")));
    // So it stays under another status and another text.
    let mut gate = Gate::with("PLANT", |document| {
        with_flag(document);
        document.settings.get_or_insert_default().no_route_status = 403;
        document.responses = vec![
            ResponseText { reason: "no_route".into(), detail: "Nothing here".into() },
            ResponseText { reason: "feature_disabled".into(), detail: "Ask us for it".into() },
        ];
    });
    let (hidden, absent) = (gate.refused(&request("/api/v1/agents")), gate.refused(&request("/api/v1/absent")));
    assert_eq!(told(&hidden.body), told(&absent.body).replace("/api/v1/absent", "/api/v1/agents"));
    assert_eq!((hidden.status, &hidden.problem()["detail"]), (403, &json!("Nothing here")));
}

#[test]
fn the_operator_s_text_takes_the_place_of_the_built_in_one() {
    let say = |reason: &str| ResponseText { reason: reason.into(), detail: format!("text of {reason}") };
    let reasons = [
        "permission_missing",
        "trial_restricted",
        "credential_missing",
        "ambiguous_path",
        "budget_spent",
        "policy_unavailable",
        "owner_missing",
    ];
    let mut gate = Gate::with("PLANT", |document| document.responses = reasons.map(say).into());
    let detail = |gate: &mut Gate, request: &Request| gate.refused(request).problem()["detail"].clone();
    let viewer = tokens::with_role("viewer");
    assert_eq!(detail(&mut gate, &Request::new("POST", "/api/v1/agents").bearer(&viewer)), json!("text of permission_missing"));
    assert_eq!(
        detail(&mut gate, &Request::new("GET", "/api/v1/invoices").bearer(&tokens::on_trial(60))),
        json!("text of trial_restricted")
    );
    assert_eq!(detail(&mut gate, &Request::new("GET", "/api/v1/agents")), json!("text of credential_missing"));
    assert_eq!(detail(&mut gate, &Request::new("GET", "/api//v1")), json!("text of ambiguous_path"));
    let nobody = tokens::token(json!({ "customer_id": null }));
    assert_eq!(detail(&mut gate, &Request::new("GET", "/api/v1/receipts").bearer(&nobody)), json!("text of owner_missing"));
    // What has none keeps its own; slug and status stay.
    let reply = gate.refused(&Request::new("GET", "/api/v1/agents").with("authorization", "Basic x"));
    assert_eq!(reply.problem()["detail"], json!("Authorization header must be in format: Bearer <token>"));
    let stream = gate.send(&Request::new("GET", "/api/v1/tasks").bearer(&tokens::admin()));
    gate.sync(|_, answer| {
        for account in &mut answer.accounts {
            (account.granted, account.cap, account.settled) = (0, 10, 10);
        }
    });
    let problem = gate.reply(&stream).unwrap().problem();
    assert_eq!((&problem["detail"], &problem["status"]), (&json!("text of budget_spent"), &json!(402)));
}

#[test]
fn the_operator_s_text_is_told_where_a_check_cannot_be_made() {
    let mut gate = Gate::with("PLANT", |document| {
        document.responses = vec![ResponseText { reason: "budget_unavailable".into(), detail: "Come back at noon".into() }];
    });
    let stream = gate.send(&Request::new("GET", "/api/v1/tasks").bearer(&tokens::admin()));
    gate.run(Duration::from_secs(4));
    let reply = gate.reply(&stream).unwrap();
    assert_eq!((reply.status, &reply.problem()["detail"]), (503, &json!("Come back at noon")));
}

#[test]
fn what_custom_rules_have_to_judge_is_never_forwarded_without_their_verdict() {
    let mut gate = Gate::with("PLANT", |document| {
        document.rules = Some(Rules {
            modules: vec!["rules/a.rego".into()],
            inputs: vec!["permission".into()],
            gateways: vec![wire::policy::Gateway::Plant],
            data: None,
        });
    });
    let stream = gate.send(&Request::new("GET", "/api/v1/tasks").bearer(&tokens::admin()));
    assert!(gate.forwarded(&stream).is_none());
    gate.finish(&stream);
}
