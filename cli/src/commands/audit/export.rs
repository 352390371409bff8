//! `plant-gateway audit export`: every record that matches, page by page, so that any number takes the same memory.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::{AuditError, PATH, Which, Whose};
use crate::commands::admin_api::{AdminApi, Connection, block_on};
use crate::commands::tables::line;
use crate::commands::terminal::progress;
use crate::demo::http::Ask;

/// As many as a page may have.
const PAGE: &str = "1000";

/// Arguments of `audit export`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    which: Which,
    /// In which form.
    #[arg(long = "as", value_enum, default_value_t = Form::Ndjson)]
    form: Form,
    /// Go on after the record with this cursor: an export that broke off names it.
    #[arg(long)]
    cursor: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A JSON object a line.
    Ndjson,
    /// With a heading; lists and objects as JSON.
    Csv,
}

/// What records are written to.
enum Sink<W: Write> {
    Ndjson(W),
    Csv { writer: Box<csv::Writer<W>>, columns: Vec<String> },
}

impl<W: Write> Sink<W> {
    fn new(form: Form, output: W) -> Self {
        match form {
            Form::Ndjson => Self::Ndjson(output),
            Form::Csv => Self::Csv { writer: Box::new(csv::Writer::from_writer(output)), columns: Vec::new() },
        }
    }

    fn write(&mut self, record: &Value) -> Result<(), AuditError> {
        match self {
            Self::Ndjson(output) => writeln!(output, "{record}").map_err(AuditError::Output),
            Self::Csv { writer, columns } => {
                if columns.is_empty() {
                    *columns = record.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
                    writer.write_record(&*columns)?;
                }
                Ok(writer.write_record(columns.iter().map(|column| cell(record.get(column))))?)
            }
        }
    }

    fn flush(&mut self) -> Result<(), AuditError> {
        match self {
            Self::Ndjson(output) => output.flush().map_err(AuditError::Output),
            Self::Csv { writer, .. } => writer.flush().map_err(AuditError::Output),
        }
    }
}

/// A spreadsheet takes a cell that begins so for a formula, and clients choose what some cells say (CWE-1236).
fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => format!("'{text}"),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

pub(super) fn run(arguments: &Arguments, connection: &Connection) -> Result<(), AuditError> {
    let mut api = AdminApi::open(connection)?;
    let bar = progress("{bar:40} {pos}/{len} records, {per_sec}, {eta} left");
    if !arguments.whose.own {
        bar.set_length(counted(&mut api, &arguments.which)?);
    }
    let mut sink = Sink::new(arguments.form, io::BufWriter::new(io::stdout().lock()));
    let mut cursor = arguments.cursor.clone();
    loop {
        let mut parameters = arguments.which.parameters();
        parameters.extend([("limit", Some(PAGE.to_owned())), ("cursor", cursor.clone())]);
        let page = block_on(api.json(Ask::get(&line(arguments.whose.records(), &parameters)))).inspect_err(|_error| {
            if let Some(cursor) = &cursor {
                eprintln!("broke off; go on with --cursor {cursor}");
            }
        })?;
        let records = page.get("records").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        records.iter().try_for_each(|record| sink.write(record))?;
        // What is told to be written is written.
        sink.flush()?;
        bar.inc(u64::try_from(records.len()).unwrap_or(0));
        match page.get("next_cursor").and_then(Value::as_str) {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn counted(api: &mut AdminApi, which: &Which) -> Result<u64, AuditError> {
    let count = block_on(api.json(Ask::get(&line(&format!("{PATH}/count"), &which.parameters()))))?;
    Ok(count.get("count").and_then(Value::as_u64).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn written(form: Form, records: &[Value]) -> String {
        let mut bytes = Vec::new();
        let mut sink = Sink::new(form, &mut bytes);
        records.iter().for_each(|record| sink.write(record).unwrap());
        sink.flush().unwrap();
        drop(sink);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn records_are_lines_and_cells() {
        let records =
            [json!({"id": "a-1", "checks": [{"check": "budget"}], "user_id": null}), json!({"id": "x,\"y\"\n", "user_id": "=1+1"})];
        let lines = written(Form::Ndjson, &records);
        assert!(lines.lines().zip(&records).all(|(line, record)| serde_json::from_str::<Value>(line).unwrap() == *record));
        assert_eq!(
            written(Form::Csv, &records),
            "checks,id,user_id\n\"[{\"\"check\"\":\"\"budget\"\"}]\",a-1,\n,\"x,\"\"y\"\"\n\",'=1+1\n"
        );
    }
}
