//! The compiled filter in a real Envoy, with all real parts.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

mod approvals;
mod audit;
mod audit_levels;
mod bad_input;
mod budget_api;
mod chaos;
mod cold_start;
mod containers;
mod control_plane;
mod demo;
mod drain;
mod edge;
mod explained;
mod faults;
mod forged;
mod golden;
mod headers;
mod inputs;
mod keys;
mod metering;
mod observability;
mod original;
mod outage;
mod own_records;
mod ownership;
mod panic;
mod propagation;
mod race;
mod restore;
mod revocation;
mod rules;
mod secrets;
mod shadow;
mod start;
mod switching;
mod thresholds;
