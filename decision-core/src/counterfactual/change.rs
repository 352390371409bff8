//! What would have to be otherwise, and in whose hands that is: as data, and in words.

use crate::budget::date_of_day;
use crate::facts::Upgrade;
use crate::gateway::{Gateway, Method};
use crate::principal::CredentialFault;
use crate::time::Timestamp;
use core::fmt;

/// Whose doing a change would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum By {
    /// The caller asks otherwise, or with another credential that it has or can get.
    Caller,
    /// Whoever issues the caller's credential says otherwise of it.
    Issuer,
    /// A governor.
    Governor,
    /// Time alone.
    Time,
    /// An operator changes the policy, or what was revoked.
    Operator,
}

impl By {
    /// Its name in answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Issuer => "issuer",
            Self::Governor => "governor",
            Self::Time => "time",
            Self::Operator => "operator",
        }
    }
}

/// Something that, were it so, this check would not refuse for this reason. What comes after it may still refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The path has one reading only.
    CanonicalPath,
    /// This header is there once at most, and well formed.
    Header(&'static str),
    /// One of these methods, which the path has on this gateway.
    Method(Vec<Method>),
    /// One of these gateways, on which the request matches a route.
    Gateway(Vec<Gateway>),
    /// The policy has a route for it.
    RouteExists,
    /// It asks for this upgrade, or for none.
    Upgrade(Upgrade),
    /// This flag is on for the caller.
    FlagOn(String),
    /// This flag, which switches the check, is off for the caller.
    FlagOff(String),
    /// A token of one of these issuers.
    Token {
        /// Their names in the policy.
        issuers: Vec<String>,
    },
    /// A token that does not have this fault.
    GoodToken(CredentialFault),
    /// What was revoked is so no longer.
    Unrevoked(CredentialFault),
    /// A good registration key.
    RegistrationKey,
    /// One of these roles, given by this issuer.
    Role {
        /// The issuer's name in the policy.
        issuer: String,
        /// Roles, of which one is enough.
        any_of: Vec<String>,
        /// The permission that they carry.
        permission: String,
    },
    /// The policy gives this permission to a role that one of the gateway's issuers may assign: none has it.
    PermissionGiven(String),
    /// A trial that does not end before this moment.
    TrialUntil(Timestamp),
    /// A user who is not on trial.
    PaidUser,
    /// The route is open to users on trial.
    RouteOpenToTrials,
    /// A user with a customer id.
    CustomerId,
    /// A governor approves.
    Approval,
    /// A caller with this role and a `governor_agent_id`.
    Governor {
        /// The policy's governor role.
        role: String,
    },
    /// Another approval: the one that was presented does not fit.
    OtherApproval,
    /// A custom rule allows it. Which one refused is said beside this.
    RuleAllows,
    /// A body that can be read as the route wants it.
    Body(&'static str),
    /// A body of fewer bytes.
    SmallerBody,
    /// The request limits its output.
    OutputLimit,
    /// The policy has a price for the model.
    PriceForModel,
    /// Another model, that has a price.
    OtherModel,
    /// The budget's next window: this one ends then.
    NextWindow {
        /// The budget's name.
        budget: String,
        /// When the window ends.
        at: Timestamp,
    },
    /// A higher cap, or an override account, for this account.
    HigherCap {
        /// The budget's name.
        budget: String,
        /// The account's scope, if it is known.
        scope: Option<String>,
    },
    /// A user who has what the budget's scope names.
    ScopeKnown {
        /// The budget's name.
        budget: String,
    },
}

impl Change {
    /// Its name in answers.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::CanonicalPath => "canonical_path",
            Self::Header(_) => "header",
            Self::Method(_) => "method",
            Self::Gateway(_) => "gateway",
            Self::RouteExists => "route",
            Self::Upgrade(_) => "upgrade",
            Self::FlagOn(_) => "flag_on",
            Self::FlagOff(_) => "flag_off",
            Self::Token { .. } => "token",
            Self::GoodToken(_) => "good_token",
            Self::Unrevoked(_) => "unrevoked",
            Self::RegistrationKey => "registration_key",
            Self::Role { .. } => "role",
            Self::PermissionGiven(_) => "permission_given",
            Self::TrialUntil(_) => "trial_until",
            Self::PaidUser => "paid_user",
            Self::RouteOpenToTrials => "route_open_to_trials",
            Self::CustomerId => "customer_id",
            Self::Approval => "approval",
            Self::Governor { .. } => "governor",
            Self::OtherApproval => "other_approval",
            Self::RuleAllows => "rule_allows",
            Self::Body(_) => "body",
            Self::SmallerBody => "smaller_body",
            Self::OutputLimit => "output_limit",
            Self::PriceForModel => "price_for_model",
            Self::OtherModel => "other_model",
            Self::NextWindow { .. } => "next_window",
            Self::HigherCap { .. } => "higher_cap",
            Self::ScopeKnown { .. } => "scope_known",
        }
    }

    /// Whose doing it would be.
    #[must_use]
    pub const fn by(&self) -> By {
        match self {
            Self::CanonicalPath
            | Self::Header(_)
            | Self::Method(_)
            | Self::Gateway(_)
            | Self::Upgrade(_)
            | Self::Token { .. }
            | Self::GoodToken(_)
            | Self::RegistrationKey
            | Self::OtherApproval
            | Self::Body(_)
            | Self::SmallerBody
            | Self::OutputLimit
            | Self::OtherModel => By::Caller,
            Self::Role { .. }
            | Self::TrialUntil(_)
            | Self::PaidUser
            | Self::CustomerId
            | Self::Governor { .. }
            | Self::ScopeKnown { .. } => By::Issuer,
            Self::Approval => By::Governor,
            Self::NextWindow { .. } => By::Time,
            Self::RouteExists
            | Self::FlagOn(_)
            | Self::FlagOff(_)
            | Self::Unrevoked(_)
            | Self::PermissionGiven(_)
            | Self::RouteOpenToTrials
            | Self::RuleAllows
            | Self::PriceForModel
            | Self::HigherCap { .. } => By::Operator,
        }
    }

    /// Whether callers may be told of it. Which flags there are is the operators' own.
    #[must_use]
    pub const fn is_for_callers(&self) -> bool {
        !matches!(self, Self::FlagOn(_) | Self::FlagOff(_))
    }

    /// The names and values that it is about.
    #[must_use]
    pub fn values(&self) -> Vec<(&'static str, Vec<String>)> {
        let one = |name, value: &str| vec![(name, vec![value.to_owned()])];
        match self {
            Self::Header(name) => one("header", name),
            Self::Method(methods) => vec![("any_of", methods.iter().map(|method| method.name().to_owned()).collect())],
            Self::Gateway(gateways) => vec![("any_of", gateways.iter().map(|gateway| gateway.name().to_owned()).collect())],
            Self::Upgrade(upgrade) => one("upgrade", upgrade_name(*upgrade)),
            Self::FlagOn(flag) | Self::FlagOff(flag) => one("flag", flag),
            Self::Token { issuers } => vec![("any_of", issuers.clone())],
            Self::GoodToken(fault) | Self::Unrevoked(fault) => one("fault", fault.code()),
            Self::Role { issuer, any_of, permission } => {
                vec![("issuer", vec![issuer.clone()]), ("any_of", any_of.clone()), ("permission", vec![permission.clone()])]
            }
            Self::PermissionGiven(permission) => one("permission", permission),
            Self::TrialUntil(end) => one("at", &moment(*end)),
            Self::Governor { role } => one("role", role),
            Self::Body(wanted) => one("wanted", wanted),
            Self::NextWindow { budget, at } => vec![("budget", vec![budget.clone()]), ("at", vec![moment(*at)])],
            Self::HigherCap { budget, scope } => {
                let scope = scope.iter().map(|scope| ("scope", vec![scope.clone()]));
                [("budget", vec![budget.clone()])].into_iter().chain(scope).collect()
            }
            Self::ScopeKnown { budget } => one("budget", budget),
            Self::CanonicalPath
            | Self::RouteExists
            | Self::RegistrationKey
            | Self::PaidUser
            | Self::RouteOpenToTrials
            | Self::CustomerId
            | Self::Approval
            | Self::OtherApproval
            | Self::RuleAllows
            | Self::SmallerBody
            | Self::OutputLimit
            | Self::PriceForModel
            | Self::OtherModel => Vec::new(),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CanonicalPath => out.write_str("a path that has one reading only"),
            Self::Header("") => out.write_str("the header that decides there once, and well formed"),
            Self::Header(name) => write!(out, "the header `{name}` there once, and well formed"),
            Self::Method(methods) => write!(out, "the method {}", listed(methods.iter().map(|method| method.name()))),
            Self::Gateway(gateways) => write!(out, "the gateway {}", listed(gateways.iter().map(|gateway| gateway.name()))),
            Self::RouteExists => out.write_str("a route for it in the policy"),
            Self::Upgrade(Upgrade::None) => out.write_str("a request without an upgrade"),
            Self::Upgrade(upgrade) => write!(out, "a request for an upgrade to {}", upgrade_name(*upgrade)),
            Self::FlagOn(flag) => write!(out, "the flag `{flag}` on for this caller"),
            Self::FlagOff(flag) => write!(out, "the flag `{flag}` off for this caller: it switches the check off"),
            Self::Token { issuers } => write!(out, "a token of {}", listed(issuers.iter().map(String::as_str))),
            Self::GoodToken(fault) => write!(out, "another credential: this one is refused with `{}`", fault.code()),
            Self::Unrevoked(fault) => write!(out, "a lifted revocation: `{}`", fault.code()),
            Self::RegistrationKey => out.write_str("a good registration key"),
            Self::Role { issuer, any_of, permission } => {
                let roles = listed(any_of.iter().map(String::as_str));
                write!(out, "the role {roles}, from the issuer {issuer}: it carries `{permission}`")
            }
            Self::PermissionGiven(permission) => {
                write!(out, "a role with `{permission}` that an issuer of this gateway may assign: there is none")
            }
            Self::TrialUntil(end) => write!(out, "a trial that ends at {} or later", moment(*end)),
            Self::PaidUser => out.write_str("a user who is not on trial"),
            Self::RouteOpenToTrials => out.write_str("a route that is open to users on trial"),
            Self::CustomerId => out.write_str("a user with a customer id"),
            Self::Approval => out.write_str("an approval by a governor"),
            Self::Governor { role } => write!(out, "a caller who is a governor: with the role {role} and a governor_agent_id"),
            Self::OtherApproval => out.write_str("an approval of this very request, neither used nor expired"),
            Self::RuleAllows => out.write_str("a custom rule that allows it"),
            Self::Body(wanted) => write!(out, "a body that is {wanted}"),
            Self::SmallerBody => out.write_str("a smaller body"),
            Self::OutputLimit => out.write_str("a limit of the output tokens, in the request or on the route"),
            Self::PriceForModel => out.write_str("a price for the model in the policy"),
            Self::OtherModel => out.write_str("a model that has a price"),
            Self::NextWindow { budget, at } => write!(out, "the next window of the budget {budget}: this one ends at {}", moment(*at)),
            Self::HigherCap { budget, scope: Some(scope) } => {
                write!(out, "a higher cap of the budget {budget} for `{scope}`, or an override account")
            }
            Self::HigherCap { budget, scope: None } => write!(out, "a higher cap of the budget {budget}"),
            Self::ScopeKnown { budget } => write!(out, "a user who has what the scope of the budget {budget} names"),
        }
    }
}

pub(super) const fn upgrade_name(upgrade: Upgrade) -> &'static str {
    match upgrade {
        Upgrade::None => "none",
        Upgrade::Websocket => "websocket",
        Upgrade::Other => "other",
    }
}

fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    names.collect::<Vec<_>>().join(" or ")
}

/// In RFC 3339, to the second or, where it is not whole, the microsecond.
pub(super) fn moment(at: Timestamp) -> String {
    let seconds = at.as_seconds();
    let (year, month, day) = date_of_day(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);
    let micros = at.as_micros().rem_euclid(1_000_000);
    let fraction = if micros == 0 { String::new() } else { format!(".{micros:06}") };
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}{fraction}Z", of_day / 3_600, of_day / 60 % 60, of_day % 60)
}
