//! Where a policy is wrong: file, line, field, and what is wrong with it.

use crate::Files;
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
        match error {
            SourceError::Syntax { file, line, column: _, problem } => Self {
                file: Some(file.clone()),
                line: (*line > 0).then_some(*line),
                field: named_field(problem).map(str::to_owned),
                message: problem.clone(),
            },
            SourceError::Twice { file, section, .. } => Self {
                file: Some(file.clone()),
                line: files.get(file).and_then(|text| line_of(text, &format!("{section}:"))),
                field: Some((*section).to_owned()),
                message: error.to_string(),
            },
            SourceError::NoSuchFile { file, .. } | SourceError::IncludedTwice { file, .. } => Self {
                file: Some(file.clone()),
                line: files.get(file).and_then(|text| line_of(text, "include:")),
                field: Some("include".to_owned()),
                message: error.to_string(),
            },
            SourceError::NotIncluded { file } => Self { file: Some(file.clone()), message: error.to_string(), ..Self::default() },
            SourceError::Empty | SourceError::NoRoot => Self { message: error.to_string(), ..Self::default() },
        }
    }

    /// What is wrong with the policy that the files describe.
    #[must_use]
    pub fn of_bundle(error: &BundleError, files: &Files) -> Self {
        let message = match error {
            BundleError::Policy(cause) => chain(cause),
            BundleError::Frame(_)
            | BundleError::Hash
            | BundleError::Key { .. }
            | BundleError::Algorithm { .. }
            | BundleError::SoftwareVerification { .. }
            | BundleError::AlgorithmsMissing { .. }
            | BundleError::Claim { .. }
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
        let place = field.and_then(|field| place_of(field, files).or_else(|| section_of(field, files)));
        let (file, line) = place.map_or((None, None), |(file, line)| (Some(file), Some(line)));
        Self { file, line, field: field.map(str::to_owned), message }
    }
}

/// An error with its causes, in one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// The field in a message of the YAML reader: what it quotes after `field`, else the path before the first colon.
fn named_field(problem: &str) -> Option<&str> {
    let quoted = problem.split_once("field `").and_then(|(_, rest)| rest.split_once('`')).map(|(name, _)| name);
    quoted.or_else(|| problem.split_once(": ").map(|(path, _)| path).filter(|path| !path.contains(' ')))
}

/// Where `section[name].rest` or `section.field` stands: the line that names the entry within that section. A hint for
/// people; the field says exactly what is meant.
fn place_of(field: &str, files: &Files) -> Option<(String, usize)> {
    let section = field.split(['[', '.']).next()?;
    let entry = field.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(name, _)| name);
    let inner = field.rsplit_once('.').map(|(_, inner)| inner);
    files.iter().find_map(|(file, text)| {
        let mut within = false;
        for (index, line) in text.lines().enumerate() {
            if line.starts_with(|first: char| first.is_ascii_alphabetic()) {
                within = line.split(':').next() == Some(section);
            }
            let hit = match entry {
                Some(name) => names(line, name),
                None => inner.map_or_else(|| line.starts_with(section), |inner| line.trim_start().starts_with(inner)),
            };
            if within && hit {
                return Some((file.clone(), index.saturating_add(1)));
            }
        }
        None
    })
}

/// Where the field's section begins, for an entry in braces.
fn section_of(field: &str, files: &Files) -> Option<(String, usize)> {
    let section = format!("{}:", field.split(['[', '.']).next()?);
    files.iter().find_map(|(file, text)| Some((file.clone(), line_of(text, &section)?)))
}

/// Whether a line of YAML has `name: <name>`, in block or flow style, or is the list entry itself.
fn names(line: &str, name: &str) -> bool {
    let plain = |text: &str| text.trim().trim_matches(['"', '\'']) == name;
    let after_name = line.split_once("name:").is_some_and(|(_, rest)| plain(rest.split([',', '}', '#']).next().unwrap_or(rest)));
    after_name || line.trim_start().strip_prefix("- ").is_some_and(plain)
}

fn line_of(text: &str, start: &str) -> Option<usize> {
    Some(text.lines().position(|line| line.starts_with(start))?.saturating_add(1))
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
        assert_eq!((fault.file.as_deref(), fault.line, fault.field.as_deref()), (Some("roles.yaml"), Some(4), Some("permisions")));
    }
}
