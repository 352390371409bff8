//! The stacks of the tests. Each has its own ports and its own run directory, so that tests can run beside each other; those of one module share a
//! stack, which the last of them stops.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use cli::stack::{Options, Stack, StackError, State, repository};
/// What a person sees who runs the tests.
pub use decision_core::causes::chain as told;

/// Above which port each stack has its own: tests run beside each other, and so do their stacks. All are below 32768, where Linux takes the ports of
/// outgoing connections from.
pub mod ports {
    #![expect(missing_docs, reason = "one per stack, and named like its test")]

    /// A stack takes 100, a second Envoy and control plane 100 more; the rest is for what a test puts beside them.
    const fn block(index: u16) -> u16 {
        16_000 + 300 * index
    }

    pub const ALLOWED: u16 = block(0);
    pub const APPROVALS: u16 = block(1);
    pub const AUDIT: u16 = block(2);
    pub const AUDIT_LEVELS: u16 = block(3);
    pub const BAD_INPUT: u16 = block(4);
    pub const BROKEN_BUNDLE: u16 = block(5);
    pub const BUDGET_API: u16 = block(6);
    pub const CHAOS: u16 = block(7);
    pub const CHAOS_HANG: u16 = block(8);
    pub const COLD: u16 = block(9);
    pub const CONTAINERS: u16 = block(10);
    pub const DEMO: u16 = block(11);
    pub const DRAIN: u16 = block(12);
    pub const EDGE: u16 = block(13);
    pub const EMBEDDED: u16 = block(14);
    pub const EXPLAINED: u16 = block(15);
    pub const FAULTS: u16 = block(16);
    pub const FORGED: u16 = block(17);
    pub const GOLDEN: u16 = block(18);
    pub const HEADERS: u16 = block(19);
    pub const IDLE: u16 = block(20);
    pub const KEYS: u16 = block(21);
    pub const KEYS_DOWN: u16 = block(22);
    pub const KEYS_UNKNOWN: u16 = block(23);
    pub const METERING: u16 = block(24);
    pub const METRICS: u16 = block(25);
    pub const OBSERVABILITY: u16 = block(26);
    pub const ORDERLY: u16 = block(27);
    pub const ORIGINAL: u16 = block(28);
    pub const ORIGINAL_VALKEY: u16 = block(29);
    pub const OUTAGE: u16 = block(30);
    pub const OWNERSHIP: u16 = block(31);
    pub const OWN_RECORDS: u16 = block(32);
    pub const PANIC: u16 = block(33);
    pub const PROPAGATION: u16 = block(34);
    pub const RACE: u16 = block(35);
    pub const RACE_SIXTEEN: u16 = block(36);
    pub const RESTORE: u16 = block(37);
    pub const REVOCATION: u16 = block(38);
    pub const REVOCATION_MANY: u16 = block(39);
    pub const REVOCATION_RESTARTS: u16 = block(40);
    pub const REVOKED: u16 = block(41);
    pub const ROLLING: u16 = block(42);
    pub const RULES: u16 = block(43);
    pub const SECRETS: u16 = block(44);
    pub const SHADOW: u16 = block(45);
    pub const START: u16 = block(46);
    pub const SWITCHING: u16 = block(47);
    pub const THRESHOLDS: u16 = block(48);
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

/// A stack that the tests of one module share.
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
