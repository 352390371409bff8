//! `/health` and `/ready`, answered by the filter itself on every listener.

use crate::exchange::Exchange;
use crate::facts::RequestHeaders;
use crate::host::Host;
use crate::vm::Vm;
use decision_core::failure::FailureMode;
use serde::Serialize;

/// Which question a probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Is the filter alive?
    Health,
    /// Can it decide?
    Ready,
}

/// Whether the request is a probe. Exact paths only.
pub(crate) fn probe(headers: &RequestHeaders) -> Option<Probe> {
    match (headers.method(), headers.target()) {
        (b"GET" | b"HEAD", b"/health") => Some(Probe::Health),
        (b"GET" | b"HEAD", b"/ready") => Some(Probe::Ready),
        _ => None,
    }
}

#[derive(Serialize)]
struct Health<'h> {
    status: &'h str,
    service: &'h str,
    gateway: &'h str,
}

#[derive(Serialize)]
struct Readiness<'h> {
    ready: bool,
    gateway: &'h str,
    activation: u64,
    revision: u64,
    key_set: u64,
    revocation: u64,
    revocations: &'static str,
    control_plane: &'h str,
}

/// Whether tokens can be judged: by a bundle, and by revocations unless the policy does without.
fn is_ready(vm: &Vm) -> bool {
    vm.active
        .as_ref()
        .is_some_and(|active| vm.revoked.known().is_some() || active.policy.settings().failure_modes.revocation == FailureMode::Open)
}

/// Answers: 200, or 503 until a bundle is loaded and revocations are known.
pub(crate) fn answer(probe: Probe, exchange: &mut Exchange, vm: &mut Vm, host: &impl Host) {
    let gateway = exchange.settings.gateway.name();
    let (status, body) = match probe {
        Probe::Health => (200, serde_json::to_vec(&Health { status: "healthy", service: "plant-gateway", gateway })),
        Probe::Ready => {
            let version = vm.active.as_ref().map(|active| active.version);
            let ready = is_ready(vm);
            let status = if ready { 200 } else { 503 };
            let shown = version.unwrap_or_default();
            let control_plane = vm.feed.standing(host);
            let readiness = Readiness {
                ready,
                gateway,
                activation: shown.activation,
                revision: shown.revision,
                key_set: shown.key_set,
                revocation: vm.revoked.number(),
                revocations: if vm.revoked.known().is_some() { "known" } else { "unknown" },
                control_plane: control_plane.text(),
            };
            (status, serde_json::to_vec(&readiness))
        }
    };
    exchange.trace.answered_at = Some(exchange.trace.looked_at);
    exchange.trace.status = Some(status);
    let headers: [(&str, &[u8]); 2] = [("content-type", b"application/json"), ("cache-control", b"no-store")];
    let details = match probe {
        Probe::Health => "gateway_health",
        Probe::Ready => "gateway_ready",
    };
    // If the host takes no reply the stream stays paused and Envoy's own time-out ends it: never forwarded.
    host.reply(status, details, &headers, &body.unwrap_or_default()).unwrap_or(());
}
