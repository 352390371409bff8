//! `POST /data-plane/v1/sync`: the one call by which a holder reports, asks and delivers.
//!
//! Numbers are cumulative and wants are *targets*, so that any call may be lost, repeated or late: a call number that
//! is older than the last one is refused, and a call that was not answered is followed by one with a higher number.

use crate::policy::{Gateway, Target};
use decision_core::budget::OVERRIDE_PREFIX;
use serde::{Deserialize, Serialize};

/// The header of a refusal with 410 that says up to which sequence number the records of the closed holder are stored: they are not
/// to be sent again under the new one.
pub const RECORDS_STORED_HEADER: &str = "x-records-stored";

/// A holder's random id, or a request id (UUID v7), as bytes.
pub type Id = [u8; 16];

/// What a holder sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRequest {
    /// The virtual machine that holds the leases.
    pub holder: Id,
    /// Rises by one with every call, answered or not; the first is 1.
    pub call: u64,
    /// The activation that this worker enforces; 0 before the first bundle.
    pub activation: u64,
    /// The last revocation that this worker enforces; 0 before the first contact.
    pub revocation: u64,
    /// Names of issuers with a JWK set of which a token named a key that is not in it.
    pub unknown_keys: Vec<String>,
    /// One entry per account whose numbers changed or that wants something.
    pub accounts: Vec<AccountReport>,
    /// Approvals to request or to consume.
    pub approvals: Vec<ApprovalAsk>,
    /// Consumed approvals whose request never reached the backend.
    pub undos: Vec<ApprovalUndo>,
    /// Audit records; sent again unchanged until acknowledged.
    pub records: Option<RecordBatch>,
    /// What the revision in shadow came to, if there is one and it has judged anything.
    pub shadow: Option<ShadowReport>,
}

/// How the revision in shadow compares, on the requests of one holder. Cumulative since the shadow began there, so that any
/// report may be lost or repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowReport {
    /// The shadow run, from [`BundleVersion::shadow`](crate::bundle::BundleVersion).
    pub shadow: u64,
    /// Requests that both revisions judged.
    pub compared: u64,
    /// Requests that only the active one could judge: the shadow wants a credential that was not verified.
    pub unjudged: u64,
    /// Requests that were judged differently. Those beyond the table's room are under an empty route.
    pub differences: Vec<ShadowDifference>,
}

/// One way in which the two revisions differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShadowDifference {
    /// In what they part.
    pub aspect: Aspect,
    /// The rule of the revision in shadow: its route, else the active one's.
    pub route: String,
    /// What the active revision came to: `ok`, a coded reason, or a word for what becomes of a permitted request.
    pub active: String,
    /// What the one in shadow came to, in the same words.
    pub shadow: String,
    /// How often.
    pub count: u64,
}

/// In what two revisions part: at a check, or in what becomes of a request that both permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Aspect {
    /// What a check found.
    Check(crate::audit::Check),
    /// What the backend gets as credential.
    Credential,
    /// The path that the backend gets.
    Rewrite,
    /// What kind of exchange it is.
    Exchange,
}

/// What the holder knows and wants of one account, in the budget's unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountReport {
    /// The budget's name.
    pub budget: String,
    /// The scope with its values filled in.
    pub scope: String,
    /// Start of the window, seconds since the epoch.
    pub window_start: i64,
    /// Distinguishes this lease from an earlier one of the same holder on the same account; only rises.
    pub generation: u64,
    /// Settled so far under this lease.
    pub used: i64,
    /// Reserved by open requests.
    pub held: i64,
    /// Charged beyond what was reserved, booked apart.
    pub overrun: i64,
    /// What the grant should become, as a total over the life of the lease. The holder already keeps to a lower one.
    pub target: i64,
    /// What the grant must be at least for the requests that wait: `used + held +` their charges.
    pub minimum: i64,
    /// The largest single charge of this account, which decides whether a prefetch is worth it.
    pub charge: i64,
    /// The lease is given back; `held` is 0 and `target` equals `used`.
    pub close: bool,
}

/// An approval to request or to consume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalAsk {
    /// The request that asks; a repeated ask of the same request gets the same answer.
    pub request_id: Id,
    /// The approval that the client presented; absent: a new one is requested.
    pub approval_id: Option<String>,
    /// What the approval is bound to.
    pub binding: ApprovalBinding,
    /// The route's name.
    pub route: String,
    /// The route's permission, for the person who decides.
    pub action: String,
}

/// Exactly the request that an approval is for: what the client sent, and for whom and where to it goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalBinding {
    /// The gateway.
    pub gateway: Gateway,
    /// The user: issuer name.
    pub issuer: String,
    /// The user: subject.
    pub subject: String,
    /// The user id that the backend is told. One subject's tokens may name several, as also of the two that follow.
    pub user_id: String,
    /// The customer for whom the user acts: the backend is told, and routes with ownership write it into the request.
    pub customer_id: Option<String>,
    /// The agent for whom the user acts: the backend is told, and budgets are charged.
    pub agent_id: Option<String>,
    /// Where the request goes.
    pub target: Target,
    /// The method.
    pub method: String,
    /// The authority, lower case.
    pub authority: String,
    /// The canonical path.
    pub path: String,
    /// The query as sent, without `?`; absent when there is no `?`.
    pub query: Option<String>,
    /// How the body is to be read: `Content-Type` as sent.
    pub content_type: Option<String>,
    /// How the body is coded: `Content-Encoding` as sent.
    pub content_encoding: Option<String>,
    /// SHA-256 of the body; of nothing when there is none.
    pub body_sha256: [u8; 32],
    /// The body's length in bytes.
    pub body_length: u64,
}

/// A consumed approval whose request never reached the backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalUndo {
    /// The request that consumed it.
    pub request_id: Id,
    /// The approval.
    pub approval_id: String,
}

/// Audit records in sequence, each as `u32` little-endian length and then [`AuditRecord`](crate::audit::AuditRecord).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordBatch {
    /// The sequence number of the first record; a holder's first is 1.
    pub first_sequence: u64,
    /// How many there are.
    pub count: u32,
    /// The records. Written as a block: byte by byte they cost a microsecond per record.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// What the control plane answers, after the commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncAnswer {
    /// The call that is answered.
    pub call: u64,
    /// One entry per reported account.
    pub accounts: Vec<AccountGrant>,
    /// Accounts that others wait for: lower the lease to `used + held`.
    pub recalls: Vec<AccountRecall>,
    /// One entry per ask.
    pub approvals: Vec<ApprovalAnswer>,
    /// The batch with this first sequence number is stored.
    pub records_stored: Option<u64>,
}

/// The state of one account after the call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountGrant {
    /// The budget's name.
    pub budget: String,
    /// The scope.
    pub scope: String,
    /// Start of the window, seconds since the epoch.
    pub window_start: i64,
    /// The lease's generation.
    pub generation: u64,
    /// The grant, as a total over the life of the lease; 0 when it was closed.
    pub granted: i64,
    /// The cap in force.
    pub cap: i64,
    /// Charged by everybody, as far as reported, forfeits and overruns included.
    pub settled: i64,
    /// Whether the active policy knows the budget. If not, nothing more is granted.
    pub known: bool,
    /// What may be spent when this account has no more.
    pub overriding: Option<OverrideAccount>,
}

/// A second account that somebody granted beside a spent one, with its own cap. Reports name it by the budget of the first, by
/// the scope [`OverrideAccount::scope`], and by `from` as the start of its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideAccount {
    /// Its number.
    pub number: u64,
    /// From when on it may be spent, seconds since the epoch.
    pub from: i64,
    /// Until when, seconds since the epoch.
    pub until: i64,
}

impl OverrideAccount {
    /// Its scope: its number, and the scope beside which it was granted.
    #[must_use]
    pub fn scope(&self, of: &str) -> String {
        format!("{OVERRIDE_PREFIX}{},{of}", self.number)
    }
}

/// An account that others wait for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AccountRecall {
    /// The budget's name.
    pub budget: String,
    /// The scope.
    pub scope: String,
    /// Start of the window, seconds since the epoch.
    pub window_start: i64,
}

/// The answer to one ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalAnswer {
    /// The request that asked.
    pub request_id: Id,
    /// What became of it.
    pub outcome: ApprovalOutcome,
}

/// What became of an ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApprovalOutcome {
    /// Waits for a governor.
    Pending {
        /// Its id, to be presented as `x-approval-id`.
        approval_id: String,
        /// Where a governor decides.
        url: String,
    },
    /// Consumed by this request: forward it.
    Granted,
    /// Not usable.
    Refused(ApprovalRefusal),
}

/// Why an approval is not usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApprovalRefusal {
    /// No such approval of this user.
    Unknown,
    /// It is for another request.
    OtherRequest,
    /// No governor has decided yet.
    Undecided,
    /// A governor refused it.
    Rejected,
    /// It was used already.
    Consumed,
    /// It is too old.
    Expired,
    /// The user has too many pending requests.
    TooManyPending,
}
