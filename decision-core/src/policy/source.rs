//! The policy before it is compiled: plain values with names, as a document says them.

use crate::audit::{AuditLevel, EmailRecording, Identities, WhenFull};
use crate::budget::{AtCritical, Rhythm, Thresholds, Unit};
use crate::decision::Target;
use crate::facts::Upgrade;
use crate::failure::FailureMode;
use crate::flag::{FlagState, Switch};
use crate::gateway::{Gateway, Method};
use core::time::Duration;
use metering::Api;

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
    pub prices: Vec<PriceSource>,
    pub flags: Vec<FlagSource>,
    /// Coded reasons and the `detail` of their problems.
    pub responses: Vec<(String, String)>,
    /// The gateways whose requests custom rules judge; none when there are no rules.
    pub rules: Option<Vec<Gateway>>,
    pub audit: AuditSource,
    /// The permission with which callers are told why they were refused.
    pub explained_with: Option<String>,
}

/// What records hold beyond what all of them do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "see PolicySource")]
pub struct AuditSource {
    pub request_headers: Vec<String>,
    pub response_headers: Vec<String>,
    pub query_parameters: Vec<String>,
    pub identities: Identities,
    pub email: EmailRecording,
    /// The name of the secret.
    pub hash_key: Option<String>,
    pub when_full: WhenFull,
}

/// Settings that decisions depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "see PolicySource")]
pub struct SettingsSource {
    pub problem_base: String,
    pub upgrade_url: String,
    pub no_route_status: u16,
    pub cost_micros_default: i64,
    pub trial_target: Target,
    pub approval_redirect: bool,
    pub governor_role: String,
    pub approval_lifetime: Duration,
    pub approvers: u8,
    pub cold_start_hold: Duration,
    pub stale_after: Duration,
    pub failure_modes: FailureModes,
    pub utilization: Utilization,
    pub rate_limits: RateLimitHeaders,
}

/// When clients are told how full money budgets are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Utilization {
    /// From the first threshold on.
    #[default]
    FromThreshold,
    /// Always.
    Always,
}

/// How clients are told of request budgets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RateLimitHeaders {
    /// Not at all.
    #[default]
    Off,
    /// As the standard will have it.
    Standard,
    /// As was customary before.
    Legacy,
    /// Both.
    Both,
}

/// What happens when a check cannot be made, where no rule says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "see PolicySource")]
pub struct FailureModes {
    pub revocation: FailureMode,
    pub money: FailureMode,
    pub tasks: FailureMode,
    pub requests: FailureMode,
}

impl Default for FailureModes {
    fn default() -> Self {
        Self { revocation: FailureMode::Closed, money: FailureMode::Closed, tasks: FailureMode::Closed, requests: FailureMode::Open }
    }
}

impl Default for SettingsSource {
    fn default() -> Self {
        Self {
            problem_base: String::new(),
            upgrade_url: String::new(),
            no_route_status: 404,
            cost_micros_default: 0,
            trial_target: Target::Production,
            approval_redirect: false,
            governor_role: String::new(),
            approval_lifetime: Duration::from_secs(3_600),
            approvers: 1,
            cold_start_hold: Duration::from_secs(3),
            stale_after: Duration::from_secs(3_600),
            failure_modes: FailureModes::default(),
            utilization: Utilization::default(),
            rate_limits: RateLimitHeaders::default(),
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CredentialForwarding {
    /// Nothing.
    #[default]
    Drop,
    /// The client's, in `X-Original-Authorization`.
    OriginalHeader,
    /// The client's, as it is.
    Forward,
}

impl CredentialForwarding {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::OriginalHeader => "original_header",
            Self::Forward => "forward",
        }
    }
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
    pub flag: Option<String>,
    pub ownership: Option<OwnershipSource>,
    pub rewrite: Option<String>,
    pub exchange: ExchangeKind,
    pub metering: Option<MeteringSource>,
    pub audit: AuditLevel,
}

/// How it becomes known what a request cost in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "see PolicySource")]
pub struct MeteringSource {
    pub by: CostSource,
    pub header: Option<String>,
    pub api: Option<Api>,
    pub output_tokens: Option<u32>,
    pub unbounded: Unbounded,
}

/// What becomes of requests whose cost nothing in them bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unbounded {
    /// They are refused.
    #[default]
    Refuse,
    /// They go on.
    Allow,
}

/// Who says what a request cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CostSource {
    /// The backend, in a header or trailer.
    Header,
    /// The tokens that a language model's response counts.
    Usage,
}

/// What the tokens of a language model cost, in micro-USD per million.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "see PolicySource")]
pub struct PriceSource {
    pub model: String,
    pub input: i64,
    pub cache_read: Option<i64>,
    pub cache_write: Option<i64>,
    pub output: i64,
}

/// Where the caller's customer id is forced into a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "see PolicySource")]
pub struct OwnershipSource {
    pub place: OwnershipPlace,
    pub name: String,
}

/// A part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnershipPlace {
    /// A query parameter, in every spelling.
    Query,
    /// A segment of the path.
    Path,
    /// A key of the JSON object in the body.
    Body,
}

impl OwnershipPlace {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Path => "path",
            Self::Body => "body",
        }
    }
}

/// What kind of exchange a route is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExchangeKind {
    /// A request and its response.
    #[default]
    Plain,
    /// A response that goes on.
    Stream,
    /// `Upgrade: websocket`.
    Websocket,
}

impl ExchangeKind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Stream => "stream",
            Self::Websocket => "websocket",
        }
    }

    /// The upgrade that a request of such a route asks for.
    #[must_use]
    pub const fn upgrade(self) -> Upgrade {
        match self {
            Self::Plain | Self::Stream => Upgrade::None,
            Self::Websocket => Upgrade::Websocket,
        }
    }
}

/// A feature flag.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "see PolicySource")]
pub struct FlagSource {
    pub name: String,
    pub default: FlagState,
    pub overrides: Vec<(String, FlagState)>,
    pub rollout_percent: Option<u8>,
    pub switches: Vec<Switch>,
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
    pub thresholds: Option<Thresholds>,
    pub at_critical: AtCritical,
}
