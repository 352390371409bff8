//! Approvals: a governor lets one exact request of one user through, once.

pub mod decisions;
pub mod http;
pub mod store;

use crate::audit::gateway_name;
use crate::public_url::PublicUrl;
use sha2::{Digest, Sha256};
use std::time::Duration;
use wire::policy::{Approvals, Webhook};
use wire::sync::{ApprovalAsk, ApprovalBinding};

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

/// Digests that stand for a user and for an exact request of that user: texts of any length compare alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Of issuer and subject.
    pub user: [u8; 32],
    /// Of everything that the approval is bound to.
    pub binding: [u8; 32],
}

impl Digests {
    /// Of a binding. Each text goes in with its length, so that no two bindings are written alike.
    #[must_use]
    pub fn of(binding: &ApprovalBinding) -> Self {
        let user = digest(&[binding.issuer.as_bytes(), binding.subject.as_bytes()]);
        let parts: [&[u8]; 7] = [
            &user,
            gateway_name(binding.gateway).as_bytes(),
            binding.method.as_bytes(),
            binding.authority.as_bytes(),
            binding.path.as_bytes(),
            binding.query.as_bytes(),
            &binding.body_sha256,
        ];
        Self { user, binding: digest(&parts) }
    }
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Postgres refuses NUL in text. Such a request never gets an approval; it must not stop the others of its call.
fn is_storable(ask: &ApprovalAsk) -> bool {
    let binding = &ask.binding;
    let texts =
        [&ask.route, &ask.action, &binding.issuer, &binding.subject, &binding.method, &binding.authority, &binding.path, &binding.query];
    texts.iter().all(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::policy::Gateway;

    #[test]
    fn bindings_that_differ_in_one_part_or_in_its_borders_have_other_digests() {
        let binding = ApprovalBinding {
            gateway: Gateway::Cp,
            issuer: "cp".into(),
            subject: "ada".into(),
            method: "POST".into(),
            authority: "api".into(),
            path: "/a".into(),
            query: "b".into(),
            body_sha256: [0; 32],
        };
        let whole = Digests::of(&binding);
        let others = [
            ApprovalBinding { gateway: Gateway::Pp, ..binding.clone() },
            ApprovalBinding { subject: "bob".into(), ..binding.clone() },
            ApprovalBinding { path: "/ab".into(), query: String::new(), ..binding.clone() },
            ApprovalBinding { body_sha256: [1; 32], ..binding.clone() },
        ];
        assert!(others.iter().all(|other| Digests::of(other).binding != whole.binding));
        assert_eq!(Digests::of(&others[2]).user, whole.user);
    }
}
