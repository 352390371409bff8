//! From files to a policy in force, by the very code that the filter runs. Blocks: called off the async threads.

use crate::policies::{ActivePolicy, Files, PolicyFault};
use crate::secrets::SecretsDirectory;
use axum::body::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use wire::bundle::{Bundle, BundleVersion, IssuerKeys, KeyMaterial};
use wire::policy::{IssuerKey, PolicyDocument};

/// The keys that a policy names, resolved. Neither printed nor stored.
#[derive(Clone, PartialEq, Eq)]
#[expect(missing_debug_implementations, reason = "contains secrets")]
pub struct ResolvedKeys {
    issuers: Vec<IssuerKeys>,
    registration_key_hashes: Vec<[u8; 32]>,
}

/// Files that were read, with their keys.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "contains secrets")]
pub struct Resolved {
    files: Files,
    document: PolicyDocument,
    keys: ResolvedKeys,
}

/// Reads the files and resolves the secrets that they name.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn resolve(files: Files, secrets: &SecretsDirectory) -> Result<Resolved, PolicyFault> {
    let document = wire::sources::read(&files).map_err(|error| PolicyFault::of_source(&error, &files))?;
    let keys = resolve_keys(&document, secrets, &files)?;
    Ok(Resolved { files, document, keys })
}

impl Resolved {
    /// Tells one set of keys from another. Salted with the database's id, so that equal keys of two installations
    /// cannot be recognised by it.
    #[must_use]
    pub fn fingerprint(&self, database_id: [u8; 16]) -> [u8; 32] {
        let mut digest = Sha256::new_with_prefix(database_id);
        let mut field = |bytes: &[u8]| {
            digest.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(bytes);
        };
        for issuer in &self.keys.issuers {
            field(issuer.issuer.as_bytes());
            for key in &issuer.keys {
                field(key.kid.as_bytes());
                field(key.algorithm.as_bytes());
                field(&key.material);
            }
        }
        for hash in &self.keys.registration_key_hashes {
            field(hash);
        }
        digest.finalize().into()
    }

    /// Makes the image, and loads it back as a filter would.
    ///
    /// # Errors
    /// The first thing that does not compile, with its place.
    pub fn compile(self, version: BundleVersion) -> Result<ActivePolicy, PolicyFault> {
        let keys_fingerprint = self.fingerprint(version.database_id);
        let Self { files, document, keys } = self;
        let bundle = Bundle { version, policy: document, keys: keys.issuers, registration_key_hashes: keys.registration_key_hashes };
        let located = |error| PolicyFault::of_bundle(&error, &files);
        let image = bundle.encode().map_err(located)?;
        let loaded = Bundle::decode(&image).and_then(|bundle| bundle.load()).map_err(located)?;
        Ok(ActivePolicy { version, document: bundle.policy, loaded, image: Bytes::from(image), keys_fingerprint })
    }
}

fn resolve_keys(document: &PolicyDocument, secrets: &SecretsDirectory, files: &Files) -> Result<ResolvedKeys, PolicyFault> {
    let mut issuers = Vec::with_capacity(document.issuers.len());
    for issuer in &document.issuers {
        let keys = issuer
            .keys
            .iter()
            .map(|key| resolve_key(&format!("issuers[{}].keys[{}].secret", issuer.name, key.kid), key, secrets, files))
            .collect::<Result<_, _>>()?;
        issuers.push(IssuerKeys { issuer: issuer.name.clone(), keys });
    }
    let registration_key_hashes = document
        .registration_keys
        .iter()
        .map(|name| {
            let secret =
                secrets.read(name).map_err(|error| PolicyFault::of_secret(&format!("registration_keys[{name}]"), &error, files))?;
            Ok(Sha256::digest(secret).into())
        })
        .collect::<Result<_, PolicyFault>>()?;
    Ok(ResolvedKeys { issuers, registration_key_hashes })
}

fn resolve_key(field: &str, key: &IssuerKey, secrets: &SecretsDirectory, files: &Files) -> Result<KeyMaterial, PolicyFault> {
    let text = secrets.read(&key.secret).map_err(|error| PolicyFault::of_secret(field, &error, files))?;
    let material = if key.algorithm == "HS256" {
        // Padding is tolerated: `openssl rand -base64` and friends write it.
        let end = text.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last.saturating_add(1));
        let unpadded = text.get(..end).unwrap_or_default();
        URL_SAFE_NO_PAD.decode(unpadded).map_err(|_cause| {
            // The cause quotes a byte of the secret: it is dropped on purpose.
            PolicyFault::located(format!("{field}: the secret `{}` is not base64url", key.secret), files)
        })?
    } else {
        text
    };
    Ok(KeyMaterial { kid: key.kid.clone(), algorithm: key.algorithm.clone(), material })
}
