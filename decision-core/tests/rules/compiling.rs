//! What makes a policy no policy. Every error names its place.

use crate::fixture::source;
use decision_core::budget::Rhythm;
use decision_core::gateway::{Gateway, Method};
use decision_core::permission::{InvalidCatalogue, PermissionCatalogue};
use decision_core::policy::CompiledPolicy;
use decision_core::policy::compile::{CompileError, compile};
use decision_core::policy::source::{BudgetSource, PolicySource, RequirementSource, RoleSource};

/// What the compiler says, and what makes it say so.
type Wrong = (&'static str, fn(&mut PolicySource));

fn error(change: impl FnOnce(&mut PolicySource)) -> CompileError {
    compiled(change).map(|_| ()).unwrap_err()
}

fn compiled(change: impl FnOnce(&mut PolicySource)) -> Result<CompiledPolicy, CompileError> {
    let mut source = source();
    change(&mut source);
    compile(&source)
}

fn text(change: impl FnOnce(&mut PolicySource)) -> String {
    error(change).to_string()
}

#[test]
fn a_name_that_stands_twice_is_refused_where_it_stands() {
    let twice: [Wrong; 6] = [
        ("issuers[cp]: the name `cp` is used twice", |source| source.issuers[1].name = "cp".into()),
        ("roles[admin]: the name `admin` is used twice", |source| source.roles[1].name = "admin".into()),
        ("roles[viewer]: the name `admin` is used twice", |source| source.roles[1].aliases.push("admin".into())),
        ("routes[me]: the name `me` is used twice", |source| source.routes[0].name = "me".into()),
        ("budgets[agent-daily]: the name `agent-daily` is used twice", |source| source.budgets[0].name = "agent-daily".into()),
        ("permissions: the catalogue is not valid", |source| source.permissions.push("agent.read".into())),
    ];
    for (expected, change) in twice {
        assert_eq!(text(change), expected);
    }
    assert!(matches!(error(twice[0].1), CompileError::Repeated { .. }));
    assert!(matches!(error(twice[5].1), CompileError::Catalogue(InvalidCatalogue::Repeated { .. })));
}

#[test]
fn a_name_that_refers_to_nothing_is_answered_with_the_nearest_that_exists() {
    let unknown: [Wrong; 6] = [
        ("routes[agents.read].permission: `agent.raed` does not exist; the nearest name is `agent.read`", |source| {
            source.routes[3].permission = Some("agent.raed".into());
        }),
        ("roles[viewer].permissions: `agent.reed` does not exist; the nearest name is `agent.read`", |source| {
            source.roles[1].permissions = vec!["agent.reed".into()];
        }),
        ("issuers[pp].roles: `viewr` does not exist; the nearest name is `viewer`", |source| {
            source.issuers[1].roles = vec!["viewr".into()]
        }),
        ("budgets[trial-tasks].tier: `payed` does not exist; the nearest name is `paid`", |source| {
            source.budgets[0].tier = Some("payed".into());
        }),
        ("budgets[trial-tasks].problem: `rate-limit` does not exist; the nearest name is `trial-limit-exceeded`", |source| {
            source.budgets[0].problem = Some("rate-limit".into());
        }),
        ("budgets[trial-tasks].scope: `q` does not exist", |source| source.budgets[0].scope = "x:{q}".into()),
    ];
    for (expected, change) in unknown {
        assert!(matches!(error(change), CompileError::Unknown { .. }));
        let (start, _) = expected.split_once(';').unwrap_or((expected, ""));
        assert!(text(change).starts_with(start), "{} {expected}", text(change));
    }
    assert_eq!(text(unknown[0].1), unknown[0].0);
    assert_eq!(text(unknown[5].1), unknown[5].0);
}

#[test]
fn a_path_that_is_no_template_is_refused_with_its_fault() {
    let error = error(|source| source.routes[0].path = "/a//b".into());
    assert_eq!(error.to_string(), "routes[open].path: the path `/a//b` is not a template");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "has an empty or dot segment");
}

#[test]
fn two_routes_for_the_same_requests_are_refused_and_both_are_named() {
    let same = |source: &mut PolicySource| {
        let mut other = source.routes[3].clone();
        (other.name, other.path) = ("agents.show".into(), "/agents/{agent}".into());
        source.routes.push(other);
    };
    assert_eq!(text(same), "routes[agents.show]: accepts the same requests as route `agents.read`");
    // Another method, or another gateway, is another request.
    assert!(
        compiled(|source| {
            same(source);
            source.routes[6].methods = vec![Method::Put];
        })
        .is_ok()
    );
    assert!(
        compiled(|source| {
            same(source);
            source.routes[6].gateways = vec![Gateway::Admin];
        })
        .is_ok()
    );
}

#[test]
fn a_value_out_of_its_range_is_refused_with_what_it_must_be() {
    let out: [Wrong; 11] = [
        ("settings.no_route_status: `200` is not 403 or 404", |source| source.settings.no_route_status = 200),
        ("settings.cost_micros_default: `-1` is not 0 or more", |source| source.settings.cost_micros_default = -1),
        ("budgets[trial-tasks].cap: `-1` is not 0 or more", |source| source.budgets[0].cap = -1),
        ("budgets[trial-tasks].status: `200` is not a status from 400 to 599", |source| source.budgets[0].status = Some(200)),
        ("budgets[trial-tasks].scope: `` is not a template such as `agent:{agent_id|subject}`", |source| source.budgets[0].scope.clear()),
        ("budgets[trial-tasks].scope: `a}` is not a template such as `agent:{agent_id|subject}`", |source| {
            source.budgets[0].scope = "a}".into()
        }),
        ("budgets[trial-tasks].scope: `a{subject` is not a template with closed braces", |source| {
            source.budgets[0].scope = "a{subject".into()
        }),
        ("routes[me].cost_micros: `-5` is not 0 or more", |source| source.routes[2].cost_micros = Some(-5)),
        ("routes[me].tasks: `-1` is not 0 or more", |source| source.routes[2].tasks = -1),
        ("roles[admin].name: `a,b` is not a name without commas", |source| source.roles[0].aliases = vec!["a,b".into()]),
        ("roles[].name: `` is not a name without commas", |source| source.roles[0].name.clear()),
    ];
    for (expected, change) in out {
        assert!(matches!(error(change), CompileError::Range { .. }));
        assert_eq!(text(change), expected);
    }
}

#[test]
fn fields_that_do_not_go_together_are_refused() {
    let user = "approvals, trials and charges need a user: `require: authenticated` or `require: permission`";
    let pairs: [Wrong; 10] = [
        ("issuers[cp].gateways: an issuer needs at least one gateway", |source| source.issuers[0].gateways.clear()),
        ("routes[open]: a route needs at least one method and one gateway", |source| source.routes[0].methods.clear()),
        ("routes[open]: a route needs at least one method and one gateway", |source| source.routes[0].gateways.clear()),
        ("routes[agents.read]: `require: permission` needs a `permission`", |source| source.routes[3].permission = None),
        ("routes[me]: `permission` goes with `require: permission` only", |source| source.routes[2].permission = Some("agent.read".into())),
        (user, |source| source.routes[0].governor_approval = true),
        (user, |source| source.routes[0].closed_to_trials = true),
        (user, |source| source.routes[0].tasks = 1),
        (user, |source| source.routes[1].cost_micros = Some(1)),
        ("routes[me]: a request may be charged to at most 8 budgets", |source| {
            let rate = source.budgets[3].clone();
            source.budgets.extend((0..8).map(|index| BudgetSource { name: format!("rate-{index}"), ..rate.clone() }));
        }),
    ];
    for (expected, change) in pairs {
        assert!(matches!(error(change), CompileError::Inconsistent { .. }));
        assert!(text(change).ends_with(expected), "{}", text(change));
    }
}

#[test]
fn eight_budgets_for_each_tier_are_not_too_many() {
    let policy = compiled(|source| {
        let rate = source.budgets[3].clone();
        source.budgets.clear();
        for tier in ["trial", "paid", "enterprise"] {
            let budget = |index| BudgetSource { name: format!("{tier}-{index}"), tier: Some(tier.into()), ..rate.clone() };
            source.budgets.extend((0..8).map(budget));
        }
    });
    assert_eq!(policy.unwrap().routes()[2].charges.len(), 24);
}

#[test]
fn more_permissions_than_bits_are_refused_and_not_cut_off() {
    let names = |count: usize| (0..count).map(|index| format!("p.{index}")).collect::<Vec<_>>();
    let full = PermissionCatalogue::new(names(256).iter().map(String::as_str)).unwrap();
    let last = full.find("p.255").unwrap();
    assert!(full.all().covers(last) && full.name(last) == "p.255" && full.names().count() == 256);
    assert_eq!(PermissionCatalogue::new(names(257).iter().map(String::as_str)), Err(InvalidCatalogue::TooMany));
    assert!(matches!(error(|source| source.permissions.extend(names(300))), CompileError::Catalogue(InvalidCatalogue::TooMany)));
}

#[test]
fn a_policy_says_what_it_was_told_and_fills_in_what_it_was_not() {
    use decision_core::budget::SpentProblem;
    use decision_core::failure::FailureMode;
    let policy = compiled(|source| source.budgets[3].rhythm = Rhythm::Hour).unwrap();
    let told: Vec<_> = policy.budgets().iter().map(|budget| (budget.status, budget.problem, budget.failure_mode)).collect();
    let expected = [
        (429, SpentProblem::TrialLimitExceeded, FailureMode::Closed),
        (402, SpentProblem::BudgetExceeded, FailureMode::Closed),
        (402, SpentProblem::BudgetExceeded, FailureMode::Closed),
        (429, SpentProblem::RateLimitExceeded, FailureMode::Open),
    ];
    assert_eq!(told, expected);
    assert_eq!(policy.budget_by_name("rate-minute").map(|budget| (budget.rhythm, budget.cap.get())), Some((Rhythm::Hour, 50)));
    assert!(policy.budget_by_name("none").is_none());
}

#[test]
fn an_alias_carries_what_its_role_carries_and_a_star_everything() {
    let policy = compiled(|source| {
        source.roles.push(RoleSource { name: "both".into(), aliases: vec![], permissions: vec!["agent.read".into(), "*".into()] })
    });
    let policy = policy.unwrap();
    let permissions = |role: &str| policy.principal(crate::fixture::identity(role)).unwrap().permissions;
    assert_eq!(permissions("reader"), permissions("viewer"));
    assert_eq!((permissions("admin"), permissions("both")), (policy.catalogue().all(), policy.catalogue().all()));
    assert!(policy.principal(crate::fixture::identity("nobody")).is_none());
    assert_eq!(source().routes[1].require, RequirementSource::RegistrationKey);
}
