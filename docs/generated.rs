//! Parts of the documentation that are made from the code, for the tests that make them: what stands between
//! `<!-- generated: NAME -->` and `<!-- end -->`.

use std::path::Path;

/// Compares a part with what the code says now; with `UPDATE_DOCS=1` writes it first. `how` is the test that does so.
///
/// # Panics
/// When they differ.
pub(crate) fn check(page: &str, name: &str, made: &str, how: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let begin = format!("<!-- generated: {name} -->\n");
    let parts = text.split_once(&begin).and_then(|(before, rest)| {
        let (part, after) = rest.split_once("<!-- end -->")?;
        Some((before, part, after))
    });
    let Some((before, part, after)) = parts else { panic!("docs/{page} has no `{}` with an end", begin.trim_end()) };
    let made = format!("\n{}\n\n", made.trim());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{begin}{made}<!-- end -->{after}"))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    } else {
        assert!(part == made, "`{name}` in docs/{page} is not what the code says: `UPDATE_DOCS=1 {how}`. It should be:\n{made}");
    }
}

/// A text as a cell of a table.
pub(crate) fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
