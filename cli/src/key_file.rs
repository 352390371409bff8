//! Keys from files that the caller names: one JWK, or a set.

use std::io::Read;
use std::path::{Path, PathBuf};

use authn::{Algorithm, InvalidJwkSet, InvalidKey, JwkSet, VerificationKey};
use clap::Args;

/// More than any set that we accept, and than any token.
const BYTES_MAX: u64 = 1 << 20;

/// Where the keys are.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct KeyFile {
    /// A public key or a secret as a JWK; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    jwk: Option<PathBuf>,
    /// A JWK set; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
}

/// No keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not JSON.
    #[error("`{}` is not one JSON object without duplicate member names", path.display())]
    Json {
        /// Which.
        path: PathBuf,
    },
    /// Not a key that we use.
    #[error("the JWK is refused")]
    Jwk(#[source] InvalidKey),
    /// Not a set that we use.
    #[error("the JWK set is refused")]
    Jwks(#[source] InvalidJwkSet),
}

impl KeyFile {
    pub(crate) const fn is_given(&self) -> bool {
        self.jwk.is_some() || self.jwks.is_some()
    }

    pub(crate) fn is_stdin(&self) -> bool {
        [&self.jwk, &self.jwks].into_iter().flatten().any(|path| path.as_os_str() == "-")
    }

    /// Reads them, for one algorithm where one is named.
    pub(crate) fn read(&self, algorithm: Option<Algorithm>) -> Result<Vec<VerificationKey>, KeyFileError> {
        let mut keys = Vec::new();
        if let Some(path) = &self.jwk {
            keys.push(jwk(path, &bytes(path)?, algorithm)?);
        }
        if let Some(path) = &self.jwks {
            keys.extend(jwks(&bytes(path)?, algorithm).map_err(KeyFileError::Jwks)?);
        }
        Ok(keys)
    }
}

fn jwk(path: &Path, bytes: &[u8], algorithm: Option<Algorithm>) -> Result<VerificationKey, KeyFileError> {
    let jwk = authn::strict_json(bytes).ok_or_else(|| KeyFileError::Json { path: path.to_owned() })?;
    let key = match algorithm {
        Some(algorithm) => VerificationKey::from_jwk_for(&jwk, algorithm),
        None => VerificationKey::from_jwk(&jwk),
    };
    key.map_err(KeyFileError::Jwk)
}

/// Without `--alg`, a key without `alg` is for the algorithm that a single JWK of its kind would be for.
fn jwks(bytes: &[u8], algorithm: Option<Algorithm>) -> Result<Vec<VerificationKey>, InvalidJwkSet> {
    const USUAL: [Algorithm; 5] = [Algorithm::Hs256, Algorithm::Rs256, Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa];
    let set = match algorithm {
        Some(algorithm) => JwkSet::parse(bytes, &[algorithm]),
        None => match JwkSet::parse(bytes, &Algorithm::ALL) {
            Err(InvalidJwkSet::SeveralAlgorithmsFit(_)) => JwkSet::parse(bytes, &USUAL),
            whole => whole,
        },
    };
    set.map(|set| set.keys)
}

fn bytes(path: &Path) -> Result<Vec<u8>, KeyFileError> {
    read(path).map_err(|source| KeyFileError::Read { path: path.to_owned(), source })
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().take(BYTES_MAX).read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(path)?.take(BYTES_MAX).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// A token from the command line; `-` is standard input, with one line break at its end.
pub(crate) fn token(argument: &str) -> std::io::Result<String> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut text = String::from_utf8_lossy(&read(Path::new("-"))?).into_owned();
    let length = text.trim_end_matches('\n').trim_end_matches('\r').len();
    text.truncate(length);
    Ok(text)
}

/// `--alg`.
pub(crate) fn algorithm(name: &str) -> Result<Algorithm, String> {
    Algorithm::from_jose_name(name).ok_or_else(|| {
        let known: Vec<&str> = Algorithm::ALL.into_iter().map(Algorithm::name).collect();
        format!("`{name}` is not one of {}", known.join(", "))
    })
}
