//! Answers of the admin API as tables, and the paths that ask for them.

use serde_json::Value;

use super::admin_api::{encoded, shown};

/// Columns: the heading, and the member that it shows.
pub(super) type Columns<const N: usize> = [(&'static str, &'static str); N];

/// A path with those parameters that are there.
pub(super) fn line(path: &str, parameters: &[(&str, Option<String>)]) -> String {
    let given = parameters.iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded(value.as_deref()?))));
    let query = given.collect::<Vec<_>>().join("&");
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

pub(super) fn members(answer: &Value, name: &str) -> Vec<Value> {
    answer.get(name).and_then(Value::as_array).cloned().unwrap_or_default()
}

pub(super) fn paged<const N: usize>(answer: &Value, name: &str, columns: &Columns<N>) -> Vec<String> {
    let mut lines = table(columns, &members(answer, name));
    if answer.get("next_cursor").is_some_and(|cursor| !cursor.is_null()) {
        lines.push(format!("more: --cursor {}", shown(answer, "next_cursor")));
    }
    lines
}

/// A heading and the rows, each column as wide as its widest cell.
pub(super) fn table<const N: usize>(columns: &Columns<N>, rows: &[Value]) -> Vec<String> {
    let heading: Vec<String> = columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
    let cells = rows.iter().map(|row| columns.iter().map(|(_, member)| shown(row, member)).collect());
    let all: Vec<Vec<String>> = std::iter::once(heading).chain(cells).collect();
    let mut widths = vec![0; N];
    for row in &all {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let text = |row: &Vec<String>| {
        let padded: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    all.iter().map(text).collect()
}
