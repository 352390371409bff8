//! Routes, as operators write them.

use super::{AuditLevel, Gateway};
use serde::{Deserialize, Serialize};

/// A request method that a route may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names are RFC 9110's")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

/// What a caller must present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Requirement {
    /// Nothing.
    Public,
    /// A registration key.
    RegistrationKey,
    /// A valid token.
    Authenticated,
    /// A valid token whose roles carry the route's permission (on CP, whose gateway has no RBAC: a valid token).
    Permission,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Its unique name; records, refusals and explanations use it.
    pub name: String,
    /// The gateways that have it.
    pub gateways: Vec<Gateway>,
    /// Its methods.
    pub methods: Vec<Method>,
    /// `/api/v1/agents/{agent_id}`; a last segment `{rest...}` matches one or more segments.
    pub path: String,
    /// What a caller must present.
    pub require: Requirement,
    /// The permission, when `require: permission`.
    #[serde(default)]
    pub permission: Option<String>,
    /// Micro-USD charged; the default of the settings when absent. Uncharged routes say 0.
    #[serde(default)]
    pub cost_micros: Option<i64>,
    /// Tasks charged.
    #[serde(default)]
    pub tasks: i64,
    /// The budget of scope `client_address` that counts its requests, also those that are refused.
    #[serde(default)]
    pub limit: Option<String>,
    /// Whether a governor must approve.
    #[serde(default)]
    pub approval: Approval,
    /// Whether users on trial may use it.
    #[serde(default)]
    pub trial: TrialAccess,
    /// What the backend gets as credential.
    #[serde(default)]
    pub credential: CredentialForwarding,
    /// The feature flag without which there is no such route: 404.
    #[serde(default)]
    pub flag: Option<String>,
    /// Where the caller's customer id is forced into the request.
    #[serde(default)]
    pub ownership: Option<Ownership>,
    /// The path that the backend gets instead of the request's: a literal, `/api/v1/auth/google/verify`.
    #[serde(default)]
    pub rewrite: Option<String>,
    /// What kind of exchange it is. An upgrade is refused on every route that does not list it.
    #[serde(default)]
    pub exchange: ExchangeKind,
    /// How it becomes known what a request cost in the end; absent: it costs `cost_micros`.
    #[serde(default)]
    pub metering: Option<Metering>,
    /// How surely its requests are recorded: `required`, `buffered` or `{sampled: N}`.
    #[serde(default)]
    pub audit: AuditLevel,
}

/// How it becomes known what a request cost in the end. Until then an upper bound is reserved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Metering {
    /// Who says it.
    pub by: CostSource,
    /// `by: header`: the response's header or trailer that has micro-USD; `x-actual-cost-micros` when absent. `cost_micros` is
    /// the bound.
    #[serde(default)]
    pub header: Option<String>,
    /// `by: usage`: the API whose requests and responses are read.
    #[serde(default)]
    pub api: Option<Api>,
    /// `by: usage`: the output tokens that are reserved for a request that names no limit; such requests are refused when absent.
    #[serde(default)]
    pub output_tokens: Option<u32>,
    /// `by: usage`: what becomes of requests whose cost neither their body nor tokens at list price bound: earlier conversations by
    /// id, tools that the provider runs, dearer tiers of service.
    #[serde(default)]
    pub unbounded: Unbounded,
}

/// What becomes of requests whose cost nothing in them bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Unbounded {
    /// They are refused: 400.
    #[default]
    Refuse,
    /// They go on. What they cost in tokens is charged, as an overrun where it is more than was reserved.
    Allow,
}

/// Who says what a request cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CostSource {
    /// The backend, in a header or trailer.
    Header,
    /// The tokens that a language model's response counts, at the policy's prices. `cost_micros` is what a request costs that the
    /// backend answered with an error.
    Usage,
}

/// An API of language models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// `POST /v1/chat/completions`, as OpenAI and those compatible have it.
    OpenaiChat,
    /// `POST /v1/responses`.
    OpenaiResponses,
    /// `POST /v1/embeddings`.
    OpenaiEmbeddings,
    /// `POST /v1/messages`, as Anthropic has it.
    AnthropicMessages,
}

/// Where the caller's customer id is forced into the request, whatever the client sent there. A caller without one gets 401.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Ownership {
    /// Which part of the request.
    #[serde(rename = "in")]
    pub place: OwnershipPlace,
    /// The query parameter, the parameter of the path template, or the key of the JSON object.
    #[serde(default = "default_owner_name")]
    pub name: String,
}

/// A part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OwnershipPlace {
    /// Every spelling of the query parameter is removed and the true one appended.
    Query,
    /// The path segment is replaced.
    Path,
    /// The key of the JSON object is set. A body that is no JSON object, or repeats a key, gets 400.
    Body,
}

/// What kind of exchange a route is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ExchangeKind {
    /// A request and its response, within Envoy's time-out.
    #[default]
    Plain,
    /// A response that goes on (server-sent events): Envoy's time-out for a whole response does not apply.
    Stream,
    /// `Upgrade: websocket`.
    Websocket,
}

/// Whether a governor must approve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// Not needed.
    #[default]
    None,
    /// A governor, or a grant by one.
    Governor,
}

/// Whether users on trial may use a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TrialAccess {
    /// They may, until the trial has expired.
    #[default]
    Allow,
    /// They may not: 403 `trial-restricted`.
    Deny,
}

/// What the backend gets as credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CredentialForwarding {
    /// The client's `Authorization` is dropped.
    #[default]
    Drop,
    /// It is moved to `X-Original-Authorization`, except towards the sandbox.
    OriginalHeader,
    /// It is forwarded as it is, except towards the sandbox.
    Forward,
}

fn default_owner_name() -> String {
    "customer_id".into()
}
