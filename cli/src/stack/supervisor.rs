//! The supervisor: one thread that starts every child, restarts those that die, and stops them when asked. It is the parent of all of
//! them, so it lives as long as the stack: on Linux its end is theirs.

use std::collections::BTreeMap;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::children::{Launch, remove_container};
use super::error::StackError;
use super::part::Part;
use super::run_dir::RunDir;
use super::state::{Pids, State};

const LOOK_EVERY: Duration = Duration::from_millis(20);
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(250);
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Who ran for this long has recovered.
pub(crate) const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// What the supervisor tells the rest of us.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) pids: Pids,
    pub(crate) exits: BTreeMap<Part, u32>,
    pub(crate) run_dir: RunDir,
    /// Written again when a process id changes.
    pub(crate) state: Option<State>,
    quiet: bool,
}

impl Shared {
    fn running(&mut self, part: Part, pid: Option<u32>) {
        self.pids.set(part, pid);
        let pids: Vec<u32> = Part::ALL.into_iter().filter_map(|part| self.pids.of(part)).collect();
        let path = self.run_dir.join("state.json");
        let pids_now = self.pids;
        let mut written = self.run_dir.own_processes(&pids);
        if let (Some(state), true, Ok(())) = (&mut self.state, pid.is_some(), &written) {
            state.pids = pids_now;
            written = state.write(&path);
        }
        if let Err(error) = written {
            eprintln!("warning: {error}");
        }
    }

    fn say(&self, line: &str) {
        if !self.quiet {
            eprintln!("{line}");
        }
    }
}

/// What several threads know.
pub(crate) type SharedHandle = Arc<Mutex<Shared>>;

/// A panic elsewhere does not make what we share less true.
pub(crate) fn lock(shared: &SharedHandle) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Order {
    Start(Box<Launch>, Sender<std::io::Result<()>>),
    Stop(Part, Instant, Sender<()>),
}

/// The handle to the supervising thread.
#[derive(Debug)]
pub(crate) struct Supervisor {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    shared: SharedHandle,
}

impl Supervisor {
    pub(crate) fn start(run_dir: RunDir, quiet: bool) -> Self {
        let pids = Pids { supervisor: Some(std::process::id()), ..Pids::default() };
        let shared = Arc::new(Mutex::new(Shared { pids, exits: BTreeMap::new(), run_dir, state: None, quiet }));
        let (orders, inbox) = channel();
        let watch = Watch { shared: Arc::clone(&shared), children: BTreeMap::new() };
        let thread = std::thread::spawn(move || watch.run(&inbox));
        Self { orders: Some(orders), thread: Some(thread), shared }
    }

    pub(crate) const fn shared(&self) -> &SharedHandle {
        &self.shared
    }

    /// Starts a part, and keeps it running.
    pub(crate) fn launch(&self, launch: Launch) -> Result<(), StackError> {
        let (part, program) = (launch.part, launch.program.clone());
        let (reply, answer) = channel();
        self.order(Order::Start(Box::new(launch), reply))?;
        let started = answer.recv().map_err(|_| StackError::SupervisorGone)?;
        started.map_err(|source| StackError::Start { part, program, source })
    }

    /// Stops a part for good: by its own signal first, by SIGKILL at the deadline.
    pub(crate) fn stop(&self, part: Part, deadline: Instant) {
        let (reply, answer) = channel();
        if self.order(Order::Stop(part, deadline, reply)).is_ok() {
            let _stopped = answer.recv();
        }
    }

    /// Sends a signal to a part's process and to nothing else. It will be restarted if it dies of it.
    pub(crate) fn signal(&self, part: Part, signal: Signal) -> Result<(), StackError> {
        let pid = lock(&self.shared).pids.of(part).and_then(raw).ok_or(StackError::NotRunning { part })?;
        kill(pid, signal).map_err(|source| StackError::Signal { part, source })
    }

    /// Sends a signal to a part's process and to its children: those of Postgres lead groups of their own.
    pub(crate) fn signal_all(&self, part: Part, signal: Signal) -> Result<(), StackError> {
        self.signal(part, signal)?;
        for child in lock(&self.shared).pids.of(part).map(children).unwrap_or_default() {
            // One that has just ended is halted enough.
            let _gone = kill(child, signal);
        }
        Ok(())
    }

    fn order(&self, order: Order) -> Result<(), StackError> {
        let orders = self.orders.as_ref().ok_or(StackError::SupervisorGone)?;
        orders.send(order).map_err(|_| StackError::SupervisorGone)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

struct Watched {
    launch: Launch,
    child: Option<Child>,
    since: Instant,
    backoff: Duration,
}

struct Watch {
    shared: SharedHandle,
    children: BTreeMap<Part, Watched>,
}

impl Watch {
    fn run(mut self, inbox: &Receiver<Order>) {
        loop {
            match inbox.recv_timeout(LOOK_EVERY) {
                Ok(Order::Start(launch, reply)) => {
                    let _waiting = reply.send(self.start(*launch));
                }
                Ok(Order::Stop(part, deadline, reply)) => {
                    self.stop(part, deadline);
                    let _waiting = reply.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            for child in self.children.values_mut() {
                child.look(&self.shared);
            }
        }
        while let Some(part) = self.children.keys().next().copied() {
            self.stop(part, Instant::now());
        }
    }

    fn start(&mut self, launch: Launch) -> std::io::Result<()> {
        let child = launch.spawn()?;
        lock(&self.shared).running(launch.part, Some(launch.process(&child)));
        let watched = Watched { child: Some(child), since: Instant::now(), backoff: BACKOFF_MIN, launch };
        self.children.insert(watched.launch.part, watched);
        Ok(())
    }

    fn stop(&mut self, part: Part, deadline: Instant) {
        let Some(watched) = self.children.remove(&part) else { return };
        if let Some(child) = watched.child {
            end(child, watched.launch.stop, deadline.min(Instant::now() + watched.launch.patience));
        }
        if let Some(container) = &watched.launch.container {
            remove_container(container);
        }
        lock(&self.shared).running(part, None);
    }
}

impl Watched {
    fn look(&mut self, shared: &SharedHandle) {
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(None)) => {}
            Some(Ok(Some(status))) => self.exited(status, shared),
            Some(Err(error)) => eprintln!("warning: cannot watch {}: {error}", self.launch.part),
            None if self.since.elapsed() >= self.backoff => self.restart(shared),
            None => {}
        }
    }

    fn exited(&mut self, status: ExitStatus, shared: &SharedHandle) {
        if let Some(pid) = self.child.take().and_then(|child| raw(child.id())) {
            end_group(pid);
        }
        let lasted = self.since.elapsed();
        self.backoff = if lasted >= HEALTHY_AFTER { BACKOFF_MIN } else { self.backoff };
        self.since = Instant::now();
        let mut shared = lock(shared);
        *shared.exits.entry(self.launch.part).or_default() += 1;
        shared.running(self.launch.part, None);
        shared.say(&format!("{} ended ({status}); restart in {} ms", self.launch.part, self.backoff.as_millis()));
    }

    fn restart(&mut self, shared: &SharedHandle) {
        let next = self.backoff.saturating_mul(2).min(BACKOFF_MAX);
        self.since = Instant::now();
        match self.launch.spawn() {
            Ok(child) => {
                let pid = self.launch.process(&child);
                let mut shared = lock(shared);
                shared.running(self.launch.part, Some(pid));
                shared.say(&format!("{} restarted, process {pid}", self.launch.part));
                self.child = Some(child);
            }
            Err(error) => lock(shared).say(&format!("{} cannot be restarted: {error}", self.launch.part)),
        }
        self.backoff = next;
    }
}

/// Asks a child to stop, kills it at the deadline, and its children with it.
fn end(mut child: Child, stop: Signal, deadline: Instant) {
    let Some(pid) = raw(child.id()) else { return };
    let _gone = kill(pid, stop);
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    end_group(pid);
    let _reaped = child.wait();
    // Grandchildren that were being started while the group was killed.
    end_group(pid);
}

fn end_group(leader: Pid) {
    match killpg(leader, Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => eprintln!("warning: cannot end process group {leader}: {error}"),
    }
}

/// Its children, where the system tells them (Linux does).
fn children(pid: u32) -> Vec<Pid> {
    let listed = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|child| child.parse().ok()).filter_map(raw).collect()
}

fn raw(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().map(Pid::from_raw)
}
