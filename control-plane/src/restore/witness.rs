//! The checkpoints that were exported, held against a database that was restored.

use crate::audit::access::{self, Access};
use crate::audit::checkpoints::{Checkpoint, Standing, Told, TrustedKeys, digest};
use crate::audit::links::{BrokenLink, Links, lines};
use serde::Serialize;
use sqlx::PgConnection;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Why a file of checkpoints is no witness.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// It cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("`{}` has no checkpoint", path.display())]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// A line does not count.
    #[error("`{}`, line {line}", path.display())]
    Line {
        /// Which.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// Why.
        #[source]
        source: BrokenLink,
    },
}

/// Exported checkpoints, all signed and in order.
#[derive(Debug)]
pub struct Witness(Vec<(Checkpoint, String)>);

impl Witness {
    /// Reads the file. What was not written to its end is left out.
    ///
    /// # Errors
    /// A checkpoint is missing, or not signed by a trusted key.
    pub fn read(path: &Path, keys: &TrustedKeys) -> Result<Self, WitnessError> {
        let text = std::fs::read_to_string(path).map_err(|source| WitnessError::Read { path: path.to_owned(), source })?;
        let whole = text.rfind('\n').and_then(|end| text.get(..end)).unwrap_or_default();
        let mut links = Links::new(keys);
        let opened = lines(whole).into_iter().map(|(line, jws)| match links.open(&jws) {
            Ok(checkpoint) => Ok((checkpoint, jws)),
            Err(source) => Err(WitnessError::Line { path: path.to_owned(), line, source }),
        });
        let opened: Vec<(Checkpoint, String)> = opened.collect::<Result<_, _>>()?;
        if opened.is_empty() { Err(WitnessError::Empty { path: path.to_owned() }) } else { Ok(Self(opened)) }
    }

    /// Whether any of them is of this database.
    #[must_use]
    pub fn is_of(&self, database: Uuid) -> bool {
        self.0.iter().any(|(checkpoint, _)| checkpoint.database == database)
    }

    /// The number of the last one.
    #[must_use]
    pub fn newest(&self) -> i64 {
        self.0.last().map_or(0, |(checkpoint, _)| checkpoint.number)
    }

    /// How many the database has too, from the first on.
    #[must_use]
    pub fn common(&self, stored: &[String]) -> i64 {
        let same = self.0.iter().zip(stored).take_while(|((_, jws), stored)| digest(jws) == **stored).count();
        i64::try_from(same).unwrap_or(i64::MAX)
    }

    /// Those after the one with this number.
    #[must_use]
    pub fn after(&self, number: i64) -> &[(Checkpoint, String)] {
        let known = usize::try_from(number).unwrap_or(usize::MAX);
        self.0.get(known..).unwrap_or_default()
    }
}

/// The digests of the checkpoints that the database has, in their order.
///
/// # Errors
/// Postgres failed.
pub async fn stored(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    Access::Writer { envoy_id: "" }.enter(connection).await?;
    let rows: Vec<(String,)> =
        sqlx::query_as("SELECT encode(sha256(convert_to(jws, 'UTF8')), 'hex') FROM gateway_audit.checkpoints ORDER BY number")
            .fetch_all(&mut *connection)
            .await?;
    access::leave(connection).await?;
    Ok(rows.into_iter().map(|(digest,)| digest).collect())
}

/// Where every chain stands. All of them are to be told of in the next checkpoint, and are noted as told: one that begins or grows meanwhile
/// is not among them.
///
/// # Errors
/// Postgres failed.
pub async fn take_chains(connection: &mut PgConnection) -> Result<Vec<Standing>, sqlx::Error> {
    Access::Writer { envoy_id: "" }.enter(connection).await?;
    let mut rows: Vec<(Uuid, String, i64, i64, Vec<u8>)> = sqlx::query_as(
        "UPDATE gateway_audit.chains SET signed_sequence = sequence RETURNING holder, gateway_type, sequence, records, head",
    )
    .fetch_all(&mut *connection)
    .await?;
    access::leave(connection).await?;
    rows.sort_by(|one, other| (&one.1, one.0).cmp(&(&other.1, other.0)));
    let standing = |(holder, gateway, sequence, records, hash): (Uuid, String, i64, i64, Vec<u8>)| {
        Standing::new(holder, gateway, sequence, records, &hash)
    };
    Ok(rows.into_iter().map(standing).collect())
}

/// A chain of which records are lost that were signed for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// Its gateway.
    pub gateway: String,
    /// Its holder.
    pub holder: Uuid,
    /// The last place that is there; 0 if there is none.
    pub kept: i64,
    /// The last place that was signed for.
    pub signed: i64,
    /// How many records are missing.
    pub records: i64,
}

/// What the checkpoints that the backup did not have say of what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Chains that are shorter.
    pub lost: Vec<Lost>,
    /// Chains that are another at a place that was signed for, and that place.
    pub went_on: Vec<Standing>,
}

/// Holds the chains against checkpoints that the backup did not have.
///
/// # Errors
/// Postgres failed.
pub async fn compare(connection: &mut PgConnection, missing: &[(Checkpoint, String)], ends: &[Standing]) -> Result<Compared, sqlx::Error> {
    let ends: BTreeMap<(&str, Uuid), &Standing> = ends.iter().map(|end| ((end.gateway.as_str(), end.holder), end)).collect();
    let (mut newest, mut within) = (BTreeMap::<(&str, Uuid), &Standing>::new(), BTreeMap::<(&str, Uuid), &Standing>::new());
    for standing in missing.iter().flat_map(|(checkpoint, _)| standings(&checkpoint.told)) {
        let chain = (standing.gateway.as_str(), standing.holder);
        newest.insert(chain, standing);
        if ends.get(&chain).is_some_and(|end| standing.sequence <= end.sequence) {
            within.insert(chain, standing);
        }
    }
    let lost = newest.iter().filter_map(|(chain, signed)| {
        let (kept, records) = ends.get(chain).map_or((0, 0), |end| (end.sequence, end.records));
        let (gateway, holder) = (chain.0.to_owned(), chain.1);
        (signed.sequence > kept).then(|| Lost {
            gateway,
            holder,
            kept,
            signed: signed.sequence,
            records: signed.records.saturating_sub(records),
        })
    });
    Ok(Compared { lost: lost.collect(), went_on: differing(connection, &within.into_values().collect::<Vec<_>>()).await? })
}

/// Where chains stand by a checkpoint. A dropped partition tells of its own records alone.
fn standings(told: &Told) -> &[Standing] {
    match told {
        Told::Heads { heads } => heads,
        Told::Restored { ends, .. } => ends,
        Told::Dropped { .. } => &[],
    }
}

/// Those of these places at which the log has no record, or another one.
async fn differing(connection: &mut PgConnection, signed: &[&Standing]) -> Result<Vec<Standing>, sqlx::Error> {
    Access::Auditor.enter(connection).await?;
    let there: Vec<(i64,)> = sqlx::query_as(
        "SELECT ordinal FROM UNNEST($1::uuid[], $2::text[], $3::bigint[], $4::text[]) WITH ORDINALITY AS s (holder, gateway, sequence, hash, ordinal) \
         WHERE EXISTS (SELECT FROM gateway_audit_logs AS l WHERE l.holder = s.holder AND l.gateway_type = s.gateway \
             AND l.sequence = s.sequence AND encode(l.hash, 'hex') = s.hash)",
    )
    .bind(signed.iter().map(|standing| standing.holder).collect::<Vec<_>>())
    .bind(signed.iter().map(|standing| standing.gateway.as_str()).collect::<Vec<_>>())
    .bind(signed.iter().map(|standing| standing.sequence).collect::<Vec<_>>())
    .bind(signed.iter().map(|standing| standing.hash.as_str()).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    access::leave(connection).await?;
    let there: std::collections::BTreeSet<i64> = there.into_iter().map(|(ordinal,)| ordinal).collect();
    Ok(signed.iter().zip(1_i64..).filter(|(_, ordinal)| !there.contains(ordinal)).map(|(standing, _)| (*standing).clone()).collect())
}
