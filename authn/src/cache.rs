//! Verified tokens and what they said, so that each is verified once. Keyed by the whole header value, never by a hash of
//! it; bounded in entries and in bytes. An eviction only costs time.

use core::fmt;

use decision_core::time::Timestamp;
use hashbrown::HashTable;

/// How much of a header value is hashed: the end of the signature. Only verified tokens get in, so its bits are the
/// issuer's, not a client's; and a collision costs one comparison.
const HASHED_BYTES: usize = 32;

struct Entry<P> {
    authorization: Box<[u8]>,
    hash: u64,
    expires_at: Timestamp,
    referenced: bool,
    principal: P,
}

/// A bounded map from `Authorization` values to principals, evicting by CLOCK (second chance). A lookup allocates nothing.
/// `P` should be small: an `Rc`.
pub struct TokenCache<P> {
    /// Indices into `entries`.
    index: HashTable<usize>,
    /// Dense: a removal moves the last entry into the gap, so the hand never meets an empty place.
    entries: Vec<Entry<P>>,
    hand: usize,
    bytes: usize,
    capacity: usize,
    bytes_max: usize,
}

impl<P> fmt::Debug for TokenCache<P> {
    /// Sizes only: the keys are live credentials.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TokenCache")
            .field("len", &self.entries.len())
            .field("bytes", &self.bytes)
            .field("capacity", &self.capacity)
            .field("bytes_max", &self.bytes_max)
            .finish_non_exhaustive()
    }
}

impl<P> TokenCache<P> {
    /// At most `capacity` entries, whose keys and own sizes add up to at most `bytes_max`. What a `P` points to is not
    /// counted.
    #[must_use]
    pub const fn new(capacity: usize, bytes_max: usize) -> Self {
        Self { index: HashTable::new(), entries: Vec::new(), hand: 0, bytes: 0, capacity, bytes_max }
    }

    /// The principal of a value that was inserted and has not expired. An expired one is removed.
    pub fn get(&mut self, authorization: &[u8], now: Timestamp) -> Option<&P> {
        let place = self.place(authorization, hash(authorization))?;
        if self.entries.get(place)?.expires_at <= now {
            self.remove(place);
            return None;
        }
        let entry = self.entries.get_mut(place)?;
        entry.referenced = true;
        Some(&entry.principal)
    }

    /// Remembers a verified value until `expires_at` at most; replaces what was known of it.
    pub fn insert(&mut self, authorization: &[u8], principal: P, expires_at: Timestamp) {
        let hash = hash(authorization);
        if let Some(place) = self.place(authorization, hash) {
            self.remove(place);
        }
        let size = Self::size(authorization);
        if self.capacity == 0 || size > self.bytes_max {
            return;
        }
        while self.entries.len() >= self.capacity || self.bytes.saturating_add(size) > self.bytes_max {
            self.evict();
        }
        let entries = &self.entries;
        let rehash = |place: &usize| entries.get(*place).map_or(0, |entry| entry.hash);
        self.index.insert_unique(hash, entries.len(), rehash);
        self.entries.push(Entry { authorization: authorization.into(), hash, expires_at, referenced: false, principal });
        self.bytes += size;
    }

    /// Forgets everything: the keys, the revocations or the policy changed.
    pub fn clear(&mut self) {
        self.index.clear();
        self.entries.clear();
        self.hand = 0;
        self.bytes = 0;
    }

    /// Drops some of the entries of a cache that is not asked any more: to drop ten thousand at once takes longer than a worker
    /// may be busy with it. Nothing is found from now on. Returns whether any entry is left.
    pub fn dismantle(&mut self, entries: usize) -> bool {
        self.index.clear();
        self.entries.truncate(self.entries.len().saturating_sub(entries));
        !self.entries.is_empty()
    }

    /// How many entries there are, expired ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What counts towards the maximum of bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    fn size(authorization: &[u8]) -> usize {
        authorization.len().saturating_add(size_of::<Entry<P>>())
    }

    fn place(&self, authorization: &[u8], hash: u64) -> Option<usize> {
        let is_it = |place: &usize| self.entries.get(*place).is_some_and(|entry| is_same(&entry.authorization, authorization));
        self.index.find(hash, is_it).copied()
    }

    /// Amortised O(1): every step but the last clears a mark that one `get` had set.
    fn evict(&mut self) {
        loop {
            if self.hand >= self.entries.len() {
                self.hand = 0;
            }
            match self.entries.get_mut(self.hand) {
                Some(entry) if entry.referenced => {
                    entry.referenced = false;
                    self.hand += 1;
                }
                Some(_) => {
                    // The last entry moves into the gap: the newest. It gets a whole lap, as all others do.
                    self.remove(self.hand);
                    self.hand += 1;
                    return;
                }
                None => return,
            }
        }
    }

    /// INVARIANT (dense): `index` holds each of `0..entries.len()` once, under its entry's hash.
    fn remove(&mut self, place: usize) {
        let Some(entry) = self.entries.get(place) else {
            return;
        };
        self.bytes -= Self::size(&entry.authorization);
        if let Ok(found) = self.index.find_entry(entry.hash, |known| *known == place) {
            found.remove();
        }
        self.entries.swap_remove(place);
        let last = self.entries.len();
        if let Some(moved) = self.entries.get(place)
            && let Some(known) = self.index.find_mut(moved.hash, |known| *known == last)
        {
            *known = place;
        }
    }
}

/// Eight bytes at a time: `memcmp` of wasi-libc goes byte by byte, and takes six times as long.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let ((words, rest), (other_words, other_rest)) = (one.as_chunks::<8>(), other.as_chunks::<8>());
    let mut pairs = words.iter().zip(other_words);
    one.len() == other.len() && rest == other_rest && pairs.all(|(word, other)| u64::from_ne_bytes(*word) == u64::from_ne_bytes(*other))
}

/// Multiplies and folds the last 32 bytes; zeros stand before a shorter value.
fn hash(authorization: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let tail = authorization.last_chunk::<HASHED_BYTES>().map_or(authorization, |tail| tail.as_slice());
    let folded = tail.rchunks(8).fold(MULTIPLIER, |sum, chunk| {
        let word = chunk.iter().fold(0_u64, |word, &byte| (word << 8) | u64::from(byte));
        (sum ^ word).wrapping_mul(MULTIPLIER).rotate_left(29)
    });
    let mixed = (folded ^ (folded >> 32)).wrapping_mul(MULTIPLIER);
    mixed ^ (mixed >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    const LATER: Timestamp = Timestamp::from_seconds(100);
    const NOW: Timestamp = Timestamp::from_seconds(50);

    #[test]
    fn what_is_dismantled_is_found_no_more_and_dropped_bit_by_bit() {
        let mut cache = TokenCache::new(8, 4096);
        let held = std::rc::Rc::new(());
        for token in 0..5_u8 {
            cache.insert(&[token], std::rc::Rc::clone(&held), LATER);
        }
        let mut left = Vec::new();
        while cache.dismantle(2) {
            assert!(cache.get(&[0], NOW).is_none());
            left.push(std::rc::Rc::strong_count(&held));
        }
        assert_eq!((left, std::rc::Rc::strong_count(&held)), (vec![4, 2], 1));
    }

    #[test]
    fn returns_what_was_inserted() {
        let mut cache = TokenCache::new(4, 4096);
        cache.insert(b"Bearer a", 1, LATER);
        assert_eq!(cache.get(b"Bearer a", NOW), Some(&1));
        assert_eq!(cache.get(b"Bearer b", NOW), None);
    }

    #[test]
    fn compares_the_whole_value_and_not_only_what_is_hashed() {
        let mut cache = TokenCache::new(4, 4096);
        let tail = "x".repeat(HASHED_BYTES);
        cache.insert(format!("Bearer a{tail}").as_bytes(), 1, LATER);
        assert_eq!(cache.get(format!("Bearer b{tail}").as_bytes(), NOW), None);
        cache.insert(format!("Bearer b{tail}").as_bytes(), 2, LATER);
        assert_eq!(cache.get(format!("Bearer a{tail}").as_bytes(), NOW), Some(&1));
        assert_eq!(cache.get(format!("Bearer b{tail}").as_bytes(), NOW), Some(&2));
    }

    #[test]
    fn values_are_the_same_only_if_every_byte_is() {
        for length in 0..40 {
            let value = vec![7; length];
            assert!(is_same(&value, &vec![7; length]));
            assert!(!is_same(&value, &vec![7; length + 1]));
            for place in 0..length {
                let mut other = value.clone();
                other[place] = 8;
                assert!(!is_same(&value, &other), "{length} {place}");
            }
        }
    }

    #[test]
    fn removes_an_entry_at_the_moment_it_expires() {
        let mut cache = TokenCache::new(4, 4096);
        cache.insert(b"a", 1, LATER);
        assert!(cache.get(b"a", Timestamp::from_micros(LATER.as_micros() - 1)).is_some());
        assert_eq!(cache.get(b"a", LATER), None);
        assert!(cache.is_empty());
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn replaces_an_entry() {
        let mut cache = TokenCache::new(4, 4096);
        cache.insert(b"a", 1, LATER);
        cache.insert(b"a", 2, LATER);
        assert_eq!((cache.len(), cache.get(b"a", NOW)), (1, Some(&2)));
    }

    #[test]
    fn evicts_the_entry_that_was_not_used() {
        let mut cache = TokenCache::new(2, 4096);
        cache.insert(b"used", 1, LATER);
        cache.insert(b"idle", 2, LATER);
        assert!(cache.get(b"used", NOW).is_some());
        cache.insert(b"new", 3, LATER);
        assert!(cache.get(b"used", NOW).is_some());
        assert_eq!(cache.get(b"idle", NOW), None);
    }

    #[test]
    fn new_entries_push_out_old_ones_and_not_each_other() {
        let mut cache = TokenCache::new(8, 1 << 20);
        for name in 0..12_u8 {
            cache.insert(&[name], name, LATER);
        }
        let left: Vec<u8> = (0..12).filter(|name| cache.get(&[*name], NOW).is_some()).collect();
        assert!(left.contains(&9) && left.contains(&10) && left.contains(&11), "{left:?}");
        assert!(!left.contains(&0) && !left.contains(&1), "{left:?}");
    }

    #[test]
    fn keeps_within_its_bytes() {
        let entry = size_of::<Entry<u32>>() + 10;
        let mut cache = TokenCache::new(100, entry * 2);
        for index in 0..9_u32 {
            cache.insert(format!("token-{index:04}").as_bytes(), index, LATER);
            assert!(cache.bytes() <= entry * 2);
        }
        assert_eq!(cache.len(), 2);
        cache.insert(&vec![b'x'; entry * 2], 99, LATER);
        assert_eq!(cache.get(&vec![b'x'; entry * 2], NOW), None);
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn a_cache_of_capacity_zero_keeps_nothing() {
        let mut cache = TokenCache::new(0, 4096);
        cache.insert(b"a", 1, LATER);
        assert!(cache.is_empty());
    }

    #[test]
    fn forgets_everything_when_cleared() {
        let mut cache = TokenCache::new(8, 4096);
        for name in 0..8_u8 {
            cache.insert(&[name], name, LATER);
        }
        cache.clear();
        assert_eq!((cache.len(), cache.bytes(), cache.get(&[3], NOW)), (0, 0, None));
    }

    #[test]
    fn shows_no_credential_in_debug_output() {
        let mut cache = TokenCache::new(4, 4096);
        cache.insert(b"Bearer secret", 1, LATER);
        assert!(!format!("{cache:?}").contains("secret"));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert { name: u8, expires_in: i64 },
        Get { name: u8 },
        Clear,
        Wait { seconds: i64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..24_u8, 0..20_i64).prop_map(|(name, expires_in)| Step::Insert { name, expires_in }),
            8 => (0..24_u8).prop_map(|name| Step::Get { name }),
            1 => Just(Step::Clear),
            4 => (0..6_i64).prop_map(|seconds| Step::Wait { seconds }),
        ]
    }

    /// Values that share what is hashed, in groups.
    fn value(name: u8) -> Vec<u8> {
        [vec![name; usize::from(name % 5) + 1], vec![name % 4; HASHED_BYTES]].concat()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// The model knows every live entry; the cache may have forgotten some, but may not invent or keep any.
        #[test]
        fn agrees_with_a_naive_model(steps in prop::collection::vec(step(), 1..200), capacity in 0..10_usize, room in 0..12_usize) {
            let bytes_max = room * (size_of::<Entry<usize>>() + HASHED_BYTES + 3);
            let mut cache = TokenCache::new(capacity, bytes_max);
            let mut model: BTreeMap<u8, (usize, Timestamp)> = BTreeMap::new();
            let mut now = Timestamp::EPOCH;
            for (serial, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert { name, expires_in } => {
                        let expires_at = now.plus(core::time::Duration::from_secs(expires_in.unsigned_abs()));
                        cache.insert(&value(name), serial, expires_at);
                        model.insert(name, (serial, expires_at));
                        if capacity > 0 && bytes_max >= TokenCache::<usize>::size(&value(name)) && expires_at > now {
                            prop_assert_eq!(cache.get(&value(name), now), Some(&serial));
                        }
                    }
                    Step::Get { name } => {
                        let live = model.get(&name).filter(|(_, expires_at)| *expires_at > now).map(|(serial, _)| serial);
                        if let Some(found) = cache.get(&value(name), now) {
                            prop_assert_eq!(Some(found), live);
                        }
                    }
                    Step::Clear => { cache.clear(); model.clear(); }
                    Step::Wait { seconds } => now = now.plus(core::time::Duration::from_secs(seconds.unsigned_abs())),
                }
                prop_assert!(cache.len() <= capacity);
                prop_assert!(cache.bytes() <= bytes_max);
                prop_assert_eq!(cache.index.len(), cache.entries.len());
                let bytes: usize = cache.entries.iter().map(|entry| TokenCache::<usize>::size(&entry.authorization)).sum();
                prop_assert_eq!(bytes, cache.bytes());
                for (place, entry) in cache.entries.iter().enumerate() {
                    prop_assert_eq!(cache.place(&entry.authorization, entry.hash), Some(place));
                }
            }
        }

        /// With room for all, nothing is forgotten.
        #[test]
        fn forgets_nothing_while_there_is_room(names in prop::collection::vec(0..50_u8, 0..100)) {
            let mut cache = TokenCache::new(50, 1 << 20);
            for name in &names { cache.insert(&value(*name), *name, LATER); }
            for name in &names { prop_assert_eq!(cache.get(&value(*name), NOW), Some(name)); }
        }
    }
}
