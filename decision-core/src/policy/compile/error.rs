//! Why a policy does not compile, with the nearest valid name.

use super::super::route::InvalidTemplate;
use crate::nearest::nearest;
use crate::permission::InvalidCatalogue;

/// Why a policy does not compile. `at` is the path of the field, as in `routes[agents.create].permission`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A name that must be unique stands twice.
    #[error("{at}: the name `{name}` is used twice")]
    Repeated {
        /// Where.
        at: String,
        /// The name.
        name: String,
    },
    /// A name refers to nothing.
    #[error("{at}: `{name}` does not exist{}", nearest_hint(.nearest.as_deref()))]
    Unknown {
        /// Where.
        at: String,
        /// The name.
        name: String,
        /// The most similar name that exists.
        nearest: Option<String>,
    },
    /// The permission catalogue is not one.
    #[error("permissions: the catalogue is not valid")]
    Catalogue(#[source] InvalidCatalogue),
    /// A path is not a template.
    #[error("{at}: the path `{path}` is not a template")]
    Template {
        /// Where.
        at: String,
        /// The path.
        path: String,
        /// What is wrong.
        #[source]
        source: InvalidTemplate,
    },
    /// Two routes accept the same requests.
    #[error("{at}: accepts the same requests as route `{other}`")]
    Conflict {
        /// Where.
        at: String,
        /// The other route.
        other: String,
    },
    /// A value is out of its range.
    #[error("{at}: `{value}` is not {expected}")]
    Range {
        /// Where.
        at: String,
        /// The value.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// Two fields do not go together.
    #[error("{at}: {rule}")]
    Inconsistent {
        /// Where.
        at: String,
        /// The rule that is broken.
        rule: &'static str,
    },
}

fn nearest_hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; the nearest name is `{name}`"))
}

pub(super) fn unique<'n>(at: &str, name: &str, mut known: impl Iterator<Item = &'n str>) -> Result<(), CompileError> {
    if known.any(|other| other == name) { Err(CompileError::Repeated { at: at.into(), name: name.into() }) } else { Ok(()) }
}

pub(super) fn range(at: &str, value: &str, expected: &'static str) -> CompileError {
    CompileError::Range { at: at.into(), value: value.into(), expected }
}

pub(super) fn unknown<'n>(at: &str, name: &str, known: impl Iterator<Item = &'n str>) -> CompileError {
    CompileError::Unknown { at: at.into(), name: name.into(), nearest: nearest(name, known).map(str::to_owned) }
}
