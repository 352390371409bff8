//! Rules judge requests: every outcome of the entry point, what the projection leaves out, and what loading refuses.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on has failed; one measures time")]

use decision_core::decision::{RuleVerdict, Target};
use decision_core::gateway::{Gateway, Method};
use decision_core::policy::CompiledPolicy;
use decision_core::policy::compile::compile;
use decision_core::policy::source::{
    CredentialForwarding, ExchangeKind, IssuerSource, PolicySource, RequirementSource, RoleSource, RouteSource,
};
use decision_core::principal::{Identity, Principal, Trial};
use decision_core::time::Timestamp;
use proptest::prelude::*;
use rules::{Fault, InputField, Judged, LoadError, Loader, Progress, RuleSet, RuleSource, Ruling};
use std::time::{Duration, Instant};

/// 2026-01-15T12:00:30Z, a Thursday.
const NOW: Timestamp = Timestamp::from_seconds(1_768_478_430);

fn policy() -> CompiledPolicy {
    let route = |name: &str, path: &str, permission: Option<&str>| RouteSource {
        name: name.into(),
        gateways: vec![Gateway::Cp, Gateway::Pp, Gateway::Plant],
        methods: vec![Method::Get, Method::Post],
        path: path.into(),
        require: if permission.is_some() { RequirementSource::Permission } else { RequirementSource::Authenticated },
        permission: permission.map(Into::into),
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
    let mut source = PolicySource {
        issuers: vec![IssuerSource { name: "cp".into(), gateways: vec![Gateway::Cp], roles: vec!["viewer".into(), "admin".into()] }],
        permissions: vec!["agent.read".into()],
        roles: ["viewer", "admin"].map(|name| RoleSource { name: name.into(), aliases: vec![], permissions: vec!["*".into()] }).into(),
        routes: vec![route("agents.read", "/agents/{id}", Some("agent.read")), route("me", "/me", None)],
        ..PolicySource::default()
    };
    source.settings.governor_role = "admin".into();
    compile(&source).unwrap()
}

fn identity(roles: &[&str]) -> Identity {
    Identity {
        issuer: "cp".into(),
        subject: "user-1".into(),
        user_id: "user-1".into(),
        email: "user-1@example.com".into(),
        customer_id: None,
        agent_id: None,
        governor_agent_id: None,
        roles: roles.iter().map(|role| (*role).into()).collect(),
        tier: None,
        trial: Trial::No,
        token_id: None,
        token_version: None,
        key_id: None,
        issued_at: NOW,
        expires_at: Timestamp::MAX,
    }
}

fn judged<'r>(policy: &'r CompiledPolicy, principal: &'r Principal, path: &'r str) -> Judged<'r> {
    let route = policy.route(Gateway::Cp, Method::Get, path).unwrap();
    Judged { gateway: Gateway::Cp, method: Method::Get, path, route, principal, target: Target::Production, now: NOW }
}

fn load(module: &str, data: &str, inputs: &[&str]) -> Result<RuleSet, LoadError> {
    let modules = vec![("rules/main.rego".to_owned(), format!("package gateway\n\n{module}\n"))];
    let inputs: Vec<String> = inputs.iter().map(|input| (*input).to_owned()).collect();
    Loader::new(&RuleSource { modules: &modules, data, inputs: &inputs }, []).and_then(Loader::finish)
}

/// What the rules say of a viewer who reads an agent.
fn said(module: &str, data: &str, inputs: &[&str]) -> Ruling {
    let policy = policy();
    let principal = policy.principal(identity(&["viewer"])).unwrap();
    let mut rules = load(module, data, inputs).unwrap();
    let ruling = rules.judge(&judged(&policy, &principal, "/agents/7"));
    assert_eq!(*rules.judge(&judged(&policy, &principal, "/agents/7")), *ruling, "from memory");
    Ruling::clone(&ruling)
}

fn fault(module: &str) -> Option<Fault> {
    let ruling = said(module, "{}", &["jwt.roles", "path"]);
    assert_eq!(ruling.verdict, RuleVerdict::Deny);
    assert!(ruling.fault.is_none_or(|fault| *ruling.rule == *fault.rule()));
    ruling.fault
}

#[test]
fn a_whole_decision_counts() {
    let allow = said(r#"decision := {"allow": true, "rule": "all", "reason": "why not"}"#, "{}", &[]);
    assert_eq!((allow.verdict, &*allow.rule, &*allow.reason), (RuleVerdict::Allow { target: None }, "all", "why not"));
    let sandbox = said(r#"decision := {"allow": true, "rule": "all", "target": "sandbox"}"#, "{}", &[]);
    assert_eq!(sandbox.verdict, RuleVerdict::Allow { target: Some(Target::Sandbox) });
    let deny = said(r#"decision := {"allow": false, "rule": "none", "target": "production"}"#, "{}", &[]);
    assert_eq!((deny.verdict, &*deny.rule, deny.fault), (RuleVerdict::Deny, "none", None));
}

#[test]
fn everything_else_denies_under_a_fixed_name() {
    for (module, expected) in [
        (r#"decision := {"allow": true, "rule": "r"} if "admin" in input.jwt.roles"#, Fault::Undefined),
        ("other := 1", Fault::Failed),
        (
            "decision := {\"allow\": true, \"rule\": \"a\"} if input.path\ndecision := {\"allow\": true, \"rule\": \"b\"} if input.path",
            Fault::Failed,
        ),
        (r#"decision := {"allow": true, "rule": lower(input.jwt.roles)}"#, Fault::Failed),
        ("decision := true", Fault::NotAnObject),
        (r#"decision := ["allow"]"#, Fault::NotAnObject),
        (r#"decision := {"allow": true}"#, Fault::Malformed),
        (r#"decision := {"rule": "r"}"#, Fault::Malformed),
        (r#"decision := {"allow": "true", "rule": "r"}"#, Fault::Malformed),
        (r#"decision := {"allow": 1, "rule": "r"}"#, Fault::Malformed),
        (r#"decision := {"allow": true, "rule": ""}"#, Fault::Malformed),
        (r#"decision := {"allow": true, "rule": "a\nb"}"#, Fault::Malformed),
        (r#"decision := {"allow": true, "rule": "r", "reason": 1}"#, Fault::Malformed),
        (r#"decision := {"allow": true, "rule": "r", "targt": "sandbox"}"#, Fault::Malformed),
        (r#"decision := {"allow": true, "rule": "r", 1: 2}"#, Fault::Malformed),
        (r#"decision := {"allow": true, "rule": "r", "target": "elsewhere"}"#, Fault::UnknownTarget),
        (r#"decision := {"allow": true, "rule": "r", "target": null}"#, Fault::UnknownTarget),
    ] {
        assert_eq!(fault(module), Some(expected), "{module}");
    }
    let long = format!(r#"decision := {{"allow": true, "rule": "{}"}}"#, "r".repeat(129));
    assert_eq!(fault(&long), Some(Fault::Malformed));
}

#[test]
fn what_takes_too_long_denies_is_not_remembered_and_leaves_nothing_behind() {
    let module = r#"
xs := [x | some a in data.numbers; some b in data.numbers; some c in data.numbers; x := (a + b) + c]

default decision := {"allow": false, "rule": "default"}

decision := {"allow": true, "rule": "slow"} if {
    input.path == "/agents/7"
    count(xs) > 0
} else := {"allow": true, "rule": "quick"}
"#;
    let data = format!("{{\"numbers\": {:?}}}", (0..200).collect::<Vec<_>>());
    let policy = policy();
    let principal = policy.principal(identity(&["viewer"])).unwrap();
    let mut rules = load(module, &data, &["path"]).unwrap();
    for _ in 0..3 {
        let begun = Instant::now();
        let slow = rules.judge(&judged(&policy, &principal, "/agents/7"));
        assert_eq!((slow.fault, slow.verdict, &*slow.rule), (Some(Fault::TimedOut), RuleVerdict::Deny, "rules.timeout"));
        // Eight million sums take seconds.
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
        let quick = rules.judge(&judged(&policy, &principal, "/agents/8"));
        assert_eq!(&*quick.rule, "quick");
    }
    assert_eq!(rules.remembered(), 1);
}

#[test]
fn a_time_out_within_functions_is_one_too() {
    let tree: String = (0..12).map(|level| format!("f{level}(x) := f{0}(x) + f{0}(x + 1) + f{0}(x + 2)\n", level + 1)).collect();
    let module = format!("{tree}f12(x) := x\ndecision := {{\"allow\": f0(1) > 0, \"rule\": \"r\"}}");
    let policy = policy();
    let principal = policy.principal(identity(&["viewer"])).unwrap();
    let mut rules = load(&module, "{}", &[]).unwrap();
    let ruling = rules.judge(&judged(&policy, &principal, "/me"));
    assert_eq!((ruling.fault, rules.remembered()), (Some(Fault::TimedOut), 0));
}

#[test]
fn rules_see_what_is_declared_and_nothing_else() {
    let module = r#"decision := {"allow": true, "rule": "seen", "reason": json.marshal(input)}"#;
    let all: Vec<&str> = InputField::ALL.iter().map(|field| field.path()).collect();
    let seen = |inputs: &[&str]| serde_json::from_str::<serde_json::Value>(&said(module, "{}", inputs).reason).unwrap();
    assert_eq!(seen(&[]), serde_json::json!({}));
    assert_eq!(seen(&["jwt.roles", "facts.governor"]), serde_json::json!({"jwt": {"roles": ["viewer"]}, "facts": {"governor": false}}));
    assert_eq!(
        seen(&all),
        serde_json::json!({
            "gateway": "CP", "method": "GET", "path": "/agents/7", "route": "agents.read",
            "permission": "agent.read", "resource": "agent", "action": "read", "target": "production",
            "jwt": {"issuer": "cp", "sub": "user-1", "user_id": "user-1", "email": "user-1@example.com", "roles": ["viewer"], "trial_mode": false},
            "facts": {
                "tier": "paid", "trial": false, "trial_expired": false, "governor": false, "hour_utc": 12, "weekday_utc": "thursday"
            },
        })
    );
}

#[test]
fn roles_that_the_issuer_may_not_assign_are_not_seen() {
    let policy = policy();
    let principal = policy.principal(identity(&["viewer", "root"])).unwrap();
    let mut rules = load(r#"decision := {"allow": true, "rule": concat("+", input.jwt.roles)}"#, "{}", &["jwt.roles"]).unwrap();
    assert_eq!(&*rules.judge(&judged(&policy, &principal, "/me")).rule, "viewer");
}

#[test]
fn loading_goes_in_steps_and_checks_every_vector() {
    let modules = vec![
        ("a.rego".to_owned(), "package gateway\ndecision := {\"allow\": data.lib.yes(input.method), \"rule\": \"r\"}".to_owned()),
        ("b.rego".to_owned(), "package lib\nyes(method) := method == \"GET\"".to_owned()),
    ];
    let inputs = ["method".to_owned()];
    let source = RuleSource { modules: &modules, data: "", inputs: &inputs };
    let vector = |method: &str, allow: bool| {
        (format!("{{\"method\": \"{method}\"}}"), format!("{{\"allow\": {allow}, \"rule\": \"r\", \"reason\": \"\"}}"))
    };
    let mut loader = Loader::new(&source, [vector("GET", true), vector("PUT", false)]).unwrap();
    let mut steps = 1;
    let mut rules = loop {
        match loader.step().unwrap() {
            Progress::More(more) => loader = more,
            Progress::Ready(rules) => break rules,
        }
        steps += 1;
    };
    // Two modules, their preparation, two vectors, and the end.
    assert_eq!(steps, 6);
    assert_eq!(rules.evaluate_json("{\"method\": \"GET\"}", 1).unwrap().verdict, RuleVerdict::Allow { target: None });
    let wrong = Loader::new(&source, [vector("GET", true), vector("PUT", true)]).and_then(Loader::finish).unwrap_err();
    assert!(matches!(wrong, LoadError::Differs { number: 1, .. }), "{wrong}");
    for (input, decision) in [("[]", "{}"), ("", "{}"), ("{}", "")] {
        let wrong = Loader::new(&source, [(input.to_owned(), decision.to_owned())]).and_then(Loader::finish).unwrap_err();
        assert!(matches!(wrong, LoadError::Vector { number: 0 }), "{wrong}");
    }
}

#[test]
fn what_cannot_be_loaded_is_named() {
    assert!(matches!(load("decision := ", "{}", &[]).unwrap_err(), LoadError::Module { file, .. } if file == "rules/main.rego"));
    assert_eq!(load("decision := 1", "[]", &[]).unwrap_err(), LoadError::Data);
    assert_eq!(load("decision := 1", "{", &[]).unwrap_err(), LoadError::Data);
    assert!(load("decision := 1", "{}", &["jwt.rolls"]).unwrap_err().to_string().contains("the nearest name is `jwt.roles`"));
}

/// A request that a rule may look at in every way.
#[derive(Clone, Debug)]
struct Asked {
    roles: Vec<&'static str>,
    customer: Option<String>,
    email: String,
    governor: bool,
    trial: Option<i64>,
    path: String,
    seconds: i64,
}

prop_compose! {
    fn asked()(
        roles in prop::sample::subsequence(vec!["viewer", "admin"], 1..=2),
        customer in prop::option::of("[ab]{0,2}"),
        email in "[ab]{1,2}",
        governor in any::<bool>(),
        trial in prop::option::of(-1_i64..=1),
        path in "/(me|agents/[ab]{1,2})",
        seconds in prop::sample::select(vec![0_i64, 3_599, 3_600, 86_400]),
    ) -> Asked {
        Asked { roles, customer, email, governor, trial, path, seconds }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The rule tells all that it sees: two requests with equal keys and different inputs would be told apart by it.
    #[test]
    fn memory_never_answers_for_another_input(
        requests in prop::collection::vec(asked(), 2..24),
        fields in prop::sample::subsequence(InputField::ALL.to_vec(), 0..=InputField::ALL.len()),
    ) {
        let policy = policy();
        let inputs: Vec<&str> = fields.iter().map(|field| field.path()).collect();
        let mut rules = load(r#"decision := {"allow": count(input) > 1, "rule": "seen", "reason": json.marshal(input)}"#, "{}", &inputs).unwrap();
        for asked in requests {
            let mut identity = identity(&asked.roles);
            identity.customer_id = asked.customer.as_deref().map(Into::into);
            identity.email = asked.email.as_str().into();
            identity.governor_agent_id = asked.governor.then(|| "g-1".into());
            let now = NOW.plus(Duration::from_secs(asked.seconds.unsigned_abs()));
            identity.trial = asked.trial.map_or(Trial::No, |ahead| Trial::Until(Timestamp::from_seconds(now.as_seconds() + ahead)));
            let principal = policy.principal(identity).unwrap();
            let judged = Judged { now, ..judged(&policy, &principal, &asked.path) };
            let remembered = rules.judge(&judged);
            prop_assert_eq!(&*remembered, &rules.judge_anew(&judged));
        }
    }
}
