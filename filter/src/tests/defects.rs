//! The faults of the original that are no decisions, by their numbers: each of these fails on what the original did.

use super::gate::{Gate, NOW, Request, Stream};
use super::host::SharedData;
use super::tokens;
use crate::pipeline::Step;
use decision_core::time::Timestamp;
use serde_json::{Value, json};
use std::time::Duration;
use wire::policy::ApprovalAnswerStyle;
use wire::sync::{ApprovalAnswer, ApprovalOutcome, SyncAnswer, SyncRequest};

/// 2026-01-31T23:30:00Z: the last day of a month.
const LAST_DAY: Timestamp = Timestamp::from_seconds(1_769_902_200);

fn read() -> Request {
    Request::new("GET", "/api/v1/tasks").bearer(&tokens::admin())
}

/// As the control plane answers when these budgets are spent.
fn spent(budgets: &'static [&'static str]) -> impl FnOnce(&SyncRequest, &mut SyncAnswer) {
    move |_, answer| {
        for account in answer.accounts.iter_mut().filter(|account| budgets.contains(&&*account.budget)) {
            (account.granted, account.cap, account.settled) = (0, 10, 10);
        }
    }
}

fn approvals(outcome: ApprovalOutcome) -> impl FnOnce(&SyncRequest, &mut SyncAnswer) {
    move |request, answer| {
        answer.approvals =
            request.approvals.iter().map(|ask| ApprovalAnswer { request_id: ask.request_id, outcome: outcome.clone() }).collect();
    }
}

fn problem(gate: &Gate, stream: &Stream) -> Value {
    gate.reply(stream).unwrap().problem()
}

#[test]
fn d5_a_spent_budget_refuses() {
    for budgets in [&["agent-daily"], &["platform-monthly"]] {
        let mut gate = Gate::new("PLANT");
        let stream = gate.begin(&read());
        gate.sync(spent(budgets));
        let told = problem(&gate, &stream);
        assert_eq!((&told["status"], &told["budget"]["name"]), (&json!(402), &json!(budgets[0])));
        assert!(gate.forwarded(&stream).is_none());
    }
}

#[test]
fn d6_a_budget_has_a_period_and_an_agent_of_its_own() {
    let mut gate = Gate::new("PLANT");
    let stream = gate.begin(&read());
    let request = gate.sync(|_, _| {});
    let account = |budget: &str| request.accounts.iter().find(|account| account.budget == budget).unwrap();
    let day = NOW.as_seconds().div_euclid(86_400) * 86_400;
    let start = |budget: &str| account(budget).window_start;
    assert!(start("agent-daily") != start("platform-monthly"), "a day is no month");
    assert!(account("agent-daily").scope.contains("agent-1"), "the agent of the token and not its user");
    gate.complete(&stream);
    // The next day's account is another one.
    gate.host.now.set(Timestamp::from_seconds(day + 86_400));
    gate.know_revocations(&[]);
    let later = tokens::token(json!({ "iat": day + 86_340, "exp": day + 90_000 }));
    let stream = gate.begin(&Request::new("GET", "/api/v1/tasks").bearer(&later));
    assert_eq!(stream.step, Step::Held);
    let next = gate.sync(|_, _| {});
    assert!(next.accounts.iter().any(|known| known.budget == "agent-daily" && known.window_start > start("agent-daily")));
    gate.complete(&stream);
}

#[test]
fn d7_what_never_reached_the_backend_is_not_charged() {
    let mut gate = Gate::new("PLANT");
    gate.warm(&read());
    for (status, charged) in [(503, false), (200, true)] {
        let stream = gate.begin(&read());
        gate.respond(&stream, status);
        gate.finish(&stream);
        let record = gate.last_record();
        let amounts: Vec<i64> = record["charges"].as_array().unwrap().iter().map(|charge| charge["amount"].as_i64().unwrap()).collect();
        assert_eq!((amounts.len(), amounts.iter().all(|amount| *amount > 0)), (4, charged), "{status}");
    }
    assert_eq!(gate.held(), 0);
}

#[test]
fn d8_the_eleventh_task_of_a_trial_is_refused_until_midnight() {
    let mut gate = Gate::new("CP");
    let stream = gate.send(&Request::new("POST", "/api/v1/tasks").bearer(&tokens::on_trial(86_400)).body("{}"));
    gate.sync(spent(&["trial-tasks-daily"]));
    let reply = gate.reply(&stream).unwrap();
    let told = reply.problem();
    assert_eq!((reply.status, &told["type"]), (429, &json!("https://waooaw.com/errors/trial-limit-exceeded")));
    assert_eq!((&told["budget"]["limit"], &told["budget"]["resets_at"]), (&json!(10), &json!("2026-01-16T00:00:00Z")));
    let until_midnight = 86_400 - NOW.as_seconds().rem_euclid(86_400);
    let retry_after: i64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((until_midnight - 1..=until_midnight).contains(&retry_after), "{retry_after}");
}

#[test]
fn d9_a_governor_action_asks_for_an_approval_and_a_grant_lets_it_pass() {
    let mut gate = Gate::new("PP");
    gate.warm(&Request::new("GET", "/api/v1/agents").bearer(&tokens::admin()));
    let request = Request::new("DELETE", "/api/v1/agents/a-1").bearer(&tokens::admin());
    let stream = gate.send(&request);
    gate.sync(approvals(ApprovalOutcome::Pending { approval_id: "a-1".into(), url: "https://gateway.example/approvals/a-1".into() }));
    assert_eq!(problem(&gate, &stream)["type"], json!("https://waooaw.com/errors/approval-required"));
    gate.finish(&stream);
    let stream = gate.send(&request.with("x-approval-id", "a-1"));
    gate.sync(approvals(ApprovalOutcome::Granted));
    assert!(gate.forwarded(&stream).is_some());
}

#[test]
fn d27_without_anyone_to_ask_a_governor_action_does_not_pass() {
    let mut gate = Gate::new("PP");
    gate.warm(&Request::new("GET", "/api/v1/agents").bearer(&tokens::admin()));
    gate.host.unreachable.borrow_mut().extend(["control_plane".into(), "control_plane_poll".into()]);
    // As many as opened the original's circuit breaker, and more.
    for _ in 0..6 {
        let stream = gate.send(&Request::new("DELETE", "/api/v1/agents/x").bearer(&tokens::admin()));
        gate.run(Duration::from_secs(4));
        assert!(gate.forwarded(&stream).is_none());
        let told = problem(&gate, &stream);
        assert_eq!((&told["status"], &told["check"]), (&json!(503), &json!("approval")));
        gate.finish(&stream);
    }
    assert_eq!(gate.held(), 0);
}

#[test]
fn d27_without_a_policy_nothing_passes() {
    let mut gate = Gate::cold("PLANT", SharedData::default());
    let stream = gate.send(&Request::new("DELETE", "/api/v1/agents/x").bearer(&tokens::admin()));
    gate.run(Duration::from_secs(4));
    assert!(gate.forwarded(&stream).is_none());
    assert_eq!(problem(&gate, &stream)["type"], json!("https://waooaw.com/errors/policy-unavailable"));
}

#[test]
fn d31_nothing_of_the_request_gets_into_the_redirect() {
    let mut gate = Gate::with("PP", |document| document.approvals.get_or_insert_default().answer = ApprovalAnswerStyle::Redirect);
    gate.warm(&Request::new("GET", "/api/v1/agents").bearer(&tokens::admin()));
    let stream =
        gate.send(&Request::new("DELETE", "/api/v1/agents/a&user_id=evil&action=none?x=1&governor_id=evil").bearer(&tokens::admin()));
    let url = "https://gateway.example/approvals/01";
    gate.sync(approvals(ApprovalOutcome::Pending { approval_id: "01".into(), url: url.into() }));
    let reply = gate.reply(&stream).unwrap();
    assert_eq!((reply.status, reply.header("location").as_deref()), (307, Some(url)));
}

#[test]
fn d38_on_the_last_day_of_a_month_a_limit_is_a_limit_and_no_fault() {
    let mut gate = Gate::new("CP");
    gate.host.now.set(LAST_DAY);
    gate.know_revocations(&[]);
    let claims = json!({
        "roles": ["user"], "trial_mode": true, "trial_expires_at": LAST_DAY.as_seconds() + 86_400,
        "iat": LAST_DAY.as_seconds() - 60, "exp": LAST_DAY.as_seconds() + 600,
    });
    let stream = gate.send(&Request::new("POST", "/api/v1/tasks").bearer(&tokens::token(claims)).body("{}"));
    gate.sync(spent(&["trial-tasks-daily"]));
    let reply = gate.reply(&stream).unwrap();
    let told = reply.problem();
    assert_eq!((reply.status, &told["budget"]["resets_at"]), (429, &json!("2026-02-01T00:00:00Z")));
    let retry_after: i64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1_799..=1_800).contains(&retry_after), "{retry_after}");
}

#[test]
fn d38_a_month_s_budget_resets_on_the_first_of_the_next() {
    let mut gate = Gate::new("PLANT");
    for (now, first) in [(LAST_DAY, "2026-02-01T00:00:00Z"), (Timestamp::from_seconds(1_798_761_599), "2027-01-01T00:00:00Z")] {
        gate.host.now.set(now);
        gate.know_revocations(&[]);
        let claims = json!({ "iat": now.as_seconds() - 60, "exp": now.as_seconds() + 600 });
        let stream = gate.begin(&Request::new("GET", "/api/v1/tasks").bearer(&tokens::token(claims)));
        gate.sync(spent(&["platform-monthly"]));
        assert_eq!(problem(&gate, &stream)["budget"]["resets_at"], json!(first));
        gate.finish(&stream);
    }
}

#[test]
fn d39_what_is_closed_to_trials_is_forbidden_and_not_to_be_tried_again() {
    let mut gate = Gate::new("CP");
    let reply = gate.refused(&Request::new("GET", "/api/v1/billing").bearer(&tokens::on_trial(60)));
    assert_eq!((reply.status, reply.header("retry-after")), (403, None));
    assert_eq!(reply.problem()["type"], json!("https://waooaw.com/errors/trial-restricted"));
}

#[test]
fn d41_a_request_goes_to_the_backend_once_whatever_it_answers() {
    let mut gate = Gate::new("PLANT");
    gate.warm(&read());
    let stream = gate.begin(&read());
    assert_eq!(stream.step, Step::Forward);
    gate.host.take_calls();
    gate.respond(&stream, 500);
    gate.finish(&stream);
    let calls = gate.host.take_calls();
    assert!(!calls.iter().any(|call| ["reply", "resume_request", "http_call"].contains(&&**call)), "{calls:?}");
    let record = gate.last_record();
    assert_eq!((&record["decision"], &record["status"]), (&json!("Permit"), &json!(500)));
}

#[test]
fn d48_two_spent_budgets_are_one_refusal_that_names_the_first() {
    let mut gate = Gate::new("PLANT");
    let stream = gate.begin(&read());
    gate.sync(spent(&["agent-daily", "platform-monthly", "rate-paid-hour"]));
    let told = problem(&gate, &stream);
    assert_eq!((&told["status"], &told["budget"]["name"]), (&json!(402), &json!("agent-daily")));
    gate.finish(&stream);
    let record = gate.last_record();
    assert_eq!((&record["reason"], &record["rule"]), (&json!("budget_spent"), &json!("agent-daily")), "the record names it too");
}
