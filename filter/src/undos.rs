//! Grants to give back: consumed by requests that never reached the backend. They ride in every sync call until one is answered.

use wire::sync::ApprovalUndo;

/// So many may wait. Twice as many as requests may wait for an answer: asks end at two calls that failed. More come only
/// from a control plane that closes this holder again and again, and each costs bytes in every call.
pub(crate) const UNDOS_MAX: usize = 2 * crate::vm::WAITING_MAX;

/// What is to be given back, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Undos {
    queue: Vec<ApprovalUndo>,
    /// So many of them are in the call that is in flight.
    sent: usize,
}

/// What became of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Queued {
    Kept,
    /// There is no room: the grant stays used, and the client has to ask for another one.
    Dropped,
}

impl Undos {
    /// Adds one, if there is room.
    pub(crate) fn push(&mut self, undo: ApprovalUndo) -> Queued {
        if self.queue.len() >= UNDOS_MAX {
            return Queued::Dropped;
        }
        self.queue.push(undo);
        Queued::Kept
    }

    /// All of them, for a call.
    pub(crate) fn send(&mut self) -> Vec<ApprovalUndo> {
        self.sent = self.queue.len();
        self.queue.clone()
    }

    /// The call was answered.
    pub(crate) fn told(&mut self) {
        self.queue.drain(..self.sent.min(self.queue.len()));
        self.sent = 0;
    }

    pub(crate) const fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}
