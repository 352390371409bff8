//! What is said to have to change is true: with it the check no longer refuses for that reason.

use crate::fixture::{NOW, identity, source};
use decision_core::counterfactual::{Change, Situation, changes, outcome_changes, told};
use decision_core::decision::{ApprovalNeed, Check, Decision, DenyReason, RuleVerdict};
use decision_core::explain::{ExplainedOutcome, explain};
use decision_core::facts::{Authentication, RequestFacts, Upgrade};
use decision_core::flag::{FlagState, Switch};
use decision_core::gateway::{Gateway, Method};
use decision_core::policy::CompiledPolicy;
use decision_core::policy::compile::compile;
use decision_core::policy::source::{ExchangeKind, FlagSource, OwnershipPlace, OwnershipSource, PolicySource, RouteSource};
use decision_core::principal::{CredentialFault, Identity, RevocationKind, Trial};
use decision_core::time::Timestamp;
use proptest::prelude::*;
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
enum Asker {
    Anonymous,
    Registered,
    Refused(CredentialFault),
    User(Box<Identity>),
}

/// Everything that a decision depends on, to be changed and decided again.
#[derive(Clone, Debug)]
struct World {
    source: PolicySource,
    gateway: Gateway,
    method: Method,
    path: &'static str,
    upgrade: Upgrade,
    asker: Asker,
    verdict: RuleVerdict,
}

impl World {
    fn situated<T>(&self, policy: &CompiledPolicy, ask: impl FnOnce(&Situation<'_>) -> T) -> T {
        let principal = match &self.asker {
            Asker::User(identity) => policy.principal((**identity).clone()),
            Asker::Anonymous | Asker::Registered | Asker::Refused(_) => None,
        };
        let authentication = match (&self.asker, &principal) {
            (Asker::Anonymous, _) => Authentication::Anonymous,
            (Asker::Registered, _) => Authentication::Registered,
            (Asker::Refused(fault), _) => Authentication::Refused(*fault),
            (Asker::User(_), Some(principal)) => Authentication::Verified(principal),
            (Asker::User(_), None) => Authentication::Refused(CredentialFault::NoKnownRole),
        };
        let route = policy.route(self.gateway, self.method, self.path);
        let facts = RequestFacts { gateway: self.gateway, method: self.method, route, authentication, upgrade: self.upgrade };
        ask(&Situation { policy, facts: &facts, path: self.path, now: NOW })
    }

    /// Why it does not go on.
    fn reason(&self) -> Option<DenyReason> {
        self.situated(&compile(&self.source).unwrap(), |situation| {
            match explain(situation.policy, situation.facts, NOW, |_conditional| self.verdict).outcome {
                ExplainedOutcome::Deny(reason) => Some(reason),
                ExplainedOutcome::Permit(permit) => (permit.approval == ApprovalNeed::Governor).then_some(DenyReason::ApprovalRequired),
            }
        })
    }

    fn changes(&self) -> Vec<Change> {
        self.situated(&compile(&self.source).unwrap(), |situation| {
            let story = explain(situation.policy, situation.facts, NOW, |_conditional| self.verdict);
            let told = told(situation, &story);
            assert_eq!(told.len(), story.checks.len());
            let changes = outcome_changes(situation, &story);
            if let ExplainedOutcome::Deny(reason) = story.outcome {
                let last = told.last().unwrap();
                assert_eq!((last.check, &last.changes), (reason.check(), &changes), "the check that refused says the same");
            }
            changes
        })
    }

    fn set_flag(&mut self, name: &str, state: FlagState) {
        let flag = self.source.flags.iter_mut().find(|flag| flag.name == name).unwrap();
        (flag.default, flag.overrides, flag.rollout_percent) = (state, Vec::new(), None);
    }

    fn user(&mut self) -> &mut Identity {
        match &mut self.asker {
            Asker::User(identity) => identity,
            other @ (Asker::Anonymous | Asker::Registered | Asker::Refused(_)) => unreachable!("{other:?}"),
        }
    }

    fn route(&mut self) -> &mut RouteSource {
        let name = {
            let policy = compile(&self.source).unwrap();
            policy.route(self.gateway, self.method, self.path).unwrap().name.to_string()
        };
        self.source.routes.iter_mut().find(|route| route.name == name).unwrap()
    }

    /// Somebody with a good token of this issuer, with a role that it may assign.
    fn good(&self, issuer: &str) -> Asker {
        let powers = self.source.issuers.iter().find(|known| known.name == issuer).unwrap();
        let role = powers.roles.first().map_or("viewer", String::as_str);
        Asker::User(Box::new(Identity { issuer: issuer.into(), ..identity(role) }))
    }

    /// Every world in which the change has come true: one for each of its alternatives.
    fn with(&self, change: &Change) -> Vec<Self> {
        let one = |make: &dyn Fn(&mut Self)| {
            let mut world = self.clone();
            make(&mut world);
            vec![world]
        };
        match change {
            Change::Method(methods) => methods.iter().map(|method| Self { method: *method, ..self.clone() }).collect(),
            Change::Gateway(gateways) => gateways.iter().map(|gateway| Self { gateway: *gateway, ..self.clone() }).collect(),
            Change::RouteExists => one(&|world| {
                let like = RouteSource { flag: None, ..world.source.routes[0].clone() };
                let (gateways, methods) = (vec![world.gateway], vec![world.method]);
                world.source.routes.push(RouteSource { name: "added".into(), gateways, methods, path: world.path.into(), ..like });
            }),
            Change::Upgrade(upgrade) => vec![Self { upgrade: *upgrade, ..self.clone() }],
            Change::FlagOn(flag) => one(&|world| world.set_flag(flag, FlagState::On)),
            Change::FlagOff(flag) => one(&|world| world.set_flag(flag, FlagState::Off)),
            Change::Token { issuers } => issuers.iter().map(|issuer| Self { asker: self.good(issuer), ..self.clone() }).collect(),
            Change::GoodToken(_) | Change::Unrevoked(_) => {
                let issuer = if self.gateway == Gateway::Pp { "pp" } else { "cp" };
                vec![Self { asker: self.good(issuer), ..self.clone() }]
            }
            Change::RegistrationKey => vec![Self { asker: Asker::Registered, ..self.clone() }],
            Change::Role { issuer, any_of, permission: _ } => {
                let with_role = |role: &String| {
                    let mut world = self.clone();
                    world.user().issuer = issuer.as_str().into();
                    world.user().roles.push(role.as_str().into());
                    world
                };
                any_of.iter().map(with_role).collect()
            }
            Change::PermissionGiven(permission) => one(&|world| {
                let issuer = world.user().issuer.to_string();
                let assignable = world.source.issuers.iter().find(|known| known.name == issuer).unwrap().roles.clone();
                let given =
                    |role: &&mut decision_core::policy::source::RoleSource| assignable.is_empty() || assignable.contains(&role.name);
                let role = world.source.roles.iter_mut().find(given).unwrap();
                role.permissions.push(permission.clone());
                let name = role.name.as_str().into();
                world.user().roles.push(name);
            }),
            Change::TrialUntil(end) => one(&|world| world.user().trial = Trial::Until(*end)),
            Change::PaidUser => one(&|world| world.user().trial = Trial::No),
            Change::RouteOpenToTrials => one(&|world| world.route().closed_to_trials = false),
            Change::CustomerId => one(&|world| world.user().customer_id = Some("customer".into())),
            Change::Governor { role } => one(&|world| {
                world.user().roles.push(role.as_str().into());
                world.user().governor_agent_id = Some("governor".into());
            }),
            Change::RuleAllows => vec![Self { verdict: RuleVerdict::Allow { target: None }, ..self.clone() }],
            // Outside of what is decided here: a person, or state that only leases and bodies have.
            Change::Approval
            | Change::CanonicalPath
            | Change::Header(_)
            | Change::OtherApproval
            | Change::Body(_)
            | Change::SmallerBody
            | Change::OutputLimit
            | Change::PriceForModel
            | Change::OtherModel
            | Change::NextWindow { .. }
            | Change::HigherCap { .. }
            | Change::ScopeKnown { .. } => Vec::new(),
        }
    }
}

fn flags() -> impl Strategy<Value = Vec<FlagSource>> {
    let state = || prop_oneof![3 => Just(FlagState::On), 1 => Just(FlagState::Off)];
    let switch = proptest::sample::select(Switch::ALL.to_vec());
    (state(), state(), proptest::collection::vec(switch, 1..3), proptest::option::of(0..=100_u8)).prop_map(
        |(one, other, mut switches, rollout)| {
            switches.sort();
            switches.dedup();
            let flag = |name: &str, default, switches, rollout_percent| FlagSource {
                name: name.into(),
                default,
                overrides: Vec::new(),
                rollout_percent,
                switches,
            };
            vec![flag("gate", one, Vec::new(), None), flag("checks", other, switches, rollout)]
        },
    )
}

fn policies() -> impl Strategy<Value = PolicySource> {
    let permissions = proptest::sample::subsequence(vec!["agent.read", "agent.create", "agent.delete"], 0..=3);
    let roles = proptest::sample::select(vec![vec![], vec!["viewer"], vec!["admin"], vec!["viewer", "admin"]]);
    let bits = proptest::collection::vec(any::<bool>(), 6);
    (permissions, roles, flags(), bits).prop_map(|(admin, assignable, flags, bits)| {
        let mut source = source();
        source.flags = flags;
        source.roles[0].permissions = admin.into_iter().map(str::to_owned).collect();
        source.issuers[0].roles = assignable.into_iter().map(str::to_owned).collect();
        source.rules = bits[0].then(|| vec![Gateway::Plant]);
        let routes = &mut source.routes;
        routes[3].flag = bits[1].then(|| "gate".to_owned());
        routes[3].closed_to_trials = bits[2];
        routes[4].ownership = bits[3].then(|| OwnershipSource { place: OwnershipPlace::Query, name: "customer_id".into() });
        routes[0].flag = bits[4].then(|| "gate".to_owned());
        routes.push(RouteSource { name: "gated".into(), path: "/gated".into(), flag: Some("gate".into()), ..routes[2].clone() });
        let for_operators =
            RouteSource { name: "operators".into(), gateways: vec![Gateway::Admin], cost_micros: Some(0), flag: None, ..routes[3].clone() };
        routes.push(for_operators);
        source.issuers[0].gateways.push(Gateway::Admin);
        let routes = &mut source.routes;
        routes[2].exchange = if bits[5] { ExchangeKind::Websocket } else { ExchangeKind::Plain };
        source
    })
}

fn askers() -> impl Strategy<Value = Asker> {
    let names = proptest::sample::subsequence(vec!["admin", "viewer", "reader", "nobody"], 1..=2);
    let trial = prop_oneof![
        Just(Trial::No),
        Just(Trial::Until(Timestamp::EPOCH)),
        Just(Trial::Until(NOW)),
        Just(Trial::Until(Timestamp::from_micros(NOW.as_micros() - 1))),
        Just(Trial::Until(Timestamp::MAX))
    ];
    let user = (prop_oneof![Just("cp"), Just("pp"), Just("gone")], names, trial, any::<bool>(), any::<bool>());
    let user = user.prop_map(|(issuer, roles, trial, customer, governor)| {
        let roles = roles.into_iter().map(Box::from).collect();
        let customer_id = customer.then(|| "customer-1".into());
        let governor_agent_id = governor.then(|| "governor-1".into());
        Asker::User(Box::new(Identity { issuer: issuer.into(), roles, trial, customer_id, governor_agent_id, ..identity("admin") }))
    });
    let fault = proptest::sample::select(CredentialFault::ALL.to_vec());
    prop_oneof![8 => user, 1 => Just(Asker::Anonymous), 1 => Just(Asker::Registered), 1 => fault.prop_map(Asker::Refused)]
}

fn worlds() -> impl Strategy<Value = World> {
    let request = proptest::sample::select(vec![
        (Method::Get, "/open"),
        (Method::Post, "/register"),
        (Method::Get, "/me"),
        (Method::Get, "/gated"),
        (Method::Get, "/agents/7"),
        (Method::Post, "/agents"),
        (Method::Delete, "/agents/7"),
        (Method::Put, "/agents"),
        (Method::Get, "/none"),
    ]);
    let gateway = prop_oneof![Just(Gateway::Cp), Just(Gateway::Pp), Just(Gateway::Plant), Just(Gateway::Admin)];
    let upgrade = prop_oneof![6 => Just(Upgrade::None), 1 => Just(Upgrade::Websocket), 1 => Just(Upgrade::Other)];
    let verdict = prop_oneof![Just(RuleVerdict::Allow { target: None }), Just(RuleVerdict::Deny)];
    (policies(), gateway, request, upgrade, askers(), verdict).prop_map(|(source, gateway, (method, path), upgrade, asker, verdict)| {
        World { source, gateway, method, path, upgrade, asker, verdict }
    })
}

/// What a decision alone can refuse for.
const OF_DECISIONS: [&str; 11] = [
    "no_route",
    "feature_disabled",
    "upgrade_refused",
    "credential_missing",
    "registration_key_refused",
    "permission_missing",
    "trial_expired",
    "trial_restricted",
    "owner_missing",
    "rule_refused",
    "issuer_mismatch",
];

#[test]
fn what_is_said_to_have_to_change_takes_the_reason_away() {
    let mut runner =
        proptest::test_runner::TestRunner::new(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() });
    let reached = std::cell::RefCell::new(BTreeSet::new());
    let tried = std::cell::RefCell::new(BTreeSet::new());
    runner
        .run(&worlds(), |world| {
            let Some(reason) = world.reason() else {
                prop_assert!(world.changes().is_empty());
                return Ok(());
            };
            reached.borrow_mut().insert(reason.code());
            let changes = world.changes();
            prop_assert!(!changes.is_empty() || world.gateway == Gateway::Admin, "nothing helps against {}", reason.code());
            for change in changes {
                for changed in world.with(&change) {
                    tried.borrow_mut().insert(change.name());
                    let still = changed.reason();
                    prop_assert_ne!(still.map(DenyReason::code), Some(reason.code()), "{} does not help: {}", change.name(), change);
                }
            }
            Ok(())
        })
        .unwrap();
    let reached = reached.into_inner();
    assert!(OF_DECISIONS.iter().all(|code| reached.contains(code)), "reached only {reached:?}");
    let tried = tried.into_inner();
    let wanted = [
        "method",
        "gateway",
        "route",
        "upgrade",
        "flag_on",
        "flag_off",
        "token",
        "good_token",
        "unrevoked",
        "registration_key",
        "role",
        "permission_given",
        "trial_until",
        "paid_user",
        "route_open_to_trials",
        "customer_id",
        "governor",
        "rule_allows",
    ];
    assert!(wanted.iter().all(|name| tried.contains(name)), "tried only {tried:?}");
}

#[test]
fn every_reason_has_something_that_would_change_it_and_words_for_it() {
    let policy = compile(&PolicySource {
        flags: vec![FlagSource {
            name: "gate".into(),
            default: FlagState::Off,
            overrides: vec![],
            rollout_percent: None,
            switches: vec![],
        }],
        ..{
            let mut source = source();
            source.routes[4].flag = Some("gate".into());
            source
        }
    })
    .unwrap();
    let principal = policy.principal(identity("viewer")).unwrap();
    let facts = RequestFacts {
        gateway: Gateway::Cp,
        method: Method::Post,
        route: policy.route(Gateway::Cp, Method::Post, "/agents"),
        authentication: Authentication::Verified(&principal),
        upgrade: Upgrade::None,
    };
    let situation = Situation { policy: &policy, facts: &facts, path: "/agents", now: NOW };
    for reason in DenyReason::all() {
        let found = changes(&situation, reason);
        assert!(!found.is_empty(), "{}", reason.code());
        for change in found {
            assert!(!change.to_string().is_empty() && !change.to_string().contains("``"), "{change}");
        }
    }
    for check in Check::ALL {
        let read = decision_core::counterfactual::read_by(&situation, check);
        assert!(!read.is_empty() || check == Check::ClientLimit, "{}", check.name());
    }
}

#[test]
fn what_operators_have_arranged_is_not_the_callers_to_know() {
    let policy = compile(&source()).unwrap();
    let principal = policy.principal(identity("viewer")).unwrap();
    let authentication = Authentication::Verified(&principal);
    let mut hidden = std::collections::BTreeSet::new();
    let mut told = 0;
    for route in policy.routes() {
        let facts = RequestFacts { gateway: Gateway::Cp, method: Method::Get, route: Some(route), authentication, upgrade: Upgrade::None };
        let situation = Situation { policy: &policy, facts: &facts, path: "/", now: NOW };
        for fact in Check::ALL.into_iter().flat_map(|check| decision_core::counterfactual::read_by(&situation, check)) {
            if fact.is_callers() {
                told += 1;
            } else {
                hidden.insert(fact.name);
            }
        }
    }
    assert!(told > 100, "{told}");
    assert!(hidden.is_subset(&["flag", "forced_into", "trial_target"].into()) && hidden.contains("trial_target"), "{hidden:?}");
    for (change, is_told) in [
        (Change::FlagOn("f".into()), false),
        (Change::FlagOff("f".into()), false),
        (Change::PaidUser, true),
        (Change::Approval, true),
        (Change::RuleAllows, true),
    ] {
        assert_eq!(change.is_for_callers(), is_told, "{change}");
    }
}

#[test]
fn refusals_are_explained_with_a_permission_of_the_catalogue() {
    let with = |permission: Option<&str>| compile(&PolicySource { explained_with: permission.map(str::to_owned), ..source() });
    assert_eq!(with(None).unwrap().explained_with(), None);
    let known = source().permissions.remove(0);
    let policy = with(Some(&known)).unwrap();
    assert_eq!(policy.explained_with(), policy.catalogue().find(&known));
    let error = with(Some("no.such")).unwrap_err().to_string();
    assert!(error.starts_with("explanations.refusals: `no.such` does not exist"), "{error}");
}

#[test]
fn a_spent_budget_names_the_end_of_its_window_and_the_account() {
    let policy = compile(&source()).unwrap();
    let principal = policy.principal(identity("admin")).unwrap();
    let route = policy.route(Gateway::Cp, Method::Post, "/agents");
    let authentication = Authentication::Verified(&principal);
    let facts = RequestFacts { gateway: Gateway::Cp, method: Method::Post, route, authentication, upgrade: Upgrade::None };
    let situation = Situation { policy: &policy, facts: &facts, path: "/agents", now: NOW };
    let budget = policy.budget_by_name("agent-daily").unwrap().id;
    let texts: Vec<String> = changes(&situation, DenyReason::BudgetSpent(budget)).iter().map(Change::to_string).collect();
    assert_eq!(
        texts,
        [
            "the next window of the budget agent-daily: this one ends at 2026-01-16T00:00:00Z",
            "a higher cap of the budget agent-daily for `agent:subject=2:cp,6:user-1`, or an override account"
        ]
    );
    let revoked = DenyReason::CredentialRefused(CredentialFault::Revoked(RevocationKind::Token));
    assert_eq!(changes(&situation, revoked).len(), 2);
    let Decision::Permit(_) = decision_core::decide(&policy, &facts, NOW) else { unreachable!() };
}
