//! Chaos: two Envoys, two control planes, a real Postgres and Valkey, under load from many clients near their caps, while parts are
//! killed, halted, emptied and cut off at random; and after every cycle the books must be right.

mod books;
mod cycle;
mod plan;
mod world;

pub use self::cycle::{RECOVERY_MAX, Report, run};
pub use self::plan::{Fault, Plan, Timed};
pub use self::world::{ChaosError, World};

impl Report {
    /// One line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let verdict = if self.violations.is_empty() { "ok".to_owned() } else { format!("VIOLATED: {}", self.violations.join("; ")) };
        format!(
            "cycle {} seed {} [{}]: {} requests, spent {}, settled {}, forfeited {}, recorded {}, {} holders closed, recovered after {} ms, \
             books after {} ms, took {} ms; {}; {verdict}",
            self.cycle,
            self.seed,
            self.faults.join(", "),
            self.requests,
            self.spent,
            self.settled,
            self.forfeited,
            self.recorded,
            self.holders_closed,
            self.recovery_ms,
            self.books_ms,
            self.took_ms,
            self.answers,
        )
    }
}

/// A run in one line.
#[must_use]
pub fn summary(reports: &[Report]) -> String {
    let sum = |number: fn(&Report) -> i64| reports.iter().map(number).sum::<i64>();
    let requests: u64 = reports.iter().map(|report| report.requests).sum();
    let faults: usize = reports.iter().map(|report| report.faults.len()).sum();
    let slowest = reports.iter().map(|report| report.recovery_ms).max().unwrap_or_default();
    let violated: Vec<u64> = reports.iter().filter(|report| !report.violations.is_empty()).map(|report| report.seed).collect();
    format!(
        "{} cycles, {faults} faults, {requests} requests: spent {}, settled {}, of it forfeited {}, recorded {}; {} holders closed; slowest \
         recovery {slowest} ms; violations in cycles with these seeds: {violated:?}",
        reports.len(),
        sum(|report| report.spent),
        sum(|report| report.settled),
        sum(|report| report.forfeited),
        sum(|report| report.recorded),
        sum(|report| report.holders_closed),
    )
}
