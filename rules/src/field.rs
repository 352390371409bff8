//! The catalogue of what rules may read of `input`. A bundle declares which of it its rules read; the rest is not there.

use decision_core::nearest::nearest;
use std::fmt;

/// A field of `input`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InputField {
    /// The gateway: `CP`, `PP` or `PLANT`.
    Gateway,
    /// The request's method.
    Method,
    /// The canonical path, without query.
    Path,
    /// The name of the route that matched.
    Route,
    /// The route's permission, `resource.action`; absent when it asks for none.
    Permission,
    /// The part of the permission before the dot.
    Resource,
    /// The part of the permission after the dot.
    Action,
    /// Where the tables send the request: `production` or `sandbox`.
    Target,
    /// The policy's name for the issuer of the token.
    Issuer,
    /// The `sub` claim.
    Subject,
    /// The `user_id` claim.
    UserId,
    /// The `email` claim.
    Email,
    /// The `customer_id` claim, if there is one.
    CustomerId,
    /// The `agent_id` claim, if there is one.
    AgentId,
    /// The `governor_agent_id` claim, if there is one.
    GovernorAgentId,
    /// The roles that the issuer may assign, in the token's order.
    Roles,
    /// The `tier` claim, if there is one.
    TierClaim,
    /// The `trial_mode` claim.
    TrialMode,
    /// The service level: `trial`, `paid` or `enterprise`.
    Tier,
    /// Whether the user is on trial.
    Trial,
    /// Whether the trial has ended.
    TrialExpired,
    /// Whether the user is a governor.
    Governor,
    /// The hour of the day in UTC, 0 to 23.
    HourUtc,
    /// The day of the week in UTC: `monday` to `sunday`.
    WeekdayUtc,
}

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// A string.
    Text,
    /// A string that may be absent.
    OptionalText,
    /// An array of strings.
    Texts,
    /// A boolean.
    Flag,
    /// A whole number from 0 to 23.
    Hour,
}

/// A name that is no field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField {
    /// The name.
    pub name: String,
    /// The most similar field.
    pub nearest: Option<&'static str>,
}

impl std::error::Error for UnknownField {}

impl fmt::Display for UnknownField {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "`{}` is not an input that rules may read", self.name)?;
        self.nearest.map_or(Ok(()), |nearest| write!(formatter, "; the nearest name is `{nearest}`"))
    }
}

impl InputField {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::Gateway,
        Self::Method,
        Self::Path,
        Self::Route,
        Self::Permission,
        Self::Resource,
        Self::Action,
        Self::Target,
        Self::Issuer,
        Self::Subject,
        Self::UserId,
        Self::Email,
        Self::CustomerId,
        Self::AgentId,
        Self::GovernorAgentId,
        Self::Roles,
        Self::TierClaim,
        Self::TrialMode,
        Self::Tier,
        Self::Trial,
        Self::TrialExpired,
        Self::Governor,
        Self::HourUtc,
        Self::WeekdayUtc,
    ];

    /// Where it stands in `input`, as a bundle declares it.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Method => "method",
            Self::Path => "path",
            Self::Route => "route",
            Self::Permission => "permission",
            Self::Resource => "resource",
            Self::Action => "action",
            Self::Target => "target",
            Self::Issuer => "jwt.issuer",
            Self::Subject => "jwt.sub",
            Self::UserId => "jwt.user_id",
            Self::Email => "jwt.email",
            Self::CustomerId => "jwt.customer_id",
            Self::AgentId => "jwt.agent_id",
            Self::GovernorAgentId => "jwt.governor_agent_id",
            Self::Roles => "jwt.roles",
            Self::TierClaim => "jwt.tier",
            Self::TrialMode => "jwt.trial_mode",
            Self::Tier => "facts.tier",
            Self::Trial => "facts.trial",
            Self::TrialExpired => "facts.trial_expired",
            Self::Governor => "facts.governor",
            Self::HourUtc => "facts.hour_utc",
            Self::WeekdayUtc => "facts.weekday_utc",
        }
    }

    /// Its type.
    #[must_use]
    pub const fn field_type(self) -> FieldType {
        match self {
            Self::Gateway
            | Self::Method
            | Self::Path
            | Self::Route
            | Self::Target
            | Self::Issuer
            | Self::Subject
            | Self::UserId
            | Self::Email
            | Self::Tier
            | Self::WeekdayUtc => FieldType::Text,
            Self::Permission
            | Self::Resource
            | Self::Action
            | Self::CustomerId
            | Self::AgentId
            | Self::GovernorAgentId
            | Self::TierClaim => FieldType::OptionalText,
            Self::Roles => FieldType::Texts,
            Self::TrialMode | Self::Trial | Self::TrialExpired | Self::Governor => FieldType::Flag,
            Self::HourUtc => FieldType::Hour,
        }
    }

    /// The values that a field of few values has; none when it may have any.
    #[must_use]
    pub const fn values(self) -> &'static [&'static str] {
        match self {
            Self::Gateway => &["CP", "PP", "PLANT"],
            Self::Method => &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
            Self::Target => &["production", "sandbox"],
            Self::Tier => &["trial", "paid", "enterprise"],
            Self::WeekdayUtc => &WEEKDAYS,
            Self::Path
            | Self::Route
            | Self::Permission
            | Self::Resource
            | Self::Action
            | Self::Issuer
            | Self::Subject
            | Self::UserId
            | Self::Email
            | Self::CustomerId
            | Self::AgentId
            | Self::GovernorAgentId
            | Self::Roles
            | Self::TierClaim
            | Self::TrialMode
            | Self::Trial
            | Self::TrialExpired
            | Self::Governor
            | Self::HourUtc => &[],
        }
    }

    /// From its path.
    ///
    /// # Errors
    /// There is no such field; the nearest is named.
    pub fn parse(path: &str) -> Result<Self, UnknownField> {
        let found = Self::ALL.into_iter().find(|field| field.path() == path);
        found.ok_or_else(|| UnknownField { name: path.into(), nearest: nearest(path, Self::ALL.into_iter().map(Self::path)) })
    }
}

/// In the order of the days since the epoch, which was a Thursday.
pub(crate) const WEEKDAYS: [&str; 7] = ["thursday", "friday", "saturday", "sunday", "monday", "tuesday", "wednesday"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_found_by_its_path() {
        for field in InputField::ALL {
            assert_eq!(InputField::parse(field.path()), Ok(field));
        }
    }

    #[test]
    fn an_unknown_name_has_a_nearest() {
        let error = InputField::parse("jwt.role").unwrap_err();
        assert_eq!(error.to_string(), "`jwt.role` is not an input that rules may read; the nearest name is `jwt.roles`");
        assert_eq!(InputField::parse("zzzzzzzzzzzzzzz").unwrap_err().nearest, None);
    }
}
