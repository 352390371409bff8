//! `GET /data-plane/v1/revocations`: what was revoked, and lifted, since a number.
//!
//! Each change has a number; numbers only rise. A filter asks for what follows the last number that it knows, page by
//! page, until it has caught up; then one of an Envoy's virtual machines waits for news.

use serde::{Deserialize, Serialize};

/// The most changes in one page.
pub const PAGE_CHANGES_MAX: usize = 4_096;

/// What follows a number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationPage {
    /// The database that numbers.
    pub database_id: [u8; 16],
    /// What the filter knows is of another database, or too old to be carried on: it forgets all of it, and this is the
    /// first page of everything.
    pub reset: bool,
    /// The number up to which the filter knows everything once it has taken this page. Never less than it asked with.
    pub through: u64,
    /// Whether more pages follow at once.
    pub more: bool,
    /// How many entries there are in all, so that a filter that starts afresh makes room for them at once.
    pub total: u32,
    /// The changes, in the order of their numbers.
    pub changes: Vec<RevocationChange>,
    /// The number of the last change to caps and override accounts: what was spent before it may have room again.
    pub caps: u64,
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationChange {
    /// Its number.
    pub number: u64,
    /// What it is about: [`authn::Mark`].
    pub mark: [u8; 16],
    /// Tokens issued before this (microseconds since the epoch), or of a lower version; without meaning for other kinds.
    pub bound: i64,
    /// Whether it takes back what was revoked.
    pub lifted: bool,
}
