//! The control plane's own rule in the place of the bounds. It is taken from its source: the rule needs nothing else of
//! the control plane, whose other parts take minutes to build.

use crate::checker::{Protocol, Seen, check_all};
use crate::exhaustive::{BASE, ONE_OF_EACH};
use lease_model::config::{Config, Idle, Windows};
use lease_model::holder::PlainHolder;
use lease_model::ledger::{Account, Bounds, Lease, Raise, Room, Rule, kept};
use lease_model::terms::{Charge, Key, Outcome, PerKey, Report, Units};
use proptest::prelude::*;

#[path = "../../../control-plane/src/budgets/ledger.rs"]
#[expect(dead_code, unreachable_pub, reason = "a part of the control plane, of which this binary uses the rule")]
mod ledger;

/// It in the terms of the model; the tests of the stores use the same translation.
#[path = "ledger_rule.rs"]
mod ledger_rule;

pub(crate) use ledger_rule::RealLedger;
use ledger_rule::real;

fn check(config: Config, seen: &'static [Seen]) -> usize {
    check_all(Protocol::<RealLedger, PlainHolder>::new(config, RealLedger, seen))
}

#[test]
fn with_crashes_and_closing() {
    let config = Config { name: "real ledger, crashes and closing", incarnations: 4, crashes: 1, closes: 1, ..BASE };
    check(config, &[Seen::AllSpent, Seen::Forfeit, Seen::ClosedAlive]);
}

#[test]
fn with_everything_that_a_request_may_cost() {
    let config = Config {
        name: "real ledger, other costs and caps",
        caps: PerKey::new(3, 2, 2),
        charges: &[Charge { money: 2, rate: 1 }, Charge { money: 1, rate: 0 }],
        outcomes: &[Outcome::Exact, Outcome::Less, Outcome::More, Outcome::Released],
        overruns: 1,
        cap_changes: &[(Key::Money, 2), (Key::Money, 4)],
        wants: &[Idle::Lower, Idle::Close],
        ..BASE
    };
    check(config, &[Seen::Overrun, Seen::LoweredCap, Seen::Recalled]);
}

/// From a cap of eight on two holders are granted more than they wait for.
#[test]
fn with_a_cap_that_is_worth_prefetching() {
    let config = Config {
        name: "real ledger, prefetching",
        caps: PerKey::new(9, 8, 1),
        charges: ONE_OF_EACH,
        ahead: 4,
        windows: Windows::Two,
        ..BASE
    };
    check(config, &[Seen::TwoWindows, Seen::Recalled]);
}

/// What may be granted.
#[derive(Clone, Copy, Debug)]
enum Offered {
    Shared,
    /// Its Envoy is about to stop.
    Exact,
    Nothing,
}

#[derive(Clone, Debug)]
enum Move {
    Book { holder: usize, report: Report, cap: Units, room: Offered },
    Forfeit { holder: usize },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let report = (1..4_u8, (0..12_u8, 0..6_u8, 0..4_u8), 0..30_u8, 0..30_u8, 0..5_u8, prop::bool::weighted(0.15));
    let report = report.prop_map(|(generation, (used, held, overrun), target, minimum, charge, close)| Report {
        generation,
        used,
        held,
        overrun,
        target,
        minimum,
        charge,
        close,
    });
    let offered = prop_oneof![7 => Just(Offered::Shared), 2 => Just(Offered::Exact), 1 => Just(Offered::Nothing)];
    let book = (0..3_usize, report, 0..60_u8, offered);
    prop::collection::vec(
        prop_oneof![
            12 => book.prop_map(|(holder, report, cap, room)| Move::Book { holder, report, cap, room }),
            1 => (0..3_usize).prop_map(|holder| Move::Forfeit { holder }),
        ],
        1..12,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4_000) })]

    /// Step by step, for reports that no holder would send as well.
    #[test]
    fn the_ledger_keeps_to_the_bounds(moves in moves()) {
        let (mut account, mut leases) = (Account::default(), [None::<Lease>; 3]);
        for step in moves {
            match step {
                Move::Book { holder, report, cap, room: offered } => {
                    let (room, real_room) = match offered {
                        Offered::Shared => (Room::Open { cap, holders: 3 }, ledger::Room::Open { cap: real(cap), holders: 3 }),
                        Offered::Exact => (Room::Open { cap, holders: 3 }, ledger::Room::Exact { cap: real(cap) }),
                        Offered::Nothing => (Room::Ended, ledger::Room::Ended),
                    };
                    let booked = RealLedger::book_in(account, leases[holder], &report, real_room);
                    let raised = Raise::By(booked.granted.saturating_sub(kept(leases[holder], &report)));
                    prop_assert_eq!(booked, Bounds::default().book(account, leases[holder], &report, room, raised));
                    (account, leases[holder]) = (booked.account, booked.lease);
                }
                Move::Forfeit { holder } => {
                    if let Some(lease) = leases[holder].take() {
                        let forfeited = RealLedger.forfeit(account, &lease);
                        prop_assert_eq!(forfeited, Bounds::default().forfeit(account, &lease));
                        account = forfeited;
                    }
                }
            }
        }
    }
}
