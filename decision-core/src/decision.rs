//! Decisions: a permit that cannot be forged, or a denial that names its rule.

use crate::budget::{BudgetId, Units};
use crate::path::AmbiguousPath;
use crate::policy::{CHARGES_MAX, RouteId};
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
    Approval,
    Budget,
}

impl Check {
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
            Self::Approval => "approval",
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
    /// A governor has to approve.
    ApprovalRequired,
    /// The approval that was presented cannot be used.
    ApprovalRefused,
    /// The body of a request that needs an approval is too large to be bound to it.
    ApprovalBodyTooLarge,
    /// A budget has no room for the charge.
    BudgetSpent(BudgetId),
    /// A budget's scope names something that the user does not have.
    BudgetUnscoped(BudgetId),
}

impl DenyReason {
    /// The check that refused.
    #[must_use]
    pub const fn check(self) -> Check {
        match self {
            Self::AmbiguousPath(_) | Self::AmbiguousHeader(_) => Check::Path,
            Self::NoRoute => Check::Route,
            Self::ClientLimited(_) => Check::ClientLimit,
            Self::CredentialMissing | Self::CredentialRefused(_) | Self::RegistrationKeyRefused => Check::Authentication,
            Self::PermissionMissing => Check::Permission,
            Self::TrialExpired | Self::TrialRestricted => Check::Trial,
            Self::ApprovalRequired | Self::ApprovalRefused | Self::ApprovalBodyTooLarge => Check::Approval,
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
            Self::ClientLimited(_) => "client_limited",
            Self::CredentialMissing => "credential_missing",
            Self::CredentialRefused(fault) => fault.code(),
            Self::RegistrationKeyRefused => "registration_key_refused",
            Self::PermissionMissing => "permission_missing",
            Self::TrialExpired => "trial_expired",
            Self::TrialRestricted => "trial_restricted",
            Self::ApprovalRequired => "approval_required",
            Self::ApprovalRefused => "approval_refused",
            Self::ApprovalBodyTooLarge => "approval_body_too_large",
            Self::BudgetSpent(_) => "budget_spent",
            Self::BudgetUnscoped(_) => "budget_unscoped",
        }
    }
}

/// Where a permitted request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The backend.
    Production,
    /// The sandbox.
    Sandbox,
}

/// Whether a permit still needs a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApprovalNeed {
    /// It does not.
    None,
    /// A grant by a governor has to be consumed before the request is forwarded.
    Governor,
}

/// One charge on one budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// No, and why.
    Deny(Denial),
}
