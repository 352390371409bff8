//! `control-plane verify`: whether the audit log is what was written. Reads every record in the order of its chain, and holds it against
//! the chain and against what was signed. It asks Postgres alone: a control plane could be made to lie.

use super::access::Access;
use super::chain::{Entry, Hash, Hasher, Head};
use super::checkpoints::{Checkpoint, KeyError, Standing, Told, TrustedKeys};
use super::links::{BrokenLink, Links, lines};
use super::query::{StoredRecord, micros};
use crate::holders::HolderId;
use crate::stores::{Database, StoreError};
use clap::Parser;
use decision_core::gateway::Gateway;
use serde::Serialize;
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{ConnectOptions, Connection, PgConnection};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use time::OffsetDateTime;
use uuid::Uuid;

/// The name of the subcommand.
pub const COMMAND: &str = "verify";

/// How many records are read at once.
const PAGE: i64 = 5_000;
/// A record that came so long before a checkpoint was stored before it, whatever kept it.
const SIGNED_WITHIN: time::Duration = time::Duration::minutes(5);
/// How many findings are told. Each chain has one: what follows a bad record cannot be judged.
const FINDINGS_MAX: usize = 100;

/// Hold the audit log against its hash chains and signed checkpoints.
#[derive(Clone, Debug, Parser)]
#[command(name = "control-plane verify", no_binary_name = true)]
pub struct Arguments {
    #[command(flatten)]
    database: Database,
    /// A file of checkpoints that was kept outside the database. Without one, whoever can write the database can rewrite it whole.
    #[arg(long, value_name = "FILE", requires = "key")]
    checkpoints: Option<PathBuf>,
    /// A public key that checkpoints are signed with, in PEM; may be repeated.
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
}

/// What was read, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Records that were read.
    pub records: u64,
    /// Chains that they are in.
    pub chains: u64,
    /// Signed checkpoints that they were held against.
    pub checkpoints: u64,
    /// Restores of backups that were signed for: what is missing because of them is no finding.
    pub restores: u64,
    /// What is wrong: of each chain the first.
    pub findings: Vec<Finding>,
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The first record that is not, or the place where one is missing: its holder and its place in the holder's sequence. Absent where
    /// a checkpoint itself is bad.
    pub record: Option<String>,
    /// The gateway of its chain.
    pub gateway: Option<String>,
    /// What is wrong.
    pub wrong: Wrong,
    /// The number of the checkpoint that it does not agree with.
    pub checkpoint: Option<i64>,
    /// Up to this place in the holder's sequence the records are those that were signed for; absent where none was.
    pub good_up_to: Option<i64>,
}

/// In what way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrong {
    /// The record does not follow from the one before it: it was changed, or one before it was taken out or put in.
    Broken,
    /// Two records have one place.
    Repeated,
    /// The chain ends before its last record.
    CutOff,
    /// The chain has records after its last one, or none of it was ever signed for.
    Unaccounted,
    /// The chain is whole and is not the one that was signed.
    Forked,
    /// The checkpoint is not one, or not signed by a trusted key.
    BadCheckpoint,
    /// A checkpoint is missing, or does not follow from the one before it.
    CheckpointsBroken,
    /// The database has other checkpoints than were exported.
    CheckpointsForked,
}

/// Why the log could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is not said where the database is.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database fails.
    #[error("the database does not answer")]
    Database(#[from] sqlx::Error),
    /// Some of the log was dropped in its time.
    #[error("partitions were dropped: only with a key (--key) can it be told where the rest begins")]
    KeyNeeded,
    /// A key is not one.
    #[error("a key cannot be used")]
    Key(#[from] KeyError),
    /// The checkpoints cannot be read.
    #[error("cannot read `{}`", path.display())]
    Checkpoints {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Verifies as the command line says.
///
/// # Errors
/// Nothing can be said.
pub async fn run(arguments: &Arguments) -> Result<Report, VerifyError> {
    let keys = TrustedKeys::read(&arguments.key)?;
    let exported = match &arguments.checkpoints {
        Some(path) => {
            let failed = |source| VerifyError::Checkpoints { path: path.clone(), source };
            lines(&std::fs::read_to_string(path).map_err(failed)?).into_iter().map(|(_, jws)| jws).collect()
        }
        None => Vec::new(),
    };
    let options = arguments.database.options()?;
    let mut connection = options.application_name("plant-gateway-verify").connect().await?;
    verify(&mut connection, &exported, &keys).await
}

/// A chain: a holder's records of one gateway.
type Chain = (String, Uuid);

/// What was signed, in the form in which records are held against it.
#[derive(Debug, Default)]
struct Signed {
    /// By chain and sequence number: the hash, and by which checkpoint.
    anchors: BTreeMap<Chain, BTreeMap<i64, (Hash, i64)>>,
    /// Where the partitions that are gone have ended, and by which checkpoint.
    dropped: Vec<(i64, Chain, Head)>,
    /// When each was signed, by its number.
    signed_at: BTreeMap<i64, OffsetDateTime>,
    /// What a checkpoint is the first to tell of came after this one was signed, if any was.
    since: BTreeMap<i64, OffsetDateTime>,
    checkpoints: u64,
    restores: u64,
    findings: Vec<Finding>,
}

impl Signed {
    fn bad(&mut self, number: Option<i64>, wrong: Wrong) {
        self.findings.push(Finding { record: None, gateway: None, wrong, checkpoint: number, good_up_to: None });
    }

    /// Opens checkpoints in their order, each following the one before.
    fn read<'t>(&mut self, texts: impl Iterator<Item = &'t str>, keys: &TrustedKeys) {
        let mut links = Links::new(keys);
        for jws in texts.filter(|text| !text.is_empty()) {
            match links.open(jws) {
                Ok(checkpoint) => self.note(&checkpoint),
                Err(BrokenLink::Invalid { number, .. }) => return self.bad(number, Wrong::BadCheckpoint),
                Err(BrokenLink::OutOfOrder { number }) => return self.bad(Some(number), Wrong::CheckpointsBroken),
            }
        }
    }

    fn note(&mut self, checkpoint: &Checkpoint) {
        let number = checkpoint.number;
        self.checkpoints = self.checkpoints.saturating_add(1);
        let before = match &checkpoint.told {
            Told::Heads { heads } => {
                self.anchor(number, heads);
                number.saturating_sub(1)
            }
            Told::Dropped { ends, .. } => {
                self.anchor(number, ends);
                self.dropped.extend(ends.iter().filter_map(place).map(|(chain, head)| (number, chain, head)));
                number.saturating_sub(1)
            }
            Told::Restored { kept, ends, went_on } => {
                self.rewind(*kept, ends, went_on);
                self.anchor(number, ends);
                *kept
            }
        };
        self.since.extend(self.signed_at.get(&before).map(|at| (number, *at)));
        self.signed_at.insert(number, checkpoint.signed_at);
    }

    fn anchor(&mut self, number: i64, standings: &[Standing]) {
        for (chain, head) in standings.iter().filter_map(place) {
            self.anchors.entry(chain).or_default().entry(head.sequence).or_insert((head.hash, number));
        }
    }

    /// A backup was restored that had the checkpoints up to `kept`: what later ones tell of is lost where it lies beyond `ends`, and what
    /// was dropped later is there again. What `kept` and those before it tell stays: no restore explains that it is missing.
    fn rewind(&mut self, kept: i64, ends: &[Standing], went_on: &[Standing]) {
        self.restores = self.restores.saturating_add(1);
        let ends: BTreeMap<Chain, i64> = ends.iter().filter_map(place).map(|(chain, head)| (chain, head.sequence)).collect();
        let went_on: BTreeSet<Chain> = went_on.iter().filter_map(place).map(|(chain, _)| chain).collect();
        for (chain, anchors) in &mut self.anchors {
            let end = ends.get(chain).copied().filter(|_| !went_on.contains(chain)).unwrap_or(0);
            anchors.retain(|sequence, (_, by)| *by <= kept || *sequence <= end);
        }
        self.anchors.retain(|_, anchors| !anchors.is_empty());
        self.dropped.retain(|(by, ..)| *by <= kept);
    }

    /// Where what is left of each chain begins.
    fn beginnings(&self) -> BTreeMap<Chain, Head> {
        let mut beginnings: BTreeMap<Chain, Head> = BTreeMap::new();
        for (_, chain, head) in &self.dropped {
            let gone = beginnings.entry(chain.clone()).or_insert(Head { records: 0, ..*head });
            let records = gone.records.saturating_add(head.records);
            *gone = if head.sequence > gone.sequence { Head { records, ..*head } } else { Head { records, ..*gone } };
        }
        beginnings
    }
}

/// Whose chain it is, and where it stands.
fn place(standing: &Standing) -> Option<(Chain, Head)> {
    let (holder, head) = standing.head()?;
    Some(((standing.gateway.clone(), holder.0), head))
}

/// Verifies every record. `exported` are checkpoints that were kept elsewhere, in their order; without keys none counts.
///
/// # Errors
/// The database does not answer.
pub async fn verify(connection: &mut PgConnection, exported: &[String], keys: &TrustedKeys) -> Result<Report, VerifyError> {
    // One moment of everything: batches go on meanwhile.
    let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL enable_seqscan = off").await?;
    let report = examine(&mut transaction, exported, keys).await?;
    transaction.rollback().await?;
    Ok(report)
}

/// The same in a transaction that was begun.
///
/// # Errors
/// The database does not answer.
pub async fn examine(transaction: &mut PgConnection, exported: &[String], keys: &TrustedKeys) -> Result<Report, VerifyError> {
    Access::Auditor.enter(&mut *transaction).await?;
    let stored: Vec<(String,)> =
        sqlx::query_as("SELECT jws FROM gateway_audit.checkpoints ORDER BY number").fetch_all(&mut *transaction).await?;
    if keys.is_empty() && has_dropped(transaction).await? {
        return Err(VerifyError::KeyNeeded);
    }
    let mut signed = Signed::default();
    if !keys.is_empty() {
        // What is kept elsewhere counts; of the database's own only what came after it.
        let exported: Vec<&str> = exported.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
        if exported.iter().zip(&stored).any(|(exported, (stored,))| exported != stored) || stored.len() < exported.len() {
            signed.bad(None, Wrong::CheckpointsForked);
        }
        let later = stored.iter().skip(exported.len()).map(|(jws,)| jws.as_str());
        signed.read(exported.iter().copied().chain(later), keys);
    }
    let mut walk = Walk::new(signed, chains(&mut *transaction).await?);
    // One gateway after the other, in the order of the key: else each page would be sorted out of all records.
    for gateway in Gateway::ALL {
        let mut after = (Uuid::nil(), 0_i64, OffsetDateTime::UNIX_EPOCH);
        loop {
            let page: Vec<StoredRecord> = sqlx::query_as(
                "SELECT * FROM gateway_audit_logs WHERE gateway_type = $1 AND (holder, sequence, received_at) > ($2, $3, $4) \
                 ORDER BY holder, sequence, received_at LIMIT $5",
            )
            .bind(gateway.name())
            .bind(after.0)
            .bind(after.1)
            .bind(after.2)
            .bind(PAGE)
            .fetch_all(&mut *transaction)
            .await?;
            let Some(last) = page.last() else { break };
            after = (last.holder, last.sequence, last.received_at);
            page.iter().for_each(|record| walk.take(record));
        }
    }
    Ok(walk.end())
}

/// Whether partitions were dropped: then what is left begins where a signed checkpoint says.
async fn has_dropped(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let (dropped,): (bool,) =
        sqlx::query_as("SELECT EXISTS (SELECT FROM gateway_audit.checkpoints WHERE kind = 'dropped')").fetch_one(connection).await?;
    Ok(dropped)
}

/// Where the control plane has noted that the chains stand.
async fn chains(connection: &mut PgConnection) -> Result<BTreeMap<Chain, Head>, sqlx::Error> {
    let rows: Vec<(String, Uuid, i64, i64, Vec<u8>)> =
        sqlx::query_as("SELECT gateway_type, holder, sequence, records, head FROM gateway_audit.chains").fetch_all(connection).await?;
    let head = |(gateway, holder, sequence, records, hash)| {
        let hash = Hash::try_from(hash).unwrap_or_else(|_other: Vec<u8>| Hash::default());
        ((gateway, holder), Head { sequence, records, hash })
    };
    Ok(rows.into_iter().map(head).collect())
}

/// The walk along all chains.
#[derive(Debug)]
struct Walk {
    signed: Signed,
    /// Where what is left of each chain begins, if some of it was dropped in its time.
    beginnings: BTreeMap<Chain, Head>,
    noted: BTreeMap<Chain, Head>,
    seen: BTreeSet<Chain>,
    current: Option<Walked>,
    hasher: Hasher,
    report: Report,
}

/// A chain, as far as it was walked.
#[derive(Clone, Debug)]
struct Walked {
    chain: Chain,
    /// The place of the first record that is there.
    first: i64,
    head: Head,
    /// When the last record came.
    received_at: Option<OffsetDateTime>,
    judged: Judged,
}

/// Whether a chain has gone wrong already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    Good,
    Bad,
}

impl Walk {
    fn new(mut signed: Signed, noted: BTreeMap<Chain, Head>) -> Self {
        let findings = std::mem::take(&mut signed.findings);
        let report = Report { checkpoints: signed.checkpoints, restores: signed.restores, findings, ..Report::default() };
        let beginnings = signed.beginnings();
        Self { signed, beginnings, noted, seen: BTreeSet::new(), current: None, hasher: Hasher::default(), report }
    }

    fn find(&mut self, chain: &Chain, sequence: i64, wrong: Wrong, checkpoint: Option<i64>) {
        if self.report.findings.len() < FINDINGS_MAX {
            let (gateway, holder) = chain;
            let record = Some(format!("{holder}-{sequence}"));
            let signed = self.signed.anchors.get(chain).and_then(|anchors| anchors.range(..sequence).next_back());
            let good_up_to = signed.map(|(sequence, _)| *sequence);
            self.report.findings.push(Finding { record, gateway: Some(gateway.clone()), wrong, checkpoint, good_up_to });
        }
    }

    fn take(&mut self, record: &StoredRecord) {
        self.report.records = self.report.records.saturating_add(1);
        let walked = match self.current.take() {
            Some(walked) if walked.chain.1 == record.holder && walked.chain.0 == record.gateway_type => walked,
            other => {
                other.into_iter().for_each(|walked| self.close(&walked));
                self.begin((record.gateway_type.clone(), record.holder), record.sequence)
            }
        };
        let walked = match walked.judged {
            Judged::Bad => walked,
            Judged::Good => match self.judge(&walked, record) {
                Some(head) => Walked { head, received_at: Some(record.received_at), ..walked },
                None => Walked { judged: Judged::Bad, ..walked },
            },
        };
        self.current = Some(walked);
    }

    fn begin(&self, chain: Chain, first: i64) -> Walked {
        let start = self.beginnings.get(&chain).copied();
        let head = start.unwrap_or_else(|| Head::start(HolderId(chain.1), &chain.0));
        Walked { chain, first, head, received_at: None, judged: Judged::Good }
    }

    /// Where the chain stands with this record, if the record is good.
    fn judge(&mut self, walked: &Walked, record: &StoredRecord) -> Option<Head> {
        let Walked { chain, head, .. } = walked;
        if record.sequence <= head.sequence {
            self.find(chain, record.sequence, Wrong::Repeated, None);
            return None;
        }
        let hash = hash_of(&mut self.hasher, &head.hash, record);
        if hash.as_slice() != record.hash {
            self.find(chain, record.sequence, Wrong::Broken, None);
            return None;
        }
        // The first that was signed for, from the record before this one on: this one, or one that is not there.
        let anchors = self.signed.anchors.get(chain);
        let anchor = anchors.and_then(|anchors| anchors.range(head.sequence.saturating_add(1)..=record.sequence).next());
        if let Some((sequence, (signed, number))) = anchor.map(|(sequence, anchor)| (*sequence, *anchor))
            && (sequence, signed) != (record.sequence, hash)
        {
            self.find(chain, sequence, Wrong::Forked, Some(number));
            return None;
        }
        // It was signed for by the first checkpoint from it on, so it came after the one before that (or, by the record of a restore, after the
        // last one that the backup had): else it was put in later.
        let covering = anchors.and_then(|anchors| anchors.range(record.sequence..).next());
        let before = covering.and_then(|(_, (_, number))| self.signed.since.get(number));
        let too_old = before.is_some_and(|before| record.received_at < *before - SIGNED_WITHIN);
        if too_old || walked.received_at.is_some_and(|earlier| record.received_at < earlier) {
            let number = covering.map(|(_, (_, number))| *number);
            self.find(chain, record.sequence, Wrong::Unaccounted, number);
            return None;
        }
        Some(head.advanced(record.sequence, hash))
    }

    /// Holds the end of a chain against what was signed and what is noted.
    fn close(&mut self, walked: &Walked) {
        let Walked { chain, first, head, received_at, judged } = walked;
        self.report.chains = self.report.chains.saturating_add(1);
        self.seen.insert(chain.clone());
        if *judged == Judged::Bad {
            return;
        }
        let last_signed = self.signed.anchors.get(chain).and_then(|anchors| anchors.last_key_value());
        let (signed, number) = last_signed.map_or((0, None), |(sequence, (_, number))| (*sequence, Some(*number)));
        if signed > head.sequence {
            return self.find(chain, head.sequence.saturating_add(1), Wrong::CutOff, number);
        }
        // What came so long before the last checkpoint is in it.
        let covered = self.signed.signed_at.last_key_value().map(|(_, at)| *at - SIGNED_WITHIN);
        if signed < head.sequence && covered.zip(*received_at).is_some_and(|(covered, received)| received < covered) {
            return self.find(chain, signed.saturating_add(1).max(*first), Wrong::Unaccounted, None);
        }
        match self.noted.get(chain).copied() {
            Some(noted) if noted.sequence > head.sequence => self.find(chain, head.sequence.saturating_add(1), Wrong::CutOff, None),
            Some(noted) if noted == *head => {}
            Some(noted) => self.find(chain, noted.sequence.saturating_add(1), Wrong::Unaccounted, None),
            None => self.find(chain, *first, Wrong::Unaccounted, None),
        }
    }

    fn end(mut self) -> Report {
        let last = self.current.take();
        last.into_iter().for_each(|walked| self.close(&walked));
        // Chains without a record: gone, unless all of it was dropped in its time.
        let known: BTreeSet<Chain> = self.noted.keys().chain(self.signed.anchors.keys()).cloned().collect();
        let gone: Vec<Chain> = known.difference(&self.seen).cloned().collect();
        for chain in gone {
            let walked = self.begin(chain, 1);
            self.close(&walked);
        }
        self.report
    }
}

/// The hash of a stored record that follows the one with the hash `previous`.
pub fn hash_of(hasher: &mut Hasher, previous: &Hash, record: &StoredRecord) -> Hash {
    hasher.hash(previous, &Texts::of(record).entry(record))
}

/// The parts of a record that the table has in another form than its hash.
#[derive(Debug)]
struct Texts {
    roles: Option<String>,
    checks: String,
    charges: String,
    shadow: Option<String>,
    usage: Option<String>,
    query: Option<String>,
    request_headers: Option<String>,
    response_headers: Option<String>,
}

/// Roles as they were sent. A list that no such text is split into has a text that no record has.
fn joined(roles: &[String]) -> String {
    let text = roles.join(",");
    let split: Vec<&str> = if text.is_empty() { Vec::new() } else { text.split(',').collect() };
    if split == roles { text } else { format!("\0{text}") }
}

impl Texts {
    fn of(record: &StoredRecord) -> Self {
        let json = |value: &Option<Json<Value>>| value.as_ref().map(|value| value.0.to_string());
        Self {
            roles: record.roles.as_deref().map(joined),
            checks: record.checks.0.to_string(),
            charges: record.charges.0.to_string(),
            shadow: json(&record.shadow),
            usage: json(&record.usage),
            query: json(&record.query_params),
            request_headers: json(&record.request_headers),
            response_headers: json(&record.response_headers),
        }
    }

    fn entry<'a>(&'a self, record: &'a StoredRecord) -> Entry<'a> {
        Entry {
            holder: record.holder.into_bytes(),
            sequence: record.sequence,
            envoy_id: &record.envoy_id,
            received_at_us: micros(record.received_at),
            at_us: micros(record.timestamp),
            gateway: &record.gateway_type,
            stage: &record.stage,
            phase: &record.phase,
            correlation_id: &record.correlation_id,
            causation_id: record.causation_id.as_deref(),
            request_id: &record.request_id,
            method: record.http_method.as_deref(),
            path: record.endpoint.as_deref(),
            upgrade: record.upgrade.as_deref(),
            query: self.query.as_deref(),
            request_headers: self.request_headers.as_deref(),
            response_headers: self.response_headers.as_deref(),
            route: record.route.as_deref(),
            action: record.action.as_deref(),
            sampled_of: record.sampled_of,
            issuer: record.issuer.as_deref(),
            subject: record.subject.as_deref(),
            user_id: record.user_id.as_deref(),
            customer_id: record.customer_id.as_deref(),
            agent_id: record.agent_id.as_deref(),
            email: record.email.as_deref(),
            governor_agent_id: record.governor_agent_id.as_deref(),
            roles: self.roles.as_deref(),
            tier: record.tier.as_deref(),
            trial: record.trial_mode,
            trial_until_us: record.trial_until.map(micros),
            sandbox: record.sandbox,
            decision: &record.decision,
            reason: &record.reason,
            rule: record.rule.as_deref(),
            checks: &self.checks,
            shadow: self.shadow.as_deref(),
            charges: &self.charges,
            cost: record.cost.as_deref(),
            usage: self.usage.as_deref(),
            approval_id: record.approval_id.as_deref(),
            activation: record.activation,
            revision: record.revision,
            key_set: record.key_set,
            revocation: record.revocation,
            status: record.status_code,
            details: record.response_details.as_deref(),
            total_us: record.total_us,
            upstream_us: record.upstream_us,
            ours_us: record.ours_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(sequence: i64) -> Standing {
        Standing::new(Uuid::nil(), "CP".to_owned(), sequence, sequence, &[u8::try_from(sequence % 100).unwrap(); 32])
    }

    fn told(number: i64, told: Told) -> Checkpoint {
        let signed_at = OffsetDateTime::UNIX_EPOCH + time::Duration::hours(number);
        Checkpoint { number, database: Uuid::nil(), previous: None, signed_at, told }
    }

    #[test]
    fn a_restore_explains_what_came_after_the_backup_and_nothing_else() {
        let mut signed = Signed::default();
        let heads = |sequence| Told::Heads { heads: vec![standing(sequence)] };
        let dropped = |sequence| Told::Dropped { gateway: "CP".to_owned(), day: time::Date::MIN, ends: vec![standing(sequence)] };
        for (number, what) in (1..).zip([dropped(10), heads(50), heads(55), heads(70), dropped(40)]) {
            signed.note(&told(number, what));
        }
        signed.note(&told(6, Told::Restored { kept: 2, ends: vec![standing(60)], went_on: vec![] }));
        signed.note(&told(7, heads(80)));
        let chain = ("CP".to_owned(), Uuid::nil());
        let anchors: Vec<(i64, i64)> = signed.anchors[&chain].iter().map(|(sequence, (_, number))| (*sequence, *number)).collect();
        assert_eq!(anchors, [(10, 1), (40, 5), (50, 2), (55, 3), (60, 6), (80, 7)]);
        assert_eq!(signed.beginnings()[&chain].sequence, 10, "what was dropped after the backup is there again");
        let hours = |number: i64| (signed.since[&number] - OffsetDateTime::UNIX_EPOCH).whole_hours();
        assert_eq!((hours(3), hours(6), hours(7)), (2, 2, 6), "what was stored while nobody could sign came after the backup's last");
        let mut cut = Signed::default();
        for (number, what) in (1..).zip([heads(50), heads(70), Told::Restored { kept: 1, ends: vec![standing(45)], went_on: vec![] }]) {
            cut.note(&told(number, what));
        }
        assert!(cut.anchors[&chain].contains_key(&50), "that was in the backup, and no restore explains that it is gone");
    }
}
