//! Envoy's access log, in the format of `envoy/bootstrap.yaml`: of each line what a record can be held against.

use std::borrow::Cow;
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
    /// Which of [`AccessLog::envoys`] it is of, if the line says so.
    pub(super) envoy: Option<u16>,
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
    /// The Envoys that the lines name.
    pub(super) envoys: Vec<String>,
    /// Lines that were cut off by a kill: at the end of a file, or another one stands behind them.
    pub(super) torn: u64,
    /// Lines that are no lines of this log, in the middle of a file.
    pub(super) unreadable: u64,
}

/// Clients choose what some values say: they may have escapes, and cannot all be borrowed.
#[derive(Deserialize)]
struct Line<'l> {
    #[serde(borrow)]
    time: Cow<'l, str>,
    #[serde(borrow, default)]
    envoy: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    request_id: Option<Cow<'l, str>>,
    #[serde(borrow, default)]
    record_id: Option<Cow<'l, str>>,
    code: Option<u16>,
    duration_ms: Option<i64>,
    #[serde(borrow, default)]
    unrecorded: Option<Cow<'l, str>>,
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
        let mut last_was_none = false;
        loop {
            line.clear();
            let length = lines.read_until(b'\n', &mut line)?;
            if length == 0 {
                // The last one may be cut off, and was counted as if there were more.
                let cut = u64::from(last_was_none);
                (self.torn, self.unreadable) = (self.torn.saturating_add(cut), self.unreadable.saturating_sub(cut));
                return Ok(());
            }
            read.inc(u64::try_from(length).unwrap_or(0));
            let text = line.trim_ascii();
            if text.is_empty() {
                continue;
            }
            let whole = Line::read(text);
            let behind = if whole.is_none() { Line::behind_a_cut(text) } else { None };
            self.torn = self.torn.saturating_add(u64::from(behind.is_some()));
            let logged = whole.or(behind).and_then(|line| self.logged(&line));
            last_was_none = logged.is_none();
            match logged {
                Some(logged) => self.lines.push(logged),
                None => self.unreadable = self.unreadable.saturating_add(1),
            }
        }
    }

    fn logged(&mut self, line: &Line<'_>) -> Option<Logged> {
        let at = OffsetDateTime::parse(&line.time, &Rfc3339).ok()?;
        let at_us = i64::try_from(at.unix_timestamp_nanos().checked_div(1_000)?).ok()?;
        let lasted_us = line.duration_ms.unwrap_or(0).checked_mul(1_000)?;
        // Of a request that was not forwarded `request_id` is whatever the client has sent.
        let id = line.record_id.as_ref().or(line.request_id.as_ref());
        Some(Logged {
            request_id: id.and_then(|id| Uuid::try_parse(id).ok()),
            envoy: line.envoy.as_deref().and_then(|envoy| self.envoy(envoy)),
            at_us,
            ended_us: at_us.checked_add(lasted_us)?,
            // Envoy writes 0 where nothing was sent.
            status: line.code.filter(|code| *code > 0),
            recording: if line.unrecorded.as_deref() == Some(SAMPLED_OUT) { Recording::SampledOut } else { Recording::Meant },
        })
    }

    fn envoy(&mut self, name: &str) -> Option<u16> {
        let known = self.envoys.iter().position(|known| known == name);
        let place = known.unwrap_or_else(|| {
            self.envoys.push(name.to_owned());
            self.envoys.len().saturating_sub(1)
        });
        u16::try_from(place).ok()
    }
}

impl<'l> Line<'l> {
    fn read(line: &'l [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// The whole line behind one that was cut off: what was cut off has no end, so the next one stands on the same line.
    fn behind_a_cut(line: &'l [u8]) -> Option<Self> {
        let begins = line.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'{').map(|(at, _)| at);
        begins.filter_map(|at| Self::read(line.get(at..)?)).next()
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
        assert_eq!((log.lines.len(), log.torn, log.unreadable), (3, 2, 0));
        // In the middle of a file nothing is cut off.
        let log = read(&format!("{LINE}\n{torn}\n{LINE}\n"));
        assert_eq!((log.lines.len(), log.torn, log.unreadable), (2, 0, 1));
    }

    #[test]
    fn what_a_client_sends_makes_no_line_unreadable() {
        for sent in [r#"a\"b"#, r"\u0001{", r#"{\"time\":"#, "\\\\"] {
            let line = LINE.replace("0192d3a0-0000-7000-8000-000000000001", sent).replace("/a", sent);
            let log = read(&format!("{line}\n{LINE}"));
            assert_eq!((log.lines.len(), log.torn, log.unreadable), (2, 0, 0), "{line}");
        }
    }

    #[test]
    fn a_line_says_which_envoy_it_is_of() {
        let of = |envoy: &str| LINE.replace("\"path\"", &format!("\"envoy\":\"{envoy}\",\"path\""));
        let log = read(&format!("{}\n{}\n{}\n{LINE}", of("one"), of("two"), of("one")));
        assert_eq!(log.envoys, ["one", "two"]);
        let envoys: Vec<Option<u16>> = log.lines.iter().map(|line| line.envoy).collect();
        assert_eq!(envoys, [Some(0), Some(1), Some(0), None]);
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
