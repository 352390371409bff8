//! A holder: what it may spend, what it reports, what it believes. The trait is the seam at which the filter's own holder
//! takes the place of this plain one.

use crate::config::{Config, Flaw};
use crate::terms::{Answered, Grant, Key, Outcome, PerKey, Report, Request, Units, Want, Window};
use std::fmt::Debug;
use std::hash::Hash;

/// What came of a try to reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// Everything is held.
    Held,
    /// Nothing is: some lease has no room.
    Short,
    /// Nothing is, and some account was said to be spent.
    Spent(Key),
}

/// One holder.
pub trait Holder: Clone + Debug + Eq + Hash + Send + Sync + 'static {
    /// A new one.
    fn fresh() -> Self;

    /// What may still be reserved of a lease.
    fn room(&self, key: Key) -> Units;

    /// Holds every charge of a request, or none. It becomes the `place`-th of those under way.
    fn reserve(&mut self, config: &Config, request: Request, place: usize) -> Reserved;

    /// Ends the `place`-th request.
    fn finish(&mut self, place: usize, request: Request, outcome: Outcome);

    /// What to report and ask; `None` when there is nothing of the kind to say.
    fn report(&mut self, config: &Config, want: Want, window: Window) -> Option<PerKey<Option<Report>>>;

    /// Takes the answer to its last call.
    fn apply(&mut self, answered: &Answered);
}

/// The actual cost of a request, as (used, beyond the reservation).
#[must_use]
pub fn cost(request: Request, key: Key, outcome: Outcome) -> (Units, Units) {
    let reserved = request.of_lease(key);
    match (outcome, key) {
        (Outcome::Released, _) => (0, 0),
        (Outcome::Less, Key::Money) => (reserved.saturating_sub(1), 0),
        (Outcome::More, Key::Money) => (reserved, 1),
        (Outcome::Exact | Outcome::Less | Outcome::More, _) => (reserved, 0),
    }
}

/// A lease as its holder sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Purse {
    generation: u8,
    limit: Units,
    used: Units,
    held: Units,
    overrun: Units,
    closing: bool,
}

impl Purse {
    const fn taken(&self) -> Units {
        self.used + self.held
    }

    fn report(&self, target: Units, minimum: Units, charge: Units) -> Report {
        let Self { generation, used, held, overrun, closing: close, .. } = *self;
        Report { generation, used, held, overrun, target, minimum, charge, close }
    }
}

/// A holder by the protocol and nothing else: when to ask and when to give back is left open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PlainHolder {
    purses: PerKey<Option<Purse>>,
    generation: u8,
}

impl PlainHolder {
    /// Opens the purses of a charge.
    fn open(&mut self, key: Key) {
        if self.purses.at(key).is_none() {
            self.generation += 1;
            let generation = self.generation;
            *self.purses.at_mut(key) = Some(Purse { generation, limit: 0, used: 0, held: 0, overrun: 0, closing: false });
        }
    }
}

/// What `want` adds to what is taken of a lease.
fn asked(want: Want, key: Key, window: Window) -> Units {
    match want {
        Want::Ask(charge) => Request { charge, window, lease: window }.of_lease(key),
        Want::Report | Want::Lower | Want::Close => 0,
    }
}

impl Holder for PlainHolder {
    fn fresh() -> Self {
        Self::default()
    }

    fn room(&self, key: Key) -> Units {
        self.purses.at(key).map_or(0, |purse| purse.limit.saturating_sub(purse.taken()))
    }

    fn reserve(&mut self, config: &Config, request: Request, _place: usize) -> Reserved {
        let short = |key: &Key| self.room(*key) < request.of_lease(*key);
        let in_part = config.has(Flaw::ReservesInPart) && !short(&Key::Money);
        if !in_part && Key::ALL.iter().any(short) {
            return Reserved::Short;
        }
        for key in Key::ALL {
            let amount = request.of_lease(key).min(self.room(key));
            if let Some(purse) = self.purses.at_mut(key) {
                purse.held += amount;
            }
        }
        Reserved::Held
    }

    fn finish(&mut self, _place: usize, request: Request, outcome: Outcome) {
        for key in Key::ALL {
            if let Some(purse) = self.purses.at_mut(key) {
                let (used, beyond) = cost(request, key, outcome);
                purse.held = purse.held.saturating_sub(request.of_lease(key));
                purse.used += used;
                purse.overrun += beyond;
            }
        }
    }

    fn report(&mut self, config: &Config, want: Want, window: Window) -> Option<PerKey<Option<Report>>> {
        if let Want::Ask(charge) = want {
            let request = Request { charge, window, lease: window };
            if Key::ALL.iter().all(|key| self.room(*key) >= request.of_lease(*key)) {
                return None;
            }
            Key::ALL.into_iter().filter(|key| request.of_lease(*key) > 0).for_each(|key| self.open(key));
        }
        let mut reports = PerKey::default();
        for key in Key::ALL {
            let Some(purse) = self.purses.at_mut(key) else { continue };
            let asked = asked(want, key, window);
            let over = matches!(key, Key::Rate(at) if at < window);
            let idle = asked == 0 && (purse.held == 0 || config.has(Flaw::ClosesWhileHeld));
            purse.closing |= idle && (over || want == Want::Close);
            let short = purse.limit.saturating_sub(purse.taken()) < asked;
            let minimum = purse.taken() + if short { asked } else { 0 };
            let target = match want {
                Want::Lower => purse.taken(),
                Want::Close | Want::Report | Want::Ask(_) if purse.closing || over => purse.taken(),
                Want::Ask(_) if short => minimum + config.ahead,
                Want::Report | Want::Ask(_) | Want::Close => purse.limit.max(purse.taken()),
            };
            // INVARIANT (lower first): from here on, whether or not the call arrives.
            if !config.has(Flaw::LowersAfterAnswer) {
                purse.limit = purse.limit.min(target);
            }
            // What nothing waits for any more goes with the next call.
            let charge = asked.max(1);
            *reports.at_mut(key) = Some(purse.report(target, minimum, charge));
        }
        (reports != PerKey::default()).then_some(reports)
    }

    fn apply(&mut self, answered: &Answered) {
        let grants = match answered {
            Answered::Closed => {
                *self = Self { generation: self.generation, ..Self::default() };
                return;
            }
            Answered::Booked(grants) => grants,
        };
        for key in Key::ALL {
            let (Some(Grant { generation, granted, .. }), Some(purse)) = (grants.at(key), self.purses.at_mut(key)) else { continue };
            if purse.generation == *generation {
                if purse.closing {
                    *self.purses.at_mut(key) = None;
                } else {
                    purse.limit = *granted;
                }
            }
        }
    }
}
