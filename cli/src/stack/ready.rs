//! Waiting until a part does what it is for. A gateway is ready when it says so *and* refuses what it has to refuse: a filter that is
//! not in the path lets everything pass without a word.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::error::StackError;
use super::http::ask;
use super::part::Part;
use super::run_dir::tail;
use super::supervisor::{SharedHandle, lock};

const TIME_OUT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(25);
const PATIENCE: Duration = Duration::from_secs(2);
/// Who ended this often while we waited will not make it.
const EXITS_MAX: u32 = 4;
/// Answered 401 by every gateway when nobody says who is asking.
const GUARDED_PATH: &str = "/api/v1/agents";

/// Waits until `check` succeeds.
pub(crate) fn wait(
    shared: &SharedHandle,
    part: Part,
    log: PathBuf,
    cancel: &AtomicBool,
    check: impl Fn() -> Result<(), String>,
) -> Result<(), StackError> {
    let start = Instant::now();
    let exits = || lock(shared).exits.get(&part).copied().unwrap_or_default();
    let exits_before = exits();
    loop {
        let Err(last) = check() else { return Ok(()) };
        if cancel.load(Ordering::Relaxed) {
            return Err(StackError::Interrupted);
        }
        let ended = exits().saturating_sub(exits_before);
        let reason = if ended >= EXITS_MAX {
            format!("it ended {ended} times, last: {last}")
        } else if start.elapsed() > TIME_OUT {
            format!("{} seconds are over, last: {last}", TIME_OUT.as_secs())
        } else {
            std::thread::sleep(LOOK_EVERY);
            continue;
        };
        let tail = tail(&log);
        return Err(StackError::NotReady { part, reason, log, tail });
    }
}

/// Answers with this status.
pub(crate) fn answers(port: u16, path: &str, status: u16) -> Result<(), String> {
    match ask("GET", port, path, PATIENCE) {
        Ok(answer) if answer.status == status => Ok(()),
        Ok(answer) => {
            let body: String = answer.body.chars().take(300).collect();
            Err(format!("GET {path} on port {port} answers {} instead of {status}: {}", answer.status, body.trim()))
        }
        Err(error) => Err(format!("GET {path} on port {port}: {error}")),
    }
}

/// Says that it is ready, and refuses a request that has to be refused.
pub(crate) fn gateway(port: u16) -> Result<(), String> {
    answers(port, "/ready", 200)?;
    answers(port, GUARDED_PATH, 401)
}
