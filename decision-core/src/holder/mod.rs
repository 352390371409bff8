//! The leases that one virtual machine holds: all-or-nothing reservations, and what to report and ask.
//!
//! Pure: the caller carries reports to the control plane and answers back. Reserving allocates only for an account
//! that was not seen before.

mod account;

pub use account::{Grant, Report};

use crate::budget::{BudgetId, Rhythm, Units, Window};
use crate::decision::Charges;
use crate::failure::{FailureMode, Fault, Resolution, resolve};
use crate::lease::{Reservation, Settlement};
use crate::policy::{CHARGES_MAX, CompiledPolicy};
use crate::principal::Principal;
use crate::time::Timestamp;
use account::Account;
use core::hash::BuildHasher;
use hashbrown::{DefaultHashBuilder, HashTable};

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
    urgent: bool,
    /// Where the next reports begin: what did not fit into the last call comes first.
    next_report: usize,
}

/// Whether an account has room for a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Enough,
    AskedFor,
    Unknown,
}

/// One account of this holder, for as long as its lease lasts. Not reused for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// A place in the queue of some accounts: their next wants cover it. Give it back with [`LeaseHolder::end_wait`].
#[derive(Debug)]
#[must_use = "give it back, or the accounts ask for ever"]
pub struct Wait {
    places: [Option<(AccountRef, Units)>; CHARGES_MAX],
}

/// Why nothing was reserved.
#[derive(Debug)]
pub enum Shortfall {
    /// No window of this budget will have room for the charge.
    Spent {
        /// The budget.
        budget: BudgetId,
        /// Its window.
        window: Window,
        /// The cap.
        cap: Units,
        /// Charged by everybody, as far as known.
        settled: Units,
    },
    /// The control plane has to be asked.
    Short(Box<Wait>),
    /// The user has none of the values that this budget's scope names.
    Unscoped(BudgetId),
    /// The budget cannot be asked, and its failure mode is closed.
    Unavailable(BudgetId),
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
        // A new policy may have raised caps: what was spent is asked again.
        for account in self.accounts.iter_mut().flatten() {
            account.forget_spent();
        }
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
        let mut short = false;
        let mut failed_open = false;
        for (charge, place) in charges.iter().zip(places.iter_mut()) {
            let found = self.find_or_open(policy, binding, principal, charge.budget, now)?;
            let room = match found.and_then(|found| self.account(found)) {
                None => Room::Unknown,
                Some(account) if account.lease.room() >= charge.amount => Room::Enough,
                Some(account) => match account.spent(charge.amount) {
                    Some((cap, settled)) => return Err(Shortfall::Spent { budget: charge.budget, window: account.window, cap, settled }),
                    None if when_short == WhenShort::Wait => Room::AskedFor,
                    None => Room::Unknown,
                },
            };
            match room {
                Room::Enough | Room::AskedFor => {
                    short |= room == Room::AskedFor;
                    *place = found.map(|found| (found, charge.amount));
                }
                Room::Unknown => match resolve(Fault::BudgetUnavailable, mode(policy, charge.budget)) {
                    Resolution::FailedClosed => return Err(Shortfall::Unavailable(charge.budget)),
                    Resolution::FailedOpen => failed_open = true,
                },
            }
        }
        if short {
            return Err(Shortfall::Short(self.begin_wait(places)));
        }
        Ok(self.hold(charges, places, now, failed_open))
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
                self.urgent |= runs_low;
            }
        }
        reservations
    }

    fn begin_wait(&mut self, places: [Option<(AccountRef, Units)>; CHARGES_MAX]) -> Box<Wait> {
        for (found, amount) in places.iter().flatten() {
            if let Some(account) = self.account(*found) {
                account.waiting = account.waiting.plus(*amount);
                account.charge = account.charge.max(*amount);
            }
        }
        self.urgent = true;
        Box::new(Wait { places })
    }

    /// Leaves the queue: to try again, or because the request is gone.
    pub fn end_wait(&mut self, wait: Box<Wait>) {
        for (found, amount) in wait.places.into_iter().flatten() {
            if let Some(account) = self.account(found) {
                account.waiting = account.waiting.minus(amount);
            }
        }
    }

    /// Charges what was reserved. Reservations of a lease that is gone were forfeited: nothing is left to do.
    pub fn settle(&mut self, reservations: Reservations, mut settled: impl FnMut(BudgetId, Settlement)) {
        for (found, budget, reservation) in reservations.held.into_iter().flatten() {
            let amount = reservation.amount();
            if let Some(account) = self.account(found) {
                settled(budget, account.lease.settle(reservation, amount));
                account.dirty = true;
            }
        }
    }

    /// Gives back what was reserved.
    pub fn release(&mut self, reservations: Reservations) {
        for (found, _, reservation) in reservations.held.into_iter().flatten() {
            if let Some(account) = self.account(found) {
                account.lease.release(reservation);
                account.dirty = true;
            }
        }
    }

    /// Whether a call should be made now rather than at the next regular one.
    #[must_use]
    pub const fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Whether there is any account, so that a regular call is due every second.
    #[must_use]
    pub fn holds_leases(&self) -> bool {
        !self.index.is_empty()
    }

    /// What to report and ask now. Lower targets are kept to from here on, whether or not the call arrives.
    pub fn reports(&mut self, now: Timestamp, most: usize, mut report: impl FnMut(Report<'_>)) {
        self.urgent = false;
        let begin = if self.next_report < self.accounts.len() { self.next_report } else { 0 };
        let (earlier, later) = self.accounts.split_at_mut(begin);
        let mut left = most;
        for (place, account) in (begin..).zip(later).chain((0..).zip(earlier)) {
            let Some(account) = account else { continue };
            // Not asked for its report, which would lower its lease and be lost.
            if left == 0 {
                (self.next_report, self.urgent) = (place, true);
                return;
            }
            let name = self.names.get(usize::from(account.name)).map_or("", |name| name);
            if let Some(made) = account.report(name, now) {
                left -= 1;
                report(made);
            }
        }
        self.next_report = 0;
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

    /// Others wait for this account: its lease is lowered to what is taken, and that is reported at once.
    pub fn recall(&mut self, budget: &str, scope: &str, window_start: Timestamp) {
        if let Some(account) = self.lookup(budget, scope, window_start).and_then(|slot| self.slot_mut(slot)) {
            account.recalled = true;
            self.urgent = true;
        }
    }

    /// The holder was closed: all leases are forfeited. Generations go on rising, so that late settlements find nothing.
    pub fn forget(&mut self) {
        self.accounts.clear();
        self.vacant.clear();
        self.index.clear();
        self.urgent = false;
    }

    /// The accounts that `reservations` are charged to, for the record: which, its budget's name, its scope, how much.
    pub fn charged<'h>(&'h self, reservations: &'h Reservations) -> impl Iterator<Item = (AccountRef, &'h str, &'h str, Units)> + 'h {
        reservations.held.iter().flatten().filter_map(|(found, _, reservation)| {
            let account =
                self.accounts.get(usize::try_from(found.slot).ok()?)?.as_ref().filter(|account| account.generation == found.generation)?;
            Some((*found, self.names.get(usize::from(account.name)).map_or("", |name| &**name), &*account.scope, reservation.amount()))
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
        let hash = self.hasher.hash_one((name, &*self.scope, window.start));
        let accounts = &self.accounts;
        let found = self.index.find(hash, |slot| at(accounts, *slot).is_some_and(|account| account.is(name, &self.scope, window.start)));
        if let Some(slot) = found {
            let generation = at(&self.accounts, *slot).map_or(0, |account| account.generation);
            return Ok(Some(AccountRef { slot: *slot, generation }));
        }
        if self.index.len() >= ACCOUNTS_MAX {
            return Ok(None);
        }
        Ok(Some(self.open(name, window, hash)))
    }

    fn open(&mut self, name: u16, window: Window, hash: u64) -> AccountRef {
        self.generation += 1;
        let generation = self.generation;
        let account = Account::new(name, self.scope.as_str().into(), window, generation);
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
