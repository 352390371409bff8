//! Secrets, which policies name and never contain: one file per secret in one directory. Nothing here prints one.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

/// Largest secret; a PEM of an RSA-8192 key is below 2 KiB.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Where secrets are.
#[derive(Clone, Debug)]
pub struct SecretsDirectory(PathBuf);

/// Why a secret cannot be had. Names it, never shows it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The name could lead out of the directory.
    #[error("`{name}` is not the name of a secret: letters, digits, `.`, `_` and `-`, not starting with a dot")]
    InvalidName {
        /// The name.
        name: String,
    },
    /// There is none of this name.
    #[error("the secret `{name}` does not exist in the secrets directory")]
    Missing {
        /// The name.
        name: String,
    },
    /// It is empty or too large to be one.
    #[error("the secret `{name}` is empty or larger than 64 KiB")]
    Size {
        /// The name.
        name: String,
    },
    /// The file cannot be read.
    #[error("the secret `{name}` cannot be read")]
    Unreadable {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl SecretsDirectory {
    /// The secrets under `directory`.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    /// The secret's bytes without surrounding white space. Blocks: call it off the async threads.
    ///
    /// # Errors
    /// There is no such secret.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, SecretError> {
        let named = || name.to_owned();
        if !is_name(name) {
            return Err(SecretError::InvalidName { name: named() });
        }
        let unreadable = |source: io::Error| {
            if source.kind() == io::ErrorKind::NotFound {
                SecretError::Missing { name: named() }
            } else {
                SecretError::Unreadable { name: named(), source }
            }
        };
        let mut bytes = Vec::new();
        let file = File::open(self.0.join(name)).map_err(unreadable)?;
        file.take(SECRET_BYTES_MAX.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
        let trimmed = bytes.trim_ascii();
        if trimmed.is_empty() || u64::try_from(bytes.len()).is_ok_and(|length| length > SECRET_BYTES_MAX) {
            return Err(SecretError::Size { name: named() });
        }
        Ok(trimmed.to_vec())
    }
}

/// A plain file name. Without separators and without a leading dot it cannot leave the directory.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_secret_without_its_line_break() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("cp.secret"), "abc\n").unwrap();
        assert_eq!(SecretsDirectory::new(directory.path()).read("cp.secret").unwrap(), b"abc");
    }

    #[test]
    fn refuses_names_that_could_leave_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(directory.path().join("outside"), "abc").unwrap();
        for name in ["", "..", ".", ".hidden", "../outside", "a/b", "a\\b", "/etc/passwd", "a\0b"] {
            let refused = SecretsDirectory::new(&inner).read(name);
            assert!(matches!(refused, Err(SecretError::InvalidName { .. })), "{name:?}: {refused:?}");
        }
    }

    #[test]
    fn tells_missing_and_empty_apart() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("empty"), "\n").unwrap();
        let secrets = SecretsDirectory::new(directory.path());
        assert!(matches!(secrets.read("none"), Err(SecretError::Missing { .. })));
        assert!(matches!(secrets.read("empty"), Err(SecretError::Size { .. })));
    }
}
