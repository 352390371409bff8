//! What a worker does once its Envoy is about to stop: it gives back its leases, delivers its records, and says what is left until
//! that is nothing. Any answer of the control plane says so, and shared data tells the other workers, which may be idle.

use crate::host::Host;
use crate::vm::Vm;
use decision_core::holder::Keep;
use decision_core::time::Timestamp;
use std::time::Duration;
use wire::drain::{DRAINING_HEADER, Left};

const DRAINING: &str = "plant_gateway.draining";
/// Shared data is asked so often.
const LOOK: Duration = Duration::from_millis(100);
/// Between calls, while something is left: a request that ends is settled so soon.
const CALL: Duration = Duration::from_millis(100);
/// The same once nothing is, since nobody knows when it was asked for the last time.
const CALL_AGAIN: Duration = Duration::from_secs(1);
/// By less than this it is not prolonged for the others.
const PROLONGED: Duration = Duration::from_secs(1);
/// Nobody is believed that it lasts longer.
const LASTS_MAX: Duration = Duration::from_secs(60);

/// Whether this worker's Envoy is about to stop, and what it has said.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    until: Option<Timestamp>,
    look_due: Timestamp,
    called: Timestamp,
    /// In the call in flight.
    saying: Option<Left>,
    /// In the last one that was answered.
    said: Option<Left>,
}

impl Drain {
    /// Whether the Envoy is about to stop.
    pub(crate) const fn is_on(&self) -> bool {
        self.until.is_some()
    }

    /// An answer of the control plane has come. One that says nothing changes nothing: another replica may have said it.
    pub(crate) fn hear(&mut self, host: &impl Host, now: Timestamp) {
        let Some(said) = host.call_header(DRAINING_HEADER) else { return };
        let Some(left_ms) = std::str::from_utf8(&said).ok().and_then(|text| text.parse().ok()) else { return };
        let until = now.plus(Duration::from_millis(left_ms).min(LASTS_MAX));
        let told = shared(host);
        if told.is_none_or(|told| until >= told.plus(PROLONGED)) {
            host.set_shared(DRAINING, &until.as_micros().to_le_bytes(), None).unwrap_or(());
        }
        self.until = self.until.max(Some(until));
    }

    /// The call in flight was answered.
    pub(crate) fn answered(&mut self) {
        self.said = self.saying.take();
    }

    fn look(&mut self, host: &impl Host, now: Timestamp) {
        // Also when the clock was set back.
        if now < self.look_due && self.look_due <= now.plus(LOOK) {
            return;
        }
        self.look_due = now.plus(LOOK);
        self.until = self.until.max(shared(host)).filter(|until| now < *until && *until <= now.plus(LASTS_MAX));
        if self.until.is_none() {
            (self.saying, self.said, self.called) = (None, None, Timestamp::EPOCH);
        }
    }
}

fn shared(host: &impl Host) -> Option<Timestamp> {
    let value = host.shared(DRAINING).value?;
    Some(Timestamp::from_micros(i64::from_le_bytes(value.try_into().ok()?)))
}

/// Looks whether the Envoy is about to stop, and acts accordingly from then on.
pub(crate) fn tick(vm: &mut Vm, host: &impl Host, now: Timestamp) {
    vm.drain.look(host, now);
    vm.leases.keep(if vm.drain.is_on() { Keep::Nothing } else { Keep::Leases });
}

/// Whether a call should be made that gives back, delivers, or says that nothing is left. It is taken to be made.
pub(crate) fn wants_call(vm: &mut Vm, now: Timestamp) -> bool {
    if !vm.drain.is_on() || now < vm.drain.called.plus(CALL) {
        return false;
    }
    let has_said = vm.drain.said.is_some_and(|said| said.is_nothing());
    if has_said && now < vm.drain.called.plus(CALL_AGAIN) && left(vm).is_nothing() {
        return false;
    }
    vm.drain.called = now;
    true
}

/// What is to be said in the call that is about to be made, before anything is given back by it.
pub(crate) fn say(vm: &mut Vm) -> Option<Left> {
    vm.drain.saying = vm.drain.is_on().then(|| left(vm));
    vm.drain.saying
}

fn left(vm: &Vm) -> Left {
    let (leases, unused) = vm.leases.left();
    let undos = u64::try_from(vm.undos.len()).unwrap_or(u64::MAX);
    Left {
        leases: u64::try_from(leases).unwrap_or(u64::MAX),
        units: u64::try_from(unused.get()).unwrap_or(0),
        records: vm.records.len().saturating_add(undos),
    }
}
