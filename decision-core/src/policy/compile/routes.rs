//! Routes: requirement, charges, ownership.

use super::error::{CompileError, range, unknown};
use super::{Compiler, limits};
use crate::budget::{Counted, Unit, Units};
use crate::decision::Charge;
use crate::flag::FlagId;
use crate::gateway::Gateway;
use crate::path::CanonicalPath;
use crate::policy::route::PathTemplate;
use crate::policy::source::{ExchangeKind, OwnershipPlace, OwnershipSource, RequirementSource, RouteSource};
use crate::policy::{CHARGES_MAX, Ownership, Requirement, Route, RouteId};
use crate::principal::Tier;

const OWNER_NAME_BYTES_MAX: usize = 64;

/// Compiles a route and puts it into the indexes of its gateways.
pub(super) fn compile_route(compiler: &mut Compiler, source: &RouteSource) -> Result<(), CompileError> {
    let at = format!("routes[{}]", source.name);
    if !compiler.names.insert(source.name.as_str().into()) {
        return Err(CompileError::Repeated { at, name: source.name.clone() });
    }
    let id = u32::try_from(compiler.routes.len()).map_err(|_| range(&at, &source.name, "within 4294967296 routes"))?;
    insert(compiler, source, id, &at)?;
    let route = compiled(compiler, source, RouteId(id), &at)?;
    compiler.routes.push(route);
    Ok(())
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
    let methods = route.methods.iter().copied().collect();
    for (index, gateway) in compiler.indexes.iter_mut().zip(Gateway::ALL) {
        if route.gateways.contains(&gateway) {
            index.insert(&template, methods, id).map_err(|other| CompileError::Conflict {
                at: at.into(),
                other: usize::try_from(other)
                    .ok()
                    .and_then(|other| compiler.routes.get(other))
                    .map_or_else(String::new, |route| route.name.to_string()),
            })?;
        }
    }
    Ok(())
}

fn compiled(compiler: &Compiler, route: &RouteSource, id: RouteId, at: &str) -> Result<Route, CompileError> {
    let requirement = requirement(compiler, route, at)?;
    let identified = matches!(requirement, Requirement::Authenticated | Requirement::Permission(_));
    if !identified && (route.governor_approval || route.closed_to_trials || route.tasks != 0 || route.cost_micros.unwrap_or(0) != 0) {
        return Err(inconsistent(at, "approvals, trials and charges need a user: `require: authenticated` or `require: permission`"));
    }
    if !identified && route.ownership.is_some() {
        return Err(inconsistent(at, "ownership needs a user: `require: authenticated` or `require: permission`"));
    }
    if route.exchange == ExchangeKind::Websocket && route.methods.iter().any(|method| *method != crate::gateway::Method::Get) {
        return Err(inconsistent(at, "`exchange: websocket` goes with the method GET only"));
    }
    if route.flag.is_some() && route.gateways.contains(&Gateway::Admin) {
        return Err(inconsistent(at, "a flag must not switch the control plane's own API: a route on ADMIN has no `flag`"));
    }
    let flag = route.flag.as_ref().map(|name| flag(compiler, name, at)).transpose()?;
    Ok(Route {
        id,
        name: route.name.as_str().into(),
        path: route.path.as_str().into(),
        action: route.permission.as_ref().map_or("", String::as_str).into(),
        requirement,
        governor_approval: route.governor_approval,
        closed_to_trials: route.closed_to_trials,
        credential: route.credential,
        limit: route.limit.as_ref().map(|name| limits::of_route(name, at, &compiler.budgets)).transpose()?,
        charges: if identified { charges(compiler, route, at)? } else { Box::default() },
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
fn charges(compiler: &Compiler, route: &RouteSource, at: &str) -> Result<Box<[Charge]>, CompileError> {
    let cost = route.cost_micros.unwrap_or(compiler.settings.cost_micros_default);
    for (field, value) in [("cost_micros", cost), ("tasks", route.tasks)] {
        if value < 0 {
            return Err(range(&format!("{at}.{field}"), &value.to_string(), "0 or more"));
        }
    }
    let budgets = &compiler.budgets;
    let charges: Vec<Charge> = budgets
        .iter()
        .filter(|budget| budget.counted == Counted::ByLease && route.gateways.iter().any(|gateway| budget.gateways.contains(*gateway)))
        .filter_map(|budget| {
            let amount = match budget.unit {
                Unit::MicroUsd => cost,
                Unit::Tasks => route.tasks,
                Unit::Requests => 1,
            };
            (amount > 0).then_some(Charge { budget: budget.id, amount: Units::new(amount) })
        })
        .collect();
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
    Ok(charges.into())
}

fn inconsistent(at: &str, rule: &'static str) -> CompileError {
    CompileError::Inconsistent { at: at.into(), rule }
}
