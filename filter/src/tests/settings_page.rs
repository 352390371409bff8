//! `docs/running.md` lists the fields of a listener's plugin configuration as they are.

use crate::settings::Document;
use schemars::schema_for;
use serde_json::Value;

#[path = "../../../docs/generated.rs"]
mod generated;

#[test]
fn the_page_has_every_field() {
    let schema = serde_json::to_value(schema_for!(Document)).unwrap();
    let required = |name: &str| schema["required"].as_array().unwrap().iter().any(|one| one == name);
    let mut table = "| field | value | default | meaning |\n|---|---|---|---|\n".to_owned();
    for (name, field) in schema["properties"].as_object().unwrap() {
        let default = match (&field["default"], required(name)) {
            (Value::String(text), _) => format!("`{text}`"),
            (other, _) if !other.is_null() => panic!("`{name}` has the default {other}: say how it is told"),
            (_, true) => "required".to_owned(),
            (_, false) => "none".to_owned(),
        };
        let (value, more) = match field["$ref"].as_str().and_then(|reference| schema.pointer(reference.strip_prefix('#')?)) {
            Some(choice) => choices(choice),
            None => ("text".to_owned(), String::new()),
        };
        let meaning = generated::cell(&format!("{}{more}", field["description"].as_str().unwrap()));
        table.push_str(&format!("| `{name}` | {value} | {default} | {meaning} |\n"));
    }
    generated::check("running.md", "plugin configuration", &table, "cargo test --package filter settings_page");
}

/// The values that may be given, and what each means.
fn choices(choice: &Value) -> (String, String) {
    let choices = choice["oneOf"].as_array().unwrap();
    let text = |one: &Value, member: &str| one[member].as_str().unwrap().to_owned();
    let names: Vec<String> = choices.iter().map(|one| format!("`{}`", text(one, "const"))).collect();
    let meanings = choices.iter().map(|one| format!(" `{}`: {}", text(one, "const"), text(one, "description")));
    (names.join(" or "), meanings.collect())
}
