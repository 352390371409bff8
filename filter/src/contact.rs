//! When this Envoy last heard of keys and of revocations, whichever worker did: they are relied on for so long.

use crate::host::Host;
use decision_core::time::Timestamp;
use std::time::Duration;

const CONTACT: &str = "plant_gateway.contact";
/// The others are told, and asked, so often.
const EXCHANGE: Duration = Duration::from_secs(1);

/// What a poll was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// The bundle, and so the keys.
    Keys,
    Revocations,
}

/// The last contact, as this worker knows it: the older of the two, since a token is judged by both.
#[derive(Debug, Default)]
pub(crate) struct Contact {
    keys: Option<Timestamp>,
    revocations: Option<Timestamp>,
    /// What another worker has told.
    told: Option<Timestamp>,
    /// What this worker has told the others.
    last_told: Option<Timestamp>,
    look_due: Timestamp,
}

impl Contact {
    /// Begins with knowledge from a configuration: how old it is cannot be told, so it counts from now, and not for ever.
    pub(crate) fn begin(&mut self, now: Timestamp) {
        self.keys.get_or_insert(now);
        self.revocations.get_or_insert(now);
    }

    /// A poll of this worker was answered. The others are told.
    pub(crate) fn heard(&mut self, about: About, host: &impl Host, now: Timestamp) {
        match about {
            About::Keys => self.keys = Some(now),
            About::Revocations => self.revocations = Some(now),
        }
        let Some(both) = self.own() else { return };
        // By what is told and not by when: what makes old knowledge good again is told at once.
        let news = self.last_told.is_none_or(|last| both >= last.plus(EXCHANGE) || both < last);
        if news {
            self.last_told = Some(both);
            host.set_shared(CONTACT, &both.as_micros().to_le_bytes(), None).unwrap_or(());
        }
    }

    fn own(&self) -> Option<Timestamp> {
        Some(self.keys?.min(self.revocations?))
    }

    /// Asks what the others know, if it is time to.
    pub(crate) fn look(&mut self, host: &impl Host, now: Timestamp) {
        if now < self.look_due && self.look_due <= now.plus(EXCHANGE) {
            return;
        }
        self.look_due = now.plus(EXCHANGE);
        let told = host.shared(CONTACT).value.and_then(|value| value.try_into().ok()).map(i64::from_le_bytes);
        // A clock that was set back must not make an old contact a new one.
        for known in [&mut self.keys, &mut self.revocations] {
            *known = known.map(|at| at.min(now));
        }
        self.told = told.map(|micros| Timestamp::from_micros(micros).min(now));
    }

    /// Whether the last contact is too long ago. Where there was none, nothing has grown old.
    pub(crate) fn is_stale(&self, after: Duration, now: Timestamp) -> bool {
        self.own().max(self.told).is_some_and(|last| now.since(last) > after)
    }
}
