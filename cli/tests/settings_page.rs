//! `docs/running.md` lists the options of `plant-gateway run`, and the environment of all commands, as they are.
#![expect(clippy::panic, reason = "a test that cannot go on has failed")]

#[path = "../../docs/generated.rs"]
mod generated;
#[path = "../../docs/settings.rs"]
mod settings;

use clap::{Args as _, Command, Subcommand as _};
use std::any::TypeId;
use std::collections::BTreeMap;
use std::path::PathBuf;

const HOW: &str = "cargo test --package cli --test settings_page";

#[test]
fn the_page_has_every_option_of_run_and_every_variable() {
    let words = [(TypeId::of::<PathBuf>(), "path"), (TypeId::of::<u16>(), "number")];
    let run = cli::commands::run::Arguments::augment_args(Command::new("run"));
    generated::check("running.md", "plant-gateway run", &settings::table(&run, &words), HOW);

    let mut found = BTreeMap::new();
    variables(&cli::commands::Command::augment_subcommands(Command::new("plant-gateway")), "", &mut found);
    let mut table = "| variable | instead of | read by | default | meaning |\n|---|---|---|---|---|\n".to_owned();
    for (variable, (flag, (meaning, default), commands)) in &found {
        table.push_str(&format!("| `{variable}` | `--{flag}` | {} | {default} | {} |\n", commands.join(", "), generated::cell(meaning)));
    }
    generated::check("running.md", "plant-gateway environment", &table, HOW);
}

/// Variable; the flag that it stands for, what it means with its default, and which commands read it.
type Found = BTreeMap<String, (String, (String, String), Vec<String>)>;

fn variables(command: &Command, path: &str, found: &mut Found) {
    for argument in command.get_arguments() {
        let Some(variable) = argument.get_env() else { continue };
        let flag = argument.get_long().unwrap_or_default().to_owned();
        let entry = found.entry(variable.to_string_lossy().into_owned()).or_insert((flag, settings::meaning(argument), Vec::new()));
        entry.2.push(format!("`{}`", path.trim()));
    }
    // What is global is told once, where it is declared.
    for inner in command.get_subcommands() {
        variables(inner, &format!("{path} {}", inner.get_name()), found);
    }
}
