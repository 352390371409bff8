//! Effects on the host: the only place that edits headers, forwards or replies. A permit is spent here.

use crate::exchange::{Exchange, Verdict, Verdicts};
use crate::explanation;
use crate::facts::Presence;
use crate::host::{Host, HostError};
use crate::meter;
use crate::problem::{self, Problem};
use crate::settings::UpstreamHeaders;
use crate::standing;
use decision_core::budget::{BudgetId, Units, Window, seconds_until};
use decision_core::decision::{Denial, Permit, Target};
use decision_core::failure::Fault;
use decision_core::holder::Standing;
use decision_core::obligations::credential;
use decision_core::policy::{CredentialForwarding, ExchangeKind, Ownership, Route};
use decision_core::principal::{Principal, Trial};
use decision_core::time::Timestamp;
use rules::Ruling;
use std::sync::Arc;
use wire::sync::ApprovalRefusal;

/// A refusal with what its text needs.
#[derive(Clone, Debug)]
pub(crate) enum Refusal {
    /// By a rule.
    Denied(Denial),
    /// By a custom rule.
    Rule { denial: Denial, ruling: Arc<Ruling> },
    /// A budget is spent.
    Spent { denial: Denial, spent: Box<Spent> },
    /// Too many requests from the client's address.
    Limited { denial: Denial, window: Window, now: Timestamp },
    /// A governor has to approve.
    ApprovalPending { denial: Denial, approval_id: String, url: String },
    /// The approval that was presented cannot be used.
    ApprovalRefused { denial: Denial, refusal: ApprovalRefusal },
    /// It could not be decided.
    Failed(Fault),
}

/// A budget without room for a charge.
#[derive(Clone, Debug)]
pub(crate) struct Spent {
    pub(crate) budget: BudgetId,
    pub(crate) window: Window,
    pub(crate) cap: Units,
    pub(crate) settled: Units,
    /// How full all accounts are that the request would be charged to, as far as known.
    pub(crate) standings: Vec<(BudgetId, Standing)>,
    /// The charge is more than the whole cap.
    pub(crate) beyond: bool,
    pub(crate) now: Timestamp,
}

impl Refusal {
    /// The denial, if a rule or a budget refuses.
    pub(crate) const fn denial(&self) -> Option<&Denial> {
        match self {
            Self::Denied(denial)
            | Self::Rule { denial, .. }
            | Self::Spent { denial, .. }
            | Self::Limited { denial, .. }
            | Self::ApprovalPending { denial, .. }
            | Self::ApprovalRefused { denial, .. } => Some(denial),
            Self::Failed(_) => None,
        }
    }

    /// Seconds after which a retry makes sense.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        match self {
            // No window will ever have room for it.
            Self::Spent { spent, .. } if spent.beyond => None,
            Self::Spent { spent, .. } => Some(seconds_until(spent.window.end, spent.now).max(1)),
            Self::Limited { window, now, .. } => Some(seconds_until(window.end, *now).max(1)),
            Self::Failed(_) => Some(1),
            Self::Denied(denial) | Self::Rule { denial, .. } => problem::retry_after(denial.reason),
            Self::ApprovalPending { .. } | Self::ApprovalRefused { .. } => None,
        }
    }
}

/// Edits the request and lets it go to the backend. What a client sent under a trusted name goes first.
///
/// # Errors
/// The host did not take the body that is to go in the place of the client's: nothing was edited, and nothing may go on.
pub(crate) fn forward(exchange: &Exchange, host: &impl Host, permit: Permit) -> Result<(), HostError> {
    let (trace, headers) = (&exchange.trace, &exchange.headers);
    let route = trace.active.as_ref().and_then(|active| active.policy.route_by_id(permit.route()));
    write_body(exchange, host, route)?;
    for name in headers.untrusted() {
        host.remove_request_header(name);
    }
    if let Some(target) = exchange.rewritten.target.as_ref() {
        host.set_request_header(":path", target.as_bytes());
    }
    forward_credential(exchange, host, credential(route, permit.target()));
    if route.is_some_and(meter::reads_body) {
        // What is compressed counts no tokens that could be read.
        host.remove_request_header("accept-encoding");
    }
    match route.map(|route| route.exchange) {
        // Envoy's time-out for a whole response does not apply.
        Some(ExchangeKind::Stream | ExchangeKind::Websocket) => {
            put(host, headers.has_untrusted(), "x-envoy-upstream-rq-timeout-ms", b"0");
        }
        Some(ExchangeKind::Plain) | None => {}
    }
    let trusted = headers.has_untrusted();
    if permit.target() == Target::Sandbox {
        put(host, trusted, "x-target-backend", b"sandbox");
    }
    let mut id_text = [0; 36];
    let id_text = trace.request_id.text(&mut id_text);
    put(host, headers.has_request_id(), "x-request-id", id_text.as_bytes());
    if headers.correlation_id().is_none() {
        put(host, headers.has_correlation_id(), "x-correlation-id", id_text.as_bytes());
    }
    if let Some(principal) = trace.principal.as_ref() {
        put(host, trusted, "x-user-id", principal.identity.user_id.as_bytes());
        if let Some(customer) = principal.identity.customer_id.as_ref() {
            put(host, trusted, "x-customer-id", customer.as_bytes());
        }
        if exchange.settings.upstream_headers == UpstreamHeaders::Full {
            describe_user(host, trusted, principal);
        }
    }
    if exchange.settings.upstream_headers == UpstreamHeaders::Full {
        put(host, trusted, "x-gateway", b"plant-gateway");
        put(host, trusted, "x-gateway-type", exchange.settings.gateway.name().as_bytes());
        if let Some(causation) = headers.causation_id() {
            put(host, headers.has_causation_id(), "x-causation-id", causation.as_bytes());
        }
    }
    Ok(())
}

/// Puts the body with the caller's customer id in the place of the client's, and says what it is.
fn write_body(exchange: &Exchange, host: &impl Host, route: Option<&Route>) -> Result<(), HostError> {
    let (Some(owned), headers) = (exchange.rewritten.body.as_ref(), &exchange.headers) else { return Ok(()) };
    let Some(Ownership::Body(name)) = route.and_then(|route| route.ownership.as_ref()) else { return Err(HostError::Refused) };
    let owner = exchange.trace.principal.as_ref().and_then(|principal| principal.identity.customer_id.as_deref());
    let body = owner.and_then(|owner| owned.write(&host.request_body(0, owned.length), name, owner)).ok_or(HostError::Refused)?;
    host.set_request_body(owned.length, &body)?;
    if headers.content_length().is_some() {
        host.set_request_header("content-length", body.len().to_string().as_bytes());
    }
    if headers.has_content_type() == Presence::Present {
        host.remove_request_header("content-type");
    }
    host.add_request_header("content-type", b"application/json");
    for name in headers.digests() {
        host.remove_request_header(name);
    }
    Ok(())
}

/// Writes a header of the request. One that the client has not sent is appended, which spares Envoy the search for it.
fn put(host: &impl Host, sent_by_client: Presence, name: &str, value: &[u8]) {
    match sent_by_client {
        Presence::Absent => host.add_request_header(name, value),
        // Replaced even where it was removed before: should that have failed, the client's value must not stay.
        Presence::Present => host.set_request_header(name, value),
    }
}

fn forward_credential(exchange: &Exchange, host: &impl Host, credential: CredentialForwarding) {
    if exchange.headers.has_authorization() == Presence::Absent {
        return;
    }
    match credential {
        CredentialForwarding::Forward => {}
        CredentialForwarding::Drop => host.remove_request_header("authorization"),
        CredentialForwarding::OriginalHeader => {
            if let Ok(Some(value)) = exchange.headers.authorization() {
                put(host, exchange.headers.has_untrusted(), "x-original-authorization", value);
            }
            host.remove_request_header("authorization");
        }
    }
}

fn describe_user(host: &impl Host, trusted: Presence, principal: &Principal) {
    put(host, trusted, "x-user-roles", principal.roles_joined.as_bytes());
    put(host, trusted, "x-user-issuer", principal.identity.issuer.as_bytes());
    if let Some(agent) = principal.identity.agent_id.as_ref() {
        put(host, trusted, "x-agent-id", agent.as_bytes());
    }
    let trial: &[u8] = match principal.identity.trial {
        Trial::No => b"false",
        Trial::Until(_) => b"true",
    };
    put(host, trusted, "x-trial-mode", trial);
}

/// Adds to the backend's response what the client is promised.
pub(crate) fn annotate_response(exchange: &Exchange, host: &impl Host) {
    let mut id_text = [0; 36];
    let id_text = exchange.trace.request_id.text(&mut id_text);
    host.set_response_header("x-correlation-id", exchange.headers.correlation_id().unwrap_or(id_text).as_bytes());
}

/// Answers with problem details (RFC 9457). The stream stays paused: it is never forwarded, even if the host takes no reply.
pub(crate) fn refuse(exchange: &mut Exchange, host: &impl Host, refusal: &Refusal) {
    exchange.trace.verdict = match refusal {
        Refusal::Failed(fault) => Verdict { decision: Verdicts::Indeterminate, reason: fault.code() },
        Refusal::Denied(denial)
        | Refusal::Rule { denial, .. }
        | Refusal::Spent { denial, .. }
        | Refusal::Limited { denial, .. }
        | Refusal::ApprovalPending { denial, .. }
        | Refusal::ApprovalRefused { denial, .. } => Verdict { decision: Verdicts::Deny, reason: denial.reason.code() },
    };
    exchange.trace.refusing_budget = refusal.denial().and_then(|denial| explanation::budget_of(denial.reason));
    exchange.trace.answered_at = Some(exchange.trace.looked_at);
    exchange.trace.status = Some(reply(exchange, host, refusal));
}

fn reply(exchange: &Exchange, host: &impl Host, refusal: &Refusal) -> u16 {
    let problem = Problem::of(exchange, refusal);
    let mut id_text = [0; 36];
    let id_text = exchange.trace.request_id.text(&mut id_text);
    let correlation = exchange.headers.correlation_id().unwrap_or(id_text);
    let body = problem.body(exchange, correlation, explanation::of(exchange, refusal).as_ref());
    let mut headers: Vec<(&str, &[u8])> = Vec::with_capacity(6);
    headers.push(("x-correlation-id", correlation.as_bytes()));
    headers.push(("cache-control", b"no-store"));
    if !body.is_empty() {
        headers.push(("content-type", problem.content_type(exchange)));
    }
    if let Some(challenge) = problem.challenge {
        headers.push(("www-authenticate", challenge.as_bytes()));
    }
    let retry_after = problem.retry_after.map(|seconds| seconds.to_string());
    if let Some(seconds) = retry_after.as_ref() {
        headers.push(("retry-after", seconds.as_bytes()));
    }
    let standing = standing::headers_of_refusal(exchange, refusal);
    headers.extend(standing.iter().map(|(name, value)| (*name, value.as_bytes())));
    if let Some(location) = problem.location.as_ref() {
        headers.push(("location", location.as_bytes()));
    }
    host.reply(problem.status, problem.details, &headers, &body).unwrap_or(());
    problem.status
}
