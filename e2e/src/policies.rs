//! Policies for tests: a copy of the default one in which nothing is scarce but what the test is about.

use std::path::{Path, PathBuf};

use cli::stack::repository;

/// A copy of `policies/` under `home`, with the same caps and another budget.
///
/// # Errors
/// When it cannot be copied.
pub fn with_budget(home: &Path, budget: &str) -> std::io::Result<PathBuf> {
    let target = home.join("policies");
    copy(&repository().join("policies"), &target)?;
    let file = target.join("budgets.yaml");
    let budgets: String = std::fs::read_to_string(&file)?.lines().map(|line| roomy(line) + "\n").collect();
    std::fs::write(&file, budgets + budget)?;
    Ok(target)
}

/// A copy of `policies/` under `home` without budgets, but for those that count client addresses, which have room for
/// everybody; and with another file of its own.
///
/// # Errors
/// When it cannot be copied.
pub fn without_budgets(home: &Path, file: &str) -> std::io::Result<PathBuf> {
    let target = home.join("policies");
    copy(&repository().join("policies"), &target)?;
    let budgets = target.join("budgets.yaml");
    let text = std::fs::read_to_string(&budgets)?;
    // Every budget starts with a line of this indentation.
    let (head, entries) = text.split_once("\n  - name:").unwrap_or((&text, ""));
    let kept = entries.split("\n  - name:").filter(|entry| entry.contains("scope: client_address"));
    let kept: String = kept.map(|entry| format!("\n  - name:{entry}")).collect();
    let head = if kept.is_empty() { head.replace("budgets:", "budgets: []") } else { head.to_owned() };
    let text: String = format!("{head}{kept}").lines().map(|line| roomy(line) + "\n").collect();
    std::fs::write(&budgets, text)?;
    std::fs::write(target.join("routes/zz-test.yaml"), file)?;
    Ok(target)
}

/// A line of `budgets.yaml` with a cap that no test reaches.
fn roomy(line: &str) -> String {
    match line.split_once("cap:") {
        Some((indent, _)) if indent.trim().is_empty() => format!("{indent}cap: 4000000000"),
        Some(_) | None => line.to_owned(),
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (source, target) = {
            let entry = entry?;
            (entry.path(), to.join(entry.file_name()))
        };
        if source.is_dir() {
            copy(&source, &target)?;
        } else {
            std::fs::copy(&source, &target)?;
        }
    }
    Ok(())
}
