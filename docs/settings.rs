//! Tables of settings, from what clap knows of them.

use clap::{Arg, ArgAction, Command};
use std::any::TypeId;

/// What operators call a type of values. A type that is not here needs a word.
pub(crate) type Words<'w> = &'w [(TypeId, &'static str)];

/// A table of all arguments of a command that have a long flag.
pub(crate) fn table(command: &Command, words: Words<'_>) -> String {
    let mut table = "| variable | flag | value | default | meaning |\n|---|---|---|---|---|\n".to_owned();
    for argument in command.get_arguments().filter(|argument| !["help", "version"].contains(&argument.get_id().as_str())) {
        let Some(flag) = argument.get_long() else { continue };
        let variable = argument.get_env().map_or("–".to_owned(), |name| format!("`{}`", name.to_string_lossy()));
        let (meaning, default) = meaning(argument);
        let value = value(command, argument, words);
        table.push_str(&format!("| {variable} | `--{flag}` | {value} | {default} | {} |\n", super::generated::cell(&meaning)));
    }
    table
}

/// The doc comment without the default that it tells; and the default.
pub(crate) fn meaning(argument: &Arg) -> (String, String) {
    let help = argument.get_long_help().or_else(|| argument.get_help()).map(ToString::to_string).unwrap_or_default();
    assert!(!help.is_empty(), "`{}` has no doc comment", argument.get_id());
    let (help, told) = match help.split_once(" [default: ") {
        Some((help, rest)) => (help.to_owned(), rest.split_once(']').map(|(told, _)| told.to_owned())),
        None => (help, None),
    };
    let quoted = |value: &std::ffi::OsStr| if value.is_empty() { "none".to_owned() } else { format!("`{}`", value.to_string_lossy()) };
    let values: Vec<String> = argument.get_default_values().iter().map(|value| quoted(value)).collect();
    let absent = match (argument.is_required_set(), argument.get_action()) {
        (true, _) => "required",
        (false, ArgAction::SetTrue) => "off",
        (false, _) => "none",
    };
    let given = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append) && !values.is_empty();
    let default = told.unwrap_or_else(|| if given { values.join(" ") } else { absent.to_owned() });
    (format!("{}.", help.trim_end_matches('.')), default)
}

/// What may be given, in words: by its type, by what its name says of it, and by what is refused.
fn value(command: &Command, argument: &Arg, words: Words<'_>) -> String {
    if matches!(argument.get_action(), ArgAction::SetTrue) {
        return "given or not".to_owned();
    }
    let parser = argument.get_value_parser();
    if let Some(values) = parser.possible_values() {
        let values: Vec<String> = values.map(|value| format!("`{}`", value.get_name())).collect();
        return values.join(" or ");
    }
    let known = words.iter().find(|(kind, _)| parser.type_id() == *kind).map(|(_, word)| *word);
    let Some(word) = known else { panic!("`{}` is of a type that operators have no word for yet: give it one", argument.get_id()) };
    let name = argument.get_id().as_str();
    match word {
        "path" if name.ends_with("_file") => "path of a file".to_owned(),
        "path" if name.ends_with("_dir") => "path of a directory".to_owned(),
        "path" if name.ends_with("_program") => "path of a program".to_owned(),
        "text" if name.ends_with("_url") => "URL".to_owned(),
        "number" => {
            let unit = if name.ends_with("_s") { "seconds" } else { "number" };
            format!("{unit}{}", bounds(command, argument))
        }
        word => word.to_owned(),
    }
}

/// The bounds of a number, which clap tells only to who breaks them.
fn bounds(command: &Command, argument: &Arg) -> String {
    let flag = format!("--{}=0", argument.get_long().unwrap_or_default());
    let Err(refused) = command.clone().try_get_matches_from([command.get_name(), flag.as_str()]) else { return String::new() };
    let refused = refused.to_string();
    let Some(bounds) = refused.lines().next().and_then(|line| line.split_once(" is not in ")).map(|(_, bounds)| bounds) else {
        return String::new();
    };
    match bounds.split_once("..=") {
        Some((from, "")) | Some((from, "65535" | "4294967295" | "18446744073709551615")) => format!(", {from} or more"),
        Some((from, to)) => format!(", {from} to {to}"),
        None => format!(", {} or more", bounds.split("..").next().unwrap_or(bounds)),
    }
}
