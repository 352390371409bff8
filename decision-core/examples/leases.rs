//! What reserving and settling cost with three budgets, on one user's accounts and on those of a thousand users in turn, and what
//! 100,000 accounts take: `cargo run --release --package decision-core --example leases`.

#![expect(clippy::disallowed_methods, reason = "it measures time; the crate itself has no clock")]

use decision_core::budget::{AtCritical, Rhythm, Unit, Units};
use decision_core::decision::{Charge, Charges};
use decision_core::holder::{ACCOUNTS_MAX, Binding, Grant, LeaseHolder, Shortfall, Wait, WhenShort};
use decision_core::policy::CompiledPolicy;
use decision_core::policy::compile::{CompileError, compile};
use decision_core::policy::source::{BudgetSource, IssuerSource, PolicySource, RoleSource};
use decision_core::principal::{Identity, Principal, Trial};
use decision_core::time::Timestamp;
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: usize = 2_000_000;
/// 2026-01-15T12:00:30Z.
const NOW: Timestamp = Timestamp::from_seconds(1_768_478_430);

fn policy() -> Result<CompiledPolicy, CompileError> {
    let budget = |name: &str, unit, rhythm, scope: &str| BudgetSource {
        name: name.into(),
        unit,
        rhythm,
        scope: scope.into(),
        cap: 1 << 40,
        durable: true,
        tier: None,
        gateways: vec![],
        problem: None,
        status: None,
        failure_mode: None,
        thresholds: None,
        at_critical: AtCritical::Tell,
    };
    compile(&PolicySource {
        issuers: vec![IssuerSource { name: "cp".into(), gateways: vec![decision_core::gateway::Gateway::Cp], roles: vec![] }],
        permissions: vec!["thing.read".into()],
        roles: vec![RoleSource { name: "user".into(), aliases: vec![], permissions: vec!["*".into()] }],
        budgets: vec![
            budget("agent-daily", Unit::MicroUsd, Rhythm::Day, "agent:{agent_id|subject}"),
            budget("platform-monthly", Unit::MicroUsd, Rhythm::Month, "platform"),
            budget("rate-hour", Unit::Requests, Rhythm::Hour, "customer:{customer_id|subject}"),
        ],
        ..PolicySource::default()
    })
}

fn principal(policy: &CompiledPolicy, number: usize) -> Option<Principal> {
    policy.principal(Identity {
        issuer: "cp".into(),
        subject: format!("user-{number:06}").into(),
        user_id: format!("user-{number:06}").into(),
        email: "user@example.com".into(),
        customer_id: Some(format!("customer-{number:06}").into()),
        agent_id: Some(format!("agent-{number:06}").into()),
        governor_agent_id: None,
        roles: vec!["user".into()],
        tier: None,
        trial: Trial::No,
        token_id: None,
        token_version: None,
        key_id: None,
        issued_at: Timestamp::EPOCH,
        expires_at: Timestamp::MAX,
    })
}

struct Desk {
    policy: CompiledPolicy,
    holder: LeaseHolder,
    binding: Binding,
    charges: Charges,
    waits: Vec<Wait>,
}

impl Desk {
    fn reserve_and_settle(&mut self, principal: &Principal) -> bool {
        match self.holder.reserve(&self.policy, &self.binding, principal, &self.charges, NOW, WhenShort::Wait) {
            Ok(held) => {
                let charged = self.holder.settle(black_box(held), |_, reserved| reserved);
                black_box(&charged);
                true
            }
            Err(Shortfall::Short(wait)) => {
                self.waits.push(*wait);
                false
            }
            Err(_) => false,
        }
    }

    /// Every account gets what it will ever need.
    fn grant_all(&mut self) {
        let mut told = Vec::new();
        self.holder.reports(NOW, usize::MAX, |report| {
            told.push((report.budget.to_owned(), report.scope.to_owned(), report.window_start, report.generation));
        });
        let (granted, cap) = (Units::new(1 << 40), Units::new(1 << 40));
        for (budget, scope, window_start, generation) in told {
            let grant = Grant { generation, granted, cap, settled: Units::ZERO, known: true, overriding: None };
            self.holder.apply(&budget, &scope, window_start, &grant);
        }
        self.waits.drain(..).for_each(|wait| self.holder.end_wait(Box::new(wait)));
    }
}

fn main() -> Result<(), CompileError> {
    let policy = policy()?;
    let mut charges = Charges::default();
    for (budget, amount) in policy.budgets().iter().zip([1_000, 1_000, 1]) {
        charges.push(Charge { budget: budget.id, amount: Units::new(amount) });
    }
    let mut holder = LeaseHolder::default();
    let binding = holder.bind(&policy);
    let before = memory();
    let mut desk = Desk { policy, holder, binding, charges, waits: Vec::new() };
    for users in [1, 1_000, ACCOUNTS_MAX / 2] {
        let principals: Vec<Principal> = (0..users).filter_map(|number| principal(&desk.policy, number * 7_919 % users)).collect();
        principals.iter().for_each(|principal| {
            desk.reserve_and_settle(principal);
        });
        desk.grant_all();
        let begun = Instant::now();
        let passed = principals.iter().cycle().take(ROUNDS).filter(|principal| desk.reserve_and_settle(principal)).count();
        let nanos = begun.elapsed().as_nanos() / u128::try_from(ROUNDS).unwrap_or(1);
        println!("3 budgets, {users} users: reserve and settle {nanos} ns ({passed} of {ROUNDS} without waiting)");
        if users > 1_000 {
            drop(principals);
        }
    }
    let begun = Instant::now();
    let mut reports = 0;
    desk.holder.reports(NOW, usize::MAX, |_| reports += 1);
    println!("{reports} reports of all accounts in {:?}", begun.elapsed());
    println!("memory, users of the measurement included: {} bytes for {ACCOUNTS_MAX} accounts", memory().saturating_sub(before));
    Ok(())
}

/// Bytes that this program has.
#[cfg(target_arch = "wasm32")]
fn memory() -> usize {
    core::arch::wasm32::memory_size(0).saturating_mul(65_536)
}

#[cfg(not(target_arch = "wasm32"))]
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0).saturating_mul(4_096)
}
