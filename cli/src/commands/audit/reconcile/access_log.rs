//! Envoy's access log, in the format of `envoy/bootstrap.yaml`: of each line what a record can be held against.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::super::AuditError;

/// Why a line has no record, as the filter leaves it with the stream.
const SAMPLED_OUT: &str = "sampled_out";

/// A line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Logged {
    /// What the filter never heard of has none.
    pub(super) request_id: Option<Uuid>,
    pub(super) at_us: i64,
    pub(super) ended_us: i64,
    pub(super) status: Option<u16>,
    pub(super) recording: Recording,
}

/// Whether the filter meant to record it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recording {
    Meant,
    SampledOut,
}

/// All lines of all files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AccessLog {
    pub(super) lines: Vec<Logged>,
    /// Lines that were cut off, by a kill or a full disk.
    pub(super) torn: u64,
}

#[derive(Deserialize)]
struct Line<'l> {
    time: &'l str,
    request_id: Option<&'l str>,
    record_id: Option<&'l str>,
    code: Option<u16>,
    duration_ms: Option<i64>,
    unrecorded: Option<&'l str>,
}

impl AccessLog {
    /// Reads the files one after the other. `read` is told of every byte.
    pub(super) fn read(paths: &[PathBuf], read: &ProgressBar) -> Result<Self, AuditError> {
        let mut log = Self::default();
        for path in paths {
            let unreadable = |source| AuditError::AccessLog { path: path.clone(), source };
            let file = File::open(path).map_err(unreadable)?;
            read.inc_length(file.metadata().map_or(0, |metadata| metadata.len()));
            log.read_from(BufReader::with_capacity(1 << 20, file), read).map_err(unreadable)?;
        }
        if log.lines.is_empty() {
            return Err(AuditError::NoLines { path: paths.first().map_or_else(PathBuf::new, |path: &PathBuf| Path::to_owned(path)) });
        }
        Ok(log)
    }

    fn read_from(&mut self, mut lines: impl BufRead, read: &ProgressBar) -> io::Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = lines.read_until(b'\n', &mut line)?;
            if length == 0 {
                return Ok(());
            }
            read.inc(u64::try_from(length).unwrap_or(0));
            match (line.trim_ascii(), Logged::read(line.trim_ascii())) {
                ([], _) => {}
                (_, Some(logged)) => self.lines.push(logged),
                (torn, None) => {
                    self.torn = self.torn.saturating_add(1);
                    // What was cut off has no end, so the next one stands on the same line.
                    self.lines.extend(after_torn(torn));
                }
            }
        }
    }
}

/// The whole line behind one that was cut off.
fn after_torn(line: &[u8]) -> Option<Logged> {
    let begins = line.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'{').map(|(at, _)| at);
    begins.filter_map(|at| Logged::read(line.get(at..)?)).next()
}

impl Logged {
    fn read(line: &[u8]) -> Option<Self> {
        let line: Line<'_> = serde_json::from_slice(line).ok()?;
        let at = OffsetDateTime::parse(line.time, &Rfc3339).ok()?;
        let at_us = i64::try_from(at.unix_timestamp_nanos().checked_div(1_000)?).ok()?;
        let lasted_us = line.duration_ms.unwrap_or(0).checked_mul(1_000)?;
        Some(Self {
            // Of a request that was not forwarded `request_id` is whatever the client has sent.
            request_id: line.record_id.or(line.request_id).and_then(|id| Uuid::try_parse(id).ok()),
            at_us,
            ended_us: at_us.checked_add(lasted_us)?,
            // Envoy writes 0 where nothing was sent.
            status: line.code.filter(|code| *code > 0),
            recording: if line.unrecorded == Some(SAMPLED_OUT) { Recording::SampledOut } else { Recording::Meant },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"attempts":1,"code":200,"duration_ms":12,"path":"/a","request_id":"0192d3a0-0000-7000-8000-000000000001","time":"2026-11-27T10:00:00.250Z","unrecorded":null}"#;

    fn read(text: &str) -> AccessLog {
        let mut log = AccessLog::default();
        log.read_from(text.as_bytes(), &ProgressBar::hidden()).unwrap();
        log
    }

    #[test]
    fn a_line_has_its_times_in_microseconds() {
        let log = read(LINE);
        assert_eq!(log.torn, 0);
        let [line] = log.lines.try_into().unwrap();
        assert_eq!(line.ended_us - line.at_us, 12_000);
        assert_eq!(line.at_us % 1_000_000, 250_000);
        assert_eq!((line.status, line.recording), (Some(200), Recording::Meant));
        assert_eq!(line.request_id, Uuid::try_parse("0192d3a0-0000-7000-8000-000000000001").ok());
    }

    #[test]
    fn a_line_without_an_id_or_a_status_is_one_all_the_same() {
        let line = r#"{"code":0,"duration_ms":null,"request_id":null,"time":"2026-11-27T10:00:00.250Z"}"#;
        let [line] = read(line).lines.try_into().unwrap();
        assert_eq!((line.request_id, line.status, line.ended_us), (None, None, line.at_us));
    }

    #[test]
    fn an_id_that_the_client_sent_does_not_count() {
        let own = "0192d3a0-0000-7000-8000-00000000000f";
        let [line] = read(&LINE.replace("\"path\"", &format!("\"record_id\":\"{own}\",\"path\""))).lines.try_into().unwrap();
        assert_eq!(line.request_id, Uuid::try_parse(own).ok());
    }

    #[test]
    fn a_line_that_was_cut_off_takes_no_other_with_it() {
        let torn = &LINE[..40];
        let log = read(&format!("{LINE}\n{torn}{LINE}\n{LINE}\n{torn}"));
        assert_eq!((log.lines.len(), log.torn), (3, 2));
    }

    #[test]
    fn what_was_left_out_on_purpose_says_so() {
        let [line] = read(&LINE.replace("null", "\"sampled_out\"")).lines.try_into().unwrap();
        assert_eq!(line.recording, Recording::SampledOut);
    }

    #[test]
    fn a_log_in_another_format_is_no_log() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("access.log");
        std::fs::write(&path, "[2026-11-27T10:00:00.250Z] \"GET / HTTP/1.1\" 200\n").unwrap();
        let error = AccessLog::read(std::slice::from_ref(&path), &ProgressBar::hidden()).unwrap_err();
        assert!(matches!(error, AuditError::NoLines { .. }), "{error}");
        let error = AccessLog::read(&[home.path().join("none")], &ProgressBar::hidden()).unwrap_err();
        assert!(matches!(error, AuditError::AccessLog { .. }), "{error}");
    }
}
