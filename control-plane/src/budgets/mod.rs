//! Budgets: accounts and leases. `ledger` is the rule, `store` keeps it in Postgres, `valkey` in Redis or Valkey.
//! `caps` is what operators set beside the policy, `alerts` what happens when an account nears its end.
//! This file sorts the reports of a call by account and says, from the policy and the caps in force, what may be granted.

pub mod accounts;
pub mod alerts;
pub mod caps;
pub mod cursor;
pub mod http;
pub mod ledger;
pub mod original;
pub mod store;
pub mod valkey;

use crate::drain::Draining;
use crate::restore::{self, Past};
use caps::Caps;
use caps::copy::{Override, override_parts};
use decision_core::budget::{Budget, SCOPE_BYTES_MAX, Thresholds, Units, Window};
use decision_core::policy::CompiledPolicy;
use decision_core::time::Timestamp;
use ledger::{CAP_MAX, InvalidReport, Lease, Report, Room};
use std::collections::BTreeMap;
use std::time::Duration;
use wire::sync::{AccountGrant, AccountRecall, AccountReport, OverrideAccount};

/// No window of today starts later: it bounds what reaches the database as a timestamp.
const SECONDS_MAX: i64 = 1 << 37;

/// A budget, scope and window. The order of keys is the order of locks, and that of `COLLATE "C"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AccountKey {
    /// The budget's name.
    pub budget: String,
    /// The scope with its values.
    pub scope: String,
    /// Start of the window, seconds since the epoch.
    pub window_start: i64,
}

fn recall_of(key: &AccountKey) -> AccountRecall {
    AccountRecall { budget: key.budget.clone(), scope: key.scope.clone(), window_start: key.window_start }
}

/// Where an account is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Postgres,
    Valkey,
    /// No store can have it: its name cannot be stored, or it has never been a window.
    Nowhere,
}

/// The reports of one call on one account, and what the policy says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posting {
    /// The account.
    pub key: AccountKey,
    /// End of the window; absent when the policy knows none.
    pub window_end: Option<i64>,
    /// The cap in force: set for the scope, else the policy's; zero when it has none.
    pub cap: Units,
    /// What may be granted.
    pub room: Room,
    /// In the order of their generations, each with its place in the call.
    pub reports: Vec<(usize, Report)>,
    /// When its level rises; none where nobody is told.
    pub thresholds: Option<Thresholds>,
    /// What may be spent when this account has no more.
    pub overriding: Option<OverrideAccount>,
}

impl Posting {
    /// Whether the lease that these reports came to has units that no request waits for.
    #[must_use]
    pub fn has_to_spare(&self, lease: Option<&Lease>) -> bool {
        let last = self.reports.last().map(|(_, report)| report);
        lease.zip(last).is_some_and(|(lease, report)| lease.has_to_spare(report))
    }

    /// The answer to one of its reports.
    #[must_use]
    pub fn answer(&self, report: &Report, granted: Units, settled: Units) -> AccountGrant {
        AccountGrant {
            budget: self.key.budget.clone(),
            scope: self.key.scope.clone(),
            window_start: self.key.window_start,
            generation: report.generation,
            granted: granted.get(),
            cap: self.cap.get(),
            settled: settled.get(),
            known: self.room != Room::Unknown,
            overriding: self.overriding,
        }
    }
}

/// An answer and its place in the call.
pub type Placed = (usize, AccountGrant);

/// The reports of a call, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports(Vec<(AccountKey, Report)>);

impl Reports {
    /// Checks every number, so that nothing changes when one is wrong.
    ///
    /// # Errors
    /// A number is negative or absurd.
    pub fn check(reports: &[AccountReport]) -> Result<Self, InvalidReport> {
        let keyed = |report: &AccountReport| {
            let key = AccountKey { budget: report.budget.clone(), scope: report.scope.clone(), window_start: report.window_start };
            Ok((key, Report::try_from(report)?))
        };
        reports.iter().map(keyed).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// By what accounts are granted.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The policy in force.
    pub policy: &'a CompiledPolicy,
    /// Caps and override accounts in force.
    pub caps: &'a Caps,
    /// Whether this process still grants.
    pub granting: Granting,
    /// Whether the holder's Envoy is about to stop.
    pub draining: Draining,
}

/// Whether this process still grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granting {
    /// It does.
    On,
    /// It is stopping, or fenced: what is reported is booked, nothing more is granted.
    Off,
    /// Only of windows that begin later than this: nobody knows what was spent of the others before a backup was restored.
    Later(Timestamp),
}

impl Granting {
    /// What of it stays, by what the database remembers.
    #[must_use]
    pub const fn under(self, past: Past) -> Self {
        match (self, past) {
            (Self::Off, _) | (_, Past::Fenced) => Self::Off,
            (Self::On | Self::Later(_), Past::Whole) => self,
            (Self::On | Self::Later(_), Past::Recovered { closed_until }) => Self::Later(closed_until),
        }
    }

    /// Whether anything of this account is granted. A window begins by the clock and may have been leased a moment ahead; an override account
    /// begins when somebody makes it, and what is made after the recovery nobody has spent.
    fn grants(self, key: &AccountKey) -> bool {
        match self {
            Self::On => true,
            Self::Off => false,
            Self::Later(closed_until) => {
                let ahead = if override_parts(&key.scope).is_some() { restore::AHEAD } else { Duration::ZERO };
                Timestamp::from_seconds(key.window_start).plus(ahead) > closed_until
            }
        }
    }
}

/// The postings of a call, by the place that keeps their accounts, each in the order of locks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// For Postgres.
    pub durable: Vec<Posting>,
    /// For Valkey.
    pub volatile: Vec<Posting>,
    /// Answered without asking either.
    pub nowhere: Vec<Placed>,
}

impl Plan {
    /// Sorts checked reports by account, under the policy and the caps in force.
    #[must_use]
    pub fn new(rules: Rules<'_>, reports: &Reports, now: Timestamp, holders: u32) -> Self {
        let mut grouped: BTreeMap<&AccountKey, Vec<(usize, Report)>> = BTreeMap::new();
        for (index, (key, report)) in reports.0.iter().enumerate() {
            grouped.entry(key).or_default().push((index, *report));
        }
        let mut plan = Self::default();
        for (key, mut reports) in grouped {
            reports.sort_by_key(|(_, report)| report.generation);
            let (place, posting) = posting(rules, key, reports, now, holders);
            match place {
                Place::Postgres => plan.durable.push(posting),
                Place::Valkey => plan.volatile.push(posting),
                Place::Nowhere => {
                    let answers = posting.reports.iter().map(|(index, report)| (*index, posting.answer(report, Units::ZERO, Units::ZERO)));
                    plan.nowhere.extend(answers);
                }
            }
        }
        plan
    }
}

fn posting(rules: Rules<'_>, key: &AccountKey, reports: Vec<(usize, Report)>, now: Timestamp, holders: u32) -> (Place, Posting) {
    let budget = rules.policy.budget_by_name(&key.budget);
    let place = match budget {
        _ if !is_storable(key) => Place::Nowhere,
        Some(budget) if !budget.durable => Place::Valkey,
        // A budget that is gone from the policy may have leases that are yet to be settled.
        Some(_) | None => Place::Postgres,
    };
    let terms = budget.filter(|_| place != Place::Nowhere).and_then(|budget| terms(rules.caps, budget, key, now));
    let room = match &terms {
        None => Room::Unknown,
        Some(terms) if terms.ended || !rules.granting.grants(key) => Room::Ended,
        Some(terms) => {
            let cap = terms.cap.min(Units::new(CAP_MAX)).max(Units::ZERO);
            match rules.draining {
                Draining::No => Room::Open { cap, holders: holders.max(1) },
                Draining::For(_) => Room::Exact { cap },
            }
        }
    };
    let posting = Posting {
        key: key.clone(),
        window_end: terms.as_ref().map(|terms| terms.window_end),
        cap: terms.as_ref().map_or_else(|| budget.map_or(Units::ZERO, |budget| budget.cap), |terms| terms.cap),
        room,
        reports,
        thresholds: budget.filter(|_| terms.is_some()).and_then(|budget| budget.thresholds),
        overriding: terms.and_then(|terms| terms.overriding),
    };
    (place, posting)
}

/// What counts for one account.
struct AccountTerms {
    cap: Units,
    window_end: i64,
    ended: bool,
    overriding: Option<OverrideAccount>,
}

/// `None` when there is no such window, or no such override account.
fn terms(caps: &Caps, budget: &Budget, key: &AccountKey, now: Timestamp) -> Option<AccountTerms> {
    if override_parts(&key.scope).is_some() {
        let named = caps.named(&key.budget, &key.scope).filter(|named| named.account.from == key.window_start)?;
        let Override { cap, account, .. } = &named;
        return Some(AccountTerms { cap: *cap, window_end: account.until, ended: !named.is_open(now), overriding: None });
    }
    let window = window_of(budget, key, now)?;
    Some(AccountTerms {
        cap: caps.cap(&key.budget, &key.scope, now).map_or(budget.cap, |set| set.cap),
        window_end: window.end.as_seconds(),
        ended: window.end <= now,
        overriding: caps.beside(&key.budget, &key.scope, now).map(|beside| beside.account),
    })
}

/// The cap that counts for a scope of this budget, or for an override account beside one.
#[must_use]
pub fn cap_of(caps: &Caps, budget: &Budget, scope: &str, now: Timestamp) -> Units {
    match caps.named(&budget.name, scope) {
        Some(named) => named.cap,
        None => caps.cap(&budget.name, scope, now).map_or(budget.cap, |set| set.cap),
    }
}

/// The budget's window that starts where the holder says, unless it is further ahead than the next one.
fn window_of(budget: &Budget, key: &AccountKey, now: Timestamp) -> Option<Window> {
    if !(0..SECONDS_MAX).contains(&key.window_start) {
        return None;
    }
    let start = Timestamp::from_seconds(key.window_start);
    let window = budget.window_at(start);
    let next = budget.window_at(budget.window_at(now).end);
    (window.start == start && start <= next.start).then_some(window)
}

/// Postgres refuses NUL in text and long index entries. Refusing the whole call would let one user's odd claim stop a worker.
fn is_storable(key: &AccountKey) -> bool {
    let text = |text: &str| text.len() <= SCOPE_BYTES_MAX && !text.contains('\0');
    text(&key.budget) && text(&key.scope) && (0..SECONDS_MAX).contains(&key.window_start)
}
