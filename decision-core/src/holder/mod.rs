//! The leases that one virtual machine holds: all-or-nothing reservations, and what to report and ask.
//!
//! Pure: the caller carries reports to the control plane and answers back. Reserving allocates only for an account
//! that was not seen before.

mod account;
mod keep;
mod shortfall;

pub use account::{Grant, Override, Report, Standing};
pub use keep::Keep;
pub use shortfall::Shortfall;

use crate::budget::{BudgetId, Rhythm, Units, Window};
use crate::decision::Charges;
use crate::failure::{FailureMode, Fault, Resolution, resolve};
use crate::lease::{Reservation, Settlement};
use crate::policy::{CHARGES_MAX, CompiledPolicy};
use crate::principal::Principal;
use crate::time::Timestamp;
use account::{Account, Next, Spent};
use core::cmp::Reverse;
use core::hash::BuildHasher;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::collections::BinaryHeap;

/// Most accounts that a holder keeps. Beyond it, requests of new accounts are answered by the failure mode.
pub const ACCOUNTS_MAX: usize = 100_000;

/// The budgets of one policy under the names that outlive it.
#[derive(Clone, Debug)]
pub struct Binding(Vec<u16>);

/// Every lease of one virtual machine.
#[derive(Debug, Default)]
pub struct LeaseHolder {
    names: Vec<Box<str>>,
    windows: Vec<Option<(Rhythm, Window)>>,
    accounts: Vec<Option<Account>>,
    vacant: Vec<u32>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    generation: u64,
    scope: String,
    /// Accounts to report before the next regular call, by the moment. An entry whose account has another moment by now is void.
    urgent: BinaryHeap<Reverse<(Timestamp, u64, AccountRef)>>,
    /// How many ever took a place there: at the same moment, who was first is first.
    lined_up: u64,
    /// Counts the calls: nothing is told twice in one.
    round: u32,
    /// Where the next reports begin, if not all fitted into the last call.
    unfinished: Option<usize>,
    keep: Keep,
}

/// Whether an account has room for a charge.
#[derive(Clone, Copy, Debug)]
enum Room {
    Enough,
    AskedFor,
    Unknown,
    Spent(Window, Spent),
}

/// One account of this holder, for as long as its lease lasts. Not reused for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountRef {
    slot: u32,
    generation: u64,
}

/// What one request holds: one reservation per charge. Moved into [`LeaseHolder::settle`] or `release`, once.
#[derive(Debug, Default)]
#[must_use = "settle or release it"]
pub struct Reservations {
    held: [Option<(AccountRef, BudgetId, Reservation)>; CHARGES_MAX],
    failed_open: bool,
}

impl Reservations {
    /// Whether a budget could not be asked and let the request through.
    #[must_use]
    pub const fn failed_open(&self) -> bool {
        self.failed_open
    }

    /// The budgets and amounts.
    pub fn iter(&self) -> impl Iterator<Item = (BudgetId, Units)> + '_ {
        self.held.iter().flatten().map(|(_, budget, reservation)| (*budget, reservation.amount()))
    }
}

/// What one request was charged in the end, per charge.
#[derive(Clone, Copy, Debug, Default)]
pub struct Charged {
    entries: [Option<(AccountRef, Settlement)>; CHARGES_MAX],
}

impl Charged {
    /// What came of each charge.
    pub fn iter(&self) -> impl Iterator<Item = Settlement> + '_ {
        self.entries.iter().flatten().map(|(_, settlement)| *settlement)
    }
}

/// A place in the queue of some accounts: their next wants cover it. Give it back with [`LeaseHolder::end_wait`].
#[derive(Debug)]
#[must_use = "give it back, or the accounts ask for ever"]
pub struct Wait {
    places: [Option<(AccountRef, Units)>; CHARGES_MAX],
}

/// What to do about an account without room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenShort {
    /// Take a place in its queue.
    Wait,
    /// Apply the budget's failure mode.
    FailureMode,
}

impl LeaseHolder {
    /// The names under which the holder knows the budgets of `policy`.
    pub fn bind(&mut self, policy: &CompiledPolicy) -> Binding {
        let mut binding = Vec::with_capacity(policy.budgets().len());
        for budget in policy.budgets() {
            let known = self.names.iter().position(|name| *name == budget.name);
            let index = known.unwrap_or_else(|| {
                self.names.push(budget.name.clone());
                self.windows.push(None);
                self.names.len() - 1
            });
            binding.push(u16::try_from(index).unwrap_or(u16::MAX));
        }
        // A new policy may have raised caps.
        self.forget_spent();
        Binding(binding)
    }

    /// Holds every charge, or none.
    ///
    /// # Errors
    /// The first budget that is spent; else that some account has to wait, or what its failure mode says.
    pub fn reserve(
        &mut self,
        policy: &CompiledPolicy,
        binding: &Binding,
        principal: &Principal,
        charges: &Charges,
        now: Timestamp,
        when_short: WhenShort,
    ) -> Result<Reservations, Shortfall> {
        let mut places: [Option<(AccountRef, Units)>; CHARGES_MAX] = [None; CHARGES_MAX];
        let (mut short, mut doubtful) = (false, false);
        let mut failed_open = false;
        for (charge, place) in charges.iter().zip(places.iter_mut()) {
            let found = self.find_or_open(policy, binding, principal, charge.budget, now)?;
            let (found, room) = self.room_beside(found, self.room(found, charge.amount, when_short), charge.amount, when_short, now);
            match room {
                Room::Spent(window, Spent { cap, settled, .. }) => {
                    return Err(Shortfall::Spent { budget: charge.budget, window, cap, settled });
                }
                Room::Enough => *place = found.map(|found| (found, charge.amount)),
                Room::AskedFor => {
                    short = true;
                    let beyond = policy.budget(charge.budget).is_some_and(|budget| charge.amount > budget.cap);
                    doubtful |= beyond && found.and_then(|found| self.known(found)).is_some_and(|account| !account.is_told());
                    *place = found.map(|found| (found, charge.amount));
                }
                Room::Unknown => match resolve(Fault::BudgetUnavailable, mode(policy, charge.budget)) {
                    Resolution::FailedClosed => return Err(Shortfall::Unavailable(charge.budget)),
                    // The control plane did answer: the rest is reserved by open requests, or leased to others who use it.
                    Resolution::FailedOpen => match found.and_then(|found| self.known(found)).and_then(Account::refused) {
                        Some((window, Spent { cap, settled, .. })) => {
                            return Err(Shortfall::Taken { budget: charge.budget, window, cap, settled });
                        }
                        None => failed_open = true,
                    },
                },
            }
        }
        if doubtful {
            // More than the policy's cap of some account, whose own cap is not known yet: the others are not asked for it.
            let cap = |budget| policy.budget(budget).map_or(Units::ZERO, |budget| budget.cap);
            let likely = charges.iter().zip(places.iter_mut()).filter(|(charge, _)| charge.amount <= cap(charge.budget));
            likely.for_each(|(_, place)| *place = None);
        }
        if short {
            return Err(Shortfall::Short(self.begin_wait(places, now)));
        }
        Ok(self.hold(charges, places, now, failed_open))
    }

    fn room(&self, found: Option<AccountRef>, amount: Units, when_short: WhenShort) -> Room {
        match found.and_then(|found| self.known(found)) {
            None => Room::Unknown,
            Some(account) if account.lease.room() >= amount => Room::Enough,
            Some(account) => match account.spent(amount) {
                Some(spent) => Room::Spent(account.window, spent),
                None if when_short == WhenShort::Wait => Room::AskedFor,
                None => Room::Unknown,
            },
        }
    }

    /// Where an account is spent and a second one was granted beside it: that one. When both are spent, the first counts.
    fn room_beside(
        &mut self,
        found: Option<AccountRef>,
        room: Room,
        amount: Units,
        when_short: WhenShort,
        now: Timestamp,
    ) -> (Option<AccountRef>, Room) {
        let Room::Spent(_, Spent { overriding: Some(second), .. }) = room else { return (found, room) };
        if !second.window.contains(now) {
            return (found, room);
        }
        let beside = found.and_then(|found| self.open_beside(found, second));
        match self.room(beside, amount, when_short) {
            Room::Spent(..) => (found, room),
            other @ (Room::Enough | Room::AskedFor | Room::Unknown) => (beside, other),
        }
    }

    fn open_beside(&mut self, first: AccountRef, second: Override) -> Option<AccountRef> {
        let mut scope = core::mem::take(&mut self.scope);
        scope.clear();
        let name = self.known(first).map(|account| {
            second.write_scope(&account.scope, &mut scope);
            account.name
        });
        self.scope = scope;
        let beside = self.find_or_open_scope(name?, second.window)?;
        if let Some(account) = self.account(beside) {
            account.next = Next::None;
        }
        Some(beside)
    }

    fn hold(
        &mut self,
        charges: &Charges,
        places: [Option<(AccountRef, Units)>; CHARGES_MAX],
        now: Timestamp,
        failed_open: bool,
    ) -> Reservations {
        let mut reservations = Reservations { failed_open, ..Reservations::default() };
        for ((charge, place), held) in charges.iter().zip(places).zip(reservations.held.iter_mut()) {
            let Some((found, amount)) = place else { continue };
            let Some(account) = self.account(found) else { continue };
            // There is room: it was checked above, and nothing else runs in between.
            if let Ok(reservation) = account.lease.reserve(amount) {
                let runs_low = account.reserved(amount, now);
                *held = Some((found, charge.budget, reservation));
                if runs_low {
                    self.ask(found, now);
                }
            }
        }
        reservations
    }

    fn begin_wait(&mut self, places: [Option<(AccountRef, Units)>; CHARGES_MAX], now: Timestamp) -> Box<Wait> {
        for (found, amount) in places.iter().flatten() {
            if let Some(account) = self.account(*found) {
                account.queue(*amount);
                // Where there is room it is the other accounts that are waited for.
                if account.lease.room() < account.waiting {
                    let when = account.may_ask(now);
                    self.ask(*found, when);
                }
            }
        }
        Box::new(Wait { places })
    }

    /// The account is reported at this moment, if it is not at an earlier one.
    fn ask(&mut self, found: AccountRef, when: Timestamp) {
        if self.account(found).is_some_and(|account| account.line_up(when)) {
            self.lined_up += 1;
            self.urgent.push(Reverse((when, self.lined_up, found)));
        }
    }

    /// Leaves the queue: to try again, or because the request is gone.
    pub fn end_wait(&mut self, wait: Box<Wait>) {
        for (found, amount) in wait.places.into_iter().flatten() {
            if let Some(account) = self.account(found) {
                account.unqueue(amount);
            }
        }
        self.drop_void();
    }

    /// Entries of accounts that are gone, or are to be reported at another moment or not at all: they would read as urgent.
    fn drop_void(&mut self) {
        while let Some(Reverse((when, _, found))) = self.urgent.peek().copied()
            && !self.known(found).is_some_and(|account| account.is_due(when))
        {
            self.urgent.pop();
        }
    }

    /// Charges what a request cost in the end: `actual` says it of a budget and what was reserved of it. Reservations of a
    /// lease that is gone were forfeited: nothing is left to do.
    pub fn settle(&mut self, reservations: Reservations, mut actual: impl FnMut(BudgetId, Units) -> Units) -> Charged {
        let mut charged = Charged::default();
        for ((found, budget, reservation), entry) in reservations.held.into_iter().flatten().zip(charged.entries.iter_mut()) {
            let actual = actual(budget, reservation.amount());
            if let Some(account) = self.account(found) {
                *entry = Some((found, account.lease.settle(reservation, actual)));
                account.dirty = true;
            }
        }
        charged
    }

    /// Gives back what was reserved.
    pub fn release(&mut self, reservations: Reservations) -> Charged {
        let mut charged = Charged::default();
        for ((found, _, reservation), entry) in reservations.held.into_iter().flatten().zip(charged.entries.iter_mut()) {
            if let Some(account) = self.account(found) {
                let returned = reservation.amount();
                account.lease.release(reservation);
                account.dirty = true;
                *entry = Some((found, Settlement { returned, ..Settlement::default() }));
            }
        }
        charged
    }

    /// How full the accounts are that `reservations` are charged to, as far as that is known.
    pub fn standings<'h>(&'h self, reservations: &'h Reservations) -> impl Iterator<Item = (BudgetId, Standing)> + Clone + 'h {
        let standing = move |(found, budget, _): &(AccountRef, BudgetId, Reservation)| Some((*budget, self.known(*found)?.standing()?));
        reservations.held.iter().flatten().filter_map(standing)
    }

    /// How full the accounts are that `charges` would be charged to, as far as that is known.
    pub fn standings_of(
        &mut self,
        policy: &CompiledPolicy,
        binding: &Binding,
        principal: &Principal,
        charges: &Charges,
        now: Timestamp,
    ) -> Vec<(BudgetId, Standing)> {
        let mut standings = Vec::new();
        for charge in charges.iter() {
            let found = self.find_or_open(policy, binding, principal, charge.budget, now).ok().flatten();
            standings.extend(found.and_then(|found| Some((charge.budget, self.known(found)?.standing()?))));
        }
        standings
    }

    /// Caps were changed, or override accounts granted: what was spent is asked again.
    pub fn forget_spent(&mut self) {
        self.accounts.iter_mut().flatten().for_each(Account::forget_spent);
    }

    /// Whether a call should be made now rather than at the next regular one.
    #[must_use]
    pub fn is_urgent(&self, now: Timestamp) -> bool {
        self.unfinished.is_some() || self.urgent.peek().is_some_and(|Reverse((when, ..))| *when <= now)
    }

    /// Whether there is any account, so that a regular call is due every second.
    #[must_use]
    pub fn holds_leases(&self) -> bool {
        !self.index.is_empty()
    }

    /// What to report and ask now, of all accounts. Lower targets are kept to from here on, whether or not the call arrives.
    pub fn reports(&mut self, now: Timestamp, most: usize, mut report: impl FnMut(Report<'_>)) {
        // However many are urgent, the others get their turn.
        let others = most / 4;
        let left = self.report_urgent(now, most - others, &mut report);
        self.open_next(now);
        self.report_all(now, left + others, &mut report);
    }

    /// What to report and ask before the next regular call: the accounts for which somebody waits, which run low, or which others
    /// want. Costs no look at the others, unless a call with all accounts was too small for them.
    pub fn urgent_reports(&mut self, now: Timestamp, most: usize, mut report: impl FnMut(Report<'_>)) {
        if self.unfinished.is_some() {
            return self.reports(now, most, report);
        }
        self.report_urgent(now, most, &mut report);
    }

    /// Begins a call. Answers how many more reports it may have.
    fn report_urgent(&mut self, now: Timestamp, most: usize, report: &mut impl FnMut(Report<'_>)) -> usize {
        self.round = self.round.wrapping_add(1);
        let mut left = most;
        while left > 0
            && let Some(Reverse((when, _, found))) = self.urgent.peek().copied()
            && when <= now
        {
            self.urgent.pop();
            let accounts = &mut self.accounts;
            let Some(account) = usize::try_from(found.slot).ok().and_then(|slot| accounts.get_mut(slot)?.as_mut()) else { continue };
            if account.generation != found.generation || !account.is_due(when) {
                continue;
            }
            let name = self.names.get(usize::from(account.name)).map_or("", |name| name);
            if let Some(made) = account.report(name, now, self.round, self.keep) {
                left -= 1;
                report(made);
            }
        }
        self.drop_void();
        left
    }

    fn report_all(&mut self, now: Timestamp, most: usize, report: &mut impl FnMut(Report<'_>)) {
        let begin = self.unfinished.take().unwrap_or(0);
        let mut left = most;
        // To the end and no further: what was told and not answered waits for the next regular call.
        for (place, account) in self.accounts.iter_mut().enumerate().skip(begin) {
            let Some(account) = account.as_mut().filter(|account| account.round != self.round) else { continue };
            // Not asked for its report, which would lower its lease and be lost.
            if left == 0 {
                self.unfinished = Some(place);
                return;
            }
            let name = self.names.get(usize::from(account.name)).map_or("", |name| name);
            if let Some(made) = account.report(name, now, self.round, self.keep) {
                left -= 1;
                report(made);
            }
        }
        self.drop_void();
    }

    /// Opens the accounts of the next window whose present one is in use and ends soon: nobody has to wait at the roll-over.
    fn open_next(&mut self, now: Timestamp) {
        let mut following = Vec::new();
        for account in self.accounts.iter_mut().flatten() {
            if self.keep == Keep::Leases && account.wants_next(now, &self.hasher) {
                account.next = Next::Asked;
                let rhythm = self.windows.get(usize::from(account.name)).copied().flatten().map(|(rhythm, _)| rhythm);
                let Some(rhythm) = rhythm else { continue };
                self.generation += 1;
                following.push(account.following(rhythm.window_at(account.window.end), self.generation, now));
            }
        }
        for account in following {
            let hash = account.hash(&self.hasher);
            let is_open = self.index.find(hash, |slot| at(&self.accounts, *slot).is_some_and(|known| known.is_same(&account))).is_some();
            if !is_open && self.index.len() < ACCOUNTS_MAX {
                self.insert(hash, account);
            }
        }
    }

    /// Takes the control plane's answer for one account.
    pub fn apply(&mut self, budget: &str, scope: &str, window_start: Timestamp, grant: &Grant) {
        let Some(slot) = self.lookup(budget, scope, window_start) else { return };
        let Some(account) = self.slot_mut(slot) else { return };
        if account.generation != grant.generation {
            return;
        }
        if account.closing {
            self.remove(slot);
        } else {
            account.apply(grant);
        }
    }

    /// Others wait for this account: its lease is lowered to what is taken, and that is reported at once. A lease without anything to
    /// spare stays as it is: it was lowered already, or the next regular report tells that it was used.
    pub fn recall(&mut self, budget: &str, scope: &str, window_start: Timestamp) {
        let Some(slot) = self.lookup(budget, scope, window_start) else { return };
        if let Some(account) = self.slot_mut(slot)
            && account.has_to_spare()
        {
            account.recalled = true;
            let found = AccountRef { slot, generation: account.generation };
            self.ask(found, Timestamp::EPOCH);
        }
    }

    /// The holder was closed: all leases are forfeited. Generations go on rising, so that late settlements find nothing.
    pub fn forget(&mut self) {
        self.accounts.clear();
        self.vacant.clear();
        self.index.clear();
        self.urgent.clear();
        self.unfinished = None;
    }

    /// The accounts that were charged, for the record: which, its budget's name, its scope, how much.
    pub fn charged<'h>(&'h self, charged: &'h Charged) -> impl Iterator<Item = (AccountRef, &'h str, &'h str, Settlement)> + 'h {
        charged.entries.iter().flatten().filter_map(|(found, settlement)| {
            let account = self.known(*found)?;
            Some((*found, self.names.get(usize::from(account.name)).map_or("", |name| &**name), &*account.scope, *settlement))
        })
    }

    fn find_or_open(
        &mut self,
        policy: &CompiledPolicy,
        binding: &Binding,
        principal: &Principal,
        id: BudgetId,
        now: Timestamp,
    ) -> Result<Option<AccountRef>, Shortfall> {
        let Some((budget, name)) = policy.budget(id).zip(binding.0.get(id.index()).copied()) else { return Ok(None) };
        let window = match self.windows.get_mut(usize::from(name)) {
            Some(Some((rhythm, window))) if *rhythm == budget.rhythm && window.contains(now) => *window,
            Some(cached) => cached.insert((budget.rhythm, budget.window_at(now))).1,
            None => budget.window_at(now),
        };
        self.scope.clear();
        budget.scope.write_scope(principal, &mut self.scope).map_err(|_| Shortfall::Unscoped(id))?;
        Ok(self.find_or_open_scope(name, window))
    }

    /// The account of `self.scope`; none when there are too many.
    fn find_or_open_scope(&mut self, name: u16, window: Window) -> Option<AccountRef> {
        let hash = self.hasher.hash_one((name, &*self.scope, window.start));
        let accounts = &self.accounts;
        let found = self.index.find(hash, |slot| at(accounts, *slot).is_some_and(|account| account.is(name, &self.scope, window.start)));
        if let Some(slot) = found {
            let generation = at(&self.accounts, *slot).map_or(0, |account| account.generation);
            return Some(AccountRef { slot: *slot, generation });
        }
        if self.index.len() >= ACCOUNTS_MAX {
            return None;
        }
        self.generation += 1;
        let account = Account::new(name, self.scope.as_str().into(), window, self.generation);
        Some(self.insert(hash, account))
    }

    fn insert(&mut self, hash: u64, account: Account) -> AccountRef {
        let generation = account.generation;
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.accounts.push(None);
            u32::try_from(self.accounts.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(place) = usize::try_from(slot).ok().and_then(|slot| self.accounts.get_mut(slot)) {
            *place = Some(account);
        }
        let (accounts, hasher) = (&self.accounts, &self.hasher);
        self.index.insert_unique(hash, slot, |slot| at(accounts, *slot).map_or(0, |account| account.hash(hasher)));
        AccountRef { slot, generation }
    }

    fn remove(&mut self, slot: u32) {
        let Some(account) = usize::try_from(slot).ok().and_then(|slot| self.accounts.get_mut(slot)).and_then(Option::take) else { return };
        if let Ok(entry) = self.index.find_entry(account.hash(&self.hasher), |known| *known == slot) {
            entry.remove();
        }
        self.vacant.push(slot);
    }

    fn lookup(&self, budget: &str, scope: &str, window_start: Timestamp) -> Option<u32> {
        let name = u16::try_from(self.names.iter().position(|name| &**name == budget)?).ok()?;
        let hash = self.hasher.hash_one((name, scope, window_start));
        let found = self.index.find(hash, |slot| at(&self.accounts, *slot).is_some_and(|account| account.is(name, scope, window_start)));
        found.copied()
    }

    fn slot_mut(&mut self, slot: u32) -> Option<&mut Account> {
        self.accounts.get_mut(usize::try_from(slot).ok()?)?.as_mut()
    }

    fn known(&self, found: AccountRef) -> Option<&Account> {
        at(&self.accounts, found.slot).filter(|account| account.generation == found.generation)
    }

    fn account(&mut self, found: AccountRef) -> Option<&mut Account> {
        self.slot_mut(found.slot).filter(|account| account.generation == found.generation)
    }
}

fn at(accounts: &[Option<Account>], slot: u32) -> Option<&Account> {
    accounts.get(usize::try_from(slot).ok()?)?.as_ref()
}

fn mode(policy: &CompiledPolicy, budget: BudgetId) -> FailureMode {
    policy.budget(budget).map_or(FailureMode::Closed, |budget| budget.failure_mode)
}
