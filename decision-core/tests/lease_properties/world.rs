//! Some holders, a control plane and the network between them, in which calls and answers get lost, late and repeated.

use crate::fixture::{NOW, identity, source};
use crate::plane::{Answer, Key, Plane, Sent};
use decision_core::budget::{AtCritical, Rhythm, Unit, Units};
use decision_core::decision::{Charge, Charges};
use decision_core::failure::FailureMode;
use decision_core::holder::{Binding, Keep, LeaseHolder, Report, Reservations, Shortfall, Wait, WhenShort};
use decision_core::policy::CompiledPolicy;
use decision_core::policy::compile::compile;
use decision_core::policy::source::BudgetSource;
use decision_core::principal::Principal;
use decision_core::time::Timestamp;
use std::collections::BTreeMap;

/// What happens next. Numbers choose among what is there, modulo its count.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Request { member: usize, user: usize, kind: usize },
    Settle { member: usize, open: usize },
    Release { member: usize, open: usize },
    Leave { member: usize, waiting: usize },
    GiveUp { member: usize, waiting: usize },
    Send { member: usize, most: usize, urgent: bool },
    Deliver { message: usize, keep: bool },
    Answer { answer: usize },
    LoseMessage { message: usize },
    LoseAnswer { answer: usize },
    TimeOut { member: usize },
    Crash { member: usize },
    Close { member: usize },
    Keep { member: usize, keep: Keep },
    Pass { millis: i64 },
}

/// What a request charges: rate, money, or both.
const KINDS: [&[(&str, i64)]; 5] =
    [&[("rate", 1)], &[("money", 1)], &[("money", 3), ("rate", 1)], &[("money", 7), ("rate", 1)], &[("rate", 2), ("money", 5)]];

#[derive(Debug)]
pub(crate) struct Member {
    id: u64,
    pub(crate) leases: LeaseHolder,
    binding: Binding,
    call: u64,
    in_flight: Option<u64>,
    waiting: Vec<Waiting>,
    open: Vec<Open>,
}

#[derive(Debug)]
struct Waiting {
    wait: Box<Wait>,
    user: usize,
    kind: usize,
}

#[derive(Debug)]
struct Open {
    reservations: Reservations,
    keys: Vec<(Key, i64)>,
}

#[derive(Debug)]
struct Message {
    holder: u64,
    call: u64,
    reports: Vec<Sent>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) policy: CompiledPolicy,
    pub(crate) plane: Plane,
    pub(crate) now: i64,
    pub(crate) members: Vec<Member>,
    users: Vec<Principal>,
    messages: Vec<Message>,
    answers: Vec<Answer>,
    next_id: u64,
    /// What really was spent, whoever knows of it.
    spent: BTreeMap<Key, i64>,
}

fn budget(name: &str, unit: Unit, rhythm: Rhythm, scope: &str, cap: i64, mode: FailureMode) -> BudgetSource {
    BudgetSource {
        name: name.into(),
        unit,
        rhythm,
        scope: scope.into(),
        cap,
        durable: true,
        tier: None,
        gateways: vec![],
        problem: None,
        status: None,
        failure_mode: Some(mode),
        thresholds: None,
        at_critical: AtCritical::Tell,
    }
}

fn window_end(budget: &str, start: i64) -> i64 {
    start + if budget == "rate" { 60_000_000 } else { 86_400_000_000 }
}

impl World {
    pub(crate) fn new(members: usize, rate: i64, money: i64) -> Self {
        let mut source = source();
        source.budgets = vec![
            budget("rate", Unit::Requests, Rhythm::Minute, "customer:{customer_id}", rate, FailureMode::Open),
            budget("money", Unit::MicroUsd, Rhythm::Day, "platform", money, FailureMode::Closed),
        ];
        let policy = compile(&source).unwrap();
        let user = |customer: &str| {
            let mut identity = identity("admin");
            identity.customer_id = Some(customer.into());
            policy.principal(identity).unwrap()
        };
        let users = vec![user("customer-1"), user("customer-2")];
        let caps = BTreeMap::from([("rate".to_string(), rate), ("money".to_string(), money)]);
        let mut world = Self {
            policy,
            plane: Plane::new(caps, window_end),
            now: NOW.as_micros(),
            members: Vec::new(),
            users,
            messages: Vec::new(),
            answers: Vec::new(),
            next_id: 1,
            spent: BTreeMap::new(),
        };
        for _ in 0..members {
            world.join();
        }
        world
    }

    /// A new holder.
    pub(crate) fn join(&mut self) -> usize {
        let member = self.newcomer();
        self.members.push(member);
        self.members.len() - 1
    }

    fn newcomer(&mut self) -> Member {
        let mut leases = LeaseHolder::default();
        let binding = leases.bind(&self.policy);
        let id = self.next_id;
        self.next_id += 1;
        Member { id, leases, binding, call: 0, in_flight: None, waiting: Vec::new(), open: Vec::new() }
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_micros(self.now)
    }

    fn charges(&self, kind: usize) -> Charges {
        let mut charges = Charges::default();
        for (name, amount) in KINDS[kind] {
            charges.push(Charge { budget: self.policy.budget_by_name(name).unwrap().id, amount: Units::new(*amount) });
        }
        charges
    }

    pub(crate) fn key(&self, budget: &str, user: usize) -> Key {
        let budget = self.policy.budget_by_name(budget).unwrap();
        let mut scope = String::new();
        budget.scope.write_scope(&self.users[user], &mut scope).unwrap();
        (budget.name.to_string(), scope, budget.window_at(self.time()).start.as_micros())
    }

    /// Reserves, and checks the answer. True when the request is under way or was refused for good.
    pub(crate) fn request(&mut self, at: usize, user: usize, kind: usize, when_short: WhenShort) -> bool {
        let (charges, now) = (self.charges(kind), self.time());
        let member = &mut self.members[at];
        match member.leases.reserve(&self.policy, &member.binding, &self.users[user], &charges, now, when_short) {
            Ok(reservations) => {
                let complete = reservations.iter().count() == KINDS[kind].len();
                assert!(complete || reservations.failed_open(), "all charges or none");
                assert!(!reservations.failed_open() || when_short == WhenShort::FailureMode);
                let held: Vec<_> =
                    reservations.iter().map(|(id, units)| (self.policy.budget(id).unwrap().name.to_string(), units)).collect();
                let keys = held.into_iter().map(|(name, units)| (self.key(&name, user), units.get())).collect();
                self.members[at].open.push(Open { reservations, keys });
                true
            }
            Err(Shortfall::Short(wait)) => {
                assert_eq!(when_short, WhenShort::Wait);
                member.waiting.push(Waiting { wait, user, kind });
                false
            }
            Err(Shortfall::Spent { budget, cap, .. }) => {
                // Final, so it must be true for everybody: nothing that anybody gives back could make room.
                let charge = charges.iter().find(|charge| charge.budget == budget).unwrap().amount.get();
                let key = self.key(&self.policy.budget(budget).unwrap().name, user);
                assert!(self.plane.accounts[&key].settled + charge > cap.get(), "refused although there is room");
                true
            }
            Err(Shortfall::Unavailable(_) | Shortfall::Taken { .. }) => {
                assert_eq!(when_short, WhenShort::FailureMode);
                true
            }
            Err(other @ Shortfall::Unscoped(_)) => unreachable!("{other:?}"),
        }
    }

    pub(crate) fn step(&mut self, step: &Step) {
        let members = self.members.len();
        match *step {
            Step::Request { member, user, kind } => {
                self.request(member % members, user % self.users.len(), kind % KINDS.len(), WhenShort::Wait);
            }
            Step::Settle { member, open } => self.finish(member % members, open, true),
            Step::Release { member, open } => self.finish(member % members, open, false),
            Step::Leave { member, waiting } => {
                self.leave(member % members, waiting);
            }
            Step::GiveUp { member, waiting } => {
                if let Some((user, kind)) = self.leave(member % members, waiting) {
                    self.request(member % members, user, kind, WhenShort::FailureMode);
                }
            }
            Step::Send { member, most, urgent } => self.send(member % members, most, urgent),
            Step::Deliver { message, keep } if !self.messages.is_empty() => self.deliver(message % self.messages.len(), keep),
            Step::Answer { answer } if !self.answers.is_empty() => self.take_answer(answer % self.answers.len()),
            Step::LoseMessage { message } if !self.messages.is_empty() => drop(self.messages.remove(message % self.messages.len())),
            Step::LoseAnswer { answer } if !self.answers.is_empty() => drop(self.answers.remove(answer % self.answers.len())),
            Step::TimeOut { member } => self.members[member % members].in_flight = None,
            Step::Crash { member } => self.crash(member % members),
            Step::Close { member } => self.plane.close(self.members[member % members].id),
            Step::Keep { member, keep } => self.members[member % members].leases.keep(keep),
            Step::Pass { millis } => self.pass(millis * 1_000),
            Step::Deliver { .. } | Step::Answer { .. } | Step::LoseMessage { .. } | Step::LoseAnswer { .. } => {}
        }
        self.check();
    }

    pub(crate) fn pass(&mut self, micros: i64) {
        self.now += micros;
        self.plane.close_silent(self.now);
    }

    fn finish(&mut self, at: usize, open: usize, reached: bool) {
        let member = &mut self.members[at];
        if member.open.is_empty() {
            return;
        }
        let Open { reservations, keys } = member.open.remove(open % member.open.len());
        if reached {
            let charged = member.leases.settle(reservations, |_, reserved| reserved);
            assert!(charged.iter().all(|settlement| settlement.overrun == Units::ZERO));
            for (key, amount) in keys {
                *self.spent.entry(key).or_default() += amount;
            }
        } else {
            member.leases.release(reservations);
        }
    }

    fn leave(&mut self, at: usize, waiting: usize) -> Option<(usize, usize)> {
        let member = &mut self.members[at];
        if member.waiting.is_empty() {
            return None;
        }
        let Waiting { wait, user, kind } = member.waiting.remove(waiting % member.waiting.len());
        member.leases.end_wait(wait);
        Some((user, kind))
    }

    /// One call is in flight at a time.
    pub(crate) fn send(&mut self, at: usize, most: usize, urgent: bool) {
        let now = self.time();
        let member = &mut self.members[at];
        if member.in_flight.is_some() {
            return;
        }
        let mut reports = Vec::new();
        let tell = |report: Report<'_>| reports.push(owned(&report));
        if urgent {
            member.leases.urgent_reports(now, most, tell);
        } else {
            member.leases.reports(now, most, tell);
        }
        member.call += 1;
        member.in_flight = Some(member.call);
        let (holder, call) = (member.id, member.call);
        if !self.plane.is_closed(holder) {
            for report in &reports {
                let lease = self.plane.lease(holder, &report.key).filter(|lease| lease.generation == report.generation);
                // INVARIANT (I2), by the control plane's own books. A repeated close finds no lease: the first settled it.
                let settled_already = report.close && lease.is_none();
                let granted = lease.map_or(0, |lease| lease.granted);
                assert!(settled_already || report.used + report.held <= granted, "{report:?} under {lease:?}");
                assert!(report.used >= lease.map_or(0, |lease| lease.used), "cumulative");
                assert!(report.minimum >= report.used + report.held);
                assert!(!report.close || (report.held == 0 && report.target == report.used));
            }
        }
        self.messages.push(Message { holder, call, reports });
    }

    fn deliver(&mut self, message: usize, keep: bool) {
        let (holder, call) = (self.messages[message].holder, self.messages[message].call);
        let answer = self.plane.call(holder, call, &self.messages[message].reports, self.now);
        self.answers.extend(answer);
        if !keep {
            self.messages.remove(message);
        }
    }

    fn take_answer(&mut self, answer: usize) {
        let Answer { holder, call, body } = self.answers.remove(answer);
        let Some(at) = self.members.iter().position(|member| member.id == holder && member.in_flight == Some(call)) else { return };
        let member = &mut self.members[at];
        member.in_flight = None;
        match body {
            Some(body) => {
                for ((budget, scope, start), grant) in &body.grants {
                    member.leases.apply(budget, scope, Timestamp::from_micros(*start), grant);
                }
                for (budget, scope, start) in &body.recalls {
                    member.leases.recall(budget, scope, Timestamp::from_micros(*start));
                }
            }
            None => {
                member.leases.forget();
                (member.id, member.call) = (self.next_id, 0);
                self.next_id += 1;
            }
        }
        self.retry(at);
    }

    fn retry(&mut self, at: usize) {
        for Waiting { wait, user, kind } in std::mem::take(&mut self.members[at].waiting) {
            self.members[at].leases.end_wait(wait);
            self.request(at, user, kind, WhenShort::Wait);
        }
    }

    /// Whether its requests reached the backend nobody will know: they count.
    fn crash(&mut self, at: usize) {
        let fresh = self.newcomer();
        let crashed = std::mem::replace(&mut self.members[at], fresh);
        for (key, amount) in crashed.open.into_iter().flat_map(|open| open.keys) {
            *self.spent.entry(key).or_default() += amount;
        }
    }

    /// How many requests hold something.
    pub(crate) fn under_way(&self, at: usize) -> usize {
        self.members[at].open.len()
    }

    /// A call, its delivery and its answer, without faults.
    pub(crate) fn round(&mut self, at: usize) {
        self.members[at].in_flight = None;
        self.send(at, usize::MAX, false);
        self.deliver(self.messages.len() - 1, false);
        if !self.answers.is_empty() {
            self.take_answer(self.answers.len() - 1);
        }
        self.check();
    }

    /// INVARIANT (I1), and that what really was spent is covered by grants.
    pub(crate) fn check(&self) {
        let mut real = self.spent.clone();
        for (key, amount) in self.members.iter().flat_map(|member| &member.open).flat_map(|open| &open.keys) {
            *real.entry(key.clone()).or_default() += amount;
        }
        for (key, account) in &self.plane.accounts {
            assert!(account.committed <= self.plane.cap(&key.0), "{key:?}: {account:?}");
            assert!(account.settled <= account.committed, "{key:?}: {account:?}");
        }
        for (key, amount) in real {
            let committed = self.plane.accounts.get(&key).map_or(0, |account| account.committed);
            assert!(amount <= committed, "{key:?}: {amount} spent of {committed}");
        }
    }

    /// The last fault is over: requests end, calls arrive, a minute and more passes.
    pub(crate) fn calm(&mut self) {
        self.messages.clear();
        self.answers.clear();
        for at in 0..self.members.len() {
            while self.leave(at, 0).is_some() {}
            while !self.members[at].open.is_empty() {
                self.finish(at, 0, true);
            }
        }
        for _ in 0..75 {
            self.pass(1_000_000);
            for at in 0..self.members.len() {
                self.round(at);
            }
        }
    }

    /// Spends what is left of a budget through a new holder; how much that was.
    pub(crate) fn drain_money(&mut self) -> i64 {
        let (at, key) = (self.join(), self.key("money", 0));
        let before = self.plane.accounts.get(&key).map_or(0, |account| account.settled);
        for _ in 0..4 * self.plane.cap("money") + 20 {
            if !self.request(at, 0, 1, WhenShort::Wait) {
                self.round(at);
                while self.leave(at, 0).is_some() {}
            }
            while !self.members[at].open.is_empty() {
                self.finish(at, 0, true);
            }
        }
        self.round(at);
        self.plane.accounts.get(&key).map_or(0, |account| account.settled) - before
    }
}

fn owned(report: &Report<'_>) -> Sent {
    Sent {
        key: (report.budget.into(), report.scope.into(), report.window_start.as_micros()),
        generation: report.generation,
        used: report.used.get(),
        held: report.held.get(),
        target: report.target.get(),
        minimum: report.minimum.get(),
        charge: report.charge.get(),
        close: report.close,
    }
}
