//! The default policy, read and compiled as the control plane does it.
#![expect(clippy::panic, reason = "a test that cannot go on has failed")]

use authoring::evaluate::Candidate;
use std::path::{Path, PathBuf};

/// The folder of the sources.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies")
}

/// The policy that the sources make.
pub(crate) fn candidate() -> Candidate {
    let files = authoring::directory::read(&folder()).unwrap_or_else(|error| panic!("{error}"));
    Candidate::new(files).unwrap_or_else(|fault| panic!("{fault}"))
}
