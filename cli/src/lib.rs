//! `plant-gateway` as a library: the local stack that tests start, and the tokens that they send.

pub mod commands;
pub mod demo;
pub mod issuer;
pub mod stack;
pub mod token;
