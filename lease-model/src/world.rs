//! The whole: holders, the network, the control plane, and what was truly spent, which nobody in the protocol knows.

use crate::config::{Config, Network};
use crate::holder::Holder;
use crate::ledger::{Account, Raise};
use crate::plane::{Breach, Plane, Register, Standing};
use crate::terms::{Answer, Call, Charge, Key, Outcome, PerKey, Request, Units, Want, Window};

/// Everything that the rest of a run depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World<H> {
    /// The control plane.
    pub plane: Plane,
    /// Where holders run. Empty where one crashed and is not begun anew.
    pub slots: Vec<Option<Slot<H>>>,
    /// Calls on their way, in order, each once.
    pub calls: Vec<Call>,
    /// Answers on their way, in order, each once.
    pub answers: Vec<Answer>,
    /// What finished requests truly spent of their reservations, by the windows in which they began. Those of a holder
    /// that is gone count in full.
    pub spent: PerKey<Units>,
    /// What they truly spent beyond, as far as somebody is left to report it.
    pub overran: PerKey<Units>,
    /// Caps that were set.
    pub cap_changes: u8,
    /// Holders that crashed.
    pub crashes: u8,
    /// What went wrong.
    pub breach: Option<Breach>,
}

/// A virtual machine with a holder in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slot<H> {
    /// The holder's id.
    pub incarnation: u8,
    /// The number of its last call.
    pub call: u8,
    /// Whether it waits for the answer.
    pub awaits: bool,
    /// Its clock.
    pub clock: Window,
    /// Its requests under way, in order.
    pub requests: Vec<Request>,
    /// Its leases.
    pub holder: H,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the fields name places in the world")]
pub enum Action {
    /// A request arrives and finds room.
    Reserve { slot: usize, charge: Charge },
    /// It ends.
    Finish { slot: usize, request: usize, outcome: Outcome },
    /// A holder calls. If it waited for an answer, it gave that call up.
    Send { slot: usize, want: Want },
    /// A call arrives, is carried out, committed and answered. It stays on its way: it may arrive again.
    Deliver { call: usize, raise: Raise },
    /// The same, and the commit fails.
    DeliverUncommitted { call: usize, raise: Raise },
    /// An answer arrives.
    Take { answer: usize },
    /// A virtual machine is gone.
    Crash { slot: usize },
    /// A holder is closed as silent.
    Close { incarnation: u8 },
    /// A holder's clock reaches the second window.
    Turn { slot: usize },
    /// The control plane's clock does.
    TurnPlane,
    /// The next cap is set.
    SetCap,
}

impl<H: Holder> World<H> {
    /// The beginning.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut world = Self {
            plane: Plane {
                accounts: PerKey::new(Account::default(), Account::default(), Account::default()),
                caps: config.caps,
                highest: config.caps,
                clock: Window::First,
                registers: Vec::new(),
            },
            slots: Vec::new(),
            calls: Vec::new(),
            answers: Vec::new(),
            spent: PerKey::default(),
            overran: PerKey::default(),
            cap_changes: 0,
            crashes: 0,
            breach: None,
        };
        for _ in 0..config.holders {
            let slot = world.begin(H::fresh(), Window::First);
            world.slots.push(Some(slot));
        }
        world
    }

    /// A holder with an id that no other had.
    pub fn begin(&mut self, holder: H, clock: Window) -> Slot<H> {
        let incarnation = u8::try_from(self.plane.registers.len()).unwrap_or(u8::MAX);
        self.plane.registers.push(Register::NEW);
        Slot { incarnation, call: 0, awaits: false, clock, requests: Vec::new(), holder }
    }

    /// The living holders.
    pub fn living(&self) -> impl Iterator<Item = &Slot<H>> {
        self.slots.iter().flatten()
    }

    /// What the control plane knows of a holder.
    #[must_use]
    pub fn register(&self, incarnation: u8) -> Register {
        self.plane.registers.get(usize::from(incarnation)).copied().unwrap_or(Register::NEW)
    }

    /// What requests under way hold of an account, by the windows in which they began.
    #[must_use]
    pub fn under_way(&self, key: Key) -> Units {
        self.living().flat_map(|slot| &slot.requests).map(|request| request.of_account(key)).sum()
    }

    /// Counts requests of which nobody will know what they came to.
    pub fn write_off(&mut self, requests: &[Request]) {
        for key in Key::ALL {
            *self.spent.at_mut(key) += requests.iter().map(|request| request.of_account(key)).sum::<Units>();
        }
    }

    /// Forgets messages that cannot change anything any more.
    pub fn prune(&mut self, config: &Config) {
        if config.network == Network::Everything {
            return;
        }
        let awaited = |incarnation, number| {
            let is_sender = |slot: &Slot<H>| slot.incarnation == incarnation && slot.call == number && slot.awaits;
            self.slots.iter().flatten().any(is_sender)
        };
        let is_new = |call: &Call| {
            let register = self.register(call.incarnation);
            register.standing == Standing::Open && call.number > register.last_call
        };
        let calls = self.calls.iter().filter(|call| is_new(call) || awaited(call.incarnation, call.number)).copied().collect();
        let answers = self.answers.iter().filter(|answer| awaited(answer.incarnation, answer.number)).copied().collect();
        (self.calls, self.answers) = (calls, answers);
    }
}

/// Adds to an ordered list what is not in it.
pub fn insert<T: Ord>(list: &mut Vec<T>, item: T) {
    if let Err(place) = list.binary_search(&item) {
        list.insert(place, item);
    }
}
