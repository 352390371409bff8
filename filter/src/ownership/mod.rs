//! Ownership: the caller's customer id is forced into the request, and another path if the route says so. From what the client
//! sent to what the backend gets, and always from the client's bytes, however often a request is judged; nothing is edited here.

mod body;
mod path;
mod query;
mod spelling;
#[cfg(test)]
mod tests;

use crate::exchange::Exchange;
use crate::host::Host;
use body::Splice;
use decision_core::decision::{DenyReason, Permit};
use decision_core::path::CanonicalPath;
use decision_core::policy::{Ownership, Route};

/// How the backend's request differs from the client's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rewritten {
    /// Another `:path`.
    pub(crate) target: Option<String>,
    /// Another body.
    pub(crate) body: Option<OwnedBody>,
}

/// A body into which the id has to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnedBody {
    splice: Splice,
    /// How long the client's body is.
    pub(crate) length: usize,
}

impl OwnedBody {
    /// The body that the backend gets. `None` when `body` is not the one that was looked at.
    pub(crate) fn write(&self, body: &[u8], owner: &str, id: &str) -> Option<Vec<u8>> {
        if body.len() == self.length { self.splice.apply(body, owner, id) } else { None }
    }
}

/// Whether the route's requests carry the id in their body, and so must be read.
pub(crate) const fn is_in_body(route: &Route) -> bool {
    matches!(route.ownership, Some(Ownership::Body(_)))
}

/// What the backend will get in the place of what the client sent: from the client's bytes, at every judgement anew.
pub(crate) fn prepare(exchange: &Exchange, host: &impl Host, permit: &Permit) -> Result<Rewritten, DenyReason> {
    let active = exchange.trace.active.as_ref();
    let Some(route) = active.and_then(|active| active.policy.route_by_id(permit.route())) else { return Ok(Rewritten::default()) };
    let target = CanonicalPath::parse(exchange.headers.target()).map_err(DenyReason::AmbiguousPath)?;
    let owner = exchange.trace.principal.as_ref().and_then(|principal| principal.identity.customer_id.as_deref());
    rewrite(route, target, owner, || host.request_body(0, exchange.body.length()))
}

/// What becomes of a request to `route` by the customer `id`. `body` reads the client's body.
fn rewrite(route: &Route, target: CanonicalPath<'_>, id: Option<&str>, body: impl FnOnce() -> Vec<u8>) -> Result<Rewritten, DenyReason> {
    let path = route.rewrite.as_deref();
    let Some(ownership) = route.ownership.as_ref() else {
        return Ok(Rewritten { target: path.map(|path| join(path, target.query())), body: None });
    };
    let id = id.ok_or(DenyReason::OwnerMissing)?;
    match ownership {
        Ownership::Query(name) => {
            let query = query::force(target.query(), name, id);
            Ok(Rewritten { target: Some(join(path.unwrap_or_else(|| target.path()), Some(&query))), body: None })
        }
        Ownership::Path(segment) => {
            let path = path::force(target.path(), *segment, id).ok_or(DenyReason::OwnerMissing)?;
            Ok(Rewritten { target: Some(join(&path, target.query())), body: None })
        }
        Ownership::Body(name) => {
            let bytes = body();
            let owned = OwnedBody { splice: body::find(&bytes, name)?, length: bytes.len() };
            Ok(Rewritten { target: path.map(|path| join(path, target.query())), body: Some(owned) })
        }
    }
}

fn join(path: &str, query: Option<&str>) -> String {
    match query {
        Some(query) => [path, "?", query].concat(),
        None => path.into(),
    }
}
