//! What a run of the model covers, and the faults that can be built into the protocol to see that they are found.

use crate::terms::{Charge, Key, Outcome, PerKey, Units};

/// The bounds of a run. What is not bounded here is explored in full.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Its name, for the report.
    pub name: &'static str,
    /// Holders at the start.
    pub holders: u8,
    /// Holders in all: a crashed or closed one begins anew under another id while there are any left.
    pub incarnations: u8,
    /// Calls per holder.
    pub calls: u8,
    /// The caps at the start.
    pub caps: PerKey<Units>,
    /// What a request may cost.
    pub charges: &'static [Charge],
    /// Requests that one holder has under way at once.
    pub open: usize,
    /// What a request may come to.
    pub outcomes: &'static [Outcome],
    /// Units beyond reservations, in all.
    pub overruns: Units,
    /// What a holder wants beyond the request that waits.
    pub ahead: Units,
    /// Kinds of calls beside those that ask.
    pub wants: &'static [Idle],
    /// The caps that are set, in this order, at any time.
    pub cap_changes: &'static [(Key, Units)],
    /// Whether the rate's window ends: at a time of its own for each clock.
    pub windows: Windows,
    /// Holders that may crash.
    pub crashes: u8,
    /// Holders that may be closed as silent, whether they live or not.
    pub closes: u8,
    /// Which messages are kept.
    pub network: Network,
    /// Whether answers tell cap and settled amount.
    pub told: bool,
    /// What is wrong with the protocol.
    pub flaw: Option<Flaw>,
}

/// A kind of call that does not ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Reports alone.
    Report,
    /// Lower targets.
    Lower,
    /// Closes.
    Close,
}

/// Whether a window ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// One window.
    One,
    /// Two; a holder may be ahead of the control plane, or behind.
    Two,
}

/// Which messages are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// All that were ever sent: each may arrive at any time, again and again.
    Everything,
    /// Those that can still change something. Sound without a flaw: an older call is refused, and an answer to an older
    /// call is not believed, so that their arrival leads to the same state.
    Relevant,
}

/// Something wrong with the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Closing a silent holder releases what it had not reported as used or held.
    ForfeitReleasesRemainder,
    /// Closing a silent holder releases what its open requests hold.
    ForfeitReleasesHeld,
    /// A call is carried out whatever its number.
    NoCallNumbers,
    /// A lower target is sent, and kept to only once it is answered.
    LowersAfterAnswer,
    /// A call may be answered and then not committed.
    AnswersBeforeCommit,
    /// A holder believes the answer to a call that it gave up.
    BelievesLateAnswers,
    /// A report is booked on the holder's lease, whichever it is.
    IgnoresGenerations,
    /// The same, and calls are carried out whatever their number.
    IgnoresGenerationsAndNumbers,
    /// Overruns in reports are added up, and a repeated call is carried out again.
    AddsOverruns,
    /// A request is charged to the last window's lease while that has room.
    SpendsInNextWindow,
    /// A closed holder's calls are carried out.
    ForgetsClosing,
    /// A request holds money although the rate has no room.
    ReservesInPart,
    /// A lease is ended although requests hold units of it.
    ClosesWhileHeld,
    /// Overruns do not count against the cap.
    OverrunsLeaveCap,
    /// Grants go by the highest cap that was in force.
    IgnoresLoweredCaps,
}

impl Flaw {
    /// Every one.
    pub const ALL: [Self; 15] = [
        Self::ForfeitReleasesRemainder,
        Self::ForfeitReleasesHeld,
        Self::NoCallNumbers,
        Self::LowersAfterAnswer,
        Self::AnswersBeforeCommit,
        Self::BelievesLateAnswers,
        Self::IgnoresGenerations,
        Self::IgnoresGenerationsAndNumbers,
        Self::AddsOverruns,
        Self::SpendsInNextWindow,
        Self::ForgetsClosing,
        Self::ReservesInPart,
        Self::ClosesWhileHeld,
        Self::OverrunsLeaveCap,
        Self::IgnoresLoweredCaps,
    ];
}

impl Config {
    /// Whether the protocol has this flaw.
    #[must_use]
    pub fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// Whether older calls are refused.
    #[must_use]
    pub fn refuses_older_calls(&self) -> bool {
        !(self.has(Flaw::NoCallNumbers) || self.has(Flaw::IgnoresGenerationsAndNumbers))
    }
}
