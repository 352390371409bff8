//! The security holes of the original, D20 to D26, D28 to D30 and D36 of its review: each request that it let through is sent through
//! Envoy and must not get through. Every test fails on the behaviour of the original.

use std::time::Duration;

use cli::stack::{Part, Stack, State};
use cli::token::{TokenSpec, mint, now};
use e2e::admin::Admin;
use e2e::http::{Answer, Ask, Client};
use e2e::load::backend_count;
use e2e::raw;
use e2e::stacks::{InUse, Shared, eventually, options, ports, told};
use serde_json::{Value, json};

static STACK: Shared = Shared::new(|| Stack::start(options("original", ports::ORIGINAL).unwrap()));
const PATIENCE: Duration = Duration::from_secs(10);

fn stack() -> InUse {
    STACK.get().unwrap_or_else(|error| panic!("{}", told(&error)))
}

async fn ask(state: &State, gateway: &str, ask: &Ask) -> Answer {
    Client::new(&state.gateways[gateway]).send(ask).await.unwrap()
}

fn customer(subject: &str) -> TokenSpec {
    TokenSpec::new(subject, &["customer_user"]).customer(subject)
}

fn minted(state: &State, issuer: &str, spec: &TokenSpec) -> String {
    mint(&state.issuers[issuer], spec).unwrap()
}

fn slug(answer: &Answer) -> String {
    let body = answer.json();
    body["type"].as_str().and_then(|uri| uri.rsplit('/').next()).unwrap_or_default().to_owned()
}

/// The backend echoes what it gets, so an answer from it is told by its header.
fn reached_a_backend(answer: &Answer) -> bool {
    answer.header("x-echo-listener").is_some()
}

/// Refused with this status and slug, and nothing reached a backend.
#[track_caller]
fn assert_refused(answer: &Answer, status: u16, slug_wanted: &str, what: &str) {
    assert!(!reached_a_backend(answer), "{what} reached the backend: {}", answer.text());
    assert_eq!((answer.status, slug(answer).as_str()), (status, slug_wanted), "{what}: {}", answer.text());
}

#[tokio::test]
async fn d20_a_double_slash_does_not_evade_the_ownership_of_a_customer() {
    let stack = stack();
    let state = stack.state();
    let token = minted(state, "cp", &customer("d20"));
    for path in ["invoices", "receipts", "trial-status", "payments", "hired-agents"] {
        for target in [
            format!("//api/v1/{path}?customer_id=evil"),
            format!("/api//v1/{path}?customer_id=evil"),
            format!("/api/v1//{path}?customer_id=evil"),
            format!("/%2fapi/v1/{path}?customer_id=evil"),
            format!("/./api/v1/{path}?customer_id=evil"),
        ] {
            let bearer = format!("Bearer {token}");
            for gateway in ["CP", "PLANT"] {
                let request = raw::request("GET", target.as_bytes(), &[("authorization", bearer.as_bytes())]);
                let answer = raw::send(&state.gateways[gateway], &request).await.unwrap();
                assert_eq!(answer.status, Some(400), "{gateway} {target}: {}", answer.text);
                assert!(answer.header("x-echo-listener").is_none(), "{gateway} {target}");
            }
        }
    }
}

#[tokio::test]
async fn d21_a_double_slash_does_not_evade_the_registration_key() {
    let stack = stack();
    let state = stack.state();
    let bearer = format!("Bearer {}", minted(state, "cp", &customer("d21")));
    for target in ["//api/v1/customers/x", "/api/v1//customers/x", "/api/v1/customers//x", "/api/v1/customers/../customers/x"] {
        let request = raw::request("GET", target.as_bytes(), &[("authorization", bearer.as_bytes())]);
        let answer = raw::send(&state.gateways["CP"], &request).await.unwrap();
        assert_eq!((answer.status, answer.header("x-echo-listener")), (Some(400), None), "{target}: {}", answer.text);
    }
    let without_key = ask(state, "CP", &Ask::get("/api/v1/customers/x").header("authorization", &bearer)).await;
    assert_refused(&without_key, 401, "unauthorized", "a token in place of the registration key");
}

#[tokio::test]
async fn d22_nothing_is_public_by_how_its_path_ends() {
    let stack = stack();
    let state = stack.state();
    let before = backend_count(&state.backend).await.unwrap();
    for suffix in ["docs", "redoc", "openapi.json", "docs/oauth2-redirect", "auth/google/verify"] {
        for (method, prefix) in
            [("DELETE", "/api/v1/hired-agents/"), ("POST", "/api/v1/agents/"), ("GET", "/api/v1/"), ("GET", "/api/health/")]
        {
            let target = format!("{prefix}{suffix}");
            let answer = ask(state, "PLANT", &Ask::new(method, &target)).await;
            assert!([401, 404].contains(&answer.status), "{method} {target}: {}", answer.text());
            assert!(!reached_a_backend(&answer), "{method} {target}");
        }
    }
    assert_eq!(backend_count(&state.backend).await.unwrap(), before, "nothing of this reached the backend");
}

#[tokio::test]
async fn d23_what_the_backend_serves_for_itself_is_not_reachable() {
    let stack = stack();
    let state = stack.state();
    let port = state.backend.rsplit(':').next().unwrap().to_owned();
    for gateway in ["CP", "PP", "PLANT"] {
        let description = ask(state, gateway, &Ask::get("/openapi.json")).await;
        assert_refused(&description, 401, "unauthorized", &format!("{gateway} /openapi.json"));
        for target in ["/metrics", "/healthz", "/docs", "/redoc", "/docs/oauth2-redirect", "/api/health"] {
            let answer = ask(state, gateway, &Ask::get(target)).await;
            assert_refused(&answer, 404, "not-found", &format!("{gateway} {target}"));
        }
        for target in ["/health", "/ready"] {
            let answer = ask(state, gateway, &Ask::get(target)).await;
            assert_eq!((answer.status, reached_a_backend(&answer)), (200, false), "{gateway} {target}");
            assert!(!answer.text().contains(&port), "{gateway} {target} tells where the backend is: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn d24_identity_headers_of_a_client_are_dropped() {
    const SPOOFED: [&str; 12] = [
        "x-user-id",
        "x-customer-id",
        "x-user-roles",
        "x-user-email",
        "x-trial-mode",
        "x-gateway",
        "x-gateway-type",
        "x-metering-cost",
        "x-metering-timestamp",
        "x-forwarded-client-cert",
        "x-original-authorization",
        "x-target-backend",
    ];
    let stack = stack();
    let state = stack.state();
    let token = minted(state, "cp", &customer("d24"));
    let request = SPOOFED.iter().fold(Ask::get("/api/v1/agents").bearer(&token), |ask, name| ask.header(name, "spoofed"));
    let answer = ask(state, "CP", &request.header("x-forwarded-for", "203.0.113.9")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!answer.text().contains("spoofed"), "{}", answer.text());
    for name in ["x-gateway", "x-customer-id", "x-user-id"] {
        assert!(answer.echoed(name).len() <= 1, "{name} twice: {}", answer.text());
    }
    // Envoy appends the peer; what the client wrote is only ever left of it.
    let forwarded = answer.echoed("x-forwarded-for");
    assert!(forwarded.iter().all(|value| !value.ends_with("203.0.113.9")), "{forwarded:?}");
    assert_ne!(answer.echoed("x-envoy-external-address"), ["203.0.113.9"]);
}

#[tokio::test]
async fn d25_refresh_tokens_long_tokens_and_tokens_of_another_scope_are_no_access_tokens() {
    let stack = stack();
    let state = stack.state();
    let good = customer("d25");
    assert_eq!(ask(state, "CP", &Ask::get("/api/v1/agents").bearer(&minted(state, "cp", &good))).await.status, 200);
    let bad = [
        ("a refresh token", good.clone().claim("token_type", json!("refresh"))),
        ("a token for 30 days", good.clone().lasting(30 * 86_400)),
        ("a token for a day and a second", good.clone().lasting(86_401)),
        ("a token of scope db_updates", good.clone().claim("scope", json!("db_updates"))),
    ];
    for issuer in ["cp", "legacy"] {
        let good = TokenSpec::new("d25", &["user"]);
        let path = if issuer == "cp" { "CP" } else { "PLANT" };
        assert_ne!(ask(state, path, &Ask::get("/api/v1/agents").bearer(&minted(state, issuer, &good))).await.status, 401, "{issuer}");
        for (what, spec) in &bad {
            let answer = ask(state, path, &Ask::get("/api/v1/agents").bearer(&minted(state, issuer, spec))).await;
            assert_refused(&answer, 401, "invalid-token", &format!("{issuer}: {what}"));
        }
    }
    revoked_although_without_an_id(state).await;
}

/// Tokens of the original had no `jti`, and so could not be revoked at all.
async fn revoked_although_without_an_id(state: &State) {
    let spec = TokenSpec { issued_at: Some(now() - 10), ..TokenSpec::new("d25-no-jti", &["user"]) };
    let token = minted(state, "legacy", &spec.claim("jti", Value::Null));
    let request = Ask::get("/api/v1/auth/validate").bearer(&token);
    assert_eq!(ask(state, "CP", &request).await.status, 200);
    revoke(state, json!({"kind": "subject", "issuer": "legacy", "value": "d25-no-jti", "reason": "test"})).await;
    let answer = eventually(PATIENCE, async || Some(ask(state, "CP", &request).await).filter(|answer| answer.status != 200)).await;
    assert_refused(&answer.expect("it is refused in the end"), 401, "token-revoked", "a subject whose tokens were revoked");
}

async fn revoke(state: &State, revocation: Value) {
    Admin::new(state).json(Ask::post("/admin/v1/revocations").json(&revocation)).await.unwrap();
}

#[tokio::test]
async fn d26_no_issuer_speaks_for_another() {
    let stack = stack();
    let state = stack.state();
    let admin = TokenSpec::new("d26", &["admin"]).governor("g-1");
    // The portals' tokens are not interchangeable.
    let refused = [("pp", "CP", "a PP token on CP"), ("cp", "PP", "a CP token on PP"), ("ops", "PLANT", "an operator's token on PLANT")];
    for (issuer, gateway, what) in refused {
        let answer = ask(state, gateway, &Ask::get("/api/v1/agents").bearer(&minted(state, issuer, &admin))).await;
        assert_refused(&answer, 401, "invalid-token", what);
    }
    // A portal for customers cannot make administrators, whatever it signs.
    let answer = ask(state, "PLANT", &Ask::new("DELETE", "/api/v1/agents/a-1").bearer(&minted(state, "cp", &admin))).await;
    assert_refused(&answer, 401, "invalid-token", "an administrator by the customers' portal");
    // With the key of one issuer nobody signs in the name of another.
    for (by, name_of) in [("cp", "pp"), ("pp", "cp"), ("legacy", "pp"), ("edge", "pp"), ("legacy", "cp")] {
        let mut forger = state.issuers[by].clone();
        let victim = &state.issuers[name_of];
        (forger.issuer, forger.audience) = (victim.issuer.clone(), victim.audience.clone());
        for kid in [forger.kid.clone(), victim.kid.clone()] {
            forger.kid = kid;
            let answer = ask(state, "PLANT", &Ask::get("/api/v1/agents").bearer(&mint(&forger, &admin).unwrap())).await;
            assert_refused(&answer, 401, "invalid-token", &format!("{by} in the name of {name_of}"));
        }
    }
}

#[tokio::test]
async fn d28_what_was_revoked_stays_revoked_when_valkey_is_gone() {
    let stack =
        Stack::start(options("original-valkey", ports::ORIGINAL_VALKEY).unwrap()).unwrap_or_else(|error| panic!("{}", told(&error)));
    let state = stack.state();
    let spec = TokenSpec::new("d28", &["viewer"]);
    let revoked = minted(state, "pp", &spec.clone().claim("jti", json!("d28-token")));
    let old_version = minted(state, "pp", &spec.clone().claim("token_version", json!(1)).claim("jti", json!("d28-old")));
    let no_version = minted(state, "pp", &spec.claim("jti", json!("d28-none")));
    let other = minted(state, "pp", &TokenSpec::new("d28-other", &["viewer"]));
    for token in [&revoked, &old_version, &no_version, &other] {
        assert_eq!(ask(state, "PP", &Ask::get("/api/v1/agents").bearer(token)).await.status, 200);
    }
    revoke(state, json!({"kind": "token", "issuer": "pp", "value": "d28-token", "reason": "test"})).await;
    revoke(state, json!({"kind": "version", "issuer": "pp", "value": "d28", "version_min": 2, "reason": "test"})).await;
    stack.pause(Part::Valkey).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (token, wanted) in [(&revoked, "token-revoked"), (&old_version, "token-version-mismatch"), (&no_version, "token-version-mismatch")]
    {
        for _ in 0..20 {
            let answer = ask(state, "PP", &Ask::get("/api/v1/agents").bearer(token)).await;
            assert_refused(&answer, 401, wanted, "with Valkey away");
        }
    }
    assert_eq!(ask(state, "PP", &Ask::get("/api/v1/agents").bearer(&other)).await.status, 200, "others go on");
    stack.resume(Part::Valkey).unwrap();
    stack.stop();
}

#[tokio::test]
async fn d29_the_registration_key_is_neither_forwarded_nor_recorded() {
    let stack = stack();
    let state = stack.state();
    let key = &state.registration_key;
    let with_key = |value: &str, id: &str| {
        Ask::post("/api/v1/customers").header("x-cp-registration-key", value).header("x-correlation-id", id).json(&json!({"name": "d29"}))
    };
    let answer = ask(state, "CP", &with_key(key, "d29-good")).await;
    assert_eq!(answer.header("x-echo-listener"), Some("production"), "{}", answer.text());
    assert!(answer.echoed("x-cp-registration-key").is_empty() && !answer.text().contains(key.as_str()), "{}", answer.text());
    // Where it is not asked for it does not pass either.
    let elsewhere = Ask::post("/api/v1/auth/logout").header("x-cp-registration-key", key).header("x-correlation-id", "d29-else");
    let answer = ask(state, "CP", &elsewhere).await;
    assert!(reached_a_backend(&answer) && !answer.text().contains(key.as_str()), "{}", answer.text());

    let mut almost = key.clone();
    almost.pop();
    for wrong in [almost, format!("{key}x"), key.to_uppercase(), String::new()] {
        let answer = ask(state, "CP", &with_key(&wrong, "d29-bad")).await;
        assert_refused(&answer, 401, "unauthorized", "a wrong registration key");
        assert_eq!(answer.json()["detail"], "Missing or invalid registration key");
        assert_eq!(answer.header("www-authenticate"), None);
    }
    for id in ["d29-good", "d29-else", "d29-bad"] {
        let record = Admin::new(state).audit_record(id, PATIENCE).await.unwrap().expect("the request is recorded");
        assert!(!record.to_string().contains(key.as_str()), "{record}");
    }
    let log = std::fs::read_to_string(&state.access_log).unwrap_or_default();
    assert!(!log.contains(key.as_str()), "the access log has the registration key");
}

#[tokio::test]
async fn d30_no_client_turns_on_debugging() {
    let stack = stack();
    let state = stack.state();
    let token = minted(state, "pp", &TokenSpec::new("d30", &["viewer"]));
    for name in ["x-debug-trace", "x-debug", "x-envoy-force-trace", "x-client-trace-id"] {
        for request in [Ask::get("/openapi.json"), Ask::get("/api/v1/agents").bearer(&token), Ask::get("/api/v1/agents")] {
            let plain = ask(state, "PP", &request).await;
            let traced = ask(state, "PP", &request.clone().header(name, "1").header(name, "true")).await;
            assert_eq!(traced.status, plain.status, "{name}");
            let names = |answer: &Answer| answer.headers.keys().map(ToString::to_string).collect::<std::collections::BTreeSet<_>>();
            assert_eq!(names(&traced), names(&plain), "{name}: other headers come back");
            if plain.status != 200 {
                let members = |answer: &Answer| answer.json().as_object().unwrap().keys().cloned().collect::<Vec<_>>();
                assert_eq!(members(&traced), members(&plain), "{name}: the body tells more");
            }
        }
    }
    let passed = ask(state, "PP", &Ask::get("/api/v1/agents").bearer(&token).header("x-debug-trace", "1")).await;
    assert!(passed.echoed("x-debug-trace").is_empty(), "the backend is not asked to trace either: {}", passed.text());
}

#[tokio::test]
async fn d36_a_route_is_not_its_neighbour_by_prefix() {
    let stack = stack();
    let state = stack.state();
    let token = minted(state, "cp", &customer("d36"));
    for target in ["/api/v1/customersX", "/api/v1/customersX/1", "/api/v1/otp/sessionsX", "/api/v1/otp/sessions.json", "/api/v1/agentsX"] {
        for method in ["GET", "POST"] {
            let answer = ask(state, "CP", &Ask::new(method, target).bearer(&token)).await;
            assert_refused(&answer, 404, "not-found", &format!("{method} {target}"));
        }
    }
    // The token path below customers is charged like everything else.
    let request = Ask::post("/api/v1/customers/fcm-token").bearer(&token).header("x-correlation-id", "d36-metered");
    let answer = ask(state, "CP", &request).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let record = Admin::new(state).audit_record("d36-metered", PATIENCE).await.unwrap().expect("the request is recorded");
    let charges = record["charges"].as_array().unwrap();
    assert!(charges.iter().any(|charge| charge["budget"] == "agent-daily" && charge["amount"].as_i64() > Some(0)), "{record}");
}
