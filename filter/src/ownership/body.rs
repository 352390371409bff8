//! The body: a key of a JSON object set, whatever the client wrote there. All else keeps its bytes.

use super::spelling;
use decision_core::decision::DenyReason;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use std::ops::Range;

/// What has to be done to a body so that it carries the id: small, while the body stays where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Splice {
    /// These bytes go.
    removed: Range<usize>,
    /// Whether other members follow what is put there.
    followed: Followed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Followed {
    Yes,
    No,
}

/// Where `owner` goes in `body`, which has to be a JSON object (RFC 8259) that repeats no key.
pub(super) fn find(body: &[u8], owner: &str) -> Result<Splice, DenyReason> {
    let text = std::str::from_utf8(body).map_err(|_| DenyReason::BodyNotObject)?;
    let object: Members<'_> = serde_json::from_str(text).map_err(|_| DenyReason::BodyNotObject)?;
    let mut names = Vec::with_capacity(object.0.len());
    let mut owned = None;
    for (key, value) in &object.0 {
        let name: String = serde_json::from_str(key.get()).map_err(|_| DenyReason::BodyNotObject)?;
        if spelling::is_key(&name, owner) {
            let place = place_in(text, key.get()).start..place_in(text, value.get()).end;
            if owned.replace(place).is_some() {
                return Err(DenyReason::BodyKeyRepeated);
            }
        }
        names.push(name);
    }
    // Sorted rather than hashed: a client chooses the keys.
    names.sort_unstable();
    if names.array_windows().any(|[left, right]| left == right) {
        return Err(DenyReason::BodyKeyRepeated);
    }
    Ok(owned.map_or_else(
        || {
            let start = text.find('{').map_or(0, |brace| brace.saturating_add(1));
            let followed = if object.0.is_empty() { Followed::No } else { Followed::Yes };
            Splice { removed: start..start, followed }
        },
        |removed| Splice { removed, followed: Followed::No },
    ))
}

impl Splice {
    /// `body` with `"owner":"id"`. `None` when it is another body than the one in which the place was found.
    pub(super) fn apply(&self, body: &[u8], owner: &str, id: &str) -> Option<Vec<u8>> {
        let (before, rest) = body.split_at_checked(self.removed.start)?;
        let (_, after) = rest.split_at_checked(self.removed.end.checked_sub(self.removed.start)?)?;
        let separator: &[u8] = match self.followed {
            Followed::Yes => b",",
            Followed::No => b"",
        };
        let (owner, id) = (serde_json::to_vec(owner).ok()?, serde_json::to_vec(id).ok()?);
        Some([before, &owner, b":", &id, separator, after].concat())
    }
}

/// The members of an object, in place and in order.
struct Members<'b>(Vec<(&'b RawValue, &'b RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// Where `part`, a slice of `whole`, lies in it.
fn place_in(whole: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr().saturating_sub(whole.as_ptr().addr());
    start..start.saturating_add(part.len())
}
