//! I8: after the last fault, what is neither settled nor leased can be granted; and what lies unused in leases can be
//! recalled. Played out, with one call per holder and step, from any world.

use crate::config::{Config, Network};
use crate::holder::Holder;
use crate::ledger::{Raise, Rule};
use crate::plane::Standing;
use crate::step::{deliver, take};
use crate::terms::{Answered, Call, Key, Outcome, PerKey, Report, Units, Want, Window};
use crate::world::{Slot, World, insert};

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calm {
    /// Everything that was left was granted at once.
    Granted,
    /// It was granted once others gave back what they did not use.
    Recalled,
    /// Some of it was not granted.
    Stuck(Key),
}

/// Requests end, messages arrive, silent holders are closed. Then a newcomer wants all that is left.
#[must_use]
pub fn calm<R: Rule, H: Holder>(config: &Config, rule: &R, world: &World<H>) -> Calm {
    let config = Config { incarnations: u8::MAX, network: Network::Relevant, ..*config };
    let mut world = world.clone();
    world.calls.clear();
    world.answers.clear();
    for slot in world.slots.iter_mut().flatten() {
        while let Some(request) = slot.requests.pop() {
            slot.holder.finish(slot.requests.len(), request, Outcome::Exact);
        }
    }
    round(&config, rule, &mut world, Want::Report);
    let dead = |incarnation: &u8| world.living().all(|slot| slot.incarnation != *incarnation);
    let dead: Vec<u8> = (0..).take(world.plane.registers.len()).filter(dead).collect();
    for incarnation in dead {
        world.plane.close(rule, incarnation);
    }
    let newcomer = world.begin(H::fresh(), Window::First);
    let asked = ask_for_all(&config, rule, &mut world, &newcomer, 1);
    let Err(missing) = asked else { return Calm::Granted };
    if missing.recalls_are_missing {
        return Calm::Stuck(missing.key);
    }
    round(&config, rule, &mut world, Want::Lower);
    match ask_for_all(&config, rule, &mut world, &newcomer, 2) {
        Ok(()) => Calm::Recalled,
        Err(missing) => Calm::Stuck(missing.key),
    }
}

/// Every living holder calls, is heard, and hears.
fn round<R: Rule, H: Holder>(config: &Config, rule: &R, world: &mut World<H>, want: Want) {
    for slot in 0..world.slots.len() {
        world.calls.clear();
        world.answers.clear();
        if crate::step::send(config, world, slot, want).is_some() && deliver(config, rule, world, 0, Raise::Least).is_some() {
            take(config, world, 0);
        }
    }
}

struct Missing {
    key: Key,
    recalls_are_missing: bool,
}

/// The newcomer asks for what is left of each account. The first that is not granted in full.
fn ask_for_all<R: Rule, H: Holder>(config: &Config, rule: &R, world: &mut World<H>, slot: &Slot<H>, number: u8) -> Result<(), Missing> {
    let is_open = |key: &Key| !matches!(key, Key::Rate(window) if *window < world.plane.clock);
    let left = |key: Key| -> Units {
        let account = world.plane.accounts.at(key);
        world.plane.caps.at(key).saturating_sub(account.settled + account.overrun)
    };
    let mut reports = PerKey::default();
    for key in Key::ALL.into_iter().filter(is_open) {
        let minimum = left(key);
        *reports.at_mut(key) =
            Some(Report { generation: 1, used: 0, held: 0, overrun: 0, target: minimum, minimum, charge: 1, close: false });
    }
    let wanted = reports;
    insert(&mut world.calls, Call { incarnation: slot.incarnation, number, reports });
    let carried = world.plane.call(config, rule, &Call { incarnation: slot.incarnation, number, reports }, Raise::Least);
    let Some(Answered::Booked(grants)) = carried.answer else {
        return Err(Missing { key: Key::Money, recalls_are_missing: true });
    };
    for key in Key::ALL {
        let (Some(want), Some(grant)) = (wanted.at(key), grants.at(key)) else { continue };
        if grant.granted < want.minimum {
            // Only others' leases can hold it, and then they are asked to give back.
            let leased =
                |register: &crate::plane::Register| register.leases.at(key).map_or(0, |lease| lease.granted - lease.used - lease.held);
            let elsewhere = (0..slot.incarnation).zip(&world.plane.registers).any(|(_, register)| leased(register) > 0);
            let recalls_are_missing = !elsewhere || !*carried.recalled.at(key);
            return Err(Missing { key, recalls_are_missing });
        }
    }
    Ok(())
}

/// Whether a holder is closed and does not know it.
#[must_use]
pub fn lives_on<H: Holder>(world: &World<H>, slot: &Slot<H>) -> bool {
    world.register(slot.incarnation).standing == Standing::Closed
}
