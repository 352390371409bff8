//! Where Postgres and Valkey are. A password may be in a file of its own: what is in the environment is shown to everybody who may look at
//! a process or a container, a file is not.

use crate::settings::Sensitive;
use clap::Args;
use redis::{ConnectionInfo, IntoConnectionInfo};
use sqlx::postgres::PgConnectOptions;
use std::io;
use std::path::{Path, PathBuf};

/// Which Postgres.
#[derive(Clone, Debug, Args)]
pub struct Database {
    /// Postgres, as `postgres://user:password@host:port/database`.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Sensitive,
    /// A file with the password of Postgres, in place of one in `DATABASE_URL`.
    #[arg(long, env = "DATABASE_PASSWORD_FILE", value_name = "FILE")]
    database_password_file: Option<PathBuf>,
}

/// Which Redis or Valkey.
#[derive(Clone, Debug, Args)]
pub struct Valkey {
    /// Redis or Valkey, as `redis://user:password@host:port/database`.
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    redis_url: Sensitive,
    /// A file with the password of Redis or Valkey, in place of one in `REDIS_URL`.
    #[arg(long, env = "REDIS_PASSWORD_FILE", value_name = "FILE")]
    redis_password_file: Option<PathBuf>,
}

/// It is not said where a store is. No text contains a password.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The text of `DATABASE_URL` is not usable.
    #[error("DATABASE_URL is not a Postgres URL")]
    DatabaseUrl,
    /// The text of `REDIS_URL` is not usable.
    #[error("REDIS_URL is not a Redis URL")]
    RedisUrl,
    /// The password is not to be had.
    #[error("the file `{}` of {variable} cannot be read", .path.display())]
    PasswordFile {
        /// The variable that names it.
        variable: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An empty password is none.
    #[error("the file `{}` of {variable} is empty", .path.display())]
    PasswordEmpty {
        /// The variable that names it.
        variable: &'static str,
        /// Which.
        path: PathBuf,
    },
}

impl Database {
    /// Where to connect, and with which password. Why the URL is none is not said: it would quote it.
    ///
    /// # Errors
    /// The URL is none of Postgres, or the file cannot be used.
    pub fn options(&self) -> Result<PgConnectOptions, StoreError> {
        let url = self.database_url.expose();
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(StoreError::DatabaseUrl);
        }
        let options: PgConnectOptions = url.parse().map_err(|_quotes_it| StoreError::DatabaseUrl)?;
        Ok(match &self.database_password_file {
            Some(path) => options.password(&password("DATABASE_PASSWORD_FILE", path)?),
            None => options,
        })
    }
}

impl Valkey {
    /// Where to connect, and with which password.
    ///
    /// # Errors
    /// The URL is none of Redis, or the file cannot be used.
    pub fn connection(&self) -> Result<ConnectionInfo, StoreError> {
        let connection = self.redis_url.expose().into_connection_info().map_err(|_quotes_it| StoreError::RedisUrl)?;
        Ok(match &self.redis_password_file {
            Some(path) => {
                let settings = connection.redis_settings().clone().set_password(password("REDIS_PASSWORD_FILE", path)?);
                connection.set_redis_settings(settings)
            }
            None => connection,
        })
    }
}

/// The first line of the file, as editors and `echo` end it.
fn password(variable: &'static str, path: &Path) -> Result<String, StoreError> {
    let read = std::fs::read_to_string(path);
    let text = read.map_err(|source| StoreError::PasswordFile { variable, path: path.to_owned(), source })?;
    match text.lines().next() {
        Some(password) if !password.is_empty() => Ok(password.to_owned()),
        Some(_) | None => Err(StoreError::PasswordEmpty { variable, path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(url: &str, file: Option<&Path>) -> Database {
        Database { database_url: url.parse().unwrap(), database_password_file: file.map(Path::to_owned) }
    }

    fn valkey(url: &str, file: Option<&Path>) -> Valkey {
        Valkey { redis_url: url.parse().unwrap(), redis_password_file: file.map(Path::to_owned) }
    }

    #[test]
    fn only_a_url_of_postgres_says_where_postgres_is() {
        for (url, good) in [
            ("postgres://gateway:hunter2@db/gateway", true),
            ("postgresql://db/gateway", true),
            ("mysql://u:x@h/x", false),
            ("redis://h", false),
            ("postgres:", false),
            ("db/gateway", false),
            ("", false),
        ] {
            assert_eq!(database(url, None).options().is_ok(), good, "{url}");
        }
    }

    #[test]
    fn a_password_comes_from_its_file() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("password");
        std::fs::write(&file, "hunter2\n").unwrap();
        let options = database("postgres://gateway:other@db/gateway", Some(&file)).options().unwrap();
        assert!(format!("{options:?}").contains("hunter2"), "the driver shows it; we never print the options");
        let connection = valkey("redis://:other@cache:7000/3", Some(&file)).connection().unwrap();
        let settings = connection.redis_settings();
        assert_eq!((settings.password(), settings.db(), connection.addr().to_string()), (Some("hunter2"), 3, "cache:7000".to_owned()));
        assert_eq!(valkey("redis://:other@cache", None).connection().unwrap().redis_settings().password(), Some("other"));
    }

    #[test]
    fn a_file_without_a_password_is_named_and_so_is_its_variable() {
        let home = tempfile::tempdir().unwrap();
        let (absent, empty) = (home.path().join("absent"), home.path().join("empty"));
        std::fs::write(&empty, "\n").unwrap();
        let told = database("postgres://db/gateway", Some(&absent)).options().unwrap_err().to_string();
        assert!(told.ends_with("/absent` of DATABASE_PASSWORD_FILE cannot be read"), "{told}");
        let told = valkey("redis://cache", Some(&empty)).connection().unwrap_err().to_string();
        assert!(told.ends_with("/empty` of REDIS_PASSWORD_FILE is empty"), "{told}");
    }
}
