//! Test-only crate: the echo backend, and what the end-to-end tests share.

pub mod echo;
