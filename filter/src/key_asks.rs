//! Keys that tokens name and nobody knows here: the control plane is asked to look at the issuer's JWK set, seldom, and few
//! requests wait for what it finds. Anybody can write any `kid` into a token.

use decision_core::time::Timestamp;
use std::rc::Rc;
use std::time::Duration;

/// An issuer is asked about at most so often.
const AGAIN: Duration = Duration::from_secs(10);
/// So long a request waits for the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// So many requests wait: far fewer than may wait in all.
pub(crate) const WAITING_MAX: usize = 256;

/// What was asked, and who waits for it.
#[derive(Debug, Default)]
pub(crate) struct KeyAsks {
    /// By issuer. There are as many as the policy has, at most.
    asked: Vec<(Box<str>, Timestamp)>,
    /// To be sent with the next call.
    pending: Vec<String>,
    sent: usize,
    waiting: Rc<()>,
}

/// A request that waits for a key. Its place is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct KeyWait {
    pub(crate) until: Timestamp,
    _place: Rc<()>,
}

impl KeyAsks {
    /// A token of `issuer` names a key that is not known. Whether it is worth waiting for.
    pub(crate) fn ask(&mut self, issuer: &str, now: Timestamp) -> Option<KeyWait> {
        let asked_at = match self.asked.iter_mut().find(|(known, _)| **known == *issuer) {
            Some((_, at)) if now.since(*at) < AGAIN && *at <= now => *at,
            Some((_, at)) => {
                *at = now;
                self.note(issuer);
                now
            }
            None => {
                self.asked.push((issuer.into(), now));
                self.note(issuer);
                now
            }
        };
        let until = asked_at.plus(PATIENCE);
        let room = self.waiting() < WAITING_MAX;
        (now < until && room).then(|| KeyWait { until, _place: Rc::clone(&self.waiting) })
    }

    fn note(&mut self, issuer: &str) {
        if !self.pending.iter().any(|known| known == issuer) {
            self.pending.push(issuer.into());
        }
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        Rc::strong_count(&self.waiting) - 1
    }

    /// Whether a call has to tell something.
    pub(crate) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The issuers to name in a call.
    pub(crate) fn send(&mut self) -> Vec<String> {
        self.sent = self.pending.len();
        self.pending.clone()
    }

    /// The call was answered.
    pub(crate) fn told(&mut self) {
        self.pending.drain(..self.sent.min(self.pending.len()));
        self.sent = 0;
    }
}
