//! How fast a meter reads: `cargo run --release --package metering --example speed`.
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::hint::black_box;
use std::time::Instant;

use metering::{Api, Form, Meter};

const EVENT: &str = concat!(
    r#"data: {"id":"chatcmpl-sample","object":"chat.completion.chunk","created":1760000000,"model":"gpt-4o-2024-08-06","#,
    r#""service_tier":"default","system_fingerprint":"fp_sample","choices":[{"index":0,"delta":{"content":" word"},"#,
    r#""logprobs":null,"finish_reason":null}],"usage":null}"#,
    "\n\n"
);
const RUNNING: &str = "{\"prompt_tokens\":9,\"completion_tokens\":12,\"total_tokens\":21}}\n";
const RUNS: u32 = 200;

/// Pushes `piece` over and over, after `start`; the fastest counts, for others use the machine as well.
fn measure(name: &str, mut meter: Meter, start: &str, piece: &str, events: usize) {
    meter.push(start.as_bytes());
    let mut seconds = f64::MAX;
    for _ in 0..RUNS {
        let begin = Instant::now();
        meter.push(black_box(piece.as_bytes()));
        seconds = seconds.min(begin.elapsed().as_secs_f64());
    }
    black_box(meter.usage());
    println!("{name}: {:.0} MB/s, {:.0} ns per event", piece.len() as f64 / seconds / 1e6, seconds * 1e9 / events as f64);
}

fn main() {
    let events = 1000;
    let chat = |form| Meter::new(Api::ChatCompletions, form);
    measure("events", chat(Form::EventStream), "", &EVENT.repeat(events), events);
    measure("events with a running usage", chat(Form::EventStream), "", &EVENT.replace("null}\n", RUNNING).repeat(events), events);
    measure("text within JSON", chat(Form::Json), "{\"a\":\"", &"A long text without an end. ".repeat(10_000), 1);
    measure("numbers within JSON", chat(Form::Json), "{\"a\":[", &"-0.0023064255,".repeat(10_000), 1);
}
