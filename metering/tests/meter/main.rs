//! What a meter tells of responses: of samples, of small ones that each show a rule, and of generated ones.
#![cfg(not(target_arch = "wasm32"))]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "clippy's exception for tests does not cover the functions around them")]

mod oracle;
mod properties;
mod rules;
mod samples;
