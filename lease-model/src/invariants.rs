//! What must hold in every world, and what must be seen in some.

use crate::calm::{Calm, calm, lives_on};
use crate::config::Config;
use crate::holder::Holder;
use crate::ledger::{Lease, Rule};
use crate::plane::{Breach, Standing};
use crate::terms::{Key, Units, Window};
use crate::world::World;

/// I1: nothing was granted while settled, leased and overrun units came to more than the cap.
pub fn grants_stay_within_the_cap<H: Holder>(world: &World<H>) -> bool {
    !matches!(world.breach, Some(Breach::RaisedAboveCap(_)))
}

/// I1: what was truly spent within reservations, by the living and the dead, is at most the highest cap that was in force.
pub fn nothing_is_overspent<H: Holder>(world: &World<H>) -> bool {
    Key::ALL.iter().all(|key| *world.spent.at(*key) + world.under_way(*key) <= *world.plane.highest.at(*key))
}

/// I2: no holder reports more than it was granted.
pub fn holders_keep_to_their_grants<H: Holder>(world: &World<H>) -> bool {
    !matches!(world.breach, Some(Breach::SpentUngranted(_)))
}

/// I3 and I4: all that was spent, and all that any holder could still spend without another word, closed or not, is committed.
pub fn what_can_be_spent_is_committed<H: Holder>(world: &World<H>) -> bool {
    Key::ALL.iter().all(|key| {
        let room: Units = world.living().map(|slot| slot.holder.room(*key)).sum();
        *world.spent.at(*key) + world.under_way(*key) + room <= world.plane.accounts.at(*key).committed
    })
}

/// I6: a lease is spent by requests of its window alone.
pub fn leases_are_spent_in_their_windows<H: Holder>(world: &World<H>) -> bool {
    world.living().flat_map(|slot| &slot.requests).all(|request| request.window == request.lease)
}

/// I7: the books. Charges that were reported are at most what happened, and what is committed is what is settled and what
/// leases may still spend. With I3, an account without leases has settled at least what was spent, and exactly that where
/// nothing was forfeited; its overruns are all booked, unless their holder was lost.
pub fn the_books_are_right<H: Holder>(world: &World<H>) -> bool {
    let nobody_was_lost = world.crashes == 0 && world.plane.registers.iter().all(|register| register.standing == Standing::Open);
    Key::ALL.iter().all(|key| {
        let (account, spent, overran) = (world.plane.accounts.at(*key), *world.spent.at(*key), *world.overran.at(*key));
        let leases = || world.plane.registers.iter().filter_map(|register| *register.leases.at(*key));
        let sum = |number: fn(&Lease) -> Units| leases().map(|lease| number(&lease)).sum::<Units>();
        account.settled.saturating_sub(account.forfeited) <= spent
            && account.committed == account.settled + sum(|lease| lease.granted.saturating_sub(lease.used))
            && account.held == sum(|lease| lease.held)
            && account.overrun <= overran
            && (account.overrun == overran || !nobody_was_lost || leases().count() > 0)
    })
}

/// A request is charged to all its accounts or to none.
pub fn requests_hold_all_or_nothing<H: Holder>(world: &World<H>) -> bool {
    !matches!(world.breach, Some(Breach::HeldInPart(_)))
}

/// A refusal for good is true for everybody.
pub fn refusals_are_final<H: Holder>(world: &World<H>) -> bool {
    !matches!(world.breach, Some(Breach::RefusedWithRoom(_)))
}

/// The rule that is plugged in does what the bounds say.
pub fn the_rule_keeps_its_bounds<H: Holder>(world: &World<H>) -> bool {
    !matches!(world.breach, Some(Breach::OutOfBounds(_)))
}

/// I8: what is left can be granted.
pub fn what_is_left_can_be_granted<R: Rule, H: Holder>(config: &Config, rule: &R, world: &World<H>) -> bool {
    !matches!(calm(config, rule, world), Calm::Stuck(_))
}

/// Seen: units that lay unused in a lease were recalled and granted to another.
pub fn units_are_recalled<R: Rule, H: Holder>(config: &Config, rule: &R, world: &World<H>) -> bool {
    calm(config, rule, world) == Calm::Recalled
}

/// Seen: every account of the first window is spent to the last unit.
pub fn everything_is_spent<H: Holder>(world: &World<H>) -> bool {
    [Key::Money, Key::Rate(Window::First)].iter().all(|key| *world.spent.at(*key) == *world.plane.caps.at(*key))
}

/// Seen: an older call is still on its way after a newer one was carried out.
pub fn a_call_is_late<H: Holder>(world: &World<H>) -> bool {
    world.calls.iter().any(|call| call.number < world.register(call.incarnation).last_call)
}

/// Seen: a lease was forfeited.
pub fn a_lease_is_forfeited<H: Holder>(world: &World<H>) -> bool {
    Key::ALL.iter().any(|key| world.plane.accounts.at(*key).forfeited > 0)
}

/// Seen: a closed holder that does not know it has requests under way.
pub fn a_closed_holder_lives_on<H: Holder>(world: &World<H>) -> bool {
    world.living().any(|slot| lives_on(world, slot) && !slot.requests.is_empty())
}

/// Seen: an overrun was booked.
pub fn an_overrun_is_booked<H: Holder>(world: &World<H>) -> bool {
    world.plane.accounts.at(Key::Money).overrun > 0
}

/// Seen: more is committed than a lowered cap allows.
pub fn a_cap_is_lowered_below_leases<H: Holder>(world: &World<H>) -> bool {
    Key::ALL.iter().any(|key| world.plane.accounts.at(*key).committed > *world.plane.caps.at(*key))
}

/// Seen: requests of both windows are under way at once.
pub fn windows_overlap<H: Holder>(world: &World<H>) -> bool {
    let any = |window| world.living().flat_map(|slot| &slot.requests).any(|request| request.window == window);
    any(Window::First) && any(Window::Second)
}

/// Seen: a lease that follows another of the same holder.
pub fn a_lease_is_opened_again<H: Holder>(world: &World<H>) -> bool {
    let again = |key: &Key| world.plane.registers.iter().any(|register| register.leases.at(*key).is_some_and(|lease| lease.generation > 2));
    Key::ALL.iter().any(again)
}
