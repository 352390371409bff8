//! Request ids: UUID v7 (RFC 9562 §5.7). They order, they are not secrets.

use decision_core::time::Timestamp;

/// Makes request ids from the time and a generator that was seeded once: no host call per request.
#[derive(Debug)]
pub(crate) struct IdSource {
    random: fastrand::Rng,
}

/// A request id, as bytes and as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestId {
    uuid: uuid::Uuid,
}

impl IdSource {
    /// Seeded from the host's random numbers (the standard library's hash seed comes from `random_get`).
    pub(crate) fn new() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self { random: fastrand::Rng::with_seed(RandomState::new().hash_one("plant-gateway")) }
    }

    pub(crate) fn request_id(&mut self, now: Timestamp) -> RequestId {
        let mut random = [0; 10];
        self.random.fill(&mut random);
        let millis = u64::try_from(now.as_millis()).unwrap_or(0);
        RequestId { uuid: uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid() }
    }

    pub(crate) fn holder_id(&mut self) -> [u8; 16] {
        let mut id = [0; 16];
        self.random.fill(&mut id);
        id
    }

    /// A number below `most`, for jitter.
    pub(crate) fn jitter(&mut self, most: u64) -> u64 {
        self.random.u64(0..most.max(1))
    }
}

impl RequestId {
    pub(crate) const fn bytes(self) -> [u8; 16] {
        self.uuid.into_bytes()
    }

    /// Whether it is the one of so many that is chosen, by its random bits.
    pub(crate) fn is_chosen(self, of: u32) -> bool {
        let (_, random) = self.uuid.as_u64_pair();
        // The two highest bits say what kind of id it is.
        (random << 2 >> 2).is_multiple_of(u64::from(of))
    }

    /// The usual text, in `buffer`.
    pub(crate) fn text(self, buffer: &mut [u8; 36]) -> &str {
        self.uuid.hyphenated().encode_lower(buffer)
    }
}
