//! Golden cases through a real Envoy: what the client gets and what the audit log says is what the case wants. The same cases are
//! decided natively by the tests of `wire`.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

#[path = "../../wire/tests/golden/case.rs"]
mod case;

use std::collections::BTreeMap;
use std::time::Duration;

use case::{Approval, Case, CaseFile, RegistrationKey, Target, Token, TrialEnd, Verdict};
use cli::stack::{Stack, State, repository};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Answer, Ask, Client};
use e2e::stacks::{options, ports, told};
use e2e::tokens::faulty;
use serde_json::Value;
use wire::policy::Gateway;

const FLUSH: Duration = Duration::from_secs(10);
const DAY: i64 = 86_400;

#[tokio::test]
async fn every_case_that_names_envoy_comes_out_as_it_wants() {
    let stack = Stack::start(options("golden", ports::GOLDEN).unwrap()).unwrap_or_else(|error| panic!("{}", told(&error)));
    let state = stack.state();
    let mut clients: BTreeMap<String, Client> = state.gateways.iter().map(|(name, url)| (name.clone(), Client::new(url))).collect();
    let mut admin = Admin::new(state);
    let cases = cases();
    assert!(cases.len() >= 40, "{} cases", cases.len());
    let mut answers = Vec::new();
    for (index, (_, case)) in cases.iter().enumerate() {
        let ask = ask(state, case, index);
        answers.push(clients.get_mut(gateway(case)).unwrap().send(&ask).await.unwrap());
    }
    let mut failures = Vec::new();
    for (index, ((file, case), answer)) in cases.iter().zip(&answers).enumerate() {
        let mut differences = answer_differs(case, answer);
        match admin.audit_record(&correlation_id(index), FLUSH).await.unwrap() {
            Some(record) => differences.extend(record_differs(case, &record)),
            None => differences.push("there is no audit record".to_owned()),
        }
        if !differences.is_empty() {
            failures.push(format!("{file}: {}:\n  {}\n  {}", case.name, differences.join("\n  "), answer.text()));
        }
    }
    println!("{} cases through Envoy", cases.len());
    assert!(failures.is_empty(), "{} of {} cases failed:\n{}", failures.len(), cases.len(), failures.join("\n"));
    stack.stop();
}

fn cases() -> Vec<(String, Case)> {
    let mut files: Vec<_> = std::fs::read_dir(repository().join("policies/cases")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let mut cases = Vec::new();
    for path in files {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let parsed: CaseFile = serde_norway::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        cases.extend(parsed.cases.into_iter().filter(|case| case.envoy).map(|case| (file.clone(), case)));
    }
    cases
}

fn correlation_id(index: usize) -> String {
    format!("golden-{index}")
}

fn gateway(case: &Case) -> &'static str {
    match case.gateway {
        Gateway::Cp => "CP",
        Gateway::Pp => "PP",
        Gateway::Plant => "PLANT",
        Gateway::Admin => panic!("{}: the admin API is not behind Envoy", case.name),
    }
}

fn ask(state: &State, case: &Case, index: usize) -> Ask {
    let mut ask = Ask::new(&case.method, &case.path).header("x-correlation-id", correlation_id(index));
    if let Some(authorization) = authorization(state, case) {
        ask = ask.header("authorization", authorization);
    }
    if ["POST", "PUT", "PATCH"].contains(&case.method.as_str()) {
        ask = ask.json(&serde_json::json!({}));
    }
    match case.registration_key {
        Some(RegistrationKey::Valid) => ask.header("x-cp-registration-key", &state.registration_key),
        Some(RegistrationKey::Invalid) => ask.header("x-cp-registration-key", "not-the-key"),
        None => ask,
    }
}

fn authorization(state: &State, case: &Case) -> Option<String> {
    match &case.token {
        Token::None(_) => None,
        Token::Bad(bad) => {
            let (issuer, role) = if gateway(case) == "PP" { ("pp", "admin") } else { ("cp", "customer_admin") };
            let value = faulty(&state.issuers[issuer], TokenSpec::new(&case.name, &[role]), &bad.fault).unwrap();
            Some(value.unwrap_or_else(|| panic!("{}: no token can have the fault `{}`", case.name, bad.fault)))
        }
        Token::Good(claims) => {
            let roles: Vec<&str> = claims.roles.iter().map(String::as_str).collect();
            let mut spec = TokenSpec::new(&case.name, &roles);
            spec.customer_id.clone_from(&claims.customer_id);
            spec.agent_id.clone_from(&claims.agent_id);
            spec.governor_agent_id.clone_from(&claims.governor_agent_id);
            if let Some(tier) = &claims.tier {
                spec = spec.claim("tier", Value::from(tier.as_str()));
            }
            if claims.trial_mode {
                spec = spec.trial_for(match claims.trial_expires_at {
                    Some(TrialEnd::Future) => 7 * DAY,
                    Some(TrialEnd::Past) => -DAY,
                    Some(TrialEnd::Now | TrialEnd::SecondAgo) | None => panic!("{}: Envoy's clock is not ours", case.name),
                });
            }
            let issuer = state.issuers.get(&claims.issuer).unwrap_or_else(|| panic!("{}: issuer `{}`", case.name, claims.issuer));
            Some(format!("Bearer {}", mint(issuer, &spec).unwrap()))
        }
    }
}

/// The check that a coded reason belongs to.
fn check(reason: &str) -> &str {
    match reason {
        "ambiguous_path" | "ambiguous_header" => "path",
        "no_route" => "route",
        "permission_missing" => "permission",
        "trial_expired" | "trial_restricted" => "trial",
        "owner_missing" => "ownership",
        "approval_required" | "approval_refused" => "approval",
        _ => "authentication",
    }
}

fn answer_differs(case: &Case, answer: &Answer) -> Vec<String> {
    let mut differences = Differences::default();
    let want = &case.want;
    differences.note("status", want.status, answer.status);
    if want.status == 200 {
        let target = match want.target {
            Target::Production => "production",
            Target::Sandbox => "sandbox",
        };
        differences.note("backend", Some(target), answer.header("x-echo-listener"));
    } else if case.method != "HEAD" {
        let problem = answer.json();
        differences.note("check", Some(check(&want.reason)), problem["check"].as_str());
        differences.note("rule", want.route.as_deref(), problem["rule"].as_str());
        differences.note("status in the body", Some(u64::from(want.status)), problem["status"].as_u64());
    }
    differences.0
}

fn record_differs(case: &Case, record: &Value) -> Vec<String> {
    let mut differences = Differences::default();
    let want = &case.want;
    // A request that needs an approval is permitted by the rules, and refused for want of one.
    let decision = if want.decision == Verdict::Permit && want.approval == Approval::None { "permit" } else { "deny" };
    differences.note("decision in the record", Some(decision), record["decision"].as_str());
    differences.note("reason in the record", Some(want.reason.as_str()), record["reason"].as_str());
    differences.note("route in the record", want.route.as_deref(), record["route"].as_str());
    differences.note("status in the record", Some(u64::from(want.status)), record["status_code"].as_u64());
    differences.note("approval in the record", want.approval == Approval::Needed, record["approval_id"].is_string());
    differences.note("stage in the record", Some("filter"), record["stage"].as_str());
    if want.status == 200 {
        differences.note("sandbox in the record", Some(want.target == Target::Sandbox), record["sandbox"].as_bool());
        if let Some(charges) = &want.charges {
            let charged: BTreeMap<String, i64> = record["charges"]
                .as_array()
                .unwrap()
                .iter()
                .map(|charge| (charge["budget"].as_str().unwrap().to_owned(), charge["amount"].as_i64().unwrap()))
                .collect();
            differences.note("charges in the record", charges, &charged);
        }
    }
    differences.0
}

#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn note<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, want: T, got: T) {
        if want != got {
            self.0.push(format!("{what}: want {want:?}, got {got:?}"));
        }
    }
}
