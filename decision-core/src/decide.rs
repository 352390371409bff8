//! The decision: a ladder of checks, cheapest and most certain first. Never allocates.

use crate::decision::{ApprovalNeed, Charges, Check, Decision, Denial, DenyReason, Permit, Target};
use crate::facts::{Authentication, RequestFacts};
use crate::policy::{CompiledPolicy, IssuerAcceptance, Requirement, Route};
use crate::principal::{CredentialFault, Principal, Trial};
use crate::time::Timestamp;

/// Watches a decision being made. `()` watches nothing and compiles away.
pub trait Observer {
    /// A check was made, and refused for `refused` if that is given.
    fn checked(&mut self, _check: Check, _refused: Option<DenyReason>) {}
}

impl Observer for () {}

/// May this caller do this, and what does it take? Whether there is room for the charges is asked of the leases.
pub fn decide(policy: &CompiledPolicy, facts: &RequestFacts<'_>, now: Timestamp) -> Decision {
    decide_observed(policy, facts, now, &mut ())
}

/// [`decide`], watched.
pub fn decide_observed<O: Observer>(policy: &CompiledPolicy, facts: &RequestFacts<'_>, now: Timestamp, observer: &mut O) -> Decision {
    let Some(route) = facts.route else {
        observer.checked(Check::Route, Some(DenyReason::NoRoute));
        return Decision::Deny(Denial { reason: DenyReason::NoRoute, route: None });
    };
    observer.checked(Check::Route, None);
    match decide_on_route(policy, route, facts, now, observer) {
        Ok(permit) => Decision::Permit(permit),
        Err(reason) => {
            observer.checked(reason.check(), Some(reason));
            Decision::Deny(Denial { reason, route: Some(route.id) })
        }
    }
}

fn decide_on_route<O: Observer>(
    policy: &CompiledPolicy,
    route: &Route,
    facts: &RequestFacts<'_>,
    now: Timestamp,
    observer: &mut O,
) -> Result<Permit, DenyReason> {
    let anonymous = Permit { route: route.id, target: Target::Production, approval: ApprovalNeed::None, charges: Charges::default() };
    let permission = match route.requirement {
        Requirement::Public => return Ok(anonymous),
        Requirement::RegistrationKey => {
            return match facts.authentication {
                Authentication::Registered => {
                    observer.checked(Check::Authentication, None);
                    Ok(anonymous)
                }
                Authentication::Anonymous | Authentication::Verified(_) | Authentication::Refused(_) => {
                    Err(DenyReason::RegistrationKeyRefused)
                }
            };
        }
        Requirement::Authenticated => None,
        Requirement::Permission(permission) => Some(permission),
    };
    let principal = match facts.authentication {
        Authentication::Verified(principal) => principal,
        Authentication::Anonymous | Authentication::Registered => return Err(DenyReason::CredentialMissing),
        Authentication::Refused(fault) => return Err(DenyReason::CredentialRefused(fault)),
    };
    // Keys are bound to issuers and issuers to gateways: a portal's token opens that portal only.
    if policy.accepts_issuer(&principal.identity.issuer, facts.gateway) == IssuerAcceptance::Foreign {
        return Err(DenyReason::CredentialRefused(CredentialFault::IssuerMismatch));
    }
    observer.checked(Check::Authentication, None);
    if let Some(permission) = permission
        && facts.gateway.checks_permissions()
    {
        if !principal.permissions.covers(permission) {
            return Err(DenyReason::PermissionMissing);
        }
        observer.checked(Check::Permission, None);
    }
    let target = check_trial(policy, route, principal, now)?;
    observer.checked(Check::Trial, None);
    let approval = if route.governor_approval && !principal.governor { ApprovalNeed::Governor } else { ApprovalNeed::None };
    Ok(Permit { route: route.id, target, approval, charges: charges_of(policy, route, principal, facts) })
}

fn check_trial(policy: &CompiledPolicy, route: &Route, principal: &Principal, now: Timestamp) -> Result<Target, DenyReason> {
    match principal.identity.trial {
        Trial::No => Ok(Target::Production),
        Trial::Until(end) if now > end => Err(DenyReason::TrialExpired),
        Trial::Until(_) if route.closed_to_trials => Err(DenyReason::TrialRestricted),
        Trial::Until(_) if policy.settings().trial_to_sandbox => Ok(Target::Sandbox),
        Trial::Until(_) => Ok(Target::Production),
    }
}

fn charges_of(policy: &CompiledPolicy, route: &Route, principal: &Principal, facts: &RequestFacts<'_>) -> Charges {
    let mut charges = Charges::default();
    for charge in &route.charges {
        let applies =
            policy.budget(charge.budget).is_some_and(|budget| budget.applies_to(principal.tier) && budget.gateways.contains(facts.gateway));
        if applies {
            charges.push(*charge);
        }
    }
    charges
}
