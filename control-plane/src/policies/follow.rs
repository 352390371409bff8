//! Keeps the policy in force up to date in this process: what was activated anywhere, and secrets that changed.

use crate::app::AppState;
use crate::keys;
use crate::policies::compile::{CustomRules, Published, resolve, shadow_policy};
use crate::policies::rule_names;
use crate::policies::store::{self, InForce};
use crate::policies::{ActivePolicy, Files, PolicyFault};
use crate::problem::ApiError;
use crate::secrets::SecretsDirectory;
use authoring::rules::Gate;
use decision_core::causes::chain;
use sqlx::PgPool;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use wire::bundle::BundleVersion;

/// The floor under LISTEN/NOTIFY: a lost notification costs at most this.
const POLL: Duration = Duration::from_secs(1);

/// Secrets are read again after so many polls.
const POLLS_PER_SECRETS_READ: u32 = 3;

/// Why what is in force could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Nothing was ever activated.
    #[error("no policy was ever activated")]
    NothingActive,
    /// It does not compile here: a secret is missing, or this version reads policies differently.
    #[error("{0}")]
    Fault(PolicyFault),
    /// The database fails.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// The process is ending.
    #[error("the compiling task was stopped")]
    Stopped(#[source] tokio::task::JoinError),
}

impl From<LoadError> for ApiError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::NothingActive => Self::Unavailable { what: "no policy is active" },
            LoadError::Fault(fault) => Self::InvalidPolicy(Box::new(fault)),
            LoadError::Database(error) => Self::Database(error),
            LoadError::Stopped(error) => Self::internal("compiling a policy", error),
        }
    }
}

/// Compiles files as version `version` would be served. The key set of the result is `version`'s. They are read and their
/// custom rules examined by the gate first: whoever sent them must not hold up this process.
///
/// # Errors
/// The first thing that is wrong with them.
pub async fn compile_as(
    database: &PgPool,
    files: Files,
    secrets: SecretsDirectory,
    gate: Gate,
    version: BundleVersion,
) -> Result<ActivePolicy, LoadError> {
    let published = published(database).await?;
    blocking(move || {
        gate.read(&files)?;
        resolve(files, &secrets, &published)?.compile(version, CustomRules::Candidate(&gate))
    })
    .await
}

/// The key sets that issuers published, as they are kept. Their number is read first: a set that changes in between is
/// read again by whoever compares it.
async fn published(database: &PgPool) -> Result<Published, sqlx::Error> {
    let mut connection = database.acquire().await?;
    let changes = keys::store::changes(&mut connection).await?;
    Ok(Published { changes, sets: keys::store::sets(&mut *connection).await? })
}

/// Loads what is in force, unless it is what `current` is already.
///
/// # Errors
/// It does not load; whoever called keeps what it has.
pub async fn load_active(
    database: &PgPool,
    secrets: &SecretsDirectory,
    database_id: [u8; 16],
    current: Option<&ActivePolicy>,
) -> Result<Option<ActivePolicy>, LoadError> {
    let InForce { record, files, shadow, in_shadow } = store::activation_active(database).await?.ok_or(LoadError::NothingActive)?;
    let secrets = secrets.clone();
    let published = published(database).await?;
    let jwk_changes = published.changes;
    let resolved = blocking(move || resolve(files, &secrets, &published)).await?;
    let fingerprint = resolved.fingerprint(database_id);
    let key_set = match current {
        // A number is asked for when the keys change and not at every look, so that two replicas that see different
        // secrets for a moment do not outbid each other.
        Some(current) if current.keys_fingerprint == fingerprint => current.version.key_set,
        Some(_) | None => number(store::key_set_register(database, fingerprint).await?.0),
    };
    let version = BundleVersion {
        database_id,
        activation: number(record.activation.0),
        revision: number(record.revision.0),
        key_set,
        shadow: number(shadow),
    };
    if current.is_some_and(|current| current.version == version && current.jwk_changes == jwk_changes) {
        return Ok(None);
    }
    let beside = async |(revision, files)| blocking(move || shadow_policy(revision, files)).await;
    let shadow = match in_shadow {
        None => None,
        Some(shadow) => match beside(shadow).await {
            Ok(policy) => Some(policy),
            // It was good when its run began. What is in force must not wait for what is only looked at.
            Err(LoadError::Fault(fault)) => {
                tracing::error!(file = fault.file, line = fault.line, field = fault.field, error = %fault, "the revision in shadow cannot be loaded; it is left out");
                None
            }
            Err(error @ (LoadError::NothingActive | LoadError::Database(_) | LoadError::Stopped(_))) => return Err(error),
        },
    };
    blocking(move || resolved.beside(shadow).compile(version, CustomRules::Published)).await.map(Some)
}

/// Compiling takes milliseconds and secrets are files: neither belongs on an async thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, PolicyFault> + Send + 'static) -> Result<T, LoadError> {
    tokio::task::spawn_blocking(work).await.map_err(LoadError::Stopped)?.map_err(LoadError::Fault)
}

/// Identity columns start at 1.
fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

/// Loads what is in force and switches to it, never backwards.
///
/// # Errors
/// It does not load. What was in force here stays, and `/ready` tells why.
pub async fn refresh(state: &AppState) -> Result<(), LoadError> {
    let current = state.policy();
    let secrets = SecretsDirectory::new(&state.settings.secrets_dir);
    match load_active(&state.database, &secrets, current.version.database_id, Some(&current)).await {
        Ok(loaded) => {
            if let Some(loaded) = loaded {
                switch_to(state, loaded);
                // The switch holds without it, and the next one notes them too.
                if let Err(error) = rule_names::note(&state.database, &state.policy()).await {
                    tracing::warn!(error = %chain(&error), "the ages of rules were not noted");
                }
            }
            report(state, None);
            Ok(())
        }
        Err(LoadError::Fault(fault)) => {
            report(state, Some(fault.clone()));
            Err(LoadError::Fault(fault))
        }
        Err(error @ (LoadError::NothingActive | LoadError::Database(_) | LoadError::Stopped(_))) => Err(error),
    }
}

fn switch_to(state: &AppState, loaded: ActivePolicy) {
    let version = loaded.version;
    let switched = state.active.send_if_modified(|current| {
        let newer = version.supersedes(&current.version);
        // The same keys in other words: nothing to switch to, only to remember what was read.
        let reread = version == current.version && loaded.jwk_changes != current.jwk_changes;
        if newer || reread {
            *current = Arc::new(loaded);
        }
        newer
    });
    if switched {
        let BundleVersion { database_id: _, activation, revision, key_set, shadow } = version;
        tracing::info!(activation, revision, key_set, shadow, "switched policy");
        state.metrics.policy_in_force(&version);
    }
}

/// Keeps the fault where `/ready` and the metrics find it; logs it once, not every second.
fn report(state: &AppState, fault: Option<PolicyFault>) {
    if let Some(fault) = &fault {
        state.metrics.policy_load_failures.inc();
        if state.policy_faults.borrow().activation.as_ref() != Some(fault) {
            tracing::error!(file = fault.file, line = fault.line, field = fault.field, error = %fault, "the activated policy cannot be loaded; the last good one stays");
        }
    }
    state.policy_faults.send_if_modified(|faults| {
        let changed = faults.activation != fault;
        faults.activation = fault;
        changed
    });
    state.metrics.policy_fault.set(i64::from(!state.policy_faults.borrow().is_empty()));
}

/// Follows activations, secrets and key sets until dropped. `woken` says that something may have changed.
pub async fn run(state: &AppState, woken: &Notify) {
    let mut polls = 0_u32;
    loop {
        // Either ends the wait; a missed notification is made up for by the next poll.
        let _ = tokio::time::timeout(POLL, woken.notified()).await;
        polls = polls.wrapping_add(1);
        if let Err(error) = poll_once(state, polls.is_multiple_of(POLLS_PER_SECRETS_READ)).await {
            tracing::debug!(error = %chain(&error), "policy not refreshed");
        }
    }
}

async fn poll_once(state: &AppState, secrets_due: bool) -> Result<(), LoadError> {
    let mut connection = state.database.acquire().await?;
    let (activation, shadow) = store::newest(&mut connection).await?;
    let jwk_changes = keys::store::changes(&mut connection).await?;
    drop(connection);
    let current = state.policy();
    let newer = number(activation) > current.version.activation || number(shadow) > current.version.shadow;
    if newer || secrets_due || jwk_changes != current.jwk_changes { refresh(state).await } else { Ok(()) }
}
