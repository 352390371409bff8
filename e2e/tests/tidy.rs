//! Rules of this repository that no compiler checks.
#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;

use cli::stack::repository;

#[path = "../../docs/problems.rs"]
mod page;

const LINES_MAX: usize = 600;

/// Files that are tracked, or will be with the next commit.
fn files() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(repository())
        .output()
        .expect("git is there: install it");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).expect("file names are UTF-8");
    let files: Vec<PathBuf> =
        names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).filter(|file| repository().join(file).is_file()).collect();
    assert!(files.len() > 50, "{} files", files.len());
    files
}

/// Its text; empty for what is no text.
fn text(file: &Path) -> String {
    std::fs::read(repository().join(file)).map(String::from_utf8).map(Result::unwrap_or_default).unwrap_or_default()
}

fn with_extension(extension: &str) -> Vec<PathBuf> {
    files().into_iter().filter(|file| file.extension().is_some_and(|found| found == extension)).collect()
}

#[test]
fn the_sdk_is_named_in_four_files() {
    const ALLOWED: [&str; 4] = ["filter/src/lib.rs", "filter/src/host.rs", "filter/src/root.rs", "filter/src/exchange.rs"];
    let others: Vec<PathBuf> = with_extension("rs")
        .into_iter()
        .filter(|file| !file.starts_with("e2e") && !ALLOWED.iter().any(|allowed| file == Path::new(allowed)))
        .filter(|file| text(file).contains("proxy_wasm"))
        .collect();
    assert!(others.is_empty(), "`proxy_wasm` belongs in {ALLOWED:?} only, and is in {others:?}");
}

#[test]
fn the_decision_core_stays_pure() {
    let manifest = text(Path::new("decision-core/Cargo.toml"));
    let dependencies = manifest.split_once("[dependencies]").map_or("", |(_, rest)| rest.split("\n[").next().unwrap_or_default());
    for forbidden in
        ["proxy-wasm", "serde", "tokio", "log", "tracing", "rand", "fastrand", "getrandom", "time", "chrono", "reqwest", "hyper"]
    {
        let named = dependencies.lines().any(|line| line.split(['.', ' ', '=']).next() == Some(forbidden));
        assert!(!named, "`decision-core` must not depend on `{forbidden}`");
    }
}

#[test]
fn files_that_the_documentation_names_exist() {
    let mut missing = Vec::new();
    for file in with_extension("md").into_iter().filter(|file| file.starts_with("docs") || file == Path::new("README.md")) {
        for name in text(&file).split('`').skip(1).step_by(2).filter(|name| is_path(name)) {
            if !repository().join(name).exists() {
                missing.push(format!("{}: `{name}`", file.display()));
            }
        }
    }
    assert!(missing.is_empty(), "no such files:\n{}", missing.join("\n"));
}

/// Whether a piece of code in a text is the path of one file of the repository: below a directory of ours, with an extension.
fn is_path(name: &str) -> bool {
    let plain = |character: char| character.is_ascii_alphanumeric() || "._-/".contains(character);
    // Made by a build or a run, so not there in a fresh clone.
    let made = ["target/", ".tools/", ".run/", "bench/results/"];
    let first = name.split('/').next().unwrap_or_default();
    name.contains('/')
        && name.chars().all(plain)
        && !made.iter().any(|folder| name.starts_with(folder))
        && repository().join(first).is_dir()
        && !first.is_empty()
        && Path::new(name).extension().is_some()
}

/// What clap reads is put there by tests of the crates; this is about the rest.
#[test]
fn every_variable_that_a_program_reads_is_on_the_page_of_settings() {
    let page = text(Path::new("docs/running.md"));
    let programs = ["cli/src", "control-plane/src", "filter/src"];
    let sources = with_extension("rs").into_iter().filter(|file| programs.iter().any(|program| file.starts_with(program)));
    let mut missing = Vec::new();
    for file in sources {
        let text = text(&file);
        for call in ["env::var(\"", "env::var_os(\"", "variable(\""] {
            let names = text.split(call).skip(1).filter_map(|rest| rest.split('"').next());
            missing.extend(names.filter(|name| !page.contains(&format!("`{name}`"))).map(|name| format!("{}: {name}", file.display())));
        }
    }
    assert!(missing.is_empty(), "not in docs/running.md: {missing:?}");
}

/// What Envoy answers by itself has its form from `local_reply_config`: the first entry that matches counts.
#[test]
fn the_page_of_problems_lists_what_envoy_sends_and_nothing_else() {
    let bootstrap = text(Path::new("envoy/bootstrap.yaml"));
    let entries = bootstrap.split("- filter: {").filter_map(|entry| {
        let (matched, reply) = entry.split_once("type: https://waooaw.com/errors/")?;
        let number = |before: &str| {
            let digits = matched.split_once(before)?.1.split(|character: char| !character.is_ascii_digit()).next()?;
            (!digits.is_empty()).then_some(digits)
        };
        let by_flag = matched.contains("response_flag_filter").then_some("503");
        let of_status = number("\n                    status_code: ").or(number("op: EQ, value: { default_value: ")).or(by_flag);
        Some((of_status.unwrap_or("other"), reply.lines().next()?))
    });
    assert_eq!(page::listed("From Envoy itself"), page::sent(entries));
}

#[test]
fn migrations_are_numbered_without_gaps() {
    let mut numbers: Vec<u32> = with_extension("sql")
        .iter()
        .filter(|file| file.starts_with("migrations"))
        .map(|file| {
            file.file_name().and_then(|name| name.to_str()?.split_once('_')?.0.parse().ok()).unwrap_or_else(|| panic!("{}", file.display()))
        })
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=u32::try_from(numbers.len()).unwrap()).collect::<Vec<_>>());
}

#[test]
fn no_source_file_is_too_long() {
    let long: Vec<String> = with_extension("rs")
        .iter()
        .map(|file| (file, text(file).lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(file, lines)| format!("{} has {lines} lines", file.display()))
        .collect();
    assert!(long.is_empty(), "more than {LINES_MAX} lines: {long:?}");
}

#[test]
fn no_private_key_is_tracked() {
    let kind = |text: &str| text.len() <= 12 && text.chars().all(|character| character == ' ' || character.is_ascii_uppercase());
    let holds_key = |file: &PathBuf| {
        text(file).split("-----BEGIN ").skip(1).any(|rest| rest.split_once("PRIVATE KEY-----").is_some_and(|(before, _)| kind(before)))
    };
    let found: Vec<PathBuf> = files().into_iter().filter(holds_key).collect();
    assert!(found.is_empty(), "private keys in {found:?}");
}

/// From here on releases exist that an upgrade replaces while they serve: an old replica must find what it knows.
const FIRST_ADDING_MIGRATION: &str = "0014";

#[test]
fn migrations_only_add() {
    const TAKES_AWAY: [&str; 9] =
        ["DROP TABLE", "DROP COLUMN", "DROP VIEW", "DROP FUNCTION", "RENAME", "SET NOT NULL", " TYPE ", "TRUNCATE", "DELETE FROM"];
    let adding = |file: &PathBuf| {
        file.starts_with("migrations") && file.file_name().is_some_and(|name| name.to_string_lossy().as_ref() > FIRST_ADDING_MIGRATION)
    };
    let mut looked_at = 0;
    for file in with_extension("sql").into_iter().filter(adding) {
        looked_at += 1;
        let sql: String = text(&file).lines().map(|line| line.split("--").next().unwrap_or_default().to_uppercase() + "\n").collect();
        let found: Vec<&str> = TAKES_AWAY.into_iter().filter(|words| sql.contains(words)).collect();
        assert!(
            found.is_empty(),
            "{} takes away: {found:?}; an old replica still needs it. Add now, take away a release later",
            file.display()
        );
        let not_null = sql.split(';').filter(|statement| statement.contains("ADD COLUMN") && statement.contains("NOT NULL"));
        for statement in not_null {
            assert!(statement.contains("DEFAULT"), "{}: an old replica does not fill in{statement}", file.display());
        }
    }
    assert!(looked_at > 0, "no migration from {FIRST_ADDING_MIGRATION} on");
}

#[test]
fn images_are_pinned_in_one_place() {
    let pins = text(Path::new("deploy/compose/images.env"));
    let compose = text(Path::new("docker-compose.yml"));
    let mut used = 0;
    for (name, image) in pins.lines().filter_map(|line| line.split_once('=')).filter(|(name, _)| !name.starts_with('#')) {
        assert!(!image.ends_with(":latest") || image.starts_with("plant-gateway/"), "{name}: {image} is not pinned");
        let Some((_, default)) = compose.split_once(&format!("${{{name}:-")) else { continue };
        used += 1;
        assert_eq!(default.split('}').next(), Some(image), "docker-compose.yml has another {name}");
    }
    assert!(used >= 7, "{used} images in docker-compose.yml");
    for file in std::fs::read_dir(repository().join("deploy/docker")).expect("Dockerfiles").filter_map(Result::ok).map(|entry| entry.path())
    {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        for (name, image) in
            text.lines().filter_map(|line| line.strip_prefix("ARG ")?.split_once('=')).filter(|(name, _)| name.ends_with("_IMAGE"))
        {
            let pin = pins.lines().find_map(|line| line.strip_prefix(&format!("{name}="))).expect("an image that is pinned");
            assert!(pin == image || pin == format!("{image}:latest"), "{} has another {name}", file.display());
        }
    }
    let envoy = pins.lines().find_map(|line| line.strip_prefix("ENVOY_IMAGE=")).expect("Envoy's image");
    assert!(text(Path::new("cli/src/stack/envoy.rs")).contains(&format!("\"{envoy}\"")), "the stack starts another Envoy than {envoy}");
}

/// `make native` runs every test target but those that begin with `e`, and `make e2e` the two that do.
#[test]
fn every_test_target_is_run_by_make() {
    let mut targets = 0;
    for crate_directory in std::fs::read_dir(repository()).expect("the repository").filter_map(Result::ok) {
        let Ok(tests) = std::fs::read_dir(crate_directory.path().join("tests")) else { continue };
        for path in tests.filter_map(Result::ok).map(|entry| entry.path()) {
            let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
            let target = path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").exists();
            assert!(!target || !name.starts_with('e') || ["echo", "envoy"].contains(&name), "nothing runs {}", path.display());
            targets += usize::from(target);
        }
    }
    assert!(targets > 20, "{targets} test targets");
}

/// Without `.cargo` the filter would be another: its flags bound its memory and its size.
#[test]
fn docker_compiles_from_all_that_cargo_reads() {
    let allowed = text(Path::new(".dockerignore"));
    let manifest = text(Path::new("Cargo.toml"));
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = [")).expect("the workspace's members");
    let members = members.split('"').skip(1).step_by(2);
    for name in members.chain([".cargo", "Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "migrations", "policies"]) {
        assert!(allowed.lines().any(|line| line.strip_prefix('!') == Some(name)), "`.dockerignore` leaves out `{name}`");
    }
}

#[test]
fn only_gateways_and_the_admin_api_are_published_and_on_loopback() {
    let compose = text(Path::new("docker-compose.yml"));
    let services = compose.split_once("\nservices:\n").map_or("", |(_, rest)| rest.split("\nnetworks:").next().unwrap_or_default());
    for service in services.split("\n\n").filter(|service| service.contains("ports:")) {
        let name = service.lines().map(str::trim).find(|line| line.ends_with(':') && !line.starts_with('#')).unwrap_or_default();
        let published: Vec<&str> =
            service.split('"').filter(|text| text.contains(":${") && text.ends_with(|last: char| last.is_ascii_digit())).collect();
        assert!(published.iter().all(|port| port.starts_with("127.0.0.1:")), "{name} {published:?}");
        assert!(name == "envoy:" || service.contains("profiles:"), "{name} publishes {published:?}");
        assert!(!published.is_empty(), "{name} publishes something that this test does not see");
    }
}
