//! Counters of this process, defined once, and `GET /metrics`.

use crate::app::AppState;
use crate::problem::ApiError;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use wire::bundle::BundleVersion;

/// Upper bounds of latency buckets, in seconds.
const LATENCY_BUCKETS: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// One label: how something ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// `ok`, or a coded reason.
    pub outcome: &'static str,
}

/// One label: the budget.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BudgetName {
    /// The budget's name; bounded by the policy.
    pub budget: String,
}

/// Two labels: the budget, and how near it is to its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BudgetLevel {
    /// The budget's name; bounded by the policy.
    pub budget: String,
    /// `warning`, `high` or `critical`.
    pub level: &'static str,
}

/// One label: the issuer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct IssuerName {
    /// Its name in the policy; bounded by it.
    pub issuer: String,
}

/// Every counter of this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The activation in force here.
    pub policy_activation: Gauge,
    /// The revision in force here.
    pub policy_revision: Gauge,
    /// The key set in force here.
    pub policy_key_set: Gauge,
    /// Policies that could not be loaded; the last good one stayed.
    pub policy_load_failures: Counter,
    /// 1 while the policies directory, or the activated revision, cannot be loaded.
    pub policy_fault: Gauge,
    /// The newest beginning or end of a shadow that is served here.
    pub policy_shadow: Gauge,
    /// 1 while workers enforce an activation that the database does not have.
    pub workers_ahead: Gauge,
    /// Answers to `GET /data-plane/v1/bundle`.
    pub bundle_answers: Family<Outcome, Counter>,
    /// Requests of the admin API, by how authorisation ended.
    pub admin_requests: Family<Outcome, Counter>,
    /// Answers to `POST /data-plane/v1/sync`.
    pub sync_calls: Family<Outcome, Counter>,
    /// Sync calls that were refused because too many were being carried out.
    pub sync_calls_shed: Counter,
    /// How long a sync call took.
    pub sync_seconds: Histogram,
    /// Audit records stored.
    pub audit_records_stored: Counter,
    /// Audit records that the store refused and kept aside.
    pub audit_records_quarantined: Counter,
    /// Audit records whose numbers were passed over: they will not come any more.
    pub audit_records_missing: Counter,
    /// The last checkpoint of the audit log that was signed here.
    pub audit_checkpoint: Gauge,
    /// 1 while a backup was restored and nobody has recovered the database: nothing is granted.
    pub fenced: Gauge,
    /// Holders closed for silence.
    pub holders_closed: Counter,
    /// Units charged because a holder was closed.
    pub units_forfeited: Family<BudgetName, Counter>,
    /// Thresholds that were reached, once per account, window and level.
    pub budget_thresholds: Family<BudgetLevel, Counter>,
    /// Steps of approvals.
    pub approvals: Family<Outcome, Counter>,
    /// Attempts to deliver events, by how they ended.
    pub webhook_attempts: Family<Outcome, Counter>,
    /// Events that wait for delivery.
    pub webhooks_pending: Gauge,
    /// Events that were given up and wait for an operator.
    pub webhooks_dead: Gauge,
    /// Fetches of key sets.
    pub jwks_fetches: Family<Outcome, Counter>,
    /// Seconds since an issuer's key set was fetched; very many if it never was.
    pub jwks_age_seconds: Family<IssuerName, Gauge>,
    /// The number of the latest revocation known here.
    pub revocation_number: Gauge,
    /// Revocations in force.
    pub revocations_live: Gauge,
    /// Answers to `GET /data-plane/v1/revocations`.
    pub revocation_answers: Family<Outcome, Counter>,
}

impl Metrics {
    /// All counters, registered and at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("gateway_control_plane"),
            policy_activation: Gauge::default(),
            policy_revision: Gauge::default(),
            policy_key_set: Gauge::default(),
            policy_load_failures: Counter::default(),
            policy_fault: Gauge::default(),
            policy_shadow: Gauge::default(),
            workers_ahead: Gauge::default(),
            bundle_answers: Family::default(),
            admin_requests: Family::default(),
            sync_calls: Family::default(),
            sync_calls_shed: Counter::default(),
            sync_seconds: Histogram::new(LATENCY_BUCKETS),
            audit_records_stored: Counter::default(),
            audit_records_quarantined: Counter::default(),
            audit_records_missing: Counter::default(),
            audit_checkpoint: Gauge::default(),
            fenced: Gauge::default(),
            holders_closed: Counter::default(),
            units_forfeited: Family::default(),
            budget_thresholds: Family::default(),
            approvals: Family::default(),
            webhook_attempts: Family::default(),
            webhooks_pending: Gauge::default(),
            webhooks_dead: Gauge::default(),
            jwks_fetches: Family::default(),
            jwks_age_seconds: Family::default(),
            revocation_number: Gauge::default(),
            revocations_live: Gauge::default(),
            revocation_answers: Family::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("policy_activation", "Activation in force", self.policy_activation.clone());
        registry.register("policy_revision", "Revision in force", self.policy_revision.clone());
        registry.register("policy_key_set", "Key set in force", self.policy_key_set.clone());
        registry.register("policy_load_failures", "Policies that could not be loaded", self.policy_load_failures.clone());
        registry.register("policy_fault", "1 while a policy cannot be loaded", self.policy_fault.clone());
        registry.register("policy_shadow", "Newest beginning or end of a shadow", self.policy_shadow.clone());
        registry.register("workers_ahead", "1 while workers enforce what the database does not have", self.workers_ahead.clone());
        registry.register("bundle_answers", "Answers to bundle polls", self.bundle_answers.clone());
        registry.register("admin_requests", "Admin requests by authorisation", self.admin_requests.clone());
        registry.register("sync_calls", "Answers to sync calls", self.sync_calls.clone());
        registry.register(
            "sync_calls_shed",
            "Sync calls that were refused because too many were being carried out",
            self.sync_calls_shed.clone(),
        );
        registry.register("sync_seconds", "Duration of sync calls", self.sync_seconds.clone());
        registry.register("audit_records_stored", "Audit records stored", self.audit_records_stored.clone());
        registry.register(
            "audit_checkpoint",
            "Number of the last checkpoint of the audit log that was signed here",
            self.audit_checkpoint.clone(),
        );
        registry.register("audit_records_quarantined", "Audit records kept aside", self.audit_records_quarantined.clone());
        registry.register("audit_records_missing", "Audit records that will not come any more", self.audit_records_missing.clone());
        registry.register("fenced", "1 while a restored database is not recovered", self.fenced.clone());
        registry.register("holders_closed", "Holders closed for silence", self.holders_closed.clone());
        registry.register("units_forfeited", "Units charged at closing", self.units_forfeited.clone());
        registry.register("budget_thresholds", "Thresholds of budgets that were reached", self.budget_thresholds.clone());
        registry.register("approvals", "Steps of approvals", self.approvals.clone());
        registry.register("webhook_attempts", "Attempts to deliver events by outcome", self.webhook_attempts.clone());
        registry.register("webhooks_pending", "Events that wait for delivery", self.webhooks_pending.clone());
        registry.register("webhooks_dead", "Events that were given up", self.webhooks_dead.clone());
        registry.register("jwks_fetches", "Fetches of key sets by outcome", self.jwks_fetches.clone());
        registry.register("jwks_age_seconds", "Age of the last good key set", self.jwks_age_seconds.clone());
        registry.register("revocation_number", "Latest revocation known", self.revocation_number.clone());
        registry.register("revocations_live", "Revocations in force", self.revocations_live.clone());
        registry.register("revocation_answers", "Answers to revocation polls", self.revocation_answers.clone());
    }

    /// Shows which policy is in force here.
    pub fn policy_in_force(&self, version: &BundleVersion) {
        let shown = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.policy_activation.set(shown(version.activation));
        self.policy_revision.set(shown(version.revision));
        self.policy_key_set.set(shown(version.key_set));
        self.policy_shadow.set(shown(version.shadow));
    }

    /// Shows how far this replica knows what was revoked.
    pub fn revocations(&self, number: u64, live: u32) {
        self.revocation_number.set(i64::try_from(number).unwrap_or(i64::MAX));
        self.revocations_live.set(live.into());
    }

    /// Counts one answer.
    pub fn count(family: &Family<Outcome, Counter>, outcome: &'static str) {
        family.get_or_create(&Outcome { outcome }).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// `GET /metrics`.
///
/// # Errors
/// The text cannot be written, which would be our fault.
pub async fn metrics(State(state): State<AppState>) -> Result<impl IntoResponse, ApiError> {
    let mut text = String::new();
    encode(&mut text, &state.metrics.registry).map_err(|error| ApiError::internal("metrics", error))?;
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, media_type)], text))
}
