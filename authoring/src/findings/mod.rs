//! What is no error in a policy and looks like a mistake: rules that nobody meets, names that nothing uses. A name that refers to
//! nothing is an error and never gets here.

use crate::{Files, PolicyFault};
use decision_core::decision::DenyReason;
use decision_core::flag::Switch;
use decision_core::gateway::Gateway;
use decision_core::policy::CompiledPolicy;
use std::collections::{BTreeMap, BTreeSet};
use wire::policy::{self, Approval, Flag, FlagState, Issuer, PolicyDocument, Requirement, Role, Route, TrialAccess, TrialTokens};

/// The most findings that are listed; places are searched for in every file.
pub const FINDINGS_MAX: usize = 200;

/// What looks like a mistake in a policy that compiles, with its places.
#[must_use]
pub fn findings(document: &PolicyDocument, compiled: &CompiledPolicy, files: &Files) -> Vec<PolicyFault> {
    let powers = Powers::of(document);
    let mut messages = Vec::new();
    unreachable_routes(document, &powers, &mut messages);
    idle_budgets(document, compiled, &powers, &mut messages);
    idle_permissions(document, &mut messages);
    idle_roles(document, &powers, &mut messages);
    idle_flags(document, &mut messages);
    idle_responses(document, &mut messages);
    let more = messages.len().saturating_sub(FINDINGS_MAX);
    let mut findings: Vec<PolicyFault> =
        messages.into_iter().take(FINDINGS_MAX).map(|message| PolicyFault::located(message, files)).collect();
    if more > 0 {
        findings.push(PolicyFault { message: format!("and {more} more"), ..PolicyFault::default() });
    }
    findings
}

/// What tokens can do on each gateway.
struct Powers<'a>(BTreeMap<Gateway, OnGateway<'a>>);

#[derive(Default)]
struct OnGateway<'a> {
    /// Whether any issuer's tokens are good for it.
    open: bool,
    /// Roles that tokens for it may carry.
    roles: BTreeSet<&'a str>,
    /// What these roles permit.
    permissions: BTreeSet<&'a str>,
}

impl<'a> Powers<'a> {
    fn of(document: &'a PolicyDocument) -> Self {
        let mut powers: BTreeMap<Gateway, OnGateway<'a>> = BTreeMap::new();
        for issuer in &document.issuers {
            for gateway in &issuer.gateways {
                let on = powers.entry((*gateway).into()).or_default();
                on.open = true;
                on.roles.extend(document.roles.iter().filter(|role| may_assign(issuer, role)).map(|role| role.name.as_str()));
            }
        }
        let granted: BTreeMap<&str, &Role> = document.roles.iter().map(|role| (role.name.as_str(), role)).collect();
        for on in powers.values_mut() {
            for permission in on.roles.iter().filter_map(|role| granted.get(role)).flat_map(|role| &role.permissions) {
                if permission == "*" {
                    on.permissions.extend(document.permissions.iter().map(String::as_str));
                } else {
                    on.permissions.insert(permission);
                }
            }
        }
        Self(powers)
    }

    fn on(&self, gateway: policy::Gateway) -> Option<&OnGateway<'a>> {
        self.0.get(&gateway.into())
    }

    /// Whether anybody may use a route on a gateway with a token.
    fn open(&self, route: &Route, gateway: policy::Gateway) -> bool {
        let Some(on) = self.on(gateway).filter(|on| on.open) else { return false };
        let needed = route.permission.as_deref().filter(|_| Gateway::from(gateway).checks_permissions());
        match route.require {
            Requirement::Public | Requirement::RegistrationKey => false,
            Requirement::Authenticated => true,
            Requirement::Permission => needed.is_none_or(|permission| on.permissions.contains(permission)),
        }
    }
}

fn may_assign(issuer: &Issuer, role: &Role) -> bool {
    let assigns = |name: &String| issuer.roles.iter().any(|known| known == name);
    issuer.roles.is_empty() || assigns(&role.name) || role.aliases.iter().any(assigns)
}

fn unreachable_routes(document: &PolicyDocument, powers: &Powers<'_>, messages: &mut Vec<String>) {
    for route in &document.routes {
        let name = &route.name;
        match route.require {
            Requirement::Public => {}
            Requirement::RegistrationKey => {
                if document.registration_keys.is_empty() {
                    messages.push(format!("routes[{name}].require: nobody can use the route: the policy has no registration key"));
                }
            }
            Requirement::Authenticated | Requirement::Permission => {
                if !route.gateways.iter().any(|gateway| powers.open(route, *gateway)) {
                    messages.push(unreachable(route, powers));
                }
            }
        }
        let flag = route.flag.as_deref().and_then(|flag| document.flags.iter().find(|known| known.name == flag));
        if flag.is_some_and(never_on) {
            messages.push(format!("routes[{name}].flag: nobody can use the route: its flag is never on"));
        }
    }
}

fn unreachable(route: &Route, powers: &Powers<'_>) -> String {
    let name = &route.name;
    let open = route.gateways.iter().any(|gateway| powers.on(*gateway).is_some_and(|on| on.open));
    match route.permission.as_deref().filter(|_| open) {
        None => format!("routes[{name}].gateways: nobody can use the route: no issuer's tokens are good for its gateways"),
        Some(permission) => format!(
            "routes[{name}].permission: nobody can use the route: no role that an issuer may assign on its gateways has `{permission}`"
        ),
    }
}

/// Budgets that no request is charged to.
fn idle_budgets(document: &PolicyDocument, compiled: &CompiledPolicy, powers: &Powers<'_>, messages: &mut Vec<String>) {
    let mut used: BTreeSet<&str> = document.routes.iter().filter_map(|route| route.limit.as_deref()).collect();
    let written: BTreeMap<&str, &Route> = document.routes.iter().map(|route| (route.name.as_str(), route)).collect();
    for route in compiled.routes() {
        let Some(source) = written.get(&*route.name) else { continue };
        for budget in route.charges.iter().filter_map(|charge| compiled.budget(charge.budget)) {
            let applies = |gateway: &&policy::Gateway| budget.gateways.contains((**gateway).into()) && powers.open(source, **gateway);
            if !used.contains(&*budget.name) && source.gateways.iter().any(|gateway| applies(&gateway)) {
                used.insert(&budget.name);
            }
        }
    }
    for budget in document.budgets.iter().filter(|budget| !used.contains(budget.name.as_str())) {
        messages.push(format!("budgets[{}]: it matches no route: no request is ever charged to it", budget.name));
    }
}

fn idle_permissions(document: &PolicyDocument, messages: &mut Vec<String>) {
    let granted: BTreeSet<&str> = document.roles.iter().flat_map(|role| &role.permissions).map(String::as_str).collect();
    let asked: BTreeSet<&str> = document.routes.iter().filter_map(|route| route.permission.as_deref()).collect();
    for permission in document.permissions.iter().map(String::as_str) {
        match (granted.contains(permission) || granted.contains("*"), asked.contains(permission)) {
            (true, true) => {}
            (false, true) => messages.push(format!("permissions[{permission}]: no role has it")),
            (true, false) => messages.push(format!("permissions[{permission}]: no route asks for it")),
            (false, false) => messages.push(format!("permissions[{permission}]: no role has it and no route asks for it")),
        }
    }
}

fn idle_roles(document: &PolicyDocument, powers: &Powers<'_>, messages: &mut Vec<String>) {
    let guarded: BTreeSet<Gateway> = document
        .routes
        .iter()
        .filter(|route| matches!(route.require, Requirement::Authenticated | Requirement::Permission))
        .flat_map(|route| route.gateways.iter().map(|gateway| Gateway::from(*gateway)))
        .collect();
    for role in &document.roles {
        let useful = powers.0.iter().any(|(gateway, on)| guarded.contains(gateway) && on.roles.contains(role.name.as_str()));
        if !useful {
            messages.push(format!("roles[{}]: no issuer may assign it on a gateway that has a route for it", role.name));
        }
    }
}

fn idle_flags(document: &PolicyDocument, messages: &mut Vec<String>) {
    // One that nothing names and that switches nothing does not compile. One that is on for everybody is there to be switched off.
    for flag in &document.flags {
        let name = &flag.name;
        if never_on(flag) && !flag.switches.is_empty() {
            let checks: Vec<&str> = flag.switches.iter().map(|switch| Switch::from(*switch).check().name()).collect();
            messages.push(format!("flags[{name}]: it is off for everybody, so nobody is checked: {}", checks.join(", ")));
        }
        if flag.overrides.iter().any(|other| other.customers.is_empty()) {
            messages.push(format!("flags[{name}].overrides: one names no customer"));
        }
    }
}

fn never_on(flag: &Flag) -> bool {
    settled(flag) == Some(FlagState::Off)
}

/// The state that a flag has for everybody. Callers without a token have its default, whatever its roll-out.
fn settled(flag: &Flag) -> Option<FlagState> {
    let rollout = match flag.rollout_percent {
        None => flag.default,
        Some(0) => FlagState::Off,
        Some(100) => FlagState::On,
        Some(_) => return None,
    };
    let same = rollout == flag.default && flag.overrides.iter().all(|other| other.state == flag.default || other.customers.is_empty());
    same.then_some(flag.default)
}

/// Texts for refusals that this policy never gives.
fn idle_responses(document: &PolicyDocument, messages: &mut Vec<String>) {
    let trials = document.issuers.iter().any(|issuer| issuer.trials == TrialTokens::Allow);
    let limits = document.routes.iter().any(|route| route.limit.is_some());
    let any = |test: fn(&Route) -> bool| document.routes.iter().any(test);
    let occurs = [
        (DenyReason::RegistrationKeyRefused.code(), any(|route| route.require == Requirement::RegistrationKey)),
        (DenyReason::PermissionMissing.code(), any(|route| route.require == Requirement::Permission)),
        (DenyReason::TrialExpired.code(), trials),
        (DenyReason::TrialRestricted.code(), trials && any(|route| route.trial == TrialAccess::Deny)),
        (DenyReason::OwnerMissing.code(), any(|route| route.ownership.is_some())),
        (DenyReason::BodyNotObject.code(), any(owned_in_body)),
        (DenyReason::BodyKeyRepeated.code(), any(owned_in_body)),
        (DenyReason::BodyTooLarge.code(), any(owned_in_body)),
        (DenyReason::ApprovalHeader("").code(), any(|route| route.approval == Approval::Governor)),
        (DenyReason::ApprovalRequired.code(), any(|route| route.approval == Approval::Governor)),
        (DenyReason::ApprovalRefused.code(), any(|route| route.approval == Approval::Governor)),
        (DenyReason::ApprovalBodyTooLarge.code(), any(|route| route.approval == Approval::Governor)),
        (DenyReason::AuditedBodyTooLarge.code(), any(|route| route.audit == policy::AuditLevel::Required)),
        (DenyReason::FeatureDisabled.code(), any(|route| route.flag.is_some())),
        (DenyReason::RuleRefused.code(), document.rules.is_some()),
        (DenyReason::MeteredBody.code(), any(priced_by_tokens)),
        (DenyReason::MeteredBodyTooLarge.code(), any(priced_by_tokens)),
        (DenyReason::OutputUnlimited.code(), any(priced_by_tokens)),
        (DenyReason::CostUnbounded("").code(), any(priced_by_tokens)),
        (DenyReason::ModelUnpriced.code(), any(priced_by_tokens)),
        ("client_limited", limits),
        ("budget_spent", !document.budgets.is_empty()),
        ("budget_unscoped", !document.budgets.is_empty()),
    ];
    for response in &document.responses {
        if occurs.iter().any(|(reason, occurs)| *reason == response.reason && !occurs) {
            messages.push(format!("responses[{}]: the refusal does not occur under this policy", response.reason));
        }
    }
}

fn priced_by_tokens(route: &Route) -> bool {
    route.metering.as_ref().is_some_and(|metering| metering.by == policy::CostSource::Usage)
}

fn owned_in_body(route: &Route) -> bool {
    route.ownership.as_ref().is_some_and(|ownership| ownership.place == policy::OwnershipPlace::Body)
}

#[cfg(test)]
mod tests;
