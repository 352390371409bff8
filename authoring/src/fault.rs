//! Where a policy is wrong: file, line, field, and what is wrong with it.

use crate::Files;
use crate::place::{Which, find, named};
use authn::Algorithm;
use decision_core::causes::chain;
use decision_core::nearest::nearest;
use std::error::Error;
use std::fmt;
use wire::bundle::BundleError;
use wire::sources::SourceError;

/// Why sources are no policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyFault {
    /// The file, as it was named in the publication or under the policies directory.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: Option<usize>,
    /// The field, as in `routes[agents.create].permission`.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
    /// Nothing is known to be wrong: nobody had the time to look, and the same files may be well the next time.
    pub busy: bool,
}

impl Error for PolicyFault {}

impl fmt::Display for PolicyFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(formatter, "{file}:")?;
            if let Some(line) = self.line {
                write!(formatter, "{line}:")?;
            }
            formatter.write_str(" ")?;
        }
        formatter.write_str(&self.message)
    }
}

impl PolicyFault {
    /// What is wrong with the sources as such.
    #[must_use]
    pub fn of_source(error: &SourceError, files: &Files) -> Self {
        let placed = |file: &str, field: &str, value: Option<&str>| {
            let only = files.get(file).map(|text| Files::from([(file.to_owned(), text.clone())])).unwrap_or_default();
            let line = find(field, value, Which::First, &only).map(|(_, line)| line);
            let text = error.to_string();
            let said = text.strip_prefix(file).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&text);
            let message = if said.starts_with(field) { said.to_owned() } else { format!("{field}: {said}") };
            Self { file: Some(file.to_owned()), line, field: Some(field.to_owned()), message, ..Self::default() }
        };
        match error {
            SourceError::Syntax { file, line, column: _, problem } => {
                let text = files.get(file).map_or("", String::as_str);
                let (field, message) = reworded(problem, text);
                Self { file: Some(file.clone()), line: (*line > 0).then_some(*line), field, message, ..Self::default() }
            }
            SourceError::Twice { file, section, .. } => placed(file, section, None),
            SourceError::NoSuchFile { file, name, .. } | SourceError::IncludedTwice { file, name } => placed(file, "include", Some(name)),
            SourceError::NotIncluded { file } => {
                Self { file: Some(file.clone()), message: "no file includes it".to_owned(), ..Self::default() }
            }
            SourceError::Empty | SourceError::NoRoot => Self { message: error.to_string(), ..Self::default() },
        }
    }

    /// What is wrong with the policy that the files describe.
    #[must_use]
    pub fn of_bundle(error: &BundleError, files: &Files) -> Self {
        let message = match error {
            BundleError::Policy(cause) => chain(cause),
            BundleError::Algorithm { issuer, kid, algorithm } => {
                let field = if kid.is_empty() { "algorithms".to_owned() } else { format!("keys[{kid}].algorithm") };
                let nearest = hint(algorithm, Algorithm::ALL.into_iter().map(Algorithm::name));
                format!("issuers[{issuer}].{field}: `{algorithm}` is not supported, or not among the issuer's `algorithms`{nearest}")
            }
            BundleError::Claim { claim, .. } => format!("{error}{}", hint(claim, CLAIMS.into_iter())),
            BundleError::Frame(_)
            | BundleError::Hash
            | BundleError::Parts
            | BundleError::Key { .. }
            | BundleError::SoftwareVerification { .. }
            | BundleError::AlgorithmsMissing { .. }
            | BundleError::KeysMissing { .. }
            | BundleError::Issuers(_) => chain(error),
        };
        Self::located(message, files)
    }

    /// What is wrong with the secret of a key, or of a registration key.
    #[must_use]
    pub fn of_secret(field: &str, error: &dyn Error, files: &Files) -> Self {
        Self::located(format!("{field}: {}", chain(error)), files)
    }

    /// A message that starts with the path of its field: finds the place in the files.
    #[must_use]
    pub fn located(message: String, files: &Files) -> Self {
        let field = message.split_once(": ").map(|(field, _)| field).filter(|field| !field.contains(' '));
        let value = quoted(&message);
        let which = if message.contains("used twice") { Which::Last } else { Which::First };
        let place = field.and_then(|field| find(field, value, which, files));
        let (file, line) = place.map_or((None, None), |(file, line)| (Some(file), Some(line)));
        Self { file, line, field: field.map(str::to_owned), message, ..Self::default() }
    }
}

/// Claims that an issuer may require.
const CLAIMS: [&str; 8] = ["customer_id", "agent_id", "governor_agent_id", "tier", "jti", "nbf", "token_type", "token_version"];

/// A message of the YAML reader in our words: the field by the names of its entries, the nearest valid name, and no position,
/// which stands apart.
fn reworded(problem: &str, text: &str) -> (Option<String>, String) {
    let problem = problem.rsplit_once(" at line ").map_or(problem, |(said, _)| said);
    let (path, said) = problem.split_once(": ").filter(|(path, _)| !path.contains([' ', '`'])).unwrap_or(("", problem));
    // The reader names the whole document `.`. A text that is too deep to be read is not read for its names.
    let path = if path.is_empty() || path == "." { String::new() } else { named(path, text) };
    let (offender, expected) = match said.strip_prefix("unknown ").and_then(|rest| rest.split_once(", expected ")) {
        Some((what, expected)) => (quoted(what), expected),
        None => (None, ""),
    };
    let names = expected.split('`').skip(1).step_by(2);
    let nearest = offender.map(|name| hint(name, names)).unwrap_or_default();
    let unknown_field = offender.filter(|_| said.starts_with("unknown field"));
    let other = ["missing field ", "duplicate field "].iter().find_map(|start| said.strip_prefix(start).and_then(quoted));
    let field = match unknown_field.or(other) {
        Some(name) if path.is_empty() => name.to_owned(),
        Some(name) => format!("{path}.{name}"),
        None => path,
    };
    if field.is_empty() { (None, format!("{said}{nearest}")) } else { (Some(field.clone()), format!("{field}: {said}{nearest}")) }
}

/// The first text between backticks.
fn quoted(message: &str) -> Option<&str> {
    message.split_once('`')?.1.split_once('`').map(|(name, _)| name)
}

fn hint<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    nearest(name, known).map_or_else(String::new, |nearest| format!("; the nearest name is `{nearest}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        let routes = "routes:\n  - name: a\n    path: /a\n  - { name: b.c, path: /b }\n";
        let roles = "permissions:\n  - a.read\nroles:\n  - name: \"a\"\n";
        Files::from([("routes.yaml".to_owned(), routes.to_owned()), ("roles.yaml".to_owned(), roles.to_owned())])
    }

    #[test]
    fn finds_the_entry_in_its_own_section() {
        for (message, file, line) in [
            ("routes[b.c].permission: `x.y` does not exist", "routes.yaml", 4),
            ("roles[a].permissions: `x.y` does not exist", "roles.yaml", 4),
            ("permissions: the catalogue is not valid", "roles.yaml", 1),
        ] {
            let fault = PolicyFault::located(message.to_owned(), &files());
            assert_eq!((fault.file.as_deref(), fault.line), (Some(file), Some(line)), "{message}");
        }
    }

    #[test]
    fn says_nothing_about_a_place_that_it_does_not_find() {
        let fault = PolicyFault::located("something else is wrong: very".to_owned(), &files());
        assert_eq!((fault.file, fault.line, fault.field), (None, None, None));
    }

    #[test]
    fn an_unknown_field_is_named() {
        let text = "roles:\n  - name: a\n    permissions: []\n    permisions: []\n";
        let files = Files::from([("roles.yaml".to_owned(), text.to_owned())]);
        let fault = PolicyFault::of_source(&wire::sources::read(&files).unwrap_err(), &files);
        assert_eq!((fault.file.as_deref(), fault.line, fault.field.as_deref()), (Some("roles.yaml"), Some(4), Some("roles[a].permisions")));
    }
}
