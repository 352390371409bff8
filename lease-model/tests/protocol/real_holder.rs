//! The filter's own holder in the place of the plain one, and the control plane's rule with it.
//!
//! A holder cannot be copied: its reservations are spent once. A world therefore keeps what was done with it, and does
//! it again where the holder itself is needed. Two are equal when all their fields are, but for the index and its seed.

use crate::checker::{Protocol, Seen, check_all};
use crate::exhaustive::BASE;
use crate::fixture::{identity, source};
use crate::real_ledger::RealLedger;
use decision_core::budget::{AtCritical, Rhythm, Unit, Units as RealUnits};
use decision_core::decision::{Charge as RealCharge, Charges};
use decision_core::failure::FailureMode;
use decision_core::holder::{Binding, Grant as RealGrant, LeaseHolder, Report as RealReport, Reservations, Shortfall, WhenShort};
use decision_core::policy::CompiledPolicy;
use decision_core::policy::compile::compile;
use decision_core::policy::source::BudgetSource;
use decision_core::principal::Principal;
use decision_core::time::Timestamp;
use lease_model::config::{Config, Idle, Windows};
use lease_model::holder::{Holder, Reserved, cost};
use lease_model::terms::{Answered, Charge, Key, Outcome, PerKey, Report, Request, Units, Want, Window};
use std::hash::{Hash, Hasher};
use std::sync::{LazyLock, OnceLock};

/// The minute in which the model begins.
const FIRST: i64 = 1_768_478_400_000;
const MINUTE: i64 = 60_000;
/// Longer than a lease may lie idle.
const IDLE: i64 = 11_000;

static POLICY: LazyLock<(CompiledPolicy, Principal)> = LazyLock::new(|| {
    let mut source = source();
    source.budgets = vec![budget("money", Unit::MicroUsd, Rhythm::Day), budget("rate", Unit::Requests, Rhythm::Minute)];
    let policy = compile(&source).unwrap();
    let principal = policy.principal(identity("admin")).unwrap();
    (policy, principal)
});

fn budget(name: &str, unit: Unit, rhythm: Rhythm) -> BudgetSource {
    BudgetSource {
        name: name.into(),
        unit,
        rhythm,
        scope: "platform".into(),
        cap: 1,
        durable: true,
        tier: None,
        gateways: vec![],
        problem: None,
        status: None,
        failure_mode: Some(FailureMode::Closed),
        thresholds: None,
        at_critical: AtCritical::Tell,
    }
}

fn millis(millis: i64) -> Timestamp {
    Timestamp::from_micros(millis * 1_000)
}

fn named(key: Key) -> (&'static str, Timestamp) {
    match key {
        Key::Money => ("money", POLICY.0.budget_by_name("money").unwrap().window_at(millis(FIRST)).start),
        Key::Rate(Window::First) => ("rate", millis(FIRST)),
        Key::Rate(Window::Second) => ("rate", millis(FIRST + MINUTE)),
    }
}

fn key_of(report: &RealReport<'_>) -> Key {
    Key::ALL.into_iter().find(|key| named(*key) == (report.budget, report.window_start)).unwrap()
}

fn charges(charge: Charge) -> Charges {
    let mut charges = Charges::default();
    for (name, amount) in [("money", charge.money), ("rate", charge.rate)] {
        if amount > 0 {
            let budget = POLICY.0.budget_by_name(name).unwrap().id;
            charges.push(RealCharge { budget, amount: RealUnits::new(amount.into()) });
        }
    }
    charges
}

/// What was done with a holder.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Reserve { charge: Charge, place: usize, now: Timestamp },
    Finish { place: usize, request: Request, outcome: Outcome },
    Report { want: Want, now: Timestamp },
    Apply(Answered),
}

/// The holder itself, with its requests.
struct Live {
    holder: LeaseHolder,
    binding: Binding,
    requests: Vec<Reservations>,
}

impl Live {
    fn after(deeds: &[Deed]) -> Self {
        let mut holder = LeaseHolder::default();
        let binding = holder.bind(&POLICY.0);
        let mut live = Self { holder, binding, requests: Vec::new() };
        for deed in deeds {
            match *deed {
                Deed::Reserve { charge, place, now } => assert_eq!(live.reserve(charge, place, now), Reserved::Held),
                Deed::Finish { place, request, outcome } => live.finish(place, request, outcome),
                Deed::Report { want, now } => drop(live.report(want, now)),
                Deed::Apply(answered) => live.apply(&answered),
            }
        }
        live
    }

    fn try_to(&mut self, charge: Charge, now: Timestamp) -> Result<Reservations, Shortfall> {
        let (policy, principal) = &*POLICY;
        self.holder.reserve(policy, &self.binding, principal, &charges(charge), now, WhenShort::Wait)
    }

    fn reserve(&mut self, charge: Charge, place: usize, now: Timestamp) -> Reserved {
        match self.try_to(charge, now) {
            Ok(reservations) => {
                self.requests.insert(place, reservations);
                Reserved::Held
            }
            Err(Shortfall::Short(wait)) => {
                self.holder.end_wait(wait);
                Reserved::Short
            }
            Err(Shortfall::Spent { budget, window, .. }) => {
                let name = &*POLICY.0.budget(budget).unwrap().name;
                Reserved::Spent(Key::ALL.into_iter().find(|key| named(*key) == (name, window.start)).unwrap())
            }
            Err(other @ (Shortfall::Unscoped(_) | Shortfall::Unavailable(_) | Shortfall::Taken { .. })) => panic!("{other:?}"),
        }
    }

    fn finish(&mut self, place: usize, request: Request, outcome: Outcome) {
        let reservations = self.requests.remove(place);
        if outcome == Outcome::Released {
            self.holder.release(reservations);
            return;
        }
        self.holder.settle(reservations, |budget, reserved| {
            let name = &*POLICY.0.budget(budget).unwrap().name;
            let key = if name == "money" { Key::Money } else { Key::Rate(request.lease) };
            let (used, beyond) = cost(request, key, outcome);
            assert_eq!(reserved.get(), i64::from(request.of_lease(key)));
            RealUnits::new(i64::from(used + beyond))
        });
    }

    fn report(&mut self, want: Want, now: Timestamp) -> Option<PerKey<Option<Report>>> {
        let mut waits = None;
        match want {
            Want::Ask(charge) => match self.try_to(charge, now) {
                Err(Shortfall::Short(wait)) => waits = Some(wait),
                Ok(_) | Err(Shortfall::Spent { .. }) => return None,
                Err(other @ (Shortfall::Unscoped(_) | Shortfall::Unavailable(_) | Shortfall::Taken { .. })) => panic!("{other:?}"),
            },
            Want::Lower => Key::ALL.into_iter().for_each(|key| self.holder.recall(named(key).0, "platform", named(key).1)),
            Want::Report | Want::Close => {}
        }
        let mut reports = PerKey::default();
        let units = |units: RealUnits| Units::try_from(units.get()).unwrap();
        self.holder.reports(now, usize::MAX, |report| {
            *reports.at_mut(key_of(&report)) = Some(Report {
                generation: u8::try_from(report.generation).unwrap(),
                used: units(report.used),
                held: units(report.held),
                overrun: units(report.overrun),
                target: units(report.target),
                minimum: units(report.minimum),
                charge: units(report.charge),
                close: report.close,
            });
        });
        // Whoever waits gives up or tries again later: in the model it is another request.
        waits.into_iter().for_each(|wait| self.holder.end_wait(wait));
        (reports != PerKey::default()).then_some(reports)
    }

    fn apply(&mut self, answered: &Answered) {
        let grants = match answered {
            Answered::Closed => {
                self.holder.forget();
                // They end later, and find nothing to be charged to.
                self.requests.drain(..).for_each(|lost| assert_eq!(self.holder.settle(lost, |_, reserved| reserved).iter().count(), 0));
                return;
            }
            Answered::Booked(grants) => grants,
        };
        for key in Key::ALL {
            let Some(grant) = grants.at(key) else { continue };
            let (cap, settled) = grant.told.unwrap();
            let real = RealGrant {
                generation: grant.generation.into(),
                granted: RealUnits::new(grant.granted.into()),
                cap: RealUnits::new(cap.into()),
                settled: RealUnits::new(settled.into()),
                known: true,
                overriding: None,
            };
            self.holder.apply(named(key).0, "platform", named(key).1, &real);
        }
    }

    fn text(&self) -> String {
        let text = format!("{:?}{:?}", self.requests, self.holder);
        let (index, generation) = (text.rfind(", index: ").unwrap(), text.rfind(", generation: ").unwrap());
        format!("{}{}", &text[..index], &text[generation..])
    }

    fn room(&mut self, key: Key) -> Units {
        let (charge, now) = match key {
            Key::Money => (Charge { money: 1, rate: 0 }, millis(FIRST)),
            Key::Rate(Window::First) => (Charge { money: 0, rate: 1 }, millis(FIRST)),
            Key::Rate(Window::Second) => (Charge { money: 0, rate: 1 }, millis(FIRST + MINUTE)),
        };
        let mut room = 0;
        while self.reserve(charge, 0, now) == Reserved::Held {
            room += 1;
        }
        room
    }
}

/// A real holder, by what was done with it.
#[derive(Clone, Debug, Default)]
pub(crate) struct RealHolder {
    deeds: Vec<Deed>,
    idles: u8,
    text: OnceLock<String>,
    room: OnceLock<PerKey<Units>>,
}

impl RealHolder {
    fn did(&mut self, deed: Deed) {
        self.deeds.push(deed);
        (self.text, self.room) = (OnceLock::new(), OnceLock::new());
    }

    fn text(&self) -> &str {
        self.text.get_or_init(|| Live::after(&self.deeds).text())
    }

    /// Where windows end, so late that the next window's leases are asked for.
    fn now(&self, config: &Config, window: Window) -> Timestamp {
        let begin = match (window, config.windows) {
            (Window::First, Windows::One) => 1_000,
            (Window::First, Windows::Two) => MINUTE - 1_500,
            (Window::Second, _) => MINUTE + 5_000,
        };
        millis(FIRST + begin + IDLE * i64::from(self.idles))
    }
}

impl PartialEq for RealHolder {
    fn eq(&self, other: &Self) -> bool {
        self.idles == other.idles && self.text() == other.text()
    }
}

impl Eq for RealHolder {}

impl Hash for RealHolder {
    fn hash<S: Hasher>(&self, state: &mut S) {
        (self.idles, self.text()).hash(state);
    }
}

impl Holder for RealHolder {
    fn fresh() -> Self {
        Self::default()
    }

    fn room(&self, key: Key) -> Units {
        let probe = || {
            let mut live = Live::after(&self.deeds);
            PerKey::new(live.room(Key::Money), live.room(Key::Rate(Window::First)), live.room(Key::Rate(Window::Second)))
        };
        *self.room.get_or_init(probe).at(key)
    }

    fn reserve(&mut self, config: &Config, request: Request, place: usize) -> Reserved {
        let now = self.now(config, request.window);
        let reserved = Live::after(&self.deeds).reserve(request.charge, place, now);
        if reserved == Reserved::Held {
            self.did(Deed::Reserve { charge: request.charge, place, now });
        }
        reserved
    }

    fn finish(&mut self, place: usize, request: Request, outcome: Outcome) {
        self.did(Deed::Finish { place, request, outcome });
    }

    fn report(&mut self, config: &Config, want: Want, window: Window) -> Option<PerKey<Option<Report>>> {
        self.idles += u8::from(want == Want::Close);
        let now = self.now(config, window);
        let reports = Live::after(&self.deeds).report(want, now)?;
        self.did(Deed::Report { want, now });
        Some(reports)
    }

    fn apply(&mut self, answered: &Answered) {
        self.did(Deed::Apply(*answered));
    }
}

fn check(config: Config, seen: &'static [Seen]) -> usize {
    check_all(Protocol::<RealLedger, RealHolder>::new(Config { told: true, ..config }, RealLedger, seen))
}

#[test]
fn with_crashes_and_closing() {
    let config =
        Config { name: "real code, crashes and closing", incarnations: 3, crashes: 1, closes: 1, caps: PerKey::new(1, 1, 1), ..BASE };
    check(config, &[Seen::AllSpent, Seen::Forfeit, Seen::ClosedAlive]);
}

#[test]
fn with_other_costs_and_leases_given_back() {
    let config = Config {
        name: "real code, other costs",
        outcomes: &[Outcome::Exact, Outcome::More, Outcome::Released],
        overruns: 1,
        wants: &[Idle::Close],
        ..BASE
    };
    check(config, &[Seen::Overrun, Seen::AllSpent]);
}

#[test]
fn with_a_window_that_ends() {
    let config = Config { name: "real code, two windows", windows: Windows::Two, caps: PerKey::new(2, 1, 1), ..BASE };
    check(config, &[Seen::TwoWindows]);
}
