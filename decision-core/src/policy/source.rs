//! The policy before it is compiled: plain values with names, as a document says them.

use crate::budget::{Rhythm, Unit};
use crate::failure::FailureMode;
use crate::gateway::{Gateway, Method};
use core::time::Duration;

/// A whole policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are documented where operators write them, in the policy reference")]
pub struct PolicySource {
    pub settings: SettingsSource,
    pub issuers: Vec<IssuerSource>,
    pub permissions: Vec<String>,
    pub roles: Vec<RoleSource>,
    pub routes: Vec<RouteSource>,
    pub budgets: Vec<BudgetSource>,
}

/// Settings that decisions depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "see PolicySource")]
pub struct SettingsSource {
    pub problem_base: String,
    pub upgrade_url: String,
    pub no_route_status: u16,
    pub cost_micros_default: i64,
    pub trial_to_sandbox: bool,
    pub approval_redirect: bool,
    pub governor_role: String,
    pub cold_start_hold: Duration,
    pub stale_after: Duration,
    pub revocation_when_unknown: FailureMode,
}

impl Default for SettingsSource {
    fn default() -> Self {
        Self {
            problem_base: String::new(),
            upgrade_url: String::new(),
            no_route_status: 404,
            cost_micros_default: 0,
            trial_to_sandbox: false,
            approval_redirect: false,
            governor_role: String::new(),
            cold_start_hold: Duration::from_secs(3),
            stale_after: Duration::from_secs(3_600),
            revocation_when_unknown: FailureMode::Closed,
        }
    }
}

/// An issuer, as far as decisions depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "see PolicySource")]
pub struct IssuerSource {
    pub name: String,
    pub gateways: Vec<Gateway>,
    pub roles: Vec<String>,
}

/// A role.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "see PolicySource")]
pub struct RoleSource {
    pub name: String,
    pub aliases: Vec<String>,
    pub permissions: Vec<String>,
}

/// What a caller must present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequirementSource {
    /// Nothing.
    Public,
    /// A registration key.
    RegistrationKey,
    /// A token.
    Authenticated,
    /// A token whose roles carry the permission.
    Permission,
}

/// What the backend gets as credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialForwarding {
    /// Nothing.
    Drop,
    /// The client's, in `X-Original-Authorization`.
    OriginalHeader,
    /// The client's, as it is.
    Forward,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "see PolicySource")]
pub struct RouteSource {
    pub name: String,
    pub gateways: Vec<Gateway>,
    pub methods: Vec<Method>,
    pub path: String,
    pub require: RequirementSource,
    pub permission: Option<String>,
    pub cost_micros: Option<i64>,
    pub tasks: i64,
    pub limit: Option<String>,
    pub governor_approval: bool,
    pub closed_to_trials: bool,
    pub credential: CredentialForwarding,
}

/// A budget.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "see PolicySource")]
pub struct BudgetSource {
    pub name: String,
    pub unit: Unit,
    pub rhythm: Rhythm,
    pub scope: String,
    pub cap: i64,
    pub durable: bool,
    pub tier: Option<String>,
    pub gateways: Vec<Gateway>,
    pub problem: Option<String>,
    pub status: Option<u16>,
    pub failure_mode: Option<FailureMode>,
}
