//! The index of routes against the plainest matcher there is: every template in turn, the most specific match wins.
#![cfg(not(target_arch = "wasm32"))]
#![expect(clippy::unwrap_used, reason = "clippy's exception for tests does not cover the functions around them")]

use decision_core::gateway::{Gateway, GatewaySet, Method, MethodSet};
use decision_core::path::CanonicalPath;
use decision_core::policy::route::{InvalidTemplate, PathTemplate, RouteIndex};
use proptest::prelude::*;

/// Few words, so that templates overlap and paths hit them.
fn segment() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[ab]", 1 => Just("c-c".to_string()), 3 => "\\{[xy]\\}"]
}

fn template() -> impl Strategy<Value = String> {
    (prop::collection::vec(segment(), 0..5), prop::bool::weighted(0.3)).prop_map(|(mut segments, tail)| {
        if tail {
            segments.push("{rest...}".into());
        }
        format!("/{}", segments.join("/"))
    })
}

fn methods() -> impl Strategy<Value = Vec<Method>> {
    prop::sample::subsequence(vec![Method::Get, Method::Post, Method::Delete], 1..=3)
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::collection::vec("[abc]", 0..7).prop_map(|segments| format!("/{}", segments.join("/"))),
        2 => "/[ab/]{0,8}",
        1 => "[ab/{}x.]{0,8}",
    ]
}

/// The routes that the index took, and what the plain matcher says of them.
fn insert(routes: &[(String, Vec<Method>)]) -> (RouteIndex, Vec<(PathTemplate, MethodSet, u32)>) {
    let (mut index, mut taken) = (RouteIndex::default(), Vec::new());
    for (id, (text, methods)) in routes.iter().enumerate() {
        let template = PathTemplate::parse(text).unwrap();
        let (methods, id) = (methods.iter().copied().collect(), u32::try_from(id).unwrap());
        if index.insert(&template, GatewaySet::ALL, methods, id).is_ok() {
            taken.push((template, methods, id));
        }
    }
    (index, taken)
}

fn linear(routes: &[(PathTemplate, MethodSet, u32)], method: Method, path: &str) -> Option<u32> {
    let matching = routes.iter().filter(|(_, methods, _)| methods.contains(method));
    let specific = matching.filter_map(|(template, _, id)| Some((template.matches(path)?, *id)));
    specific.max_by(|(one, _), (other, _)| one.cmp(other)).map(|(_, id)| id)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4_000) })]

    #[test]
    fn the_index_finds_what_the_plain_matcher_finds(
        routes in prop::collection::vec((template(), methods()), 0..14),
        paths in prop::collection::vec(path(), 1..12),
    ) {
        let (index, taken) = insert(&routes);
        for path in &paths {
            for method in [Method::Get, Method::Post, Method::Delete, Method::Put] {
                prop_assert_eq!(index.find(Gateway::Pp, method, path), linear(&taken, method, path), "{} {}", method.name(), path);
            }
        }
    }

    /// All gateways share the index, and none sees another's routes.
    #[test]
    fn each_gateway_finds_what_an_index_of_its_own_finds(
        routes in prop::collection::vec((template(), methods(), prop::sample::subsequence(Gateway::ALL.to_vec(), 1..=4)), 0..14),
        paths in prop::collection::vec(path(), 1..12),
    ) {
        let (mut index, mut taken) = (RouteIndex::default(), Vec::new());
        for (id, (text, methods, gateways)) in routes.iter().enumerate() {
            let template = PathTemplate::parse(text).unwrap();
            let (methods, id) = (methods.iter().copied().collect(), u32::try_from(id).unwrap());
            if index.insert(&template, gateways.iter().copied().collect(), methods, id).is_ok() {
                taken.push((gateways, (template, methods, id)));
            }
        }
        for gateway in Gateway::ALL {
            let own: Vec<_> = taken.iter().filter(|(gateways, _)| gateways.contains(&gateway)).map(|(_, route)| route.clone()).collect();
            for path in &paths {
                prop_assert_eq!(index.find(gateway, Method::Get, path), linear(&own, Method::Get, path), "{} {}", gateway.name(), path);
            }
        }
    }

    /// Two templates that could both be the answer are refused when the policy is compiled.
    #[test]
    fn no_two_routes_that_the_index_takes_are_equally_specific(
        routes in prop::collection::vec((template(), methods()), 0..14),
        path in path(),
    ) {
        let (_, taken) = insert(&routes);
        for method in [Method::Get, Method::Post, Method::Delete] {
            let matching = taken.iter().filter(|(_, methods, _)| methods.contains(method));
            let mut found: Vec<_> = matching.filter_map(|(template, ..)| template.matches(&path)).collect();
            let before = found.len();
            found.sort();
            found.dedup();
            prop_assert_eq!(found.len(), before);
        }
    }

    #[test]
    fn a_refused_route_names_one_that_takes_its_requests(routes in prop::collection::vec((template(), methods()), 0..20)) {
        let mut index = RouteIndex::default();
        for (id, (text, methods)) in routes.iter().enumerate() {
            let template = PathTemplate::parse(text).unwrap();
            let methods: MethodSet = methods.iter().copied().collect();
            if let Err(other) = index.insert(&template, GatewaySet::ALL, methods, u32::try_from(id).unwrap()) {
                let (other, other_methods) = &routes[usize::try_from(other).unwrap()];
                prop_assert!(other_methods.iter().any(|method| methods.contains(*method)));
                prop_assert_eq!(shape(other), shape(text));
            }
        }
    }

    #[test]
    fn parsing_a_template_never_panics_and_finding_takes_any_path(text in "\\PC{0,40}", path in "\\PC{0,60}") {
        if let Ok(template) = PathTemplate::parse(&text) {
            let mut index = RouteIndex::default();
            prop_assert_eq!(index.insert(&template, GatewaySet::ALL, [Method::Get].into_iter().collect(), 7), Ok(()));
            prop_assert_eq!(index.find(Gateway::Pp, Method::Get, &path), template.matches(&path).map(|_| 7));
        }
    }

    /// What a template accepts is a canonical path when its parameters are filled with one segment each.
    #[test]
    fn a_template_filled_in_is_a_canonical_path_that_it_matches(text in template(), value in "[a-z0-9_~-]{1,8}") {
        let filled: Vec<&str> = text.split('/').map(|part| if part.starts_with('{') { &*value } else { part }).collect();
        let filled = filled.join("/");
        prop_assert!(CanonicalPath::parse(filled.as_bytes()).is_ok());
        prop_assert!(PathTemplate::parse(&text).unwrap().matches(&filled).is_some());
    }
}

/// The template without the names of its parameters.
fn shape(template: &str) -> String {
    template.replace("{x}", "{}").replace("{y}", "{}")
}

#[test]
fn a_literal_beats_a_parameter_and_a_parameter_beats_a_tail_at_the_first_difference() {
    let get = vec![Method::Get];
    let routes = ["/", "/{x}", "/{rest...}", "/a", "/a/{x}", "/a/b", "/a/{x}/c", "/{x}/b/c", "/a/{rest...}", "/{x}/b"];
    let routes: Vec<(String, Vec<Method>)> = routes.map(|path| (path.to_string(), get.clone())).into();
    let (index, _) = insert(&routes);
    for (path, want) in [
        ("/", Some("/")),
        ("/a", Some("/a")),
        ("/b", Some("/{x}")),
        ("/a/b", Some("/a/b")),
        ("/a/x", Some("/a/{x}")),
        ("/b/b", Some("/{x}/b")),
        ("/a/b/c", Some("/a/{x}/c")),
        ("/b/b/c", Some("/{x}/b/c")),
        ("/a/b/d", Some("/a/{rest...}")),
        ("/b/c/d", Some("/{rest...}")),
        ("/a/", None),
        ("//", None),
        ("/a//b", None),
        ("/a/b/", None),
        ("a", None),
        ("", None),
    ] {
        let found = index.find(Gateway::Pp, Method::Get, path).map(|id| &*routes[usize::try_from(id).unwrap()].0);
        assert_eq!(found, want, "{path}");
        assert_eq!(index.find(Gateway::Pp, Method::Post, path), None);
    }
}

#[test]
fn a_method_that_the_most_specific_path_lacks_falls_to_the_next() {
    let routes = [
        ("/a/b".to_string(), vec![Method::Get]),
        ("/a/{x}".to_string(), vec![Method::Post]),
        ("/{r...}".to_string(), vec![Method::Delete]),
    ];
    let (index, _) = insert(&routes);
    let found = |method| index.find(Gateway::Pp, method, "/a/b");
    assert_eq!([found(Method::Get), found(Method::Post), found(Method::Delete), found(Method::Put)], [Some(0), Some(1), Some(2), None]);
}

#[test]
fn every_fault_of_a_template_has_its_name() {
    for (text, fault) in [
        ("", InvalidTemplate::NotAbsolute),
        ("a", InvalidTemplate::NotAbsolute),
        ("{a}", InvalidTemplate::NotAbsolute),
        ("//", InvalidTemplate::EmptySegment),
        ("/a/", InvalidTemplate::EmptySegment),
        ("/a/./b", InvalidTemplate::EmptySegment),
        ("/a/..", InvalidTemplate::EmptySegment),
        ("/{}", InvalidTemplate::Brace),
        ("/{...}", InvalidTemplate::Brace),
        ("/{a", InvalidTemplate::Brace),
        ("/a{b}", InvalidTemplate::Brace),
        ("/{a}b", InvalidTemplate::Brace),
        ("/{a-b}", InvalidTemplate::Brace),
        ("/{a..}", InvalidTemplate::Brace),
        ("/{a...}/b", InvalidTemplate::TailNotLast),
        ("/a b", InvalidTemplate::Character),
        ("/a%20", InvalidTemplate::Character),
        ("/a:b", InvalidTemplate::Character),
        ("/caf\u{e9}", InvalidTemplate::Character),
    ] {
        assert_eq!(PathTemplate::parse(text), Err(fault), "{text}");
    }
}
