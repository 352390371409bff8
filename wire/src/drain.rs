//! How the workers of an Envoy hear that it is about to stop, and say what they still have out. In headers and not in frames: a filter
//! that does not know them goes on as before, and a control plane that does not know them is asked for nothing.

use core::fmt;
use core::str::FromStr;

/// Of an answer: for how many milliseconds from now on the Envoy counts as about to stop; absent when it is not. Of a question that is
/// held until there is news: present when the filter knows that it is.
pub const DRAINING_HEADER: &str = "x-gateway-draining";

/// Of a sync call by a worker of an Envoy that is about to stop: [`Left`], as it was before the call.
pub const LEFT_HEADER: &str = "x-gateway-left";

/// No number is larger, so that any store can have it.
const NUMBER_MAX: u64 = 1 << 53;

/// What a worker has out that would be lost with it. Of what it has told, all that was not answered counts too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Accounts that it has, or may have, a lease on.
    pub leases: u64,
    /// Units of those that nobody uses, whatever they are of.
    pub units: u64,
    /// What is queued for the control plane: audit records, and approvals to give back.
    pub records: u64,
}

impl Left {
    /// Whether the worker may end.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Left {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} {}", self.leases, self.units, self.records)
    }
}

/// It is not three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{LEFT_HEADER}` is not three numbers")]
pub struct InvalidLeft;

impl FromStr for Left {
    type Err = InvalidLeft;

    fn from_str(text: &str) -> Result<Self, InvalidLeft> {
        let mut numbers = text.split(' ').map(|number| number.parse().ok().filter(|number| *number <= NUMBER_MAX).ok_or(InvalidLeft));
        let mut next = || numbers.next().unwrap_or(Err(InvalidLeft));
        let left = Self { leases: next()?, units: next()?, records: next()? };
        if numbers.next().is_none() { Ok(left) } else { Err(InvalidLeft) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        for left in [Left::default(), Left { leases: 3, units: NUMBER_MAX, records: 17 }] {
            assert_eq!(left.to_string().parse(), Ok(left));
        }
        for text in ["", "1 2", "1 2 3 4", "1 2 -3", "1  2 3", "a b c", "1 9007199254740993 3", "1 2 3 "] {
            assert_eq!(text.parse::<Left>(), Err(InvalidLeft), "{text}");
        }
    }
}
