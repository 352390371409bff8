//! The filter without Envoy: a fake host, a control plane made of closures, and one virtual machine or several.

mod answers;
mod approvals;
mod calls;
mod capture;
mod cold_start;
#[path = "../../../decision-core/tests/counting/mod.rs"]
mod counting;
mod defects;
mod drain;
mod exchanges;
mod explanations;
mod feed;
mod flags;
mod gate;
mod holding;
mod host;
mod host_calls;
mod intents;
mod keys;
mod limits;
mod loading;
mod metering;
mod ownership;
mod properties;
mod records;
mod revocation;
mod revocation_model;
mod rules;
mod settings_page;
mod shadow;
mod signatures;
mod tokens;
