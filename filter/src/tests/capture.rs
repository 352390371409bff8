//! What stands in records and what never does: named headers and parameters, users by hash, samples, and a full queue.

use super::gate::{Gate, Request, Stream, grant_all, records};
use super::host::{FakeStream, owned};
use super::tokens;
use crate::pipeline::Step;
use crate::vm::Vm;
use serde_json::{Value, json};
use std::time::Duration;
use wire::policy::{Audit, AuditLevel, EmailRecording, Identities, PolicyDocument, WhenFull};
use wire::sync::{ApprovalAnswer, ApprovalOutcome, SyncRequest};

fn list() -> Request {
    Request::new("GET", "/api/v1/tasks").bearer(&tokens::admin())
}

/// Without budgets: what is permitted goes on at once.
fn gate(change: impl FnOnce(&mut PolicyDocument)) -> Gate {
    Gate::with("PLANT", |document| {
        document.budgets.clear();
        document.routes.iter_mut().for_each(|route| route.limit = None);
        let list = document.routes.iter_mut().find(|route| route.name == "tasks.list").unwrap();
        list.cost_micros = Some(0);
        change(document);
    })
}

fn recording(change: impl FnOnce(&mut Audit)) -> Gate {
    gate(|document| change(document.audit.get_or_insert_default()))
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Everything that waits, as it would be sent.
fn bytes(vm: &mut Vm) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(batch) = vm.records.next_batch() {
        bytes.extend(&batch.bytes);
        vm.records.stored(batch.first_sequence);
    }
    bytes
}

fn queued(gate: &Gate) -> Vec<Value> {
    let mut all = Vec::new();
    let mut vm = gate.vm.borrow_mut();
    while let Some(batch) = vm.records.next_batch() {
        all.extend(records(&batch));
        vm.records.stored(batch.first_sequence);
    }
    all
}

fn named(name: &str, value: &str) -> Value {
    json!({ "name": name, "value": value })
}

#[test]
fn named_headers_and_parameters_are_recorded_and_no_others() {
    let mut gate = recording(|audit| {
        audit.request_headers = names(&["x-tenant", "user-agent"]);
        audit.response_headers = names(&["x-served-by"]);
        audit.query_parameters = names(&["page", "tag"]);
    });
    let path = "/api/v1/tasks?tag=a%20b&secret=1&%70age=2;page=3&Page=4&pages=5&tag&pa%2567e=6&=7&page=8=9#page=10";
    // The path is not canonical: it is refused, and what the client asked for is recorded all the same.
    let request = Request::new("GET", path).bearer(&tokens::admin());
    let request =
        request.with("x-tenant", "one").with("x-other", "hidden").with("x-tenant", b"two\xff").with("user-agent", "u".repeat(300));
    let stream = gate.send(&request);
    gate.finish(&stream);
    let record = gate.last_record();
    let parameters = [("tag", "a%20b"), ("page", "2"), ("page", "3"), ("tag", ""), ("page", "8=9")].map(|(name, value)| named(name, value));
    assert_eq!(record["query"], json!(parameters));
    let headers = [named("x-tenant", "one"), named("x-tenant", "two\u{fffd}"), named("user-agent", &"u".repeat(256))];
    assert_eq!(record["request_headers"], json!(headers));
    assert_eq!(record["path"], json!("/api/v1/tasks"));
    let stream = gate.send(&list());
    gate.respond_with(&stream, 200, &[("x-served-by", "a"), ("x-other", "hidden"), ("x-served-by", "b")]);
    gate.finish(&stream);
    let record = gate.last_record();
    assert_eq!((&record["query"], &record["request_headers"]), (&json!([]), &json!([])));
    assert_eq!(record["response_headers"], json!([named("x-served-by", "a"), named("x-served-by", "b")]));
}

#[test]
fn a_record_does_not_grow_without_end() {
    let mut gate = recording(|audit| {
        audit.request_headers = names(&["x-many"]);
        audit.query_parameters = names(&["a"]);
    });
    let request = Request::new("GET", &format!("/api/v1/tasks?{}", "a=1&".repeat(5_000))).bearer(&tokens::admin());
    let request = (0..200).fold(request, |request, number| request.with("x-many", number.to_string()));
    let stream = gate.send(&request);
    gate.complete(&stream);
    let record = gate.last_record();
    assert_eq!((record["query"].as_array().unwrap().len(), record["request_headers"].as_array().unwrap().len()), (64, 64));
}

#[test]
fn what_names_nothing_asks_the_host_for_nothing_and_one_call_tells_all_headers_of_an_answer() {
    let mut calls = Vec::new();
    for listed in [&[][..], &["content-type", "server"]] {
        let mut gate = recording(|audit| (audit.request_headers, audit.response_headers) = (names(listed), names(listed)));
        for _ in 0..2 {
            gate.host.take_calls();
            let stream = gate.send(&list());
            gate.complete(&stream);
        }
        calls.push(gate.host.take_calls());
    }
    calls[1].retain(|call| call != "response_headers");
    assert_eq!((calls[0].len(), calls[0].contains(&"response_headers".to_owned())), (calls[1].len(), false));
}

/// The filter's own answers pass by as a backend's do.
#[test]
fn headers_of_the_filter_s_own_answers_are_recorded_too() {
    let mut gate = recording(|audit| audit.response_headers = names(&["retry-after"]));
    let stream = gate.send(&Request::new("GET", "/api/v1/tasks"));
    assert_eq!(stream.step, Step::Answered);
    gate.respond_with(&stream, 401, &[("retry-after", "7")]);
    gate.finish(&stream);
    assert_eq!(gate.last_record()["response_headers"], json!([named("retry-after", "7")]));
}

const CANARY: &str = "canary-5up3r";

/// In every place that a client can write to, and every place that a backend can.
fn canary_request(method: &str, path: &str, place: &str) -> Request {
    let request = Request::new(method, &format!("{path}?q={CANARY}-1&{CANARY}-2=x&access_token={CANARY}-3&page=1"));
    let request = request.with("cookie", format!("{CANARY}-4")).with("x-api-key", format!("{CANARY}-5"));
    let request = request.with("proxy-authorization", format!("{CANARY}-6")).with("x-cp-registration-key", format!("{CANARY}-7"));
    let request = request.with("referer", format!("https://a/?t={CANARY}-8")).with(&format!("x-{CANARY}-9"), "x").with("x-user-id", CANARY);
    request.with(place, format!("Bearer {CANARY}-10")).with("x-tenant", "tenant").body(format!("{{\"password\":\"{CANARY}-11\"}}"))
}

#[test]
fn what_nobody_has_named_is_in_no_record() {
    let mut gate = gate(|document| {
        let audit = document.audit.get_or_insert_default();
        (audit.request_headers, audit.response_headers) = (names(&["x-tenant"]), names(&["x-served-by"]));
        (audit.query_parameters, audit.identities) = (names(&["page"]), Identities::Hashed);
        audit.hash_key = Some("hash-key".into());
        document.routes.iter_mut().find(|route| route.name == "agents.create").unwrap().audit = AuditLevel::Required;
    });
    let mut streams: Vec<(Request, u16)> = vec![
        (canary_request("GET", "/api/v1/tasks", "authorization"), 0),
        (canary_request("GET", "/none", "authorization"), 0),
        (canary_request("GET", "/health", "authorization"), 0),
        (canary_request("POST", "/api/v1/agents", "authorization"), 0),
    ];
    let admin = tokens::token(json!({ "governor_agent_id": "g-1", "sub": format!("{CANARY}-sub"), "email": format!("{CANARY}@mail") }));
    for (method, path) in [("GET", "/api/v1/tasks"), ("POST", "/api/v1/agents"), ("GET", "/api/v1/agents")] {
        for status in [200, 503] {
            streams.push((canary_request(method, path, "x-elsewhere").bearer(&admin), status));
        }
    }
    let mut all = Vec::new();
    for (request, status) in streams {
        let stream = gate.send(&request);
        while gate.forwarded(&stream).is_none() && gate.reply(&stream).is_none() {
            let (call, request) = gate.sync_call().unwrap();
            all.extend(request.records.iter().flat_map(|batch| batch.bytes.clone()));
            gate.answer_sync(&call, &grant_all(&request));
        }
        if gate.forwarded(&stream).is_some() {
            let cookie = format!("{CANARY}-12");
            gate.respond_with(&stream, status, &[("set-cookie", &cookie), ("location", &cookie), ("x-served-by", "b")]);
            gate.response_body(&stream, cookie.as_bytes(), true);
        }
        gate.finish(&stream);
    }
    all.extend(bytes(&mut gate.vm.borrow_mut()));
    let text = String::from_utf8_lossy(&all);
    assert!(["tenant", "page", "x-served-by", "h1:"].iter().all(|there| text.contains(there)), "{text}");
    let logs = gate.host.logs.borrow();
    let logged: String = logs.iter().map(|(_, line)| line.as_str()).collect();
    for secret in [CANARY, &*admin, "Bearer", admin.split('.').nth(1).unwrap()] {
        assert!(!text.contains(secret) && !logged.contains(secret), "{secret}");
    }
}

#[test]
fn a_user_is_named_by_a_keyed_hash_where_the_policy_says_so_and_only_there() {
    let key = super::gate::pseudonym_key();
    let scope = |record: &Value| -> Vec<String> {
        let charges = record["charges"].as_array().unwrap();
        charges.iter().map(|charge| charge["scope"].as_str().unwrap().to_owned()).collect()
    };
    let of = |identities, email| {
        let mut gate = Gate::with("PLANT", |document| {
            let audit = document.audit.get_or_insert_default();
            (audit.identities, audit.email) = (identities, email);
            audit.hash_key = (identities == Identities::Hashed).then(|| "hash-key".into());
        });
        // Without an agent: the agents' budget counts by the subject.
        let request = list_of(&tokens::token(json!({ "sub": "subject-1", "agent_id": null })));
        gate.warm(&request);
        let stream = gate.send(&request);
        gate.complete(&stream);
        gate.last_record()
    };
    let plain = of(Identities::Plain, EmailRecording::Omitted);
    assert_eq!((&plain["user"]["subject"], &plain["user"]["email"]), (&json!("subject-1"), &json!(null)));
    assert!(scope(&plain).contains(&"agent:subject=6:legacy,9:subject-1".to_owned()), "{:?}", scope(&plain));
    let recorded = of(Identities::Plain, EmailRecording::Recorded);
    assert_eq!(recorded["user"]["email"], json!("user-1@example.com"));
    let hashed = of(Identities::Hashed, EmailRecording::Recorded);
    let user = &hashed["user"];
    assert_eq!((&user["subject"], &user["email"]), (&json!(key.of("subject-1")), &json!(key.of("user-1@example.com"))));
    assert_eq!((&user["user_id"], &user["customer_id"], &user["issuer"]), (&json!("user-1"), &json!("customer-1"), &json!("legacy")));
    let hashed_scope = key.of("agent:subject=6:legacy,9:subject-1");
    assert!(scope(&hashed).contains(&hashed_scope) && scope(&hashed).contains(&"platform".to_owned()), "{:?}", scope(&hashed));
    assert!(!hashed.to_string().contains("subject-1"), "{hashed}");
    assert_eq!(of(Identities::Hashed, EmailRecording::Omitted)["user"]["email"], json!(null));
}

fn list_of(token: &str) -> Request {
    Request::new("GET", "/api/v1/tasks").bearer(token)
}

#[test]
fn without_the_key_a_user_that_is_to_be_hashed_is_not_named() {
    let gate = recording(|audit| (audit.identities, audit.hash_key) = (Identities::Hashed, Some("hash-key".into())));
    let active = gate.vm.borrow_mut().active.take();
    let mut active = std::rc::Rc::into_inner(active.unwrap()).unwrap();
    active.pseudonym_key = None;
    gate.vm.borrow_mut().active = Some(std::rc::Rc::new(active));
    let mut gate = gate;
    let stream = gate.send(&list());
    gate.complete(&stream);
    assert_eq!(gate.last_record()["user"]["subject"], json!("h1:"));
}

#[test]
fn a_batch_does_not_go_on_under_other_names() {
    let mut gate = gate(|_| {});
    let stream = gate.send(&list());
    gate.complete(&stream);
    let mut document = super::gate::document();
    document.audit = Some(Audit { email: EmailRecording::Recorded, ..Audit::default() });
    gate.vm.borrow_mut().activate(&gate.host, &super::gate::image(&document, super::gate::version(2))).unwrap();
    let refused = gate.send(&Request::new("GET", "/none"));
    gate.finish(&refused);
    assert_eq!(gate.vm.borrow_mut().records.next_batch().unwrap().count, 1);
    assert_eq!(queued(&gate).len(), 2);
}

fn sampled(of: u32) -> Gate {
    gate(|document| document.routes.iter_mut().find(|route| route.name == "tasks.list").unwrap().audit = AuditLevel::Sampled(of))
}

#[test]
fn of_requests_that_went_well_one_of_so_many_is_recorded_and_the_others_are_counted() {
    let mut gate = sampled(10);
    let mut chosen = Vec::new();
    for _ in 0..1_000 {
        let stream = gate.send(&list());
        let id = stream.exchange.borrow().trace.request_id;
        if id.is_chosen(10) {
            chosen.push(json!(id.bytes()));
        }
        gate.complete(&stream);
    }
    let recorded = queued(&gate);
    let ids: Vec<Value> = recorded.iter().map(|record| record["request_id"].clone()).collect();
    assert_eq!(ids, chosen);
    assert!(recorded.iter().all(|record| record["sampled_of"] == 10));
    // Of 100 ± 9.5, seven times that.
    assert!((34..=166).contains(&chosen.len()), "{}", chosen.len());
    let left_out = gate.host.metric("gateway.audit_records_sampled_out_total");
    assert_eq!(left_out + i64::try_from(chosen.len()).unwrap(), 1_000);
    let told = gate.host.words.borrow().iter().filter(|(name, _)| name == "plant_gateway_unrecorded").count();
    assert_eq!(i64::try_from(told).unwrap(), left_out, "the access log says which");
}

#[test]
fn the_access_log_has_the_id_of_a_record_that_no_header_has() {
    let mut gate = gate(|_| {});
    let forwarded = gate.send(&list());
    gate.complete(&forwarded);
    let refused = gate.send(&Request::new("GET", "/none").with("x-request-id", "0192d3a0-0000-7000-8000-000000000001"));
    gate.finish(&refused);
    let id = uuid::Uuid::from_slice(&serde_json::from_value::<Vec<u8>>(gate.last_record()["request_id"].clone()).unwrap()).unwrap();
    assert_eq!(*gate.host.words.borrow(), [("plant_gateway_record_id".to_owned(), id.to_string())]);
}

#[test]
fn refusals_and_failures_on_a_sampled_route_are_all_recorded() {
    let mut gate = sampled(10_000);
    let ends = |gate: &mut Gate, request: &Request, end: fn(&Gate, &Stream)| {
        for _ in 0..20 {
            let stream = gate.send(request);
            end(gate, &stream);
        }
        let recorded = queued(gate);
        assert!(recorded.iter().all(|record| record["sampled_of"] == 1 || record["status"] == 200), "{recorded:?}");
        recorded.len()
    };
    let refused = Request::new("GET", "/api/v1/tasks");
    assert_eq!(ends(&mut gate, &refused, Gate::finish), 20);
    let failed = |gate: &Gate, stream: &Stream| {
        gate.respond(stream, 500);
        gate.finish(stream);
    };
    assert_eq!(ends(&mut gate, &list(), failed), 20);
    // The client left, or Envoy gave up, before there was an answer.
    assert_eq!(ends(&mut gate, &list(), Gate::finish), 20);
    let fine = |gate: &Gate, stream: &Stream| {
        gate.respond(stream, 499);
        gate.finish(stream);
    };
    assert!(ends(&mut gate, &list(), fine) < 20);
}

/// Fills the queue with records of requests that were refused.
fn fill(gate: &mut Gate) -> u64 {
    let path = format!("/{}", "a".repeat(1_000));
    for number in 1..60_000 {
        let stream = gate.send(&Request::new("GET", &path));
        gate.finish(&stream);
        if gate.vm.borrow().records.is_full() {
            return number;
        }
    }
    unreachable!("the queue is never full");
}

#[test]
fn by_setting_requests_are_refused_while_no_more_records_can_be_kept() {
    let mut gate = recording(|audit| audit.when_full = WhenFull::Refuse);
    let under_way = gate.send(&list());
    let before = fill(&mut gate);
    let refused = gate.refused(&list());
    assert_eq!((refused.status, &refused.problem()["check"]), (503, &json!("audit")));
    let streams: Vec<Stream> = (0..5_000).map(|_| gate.send(&list())).collect();
    streams.iter().for_each(|stream| gate.finish(stream));
    assert!(streams.iter().all(|stream| stream.step == Step::Answered));
    assert_eq!(gate.host.metric("gateway.audit_records_dropped_total"), 5_000, "the one above has not ended");
    // Who was let through before is recorded, and nothing that was kept is lost.
    gate.complete(&under_way);
    assert_eq!(gate.vm.borrow().records.len(), before + 1);
    // The control plane takes what waits: there is room again, and the gap shows.
    let (mut expected, mut missing) = (1, 0);
    while let Some(batch) = { gate.vm.borrow_mut().records.next_batch() } {
        missing += batch.first_sequence - expected;
        expected = batch.first_sequence + u64::from(batch.count);
        gate.vm.borrow_mut().records.stored(batch.first_sequence);
    }
    let stream = gate.send(&list());
    assert_eq!(stream.step, Step::Forward);
    gate.complete(&stream);
    missing += gate.vm.borrow_mut().records.next_batch().unwrap().first_sequence - expected;
    assert_eq!(missing, 5_000);
}

#[test]
fn by_default_nobody_is_refused_for_a_full_queue() {
    let mut gate = gate(|_| {});
    fill(&mut gate);
    assert_eq!(gate.send(&list()).step, Step::Forward);
}

#[test]
fn the_filter_s_own_time_is_told_when_it_answers_itself() {
    let mut gate = gate(|_| {});
    for (request, expected) in [(Request::new("GET", "/none"), 0), (Request::new("GET", "/health"), 0)] {
        let stream = gate.send(&request);
        gate.host.pass(Duration::from_millis(70));
        gate.finish(&stream);
        let record = gate.last_record();
        assert_eq!((&record["ours_us"], &record["total_us"]), (&json!(expected), &json!(70_000)));
    }
    // A request that waits until the filter refuses it.
    let mut gate = Gate::cold("PLANT", Default::default());
    let stream = gate.send(&list());
    assert_eq!(stream.step, Step::Held);
    gate.run(Duration::from_millis(3_100));
    assert_eq!(gate.reply(&stream).unwrap().status, 503);
    gate.host.pass(Duration::from_secs(5));
    gate.finish(&stream);
    let ours = gate.last_record()["ours_us"].as_u64().unwrap();
    assert!((3_000_000..3_100_000).contains(&ours), "{ours}");
    // Who leaves while the filter has not made up its mind was not answered.
    let mut gate = Gate::cold("PLANT", Default::default());
    let stream = gate.send(&list());
    gate.finish(&stream);
    assert_eq!(gate.last_record()["ours_us"], json!(null));
}

fn ended(gate: &Gate, stream: &Stream) -> Vec<Value> {
    gate.finish(stream);
    // Envoy logs once; a second time must not count.
    gate.host.streams.borrow_mut().insert(stream.context, FakeStream::default());
    gate.finish(stream);
    queued(gate)
}

/// Whatever happens to a stream: one record, of its outcome.
#[test]
fn every_end_of_a_stream_is_one_record() {
    let mut gate = gate(|document| {
        document.routes.iter_mut().find(|route| route.name == "agents.create").unwrap().audit = AuditLevel::Required;
    });
    let only = |records: Vec<Value>, stage: &str, reason: &str| {
        assert_eq!(records.len(), 1, "{records:?}");
        assert_eq!((&records[0]["phase"], &records[0]["stage"], &records[0]["reason"]), (&json!("Outcome"), &json!(stage), &json!(reason)));
    };
    // An answer that is cut off; a reset before it; a refusal; a probe; a client that leaves at once.
    let cut = gate.send(&list());
    gate.respond(&cut, 200);
    gate.response_body(&cut, b"half of", false);
    only(ended(&gate, &cut), "Filter", "ok");
    let reset = gate.send(&list());
    only(ended(&gate, &reset), "Filter", "ok");
    let refused = gate.send(&Request::new("GET", "/none"));
    only(ended(&gate, &refused), "Filter", "no_route");
    let probe = gate.send(&Request::new("GET", "/ready"));
    only(ended(&gate, &probe), "Filter", "health");
    // Envoy answered a preflight, or something malformed, before the filter was asked.
    let preflight = gate.unseen();
    only(ended(&gate, &preflight), "Envoy", "envoy_answered");
    // Envoy answers in the place of a request that is held.
    let create = Request::new("POST", "/api/v1/agents").bearer(&tokens::token(json!({ "governor_agent_id": "g-1" })));
    let held = gate.send(&create);
    assert_eq!(held.step, Step::Held);
    gate.respond(&held, 504);
    let records = ended(&gate, &held);
    assert_eq!(records.iter().map(|record| &record["phase"]).collect::<Vec<_>>(), [&json!("Intent"), &json!("Outcome")]);
    assert_eq!((&records[1]["reason"], &records[1]["status"]), (&json!("envoy_answered"), &json!(504)));
    assert!(gate.vm.borrow().records.awaits_nothing());
}

/// From the end of a request to the call that carries its record.
#[test]
fn every_record_is_on_its_way_within_a_second() {
    let mut gate = gate(|_| {});
    let (mut waiting, mut longest, mut random) = (Vec::new(), Duration::ZERO, fastrand::Rng::with_seed(7));
    for step in 0..10_000_u32 {
        // Times with many requests, and times with none.
        let busy = step / 500 % 2 == 0;
        if random.u8(0..if busy { 4 } else { 200 }) == 0 {
            let stream = gate.send(&list());
            waiting.push((json!(stream.exchange.borrow().trace.request_id.bytes()), gate.host.now.get()));
            gate.complete(&stream);
            waiting.last_mut().unwrap().1 = gate.host.now.get();
        }
        let Some((call, request)) = gate.sync_call() else { continue };
        for record in request.records.as_ref().map(records).unwrap_or_default() {
            let place = waiting.iter().position(|(id, _)| *id == record["request_id"]).unwrap();
            let (_, since) = waiting.swap_remove(place);
            longest = longest.max(gate.host.now.get().since(since));
        }
        gate.answer_sync(&call, &grant_all(&request));
    }
    println!("the longest wait was {longest:?}");
    assert!(longest > Duration::from_millis(500) && longest <= Duration::from_secs(1), "{longest:?}");
    let overdue = waiting.iter().filter(|(_, since)| gate.host.now.get().since(*since) > Duration::from_secs(1)).count();
    assert_eq!(overdue, 0);
}

/// An approval and what it needs still fit together with names and hashes: a smoke test of the whole path.
#[test]
fn an_approved_request_of_a_recording_policy_has_two_records() {
    let mut gate = Gate::with("PP", |document| {
        document.budgets.clear();
        document.routes.iter_mut().for_each(|route| route.limit = None);
        document.audit.get_or_insert_default().request_headers = names(&["x-tenant"]);
        document.routes.iter_mut().find(|route| route.name == "agents.create").unwrap().audit = AuditLevel::Required;
    });
    let request = Request::new("POST", "/api/v1/agents").bearer(&tokens::admin()).with("x-approval-id", "a-1").with("x-tenant", "t");
    let stream = gate.send(&request);
    let granted = |request: &SyncRequest| {
        let mut answer = grant_all(request);
        let grant = |ask: &wire::sync::ApprovalAsk| ApprovalAnswer { request_id: ask.request_id, outcome: ApprovalOutcome::Granted };
        answer.approvals = request.approvals.iter().map(grant).collect();
        answer
    };
    let mut all = Vec::new();
    while gate.forwarded(&stream).is_none() {
        let (call, request) = gate.taken_call().or_else(|| (0..100).find_map(|_| gate.sync_call())).unwrap();
        all.extend(request.records.as_ref().map(records).unwrap_or_default());
        gate.answer_sync(&call, &granted(&request));
    }
    gate.complete(&stream);
    all.extend(queued(&gate));
    assert_eq!(all.len(), 2);
    for (record, phase) in all.iter().zip(["Intent", "Outcome"]) {
        assert_eq!((&record["phase"], &record["approval_id"]), (&json!(phase), &json!("a-1")));
        assert_eq!(record["request_headers"], json!([named("x-tenant", "t")]));
    }
}

impl Gate {
    /// A stream whose request the filter was never shown.
    fn unseen(&mut self) -> Stream {
        let stream = self.begin_stream(FakeStream { request: owned(&[]), ..FakeStream::default() }, true);
        let settings = std::rc::Rc::clone(&self.settings);
        stream.exchange.replace(crate::exchange::Exchange::new(settings));
        stream
    }
}
