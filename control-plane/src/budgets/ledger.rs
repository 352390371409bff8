//! The rule by which leases are granted, settled and forfeited: a pure function of one account, one lease and one
//! report. `scripts/account.lua` is the same rule for the budgets in Valkey; a property test compares them.
//!
//! INVARIANT (no overspend): `committed + overrun <= cap` after every raise.
//! INVARIANT (conservation): `granted >= used + held` for each lease, hence `committed >= settled + held`.

use decision_core::budget::Units;
use wire::sync::AccountReport;

/// No number in a report is larger.
pub const UNITS_MAX: i64 = decision_core::budget::CHARGE_MAX;

/// A higher cap counts as this one, for the same reason.
pub const CAP_MAX: i64 = 1 << 52;

/// One budget, scope and window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Grants of open leases and charges of closed ones.
    pub committed: Units,
    /// Charged: used by open leases, charges of closed ones, forfeits.
    pub settled: Units,
    /// Reserved by open requests.
    pub held: Units,
    /// Of `settled`: what was charged because nobody could say what became of it.
    pub forfeited: Units,
    /// Charged beyond what requests had reserved, booked apart.
    pub overrun: Units,
    /// Reported as spent although it was never granted.
    pub over_grant: Units,
}

/// What one holder may spend of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Distinguishes it from earlier ones of the same holder.
    pub generation: u64,
    /// The grant, over the life of the lease.
    pub granted: Units,
    /// Settled so far.
    pub used: Units,
    /// Reserved by open requests.
    pub held: Units,
    /// Beyond what was reserved.
    pub overrun: Units,
}

impl Account {
    /// All that was charged, as holders are told: what remains of the cap can be spent, unless it is leased.
    #[must_use]
    pub const fn charged(&self) -> Units {
        self.settled.plus(self.overrun)
    }
}

impl Lease {
    const fn opened(generation: u64) -> Self {
        Self { generation, granted: Units::ZERO, used: Units::ZERO, held: Units::ZERO, overrun: Units::ZERO }
    }

    /// What cannot be taken back.
    #[must_use]
    pub const fn needed(&self) -> Units {
        self.used.plus(self.held)
    }

    /// What a recall can free.
    #[must_use]
    pub const fn unused(&self) -> Units {
        self.granted.minus(self.needed())
    }

    /// Whether a recall of the reported lease would free something that no request waits for.
    #[must_use]
    pub fn has_to_spare(&self, report: &Report) -> bool {
        self.granted > self.needed().max(report.minimum)
    }

    fn is_empty(&self) -> bool {
        self.granted.plus(self.used).plus(self.held).plus(self.overrun) == Units::ZERO
    }
}

/// What a holder reports of a lease, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The lease.
    pub generation: u64,
    /// Settled so far.
    pub used: Units,
    /// Reserved by open requests.
    pub held: Units,
    /// Beyond what was reserved.
    pub overrun: Units,
    /// What the grant should become.
    pub target: Units,
    /// What it must be for the requests that wait.
    pub minimum: Units,
    /// The largest single charge.
    pub charge: Units,
    /// The lease is given back.
    pub close: bool,
}

/// A number in a report is negative or absurd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a number in an account report is negative or too large")]
pub struct InvalidReport;

impl TryFrom<&AccountReport> for Report {
    type Error = InvalidReport;

    fn try_from(report: &AccountReport) -> Result<Self, InvalidReport> {
        let units = |number: i64| (0..=UNITS_MAX).contains(&number).then(|| Units::new(number)).ok_or(InvalidReport);
        if i64::try_from(report.generation).is_ok_and(|generation| generation <= UNITS_MAX) {
            Ok(Self {
                generation: report.generation,
                used: units(report.used)?,
                held: units(report.held)?,
                overrun: units(report.overrun)?,
                target: units(report.target)?,
                minimum: units(report.minimum)?,
                charge: units(report.charge)?,
                close: report.close,
            })
        } else {
            Err(InvalidReport)
        }
    }
}

/// What may be granted of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Up to the cap, shared by so many holders.
    Open {
        /// The cap, at most [`CAP_MAX`].
        cap: Units,
        /// Holders seen in the last minute, at least one.
        holders: u32,
    },
    /// Up to the cap, and exactly what requests wait for: the holder's Envoy is about to stop.
    Exact {
        /// The cap, at most [`CAP_MAX`].
        cap: Units,
    },
    /// Nothing more: the window is over. What was spent is still booked.
    Ended,
    /// Nothing more, and no new lease: the policy has no such budget or window.
    Unknown,
}

/// Whether holders should give back what they do not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recall {
    /// They need not.
    NotNeeded,
    /// A request waits for units that lie in other leases; or a cap that has dropped is exceeded, and some of that is unused.
    Needed,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Booked {
    /// The account after it.
    pub account: Account,
    /// The lease after it; none when it was given back, or never came to be.
    pub lease: Option<Lease>,
    /// The grant of the reported lease.
    pub granted: Units,
    /// Whether others should give back.
    pub recall: Recall,
}

/// Books `report` on `account`, where `lease` is the holder's open lease.
#[must_use]
pub fn book(account: Account, lease: Option<Lease>, report: &Report, room: Room) -> Booked {
    let untouched = Booked { account, lease, granted: Units::ZERO, recall: Recall::NotNeeded };
    let mut account = account;
    let mut lease = match lease {
        // A late message about a lease that the holder itself has replaced.
        Some(newer) if newer.generation > report.generation => return untouched,
        Some(same) if same.generation == report.generation => same,
        older => {
            // Giving back what is not open is a no-op: the first of two such messages has settled it.
            if report.close || room == Room::Unknown {
                return untouched;
            }
            account = older.map_or(account, |older| forfeit(account, &older));
            Lease::opened(report.generation)
        }
    };
    charge(&mut account, &mut lease, report);
    if report.close {
        settle(&mut account, &lease);
        return Booked { account, lease: None, granted: Units::ZERO, recall: Recall::NotNeeded };
    }
    lower(&mut account, &mut lease, report);
    let recall = raise(&mut account, &mut lease, report, room);
    Booked { account, lease: (!lease.is_empty()).then_some(lease), granted: lease.granted, recall }
}

/// Charges an open lease in full: nobody can say what became of it.
#[must_use]
pub fn forfeit(mut account: Account, lease: &Lease) -> Account {
    let lost = lease.granted.minus(lease.used);
    account.settled = account.settled.plus(lost);
    account.forfeited = account.forfeited.plus(lost);
    account.held = account.held.minus(lease.held);
    account
}

/// Books what was spent. More than was granted is charged all the same: it happened, or the store lost the grant.
fn charge(account: &mut Account, lease: &mut Lease, report: &Report) {
    let used = lease.used.max(report.used);
    account.settled = account.settled.plus(used.minus(lease.used));
    account.held = account.held.minus(lease.held).plus(report.held);
    let overrun = lease.overrun.max(report.overrun);
    account.overrun = account.overrun.plus(overrun.minus(lease.overrun));
    (lease.used, lease.held, lease.overrun) = (used, report.held, overrun);
    let beyond = lease.needed().minus(lease.granted);
    account.over_grant = account.over_grant.plus(beyond);
    grant(account, lease, beyond);
}

fn grant(account: &mut Account, lease: &mut Lease, units: Units) {
    account.committed = account.committed.plus(units);
    lease.granted = lease.granted.plus(units);
}

/// Ends a lease that is given back. What it still holds is charged: no later report can replace it.
fn settle(account: &mut Account, lease: &Lease) {
    account.settled = account.settled.plus(lease.held);
    account.held = account.held.minus(lease.held);
    account.committed = account.committed.minus(lease.unused());
}

/// The holder keeps to a lower target already, so the difference is free at once.
fn lower(account: &mut Account, lease: &mut Lease, report: &Report) {
    let kept = report.target.max(report.minimum).max(lease.needed());
    let freed = lease.granted.minus(kept);
    account.committed = account.committed.minus(freed);
    lease.granted = lease.granted.minus(freed);
}

fn raise(account: &mut Account, lease: &mut Lease, report: &Report, room: Room) -> Recall {
    let (cap, sharing) = match room {
        Room::Open { cap, holders } => (cap, Some(holders)),
        Room::Exact { cap } => (cap, None),
        Room::Ended | Room::Unknown => return Recall::NotNeeded,
    };
    // What requests cost beyond their reservations was spent all the same: it is taken from what is left.
    let available = cap.minus(account.committed).minus(account.overrun);
    let wanted = report.minimum.minus(lease.granted);
    let waiting = if wanted <= available { wanted } else { whole_charges(lease, available, report.charge) };
    let ahead = sharing.map_or(Units::ZERO, |holders| prefetch(lease, report, available, holders));
    let more = waiting.max(ahead).min(available);
    grant(account, lease, more);
    let unused = account.committed.minus(account.settled).minus(account.held);
    let waits = report.minimum > lease.granted && unused > lease.unused();
    // Whatever made the cap drop, expiry or a new revision: nobody else says so.
    let exceeded = account.committed.plus(account.overrun) > cap && unused > Units::ZERO;
    if waits || exceeded { Recall::Needed } else { Recall::NotNeeded }
}

/// How far a lease is raised for requests that are yet to come: together with what lies in it unused, it is a fair
/// share of what is left. (Counting the unused makes a repeated want get no more than the first.)
fn prefetch(lease: &Lease, report: &Report, available: Units, holders: u32) -> Units {
    let left = available.plus(lease.unused()).get();
    let share = Units::new(left / i64::from(holders.max(1)).saturating_mul(2));
    if share < report.charge.plus(report.charge) {
        return Units::ZERO;
    }
    let more = report.target.minus(lease.granted).min(share.minus(lease.unused()));
    whole_charges(lease, more, report.charge)
}

/// The largest raise up to `more` after which the unused part of the lease is a multiple of `charge`.
fn whole_charges(lease: &Lease, more: Units, charge: Units) -> Units {
    if charge == Units::ZERO {
        return more;
    }
    let unused = lease.unused().plus(more).get();
    Units::new(unused - unused % charge.get()).minus(lease.unused())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn report(generation: u64, used: i64, held: i64, target: i64, minimum: i64) -> Report {
        let units = Units::new;
        Report {
            generation,
            used: units(used),
            held: units(held),
            overrun: Units::ZERO,
            target: units(target),
            minimum: units(minimum),
            charge: units(1),
            close: false,
        }
    }

    fn open(cap: i64, holders: u32) -> Room {
        Room::Open { cap: Units::new(cap), holders }
    }

    /// Books reports of one holder in turn; answers the grants, and the account as (committed, settled, forfeited, over_grant).
    fn play(room: Room, reports: &[Report]) -> (Vec<i64>, (i64, i64, i64, i64)) {
        let (mut account, mut lease, mut grants) = (Account::default(), None, Vec::new());
        for report in reports {
            let booked = book(account, lease, report, room);
            (account, lease) = (booked.account, booked.lease);
            grants.push(booked.granted.get());
        }
        let Account { committed, settled, forfeited, over_grant, .. } = account;
        (grants, (committed.get(), settled.get(), forfeited.get(), over_grant.get()))
    }

    #[test]
    fn a_lease_reads_like_a_ledger() {
        let close = |report: Report| Report { close: true, ..report };
        let charged = |report: Report, charge| Report { charge: Units::new(charge), ..report };
        for (story, room, reports, want) in [
            ("half of what is left, at most", open(100, 1), vec![report(1, 0, 0, 80, 1)], (vec![50], (50, 0, 0, 0))),
            ("a repeated want gets no more", open(100, 1), vec![report(1, 0, 0, 80, 1); 3], (vec![50; 3], (50, 0, 0, 0))),
            ("shared by five holders", open(100, 5), vec![report(1, 0, 0, 80, 1)], (vec![10], (10, 0, 0, 0))),
            (
                "an Envoy that stops gets what waits",
                Room::Exact { cap: Units::new(99) },
                vec![report(1, 0, 0, 80, 7)],
                (vec![7], (7, 0, 0, 0)),
            ),
            ("an exact account prefetches nothing", open(3, 1), vec![report(1, 0, 0, 3, 1)], (vec![1], (1, 0, 0, 0))),
            (
                "and can be spent to the last unit",
                open(3, 1),
                vec![report(1, 0, 0, 3, 1), report(1, 1, 0, 3, 2), report(1, 2, 0, 3, 3), report(1, 3, 0, 4, 4)],
                (vec![1, 2, 3, 3], (3, 3, 0, 0)),
            ),
            ("no fraction of a charge is prefetched", open(100, 1), vec![charged(report(1, 0, 0, 80, 7), 7)], (vec![49], (49, 0, 0, 0))),
            ("nor granted to those who wait", open(10, 1), vec![charged(report(1, 0, 0, 12, 12), 4)], (vec![8], (8, 0, 0, 0))),
            ("a lower target frees", open(100, 1), vec![report(1, 0, 0, 50, 0), report(1, 10, 5, 15, 15)], (vec![50, 15], (15, 10, 0, 0))),
            (
                "but not what is used or held",
                open(100, 1),
                vec![report(1, 0, 0, 50, 0), report(1, 10, 5, 0, 0)],
                (vec![50, 15], (15, 10, 0, 0)),
            ),
            (
                "used never decreases",
                open(100, 1),
                vec![report(1, 20, 0, 20, 20), report(1, 10, 0, 20, 20)],
                (vec![20, 20], (20, 20, 0, 20)),
            ),
            ("closing settles", open(100, 1), vec![report(1, 0, 0, 50, 0), close(report(1, 20, 0, 20, 0))], (vec![50, 0], (20, 20, 0, 0))),
            (
                "closing twice settles once",
                open(100, 1),
                vec![report(1, 0, 0, 50, 0), close(report(1, 20, 0, 20, 0)), close(report(1, 20, 0, 20, 0))],
                (vec![50, 0, 0], (20, 20, 0, 0)),
            ),
            (
                "what a closed lease holds is charged",
                open(100, 1),
                vec![report(1, 0, 0, 50, 0), close(report(1, 20, 5, 25, 0))],
                (vec![50, 0], (25, 25, 0, 0)),
            ),
            (
                "an older generation is ignored",
                open(100, 1),
                vec![report(2, 0, 0, 10, 0), report(1, 9, 0, 40, 0)],
                (vec![10, 0], (10, 0, 0, 0)),
            ),
            (
                "a lease that was never closed is forfeited by its successor",
                open(100, 1),
                vec![report(1, 0, 0, 10, 10), report(2, 0, 0, 1, 1)],
                (vec![10, 1], (11, 10, 10, 0)),
            ),
            ("an ended window raises nothing and books all", Room::Ended, vec![report(1, 3, 2, 9, 9)], (vec![5], (5, 3, 0, 5))),
            ("an unknown budget is not touched", Room::Unknown, vec![report(1, 3, 2, 9, 9)], (vec![0], (0, 0, 0, 0))),
            ("what a store lost is adopted, even beyond the cap", open(10, 1), vec![report(1, 30, 2, 40, 40)], (vec![32], (32, 30, 0, 32))),
        ] {
            assert_eq!(play(room, &reports), want, "{story}");
        }
    }

    #[test]
    fn a_lowered_cap_stops_grants() {
        let first = book(Account::default(), None, &report(1, 0, 0, 50, 0), open(100, 1));
        let second = book(first.account, first.lease, &report(1, 10, 0, 60, 60), open(20, 1));
        assert_eq!((second.granted, second.account.committed), (Units::new(50), Units::new(50)));
    }

    #[test]
    fn units_in_other_leases_are_recalled_and_spent_ones_are_not() {
        let other = book(Account::default(), None, &report(1, 0, 0, 10, 10), open(10, 2));
        let short = book(other.account, None, &report(1, 0, 0, 1, 1), open(10, 2));
        assert_eq!((short.granted, short.recall), (Units::ZERO, Recall::Needed));
        let spent = book(other.account, other.lease, &report(1, 10, 0, 10, 10), open(10, 2));
        let refused = book(spent.account, None, &report(1, 0, 0, 1, 1), open(10, 2));
        assert_eq!((refused.granted, refused.recall), (Units::ZERO, Recall::NotNeeded));
    }

    #[test]
    fn what_is_unused_is_recalled_once_the_cap_has_dropped_below_it() {
        let first = book(Account::default(), None, &report(1, 0, 0, 50, 50), open(100, 1));
        let recall = |used, held, cap| book(first.account, first.lease, &report(1, used, held, 50, 0), open(cap, 1)).recall;
        assert_eq!((recall(10, 0, 50), recall(10, 0, 49)), (Recall::NotNeeded, Recall::Needed));
        assert_eq!(recall(40, 10, 20), Recall::NotNeeded, "what is used or held is not taken");
        let overrun = Report { overrun: Units::new(1), ..report(1, 10, 0, 50, 0) };
        assert_eq!(book(first.account, first.lease, &overrun, open(50, 1)).recall, Recall::Needed);
        assert_eq!(book(first.account, first.lease, &report(1, 10, 0, 50, 0), Room::Ended).recall, Recall::NotNeeded);
    }

    #[test]
    fn overruns_are_booked_apart_and_once() {
        let overrun = |units| Report { overrun: Units::new(units), ..report(1, 5, 0, 5, 5) };
        let first = book(Account::default(), None, &overrun(7), open(5, 1));
        let second = book(first.account, first.lease, &overrun(9), open(5, 1));
        assert_eq!((second.account.overrun, second.account.committed), (Units::new(9), Units::new(5)));
    }

    #[test]
    fn overruns_leave_less_to_grant() {
        let overrun = Report { overrun: Units::new(3), ..report(1, 5, 0, 5, 5) };
        let first = book(Account::default(), None, &report(1, 0, 0, 5, 5), open(10, 1));
        let second = book(first.account, first.lease, &overrun, open(10, 1));
        let rest = book(second.account, None, &report(1, 0, 0, 5, 5), open(10, 1));
        assert_eq!((rest.granted, rest.account.committed, rest.account.charged()), (Units::new(2), Units::new(7), Units::new(8)));
        let late = book(rest.account, second.lease, &Report { overrun: Units::new(9), ..overrun }, open(10, 1));
        let none = book(late.account, None, &report(1, 0, 0, 1, 1), open(10, 1));
        assert_eq!((none.granted, none.recall), (Units::ZERO, Recall::Needed));
    }

    #[test]
    fn absurd_reports_are_refused() {
        let sane = AccountReport {
            budget: "b".into(),
            scope: "s".into(),
            window_start: 0,
            generation: 1,
            used: 0,
            held: 0,
            overrun: 0,
            target: UNITS_MAX,
            minimum: 0,
            charge: 0,
            close: false,
        };
        assert!(Report::try_from(&sane).is_ok());
        for absurd in [
            AccountReport { used: -1, ..sane.clone() },
            AccountReport { held: i64::MIN, ..sane.clone() },
            AccountReport { target: UNITS_MAX + 1, ..sane.clone() },
            AccountReport { charge: -1, ..sane.clone() },
            AccountReport { generation: u64::MAX, ..sane.clone() },
        ] {
            assert_eq!(Report::try_from(&absurd), Err(InvalidReport));
        }
    }

    /// A holder as the filter is one: it lowers its own limit before it sends a lower target, and believes only the
    /// answer to its last call.
    #[derive(Clone, Debug, Default)]
    struct Holder {
        call: u64,
        generation: u64,
        limit: i64,
        used: i64,
        held: i64,
        spent_before: i64,
        lease: Option<Lease>,
        last_call: u64,
        messages: Vec<(u64, Report)>,
        answers: Vec<(u64, i64)>,
        closed: bool,
    }

    #[derive(Clone, Debug)]
    enum Step {
        Reserve { holder: usize, units: i64 },
        Settle { holder: usize, units: i64 },
        Send { holder: usize, more: i64, close: bool },
        Deliver { holder: usize, message: usize, keep: bool },
        Answer { holder: usize, answer: usize },
        Lose { holder: usize },
        Forfeit { holder: usize },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let holder = 0..2_usize;
        let step = prop_oneof![
            4 => (holder.clone(), 1..6_i64).prop_map(|(holder, units)| Step::Reserve { holder, units }),
            3 => (holder.clone(), 0..6_i64).prop_map(|(holder, units)| Step::Settle { holder, units }),
            5 => (holder.clone(), 0..12_i64, prop::bool::weighted(0.15)).prop_map(|(holder, more, close)| Step::Send { holder, more, close }),
            6 => (holder.clone(), 0..4_usize, any::<bool>()).prop_map(|(holder, message, keep)| Step::Deliver { holder, message, keep }),
            5 => (holder.clone(), 0..4_usize).prop_map(|(holder, answer)| Step::Answer { holder, answer }),
            1 => holder.clone().prop_map(|holder| Step::Lose { holder }),
            1 => holder.prop_map(|holder| Step::Forfeit { holder }),
        ];
        prop::collection::vec(step, 1..120)
    }

    fn take(account: &mut Account, holder: &mut Holder, cap: i64, step: &Step) {
        match *step {
            Step::Reserve { units, .. } if holder.used + holder.held + units <= holder.limit => holder.held += units,
            Step::Settle { units, .. } => {
                let actual = units.min(holder.held);
                (holder.held, holder.used) = (holder.held - actual, holder.used + actual);
            }
            Step::Send { more, close, .. } => {
                let needed = holder.used + holder.held;
                let close = close && holder.held == 0;
                let target = if close { holder.used } else { needed + more };
                holder.limit = holder.limit.min(target);
                holder.call += 1;
                let sent = Report { close, ..report(holder.generation, holder.used, holder.held, target, (needed + more / 2).min(target)) };
                holder.messages.push((holder.call, sent));
                if close {
                    holder.spent_before += holder.used;
                    (holder.generation, holder.limit, holder.used) = (holder.generation + 1, 0, 0);
                }
            }
            Step::Deliver { message, keep, .. } if message < holder.messages.len() => {
                let (call, sent) = if keep { holder.messages[message] } else { holder.messages.remove(message) };
                deliver(account, holder, cap, call, &sent);
            }
            Step::Answer { answer, .. } if answer < holder.answers.len() => {
                let (call, granted) = holder.answers.remove(answer);
                if call == holder.call && !holder.closed && holder.messages.last().is_none_or(|(_, sent)| !sent.close) {
                    holder.limit = granted;
                }
            }
            Step::Lose { .. } => {
                holder.messages.pop();
                holder.answers.clear();
            }
            Step::Forfeit { .. } => {
                holder.closed = true;
                if let Some(lease) = holder.lease.take() {
                    *account = forfeit(*account, &lease);
                }
            }
            Step::Reserve { .. } | Step::Deliver { .. } | Step::Answer { .. } => {}
        }
    }

    /// The store's side of a call: older calls are refused, a repeated one changes nothing, a closed holder is gone.
    fn deliver(account: &mut Account, holder: &mut Holder, cap: i64, call: u64, sent: &Report) {
        if holder.closed || call < holder.last_call {
            return;
        }
        if call > holder.last_call {
            let booked = book(*account, holder.lease, sent, open(cap, 2));
            (*account, holder.lease, holder.last_call) = (booked.account, booked.lease, call);
        }
        let same = holder.lease.filter(|lease| lease.generation == sent.generation);
        if !sent.close {
            holder.answers.push((call, same.map_or(0, |lease| lease.granted.get())));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// I1, I2, I3, I4 and I8, with lost, late and repeated messages and crashes.
        #[test]
        fn nothing_is_overspent_whatever_gets_lost(cap in 1..40_i64, steps in steps()) {
            let mut account = Account::default();
            let mut holders = [Holder { generation: 1, ..Holder::default() }, Holder { generation: 1, ..Holder::default() }];
            for step in &steps {
                let (Step::Reserve { holder, .. } | Step::Settle { holder, .. } | Step::Send { holder, .. } | Step::Deliver { holder, .. }
                    | Step::Answer { holder, .. } | Step::Lose { holder } | Step::Forfeit { holder }) = step;
                take(&mut account, &mut holders[*holder], cap, step);
                prop_assert!(account.committed.get() <= cap);
                prop_assert!(account.committed >= account.settled.plus(account.held));
                let spent: i64 = holders.iter().map(|holder| holder.spent_before + holder.used + holder.held).sum();
                prop_assert!(spent <= cap, "spent {spent} of {cap}");
                prop_assert!(holders.iter().all(|holder| holder.used + holder.held <= holder.limit.max(holder.used + holder.held)));
            }
            for holder in &mut holders {
                account = holder.lease.take().map_or(account, |lease| forfeit(account, &lease));
            }
            prop_assert_eq!(account.committed, account.settled);
            let left = Units::new(cap).minus(account.committed);
            let last = book(account, None, &report(1, 0, 0, left.get(), left.get()), open(cap, 1));
            prop_assert_eq!((last.granted, last.account.committed), (left, Units::new(cap)));
        }
    }
}
