//! Prices, thresholds, and who is told how full budgets are.

use super::Webhook;
use serde::{Deserialize, Serialize};

/// What the tokens of a language model cost, in micro-USD per million tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// The model as requests and responses name it; `gpt-4o-*` is every name that begins so. The exact name counts before the
    /// longest beginning.
    pub model: String,
    /// Input tokens.
    pub input: i64,
    /// Input tokens that the provider had in its cache; as `input` when absent.
    #[serde(default)]
    pub cache_read: Option<i64>,
    /// Input tokens that the provider put into its cache; as `input` when absent.
    #[serde(default)]
    pub cache_write: Option<i64>,
    /// Output tokens.
    #[serde(default)]
    pub output: i64,
}

/// Percentages of a cap, rising, 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the names are the levels'")]
pub struct Thresholds {
    pub warning: u8,
    pub high: u8,
    pub critical: u8,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { warning: 80, high: 95, critical: 100 }
    }
}

/// What happens when the last threshold is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum AtCritical {
    /// It is told.
    #[default]
    Tell,
    /// It is told, and the agent of the scope is paused: its tokens are refused until an operator lifts that.
    PauseAgent,
}

/// Who is told how full budgets are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Reporting {
    /// Who is told of thresholds that are reached.
    pub webhook: Option<Webhook>,
    /// When clients are told in `X-Budget-Alert-Level`, `X-Agent-Utilization` and `X-Platform-Utilization`.
    pub utilization: Utilization,
    /// How clients are told of request budgets.
    pub rate_limits: RateLimitHeaders,
}

/// When clients are told how full money budgets are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Utilization {
    /// From the first threshold on.
    #[default]
    FromThreshold,
    /// With every response of a charged request.
    Always,
}

/// How clients are told of request budgets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum RateLimitHeaders {
    /// Not at all.
    #[default]
    Off,
    /// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10).
    Standard,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset` (seconds since the epoch), of the budget that is
    /// nearest to its end.
    Legacy,
    /// Both.
    Both,
}
