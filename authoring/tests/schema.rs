//! The published JSON Schema: it is current, every file of the default policy keeps to it, and what the reader refuses it
//! refuses too.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod default;

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;

fn schema() -> Value {
    serde_json::from_str(&authoring::schema::text()).unwrap()
}

/// `UPDATE_SCHEMA=1` writes it anew.
#[test]
fn the_published_schema_is_current() {
    let file = default::folder().join("schema.json");
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(&file, authoring::schema::text()).unwrap();
    }
    let published = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        published == authoring::schema::text(),
        "policies/schema.json is not what the types say: `UPDATE_SCHEMA=1 cargo test -p authoring`"
    );
}

#[test]
fn every_file_of_the_default_policy_keeps_to_it() {
    let schema = schema();
    for (name, text) in default::candidate().files.iter().filter(|(name, _)| name.ends_with(".yaml")) {
        let value: Value = serde_norway::from_str(text).unwrap();
        assert_eq!(problem(&schema, &schema, &value, name), None);
    }
}

/// `docs/policy-reference.md` has a table of fields in each of these sections.
#[test]
fn the_reference_names_every_field_and_no_other() {
    let schema = schema();
    let page = fs::read_to_string(default::folder().join("../docs/policy-reference.md")).unwrap();
    let sections: [(&str, &[(&str, &str)]); 8] = [
        ("`settings`", &[("", "Settings")]),
        (
            "`approvals`, `routing` and `failure_modes`",
            &[("approvals.", "Approvals"), ("routing.", "Routing"), ("failure_modes.", "FailureModes")],
        ),
        ("`flags`", &[("", "Flag")]),
        ("`rules`", &[("", "Rules")]),
        ("`issuers` and `registration_keys`", &[("", "Issuer")]),
        ("`routes`", &[("", "Route")]),
        ("`budgets`", &[("", "Budget")]),
        ("`audit`", &[("", "Audit")]),
    ];
    for (title, types) in sections {
        let section = page.split("\n## ").find_map(|section| section.strip_prefix(&format!("{title}\n"))).unwrap();
        let table = section.lines().skip_while(|line| !line.starts_with("| field |")).skip(2).take_while(|line| line.starts_with("| "));
        let named: BTreeSet<String> =
            table.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2).map(str::to_owned)).collect();
        let fields = types.iter().flat_map(|(prefix, name)| {
            let properties = schema["$defs"][name]["properties"].as_object().unwrap();
            properties.keys().map(move |field| format!("{prefix}{field}"))
        });
        assert_eq!(named, fields.collect(), "{title}");
    }
}

#[test]
fn what_the_reader_refuses_it_refuses() {
    let schema = schema();
    for (text, at) in [
        ("rolez: []", "rolez"),
        ("roles: [{ name: a }]", "roles[0]"),
        ("roles: [{ name: a, permissions: [], permisions: [] }]", "permisions"),
        ("settings: { no_route_status: many }", "settings"),
        ("audit: { request_header: [a] }", "request_header"),
        ("audit: { identities: secret }", "identities"),
        ("routes: [{ name: a, gateways: [PP], methods: [GET], path: /a, require: public, audit: never }]", "audit"),
        ("routes: [{ name: a, gateways: [PP], methods: [GET], path: /a, require: public, audit: { sample: 2 } }]", "audit"),
        ("flags: [{ name: a, default: yess }]", "flags[0].default"),
        ("routes: [{ name: a, gateways: [PQ], methods: [GET], path: /a, require: public }]", "routes[0].gateways[0]"),
        ("routes: [{ name: a, gateways: [PP], methods: [GET], path: /a, require: public, ownership: { in: header } }]", "ownership"),
    ] {
        assert!(serde_norway::from_str::<wire::policy::PolicyDocument>(text).is_err(), "{text}");
        let value: Value = serde_norway::from_str(text).unwrap();
        let found = problem(&schema, &schema, &value, "").unwrap_or_else(|| panic!("{text} keeps to the schema"));
        assert!(found.contains(at), "{found}");
    }
}

/// The first thing at which `value` does not keep to `schema`: the keywords that ours has, and no others.
fn problem(root: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    let Value::Object(keywords) = schema else { return None };
    let known = [
        "$schema",
        "$defs",
        "$ref",
        "title",
        "description",
        "type",
        "properties",
        "additionalProperties",
        "required",
        "items",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "default",
        "format",
        "minimum",
        "maximum",
        "examples",
    ];
    assert!(keywords.keys().all(|keyword| known.contains(&keyword.as_str())), "{at}: a keyword that this test does not know: {keywords:?}");
    if let Some(reference) = keywords.get("$ref").and_then(Value::as_str) {
        let target = root.pointer(reference.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("{reference} is not there"));
        return problem(root, target, value, at);
    }
    for any in ["anyOf", "oneOf"] {
        let Some(choices) = keywords.get(any).and_then(Value::as_array) else { continue };
        let problems: Vec<_> = choices.iter().map(|choice| problem(root, choice, value, at)).collect();
        if problems.iter().all(Option::is_some) {
            return problems.into_iter().next().flatten();
        }
    }
    let wrong = |what: &str| Some(format!("{at}: {what}: {value}"));
    if keywords.get("enum").and_then(Value::as_array).is_some_and(|known| !known.contains(value)) {
        return wrong("not one of the values");
    }
    if keywords.get("const").is_some_and(|known| known != value) {
        return wrong("not the value");
    }
    let types: Vec<&str> = match keywords.get("type") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.iter().any(|name| is(name, value)) {
        return wrong("not of the type");
    }
    members(root, schema, value, at)
}

fn members(root: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    match value {
        Value::Object(members) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            if let Some(missing) = required.into_iter().find(|name| !members.contains_key(*name)) {
                return Some(format!("{at}: `{missing}` is missing"));
            }
            members.iter().find_map(|(name, member)| match schema["properties"].get(name) {
                Some(property) => problem(root, property, member, &format!("{at}.{name}")),
                None => (schema["additionalProperties"] == false).then(|| format!("{at}.{name}: there is no such field")),
            })
        }
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| problem(root, &schema["items"], item, &format!("{at}[{index}]")))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn is(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("a type that this test does not know: {other}"),
    }
}
