//! Generated responses, most of them odd: a meter agrees with the oracle on each, in whatever pieces it comes.

use crate::oracle::{metered, of_events, of_json, texts};
use metering::{Api, Form};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Texts that try to pass for what they are not.
const TEXTS: [&str; 9] = [
    "",
    "usage",
    "\"usage\":{\"prompt_tokens\":1}",
    "\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n\n",
    "\r\rdata: [DONE]\r\r",
    "\\\"}],\"usage\":{\\",
    "ünï ✓ 👋🏽\u{0}\u{1f}",
    "message_delta",
    "response.completed",
];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![prop::sample::select(&TEXTS[..]).prop_map(str::to_owned), any::<String>()]
}

fn counts() -> impl Strategy<Value = Value> {
    let counts = [
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "input_tokens",
        "output_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
    ];
    let count = prop_oneof![
        60 => (50_u64..100).prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => Just(Value::Null),
        1 => text().prop_map(Value::from),
    ];
    let detail = prop_oneof![
        4 => (0_u64..50).prop_map(|count| json!({ "cached_tokens": count })),
        1 => (0_u64..50).prop_map(|count| json!({ "cache_write_tokens": count, "x": [] })),
        1 => Just(json!([1])),
        1 => Just(Value::Null),
    ];
    let details = (prop::option::of(detail.clone()), prop::option::of(detail));
    (prop::collection::vec(prop::option::weighted(0.95, count), counts.len()), details).prop_map(move |(values, details)| {
        let mut object: Map<String, Value> =
            counts.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_owned(), value?))).collect();
        object.extend(details.0.map(|details| ("prompt_tokens_details".to_owned(), details)));
        object.extend(details.1.map(|details| ("input_tokens_details".to_owned(), details)));
        Value::Object(object)
    })
}

const NAMES: [&str; 9] = ["usage", "model", "choices", "message", "response", "type", "delta", "content", "x"];
const KINDS: [&str; 6] = ["message_start", "message_delta", "response.completed", "response.in_progress", "response.failed", "ping"];

fn name() -> impl Strategy<Value = String> {
    prop_oneof![8 => prop::sample::select(&NAMES[..]).prop_map(str::to_owned), 1 => text()]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
        Just(json!([])),
        counts(),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(name(), inner, 0..5).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// An object with some of the members that matter, each mostly as it should be.
fn response() -> impl Strategy<Value = Value> {
    let usage = || prop_oneof![8 => counts(), 1 => Just(Value::Null), 1 => value()];
    let choices = prop_oneof![2 => Just(json!([])), 2 => value().prop_map(|choice| json!([choice])), 1 => value()];
    let kind = prop_oneof![8 => prop::sample::select(&KINDS[..]).prop_map(Value::from), 1 => value()];
    let model = || prop_oneof![4 => "[a-z0-9-]{0,12}".prop_map(Value::from), 1 => value()];
    let inner = (prop::option::weighted(0.8, usage()), prop::option::of(model()), value()).prop_map(|(usage, model, other)| {
        let mut object = Map::from_iter([("output".to_owned(), other)]);
        object.extend(usage.map(|usage| ("usage".to_owned(), usage)));
        object.extend(model.map(|model| ("model".to_owned(), model)));
        Value::Object(object)
    });
    let inner = inner.boxed();
    let inner = || prop_oneof![6 => inner.clone(), 1 => value()];
    let members = (
        prop::option::weighted(0.7, usage()),
        prop::option::weighted(0.7, choices),
        prop::option::weighted(0.95, kind),
        prop::option::of(model()),
        prop::option::weighted(0.8, inner()),
        prop::option::weighted(0.8, inner()),
        prop::option::of((text(), value())),
    );
    members.prop_map(|(usage, choices, kind, model, message, response, other)| {
        let named =
            [("usage", usage), ("choices", choices), ("type", kind), ("model", model), ("message", message), ("response", response)];
        // What is added last never replaces what is named.
        let mut object: Map<String, Value> = other.into_iter().collect();
        object.extend(named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        Value::Object(object)
    })
}

/// Writes a value with blanks between its tokens, or without.
fn written(value: &Value, pretty: bool) -> String {
    if pretty { format!("{value:#}") } else { value.to_string() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn json_is_read_as_by_the_oracle(response in response(), pretty in any::<bool>(), size in 1_usize..200) {
        let text = written(&response, pretty);
        for api in Api::ALL {
            prop_assert_eq!(metered(api, Form::Json, text.as_bytes().chunks(size)), of_json(api, &response));
        }
    }

    #[test]
    fn events_are_read_as_by_the_oracle(
        responses in prop::collection::vec((response(), any::<bool>()), 0..5),
        done in any::<bool>(),
        end in prop::sample::select(&["\n", "\r\n", "\r"][..]),
        size in 1_usize..200,
    ) {
        let mut stream = String::from(": begin\n\n");
        for (response, pretty) in responses {
            for line in written(&response, pretty).lines() {
                stream.push_str(&format!("data: {line}\n"));
            }
            stream.push('\n');
        }
        if done {
            stream.push_str("data: [DONE]\n\n");
        }
        let stream = stream.replace('\n', end);
        for api in Api::ALL {
            let want = of_events(api, &texts(stream.as_bytes()));
            prop_assert_eq!(metered(api, Form::EventStream, stream.as_bytes().chunks(size)), want, "{}", api.name());
        }
    }

    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b"{}[]\":,\\u0eE.-+ \r\ndat"[..])], 0..300), size in 1_usize..50) {
        for api in Api::ALL {
            for form in [Form::Json, Form::EventStream, Form::Unreadable] {
                let whole = metered(api, form, [&*bytes]);
                prop_assert_eq!(metered(api, form, bytes.chunks(size)), whole);
            }
        }
    }
}
