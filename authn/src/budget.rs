//! How many failed verifications a worker puts up with: a forged token costs a full verification, and must not be able to
//! stop the worker for everybody else.

use decision_core::time::Timestamp;

const MICROS: u64 = 1_000_000;

/// Whether another token may be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    /// Verify it.
    Admitted,
    /// Too many failed lately.
    Refused,
}

/// A token bucket that only failures drain. Counted in millionths of a failure, so that nothing is lost by rounding.
#[derive(Clone, Copy, Debug)]
pub struct VerificationBudget {
    failures_per_second: u32,
    level: u64,
    level_max: u64,
    filled_at: Timestamp,
}

impl VerificationBudget {
    /// Full; fills by `failures_per_second`, and holds `burst` at most.
    #[must_use]
    pub const fn new(failures_per_second: u32, burst: u32) -> Self {
        let level_max = burst as u64 * MICROS;
        Self { failures_per_second, level: level_max, level_max, filled_at: Timestamp::EPOCH }
    }

    /// Whether there is room for one failure more. Takes nothing: successes are free.
    pub fn admit(&mut self, now: Timestamp) -> Admission {
        self.fill(now);
        if self.level >= MICROS { Admission::Admitted } else { Admission::Refused }
    }

    /// A verification failed.
    pub fn failed(&mut self, now: Timestamp) {
        self.fill(now);
        self.level = self.level.saturating_sub(MICROS);
    }

    fn fill(&mut self, now: Timestamp) {
        // Nothing when the clock was set back: then it fills from there on, or it would stay empty for as long as the step.
        let micros = u64::try_from(now.since(self.filled_at).as_micros()).unwrap_or(u64::MAX);
        let filled = micros.saturating_mul(u64::from(self.failures_per_second));
        self.level = self.level.saturating_add(filled).min(self.level_max);
        self.filled_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000 + millis * 1_000)
    }

    #[test]
    fn refuses_when_the_burst_of_failures_is_spent() {
        let mut budget = VerificationBudget::new(10, 3);
        for _ in 0..3 {
            assert_eq!(budget.admit(at(0)), Admission::Admitted);
            budget.failed(at(0));
        }
        assert_eq!(budget.admit(at(0)), Admission::Refused);
    }

    #[test]
    fn fills_with_time_and_not_above_the_burst() {
        let mut budget = VerificationBudget::new(10, 3);
        (0..3).for_each(|_| budget.failed(at(0)));
        assert_eq!(budget.admit(at(99)), Admission::Refused);
        assert_eq!(budget.admit(at(100)), Admission::Admitted);
        (0..3).for_each(|_| budget.failed(at(60_000)));
        assert_eq!(budget.admit(at(60_000)), Admission::Refused);
    }

    #[test]
    fn successes_cost_nothing() {
        let mut budget = VerificationBudget::new(1, 1);
        assert!((0..1_000).all(|_| budget.admit(at(0)) == Admission::Admitted));
    }

    #[test]
    fn a_clock_that_goes_back_fills_nothing_and_stops_nothing() {
        let mut budget = VerificationBudget::new(10, 1);
        budget.failed(at(1_000));
        assert_eq!(budget.admit(at(0)), Admission::Refused);
        assert_eq!(budget.admit(at(99)), Admission::Refused);
        assert_eq!(budget.admit(at(100)), Admission::Admitted);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn admits_no_more_than_the_burst_and_the_rate(
            rate in 0..50_u32, burst in 0..20_u32, gaps in prop::collection::vec(0..500_i64, 1..300),
        ) {
            let mut budget = VerificationBudget::new(rate, burst);
            let (mut millis, mut admitted) = (0, 0_i64);
            for gap in gaps {
                millis += gap;
                if budget.admit(at(millis)) == Admission::Admitted {
                    budget.failed(at(millis));
                    admitted += 1;
                }
            }
            prop_assert!(admitted * 1_000 <= i64::from(burst) * 1_000 + i64::from(rate) * millis);
        }
    }
}
