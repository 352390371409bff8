//! Who may start a gate: each takes a processor and up to 768 MB, so that few run at once and the others wait in line.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A number of places.
#[derive(Debug)]
pub(super) struct Turns {
    free: Mutex<usize>,
    freed: Condvar,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'t>(&'t Turns);

impl Turns {
    pub(super) const fn new(places: usize) -> Self {
        Self { free: Mutex::new(places), freed: Condvar::new() }
    }

    /// Waits for a place; none within `patience`.
    pub(super) fn wait(&self, patience: Duration) -> Option<Turn<'_>> {
        let nobody_leaves = |free: &mut usize| *free == 0;
        let (mut free, waited) =
            self.freed.wait_timeout_while(self.lock(), patience, nobody_leaves).unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() && *free == 0 {
            return None;
        }
        *free = free.saturating_sub(1);
        Some(Turn(self))
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        // A number is never half-changed.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut free = self.0.lock();
        *free = free.saturating_add(1);
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    #[test]
    fn no_more_than_there_are_places_for() {
        let turns = Turns::new(2);
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| {
                    let _turn = turns.wait(Duration::from_secs(60)).unwrap();
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(2));
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!((most.into_inner(), inside.into_inner()), (2, 0));
    }

    #[test]
    fn who_waits_too_long_is_told() {
        let turns = Turns::new(1);
        let first = turns.wait(Duration::ZERO).unwrap();
        assert!(turns.wait(Duration::from_millis(1)).is_none());
        drop(first);
        assert!(turns.wait(Duration::ZERO).is_some());
    }
}
