//! The queue of audit records: bounded, in sequence, given up only when it is stored.

use decision_core::holder::AccountRef;
use decision_core::principal::Principal;
use hashbrown::{HashMap, HashSet};
use std::collections::VecDeque;
use std::rc::Rc;
use wire::audit::AuditRecord;
use wire::sync::{Id, RecordBatch};

/// A batch is sealed at this size.
const BATCH_BYTES: usize = 512 * 1_024;
/// Sealed batches that may wait: 32 MiB.
const BATCHES_MAX: usize = 64;
/// From so many on the queue counts as full: what is left is for requests that are under way.
const BATCHES_FULL: usize = 48;

/// Records that are not yet stored.
#[derive(Debug)]
pub(crate) struct RecordQueue {
    next_sequence: u64,
    /// Everything before this number is stored.
    stored_before: u64,
    /// Records that were not made since the open batch began: a gap behind it.
    left_out: u64,
    open: Batch,
    named: Named,
    sealed: VecDeque<Batch>,
    /// Requests that wait, and whose intents are stored.
    intents_stored: HashSet<Id>,
}

/// Records that travel together, and the requests among them that wait for that.
#[derive(Debug)]
struct Batch {
    records: RecordBatch,
    /// By request. They stay with the batch, whatever numbers it gets.
    intents: Vec<Id>,
}

impl Batch {
    fn empty(first_sequence: u64, bytes: Vec<u8>) -> Self {
        Self { records: RecordBatch { first_sequence, count: 0, bytes }, intents: Vec::new() }
    }

    /// The sequence number behind its last record.
    fn end(&self) -> u64 {
        self.records.first_sequence.saturating_add(u64::from(self.records.count))
    }
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
        Self {
            next_sequence: 1,
            stored_before: 1,
            left_out: 0,
            open: Batch::empty(1, Vec::new()),
            named: Named::default(),
            sealed: VecDeque::new(),
            intents_stored: HashSet::new(),
        }
    }
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
        let open = &mut self.open.records;
        let start = open.bytes.len();
        let mut bytes = std::mem::take(&mut open.bytes);
        bytes.extend([0; 4]);
        // Writing to memory fails only if a type of the record could not be serialised at all, which its tests exclude.
        open.bytes = postcard::to_extend(record, bytes).unwrap_or_default();
        let length = open.bytes.len().saturating_sub(start + 4);
        if let Some(place) = open.bytes.get_mut(start..start + 4) {
            place.copy_from_slice(&u32::try_from(length).unwrap_or(0).to_le_bytes());
        }
        open.count += 1;
        self.next_sequence += 1;
        if self.open.records.bytes.len() >= BATCH_BYTES {
            self.seal();
        }
        if self.sealed.len() <= BATCHES_MAX {
            return 0;
        }
        // The first may be on its way: the second is dropped.
        self.sealed.remove(1).map_or(0, |dropped| dropped.records.count)
    }

    /// Queues the intent of a request that waits until it is stored. Returns what [`Self::push`] does.
    pub(crate) fn push_intent(&mut self, record: &AuditRecord<'_>) -> u32 {
        // With the batch that gets the record, which may be whole by that.
        self.open.intents.push(record.request_id);
        self.push(record)
    }

    /// Whether the intent of that request is stored. Told once.
    pub(crate) fn take_intent(&mut self, request: &Id) -> bool {
        self.intents_stored.remove(request)
    }

    /// The request does not wait any more. Its intent stays.
    pub(crate) fn forget_intent(&mut self, request: &Id) {
        if self.intents_stored.remove(request) {
            return;
        }
        let waiting = |batch: &&mut Batch| batch.intents.contains(request);
        if let Some(batch) = self.sealed.iter_mut().chain([&mut self.open]).find(waiting) {
            batch.intents.retain(|other| other != request);
        }
    }

    /// A request has no record, because the queue is full. Its number is used all the same, so that the gap shows.
    pub(crate) fn leave_out(&mut self) {
        self.left_out += 1;
        if self.open.records.count == 0 {
            self.open.records.first_sequence = self.skip();
        }
    }

    /// Skips the numbers of what was left out. Returns the next one.
    fn skip(&mut self) -> u64 {
        self.next_sequence += std::mem::take(&mut self.left_out);
        self.next_sequence
    }

    /// No further record finds room in what is open.
    pub(crate) fn seal(&mut self) {
        if self.open.records.count > 0 {
            let next = Batch::empty(self.skip(), Vec::with_capacity(BATCH_BYTES + 4_096));
            self.sealed.push_back(std::mem::replace(&mut self.open, next));
            self.named = Named::default();
        }
    }

    /// The batch to send next; the same one until it is stored.
    pub(crate) fn next_batch(&mut self) -> Option<RecordBatch> {
        if self.sealed.is_empty() {
            self.seal();
        }
        self.sealed.front().map(|batch| batch.records.clone())
    }

    /// Whether a whole batch waits, or a request for one to be stored.
    pub(crate) fn is_urgent(&self) -> bool {
        !self.sealed.is_empty() || !self.open.intents.is_empty()
    }

    /// Whether only records of requests that are under way still find room.
    pub(crate) fn is_full(&self) -> bool {
        self.sealed.len() >= BATCHES_FULL
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.open.records.count == 0
    }

    /// How many records wait.
    pub(crate) fn len(&self) -> u64 {
        self.sealed.iter().chain([&self.open]).map(|batch| u64::from(batch.records.count)).sum()
    }

    /// The batch with this first sequence number is stored.
    pub(crate) fn stored(&mut self, first_sequence: u64) {
        if self.sealed.front().is_some_and(|batch| batch.records.first_sequence == first_sequence) {
            self.first_is_stored();
        }
    }

    /// The batches that end with this sequence number, or before, are stored.
    pub(crate) fn stored_up_to(&mut self, last_sequence: u64) {
        while self.sealed.front().is_some_and(|batch| batch.end() <= last_sequence.saturating_add(1)) {
            self.first_is_stored();
        }
    }

    fn first_is_stored(&mut self) {
        if let Some(batch) = self.sealed.pop_front() {
            self.stored_before = batch.end();
            self.intents_stored.extend(batch.intents);
        }
    }

    /// The holder was closed: what waits goes out under the new one, numbered from what is stored on. What was dropped stays a hole: the
    /// closed holder's gap ends before it, so that only the new one's can tell of it.
    pub(crate) fn renumber(&mut self) {
        let before = self.stored_before.saturating_sub(1);
        for batch in self.sealed.iter_mut().chain([&mut self.open]) {
            batch.records.first_sequence = batch.records.first_sequence.saturating_sub(before);
        }
        self.next_sequence = self.next_sequence.saturating_sub(before);
        self.stored_before = 1;
    }

    /// Whether no request waits for a record of its to be stored.
    #[cfg(test)]
    pub(crate) fn awaits_nothing(&self) -> bool {
        self.intents_stored.is_empty() && self.sealed.iter().chain([&self.open]).all(|batch| batch.intents.is_empty())
    }
}
