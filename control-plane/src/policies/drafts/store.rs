//! Drafts in Postgres. A change is carried out only on the version that it is based on.

use super::{Draft, DraftId, DraftSummary, DraftVersion};
use crate::admin_events::{self, Actor, AdminEvent};
use crate::policies::store::content_sha256;
use crate::policies::{Files, Revision};
use crate::problem::ApiError;
use serde_json::json;
use sqlx::types::Json;
use sqlx::{FromRow, PgPool, Postgres, Transaction};
use time::format_description::well_known::Rfc3339;
use wire::hex::hex;

/// The most drafts at a time.
pub const DRAFTS_MAX: i64 = 100;

/// A draft as it is begun.
#[derive(Clone, Copy, Debug)]
pub struct NewDraft<'a> {
    /// What its author calls it.
    pub name: &'a str,
    /// The revision that it goes out from.
    pub base_revision: Revision,
    /// File names to texts.
    pub files: &'a Files,
}

#[derive(FromRow)]
struct Row {
    #[sqlx(flatten)]
    summary: DraftSummary,
    files: Json<Files>,
}

impl From<Row> for Draft {
    fn from(row: Row) -> Self {
        Self { summary: row.summary, files: row.files.0 }
    }
}

/// Columns of [`DraftSummary`].
macro_rules! drafts {
    ($before:literal, $more:literal, $after:literal) => {
        concat!(
            $before,
            " id, name, base_revision, version, created_issuer, created_by, created_at, author_issuer, author, reason, updated_at",
            $more,
            " ",
            $after
        )
    };
}

/// Begins a draft, if there is room for another.
pub async fn create(
    transaction: &mut Transaction<'_, Postgres>,
    draft: NewDraft<'_>,
    actor: Actor<'_>,
    reason: &str,
) -> Result<DraftSummary, ApiError> {
    // Two that begin the last draft at once must not both find room.
    sqlx::query("LOCK TABLE policy_drafts IN SHARE ROW EXCLUSIVE MODE").execute(&mut **transaction).await?;
    let (drafts,): (i64,) = sqlx::query_as("SELECT count(*) FROM policy_drafts").fetch_one(&mut **transaction).await?;
    if drafts >= DRAFTS_MAX {
        return Err(ApiError::conflict("there are 100 drafts already; publish or delete one"));
    }
    let summary: DraftSummary = sqlx::query_as(drafts!(
        "INSERT INTO policy_drafts (name, base_revision, files, created_issuer, created_by, author_issuer, author, reason) \
         VALUES ($1, $2, $3, $4, $5, $4, $5, $6) RETURNING",
        "",
        ""
    ))
    .bind(draft.name)
    .bind(draft.base_revision)
    .bind(Json(draft.files))
    .bind(actor.issuer)
    .bind(actor.subject)
    .bind(reason)
    .fetch_one(&mut **transaction)
    .await?;
    record(transaction, "policy.draft.create", &summary, draft.files, actor, reason).await?;
    Ok(summary)
}

/// Replaces the files.
pub async fn save(
    transaction: &mut Transaction<'_, Postgres>,
    id: DraftId,
    expected: DraftVersion,
    files: &Files,
    actor: Actor<'_>,
    reason: &str,
) -> Result<DraftSummary, ApiError> {
    let saved: Option<DraftSummary> = sqlx::query_as(drafts!(
        "UPDATE policy_drafts SET files = $3, version = version + 1, author_issuer = $4, author = $5, reason = $6, updated_at = now() \
         WHERE id = $1 AND version = $2 RETURNING",
        "",
        ""
    ))
    .bind(id)
    .bind(expected)
    .bind(Json(files))
    .bind(actor.issuer)
    .bind(actor.subject)
    .bind(reason)
    .fetch_optional(&mut **transaction)
    .await?;
    let Some(saved) = saved else { return Err(passed_by(transaction, id).await?) };
    record(transaction, "policy.draft.save", &saved, files, actor, reason).await?;
    Ok(saved)
}

/// How a draft ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was given up.
    Deleted,
    /// It became this revision.
    Published(Revision),
}

/// Removes a draft. What it became, and that it was, stays in the admin events.
pub async fn end(
    transaction: &mut Transaction<'_, Postgres>,
    id: DraftId,
    expected: DraftVersion,
    end: End,
    actor: Actor<'_>,
    reason: &str,
) -> Result<(), ApiError> {
    let ended: Option<(String,)> = sqlx::query_as("DELETE FROM policy_drafts WHERE id = $1 AND version = $2 RETURNING name")
        .bind(id)
        .bind(expected)
        .fetch_optional(&mut **transaction)
        .await?;
    let Some((name,)) = ended else { return Err(passed_by(transaction, id).await?) };
    let (action, revision) = match end {
        End::Deleted => ("policy.draft.delete", None),
        End::Published(revision) => ("policy.draft.publish", Some(revision)),
    };
    let target = id.to_string();
    let detail = json!({ "name": name, "version": expected, "revision": revision });
    admin_events::record(transaction, actor, AdminEvent { action, target: &target, reason, detail }).await?;
    Ok(())
}

/// Why a change of a version was not carried out: the draft is gone, or somebody was first.
async fn passed_by(transaction: &mut Transaction<'_, Postgres>, id: DraftId) -> Result<ApiError, sqlx::Error> {
    let newest: Option<DraftSummary> =
        sqlx::query_as(drafts!("SELECT", "", "FROM policy_drafts WHERE id = $1")).bind(id).fetch_optional(&mut **transaction).await?;
    Ok(newest.map_or_else(|| ApiError::not_found("draft", id), |newest| stale(&newest)))
}

/// The refusal of a change that is based on an older version.
#[must_use]
pub fn stale(newest: &DraftSummary) -> ApiError {
    let at = newest.updated_at.format(&Rfc3339).unwrap_or_default();
    let DraftSummary { version, author_issuer, author, .. } = newest;
    ApiError::PreconditionFailed {
        detail: format!("the draft is at version {version}: `{author}` of `{author_issuer}` changed it at {at}"),
    }
}

/// All drafts, newest change first.
pub async fn list(database: &PgPool) -> Result<Vec<DraftSummary>, sqlx::Error> {
    sqlx::query_as(drafts!("SELECT", "", "FROM policy_drafts ORDER BY updated_at DESC, id DESC")).fetch_all(database).await
}

/// One draft.
pub async fn find(database: &PgPool, id: DraftId) -> Result<Option<Draft>, sqlx::Error> {
    let row: Option<Row> =
        sqlx::query_as(drafts!("SELECT", ", files", "FROM policy_drafts WHERE id = $1")).bind(id).fetch_optional(database).await?;
    Ok(row.map(Draft::from))
}

async fn record(
    transaction: &mut Transaction<'_, Postgres>,
    action: &str,
    draft: &DraftSummary,
    files: &Files,
    actor: Actor<'_>,
    reason: &str,
) -> Result<(), sqlx::Error> {
    let target = draft.id.to_string();
    let detail = json!({
        "name": draft.name, "version": draft.version, "base_revision": draft.base_revision, "content_sha256": hex(&content_sha256(files)),
        "files": files.keys().collect::<Vec<_>>(),
    });
    admin_events::record(transaction, actor, AdminEvent { action, target: &target, reason, detail }).await
}
