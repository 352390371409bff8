//! How much of a processor a part has used.

use std::io::{self, ErrorKind};
use std::time::Duration;

/// `ESRCH`: what reading the file of a thread that ends gives.
const NO_SUCH_PROCESS: i32 = 3;

/// Time on a CPU that a process has used, all its threads together, as the scheduler counts it: in nanoseconds, where
/// `/proc/PID/stat` counts in hundredths of a second. The time of threads that have ended is missing; Envoy's do not end.
///
/// # Errors
/// There is no such process, or no Linux.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let mut total = Duration::ZERO;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = match std::fs::read_to_string(task?.path().join("schedstat")) {
            Ok(text) => text,
            // It ended since the list was made, and what it used with it.
            Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(NO_SUCH_PROCESS) => continue,
            Err(error) => return Err(error),
        };
        total =
            total.saturating_add(parse(&text).ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("schedstat says {text:?}")))?);
    }
    Ok(total)
}

/// The first of three numbers.
fn parse(schedstat: &str) -> Option<Duration> {
    schedstat.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)
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
