//! Checkpoints: where the chains stand, signed, and kept outside the database. Whoever changes rows and chains alike is found by them.
//!
//! Each is a JWS in compact form (RFC 7515, EdDSA by RFC 8037), so any JOSE library verifies one, and names the SHA-256 of the one before.

use super::access::Access;
use super::chain::{Hash, Head};
use crate::holders::HolderId;
use crate::restore::{self, Past};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_compact::{KeyPair, PublicKey, SecretKey, Signature};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use time::{Date, OffsetDateTime};
use uuid::Uuid;
use wire::hex::hex;

/// How often where the chains stand is signed.
pub const PERIOD_S: u64 = 10;

/// Why a key cannot be used. Never shows it.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the key in `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not a key of ours.
    #[error("`{}` has no Ed25519 {kind} key in PEM; `openssl genpkey -algorithm ed25519` makes a key, `openssl pkey -pubout` its public half", path.display())]
    NotEd25519 {
        /// Which.
        path: PathBuf,
        /// `private` or `public`.
        kind: &'static str,
    },
}

fn read(path: &Path) -> Result<String, KeyError> {
    std::fs::read_to_string(path).map_err(|source| KeyError::Read { path: path.to_owned(), source })
}

fn key_id(key: &PublicKey) -> String {
    let digest = Sha256::digest(key.as_slice());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// What signs.
pub struct SigningKey {
    pair: KeyPair,
    kid: String,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// From a PKCS #8 file in PEM.
    ///
    /// # Errors
    /// There is no Ed25519 key in it.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let secret =
            SecretKey::from_pem(&read(path)?).map_err(|_not_one| KeyError::NotEd25519 { path: path.to_owned(), kind: "private" })?;
        let pair = KeyPair { pk: secret.public_key(), sk: secret };
        Ok(Self { kid: key_id(&pair.pk), pair })
    }

    /// Its public half, in PEM.
    #[must_use]
    pub fn public_pem(&self) -> String {
        self.pair.pk.to_pem()
    }

    fn sign(&self, checkpoint: &Checkpoint) -> Result<String, serde_json::Error> {
        let header = serde_json::json!({"alg": "EdDSA", "kid": self.kid, "typ": TYPE}).to_string();
        let mut jws = URL_SAFE_NO_PAD.encode(header);
        jws.push('.');
        URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(checkpoint)?, &mut jws);
        let signature = self.pair.sk.sign(&jws, None);
        jws.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut jws);
        Ok(jws)
    }
}

/// No other kind of token passes for a checkpoint.
const TYPE: &str = "plant-gateway-audit-checkpoint+jws";

/// What checkpoints may be signed with.
#[derive(Clone, Debug, Default)]
pub struct TrustedKeys(BTreeMap<String, PublicKey>);

/// Why a text is no checkpoint that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCheckpoint {
    /// Not a JWS, or with another content.
    #[error("it is not a checkpoint")]
    Malformed,
    /// By somebody else.
    #[error("it is signed with a key that is not trusted here")]
    UnknownKey,
    /// Changed.
    #[error("its signature is not good")]
    Signature,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
}

impl TrustedKeys {
    /// From public keys in PEM.
    ///
    /// # Errors
    /// A file has none.
    pub fn read(paths: &[PathBuf]) -> Result<Self, KeyError> {
        let keys = paths.iter().map(|path| {
            let key = PublicKey::from_pem(&read(path)?).map_err(|_not_one| KeyError::NotEd25519 { path: path.clone(), kind: "public" })?;
            Ok((key_id(&key), key))
        });
        keys.collect::<Result<_, _>>().map(Self)
    }

    /// That of a key that signs here.
    #[must_use]
    pub fn of(key: &SigningKey) -> Self {
        Self(BTreeMap::from([(key.kid.clone(), key.pair.pk)]))
    }

    /// And that of a key that signs here.
    #[must_use]
    pub fn and(mut self, key: &SigningKey) -> Self {
        self.0.insert(key.kid.clone(), key.pair.pk);
        self
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Opens a checkpoint whose signature is good.
    ///
    /// # Errors
    /// It is not.
    pub fn open(&self, jws: &str) -> Result<Checkpoint, InvalidCheckpoint> {
        use InvalidCheckpoint::{Malformed, Signature as BadSignature, UnknownKey};
        let (signed, signature) = jws.rsplit_once('.').ok_or(Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_invalid| Malformed);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_invalid| Malformed)?;
        if header.alg != "EdDSA" || header.typ != TYPE {
            return Err(Malformed);
        }
        let key = self.0.get(&header.kid).ok_or(UnknownKey)?;
        let signature = Signature::from_slice(&decode(signature)?).map_err(|_invalid| Malformed)?;
        key.verify(signed, &signature).map_err(|_refused| BadSignature)?;
        serde_json::from_slice(&decode(payload)?).map_err(|_invalid| Malformed)
    }
}

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its number; the first is 1.
    pub number: i64,
    /// The database's id: a copy of the database is another.
    pub database: Uuid,
    /// The SHA-256 of the JWS before, in hexadecimal; absent in the first.
    pub previous: Option<String>,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub signed_at: OffsetDateTime,
    /// What it tells.
    #[serde(flatten)]
    pub told: Told,
}

/// What a checkpoint tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Told {
    /// Where chains stand that have grown.
    Heads {
        /// They.
        heads: Vec<Standing>,
    },
    /// What a partition ended with, that was dropped at the end of its time.
    Dropped {
        /// The gateway.
        gateway: String,
        /// The day of arrival.
        day: Date,
        /// Where each chain stood at the end of the partition. `records` are those of the partition.
        ends: Vec<Standing>,
    },
    /// The database was restored from a backup, and somebody has said so. Number and hash of the last checkpoint before that are what it
    /// follows. From here on the database has another id.
    Restored {
        /// The last checkpoint that the backup had; 0 if it had none. Of what the later ones tell, what lies beyond `ends` is lost.
        kept: i64,
        /// Where every chain ends now; those that are not named are lost whole.
        ends: Vec<Standing>,
        /// Chains that are another than was signed for after `kept`, and where: they went on between the restore and the fence.
        went_on: Vec<Standing>,
    },
}

impl Told {
    /// As the table has it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Heads { .. } => "heads",
            Self::Dropped { .. } => "dropped",
            Self::Restored { .. } => "restored",
        }
    }

    /// What it is about, where the table can be asked for that.
    #[must_use]
    pub fn subject(&self) -> Option<String> {
        match self {
            Self::Heads { .. } | Self::Restored { .. } => None,
            Self::Dropped { gateway, day, .. } => Some(format!("{gateway} {day}")),
        }
    }
}

/// Where a chain stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its holder.
    pub holder: Uuid,
    /// Its gateway.
    pub gateway: String,
    /// The sequence number of its last record.
    pub sequence: i64,
    /// How many records it has.
    pub records: i64,
    /// The hash of its last record, in hexadecimal.
    pub hash: String,
}

impl Standing {
    /// Of a chain.
    #[must_use]
    pub fn new(holder: Uuid, gateway: String, sequence: i64, records: i64, hash: &[u8]) -> Self {
        Self { holder, gateway, sequence, records, hash: hex(hash) }
    }

    /// Whose chain it is, and where it stands.
    #[must_use]
    pub fn head(&self) -> Option<(HolderId, Head)> {
        let hash = Hash::try_from(unhex(&self.hash)?).ok()?;
        Some((HolderId(self.holder), Head { sequence: self.sequence, records: self.records, hash }))
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    text.as_bytes().chunks(2).map(|pair| if let [high, low] = *pair { Some(digit(high)? << 4 | digit(low)?) } else { None }).collect()
}

/// The SHA-256 by which the next checkpoint names this one.
#[must_use]
pub fn digest(jws: &str) -> String {
    hex(&Sha256::digest(jws))
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// Postgres failed.
    #[error("database failure")]
    Database(#[from] sqlx::Error),
    /// It cannot be written as JSON.
    #[error("a checkpoint cannot be written")]
    Json(#[from] serde_json::Error),
    /// Nothing is signed over a restored past.
    #[error("the control plane is fenced")]
    Fenced,
}

/// The last checkpoint, as the database has it.
#[derive(sqlx::FromRow)]
pub(crate) struct Last {
    number: i64,
    jws: String,
    recent: bool,
}

/// Signs where the chains stand, unless that was done a moment ago, by whichever replica, or nothing has changed. Says the number.
///
/// # Errors
/// Nothing was signed.
pub async fn sign_heads(database: &PgPool, key: &SigningKey) -> Result<Option<i64>, SigningError> {
    let mut transaction = Access::Writer { envoy_id: "" }.begin(database).await?;
    let last = lock_unfenced(&mut transaction).await?;
    if last.as_ref().is_some_and(|last| last.recent) {
        return Ok(None);
    }
    // By what was told of each, not by time: no clock, and no delay, leaves one out. Those that grow at this moment are told the next time.
    let rows: Vec<(Uuid, String, i64, i64, Vec<u8>)> = sqlx::query_as(
        "WITH grown AS (SELECT holder, gateway_type FROM gateway_audit.chains WHERE sequence > signed_sequence \
             ORDER BY gateway_type, holder FOR UPDATE SKIP LOCKED) \
         UPDATE gateway_audit.chains AS c SET signed_sequence = c.sequence FROM grown \
         WHERE c.holder = grown.holder AND c.gateway_type = grown.gateway_type \
         RETURNING c.holder, c.gateway_type, c.sequence, c.records, c.head",
    )
    .fetch_all(&mut *transaction)
    .await?;
    let heads: Vec<Standing> = rows
        .into_iter()
        .map(|(holder, gateway, sequence, records, hash)| Standing::new(holder, gateway, sequence, records, &hash))
        .collect();
    if heads.is_empty() {
        return Ok(None);
    }
    let number = append(&mut transaction, key, last, Told::Heads { heads }).await?;
    transaction.commit().await?;
    Ok(Some(number))
}

async fn lock_unfenced(connection: &mut PgConnection) -> Result<Option<Last>, SigningError> {
    let last = lock_last(connection).await?;
    match restore::past(connection).await? {
        Past::Fenced => Err(SigningError::Fenced),
        Past::Whole | Past::Recovered { .. } => Ok(last),
    }
}

/// Locks out whoever else signs, until the transaction ends.
pub(crate) async fn lock_last(connection: &mut PgConnection) -> Result<Option<Last>, sqlx::Error> {
    lock_signing(connection).await?;
    sqlx::query_as(
        "SELECT number, jws, kind = 'heads' AND signed_at <= clock_timestamp() AND signed_at > clock_timestamp() - make_interval(secs => $1) AS recent \
         FROM gateway_audit.checkpoints ORDER BY number DESC LIMIT 1",
    )
    .bind(f64::from(u32::try_from(PERIOD_S).unwrap_or(u32::MAX)) * 0.9)
    .fetch_optional(connection)
    .await
}

/// Waits for whoever signs, and keeps others from it.
pub(crate) async fn lock_signing(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock(7411160214)").execute(connection).await.map(|_locked| ())
}

/// Signs. The caller has locked the last one, and is the writer.
pub(crate) async fn append(connection: &mut PgConnection, key: &SigningKey, last: Option<Last>, told: Told) -> Result<i64, SigningError> {
    let (database, signed_at): (Uuid, OffsetDateTime) =
        sqlx::query_as("SELECT id, clock_timestamp() FROM gateway_database").fetch_one(&mut *connection).await?;
    let number = last.as_ref().map_or(0, |last| last.number).saturating_add(1);
    let checkpoint = Checkpoint { number, database, previous: last.map(|last| digest(&last.jws)), signed_at, told };
    insert(connection, &checkpoint, &key.sign(&checkpoint)?).await?;
    Ok(number)
}

/// Adds a checkpoint to the table.
pub(crate) async fn insert(connection: &mut PgConnection, checkpoint: &Checkpoint, jws: &str) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO gateway_audit.checkpoints (number, kind, subject, signed_at, jws) VALUES ($1, $2, $3, $4, $5)")
        .bind(checkpoint.number)
        .bind(checkpoint.told.kind())
        .bind(checkpoint.told.subject())
        .bind(checkpoint.signed_at)
        .bind(jws)
        .execute(connection)
        .await
        .map(|_inserted| ())
}

/// Drops one partition that is older than is kept and under no hold, and signs what it ended with. `None` when there is none left.
///
/// # Errors
/// Nothing was dropped. Where somebody reads the partition for longer than a second, it is tried again the next time.
pub async fn drop_one(database: &PgPool, key: &SigningKey) -> Result<Option<(String, Date)>, SigningError> {
    let mut transaction = Access::Writer { envoy_id: "" }.begin(database).await?;
    let last = lock_unfenced(&mut transaction).await?;
    Access::Owner.enter(&mut transaction).await?;
    let due: Option<(String, Date)> = sqlx::query_as(
        "SELECT p.gateway_type, p.day FROM gateway_audit.partitions AS p JOIN gateway_audit.retention AS r USING (gateway_type) \
         WHERE p.dropped_at IS NULL AND p.summed_up_at IS NOT NULL AND p.day + r.days < (now() AT TIME ZONE 'UTC')::date \
             AND NOT EXISTS (SELECT FROM gateway_audit.partitions AS o \
                 WHERE o.gateway_type = p.gateway_type AND o.day < p.day AND o.dropped_at IS NULL) \
             AND NOT EXISTS (SELECT FROM gateway_audit.holds AS h WHERE h.released_at IS NULL \
                 AND (h.gateway_type IS NULL OR h.gateway_type = p.gateway_type)) \
         ORDER BY p.day, p.gateway_type LIMIT 1",
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some((gateway, day)) = due else { return Ok(None) };
    let rows: Vec<(Uuid, i64, i64, Vec<u8>)> = sqlx::query_as(
        "SELECT DISTINCT ON (holder) holder, sequence, count(*) OVER (PARTITION BY holder), hash FROM gateway_audit_logs \
         WHERE gateway_type = $1 AND received_at >= $2::timestamp AT TIME ZONE 'UTC' \
             AND received_at < ($2::date + 1)::timestamp AT TIME ZONE 'UTC' \
         ORDER BY holder, sequence DESC",
    )
    .bind(&gateway)
    .bind(day)
    .fetch_all(&mut *transaction)
    .await?;
    let ends = rows.into_iter().map(|(holder, sequence, records, hash)| Standing::new(holder, gateway.clone(), sequence, records, &hash));
    let told = Told::Dropped { gateway: gateway.clone(), day, ends: ends.collect() };
    Access::Writer { envoy_id: "" }.enter(&mut transaction).await?;
    append(&mut transaction, key, last, told).await?;
    Access::Owner.enter(&mut transaction).await?;
    // Batches wait while the drop waits for readers.
    sqlx::query("SELECT set_config('lock_timeout', '1s', true)").execute(&mut *transaction).await?;
    sqlx::query("SELECT gateway_audit.drop_partition($1, $2)").bind(&gateway).bind(day).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(Some((gateway, day)))
}

/// What signs, and where to.
#[derive(Debug)]
pub struct Signing {
    /// The key.
    pub key: SigningKey,
    /// Where checkpoints are exported to.
    pub file: Option<PathBuf>,
}
