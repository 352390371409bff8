//! The audit log: ingest of the holders' records, and queries. A record is never lost and never stops the next one:
//! what cannot be stored as it is goes to quarantine, with its bytes.

pub mod access;
pub mod chain;
pub mod checkpoints;
pub mod explain;
pub mod export;
pub mod forget;
pub mod hits;
pub mod http;
pub mod judgeable;
mod lines;
pub mod links;
pub mod own;
pub mod partitions;
pub mod publish;
pub mod query;
pub mod replay;
pub mod requests;
pub mod retention;
pub mod store;
pub mod trace;
pub mod verify;

use crate::holders::HolderId;
use chain::Entry;
use std::borrow::Cow;
use uuid::Uuid;
use wire::audit::{
    AuditRecord, Charge, Check, CheckOutcome, CostBasis, Decision, Mention, Mentions, Named, Outcome, Phase, ShadowNote, Stage, TokenUsage,
    Upgrade, User,
};
use wire::policy::Gateway;
use wire::sync::RecordBatch;

/// Longest value of an indexed column; longer index entries are refused by Postgres.
const INDEXED_MAX: usize = 1_024;
/// Longest value of any other column.
const TEXT_MAX: usize = 16 * 1_024;
/// More charges than a request has: each of its budgets once.
const CHARGES_MAX: usize = 256;
/// More checks than there are.
const CHECKS_MAX: usize = 64;
/// As many headers or parameters as a filter records.
const NAMED_MAX: usize = 64;
/// Records of a later time are taken for damaged ones (the year is 2112).
const MICROS_MAX: i64 = 1 << 52;

/// A record that is kept aside, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined<'a> {
    /// Its sequence number.
    pub sequence: i64,
    /// Its bytes, as they came.
    pub bytes: &'a [u8],
    /// Why.
    pub error: &'static str,
}

/// A record as the table takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    sequence: i64,
    bytes: &'a [u8],
    record: AuditRecord<'a>,
    request_id: String,
    checks: String,
    charges: String,
    usage: Option<String>,
    shadow: Option<String>,
    query: Option<String>,
    request_headers: Option<String>,
    response_headers: Option<String>,
    trial_until_us: Option<i64>,
    activation: i64,
    revision: i64,
    key_set: i64,
    revocation: i64,
    total_us: i64,
    upstream_us: Option<i64>,
    ours_us: Option<i64>,
}

/// Who reported a record, and when.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The holder.
    pub holder: HolderId,
    /// Its Envoy, as the token says.
    pub envoy_id: &'a str,
    /// When it arrived, microseconds since the epoch, by the database's clock.
    pub received_at_us: i64,
}

/// The records of a batch, sorted into those that can be stored and those that cannot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// For the log.
    pub rows: Vec<Row<'a>>,
    /// For the quarantine.
    pub quarantined: Vec<Quarantined<'a>>,
}

impl<'a> Decoded<'a> {
    /// Reads the records of `batch`, without the first `skipped`, which are stored already.
    #[must_use]
    pub fn from_batch(batch: &'a RecordBatch, first_sequence: i64, skipped: i64) -> Self {
        let mut decoded = Self::default();
        let mut mentions = Mentions::default();
        let mut rest = batch.bytes.as_slice();
        let mut sequence = first_sequence;
        for _ in 0..batch.count {
            let Some((bytes, after)) = take_record(rest) else {
                decoded.refuse(sequence, rest, "the batch is cut off");
                return decoded;
            };
            rest = after;
            // Later records may mention what a stored one has spelled out.
            let row = Row::read(sequence, bytes, &mut mentions);
            if sequence.saturating_sub(first_sequence) >= skipped {
                decoded.take(sequence, bytes, row);
            }
            sequence = sequence.saturating_add(1);
        }
        if !rest.is_empty() {
            decoded.refuse(sequence, rest, "the batch has a tail");
        }
        decoded
    }

    fn take(&mut self, sequence: i64, bytes: &'a [u8], row: Result<(Row<'a>, Cut), &'static str>) {
        match row {
            Ok((row, Cut::No)) => self.rows.push(row),
            Ok((row, Cut::Yes)) => {
                self.rows.push(row);
                self.refuse(sequence, bytes, "a value was too long and is cut in the log");
            }
            Err(error) => self.refuse(sequence, bytes, error),
        }
    }

    /// Puts aside what is older than a record that is stored. A chain only goes on, and no holder sends such records.
    fn refuse_up_to(&mut self, newest: i64) {
        let late = self.rows.partition_point(|row| row.sequence <= newest);
        let late = self.rows.drain(..late).map(|row| (row.sequence, row.bytes)).collect::<Vec<_>>();
        late.into_iter().for_each(|(sequence, bytes)| self.refuse(sequence, bytes, "a newer record is stored already"));
    }

    fn refuse(&mut self, sequence: i64, bytes: &'a [u8], error: &'static str) {
        self.quarantined.push(Quarantined { sequence, bytes, error });
    }
}

/// When the last request of a batch ended, microseconds since the epoch by its Envoy's clock; a holder queues records in that order.
fn told_until_us(batch: &RecordBatch) -> Option<i64> {
    let mut rest = batch.bytes.as_slice();
    let mut last = None;
    while let Some((bytes, after)) = take_record(rest) {
        (last, rest) = (Some(bytes), after);
    }
    let (record, _rest) = postcard::take_from_bytes::<AuditRecord<'_>>(last?).ok()?;
    record.at_us.checked_add(i64::try_from(record.total_us).ok()?).filter(|ended| (0..MICROS_MAX).contains(ended))
}

fn take_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
}

/// Whether the log has less of a record than was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    No,
    Yes,
}

impl<'a> Row<'a> {
    fn user(&self) -> Option<&User<'a>> {
        self.record.user.as_ref().and_then(Mention::get)
    }

    fn read(sequence: i64, bytes: &'a [u8], mentions: &mut Mentions<'a>) -> Result<(Self, Cut), &'static str> {
        let Ok((mut record, [])) = postcard::take_from_bytes::<AuditRecord<'a>>(bytes) else {
            return Err("the record does not decode");
        };
        // A few bytes can name a long text that the batch has spelled out, over and over.
        let named = [&record.query, &record.request_headers, &record.response_headers].map(Vec::len);
        if record.charges.len() > CHARGES_MAX || record.checks.len() > CHECKS_MAX || named.into_iter().max() > Some(NAMED_MAX) {
            return Err("the record has more charges, checks, headers or parameters than any request");
        }
        mentions.resolve(&mut record).map_err(|_unknown| "the record mentions something that the batch has not spelled out")?;
        if !(0..MICROS_MAX).contains(&record.at_us) {
            return Err("the time is out of range");
        }
        if record.status.is_some_and(|status| !(100..=599).contains(&status)) {
            return Err("the status is out of range");
        }
        let number = |number: u64| i64::try_from(number).map_err(|_too_large| "a number is out of range");
        let cut = clean(&mut record);
        let row = Self {
            sequence,
            bytes,
            request_id: Uuid::from_bytes(record.request_id).hyphenated().to_string(),
            checks: checks_json(&record.checks),
            charges: charges_json(&record.charges),
            usage: record.usage.as_ref().map(usage_json),
            shadow: record.shadow.as_ref().map(shadow_json),
            query: named_json(&record.query),
            request_headers: named_json(&record.request_headers),
            response_headers: named_json(&record.response_headers),
            // A date that Postgres does not have would put all of a user's records into quarantine.
            trial_until_us: record
                .user
                .as_ref()
                .and_then(Mention::get)
                .and_then(|user| user.trial_until_us)
                .map(|at| at.clamp(0, MICROS_MAX)),
            activation: number(record.activation)?,
            revision: number(record.revision)?,
            key_set: number(record.key_set)?,
            revocation: number(record.revocation)?,
            total_us: number(record.total_us)?,
            upstream_us: record.upstream_us.map(number).transpose()?,
            ours_us: record.ours_us.map(number).transpose()?,
            record,
        };
        Ok((row, cut))
    }

    /// As the table has it.
    fn entry<'e>(&'e self, source: Source<'e>) -> Entry<'e> {
        let (record, user) = (&self.record, self.user());
        Entry {
            holder: source.holder.0.into_bytes(),
            sequence: self.sequence,
            envoy_id: source.envoy_id,
            received_at_us: source.received_at_us,
            at_us: record.at_us,
            gateway: gateway_name(record.gateway),
            stage: stage_name(record.stage),
            phase: phase_name(record.phase),
            correlation_id: &record.correlation_id,
            causation_id: record.causation_id.as_deref(),
            request_id: &self.request_id,
            method: record.method.as_deref(),
            path: record.path.as_deref(),
            upgrade: upgrade_name(record.upgrade),
            query: self.query.as_deref(),
            request_headers: self.request_headers.as_deref(),
            response_headers: self.response_headers.as_deref(),
            route: record.route.as_deref(),
            action: record.action.as_deref(),
            sampled_of: i64::from(record.sampled_of.max(1)),
            issuer: user.map(|user| user.issuer.as_ref()),
            subject: user.map(|user| user.subject.as_ref()),
            user_id: user.map(|user| user.user_id.as_ref()),
            customer_id: user.and_then(|user| user.customer_id.as_deref()),
            agent_id: user.and_then(|user| user.agent_id.as_deref()),
            email: user.and_then(|user| user.email.as_deref()),
            governor_agent_id: user.and_then(|user| user.governor_agent_id.as_deref()),
            roles: user.map(|user| user.roles.as_ref()),
            tier: user.and_then(|user| user.tier.as_deref()),
            trial: self.trial_until_us.is_some(),
            trial_until_us: self.trial_until_us,
            sandbox: record.sandbox,
            decision: decision_name(record.decision),
            reason: &record.reason,
            rule: record.rule.as_deref(),
            checks: &self.checks,
            shadow: self.shadow.as_deref(),
            charges: &self.charges,
            cost: record.cost.map(cost_name),
            usage: self.usage.as_deref(),
            approval_id: record.approval_id.as_deref(),
            activation: self.activation,
            revision: self.revision,
            key_set: self.key_set,
            revocation: self.revocation,
            status: record.status.map(i32::from),
            details: record.details.as_deref(),
            total_us: self.total_us,
            upstream_us: self.upstream_us,
            ours_us: self.ours_us,
        }
    }
}

/// Makes every text one that Postgres takes: no NUL, and not too long.
fn clean(record: &mut AuditRecord<'_>) -> Cut {
    let mut cut = Cut::No;
    let mut indexed = |text: &mut Cow<'_, str>| clean_text(text, INDEXED_MAX, &mut cut);
    indexed(&mut record.correlation_id);
    indexed(&mut record.reason);
    let optional = [&mut record.causation_id, &mut record.route, &mut record.action, &mut record.rule, &mut record.approval_id];
    optional.into_iter().flatten().for_each(&mut indexed);
    if let Some(shadow) = &mut record.shadow {
        indexed(&mut shadow.reason);
        shadow.route.iter_mut().for_each(&mut indexed);
    }
    if let Some(user) = record.user.as_mut().and_then(Mention::get_mut) {
        [&mut user.issuer, &mut user.subject, &mut user.user_id].into_iter().for_each(&mut indexed);
        [&mut user.customer_id, &mut user.agent_id].into_iter().flatten().for_each(&mut indexed);
    }
    for account in record.charges.iter_mut().filter_map(|charge| charge.account.get_mut()) {
        indexed(&mut account.budget);
        indexed(&mut account.scope);
    }
    let mut other = |text: &mut Cow<'_, str>| clean_text(text, TEXT_MAX, &mut cut);
    if let Some(user) = record.user.as_mut().and_then(Mention::get_mut) {
        other(&mut user.roles);
        [&mut user.email, &mut user.governor_agent_id, &mut user.tier].into_iter().flatten().for_each(&mut other);
    }
    [&mut record.method, &mut record.path, &mut record.details].into_iter().flatten().for_each(&mut other);
    for named in [&mut record.query, &mut record.request_headers, &mut record.response_headers].into_iter().flatten() {
        other(&mut named.name);
        other(&mut named.value);
    }
    record.usage.iter_mut().for_each(|usage| other(&mut usage.model));
    cut
}

fn clean_text(text: &mut Cow<'_, str>, length_max: usize, cut: &mut Cut) {
    if text.contains('\0') {
        *text = Cow::Owned(text.replace('\0', "\u{fffd}"));
    }
    if text.len() > length_max {
        let end = (0..=length_max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.to_mut().truncate(end);
        *cut = Cut::Yes;
    }
}

fn checks_json(checks: &[CheckOutcome]) -> String {
    let mut json = String::with_capacity(2 + checks.len() * 48);
    json.push('[');
    for (index, check) in checks.iter().enumerate() {
        let parts = [
            if index == 0 { "{\"check\":\"" } else { ",{\"check\":\"" },
            check_name(check.check),
            "\",\"outcome\":\"",
            outcome_name(check.outcome),
            "\"}",
        ];
        parts.iter().for_each(|part| json.push_str(part));
    }
    json.push(']');
    json
}

fn charges_json(charges: &[Charge<'_>]) -> String {
    let charges = charges.iter().filter_map(|charge| {
        let account = charge.account.get()?;
        let (budget, scope, amount) = (&account.budget, &account.scope, charge.amount);
        Some(match charge.overrun {
            0 => serde_json::json!({"budget": budget, "scope": scope, "amount": amount}),
            overrun => serde_json::json!({"budget": budget, "scope": scope, "amount": amount, "overrun": overrun}),
        })
    });
    serde_json::Value::Array(charges.collect()).to_string()
}

fn usage_json(usage: &TokenUsage<'_>) -> String {
    let TokenUsage { model, input, cache_read, cache_write, output } = usage;
    serde_json::json!({"model": model, "input": input, "cache_read": cache_read, "cache_write": cache_write, "output": output}).to_string()
}

fn shadow_json(note: &ShadowNote<'_>) -> String {
    let ShadowNote { revision, decision, reason, route } = note;
    serde_json::json!({"revision": revision, "decision": decision_name(*decision), "reason": reason, "route": route}).to_string()
}

/// A list, since names may come more than once and their order means something; nothing where there are none.
fn named_json(named: &[Named<'_>]) -> Option<String> {
    let pairs = || named.iter().map(|Named { name, value }| serde_json::json!({"name": name, "value": value})).collect();
    (!named.is_empty()).then(|| serde_json::Value::Array(pairs()).to_string())
}

/// The name of a check in records and counts.
#[must_use]
pub const fn check_name(check: Check) -> &'static str {
    match check {
        Check::Path => "path",
        Check::Route => "route",
        Check::Authentication => "authentication",
        Check::Permission => "permission",
        Check::Trial => "trial",
        Check::Approval => "approval",
        Check::Budget => "budget",
        Check::ClientLimit => "client_limit",
        Check::Ownership => "ownership",
        Check::Routing => "routing",
        Check::Rules => "rules",
    }
}

const fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Permit => "permit",
        Outcome::Deny => "deny",
        Outcome::FailedOpen => "failed_open",
        Outcome::FailedClosed => "failed_closed",
        Outcome::SkippedByFlag => "skipped_by_flag",
    }
}

const fn decision_name(decision: Decision) -> &'static str {
    match decision {
        Decision::Permit => "permit",
        Decision::Deny => "deny",
        Decision::Indeterminate => "indeterminate",
        Decision::None => "none",
    }
}

const fn cost_name(cost: CostBasis) -> &'static str {
    match cost {
        CostBasis::Fixed => "fixed",
        CostBasis::Reported => "reported",
        CostBasis::Usage => "usage",
        CostBasis::Unreadable => "unreadable",
    }
}

const fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Filter => "filter",
        Stage::Envoy => "envoy",
    }
}

const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Outcome => "outcome",
        Phase::Intent => "intent",
    }
}

const fn upgrade_name(upgrade: Upgrade) -> Option<&'static str> {
    match upgrade {
        Upgrade::None => None,
        Upgrade::Websocket => Some("websocket"),
        Upgrade::Other => Some("other"),
    }
}

/// The name of a gateway in records.
#[must_use]
pub const fn gateway_name(gateway: Gateway) -> &'static str {
    match gateway {
        Gateway::Cp => "CP",
        Gateway::Pp => "PP",
        Gateway::Plant => "PLANT",
        Gateway::Admin => "ADMIN",
    }
}
