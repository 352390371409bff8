//! Leases under loss, delay, repetition and crashes: nothing is overspent, nothing is stuck.
#![cfg(not(target_arch = "wasm32"))]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "clippy's exception for tests does not cover the functions around them")]

#[path = "../fixture/mod.rs"]
mod fixture;
mod plane;
mod world;

use decision_core::holder::{Keep, Reservations, Wait, WhenShort};
use decision_core::lease::Reservation;
use proptest::prelude::*;
use world::{Step, World};

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let any_index = 0..6_usize;
    let step = prop_oneof![
        10 => (0..3_usize, 0..2_usize, 0..5_usize).prop_map(|(member, user, kind)| Step::Request { member, user, kind }),
        5 => (0..3_usize, any_index.clone()).prop_map(|(member, open)| Step::Settle { member, open }),
        2 => (0..3_usize, any_index.clone()).prop_map(|(member, open)| Step::Release { member, open }),
        1 => (0..3_usize, any_index.clone()).prop_map(|(member, waiting)| Step::Leave { member, waiting }),
        1 => (0..3_usize, any_index.clone()).prop_map(|(member, waiting)| Step::GiveUp { member, waiting }),
        10 => (0..3_usize, prop_oneof![1..3_usize, Just(usize::MAX)], any::<bool>())
            .prop_map(|(member, most, urgent)| Step::Send { member, most, urgent }),
        10 => (any_index.clone(), prop::bool::weighted(0.2)).prop_map(|(message, keep)| Step::Deliver { message, keep }),
        10 => any_index.clone().prop_map(|answer| Step::Answer { answer }),
        1 => any_index.clone().prop_map(|message| Step::LoseMessage { message }),
        1 => any_index.prop_map(|answer| Step::LoseAnswer { answer }),
        2 => (0..3_usize).prop_map(|member| Step::TimeOut { member }),
        1 => (0..3_usize).prop_map(|member| Step::Crash { member }),
        1 => (0..3_usize).prop_map(|member| Step::Close { member }),
        1 => (0..3_usize, prop_oneof![Just(Keep::Nothing), Just(Keep::Leases)]).prop_map(|(member, keep)| Step::Keep { member, keep }),
        4 => prop_oneof![Just(20_i64), Just(900), Just(4_000), Just(11_000), Just(31_000)].prop_map(|millis| Step::Pass { millis }),
    ];
    prop::collection::vec(step, 1..160)
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

proptest! {
    #![proptest_config(cases(4_000))]

    /// I1 to I4 after every step, I8 in the end.
    #[test]
    fn nothing_is_overspent_or_lost_whatever_happens_to_the_calls(
        members in 1..4_usize,
        rate in 1..40_i64,
        money in 1..90_i64,
        steps in steps(),
    ) {
        let mut world = World::new(members, rate, money);
        for step in &steps {
            world.step(step);
        }
        world.calm();
        for (key, account) in &world.plane.accounts {
            prop_assert_eq!(account.committed, account.settled, "a lease was not given back: {:?}", key);
        }
        let settled = world.plane.accounts.get(&world.key("money", 0)).map_or(0, |account| account.settled);
        prop_assert_eq!(world.drain_money(), money - settled);
        // Past the last window nothing is kept.
        world.pass(86_400_000_000);
        for at in 0..world.members.len() {
            world.round(at);
            world.round(at);
            prop_assert!(!world.members[at].leases.holds_leases(), "an account outlives its window");
        }
    }
}

/// Compiles only while a reservation, and a place in a queue, can be spent once: neither is `Clone`, hence not `Copy`.
#[test]
fn a_reservation_cannot_be_spent_twice() {
    trait AmbiguousIfClone<Marker> {
        fn is_unique() {}
    }
    impl<T> AmbiguousIfClone<()> for T {}
    impl<T: Clone> AmbiguousIfClone<u8> for T {}
    <Reservation as AmbiguousIfClone<_>>::is_unique();
    <Reservations as AmbiguousIfClone<_>>::is_unique();
    <Wait as AmbiguousIfClone<_>>::is_unique();
}

#[test]
fn a_cap_can_be_spent_to_the_last_unit_by_one_holder() {
    for cap in [1, 2, 3, 17, 100] {
        assert_eq!(World::new(1, 1, cap).drain_money(), cap, "{cap}");
    }
}

/// The first holder keeps working and the second waits: what the first does not use moves over.
#[test]
fn units_that_lie_unused_in_a_busy_lease_are_recalled() {
    let mut world = World::new(2, 1_000, 60);
    world.request(0, 0, 1, WhenShort::Wait);
    world.round(0);
    for _ in 0..3 {
        world.request(0, 0, 1, WhenShort::Wait);
        world.round(0);
    }
    let first = world.under_way(0);
    for _ in 0..80 {
        world.pass(50_000);
        world.request(1, 0, 1, WhenShort::Wait);
        world.round(1);
        world.round(0);
    }
    // All that the first holder does not need, although it is not idle.
    assert_eq!(world.under_way(1), 60 - first);
    world.check();
}

#[test]
fn of_two_budgets_none_is_held_when_one_is_short() {
    let mut world = World::new(1, 1_000, 5);
    // Warms both accounts; money is exact, so nothing of it lies in the lease afterwards.
    world.request(0, 0, 2, WhenShort::Wait);
    world.round(0);
    let held = |world: &mut World| {
        let mut held = 0;
        world.members[0]
            .leases
            .reports(decision_core::time::Timestamp::from_micros(world.now), usize::MAX, |report| held += report.held.get());
        held
    };
    let before = held(&mut world);
    assert!(!world.request(0, 0, 2, WhenShort::Wait));
    assert_eq!(held(&mut world), before);
}
