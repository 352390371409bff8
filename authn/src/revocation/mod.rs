//! What was revoked, as every worker keeps it: a table of 128-bit marks, so that a hundred thousand entries cost a few
//! megabytes and a look-up no allocation. A mark is a cryptographic digest: nobody can make one token's mark collide with another's.

use core::hash::{BuildHasher, Hasher};

use decision_core::principal::{Identity, RevocationKind};
use decision_core::time::Timestamp;
use hashbrown::HashMap;
use hmac_sha256::Hash as Sha256;

/// The mark of one thing that may be revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(pub [u8; 16]);

impl core::hash::Hash for Mark {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl Mark {
    /// The mark of `value`. Tokens, subjects, versions and keys belong to an issuer (our name for it); customers and
    /// agents are the same whoever vouches for them, so there `issuer` does not count.
    #[must_use]
    pub fn of(kind: RevocationKind, issuer: &str, value: &str) -> Self {
        let issuer = match kind {
            RevocationKind::Token | RevocationKind::Subject | RevocationKind::Version | RevocationKind::Key => issuer,
            RevocationKind::Customer | RevocationKind::Agent => "",
        };
        // Lengths of two bytes: for the usual ids all of it is one block of the hash.
        let mut hash = Sha256::new();
        hash.update([tag(kind)]);
        for part in [issuer, value] {
            hash.update(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let mut mark = [0; 16];
        for (byte, value) in mark.iter_mut().zip(hash.finalize()) {
            *byte = value;
        }
        Self(mark)
    }
}

/// Marks of two kinds differ, whatever the values are.
const fn tag(kind: RevocationKind) -> u8 {
    match kind {
        RevocationKind::Token => 1,
        RevocationKind::Subject => 2,
        RevocationKind::Version => 3,
        RevocationKind::Key => 4,
        RevocationKind::Customer => 5,
        RevocationKind::Agent => 6,
    }
}

/// The marks of one token, to be computed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    marks: [Option<Mark>; 7],
    issued_at: Timestamp,
    token_version: Option<u64>,
}

/// The kinds of the seven marks: an agent may be named as the agent, and as the governor's.
const KINDS: [RevocationKind; 7] = [
    RevocationKind::Token,
    RevocationKind::Subject,
    RevocationKind::Version,
    RevocationKind::Key,
    RevocationKind::Customer,
    RevocationKind::Agent,
    RevocationKind::Agent,
];

impl Marks {
    /// Of a verified token.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        let values = [
            identity.token_id.as_deref(),
            Some(&*identity.subject),
            Some(&*identity.subject),
            identity.key_id.as_deref(),
            identity.customer_id.as_deref(),
            identity.agent_id.as_deref(),
            identity.governor_agent_id.as_deref(),
        ];
        let mut marks = [None; 7];
        for ((mark, kind), value) in marks.iter_mut().zip(KINDS).zip(values) {
            *mark = value.map(|value| Mark::of(kind, &identity.issuer, value));
        }
        Self { marks, issued_at: identity.issued_at, token_version: identity.token_version }
    }
}

/// A mark is uniformly distributed already.
#[derive(Clone, Copy, Debug, Default)]
struct TakeBits;

#[derive(Clone, Copy, Debug, Default)]
struct Bits(u64);

impl BuildHasher for TakeBits {
    type Hasher = Bits;

    fn build_hasher(&self) -> Bits {
        Bits(0)
    }
}

impl Hasher for Bits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.first_chunk::<8>().map_or(0, |bits| u64::from_le_bytes(*bits));
    }
}

/// Everything that is revoked.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    bounds: HashMap<Mark, i64, TakeBits>,
}

impl Revocations {
    /// Revokes. `bound` is microseconds since the epoch for a subject (tokens issued before it), the lowest good version
    /// for a version, and without meaning for the others. What was known of the mark is replaced.
    pub fn revoke(&mut self, mark: Mark, bound: i64) {
        self.bounds.insert(mark, bound);
    }

    /// Takes back what was revoked.
    pub fn lift(&mut self, mark: Mark) {
        self.bounds.remove(&mark);
    }

    /// Forgets everything, and makes room for `expected` entries at once: growing step by step would need half as much again.
    pub fn reset(&mut self, expected: usize) {
        self.bounds.clear();
        self.bounds.reserve(expected);
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bounds.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bounds.is_empty()
    }

    /// What revokes the token of these marks, if anything does.
    #[must_use]
    pub fn find(&self, marks: &Marks) -> Option<RevocationKind> {
        if self.bounds.is_empty() {
            return None;
        }
        let found = marks.marks.iter().zip(KINDS).find(|(mark, kind)| {
            let bound = mark.as_ref().and_then(|mark| self.bounds.get(mark));
            bound.is_some_and(|bound| Self::applies(*kind, *bound, marks))
        });
        found.map(|(_, kind)| kind)
    }

    fn applies(kind: RevocationKind, bound: i64, marks: &Marks) -> bool {
        match kind {
            RevocationKind::Token | RevocationKind::Key | RevocationKind::Customer | RevocationKind::Agent => true,
            RevocationKind::Subject => marks.issued_at.as_micros() < bound,
            // A token that does not say its version may be of any: it is refused.
            RevocationKind::Version => {
                marks.token_version.is_none_or(|version| i64::try_from(version).is_ok_and(|version| version < bound))
            }
        }
    }
}

#[cfg(test)]
mod tests;
