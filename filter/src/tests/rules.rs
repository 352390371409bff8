//! Custom rules through the filter: every outcome in the answer and in the record, what is remembered, and how they come and go with
//! bundles.

use super::gate::{Gate, Request, document, image, version};
use super::host::SharedData;
use super::tokens;
use crate::counters::name;
use crate::pipeline::Step;
use crate::vm::NotActivated;
use rules::{Fault, LoadError};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use wire::bundle::{Bundle, BundleVersion, RuleVector, RulesImage, ShadowPolicy};
use wire::policy::{Flag, FlagOverride, FlagState, Gateway, PolicyDocument, Rules, Switch, Target};
use wire::sync::Aspect;

const AGENTS: &str = "/api/v1/agents";
const INPUTS: [&str; 4] = ["method", "path", "jwt.roles", "jwt.customer_id"];

/// What a bundle carries of rules with this module, and no vectors.
fn rules_image(module: &str) -> RulesImage {
    RulesImage {
        modules: vec![("rules/test.rego".into(), format!("package gateway\n\n{module}\n"))],
        data: r#"{"office": {"opens": 8}}"#.into(),
        inputs: INPUTS.map(String::from).into(),
        vectors: vec![],
    }
}

/// The default policy in which rules judge this gateway, and nothing is charged.
fn ruled(policy: &mut PolicyDocument, gateways: &[Gateway]) {
    policy.budgets.retain(|budget| policy.routes.iter().any(|route| route.limit.as_deref() == Some(budget.name.as_str())));
    policy.rules = Some(Rules {
        modules: vec!["rules/test.rego".into()],
        inputs: INPUTS.map(String::from).into(),
        gateways: gateways.into(),
        data: None,
    });
}

fn bundle(version: BundleVersion, rules: RulesImage, change: impl FnOnce(&mut PolicyDocument)) -> Bundle {
    let mut policy = document();
    ruled(&mut policy, &[Gateway::Plant]);
    change(&mut policy);
    let mut bundle = Bundle::decode(&image(&policy, version)).unwrap();
    bundle.rules = Some(rules);
    bundle
}

fn activate(gate: &Gate, bundle: &Bundle) -> Result<(), NotActivated> {
    gate.vm.borrow_mut().activate(&gate.host, &bundle.encode().unwrap())
}

/// A machine on which these rules judge.
fn gate_of(bundle: &Bundle) -> Gate {
    let gate = Gate::cold("PLANT", SharedData::default());
    activate(&gate, bundle).unwrap();
    gate.know_revocations(&[]);
    gate
}

fn gate(module: &str) -> Gate {
    gate_of(&bundle(version(1), rules_image(module), |_| {}))
}

fn list() -> Request {
    Request::new("GET", AGENTS).bearer(&tokens::admin())
}

fn outcome(record: &Value, check: &str) -> Value {
    let checks = record["checks"].as_array().unwrap();
    checks.iter().find(|made| made["check"] == json!(check)).map_or(Value::Null, |made| made["outcome"].clone())
}

/// How many rulings the rules in force remember.
fn remembered(gate: &Gate) -> usize {
    let vm = gate.vm.borrow();
    vm.active.as_ref().and_then(|active| active.rules.as_ref()).map_or(0, |rules| rules.remembered())
}

/// The problem and the record of a request that is refused.
fn refusal(gate: &mut Gate, request: &Request) -> (Value, Value) {
    let stream = gate.send(request);
    assert_eq!(stream.step, Step::Answered);
    let reply = gate.reply(&stream).unwrap();
    assert_eq!((reply.status, reply.details.as_str()), (403, "gateway_denied:rules"));
    gate.finish(&stream);
    (reply.problem(), gate.last_record())
}

/// The record of a request that is forwarded, and where it went.
fn forwarded(gate: &mut Gate, request: &Request) -> (Value, Option<String>) {
    let stream = gate.send(request);
    assert_eq!(stream.step, Step::Forward);
    let target = super::host::find(&gate.forwarded(&stream).unwrap(), "x-target-backend");
    gate.complete(&stream);
    (gate.last_record(), target)
}

#[test]
fn what_rules_allow_is_forwarded_and_the_record_has_the_check_and_no_rule() {
    let mut gate = gate(r#"decision := {"allow": true, "rule": "everybody", "reason": "why not"}"#);
    let (record, target) = forwarded(&mut gate, &list());
    assert_eq!((outcome(&record, "Rules"), &record["rule"], target), (json!("Permit"), &Value::Null, None));
    assert_eq!((&record["decision"], &record["reason"], &record["sandbox"]), (&json!("Permit"), &json!("ok"), &json!(false)));
}

#[test]
fn what_rules_refuse_is_told_with_their_name_and_reason() {
    let mut gate = gate(r#"decision := {"allow": false, "rule": "closed", "reason": sprintf("Open from %d", [data.office.opens])}"#);
    let (problem, record) = refusal(&mut gate, &list());
    assert_eq!((&problem["status"], &problem["rule_id"], &problem["detail"]), (&json!(403), &json!("closed"), &json!("Open from 8")));
    assert!(problem["type"].as_str().unwrap().ends_with("rule-refused"), "{problem}");
    assert_eq!((outcome(&record, "Rules"), &record["rule"]), (json!("Deny"), &json!("closed")));
    assert_eq!((&record["decision"], &record["reason"], &record["status"]), (&json!("Deny"), &json!("rule_refused"), &json!(403)));
    assert_eq!(record["route"], "agents.list");
}

#[test]
fn a_rule_without_a_reason_is_told_in_the_built_in_words() {
    let (problem, _) = refusal(&mut gate(r#"decision := {"allow": false, "rule": "no"}"#), &list());
    assert_eq!((&problem["rule_id"], &problem["detail"]), (&json!("no"), &json!("A rule of the operator refuses this request")));
}

#[test]
fn rules_are_not_asked_about_what_the_tables_refuse_or_let_through_without_a_user() {
    let mut gate = gate(r#"decision := {"allow": false, "rule": "nobody"}"#);
    let viewer = Request::new("POST", AGENTS).bearer(&tokens::with_role("viewer"));
    for (request, status) in [(Request::new("GET", AGENTS), 401), (viewer, 403), (Request::new("GET", "/none"), 404)] {
        let stream = gate.send(&request);
        assert_eq!(gate.reply(&stream).unwrap().status, status);
        gate.finish(&stream);
        let record = gate.last_record();
        assert_eq!((outcome(&record, "Rules"), &record["rule"]), (Value::Null, &Value::Null), "{record}");
    }
    let public = gate.send(&Request::new("POST", "/api/v1/auth/logout"));
    assert_eq!(public.step, Step::Forward);
    assert_eq!(remembered(&gate), 0);
}

#[test]
fn a_target_that_rules_name_takes_the_place_of_the_tables() {
    let module = r#"
default decision := {"allow": true, "rule": "as it is"}
decision := {"allow": true, "rule": "sandbox", "target": "sandbox"} if input.method == "GET"
else := {"allow": true, "rule": "production", "target": "production"} if input.method == "HEAD"
"#;
    let mut gate = gate_of(&bundle(version(1), rules_image(module), |policy| {
        policy.routing.get_or_insert_default().trials = Target::Sandbox;
        let list = policy.routes.iter_mut().find(|route| route.name == "agents.list").unwrap();
        list.methods = vec![wire::policy::Method::Get, wire::policy::Method::Head, wire::policy::Method::Options];
    }));
    let trial = tokens::on_trial(60);
    let sandbox = Some("sandbox".to_owned());
    for (method, token, expected) in [
        ("GET", tokens::admin(), sandbox.clone()),
        ("HEAD", tokens::admin(), None),
        ("OPTIONS", tokens::admin(), None),
        ("GET", trial.clone(), sandbox.clone()),
        ("HEAD", trial.clone(), None),
        ("OPTIONS", trial, sandbox),
    ] {
        let (record, target) = forwarded(&mut gate, &Request::new(method, AGENTS).bearer(&token));
        assert_eq!((record["sandbox"].as_bool(), &target), (Some(expected.is_some()), &expected), "{method}");
    }
}

#[test]
fn every_fault_refuses_under_its_name() {
    let slow = r#"decision := {"allow": count(xs) > 0, "rule": "slow"}
ns := [a | some a in split("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20", " ")]
xs := [1 | some a in ns; some b in ns; some c in ns; some d in ns; some e in ns; a != b]"#;
    for (fault, module) in [
        (Fault::Undefined, r#"decision := {"allow": true, "rule": "r"} if input.method == "PUT""#),
        (Fault::Failed, r#"decision := {"allow": true, "rule": lower(input.jwt.roles)}"#),
        (Fault::TimedOut, slow),
        (Fault::NotAnObject, "decision := true"),
        (Fault::Malformed, r#"decision := {"allow": "yes", "rule": "r"}"#),
        (Fault::UnknownTarget, r#"decision := {"allow": true, "rule": "r", "target": "elsewhere"}"#),
    ] {
        let mut gate = gate(module);
        let begun = Instant::now();
        let (problem, record) = refusal(&mut gate, &list());
        // It would take 3.2 million rounds.
        assert!(begun.elapsed() < Duration::from_millis(500), "{fault:?} took {:?}", begun.elapsed());
        assert_eq!((&problem["rule_id"], &record["rule"]), (&json!(fault.rule()), &json!(fault.rule())), "{fault:?}");
        assert_eq!((outcome(&record, "Rules"), &record["reason"]), (json!("Deny"), &json!("rule_refused")), "{fault:?}");
        let kept = usize::from(fault != Fault::TimedOut);
        assert_eq!(remembered(&gate), kept, "{fault:?}: what was slow once need not be slow again");
    }
    assert_eq!(Fault::ALL.len(), 6, "a fault without a case above");
}

#[test]
fn equal_inputs_are_answered_from_memory_and_others_anew() {
    let mut gate = gate(r#"decision := {"allow": true, "rule": "seen"}"#);
    let item = |number: u32| Request::new("GET", &format!("{AGENTS}/{number}")).bearer(&tokens::admin());
    for (request, kept) in [(list(), 1), (list(), 1), (item(1), 2), (item(1), 2), (item(2), 3), (list(), 3)] {
        forwarded(&mut gate, &request);
        assert_eq!(remembered(&gate), kept);
    }
    // Another user whose declared claims are the same is the same to the rules.
    forwarded(&mut gate, &Request::new("GET", AGENTS).bearer(&tokens::token(json!({ "user_id": "another", "sub": "another" }))));
    assert_eq!(remembered(&gate), 3);
    forwarded(&mut gate, &Request::new("GET", AGENTS).bearer(&tokens::token(json!({ "customer_id": "another" }))));
    assert_eq!(remembered(&gate), 4);
}

#[test]
fn a_ruling_asks_nothing_of_envoy() {
    let mut with = gate(r#"decision := {"allow": true, "rule": "seen"}"#);
    let mut without = gate_of(&bundle(version(1), rules_image("decision := 1"), |policy| ruled(policy, &[Gateway::Cp])));
    let calls = |gate: &mut Gate| {
        // Metrics are defined when they are first counted, tokens verified when they are first seen.
        for _ in 0..2 {
            gate.host.take_calls();
            forwarded(gate, &list());
        }
        gate.host.take_calls()
    };
    assert_eq!(calls(&mut with), calls(&mut without));
}

#[test]
fn a_flag_switches_rules_off_for_those_whom_it_names() {
    let module = r#"decision := {"allow": false, "rule": "nobody"}"#;
    let mut gate = gate_of(&bundle(version(1), rules_image(module), |policy| {
        policy.flags.push(Flag {
            name: "custom-rules".into(),
            default: FlagState::On,
            overrides: vec![FlagOverride { customers: vec!["friend".into()], state: FlagState::Off }],
            rollout_percent: None,
            switches: vec![Switch::Rules],
        });
    }));
    refusal(&mut gate, &list());
    let friend = tokens::token(json!({ "customer_id": "friend" }));
    let (record, _) = forwarded(&mut gate, &Request::new("GET", AGENTS).bearer(&friend));
    assert_eq!((outcome(&record, "Rules"), &record["rule"]), (json!("SkippedByFlag"), &Value::Null));
    assert_eq!(gate.host.metric("gateway.checks_skipped.check=.=rules;.;total"), 1);
}

#[test]
fn rules_judge_the_gateways_that_they_name_and_no_other() {
    let module = r#"decision := {"allow": false, "rule": "nobody"}"#;
    let mut gate = gate_of(&bundle(version(1), rules_image(module), |policy| ruled(policy, &[Gateway::Cp, Gateway::Pp])));
    let (record, _) = forwarded(&mut gate, &list());
    assert_eq!(outcome(&record, "Rules"), Value::Null);
}

#[test]
fn rules_come_and_go_with_their_bundle_and_what_they_said_goes_with_them() {
    let allow = r#"decision := {"allow": true, "rule": "yes"}"#;
    let deny = r#"decision := {"allow": false, "rule": "no"}"#;
    let mut gate = gate(allow);
    forwarded(&mut gate, &list());
    assert_eq!(remembered(&gate), 1);
    activate(&gate, &bundle(version(2), rules_image(deny), |_| {})).unwrap();
    assert_eq!(remembered(&gate), 0);
    assert_eq!(refusal(&mut gate, &list()).0["rule_id"], "no");
    let without = bundle(version(3), rules_image(deny), |policy| policy.rules = None);
    activate(&gate, &Bundle { rules: None, ..without }).unwrap();
    let (record, _) = forwarded(&mut gate, &list());
    assert_eq!(outcome(&record, "Rules"), Value::Null);
    activate(&gate, &bundle(version(4), rules_image(deny), |_| {})).unwrap();
    assert_eq!(refusal(&mut gate, &list()).0["rule_id"], "no");
}

fn vector(method: &str, decision: &Value) -> RuleVector {
    RuleVector { input: json!({ "method": method }).to_string(), decision: decision.to_string() }
}

#[test]
fn a_bundle_whose_rules_decide_otherwise_than_they_did_is_refused_and_the_old_one_stays() {
    let by_method = r#"
default decision := {"allow": false, "rule": "other"}
decision := {"allow": true, "rule": "get"} if input.method == "GET"
"#;
    let mut gate = gate(r#"decision := {"allow": true, "rule": "yes"}"#);
    let yes = json!({ "allow": true, "rule": "get", "reason": "" });
    let no = json!({ "allow": false, "rule": "other", "reason": "" });
    let with = |vectors: Vec<RuleVector>| RulesImage { vectors, ..rules_image(by_method) };
    let differs = with(vec![vector("GET", &yes), vector("PUT", &yes)]);
    let refused = activate(&gate, &bundle(version(2), differs.clone(), |_| {})).unwrap_err();
    assert!(matches!(refused, NotActivated::Rules(LoadError::Differs { number: 1, .. })), "{refused}");
    assert_eq!((gate.host.metric(name::BUNDLE_REFUSED), gate.vm.borrow().active.as_ref().unwrap().version), (1, version(1)));
    forwarded(&mut gate, &Request::new("PUT", &format!("{AGENTS}/1")).bearer(&tokens::admin()));
    // So are rules of a revision in shadow, with all that came beside them.
    let mut shadowed = bundle(BundleVersion { shadow: 1, ..version(2) }, rules_image(by_method), |_| {});
    shadowed.shadow = Some(ShadowPolicy { revision: 77, policy: shadowed.policy.clone(), rules: Some(differs) });
    let refused = activate(&gate, &shadowed).unwrap_err();
    assert!(matches!(refused, NotActivated::Rules(LoadError::Differs { number: 1, .. })), "{refused}");
    // And modules that do not parse, and data that are no object.
    let broken = RulesImage { modules: vec![("rules/test.rego".into(), "package gateway\n\ndecision :=".into())], ..rules_image("") };
    let refused = activate(&gate, &bundle(version(2), broken, |_| {})).unwrap_err();
    assert!(refused.to_string().contains("rules/test.rego"), "{refused}");
    let listed = RulesImage { data: "[]".into(), ..rules_image(by_method) };
    assert!(matches!(activate(&gate, &bundle(version(2), listed, |_| {})), Err(NotActivated::Rules(LoadError::Data))));
    activate(&gate, &bundle(version(2), with(vec![vector("GET", &yes), vector("PUT", &no)]), |_| {})).unwrap();
    assert_eq!(refusal(&mut gate, &Request::new("PUT", &format!("{AGENTS}/1")).bearer(&tokens::admin())).0["rule_id"], "other");
}

#[test]
fn rules_in_shadow_are_compared_and_decide_nothing() {
    let (allow, deny) = (r#"decision := {"allow": true, "rule": "yes"}"#, r#"decision := {"allow": false, "rule": "no"}"#);
    let sandbox = r#"decision := {"allow": true, "rule": "yes", "target": "sandbox"}"#;
    for (active, shadow, expected) in [
        (allow, allow, None),
        (deny, deny, None),
        (allow, deny, Some((wire::audit::Check::Rules, "ok", "rule_refused"))),
        (deny, allow, Some((wire::audit::Check::Rules, "rule_refused", "ok"))),
        (allow, sandbox, Some((wire::audit::Check::Routing, "production", "sandbox"))),
    ] {
        let mut both = bundle(BundleVersion { shadow: 1, ..version(1) }, rules_image(active), |_| {});
        both.shadow = Some(ShadowPolicy { revision: 77, policy: both.policy.clone(), rules: Some(rules_image(shadow)) });
        let mut gate = gate_of(&both);
        let stream = gate.send(&list());
        assert_eq!(stream.step == Step::Forward, active != deny, "a shadow decides nothing");
        gate.finish(&stream);
        let record = gate.last_record();
        let report = gate.vm.borrow_mut().comparison.report().unwrap();
        let found = report.differences.first().map(|difference| (difference.aspect, &*difference.active, &*difference.shadow));
        let expected = expected.map(|(check, active, shadow)| (Aspect::Check(check), active, shadow));
        assert_eq!((report.compared, found), (1, expected), "{active} / {shadow}");
        let sampled =
            expected.map(|(check, _, reason)| if check == Aspect::Check(wire::audit::Check::Rules) { json!(reason) } else { json!("ok") });
        assert_eq!(record["shadow"]["reason"], sampled.unwrap_or_default(), "{active} / {shadow}");
    }
}

#[test]
fn a_request_that_waited_is_ruled_upon_when_it_goes_on() {
    let module = r#"decision := {"allow": false, "rule": "closed"}"#;
    let mut gate = Gate::cold("PLANT", SharedData::default());
    let waiting = gate.begin(&list());
    assert_eq!(waiting.step, Step::Held);
    gate.know_revocations(&[]);
    activate(&gate, &bundle(version(1), rules_image(module), |_| {})).unwrap();
    gate.learn();
    assert_eq!(gate.reply(&waiting).unwrap().problem()["rule_id"], "closed");
}
