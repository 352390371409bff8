//! What becomes of a request: forwarded with edited headers, or refused with problem details.

use super::gate::{Gate, NOW, Request};
use super::host::{FakeStream, Reply, find};
use super::tokens;
use crate::pipeline::Step;
use crate::settings::Settings;
use serde_json::json;
use std::rc::Rc;

fn read() -> Request {
    Request::new("GET", "/api/v1/tasks")
}

/// Status, slug, check, and the code in the record.
fn outcome(gate: &mut Gate, request: &Request) -> (u16, String, String, String) {
    let stream = gate.send(request);
    assert_eq!(stream.step, Step::Answered);
    let reply = gate.reply(&stream).unwrap();
    let problem = reply.problem();
    assert_eq!(problem["status"], reply.status);
    assert_eq!(reply.header("cache-control").as_deref(), Some("no-store"));
    assert!(problem["correlation_id"].is_string() && reply.header("x-correlation-id").is_some());
    assert_eq!(gate.held(), 0);
    gate.finish(&stream);
    let slug = problem["type"].as_str().unwrap().strip_prefix("https://waooaw.com/errors/").unwrap();
    let record = gate.last_record();
    assert_eq!((&record["decision"], &record["status"]), (&json!("Deny"), &json!(reply.status)));
    (reply.status, slug.into(), problem["check"].as_str().unwrap().into(), record["reason"].as_str().unwrap().into())
}

#[track_caller]
fn assert_refused(gate: &mut Gate, request: &Request, status: u16, slug: &str, check: &str, code: &str) {
    assert_eq!(outcome(gate, request), (status, slug.into(), check.into(), code.into()));
}

#[test]
fn a_permitted_request_goes_out_with_the_gateway_s_word_and_without_the_client_s() {
    let mut gate = Gate::new("PLANT");
    let request = read().bearer(&tokens::admin());
    gate.warm(&request);
    let spoofed = [
        "x-user-id",
        "x-user-roles",
        "x-user-anything",
        "x-customer-id",
        "x-agent-id",
        "x-trial-mode",
        "x-target-backend",
        "x-gateway",
        "x-gateway-type",
        "x-metering-tokens",
        "x-rbac-role",
        "x-governor-id",
        "x-policy-id",
        "x-original-authorization",
        "x-debug-trace",
        "x-actual-cost-micros",
        "x-cp-registration-key",
        "x-real-ip",
        "x-forwarded-user",
        "x-auth-request-user",
        "x-role",
        "x-roles",
        "x-email",
        "proxy-authorization",
    ];
    let request = spoofed.iter().fold(request, |request, name| request.with(name, "spoofed").with(name, "twice"));
    let stream = gate.begin(&request.with("x-harmless", b"\xff\xfe").with("x-correlation-id", "c-1").with("x-request-id", "parent"));
    let sent = gate.forwarded(&stream).unwrap();
    assert!(!sent.iter().any(|(_, value)| value == b"spoofed" || value == b"twice"));
    let header = |name: &str| find(&sent, name);
    assert_eq!(header("authorization"), None);
    assert_eq!(header("x-user-id").as_deref(), Some("user-1"));
    assert_eq!(header("x-customer-id").as_deref(), Some("customer-1"));
    assert_eq!(header("x-agent-id").as_deref(), Some("agent-1"));
    assert_eq!(header("x-user-roles").as_deref(), Some("admin"));
    assert_eq!(header("x-user-issuer").as_deref(), Some("legacy"));
    assert_eq!((header("x-trial-mode").as_deref(), header("x-gateway-type").as_deref()), (Some("false"), Some("PLANT")));
    assert_eq!((header("x-correlation-id").as_deref(), header("x-causation-id").as_deref()), (Some("c-1"), Some("parent")));
    assert_eq!((header("x-target-backend"), header("x-original-authorization")), (None, None));
    assert_ne!(header("x-request-id").as_deref(), Some("parent"));
    assert!(sent.contains(&(b"x-harmless".to_vec(), b"\xff\xfe".to_vec())));
    gate.respond(&stream, 200);
    assert_eq!(find(&gate.host.stream(stream.context).response, "x-correlation-id").as_deref(), Some("c-1"));
    gate.finish(&stream);
    let record = gate.last_record();
    assert_eq!((&record["decision"], &record["reason"], &record["status"]), (&json!("Permit"), &json!("ok"), &json!(200)));
    assert_eq!((&record["correlation_id"], &record["causation_id"]), (&json!("c-1"), &json!("parent")));
    assert_eq!(record["charges"].as_array().unwrap().len(), 4);
    assert!(!record.to_string().contains("Bearer"));
}

#[test]
fn a_lean_listener_tells_the_backend_less() {
    let mut gate = Gate::new("PLANT");
    let request = read().bearer(&tokens::admin()).with("x-causation-id", "kept");
    gate.warm(&request);
    gate.settings = std::rc::Rc::new(crate::settings::Settings::parse(br#"{"gateway":"PLANT"}"#).unwrap().0);
    let stream = gate.begin(&request);
    let sent = gate.forwarded(&stream).unwrap();
    assert_eq!(find(&sent, "x-user-id").as_deref(), Some("user-1"));
    assert_eq!(find(&sent, "x-causation-id").as_deref(), Some("kept"));
    for absent in ["x-user-roles", "x-user-issuer", "x-agent-id", "x-trial-mode", "x-gateway", "x-gateway-type"] {
        assert_eq!(find(&sent, absent), None, "{absent}");
    }
}

#[test]
fn a_trial_goes_to_the_sandbox_and_takes_no_credential_there() {
    let mut gate = Gate::new("CP");
    let validate = Request::new("GET", "/api/v1/auth/validate");
    let live = validate.clone().bearer(&tokens::with_role("user"));
    gate.warm(&live);
    let stream = gate.begin(&live);
    let sent = gate.forwarded(&stream).unwrap();
    assert!(find(&sent, "x-original-authorization").is_some_and(|value| value.starts_with("Bearer ")));
    assert_eq!((find(&sent, "authorization"), find(&sent, "x-target-backend")), (None, None));
    gate.complete(&stream);
    let trial = validate.bearer(&tokens::on_trial(60)).with("x-target-backend", "production");
    gate.warm(&trial);
    let stream = gate.begin(&trial);
    let sent = gate.forwarded(&stream).unwrap();
    assert_eq!(find(&sent, "x-target-backend").as_deref(), Some("sandbox"));
    assert_eq!((find(&sent, "authorization"), find(&sent, "x-original-authorization")), (None, None));
    gate.complete(&stream);
    assert_eq!(gate.last_record()["sandbox"], json!(true));
}

#[test]
fn an_ambiguous_path_is_refused_before_anything_else() {
    let mut gate = Gate::new("PLANT");
    for path in ["/api/v1/tasks/..", "/api//v1/tasks", "/api/v1/tasks;a=b", "/api/v1/%74asks", "*", "", "/a\\b", "/api/v1/tasks%2f1"] {
        let request = Request::new("GET", path).bearer(&tokens::admin());
        assert_refused(&mut gate, &request, 400, "validation-error", "path", "ambiguous_path");
    }
    assert_refused(&mut gate, &Request::new("GET", "/caf\u{e9}"), 400, "validation-error", "path", "ambiguous_path");
}

#[test]
fn a_header_that_decides_must_stand_once() {
    let mut gate = Gate::new("PLANT");
    let twice = read().bearer(&tokens::admin()).bearer(&tokens::admin());
    assert_refused(&mut gate, &twice, 400, "validation-error", "path", "ambiguous_header");
    let register = Request::new("POST", "/api/v1/customers").with("x-cp-registration-key", "a").with("x-cp-registration-key", "b");
    assert_refused(&mut gate, &register, 400, "validation-error", "path", "ambiguous_header");
}

#[test]
fn a_block_that_cannot_be_read_is_refused() {
    let mut gate = Gate::new("PLANT");
    let stream = gate.begin_stream(FakeStream { raw: Some(vec![1, 2, 3]), ..FakeStream::default() }, true);
    assert_eq!((stream.step, gate.reply(&stream).unwrap().status), (Step::Answered, 400));
    gate.finish(&stream);
}

#[test]
fn what_is_no_route_is_not_found_or_forbidden_by_setting() {
    let mut gate = Gate::new("PLANT");
    for request in [Request::new("GET", "/none"), Request::new("TRACE", "/api/v1/tasks"), Request::new("get", "/api/v1/tasks")] {
        assert_refused(&mut gate, &request, 404, "not-found", "route", "no_route");
    }
    let mut strict = Gate::with("PLANT", |document| document.settings.as_mut().unwrap().no_route_status = 403);
    assert_refused(&mut strict, &Request::new("GET", "/none"), 403, "not-found", "route", "no_route");
}

#[test]
fn a_missing_or_bad_credential_is_refused_without_telling_why() {
    let mut gate = Gate::new("PLANT");
    assert_refused(&mut gate, &read(), 401, "unauthorized", "authentication", "credential_missing");
    let refused = [
        ("Basic abc", "invalid-token-format", "not_bearer"),
        ("Bearer", "invalid-token-format", "not_bearer"),
        ("Bearer abc", "invalid-token", "malformed"),
        (&format!("Bearer {}=", tokens::admin()), "invalid-token", "malformed"),
        (&format!("Bearer {}", forged()), "invalid-token", "signature_invalid"),
        (
            &format!("Bearer {}", tokens::token(json!({"iat": NOW.as_seconds() - 4_000, "exp": NOW.as_seconds() - 61}))),
            "token-expired",
            "expired",
        ),
        (&format!("Bearer {}", tokens::token(json!({"exp": NOW.as_seconds() + 90_000}))), "invalid-token", "lifetime_too_long"),
        (&format!("Bearer {}", tokens::token(json!({"email": null}))), "invalid-token", "claim_missing"),
        (&format!("Bearer {}", tokens::token(json!({"roles": ["nobody"]}))), "invalid-token", "no_known_role"),
        (&format!("Bearer {}", tokens::token(json!({"trial_mode": true}))), "invalid-token", "trial_claims_invalid"),
        (&format!("Bearer {}", tokens::token(json!({"token_type": "refresh"}))), "invalid-token", "token_type_refused"),
    ];
    for (authorization, slug, code) in refused {
        assert_refused(&mut gate, &read().with("authorization", authorization), 401, slug, "authentication", code);
    }
    let reply = gate.refused(&read().with("authorization", b"Bearer \xff\xff"));
    assert_eq!(reply.header("www-authenticate").as_deref(), Some("Bearer realm=\"plant-gateway\", error=\"invalid_token\""));
    assert_eq!(gate.refused(&read()).header("www-authenticate").as_deref(), Some("Bearer realm=\"plant-gateway\""));
}

/// Signed by the key of another issuer.
fn forged() -> String {
    let token = tokens::sign("edge-1", "waooaw.com", serde_json::Map::default());
    let good = tokens::admin();
    let (header, _) = good.split_once('.').unwrap();
    let (_, rest) = token.split_once('.').unwrap();
    format!("{header}.{rest}")
}

#[test]
fn a_token_of_one_portal_opens_no_other() {
    let mut gate = Gate::new("PP");
    let claims = serde_json::from_value(json!({"aud": "plant-gateway-cp", "roles": ["user"]})).unwrap();
    let token = tokens::sign("cp-1", "cp.waooaw.com", claims);
    assert_refused(&mut gate, &read().bearer(&token), 401, "invalid-token", "authentication", "issuer_mismatch");
}

#[test]
fn failed_verifications_have_a_budget_that_known_tokens_do_not_need() {
    let mut gate = Gate::new("PLANT");
    let known = read().bearer(&tokens::admin());
    gate.warm(&known);
    let forged = read().bearer(&forged());
    let mut refused = 0;
    while gate.refused(&forged).status == 401 {
        refused += 1;
    }
    assert_eq!(refused, 5_000);
    let reply = gate.refused(&forged);
    assert_eq!((reply.status, reply.header("retry-after").as_deref(), reply.header("www-authenticate")), (429, Some("1"), None));
    assert_eq!(gate.begin(&known).step, Step::Forward);
}

/// Which of its tests a token has failed is for the record alone.
#[test]
fn all_bad_tokens_get_the_same_answer_byte_for_byte() {
    let mut gate = Gate::new("PLANT");
    let (mut replies, mut reasons) = (Vec::new(), std::collections::BTreeSet::new());
    let staff = |changes| tokens::sign("pp-1", "pp.waooaw.com", serde_json::from_value(changes).unwrap());
    let unsigned = format!("{}.{}.", "eyJhbGciOiJub25lIn0", tokens::admin().split('.').nth(1).unwrap());
    for token in [
        "abc",
        "a.b.c",
        &unsigned,
        &forged(),
        &tokens::sign("never-heard-of", "waooaw.com", serde_json::Map::new()),
        &tokens::sign("legacy-1", "evil.example", serde_json::Map::new()),
        &tokens::token(json!({ "email": null })),
        &tokens::token(json!({ "roles": ["nobody"] })),
        &tokens::token(json!({ "iat": NOW.as_seconds() + 3_600 })),
        &tokens::token(json!({ "exp": NOW.as_seconds() + 90_000 })),
        &tokens::token(json!({ "token_type": "refresh" })),
        &tokens::token(json!({ "trial_mode": true })),
        &staff(json!({})),
        &staff(json!({ "trial_mode": true, "trial_expires_at": NOW.as_seconds() + 60 })),
    ] {
        let stream = gate.begin(&read().with("x-correlation-id", "c-1").bearer(token));
        replies.push(gate.reply(&stream).unwrap());
        gate.finish(&stream);
        reasons.insert(gate.last_record()["reason"].to_string());
    }
    assert!(reasons.len() >= 11, "{reasons:?}");
    assert_eq!(replies[0].status, 401);
    assert!(replies.iter().all(|reply| *reply == replies[0]), "{replies:?}");
}

/// A worker stands still while it verifies such a token.
#[test]
fn dear_verifications_that_fail_have_small_budgets_of_their_own() {
    use crate::signature::{Asked, Dear, Failures};
    let kinds = [Dear::RsaPkcs1, Dear::RsaPss, Dear::EcdsaP256, Dear::EcdsaP384, Dear::Ed25519].map(Asked::Dear);
    for spent in kinds {
        let mut failures = Failures::default();
        let mut admitted = 0;
        // 5,000 a second for a second.
        for number in 0..5_000 {
            let now = NOW.plus(std::time::Duration::from_micros(200 * number));
            if failures.admit(spent, now) == authn::Admission::Admitted {
                failures.failed(spent, now);
                admitted += 1;
            }
        }
        assert!((50..=60).contains(&admitted), "{spent:?}: {admitted}");
        for other in kinds.into_iter().chain([Asked::Cheap]).filter(|kind| *kind != spent) {
            assert_eq!(failures.admit(other, NOW), authn::Admission::Admitted, "{spent:?} turns away {other:?}");
        }
    }
}

/// On every route, also where nobody asks for it, and under another name.
#[test]
fn a_registration_key_is_neither_forwarded_nor_recorded() {
    let mut gate = Gate::new("PLANT");
    let sent_with =
        |request: Request| request.with("x-cp-registration-key", "a-key").with("x-correlation-id", "a-key").with("x-causation-id", "a-key");
    let trial = sent_with(read().bearer(&tokens::on_trial(60)));
    gate.warm(&trial);
    let refused = sent_with(Request::new("POST", "/api/v1/customers"));
    for request in [sent_with(Request::new("POST", "/api/v1/auth/refresh")), trial, refused, sent_with(Request::new("GET", "/none"))] {
        let stream = gate.send(&request);
        if let Some(sent) = gate.forwarded(&stream) {
            assert_eq!(find(&sent, "x-cp-registration-key"), None);
            assert_ne!(find(&sent, "x-correlation-id").as_deref(), Some("a-key"));
        }
        if let Some(reply) = gate.reply(&stream) {
            assert!(!String::from_utf8_lossy(&reply.body).contains("a-key"));
        }
        gate.finish(&stream);
        assert!(!gate.last_record().to_string().contains("a-key"));
    }
}

#[test]
fn a_registration_needs_the_key() {
    let mut gate = Gate::new("CP");
    let register = || Request::new("POST", "/api/v1/customers");
    assert_refused(&mut gate, &register(), 401, "unauthorized", "authentication", "registration_key_refused");
    let wrong = register().with("x-cp-registration-key", "wrong").bearer(&tokens::admin());
    assert_refused(&mut gate, &wrong, 401, "unauthorized", "authentication", "registration_key_refused");
    let stream = gate.begin(&register().with("x-cp-registration-key", format!(" {}\t", tokens::REGISTRATION_KEY)));
    let sent = gate.forwarded(&stream).unwrap();
    assert_eq!((find(&sent, "x-cp-registration-key"), find(&sent, "x-user-id")), (None, None));
}

#[test]
fn a_role_without_the_permission_is_told_which_one_it_lacks() {
    let mut gate = Gate::new("PLANT");
    let request = Request::new("POST", "/api/v1/tasks").bearer(&tokens::with_role("viewer"));
    let reply = gate.refused(&request);
    assert_eq!((reply.status, &reply.problem()["required_permission"]), (403, &json!("task.create")));
    assert_eq!(reply.header("www-authenticate").as_deref(), Some("Bearer realm=\"plant-gateway\", error=\"insufficient_scope\""));
    assert_eq!(reply.details, "gateway_denied:permission");
    assert_refused(&mut gate, &request, 403, "permission-denied", "permission", "permission_missing");
}

#[test]
fn a_trial_ends_and_stays_out_of_what_is_closed_to_it() {
    let mut gate = Gate::new("CP");
    let expired = read().bearer(&tokens::on_trial(-1));
    let problem = gate.refused(&expired).problem();
    assert_eq!(
        (&problem["trial_expires_at"], &problem["upgrade_url"]),
        (&json!("2026-01-15T12:00:29Z"), &json!("https://waooaw.com/upgrade"))
    );
    assert_refused(&mut gate, &expired, 403, "trial-expired", "trial", "trial_expired");
    let closed = Request::new("GET", "/api/v1/billing").bearer(&tokens::on_trial(60));
    assert_refused(&mut gate, &closed, 403, "trial-restricted", "trial", "trial_restricted");
}

#[test]
fn a_user_whom_a_budget_cannot_name_is_refused() {
    let mut gate = Gate::with("PLANT", |document| document.budgets[1].scope = "customer:{customer_id}".into());
    let nobody = read().bearer(&tokens::token(json!({ "customer_id": null })));
    assert_refused(&mut gate, &nobody, 403, "budget-unscoped", "budget", "budget_unscoped");
}

#[test]
fn a_refusal_takes_the_form_that_the_client_understands() {
    let mut gate = Gate::new("PLANT");
    let kind = |reply: &Reply| reply.header("content-type");
    for (accept, expected) in [
        ("*/*", "application/problem+json"),
        ("application/json", "application/json"),
        ("text/html, Application/JSON;q=0.5", "application/json"),
        ("application/json, application/problem+json", "application/problem+json"),
    ] {
        assert_eq!(kind(&gate.refused(&read().with("accept", accept))).as_deref(), Some(expected), "{accept}");
    }
    let grpc = gate.refused(&read().with("content-type", "application/grpc+proto"));
    assert_eq!((grpc.body.len(), kind(&grpc)), (0, None));
}

#[test]
fn a_correlation_id_that_is_not_sane_is_replaced() {
    let mut gate = Gate::new("PLANT");
    for bad in [&b"a b"[..], b"\xff", b"", &[b'a'; 257], b"a\x7f"] {
        let reply = gate.refused(&read().with("x-correlation-id", bad));
        let id = reply.header("x-correlation-id").unwrap();
        assert!(uuid::Uuid::try_parse(&id).is_ok_and(|id| id.get_version_num() == 7), "{id}");
        assert_eq!(reply.problem()["correlation_id"], json!(id));
    }
    let request = read().bearer(&tokens::admin());
    gate.warm(&request);
    for bad in [&b"a b"[..], b"\xff", &[b'a'; 257]] {
        let stream = gate.begin(&request.clone().with("x-correlation-id", bad));
        let sent = gate.forwarded(&stream).unwrap();
        assert_eq!(find(&sent, "x-correlation-id"), find(&sent, "x-request-id"));
        gate.respond(&stream, 200);
        assert_eq!(find(&gate.host.stream(stream.context).response, "x-correlation-id"), find(&sent, "x-request-id"));
    }
    let reply = gate.refused(&read().with("x-correlation-id", "sane-1"));
    assert_eq!(reply.header("x-correlation-id").as_deref(), Some("sane-1"));
}

#[test]
fn each_header_of_ours_reaches_the_backend_once_whatever_the_client_sent() {
    let mut gate = Gate::new("PLANT");
    gate.settings = Rc::new(Settings::parse(br#"{"gateway":"PLANT","upstream_headers":"full"}"#).unwrap().0);
    let request = read().bearer(&tokens::admin());
    gate.warm(&request);
    let empty_ids =
        ["x-request-id", "x-correlation-id", "x-causation-id"].into_iter().fold(request.clone(), |request, name| request.with(name, ""));
    for sent in [request.clone(), empty_ids, request.clone().with("x-user-id", "a").with("x-trial-mode", ""), request.with("x-gateway", "")]
    {
        let stream = gate.begin(&sent);
        let sent = gate.forwarded(&stream).unwrap();
        for name in ["x-request-id", "x-correlation-id", "x-user-id", "x-customer-id", "x-user-roles", "x-trial-mode", "x-gateway"] {
            let values: Vec<_> = sent.iter().filter(|(known, _)| known == name.as_bytes()).map(|(_, value)| value).collect();
            assert!(values.len() == 1 && !values[0].is_empty(), "{name}: {values:?}");
        }
    }
}

#[test]
fn probes_are_answered_by_the_filter_itself() {
    let mut cold = Gate::cold("CP", Default::default());
    let health = cold.refused(&Request::new("GET", "/health"));
    assert_eq!((health.status, health.problem()), (200, json!({"status": "healthy", "service": "plant-gateway", "gateway": "CP"})));
    let ready = cold.refused(&Request::new("HEAD", "/ready"));
    assert_eq!((ready.status, &ready.problem()["ready"], &ready.problem()["control_plane"]), (503, &json!(false), &json!("unknown")));
    let mut warm = Gate::new("PLANT");
    let ready = warm.refused(&Request::new("GET", "/ready"));
    let expected = json!({
        "ready": true, "gateway": "PLANT", "activation": 1, "revision": 101, "key_set": 1, "revocation": 0, "revocations": "known",
        "control_plane": "unknown",
    });
    assert_eq!((ready.status, ready.problem()), (200, expected));
    // Exact paths only, and nothing but reading.
    for (method, path) in [("POST", "/health"), ("POST", "/ready"), ("GET", "/health/"), ("GET", "/ready?x"), ("GET", "/Health")] {
        assert_eq!(warm.refused(&Request::new(method, path)).problem()["check"], json!("route"));
    }
}

#[test]
fn a_repeated_id_is_replaced_and_reaches_nobody() {
    let mut gate = Gate::new("PLANT");
    let request = read().bearer(&tokens::admin());
    gate.warm(&request);
    let stream = gate.begin(
        &request.with("x-correlation-id", "good").with("x-correlation-id", "evil").with("x-causation-id", "a").with("x-causation-id", "b"),
    );
    let sent = gate.forwarded(&stream).unwrap();
    let values: Vec<_> = sent.iter().filter(|(name, _)| name == b"x-correlation-id").map(|(_, value)| value.clone()).collect();
    assert!(values.len() == 1 && values[0].len() == 36, "{values:?}");
    assert!(!sent.iter().any(|(name, _)| name == b"x-causation-id"));
}
