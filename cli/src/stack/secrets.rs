//! What must be secret in a stack, made fresh on every run. The secrets directory gets only what verifies; what signs goes to `state.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jwt_simple::algorithms::Ed25519KeyPair;
use sha2::{Digest, Sha256};
use wire::hex::hex;

use super::error::StackError;
use super::run_dir::{fresh_folder, write_private};
use crate::issuer::{Algorithm, Blueprint, IssuerState, random_secret};
use crate::token::{TokenSpec, mint};

/// The name of the stack's Envoy.
pub(crate) const ENVOY_ID: &str = "envoy-1";
/// The name of a second one.
pub(crate) const SECOND_ENVOY_ID: &str = "envoy-2";

const ADMIN_TOKEN_SECONDS: i64 = 12 * 3600;

/// Names and key ids are those of `policies/issuers.yaml`.
const ISSUERS: [(&str, Blueprint); 5] = [
    ("cp", blueprint("cp.waooaw.com", Algorithm::RS256, "cp-1", Some("plant-gateway-cp"))),
    ("pp", blueprint("pp.waooaw.com", Algorithm::ES256, "pp-1", Some("plant-gateway-pp"))),
    ("edge", blueprint("edge.waooaw.com", Algorithm::EdDSA, "edge-1", Some("plant-gateway"))),
    ("legacy", blueprint("waooaw.com", Algorithm::HS256, "legacy-1", None)),
    ("ops", blueprint("ops.waooaw.com", Algorithm::ES256, "ops-1", Some("plant-gateway-admin"))),
];

const fn blueprint(issuer: &'static str, algorithm: Algorithm, kid: &'static str, audience: Option<&'static str>) -> Blueprint {
    Blueprint { issuer, algorithm, kid, audience }
}

/// Whether a local stack has an issuer of this name with this `iss`.
pub(crate) fn is_local_issuer(name: &str, iss: &str) -> bool {
    ISSUERS.iter().any(|(known, blueprint)| *known == name && blueprint.issuer == iss)
}

/// All secrets of one run.
#[derive(Debug)]
pub(crate) struct Secrets {
    pub(crate) issuers: BTreeMap<String, IssuerState>,
    pub(crate) registration_key: String,
    pub(crate) data_plane_token: String,
    pub(crate) second_data_plane_token: String,
    pub(crate) postgres_password: String,
    pub(crate) postgres_admin_password: String,
    pub(crate) valkey_password: String,
    pub(crate) admin_token: String,
    pub(crate) folder: PathBuf,
    pub(crate) data_plane_tokens: PathBuf,
    /// What signs the audit log, and its public half. Not in the folder: policies cannot name it.
    pub(crate) audit_signing_key: PathBuf,
    pub(crate) audit_key: PathBuf,
}

impl Secrets {
    /// Makes them and writes what others have to read into this directory.
    pub(crate) fn make(directory: &Path) -> Result<Self, StackError> {
        let folder = fresh_folder(&directory.join("secrets"), 0o700)?;
        let random = || random_secret().map_err(StackError::Random);
        let run = uuid::Uuid::new_v4().to_string();
        let mut issuers = BTreeMap::new();
        for (name, blueprint) in ISSUERS {
            let made = blueprint.generate(&run)?;
            write_private(&folder.join(&made.file), made.content.as_bytes())?;
            issuers.insert(name.to_owned(), made.state);
        }
        let registration_key = random()?;
        write_private(&folder.join("cp-registration.secret"), registration_key.as_bytes())?;
        let (data_plane_token, second_data_plane_token) = (random()?, random()?);
        let data_plane_tokens = directory.join("data-plane-tokens");
        let line = |id: &str, token: &str| format!("{id} {}\n", hex(&Sha256::digest(token.as_bytes())));
        let lines = [line(ENVOY_ID, &data_plane_token), line(SECOND_ENVOY_ID, &second_data_plane_token)];
        write_private(&data_plane_tokens, lines.concat().as_bytes())?;
        let audit = Ed25519KeyPair::generate();
        let (audit_signing_key, audit_key) = (directory.join("audit-signing.pem"), directory.join("audit-signing.public.pem"));
        write_private(&audit_signing_key, audit.to_pem().as_bytes())?;
        write_private(&audit_key, audit.public_key().to_pem().as_bytes())?;
        let admin_token = admin_token(&issuers)?;
        Ok(Self {
            issuers,
            registration_key,
            data_plane_token,
            second_data_plane_token,
            postgres_password: random()?,
            postgres_admin_password: random()?,
            valkey_password: random()?,
            admin_token,
            folder,
            data_plane_tokens,
            audit_signing_key,
            audit_key,
        })
    }
}

/// A token of an operator who may do everything, for 12 hours.
pub(crate) fn admin_token(issuers: &BTreeMap<String, IssuerState>) -> Result<String, StackError> {
    issuers.get("ops").map_or_else(|| Ok(String::new()), |ops| mint(ops, &operator()).map_err(StackError::AdminToken))
}

fn operator() -> TokenSpec {
    let mut spec = TokenSpec::new("operator", &["admin"]).governor("governor-1").lasting(ADMIN_TOKEN_SECONDS);
    spec.user_id = Some("operator".to_owned());
    spec
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn verifiers_are_private_files_and_signers_are_no_files() {
        let home = tempfile::tempdir().unwrap();
        let secrets = Secrets::make(home.path()).unwrap();
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&secrets.folder).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
            assert!(!std::fs::read_to_string(&path).unwrap().contains("PRIVATE KEY"), "{}", path.display());
            names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
        names.sort();
        let expected =
            ["cp-1.public.pem", "cp-registration.secret", "edge-1.public.pem", "legacy-1.secret", "ops-1.public.pem", "pp-1.public.pem"];
        assert_eq!(names, expected);
        assert_eq!(secrets.folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let tokens = std::fs::read_to_string(&secrets.data_plane_tokens).unwrap();
        assert!(tokens.starts_with("envoy-1 ") && !tokens.contains(&secrets.data_plane_token));
    }
}
