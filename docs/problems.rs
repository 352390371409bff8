//! What `problems.md` lists, for the tests that compare it with the code.

use std::collections::BTreeSet;

/// Status and slug of every row of a section's table. A row has one slug, and may have several statuses.
pub(crate) fn listed(section: &str) -> BTreeSet<(String, String)> {
    let page = include_str!("problems.md");
    let (_, rest) = page.split_once(&format!("\n## {section}\n")).unwrap_or_else(|| panic!("there is no section `{section}`"));
    let rows = rest.lines().take_while(|line| !line.starts_with("## ")).filter_map(|line| line.strip_prefix("| "));
    let entries = rows.filter(|row| !row.starts_with("status |")).flat_map(|row| {
        let (statuses, rest) = row.split_once(" | `").unwrap_or_else(|| panic!("a row without a slug: {row}"));
        let (slug, _) = rest.split_once("` | ").unwrap_or_else(|| panic!("a row with more than a slug: {row}"));
        statuses.split(", ").map(|status| (status.to_owned(), slug.to_owned()))
    });
    entries.collect()
}

/// The same of what code can send.
pub(crate) fn sent<'s, S: ToString>(problems: impl IntoIterator<Item = (S, &'s str)>) -> BTreeSet<(String, String)> {
    problems.into_iter().map(|(status, slug)| (status.to_string(), slug.to_owned())).collect()
}
