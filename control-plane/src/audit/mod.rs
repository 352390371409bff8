//! The audit log: ingest of the holders' records, and queries. A record is never lost and never stops the next one:
//! what cannot be stored as it is goes to quarantine, with its bytes.

pub mod explain;
pub mod hits;
pub mod http;
pub mod judgeable;
pub mod replay;
pub mod store;

use std::borrow::Cow;
use uuid::Uuid;
use wire::audit::{
    AuditRecord, Charge, Check, CheckOutcome, CostBasis, Decision, Mention, Mentions, Outcome, ShadowNote, Stage, TokenUsage, User,
};
use wire::policy::Gateway;
use wire::sync::RecordBatch;

/// Longest value of an indexed column; longer index entries are refused by Postgres.
const INDEXED_MAX: usize = 1_024;
/// Longest value of any other column.
const TEXT_MAX: usize = 16 * 1_024;
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
    activation: i64,
    revision: i64,
    key_set: i64,
    revocation: i64,
    total_us: i64,
    upstream_us: Option<i64>,
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

    fn refuse(&mut self, sequence: i64, bytes: &'a [u8], error: &'static str) {
        self.quarantined.push(Quarantined { sequence, bytes, error });
    }
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
            activation: number(record.activation)?,
            revision: number(record.revision)?,
            key_set: number(record.key_set)?,
            revocation: number(record.revocation)?,
            total_us: number(record.total_us)?,
            upstream_us: record.upstream_us.map(number).transpose()?,
            record,
        };
        Ok((row, cut))
    }
}

/// Makes every text one that Postgres takes: no NUL, and not too long.
fn clean(record: &mut AuditRecord<'_>) -> Cut {
    let mut cut = Cut::No;
    let mut indexed = |text: &mut Cow<'_, str>| clean_text(text, INDEXED_MAX, &mut cut);
    indexed(&mut record.correlation_id);
    indexed(&mut record.reason);
    [&mut record.causation_id, &mut record.route, &mut record.action, &mut record.rule].into_iter().flatten().for_each(&mut indexed);
    if let Some(shadow) = &mut record.shadow {
        indexed(&mut shadow.reason);
        shadow.route.iter_mut().for_each(&mut indexed);
    }
    if let Some(user) = record.user.as_mut().and_then(Mention::get_mut) {
        indexed(&mut user.user_id);
        [&mut user.customer_id, &mut user.agent_id].into_iter().flatten().for_each(&mut indexed);
    }
    let mut other = |text: &mut Cow<'_, str>| clean_text(text, TEXT_MAX, &mut cut);
    if let Some(user) = record.user.as_mut().and_then(Mention::get_mut) {
        [&mut user.issuer, &mut user.subject, &mut user.roles].into_iter().for_each(&mut other);
    }
    let optional = [&mut record.method, &mut record.path, &mut record.approval_id, &mut record.details];
    optional.into_iter().flatten().for_each(&mut other);
    for account in record.charges.iter_mut().filter_map(|charge| charge.account.get_mut()) {
        other(&mut account.budget);
        other(&mut account.scope);
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
