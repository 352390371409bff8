//! Policy sources: YAML files into one document. An error names the file, the line and the field.

use crate::policy::PolicyDocument;
use std::collections::BTreeMap;

/// Why sources are refused.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file is not what the schema says.
    #[error("{file}:{line}:{column}: {problem}")]
    Syntax {
        /// The file.
        file: String,
        /// Its line, from 1; 0 when the whole file is meant.
        line: usize,
        /// Its column, from 1.
        column: usize,
        /// The field and what is wrong with it.
        problem: String,
    },
    /// Two files have settings.
    #[error("{file}: `settings` stand in `{other}` already")]
    SettingsTwice {
        /// The second file.
        file: String,
        /// The first.
        other: String,
    },
    /// There is no file.
    #[error("there is no policy source (*.yaml)")]
    Empty,
}

/// Reads and merges the files, in the order of their names.
///
/// # Errors
/// The first file that is not what the schema says.
pub fn read(files: &BTreeMap<String, String>) -> Result<PolicyDocument, SourceError> {
    if files.is_empty() {
        return Err(SourceError::Empty);
    }
    let mut merged = PolicyDocument::default();
    let mut settings_file: Option<&str> = None;
    for (file, text) in files {
        let document = read_file(file, text)?;
        if let Some(settings) = document.settings {
            if let Some(other) = settings_file {
                return Err(SourceError::SettingsTwice { file: file.clone(), other: other.into() });
            }
            settings_file = Some(file);
            merged.settings = Some(settings);
        }
        merged.issuers.extend(document.issuers);
        merged.registration_keys.extend(document.registration_keys);
        merged.permissions.extend(document.permissions);
        merged.roles.extend(document.roles);
        merged.routes.extend(document.routes);
        merged.budgets.extend(document.budgets);
    }
    Ok(merged)
}

fn read_file(file: &str, text: &str) -> Result<PolicyDocument, SourceError> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(PolicyDocument::default());
    }
    serde_norway::from_str(text).map_err(|error| {
        let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
        SourceError::Syntax { file: file.into(), line, column, problem: error.to_string() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_names_file_line_and_field() {
        let text = "roles:\n  - name: a\n    permissions: []\n    permisions: []\n";
        let error = read(&BTreeMap::from([("roles.yaml".into(), text.into())])).unwrap_err().to_string();
        assert!(error.starts_with("roles.yaml:4:"), "{error}");
        assert!(error.contains("permisions"), "{error}");
    }

    #[test]
    fn settings_stand_once() {
        let text = "settings: {no_route_status: 403}\n";
        let files = BTreeMap::from([("a.yaml".to_string(), text.to_string()), ("b.yaml".into(), text.into())]);
        assert_eq!(read(&files).unwrap_err().to_string(), "b.yaml: `settings` stand in `a.yaml` already");
    }
}
