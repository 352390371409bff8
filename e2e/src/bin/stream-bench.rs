//! What it costs Envoy to watch a streamed answer of a language model: CPU per server-sent event with the filter reading the usage,
//! beside the same stream on a route without metering, and beside an Envoy that does not call the filter for response bodies.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;
use cli::demo::http::{Ask, Client};
use cli::stack::{Options, Stack, State, cpu_time, repository};
use e2e::bench::{BenchError, exit, gateway, token};
use e2e::policies::without_budgets;
use serde_json::json;
use tokio::task::JoinSet;

const POLICY: &str = "
prices:
  - { model: \"*\", input: 1000000, output: 10000000 }
budgets:
  - { name: llm-money, unit: micro_usd, window: month, scope: \"agent:{agent_id|subject}\", cap: 4000000000000 }
routes:
  - { name: llm.chat, gateways: [CP], methods: [POST], path: /v1/chat/completions, require: authenticated, metering: { by: usage, api: openai_chat }, exchange: stream }
  - { name: llm.unwatched, gateways: [CP], methods: [POST], path: /v1/unwatched, require: authenticated, cost_micros: 3, exchange: stream }
";
/// Both paths count the same charges.
const WATCHED: &str = "/v1/chat/completions";
const UNWATCHED: &str = "/v1/unwatched";
/// Bytes in each event: every one arrives by itself. So many events come again and again, so many times in one answer.
const EVENT_BYTES: usize = 256;
const EVENTS: usize = 60;
const TIMES: usize = 20;
const STREAMS: usize = 12;

/// Measure what watching streamed answers costs.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// All ports are above this one; the second stack's above the next hundred.
    #[arg(long, default_value_t = 27_000)]
    port_base: u16,
    /// How often each is measured; the median counts.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long each measurement lasts.
    #[arg(long, default_value_t = 2_500)]
    milliseconds: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    exit(run(&Arguments::parse()).await)
}

async fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let home = tempfile::tempdir()?;
    let policies = without_budgets(home.path(), POLICY)?;
    let shipped = repository().join("envoy/bootstrap.yaml");
    let deaf = home.path().join("bootstrap.yaml");
    std::fs::write(&deaf, without_body_callbacks(&std::fs::read_to_string(&shipped)?)?)?;
    let start = |name: &str, port_base, template: &Path| {
        let mut options = Options::from_environment(&repository());
        options.port_base = port_base;
        options.run_dir = repository().join(format!(".run-stream-bench-{name}"));
        options.policies.clone_from(&policies);
        options.envoy_template = template.to_owned();
        options.concurrency = 1;
        Stack::start(options)
    };
    let with = start("with", arguments.port_base, &shipped)?;
    let without = start("without", arguments.port_base + 200, &deaf);
    let measured = match &without {
        Ok(without) => measure(with.state(), without.state(), arguments).await,
        Err(_) => Ok(()),
    };
    with.stop();
    without?.stop();
    measured
}

/// The configuration as shipped, without the two lines by which the filter is called for response bodies and trailers.
fn without_body_callbacks(template: &str) -> Result<String, BenchError> {
    let callback = |line: &&str| line.contains("proxy_on_response_body: {}") || line.contains("proxy_on_response_trailers: {}");
    if template.lines().filter(callback).count() == 0 {
        return Err(BenchError::Lacks("body callbacks"));
    }
    Ok(template.lines().filter(|line| !callback(line)).map(|line| format!("{line}\n")).collect())
}

async fn measure(with: &State, without: &State, arguments: &Arguments) -> Result<(), BenchError> {
    let time = Duration::from_millis(arguments.milliseconds);
    let cases = [("not called", without, UNWATCHED), ("called, not watched", with, UNWATCHED), ("watched", with, WATCHED)];
    let mut samples = cases.map(|_| Vec::new());
    for (_, state, path) in cases {
        stream(state, path, Duration::from_millis(500)).await?;
    }
    for round in 0..arguments.rounds {
        // In turns, each first once: what lasts longer than a measurement then touches all alike.
        for turn in 0..cases.len() {
            let at = (round + turn) % cases.len();
            if let (Some((_, state, path)), Some(samples)) = (cases.get(at), samples.get_mut(at)) {
                samples.push(stream(state, path, time).await?);
            }
        }
    }
    println!(
        "CPU of Envoy per event of {EVENT_BYTES} bytes, {} events to a request, {STREAMS} streams at once, in µs (median; all):",
        EVENTS * TIMES
    );
    let mut medians = Vec::new();
    for ((name, ..), samples) in cases.iter().zip(&mut samples) {
        samples.sort_by(f64::total_cmp);
        let median = samples.get(samples.len() / 2).copied().unwrap_or_default();
        println!("  {name:20} {median:6.2}  {samples:.2?}");
        medians.push(median);
    }
    if let [not_called, called, watched] = medians[..] {
        println!("  the callback {:.2}, watching {:.2}, together {:.2}", called - not_called, watched - called, watched - not_called);
    }
    Ok(())
}

/// Streams for so long; answers microseconds of CPU per event.
async fn stream(state: &State, path: &'static str, time: Duration) -> Result<f64, BenchError> {
    let envoy = state.pids.envoy.ok_or(BenchError::Lacks("Envoy of its own"))?;
    let until = Instant::now() + time;
    let mut clients = JoinSet::new();
    let before = cpu_time(envoy)?;
    for number in 0..STREAMS {
        let token = token(state, &format!("reader-{number}"))?;
        clients.spawn(read(Client::new(gateway(state)?), ask(path, &token), until));
    }
    let mut answers = 0;
    while let Some(ended) = clients.join_next().await {
        answers += ended??;
    }
    let used = cpu_time(envoy)?.saturating_sub(before);
    let events = answers * u32::try_from(EVENTS * TIMES).unwrap_or(0);
    Ok(used.as_secs_f64() * 1e6 / f64::from(events.max(1)))
}

async fn read(mut client: Client, ask: Ask, until: Instant) -> Result<u32, BenchError> {
    let mut answers = 0;
    while Instant::now() < until {
        let answer = client.send(&ask).await?;
        if answer.status != 200 || answer.body.len() != EVENT_BYTES * EVENTS * TIMES {
            return Err(BenchError::Answer { what: "a stream", status: answer.status, bytes: answer.body.len() });
        }
        answers += 1;
    }
    Ok(answers)
}

fn ask(path: &str, token: &str) -> Ask {
    let request = json!({"model": "m", "max_completion_tokens": 5_000, "messages": [{"role": "user", "content": "hello"}], "stream": true,
        "stream_options": {"include_usage": true}});
    Ask::post(path)
        .bearer(token)
        .header("x-echo-body-base64", STANDARD.encode(body()))
        .header("x-echo-body-times", TIMES.to_string())
        .header("x-echo-set-content-type", "text/event-stream")
        .header("x-echo-pieces", format!("{EVENT_BYTES} every 1"))
        .json(&request)
}

/// Chunks of a chat completion, each as long as the next; the last tells the usage. No `[DONE]`: whatever follows that is not looked at.
fn body() -> String {
    let chunk = |content: &str, usage: &str| {
        let head = r#"data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1760000000,"model":"m","choices":["#;
        let event = format!(r#"{head}{content}],"usage":{usage}}}"#);
        format!("{event:width$}\n\n", width = EVENT_BYTES - 2)
    };
    let mut body: String =
        (1..EVENTS).map(|_| chunk(r#"{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}"#, "null")).collect();
    body += &chunk("", r#"{"prompt_tokens":12,"completion_tokens":60,"total_tokens":72}"#);
    body
}
