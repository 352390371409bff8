//! What an approval is bound to, as one digest that two requests share only if they are alike in all of it.

use crate::audit::gateway_name;
use sha2::{Digest, Sha256};
use wire::policy::Target;
use wire::sync::{ApprovalAsk, ApprovalBinding};

/// Goes first into the digest. Raised with every part that is added: what was approved by fewer never matches again.
const EDITION: &[u8] = b"plant-gateway approval 2";

/// Digests that stand for a user and for an exact request of that user: texts of any length compare alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Of issuer and subject.
    pub user: [u8; 32],
    /// Of everything that the approval is bound to.
    pub binding: [u8; 32],
}

impl Digests {
    /// Of a binding.
    #[must_use]
    pub fn of(binding: &ApprovalBinding) -> Self {
        // Every part by name: one that is added to the binding does not compile until it is in the digest.
        let ApprovalBinding {
            gateway,
            issuer,
            subject,
            user_id,
            customer_id,
            agent_id,
            target,
            method,
            authority,
            path,
            query,
            content_type,
            content_encoding,
            body_sha256,
            body_length,
        } = binding;
        let user = Parts::default().text(issuer).text(subject).finish();
        let whole = Parts::default()
            .bytes(EDITION)
            .bytes(&user)
            .text(gateway_name(*gateway))
            .text(user_id)
            .optional(customer_id.as_deref())
            .optional(agent_id.as_deref())
            .text(target_name(*target))
            .text(method)
            .text(authority)
            .text(path)
            .optional(query.as_deref())
            .optional(content_type.as_deref())
            .optional(content_encoding.as_deref())
            .bytes(body_sha256)
            .bytes(&body_length.to_le_bytes());
        Self { user, binding: whole.finish() }
    }
}

/// Hashes parts one after the other, each with its length, so that no two lists of parts are written alike.
#[derive(Default)]
struct Parts(Sha256);

impl Parts {
    fn bytes(mut self, part: &[u8]) -> Self {
        self.0.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        self.0.update(part);
        self
    }

    fn text(self, part: &str) -> Self {
        self.bytes(part.as_bytes())
    }

    /// A part that is absent differs from one that is empty.
    fn optional(self, part: Option<&str>) -> Self {
        match part {
            Some(part) => self.bytes(&[1]).text(part),
            None => self.bytes(&[0]),
        }
    }

    fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// The name of where a request goes.
#[must_use]
pub const fn target_name(target: Target) -> &'static str {
    match target {
        Target::Production => "production",
        Target::Sandbox => "sandbox",
    }
}

/// Postgres refuses NUL in text. Such a request never gets an approval; it must not stop the others of its call.
pub(super) fn is_storable(ask: &ApprovalAsk) -> bool {
    let binding = &ask.binding;
    let needed =
        [&ask.route, &ask.action, &binding.issuer, &binding.subject, &binding.user_id, &binding.method, &binding.authority, &binding.path];
    let optional = [&binding.customer_id, &binding.agent_id, &binding.query, &binding.content_type, &binding.content_encoding];
    needed.into_iter().chain(optional.into_iter().flatten()).all(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use wire::policy::Gateway;

    fn binding() -> ApprovalBinding {
        ApprovalBinding {
            gateway: Gateway::Cp,
            issuer: "cp".into(),
            subject: "ada".into(),
            user_id: "u-1".into(),
            customer_id: None,
            agent_id: None,
            target: Target::Production,
            method: "POST".into(),
            authority: "api".into(),
            path: "/a".into(),
            query: None,
            content_type: None,
            content_encoding: None,
            body_sha256: [0; 32],
            body_length: 1,
        }
    }

    /// Every part alone, what is absent against what is empty, and texts that move over a border.
    #[test]
    fn bindings_that_differ_in_one_part_or_in_its_borders_have_other_digests() {
        let (binding, text) = (binding(), |text: &str| Some(text.to_owned()));
        let others = [
            binding.clone(),
            ApprovalBinding { gateway: Gateway::Pp, ..binding.clone() },
            ApprovalBinding { issuer: "pp".into(), ..binding.clone() },
            ApprovalBinding { subject: "bob".into(), ..binding.clone() },
            ApprovalBinding { user_id: "u-2".into(), ..binding.clone() },
            ApprovalBinding { customer_id: text(""), ..binding.clone() },
            ApprovalBinding { customer_id: text("c-1"), ..binding.clone() },
            ApprovalBinding { agent_id: text(""), ..binding.clone() },
            ApprovalBinding { agent_id: text("c-1"), ..binding.clone() },
            ApprovalBinding { target: Target::Sandbox, ..binding.clone() },
            ApprovalBinding { method: "PUT".into(), ..binding.clone() },
            ApprovalBinding { authority: "ap".into(), path: "i/a".into(), ..binding.clone() },
            ApprovalBinding { authority: "other".into(), ..binding.clone() },
            ApprovalBinding { path: "/ab".into(), ..binding.clone() },
            ApprovalBinding { query: text(""), ..binding.clone() },
            ApprovalBinding { query: text("b"), ..binding.clone() },
            ApprovalBinding { content_type: text(""), ..binding.clone() },
            ApprovalBinding { content_type: text("b"), ..binding.clone() },
            ApprovalBinding { content_encoding: text(""), ..binding.clone() },
            ApprovalBinding { content_encoding: text("b"), ..binding.clone() },
            ApprovalBinding { body_sha256: [1; 32], ..binding.clone() },
            ApprovalBinding { body_length: 2, ..binding.clone() },
        ];
        let distinct: BTreeSet<[u8; 32]> = others.iter().map(|other| Digests::of(other).binding).collect();
        assert_eq!(distinct.len(), others.len());
    }

    #[test]
    fn who_it_is_does_not_depend_on_what_is_asked() {
        let user = Digests::of(&binding()).user;
        assert_eq!(Digests::of(&ApprovalBinding { path: "/b".into(), customer_id: Some("c-1".into()), ..binding() }).user, user);
        assert_ne!(Digests::of(&ApprovalBinding { issuer: "cpa".into(), subject: "da".into(), ..binding() }).user, user);
    }
}
