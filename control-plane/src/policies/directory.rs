//! The policies directory: read at start, and published when it changed since it was last read.

use crate::admin_events::Actor;
use crate::policies::store::{self, Origin};
use crate::policies::{Files, PolicyFault};
use crate::problem::{ApiError, chain};
use crate::revocations::store::left_behind;
use sqlx::PgPool;
use std::io;
use std::path::{Path, PathBuf};

/// Golden cases lie beside the sources and are none.
const CASES: &str = "cases";

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

/// What became of the directory at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Publication {
    /// It was published and is in force.
    Activated,
    /// It is as it was when it was last published; what is in force stays.
    Unchanged,
    /// It compiles, and must not be put in force as things are; what is in force stays.
    Refused(PolicyFault),
}

/// Every `*.yaml` and `*.yml` below `directory`, named by its path in it. Blocks: call it off the async threads.
///
/// # Errors
/// A directory or file that cannot be read.
pub fn read(directory: &Path) -> Result<Files, DirectoryError> {
    let mut files = Files::new();
    let mut pending = vec![directory.to_path_buf()];
    while let Some(path) = pending.pop() {
        let failed = |source| DirectoryError { path: path.clone(), source };
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?.path();
            if entry.is_dir() {
                if entry.file_name().is_none_or(|name| name != CASES) {
                    pending.push(entry);
                }
            } else if entry.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
                let text = std::fs::read_to_string(&entry).map_err(|source| DirectoryError { path: entry.clone(), source })?;
                let name = entry.strip_prefix(directory).unwrap_or(&entry);
                files.insert(name.display().to_string(), text);
            }
        }
    }
    Ok(files)
}

/// Publishes and activates the directory's files, which compile and have these issuers, if they differ from what the directory last was.
/// What the API published or rolled back to meanwhile survives a restart.
///
/// # Errors
/// The database fails.
pub async fn publish_if_changed(database: &PgPool, files: &Files, issuers: &[String]) -> Result<Publication, ApiError> {
    let mut transaction = database.begin().await?;
    store::policies_lock(&mut transaction).await?;
    let active = store::activation_latest(&mut transaction).await?;
    let last = store::directory_revision_hash(&mut transaction).await?;
    if active.is_some() && last.as_deref() == Some(store::content_sha256(files).as_slice()) {
        return Ok(Publication::Unchanged);
    }
    // Not even published: else the next start would take it for unchanged.
    if let Some(message) = left_behind(&mut transaction, issuers).await? {
        return Ok(Publication::Refused(PolicyFault::located(message, files)));
    }
    let actor = Actor::POLICIES_DIRECTORY;
    let reason = "the policies directory, at start";
    let revision = store::revision_publish(&mut transaction, files, Origin::Directory, actor, reason).await?;
    let activation = store::revision_activate(&mut transaction, revision, actor, reason, None).await?;
    transaction.commit().await?;
    tracing::info!(%revision, %activation, "published and activated the policies directory");
    Ok(Publication::Activated)
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
        for file in ["a.yaml", "routes/b.yml", "cases/c.yaml", "routes/cases/d.yaml", "README.md"] {
            std::fs::write(root.join(file), file).unwrap();
        }
        let names: Vec<_> = read(root).unwrap().into_keys().collect();
        assert_eq!(names, ["a.yaml", "routes/b.yml"]);
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = read(Path::new("/nonexistent/policies")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/policies"));
    }
}
