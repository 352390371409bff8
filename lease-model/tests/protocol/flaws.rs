//! Faults that are built in, to see that each is found.

use crate::checker::Protocol;
use crate::exhaustive::BASE;
use lease_model::config::{Config, Flaw, Idle, Network, Windows};
use lease_model::holder::PlainHolder;
use lease_model::ledger::Bounds;
use lease_model::terms::{Charge, Key, Outcome, PerKey};
use lease_model::world::Action;
use stateright::{Checker, HasDiscoveries, Model};

/// Where to look for a flaw.
fn ground(flaw: Flaw) -> Config {
    let costly = Config { charges: &[Charge { money: 1, rate: 0 }], caps: PerKey::new(1, 0, 0), calls: 3, ahead: 0, ..BASE };
    let every = Config { network: Network::Everything, ..costly };
    let closing = Config { closes: 1, incarnations: 3, ..costly };
    let ground = match flaw {
        Flaw::ForfeitReleasesRemainder | Flaw::ForfeitReleasesHeld => closing,
        Flaw::ForgetsClosing => Config { network: Network::Everything, ..closing },
        Flaw::NoCallNumbers | Flaw::BelievesLateAnswers | Flaw::IgnoresGenerationsAndNumbers => every,
        Flaw::IgnoresGenerations => Config { wants: &[Idle::Close], ..every },
        Flaw::LowersAfterAnswer | Flaw::AnswersBeforeCommit => costly,
        Flaw::AddsOverruns | Flaw::OverrunsLeaveCap => Config {
            caps: PerKey::new(2, 0, 0),
            outcomes: &[Outcome::Exact, Outcome::More],
            overruns: 1,
            network: Network::Everything,
            ..costly
        },
        Flaw::SpendsInNextWindow => Config { windows: Windows::Two, holders: 1, caps: PerKey::new(2, 1, 1), ..BASE },
        Flaw::ReservesInPart => Config { caps: PerKey::new(2, 1, 1), ..BASE },
        Flaw::ClosesWhileHeld => Config { wants: &[Idle::Close], ..costly },
        Flaw::IgnoresLoweredCaps => Config { cap_changes: &[(Key::Money, 0)], ..costly },
    };
    Config { flaw: Some(flaw), ..ground }
}

/// Enough for any of them.
const DEEP: usize = 15;
const OVERSPENT: &str = "I1 nothing is overspent";

/// A shortest path on which one of the properties breaks.
fn shortest(flaw: Flaw, when: &HasDiscoveries) -> Option<(&'static str, Vec<Action>)> {
    let mut shortest: Option<(&'static str, Vec<Action>)> = None;
    loop {
        let model = Protocol::<Bounds, PlainHolder>::new(ground(flaw), Bounds { flaw: Some(flaw) }, &[]);
        let wanted = when.clone();
        let deep = shortest.as_ref().map_or(DEEP, |(_, actions)| actions.len() + 1);
        // What the checker finds is near the shortest, not it: look again among the shorter ones.
        let checker = model.checker().finish_when(wanted).target_max_depth(deep).spawn_bfs().join();
        let found = checker.discoveries().into_iter().map(|(property, path)| (property, path.into_actions()));
        let found = found.filter(|(property, _)| matches!(when, HasDiscoveries::AnyFailures) || *property == OVERSPENT);
        // Of properties that break at once the first by name.
        match found.min_by_key(|(property, actions)| (actions.len(), *property)) {
            Some(shorter) => shortest = Some(shorter),
            None => return shortest,
        }
    }
}

/// The first invariant that breaks, in how many steps; and in how many more than the cap is truly spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    breaks: &'static str,
    steps: usize,
    overspent: Option<usize>,
}

const fn found(breaks: &'static str, steps: usize, overspent: usize) -> Option<Found> {
    Some(Found { breaks, steps, overspent: Some(overspent) })
}

/// The cap holds, but not the books, the window, or the promise.
const fn short_of_overspending(breaks: &'static str, steps: usize) -> Option<Found> {
    Some(Found { breaks, steps, overspent: None })
}

const I1: &str = "I1 grants stay within the cap";
const I2: &str = "I2 holders keep to their grants";
const I3: &str = "I3 what can be spent is committed";
const I7: &str = "I7 the books are right";

fn expected(flaw: Flaw) -> Option<Found> {
    match flaw {
        Flaw::ForfeitReleasesRemainder => found(I3, 4, 9),
        Flaw::ForfeitReleasesHeld => found(I3, 7, 11),
        Flaw::NoCallNumbers | Flaw::IgnoresGenerationsAndNumbers => found(I3, 6, 11),
        Flaw::LowersAfterAnswer | Flaw::BelievesLateAnswers => found(I3, 5, 10),
        Flaw::AnswersBeforeCommit => found(I3, 3, 8),
        Flaw::SpendsInNextWindow => found(I3, 5, 10),
        Flaw::AddsOverruns => short_of_overspending(I7, 8),
        Flaw::ForgetsClosing => short_of_overspending(I2, 7),
        Flaw::ReservesInPart => found(OVERSPENT, 6, 6),
        Flaw::ClosesWhileHeld => short_of_overspending(I7, 6),
        Flaw::OverrunsLeaveCap => short_of_overspending(I1, 7),
        Flaw::IgnoresLoweredCaps => short_of_overspending(I1, 3),
        // Not unsafe by itself. A lease is followed by another of the same holder only once its close was answered, and
        // reports of it have older call numbers. Generations matter where a store lost what it knew, and to find the end
        // of a request that outlived its lease.
        Flaw::IgnoresGenerations => None,
    }
}

#[test]
fn every_flaw_is_found() {
    for flaw in Flaw::ALL {
        let want = expected(flaw);
        let first = shortest(flaw, &HasDiscoveries::AnyFailures);
        // Where the cap holds all the same, that is found out only by going through everything.
        let overspent = want.and_then(|want| want.overspent).and_then(|_| shortest(flaw, &HasDiscoveries::AnyOf([OVERSPENT].into())));
        println!("{flaw:?}");
        for (property, path) in first.iter().chain(&overspent) {
            println!("  {} steps: {property}", path.len());
            path.iter().for_each(|action| println!("    {action:?}"));
        }
        let found = first.map(|(breaks, path)| Found { breaks, steps: path.len(), overspent: overspent.map(|(_, path)| path.len()) });
        assert_eq!(found, want, "{flaw:?}");
    }
}
