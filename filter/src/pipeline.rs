//! The request path: facts → authenticate → decide → reserve → enact; later settle → record. Each function is one
//! stop and hands what it made to the next; nothing travels back.

use crate::approval;
use crate::audit;
use crate::client_limits::{Charged, Client};
use crate::counters::name;
use crate::credentials::{self, Missing, Presented, Revocation, Unjudged};
use crate::enact::{self, Refusal, Spent};
use crate::exchange::{Consumes, Exchange, Once, State, Trace, Verdict, Verdicts};
use crate::facts::RequestHeaders;
use crate::health;
use crate::host::Host;
use crate::intent::{self, Ready};
use crate::meter::{self, Watch};
use crate::ownership;
use crate::request_body::{self, Body};
use crate::rules as custom_rules;
use crate::shadow::{self, Judged};
use crate::undos::Queued;
use crate::vm::{Active, Vm, WAITING_MAX};
use decision_core::audit::WhenFull;
use decision_core::budget::{BudgetId, Unit, Units, Window};
use decision_core::decide_observed;
use decision_core::decision::{ApprovalNeed, Decision, Denial, DenyReason, Permit};
use decision_core::facts::{RequestFacts, Upgrade};
use decision_core::failure::Fault;
use decision_core::gateway::{Gateway, Method};
use decision_core::holder::{Reservations, Shortfall, WhenShort};
use decision_core::path::CanonicalPath;
use decision_core::principal::{CredentialFault, RevocationKind};
use decision_core::time::Timestamp;
use rules::Ruling;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use wire::sync::ApprovalUndo;

/// How long a request waits for a lease, an approval or its intent to be stored: two calls of 1.5 s.
pub(crate) const WAIT: Duration = Duration::from_secs(3);
/// How long a request waits for the first bundle, before a bundle says otherwise.
const COLD_START_WAIT: Duration = Duration::from_secs(3);
/// A held request whose body nears Envoy's limit is told to retry: beyond it Envoy answers 413, which is final. Also by what
/// the client says: Envoy looks at its limit before the filter is asked, and one piece can be larger than that.
pub(crate) const HELD_BODY_MAX: u64 = 900 * 1_024;

/// What a stop of the path came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Step {
    /// The request may go on to the backend.
    Forward,
    /// We answered it.
    Answered,
    /// The body is needed first.
    NeedsBody,
    /// It waits, to be woken by the root context.
    Held,
}

/// The request's headers are here.
pub(crate) fn begin(exchange: &mut Exchange, vm: &mut Vm, host: &impl Host, end_of_stream: bool) -> Step {
    let now = host.now();
    vm.become_holder();
    (exchange.trace.arrived, exchange.trace.looked_at) = (now, now);
    exchange.trace.request_id = vm.ids.request_id(now);
    match RequestHeaders::read(host) {
        Ok(headers) => exchange.headers = headers,
        Err(_) => return refuse(exchange, host, Denial { reason: DenyReason::AmbiguousHeader("headers"), route: None }),
    }
    if end_of_stream || exchange.headers.upgrade() != Upgrade::None {
        exchange.body = Body::None;
    }
    if let Some(probe) = health::probe(&exchange.headers) {
        exchange.trace.verdict = Verdict { decision: Verdicts::Permit, reason: "health" };
        exchange.state = State::Replied;
        health::answer(probe, exchange, vm, host);
        return Step::Answered;
    }
    judge(exchange, vm, host, now)
}

/// Path, route, limit, credential, decision. A request that had to wait for something is judged anew, as if it came now.
fn judge(exchange: &mut Exchange, vm: &mut Vm, host: &impl Host, now: Timestamp) -> Step {
    let Some(active) = vm.active.clone() else { return wait_for(exchange, vm, host, Missing::Policy, now) };
    exchange.trace.looked_at = now;
    exchange.trace.active = Some(Rc::clone(&active));
    if active.policy.audit().when_full == WhenFull::Refuse && vm.records.is_full() {
        return fail(exchange, host, Fault::AuditQueueFull);
    }
    exchange.trace.revocation = vm.revoked.number();
    exchange.trace.checks = audit::Checks::default();
    // Nor does it keep the user of an earlier judgement: under another policy its route may ask for none.
    (exchange.trace.principal, exchange.trace.token, exchange.trace.ruling) = (None, None, None);
    let gateway = exchange.settings.gateway;
    let decided = decide_on(&exchange.headers, &mut exchange.trace, vm, host, &active, gateway, now);
    if let Some(judged) = judged(&decided) {
        shadow::compare(&exchange.headers, &mut exchange.trace, &mut vm.comparison, &active, gateway, judged, now);
    }
    match decided {
        Ok(permit) => admit(exchange, vm, host, permit, now),
        Err(NotPermitted::Denied(denial)) => refuse(exchange, host, denial),
        Err(NotPermitted::Ruled { denial, ruling }) => {
            exchange.state = State::Replied;
            enact::refuse(exchange, host, &Refusal::Rule { denial, ruling });
            Step::Answered
        }
        Err(NotPermitted::Limited { denial, window }) => {
            exchange.trace.checks.route_matched();
            exchange.state = State::Replied;
            enact::refuse(exchange, host, &Refusal::Limited { denial, window, now });
            Step::Answered
        }
        Err(NotPermitted::Failed(fault)) => fail_authentication(exchange, host, fault),
        Err(NotPermitted::Missing(missing)) => wait_for(exchange, vm, host, missing, now),
    }
}

/// Why a request is not permitted, or not yet.
enum NotPermitted {
    Denied(Denial),
    Ruled { denial: Denial, ruling: Arc<Ruling> },
    Limited { denial: Denial, window: Window },
    Failed(Fault),
    Missing(Missing),
}

/// What the revision in shadow is compared with: what a rule has decided.
const fn judged(decided: &Result<Permit, NotPermitted>) -> Option<Judged<'_>> {
    match decided {
        Ok(permit) => Some(Judged::Permit(permit)),
        Err(NotPermitted::Denied(denial) | NotPermitted::Ruled { denial, .. }) => Some(Judged::Deny(denial)),
        Err(NotPermitted::Limited { .. } | NotPermitted::Failed(_) | NotPermitted::Missing(_)) => None,
    }
}

fn decide_on(
    headers: &RequestHeaders,
    trace: &mut Trace,
    vm: &mut Vm,
    host: &impl Host,
    active: &Active,
    gateway: Gateway,
    now: Timestamp,
) -> Result<Permit, NotPermitted> {
    let unmatched = |reason| NotPermitted::Denied(Denial { reason, route: None });
    let path = CanonicalPath::parse(headers.target()).map_err(|fault| unmatched(DenyReason::AmbiguousPath(fault)))?;
    let method = Method::parse(headers.matched_method()).ok_or_else(|| unmatched(DenyReason::NoRoute))?;
    trace.method = Some(method);
    let route = active.policy.route(gateway, method, path.path());
    trace.route = route.map(|route| route.id);
    if let Some(budget) = route.and_then(|route| route.limit) {
        count_client(trace, vm, host, budget, now)?;
    }
    let presented = credentials::present(headers, route, vm, host, active, now).map_err(|why| match why {
        Unjudged::Denied(reason) => NotPermitted::Denied(Denial { reason, route: trace.route }),
        Unjudged::Failed(fault) => NotPermitted::Failed(fault),
        Unjudged::Missing(missing) => NotPermitted::Missing(missing),
    })?;
    if let Presented::Token(_, Revocation::Unknown) = presented {
        trace.checks.authenticate_without_revocations();
    }
    let facts = RequestFacts { gateway, method, route, authentication: presented.authentication(), upgrade: headers.upgrade() };
    let decision = decide_observed(&active.policy, &facts, now, &mut trace.checks);
    let decided = match decision {
        Decision::Permit(permit) => Ok(permit),
        Decision::Conditional(conditional) => {
            let ruling = custom_rules::judge(active.rules.as_ref(), &facts, path.path(), &conditional, now);
            trace.ruling = Some(Arc::clone(&ruling));
            conditional.ruled(ruling.verdict, &mut trace.checks).map_err(|denial| NotPermitted::Ruled { denial, ruling })
        }
        Decision::Deny(denial) => Err(NotPermitted::Denied(denial)),
    };
    match presented {
        Presented::Token(token, _) => {
            trace.principal = Some(Rc::clone(&token.principal));
            trace.token = Some(token);
        }
        Presented::Revoked(principal, _) => trace.principal = Some(principal),
        Presented::Nothing | Presented::Bad(_) | Presented::Registered => {}
    }
    decided
}

/// Before the credential is looked at, so that guessing counts. Once, however often the request is judged.
fn count_client(trace: &mut Trace, vm: &mut Vm, host: &impl Host, budget: BudgetId, now: Timestamp) -> Result<(), NotPermitted> {
    if trace.noted.client == Once::NotYet {
        trace.noted.client = Once::Done;
        let client = Client::parse(&host.property(&["source", "address"]).unwrap_or_default());
        if let Charged::Exceeded(window) = vm.client_limits.charge(budget, client, now) {
            trace.checks.count_client(audit::Outcome::Deny);
            let denial = Denial { reason: DenyReason::ClientLimited(budget), route: trace.route };
            return Err(NotPermitted::Limited { denial, window });
        }
    }
    trace.checks.count_client(audit::Outcome::Permit);
    Ok(())
}

/// Holds a request until something is known, or has been waited for long enough: 503, never 401, and never through.
fn wait_for(exchange: &mut Exchange, vm: &mut Vm, host: &impl Host, missing: Missing, now: Timestamp) -> Step {
    let patience = exchange.trace.active.as_ref().map_or(COLD_START_WAIT, |active| active.policy.settings().cold_start_hold);
    let until = match &missing {
        Missing::Key(wait) => wait.until,
        Missing::Policy | Missing::Revocations | Missing::Keys => exchange.trace.arrived.plus(patience),
    };
    if now < until && exchange.headers.content_length().is_some_and(|length| length > HELD_BODY_MAX) {
        return fail(exchange, host, Fault::TooManyWaiting);
    }
    if now < until {
        return hold(exchange, vm, host, State::AwaitingKnowledge { missing, until });
    }
    match missing {
        Missing::Policy => fail(exchange, host, Fault::PolicyUnavailable),
        Missing::Revocations => fail_authentication(exchange, host, Fault::RevocationUnknown),
        Missing::Keys | Missing::Key(_) => fail_authentication(exchange, host, Fault::KeysUnavailable),
    }
}

fn fail_authentication(exchange: &mut Exchange, host: &impl Host, fault: Fault) -> Step {
    exchange.trace.checks.route_matched();
    exchange.trace.checks.add(audit::Check::Authentication, audit::Outcome::FailedClosed);
    fail(exchange, host, fault)
}

/// Permitted by the rules: what is still missing is the body, room in the budgets, and a person's approval.
fn admit(exchange: &mut Exchange, vm: &mut Vm, host: &impl Host, permit: Permit, now: Timestamp) -> Step {
    exchange.trace.target = Some(permit.target());
    match request_body::needed(exchange, &permit) {
        Ok(Some(most)) => {
            exchange.state = State::AwaitingBody { most };
            return Step::NeedsBody;
        }
        Ok(None) => {}
        Err(reason) => return refuse(exchange, host, Denial { reason, route: Some(permit.route()) }),
    }
    match ownership::prepare(exchange, host, &permit) {
        Ok(rewritten) => exchange.rewritten = rewritten,
        Err(reason) => return refuse(exchange, host, Denial { reason, route: Some(permit.route()) }),
    }
    let route = Some(permit.route());
    let bounded = match exchange.trace.active.clone() {
        Some(active) => meter::bounded(exchange, host, &active.policy, permit),
        None => Ok(permit),
    };
    let permit = match bounded {
        Ok(permit) => permit,
        Err(reason) => return refuse(exchange, host, Denial { reason, route }),
    };
    let when_short = if vm.sync.is_failing() { WhenShort::FailureMode } else { WhenShort::Wait };
    reserve(exchange, vm, host, permit, now, when_short)
}

/// All charges or none.
fn reserve(exchange: &mut Exchange, vm: &mut Vm, host: &impl Host, permit: Permit, now: Timestamp, when_short: WhenShort) -> Step {
    let (Some(active), Some(principal)) = (exchange.trace.active.clone(), exchange.trace.principal.clone()) else {
        // Public and registration-key routes have no user and, by the policy compiler, no charge and no approval.
        let ready = Ready { permit, held: Reservations::default(), consumes: Consumes::Nothing };
        return forward(exchange, vm, host, ready, now);
    };
    match vm.leases.reserve(&active.policy, &active.binding, &principal, permit.charges(), now, when_short) {
        Ok(held) => {
            let outcome = if held.failed_open() { audit::Outcome::FailedOpen } else { audit::Outcome::Permit };
            exchange.trace.checks.add(audit::Check::Budget, outcome);
            match permit.approval() {
                ApprovalNeed::None => forward(exchange, vm, host, Ready { permit, held, consumes: Consumes::Nothing }, now),
                ApprovalNeed::Governor => approval::request(exchange, vm, host, permit, held, now),
            }
        }
        Err(Shortfall::Short(wait)) if vm.waiting.len() >= WAITING_MAX => {
            vm.leases.end_wait(wait);
            reserve(exchange, vm, host, permit, now, WhenShort::FailureMode)
        }
        Err(Shortfall::Short(wait)) if exchange.headers.content_length().is_some_and(|length| length > HELD_BODY_MAX) => {
            vm.park(wait, now.plus(WAIT));
            fail(exchange, host, Fault::TooManyWaiting)
        }
        Err(Shortfall::Short(wait)) => {
            let until = exchange.trace.arrived.max(now).plus(WAIT);
            hold(exchange, vm, host, State::AwaitingLease { permit, wait, until })
        }
        Err(Shortfall::Spent { budget, window, cap, settled } | Shortfall::Taken { budget, window, cap, settled }) => {
            exchange.state = State::Replied;
            exchange.trace.checks.add(audit::Check::Budget, audit::Outcome::Deny);
            let denial = Denial { reason: DenyReason::BudgetSpent(budget), route: Some(permit.route()) };
            let standings = vm.leases.standings_of(&active.policy, &active.binding, &principal, permit.charges(), now);
            let beyond = permit.charges().iter().any(|charge| charge.budget == budget && charge.amount > cap);
            let spent = Spent { budget, window, cap, settled, standings, beyond, now };
            enact::refuse(exchange, host, &Refusal::Spent { denial, spent: Box::new(spent) });
            Step::Answered
        }
        Err(Shortfall::Unscoped(budget)) => {
            refuse_after_decision(exchange, host, Denial { reason: DenyReason::BudgetUnscoped(budget), route: Some(permit.route()) })
        }
        Err(Shortfall::Unavailable(_)) => {
            exchange.trace.checks.add(audit::Check::Budget, audit::Outcome::FailedClosed);
            fail(exchange, host, Fault::BudgetUnavailable)
        }
    }
}

/// Everything is in hand, unless the route requires that this is recorded first.
pub(crate) fn forward(exchange: &mut Exchange, vm: &mut Vm, host: &impl Host, ready: Ready, now: Timestamp) -> Step {
    if intent::is_required(exchange, &ready.permit) && revoked(exchange, vm).is_none() {
        return intent::declare(exchange, vm, host, ready, now);
    }
    go_on(exchange, vm, host, ready, now)
}

/// Whether the token was revoked since it was accepted: a request may have waited.
fn revoked(exchange: &Exchange, vm: &Vm) -> Option<RevocationKind> {
    exchange.trace.token.as_ref().and_then(|token| vm.revoked.verdict(token))
}

/// The permit is spent here. What was revoked meanwhile counts.
pub(crate) fn go_on(exchange: &mut Exchange, vm: &mut Vm, host: &impl Host, ready: Ready, now: Timestamp) -> Step {
    let route = Some(ready.permit.route());
    if let Some(kind) = revoked(exchange, vm) {
        intent::give_back(exchange, vm, host, ready);
        let reason = DenyReason::CredentialRefused(CredentialFault::Revoked(kind));
        return refuse_after_decision(exchange, host, Denial { reason, route });
    }
    let Ready { permit, held, consumes } = ready;
    if enact::forward(exchange, host, permit).is_err() {
        // The client's own body must not pass in its place.
        vm.leases.release(held);
        undo_approval(exchange, vm, host, consumes);
        return refuse_after_decision(exchange, host, Denial { reason: DenyReason::BodyNotObject, route });
    }
    exchange.trace.forwarded_at = Some(now);
    exchange.trace.verdict = verdict_of(exchange, &held);
    let forwarded = exchange.trace.active.as_ref().zip(route).and_then(|(active, route)| active.policy.route_by_id(route));
    let watch = if held.iter().next().is_none() { Watch::Fixed } else { Watch::of(forwarded, exchange.asked.take()) };
    exchange.state = State::Forwarded { held, consumes, watch };
    Step::Forward
}

/// How a request is judged that goes on.
pub(crate) fn verdict_of(exchange: &Exchange, held: &Reservations) -> Verdict {
    if held.failed_open() {
        Verdict { decision: Verdicts::Indeterminate, reason: Fault::BudgetUnavailable.code() }
    } else if exchange.trace.checks.authenticated_without_revocations() {
        Verdict { decision: Verdicts::Indeterminate, reason: Fault::RevocationUnknown.code() }
    } else {
        Verdict { decision: Verdicts::Permit, reason: "ok" }
    }
}

fn refuse(exchange: &mut Exchange, host: &impl Host, denial: Denial) -> Step {
    exchange.trace.checks.refused(denial.reason);
    exchange.state = State::Replied;
    enact::refuse(exchange, host, &Refusal::Denied(denial));
    Step::Answered
}

pub(crate) fn refuse_after_decision(exchange: &mut Exchange, host: &impl Host, denial: Denial) -> Step {
    exchange.trace.checks.add(denial.reason.check().into(), audit::Outcome::Deny);
    refuse(exchange, host, denial)
}

pub(crate) fn fail(exchange: &mut Exchange, host: &impl Host, fault: Fault) -> Step {
    exchange.state = State::Replied;
    enact::refuse(exchange, host, &Refusal::Failed(fault));
    Step::Answered
}

pub(crate) fn hold(exchange: &mut Exchange, vm: &mut Vm, host: &impl Host, state: State) -> Step {
    if vm.waiting.len() >= WAITING_MAX {
        return fail(exchange, host, Fault::TooManyWaiting);
    }
    if exchange.trace.noted.held == Once::NotYet {
        exchange.trace.noted.held = Once::Done;
        vm.counters.add(host, name::REQUESTS_HELD, 1);
    }
    exchange.state = state;
    Step::Held
}

/// A piece of the body, or its end. `None`: nothing has changed, keep holding.
pub(crate) fn body(exchange: &mut Exchange, vm: &mut Vm, host: &impl Host, size: usize, end_of_stream: bool) -> Option<Step> {
    match &exchange.state {
        State::New | State::Forwarded { .. } | State::Finished => Some(Step::Forward),
        State::Replied => None,
        State::AwaitingKnowledge { .. } | State::AwaitingLease { .. } | State::AwaitingApproval { .. } | State::AwaitingIntent { .. } => {
            exchange.body.note(host, size, end_of_stream);
            u64::try_from(size).is_ok_and(|size| size > HELD_BODY_MAX).then(|| outgrown(exchange, vm, host))
        }
        State::AwaitingBody { most } => {
            let most = *most;
            exchange.body.note(host, size, end_of_stream);
            if exchange.body.is_open() && exchange.body.length() <= most {
                return None;
            }
            // A client chooses how long a body takes: what was permitted when the headers came is judged anew, and the
            // token with it.
            exchange.state = State::New;
            Some(judge(exchange, vm, host, host.now()))
        }
    }
}

/// The body of a held request has become too large to be kept.
fn outgrown(exchange: &mut Exchange, vm: &mut Vm, host: &impl Host) -> Step {
    exchange.trace.looked_at = host.now();
    let state = std::mem::take(&mut exchange.state);
    if let State::AwaitingIntent { ready, .. } = state {
        return intent::refuse_body(exchange, vm, host, ready);
    }
    exchange.state = state;
    leave(exchange, vm, host);
    fail(exchange, host, Fault::TooManyWaiting)
}

/// Why a held request is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// The control plane answered a sync call.
    Answer,
    /// A bundle is in force, or revocations are known.
    Learned,
    /// Time has passed.
    Tick,
}

/// A held request is looked at again. Its stream is selected.
pub(crate) fn wake(exchange: &mut Exchange, vm: &mut Vm, host: &impl Host, why: Wake, now: Timestamp) -> Step {
    exchange.trace.looked_at = now;
    let failing = vm.sync.is_failing();
    match std::mem::take(&mut exchange.state) {
        State::AwaitingKnowledge { missing, until } if why == Wake::Learned || now >= until => {
            // Its place among those that wait for a key is free: it may take it again.
            drop(missing);
            judge(exchange, vm, host, now)
        }
        State::AwaitingLease { permit, wait, until } if now >= until || failing => {
            vm.leases.end_wait(wait);
            reserve(exchange, vm, host, permit, now, WhenShort::FailureMode)
        }
        State::AwaitingLease { permit, wait, until } if why == Wake::Answer => {
            vm.leases.end_wait(wait);
            let step = reserve(exchange, vm, host, permit, now, WhenShort::Wait);
            if let State::AwaitingLease { until: renewed, .. } = &mut exchange.state {
                *renewed = until;
            }
            step
        }
        State::AwaitingApproval { permit, held, until, consumes } => match vm.answers.remove(&exchange.trace.request_id.bytes()) {
            Some(outcome) => approval::answered(exchange, vm, host, permit, held, outcome, now),
            None if now >= until || failing => {
                exchange.state = State::AwaitingApproval { permit, held, until, consumes };
                leave(exchange, vm, host);
                fail(exchange, host, Fault::ApprovalUnavailable)
            }
            None => {
                exchange.state = State::AwaitingApproval { permit, held, until, consumes };
                Step::Held
            }
        },
        State::AwaitingIntent { ready, until } => intent::look(exchange, vm, host, ready, until, now),
        unchanged @ (State::AwaitingKnowledge { .. } | State::AwaitingLease { .. }) => {
            exchange.state = unchanged;
            Step::Held
        }
        // Answered or gone meanwhile: it is no longer ours to hold.
        other @ (State::New | State::AwaitingBody { .. } | State::Forwarded { .. } | State::Replied | State::Finished) => {
            exchange.state = other;
            Step::Answered
        }
    }
}

/// Gives back what a held request holds.
fn leave(exchange: &mut Exchange, vm: &mut Vm, host: &impl Host) {
    match std::mem::take(&mut exchange.state) {
        State::AwaitingLease { wait, .. } => vm.leases.end_wait(wait),
        State::AwaitingApproval { held, consumes, .. } => {
            vm.leases.release(held);
            let request_id = exchange.trace.request_id.bytes();
            vm.asks.retain(|ask| ask.request_id != request_id);
            vm.answers.remove(&request_id);
            undo_approval(exchange, vm, host, consumes);
        }
        State::AwaitingIntent { ready, .. } => intent::give_back(exchange, vm, host, ready),
        State::New
        | State::AwaitingKnowledge { .. }
        | State::AwaitingBody { .. }
        | State::Forwarded { .. }
        | State::Replied
        | State::Finished => {}
    }
}

pub(crate) fn undo_approval(exchange: &Exchange, vm: &mut Vm, host: &impl Host, consumes: Consumes) {
    if let (Consumes::Approval, Some(approval_id)) = (consumes, exchange.trace.approval_id.clone()) {
        match vm.undos.push(ApprovalUndo { request_id: exchange.trace.request_id.bytes(), approval_id }) {
            Queued::Kept => vm.sync.hurry(),
            Queued::Dropped => vm.counters.add(host, name::APPROVAL_UNDOS_DROPPED, 1),
        }
    }
}

/// Charges what the request cost.
fn settle(exchange: &Exchange, vm: &mut Vm, host: &impl Host, held: Reservations, watch: &Watch) -> audit::Settled {
    let Some(active) = exchange.trace.active.as_ref().filter(|_| held.iter().next().is_some()) else { return audit::Settled::nothing() };
    let policy = &active.policy;
    let cost = watch.cost(policy, &exchange.trace, host);
    let unit = |budget| policy.budget(budget).map_or(Unit::Requests, |budget| budget.unit);
    let charged = vm.leases.settle(held, |budget, reserved| cost.actual(unit(budget), reserved));
    if let Some(name) = cost.counter(watch) {
        vm.counters.add(host, name, 1);
    }
    if charged.iter().any(|settlement| settlement.overrun > Units::ZERO) {
        vm.counters.add(host, name::OVERRUNS, 1);
    }
    // A lease that is gone was forfeited: nothing is charged here.
    let cost = charged.iter().next().is_some().then_some(cost);
    audit::Settled { charged, cost }
}

/// The stream has ended: settle or release, record. Also for requests that the filter never saw.
pub(crate) fn finish(exchange: &mut Exchange, vm: &mut Vm, host: &impl Host) {
    let now = host.now();
    // A machine whose first request Envoy refused by itself has a record to deliver too.
    vm.become_holder();
    match std::mem::replace(&mut exchange.state, State::Finished) {
        State::Forwarded { held, consumes, watch } => {
            let settled = match audit::backend_reached(&exchange.trace, host) {
                audit::Reached::Yes => settle(exchange, vm, host, held, &watch),
                audit::Reached::No => {
                    let charged = vm.leases.release(held);
                    undo_approval(exchange, vm, host, consumes);
                    audit::Settled { charged, cost: None }
                }
            };
            audit::record(exchange, vm, host, &settled, now);
        }
        state @ (State::AwaitingKnowledge { .. }
        | State::AwaitingBody { .. }
        | State::AwaitingLease { .. }
        | State::AwaitingApproval { .. }
        | State::AwaitingIntent { .. }) => {
            exchange.state = state;
            leave(exchange, vm, host);
            exchange.state = State::Finished;
            exchange.trace.verdict.reason = if exchange.trace.status.is_some() { "envoy_answered" } else { "client_left" };
            audit::record(exchange, vm, host, &audit::Settled::nothing(), now);
        }
        State::New => {
            exchange.trace.verdict.reason = "envoy_answered";
            audit::record(exchange, vm, host, &audit::Settled::nothing(), now);
        }
        State::Replied => audit::record(exchange, vm, host, &audit::Settled::nothing(), now),
        State::Finished => {}
    }
    vm.counters.decided(host, exchange.settings.gateway, exchange.trace.verdict.decision.name(), exchange.trace.verdict.reason);
}
