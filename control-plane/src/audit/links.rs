//! How checkpoints hang together: each is signed, has the next number and names the one before it.

use super::checkpoints::{Checkpoint, InvalidCheckpoint, Told, TrustedKeys, digest};
use uuid::Uuid;

/// Why a checkpoint does not follow from those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenLink {
    /// It does not count.
    #[error("a checkpoint does not count")]
    Invalid {
        /// The number that it should have, if any was before.
        number: Option<i64>,
        /// Why.
        #[source]
        source: InvalidCheckpoint,
    },
    /// It is good, and follows another.
    #[error("checkpoint {number} does not follow from the one before it")]
    OutOfOrder {
        /// Its number.
        number: i64,
    },
}

/// Checkpoints that are read in their order.
#[derive(Debug)]
pub struct Links<'k> {
    keys: &'k TrustedKeys,
    before: Option<Before>,
}

#[derive(Debug)]
struct Before {
    number: i64,
    digest: String,
    database: Uuid,
}

impl<'k> Links<'k> {
    /// Before the first.
    #[must_use]
    pub const fn new(keys: &'k TrustedKeys) -> Self {
        Self { keys, before: None }
    }

    /// Opens the next one.
    ///
    /// # Errors
    /// It is not the next one. Nothing after it can be judged.
    pub fn open(&mut self, jws: &str) -> Result<Checkpoint, BrokenLink> {
        let number = self.before.as_ref().map(|before| before.number.saturating_add(1));
        let checkpoint = self.keys.open(jws).map_err(|source| BrokenLink::Invalid { number, source })?;
        if !self.follows(&checkpoint) {
            return Err(BrokenLink::OutOfOrder { number: checkpoint.number });
        }
        self.before = Some(Before { number: checkpoint.number, digest: digest(jws), database: checkpoint.database });
        Ok(checkpoint)
    }

    fn follows(&self, checkpoint: &Checkpoint) -> bool {
        let Some(before) = &self.before else { return checkpoint.number == 1 && checkpoint.previous.is_none() };
        // Only a restore gives a database another id, and it always does.
        let same_database = checkpoint.database == before.database;
        let in_place = match checkpoint.told {
            Told::Heads { .. } | Told::Dropped { .. } => same_database,
            Told::Restored { kept, .. } => !same_database && (0..=before.number).contains(&kept),
        };
        in_place && checkpoint.number == before.number.saturating_add(1) && checkpoint.previous.as_ref() == Some(&before.digest)
    }
}
