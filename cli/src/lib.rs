//! `plant-gateway` as a library: the local stack that tests start, the tokens that they send, and what a gateway says to a token.

pub mod commands;
pub mod demo;
pub mod development;
pub mod issuer;
mod key_file;
mod policy;
mod refusal;
pub mod stack;
pub mod token;
