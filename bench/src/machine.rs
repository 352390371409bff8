//! What Linux tells: the CPU time of a process, and which machine this is.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::error::BenchError;

/// `ESRCH`: what reading the file of a thread that ends gives.
const NO_SUCH_PROCESS: i32 = 3;

/// Time on a CPU that a process has used, all its threads together, as the scheduler counts it: in nanoseconds, where
/// `/proc/PID/stat` counts in hundredths of a second. The time of threads that have ended is missing; Envoy's do not end.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration, BenchError> {
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| BenchError::File { path, source }
    };
    let mut total = Duration::ZERO;
    for task in fs::read_dir(&tasks).map_err(unreadable(&tasks))? {
        let path = task.map_err(unreadable(&tasks))?.path().join("schedstat");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // It ended since the list was made, and what it used with it.
            Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(NO_SUCH_PROCESS) => continue,
            Err(error) => return Err(unreadable(&path)(error)),
        };
        total = total.saturating_add(parse(&text).ok_or(BenchError::Answer { what: "/proc", answer: text })?);
    }
    Ok(total)
}

/// The first of three numbers.
fn parse(schedstat: &str) -> Option<Duration> {
    schedstat.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)
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
    fn the_time_on_a_cpu_is_the_first_number() {
        assert_eq!(parse("1750000000 20 3\n"), Some(Duration::from_millis(1_750)));
        assert_eq!(parse(""), None);
    }

    #[test]
    fn our_own_process_has_a_cpu_time() {
        assert!(cpu_time(std::process::id()).unwrap() > Duration::ZERO);
    }
}
