//! Single rules of a holder that the random walk in `lease_properties` meets too seldom.

use crate::fixture::{NOW, identity, source};
use decision_core::budget::{Units, Window};
use decision_core::decision::{Charge, Charges};
use decision_core::failure::FailureMode;
use decision_core::holder::{Binding, Grant, LeaseHolder, Override, Report, Reservations, Shortfall, Wait, WhenShort};
use decision_core::policy::CompiledPolicy;
use decision_core::policy::compile::compile;
use decision_core::principal::Principal;
use decision_core::time::Timestamp;

/// A holder under the fixture's policy, and one user.
struct Desk {
    policy: CompiledPolicy,
    user: Principal,
    holder: LeaseHolder,
    binding: Binding,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    budget: String,
    scope: String,
    window_start: Timestamp,
    generation: u64,
    used: i64,
    held: i64,
    overrun: i64,
    target: i64,
    minimum: i64,
    close: bool,
}

impl Told {
    fn of(report: &Report<'_>) -> Self {
        Self {
            budget: report.budget.into(),
            scope: report.scope.into(),
            window_start: report.window_start,
            generation: report.generation,
            used: report.used.get(),
            held: report.held.get(),
            overrun: report.overrun.get(),
            target: report.target.get(),
            minimum: report.minimum.get(),
            close: report.close,
        }
    }
}

impl Desk {
    fn new() -> Self {
        let policy = compile(&source()).unwrap();
        let user = policy.principal(identity("admin")).unwrap();
        let mut holder = LeaseHolder::default();
        let binding = holder.bind(&policy);
        Self { policy, user, holder, binding }
    }

    fn charges(&self, budgets: &[(&str, i64)]) -> Charges {
        let mut charges = Charges::default();
        for (name, amount) in budgets {
            charges.push(Charge { budget: self.policy.budget_by_name(name).unwrap().id, amount: Units::new(*amount) });
        }
        charges
    }

    fn reserve(&mut self, budgets: &[(&str, i64)], now: Timestamp, when_short: WhenShort) -> Result<Reservations, Shortfall> {
        let charges = self.charges(budgets);
        self.holder.reserve(&self.policy, &self.binding, &self.user, &charges, now, when_short)
    }

    fn wait(&mut self, budgets: &[(&str, i64)]) -> Box<Wait> {
        match self.reserve(budgets, NOW, WhenShort::Wait) {
            Err(Shortfall::Short(wait)) => wait,
            other => unreachable!("{other:?}"),
        }
    }

    fn reports(&mut self, now: Timestamp) -> Vec<Told> {
        let mut told = Vec::new();
        self.holder.reports(now, usize::MAX, |report| told.push(Told::of(&report)));
        told
    }

    fn urgent_reports(&mut self, now: Timestamp) -> Vec<Told> {
        let mut told = Vec::new();
        self.holder.urgent_reports(now, usize::MAX, |report| told.push(Told::of(&report)));
        told
    }

    fn grant(&mut self, told: &Told, granted: i64, cap: i64, settled: i64) {
        self.grant_beside(told, granted, cap, settled, None);
    }

    fn grant_beside(&mut self, told: &Told, granted: i64, cap: i64, settled: i64, overriding: Option<Override>) {
        let units = Units::new;
        let (granted, cap, settled) = (units(granted), units(cap), units(settled));
        let grant = Grant { generation: told.generation, granted, cap, settled, known: true, overriding };
        self.holder.apply(&told.budget, &told.scope, told.window_start, &grant);
    }

    /// An account with `granted` units.
    fn warm(&mut self, budget: &str, granted: i64) -> Told {
        let wait = self.wait(&[(budget, 1)]);
        let told = self.reports(NOW).into_iter().find(|told| told.budget == budget).unwrap();
        self.grant(&told, granted, 1_000_000, 0);
        self.holder.end_wait(wait);
        told
    }
}

fn later(seconds: u64) -> Timestamp {
    NOW.plus(core::time::Duration::from_secs(seconds))
}

#[test]
fn a_reservation_of_a_forfeited_lease_settles_nothing_in_the_next_one() {
    let mut desk = Desk::new();
    desk.warm("platform-monthly", 10);
    let old = desk.reserve(&[("platform-monthly", 4)], NOW, WhenShort::Wait).unwrap();
    let other = desk.reserve(&[("platform-monthly", 3)], NOW, WhenShort::Wait).unwrap();
    desk.holder.forget();
    assert!(!desk.holder.holds_leases());
    // The same slot, another lease.
    desk.warm("platform-monthly", 10);
    let new = desk.reserve(&[("platform-monthly", 10)], NOW, WhenShort::Wait).unwrap();
    let late = desk.holder.settle(old, |_, reserved| reserved);
    let released = desk.holder.release(other);
    assert_eq!((late.iter().count(), desk.holder.charged(&late).count(), released.iter().count()), (0, 0, 0));
    let told = desk.reports(NOW);
    assert_eq!((told[0].used, told[0].held), (0, 10));
    let charged = desk.holder.settle(new, |_, reserved| reserved);
    assert_eq!((desk.holder.charged(&charged).count(), desk.reports(NOW)[0].used), (1, 10));
}

#[test]
fn a_place_in_the_queue_of_a_forfeited_lease_takes_nothing_from_the_next_one() {
    let mut desk = Desk::new();
    let old = desk.wait(&[("platform-monthly", 5)]);
    desk.holder.forget();
    let new = desk.wait(&[("platform-monthly", 7)]);
    desk.holder.end_wait(old);
    assert_eq!(desk.reports(NOW)[0].minimum, 7);
    desk.holder.end_wait(new);
    assert_eq!(desk.reports(NOW)[0].minimum, 0);
}

#[test]
fn an_answer_for_an_earlier_lease_is_not_taken_for_this_one() {
    let mut desk = Desk::new();
    let told = desk.warm("platform-monthly", 10);
    desk.holder.forget();
    let wait = desk.wait(&[("platform-monthly", 5)]);
    desk.grant(&told, 100, 100, 0);
    assert!(matches!(desk.reserve(&[("platform-monthly", 5)], NOW, WhenShort::FailureMode), Err(Shortfall::Unavailable(_))));
    // Nor an answer for an account that nobody knows.
    desk.grant(&Told { budget: "none".into(), ..told.clone() }, 100, 100, 0);
    desk.grant(&Told { scope: "none".into(), ..told.clone() }, 100, 100, 0);
    desk.holder.recall("none", "none", NOW);
    desk.holder.end_wait(wait);
}

#[test]
fn a_budget_that_cannot_be_asked_answers_by_its_failure_mode() {
    let mut desk = Desk::new();
    let closed = desk.reserve(&[("platform-monthly", 1)], NOW, WhenShort::FailureMode);
    assert!(
        matches!(closed, Err(Shortfall::Unavailable(budget)) if desk.policy.budget(budget).unwrap().failure_mode == FailureMode::Closed)
    );
    let open = desk.reserve(&[("rate-minute", 1)], NOW, WhenShort::FailureMode).unwrap();
    assert!(open.failed_open() && open.iter().next().is_none());
    desk.holder.settle(open, |_, reserved| reserved);
}

#[test]
fn a_user_without_what_the_scope_names_is_told_which_budget_it_was() {
    let mut desk = Desk::new();
    desk.user.identity.customer_id = None;
    let unscoped = desk.reserve(&[("platform-monthly", 1), ("rate-minute", 1)], NOW, WhenShort::Wait);
    assert!(matches!(unscoped, Err(Shortfall::Unscoped(budget)) if &*desk.policy.budget(budget).unwrap().name == "rate-minute"));
}

#[test]
fn a_spent_budget_is_remembered_until_its_window_ends_or_a_new_policy_comes() {
    let mut desk = Desk::new();
    let wait = desk.wait(&[("rate-minute", 1)]);
    let told = desk.reports(NOW).remove(0);
    desk.grant(&told, 0, 50, 50);
    desk.holder.end_wait(wait);
    let spent = desk.reserve(&[("rate-minute", 1)], later(20), WhenShort::Wait);
    assert!(matches!(spent, Err(Shortfall::Spent { cap, settled, .. }) if cap.get() == 50 && settled.get() == 50));
    // Also when nobody can be asked.
    assert!(matches!(desk.reserve(&[("rate-minute", 1)], later(20), WhenShort::FailureMode), Err(Shortfall::Spent { .. })));
    // The next window.
    assert!(matches!(desk.reserve(&[("rate-minute", 1)], later(60), WhenShort::Wait), Err(Shortfall::Short(_))));
    // The next policy.
    desk.binding = desk.holder.bind(&desk.policy);
    assert!(matches!(desk.reserve(&[("rate-minute", 1)], later(21), WhenShort::Wait), Err(Shortfall::Short(_))));
}

#[test]
fn an_idle_lease_is_given_back_and_asked_for_again() {
    let mut desk = Desk::new();
    desk.warm("platform-monthly", 10);
    let held = desk.reserve(&[("platform-monthly", 2)], NOW, WhenShort::Wait).unwrap();
    desk.holder.settle(held, |_, reserved| reserved);
    assert!(!desk.reports(later(9))[0].close);
    let last = desk.reports(later(10)).remove(0);
    assert_eq!((last.close, last.used, last.held, last.target), (true, 2, 0, 2));
    // Closed on this side already: nothing is spent of what was given back, lost answer or not.
    assert!(matches!(desk.reserve(&[("platform-monthly", 1)], later(10), WhenShort::FailureMode), Err(Shortfall::Unavailable(_))));
    assert!(desk.reports(later(11))[0].close, "repeated until it is acknowledged");
    desk.grant(&last, 0, 100, 2);
    assert!(!desk.holder.holds_leases());
    let again = desk.wait(&[("platform-monthly", 1)]);
    assert!(desk.reports(later(12))[0].generation > last.generation);
    desk.holder.end_wait(again);
}

#[test]
fn a_grant_for_a_request_that_has_left_is_given_back_at_once() {
    let mut desk = Desk::new();
    desk.warm("platform-monthly", 20);
    let told = desk.reports(NOW).remove(0);
    assert_eq!((told.close, told.target), (true, 0));
}

#[test]
fn a_lease_in_use_is_not_given_back_however_long_its_request_takes() {
    let mut desk = Desk::new();
    desk.warm("platform-monthly", 10);
    let held = desk.reserve(&[("platform-monthly", 2)], NOW, WhenShort::Wait).unwrap();
    let told = desk.reports(later(500));
    assert_eq!((told[0].close, told[0].held, told[0].target), (false, 2, 2));
    desk.holder.settle(held, |_, reserved| reserved);
    assert!(desk.reports(later(501))[0].close);
}

#[test]
fn a_recalled_lease_gives_up_what_it_does_not_use_at_once() {
    let mut desk = Desk::new();
    let told = desk.warm("platform-monthly", 10);
    let held = desk.reserve(&[("platform-monthly", 2)], NOW, WhenShort::Wait).unwrap();
    desk.reports(NOW);
    desk.grant(&told, 10, 100, 0);
    assert!(!desk.holder.is_urgent(NOW));
    desk.holder.recall(&told.budget, &told.scope, told.window_start);
    assert!(desk.holder.is_urgent(NOW));
    assert_eq!(desk.reports(NOW)[0].target, 2);
    assert!(matches!(desk.reserve(&[("platform-monthly", 1)], NOW, WhenShort::FailureMode), Err(Shortfall::Unavailable(_))));
    desk.holder.release(held);
}

/// Others are told to give back for seconds, whatever this holder has told meanwhile of which accounts.
#[test]
fn a_recall_of_what_was_given_up_already_is_no_reason_to_call() {
    let mut desk = Desk::new();
    let told = desk.warm("platform-monthly", 10);
    let held = desk.reserve(&[("platform-monthly", 2)], NOW, WhenShort::Wait).unwrap();
    desk.reports(NOW);
    desk.grant(&told, 10, 100, 0);
    desk.holder.recall(&told.budget, &told.scope, told.window_start);
    assert_eq!(desk.urgent_reports(NOW)[0].target, 2);
    desk.grant(&told, 2, 100, 0);
    desk.holder.recall(&told.budget, &told.scope, told.window_start);
    assert!(!desk.holder.is_urgent(NOW) && desk.urgent_reports(NOW).is_empty());
    desk.holder.release(held);
}

/// A budget that fails open does so when nobody can be asked, not when open requests hold all of it.
#[test]
fn what_others_hold_is_no_failure_that_lets_anybody_through() {
    let mut desk = Desk::new();
    let wait = desk.wait(&[("rate-minute", 1)]);
    let told = desk.urgent_reports(NOW).remove(0);
    desk.holder.end_wait(wait);
    let unknown = desk.reserve(&[("rate-minute", 1)], NOW, WhenShort::FailureMode).unwrap();
    assert!(unknown.failed_open(), "nobody has answered");
    desk.holder.release(unknown);
    // All ten are reserved elsewhere, and none is settled.
    desk.grant(&told, 0, 10, 0);
    let refused = desk.reserve(&[("rate-minute", 1)], NOW, WhenShort::FailureMode);
    assert!(matches!(refused, Err(Shortfall::Taken { .. })), "{refused:?}");
    desk.grant(&told, 5, 10, 0);
    let held = desk.reserve(&[("rate-minute", 1)], NOW, WhenShort::FailureMode).unwrap();
    assert!(!held.failed_open());
    desk.holder.release(held);
}

#[test]
fn who_waits_for_one_account_does_not_ask_again_for_the_others() {
    let mut desk = Desk::new();
    let millis = |millis| NOW.plus(core::time::Duration::from_millis(millis));
    let charges = [("agent-daily", 1), ("rate-minute", 1)];
    let wait = desk.wait(&charges);
    for told in desk.urgent_reports(NOW) {
        desk.grant(&told, if told.budget == "rate-minute" { 0 } else { 100 }, 1_000, 0);
    }
    desk.holder.end_wait(wait);
    let wait = desk.wait(&charges);
    assert!(!desk.holder.is_urgent(millis(99)) && desk.holder.is_urgent(millis(100)));
    desk.holder.end_wait(wait);
    assert!(!desk.holder.is_urgent(millis(100)), "nobody waits any more");
}

#[test]
fn a_lease_that_runs_low_is_renewed_before_it_is_empty_and_asked_for_once() {
    let mut desk = Desk::new();
    desk.warm("platform-monthly", 20);
    let mut urgent_at = Vec::new();
    for taken in 1..=20 {
        let held = desk.reserve(&[("platform-monthly", 1)], NOW, WhenShort::Wait).unwrap();
        desk.holder.settle(held, |_, reserved| reserved);
        if desk.holder.is_urgent(NOW) {
            urgent_at.push(taken);
            desk.reports(NOW);
        }
    }
    assert!(matches!(urgent_at[..], [1..=19]), "{urgent_at:?}");
}

/// However busy the first ones are: a request on an account that is never reported would wait in vain.
#[test]
fn what_does_not_fit_into_one_call_goes_into_the_next() {
    let mut desk = Desk::new();
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..5 {
        for customer in 0..10 {
            desk.user.identity.customer_id = Some(format!("customer-{customer}").into());
            // In every account something is new again before every call.
            let wait = desk.wait(&[("rate-minute", 1)]);
            desk.holder.end_wait(wait);
        }
        let mut told = Vec::new();
        desk.holder.reports(NOW, 4, |report| told.push(report.scope.to_string()));
        let last = round == 2;
        assert_eq!((told.len(), desk.holder.is_urgent(NOW)), (if last { 2 } else { 4 }, !last), "{round}: more is to be told");
        seen.extend(told);
        if round == 2 {
            assert_eq!(seen.len(), 10);
        }
    }
}

/// With a hundred thousand accounts a look at each is work of milliseconds, and reports that nobody waits for are load.
#[test]
fn a_call_before_its_turn_tells_only_of_accounts_that_somebody_waits_for() {
    let mut desk = Desk::new();
    desk.warm("agent-daily", 50);
    let held = desk.reserve(&[("agent-daily", 1)], NOW, WhenShort::Wait).unwrap();
    let wait = desk.wait(&[("rate-minute", 1)]);
    assert!(desk.holder.is_urgent(NOW));
    let told = desk.urgent_reports(NOW);
    assert_eq!(told.iter().map(|told| (&*told.budget, told.minimum)).collect::<Vec<_>>(), [("rate-minute", 1)]);
    assert!(!desk.holder.is_urgent(NOW));
    let told = desk.reports(NOW);
    assert!(told.iter().any(|told| told.budget == "agent-daily" && told.held == 1), "its turn comes: {told:?}");
    desk.holder.end_wait(wait);
    desk.holder.release(held);
}

#[test]
fn who_was_not_helped_asks_again_a_little_later_and_others_at_once() {
    let mut desk = Desk::new();
    let millis = |millis| NOW.plus(core::time::Duration::from_millis(millis));
    let first = desk.wait(&[("rate-minute", 1)]);
    let told = desk.urgent_reports(NOW).remove(0);
    // Comes while the call is on its way, and is not in it.
    let second = desk.wait(&[("rate-minute", 1)]);
    assert!(!desk.holder.is_urgent(millis(99)) && desk.holder.is_urgent(millis(100)), "no answer yet");
    desk.grant(&told, 1, 1_000, 0);
    desk.holder.end_wait(first);
    let held = desk.reserve(&[("rate-minute", 1)], NOW, WhenShort::Wait).unwrap();
    desk.holder.end_wait(second);
    let second = desk.wait(&[("rate-minute", 1)]);
    assert!(desk.holder.is_urgent(NOW), "the answer helped all that it knew of");
    let told = desk.urgent_reports(NOW).remove(0);
    assert_eq!((told.held, told.minimum), (1, 2));
    desk.grant(&told, 1, 1_000, 0);
    desk.holder.end_wait(second);
    let second = desk.wait(&[("rate-minute", 1)]);
    assert!(!desk.holder.is_urgent(millis(99)), "others have to give back first");
    let other = desk.wait(&[("agent-daily", 1)]);
    assert_eq!(desk.urgent_reports(NOW).iter().map(|told| &*told.budget).collect::<Vec<_>>(), ["agent-daily"]);
    assert!(!desk.holder.is_urgent(millis(99)) && desk.holder.is_urgent(millis(100)));
    assert_eq!(desk.urgent_reports(millis(100))[0].budget, "rate-minute");
    [second, other].into_iter().for_each(|wait| desk.holder.end_wait(wait));
    desk.holder.release(held);
}

#[test]
fn a_recall_that_did_not_fit_into_a_call_is_not_forgotten() {
    let mut desk = Desk::new();
    let warm = ["agent-daily", "platform-monthly"].map(|budget| {
        let told = desk.warm(budget, 50);
        let held = desk.reserve(&[(budget, 1)], NOW, WhenShort::Wait).unwrap();
        desk.holder.settle(held, |_, reserved| reserved);
        told
    });
    for told in &warm {
        desk.holder.recall(&told.budget, &told.scope, told.window_start);
    }
    let mut targets = Vec::new();
    for _ in 0..2 {
        desk.holder.reports(NOW, 1, |report| targets.push((report.budget.to_string(), report.target.get())));
    }
    targets.sort();
    assert_eq!(targets, [("agent-daily".to_string(), 1), ("platform-monthly".into(), 1)]);
}

#[test]
fn less_than_reserved_goes_back_and_more_is_an_overrun() {
    let mut desk = Desk::new();
    desk.warm("platform-monthly", 100);
    let held = desk.reserve(&[("platform-monthly", 40)], NOW, WhenShort::Wait).unwrap();
    let charged = desk.holder.settle(held, |_, _| Units::new(15));
    assert_eq!(charged.iter().map(|settlement| settlement.total().get()).collect::<Vec<_>>(), [15]);
    let held = desk.reserve(&[("platform-monthly", 40)], NOW, WhenShort::Wait).unwrap();
    let charged = desk.holder.settle(held, |_, _| Units::new(70));
    let (_, budget, scope, settlement) = desk.holder.charged(&charged).next().unwrap();
    assert_eq!((budget, scope), ("platform-monthly", "platform"));
    assert_eq!((settlement.charged.get(), settlement.overrun.get(), settlement.total().get()), (40, 30, 70));
    let told = desk.reports(NOW).remove(0);
    assert_eq!((told.used, told.held, told.overrun), (55, 0, 30));
}

#[test]
fn how_full_an_account_is_includes_what_was_charged_here_since() {
    let mut desk = Desk::new();
    let told = desk.warm("platform-monthly", 100);
    let held = desk.reserve(&[("platform-monthly", 10)], NOW, WhenShort::Wait).unwrap();
    desk.holder.settle(held, |_, _| Units::new(12));
    desk.reports(NOW);
    // Others have charged 30, and this holder the 12 that it has just reported.
    desk.grant(&told, 100, 1_000, 42);
    let first = desk.reserve(&[("platform-monthly", 5)], NOW, WhenShort::Wait).unwrap();
    desk.holder.settle(first, |_, reserved| reserved);
    let held = desk.reserve(&[("platform-monthly", 7)], NOW, WhenShort::Wait).unwrap();
    let (_, standing) = desk.holder.standings(&held).next().unwrap();
    assert_eq!((standing.cap.get(), standing.settled.get(), standing.held.get(), standing.remaining().get()), (1_000, 47, 7, 946));
    desk.holder.release(held);
}

/// NOW is half a minute before the window ends.
#[test]
fn the_lease_of_the_next_window_is_asked_for_before_this_one_ends_if_it_is_in_use() {
    let next = NOW.plus(core::time::Duration::from_secs(30));
    let mut desk = Desk::new();
    let told = desk.warm("rate-minute", 20);
    let minutes = |told: Vec<Told>| told.into_iter().filter(|told| told.window_start == next).collect::<Vec<_>>();
    let spend = |desk: &mut Desk, at| {
        let held = desk.reserve(&[("rate-minute", 1)], at, WhenShort::Wait).unwrap();
        desk.holder.settle(held, |_, reserved| reserved);
    };
    spend(&mut desk, later(24));
    assert!(minutes(desk.reports(later(24))).is_empty(), "not yet");
    spend(&mut desk, later(28));
    let asked = minutes(desk.reports(later(28))).remove(0);
    assert_eq!((asked.minimum, asked.used, asked.held), (0, 0, 0));
    assert!(asked.target >= 16, "{asked:?}");
    assert_eq!(minutes(desk.reports(later(29))).len(), 1, "asked for once, and reported until it is answered");
    desk.grant(&asked, 20, 50, 0);
    assert_eq!(desk.reserve(&[("rate-minute", 1)], later(31), WhenShort::Wait).unwrap().iter().count(), 1, "nobody waits");
    assert!(
        desk.reports(later(31)).iter().any(|report| report.window_start == told.window_start && report.close),
        "the old one is given back"
    );
}

#[test]
fn the_lease_of_the_next_window_is_not_asked_for_by_who_does_not_spend_and_goes_back_if_nobody_needs_it() {
    let mut desk = Desk::new();
    desk.warm("rate-minute", 20);
    assert!(desk.reports(later(29)).iter().all(|told| told.window_start <= NOW), "it was never used");
    let mut desk = Desk::new();
    desk.warm("rate-minute", 20);
    let held = desk.reserve(&[("rate-minute", 1)], later(27), WhenShort::Wait).unwrap();
    desk.holder.settle(held, |_, reserved| reserved);
    desk.reports(later(28));
    let idle = desk.reports(later(38));
    assert!(!idle.is_empty() && idle.iter().all(|told| told.close), "{idle:?}");
}

#[test]
fn beside_a_spent_account_the_one_that_was_granted_is_charged() {
    let window = Window { start: later(0), end: later(600) };
    let beside = Override { number: 7, window };
    let mut desk = Desk::new();
    let wait = desk.wait(&[("agent-daily", 5)]);
    let told = desk.reports(NOW).remove(0);
    desk.grant_beside(&told, 0, 50, 50, Some(beside));
    desk.holder.end_wait(wait);
    let wait = desk.wait(&[("agent-daily", 5), ("platform-monthly", 5)]);
    let asked = desk.reports(NOW);
    let second = asked.iter().find(|told| told.scope.starts_with("override=")).unwrap().clone();
    assert_eq!((second.budget.as_str(), second.scope.as_str()), ("agent-daily", "override=7,agent:subject=2:cp,6:user-1"));
    assert_eq!((second.window_start, second.minimum), (window.start, 5));
    desk.grant(&second, 20, 100, 0);
    let platform = asked.iter().find(|told| told.budget == "platform-monthly").unwrap().clone();
    desk.grant(&platform, 20, 100, 0);
    desk.holder.end_wait(wait);
    let held = desk.reserve(&[("agent-daily", 5), ("platform-monthly", 5)], NOW, WhenShort::Wait).unwrap();
    let charged = desk.holder.settle(held, |_, reserved| reserved);
    let scopes: Vec<_> = desk.holder.charged(&charged).map(|(_, _, scope, _)| scope.to_owned()).collect();
    assert_eq!(scopes, [second.scope.as_str(), "platform"]);
    // Over, or spent itself: the first one's refusal stands.
    for (at, granted, settled) in [(later(600), 20, 5), (later(1), 5, 98)] {
        desk.reports(NOW);
        desk.grant(&second, granted, 100, settled);
        let spent = desk.reserve(&[("agent-daily", 5)], at, WhenShort::Wait);
        assert!(matches!(spent, Err(Shortfall::Spent { cap, window, .. }) if cap.get() == 50 && window.start == told.window_start));
    }
}

#[test]
fn what_was_spent_is_asked_again_when_caps_have_changed() {
    let mut desk = Desk::new();
    let wait = desk.wait(&[("rate-minute", 1)]);
    let told = desk.reports(NOW).remove(0);
    desk.grant(&told, 0, 50, 50);
    desk.holder.end_wait(wait);
    assert!(matches!(desk.reserve(&[("rate-minute", 1)], NOW, WhenShort::Wait), Err(Shortfall::Spent { .. })));
    desk.holder.forget_spent();
    assert!(matches!(desk.reserve(&[("rate-minute", 1)], NOW, WhenShort::Wait), Err(Shortfall::Short(_))));
}

#[test]
fn one_odd_charge_does_not_make_an_account_exact_for_good() {
    let mut desk = Desk::new();
    desk.warm("platform-monthly", 1_000);
    let charge = |desk: &mut Desk, amount, at| {
        let held = desk.reserve(&[("platform-monthly", amount)], at, WhenShort::Wait).unwrap();
        desk.holder.settle(held, |_, reserved| reserved);
        let mut charge = 0;
        desk.holder.reports(at, usize::MAX, |report| charge = report.charge.get());
        charge
    };
    assert_eq!(charge(&mut desk, 500, NOW), 500);
    assert_eq!(charge(&mut desk, 1, later(20)), 500);
    assert_eq!(charge(&mut desk, 1, later(31)), 500, "it was among the last half a minute's");
    assert_eq!(charge(&mut desk, 1, later(62)), 1);
    // Who waits does not count before it is served: it may be refused.
    let wait = desk.reserve(&[("platform-monthly", 5_000)], later(62), WhenShort::Wait);
    assert!(matches!(wait, Err(Shortfall::Short(_))));
    assert_eq!(charge(&mut desk, 1, later(63)), 1);
}

#[test]
fn no_report_has_a_number_that_the_control_plane_refuses() {
    let mut desk = Desk::new();
    desk.policy = compile(&{
        let mut source = source();
        source.budgets[2].cap = i64::MAX;
        source
    })
    .unwrap();
    let largest = decision_core::budget::CHARGE_MAX;
    let waits: Vec<_> = (0..3).map(|_| desk.wait(&[("platform-monthly", largest)])).collect();
    desk.holder.reports(NOW, usize::MAX, |report| {
        for number in [report.used, report.held, report.overrun, report.target, report.minimum, report.charge] {
            assert!(number.get() <= largest, "{report:?}");
        }
    });
    waits.into_iter().for_each(|wait| desk.holder.end_wait(wait));
}
