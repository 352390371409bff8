//! What a holder keeps that is about to end: nothing that its requests do not need.

use super::LeaseHolder;
use crate::budget::Units;

/// Which leases a holder keeps beyond what requests have reserved and wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// What it expects to need, for as long as it is used.
    #[default]
    Leases,
    /// None: every report gives back what is unused, and the lease with it once nothing is reserved.
    Nothing,
}

impl LeaseHolder {
    /// From the next reports on.
    pub fn keep(&mut self, keep: Keep) {
        self.keep = keep;
    }

    /// How many accounts the control plane may know a lease of, and what is unused of those, whatever it is of.
    #[must_use]
    pub fn left(&self) -> (usize, Units) {
        let unused = self.accounts.iter().flatten().fold(Units::ZERO, |sum, account| sum.plus(account.lease.room()));
        (self.index.len(), unused)
    }
}
