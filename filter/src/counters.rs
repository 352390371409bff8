//! Metrics, named once. Envoy turns `.label=.=value;.;` into Prometheus labels (see `stats_tags` in `envoy/`).

use crate::host::{Host, Metric};
use decision_core::gateway::Gateway;
use hashbrown::HashMap;
use wire::audit::Check;

/// Metric ids, defined at first use.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    decisions: HashMap<(Gateway, &'static str, &'static str), Option<u32>>,
    skipped: HashMap<Check, Option<u32>>,
    totals: HashMap<&'static str, Option<u32>>,
}

impl Counters {
    /// Those without labels, at zero: of a counter that is not there before its first event, nobody sees that it rose.
    pub(crate) fn begin(&mut self, host: &impl Host) {
        for counter in name::COUNTERS {
            self.id(host, Metric::Counter, counter);
        }
    }

    /// `gateway_decisions_total{gateway,decision,reason}`.
    pub(crate) fn decided(&mut self, host: &impl Host, gateway: Gateway, decision: &'static str, reason: &'static str) {
        let id = *self.decisions.entry((gateway, decision, reason)).or_insert_with(|| {
            let name = format!("gateway.decisions.gateway=.={};.;decision=.={decision};.;reason=.={reason};.;total", gateway.name());
            host.define(Metric::Counter, &name)
        });
        if let Some(id) = id {
            host.increment(id, 1);
        }
    }

    /// `gateway_checks_skipped_total{check}`.
    pub(crate) fn skipped(&mut self, host: &impl Host, check: Check) {
        let id = *self
            .skipped
            .entry(check)
            .or_insert_with(|| host.define(Metric::Counter, &format!("gateway.checks_skipped.check=.={};.;total", check_name(check))));
        if let Some(id) = id {
            host.increment(id, 1);
        }
    }

    /// Adds to the counter of that name.
    pub(crate) fn add(&mut self, host: &impl Host, name: &'static str, by: i64) {
        if let Some(id) = self.id(host, Metric::Counter, name) {
            host.increment(id, by);
        }
    }

    /// Sets the gauge of that name.
    pub(crate) fn set(&mut self, host: &impl Host, name: &'static str, value: u64) {
        if let Some(id) = self.id(host, Metric::Gauge, name) {
            host.record(id, value);
        }
    }

    fn id(&mut self, host: &impl Host, kind: Metric, name: &'static str) -> Option<u32> {
        *self.totals.entry(name).or_insert_with(|| host.define(kind, name))
    }
}

const fn check_name(check: Check) -> &'static str {
    use decision_core::decision::Check as Core;
    match check {
        Check::Path => Core::Path.name(),
        Check::Route => Core::Route.name(),
        Check::Authentication => Core::Authentication.name(),
        Check::Permission => Core::Permission.name(),
        Check::Trial => Core::Trial.name(),
        Check::Approval => Core::Approval.name(),
        Check::Budget => Core::Budget.name(),
        Check::ClientLimit => Core::ClientLimit.name(),
        Check::Ownership => Core::Ownership.name(),
        Check::Routing => Core::Routing.name(),
        Check::Rules => Core::Rules.name(),
    }
}

/// Names of the metrics without labels.
pub(crate) mod name {
    pub(crate) const RECORDS_DROPPED: &str = "gateway.audit_records_dropped_total";
    pub(crate) const RECORDS_SAMPLED_OUT: &str = "gateway.audit_records_sampled_out_total";
    pub(crate) const INTENTS: &str = "gateway.audit_intents_total";
    pub(crate) const RECORDS_QUEUED: &str = "gateway.audit_records_queued";
    pub(crate) const SYNC_CALLS: &str = "gateway.sync_calls_total";
    pub(crate) const SYNC_FAILURES: &str = "gateway.sync_failures_total";
    pub(crate) const BUNDLE_ACTIVATION: &str = "gateway.bundle_activation";
    pub(crate) const BUNDLE_REFUSED: &str = "gateway.bundles_refused_total";
    pub(crate) const BUNDLE_OUTDATED: &str = "gateway.bundles_outdated_total";
    pub(crate) const BUNDLE_POLL_FAILURES: &str = "gateway.bundle_poll_failures_total";
    pub(crate) const REVOCATION_NUMBER: &str = "gateway.revocation_number";
    pub(crate) const REVOCATIONS: &str = "gateway.revocations";
    pub(crate) const REVOCATION_POLL_FAILURES: &str = "gateway.revocation_poll_failures_total";
    pub(crate) const TOKENS_VERIFIED: &str = "gateway.tokens_verified_total";
    pub(crate) const REQUESTS_HELD: &str = "gateway.requests_held_total";
    pub(crate) const MEMORY: &str = "gateway.memory_bytes";
    pub(crate) const APPROVAL_UNDOS_DROPPED: &str = "gateway.approval_undos_dropped_total";
    pub(crate) const OVERRUNS: &str = "gateway.overruns_total";
    pub(crate) const USAGE_UNREADABLE: &str = "gateway.usage_unreadable_total";
    pub(crate) const COSTS_UNREPORTED: &str = "gateway.costs_unreported_total";
    pub(crate) const HOLDERS_CLOSED: &str = "gateway.holders_closed_total";

    /// Those that count.
    pub(crate) const COUNTERS: [&str; 16] = [
        RECORDS_DROPPED,
        RECORDS_SAMPLED_OUT,
        INTENTS,
        SYNC_CALLS,
        SYNC_FAILURES,
        BUNDLE_REFUSED,
        BUNDLE_OUTDATED,
        BUNDLE_POLL_FAILURES,
        REVOCATION_POLL_FAILURES,
        TOKENS_VERIFIED,
        REQUESTS_HELD,
        APPROVAL_UNDOS_DROPPED,
        OVERRUNS,
        USAGE_UNREADABLE,
        COSTS_UNREPORTED,
        HOLDERS_CLOSED,
    ];
}
