//! The control plane's rule in the terms of the model. Shared by the tests of this crate and of the stores, each of which
//! says what `ledger` is.

use super::ledger;
use decision_core::budget::Units as RealUnits;
use lease_model::ledger::{Account, Booked, Lease, Raise, Recall, Room, Rule};
use lease_model::terms::{Report, Units};

/// `book` and `forfeit` of the control plane.
#[derive(Clone, Debug)]
pub(crate) struct RealLedger;

pub(crate) fn real(units: Units) -> RealUnits {
    RealUnits::new(units.into())
}

pub(crate) fn plain(units: RealUnits) -> Units {
    Units::try_from(units.get()).unwrap()
}

pub(crate) fn real_account(account: Account) -> ledger::Account {
    let Account { committed, settled, held, forfeited, overrun, over_grant } = account;
    ledger::Account {
        committed: real(committed),
        settled: real(settled),
        held: real(held),
        forfeited: real(forfeited),
        overrun: real(overrun),
        over_grant: real(over_grant),
    }
}

pub(crate) fn plain_account(account: ledger::Account) -> Account {
    let ledger::Account { committed, settled, held, forfeited, overrun, over_grant } = account;
    Account {
        committed: plain(committed),
        settled: plain(settled),
        held: plain(held),
        forfeited: plain(forfeited),
        overrun: plain(overrun),
        over_grant: plain(over_grant),
    }
}

pub(crate) fn real_lease(lease: Lease) -> ledger::Lease {
    let Lease { generation, granted, used, held, overrun } = lease;
    ledger::Lease { generation: generation.into(), granted: real(granted), used: real(used), held: real(held), overrun: real(overrun) }
}

pub(crate) fn plain_lease(lease: ledger::Lease) -> Lease {
    let ledger::Lease { generation, granted, used, held, overrun } = lease;
    Lease {
        generation: u8::try_from(generation).unwrap(),
        granted: plain(granted),
        used: plain(used),
        held: plain(held),
        overrun: plain(overrun),
    }
}

pub(crate) fn real_report(report: &Report) -> ledger::Report {
    let Report { generation, used, held, overrun, target, minimum, charge, close } = *report;
    ledger::Report {
        generation: generation.into(),
        used: real(used),
        held: real(held),
        overrun: real(overrun),
        target: real(target),
        minimum: real(minimum),
        charge: real(charge),
        close,
    }
}

impl RealLedger {
    /// Books where there is this room: of the control plane's there is more than of the model's.
    pub(crate) fn book_in(account: Account, lease: Option<Lease>, report: &Report, room: ledger::Room) -> Booked {
        let booked = ledger::book(real_account(account), lease.map(real_lease), &real_report(report), room);
        Booked {
            account: plain_account(booked.account),
            lease: booked.lease.map(plain_lease),
            granted: plain(booked.granted),
            recall: match booked.recall {
                ledger::Recall::Needed => Recall::Needed,
                ledger::Recall::NotNeeded => Recall::NotNeeded,
            },
        }
    }
}

impl Rule for RealLedger {
    fn raises(&self) -> &'static [Raise] {
        &[Raise::Least]
    }

    fn book(&self, account: Account, lease: Option<Lease>, report: &Report, room: Room, _raise: Raise) -> Booked {
        let room = match room {
            Room::Open { cap, holders } => ledger::Room::Open { cap: real(cap), holders: holders.into() },
            Room::Ended => ledger::Room::Ended,
        };
        Self::book_in(account, lease, report, room)
    }

    fn forfeit(&self, account: Account, lease: &Lease) -> Account {
        plain_account(ledger::forfeit(real_account(account), &real_lease(*lease)))
    }
}
