//! What requests are charged in the end: reported by the backend, or counted from the tokens of a response; and what clients are
//! told of how full their budgets are.

use super::gate::{Gate, Request, Stream, grant_all};
use super::host::find;
use super::tokens;
use crate::pipeline::Step;
use serde_json::{Value, json};
use std::time::Duration;
use wire::policy::{Api, Budget, CostSource, Metering, PolicyDocument, Price, RateLimitHeaders, Reporting, Unbounded, Unit, Utilization};

/// $2 and $8 per million tokens.
const INPUT: i64 = 2_000_000;
const OUTPUT: i64 = 8_000_000;

fn price(model: &str) -> Price {
    Price { model: model.into(), input: INPUT, cache_read: Some(500_000), cache_write: None, output: OUTPUT }
}

/// `POST /api/v1/tasks` is a chat completion, charged to money and to a budget of tokens.
fn chat(document: &mut PolicyDocument) {
    document.prices = vec![price("fast"), price("slow-*")];
    document.prices[1].output = 10 * OUTPUT;
    let tokens = document.budgets.iter().find(|budget| budget.name == "agent-daily").unwrap().clone();
    document.budgets.push(Budget { name: "tokens-daily".into(), unit: Unit::Tokens, problem: None, status: None, ..tokens });
    let route = document.routes.iter_mut().find(|route| route.name == "tasks.create").unwrap();
    route.cost_micros = Some(7);
    route.metering = Some(Metering {
        by: CostSource::Usage,
        header: None,
        api: Some(Api::OpenaiChat),
        output_tokens: None,
        unbounded: Unbounded::Refuse,
    });
}

/// The same route, whose backend says what a request cost.
fn reported(document: &mut PolicyDocument) {
    let route = document.routes.iter_mut().find(|route| route.name == "tasks.create").unwrap();
    route.cost_micros = Some(5_000);
    route.metering = Some(Metering { by: CostSource::Header, header: None, api: None, output_tokens: None, unbounded: Unbounded::Refuse });
}

fn request(body: &Value) -> Request {
    Request::new("POST", "/api/v1/tasks").bearer(&tokens::admin()).with("accept-encoding", "gzip, br").body(body.to_string())
}

fn asked() -> Value {
    json!({"model": "fast", "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]})
}

fn answer() -> Value {
    json!({"id": "1", "model": "fast", "choices": [{"message": {"content": "\"usage\":{\"prompt_tokens\":1}"}}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 20, "total_tokens": 50, "prompt_tokens_details": {"cached_tokens": 10}}})
}

/// 20 × 2 + 10 × 0.5 + 20 × 8 = 205 micro-USD.
const COST: i64 = 205;

/// Sent on; the next sync call grants what it waits for.
fn forwarded(gate: &mut Gate, request: &Request) -> Stream {
    let stream = gate.send(request);
    if stream.step == Step::Held {
        gate.run(Duration::from_millis(40));
        let call = gate.take_call("/data-plane/v1/sync").unwrap();
        let asked = wire::frame::decode(&call.body).unwrap();
        gate.answer_sync(&call, &grant_all(&asked));
    }
    assert!(gate.forwarded(&stream).is_some(), "{:?}", gate.reply(&stream).map(|reply| reply.problem()));
    stream
}

/// How the cost became known, and amount and overrun of each charge; the agent's money is the first.
fn charged(gate: &Gate, stream: &Stream) -> (String, Vec<(i64, i64)>) {
    gate.finish(stream);
    let record = gate.last_record();
    let amounts = |charge: &Value| (charge["amount"].as_i64().unwrap(), charge["overrun"].as_i64().unwrap());
    (record["cost"].as_str().unwrap_or_default().to_owned(), record["charges"].as_array().unwrap().iter().map(amounts).collect())
}

fn money((basis, charges): &(String, Vec<(i64, i64)>)) -> (&str, i64, i64) {
    (basis, charges[0].0, charges[0].1)
}

#[test]
fn a_request_is_reserved_at_its_bound_and_charged_by_the_tokens_of_its_response() {
    let mut gate = Gate::with("PLANT", chat);
    let stream = forwarded(&mut gate, &request(&asked()));
    assert_eq!(find(&gate.forwarded(&stream).unwrap(), "accept-encoding"), None, "a compressed answer could not be read");
    let held = gate.held();
    assert!(held > 100 * 8 + 100, "output at its limit, input at its length: {held}");
    gate.respond_with(&stream, 200, &[("content-type", "application/json; charset=utf-8")]);
    let body = answer().to_string();
    let (first, rest) = body.as_bytes().split_at(body.len() / 2);
    gate.response_body(&stream, first, false);
    gate.response_body(&stream, rest, false);
    gate.response_body(&stream, b"", true);
    gate.finish(&stream);
    let record = gate.last_record();
    assert_eq!(record["usage"], json!({"model": "fast", "input": 20, "cache_read": 10, "cache_write": 0, "output": 20}));
    let amounts: Vec<_> = record["charges"].as_array().unwrap().iter().map(|charge| charge["amount"].as_i64().unwrap()).collect();
    assert!(amounts.contains(&COST) && amounts.contains(&50), "money and tokens: {amounts:?}");
    assert_eq!(gate.held(), 0);
    gate.assert_nothing_is_left();
}

#[test]
fn wherever_a_response_is_cut_the_charge_is_the_bound_or_the_cost_and_never_nothing() {
    let whole = answer().to_string();
    let complete = whole.find("\"total_tokens\"").unwrap();
    let mut gate = Gate::with("PLANT", chat);
    let mut bound = None;
    for cut in (0..=whole.len()).step_by(7).chain([whole.len()]) {
        let stream = forwarded(&mut gate, &request(&asked()));
        gate.respond_with(&stream, 200, &[("content-type", "application/json")]);
        gate.response_body(&stream, &whole.as_bytes()[..cut], false);
        let charged = charged(&gate, &stream);
        match money(&charged) {
            ("Usage", amount, 0) => assert!(amount == COST && cut > complete, "{cut}"),
            ("Unreadable", amount, 0) => {
                assert!(cut < whole.len() && amount > COST);
                assert_eq!(*bound.get_or_insert(amount), amount);
            }
            other => panic!("{cut}: {other:?}"),
        }
    }
    assert!(gate.host.metric("gateway.usage_unreadable_total") > 10);
}

#[test]
fn streams_are_charged_by_their_last_event_and_at_the_bound_without_it() {
    let events = |usage: &str| {
        format!("data: {{\"model\":\"slow-2\",\"choices\":[{{\"delta\":{{\"content\":\"x\"}}}}]}}\n\n{usage}data: [DONE]\n\n")
    };
    let usage =
        "data: {\"model\":\"slow-2\",\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":2,\"total_tokens\":12}}\n\n";
    for (usage, want) in [(usage, Some(20 + 160)), ("", None)] {
        let mut gate = Gate::with("PLANT", chat);
        let mut body = asked();
        body["stream"] = true.into();
        let stream = forwarded(&mut gate, &request(&body));
        gate.respond_with(&stream, 200, &[("content-type", "text/event-stream")]);
        for piece in events(usage).as_bytes().chunks(11) {
            gate.response_body(&stream, piece, false);
        }
        let charged = charged(&gate, &stream);
        match want {
            // By the price of the model that answered, beyond the bound of the one that was asked for if need be.
            Some(cost) => assert_eq!(money(&charged), ("Usage", cost, 0)),
            None => assert_eq!(money(&charged).0, "Unreadable"),
        }
    }
}

#[test]
fn a_compressed_answer_is_charged_at_the_bound_and_a_backend_s_own_error_at_the_route_s_cost() {
    let mut gate = Gate::with("PLANT", chat);
    let whole = answer().to_string();
    let mut run = |status, headers: &[(&str, &str)], end_of_stream, details: &str| {
        let stream = forwarded(&mut gate, &request(&asked()));
        gate.respond_with(&stream, status, headers);
        gate.response_body(&stream, whole.as_bytes(), end_of_stream);
        let mut streams = gate.host.streams.borrow_mut();
        let properties = &mut streams.get_mut(&stream.context).unwrap().properties;
        properties.insert("response.code_details".into(), details.into());
        properties.insert("upstream.local_address".into(), b"127.0.0.1:1".to_vec());
        drop(streams);
        let charged = charged(&gate, &stream);
        let (basis, amount, _) = money(&charged);
        (basis.to_owned(), amount)
    };
    let json = ("content-type", "application/json");
    assert_eq!(run(200, &[json], true, ""), ("Usage".into(), COST));
    let bound = run(200, &[json, ("content-encoding", "gzip")], true, "");
    assert!(bound.0 == "Unreadable" && bound.1 > COST);
    let text = ("content-type", "text/plain");
    assert_eq!(run(429, &[text], true, "via_upstream"), ("Fixed".into(), 7));
    // Cut off, or made by Envoy because the backend broke off: nobody knows what was generated.
    assert_eq!(run(429, &[text], false, "via_upstream"), bound);
    assert_eq!(run(503, &[text], true, "upstream_reset_before_response_started{connection_termination}"), bound);
    assert_eq!(run(200, &[text], true, "via_upstream"), bound);
}

#[test]
fn what_cannot_be_priced_is_refused_before_anything_is_reserved() {
    let mut gate = Gate::with("PLANT", chat);
    let limitless = json!({"model": "fast", "messages": []});
    let unpriced = json!({"model": "other", "max_tokens": 1, "messages": []});
    for (body, status, slug, reason) in [
        (limitless.to_string(), 400, "validation-error", "output_unlimited"),
        (unpriced.to_string(), 403, "model-unpriced", "model_unpriced"),
        ("{\"model\":\"fast\",\"max_tokens\":1,\"mod\\u0065l\":\"slow-1\"}".into(), 400, "validation-error", "metered_body"),
        (r#"{"model":"fast","max_tokens":1,"web_search_options":{}}"#.into(), 400, "validation-error", "cost_unbounded"),
        (r#"{"model":"fast","max_tokens":1000000000000000}"#.into(), 400, "validation-error", "output_unlimited"),
        ("[]".into(), 400, "validation-error", "metered_body"),
        ("{".into(), 400, "validation-error", "metered_body"),
        (
            format!("{{\"model\":\"fast\",\"max_tokens\":1,\"x\":\"{}\"}}", "y".repeat(800_000)),
            413,
            "validation-error",
            "metered_body_too_large",
        ),
    ] {
        let request = Request::new("POST", "/api/v1/tasks").bearer(&tokens::admin()).body(body);
        let stream = gate.send(&request);
        assert_eq!(stream.step, Step::Answered, "{reason}");
        let reply = gate.reply(&stream).unwrap();
        assert_eq!(reply.status, status, "{reason}");
        assert_eq!(reply.problem()["type"], format!("https://waooaw.com/errors/{slug}"));
        assert_eq!((gate.held(), reply.problem()["check"].as_str()), (0, Some("budget")));
        gate.finish(&stream);
        assert_eq!(gate.last_record()["reason"], reason);
    }
    let encoded = request(&asked()).with("content-encoding", "gzip");
    assert_eq!(gate.refused(&encoded).status, 400);
}

#[test]
fn a_route_may_limit_the_output_of_requests_that_do_not() {
    let mut gate = Gate::with("PLANT", |document| {
        chat(document);
        let route = document.routes.iter_mut().find(|route| route.name == "tasks.create").unwrap();
        route.metering.as_mut().unwrap().output_tokens = Some(50);
    });
    let stream = forwarded(&mut gate, &request(&json!({"model": "fast", "messages": []})));
    assert!(gate.held() >= 50 * 8 + 50);
    gate.finish(&stream);
}

#[test]
fn the_backend_says_what_a_request_cost_in_a_header_or_a_trailer() {
    type Pairs = &'static [(&'static str, &'static str)];
    const NAME: &str = "x-actual-cost-micros";
    let cases: [(Pairs, Pairs, (&str, i64, i64)); 9] = [
        (&[(NAME, "1200")], &[], ("Reported", 1_200, 0)),
        (&[(NAME, " 0 ")], &[], ("Reported", 0, 0)),
        (&[], &[(NAME, "1300")], ("Reported", 1_300, 0)),
        (&[(NAME, "9000")], &[(NAME, "1")], ("Reported", 9_000, 4_000)),
        (&[], &[], ("Unreadable", 5_000, 0)),
        (&[(NAME, "-1")], &[], ("Unreadable", 5_000, 0)),
        (&[(NAME, "1,2")], &[], ("Unreadable", 5_000, 0)),
        (&[(NAME, "1.5")], &[], ("Unreadable", 5_000, 0)),
        (&[(NAME, "99999999999999999999")], &[], ("Unreadable", 5_000, 0)),
    ];
    for (headers, trailers, want) in cases {
        let mut gate = Gate::with("PLANT", reported);
        let stream = forwarded(&mut gate, &request(&asked()));
        gate.respond_with(&stream, 200, headers);
        gate.response_body(&stream, b"answer", false);
        gate.response_trailers(&stream, trailers);
        assert_eq!(money(&charged(&gate, &stream)), want, "{headers:?} {trailers:?}");
        let overruns = i64::from(want.2 > 0);
        assert_eq!(gate.host.metric("gateway.overruns_total"), overruns);
        assert_eq!(gate.host.metric("gateway.costs_unreported_total"), i64::from(want.0 == "Unreadable"));
    }
}

#[test]
fn a_request_that_never_reached_its_backend_is_charged_nothing() {
    for change in [chat, reported] {
        let mut gate = Gate::with("PLANT", change);
        let stream = forwarded(&mut gate, &request(&asked()));
        gate.respond(&stream, 503);
        let charged = charged(&gate, &stream);
        assert!(charged.0.is_empty() && charged.1.iter().all(|amounts| *amounts == (0, 0)), "{charged:?}");
        assert_eq!(gate.held(), 0);
    }
}

/// Settled as the control plane says, out of a cap of 1,000,000 for the agent and 100,000,000 for the platform.
fn filled(gate: &mut Gate, agent: i64, platform: i64) -> Stream {
    let request = Request::new("GET", "/api/v1/tasks").bearer(&tokens::admin());
    let stream = gate.send(&request);
    assert_eq!(stream.step, Step::Held);
    gate.sync(|_, answer| {
        for account in &mut answer.accounts {
            (account.cap, account.settled) = match &*account.budget {
                "agent-daily" => (1_000_000, agent),
                "platform-monthly" => (100_000_000, platform),
                "rate-paid-hour" => (1_000, 40),
                _ => (50, 20),
            };
            if account.settled >= account.cap {
                account.granted = 0;
            }
        }
    });
    stream
}

fn told(gate: &Gate, stream: &Stream, name: &str) -> Option<String> {
    find(&gate.host.stream(stream.context).response, name)
}

#[test]
fn clients_are_told_how_full_their_budgets_are_from_the_first_threshold_on() {
    for (agent, platform, always, want) in [
        (100, 100, false, None),
        (100, 100, true, Some(("normal", "0.01", "0.00"))),
        (800_000, 0, false, Some(("warning", "80.00", "0.00"))),
        (799_999, 0, false, None),
        (123_456, 95_500_000, false, Some(("high", "12.34", "95.50"))),
        (999_000, 80_000_000, false, Some(("high", "99.90", "80.00"))),
    ] {
        let mut gate = Gate::with("PLANT", |document| {
            let utilization = if always { Utilization::Always } else { Utilization::FromThreshold };
            document.reporting = Some(Reporting { utilization, ..Reporting::default() });
        });
        let stream = filled(&mut gate, agent, platform);
        gate.respond(&stream, 200);
        let level = told(&gate, &stream, "x-budget-alert-level");
        let utilizations = ["x-agent-utilization", "x-platform-utilization"].map(|name| told(&gate, &stream, name));
        let told = level.as_deref().map(|level| (level, utilizations[0].as_deref().unwrap(), utilizations[1].as_deref().unwrap()));
        assert_eq!(told, want, "{agent} {platform}");
        assert_eq!(self::told(&gate, &stream, "ratelimit"), None);
        gate.finish(&stream);
    }
}

#[test]
fn clients_are_told_of_request_budgets_if_the_policy_says_so() {
    for (which, standard, legacy) in
        [(RateLimitHeaders::Standard, true, false), (RateLimitHeaders::Legacy, false, true), (RateLimitHeaders::Both, true, true)]
    {
        let mut gate = Gate::with("PLANT", |document| document.reporting = Some(Reporting { rate_limits: which, ..Reporting::default() }));
        let stream = filled(&mut gate, 0, 0);
        gate.respond(&stream, 200);
        let told = |name| told(&gate, &stream, name);
        // One request of this holder is open.
        let want = standard.then_some("\"rate-paid-hour\";r=959;t=3570, \"rate-paid-minute\";r=29;t=30");
        assert_eq!(told("ratelimit").as_deref(), want);
        let want = standard.then_some("\"rate-paid-hour\";q=1000;w=3600, \"rate-paid-minute\";q=50;w=60");
        assert_eq!(told("ratelimit-policy").as_deref(), want);
        let values = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"].map(told);
        let want = legacy.then_some(["50", "29", "1768478460"]);
        assert_eq!(values.each_ref().map(|value| value.as_deref()), want.map_or([None; 3], |want| want.map(Some)));
        gate.finish(&stream);
    }
}

#[test]
fn a_refusal_shows_both_money_budgets_and_how_urgent_it_is() {
    let mut gate = Gate::new("PLANT");
    let stream = filled(&mut gate, 1_000_000, 40_500_000);
    let reply = gate.reply(&stream).unwrap();
    let problem = reply.problem();
    assert_eq!((reply.status, problem["alert_level"].as_str()), (402, Some("critical")));
    assert_eq!(problem["agent_budget"]["limit_usd"], 1.0);
    assert_eq!(problem["agent_budget"]["utilization_percent"], 100.0);
    assert_eq!(problem["platform_budget"]["limit_usd"], 100.0);
    let spent = problem["platform_budget"]["spent_usd"].as_f64().unwrap();
    assert!((40.5..40.6).contains(&spent), "{spent}");
    assert_eq!(reply.header("x-budget-alert-level").as_deref(), Some("critical"));
    assert_eq!(reply.header("x-agent-utilization").as_deref(), Some("100.00"));
    assert!(reply.header("retry-after").is_some());
}

#[test]
fn a_raised_cap_is_asked_for_at_once_in_every_machine() {
    let shared = super::host::SharedData::default();
    let mut gates = [0, 1].map(|_| {
        let gate = Gate::cold("PLANT", shared.clone());
        gate.vm.borrow_mut().activate(&gate.host, &super::gate::image(&super::gate::document(), super::gate::version(1))).unwrap();
        gate.know_revocations(&[]);
        gate
    });
    let request = Request::new("GET", "/api/v1/tasks").bearer(&tokens::admin());
    for gate in &mut gates {
        let stream = gate.send(&request);
        gate.sync(|_, answer| {
            for account in &mut answer.accounts {
                (account.granted, account.cap, account.settled) = (0, 10, 10);
            }
        });
        assert_eq!(gate.reply(&stream).unwrap().status, 402);
        assert!(matches!(gate.refused(&request).status, 402));
    }
    let [leader, follower] = &mut gates;
    while leader.take_call("/data-plane/v1/revocations").is_none() {
        leader.run(Duration::from_millis(20));
    }
    leader.vm.borrow_mut().revocation_feed = crate::revocation_feed::RevocationFeed::default();
    leader.run(Duration::from_millis(100));
    let known = wire::revocation::RevocationPage { caps: 4, ..super::gate::page(false, 0, &[]) };
    leader.serve_revocations(&known);
    assert_eq!(leader.send(&request).step, Step::Held, "asked again");
    follower.run(Duration::from_millis(40));
    assert_eq!(follower.send(&request).step, Step::Held, "the other has been told");
    leader.run(Duration::from_millis(40));
    let call = leader.take_call("/data-plane/v1/revocations").unwrap();
    assert!(call.header(":path").unwrap().contains("&caps=4&"), "{:?}", call.header(":path"));
}

#[test]
fn a_request_that_may_cost_more_than_the_whole_budget_is_told_so_and_not_to_come_back() {
    let mut gate = Gate::with("PLANT", |document| {
        chat(document);
        document.prices[0].output = 1_000_000_000_000;
    });
    let dear = request(&json!({"model": "fast", "max_tokens": 1_000_000, "messages": []}));
    let stream = gate.send(&dear);
    assert_eq!(stream.step, Step::Held);
    // Only the accounts whose cap it may pass are asked about it: the others are not asked for what nobody will grant.
    let asked = gate.sync(|_, answer| {
        for account in &mut answer.accounts {
            (account.granted, account.cap, account.settled) = (0, 1_000_000, 0);
        }
    });
    let minimum = |budget: &str| asked.accounts.iter().find(|account| account.budget == budget).map_or(0, |account| account.minimum);
    assert!(minimum("agent-daily") > 1_000_000 && minimum("rate-paid-hour") == 0, "{asked:?}");
    assert!(asked.accounts.iter().all(|account| account.target <= 1 << 50 && account.charge <= 1 << 50));
    let reply = gate.reply(&stream).unwrap();
    let problem = reply.problem();
    assert_eq!((reply.status, problem["alert_level"].as_str(), reply.header("retry-after")), (402, Some("normal"), None));
    assert!(problem["detail"].as_str().unwrap().contains("more than the whole budget"), "{problem}");
}

#[test]
fn where_the_route_limits_the_output_the_usage_has_to_be_asked_for() {
    let mut gate = Gate::with("PLANT", |document| {
        chat(document);
        let route = document.routes.iter_mut().find(|route| route.name == "tasks.create").unwrap();
        route.metering.as_mut().unwrap().output_tokens = Some(50);
    });
    let stream = json!({"model": "fast", "stream": true, "messages": []});
    assert_eq!(gate.refused(&request(&stream)).status, 400, "the provider knows no limit, and would not say what it came to");
    let mut told = stream.clone();
    told["stream_options"] = json!({"include_usage": true});
    let stream = forwarded(&mut gate, &request(&told));
    gate.finish(&stream);
}
