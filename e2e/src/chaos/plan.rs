//! What goes wrong in a cycle, and when: chosen by the cycle's seed and nothing else.

use std::fmt;
use std::time::Duration;

use cli::stack::Part;

/// The faults of a cycle are within this time from its start.
const WITHIN_MS: u64 = 3_500;
const HALT_MS_MAX: u64 = 3_000;
/// Of so many cycles one halts an Envoy for so long that its holders are closed.
const LONG_HALT_ONE_IN: u32 = 8;

/// What is done to a part, or to the network between the filters and one of the two control planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`; it is started again at once.
    Kill(Part),
    /// SIGSTOP, and SIGCONT later.
    Halt(Part, Duration),
    /// FLUSHALL.
    Flush,
    /// What is sent takes so much longer.
    Slow(usize, Duration),
    /// Answers are lost.
    Deaf(usize, Duration),
    /// There is no network.
    Cut(usize, Duration),
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(part) => write!(formatter, "kill {part}"),
            Self::Halt(part, lasting) => write!(formatter, "halt {part} {} ms", lasting.as_millis()),
            Self::Flush => write!(formatter, "flush valkey"),
            Self::Slow(link, lasting) => write!(formatter, "slow link {link} {} ms", lasting.as_millis()),
            Self::Deaf(link, lasting) => write!(formatter, "answers lost on link {link} {} ms", lasting.as_millis()),
            Self::Cut(link, lasting) => write!(formatter, "cut link {link} {} ms", lasting.as_millis()),
        }
    }
}

/// A fault at a time from the start of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timed {
    /// When.
    pub at: Duration,
    /// What.
    pub fault: Fault,
}

/// A cycle, as its seed has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// From one to three.
    pub faults: Vec<Timed>,
    /// From one request of a client to its next.
    pub pace: Duration,
    /// Customers; each has a budget that its agents share.
    pub customers: usize,
    /// Agents of each customer; each has a budget of its own.
    pub agents: usize,
}

impl Plan {
    /// The plan of this seed, where holders are closed after so much silence.
    #[must_use]
    pub fn of(seed: u64, silence: Duration) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let count = random.usize(1..=3);
        let mut faults: Vec<Timed> = (0..count).map(|_| timed(&mut random)).collect();
        if random.u32(0..LONG_HALT_ONE_IN) == 0 {
            let part = if random.bool() { Part::Envoy } else { Part::SecondEnvoy };
            faults.truncate(2);
            faults.retain(|timed| !matches!(timed.fault, Fault::Kill(other) | Fault::Halt(other, _) if other == part));
            let lasting = silence.saturating_add(Duration::from_millis(random.u64(6_000..9_000)));
            faults.push(Timed { at: Duration::from_millis(random.u64(500..1_500)), fault: Fault::Halt(part, lasting) });
        }
        faults.sort_by_key(|timed| timed.at);
        let pace = Duration::from_millis(random.u64(15..60));
        Self { seed, faults, pace, customers: random.usize(2..=4), agents: random.usize(2..=4) }
    }

    /// The faults with their times, for people.
    #[must_use]
    pub fn faults_told(&self) -> Vec<String> {
        self.faults.iter().map(|timed| format!("{} ms: {}", timed.at.as_millis(), timed.fault)).collect()
    }
}

fn timed(random: &mut fastrand::Rng) -> Timed {
    let at = Duration::from_millis(random.u64(300..WITHIN_MS));
    let lasting = Duration::from_millis(random.u64(300..HALT_MS_MAX));
    let envoy = if random.bool() { Part::Envoy } else { Part::SecondEnvoy };
    let control_plane = if random.bool() { Part::ControlPlane } else { Part::SecondControlPlane };
    let link = random.usize(0..2);
    let fault = match random.u32(0..20) {
        0..=2 => Fault::Kill(envoy),
        3..=5 => Fault::Halt(envoy, lasting),
        6..=7 => Fault::Kill(control_plane),
        8..=9 => Fault::Halt(control_plane, lasting),
        10..=11 => Fault::Kill(Part::Postgres),
        12..=13 => Fault::Halt(Part::Postgres, lasting),
        14 => Fault::Kill(Part::Valkey),
        15 => Fault::Flush,
        16 => Fault::Slow(link, lasting),
        17..=18 => Fault::Deaf(link, lasting),
        _ => Fault::Cut(link, lasting),
    };
    Timed { at, fault }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_all() {
        let plan = |seed| Plan::of(seed, Duration::from_secs(8));
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7).faults, plan(8).faults);
        let plans: Vec<Plan> = (0..200).map(plan).collect();
        assert!(plans.iter().all(|plan| (1..=3).contains(&plan.faults.len())));
        let long = |timed: &Timed| matches!(timed.fault, Fault::Halt(Part::Envoy | Part::SecondEnvoy, lasting) if lasting.as_secs() > 8);
        assert!(plans.iter().any(|plan| plan.faults.iter().any(long)));
    }
}
