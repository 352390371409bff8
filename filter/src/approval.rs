//! What an approval is bound to: the client's request as it was sent, its body by its hash.

use crate::exchange::Exchange;
use decision_core::decision::DenyReason;
use decision_core::gateway::Method;
use decision_core::path::CanonicalPath;
use wire::sync::{ApprovalAsk, ApprovalBinding};

/// What the control plane is asked; `None` when a fact that the binding needs is missing, which the path to here excludes.
pub(crate) fn ask(exchange: &Exchange) -> Result<Option<ApprovalAsk>, DenyReason> {
    let approval_id = exchange.headers.approval_id()?.map(String::from);
    let (trace, headers) = (&exchange.trace, &exchange.headers);
    let Some(body_sha256) = exchange.body.sha256() else { return Ok(None) };
    let Some((active, principal)) = trace.active.as_ref().zip(trace.principal.as_ref()) else { return Ok(None) };
    let Some(route) = trace.route.and_then(|route| active.policy.route_by_id(route)) else { return Ok(None) };
    let Ok(path) = CanonicalPath::parse(headers.target()) else { return Ok(None) };
    let authority = std::str::from_utf8(headers.authority()).map_err(|_| DenyReason::AmbiguousHeader("host"))?;
    Ok(Some(ApprovalAsk {
        request_id: trace.request_id.bytes(),
        approval_id,
        binding: ApprovalBinding {
            gateway: exchange.settings.gateway.into(),
            issuer: principal.identity.issuer.to_string(),
            subject: principal.identity.subject.to_string(),
            method: trace.method.map_or("", Method::name).into(),
            authority: authority.to_ascii_lowercase(),
            path: path.path().into(),
            query: path.query().unwrap_or_default().into(),
            body_sha256,
        },
        route: route.name.to_string(),
        action: route.action.to_string(),
    }))
}
