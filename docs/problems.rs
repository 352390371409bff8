//! What `problems.md` lists, for the tests that compare it with the code.

use std::collections::BTreeSet;

/// Status and slug of every row of a section's table. A row has one slug, and may have several statuses; another one stands for
/// itself, and is nothing that is sent.
pub(crate) fn listed(section: &str) -> BTreeSet<(String, String)> {
    let page = include_str!("problems.md");
    let rest = page.split_once(&format!("\n## {section}\n")).map_or("", |(_, rest)| rest);
    let rows = rest.lines().take_while(|line| !line.starts_with("## ")).filter_map(|line| line.strip_prefix("| "));
    let rows = rows.filter(|row| !row.starts_with("status |"));
    rows.flat_map(|row| {
        let parts = row.split_once(" | `").and_then(|(statuses, rest)| Some((statuses, rest.split_once("` | ")?.0)));
        let (statuses, slug) = parts.unwrap_or(("", row));
        statuses.split(", ").map(|status| (status.to_owned(), slug.to_owned()))
    })
    .collect()
}

/// The same of what code can send.
pub(crate) fn sent<'s, S: ToString>(problems: impl IntoIterator<Item = (S, &'s str)>) -> BTreeSet<(String, String)> {
    problems.into_iter().map(|(status, slug)| (status.to_string(), slug.to_owned())).collect()
}
