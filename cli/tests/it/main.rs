//! The program as people run it, one module for each command.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

mod command;
mod opa;
mod plane;
mod policy;
mod revoke;
mod stack;
mod token;
mod whatif;
