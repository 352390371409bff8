//! The decision: a ladder of checks, cheapest and most certain first. Never allocates.

use crate::decision::{ApprovalNeed, Charges, Check, Conditional, Decision, Denial, DenyReason, Finding, Permit, Target};
use crate::facts::{Authentication, RequestFacts};
use crate::flag::{Switch, SwitchedOff};
use crate::gateway::Gateway;
use crate::policy::{CompiledPolicy, IssuerAcceptance, Requirement, Route};
use crate::principal::{CredentialFault, Principal, Trial};
use crate::time::Timestamp;

/// Watches a decision being made. `()` watches nothing and compiles away.
pub trait Observer {
    /// A check was made, or skipped.
    fn checked(&mut self, _check: Check, _finding: Finding) {}
}

impl Observer for () {}

/// May this caller do this, and what does it take? Whether there is room for the charges is asked of the leases.
pub fn decide(policy: &CompiledPolicy, facts: &RequestFacts<'_>, now: Timestamp) -> Decision {
    decide_observed(policy, facts, now, &mut ())
}

/// [`decide`], watched.
pub fn decide_observed<O: Observer>(policy: &CompiledPolicy, facts: &RequestFacts<'_>, now: Timestamp, observer: &mut O) -> Decision {
    let Some(route) = facts.route else {
        observer.checked(Check::Route, Finding::Refused(DenyReason::NoRoute));
        return Decision::Deny(Denial { reason: DenyReason::NoRoute, route: None });
    };
    observer.checked(Check::Route, Finding::Passed);
    match decide_on_route(policy, route, facts, now, observer) {
        Ok(decision) => decision,
        Err(reason) => {
            observer.checked(reason.check(), Finding::Refused(reason));
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
) -> Result<Decision, DenyReason> {
    if facts.upgrade != route.exchange.upgrade() {
        return Err(DenyReason::UpgradeRefused);
    }
    let permission = match route.requirement {
        Requirement::Public => return permit_anonymous(policy, route).map(Decision::Permit),
        Requirement::RegistrationKey => {
            return match facts.authentication {
                Authentication::Registered => {
                    observer.checked(Check::Authentication, Finding::Passed);
                    permit_anonymous(policy, route).map(Decision::Permit)
                }
                Authentication::Anonymous | Authentication::Verified(_) | Authentication::Refused(_) => {
                    Err(DenyReason::RegistrationKeyRefused)
                }
            };
        }
        Requirement::Authenticated => None,
        Requirement::Permission(permission) => Some(permission),
    };
    let principal = authenticated(policy, facts)?;
    observer.checked(Check::Authentication, Finding::Passed);
    if route.flag.is_some_and(|flag| !principal.flags.contains(flag)) {
        return Err(DenyReason::FeatureDisabled);
    }
    let off = switched_off(principal, facts.gateway);
    if let Some(permission) = permission
        && facts.gateway.checks_permissions()
    {
        check(observer, off, Switch::Permission, Check::Permission, || {
            if principal.permissions.covers(permission) { Ok(()) } else { Err(DenyReason::PermissionMissing) }
        })?;
    }
    check(observer, off, Switch::Trial, Check::Trial, || check_trial(route, principal, now))?;
    if route.ownership.is_some() {
        if principal.identity.customer_id.is_none() {
            return Err(DenyReason::OwnerMissing);
        }
        observer.checked(Check::Ownership, Finding::Passed);
    }
    let permit = Permit {
        route: route.id,
        target: target(policy, principal, off, observer),
        approval: approval(route, principal, off, observer),
        charges: charges_of(policy, route, principal, facts, off, observer),
    };
    if !policy.ruled().contains(facts.gateway) {
        return Ok(Decision::Permit(permit));
    }
    if off.contains(Switch::Rules) {
        observer.checked(Check::Rules, Finding::SkippedByFlag);
        return Ok(Decision::Permit(permit));
    }
    Ok(Decision::Conditional(Conditional(permit)))
}

fn permit_anonymous(policy: &CompiledPolicy, route: &Route) -> Result<Permit, DenyReason> {
    if route.flag.is_some_and(|flag| !policy.flags_of(None).0.contains(flag)) {
        return Err(DenyReason::FeatureDisabled);
    }
    Ok(Permit { route: route.id, target: Target::Production, approval: ApprovalNeed::None, charges: Charges::default() })
}

fn authenticated<'r>(policy: &CompiledPolicy, facts: &RequestFacts<'r>) -> Result<&'r Principal, DenyReason> {
    let principal = match facts.authentication {
        Authentication::Verified(principal) => principal,
        Authentication::Anonymous | Authentication::Registered => return Err(DenyReason::CredentialMissing),
        Authentication::Refused(fault) => return Err(DenyReason::CredentialRefused(fault)),
    };
    // Keys are bound to issuers and issuers to gateways: a portal's token opens that portal only.
    match policy.accepts_issuer(&principal.identity.issuer, facts.gateway) {
        IssuerAcceptance::Accepted => Ok(principal),
        IssuerAcceptance::Foreign => Err(DenyReason::CredentialRefused(CredentialFault::IssuerMismatch)),
    }
}

/// What flags switch off for this user here. Nothing on the control plane's own API: a flag must not open it.
fn switched_off(principal: &Principal, gateway: Gateway) -> SwitchedOff {
    match gateway {
        Gateway::Cp | Gateway::Pp | Gateway::Plant => principal.switched_off,
        Gateway::Admin => SwitchedOff::default(),
    }
}

/// Makes a check, unless a flag switches it off for this user.
fn check<O: Observer>(
    observer: &mut O,
    off: SwitchedOff,
    switch: Switch,
    check: Check,
    make: impl FnOnce() -> Result<(), DenyReason>,
) -> Result<(), DenyReason> {
    if off.contains(switch) {
        observer.checked(check, Finding::SkippedByFlag);
        return Ok(());
    }
    make()?;
    observer.checked(check, Finding::Passed);
    Ok(())
}

fn check_trial(route: &Route, principal: &Principal, now: Timestamp) -> Result<(), DenyReason> {
    match principal.identity.trial {
        Trial::Until(end) if now > end => Err(DenyReason::TrialExpired),
        Trial::Until(_) if route.closed_to_trials => Err(DenyReason::TrialRestricted),
        Trial::Until(_) | Trial::No => Ok(()),
    }
}

fn target<O: Observer>(policy: &CompiledPolicy, principal: &Principal, off: SwitchedOff, observer: &mut O) -> Target {
    let elsewhere = principal.identity.trial != Trial::No && policy.settings().trial_target != Target::Production;
    if !elsewhere {
        return Target::Production;
    }
    if off.contains(Switch::Routing) {
        observer.checked(Check::Routing, Finding::SkippedByFlag);
        return Target::Production;
    }
    policy.settings().trial_target
}

fn approval<O: Observer>(route: &Route, principal: &Principal, off: SwitchedOff, observer: &mut O) -> ApprovalNeed {
    if !route.governor_approval || principal.governor {
        return ApprovalNeed::None;
    }
    if off.contains(Switch::Approval) {
        observer.checked(Check::Approval, Finding::SkippedByFlag);
        return ApprovalNeed::None;
    }
    ApprovalNeed::Governor
}

fn charges_of<O: Observer>(
    policy: &CompiledPolicy,
    route: &Route,
    principal: &Principal,
    facts: &RequestFacts<'_>,
    off: SwitchedOff,
    observer: &mut O,
) -> Charges {
    let mut charges = Charges::default();
    if off.contains(Switch::Budget) {
        if !route.charges.is_empty() {
            observer.checked(Check::Budget, Finding::SkippedByFlag);
        }
        return charges;
    }
    for charge in route.charges.iter() {
        let applies =
            policy.budget(charge.budget).is_some_and(|budget| budget.applies_to(principal.tier) && budget.gateways.contains(facts.gateway));
        if applies {
            charges.push(*charge);
        }
    }
    charges
}
