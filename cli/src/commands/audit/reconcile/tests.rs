use super::*;

const SECOND: i64 = 1_000_000;
/// Long ago, so that nothing is on its way.
const T: i64 = 1_700_000_000 * SECOND;
const LATER: i64 = T + 3_600 * SECOND;

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn line(number: u128, at_s: i64) -> Logged {
    let at_us = T + at_s * SECOND;
    Logged { request_id: Some(id(number)), envoy: Some(0), at_us, ended_us: at_us + 1_000, status: Some(200), recording: Recording::Meant }
}

fn record(number: u128, holder: u128, at_s: i64) -> Recorded {
    Recorded {
        request_id: id(number),
        holder: id(holder),
        sequence: i64::try_from(number).unwrap(),
        envoy_id: "envoy-1".to_owned(),
        stage: Stage::Filter,
        status: Some(200),
        ended_us: T + at_s * SECOND + 900,
    }
}

fn gap(holder: u128, from_s: i64, to_s: i64, reason: GapReason) -> Gap {
    let at = |seconds: i64| time::OffsetDateTime::from_unix_timestamp(T / SECOND + seconds).unwrap();
    let before_sequence = (reason == GapReason::Sequence).then_some(7);
    let envoy_id = "envoy-1".to_owned();
    Gap { holder: id(holder), envoy_id, from_at: at(from_s), to_at: at(to_s), after_sequence: 5, before_sequence, reason }
}

fn held(lines: Vec<Logged>, records: Vec<Recorded>, gaps: Vec<Gap>) -> Report {
    let mut books = Books::open(AccessLog { lines, envoys: vec!["envoy-1".to_owned()], ..AccessLog::default() }, &[]);
    records.into_iter().for_each(|record| books.record(record));
    gaps.into_iter().for_each(|gap| books.gap(gap));
    books.close(LATER)
}

/// A minute with a request every second.
fn minute() -> (Vec<Logged>, Vec<Recorded>) {
    let each = || (0..60_i64).map(|at| (u128::try_from(at).unwrap() + 1, at));
    (each().map(|(number, at)| line(number, at)).collect(), each().map(|(number, at)| record(number, 1, at)).collect())
}

#[test]
fn books_with_the_same_requests_agree() {
    let (lines, records) = minute();
    let report = held(lines, records, Vec::new());
    assert!(report.agrees(), "{report:?}");
    assert_eq!((report.lines, report.recorded, report.envoys.len()), (60, 60, 1));
}

#[test]
fn a_line_without_a_record_is_missing_unless_a_gap_covers_its_end() {
    let (lines, mut records) = minute();
    records.remove(30);
    let report = held(lines.clone(), records.clone(), Vec::new());
    assert!(!report.agrees());
    assert_eq!((report.missing, report.missing_examples.first().unwrap().request_id), (1, Some(id(31))));
    for (from, to, covered) in [(29, 31, true), (31, 33, true), (27, 30, true), (27, 29, false), (32, 40, false), (10, 28, false)] {
        let report = held(lines.clone(), records.clone(), vec![gap(1, from, to, GapReason::Sequence)]);
        assert_eq!((report.in_gaps == 1, report.missing == 0), (covered, covered), "{from} to {to}");
    }
}

#[test]
fn a_gap_of_one_number_accounts_for_one_line() {
    let (lines, mut records) = minute();
    records.drain(30..32);
    let report = held(lines.clone(), records.clone(), vec![gap(1, 29, 33, GapReason::Sequence)]);
    assert_eq!((report.in_gaps, report.missing), (1, 1));
    let report = held(lines, records, vec![gap(1, 29, 33, GapReason::HolderClosed)]);
    assert_eq!((report.in_gaps, report.missing), (2, 0), "nobody knows how many a lost worker had");
}

#[test]
fn a_line_of_the_future_is_missing() {
    let (mut lines, records) = minute();
    lines.push(Logged { at_us: LATER + 60 * SECOND, ended_us: LATER + 60 * SECOND, ..line(301, 0) });
    assert_eq!(held(lines, records, Vec::new()).missing, 1);
}

#[test]
fn another_envoys_gap_covers_nothing() {
    let (mut lines, mut records) = minute();
    records.remove(30);
    // One whose records have lines too.
    lines.push(Logged { envoy: None, ..line(500, 5) });
    records.push(Recorded { envoy_id: "envoy-2".to_owned(), ..record(500, 9, 5) });
    let other = Gap { envoy_id: "envoy-2".to_owned(), ..gap(9, 20, 40, GapReason::Sequence) };
    let report = held(lines, records, vec![other]);
    assert_eq!((report.missing, report.gaps), (1, 1));
}

#[test]
fn a_record_without_a_line_is_unlogged_unless_its_worker_ended_with_it() {
    let (mut lines, mut records) = minute();
    lines.remove(30);
    let report = held(lines.clone(), records.clone(), Vec::new());
    assert_eq!((report.unlogged, report.cut_off, report.agrees()), (1, 0, false));
    assert_eq!(report.unlogged_examples, [format!("{}-31", id(1))]);
    // Of a worker that was heard of last in second 30: killed.
    records[30].holder = id(2);
    let report = held(lines.clone(), records.clone(), vec![gap(2, 30, 90, GapReason::HolderClosed)]);
    assert_eq!((report.unlogged, report.cut_off, report.agrees()), (0, 1, true));
    // Of one that lived on for three seconds.
    let report = held(lines, records, vec![gap(2, 33, 90, GapReason::HolderClosed)]);
    assert_eq!((report.unlogged, report.cut_off), (1, 0));
}

#[test]
fn two_records_of_a_request_are_told() {
    let (lines, mut records) = minute();
    records.push(record(31, 2, 30));
    let report = held(lines.clone(), records.clone(), Vec::new());
    assert_eq!((report.duplicates, report.duplicate_examples, report.recorded), (1, vec![id(31)], 60));
    // Also where neither has a line.
    records.truncate(60);
    records.extend([record(99, 1, 30), record(99, 2, 30)]);
    assert_eq!(held(lines, records, Vec::new()).duplicates, 1);
}

#[test]
fn what_the_files_begin_and_end_within_is_not_held_against_them() {
    let (lines, mut records) = minute();
    records.extend([record(100, 1, -1), record(101, 1, 60)]);
    let report = held(lines, records, Vec::new());
    assert!(report.agrees(), "{report:?}");
}

#[test]
fn lines_without_an_id_are_told_by_status_and_time() {
    let (mut lines, mut records) = minute();
    let refused = |at_s| Logged { request_id: None, status: Some(400), ..line(0, at_s) };
    lines.extend([refused(10), refused(20)]);
    let answered = |number, at_s| Recorded { stage: Stage::Envoy, status: Some(400), ..record(number, 1, at_s) };
    records.extend([answered(200, 10), answered(201, 20)]);
    assert!(held(lines.clone(), records.clone(), Vec::new()).agrees());
    records.pop();
    assert_eq!(held(lines.clone(), records.clone(), Vec::new()).missing, 1);
    // Two records do not share a line.
    records.extend([answered(201, 20), answered(202, 20)]);
    assert_eq!(held(lines, records, Vec::new()).unlogged, 1);
}

#[test]
fn what_is_sampled_out_or_has_just_ended_is_not_missing() {
    let (mut lines, records) = minute();
    lines.push(Logged { recording: Recording::SampledOut, ..line(300, 30) });
    lines.push(Logged { at_us: LATER - 5 * SECOND, ended_us: LATER - 5 * SECOND, ..line(301, 0) });
    let report = held(lines, records, Vec::new());
    assert_eq!((report.sampled_out, report.on_their_way, report.missing), (1, 1, 0));
}

#[test]
fn only_the_envoys_that_were_named_count() {
    let (lines, mut records) = minute();
    records.push(Recorded { envoy_id: "envoy-2".to_owned(), ..record(400, 7, 30) });
    assert!(held(lines.clone(), records.clone(), Vec::new()).agrees(), "whose records have no lines");
    let mut books = Books::open(
        AccessLog { lines, envoys: vec!["envoy-1".to_owned()], ..AccessLog::default() },
        &["envoy-1".to_owned(), "envoy-2".to_owned()],
    );
    records.into_iter().for_each(|record| books.record(record));
    assert_eq!(books.close(LATER).unlogged, 1, "the log of one of them is not there");
}
