//! The one table from a refusal to problem details (RFC 9457), and how they are written. Statuses are the policy's:
//! [`DenyReason::status`].

use crate::enact::{Refusal, Spent};
use crate::exchange::Exchange;
use crate::explanation::Explanation;
use crate::facts::ProblemFormat;
use crate::standing::{self, MoneyBudget};
use decision_core::budget::{Unit, Whose};
use decision_core::decision::DenyReason;
use decision_core::failure::Fault;
use decision_core::policy::CompiledPolicy;
use decision_core::principal::{CredentialFault, RevocationKind, Trial};
use rules::Ruling;
use serde::Serialize;
use wire::sync::ApprovalRefusal;

/// A refusal, as the client sees it.
#[derive(Debug)]
pub(crate) struct Problem<'p> {
    pub(crate) status: u16,
    slug: &'static str,
    title: &'static str,
    detail: String,
    check: &'static str,
    pub(crate) challenge: Option<&'static str>,
    pub(crate) retry_after: Option<u64>,
    pub(crate) location: Option<String>,
    /// Envoy's response code details.
    pub(crate) details: &'static str,
    extras: Extras<'p>,
}

#[derive(Debug, Default, Serialize)]
struct Extras<'p> {
    #[serde(skip_serializing_if = "Option::is_none")]
    required_permission: Option<&'p str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trial_expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<BudgetState<'p>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alert_level: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform_budget: Option<MoneyBudget>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_budget: Option<MoneyBudget>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upgrade_url: Option<&'p str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval_id: Option<&'p str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval_url: Option<&'p str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule_id: Option<&'p str>,
}

#[derive(Debug, Serialize)]
struct BudgetState<'p> {
    name: &'p str,
    unit: &'static str,
    limit: i64,
    settled: i64,
    resets_at: String,
}

#[derive(Serialize)]
struct Body<'b> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'b str,
    instance: &'b str,
    check: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'b str>,
    correlation_id: &'b str,
    #[serde(flatten)]
    extras: &'b Extras<'b>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explanation: Option<&'b Explanation>,
}

/// Used until a policy says otherwise.
const PROBLEM_BASE: &str = "https://waooaw.com/errors/";

/// RFC 6750 §3: a realm always; an error only if a token was sent.
const BEARER: &str = "Bearer realm=\"plant-gateway\"";
const BEARER_INVALID: &str = "Bearer realm=\"plant-gateway\", error=\"invalid_token\"";
const BEARER_INSUFFICIENT: &str = "Bearer realm=\"plant-gateway\", error=\"insufficient_scope\"";

struct Row(&'static str, &'static str, &'static str);

const TOO_MANY_REQUESTS: Row = Row("too-many-requests", "Too Many Requests", "Too many authentication requests. Please retry shortly.");

/// Slug, title and detail of every reason. The texts of the original where it had one.
fn row(reason: DenyReason) -> Row {
    match reason {
        DenyReason::AmbiguousPath(_) => Row("validation-error", "Validation Error", "The path is ambiguous"),
        DenyReason::AmbiguousHeader(_) | DenyReason::ApprovalHeader(_) => {
            Row("validation-error", "Validation Error", "A header is repeated or malformed")
        }
        // One text for both: whether a feature exists is not told.
        DenyReason::NoRoute | DenyReason::FeatureDisabled => Row("not-found", "Not Found", "No route has this method and path"),
        DenyReason::UpgradeRefused => Row("upgrade-refused", "Upgrade Refused", "The route does not do this upgrade"),
        DenyReason::ClientLimited(_) => TOO_MANY_REQUESTS,
        DenyReason::CredentialMissing => {
            Row("unauthorized", "Unauthorized", "Missing Authorization header. Please provide a valid Bearer token.")
        }
        DenyReason::CredentialRefused(fault) => credential_row(fault),
        DenyReason::RegistrationKeyRefused => Row("unauthorized", "Unauthorized", "Missing or invalid registration key"),
        DenyReason::PermissionMissing => Row("permission-denied", "Permission Denied", "Insufficient permissions"),
        DenyReason::TrialExpired => Row("trial-expired", "Trial Expired", "The trial period has expired"),
        DenyReason::TrialRestricted => Row("trial-restricted", "Trial Restricted", "Not available during a trial"),
        DenyReason::OwnerMissing => Row("unauthorized", "Unauthorized", "Missing customer_id in auth context"),
        DenyReason::BodyNotObject => Row("validation-error", "Validation Error", "The body has to be a JSON object"),
        DenyReason::BodyKeyRepeated => Row("validation-error", "Validation Error", "The body's JSON object repeats a key"),
        DenyReason::BodyTooLarge => Row("validation-error", "Validation Error", "The body may have 256 KiB at most"),
        DenyReason::RuleRefused => Row("rule-refused", "Rule Refused", "A rule of the operator refuses this request"),
        DenyReason::ApprovalRequired => Row("approval-required", "Approval Required", "A governor has to approve this request"),
        DenyReason::ApprovalRefused => Row("approval-required", "Approval Required", "The approval cannot be used"),
        DenyReason::ApprovalBodyTooLarge => {
            Row("validation-error", "Validation Error", "A request that needs an approval may have a body of 64 KiB at most")
        }
        DenyReason::AuditedBodyTooLarge => {
            Row("validation-error", "Validation Error", "A request that is recorded before it goes on may have a body of 900 KiB at most")
        }
        DenyReason::MeteredBody => Row(
            "validation-error",
            "Validation Error",
            "The body has to be a JSON object as the route's API has it, with a model, and repeat no key",
        ),
        DenyReason::MeteredBodyTooLarge => Row("validation-error", "Validation Error", "The body may have 768 KiB at most"),
        DenyReason::OutputUnlimited => Row("validation-error", "Validation Error", "The request has to limit its output tokens"),
        DenyReason::CostUnbounded(_) => Row("validation-error", "Validation Error", "The request may cost more than can be foreseen"),
        DenyReason::ModelUnpriced => Row("model-unpriced", "Model Unpriced", "The model has no price here"),
        DenyReason::BudgetSpent(_) => Row("budget-exceeded", "Budget Exceeded", "Budget exceeded"),
        DenyReason::BudgetUnscoped(_) => Row("budget-unscoped", "Budget Unscoped", "The token names nobody to charge"),
    }
}

/// What the client learns about a token: never anything about keys, users or claims.
fn credential_row(fault: CredentialFault) -> Row {
    match fault {
        CredentialFault::NotBearer => {
            Row("invalid-token-format", "Invalid Token Format", "Authorization header must be in format: Bearer <token>")
        }
        CredentialFault::Expired => Row("token-expired", "Token Expired", "Your authentication token has expired. Please log in again."),
        CredentialFault::Revoked(RevocationKind::Version) => Row("token-version-mismatch", "Token Invalidated", "TOKEN_VERSION_MISMATCH"),
        CredentialFault::Revoked(_) => Row("token-revoked", "Token Revoked", "TOKEN_REVOKED"),
        CredentialFault::VerificationBudgetSpent => TOO_MANY_REQUESTS,
        CredentialFault::Malformed
        | CredentialFault::AlgorithmRefused
        | CredentialFault::HeaderRefused
        | CredentialFault::UnknownKey
        | CredentialFault::SignatureInvalid
        | CredentialFault::IssuerMismatch
        | CredentialFault::AudienceMismatch
        | CredentialFault::TokenTypeRefused
        | CredentialFault::ClaimMissing(_)
        | CredentialFault::NotYetValid
        | CredentialFault::LifetimeTooLong
        | CredentialFault::NoKnownRole
        | CredentialFault::TrialRefused
        | CredentialFault::TrialClaimsInvalid => Row("invalid-token", "Invalid Token", "Token validation failed"),
    }
}

/// The status of everything that could not be decided.
const UNAVAILABLE: u16 = 503;

/// Slug and check of what could not be decided.
const fn failure(fault: Fault) -> (&'static str, &'static str) {
    match fault {
        Fault::PolicyUnavailable => ("policy-unavailable", "policy"),
        Fault::BudgetUnavailable => ("service-unavailable", "budget"),
        Fault::ApprovalUnavailable => ("service-unavailable", "approval"),
        Fault::TooManyWaiting => ("service-unavailable", "queue"),
        Fault::AuditUnavailable | Fault::AuditQueueFull => ("audit-unavailable", "audit"),
        Fault::KeysUnavailable | Fault::RevocationUnknown => ("service-unavailable", "authentication"),
    }
}

fn challenge(reason: DenyReason) -> Option<&'static str> {
    match reason {
        DenyReason::CredentialMissing | DenyReason::OwnerMissing => Some(BEARER),
        DenyReason::CredentialRefused(CredentialFault::VerificationBudgetSpent) => None,
        DenyReason::CredentialRefused(_) => Some(BEARER_INVALID),
        DenyReason::PermissionMissing => Some(BEARER_INSUFFICIENT),
        DenyReason::AmbiguousPath(_)
        | DenyReason::AmbiguousHeader(_)
        | DenyReason::NoRoute
        | DenyReason::FeatureDisabled
        | DenyReason::UpgradeRefused
        | DenyReason::BodyNotObject
        | DenyReason::BodyKeyRepeated
        | DenyReason::BodyTooLarge
        | DenyReason::RuleRefused
        | DenyReason::ClientLimited(_)
        | DenyReason::RegistrationKeyRefused
        | DenyReason::TrialExpired
        | DenyReason::TrialRestricted
        | DenyReason::ApprovalHeader(_)
        | DenyReason::ApprovalRequired
        | DenyReason::ApprovalRefused
        | DenyReason::ApprovalBodyTooLarge
        | DenyReason::AuditedBodyTooLarge
        | DenyReason::MeteredBody
        | DenyReason::MeteredBodyTooLarge
        | DenyReason::OutputUnlimited
        | DenyReason::CostUnbounded(_)
        | DenyReason::ModelUnpriced
        | DenyReason::BudgetSpent(_)
        | DenyReason::BudgetUnscoped(_) => None,
    }
}

/// Envoy's response code details: `gateway_denied:` and the check that refused.
const fn details(reason: DenyReason) -> &'static str {
    use decision_core::decision::Check;
    match reason.check() {
        Check::Path => "gateway_denied:path",
        Check::Route => "gateway_denied:route",
        Check::ClientLimit => "gateway_denied:client_limit",
        Check::Authentication => "gateway_denied:authentication",
        Check::Permission => "gateway_denied:permission",
        Check::Trial => "gateway_denied:trial",
        Check::Ownership => "gateway_denied:ownership",
        Check::Routing => "gateway_denied:routing",
        Check::Rules => "gateway_denied:rules",
        Check::Approval => "gateway_denied:approval",
        Check::Budget => "gateway_denied:budget",
    }
}

/// Seconds after which a retry of a request denied for `reason` makes sense.
pub(crate) const fn retry_after(reason: DenyReason) -> Option<u64> {
    match reason {
        DenyReason::CredentialRefused(CredentialFault::VerificationBudgetSpent) => Some(1),
        DenyReason::AmbiguousPath(_)
        | DenyReason::AmbiguousHeader(_)
        | DenyReason::NoRoute
        | DenyReason::OwnerMissing
        | DenyReason::FeatureDisabled
        | DenyReason::UpgradeRefused
        | DenyReason::BodyNotObject
        | DenyReason::BodyKeyRepeated
        | DenyReason::BodyTooLarge
        | DenyReason::RuleRefused
        | DenyReason::ClientLimited(_)
        | DenyReason::CredentialMissing
        | DenyReason::CredentialRefused(_)
        | DenyReason::RegistrationKeyRefused
        | DenyReason::PermissionMissing
        | DenyReason::TrialExpired
        | DenyReason::TrialRestricted
        | DenyReason::ApprovalHeader(_)
        | DenyReason::ApprovalRequired
        | DenyReason::ApprovalRefused
        | DenyReason::ApprovalBodyTooLarge
        | DenyReason::AuditedBodyTooLarge
        | DenyReason::MeteredBody
        | DenyReason::MeteredBodyTooLarge
        | DenyReason::OutputUnlimited
        | DenyReason::CostUnbounded(_)
        | DenyReason::ModelUnpriced
        | DenyReason::BudgetSpent(_)
        | DenyReason::BudgetUnscoped(_) => None,
    }
}

impl<'p> Problem<'p> {
    /// A refusal in the words of the policy in force.
    pub(crate) fn of(exchange: &'p Exchange, refusal: &'p Refusal) -> Problem<'p> {
        let problem = match refusal {
            Refusal::Failed(fault) => Self::failed(exchange, *fault),
            Refusal::Denied(denial) | Refusal::Limited { denial, .. } => Self::denied(exchange, denial.reason),
            Refusal::Rule { denial, ruling } => Self::ruled(exchange, denial.reason, ruling),
            Refusal::Spent { denial, spent } => Self::spent(exchange, denial.reason, spent),
            Refusal::ApprovalPending { denial, approval_id, url } => Self::approval_pending(exchange, denial.reason, approval_id, url),
            Refusal::ApprovalRefused { denial, refusal } => {
                let problem = Self::denied(exchange, denial.reason);
                match operator_text(exchange, denial.reason.code()) {
                    Some(_) => problem,
                    None => Self { detail: approval_detail(*refusal).into(), ..problem },
                }
            }
        };
        Self { retry_after: refusal.retry_after(), ..problem }
    }

    fn failed(exchange: &Exchange, fault: Fault) -> Self {
        let (slug, check) = failure(fault);
        Self {
            status: UNAVAILABLE,
            slug,
            title: "Service Unavailable",
            detail: operator_text(exchange, fault.code()).unwrap_or(fault.detail()).into(),
            check,
            challenge: None,
            retry_after: None,
            location: None,
            details: "gateway_failed_closed",
            extras: Extras::default(),
        }
    }

    /// Of a custom rule: its name and its reason, where it has given them.
    fn denied(exchange: &'p Exchange, reason: DenyReason) -> Self {
        // Whether a feature exists is not told: as if there were no such route, in every word.
        let reason = if reason == DenyReason::FeatureDisabled { DenyReason::NoRoute } else { reason };
        let Row(slug, title, detail) = row(reason);
        let policy = exchange.trace.active.as_ref().map(|active| &active.policy);
        let settings = policy.map(CompiledPolicy::settings);
        let mut detail = String::from(detail);
        let mut extras = Extras::default();
        match reason {
            DenyReason::AmbiguousPath(fault) => detail = format!("{detail}: {fault}"),
            DenyReason::AmbiguousHeader(name) | DenyReason::ApprovalHeader(name) | DenyReason::CostUnbounded(name) => {
                detail = format!("{detail}: `{name}`");
            }
            DenyReason::PermissionMissing => extras.required_permission = action(exchange),
            DenyReason::TrialExpired => {
                extras.trial_expires_at = trial_end(exchange);
                extras.upgrade_url = settings.map(|settings| &*settings.upgrade_url);
            }
            DenyReason::TrialRestricted => extras.upgrade_url = settings.map(|settings| &*settings.upgrade_url),
            DenyReason::NoRoute
            | DenyReason::FeatureDisabled
            | DenyReason::ClientLimited(_)
            | DenyReason::UpgradeRefused
            | DenyReason::OwnerMissing
            | DenyReason::BodyNotObject
            | DenyReason::BodyKeyRepeated
            | DenyReason::BodyTooLarge
            | DenyReason::RuleRefused
            | DenyReason::CredentialMissing
            | DenyReason::CredentialRefused(_)
            | DenyReason::RegistrationKeyRefused
            | DenyReason::ApprovalRequired
            | DenyReason::ApprovalRefused
            | DenyReason::ApprovalBodyTooLarge
            | DenyReason::AuditedBodyTooLarge
            | DenyReason::MeteredBody
            | DenyReason::MeteredBodyTooLarge
            | DenyReason::OutputUnlimited
            | DenyReason::ModelUnpriced
            | DenyReason::BudgetSpent(_)
            | DenyReason::BudgetUnscoped(_) => {}
        }
        if let Some(text) = operator_text(exchange, reason.code()) {
            detail = text.into();
        }
        Self {
            status: reason.status(policy),
            slug,
            title,
            detail,
            check: reason.check().name(),
            challenge: challenge(reason),
            retry_after: None,
            location: None,
            details: details(reason),
            extras,
        }
    }

    /// A rule's own words, where it has some.
    fn ruled(exchange: &'p Exchange, reason: DenyReason, ruling: &'p Ruling) -> Self {
        let mut problem = Self::denied(exchange, reason);
        if !ruling.reason.is_empty() {
            problem.detail = ruling.reason.to_string();
        }
        problem.extras.rule_id = Some(&ruling.rule);
        problem
    }

    fn spent(exchange: &'p Exchange, reason: DenyReason, spent: &Spent) -> Self {
        use decision_core::budget::SpentProblem;
        let mut problem = Self::denied(exchange, reason);
        let Some(policy) = exchange.trace.active.as_ref().map(|active| &active.policy) else { return problem };
        let Some(budget) = policy.budget(spent.budget) else { return problem };
        let Spent { window, cap, settled, standings, beyond, .. } = spent;
        let (title, detail) = match budget.problem {
            SpentProblem::BudgetExceeded => ("Budget Exceeded", "Budget exceeded"),
            SpentProblem::TrialLimitExceeded => ("Trial Limit Exceeded", "Trial limit exceeded"),
            SpentProblem::RateLimitExceeded => ("Rate Limit Exceeded", "Rate limit exceeded"),
        };
        (problem.slug, problem.title) = (budget.problem.slug(), title);
        if operator_text(exchange, reason.code()).is_none() {
            let detail = if *beyond { "The request may cost more than the whole budget" } else { detail };
            problem.detail = format!("{detail}: `{}`", budget.name);
        }
        let unit = budget.unit.name();
        let resets_at = rfc3339(window.end.as_seconds());
        problem.extras.budget = Some(BudgetState { name: &budget.name, unit, limit: cap.get(), settled: settled.get(), resets_at });
        problem.extras.upgrade_url = Some(&policy.settings().upgrade_url);
        if budget.unit == Unit::MicroUsd {
            problem.extras.alert_level = Some(standing::alert_level(policy, standings));
            problem.extras.platform_budget = standing::money_budget(policy, standings, Whose::Platform);
            problem.extras.agent_budget = standing::money_budget(policy, standings, Whose::Agent);
        }
        problem
    }

    fn approval_pending(exchange: &'p Exchange, reason: DenyReason, approval_id: &'p str, url: &'p str) -> Self {
        let mut problem = Self::denied(exchange, reason);
        // A redirection says where to.
        if (300..400).contains(&problem.status) {
            problem.location = Some(url.into());
        }
        problem.extras.approval_id = Some(approval_id);
        problem.extras.approval_url = Some(url);
        problem
    }

    /// The media type of the body.
    pub(crate) fn content_type(&self, exchange: &Exchange) -> &'static [u8] {
        match exchange.headers.problem_format() {
            ProblemFormat::ProblemJson | ProblemFormat::Empty => b"application/problem+json",
            ProblemFormat::Json => b"application/json",
        }
    }

    /// The body; empty for gRPC.
    pub(crate) fn body(&self, exchange: &Exchange, correlation_id: &str, explanation: Option<&Explanation>) -> Vec<u8> {
        if exchange.headers.problem_format() == ProblemFormat::Empty {
            return Vec::new();
        }
        let active = exchange.trace.active.as_ref();
        let base = active.map_or(PROBLEM_BASE, |active| &*active.policy.settings().problem_base);
        let body = Body {
            r#type: [base, self.slug].concat(),
            title: self.title,
            status: self.status,
            detail: &self.detail,
            instance: &exchange.headers.path_lossy(),
            check: self.check,
            rule: rule(exchange),
            correlation_id,
            extras: &self.extras,
            explanation,
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

/// What the policy in force says in the place of the built-in text.
fn operator_text<'p>(exchange: &'p Exchange, reason: &str) -> Option<&'p str> {
    exchange.trace.active.as_ref()?.policy.response(reason)
}

/// The route whose rule refused; none where the answer is that there is no such route.
fn rule(exchange: &Exchange) -> Option<&str> {
    let active = exchange.trace.active.as_ref()?;
    let route = active.policy.route_by_id(exchange.trace.route?)?;
    (exchange.trace.verdict.reason != DenyReason::FeatureDisabled.code()).then_some(&*route.name)
}

fn action(exchange: &Exchange) -> Option<&str> {
    let active = exchange.trace.active.as_ref()?;
    active.policy.route_by_id(exchange.trace.route?).map(|route| &*route.action)
}

fn trial_end(exchange: &Exchange) -> Option<String> {
    match exchange.trace.principal.as_ref()?.identity.trial {
        Trial::Until(end) => Some(rfc3339(end.as_seconds())),
        Trial::No => None,
    }
}

const fn approval_detail(refusal: ApprovalRefusal) -> &'static str {
    match refusal {
        // Whose it is, and that it exists, is not told.
        ApprovalRefusal::Unknown => "The approval does not exist",
        ApprovalRefusal::OtherRequest => "The approval is for another request",
        ApprovalRefusal::Undecided => "No governor has decided yet",
        ApprovalRefusal::Rejected => "A governor refused this request",
        ApprovalRefusal::Consumed => "The approval was used already",
        ApprovalRefusal::Expired => "The approval has expired",
        ApprovalRefusal::TooManyPending => "Too many requests of this user wait for an approval",
    }
}

/// `2026-01-31T00:00:00Z`.
fn rfc3339(seconds: i64) -> String {
    let (year, month, day) = decision_core::budget::date_of_day(seconds.div_euclid(86_400));
    let second = seconds.rem_euclid(86_400);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
#[path = "../../docs/problems.rs"]
mod page;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_problems_lists_what_is_sent_and_nothing_else() {
        let denied = DenyReason::all().map(|reason| (reason.status(None), row(reason).0));
        let failed = Fault::ALL.into_iter().map(|fault| (UNAVAILABLE, failure(fault).0));
        let spent = Unit::ALL.into_iter().map(Unit::spent).map(|(problem, status)| (status, problem.slug()));
        assert_eq!(page::listed("From a gateway"), page::sent(denied.chain(failed).chain(spent)));
    }
}
