//! Rulings by projected input: the whole bytes are the key, so that a collision of hashes can cost time only.

use crate::ruling::Ruling;
use hashbrown::HashMap;
use std::sync::Arc;

/// A generation's bounds. There are two: so many at most twice.
const ENTRIES_MAX: usize = 2_048;
const BYTES_MAX: usize = 512 * 1_024;
/// A longer key is not worth its place.
const KEY_BYTES_MAX: usize = 2_048;

/// What is used stays, what is not is forgotten when a generation is full. Nothing is ever searched for a victim.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    young: HashMap<Box<[u8]>, Arc<Ruling>>,
    old: HashMap<Box<[u8]>, Arc<Ruling>>,
    young_bytes: usize,
}

impl Memo {
    pub(crate) fn find(&mut self, key: &[u8]) -> Option<Arc<Ruling>> {
        if let Some(ruling) = self.young.get(key) {
            return Some(Arc::clone(ruling));
        }
        let (key, ruling) = self.old.remove_entry(key)?;
        self.insert(key, Arc::clone(&ruling));
        Some(ruling)
    }

    pub(crate) fn keep(&mut self, key: &[u8], ruling: &Arc<Ruling>) {
        if key.len() <= KEY_BYTES_MAX {
            self.insert(key.into(), Arc::clone(ruling));
        }
    }

    fn insert(&mut self, key: Box<[u8]>, ruling: Arc<Ruling>) {
        let bytes = key.len().saturating_add(ruling.rule.len()).saturating_add(ruling.reason.len());
        if self.young.len() >= ENTRIES_MAX || self.young_bytes.saturating_add(bytes) > BYTES_MAX {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes = self.young_bytes.saturating_add(bytes);
        self.young.insert(key, ruling);
    }

    /// How many rulings are kept.
    pub(crate) fn len(&self) -> usize {
        self.young.len().saturating_add(self.old.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruling::Fault;

    fn ruling() -> Arc<Ruling> {
        Arc::new(Fault::Undefined.into())
    }

    #[test]
    fn is_bounded_and_keeps_what_is_used() {
        let mut memo = Memo::default();
        memo.keep(b"used", &ruling());
        for number in 0..20_000_u32 {
            memo.keep(&number.to_le_bytes(), &ruling());
            assert!(memo.find(b"used").is_some(), "{number}");
            assert!(memo.len() <= 2 * ENTRIES_MAX);
        }
        assert!(memo.find(&0_u32.to_le_bytes()).is_none());
    }

    #[test]
    fn is_bounded_in_bytes() {
        let mut memo = Memo::default();
        for number in 0..10_000_u32 {
            let mut key = vec![0; KEY_BYTES_MAX];
            key[..4].copy_from_slice(&number.to_le_bytes());
            memo.keep(&key, &ruling());
        }
        assert!(memo.len() * KEY_BYTES_MAX <= 2 * BYTES_MAX, "{}", memo.len());
        memo.keep(&vec![1; KEY_BYTES_MAX + 1], &ruling());
        assert!(memo.find(&vec![1; KEY_BYTES_MAX + 1]).is_none());
    }
}
