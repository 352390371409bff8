//! The model as the checker wants it.

use lease_model::config::Config;
use lease_model::holder::Holder;
use lease_model::invariants as holds;
use lease_model::ledger::Rule;
use lease_model::step::{actions, step};
use lease_model::world::{Action, World};
use stateright::{Checker, DiscoveryClassification, HasDiscoveries, Model, Property};
use std::marker::PhantomData;
use std::time::Instant;

/// The protocol with a rule and holders of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Protocol<R, H> {
    pub(crate) config: Config,
    pub(crate) rule: R,
    seen: &'static [Seen],
    holder: PhantomData<fn() -> H>,
}

/// What a configuration must show, so that what holds in it does not hold for want of cases.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seen {
    AllSpent,
    Late,
    Forfeit,
    ClosedAlive,
    Overrun,
    LoweredCap,
    TwoWindows,
    Reopened,
    Recalled,
}

impl<R: Rule, H: Holder> Protocol<R, H> {
    pub(crate) fn new(config: Config, rule: R, seen: &'static [Seen]) -> Self {
        Self { config, rule, seen, holder: PhantomData }
    }

    fn sighting(seen: Seen) -> Property<Self> {
        match seen {
            Seen::AllSpent => Property::sometimes("every unit is spent", |_, world| holds::everything_is_spent(world)),
            Seen::Late => Property::sometimes("an older call is on its way", |_, world| holds::a_call_is_late(world)),
            Seen::Forfeit => Property::sometimes("a lease is forfeited", |_, world| holds::a_lease_is_forfeited(world)),
            Seen::ClosedAlive => Property::sometimes("a closed holder lives on", |_, world| holds::a_closed_holder_lives_on(world)),
            Seen::Overrun => Property::sometimes("an overrun is booked", |_, world| holds::an_overrun_is_booked(world)),
            Seen::LoweredCap => Property::sometimes("a cap falls below leases", |_, world| holds::a_cap_is_lowered_below_leases(world)),
            Seen::TwoWindows => Property::sometimes("two windows overlap", |_, world| holds::windows_overlap(world)),
            Seen::Reopened => Property::sometimes("a lease follows another", |_, world| holds::a_lease_is_opened_again(world)),
            Seen::Recalled => Property::sometimes("recalled units are granted", |model, world| {
                holds::units_are_recalled(&model.config, &model.rule, world)
            }),
        }
    }
}

impl<R: Rule, H: Holder> Model for Protocol<R, H> {
    type State = World<H>;
    type Action = Action;

    fn init_states(&self) -> Vec<World<H>> {
        vec![World::new(&self.config)]
    }

    fn actions(&self, world: &World<H>, list: &mut Vec<Action>) {
        actions(&self.config, &self.rule, world, list);
    }

    fn next_state(&self, world: &World<H>, action: Action) -> Option<World<H>> {
        step(&self.config, &self.rule, world, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("I1 grants stay within the cap", |_, world| holds::grants_stay_within_the_cap(world)),
            Property::always("I1 nothing is overspent", |_, world| holds::nothing_is_overspent(world)),
            Property::always("I2 holders keep to their grants", |_, world| holds::holders_keep_to_their_grants(world)),
            Property::always("I3 what can be spent is committed", |_, world| holds::what_can_be_spent_is_committed(world)),
            Property::always("I6 leases are spent in their windows", |_, world| holds::leases_are_spent_in_their_windows(world)),
            Property::always("I7 the books are right", |_, world| holds::the_books_are_right(world)),
            Property::always("requests hold all or nothing", |_, world| holds::requests_hold_all_or_nothing(world)),
            Property::always("refusals are final", |_, world| holds::refusals_are_final(world)),
            Property::always("the rule keeps its bounds", |_, world| holds::the_rule_keeps_its_bounds(world)),
        ];
        if self.config.flaw.is_none() {
            properties.push(Property::always("I8 what is left can be granted", |model: &Self, world| {
                holds::what_is_left_can_be_granted(&model.config, &model.rule, world)
            }));
        }
        properties.extend(self.seen.iter().map(|seen| Self::sighting(*seen)));
        properties
    }
}

/// Visits every world of a configuration. Answers how many there are.
pub(crate) fn check_all<R: Rule, H: Holder>(model: Protocol<R, H>) -> usize {
    let (name, started) = (model.config.name, Instant::now());
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    for (property, path) in checker.discoveries() {
        if matches!(checker.discovery_classification(property), DiscoveryClassification::Counterexample) {
            panic!("{name}: `{property}` does not hold after {:#?}", path.into_actions());
        }
    }
    checker.assert_properties();
    let worlds = checker.unique_state_count();
    println!("{name}: {worlds} states, {} transitions, {} deep, {:.1?}", checker.state_count(), checker.max_depth(), started.elapsed());
    worlds
}
