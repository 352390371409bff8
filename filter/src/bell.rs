//! How a stream that is held makes the root of its machine act at once. A timer would not: Envoy's go by the kernel's coarse clock,
//! and one of a millisecond takes up to five. A shared queue that no other machine knows wakes the root in the same turn of the
//! event loop. Where Envoy does not allow queues, the root acts when it ticks.

use crate::host::Host;
use crate::ids::IdSource;

/// The queue of one machine.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    /// No other machine's: a queue wakes only who registered it last.
    name: Option<String>,
    queue: Option<u32>,
    rung: bool,
    refused: bool,
}

impl Bell {
    /// The root that is running answers from now on. Does nothing when it does already.
    pub(crate) fn install(&mut self, host: &impl Host, ids: &mut IdSource) {
        if self.queue.is_some() || self.refused {
            return;
        }
        let name = self.name.get_or_insert_with(|| format!("plant_gateway.bell.{:032x}", u128::from_be_bytes(ids.holder_id())));
        self.queue = host.register_queue(name).ok();
        self.refused = self.queue.is_none();
    }

    /// The root that answered is gone.
    pub(crate) fn uninstall(&mut self) {
        self.queue = None;
        self.rung = false;
    }

    /// Wakes the root, unless it is about to wake.
    pub(crate) fn ring(&mut self, host: &impl Host) {
        if let Some(queue) = self.queue.filter(|_| !self.rung) {
            self.rung = host.enqueue(queue).is_ok();
        }
    }

    /// The root is awake.
    pub(crate) fn answered(&mut self, host: &impl Host) {
        if std::mem::take(&mut self.rung)
            && let Some(queue) = self.queue
        {
            host.dequeue(queue);
        }
    }
}
