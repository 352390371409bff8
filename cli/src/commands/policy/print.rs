//! How results are printed: JSON as it came, text for people.

use authoring::PolicyFault;
use serde_json::{Value, json};

use crate::commands::admin_api::Format;
use crate::commands::terminal::escaped;

/// JSON on standard output; what others wrote does not steer the terminal.
pub(super) fn json(value: &Value) {
    println!("{}", escaped(&value.to_string()));
}

/// Text on standard output, likewise.
pub(super) fn text(text: &str) {
    println!("{}", escaped(text.trim_end_matches('\n')));
}

/// Text on standard error, beside a result that stands for itself.
pub(super) fn note(text: &str) {
    eprintln!("{}", escaped(text.trim_end_matches('\n')));
}

/// An answer, as it came or in words.
pub(super) fn answer(format: Format, answer: &Value, words: impl FnOnce(&Value) -> String) {
    match format {
        Format::Json => json(answer),
        Format::Text => text(&words(answer)),
    }
}

/// A fault of a policy.
pub(super) fn fault(fault: &PolicyFault) -> Value {
    json!({"valid": false, "fault": place(fault)})
}

/// Something that is wrong or odd, and where it stands.
pub(super) fn place(fault: &PolicyFault) -> Value {
    json!({"file": fault.file, "line": fault.line, "field": fault.field, "message": fault.message})
}

/// The members of a list, wherever the answer has it.
pub(super) fn entries<'v>(answer: &'v Value, member: &str) -> Vec<&'v Value> {
    let list = answer.as_array().or_else(|| answer.get(member).and_then(Value::as_array));
    list.into_iter().flatten().collect()
}
