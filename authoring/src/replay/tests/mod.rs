//! Replay says what deciding the very request says, wherever it says anything.

use super::*;
use crate::cases::{NOW, read_directory};
use crate::directory;
use crate::evaluate::{Asker, Candidate, NoRules, asker};
use decision_core::decide;
use decision_core::decision::{ApprovalNeed, Decision, Denial, DenyReason, Permit};
use decision_core::facts::{Authentication, RequestFacts, Upgrade};
use decision_core::gateway::{Gateway, Method};
use decision_core::obligations::Obligations;
use decision_core::path::CanonicalPath;
use decision_core::policy::CompiledPolicy;
use decision_core::policy::Requirement;
use decision_core::policy::compile::compile;
use decision_core::policy::source::{PolicySource, RequirementSource};
use decision_core::principal::{CredentialFault, Identity, Principal};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// A request with everything that it presents, whether anybody looks at it or not.
#[derive(Clone, Debug)]
struct Whole {
    gateway: Gateway,
    method: String,
    path: String,
    upgrade: Upgrade,
    asker: Asker,
}

/// The requests of all golden cases of the shipped policy, and that policy.
fn shipped() -> &'static (PolicySource, Vec<Whole>) {
    static SHIPPED: OnceLock<(PolicySource, Vec<Whole>)> = OnceLock::new();
    SHIPPED.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
        let files = directory::read(&folder).unwrap();
        let candidate = Candidate::new(files).unwrap();
        let whole = |case: &crate::cases::Case| Whole {
            gateway: case.gateway.into(),
            method: case.method.clone(),
            path: case.path.clone(),
            upgrade: case.upgrade.map_or(Upgrade::None, Into::into),
            asker: asker(&candidate.document, &candidate.bundle, case),
        };
        let requests = read_directory(&folder).unwrap().iter().map(|filed| whole(&filed.case)).collect();
        (candidate.document.to_source(), requests)
    })
}

/// What the filter would know and decide.
struct Seen<'p> {
    principal: Option<Principal>,
    route: Option<&'p str>,
    decided: Result<Permit, Denial>,
}

/// As the filter decides: it looks at what the route asks for, and at nothing else.
fn seen<'p>(policy: &'p CompiledPolicy, whole: &Whole) -> Seen<'p> {
    let path = match CanonicalPath::parse(whole.path.as_bytes()) {
        Ok(path) => path,
        Err(fault) => {
            let denial = Denial { reason: DenyReason::AmbiguousPath(fault), route: None };
            return Seen { principal: None, route: None, decided: Err(denial) };
        }
    };
    let Some(method) = Method::parse(whole.method.as_bytes()) else {
        return Seen { principal: None, route: None, decided: Err(Denial { reason: DenyReason::NoRoute, route: None }) };
    };
    let route = policy.route(whole.gateway, method, path.path());
    let token = matches!(route.map(|route| route.requirement), Some(Requirement::Authenticated | Requirement::Permission(_)));
    let key = route.is_some_and(|route| route.requirement == Requirement::RegistrationKey);
    let verified = match &whole.asker {
        Asker::Verified(principal) if token => Some(policy.principal(principal.identity.clone())),
        Asker::Anonymous | Asker::Registered | Asker::Verified(_) | Asker::Refused(_) => None,
    };
    let authentication = match (&whole.asker, &verified) {
        (_, Some(Some(principal))) => Authentication::Verified(principal),
        (_, Some(None)) => Authentication::Refused(CredentialFault::NoKnownRole),
        (Asker::Refused(fault), None) if token => Authentication::Refused(*fault),
        (Asker::Registered, None) if key => Authentication::Registered,
        (Asker::Anonymous | Asker::Registered | Asker::Verified(_) | Asker::Refused(_), None) => Authentication::Anonymous,
    };
    let facts = RequestFacts { gateway: whole.gateway, method, route, authentication, upgrade: whole.upgrade };
    let decided = match decide(policy, &facts, NOW) {
        Decision::Permit(permit) => unscoped(policy, permit, verified.as_ref().and_then(Option::as_ref)),
        Decision::Deny(denial) => Err(denial),
        Decision::Conditional(conditional) => conditional.ruled(decision_core::decision::RuleVerdict::Deny, &mut ()),
    };
    Seen { principal: verified.flatten(), route: route.map(|route| &*route.name), decided }
}

/// As leases refuse it.
fn unscoped(policy: &CompiledPolicy, permit: Permit, principal: Option<&Principal>) -> Result<Permit, Denial> {
    let lacks =
        |id| principal.is_some_and(|principal| policy.budget(id).unwrap().scope.write_scope(principal, &mut String::new()).is_err());
    let found = permit.charges().iter().map(|charge| charge.budget).find(|id| lacks(*id));
    match found {
        Some(id) => Err(Denial { reason: DenyReason::BudgetUnscoped(id), route: Some(permit.route()) }),
        None => Ok(permit),
    }
}

/// What is kept of it.
struct Kept {
    path: String,
    roles: Vec<String>,
    charges: Vec<(String, i64)>,
    outcome: RecordedOutcome,
    reason: &'static str,
    sandbox: bool,
    approval: bool,
}

impl Kept {
    fn of(policy: &CompiledPolicy, whole: &Whole, seen: &Seen<'_>, approved: bool) -> Self {
        let path = whole.path.split('?').next().unwrap().chars().take(1_024).collect();
        let roles = seen.principal.as_ref().map(|principal| principal.roles_joined.split(',').map(str::to_owned).collect());
        let (mut outcome, mut reason, mut sandbox, mut approval, mut charges) = (RecordedOutcome::Permit, "ok", false, false, Vec::new());
        match &seen.decided {
            Ok(permit) => {
                sandbox = permit.target() == decision_core::decision::Target::Sandbox;
                approval = permit.approval() == ApprovalNeed::Governor;
                let charged =
                    |charge: decision_core::decision::Charge| (policy.budget(charge.budget).unwrap().name.to_string(), charge.amount.get());
                charges = permit.charges().iter().map(charged).collect();
                if approval && !approved {
                    (outcome, reason) = (RecordedOutcome::Deny, DenyReason::ApprovalRequired.code());
                    charges.iter_mut().for_each(|(_, amount)| *amount = 0);
                }
            }
            Err(denial) => (outcome, reason) = (RecordedOutcome::Deny, denial.reason.code()),
        }
        Self { path, roles: roles.unwrap_or_default(), charges, outcome, reason, sandbox, approval }
    }

    fn recorded<'r>(&'r self, whole: &'r Whole, seen: &'r Seen<'_>, charges: &'r [RecordedCharge<'r>]) -> RecordedRequest<'r> {
        let user = seen.principal.as_ref().map(|principal| {
            let identity: &Identity = &principal.identity;
            RecordedUser {
                issuer: &identity.issuer,
                subject: &identity.subject,
                user_id: &identity.user_id,
                email: None,
                customer_id: identity.customer_id.as_deref(),
                agent_id: identity.agent_id.as_deref(),
                governor_agent_id: identity.governor_agent_id.as_deref(),
                roles: &self.roles,
                tier: identity.tier.as_deref(),
                trial: Some(identity.trial),
            }
        });
        RecordedRequest {
            request_id: "request",
            correlation_id: "correlation",
            at: NOW,
            gateway: whole.gateway,
            method: Some(&whole.method),
            path: Some(&self.path),
            upgrade: whole.upgrade,
            user,
            outcome: self.outcome,
            reason: self.reason,
            route: seen.route,
            sandbox: self.sandbox,
            approval: self.approval,
            charges,
            failed_open: false,
            usage: None,
            revision: 1,
            sampled_of: 1,
        }
    }
}

fn with_record<T>(policy: &CompiledPolicy, whole: &Whole, approved: bool, use_it: impl FnOnce(&RecordedRequest<'_>, &Seen<'_>) -> T) -> T {
    let seen = seen(policy, whole);
    let kept = Kept::of(policy, whole, &seen, approved);
    let charges: Vec<RecordedCharge<'_>> = kept.charges.iter().map(|(budget, amount)| RecordedCharge { budget, amount: *amount }).collect();
    use_it(&kept.recorded(whole, &seen, &charges), &seen)
}

#[test]
fn what_was_decided_is_the_same_under_the_same_policy() {
    let (source, requests) = shipped();
    let policy = compile(source).unwrap();
    let mut replay = Replay::new(&policy, &[]);
    let mut own = Side::new(Arc::new(compile(source).unwrap()));
    let mut reasons = BTreeSet::new();
    for whole in requests {
        for approved in [false, true] {
            with_record(&policy, whole, approved, |recorded, _seen| {
                reasons.insert(recorded.reason.to_owned());
                let verdict = replay.judge(recorded, Some(&mut own), &mut NoRules);
                let forgotten = recorded.reason == "no_known_role";
                match verdict.outcome {
                    Outcome::Same => {}
                    Outcome::Undecidable(Why::UserForgotten) if forgotten => {}
                    other @ (Outcome::Different(_) | Outcome::Undecidable(_)) => panic!("{whole:?} as {recorded:?} is {other:?}"),
                }
                assert!(verdict.spending.budgets.iter().all(|(_, before, after)| before == after), "{recorded:?}: {:?}", verdict.spending);
                // Without the policy that decided less is known, and nothing else is said.
                let alone = replay.judge(recorded, None, &mut NoRules).outcome;
                assert!(!matches!(alone, Outcome::Different(_)), "{recorded:?}: {alone:?}");
            });
        }
    }
    assert!(reasons.len() > 20, "{reasons:?}");
}

/// Something that an operator may change.
#[derive(Clone, Debug)]
enum Edit {
    DropRoute(prop::sample::Index),
    Require(prop::sample::Index, RequirementSource),
    OtherPermission(prop::sample::Index, prop::sample::Index),
    Gateways(prop::sample::Index, Vec<Gateway>),
    CloseToTrials(prop::sample::Index, bool),
    Approval(prop::sample::Index, bool),
    Cost(prop::sample::Index, i64),
    TakePermission(prop::sample::Index, prop::sample::Index),
    GivePermission(prop::sample::Index, prop::sample::Index),
    IssuerRoles(prop::sample::Index, prop::sample::Index),
    IssuerGateways(prop::sample::Index, Vec<Gateway>),
    Flag(prop::sample::Index, decision_core::flag::FlagState),
    Limit(prop::sample::Index),
    Rewrite(prop::sample::Index),
    NoRules,
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let gateways = || prop::sample::subsequence(Gateway::ALL.to_vec(), 1..=4);
    let index = any::<prop::sample::Index>;
    let require = prop_oneof![
        Just(RequirementSource::Public),
        Just(RequirementSource::RegistrationKey),
        Just(RequirementSource::Authenticated),
        Just(RequirementSource::Permission)
    ];
    let state = prop_oneof![Just(decision_core::flag::FlagState::On), Just(decision_core::flag::FlagState::Off)];
    let edit = prop_oneof![
        index().prop_map(Edit::DropRoute),
        (index(), require).prop_map(|(route, require)| Edit::Require(route, require)),
        (index(), index()).prop_map(|(route, permission)| Edit::OtherPermission(route, permission)),
        (index(), gateways()).prop_map(|(route, gateways)| Edit::Gateways(route, gateways)),
        (index(), any::<bool>()).prop_map(|(route, closed)| Edit::CloseToTrials(route, closed)),
        (index(), any::<bool>()).prop_map(|(route, approval)| Edit::Approval(route, approval)),
        (index(), 0..5_000_i64).prop_map(|(route, cost)| Edit::Cost(route, cost)),
        (index(), index()).prop_map(|(role, permission)| Edit::TakePermission(role, permission)),
        (index(), index()).prop_map(|(role, permission)| Edit::GivePermission(role, permission)),
        (index(), index()).prop_map(|(issuer, role)| Edit::IssuerRoles(issuer, role)),
        (index(), gateways()).prop_map(|(issuer, gateways)| Edit::IssuerGateways(issuer, gateways)),
        (index(), state).prop_map(|(flag, state)| Edit::Flag(flag, state)),
        index().prop_map(Edit::Limit),
        index().prop_map(Edit::Rewrite),
        Just(Edit::NoRules),
    ];
    prop::collection::vec(edit, 1..60)
}

/// The policy with as many of the edits as leave it one that compiles.
fn edited(source: &PolicySource, edits: &[Edit]) -> (PolicySource, CompiledPolicy) {
    let mut good = source.clone();
    let mut compiled = compile(&good).unwrap();
    for edit in edits {
        let mut next = good.clone();
        apply(&mut next, edit);
        if let Ok(policy) = compile(&next) {
            (good, compiled) = (next, policy);
        }
    }
    (good, compiled)
}

fn apply(source: &mut PolicySource, edit: &Edit) {
    let limit = source.routes.iter().find_map(|route| route.limit.clone());
    let permissions = source.permissions.clone();
    let roles: Vec<String> = source.roles.iter().map(|role| role.name.clone()).collect();
    let at = |index: &prop::sample::Index, length: usize| index.index(length.max(1));
    let routes = source.routes.len();
    let mut route = |index: &prop::sample::Index, change: &dyn Fn(&mut decision_core::policy::source::RouteSource)| {
        change(&mut source.routes[at(index, routes)]);
    };
    match edit {
        Edit::DropRoute(index) => drop(source.routes.remove(at(index, routes))),
        Edit::Require(index, require) => route(index, &|route| {
            route.require = *require;
            if *require != RequirementSource::Permission {
                route.permission = None;
            }
            if matches!(require, RequirementSource::Public | RequirementSource::RegistrationKey) {
                (route.cost_micros, route.tasks, route.governor_approval, route.closed_to_trials) = (Some(0), 0, false, false);
                route.ownership = None;
            }
        }),
        Edit::OtherPermission(index, permission) => route(index, &|route| {
            if route.require == RequirementSource::Permission {
                route.permission = Some(permissions[at(permission, permissions.len())].clone());
            }
        }),
        Edit::Gateways(index, gateways) => route(index, &|route| route.gateways.clone_from(gateways)),
        Edit::CloseToTrials(index, closed) => route(index, &|route| route.closed_to_trials = *closed),
        Edit::Approval(index, approval) => route(index, &|route| route.governor_approval = *approval),
        Edit::Cost(index, cost) => route(index, &|route| route.cost_micros = Some(*cost)),
        Edit::Limit(index) => route(index, &|route| route.limit.clone_from(&limit)),
        Edit::Rewrite(index) => route(index, &|route| route.rewrite = Some("/elsewhere".into())),
        Edit::TakePermission(role, permission) => {
            let index = at(role, roles.len());
            let held = &mut source.roles[index].permissions;
            if !held.is_empty() {
                let index = at(permission, held.len());
                held.remove(index);
            }
        }
        Edit::GivePermission(role, permission) => {
            let index = at(role, roles.len());
            let permission = permissions[at(permission, permissions.len())].clone();
            if !source.roles[index].permissions.contains(&permission) {
                source.roles[index].permissions.push(permission);
            }
        }
        Edit::IssuerRoles(issuer, role) => {
            let index = at(issuer, source.issuers.len());
            let role = roles[at(role, roles.len())].clone();
            let assignable = &mut source.issuers[index].roles;
            if assignable.contains(&role) { assignable.retain(|known| *known != role) } else { assignable.push(role) }
        }
        Edit::IssuerGateways(issuer, gateways) => {
            let index = at(issuer, source.issuers.len());
            source.issuers[index].gateways.clone_from(gateways);
        }
        Edit::Flag(flag, state) => {
            let index = at(flag, source.flags.len());
            if let Some(flag) = source.flags.get_mut(index) {
                flag.default = *state;
            }
        }
        Edit::NoRules => source.rules = None,
    }
}

/// What replay says, against what deciding the whole request says.
fn check(recorded: &RecordedRequest<'_>, outcome: &Outcome, then: (&CompiledPolicy, &Seen<'_>), now: (&CompiledPolicy, &Seen<'_>)) {
    let code = |decided: &Result<Permit, Denial>| match decided {
        Ok(_) => "ok",
        Err(denial) => denial.reason.code(),
    };
    let told = || format!("{recorded:?} is {outcome:?}, and decided {:?} -> {:?}", then.1.decided, now.1.decided);
    match (outcome, &then.1.decided, &now.1.decided) {
        (Outcome::Undecidable(_), _, _) => {}
        (Outcome::Same, Ok(before), Ok(after)) => {
            let (before, after) = (Obligations::of(then.0, before), Obligations::of(now.0, after));
            assert_eq!(before.differences(&after).next().filter(|_| recorded.outcome == RecordedOutcome::Permit), None, "{}", told());
        }
        (Outcome::Same, before, after) => assert_eq!(code(before), code(after), "{}", told()),
        (Outcome::Different(difference), before, after) => {
            assert_ne!(difference.before, difference.after, "{}", told());
            if let (Ok(before), Ok(after)) = (before, after) {
                let (before, after) = (Obligations::of(then.0, before), Obligations::of(now.0, after));
                assert!(before.differences(&after).next().is_some(), "{}", told());
            } else {
                assert_ne!(code(before), code(after), "{}", told());
                if after.is_err() {
                    assert_eq!(difference.after, code(after), "{}", told());
                }
            }
        }
    }
}

#[test]
fn what_replay_says_is_what_deciding_the_request_says() {
    let (source, requests) = shipped();
    let config = ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() };
    let counts = std::cell::RefCell::new(BTreeMap::<String, u64>::new());
    proptest::test_runner::TestRunner::new(config)
        .run(&(edits(), edits()), |(before, after)| {
            let (then_source, then) = edited(source, &before);
            let then = Arc::new(then);
            let (_, now) = edited(&then_source, &after);
            let mut replay = Replay::new(&now, &[]);
            let mut own = Side::new(Arc::clone(&then));
            for whole in requests {
                for approved in [false, true] {
                    with_record(&then, whole, approved, |recorded, was| {
                        let outcome = replay.judge(recorded, Some(&mut own), &mut NoRules).outcome;
                        let is = seen(&now, whole);
                        let key = match &outcome {
                            Outcome::Same => "same".to_owned(),
                            Outcome::Different(difference) => format!("different {}", difference.aspect),
                            Outcome::Undecidable(why) => format!("undecidable {}", why.name()),
                        };
                        *counts.borrow_mut().entry(key).or_default() += 1;
                        check(recorded, &outcome, (&then, was), (&now, &is));
                    });
                }
            }
            Ok(())
        })
        .unwrap();
    let counts = counts.into_inner();
    println!("{counts:?}");
    for aspect in ["route", "authentication", "permission", "trial", "approval", "budget", "rewrite", "client_limit"] {
        assert!(counts.contains_key(&format!("different {aspect}")), "{aspect} was never different: {counts:?}");
    }
    for why in [Why::CredentialNotLookedAt, Why::UserForgotten, Why::RolesForgotten] {
        assert!(counts.contains_key(&format!("undecidable {}", why.name())), "{} never happened: {counts:?}", why.name());
    }
    let undecidable: u64 = counts.iter().filter(|(key, _)| key.starts_with("undecidable")).map(|(_, count)| count).sum();
    let all: u64 = counts.values().sum();
    assert!(undecidable * 5 < all, "most of it can be told: {counts:?}");
}

mod golden;
