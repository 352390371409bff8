//! Where a usage counts, when it is final, and what is none: one row each.

use crate::oracle::{metered, told};
use metering::{Api, Form, Meter, Usage};

const CHAT: Api = Api::ChatCompletions;

fn usage(input: u64, output: u64) -> Option<Usage> {
    Some(Usage { input, output, ..Usage::default() })
}

fn check(api: Api, form: Form, response: &str, want: Option<Usage>) {
    for size in [1, 2, 3, 7, response.len().max(1)] {
        let got = metered(api, form, response.as_bytes().chunks(size)).map(|(usage, _)| usage);
        assert_eq!(got, want, "{response:?} in pieces of {size}");
    }
}

/// A body of chat completions with this usage.
fn body(usage: &str) -> String {
    format!(r#"{{"choices":[],"usage":{usage}}}"#)
}

fn stream(events: &[&str]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

#[test]
fn a_json_body_tells_its_usage_at_one_place_only() {
    let cases = [
        (r#"{"usage":{"prompt_tokens":3,"completion_tokens":5}}"#, usage(3, 5)),
        (r#"{"us\u0061ge":{"prompt\u005ftokens":3,"completion_tokens":5}}"#, usage(3, 5)),
        (r#"{"\u0075\u0073\u0061\u0067\u0065":{"prompt_tokens":3,"completion_tokens":5}}"#, usage(3, 5)),
        (" {\n\"usage\"\t:\r{ \"prompt_tokens\" : 3 , \"completion_tokens\" : 5 } } ", usage(3, 5)),
        (r#"{"usage":{"prompt_tokens":3,"completion_tokens":5},"choi"#, usage(3, 5)),
        (r#"{"usage":{"prompt_tokens":3,"completion_tokens":5}"#, usage(3, 5)),
        (r#"{"usage":{"prompt_tokens":3,"completion_tokens":5"#, None),
        (r#"{"a":{"usage":{"prompt_tokens":3,"completion_tokens":5}}}"#, None),
        (r#"{"message":{"usage":{"prompt_tokens":3,"completion_tokens":5}}}"#, None),
        (r#"{"response":{"usage":{"prompt_tokens":3,"completion_tokens":5}}}"#, None),
        (r#"{"choices":[{"usage":{"prompt_tokens":3,"completion_tokens":5}}]}"#, None),
        (r#"[{"usage":{"prompt_tokens":3,"completion_tokens":5}}]"#, None),
        (r#"{"a":"\",\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5}"}"#, None),
        (r#"{"a":"\\","usage":{"prompt_tokens":3,"completion_tokens":5}}"#, usage(3, 5)),
        (r#"{"a":"\\\",","usage":{"prompt_tokens":3,"completion_tokens":5}}"#, usage(3, 5)),
        (r#"{"Usage":{"prompt_tokens":3,"completion_tokens":5}}"#, None),
        (r#"{"usag":{"prompt_tokens":3,"completion_tokens":5}}"#, None),
        (r#"{"usages":{"prompt_tokens":3,"completion_tokens":5}}"#, None),
        (r#"{"usage\u0000":{"prompt_tokens":3,"completion_tokens":5}}"#, None),
        (r#"{"usage":null}"#, None),
        (r#"{"usage":[3,5]}"#, None),
        (r#"{"usage":"{\"prompt_tokens\":3,\"completion_tokens\":5}"}"#, None),
        ("", None),
    ];
    for (response, want) in cases {
        check(CHAT, Form::Json, response, want);
    }
}

#[test]
fn what_is_not_json_has_no_usage() {
    let told = r#"{"usage":{"prompt_tokens":3,"completion_tokens":5}"#;
    for broken in
        ["}}", "}x", "]", ",}", ",1:2}", ",\"a\"}", ",\"a\":}", ",\"a\":01}", ",\"a\":1.}", ",\"a\":+1}", ",\"a\":1e}", ",\"a\":-}"]
    {
        check(CHAT, Form::Json, &format!("{told}{broken}"), None);
    }
    for broken in
        ["nul}", "nullx}", "tru e}", "\"\\x\"}", "\"\\u12g4\"}", "\"\n\"}", "[1,]}", "[1 2]}", "[1}}", "{,}}", "{\"a\" 1}}", "{1:1}}"]
    {
        check(CHAT, Form::Json, &format!("{told},\"a\":{broken}"), None);
    }
    for sound in
        ["null", "true", "false", "-0.5e+10", "0", "1E-2", "10.25", "[]", "{}", "[1,[2,{\"a\":[]}]]", "\"\\u00e9\\n\\/\"", "{\"usage\":1}"]
    {
        check(CHAT, Form::Json, &format!("{told},\"a\":{sound} }}\n"), usage(3, 5));
    }
    let nested = |depth: usize| format!("{told},\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    check(CHAT, Form::Json, &nested(127), usage(3, 5));
    check(CHAT, Form::Json, &nested(128), None);
}

#[test]
fn counts_are_believed_or_there_is_no_usage() {
    let most = 1_u64 << 40;
    let cases = [
        (r#"{"prompt_tokens":0,"completion_tokens":0}"#.to_owned(), usage(0, 0)),
        (format!(r#"{{"prompt_tokens":{most},"completion_tokens":1}}"#), usage(most, 1)),
        (format!(r#"{{"prompt_tokens":{},"completion_tokens":1}}"#, most + 1), None),
        (r#"{"prompt_tokens":99999999999999999999,"completion_tokens":1}"#.to_owned(), None),
        (r#"{"prompt_tokens":-1,"completion_tokens":1}"#.to_owned(), None),
        (r#"{"prompt_tokens":1.0,"completion_tokens":1}"#.to_owned(), None),
        (r#"{"prompt_tokens":1e1,"completion_tokens":1}"#.to_owned(), None),
        (r#"{"prompt_tokens":"1","completion_tokens":1}"#.to_owned(), None),
        (r#"{"prompt_tokens":1}"#.to_owned(), None),
        (r#"{"prompt_tokens":1,"completion_tokens":null}"#.to_owned(), None),
        (r#"{"completion_tokens":1}"#.to_owned(), None),
        ("{}".to_owned(), None),
        (r#"{"prompt_tokens":3,"completion_tokens":5,"prompt_tokens":3}"#.to_owned(), None),
        (r#"{"prompt_tokens":3,"completion_tokens":5,"prompt\u005ftokens":3}"#.to_owned(), None),
        (r#"{"prompt_tokens":3,"completion_tokens":5,"prompt_tokens_details":null}"#.to_owned(), usage(3, 5)),
        (r#"{"prompt_tokens":3,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":null}}"#.to_owned(), usage(3, 5)),
        (r#"{"prompt_tokens":3,"completion_tokens":5,"prompt_tokens_details":[1]}"#.to_owned(), None),
        (r#"{"prompt_tokens":3,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4}}"#.to_owned(), None),
        (r#"{"prompt_tokens":3,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":1,"cached_tokens":1}}"#.to_owned(), None),
        (r#"{"prompt_tokens":3,"completion_tokens":5,"total_tokens":20}"#.to_owned(), usage(3, 17)),
        (r#"{"prompt_tokens":3,"completion_tokens":5,"total_tokens":2}"#.to_owned(), usage(3, 5)),
        (format!(r#"{{"prompt_tokens":3,"completion_tokens":5,"x":"{}"}}"#, "x".repeat(16_000)), usage(3, 5)),
        (format!(r#"{{"prompt_tokens":3,"completion_tokens":5,"x":"{}"}}"#, "x".repeat(17_000)), None),
    ];
    for (counts, want) in cases {
        check(CHAT, Form::Json, &body(&counts), want);
        check(CHAT, Form::EventStream, &stream(&[&body(&counts)]), want);
    }
}

#[test]
fn a_repeated_member_that_is_looked_for_leaves_no_usage() {
    let told = r#""usage":{"prompt_tokens":3,"completion_tokens":5}"#;
    for twice in [told, r#""usage":null"#, r#""us\u0061ge":null"#, r#""model":"a","model":"a""#] {
        check(CHAT, Form::Json, &format!("{{{told},{twice}}}"), None);
        check(CHAT, Form::EventStream, &stream(&[&format!(r#"{{"choices":[],{told},{twice}}}"#)]), None);
    }
    check(CHAT, Form::Json, &format!(r#"{{{told},"a":1,"a":2,"b":{{"usage":1,"usage":2}}}}"#), usage(3, 5));
    let completed = r#"{"type":"response.completed","response":{"usage":{"input_tokens":3,"output_tokens":5}}"#;
    check(Api::Responses, Form::EventStream, &stream(&[&format!("{completed}}}")]), usage(3, 5));
    for twice in [r#","response":{}"#, r#","type":"response.completed""#] {
        check(Api::Responses, Form::EventStream, &stream(&[&format!("{completed}{twice}}}")]), None);
    }
}

#[test]
fn a_usage_of_chat_events_is_final_when_nothing_can_follow() {
    let tells = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}"#;
    let runs = r#"{"choices":[{"delta":{}}],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
    let speaks = r#"{"choices":[{"delta":{"content":"a"}}],"usage":null}"#;
    let silent = r#"{"choices":[],"usage":null}"#;
    let wrong = r#"{"choices":[],"usage":{"prompt_tokens":-3,"completion_tokens":5}}"#;
    let bare = r#"{"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
    let spaced = "{\"choices\": [ ] , \"usage\": {\"prompt_tokens\":3,\"completion_tokens\":5}}";
    let cases: [(&[&str], Option<Usage>); 19] = [
        (&[tells], usage(3, 5)),
        (&[spaced], usage(3, 5)),
        (&[speaks, tells, "[DONE]"], usage(3, 5)),
        (&[speaks, tells, silent], usage(3, 5)),
        (&[runs, speaks], None),
        (&[runs], None),
        (&[runs, "[DONE]"], usage(3, 4)),
        (&[runs, silent, "[DONE]"], usage(3, 4)),
        (&[runs, speaks, "[DONE]"], None),
        (&[runs, tells], usage(3, 5)),
        (&[tells, runs], None),
        (&[tells, speaks], None),
        (&[tells, wrong], None),
        (&[wrong, tells], usage(3, 5)),
        (&[bare], None),
        (&[bare, "[DONE]"], usage(3, 4)),
        (&[speaks, "[DONE]", tells], None),
        (&[tells, r#"{"choices":null}"#, "{}"], usage(3, 5)),
        (&[tells, r#"{"choices":{}}"#], None),
    ];
    for (events, want) in cases {
        check(CHAT, Form::EventStream, &stream(events), want);
    }
    let text = format!("data: {tells}");
    check(CHAT, Form::EventStream, &text, usage(3, 5));
    check(CHAT, Form::EventStream, &text[..text.len() - 1], None);
    check(CHAT, Form::EventStream, &format!("data: {runs}\n\ndata: [DONE]"), usage(3, 4));
    check(CHAT, Form::EventStream, &format!("data: {runs}\n\ndata: [DONE"), None);
    check(CHAT, Form::EventStream, &format!("data: {runs}\n\nevent: [DONE]\ndata: {{}}\n\n: [DONE]\n\n"), None);
    check(CHAT, Form::EventStream, &format!("data: {runs}\n\ndata: \"[DONE]\"\n\n"), None);
    // What is not an object is nobody's business; what is one and cannot be read may have told more.
    for other in ["ping", "", "[1]", "5 {", "]"] {
        check(CHAT, Form::EventStream, &stream(&[runs, other, "[DONE]"]), usage(3, 4));
    }
    for unread in ["{", r#"{"choices":[{]}"#, r#"{"usage":1,"usage":2}"#, "{\"a\":\"\u{1}\"}"] {
        check(CHAT, Form::EventStream, &stream(&[runs, unread, "[DONE]"]), None);
        check(CHAT, Form::EventStream, &stream(&[tells, unread]), None);
        check(CHAT, Form::EventStream, &stream(&[unread, tells]), usage(3, 5));
    }
}

#[test]
fn a_usage_of_response_events_is_that_of_the_last() {
    let event = |kind: &str, counts: &str| format!(r#"{{"response":{{"usage":{counts}}},"type":"{kind}"}}"#);
    let counts = r#"{"input_tokens":3,"output_tokens":5}"#;
    for (kind, want) in [
        ("response.completed", usage(3, 5)),
        ("response.incomplete", usage(3, 5)),
        ("response.failed", usage(3, 5)),
        (r"response\u002ecompleted", usage(3, 5)),
        ("response.in_progress", None),
        ("response.completed.", None),
        ("", None),
    ] {
        check(Api::Responses, Form::EventStream, &stream(&[&event(kind, counts)]), want);
        check(Api::Responses, Form::EventStream, &stream(&[&event(kind, "null")]), None);
    }
    check(Api::Responses, Form::EventStream, &format!("event: response.completed\n{}", stream(&[&event("x", counts)])), None);
    let top =
        format!(r#"{{"type":"response.completed","usage":{counts},"response":{{"a":{{"usage":{counts}}}}},"b":{{"usage":{counts}}}}}"#);
    check(Api::Responses, Form::EventStream, &stream(&[&top]), None);
    check(Api::Responses, Form::EventStream, &stream(&[&format!(r#"{{"type":"response.completed","response":[{counts}]}}"#)]), None);
}

#[test]
fn message_events_are_merged_and_final_with_the_output() {
    let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":3,"cache_read_input_tokens":7,"output_tokens":1}}}"#;
    let output = r#"{"type":"message_delta","usage":{"output_tokens":5}}"#;
    let all = r#"{"type":"message_delta","usage":{"input_tokens":4,"cache_read_input_tokens":null,"output_tokens":6}}"#;
    let nothing = r#"{"type":"message_delta","usage":{"input_tokens":4}}"#;
    let wrong = r#"{"type":"message_delta","usage":{"output_tokens":-5}}"#;
    let misplaced = r#"{"type":"message_delta","message":{"usage":{"output_tokens":5}},"delta":{"usage":{"output_tokens":5}}}"#;
    let cached = |input, output| usage(input, output).map(|usage| Usage { cache_read: 7, ..usage });
    let cases: [(&[&str], Option<Usage>); 12] = [
        (&[start], None),
        (&[start, output], cached(3, 5)),
        (&[start, output, all], cached(4, 6)),
        (&[start, all, output], cached(4, 5)),
        (&[start, nothing], None),
        (&[start, output, nothing], cached(4, 5)),
        (&[start, output, start], None),
        (&[start, wrong], None),
        (&[start, wrong, output], None),
        (&[start, output, wrong], None),
        (&[start, misplaced], None),
        (&[output], None),
    ];
    for (events, want) in cases {
        check(Api::Messages, Form::EventStream, &stream(events), want);
    }
    check(Api::Messages, Form::EventStream, &stream(&[all]), usage(4, 6));
    check(Api::Messages, Form::EventStream, &stream(&[r#"{"type":"message_start","#, all]), None);
}

#[test]
fn the_model_is_the_last_that_is_named() {
    let name = |form, response: &str| {
        let mut meter = Meter::new(CHAT, form);
        meter.push(response.as_bytes());
        told(&meter).and_then(|(_, model)| model)
    };
    let told = |model: &str| format!(r#"{{"choices":[],"model":{model},"usage":{{"prompt_tokens":3,"completion_tokens":5}}}}"#);
    let quoted = |length: usize| format!("\"{}\"", "m".repeat(length));
    let escaped = format!("\"{}\"", r"\u006d".repeat(128));
    let cases = [
        (r#""a""#.to_owned(), Some("a".to_owned())),
        (r#""\u0061\/b✓""#.to_owned(), Some("a/b✓".to_owned())),
        (quoted(128), Some("m".repeat(128))),
        (escaped, Some("m".repeat(128))),
        (quoted(129), None),
        (quoted(5000), None),
        ("\"\"".to_owned(), None),
        ("null".to_owned(), None),
        (r#"{"model":"a"}"#.to_owned(), None),
        (r#""\ud800""#.to_owned(), None),
    ];
    for (model, want) in cases {
        assert_eq!(name(Form::Json, &told(&model)), want, "{model}");
        assert_eq!(name(Form::EventStream, &stream(&[&told(&model)])), want, "{model}");
    }
    assert_eq!(name(Form::EventStream, &stream(&[r#"{"model":"a"}"#, &told("\"b\"")])), Some("b".to_owned()));
    assert_eq!(name(Form::EventStream, &stream(&[r#"{"model":"a"}"#, &told("\"\"")])), Some("a".to_owned()));
}
