//! All revocations in memory: what filters are told, and what the admin API's own callers are checked against. Only what
//! is committed gets here.

use super::store::{Change, Counter};
use authn::{Mark, Marks, Revocations};
use decision_core::principal::RevocationKind;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use wire::revocation::{PAGE_CHANGES_MAX, RevocationChange, RevocationPage};

/// The copy, and a signal that it changed.
#[derive(Debug)]
pub struct Revoked {
    known: RwLock<Known>,
    number: watch::Sender<u64>,
    /// When the database was last read.
    read_at: watch::Sender<Instant>,
    /// Held while the database is read, so that an older reading never follows a newer one.
    pub(super) reading: tokio::sync::Mutex<()>,
}

impl Default for Revoked {
    fn default() -> Self {
        let (number, read_at) = (watch::Sender::new(0), watch::Sender::new(Instant::now()));
        Self { known: RwLock::default(), number, read_at, reading: tokio::sync::Mutex::new(()) }
    }
}

#[derive(Debug, Default)]
struct Known {
    number: u64,
    floor: u64,
    live: u32,
    revocations: Revocations,
    changes: BTreeMap<u64, RevocationChange>,
    numbers: HashMap<[u8; 16], u64>,
}

/// What a filter knows already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The last number.
    pub after: u64,
    /// The database that it is of, if any.
    pub database: Option<[u8; 16]>,
}

impl Revoked {
    /// The number up to which everything is known here.
    #[must_use]
    pub fn number(&self) -> u64 {
        *self.number.borrow()
    }

    /// How long ago the database was last read.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.read_at.borrow().elapsed()
    }

    /// Notes a reading that began then.
    pub fn was_read(&self, at: Instant) {
        self.read_at.send_replace(at);
    }

    /// Tells when the number changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.number.subscribe()
    }

    /// How many entries are in force.
    #[must_use]
    pub fn live(&self) -> u32 {
        self.read(|known| known.live)
    }

    /// What revokes a token, if anything does.
    #[must_use]
    pub fn find(&self, marks: &Marks) -> Option<RevocationKind> {
        self.read(|known| known.revocations.find(marks))
    }

    /// Whether exactly this is revoked.
    #[must_use]
    pub fn contains(&self, mark: Mark) -> bool {
        self.read(|known| {
            let change = known.numbers.get(&mark.0).and_then(|number| known.changes.get(number));
            change.is_some_and(|change| !change.lifted)
        })
    }

    /// The next page for a filter that knows this much.
    #[must_use]
    pub fn page(&self, database_id: [u8; 16], position: Position) -> RevocationPage {
        self.read(|known| known.page(database_id, position))
    }

    /// Takes what was read from the database after [`Self::number`]; with `anew`, all that there is.
    pub(super) fn apply(&self, counter: Counter, changes: &[Change], anew: bool) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if anew {
            *known = Known::default();
            known.revocations.reset(changes.len());
        }
        known.apply(counter, changes);
        let number = known.number;
        drop(known);
        self.number.send_if_modified(|current| std::mem::replace(current, number) != number);
    }

    fn read<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        look(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Known {
    fn apply(&mut self, counter: Counter, changes: &[Change]) {
        for change in changes {
            let number = unsigned(change.number);
            if let Some(older) = self.numbers.insert(change.mark, number) {
                self.changes.remove(&older);
            }
            let Change { mark, bound, lifted, .. } = *change;
            self.changes.insert(number, RevocationChange { number, mark, bound, lifted });
            if lifted {
                self.revocations.lift(Mark(mark));
            } else {
                self.revocations.revoke(Mark(mark), bound);
            }
        }
        self.number = unsigned(counter.number);
        self.live = u32::try_from(counter.live).unwrap_or(u32::MAX);
        let floor = unsigned(counter.floor);
        if floor > self.floor {
            self.floor = floor;
            self.forget_ended();
        }
    }

    /// Whoever knows less than the floor gets everything; nobody is told any more what ended below it.
    fn forget_ended(&mut self) {
        let ended: Vec<_> = self.changes.range(..=self.floor).filter(|(_, change)| change.lifted).map(|(_, change)| *change).collect();
        for change in ended {
            self.changes.remove(&change.number);
            self.numbers.remove(&change.mark);
        }
    }

    fn page(&self, database_id: [u8; 16], position: Position) -> RevocationPage {
        let Position { after, database } = position;
        let reset = database != Some(database_id) || after < self.floor || after > self.number;
        let start = if reset { 0 } else { after };
        // To somebody who knows nothing, what ended is no news.
        let wanted = |change: &&RevocationChange| !(reset && change.lifted);
        let rest = self.changes.range((Bound::Excluded(start), Bound::Unbounded)).map(|(_, change)| change).filter(wanted);
        let mut changes: Vec<RevocationChange> = rest.take(PAGE_CHANGES_MAX.saturating_add(1)).copied().collect();
        let more = changes.len() > PAGE_CHANGES_MAX;
        changes.truncate(PAGE_CHANGES_MAX);
        let through = match changes.last() {
            // INVARIANT (one page reaches the floor): at most BELOW_FLOOR_MAX entries in force lie below it.
            Some(last) if more => last.number.max(if reset { self.floor } else { 0 }),
            Some(_) | None => self.number,
        };
        RevocationPage { database_id, reset, through, more, total: self.live, changes, caps: 0 }
    }
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATABASE: [u8; 16] = [1; 16];

    fn change(number: i64, thing: u16, lifted: bool) -> Change {
        let [a, b] = thing.to_be_bytes();
        let mut mark = [0; 16];
        (mark[0], mark[1]) = (a, b);
        Change { number, mark, bound: 0, lifted }
    }

    fn counter(number: i64, floor: i64, live: i64) -> Counter {
        Counter { number, floor, live }
    }

    fn ask(revoked: &Revoked, after: u64) -> RevocationPage {
        revoked.page(DATABASE, Position { after, database: Some(DATABASE) })
    }

    fn numbers(page: &RevocationPage) -> Vec<u64> {
        page.changes.iter().map(|change| change.number).collect()
    }

    #[test]
    fn only_the_latest_change_of_a_thing_is_told() {
        let revoked = Revoked::default();
        revoked.apply(counter(3, 0, 2), &[change(1, 1, false), change(2, 2, false), change(3, 3, false)], false);
        revoked.apply(counter(5, 0, 2), &[change(4, 1, false), change(5, 2, true)], false);
        let page = ask(&revoked, 1);
        assert_eq!((numbers(&page), page.reset, page.through, page.more, page.total), (vec![3, 4, 5], false, 5, false, 2));
        let everything = revoked.page(DATABASE, Position { after: 0, database: None });
        assert_eq!((numbers(&everything), everything.reset), (vec![3, 4], true), "what was lifted is not told");
        assert!(revoked.contains(Mark(change(0, 1, false).mark)) && !revoked.contains(Mark(change(0, 2, false).mark)));
    }

    #[test]
    fn whoever_is_of_another_database_too_old_or_too_new_starts_afresh() {
        let revoked = Revoked::default();
        revoked.apply(counter(9, 5, 1), &[change(9, 1, false)], false);
        assert!(revoked.page(DATABASE, Position { after: 9, database: Some([2; 16]) }).reset);
        assert!(ask(&revoked, 4).reset && ask(&revoked, 10).reset);
        assert!(!ask(&revoked, 5).reset && !ask(&revoked, 9).reset);
    }

    #[test]
    fn a_walk_through_pages_ends_and_misses_nothing_although_its_beginning_is_below_the_floor() {
        let revoked = Revoked::default();
        let live: Vec<Change> = (1..=2_000)
            .map(|number| change(number, u16::try_from(number).unwrap(), false))
            .chain((20_001..=30_000).map(|number| change(number, u16::try_from(number).unwrap(), false)))
            .collect();
        revoked.apply(counter(30_000, 20_000, 12_000), &live, false);
        let mut page = revoked.page(DATABASE, Position { after: 0, database: None });
        let mut seen = numbers(&page);
        let mut pages = 1;
        while page.more {
            page = ask(&revoked, page.through);
            assert!(!page.reset && page.changes.len() <= PAGE_CHANGES_MAX);
            seen.extend(numbers(&page));
            pages += 1;
        }
        assert_eq!((seen.len(), pages, page.through), (12_000, 3, 30_000));
    }

    #[test]
    fn ended_entries_below_the_floor_are_forgotten() {
        let revoked = Revoked::default();
        revoked.apply(counter(3, 0, 1), &[change(1, 1, false), change(2, 2, true), change(3, 3, true)], false);
        revoked.apply(counter(3, 2, 1), &[], false);
        assert_eq!(numbers(&ask(&revoked, 2)), [3]);
        revoked.apply(counter(1, 0, 1), &[change(1, 1, false)], true);
        assert_eq!((revoked.number(), numbers(&ask(&revoked, 0))), (1, vec![1]), "a database that was set back");
    }
}
