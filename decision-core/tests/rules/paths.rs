//! The canonical path: what is accepted has one reading, for whoever decodes it.

use crate::cases;
use decision_core::path::{AmbiguousPath, CanonicalPath};
use proptest::prelude::*;

/// What any decoder would make of the escapes, once.
fn decoded(path: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), path.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            let digits = std::str::from_utf8(&rest[..2]).unwrap();
            bytes.push(u8::from_str_radix(digits, 16).unwrap());
            rest = &rest[2..];
        } else {
            bytes.push(*byte);
        }
    }
    bytes
}

/// Pieces that servers are known to read in different ways, and harmless ones.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::sample::select(vec![
            "/",
            "//",
            ".",
            "..",
            "/./",
            "/../",
            "%2e",
            "%2E",
            "%2f",
            "%2F",
            "%5c",
            "\\",
            ";",
            "%3b",
            "%25",
            "%00",
            "%0d%0a",
            "%",
            "%2",
            "%zz",
            "?",
            "#",
            " ",
            "+",
            "%20",
            "%C3%A9",
            "%c0%af",
            "%e9",
            "%41",
            "%ed%a0%80",
            "%F0%9F%98%80",
            "*",
            "~",
            "a",
            "a.b",
            "..a",
            "a..",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
        "[a-z0-9._~/-]{0,6}".prop_map(String::into_bytes),
    ]
}

fn target() -> impl Strategy<Value = Vec<u8>> {
    (prop::bool::weighted(0.9), prop::collection::vec(piece(), 0..8)).prop_map(|(absolute, pieces)| {
        let start = if absolute { b"/".to_vec() } else { Vec::new() };
        [start, pieces.concat()].concat()
    })
}

proptest! {
    #![proptest_config(cases(20_000))]

    #[test]
    fn an_accepted_path_reads_the_same_before_and_after_decoding(target in target()) {
        let Ok(canonical) = CanonicalPath::parse(&target) else { return Ok(()) };
        let (path, query) = (canonical.path(), canonical.query());
        // Nothing was repaired.
        let whole = query.map_or_else(|| path.to_string(), |query| format!("{path}?{query}"));
        prop_assert_eq!(whole.as_bytes(), &*target);
        prop_assert!(whole.bytes().all(|byte| byte.is_ascii_graphic()));
        prop_assert!(!path.contains(['\\', ';', '#', '?']) && path.starts_with('/'));
        // Decoding gives neither another separator nor another segment that moves up or stays.
        let decoded = decoded(path);
        prop_assert_eq!(decoded.iter().filter(|byte| **byte == b'/').count(), path.matches('/').count());
        prop_assert!(!decoded.iter().any(|byte| byte.is_ascii_control() || matches!(byte, b'\\' | b';' | b'%')));
        let text = std::str::from_utf8(&decoded).unwrap();
        let segments: Vec<&str> = text[1..].split('/').collect();
        let last = segments.len() - 1;
        for (index, segment) in segments.iter().enumerate() {
            prop_assert!(!matches!(*segment, "." | ".."));
            prop_assert!(!segment.is_empty() || index == last, "an empty segment inside");
        }
        // What is escaped had to be: encoding the decoded path again, as little as possible, changes nothing.
        prop_assert!(!unreserved_is_escaped(path));
    }

    #[test]
    fn parsing_never_panics(target in prop::collection::vec(any::<u8>(), 0..64)) {
        prop_assert_eq!(CanonicalPath::parse(&target), CanonicalPath::parse(&target));
    }
}

fn unreserved_is_escaped(path: &str) -> bool {
    path.split('%').skip(1).any(|rest| {
        let byte = u8::from_str_radix(&rest[..2], 16).unwrap();
        byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
    })
}

#[test]
fn a_target_may_be_as_long_as_the_limit_and_no_longer() {
    let longest = format!("/{}", "a".repeat(CanonicalPath::LENGTH_MAX - 1));
    assert!(CanonicalPath::parse(longest.as_bytes()).is_ok());
    assert_eq!(CanonicalPath::parse(format!("{longest}?").as_bytes()), Err(AmbiguousPath::TooLong));
}

#[test]
fn every_fault_has_its_own_words() {
    use AmbiguousPath::*;
    let all = [NotAbsolute, TooLong, EmptySegment, DotSegment, ForbiddenByte, BadEscape, ForbiddenEscape, NeedlessEscape, NotUtf8];
    let mut texts: Vec<String> = all.iter().map(AmbiguousPath::to_string).collect();
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), all.len());
}
