//! Who enforces what was revoked: what workers report in their sync calls, compared with the latest number.

use crate::holders::SILENCE_MAX;
use serde::Serialize;
use sqlx::{FromRow, PgPool};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// The most workers that are listed by name.
const LAGGING_MAX: usize = 100;

/// How far the workers are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Enforcement {
    /// The number of the latest change.
    pub number: i64,
    /// Workers that have had a request and reported within the last minute.
    pub workers: usize,
    /// Those of them that enforce everything up to the number.
    pub enforcing: usize,
    /// The others; at most 100.
    pub lagging: Vec<Lagging>,
}

/// A worker that is behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Lagging {
    /// The worker.
    pub holder: uuid::Uuid,
    /// Its Envoy.
    pub envoy_id: String,
    /// The last number that it said it enforces.
    pub revocation: i64,
    /// When it said so.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub last_seen_at: OffsetDateTime,
}

/// How far the workers are that were heard of lately.
pub async fn enforcement(database: &PgPool) -> Result<Enforcement, sqlx::Error> {
    let number = super::store::number(database).await?;
    let workers: Vec<Lagging> = sqlx::query_as(
        "SELECT holder, envoy_id, revocation, last_seen_at FROM holders WHERE closed_at IS NULL \
         AND last_seen_at > now() - make_interval(secs => $1) ORDER BY revocation, holder",
    )
    .bind(SILENCE_MAX.as_secs_f64())
    .fetch_all(database)
    .await?;
    let all = workers.len();
    let mut lagging: Vec<Lagging> = workers.into_iter().filter(|worker| worker.revocation < number).collect();
    let enforcing = all.saturating_sub(lagging.len());
    lagging.truncate(LAGGING_MAX);
    Ok(Enforcement { number, workers: all, enforcing, lagging })
}
