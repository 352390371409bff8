//! The control plane on real Postgres and Valkey, one module for each thing that it does; one program, since each would be linked anew.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

mod approvals;
mod audit;
mod audit_access;
mod audit_api;
mod audit_original;
mod audit_own;
mod audit_tamper;
mod break_glass;
mod budget_alerts;
mod budget_caps;
mod budget_many;
mod budget_users;
mod budgets;
mod checkpoint_posts;
mod custom_rules;
mod drafts;
mod drain;
mod endpoint_coverage;
mod enforcement;
mod idp;
mod keys;
mod ledger_model;
mod lifecycle;
mod opa;
mod outbound;
mod pages;
mod plane;
mod policies;
mod process;
mod records;
mod restore;
mod revocations;
mod shadow;
mod support;
mod sync;
mod webhooks;
mod whatif;
