//! Whole responses of each API in each form: read whole, cut at every byte, and in pieces of every size.

use std::path::Path;

use crate::oracle::{Expected, end_of, metered, of_events, of_json, texts, told};
use metering::{Api, Form, Meter, Usage};
use proptest::prelude::*;

const GPT: &str = "gpt-4o-2024-08-06";
const CLAUDE: &str = "claude-sonnet-4-5-20250929";

/// What each sample comes to: input, read from a cache, written to a cache, output; and the model.
type Row = (&'static str, Option<([u64; 4], &'static str)>);

const SAMPLES: [Row; 41] = [
    ("openai_chat/text.json", Some(([19, 0, 0, 10], GPT))),
    ("openai_chat/cached.json", Some(([86, 1920, 0, 300], "o4-mini-2025-04-16"))),
    ("openai_chat/tool_call.json", Some(([82, 0, 0, 17], GPT))),
    ("openai_chat/lookalike.json", Some(([40, 0, 0, 55], GPT))),
    ("openai_chat/refusal.json", Some(([81, 0, 0, 11], GPT))),
    ("openai_chat/error.json", None),
    ("openai_chat/text.sse", Some(([93, 1024, 0, 46], GPT))),
    ("openai_chat/crlf.sse", Some(([9, 0, 0, 2], GPT))),
    ("openai_chat/not_asked.sse", None),
    ("openai_chat/tool_call.sse", Some(([82, 0, 0, 17], GPT))),
    ("openai_chat/lookalike.sse", Some(([31, 0, 0, 77], GPT))),
    ("openai_chat/running.sse", Some(([12, 0, 0, 7], "qwen2.5-7b-instruct"))),
    ("openai_chat/running_until_done.sse", Some(([8, 0, 0, 106], "gemini-2.5-flash"))),
    ("openai_chat/filter_results_first.sse", Some(([11, 0, 0, 3], GPT))),
    ("openai_chat/refusal.sse", Some(([65, 0, 16, 4], GPT))),
    ("openai_chat/multi_line.sse", Some(([9, 0, 0, 2], GPT))),
    ("openai_responses/text.json", Some(([72, 256, 0, 52], "gpt-5-2025-08-07"))),
    ("openai_responses/tool_call.json", Some(([291, 0, 0, 23], "gpt-5-2025-08-07"))),
    ("openai_responses/lookalike.json", Some(([36, 0, 0, 87], "gpt-5-2025-08-07"))),
    ("openai_responses/refusal.json", Some(([14, 0, 0, 9], "gpt-5-2025-08-07"))),
    ("openai_responses/in_progress.json", None),
    ("openai_responses/text.sse", Some(([37, 0, 0, 11], "gpt-5-2025-08-07"))),
    ("openai_responses/lookalike.sse", Some(([64, 0, 0, 91], "gpt-5-2025-08-07"))),
    ("openai_responses/tool_call.sse", Some(([163, 128, 0, 23], "gpt-5-2025-08-07"))),
    ("openai_responses/incomplete.sse", Some(([37, 0, 0, 16], "gpt-5-2025-08-07"))),
    ("openai_responses/failed.sse", None),
    ("openai_embeddings/float.json", Some(([8, 0, 0, 0], "text-embedding-3-small"))),
    ("openai_embeddings/base64.json", Some(([23, 0, 0, 0], "text-embedding-3-small"))),
    ("anthropic_messages/text.json", Some(([2095, 0, 0, 503], CLAUDE))),
    ("anthropic_messages/cached.json", Some(([50, 100_000, 248, 393], CLAUDE))),
    ("anthropic_messages/tool_use.json", Some(([472, 0, 0, 89], CLAUDE))),
    ("anthropic_messages/lookalike.json", Some(([25, 0, 0, 99], CLAUDE))),
    ("anthropic_messages/refusal.json", Some(([564, 0, 0, 3], CLAUDE))),
    ("anthropic_messages/error.json", None),
    ("anthropic_messages/text.sse", Some(([25, 0, 0, 15], CLAUDE))),
    ("anthropic_messages/cached.sse", Some(([4, 1807, 205, 64], CLAUDE))),
    ("anthropic_messages/tool_use.sse", Some(([472, 0, 0, 89], CLAUDE))),
    ("anthropic_messages/server_tool.sse", Some(([10_682, 0, 0, 510], CLAUDE))),
    ("anthropic_messages/lookalike.sse", Some(([31, 0, 0, 120], CLAUDE))),
    ("anthropic_messages/error.sse", None),
    ("anthropic_messages/refusal.sse", Some(([564, 0, 0, 22], CLAUDE))),
];

struct Sample {
    name: &'static str,
    api: Api,
    form: Form,
    response: Vec<u8>,
    want: Expected,
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples"))
}

fn samples() -> Vec<Sample> {
    let read = |(name, want): Row| {
        let form = if name.ends_with(".sse") { Form::EventStream } else { Form::Json };
        let want = want.map(|([input, cache_read, cache_write, output], model)| {
            (Usage { input, cache_read, cache_write, output }, Some(model.to_owned()))
        });
        let api = Api::parse(name.split('/').next().unwrap()).unwrap();
        Sample { name, api, form, response: std::fs::read(folder().join(name)).unwrap(), want }
    };
    SAMPLES.map(read).into()
}

/// What the first bytes of a sample come to, by the oracle.
fn expected(sample: &Sample, length: usize) -> Expected {
    match sample.form {
        Form::EventStream => of_events(sample.api, &texts(&sample.response[..length])),
        Form::Json | Form::Unreadable => {
            let text = std::str::from_utf8(&sample.response).unwrap();
            let has = |member| end_of(text, member).is_some_and(|end| end <= length);
            let (usage, model) = of_json(sample.api, &serde_json::from_str(text).unwrap())?;
            has("usage").then(|| (usage, model.filter(|_| has("model"))))
        }
    }
}

#[test]
fn every_sample_stands_in_the_table() {
    let folders = Api::ALL.map(|api| std::fs::read_dir(folder().join(api.name())).unwrap().count());
    assert_eq!(folders.iter().sum::<usize>(), SAMPLES.len());
}

#[test]
fn a_whole_response_tells_its_usage() {
    for sample in samples() {
        assert_eq!(metered(sample.api, sample.form, [&*sample.response]), sample.want, "{}", sample.name);
        assert_eq!(expected(&sample, sample.response.len()), sample.want, "{}, by the oracle", sample.name);
    }
}

#[test]
fn a_response_that_is_cut_tells_its_usage_from_one_byte_on_and_nothing_before() {
    for sample in samples() {
        let mut meter = Meter::new(sample.api, sample.form);
        let mut heard = None;
        for length in 0..=sample.response.len() {
            let cut = &sample.response[..length];
            let told = told(&meter);
            assert_eq!(told, expected(&sample, length), "{} cut at {length}", sample.name);
            assert_eq!(metered(sample.api, sample.form, [cut]), told, "{} cut at {length}, whole", sample.name);
            let (usage, want) = (told.map(|(usage, _)| usage), sample.want.as_ref().map(|(usage, _)| *usage));
            assert!(usage == want || usage.is_none(), "{} cut at {length}: another usage", sample.name);
            assert!(heard.is_none() || usage == heard, "{} cut at {length}: taken back", sample.name);
            heard = usage;
            meter.push(sample.response.get(length..length + 1).unwrap_or_default());
        }
    }
}

#[test]
fn pieces_of_every_size_tell_the_same() {
    for sample in samples() {
        for size in 1..=64 {
            assert_eq!(metered(sample.api, sample.form, sample.response.chunks(size)), sample.want, "{} by {size}", sample.name);
        }
    }
}

#[test]
fn a_response_in_another_form_or_of_another_api_tells_nothing_wrong() {
    for sample in samples() {
        assert_eq!(metered(sample.api, Form::Unreadable, [&*sample.response]), None);
        for api in Api::ALL.into_iter().filter(|api| *api != sample.api) {
            // Chat completions and embeddings name their counts alike, and the other two do.
            let openai_first = |api| matches!(api, Api::ChatCompletions | Api::Embeddings);
            let alike = sample.form == Form::Json && openai_first(api) == openai_first(sample.api);
            assert!(alike || metered(api, sample.form, [&*sample.response]).is_none(), "{} as {}", sample.name, api.name());
        }
    }
}

proptest! {
    #[test]
    fn random_pieces_tell_the_same(index in 0..SAMPLES.len(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let sample = &samples()[index];
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(sample.response.len() + 1)).collect();
        ends.extend([0, sample.response.len()]);
        ends.sort_unstable();
        let pieces = ends.windows(2).map(|pair| &sample.response[pair[0]..pair[1]]);
        prop_assert_eq!(&metered(sample.api, sample.form, pieces), &sample.want);
    }

    #[test]
    fn damaged_responses_do_no_harm_and_tell_the_same_in_pieces(
        index in 0..SAMPLES.len(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        size in 1_usize..40,
    ) {
        let mut sample = samples().swap_remove(index);
        for (place, byte) in damage {
            let place = place.index(sample.response.len());
            sample.response[place] = byte;
        }
        let whole = metered(sample.api, sample.form, [&*sample.response]);
        prop_assert_eq!(metered(sample.api, sample.form, sample.response.chunks(size)), whole);
    }
}
