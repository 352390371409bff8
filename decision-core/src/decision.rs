//! Decisions: a permit that cannot be forged, or a denial that names its rule.

use crate::budget::{BudgetId, Unit, Units};
use crate::decide::Observer;
use crate::flag::Switch;
use crate::path::AmbiguousPath;
use crate::policy::{CHARGES_MAX, CompiledPolicy, RouteId};
use crate::principal::CredentialFault;

/// A check of the pipeline, in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the pipeline's stages")]
pub enum Check {
    Path,
    Route,
    ClientLimit,
    Authentication,
    Permission,
    Trial,
    Ownership,
    Approval,
    Routing,
    Rules,
    Budget,
}

impl From<Switch> for Check {
    /// The check that is switched.
    fn from(switch: Switch) -> Self {
        match switch {
            Switch::Permission => Self::Permission,
            Switch::Trial => Self::Trial,
            Switch::Approval => Self::Approval,
            Switch::Routing => Self::Routing,
            Switch::Rules => Self::Rules,
            Switch::Budget => Self::Budget,
        }
    }
}

impl Check {
    /// All of them, in the order in which they are made.
    pub const ALL: [Self; 11] = [
        Self::Path,
        Self::Route,
        Self::ClientLimit,
        Self::Authentication,
        Self::Permission,
        Self::Trial,
        Self::Ownership,
        Self::Approval,
        Self::Routing,
        Self::Rules,
        Self::Budget,
    ];

    /// Its name in problem details and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Route => "route",
            Self::ClientLimit => "client_limit",
            Self::Authentication => "authentication",
            Self::Permission => "permission",
            Self::Trial => "trial",
            Self::Ownership => "ownership",
            Self::Approval => "approval",
            Self::Routing => "routing",
            Self::Rules => "rules",
            Self::Budget => "budget",
        }
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// The path has more than one reading.
    AmbiguousPath(AmbiguousPath),
    /// A header that decides is repeated or malformed.
    AmbiguousHeader(&'static str),
    /// No route of this gateway has this method and path.
    NoRoute,
    /// The route's feature flag is off for this caller: as if there were no such route.
    FeatureDisabled,
    /// The request asks for an upgrade that its route does not list, or lacks the one that it lists.
    UpgradeRefused,
    /// Too many requests came from the client's address.
    ClientLimited(BudgetId),
    /// No credential was presented.
    CredentialMissing,
    /// The credential is not good.
    CredentialRefused(CredentialFault),
    /// The registration key is missing or wrong.
    RegistrationKeyRefused,
    /// The roles do not carry the route's permission.
    PermissionMissing,
    /// The trial is over.
    TrialExpired,
    /// The route is closed to users on trial.
    TrialRestricted,
    /// The caller has no customer id, and one has to be forced into the request.
    OwnerMissing,
    /// The body into which it has to be forced is no JSON object.
    BodyNotObject,
    /// That object repeats a key: which of them counts is anybody's guess.
    BodyKeyRepeated,
    /// That body is too large to be read.
    BodyTooLarge,
    /// A header that names the approval, or that the approval is bound to, is repeated or malformed.
    ApprovalHeader(&'static str),
    /// A governor has to approve.
    ApprovalRequired,
    /// The approval that was presented cannot be used.
    ApprovalRefused,
    /// The body of a request that needs an approval is too large to be bound to it.
    ApprovalBodyTooLarge,
    /// The body of a request that is recorded before it goes on is too large to be held until then.
    AuditedBodyTooLarge,
    /// A custom rule refused, or could not be evaluated. Which one is said beside the denial.
    RuleRefused,
    /// The body of a request that is priced by tokens is none of its route's API, or repeats what counts.
    MeteredBody,
    /// That body is too large to be read.
    MeteredBodyTooLarge,
    /// The request does not limit its output, and its route names no limit either.
    OutputUnlimited,
    /// This member of the body makes the request cost what neither its body nor tokens at list price bound.
    CostUnbounded(&'static str),
    /// The policy has no price for the model.
    ModelUnpriced,
    /// A budget has no room for the charge.
    BudgetSpent(BudgetId),
    /// A budget's scope names something that the user does not have.
    BudgetUnscoped(BudgetId),
}

impl DenyReason {
    /// Every reason, each with any one of what it carries.
    pub fn all() -> impl Iterator<Item = Self> {
        let plain = [
            Self::AmbiguousPath(AmbiguousPath::NotAbsolute),
            Self::AmbiguousHeader(""),
            Self::NoRoute,
            Self::FeatureDisabled,
            Self::UpgradeRefused,
            Self::ClientLimited(BudgetId(0)),
            Self::CredentialMissing,
            Self::RegistrationKeyRefused,
            Self::PermissionMissing,
            Self::TrialExpired,
            Self::TrialRestricted,
            Self::OwnerMissing,
            Self::BodyNotObject,
            Self::BodyKeyRepeated,
            Self::BodyTooLarge,
            Self::RuleRefused,
            Self::ApprovalHeader(""),
            Self::ApprovalRequired,
            Self::ApprovalRefused,
            Self::ApprovalBodyTooLarge,
            Self::AuditedBodyTooLarge,
            Self::MeteredBody,
            Self::MeteredBodyTooLarge,
            Self::OutputUnlimited,
            Self::CostUnbounded(""),
            Self::ModelUnpriced,
            Self::BudgetSpent(BudgetId(0)),
            Self::BudgetUnscoped(BudgetId(0)),
        ];
        plain.into_iter().chain(CredentialFault::ALL.into_iter().map(Self::CredentialRefused))
    }

    /// Every coded reason.
    pub fn codes() -> impl Iterator<Item = &'static str> {
        Self::all().map(Self::code)
    }

    /// The check that refused.
    #[must_use]
    pub const fn check(self) -> Check {
        match self {
            Self::AmbiguousPath(_) | Self::AmbiguousHeader(_) => Check::Path,
            Self::NoRoute | Self::FeatureDisabled | Self::UpgradeRefused | Self::AuditedBodyTooLarge => Check::Route,
            Self::ClientLimited(_) => Check::ClientLimit,
            Self::CredentialMissing | Self::CredentialRefused(_) | Self::RegistrationKeyRefused => Check::Authentication,
            Self::PermissionMissing => Check::Permission,
            Self::TrialExpired | Self::TrialRestricted => Check::Trial,
            Self::OwnerMissing | Self::BodyNotObject | Self::BodyKeyRepeated | Self::BodyTooLarge => Check::Ownership,
            Self::RuleRefused => Check::Rules,
            Self::ApprovalHeader(_) | Self::ApprovalRequired | Self::ApprovalRefused | Self::ApprovalBodyTooLarge => Check::Approval,
            Self::MeteredBody | Self::MeteredBodyTooLarge | Self::OutputUnlimited | Self::CostUnbounded(_) | Self::ModelUnpriced => {
                Check::Budget
            }
            Self::BudgetSpent(_) | Self::BudgetUnscoped(_) => Check::Budget,
        }
    }

    /// The coded reason, for records and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::AmbiguousPath(_) => "ambiguous_path",
            Self::AmbiguousHeader(_) => "ambiguous_header",
            Self::NoRoute => "no_route",
            Self::FeatureDisabled => "feature_disabled",
            Self::UpgradeRefused => "upgrade_refused",
            Self::ClientLimited(_) => "client_limited",
            Self::CredentialMissing => "credential_missing",
            Self::CredentialRefused(fault) => fault.code(),
            Self::RegistrationKeyRefused => "registration_key_refused",
            Self::PermissionMissing => "permission_missing",
            Self::TrialExpired => "trial_expired",
            Self::TrialRestricted => "trial_restricted",
            Self::OwnerMissing => "owner_missing",
            Self::BodyNotObject => "body_not_object",
            Self::BodyKeyRepeated => "body_key_repeated",
            Self::BodyTooLarge => "body_too_large",
            Self::RuleRefused => "rule_refused",
            Self::ApprovalHeader(_) => "approval_header",
            Self::ApprovalRequired => "approval_required",
            Self::ApprovalRefused => "approval_refused",
            Self::ApprovalBodyTooLarge => "approval_body_too_large",
            Self::AuditedBodyTooLarge => "audited_body_too_large",
            Self::MeteredBody => "metered_body",
            Self::MeteredBodyTooLarge => "metered_body_too_large",
            Self::OutputUnlimited => "output_unlimited",
            Self::CostUnbounded(_) => "cost_unbounded",
            Self::ModelUnpriced => "model_unpriced",
            Self::BudgetSpent(_) => "budget_spent",
            Self::BudgetUnscoped(_) => "budget_unscoped",
        }
    }

    /// What the client gets: the one table. `policy` is the one that refused; none before there is any.
    #[must_use]
    pub fn status(self, policy: Option<&CompiledPolicy>) -> u16 {
        let settings = policy.map(CompiledPolicy::settings);
        match self {
            Self::AmbiguousPath(_) | Self::AmbiguousHeader(_) | Self::ApprovalHeader(_) => 400,
            Self::UpgradeRefused | Self::BodyNotObject | Self::BodyKeyRepeated | Self::MeteredBody => 400,
            Self::OutputUnlimited | Self::CostUnbounded(_) => 400,
            Self::CredentialRefused(CredentialFault::VerificationBudgetSpent) | Self::ClientLimited(_) => 429,
            Self::CredentialMissing | Self::CredentialRefused(_) | Self::RegistrationKeyRefused | Self::OwnerMissing => 401,
            // To the page on which a governor decides, if the policy says so.
            Self::ApprovalRequired if settings.is_some_and(|settings| settings.approval_redirect) => 307,
            Self::PermissionMissing
            | Self::TrialExpired
            | Self::TrialRestricted
            | Self::RuleRefused
            | Self::ApprovalRequired
            | Self::ApprovalRefused
            | Self::ModelUnpriced
            | Self::BudgetUnscoped(_) => 403,
            // Whether a feature exists is not told.
            Self::NoRoute | Self::FeatureDisabled => settings.map_or(404, |settings| settings.no_route_status),
            Self::BodyTooLarge | Self::ApprovalBodyTooLarge | Self::MeteredBodyTooLarge | Self::AuditedBodyTooLarge => 413,
            Self::BudgetSpent(budget) => {
                policy.and_then(|policy| policy.budget(budget)).map_or(Unit::MicroUsd.spent().1, |budget| budget.status)
            }
        }
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finding {
    /// In favour.
    Passed,
    /// Against.
    Refused(DenyReason),
    /// It was not made: a feature flag switches it off for this caller.
    SkippedByFlag,
}

impl Finding {
    /// Its code: `ok`, `skipped_by_flag`, or the reason.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Refused(reason) => reason.code(),
            Self::SkippedByFlag => "skipped_by_flag",
        }
    }
}

/// Where a permitted request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// The backend.
    Production,
    /// The sandbox.
    Sandbox,
}

impl Target {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Sandbox => "sandbox",
        }
    }
}

/// Whether a permit still needs a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ApprovalNeed {
    /// It does not.
    None,
    /// A grant by a governor has to be consumed before the request is forwarded.
    Governor,
}

impl ApprovalNeed {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Governor => "governor",
        }
    }
}

/// One charge on one budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Charge {
    /// The budget.
    pub budget: BudgetId,
    /// How much.
    pub amount: Units,
}

/// What a request is charged: at most [`CHARGES_MAX`] charges, without allocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charges {
    slots: [Option<Charge>; CHARGES_MAX],
}

impl Charges {
    /// Adds one. The compiler of policies has checked that there is room.
    pub fn push(&mut self, charge: Charge) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(charge);
        }
    }

    /// All of them, in the policy's order of budgets.
    pub fn iter(&self) -> impl Iterator<Item = Charge> + '_ {
        self.slots.iter().copied().flatten()
    }

    /// Whether nothing is charged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.first().is_none_or(Option::is_none)
    }
}

/// What a request priced by tokens may cost at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// In micro-USD.
    pub money: Units,
    /// Input and output.
    pub tokens: Units,
}

/// Proof that [`decide`](crate::decide::decide) said yes. No public constructor; forwarding requires one.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit that is not enacted is a request without an answer"]
pub struct Permit {
    pub(crate) route: RouteId,
    pub(crate) target: Target,
    pub(crate) approval: ApprovalNeed,
    pub(crate) charges: Charges,
}

impl Permit {
    /// The rule that permitted.
    #[must_use]
    pub const fn route(&self) -> RouteId {
        self.route
    }

    /// Where the request goes.
    #[must_use]
    pub const fn target(&self) -> Target {
        self.target
    }

    /// Whether a grant has to be consumed.
    #[must_use]
    pub const fn approval(&self) -> ApprovalNeed {
        self.approval
    }

    /// What has to be reserved.
    #[must_use]
    pub const fn charges(&self) -> &Charges {
        &self.charges
    }

    /// The same permit, with what a request priced by tokens may cost at most. `policy` is the one that gave it.
    pub fn bounded(mut self, policy: &CompiledPolicy, bound: Bound) -> Self {
        for charge in self.charges.slots.iter_mut().flatten() {
            match policy.budget(charge.budget).map(|budget| budget.unit) {
                Some(Unit::MicroUsd) => charge.amount = bound.money,
                Some(Unit::Tokens) => charge.amount = bound.tokens,
                Some(Unit::Tasks | Unit::Requests) | None => {}
            }
        }
        self
    }
}

/// What the tables permit and custom rules have yet to judge. It becomes a [`Permit`] through [`Self::ruled`] only.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "it is no permit before the rules have judged"]
pub struct Conditional(pub(crate) Permit);

impl Conditional {
    /// The rule that permitted so far.
    #[must_use]
    pub const fn route(&self) -> RouteId {
        self.0.route
    }

    /// Where the request would go.
    #[must_use]
    pub const fn target(&self) -> Target {
        self.0.target
    }

    /// With the verdict of the custom rules.
    pub fn ruled<O: Observer>(self, verdict: RuleVerdict, observer: &mut O) -> Result<Permit, Denial> {
        match verdict {
            RuleVerdict::Allow { target } => {
                observer.checked(Check::Rules, Finding::Passed);
                Ok(Permit { target: target.unwrap_or(self.0.target), ..self.0 })
            }
            RuleVerdict::Deny => {
                observer.checked(Check::Rules, Finding::Refused(DenyReason::RuleRefused));
                Err(Denial { reason: DenyReason::RuleRefused, route: Some(self.0.route) })
            }
        }
    }
}

/// What the custom rules say of a request. Undefined, error, time-out and anything that is no decision deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuleVerdict {
    /// Yes.
    Allow {
        /// Where the request goes, if the rules say so.
        target: Option<Target>,
    },
    /// No.
    Deny,
}

/// A refusal: its reason and the rule that refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Why.
    pub reason: DenyReason,
    /// The route whose rule refused; none when no route matched.
    pub route: Option<RouteId>,
}

/// The answer.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Yes, and what it takes.
    Permit(Permit),
    /// Yes, unless the custom rules refuse.
    Conditional(Conditional),
    /// No, and why.
    Deny(Denial),
}
