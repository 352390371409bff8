//! The lease protocol as a model: small enough to be checked in every order of events, and the measure of the code that
//! speaks it. Nothing here runs in a gateway, and nothing that runs there depends on it.
//!
//! ```text
//!   Slot: a virtual machine           the network                   Plane: the control plane
//! ┌───────────────────────────┐                                  ┌──────────────────────────────────────┐
//! │ Holder: leases            │   Call { number, reports }       │ Register, one per holder             │
//! │   limit  used  held       │ ───────────────────────────────▶ │   last call, standing, leases        │
//! │ requests under way        │   lost, late, out of order,      │ Account, one per budget and window   │
//! │ its own clock             │   again and again                │   committed  settled  held  overrun  │
//! │                           │ ◀─────────────────────────────── │ caps, its own clock                  │
//! └───────────────────────────┘   Answer { number, grants }      └──────────────────────────────────────┘
//!   reserve, finish, send,          deliver, take                  close a silent holder, set a cap,
//!   crash, turn of the window                                      turn of the window
//! ```
//!
//! A [`world::World`] is all of this and, beside it, what was truly spent; [`step::actions`] are the things that may happen
//! next, [`step::step`] what each does, [`invariants`] what must hold in every world. The rule by which reports are booked
//! ([`ledger::Rule`]) and the holder ([`holder::Holder`]) are exchangeable: [`ledger::Bounds`] and [`holder::PlainHolder`]
//! leave open what safety does not need, and the tests put the control plane's ledger and the filter's holder in their place.
//!
//! | invariant | property |
//! |---|---|
//! | I1 settled + leased ≤ cap at every grant | [`invariants::grants_stay_within_the_cap`], overruns counted as settled |
//! | I1 the true spend is within the highest cap | [`invariants::nothing_is_overspent`] |
//! | I2 used + held ≤ grant | [`invariants::holders_keep_to_their_grants`] |
//! | I3 a closed holder's grants are charged in full | [`invariants::what_can_be_spent_is_committed`] |
//! | I4 any message may be lost, repeated or late | what is on its way stays on its way; nothing obliges it to arrive |
//! | I5 nothing is answered before the commit | one step; [`config::Flaw::AnswersBeforeCommit`] shows why |
//! | I6 a lease is spent in its window | [`invariants::leases_are_spent_in_their_windows`] |
//! | I7 settled is what was reported and what was forfeited | [`invariants::the_books_are_right`] |
//! | I8 what is left can be granted | [`invariants::what_is_left_can_be_granted`], played out from every world |
//!
//! Abstracted: amounts are a handful of units; time is the turn of one window, at any moment for each clock, and a holder may
//! be closed at any moment after its first call; when a holder asks, reports, lowers or closes is left open, so that recalls
//! need no messages of their own; a call that is given up is one that is followed by another; a crash of the control plane
//! is a call that does not arrive, or an answer that does not; what a lost request really cost counts as all that it had
//! reserved.

pub mod calm;
pub mod config;
pub mod holder;
pub mod invariants;
pub mod ledger;
pub mod plane;
pub mod step;
pub mod terms;
pub mod world;
