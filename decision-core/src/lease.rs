//! One lease on one account: units granted to a holder, and what its requests did with them.

use crate::budget::Units;

/// Units granted by the control plane.
///
/// INVARIANT (lease conservation): `used + held <= granted`, overruns apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    limit: Units,
    used: Units,
    held: Units,
    overrun: Units,
}

/// A hold on units by one request. Neither `Copy` nor `Clone`: it is spent once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "settle it or release it; a dropped reservation leaks units until the lease is closed"]
pub struct Reservation {
    amount: Units,
}

impl Reservation {
    /// How much is held.
    #[must_use]
    pub const fn amount(&self) -> Units {
        self.amount
    }
}

/// What a settled reservation came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settlement {
    /// Charged to the lease.
    pub charged: Units,
    /// Given back to the lease.
    pub returned: Units,
    /// Charged beyond the reservation, booked apart.
    pub overrun: Units,
}

impl Settlement {
    /// All that was charged.
    #[must_use]
    pub const fn total(&self) -> Units {
        self.charged.plus(self.overrun)
    }
}

/// There is no room for a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease has room for {available} only")]
pub struct Exhausted {
    /// What is left.
    pub available: Units,
}

impl Lease {
    /// What may still be reserved.
    #[must_use]
    pub const fn room(&self) -> Units {
        self.limit.minus(self.taken())
    }

    /// Settled and held.
    #[must_use]
    pub const fn taken(&self) -> Units {
        self.used.plus(self.held)
    }

    /// What the holder keeps to: the grant, or less once it asked for less.
    #[must_use]
    pub const fn limit(&self) -> Units {
        self.limit
    }

    /// Settled.
    #[must_use]
    pub const fn used(&self) -> Units {
        self.used
    }

    /// Held by open requests.
    #[must_use]
    pub const fn held(&self) -> Units {
        self.held
    }

    /// Charged beyond reservations.
    #[must_use]
    pub const fn overrun(&self) -> Units {
        self.overrun
    }

    /// The control plane says what the grant is.
    pub const fn set_limit(&mut self, granted: Units) {
        self.limit = granted;
    }

    /// The holder will ask for less: it keeps to that first. Never below what is taken.
    pub fn lower(&mut self, target: Units) {
        self.limit = self.limit.min(target.max(self.taken()));
    }

    /// Holds `amount`.
    ///
    /// # Errors
    /// There is no room for it.
    pub const fn reserve(&mut self, amount: Units) -> Result<Reservation, Exhausted> {
        let available = self.room();
        if available.get() < amount.get() {
            return Err(Exhausted { available });
        }
        self.held = self.held.plus(amount);
        Ok(Reservation { amount })
    }

    /// Charges what a request cost in the end.
    pub fn settle(&mut self, reservation: Reservation, actual: Units) -> Settlement {
        let charged = actual.min(reservation.amount);
        let overrun = actual.minus(reservation.amount);
        self.held = self.held.minus(reservation.amount);
        self.used = self.used.plus(charged);
        self.overrun = self.overrun.plus(overrun);
        Settlement { charged, returned: reservation.amount.minus(charged), overrun }
    }

    /// Gives back what a request held that never reached the backend.
    pub fn release(&mut self, reservation: Reservation) {
        self.held = self.held.minus(reservation.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_like_a_ledger() {
        let mut lease = Lease::default();
        lease.set_limit(Units::new(10));
        let first = lease.reserve(Units::new(7)).unwrap();
        assert_eq!(lease.reserve(Units::new(4)), Err(Exhausted { available: Units::new(3) }));
        assert_eq!(
            lease.settle(first, Units::new(5)),
            Settlement { charged: Units::new(5), returned: Units::new(2), overrun: Units::ZERO }
        );
        let second = lease.reserve(Units::new(5)).unwrap();
        lease.release(second);
        assert_eq!((lease.used(), lease.held(), lease.room()), (Units::new(5), Units::ZERO, Units::new(5)));
        let third = lease.reserve(Units::new(5)).unwrap();
        assert_eq!(lease.settle(third, Units::new(8)).overrun, Units::new(3));
        assert_eq!(lease.taken(), Units::new(10));
    }

    #[test]
    fn lowers_its_own_limit_but_never_below_what_is_taken() {
        let mut lease = Lease::default();
        lease.set_limit(Units::new(10));
        let held = lease.reserve(Units::new(6)).unwrap();
        lease.lower(Units::new(2));
        assert_eq!((lease.limit(), lease.room()), (Units::new(6), Units::ZERO));
        lease.lower(Units::new(8));
        assert_eq!(lease.limit(), Units::new(6));
        lease.release(held);
    }
}
