//! Who a request comes from: the verified-token cache, the strict verifier, revocation, and registration keys.

use crate::counters::name;
use crate::facts::RequestHeaders;
use crate::host::Host;
use crate::key_asks::KeyWait;
use crate::revoked::VerifiedToken;
use crate::signature::{Asked, Verifier};
use crate::vm::{Active, Vm};
use authn::{KeysKnown, Unauthenticated};
use decision_core::decision::DenyReason;
use decision_core::facts::Authentication;
use decision_core::failure::{Fault, Resolution, resolve};
use decision_core::policy::{Requirement, Route};
use decision_core::principal::{CredentialFault, Principal, RevocationKind};
use decision_core::time::Timestamp;
use sha2::{Digest, Sha256};
use std::rc::Rc;

/// What a request presents.
#[derive(Debug)]
pub(crate) enum Presented {
    /// Nothing that the route asks for.
    Nothing,
    Token(Rc<VerifiedToken>, Revocation),
    /// A token that was good. Whose it is may be recorded.
    Revoked(Rc<Principal>, RevocationKind),
    Bad(CredentialFault),
    Registered,
}

/// Whether a token was looked up among the revoked ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Revocation {
    Checked,
    /// What is revoked is not known, and the policy lets good tokens pass all the same.
    Unknown,
}

/// Why it cannot be said who a request comes from.
#[derive(Debug)]
pub(crate) enum Unjudged {
    /// The request is refused whatever comes.
    Denied(DenyReason),
    /// It has to come again.
    Failed(Fault),
    /// It can be said as soon as this is known.
    Missing(Missing),
}

/// What a request waits for before it can be judged.
#[derive(Debug)]
pub(crate) enum Missing {
    /// The first bundle.
    Policy,
    /// What is revoked.
    Revocations,
    /// The keys of the token's issuer.
    Keys,
    /// A key that the issuer may have published lately.
    Key(KeyWait),
}

impl From<DenyReason> for Unjudged {
    fn from(reason: DenyReason) -> Self {
        Self::Denied(reason)
    }
}

impl Presented {
    pub(crate) fn authentication(&self) -> Authentication<'_> {
        match self {
            Self::Nothing => Authentication::Anonymous,
            Self::Token(token, _) => Authentication::Verified(&token.principal),
            Self::Revoked(_, kind) => Authentication::Refused(CredentialFault::Revoked(*kind)),
            Self::Bad(fault) => Authentication::Refused(*fault),
            Self::Registered => Authentication::Registered,
        }
    }
}

/// What the request presents of what its route asks for.
pub(crate) fn present(
    headers: &RequestHeaders,
    route: Option<&Route>,
    vm: &mut Vm,
    host: &impl Host,
    active: &Active,
    now: Timestamp,
) -> Result<Presented, Unjudged> {
    match route.map(|route| route.requirement) {
        Some(Requirement::Authenticated | Requirement::Permission(_)) => token(headers, vm, host, active, now),
        Some(Requirement::RegistrationKey) => Ok(registration(headers, active)?),
        Some(Requirement::Public) | None => Ok(Presented::Nothing),
    }
}

fn token(headers: &RequestHeaders, vm: &mut Vm, host: &impl Host, active: &Active, now: Timestamp) -> Result<Presented, Unjudged> {
    let Some(authorization) = headers.authorization()? else { return Ok(Presented::Nothing) };
    let revocation = check_knowledge(vm, active, now)?;
    // By the token alone: whoever has one could write the scheme in a thousand ways, and push out everybody else's.
    let Ok(token) = authn::after_scheme(authorization) else { return Ok(Presented::Bad(CredentialFault::NotBearer)) };
    if let Some(known) = vm.tokens.get(token, now).map(Rc::clone) {
        return Ok(judged(&known, vm, revocation));
    }
    let implementation = vm.implementation(host);
    let mut verifier = Verifier { host, implementation, failures: &mut vm.failures, now, asked: Asked::No };
    let verified = authn::authenticate(&active.issuers, authorization, now, &mut verifier);
    let asked = verifier.asked;
    if asked != Asked::No {
        vm.counters.add(host, name::TOKENS_VERIFIED, 1);
    }
    let verified = verified.and_then(|identity| Ok(active.policy.principal(identity).ok_or(CredentialFault::NoKnownRole)?));
    match verified {
        Ok(principal) => {
            let good_until = principal.identity.expires_at.min(keys_good_until(active, &principal.identity.issuer));
            let verified = Rc::new(VerifiedToken::new(Rc::new(principal)));
            // Also if it is revoked: a token that was good once must not cost a verification each time that it is tried again.
            vm.tokens.insert(token, Rc::clone(&verified), good_until);
            Ok(judged(&verified, vm, revocation))
        }
        Err(Unauthenticated::KeysUnavailable) => Err(Unjudged::Missing(Missing::Keys)),
        Err(Unauthenticated::KeyUnknown { issuer }) => match vm.key_asks.ask(&issuer, now) {
            Some(wait) => {
                if vm.key_asks.is_pending() {
                    vm.sync.hurry();
                }
                Err(Unjudged::Missing(Missing::Key(wait)))
            }
            // Asked already, and not there; or too many wait.
            None => Ok(Presented::Bad(CredentialFault::UnknownKey)),
        },
        Err(Unauthenticated::Refused(_)) if asked == Asked::TurnedAway => Ok(Presented::Bad(CredentialFault::VerificationBudgetSpent)),
        Err(Unauthenticated::Refused(fault)) => {
            vm.failures.failed(asked, now);
            Ok(Presented::Bad(fault))
        }
    }
}

/// A token that was verified is worth no more than the key that verified it.
fn keys_good_until(active: &Active, issuer: &str) -> Timestamp {
    match active.issuers.iter().find(|rules| *rules.name == *issuer).map(|rules| rules.keys_known) {
        Some(KeysKnown::Until(until)) => until,
        Some(KeysKnown::Always | KeysKnown::NotYet) | None => Timestamp::MAX,
    }
}

/// Tokens are judged by keys and revocations that somebody has vouched for lately.
fn check_knowledge(vm: &Vm, active: &Active, now: Timestamp) -> Result<Revocation, Unjudged> {
    let settings = active.policy.settings();
    if vm.contact.is_stale(settings.stale_after, now) {
        return Err(Unjudged::Failed(Fault::KeysUnavailable));
    }
    if vm.revoked.known().is_some() {
        return Ok(Revocation::Checked);
    }
    match resolve(Fault::RevocationUnknown, settings.failure_modes.revocation) {
        Resolution::FailedOpen => Ok(Revocation::Unknown),
        Resolution::FailedClosed => Err(Unjudged::Missing(Missing::Revocations)),
    }
}

fn judged(token: &Rc<VerifiedToken>, vm: &Vm, revocation: Revocation) -> Presented {
    match vm.revoked.verdict(token) {
        None => Presented::Token(Rc::clone(token), revocation),
        // Whoever has that key may write any name into a token.
        Some(kind @ RevocationKind::Key) => Presented::Bad(CredentialFault::Revoked(kind)),
        Some(kind) => Presented::Revoked(Rc::clone(&token.principal), kind),
    }
}

/// Compared by hash, all keys, in constant time.
fn registration(headers: &RequestHeaders, active: &Active) -> Result<Presented, DenyReason> {
    let Some(key) = headers.registration_key()? else { return Ok(Presented::Nothing) };
    let presented: [u8; 32] = Sha256::digest(key.trim_ascii()).into();
    let mut found = 0;
    for known in &active.registration_key_hashes {
        let difference = known.iter().zip(presented).fold(0, |difference, (a, b)| difference | (a ^ b));
        found |= u8::from(std::hint::black_box(difference) == 0);
    }
    Ok(if found == 0 { Presented::Nothing } else { Presented::Registered })
}
