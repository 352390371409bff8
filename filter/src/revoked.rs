//! What this worker knows to be revoked, and up to which number. No calls: pages and tails come in, verdicts go out.

use authn::{Mark, Marks, Revocations};
use decision_core::policy::CompiledPolicy;
use decision_core::principal::{Principal, RevocationKind};
use serde::{Deserialize, Serialize};
use std::cell::{Cell, OnceCell};
use std::collections::VecDeque;
use std::rc::Rc;
use wire::revocation::{RevocationChange, RevocationPage};

/// The changes that the others are told: as many as are made in a second on a bad day.
pub(crate) const TAIL_CHANGES_MAX: usize = 1_024;
/// What all tables may take. While everything is fetched afresh there are two, and the old one stays in force only if both fit.
const BYTES_MAX: usize = 8 * 1_024 * 1_024;
/// Room for more than this is not made ahead: a number from outside must not be able to take all memory.
const EXPECTED_MAX: usize = 400_000;
/// A mark, a bound, and a byte of the table's own; one of eight places stays empty, and their number is a power of two.
const ENTRY_BYTES: usize = size_of::<Mark>() + size_of::<i64>() + 1;

/// A number in a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) database_id: [u8; 16],
    pub(crate) number: u64,
}

/// The last changes, for a worker that knows those before them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tail {
    /// Where they lead.
    pub(crate) to: Place,
    /// They are all changes after this number.
    pub(crate) after: u64,
    pub(crate) changes: Vec<RevocationChange>,
}

/// A verified token: its user, and whether it is revoked, as of the last time that this was looked up.
#[derive(Debug)]
pub(crate) struct VerifiedToken {
    pub(crate) principal: Rc<Principal>,
    /// Up to seven digests: made when there is something to compare them with.
    marks: OnceCell<Marks>,
    judged: Cell<(u64, Option<RevocationKind>)>,
    /// The user under the policy in shadow. A token is verified anew under another bundle, so there is only one such policy.
    in_shadow: OnceCell<Option<Principal>>,
}

impl VerifiedToken {
    pub(crate) fn new(principal: Rc<Principal>) -> Self {
        Self { principal, marks: OnceCell::new(), judged: Cell::new((0, None)), in_shadow: OnceCell::new() }
    }

    /// The user under the policy in shadow; none where that knows none of the roles.
    pub(crate) fn in_shadow(&self, policy: &CompiledPolicy) -> Option<&Principal> {
        self.in_shadow.get_or_init(|| policy.principal(self.principal.identity.clone())).as_ref()
    }
}

/// Everything that is revoked, as far as it is known here.
#[derive(Debug)]
pub(crate) struct Revoked {
    list: Revocations,
    /// Up to where `list` is complete; none until it was complete once.
    known: Option<Place>,
    /// A list under way, and what is in it. It takes the place of `list` when it is complete.
    fresh: Option<(Revocations, Place)>,
    /// Rises with every change of `list`; from 1.
    epoch: u64,
    tail: VecDeque<RevocationChange>,
    tail_after: u64,
}

impl Default for Revoked {
    fn default() -> Self {
        Self { list: Revocations::default(), known: None, fresh: None, epoch: 1, tail: VecDeque::new(), tail_after: 0 }
    }
}

/// Whether more pages have to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    More,
    CaughtUp,
}

/// The page is of another database than what is known, and does not say that it starts anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a page of revocations does not follow what is known")]
pub(crate) struct DoesNotFollow;

/// What a tail was good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Followed {
    Nothing,
    Applied,
    /// It begins after what is known here, or is of another database.
    Missed,
}

impl Revoked {
    /// Up to where everything is enforced; none until that is known.
    pub(crate) const fn known(&self) -> Option<Place> {
        self.known
    }

    /// The last revocation that is enforced; 0 until any is.
    pub(crate) fn number(&self) -> u64 {
        self.known.map_or(0, |known| known.number)
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Where the next page begins.
    pub(crate) fn cursor(&self) -> Option<Place> {
        self.fresh.as_ref().map(|(_, place)| *place).or(self.known)
    }

    /// Whether a verified token is revoked. What was found is remembered until anything changes.
    pub(crate) fn verdict(&self, token: &VerifiedToken) -> Option<RevocationKind> {
        let (epoch, verdict) = token.judged.get();
        if epoch == self.epoch {
            return verdict;
        }
        let verdict =
            if self.list.is_empty() { None } else { self.list.find(token.marks.get_or_init(|| Marks::of(&token.principal.identity))) };
        token.judged.set((self.epoch, verdict));
        verdict
    }

    /// Takes a page that was fetched from [`Self::cursor`].
    pub(crate) fn take(&mut self, page: &RevocationPage) -> Result<Taken, DoesNotFollow> {
        let place = Place { database_id: page.database_id, number: page.through };
        let cursor = self.cursor();
        match cursor.filter(|_| !page.reset) {
            None => self.begin_anew(place, page.total),
            Some(cursor) if cursor.database_id != place.database_id => return Err(DoesNotFollow),
            // A tail was quicker.
            Some(cursor) if cursor.number > place.number => return Ok(if page.more { Taken::More } else { Taken::CaughtUp }),
            Some(_) => {}
        }
        match &mut self.fresh {
            Some((list, reached)) => {
                page.changes.iter().for_each(|change| apply(list, change));
                *reached = place;
            }
            None => self.advance(place, page.changes.iter()),
        }
        if page.more || self.is_behind_itself() {
            return Ok(Taken::More);
        }
        if let Some((list, reached)) = self.fresh.take() {
            self.list = list;
            self.known = Some(reached);
            self.tail.clear();
            self.tail_after = reached.number;
            self.epoch += 1;
        }
        Ok(Taken::CaughtUp)
    }

    /// Nothing follows the cursor.
    pub(crate) fn take_nothing(&mut self) -> Result<Taken, DoesNotFollow> {
        let cursor = self.cursor().ok_or(DoesNotFollow)?;
        self.take(&RevocationPage { database_id: cursor.database_id, through: cursor.number, ..RevocationPage::default() })
    }

    /// A tail may have carried the old list further than the last page carried the fresh one.
    fn is_behind_itself(&self) -> bool {
        self.known
            .zip(self.fresh.as_ref())
            .is_some_and(|(known, (_, fresh))| known.database_id == fresh.database_id && known.number > fresh.number)
    }

    /// The old list stays in force meanwhile, if there is room for both; else nothing is known until the new one is complete.
    fn begin_anew(&mut self, place: Place, total: u32) {
        self.fresh = None;
        let expected = usize::try_from(total).unwrap_or(EXPECTED_MAX).min(EXPECTED_MAX);
        if bytes(self.list.len()) + bytes(expected) > BYTES_MAX {
            self.list = Revocations::default();
            self.known = None;
            self.epoch += 1;
        }
        let mut list = Revocations::default();
        list.reset(expected);
        self.fresh = Some((list, place));
    }

    /// Takes what another worker was told, if it follows what is known here.
    pub(crate) fn follow(&mut self, tail: &Tail) -> Followed {
        let Some(known) = self.known.filter(|known| known.database_id == tail.to.database_id) else { return Followed::Missed };
        if tail.to.number <= known.number {
            return Followed::Nothing;
        }
        if tail.after > known.number {
            return Followed::Missed;
        }
        self.advance(tail.to, tail.changes.iter().filter(|change| change.number > known.number));
        Followed::Applied
    }

    fn advance<'c>(&mut self, to: Place, changes: impl Iterator<Item = &'c RevocationChange>) {
        for change in changes {
            apply(&mut self.list, change);
            self.epoch += 1;
            if self.tail.len() >= TAIL_CHANGES_MAX {
                self.tail_after = self.tail.pop_front().map_or(0, |oldest| oldest.number);
            }
            self.tail.push_back(*change);
        }
        self.known = Some(to);
    }

    /// What the others are told.
    pub(crate) fn tail(&self) -> Option<Tail> {
        self.known.map(|to| Tail { to, after: self.tail_after, changes: self.tail.iter().copied().collect() })
    }
}

fn apply(list: &mut Revocations, change: &RevocationChange) {
    if change.lifted { list.lift(Mark(change.mark)) } else { list.revoke(Mark(change.mark), change.bound) }
}

/// What a table of so many entries takes.
pub(crate) const fn bytes(entries: usize) -> usize {
    let places = entries.saturating_mul(8).div_ceil(7).next_power_of_two();
    places.saturating_mul(ENTRY_BYTES)
}
