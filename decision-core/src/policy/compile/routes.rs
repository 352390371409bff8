//! Routes: requirement, charges, ownership.

use super::error::{CompileError, range, unknown};
use super::metering::compile_metering;
use super::{Compiler, audit, limits};
use crate::budget::{Budget, CHARGE_MAX, Counted, Unit, Units};
use crate::decision::Charge;
use crate::flag::FlagId;
use crate::gateway::Gateway;
use crate::path::CanonicalPath;
use crate::policy::route::PathTemplate;
use crate::policy::source::{CostSource, ExchangeKind, OwnershipPlace, OwnershipSource, RequirementSource, RouteSource};
use crate::policy::{CHARGES_MAX, Ownership, Requirement, Route, RouteId};
use crate::principal::Tier;
use core::hash::BuildHasher;
use hashbrown::DefaultHashBuilder;
use std::sync::Arc;

const OWNER_NAME_BYTES_MAX: usize = 64;

/// Compiles a route and puts it into the indexes of its gateways.
pub(super) fn compile_route(compiler: &mut Compiler, source: &RouteSource) -> Result<(), CompileError> {
    let at = format!("routes[{}]", source.name);
    let id = u32::try_from(compiler.routes.len()).map_err(|_| range(&at, &source.name, "within 4294967296 routes"))?;
    name(compiler, source, id, &at)?;
    insert(compiler, source, id, &at)?;
    let route = compiled(compiler, source, RouteId(id), &at)?;
    compiler.named.governor |= route.governor_approval;
    if let Some(flag) = route.flag {
        compiler.named.flags.insert(flag);
    }
    if let Some(named) = route.limit.and_then(|budget| compiler.named.limits.get_mut(budget.index())) {
        *named = true;
    }
    compiler.routes.push(route);
    Ok(())
}

/// Takes the name, for the route of that index.
fn name(compiler: &mut Compiler, source: &RouteSource, id: u32, at: &str) -> Result<(), CompileError> {
    let (routes, hasher) = (&compiler.routes, &compiler.hasher);
    let hash = hasher.hash_one(source.name.as_str());
    let is_it = |route: &u32| at_index(routes, *route).is_some_and(|route| *route.name == *source.name);
    if compiler.names.find(hash, is_it).is_some() {
        return Err(CompileError::Repeated { at: at.into(), name: source.name.clone() });
    }
    compiler.names.insert_unique(hash, id, |route| hash_of(hasher, routes, *route));
    Ok(())
}

pub(super) fn hash_of(hasher: &DefaultHashBuilder, routes: &[Route], route: u32) -> u64 {
    at_index(routes, route).map_or(0, |route| hasher.hash_one(&*route.name))
}

fn at_index(routes: &[Route], route: u32) -> Option<&Route> {
    routes.get(usize::try_from(route).ok()?)
}

fn insert(compiler: &mut Compiler, route: &RouteSource, id: u32, at: &str) -> Result<(), CompileError> {
    let template = PathTemplate::parse(&route.path).map_err(|source| CompileError::Template {
        at: format!("{at}.path"),
        path: route.path.clone(),
        source,
    })?;
    if route.methods.is_empty() || route.gateways.is_empty() {
        return Err(inconsistent(at, "a route needs at least one method and one gateway"));
    }
    let (gateways, methods) = (route.gateways.iter().copied().collect(), route.methods.iter().copied().collect());
    compiler.index.insert(&template, gateways, methods, id).map_err(|other| CompileError::Conflict {
        at: at.into(),
        other: at_index(&compiler.routes, other).map_or_else(String::new, |route| route.name.to_string()),
    })
}

fn compiled(compiler: &mut Compiler, route: &RouteSource, id: RouteId, at: &str) -> Result<Route, CompileError> {
    let requirement = requirement(compiler, route, at)?;
    let identified = matches!(requirement, Requirement::Authenticated | Requirement::Permission(_));
    if !identified && (route.governor_approval || route.closed_to_trials || route.tasks != 0 || route.cost_micros.unwrap_or(0) != 0) {
        return Err(inconsistent(at, "approvals, trials and charges need a user: `require: authenticated` or `require: permission`"));
    }
    if !identified && route.metering.is_some() {
        return Err(inconsistent(at, "metering needs a user to charge: `require: authenticated` or `require: permission`"));
    }
    if !identified && route.ownership.is_some() {
        return Err(inconsistent(at, "ownership needs a user: `require: authenticated` or `require: permission`"));
    }
    if route.exchange == ExchangeKind::Websocket && route.methods.iter().any(|method| *method != crate::gateway::Method::Get) {
        return Err(inconsistent(at, "`exchange: websocket` goes with the method GET only"));
    }
    let owned_in_body = route.ownership.as_ref().is_some_and(|ownership| ownership.place == OwnershipPlace::Body);
    if route.exchange == ExchangeKind::Websocket && owned_in_body {
        return Err(inconsistent(at, "`exchange: websocket` has no body for ownership to be forced into"));
    }
    if route.governor_approval && route.gateways.contains(&Gateway::Admin) {
        return Err(inconsistent(at, "the control plane's own API asks for no approvals: a route on ADMIN has no `approval`"));
    }
    if route.flag.is_some() && route.gateways.contains(&Gateway::Admin) {
        return Err(inconsistent(at, "a flag must not switch the control plane's own API: a route on ADMIN has no `flag`"));
    }
    let flag = route.flag.as_ref().map(|name| flag(compiler, name, at)).transpose()?;
    let charges = if identified { charges(compiler, route, at)? } else { Arc::default() };
    let costs = identified && (cost_of(compiler, route) != 0 || route.tasks != 0);
    let charged = costs || !charges.is_empty() || route.metering.is_some();
    Ok(Route {
        id,
        name: route.name.as_str().into(),
        path: route.path.as_str().into(),
        action: compiler.action(match requirement {
            Requirement::Permission(permission) => Some(permission),
            Requirement::Public | Requirement::RegistrationKey | Requirement::Authenticated => None,
        }),
        requirement,
        governor_approval: route.governor_approval,
        closed_to_trials: route.closed_to_trials,
        credential: route.credential,
        limit: route.limit.as_ref().map(|name| limits::of_route(name, at, &compiler.budgets)).transpose()?,
        metering: compile_metering(route, cost_of(compiler, route), &compiler.prices, at)?,
        charges,
        audit: audit::level(route, requirement, charged, at)?,
        flag,
        ownership: route.ownership.as_ref().map(|ownership| owner(ownership, route, at)).transpose()?,
        rewrite: route.rewrite.as_ref().map(|path| rewrite(path, route, at)).transpose()?,
        exchange: route.exchange,
    })
}

fn requirement(compiler: &Compiler, route: &RouteSource, at: &str) -> Result<Requirement, CompileError> {
    let catalogue = &compiler.catalogue;
    match (route.require, route.permission.as_ref()) {
        (RequirementSource::Permission, Some(name)) => {
            let found = catalogue.find(name).ok_or_else(|| unknown(&format!("{at}.permission"), name, catalogue.names()))?;
            Ok(Requirement::Permission(found))
        }
        (RequirementSource::Permission, None) => Err(inconsistent(at, "`require: permission` needs a `permission`")),
        (RequirementSource::Public | RequirementSource::RegistrationKey | RequirementSource::Authenticated, Some(_)) => {
            Err(inconsistent(at, "`permission` goes with `require: permission` only"))
        }
        (RequirementSource::Public, None) => Ok(Requirement::Public),
        (RequirementSource::RegistrationKey, None) => Ok(Requirement::RegistrationKey),
        (RequirementSource::Authenticated, None) => Ok(Requirement::Authenticated),
    }
}

fn flag(compiler: &Compiler, name: &str, at: &str) -> Result<FlagId, CompileError> {
    let found = compiler.flags.iter().find(|flag| *flag.name == *name).map(|flag| flag.id);
    found.ok_or_else(|| unknown(&format!("{at}.flag"), name, compiler.flags.iter().map(|flag| &*flag.name)))
}

fn owner(source: &OwnershipSource, route: &RouteSource, at: &str) -> Result<Ownership, CompileError> {
    let named = format!("{at}.ownership.name");
    let plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if source.name.is_empty() || source.name.len() > OWNER_NAME_BYTES_MAX || !plain(&source.name) {
        return Err(range(&named, &source.name, "a name of 1 to 64 letters, digits and `_-.`"));
    }
    match source.place {
        OwnershipPlace::Query => Ok(Ownership::Query(source.name.as_str().into())),
        OwnershipPlace::Body => Ok(Ownership::Body(source.name.as_str().into())),
        OwnershipPlace::Path if route.rewrite.is_some() => {
            Err(inconsistent(at, "`rewrite` replaces the path that ownership is to be forced into"))
        }
        OwnershipPlace::Path => {
            let segments = || route.path.split('/').skip(1);
            let parameter = |segment: &str| segment.strip_prefix('{')?.strip_suffix('}').map(str::to_owned);
            let found = segments().position(|segment| parameter(segment).as_deref() == Some(&*source.name));
            let parameters: Vec<String> = segments().filter_map(parameter).filter(|name| !name.ends_with("...")).collect();
            found.map(Ownership::Path).ok_or_else(|| unknown(&named, &source.name, parameters.iter().map(String::as_str)))
        }
    }
}

fn rewrite(path: &str, route: &RouteSource, at: &str) -> Result<Box<str>, CompileError> {
    let canonical = CanonicalPath::parse(path.as_bytes()).is_ok_and(|parsed| parsed.query().is_none() && parsed.path() == path);
    if !canonical || path == route.path {
        return Err(range(&format!("{at}.rewrite"), path, "another path than the route's, canonical and without query"));
    }
    Ok(path.into())
}

/// Rates count every request of a user; money and tasks only where the route has a cost.
fn charges(compiler: &mut Compiler, route: &RouteSource, at: &str) -> Result<Arc<[Charge]>, CompileError> {
    let cost = cost_of(compiler, route);
    for (field, value) in [("cost_micros", cost), ("tasks", route.tasks)] {
        if !(0..=CHARGE_MAX).contains(&value) {
            return Err(range(&format!("{at}.{field}"), &value.to_string(), "from 0 to 1125899906842624"));
        }
    }
    let by_tokens = route.metering.as_ref().is_some_and(|metering| metering.by == CostSource::Usage);
    let key = (route.gateways.iter().copied().collect(), cost, route.tasks, by_tokens);
    if let Some(known) = compiler.charges.get(&key) {
        return Ok(Arc::clone(known));
    }
    let charges: Arc<[Charge]> = charges_of(&compiler.budgets, route, cost, by_tokens);
    check_charges(&compiler.budgets, &charges, route, at)?;
    compiler.charges.insert(key, Arc::clone(&charges));
    Ok(charges)
}

fn cost_of(compiler: &Compiler, route: &RouteSource) -> i64 {
    route.cost_micros.unwrap_or(compiler.settings.cost_micros_default)
}

/// Where tokens are priced, the amounts of money and tokens follow from the request: see [`Permit::bounded`](crate::decision::Permit::bounded).
fn charges_of(budgets: &[Budget], route: &RouteSource, cost: i64, by_tokens: bool) -> Arc<[Charge]> {
    budgets
        .iter()
        .filter(|budget| budget.counted == Counted::ByLease && route.gateways.iter().any(|gateway| budget.gateways.contains(*gateway)))
        .filter_map(|budget| {
            let amount = match budget.unit {
                Unit::MicroUsd => cost,
                Unit::Tasks => route.tasks,
                Unit::Requests => 1,
                Unit::Tokens => 0,
            };
            let priced = by_tokens && matches!(budget.unit, Unit::MicroUsd | Unit::Tokens);
            (amount > 0 || priced).then_some(Charge { budget: budget.id, amount: Units::new(amount) })
        })
        .collect()
}

fn check_charges(budgets: &[Budget], charges: &[Charge], route: &RouteSource, at: &str) -> Result<(), CompileError> {
    let counts = |charge: &Charge, gateway, tier| {
        budgets.get(charge.budget.index()).is_some_and(|budget| budget.gateways.contains(gateway) && budget.applies_to(tier))
    };
    for gateway in route.gateways.iter().copied() {
        for tier in [Tier::Trial, Tier::Paid, Tier::Enterprise] {
            if charges.iter().filter(|charge| counts(charge, gateway, tier)).count() > CHARGES_MAX {
                return Err(inconsistent(at, "a request may be charged to at most 8 budgets"));
            }
        }
    }
    Ok(())
}

fn inconsistent(at: &str, rule: &'static str) -> CompileError {
    CompileError::Inconsistent { at: at.into(), rule }
}
