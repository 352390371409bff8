//! The default policy, read and compiled as the control plane does it.

use authoring::Files;
use decision_core::policy::CompiledPolicy;
use decision_core::policy::compile::compile;
use std::path::{Path, PathBuf};
use wire::policy::PolicyDocument;

/// The folder of the sources.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies")
}

/// The sources.
pub(crate) fn files() -> Files {
    authoring::directory::read(&folder()).unwrap_or_else(|error| panic!("{error}"))
}

/// The document that the sources make.
pub(crate) fn document() -> PolicyDocument {
    wire::sources::read(&files()).unwrap_or_else(|error| panic!("{error}"))
}

/// The policy that the sources make.
pub(crate) fn compiled() -> CompiledPolicy {
    compile(&document().to_source()).unwrap_or_else(|error| panic!("{error}"))
}
