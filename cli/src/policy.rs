//! The issuers of a policy as the gateways know them: read by the same code, with the keys of a secrets directory or none.

use std::path::{Path, PathBuf};

use authn::Issuers;
use authoring::directory::DirectoryError;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use wire::bundle::{Bundle, BundleError, BundleVersion, IssuerKeys, KeyMaterial, KeysKnown};
use wire::policy::{Issuer, IssuerKey, PolicyDocument};
use wire::sources::SourceError;

/// No policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A folder, a file or a secret cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The folder of policies cannot be read.
    #[error("the policies cannot be read")]
    Directory(#[source] DirectoryError),
    /// The sources are not valid.
    #[error("the policy is not valid")]
    Source(#[source] SourceError),
    /// The sources are valid and make no policy.
    #[error("the policy does not compile")]
    Bundle(#[source] BundleError),
    /// Not base64url. The cause would quote it.
    #[error("the secret `{name}` is not base64url")]
    Secret {
        /// Its name.
        name: String,
    },
    /// A path where a name has to be.
    #[error("`{name}` is not the name of a secret")]
    SecretName {
        /// What there is.
        name: String,
    },
}

/// Every policy source below a folder.
pub(crate) fn read(folder: &Path) -> Result<PolicyDocument, PolicyError> {
    let files = authoring::directory::read(folder).map_err(PolicyError::Directory)?;
    wire::sources::read(&files).map_err(PolicyError::Source)
}

/// The issuers, all without keys but the one whose `iss` this is: its keys come from the secrets.
pub(crate) fn issuers(policy: &PolicyDocument, secrets: Option<&Path>, iss: &str) -> Result<Issuers, PolicyError> {
    let keys = |issuer: &Issuer| match secrets {
        Some(folder) if issuer.issuer == iss => Ok(IssuerKeys {
            issuer: issuer.name.clone(),
            keys: issuer.keys.iter().map(|key| material(key, folder)).collect::<Result<_, _>>()?,
            known: if issuer.keys.is_empty() { KeysKnown::NotYet } else { KeysKnown::Always },
        }),
        Some(_) | None => Ok(IssuerKeys { issuer: issuer.name.clone(), keys: Vec::new(), known: KeysKnown::NotYet }),
    };
    let keys = policy.issuers.iter().map(keys).collect::<Result<_, PolicyError>>()?;
    let bundle = Bundle {
        version: BundleVersion::default(),
        policy: policy.clone(),
        keys,
        registration_key_hashes: Vec::new(),
        pseudonym_key: None,
        rules: None,
        shadow: None,
    };
    Ok(bundle.load().map_err(PolicyError::Bundle)?.issuers)
}

/// Why the secrets do not fit the policy.
#[derive(Debug)]
pub(crate) enum SecretFault {
    /// The keys are not usable.
    Bundle(BundleError),
    /// One cannot be read.
    Secret { field: String, source: PolicyError },
    /// One is not what it has to be: a message that starts with its field.
    Said(String),
}

/// The shortest registration key that the control plane accepts.
const REGISTRATION_KEY_BYTES_MIN: usize = 16;

/// Checks every secret that the policy names, as the control plane does.
pub(crate) fn check_secrets(policy: &PolicyDocument, folder: &Path) -> Result<(), SecretFault> {
    let mut keys = Vec::new();
    for issuer in &policy.issuers {
        let mut materials = Vec::new();
        for key in &issuer.keys {
            let field = format!("issuers[{}].keys[{}].secret", issuer.name, key.kid);
            materials.push(material(key, folder).map_err(|source| SecretFault::Secret { field, source })?);
        }
        keys.push(IssuerKeys { issuer: issuer.name.clone(), keys: materials, known: KeysKnown::Always });
    }
    for name in &policy.registration_keys {
        let field = format!("registration_keys[{name}]");
        let secret = secret(name, folder).map_err(|source| SecretFault::Secret { field: field.clone(), source })?;
        if secret.trim_ascii().len() < REGISTRATION_KEY_BYTES_MIN {
            return Err(SecretFault::Said(format!("{field}: the registration key is shorter than {REGISTRATION_KEY_BYTES_MIN} bytes")));
        }
    }
    let bundle = Bundle {
        version: BundleVersion::default(),
        policy: policy.clone(),
        keys,
        registration_key_hashes: Vec::new(),
        pseudonym_key: None,
        rules: None,
        shadow: None,
    };
    bundle.load().map(drop).map_err(SecretFault::Bundle)
}

fn secret(name: &str, folder: &Path) -> Result<Vec<u8>, PolicyError> {
    if name.starts_with('.') || name.contains(['/', '\\', '\0']) {
        return Err(PolicyError::SecretName { name: name.to_owned() });
    }
    let path = folder.join(name);
    std::fs::read(&path).map_err(|source| PolicyError::Read { path, source })
}

/// A secret of the shared kind is base64url, padding tolerated; a public key is PEM.
fn material(key: &IssuerKey, folder: &Path) -> Result<KeyMaterial, PolicyError> {
    let name = &key.secret;
    let text = secret(name, folder)?;
    let text = text.trim_ascii();
    let material = if key.algorithm.starts_with("HS") {
        let text = std::str::from_utf8(text).unwrap_or("?").trim_end_matches('=');
        URL_SAFE_NO_PAD.decode(text).map_err(|_cause| PolicyError::Secret { name: name.clone() })?
    } else {
        text.to_vec()
    };
    Ok(KeyMaterial { kid: Some(key.kid.clone()), algorithm: key.algorithm.clone(), material })
}
