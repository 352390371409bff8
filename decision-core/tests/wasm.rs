//! The core in a browser's kind of WebAssembly: it needs no host. `make test` runs this under Node.
#![cfg(target_arch = "wasm32")]
#![expect(clippy::unwrap_used, reason = "clippy's exception for tests does not cover the functions around them")]

mod fixture;

use decision_core::decide;
use decision_core::decision::{ApprovalNeed, Decision, DenyReason, Target};
use decision_core::facts::{Authentication, HeaderBlock, Presented, RequestFacts, Upgrade};
use decision_core::gateway::{Gateway, Method};
use decision_core::holder::{Grant, LeaseHolder, Shortfall, WhenShort};
use decision_core::path::{AmbiguousPath, CanonicalPath};
use decision_core::policy::CompiledPolicy;
use decision_core::policy::compile::compile;
use decision_core::principal::{CredentialFault, Trial};
use decision_core::time::Timestamp;
use fixture::{NOW, identity, source};
use wasm_bindgen_test::wasm_bindgen_test;

fn policy() -> CompiledPolicy {
    compile(&source()).unwrap()
}

fn decide_as(policy: &CompiledPolicy, method: Method, path: &str, authentication: Authentication<'_>) -> Decision {
    let path = CanonicalPath::parse(path.as_bytes()).unwrap().path();
    let route = policy.route(Gateway::Plant, method, path);
    decide(policy, &RequestFacts { gateway: Gateway::Plant, method, route, authentication, upgrade: Upgrade::None }, NOW)
}

fn reason(decision: &Decision) -> Option<DenyReason> {
    match decision {
        Decision::Deny(denial) => Some(denial.reason),
        Decision::Permit(_) | Decision::Conditional(_) => None,
    }
}

#[wasm_bindgen_test]
fn a_policy_compiles_and_decides() {
    let policy = policy();
    let admin = policy.principal(identity("admin")).unwrap();
    let viewer = policy.principal(identity("viewer")).unwrap();
    let (admin, viewer) = (Authentication::Verified(&admin), Authentication::Verified(&viewer));
    let create = |who| reason(&decide_as(&policy, Method::Post, "/agents", who));
    assert_eq!(create(admin), None);
    assert_eq!(create(viewer), Some(DenyReason::PermissionMissing));
    assert_eq!(create(Authentication::Anonymous), Some(DenyReason::CredentialMissing));
    let expired = CredentialFault::Expired;
    assert_eq!(create(Authentication::Refused(expired)), Some(DenyReason::CredentialRefused(expired)));
    assert_eq!(reason(&decide_as(&policy, Method::Put, "/agents", admin)), Some(DenyReason::NoRoute));
    assert_eq!(reason(&decide_as(&policy, Method::Get, "/open", Authentication::Anonymous)), None);
}

#[wasm_bindgen_test]
fn a_permit_says_what_it_takes() {
    let policy = policy();
    let mut trial = identity("viewer");
    trial.trial = Trial::Until(NOW);
    let trial = policy.principal(trial).unwrap();
    let read = decide_as(&policy, Method::Get, "/agents/1", Authentication::Verified(&trial));
    let Decision::Permit(read) = read else { unreachable!("{read:?}") };
    assert_eq!((read.target(), read.approval(), read.charges().iter().count()), (Target::Sandbox, ApprovalNeed::None, 3));
    let admin = policy.principal(identity("admin")).unwrap();
    let delete = decide_as(&policy, Method::Delete, "/agents/1", Authentication::Verified(&admin));
    let Decision::Permit(delete) = delete else { unreachable!("{delete:?}") };
    assert_eq!(delete.approval(), ApprovalNeed::Governor);
}

#[wasm_bindgen_test]
fn a_path_is_accepted_as_it_is_or_refused() {
    for (path, fault) in [
        ("//", AmbiguousPath::EmptySegment),
        ("/a/../b", AmbiguousPath::DotSegment),
        ("/a%2fb", AmbiguousPath::ForbiddenEscape),
        ("/%61", AmbiguousPath::NeedlessEscape),
        ("/a%c0%af", AmbiguousPath::NotUtf8),
        ("/a;b", AmbiguousPath::ForbiddenByte),
        ("/a%2", AmbiguousPath::BadEscape),
        ("a", AmbiguousPath::NotAbsolute),
    ] {
        assert_eq!(CanonicalPath::parse(path.as_bytes()), Err(fault), "{path}");
    }
    let split = CanonicalPath::parse(b"/caf%C3%A9?a=b").unwrap();
    assert_eq!((split.path(), split.query()), ("/caf%C3%A9", Some("a=b")));
}

/// Lengths are 32 bits wide here: a count that overflows must not pass for a small one.
#[wasm_bindgen_test]
fn a_header_block_with_a_huge_count_is_refused() {
    for count in [u32::MAX, 1 << 29, (1 << 29) + 1] {
        let bytes = [&count.to_le_bytes()[..], &[0; 64]].concat();
        assert!(HeaderBlock::parse(&bytes).is_err(), "{count}");
    }
    let huge_value = [&1_u32.to_le_bytes()[..], &1_u32.to_le_bytes(), &u32::MAX.to_le_bytes(), b"a\0b\0"].concat();
    assert!(HeaderBlock::parse(&huge_value).is_err());
    let good = [&1_u32.to_le_bytes()[..], &1_u32.to_le_bytes(), &1_u32.to_le_bytes(), b"a\0b\0"].concat();
    assert_eq!(HeaderBlock::parse(&good).unwrap().presented(b"a"), Presented::Once(b"b"));
}

#[wasm_bindgen_test]
fn a_lease_is_asked_for_granted_and_spent() {
    let policy = policy();
    let admin = policy.principal(identity("admin")).unwrap();
    let create = decide_as(&policy, Method::Post, "/agents", Authentication::Verified(&admin));
    let Decision::Permit(create) = create else { unreachable!("{create:?}") };
    let mut holder = LeaseHolder::default();
    let binding = holder.bind(&policy);
    let short = holder.reserve(&policy, &binding, &admin, create.charges(), NOW, WhenShort::Wait);
    let Err(Shortfall::Short(wait)) = short else { unreachable!("{short:?}") };
    let mut asked: Vec<(String, String, Timestamp, Grant)> = Vec::new();
    holder.reports(NOW, usize::MAX, |report| {
        let grant = Grant {
            generation: report.generation,
            granted: report.minimum,
            cap: report.minimum,
            settled: report.used,
            known: true,
            overriding: None,
        };
        asked.push((report.budget.into(), report.scope.into(), report.window_start, grant));
    });
    assert_eq!(asked.len(), 3);
    for (budget, scope, start, grant) in &asked {
        holder.apply(budget, scope, *start, grant);
    }
    holder.end_wait(wait);
    let held = holder.reserve(&policy, &binding, &admin, create.charges(), NOW, WhenShort::Wait).unwrap();
    assert!(matches!(holder.reserve(&policy, &binding, &admin, create.charges(), NOW, WhenShort::Wait), Err(Shortfall::Short(_))));
    let mut charged = 0;
    charged += holder.settle(held, |_, reserved| reserved).iter().map(|settlement| settlement.charged.get()).sum::<i64>();
    assert_eq!(charged, 2_001);
}
