//! How checkpoints hang together: each is signed, has the next number and names the one before it.

use super::checkpoints::{Checkpoint, InvalidCheckpoint, Told, TrustedKeys, digest};
use serde_json::Value;
use std::collections::HashSet;
use uuid::Uuid;

/// The checkpoints of a text that has one a line, each with the number of its line: as they are exported, or as a receiver was told of them,
/// which may have been more than once.
#[must_use]
pub fn lines(text: &str) -> Vec<(usize, String)> {
    let mut known = HashSet::new();
    let told = text.lines().map(str::trim).zip(1..).filter(|(line, _)| !line.is_empty()).map(|(line, number)| (number, jws_of(line)));
    told.filter(|(_, jws)| known.insert(digest(jws))).collect()
}

fn jws_of(line: &str) -> String {
    let event: Option<Value> = serde_json::from_str(line).ok();
    let jws = event.as_ref().and_then(|event| event.pointer("/data/jws")).and_then(Value::as_str);
    jws.unwrap_or(line).to_owned()
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_checkpoints_as_they_are_exported_or_told() {
        let text = "a.b.c\n\n{\"type\":\"audit.checkpoint\",\"data\":{\"jws\":\"a.b.d\",\"number\":2}}\na.b.d\n{\"data\":1}\n";
        let expected = [(1, "a.b.c"), (3, "a.b.d"), (5, "{\"data\":1}")].map(|(number, jws)| (number, jws.to_owned()));
        assert_eq!(lines(text), expected, "told twice is told once, and what is none is not left out");
    }
}
