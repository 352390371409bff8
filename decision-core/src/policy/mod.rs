//! The compiled policy: what [`crate::decide()`] reads. Built by [`compile`](compile::compile), never changed.

pub mod compile;
pub mod route;
pub mod source;

use crate::audit::{AuditLevel, AuditRules};
use crate::budget::{Budget, BudgetId, Units};
use crate::decision::Charge;
use crate::flag::{Flag, FlagId, FlagSet, FlagState, SwitchedOff};
use crate::gateway::{Gateway, GatewaySet, Method};
use crate::permission::{Permission, PermissionCatalogue, PermissionSet};
use crate::principal::{Identity, Principal, Tier};
use core::fmt;
use hashbrown::HashMap;
use metering::{Api, PriceTable};
pub use source::{CredentialForwarding, ExchangeKind, OwnershipPlace, Unbounded};
use std::sync::Arc;

/// The most budgets that one request may be charged to.
pub const CHARGES_MAX: usize = 8;

/// The most budgets that count per client address: workers keep the counts of all of them in one table.
pub const CLIENT_BUDGETS_MAX: usize = 16;

/// A route's index in its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(pub(crate) u32);

/// What a caller must present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// Nothing.
    Public,
    /// A registration key.
    RegistrationKey,
    /// A token.
    Authenticated,
    /// A token whose roles carry the permission.
    Permission(Permission),
}

/// A compiled route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its index.
    pub id: RouteId,
    /// Its name.
    pub name: Box<str>,
    /// Its path template, for the reader.
    pub path: Box<str>,
    /// The name of its permission, or empty.
    pub action: Arc<str>,
    /// What a caller must present.
    pub requirement: Requirement,
    /// Whether a governor has to approve.
    pub governor_approval: bool,
    /// Whether users on trial are refused.
    pub closed_to_trials: bool,
    /// What the backend gets as credential.
    pub credential: CredentialForwarding,
    /// The flag without which there is no such route.
    pub flag: Option<FlagId>,
    /// Where the caller's customer id is forced into the request.
    pub ownership: Option<Ownership>,
    /// The path that the backend gets instead.
    pub rewrite: Option<Box<str>>,
    /// What kind of exchange it is.
    pub exchange: ExchangeKind,
    /// How it becomes known what a request cost.
    pub metering: Metering,
    /// How surely its requests are recorded.
    pub audit: AuditLevel,
    /// The budget that counts its requests per client address.
    pub limit: Option<BudgetId>,
    /// What it may charge: a budget that is for one tier or gateway only counts there. Most routes charge the same.
    pub charges: Arc<[Charge]>,
}

/// How it becomes known what a request cost in the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metering {
    /// It costs what its route says.
    #[default]
    Fixed,
    /// The response has it in this header or trailer, in micro-USD. What the route says is the bound.
    Header(Box<str>),
    /// From the tokens that the response counts.
    Usage {
        /// The API whose requests and responses are read.
        api: Api,
        /// What is reserved for a request that does not limit its output; it is refused if there is none.
        output_tokens: Option<u64>,
        /// What a request costs that the backend answered with an error.
        failed: Units,
        /// What becomes of requests whose cost nothing in them bounds.
        unbounded: Unbounded,
    },
}

impl fmt::Display for Metering {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed => formatter.write_str("fixed"),
            Self::Header(name) => write!(formatter, "header {name}"),
            Self::Usage { api, .. } => write!(formatter, "usage {}", api.name()),
        }
    }
}

impl Route {
    /// Where the caller's customer id is forced into a request, by the name that operators gave it.
    #[must_use]
    pub fn owner(&self) -> Option<(OwnershipPlace, &str)> {
        let ownership = self.ownership.as_ref()?;
        let name = match ownership {
            Ownership::Query(name) | Ownership::Body(name) => &**name,
            Ownership::Path(segment) => self.path.split('/').skip(1).nth(*segment)?.trim_matches(['{', '}']),
        };
        Some((ownership.place(), name))
    }
}

/// Where the caller's customer id is forced into a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ownership {
    /// Every spelling of this query parameter is removed and the true one appended.
    Query(Box<str>),
    /// The segment of the path with this number, from 0, is replaced.
    Path(usize),
    /// This key of the JSON object in the body is set.
    Body(Box<str>),
}

impl Ownership {
    /// In which part of the request.
    #[must_use]
    pub const fn place(&self) -> OwnershipPlace {
        match self {
            Self::Query(_) => OwnershipPlace::Query,
            Self::Path(_) => OwnershipPlace::Path,
            Self::Body(_) => OwnershipPlace::Body,
        }
    }
}

impl fmt::Display for Ownership {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Query(name) => write!(formatter, "query {name}"),
            // People count from 1.
            Self::Path(segment) => write!(formatter, "path segment {}", segment.saturating_add(1)),
            Self::Body(name) => write!(formatter, "body {name}"),
        }
    }
}

/// Coded reasons with the operator's texts.
type Responses = Box<[(Box<str>, Box<str>)]>;

/// Settings that decisions depend on.
pub type PolicySettings = source::SettingsSource;

/// What an issuer's tokens are good for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct IssuerPowers {
    gateways: GatewaySet,
    /// Empty: any role.
    roles: Vec<Box<str>>,
}

impl IssuerPowers {
    fn may_assign(&self, role: &str) -> bool {
        self.roles.is_empty() || self.roles.iter().any(|assignable| **assignable == *role)
    }
}

/// Everything that decisions depend on, apart from facts and time.
#[derive(Clone, Debug)]
pub struct CompiledPolicy {
    settings: PolicySettings,
    catalogue: PermissionCatalogue,
    roles: HashMap<Box<str>, PermissionSet>,
    issuers: HashMap<Box<str>, IssuerPowers>,
    routes: Vec<Route>,
    budgets: Vec<Budget>,
    prices: PriceTable,
    index: route::RouteIndex,
    flags: Vec<Flag>,
    /// Sorted by coded reason.
    responses: Responses,
    ruled: GatewaySet,
    audit: AuditRules,
    explained_with: Option<Permission>,
}

impl CompiledPolicy {
    /// The settings.
    #[must_use]
    pub const fn settings(&self) -> &PolicySettings {
        &self.settings
    }

    /// The catalogue of permissions.
    #[must_use]
    pub const fn catalogue(&self) -> &PermissionCatalogue {
        &self.catalogue
    }

    /// The most specific route of `gateway` with this method and canonical path.
    #[must_use]
    pub fn route(&self, gateway: Gateway, method: Method, path: &str) -> Option<&Route> {
        let id = self.index.find(gateway, method, path)?;
        self.routes.get(usize::try_from(id).ok()?)
    }

    /// The route of that index.
    #[must_use]
    pub fn route_by_id(&self, id: RouteId) -> Option<&Route> {
        self.routes.get(usize::try_from(id.0).ok()?)
    }

    /// All routes.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Drops some of the routes of a policy that nobody decides by any more: to drop ten thousand at once takes longer than
    /// a worker may be busy with it. Returns whether any is left.
    pub fn dismantle(&mut self, routes: usize) -> bool {
        self.routes.truncate(self.routes.len().saturating_sub(routes));
        !self.routes.is_empty()
    }

    /// All flags.
    #[must_use]
    pub fn flags(&self) -> &[Flag] {
        &self.flags
    }

    /// The flags that are on for a user; for callers without a token, those that are on by default.
    #[must_use]
    pub fn flags_of(&self, identity: Option<&Identity>) -> (FlagSet, SwitchedOff) {
        let mut on = FlagSet::default();
        let mut off = SwitchedOff::default();
        for flag in &self.flags {
            match flag.state(identity) {
                FlagState::On => on.insert(flag.id),
                FlagState::Off => off.extend(flag.switches),
            }
        }
        (on, off)
    }

    /// The operator's text for a coded reason.
    #[must_use]
    pub fn response(&self, reason: &str) -> Option<&str> {
        let found = self.responses.binary_search_by(|(known, _)| (**known).cmp(reason)).ok()?;
        self.responses.get(found).map(|(_, detail)| &**detail)
    }

    /// The gateways whose requests custom rules judge.
    #[must_use]
    pub const fn ruled(&self) -> GatewaySet {
        self.ruled
    }

    /// What records hold.
    #[must_use]
    pub const fn audit(&self) -> &AuditRules {
        &self.audit
    }

    /// The permission with which callers are told why they were refused; without one nobody is.
    #[must_use]
    pub const fn explained_with(&self) -> Option<Permission> {
        self.explained_with
    }

    /// All budgets, in the order in which they are charged and named.
    #[must_use]
    pub fn budgets(&self) -> &[Budget] {
        &self.budgets
    }

    /// What the tokens of language models cost.
    #[must_use]
    pub const fn prices(&self) -> &PriceTable {
        &self.prices
    }

    /// The budget of that index.
    #[must_use]
    pub fn budget(&self, id: BudgetId) -> Option<&Budget> {
        self.budgets.get(id.index())
    }

    /// The budget of that name.
    #[must_use]
    pub fn budget_by_name(&self, name: &str) -> Option<&Budget> {
        self.budgets.iter().find(|budget| &*budget.name == name)
    }

    /// Whether `gateway` accepts tokens of the issuer of that name.
    #[must_use]
    pub fn accepts_issuer(&self, issuer: &str, gateway: Gateway) -> IssuerAcceptance {
        match self.issuers.get(issuer) {
            Some(powers) if powers.gateways.contains(gateway) => IssuerAcceptance::Accepted,
            Some(_) | None => IssuerAcceptance::Foreign,
        }
    }

    /// The issuers whose tokens `gateway` accepts, by name.
    pub fn issuers_of(&self, gateway: Gateway) -> impl Iterator<Item = &str> {
        let mut names: Vec<&str> =
            self.issuers.iter().filter(|(_, powers)| powers.gateways.contains(gateway)).map(|(name, _)| &**name).collect();
        names.sort_unstable();
        names.into_iter()
    }

    /// The roles and aliases that carry `permission` and that the issuer of that name may assign, by name.
    pub fn roles_with(&self, permission: Permission, issuer: &str) -> impl Iterator<Item = &str> {
        let powers = self.issuers.get(issuer);
        let mut names: Vec<&str> = self.roles.iter().filter(|(_, set)| set.covers(permission)).map(|(name, _)| &**name).collect();
        names.retain(|role| powers.is_some_and(|powers| powers.may_assign(role)));
        names.sort_unstable();
        names.into_iter()
    }

    /// Whether the issuer of that name may assign this role.
    #[must_use]
    pub fn may_assign(&self, issuer: &str, role: &str) -> bool {
        self.issuers.get(issuer).is_some_and(|powers| powers.may_assign(role))
    }

    /// Whether the issuer of that name may assign roles here that it may not assign under `other`: what was known there of its
    /// users' roles is not everything then.
    #[must_use]
    pub fn assigns_more_than(&self, other: &Self, issuer: &str) -> bool {
        // Of users of an issuer that only one of them has, nothing was known or nothing counts.
        let Some((ours, theirs)) = self.issuers.get(issuer).zip(other.issuers.get(issuer)) else { return false };
        self.roles.keys().any(|role| ours.may_assign(role) && !theirs.may_assign(role))
    }

    /// The identity under this policy. Roles that its issuer may not assign count as unknown, so that a portal cannot
    /// mint an administrator of another. `None` when no role is left.
    #[must_use]
    pub fn principal(&self, identity: Identity) -> Option<Principal> {
        let mut permissions = PermissionSet::EMPTY;
        let mut known = false;
        // An issuer that the policy does not have is refused by `decide`, under its own reason.
        let powers = self.issuers.get(&identity.issuer);
        let may_assign = |role: &str| powers.is_none_or(|powers| powers.may_assign(role));
        for role in identity.roles.iter().filter(|role| may_assign(role)) {
            if let Some(set) = self.roles.get(role) {
                permissions.extend(set);
                known = true;
            }
        }
        if !known {
            return None;
        }
        let assigned: Vec<&str> = identity.roles.iter().map(|role| &**role).filter(|role| may_assign(role)).collect();
        let governor = identity.governor_agent_id.is_some() && assigned.contains(&&*self.settings.governor_role);
        let roles_joined = assigned.join(",").into();
        let (flags, switched_off) = self.flags_of(Some(&identity));
        Some(Principal { permissions, tier: Tier::of(&identity), governor, roles_joined, flags, switched_off, identity })
    }
}

/// Whether a gateway accepts an issuer's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssuerAcceptance {
    /// It does.
    Accepted,
    /// The issuer is for other gateways, or unknown.
    Foreign,
}
