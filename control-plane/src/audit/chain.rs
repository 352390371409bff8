//! The hash chains: one per holder and gateway, in the order of the holder's sequence. Nobody shares one, so nobody waits for one;
//! and a gateway's partitions can be dropped without breaking another's.

use crate::holders::HolderId;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// SHA-256.
pub type Hash = [u8; 32];

/// The form in which an entry is hashed. Another set of columns is another form.
const FORM: u8 = 1;

/// A record as the table has it: what is inserted is what is hashed, column by column.
///
/// Postcard writes lengths and which options are there, so no two entries have the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names are the columns of `gateway_audit_logs`")]
pub struct Entry<'a> {
    pub holder: [u8; 16],
    pub sequence: i64,
    pub envoy_id: &'a str,
    pub received_at_us: i64,
    pub at_us: i64,
    pub gateway: &'a str,
    pub stage: &'a str,
    pub phase: &'a str,
    pub correlation_id: &'a str,
    pub causation_id: Option<&'a str>,
    pub request_id: &'a str,
    pub method: Option<&'a str>,
    pub path: Option<&'a str>,
    pub upgrade: Option<&'a str>,
    /// Like everything in JSON: without spaces, members in the order of their names.
    pub query: Option<&'a str>,
    pub request_headers: Option<&'a str>,
    pub response_headers: Option<&'a str>,
    pub route: Option<&'a str>,
    pub action: Option<&'a str>,
    pub sampled_of: i64,
    pub issuer: Option<&'a str>,
    pub subject: Option<&'a str>,
    pub user_id: Option<&'a str>,
    pub customer_id: Option<&'a str>,
    pub agent_id: Option<&'a str>,
    pub email: Option<&'a str>,
    pub governor_agent_id: Option<&'a str>,
    /// Joined by commas.
    pub roles: Option<&'a str>,
    pub tier: Option<&'a str>,
    pub trial: bool,
    pub trial_until_us: Option<i64>,
    pub sandbox: bool,
    pub decision: &'a str,
    pub reason: &'a str,
    pub rule: Option<&'a str>,
    pub checks: &'a str,
    pub shadow: Option<&'a str>,
    pub charges: &'a str,
    pub cost: Option<&'a str>,
    pub usage: Option<&'a str>,
    pub approval_id: Option<&'a str>,
    pub activation: i64,
    pub revision: i64,
    pub key_set: i64,
    pub revocation: i64,
    pub status: Option<i32>,
    pub details: Option<&'a str>,
    pub total_us: i64,
    pub upstream_us: Option<i64>,
    pub ours_us: Option<i64>,
}

/// What a chain begins with. It names the chain, so that no chain passes for another.
#[must_use]
pub fn beginning(holder: HolderId, gateway: &str) -> Hash {
    let mut digest = Sha256::new();
    digest.update(b"plant-gateway audit chain 1\0");
    digest.update(holder.0.as_bytes());
    digest.update(gateway);
    digest.finalize().into()
}

/// Hashes entries, without asking for memory each time.
#[derive(Debug, Default)]
pub struct Hasher {
    bytes: Vec<u8>,
}

impl Hasher {
    /// The hash of an entry that follows the one with the hash `previous` in its chain.
    pub fn hash(&mut self, previous: &Hash, entry: &Entry<'_>) -> Hash {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        // Writing to memory fails only if a type of the entry could not be serialised at all, which the tests exclude.
        self.bytes = postcard::to_extend(&(FORM, entry), bytes).unwrap_or_default();
        Sha256::new().chain_update(previous).chain_update(&self.bytes).finalize().into()
    }
}

/// Where a chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The sequence number of its last record; 0 before the first.
    pub sequence: i64,
    /// How many records it has had.
    pub records: i64,
    /// The hash of its last record.
    pub hash: Hash,
}

impl Head {
    /// Before the first record.
    #[must_use]
    pub fn start(holder: HolderId, gateway: &str) -> Self {
        Self { sequence: 0, records: 0, hash: beginning(holder, gateway) }
    }

    /// After one more record.
    #[must_use]
    pub const fn advanced(self, sequence: i64, hash: Hash) -> Self {
        Self { sequence, records: self.records.saturating_add(1), hash }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const ENTRY: Entry<'static> = Entry {
        holder: [1; 16],
        sequence: 1,
        envoy_id: "envoy-1",
        received_at_us: 2,
        at_us: 1,
        gateway: "CP",
        stage: "filter",
        phase: "outcome",
        correlation_id: "c",
        causation_id: None,
        request_id: "r",
        method: Some("GET"),
        path: Some("/"),
        upgrade: None,
        query: None,
        request_headers: None,
        response_headers: None,
        route: None,
        action: None,
        sampled_of: 1,
        issuer: None,
        subject: None,
        user_id: None,
        customer_id: None,
        agent_id: None,
        email: None,
        governor_agent_id: None,
        roles: None,
        tier: None,
        trial: false,
        trial_until_us: None,
        sandbox: false,
        decision: "permit",
        reason: "ok",
        rule: None,
        checks: "[]",
        shadow: None,
        charges: "[]",
        cost: None,
        usage: None,
        approval_id: None,
        activation: 1,
        revision: 1,
        key_set: 1,
        revocation: 0,
        status: Some(200),
        details: None,
        total_us: 1,
        upstream_us: None,
        ours_us: None,
    };

    #[test]
    fn a_hash_depends_on_what_was_before_and_on_every_value() {
        let start = beginning(HolderId(Uuid::nil()), "CP");
        let hash = Hasher::default().hash(&start, &ENTRY);
        assert_eq!(Hasher::default().hash(&start, &ENTRY), hash);
        assert_ne!(Hasher::default().hash(&hash, &ENTRY), hash);
        let moved = [
            Entry { causation_id: Some("r"), request_id: "", ..ENTRY },
            Entry { correlation_id: "", causation_id: Some("c"), ..ENTRY },
            Entry { issuer: Some(""), ..ENTRY },
            Entry { upstream_us: Some(1), total_us: 0, ..ENTRY },
            Entry { ours_us: Some(0), ..ENTRY },
            Entry { trial: true, ..ENTRY },
        ];
        let mut hasher = Hasher::default();
        for entry in moved {
            assert_ne!(hasher.hash(&start, &entry), hash, "{entry:?}");
        }
        assert_eq!(hasher.hash(&start, &ENTRY), hash, "what was hashed before does not matter");
    }

    #[test]
    fn no_two_chains_begin_alike() {
        let (one, other) = (HolderId(Uuid::from_u128(1)), HolderId(Uuid::from_u128(2)));
        assert_ne!(beginning(one, "CP"), beginning(other, "CP"));
        assert_ne!(beginning(one, "CP"), beginning(one, "PP"));
    }
}
