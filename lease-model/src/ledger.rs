//! How a report is booked: what the rule may and must do, as bounds. A raise is a choice within them, so that whatever is
//! safe here is safe for every rule that keeps to them; `control-plane`'s is held to them on every transition.

use crate::config::Flaw;
use crate::terms::{Report, Units};
use std::fmt::Debug;

/// A budget, scope and window, as the control plane keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the fields are documented in the ledger")]
pub struct Account {
    pub committed: Units,
    pub settled: Units,
    pub held: Units,
    pub forfeited: Units,
    pub overrun: Units,
    pub over_grant: Units,
}

/// A holder's lease, as the control plane keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the fields are documented in the ledger")]
pub struct Lease {
    pub generation: u8,
    pub granted: Units,
    pub used: Units,
    pub held: Units,
    pub overrun: Units,
}

/// What may be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Up to the cap.
    Open {
        /// It.
        cap: Units,
        /// Holders among which it is shared.
        holders: u8,
    },
    /// Nothing more: the window is over.
    Ended,
}

/// Which of the raises that are allowed is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Raise {
    /// The smallest: what requests wait for, if there is so much, else nothing.
    Least,
    /// The largest.
    Most,
    /// This one, if it is allowed.
    By(Units),
}

/// Whether holders should give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recall {
    /// They need not.
    NotNeeded,
    /// A request waits for units that lie unused in other leases; or units beyond the cap lie unused in any.
    Needed,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Booked {
    /// The account after it.
    pub account: Account,
    /// The lease after it.
    pub lease: Option<Lease>,
    /// The grant of the reported lease.
    pub granted: Units,
    /// Whether others should give back.
    pub recall: Recall,
}

/// A rule by which reports are booked.
pub trait Rule: Clone + Debug + Send + Sync + 'static {
    /// The choices that it leaves open.
    fn raises(&self) -> &'static [Raise];

    /// Books a report.
    fn book(&self, account: Account, lease: Option<Lease>, report: &Report, room: Room, raise: Raise) -> Booked;

    /// Ends a lease of which nobody can say what became.
    fn forfeit(&self, account: Account, lease: &Lease) -> Account;
}

/// The bounds themselves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// What is wrong with them.
    pub flaw: Option<Flaw>,
}

/// What a lease has at least after a report, before anything is raised.
#[must_use]
pub fn kept(lease: Option<Lease>, report: &Report) -> Units {
    let same = lease.filter(|lease| lease.generation == report.generation);
    let (granted, used) = same.map_or((0, 0), |lease| (lease.granted, lease.used));
    granted.min(report.target.max(report.minimum)).max(used.max(report.used) + report.held)
}

impl Bounds {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// The least and the largest raise.
    fn allowed(&self, account: &Account, granted: Units, report: &Report, room: Room) -> (Units, Units) {
        let Room::Open { cap, .. } = room else { return (0, 0) };
        let beyond = if self.has(Flaw::OverrunsLeaveCap) { 0 } else { account.overrun };
        let available = cap.saturating_sub(account.committed.saturating_add(beyond));
        let waiting = report.minimum.saturating_sub(granted);
        let wanted = report.target.max(report.minimum).saturating_sub(granted);
        (if waiting <= available { waiting } else { 0 }, wanted.min(available))
    }

    /// The lease that is reported, and the account when that replaced another.
    fn reported(&self, account: Account, lease: Option<Lease>, report: &Report) -> Option<(Account, Lease)> {
        let opened = Lease { generation: report.generation, granted: 0, used: 0, held: 0, overrun: 0 };
        let mixes = self.has(Flaw::IgnoresGenerations) || self.has(Flaw::IgnoresGenerationsAndNumbers);
        match lease {
            Some(other) if other.generation == report.generation || mixes => Some((account, other)),
            Some(newer) if newer.generation > report.generation => None,
            Some(_) | None if report.close => None,
            Some(older) => Some((self.forfeit(account, &older), opened)),
            None => Some((account, opened)),
        }
    }
}

impl Rule for Bounds {
    fn raises(&self) -> &'static [Raise] {
        &[Raise::Least, Raise::Most]
    }

    fn book(&self, account: Account, lease: Option<Lease>, report: &Report, room: Room, raise: Raise) -> Booked {
        let Some((mut account, before)) = self.reported(account, lease, report) else {
            return Booked { account, lease, granted: 0, recall: Recall::NotNeeded };
        };
        let used = before.used.max(report.used);
        let overrun = if self.has(Flaw::AddsOverruns) { before.overrun + report.overrun } else { before.overrun.max(report.overrun) };
        let (charged, needed) = (used - before.used, used + report.held);
        account.overrun += overrun - before.overrun;
        account.over_grant += needed.saturating_sub(before.granted);
        account.held = account.held.saturating_sub(before.held);
        account.settled += charged;
        account.committed = account.committed.saturating_sub(before.granted);
        if report.close {
            account.settled += report.held;
            account.committed += needed;
            return Booked { account, lease: None, granted: 0, recall: Recall::NotNeeded };
        }
        account.held += report.held;
        let floor = before.granted.min(report.target.max(report.minimum)).max(needed);
        account.committed += floor;
        let (least, most) = self.allowed(&account, floor, report, room);
        let raised = match raise {
            Raise::Least => least,
            Raise::Most => most,
            Raise::By(units) => units.clamp(least, most),
        };
        account.committed += raised;
        let granted = floor + raised;
        let lease = Lease { generation: before.generation, granted, used, held: report.held, overrun };
        let unused = account.committed.saturating_sub(account.settled + account.held);
        let recalls = match room {
            Room::Open { cap, .. } => {
                let waits = report.minimum > granted && unused > granted - needed;
                waits || (account.committed.saturating_add(account.overrun) > cap && unused > 0)
            }
            Room::Ended => false,
        };
        let recall = if recalls { Recall::Needed } else { Recall::NotNeeded };
        Booked { account, lease: (granted + used + overrun > 0).then_some(lease), granted, recall }
    }

    fn forfeit(&self, mut account: Account, lease: &Lease) -> Account {
        let released = if self.has(Flaw::ForfeitReleasesRemainder) {
            lease.granted.saturating_sub(lease.used + lease.held)
        } else if self.has(Flaw::ForfeitReleasesHeld) {
            lease.held
        } else {
            0
        };
        let charged = lease.granted.saturating_sub(lease.used + released);
        account.committed = account.committed.saturating_sub(released);
        account.settled += charged;
        account.forfeited += charged;
        account.held = account.held.saturating_sub(lease.held);
        account
    }
}
