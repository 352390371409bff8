//! What operators do with a policy before it is in force: read, validate, test, compare, import. Shared by the control plane
//! and the command line, so that both say the same of the same files. Files come as text; nothing here is stored or served.

pub mod cases;
pub mod coverage;
pub mod diff;
pub mod directory;
pub mod evaluate;
pub mod fault;
pub mod findings;
pub mod import;
pub mod matrix;
pub mod opa;
pub mod oracle;
mod place;
pub mod replay;
pub mod rules;
pub mod schema;

pub use fault::PolicyFault;

use std::collections::BTreeMap;

/// The files of a policy: names relative to its folder, to texts.
pub type Files = BTreeMap<String, String>;
