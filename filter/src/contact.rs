//! When this Envoy last heard from its control plane, whichever worker did: keys and revocations are relied on for so long.

use crate::host::Host;
use decision_core::time::Timestamp;
use std::time::Duration;

const CONTACT: &str = "plant_gateway.contact";
/// The others are told, and asked, so often.
const EXCHANGE: Duration = Duration::from_secs(1);

/// The last contact, as this worker knows it.
#[derive(Debug, Default)]
pub(crate) struct Contact {
    last: Option<Timestamp>,
    told: Timestamp,
    look_due: Timestamp,
}

impl Contact {
    /// A sync call of this worker was answered.
    pub(crate) fn of_worker(&mut self, now: Timestamp) {
        self.last = Some(now);
    }

    /// A poll was answered: the other workers are told.
    pub(crate) fn of_envoy(&mut self, host: &impl Host, now: Timestamp) {
        self.last = Some(now);
        if now.since(self.told) >= EXCHANGE || now < self.told {
            self.told = now;
            host.set_shared(CONTACT, &now.as_micros().to_le_bytes(), None).unwrap_or(());
        }
    }

    /// Asks what the others know, if it is time to.
    pub(crate) fn look(&mut self, host: &impl Host, now: Timestamp) {
        if now < self.look_due && self.look_due <= now.plus(EXCHANGE) {
            return;
        }
        self.look_due = now.plus(EXCHANGE);
        let told = host.shared(CONTACT).value.and_then(|value| value.try_into().ok()).map(i64::from_le_bytes);
        // A clock that was set back must not make an old contact a new one.
        let told = told.map(|micros| Timestamp::from_micros(micros).min(now));
        self.last = self.last.map(|last| last.min(now)).max(told);
    }

    /// Whether the last contact is too long ago. Where there was none, nothing has grown old.
    pub(crate) fn is_stale(&self, after: Duration, now: Timestamp) -> bool {
        self.last.is_some_and(|last| now.since(last) > after)
    }
}
