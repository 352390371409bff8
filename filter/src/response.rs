//! The response goes by: its status is noted, what it says of its cost is watched, and the client is told what it is promised.
//! Nothing is held back.

use crate::enact;
use crate::exchange::{Exchange, State};
use crate::host::Host;
use crate::named;
use crate::standing;
use crate::vm::Vm;

/// The response's headers are here.
pub(crate) fn headers(exchange: &mut Exchange, vm: &Vm, host: &impl Host, end_of_stream: bool) {
    let Exchange { state, trace, .. } = &mut *exchange;
    match state {
        State::Forwarded { held, watch, .. } => {
            let now = host.now();
            trace.responded_at = Some(now);
            trace.status = host.response_status();
            let active = trace.active.as_ref();
            let route = active.zip(trace.route).and_then(|(active, route)| active.policy.route_by_id(route));
            watch.headers(host, route, end_of_stream);
            if let Some(active) = active {
                standing::annotate_response(host, &active.policy, vm.leases.standings(held), now);
            }
            enact::annotate_response(exchange, host);
            keep_named(exchange, host);
        }
        State::AwaitingKnowledge { .. }
        | State::AwaitingBody { .. }
        | State::AwaitingLease { .. }
        | State::AwaitingApproval { .. }
        | State::AwaitingIntent { .. } => {
            // Envoy answers in our place: a time-out, or too large a body.
            trace.status = host.response_status();
            enact::annotate_response(exchange, host);
            keep_named(exchange, host);
        }
        State::Replied => keep_named(exchange, host),
        State::New | State::Finished => {}
    }
}

/// What records are to have of the answer.
fn keep_named(exchange: &mut Exchange, host: &impl Host) {
    if let Some(active) = exchange.trace.active.as_ref() {
        exchange.trace.answer_headers = named::response_headers(&active.policy.audit().response_headers, host);
    }
}

/// A piece of the response's body goes by.
pub(crate) fn body(exchange: &mut Exchange, host: &impl Host, size: usize, end_of_stream: bool) {
    if let State::Forwarded { watch, .. } = &mut exchange.state {
        watch.body(host, size, end_of_stream);
    }
}

/// The response's trailers go by.
pub(crate) fn trailers(exchange: &mut Exchange, host: &impl Host) {
    let Exchange { state, trace, .. } = exchange;
    if let State::Forwarded { watch, .. } = state {
        let route = trace.active.as_ref().zip(trace.route).and_then(|(active, route)| active.policy.route_by_id(route));
        watch.trailers(host, route);
    }
}
