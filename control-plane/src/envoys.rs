//! Which Envoys may call the data plane: read from a file at start. Tokens are known by their SHA-256 only.

use sqlx::PgPool;
use std::io;
use std::path::{Path, PathBuf};

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    envoy_id: String,
    token_sha256: [u8; 32],
}

/// Why the file is not usable. Shows line numbers, never contents.
#[derive(Debug, thiserror::Error)]
pub enum TokensFileError {
    /// It cannot be read.
    #[error("the data-plane tokens file `{}` cannot be read", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line has another form.
    #[error("the data-plane tokens file `{}`, line {line}: not `<envoy-id> <sha256 of the token, 64 hex digits>`", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// Two Envoys would have one identity.
    #[error("two Envoys of the data-plane tokens file, or one of it and one known before, have the same token")]
    SharedToken,
    /// The database fails.
    #[error("the database failed while storing data-plane tokens")]
    Database(#[source] sqlx::Error),
}

/// Registers the Envoys of the file. One that was revoked stays so until its token changes; one that is no longer
/// listed stays known until it is revoked.
///
/// # Errors
/// The file or the database.
pub async fn register(database: &PgPool, file: &Path) -> Result<usize, TokensFileError> {
    let unreadable = |source| TokensFileError::Unreadable { path: file.to_path_buf(), source };
    let text = tokio::fs::read_to_string(file).await.map_err(unreadable)?;
    let entries = parse(&text).map_err(|line| TokensFileError::Line { path: file.to_path_buf(), line })?;
    let mut transaction = database.begin().await.map_err(stored)?;
    for entry in &entries {
        sqlx::query(
            "INSERT INTO envoys (envoy_id, token_sha256) VALUES ($1, $2) ON CONFLICT (envoy_id) DO UPDATE SET \
             token_sha256 = EXCLUDED.token_sha256, revoked_at = CASE \
             WHEN envoys.token_sha256 = EXCLUDED.token_sha256 THEN envoys.revoked_at END",
        )
        .bind(&entry.envoy_id)
        .bind(entry.token_sha256.as_slice())
        .execute(&mut *transaction)
        .await
        .map_err(stored)?;
    }
    transaction.commit().await.map_err(stored)?;
    Ok(entries.len())
}

fn stored(error: sqlx::Error) -> TokensFileError {
    let constraint = error.as_database_error().and_then(|cause| cause.constraint());
    if constraint == Some("envoys_token_unique") { TokensFileError::SharedToken } else { TokensFileError::Database(error) }
}

/// The entries, or the number of the first line that is none. Empty lines and `#` comments are skipped.
fn parse(text: &str) -> Result<Vec<Entry>, usize> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index.saturating_add(1), line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| entry(line).ok_or(number))
        .collect()
}

fn entry(line: &str) -> Option<Entry> {
    let mut words = line.split_ascii_whitespace();
    let (envoy_id, digest) = (words.next()?, words.next()?);
    let plain = envoy_id.len() <= 128 && envoy_id.bytes().all(|byte| byte.is_ascii_graphic());
    if words.next().is_some() || !plain {
        return None;
    }
    Some(Entry { envoy_id: envoy_id.to_owned(), token_sha256: parse_hex(digest)? })
}

fn parse_hex(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0_u8; 32];
    let mut pairs = digits.as_bytes().chunks_exact(2);
    for byte in &mut bytes {
        let pair = core::str::from_utf8(pairs.next()?).ok()?;
        // `from_str_radix` alone would take a sign.
        if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    (pairs.next().is_none() && pairs.remainder().is_empty()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_entries_and_skips_comments() {
        let text = format!("# ours\n\nenvoy-1 {}\n  envoy-2\t{}  \n", "ab".repeat(32), "CD".repeat(32));
        let entries = parse(&text).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[1], Entry { envoy_id: "envoy-2".into(), token_sha256: [0xcd; 32] });
    }

    #[test]
    fn names_the_first_bad_line() {
        let good = "ab".repeat(32);
        for bad in [
            format!("envoy {good} extra"),
            "envoy".into(),
            format!("envoy {good}ff"),
            format!("envoy +{}", &good[1..]),
            format!("envoy {}", &good[..62]),
        ] {
            assert_eq!(parse(&format!("ok {good}\n{bad}\n")), Err(2), "{bad}");
        }
    }
}
