//! Approvals: a governor lets one exact request of one user through, once.

pub mod binding;
pub mod decisions;
pub mod http;
pub mod store;

use crate::public_url::PublicUrl;
use std::time::Duration;
use wire::policy::{Approvals, Webhook};

/// Most requests of one user that wait for a governor.
pub const PENDING_MAX: i64 = 20;

/// The policy's terms for approvals, and where people find them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms<'a> {
    /// How long a request waits for governors, and then how long its grant may be used.
    pub lifetime: Duration,
    /// How many governors have to approve.
    pub approvers: u8,
    /// Who is told of requests and decisions.
    pub webhook: Option<&'a Webhook>,
    /// The URL under which people reach the admin listener.
    pub public_url: &'a PublicUrl,
}

impl<'a> Terms<'a> {
    /// Those of a policy's section.
    #[must_use]
    pub fn of(section: &'a Approvals, public_url: &'a PublicUrl) -> Self {
        let lifetime = Duration::from_secs(u64::from(section.lifetime_s));
        Self { lifetime, approvers: section.approvers, webhook: section.webhook.as_ref(), public_url }
    }

    /// The page of an approval.
    #[must_use]
    pub fn page(&self, id: impl std::fmt::Display) -> String {
        format!("{}/approvals/{id}", self.public_url)
    }
}
