//! The stacks of the tests. Each test binary has its own thousand of ports and its own run directory, so that binaries can run beside
//! each other; the tests of one binary share a stack, which the last of them stops.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use cli::stack::{Options, Stack, StackError, State, repository};
/// What a person sees who runs the tests.
pub use decision_core::causes::chain as told;

/// The ports of each test binary. All are below 32768, where Linux takes the ports of outgoing connections from.
pub mod ports {
    #![expect(missing_docs, reason = "one per test binary, and named like it")]
    pub const REVOKED: u16 = 20_000;
    pub const AUDIT: u16 = 21_000;
    pub const BAD_INPUT: u16 = 22_000;
    pub const BROKEN_BUNDLE: u16 = 23_000;
    pub const DEMO: u16 = 24_000;
    pub const CHAOS: u16 = 23_200;
    pub const CHAOS_HANG: u16 = 23_400;
    pub const FAULTS: u16 = 25_000;
    pub const GOLDEN: u16 = 26_000;
    pub const HEADERS: u16 = 19_000;
    pub const PANIC: u16 = 28_000;
    pub const RACE: u16 = 29_000;
    pub const START: u16 = 30_000;
    pub const KEYS: u16 = 19_200;
    pub const KEYS_UNKNOWN: u16 = 19_800;
    pub const OUTAGE: u16 = 19_400;
    pub const REVOCATION: u16 = 19_600;
    pub const ORIGINAL: u16 = 20_400;
    pub const SECRETS: u16 = 20_600;
    pub const COLD: u16 = 20_800;
    pub const FORGED: u16 = 21_200;
    pub const SWITCHING: u16 = 22_200;
    pub const EXPLAINED: u16 = 22_400;
    pub const SHADOW: u16 = 22_600;
    pub const RULES: u16 = 20_200;
    pub const OWNERSHIP: u16 = 22_800;
    pub const EDGE: u16 = 21_600;
    pub const PROPAGATION: u16 = 21_400;
    pub const APPROVALS: u16 = 21_800;
    pub const METERING: u16 = 18_400;
    pub const BUDGET_API: u16 = 18_600;
    pub const THRESHOLDS: u16 = 18_800;
    pub const AUDIT_LEVELS: u16 = 18_200;
    pub const OWN_RECORDS: u16 = 18_000;
    pub const RESTORE: u16 = 17_200;
    pub const CONTAINERS: u16 = 17_000;
    pub const ROLLING: u16 = 16_800;
    pub const ORDERLY: u16 = 16_600;
    pub const IDLE: u16 = 16_400;
    pub const METRICS: u16 = 16_200;
    pub const OBSERVABILITY: u16 = 17_600;
    pub const DRAIN: u16 = 17_800;
}

/// The options of a stack with this name and these ports: the programs of this build, a run directory under the build directory.
///
/// # Errors
/// When our own executable cannot be found.
pub fn options(name: &str, port_base: u16) -> std::io::Result<Options> {
    let mut options = Options::from_environment(&repository());
    options.port_base = port_base;
    options.run_dir = build_directory()?.join("e2e").join(name);
    options.quiet = true;
    Ok(options)
}

/// Where cargo builds: test executables are in `PROFILE/deps` below it.
fn build_directory() -> std::io::Result<PathBuf> {
    let executable = std::env::current_exe()?;
    let build = executable.ancestors().nth(3).map(PathBuf::from);
    build.ok_or_else(|| std::io::Error::other("the test is not in a build directory"))
}

/// A stack that the tests of one binary share.
#[derive(Debug)]
pub struct Shared {
    stack: Mutex<Weak<Stack>>,
    start: fn() -> Result<Stack, StackError>,
}

impl Shared {
    /// Nothing is started before the first test asks.
    #[must_use]
    pub const fn new(start: fn() -> Result<Stack, StackError>) -> Self {
        Self { stack: Mutex::new(Weak::new()), start }
    }

    /// The stack; it runs as long as somebody has it.
    ///
    /// # Errors
    /// When it does not start.
    pub fn get(&'static self) -> Result<InUse, StackError> {
        let mut shared = self.lock();
        let stack = match shared.upgrade() {
            Some(running) => running,
            None => Arc::new((self.start)()?),
        };
        *shared = Arc::downgrade(&stack);
        Ok(InUse { state: stack.state().clone(), stack: Some(stack), shared: self })
    }

    /// A test that panicked while it started the stack has left nothing half-done here.
    fn lock(&self) -> MutexGuard<'_, Weak<Stack>> {
        self.stack.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One test's hold on the shared stack.
#[derive(Debug)]
pub struct InUse {
    state: State,
    stack: Option<Arc<Stack>>,
    shared: &'static Shared,
}

impl InUse {
    /// Where the stack can be reached.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }
}

impl Drop for InUse {
    /// The last one out stops the stack; who comes meanwhile waits until its ports are free.
    fn drop(&mut self) {
        let stopping = self.shared.lock();
        self.stack = None;
        drop(stopping);
    }
}

/// Asks again until the answer is there, or time is up.
pub async fn eventually<T>(patience: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look().await {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
