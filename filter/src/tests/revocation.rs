//! Revocation: enforced for cached tokens too, known to every worker, and never guessed.

use super::gate::{Gate, NOW, Request, document, image, page, version};
use super::host::{Call, SharedData};
use super::tokens;
use crate::contact::About;
use crate::counters::name;
use crate::pipeline::Step;
use crate::revoked::{Place, Revoked, TAIL_CHANGES_MAX, Taken, bytes};
use authn::Mark;
use decision_core::principal::RevocationKind;
use serde_json::json;
use std::rc::Rc;
use std::time::{Duration, Instant};
use wire::revocation::{PAGE_CHANGES_MAX, RevocationChange, RevocationPage};

const CALL: &str = "/data-plane/v1/revocations";
const TICK: Duration = Duration::from_millis(20);

fn read(token: &str) -> Request {
    Request::new("GET", "/api/v1/tasks").bearer(token)
}

fn mark(kind: RevocationKind, value: &str) -> Mark {
    Mark::of(kind, "legacy", value)
}

fn numbered(numbers: std::ops::RangeInclusive<u64>) -> Vec<RevocationChange> {
    let change = |number| RevocationChange { number, mark: mark(RevocationKind::Token, &number.to_string()).0, bound: 0, lifted: false };
    numbers.map(change).collect()
}

fn place(number: u64) -> Option<Place> {
    Some(Place { database_id: [7; 16], number })
}

fn known(gate: &Gate) -> Option<Place> {
    gate.vm.borrow().revoked.known()
}

/// Machines of one Envoy, with a bundle in force.
fn envoy<const N: usize>() -> [Gate; N] {
    let shared = SharedData::default();
    std::array::from_fn(|_| {
        let gate = Gate::cold("PLANT", Rc::clone(&shared));
        gate.activate(1);
        gate
    })
}

fn together(gates: &[Gate], span: Duration) {
    for _ in 0..span.as_millis().div_ceil(TICK.as_millis()) {
        gates.iter().for_each(|gate| gate.run(TICK));
    }
}

/// All have caught up with one number, and the first waits for news.
fn caught_up<const N: usize>(through: u64) -> ([Gate; N], Call) {
    let gates = envoy::<N>();
    together(&gates, Duration::from_millis(40));
    for gate in &gates {
        gate.serve_revocations(&RevocationPage { through, ..page(true, 0, &[]) });
        assert_eq!(known(gate), place(through));
    }
    together(&gates, Duration::from_millis(600));
    let waiting: Vec<Option<Call>> = gates.iter().map(|gate| gate.take_call(CALL)).collect();
    assert_eq!(waiting.iter().flatten().count(), 1, "one waits for news");
    (gates, waiting.into_iter().next().flatten().unwrap())
}

fn target(call: &Call) -> String {
    call.header(":path").unwrap()
}

#[test]
fn a_token_that_was_accepted_is_refused_as_soon_as_it_is_revoked() {
    let kinds = [
        (mark(RevocationKind::Token, "j-1"), 0, "token-revoked", "TOKEN_REVOKED", "token_revoked"),
        (mark(RevocationKind::Subject, "user-1"), NOW.as_micros(), "token-revoked", "TOKEN_REVOKED", "subject_revoked"),
        (mark(RevocationKind::Version, "user-1"), 4, "token-version-mismatch", "TOKEN_VERSION_MISMATCH", "token_version_mismatch"),
        (mark(RevocationKind::Key, "legacy-1"), 0, "token-revoked", "TOKEN_REVOKED", "key_revoked"),
        (mark(RevocationKind::Customer, "customer-1"), 0, "token-revoked", "TOKEN_REVOKED", "customer_stopped"),
        (mark(RevocationKind::Agent, "agent-1"), 0, "token-revoked", "TOKEN_REVOKED", "agent_stopped"),
    ];
    let request = read(&tokens::token(json!({ "jti": "j-1", "token_version": 3 })));
    for (mark, bound, slug, detail, code) in kinds {
        let mut gate = Gate::new("PLANT");
        gate.warm(&request);
        gate.revoke(&[(mark, bound)]);
        let stream = gate.send(&request);
        let reply = gate.reply(&stream).unwrap();
        assert_eq!((reply.status, &reply.problem()["detail"]), (401, &json!(detail)), "{code}");
        assert_eq!(reply.problem()["type"], json!(format!("https://waooaw.com/errors/{slug}")));
        let title = if code == "token_version_mismatch" { "Token Invalidated" } else { "Token Revoked" };
        assert_eq!(reply.problem()["title"], json!(title));
        assert_eq!(reply.header("www-authenticate").as_deref(), Some("Bearer realm=\"plant-gateway\", error=\"invalid_token\""));
        gate.finish(&stream);
        let record = gate.last_record();
        assert_eq!((&record["reason"], &record["revocation"]), (&json!(code), &json!(1)));
        // Who has the key may have written any name.
        assert_eq!(record["user"]["subject"].is_null(), code == "key_revoked");
    }
}

#[test]
fn what_does_not_revoke_a_token_leaves_it_alone() {
    let mut gate = Gate::new("PLANT");
    let request = read(&tokens::token(json!({ "jti": "j-1", "token_version": 3 })));
    gate.warm(&request);
    gate.revoke(&[
        (mark(RevocationKind::Token, "j-2"), 0),
        (mark(RevocationKind::Subject, "user-1"), NOW.as_micros() - 60_000_000),
        (mark(RevocationKind::Version, "user-1"), 3),
        (Mark::of(RevocationKind::Key, "cp", "legacy-1"), 0),
        (Mark::of(RevocationKind::Subject, "cp", "user-1"), i64::MAX),
    ]);
    assert_eq!(gate.begin(&request).step, Step::Forward);
}

#[test]
fn a_revoked_token_is_verified_once_and_good_again_when_that_is_taken_back() {
    let mut gate = Gate::new("PLANT");
    let request = read(&tokens::token(json!({ "jti": "j-1" })));
    gate.revoke(&[(mark(RevocationKind::Token, "j-1"), 0)]);
    for _ in 0..3 {
        assert_eq!(gate.refused(&request).status, 401);
    }
    assert_eq!(gate.host.metric(name::TOKENS_VERIFIED), 1);
    let lift = RevocationChange { number: 2, mark: mark(RevocationKind::Token, "j-1").0, bound: 0, lifted: true };
    let page = RevocationPage { through: 2, changes: vec![lift], ..page(false, 1, &[]) };
    gate.vm.borrow_mut().revoked.take(&page).unwrap();
    assert_eq!(gate.begin(&request).step, Step::Held, "it waits for a lease");
    assert_eq!(gate.host.metric(name::TOKENS_VERIFIED), 1);
}

#[test]
fn what_one_machine_hears_all_machines_enforce_within_two_ticks() {
    let ([mut one, mut other, _third], call) = caught_up::<3>(5);
    assert_eq!(target(&call), format!("{CALL}?after=5&database={}&caps=0&wait_s=30", "07".repeat(16)));
    let request = read(&tokens::token(json!({ "jti": "j-1" })));
    one.warm(&request);
    other.warm(&request);
    one.take_call(CALL);
    let news = page(false, 5, &[(mark(RevocationKind::Token, "j-1"), 0)]);
    one.answer(&call, &[(":status", b"200")], wire::frame::encode(&news).unwrap());
    assert_eq!(one.refused(&request).status, 401);
    other.host.take_calls();
    other.run(TICK);
    assert_eq!((known(&other), other.refused(&request).status), (place(6), 401));
    assert!(other.take_call(CALL).is_none(), "the tail was enough");
    assert_eq!(other.host.metric(name::REVOCATION_NUMBER), 6);
    assert_eq!(other.host.metric(name::REVOCATIONS), 1);
}

#[test]
fn an_idle_tick_looks_at_two_small_keys() {
    let ([gate], _) = caught_up::<1>(5);
    gate.host.take_calls();
    let ticks = 10;
    gate.run(TICK * ticks);
    let looks = gate.host.take_calls().iter().filter(|call| *call == "shared").count();
    assert!(looks <= 2 * usize::try_from(ticks).unwrap() + 2, "{looks}");
}

#[test]
fn a_machine_that_missed_a_tail_fetches_what_it_lacks() {
    let ([one, other], call) = caught_up::<2>(5);
    let many = u64::try_from(TAIL_CHANGES_MAX).unwrap() + 1;
    let news = RevocationPage { through: 5 + many, changes: numbered(6..=5 + many), ..page(false, 5, &[]) };
    one.answer(&call, &[(":status", b"200")], wire::frame::encode(&news).unwrap());
    other.run(TICK);
    assert_eq!(known(&other), place(5));
    let call = other.serve_revocations(&news);
    assert!(target(&call).ends_with("wait_s=0") && target(&call).contains("after=5&"), "{}", target(&call));
    assert_eq!((known(&other), other.vm.borrow().revoked.len()), (place(5 + many), TAIL_CHANGES_MAX + 1));
    other.run(Duration::from_millis(600));
    assert!(other.take_call(CALL).is_none(), "it has caught up, and does not lead");
}

#[test]
fn a_machine_that_led_before_does_not_take_back_what_is_known() {
    let ([one, other], call) = caught_up::<2>(5);
    // The other one has fetched more by itself, and leads now.
    let more = RevocationPage { through: 7, changes: numbered(6..=7), ..page(false, 5, &[]) };
    other.vm.borrow_mut().revoked.take(&more).unwrap();
    for _ in 0..250 {
        other.run(TICK);
    }
    let poll = other.take_call(CALL).unwrap();
    other.answer(&poll, &[(":status", b"304")], vec![]);
    let version = other.host.shared.borrow()["plant_gateway.revocations.version"].clone();
    let late = RevocationPage { through: 6, changes: numbered(6..=6), ..page(false, 5, &[]) };
    one.answer(&call, &[(":status", b"200")], wire::frame::encode(&late).unwrap());
    assert_eq!(one.host.shared.borrow()["plant_gateway.revocations.version"], version);
    one.run(TICK);
    assert_eq!(known(&one), place(7));
}

#[test]
fn another_database_is_taken_whole_and_the_old_list_holds_until_then() {
    let mut gate = Gate::new("PLANT");
    let request = read(&tokens::token(json!({ "jti": "j-1" })));
    gate.revoke(&[(mark(RevocationKind::Token, "j-1"), 0)]);
    let first = RevocationPage { database_id: [9; 16], more: true, through: 40, changes: numbered(1..=40), ..page(true, 0, &[]) };
    gate.vm.borrow_mut().revoked.take(&first).unwrap();
    assert_eq!((gate.refused(&request).status, known(&gate)), (401, place(1)));
    assert_eq!(gate.vm.borrow().revoked.cursor(), Some(Place { database_id: [9; 16], number: 40 }));
    let second = RevocationPage { reset: false, more: false, through: 50, changes: vec![], ..first };
    gate.vm.borrow_mut().revoked.take(&second).unwrap();
    assert_eq!(known(&gate), Some(Place { database_id: [9; 16], number: 50 }));
    assert_eq!((gate.begin(&request).step, gate.vm.borrow().revoked.len()), (Step::Held, 40));
}

#[test]
fn a_page_that_follows_something_else_changes_nothing() {
    let gate = Gate::new("PLANT");
    gate.revoke(&[(mark(RevocationKind::Token, "j-1"), 0)]);
    let mut vm = gate.vm.borrow_mut();
    let other = RevocationPage { database_id: [9; 16], ..page(false, 1, &[]) };
    assert!(vm.revoked.take(&other).is_err());
    // One that was asked for before a tail came is of no use any more.
    assert_eq!(vm.revoked.take(&page(false, 0, &[])), Ok(Taken::CaughtUp));
    assert_eq!((vm.revoked.known(), vm.revoked.len()), (place(1), 1));
}

#[test]
fn a_token_waits_until_it_is_known_what_is_revoked_and_then_goes_its_way() {
    let [mut gate] = envoy::<1>();
    let (good, revoked) = (read(&tokens::token(json!({ "jti": "good" }))), read(&tokens::token(json!({ "jti": "j-1" }))));
    let waiting = [gate.begin(&good), gate.begin(&revoked)];
    assert!(waiting.iter().all(|stream| stream.step == Step::Held));
    assert_eq!(gate.begin(&Request::new("POST", "/api/v1/auth/refresh")).step, Step::Forward);
    let key = Request::new("GET", "/api/v1/customers").with("x-cp-registration-key", tokens::REGISTRATION_KEY);
    assert_eq!(gate.begin(&key).step, Step::Forward);
    assert_eq!(gate.refused(&Request::new("GET", "/api/v1/tasks")).status, 401, "nothing to look up");
    assert_eq!(gate.refused(&Request::new("GET", "/ready")).status, 503);
    gate.run(Duration::from_millis(500));
    let first = RevocationPage { more: true, ..page(true, 0, &[(mark(RevocationKind::Token, "j-1"), 0)]) };
    let call = gate.serve_revocations(&first);
    assert_eq!(target(&call), format!("{CALL}?after=0&caps=0&wait_s=0"));
    assert!(waiting.iter().all(|stream| gate.reply(stream).is_none()), "more is to come");
    // The next page is asked for at once.
    gate.serve_revocations(&page(false, 1, &[]));
    assert_eq!(gate.reply(&waiting[1]).unwrap().status, 401);
    gate.sync(|request, _| assert_eq!(request.revocation, 1));
    assert!(gate.forwarded(&waiting[0]).is_some());
    assert_eq!(gate.refused(&Request::new("GET", "/ready")).problem()["revocation"], json!(1));
    gate.complete(&waiting[0]);
    let checks: Vec<String> = gate.last_record()["checks"].as_array().unwrap().iter().map(|check| check["check"].to_string()).collect();
    assert_eq!(
        checks,
        ["\"Route\"", "\"Authentication\"", "\"Permission\"", "\"Trial\"", "\"Budget\""],
        "each once, although it was judged twice"
    );
    assert_eq!(gate.host.metric(name::REQUESTS_HELD), 2);
}

#[test]
fn a_token_gets_503_when_it_stays_unknown_what_is_revoked() {
    let [mut gate] = envoy::<1>();
    let mut impatient = document();
    impatient.settings.get_or_insert_default().cold_start_hold_ms = 1_000;
    gate.vm.borrow_mut().activate(&gate.host, &image(&impatient, version(2))).unwrap();
    let stream = gate.begin(&read(&tokens::admin()));
    gate.run(Duration::from_millis(980));
    assert!(gate.reply(&stream).is_none());
    gate.run(TICK * 2);
    let reply = gate.reply(&stream).unwrap();
    assert_eq!((reply.status, reply.header("retry-after").as_deref()), (503, Some("1")));
    assert_eq!((reply.header("www-authenticate"), &reply.problem()["check"]), (None, &json!("authentication")));
    gate.finish(&stream);
    let record = gate.last_record();
    assert_eq!((&record["decision"], &record["reason"]), (&json!("Indeterminate"), &json!("revocation_unknown")));
    assert_eq!(record["checks"][1], json!({ "check": "Authentication", "outcome": "FailedClosed" }));
    assert!(gate.vm.borrow().waiting.is_empty());
}

#[test]
fn a_policy_may_let_tokens_pass_before_the_first_contact_and_that_is_recorded() {
    let [mut gate] = envoy::<1>();
    let mut lenient = document();
    lenient.failure_modes.get_or_insert_default().revocation = wire::policy::FailureMode::Open;
    gate.vm.borrow_mut().activate(&gate.host, &image(&lenient, version(2))).unwrap();
    let stream = gate.begin(&read(&tokens::admin()));
    gate.sync(|_, _| {});
    assert!(gate.forwarded(&stream).is_some());
    gate.complete(&stream);
    let record = gate.last_record();
    assert_eq!((&record["decision"], &record["reason"]), (&json!("Indeterminate"), &json!("revocation_unknown")));
    assert_eq!(record["checks"][1], json!({ "check": "Authentication", "outcome": "FailedOpen" }));
    assert_eq!(gate.refused(&Request::new("GET", "/ready")).status, 200);
    // What becomes known counts from then on.
    gate.know_revocations(&[(mark(RevocationKind::Subject, "user-1"), i64::MAX)]);
    assert_eq!(gate.refused(&read(&tokens::admin())).status, 401);
}

/// Good for most of a day.
fn lasting() -> String {
    tokens::token(json!({ "exp": NOW.as_seconds() + 80_000 }))
}

#[test]
fn tokens_get_503_when_the_last_contact_is_too_old_until_the_next() {
    let ([one, mut other], call) = caught_up::<2>(5);
    let hears_keys = |gate: &Gate| gate.vm.borrow_mut().contact.heard(About::Keys, &gate.host, gate.host.now.get());
    hears_keys(&one);
    one.run(TICK);
    let request = read(&lasting());
    other.warm(&request);
    let quiet = |gate: &Gate, seconds: u64| {
        gate.host.pass(Duration::from_secs(seconds));
        gate.host.call_outs.borrow_mut().clear();
        gate.run(TICK);
    };
    [&one, &other].into_iter().for_each(|gate| quiet(gate, 3_595));
    assert_ne!(other.send(&request).step, Step::Answered);
    [&one, &other].into_iter().for_each(|gate| quiet(gate, 30));
    let stream = other.send(&request);
    let reply = other.reply(&stream).unwrap();
    assert_eq!((reply.status, &reply.problem()["check"]), (503, &json!("authentication")));
    other.finish(&stream);
    let record = other.last_record();
    assert_eq!((&record["reason"], &record["checks"][1]["outcome"]), (&json!("keys_unavailable"), &json!("FailedClosed")));
    assert_eq!(other.begin(&Request::new("POST", "/api/v1/auth/refresh")).step, Step::Forward);
    // Keys alone, whose revocation nobody vouches for, are not enough.
    hears_keys(&one);
    other.run(Duration::from_millis(1_040));
    assert_eq!(other.send(&request).step, Step::Answered);
    // The first machine hears of both; the other learns that within a second or so.
    one.answer(&call, &[(":status", b"304")], vec![]);
    other.run(Duration::from_millis(1_040));
    assert_ne!(other.send(&request).step, Step::Answered);
}

#[test]
fn a_sync_answer_vouches_for_nothing_but_both_polls_do() {
    let mut gate = Gate::new("PLANT");
    gate.host.pass(Duration::from_secs(3_700));
    assert_eq!(gate.refused(&read(&lasting())).status, 503);
    gate.vm.borrow_mut().sync.hurry();
    gate.sync(|_, _| {});
    assert_eq!(gate.refused(&read(&lasting())).status, 503);
    for about in [About::Keys, About::Revocations] {
        gate.vm.borrow_mut().contact.heard(about, &gate.host, gate.host.now.get());
    }
    assert_eq!(gate.begin(&read(&lasting())).step, Step::Held);
}

#[test]
fn a_control_plane_that_does_not_answer_is_asked_with_patience() {
    let [gate] = envoy::<1>();
    let mut calls = 0;
    for _ in 0..1_500 {
        gate.run(TICK);
        if let Some(call) = gate.take_call(CALL) {
            calls += 1;
            let (headers, body): (&[(&str, &[u8])], _) = match calls % 4 {
                0 => (&[(":status", b"503")], b"upstream".to_vec()),
                1 => (&[], vec![]),
                2 => (&[(":status", b"200")], b"no frame".to_vec()),
                // It has nothing to which nothing could follow.
                _ => (&[(":status", b"304")], vec![]),
            };
            gate.answer(&call, headers, body);
        }
    }
    assert!((8..=30).contains(&calls), "{calls} calls in 30 s");
    assert_eq!((known(&gate), gate.host.metric(name::REVOCATION_POLL_FAILURES)), (None, calls));
    assert_eq!(gate.host.logs.borrow().iter().filter(|(_, line)| line.contains("revocations cannot be had")).count(), 1);
}

#[test]
fn a_hundred_thousand_entries_fit_twice_into_eight_megabytes() {
    let mut revoked = Revoked::default();
    let all = numbered(1..=100_000);
    let pages: Vec<RevocationPage> = (0_u64..)
        .zip(all.chunks(PAGE_CHANGES_MAX))
        .map(|(index, changes)| RevocationPage {
            reset: index == 0,
            more: changes.len() == PAGE_CHANGES_MAX,
            total: 100_000,
            through: changes.last().unwrap().number,
            changes: changes.to_vec(),
            ..page(false, 0, &[])
        })
        .collect();
    for round in 0..2 {
        for page in &pages {
            revoked.take(page).unwrap();
            // The second time everything stays known meanwhile.
            assert!(round == 0 || revoked.known().is_some());
        }
    }
    assert_eq!((revoked.len(), revoked.number()), (100_000, 100_000));
    // 24 bytes and one of the table's own for each of 131,072 places, also where a pointer has 32 bits.
    assert_eq!(bytes(100_000), 131_072 * 25);
    assert!(2 * bytes(100_000) <= 8 * 1_024 * 1_024);
    // Two of 200,000 do not fit: then nothing is known until the new one is there, and tokens wait.
    revoked.take(&RevocationPage { reset: true, more: true, total: 200_000, ..page(true, 0, &[]) }).unwrap();
    assert_eq!((revoked.known(), revoked.len()), (None, 0));
}

#[test]
fn a_full_page_is_taken_in_a_fraction_of_a_tick() {
    let through = u64::try_from(PAGE_CHANGES_MAX).unwrap();
    let body = wire::frame::encode(&RevocationPage { through, changes: numbered(1..=through), ..page(false, 0, &[]) }).unwrap();
    // The best of a few: others work on this machine too.
    let once = || {
        let mut revoked = Revoked::default();
        revoked.take(&page(true, 0, &[])).unwrap();
        let began = Instant::now();
        let page: RevocationPage = wire::frame::decode(&body).unwrap();
        revoked.take(&page).unwrap();
        let took = began.elapsed();
        assert_eq!(revoked.number(), through);
        took
    };
    let took = (0..10).map(|_| once()).min().unwrap();
    assert!(took < Duration::from_millis(5), "{took:?} for {} bytes", body.len());
}

#[test]
fn a_list_that_is_fetched_afresh_takes_no_place_before_it_has_caught_up_with_the_tails() {
    let (mut one, mut other) = (Revoked::default(), Revoked::default());
    for worker in [&mut one, &mut other] {
        worker.take(&RevocationPage { through: 1, changes: numbered(1..=1), ..page(true, 0, &[]) }).unwrap();
    }
    other.take(&RevocationPage { through: 2, changes: numbered(2..=2), ..page(false, 1, &[]) }).unwrap();
    one.follow(&other.tail().unwrap());
    // Asked for before, answered after.
    let late = RevocationPage { through: 1, changes: numbered(1..=1), ..page(true, 0, &[]) };
    assert_eq!((one.take(&late), one.known(), one.len()), (Ok(Taken::More), place(2), 2));
    assert_eq!(one.take(&RevocationPage { through: 2, changes: numbered(2..=2), ..page(false, 1, &[]) }), Ok(Taken::CaughtUp));
    assert_eq!((one.known(), one.len()), (place(2), 2));
}
