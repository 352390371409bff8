//! What a match and a decision cost, at the size of the policy as shipped and at a large one:
//! `cargo run --release --package decision-core --example decide`.

#![expect(clippy::disallowed_methods, reason = "it measures time; the crate itself has no clock")]

use decision_core::decide;
use decision_core::facts::{Authentication, RequestFacts, Upgrade};
use decision_core::gateway::{Gateway, Method};
use decision_core::policy::CompiledPolicy;
use decision_core::policy::compile::{CompileError, compile};
use decision_core::policy::source::{
    CredentialForwarding, ExchangeKind, IssuerSource, PolicySource, RequirementSource, RoleSource, RouteSource,
};
use decision_core::principal::{Identity, Principal, Trial};
use decision_core::time::Timestamp;
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: usize = 2_000_000;
const PERMISSIONS: usize = 200;

fn route(number: usize) -> RouteSource {
    let (area, tail) = (number / 40, if number.is_multiple_of(2) { "/{id}" } else { "" });
    RouteSource {
        name: format!("route.{number}"),
        gateways: vec![Gateway::Cp, Gateway::Pp, Gateway::Plant],
        methods: vec![Method::Get],
        path: format!("/api/v1/area-{area}/things-{}{tail}", number / 2),
        require: RequirementSource::Permission,
        permission: Some(format!("thing.{}", number % PERMISSIONS)),
        cost_micros: Some(0),
        tasks: 0,
        limit: None,
        governor_approval: false,
        closed_to_trials: false,
        credential: CredentialForwarding::Drop,
        flag: None,
        ownership: None,
        rewrite: None,
        exchange: ExchangeKind::Plain,
        metering: None,
        audit: decision_core::audit::AuditLevel::Buffered,
    }
}

fn policy(routes: usize, roles: usize) -> Result<CompiledPolicy, CompileError> {
    compile(&PolicySource {
        issuers: vec![IssuerSource { name: "pp".into(), gateways: vec![Gateway::Pp], roles: vec![] }],
        permissions: (0..PERMISSIONS).map(|number| format!("thing.{number}")).collect(),
        roles: (0..roles)
            .map(|number| RoleSource { name: format!("role-{number}"), aliases: vec![], permissions: vec!["*".into()] })
            .collect(),
        routes: (0..routes).map(route).collect(),
        ..PolicySource::default()
    })
}

fn principal(policy: &CompiledPolicy) -> Option<Principal> {
    policy.principal(Identity {
        issuer: "pp".into(),
        subject: "user".into(),
        user_id: "user".into(),
        email: "user@example.com".into(),
        customer_id: Some("customer".into()),
        agent_id: None,
        governor_agent_id: None,
        roles: vec!["role-0".into()],
        tier: None,
        trial: Trial::No,
        token_id: None,
        token_version: None,
        key_id: None,
        issued_at: Timestamp::EPOCH,
        expires_at: Timestamp::MAX,
    })
}

fn main() -> Result<(), CompileError> {
    for (routes, roles) in [(130, 13), (10_000, 1_000)] {
        let begun = Instant::now();
        let policy = policy(routes, roles)?;
        let compiled = begun.elapsed();
        let Some(principal) = principal(&policy) else { continue };
        // Every route in turn, in an order that no cache likes.
        let paths: Vec<String> = (0..routes).map(|number| route(number * 7_919 % routes).path.replace("{id}", "0123")).collect();
        let begun = Instant::now();
        for path in paths.iter().cycle().take(ROUNDS) {
            let route = policy.route(Gateway::Pp, Method::Get, black_box(path));
            let authentication = Authentication::Verified(&principal);
            let facts = RequestFacts { gateway: Gateway::Pp, method: Method::Get, route, authentication, upgrade: Upgrade::None };
            let _decision = black_box(decide(&policy, &facts, Timestamp::EPOCH));
        }
        let nanos = begun.elapsed().as_nanos() / u128::try_from(ROUNDS).unwrap_or(1);
        println!("{routes} routes, {roles} roles: compiled in {compiled:?}; match and decide {nanos} ns");
    }
    Ok(())
}
