//! What is shipped in `deploy/observability/`: rules, dashboard, and what their templates show.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use cli::stack::repository;
use serde_json::Value;

/// A file of the directory.
pub(crate) fn path(name: &str) -> PathBuf {
    repository().join("deploy/observability").join(name)
}

/// A YAML or JSON file of it.
pub(crate) fn read(name: &str) -> Value {
    let text = fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    serde_norway::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A text below some members; empty if there is none.
pub(crate) fn text<'v>(value: &'v Value, member: &str) -> &'v str {
    value[member].as_str().unwrap_or_default()
}

/// An expression with the labels that its result has to have.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Where it stands.
    pub(crate) at: String,
    /// In PromQL.
    pub(crate) expression: String,
    /// What is shown of it.
    pub(crate) shown: BTreeSet<String>,
}

/// The groups of rules, each with its rules.
pub(crate) fn groups() -> Vec<(String, Vec<Value>)> {
    let rules = read("rules.yml");
    let groups = rules["groups"].as_array().unwrap();
    groups.iter().map(|group| (text(group, "name").to_owned(), group["rules"].as_array().unwrap().clone())).collect()
}

/// Every rule's expression.
pub(crate) fn of_rules() -> Vec<Asked> {
    let rules = groups().into_iter().flat_map(|(_, rules)| rules);
    rules
        .map(|rule| {
            let at = format!("rules.yml, {}{}", text(&rule, "record"), text(&rule, "alert"));
            let annotations = rule["annotations"].as_object().into_iter().flatten();
            let shown = annotations.flat_map(|(_, told)| labels_between(told.as_str().unwrap_or_default(), "$labels.")).collect();
            Asked { at, expression: text(&rule, "expr").to_owned(), shown }
        })
        .collect()
}

/// Every expression of the dashboard, its variables replaced as Grafana would.
pub(crate) fn of_dashboard() -> Vec<Asked> {
    let dashboard = read("grafana/dashboards/plant-gateway.json");
    let plain = |expression: &str| expression.replace("$__rate_interval", "1m").replace("$gateway", ".*");
    let mut asked = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let shown = labels_between(text(target, "legendFormat"), "{{");
            asked.push(Asked {
                at: format!("dashboard, {}", text(panel, "title")),
                expression: plain(text(target, "expr")),
                shown: shown.collect(),
            });
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap().iter().filter(|annotation| annotation["expr"].is_string()) {
        let at = format!("dashboard, annotation {}", text(annotation, "name"));
        asked.push(Asked { at, expression: plain(text(annotation, "expr")), shown: BTreeSet::new() });
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let query = text(&variable["query"], "query");
        let (metric, label) = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')')?.split_once(", "))
            .unwrap_or_else(|| panic!("{query}"));
        let at = format!("dashboard, variable {}", text(variable, "name"));
        asked.push(Asked { at, expression: metric.to_owned(), shown: BTreeSet::from([label.to_owned()]) });
    }
    asked
}

/// The names that follow a mark.
fn labels_between<'t>(text: &'t str, mark: &'t str) -> impl Iterator<Item = String> + use<'t> {
    let name = |rest: &str| {
        rest.trim_start().split(|character: char| !character.is_ascii_alphanumeric() && character != '_').next().map(str::to_owned)
    };
    text.split(mark).skip(1).filter_map(name)
}
