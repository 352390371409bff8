//! From the wire's words into the core's. One arm per word, so that a new one breaks the build.

use crate::policy::{self as wire, PolicyDocument};
use crate::{audit, sync};
use decision_core::audit::{AuditLevel, EmailRecording, Identities, WhenFull};
use decision_core::budget::{AtCritical, Rhythm, Thresholds, Unit};
use decision_core::decision::{Check, Target};
use decision_core::failure::FailureMode;
use decision_core::flag::{FlagState, Switch};
use decision_core::gateway::{Gateway, Method};
use decision_core::obligations::Aspect;
use decision_core::policy::source::{
    AuditSource, BudgetSource, CostSource, CredentialForwarding, ExchangeKind, FailureModes, FlagSource, IssuerSource, MeteringSource,
    OwnershipPlace, OwnershipSource, PolicySource, PriceSource, RateLimitHeaders, RequirementSource, RoleSource, RouteSource,
    SettingsSource, Unbounded, Utilization,
};
use metering::Api;
use std::time::Duration;

impl PolicyDocument {
    /// The document as the core compiles it.
    #[must_use]
    pub fn to_source(&self) -> PolicySource {
        let settings = self.settings.clone().unwrap_or_default();
        let approvals = self.approvals.clone().unwrap_or_default();
        let failure_modes = self.failure_modes.unwrap_or_default();
        let reporting = self.reporting.clone().unwrap_or_default();
        PolicySource {
            settings: SettingsSource {
                problem_base: settings.problem_base,
                upgrade_url: settings.upgrade_url,
                no_route_status: settings.no_route_status,
                cost_micros_default: settings.cost_micros_default,
                trial_target: target(self.routing.unwrap_or_default().trials),
                approval_redirect: approvals.answer == wire::ApprovalAnswerStyle::Redirect,
                governor_role: approvals.governor_role,
                approval_lifetime: Duration::from_secs(approvals.lifetime_s.into()),
                approvers: approvals.approvers,
                cold_start_hold: Duration::from_millis(settings.cold_start_hold_ms.into()),
                stale_after: Duration::from_secs(settings.stale_after_s.into()),
                failure_modes: FailureModes {
                    revocation: failure_mode(failure_modes.revocation),
                    money: failure_mode(failure_modes.money),
                    tasks: failure_mode(failure_modes.tasks),
                    requests: failure_mode(failure_modes.requests),
                },
                utilization: match reporting.utilization {
                    wire::Utilization::FromThreshold => Utilization::FromThreshold,
                    wire::Utilization::Always => Utilization::Always,
                },
                rate_limits: match reporting.rate_limits {
                    wire::RateLimitHeaders::Off => RateLimitHeaders::Off,
                    wire::RateLimitHeaders::Standard => RateLimitHeaders::Standard,
                    wire::RateLimitHeaders::Legacy => RateLimitHeaders::Legacy,
                    wire::RateLimitHeaders::Both => RateLimitHeaders::Both,
                },
            },
            responses: self.responses.iter().map(|text| (text.reason.clone(), text.detail.clone())).collect(),
            flags: self.flags.iter().map(flag_source).collect(),
            rules: self.rules.as_ref().map(|rules| gateways(&rules.gateways)),
            issuers: self.issuers.iter().map(issuer_source).collect(),
            permissions: self.permissions.clone(),
            roles: self.roles.iter().map(role_source).collect(),
            routes: self.routes.iter().map(route_source).collect(),
            budgets: self.budgets.iter().map(budget_source).collect(),
            prices: self.prices.iter().map(price_source).collect(),
            audit: self.audit.as_ref().map(audit_source).unwrap_or_default(),
            explained_with: self.explanations.as_ref().and_then(|explanations| explanations.refusals.clone()),
        }
    }
}

fn target(target: wire::Target) -> Target {
    match target {
        wire::Target::Production => Target::Production,
        wire::Target::Sandbox => Target::Sandbox,
    }
}

impl From<Target> for wire::Target {
    fn from(target: Target) -> Self {
        match target {
            Target::Production => Self::Production,
            Target::Sandbox => Self::Sandbox,
        }
    }
}

fn failure_mode(mode: wire::FailureMode) -> FailureMode {
    match mode {
        wire::FailureMode::Open => FailureMode::Open,
        wire::FailureMode::Closed => FailureMode::Closed,
    }
}

fn flag_source(flag: &wire::Flag) -> FlagSource {
    let state = |state| match state {
        wire::FlagState::On => FlagState::On,
        wire::FlagState::Off => FlagState::Off,
    };
    FlagSource {
        name: flag.name.clone(),
        default: state(flag.default),
        overrides: flag
            .overrides
            .iter()
            .flat_map(|known| known.customers.iter().map(move |customer| (customer.clone(), state(known.state))))
            .collect(),
        rollout_percent: flag.rollout_percent,
        switches: flag.switches.iter().map(|switch| (*switch).into()).collect(),
    }
}

impl From<wire::Switch> for Switch {
    fn from(switch: wire::Switch) -> Self {
        match switch {
            wire::Switch::Permission => Self::Permission,
            wire::Switch::Trial => Self::Trial,
            wire::Switch::Approval => Self::Approval,
            wire::Switch::Routing => Self::Routing,
            wire::Switch::Rules => Self::Rules,
            wire::Switch::Budget => Self::Budget,
        }
    }
}

fn audit_source(audit: &wire::Audit) -> AuditSource {
    AuditSource {
        request_headers: audit.request_headers.clone(),
        response_headers: audit.response_headers.clone(),
        query_parameters: audit.query_parameters.clone(),
        identities: match audit.identities {
            wire::Identities::Plain => Identities::Plain,
            wire::Identities::Hashed => Identities::Hashed,
        },
        email: match audit.email {
            wire::EmailRecording::Omitted => EmailRecording::Omitted,
            wire::EmailRecording::Recorded => EmailRecording::Recorded,
        },
        hash_key: audit.hash_key.clone(),
        when_full: match audit.when_full {
            wire::WhenFull::DropOldest => WhenFull::DropOldest,
            wire::WhenFull::Refuse => WhenFull::Refuse,
        },
    }
}

fn issuer_source(issuer: &wire::Issuer) -> IssuerSource {
    IssuerSource { name: issuer.name.clone(), gateways: gateways(&issuer.gateways), roles: issuer.roles.clone() }
}

pub(crate) fn role_source(role: &wire::Role) -> RoleSource {
    RoleSource { name: role.name.clone(), aliases: role.aliases.clone(), permissions: role.permissions.clone() }
}

pub(crate) fn route_source(route: &wire::Route) -> RouteSource {
    RouteSource {
        name: route.name.clone(),
        gateways: gateways(&route.gateways),
        methods: route.methods.iter().map(|method| (*method).into()).collect(),
        path: route.path.clone(),
        require: match route.require {
            wire::Requirement::Public => RequirementSource::Public,
            wire::Requirement::RegistrationKey => RequirementSource::RegistrationKey,
            wire::Requirement::Authenticated => RequirementSource::Authenticated,
            wire::Requirement::Permission => RequirementSource::Permission,
        },
        permission: route.permission.clone(),
        cost_micros: route.cost_micros,
        tasks: route.tasks,
        limit: route.limit.clone(),
        governor_approval: route.approval == wire::Approval::Governor,
        closed_to_trials: route.trial == wire::TrialAccess::Deny,
        credential: route.credential.into(),
        flag: route.flag.clone(),
        ownership: route
            .ownership
            .as_ref()
            .map(|ownership| OwnershipSource { place: ownership.place.into(), name: ownership.name.clone() }),
        rewrite: route.rewrite.clone(),
        exchange: match route.exchange {
            wire::ExchangeKind::Plain => ExchangeKind::Plain,
            wire::ExchangeKind::Stream => ExchangeKind::Stream,
            wire::ExchangeKind::Websocket => ExchangeKind::Websocket,
        },
        metering: route.metering.as_ref().map(metering_source),
        audit: match route.audit {
            wire::AuditLevel::Required => AuditLevel::Required,
            wire::AuditLevel::Buffered => AuditLevel::Buffered,
            wire::AuditLevel::Sampled(of) => AuditLevel::Sampled(of),
        },
    }
}

fn metering_source(metering: &wire::Metering) -> MeteringSource {
    MeteringSource {
        by: match metering.by {
            wire::CostSource::Header => CostSource::Header,
            wire::CostSource::Usage => CostSource::Usage,
        },
        header: metering.header.clone(),
        api: metering.api.map(|api| match api {
            wire::Api::OpenaiChat => Api::ChatCompletions,
            wire::Api::OpenaiResponses => Api::Responses,
            wire::Api::OpenaiEmbeddings => Api::Embeddings,
            wire::Api::AnthropicMessages => Api::Messages,
        }),
        output_tokens: metering.output_tokens,
        unbounded: match metering.unbounded {
            wire::Unbounded::Refuse => Unbounded::Refuse,
            wire::Unbounded::Allow => Unbounded::Allow,
        },
    }
}

fn price_source(price: &wire::Price) -> PriceSource {
    let wire::Price { model, input, cache_read, cache_write, output } = price.clone();
    PriceSource { model, input, cache_read, cache_write, output }
}

fn budget_source(budget: &wire::Budget) -> BudgetSource {
    BudgetSource {
        name: budget.name.clone(),
        unit: match budget.unit {
            wire::Unit::MicroUsd => Unit::MicroUsd,
            wire::Unit::Tasks => Unit::Tasks,
            wire::Unit::Requests => Unit::Requests,
            wire::Unit::Tokens => Unit::Tokens,
        },
        rhythm: match budget.window {
            wire::Window::Minute => Rhythm::Minute,
            wire::Window::Hour => Rhythm::Hour,
            wire::Window::Day => Rhythm::Day,
            wire::Window::Month => Rhythm::Month,
        },
        scope: budget.scope.clone(),
        cap: budget.cap,
        durable: budget.durable,
        tier: budget.tier.clone(),
        gateways: gateways(&budget.gateways),
        problem: budget.problem.clone(),
        status: budget.status,
        failure_mode: budget.on_unavailable.map(failure_mode),
        thresholds: budget.thresholds.map(|wire::Thresholds { warning, high, critical }| Thresholds { warning, high, critical }),
        at_critical: match budget.at_critical {
            wire::AtCritical::Tell => AtCritical::Tell,
            wire::AtCritical::PauseAgent => AtCritical::PauseAgent,
        },
    }
}

fn gateways(gateways: &[wire::Gateway]) -> Vec<Gateway> {
    gateways.iter().map(|gateway| (*gateway).into()).collect()
}

impl From<wire::Gateway> for Gateway {
    fn from(gateway: wire::Gateway) -> Self {
        match gateway {
            wire::Gateway::Cp => Self::Cp,
            wire::Gateway::Pp => Self::Pp,
            wire::Gateway::Plant => Self::Plant,
            wire::Gateway::Admin => Self::Admin,
        }
    }
}

impl From<Gateway> for wire::Gateway {
    fn from(gateway: Gateway) -> Self {
        match gateway {
            Gateway::Cp => Self::Cp,
            Gateway::Pp => Self::Pp,
            Gateway::Plant => Self::Plant,
            Gateway::Admin => Self::Admin,
        }
    }
}

impl From<wire::CredentialForwarding> for CredentialForwarding {
    fn from(credential: wire::CredentialForwarding) -> Self {
        match credential {
            wire::CredentialForwarding::Drop => Self::Drop,
            wire::CredentialForwarding::OriginalHeader => Self::OriginalHeader,
            wire::CredentialForwarding::Forward => Self::Forward,
        }
    }
}

impl From<wire::OwnershipPlace> for OwnershipPlace {
    fn from(place: wire::OwnershipPlace) -> Self {
        match place {
            wire::OwnershipPlace::Query => Self::Query,
            wire::OwnershipPlace::Path => Self::Path,
            wire::OwnershipPlace::Body => Self::Body,
        }
    }
}

impl From<OwnershipPlace> for wire::OwnershipPlace {
    fn from(place: OwnershipPlace) -> Self {
        match place {
            OwnershipPlace::Query => Self::Query,
            OwnershipPlace::Path => Self::Path,
            OwnershipPlace::Body => Self::Body,
        }
    }
}

impl From<wire::Method> for Method {
    fn from(method: wire::Method) -> Self {
        match method {
            wire::Method::Get => Self::Get,
            wire::Method::Head => Self::Head,
            wire::Method::Post => Self::Post,
            wire::Method::Put => Self::Put,
            wire::Method::Patch => Self::Patch,
            wire::Method::Delete => Self::Delete,
            wire::Method::Options => Self::Options,
        }
    }
}

impl From<Aspect> for sync::Aspect {
    fn from(aspect: Aspect) -> Self {
        match aspect {
            Aspect::Check(check) => Self::Check(check.into()),
            Aspect::Credential => Self::Credential,
            Aspect::Rewrite => Self::Rewrite,
            Aspect::Exchange => Self::Exchange,
        }
    }
}

impl From<Check> for audit::Check {
    fn from(check: Check) -> Self {
        match check {
            Check::Path => Self::Path,
            Check::Route => Self::Route,
            Check::ClientLimit => Self::ClientLimit,
            Check::Authentication => Self::Authentication,
            Check::Permission => Self::Permission,
            Check::Trial => Self::Trial,
            Check::Ownership => Self::Ownership,
            Check::Approval => Self::Approval,
            Check::Routing => Self::Routing,
            Check::Rules => Self::Rules,
            Check::Budget => Self::Budget,
        }
    }
}
