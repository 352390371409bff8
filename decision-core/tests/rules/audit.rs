//! What a policy may say of records.

use crate::fixture::source;
use decision_core::audit::{AuditLevel, AuditRules, EmailRecording, Identities, WhenFull};
use decision_core::gateway::Gateway;
use decision_core::policy::compile::compile;
use decision_core::policy::source::{PolicySource, RouteSource};

fn told(change: impl FnOnce(&mut PolicySource)) -> String {
    let mut source = source();
    change(&mut source);
    compile(&source).map_or_else(|error| error.to_string(), |_| "compiled".into())
}

/// What the compiler says of the level on that route of a policy without budgets.
fn leveled(name: &str, level: AuditLevel, change: impl FnOnce(&mut RouteSource)) -> String {
    told(|source| {
        source.budgets.clear();
        let route = source.routes.iter_mut().find(|route| route.name == name).unwrap();
        route.audit = level;
        change(route);
    })
}

#[test]
fn nothing_is_said_by_default() {
    let policy = compile(&source()).unwrap();
    assert_eq!(*policy.audit(), AuditRules::default());
    assert!(policy.routes().iter().all(|route| route.audit == AuditLevel::Buffered));
    let audit = policy.audit();
    assert_eq!((audit.identities, audit.email, audit.when_full), (Identities::Plain, EmailRecording::Omitted, WhenFull::DropOldest));
}

#[test]
fn what_carries_credentials_is_not_recorded() {
    let headers = [
        "authorization",
        "proxy-authorization",
        "x-original-authorization",
        "cookie",
        "set-cookie",
        "x-api-key",
        "api_key",
        "x-cp-registration-key",
        "x-amz-security-token",
        "x-goog-iap-jwt-assertion",
        "x-session-id",
        "x-auth",
        "x-client-secret",
        "x-signature",
    ];
    for name in headers {
        for (field, change) in [
            ("request_headers", (|source, name| source.audit.request_headers.push(name)) as fn(&mut PolicySource, String)),
            ("response_headers", |source, name| source.audit.response_headers.push(name)),
        ] {
            let expected = format!("audit.{field}: `{name}` is not a header that may be recorded: it carries credentials");
            assert_eq!(told(|source| change(source, name.into())), expected);
        }
    }
    for name in ["referer", "location", "x-envoy-original-path"] {
        let said = told(|source| source.audit.request_headers.push(name.into()));
        assert!(
            said.starts_with(&format!("audit.request_headers: `{name}` is not a header that may be recorded: its value is an address"))
        );
    }
    let parameters = [
        "access_token",
        "Token",
        "id_token",
        "refresh-token",
        "code",
        "state",
        "password",
        "secret",
        "key",
        "api_key",
        "apiKey",
        "client_secret",
        "X-Amz-Signature",
        "code_verifier",
    ];
    for name in parameters {
        let expected = format!("audit.query_parameters: `{name}` is not a parameter that may be recorded: it carries credentials");
        assert_eq!(told(|source| source.audit.query_parameters.push(name.into())), expected);
    }
    let harmless = ["x-tenant", "user-agent", "idempotency-key", "x-request-source", "content-type", "retry-after"];
    assert_eq!(told(|source| source.audit.request_headers = harmless.map(String::from).into()), "compiled");
    assert_eq!(
        told(|source| source.audit.query_parameters = ["page", "keyword", "country_code", "ticket"].map(String::from).into()),
        "compiled"
    );
}

#[test]
fn a_name_is_a_name_and_stands_once() {
    for name in ["", "X-Tenant", ":path", "x tenant", "x\u{e4}", &"x".repeat(65)] {
        let said = told(|source| source.audit.request_headers.push(name.into()));
        assert!(said.ends_with("is not the name of a header: 1 to 64 lower-case letters, digits and `-_`"), "{said}");
    }
    for name in ["", "a b", "a%20", "a[]", "a=b"] {
        let said = told(|source| source.audit.query_parameters.push(name.into()));
        assert!(said.ends_with("is not the name of a parameter: 1 to 64 letters, digits and `-_.`"), "{said}");
    }
    let twice = told(|source| source.audit.response_headers = vec!["x-a".into(), "x-b".into(), "x-a".into()]);
    assert_eq!(twice, "audit.response_headers: the name `x-a` is used twice");
    let many = |count: u8| told(|source| source.audit.query_parameters = (0..count).map(|number| format!("p{number}")).collect());
    assert_eq!((many(16), many(17)), ("compiled".into(), "audit.query_parameters: `p16` is not within 16 names".into()));
}

#[test]
fn names_are_found_whatever_their_order() {
    let mut source = source();
    source.audit.request_headers = ["x-b", "x-a", "x-c"].map(String::from).into();
    let policy = compile(&source).unwrap();
    let names = &policy.audit().request_headers;
    assert_eq!(
        ["x-a", "x-b", "x-c", "x-d", ""].map(|name| names.find(name.as_bytes())),
        [Some("x-a"), Some("x-b"), Some("x-c"), None, None]
    );
    assert_eq!(names.iter().collect::<Vec<_>>(), ["x-a", "x-b", "x-c"]);
}

#[test]
fn hashes_need_a_key_and_a_key_needs_hashes() {
    let with = |identities, key: Option<&str>| {
        told(|source| (source.audit.identities, source.audit.hash_key) = (identities, key.map(String::from)))
    };
    assert_eq!(with(Identities::Hashed, Some("audit-key")), "compiled");
    assert_eq!(with(Identities::Hashed, None), "audit.hash_key: `identities: hashed` needs a `hash_key`: the name of a secret");
    assert_eq!(with(Identities::Plain, Some("audit-key")), "audit.hash_key: `hash_key` goes with `identities: hashed`");
}

#[test]
fn a_sampled_route_costs_nothing_and_opens_nothing() {
    let sampled = AuditLevel::Sampled(10);
    assert_eq!(leveled("open", sampled, |_| {}), "compiled");
    assert_eq!(leveled("me", sampled, |_| {}), "compiled");
    let charged = |name: &str| format!("routes[{name}].audit: a route that is charged cannot be sampled: records tell what was spent");
    assert_eq!(leveled("me", sampled, |route| route.cost_micros = Some(1)), charged("me"));
    assert_eq!(leveled("me", sampled, |route| route.cost_micros = None), charged("me"), "the default cost counts");
    assert_eq!(leveled("me", sampled, |route| route.tasks = 1), charged("me"));
    assert_eq!(told(|source| source.routes[2].audit = sampled), charged("me"), "a rate counts its requests");
    let approved = leveled("agents.delete", sampled, |route| route.cost_micros = Some(0));
    assert_eq!(approved, "routes[agents.delete].audit: a route that needs an approval cannot be sampled");
    let registered = leveled("register", sampled, |_| {});
    assert!(registered.starts_with("routes[register].audit: a route that a registration key opens cannot be sampled"), "{registered}");
    for of in [0, 1, 10_001, u32::MAX] {
        let expected = format!("routes[open].audit.sampled: `{of}` is not from 2 to 10000");
        assert_eq!(leveled("open", AuditLevel::Sampled(of), |_| {}), expected);
    }
    for of in [2, 10_000] {
        assert_eq!(leveled("open", AuditLevel::Sampled(of), |_| {}), "compiled");
    }
}

#[test]
fn every_other_route_may_require_its_record_but_those_of_the_control_plane() {
    for name in ["open", "register", "me", "agents.read", "agents.create", "agents.delete"] {
        assert_eq!(leveled(name, AuditLevel::Required, |_| {}), "compiled", "{name}");
    }
    for level in [AuditLevel::Required, AuditLevel::Sampled(2)] {
        let said = leveled("me", level, |route| route.gateways.push(Gateway::Admin));
        assert_eq!(said, "routes[me].audit: the control plane records all of its own API: a route on ADMIN has no `audit`");
    }
}
