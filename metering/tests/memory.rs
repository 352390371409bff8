//! A response costs no memory by its length. Its own binary: it counts every allocation of the thread.
#![cfg(not(target_arch = "wasm32"))]

#[path = "../../decision-core/tests/counting/mod.rs"]
mod counting;

use counting::allocations;
use metering::{Api, Form, Meter, Usage};

const STREAM_BYTES: usize = 100_000_000;

const EVENT: &str = concat!(
    r#"data: {"id":"chatcmpl-sample","object":"chat.completion.chunk","created":1760000000,"model":"gpt-4o","#,
    r#""choices":[{"index":0,"delta":{"content":"Grüße, 你好 \"usage\": 1"},"finish_reason":null}],"usage":null}"#,
    "\n\n"
);
const LAST: &str = r#"data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12}}"#;

/// Pushes `piece` until so many bytes are through.
fn fill(meter: &mut Meter, piece: &[u8], bytes: usize) {
    (0..bytes / piece.len()).for_each(|_| meter.push(piece));
}

#[test]
fn a_long_stream_allocates_nothing_once_it_runs() {
    let piece = EVENT.repeat(64);
    let mut meter = Meter::new(Api::ChatCompletions, Form::EventStream);
    meter.push(EVENT.as_bytes());
    assert_eq!(allocations(|| fill(&mut meter, piece.as_bytes(), STREAM_BYTES)).0, 0);
    // The usage itself is kept to be read.
    assert!(allocations(|| meter.push(LAST.as_bytes())).0 <= 4);
    assert_eq!(meter.usage().map(|reading| reading.usage), Some(Usage { input: 9, output: 12, ..Usage::default() }));
}

/// What a value that never ends makes a meter keep is allocated by doubling, so few times.
#[test]
fn values_without_end_are_kept_to_a_limit() {
    let starts = ["{\"usage\":{\"", "{\"model\":\"", "{\"choices\":[\"", "{\"", "{\"a\":\"", "{\"a\":[", "{\"usage\":[", "{\"a\":-1"];
    let fillings = ["x".repeat(1000), "[".repeat(1000), "1,".repeat(500), r"\u0075".repeat(200), " ".repeat(1000)];
    for start in starts {
        for filling in &fillings {
            let mut json = Meter::new(Api::ChatCompletions, Form::Json);
            let mut events = Meter::new(Api::ChatCompletions, Form::EventStream);
            let (count, ()) = allocations(|| {
                json.push(start.as_bytes());
                fill(&mut json, filling.as_bytes(), 2_000_000);
                events.push(b"data: ");
                events.push(start.as_bytes());
                fill(&mut events, filling.as_bytes(), 2_000_000);
            });
            // 16 KiB in doublings from eight bytes are twelve.
            assert!(count <= 26, "{start} {filling:.9}: {count} allocations");
        }
    }
}

#[test]
fn lines_and_events_without_end_are_not_kept() {
    for filling in ["x", ": note\n", "data: x\n", "data\n", "\n", "data: {\"usage\":{}}\r\n\r\n", "event: e\n"] {
        let piece = filling.repeat(4096);
        let mut meter = Meter::new(Api::ChatCompletions, Form::EventStream);
        meter.push(filling.as_bytes());
        assert_eq!(allocations(|| fill(&mut meter, piece.as_bytes(), 5_000_000)).0, 0, "{filling:?}");
    }
}
