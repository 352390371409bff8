//! Caps and override accounts in memory: what sync calls grant by. Only what is committed gets here.

use super::Kind;
use decision_core::budget::{OVERRIDE_PREFIX, Units};
use decision_core::time::Timestamp;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use tokio::sync::watch;
use wire::sync::OverrideAccount;

/// How long what ended is still known, for late reports: a holder that was silent for longer is closed.
const ENDED_KEPT_S: i64 = 86_400;

/// The copy, and a signal that it changed.
#[derive(Debug)]
pub struct Caps {
    known: RwLock<Known>,
    number: watch::Sender<u64>,
    /// Held while the database is read, so that an older reading never follows a newer one.
    pub(super) reading: tokio::sync::Mutex<()>,
}

impl Default for Caps {
    fn default() -> Self {
        Self { known: RwLock::default(), number: watch::Sender::new(0), reading: tokio::sync::Mutex::new(()) }
    }
}

/// By budget, then by scope: looked up with borrowed texts.
type ByScope<T> = HashMap<String, HashMap<String, T>>;

#[derive(Debug, Default)]
struct Known {
    caps: ByScope<CapInForce>,
    /// The number of the override account beside each scope.
    beside: ByScope<u64>,
    overrides: HashMap<u64, Override>,
}

/// A cap that somebody set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapInForce {
    /// Its id.
    pub id: i64,
    /// The cap.
    pub cap: Units,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
}

/// An override account, in force or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The budget.
    pub budget: String,
    /// The scope beside which it was granted.
    pub scope: String,
    /// Its cap.
    pub cap: Units,
    /// Its number and window.
    pub account: OverrideAccount,
    /// Whether somebody ended or replaced it.
    pub ended: bool,
}

impl Override {
    /// Whether it may be spent.
    #[must_use]
    pub fn is_open(&self, now: Timestamp) -> bool {
        !self.ended && now < Timestamp::from_seconds(self.account.until)
    }
}

/// One change, as it is read from the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its id: of an override account its number.
    pub id: i64,
    /// What it is.
    pub kind: Kind,
    /// The budget.
    pub budget: String,
    /// The scope.
    pub scope: String,
    /// The cap.
    pub cap: Units,
    /// Since when, seconds since the epoch.
    pub from: i64,
    /// Until when, if it ends by itself.
    pub until: Option<Timestamp>,
    /// Whether somebody ended or replaced it.
    pub ended: bool,
}

/// The parts of an override account's scope: its number, and the scope beside which it is.
#[must_use]
pub fn override_parts(scope: &str) -> Option<(u64, &str)> {
    let (number, of) = scope.strip_prefix(OVERRIDE_PREFIX)?.split_once(',')?;
    Some((number.parse().ok()?, of))
}

impl Caps {
    /// The number of the latest change known here.
    #[must_use]
    pub fn number(&self) -> u64 {
        *self.number.borrow()
    }

    /// Tells when the number changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.number.subscribe()
    }

    /// The cap that somebody set for this scope, if one is in force.
    #[must_use]
    pub fn cap(&self, budget: &str, scope: &str, now: Timestamp) -> Option<CapInForce> {
        self.read(|known| {
            let cap = known.caps.get(budget)?.get(scope)?;
            cap.until.is_none_or(|until| now < until).then_some(*cap)
        })
    }

    /// The override account beside this scope, if one is in force.
    #[must_use]
    pub fn beside(&self, budget: &str, scope: &str, now: Timestamp) -> Option<Override> {
        self.read(|known| {
            let found = known.overrides.get(known.beside.get(budget)?.get(scope)?)?;
            found.is_open(now).then(|| found.clone())
        })
    }

    /// The override account that a report names, in force or lately ended.
    #[must_use]
    pub fn named(&self, budget: &str, scope: &str) -> Option<Override> {
        let (number, of) = override_parts(scope)?;
        // Written as the filter got it: another spelling of the number would be another account.
        self.read(|known| {
            let found = known.overrides.get(&number)?;
            (found.budget == budget && found.scope == of && found.account.scope(of) == scope).then(|| found.clone())
        })
    }

    /// Takes what was read from the database after [`Self::number`]; with `anew`, all that there is.
    pub(super) fn apply(&self, number: u64, changes: &[Change], anew: bool, now: Timestamp) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if anew {
            *known = Known::default();
        }
        changes.iter().for_each(|change| known.take(change));
        known.forget_over(now);
        drop(known);
        self.number.send_if_modified(|current| std::mem::replace(current, number) != number);
    }

    fn read<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        look(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Known {
    /// Drops what is over by the database's clock. Expiry is no change: the number stays, and nobody is told.
    fn forget_over(&mut self, now: Timestamp) {
        let kept_from = now.as_seconds().saturating_sub(ENDED_KEPT_S);
        let Self { caps, beside, overrides } = self;
        overrides.retain(|_, one| one.account.until >= kept_from);
        retain(caps, |cap| cap.until.is_none_or(|until| now < until));
        retain(beside, |number| overrides.get(number).is_some_and(|one| one.is_open(now)));
    }

    fn take(&mut self, change: &Change) {
        let Change { id, kind, budget, scope, cap, from, until, ended } = change;
        let number = u64::try_from(*id).unwrap_or_default();
        match kind {
            Kind::Cap if *ended => forget(&mut self.caps, budget, scope, |known| known.id == *id),
            Kind::Cap => remember(&mut self.caps, budget, scope, CapInForce { id: *id, cap: *cap, until: *until }),
            Kind::Override => {
                if *ended {
                    forget(&mut self.beside, budget, scope, |known| *known == number);
                } else {
                    remember(&mut self.beside, budget, scope, number);
                }
                let account = OverrideAccount { number, from: *from, until: until.map_or(*from, Timestamp::as_seconds) };
                let one = Override { budget: budget.clone(), scope: scope.clone(), cap: *cap, account, ended: *ended };
                self.overrides.insert(number, one);
            }
        }
    }
}

fn remember<T>(known: &mut ByScope<T>, budget: &str, scope: &str, value: T) {
    known.entry(budget.to_owned()).or_default().insert(scope.to_owned(), value);
}

fn retain<T>(known: &mut ByScope<T>, is_kept: impl Fn(&T) -> bool) {
    known.retain(|_, scopes| {
        scopes.retain(|_, value| is_kept(value));
        !scopes.is_empty()
    });
}

/// What is older than the one that replaced it must not take that away.
fn forget<T>(known: &mut ByScope<T>, budget: &str, scope: &str, is_it: impl FnOnce(&T) -> bool) {
    if let Some(scopes) = known.get_mut(budget)
        && scopes.get(scope).is_some_and(is_it)
    {
        scopes.remove(scope);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_000_000);

    fn change(id: i64, kind: Kind, cap: i64, until: i64, ended: bool) -> Change {
        let until = Some(Timestamp::from_seconds(until));
        Change { id, kind, budget: "b".into(), scope: "s".into(), cap: Units::new(cap), from: 999_990, until, ended }
    }

    #[test]
    fn the_newest_that_is_not_over_counts() {
        let caps = Caps::default();
        caps.apply(1, &[change(1, Kind::Cap, 10, 1_000_010, false)], true, NOW);
        let cap = |now: i64| caps.cap("b", "s", Timestamp::from_seconds(now)).map(|cap| cap.cap.get());
        assert_eq!((cap(1_000_009), cap(1_000_010), caps.cap("b", "t", NOW)), (Some(10), None, None));
        caps.apply(2, &[change(1, Kind::Cap, 10, 1_000_010, true), change(2, Kind::Cap, 20, 1_000_020, false)], false, NOW);
        assert_eq!((cap(1_000_000), caps.number()), (Some(20), 2));
        caps.apply(3, &[change(1, Kind::Cap, 10, 1_000_010, true)], false, NOW);
        assert_eq!(cap(1_000_000), Some(20), "the end of an older one ends no newer one");
        caps.apply(4, &[change(2, Kind::Cap, 20, 1_000_020, true)], false, NOW);
        assert_eq!(cap(1_000_000), None);
    }

    #[test]
    fn what_expired_is_dropped_at_the_next_reading_and_the_number_stays() {
        let caps = Caps::default();
        let changes = [
            change(1, Kind::Cap, 10, 1_000_010, false),
            change(2, Kind::Override, 10, 1_000_010, false),
            Change { scope: "t".into(), until: None, ..change(3, Kind::Cap, 30, 0, false) },
        ];
        caps.apply(3, &changes, true, NOW);
        let sizes = || {
            let size = |by_scope: &dyn Fn(&Known) -> usize| caps.read(by_scope);
            let of = |scopes: Option<usize>| scopes.unwrap_or_default();
            [
                size(&|known| of(known.caps.get("b").map(HashMap::len))),
                size(&|known| of(known.beside.get("b").map(HashMap::len))),
                size(&|known| known.overrides.len()),
            ]
        };
        caps.apply(3, &[], false, Timestamp::from_seconds(1_000_009));
        assert_eq!((sizes(), caps.number()), ([2, 1, 1], 3));
        let told = caps.subscribe();
        caps.apply(3, &[], false, Timestamp::from_seconds(1_000_010));
        assert_eq!((sizes(), caps.number()), ([1, 0, 1], 3), "an override account is known for late reports");
        assert!(!told.has_changed().unwrap(), "nobody is told");
        assert_eq!(caps.cap("b", "t", Timestamp::from_seconds(2_000_000)).map(|cap| cap.id), Some(3));
    }

    #[test]
    fn an_override_account_is_named_exactly_and_known_for_a_day_after_its_end() {
        let caps = Caps::default();
        caps.apply(1, &[change(7, Kind::Override, 10, 1_000_010, false)], true, NOW);
        assert_eq!(caps.beside("b", "s", NOW).map(|one| one.account.number), Some(7));
        assert_eq!(caps.beside("b", "s", Timestamp::from_seconds(1_000_010)), None);
        assert!(caps.named("b", "override=7,s").is_some());
        for other in ["override=07,s", "override=7,t", "override=8,s", "override=7", "s", "override=+7,s"] {
            assert_eq!(caps.named("b", other), None, "{other}");
        }
        assert_eq!(caps.named("c", "override=7,s"), None);
        caps.apply(2, &[change(7, Kind::Override, 10, 1_000_010, true)], false, NOW);
        assert_eq!((caps.beside("b", "s", NOW), caps.named("b", "override=7,s").map(|one| one.ended)), (None, Some(true)));
        caps.apply(3, &[], false, Timestamp::from_seconds(1_000_011 + ENDED_KEPT_S));
        assert_eq!(caps.named("b", "override=7,s"), None);
    }
}
