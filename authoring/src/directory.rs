//! The files of a policy in a folder.

use crate::Files;
use crate::fault::PolicyFault;
use decision_core::causes::chain;
use std::io;
use std::path::{Path, PathBuf};

/// Golden cases lie beside the sources and are none.
const CASES: &str = "cases";
/// So does the published schema.
const SCHEMA: &str = "schema.json";
/// The extension of modules.
const MODULE: &str = "rego";
/// What belongs to a policy, by its extension.
const SOURCES: [&str; 4] = ["yaml", "yml", MODULE, "json"];

/// Why the directory cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the policies directory: `{}` cannot be read", path.display())]
pub struct DirectoryError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl From<DirectoryError> for PolicyFault {
    fn from(error: DirectoryError) -> Self {
        Self { file: Some(error.path.display().to_string()), message: chain(&error), ..Self::default() }
    }
}

/// Every policy source (`*.yaml`, `*.yml`), rule module (`*.rego`) and data file of rules (`*.json`) below `directory`, named by its path in it. Blocks: call it off the async threads.
///
/// # Errors
/// A directory or file that cannot be read.
pub fn read(directory: &Path) -> Result<Files, DirectoryError> {
    read_where(
        directory,
        |folder| folder.file_name().is_none_or(|name| name != CASES),
        |file| {
            let for_editors = file.parent() == Some(directory) && file.file_name().is_some_and(|name| name == SCHEMA);
            !for_editors && file.extension().is_some_and(|extension| SOURCES.iter().any(|source| extension == *source))
        },
    )
}

/// Every module (`*.rego`) below `directory`, whatever else there is. Blocks.
///
/// # Errors
/// A directory or module that cannot be read.
pub fn read_modules(directory: &Path) -> Result<Files, DirectoryError> {
    read_where(directory, |_folder| true, |file| file.extension().is_some_and(|extension| extension == MODULE))
}

fn read_where(directory: &Path, enter: impl Fn(&Path) -> bool, wanted: impl Fn(&Path) -> bool) -> Result<Files, DirectoryError> {
    let mut files = Files::new();
    let mut pending = vec![directory.to_path_buf()];
    while let Some(path) = pending.pop() {
        let failed = |source| DirectoryError { path: path.clone(), source };
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?.path();
            if entry.is_dir() {
                if enter(&entry) {
                    pending.push(entry);
                }
            } else if wanted(&entry) {
                let text = std::fs::read_to_string(&entry).map_err(|source| DirectoryError { path: entry.clone(), source })?;
                let name = entry.strip_prefix(directory).unwrap_or(&entry);
                files.insert(name.display().to_string(), text);
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_yaml_of_all_levels_except_cases() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for folder in ["routes", "cases", "routes/cases"] {
            std::fs::create_dir(root.join(folder)).unwrap();
        }
        for file in ["a.yaml", "routes/b.yml", "cases/c.yaml", "routes/cases/d.yaml", "README.md", "schema.json", "cases/e.rego", "f.rego"]
        {
            std::fs::write(root.join(file), file).unwrap();
        }
        let names: Vec<_> = read(root).unwrap().into_keys().collect();
        assert_eq!(names, ["a.yaml", "f.rego", "routes/b.yml"]);
        let modules: Vec<_> = read_modules(root).unwrap().into_keys().collect();
        assert_eq!(modules, ["cases/e.rego", "f.rego"]);
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = read(Path::new("/nonexistent/policies")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/policies"));
    }
}
