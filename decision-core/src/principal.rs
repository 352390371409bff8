//! Who is asking. An [`Identity`] is what a verified token says; a [`Principal`] is that identity under one policy.

use crate::flag::{FlagSet, SwitchedOff};
use crate::permission::PermissionSet;
use crate::time::Timestamp;

/// Whether the user is on trial, as the token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// A paying user.
    No,
    /// On trial until the given moment.
    Until(Timestamp),
}

/// What a verified token says about its bearer. A user is the pair (issuer name, subject) everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name that the policy gives the issuer (`cp`), not its URL.
    pub issuer: Box<str>,
    /// The `sub` claim.
    pub subject: Box<str>,
    /// The `user_id` claim.
    pub user_id: Box<str>,
    /// The `email` claim.
    pub email: Box<str>,
    /// The `customer_id` claim.
    pub customer_id: Option<Box<str>>,
    /// The `agent_id` claim.
    pub agent_id: Option<Box<str>>,
    /// The `governor_agent_id` claim.
    pub governor_agent_id: Option<Box<str>>,
    /// The `roles` claim, in the token's order, aliases not yet resolved.
    pub roles: Vec<Box<str>>,
    /// The `tier` claim.
    pub tier: Option<Box<str>>,
    /// From `trial_mode` and `trial_expires_at`.
    pub trial: Trial,
    /// The `jti` claim.
    pub token_id: Option<Box<str>>,
    /// The `token_version` claim: a user's tokens of an older version can be revoked at once.
    pub token_version: Option<u64>,
    /// The id of the key that verified the token.
    pub key_id: Option<Box<str>>,
    /// The `iat` claim.
    pub issued_at: Timestamp,
    /// The `exp` claim, without skew.
    pub expires_at: Timestamp,
}

/// The authenticated caller under one compiled policy: identity, permissions and tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Who it is.
    pub identity: Identity,
    /// What the roles allow, under the policy that built this value.
    pub permissions: PermissionSet,
    /// What selects the caller's rate tier.
    pub tier: Tier,
    /// The policy's governor role and a `governor_agent_id`: approves, and needs no approval.
    pub governor: bool,
    /// The roles, joined by commas, as the backend gets them.
    pub roles_joined: Box<str>,
    /// The feature flags that are on for the user.
    pub flags: FlagSet,
    /// The checks that are switched off for the user.
    pub switched_off: SwitchedOff,
}

/// The service level that selects rate budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// On trial.
    Trial,
    /// Paying.
    Paid,
    /// Paying, with the highest rates.
    Enterprise,
}

impl Tier {
    /// The claim `tier`; else trial if `trial_mode`; else paid. An unknown claim value counts as absent.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        match (identity.tier.as_deref().and_then(Self::parse), identity.trial) {
            (Some(tier), _) => tier,
            (None, Trial::Until(_)) => Self::Trial,
            (None, Trial::No) => Self::Paid,
        }
    }

    /// From its name in claims and policy.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "trial" => Some(Self::Trial),
            "paid" => Some(Self::Paid),
            "enterprise" => Some(Self::Enterprise),
            _ => None,
        }
    }

    /// Its name in claims and policy.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trial => "trial",
            Self::Paid => "paid",
            Self::Enterprise => "enterprise",
        }
    }
}

/// What was revoked, when a good token is refused all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RevocationKind {
    /// This token, by its `jti`.
    Token,
    /// The subject's tokens from before a time.
    Subject,
    /// The subject's tokens below a `token_version`.
    Version,
    /// The key that signed it.
    Key,
    /// Everything of the customer: a kill switch.
    Customer,
    /// Everything of the agent: a kill switch.
    Agent,
}

impl RevocationKind {
    /// All of them, in the order in which they are looked at.
    pub const ALL: [Self; 6] = [Self::Token, Self::Subject, Self::Version, Self::Key, Self::Customer, Self::Agent];

    /// Its name in the admin API, the command line and the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Subject => "subject",
            Self::Version => "version",
            Self::Key => "key",
            Self::Customer => "customer",
            Self::Agent => "agent",
        }
    }

    /// From its name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Why a presented credential was refused. The texts are for the client: before the signature was verified they
/// say nothing about keys, users or claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CredentialFault {
    /// Not `Bearer <token>`.
    NotBearer,
    /// Too long, not three parts, not canonical base64url, not a JSON object, duplicate member.
    Malformed,
    /// `alg` is absent, `none`, not allowed, or not the key's.
    AlgorithmRefused,
    /// `crit`, `b64`, or another header parameter that is not understood.
    HeaderRefused,
    /// No key of a known issuer fits.
    UnknownKey,
    /// The signature does not verify.
    SignatureInvalid,
    /// `iss` is absent or not the issuer of the key.
    IssuerMismatch,
    /// `aud` does not name us.
    AudienceMismatch,
    /// Not an access token: `typ`, `token_type` or `scope` says otherwise.
    TokenTypeRefused,
    /// A required claim is absent, empty or of the wrong type.
    ClaimMissing(&'static str),
    /// `exp` is in the past.
    Expired,
    /// `nbf` or `iat` is in the future.
    NotYetValid,
    /// `exp` − `iat` is more than the issuer may grant.
    LifetimeTooLong,
    /// None of the roles is known.
    NoKnownRole,
    /// `trial_mode` without a usable `trial_expires_at`.
    TrialClaimsInvalid,
    /// It was good, and was revoked.
    Revoked(RevocationKind),
    /// The issuer's tokens may not be for trials.
    TrialRefused,
    /// The worker's budget for failed verifications is spent.
    VerificationBudgetSpent,
}

impl CredentialFault {
    /// All of them, with some name where one carries a claim's.
    pub const ALL: [Self; 23] = [
        Self::NotBearer,
        Self::Malformed,
        Self::AlgorithmRefused,
        Self::HeaderRefused,
        Self::UnknownKey,
        Self::SignatureInvalid,
        Self::IssuerMismatch,
        Self::AudienceMismatch,
        Self::TokenTypeRefused,
        Self::ClaimMissing("sub"),
        Self::Expired,
        Self::NotYetValid,
        Self::LifetimeTooLong,
        Self::NoKnownRole,
        Self::TrialClaimsInvalid,
        Self::Revoked(RevocationKind::Token),
        Self::Revoked(RevocationKind::Subject),
        Self::Revoked(RevocationKind::Version),
        Self::Revoked(RevocationKind::Key),
        Self::Revoked(RevocationKind::Customer),
        Self::Revoked(RevocationKind::Agent),
        Self::TrialRefused,
        Self::VerificationBudgetSpent,
    ];

    /// The coded reason, for records and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotBearer => "not_bearer",
            Self::Malformed => "malformed",
            Self::AlgorithmRefused => "algorithm_refused",
            Self::HeaderRefused => "header_refused",
            Self::UnknownKey => "unknown_key",
            Self::SignatureInvalid => "signature_invalid",
            Self::IssuerMismatch => "issuer_mismatch",
            Self::AudienceMismatch => "audience_mismatch",
            Self::TokenTypeRefused => "token_type_refused",
            Self::ClaimMissing(_) => "claim_missing",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::LifetimeTooLong => "lifetime_too_long",
            Self::NoKnownRole => "no_known_role",
            Self::TrialClaimsInvalid => "trial_claims_invalid",
            Self::Revoked(RevocationKind::Token) => "token_revoked",
            Self::Revoked(RevocationKind::Subject) => "subject_revoked",
            Self::Revoked(RevocationKind::Version) => "token_version_mismatch",
            Self::Revoked(RevocationKind::Key) => "key_revoked",
            Self::Revoked(RevocationKind::Customer) => "customer_stopped",
            Self::Revoked(RevocationKind::Agent) => "agent_stopped",
            Self::TrialRefused => "trial_refused",
            Self::VerificationBudgetSpent => "verification_budget_spent",
        }
    }
}
