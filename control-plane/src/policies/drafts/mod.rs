//! Drafts: policies that are being written. They may be changed and may be invalid; nothing serves them.
//!
//! Every change names the version that it is based on, so that nobody overwrites what another wrote meanwhile.

pub mod http;
pub mod store;

use crate::policies::{Files, Revision};
use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use std::fmt;
use time::OffsetDateTime;
use utoipa::ToSchema;

/// The number of a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct DraftId(pub i64);

impl fmt::Display for DraftId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// How often a draft was changed, its creation included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct DraftVersion(pub i64);

impl fmt::Display for DraftVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A draft without its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct DraftSummary {
    /// Its number.
    pub id: DraftId,
    /// What its author calls it.
    pub name: String,
    /// The revision that was in force, or was named, when it was begun.
    pub base_revision: Revision,
    /// Rises with every change; the `ETag`.
    pub version: DraftVersion,
    /// Who began it: issuer name.
    pub created_issuer: String,
    /// Who began it: subject.
    pub created_by: String,
    /// When it was begun.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// Who changed it last: issuer name.
    pub author_issuer: String,
    /// Who changed it last: subject.
    pub author: String,
    /// Why.
    pub reason: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: OffsetDateTime,
}

/// A draft with its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Draft {
    /// Everything but the files.
    #[serde(flatten)]
    pub summary: DraftSummary,
    /// File names to texts.
    pub files: Files,
}
