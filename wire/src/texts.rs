//! How long the texts of a policy may be. Names stand in answers, records, metrics and index entries, and a wrong one is compared
//! with all that exist: what is as long as a file is no name.

use crate::policy::PolicyDocument;
use serde_norway::Value;

/// The longest name, and any text of which [`LONGER`] does not say otherwise.
pub const NAME_BYTES_MAX: usize = 128;

/// Fields that hold more than a name, and how much.
const LONGER: [(&str, usize); 16] = [
    ("include", 256),
    ("modules", 256),
    ("data", 256),
    // What a claim may hold.
    ("customers", 256),
    ("audiences", 256),
    ("scopes", 256),
    ("required_claims", 256),
    ("issuer", 256),
    ("scope", 256),
    ("detail", 512),
    ("path", 1_024),
    ("rewrite", 1_024),
    ("url", 2_048),
    ("problem_base", 1_024),
    ("upgrade_url", 2_048),
    ("kid", 256),
];

/// A text that is too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TooLong {
    /// Its field, as the YAML reader names fields: `routes[3].name`.
    pub(crate) field: String,
    /// Its length.
    pub(crate) bytes: usize,
    /// The longest that is allowed there.
    pub(crate) most: usize,
    /// How it begins, to find its line.
    pub(crate) beginning: String,
}

/// The first text of a document that is too long.
pub(crate) fn too_long(document: &PolicyDocument) -> Option<TooLong> {
    // A document that was read from YAML can be written as YAML.
    serde_norway::to_value(document).ok().and_then(|document| search(&document, "", NAME_BYTES_MAX))
}

fn search(value: &Value, field: &str, most: usize) -> Option<TooLong> {
    match value {
        Value::String(text) if text.len() > most => {
            let beginning = text.chars().take(NAME_BYTES_MAX / 4).collect();
            Some(TooLong { field: field.to_owned(), bytes: text.len(), most, beginning })
        }
        Value::Sequence(items) => items.iter().enumerate().find_map(|(index, item)| search(item, &format!("{field}[{index}]"), most)),
        Value::Mapping(members) => members.iter().find_map(|(key, value)| {
            let key = key.as_str()?;
            let field = if field.is_empty() { key.to_owned() } else { format!("{field}.{key}") };
            search(value, &field, most_of(key))
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Tagged(_) => None,
    }
}

fn most_of(key: &str) -> usize {
    LONGER.iter().find(|(longer, _)| *longer == key).map_or(NAME_BYTES_MAX, |(_, most)| *most)
}
