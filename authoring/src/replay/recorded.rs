//! What a record of the audit log tells of its request: as much of it as decisions read.

use super::Why;
use decision_core::decision::{Check, DenyReason};
use decision_core::facts::{Authentication, Upgrade};
use decision_core::gateway::{Gateway, Method};
use decision_core::policy::{CompiledPolicy, Requirement};
use decision_core::principal::{CredentialFault, Identity, Principal, Trial};
use decision_core::time::Timestamp;
use metering::Usage;
use std::collections::HashMap;

/// The longest path that records have whole, in bytes.
pub(super) const PATH_BYTES_MAX: usize = 1_024;

/// Users that are kept made up. As many again, and all are made anew: replay takes constant memory.
const PRINCIPALS_MAX: usize = 8_192;

/// One record, as far as it can be judged by another policy.
#[derive(Clone, Copy, Debug)]
pub struct RecordedRequest<'r> {
    /// Its id, for examples.
    pub request_id: &'r str,
    /// Its correlation id, for examples.
    pub correlation_id: &'r str,
    /// When it arrived.
    pub at: Timestamp,
    /// Where it came to.
    pub gateway: Gateway,
    /// Its method, as sent; absent where the filter did not see it. So for the path.
    pub method: Option<&'r str>,
    /// Its path, without query.
    pub path: Option<&'r str>,
    /// Which protocol it asked to change to.
    pub upgrade: Upgrade,
    /// Whose token was verified, if one was.
    pub user: Option<RecordedUser<'r>>,
    /// What was decided.
    pub outcome: RecordedOutcome,
    /// The coded reason.
    pub reason: &'r str,
    /// The route that matched.
    pub route: Option<&'r str>,
    /// Whether the sandbox was the target.
    pub sandbox: bool,
    /// Whether an approval was presented or asked for.
    pub approval: bool,
    /// What was charged in the end; 0 where it was released.
    pub charges: &'r [RecordedCharge<'r>],
    /// Whether a budget could not be asked, and the request went on all the same.
    pub failed_open: bool,
    /// The model and the tokens that were priced.
    pub usage: Option<(&'r str, Usage)>,
    /// The revision that decided.
    pub revision: u64,
    /// Of how many requests like this one has a record.
    pub sampled_of: u32,
}

/// The user of a record.
#[derive(Clone, Copy, Debug)]
pub struct RecordedUser<'r> {
    /// The policy's name for the issuer.
    pub issuer: &'r str,
    /// The `sub` claim.
    pub subject: &'r str,
    /// The `user_id` claim.
    pub user_id: &'r str,
    /// The `email` claim, where it was recorded.
    pub email: Option<&'r str>,
    /// The `customer_id` claim.
    pub customer_id: Option<&'r str>,
    /// The `agent_id` claim.
    pub agent_id: Option<&'r str>,
    /// The `governor_agent_id` claim.
    pub governor_agent_id: Option<&'r str>,
    /// The roles that the issuer could assign then.
    pub roles: &'r [String],
    /// The `tier` claim.
    pub tier: Option<&'r str>,
    /// Whether on trial; absent where the record says so and not until when.
    pub trial: Option<Trial>,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordedOutcome {
    /// It went on, or the filter's own health endpoint answered.
    Permit,
    /// A rule refused.
    Deny,
    /// It could not be decided.
    Indeterminate,
    /// It was not decided.
    None,
}

/// What was charged on one account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedCharge<'r> {
    /// The budget's name.
    pub budget: &'r str,
    /// How much.
    pub amount: i64,
}

/// The check that refused for something that is not recorded: what was left in a budget, what a governor said, what was in the
/// body. Nothing where policy and facts decide alone.
pub(super) const fn check_of_state(reason: DenyReason) -> Option<Check> {
    match reason {
        DenyReason::AmbiguousPath(_)
        | DenyReason::AmbiguousHeader(_)
        | DenyReason::NoRoute
        | DenyReason::FeatureDisabled
        | DenyReason::UpgradeRefused
        | DenyReason::CredentialMissing
        | DenyReason::CredentialRefused(_)
        | DenyReason::RegistrationKeyRefused
        | DenyReason::PermissionMissing
        | DenyReason::TrialExpired
        | DenyReason::TrialRestricted
        | DenyReason::OwnerMissing
        | DenyReason::RuleRefused
        | DenyReason::BudgetUnscoped(_) => None,
        DenyReason::ClientLimited(_)
        | DenyReason::BodyNotObject
        | DenyReason::BodyKeyRepeated
        | DenyReason::BodyTooLarge
        | DenyReason::ApprovalHeader(_)
        | DenyReason::ApprovalRequired
        | DenyReason::ApprovalRefused
        | DenyReason::ApprovalBodyTooLarge
        | DenyReason::MeteredBody
        | DenyReason::MeteredBodyTooLarge
        | DenyReason::AuditedBodyTooLarge
        | DenyReason::OutputUnlimited
        | DenyReason::CostUnbounded(_)
        | DenyReason::ModelUnpriced
        | DenyReason::BudgetSpent(_) => Some(reason.check()),
    }
}

/// What the filter looked at of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    Nothing,
    RegistrationKey,
    Token,
    /// The policy that decided is not at hand.
    Unknown,
}

/// What is known of the caller.
pub(super) enum Established<'a> {
    As(Authentication<'a>),
    /// A header has more than one reading.
    Denied,
    Unknown(Why),
}

impl<'r> RecordedRequest<'r> {
    /// The method that routes are matched by: opening a WebSocket is a GET, also where HTTP/2 says CONNECT (RFC 8441 §5).
    #[must_use]
    pub fn matched_method(&self) -> Option<Method> {
        match (self.method?, self.upgrade) {
            ("CONNECT", Upgrade::Websocket) => Some(Method::Get),
            (method, Upgrade::None | Upgrade::Websocket | Upgrade::Other) => Method::parse(method.as_bytes()),
        }
    }

    /// The path, if the record has it whole.
    ///
    /// # Errors
    /// It has none, or perhaps only its beginning.
    pub fn whole_path(&self) -> Result<&'r str, Why> {
        let path = self.path.ok_or(Why::NotSeen)?;
        if path.len() < PATH_BYTES_MAX { Ok(path) } else { Err(Why::PathCut) }
    }

    /// Why it was refused. What the reason carries beside its code is made up.
    #[must_use]
    pub fn denied(&self) -> Option<DenyReason> {
        if self.outcome != RecordedOutcome::Deny {
            return None;
        }
        DenyReason::all().find(|known| known.code() == self.reason)
    }
}

/// A record that is judged, with what was found out about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sighted<'a, 'r> {
    pub(super) recorded: &'a RecordedRequest<'r>,
    /// Why it was refused.
    pub(super) denied: Option<DenyReason>,
    /// The policy that decided then, if it is at hand.
    pub(super) own: Option<&'a CompiledPolicy>,
    /// Its path, whole and canonical.
    pub(super) path: &'a str,
}

impl Sighted<'_, '_> {
    fn looked(&self) -> Looked {
        if self.recorded.user.is_some() {
            return Looked::Token;
        }
        if let Some(own) = self.own {
            let route = self.recorded.matched_method().and_then(|method| own.route(self.recorded.gateway, method, self.path));
            return match route.map(|route| route.requirement) {
                Some(Requirement::Authenticated | Requirement::Permission(_)) => Looked::Token,
                Some(Requirement::RegistrationKey) => Looked::RegistrationKey,
                Some(Requirement::Public) | None => Looked::Nothing,
            };
        }
        match self.denied {
            Some(DenyReason::CredentialMissing | DenyReason::CredentialRefused(_)) => Looked::Token,
            Some(DenyReason::RegistrationKeyRefused) => Looked::RegistrationKey,
            _ if self.recorded.route.is_none() => Looked::Nothing,
            _ => Looked::Unknown,
        }
    }

    /// What is known of the caller of what this requirement asks for.
    pub(super) fn established<'p>(
        &self,
        wanted: Option<Requirement>,
        principals: &'p mut Principals,
        policy: &CompiledPolicy,
    ) -> Established<'p> {
        match (wanted, self.looked()) {
            (None | Some(Requirement::Public), _) => Established::As(Authentication::Anonymous),
            // Counted before anything was looked at.
            (Some(_), _) if matches!(self.denied, Some(DenyReason::ClientLimited(_))) => Established::Unknown(Why::CredentialNotLookedAt),
            (Some(Requirement::RegistrationKey), Looked::RegistrationKey) => match self.denied {
                Some(DenyReason::RegistrationKeyRefused) => Established::As(Authentication::Anonymous),
                Some(DenyReason::AmbiguousHeader(_)) => Established::Denied,
                // The upgrade is looked at before the key is.
                Some(DenyReason::UpgradeRefused) => Established::Unknown(Why::CredentialNotLookedAt),
                _ => Established::As(Authentication::Registered),
            },
            (Some(Requirement::Authenticated | Requirement::Permission(_)), Looked::Token) => self.of_token(principals, policy),
            (Some(_), _) => Established::Unknown(Why::CredentialNotLookedAt),
        }
    }

    fn of_token<'p>(&self, principals: &'p mut Principals, policy: &CompiledPolicy) -> Established<'p> {
        if let Some(user) = &self.recorded.user {
            if let Some(DenyReason::CredentialRefused(revoked @ CredentialFault::Revoked(_))) = self.denied {
                return Established::As(Authentication::Refused(revoked));
            }
            return match principals.of(policy, user) {
                Ok(Some(principal)) => Established::As(Authentication::Verified(principal)),
                Ok(None) => Established::As(Authentication::Refused(CredentialFault::NoKnownRole)),
                Err(why) => Established::Unknown(why),
            };
        }
        match self.denied {
            // Who it is was forgotten with the roles that were not known.
            Some(DenyReason::CredentialRefused(CredentialFault::NoKnownRole)) => Established::Unknown(Why::UserForgotten),
            // What was not good then is not asked again: another policy may have other keys, and records have no tokens.
            Some(DenyReason::CredentialRefused(fault)) => Established::As(Authentication::Refused(fault)),
            Some(DenyReason::CredentialMissing) => Established::As(Authentication::Anonymous),
            Some(DenyReason::AmbiguousHeader(_)) => Established::Denied,
            _ => Established::Unknown(Why::UserForgotten),
        }
    }
}

/// Users of records under one policy, made up once for many records.
#[derive(Debug, Default)]
pub(super) struct Principals {
    known: HashMap<Box<str>, Option<Principal>>,
    key: String,
}

impl Principals {
    /// The user under the policy; none when it knows none of its roles.
    pub(super) fn of(&mut self, policy: &CompiledPolicy, user: &RecordedUser<'_>) -> Result<Option<&Principal>, Why> {
        let trial = user.trial.ok_or(Why::TrialEndForgotten)?;
        self.write_key(user, trial);
        if !self.known.contains_key(self.key.as_str()) {
            if self.known.len() >= PRINCIPALS_MAX {
                self.known.clear();
            }
            self.known.insert(self.key.as_str().into(), policy.principal(identity(user, trial)));
        }
        Ok(self.known.get(self.key.as_str()).and_then(Option::as_ref))
    }

    /// Every part with its length, so that no two users have one key.
    fn write_key(&mut self, user: &RecordedUser<'_>, trial: Trial) {
        let key = &mut self.key;
        key.clear();
        let mut part = |text: Option<&str>| {
            // A byte for what is absent and four for a length: numbers below the surrogates are characters of their own.
            let length = text.map_or(u32::MAX, |text| u32::try_from(text.len()).unwrap_or(u32::MAX));
            for shift in [24, 16, 8, 0] {
                key.push(char::from(u8::try_from(length >> shift & 0xff).unwrap_or(0)));
            }
            key.push_str(text.unwrap_or_default());
        };
        [user.issuer, user.subject, user.user_id].into_iter().for_each(|text| part(Some(text)));
        [user.email, user.customer_id, user.agent_id, user.governor_agent_id, user.tier].into_iter().for_each(&mut part);
        user.roles.iter().for_each(|role| part(Some(role)));
        if let Trial::Until(end) = trial {
            for byte in end.as_micros().to_be_bytes() {
                key.push(char::from(byte));
            }
        }
    }
}

fn identity(user: &RecordedUser<'_>, trial: Trial) -> Identity {
    Identity {
        issuer: user.issuer.into(),
        subject: user.subject.into(),
        user_id: user.user_id.into(),
        // Custom rules that read what is not recorded are not asked.
        email: user.email.unwrap_or_default().into(),
        customer_id: user.customer_id.map(Into::into),
        agent_id: user.agent_id.map(Into::into),
        governor_agent_id: user.governor_agent_id.map(Into::into),
        roles: user.roles.iter().map(|role| role.as_str().into()).collect(),
        tier: user.tier.map(Into::into),
        trial,
        token_id: None,
        token_version: None,
        key_id: None,
        issued_at: Timestamp::EPOCH,
        expires_at: Timestamp::MAX,
    }
}
