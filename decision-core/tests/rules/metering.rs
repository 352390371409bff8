//! Prices, how routes are metered, and what a budget's level is.

use crate::cases;
use crate::fixture::{NOW, identity, source};
use decision_core::budget::{AlertLevel, AtCritical, Thresholds, Unit, Units, Whose};
use decision_core::decide;
use decision_core::decision::{Bound, Decision, Permit};
use decision_core::facts::{Authentication, RequestFacts, Upgrade};
use decision_core::gateway::{Gateway, Method};
use decision_core::policy::compile::compile;
use decision_core::policy::source::{BudgetSource, CostSource, MeteringSource, PolicySource, PriceSource};
use decision_core::policy::{CompiledPolicy, Metering, Unbounded};
use metering::Api;
use proptest::prelude::*;

const USAGE: MeteringSource = MeteringSource {
    by: CostSource::Usage,
    header: None,
    api: Some(Api::ChatCompletions),
    output_tokens: Some(100),
    unbounded: Unbounded::Refuse,
};
const HEADER: MeteringSource = MeteringSource { by: CostSource::Header, api: None, output_tokens: None, ..USAGE };

fn price(model: &str) -> PriceSource {
    PriceSource { model: model.into(), input: 2, cache_read: None, cache_write: Some(5), output: 8 }
}

/// `agents.create` is metered, and there is a budget of tokens.
fn metered(how: MeteringSource) -> PolicySource {
    let mut source = source();
    source.prices = vec![price("fast"), price("slow-*")];
    let tokens = BudgetSource { name: "tokens".into(), unit: Unit::Tokens, ..source.budgets[1].clone() };
    source.budgets.push(tokens);
    let route = source.routes.iter_mut().find(|route| route.name == "agents.create").unwrap();
    (route.metering, route.cost_micros) = (Some(how), Some(7));
    source
}

fn text(change: impl FnOnce(&mut PolicySource)) -> String {
    let mut source = metered(USAGE);
    change(&mut source);
    compile(&source).map_or_else(|error| error.to_string(), |_| "compiled".into())
}

fn permit(policy: &CompiledPolicy) -> Permit {
    let principal = policy.principal(identity("admin")).unwrap();
    let facts = RequestFacts {
        gateway: Gateway::Plant,
        method: Method::Post,
        route: policy.route(Gateway::Plant, Method::Post, "/agents"),
        authentication: Authentication::Verified(&principal),
        upgrade: Upgrade::None,
    };
    match decide(policy, &facts, NOW) {
        Decision::Permit(permit) => permit,
        other @ (Decision::Conditional(_) | Decision::Deny(_)) => unreachable!("{other:?}"),
    }
}

fn amounts(policy: &CompiledPolicy, permit: &Permit) -> Vec<(String, i64)> {
    permit.charges().iter().map(|charge| (policy.budget(charge.budget).unwrap().name.to_string(), charge.amount.get())).collect()
}

#[test]
fn what_is_priced_by_tokens_is_charged_to_money_and_tokens_at_the_bound_of_the_request() {
    let policy = compile(&metered(USAGE)).unwrap();
    let permit = permit(&policy);
    let charged = |names: [(&str, i64); 4]| names.map(|(name, amount)| (name.to_owned(), amount));
    assert_eq!(amounts(&policy, &permit), charged([("agent-daily", 7), ("platform-monthly", 7), ("rate-minute", 1), ("tokens", 0)]));
    let permit = permit.bounded(&policy, Bound { money: Units::new(900), tokens: Units::new(110) });
    assert_eq!(amounts(&policy, &permit), charged([("agent-daily", 900), ("platform-monthly", 900), ("rate-minute", 1), ("tokens", 110)]));
    let route = policy.routes().iter().find(|route| &*route.name == "agents.create").unwrap();
    assert_eq!(route.metering.to_string(), "usage openai_chat");
    assert!(matches!(route.metering, Metering::Usage { output_tokens: Some(100), failed, .. } if failed == Units::new(7)));
    assert_eq!(policy.prices().find("slow-1").map(|price| (price.cache_read, price.cache_write)), Some((2, 5)));
}

#[test]
fn a_budget_of_tokens_is_charged_by_metered_routes_alone() {
    let policy = compile(&metered(HEADER)).unwrap();
    assert!(amounts(&policy, &permit(&policy)).iter().all(|(name, _)| name != "tokens"));
    let route = policy.routes().iter().find(|route| &*route.name == "agents.create").unwrap();
    assert_eq!(route.metering, Metering::Header("x-actual-cost-micros".into()));
}

#[test]
fn metering_that_makes_no_sense_is_refused() {
    type Change = fn(&mut MeteringSource);
    let wrong: [(&str, MeteringSource, Change); 9] = [
        ("`by: usage` needs an `api`", USAGE, |how| how.api = None),
        ("`header` goes with `by: header`", USAGE, |how| how.header = Some("x-cost".into())),
        (".output_tokens: `0` is not from 1 to", USAGE, |how| how.output_tokens = Some(0)),
        (".output_tokens: `10000001` is not from 1 to", USAGE, |how| how.output_tokens = Some(10_000_001)),
        ("go with `by: usage`", HEADER, |how| how.api = Some(Api::Messages)),
        ("go with `by: usage`", HEADER, |how| how.output_tokens = Some(1)),
        ("go with `by: usage`", HEADER, |how| how.unbounded = Unbounded::Allow),
        (".header: `X-Cost` is not a name", HEADER, |how| how.header = Some("X-Cost".into())),
        (".header: `` is not a name", HEADER, |how| how.header = Some(String::new())),
    ];
    for (expected, mut how, change) in wrong {
        change(&mut how);
        let text = compile(&metered(how)).unwrap_err().to_string();
        assert!(text.starts_with("routes[agents.create].metering") && text.contains(expected), "{text}");
    }
    let free = text(|source| {
        let route = source.routes.iter_mut().find(|route| route.name == "agents.create").unwrap();
        (route.metering, route.cost_micros) = (Some(HEADER), Some(0));
    });
    assert!(free.contains("needs a `cost_micros` above 0"), "{free}");
    let free =
        text(|source| source.routes.iter_mut().filter(|route| route.name == "agents.create").for_each(|route| route.cost_micros = Some(0)));
    assert!(free.contains("needs a `cost_micros` above 0"), "{free}");
    assert!(text(|source| source.prices.clear()).contains("needs `prices`"));
    assert!(text(|source| source.routes[4].methods = vec![Method::Post, Method::Put]).contains("the method POST only"));
    assert!(text(|source| source.routes[0].metering = Some(HEADER)).contains("metering needs a user to charge"));
}

#[test]
fn prices_are_unique_names_and_numbers_that_a_token_can_cost() {
    assert_eq!(text(|source| source.prices.push(price("fast"))), "prices: the name `fast` is used twice");
    assert!(text(|source| source.prices.push(price("a*b"))).starts_with("prices[a*b].model: `a*b` is not a name"));
    assert!(text(|source| source.prices[0].input = -1).starts_with("prices[fast].input: `-1` is not from 0 to"));
    assert!(text(|source| source.prices[1].output = 1_000_000_000_001).starts_with("prices[slow-*].output: "));
}

#[test]
fn thresholds_rise_and_only_an_agent_can_be_paused() {
    let with = |thresholds| text(move |source| source.budgets[1].thresholds = Some(thresholds));
    assert_eq!(with(Thresholds { warning: 50, high: 75, critical: 90 }), "compiled");
    for (warning, high, critical) in [(0, 50, 100), (50, 50, 100), (80, 95, 95), (80, 95, 101), (95, 80, 100)] {
        let text = with(Thresholds { warning, high, critical });
        assert!(text.starts_with("budgets[agent-daily].thresholds: ") && text.contains("rising percentages"), "{text}");
    }
    assert_eq!(text(|source| source.budgets[1].at_critical = AtCritical::PauseAgent), "compiled");
    for index in [2, 3] {
        assert!(text(|source| source.budgets[index].at_critical = AtCritical::PauseAgent).contains("`at_critical: pause_agent` goes with"));
    }
    assert!(text(|source| source.budgets[1].scope = "override=1".into()).contains("does not begin with `override=`"));
    let policy = compile(&source()).unwrap();
    let whose: Vec<_> = policy.budgets().iter().map(decision_core::budget::Budget::whose).collect();
    assert_eq!(whose, [Whose::Other, Whose::Agent, Whose::Platform, Whose::Other]);
    let mut volatile = source();
    volatile.budgets[3].durable = false;
    let thresholds: Vec<_> = compile(&volatile).unwrap().budgets().iter().map(|budget| budget.thresholds).collect();
    assert_eq!(thresholds, [Some(Thresholds::DEFAULT), Some(Thresholds::DEFAULT), Some(Thresholds::DEFAULT), None]);
}

proptest! {
    #![proptest_config(cases(2_000))]

    /// By exact fractions, and never falling while more is settled.
    #[test]
    fn a_level_is_reached_at_its_percentage_and_not_before(settled in 0..1_i64 << 52, cap in 0..1_i64 << 52, more in 0..1_i64 << 40) {
        let level = |settled| Thresholds::DEFAULT.level(Units::new(settled), Units::new(cap));
        let reached = |percent: i128| settled > 0 && i128::from(settled) * 100 >= i128::from(cap) * percent;
        let want = [(100, AlertLevel::Critical), (95, AlertLevel::High), (80, AlertLevel::Warning)].into_iter().find(|(percent, _)| reached(*percent));
        prop_assert_eq!(level(settled), want.map(|(_, level)| level));
        prop_assert!(level(settled + more) >= level(settled));
    }
}
