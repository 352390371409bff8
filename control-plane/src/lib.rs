//! The control plane: the policy administration point (policies, budgets, approvals) and the keeper of the audit log.
//!
//! Stateless: everything that must survive is in Postgres, counters that may be lost are in Valkey, and any number of
//! replicas may run. `main.rs` only starts what is here; tests call [`app::admin_app`] and [`app::data_plane_app`].

pub mod admin_events;
pub mod app;
pub mod approvals;
pub mod audit;
pub mod break_glass;
pub mod budgets;
pub mod caller;
pub mod data_plane;
pub mod drain;
pub mod envoys;
pub mod extract;
pub mod health;
pub mod holders;
pub mod jobs;
pub mod keys;
pub mod metrics;
pub mod notifications;
pub mod openapi;
pub mod outbound;
pub mod pages;
pub mod paging;
pub mod policies;
pub mod probes;
pub mod problem;
pub mod public_url;
pub mod request_log;
pub mod restore;
pub mod revocations;
pub mod secrets;
pub mod settings;
pub mod start;
pub mod stores;
pub mod sync;
pub mod webhooks;
