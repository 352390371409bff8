//! From a policy source to its hot form. Allocates freely; every name that refers to nothing is an error.
//!
//! A large policy is compiled in pieces, so that a worker can go on serving in between: [`Compiler::begin`], one
//! [`Compiler::role`] and one [`Compiler::route`] for each, [`Compiler::finish`]. No piece takes longer because of those
//! before it.

mod audit;
mod budgets;
mod error;
mod flags;
mod limits;
mod metering;
mod routes;

pub use error::CompileError;

use super::route::RouteIndex;
use super::source::{IssuerSource, PolicySource, RoleSource, RouteSource, SettingsSource};
use super::{CompiledPolicy, IssuerPowers, Responses, Route};
use crate::audit::AuditRules;
use crate::budget::{Budget, CHARGE_MAX};
use crate::decision::Charge;
use crate::flag::{Flag, FlagSet};
use crate::gateway::{Gateway, GatewaySet};
use crate::permission::{Permission, PermissionCatalogue, PermissionSet};
use ::metering::PriceTable;
use core::ops::RangeInclusive;
use core::time::Duration;
use error::{range, unknown};
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use std::sync::Arc;

const COLD_START_HOLD_MAX: Duration = Duration::from_secs(10);
const STALE_AFTER_MIN: Duration = Duration::from_secs(60);
const STALE_AFTER_MAX: Duration = Duration::from_secs(86_400);
const APPROVAL_LIFETIME: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(604_800);

/// Compiles a whole policy at once.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn compile(source: &PolicySource) -> Result<CompiledPolicy, CompileError> {
    let mut compiler = Compiler::begin(source)?;
    compiler.expect_routes(source.routes.len());
    source.roles.iter().try_for_each(|role| compiler.role(role))?;
    source.routes.iter().try_for_each(|route| compiler.route(route))?;
    compiler.finish()
}

/// A policy that is being compiled.
#[derive(Debug)]
pub struct Compiler {
    settings: SettingsSource,
    catalogue: PermissionCatalogue,
    /// The catalogue's names, as routes have them.
    actions: Vec<Arc<str>>,
    no_action: Arc<str>,
    roles: HashMap<Box<str>, PermissionSet>,
    issuers: Vec<IssuerSource>,
    budgets: Vec<Budget>,
    prices: PriceTable,
    flags: Vec<Flag>,
    responses: Responses,
    ruled: GatewaySet,
    audit: AuditRules,
    explained_with: Option<Permission>,
    routes: Vec<Route>,
    /// Indices into `routes`, by name.
    names: HashTable<u32>,
    hasher: DefaultHashBuilder,
    index: RouteIndex,
    /// What routes of these gateways with this cost and these tasks, priced by tokens or not, are charged.
    charges: HashMap<(GatewaySet, i64, i64, bool), Arc<[Charge]>>,
    named: Named,
}

/// What some route has named so far.
#[derive(Debug, Default)]
struct Named {
    flags: FlagSet,
    /// Budgets, by index.
    limits: Vec<bool>,
    governor: bool,
}

impl Compiler {
    /// Everything but the roles and routes of `source`.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn begin(source: &PolicySource) -> Result<Self, CompileError> {
        let settings = source.settings.clone();
        check_settings(&settings)?;
        let catalogue = PermissionCatalogue::new(source.permissions.iter().map(String::as_str)).map_err(CompileError::Catalogue)?;
        let ruled: GatewaySet = source.rules.iter().flatten().copied().collect();
        if ruled.contains(Gateway::Admin) {
            let rule = "custom rules judge CP, PP and PLANT: the control plane's own API is decided by tables alone";
            return Err(CompileError::Inconsistent { at: "rules.gateways".into(), rule });
        }
        if source.rules.is_some() && ruled.is_empty() {
            return Err(CompileError::Inconsistent { at: "rules.gateways".into(), rule: "custom rules need at least one gateway" });
        }
        let budgets = budgets::compile_budgets(source)?;
        let explained_with = explained_with(source, &catalogue)?;
        Ok(Self {
            flags: flags::compile_flags(&source.flags)?,
            responses: flags::compile_responses(&source.responses)?,
            prices: metering::compile_prices(&source.prices)?,
            settings,
            actions: catalogue.names().map(Arc::from).collect(),
            no_action: "".into(),
            catalogue,
            roles: HashMap::new(),
            issuers: source.issuers.clone(),
            ruled,
            audit: audit::compile_audit(&source.audit)?,
            explained_with,
            routes: Vec::new(),
            names: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            index: RouteIndex::default(),
            charges: HashMap::new(),
            named: Named { limits: vec![false; budgets.len()], ..Named::default() },
            budgets,
        })
    }

    /// Makes room for so many routes, so that no table has to grow while they come.
    pub fn expect_routes(&mut self, routes: usize) {
        self.routes.reserve_exact(routes);
        self.index.reserve(routes);
        let (known, hasher) = (&self.routes, &self.hasher);
        self.names.reserve(routes, |route| routes::hash_of(hasher, known, *route));
    }

    /// One role more. All roles come before the first route.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn role(&mut self, source: &RoleSource) -> Result<(), CompileError> {
        compile_role(source, &self.catalogue, &mut self.roles)
    }

    /// One route more.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn route(&mut self, source: &RouteSource) -> Result<(), CompileError> {
        routes::compile_route(self, source)
    }

    /// The policy, when all routes are in.
    ///
    /// # Errors
    /// What is wrong with the whole.
    pub fn finish(self) -> Result<CompiledPolicy, CompileError> {
        limits::check_named(&self.budgets, &self.named.limits)?;
        flags::check_used(&self.flags, self.named.flags)?;
        if self.named.governor && !self.roles.contains_key(self.settings.governor_role.as_str()) {
            return Err(unknown("approvals.governor_role", &self.settings.governor_role, self.roles.keys().map(|role| &**role)));
        }
        let issuers = compile_issuers(&self.issuers, &self.roles)?;
        let Self { settings, catalogue, roles, budgets, prices, flags, responses, ruled, audit, explained_with, routes, index, .. } = self;
        Ok(CompiledPolicy {
            settings,
            catalogue,
            roles,
            issuers,
            routes,
            budgets,
            prices,
            index,
            flags,
            responses,
            ruled,
            audit,
            explained_with,
        })
    }

    /// The permission's name, as routes have it.
    fn action(&self, permission: Option<Permission>) -> Arc<str> {
        let known = permission.and_then(|permission| self.actions.get(permission.index()));
        Arc::clone(known.unwrap_or(&self.no_action))
    }
}

fn explained_with(source: &PolicySource, catalogue: &PermissionCatalogue) -> Result<Option<Permission>, CompileError> {
    let Some(name) = &source.explained_with else { return Ok(None) };
    catalogue.find(name).map(Some).ok_or_else(|| unknown("explanations.refusals", name, catalogue.names()))
}

fn check_settings(settings: &SettingsSource) -> Result<(), CompileError> {
    if !matches!(settings.no_route_status, 403 | 404) {
        return Err(range("settings.no_route_status", &settings.no_route_status.to_string(), "403 or 404"));
    }
    if !(0..=CHARGE_MAX).contains(&settings.cost_micros_default) {
        return Err(range("settings.cost_micros_default", &settings.cost_micros_default.to_string(), "from 0 to 1125899906842624"));
    }
    for (at, url) in [("settings.problem_base", &settings.problem_base), ("settings.upgrade_url", &settings.upgrade_url)] {
        // They stand in answers, and people follow them. Empty: there is none.
        if !url.is_empty() && !is_web_address(url) {
            return Err(range(at, url, "an address that begins with https:// or http://, without spaces"));
        }
    }
    if settings.cold_start_hold > COLD_START_HOLD_MAX {
        return Err(range("settings.cold_start_hold_ms", &settings.cold_start_hold.as_millis().to_string(), "10000 or less"));
    }
    if !(STALE_AFTER_MIN..=STALE_AFTER_MAX).contains(&settings.stale_after) {
        return Err(range("settings.stale_after_s", &settings.stale_after.as_secs().to_string(), "from 60 to 86400"));
    }
    if !APPROVAL_LIFETIME.contains(&settings.approval_lifetime) {
        return Err(range("approvals.lifetime_s", &settings.approval_lifetime.as_secs().to_string(), "from 60 to 604800"));
    }
    if !matches!(settings.approvers, 1 | 2) {
        return Err(range("approvals.approvers", &settings.approvers.to_string(), "1 or 2"));
    }
    Ok(())
}

fn is_web_address(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\'))
    })
}

fn compile_role(
    role: &RoleSource,
    catalogue: &PermissionCatalogue,
    roles: &mut HashMap<Box<str>, PermissionSet>,
) -> Result<(), CompileError> {
    let at = || format!("roles[{}]", role.name);
    let mut set = PermissionSet::EMPTY;
    for name in &role.permissions {
        if name == "*" {
            set = catalogue.all();
        } else {
            set.insert(catalogue.find(name).ok_or_else(|| unknown(&format!("{}.permissions", at()), name, catalogue.names()))?);
        }
    }
    for name in core::iter::once(&role.name).chain(&role.aliases) {
        if name.is_empty() || name.contains(',') {
            return Err(range(&format!("{}.name", at()), name, "a name without commas"));
        }
        if roles.insert(name.as_str().into(), set).is_some() {
            return Err(CompileError::Repeated { at: at(), name: name.clone() });
        }
    }
    Ok(())
}

fn compile_issuers(
    sources: &[IssuerSource],
    roles: &HashMap<Box<str>, PermissionSet>,
) -> Result<HashMap<Box<str>, IssuerPowers>, CompileError> {
    let mut issuers: HashMap<Box<str>, IssuerPowers> = HashMap::new();
    for issuer in sources {
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
