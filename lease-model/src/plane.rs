//! The control plane: its accounts, what it remembers of every holder, and how it carries out a call. A call is one
//! transaction over all its accounts: it happens or it does not, so that a crash before the commit is a call that never
//! arrived, and a crash after it is an answer that is lost.

use crate::config::{Config, Flaw};
use crate::ledger::{Account, Booked, Bounds, Lease, Raise, Recall, Room, Rule, kept};
use crate::terms::{Answered, Call, Grant, Key, PerKey, Report, Units, Window};

/// Whether a holder is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// It is.
    Open,
    /// It was silent for too long: its leases are forfeited.
    Closed,
}

/// What the control plane knows of a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Register {
    /// Whether it is heard.
    pub standing: Standing,
    /// The last call that was carried out.
    pub last_call: u8,
    /// Its leases.
    pub leases: PerKey<Option<Lease>>,
}

impl Register {
    /// Of a holder that never called.
    pub const NEW: Self = Self { standing: Standing::Open, last_call: 0, leases: PerKey::new(None, None, None) };
}

/// The control plane and its store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plane {
    /// The accounts.
    pub accounts: PerKey<Account>,
    /// The caps in force.
    pub caps: PerKey<Units>,
    /// The highest caps that ever were.
    pub highest: PerKey<Units>,
    /// Its clock.
    pub clock: Window,
    /// One per holder, by incarnation.
    pub registers: Vec<Register>,
}

/// Something that must never happen, seen while a step was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Breach {
    /// A grant was raised although settled, leased and overrun units came to more than the cap.
    RaisedAboveCap(Key),
    /// A holder reported more than it was granted.
    SpentUngranted(Key),
    /// A report did not hold exactly what its holder's requests reserved.
    HeldInPart(Key),
    /// The rule left its bounds.
    OutOfBounds(Key),
    /// A request was refused for good although something could still make room for it.
    RefusedWithRoom(Key),
}

/// What became of a call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carried {
    /// Absent when the call was older than the last one.
    pub answer: Option<Answered>,
    /// The first thing that went wrong.
    pub breach: Option<Breach>,
    /// Accounts on which others should give back.
    pub recalled: PerKey<bool>,
}

impl Plane {
    /// What may be granted of an account.
    fn room(&self, config: &Config, key: Key) -> Room {
        if matches!(key, Key::Rate(window) if window < self.clock) {
            return Room::Ended;
        }
        let caps = if config.has(Flaw::IgnoresLoweredCaps) { &self.highest } else { &self.caps };
        let open = self.registers.iter().filter(|register| register.standing == Standing::Open).count();
        Room::Open { cap: *caps.at(key), holders: u8::try_from(open).unwrap_or(u8::MAX) }
    }

    /// Carries out a call.
    pub fn call<R: Rule>(&mut self, config: &Config, rule: &R, call: &Call, raise: Raise) -> Carried {
        let Some(register) = self.registers.get(usize::from(call.incarnation)).copied() else { return Carried::default() };
        if register.standing == Standing::Closed && !config.has(Flaw::ForgetsClosing) {
            return Carried { answer: Some(Answered::Closed), ..Carried::default() };
        }
        if config.refuses_older_calls() && call.number < register.last_call {
            return Carried::default();
        }
        let repeats = config.has(Flaw::AddsOverruns) && call.number == register.last_call;
        let is_new = !config.refuses_older_calls() || call.number > register.last_call || repeats;
        let (mut carried, mut after) = (Carried::default(), register);
        after.last_call = register.last_call.max(call.number);
        let mut grants = PerKey::default();
        for key in Key::ALL {
            let Some(report) = call.reports.at(key) else { continue };
            let lease = *register.leases.at(key);
            let granted = if is_new {
                let booked = self.book(config, rule, key, lease, report, raise, &mut carried);
                *after.leases.at_mut(key) = booked.lease;
                booked.granted
            } else {
                lease.filter(|lease| lease.generation == report.generation).map_or(0, |lease| lease.granted)
            };
            let account = self.accounts.at(key);
            let told = config.told.then_some((*self.caps.at(key), account.settled + account.overrun));
            *grants.at_mut(key) = Some(Grant { generation: report.generation, granted, told });
        }
        if let Some(register) = self.registers.get_mut(usize::from(call.incarnation)) {
            *register = after;
        }
        Carried { answer: Some(Answered::Booked(grants)), ..carried }
    }

    #[expect(clippy::too_many_arguments, reason = "one report of one call, with what it is carried out under")]
    fn book<R: Rule>(
        &mut self,
        config: &Config,
        rule: &R,
        key: Key,
        lease: Option<Lease>,
        report: &Report,
        raise: Raise,
        carried: &mut Carried,
    ) -> Booked {
        let (before, room) = (*self.accounts.at(key), self.room(config, key));
        let booked = rule.book(before, lease, report, room, raise);
        let Account { committed, overrun, over_grant, .. } = booked.account;
        if booked.granted > kept(lease, report) && committed + overrun > *self.caps.at(key) {
            carried.breach.get_or_insert(Breach::RaisedAboveCap(key));
        }
        if over_grant > before.over_grant {
            carried.breach.get_or_insert(Breach::SpentUngranted(key));
        }
        if config.flaw.is_none() {
            let raised = Raise::By(booked.granted.saturating_sub(kept(lease, report)));
            if Bounds::default().book(before, lease, report, room, raised) != booked {
                carried.breach.get_or_insert(Breach::OutOfBounds(key));
            }
        }
        *carried.recalled.at_mut(key) = booked.recall == Recall::Needed;
        *self.accounts.at_mut(key) = booked.account;
        booked
    }

    /// Closes a holder: what it was granted is charged in full.
    pub fn close<R: Rule>(&mut self, rule: &R, incarnation: u8) {
        let Some(register) = self.registers.get_mut(usize::from(incarnation)) else { return };
        register.standing = Standing::Closed;
        for key in Key::ALL {
            if let Some(lease) = register.leases.at_mut(key).take() {
                *self.accounts.at_mut(key) = rule.forfeit(*self.accounts.at(key), &lease);
            }
        }
    }
}
