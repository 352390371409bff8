//! Feature flags: whether a check, or a route, is switched on for a user. They never switch authentication or ownership.

use crate::decision::Check;
use crate::principal::Identity;
use sha2::{Digest, Sha256};

/// The most flags that one policy may have: one per bit.
pub const FLAGS_MAX: usize = 64;

/// A flag's index in its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlagId(pub(crate) u8);

/// Whether a flag is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum FlagState {
    On,
    Off,
}

/// A check that a flag may switch off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the checks of the same names")]
pub enum Switch {
    Permission,
    Trial,
    Approval,
    Routing,
    Rules,
    Budget,
}

impl Switch {
    /// All of them, in bit order.
    pub const ALL: [Self; 6] = [Self::Permission, Self::Trial, Self::Approval, Self::Routing, Self::Rules, Self::Budget];

    /// The check that it switches.
    #[must_use]
    pub const fn check(self) -> Check {
        match self {
            Self::Permission => Check::Permission,
            Self::Trial => Check::Trial,
            Self::Approval => Check::Approval,
            Self::Routing => Check::Routing,
            Self::Rules => Check::Rules,
            Self::Budget => Check::Budget,
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Permission => 1,
            Self::Trial => 2,
            Self::Approval => 4,
            Self::Routing => 8,
            Self::Rules => 16,
            Self::Budget => 32,
        }
    }
}

/// The checks that are switched off for a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SwitchedOff(u8);

impl SwitchedOff {
    /// Whether `switch` is off.
    #[must_use]
    pub const fn contains(self, switch: Switch) -> bool {
        self.0 & switch.bit() != 0
    }

    pub(crate) const fn extend(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl FromIterator<Switch> for SwitchedOff {
    fn from_iter<T: IntoIterator<Item = Switch>>(switches: T) -> Self {
        Self(switches.into_iter().fold(0, |bits, switch| bits | switch.bit()))
    }
}

/// The flags that are on for a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlagSet(u64);

impl FlagSet {
    /// Whether `flag` is on.
    #[must_use]
    pub const fn contains(self, flag: FlagId) -> bool {
        self.0 >> (flag.0 & 63) & 1 != 0
    }

    pub(crate) const fn insert(&mut self, flag: FlagId) {
        self.0 |= 1 << (flag.0 & 63);
    }
}

/// A compiled flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// Its index.
    pub id: FlagId,
    /// Its name.
    pub name: Box<str>,
    /// For whom nothing else says otherwise.
    pub default: FlagState,
    /// By customer id, sorted by it.
    pub(crate) overrides: Box<[(Box<str>, FlagState)]>,
    /// The share of users, in percent, for whom it is on.
    pub(crate) rollout_percent: Option<u8>,
    /// The checks that are skipped where it is off.
    pub switches: SwitchedOff,
}

impl Flag {
    /// Its state for a user; for callers without a token, its default.
    #[must_use]
    pub fn state(&self, identity: Option<&Identity>) -> FlagState {
        let Some(identity) = identity else { return self.default };
        let by_customer = identity.customer_id.as_deref().and_then(|customer| {
            let found = self.overrides.binary_search_by(|(known, _)| (**known).cmp(customer)).ok()?;
            self.overrides.get(found).map(|(_, state)| *state)
        });
        if let Some(state) = by_customer {
            return state;
        }
        match self.rollout_percent {
            Some(percent) if bucket(&self.name, identity) < u32::from(percent) * 100 => FlagState::On,
            Some(_) => FlagState::Off,
            None => self.default,
        }
    }
}

/// Which of 10,000 equal shares a user is in: the same for one flag whatever the percentage, and independent between flags.
/// Customers move together.
fn bucket(flag: &str, identity: &Identity) -> u32 {
    let mut digest = Sha256::new();
    let mut field = |text: &str| {
        digest.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(text.as_bytes());
    };
    field(flag);
    match identity.customer_id.as_deref() {
        Some(customer) => field(customer),
        None => {
            field(&identity.issuer);
            field(&identity.subject);
        }
    }
    let hash: [u8; 32] = digest.finalize().into();
    let [a, b, c, d, ..] = hash;
    u32::from_be_bytes([a, b, c, d]) % 10_000
}
