//! The queue of audit records: bounded, in sequence, given up only when it is stored.

use decision_core::holder::AccountRef;
use decision_core::principal::Principal;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::rc::Rc;
use wire::audit::AuditRecord;
use wire::sync::RecordBatch;

/// A batch is sealed at this size.
const BATCH_BYTES: usize = 512 * 1_024;
/// Sealed batches that may wait: 32 MiB.
const BATCHES_MAX: usize = 64;

/// Records that are not yet stored.
#[derive(Debug)]
pub(crate) struct RecordQueue {
    next_sequence: u64,
    open: RecordBatch,
    named: Named,
    sealed: VecDeque<RecordBatch>,
}

/// What the open batch has spelled out.
#[derive(Debug, Default)]
struct Named {
    /// By address; the pointers are kept, so that no address is used again meanwhile.
    users: HashMap<*const Principal, (u32, Rc<Principal>)>,
    accounts: HashMap<AccountRef, u32>,
}

impl Default for RecordQueue {
    fn default() -> Self {
        Self { next_sequence: 1, open: empty(1), named: Named::default(), sealed: VecDeque::new() }
    }
}

fn empty(first_sequence: u64) -> RecordBatch {
    RecordBatch { first_sequence, count: 0, bytes: Vec::new() }
}

impl RecordQueue {
    /// The user's number in the open batch, or that it has to be spelled out in the next record.
    pub(crate) fn mention_user(&mut self, user: &Rc<Principal>) -> Option<u32> {
        let next = u32::try_from(self.named.users.len()).unwrap_or(u32::MAX);
        let number = self.named.users.entry(Rc::as_ptr(user)).or_insert_with(|| (next, Rc::clone(user))).0;
        (number != next).then_some(number)
    }

    /// The account's number in the open batch, or that it has to be spelled out in the next record.
    pub(crate) fn mention_account(&mut self, account: AccountRef) -> Option<u32> {
        let next = u32::try_from(self.named.accounts.len()).unwrap_or(u32::MAX);
        let number = *self.named.accounts.entry(account).or_insert(next);
        (number != next).then_some(number)
    }

    /// Queues one record. Returns how many had to be dropped: the oldest go first, and the control plane sees the gap
    /// in the sequence.
    pub(crate) fn push(&mut self, record: &AuditRecord<'_>) -> u32 {
        let start = self.open.bytes.len();
        let mut bytes = std::mem::take(&mut self.open.bytes);
        bytes.extend([0; 4]);
        // Writing to memory fails only if a type of the record could not be serialised at all, which its tests exclude.
        self.open.bytes = postcard::to_extend(record, bytes).unwrap_or_default();
        let length = self.open.bytes.len().saturating_sub(start + 4);
        if let Some(place) = self.open.bytes.get_mut(start..start + 4) {
            place.copy_from_slice(&u32::try_from(length).unwrap_or(0).to_le_bytes());
        }
        self.open.count += 1;
        self.next_sequence += 1;
        if self.open.bytes.len() >= BATCH_BYTES {
            self.seal();
        }
        if self.sealed.len() <= BATCHES_MAX {
            return 0;
        }
        // The first may be on its way: the second is dropped.
        self.sealed.remove(1).map_or(0, |dropped| dropped.count)
    }

    fn seal(&mut self) {
        if self.open.count > 0 {
            let next = RecordBatch { bytes: Vec::with_capacity(BATCH_BYTES + 4_096), ..empty(self.next_sequence) };
            self.sealed.push_back(std::mem::replace(&mut self.open, next));
            self.named = Named::default();
        }
    }

    /// The batch to send next; the same one until it is stored.
    pub(crate) fn next_batch(&mut self) -> Option<RecordBatch> {
        if self.sealed.is_empty() {
            self.seal();
        }
        self.sealed.front().cloned()
    }

    /// Whether a whole batch waits.
    pub(crate) fn is_urgent(&self) -> bool {
        !self.sealed.is_empty()
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.open.count == 0
    }

    /// How many records wait.
    pub(crate) fn len(&self) -> u64 {
        self.sealed.iter().chain([&self.open]).map(|batch| u64::from(batch.count)).sum()
    }

    /// The batch with this first sequence number is stored.
    pub(crate) fn stored(&mut self, first_sequence: u64) {
        if self.sealed.front().is_some_and(|batch| batch.first_sequence == first_sequence) {
            self.sealed.pop_front();
        }
    }

    /// The batches that end with this sequence number, or before, are stored.
    pub(crate) fn stored_up_to(&mut self, last_sequence: u64) {
        while self.sealed.front().is_some_and(|batch| batch.first_sequence + u64::from(batch.count) <= last_sequence.saturating_add(1)) {
            self.sealed.pop_front();
        }
    }

    /// The holder was closed: what waits goes out under the new one, numbered anew.
    pub(crate) fn renumber(&mut self) {
        self.next_sequence = 1;
        for batch in self.sealed.iter_mut().chain([&mut self.open]) {
            batch.first_sequence = self.next_sequence;
            self.next_sequence += u64::from(batch.count);
        }
    }
}
