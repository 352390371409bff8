//! What the filter and the control plane say to each other, versioned: the policy bundle, the sync call, the audit
//! record. The types are plain data; what they mean is decided by `decision-core` and `authn`.

pub mod audit;
pub mod bundle;
pub mod drain;
pub mod frame;
pub mod hex;
pub mod policy;
pub mod pseudonym;
pub mod revocation;
#[cfg(feature = "sources")]
pub mod sources;
pub mod sync;
#[cfg(feature = "sources")]
pub mod texts;
mod translate;
