//! The table for people, and the same numbers as JSON.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::error::BenchError;
use crate::measure::{Measured, Sample};
use crate::variant::Variant;

/// One listener, summed up.
#[derive(Clone, Debug, Serialize)]
struct Row {
    listener: &'static str,
    title: &'static str,
    cpu_us: f64,
    over_bare_us: f64,
    requests_per_second: f64,
    requests_per_cpu_second: f64,
    samples: Vec<Sample>,
}

#[derive(Serialize)]
struct Document<'m> {
    machine: &'m crate::machine::Machine,
    envoy: &'m str,
    plan: crate::measure::Plan,
    request: Request,
    listeners: Vec<Row>,
    idle_us_per_second: f64,
    ours: Ours,
}

#[derive(Serialize)]
struct Request {
    path: &'static str,
    header_count: usize,
    token_bytes: usize,
}

#[derive(Serialize)]
struct Ours {
    requests: u64,
    #[serde(flatten)]
    counters: crate::admin::FilterCounters,
    records_due: u64,
    records_stored: u64,
}

fn rows(measured: &Measured) -> Vec<Row> {
    let cpu = |samples: &[Sample]| median(samples.iter().map(|sample| sample.cpu_us).collect());
    let bare =
        measured.samples.iter().find(|(variant, _samples)| *variant == Variant::Bare).map_or(0.0, |(_variant, samples)| cpu(samples));
    let row = |(variant, samples): &(Variant, Vec<Sample>)| {
        let cpu_us = cpu(samples);
        Row {
            listener: variant.key(),
            title: variant.title(),
            cpu_us,
            over_bare_us: cpu_us - bare,
            requests_per_second: median(samples.iter().map(|sample| sample.requests_per_second).collect()),
            requests_per_cpu_second: if cpu_us > 0.0 { 1e6 / cpu_us } else { 0.0 },
            samples: samples.clone(),
        }
    };
    measured.samples.iter().map(row).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied().unwrap_or(0.0);
    let lower = middle.checked_sub(1).and_then(|index| values.get(index)).copied().unwrap_or(upper);
    if values.len().is_multiple_of(2) { f64::midpoint(lower, upper) } else { upper }
}

/// What is printed.
pub(crate) fn table(measured: &Measured) -> String {
    let mut text = String::new();
    let machine = &measured.machine;
    let plan = measured.plan;
    let rows = rows(measured);
    let width = rows.iter().map(|row| row.title.chars().count()).max().unwrap_or(0);
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").unwrap_or(());
    line(format_args!("\nEnvoy {}, 1 worker; {} cores, {}, Linux {}", measured.envoy, machine.cores, machine.processor, machine.kernel));
    line(format_args!(
        "{} rounds of {} s on {} connections, median; GET {} with {} headers, a token of {} bytes, direct responses\n",
        plan.rounds,
        plan.duration.as_secs_f64(),
        plan.connections,
        crate::load::PATH,
        measured.header_count,
        measured.token_bytes
    ));
    line(format_args!("{:<width$}  {:>9}  {:>9}  {:>10}  {:>9}", "listener", "CPU µs", "over bare", "requests/s", "10^6/CPU"));
    for row in &rows {
        line(format_args!(
            "{:<width$}  {:>9.1}  {:>9.1}  {:>10.0}  {:>9.0}",
            row.title, row.cpu_us, row.over_bare_us, row.requests_per_second, row.requests_per_cpu_second
        ));
    }
    line(format_args!("\n(*) the filter `ratelimit` needs a gRPC service: a second ext_authz call stands for its call."));
    line(format_args!("The called service answers in the same Envoy: each call-out holds the CPU of one small request more."));
    line(format_args!("\nour listeners, {} requests:", measured.requests));
    line(format_args!("  sync calls: {} ({} failed)", measured.counters.sync_calls, measured.counters.sync_failures));
    line(format_args!("  requests that waited for a lease: {}", measured.counters.requests_held));
    line(format_args!("  signatures verified: {}", measured.counters.tokens_verified));
    line(format_args!("  dropped records: {}", measured.counters.records_dropped));
    line(format_args!("  audit records stored: {} of {} (warm-up included)", measured.records_stored, measured.records_due));
    line(format_args!("idle: {:.0} µs of CPU per second", measured.idle_us_per_second));
    text
}

/// Writes the numbers, whole or not at all.
pub(crate) fn write(path: &Path, measured: &Measured) -> Result<(), BenchError> {
    let document = Document {
        machine: &measured.machine,
        envoy: &measured.envoy,
        plan: measured.plan,
        request: Request { path: crate::load::PATH, header_count: measured.header_count, token_bytes: measured.token_bytes },
        listeners: rows(measured),
        idle_us_per_second: measured.idle_us_per_second,
        ours: Ours {
            requests: measured.requests,
            counters: measured.counters,
            records_due: measured.records_due,
            records_stored: measured.records_stored,
        },
    };
    let at = |source| BenchError::File { path: path.to_owned(), source };
    let mut text = serde_json::to_string_pretty(&document).map_err(|error| at(error.into()))?;
    text.push('\n');
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(at)?;
    }
    let new = path.with_extension("json.tmp");
    fs::write(&new, text).and_then(|()| fs::rename(&new, path)).map_err(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(Vec::new()).abs() < 1e-9);
    }
}
