//! The policies directory: read at start, and published when it changed since it was last read.

use crate::admin_events::Actor;
use crate::policies::store::{self, Origin, Switch};
use crate::policies::{Files, PolicyFault};
use crate::problem::ApiError;
use crate::revocations::store::left_behind;
use sqlx::PgPool;

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
    let activation = store::revision_activate(&mut transaction, Switch::to(revision), actor, reason).await?;
    transaction.commit().await?;
    tracing::info!(%revision, %activation, "published and activated the policies directory");
    Ok(Publication::Activated)
}
