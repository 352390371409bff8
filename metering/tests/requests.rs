//! What is read of requests, and what is refused.
#![cfg(not(target_arch = "wasm32"))]

use metering::{Api, Asked, Unreadable, read};
use proptest::prelude::*;

const CHAT: Api = Api::ChatCompletions;

fn asked(model: &str) -> Asked {
    Asked {
        model: model.to_owned(),
        output_limit: None,
        choices: 1,
        streams: false,
        usage_asked: true,
        input_tokens_max: 0,
        unbounded: None,
    }
}

#[test]
fn what_is_asked_is_read() {
    let m = || asked("m");
    let streams = || Asked { streams: true, usage_asked: false, ..m() };
    let limit = |limit| Asked { output_limit: Some(limit), ..m() };
    let choices = |choices| Asked { choices, ..m() };
    let beyond = |name| Asked { unbounded: Some(name), ..m() };
    let cases = [
        (CHAT, r#"{"model":"m"}"#, m()),
        (CHAT, " \n{ \"model\" : \"m\" }\t ", m()),
        (CHAT, r#"{"m\u006fdel":"\u006d"}"#, m()),
        (CHAT, r#"{"model":"größe/✓"}"#, asked("größe/✓")),
        (CHAT, r#"{"metadata":{"model":"cheap","max_tokens":1},"model":"m","messages":[{"model":"cheap","n":9}]}"#, m()),
        (CHAT, r#"{"model":"m","messages":[{"content":"\",\"model\":\"cheap\""}]}"#, m()),
        (CHAT, r#"{"model":"m","user":1,"user":2}"#, m()),
        (CHAT, r#"{"model":"m","max_tokens":7}"#, limit(7)),
        (CHAT, r#"{"model":"m","max_tokens":7,"max_completion_tokens":9}"#, limit(9)),
        (CHAT, r#"{"model":"m","max_tokens":9,"max_completion_tokens":7}"#, limit(9)),
        (CHAT, r#"{"model":"m","max_tokens":9,"max_completion_tokens":null}"#, limit(9)),
        (CHAT, r#"{"model":"m","max_tokens":null}"#, m()),
        (CHAT, r#"{"model":"m","max_tokens":0}"#, m()),
        (CHAT, r#"{"model":"m","max_tokens":0,"max_completion_tokens":9}"#, limit(9)),
        (CHAT, r#"{"model":"m","messages":[{"content":[{"type":"image_url","image_url":{"url":"https://a/b.png"}}]}]}"#, beyond("url")),
        (CHAT, r#"{"model":"m","messages":[{"content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AA"}}]}]}"#, m()),
        (CHAT, r#"{"model":"m","messages":[{"content":[{"type":"file","file":{"f\u0069le_id":"f-1"}}]}]}"#, beyond("file_id")),
        (CHAT, r#"{"model":"m","metadata":{"url":"https://a","source":"web","type":"x"}}"#, m()),
        (Api::Responses, r#"{"model":"m","input":[{"type":"item_reference","id":"rs_1"}]}"#, beyond("item_reference")),
        (Api::Responses, r#"{"model":"m","input":[{"content":[{"type":"input_image","image_url":"https://a"}]}]}"#, beyond("image_url")),
        (
            Api::Messages,
            r#"{"model":"m","messages":[{"content":[{"type":"document","source":{"type":"url","url":"https://a"}}]}]}"#,
            beyond("url"),
        ),
        (Api::Messages, r#"{"model":"m","messages":[{"content":[{"type":"image","source":{"type":"base64","data":"AA"}}]}]}"#, m()),
        (CHAT, r#"{"model":"m","max_tokens":18446744073709551615}"#, limit(u64::MAX)),
        (CHAT, r#"{"model":"m","max_output_tokens":"any"}"#, m()),
        (CHAT, r#"{"model":"m","n":3}"#, choices(3)),
        (CHAT, r#"{"model":"m","n":3,"best_of":5}"#, choices(5)),
        (CHAT, r#"{"model":"m","n":0}"#, choices(1)),
        (CHAT, r#"{"model":"m","stream":true}"#, streams()),
        (CHAT, r#"{"model":"m","stream":null,"stream_options":null}"#, m()),
        (CHAT, r#"{"model":"m","stream":true,"stream_options":{}}"#, streams()),
        (CHAT, r#"{"model":"m","stream":true,"stream_options":{"include_usage":false}}"#, streams()),
        (CHAT, r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#, Asked { streams: true, ..m() }),
        (CHAT, r#"{"model":"m","tools":[],"service_tier":"auto"}"#, m()),
        (CHAT, r#"{"model":"m","tools":[{"type":"function","function":{"name":"f"}}]}"#, m()),
        (CHAT, r#"{"model":"m","web_search_options":{}}"#, beyond("web_search_options")),
        (CHAT, r#"{"model":"m","service_tier":"priority"}"#, beyond("service_tier")),
        (Api::Responses, r#"{"model":"m","max_output_tokens":7,"max_tokens":9,"background":false}"#, limit(7)),
        (Api::Responses, r#"{"model":"m","stream":true}"#, Asked { streams: true, ..m() }),
        (Api::Responses, r#"{"model":"m","tools":[{"type":"function"},{"type":"web_search"}]}"#, beyond("tools")),
        (Api::Responses, r#"{"model":"m","previous_response_id":"resp_1"}"#, beyond("previous_response_id")),
        (Api::Responses, r#"{"model":"m","previous_response_id":null}"#, m()),
        (Api::Messages, r#"{"model":"m","max_tokens":7,"stream":true}"#, Asked { streams: true, ..limit(7) }),
        (Api::Messages, r#"{"model":"m","tools":[{"name":"f","input_schema":{}},{"type":"custom","name":"g"}]}"#, m()),
        (Api::Messages, r#"{"model":"m","tools":[{"type":"bash_20250124","name":"bash"}]}"#, beyond("tools")),
        (Api::Embeddings, r#"{"model":"m","input":["a","b"],"max_tokens":5,"n":7}"#, limit(0)),
        (Api::Embeddings, r#"{"model":"m","input":[[1,2],[3]]}"#, limit(0)),
    ];
    for (api, body, want) in cases {
        let got = read(api, body.as_bytes()).map(|asked| Asked { input_tokens_max: 0, ..asked });
        assert_eq!(got, Ok(want), "{body}");
    }
}

#[test]
fn what_cannot_be_priced_is_refused_by_name() {
    use Unreadable::{Background, KeyMiscased, KeyRepeated, ModelInvalid, ModelMissing, NotObject, NumberInvalid, TypeInvalid};
    let limits = ["-1", "1.5", "1e3", "1.0", "-0", "\"5\"", "99999999999999999999", "18446744073709551616", "true", "[1]", "{}"]
        .map(|number| (CHAT, format!(r#"{{"model":"m","max_tokens":{number}}}"#), NumberInvalid("max_tokens")));
    let model = |bytes| format!(r#"{{"model":"{}"}}"#, "m".repeat(bytes));
    assert!(read(CHAT, model(128).as_bytes()).is_ok());
    let cases = [
        (CHAT, "", NotObject),
        (CHAT, "[]", NotObject),
        (CHAT, "null", NotObject),
        (CHAT, r#""model""#, NotObject),
        (CHAT, r#"[{"model":"m"}]"#, NotObject),
        (CHAT, r#"{"model":"m""#, NotObject),
        (CHAT, r#"{"model":"m"}{"#, NotObject),
        (CHAT, r#"{"model":"m"}{"model":"m"}"#, NotObject),
        (CHAT, r#"{"model":"m",}"#, NotObject),
        (CHAT, r#"{"model":"m","max_tokens":007}"#, NotObject),
        (CHAT, r#"{"model":"m","max_tokens":NaN}"#, NotObject),
        (CHAT, "{'model':'m'}", NotObject),
        (CHAT, "\u{feff}{\"model\":\"m\"}", NotObject),
        (CHAT, r#"{"model":"cheap","model":"m"}"#, KeyRepeated("model")),
        (CHAT, r#"{"model":"m","model":"m"}"#, KeyRepeated("model")),
        (CHAT, r#"{"model":null,"model":"m"}"#, KeyRepeated("model")),
        (CHAT, r#"{"model":"cheap","mod\u0065l":"m"}"#, KeyRepeated("model")),
        (CHAT, r#"{"model":"m","max_tokens":1,"max_tokens":9}"#, KeyRepeated("max_tokens")),
        (CHAT, r#"{"model":"m","stream_options":{"include_usage":true,"include_usage":false}}"#, KeyRepeated("include_usage")),
        (CHAT, r#"{"model":"m","stream_options":{},"stream_options":{}}"#, KeyRepeated("stream_options")),
        (CHAT, r#"{"model":"cheap","Model":"m"}"#, KeyMiscased("model")),
        (CHAT, r#"{"MODEL":"m"}"#, KeyMiscased("model")),
        (CHAT, "{\"model\":\"m\",\"max_to\u{212a}enſ\":9}", KeyMiscased("max_tokens")),
        (CHAT, "{}", ModelMissing),
        (CHAT, r#"{"model":null}"#, ModelMissing),
        (CHAT, r#"{"metadata":{"model":"cheap"}}"#, ModelMissing),
        (CHAT, r#"{"model":""}"#, ModelInvalid),
        (CHAT, r#"{"model":5}"#, ModelInvalid),
        (CHAT, r#"{"model":["m"]}"#, ModelInvalid),
        (CHAT, r#"{"model":"\ud800"}"#, ModelInvalid),
        (CHAT, r#"{"model":"m","n":-1}"#, NumberInvalid("n")),
        (CHAT, r#"{"model":"m","best_of":"2"}"#, NumberInvalid("best_of")),
        (CHAT, r#"{"model":"m","max_completion_tokens":1e3}"#, NumberInvalid("max_completion_tokens")),
        (CHAT, r#"{"model":"m","stream":1}"#, TypeInvalid("stream")),
        (CHAT, r#"{"model":"m","stream":"true"}"#, TypeInvalid("stream")),
        (CHAT, r#"{"model":"m","stream_options":true}"#, TypeInvalid("stream_options")),
        (CHAT, r#"{"model":"m","stream_options":[true]}"#, TypeInvalid("stream_options")),
        (CHAT, r#"{"model":"m","stream_options":{"include_usage":1}}"#, TypeInvalid("include_usage")),
        (CHAT, r#"{"model":"m","tools":{}}"#, TypeInvalid("tools")),
        (CHAT, r#"{"model":"m","tools":[1]}"#, TypeInvalid("tools")),
        (Api::Responses, r#"{"model":"m","background":true}"#, Background),
        (Api::Responses, r#"{"model":"m","background":"yes"}"#, TypeInvalid("background")),
        (Api::Responses, r#"{"model":"m","max_output_tokens":-5}"#, NumberInvalid("max_output_tokens")),
        (Api::Messages, r#"{"model":"m","max_tokens":0.5}"#, NumberInvalid("max_tokens")),
        (Api::Embeddings, r#"{"input":"model"}"#, ModelMissing),
    ];
    let cases = cases.into_iter().map(|(api, body, want)| (api, body.to_owned(), want));
    for (api, body, want) in cases.chain(limits).chain([(CHAT, model(129), ModelInvalid)]) {
        assert_eq!(read(api, body.as_bytes()), Err(want), "{body}");
    }
    assert_eq!(read(CHAT, b"{\"model\":\"\xff\"}"), Err(NotObject));
}

#[test]
fn the_bound_of_input_is_the_body_and_what_is_added() {
    let bound = |body: &str| read(CHAT, body.as_bytes()).map(|asked| asked.input_tokens_max - body.len() as u64);
    assert_eq!(bound(r#"{"model":"m"}"#), Ok(16));
    assert_eq!(bound(r#"{"model":"m","tools":[{"type":"function"}]}"#), Ok(1024));
    assert_eq!(bound(r#"{"model":"m","functions":[{"name":"f"}]}"#), Ok(1024));
}

#[test]
fn the_bound_of_output_is_that_of_all_choices() {
    let bound = |body: &str, otherwise| read(CHAT, body.as_bytes()).map(|asked| asked.output_tokens_max(otherwise));
    assert_eq!(bound(r#"{"model":"m","n":3,"max_tokens":5}"#, Some(100)), Ok(Some(15)));
    assert_eq!(bound(r#"{"model":"m","n":3}"#, Some(100)), Ok(Some(300)));
    assert_eq!(bound(r#"{"model":"m","n":3}"#, None), Ok(None));
    assert_eq!(bound(r#"{"model":"m","n":3,"max_tokens":18446744073709551615}"#, None), Ok(Some(u64::MAX)));
}

#[test]
fn a_body_may_be_as_wide_as_it_likes_and_nested_as_deep_as_requests_are() {
    let nested = |depth| format!(r#"{{"model":"m","x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    assert!(read(CHAT, nested(100).as_bytes()).is_ok());
    assert_eq!(read(CHAT, nested(200_000).as_bytes()), Err(Unreadable::NestedTooDeeply));
    let wide = format!(r#"{{"model":"m","tools":[{}{{}}]}}"#, "{},".repeat(200_000));
    assert!(read(CHAT, wide.as_bytes()).is_ok());
}

proptest! {
    #[test]
    fn no_bytes_do_harm(body in prop::collection::vec(any::<u8>(), 0..200), head in prop::bool::ANY) {
        let start: &[u8] = if head { br#"{"model":"m","tools":[{"# } else { b"" };
        for api in Api::ALL {
            let _ = read(api, &[start, &body].concat());
        }
    }
}
