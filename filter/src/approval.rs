//! What an approval is bound to: the client's request as it was sent, its body by its hash, and for whom and where to it
//! goes on. What the gateway makes of the request follows from these, so that nothing else can be made of an approved one.

use crate::exchange::Exchange;
use decision_core::decision::{DenyReason, Target};
use decision_core::gateway::Method;
use decision_core::path::CanonicalPath;
use wire::sync::{ApprovalAsk, ApprovalBinding};

/// What the control plane is asked; `None` when a fact that the binding needs is missing, which the path to here excludes.
pub(crate) fn ask(exchange: &Exchange, target: Target) -> Result<Option<ApprovalAsk>, DenyReason> {
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
