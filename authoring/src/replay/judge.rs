//! One record, decided again.

use super::recorded::{Established, PATH_BYTES_MAX, Principals, Sighted, check_of_state};
use super::{Difference, Outcome, RecordedOutcome, RecordedRequest, Spending, Verdict, Why};
use crate::evaluate::{Asker, Judge, Tabled};
use decision_core::decide;
use decision_core::decision::{ApprovalNeed, Check, Decision, Denial, DenyReason, Permit, RuleVerdict, Target};
use decision_core::facts::{Authentication, RequestFacts};
use decision_core::gateway::Method;
use decision_core::obligations::{Aspect, Obligations};
use decision_core::path::CanonicalPath;
use decision_core::policy::{CompiledPolicy, Metering, Requirement, Route};
use rules::InputField;
use std::sync::Arc;

/// The policy that decided then, and the users of records under it.
#[derive(Debug)]
pub struct Side {
    policy: Arc<CompiledPolicy>,
    principals: Principals,
}

impl Side {
    /// Of this policy.
    #[must_use]
    pub fn new(policy: Arc<CompiledPolicy>) -> Self {
        Self { policy, principals: Principals::default() }
    }
}

/// A policy that recorded requests are decided by.
#[derive(Debug)]
pub struct Replay<'p> {
    policy: &'p CompiledPolicy,
    principals: Principals,
    reads_email: bool,
}

/// What the tables and rules say, or why nothing can be said.
enum Decided {
    Permit(Permit),
    Deny(Denial),
    /// A header that would be looked at has more than one reading.
    Ambiguous,
    Unknown(Why),
}

impl<'p> Replay<'p> {
    /// By this policy, whose custom rules read these `inputs`.
    #[must_use]
    pub fn new(policy: &'p CompiledPolicy, inputs: &[String]) -> Self {
        let reads_email = inputs.iter().any(|input| input == InputField::Email.path());
        Self { policy, principals: Principals::default(), reads_email }
    }

    /// How the record's request would be decided, and what it would cost. `own` is the policy that decided then: without it less
    /// can be told. `rules` are this policy's custom rules.
    pub fn judge<'r>(&mut self, recorded: &RecordedRequest<'r>, own: Option<&mut Side>, rules: &mut dyn Judge) -> Verdict<'r>
    where
        'p: 'r,
    {
        let same = |outcome| Verdict { outcome, spending: Spending::unchanged(recorded) };
        let denied = match recorded.outcome {
            RecordedOutcome::None => return same(Outcome::Undecidable(Why::NotDecided)),
            RecordedOutcome::Indeterminate => return same(Outcome::Undecidable(Why::Indeterminate)),
            RecordedOutcome::Permit if recorded.route.is_none() => return same(Outcome::Same),
            RecordedOutcome::Permit => None,
            RecordedOutcome::Deny => match recorded.denied() {
                None => return same(Outcome::Undecidable(Why::UnknownReason)),
                Some(DenyReason::AmbiguousPath(_)) => return same(Outcome::Same),
                // The headers could not be read at all.
                Some(DenyReason::AmbiguousHeader(_)) if recorded.path == Some("") => return same(Outcome::Same),
                reason => reason,
            },
        };
        let path = match recorded.whole_path().map(|path| CanonicalPath::parse(path.as_bytes())) {
            Ok(Ok(path)) => path,
            Ok(Err(_)) => return same(Outcome::Undecidable(Why::PathCut)),
            Err(why) => return same(Outcome::Undecidable(why)),
        };
        let policy = self.policy;
        let then = own.as_ref().map(|own| Arc::clone(&own.policy));
        let sighted = Sighted { recorded, denied, own: then.as_deref(), path: path.path() };
        if let Some(DenyReason::ClientLimited(_)) = denied
            && let Some(outcome) = of_client_limit(policy, &sighted)
        {
            return same(outcome);
        }
        let decided = decide_anew(policy, &mut self.principals, self.reads_email, &sighted, &path, rules);
        let judged = Judged { sighted, policy, principals: &mut self.principals, own };
        match decided {
            Decided::Unknown(why) => same(Outcome::Undecidable(why)),
            Decided::Ambiguous if matches!(denied, Some(DenyReason::AmbiguousHeader(_))) => same(Outcome::Same),
            Decided::Ambiguous => same(Outcome::Undecidable(Why::CredentialNotLookedAt)),
            Decided::Deny(denial) => {
                let outcome = judged.refused(denial);
                let spending = if outcome == Outcome::Same { Spending::unchanged(recorded) } else { Spending::refused(recorded) };
                Verdict { outcome, spending }
            }
            Decided::Permit(permit) => judged.permitted(&permit),
        }
    }
}

/// Who made the recorded request, as far as `own`, the policy that decided it, asked: to be asked about again.
///
/// # Errors
/// It is not recorded.
pub fn asker(recorded: &RecordedRequest<'_>, own: &CompiledPolicy) -> Result<Asker, Why> {
    let denied = recorded.denied();
    if recorded.outcome == RecordedOutcome::Deny && denied.is_none() {
        return Err(Why::UnknownReason);
    }
    let path = recorded.path.ok_or(Why::NotSeen)?;
    if path.len() >= PATH_BYTES_MAX && !matches!(denied, Some(DenyReason::AmbiguousPath(_))) {
        return Err(Why::PathCut);
    }
    let route = recorded.matched_method().and_then(|method| own.route(recorded.gateway, method, path));
    let wanted = route.filter(|route| route.exchange.upgrade() == recorded.upgrade).map(|route| route.requirement);
    let mut principals = Principals::default();
    match (Sighted { recorded, denied, own: Some(own), path }).established(wanted, &mut principals, own) {
        Established::As(Authentication::Anonymous) => Ok(Asker::Anonymous),
        Established::As(Authentication::Registered) => Ok(Asker::Registered),
        Established::As(Authentication::Refused(fault)) => Ok(Asker::Refused(fault)),
        Established::As(Authentication::Verified(principal)) => Ok(Asker::Verified(Box::new(principal.clone()))),
        Established::Denied => Err(Why::CredentialNotLookedAt),
        Established::Unknown(why) => Err(why),
    }
}

/// Its requests were counted before anything else was looked at: as long as they are counted so, it stays refused.
fn of_client_limit(policy: &CompiledPolicy, sighted: &Sighted<'_, '_>) -> Option<Outcome> {
    let limit = |policy: &CompiledPolicy| {
        let route = sighted.recorded.matched_method().and_then(|method| policy.route(sighted.recorded.gateway, method, sighted.path));
        route.and_then(|route| policy.budget(route.limit?)).map(|budget| (budget.name.clone(), budget.cap, budget.rhythm))
    };
    let now = limit(policy)?;
    match sighted.own.map(limit) {
        Some(Some(then)) if then == now => Some(Outcome::Same),
        Some(_) | None => Some(Outcome::Undecidable(Why::State)),
    }
}

fn decide_anew(
    policy: &CompiledPolicy,
    principals: &mut Principals,
    reads_email: bool,
    sighted: &Sighted<'_, '_>,
    path: &CanonicalPath<'_>,
    rules: &mut dyn Judge,
) -> Decided {
    let recorded = sighted.recorded;
    let Some(method) = recorded.matched_method() else {
        return Decided::Deny(Denial { reason: DenyReason::NoRoute, route: None });
    };
    let route = policy.route(recorded.gateway, method, path.path());
    let wanted = route.filter(|route| route.exchange.upgrade() == recorded.upgrade).map(|route| route.requirement);
    // Where there is no route, or not with this upgrade, nobody is asked who they are.
    let authentication = match sighted.established(wanted, principals, policy) {
        Established::As(authentication) => authentication,
        Established::Denied => return Decided::Ambiguous,
        Established::Unknown(why) => return Decided::Unknown(why),
    };
    let facts = RequestFacts { gateway: recorded.gateway, method, route, authentication, upgrade: recorded.upgrade };
    let decided = match decide(policy, &facts, recorded.at) {
        Decision::Permit(permit) => Ok(permit),
        Decision::Deny(denial) => Err(denial),
        Decision::Conditional(_) if reads_email && recorded.user.is_some_and(|user| user.email.is_none()) => {
            return Decided::Unknown(Why::RuleInput);
        }
        Decision::Conditional(conditional) => {
            let ruling = rules.judge(&Tabled { facts: &facts, path, conditional: &conditional, now: recorded.at });
            conditional.ruled(ruling.verdict, &mut ())
        }
    };
    match decided {
        // More roles could only have helped.
        Err(denial) if may_lack_roles(policy, sighted, denial.reason) => Decided::Unknown(Why::RolesForgotten),
        Err(denial) => Decided::Deny(denial),
        Ok(permit) => Decided::Permit(permit),
    }
}

fn may_lack_roles(policy: &CompiledPolicy, sighted: &Sighted<'_, '_>, reason: DenyReason) -> bool {
    use decision_core::principal::CredentialFault::NoKnownRole;
    let for_roles = matches!(reason, DenyReason::PermissionMissing | DenyReason::CredentialRefused(NoKnownRole));
    let issuer = sighted.recorded.user.map(|user| user.issuer);
    for_roles && issuer.zip(sighted.own).is_some_and(|(issuer, own)| policy.assigns_more_than(own, issuer))
}

/// A record that has an answer, to be compared with the one that it had.
struct Judged<'a, 'r, 'p, 'o> {
    sighted: Sighted<'a, 'r>,
    policy: &'p CompiledPolicy,
    principals: &'o mut Principals,
    own: Option<&'o mut Side>,
}

impl<'r, 'p> Judged<'_, 'r, 'p, '_> {
    fn rule<'n>(&'n self, route: Option<&'n Route>) -> &'n str {
        route.map(|route| &*route.name).or(self.sighted.recorded.route).unwrap_or_default()
    }

    fn refused(&self, denial: Denial) -> Outcome {
        let route = denial.route.and_then(|id| self.policy.route_by_id(id));
        let after = denial.reason;
        match self.sighted.denied {
            Some(before) if before.code() == after.code() => Outcome::Same,
            Some(before) => {
                let check = before.check().min(after.check());
                Outcome::Different(Difference::new(self.rule(route), Aspect::Check(check), before.code(), after.code()))
            }
            None => Outcome::Different(Difference::new(self.rule(route), Aspect::Check(after.check()), "ok", after.code())),
        }
    }

    fn permitted(mut self, permit: &Permit) -> Verdict<'r>
    where
        'p: 'r,
    {
        let outcome = self.compared(permit);
        let recorded = self.sighted.recorded;
        let goes_on = match &outcome {
            Outcome::Same => recorded.outcome == RecordedOutcome::Permit,
            Outcome::Different(difference) => difference.after != DenyReason::ApprovalRequired.code(),
            Outcome::Undecidable(_) => return Verdict { outcome, spending: Spending::unchanged(recorded) },
        };
        let spending = if goes_on { Spending::permitted(recorded, self.policy, permit) } else { Spending::refused(recorded) };
        Verdict { outcome, spending }
    }

    fn compared(&mut self, permit: &Permit) -> Outcome {
        let route = self.policy.route_by_id(permit.route());
        let Some(before) = self.sighted.denied else { return self.both_permitted(permit) };
        if let Some(check) = check_of_state(before) {
            return self.of_state(permit, before, check);
        }
        if let Some(unscoped) = self.unscoped(permit) {
            let same = before.code() == unscoped.code();
            let check = before.check().min(unscoped.check());
            let different = || Difference::new(self.rule(route), Aspect::Check(check), before.code(), unscoped.code());
            return if same { Outcome::Same } else { Outcome::Different(different()) };
        }
        let after = match permit.approval() {
            ApprovalNeed::None => "ok",
            ApprovalNeed::Governor => DenyReason::ApprovalRequired.code(),
        };
        Outcome::Different(Difference::new(self.rule(route), Aspect::Check(before.check()), before.code(), after))
    }

    /// The first budget whose scope names what the user does not have.
    fn unscoped(&mut self, permit: &Permit) -> Option<DenyReason> {
        let user = self.sighted.recorded.user?;
        let principal = self.principals.of(self.policy, &user).ok()??;
        let mut scope = String::new();
        let lacks = |id| {
            scope.clear();
            self.policy.budget(id)?.scope.write_scope(principal, &mut scope).err().map(|_unscoped| DenyReason::BudgetUnscoped(id))
        };
        permit.charges().iter().map(|charge| charge.budget).find_map(lacks)
    }

    /// Refused for something that is not recorded: refused again if what that check is about is the same.
    fn of_state(&mut self, permit: &Permit, before: DenyReason, check: Check) -> Outcome {
        let route = self.policy.route_by_id(permit.route());
        let obligations = Obligations::of(self.policy, permit);
        let gone = match check {
            Check::Ownership => obligations.ownership.is_none(),
            Check::Approval => obligations.approval == ApprovalNeed::None,
            Check::Budget if is_metered(before) => !obligations.metering.is_some_and(|metering| matches!(metering, Metering::Usage { .. })),
            Check::Budget => permit.charges().is_empty(),
            Check::ClientLimit => obligations.limit.is_none(),
            Check::Path | Check::Route | Check::Authentication | Check::Permission | Check::Trial | Check::Routing | Check::Rules => false,
        };
        if gone {
            return Outcome::Different(Difference::new(self.rule(route), Aspect::Check(check), before.code(), "ok"));
        }
        let Some(then) = self.permit_then() else { return Outcome::Undecidable(Why::State) };
        let own = self.sighted.own.unwrap_or(self.policy);
        let of_then = Obligations::of(own, &then);
        let like = match check {
            Check::Ownership => obligations.ownership == of_then.ownership,
            Check::Approval => (obligations.approval, obligations.target) == (of_then.approval, of_then.target),
            Check::Budget => {
                let caps = |policy: &CompiledPolicy, permit: &Permit| -> Vec<_> {
                    let budgets = permit.charges().iter().filter_map(|charge| policy.budget(charge.budget).cloned());
                    budgets.map(|budget| (budget.name, budget.cap, budget.rhythm, budget.scope)).collect()
                };
                let charged = (obligations.charges, obligations.metering) == (of_then.charges, of_then.metering);
                charged && caps(self.policy, permit) == caps(own, &then) && self.policy.prices() == own.prices()
            }
            Check::ClientLimit => obligations.limit == of_then.limit,
            Check::Path | Check::Route | Check::Authentication | Check::Permission | Check::Trial | Check::Routing | Check::Rules => false,
        };
        if like { Outcome::Same } else { Outcome::Undecidable(Why::State) }
    }

    /// What the policy that decided then permitted, decided again. Its custom rules are not asked: the record says how that ended.
    fn permit_then(&mut self) -> Option<Permit> {
        let Side { policy, principals } = self.own.as_deref_mut()?;
        let policy: &CompiledPolicy = policy;
        let recorded = self.sighted.recorded;
        let method: Method = recorded.matched_method()?;
        let route = policy.route(recorded.gateway, method, self.sighted.path)?;
        let wanted: Option<Requirement> = Some(route.requirement);
        let Established::As(authentication) = self.sighted.established(wanted, principals, policy) else { return None };
        let facts = RequestFacts { gateway: recorded.gateway, method, route: Some(route), authentication, upgrade: recorded.upgrade };
        match decide(policy, &facts, recorded.at) {
            Decision::Permit(permit) => Some(permit),
            Decision::Conditional(conditional) => {
                let verdict = RuleVerdict::Allow { target: Some(sandboxed(recorded.sandbox)) };
                conditional.ruled(verdict, &mut ()).ok()
            }
            Decision::Deny(_) => None,
        }
    }

    fn both_permitted(&mut self, permit: &Permit) -> Outcome {
        let route = self.policy.route_by_id(permit.route());
        if let Some(unscoped) = self.unscoped(permit) {
            return Outcome::Different(Difference::new(self.rule(route), Aspect::Check(Check::Budget), "ok", unscoped.code()));
        }
        let recorded = self.sighted.recorded;
        let now = Obligations::of(self.policy, permit);
        if let Some(then) = self.permit_then() {
            let own = self.sighted.own.unwrap_or(self.policy);
            let before = Obligations::of(own, &then);
            let Some(aspect) = before.differences(&now).next() else { return Outcome::Same };
            let (before, after) = (word(&before, aspect), word(&now, aspect));
            return Outcome::Different(Difference::new(self.rule(route), aspect, before, after));
        }
        // Without the policy that decided, what the record itself says is compared.
        let approved = if recorded.approval { ApprovalNeed::Governor } else { ApprovalNeed::None };
        if approved != now.approval {
            let word = |need| if need == ApprovalNeed::Governor { DenyReason::ApprovalRequired.code() } else { "ok" };
            let (aspect, after) = (Aspect::Check(Check::Approval), word(now.approval));
            return Outcome::Different(Difference::new(self.rule(route), aspect, word(approved), after));
        }
        let target = sandboxed(recorded.sandbox);
        if target != now.target {
            let aspect = Aspect::Check(Check::Routing);
            return Outcome::Different(Difference::new(self.rule(route), aspect, target.name(), now.target.name()));
        }
        Outcome::Same
    }
}

const fn sandboxed(sandbox: bool) -> Target {
    if sandbox { Target::Sandbox } else { Target::Production }
}

/// Whether it is about a body that is priced by tokens.
const fn is_metered(reason: DenyReason) -> bool {
    matches!(
        reason,
        DenyReason::MeteredBody
            | DenyReason::MeteredBodyTooLarge
            | DenyReason::AuditedBodyTooLarge
            | DenyReason::OutputUnlimited
            | DenyReason::CostUnbounded(_)
            | DenyReason::ModelUnpriced
    )
}

/// What a permit comes to in one aspect.
fn word(obligations: &Obligations<'_>, aspect: Aspect) -> String {
    let none = || "none".to_owned();
    match aspect {
        Aspect::Check(Check::ClientLimit) => obligations.limit.map_or_else(none, str::to_owned),
        Aspect::Check(Check::Ownership) => obligations.ownership.map_or_else(none, ToString::to_string),
        Aspect::Check(Check::Approval) => match obligations.approval {
            ApprovalNeed::None => "ok".to_owned(),
            ApprovalNeed::Governor => DenyReason::ApprovalRequired.code().to_owned(),
        },
        Aspect::Check(Check::Routing) => obligations.target.name().to_owned(),
        Aspect::Check(Check::Budget) => {
            let charges: Vec<String> = obligations.charges.iter().map(|(budget, amount)| format!("{budget} {amount}")).collect();
            let metered = obligations.metering.filter(|metering| **metering != Metering::Fixed).map(|metering| format!(" by {metering}"));
            let charged = if charges.is_empty() { none() } else { charges.join(", ") };
            charged + &metered.unwrap_or_default()
        }
        Aspect::Check(Check::Path | Check::Route | Check::Authentication | Check::Permission | Check::Trial | Check::Rules) => {
            "ok".to_owned()
        }
        Aspect::Credential => obligations.credential.name().to_owned(),
        Aspect::Rewrite => obligations.rewrite.map_or_else(none, str::to_owned),
        Aspect::Exchange => obligations.exchange.name().to_owned(),
    }
}
