//! Configurations without a flaw: every property holds in every world.

use crate::checker::{Protocol, Seen, check_all};
use lease_model::config::{Config, Idle, Network, Windows};
use lease_model::holder::PlainHolder;
use lease_model::ledger::Bounds;
use lease_model::terms::{Charge, Key, Outcome, PerKey};

pub(crate) const ONE_OF_EACH: &[Charge] = &[Charge { money: 1, rate: 1 }];

/// Two holders, both accounts, one window; nobody crashes or is closed.
pub(crate) const BASE: Config = Config {
    name: "base",
    holders: 2,
    incarnations: 2,
    calls: 2,
    caps: PerKey::new(2, 2, 2),
    charges: ONE_OF_EACH,
    open: 1,
    outcomes: &[Outcome::Exact],
    overruns: 0,
    ahead: 1,
    wants: &[Idle::Lower],
    cap_changes: &[],
    windows: Windows::One,
    crashes: 0,
    closes: 0,
    network: Network::Relevant,
    told: false,
    flaw: None,
};

/// How many worlds each run by default visits at least: what shrinks the model without a word would make its proof hollow.
const FLOORS: [(&str, usize); 7] = [
    ("every message kept", 150_000),
    ("crashes and closing", 800_000),
    ("other costs", 280_000),
    ("two windows", 48_000),
    ("other caps", 240_000),
    ("leases opened again", 1_400),
    ("three holders", 150_000),
];

/// What they come to together.
const FLOOR: usize = 1_000_000;

/// Every world, at least as many as the run's floor.
fn check(config: Config, seen: &'static [Seen]) {
    let (_, floor) = FLOORS.into_iter().find(|(name, _)| *name == config.name).unwrap();
    let worlds = visit(config, seen);
    assert!(worlds >= floor, "{}: {worlds} states, and there were {floor} at least", config.name);
}

fn visit(config: Config, seen: &'static [Seen]) -> usize {
    check_all(Protocol::<Bounds, PlainHolder>::new(config, Bounds::default(), seen))
}

#[test]
fn the_runs_by_default_visit_a_million_worlds_together() {
    let sum: usize = FLOORS.iter().map(|(_, floor)| floor).sum();
    assert!(sum >= FLOOR, "{sum}");
}

#[test]
fn with_every_message_kept() {
    let config = Config { name: "every message kept", network: Network::Everything, calls: 3, caps: PerKey::new(1, 1, 1), ..BASE };
    check(config, &[Seen::AllSpent, Seen::Late]);
}

#[test]
fn with_crashes_and_closing() {
    let config = Config { name: "crashes and closing", incarnations: 4, crashes: 1, closes: 1, ..BASE };
    check(config, &[Seen::AllSpent, Seen::Forfeit, Seen::ClosedAlive]);
}

#[test]
fn with_costs_that_differ_from_reservations() {
    let config = Config {
        name: "other costs",
        caps: PerKey::new(3, 2, 2),
        charges: &[Charge { money: 2, rate: 1 }, Charge { money: 1, rate: 0 }],
        outcomes: &[Outcome::Exact, Outcome::Less, Outcome::More, Outcome::Released],
        overruns: 1,
        ..BASE
    };
    check(config, &[Seen::AllSpent, Seen::Overrun, Seen::Recalled]);
}

#[test]
fn with_a_window_that_ends() {
    let config = Config { name: "two windows", windows: Windows::Two, caps: PerKey::new(2, 1, 1), open: 2, ..BASE };
    check(config, &[Seen::TwoWindows]);
}

#[test]
fn with_caps_that_change() {
    let config = Config {
        name: "other caps",
        cap_changes: &[(Key::Money, 1), (Key::Money, 3)],
        wants: &[Idle::Lower, Idle::Close],
        closes: 1,
        incarnations: 3,
        ..BASE
    };
    check(config, &[Seen::LoweredCap, Seen::Recalled, Seen::Forfeit]);
}

#[test]
fn with_leases_that_are_opened_again() {
    let config = Config { name: "leases opened again", wants: &[Idle::Close, Idle::Report], calls: 4, holders: 1, ..BASE };
    check(config, &[Seen::Reopened]);
}

#[test]
fn with_three_holders() {
    let config = Config { name: "three holders", holders: 3, incarnations: 3, closes: 1, ahead: 0, ..BASE };
    check(config, &[Seen::AllSpent, Seen::Recalled]);
}

#[test]
#[ignore = "minutes: `make model`"]
fn with_every_message_kept_and_all_kinds_of_calls() {
    let wants = &[Idle::Lower, Idle::Close];
    let config = Config { name: "every message kept, all calls", network: Network::Everything, calls: 3, wants, ..BASE };
    visit(config, &[Seen::AllSpent, Seen::Late, Seen::Recalled]);
}

#[test]
#[ignore = "minutes: `make model`"]
fn with_three_holders_that_crash_and_are_closed() {
    let config = Config { name: "three holders, a crash", holders: 3, incarnations: 4, crashes: 1, closes: 1, ahead: 0, ..BASE };
    visit(config, &[Seen::AllSpent, Seen::Recalled, Seen::Forfeit, Seen::ClosedAlive]);
}
