//! The one call by which this holder reports, asks and delivers: see `wire::sync`.

use crate::bundle_feed::authorization;
use crate::counters::name;
use crate::drain;
use crate::host::{Host, HttpCall, Level};
use crate::root::CallResult;
use crate::settings::Settings;
use crate::vm::Vm;
use decision_core::budget::{Units, Window};
use decision_core::holder::{Grant, Override, Report};
use decision_core::time::Timestamp;
use std::time::Duration;
use wire::drain::LEFT_HEADER;
use wire::frame::{self, MEDIA_TYPE_SYNC};
use wire::sync::{AccountReport, RECORDS_STORED_HEADER, SyncAnswer, SyncRequest};

const CALL_TIMEOUT: Duration = Duration::from_millis(2_500);
/// A holder with leases or records calls at least so often.
const REGULAR_MS: u64 = 750;
const REGULAR_JITTER_MS: u64 = 200;
const BACKOFF_MAX_MS: u64 = 2_000;
/// An idle holder calls so often, or it would be closed as silent, and a gap recorded that is none.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// Accounts in one call; the rest follow at once.
const ACCOUNTS_PER_CALL: usize = 5_000;

/// How the calls stand.
#[derive(Debug, Default)]
pub(crate) struct SyncState {
    call: u64,
    in_flight: Option<u32>,
    due: Timestamp,
    retry_at: Timestamp,
    failures: u32,
    hurried: bool,
    /// What the call in flight tells, if there is one.
    telling: Enforced,
    /// The first number of the batch that it delivers.
    delivering: Option<u64>,
    /// What the control plane has heard; none before its first answer.
    told: Option<Enforced>,
}

/// What this holder enforces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Enforced {
    /// The activation; 0 before the first bundle.
    activation: u64,
    /// The last revocation.
    revocation: u64,
}

impl Enforced {
    fn by(vm: &Vm) -> Self {
        Self { activation: vm.active.as_ref().map_or(0, |active| active.version.activation), revocation: vm.revoked.number() }
    }
}

impl SyncState {
    /// The next call should not wait for its turn.
    pub(crate) const fn hurry(&mut self) {
        self.hurried = true;
    }

    /// Whether the last two calls failed: then nobody waits for the next.
    pub(crate) const fn is_failing(&self) -> bool {
        self.failures >= 2
    }

    /// No answer to a call that was made will come.
    pub(crate) fn abandon(&mut self) {
        if self.in_flight.take().is_some() {
            (self.hurried, self.due) = (true, Timestamp::EPOCH);
        }
    }

    /// Whether the call is this one's.
    pub(crate) fn owns(&self, token: u32) -> bool {
        self.in_flight == Some(token)
    }
}

/// Whether a request waits for a call that could be made now.
pub(crate) fn is_pressing(vm: &Vm, now: Timestamp) -> bool {
    !vm.waiting.is_empty() && may_call(vm, now) && is_urgent(vm, now)
}

/// One call is in flight at a time, and failures are followed by a pause.
fn may_call(vm: &Vm, now: Timestamp) -> bool {
    vm.holder.is_some() && vm.sync.in_flight.is_none() && now >= vm.sync.retry_at
}

fn is_urgent(vm: &Vm, now: Timestamp) -> bool {
    vm.sync.hurried || vm.leases.is_urgent(now) || vm.records.is_urgent()
}

/// Makes a call if one is due.
pub(crate) fn tick(vm: &mut Vm, host: &impl Host, settings: &Settings, now: Timestamp) {
    if !may_call(vm, now) {
        return;
    }
    // Whoever has activated or revoked something wants to see that all workers enforce it.
    let told = vm.sync.call == 0 || vm.sync.told == Some(Enforced::by(vm));
    let waits = !told || !vm.records.is_empty() || !vm.undos.is_empty() || !vm.asks.is_empty() || vm.key_asks.is_pending();
    let regular = now >= vm.sync.due && (vm.leases.holds_leases() || waits);
    let heartbeat = vm.sync.call > 0 && now >= vm.sync.due.plus(HEARTBEAT);
    let drains = drain::wants_call(vm, now);
    if drains {
        vm.sync.due = now;
    }
    if is_urgent(vm, now) || regular || heartbeat || drains {
        call(vm, host, settings, now);
    }
}

/// Makes the call that a request waits for, out of turn.
pub(crate) fn press(vm: &mut Vm, host: &impl Host, settings: &Settings, now: Timestamp) {
    if is_pressing(vm, now) {
        call(vm, host, settings, now);
    }
}

/// The call of a machine that ends: it tells everything, whatever is due.
#[cfg(target_arch = "wasm32")]
pub(crate) fn last_words(vm: &mut Vm, host: &impl Host, settings: &Settings, now: Timestamp) {
    vm.sync.due = now;
    call(vm, host, settings, now);
}

fn call(vm: &mut Vm, host: &impl Host, settings: &Settings, now: Timestamp) {
    let Some(holder) = vm.holder else { return };
    vm.sync.hurried = false;
    vm.sync.call += 1;
    let left = drain::say(vm).map(|left| left.to_string());
    let mut accounts = Vec::new();
    let tell = |report: Report<'_>| accounts.push(account_report(&report));
    let regular = now >= vm.sync.due;
    if regular {
        vm.sync.due = now.plus(Duration::from_millis(REGULAR_MS + vm.ids.jitter(REGULAR_JITTER_MS)));
        vm.leases.reports(now, ACCOUNTS_PER_CALL, tell);
    } else {
        vm.leases.urgent_reports(now, ACCOUNTS_PER_CALL, tell);
    }
    let enforced = Enforced::by(vm);
    vm.sync.telling = enforced;
    let request = SyncRequest {
        holder,
        call: vm.sync.call,
        activation: enforced.activation,
        revocation: enforced.revocation,
        unknown_keys: vm.key_asks.send(),
        accounts,
        approvals: vm.asks.clone(),
        undos: vm.undos.send(),
        // Storing them takes longer than anything else: who waits for a lease does not wait for that, unless somebody waits for it.
        records: if regular || vm.records.is_urgent() { vm.records.next_batch() } else { None },
        shadow: vm.comparison.report(),
    };
    vm.sync.delivering = request.records.as_ref().map(|batch| batch.first_sequence);
    vm.counters.set(host, name::RECORDS_QUEUED, vm.records.len());
    let authorization = authorization();
    let mut headers: Vec<(&str, &[u8])> = vec![
        (":method", b"POST"),
        (":path", b"/data-plane/v1/sync"),
        (":authority", b"control-plane"),
        ("content-type", MEDIA_TYPE_SYNC.as_bytes()),
        ("authorization", authorization.as_bytes()),
    ];
    headers.extend(left.as_deref().map(|left| (LEFT_HEADER, left.as_bytes())));
    let body = match frame::encode(&request) {
        Ok(body) => body,
        Err(error) => {
            host.log(Level::Error, &format!("a sync call could not be written: {error}"));
            return failed(vm, host, now);
        }
    };
    let call = HttpCall { cluster: &settings.control_plane_cluster, headers: &headers, body: Some(&body), timeout: CALL_TIMEOUT };
    vm.counters.add(host, name::SYNC_CALLS, 1);
    match host.http_call(&call) {
        Ok(token) => vm.sync.in_flight = Some(token),
        Err(_) => failed(vm, host, now),
    }
}

fn account_report(report: &Report<'_>) -> AccountReport {
    AccountReport {
        budget: report.budget.into(),
        scope: report.scope.into(),
        window_start: report.window_start.as_seconds(),
        generation: report.generation,
        used: report.used.get(),
        held: report.held.get(),
        overrun: report.overrun.get(),
        target: report.target.get(),
        minimum: report.minimum.get(),
        charge: report.charge.get(),
        close: report.close,
    }
}

/// The answer, or its absence.
pub(crate) fn answered(vm: &mut Vm, host: &impl Host, result: CallResult, now: Timestamp) {
    vm.sync.in_flight = None;
    match result.status(host) {
        Some(200) => match frame::decode::<SyncAnswer>(&host.call_body(result.body_size)) {
            Ok(answer) if answer.call == vm.sync.call => {
                vm.drain.hear(host, now);
                let stored = answer.records_stored;
                let failures = vm.sync.failures;
                apply(vm, answer);
                // It answers and does not store: as far as records go it is not there, and must not be called again without a pause.
                if vm.sync.delivering.is_some() && stored != vm.sync.delivering {
                    vm.sync.failures = failures;
                    failed(vm, host, now);
                }
            }
            Ok(answer) => {
                host.log(Level::Error, &format!("sync call {} was answered as {}", vm.sync.call, answer.call));
                failed(vm, host, now);
            }
            Err(error) => {
                host.log(Level::Error, &format!("the answer to a sync call cannot be read: {error}"));
                failed(vm, host, now);
            }
        },
        // Closed, or not ours: the leases are forfeited and a new holder begins.
        Some(status @ (403 | 409 | 410)) => {
            forget_stored(vm, host);
            begin_anew(vm, host, status, now);
        }
        Some(status) => {
            if vm.sync.failures == 0 {
                host.log(Level::Warn, &format!("a sync call was answered with {status}; retrying"));
            }
            failed(vm, host, now);
        }
        None => failed(vm, host, now),
    }
}

fn apply(vm: &mut Vm, answer: SyncAnswer) {
    vm.sync.failures = 0;
    vm.sync.told = Some(vm.sync.telling);
    vm.drain.answered();
    for account in &answer.accounts {
        let grant = Grant {
            generation: account.generation,
            granted: Units::new(account.granted),
            cap: Units::new(account.cap),
            settled: Units::new(account.settled),
            known: account.known,
            overriding: account.overriding.map(|second| Override {
                number: second.number,
                window: Window { start: Timestamp::from_seconds(second.from), end: Timestamp::from_seconds(second.until) },
            }),
        };
        vm.leases.apply(&account.budget, &account.scope, Timestamp::from_seconds(account.window_start), &grant);
    }
    for recall in &answer.recalls {
        vm.leases.recall(&recall.budget, &recall.scope, Timestamp::from_seconds(recall.window_start));
    }
    for approval in answer.approvals {
        let asked = vm.asks.iter().position(|ask| ask.request_id == approval.request_id);
        if let Some(index) = asked {
            vm.asks.swap_remove(index);
            vm.answers.insert(approval.request_id, approval.outcome);
        }
    }
    vm.key_asks.told();
    vm.comparison.told();
    vm.undos.told();
    if let Some(first_sequence) = answer.records_stored {
        vm.records.stored(first_sequence);
    }
}

/// The records that are stored already: the answer that said so was lost. The new holder must not send them again.
fn forget_stored(vm: &mut Vm, host: &impl Host) {
    let stored = host.call_header(RECORDS_STORED_HEADER);
    if let Some(last) = stored.and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok()) {
        vm.records.stored_up_to(last);
    }
}

fn begin_anew(vm: &mut Vm, host: &impl Host, status: u16, now: Timestamp) {
    host.log(Level::Warn, &format!("this holder was closed (status {status}): its leases are forfeited, a new one begins"));
    vm.counters.add(host, name::HOLDERS_CLOSED, 1);
    vm.leases.forget();
    vm.records.renumber();
    vm.comparison.begin_anew();
    vm.holder = Some(vm.ids.holder_id());
    // The new one is known only when it has called; it must not wait for a request.
    let failures = vm.sync.failures;
    vm.sync = SyncState { hurried: true, failures, retry_at: now.plus(Duration::from_millis(100)), ..SyncState::default() };
}

fn failed(vm: &mut Vm, host: &impl Host, now: Timestamp) {
    vm.counters.add(host, name::SYNC_FAILURES, 1);
    vm.sync.failures = vm.sync.failures.saturating_add(1);
    // What was told may not have arrived, and somebody may wait for it: the next call tells everything.
    vm.sync.due = now;
    vm.sync.hurried |= !vm.waiting.is_empty();
    let backoff = (50_u64 << vm.sync.failures.min(6)).min(BACKOFF_MAX_MS);
    vm.sync.retry_at = now.plus(Duration::from_millis(backoff / 2 + vm.ids.jitter(backoff / 2)));
}
