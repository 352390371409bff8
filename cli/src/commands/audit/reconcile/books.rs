//! The two books held against each other: lines of the access log, and records and gaps of the audit log.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::access_log::{AccessLog, Logged, Recording};

/// Clocks differ, calls take their time, and Envoy writes its log in intervals: so far a line, a record and a gap may be apart.
const SLACK_US: i64 = 1_000_000;
/// What ended so short a time ago may have no record yet: the filter sends them every second, and tries again when it is not heard.
const ON_ITS_WAY_US: i64 = 10_000_000;
/// So many of a kind are named.
const EXAMPLES: usize = 20;

/// A request of the audit log, as the admin API tells it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Recorded {
    pub(super) request_id: Uuid,
    pub(super) holder: Uuid,
    pub(super) sequence: i64,
    pub(super) envoy_id: String,
    pub(super) stage: Stage,
    pub(super) status: Option<u16>,
    pub(super) ended_us: i64,
}

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    Filter,
    Envoy,
}

/// What is known to be missing, likewise.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Gap {
    pub(super) holder: Uuid,
    pub(super) envoy_id: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) from_at: time::OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) to_at: time::OffsetDateTime,
    pub(super) after_sequence: u64,
    pub(super) before_sequence: Option<u64>,
    pub(super) reason: GapReason,
}

impl Gap {
    /// How many records are missing, where it is known.
    fn missing(&self) -> Option<u64> {
        self.before_sequence?.checked_sub(self.after_sequence)?.checked_sub(1)
    }
}

/// Why it is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum GapReason {
    /// Numbers are missing.
    Sequence,
    /// The holder fell silent.
    HolderClosed,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Report {
    /// Lines of the access log.
    pub(super) lines: u64,
    /// Lines that were cut off by a kill.
    pub(super) torn_lines: u64,
    /// Lines that are none of this log.
    pub(super) unreadable_lines: u64,
    /// Lines with a record.
    pub(super) recorded: u64,
    /// Lines that another record stands for: their route is sampled.
    pub(super) sampled_out: u64,
    /// Lines without a record, in a gap that the audit log knows of.
    pub(super) in_gaps: u64,
    /// Lines that ended a moment ago and have no record yet.
    pub(super) on_their_way: u64,
    /// Lines without a record and without a gap.
    pub(super) missing: u64,
    /// Some of them.
    pub(super) missing_examples: Vec<Missing>,
    /// Records without a line, of workers that ended within a second: Envoy had not written it yet.
    pub(super) cut_off: u64,
    /// Records without a line, otherwise.
    pub(super) unlogged: u64,
    /// Some of them, as `holder-sequence`.
    pub(super) unlogged_examples: Vec<String>,
    /// Requests with more than one record.
    pub(super) duplicates: u64,
    /// Some of them, by their ids.
    pub(super) duplicate_examples: Vec<Uuid>,
    /// Gaps of these Envoys that touch the time of the access log.
    pub(super) gaps: u64,
    /// The Envoys.
    pub(super) envoys: BTreeSet<String>,
}

/// A line without a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Missing {
    request_id: Option<Uuid>,
    #[serde(with = "time::serde::rfc3339")]
    ended_at: time::OffsetDateTime,
    status: Option<u16>,
}

impl Report {
    /// Whether the audit log has everything that the access log has, once, and nothing else.
    pub(super) const fn agrees(&self) -> bool {
        self.missing == 0 && self.unlogged == 0 && self.duplicates == 0 && self.unreadable_lines == 0
    }
}

/// The lines, and what is found out about them.
#[derive(Debug)]
pub(super) struct Books {
    lines: Vec<Logged>,
    /// The Envoys that lines name.
    named: Vec<String>,
    /// Lines with an id: the id, and which line.
    by_id: Vec<(Uuid, usize)>,
    /// How many records each line has.
    records: Vec<u8>,
    /// Records that no line has: of the Envoys whose log this is, or of any.
    unlogged: Vec<Recorded>,
    gaps: Vec<Gap>,
    envoys: BTreeSet<String>,
    asked_for: BTreeSet<String>,
    report: Report,
}

impl Books {
    /// Opens them. Without names, the Envoys are those whose records have lines.
    pub(super) fn open(log: AccessLog, envoys: &[String]) -> Self {
        let AccessLog { lines, envoys: named, torn, unreadable } = log;
        let mut by_id: Vec<(Uuid, usize)> = lines.iter().enumerate().filter_map(|(at, line)| Some((line.request_id?, at))).collect();
        by_id.sort_unstable();
        let asked_for: BTreeSet<String> = envoys.iter().cloned().collect();
        let report = Report { lines: count(lines.len()), torn_lines: torn, unreadable_lines: unreadable, ..Report::default() };
        let (records, unlogged, gaps) = (vec![0; lines.len()], Vec::new(), Vec::new());
        Self { lines, named, by_id, records, unlogged, gaps, envoys: asked_for.clone(), asked_for, report }
    }

    /// From when to when records are needed, microseconds since the epoch.
    pub(super) fn span(&self) -> (i64, i64) {
        let first = self.lines.iter().map(|line| line.at_us).min().unwrap_or(0);
        let last = self.lines.iter().map(|line| line.ended_us).max().unwrap_or(0);
        (first.saturating_sub(SLACK_US), last.saturating_add(SLACK_US))
    }

    fn is_of_interest(&self, envoy: &str) -> bool {
        self.asked_for.is_empty() || self.asked_for.contains(envoy)
    }

    /// Enters a record.
    pub(super) fn record(&mut self, record: Recorded) {
        if !self.is_of_interest(&record.envoy_id) {
            return;
        }
        let found = self.by_id.binary_search_by_key(&record.request_id, |(id, _)| *id).ok();
        let line = found.and_then(|found| self.by_id.get(found)).map(|(_, line)| *line);
        match line.and_then(|line| self.records.get_mut(line)) {
            Some(records) => {
                *records = records.saturating_add(1);
                if *records == 2 {
                    self.report.duplicates = self.report.duplicates.saturating_add(1);
                    self.report.duplicate_examples.extend(few(&self.report.duplicate_examples).then_some(record.request_id));
                }
                if !self.envoys.contains(&record.envoy_id) {
                    self.envoys.insert(record.envoy_id);
                }
            }
            None => self.unlogged.push(record),
        }
    }

    /// Enters a gap.
    pub(super) fn gap(&mut self, gap: Gap) {
        if self.is_of_interest(&gap.envoy_id) {
            self.gaps.push(gap);
        }
    }

    /// Holds them against each other.
    pub(super) fn close(mut self, now_us: i64) -> Report {
        let envoys = std::mem::take(&mut self.envoys);
        self.gaps.retain(|gap| envoys.contains(&gap.envoy_id));
        // An id in two records that no line has is told twice all the same.
        self.unlogged.retain(|record| envoys.contains(&record.envoy_id));
        self.count_twice_unlogged();
        self.pair_without_ids();
        let mut covers: Vec<Cover> = self.named.iter().map(|envoy| Cover::of(&self.gaps, |gap| gap.envoy_id == *envoy)).collect();
        let mut any = Cover::of(&self.gaps, |_| true);
        for (line, records) in self.lines.iter().zip(&self.records) {
            let cover = line.envoy.and_then(|envoy| covers.get_mut(usize::from(envoy))).unwrap_or(&mut any);
            let report = &mut self.report;
            let kind = match (records, line.recording) {
                (1.., Recording::Meant | Recording::SampledOut) => &mut report.recorded,
                (0, Recording::SampledOut) => &mut report.sampled_out,
                (0, Recording::Meant) if cover.takes(line.ended_us) => &mut report.in_gaps,
                (0, Recording::Meant) if (0..ON_ITS_WAY_US).contains(&now_us.saturating_add(SLACK_US).saturating_sub(line.ended_us)) => {
                    &mut report.on_their_way
                }
                (0, Recording::Meant) => {
                    report.missing_examples.extend(few(&report.missing_examples).then(|| missing(line)));
                    &mut report.missing
                }
            };
            *kind = kind.saturating_add(1);
        }
        self.judge_unlogged();
        self.report.gaps = count(self.gaps.len());
        self.report.envoys = envoys;
        self.report
    }

    fn count_twice_unlogged(&mut self) {
        let mut ids: Vec<Uuid> = self.unlogged.iter().map(|record| record.request_id).collect();
        ids.sort_unstable();
        for twice in ids.chunk_by(|one, next| one == next).filter(|same| same.len() > 1).filter_map(|same| same.first()) {
            self.report.duplicates = self.report.duplicates.saturating_add(1);
            self.report.duplicate_examples.extend(few(&self.report.duplicate_examples).then_some(*twice));
        }
    }

    /// Lines without an id, of Envoys that do not log what the filter leaves with a stream: told by status and time.
    fn pair_without_ids(&mut self) {
        let mut nameless: BTreeMap<Option<u16>, BTreeSet<(i64, usize)>> = BTreeMap::new();
        for (at, line) in self.lines.iter().enumerate().filter(|(_, line)| line.request_id.is_none()) {
            nameless.entry(line.status).or_default().insert((line.ended_us, at));
        }
        let records = &mut self.records;
        self.unlogged.retain(|record| {
            let Some(lines) = nameless.get_mut(&record.status).filter(|_| record.stage == Stage::Envoy) else { return true };
            let near = (record.ended_us.saturating_sub(SLACK_US), 0)..(record.ended_us.saturating_add(SLACK_US), usize::MAX);
            let Some(found) = lines.range(near).next().copied() else { return true };
            lines.remove(&found);
            records.get_mut(found.1).into_iter().for_each(|records| *records = 1);
            false
        });
    }

    /// A line may be in the next file, or be lost with the Envoy that had not written it yet.
    fn judge_unlogged(&mut self) {
        let ends = self.lines.iter().map(|line| line.ended_us);
        let (first, last) = (ends.clone().min().unwrap_or(0), ends.max().unwrap_or(0));
        let closed: BTreeMap<Uuid, i64> =
            self.gaps.iter().filter(|gap| gap.reason == GapReason::HolderClosed).map(|gap| (gap.holder, micros(gap.from_at))).collect();
        for record in &self.unlogged {
            if record.ended_us < first.saturating_add(SLACK_US) || record.ended_us > last.saturating_sub(SLACK_US) {
                continue;
            }
            let with_its_worker = closed.get(&record.holder).is_some_and(|last_told| record.ended_us >= last_told.saturating_sub(SLACK_US));
            let kind = if with_its_worker {
                &mut self.report.cut_off
            } else {
                let examples = &mut self.report.unlogged_examples;
                examples.extend(few(examples).then(|| format!("{}-{}", record.holder, record.sequence)));
                &mut self.report.unlogged
            };
            *kind = kind.saturating_add(1);
        }
    }
}

/// What the gaps of an Envoy account for: any line of the time in which a worker was lost, and of the time in which numbers are missing as many
/// lines as there are numbers.
struct Cover {
    closed: Intervals,
    numbered: Intervals,
    numbers: u64,
}

impl Cover {
    fn of(gaps: &[Gap], is_of: impl Fn(&Gap) -> bool) -> Self {
        let (numbered, closed): (Vec<&Gap>, Vec<&Gap>) = gaps.iter().filter(|gap| is_of(gap)).partition(|gap| gap.missing().is_some());
        let numbers = numbered.iter().filter_map(|gap| gap.missing()).fold(0, u64::saturating_add);
        Self { closed: Intervals::of(&closed), numbered: Intervals::of(&numbered), numbers }
    }

    /// Whether a line of that time is accounted for, once.
    fn takes(&mut self, at: i64) -> bool {
        if self.closed.has(at) {
            return true;
        }
        let left = if self.numbered.has(at) { self.numbers.checked_sub(1) } else { None };
        self.numbers = left.unwrap_or(self.numbers);
        left.is_some()
    }
}

/// Times that gaps cover, each a bit wider, sorted and apart from each other.
struct Intervals(Vec<(i64, i64)>);

impl Intervals {
    fn of(gaps: &[&Gap]) -> Self {
        let wider = |gap: &Gap| (micros(gap.from_at).saturating_sub(SLACK_US), micros(gap.to_at).saturating_add(SLACK_US));
        let mut each: Vec<(i64, i64)> = gaps.iter().copied().map(wider).collect();
        each.sort_unstable();
        let mut joined: Vec<(i64, i64)> = Vec::new();
        for (from, to) in each {
            match joined.last_mut().filter(|(_, end)| from <= *end) {
                Some((_, end)) => *end = to.max(*end),
                None => joined.push((from, to)),
            }
        }
        Self(joined)
    }

    fn has(&self, at: i64) -> bool {
        let before = self.0.partition_point(|(from, _)| *from <= at);
        before.checked_sub(1).and_then(|last| self.0.get(last)).is_some_and(|(_, to)| at <= *to)
    }
}

fn missing(line: &Logged) -> Missing {
    let ended_at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(line.ended_us).saturating_mul(1_000));
    Missing { request_id: line.request_id, ended_at: ended_at.unwrap_or(time::OffsetDateTime::UNIX_EPOCH), status: line.status }
}

fn micros(at: time::OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000)).unwrap_or(0)
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn few<T>(examples: &[T]) -> bool {
    examples.len() < EXAMPLES
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
