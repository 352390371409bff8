//! What Linux tells: the CPU time of a process, and which machine this is.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::error::BenchError;

/// A tick of `/proc/PID/stat`: USER_HZ is 100 on every architecture that we run on.
const TICK: Duration = Duration::from_millis(10);

/// User and system time that a process has used, all threads together.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration, BenchError> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let text = fs::read_to_string(&path).map_err(|source| BenchError::File { path, source })?;
    parse(&text).ok_or(BenchError::Answer { what: "/proc", answer: text })
}

fn parse(stat: &str) -> Option<Duration> {
    // The name of the program, in brackets, may hold spaces and brackets.
    let (_name, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let (user, system): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    TICK.checked_mul(user.checked_add(system)?)
}

/// Where it was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
}

impl Machine {
    pub(crate) fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            processor: processor.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_name, value)| value.to_owned()),
            cores: std::thread::available_parallelism().map_or(0, Into::into),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_user_and_system_time_behind_any_name() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 150 25 0 0 20 0 3 0 100";
        assert_eq!(parse(stat), Some(Duration::from_millis(1_750)));
        assert_eq!(parse("42 (envoy) S 1"), None);
    }

    #[test]
    fn our_own_process_has_a_cpu_time() {
        assert!(cpu_time(std::process::id()).is_ok());
    }
}
