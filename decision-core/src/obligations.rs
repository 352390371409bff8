//! What a permit comes to, in names and values: who carries it out, compares it or shows it asks here.

use crate::budget::Units;
use crate::decision::{ApprovalNeed, Check, Permit, Target};
use crate::policy::{CHARGES_MAX, CompiledPolicy, CredentialForwarding, ExchangeKind, Metering, Ownership, Route};

/// What has to be done for a permitted request (XACML's obligations). Equal ones are carried out alike, whichever policies they
/// are of. Made and compared without allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Obligations<'p> {
    /// The budget that counts the requests of its client address.
    pub limit: Option<&'p str>,
    /// Where the caller's customer id is forced into it.
    pub ownership: Option<&'p Ownership>,
    /// Whether a grant has to be consumed.
    pub approval: ApprovalNeed,
    /// Where it goes.
    pub target: Target,
    /// What the backend gets as credential.
    pub credential: CredentialForwarding,
    /// The path that the backend gets instead.
    pub rewrite: Option<&'p str>,
    /// What kind of exchange it is.
    pub exchange: ExchangeKind,
    /// What is reserved.
    pub charges: NamedCharges<'p>,
    /// How it becomes known what it cost.
    pub metering: Option<&'p Metering>,
}

/// Charges by the names of their budgets, in the order of those: how a policy lists its budgets is no difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedCharges<'p>([Option<(&'p str, Units)>; CHARGES_MAX]);

impl<'p> NamedCharges<'p> {
    fn of(policy: &'p CompiledPolicy, permit: &Permit) -> Self {
        let mut named = [None; CHARGES_MAX];
        let charges = permit.charges().iter().filter_map(|charge| Some((&*policy.budget(charge.budget)?.name, charge.amount)));
        named.iter_mut().zip(charges).for_each(|(slot, charge)| *slot = Some(charge));
        named.sort_unstable();
        Self(named)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&'p str, Units)> + '_ {
        self.0.iter().copied().flatten()
    }
}

/// In what the obligations of two permits may differ: what a check found, or what becomes of the request after all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aspect {
    /// What a check found.
    Check(Check),
    /// What the backend gets as credential.
    Credential,
    /// The path that the backend gets.
    Rewrite,
    /// What kind of exchange it is.
    Exchange,
}

impl Aspect {
    /// Those of obligations, in the order in which they come to bear.
    pub const OF_OBLIGATIONS: [Self; 8] = [
        Self::Check(Check::ClientLimit),
        Self::Check(Check::Ownership),
        Self::Check(Check::Approval),
        Self::Check(Check::Routing),
        Self::Credential,
        Self::Rewrite,
        Self::Exchange,
        Self::Check(Check::Budget),
    ];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Check(check) => check.name(),
            Self::Credential => "credential",
            Self::Rewrite => "rewrite",
            Self::Exchange => "exchange",
        }
    }
}

impl<'p> Obligations<'p> {
    /// Those of a permit that this policy gave.
    #[must_use]
    pub fn of(policy: &'p CompiledPolicy, permit: &Permit) -> Self {
        let route = policy.route_by_id(permit.route());
        Self {
            limit: route.and_then(|route| policy.budget(route.limit?)).map(|budget| &*budget.name),
            ownership: route.and_then(|route| route.ownership.as_ref()),
            approval: permit.approval(),
            target: permit.target(),
            credential: credential(route, permit.target()),
            rewrite: route.and_then(|route| route.rewrite.as_deref()),
            exchange: route.map(|route| route.exchange).unwrap_or_default(),
            charges: NamedCharges::of(policy, permit),
            metering: route.map(|route| &route.metering),
        }
    }

    /// In what they differ from others, in the order in which it comes to bear.
    pub fn differences(&self, other: &Self) -> impl Iterator<Item = Aspect> {
        Aspect::OF_OBLIGATIONS.into_iter().filter(|aspect| self.differ(other, *aspect))
    }

    fn differ(&self, other: &Self, aspect: Aspect) -> bool {
        match aspect {
            Aspect::Check(Check::ClientLimit) => self.limit != other.limit,
            Aspect::Check(Check::Ownership) => self.ownership != other.ownership,
            Aspect::Check(Check::Approval) => self.approval != other.approval,
            Aspect::Check(Check::Routing) => self.target != other.target,
            Aspect::Check(Check::Budget) => (self.charges, self.metering) != (other.charges, other.metering),
            // Passed or not: nothing of them is left in a permit.
            Aspect::Check(Check::Path | Check::Route | Check::Authentication | Check::Permission | Check::Trial | Check::Rules) => false,
            Aspect::Credential => self.credential != other.credential,
            Aspect::Rewrite => self.rewrite != other.rewrite,
            Aspect::Exchange => self.exchange != other.exchange,
        }
    }
}

/// What the backend gets as credential: the sandbox never a live token.
#[must_use]
pub const fn credential(route: Option<&Route>, target: Target) -> CredentialForwarding {
    match (route, target) {
        (Some(route), Target::Production) => route.credential,
        (Some(_), Target::Sandbox) | (None, Target::Production | Target::Sandbox) => CredentialForwarding::Drop,
    }
}
