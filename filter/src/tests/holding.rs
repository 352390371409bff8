//! Requests that wait: for a policy, for a lease. What a client that leaves held is given back.

use super::gate::{Gate, Request, document, grant_all, image, version};
use super::host::SharedData;
use super::tokens;
use crate::exchange::State;
use crate::pipeline::Step;
use crate::vm::WAITING_MAX;
use serde_json::json;
use std::time::Duration;
use wire::sync::{SyncAnswer, SyncRequest};

const SECONDS_3: Duration = Duration::from_secs(3);

fn read() -> Request {
    Request::new("GET", "/api/v1/tasks").bearer(&tokens::admin())
}

/// Only the budgets that fail open.
fn rates_only(gateway: &str) -> Gate {
    Gate::with(gateway, |document| document.budgets.retain(|budget| !budget.durable))
}

fn spent(budget: &'static str) -> impl FnOnce(&SyncRequest, &mut SyncAnswer) {
    move |_, answer| {
        for account in answer.accounts.iter_mut().filter(|account| account.budget == budget) {
            (account.granted, account.cap, account.settled) = (0, 1_000, 1_000);
        }
    }
}

#[test]
fn a_request_before_the_first_bundle_waits_for_it_and_is_then_decided() {
    let mut gate = Gate::cold("PLANT", SharedData::default());
    let (good, bad) = (gate.begin(&read()), gate.begin(&Request::new("GET", "/none")));
    assert_eq!((good.step, bad.step), (Step::Held, Step::Held));
    gate.run(Duration::from_millis(500));
    let poll = gate.take_call("/data-plane/v1/bundle").unwrap();
    gate.answer(&poll, &[(":status", b"200"), ("etag", b"\"1\"")], image(&document(), version(1)));
    assert_eq!(gate.reply(&bad).unwrap().status, 404);
    // For the other one it has to be known what is revoked; then it has no lease yet.
    gate.run(Duration::from_millis(100));
    gate.serve_revocations(&super::gate::page(true, 0, &[]));
    assert!(gate.reply(&good).is_none() && gate.forwarded(&good).is_none());
    gate.sync(|_, _| {});
    assert!(gate.forwarded(&good).is_some());
}

#[test]
fn a_request_before_the_first_bundle_is_told_to_retry_when_none_comes() {
    let mut gate = Gate::cold("PLANT", SharedData::default());
    let stream = gate.begin(&read());
    gate.run(Duration::from_millis(2_980));
    assert!(gate.reply(&stream).is_none());
    gate.run(Duration::from_millis(40));
    let reply = gate.reply(&stream).unwrap();
    assert_eq!((reply.status, &reply.problem()["check"], reply.header("retry-after").as_deref()), (503, &json!("policy"), Some("1")));
    gate.finish(&stream);
    let record = gate.last_record();
    assert_eq!((&record["decision"], &record["reason"]), (&json!("Indeterminate"), &json!("policy_unavailable")));
    assert!(gate.vm.borrow().waiting.is_empty());
}

#[test]
fn a_request_without_a_lease_waits_for_one_call_and_goes_on() {
    let mut gate = Gate::new("PLANT");
    let stream = gate.begin(&read());
    assert_eq!(stream.step, Step::Held);
    let request = gate.sync(|_, _| {});
    assert_eq!((request.call, request.activation, request.accounts.len()), (1, 1, 4));
    assert!(request.accounts.iter().all(|account| account.minimum > 0 && account.target >= account.minimum && !account.close));
    assert!(gate.forwarded(&stream).is_some());
    assert_eq!(gate.begin(&read()).step, Step::Forward);
    gate.complete(&stream);
}

/// The root's turn comes every 20 ms; a call takes one or two.
#[test]
fn a_request_that_is_held_wakes_the_root_once_and_an_answer_makes_the_next_call() {
    let mut gate = Gate::new("PLANT");
    gate.tick();
    let rung = |gate: &Gate| gate.host.queues.borrow().as_ref().unwrap()[0].1;
    let stream = gate.begin(&read());
    let second = gate.begin(&read());
    assert_eq!((stream.step, second.step, rung(&gate)), (Step::Held, Step::Held, 1));
    gate.woken();
    assert_eq!(rung(&gate), 0);
    let (call, request) = gate.taken_call().unwrap();
    assert_eq!(request.accounts.len(), 4);
    let third =
        gate.begin(&Request::new("GET", "/api/v1/tasks").bearer(&tokens::token(json!({"sub": "user-7", "customer_id": "customer-7"}))));
    assert_eq!((third.step, rung(&gate)), (Step::Held, 0), "one call at a time");
    gate.answer_sync(&call, &grant_all(&request));
    assert!(gate.forwarded(&stream).is_some() && gate.forwarded(&second).is_some() && gate.forwarded(&third).is_none());
    // No tick in between.
    let (call, request) = gate.taken_call().unwrap();
    assert_eq!(request.call, 2);
    gate.answer_sync(&call, &grant_all(&request));
    assert!(gate.forwarded(&third).is_some());
}

#[test]
fn without_queues_the_call_is_made_at_the_next_tick() {
    let mut gate = Gate::new("PLANT");
    gate.host.queues.replace(None);
    gate.tick();
    let stream = gate.begin(&read());
    assert!(stream.step == Step::Held && gate.taken_call().is_none());
    gate.sync(|_, _| {});
    assert!(gate.forwarded(&stream).is_some());
    assert_eq!(gate.host.take_calls().iter().filter(|call| *call == "register_queue").count(), 1, "asked once");
}

/// Storing records is what takes long in a call.
#[test]
fn who_waits_for_a_lease_does_not_wait_for_records() {
    let mut gate = Gate::new("PLANT");
    let stream = gate.begin(&read());
    gate.sync(|_, _| {});
    gate.complete(&stream);
    gate.begin(&Request::new("GET", "/api/v1/tasks").bearer(&tokens::token(json!({"sub": "user-7", "customer_id": "customer-7"}))));
    let (call, request) = gate.sync_call().unwrap();
    assert!(request.records.is_none() && request.accounts.iter().all(|account| account.minimum > account.used));
    gate.answer_sync(&call, &grant_all(&request));
    gate.run(Duration::from_secs(1));
    let (_, request) = gate.taken_call().unwrap();
    assert!(request.records.is_some(), "their turn comes");
}

#[test]
fn requests_that_wait_are_summed_up_in_one_call() {
    let mut gate = Gate::new("PLANT");
    let streams: Vec<_> = (0..5).map(|_| gate.begin(&read())).collect();
    let request = gate.sync(|_, _| {});
    let minimum = |budget: &str| request.accounts.iter().find(|account| account.budget == budget).unwrap().minimum;
    assert_eq!((minimum("agent-daily"), minimum("rate-paid-minute")), (5_000, 5));
    assert!(streams.iter().all(|stream| gate.forwarded(stream).is_some()));
    assert_eq!(gate.awaited(), 0);
}

#[test]
fn a_request_whose_lease_does_not_come_is_answered_by_the_failure_mode() {
    let mut closed = Gate::new("PLANT");
    let stream = closed.begin(&read());
    closed.run(SECONDS_3 + Duration::from_millis(20));
    let reply = closed.reply(&stream).unwrap();
    assert_eq!((reply.status, &reply.problem()["check"], &*reply.details), (503, &json!("budget"), "gateway_failed_closed"));
    closed.finish(&stream);
    assert_eq!((closed.held(), closed.awaited()), (0, 0));
    assert_eq!(closed.last_record()["reason"], json!("budget_unavailable"));

    let mut open = rates_only("PLANT");
    let stream = open.begin(&read());
    open.run(SECONDS_3 + Duration::from_millis(20));
    assert!(open.forwarded(&stream).is_some());
    open.complete(&stream);
    assert_eq!((open.held(), open.awaited()), (0, 0));
    let record = open.last_record();
    assert!(record["checks"].as_array().unwrap().contains(&json!({"check": "Budget", "outcome": "FailedOpen"})), "{record}");
}

/// The store is well, and open requests hold the whole rate: that lets nobody through.
#[test]
fn a_rate_that_others_hold_refuses_when_the_wait_is_over() {
    let mut gate = rates_only("PLANT");
    let stream = gate.begin(&read());
    for _ in 0..160 {
        if let Some((call, request)) = gate.sync_call() {
            let mut answer = grant_all(&request);
            for account in &mut answer.accounts {
                (account.granted, account.cap, account.settled) = (0, 50, 0);
            }
            gate.answer_sync(&call, &answer);
        }
    }
    let reply = gate.reply(&stream).unwrap();
    assert_eq!((reply.status, &reply.problem()["check"]), (429, &json!("budget")), "{}", reply.problem());
    gate.finish(&stream);
    assert_eq!((gate.held(), gate.awaited()), (0, 0));
}

/// Let through, and counted: `decision-core` promises it, and operators alert on it.
#[test]
fn a_request_that_a_failure_let_through_is_recorded_and_counted_as_such() {
    let mut gate = rates_only("PLANT");
    let stream = gate.begin(&read());
    gate.run(SECONDS_3 + Duration::from_millis(20));
    gate.complete(&stream);
    let record = gate.last_record();
    assert_eq!((&record["decision"], &record["reason"]), (&json!("Indeterminate"), &json!("budget_unavailable")));
    let name = "gateway.decisions.gateway=.=PLANT;.;decision=.=indeterminate;.;reason=.=budget_unavailable;.;total";
    assert_eq!(gate.host.metric(name), 1);
}

#[test]
fn nobody_waits_while_the_control_plane_is_known_to_be_away() {
    let mut gate = rates_only("PLANT");
    let first = gate.begin(&read());
    for _ in 0..2 {
        while gate.host.call_outs.borrow().iter().all(|call| call.cluster != "control_plane") {
            gate.run(Duration::from_millis(20));
        }
        let call = gate.take_call("/data-plane/v1/sync").unwrap();
        gate.answer(&call, &[(":status", b"503")], b"upstream connect error".to_vec());
    }
    assert!(gate.forwarded(&first).is_some(), "the second failure ends the waiting");
    assert_eq!(gate.begin(&read()).step, Step::Forward);
}

#[test]
fn a_spent_budget_refuses_with_its_own_problem_until_its_window_ends() {
    let mut gate = Gate::new("PLANT");
    let stream = gate.begin(&read());
    gate.sync(spent("agent-daily"));
    let reply = gate.reply(&stream).unwrap();
    let problem = reply.problem();
    assert_eq!((reply.status, &problem["type"]), (402, &json!("https://waooaw.com/errors/budget-exceeded")));
    let budget = json!({"name": "agent-daily", "unit": "micro_usd", "limit": 1_000, "settled": 1_000, "resets_at": "2026-01-16T00:00:00Z"});
    assert_eq!((&problem["budget"], &problem["check"]), (&budget, &json!("budget")));
    // To midnight, from 12:00:30 and one tick.
    assert_eq!(reply.header("retry-after").as_deref(), Some("43170"));
    gate.finish(&stream);
    assert_eq!(gate.last_record()["reason"], json!("budget_spent"));
    assert_eq!((gate.held(), gate.awaited()), (0, 0));
    // Remembered: no call is made, no request waits.
    assert_eq!(gate.refused(&read()).status, 402);

    let mut rates = rates_only("PLANT");
    let stream = rates.begin(&read());
    rates.sync(spent("rate-paid-minute"));
    let reply = rates.reply(&stream).unwrap();
    assert_eq!((reply.status, reply.header("retry-after").as_deref()), (429, Some("30")));
}

#[test]
fn a_client_that_leaves_while_held_leaves_nothing_behind() {
    let mut gate = Gate::new("PLANT");
    let stream = gate.begin(&read());
    assert!(gate.awaited() > 0);
    gate.finish(&stream);
    assert_eq!((gate.held(), gate.awaited()), (0, 0));
    assert!(matches!(stream.exchange.borrow().state, State::Finished));
    let record = gate.last_record();
    assert_eq!((&record["decision"], &record["reason"], &record["status"]), (&json!("None"), &json!("client_left"), &json!(null)));
    let request = gate.sync(|_, _| {});
    assert!(request.accounts.iter().all(|account| account.close), "{request:?}");
    gate.assert_nothing_is_left();
}

#[test]
fn a_lease_that_comes_for_a_client_that_has_left_is_given_back() {
    let mut gate = Gate::new("PLANT");
    let stream = gate.begin(&read());
    let (call, request) = gate.sync_call().unwrap();
    gate.finish(&stream);
    gate.answer_sync(&call, &super::gate::grant_all(&request));
    gate.run(Duration::from_millis(1_000));
    let (_, next) = gate.sync_call().unwrap();
    assert!(next.accounts.len() == 4 && next.accounts.iter().all(|account| account.close && account.used == 0), "{next:?}");
}

#[test]
fn whatever_becomes_of_requests_nothing_stays_held() {
    let mut gate = Gate::new("PLANT");
    for round in 0..40 {
        let stream = gate.begin(&read());
        gate.run(Duration::from_millis(20));
        if round % 3 == 0
            && let Some(call) = gate.take_call("/data-plane/v1/sync")
        {
            gate.answer_sync(&call, &super::gate::grant_all(&wire::frame::decode(&call.body).unwrap()));
        }
        if gate.forwarded(&stream).is_some() && round % 2 == 0 {
            gate.respond(&stream, if round % 4 == 0 { 200 } else { 503 });
        }
        gate.finish(&stream);
    }
    gate.assert_nothing_is_left();
}

#[test]
fn a_client_that_leaves_before_the_first_bundle_is_forgotten() {
    let mut gate = Gate::cold("PLANT", SharedData::default());
    let stream = gate.begin(&read());
    gate.finish(&stream);
    gate.run(Duration::from_millis(40));
    assert!(gate.vm.borrow().waiting.is_empty());
}

#[test]
fn no_more_requests_wait_than_may() {
    let mut gate = Gate::new("PLANT");
    let streams: Vec<_> = (0..WAITING_MAX).map(|_| gate.begin(&read())).collect();
    assert!(streams.iter().all(|stream| stream.step == Step::Held));
    let waiting = gate.awaited();
    let reply = gate.refused(&read());
    assert_eq!((reply.status, &reply.problem()["check"]), (503, &json!("budget")));
    assert_eq!(gate.awaited(), waiting, "the one that was turned away has left the queue");
    for stream in &streams {
        gate.finish(stream);
    }
    assert_eq!(gate.awaited(), 0);
    gate.run(Duration::from_millis(40));
    assert!(gate.vm.borrow().waiting.is_empty());
    let mut cold = Gate::cold("PLANT", SharedData::default());
    assert!((0..WAITING_MAX).all(|_| cold.begin(&read()).step == Step::Held));
    assert_eq!(cold.refused(&read()).status, 503);
}

#[test]
fn a_held_request_with_a_large_body_is_told_to_retry_before_envoy_gives_up_on_it() {
    let mut gate = Gate::new("PLANT");
    let post = Request::new("POST", "/api/v1/tasks").bearer(&tokens::admin()).body("begins");
    let stream = gate.begin(&post);
    assert_eq!(stream.step, Step::Held);
    assert_eq!(gate.body(&stream, &[0; 100_000], false), None);
    assert_eq!(gate.body(&stream, &vec![0; 900 * 1_024 + 1], false), Some(Step::Answered));
    assert_eq!((gate.reply(&stream).unwrap().status, gate.awaited()), (503, 0));
    assert_eq!(gate.body(&stream, &[0; 10], true), None);
    // The answer finds it gone.
    gate.sync(|_, _| {});
    assert!(gate.forwarded(&stream).is_none());
    gate.finish(&stream);
}

/// Envoy looks at its limit before the filter is asked about a piece of the body, and one piece may be larger than that.
#[test]
fn a_request_with_a_body_that_cannot_be_held_comes_back_to_a_lease() {
    let mut gate = Gate::new("PLANT");
    let post = Request::new("POST", "/api/v1/tasks").bearer(&tokens::admin()).with("content-length", "3000000").body("begins");
    let stream = gate.begin(&post);
    let reply = gate.reply(&stream).unwrap();
    assert_eq!((stream.step, reply.status, reply.header("retry-after").as_deref()), (Step::Answered, 503, Some("1")));
    gate.finish(&stream);
    assert!(gate.awaited() > 0, "what it lacks is asked meanwhile");
    gate.sync(|_, _| {});
    assert_eq!(gate.begin(&post).step, Step::Forward);
    gate.run(SECONDS_3 + Duration::from_millis(20));
    assert_eq!(gate.awaited(), 0);
}

#[test]
fn a_request_that_says_how_large_its_body_is_need_not_be_held_to_be_told() {
    let mut gate = Gate::new("PLANT");
    let large = Request::new("POST", "/api/v1/tasks").bearer(&tokens::admin()).body("begins").with("content-length", "1000000");
    let stream = gate.begin(&large);
    assert_eq!((stream.step, gate.reply(&stream).map(|reply| reply.status)), (Step::Answered, Some(503)));
    gate.finish(&stream);
    // Its leases are asked for all the same, so that it finds them when it comes back.
    let request = gate.sync(|_, _| {});
    assert!(request.accounts.iter().all(|account| account.minimum > 0));
    let again = gate.begin(&large);
    assert_eq!(again.step, Step::Forward);
    gate.complete(&again);
    gate.assert_nothing_is_left();
}

#[test]
fn a_place_that_was_kept_is_given_up_after_a_while() {
    let mut gate = Gate::new("PLANT");
    let large = Request::new("POST", "/api/v1/tasks").bearer(&tokens::admin()).body("begins").with("content-length", "1000000");
    for _ in 0..WAITING_MAX + 10 {
        let stream = gate.begin(&large);
        assert_eq!(stream.step, Step::Answered);
        gate.finish(&stream);
    }
    assert_eq!(gate.awaited(), i64::try_from(WAITING_MAX).unwrap() * (1_000 + 1_000 + 1 + 1));
    gate.run(SECONDS_3);
    assert_eq!(gate.awaited(), 0);
    let (call, request) =
        (gate.take_call("/data-plane/v1/sync")).map(|call| (call.clone(), wire::frame::decode(&call.body).unwrap())).unwrap();
    gate.answer_sync(&call, &super::gate::grant_all(&request));
    gate.assert_nothing_is_left();
}

#[test]
fn a_forwarded_body_streams_on() {
    let mut gate = Gate::new("PLANT");
    let post = Request::new("POST", "/api/v1/tasks").bearer(&tokens::admin()).body("begins");
    let stream = gate.begin(&post);
    gate.sync(|_, _| {});
    assert!(gate.forwarded(&stream).is_some());
    assert_eq!(gate.body(&stream, &[0; 2_000_000], false), Some(Step::Forward));
    assert_eq!(gate.body(&stream, &[], true), Some(Step::Forward));
}

#[test]
fn what_was_reserved_is_charged_when_the_backend_was_reached_and_else_given_back() {
    let used = |gate: &Gate| {
        let mut used = 0;
        gate.vm.borrow_mut().leases.reports(gate.host.now.get(), usize::MAX, |report| used += report.used.get());
        used
    };
    // Two money budgets and two rates.
    let one_request = 1_000 + 1_000 + 1 + 1;
    let local_address = ("upstream.local_address", b"10.0.0.1:5".to_vec());
    let attempts = |count: u64| ("upstream.request_attempt_count", count.to_le_bytes().to_vec());
    let route = |name: &str| ("xds.route_name", name.as_bytes().to_vec());
    // A status, properties, and whether the backend may have seen the request.
    let cases = [
        (Some(200), vec![], true),
        (Some(404), vec![local_address.clone(), attempts(1)], true),
        (Some(503), vec![local_address.clone(), attempts(1)], true),
        (Some(503), vec![attempts(2)], true),
        (Some(503), vec![attempts(2), route("backend_safe")], true),
        (Some(503), vec![attempts(2), route("backend_unsent")], false),
        (Some(503), vec![local_address.clone(), attempts(2), route("backend_unsent")], true),
        (Some(503), vec![attempts(1)], false),
        (Some(503), vec![], false),
        (None, vec![local_address], true),
        (None, vec![], false),
    ];
    for (status, properties, reached) in cases {
        let mut gate = Gate::new("PLANT");
        gate.warm(&read());
        let stream = gate.begin(&read());
        assert_eq!(gate.held(), one_request);
        let mut streams = gate.host.streams.borrow_mut();
        streams.get_mut(&stream.context).unwrap().properties =
            properties.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
        drop(streams);
        if let Some(status) = status {
            gate.respond(&stream, status);
        }
        gate.finish(&stream);
        assert_eq!((gate.held(), used(&gate)), (0, one_request * if reached { 2 } else { 1 }), "{status:?} {properties:?}");
        let charges = gate.last_record()["charges"].as_array().unwrap().clone();
        assert_eq!(charges.iter().all(|charge| charge["amount"] == json!(0)), !reached);
    }
}

#[test]
fn a_stream_that_envoy_answered_itself_is_recorded_as_such() {
    let mut gate = Gate::new("PLANT");
    let stream = gate.begin(&read());
    let fresh = super::gate::Stream {
        exchange: std::rc::Rc::new(std::cell::RefCell::new(crate::exchange::Exchange::new(gate.settings.clone()))),
        ..stream.clone()
    };
    gate.host.streams.borrow_mut().get_mut(&stream.context).unwrap().properties = [
        ("response.code".to_string(), 431_i64.to_le_bytes().to_vec()),
        ("response.code_details".to_string(), b"http1.headers_too_large".to_vec()),
    ]
    .into();
    gate.finish(&fresh);
    let record = gate.last_record();
    assert_eq!(
        (&record["stage"], &record["status"], &record["details"]),
        (&json!("Envoy"), &json!(431), &json!("http1.headers_too_large"))
    );
    assert_eq!((&record["method"], &record["path"], &record["decision"]), (&json!(null), &json!(null), &json!("None")));
}
