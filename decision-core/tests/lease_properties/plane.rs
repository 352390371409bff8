//! A small control plane, from the rules that `wire::sync` and the design state: cumulative targets, call numbers, older
//! calls ignored, closing, recalls and a fair share. Kept as plain as it can be: it is what the holder is held against.

use decision_core::holder::Grant;
use std::collections::BTreeMap;

/// Budget, scope and start of the window in microseconds.
pub(crate) type Key = (String, String, i64);

/// An owned [`decision_core::holder::Report`], as it travels.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) key: Key,
    pub(crate) generation: u64,
    pub(crate) used: i64,
    pub(crate) held: i64,
    pub(crate) target: i64,
    pub(crate) minimum: i64,
    pub(crate) charge: i64,
    pub(crate) close: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) holder: u64,
    pub(crate) call: u64,
    /// None: the holder was closed.
    pub(crate) body: Option<Body>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Body {
    pub(crate) grants: Vec<(Key, Grant)>,
    pub(crate) recalls: Vec<Key>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    /// Grants of open leases, and charges of closed ones.
    pub(crate) committed: i64,
    /// Charged by everybody.
    pub(crate) settled: i64,
    leases: BTreeMap<u64, Lease>,
    starving: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    pub(crate) generation: u64,
    pub(crate) granted: i64,
    pub(crate) used: i64,
    pub(crate) held: i64,
}

#[derive(Clone, Debug)]
struct Holder {
    last_call: u64,
    last_seen: i64,
    closed: bool,
    answer: Option<Answer>,
}

#[derive(Debug)]
pub(crate) struct Plane {
    pub(crate) accounts: BTreeMap<Key, Account>,
    caps: BTreeMap<String, i64>,
    window_end: fn(&str, i64) -> i64,
    holders: BTreeMap<u64, Holder>,
}

/// A holder that is silent for so long is closed.
const SILENCE: i64 = 60_000_000;

impl Plane {
    pub(crate) fn new(caps: BTreeMap<String, i64>, window_end: fn(&str, i64) -> i64) -> Self {
        Self { accounts: BTreeMap::new(), caps, window_end, holders: BTreeMap::new() }
    }

    pub(crate) fn cap(&self, budget: &str) -> i64 {
        self.caps.get(budget).copied().unwrap_or(0)
    }

    pub(crate) fn lease(&self, holder: u64, key: &Key) -> Option<Lease> {
        self.accounts.get(key)?.leases.get(&holder).copied()
    }

    pub(crate) fn is_closed(&self, holder: u64) -> bool {
        self.holders.get(&holder).is_some_and(|holder| holder.closed)
    }

    /// Carries out a call. None: an older one, which is not answered.
    pub(crate) fn call(&mut self, holder: u64, call: u64, reports: &[Sent], now: i64) -> Option<Answer> {
        let known = self.holders.entry(holder).or_insert(Holder { last_call: 0, last_seen: now, closed: false, answer: None });
        if known.closed {
            return Some(Answer { holder, call, body: None });
        }
        if call < known.last_call {
            return None;
        }
        if call == known.last_call {
            return known.answer.clone();
        }
        (known.last_call, known.last_seen) = (call, now);
        let sharers = self.holders.values().filter(|holder| !holder.closed).count();
        let mut body = Body::default();
        for report in reports {
            let cap = self.cap(&report.key.0);
            let open = now < (self.window_end)(&report.key.0, report.key.2);
            let account = self.accounts.entry(report.key.clone()).or_default();
            let granted = account.book(holder, report, if open { cap } else { 0 }, i64::try_from(sharers).unwrap_or(1));
            let grant = Grant {
                generation: report.generation,
                granted: decision_core::budget::Units::new(granted),
                cap: decision_core::budget::Units::new(cap),
                settled: decision_core::budget::Units::new(account.settled),
                known: true,
                overriding: None,
            };
            body.grants.push((report.key.clone(), grant));
        }
        let wanted = self.accounts.iter().filter(|(_, account)| account.starving);
        body.recalls = wanted.filter(|(_, account)| account.has_unused(holder)).map(|(key, _)| key.clone()).collect();
        let answer = Answer { holder, call, body: Some(body) };
        if let Some(known) = self.holders.get_mut(&holder) {
            known.answer = Some(answer.clone());
        }
        Some(answer)
    }

    /// Closes holders that were silent for too long, and forfeits their leases.
    pub(crate) fn close_silent(&mut self, now: i64) {
        let silent = self.holders.iter().filter(|(_, holder)| now - holder.last_seen >= SILENCE).map(|(id, _)| *id);
        for id in silent.collect::<Vec<_>>() {
            self.close(id);
        }
    }

    /// INVARIANT (I3): what a closed holder was granted is charged in full.
    pub(crate) fn close(&mut self, id: u64) {
        let Some(holder) = self.holders.get_mut(&id) else { return };
        holder.closed = true;
        for account in self.accounts.values_mut() {
            if let Some(lease) = account.leases.remove(&id) {
                account.settled += lease.granted - lease.used;
            }
        }
    }
}

impl Account {
    fn has_unused(&self, holder: u64) -> bool {
        self.leases.get(&holder).is_some_and(|lease| lease.granted > lease.used + lease.held)
    }

    /// The grant after the report.
    fn book(&mut self, holder: u64, report: &Sent, cap: i64, sharers: i64) -> i64 {
        let mut lease = match self.leases.get(&holder).copied() {
            Some(newer) if newer.generation > report.generation => return 0,
            Some(same) if same.generation == report.generation => same,
            older => {
                if report.close {
                    return 0;
                }
                if let Some(older) = older {
                    self.settled += older.granted - older.used;
                    self.leases.remove(&holder);
                }
                Lease { generation: report.generation, granted: 0, used: 0, held: 0 }
            }
        };
        self.settled += (report.used - lease.used).max(0);
        (lease.used, lease.held) = (lease.used.max(report.used), report.held);
        if report.close {
            self.settled += lease.held;
            self.committed -= lease.granted - lease.used - lease.held;
            self.leases.remove(&holder);
            return 0;
        }
        let kept = lease.granted.min(report.target.max(report.minimum).max(lease.used + lease.held));
        self.committed -= lease.granted - kept;
        lease.granted = kept;
        let available = (cap - self.committed).max(0);
        let share = (available / (2 * sharers)).min(report.target - lease.granted);
        let prefetch = if share >= 2 * report.charge { share } else { 0 };
        let waiting = (report.minimum - lease.granted).max(0);
        let raise = prefetch.max(if waiting <= available { waiting } else { 0 });
        lease.granted += raise;
        self.committed += raise;
        self.starving = report.minimum > lease.granted && self.settled + report.charge <= cap;
        self.leases.insert(holder, lease);
        lease.granted
    }
}
