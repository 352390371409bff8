//! Routes that require a record: that a request is about to go on is stored before it does. Until the control plane has said
//! so the request is held; if it does not in time, everything is given back and nothing has happened.

use crate::audit;
use crate::counters::name;
use crate::exchange::{Consumes, Exchange, State};
use crate::host::Host;
use crate::pipeline::{self, HELD_BODY_MAX, Step, WAIT};
use crate::vm::{Vm, WAITING_MAX};
use decision_core::audit::AuditLevel;
use decision_core::decision::{Denial, DenyReason, Permit};
use decision_core::failure::Fault;
use decision_core::holder::Reservations;
use decision_core::time::Timestamp;

/// A request that is about to go on: what forwards it, and what it would give back.
#[derive(Debug)]
#[must_use = "forward it, or give back what it holds"]
pub(crate) struct Ready {
    pub(crate) permit: Permit,
    pub(crate) held: Reservations,
    pub(crate) consumes: Consumes,
}

/// Whether the route wants that.
pub(crate) fn is_required(exchange: &Exchange, permit: &Permit) -> bool {
    let route = exchange.trace.active.as_ref().and_then(|active| active.policy.route_by_id(permit.route()));
    route.is_some_and(|route| route.audit == AuditLevel::Required)
}

/// Queues the intent, and holds the request until it is stored.
pub(crate) fn declare(exchange: &mut Exchange, vm: &mut Vm, host: &impl Host, ready: Ready, now: Timestamp) -> Step {
    if exchange.headers.content_length().is_some_and(|length| length > HELD_BODY_MAX) {
        return refuse_body(exchange, vm, host, ready);
    }
    if vm.waiting.len() >= WAITING_MAX {
        give_back(exchange, vm, host, ready);
        return pipeline::fail(exchange, host, Fault::TooManyWaiting);
    }
    // Nobody waits for a control plane that is known to be away.
    if vm.sync.is_failing() {
        give_back(exchange, vm, host, ready);
        return pipeline::fail(exchange, host, Fault::AuditUnavailable);
    }
    vm.counters.add(host, name::INTENTS, 1);
    let verdict = pipeline::verdict_of(exchange, &ready.held);
    audit::intend(exchange, vm, host, verdict, now);
    pipeline::hold(exchange, vm, host, State::AwaitingIntent { ready, until: now.plus(WAIT) })
}

/// A request that waits for its intent to be stored is looked at again.
pub(crate) fn look(exchange: &mut Exchange, vm: &mut Vm, host: &impl Host, ready: Ready, until: Timestamp, now: Timestamp) -> Step {
    if vm.records.take_intent(&exchange.trace.request_id.bytes()) {
        return pipeline::go_on(exchange, vm, host, ready, now);
    }
    if now >= until || vm.sync.is_failing() {
        give_back(exchange, vm, host, ready);
        return pipeline::fail(exchange, host, Fault::AuditUnavailable);
    }
    exchange.state = State::AwaitingIntent { ready, until };
    Step::Held
}

/// Its body has become too large to be held. Told as final: it would be too large again.
pub(crate) fn refuse_body(exchange: &mut Exchange, vm: &mut Vm, host: &impl Host, ready: Ready) -> Step {
    let route = Some(ready.permit.route());
    give_back(exchange, vm, host, ready);
    pipeline::refuse_after_decision(exchange, host, Denial { reason: DenyReason::AuditedBodyTooLarge, route })
}

/// It does not go on. Its intent may be stored all the same; the outcome says what became of it.
pub(crate) fn give_back(exchange: &Exchange, vm: &mut Vm, host: &impl Host, ready: Ready) {
    vm.leases.release(ready.held);
    vm.records.forget_intent(&exchange.trace.request_id.bytes());
    pipeline::undo_approval(exchange, vm, host, ready.consumes);
}
