//! What a response comes to, found in another way: the whole of it as values of serde_json, and no state.

use metering::{Api, Form, Meter, Usage};
use serde_json::Value;
use serde_json::value::RawValue;

/// A usage, and the model as the response names it.
pub(crate) type Expected = Option<(Usage, Option<String>)>;

/// What a meter tells of a response that comes in these pieces.
pub(crate) fn metered<'p>(api: Api, form: Form, pieces: impl IntoIterator<Item = &'p [u8]>) -> Expected {
    let mut meter = Meter::new(api, form);
    pieces.into_iter().for_each(|piece| meter.push(piece));
    told(&meter)
}

/// What the meter tells now.
pub(crate) fn told(meter: &Meter) -> Expected {
    meter.usage().map(|reading| (reading.usage, reading.model.map(str::to_owned)))
}

/// What a JSON response comes to, when all of it is there.
pub(crate) fn of_json(api: Api, response: &Value) -> Expected {
    let object = response.as_object()?;
    Some((usage(api, object.get("usage")?)?, model(object.get("model"))))
}

/// Where the value of a member ends, in the text of an object.
pub(crate) fn end_of(text: &str, member: &str) -> Option<usize> {
    let members: std::collections::HashMap<String, &RawValue> = serde_json::from_str(text).unwrap();
    let value = members.get(member)?.get();
    Some(value.as_ptr() as usize - text.as_ptr() as usize + value.len())
}

/// The texts of the events of a stream; of the last one what there is.
pub(crate) fn texts(stream: &[u8]) -> Vec<String> {
    let stream = String::from_utf8_lossy(stream).replace("\r\n", "\n").replace('\r', "\n");
    let stream = stream.strip_prefix('\u{feff}').unwrap_or(&stream);
    let events = stream.split("\n\n").map(|event| {
        let lines = event.split('\n').filter_map(|line| line.strip_prefix("data:"));
        lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n")
    });
    events.collect()
}

/// What a stream comes to that has these texts.
pub(crate) fn of_events(api: Api, texts: &[String]) -> Expected {
    let until = texts.iter().position(|text| api == Api::ChatCompletions && text.starts_with("[DONE]"));
    let heard = &texts[..until.unwrap_or(texts.len())];
    let events: Vec<Value> = heard.iter().filter_map(|text| serde_json::from_str(text).ok()).filter(Value::is_object).collect();
    let usage = match api {
        Api::ChatCompletions => chat(&events, until.is_some()),
        Api::Responses => {
            let ends = ["response.completed", "response.incomplete", "response.failed"];
            let last = events.iter().rfind(|event| {
                event["type"].as_str().is_some_and(|kind| ends.contains(&kind)) && event["response"].get("usage").is_some()
            })?;
            usage(api, &last["response"]["usage"])
        }
        Api::Messages => messages(&events),
        Api::Embeddings => None,
    }?;
    let mut models = events.iter().filter_map(|event| match api {
        Api::ChatCompletions | Api::Embeddings => model(event.get("model")),
        Api::Responses => model(event["response"].get("model")),
        Api::Messages => model(event["message"].get("model")),
    });
    Some((usage, models.next_back()))
}

fn is_empty(choices: &Value) -> bool {
    choices.as_array().is_some_and(Vec::is_empty)
}

fn chat(events: &[Value], done: bool) -> Option<Usage> {
    let index = events.iter().rposition(|event| !event["usage"].is_null())?;
    let later_choices = events[index + 1..].iter().any(|event| !event["choices"].is_null() && !is_empty(&event["choices"]));
    let last = &events[index];
    if later_choices || !(done || is_empty(&last["choices"])) {
        return None;
    }
    usage(Api::ChatCompletions, &last["usage"])
}

fn messages(events: &[Value]) -> Option<Usage> {
    let start = events.iter().rposition(|event| event["type"] == "message_start");
    let later = events.iter().skip(start.map_or(0, |index| index + 1)).filter(|event| event["type"] == "message_delta");
    let mut told: Vec<&Value> = start.iter().map(|index| &events[*index]["message"]["usage"]).collect();
    told.extend(later.clone().map(|event| &event["usage"]));
    let readable =
        |usage: &Value| usage.is_null() || (usage.is_object() && MESSAGE_COUNTS.iter().all(|name| count(&usage[*name]).is_some()));
    // Whatever cannot be read spoils what follows, and what came before.
    let all = events.iter().filter_map(|event| match event["type"].as_str() {
        Some("message_start") => Some(&event["message"]["usage"]),
        Some("message_delta") => Some(&event["usage"]),
        _ => None,
    });
    if !all.clone().all(readable) || !later.clone().any(|event| !event["usage"]["output_tokens"].is_null()) {
        return None;
    }
    let [input, cache_read, cache_write, output] =
        MESSAGE_COUNTS.map(|name| told.iter().rev().find_map(|usage| count(&usage[name]).flatten()));
    Some(Usage { input: input?, cache_read: cache_read.unwrap_or(0), cache_write: cache_write.unwrap_or(0), output: output? })
}

const MESSAGE_COUNTS: [&str; 4] = ["input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens"];

/// `None` for what is no count, `Some(None)` for none.
fn count(value: &Value) -> Option<Option<u64>> {
    if value.is_null() { Some(None) } else { value.as_u64().filter(|count| *count <= 1_099_511_627_776).map(Some) }
}

fn usage(api: Api, usage: &Value) -> Option<Usage> {
    usage.as_object()?;
    let (input, output) = match api {
        Api::ChatCompletions => ("prompt", "completion"),
        Api::Responses => ("input", "output"),
        Api::Embeddings => return Some(Usage { input: count(&usage["prompt_tokens"])??, ..Usage::default() }),
        Api::Messages => {
            let [input, cache_read, cache_write, output] = MESSAGE_COUNTS.map(|name| count(&usage[name]));
            let (cache_read, cache_write) = (cache_read?.unwrap_or(0), cache_write?.unwrap_or(0));
            return Some(Usage { input: input??, cache_read, cache_write, output: output?? });
        }
    };
    let details = &usage[format!("{input}_tokens_details")];
    if !details.is_null() && !details.is_object() {
        return None;
    }
    let cache_read = count(&details["cached_tokens"])?.unwrap_or(0);
    let cache_write = count(&details["cache_write_tokens"])?.unwrap_or(0);
    let all_input = count(&usage[format!("{input}_tokens")])??;
    let total = count(&usage["total_tokens"])?.unwrap_or(0);
    Some(Usage {
        input: all_input.checked_sub(cache_read + cache_write)?,
        cache_read,
        cache_write,
        output: count(&usage[format!("{output}_tokens")])??.max(total.saturating_sub(all_input)),
    })
}

fn model(value: Option<&Value>) -> Option<String> {
    value?.as_str().filter(|name| !name.is_empty() && name.len() <= 128).map(str::to_owned)
}
