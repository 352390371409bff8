//! The table that the demo prints.

use super::stage::Row;

const HEADER: [&str; 6] = ["outcome", "request", "expected", "got", "check", "µs"];
/// Requests are cut here, in characters: a table that wraps is no table.
const REQUEST_WIDTH: usize = 44;

/// Renders the rows; what is not as expected is marked, and explained below its row.
pub(super) fn render(rows: &[Row]) -> String {
    let lines: Vec<[String; 6]> = rows.iter().map(cells).collect();
    let mut widths = HEADER.map(|title| title.chars().count());
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = written("  ", &HEADER.map(str::to_owned), widths);
    for (row, line) in rows.iter().zip(&lines) {
        text.push_str(&written(if row.fault.is_none() { "✓ " } else { "✗ " }, line, widths));
        if let Some(fault) = &row.fault {
            text.push_str(&format!("    {fault}\n"));
        }
    }
    text
}

fn cells(row: &Row) -> [String; 6] {
    let took = row.took.map(|took| took.as_micros().to_string()).unwrap_or_default();
    let [outcome, expected, got, check] = [&row.outcome, &row.expected, &row.got, &row.check].map(String::clone);
    [outcome, shortened(&row.request), expected, got, check, took]
}

fn shortened(request: &str) -> String {
    if request.chars().count() <= REQUEST_WIDTH {
        return request.to_owned();
    }
    let kept: String = request.chars().take(REQUEST_WIDTH - 1).collect();
    format!("{kept}…")
}

fn written(mark: &str, cells: &[String; 6], widths: [usize; 6]) -> String {
    let [outcome, request, expected, got, check, took] = cells;
    let [a, b, c, d, e, f] = widths;
    format!("{mark}{outcome:<a$}  {request:<b$}  {expected:>c$}  {got:>d$}  {check:<e$}  {took:>f$}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn columns_stand_under_each_other_and_faults_below_their_row() {
        let row = |outcome: &str, fault: Option<&str>| Row {
            outcome: outcome.to_owned(),
            request: "PP GET /a".to_owned(),
            expected: "200".to_owned(),
            got: "200".to_owned(),
            check: "production".to_owned(),
            took: Some(Duration::from_micros(1234)),
            fault: fault.map(str::to_owned),
        };
        let text = render(&[row("short", None), row("somewhat longer", Some("it was not"))]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "  outcome          request    expected  got  check         µs");
        assert_eq!(lines[1], "✓ short            PP GET /a       200  200  production  1234");
        assert_eq!(lines[3], "    it was not");
    }
}
