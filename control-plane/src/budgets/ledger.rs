//! The rule by which leases are granted, settled and forfeited: a pure function of one account, one lease and one
//! report. `scripts/account.lua` is the same rule for the budgets in Valkey; a property test compares them.
//!
//! INVARIANT (no overspend): `committed <= cap` after every raise.
//! INVARIANT (conservation): `granted >= used + held` for each lease, hence `committed >= settled + held`.

use decision_core::budget::Units;
use wire::sync::AccountReport;

/// No number in a report is larger: sums of many stay exact in the doubles that Lua counts with.
pub const UNITS_MAX: i64 = 1 << 50;

/// A higher cap counts as this one, for the same reason.
pub const CAP_MAX: i64 = 1 << 52;

/// One budget, scope and window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Grants of open leases and charges of closed ones.
    pub committed: Units,
    /// Charged: used by open leases, charges of closed ones, forfeits.
    pub settled: Units,
    /// Reserved by open requests.
    pub held: Units,
    /// Of `settled`: what was charged because nobody could say what became of it.
    pub forfeited: Units,
    /// Charged beyond what requests had reserved, booked apart.
    pub overrun: Units,
    /// Reported as spent although it was never granted.
    pub over_grant: Units,
}

/// What one holder may spend of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Distinguishes it from earlier ones of the same holder.
    pub generation: u64,
    /// The grant, over the life of the lease.
    pub granted: Units,
    /// Settled so far.
    pub used: Units,
    /// Reserved by open requests.
    pub held: Units,
    /// Beyond what was reserved.
    pub overrun: Units,
}

impl Lease {
    const fn opened(generation: u64) -> Self {
        Self { generation, granted: Units::ZERO, used: Units::ZERO, held: Units::ZERO, overrun: Units::ZERO }
    }

    /// What cannot be taken back.
    #[must_use]
    pub const fn needed(&self) -> Units {
        self.used.plus(self.held)
    }

    /// What a recall can free.
    #[must_use]
    pub const fn unused(&self) -> Units {
        self.granted.minus(self.needed())
    }

    fn is_empty(&self) -> bool {
        self.granted.plus(self.used).plus(self.held).plus(self.overrun) == Units::ZERO
    }
}

/// What a holder reports of a lease, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The lease.
    pub generation: u64,
    /// Settled so far.
    pub used: Units,
    /// Reserved by open requests.
    pub held: Units,
    /// Beyond what was reserved.
    pub overrun: Units,
    /// What the grant should become.
    pub target: Units,
    /// What it must be for the requests that wait.
    pub minimum: Units,
    /// The largest single charge.
    pub charge: Units,
    /// The lease is given back.
    pub close: bool,
}

/// A number in a report is negative or absurd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a number in an account report is negative or too large")]
pub struct InvalidReport;

impl TryFrom<&AccountReport> for Report {
    type Error = InvalidReport;

    fn try_from(report: &AccountReport) -> Result<Self, InvalidReport> {
        let units = |number: i64| (0..=UNITS_MAX).contains(&number).then(|| Units::new(number)).ok_or(InvalidReport);
        if i64::try_from(report.generation).is_ok_and(|generation| generation <= UNITS_MAX) {
            Ok(Self {
                generation: report.generation,
                used: units(report.used)?,
                held: units(report.held)?,
                overrun: units(report.overrun)?,
                target: units(report.target)?,
                minimum: units(report.minimum)?,
                charge: units(report.charge)?,
                close: report.close,
            })
        } else {
            Err(InvalidReport)
        }
    }
}

/// What may be granted of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Up to the cap, shared by so many holders.
    Open {
        /// The cap, at most [`CAP_MAX`].
        cap: Units,
        /// Holders seen in the last minute, at least one.
        holders: u32,
    },
    /// Nothing more: the window is over. What was spent is still booked.
    Ended,
    /// Nothing more, and no new lease: the policy has no such budget or window.
    Unknown,
}

/// Whether other holders should give back what they do not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recall {
    /// No request waits for units that lie in other leases.
    NotNeeded,
    /// One does.
    Needed,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Booked {
    /// The account after it.
    pub account: Account,
    /// The lease after it; none when it was given back, or never came to be.
    pub lease: Option<Lease>,
    /// The grant of the reported lease.
    pub granted: Units,
    /// Whether others should give back.
    pub recall: Recall,
}

/// Books `report` on `account`, where `lease` is the holder's open lease.
#[must_use]
pub fn book(account: Account, lease: Option<Lease>, report: &Report, room: Room) -> Booked {
    let untouched = Booked { account, lease, granted: Units::ZERO, recall: Recall::NotNeeded };
    let mut account = account;
    let mut lease = match lease {
        // A late message about a lease that the holder itself has replaced.
        Some(newer) if newer.generation > report.generation => return untouched,
        Some(same) if same.generation == report.generation => same,
        older => {
            // Giving back what is not open is a no-op: the first of two such messages has settled it.
            if report.close || room == Room::Unknown {
                return untouched;
            }
            account = older.map_or(account, |older| forfeit(account, &older));
            Lease::opened(report.generation)
        }
    };
    charge(&mut account, &mut lease, report);
    if report.close {
        settle(&mut account, &lease);
        return Booked { account, lease: None, granted: Units::ZERO, recall: Recall::NotNeeded };
    }
    lower(&mut account, &mut lease, report);
    let recall = raise(&mut account, &mut lease, report, room);
    Booked { account, lease: (!lease.is_empty()).then_some(lease), granted: lease.granted, recall }
}

/// Charges an open lease in full: nobody can say what became of it.
#[must_use]
pub fn forfeit(mut account: Account, lease: &Lease) -> Account {
    let lost = lease.granted.minus(lease.used);
    account.settled = account.settled.plus(lost);
    account.forfeited = account.forfeited.plus(lost);
    account.held = account.held.minus(lease.held);
    account
}

/// Books what was spent. More than was granted is charged all the same: it happened, or the store lost the grant.
fn charge(account: &mut Account, lease: &mut Lease, report: &Report) {
    let used = lease.used.max(report.used);
    account.settled = account.settled.plus(used.minus(lease.used));
    account.held = account.held.minus(lease.held).plus(report.held);
    let overrun = lease.overrun.max(report.overrun);
    account.overrun = account.overrun.plus(overrun.minus(lease.overrun));
    (lease.used, lease.held, lease.overrun) = (used, report.held, overrun);
    let beyond = lease.needed().minus(lease.granted);
    account.over_grant = account.over_grant.plus(beyond);
    grant(account, lease, beyond);
}

fn grant(account: &mut Account, lease: &mut Lease, units: Units) {
    account.committed = account.committed.plus(units);
    lease.granted = lease.granted.plus(units);
}

/// Ends a lease that is given back. What it still holds is charged: no later report can replace it.
fn settle(account: &mut Account, lease: &Lease) {
    account.settled = account.settled.plus(lease.held);
    account.held = account.held.minus(lease.held);
    account.committed = account.committed.minus(lease.unused());
}

/// The holder keeps to a lower target already, so the difference is free at once.
fn lower(account: &mut Account, lease: &mut Lease, report: &Report) {
    let kept = report.target.max(report.minimum).max(lease.needed());
    let freed = lease.granted.minus(kept);
    account.committed = account.committed.minus(freed);
    lease.granted = lease.granted.minus(freed);
}

fn raise(account: &mut Account, lease: &mut Lease, report: &Report, room: Room) -> Recall {
    let Room::Open { cap, holders } = room else { return Recall::NotNeeded };
    let available = cap.minus(account.committed);
    let wanted = report.minimum.minus(lease.granted);
    let waiting = if wanted <= available { wanted } else { whole_charges(lease, available, report.charge) };
    let more = waiting.max(prefetch(lease, report, available, holders)).min(available);
    grant(account, lease, more);
    let elsewhere = account.committed.minus(account.settled).minus(account.held).minus(lease.unused());
    if report.minimum > lease.granted && elsewhere > Units::ZERO { Recall::Needed } else { Recall::NotNeeded }
}

/// How far a lease is raised for requests that are yet to come: together with what lies in it unused, it is a fair
/// share of what is left. (Counting the unused makes a repeated want get no more than the first.)
fn prefetch(lease: &Lease, report: &Report, available: Units, holders: u32) -> Units {
    let left = available.plus(lease.unused()).get();
    let share = Units::new(left / i64::from(holders.max(1)).saturating_mul(2));
    if share < report.charge.plus(report.charge) {
        return Units::ZERO;
    }
    let more = report.target.minus(lease.granted).min(share.minus(lease.unused()));
    whole_charges(lease, more, report.charge)
}

/// The largest raise up to `more` after which the unused part of the lease is a multiple of `charge`.
fn whole_charges(lease: &Lease, more: Units, charge: Units) -> Units {
    if charge == Units::ZERO {
        return more;
    }
    let unused = lease.unused().plus(more).get();
    Units::new(unused - unused % charge.get()).minus(lease.unused())
}

#[cfg(test)]
mod tests;
