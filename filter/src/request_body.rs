//! The request's body, as far as deciding needs it: how long it is, and its hash. The bytes stay where they are buffered.

use crate::exchange::Exchange;
use crate::facts::Presence;
use crate::host::Host;
use crate::meter::{self, METERED_MAX};
use crate::ownership;
use decision_core::decision::{ApprovalNeed, DenyReason, Permit};
use sha2::{Digest, Sha256};

/// The largest body that is bound to an approval.
pub(crate) const APPROVAL_MAX: usize = 64 * 1_024;
/// The largest body into which a customer id is written.
pub(crate) const OWNED_MAX: usize = 256 * 1_024;

/// How much of the body has come.
#[derive(Clone, Debug, Default)]
pub(crate) enum Body {
    /// Nothing yet.
    #[default]
    Open,
    /// More may come; so much has, and this is its hash so far, unless that is more than an approval is bound to. Never
    /// hashed twice: a client chooses how many pieces come.
    Partial { hash: Option<Box<Sha256>>, length: usize },
    /// It has ended; its SHA-256, unless it is larger than what an approval is bound to.
    Complete { sha256: Option<[u8; 32]>, length: usize },
    /// There is none: the headers were all, or what follows them is another protocol.
    None,
}

impl Body {
    /// Whether more may come.
    pub(crate) const fn is_open(&self) -> bool {
        matches!(self, Self::Open | Self::Partial { .. })
    }

    /// How much has come.
    pub(crate) const fn length(&self) -> usize {
        match self {
            Self::Open | Self::None => 0,
            Self::Partial { length, .. } | Self::Complete { length, .. } => *length,
        }
    }

    /// The hash of the whole.
    pub(crate) fn sha256(&self) -> Option<[u8; 32]> {
        match self {
            Self::None => Some(Sha256::digest([]).into()),
            Self::Complete { sha256, .. } => *sha256,
            Self::Open | Self::Partial { .. } => None,
        }
    }

    /// Of what is buffered so far, `size` bytes, only what is new is fetched. With trailers Envoy hands over nothing.
    pub(crate) fn note(&mut self, host: &impl Host, size: usize, end_of_stream: bool) {
        let (hash, known) = match std::mem::take(self) {
            Self::Open => (Some(Box::new(Sha256::new())), 0),
            Self::Partial { hash, length } => (hash, length),
            ended @ (Self::Complete { .. } | Self::None) => {
                *self = ended;
                return;
            }
        };
        let length = known.max(size);
        let hash = hash.filter(|_| length <= APPROVAL_MAX).map(|mut hash| {
            hash.update(host.request_body(known, length.saturating_sub(known)));
            hash
        });
        *self = if end_of_stream {
            Self::Complete { sha256: hash.map(|hash| hash.finalize().into()), length }
        } else {
            Self::Partial { hash, length }
        };
    }
}

/// How large the body may be that is still missing; `None` when it is not needed, or all there.
pub(crate) fn needed(exchange: &Exchange, permit: &Permit) -> Result<Option<usize>, DenyReason> {
    let (body, headers) = (&exchange.body, &exchange.headers);
    let route = exchange.trace.active.as_ref().and_then(|active| active.policy.route_by_id(permit.route()));
    let owned = route.is_some_and(ownership::is_in_body);
    if owned && headers.has_content_encoding() == Presence::Present {
        return Err(DenyReason::BodyNotObject);
    }
    let announced = headers.content_length().and_then(|length| usize::try_from(length).ok()).filter(|_| body.is_open());
    let length = announced.unwrap_or_default().max(body.length());
    let metered = !permit.charges().is_empty() && route.is_some_and(meter::reads_body);
    let mut most = None;
    for (needed, max, reason) in [
        (permit.approval() == ApprovalNeed::Governor, APPROVAL_MAX, DenyReason::ApprovalBodyTooLarge),
        (owned, OWNED_MAX, DenyReason::BodyTooLarge),
        (metered, METERED_MAX, DenyReason::MeteredBodyTooLarge),
    ] {
        if needed && length > max {
            return Err(reason);
        }
        most = if needed { Some(most.map_or(max, |most: usize| most.min(max))) } else { most };
    }
    Ok(most.filter(|_| body.is_open()))
}
