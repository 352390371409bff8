//! What a ruling costs, from memory and anew: `cargo run --release -p rules --example memo`.
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use decision_core::decision::Target;
use decision_core::gateway::{Gateway, Method};
use decision_core::policy::compile::compile;
use decision_core::policy::source::{
    CredentialForwarding, ExchangeKind, IssuerSource, PolicySource, RequirementSource, RoleSource, RouteSource,
};
use decision_core::principal::{Identity, Trial};
use decision_core::time::Timestamp;
use rules::{Judged, Loader, Progress, RuleSet, RuleSource};
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Trial, RBAC by a table in `data`, and an approval: what the original's policies decide.
const MODULE: &str = r#"package gateway

default decision := {"allow": false, "rule": "rbac", "reason": "the roles do not carry the permission"}

decision := {"allow": false, "rule": "trial", "reason": "the trial is over"} if input.facts.trial_expired
else := {"allow": false, "rule": "hours", "reason": "agents are deleted in office hours"} if {
    input.permission == "agent.delete"
    not office_hours
}
else := {"allow": true, "rule": "rbac"} if {
    some role in input.jwt.roles
    role in data.permissions[input.permission]
}

office_hours if {
    input.facts.hour_utc >= 8
    input.facts.hour_utc < 18
}
"#;

fn main() -> Result<(), Box<dyn Error>> {
    let table: Vec<String> = (0..40).map(|number| format!("\"resource{number}.read\": [\"admin\", \"viewer\"]")).collect();
    let data = format!("{{\"permissions\": {{\"agent.read\": [\"admin\", \"viewer\"], {}}}}}", table.join(", "));
    let modules = vec![("rules/main.rego".to_owned(), MODULE.to_owned())];
    let inputs = ["facts.trial_expired", "facts.hour_utc", "permission", "jwt.roles", "jwt.user_id"].map(String::from);
    let source = RuleSource { modules: &modules, data: &data, inputs: &inputs };
    let begun = Instant::now();
    let mut loader = Loader::new(&source, [])?;
    let mut longest = begun.elapsed();
    let mut rules: RuleSet = loop {
        let begun = Instant::now();
        let progress = loader.step()?;
        longest = longest.max(begun.elapsed());
        match progress {
            Progress::More(more) => loader = more,
            Progress::Ready(rules) => break *rules,
        }
    };
    println!("load           {:>10.1} µs, longest step {:.1} µs", micros(begun.elapsed(), 1), micros(longest, 1));
    judge(&mut rules)
}

fn micros(span: Duration, times: u32) -> f64 {
    span.as_secs_f64() * 1e6 / f64::from(times)
}

fn judge(rules: &mut RuleSet) -> Result<(), Box<dyn Error>> {
    let policy = compile(&policy())?;
    let identity = Identity {
        issuer: "cp".into(),
        subject: "user-1".into(),
        user_id: "9f1c5f0e-5a0b-4d6e-9f0a-1c2d3e4f5a6b".into(),
        email: "user-1@example.com".into(),
        customer_id: Some("customer-1".into()),
        agent_id: None,
        governor_agent_id: None,
        roles: vec!["viewer".into()],
        tier: None,
        trial: Trial::No,
        token_id: None,
        token_version: None,
        key_id: None,
        issued_at: Timestamp::EPOCH,
        expires_at: Timestamp::MAX,
    };
    let principal = policy.principal(identity).ok_or("the role is unknown")?;
    let route = policy.route(Gateway::Cp, Method::Get, "/agents/7").ok_or("the route is unknown")?;
    let (gateway, method, path, target) = (Gateway::Cp, Method::Get, "/agents/7", Target::Production);
    let judged = Judged { gateway, method, path, route, principal: &principal, target, now: Timestamp::from_seconds(1_768_478_430) };
    println!("ruling         {}", rules.judge_anew(&judged).to_json());
    let measure = |name: &str, times: u32, mut one: Box<dyn FnMut() + '_>| {
        (0..times / 10).for_each(|_| one());
        let begun = Instant::now();
        (0..times).for_each(|_| one());
        println!("{name:<14} {:>10.3} µs", micros(begun.elapsed(), times));
    };
    measure("memo hit", 1_000_000, Box::new(|| drop(black_box(rules.judge(black_box(&judged))))));
    measure("memo miss", 100_000, Box::new(|| drop(black_box(rules.judge_anew(black_box(&judged))))));
    Ok(())
}

fn policy() -> PolicySource {
    let route = RouteSource {
        name: "agents.read".into(),
        gateways: vec![Gateway::Cp],
        methods: vec![Method::Get],
        path: "/agents/{id}".into(),
        require: RequirementSource::Permission,
        permission: Some("agent.read".into()),
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
    };
    PolicySource {
        issuers: vec![IssuerSource { name: "cp".into(), gateways: vec![Gateway::Cp], roles: vec![] }],
        permissions: vec!["agent.read".into()],
        roles: vec![RoleSource { name: "viewer".into(), aliases: vec![], permissions: vec!["*".into()] }],
        routes: vec![route],
        ..PolicySource::default()
    }
}
