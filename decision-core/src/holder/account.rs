//! One account of a holder: its lease, and when to ask for more or give back.

use super::Keep;
use crate::budget::{CHARGE_MAX, OVERRIDE_PREFIX, Units, Window, push_number};
use crate::lease::Lease;
use crate::time::Timestamp;
use core::hash::BuildHasher;
use core::time::Duration;

/// A lease should cover this much of the holder's own rate.
const AHEAD: i64 = 30;
/// … and at least this many charges.
const AHEAD_CHARGES: i64 = 16;
/// A lease that was not used for so long is given back.
const IDLE: Duration = Duration::from_secs(10);
/// An account whose answer did not help those who wait is asked for again after so long: others have to give back first.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// So long before a window ends the lease of the next one is asked for …
const NEXT: Duration = Duration::from_secs(2);
/// … or up to so much earlier, each account at its own moment, so that not all of them ask at once.
const NEXT_JITTER_MS: u64 = 3_000;

/// What the holder tells about one account, and wants of it: see `AccountReport` in the crate `wire`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are documented on the wire")]
pub struct Report<'h> {
    pub budget: &'h str,
    pub scope: &'h str,
    pub window_start: Timestamp,
    pub generation: u64,
    pub used: Units,
    pub held: Units,
    pub overrun: Units,
    pub target: Units,
    pub minimum: Units,
    pub charge: Units,
    pub close: bool,
}

/// The control plane's answer for one account: see `AccountGrant` in the crate `wire`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are documented on the wire")]
pub struct Grant {
    pub generation: u64,
    pub granted: Units,
    pub cap: Units,
    pub settled: Units,
    pub known: bool,
    pub overriding: Option<Override>,
}

/// A second account that somebody granted beside a spent one, for its own span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// Its number.
    pub number: u64,
    /// From when until when it may be spent.
    pub window: Window,
}

impl Override {
    /// Its scope, as the control plane knows it: its number, and the scope beside which it was granted.
    pub(super) fn write_scope(&self, of: &str, out: &mut String) {
        out.push_str(OVERRIDE_PREFIX);
        push_number(out, self.number);
        out.push(',');
        out.push_str(of);
    }
}

/// How full an account is, as far as this holder knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The cap in force.
    pub cap: Units,
    /// Charged by everybody, and since then by this holder.
    pub settled: Units,
    /// Reserved by open requests of this holder.
    pub held: Units,
    /// The account's window.
    pub window: Window,
}

impl Standing {
    /// What is left for requests to come.
    #[must_use]
    pub const fn remaining(&self) -> Units {
        self.cap.minus(self.settled).minus(self.held)
    }
}

#[derive(Debug)]
pub(super) struct Account {
    pub(super) name: u16,
    pub(super) scope: Box<str>,
    pub(super) window: Window,
    pub(super) generation: u64,
    pub(super) lease: Lease,
    /// Charges of the requests in the queue.
    pub(super) waiting: Units,
    charge: Largest,
    /// Something changed since the last report.
    pub(super) dirty: bool,
    /// A report was sent and not answered: the control plane may not know it.
    unanswered: bool,
    /// A close was sent; it is repeated until it is acknowledged.
    pub(super) closing: bool,
    /// Others wait for what this lease does not use.
    pub(super) recalled: bool,
    told: Option<Told>,
    /// What the last report said was charged here.
    reported: Units,
    /// The lease of the next window was asked for, or is none of ours to ask for.
    pub(super) next: Next,
    low: Units,
    renewal_asked: bool,
    /// The minimum of the last report.
    asked: Units,
    /// The last answer was less than that.
    refused: bool,
    /// Whoever waits may ask from then on.
    ask_again: Timestamp,
    /// When it is to be reported, if that is before its turn.
    due: Option<Timestamp>,
    /// The call in which it was reported last.
    pub(super) round: u32,
    last_used: Timestamp,
    pace: Pace,
}

/// What the control plane said of the account, and what it had been told of this lease by then.
#[derive(Clone, Copy, Debug)]
struct Told {
    cap: Units,
    settled: Units,
    reported: Units,
    overriding: Option<Override>,
}

/// Whether the lease of the window after this one is still to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    NotYet,
    Asked,
    /// An override account has one window only.
    None,
}

/// A spent account.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spent {
    pub(super) cap: Units,
    pub(super) settled: Units,
    pub(super) overriding: Option<Override>,
}

/// The holder's own rate, in units per second, smoothed over some reports.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    since: Timestamp,
    taken: Units,
    per_second: i64,
}

/// The largest charge of late: one odd request must not make an account exact for good.
#[derive(Clone, Copy, Debug, Default)]
struct Largest {
    since: Timestamp,
    now: Units,
    before: Units,
}

/// For so long a charge counts at least, and at most twice as long.
const LATELY: Duration = Duration::from_secs(30);

impl Largest {
    fn note(&mut self, amount: Units, now: Timestamp) {
        if now.since(self.since) >= LATELY {
            *self = Self { since: now, now: Units::ZERO, before: self.now };
        }
        self.now = self.now.max(amount);
    }

    fn get(&self) -> Units {
        self.now.max(self.before)
    }
}

impl Pace {
    fn measure(&mut self, taken: Units, now: Timestamp) {
        let micros = i64::try_from(now.since(self.since).as_micros()).unwrap_or(i64::MAX);
        if micros < 100_000 {
            return;
        }
        let instant = i128::from(taken.minus(self.taken).get()) * 1_000_000 / i128::from(micros);
        let instant = i64::try_from(instant).unwrap_or(i64::MAX);
        // Rises at once, falls by half: too much is given back when idle, too little costs a wait.
        self.per_second = instant.max(self.per_second.saturating_add(instant) / 2);
        *self = Self { since: now, taken, ..*self };
    }
}

impl Account {
    pub(super) fn new(name: u16, scope: Box<str>, window: Window, generation: u64) -> Self {
        Self {
            name,
            scope,
            window,
            generation,
            lease: Lease::default(),
            waiting: Units::ZERO,
            charge: Largest::default(),
            dirty: true,
            unanswered: false,
            closing: false,
            recalled: false,
            told: None,
            reported: Units::ZERO,
            next: Next::NotYet,
            low: Units::ZERO,
            renewal_asked: false,
            asked: Units::ZERO,
            refused: false,
            ask_again: Timestamp::EPOCH,
            due: None,
            round: 0,
            last_used: Timestamp::EPOCH,
            pace: Pace::default(),
        }
    }

    /// The same account in its next window, asked for before anybody needs it.
    pub(super) fn following(&self, window: Window, generation: u64, now: Timestamp) -> Self {
        let pace = Pace { since: now, taken: Units::ZERO, per_second: self.pace.per_second };
        Self { charge: self.charge, last_used: now, pace, ..Self::new(self.name, self.scope.clone(), window, generation) }
    }

    pub(super) fn is(&self, name: u16, scope: &str, window_start: Timestamp) -> bool {
        self.name == name && self.window.start == window_start && *self.scope == *scope
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.is(other.name, &other.scope, other.window.start)
    }

    pub(super) fn hash(&self, hasher: &impl BuildHasher) -> u64 {
        hasher.hash_one((self.name, &*self.scope, self.window.start))
    }

    /// When nothing that the control plane could do would make room for `charge`.
    pub(super) fn spent(&self, charge: Units) -> Option<Spent> {
        let told = self.told.filter(|told| told.settled.plus(charge) > told.cap)?;
        Some(Spent { cap: told.cap, settled: told.settled, overriding: told.overriding })
    }

    /// When the control plane was asked for more and had none, by its last word.
    pub(super) fn refused(&self) -> Option<(Window, Spent)> {
        let told = self.told.filter(|_| self.refused)?;
        Some((self.window, Spent { cap: told.cap, settled: told.settled, overriding: None }))
    }

    /// How full the account is; none before the first answer.
    pub(super) fn standing(&self) -> Option<Standing> {
        let told = self.told?;
        let settled = told.settled.plus(self.charged().minus(told.reported));
        Some(Standing { cap: told.cap, settled, held: self.lease.held(), window: self.window })
    }

    /// Charged under this lease, overruns included.
    fn charged(&self) -> Units {
        self.lease.used().plus(self.lease.overrun())
    }

    /// Whether the lease of the next window is to be asked for now: it will be needed, and this one ends soon.
    pub(super) fn wants_next(&self, now: Timestamp, hasher: &impl BuildHasher) -> bool {
        let in_use = self.next == Next::NotYet && !self.closing && now < self.window.end && now.since(self.last_used) < IDLE;
        let left = self.window.end.since(now);
        let earlier = |account: &Self| Duration::from_millis(hasher.hash_one(&*account.scope) % NEXT_JITTER_MS);
        in_use
            && (left <= NEXT
                || left <= NEXT.saturating_add(Duration::from_millis(NEXT_JITTER_MS)) && left <= NEXT.saturating_add(earlier(self)))
    }

    pub(super) fn forget_spent(&mut self) {
        self.told = None;
    }

    /// A request takes a place in the queue. What is charged usually is not known before the first reservation.
    pub(super) fn queue(&mut self, amount: Units) {
        self.waiting = self.waiting.plus(amount);
        if self.charge.get() == Units::ZERO {
            self.charge.now = amount;
        }
    }

    /// A request leaves the queue.
    pub(super) fn unqueue(&mut self, amount: Units) {
        self.waiting = self.waiting.minus(amount);
        if self.waiting == Units::ZERO && !self.recalled && !self.renewal_asked {
            self.due = None;
        }
    }

    /// Whether a lower limit would free something that nobody here waits for.
    pub(super) fn has_to_spare(&self) -> bool {
        self.lease.limit() > self.lease.taken().plus(self.waiting)
    }

    /// When a request that takes its place now may ask.
    pub(super) fn may_ask(&self, now: Timestamp) -> Timestamp {
        self.ask_again.max(now)
    }

    /// It is to be reported at this moment. False when it is at an earlier one anyway.
    pub(super) fn line_up(&mut self, when: Timestamp) -> bool {
        let sooner = self.due.is_none_or(|due| when < due);
        if sooner {
            self.due = Some(when);
        }
        sooner
    }

    /// Whether this moment is the one at which it is to be reported.
    pub(super) fn is_due(&self, when: Timestamp) -> bool {
        self.due == Some(when)
    }

    /// Whether the control plane has said anything of it.
    pub(super) const fn is_told(&self) -> bool {
        self.told.is_some()
    }

    /// Notes a reservation. True when the lease runs low and that was not said yet.
    pub(super) fn reserved(&mut self, amount: Units, now: Timestamp) -> bool {
        self.dirty = true;
        self.last_used = now;
        self.charge.note(amount, now);
        let runs_low = !self.renewal_asked && self.lease.room() < self.low;
        self.renewal_asked |= runs_low;
        runs_low
    }

    pub(super) fn report<'h>(&'h mut self, budget: &'h str, now: Timestamp, round: u32, keep: Keep) -> Option<Report<'h>> {
        self.due = self.due.filter(|due| *due > now);
        self.round = round;
        self.pace.measure(self.lease.taken(), now);
        let target = self.target(now, keep);
        let lowered = target < self.lease.limit();
        self.lease.lower(target);
        let done = self.waiting == Units::ZERO && self.lease.held() == Units::ZERO;
        let over = now >= self.window.end;
        let idle = now.since(self.last_used) >= IDLE && self.spent(self.charge.get()).is_none();
        self.closing |= done && (over || idle || keep == Keep::Nothing);
        let asks = target > self.lease.limit() && now < self.window.end;
        if !(self.dirty || self.unanswered || self.closing || lowered || asks) {
            return None;
        }
        self.dirty = false;
        self.reported = self.charged();
        self.unanswered = true;
        self.recalled = false;
        self.asked = self.lease.taken().plus(self.waiting);
        if self.waiting > Units::ZERO {
            self.ask_again = now.plus(ASK_AGAIN);
        }
        Some(Report {
            budget,
            scope: &self.scope,
            window_start: self.window.start,
            generation: self.generation,
            used: sane(self.lease.used()),
            held: sane(self.lease.held()),
            overrun: sane(self.lease.overrun()),
            target: sane(if self.closing { self.lease.taken() } else { target }),
            minimum: sane(self.asked),
            charge: sane(self.charge.get()),
            close: self.closing,
        })
    }

    /// What the grant should become.
    fn target(&self, now: Timestamp, keep: Keep) -> Units {
        let need = self.lease.taken().plus(self.waiting);
        let unused = now.since(self.last_used) >= IDLE && self.waiting == Units::ZERO;
        if self.closing || self.recalled || unused || keep == Keep::Nothing || now >= self.window.end {
            return need;
        }
        let ahead = self.ahead();
        let plenty = need.plus(Units::new(ahead.get().saturating_mul(4)));
        let enough = need.plus(Units::new(ahead.get() / 2));
        if self.lease.limit() >= enough && self.lease.limit() <= plenty { self.lease.limit() } else { need.plus(ahead) }
    }

    fn ahead(&self) -> Units {
        let by_pace = self.pace.per_second.saturating_mul(AHEAD);
        Units::new(by_pace.max(self.charge.get().get().saturating_mul(AHEAD_CHARGES)))
    }

    pub(super) fn apply(&mut self, grant: &Grant) {
        self.lease.set_limit(grant.granted);
        let Grant { cap, settled, overriding, .. } = *grant;
        self.told = grant.known.then_some(Told { cap, settled, reported: self.reported, overriding });
        self.low = Units::new((self.ahead().get() / 2).min(self.lease.room().get() / 2));
        self.renewal_asked = false;
        self.unanswered = false;
        self.refused = grant.known && grant.granted < self.asked;
        if grant.granted >= self.asked {
            self.ask_again = Timestamp::EPOCH;
        }
    }
}

/// No more than the control plane takes: it refuses a call in which any number is larger, and with it all others.
fn sane(units: Units) -> Units {
    units.min(Units::new(CHARGE_MAX))
}
