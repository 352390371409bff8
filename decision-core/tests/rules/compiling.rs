//! What makes a policy no policy. Every error names its place.

use crate::fixture::source;
use decision_core::budget::Rhythm;
use decision_core::gateway::{Gateway, Method};
use decision_core::permission::{InvalidCatalogue, PermissionCatalogue};
use decision_core::policy::CompiledPolicy;
use decision_core::policy::compile::{CompileError, compile};
use decision_core::policy::source::{
    BudgetSource, ExchangeKind, OwnershipPlace, OwnershipSource, PolicySource, RequirementSource, RoleSource,
};

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
    let out: [Wrong; 15] = [
        ("settings.no_route_status: `200` is not 403 or 404", |source| source.settings.no_route_status = 200),
        ("settings.cost_micros_default: `-1` is not from 0 to 1125899906842624", |source| source.settings.cost_micros_default = -1),
        ("budgets[trial-tasks].cap: `-1` is not 0 or more", |source| source.budgets[0].cap = -1),
        ("budgets[trial-tasks].status: `200` is not a status from 400 to 599", |source| source.budgets[0].status = Some(200)),
        ("budgets[trial-tasks].scope: `` is not a template such as `agent:{agent_id|subject}`", |source| source.budgets[0].scope.clear()),
        ("budgets[trial-tasks].scope: `a}` is not a template such as `agent:{agent_id|subject}`", |source| {
            source.budgets[0].scope = "a}".into()
        }),
        ("budgets[trial-tasks].scope: `a{subject` is not a template with closed braces", |source| {
            source.budgets[0].scope = "a{subject".into()
        }),
        ("routes[me].cost_micros: `-5` is not from 0 to 1125899906842624", |source| source.routes[2].cost_micros = Some(-5)),
        ("routes[me].cost_micros: `9223372036854775807` is not from 0 to 1125899906842624", |source| {
            source.routes[2].cost_micros = Some(i64::MAX);
        }),
        ("settings.upgrade_url: `javascript:alert(1)` is not an address that begins with https:// or http://, without spaces", |source| {
            source.settings.upgrade_url = "javascript:alert(1)".into();
        }),
        ("settings.problem_base: `nope` is not an address that begins with https:// or http://, without spaces", |source| {
            source.settings.problem_base = "nope".into();
        }),
        (
            "budgets[trial-tasks].scope: `{subject}{user_id}{customer_id}` is not a template of fewer variables: values have up to 256 bytes, a scope 1024",
            |source| source.budgets[0].scope = "{subject}{user_id}{customer_id}".into(),
        ),
        ("routes[me].tasks: `-1` is not from 0 to 1125899906842624", |source| {
            source.routes[2].tasks = -1;
        }),
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
    let pairs: [Wrong; 12] = [
        ("issuers[cp].gateways: an issuer needs at least one gateway", |source| source.issuers[0].gateways.clear()),
        ("routes[open]: a route needs at least one method and one gateway", |source| source.routes[0].methods.clear()),
        ("routes[open]: a route needs at least one method and one gateway", |source| source.routes[0].gateways.clear()),
        ("routes[agents.read]: `require: permission` needs a `permission`", |source| source.routes[3].permission = None),
        ("routes[me]: `permission` goes with `require: permission` only", |source| source.routes[2].permission = Some("agent.read".into())),
        ("routes[me]: `exchange: websocket` has no body for ownership to be forced into", |source| {
            source.routes[2].exchange = ExchangeKind::Websocket;
            source.routes[2].ownership = Some(OwnershipSource { place: OwnershipPlace::Body, name: "customer_id".into() });
        }),
        ("routes[me]: the control plane's own API asks for no approvals: a route on ADMIN has no `approval`", |source| {
            source.routes[2].gateways = vec![Gateway::Admin];
            source.routes[2].governor_approval = true;
        }),
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

/// A policy whose public route is limited per client address.
fn limited(change: impl FnOnce(&mut BudgetSource)) -> PolicySource {
    let mut source = source();
    let mut budget = BudgetSource {
        name: "per-client".into(),
        scope: "client_address".into(),
        cap: 30,
        durable: false,
        tier: None,
        ..source.budgets[3].clone()
    };
    change(&mut budget);
    source.budgets.push(budget);
    source.routes[0].limit = Some("per-client".into());
    source
}

#[test]
fn a_limit_per_client_address_is_named_by_its_routes_and_charged_to_no_user() {
    let policy = compile(&limited(|_| {})).unwrap();
    let budget = policy.budget_by_name("per-client").unwrap();
    let limits: Vec<_> = policy.routes().iter().map(|route| route.limit).collect();
    assert_eq!(limits, [Some(budget.id), None, None, None, None, None]);
    assert!(policy.routes().iter().flat_map(|route| route.charges.iter()).all(|charge| charge.budget != budget.id));
    let mut scope = String::new();
    let principal = policy.principal(crate::fixture::identity("admin")).unwrap();
    assert!(budget.scope.write_scope(&principal, &mut scope).is_err(), "no user has that scope");
}

#[test]
fn a_limit_per_client_address_that_makes_no_sense_is_refused() {
    use decision_core::budget::Unit;
    use decision_core::failure::FailureMode;
    type Change = fn(&mut BudgetSource);
    let wrong: [(&str, Change); 9] = [
        ("`unit: requests`", |budget| budget.unit = Unit::Tasks),
        ("`durable: false`", |budget| budget.durable = true),
        ("has no `tier`", |budget| budget.tier = Some("trial".into())),
        ("has no `gateways`", |budget| budget.gateways = vec![Gateway::Cp]),
        ("answers 429", |budget| budget.problem = Some("rate-limit-exceeded".into())),
        ("answers 429", |budget| budget.status = Some(429)),
        ("needs nobody", |budget| budget.failure_mode = Some(FailureMode::Open)),
        (".cap: `0` is not from 1 to", |budget| budget.cap = 0),
        (".cap: `4294967296` is not from 1 to", |budget| budget.cap = 1 << 32),
    ];
    for (expected, change) in wrong {
        let text = compile(&limited(change)).unwrap_err().to_string();
        assert!(text.starts_with("budgets[per-client]") && text.contains(expected), "{text}");
    }
}

#[test]
fn a_route_names_a_limit_that_exists_and_every_limit_is_named() {
    let text = |change: fn(&mut PolicySource)| {
        let mut source = limited(|_| {});
        change(&mut source);
        compile(&source).unwrap_err().to_string()
    };
    assert_eq!(
        text(|source| source.routes[0].limit = Some("per-clint".into())),
        "routes[open].limit: `per-clint` does not exist; the nearest name is `per-client`"
    );
    assert!(
        text(|source| source.routes[0].limit = Some("rate-minute".into()))
            .starts_with("routes[open]: `limit` names a budget of another scope")
    );
    assert!(
        text(|source| source.routes[0].limit = None)
            .starts_with("budgets[per-client]: a budget of scope `client_address` counts only where")
    );
    let many = text(|source| {
        for number in 0..16 {
            let name = format!("per-client-{number}");
            source.budgets.push(BudgetSource { name: name.clone(), ..source.budgets[4].clone() });
            let mut route = source.routes[0].clone();
            (route.name, route.path, route.limit) = (format!("open-{number}"), format!("/open-{number}"), Some(name));
            source.routes.push(route);
        }
    });
    assert!(many.starts_with("budgets[per-client-15]: `per-client-15` is not within 16 budgets"), "{many}");
}

#[test]
fn waiting_and_staleness_have_bounds() {
    use std::time::Duration;
    assert_eq!(
        text(|source| source.settings.cold_start_hold = Duration::from_millis(10_001)),
        "settings.cold_start_hold_ms: `10001` is not 10000 or less"
    );
    for seconds in [59, 86_401] {
        let expected = format!("settings.stale_after_s: `{seconds}` is not from 60 to 86400");
        assert_eq!(text(|source| source.settings.stale_after = Duration::from_secs(seconds)), expected);
    }
    assert!(compiled(|source| source.settings.cold_start_hold = Duration::ZERO).is_ok());
}
