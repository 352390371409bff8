//! Every spelling, and what independent parsers see afterwards.

use super::{body, path, query};
use decision_core::decision::DenyReason;
use proptest::prelude::*;

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

/// Each of these is the owner's parameter to some parser.
const SPELLINGS: [&str; 52] = [
    "customer_id=evil",
    "customer_id=",
    "customer_id",
    "customer_id=evil=1",
    "customer_id%3Devil",
    // Escapes: of one letter, of all, in either hex case, twice and three times over, and halves of them.
    "%63ustomer_id=evil",
    "customer%5Fid=evil",
    "customer%5fid=evil",
    "%63%75%73%74%6f%6d%65%72%5f%69%64=evil",
    "%63%75%73%74%6F%6D%65%72%5F%69%64=evil",
    "%2563ustomer_id=evil",
    "customer%255fid=evil",
    "customer%25255fid=evil",
    "%25%36%33ustomer_id=evil",
    "%2%35%36%33ustomer_id=evil",
    "%252563ustomer_id=evil",
    "%u0063ustomer_id=evil",
    "customer%U005Fid=evil",
    "%25u0063ustomer_id=evil",
    // Letter case.
    "CUSTOMER_ID=evil",
    "Customer_Id=evil",
    "customer_iD=evil",
    "%43ustomer_id=evil",
    "cu%C5%BFtomer_id=evil",
    // What parsers trim, or stop at.
    "+customer_id=evil",
    "customer_id+=evil",
    "++customer_id++=evil",
    "%20customer_id=evil",
    "customer_id%20=evil",
    "%2520customer_id=evil",
    "customer_id%00=evil",
    "customer_id%00suffix=evil",
    "%00customer_id=evil",
    "%09customer_id=evil",
    "customer_id%09=evil",
    "customer_id%0d%0a=evil",
    "%2bcustomer_id=evil",
    // Lists and objects.
    "customer_id[]=evil",
    "customer_id[0]=evil",
    "customer_id[x]=evil",
    "customer_id[=evil",
    "customer_id%5B%5D=evil",
    "customer_id%5b0%5d=evil",
    "customer_id.x=evil",
    "customer_id.0=evil",
    "customer_id%2Ex=evil",
    // What PHP takes for an underscore.
    "customer.id=evil",
    "customer+id=evil",
    "customer%20id=evil",
    "customer[id=evil",
    // Nothing is text after the end of the name.
    "customer_id[%ff]=evil",
    "customer_id%00%ff=evil",
];

#[test]
fn every_spelling_goes_wherever_it_stands_and_whatever_separates_it() {
    for spelling in SPELLINGS {
        for (given, left) in [
            (spelling.to_owned(), "".to_owned()),
            (format!("a=1&{spelling}"), "a=1&".into()),
            (format!("{spelling}&a=1"), "a=1&".into()),
            (format!("a=1;{spelling}"), "a=1&".into()),
            (format!("{spelling};a=1"), "a=1&".into()),
            (format!("a=1&{spelling}&b=2"), "a=1&b=2&".into()),
            (format!("a=1;{spelling};b=2"), "a=1;b=2&".into()),
            (format!("{spelling}&{spelling};{spelling}"), "".into()),
            (format!("&{spelling}&&b"), "&&b&".into()),
        ] {
            assert_eq!(query::force(Some(&given), "customer_id", "c-1"), format!("{left}customer_id=c-1"), "{given}");
        }
    }
}

#[test]
fn what_is_another_parameter_keeps_its_bytes() {
    for other in [
        "customer",
        "id=1",
        "customer_ids=1",
        "xcustomer_id=1",
        "customer_id_x=1",
        "customer_id-x=1",
        "customer-id=1",
        "customerid=1",
        "customer__id=1",
        "a=customer_id",
        "a=1%26customer_id=2",
        "filter[customer_id]=1",
        "a[customer_id]=1",
        "customer_id%ff=1",
        "cust%6Fmer=%zz",
        "%",
        "=customer_id",
        "a=b=c",
        "&",
        ";&;",
        "q=%e2%82%ac+%41",
    ] {
        assert_eq!(query::force(Some(other), "customer_id", "c-1"), format!("{other}&customer_id=c-1"), "{other}");
    }
    assert_eq!(query::force(None, "customer_id", "c-1"), "customer_id=c-1");
    assert_eq!(query::force(Some(""), "customer_id", "c-1"), "customer_id=c-1");
    assert_eq!(query::force(Some("customer_id=2&a=1"), "a", "c-1"), "customer_id=2&a=c-1");
}

#[test]
fn the_id_cannot_break_out_of_its_value() {
    assert_eq!(
        query::force(Some("a=1"), "customer_id", "x&customer_id=y;#\u{20ac} +%-._~"),
        "a=1&customer_id=x%26customer_id%3Dy%3B%23%E2%82%AC%20%2B%25-._~"
    );
}

/// A parser of another make: splits at `separators`, decodes again and again, trims, and cuts names as PHP, Rails and Spring do.
fn values(query: &str, separators: &[char]) -> Vec<String> {
    let decode = |text: &str| {
        let mut text = text.replace('+', " ").into_bytes();
        loop {
            let mut next = Vec::new();
            let mut rest = text.iter().copied();
            while let Some(byte) = rest.next() {
                let hex: Vec<u8> = rest.clone().take(2).collect();
                match (
                    byte,
                    std::str::from_utf8(&hex).ok().filter(|hex| hex.len() == 2 && hex.bytes().all(|digit| digit.is_ascii_hexdigit())),
                ) {
                    (b'%', Some(hex)) => {
                        next.push(u8::from_str_radix(hex, 16).unwrap());
                        rest.nth(1);
                    }
                    (byte, _) => next.push(byte),
                }
            }
            if next == text {
                return String::from_utf8_lossy(&text).into_owned();
            }
            text = next;
        }
    };
    let named = |name: &str| {
        let name = decode(name);
        let name = name.trim_matches(|character: char| character <= ' ' || character == '\u{7f}' || character == '+');
        let name = name.split(['\0', '[', '.', '=']).next().unwrap();
        name.trim_matches(|character: char| character <= ' ' || character == '+').eq_ignore_ascii_case("customer_id")
    };
    let pairs = query.split(separators).map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(name, _)| named(name)).map(|(_, value)| decode(value)).collect()
}

fn parameter() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(&SPELLINGS[..]).prop_map(String::from),
        2 => "[a-c%=\\[\\].+]{0,6}",
        2 => "(%(25){0,2}[0-9a-fA-F]{2}|[customer_idCID+.\\[\\]=]){0,24}",
        1 => "[a-z]{1,8}=[!-%'-:<-~]{0,8}",
    ]
}

proptest! {
    #![proptest_config(cases(20_000))]

    #[test]
    fn two_parsers_see_our_value_once_and_everything_else_as_it_was(
        parameters in prop::collection::vec((parameter(), prop::sample::select(&['&', ';'][..])), 0..8),
    ) {
        let given: String = parameters.iter().flat_map(|(parameter, separator)| [parameter.clone(), separator.to_string()]).collect();
        let forced = query::force(Some(&given), "customer_id", "c 1");
        prop_assert_eq!(values(&forced, &['&', ';']), vec![String::from("c 1")], "{}", forced);
        prop_assert_eq!(values(&forced, &['&']).len(), 1, "{}", forced);
        prop_assert_eq!(values(&forced, &['&']), vec![String::from("c 1")], "{}", forced);
        // What stays is a part of what was there, in order and whole.
        let kept: Vec<&str> = forced.split(['&', ';']).collect();
        let mut before = given.split(['&', ';']);
        for parameter in &kept[..kept.len() - 1] {
            prop_assert!(before.any(|known| known == *parameter), "{} from {}", parameter, given);
        }
        // And what no parser takes for ours stays.
        for parameter in given.split(['&', ';']).filter(|parameter| !given.is_empty() && !parameter.to_lowercase().contains(['c', '%', 'i', '.', '[', '+'])) {
            prop_assert!(kept.contains(&parameter), "{} lost from {}", parameter, given);
        }
        prop_assert_eq!(query::force(Some(&forced), "customer_id", "c 1").matches("c%201").count(), 1);
    }

    #[test]
    fn a_parameter_that_is_no_spelling_is_never_touched(
        names in prop::collection::vec("[a-z]{1,6}", 0..6), values in prop::collection::vec("[!-%'-:<-~]{0,8}", 6),
    ) {
        let given: Vec<String> = names.iter().zip(&values).map(|(name, value)| format!("{name}={value}")).collect();
        let given = given.join("&");
        let expected = if given.is_empty() { String::new() } else { format!("{given}&") };
        prop_assert_eq!(query::force(Some(&given), "customer_id", "c-1"), format!("{expected}customer_id=c-1"));
    }
}

#[test]
fn the_segment_is_replaced_and_no_other() {
    let path = "/api/v1/payments/subscriptions/by-customer/evil";
    assert_eq!(path::force(path, 5, "c-1").as_deref(), Some("/api/v1/payments/subscriptions/by-customer/c-1"));
    assert_eq!(path::force("/a/evil/b", 1, "c 1\u{e9}").as_deref(), Some("/a/c%201%C3%A9/b"));
    assert_eq!(path::force("/evil", 0, "a-._~Z9").as_deref(), Some("/a-._~Z9"));
    assert_eq!(path::force("/a", 1, "c-1"), None);
}

#[test]
fn an_id_that_would_make_another_path_is_none() {
    for id in ["", ".", "..", "a/b", "../x", "a\\b", "a;b", "a%2fb", "a\0b", "a\nb"] {
        assert_eq!(path::force("/a/evil/b", 1, id), None, "{id:?}");
    }
}

fn forced(given: &str) -> Result<String, DenyReason> {
    let splice = body::find(given.as_bytes(), "customer_id")?;
    Ok(String::from_utf8(splice.apply(given.as_bytes(), "customer_id", "c\"1").unwrap()).unwrap())
}

#[test]
fn the_key_is_set_in_its_place_and_all_else_keeps_its_bytes() {
    for (given, expected) in [
        (r#"{}"#, r#"{"customer_id":"c\"1"}"#),
        (" { } ", " {\"customer_id\":\"c\\\"1\" } "),
        (r#"{"a":1}"#, r#"{"customer_id":"c\"1","a":1}"#),
        (r#"{"customer_id":"evil"}"#, r#"{"customer_id":"c\"1"}"#),
        (r#"{"customer_id" : ["evil"] , "a":1}"#, r#"{"customer_id":"c\"1" , "a":1}"#),
        (r#"{"a":1,"Customer_ID":null,"b":2}"#, r#"{"a":1,"customer_id":"c\"1","b":2}"#),
        (r#"{"\u0063ustomer\u005Fid":{"customer_id":"x"}}"#, r#"{"customer_id":"c\"1"}"#),
        (r#"{" customer_id ":"evil"}"#, r#"{"customer_id":"c\"1"}"#),
        (r#"{"customer_id\u0000":"evil"}"#, r#"{"customer_id":"c\"1"}"#),
        (r#"{"cu\u017ftomer_id":"evil"}"#, r#"{"customer_id":"c\"1"}"#),
        // Numbers beyond any type, escapes and spaces stay; so does what is deeper down.
        (
            "{\"n\":1.000000000000000000001e400,\n\t\"t\":\"\\u00e9\\/\",\"o\":{\"customer_id\":1,\"x\":1,\"x\":2},\"m\":12345678901234567890123}",
            "{\"customer_id\":\"c\\\"1\",\"n\":1.000000000000000000001e400,\n\t\"t\":\"\\u00e9\\/\",\"o\":{\"customer_id\":1,\"x\":1,\"x\":2},\"m\":12345678901234567890123}",
        ),
        (r#"{"customer_ids":1,"customer_id_":2}"#, r#"{"customer_id":"c\"1","customer_ids":1,"customer_id_":2}"#),
    ] {
        assert_eq!(forced(given).as_deref(), Ok(expected), "{given}");
    }
}

#[test]
fn d34_a_body_that_is_no_object_is_refused_and_not_forwarded_as_it_is() {
    for given in [
        "",
        " ",
        "[]",
        r#"[{"customer_id":"evil"}]"#,
        "null",
        "1",
        r#""customer_id""#,
        "customer_id=evil",
        "{",
        r#"{"a":1"#,
        r#"{"a":1}x"#,
        r#"{"a":1}{"b":2}"#,
        r#"{"a":01}"#,
        r#"{"a":1,}"#,
        r#"{a:1}"#,
        r#"{'a':1}"#,
        "{\"a\":\"\n\"}",
        r#"{"a":NaN}"#,
        r#"{"\ud800":1}"#,
        "\u{feff}{}",
        "{\"a\":1/**/}",
        "{\"a\":1}\0",
    ] {
        assert_eq!(forced(given), Err(DenyReason::BodyNotObject), "{given:?}");
    }
    assert_eq!(body::find(b"{\"a\":\"\xff\"}", "customer_id"), Err(DenyReason::BodyNotObject));
}

#[test]
fn a_repeated_key_is_refused_however_it_is_written() {
    for given in [
        r#"{"a":1,"a":1}"#,
        r#"{"a":1,"b":2,"\u0061":3}"#,
        r#"{"customer_id":1,"customer_id":2}"#,
        r#"{"customer_id":1,"Customer_Id":2}"#,
        r#"{"customer_id":1,"customer\u005fid":2}"#,
        r#"{"customer_id":1,"customer_id ":2}"#,
        r#"{"":1,"":2}"#,
    ] {
        assert_eq!(forced(given), Err(DenyReason::BodyKeyRepeated), "{given}");
    }
    // Other keys are told apart by letter case: they are not ours.
    assert!(forced(r#"{"a":1,"A":2}"#).is_ok());
}

#[test]
fn a_deep_body_is_read_without_recursion_and_many_keys_in_time() {
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(forced(&deep).is_ok());
    let keys: Vec<String> = (0..30_000).map(|key| format!("\"{key}\":1")).collect();
    assert!(forced(&format!("{{{}}}", keys.join(","))).is_ok());
}

proptest! {
    #![proptest_config(cases(5_000))]

    #[test]
    fn whatever_the_object_every_parser_sees_our_id_and_the_rest_as_it_was(
        members in prop::collection::btree_map("[a-zA-Z_ \"\\\\]{0,12}", prop_oneof![
            any::<i64>().prop_map(serde_json::Value::from), any::<String>().prop_map(serde_json::Value::from), Just(serde_json::json!([{"customer_id": 1}])),
        ], 0..6),
        owner in prop::option::of(prop::sample::select(&["customer_id", "CUSTOMER_ID", "Customer_Id "][..])),
    ) {
        let mut given: serde_json::Map<String, serde_json::Value> = members.into_iter().collect();
        if let Some(owner) = owner {
            given.insert(owner.into(), "evil".into());
        }
        let text = serde_json::to_string(&given).unwrap();
        let seen: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&forced(&text).unwrap()).unwrap();
        if let Some(owner) = owner {
            given.remove(owner);
        }
        given.insert("customer_id".into(), "c\"1".into());
        prop_assert_eq!(seen, given);
    }

    #[test]
    fn no_body_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), text in "[{}\\[\\]\",:a0\\\\u]{0,24}") {
        for bytes in [&bytes[..], text.as_bytes()] {
            if let Ok(splice) = body::find(bytes, "customer_id") {
                let seen: serde_json::Value = serde_json::from_slice(&splice.apply(bytes, "customer_id", "c-1").unwrap()).unwrap();
                prop_assert_eq!(&seen["customer_id"], "c-1");
            }
        }
    }
}
