//! What an approval is bound to: the client's request as it was sent, its body by its hash, and for whom and where to it
//! goes on. What the gateway makes of the request follows from these, so that nothing else can be made of an approved one.

use crate::audit;
use crate::enact::{self, Refusal};
use crate::exchange::{Consumes, Exchange, State};
use crate::host::Host;
use crate::intent::Ready;
use crate::pipeline::{self, Step, WAIT};
use crate::vm::{Vm, WAITING_MAX};
use decision_core::decision::{Denial, DenyReason, Permit, Target};
use decision_core::failure::Fault;
use decision_core::gateway::Method;
use decision_core::holder::Reservations;
use decision_core::path::CanonicalPath;
use decision_core::time::Timestamp;
use wire::sync::{ApprovalAsk, ApprovalBinding, ApprovalOutcome};

/// A grant by a governor has to be consumed, or requested. Both ride in the next sync call.
pub(crate) fn request(exchange: &mut Exchange, vm: &mut Vm, host: &impl Host, permit: Permit, held: Reservations, now: Timestamp) -> Step {
    let ask = ask(exchange, permit.target());
    match ask {
        Ok(Some(_)) if vm.waiting.len() >= WAITING_MAX => {
            vm.leases.release(held);
            pipeline::fail(exchange, host, Fault::TooManyWaiting)
        }
        Ok(Some(ask)) if !vm.sync.is_failing() => {
            let consumes = if ask.approval_id.is_some() { Consumes::Approval } else { Consumes::Nothing };
            exchange.trace.approval_id.clone_from(&ask.approval_id);
            vm.asks.push(ask);
            vm.sync.hurry();
            pipeline::hold(exchange, vm, host, State::AwaitingApproval { permit, held, until: now.plus(WAIT), consumes })
        }
        Ok(_) => {
            vm.leases.release(held);
            pipeline::fail(exchange, host, Fault::ApprovalUnavailable)
        }
        Err(reason) => {
            vm.leases.release(held);
            pipeline::refuse_after_decision(exchange, host, Denial { reason, route: Some(permit.route()) })
        }
    }
}

/// What the control plane said.
pub(crate) fn answered(
    exchange: &mut Exchange,
    vm: &mut Vm,
    host: &impl Host,
    permit: Permit,
    held: Reservations,
    outcome: ApprovalOutcome,
    now: Timestamp,
) -> Step {
    let route = Some(permit.route());
    match outcome {
        ApprovalOutcome::Granted => {
            exchange.trace.checks.add(audit::Check::Approval, audit::Outcome::Permit);
            return pipeline::forward(exchange, vm, host, Ready { permit, held, consumes: Consumes::Approval }, now);
        }
        ApprovalOutcome::Pending { approval_id, url } => {
            exchange.trace.approval_id = Some(approval_id.clone());
            exchange.state = State::Replied;
            let denial = Denial { reason: DenyReason::ApprovalRequired, route };
            exchange.trace.checks.add(audit::Check::Approval, audit::Outcome::Deny);
            enact::refuse(exchange, host, &Refusal::ApprovalPending { denial, approval_id, url });
        }
        ApprovalOutcome::Refused(refusal) => {
            exchange.state = State::Replied;
            let denial = Denial { reason: DenyReason::ApprovalRefused, route };
            exchange.trace.checks.add(audit::Check::Approval, audit::Outcome::Deny);
            enact::refuse(exchange, host, &Refusal::ApprovalRefused { denial, refusal });
        }
    }
    vm.leases.release(held);
    Step::Answered
}

/// What the control plane is asked; `None` when a fact that the binding needs is missing, which the path to here excludes.
fn ask(exchange: &Exchange, target: Target) -> Result<Option<ApprovalAsk>, DenyReason> {
    let approval_id = exchange.headers.approval_id()?.map(String::from);
    let (trace, headers) = (&exchange.trace, &exchange.headers);
    let Some(body_sha256) = exchange.body.sha256() else { return Ok(None) };
    let Some((active, principal)) = trace.active.as_ref().zip(trace.principal.as_ref()) else { return Ok(None) };
    let Some(route) = trace.route.and_then(|route| active.policy.route_by_id(route)) else { return Ok(None) };
    let Ok(path) = CanonicalPath::parse(headers.target()) else { return Ok(None) };
    let identity = &principal.identity;
    Ok(Some(ApprovalAsk {
        request_id: trace.request_id.bytes(),
        approval_id,
        binding: ApprovalBinding {
            gateway: exchange.settings.gateway.into(),
            issuer: identity.issuer.to_string(),
            subject: identity.subject.to_string(),
            user_id: identity.user_id.to_string(),
            customer_id: identity.customer_id.as_deref().map(String::from),
            agent_id: identity.agent_id.as_deref().map(String::from),
            target: target.into(),
            method: trace.method.map_or("", Method::name).into(),
            authority: headers.bound_authority()?,
            path: path.path().into(),
            query: path.query().map(String::from),
            content_type: headers.bound_content_type()?.map(String::from),
            content_encoding: headers.bound_content_encoding()?.map(String::from),
            body_sha256,
            body_length: u64::try_from(exchange.body.length()).unwrap_or(u64::MAX),
        },
        route: route.name.to_string(),
        action: route.action.to_string(),
    }))
}
