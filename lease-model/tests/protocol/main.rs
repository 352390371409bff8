//! The protocol, checked exhaustively, with and without the real ledger and the real holder in it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod checker;
mod exhaustive;
mod flaws;
mod real_holder;
mod real_ledger;

#[path = "../../../decision-core/tests/fixture/mod.rs"]
mod fixture;
