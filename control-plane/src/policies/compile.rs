//! From files to a policy in force, by the very code that the filter runs. Blocks: called off the async threads.

use crate::keys::merge;
use crate::keys::store::StoredSet;
use crate::policies::{ActivePolicy, Files, PolicyFault, Revision};
use crate::secrets::SecretsDirectory;
use ::rules::{Loader, RuleSource};
use authoring::rules::{self, Gate};
use axum::body::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use decision_core::causes::chain;
use decision_core::policy::compile::compile;
use sha2::{Digest, Sha256};
use std::sync::Mutex;
use wire::bundle::{Bundle, BundleVersion, IssuerKeys, KeyMaterial, KeysKnown, RulesImage, ShadowPolicy};
use wire::policy::{IssuerKey, PolicyDocument};
use wire::pseudonym::PseudonymKey;

/// The keys that a policy names, resolved. Neither printed nor stored.
#[derive(Clone, PartialEq, Eq)]
#[expect(missing_debug_implementations, reason = "contains secrets")]
pub struct ResolvedKeys {
    issuers: Vec<IssuerKeys>,
    registration_key_hashes: Vec<[u8; 32]>,
    pseudonym_key: Option<PseudonymKey>,
}

/// The shortest registration key. Whoever has it may create customers.
const REGISTRATION_KEY_BYTES_MIN: usize = 16;

/// The key sets that issuers published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Tells them from later ones.
    pub changes: i64,
    /// The last good ones.
    pub sets: Vec<StoredSet>,
}

/// How far custom rules are to be trusted.
#[derive(Clone, Copy, Debug)]
pub enum CustomRules<'g> {
    /// They are to be published, or put in force: they go through the gate.
    Candidate(&'g Gate),
    /// They went through it before.
    Published,
}

/// Files that were read, with their keys.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "contains secrets")]
pub struct Resolved {
    files: Files,
    document: PolicyDocument,
    keys: ResolvedKeys,
    jwk_changes: i64,
    shadow: Option<ShadowPolicy>,
}

/// Reads the files, resolves the secrets that they name, and adds the keys that issuers published.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn resolve(files: Files, secrets: &SecretsDirectory, published: &Published) -> Result<Resolved, PolicyFault> {
    let document = wire::sources::read(&files).map_err(|error| PolicyFault::of_source(&error, &files))?;
    let mut keys = resolve_keys(&document, secrets, &files)?;
    merge::add_published(&document, &mut keys.issuers, &published.sets);
    Ok(Resolved { files, document, keys, jwk_changes: published.changes, shadow: None })
}

/// A revision as it is served to be evaluated beside the active one, with whose keys it makes do.
///
/// # Errors
/// The first thing that does not compile, with its place.
pub fn shadow_policy(revision: Revision, files: Files) -> Result<ShadowPolicy, PolicyFault> {
    let policy = wire::sources::read(&files).map_err(|error| PolicyFault::of_source(&error, &files))?;
    compile(&policy.to_source()).map_err(|error| PolicyFault::located(chain(&error), &files))?;
    let rules = rules::reload(&policy, &files)?;
    Ok(ShadowPolicy { revision: u64::try_from(revision.0).unwrap_or_default(), policy, rules })
}

impl Resolved {
    /// With a revision that is evaluated beside it.
    #[must_use]
    pub fn beside(self, shadow: Option<ShadowPolicy>) -> Self {
        Self { shadow, ..self }
    }

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
            // Good for longer is another set: filters must learn of it.
            field(&match issuer.known {
                KeysKnown::Always => [0; 8],
                KeysKnown::Until(seconds) => seconds.to_be_bytes(),
                KeysKnown::NotYet => [0xff; 8],
            });
            for key in &issuer.keys {
                field(key.kid.as_deref().unwrap_or_default().as_bytes());
                field(key.algorithm.as_bytes());
                field(&key.material);
            }
        }
        for hash in &self.keys.registration_key_hashes {
            field(hash);
        }
        if let Some(key) = &self.keys.pseudonym_key {
            field(key.bytes());
        }
        digest.finalize().into()
    }

    /// Makes the image, and loads it back as a filter would.
    ///
    /// # Errors
    /// The first thing that does not compile, with its place.
    pub fn compile(self, version: BundleVersion, custom_rules: CustomRules<'_>) -> Result<ActivePolicy, PolicyFault> {
        let keys_fingerprint = self.fingerprint(version.database_id);
        let rules = match custom_rules {
            CustomRules::Candidate(gate) => rules::publish(&self.document, &self.files, gate),
            CustomRules::Published => rules::reload(&self.document, &self.files),
        }?;
        let Self { files, document, keys, jwk_changes, shadow } = self;
        let ResolvedKeys { issuers, registration_key_hashes, pseudonym_key } = keys;
        let bundle = Bundle { version, policy: document, keys: issuers, registration_key_hashes, pseudonym_key, rules, shadow };
        let located = |error| PolicyFault::of_bundle(&error, &files);
        let image = bundle.encode().map_err(located)?;
        let loaded = Bundle::decode(&image).and_then(|bundle| bundle.load()).map_err(located)?;
        let rules = loaded.rules.as_ref().map(load_rules).transpose()?.map(Mutex::new);
        Ok(ActivePolicy { version, document: bundle.policy, loaded, rules, image: Bytes::from(image), keys_fingerprint, jwk_changes })
    }
}

/// As a filter does, self-check vectors included.
fn load_rules(image: &RulesImage) -> Result<::rules::RuleSet, PolicyFault> {
    let source = RuleSource { modules: &image.modules, data: &image.data, inputs: &image.inputs };
    let vectors = image.vectors.iter().map(|vector| (vector.input.clone(), vector.decision.clone()));
    let loaded = Loader::new(&source, vectors).and_then(Loader::finish);
    loaded.map_err(|error| PolicyFault { field: Some("rules".into()), message: error.to_string(), ..PolicyFault::default() })
}

fn resolve_keys(document: &PolicyDocument, secrets: &SecretsDirectory, files: &Files) -> Result<ResolvedKeys, PolicyFault> {
    let mut issuers = Vec::with_capacity(document.issuers.len());
    for issuer in &document.issuers {
        let keys = issuer
            .keys
            .iter()
            .map(|key| resolve_key(&format!("issuers[{}].keys[{}].secret", issuer.name, key.kid), key, secrets, files))
            .collect::<Result<_, _>>()?;
        issuers.push(IssuerKeys { issuer: issuer.name.clone(), keys, known: KeysKnown::Always });
    }
    let registration_key_hashes = resolve_registration_keys(document, secrets, files)?;
    let pseudonym_key = resolve_pseudonym_key(document, secrets, files)?;
    Ok(ResolvedKeys { issuers, registration_key_hashes, pseudonym_key })
}

fn resolve_pseudonym_key(
    document: &PolicyDocument,
    secrets: &SecretsDirectory,
    files: &Files,
) -> Result<Option<PseudonymKey>, PolicyFault> {
    let Some(name) = document.audit.as_ref().and_then(|audit| audit.hash_key.as_ref()) else { return Ok(None) };
    let field = "audit.hash_key";
    let secret = secrets.read(name).map_err(|error| PolicyFault::of_secret(field, &error, files))?;
    PseudonymKey::new(secret).map(Some).map_err(|error| PolicyFault::of_secret(field, &error, files))
}

fn resolve_registration_keys(document: &PolicyDocument, secrets: &SecretsDirectory, files: &Files) -> Result<Vec<[u8; 32]>, PolicyFault> {
    let mut hashes: Vec<[u8; 32]> = Vec::with_capacity(document.registration_keys.len());
    for name in &document.registration_keys {
        let field = format!("registration_keys[{name}]");
        let secret = secrets.read(name).map_err(|error| PolicyFault::of_secret(&field, &error, files))?;
        if secret.len() < REGISTRATION_KEY_BYTES_MIN {
            let message = format!("{field}: the registration key is shorter than {REGISTRATION_KEY_BYTES_MIN} bytes");
            return Err(PolicyFault::located(message, files));
        }
        let hash = Sha256::digest(secret).into();
        if hashes.contains(&hash) {
            return Err(PolicyFault::located(format!("{field}: the same registration key under another name"), files));
        }
        hashes.push(hash);
    }
    Ok(hashes)
}

fn resolve_key(field: &str, key: &IssuerKey, secrets: &SecretsDirectory, files: &Files) -> Result<KeyMaterial, PolicyFault> {
    let text = secrets.read(&key.secret).map_err(|error| PolicyFault::of_secret(field, &error, files))?;
    let material = if key.algorithm == "HS256" || key.algorithm == "HS384" || key.algorithm == "HS512" {
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
    Ok(KeyMaterial { kid: Some(key.kid.clone()), algorithm: key.algorithm.clone(), material })
}
