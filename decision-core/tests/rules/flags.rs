//! Feature flags: whom they are on for, what they switch, and what they never do.

use crate::cases;
use crate::fixture::{NOW, identity, source};
use decision_core::decision::{ApprovalNeed, Check, Conditional, Decision, DenyReason, Finding, RuleVerdict, Target};
use decision_core::explain::explain;
use decision_core::facts::{Authentication, RequestFacts, Upgrade};
use decision_core::flag::{Flag, FlagState, Switch};
use decision_core::gateway::{Gateway, Method};
use decision_core::policy::compile::compile;
use decision_core::policy::source::{FlagSource, OwnershipPlace, OwnershipSource, PolicySource};
use decision_core::policy::{CompiledPolicy, ExchangeKind};
use decision_core::principal::{Identity, Trial};
use decision_core::time::Timestamp;
use decision_core::{decide, decide_observed};
use proptest::prelude::*;

const CREATE: (Method, &str) = (Method::Post, "/agents");
const DELETE: (Method, &str) = (Method::Delete, "/agents/7");
const READ: (Method, &str) = (Method::Get, "/agents/7");
const OVER: Trial = Trial::Until(Timestamp::from_seconds(NOW.as_seconds() - 1));
const RUNNING: Trial = Trial::Until(Timestamp::MAX);

fn flag(name: &str, default: FlagState, switches: &[Switch]) -> FlagSource {
    FlagSource { name: name.into(), default, overrides: vec![], rollout_percent: None, switches: switches.into() }
}

/// The fixture with one flag that is off and switches this.
fn without(switches: &[Switch]) -> CompiledPolicy {
    with(&[flag("off", FlagState::Off, switches)])
}

fn with(flags: &[FlagSource]) -> CompiledPolicy {
    compile(&PolicySource { flags: flags.into(), ..source() }).unwrap()
}

/// A flag that a route names.
fn route_with(route: &str, state: FlagState) -> CompiledPolicy {
    let mut source = PolicySource { flags: vec![flag("feature", state, &[])], ..source() };
    source.routes.iter_mut().find(|known| known.name == route).unwrap().flag = Some("feature".into());
    compile(&source).unwrap()
}

fn decided(
    policy: &CompiledPolicy,
    gateway: Gateway,
    (method, path): (Method, &str),
    user: Option<Identity>,
) -> (Decision, Vec<(Check, Finding)>) {
    let principal = user.map(|identity| policy.principal(identity).unwrap());
    let authentication = principal.as_ref().map_or(Authentication::Anonymous, Authentication::Verified);
    let facts = RequestFacts { gateway, method, route: policy.route(gateway, method, path), authentication, upgrade: Upgrade::None };
    let told = explain(policy, &facts, NOW, |_conditional: &Conditional| RuleVerdict::Deny);
    (decide(policy, &facts, NOW), told.checks)
}

fn user(change: impl FnOnce(&mut Identity)) -> Option<Identity> {
    let mut identity = identity("admin");
    change(&mut identity);
    Some(identity)
}

fn reason(decision: &Decision) -> Option<DenyReason> {
    match decision {
        Decision::Deny(denial) => Some(denial.reason),
        Decision::Permit(_) | Decision::Conditional(_) => None,
    }
}

fn only(policy: &CompiledPolicy) -> &Flag {
    &policy.flags()[0]
}

fn customer(number: usize) -> Identity {
    Identity { customer_id: Some(format!("customer-{number}").into()), ..identity("viewer") }
}

#[test]
fn a_flag_is_what_its_default_says_unless_something_says_otherwise() {
    for state in [FlagState::On, FlagState::Off] {
        let policy = with(&[flag("a", state, &[Switch::Trial])]);
        assert_eq!(only(&policy).state(None), state);
        assert_eq!(only(&policy).state(Some(&customer(1))), state);
    }
}

#[test]
fn an_override_counts_more_than_a_share_and_a_share_more_than_the_default() {
    for (default, percent, state) in
        [(FlagState::Off, Some(0), FlagState::On), (FlagState::On, Some(100), FlagState::Off), (FlagState::Off, None, FlagState::On)]
    {
        let overrides = vec![("customer-2".into(), state), ("customer-1".into(), state)];
        let policy = with(&[FlagSource { overrides, rollout_percent: percent, ..flag("a", default, &[Switch::Trial]) }]);
        assert_eq!(only(&policy).state(Some(&customer(1))), state);
        assert_eq!(only(&policy).state(Some(&customer(2))), state);
        let other = percent.map_or(default, |percent| if percent == 100 { FlagState::On } else { FlagState::Off });
        assert_eq!(only(&policy).state(Some(&customer(3))), other);
        // Nobody to look up, nobody to draw a share for.
        assert_eq!(only(&policy).state(None), default);
    }
}

#[test]
fn users_without_a_customer_have_shares_of_their_own_and_users_of_one_customer_move_together() {
    let policy = with(&[FlagSource { rollout_percent: Some(50), ..flag("a", FlagState::Off, &[Switch::Trial]) }]);
    let state = |issuer: &str, subject: &str, customer: Option<&str>| {
        let of = Identity { issuer: issuer.into(), subject: subject.into(), customer_id: customer.map(Into::into), ..identity("viewer") };
        only(&policy).state(Some(&of))
    };
    let of_one: Vec<FlagState> = (0..50).map(|number| state("cp", &number.to_string(), Some("c"))).collect();
    assert!(of_one.iter().all(|state| *state == of_one[0]));
    let alone: Vec<FlagState> = (0..50).map(|number| state("cp", &number.to_string(), None)).collect();
    assert!(alone.contains(&FlagState::On) && alone.contains(&FlagState::Off));
    assert!((0..50).any(|number| state("cp", &number.to_string(), None) != state("pp", &number.to_string(), None)));
}

#[test]
fn a_share_is_about_as_large_as_it_says_and_independent_of_other_flags() {
    let share = |name: &str, percent| FlagSource { rollout_percent: Some(percent), ..flag(name, FlagState::Off, &[Switch::Trial]) };
    let policy = with(&[share("a", 30), share("b", 30), share("c", 0), share("d", 100)]);
    let on = |flag: usize, number: usize| policy.flags()[flag].state(Some(&customer(number))) == FlagState::On;
    let count = |of: &dyn Fn(usize) -> bool| (0..10_000).filter(|number| of(*number)).count();
    assert!((2_800..3_200).contains(&count(&|number| on(0, number))));
    assert!((2_800..3_200).contains(&count(&|number| on(1, number))));
    assert!((750..1_050).contains(&count(&|number| on(0, number) && on(1, number))), "0.3 × 0.3 of 10,000");
    assert_eq!((count(&|number| on(2, number)), count(&|number| on(3, number))), (0, 10_000));
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn whoever_is_in_a_share_stays_in_as_it_grows(name in "[a-z_]{1,12}", customer in prop::option::of("[a-z0-9-]{1,12}"), subject in "[a-z0-9]{1,12}") {
        let of = Identity { customer_id: customer.map(Into::into), subject: subject.into(), ..identity("viewer") };
        let mut last = FlagState::Off;
        for percent in 0..=100 {
            let policy = with(&[FlagSource { rollout_percent: Some(percent), ..flag(&name, FlagState::Off, &[Switch::Trial]) }]);
            let state = only(&policy).state(Some(&of));
            prop_assert!(last == FlagState::Off || state == FlagState::On, "out again at {percent}");
            last = state;
        }
        prop_assert_eq!(last, FlagState::On);
    }

    #[test]
    fn no_flags_ever_let_anyone_in_whom_authentication_or_ownership_refuses(
        states in prop::collection::vec(any::<bool>(), 6), owned in any::<bool>(), anonymous in any::<bool>(), gateway in prop::sample::select(&Gateway::ALL[..]),
    ) {
        let flags: Vec<FlagSource> = Switch::ALL.into_iter().zip(states).enumerate()
            .map(|(index, (switch, on))| flag(&format!("flag-{index}"), if on { FlagState::On } else { FlagState::Off }, &[switch]))
            .collect();
        let mut source = PolicySource { flags, ..source() };
        let route = source.routes.iter_mut().find(|route| route.name == "me").unwrap();
        route.gateways = Gateway::ALL.into();
        route.ownership = owned.then(|| OwnershipSource { place: OwnershipPlace::Query, name: "customer_id".into() });
        source.issuers[0].gateways = Gateway::ALL.into();
        let policy = compile(&source).unwrap();
        let nobody_s = user(|identity| identity.customer_id = None).filter(|_| !anonymous);
        let (decision, checks) = decided(&policy, gateway, (Method::Get, "/me"), nobody_s);
        if anonymous {
            prop_assert_eq!(reason(&decision), Some(DenyReason::CredentialMissing));
        } else if owned {
            prop_assert_eq!(reason(&decision), Some(DenyReason::OwnerMissing));
        }
        let skipped = |check| checks.contains(&(check, Finding::SkippedByFlag));
        prop_assert!(![Check::Path, Check::Route, Check::ClientLimit, Check::Authentication, Check::Ownership].into_iter().any(skipped));
    }
}

#[test]
fn a_skipped_permission_lets_any_role_through_and_is_told() {
    let viewer = || user(|identity| identity.roles = vec!["viewer".into()]);
    let (decision, _) = decided(&with(&[]), Gateway::Plant, CREATE, viewer());
    assert_eq!(reason(&decision), Some(DenyReason::PermissionMissing));
    let (decision, checks) = decided(&without(&[Switch::Permission]), Gateway::Plant, CREATE, viewer());
    assert!(matches!(decision, Decision::Permit(_)));
    assert!(checks.contains(&(Check::Permission, Finding::SkippedByFlag)));
    // On CP nothing is skipped: nothing is asked there.
    let (_, checks) = decided(&without(&[Switch::Permission]), Gateway::Cp, CREATE, viewer());
    assert!(!checks.iter().any(|(check, _)| *check == Check::Permission));
}

#[test]
fn a_skipped_trial_neither_ends_nor_is_kept_out() {
    for trial in [OVER, RUNNING] {
        let on_trial = || user(|identity| (identity.trial, identity.governor_agent_id) = (trial, Some("g-1".into())));
        let expected = if trial == OVER { DenyReason::TrialExpired } else { DenyReason::TrialRestricted };
        assert_eq!(reason(&decided(&with(&[]), Gateway::Plant, DELETE, on_trial()).0), Some(expected));
        let (decision, checks) = decided(&without(&[Switch::Trial]), Gateway::Plant, DELETE, on_trial());
        let Decision::Permit(permit) = decision else { panic!("{decision:?}") };
        // The sandbox is another switch.
        assert_eq!(permit.target(), Target::Sandbox);
        assert!(checks.contains(&(Check::Trial, Finding::SkippedByFlag)));
    }
}

#[test]
fn a_skipped_approval_asks_no_governor() {
    let admin = || user(|_| {});
    let need = |policy: &CompiledPolicy| match decided(policy, Gateway::Plant, DELETE, admin()) {
        (Decision::Permit(permit), checks) => (permit.approval(), checks.contains(&(Check::Approval, Finding::SkippedByFlag))),
        (other, _) => panic!("{other:?}"),
    };
    assert_eq!(need(&with(&[])), (ApprovalNeed::Governor, false));
    assert_eq!(need(&without(&[Switch::Approval])), (ApprovalNeed::None, true));
    // What needs none skips none.
    assert!(!decided(&without(&[Switch::Approval]), Gateway::Plant, READ, admin()).1.iter().any(|(check, _)| *check == Check::Approval));
}

#[test]
fn skipped_routing_sends_trials_to_production() {
    let on_trial = || user(|identity| identity.trial = RUNNING);
    let target = |policy: &CompiledPolicy| match decided(policy, Gateway::Plant, READ, on_trial()) {
        (Decision::Permit(permit), checks) => (permit.target(), checks.contains(&(Check::Routing, Finding::SkippedByFlag))),
        (other, _) => panic!("{other:?}"),
    };
    assert_eq!(target(&with(&[])), (Target::Sandbox, false));
    assert_eq!(target(&without(&[Switch::Routing])), (Target::Production, true));
}

#[test]
fn a_skipped_budget_charges_nobody() {
    let charged = |policy: &CompiledPolicy| match decided(policy, Gateway::Plant, CREATE, user(|_| {})) {
        (Decision::Permit(permit), checks) => (permit.charges().iter().count(), checks.contains(&(Check::Budget, Finding::SkippedByFlag))),
        (other, _) => panic!("{other:?}"),
    };
    assert_eq!(charged(&with(&[])), (3, false));
    assert_eq!(charged(&without(&[Switch::Budget])), (0, true));
}

#[test]
fn skipped_rules_are_not_asked() {
    let policy = |flags: Vec<FlagSource>| compile(&PolicySource { flags, rules: Some(vec![Gateway::Plant]), ..source() }).unwrap();
    let judged = policy(vec![]);
    assert!(matches!(decided(&judged, Gateway::Plant, READ, user(|_| {})).0, Decision::Conditional(_)));
    assert!(matches!(decided(&judged, Gateway::Cp, READ, user(|_| {})).0, Decision::Permit(_)), "rules judge their gateways only");
    let (decision, checks) = decided(&policy(vec![flag("off", FlagState::Off, &[Switch::Rules])]), Gateway::Plant, READ, user(|_| {}));
    assert!(matches!(decision, Decision::Permit(_)));
    assert_eq!(checks.last(), Some(&(Check::Rules, Finding::SkippedByFlag)));
}

#[test]
fn a_flag_that_is_on_changes_nothing_and_several_flags_add_up() {
    let on = with(&[flag("on", FlagState::On, &Switch::ALL)]);
    let viewer = || user(|identity| (identity.roles, identity.trial) = (vec!["viewer".into()], OVER));
    assert_eq!(reason(&decided(&on, Gateway::Plant, DELETE, viewer()).0), Some(DenyReason::PermissionMissing));
    let all_off: Vec<FlagSource> =
        Switch::ALL.into_iter().enumerate().map(|(index, switch)| flag(&format!("off-{index}"), FlagState::Off, &[switch])).collect();
    let (decision, checks) = decided(&with(&all_off), Gateway::Plant, DELETE, viewer());
    let Decision::Permit(permit) = decision else { panic!("{decision:?}") };
    assert_eq!((permit.target(), permit.approval(), permit.charges().is_empty()), (Target::Production, ApprovalNeed::None, true));
    assert_eq!(checks.iter().filter(|(_, finding)| *finding == Finding::SkippedByFlag).count(), 5);
}

#[test]
fn nothing_is_switched_off_on_the_control_plane_s_own_api() {
    let mut source = PolicySource { flags: vec![flag("off", FlagState::Off, &Switch::ALL)], ..source() };
    source.issuers[0].gateways = Gateway::ALL.into();
    for route in &mut source.routes {
        route.gateways = Gateway::ALL.into();
        route.governor_approval = false;
    }
    let policy = compile(&source).unwrap();
    let viewer = || user(|identity| identity.roles = vec!["viewer".into()]);
    assert_eq!(reason(&decided(&policy, Gateway::Plant, CREATE, viewer()).0), None);
    assert_eq!(reason(&decided(&policy, Gateway::Admin, CREATE, viewer()).0), Some(DenyReason::PermissionMissing));
    let over = user(|identity| identity.trial = OVER);
    assert_eq!(reason(&decided(&policy, Gateway::Admin, CREATE, over).0), Some(DenyReason::TrialExpired));
    // Nor is a route of it switched: that is an error when the policy is compiled.
    source.routes.iter_mut().find(|route| route.name == "me").unwrap().flag = Some("off".into());
    let error = compile(&source).unwrap_err().to_string();
    assert!(error.contains("routes[me]") && error.contains("ADMIN"), "{error}");
}

#[test]
fn a_route_whose_flag_is_off_is_not_there() {
    for (route, request, identified) in
        [("open", (Method::Get, "/open"), false), ("me", (Method::Get, "/me"), true), ("agents.create", CREATE, true)]
    {
        let who = || user(|_| {}).filter(|_| identified);
        assert_eq!(reason(&decided(&route_with(route, FlagState::On), Gateway::Cp, request, who()).0), None, "{route}");
        let (decision, checks) = decided(&route_with(route, FlagState::Off), Gateway::Cp, request, who());
        assert_eq!(reason(&decision), Some(DenyReason::FeatureDisabled), "{route}");
        assert_eq!(checks.last(), Some(&(Check::Route, Finding::Refused(DenyReason::FeatureDisabled))));
    }
    // A token is asked for first: for whom the flag is on is not known before.
    let (decision, _) = decided(&route_with("me", FlagState::Off), Gateway::Cp, (Method::Get, "/me"), None);
    assert_eq!(reason(&decision), Some(DenyReason::CredentialMissing));
}

#[test]
fn a_registration_has_the_flag_s_default_whoever_registers() {
    for (state, expected) in [(FlagState::On, None), (FlagState::Off, Some(DenyReason::FeatureDisabled))] {
        let policy = route_with("register", state);
        let route = policy.route(Gateway::Cp, Method::Post, "/register");
        let facts = RequestFacts {
            gateway: Gateway::Cp,
            method: Method::Post,
            route,
            authentication: Authentication::Registered,
            upgrade: Upgrade::None,
        };
        assert_eq!(reason(&decide_observed(&policy, &facts, NOW, &mut ())), expected);
    }
}

#[test]
fn an_upgrade_is_refused_unless_the_route_is_for_it_and_so_is_its_absence() {
    let mut source = source();
    source.routes.iter_mut().find(|route| route.name == "me").unwrap().exchange = ExchangeKind::Websocket;
    source.routes.iter_mut().find(|route| route.name == "agents.read").unwrap().exchange = ExchangeKind::Stream;
    let policy = compile(&source).unwrap();
    let principal = policy.principal(identity("admin")).unwrap();
    let refused = |path: &str, upgrade| {
        let route = policy.route(Gateway::Cp, Method::Get, path);
        let facts = RequestFacts {
            gateway: Gateway::Cp,
            method: Method::Get,
            route,
            authentication: Authentication::Verified(&principal),
            upgrade,
        };
        reason(&decide(&policy, &facts, NOW)) == Some(DenyReason::UpgradeRefused)
    };
    for (path, allowed) in [("/me", Upgrade::Websocket), ("/agents/7", Upgrade::None), ("/open", Upgrade::None)] {
        for upgrade in [Upgrade::None, Upgrade::Websocket, Upgrade::Other] {
            assert_eq!(refused(path, upgrade), upgrade != allowed, "{path} {upgrade:?}");
        }
    }
}
