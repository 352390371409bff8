//! The policy document: what operators write in YAML and what a bundle carries. Unknown fields are errors.
//!
//! Every list and map here is data; what it means is decided by `decision-core`, into which
//! [`PolicyDocument::to_source`](crate::policy::PolicyDocument::to_source) translates it.

mod audit;
mod money;
mod route;

pub use audit::{Audit, AuditLevel, EmailRecording, Identities, WhenFull};
pub use money::{AtCritical, Price, RateLimitHeaders, Reporting, Thresholds, Utilization};
pub use route::{
    Api, Approval, CostSource, CredentialForwarding, ExchangeKind, Metering, Method, Ownership, OwnershipPlace, Requirement, Route,
    TrialAccess, Unbounded,
};

use serde::{Deserialize, Serialize};

/// One file of policy sources, and also the merge of all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct PolicyDocument {
    /// Other files that belong to the policy, relative to the policy's folder: `routes/agents.yaml`, or `routes/*.yaml` for
    /// all of a folder. Resolved when sources are read; empty in a merged document.
    pub include: Vec<String>,
    /// Settings that are not tied to one rule. At most one file has them.
    pub settings: Option<Settings>,
    /// How governors approve. At most one file has it.
    pub approvals: Option<Approvals>,
    /// Where requests go. At most one file has it.
    pub routing: Option<Routing>,
    /// What happens when a check cannot be made. At most one file has it.
    pub failure_modes: Option<FailureModes>,
    /// Texts of refusals that are not the built-in ones.
    pub responses: Vec<ResponseText>,
    /// Feature flags.
    pub flags: Vec<Flag>,
    /// Custom rules in Rego. At most one file has them.
    pub rules: Option<Rules>,
    /// Who may sign tokens.
    pub issuers: Vec<Issuer>,
    /// Names of secrets that hold registration keys; several at once for rotation.
    pub registration_keys: Vec<String>,
    /// The catalogue: every permission that a role or route may name, as `resource.action`.
    pub permissions: Vec<String>,
    /// Roles and what they permit.
    pub roles: Vec<Role>,
    /// The routes; what is not here is refused.
    pub routes: Vec<Route>,
    /// Budgets: money caps, task limits and rate limits alike.
    pub budgets: Vec<Budget>,
    /// Who is told how full budgets are. At most one file has it.
    pub reporting: Option<Reporting>,
    /// What the tokens of language models cost. A revision never changes, and records name it: so is each charge explained by
    /// the prices of its time.
    pub prices: Vec<Price>,
    /// What audit records hold. At most one file has it.
    pub audit: Option<Audit>,
    /// To whom refusals are explained. At most one file has it.
    pub explanations: Option<Explanations>,
}

/// To whom refusals are explained.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Explanations {
    /// The permission, of the catalogue, with which a caller is told in the body of a refusal which checks were made, what they read
    /// of the caller, and what would have to be otherwise. Absent: nobody is.
    pub refusals: Option<String>,
}

/// Settings that are not tied to one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Prefix of every problem `type` URI.
    pub problem_base: String,
    /// Where a refused trial or an exhausted budget sends the user.
    pub upgrade_url: String,
    /// 404 (default) or 403 for a request that matches no route.
    pub no_route_status: u16,
    /// Micro-USD charged by a route that names no cost.
    pub cost_micros_default: i64,
    /// How long a request waits for the first bundle, keys and revocations, in milliseconds; then it gets 503. At most 10,000.
    pub cold_start_hold_ms: u32,
    /// How long keys and revocations are relied on without contact to the control plane, in seconds, 60 to 86,400. Then
    /// tokens are answered with 503.
    pub stale_after_s: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            problem_base: "https://waooaw.com/errors/".into(),
            upgrade_url: "https://waooaw.com/upgrade".into(),
            no_route_status: 404,
            cost_micros_default: 1_000,
            cold_start_hold_ms: 3_000,
            stale_after_s: 3_600,
        }
    }
}

/// How governors approve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Approvals {
    /// The role that, with a `governor_agent_id`, makes a user a governor.
    pub governor_role: String,
    /// How long a request may wait for a decision, and then how long its grant may be used, in seconds, 60 to 604,800.
    pub lifetime_s: u32,
    /// How a request that needs an approval is answered.
    pub answer: ApprovalAnswerStyle,
    /// How many governors have to approve, 1 or 2. One refusal is enough to refuse.
    pub approvers: u8,
    /// Who is told of new requests.
    pub webhook: Option<Webhook>,
}

impl Default for Approvals {
    fn default() -> Self {
        Self { governor_role: "admin".into(), lifetime_s: 3_600, answer: ApprovalAnswerStyle::Forbidden, approvers: 1, webhook: None }
    }
}

/// Where the control plane delivers events. Each delivery is signed and retried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// `https`, a host that the control plane's `WEBHOOK_HOSTS` allows, no user, no fragment.
    pub url: String,
    /// The name of the secret whose bytes sign deliveries (HMAC-SHA-256).
    pub secret: String,
}

/// Where requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Routing {
    /// Where users on trial are routed.
    pub trials: Target,
}

impl Default for Routing {
    fn default() -> Self {
        Self { trials: Target::Sandbox }
    }
}

/// Where a permitted request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The backend.
    Production,
    /// The sandbox, which never gets a live token.
    Sandbox,
}

/// What happens when a check cannot be made, where no rule says otherwise. Authentication, RBAC and policy always fail
/// closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct FailureModes {
    /// Tokens, before the first contact tells which of them are revoked.
    pub revocation: FailureMode,
    /// Budgets in micro-USD that do not say `on_unavailable`.
    pub money: FailureMode,
    /// Budgets in tasks that do not say it.
    pub tasks: FailureMode,
    /// Budgets in requests that do not say it.
    pub requests: FailureMode,
}

impl Default for FailureModes {
    fn default() -> Self {
        Self { revocation: FailureMode::Closed, money: FailureMode::Closed, tasks: FailureMode::Closed, requests: FailureMode::Open }
    }
}

/// The text of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ResponseText {
    /// The coded reason, as records have it: `permission_missing`, `trial_expired`, …
    pub reason: String,
    /// The `detail` of the problem, one line of at most 512 bytes.
    pub detail: String,
}

/// A feature flag. It is on or off for a user: by an override of the user's customer, else by its share of a roll-out, else
/// by default. Callers without a customer id are told apart by issuer and subject, callers without a token have the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Flag {
    /// Its unique name.
    pub name: String,
    /// For whom no override and no roll-out says otherwise.
    pub default: FlagState,
    /// Customers for whom it is on or off whatever else is said.
    #[serde(default)]
    pub overrides: Vec<FlagOverride>,
    /// The share of users, in percent, for whom it is on. The same users stay in as the share grows.
    #[serde(default)]
    pub rollout_percent: Option<u8>,
    /// The checks that are skipped where it is off. Routes name their flag themselves.
    #[serde(default)]
    pub switches: Vec<Switch>,
}

/// Whether a flag is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum FlagState {
    On,
    Off,
}

/// A flag's state for certain customers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FlagOverride {
    /// Their `customer_id`s.
    pub customers: Vec<String>,
    /// The state.
    pub state: FlagState,
}

/// A check that a flag may switch off. Never authentication or ownership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// Whether the roles carry the route's permission (RBAC).
    Permission,
    /// Whether the trial has expired, or the route is closed to trials.
    Trial,
    /// Whether a governor must approve.
    Approval,
    /// Whether users on trial go to the sandbox.
    Routing,
    /// The custom rules.
    Rules,
    /// Budgets, rates and task limits. Those per client address stay.
    Budget,
}

/// Custom rules in Rego: evaluated after the tables have permitted a request with a user, before anything is reserved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// The modules' files (`rules/hours.rego`); tests (`*_test.rego`) among them run when the policy is published and stay
    /// out of the filter. They define `data.gateway.decision`.
    pub modules: Vec<String>,
    /// What the rules may read of `input`, as `jwt.roles`, `permission`, `facts.trial_expired`: the filter builds the input from
    /// these alone, and answers equal inputs from memory.
    pub inputs: Vec<String>,
    /// The gateways whose requests they judge.
    pub gateways: Vec<Gateway>,
    /// A YAML or JSON file that the rules see as `data`.
    #[serde(default)]
    pub data: Option<String>,
}

/// How a request that needs an approval is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ApprovalAnswerStyle {
    /// 403 `approval-required`.
    Forbidden,
    /// 307 to the approval page, as the original did.
    Redirect,
}

/// Which gateway a rule applies to. `ADMIN` is the control plane's own API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum Gateway {
    /// Customer portal.
    Cp,
    /// Partner portal.
    Pp,
    /// Plant.
    Plant,
    /// The control plane's admin API.
    Admin,
}

/// Who may sign tokens, and what such a token must look like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// Our name for the issuer; a user is (this name, subject).
    pub name: String,
    /// The exact value of the `iss` claim.
    pub issuer: String,
    /// The gateways that accept its tokens.
    pub gateways: Vec<Gateway>,
    /// The roles that its tokens may carry; others are ignored. Empty: any.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Accepted `aud` values; empty: tokens must carry none.
    #[serde(default)]
    pub audiences: Vec<String>,
    /// Accepted `typ` header values.
    #[serde(default = "default_token_types")]
    pub token_types: Vec<String>,
    /// Whether a token without `typ` is accepted.
    #[serde(default)]
    pub type_optional: bool,
    /// Accepted values of a `scope` claim; a token with another is refused.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Claims that tokens must carry beyond the usual: `customer_id`, `agent_id`, `governor_agent_id`, `tier`, `jti`, `nbf`,
    /// `token_type`, `token_version`.
    #[serde(default)]
    pub required_claims: Vec<String>,
    /// Tolerated clock difference, at most 60 s.
    #[serde(default = "default_skew_s")]
    pub skew_s: u32,
    /// Longest accepted `exp` − `iat`, at most 86,400 s.
    #[serde(default = "default_lifetime_max_s")]
    pub lifetime_max_s: u32,
    /// Algorithms that its tokens may use. Those of `keys` when empty; with `jwks` they are named.
    #[serde(default)]
    pub algorithms: Vec<String>,
    /// Whether algorithms that Envoy cannot verify (PS256, PS384, PS512, EdDSA) are accepted: a first-seen token then
    /// costs 0.2 to 0.8 ms of a worker instead of 0.02.
    #[serde(default)]
    pub software_verification: SoftwareVerification,
    /// Whether its tokens may say that their user is on trial.
    #[serde(default)]
    pub trials: TrialTokens,
    /// Its keys.
    #[serde(default)]
    pub keys: Vec<IssuerKey>,
    /// Where it publishes its keys.
    #[serde(default)]
    pub jwks: Option<JwksSource>,
}

/// Whether algorithms that Envoy cannot verify are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum SoftwareVerification {
    #[default]
    Refuse,
    Allow,
}

/// Whether an issuer's tokens may carry `trial_mode: true`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum TrialTokens {
    #[default]
    Allow,
    Refuse,
}

/// A JWK set (RFC 7517 §5) that the control plane fetches; no gateway does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct JwksSource {
    /// `https`, a host that the control plane's `JWKS_HOSTS` allows, no user, no fragment.
    pub url: String,
    /// How often it is fetched, in seconds, 60 to 86,400.
    #[serde(default = "default_refresh_s")]
    pub refresh_s: u32,
    /// How long the last good set is used when it cannot be fetched again, in seconds, at least `refresh_s`, at most 604,800.
    #[serde(default = "default_jwks_stale_after_s")]
    pub stale_after_s: u32,
}

/// A key, by reference: the revision names the secret and never contains it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct IssuerKey {
    /// The `kid` that tokens name.
    pub kid: String,
    /// The `alg` value: `HS256`, `RS256`, `ES256`, `EdDSA`, …
    pub algorithm: String,
    /// The name of the secret: a public key in PEM, or for HS256, HS384 and HS512 the base64url of the shared secret.
    pub secret: String,
}

/// A role and what it permits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// The name in the `roles` claim.
    pub name: String,
    /// Other names for it in tokens.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Permissions; `"*"` is everything in the catalogue.
    pub permissions: Vec<String>,
}

/// One budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Its unique name.
    pub name: String,
    /// What it counts.
    pub unit: Unit,
    /// Its fixed UTC window.
    pub window: Window,
    /// `platform`, `agent:{agent_id|subject}`, `customer:{customer_id|subject}`: text with variables of the user;
    /// `|` separates fallbacks. Or `client_address`: counted in each worker, for the routes that name the budget as their
    /// `limit`, before the credential is looked at.
    pub scope: String,
    /// How much may be spent in one window, in the unit.
    pub cap: i64,
    /// In Postgres (true) or in Redis/Valkey (false).
    #[serde(default = "default_true")]
    pub durable: bool,
    /// Only users of this tier (`trial`, `paid`, `enterprise`); all when absent.
    #[serde(default)]
    pub tier: Option<String>,
    /// Only on these gateways; all when empty.
    #[serde(default)]
    pub gateways: Vec<Gateway>,
    /// The problem slug when it is spent; by unit when absent.
    #[serde(default)]
    pub problem: Option<String>,
    /// The status when it is spent; 402 for money and 429 else when absent.
    #[serde(default)]
    pub status: Option<u16>,
    /// What happens when it cannot be told whether there is room; closed for money and open for rates when absent.
    #[serde(default)]
    pub on_unavailable: Option<FailureMode>,
    /// From which percentages of the cap on it is nearly spent. 80, 95 and 100 when absent; budgets that are not durable have
    /// none unless they say so.
    #[serde(default)]
    pub thresholds: Option<Thresholds>,
    /// What happens, once per window, when the last threshold is reached.
    #[serde(default)]
    pub at_critical: AtCritical,
}

/// What a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Millionths of a US dollar.
    MicroUsd,
    /// Tasks, as routes say.
    Tasks,
    /// Requests.
    Requests,
    /// Tokens of language models, as routes with `metering: {by: usage}` use them.
    Tokens,
}

/// A fixed UTC window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Window {
    Minute,
    Hour,
    Day,
    Month,
}

/// What happens when a check cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FailureMode {
    /// Let through, and counted.
    Open,
    /// Refused.
    Closed,
}

fn default_token_types() -> Vec<String> {
    vec!["JWT".into(), "at+jwt".into()]
}

const fn default_skew_s() -> u32 {
    60
}

const fn default_lifetime_max_s() -> u32 {
    86_400
}

const fn default_refresh_s() -> u32 {
    300
}

const fn default_jwks_stale_after_s() -> u32 {
    86_400
}

const fn default_true() -> bool {
    true
}
