//! What requests to language models are charged, through Envoy: by the tokens of each kind of response, whole and cut off, and as
//! the backend reports in a header or a trailer. The client gets what the backend sent, byte for byte and as it comes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cli::stack::{Stack, State, repository};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Answer, Ask, Client};
use e2e::policies::without_budgets;
use e2e::stacks::{Shared, eventually, options, ports};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Prices in round numbers: an input token costs 1, one from the cache 0.5, one for it 2, an output token 10 micro-USD.
const POLICY: &str = "
prices:
  - { model: \"*\", input: 1000000, cache_read: 500000, cache_write: 2000000, output: 10000000 }
budgets:
  - { name: llm-money, unit: micro_usd, window: month, scope: \"agent:{agent_id|subject}\", cap: 4000000000 }
  - { name: llm-tokens, unit: tokens, window: month, scope: \"agent:{agent_id|subject}\", cap: 4000000000 }
routes:
  - { name: llm.chat, gateways: [CP], methods: [POST], path: /v1/chat/completions, require: authenticated, cost_micros: 3, metering: { by: usage, api: openai_chat }, exchange: stream }
  - { name: llm.responses, gateways: [CP], methods: [POST], path: /v1/responses, require: authenticated, cost_micros: 3, metering: { by: usage, api: openai_responses }, exchange: stream }
  - { name: llm.embeddings, gateways: [CP], methods: [POST], path: /v1/embeddings, require: authenticated, cost_micros: 3, metering: { by: usage, api: openai_embeddings } }
  - { name: llm.messages, gateways: [CP], methods: [POST], path: /v1/messages, require: authenticated, cost_micros: 3, metering: { by: usage, api: anthropic_messages }, exchange: stream }
  - { name: llm.reported, gateways: [CP], methods: [POST], path: /v1/reported, require: authenticated, cost_micros: 5000, metering: { by: header } }
";

static STACK: Shared = Shared::new(|| {
    let home = std::env::temp_dir().join(format!("plant-gateway-metering-{}", std::process::id()));
    let mut options = options("metering", ports::METERING).unwrap();
    options.policies = without_budgets(&home, POLICY).unwrap();
    Stack::start(options)
});

fn sample(name: &str) -> Vec<u8> {
    std::fs::read(repository().join("metering/tests/samples").join(name)).unwrap()
}

/// An API's path, and a request to it.
fn asked(api: &str, streams: bool) -> (&'static str, Value) {
    let message = json!([{"role": "user", "content": "hello"}]);
    match api {
        "openai_chat" => (
            "/v1/chat/completions",
            json!({"model": "m", "max_completion_tokens": 5_000, "messages": message, "stream": streams,
                "stream_options": streams.then(|| json!({"include_usage": true}))}),
        ),
        "openai_responses" => ("/v1/responses", json!({"model": "m", "max_output_tokens": 5_000, "input": "hello", "stream": streams})),
        "openai_embeddings" => ("/v1/embeddings", json!({"model": "m", "input": ["hello"]})),
        _ => ("/v1/messages", json!({"model": "m", "max_tokens": 5_000, "messages": message, "stream": streams})),
    }
}

struct Caller<'s> {
    state: &'s State,
    client: Client,
    token: String,
}

impl<'s> Caller<'s> {
    fn new(state: &'s State, name: &str) -> Self {
        let token = mint(&state.issuers["cp"], &TokenSpec::new(name, &["customer_user"]).customer(name)).unwrap();
        Self { state, client: Client::new(&state.gateways["CP"]), token }
    }

    fn ask(&self, path: &str, body: &Value, id: &str) -> Ask {
        Ask::post(path).bearer(&self.token).header("x-correlation-id", id).header("accept-encoding", "gzip").json(body)
    }

    async fn send(&mut self, ask: &Ask) -> Answer {
        self.client.send(ask).await.unwrap()
    }

    /// The record of the request with this correlation id.
    async fn record(&self, id: &str) -> Value {
        let mut admin = Admin::new(self.state);
        let found = eventually(Duration::from_secs(10), async || {
            let page = admin.json(Ask::get(&format!("/admin/v1/audit?correlation_id={id}"))).await.unwrap();
            page["records"].as_array()?.first().cloned()
        });
        found.await.unwrap()
    }
}

/// What was charged, by budget, and how that became known.
fn charged(record: &Value) -> (String, BTreeMap<String, i64>) {
    let charges = record["charges"].as_array().unwrap().iter();
    let amounts = charges.map(|charge| (charge["budget"].as_str().unwrap().to_owned(), charge["amount"].as_i64().unwrap()));
    (record["cost"].as_str().unwrap_or_default().to_owned(), amounts.collect())
}

fn answer_with(ask: Ask, body: &[u8], content_type: &str) -> Ask {
    ask.header("x-echo-body-base64", STANDARD.encode(body)).header("x-echo-set-content-type", content_type)
}

fn content_type(name: &str) -> &'static str {
    if name.ends_with(".sse") { "text/event-stream" } else { "application/json" }
}

#[tokio::test]
async fn every_kind_of_response_is_charged_by_its_tokens_and_reaches_the_client_unchanged() {
    let stack = STACK.get().unwrap();
    let mut caller = Caller::new(stack.state(), "whole");
    for (name, money, tokens) in [
        ("openai_chat/text.json", 19 + 100, 29),
        ("openai_chat/cached.json", 86 + 960 + 3_000, 2_306),
        ("openai_chat/text.sse", 93 + 512 + 460, 1_163),
        ("openai_chat/lookalike.sse", 31 + 770, 108),
        ("openai_responses/text.json", 72 + 128 + 520, 380),
        ("openai_responses/text.sse", 37 + 110, 48),
        ("openai_embeddings/float.json", 8, 8),
        ("anthropic_messages/text.json", 2_095 + 5_030, 2_598),
        ("anthropic_messages/cached.sse", 4 + 904 + 410 + 640, 2_080),
    ] {
        let (api, _) = name.split_once('/').unwrap();
        let (path, body) = asked(api, name.ends_with(".sse"));
        let id = format!("whole-{}", name.replace(['/', '.'], "-"));
        let ask = answer_with(caller.ask(path, &body, &id), &sample(name), content_type(name)).header("x-echo-pieces", "97 every 0");
        let answer = caller.send(&ask).await;
        assert_eq!((answer.status, &*answer.body), (200, &*sample(name)), "{name}");
        let record = caller.record(&id).await;
        let want = [("llm-money".to_owned(), money), ("llm-tokens".to_owned(), tokens)];
        assert_eq!(charged(&record), ("usage".into(), want.into()), "{name}: {record}");
    }
}

#[tokio::test]
async fn a_response_that_breaks_off_is_charged_at_its_bound_unless_it_has_told_its_usage() {
    let stack = STACK.get().unwrap();
    let caller = Caller::new(stack.state(), "cut");
    for (name, money) in [("openai_chat/text.json", 119), ("openai_chat/text.sse", 1_065), ("anthropic_messages/text.sse", 175)] {
        let (api, _) = name.split_once('/').unwrap();
        let (path, body) = asked(api, name.ends_with(".sse"));
        let whole = sample(name);
        let mut told = Vec::new();
        for cut in (1..whole.len()).step_by(whole.len() / 9) {
            let id = format!("cut-{cut}-{}", name.replace(['/', '.'], "-"));
            let ask = answer_with(caller.ask(path, &body, &id), &whole, content_type(name)).header("x-echo-cut", cut.to_string());
            // The connection breaks with it.
            let _broken = Client::new(&caller.state.gateways["CP"]).send(&ask).await;
            let (basis, amounts) = charged(&caller.record(&id).await);
            told.push((basis, amounts["llm-money"]));
        }
        let bound = told[0].1;
        assert!(bound > 50_000, "output at its limit: {told:?}");
        let from = told.iter().position(|(basis, _)| basis == "usage").unwrap_or(told.len());
        let (before, after) = told.split_at(from);
        assert!(before.iter().all(|charge| *charge == ("unreadable".into(), bound)), "{name}: {told:?}");
        assert!(after.iter().all(|charge| *charge == ("usage".into(), money)), "{name}: {told:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_and_a_backend_that_hangs_up_are_charged_what_was_reserved() {
    let stack = STACK.get().unwrap();
    let caller = Caller::new(stack.state(), "gone");
    let (path, body) = asked("openai_chat", true);
    let slow = answer_with(caller.ask(path, &body, "gone-client"), &sample("openai_chat/text.sse"), "text/event-stream");
    let slow = slow.header("x-echo-pieces", "60 every 300");
    let mut client = Client::new(&caller.state.gateways["CP"]);
    let left = tokio::time::timeout(Duration::from_millis(700), client.send(&slow)).await;
    assert!(left.is_err(), "it takes longer");
    drop(client);
    let hung_up = caller.ask(path, &body, "gone-backend").header("x-echo-hang-up", "1");
    let answer = Client::new(&caller.state.gateways["CP"]).send(&hung_up).await.unwrap();
    assert_eq!(answer.status, 503);
    for id in ["gone-client", "gone-backend"] {
        let record = caller.record(id).await;
        let (basis, amounts) = charged(&record);
        assert!(basis == "unreadable" && amounts["llm-money"] > 50_000, "{id}: {record}");
    }
}

#[tokio::test]
async fn a_compressed_answer_and_a_stream_without_usage_are_charged_at_the_bound_and_an_error_at_the_route_s_cost() {
    let stack = STACK.get().unwrap();
    let mut caller = Caller::new(stack.state(), "unreadable");
    let (path, body) = asked("openai_chat", true);
    let cases = [
        ("unreadable-gzip", "openai_chat/text.json", "200", Some("gzip"), "unreadable"),
        ("unreadable-silent", "openai_chat/not_asked.sse", "200", None, "unreadable"),
        ("unreadable-error", "openai_chat/error.json", "429", None, "fixed"),
    ];
    for (id, name, status, encoding, basis) in cases {
        let ask = answer_with(caller.ask(path, &body, id), &sample(name), content_type(name)).header("x-echo-status", status);
        let ask = match encoding {
            Some(encoding) => ask.header("x-echo-set-content-encoding", encoding),
            None => ask,
        };
        let answer = caller.send(&ask).await;
        assert_eq!(answer.status.to_string(), status);
        let (told, amounts) = charged(&caller.record(id).await);
        assert_eq!(told, basis, "{id}");
        assert_eq!(amounts["llm-money"] == 3, basis == "fixed", "{id}: {amounts:?}");
    }
    // The backend was asked for what can be read.
    let seen = caller.send(&caller.ask(path, &body, "unreadable-encoding")).await;
    assert!(!seen.text().contains("accept-encoding"), "{}", seen.text());
}

/// Nothing of it reaches the backend, and nothing is charged.
#[tokio::test]
async fn what_cannot_be_bounded_or_priced_is_refused() {
    let stack = STACK.get().unwrap();
    let mut caller = Caller::new(stack.state(), "refused");
    let large = format!("{{\"model\":\"m\",\"max_tokens\":1,\"x\":\"{}\"}}", "y".repeat(800_000));
    for (id, body, status, reason) in [
        ("refused-limit", r#"{"model":"m","messages":[]}"#, 400, "output_unlimited"),
        ("refused-huge", r#"{"model":"m","max_tokens":1000000000000000}"#, 400, "output_unlimited"),
        ("refused-key", r#"{"model":"m","max_tokens":1,"max_t\u006fkens":9}"#, 400, "metered_body"),
        ("refused-text", "no JSON", 400, "metered_body"),
        ("refused-search", r#"{"model":"m","max_tokens":1,"web_search_options":{}}"#, 400, "cost_unbounded"),
        (
            "refused-reference",
            r#"{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://example.com/a.png"}}]}]}"#,
            400,
            "cost_unbounded",
        ),
        ("refused-large", &large, 413, "metered_body_too_large"),
    ] {
        let ask = Ask::post("/v1/chat/completions").bearer(&caller.token).header("x-correlation-id", id);
        let answer = caller.send(&ask.header("content-type", "application/json").body(body.to_owned())).await;
        assert_eq!((answer.status, answer.json()["check"].as_str()), (status, Some("budget")), "{id}: {}", answer.text());
        assert!(answer.header("x-echo-listener").is_none(), "{id}");
        let record = caller.record(id).await;
        assert_eq!((&record["reason"], &record["charges"]), (&json!(reason), &json!([])), "{id}: {record}");
    }
}

#[tokio::test]
async fn the_backend_reports_a_cost_in_a_header_or_a_trailer() {
    let stack = STACK.get().unwrap();
    let mut caller = Caller::new(stack.state(), "reported");
    for (id, name, value, want) in [
        ("reported-header", "x-echo-set-x-actual-cost-micros", "1234", ("reported", 1_234)),
        ("reported-trailer", "x-echo-trailer-x-actual-cost-micros", "77", ("reported", 77)),
        ("reported-more", "x-echo-set-x-actual-cost-micros", "9000", ("reported", 9_000)),
        ("reported-none", "x-echo-set-x-other", "1", ("unreadable", 5_000)),
    ] {
        let ask = caller.ask("/v1/reported", &json!({}), id).header(name, value).header("te", "trailers");
        assert_eq!(caller.send(&ask).await.status, 200);
        let record = caller.record(id).await;
        let (basis, amounts) = charged(&record);
        assert_eq!((&*basis, amounts["llm-money"]), want, "{id}: {record}");
    }
    let overrun = caller.record("reported-more").await;
    assert_eq!(overrun["charges"][0]["overrun"], 4_000, "{overrun}");
    // More than was reserved counts: it is charged in full.
    let mut admin = Admin::new(caller.state);
    let accounts = eventually(Duration::from_secs(10), async || {
        let accounts = admin.accounts("llm-money").await.unwrap();
        accounts.into_iter().find(|account| account["scope"].as_str().unwrap().contains("reported") && account["overrun"] == 4_000)
    });
    let account = accounts.await.unwrap();
    assert_eq!(account["settled"].as_i64().unwrap() + 4_000, 1_234 + 77 + 9_000 + 5_000, "{account}");
    let metrics = Client::new(&caller.state.envoy_admin).send(&Ask::get("/stats?filter=overruns")).await.unwrap().text();
    assert!(metrics.lines().any(|line| line.ends_with(": 1")), "{metrics}");
}
