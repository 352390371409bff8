//! What the tests against real parts stand on: the stacks that they start, clients for odd requests and for load, tokens with one
//! thing wrong, policies of their own; and the echo backend.

pub mod bench;
pub mod browser;
pub mod chaos;
pub mod echo;
pub mod identity_provider;
pub mod large;
pub mod link;
pub mod load;
pub mod policies;
pub mod program;
pub mod raw;
pub mod relay;
pub mod revisions;
pub mod stacks;
pub mod tokens;
pub mod webhook_receiver;

pub use cli::demo::{admin, http};
