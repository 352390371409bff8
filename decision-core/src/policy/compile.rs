//! From a policy source to its hot form. Allocates freely; every name that refers to nothing is an error.

use super::limits;
use super::route::{InvalidTemplate, PathTemplate, RouteIndex};
use super::source::{BudgetSource, PolicySource, RequirementSource, RouteSource, SettingsSource};
use super::{CHARGES_MAX, CompiledPolicy, IssuerPowers, Requirement, Route, RouteId};
use crate::budget::{Budget, BudgetId, Counted, ScopePart, ScopeTemplate, SpentProblem, Unit, Units, Variable};
use crate::decision::Charge;
use crate::failure::FailureMode;
use crate::gateway::{Gateway, GatewaySet};
use crate::permission::{InvalidCatalogue, PermissionCatalogue, PermissionSet};
use crate::principal::Tier;
use core::time::Duration;
use hashbrown::HashMap;

const COLD_START_HOLD_MAX: Duration = Duration::from_secs(10);
const STALE_AFTER_MIN: Duration = Duration::from_secs(60);
const STALE_AFTER_MAX: Duration = Duration::from_secs(86_400);

/// Why a policy does not compile. `at` is the path of the field, as in `routes[agents.create].permission`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A name that must be unique stands twice.
    #[error("{at}: the name `{name}` is used twice")]
    Repeated {
        /// Where.
        at: String,
        /// The name.
        name: String,
    },
    /// A name refers to nothing.
    #[error("{at}: `{name}` does not exist{}", nearest_hint(.nearest.as_deref()))]
    Unknown {
        /// Where.
        at: String,
        /// The name.
        name: String,
        /// The most similar name that exists.
        nearest: Option<String>,
    },
    /// The permission catalogue is not one.
    #[error("permissions: the catalogue is not valid")]
    Catalogue(#[source] InvalidCatalogue),
    /// A path is not a template.
    #[error("{at}: the path `{path}` is not a template")]
    Template {
        /// Where.
        at: String,
        /// The path.
        path: String,
        /// What is wrong.
        #[source]
        source: InvalidTemplate,
    },
    /// Two routes accept the same requests.
    #[error("{at}: accepts the same requests as route `{other}`")]
    Conflict {
        /// Where.
        at: String,
        /// The other route.
        other: String,
    },
    /// A value is out of its range.
    #[error("{at}: `{value}` is not {expected}")]
    Range {
        /// Where.
        at: String,
        /// The value.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// Two fields do not go together.
    #[error("{at}: {rule}")]
    Inconsistent {
        /// Where.
        at: String,
        /// The rule that is broken.
        rule: &'static str,
    },
}

fn nearest_hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; the nearest name is `{name}`"))
}

/// Compiles a policy.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn compile(source: &PolicySource) -> Result<CompiledPolicy, CompileError> {
    let settings = source.settings.clone();
    check_settings(&settings)?;
    let catalogue = PermissionCatalogue::new(source.permissions.iter().map(String::as_str)).map_err(CompileError::Catalogue)?;
    let roles = compile_roles(source, &catalogue)?;
    let issuers = compile_issuers(source, &roles)?;
    let budgets = compile_budgets(source)?;
    let mut routes: Vec<Route> = Vec::with_capacity(source.routes.len());
    let mut indexes: [RouteIndex; 4] = Default::default();
    for route in &source.routes {
        let at = format!("routes[{}]", route.name);
        unique(&at, &route.name, routes.iter().map(|known| &*known.name))?;
        let id = u32::try_from(routes.len()).map_err(|_| range(&at, &route.name, "within 4294967296 routes"))?;
        insert(&mut indexes, route, id, &at, &routes)?;
        routes.push(compile_route(route, RouteId(id), &at, source, &catalogue, &budgets)?);
    }
    limits::check_named(&budgets, &routes)?;
    Ok(CompiledPolicy { settings, catalogue, roles, issuers, routes, budgets, indexes })
}

fn check_settings(settings: &SettingsSource) -> Result<(), CompileError> {
    if !matches!(settings.no_route_status, 403 | 404) {
        return Err(range("settings.no_route_status", &settings.no_route_status.to_string(), "403 or 404"));
    }
    if settings.cost_micros_default < 0 {
        return Err(range("settings.cost_micros_default", &settings.cost_micros_default.to_string(), "0 or more"));
    }
    if settings.cold_start_hold > COLD_START_HOLD_MAX {
        return Err(range("settings.cold_start_hold_ms", &settings.cold_start_hold.as_millis().to_string(), "10000 or less"));
    }
    if !(STALE_AFTER_MIN..=STALE_AFTER_MAX).contains(&settings.stale_after) {
        return Err(range("settings.stale_after_s", &settings.stale_after.as_secs().to_string(), "from 60 to 86400"));
    }
    Ok(())
}

fn compile_roles(source: &PolicySource, catalogue: &PermissionCatalogue) -> Result<HashMap<Box<str>, PermissionSet>, CompileError> {
    let mut roles: HashMap<Box<str>, PermissionSet> = HashMap::new();
    for role in &source.roles {
        let at = format!("roles[{}]", role.name);
        let mut set = PermissionSet::EMPTY;
        for name in &role.permissions {
            if name == "*" {
                set = catalogue.all();
            } else {
                set.insert(catalogue.find(name).ok_or_else(|| unknown(&format!("{at}.permissions"), name, catalogue.names()))?);
            }
        }
        for name in core::iter::once(&role.name).chain(&role.aliases) {
            if name.is_empty() || name.contains(',') {
                return Err(range(&format!("{at}.name"), name, "a name without commas"));
            }
            if roles.insert(name.as_str().into(), set).is_some() {
                return Err(CompileError::Repeated { at, name: name.clone() });
            }
        }
    }
    Ok(roles)
}

fn compile_issuers(
    source: &PolicySource,
    roles: &HashMap<Box<str>, PermissionSet>,
) -> Result<HashMap<Box<str>, IssuerPowers>, CompileError> {
    let mut issuers: HashMap<Box<str>, IssuerPowers> = HashMap::new();
    for issuer in &source.issuers {
        let at = format!("issuers[{}]", issuer.name);
        let gateways: GatewaySet = issuer.gateways.iter().copied().collect();
        if gateways.is_empty() {
            return Err(CompileError::Inconsistent { at: format!("{at}.gateways"), rule: "an issuer needs at least one gateway" });
        }
        if let Some(unheard) = issuer.roles.iter().find(|role| !roles.contains_key(role.as_str())) {
            return Err(unknown(&format!("{at}.roles"), unheard, roles.keys().map(|role| &**role)));
        }
        let powers = IssuerPowers { gateways, roles: issuer.roles.iter().map(|role| role.as_str().into()).collect() };
        if issuers.insert(issuer.name.as_str().into(), powers).is_some() {
            return Err(CompileError::Repeated { at, name: issuer.name.clone() });
        }
    }
    Ok(issuers)
}

fn compile_budgets(source: &PolicySource) -> Result<Vec<Budget>, CompileError> {
    let mut budgets: Vec<Budget> = Vec::with_capacity(source.budgets.len());
    for budget in &source.budgets {
        let at = format!("budgets[{}]", budget.name);
        unique(&at, &budget.name, budgets.iter().map(|known| &*known.name))?;
        let id = u16::try_from(budgets.len()).map(BudgetId).map_err(|_| range(&at, &budget.name, "within 65536 budgets"))?;
        budgets.push(compile_budget(budget, id, &at)?);
    }
    Ok(budgets)
}

fn compile_budget(budget: &BudgetSource, id: BudgetId, at: &str) -> Result<Budget, CompileError> {
    let tier =
        |name: &String| Tier::parse(name).ok_or_else(|| unknown(&format!("{at}.tier"), name, ["trial", "paid", "enterprise"].into_iter()));
    let problem = |slug: &String| {
        let slugs = ["budget-exceeded", "trial-limit-exceeded", "rate-limit-exceeded"];
        SpentProblem::parse(slug).ok_or_else(|| unknown(&format!("{at}.problem"), slug, slugs.into_iter()))
    };
    let (problem_default, status_default, failure_default) = match budget.unit {
        Unit::MicroUsd => (SpentProblem::BudgetExceeded, 402, FailureMode::Closed),
        Unit::Tasks => (SpentProblem::TrialLimitExceeded, 429, FailureMode::Closed),
        Unit::Requests => (SpentProblem::RateLimitExceeded, 429, FailureMode::Open),
    };
    let status = budget.status.unwrap_or(status_default);
    if !matches!(status, 400..=599) {
        return Err(range(&format!("{at}.status"), &status.to_string(), "a status from 400 to 599"));
    }
    if budget.cap < 0 {
        return Err(range(&format!("{at}.cap"), &budget.cap.to_string(), "0 or more"));
    }
    let counted = limits::counted(budget, at)?;
    let scope = match counted {
        Counted::ByLease => compile_scope(&budget.scope, &format!("{at}.scope"))?,
        // No user has it, so nothing could ever be leased for it.
        Counted::ByClientAddress => ScopeTemplate(vec![ScopePart::FirstOf(Vec::new())]),
    };
    Ok(Budget {
        id,
        name: budget.name.as_str().into(),
        unit: budget.unit,
        rhythm: budget.rhythm,
        counted,
        scope,
        cap: Units::new(budget.cap),
        durable: budget.durable,
        tier: budget.tier.as_ref().map(tier).transpose()?,
        gateways: if budget.gateways.is_empty() { GatewaySet::ALL } else { budget.gateways.iter().copied().collect() },
        problem: budget.problem.as_ref().map_or(Ok(problem_default), problem)?,
        status,
        failure_mode: budget.failure_mode.unwrap_or(failure_default),
    })
}

fn compile_scope(text: &str, at: &str) -> Result<ScopeTemplate, CompileError> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((literal, after)) = rest.split_once('{') {
        let (names, after) = after.split_once('}').ok_or_else(|| range(at, text, "a template with closed braces"))?;
        if !literal.is_empty() {
            parts.push(ScopePart::Literal(literal.into()));
        }
        let variables = names.split('|').map(|name| {
            let known = ["subject", "user_id", "customer_id", "agent_id"].into_iter();
            Variable::parse(name).ok_or_else(|| unknown(at, name, known))
        });
        parts.push(ScopePart::FirstOf(variables.collect::<Result<_, _>>()?));
        rest = after;
    }
    if rest.contains('}') || text.is_empty() {
        return Err(range(at, text, "a template such as `agent:{agent_id|subject}`"));
    }
    if !rest.is_empty() {
        parts.push(ScopePart::Literal(rest.into()));
    }
    Ok(ScopeTemplate(parts))
}

fn insert(indexes: &mut [RouteIndex; 4], route: &RouteSource, id: u32, at: &str, routes: &[Route]) -> Result<(), CompileError> {
    let template = PathTemplate::parse(&route.path).map_err(|source| CompileError::Template {
        at: format!("{at}.path"),
        path: route.path.clone(),
        source,
    })?;
    if route.methods.is_empty() || route.gateways.is_empty() {
        return Err(CompileError::Inconsistent { at: at.into(), rule: "a route needs at least one method and one gateway" });
    }
    let methods = route.methods.iter().copied().collect();
    for (index, gateway) in indexes.iter_mut().zip(Gateway::ALL) {
        if route.gateways.contains(&gateway) {
            index.insert(&template, methods, id).map_err(|other| CompileError::Conflict {
                at: at.into(),
                other: usize::try_from(other)
                    .ok()
                    .and_then(|other| routes.get(other))
                    .map_or_else(String::new, |route| route.name.to_string()),
            })?;
        }
    }
    Ok(())
}

fn compile_route(
    route: &RouteSource,
    id: RouteId,
    at: &str,
    source: &PolicySource,
    catalogue: &PermissionCatalogue,
    budgets: &[Budget],
) -> Result<Route, CompileError> {
    let permission = route.permission.as_ref();
    let requirement = match (route.require, permission) {
        (RequirementSource::Permission, Some(name)) => {
            Requirement::Permission(catalogue.find(name).ok_or_else(|| unknown(&format!("{at}.permission"), name, catalogue.names()))?)
        }
        (RequirementSource::Permission, None) => {
            return Err(CompileError::Inconsistent { at: at.into(), rule: "`require: permission` needs a `permission`" });
        }
        (_, Some(_)) => {
            return Err(CompileError::Inconsistent { at: at.into(), rule: "`permission` goes with `require: permission` only" });
        }
        (RequirementSource::Public, None) => Requirement::Public,
        (RequirementSource::RegistrationKey, None) => Requirement::RegistrationKey,
        (RequirementSource::Authenticated, None) => Requirement::Authenticated,
    };
    let identified = matches!(requirement, Requirement::Authenticated | Requirement::Permission(_));
    if !identified && (route.governor_approval || route.closed_to_trials || route.tasks != 0 || route.cost_micros.unwrap_or(0) != 0) {
        return Err(CompileError::Inconsistent {
            at: at.into(),
            rule: "approvals, trials and charges need a user: `require: authenticated` or `require: permission`",
        });
    }
    Ok(Route {
        id,
        name: route.name.as_str().into(),
        path: route.path.as_str().into(),
        action: permission.map_or("", String::as_str).into(),
        requirement,
        governor_approval: route.governor_approval,
        closed_to_trials: route.closed_to_trials,
        credential: route.credential,
        limit: route.limit.as_ref().map(|name| limits::of_route(name, at, budgets)).transpose()?,
        charges: if identified { compile_charges(route, at, source, budgets)? } else { Box::default() },
    })
}

/// Rates count every request of a user; money and tasks only where the route has a cost.
fn compile_charges(route: &RouteSource, at: &str, source: &PolicySource, budgets: &[Budget]) -> Result<Box<[Charge]>, CompileError> {
    let cost = route.cost_micros.unwrap_or(source.settings.cost_micros_default);
    for (field, value) in [("cost_micros", cost), ("tasks", route.tasks)] {
        if value < 0 {
            return Err(range(&format!("{at}.{field}"), &value.to_string(), "0 or more"));
        }
    }
    let gateways: Vec<Gateway> = route.gateways.clone();
    let charges: Vec<Charge> = budgets
        .iter()
        .filter(|budget| budget.counted == Counted::ByLease && gateways.iter().any(|gateway| budget.gateways.contains(*gateway)))
        .filter_map(|budget| {
            let amount = match budget.unit {
                Unit::MicroUsd => cost,
                Unit::Tasks => route.tasks,
                Unit::Requests => 1,
            };
            (amount > 0).then_some(Charge { budget: budget.id, amount: Units::new(amount) })
        })
        .collect();
    for tier in [Tier::Trial, Tier::Paid, Tier::Enterprise] {
        let matching = charges.iter().filter(|charge| budgets.get(charge.budget.index()).is_some_and(|budget| budget.applies_to(tier)));
        if matching.count() > CHARGES_MAX {
            return Err(CompileError::Inconsistent { at: at.into(), rule: "a request may be charged to at most 8 budgets" });
        }
    }
    Ok(charges.into())
}

fn unique<'n>(at: &str, name: &str, mut known: impl Iterator<Item = &'n str>) -> Result<(), CompileError> {
    if known.any(|other| other == name) { Err(CompileError::Repeated { at: at.into(), name: name.into() }) } else { Ok(()) }
}

pub(super) fn range(at: &str, value: &str, expected: &'static str) -> CompileError {
    CompileError::Range { at: at.into(), value: value.into(), expected }
}

pub(super) fn unknown<'n>(at: &str, name: &str, known: impl Iterator<Item = &'n str>) -> CompileError {
    let nearest = known.map(|known| (distance(name, known), known)).min().filter(|(distance, _)| *distance <= name.len().div_ceil(2));
    CompileError::Unknown { at: at.into(), name: name.into(), nearest: nearest.map(|(_, known)| known.into()) }
}

/// Levenshtein's distance, in bytes.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, a) in left.bytes().enumerate() {
        let mut diagonal = index;
        let mut last = index + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(right.bytes()) {
            let replaced = diagonal + usize::from(a != b);
            diagonal = *cell;
            last = replaced.min(diagonal + 1).min(last + 1);
            *cell = last;
        }
        if let Some(first) = row.first_mut() {
            *first = index + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}
