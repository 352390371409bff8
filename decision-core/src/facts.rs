//! What a decision may depend on, read once and in place.

use crate::gateway::{Gateway, Method};
use crate::policy::Route;
use crate::principal::{CredentialFault, Principal};

/// A header map exactly as the host serialises it, read in place: a `u32` count, then a length pair per header, then
/// every string followed by one NUL.
#[derive(Clone, Copy, Debug)]
pub struct HeaderBlock<'r> {
    lengths: &'r [u8],
    strings: &'r [u8],
}

/// The bytes are not a header map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host's header map is malformed")]
pub struct MalformedHeaderBlock;

/// A header, as the request presents it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presented<'r> {
    /// Not there.
    Absent,
    /// There once.
    Once(&'r [u8]),
    /// There more than once: which one counts is anybody's guess.
    Repeated,
}

impl<'r> HeaderBlock<'r> {
    /// Checks the whole block, so that reading it later cannot fail.
    ///
    /// # Errors
    /// A count or length that the bytes do not hold.
    pub fn parse(bytes: &'r [u8]) -> Result<Self, MalformedHeaderBlock> {
        if bytes.is_empty() {
            return Ok(Self { lengths: &[], strings: &[] });
        }
        let (count, rest) = take_u32(bytes).ok_or(MalformedHeaderBlock)?;
        let table = count.checked_mul(8).ok_or(MalformedHeaderBlock)?;
        let (lengths, strings) = rest.split_at_checked(table).ok_or(MalformedHeaderBlock)?;
        let block = Self { lengths, strings };
        if block.iter().count() == count { Ok(block) } else { Err(MalformedHeaderBlock) }
    }

    /// Every header, in order.
    #[must_use]
    pub fn iter(self) -> Headers<'r> {
        Headers { lengths: self.lengths, strings: self.strings }
    }

    /// How `name` (lower case) is presented.
    #[must_use]
    pub fn presented(self, name: &[u8]) -> Presented<'r> {
        let mut found = self.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        match (found.next(), found.next()) {
            (None, _) => Presented::Absent,
            (Some(value), None) => Presented::Once(value),
            (Some(_), Some(_)) => Presented::Repeated,
        }
    }
}

/// The headers of a block.
#[derive(Clone, Debug)]
pub struct Headers<'r> {
    lengths: &'r [u8],
    strings: &'r [u8],
}

impl<'r> Iterator for Headers<'r> {
    type Item = (&'r [u8], &'r [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name_length, rest) = take_u32(self.lengths)?;
        let (value_length, rest) = take_u32(rest)?;
        let (name, strings) = take_string(self.strings, name_length)?;
        let (value, strings) = take_string(strings, value_length)?;
        *self = Self { lengths: rest, strings };
        Some((name, value))
    }
}

fn take_u32(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_le_bytes(*head)).ok()?, rest))
}

fn take_string(bytes: &[u8], length: usize) -> Option<(&[u8], &[u8])> {
    let (string, rest) = bytes.split_at_checked(length)?;
    let (nul, rest) = rest.split_first()?;
    (*nul == 0).then_some((string, rest))
}

/// What became of the credential that a request presented.
#[derive(Clone, Copy, Debug)]
pub enum Authentication<'r> {
    /// None was presented, or the route asks for none.
    Anonymous,
    /// A token was verified.
    Verified(&'r Principal),
    /// A registration key was verified.
    Registered,
    /// What was presented is not good.
    Refused(CredentialFault),
}

/// Everything that a decision may depend on, apart from the time. Borrowed from the callback that read it.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'r> {
    /// Where the request came to.
    pub gateway: Gateway,
    /// Its method.
    pub method: Method,
    /// The route that the policy matched: see [`crate::policy::CompiledPolicy::route`].
    pub route: Option<&'r Route>,
    /// Who asks.
    pub authentication: Authentication<'r>,
    /// Which protocol it asks to change to.
    pub upgrade: Upgrade,
}

/// Which protocol a request asks to change to (RFC 9110 §7.8, RFC 8441).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Upgrade {
    /// None.
    #[default]
    None,
    /// WebSocket.
    Websocket,
    /// Another one: no route lists it.
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(headers: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut bytes = u32::try_from(headers.len()).unwrap().to_le_bytes().to_vec();
        for (name, value) in headers {
            bytes.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
            bytes.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
        }
        for (name, value) in headers {
            bytes.extend(*name);
            bytes.push(0);
            bytes.extend(*value);
            bytes.push(0);
        }
        bytes
    }

    #[test]
    fn sees_repeats_whatever_their_case_and_keeps_bytes() {
        let bytes = block(&[(b":path", b"/"), (b"x-a", b"\xff"), (b"x-b", b"1"), (b"X-B", b"2")]);
        let parsed = HeaderBlock::parse(&bytes).unwrap();
        assert_eq!(parsed.presented(b"x-a"), Presented::Once(b"\xff"));
        assert_eq!(parsed.presented(b"x-b"), Presented::Repeated);
        assert_eq!(parsed.presented(b"x-c"), Presented::Absent);
    }

    #[test]
    fn refuses_every_truncation_and_huge_counts() {
        let bytes = block(&[(b":path", b"/"), (b"x-a", b"value")]);
        for length in 1..bytes.len() {
            assert!(HeaderBlock::parse(&bytes[..length]).is_err(), "{length}");
        }
        assert!(HeaderBlock::parse(&[0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(HeaderBlock::parse(&[]).unwrap().iter().next().is_none());
    }
}
