//! Which actions are possible, and what each does.

use crate::config::{Config, Flaw, Idle, Windows};
use crate::holder::{Holder, Reserved, cost};
use crate::ledger::{Raise, Rule};
use crate::plane::{Breach, Standing};
use crate::terms::{Answer, Answered, Call, Key, Outcome, Request, Want, Window};
use crate::world::{Action, Slot, World, insert};

/// Every action that may be possible. Some change nothing.
pub fn actions<R: Rule, H: Holder>(config: &Config, rule: &R, world: &World<H>, actions: &mut Vec<Action>) {
    for (place, slot) in world.slots.iter().enumerate() {
        if let Some(slot) = slot {
            of_slot(config, world, place, slot, actions);
        }
    }
    for call in 0..world.calls.len() {
        actions.extend(rule.raises().iter().map(|raise| Action::Deliver { call, raise: *raise }));
        if config.has(Flaw::AnswersBeforeCommit) {
            actions.push(Action::DeliverUncommitted { call, raise: Raise::Most });
        }
    }
    actions.extend((0..world.answers.len()).map(|answer| Action::Take { answer }));
    of_plane(config, world, actions);
}

fn of_slot<H: Holder>(config: &Config, world: &World<H>, slot: usize, state: &Slot<H>, actions: &mut Vec<Action>) {
    if state.requests.len() < config.open {
        actions.extend(config.charges.iter().map(|charge| Action::Reserve { slot, charge: *charge }));
    }
    for request in 0..state.requests.len() {
        actions.extend(config.outcomes.iter().map(|outcome| Action::Finish { slot, request, outcome: *outcome }));
    }
    if state.call < config.calls {
        actions.extend(config.charges.iter().map(|charge| Action::Send { slot, want: Want::Ask(*charge) }));
        let idle = |want: &Idle| match want {
            Idle::Report => Want::Report,
            Idle::Lower => Want::Lower,
            Idle::Close => Want::Close,
        };
        actions.extend(config.wants.iter().map(|want| Action::Send { slot, want: idle(want) }));
    }
    if world.crashes < config.crashes {
        actions.push(Action::Crash { slot });
    }
    if config.windows == Windows::Two && state.clock == Window::First {
        actions.push(Action::Turn { slot });
    }
}

fn of_plane<H: Holder>(config: &Config, world: &World<H>, actions: &mut Vec<Action>) {
    let closed = world.plane.registers.iter().filter(|register| register.standing == Standing::Closed).count();
    if closed < usize::from(config.closes) {
        for (incarnation, register) in (0..).zip(&world.plane.registers) {
            if register.standing == Standing::Open && register.last_call > 0 {
                actions.push(Action::Close { incarnation });
            }
        }
    }
    if config.windows == Windows::Two && world.plane.clock == Window::First {
        actions.push(Action::TurnPlane);
    }
    if usize::from(world.cap_changes) < config.cap_changes.len() {
        actions.push(Action::SetCap);
    }
}

/// The world after an action; `None` when it changes nothing.
#[must_use]
pub fn step<R: Rule, H: Holder>(config: &Config, rule: &R, before: &World<H>, action: Action) -> Option<World<H>> {
    let mut world = before.clone();
    match action {
        Action::Reserve { slot, charge } => reserve(config, &mut world, slot, charge)?,
        Action::Finish { slot, request, outcome } => finish(config, &mut world, slot, request, outcome)?,
        Action::Send { slot, want } => send(config, &mut world, slot, want)?,
        Action::Deliver { call, raise } => deliver(config, rule, &mut world, call, raise)?,
        Action::DeliverUncommitted { call, raise } => {
            deliver(config, rule, &mut world, call, raise)?;
            world.plane = before.plane.clone();
        }
        Action::Take { answer } => take(config, &mut world, answer)?,
        Action::Crash { slot } => crash(config, &mut world, slot)?,
        Action::Close { incarnation } => world.plane.close(rule, incarnation),
        Action::Turn { slot } => world.slots.get_mut(slot)?.as_mut()?.clock = Window::Second,
        Action::TurnPlane => world.plane.clock = Window::Second,
        Action::SetCap => {
            let (key, cap) = *config.cap_changes.get(usize::from(world.cap_changes))?;
            *world.plane.caps.at_mut(key) = cap;
            *world.plane.highest.at_mut(key) = cap.max(*world.plane.highest.at(key));
            world.cap_changes += 1;
        }
    }
    world.prune(config);
    (world != *before).then_some(world)
}

fn reserve<H: Holder>(config: &Config, world: &mut World<H>, slot: usize, charge: crate::terms::Charge) -> Option<()> {
    let state = world.slots.get_mut(slot)?.as_mut()?;
    let mut request = Request { charge, window: state.clock, lease: state.clock };
    if config.has(Flaw::SpendsInNextWindow) && state.holder.room(Key::Rate(Window::First)) >= charge.rate {
        request.lease = Window::First;
    }
    let place = state.requests.partition_point(|other| *other < request);
    match state.holder.reserve(config, request, place) {
        Reserved::Held => state.requests.insert(place, request),
        Reserved::Short => return None,
        Reserved::Spent(key) => {
            // Final, so it must be true for everybody, unless a cap was raised since it was said.
            let account = world.plane.accounts.at(key);
            let is_true = account.settled + account.overrun + request.of_lease(key) > *world.plane.caps.at(key);
            if is_true || world.cap_changes > 0 {
                return None;
            }
            world.breach.get_or_insert(Breach::RefusedWithRoom(key));
        }
    }
    Some(())
}

fn finish<H: Holder>(config: &Config, world: &mut World<H>, slot: usize, place: usize, outcome: Outcome) -> Option<()> {
    let overran: u8 = Key::ALL.iter().map(|key| *world.overran.at(*key)).sum();
    if outcome == Outcome::More && overran >= config.overruns {
        return None;
    }
    let state = world.slots.get_mut(slot)?.as_mut()?;
    if place >= state.requests.len() {
        return None;
    }
    let request = state.requests.remove(place);
    state.holder.finish(place, request, outcome);
    for key in Key::ALL {
        let (used, beyond) = cost(Request { lease: request.window, ..request }, key, outcome);
        *world.spent.at_mut(key) += used;
        *world.overran.at_mut(key) += beyond;
    }
    Some(())
}

/// A holder calls; the call is on its way.
pub fn send<H: Holder>(config: &Config, world: &mut World<H>, slot: usize, want: Want) -> Option<()> {
    let state = world.slots.get_mut(slot)?.as_mut()?;
    let reports = state.holder.report(config, want, state.clock)?;
    state.call += 1;
    state.awaits = true;
    for key in Key::ALL {
        let held: u8 = state.requests.iter().map(|request| request.of_lease(key)).sum();
        if reports.at(key).is_some_and(|report| report.held != held) {
            world.breach.get_or_insert(Breach::HeldInPart(key));
        }
    }
    insert(&mut world.calls, Call { incarnation: state.incarnation, number: state.call, reports });
    Some(())
}

/// A call arrives.
pub fn deliver<R: Rule, H: Holder>(config: &Config, rule: &R, world: &mut World<H>, call: usize, raise: Raise) -> Option<()> {
    let call = *world.calls.get(call)?;
    let carried = world.plane.call(config, rule, &call, raise);
    world.breach = world.breach.or(carried.breach);
    insert(&mut world.answers, Answer { incarnation: call.incarnation, number: call.number, body: carried.answer? });
    Some(())
}

/// An answer arrives.
pub fn take<H: Holder>(config: &Config, world: &mut World<H>, answer: usize) -> Option<()> {
    if answer >= world.answers.len() {
        return None;
    }
    let Answer { incarnation, number, body } = world.answers.remove(answer);
    let place = world.slots.iter().position(|slot| slot.as_ref().is_some_and(|slot| slot.incarnation == incarnation))?;
    let state = world.slots.get_mut(place)?.as_mut()?;
    let is_awaited = state.awaits && number == state.call;
    if !is_awaited && !config.has(Flaw::BelievesLateAnswers) {
        return None;
    }
    state.awaits &= !is_awaited;
    state.holder.apply(&body);
    if body == Answered::Closed {
        let (requests, holder, clock) = (std::mem::take(&mut state.requests), state.holder.clone(), state.clock);
        world.write_off(&requests);
        begin_anew(config, world, place, holder, clock);
    }
    Some(())
}

fn crash<H: Holder>(config: &Config, world: &mut World<H>, place: usize) -> Option<()> {
    let crashed = world.slots.get_mut(place)?.take()?;
    world.crashes += 1;
    world.write_off(&crashed.requests);
    begin_anew(config, world, place, H::fresh(), crashed.clock);
    Some(())
}

fn begin_anew<H: Holder>(config: &Config, world: &mut World<H>, place: usize, holder: H, clock: Window) {
    let fresh = (world.plane.registers.len() < usize::from(config.incarnations)).then(|| world.begin(holder, clock));
    if let Some(slot) = world.slots.get_mut(place) {
        *slot = fresh;
    }
}
