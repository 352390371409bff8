//! The JSON Schema of policy files (draft 2020-12), for editors and for people.

use schemars::generate::SchemaSettings;
use serde_json::Value;
use wire::policy::PolicyDocument;

/// The schema.
#[must_use]
pub fn value() -> Value {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<PolicyDocument>();
    let mut value = schema.to_value();
    if let Some(object) = value.as_object_mut() {
        object.insert("title".to_owned(), "Plant Gateway policy file".into());
    }
    value
}

/// The schema, as it is published: indented, with a line break at its end.
#[must_use]
pub fn text() -> String {
    format!("{:#}\n", value())
}
